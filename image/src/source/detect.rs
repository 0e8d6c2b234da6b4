//! What there is at a path: told by its content, not by its name.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::archive::{ArchiveSource, is_tar_header};
use super::compressed_disk::CompressedDiskSource;
use super::compression::{Compression, read_full};
use super::{DiskSource, Source, SourceOptions, TreeSource};
use crate::disk_image::{DiskImage, Qcow2Image, RawImage};
use crate::{Error, Result, in_use};

/// What a source is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The bytes of a disk as they are.
    Raw,
    /// QEMU's image format, version 2 or 3.
    Qcow2,
    /// A raw disk, compressed with gzip, zstd or xz.
    CompressedRaw,
    /// A tar archive, perhaps compressed; one that holds an OCI image stands for the image's file tree.
    Archive,
}

/// Enough for a tar header, and for every magic number below.
const BEGINNING_BYTES: usize = 512;

/// Opens whatever is at `path`.
///
/// # Errors
/// When there is nothing that can be packed.
pub fn open(path: &Path, options: SourceOptions) -> Result<Box<dyn Source>> {
    let metadata = std::fs::metadata(path).map_err(Error::io("opening", path))?;
    let path = path.to_owned();
    if metadata.is_dir() {
        return if is_oci_layout(&path) {
            Ok(Box::new(ArchiveSource::open_oci_layout(path)?))
        } else {
            Ok(Box::new(TreeSource::new(path)))
        };
    }
    if metadata.file_type().is_block_device() {
        // Never looked into: what is written on a disk is its user's business, who must not be able to name a backing file of ours.
        refuse_if_written(&path, &metadata, options)?;
        return raw(path, options);
    }
    let format = match options.format {
        Some(format) => format,
        None if metadata.is_file() => detect(&path)?,
        // Refused there, with the reason.
        None => Format::Raw,
    };
    match format {
        Format::Raw => raw(path, options),
        Format::Qcow2 => disk(Box::new(Qcow2Image::open(path, options.backing_anywhere)?), options),
        Format::CompressedRaw => {
            let compression = compression_of(&path)?.ok_or_else(|| refused(&path, "it is compressed with neither gzip, zstd nor xz"))?;
            Ok(Box::new(CompressedDiskSource::open(path, compression)?))
        }
        Format::Archive => {
            let compression = compression_of(&path)?;
            Ok(Box::new(ArchiveSource::open(path, compression)?))
        }
    }
}

fn raw(path: PathBuf, options: SourceOptions) -> Result<Box<dyn Source>> {
    disk(Box::new(RawImage::open(path)?), options)
}

fn disk(disk: Box<dyn DiskImage>, options: SourceOptions) -> Result<Box<dyn Source>> {
    Ok(Box::new(DiskSource::new(disk, options)?))
}

/// The format of a regular file.
fn detect(path: &Path) -> Result<Format> {
    let beginning = beginning_of(path)?;
    if let Some(compression) = Compression::of(&beginning) {
        let mut inside = vec![0; BEGINNING_BYTES];
        let mut stream = compression.open(path)?;
        let filled = read_full(&mut *stream, &mut inside).map_err(|error| compression.error(path, error))?;
        inside.truncate(filled);
        if is_tar_header(&inside) {
            return Ok(Format::Archive);
        }
        if let Some(inner) = foreign(&inside).or_else(|| inside.starts_with(b"QFI\xfb").then_some("a qcow2 image")) {
            return Err(refused(path, format!("it is {inner} compressed with {}: unpack it first", compression.name())));
        }
        return Ok(Format::CompressedRaw);
    }
    if is_tar_header(&beginning) {
        return Ok(Format::Archive);
    }
    // Version 1 is another format, which begins alike; Qcow2Image says so.
    if beginning.starts_with(b"QFI\xfb") {
        return Ok(Format::Qcow2);
    }
    match foreign(&beginning) {
        Some(foreign) => {
            Err(refused(path, format!("it is {foreign}, which is not read here: convert it with `qemu-img convert -O raw IN OUT`")))
        }
        None if ends_as_vhd(path)? => {
            Err(refused(path, "it is a VHD image, which is not read here: convert it with `qemu-img convert -f vpc -O raw IN OUT`"))
        }
        None => Ok(Format::Raw),
    }
}

/// Image formats that are known and not read.
fn foreign(beginning: &[u8]) -> Option<&'static str> {
    let starts = |magic: &[u8]| beginning.starts_with(magic);
    if starts(b"KDMV") || starts(b"COWD") || starts(b"# Disk DescriptorFile") {
        Some("a VMDK image")
    } else if starts(b"vhdxfile") {
        Some("a VHDX image")
    } else if starts(b"conectix") {
        Some("a VHD image")
    } else if starts(b"QED\0") {
        Some("a QED image")
    } else if beginning.get(0x40..0x44) == Some(&0xbeda_107f_u32.to_le_bytes()) {
        Some("a VDI image")
    } else {
        None
    }
}

/// A fixed VHD is a raw disk with a footer of 512 bytes behind it.
fn ends_as_vhd(path: &Path) -> Result<bool> {
    use std::os::unix::fs::FileExt;
    let file = File::open(path).map_err(Error::io("opening", path))?;
    let size_bytes = file.metadata().map_err(Error::io("reading", path))?.len();
    let mut footer = [0; 16];
    let Some(at) = size_bytes.checked_sub(512) else { return Ok(false) };
    file.read_exact_at(&mut footer, at).map_err(Error::io("reading", path))?;
    // The cookie, then the features, of which bit 1 is always set, then the version of the format.
    Ok(footer.starts_with(b"conectix") && footer.get(11).is_some_and(|features| features & 2 != 0) && footer.ends_with(&[0, 1, 0, 0]))
}

fn compression_of(path: &Path) -> Result<Option<Compression>> {
    Ok(Compression::of(&beginning_of(path)?))
}

fn beginning_of(path: &Path) -> Result<Vec<u8>> {
    let mut file = File::open(path).map_err(Error::io("opening", path))?;
    let mut beginning = vec![0; BEGINNING_BYTES];
    let filled = read_full(&mut file, &mut beginning).map_err(Error::io("reading", path))?;
    beginning.truncate(filled);
    Ok(beginning)
}

/// An image layout (OCI image specification, image-layout.md) has both of these.
fn is_oci_layout(directory: &Path) -> bool {
    directory.join("oci-layout").is_file() && directory.join("index.json").is_file()
}

/// A device that is written to while it is read gives a mixture of old and new.
fn refuse_if_written(path: &Path, metadata: &Metadata, options: SourceOptions) -> Result<()> {
    match in_use::writer(metadata.rdev()) {
        Some(why) if !options.force => {
            let advice = "unmount it, mount it read-only or pack a snapshot; with --force-source it is packed as it is";
            Err(refused(path, format!("{why}: {advice}")))
        }
        _ => Ok(()),
    }
}

fn refused(path: &Path, why: impl Into<String>) -> Error {
    Error::Source { path: path.to_owned(), why: why.into() }
}
