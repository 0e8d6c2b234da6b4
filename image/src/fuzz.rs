//! One function per parser of foreign bytes, for fuzzing: it must return, whatever it is given.

use std::io::Write;

use crate::disk_image::{DiskImage, Part, Qcow2Image, SliceImage};
use crate::{source, used};

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
    if let Ok(plan) = used::plan(&SliceImage(bytes)) {
        assert!(plan.used_bytes() <= bytes.len() as u64);
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
