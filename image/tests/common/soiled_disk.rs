//! Disks that an earlier tenant has filled, with filesystems that are mounted here: nothing of what lies in their free space may be in a pack.
#![allow(dead_code)]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use image::disk_image::RawImage;
use image::used::{Plan, plan};

use crate::common::{Page, is_root, page_bytes};
use crate::filesystems::{self, argument, has_marker, hashes, stale};
use crate::loop_device::Mount;

/// A disk full of an earlier tenant's data.
pub(crate) fn soiled_disk(path: &Path, mebibytes: usize) {
    let mebibyte = stale(1 << 20);
    let mut file = File::create(path).unwrap();
    (0..mebibytes).for_each(|_| file.write_all(&mebibyte).unwrap());
}

/// Mounts an image with a loop device, which goes when it is unmounted.
pub(crate) fn mount(image: &Path, options: &str) -> Mount {
    mount_as("auto", image, options)
}

/// The same for a filesystem that has to be named.
pub(crate) fn mount_as(filesystem: &str, image: &Path, options: &str) -> Mount {
    let options = if options.is_empty() { "loop".to_owned() } else { format!("loop,{options}") };
    Mount::new(&["-t", filesystem, "-o", &options, argument(image)], &image.with_extension("mounted"))
}

/// Files of all sizes, of which some are deleted.
pub(crate) fn fill(root: &Path) {
    let write = |name: &str, bytes: &[u8]| fs::write(root.join(name), bytes).unwrap();
    let mut doomed = vec!["large to be deleted".to_owned()];
    for directory in 0..4 {
        fs::create_dir(root.join(format!("directory {directory}"))).unwrap();
        for file in 0..25 {
            let name = format!("directory {directory}/file {file}");
            let bytes = page_bytes(Page::Random(directory * 100 + file)).repeat(1 + file as usize % 7);
            write(&name, &bytes[..100 + 311 * file as usize % 4000]);
            // Not less than a page: NTFS and btrfs keep short files within their metadata.
            let gone = format!("{name} to be deleted");
            write(&gone, &stale(4800 + 640 * file as usize));
            doomed.push(gone);
            if file % 2 == 0 {
                doomed.push(name);
            }
        }
    }
    let large: Vec<u8> = (0..1500).flat_map(|number| page_bytes(Page::Random(10_000 + number))).collect();
    write("large", &large);
    write("large to be deleted", &stale(5 << 20));
    write("text", &page_bytes(Page::Text(7)).repeat(100));
    rustix::fs::sync();
    doomed.iter().for_each(|name| fs::remove_file(root.join(name)).unwrap());
}

/// The files of an image and the hash of each.
pub(crate) fn files_of(mounted: &Mount) -> Vec<(PathBuf, blake3::Hash)> {
    let files = hashes(&mounted.path);
    assert!(!files.is_empty());
    files
}

/// Whether the filesystem can be mounted, by root with /dev/fuse.
pub(crate) fn can_mount_fuse(test: &str) -> bool {
    let fuse = Path::new("/dev/fuse").exists();
    if !fuse {
        println!("{test}: SKIPPED, it needs /dev/fuse");
    }
    fuse && is_root(test)
}

/// What discus makes of an image.
pub(crate) fn plan_of(image: &Path) -> Plan {
    plan(&RawImage::open(image.to_owned()).unwrap()).unwrap()
}

/// Asserts that an image is stored whole for a reason with these words.
pub(crate) fn assert_whole(image: &Path, filesystem: &str, why: &str) {
    let plan = plan_of(image);
    assert_eq!(plan.used_bytes(), fs::metadata(image).unwrap().len(), "{:?}", plan.notes);
    let [note] = plan.notes.as_slice() else { panic!("{:?}", plan.notes) };
    assert!(note.contains(&format!("({filesystem})")) && note.contains(why), "{note}");
}

/// What was restored from a pack of one image.
pub(crate) struct Restored {
    pub(crate) image: PathBuf,
    /// Bytes in use.
    pub(crate) used_bytes: u64,
    /// Bytes of the pack.
    pub(crate) pack_bytes: u64,
}

/// Packs an image that has to be understood, without compression; asserts that no stale byte is in the pack, and restores it.
pub(crate) fn pack_and_restore(image: &Path, filesystem: &str) -> Restored {
    let packed = filesystems::pack_and_restore(image);
    packed.assert_note(&[&format!("({filesystem}): "), " used"]);
    assert!(!has_marker(&packed.pack_path), "an earlier tenant's data is in the pack, from {:?}", stale_ranges(image));
    let pack_bytes = fs::metadata(&packed.pack_path).unwrap().len();
    Restored { image: packed.restored, used_bytes: plan_of(image).used_bytes(), pack_bytes }
}

/// The first ranges of an image that hold stale bytes and are said to be in use.
fn stale_ranges(image: &Path) -> Vec<std::ops::Range<u64>> {
    let bytes = fs::read(image).unwrap();
    let used = plan_of(image).regions.into_iter().filter_map(|region| region.used).flat_map(|used| used.iter().collect::<Vec<_>>());
    let is_stale = |range: &std::ops::Range<u64>| {
        let bytes = &bytes[range.start as usize..range.end as usize];
        bytes.windows(filesystems::MARKER.len()).any(|window| window == filesystems::MARKER)
    };
    used.filter(is_stale).take(10).collect()
}
