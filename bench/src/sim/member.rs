//! One receiver of a run: its life and its network; its control connection is in `connection`, what the sender told it in `orders`.
//!
//! Between two exchanges with the sender a member depends on nobody else, so that members can be taken through a stretch of time one after the other,
//! or in parallel: each with its own agenda, its own chance, and the packets of the streams to read.

mod connection;
mod orders;

use super::node::{Node, Pack};
use super::path::Path;
use super::random::Random;
use super::scenario::{self, Conduct, Scenario};
use super::wire::{Packed, Wire};
use super::world::SESSION;
use sender::schedule::{Event as Told, ReceiverId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use wire::packet::{Header, Kind};
use wire::report::ChunkRange;
use wire::{ChunkId, Sequence, StreamId, SymbolIndex};

/// What all members see.
pub(super) struct Surroundings<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) pack: &'a Pack,
    pub(super) wires: &'a [Wire],
    /// Least time between reports that the sender asks for, where it is asked.
    pub(super) report_interval_us: u64,
    /// What the sender told on each connection.
    pub(super) listening: &'a BTreeMap<ReceiverId, Listening>,
    pub(super) fetches: &'a BTreeMap<ReceiverId, Vec<Fetch>>,
}

/// The streams that a receiver is to listen to.
#[derive(Debug)]
pub(super) struct Listening {
    /// Counts the orders from 1.
    pub(super) version: u64,
    /// When it hears of it.
    pub(super) heard_ns: u64,
    pub(super) streams: Vec<StreamId>,
}

/// Chunks that a receiver is to fetch the rest of.
#[derive(Debug)]
pub(super) struct Fetch {
    /// When it hears of it.
    pub(super) heard_ns: u64,
    pub(super) chunks: Vec<ChunkRange>,
}

/// Something on its way to the sender.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) heard_ns: u64,
    /// To which of the sender's lives the connection belongs.
    pub(super) sender_life: usize,
    pub(super) connection: ReceiverId,
    pub(super) told: Told,
    /// What comes later on this connection is lost.
    pub(super) is_last: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Starts,
    Dies,
    Disconnects(usize),
    SenderDies { down_us: u64 },
    Connects { life: u32 },
    Lies,
    Astray(Packed),
    Finishes { life: u32 },
    Wakes,
    Listens { connection: ReceiverId, version: u64 },
    Fetched { connection: ReceiverId, chunk: u32 },
    Prioritized { priority: i16 },
}

/// See the module's text.
pub(super) struct Member {
    index: usize,
    pub(super) node: Option<Node>,
    pub(super) path: Path,
    random: Random,
    now_ns: u64,
    agenda: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    put: u64,
    /// Per stream, the next packet to look at.
    cursors: Vec<u64>,
    /// The packet that arrives next in its turn.
    pending: Option<(u64, Packed)>,
    /// Counts its starts; what belongs to an earlier life is void.
    life: u32,
    connections: u64,
    connection: Option<(ReceiverId, usize)>,
    pub(super) complete_us: Option<u64>,
    /// Symbols that had left the sender when it started.
    pub(super) symbols_missed: u64,
    wakes_ns: Option<u64>,
    heard_ns: u64,
    report_interval_us: u64,
    /// What the operator says of it at present.
    priority: i16,
    /// It has said on this connection what it restores.
    has_shown_rate: bool,
    /// The streams that it listens to, and the last order that it took notice of.
    streams: Vec<StreamId>,
    told_version: u64,
    /// Orders to fetch that it took notice of.
    told_fetches: usize,
    pub(super) handled: u64,
}

impl Member {
    pub(super) fn new(index: usize, scenario: &Scenario, random: &mut Random) -> Member {
        let spec = &scenario.receivers[index];
        let mut member = Member {
            index,
            node: None,
            path: Path::new(random.fork()),
            random: random.fork(),
            now_ns: 0,
            agenda: BinaryHeap::new(),
            put: 0,
            cursors: Vec::new(),
            pending: None,
            life: 0,
            connections: 0,
            connection: None,
            complete_us: None,
            symbols_missed: 0,
            wakes_ns: None,
            heard_ns: 0,
            report_interval_us: 0,
            priority: spec.priority,
            has_shown_rate: false,
            streams: Vec::new(),
            told_version: 0,
            told_fetches: 0,
            handled: 0,
        };
        member.at_us(spec.start_us, Happening::Starts);
        for (which, disconnect) in spec.disconnects.iter().enumerate() {
            member.at_us(disconnect.at_us, Happening::Disconnects(which));
        }
        for &(at_us, priority) in &spec.priority_changes {
            member.at_us(at_us, Happening::Prioritized { priority });
        }
        match spec.conduct {
            Conduct::Honest => {}
            Conduct::Crash { at_us, .. } => member.at_us(at_us, Happening::Dies),
            Conduct::Liar { interval_us } => member.at_us(spec.start_us + interval_us, Happening::Lies),
        }
        for &(at_us, down_us) in &scenario.sender_restarts {
            member.at_us(at_us, Happening::SenderDies { down_us });
        }
        member
    }

