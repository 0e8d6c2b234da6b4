//! What arrives of a round of probes, and what that says of the network.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use wire::doctor::throughput::{Trial, loss_free, lowest_lossy};
use wire::doctor::{Finding, Probe};

/// After this silence nothing more comes of a round: pauses between steps are 20 ms, those between rounds 700.
const ROUND_ENDS_AFTER: Duration = Duration::from_millis(400);

/// A step of a round, as far as it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Step {
    bits_per_second: u64,
    packets: u32,
    arrived: u32,
    payload_bytes: usize,
}

/// A round that is heard from its first step on; what was under way before is left out.
#[derive(Clone, Debug, Default)]
pub struct Arrivals {
    round: Option<u32>,
    steps: u32,
    heard: BTreeMap<u32, Step>,
    last: Option<Instant>,
    /// Something came of a round that had begun before.
    missed_begin: bool,
    /// Packets that came to this machine and were not fetched in time.
    pub overruns: u64,
}

impl Arrivals {
    /// A probe came.
    pub(super) fn note(&mut self, probe: &Probe, payload_bytes: usize, now: Instant) {
        match self.round {
            // Full packets alone may be what arrives of a round: then its first step is the next one.
            None if probe.step > 1 => {
                self.missed_begin = true;
                return;
            }
            None => (self.round, self.steps) = (Some(probe.round), probe.steps),
            Some(round) if round != probe.round => return,
            Some(_) => {}
        }
        let step = self.heard.entry(probe.step).or_default();
        (step.bits_per_second, step.packets) = (probe.bits_per_second, probe.packets);
        step.arrived = step.arrived.saturating_add(1).min(probe.packets);
        step.payload_bytes = step.payload_bytes.max(payload_bytes);
        self.last = Some(now);
    }

