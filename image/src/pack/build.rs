//! Making a pack, in two passes over the sources. The first finds for every page which images want it; from that follow the
//! segments and the chunk ids. In the second each page goes, where it appears first, to the open chunk of its segment.
//!
//! Memory: the page index (at most 24 bytes per unique page), one open chunk (256 KiB) per segment that is being filled, 32 bytes per extent
//! of the manifests, the entries of trees, and queues of a few MiB per thread; nothing else grows with the images.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use crossbeam_channel::bounded;

use super::body::{BodyBuilder, ByteCounts};
use super::chunk_buffer::Spare;
use super::chunk_file::ChunkFile;
use super::compress::{self, Compression, Earlier, Written};
use super::fill::ChunkFiller;
use super::records::ChunkRecord;
use super::request::{check_parameters, refuse_own_source};
use super::scan::{Batch, PerBatch, scan};
use super::sections;
use crate::dedup::{ImageSets, Layout, PageHasher, PageIndex, SetCache};
use crate::manifest::{Body, check_image_name};
use crate::partial_file::PartialFile;
use crate::signature::SecretKey;
use crate::source::{self, Source, SourceOptions};
use crate::{CHUNK_PAGES_DEFAULT, Codec, Error, PAGE_BYTES, Pack, Progress, Result, Stage};

/// One image to be packed.
#[derive(Clone, Debug)]
pub struct ImageSpec {
    /// The name that receivers ask for.
    pub name: String,
    /// A disk image, a block device or a directory.
    pub path: PathBuf,
}

/// How to pack.
#[derive(Clone, Debug)]
pub struct PackOptions {
    /// Pages of a full chunk: 1 to 1024.
    pub chunk_pages: u32,
    /// How chunks and sections are compressed. A chunk that would shrink by less than 2 % is stored as it is.
    pub codec: Codec,
    /// The zstd level.
    pub level: i32,
    /// Replace an existing file.
    pub force: bool,
    /// Threads that hash, and threads that compress. 0: as many as there are cores.
    pub threads: usize,
    /// Signs the pack.
    pub key: Option<Arc<SecretKey>>,
    /// How sources are read.
    pub source: SourceOptions,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self {
            chunk_pages: CHUNK_PAGES_DEFAULT,
            codec: Codec::Zstd,
            level: 3,
            force: false,
            threads: 0,
            key: None,
            source: SourceOptions::default(),
        }
    }
}

/// One image whose source is open already.
pub struct PreparedImage {
    /// The name that receivers ask for.
    pub name: String,
    /// What it is made from.
    pub source: Box<dyn Source>,
}

impl PreparedImage {
    /// Opens the source of an image.
    ///
    /// # Errors
    /// When it cannot be packed, or the name is none.
    pub fn open(image: &ImageSpec, options: SourceOptions) -> Result<Self> {
        check_image_name(&image.name)?;
        Ok(Self { name: image.name.clone(), source: source::open(&image.path, options)? })
    }
}

/// Packs `images` into the file `output`, which appears when it is complete, and opens it.
///
/// # Errors
/// When a source cannot be read or changes meanwhile, or the pack cannot be written. Nothing is left behind then.
pub fn build(images: &[ImageSpec], output: &Path, options: &PackOptions, progress: &Progress) -> Result<Pack> {
    let prepared = images.iter().map(|image| PreparedImage::open(image, options.source)).collect::<Result<Vec<_>>>()?;
    build_prepared(prepared, output, options, progress)
}

/// As [`build()`], from sources that are open.
///
/// # Errors
/// As [`build()`].
pub fn build_prepared(images: Vec<PreparedImage>, output: &Path, options: &PackOptions, progress: &Progress) -> Result<Pack> {
    refuse_own_source(images.iter().map(|image| image.source.path()), output)?;
    build_with(images, output, options, None, progress)
}

/// As [`build_prepared`]; chunks that `earlier` has are copied from it.
pub(super) fn build_with(
    images: Vec<PreparedImage>,
    output: &Path,
    options: &PackOptions,
    earlier: Option<&Earlier<'_>>,
    progress: &Progress,
) -> Result<Pack> {
    let (names, mut sources): (Vec<String>, Vec<Box<dyn Source>>) = images.into_iter().map(|image| (image.name, image.source)).unzip();
    check_parameters(&names, options)?;
    let file = PartialFile::create(output, options.force)?;
    let threads = match options.threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let mut seed = [0; 32];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()).map_err(Error::io("taking random bytes for", output))?;
    let builder = Builder { options, threads, hasher: PageHasher::new(seed), index: PageIndex::new(), earlier, progress };
    let total_bytes = sources.iter().map(|source| source.estimated_bytes()).sum();

    progress.start(Stage::Index, total_bytes);
    let (sets, checksums) = builder.first_pass(&mut sources)?;
    progress.start(Stage::Store, total_bytes);
    let sets = sets.into_sets();
    let pages_per_set = builder.index.pages_per_set(sets.len());
    let mut layout = Layout::new(sets, &pages_per_set, options.chunk_pages)?;
    let stored = builder.second_pass(&mut sources, &checksums, &mut layout, &file)?;
    progress.start(Stage::Finish, 0);
    let Stored { records, data_end, bodies } = stored;
    let content = sections::Content {
        names: &names,
        chunk_pages: options.chunk_pages,
        codec: options.codec,
        segments: layout.segments(),
        records,
        data_end,
        key: options.key.as_deref(),
        bodies,
    };
    sections::write(&file, content)?;
    file.commit()?;
    Pack::open(output)
}