    /// Whether it listens to `stream`.
    fn listens(&self, stream: usize) -> bool {
        self.streams.contains(&StreamId(stream as u16))
    }

    /// When something happens to it, at the earliest.
    pub(super) fn next_ns(&self, wires: &[Wire]) -> Option<u64> {
        let due_ns = self.agenda.peek().map(|Reverse((due_ns, ..))| *due_ns);
        let packet_ns = match self.pending {
            Some((arrives_ns, _)) => Some(arrives_ns),
            None if self.node.is_some() => self.departing(wires).map(|(departs_ns, ..)| departs_ns),
            None => None,
        };
        due_ns.into_iter().chain(packet_ns).min()
    }

    /// The packet of `stream` that it has not looked at yet; `None` while it looks at none.
    pub(super) fn looks_from(&self, stream: usize) -> Option<u64> {
        self.node.as_ref().filter(|_| self.listens(stream)).and_then(|_| self.cursors.get(stream).copied())
    }

    /// Takes it to `until_ns`; what it says goes to `messages`.
    ///
    /// # Errors
    /// Says which invariant failed.
    pub(super) fn advance(&mut self, around: &Surroundings<'_>, until_ns: u64, messages: &mut Vec<Message>) -> Result<(), String> {
        self.hear_orders(around);
        loop {
            self.fetch(around, until_ns);
            let due_ns = self.agenda.peek().map_or(u64::MAX, |Reverse((due_ns, ..))| *due_ns);
            match self.pending {
                Some((arrives_ns, packet)) if arrives_ns < until_ns && arrives_ns <= due_ns => {
                    self.pending = None;
                    self.now_ns = arrives_ns;
                    self.handled += 1;
                    self.packet(around, packet, messages)?;
                }
                _ if due_ns < until_ns => {
                    let Some(Reverse((_, _, happening))) = self.agenda.pop() else { return Ok(()) };
                    self.now_ns = due_ns;
                    self.handled += 1;
                    self.happens(around, happening, messages)?;
                }
                _ => return Ok(()),
            }
        }
    }

