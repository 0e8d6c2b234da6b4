//! How long nothing has been heard of the stream, and when something should be done about it.

use std::time::{Duration, Instant};

/// A listed receiver that hears nothing for this long joins its groups again: the sender repeats its syncs more often while it sends.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// A sender may also have nothing to send yet; each pause is twice the one before it, up to this.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A receiver that has never heard anything after this long, having joined its groups twice more, will hardly hear anything.
pub(super) const HOPELESS_AFTER: Duration = Duration::from_secs(10);

/// See the module's text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    /// The receiver is on the list: something should come.
    listening: bool,
    since: Instant,
    due: Instant,
    pause: Duration,
    /// Packets that had been seen when this was last looked at.
    seen: u64,
    /// It was said that there is no hope.
    resigned: bool,
}

impl Silence {
    pub(super) fn new(now: Instant) -> Silence {
        Silence { listening: false, since: now, due: now + FIRST_PAUSE, pause: FIRST_PAUSE, seen: 0, resigned: false }
    }

    /// From now on something should come.
    pub(super) fn listen(&mut self, now: Instant) {
        (self.listening, self.resigned) = (true, false);
        self.broken(now);
    }

    /// Something came.
    pub(super) fn broken(&mut self, now: Instant) {
        (self.since, self.due, self.pause) = (now, now + FIRST_PAUSE, FIRST_PAUSE);
    }

    /// Whether it is worth to find out how many packets were seen.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.listening && now >= self.due
    }

    /// Whether nothing was seen for so long that nothing will be; until that is resigned to.
    pub(super) fn is_hopeless(&self, now: Instant) -> bool {
        self.listening && !self.resigned && self.seen == 0 && now - self.since >= HOPELESS_AFTER
    }

    /// It has been dealt with.
    pub(super) fn resign(&mut self) {
        self.resigned = true;
    }

    /// `seen` packets were seen so far. Answers how long there was silence, when that calls for an attempt to end it.
    pub(super) fn look(&mut self, now: Instant, seen: u64) -> Option<Duration> {
        if std::mem::replace(&mut self.seen, seen) != seen {
            self.broken(now);
            return None;
        }
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.due = now + self.pause;
        Some(now - self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_receiver_that_is_not_listed_waits_in_silence() {
        let start = Instant::now();
        assert!(!Silence::new(start).is_due(after(start, 100)));
    }

    #[test]
    fn attempts_follow_at_growing_intervals() {
        let start = Instant::now();
        let mut silence = Silence::new(start);
        silence.listen(start);
        let mut attempts = Vec::new();
        for second in 0..200 {
            if silence.is_due(after(start, second)) {
                assert_eq!(silence.look(after(start, second), 0), Some(Duration::from_secs(second)));
                attempts.push(second);
            }
        }
        assert_eq!(attempts, [2, 6, 14, 30, 62, 122, 182]);
    }

    #[test]
    fn ten_seconds_without_anything_ever_are_hopeless_once() {
        let start = Instant::now();
        let mut silence = Silence::new(start);
        assert!(!silence.is_hopeless(after(start, 100)), "it is not listed");
        silence.listen(start);
        assert!(!silence.is_hopeless(after(start, 9)) && silence.is_hopeless(after(start, 10)));
        silence.resign();
        assert!(!silence.is_hopeless(after(start, 20)));
        silence.listen(after(start, 30));
        assert!(silence.is_hopeless(after(start, 40)));
        silence.look(after(start, 40), 1);
        assert!(!silence.is_hopeless(after(start, 60)), "it is the sender that has nothing to say");
    }

    #[test]
    fn packets_that_end_in_the_filter_are_no_silence() {
        let start = Instant::now();
        let mut silence = Silence::new(start);
        silence.listen(start);
        assert_eq!(silence.look(after(start, 2), 5), None);
        assert!(!silence.is_due(after(start, 3)) && silence.is_due(after(start, 4)));
        assert!(silence.look(after(start, 4), 5).is_some());
        silence.broken(after(start, 5));
        assert!(!silence.is_due(after(start, 6)));
    }
}
