//! One function per parser of foreign bytes, for fuzzing: it must return, whatever it is given.

use std::io::Write;

use crate::disk_image::{DiskImage, Part, Qcow2Image, SliceImage};
use crate::{source, used};

/// A parser of foreign bytes.
pub type Target = fn(&[u8]);

/// All of them, by name: scripts/fuzz and bench/tests/parsers.rs take them from here. What takes a disk takes it in the sparse form of
/// `SliceImage` too.
pub const TARGETS: &[(&str, Target)] = &[
    ("btrfs", btrfs),
    ("chunk", chunk),
    ("ext4", ext4),
    ("fat", fat),
    ("lvm", lvm),
    ("manifest", manifest),
    ("ntfs", ntfs),
    ("oci", oci),
    ("pack", pack),
    ("partitions", partitions),
    ("qcow2", qcow2),
    ("signature", signature),
    ("swap", swap),
    ("tar", tar),
    ("xfs", xfs),
];

/// A qcow2 image: its header, its map, and some of its bytes.
pub fn qcow2(bytes: &[u8]) {
    // In a file of its own in a directory of its own, so that no name in it leads anywhere.
    let Ok(directory) = tempfile::tempdir() else { return };
    let path = directory.path().join("image");
    if std::fs::File::create(&path).and_then(|mut file| file.write_all(bytes)).is_err() {
        return;
    }
    let Ok(image) = Qcow2Image::open(path, false) else { return };
    let mut buffer = vec![0; 4096];
    let mut offset = 0;
    for _ in 0..64 {
        let Ok(Some(stored)) = image.next_stored(offset) else { break };
        let length = (stored.end - stored.start).min(4096) as usize;
        let _ = image.read_at(stored.start, buffer.get_mut(..length).unwrap_or_default());
        offset = stored.end;
    }
}

/// A tar archive.
pub fn tar(bytes: &[u8]) {
    source::fuzz_tar(bytes);
}

/// The JSON of an OCI image layout.
pub fn oci(bytes: &[u8]) {
    source::fuzz_oci(bytes);
}

/// A disk with whatever partition table and filesystems.
pub fn partitions(bytes: &[u8]) {
    let disk = SliceImage(bytes);
    if let Ok(plan) = used::plan(&disk) {
        assert!(plan.used_bytes() <= disk.size_bytes());
    }
}

/// A swap partition.
pub fn swap(bytes: &[u8]) {
    used::fuzz("swap", &Part::whole(&SliceImage(bytes)));
}

/// An ext2, ext3 or ext4 filesystem.
pub fn ext4(bytes: &[u8]) {
    used::fuzz("ext4", &Part::whole(&SliceImage(bytes)));
}

/// A FAT filesystem.
pub fn fat(bytes: &[u8]) {
    used::fuzz("FAT", &Part::whole(&SliceImage(bytes)));
}

/// A physical volume of LVM2.
pub fn lvm(bytes: &[u8]) {
    used::fuzz_lvm(&Part::whole(&SliceImage(bytes)));
}

/// A btrfs filesystem.
pub fn btrfs(bytes: &[u8]) {
    used::fuzz("btrfs", &Part::whole(&SliceImage(bytes)));
}

/// An NTFS volume.
pub fn ntfs(bytes: &[u8]) {
    used::fuzz("ntfs", &Part::whole(&SliceImage(bytes)));
}

/// An XFS filesystem.
pub fn xfs(bytes: &[u8]) {
    used::fuzz("xfs", &Part::whole(&SliceImage(bytes)));
}

/// A pack: opened, verified, and every manifest decoded.
pub fn pack(bytes: &[u8]) {
    let Ok(memory) = rustix::fs::memfd_create("pack", rustix::fs::MemfdFlags::CLOEXEC) else { return };
    let mut file = std::fs::File::from(memory);
    if file.write_all(bytes).is_err() {
        return;
    }
    let Ok(pack) = crate::Pack::from_file(file, std::path::Path::new("fuzz")) else { return };
    let verified = pack.verify(&crate::Progress::default());
    for image in 0..pack.images().len() {
        assert!(pack.manifest(image).is_ok() || verified.is_err());
    }
}

/// A manifest: one that is accepted says the same when it is written again.
pub fn manifest(bytes: &[u8]) {
    let Ok(manifest) = crate::Manifest::decode(bytes) else { return };
    if let Ok(again) = crate::manifest::encode(&manifest, crate::Codec::None) {
        assert_eq!(crate::Manifest::decode(&again).ok().as_ref(), Some(&manifest));
    }
}

/// The proof of a signed pack, and keys as text.
pub fn signature(bytes: &[u8]) {
    if let Ok(proof) = crate::pack::Proof::decode(bytes) {
        let _ = proof.check_manifest(bytes);
    }
    let _ = crate::pack::format::SignatureBlock::decode(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = text.parse::<crate::signature::PublicKey>();
    }
}

/// The stored bytes of a chunk that somebody hashed on purpose; the first byte chooses codec and length.
pub fn chunk(bytes: &[u8]) {
    let Some((&choice, stored)) = bytes.split_first() else { return };
    let codec = if choice & 1 == 0 { crate::Codec::Lz4 } else { crate::Codec::Zstd };
    let raw_bytes = (u32::from(choice >> 1) + 1) * crate::PAGE_BYTES as u32;
    let Ok(stored_bytes) = u32::try_from(stored.len()) else { return };
    let (id, hash) = (crate::ChunkId(0), *blake3::hash(stored).as_bytes());
    let descriptor = crate::manifest::ChunkDescriptor { id, stored_bytes, raw_bytes, codec, hash, raw_hash: None };
    let _ = crate::restore::decode_chunk(&descriptor, stored, &mut vec![0; raw_bytes as usize]);
}