    /// Whether nothing more will come of the round.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.duration_since(last) >= ROUND_ENDS_AFTER)
    }

    /// Lines on multicast, packet size and rate. `seconds`: how long was waited.
    pub fn findings(&self, seconds: u64) -> Vec<Finding> {
        if self.heard.is_empty() {
            let found = if self.missed_begin { "only the end of a round of probes" } else { "no probe" };
            let advice = "start discus doctor --probe on the sender while this listens. When it was started: is the group forwarded to this port? Snooping switches forget \
                          ports without a querier; routers need PIM and --ttl; a firewall may drop UDP";
            return vec![Finding::fail("multicast", format!("{found} came within {seconds} s"), advice)];
        }
        vec![self.multicast(), self.size(), self.rate()]
    }

    fn multicast(&self) -> Finding {
        let arrived: u32 = self.heard.values().map(|step| step.arrived).sum();
        Finding::ok("multicast", format!("{arrived} probes arrived in {} of {} steps", self.heard.len(), self.steps))
    }

    fn size(&self) -> Finding {
        let largest = self.heard.iter().filter(|(number, _)| **number > 0).map(|(_, step)| step.payload_bytes).max();
        match largest {
            Some(payload_bytes) => Finding::ok("packet size", format!("full packets arrive whole: {payload_bytes} bytes of UDP payload")),
            None => Finding::fail(
                "packet size",
                "small probes arrive, full ones do not",
                "some interface or switch on the way has a smaller MTU than the sender's: make them equal, or discus serve --mtu with the smallest",
            ),
        }
    }

    /// The steps of full packets as far as they follow one another: the rate of a step of which nothing came is not known.
    fn trials(&self) -> Vec<Trial> {
        let steps = (1..self.steps).map_while(|number| self.heard.get(&number));
        let trial = |step: &Step| Trial { rate: step.bits_per_second as f64, sent: step.packets.into(), arrived: step.arrived.into() };
        steps.map(trial).collect()
    }

    fn rate(&self) -> Finding {
        let trials = self.trials();
        let gigabits = |trial: &Trial| trial.rate / 1e9;
        let overruns =
            if self.overruns > 0 { format!(", {} of them at this machine, too late fetched", self.overruns) } else { String::new() };
        match (loss_free(&trials), lowest_lossy(&trials)) {
            (Some(clean), None) if trials.len() as u32 == self.steps.saturating_sub(1) => {
                Finding::ok("rate", format!("no loss up to {:.2} Gbit/s, the highest rate sent", gigabits(clean)))
            }
            (Some(clean), lossy) => {
                let lost = lossy.map_or_else(
                    || "nothing arrives of the next step".to_owned(),
                    |trial| format!("{:.2} % lost at {:.2}{overruns}", 100.0 * trial.loss(), gigabits(trial)),
                );
                let advice = "give discus serve that --rate, or find the bottleneck: ring sizes (discus tune), a slower link or a port's flow control on the way";
                Finding::warn("rate", format!("no loss up to {:.2} Gbit/s; {lost}", gigabits(clean)), advice)
            }
            (None, Some(trial)) => Finding::fail(
                "rate",
                format!("{} of {} packets lost at {:.2} Gbit/s already{overruns}", trial.sent - trial.arrived, trial.sent, gigabits(trial)),
                "a bad cable, a duplex mismatch, or a link slower than that",
            ),
            (None, None) if self.heard.keys().any(|&number| number > 0) => Finding::fail(
                "rate",
                "nothing arrives at the lowest rate, something above",
                "a bad cable, or a network that is used by others",
            ),
            (None, None) => Finding::fail("rate", "no full packet arrived", "see packet size"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::doctor::Verdict;

    /// A round of four steps of 100 packets, of which so many arrive.
    fn round(arrived: [u32; 4]) -> Arrivals {
        let mut arrivals = Arrivals::default();
        for (step, count) in (0..).zip(arrived) {
            let probe = Probe { round: 1, step, steps: 4, packets: 100, bits_per_second: 100_000_000 << step };
            let bytes = if step == 0 { 92 } else { 1436 };
            (0..count).for_each(|_| arrivals.note(&probe, bytes, Instant::now()));
        }
        arrivals
    }

    fn verdicts(arrivals: &Arrivals) -> Vec<(&'static str, Verdict)> {
        arrivals.findings(1).iter().map(|finding| (finding.subject, finding.verdict)).collect()
    }

    #[test]
    fn what_arrives_decides_what_is_said() {
        use Verdict::{Fail, Ok, Warn};
        let of = |arrived| verdicts(&round(arrived)).into_iter().map(|(_, verdict)| verdict).collect::<Vec<_>>();
        assert_eq!(of([100, 100, 100, 100]), [Ok, Ok, Ok]);
        assert_eq!(of([100, 100, 100, 40]), [Ok, Ok, Warn]);
        assert_eq!(of([100, 100, 100, 0]), [Ok, Ok, Warn]);
        assert_eq!(of([100, 99, 100, 100]), [Ok, Ok, Fail]);
        assert_eq!(of([100, 100, 0, 100]), [Ok, Ok, Warn], "a step of which nothing came is no clean one");
        assert_eq!(of([100, 0, 100, 100]), [Ok, Ok, Fail]);
        assert_eq!(of([100, 0, 0, 0]), [Ok, Fail, Fail]);
        assert_eq!(verdicts(&round([0; 4])), [("multicast", Fail)]);
        assert!(round([100, 100, 100, 40]).findings(1)[2].found.starts_with("no loss up to 0.40 Gbit/s; 60.00 % lost at 0.80"));
    }

    #[test]
    fn a_round_that_began_before_is_left_out() {
        let mut arrivals = Arrivals::default();
        let late = Probe { round: 1, step: 3, steps: 4, packets: 100, bits_per_second: 1 };
        arrivals.note(&late, 1436, Instant::now());
        assert!(!arrivals.is_over(Instant::now() + Duration::from_secs(9)));
        assert!(arrivals.findings(1)[0].found.starts_with("only the end"));
        let next = Probe { round: 2, step: 0, ..late };
        arrivals.note(&next, 92, Instant::now());
        arrivals.note(&late, 1436, Instant::now());
        assert_eq!((arrivals.heard.len(), arrivals.round), (1, Some(2)));
    }
}
