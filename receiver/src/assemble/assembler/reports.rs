//! What the assembler reports: how far the streams have come, what was verified, what chunks lack, and what was seen of what was sent.

use super::{Assembler, REPORT_INTERVAL_MAX_US, State};
use std::collections::BTreeMap;
use wire::report::{
    CORRUPT_PER_REPORT_MAX, ChunkRange, DEFICITS_PER_REPORT_MAX, Deficit, MISSING_LISTED_MAX, RANGES_PER_REPORT_MAX, Report,
};
use wire::{ChunkId, Micros, Sequence, StreamId};

impl Assembler {
    /// Packets of this session that the filter or socket has seen, wanted or not, since the start. The first call after a sync counts: the sender
    /// compares the number with the stream's position to learn the loss. So it is best called after each batch of packets.
    pub fn note_traffic(&mut self, packets_seen: u64) {
        if !std::mem::take(&mut self.uncounted) {
            return;
        }
        let packets_sent = self.positions.count() + self.strays.count();
        if let Some(before) = self.seen_counted.replace(packets_seen) {
            self.packets_seen += packets_seen.saturating_sub(before);
            self.packets_sent += packets_sent;
        }
    }

    /// How full the memory of chunks is that wait for decoding, hashing, decompression and disk.
    pub fn set_backlog(&mut self, permille: u16) {
        self.backlog_permille = permille.min(1000);
    }

    /// The sender wants reports no closer than this.
    pub fn set_report_interval(&mut self, interval_us: u64) {
        self.report_interval_us = interval_us.min(REPORT_INTERVAL_MAX_US);
    }

    /// From now on reports come at moments that `seed` chooses around those that the interval gives, the first one within the first interval: receivers
    /// with different seeds do not report all at once.
    pub fn spread_reports(&mut self, seed: u64) {
        self.spread = Some(seed);
    }

    /// When the next report is due; `None` while there is nothing to say.
    pub fn report_due_at(&self) -> Option<Micros> {
        let earliest = self.reported_at.map_or(0, |at| at.saturating_add_unsigned(self.report_interval_us));
        self.news.then_some(Micros(u64::try_from(earliest).unwrap_or(0)))
    }

    /// The report that is due, if one is.
    pub fn report(&mut self, now: Micros) -> Option<Report> {
        self.asked_at = now;
        if self.reported_at.is_none() && self.news && self.spread.is_some() {
            // As if it had reported within the last interval.
            let ago_us = self.chance_us(self.report_interval_us);
            self.reported_at = Some(now.0.cast_signed().saturating_sub_unsigned(ago_us));
        }
        if self.report_due_at().is_none_or(|due_at| now < due_at) {
            return None;
        }
        // From three quarters to five quarters of the interval until the next one.
        let quarter_us = self.report_interval_us / 4;
        let later_us = if self.spread.is_some() { self.chance_us(2 * quarter_us) } else { quarter_us };
        self.reported_at = Some((now.0 + later_us).cast_signed().saturating_sub_unsigned(quarter_us));
        self.news = false;
        let passed = self.positions.short_of(self.pending.iter().filter(|waiting| !waiting.held).filter_map(|waiting| waiting.seen));
        let (deficits, all_told) = self.take_deficits(&passed);
        self.pending.iter_mut().for_each(|waiting| waiting.held = true);
        let packets_seen = std::mem::take(&mut self.packets_seen);
        let packets_sent = std::mem::take(&mut self.packets_sent);
        Some(Report {
            // A position promises that what was before it is known. What did not fit is said next time, and the position with it.
            passed: if all_told { passed } else { Vec::new() },
            completed: self.take_verified(),
            deficits,
            packets_seen,
            packets_sent,
            loss_runs: self.runs.take(packets_sent.saturating_sub(packets_seen)),
            restore_bytes_per_second: 0,
            corrupt: std::mem::take(&mut self.corrupt),
            backlog_permille: self.backlog_permille,
        })
    }

    /// Notes a chunk for the next report, as far as there is room.
    pub(super) fn note_corrupt(&mut self, chunk: ChunkId) {
        if self.corrupt.len() < CORRUPT_PER_REPORT_MAX {
            self.corrupt.push(chunk);
        }
    }

    /// A time below `bound_us` that depends on the seed alone and differs each time (SplitMix64).
    fn chance_us(&mut self, bound_us: u64) -> u64 {
        let Some(state) = &mut self.spread else { return 0 };
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((u128::from(mixed ^ (mixed >> 31)) * u128::from(bound_us)) >> 64) as u64
    }

    /// What chunks lack up to the positions `passed`, where the sender believes something else; and whether that is all there is to say.
    fn take_deficits(&mut self, passed: &[(StreamId, Sequence)]) -> (Vec<Deficit>, bool) {
        let is_past = |seen: Option<(StreamId, Sequence)>| {
            seen.is_none_or(|(stream, seen)| passed.iter().any(|&(passed_stream, at)| passed_stream == stream && at.since(seen) > 0))
        };
        let mut deficits = Vec::new();
        let mut all_told = true;
        let mut unsettled = std::mem::take(&mut self.unsettled);
        let waiting: BTreeMap<usize, Option<(StreamId, Sequence)>> =
            self.pending.iter().map(|waiting| (waiting.chunk, waiting.seen)).collect();
        unsettled.retain(|&index| {
            let chunk = &mut self.chunks[index];
            let symbols = match chunk.state {
                State::Wanted => chunk.source_symbols,
                // What the position stops short of is said with a later one.
                State::Pending if waiting.get(&index).is_some_and(|&seen| !is_past(seen)) => return true,
                State::Pending => 0,
                // Verified, which is said otherwise, or in assembly again.
                State::Done | State::Open(_) => chunk.told,
            };
            let unsaid = symbols != chunk.told;
            if unsaid && deficits.len() == DEFICITS_PER_REPORT_MAX {
                all_told = false;
                return true;
            }
            chunk.unsettled = false;
            if unsaid {
                chunk.told = symbols;
                deficits.push(Deficit { chunk: chunk.id, symbols, missing: Vec::new() });
            }
            false
        });
        self.unsettled = unsettled;
        for assembly in self.entries.iter().flatten() {
            let chunk = &mut self.chunks[assembly.chunk];
            let symbols = assembly.deficit();
            if symbols == chunk.told || !is_past(assembly.last_seen) {
                continue;
            }
            if deficits.len() == DEFICITS_PER_REPORT_MAX {
                all_told = false;
                break;
            }
            chunk.told = symbols;
            deficits.push(Deficit { chunk: chunk.id, symbols, missing: assembly.missing(MISSING_LISTED_MAX) });
        }
        self.news |= !all_told;
        (deficits, all_told)
    }

    fn take_verified(&mut self) -> Vec<ChunkRange> {
        self.verified.sort_unstable();
        let mut ranges = ChunkRange::from_sorted(self.verified.drain(..));
        if ranges.len() > RANGES_PER_REPORT_MAX {
            let rest = ranges.split_off(RANGES_PER_REPORT_MAX);
            self.verified.extend(rest.into_iter().flat_map(ChunkRange::chunks));
            self.news = true;
        }
        ranges
    }
}
