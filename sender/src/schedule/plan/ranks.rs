//! Receivers of several priorities. The highest is planned for over the whole link, as if it were alone. What its devices leave of the link goes to streams of
//! the next one, and so on: a *level* is what has streams of its own.
//!
//! A chunk that several priorities want is the highest one's. Those of lower priorities who want it listen where their devices can take that stream; the
//! others get it by streams of their own level, out of what the higher levels have left; and so do all of a priority that are done a fifth sooner in that way,
//! because the higher ones have shown that they are slow. When less than a twentieth of the link is left, or no stream,
//! the priorities that are still lower share the streams of the last level: on one stream nothing of a lower one goes first. So one stream is all there is where
//! the link is the limit for the highest priority.

use super::{Class, Device, Pace, Situation, StreamPlan};
use std::collections::BTreeSet;

/// From this share of the link on, what is left is worth streams of a lower priority: as much as is lost to it by filling the gaps of a higher one's instead.
const LEVEL_SHARE_MIN: f64 = 0.05;
/// Fast receivers get streams of their own when that saves them this share of their time.
const EXPRESS_GAIN: f64 = 0.2;
/// A stream may be this much faster than planned, as far as the link allows …
const MARGIN: f64 = 1.1;
/// … while some have not shown what they restore: a test that others disturbed must not hold a stream down.
const MARGIN_UNSHOWN: f64 = 4.0;
/// A receiver listens to a higher priority's stream when that brings no more than this many times what it can restore: the rest it will lack in the end. Not
/// less, as the devices are often the same, and what they say of themselves differs from second to second.
const GUEST_RATE: f64 = 1.25;

/// What there is to plan for.
#[derive(Clone, Debug)]
pub struct Ranked {
    /// Listed receivers.
    pub receivers: Vec<Device>,
    /// The rank of each: 0 for the highest priority.
    pub ranks: Vec<usize>,
    /// Per rank and class what receivers of this rank want and none of a higher one does. It is wanted by receivers of this rank and of lower ones.
    pub pieces: Vec<Vec<Class>>,
    /// All streams together, in bytes of chunks a second.
    pub total_bytes_per_second: u64,
    /// At least 1.
    pub streams_max: usize,
    /// Whether fast receivers may have streams of their own, where somebody has shown that it is slow.
    pub express: bool,
}

/// The streams of one priority, or of some that share them.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    /// The first and last rank that it is for.
    pub ranks: (usize, usize),
    /// Its streams. Positions of members are those in [`Ranked::receivers`].
    pub streams: Vec<StreamPlan>,
    /// A stream's classes go side by side, rather than one after the other.
    pub side_by_side: bool,
    /// Receivers of lower levels that want what these streams carry, and are better off without them.
    pub refused: BTreeSet<usize>,
    /// The rate of each class.
    paces: Vec<f64>,
    /// The slowest of its receivers has shown what it restores.
    is_certain: bool,
}

/// What a receiver gets by listening to a level's streams.
#[derive(Clone, Copy, Debug, Default)]
struct Gift {
    bytes: u64,
    bytes_per_second: u64,
    /// When it has all of it.
    seconds: f64,
}

impl Ranked {
    /// The levels, that of the highest priority first; none when nothing is wanted. All streams together are within the link, whatever the margins.
    pub fn plan(&self) -> Vec<Level> {
        let mut devices = self.receivers.clone();
        let mut levels: Vec<Level> = Vec::new();
        let (mut left, mut streams_left) = (self.total_bytes_per_second, self.streams_max.max(1));
        for rank in 0..self.pieces.len() {
            let of_rank = self.of_rank(rank, &mut devices, &mut levels, left, streams_left);
            let wants = of_rank.situation.classes.iter().any(|class| class.remaining_bytes > 0);
            if let Some(above) = levels.last_mut() {
                let worth = streams_left > 0 && left as f64 >= self.total_bytes_per_second as f64 * LEVEL_SHARE_MIN;
                if wants && !worth {
                    above.ranks.1 = self.pieces.len() - 1;
                    break;
                }
            }
            match levels.last_mut() {
                Some(above) if !wants => above.ranks.1 = rank,
                None if !wants => {}
                _ => {
                    let level = self.level(rank, of_rank);
                    streams_left -= level.streams.len().min(streams_left);
                    left = left.saturating_sub(level.streams.iter().map(|stream| stream.bytes_per_second_max).sum());
                    levels.push(level);
                }
            }
        }
        // Nobody comes after the last one: where it is one stream, what receivers take decides how fast that is.
        if let Some([stream]) = levels.last_mut().map(|level| &mut level.streams[..]) {
            stream.bytes_per_second_max += left;
        }
        levels
    }

