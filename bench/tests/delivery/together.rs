//! Several machines at once, and what their delivery costs on the wire.

use anyhow::{Result, ensure};

use crate::fixtures::{Fixtures, Pack};
use crate::world::{ServeOptions, ServeSummary, World, finish};

/// Sent over needed when nothing is lost.
const OVERHEAD_WITHOUT_LOSS_MAX: f64 = 1.005;
/// Symbol bytes sent over the pack's stored bytes: the last symbol of a chunk is padded.
const PADDED_MAX: f64 = 1.02;

pub(crate) fn three_machines_get_three_images_from_one_stream(fixtures: &Fixtures) -> Result<()> {
    let pack = fixtures.fleet()?;
    let world = World::new(3)?;
    let images = ["web", "db", "files"];
    let sender = world.serve(&pack.path, &ServeOptions { once: Some(3), ..ServeOptions::default() })?;
    let receivers = images.iter().enumerate().map(|(index, image)| world.receive(&sender, index, image, &world.path(image), &[]));
    for receiver in receivers.collect::<Result<Vec<_>>>()? {
        finish(receiver)?;
    }
    let summary = sender.finish()?;
    for image in images {
        pack.assert_delivered(image, &world.path(image))?;
    }
    ensure!(summary.receivers.len() == 3 && summary.receivers.iter().all(|receiver| receiver.state == "completed"), "{summary:?}");
    assert_sent_once(&pack, &summary)
}

pub(crate) fn without_loss_nothing_is_sent_twice(fixtures: &Fixtures) -> Result<()> {
    let pack = fixtures.solo()?;
    let world = World::new(1)?;
    let sender = world.serve(&pack.path, &ServeOptions { once: Some(1), ..ServeOptions::default() })?;
    finish(world.receive(&sender, 0, "solo", &world.path("target"), &[])?)?;
    let summary = sender.finish()?;
    pack.assert_delivered("solo", &world.path("target"))?;
    assert_sent_once(&pack, &summary)
}

/// Every chunk of the pack crossed the wire once, for however many machines.
fn assert_sent_once(pack: &Pack, summary: &ServeSummary) -> Result<()> {
    let overhead = summary.symbols_sent as f64 / summary.symbols_needed as f64;
    ensure!(overhead <= OVERHEAD_WITHOUT_LOSS_MAX, "sent {overhead:.4} of what was needed: {summary:?}");
    let needed = summary.symbols_needed * summary.symbol_bytes;
    ensure!(needed >= pack.stored_bytes()?, "the pack cannot have been needed as a whole: {summary:?}");
    let padded = (summary.symbols_sent * summary.symbol_bytes) as f64 / pack.stored_bytes()? as f64;
    ensure!(padded <= PADDED_MAX, "sent {padded:.4} bytes for each stored one: {summary:?}");
    Ok(())
}

pub(crate) fn a_packet_that_only_others_want_never_passes_the_filter(fixtures: &Fixtures) -> Result<()> {
    let pack = fixtures.fleet()?;
    let world = World::new(2)?;
    let sender = world.serve(&pack.path, &ServeOptions { once: Some(2), ..ServeOptions::default() })?;
    let web = world.receive(&sender, 0, "web", &world.path("web"), &[])?;
    let db = world.receive(&sender, 1, "db", &world.path("db"), &[])?;
    let (web, db) = (finish(web)?, finish(db)?);
    let served = sender.finish()?;
    let chunks = [pack.chunks_of("web")?, pack.chunks_of("db")?];
    let symbols = |chunks: &mut dyn Iterator<Item = &(u32, u32)>| -> u64 {
        chunks.map(|&(_, stored_bytes)| u64::from(stored_bytes).div_ceil(served.symbol_bytes).max(1)).sum()
    };
    let repeated = served.symbols_sent - served.symbols_needed;
    for (image, chunks, counts) in [("web", &chunks[0], &web.packets), ("db", &chunks[1], &db.packets)] {
        pack.assert_delivered(image, &world.path(image))?;
        let wanted = symbols(&mut chunks.iter());
        // The chunks that only the other wants would be a third more; syncs pass every filter.
        let accepted_max = wanted + repeated + served.syncs_sent;
        ensure!(counts.accepted >= wanted, "{image}: {counts:?}, {wanted} symbols wanted");
        ensure!(counts.accepted <= accepted_max, "{image}: {counts:?}, at most {accepted_max} were for it");
        ensure!(counts.seen == counts.accepted + counts.dropped, "{image}: {counts:?} do not add up");
    }
    // What only `web` wants is sent before what only `db` wants, so `db` is still there to see and drop all of it.
    let foreign = symbols(&mut chunks[0].iter().filter(|chunk| !chunks[1].contains(chunk)));
    ensure!(foreign > 10_000 && db.packets.dropped >= foreign, "{:?}, {foreign} symbols were only for web", db.packets);
    Ok(())
}
