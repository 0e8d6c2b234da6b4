//! Disks with partition tables and volume groups of the real tools: each partition is packed as it would be alone, its pages counted from its own
//! start, and what lies between partitions comes back as it was.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/filesystems.rs"]
mod filesystems;
#[path = "common/loop_device.rs"]
mod loop_device;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::{assert_same_bytes, is_root, restore_to};
use filesystems::{MARKER, argument, fill, has_marker, pack_and_restore, run, sparse, stale};
use image::Codec;
use image::pack::PackOptions;
use loop_device::LoopDevice;

const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;

/// Filesystems with deleted files, made once for a test.
struct Volumes {
    directory: tempfile::TempDir,
}

impl Volumes {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let tree = path("tree");
        let doomed = fill(&tree, 2 << 20);
        sparse(&path("ext4"), 16 * MIB);
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "4096", "-d", argument(&tree), argument(&path("ext4"))]);
        fs::write(path("commands"), doomed.iter().map(|name| format!("rm /{name}\n")).collect::<String>()).unwrap();
        run("debugfs", &["-w", "-f", argument(&path("commands")), argument(&path("ext4"))]);
        sparse(&path("fat"), 10 * MIB);
        run("mkfs.vfat", &["-F", "16", argument(&path("fat"))]);
        for (name, bytes) in [("gone", stale(300_000)), ("kept", filesystems::random(5, 300_000))] {
            fs::write(path(name), bytes).unwrap();
            run("mcopy", &["-i", argument(&path("fat")), argument(&path(name)), "::/"]);
        }
        run("mdel", &["-i", argument(&path("fat")), "::/gone"]);
        fs::write(path("swap"), stale(2 << 20)).unwrap();
        run("mkswap", &[argument(&path("swap"))]);
        assert!(["ext4", "fat", "swap"].iter().all(|name| has_marker(&path(name))));
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts volumes into a disk, at these sectors. What surrounds them is noise.
    fn place(&self, disk: &Path, places: &[(&str, u64)]) {
        let file = File::options().write(true).open(disk).unwrap();
        for (name, sector) in places {
            file.write_all_at(&filesystems::random(*sector as u32, 512), (sector - 3) * SECTOR).unwrap();
            file.write_all_at(&fs::read(self.path(name)).unwrap(), sector * SECTOR).unwrap();
        }
    }

    /// Asserts that every volume came back as it does alone, and everything else as it was.
    fn assert_restored(&self, disk: &Path, restored: &Path, places: &[(&str, u64)]) {
        let mut expected = fs::read(disk).unwrap();
        for (name, sector) in places {
            let alone = fs::read(pack_and_restore(&self.path(name)).restored).unwrap();
            expected[(sector * SECTOR) as usize..][..alone.len()].copy_from_slice(&alone);
        }
        let found = fs::read(restored).unwrap();
        assert_eq!(found.len(), expected.len());
        if let Some(at) = found.iter().zip(&expected).position(|(found, expected)| found != expected) {
            panic!("{} differs at byte {at}", restored.display());
        }
    }
}

/// Runs sfdisk with a script.
fn sfdisk(disk: &Path, script: &str) {
    run("sh", &["-c", &format!("printf '{script}' | sfdisk --quiet --no-reread --no-tell-kernel {}", disk.display())]);
}

#[test]
fn partitions_of_a_gpt_are_looked_into() {
    let volumes = Volumes::new();
    let disk = volumes.path("disk.img");
    sparse(&disk, 64 * MIB);
    let places = [("fat", 4096), ("ext4", 34816), ("swap", 79873)];
    run(
        "sgdisk",
        &[
            "-a",
            "1",
            "-n",
            "1:2048:4095",
            "-t",
            "1:ef02",
            "-n",
            "2:4096:24575",
            "-n",
            "5:34816:67583",
            "-n",
            "3:79873:83968",
            argument(&disk),
        ],
    );
    volumes.place(&disk, &places);
    let packed = pack_and_restore(&disk);
    packed.assert_note(&["partition 1: packed whole, 1.0 MiB, because no filesystem was recognised"]);
    packed.assert_note(&["partition 2 (FAT16): ", " of 10.0 MiB used"]);
    packed.assert_note(&["partition 5 (ext4): ", " of 16.0 MiB used"]);
    packed.assert_note(&["partition 3 (swap): 4.0 KiB of 2.0 MiB used"]);
    assert_eq!(packed.notes.len(), 5, "{:#?}", packed.notes);
    packed.assert_note(&["outside of partitions: packed whole"]);
    assert!(!has_marker(&packed.pack_path));
    volumes.assert_restored(&disk, &packed.restored, &places);

    // The backup serves when the primary is damaged, and nothing is believed when both are.
    let file = File::options().write(true).open(&disk).unwrap();
    file.write_all_at(&[1], 1024).unwrap();
    let packed = pack_and_restore(&disk);
    packed.assert_note(&["backup was used"]);
    packed.assert_note(&["partition 5 (ext4): "]);
    file.write_all_at(b"x", 64 * MIB - SECTOR).unwrap();
    let packed = pack_and_restore(&disk);
    packed.assert_note(&["packed whole, 64.0 MiB", "so is the backup"]);
    assert_same_bytes(&disk, &packed.restored);
}