    /// What there is to plan for the receivers of `rank`, once it is clear who of them listens to higher levels.
    fn of_rank(&self, rank: usize, devices: &mut [Device], levels: &mut [Level], left: u64, streams_max: usize) -> OfRank {
        let receivers: Vec<usize> = (0..devices.len()).filter(|&receiver| self.ranks[receiver] == rank).collect();
        let mut gifts_s = 0.0_f64;
        for level in &mut *levels {
            for &receiver in &receivers {
                let gift = self.gift(level, receiver);
                let device = &mut devices[receiver];
                let spare = device.bytes_per_second.saturating_sub(device.taken_bytes_per_second);
                if gift.bytes_per_second as f64 > spare as f64 * GUEST_RATE {
                    level.refused.insert(receiver);
                } else {
                    device.taken_bytes_per_second += gift.bytes_per_second;
                    device.taken_bytes += gift.bytes;
                    gifts_s = gifts_s.max(gift.seconds);
                }
            }
        }
        let as_guests = self.situation(rank, &receivers, devices, levels, left, streams_max);
        // What lower levels carry too crosses the link twice: not before it is certain who is slow.
        if !(self.express && gifts_s > 0.0 && streams_max > 0 && levels.iter().all(|level| level.is_certain)) {
            return OfRank { situation: as_guests, receivers };
        }
        let mut alone = (devices.to_vec(), levels.to_vec());
        for &receiver in &receivers {
            (alone.0[receiver].taken_bytes_per_second, alone.0[receiver].taken_bytes) = (0, 0);
            alone.1.iter_mut().for_each(|level| _ = level.refused.insert(receiver));
        }
        let by_themselves = self.situation(rank, &receivers, &alone.0, &alone.1, left, streams_max);
        if by_themselves.fluid_bound_seconds() >= as_guests.fluid_bound_seconds().max(gifts_s) * (1.0 - EXPRESS_GAIN) {
            return OfRank { situation: as_guests, receivers };
        }
        devices.copy_from_slice(&alone.0);
        levels.clone_from_slice(&alone.1);
        OfRank { situation: by_themselves, receivers }
    }

    /// What `receiver`, of a lower rank, gets from `level`.
    fn gift(&self, level: &Level, receiver: usize) -> Gift {
        let whole: u64 = level.streams.iter().map(|stream| stream.bytes_per_second).sum();
        let mut gift = Gift::default();
        let mut before_bytes = 0;
        for (index, pace) in level.paces.iter().enumerate() {
            let of_level = || (level.ranks.0..=level.ranks.1).map(|rank| &self.pieces[rank][index]);
            let all: u64 = of_level().map(|piece| piece.remaining_bytes).sum();
            before_bytes += all;
            let wanted = of_level().filter(|piece| piece.wanted_by.binary_search(&receiver).is_ok());
            let bytes: u64 = wanted.map(|piece| piece.remaining_bytes).sum();
            if bytes > 0 && whole > 0 {
                gift.bytes += bytes;
                // One class after the other, each comes at the rate of the whole stream.
                let rate = if level.side_by_side { gift.bytes_per_second + *pace as u64 } else { whole };
                let seconds = if level.side_by_side { all as f64 / pace.max(1.0) } else { before_bytes as f64 / whole as f64 };
                (gift.bytes_per_second, gift.seconds) = (rate, gift.seconds.max(seconds));
            }
        }
        gift
    }

