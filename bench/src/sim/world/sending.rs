//! The sender's side of the run: its engine around the real scheduler, the line, and what it may and may not send.

use super::*;

impl World<'_> {
    pub(super) fn new_scheduler(&self) -> Scheduler {
        Scheduler::new(ScheduleConfig {
            parameters: self.parameters,
            source_symbols: self.scenario.source_symbols.clone(),
            streams: vec![STREAM],
            rate_cap_bits_per_second: self.scenario.cap_bits_per_second,
            rate_floor_bits_per_second: self.scenario.cap_bits_per_second / 100,
            frame_overhead_bytes: FRAME_OVERHEAD_BYTES,
        })
    }

    pub(super) fn sender_dies(&mut self, down_us: u64) {
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

    pub(super) fn note_totals(&mut self) {
        if let Some(totals) = self.scheduler.as_ref().map(Scheduler::totals) {
            self.past.symbols_sent += totals.symbols_sent;
            self.past.repair_symbols_sent += totals.repair_symbols_sent;
            self.past.symbols_needed = self.past.symbols_needed.max(totals.symbols_needed);
            self.past.syncs_sent += totals.syncs_sent;
        }
    }

    /// The sender's engine: keeps a few groups ahead of the line.
    pub(super) fn drive_sender(&mut self) -> Result<(), String> {
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

    pub(super) fn packet_ns(&self) -> u64 {
        let rate = self.scheduler.as_ref().map_or(1, |scheduler| scheduler.rate_bits_per_second(STREAM));
        frame_bits() * 1_000_000_000 / rate.min(self.scenario.line_bits_per_second).max(1)
    }

    pub(super) fn send_group(&mut self, group: &Group) -> Result<(), String> {
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

    pub(super) fn send_sync(&mut self, sequence: Sequence) -> Result<(), String> {
        if sequence != self.next_sequence {
            return Err(format!("a sync at {sequence} where {} was next", self.next_sequence));
        }
        let departs_ns = self.line_free_ns.max(self.now_ns) + self.packet_ns();
        self.send_sync_at(departs_ns, sequence);
        Ok(())
    }

    pub(super) fn send_sync_at(&mut self, departs_ns: u64, sequence: Sequence) {
        self.line_free_ns = departs_ns;
        self.multicast(departs_ns, self.parameters.chunk_count, SymbolIndex(0), 0, sequence);
        self.next_sequence = sequence.after(1);
    }

    pub(super) fn multicast(&mut self, departs_ns: u64, chunk: u32, symbol: SymbolIndex, source_symbols: u16, sequence: Sequence) {
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

    pub(super) fn sender_hears(&mut self, connection: u64, told: Told) -> Result<(), String> {
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
