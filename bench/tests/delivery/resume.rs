//! What a target holds already does not cross the wire: an older version of the image, or what a run that was killed has written.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use bench::lab::Programs;
use bench::lab::content::first_difference;
use image::manifest::Content;
use rustix::process::Signal;

use crate::fixtures::{Fixtures, Pack, SOLO_BYTES, run};
use crate::targets::{LoopDevice, Mount};
use crate::world::{PORT, ServeOptions, World, finish};

pub(crate) fn an_upgraded_image_costs_its_difference(fixtures: &Fixtures) -> Result<()> {
    let old = fixtures.filesystem()?;
    let world = World::new(1)?;
    let upgraded = world.path("upgraded.raw");
    fs::copy(old.original("root")?, &upgraded)?;
    upgrade(&upgraded, &world.path("mounted"))?;
    let pack = fixtures.pack("upgraded", &[("root", &upgraded)])?;
    // What was deleted is in free blocks of the image, and neither packed nor left on the disk: a restored copy is what is owed.
    let owed = world.path("owed.raw");
    run(Command::new(Programs::built()?.discus).args(["restore", "root", "--pack"]).arg(&pack.path).arg("--output").arg(&owed))?;
    let image_bytes = fs::metadata(&owed)?.len();
    ensure!(first_difference(&upgraded, &owed, image_bytes)?.is_some(), "nothing was deleted: that would show nothing");
    let (differing_chunks, differing_bytes) = difference(&pack, "root", &owed, old.original("root")?)?;
    let all_bytes = pack.stored_bytes()?;
    ensure!(differing_bytes * 2 < all_bytes, "{differing_bytes} of {all_bytes} bytes differ: that would show nothing");

    // A machine that runs the old version, on a disk larger than it.
    let disk = world.path("disk");
    fs::copy(old.original("root")?, &disk)?;
    File::options().write(true).open(&disk)?.set_len(fs::metadata(&disk)?.len() + (4 << 20))?;
    let device = LoopDevice::new(&disk)?;
    let sender = world.serve(&pack.path, &ServeOptions { once: Some(1), ..ServeOptions::default() })?;
    let received = finish(world.receive(&sender, 0, "root", &device.0, &["--resume"])?)?;
    let served = sender.finish()?;
    let difference = first_difference(&owed, &device.0, image_bytes)?;
    ensure!(difference.is_none(), "{} differs at byte {difference:?}", device.0.display());
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(&device.0))?;

    let wanted_chunks = received.chunks - received.resumed_chunks;
    ensure!(wanted_chunks == differing_chunks, "{wanted_chunks} chunks were wanted, {differing_chunks} differ");
    // Repaired losses and the last symbol of each chunk, which is not full, are the allowance.
    let sent_bytes = served.symbols_sent * served.symbol_bytes;
    ensure!(sent_bytes * 10 <= differing_bytes * 12, "{sent_bytes} bytes were sent for {differing_bytes} that differ: {served:?}");
    eprintln!("resume: {sent_bytes} bytes sent, {differing_bytes} bytes of chunks differ, of {all_bytes}");
    Ok(())
}

/// Some files go, some come, some are written anew: a tenth of the content.
fn upgrade(image: &Path, directory: &Path) -> Result<()> {
    let device = LoopDevice::new(image)?;
    let mount = Mount::new(&device.0, directory)?;
    let mut files: Vec<_> = fs::read_dir(directory.join("usr/bin"))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    for (number, file) in files.iter().enumerate().filter(|(number, _)| number % 10 < 2) {
        if number % 10 == 0 {
            fs::remove_file(file)?;
        } else {
            let mut content = fs::read(file)?;
            content.reverse();
            fs::write(file, content)?;
        }
    }
    fs::write(directory.join("etc-release"), "upgraded\n")?;
    drop(mount);
    Ok(())
}

/// Chunks of the pack's image, of which `new` is a restored copy, some byte of which is another one in `old`: how many, and their stored bytes.
fn difference(pack: &Pack, image: &str, new: &Path, old: &Path) -> Result<(u64, u64)> {
    let opened = image::Pack::open(&pack.path)?;
    let manifest = opened.manifest(opened.image_index(image)?)?;
    let (new, old) = (File::open(new)?, File::open(old)?);
    let mut differing = HashSet::new();
    for extent in manifest.extents() {
        if let Content::Data { chunk, .. } = extent.content {
            let (mut left, mut right) = (vec![0; extent.length as usize], vec![0; extent.length as usize]);
            new.read_exact_at(&mut left, extent.target_offset)?;
            old.read_exact_at(&mut right, extent.target_offset)?;
            if left != right {
                differing.insert(chunk);
            }
        }
    }
    let bytes = differing.iter().map(|&chunk| u64::from(manifest.chunks[chunk as usize].stored_bytes)).sum();
    Ok((differing.len() as u64, bytes))
}

pub(crate) fn a_killed_receiver_goes_on_where_it_was(fixtures: &Fixtures) -> Result<()> {
    let pack = fixtures.solo()?;
    let world = World::new(1)?;
    let server = format!("{}:{PORT}", world.lab.sender.ipv4);
    let sender = world.serve_at(&pack.path, &ServeOptions::default(), &server, "200M")?;
    let disk = world.path("disk");
    File::create(&disk)?.set_len(SOLO_BYTES)?;
    let device = LoopDevice::new(&disk)?;
    // However it ends, and without having been told that it will.
    let (file, another) = (world.path("target"), world.path("another"));
    for (target, signal) in [(&file, Signal::KILL), (&device.0, Signal::KILL), (&another, Signal::INT)] {
        let sent_before = world.lab.transmitted(&world.lab.sender)?.bytes;
        let killed = world.receive(&sender, 0, "solo", target, &[])?;
        world.wait_until_transmitted(sent_before + SOLO_BYTES / 2)?;
        killed.signal(signal)?;
        killed.wait(Duration::from_secs(5))?;
        ensure!(pack.assert_delivered("solo", target).is_err(), "{}: it was to be killed before its end", target.display());
        let received = finish(world.receive(&sender, 0, "solo", target, &["--resume"])?)?;
        pack.assert_delivered("solo", target)?;
        let share = received.resumed_chunks as f64 / received.chunks as f64;
        // Half had been sent; a few chunks were in flight, and those of a device's beginning come last.
        ensure!((0.3..0.7).contains(&share), "{}: {share:.3} of the chunks were found again", target.display());
    }
    sender.process.signal(Signal::TERM)?;
    Ok(())
}
