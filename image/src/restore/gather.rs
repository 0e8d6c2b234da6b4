//! How the pages of a chunk are gathered from its places at a target.

use std::collections::VecDeque;

use super::places::Place;
use crate::units::pages_of;
use crate::{CHUNK_PAGES_MAX, PAGE_BYTES};

/// A piece of a place, and where in a buffer it is read to.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) target_offset: u64,
    /// Where its bytes belong in the raw chunk.
    pub(super) raw_offset: u32,
    /// Where in the buffer they are read to.
    pub(super) buffer_offset: u32,
    pub(super) length: u32,
}

/// Which pieces of which places make up the whole chunk, and the places with pages that others have too. `None` when the image does not
/// have every page of the chunk, which no packer makes.
pub(super) fn gather(places: &[Place], raw_bytes: u32) -> Option<(Vec<Piece>, VecDeque<Place>)> {
    let pages = raw_bytes as usize / PAGE_BYTES;
    let mut covered = vec![false; pages.min(CHUNK_PAGES_MAX as usize)];
    let (mut pieces, mut repeated) = (Vec::new(), VecDeque::new());
    for place in places {
        let first = place.raw_offset as usize / PAGE_BYTES;
        let mine = covered.get_mut(first..first + pages_of(place.length.into()) as usize)?;
        if mine.iter().any(|covered| *covered) {
            repeated.push_back(*place);
        }
        let mut at = 0;
        while at < mine.len() {
            let run = mine[at..].iter().take_while(|covered| !**covered).count();
            if run > 0 {
                let skipped = (at * PAGE_BYTES) as u32;
                let length = place.length.saturating_sub(skipped).min((run * PAGE_BYTES) as u32);
                let raw_offset = place.raw_offset + skipped;
                let target_offset = place.target_offset + u64::from(skipped);
                pieces.push(Piece { target_offset, raw_offset, buffer_offset: raw_offset, length });
            }
            mine[at..at + run].fill(true);
            at += run.max(1);
        }
    }
    covered.iter().all(|covered| *covered).then_some((pieces, repeated))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(target_offset: u64, page: u32, length: u32) -> Place {
        Place { file: 0, target_offset, raw_offset: page * PAGE_BYTES as u32, length }
    }

    /// Pieces as target offset, raw offset and length.
    type Gathered = (Vec<(u64, u32, u32)>, Vec<Place>);

    fn gathered(places: &[Place], pages: u32) -> Option<Gathered> {
        let (pieces, repeated) = gather(places, pages * PAGE_BYTES as u32)?;
        Some((pieces.iter().map(|piece| (piece.target_offset, piece.raw_offset, piece.length)).collect(), repeated.into()))
    }

    #[test]
    fn each_page_is_gathered_once_and_repeated_places_are_compared() {
        let places = [place(0, 1, 4096), place(8192, 0, 3 * 4096), place(1 << 20, 1, 100)];
        let (pieces, repeated) = gathered(&places, 3).unwrap();
        assert_eq!(pieces, [(0, 4096, 4096), (8192, 0, 4096), (16384, 8192, 4096)]);
        assert_eq!(repeated, [places[1], places[2]]);
    }

    #[test]
    fn a_partial_last_page_is_a_piece_of_its_length() {
        assert_eq!(gathered(&[place(512, 0, 5000)], 2).unwrap(), (vec![(512, 0, 5000)], vec![]));
    }

    #[test]
    fn a_chunk_of_which_the_image_has_not_every_page_is_not_looked_for() {
        assert_eq!(gathered(&[place(0, 0, 4096)], 2), None);
        assert_eq!(gathered(&[], 1), None);
    }
}
