//! What goes first when receivers have priorities.

use super::*;

impl Run {
    fn prioritize(&mut self, receiver: ReceiverId, priority: i16) {
        self.scheduler.handle(self.now, Event::Prioritized { receiver, priority });
        self.check();
    }

    fn ids(&mut self) -> Vec<u32> {
        self.group().into_iter().map(|(chunk, _)| chunk).collect()
    }
}

/// A wants chunks 0 to 19, B chunks 10 to 29.
fn two_images() -> Run {
    let mut run = Run::new(30);
    run.join(A, 0, 20);
    run.join(B, 10, 20);
    run
}

#[test]
fn chunks_of_a_higher_priority_go_before_those_of_a_lower() {
    let mut run = two_images();
    run.prioritize(B, 10);
    assert_eq!(run.ids(), (10..26).collect::<Vec<_>>(), "what both want has the higher priority");
    assert_eq!(run.ids(), (26..30).collect::<Vec<_>>(), "no group mixes priorities");
    assert_eq!(run.ids(), (0..10).collect::<Vec<_>>());
}

#[test]
fn priorities_may_change_at_any_time() {
    let mut run = two_images();
    run.prioritize(A, -5);
    assert_eq!(run.ids(), (10..26).collect::<Vec<_>>());
    run.prioritize(A, 3);
    assert_eq!(run.ids(), (0..10).collect::<Vec<_>>());
    run.prioritize(ReceiverId(77), 9);
    assert_eq!(run.ids(), (26..30).collect::<Vec<_>>());
}

#[test]
fn what_only_lower_ones_want_any_more_goes_with_them() {
    let mut run = two_images();
    run.prioritize(B, 10);
    run.leave(B);
    assert_eq!(run.ids(), (0..16).collect::<Vec<_>>());
}

#[test]
fn repair_of_a_lower_priority_waits_for_new_chunks_of_a_higher() {
    let mut run = Run::new(40);
    run.join(A, 0, 1);
    run.drain();
    run.report(A, &[], &[]);
    run.report(A, &[], &[(0, 5, &[1, 2, 3, 4, 5])]);
    run.join(B, 1, 32);
    run.prioritize(B, 1);
    assert_eq!(run.ids(), (1..17).collect::<Vec<_>>());
    assert_eq!(run.ids(), (17..33).collect::<Vec<_>>());
    assert_eq!(run.group(), [(0, vec![1, 2, 3, 4, 5])], "nothing of the higher priority can be sent now");
}

#[test]
fn who_is_absent_lends_its_priority_to_nothing() {
    let mut run = two_images();
    run.prioritize(B, 10);
    run.idle_until_absent();
    assert_eq!(run.scheduler.demand_of(25), 0);
    run.report(A, &[], &[]);
    let first = run.ids();
    assert!(first.iter().all(|&chunk| chunk < 20), "{first:?}");
    run.report(B, &[], &[]);
    assert!(run.ids().iter().all(|&chunk| chunk >= 20), "it is back, with its priority");
}

impl Run {
    /// Sends until those who say nothing are absent.
    fn idle_until_absent(&mut self) {
        assert!(!self.group().is_empty());
        self.now = self.now.after(2 * ABSENT_AFTER_US);
        assert_eq!(self.group(), []);
        self.idle_sync();
    }
}
