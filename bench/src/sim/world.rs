//! The run: a queue of events in the order of time, the real scheduler and assemblers, and the invariants that must hold all along.

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

    // The sender.

    fn new_scheduler(&self) -> Scheduler {
        Scheduler::new(ScheduleConfig {
            parameters: self.parameters,
            source_symbols: self.scenario.source_symbols.clone(),
            streams: vec![STREAM],
            rate_cap_bits_per_second: self.scenario.cap_bits_per_second,
            rate_floor_bits_per_second: self.scenario.cap_bits_per_second / 100,
            frame_overhead_bytes: FRAME_OVERHEAD_BYTES,
        })
    }

    fn sender_dies(&mut self, down_us: u64) {
        self.note_totals();
        self.scheduler = None;
        self.sender_life += 1;
        self.next_sequence = Sequence(0);
        self.listed.clear();
        self.line.clear();
        self.sender_wakes_ns = None;
        self.after_us(down_us, Event::SenderReturns);
        for receiver in 0..self.members.len() {
            if self.members[receiver].connection.take().is_some() {
                let (life, back_off_us) = (self.members[receiver].life, self.members[receiver].random.between(1_000, 300_000));
                self.after_us(down_us + back_off_us, Event::Connects { receiver, life });
            }
        }
    }

    fn note_totals(&mut self) {
        if let Some(totals) = self.scheduler.as_ref().map(Scheduler::totals) {
            self.past.symbols_sent += totals.symbols_sent;
            self.past.repair_symbols_sent += totals.repair_symbols_sent;
            self.past.symbols_needed = self.past.symbols_needed.max(totals.symbols_needed);
            self.past.syncs_sent += totals.syncs_sent;
        }
    }

    /// The sender's engine: keeps a few groups ahead of the line.
    fn drive_sender(&mut self) -> Result<(), String> {
        let now = self.now();
        let mut wake_ns = None;
        while self.line.front().is_some_and(|&end_ns| end_ns <= self.now_ns) {
            self.line.pop_front();
        }
        while self.line.len() < self.scenario.groups_ahead {
            let Some(scheduler) = &mut self.scheduler else { return Ok(()) };
            match scheduler.next(now, STREAM) {
                Next::Group(group) => self.send_group(&group)?,
                Next::Sync { sequence } => self.send_sync(sequence)?,
                Next::Wait { until } => {
                    if until.is_some_and(|until| until <= now) {
                        return Err(format!("told to wait until {until:?}, which is past"));
                    }
                    if until.is_none() && self.listed.values().any(|(_, want)| want.contains(&true)) {
                        return Err("told to wait for ever while somebody wants something".into());
                    }
                    wake_ns = until.map(|until| until.0 * 1_000);
                    break;
                }
            }
        }
        if self.line.len() >= self.scenario.groups_ahead {
            wake_ns = self.line.front().copied();
        }
        if let Some(wake_ns) = wake_ns {
            self.sender_wakes_ns = Some(wake_ns);
            self.at_ns(wake_ns, Event::SenderWakes);
        }
        Ok(())
    }

    fn packet_ns(&self) -> u64 {
        let rate = self.scheduler.as_ref().map_or(1, |scheduler| scheduler.rate_bits_per_second(STREAM));
        frame_bits() * 1_000_000_000 / rate.min(self.scenario.line_bits_per_second).max(1)
    }

    fn send_group(&mut self, group: &Group) -> Result<(), String> {
        if group.stream != STREAM || group.first_sequence != self.next_sequence || group.packet_count() == 0 || group.chunks.len() > 16 {
            return Err(format!(
                "a group of {} chunks at {} where {} was next",
                group.chunks.len(),
                group.first_sequence,
                self.next_sequence
            ));
        }
        for part in &group.chunks {
            let k = self.scenario.source_symbols[part.chunk.index()];
            let mut symbols: Vec<u16> = part.symbols.iter().map(|symbol| symbol.0).collect();
            symbols.sort_unstable();
            symbols.dedup();
            let sound =
                symbols.len() == part.symbols.len() && symbols.last().is_some_and(|&last| last < k + wire::erasure::repair_symbols(k));
            if !sound || part.source_symbols != k {
                return Err(format!("chunk {} with K {} and symbols {:?}", part.chunk, part.source_symbols, part.symbols));
            }
            if !self.listed.values().any(|(_, want)| want[part.chunk.index()]) {
                return Err(format!("chunk {} is sent and nobody wants it", part.chunk));
            }
        }
        let packet_ns = self.packet_ns();
        let mut departs_ns = self.line_free_ns.max(self.now_ns);
        let mut sequence = group.first_sequence;
        for (index, symbol) in group.packets() {
            departs_ns += packet_ns;
            let part = &group.chunks[index];
            self.multicast(departs_ns, part.chunk.0, symbol, part.source_symbols, sequence);
            sequence = sequence.after(1);
        }
        if sequence != group.sync_sequence() {
            return Err("the sync does not follow the group".into());
        }
        self.send_sync_at(departs_ns + packet_ns, sequence);
        self.line.push_back(self.line_free_ns);
        Ok(())
    }

    fn send_sync(&mut self, sequence: Sequence) -> Result<(), String> {
        if sequence != self.next_sequence {
            return Err(format!("a sync at {sequence} where {} was next", self.next_sequence));
        }
        let departs_ns = self.line_free_ns.max(self.now_ns) + self.packet_ns();
        self.send_sync_at(departs_ns, sequence);
        Ok(())
    }

    fn send_sync_at(&mut self, departs_ns: u64, sequence: Sequence) {
        self.line_free_ns = departs_ns;
        self.multicast(departs_ns, self.parameters.chunk_count, SymbolIndex(0), 0, sequence);
        self.next_sequence = sequence.after(1);
    }

    fn multicast(&mut self, departs_ns: u64, chunk: u32, symbol: SymbolIndex, source_symbols: u16, sequence: Sequence) {
        let scenario = self.scenario;
        for (receiver, spec) in scenario.receivers.iter().enumerate() {
            let member = &mut self.members[receiver];
            if member.complete_us.is_some() {
                continue;
            }
            // Whether there is somebody to take it is seen when it arrives.
            let header = Packed { chunk, sequence: sequence.0, symbol: symbol.0, source_symbols };
            for arrives_ns in member.path.carry(spec, departs_ns).into_iter().flatten() {
                self.at_ns(arrives_ns, Event::Packet { receiver, header });
            }
        }
    }

    fn sender_hears(&mut self, connection: u64, told: Told) -> Result<(), String> {
        let now = self.now();
        let Some(scheduler) = &mut self.scheduler else { return Ok(()) };
        let id = ReceiverId(connection);
        match &told {
            Told::Joined { want, .. } => {
                let receiver = self.members.iter().position(|member| member.connection == Some(connection));
                // The connection may have broken while its first message was on the way.
                let Some(receiver) = receiver else { return Ok(()) };
                let mut wanted = vec![false; self.scenario.source_symbols.len()];
                want.iter().flat_map(|range| range.chunks()).for_each(|chunk| wanted[chunk.index()] = true);
                self.listed.insert(id, (receiver, wanted));
            }
            Told::Reported { report, .. } => {
                let Some((receiver, want)) = self.listed.get_mut(&id) else { return Ok(()) };
                let completed = report.completed.iter().flat_map(|range| range.first.index()..range.first.index() + range.count as usize);
                completed.filter_map(|chunk| want.get_mut(chunk).map(|want| *want = false)).for_each(drop);
                if !matches!(self.scenario.receivers[*receiver].conduct, Conduct::Liar { .. }) {
                    self.reports += 1;
                    self.report_entries += report.deficits.len() as u64;
                    check_report(report)?;
                }
            }
            Told::Left { .. } => {
                if self.listed.remove(&id).is_none() {
                    return Ok(());
                }
            }
        }
        scheduler.handle(now, told);
        if let Some((_, want)) = self.listed.get(&id) {
            let expected = want.iter().filter(|&&want| want).count() as u32;
            if scheduler.remaining(id) != Some(expected) {
                return Err(format!("the sender takes {:?} chunks to remain where {expected} do", scheduler.remaining(id)));
            }
        }
        self.drive_sender()
    }

    // The receivers.

    fn start(&mut self, receiver: usize) {
        let spec = &self.scenario.receivers[receiver];
        let node = Node::new(self.parameters, &self.scenario.source_symbols, &self.scenario.images[spec.image], spec);
        let member = &mut self.members[receiver];
        member.life += 1;
        member.complete_us = node.assembler.is_done().then_some(self.now_ns / 1_000);
        member.node = Some(node);
        let life = member.life;
        self.at_ns(self.now_ns, Event::Connects { receiver, life });
    }

    fn connect(&mut self, receiver: usize, life: u32) {
        if self.members[receiver].life != life
            || self.members[receiver].connection.is_some()
            || self.members[receiver].complete_us.is_some()
        {
            return;
        }
        let Some(node) = &mut self.members[receiver].node else { return };
        if self.scheduler.is_none() {
            self.after_us(100_000, Event::Connects { receiver, life });
            return;
        }
        node.assembler.reconnected();
        node.assembler.set_report_interval(self.scenario.receivers[receiver].report_interval_us);
        let want = node.assembler.wanted();
        self.connections += 1;
        let connection = self.connections;
        self.members[receiver].connection = Some(connection);
        self.tell(receiver, Told::Joined { receiver: ReceiverId(connection), want });
    }

    /// Sends something over the receiver's connection, behind everything that it sent before.
    fn tell(&mut self, receiver: usize, told: Told) {
        let spec = &self.scenario.receivers[receiver];
        let member = &mut self.members[receiver];
        let Some(connection) = member.connection else { return };
        let delay_us = spec.report_latency_us + member.random.below(spec.report_jitter_us + 1);
        member.heard_ns = member.heard_ns.max(self.now_ns + delay_us * 1_000);
        let heard_ns = member.heard_ns;
        self.at_ns(heard_ns, Event::SenderHears { connection, told: Box::new(told) });
    }

    fn disconnect(&mut self, receiver: usize, down_us: u64) {
        let Some(connection) = self.members[receiver].connection else { return };
        self.tell(receiver, Told::Left { receiver: ReceiverId(connection) });
        self.members[receiver].connection = None;
        let life = self.members[receiver].life;
        self.after_us(down_us, Event::Connects { receiver, life });
    }

    fn die(&mut self, receiver: usize) {
        let Conduct::Crash { noticed_us, back_us, .. } = self.scenario.receivers[receiver].conduct else { return };
        let member = &mut self.members[receiver];
        if member.complete_us.is_some() {
            return;
        }
        member.node = None;
        member.life += 1;
        if let Some(connection) = member.connection.take() {
            let told = Box::new(Told::Left { receiver: ReceiverId(connection) });
            let noticed_ns = (noticed_us * 1_000).max(member.heard_ns);
            self.at_ns(noticed_ns, Event::SenderHears { connection, told });
        }
        if let Some(back_us) = back_us {
            self.at_us(back_us, Event::Starts { receiver });
        }
    }

    fn packet(&mut self, receiver: usize, packed: Packed) -> Result<(), String> {
        let parameters = self.parameters;
        let member = &mut self.members[receiver];
        let Some(node) = &mut member.node else { return Ok(()) };
        let header = Header {
            kind: if packed.chunk == parameters.chunk_count { Kind::Sync } else { Kind::Symbol },
            session: SESSION,
            chunk: ChunkId(packed.chunk),
            symbol: SymbolIndex(packed.symbol),
            source_symbols: packed.source_symbols,
            sequence: Sequence(packed.sequence),
            stream: STREAM,
        };
        let was_idle = !node.is_finishing();
        if node.packet(&header)? && was_idle {
            self.schedule_finish(receiver);
        }
        self.drive_receiver(receiver)
    }

    fn schedule_finish(&mut self, receiver: usize) {
        let life = self.members[receiver].life;
        self.after_us(self.scenario.receivers[receiver].finish_us, Event::Finishes { receiver, life });
    }

    fn finish(&mut self, receiver: usize, life: u32) -> Result<(), String> {
        let member = &mut self.members[receiver];
        let Some(node) = member.node.as_mut().filter(|_| member.life == life) else { return Ok(()) };
        let sound = !member.random.chance_ppm(self.scenario.receivers[receiver].corrupt_ppm);
        node.finish(sound)?;
        if node.is_finishing() {
            self.schedule_finish(receiver);
        }
        self.drive_receiver(receiver)
    }

    /// Reports what is due, sees to it that the next report is not forgotten, and leaves when all is done.
    fn drive_receiver(&mut self, receiver: usize) -> Result<(), String> {
        let now = self.now();
        let member = &mut self.members[receiver];
        let Some(node) = &mut member.node else { return Ok(()) };
        let honest = !matches!(self.scenario.receivers[receiver].conduct, Conduct::Liar { .. });
        if member.connection.is_some() && member.complete_us.is_none() && honest {
            let report = node.assembler.report(now);
            if node.assembler.is_done() {
                node.check()?;
                member.complete_us = Some(now.0);
            } else if report.is_none() {
                if let Some(due_at) = node.assembler.report_due_at() {
                    let due_ns = due_at.0 * 1_000;
                    if member.wakes_ns != Some(due_ns) {
                        member.wakes_ns = Some(due_ns);
                        self.at_ns(due_ns, Event::ReceiverWakes { receiver });
                    }
                }
            }
            if let Some(report) = report {
                let id = ReceiverId(self.members[receiver].connection.unwrap_or(0));
                self.tell(receiver, Told::Reported { receiver: id, report });
            }
            if self.members[receiver].complete_us.is_some() {
                let id = ReceiverId(self.members[receiver].connection.unwrap_or(0));
                self.tell(receiver, Told::Left { receiver: id });
            }
        }
        Ok(())
    }

    fn lie(&mut self, receiver: usize) {
        let Conduct::Liar { interval_us } = self.scenario.receivers[receiver].conduct else { return };
        let chunks = u64::from(self.parameters.chunk_count);
        let random = &mut self.members[receiver].random;
        let near = self.next_sequence.0.wrapping_sub(random.below(10_000) as u32);
        let sequence = random.pick(&[near, near.wrapping_add(20_000), random.clone().bits() as u32]);
        let completed = match random.chance_ppm(100_000) {
            true => vec![ChunkRange { first: ChunkId(random.below(chunks) as u32), count: random.between(1, chunks) as u32 }],
            false => Vec::new(),
        };
        let deficits = (0..random.below(60)).map(|_| Deficit {
            chunk: ChunkId(random.below(chunks + 2) as u32),
            symbols: random.pick(&[0, 1, 2, 10, 187, u16::MAX]),
            missing: (0..random.below(20)).map(|_| SymbolIndex(random.below(260) as u16)).collect(),
        });
        let report = Report {
            deficits: deficits.collect(),
            passed: vec![(StreamId(random.below(3) as u16), Sequence(sequence)), (STREAM, Sequence(sequence))],
            completed,
            packets_seen: random.below(1_000),
            packets_sent: random.below(1_000),
            backlog_permille: random.below(1_500) as u16,
        };
        if let Some(connection) = self.members[receiver].connection {
            self.tell(receiver, Told::Reported { receiver: ReceiverId(connection), report });
        }
        self.after_us(interval_us, Event::Lies { receiver });
    }

    fn check(&self) -> Result<(), String> {
        if let Some(scheduler) = &self.scheduler {
            scheduler.check()?;
        }
        self.members.iter().filter_map(|member| member.node.as_ref()).try_for_each(Node::check)
    }
}

fn check_report(report: &Report) -> Result<(), String> {
    if report.deficits.len() > DEFICITS_PER_REPORT_MAX || report.completed.len() > RANGES_PER_REPORT_MAX {
        return Err("a report is larger than the schema allows".into());
    }
    let mut chunks: Vec<u32> = report.deficits.iter().map(|deficit| deficit.chunk.0).collect();
    chunks.sort_unstable();
    match chunks.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("chunk {} stands twice in one report", pair[0])),
        None => Ok(()),
    }
}
