//! What the receivers lack of one chunk, summed up so that the largest deficit and the union of the missing symbols are at hand
//! whatever the number of receivers, and can be corrected by one receiver at a time.

use std::collections::BTreeMap;
use wire::report::{Deficit, MISSING_LISTED_MAX};

/// What one receiver lacks of one chunk, as it last said, within what the chunk allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// Symbols that it needs: 0 to K.
    pub(super) symbols: u16,
    /// Source symbols that it lacks, ascending; empty when it did not name them or could not have.
    pub(super) missing: Vec<u16>,
    /// Its chunk is sent when its turn comes, not at once.
    pub(super) waits: bool,
}

impl Need {
    /// Whether it is what a receiver lacks that began to listen in the middle of the chunk, if loss is small: its first two or more symbols, or more than are
    /// named. To lose the very first one alone is common.
    pub(super) fn is_beginning(&self) -> bool {
        self.symbols > 0 && self.missing.len() != 1 && self.missing.iter().copied().eq(0..self.missing.len() as u16)
    }

    /// Takes a receiver's word as far as it can be true for a chunk of K = `source_symbols`.
    pub(super) fn checked(deficit: &Deficit, source_symbols: u16) -> Need {
        let symbols = deficit.symbols.min(source_symbols);
        let mut missing: Vec<u16> = deficit.missing.iter().map(|symbol| symbol.0).filter(|&symbol| symbol < source_symbols).collect();
        missing.truncate(MISSING_LISTED_MAX);
        missing.sort_unstable();
        missing.dedup();
        // Fewer than it needs: not the whole list, so of no use.
        if symbols == 0 || missing.len() < usize::from(symbols) {
            missing.clear();
        }
        Need { symbols, missing, waits: false }
    }
}

/// Whether a receiver that needs `symbols` of K has next to nothing of the chunk, so that the chunk is better sent again from its
/// first symbol, when its turn comes, than repaired at once: above 15/16 of K.
pub(super) fn is_whole(symbols: u16, source_symbols: u16) -> bool {
    u32::from(symbols) * 16 > u32::from(source_symbols) * 15
}

/// The sum over receivers.
#[derive(Clone, Debug)]
pub(super) struct ChunkNeeds {
    /// Receivers by the number of symbols that they need, `0..=K`, but for those that wait.
    by_symbols: Vec<u32>,
    /// Receivers by the source symbol that they named, `0..K`.
    by_missing: Vec<u32>,
    /// Receivers that wait for the chunk's turn, by the number of symbols that they need.
    waiting: BTreeMap<u16, u32>,
    /// Receivers in all.
    reporters: u32,
    /// Receivers that need something and did not name what.
    unlisted: u32,
}

impl ChunkNeeds {
    /// Nobody lacks anything of a chunk of K = `source_symbols`.
    pub(super) fn new(source_symbols: u16) -> ChunkNeeds {
        let k = usize::from(source_symbols);
        ChunkNeeds { by_symbols: vec![0; k + 1], by_missing: vec![0; k], waiting: BTreeMap::new(), reporters: 0, unlisted: 0 }
    }

    /// Counts `need` in.
    pub(super) fn add(&mut self, need: &Need) {
        self.reporters += 1;
        if need.waits {
            *self.waiting.entry(need.symbols).or_default() += 1;
            return;
        }
        self.by_symbols[usize::from(need.symbols)] += 1;
        self.unlisted += u32::from(need.symbols > 0 && need.missing.is_empty());
        for &symbol in &need.missing {
            self.by_missing[usize::from(symbol)] += 1;
        }
    }

    /// Takes out what [`ChunkNeeds::add`] was given.
    pub(super) fn remove(&mut self, need: &Need) {
        self.reporters -= 1;
        if need.waits {
            if let Some(receivers) = self.waiting.get_mut(&need.symbols) {
                *receivers -= 1;
            }
            self.waiting.retain(|_, receivers| *receivers > 0);
            return;
        }
        self.by_symbols[usize::from(need.symbols)] -= 1;
        self.unlisted -= u32::from(need.symbols > 0 && need.missing.is_empty());
        for &symbol in &need.missing {
            self.by_missing[usize::from(symbol)] -= 1;
        }
    }

    /// Receivers that said something, if only that they need nothing now.
    pub(super) fn reporters(&self) -> u32 {
        self.reporters
    }

    /// Receivers that need at least one symbol.
    pub(super) fn needy(&self) -> u32 {
        self.reporters - self.by_symbols[0]
    }

    /// Whether somebody said that it has next to nothing (see [`is_whole`]).
    pub(super) fn any_whole(&self) -> bool {
        let waiting = self.waiting_max();
        self.symbols_needed().take(1).chain(waiting).any(|symbols| is_whole(symbols, self.source_symbols()))
    }

