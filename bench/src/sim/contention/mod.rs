//! Sessions and TCP flows at one bottleneck: a link with a queue that drops what does not fit. The sessions' rates are the real rate control's;
//! everything else is counted packets.
//!
//! * `session`: a sender with its receivers, of which one reports for all.
//! * `tcp`: a bulk flow, with Reno's window or CUBIC's.

mod session;
mod tcp;

use super::random::Random;
use session::Session;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use tcp::Flow;
pub use tcp::Window;

/// Every packet: 1500 bytes at IP, with Ethernet's header, checksum, preamble and gap.
pub(super) const PACKET_BITS: u64 = (1500 + 38) * 8;

/// The link that all have to pass.
#[derive(Clone, Copy, Debug)]
pub struct Bottleneck {
    /// What it carries.
    pub bits_per_second: u64,
    /// Packets that wait before it at most.
    pub queue_packets: u64,
    /// Round trip without waiting.
    pub round_trip_us: u64,
    /// Packets that a bad cable loses behind it, in 1,000,000.
    pub loss_ppm: u32,
}

/// Who sends through it.
#[derive(Clone, Copy, Debug)]
pub enum Party {
    /// A discus sender with this cap.
    Session {
        /// The operator's cap.
        cap_bits_per_second: u64,
    },
    /// A TCP flow that always has something to send.
    Tcp(Window),
}

/// Something that happens to the party with this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// It sends.
    Sends,
    /// A session's sync arrives at its receiver, which knows by it of so many packets sent and seen.
    Syncs { sent: u32, seen: u32, runs: u32 },
    /// A session's receiver reports.
    Reports,
    /// A flow's packet is acknowledged.
    Acknowledged { sequence: u64 },
    /// A flow has heard nothing for long.
    TimesOut { epoch: u64 },
}

/// The link, the clock and what is to happen.
pub(super) struct Network {
    pub(super) now_ns: u64,
    pub(super) random: Random,
    pub(super) round_trip_ns: u64,
    bottleneck: Bottleneck,
    busy_until_ns: u64,
    agenda: BinaryHeap<Reverse<(u64, u64, usize, Event)>>,
    put: u64,
}

impl Network {
    /// A packet comes to the link: when it has passed it, or `None` when it is dropped.
    pub(super) fn carry(&mut self) -> Option<u64> {
        let service_ns = PACKET_BITS * 1_000_000_000 / self.bottleneck.bits_per_second;
        if self.busy_until_ns.saturating_sub(self.now_ns) / service_ns >= self.bottleneck.queue_packets {
            return None;
        }
        self.busy_until_ns = self.busy_until_ns.max(self.now_ns) + service_ns;
        (!self.random.chance_ppm(self.bottleneck.loss_ppm)).then_some(self.busy_until_ns)
    }

    pub(super) fn at(&mut self, at_ns: u64, party: usize, event: Event) {
        self.put += 1;
        self.agenda.push(Reverse((at_ns, self.put, party, event)));
    }
}

enum Life {
    Session(Box<Session>),
    Tcp(Flow),
}

/// What the parties got.
#[derive(Clone, Debug)]
pub struct Shares {
    /// Per party, bits a second that passed the link in each tenth of a second.
    pub by_tenth: Vec<Vec<u64>>,
}

impl Shares {
    /// Mean rate of a party between two times, in bits a second.
    pub fn mean(&self, party: usize, from_s: f64, to_s: f64) -> f64 {
        let tenths = &self.by_tenth[party][(from_s * 10.0) as usize..(to_s * 10.0) as usize];
        tenths.iter().sum::<u64>() as f64 / tenths.len().max(1) as f64
    }
}

/// Lets `parties`, each from its time in seconds on, send through `bottleneck` for `seconds`.
pub fn contend(seed: u64, bottleneck: Bottleneck, parties: &[(f64, Party)], seconds: u64) -> Shares {
    let mut network = Network {
        now_ns: 0,
        random: Random::new(seed),
        round_trip_ns: bottleneck.round_trip_us * 1_000,
        bottleneck,
        busy_until_ns: 0,
        agenda: BinaryHeap::new(),
        put: 0,
    };
    let mut lives = Vec::new();
    for (index, &(start_s, party)) in parties.iter().enumerate() {
        lives.push(match party {
            Party::Session { cap_bits_per_second } => Life::Session(Box::new(Session::new(index, cap_bits_per_second))),
            Party::Tcp(window) => Life::Tcp(Flow::new(index, window)),
        });
        network.at((start_s * 1e9) as u64, index, Event::Sends);
    }
    let mut passed = vec![vec![0; seconds as usize * 10]; parties.len()];
    while let Some(Reverse((at_ns, _, party, event))) = network.agenda.pop() {
        if at_ns >= seconds * 1_000_000_000 {
            break;
        }
        network.now_ns = at_ns;
        let packets = match &mut lives[party] {
            Life::Session(session) => session.handle(&mut network, event),
            Life::Tcp(flow) => flow.handle(&mut network, event),
        };
        passed[party][(at_ns / 100_000_000) as usize] += packets * PACKET_BITS * 10;
    }
    Shares { by_tenth: passed }
}

#[cfg(test)]
mod tests;
