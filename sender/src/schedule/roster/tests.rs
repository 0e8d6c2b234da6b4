//! Demand and needs follow what receivers want, say, and leave unsaid.

use super::*;
use wire::SymbolIndex;
use wire::report::Deficit;

const A: ReceiverId = ReceiverId(1);
const B: ReceiverId = ReceiverId(2);
const LISTENING: Attendance = Attendance::Listening { catch_up: None };

fn range(first: u32, count: u32) -> ChunkRange {
    ChunkRange { first: ChunkId(first), count }
}

fn deficit(chunk: u32, symbols: u16) -> Deficit {
    Deficit { chunk: ChunkId(chunk), symbols, missing: (0..symbols.min(2)).map(SymbolIndex).collect() }
}

fn demands(roster: &Roster) -> Vec<u32> {
    roster.check().unwrap();
    (0..roster.chunks.len() as u32).map(|chunk| roster.demand(ChunkId(chunk))).collect()
}

fn roster() -> Roster {
    let mut roster = Roster::new(&[10; 5]);
    roster.join(A, &[range(0, 3)]);
    roster.join(B, &[range(1, 100)]);
    roster
}

#[test]
fn demand_follows_who_wants_what() {
    let mut roster = roster();
    assert_eq!(demands(&roster), [1, 2, 2, 1, 1]);
    roster.complete(A, range(0, 2));
    assert_eq!(demands(&roster), [0, 1, 2, 1, 1]);
    roster.complete(A, range(0, u32::MAX));
    roster.complete(A, range(0, u32::MAX));
    assert_eq!((demands(&roster), roster.wanting()), (vec![0, 1, 1, 1, 1], 1));
    roster.leave(B);
    roster.leave(B);
    assert_eq!((demands(&roster), roster.wanting()), (vec![0; 5], 0));
}

fn largest(roster: &Roster, chunk: u32) -> (u16, bool) {
    roster.check().unwrap();
    roster.needs(ChunkId(chunk)).map_or((0, false), |needs| (needs.partial_max(), needs.any_whole()))
}

#[test]
fn what_a_receiver_lacks_goes_and_comes_back_with_its_attendance() {
    let mut roster = roster();
    assert!(roster.lack(A, &deficit(1, 2), false) && roster.lack(B, &deficit(1, 5), false));
    assert!(!roster.lack(A, &deficit(4, 2), false), "it does not want that chunk");
    assert_eq!(largest(&roster, 1), (0, false), "more of it may be on its way");
    assert!(roster.count(A, ChunkId(1)) && roster.count(B, ChunkId(1)) && roster.count(B, ChunkId(1)));
    assert_eq!(largest(&roster, 1), (5, false));
    roster.set_attendance(B, Attendance::Absent);
    assert_eq!((largest(&roster, 1), demands(&roster)), ((2, false), vec![1, 1, 1, 0, 0]));
    assert!(roster.lack(B, &deficit(1, 7), false), "an absent receiver's word is kept for its return");
    assert!(!roster.count(B, ChunkId(1)));
    roster.complete(B, range(3, 1));
    assert_eq!(largest(&roster, 1), (2, false));
    roster.set_attendance(B, LISTENING);
    roster.count(B, ChunkId(1));
    assert_eq!((largest(&roster, 1), demands(&roster)), ((7, false), vec![1, 2, 2, 0, 1]));
    roster.complete(B, range(1, 1));
    assert_eq!(largest(&roster, 1), (2, false));
}

#[test]
fn silence_of_a_receiver_that_has_passed_means_that_it_lacks_all() {
    let mut roster = roster();
    assert!(roster.count(A, ChunkId(2)));
    assert_eq!(largest(&roster, 2), (0, true));
    roster.lack(A, &deficit(2, 0), false);
    assert!(!roster.count(A, ChunkId(2)), "it waits to be verified");
    assert_eq!(largest(&roster, 2), (0, false));
    assert!(!roster.count(A, ChunkId(4)), "it does not want it");
}

#[test]
fn what_was_said_before_more_was_sent_does_not_count_until_that_has_been_passed() {
    let mut roster = roster();
    roster.lack(A, &deficit(2, 2), false);
    roster.count(A, ChunkId(2));
    roster.send(ChunkId(2), false);
    assert_eq!(largest(&roster, 2), (0, false));
    roster.lack(B, &deficit(2, 7), false);
    assert_eq!(largest(&roster, 2), (0, false));
    roster.count(A, ChunkId(2));
    assert_eq!(largest(&roster, 2), (2, false), "unchanged deficits are not said again");
}

#[test]
fn stragglers_are_summed_apart() {
    let mut roster = roster();
    for (receiver, symbols) in [(A, 2), (B, 7)] {
        roster.lack(receiver, &deficit(2, symbols), false);
        roster.count(receiver, ChunkId(2));
    }
    roster.set_straggler(B, true);
    assert_eq!(largest(&roster, 2), (2, false));
    assert_eq!(roster.stragglers_needs(ChunkId(2)).map(ChunkNeeds::partial_max), Some(7));
    assert_eq!(roster.lacking(B), [ChunkId(2)]);
    roster.set_straggler(B, false);
    assert_eq!(largest(&roster, 2), (7, false));
    assert!(roster.stragglers_needs(ChunkId(2)).is_none());
}
