//! The figures as plots.

use super::Figures;
use super::runs::{Arrivals, Completion, Row};
use super::tables::percent;
use crate::plot::{Axis, Line, Plot, Style};

const SENT: &str = "symbols sent per symbol needed";

/// All plots that the figures give, with the names of their files.
pub(super) fn all(figures: &Figures) -> Vec<(&'static str, Plot)> {
    let independent: Vec<&Row> = figures.overheads.iter().filter(|row| row.burst_packets <= 1.0).collect();
    let mut plots = vec![
        ("overhead-by-receivers", by_receivers(&independent)),
        ("overhead-by-loss", by_loss(&independent)),
        ("above-the-bound", above_the_bound(&independent)),
    ];
    plots.extend(figures.completion.as_ref().map(|completion| ("completion", completion_curves(completion))));
    plots.extend(figures.late_join.as_ref().map(|arrivals| ("late-join", late_join(arrivals))));
    plots
}

fn receivers_axis() -> Axis {
    Axis { label: "receivers", logarithmic: true, from: 10.0, to: 100.0 }
}

/// discus, the bound and the simpler schemes over `x`.
fn schemes(rows: &[&Row], x: impl Fn(&Row) -> f64) -> Vec<Line> {
    let line = |name: &str, style, y: &dyn Fn(&Row) -> f64| Line {
        name: name.to_owned(),
        points: rows.iter().map(|row| (x(row), y(row))).collect(),
        style,
    };
    vec![
        line("discus", Style::Marked, &|row| row.sent),
        line("bound", Style::Dashed, &|row| row.bound),
        line("selective repeat", Style::Marked, &|row| row.simpler.selective_repeat),
        line("whole chunks", Style::Marked, &|row| row.simpler.whole_chunks),
        line("carousel", Style::Marked, &|row| row.simpler.carousel),
    ]
}

fn by_receivers(rows: &[&Row]) -> Plot {
    let rows: Vec<&Row> = rows.iter().copied().filter(|row| row.loss == 0.01).collect();
    Plot {
        title: "Overhead at 1 % loss, by the number of receivers".to_owned(),
        x: receivers_axis(),
        y: Axis { label: SENT, logarithmic: false, from: 1.0, to: 2.0 },
        lines: schemes(&rows, |row| row.receivers as f64),
    }
}

/// For the most receivers up to 1,000: the runs of more are shorter.
fn by_loss(rows: &[&Row]) -> Plot {
    let receivers = rows.iter().map(|row| row.receivers).filter(|&receivers| receivers <= 1_000).max().unwrap_or(0);
    let rows: Vec<&Row> = rows.iter().copied().filter(|row| row.receivers == receivers).collect();
    Plot {
        title: format!("Overhead with {receivers} receivers, by loss"),
        x: Axis { label: "loss, percent", logarithmic: true, from: 0.01, to: 5.0 },
        y: Axis { label: SENT, logarithmic: false, from: 1.0, to: 2.0 },
        lines: schemes(&rows, |row| percent(row.loss)),
    }
}

fn above_the_bound(rows: &[&Row]) -> Plot {
    let mut losses: Vec<f64> = rows.iter().map(|row| row.loss).collect();
    losses.dedup();
    let line = |loss: f64| Line {
        name: format!("{} % loss", percent(loss)),
        points: rows.iter().filter(|row| row.loss == loss).map(|row| (row.receivers as f64, row.sent / row.bound)).collect(),
        style: Style::Marked,
    };
    let most = rows.iter().map(|row| row.receivers as f64).fold(100.0, f64::max);
    let allowed = Line { name: "allowed".to_owned(), points: vec![(10.0, 1.01), (most, 1.01)], style: Style::Dashed };
    Plot {
        title: "discus over the bound".to_owned(),
        x: receivers_axis(),
        y: Axis { label: "sent over the bound", logarithmic: false, from: 0.998, to: 1.01 },
        lines: losses.into_iter().map(line).chain([allowed]).collect(),
    }
}

fn completion_curves(completion: &Completion) -> Plot {
    let Completion { receivers, loss, alone, beside, stragglers } = completion;
    // A step up at each completion.
    let curve = |name: String, times: &[f64]| {
        let share = |done: usize| done as f64 / times.len().max(1) as f64;
        let steps = times.iter().enumerate().flat_map(|(done, &time)| [(time, share(done)), (time, share(done + 1))]);
        Line { name, points: steps.collect(), style: Style::Plain }
    };
    let earliest = alone.iter().chain(beside).copied().fold(f64::INFINITY, f64::min).min(1e9);
    Plot {
        title: format!("{receivers} receivers, 95 % of them at {} % loss, 5 % at 5 %", percent(*loss)),
        x: Axis { label: "time, in multiples of the pack's time on the line", logarithmic: false, from: earliest, to: earliest },
        y: Axis { label: "share complete", logarithmic: false, from: 0.0, to: 1.0 },
        lines: vec![
            curve(format!("{}, alone", alone.len()), alone),
            curve(format!("{} beside stragglers", beside.len()), beside),
            curve(format!("{} stragglers", stragglers.len()), stragglers),
        ],
    }
}

fn late_join(arrivals: &Arrivals) -> Plot {
    let last = arrivals.points.last().map_or(2.0, |point| point.0);
    let constant = |name: &str, y| Line { name: name.to_owned(), points: vec![(0.0, y), (last, y)], style: Style::Dashed };
    Plot {
        title: format!("{} receivers that arrive one after the other", arrivals.points.len()),
        x: Axis { label: "arrival, in multiples of the time that one takes alone", logarithmic: false, from: 0.0, to: 2.0 },
        y: Axis { label: "time taken over time alone", logarithmic: false, from: 0.9, to: 1.1 },
        lines: vec![
            Line { name: "each receiver".to_owned(), points: arrivals.points.clone(), style: Style::Dots },
            constant("alone", 1.0),
            constant("allowed", 1.03),
        ],
    }
}
