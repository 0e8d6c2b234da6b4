//! The run: the real scheduler and assemblers in simulated time, and the invariants that must hold all along.
//!
//! Time goes in windows as long as the fastest report takes to the sender. What receivers say in a window is heard after it, and what the sender sends
//! reaches nobody before it is sent: so in each window first the sender acts, then every receiver, each by itself and in the order of its own events. The
//! outcome is that of one queue of all events, at a fraction of its cost.

mod sending;

use super::carried::Carried;
use super::member::{Fetch, Listening, Member, Message, Surroundings};
use super::node::{Bits, Pack};
use super::random::Random;
use super::scenario::{Conduct, FRAME_OVERHEAD_BYTES, SYMBOL_BYTES, Scenario, frame_bits, sync_bits};
use super::wire::{Packed, Wire};
use receiver::assemble::Micros;
use sender::schedule::{Delivery, DeliveryConfig, Event as Told, Group, Next, Order, ReceiverId, ScheduleConfig, StragglerPolicy, Totals};
use sending::Line;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use wire::report::{DEFICITS_PER_REPORT_MAX, RANGES_PER_REPORT_MAX, Report};
use wire::session::SessionParameters;
use wire::{ChunkId, Sequence, SessionId, StreamId};

pub(super) const SESSION: SessionId = SessionId(0xD15C);
/// All sums are counted anew when so many packets have arrived per receiver and chunk: at every event it would be all that the simulator does.
const CHECK_EVERY: u64 = 4;
/// From this many receivers on, they are shared among threads.
const PARALLEL_FROM: usize = 1_000;

/// What came of a run.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// Packets with symbols that were sent, over all lives of the sender.
    pub symbols_sent: u64,
    /// Of these, repair symbols.
    pub repair_symbols_sent: u64,
    /// K of every chunk that was sent, once.
    pub symbols_needed: u64,
    /// Syncs sent.
    pub syncs_sent: u64,
    /// Symbols that receivers were asked to fetch by unicast.
    pub symbols_by_unicast: u64,
    /// Reports that reached the sender, liars' not counted.
    pub reports: u64,
    /// Deficits in them.
    pub report_entries: u64,
    /// … of those that came in the second half of the time.
    pub report_entries_late: u64,
    /// Of `symbols_needed`, that of chunks first sent in the second half of the time.
    pub symbols_needed_late: u64,
    /// Per receiver, when it was complete.
    pub complete_us: Vec<Option<u64>>,
    /// Per receiver, how many symbols had left the sender when it last started.
    pub symbols_missed: Vec<u64>,
    /// When the last one was.
    pub end_us: u64,
    /// Packets lost on the way to all receivers.
    pub packets_lost: u64,
    /// Events that were simulated, packets that arrive included.
    pub events: u64,
}

impl Outcome {
    /// Symbols that left the sender, by multicast or unicast, over those needed.
    pub fn sent_over_needed(&self) -> f64 {
        (self.symbols_sent + self.symbols_by_unicast) as f64 / self.symbols_needed.max(1) as f64
    }
}

#[derive(Debug)]
enum Event {
    Wakes(usize),
    Dies { down_us: u64 },
    Returns,
    Hears(Box<Message>),
}

/// A listed receiver as the sender was told of it: the reference for demand.
struct Listed {
    receiver: usize,
    want: Bits,
}

/// See the module's text.
pub struct World<'a> {
    scenario: &'a Scenario,
    pack: Pack,
    now_ns: u64,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    pushed: u64,
    handled: u64,
    sender: Option<Delivery>,
    sender_life: usize,
    lines: Vec<Line>,
    wires: Vec<Wire>,
    members: Vec<Member>,
    listed: BTreeMap<ReceiverId, Listed>,
    listening: BTreeMap<ReceiverId, Listening>,
    fetches: BTreeMap<ReceiverId, Vec<Fetch>>,
    /// Connections that are no more: what comes late on them is lost.
    closed: BTreeSet<ReceiverId>,
    past: Totals,
    reports: u64,
    /// When entries came, and when chunks were first sent, in steps of 1 ms: to see what it was like once warmed up.
    entries_by_ms: Vec<u32>,
    needed_by_ms: Vec<u32>,
    checked_after: u64,
}

