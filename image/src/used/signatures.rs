//! What is recognised by a signature only, and stored whole. The list matters for safety too: where an older filesystem has left its superblock
//! beneath one of these, the free blocks of the older one are not free.

use super::Finding;
use crate::Result;
use crate::disk_image::{DiskImage, Part};

struct Signature {
    name: &'static str,
    offset: u64,
    bytes: &'static [u8],
    encrypted: bool,
}

const fn plain(name: &'static str, offset: u64, bytes: &'static [u8]) -> Signature {
    Signature { name, offset, bytes, encrypted: false }
}

const fn encrypted(name: &'static str, offset: u64, bytes: &'static [u8]) -> Signature {
    Signature { name, offset, bytes, encrypted: true }
}

/// As in util-linux, libblkid/src/superblocks.
const SIGNATURES: &[Signature] = &[
    encrypted("LUKS", 0, b"LUKS\xba\xbe"),
    encrypted("BitLocker", 3, b"-FVE-FS-"),
    plain("Linux RAID", 0, b"\xfc\x4e\x2b\xa9"),
    plain("Linux RAID", 4096, b"\xfc\x4e\x2b\xa9"),
    plain("bcache", 4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    plain("bcachefs", 4120, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"),
    plain("dm-integrity", 0, b"integrt\0"),
    plain("dm-verity", 0, b"verity\0\0"),
    plain("VDO", 0, b"dmvdo001"),
    plain("Stratis", 516, b"!Stra0tis\x86\xff\x02^\x41rh"),
    plain("Ceph BlueStore", 0, b"bluestore block device"),
    plain("Oracle ASM", 32, b"ORCLDISK"),
    plain("exFAT", 3, b"EXFAT   "),
    plain("ReFS", 3, b"ReFS\0\0\0\0"),
    plain("squashfs", 0, b"hsqs"),
    plain("EROFS", 1024, b"\xe2\xe1\xf5\xe0"),
    plain("F2FS", 1024, b"\x10\x20\xf5\xf2"),
    plain("JFS", 32768, b"JFS1"),
    plain("ReiserFS", 65588, b"ReIsEr"),
    plain("GFS2", 65536, b"\x01\x16\x19\x70"),
    plain("APFS", 32, b"NXSB"),
    plain("ISO 9660", 32769, b"CD001"),
    plain("UDF", 32769, b"BEA01"),
];

/// The uberblocks in the first label of a ZFS device: one of 128 KiB, at every KiB of it.
const UBERBLOCKS_OFFSET: u64 = 128 << 10;
const UBERBLOCKS_BYTES: usize = 128 << 10;
const UBERBLOCK_MAGIC: u64 = 0x00ba_b10c;

pub(super) fn probe(volume: &Part<'_>) -> Result<Option<Finding>> {
    for signature in SIGNATURES {
        let mut bytes = [0; 32];
        let bytes = &mut bytes[..signature.bytes.len().min(32)];
        if volume.size_bytes() < signature.offset + bytes.len() as u64 {
            continue;
        }
        volume.read_at(signature.offset, bytes)?;
        if bytes == signature.bytes {
            let why = if signature.encrypted { "it is encrypted" } else { "discus does not know its free space" };
            return Ok(Some(Finding::Whole { filesystem: signature.name, why: why.into() }));
        }
    }
    if has_uberblock(volume)? {
        return Ok(Some(Finding::Whole { filesystem: "ZFS", why: "discus does not know its free space".into() }));
    }
    Ok(None)
}

fn has_uberblock(volume: &Part<'_>) -> Result<bool> {
    if volume.size_bytes() < UBERBLOCKS_OFFSET + UBERBLOCKS_BYTES as u64 {
        return Ok(false);
    }
    let mut bytes = vec![0; UBERBLOCKS_BYTES];
    volume.read_at(UBERBLOCKS_OFFSET, &mut bytes)?;
    let is_magic = |bytes: &[u8; 8]| [u64::from_le_bytes(*bytes), u64::from_be_bytes(*bytes)].contains(&UBERBLOCK_MAGIC);
    Ok(bytes.chunks(1024).filter_map(|uberblock| uberblock.first_chunk()).any(is_magic))
}
