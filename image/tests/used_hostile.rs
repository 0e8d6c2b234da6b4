//! Filesystems without checksums whose structures somebody has changed: the readers answer, whatever they are given.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/filesystems.rs"]
mod filesystems;

use std::fs;

use common::memory_directory;
use filesystems::{argument, run, sparse};

/// Changes bytes at places that hold something, a few at a time, and reads each variant.
fn change(bytes: &mut [u8], rounds: u32, read: fn(&[u8])) {
    let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    for round in 0..rounds {
        let changed: Vec<(usize, u8)> = (0..1 + round % 3)
            .map(|_| {
                // Mostly near the start, where the structures are that all others hang on.
                let limit = if random() % 4 == 0 { places.len() } else { places.len().min(600) };
                let at = places[random() % limit] ^ (random() % 4);
                let old = bytes[at];
                bytes[at] = [0, 0xff, 0x80, 1, old ^ 1 << (random() % 8), random() as u8][random() % 6];
                (at, old)
            })
            .collect();
        read(bytes);
        changed.into_iter().rev().for_each(|(at, old)| bytes[at] = old);
    }
    for length in [0, 1, 511, 512, 4095, 4096, 65536, bytes.len() / 2] {
        read(&bytes[..length.min(bytes.len())]);
    }
}

#[test]
fn xfs_version_4() {
    let directory = memory_directory();
    let image = directory.path().join("xfs");
    sparse(&image, 16 << 20);
    let arguments = ["TEST_DIR=1", "TEST_DEV=1", "QA_CHECK_FS=1", "mkfs.xfs", "-q", "-K", "-m", "crc=0", "-d", "agcount=1"];
    run("env", &[&arguments[..], &["-l", "size=4m", argument(&image)]].concat());
    let mut bytes = fs::read(&image).unwrap();
    image::fuzz::xfs(&bytes);
    change(&mut bytes, 1500, image::fuzz::xfs);
}

#[test]
fn ntfs() {
    let directory = memory_directory();
    let image = directory.path().join("ntfs");
    sparse(&image, 4 << 20);
    run("mkntfs", &["-q", "-Q", "-F", argument(&image)]);
    let mut bytes = fs::read(&image).unwrap();
    change(&mut bytes, 5000, image::fuzz::ntfs);
}

#[test]
fn btrfs() {
    let directory = memory_directory();
    let image = directory.path().join("btrfs");
    sparse(&image, 120 << 20);
    run("mkfs.btrfs", &["-q", "-K", argument(&image)]);
    let mut bytes = fs::read(&image).unwrap();
    change(&mut bytes, 1000, image::fuzz::btrfs);
}
