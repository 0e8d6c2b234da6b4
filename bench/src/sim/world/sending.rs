//! The sender's side of the run: its engine around the real delivery, the lines, and what it may and may not send.

use super::*;
use std::collections::VecDeque;

/// One stream on its way out.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// When the groups that were taken from the scheduler will have left.
    ends_ns: VecDeque<u64>,
    free_ns: u64,
    wakes_ns: Option<u64>,
    next_sequence: u32,
}

impl World<'_> {
    pub(super) fn new_sender(&self) -> Delivery {
        let schedule = ScheduleConfig {
            parameters: self.pack.parameters,
            source_symbols: self.scenario.source_symbols.clone(),
            streams: (0..self.lines.len() as u16).map(StreamId).collect(),
            rate_cap_bits_per_second: self.scenario.cap_bits_per_second,
            rate_floor_bits_per_second: self.scenario.floor_bits_per_second,
            frame_overhead_bytes: FRAME_OVERHEAD_BYTES,
        };
        let stragglers = StragglerPolicy::default();
        let last_by_unicast = self.scenario.last_by_unicast;
        Delivery::new(DeliveryConfig { schedule, classes: self.scenario.classes(), stragglers, last_by_unicast })
    }

    pub(super) fn sender_dies(&mut self, down_us: u64) {
        self.note_totals();
        self.sender = None;
        self.sender_life += 1;
        self.listed.clear();
        self.closed.clear();
        self.listening.clear();
        self.fetches.clear();
        for line in &mut self.lines {
            *line = Line { free_ns: line.free_ns, ..Line::default() };
        }
        self.at_ns(self.now_ns + down_us * 1_000, Event::Returns);
    }

    pub(super) fn note_totals(&mut self) {
        if let Some(totals) = self.sender.as_ref().map(Delivery::totals) {
            self.past.symbols_sent += totals.symbols_sent;
            self.past.repair_symbols_sent += totals.repair_symbols_sent;
            self.past.symbols_needed = self.past.symbols_needed.max(totals.symbols_needed);
            self.past.syncs_sent += totals.syncs_sent;
            self.past.symbols_by_unicast += totals.symbols_by_unicast;
        }
    }

    pub(super) fn wake(&mut self, stream: usize) -> Result<(), String> {
        if self.lines[stream].wakes_ns != Some(self.now_ns) {
            return Ok(());
        }
        self.lines[stream].wakes_ns = None;
        self.drive_sender(stream)
    }

    /// The sender's engine: keeps a few groups ahead of the line.
    fn drive_sender(&mut self, stream: usize) -> Result<(), String> {
        let outcome = self.supply_line(stream);
        self.pass_orders_on();
        outcome
    }

    fn supply_line(&mut self, stream: usize) -> Result<(), String> {
        let now = self.now();
        while self.lines[stream].ends_ns.front().is_some_and(|&end_ns| end_ns <= self.now_ns) {
            self.lines[stream].ends_ns.pop_front();
        }
        let mut wake_ns = None;
        while self.lines[stream].ends_ns.len() < self.scenario.groups_ahead {
            let Some(sender) = &mut self.sender else { return Ok(()) };
            let needed = sender.totals().symbols_needed;
            match sender.next(now, StreamId(stream as u16)) {
                Next::Group(group) => {
                    let needed = sender.totals().symbols_needed - needed;
                    count(&mut self.needed_by_ms, now, needed);
                    self.send_group(stream, &group)?;
                }
                Next::Sync { sequence } => self.send_sync(stream, sequence)?,
                Next::Wait { until } => {
                    if until.is_some_and(|until| until <= now) {
                        return Err(format!("told to wait until {until:?}, which is past"));
                    }
                    if until.is_none() && self.lines.len() == 1 && self.listed.values().any(|listed| listed.want.count() > 0) {
                        return Err("told to wait for ever while somebody wants something".into());
                    }
                    wake_ns = until.map(|until| until.0 * 1_000);
                    break;
                }
            }
        }
        let line = &mut self.lines[stream];
        if line.ends_ns.len() >= self.scenario.groups_ahead {
            wake_ns = line.ends_ns.front().copied();
        }
        if wake_ns.is_some() && line.wakes_ns != wake_ns {
            line.wakes_ns = wake_ns;
            self.at_ns(wake_ns.unwrap_or(self.now_ns), Event::Wakes(stream));
        }
        Ok(())
    }

    /// How long so many bits take at the stream's rate.
    fn bits_ns(&self, stream: usize, bits: u64) -> u64 {
        let rate = self.sender.as_ref().map_or(1, |sender| sender.rate_bits_per_second(StreamId(stream as u16)));
        bits * 1_000_000_000 / rate.min(self.scenario.line_bits_per_second).max(1)
    }

    fn send_group(&mut self, stream: usize, group: &Group) -> Result<(), String> {
        let next = Sequence(self.lines[stream].next_sequence);
        if group.stream.0 as usize != stream || group.first_sequence != next || group.packet_count() == 0 || group.chunks.len() > 64 {
            return Err(format!("a group of {} chunks at {} where {next} was next", group.chunks.len(), group.first_sequence));
        }
        let mut sent = Bits::new(self.pack.source_symbols.len());
        for part in &group.chunks {
            let k = self.scenario.source_symbols[part.chunk.index()];
            let mut symbols: Vec<u16> = part.symbols.iter().map(|symbol| symbol.0).collect();
            symbols.sort_unstable();
            symbols.dedup();
            let sound =
                symbols.len() == part.symbols.len() && symbols.last().is_some_and(|&last| last < k + wire::erasure::repair_symbols(k));
            if !sound || part.source_symbols != k || sent.get(part.chunk) {
                return Err(format!("chunk {} with K {} and symbols {:?}", part.chunk, part.source_symbols, part.symbols));
            }
            sent.set(part.chunk, true);
            if !self.listed.values().any(|listed| listed.want.get(part.chunk)) {
                return Err(format!("chunk {} is sent and nobody wants it", part.chunk));
            }
        }
        let packet_ns = self.bits_ns(stream, frame_bits());
        let mut departs_ns = self.lines[stream].free_ns.max(self.now_ns);
        let mut sequence = group.first_sequence;
        for (index, symbol) in group.packets() {
            departs_ns += packet_ns;
            let part = &group.chunks[index];
            let packet = Packed {
                chunk: part.chunk.0,
                sequence: sequence.0,
                symbol: symbol.0,
                source_symbols: part.source_symbols,
                stream: stream as u16,
            };
            self.wires[stream].push(departs_ns, packet);
            sequence = sequence.after(1);
        }
        if sequence != group.sync_sequence() {
            return Err("the sync does not follow the group".into());
        }
        self.send_sync_at(stream, departs_ns + self.bits_ns(stream, sync_bits()), sequence);
        let line = &mut self.lines[stream];
        line.ends_ns.push_back(line.free_ns);
        Ok(())
    }

    fn send_sync(&mut self, stream: usize, sequence: Sequence) -> Result<(), String> {
        let line = &self.lines[stream];
        if sequence.0 != line.next_sequence {
            return Err(format!("a sync at {sequence} where {} was next", line.next_sequence));
        }
        let departs_ns = line.free_ns.max(self.now_ns) + self.bits_ns(stream, sync_bits());
        self.send_sync_at(stream, departs_ns, sequence);
        Ok(())
    }

    fn send_sync_at(&mut self, stream: usize, departs_ns: u64, sequence: Sequence) {
        let line = &mut self.lines[stream];
        line.free_ns = departs_ns;
        line.next_sequence = sequence.after(1).0;
        let packet =
            Packed { chunk: self.pack.parameters.chunk_count, sequence: sequence.0, symbol: 0, source_symbols: 0, stream: stream as u16 };
        self.wires[stream].push(departs_ns, packet);
    }

    pub(super) fn hear(&mut self, message: Message) -> Result<(), String> {
        let Message { sender_life, connection, told, is_last, .. } = message;
        let now = self.now();
        if sender_life != self.sender_life || self.closed.contains(&connection) {
            return Ok(());
        }
        if is_last {
            self.closed.insert(connection);
        }
        let Some(sender) = &mut self.sender else { return Ok(()) };
        match &told {
            Told::Joined { want, .. } => {
                let mut wanted = Bits::new(self.pack.source_symbols.len());
                want.iter().flat_map(|range| range.chunks()).for_each(|chunk| wanted.set(chunk, true));
                self.listed.insert(connection, Listed { receiver: (connection.0 & u64::from(u32::MAX)) as usize, want: wanted });
            }
            Told::Reported { report, .. } => {
                let Some(listed) = self.listed.get_mut(&connection) else { return Ok(()) };
                let completed = report.completed.iter().flat_map(|range| range.first.0..range.first.0 + range.count);
                completed.for_each(|chunk| listed.want.set(ChunkId(chunk), false));
                if !matches!(self.scenario.receivers[listed.receiver].conduct, Conduct::Liar { .. }) {
                    self.reports += 1;
                    count(&mut self.entries_by_ms, now, report.deficits.len() as u64);
                    check_report(report)?;
                }
            }
            Told::Prioritized { .. } => {}
            Told::Left { .. } => {
                if self.listed.remove(&connection).is_none() {
                    return Ok(());
                }
            }
        }
        match told {
            Told::Joined { receiver, want } => {
                let spec = &self.scenario.receivers[(receiver.0 & u64::from(u32::MAX)) as usize];
                sender.join(now, receiver, &want, spec.restore_bytes_per_second, false);
            }
            told => sender.handle(now, told),
        }
        if let Some(listed) = self.listed.get(&connection) {
            let expected = listed.want.count();
            if sender.remaining(connection) != Some(expected) {
                return Err(format!("the sender takes {:?} chunks to remain where {expected} do", sender.remaining(connection)));
            }
        } else if sender.remaining(connection).is_some() {
            return Err("a receiver that has left is still listed".into());
        }
        self.pass_orders_on();
        (0..self.lines.len()).try_for_each(|stream| self.drive_sender(stream))
    }

    /// What the sender wants receivers to do reaches them as late as their reports reach the sender.
    fn pass_orders_on(&mut self) {
        for (connection, order) in self.sender.as_mut().map(Delivery::take_orders).unwrap_or_default() {
            let spec = &self.scenario.receivers[(connection.0 & u64::from(u32::MAX)) as usize];
            let heard_ns = self.now_ns + (spec.report_latency_us + spec.report_jitter_us) * 1_000;
            let streams = match order {
                Order::Listen(streams) => streams,
                Order::FetchRest(chunks) => {
                    self.fetches.entry(connection).or_default().push(Fetch { heard_ns, chunks });
                    continue;
                }
                Order::Fetch(_) | Order::Leave(_) => continue,
            };
            let version = self.listening.get(&connection).map_or(0, |told| told.version) + 1;
            self.listening.insert(connection, Listening { version, heard_ns, streams });
        }
    }
}

fn count(by_ms: &mut Vec<u32>, now: Micros, count: u64) {
    let ms = (now.0 / 1_000) as usize;
    if count > 0 {
        by_ms.resize(by_ms.len().max(ms + 1), 0);
        by_ms[ms] += count as u32;
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
