//! The table: each thing beside its bare counterpart.

use std::fmt;

use serde::Serialize;

use crate::provenance::{Provenance, median};

/// A run.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    #[serde(flatten)]
    pub(super) provenance: Provenance,
    /// How both ends were attached, in words.
    pub(super) link: String,
    pub(super) rows: Vec<Row>,
}

/// One turn.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Pair {
    pub(super) discus: f64,
    pub(super) bare: f64,
}

/// A comparison.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    what: String,
    unit: &'static str,
    /// What discus is to reach of the bare figure, or not to exceed, where that is asked for.
    target: Option<f64>,
    /// Less is better.
    at_most: bool,
    turns: Vec<Pair>,
}

impl Row {
    pub(super) fn new(what: String, unit: &'static str, target: f64) -> Row {
        Row { what, unit, target: Some(target), at_most: false, turns: Vec::new() }
    }

    /// Of what leaves, beside another way of discus itself.
    pub(super) fn of_itself(what: String) -> Row {
        Row { what, unit: "Gbit/s of frames", target: None, at_most: false, turns: Vec::new() }
    }

    /// Of processor time.
    pub(super) fn at_most(what: String, target: Option<f64>) -> Row {
        Row { what, unit: "ns of the receiver's thread a packet sent", target, at_most: true, turns: Vec::new() }
    }

    pub(super) fn add(&mut self, turn: Pair) {
        self.turns.push(turn);
    }

    fn ratios(&self) -> Vec<f64> {
        self.turns.iter().map(|turn| turn.discus / turn.bare.max(f64::MIN_POSITIVE)).collect()
    }

    fn verdict(&self) -> String {
        let Some(target) = self.target else { return "-".to_owned() };
        let ratio = median(self.ratios().into_iter());
        let (reached, bound) = if self.at_most { (ratio <= target, "at most") } else { (ratio >= target, "at least") };
        format!("{bound} {target}: {}", if reached { "reached" } else { "not reached" })
    }

    fn medians(&self) -> (f64, f64) {
        (median(self.turns.iter().map(|turn| turn.discus)), median(self.turns.iter().map(|turn| turn.bare)))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (discus, bare) = self.medians();
        write!(f, "{}: {discus:.2} beside {bare:.2}, ratio {:.3}", self.what, median(self.ratios().into_iter()))
    }
}

impl Figures {
    pub(super) fn markdown(&self) -> String {
        let mut text = format!("veth pair, AF_XDP in copy mode where it says so; {}\n\n", self.link);
        text += "| what | unit | discus | bare | ratio, median (range) | target |\n| --- | --- | --- | --- | --- | --- |\n";
        for row in &self.rows {
            let (discus, bare) = row.medians();
            let ratios = row.ratios();
            let (least, most) = ratios.iter().fold((f64::INFINITY, 0.0_f64), |(least, most), &ratio| (least.min(ratio), most.max(ratio)));
            text += &format!(
                "| {} | {} | {discus:.2} | {bare:.2} | {:.3} ({least:.3} to {most:.3}) | {} |\n",
                row.what,
                row.unit,
                median(ratios.into_iter()),
                row.verdict(),
            );
        }
        text += "\nRatios are of turns that followed each other; medians of the columns need not have the median ratio.\n";
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_judged_by_the_median_of_paired_ratios() {
        let mut rate = Row::new("rate".to_owned(), "Gbit/s", 0.85);
        [(4.0, 4.0), (1.0, 2.0), (8.6, 10.0)].into_iter().for_each(|(discus, bare)| rate.add(Pair { discus, bare }));
        assert_eq!(rate.verdict(), "at least 0.85: reached");
        assert_eq!(rate.to_string(), "rate: 4.00 beside 4.00, ratio 0.860");
        let mut cost = Row::at_most("cost".to_owned(), Some(0.1));
        cost.add(Pair { discus: 20.0, bare: 100.0 });
        assert_eq!(cost.verdict(), "at most 0.1: not reached");
    }
}
