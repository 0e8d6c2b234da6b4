//! Medians, tables and the plot; a run replaces its scenarios in what the same machine and day have already.

use serde::{Deserialize, Serialize};

use super::contestant::Contestant;
use super::scenario::Scenario;
use super::{PeersArgs, Turn};
use crate::plot::bars::{Bar, Bars, Panel};
use crate::provenance::{Provenance, median};
use crate::report::ReportArgs;

/// All scenarios that have been compared on this machine and day.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Comparison {
    sections: Vec<Section>,
}

/// One scenario.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Section {
    scenario: Scenario,
    command: String,
    commit: String,
    mtu_bytes: u32,
    /// Of one image; the mean where they differ.
    image_bytes: u64,
    compressible: bool,
    rows: Vec<Row>,
    /// Who failed, once for each turn.
    #[serde(default)]
    failures: Vec<Contestant>,
}

/// One contestant's turns.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    contestant: Contestant,
    run_as: String,
    turns: Vec<Turn>,
}

impl Row {
    fn seconds(&self) -> f64 {
        median(self.turns.iter().map(|turn| turn.seconds))
    }

    fn range(&self) -> (f64, f64) {
        let seconds = self.turns.iter().map(|turn| turn.seconds);
        seconds.fold((f64::INFINITY, 0.0), |(least, most), value| (least.min(value), most.max(value)))
    }
}

impl Section {
    pub(super) fn new(scenario: Scenario, image_bytes: u64, compressible: bool, args: &PeersArgs, provenance: &Provenance) -> Section {
        let Provenance { command, commit, .. } = provenance.clone();
        Section { scenario, command, commit, mtu_bytes: args.mtu, image_bytes, compressible, rows: Vec::new(), failures: Vec::new() }
    }

    /// A turn that came to nothing.
    pub(super) fn add_failure(&mut self, contestant: Contestant) {
        self.failures.push(contestant);
    }

    /// That nobody failed every time.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match self.failures.iter().find(|&&contestant| !self.rows.iter().any(|row| row.contestant == contestant)) {
            Some(contestant) => anyhow::bail!("{contestant} failed every time"),
            None => Ok(()),
        }
    }

    pub(super) fn add(&mut self, contestant: Contestant, turn: Turn, rate: &str) {
        match self.rows.iter_mut().find(|row| row.contestant == contestant) {
            Some(row) => row.turns.push(turn),
            None => {
                let run_as = contestant.commands(rate, self.compressible);
                self.rows.push(Row { contestant, run_as, turns: vec![turn] });
            }
        }
    }

    /// Bytes of all images, each as often as somebody wants it.
    fn delivered_bytes(&self) -> f64 {
        self.image_bytes as f64 * self.scenario.receivers() as f64
    }

    fn markdown(&self) -> String {
        let turns = self.rows.iter().map(|row| row.turns.len()).max().unwrap_or(0);
        let data = if self.compressible {
            "real images, of which discus leaves out what their file systems do not use (compared with what `discus restore` makes of the pack)"
        } else {
            "incompressible; different images have 70 % in common"
        };
        let mut text = format!(
            "## {}\n\n`{}`, commit {}\n\n{} MiB per image, {data}; MTU {}; {}; {turns} turns each, interleaved.\n\n",
            self.scenario.title(),
            self.command,
            self.commit,
            self.image_bytes >> 20,
            self.mtu_bytes,
            self.scenario.network(),
        );
        text += "| | seconds: median (range) | Gbit/s onto all disks | its time : discus' | sent by the sender, in images | run as |\n";
        text += "| --- | --- | --- | --- | --- | --- |\n";
        let discus = self.rows.iter().find(|row| row.contestant == Contestant::Discus).map(Row::seconds);
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by(|a, b| a.seconds().total_cmp(&b.seconds()));
        for row in rows {
            let (least, most) = row.range();
            let ratio = discus.map_or_else(|| "-".to_owned(), |discus| format!("{:.2}", row.seconds() / discus));
            let sent = median(row.turns.iter().map(|turn| turn.sent_bytes as f64)) / self.image_bytes.max(1) as f64;
            text += &format!(
                "| {} | {:.2} ({least:.2}–{most:.2}) | {:.2} | {ratio} | {sent:.2} | {} |\n",
                row.contestant,
                row.seconds(),
                self.delivered_bytes() * 8.0 / 1e9 / row.seconds(),
                // A bar would end the cell, in code too.
                row.run_as.replace('|', "\\|"),
            );
        }
        for row in &self.rows {
            let failed = self.failures.iter().filter(|&&contestant| contestant == row.contestant).count();
            if failed > 0 {
                text += &format!("\n{}: {failed} of {} transfers failed and are not counted.\n", row.contestant, failed + row.turns.len());
            }
        }
        text
    }
}

