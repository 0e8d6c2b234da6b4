//! The figures in words and tables.

use super::Figures;
use super::runs::{K, Ratio, Row};

pub(super) fn overhead_head() -> String {
    "| loss | receivers | chunks | sent | bound | sent / bound | allowed | entries | … warmed up | selective repeat | carousel | whole chunks | simulated in |\n\
     | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
        .to_owned()
}

pub(super) fn overhead_row(row: &Row) -> String {
    let relative = row.sent / row.bound;
    let bursts = if row.burst_packets > 1.0 { format!(", bursts of {} packets", row.burst_packets) } else { String::new() };
    format!(
        "| {} %{bursts} | {} | {} | {:.4} | {:.4} | {relative:.4}{} | {:.2} | {:.1} | {:.1} | {:.3} | {:.2} | {:.2} | {:.1} s |",
        percent(row.loss),
        row.receivers,
        row.chunks,
        row.sent,
        row.bound,
        if relative > row.allowed { ", MISSED" } else { "" },
        row.allowed,
        row.entries,
        row.entries_late,
        row.simpler.selective_repeat,
        row.simpler.carousel,
        row.simpler.whole_chunks,
        row.seconds_taken,
    )
}

pub(super) fn ratio_line(ratio: &Ratio) -> String {
    let missed = if ratio.measured > ratio.allowed { ", MISSED" } else { "" };
    format!("* {}: {:.4} (allowed {:.2}){missed}", ratio.what, ratio.measured, ratio.allowed)
}

/// Without the noise of binary fractions.
pub(super) fn percent(share: f64) -> f64 {
    (share * 1e6).round() / 1e4
}

/// The page of results/.
pub(super) fn page(figures: &Figures) -> String {
    let mut page = format!(
        "Seed {seed}. The machine matters for the last column alone.\n\n\
         Receivers of one image on a LAN, all there from the start, at 5 Gbit/s whatever they lose (so that repair is seen by itself), chunks of {K} symbols. *sent*: symbols sent over symbols needed, with the scheduler and the assemblers that really run.\n\
         *bound*: what no scheme that treats each chunk by itself can go below on average, for independent losses; a run stands above or below it by chance.\n\
         *entries*: deficits reported per receiver and 1,000 chunks; *warmed up*: in the second half of the sending. Each of 10,000 receivers reports once a second, and so much is\n\
         sent in half a second: there the beginning, when nothing is known, is all.\n\n\
         The next three columns are simulated for the same receivers, losses and seed, and are done kindnesses that discus does without: these schemes know before each round, at once\n\
         and for nothing, what everybody lacks, and receivers keep every symbol. *selective repeat* sends source symbols again until all have them, *carousel* everything\n\
         round and round until the last receiver has its last symbol, *whole chunks* each chunk again until all have all of it, as Frisbee's clients request them.\n\n\
         {head}\n",
        seed = figures.seed,
        head = overhead_head(),
    );
    for row in &figures.overheads {
        page.push_str(&overhead_row(row));
        page.push('\n');
    }
    page.push('\n');
    for row in figures.overheads.iter().filter(|row| row.burst_packets > 1.0) {
        page.push_str(&format!(
            "Runs of {} packets hit some of the 64 interleaved chunks twice: what is sent in one go, until all of {} receivers have enough, would come to {:.4} at least.\n\n",
            row.burst_packets, row.receivers, row.bound_interleaved,
        ));
    }
    for ratio in &figures.ratios {
        page.push_str(&ratio_line(ratio));
        page.push('\n');
    }
    page
}
