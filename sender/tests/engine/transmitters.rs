//! Several transmitters: streams are dealt to them in turn and stay in order, and the end of one is the end of the run.

use crate::fixture::{Broken, Fixture, PATIENCE, Stalled, Wire, ended};
use crossbeam_channel::{Receiver, Sender, unbounded};
use sender::control::{ControlEvent, Profile};
use sender::engine::{Ended, Engine};
use sender::schedule::ReceiverId;
use sender::transmit::{self, Mode, Packet, Transmit};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use wire::packet::{Header, Kind};
use wire::{ChunkId, StreamId, SymbolIndex};

const RATE_BITS_PER_SECOND: u64 = 1_000_000_000;

/// A receiver for each of two parts, who restores half of what may be sent: there are two streams then.
fn join_both(fixture: &Fixture, events: &Sender<ControlEvent>) {
    for (receiver, part) in (1..).map(ReceiverId).zip(fixture.parts(2)) {
        let profile = Profile { restore_bytes_per_second: RATE_BITS_PER_SECOND / 8 / 2, ..Profile::default() };
        events.send(ControlEvent::Joined { receiver, image: 0, want: vec![part], profile }).unwrap();
    }
}

/// Dies of a defect.
struct Defective;

impl Transmit for Defective {
    fn send(&mut self, _packets: &[Packet<'_>]) -> Result<usize, transmit::Error> {
        panic!("the test wants this panic");
    }

    fn flush(&mut self, _limit: Duration) -> bool {
        false
    }

    fn mode(&self) -> Mode {
        Mode::Udp
    }
}

/// What one transmitter was given.
#[derive(Default)]
struct Heard {
    symbols: BTreeSet<(ChunkId, SymbolIndex)>,
    last: Option<Header>,
}

impl Heard {
    /// Takes in what has come, which is of `stream` and in order.
    fn take(&mut self, wire: &Receiver<(Header, Vec<u8>)>, stream: StreamId) {
        for (header, _) in wire.try_iter() {
            assert_eq!(header.stream, stream, "a stream leaves by one transmitter");
            if let Some(last) = self.last {
                assert_eq!(header.sequence.since(last.sequence), 1, "sequence numbers have no gaps");
            }
            self.last = Some(header);
            if header.kind == Kind::Symbol {
                self.symbols.insert((header.chunk, header.symbol));
            }
        }
    }
}

#[test]
fn each_stream_leaves_in_order_by_a_transmitter_of_its_own() {
    let fixture = Fixture::new(40);
    let (wires, outs): (Vec<_>, Vec<_>) = (0..2).map(|_| unbounded()).unzip();
    let transmitters = wires.into_iter().map(|wire| Box::new(Wire(wire)) as Box<dyn Transmit>).collect();
    let (engine, events) = fixture.start_on(transmitters, RATE_BITS_PER_SECOND);
    join_both(&fixture, &events);
    let all: usize = fixture.pack.chunks().iter().map(|chunk| usize::from(fixture.parameters.source_symbols(chunk.stored_bytes))).sum();
    let mut heard = [Heard::default(), Heard::default()];
    let deadline = Instant::now() + PATIENCE;
    while heard[0].symbols.union(&heard[1].symbols).count() < all {
        assert!(Instant::now() < deadline, "{} and {} of {all} symbols", heard[0].symbols.len(), heard[1].symbols.len());
        std::thread::sleep(Duration::from_millis(5));
        for ((heard, wire), stream) in heard.iter_mut().zip(&outs).zip([StreamId(0), StreamId(1)]) {
            heard.take(wire, stream);
        }
    }
    let sent: Vec<u64> = engine.sent_by_transmitter().iter().map(|sent| sent.packets).collect();
    assert!(sent.iter().zip(&heard).all(|(&sent, heard)| sent > 0 && sent >= heard.symbols.len() as u64), "{sent:?}");
    assert!(heard.iter().all(|heard| heard.symbols.len() > all / 4), "both carry a good part");
    assert!(engine.sent().packets >= sent.iter().sum());
}

/// Runs with a good transmitter and this one until the end, which has to come; then the threads end soon.
fn run_beside(transmit: impl Transmit + 'static, until: impl FnOnce(&Engine)) -> Ended {
    let fixture = Fixture::new(40);
    let (wire, _packets) = unbounded();
    let (engine, events) = fixture.start_on(vec![Box::new(Wire(wire)), Box::new(transmit)], RATE_BITS_PER_SECOND);
    join_both(&fixture, &events);
    until(&engine);
    let how = ended(&engine);
    let stopping = Instant::now();
    drop(engine);
    assert!(stopping.elapsed() < Duration::from_secs(5));
    how
}

#[test]
fn a_transmitter_that_breaks_ends_the_run() {
    let Ended::Failed(error) = run_beside(Broken, |_| ()) else { panic!("not failed") };
    assert!(error.to_string().contains("the test broke it"));
}

#[test]
fn a_transmitter_that_dies_of_a_defect_ends_the_run() {
    assert!(matches!(run_beside(Defective, |_| ()), Ended::Stopped));
}

#[test]
fn a_link_that_stalls_for_one_transmitter_is_noticed_and_stops_nobody() {
    let how = run_beside(Stalled, |engine| {
        let deadline = Instant::now() + PATIENCE;
        while !engine.is_stalled() {
            assert!(Instant::now() < deadline, "the stall is noticed");
            std::thread::sleep(Duration::from_millis(10));
        }
        engine.stop();
    });
    assert!(matches!(how, Ended::Stopped));
}
