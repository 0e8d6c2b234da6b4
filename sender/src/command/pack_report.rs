//! What there is to say about a pack: its images, what they share, and what one combined pass saves. As tables and as JSON.

use std::fmt::Write as _;
use std::io::Write as _;

use image::manifest::Content;
use image::{Codec, Manifest, Pack};
use indicatif::BinaryBytes;
use serde::Serialize;

/// Everything that `discus inspect` shows.
#[derive(Serialize)]
pub(crate) struct PackReport {
    path: String,
    root: String,
    /// The public key of the signature; whether to trust it is another question.
    signed_by: Option<String>,
    chunk_pages: u32,
    images: Vec<ImageReport>,
    segments: Vec<SegmentReport>,
    total: Totals,
    /// What was remarked about the sources while packing; not known of a pack that exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<Vec<Note>>,
}

/// A remark about the source of an image.
#[derive(Serialize)]
pub(crate) struct Note {
    pub(crate) image: String,
    pub(crate) note: String,
}

#[derive(Serialize)]
struct ImageReport {
    name: String,
    kind: &'static str,
    logical_bytes: u64,
    used_bytes: u64,
    zero_bytes: u64,
    hole_bytes: u64,
    /// After deduplication, before compression.
    unique_bytes: u64,
    stored_bytes: u64,
    chunks: u32,
    /// Runs at the target that are written in one piece.
    data_extents: usize,
    /// Of these, how many there are in a GiB of data: 2048 would be 512 KiB each.
    data_extents_per_gib: f64,
    /// All extents, zeros and holes too.
    extents: usize,
    manifest_bytes: usize,
}

#[derive(Serialize)]
struct SegmentReport {
    first_chunk: u32,
    chunks: u32,
    raw_bytes: u64,
    stored_bytes: u64,
    images: Vec<String>,
}

#[derive(Serialize)]
struct Totals {
    logical_bytes: u64,
    used_bytes: u64,
    unique_bytes: u64,
    stored_bytes: u64,
    file_bytes: u64,
    chunks: usize,
    compressed_chunks: usize,
    /// Chunks that are not full: the last one of each segment.
    short_chunks: usize,
    /// Chunks less than half full.
    half_empty_chunks: usize,
    /// Their share of all chunks.
    half_empty_share: f64,
    data_extents_per_gib: f64,
    /// What goes over the wire when every image is sent once, together.
    combined_bytes: u64,
    /// The same, each image on its own.
    separate_bytes: u64,
}

