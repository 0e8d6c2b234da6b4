//! What a receiver without a data plane would hold: it loses symbols by chance, and reports as a receiver does.

use std::collections::BTreeSet;
use std::ops::Range;

use wire::report::{ChunkRange, DEFICITS_PER_REPORT_MAX, Deficit, MISSING_LISTED_MAX, Report};
use wire::{ChunkId, Sequence, StreamId, SymbolIndex};

use super::digest::Digest;
use crate::sim::Random;

/// Of a chunk of which nothing has arrived: all of its symbols.
const ALL: u16 = u16::MAX;

/// See the module's text. Each symbol that arrives is taken for one that was lacking: receivers of the simulator and of the real network see to the rest.
pub(super) struct Holding {
    random: Random,
    loss: f64,
    /// Symbols that each chunk of the pack still needs.
    lacking: Vec<u16>,
    remaining: usize,
    /// Chunks whose deficit is not what was last reported.
    changed: BTreeSet<u32>,
    completed: BTreeSet<u32>,
    packets: Range<u32>,
    seen: u64,
    runs: u64,
}

impl Holding {
    /// Wants all of `chunk_count` chunks.
    pub(super) fn new(chunk_count: u32, loss: f64, random: Random) -> Holding {
        Holding {
            random,
            loss,
            lacking: vec![ALL; chunk_count as usize],
            remaining: chunk_count as usize,
            changed: BTreeSet::new(),
            completed: BTreeSet::new(),
            packets: 0..0,
            seen: 0,
            runs: 0,
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.remaining == 0
    }

    /// A group passes.
    pub(super) fn take(&mut self, digest: &Digest) {
        self.packets.end = digest.sequence.wrapping_add(1);
        self.seen += 1;
        for part in &digest.parts {
            let lost = self.lost_of(part.symbols);
            let arrived = part.symbols - lost;
            self.seen += u64::from(arrived);
            // Interleaved symbols are hardly lost in a row where losses are independent.
            self.runs += u64::from(lost);
            let Some(lacking) = self.lacking.get_mut(part.chunk as usize).filter(|lacking| **lacking > 0 && arrived > 0) else { continue };
            *lacking = (*lacking).min(part.source_symbols).saturating_sub(arrived);
            if *lacking == 0 {
                self.remaining -= 1;
                self.changed.remove(&part.chunk);
                self.completed.insert(part.chunk);
            } else {
                self.changed.insert(part.chunk);
            }
        }
    }

    /// Whether another group might not find room in the next report.
    pub(super) fn is_full(&self) -> bool {
        self.changed.len() + 64 > DEFICITS_PER_REPORT_MAX
    }

    /// What is new since the last report; none when no sync has passed.
    pub(super) fn report(&mut self) -> Option<Report> {
        let packets_sent = u64::from(self.packets.end.wrapping_sub(self.packets.start));
        let position = self.packets.end.checked_sub(1).filter(|_| packets_sent > 0)?;
        self.packets.start = self.packets.end;
        let deficits = std::mem::take(&mut self.changed).into_iter().map(|chunk| self.deficit(chunk)).collect();
        Some(Report {
            passed: vec![(StreamId(0), Sequence(position))],
            completed: ChunkRange::from_sorted(std::mem::take(&mut self.completed).into_iter().map(ChunkId)),
            deficits,
            packets_seen: std::mem::take(&mut self.seen).min(packets_sent),
            packets_sent,
            loss_runs: std::mem::take(&mut self.runs).min(packets_sent),
            backlog_permille: 0,
            restore_bytes_per_second: 0,
            corrupt: Vec::new(),
        })
    }

    /// With symbols by chance: which ones they are makes no difference to the cost.
    fn deficit(&mut self, chunk: u32) -> Deficit {
        let symbols = self.lacking[chunk as usize];
        let mut missing = BTreeSet::new();
        // K is at least that large, unless the last chunk of a pack is a very small one.
        if usize::from(symbols) <= MISSING_LISTED_MAX {
            let first = self.random.below(100) as u16;
            missing.extend((0..symbols).map(|step| SymbolIndex(first + step * 3)));
        }
        Deficit { chunk: ChunkId(chunk), symbols, missing: missing.into_iter().collect() }
    }

    /// How many of `symbols` are lost: the distances between losses are geometrically distributed.
    fn lost_of(&mut self, symbols: u16) -> u16 {
        if self.loss <= 0.0 {
            return 0;
        }
        let (mut at, mut lost) = (0.0, 0);
        loop {
            let chance = (self.random.bits() >> 11) as f64 / (1_u64 << 53) as f64;
            at += 1.0 + ((1.0 - chance).ln() / (1.0 - self.loss).ln()).floor();
            if at > f64::from(symbols) {
                return lost;
            }
            lost += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::digest::Part;
    use super::*;

    fn digest(sequence: u32, chunk: u32, symbols: u16) -> Digest {
        Digest { sequence, parts: vec![Part { chunk, source_symbols: 187, symbols }] }
    }

    #[test]
    fn what_is_lost_is_reported_and_mended() {
        let mut holding = Holding::new(2, 0.05, Random::new(1));
        assert_eq!(holding.report(), None, "nothing has passed");
        holding.take(&digest(187, 0, 187));
        let report = holding.report().unwrap();
        assert_eq!((report.packets_sent, &report.passed[..]), (188, &[(StreamId(0), Sequence(187))][..]));
        let [deficit] = &report.deficits[..] else { panic!("{report:?}") };
        assert_eq!((deficit.chunk, deficit.missing.len()), (ChunkId(0), usize::from(deficit.symbols)));
        assert!(deficit.missing.iter().all(|symbol| symbol.0 < 187));
        assert_eq!(report.packets_seen, 188 - u64::from(deficit.symbols));

        holding.take(&digest(240, 0, 52));
        assert_eq!(holding.report().unwrap().completed, [ChunkRange { first: ChunkId(0), count: 1 }]);
        assert!(!holding.is_complete(), "chunk 1 was not sent");
    }

    #[test]
    fn symbols_are_lost_as_often_as_asked_for() {
        let mut holding = Holding::new(1, 0.01, Random::new(1));
        let lost: u32 = (0..10_000).map(|_| u32::from(holding.lost_of(187))).sum();
        assert!((18_000..19_400).contains(&lost), "{lost}");
    }
}