impl Comparison {
    /// What the folder of this machine and day has; nothing when it has none that can be read.
    pub(super) fn read(args: &ReportArgs, name: &str, provenance: &Provenance) -> Comparison {
        let path = args.results.as_ref().map(|results| provenance.folder(results).join(name).with_extension("json"));
        let text = path.and_then(|path| std::fs::read_to_string(path).ok());
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// Replaces the scenario's section.
    pub(super) fn put(&mut self, section: Section) {
        self.sections.retain(|other| other.scenario != section.scenario);
        self.sections.push(section);
        self.sections.sort_by_key(|section| section.scenario as u8);
    }

    pub(super) fn markdown(&self) -> String {
        let mut text = "From the start of the transfer until every machine has its whole image flushed to its disk (all disks are one here); fastest first. AF_XDP in copy mode over veth; \
            machines, links and disk are all on this machine's processor.\n\n\
            The links of namespaces have no wire: but for the last scenario nothing limits them except the processor, and TCP passes through in segments of 64 KiB that are never \
            cut (save under loss), which a network card cannot do for more than its own rate. So beside the time stands what the sender sent: on a real link every image sent again \
            takes the link's time again.\n"
            .to_owned();
        for section in &self.sections {
            text += "\n";
            text += &section.markdown();
        }
        text += "\nNORM is not among them: Debian has its library only, no program.\n";
        text
    }

    pub(super) fn plot(&self) -> Bars {
        let panel = |section: &Section| {
            let mut rows: Vec<&Row> = section.rows.iter().collect();
            rows.sort_by(|a, b| a.seconds().total_cmp(&b.seconds()));
            let bar = |row: &Row| Bar {
                name: row.contestant.to_string(),
                value: row.seconds(),
                range: row.range(),
                label: format!("{:.1} s", row.seconds()),
                highlighted: row.contestant == Contestant::Discus,
            };
            Panel { title: section.scenario.title().to_owned(), bars: rows.into_iter().map(bar).collect() }
        };
        let title = "Seconds until every machine has its image on its disk".to_owned();
        Bars { title, panels: self.sections.iter().map(panel).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(scenario: Scenario, discus: f64, other: f64) -> Section {
        let turn = |seconds| Turn { seconds, sent_bytes: 3 << 20 };
        let row = |contestant, seconds: f64| Row {
            contestant,
            run_as: "`a | b`".to_owned(),
            turns: vec![turn(seconds), turn(seconds * 1.5), turn(seconds * 0.5)],
        };
        let rows = vec![row(Contestant::Discus, discus), row(Contestant::Http, other)];
        Section {
            scenario,
            command: "c".into(),
            commit: "1".into(),
            mtu_bytes: 1500,
            image_bytes: 2 << 20,
            compressible: false,
            rows,
            failures: Vec::new(),
        }
    }

    #[test]
    fn a_table_has_the_fastest_first_its_range_and_what_was_sent() {
        let text = section(Scenario::One, 2.0, 1.0).markdown();
        let rows: Vec<&str> = text.lines().filter(|line| line.ends_with(r"| `a \| b` |")).collect();
        assert!(rows[0].starts_with("| HTTP (nginx, curl) | 1.00 (0.50–1.50) |") && rows[0].contains("| 0.50 | 1.50 |"), "{text}");
        assert!(rows[1].starts_with("| discus | 2.00 (1.00–3.00) |"), "{text}");
        let failing = Section { failures: vec![Contestant::Http], ..section(Scenario::One, 2.0, 1.0) };
        assert!(failing.markdown().contains("HTTP (nginx, curl): 1 of 4 transfers failed"), "{}", failing.markdown());
        assert!(failing.check().is_ok() && Section { rows: Vec::new(), ..failing }.check().is_err());
    }

    #[test]
    fn a_scenario_replaces_itself_and_keeps_the_others() {
        let mut comparison = Comparison::default();
        comparison.put(section(Scenario::Late, 1.0, 2.0));
        comparison.put(section(Scenario::One, 1.0, 2.0));
        comparison.put(section(Scenario::Late, 3.0, 2.0));
        let again: Comparison = serde_json::from_str(&serde_json::to_string(&comparison).unwrap()).unwrap();
        let scenarios: Vec<Scenario> = again.sections.iter().map(|section| section.scenario).collect();
        assert_eq!(scenarios, [Scenario::One, Scenario::Late]);
        assert!(again.markdown().contains("| discus | 3.00"));
    }
}
