//! How many streams, how fast, and who joins which, so that the last receiver is done as early as can be and fast ones do not wait for slow ones.
//!
//! Data that the same images share is a *class*. What is left of class s for anybody is R_s; receiver r can restore c_r bytes a second, the link carries B.
//! Nothing can be done before
//!
//! T = max( Σ R_s / B, max over r of Σ over the classes that r wants of R_s / c_r ),
//!
//! the *fluid bound*: the link has to carry each class once, and a receiver has to restore all of its own. It is reached by sending all classes at the
//! same time, each at the rate R_s / T: that fits the link, and no receiver gets more than it can restore. These are the *base* streams. What the link
//! has left goes to *express* streams, which carry classes from their other end to those receivers that can take more: they are done when the two
//! meet, while what express streams sent stays in demand for the others. So nobody's speed costs the slow ones anything, nor the reverse.
//!
//! Where there are more classes than streams, those with the smallest rates share one, their chunks in turn; who wants one of them filters the others.
//! Receivers of several priorities are planned for one priority after the other, each over what the higher ones leave (`ranks`).
//! A plan holds until somebody joins, is done, or restores at another rate than it said, or a stream has nothing left; the next one begins with what is then left.

mod ranks;

use super::ReceiverId;
pub use ranks::{Level, Ranked};

/// A receiver as a plan sees it. Bytes are of chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Who.
    pub receiver: ReceiverId,
    /// What it can restore.
    pub bytes_per_second: u64,
    /// It has shown that; else a short test before the transfer said so, which others may have disturbed.
    pub is_shown: bool,
    /// What it takes from streams that are planned already, those of higher priorities: a second …
    pub taken_bytes_per_second: u64,
    /// … and in all.
    pub taken_bytes: u64,
}

/// A device that is busy with what it takes already is planned for with this part of its rate: what it wants besides must not stand still for the others
/// who want it too, and its backlog slows the stream where it has to be slowed.
const SPARE_SHARE_MIN: f64 = 0.125;

impl Device {
    /// One that takes nothing from other streams.
    pub fn new(receiver: ReceiverId, bytes_per_second: u64, is_shown: bool) -> Device {
        Device { receiver, bytes_per_second, is_shown, taken_bytes_per_second: 0, taken_bytes: 0 }
    }

    /// What it can restore beside what it takes already.
    fn spare(&self) -> f64 {
        let rate = self.bytes_per_second as f64;
        (rate - self.taken_bytes_per_second as f64).max(rate * SPARE_SHARE_MIN)
    }
}

/// What is left of the chunks that the same images share.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    /// Bytes that at least one receiver still wants.
    pub remaining_bytes: u64,
    /// Positions in [`Situation::receivers`] of those who want some of them.
    pub wanted_by: Vec<usize>,
}

/// What there is to plan for.
#[derive(Clone, Debug)]
pub struct Situation {
    /// Listed receivers.
    pub receivers: Vec<Device>,
    /// All classes of which something is wanted.
    pub classes: Vec<Class>,
    /// All streams together, in bytes of chunks a second.
    pub total_bytes_per_second: u64,
    /// At least 1.
    pub streams_max: usize,
    /// Whether fast receivers may have streams of their own; one is kept for that.
    pub express: bool,
}

/// From which end a stream sends its classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Ascending, at a rate that all who want the classes can take.
    Base,
    /// Descending, for those who can take more.
    Express,
}

/// One stream of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamPlan {
    /// Positions in [`Situation::classes`].
    pub classes: Vec<usize>,
    /// Its end, and for whom it is.
    pub pace: Pace,
    /// Its rate.
    pub bytes_per_second: u64,
    /// What it may be sent at: receivers may restore more than they said, and push back when they do not.
    pub bytes_per_second_max: u64,
    /// Positions in [`Situation::receivers`] of those who are to join it.
    pub members: Vec<usize>,
}

/// An express stream of less than this share of the link is not worth a group.
const EXPRESS_SHARE_MIN: f64 = 0.02;
/// One stream does when it takes no longer than this many times what several would.
const ONE_STREAM_ENOUGH: f64 = 1.03;

impl Situation {
    /// The fluid bound in seconds: no plan is done earlier. Infinite when somebody restores nothing.
    pub fn fluid_bound_seconds(&self) -> f64 {
        self.alone_seconds().fold(self.link_seconds(), f64::max)
    }

    /// By what share of the bound the receiver that gains most would be done earlier if it did not have to keep to the pace of the slowest.
    pub fn gain(&self) -> f64 {
        let seconds = self.fluid_bound_seconds();
        if !(seconds.is_finite() && seconds > 0.0) {
            return 0.0;
        }
        let fastest = self.alone_seconds().filter(|&alone| alone > 0.0).fold(seconds, f64::min);
        1.0 - fastest.max(self.link_seconds()) / seconds
    }

    /// What the link takes to carry everything once.
    fn link_seconds(&self) -> f64 {
        let total: u64 = self.classes.iter().map(|class| class.remaining_bytes).sum();
        total as f64 / self.total_bytes_per_second.max(1) as f64
    }

    /// Whether the slowest receiver has shown what it restores.
    fn is_certain(&self) -> bool {
        self.receivers.iter().min_by_key(|device| device.bytes_per_second).is_some_and(|slowest| slowest.is_shown)
    }

    /// Whether one stream that carries one class after the other takes hardly longer than several.
    fn one_stream_is_enough(&self) -> bool {
        let slowest = self.receivers.iter().map(Device::spare).fold(self.total_bytes_per_second as f64, f64::min);
        let remaining: u64 = self.classes.iter().map(|class| class.remaining_bytes).sum();
        remaining as f64 / slowest.max(1.0) <= self.fluid_bound_seconds() * ONE_STREAM_ENOUGH
    }

