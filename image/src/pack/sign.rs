//! Signing a pack that exists: the same file with a signature before its trailer.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::Pack;
use super::format::ALIGN_BYTES;
use super::proof::encode_end;
use crate::partial_file::PartialFile;
use crate::signature::SecretKey;
use crate::{Error, Progress, Result};

/// Signs `pack`, in place of a signature that it may have, after [`Pack::verify`]. The file is replaced when the signed one is complete.
///
/// # Errors
/// When the pack is damaged, or cannot be read or replaced.
pub fn sign(pack: &Pack, key: &SecretKey, progress: &Progress) -> Result<Pack> {
    // A signature vouches for every chunk.
    pack.verify(progress)?;
    let proof = pack.proof_bytes()?;
    let header: &[u8; ALIGN_BYTES] = proof.first_chunk().ok_or_else(|| Error::pack(pack.path(), "header", "it is missing"))?;
    let directory = &proof[ALIGN_BYTES..][..pack.proof().header().directory_bytes()];
    let directory_offset = pack.proof().trailer().directory_offset;
    let output = PartialFile::create(pack.path(), true)?;
    copy_range(pack, 0..directory_offset, &output, 0)?;
    let end = encode_end(header, directory, directory_offset, Some(key));
    output.file().write_all_at(&end, directory_offset).map_err(Error::io("writing", output.partial_path()))?;
    output.commit()?;
    Pack::open(pack.path())
}

/// Copies bytes of a pack within the kernel; filesystems with reflinks share the blocks instead.
pub(super) fn copy_range(pack: &Pack, range: std::ops::Range<u64>, output: &PartialFile, to: u64) -> Result<()> {
    let (mut from, mut to) = (range.start, to);
    let output_file: &File = output.file();
    while from < range.end {
        // A gigabyte at most: the kernel takes no more than 2 GiB at once.
        let length = (range.end - from).min(1 << 30) as usize;
        let copied = match rustix::fs::copy_file_range(&pack.file, Some(&mut from), output_file, Some(&mut to), length) {
            Err(rustix::io::Errno::INTR) => continue,
            // Not between these filesystems, or not on this one.
            Err(rustix::io::Errno::XDEV | rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                return copy_through_memory(pack, from..range.end, output, to);
            }
            copied => copied.map_err(Error::io("copying to", output.partial_path()))?,
        };
        if copied == 0 {
            return Err(Error::pack(pack.path(), "file", "it has become shorter"));
        }
    }
    Ok(())
}

fn copy_through_memory(pack: &Pack, range: std::ops::Range<u64>, output: &PartialFile, mut to: u64) -> Result<()> {
    let mut from = range.start;
    let mut buffer = vec![0; (1 << 20).min((range.end - range.start) as usize)];
    while from < range.end {
        let length = ((range.end - from) as usize).min(buffer.len());
        pack.file.read_exact_at(&mut buffer[..length], from).map_err(Error::io("reading", pack.path()))?;
        output.file().write_all_at(&buffer[..length], to).map_err(Error::io("writing", output.partial_path()))?;
        from += length as u64;
        to += length as u64;
    }
    Ok(())
}
