//! The whole engine, from packets to files, with a scripted sender in place of the network: no root, no namespaces.
#![allow(clippy::unwrap_used)] // Helpers of tests too: a panic is how they fail.

mod stage;

use std::fs::{self, File};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use image::Pack;
use receiver::control::{FromSender, ToSender};
use receiver::engine::{self, Error, Finished, MemoryPlan};
use stage::*;
use wire::ChunkId;
use wire::report::ChunkRange;

fn assert_equal(served: &Served) {
    assert!(fs::read(&served.source).unwrap() == fs::read(served.target()).unwrap(), "the target differs");
}

#[test]
fn an_image_arrives_byte_exact_through_heavy_loss() {
    for workers in [0, 2] {
        let served = Served::disk(2000);
        let link = Script::new([FromSender::NeedReady], true);
        let run = Run { workers, ..Run::default() };
        let finished = run.run(&served, Carousel::new(&served, 10), &link).unwrap();
        assert_eq!(finished, Finished { acknowledged: true });
        assert_equal(&served);
        assert_eq!(link.said(|message| matches!(message, ToSender::Ready { want, .. } if !want.is_empty())), 1);
        assert_eq!(link.said(|message| matches!(message, ToSender::Complete { .. })), 1);
        assert!(link.said(|message| matches!(message, ToSender::Report(_))) > 0);
        let progress = &run.progress;
        assert!(progress.chunks_decoded.load(Ordering::Relaxed) > 0, "10 % loss and nothing decoded");
        assert_eq!(progress.written_bytes.load(Ordering::Relaxed), progress.total_bytes.load(Ordering::Relaxed));
        assert_eq!(progress.chunks_verified.load(Ordering::Relaxed), served.pack.chunks().len() as u64);
    }
}

#[test]
fn a_forged_symbol_spoils_its_chunk_once_and_nothing_wrong_is_written() {
    let served = Served::disk(500);
    let mut carousel = Carousel::new(&served, 0);
    carousel.forged = Some(1);
    let run = Run::default();
    run.run(&served, carousel, &Script::new([FromSender::NeedReady], true)).unwrap();
    assert_equal(&served);
    assert_eq!(run.progress.chunks_corrupt.load(Ordering::Relaxed), 1);
}

#[test]
fn the_least_memory_is_enough() {
    let served = Served::disk(6000);
    let needed = MemoryPlan::new(0, 0, &served.parameters(), engine::is_compressed(&served.manifest()), 0).unwrap_err();
    let run = Run { memory_bytes: needed.needed_bytes(), ..Run::default() };
    run.run(&served, Carousel::new(&served, 25), &Script::new([FromSender::NeedReady], true)).unwrap();
    assert_equal(&served);
}

#[test]
fn an_image_without_data_is_whole_at_once() {
    let served = Served::new(|path| File::create(path).unwrap().set_len(1 << 20).unwrap());
    let link = Script::new([FromSender::NeedReady], true);
    let finished = Run::default().run(&served, Silence, &link).unwrap();
    assert!(finished.acknowledged);
    assert_equal(&served);
    assert_eq!(link.said(|message| matches!(message, ToSender::Ready { want, .. } if want.is_empty())), 1);
}

#[test]
fn chunks_that_come_by_unicast_and_multicast_are_written_once() {
    let served = Served::disk(6000);
    let all = ChunkRange { first: ChunkId(0), count: served.parameters().chunk_count };
    let events = [FromSender::NeedReady, FromSender::Listed, FromSender::TakeByUnicast(vec![all])];
    let pack = Some(Pack::open(served.pack.path()).unwrap());
    let link = Script { pack, ..Script::new(events, true) };
    // The least memory: chunks in assembly have to make room for those that are here whole.
    let needed = MemoryPlan::new(0, 0, &served.parameters(), engine::is_compressed(&served.manifest()), 0).unwrap_err();
    let run = Run { memory_bytes: needed.needed_bytes(), ..Run::default() };
    run.run(&served, Carousel::new(&served, 25), &link).unwrap();
    assert_equal(&served);
    let chunks = served.pack.chunks().len() as u64;
    let by_unicast = run.progress.chunks_by_unicast.load(Ordering::Relaxed);
    assert!(by_unicast > 0 && by_unicast <= chunks, "{by_unicast} of {chunks}");
    assert_eq!(run.progress.chunks_verified.load(Ordering::Relaxed), chunks);
}

