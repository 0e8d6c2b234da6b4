//! When to begin and when a run is over, for `--once N`: begin when N receivers are listed, end when nobody is left to wait for.

use crate::schedule::ReceiverId;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a receiver whose connection was lost may take to come back before the run ends without it. Receivers try again within
/// seconds.
pub(super) const RETURN_LIMIT: Duration = Duration::from_secs(10);

/// How a receiver's attendance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    Completed,
    Failed,
    Lost,
}

/// How many receivers ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// On the list, taking data.
    pub listed: usize,
    /// Whole and acknowledged.
    pub completed: usize,
    /// Gave up, with a reason.
    pub failed: usize,
    /// Connection gone and not come back.
    pub lost: usize,
}

#[derive(Clone, Copy, Debug)]
enum Standing {
    Listed,
    Left(Departure, Duration),
}

/// The receivers of a run. Times are durations since any fixed moment.
#[derive(Debug)]
pub(super) struct Quorum {
    once: Option<usize>,
    begun: bool,
    receivers: BTreeMap<ReceiverId, Standing>,
}

impl Quorum {
    /// Waits for `once` receivers and ends with them; without, begins at once and never ends.
    pub(super) fn new(once: Option<usize>) -> Quorum {
        Quorum { once, begun: once.is_none_or(|count| count == 0), receivers: BTreeMap::new() }
    }

    /// A receiver is on the list, perhaps again.
    pub(super) fn joined(&mut self, receiver: ReceiverId) {
        self.receivers.insert(receiver, Standing::Listed);
        // A receiver that needed nothing has already left, and counts.
        self.begun |= self.once.is_some_and(|count| self.arrived() >= count);
    }

    /// A receiver is off the list. One that never was on it is of no account.
    pub(super) fn left(&mut self, receiver: ReceiverId, departure: Departure, now: Duration) {
        if !self.begun && departure != Departure::Completed {
            // It had nothing yet. What the operator mends before the start is no failure of the run.
            self.receivers.remove(&receiver);
        } else if let Some(standing) = self.receivers.get_mut(&receiver) {
            *standing = Standing::Left(departure, now);
        }
    }

    /// Whether to send.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// The result, once there is nobody left to wait for.
    pub(super) fn verdict(&self, now: Duration) -> Option<Tally> {
        let may_come_back = |standing: &Standing| match standing {
            Standing::Listed => true,
            Standing::Left(Departure::Lost, at) => now.saturating_sub(*at) < RETURN_LIMIT,
            Standing::Left(..) => false,
        };
        let over = self.once.is_some() && self.begun && !self.receivers.values().any(may_come_back);
        over.then(|| self.tally())
    }

    /// The counts now.
    pub(super) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for standing in self.receivers.values() {
            *match standing {
                Standing::Listed => &mut tally.listed,
                Standing::Left(Departure::Completed, _) => &mut tally.completed,
                Standing::Left(Departure::Failed, _) => &mut tally.failed,
                Standing::Left(Departure::Lost, _) => &mut tally.lost,
            } += 1;
        }
        tally
    }

    /// Receivers that are listed or were until they completed.
    fn arrived(&self) -> usize {
        let here = |standing: &&Standing| matches!(standing, Standing::Listed | Standing::Left(Departure::Completed, _));
        self.receivers.values().filter(here).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn joined(once: usize, receivers: u64) -> Quorum {
        let mut quorum = Quorum::new(Some(once));
        (0..receivers).for_each(|receiver| quorum.joined(ReceiverId(receiver)));
        quorum
    }

    #[test]
    fn without_a_number_it_begins_at_once_and_never_ends() {
        let mut quorum = Quorum::new(None);
        assert!(quorum.has_begun());
        quorum.joined(ReceiverId(1));
        quorum.left(ReceiverId(1), Departure::Completed, NOW);
        assert_eq!(quorum.verdict(NOW), None);
    }

    #[test]
    fn it_begins_with_the_last_of_them_and_goes_on_when_one_leaves() {
        assert!(!joined(3, 2).has_begun());
        let mut quorum = joined(3, 3);
        assert!(quorum.has_begun());
        quorum.left(ReceiverId(0), Departure::Failed, NOW);
        assert!(quorum.has_begun());
        assert_eq!(quorum.verdict(NOW), None);
    }

    #[test]
    fn one_that_left_before_the_start_is_not_counted_unless_it_completed() {
        let mut quorum = joined(2, 1);
        quorum.left(ReceiverId(0), Departure::Failed, NOW);
        quorum.joined(ReceiverId(1));
        assert!(!quorum.has_begun());
        quorum.left(ReceiverId(1), Departure::Completed, NOW);
        quorum.joined(ReceiverId(2));
        assert!(quorum.has_begun());
        assert_eq!(quorum.tally(), Tally { listed: 1, completed: 1, ..Tally::default() });
    }

    #[test]
    fn it_ends_when_all_have_completed_or_failed() {
        let mut quorum = joined(2, 2);
        quorum.left(ReceiverId(0), Departure::Completed, NOW);
        quorum.left(ReceiverId(1), Departure::Failed, NOW);
        assert_eq!(quorum.verdict(NOW), Some(Tally { completed: 1, failed: 1, ..Tally::default() }));
    }

    #[test]
    fn a_lost_receiver_has_time_to_come_back() {
        let mut quorum = joined(1, 1);
        quorum.left(ReceiverId(0), Departure::Lost, NOW);
        assert_eq!(quorum.verdict(NOW + RETURN_LIMIT / 2), None);
        assert_eq!(quorum.verdict(NOW + RETURN_LIMIT), Some(Tally { lost: 1, ..Tally::default() }));
        quorum.joined(ReceiverId(0));
        assert_eq!(quorum.verdict(NOW + RETURN_LIMIT), None);
        quorum.left(ReceiverId(0), Departure::Completed, NOW);
        assert_eq!(quorum.verdict(NOW), Some(Tally { completed: 1, ..Tally::default() }));
    }

    #[test]
    fn a_late_joiner_is_waited_for_too() {
        let mut quorum = joined(1, 2);
        quorum.left(ReceiverId(0), Departure::Completed, NOW);
        assert_eq!(quorum.verdict(NOW), None);
        assert_eq!(quorum.tally(), Tally { listed: 1, completed: 1, ..Tally::default() });
    }
}