impl PackReport {
    pub(crate) fn of(pack: &Pack) -> image::Result<Self> {
        let images = pack.images().iter().enumerate().map(|(index, info)| {
            let manifest = pack.manifest(index)?;
            let data_extents = data_extents(&manifest);
            Ok(ImageReport {
                name: info.name.clone(),
                kind: info.kind.name(),
                logical_bytes: info.logical_bytes,
                used_bytes: info.used_bytes,
                zero_bytes: info.zero_bytes,
                hole_bytes: info.hole_bytes,
                unique_bytes: info.unique_bytes,
                stored_bytes: info.stored_bytes,
                chunks: info.chunks,
                data_extents,
                data_extents_per_gib: per_gib(data_extents, info.used_bytes),
                extents: manifest.extents().len(),
                manifest_bytes: pack.manifest_section(index)?.len(),
            })
        });
        let images = images.collect::<image::Result<Vec<_>>>()?;
        let segments = pack.segments().iter().map(|segment| {
            let chunks = &pack.chunks()[segment.first_chunk.index()..][..segment.chunks as usize];
            SegmentReport {
                first_chunk: segment.first_chunk.0,
                chunks: segment.chunks,
                raw_bytes: chunks.iter().map(|chunk| u64::from(chunk.raw_bytes)).sum(),
                stored_bytes: chunks.iter().map(|chunk| u64::from(chunk.stored_bytes)).sum(),
                images: segment.images.iter().map(|image| pack.images()[image].name.clone()).collect(),
            }
        });
        let segments: Vec<SegmentReport> = segments.collect();
        let full_bytes = pack.chunk_pages() as usize * image::PAGE_BYTES;
        let raw_below = |bytes: usize| pack.chunks().iter().filter(|chunk| (chunk.raw_bytes as usize) < bytes).count();
        let half_empty_chunks = raw_below(full_bytes.div_ceil(2));
        let stored_bytes = segments.iter().map(|segment| segment.stored_bytes).sum();
        let total = Totals {
            logical_bytes: images.iter().map(|image| image.logical_bytes).sum(),
            used_bytes: images.iter().map(|image| image.used_bytes).sum(),
            unique_bytes: segments.iter().map(|segment| segment.raw_bytes).sum(),
            stored_bytes,
            file_bytes: std::fs::metadata(pack.path()).map_or(0, |metadata| metadata.len()),
            chunks: pack.chunks().len(),
            compressed_chunks: pack.chunks().iter().filter(|chunk| chunk.codec != Codec::None).count(),
            short_chunks: raw_below(full_bytes),
            half_empty_chunks,
            half_empty_share: half_empty_chunks as f64 / pack.chunks().len().max(1) as f64,
            data_extents_per_gib: per_gib(
                images.iter().map(|image: &ImageReport| image.data_extents).sum(),
                images.iter().map(|image| image.used_bytes).sum(),
            ),
            combined_bytes: stored_bytes,
            separate_bytes: images.iter().map(|image| image.stored_bytes).sum(),
        };
        let root = pack.root().iter().fold(String::new(), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let signed_by = pack.proof().signed_by().map(|key| key.to_string());
        Ok(Self {
            path: pack.path().display().to_string(),
            root,
            signed_by,
            chunk_pages: pack.chunk_pages(),
            images,
            segments,
            total,
            notes: None,
        })
    }

    /// The same with remarks about the sources.
    pub(crate) fn with_notes(self, notes: Vec<Note>) -> Self {
        Self { notes: Some(notes), ..self }
    }

    pub(crate) fn print(&self, json: bool) -> anyhow::Result<()> {
        let text = if json { serde_json::to_string_pretty(self)? + "\n" } else { self.tables() };
        match std::io::stdout().write_all(text.as_bytes()) {
            // Whoever reads it, `head` perhaps, has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        }
    }

    fn tables(&self) -> String {
        let size = |bytes: u64| BinaryBytes(bytes).to_string();
        let mut images = vec![row(["IMAGE", "KIND", "LOGICAL", "USED", "UNIQUE", "STORED", "CHUNKS", "EXTENTS", "PER GIB"])];
        images.extend(self.images.iter().map(|image| {
            let sizes = [image.logical_bytes, image.used_bytes, image.unique_bytes, image.stored_bytes].map(size);
            let mut cells = vec![image.name.clone(), image.kind.to_owned()];
            cells.extend(sizes);
            cells.extend([image.chunks.to_string(), image.data_extents.to_string(), format!("{:.0}", image.data_extents_per_gib)]);
            cells
        }));
        let total = &self.total;
        let mut cells = vec!["all".to_owned(), String::new()];
        cells.extend([total.logical_bytes, total.used_bytes, total.unique_bytes, total.stored_bytes].map(size));
        cells.extend([total.chunks.to_string(), String::new(), format!("{:.0}", total.data_extents_per_gib)]);
        images.push(cells);

        let mut segments = vec![row(["SEGMENT", "CHUNKS", "UNIQUE", "STORED", "WANTED BY"])];
        segments.extend(self.segments.iter().enumerate().map(|(index, segment)| {
            let wanted_by = match segment.images.len() {
                all if all == self.images.len() && all > 1 => format!("all {all}"),
                _ => segment.images.join(", "),
            };
            vec![index.to_string(), segment.chunks.to_string(), size(segment.raw_bytes), size(segment.stored_bytes), wanted_by]
        }));

        let saved_bytes = total.separate_bytes.saturating_sub(total.combined_bytes);
        let percent = 100.0 * saved_bytes as f64 / total.separate_bytes.max(1) as f64;
        let [combined, separate, saved] = [total.combined_bytes, total.separate_bytes, saved_bytes].map(size);
        format!(
            "{} ({}, root {}, {})\n\n{}\n{}\none combined pass sends {combined}; separate transfers send {separate}; {saved} saved ({percent:.1} %)\n\
             {} of {} chunks are less than half full ({:.1} %)\n",
            self.path,
            size(total.file_bytes),
            self.root,
            self.signed_by.as_ref().map_or_else(|| "not signed".to_owned(), |key| format!("signed by {key}")),
            table(&images, 2),
            table(&segments, 1),
            total.half_empty_chunks,
            total.chunks,
            100.0 * total.half_empty_share,
        )
    }
}

/// Extents that are data; those that lie one after the other at the target and in different chunks are one write after the other.
fn data_extents(manifest: &Manifest) -> usize {
    manifest.extents().iter().filter(|extent| matches!(extent.content, Content::Data { .. })).count()
}

fn per_gib(extents: usize, bytes: u64) -> f64 {
    extents as f64 / (bytes.max(1) as f64 / f64::from(1 << 30))
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// Columns as wide as their widest cell; those after the first `left` and before the last are aligned to the right, as is the last when it is
/// a number.
fn table(rows: &[Vec<String>], left: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let is_number = |cell: &String| cell.is_empty() || cell.starts_with(|first: char| first.is_ascii_digit());
    let numbers: Vec<bool> = (0..columns).map(|column| column >= left && rows.iter().skip(1).all(|row| is_number(&row[column]))).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            // Writing to a string cannot fail.
            let _ = if numbers[column] { write!(line, "{cell:>width$}  ") } else { write!(line, "{cell:<width$}  ") };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_aligned_to_the_right() {
        let rows = [row(["NAME", "SIZE"]), row(["a", "1 KiB"]), row(["long", "20 KiB"])];
        assert_eq!(table(&rows, 1), "NAME    SIZE\na      1 KiB\nlong  20 KiB\n");
    }
}
