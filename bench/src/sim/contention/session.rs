//! A discus sender and its receiver as the network sees them: paced batches, groups with syncs, reports, and the real rate control.

use super::{Event, Network, PACKET_BITS};
use sender::schedule::{RateControl, ReceiverId};
use wire::Micros;
use wire::report::Report;

/// Packets that leave back to back: what fits 100 us, 32 at most, as the transmitter has it.
const BATCH_US: u64 = 100;
const BATCH_PACKETS_MAX: u64 = 32;
/// How late a batch may leave.
const WAKES_LATE_NS: u64 = 60_000;
/// Packets of a group: 16 chunks of 187 symbols, or what fits 100 ms, 4 chunks at least.
const GROUP_PACKETS: u64 = 16 * 187;
const GROUP_PACKETS_MIN: u64 = 4 * 187;
/// Between two reports, and up to half as much more by chance; from the receiver's decision to the sender's.
const REPORT_INTERVAL_NS: u64 = 7_500_000;
const REPORT_LATENCY_NS: u64 = 300_000;
/// Packets in the receiver's rings, which its count is ahead of its position: up to this many.
const AHEAD_PACKETS: u64 = 8;

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    sent: u64,
    seen: u64,
    runs: u64,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Session {
    index: usize,
    control: RateControl,
    group_left: u64,
    /// The group has gone, its sync is next: a batch of its own.
    sync_due: bool,
    /// On the way, since the last sync that got through.
    under_way: Tally,
    last_lost: bool,
    /// At the receiver, since its last report.
    known: Tally,
    ahead: u64,
    reported_ns: u64,
    report_due: bool,
    due_ns: u64,
}

impl Session {
    pub(super) fn new(index: usize, cap_bits_per_second: u64) -> Session {
        let mut control = RateControl::new(cap_bits_per_second, 10_000_000);
        control.expect(ReceiverId(0));
        Session {
            index,
            control,
            group_left: GROUP_PACKETS,
            sync_due: false,
            under_way: Tally::default(),
            last_lost: false,
            known: Tally::default(),
            ahead: 0,
            reported_ns: 0,
            report_due: false,
            due_ns: 0,
        }
    }

    /// Returns the packets that passed the bottleneck.
    pub(super) fn handle(&mut self, network: &mut Network, event: Event) -> u64 {
        match event {
            Event::Sends => return self.send(network),
            Event::Syncs { sent, seen, runs } => {
                let [sent, seen, runs] = [sent, seen, runs].map(u64::from);
                self.known = Tally { sent: self.known.sent + sent, seen: self.known.seen + seen, runs: self.known.runs + runs };
                if !self.report_due {
                    self.report_due = true;
                    let interval_ns = REPORT_INTERVAL_NS + network.random.below(REPORT_INTERVAL_NS / 2);
                    let at_ns = network.now_ns.max(self.reported_ns + interval_ns) + REPORT_LATENCY_NS;
                    network.at(at_ns, self.index, Event::Reports);
                }
            }
            Event::Reports => {
                let Tally { sent, seen, runs } = std::mem::take(&mut self.known);
                let ahead = network.random.below(AHEAD_PACKETS);
                let packets_seen = (seen + ahead).saturating_sub(self.ahead);
                self.ahead = ahead;
                (self.reported_ns, self.report_due) = (network.now_ns, false);
                let report = Report { packets_sent: sent, packets_seen, loss_runs: runs, ..Report::default() };
                self.control.note(ReceiverId(0), &report);
                self.control.tick(Micros(network.now_ns / 1_000), REPORT_INTERVAL_NS / 1_000);
            }
            Event::Acknowledged { .. } | Event::TimesOut { .. } => {}
        }
        0
    }

    fn send(&mut self, network: &mut Network) -> u64 {
        let rate = self.control.bits_per_second();
        let most = (rate * BATCH_US / 1_000_000 / PACKET_BITS).clamp(1, BATCH_PACKETS_MAX);
        let batch = if self.sync_due { 1 } else { most.min(self.group_left) };
        let mut passed = 0;
        for _ in 0..batch {
            let passes_ns = network.carry();
            self.under_way.sent += 1;
            self.under_way.seen += u64::from(passes_ns.is_some());
            self.under_way.runs += u64::from(passes_ns.is_none() && !self.last_lost);
            self.last_lost = passes_ns.is_none();
            passed += u64::from(passes_ns.is_some());
            if let Some(passes_ns) = passes_ns.filter(|_| self.sync_due) {
                let Tally { sent, seen, runs } = std::mem::take(&mut self.under_way);
                let event = Event::Syncs { sent: sent as u32, seen: seen as u32, runs: runs as u32 };
                network.at(passes_ns + network.round_trip_ns / 2, self.index, event);
            }
        }
        if self.sync_due {
            self.group_left = (rate / 10 / PACKET_BITS).clamp(GROUP_PACKETS_MIN, GROUP_PACKETS);
            self.control.tick(Micros(network.now_ns / 1_000), REPORT_INTERVAL_NS / 1_000);
        } else {
            self.group_left -= batch;
        }
        self.sync_due = !self.sync_due && self.group_left == 0;
        // A timer wakes a thread late by chance, and the next batch is the sooner for it: no two senders stay in step.
        self.due_ns = self.due_ns.max(network.now_ns.saturating_sub(BATCH_US * 1_000)) + batch * PACKET_BITS * 1_000_000_000 / rate;
        let late_ns = network.random.below(WAKES_LATE_NS);
        network.at(self.due_ns.max(network.now_ns) + late_ns, self.index, Event::Sends);
        passed
    }
}
