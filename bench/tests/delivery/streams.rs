//! Several streams: as many as the devices call for, each machine in those groups that bring it something; and machines that cannot keep up.

use anyhow::{Result, ensure};

use crate::fixtures::Fixtures;
use crate::paths::memberships;
use crate::world::{ServeOptions, TRANSFER_LIMIT, World, finish, wait_until};

/// Groups of the four streams from 239.192.68.1 on, as `/proc/net/igmp` has them.
const GROUPS: [&str; 4] = ["0144C0EF", "0244C0EF", "0344C0EF", "0444C0EF"];
/// Exit code of a receiver that was dismissed.
const DISMISSED: i32 = 7;
/// Exit code of a sender of which some receiver did not get its image.
const INCOMPLETE: i32 = 8;

fn groups_of(world: &World, index: usize) -> Result<Vec<&'static str>> {
    let table = memberships(world.receiver(index), "igmp")?;
    Ok(GROUPS.into_iter().filter(|group| table.contains(group)).collect())
}

pub(crate) fn slow_devices_get_parallel_streams_and_join_only_their_own(fixtures: &Fixtures) -> Result<()> {
    let pack = fixtures.fleet()?;
    let world = World::new(3)?;
    let images = ["web", "db", "files"];
    // The sender may send 50 MB/s, each machine says that it restores a quarter of it.
    let sender = world.serve(&pack.path, &ServeOptions { once: Some(3), arguments: &["--straggler", "wait"] })?;
    let receivers: Vec<_> = images
        .iter()
        .enumerate()
        .map(|(index, image)| world.receive(&sender, index, image, &world.path(image), &["--restore-rate", "12M"]))
        .collect::<Result<_>>()?;
    wait_until("every machine in two groups, in four altogether", || {
        let mut joined = Vec::new();
        for index in 0..3 {
            let groups = groups_of(&world, index)?;
            if groups.len() != 2 {
                return Ok(false);
            }
            joined.extend(groups);
        }
        joined.sort_unstable();
        joined.dedup();
        Ok(joined.len() == 4)
    })?;
    for receiver in receivers {
        finish(receiver)?;
    }
    let summary = sender.finish()?;
    for image in images {
        pack.assert_delivered(image, &world.path(image))?;
    }
    let overhead = summary.symbols_sent as f64 / summary.symbols_needed as f64;
    ensure!(overhead < 1.05, "sent {overhead:.4} of what was needed");
    Ok(())
}

pub(crate) fn who_cannot_keep_up_takes_everything_by_unicast_where_the_operator_says_so(fixtures: &Fixtures) -> Result<()> {
    let pack = fixtures.fleet()?;
    let world = World::new(2)?;
    let sender = world.serve(&pack.path, &ServeOptions { once: Some(2), arguments: &["--straggler", "unicast:100M"] })?;
    let slow = world.receive(&sender, 0, "web", &world.path("web"), &["--restore-rate", "1M"])?;
    let other = world.receive(&sender, 1, "db", &world.path("db"), &["--restore-rate", "100M"])?;
    finish(other)?;
    let slow = finish(slow)?;
    sender.finish()?;
    // Some may have come before the sender made up its mind.
    ensure!(slow.chunks_by_unicast * 10 > slow.chunks * 9, "{} of {} chunks by unicast", slow.chunks_by_unicast, slow.chunks);
    pack.assert_delivered("web", &world.path("web"))?;
    pack.assert_delivered("db", &world.path("db"))
}

pub(crate) fn who_cannot_keep_up_is_dropped_where_the_operator_says_so(fixtures: &Fixtures) -> Result<()> {
    let pack = fixtures.fleet()?;
    let world = World::new(2)?;
    let sender = world.serve(&pack.path, &ServeOptions { once: Some(2), arguments: &["--straggler", "drop:100M"] })?;
    let slow = world.receive(&sender, 0, "web", &world.path("web"), &["--restore-rate", "1M"])?;
    let other = world.receive(&sender, 1, "db", &world.path("db"), &["--restore-rate", "100M"])?;
    finish(other)?;
    let slow = slow.wait(TRANSFER_LIMIT)?;
    ensure!(slow.code == Some(DISMISSED) && slow.stderr.contains("cannot keep up"), "{:?}:\n{}", slow.code, slow.stderr);
    let ended = sender.process.wait(TRANSFER_LIMIT)?;
    ensure!(ended.code == Some(INCOMPLETE), "the sender ended with {:?}:\n{}", ended.code, ended.stderr);
    pack.assert_delivered("db", &world.path("db"))
}