/// Runs where the end of every chunk is lacking, and its rest is to be fetched; what was said, and how many chunks came by unicast.
fn end_by_unicast(clipped_passes: u32, rest_fails: bool) -> (Vec<ToSender>, u64) {
    let served = Served::disk(3000);
    let all = ChunkRange { first: ChunkId(0), count: served.parameters().chunk_count };
    let pack = Some(Pack::open(served.pack.path()).unwrap());
    let rest = Mutex::new(Some(vec![all]));
    let link = Script { pack, rest, rest_fails, ..Script::new([FromSender::NeedReady, FromSender::Listed], true) };
    let run = Run::default();
    run.run(&served, Carousel { clipped_passes, ..Carousel::new(&served, 0) }, &link).unwrap();
    assert_equal(&served);
    assert_eq!(run.progress.chunks_verified.load(Ordering::Relaxed), served.pack.chunks().len() as u64);
    let said = std::mem::take(&mut *link.said.lock().unwrap());
    (said, run.progress.chunks_by_unicast.load(Ordering::Relaxed))
}

#[test]
fn of_chunks_that_lack_their_last_symbols_only_these_are_fetched() {
    let (said, by_unicast) = end_by_unicast(u32::MAX, false);
    let asked = said.iter().filter_map(|message| match message {
        ToSender::Fetch { symbols, .. } => Some(symbols),
        _ => None,
    });
    let asked: Vec<_> = asked.flatten().collect();
    assert!(by_unicast > 0 && asked.iter().all(|(_, symbols)| (1..=3).contains(&symbols.len())), "{asked:?}");
}

#[test]
fn what_cannot_be_fetched_of_them_comes_by_multicast() {
    let (said, by_unicast) = end_by_unicast(20, true);
    assert!(said.iter().any(|message| matches!(message, ToSender::Fetch { .. })));
    assert_eq!(by_unicast, 0);
}

#[test]
fn a_tree_arrives() {
    let served = Served::new(|path| {
        fs::create_dir(path).unwrap();
        fs::create_dir(path.join("model")).unwrap();
        fs::write(path.join("model/weights"), (0..300_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).unwrap();
        fs::write(path.join("empty"), "").unwrap();
        std::os::unix::fs::symlink("model/weights", path.join("link")).unwrap();
    });
    Run { workers: 1, ..Run::default() }.run(&served, Carousel::new(&served, 5), &Script::new([FromSender::NeedReady], true)).unwrap();
    let read = |root: &Path, name: &str| fs::read(root.join(name)).unwrap();
    for name in ["model/weights", "empty", "link"] {
        assert!(read(&served.source, name) == read(&served.target(), name), "{name}");
    }
}

#[test]
fn when_stopped_the_sender_hears_it_and_the_target_does_not_look_whole() {
    let served = Served::disk(500);
    let link = Script::new([FromSender::NeedReady], true);
    let run = Run::default();
    run.stop.store(true, Ordering::Relaxed);
    let error = run.run(&served, Silence, &link).unwrap_err();
    assert!(matches!(error, Error::Interrupted));
    assert_eq!(link.said(|message| matches!(message, ToSender::Failed(_))), 1);
    assert!(!served.target().exists());
}

#[test]
fn a_sender_that_is_gone_or_dismisses_ends_the_run() {
    let served = Served::disk(500);
    let gone = Run::default().run(&served, Silence, &Script::new([FromSender::GaveUp("60 s".to_owned())], true));
    assert!(matches!(gone, Err(Error::SenderLost(why)) if why == "60 s"));
    let dismissed = Run::default().run(&served, Silence, &Script::new([FromSender::Dismissed("not you".to_owned())], true));
    assert!(matches!(dismissed, Err(Error::Dismissed(why)) if why == "not you"));
    assert!(!served.target().exists());
}

#[test]
fn an_image_is_whole_even_if_nobody_confirms_it() {
    let served = Served::disk(100);
    let link = Script::new([FromSender::NeedReady], false);
    let finished = Run::default().run(&served, Carousel::new(&served, 0), &link).unwrap();
    assert!(!finished.acknowledged);
    assert_equal(&served);
}

#[test]
fn a_sender_that_comes_back_at_the_end_is_told_again() {
    let served = Served::new(|path| File::create(path).unwrap().set_len(1 << 20).unwrap());
    let link = Script::new([FromSender::NeedReady], false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while link.said(|message| matches!(message, ToSender::Complete { .. })) == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            link.answers.send(FromSender::Lost("reset".to_owned())).unwrap();
            link.answers.send(FromSender::NeedReady).unwrap();
            while link.said(|message| matches!(message, ToSender::Complete { .. })) == 1 {
                std::thread::sleep(Duration::from_millis(1));
            }
            link.answers.send(FromSender::Acknowledged).unwrap();
        });
        let finished = Run::default().run(&served, Silence, &link).unwrap();
        assert!(finished.acknowledged);
    });
    assert_eq!(link.said(|message| matches!(message, ToSender::Ready { want, .. } if want.is_empty())), 2);
}