    /// The largest number of symbols that somebody needs when the chunk's turn comes, if somebody waits for it.
    pub(super) fn turn_max(&self) -> Option<u16> {
        self.waiting_max().map(|symbols| symbols.max(self.partial_max()))
    }

    fn waiting_max(&self) -> Option<u16> {
        self.waiting.last_key_value().map(|(&symbols, _)| symbols)
    }

    /// The largest number of symbols that somebody needs at once who has more than next to nothing; 0 when there is none.
    pub(super) fn partial_max(&self) -> u16 {
        self.symbols_needed().find(|&symbols| !is_whole(symbols, self.source_symbols())).unwrap_or(0)
    }

    /// The largest number of symbols that somebody needs at once who needs no more than `most`.
    pub(super) fn max_up_to(&self, most: u16) -> u16 {
        self.symbols_needed().find(|&symbols| symbols <= most).unwrap_or(0)
    }

    /// The source symbols that somebody lacks who does not wait, ascending, when everybody of these named them.
    pub(super) fn missing(&self) -> Option<Vec<u16>> {
        let missing = || (0..).zip(&self.by_missing).filter(|&(_, &receivers)| receivers > 0).map(|(symbol, _)| symbol).collect();
        (self.unlisted == 0).then(missing)
    }

    fn source_symbols(&self) -> u16 {
        self.by_missing.len() as u16
    }

    /// The numbers of symbols that somebody needs at once, from the largest down to 0.
    fn symbols_needed(&self) -> impl Iterator<Item = u16> + '_ {
        (0..=self.source_symbols()).rev().filter(|&symbols| self.by_symbols[usize::from(symbols)] > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{ChunkId, SymbolIndex};

    fn need(symbols: u16, missing: &[u16]) -> Need {
        let deficit = Deficit { chunk: ChunkId(0), symbols, missing: missing.iter().map(|&symbol| SymbolIndex(symbol)).collect() };
        Need::checked(&deficit, 100)
    }

    #[test]
    fn a_lie_is_cut_to_what_can_be() {
        assert_eq!(need(u16::MAX, &[]), Need { symbols: 100, missing: vec![], waits: false });
        assert_eq!(need(2, &[7, 3, 7, 100, 65_535]), Need { symbols: 2, missing: vec![3, 7], waits: false });
        assert_eq!(need(3, &[7, 3, 7]).missing, [0; 0], "a list too short to help");
        assert_eq!(need(0, &[7]).missing, [0; 0]);
        let many: Vec<u16> = (0..50).collect();
        assert_eq!(need(5, &many).missing.len(), MISSING_LISTED_MAX);
    }

    #[test]
    fn the_largest_need_and_the_union_follow_what_comes_and_goes() {
        let mut needs = ChunkNeeds::new(100);
        let (few, other, unlisted, whole) = (need(2, &[1, 5]), need(1, &[5]), need(30, &[]), need(95, &[]));
        needs.add(&few);
        needs.add(&other);
        assert_eq!((needs.partial_max(), needs.missing(), needs.needy()), (2, Some(vec![1, 5]), 2));
        needs.add(&unlisted);
        assert_eq!((needs.partial_max(), needs.missing()), (30, None));
        needs.add(&whole);
        assert!(needs.any_whole());
        assert_eq!(needs.partial_max(), 30, "who has next to nothing is not repaired at once");
        needs.remove(&whole);
        needs.remove(&unlisted);
        needs.remove(&few);
        assert!(!needs.any_whole());
        assert_eq!((needs.partial_max(), needs.missing(), needs.needy()), (1, Some(vec![5]), 1));
        needs.add(&need(0, &[]));
        assert_eq!((needs.reporters(), needs.needy()), (2, 1));
    }

    #[test]
    fn who_came_in_the_middle_lacks_the_beginning() {
        assert!(need(3, &[0, 1, 2]).is_beginning() && need(2, &[0, 1, 2]).is_beginning() && need(30, &[]).is_beginning());
        assert!(!need(3, &[0, 1, 3]).is_beginning() && !need(1, &[0]).is_beginning() && !need(0, &[]).is_beginning());
    }

    #[test]
    fn who_waits_for_the_turn_is_summed_apart() {
        let mut needs = ChunkNeeds::new(100);
        let (at_once, waiting) = (need(2, &[1, 5]), Need { waits: true, ..need(60, &[]) });
        needs.add(&at_once);
        needs.add(&waiting);
        assert_eq!((needs.partial_max(), needs.missing(), needs.turn_max()), (2, Some(vec![1, 5]), Some(60)));
        assert_eq!((needs.reporters(), needs.needy(), needs.any_whole()), (2, 2, false));
        needs.add(&Need { waits: true, ..need(100, &[]) });
        assert!(needs.any_whole());
        needs.remove(&waiting);
        assert_eq!(needs.turn_max(), Some(100));
    }
}