    /// What each receiver takes to restore all of its own, what it takes from other streams too; 0 when it wants nothing.
    fn alone_seconds(&self) -> impl Iterator<Item = f64> + '_ {
        let mut wanted = vec![0_u64; self.receivers.len()];
        for class in &self.classes {
            for &receiver in &class.wanted_by {
                if let Some(wanted) = wanted.get_mut(receiver) {
                    *wanted += class.remaining_bytes;
                }
            }
        }
        let alone = |(device, wanted): (&Device, u64)| match wanted {
            0 => 0.0,
            _ => (wanted + device.taken_bytes) as f64 / device.bytes_per_second as f64,
        };
        self.receivers.iter().zip(wanted).map(alone)
    }

    /// The rate of each class, in bytes a second, that has all done after `seconds`; less where receivers are busy with other streams for the time being.
    fn paces(&self, seconds: f64) -> Vec<f64> {
        let pace = |class: &Class| class.remaining_bytes as f64 / seconds;
        let mut needed = vec![0.0; self.receivers.len()];
        for class in &self.classes {
            for &receiver in &class.wanted_by {
                if let Some(needed) = needed.get_mut(receiver) {
                    *needed += pace(class);
                }
            }
        }
        let share = |&receiver: &usize| match (self.receivers.get(receiver), needed.get(receiver)) {
            (Some(device), Some(&needed)) if device.taken_bytes_per_second > 0 && needed > 0.0 => device.spare() / needed,
            _ => 1.0,
        };
        self.classes.iter().map(|class| pace(class) * class.wanted_by.iter().map(share).fold(1.0, f64::min)).collect()
    }

    /// The streams that reach the bound. None when nothing is wanted, or when nobody restores anything.
    pub fn plan(&self) -> Vec<StreamPlan> {
        let seconds = self.fluid_bound_seconds();
        if !(seconds.is_finite() && seconds > 0.0) {
            return Vec::new();
        }
        let paces = self.paces(seconds);
        let base_max = if self.express { self.streams_max.saturating_sub(1).max(1) } else { self.streams_max };
        let mut streams = self.base(base_max, &paces);
        if !self.express {
            return streams;
        }
        let mut spare: Vec<f64> = self.receivers.iter().map(Device::spare).collect();
        for (class, pace) in self.classes.iter().zip(&paces) {
            for &receiver in &class.wanted_by {
                if let Some(spare) = spare.get_mut(receiver) {
                    *spare -= pace;
                }
            }
        }
        let total = self.total_bytes_per_second as f64;
        let mut left = total - paces.iter().sum::<f64>();
        // Where most receivers are, most is gained.
        let mut order: Vec<usize> = (0..self.classes.len()).filter(|&class| self.classes[class].remaining_bytes > 0).collect();
        order.sort_by_key(|&class| std::cmp::Reverse(self.classes[class].wanted_by.len()));
        for class in order {
            if streams.len() >= self.streams_max.max(1) || left < total * EXPRESS_SHARE_MIN {
                break;
            }
            if let Some((rate, members)) =
                express(&self.classes[class].wanted_by, &spare, left).filter(|(rate, _)| *rate >= total * EXPRESS_SHARE_MIN)
            {
                left -= rate;
                members.iter().for_each(|&member| spare[member] -= rate);
                let bytes_per_second = rate as u64;
                streams.push(StreamPlan {
                    classes: vec![class],
                    pace: Pace::Express,
                    bytes_per_second,
                    bytes_per_second_max: bytes_per_second,
                    members,
                });
            }
        }
        streams
    }

    /// One base stream per class, or, with too many classes, one for the slowest of them.
    fn base(&self, streams_max: usize, paces: &[f64]) -> Vec<StreamPlan> {
        let mut classes: Vec<usize> = (0..self.classes.len()).filter(|&class| self.classes[class].remaining_bytes > 0).collect();
        classes.sort_by_key(|&class| std::cmp::Reverse(self.classes[class].remaining_bytes));
        let alone = if classes.len() > streams_max { streams_max.saturating_sub(1) } else { classes.len() };
        let together = classes.split_off(alone);
        let mut groups: Vec<Vec<usize>> = classes.into_iter().map(|class| vec![class]).collect();
        groups.extend(Some(together).filter(|together| !together.is_empty()));
        let stream = |classes: Vec<usize>| {
            let mut members: Vec<usize> = classes.iter().flat_map(|&class| self.classes[class].wanted_by.iter().copied()).collect();
            members.sort_unstable();
            members.dedup();
            let bytes_per_second = classes.iter().map(|&class| paces[class]).sum::<f64>().max(1.0) as u64;
            StreamPlan { classes, pace: Pace::Base, bytes_per_second, bytes_per_second_max: bytes_per_second, members }
        };
        groups.into_iter().map(stream).collect()
    }
}

/// The rate at which an express stream brings most in all to those of `candidates` who can take it, and who they are.
fn express(candidates: &[usize], spare: &[f64], left: f64) -> Option<(f64, Vec<usize>)> {
    let spare_of = |&receiver: &usize| spare.get(receiver).copied().unwrap_or(0.0);
    let brings = |rate: f64| rate * candidates.iter().filter(|candidate| spare_of(candidate) >= rate).count() as f64;
    let rates = candidates.iter().map(|candidate| spare_of(candidate).min(left)).filter(|&rate| rate > 0.0);
    let rate = rates.max_by(|&a, &b| brings(a).total_cmp(&brings(b)))?;
    Some((rate, candidates.iter().copied().filter(|candidate| spare_of(candidate) >= rate).collect()))
}

#[cfg(test)]
mod tests;
