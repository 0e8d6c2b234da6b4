//! How fast the streams may be: what is planned for each, and what drains where nothing is planned, within the cap of all together.

use super::Delivery;

/// What is sent beyond source symbols, as far as it can be planned for: syncs and repair.
const OVERHEAD: f64 = 1.02;
/// What is left on streams without a plan drains at this part of the cap, for which the others make room …
const DRAIN_PART: u64 = 10;
/// … and with this one where all that is of a lower priority: as stragglers have it, nobody stands still, and the others are not slowed by more than a hundredth.
const LOWER_DRAIN_PART: u64 = 100;
/// Of what a lower level was to have, this much may be taken to make room, so that nothing stands still.
const CUT_MAX: f64 = 0.9;

/// A stream of a lower level goes on with this part of its rate at least: who listens to a higher level's stream too, which does not heed it, may have a full
/// memory for as long as that lasts, and a stream that has come to a halt takes long to climb.
const LOWER_FLOOR_PART: u64 = 16;

/// What is planned for a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    /// 0 is the highest.
    pub(super) level: usize,
    pub(super) bits_per_second: u64,
}

impl Delivery {
    /// Gives the streams the rates that are planned. Room is made at the expense of the lowest level first.
    pub(super) fn limit_lanes(&mut self) {
        let cap = self.streams_cap_bits_per_second();
        let mut rates: Vec<u64> = self.planned.iter().map(|planned| planned.map_or(0, |planned| planned.bits_per_second)).collect();
        let drains: Vec<usize> =
            (0..self.lanes.len()).filter(|&lane| self.planned[lane].is_none() && !self.lanes[lane].is_empty()).collect();
        let (first, lower): (Vec<usize>, Vec<usize>) = drains.into_iter().partition(|&lane| self.carries_first_level(lane));
        let mut planned: u64 = rates.iter().sum();
        if !first.is_empty() {
            let rest = cap / DRAIN_PART;
            first.iter().for_each(|&lane| rates[lane] = rest / first.len() as u64);
            planned += rest;
        }
        if !lower.is_empty() {
            let rest = cap.saturating_sub(planned).clamp(cap / LOWER_DRAIN_PART, cap / DRAIN_PART);
            lower.iter().for_each(|&lane| rates[lane] = rest / lower.len() as u64);
            planned += rest;
        }
        self.make_room(planned.saturating_sub(cap), &mut rates);
        // Each stream has its share of the floor.
        let floor_share =
            self.config.schedule.rate_floor_bits_per_second as f64 / self.config.schedule.rate_cap_bits_per_second.max(1) as f64;
        let receivers = self.members.len();
        for ((lane, rate), planned) in self.lanes.iter_mut().zip(rates).zip(&self.planned) {
            // Nothing comes to an empty stream before the next plan, which is then the limit: it begins with that rate, not with a lower one.
            let rate = if rate == 0 { cap } else { rate };
            lane.scheduler.set_report_load(receivers);
            let floor = if planned.is_some_and(|planned| planned.level > 0) { rate / LOWER_FLOOR_PART } else { 0 };
            lane.set_rate_limits(rate, floor.max((rate as f64 * floor_share) as u64));
        }
    }

    /// Takes `over` off the rates that are planned.
    fn make_room(&self, mut over: u64, rates: &mut [u64]) {
        for level in (0..self.assignment.levels()).rev() {
            let lanes: Vec<usize> =
                (0..rates.len()).filter(|&lane| self.planned[lane].is_some_and(|planned| planned.level == level)).collect();
            let sum: u64 = lanes.iter().map(|&lane| rates[lane]).sum();
            let cut = over.min(if level > 0 { (sum as f64 * CUT_MAX) as u64 } else { sum });
            let kept = (sum - cut) as f64 / sum.max(1) as f64;
            lanes.into_iter().for_each(|lane| rates[lane] = (rates[lane] as f64 * kept) as u64);
            over -= cut;
        }
    }

    /// Whether `lane` brings something to somebody of the highest level who is not absent.
    fn carries_first_level(&self, lane: usize) -> bool {
        let mut members = self.lanes[lane].members().filter_map(|receiver| self.members.get(&receiver));
        members.any(|member| member.is_planned && self.assignment.level_of(member.priority) == 0)
    }

    /// All streams that carry something are within the cap together.
    pub(super) fn check_limits(&self) -> Result<(), String> {
        if self.planned_at.is_none() {
            return Ok(());
        }
        let rates = self.lanes.iter().filter(|lane| !lane.is_empty()).map(|lane| lane.rate_cap_bits_per_second());
        let (sum, cap) = (rates.sum::<u64>(), self.streams_cap_bits_per_second());
        if sum <= cap { Ok(()) } else { Err(format!("streams may send {sum} bit/s together where the cap is {cap}")) }
    }

    /// Bits on the wire that so many bytes of chunks take.
    pub(super) fn line_bits(&self, bytes: f64) -> u64 {
        let schedule = &self.config.schedule;
        let frame_bytes = schedule.parameters.payload_bytes() as f64 + f64::from(schedule.frame_overhead_bytes);
        ((bytes / f64::from(schedule.parameters.symbol_bytes) * frame_bytes * 8.0 * OVERHEAD) as u64).max(1)
    }
}