#[test]
fn a_gpt_of_4096_byte_sectors_is_understood() {
    if !is_root("a_gpt_of_4096_byte_sectors_is_understood") {
        return;
    }
    let volumes = Volumes::new();
    let disk = volumes.path("disk.img");
    {
        let device = LoopDevice::new(&disk, 64 * MIB);
        run("losetup", &["--sector-size", "4096", argument(&device.path)]);
        run("sgdisk", &["-n", "1:512:4607", argument(&device.path)]);
    }
    volumes.place(&disk, &[("ext4", 4096)]);
    let packed = pack_and_restore(&disk);
    packed.assert_note(&["partition 1 (ext4): ", " of 16.0 MiB used"]);
    volumes.assert_restored(&disk, &packed.restored, &[("ext4", 4096)]);
}

/// A disk with partitions where DOS put them, at sector 63, and logical ones.
fn dos_disk(volumes: &Volumes) -> (PathBuf, [(&'static str, u64); 3]) {
    let disk = volumes.path("disk.img");
    sparse(&disk, 64 * MIB);
    let script = "label: dos\\n63,32768,83,*\\n40000,60000,5\\n40063,20480,e\\n70063,4096,82\\n";
    sfdisk(&disk, script);
    let places = [("ext4", 63), ("fat", 40063), ("swap", 70063)];
    volumes.place(&disk, &places);
    (disk, places)
}

#[test]
fn partitions_of_an_mbr_deduplicate_wherever_they_start() {
    let volumes = Volumes::new();
    let (disk, places) = dos_disk(&volumes);
    let packed = pack_and_restore(&disk);
    packed.assert_note(&["partition 1 (ext4): ", " of 16.0 MiB used"]);
    packed.assert_note(&["partition 5 (FAT16): ", " of 10.0 MiB used"]);
    packed.assert_note(&["partition 6 (swap): 4.0 KiB of 2.0 MiB used"]);
    assert!(!has_marker(&packed.pack_path));
    volumes.assert_restored(&disk, &packed.restored, &places);

    let alone = volumes.path("ext4");
    let options = PackOptions { codec: Codec::None, ..PackOptions::default() };
    let both = common::pack(&[("disk", &disk), ("alone", &alone)], &volumes.path("both.pack"), options).unwrap();
    let unshared: u32 = both.segments().iter().filter(|segment| segment.images.to_string() == "1").map(|segment| segment.pages).sum();
    assert_eq!(unshared, 0, "all pages of the filesystem are in the disk too");
}

#[test]
fn extents_at_any_sector_are_restored_to_devices() {
    if !is_root("extents_at_any_sector_are_restored_to_devices") {
        return;
    }
    let volumes = Volumes::new();
    let (disk, places) = dos_disk(&volumes);
    let packed = pack_and_restore(&disk);
    for sector_bytes in ["512", "4096"] {
        let backing = volumes.path("backing.img");
        let device = LoopDevice::new(&backing, 64 * MIB);
        run("losetup", &["--sector-size", sector_bytes, argument(&device.path)]);
        // What was there before must go.
        fs::write(&device.path, stale(64 << 20)).unwrap();
        restore_to(&packed.pack, "disk", &device.path, false).unwrap();
        run("sync", &[]);
        volumes.assert_restored(&disk, &device.path, &places);
        assert!(!has_marker(&backing));
    }
}

#[test]
fn tables_that_are_odd_are_not_believed() {
    let volumes = Volumes::new();
    let (disk, _) = dos_disk(&volumes);
    let original = fs::read(&disk).unwrap();
    let file = File::options().write(true).open(&disk).unwrap();
    // The second logical partition's record names itself as the next; a partition grows into the next; one leaves the disk.
    let record = fs::read(&disk).unwrap()[40000 * 512 + 446 + 16 + 8..][..4].to_vec();
    let second = 40000 + u64::from(u32::from_le_bytes(record.clone().try_into().unwrap()));
    let mut circle = vec![0, 0, 0, 0, 5, 0, 0, 0];
    circle.extend([&record[..], &[1, 0, 0, 0]].concat());
    for (offset, bytes, reason) in [
        (second * SECTOR + 446 + 16, circle, "does not end"),
        (446 + 12, 50_000u32.to_le_bytes().to_vec(), "overlaps"),
        (446 + 16 + 12, 0x7fff_ffffu32.to_le_bytes().to_vec(), ""),
        (446 + 12, 0x7fff_ffffu32.to_le_bytes().to_vec(), "within the disk"),
    ] {
        file.write_all_at(&original[..512], 0).unwrap();
        file.write_all_at(&original[(second * SECTOR) as usize..][..512], second * SECTOR).unwrap();
        file.write_all_at(&bytes, offset).unwrap();
        let packed = pack_and_restore(&disk);
        if reason.is_empty() {
            // An extended partition may be larger than the disk as long as what is in it is not.
            packed.assert_note(&["partition 6 (swap)"]);
        } else {
            packed.assert_note(&["packed whole, 64.0 MiB", reason]);
            assert_same_bytes(&disk, &packed.restored);
        }
    }
}

#[test]
fn a_filesystem_beneath_partitions_is_not_believed() {
    let volumes = Volumes::new();
    let disk = volumes.path("disk.img");
    fs::copy(volumes.path("ext4"), &disk).unwrap();
    sfdisk(&disk, "label: dos\\n8192,8192,83\\n");
    let packed = pack_and_restore(&disk);
    packed.assert_note(&["packed whole", "both partitions and the signature of ext4"]);
    assert_same_bytes(&disk, &packed.restored);
    // Nor one beneath another.
    let file = File::options().write(true).open(volumes.path("ext4")).unwrap();
    file.write_all_at(b"LUKS\xba\xbe", 0).unwrap();
    pack_and_restore(&volumes.path("ext4")).assert_note(&["packed whole", "it looks like LUKS too"]);
}

#[test]
fn all_blocks_packs_everything() {
    let volumes = Volumes::new();
    let (disk, _) = dos_disk(&volumes);
    let source = image::source::SourceOptions { all_blocks: true, ..Default::default() };
    let options = PackOptions { codec: Codec::None, source, ..PackOptions::default() };
    let pack = common::pack(&[("disk", &disk)], &volumes.path("all.pack"), options).unwrap();
    restore_to(&pack, "disk", &volumes.path("restored"), false).unwrap();
    assert_same_bytes(&disk, &volumes.path("restored"));
}

#[test]
fn linear_logical_volumes_are_looked_into() {
    if !is_root("linear_logical_volumes_are_looked_into") {
        return;
    }
    let volumes = Volumes::new();
    let disk = volumes.path("disk.img");
    let group = format!("discus_test_{}", std::process::id());
    let device = LoopDevice::new(&disk, 64 * MIB);
    let lvm = |arguments: &[&str]| {
        // Without device mapper, and without looking at other devices.
        let device = argument(&device.path);
        let filter = format!("devices {{ filter=[\"a|^{device}$|\",\"r|.*|\"] use_devicesfile=0 }} backup {{ backup=0 archive=0 }}");
        run("lvm", &[arguments, &["--config", &filter, "--driverloaded", "n", "-qq"]].concat())
    };
    lvm(&["pvcreate", "-y", argument(&device.path)]);
    lvm(&["vgcreate", "-y", "-s", "1M", &group, argument(&device.path)]);
    let create = |name: &str, extents: &str| lvm(&["lvcreate", "-an", "-Zn", "-Wn", "-y", "-n", name, "-l", extents, &group]);
    create("root", "5");
    create("swap", "2");
    create("empty", "3");
    // In two pieces, of which the second comes after the others.
    lvm(&["lvextend", "-l", "16", &format!("{group}/root")]);
    lvm(&["lvremove", "-y", &format!("{group}/empty")]);
    drop(device);

    let file = File::options().write(true).open(&disk).unwrap();
    let root = fs::read(volumes.path("ext4")).unwrap();
    let (first, rest) = root.split_at(5 << 20);
    let swap = fs::read(volumes.path("swap")).unwrap();
    for (extent, bytes) in [(0, first), (5, &swap[..]), (10, rest), (7, &stale(3 << 20)[..]), (30, MARKER)] {
        file.write_all_at(bytes, MIB + extent * MIB).unwrap();
    }
    let packed = pack_and_restore(&disk);
    packed.assert_note(&["disk (LVM2): ", " of 64.0 MiB used"]);
    packed.assert_note(&[&format!("logical volume {group}/root (ext4): "), " of 16.0 MiB used"]);
    packed.assert_note(&[&format!("logical volume {group}/swap (swap): 4.0 KiB of 2.0 MiB used")]);
    assert!(!has_marker(&packed.pack_path));
    let restored = fs::read(&packed.restored).unwrap();
    let extents = |first: usize, count: usize| &restored[(1 + first) << 20..][..count << 20];
    let alone = fs::read(pack_and_restore(&volumes.path("ext4")).restored).unwrap();
    assert!([extents(0, 5), extents(10, 11)].concat() == alone);
    assert!(extents(7, 3).iter().all(|&byte| byte == 0));
    assert!(restored[..1 << 20] == fs::read(&disk).unwrap()[..1 << 20]);

    // A mirrored volume is none of these.
    let metadata = restored[..1 << 20].windows(7).rposition(|window| window == b"striped").unwrap();
    file.write_all_at(b"mirrord", metadata as u64).unwrap();
    pack_and_restore(&disk).assert_note(&["disk (LVM2): packed whole", "wrong checksum"]);
}
