//! `discus status`: shows what a running sender does and how far its receivers are.

use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use indicatif::BinaryBytes;
use sender::control::Settings;
use serde::Deserialize;
use serde_json::Value;

use super::rate::display_rate;
use super::remote::{HELP, Remote, RemoteError, SenderArgs};
use super::serve_report::times_sent_text;
use super::set::describe;
use super::table::table;

/// Between two looks of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Show what a running sender does and how far each receiver is.
#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct StatusArgs {
    /// Print everything that the sender says as JSON; with --watch, one object a line.
    #[arg(long)]
    json: bool,
    /// Look again every second, until stopped with Ctrl-C.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    sender: SenderArgs,
}

/// Of the sender's status what is shown here. What another release does not say is empty.
#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    discus_version: String,
    session_id: u32,
    #[serde(default)]
    images: Vec<Image>,
    receivers: Vec<Receiver>,
    #[serde(default)]
    traffic: Traffic,
    settings: Settings,
}

#[derive(Deserialize)]
struct Image {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Traffic {
    symbols_sent: u64,
    symbols_needed: u64,
    wire_bytes_sent: u64,
    rate_bits_per_second: u64,
    transmit: Option<Transmit>,
}

#[derive(Deserialize)]
struct Transmit {
    description: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Receiver {
    receiver_id: u64,
    name: String,
    image: String,
    group: String,
    state: String,
    reason: Option<String>,
    unicast: bool,
    streams: Option<Vec<u16>>,
    chunks_wanted: u32,
    chunks_remaining: u32,
    loss: f64,
    received_bits_per_second: u64,
    restore_bytes_per_second: u64,
}

pub(crate) fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::new(&args.sender)?;
    let mut out = std::io::stdout();
    // Cursor to the corner, screen cleared: the table stays in its place.
    let corner = if args.watch && !args.json && out.is_terminal() { "\u{1b}[H\u{1b}[2J" } else { "" };
    loop {
        let status = remote.ask(Method::GET, "/status", None)?;
        let text = match (args.json, args.watch) {
            (true, true) => format!("{status}\n"),
            (true, false) => serde_json::to_string_pretty(&status)? + "\n",
            (false, _) => text(&remote, status)?,
        };
        write!(out, "{corner}{text}")?;
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        if corner.is_empty() && !args.json {
            writeln!(out)?;
        }
        out.flush()?;
        sleep(WATCH_INTERVAL);
    }
}

fn text(remote: &Remote, status: Value) -> anyhow::Result<String> {
    let status: Status = serde_json::from_value(status).map_err(|_| RemoteError::Unreadable { server: remote.server().to_owned() })?;
    Ok(format!("sender    {}, {}", remote.server(), status.text()))
}

impl Status {
    fn text(&self) -> String {
        let images: Vec<&str> = self.images.iter().map(|image| image.name.as_str()).collect();
        let Traffic { symbols_sent, symbols_needed, wire_bytes_sent, rate_bits_per_second, ref transmit } = self.traffic;
        let times = if symbols_needed == 0 { String::new() } else { format!(", {}", times_sent_text(symbols_sent, symbols_needed)) };
        let transmit = transmit.as_ref().map(|transmit| format!("transmit  {}\n", transmit.description)).unwrap_or_default();
        let head = format!(
            "discus {}, session {:08x}\nimages    {}\nsettings  {}\n{transmit}sent      {}, now {}{times}\nreceivers {}\n",
            self.discus_version,
            self.session_id,
            images.join(", "),
            describe(&self.settings),
            BinaryBytes(wire_bytes_sent),
            display_rate(rate_bits_per_second as f64),
            self.counts(),
        );
        if self.receivers.is_empty() {
            return head;
        }
        let columns = ["id", "receiver", "image", "group", "done", "loss", "rate", "restores", "streams", "state"];
        let mut rows = vec![columns.map(str::to_owned)];
        rows.extend(self.receivers.iter().map(Receiver::row));
        format!("{head}\n{}", table(&rows))
    }

    fn counts(&self) -> String {
        let count = |state: &str| self.receivers.iter().filter(|receiver| receiver.state == state).count();
        let states = ["listed", "completed", "enrolled", "failed", "lost"];
        let shown = states.into_iter().enumerate().filter(|&(position, state)| position < 2 || count(state) > 0);
        shown.map(|(_, state)| format!("{} {state}", count(state))).collect::<Vec<_>>().join(", ")
    }
}

impl Receiver {
    fn row(&self) -> [String; 10] {
        let dash = || "-".to_owned();
        let done = self.chunks_wanted.saturating_sub(self.chunks_remaining);
        let streams = match &self.streams {
            _ if self.unicast => "unicast".to_owned(),
            Some(streams) => streams.iter().map(u16::to_string).collect::<Vec<_>>().join(","),
            None => dash(),
        };
        [
            self.receiver_id.to_string(),
            self.name.clone(),
            self.image.clone(),
            if self.group.is_empty() { dash() } else { self.group.clone() },
            match self.chunks_wanted {
                // Complete only when there is nothing left, however little that is.
                0 if self.state == "completed" => "100 %".to_owned(),
                0 => dash(),
                wanted => format!("{} %", u64::from(done) * 100 / u64::from(wanted)),
            },
            format!("{:.2} %", self.loss * 100.0),
            if self.received_bits_per_second == 0 { dash() } else { display_rate(self.received_bits_per_second as f64) },
            if self.restore_bytes_per_second == 0 { dash() } else { format!("{}/s", BinaryBytes(self.restore_bytes_per_second)) },
            streams,
            match &self.reason {
                Some(reason) => format!("{}: {reason}", self.state),
                None => self.state.clone(),
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_receiver_has_a_row_and_what_is_not_known_a_dash() {
        let status: Status = serde_json::from_value(json!({
            "discus_version": "0.1.0",
            "session_id": 1,
            "images": [{ "name": "web" }, { "name": "db" }],
            "receivers": [
                { "receiver_id": 1, "name": "node-1", "image": "web", "group": "rack-1", "state": "listed", "chunks_wanted": 3,
                  "chunks_remaining": 1, "loss": 0.015, "received_bits_per_second": 900_000_000, "streams": [0, 2],
                  "restore_bytes_per_second": 104_857_600, "of_a_later_release": true },
                { "receiver_id": 2, "name": "node-2", "image": "db", "state": "failed", "reason": "no space", "unicast": true },
            ],
            "traffic": { "symbols_sent": 1010, "symbols_needed": 1000, "wire_bytes_sent": 1024, "rate_bits_per_second": 1_000_000_000,
                         "transmit": { "mode": "udp", "description": "UDP on eth1 (as asked with --transmit udp)" } },
            "settings": { "rate_cap_bits_per_second": 5_000_000_000u64, "priorities": { "images": { "db": 10 }, "groups": {} } },
        }))
        .unwrap();
        let expected = "\
discus 0.1.0, session 00000001
images    web, db
settings  at most 5.00 Gbit/s; priorities db=10
transmit  UDP on eth1 (as asked with --transmit udp)
sent      1.00 KiB, now 1.00 Gbit/s, each sent 1.010 times
receivers 1 listed, 0 completed, 1 failed

id  receiver  image  group   done  loss    rate           restores      streams  state
1   node-1    web    rack-1  66 %  1.50 %  900.00 Mbit/s  100.00 MiB/s  0,2      listed
2   node-2    db     -       -     0.00 %  -              -             unicast  failed: no space
";
        assert_eq!(status.text(), expected);
    }
}