    fn spec<'a>(&self, around: &Surroundings<'a>) -> &'a scenario::Receiver {
        &around.scenario.receivers[self.index]
    }

    fn at_ns(&mut self, at_ns: u64, happening: Happening) {
        self.put += 1;
        self.agenda.push(Reverse((at_ns, self.put, happening)));
    }

    fn at_us(&mut self, at_us: u64, happening: Happening) {
        self.at_ns(at_us.saturating_mul(1_000), happening);
    }

    fn after_us(&mut self, delay_us: u64, happening: Happening) {
        self.at_ns(self.now_ns + delay_us * 1_000, happening);
    }

    // The network.

    /// The packet that leaves the sender next of those that were not looked at: when, in which stream, what.
    fn departing(&self, wires: &[Wire]) -> Option<(u64, usize, Packed)> {
        let of_stream = |(stream, wire): (usize, &Wire)| {
            let (departs_ns, packet) = wire.get(*self.cursors.get(stream).filter(|_| self.listens(stream))?)?;
            Some((departs_ns, stream, packet))
        };
        wires.iter().enumerate().filter_map(of_stream).min()
    }

    /// Looks at packets that leave before `until_ns` until one arrives in its turn.
    fn fetch(&mut self, around: &Surroundings<'_>, until_ns: u64) {
        if self.node.is_none() {
            return;
        }
        while self.pending.is_none() {
            let Some((departs_ns, stream, packet)) = self.departing(around.wires).filter(|&(departs_ns, ..)| departs_ns < until_ns) else {
                return;
            };
            let ordinal = self.cursors[stream] | (stream as u64) << 40;
            self.cursors[stream] += 1;
            let bits = if packet.is_sync() { scenario::sync_bits() } else { scenario::frame_bits() };
            let arrivals = self.path.carry(around.scenario.seed, self.spec(around), ordinal, departs_ns, bits);
            self.pending = arrivals.in_turn_ns.map(|arrives_ns| (arrives_ns, packet));
            for arrives_ns in arrivals.astray_ns.into_iter().flatten() {
                self.at_ns(arrives_ns, Happening::Astray(packet));
            }
        }
    }

    fn packet(&mut self, around: &Surroundings<'_>, packed: Packed, messages: &mut Vec<Message>) -> Result<(), String> {
        let Some(node) = &mut self.node else { return Ok(()) };
        let is_sync = packed.chunk == around.pack.parameters.chunk_count;
        let header = Header {
            kind: if is_sync { Kind::Sync } else { Kind::Symbol },
            session: SESSION,
            chunk: ChunkId(packed.chunk),
            symbol: SymbolIndex(packed.symbol),
            source_symbols: packed.source_symbols,
            sequence: Sequence(packed.sequence),
            stream: StreamId(packed.stream),
        };
        let was_idle = !node.is_finishing();
        let completes = node.packet(around.pack, &header)?;
        if completes && was_idle {
            self.schedule_finish(around);
        }
        if completes || is_sync { self.drive(around, messages) } else { Ok(()) }
    }

    // Its life.

    fn happens(&mut self, around: &Surroundings<'_>, happening: Happening, messages: &mut Vec<Message>) -> Result<(), String> {
        match happening {
            Happening::Starts => self.start(around),
            Happening::Dies => self.die(around, messages),
            Happening::Disconnects(which) => self.disconnect(around, which, messages),
            Happening::SenderDies { down_us } => {
                if self.connection.take().is_some() {
                    let (life, back_off_us) = (self.life, self.random.between(1_000, 300_000));
                    self.after_us(down_us + back_off_us, Happening::Connects { life });
                }
            }
            Happening::Connects { life } => {
                self.connect(around, life, messages);
                // It may have become complete on its own.
                self.drive(around, messages)?;
            }
            Happening::Lies => self.lie(around, messages),
            Happening::Listens { connection, version } => self.listen(around, connection, version),
            Happening::Fetched { connection, chunk } => {
                if self.connection.is_some_and(|(current, _)| current == connection) {
                    self.fetched(around, ChunkId(chunk), messages)?;
                }
            }
            Happening::Prioritized { priority } => {
                self.priority = priority;
                if let Some((receiver, _)) = self.connection {
                    self.tell(around, Told::Prioritized { receiver, priority }, messages);
                }
            }
            Happening::Astray(packet) => self.packet(around, packet, messages)?,
            Happening::Finishes { life } => self.finish(around, life, messages)?,
            Happening::Wakes => {
                if self.wakes_ns == Some(self.now_ns) {
                    self.wakes_ns = None;
                    self.drive(around, messages)?;
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, around: &Surroundings<'_>) {
        let node = Node::new(around.pack, self.spec(around));
        self.life += 1;
        self.complete_us = node.assembler.is_done().then_some(self.now_ns / 1_000);
        self.node = Some(node).filter(|_| self.complete_us.is_none());
        self.cursors = around.wires.iter().map(|wire| wire.first_from(self.now_ns)).collect();
        self.symbols_missed = around.wires.iter().map(|wire| wire.symbols_before(self.now_ns)).sum();
        self.streams = vec![StreamId(0)];
        self.pending = None;
        self.at_ns(self.now_ns, Happening::Connects { life: self.life });
    }

    fn die(&mut self, around: &Surroundings<'_>, messages: &mut Vec<Message>) {
        let Conduct::Crash { noticed_us, back_us, .. } = self.spec(around).conduct else { return };
        if self.complete_us.is_some() {
            return;
        }
        (self.node, self.pending) = (None, None);
        self.life += 1;
        if let Some((connection, sender_life)) = self.connection.take() {
            let heard_ns = (noticed_us * 1_000).max(self.heard_ns).max(self.now_ns + self.spec(around).report_latency_us * 1_000);
            let told = Told::Left { receiver: connection };
            messages.push(Message { heard_ns, sender_life, connection, told, is_last: true });
        }
        if let Some(back_us) = back_us {
            self.at_us(back_us, Happening::Starts);
        }
    }

    fn schedule_finish(&mut self, around: &Surroundings<'_>) {
        let life = self.life;
        self.after_us(self.spec(around).finish_us, Happening::Finishes { life });
    }

    fn finish(&mut self, around: &Surroundings<'_>, life: u32, messages: &mut Vec<Message>) -> Result<(), String> {
        let Some(node) = self.node.as_mut().filter(|_| self.life == life) else { return Ok(()) };
        let sound = !self.random.chance_ppm(around.scenario.receivers[self.index].corrupt_ppm);
        node.finish(sound)?;
        if node.is_finishing() {
            self.schedule_finish(around);
        }
        self.drive(around, messages)
    }
}