impl<'a> World<'a> {
    /// Sets `scenario` up.
    pub fn new(scenario: &'a Scenario) -> World<'a> {
        let mut random = Random::new(scenario.seed ^ 0x5EED);
        let source_symbols_max = scenario.source_symbols.iter().copied().max().unwrap_or(1);
        let pack = Pack {
            parameters: SessionParameters {
                session: SESSION,
                symbol_bytes: SYMBOL_BYTES,
                chunk_count: scenario.source_symbols.len() as u32,
                chunk_bytes_max: u32::from(source_symbols_max) * u32::from(SYMBOL_BYTES),
            },
            source_symbols: scenario.source_symbols.clone(),
            images: scenario.images.clone(),
            carried: scenario.carry_bytes.then(|| Carried::new(scenario.seed, &scenario.source_symbols)),
        };
        let streams = scenario.streams.max(1);
        let mut world = World {
            scenario,
            now_ns: 0,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            pushed: 0,
            handled: 0,
            sender: None,
            sender_life: 0,
            lines: (0..streams).map(|_| Line::default()).collect(),
            wires: (0..streams).map(|_| Wire::default()).collect(),
            members: (0..scenario.receivers.len()).map(|index| Member::new(index, scenario, &mut random)).collect(),
            listed: BTreeMap::new(),
            listening: BTreeMap::new(),
            fetches: BTreeMap::new(),
            closed: BTreeSet::new(),
            past: Totals::default(),
            reports: 0,
            entries_by_ms: Vec::new(),
            needed_by_ms: Vec::new(),
            checked_after: 0,
            pack,
        };
        world.sender = Some(world.new_sender());
        for &(at_us, down_us) in &scenario.sender_restarts {
            world.at_ns(at_us * 1_000, Event::Dies { down_us });
        }
        world
    }

    /// Runs until everybody who can be complete is.
    ///
    /// # Errors
    /// Says which invariant failed, or who was not complete in time.
    pub fn run(mut self) -> Result<Outcome, String> {
        let window_ns = self.scenario.receivers.iter().map(|spec| spec.report_latency_us * 1_000).min().unwrap_or(0).max(1_000);
        while !self.is_over() {
            let member_ns = self.members.iter().filter_map(|member| member.next_ns(&self.wires)).min();
            let sender_ns = self.queue.peek().map(|Reverse((at_ns, ..))| *at_ns);
            let Some(begins_ns) = member_ns.into_iter().chain(sender_ns).min() else {
                return Err(format!("nothing will ever happen again; {}", self.describe()));
            };
            if begins_ns / 1_000 > self.scenario.limit_us {
                return Err(format!("not over after {} us; {}", self.scenario.limit_us, self.describe()));
            }
            let until_ns = begins_ns + window_ns;
            self.advance_sender(until_ns).map_err(|error| format!("at {} us: {error}", self.now_ns / 1_000))?;
            self.advance_members(until_ns).map_err(|error| format!("at {} us: {error}", self.now_ns / 1_000))?;
            self.now_ns = until_ns;
            for (stream, wire) in self.wires.iter_mut().enumerate() {
                // Nobody looks back further than it has come.
                match self.members.iter().filter_map(|member| member.looks_from(stream)).min() {
                    Some(ordinal) => wire.forget_before(ordinal),
                    None => wire.forget_until(until_ns),
                }
            }
            self.check_at_times().map_err(|error| format!("at {} us: {error}", self.now_ns / 1_000))?;
        }
        self.check()?;
        self.note_totals();
        let half = self.needed_by_ms.len() / 2;
        let late = |counts: &[u32]| counts.iter().skip(half).map(|&count| u64::from(count)).sum();
        Ok(Outcome {
            symbols_sent: self.past.symbols_sent,
            repair_symbols_sent: self.past.repair_symbols_sent,
            symbols_needed: self.past.symbols_needed,
            syncs_sent: self.past.syncs_sent,
            symbols_by_unicast: self.past.symbols_by_unicast,
            reports: self.reports,
            report_entries: self.entries_by_ms.iter().map(|&count| u64::from(count)).sum(),
            report_entries_late: late(&self.entries_by_ms),
            symbols_needed_late: late(&self.needed_by_ms),
            complete_us: self.members.iter().map(|member| member.complete_us).collect(),
            symbols_missed: self.members.iter().map(|member| member.symbols_missed).collect(),
            end_us: self.members.iter().filter_map(|member| member.complete_us).max().unwrap_or(0),
            packets_lost: self.members.iter().map(|member| member.path.lost).sum(),
            events: self.handled + self.packets(),
        })
    }

    fn is_over(&self) -> bool {
        self.members.iter().zip(&self.scenario.receivers).all(|(member, spec)| {
            let excused = match spec.conduct {
                Conduct::Honest => false,
                Conduct::Crash { at_us, back_us, .. } => back_us.is_none() && self.now_ns / 1_000 > at_us,
                Conduct::Liar { .. } => true,
            };
            excused || member.complete_us.is_some()
        })
    }

    fn describe(&self) -> String {
        let of = |(index, member): (usize, &Member)| {
            let remaining = member.node.as_ref().map(|node| node.assembler.remaining());
            format!("receiver {index}: {remaining:?} chunks remain")
        };
        let waiting = self.members.iter().enumerate().filter(|(_, member)| member.complete_us.is_none());
        let members: Vec<String> = waiting.take(20).map(of).collect();
        let rate = self.sender.as_ref().map(|sender| sender.rate_bits_per_second(StreamId(0)));
        format!("{}; sender at {rate:?} bit/s, {:?}", members.join("; "), self.sender.as_ref().map(Delivery::totals))
    }

    fn packets(&self) -> u64 {
        self.members.iter().map(|member| member.handled).sum()
    }

    fn at_ns(&mut self, at_ns: u64, event: Event) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[slot] = Some(event);
        self.pushed += 1;
        self.queue.push(Reverse((at_ns, self.pushed, slot)));
    }

