//! Priorities at random, and what makes them matter: slow devices beside fast ones, several streams, an operator who changes his mind.

use super::{Conduct, Random, Scenario};

/// The lowest priority, of liars: these are never done, and of a higher priority they would keep the others waiting.
const LAST: i16 = i16::MIN;

impl Scenario {
    /// Gives receivers priorities, in one of four scenarios.
    pub(super) fn prioritize(&mut self, random: &mut Random) {
        if !random.chance_ppm(250_000) {
            return;
        }
        for receiver in &mut self.receivers {
            let is_liar = matches!(receiver.conduct, Conduct::Liar { .. });
            receiver.priority = if is_liar { LAST } else { random.pick(&[0, 0, 1, 10, -3]) };
        }
    }

    /// Of two scenarios in which there are several priorities, one has several streams and devices that are slow for the rate; and of two the operator
    /// changes priorities while it runs.
    pub(super) fn press(&mut self, random: &mut Random) {
        let first = self.receivers.first().map(|receiver| receiver.priority);
        if self.receivers.iter().all(|receiver| Some(receiver.priority) == first) {
            return;
        }
        let transfer_us = self.transfer_us();
        let chunk_us = transfer_us / self.source_symbols.len().max(1) as u64;
        if random.chance_ppm(500_000) {
            self.streams = random.pick(&[2, 2, 3, 4, 8]);
            for receiver in &mut self.receivers {
                receiver.shows_rate = random.chance_ppm(500_000);
                if random.chance_ppm(400_000) {
                    receiver.finish_us = (chunk_us * random.pick(&[2, 4, 8])).clamp(200, 50_000);
                }
                // Nearly true.
                let rate = 1_000_000 * u64::from(super::SYMBOL_BYTES) * self.source_symbols.iter().map(|&k| u64::from(k)).sum::<u64>()
                    / self.source_symbols.len().max(1) as u64
                    / receiver.finish_us.max(1);
                receiver.restore_bytes_per_second = rate * random.between(80, 120) / 100;
            }
        }
        if random.chance_ppm(500_000) {
            for receiver in self.receivers.iter_mut().filter(|receiver| !matches!(receiver.conduct, Conduct::Liar { .. })) {
                let changes = random.pick(&[0, 1, 1, 3]);
                let mut changes: Vec<(u64, i16)> =
                    (0..changes).map(|_| (random.below(transfer_us * 2), random.pick(&[0, 2, 10, 50, -3, -7]))).collect();
                changes.sort_unstable();
                receiver.priority_changes = changes;
            }
        }
    }
}