struct Builder<'a> {
    options: &'a PackOptions,
    threads: usize,
    hasher: PageHasher,
    index: PageIndex,
    earlier: Option<&'a Earlier<'a>>,
    progress: &'a Progress,
}

/// What the second pass leaves for the sections.
struct Stored {
    records: Vec<ChunkRecord>,
    data_end: u64,
    bodies: Vec<(Body, ByteCounts)>,
}

/// A checksum over the data pages of an image and their order, to notice that an image changed between the passes. Pages are added in
/// any order, since several threads hash them.
fn checksum(batch: &Batch) -> u128 {
    let numbered = (batch.first_page_number..).zip(&batch.keys);
    numbered.fold(0, |sum: u128, (number, key)| {
        let key = key.map_or(1, |key| key.as_u128());
        sum.wrapping_add(key.wrapping_mul(u128::from(number) * 2 + 1))
    })
}

impl Builder<'_> {
    /// Fills the index. Returns the sets it refers to, and a checksum per image.
    fn first_pass(&self, sources: &mut [Box<dyn Source>]) -> Result<(ImageSets, Vec<u128>)> {
        let sets = ImageSets::default();
        let mut checksums = Vec::new();
        for (image, source) in sources.iter_mut().enumerate() {
            let sum = Mutex::new(0u128);
            let worker = |_| -> Box<PerBatch<'_>> {
                let mut cache = SetCache::new(&sets, image);
                let (index, sum) = (&self.index, &sum);
                Box::new(move |batch| {
                    for key in batch.keys.iter().flatten() {
                        index.want(*key, |set| set.map_or(cache.single(), |set| cache.with_image(set)));
                    }
                    let mut sum = sum.lock().map_err(|_| Error::Stopped)?;
                    *sum = sum.wrapping_add(checksum(batch));
                    Ok(())
                })
            };
            let workers = (0..self.threads).map(worker).collect();
            scan(source.as_mut(), &self.hasher, workers, self.progress, |_| Ok(()))?;
            checksums.push(sum.into_inner().map_err(|_| Error::Stopped)?);
        }
        Ok((sets, checksums))
    }

    /// Fills, compresses and writes the chunks.
    fn second_pass(&self, sources: &mut [Box<dyn Source>], checksums: &[u128], layout: &mut Layout, file: &PartialFile) -> Result<Stored> {
        let chunks = layout.chunks();
        let Self { options: PackOptions { codec, level, .. }, earlier, .. } = *self;
        let compression = Compression { codec: *codec, level: *level, earlier };
        let spare = Spare::new(self.options.chunk_pages as usize * PAGE_BYTES);
        let (raw_sender, raw) = bounded(self.threads * 2);
        let (stored_sender, stored) = bounded(self.threads * 2);
        let (outcome, written) = thread::scope(|scope| {
            let spare = &spare;
            let writer = scope.spawn(move || compress::write(&stored, ChunkFile::new(file), chunks, earlier, spare, self.progress));
            let compressors: Vec<_> = (0..self.threads)
                .map(|_| {
                    let (raw, stored_sender) = (raw.clone(), stored_sender.clone());
                    scope.spawn(move || compress::compress(&raw, &stored_sender, compression, spare, self.progress))
                })
                .collect();
            drop((raw, stored_sender));
            let mut filler = ChunkFiller::new(&self.index, layout, raw_sender, spare);
            let bodies = self.fill(sources, checksums, &mut filler);
            drop(filler);
            let compressed = compressors.into_iter().try_for_each(join);
            let written = join(writer);
            // The one that failed knows why; the others have only noticed that somebody is gone.
            let outcome = match (bodies, compressed) {
                (Err(Error::Stopped), Err(error)) => Err(error),
                (bodies, _) => bodies,
            };
            (outcome, written)
        });
        let (Written { records, data_end }, bodies) = match (outcome, written) {
            (Err(Error::Stopped), Err(error)) => return Err(error),
            (bodies, written) => {
                let bodies = bodies?;
                (written?, bodies)
            }
        };
        let records = records.into_iter().collect::<Option<Vec<_>>>().ok_or(Error::Stopped)?;
        Ok(Stored { records, data_end, bodies })
    }

    fn fill(&self, sources: &mut [Box<dyn Source>], checksums: &[u128], filler: &mut ChunkFiller<'_>) -> Result<Vec<(Body, ByteCounts)>> {
        let mut bodies = Vec::new();
        for (source, expected) in sources.iter_mut().zip(checksums) {
            let mut body = BodyBuilder::new(source.kind());
            let mut sum = 0u128;
            let workers = (0..self.threads).map(|_| -> Box<PerBatch<'_>> { Box::new(|_| Ok(())) }).collect();
            filler.source = source.path().to_owned();
            scan(source.as_mut(), &self.hasher, workers, self.progress, |batch| {
                sum = sum.wrapping_add(checksum(batch));
                filler.take(batch, &mut body)
            })?;
            if sum != *expected {
                return Err(Error::SourceChanged { path: source.path().to_owned() });
            }
            let counts = body.counts;
            bodies.push((body.finish(), counts));
        }
        if !filler.is_full() {
            // Cannot be: equal checksums, equal pages.
            return Err(Error::Stopped);
        }
        Ok(bodies)
    }
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageKind;
    use crate::source::PageSink;

    /// A disk of two pages whose second page is another in every scan from the `changes_at`th on.
    struct Unsteady {
        scans: u32,
        changes_at: u32,
        pages: Vec<u8>,
    }

    impl Source for Unsteady {
        fn kind(&self) -> ImageKind {
            ImageKind::Disk
        }

        fn path(&self) -> &Path {
            Path::new("unsteady")
        }

        fn scan(&mut self, sink: &mut dyn PageSink) -> Result<()> {
            self.scans += 1;
            let mut next = self.pages.iter().copied().map(|page| if self.scans >= self.changes_at && page == 2 { 3 } else { page });
            let length = (self.pages.len() * PAGE_BYTES) as u64;
            sink.data(0, length, &mut |buffer| {
                buffer.chunks_mut(PAGE_BYTES).zip(&mut next).for_each(|(page, value)| page.fill(value));
                Ok(())
            })
        }

        fn estimated_bytes(&self) -> u64 {
            0
        }
    }

    fn named(names: &[&str], sources: Vec<Box<dyn Source>>) -> Vec<PreparedImage> {
        names.iter().zip(sources).map(|(name, source)| PreparedImage { name: (*name).to_owned(), source }).collect()
    }

    /// Packs a steady image of pages 1 and 3, and an unsteady one.
    fn outcome(pages: &[u8], changes_at: u32) -> (Result<Pack>, bool) {
        let directory = tempfile::tempdir().unwrap();
        let source = |pages: &[u8], changes_at| -> Box<dyn Source> { Box::new(Unsteady { scans: 0, changes_at, pages: pages.to_vec() }) };
        let sources = vec![source(&[1, 3], u32::MAX), source(pages, changes_at)];
        let output = directory.path().join("pack");
        let result = build_prepared(named(&["steady", "unsteady"], sources), &output, &PackOptions::default(), &Progress::default());
        (result, std::fs::read_dir(directory.path()).unwrap().next().is_some())
    }

    #[test]
    fn a_source_that_stays_the_same_is_packed() {
        assert!(outcome(&[1, 2], u32::MAX).0.is_ok());
    }

    #[test]
    fn a_source_that_changes_between_the_passes_is_refused() {
        // To a page that exists elsewhere, and to one that nobody has.
        for pages in [&[1, 2][..], &[2, 2]] {
            match outcome(pages, 2) {
                (Err(Error::SourceChanged { path }), left_behind) => {
                    assert_eq!(path, Path::new("unsteady"));
                    assert!(!left_behind);
                }
                (other, _) => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn pages_that_change_places_are_noticed() {
        /// Swaps its pages in the second scan.
        struct Swapping(bool);
        impl Source for Swapping {
            fn kind(&self) -> ImageKind {
                ImageKind::Disk
            }
            fn path(&self) -> &Path {
                Path::new("swapping")
            }
            fn scan(&mut self, sink: &mut dyn PageSink) -> Result<()> {
                let order = if self.0 { [2, 1] } else { [1, 2] };
                self.0 = true;
                let mut next = order.into_iter();
                sink.data(0, 2 * PAGE_BYTES as u64, &mut |buffer| {
                    buffer.chunks_mut(PAGE_BYTES).zip(&mut next).for_each(|(page, value)| page.fill(value));
                    Ok(())
                })
            }
            fn estimated_bytes(&self) -> u64 {
                0
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("pack");
        let images = named(&["a"], vec![Box::new(Swapping(false))]);
        let result = build_prepared(images, &output, &PackOptions::default(), &Progress::default());
        assert!(matches!(result, Err(Error::SourceChanged { .. })));
    }
}