    fn now(&self) -> Micros {
        Micros(self.now_ns / 1_000)
    }

    fn advance_sender(&mut self, until_ns: u64) -> Result<(), String> {
        while let Some(&Reverse((at_ns, _, slot))) = self.queue.peek().filter(|Reverse((at_ns, ..))| *at_ns < until_ns) {
            self.queue.pop();
            let Some(event) = self.events[slot].take() else { continue };
            self.free.push(slot);
            self.now_ns = at_ns;
            self.handled += 1;
            match event {
                Event::Wakes(stream) => self.wake(stream)?,
                Event::Dies { down_us } => self.sender_dies(down_us),
                Event::Returns => self.sender = Some(self.new_sender()),
                Event::Hears(message) => self.hear(*message)?,
            }
        }
        Ok(())
    }

    fn advance_members(&mut self, until_ns: u64) -> Result<(), String> {
        let around = Surroundings {
            scenario: self.scenario,
            pack: &self.pack,
            wires: &self.wires,
            report_interval_us: self.sender.as_ref().map_or(0, Delivery::report_interval_us),
            listening: &self.listening,
            fetches: &self.fetches,
        };
        let advance = |members: &mut [Member]| {
            let mut messages = Vec::new();
            members.iter_mut().try_for_each(|member| member.advance(&around, until_ns, &mut messages)).map(|()| messages)
        };
        let threads = if self.members.len() < PARALLEL_FROM { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) };
        let all: Vec<Result<Vec<Message>, String>> = if threads == 1 {
            vec![advance(&mut self.members)]
        } else {
            let share = self.members.len().div_ceil(threads);
            std::thread::scope(|scope| {
                let threads: Vec<_> = self.members.chunks_mut(share).map(|members| scope.spawn(|| advance(members))).collect();
                let join = |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|_| Err("a thread panicked".into()));
                threads.into_iter().map(join).collect()
            })
        };
        // In the order of the receivers, however many threads there were.
        for messages in all {
            for message in messages? {
                if message.heard_ns < until_ns {
                    return Err("a receiver was heard before it spoke".into());
                }
                self.at_ns(message.heard_ns, Event::Hears(Box::new(message)));
            }
        }
        Ok(())
    }

    fn check_at_times(&mut self) -> Result<(), String> {
        let packets = self.packets();
        let sums = (self.members.len() * self.scenario.source_symbols.len()) as u64;
        if packets < self.checked_after + sums * CHECK_EVERY {
            return Ok(());
        }
        self.checked_after = packets;
        self.check()
    }

    fn check(&self) -> Result<(), String> {
        if let Some(sender) = &self.sender {
            sender.check()?;
        }
        self.members.iter().filter_map(|member| member.node.as_ref()).try_for_each(|node| node.check(&self.pack))
    }
}
