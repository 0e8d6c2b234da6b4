//! The receivers' side of the run: their lives, their control connections, and the lies of liars.

use super::*;

impl World<'_> {
    pub(super) fn start(&mut self, receiver: usize) {
        let spec = &self.scenario.receivers[receiver];
        let node = Node::new(self.parameters, &self.scenario.source_symbols, &self.scenario.images[spec.image], spec);
        let member = &mut self.members[receiver];
        member.life += 1;
        member.complete_us = node.assembler.is_done().then_some(self.now_ns / 1_000);
        member.node = Some(node);
        let life = member.life;
        self.at_ns(self.now_ns, Event::Connects { receiver, life });
    }

    pub(super) fn connect(&mut self, receiver: usize, life: u32) {
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
    pub(super) fn tell(&mut self, receiver: usize, told: Told) {
        let spec = &self.scenario.receivers[receiver];
        let member = &mut self.members[receiver];
        let Some(connection) = member.connection else { return };
        let delay_us = spec.report_latency_us + member.random.below(spec.report_jitter_us + 1);
        member.heard_ns = member.heard_ns.max(self.now_ns + delay_us * 1_000);
        let heard_ns = member.heard_ns;
        self.at_ns(heard_ns, Event::SenderHears { connection, told: Box::new(told) });
    }

    pub(super) fn disconnect(&mut self, receiver: usize, down_us: u64) {
        let Some(connection) = self.members[receiver].connection else { return };
        self.tell(receiver, Told::Left { receiver: ReceiverId(connection) });
        self.members[receiver].connection = None;
        let life = self.members[receiver].life;
        self.after_us(down_us, Event::Connects { receiver, life });
    }

    pub(super) fn die(&mut self, receiver: usize) {
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

    pub(super) fn packet(&mut self, receiver: usize, packed: Packed) -> Result<(), String> {
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

    pub(super) fn schedule_finish(&mut self, receiver: usize) {
        let life = self.members[receiver].life;
        self.after_us(self.scenario.receivers[receiver].finish_us, Event::Finishes { receiver, life });
    }

    pub(super) fn finish(&mut self, receiver: usize, life: u32) -> Result<(), String> {
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
    pub(super) fn drive_receiver(&mut self, receiver: usize) -> Result<(), String> {
        let now = self.now();
        let member = &mut self.members[receiver];
        let Some(node) = &mut member.node else { return Ok(()) };
        let honest = !matches!(self.scenario.receivers[receiver].conduct, Conduct::Liar { .. });
        if member.connection.is_some() && member.complete_us.is_none() && honest {
            let report = node.assembler.report(now);
            if node.assembler.is_done() {
                node.check()?;
                member.complete_us = Some(now.0);
            } else if let Some(due_at) = node.assembler.report_due_at().filter(|_| report.is_none()) {
                let due_ns = due_at.0 * 1_000;
                if member.wakes_ns != Some(due_ns) {
                    member.wakes_ns = Some(due_ns);
                    self.at_ns(due_ns, Event::ReceiverWakes { receiver });
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

    pub(super) fn lie(&mut self, receiver: usize) {
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
}
