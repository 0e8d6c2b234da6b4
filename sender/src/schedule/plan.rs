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
//! A plan holds until somebody joins, is done, or restores at another rate than it said, or a stream has nothing left; the next one begins with what is then left.

use super::ReceiverId;

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
    /// Listed receivers with what each can restore, in bytes of chunks a second.
    pub receivers: Vec<(ReceiverId, u64)>,
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
    /// Positions in [`Situation::receivers`] of those who are to join it.
    pub members: Vec<usize>,
}

/// An express stream of less than this share of the link is not worth a group.
const EXPRESS_SHARE_MIN: f64 = 0.02;

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

    /// What each receiver takes to restore all of its own; 0 when it wants nothing.
    fn alone_seconds(&self) -> impl Iterator<Item = f64> + '_ {
        let mut wanted = vec![0_u64; self.receivers.len()];
        for class in &self.classes {
            for &receiver in &class.wanted_by {
                if let Some(wanted) = wanted.get_mut(receiver) {
                    *wanted += class.remaining_bytes;
                }
            }
        }
        let alone = |(&(_, rate), wanted): (&(ReceiverId, u64), u64)| if wanted == 0 { 0.0 } else { wanted as f64 / rate as f64 };
        self.receivers.iter().zip(wanted).map(alone)
    }

    /// The streams that reach the bound. None when nothing is wanted, or when nobody restores anything.
    pub fn plan(&self) -> Vec<StreamPlan> {
        let seconds = self.fluid_bound_seconds();
        if !(seconds.is_finite() && seconds > 0.0) {
            return Vec::new();
        }
        let rate = |class: &Class| class.remaining_bytes as f64 / seconds;
        let base_max = if self.express { self.streams_max.saturating_sub(1).max(1) } else { self.streams_max };
        let mut streams = self.base(base_max, &rate);
        if !self.express {
            return streams;
        }
        let mut spare: Vec<f64> = self.receivers.iter().map(|&(_, rate)| rate as f64).collect();
        for class in &self.classes {
            for &receiver in &class.wanted_by {
                if let Some(spare) = spare.get_mut(receiver) {
                    *spare -= rate(class);
                }
            }
        }
        let total = self.total_bytes_per_second as f64;
        let mut left = total - self.classes.iter().map(rate).sum::<f64>();
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
                streams.push(StreamPlan { classes: vec![class], pace: Pace::Express, bytes_per_second: rate as u64, members });
            }
        }
        streams
    }

    /// One base stream per class, or, with too many classes, one for the slowest of them.
    fn base(&self, streams_max: usize, rate: &impl Fn(&Class) -> f64) -> Vec<StreamPlan> {
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
            let bytes_per_second = classes.iter().map(|&class| rate(&self.classes[class])).sum::<f64>().max(1.0) as u64;
            StreamPlan { classes, pace: Pace::Base, bytes_per_second, members }
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
