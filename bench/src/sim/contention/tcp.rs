//! A bulk TCP flow: a window that acknowledgements open and losses shut. Losses are found when a later packet is acknowledged, as with SACK (RFC 6675).

use super::{Event, Network};
use std::collections::VecDeque;

/// How the window goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// One packet a round trip more, half at a loss (RFC 5681).
    Reno,
    /// A cubic function of the time since the last loss, 0.7 at a loss (RFC 9438).
    Cubic,
}

/// What RFC 9438 gives for the cubic function, in packets and seconds.
const CUBIC_SCALE: f64 = 0.4;
const CUBIC_KEPT: f64 = 0.7;
/// Ten packets (RFC 6928).
const FIRST_WINDOW: f64 = 10.0;
/// Linux' smallest.
const TIME_OUT_NS: u64 = 200_000_000;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Flow {
    index: usize,
    window: Window,
    packets: f64,
    slow_start_until: f64,
    next_sequence: u64,
    /// Not acknowledged: sequence and whether it was dropped.
    under_way: VecDeque<(u64, bool)>,
    /// A loss before this sequence belongs to the reduction that was made.
    reduced_at: u64,
    /// CUBIC: the window at the last loss, and when that was.
    largest: f64,
    lost_ns: u64,
    epoch: u64,
}

impl Flow {
    pub(super) fn new(index: usize, window: Window) -> Flow {
        Flow {
            index,
            window,
            packets: FIRST_WINDOW,
            slow_start_until: f64::INFINITY,
            next_sequence: 0,
            under_way: VecDeque::new(),
            reduced_at: 0,
            largest: 0.0,
            lost_ns: 0,
            epoch: 0,
        }
    }

    /// Returns the packets that were acknowledged.
    pub(super) fn handle(&mut self, network: &mut Network, event: Event) -> u64 {
        let mut acknowledged = 0;
        match event {
            Event::Acknowledged { sequence } => {
                let mut lost = false;
                while let Some(&(first, dropped)) = self.under_way.front().filter(|(first, _)| *first <= sequence) {
                    self.under_way.pop_front();
                    lost |= dropped && first >= self.reduced_at;
                    acknowledged += u64::from(!dropped);
                }
                if lost {
                    self.shut(network.now_ns);
                } else {
                    self.open(network, acknowledged as f64);
                }
            }
            Event::TimesOut { epoch } if epoch == self.epoch && !self.under_way.is_empty() => {
                self.shut(network.now_ns);
                self.under_way.clear();
                self.slow_start_until = self.packets;
                self.packets = 1.0;
            }
            _ => {}
        }
        self.send(network);
        acknowledged
    }

    fn shut(&mut self, now_ns: u64) {
        self.largest = self.packets;
        self.lost_ns = now_ns;
        self.packets = (self.packets * if self.window == Window::Reno { 0.5 } else { CUBIC_KEPT }).max(2.0);
        self.slow_start_until = self.packets;
        self.reduced_at = self.next_sequence;
    }

    fn open(&mut self, network: &Network, acknowledged: f64) {
        if self.packets < self.slow_start_until {
            self.packets += acknowledged;
            return;
        }
        match self.window {
            Window::Reno => self.packets += acknowledged / self.packets,
            Window::Cubic => {
                let seconds = (network.now_ns - self.lost_ns) as f64 / 1e9;
                let back = (self.largest * (1.0 - CUBIC_KEPT) / CUBIC_SCALE).cbrt();
                let target = CUBIC_SCALE * (seconds - back).powi(3) + self.largest;
                let friendly = 3.0 * (1.0 - CUBIC_KEPT) / (1.0 + CUBIC_KEPT);
                let step = ((target - self.packets) / self.packets).max(friendly / self.packets).min(0.5);
                self.packets += acknowledged * step;
            }
        }
    }

    fn send(&mut self, network: &mut Network) {
        while (self.under_way.len() as f64) < self.packets.floor() {
            let sequence = self.next_sequence;
            self.next_sequence += 1;
            let passes_ns = network.carry();
            self.under_way.push_back((sequence, passes_ns.is_none()));
            if let Some(passes_ns) = passes_ns {
                network.at(passes_ns + network.round_trip_ns, self.index, Event::Acknowledged { sequence });
            }
        }
        if self.under_way.iter().all(|&(_, dropped)| dropped) {
            self.epoch += 1;
            network.at(network.now_ns + TIME_OUT_NS, self.index, Event::TimesOut { epoch: self.epoch });
        }
    }
}
