//! The run: a queue of events in the order of time, the real scheduler and assemblers, and the invariants that must hold all along.

mod receiving;
mod sending;

use super::node::Node;
use super::path::Path;
use super::random::Random;
use super::scenario::{Conduct, FRAME_OVERHEAD_BYTES, SYMBOL_BYTES, Scenario, frame_bits};
use receiver::assemble::Micros;
use sender::schedule::{Event as Told, Group, Next, ReceiverId, ScheduleConfig, Scheduler, Totals};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use wire::packet::{Header, Kind};
use wire::report::{ChunkRange, DEFICITS_PER_REPORT_MAX, Deficit, RANGES_PER_REPORT_MAX, Report};
use wire::session::SessionParameters;
use wire::{ChunkId, Sequence, SessionId, StreamId, SymbolIndex};

const STREAM: StreamId = StreamId(0);
const SESSION: SessionId = SessionId(0xD15C);
/// All sums are counted anew after this many events; at every event it would be all that the simulator does.
const CHECK_EVERY: u64 = 997;

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
    /// Reports that reached the sender, liars' not counted.
    pub reports: u64,
    /// Deficits in them.
    pub report_entries: u64,
    /// Per receiver, when it was complete.
    pub complete_us: Vec<Option<u64>>,
    /// When the last one was.
    pub end_us: u64,
    /// Packets lost on the way to all receivers.
    pub packets_lost: u64,
    /// Events that were simulated.
    pub events: u64,
}

#[derive(Clone, Debug)]
enum Event {
    SenderWakes,
    SenderDies { down_us: u64 },
    SenderReturns,
    Starts { receiver: usize },
    Dies { receiver: usize },
    Disconnects { receiver: usize, down_us: u64 },
    Connects { receiver: usize, life: u32 },
    Lies { receiver: usize },
    Packet { receiver: usize, header: Packed },
    Finishes { receiver: usize, life: u32 },
    ReceiverWakes { receiver: usize },
    SenderHears { connection: u64, told: Box<Told> },
}

/// A header without what all packets of the run have in common.
#[derive(Clone, Copy, Debug)]
struct Packed {
    chunk: u32,
    sequence: u32,
    symbol: u16,
    source_symbols: u16,
}

struct Member {
    node: Option<Node>,
    path: Path,
    random: Random,
    /// Counts its starts; what belongs to an earlier life is void.
    life: u32,
    connection: Option<u64>,
    complete_us: Option<u64>,
    wakes_ns: Option<u64>,
    heard_ns: u64,
}

/// See the module's text.
pub struct World<'a> {
    scenario: &'a Scenario,
    parameters: SessionParameters,
    now_ns: u64,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    pushed: u64,
    handled: u64,
    scheduler: Option<Scheduler>,
    sender_life: u32,
    line: VecDeque<u64>,
    line_free_ns: u64,
    sender_wakes_ns: Option<u64>,
    next_sequence: Sequence,
    members: Vec<Member>,
    connections: u64,
    /// What the sender has been told that each listed receiver still wants; the reference for demand. Liars are in `liars`.
    listed: BTreeMap<ReceiverId, (usize, Vec<bool>)>,
    past: Totals,
    reports: u64,
    report_entries: u64,
}