    /// What there is to plan for the receivers of `rank`: their own, and what they do not get from higher levels although these carry it.
    fn situation(
        &self,
        rank: usize,
        receivers: &[usize],
        devices: &[Device],
        levels: &[Level],
        left: u64,
        streams_max: usize,
    ) -> Situation {
        let place = |receiver: &usize| receivers.binary_search(receiver).ok();
        let mut classes: Vec<Class> = Vec::new();
        for (index, own) in self.pieces[rank].iter().enumerate() {
            let mut class = Class { remaining_bytes: own.remaining_bytes, wanted_by: own.wanted_by.iter().filter_map(place).collect() };
            for level in levels {
                for piece in (level.ranks.0..=level.ranks.1).map(|rank| &self.pieces[rank][index]) {
                    let refused = piece.wanted_by.iter().filter(|receiver| level.refused.contains(receiver));
                    let refused: Vec<usize> = refused.filter_map(place).collect();
                    class.remaining_bytes += if refused.is_empty() { 0 } else { piece.remaining_bytes };
                    class.wanted_by.extend(refused);
                }
            }
            class.wanted_by.sort_unstable();
            class.wanted_by.dedup();
            classes.push(class);
        }
        let of_rank = receivers.iter().map(|&receiver| devices[receiver]).collect();
        let mut situation = Situation { receivers: of_rank, classes, total_bytes_per_second: left, streams_max, express: false };
        // The same holds for express streams.
        situation.express = self.express && situation.is_certain() && situation.gain() > EXPRESS_GAIN;
        situation
    }

    /// Plans for the receivers of `rank`.
    fn level(&self, rank: usize, of_rank: OfRank) -> Level {
        let OfRank { mut situation, receivers } = of_rank;
        let one = self.streams_max < 2 || (!situation.express && situation.one_stream_is_enough());
        let (left, streams_left) = (situation.total_bytes_per_second, situation.streams_max);
        situation.streams_max = if one { 1 } else { streams_left };
        let mut streams = with_margin(&situation);
        // Streams of several classes bring them as soon as streams of one each: so one can be left to lower priorities. Not an express stream, without which
        // somebody would have to wait.
        let leaves = left.saturating_sub(streams.iter().map(|stream| stream.bytes_per_second_max).sum());
        let is_worth = leaves as f64 >= self.total_bytes_per_second as f64 * LEVEL_SHARE_MIN;
        let all_base = streams.iter().all(|stream| stream.pace == Pace::Base);
        if rank + 1 < self.pieces.len() && streams_left > 1 && streams.len() == streams_left && all_base && is_worth {
            situation.streams_max = streams_left - 1;
            streams = with_margin(&situation);
        }
        for stream in &mut streams {
            stream.members.iter_mut().for_each(|member| *member = receivers[*member]);
        }
        let paces = situation.paces(situation.fluid_bound_seconds());
        Level { ranks: (rank, rank), streams, side_by_side: !one, refused: BTreeSet::new(), paces, is_certain: situation.is_certain() }
    }
}

/// What there is to plan for one rank, and the positions of its receivers among all.
struct OfRank {
    situation: Situation,
    receivers: Vec<usize>,
}

/// The streams of a plan, with what each may be sent at.
fn with_margin(situation: &Situation) -> Vec<StreamPlan> {
    let mut streams = situation.plan();
    let total: u64 = streams.iter().map(|stream| stream.bytes_per_second).sum();
    let all_shown = situation.receivers.iter().all(|device| device.is_shown);
    let margin_max = if all_shown { MARGIN } else { MARGIN_UNSHOWN };
    let margin = (situation.total_bytes_per_second as f64 / total.max(1) as f64).clamp(1.0, margin_max);
    for stream in &mut streams {
        stream.bytes_per_second_max = (stream.bytes_per_second as f64 * margin) as u64;
    }
    streams
}

#[cfg(test)]
mod tests;
