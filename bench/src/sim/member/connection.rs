//! A member's control connection: what it says, how it breaks, and the lies of a liar.

use super::{Happening, Member, Message, Surroundings};
use crate::sim::random::mixed;
use crate::sim::scenario::{Conduct, Scenario};
use receiver::assemble::Micros;
use sender::schedule::{Event as Told, ReceiverId};
use wire::report::{ChunkRange, Deficit, Report};
use wire::{ChunkId, Sequence, StreamId, SymbolIndex};

impl Member {
    pub(super) fn connect(&mut self, around: &Surroundings<'_>, life: u32, messages: &mut Vec<Message>) {
        if self.life != life || self.connection.is_some() || self.complete_us.is_some() {
            return;
        }
        let Some(node) = &mut self.node else { return };
        let Some(sender_life) = sender_life(around.scenario, self.now_ns) else {
            self.after_us(100_000, Happening::Connects { life });
            return;
        };
        node.assembler.reconnected();
        node.assembler.spread_reports(mixed(self.connections << 32 | self.index as u64));
        self.report_interval_us = 0;
        let want = node.assembler.wanted();
        self.connections += 1;
        let connection = ReceiverId(self.connections << 32 | self.index as u64);
        self.connection = Some((connection, sender_life));
        self.told_version = 0;
        self.told_fetches = 0;
        self.has_shown_rate = false;
        self.tell(around, Told::Joined { receiver: connection, want }, messages);
        let priority = self.priority;
        if priority != 0 {
            // The sender knows it as soon as it knows the receiver: it comes with that, without a journey of its own.
            let Some(joined) = messages.last() else { return };
            let told = Told::Prioritized { receiver: connection, priority };
            messages.push(Message { heard_ns: joined.heard_ns, sender_life, connection, told, is_last: false });
        }
    }

    /// Sends something over the control connection, behind everything that was sent before.
    pub(super) fn tell(&mut self, around: &Surroundings<'_>, told: Told, messages: &mut Vec<Message>) {
        let spec = self.spec(around);
        let Some((connection, sender_life)) = self.connection else { return };
        let delay_us = spec.report_latency_us + self.random.below(spec.report_jitter_us + 1);
        self.heard_ns = self.heard_ns.max(self.now_ns + delay_us * 1_000);
        messages.push(Message { heard_ns: self.heard_ns, sender_life, connection, told, is_last: false });
    }

    pub(super) fn disconnect(&mut self, around: &Surroundings<'_>, which: usize, messages: &mut Vec<Message>) {
        let Some((connection, sender_life)) = self.connection else { return };
        let spec = self.spec(around);
        let disconnect = spec.disconnects[which];
        let told = Told::Left { receiver: connection };
        if disconnect.loses_reports {
            let heard_ns = self.now_ns + spec.report_latency_us * 1_000;
            messages.push(Message { heard_ns, sender_life, connection, told, is_last: true });
        } else {
            self.tell(around, told, messages);
        }
        self.connection = None;
        let life = self.life;
        self.after_us(disconnect.down_us, Happening::Connects { life });
    }

    /// Reports what is due, sees to it that the next report is not forgotten, and leaves when all is done.
    pub(super) fn drive(&mut self, around: &Surroundings<'_>, messages: &mut Vec<Message>) -> Result<(), String> {
        let spec = self.spec(around);
        let (Some(node), Some((receiver, _))) = (&mut self.node, self.connection) else { return Ok(()) };
        if matches!(spec.conduct, Conduct::Liar { .. }) {
            return Ok(());
        }
        let interval_us = if around.scenario.paced_reports { around.report_interval_us } else { spec.report_interval_us };
        if interval_us != self.report_interval_us {
            self.report_interval_us = interval_us;
            node.assembler.set_report_interval(interval_us);
        }
        let now = Micros(self.now_ns / 1_000);
        let mut report = node.assembler.report(now);
        if let Some(report) = report.as_mut().filter(|_| spec.shows_rate && !self.has_shown_rate) {
            report.restore_bytes_per_second = spec.restore_bytes_per_second;
            self.has_shown_rate = true;
        }
        let due_at = node.assembler.report_due_at();
        let is_done = node.assembler.is_done();
        if is_done {
            node.check(around.pack)?;
            self.complete_us = Some(now.0);
            (self.node, self.pending) = (None, None);
        } else if let Some(due_ns) = due_at.map(|due_at| (due_at.0 * 1_000).max(self.now_ns + 1_000))
            && self.wakes_ns != Some(due_ns)
        {
            self.wakes_ns = Some(due_ns);
            self.at_ns(due_ns, Happening::Wakes);
        }
        if let Some(report) = report {
            self.tell(around, Told::Reported { receiver, report }, messages);
        }
        if is_done {
            self.tell(around, Told::Left { receiver }, messages);
            self.connection = None;
        }
        Ok(())
    }

    pub(super) fn lie(&mut self, around: &Surroundings<'_>, messages: &mut Vec<Message>) {
        let Conduct::Liar { interval_us } = self.spec(around).conduct else { return };
        let chunks = u64::from(around.pack.parameters.chunk_count);
        let sent = around.wires.first().map_or(0, |wire| wire.first_from(self.now_ns)) as u32;
        let random = &mut self.random;
        let near = sent.wrapping_sub(random.below(10_000) as u32);
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
            passed: vec![(StreamId(random.below(3) as u16), Sequence(sequence)), (StreamId(0), Sequence(sequence))],
            completed,
            packets_seen: random.below(1_000),
            packets_sent: random.below(1_000),
            loss_runs: random.below(500),
            restore_bytes_per_second: random.below(1 << 40),
            corrupt: Vec::new(),
            backlog_permille: random.below(1_500) as u16,
        };
        if let Some((receiver, _)) = self.connection {
            self.tell(around, Told::Reported { receiver, report }, messages);
        }
        self.after_us(interval_us, Happening::Lies);
    }
}

/// Which of its lives the sender is in; `None` while it is down.
fn sender_life(scenario: &Scenario, now_ns: u64) -> Option<usize> {
    let begun = |&&(at_us, _): &&(u64, u64)| at_us * 1_000 <= now_ns;
    let is_down = scenario.sender_restarts.iter().filter(begun).any(|&(at_us, down_us)| now_ns < (at_us + down_us) * 1_000);
    (!is_down).then(|| scenario.sender_restarts.iter().filter(begun).count())
}