impl<'a> World<'a> {
    /// Sets `scenario` up.
    pub fn new(scenario: &'a Scenario) -> World<'a> {
        let mut random = Random::new(scenario.seed ^ 0x5EED);
        let source_symbols_max = scenario.source_symbols.iter().copied().max().unwrap_or(1);
        let parameters = SessionParameters {
            session: SESSION,
            symbol_bytes: SYMBOL_BYTES,
            chunk_count: scenario.source_symbols.len() as u32,
            chunk_bytes_max: u32::from(source_symbols_max) * u32::from(SYMBOL_BYTES),
        };
        let member = |_| Member {
            node: None,
            path: Path::new(random.fork()),
            random: random.fork(),
            life: 0,
            connection: None,
            complete_us: None,
            wakes_ns: None,
            heard_ns: 0,
        };
        let members = scenario.receivers.iter().map(member).collect();
        let mut world = World {
            scenario,
            parameters,
            now_ns: 0,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            pushed: 0,
            handled: 0,
            scheduler: None,
            sender_life: 0,
            line: VecDeque::new(),
            line_free_ns: 0,
            sender_wakes_ns: None,
            next_sequence: Sequence(0),
            members,
            connections: 0,
            listed: BTreeMap::new(),
            past: Totals::default(),
            reports: 0,
            report_entries: 0,
        };
        world.scheduler = Some(world.new_scheduler());
        for (receiver, spec) in scenario.receivers.iter().enumerate() {
            world.at_us(spec.start_us, Event::Starts { receiver });
            for &(at_us, down_us) in &spec.disconnects {
                world.at_us(at_us, Event::Disconnects { receiver, down_us });
            }
            match spec.conduct {
                Conduct::Honest => {}
                Conduct::Crash { at_us, .. } => world.at_us(at_us, Event::Dies { receiver }),
                Conduct::Liar { interval_us } => world.at_us(spec.start_us + interval_us, Event::Lies { receiver }),
            }
        }
        for &(at_us, down_us) in &scenario.sender_restarts {
            world.at_us(at_us, Event::SenderDies { down_us });
        }
        world
    }

    /// Runs until everybody who can be complete is.
    ///
    /// # Errors
    /// Says which invariant failed, or who was not complete in time.
    pub fn run(mut self) -> Result<Outcome, String> {
        while !self.is_over() {
            let Some(Reverse((at_ns, _, slot))) = self.queue.pop() else {
                return Err(format!("nothing will ever happen again; {}", self.describe()));
            };
            let Some(event) = self.events[slot].take() else { continue };
            self.free.push(slot);
            self.now_ns = at_ns;
            self.handled += 1;
            if at_ns / 1_000 > self.scenario.limit_us {
                return Err(format!("not over after {} us; {}", self.scenario.limit_us, self.describe()));
            }
            self.handle(event).map_err(|error| format!("at {} us: {error}", at_ns / 1_000))?;
            if self.handled.is_multiple_of(CHECK_EVERY) {
                self.check().map_err(|error| format!("at {} us: {error}", at_ns / 1_000))?;
            }
        }
        self.check()?;
        self.note_totals();
        Ok(Outcome {
            symbols_sent: self.past.symbols_sent,
            repair_symbols_sent: self.past.repair_symbols_sent,
            symbols_needed: self.past.symbols_needed,
            syncs_sent: self.past.syncs_sent,
            reports: self.reports,
            report_entries: self.report_entries,
            complete_us: self.members.iter().map(|member| member.complete_us).collect(),
            end_us: self.now_ns / 1_000,
            packets_lost: self.members.iter().map(|member| member.path.lost).sum(),
            events: self.handled,
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
            format!("receiver {index}: {remaining:?} chunks remain, connection {:?}", member.connection)
        };
        let members: Vec<String> = self.members.iter().enumerate().filter(|(_, member)| member.complete_us.is_none()).map(of).collect();
        let rate = self.scheduler.as_ref().map(|scheduler| scheduler.rate_bits_per_second(STREAM));
        format!("{}; sender at {rate:?} bit/s, {:?}", members.join("; "), self.scheduler.as_ref().map(Scheduler::totals))
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

    fn at_us(&mut self, at_us: u64, event: Event) {
        self.at_ns(at_us * 1_000, event);
    }

    fn after_us(&mut self, delay_us: u64, event: Event) {
        self.at_ns(self.now_ns + delay_us * 1_000, event);
    }

    fn now(&self) -> Micros {
        Micros(self.now_ns / 1_000)
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::SenderWakes => {
                if self.sender_wakes_ns == Some(self.now_ns) {
                    self.sender_wakes_ns = None;
                    self.drive_sender()?;
                }
            }
            Event::SenderDies { down_us } => self.sender_dies(down_us),
            Event::SenderReturns => self.scheduler = Some(self.new_scheduler()),
            Event::Starts { receiver } => self.start(receiver),
            Event::Dies { receiver } => self.die(receiver),
            Event::Disconnects { receiver, down_us } => self.disconnect(receiver, down_us),
            Event::Connects { receiver, life } => {
                self.connect(receiver, life);
                // It may have become complete on its own.
                self.drive_receiver(receiver)?;
            }
            Event::Lies { receiver } => self.lie(receiver),
            Event::Packet { receiver, header } => self.packet(receiver, header)?,
            Event::Finishes { receiver, life } => self.finish(receiver, life)?,
            Event::ReceiverWakes { receiver } => {
                if self.members[receiver].wakes_ns == Some(self.now_ns) {
                    self.members[receiver].wakes_ns = None;
                    self.drive_receiver(receiver)?;
                }
            }
            Event::SenderHears { connection, told } => self.sender_hears(connection, *told)?,
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        if let Some(scheduler) = &self.scheduler {
            scheduler.check()?;
        }
        self.members.iter().filter_map(|member| member.node.as_ref()).try_for_each(Node::check)
    }
}
