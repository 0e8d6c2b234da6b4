//! Loses packets on purpose, multicast or all, for tests of repair: there is no netem on every machine, and a loss that
//! a seed decides can be repeated.

mod attachment;
mod link;
mod skeleton;

use std::io::{self, Write};
use std::str::FromStr;

use anyhow::Context;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

pub use attachment::{Burst, Counts, ImpairConfig, Impairment};

/// Arguments of `discus-bench impair`.
#[derive(Debug, clap::Args)]
#[command(after_help = "The packets are lost where they leave the interface. What an AF_XDP socket sends from this very\n\
    interface does not come by there: attach to the bridge's side of a veth, once for each receiver.\n\
    Ends, and stops losing packets, with Ctrl-C or SIGTERM; then prints what it lost.")]
pub struct ImpairArgs {
    /// Interface that the packets leave
    #[arg(short, long, value_name = "IF")]
    interface: String,

    /// UDP destination port of the multicast packets, or a range such as 5000-5003
    #[arg(short, long, value_name = "P[-Q]", required_unless_present = "everything", conflicts_with = "everything")]
    port: Option<Ports>,

    /// Lose every IP packet alike, not multicast alone; switch segmentation offload off where they come from, or large ones are lost as one
    #[arg(long)]
    everything: bool,

    /// Share of packets lost at random: 1% or 0.01
    #[arg(short, long, value_name = "SHARE", default_value = "0%")]
    loss: Share,

    /// Packets lost in a row, after how many packets, and again every so many: 500@10000 or 50@1000/5000
    #[arg(short, long, value_name = "COUNT@AFTER[/EVERY]")]
    burst: Option<Burst>,

    /// Decides which packets are lost at random
    #[arg(short, long, default_value_t = 1)]
    seed: u64,

    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    first: u16,
    last: u16,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Share(f64);

/// One line of `--json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Attached { interface: &'a str, first_port: u16, last_port: u16, loss: f64, seed: u64, how: String },
    Total(Counts),
}

/// Loses packets until a signal ends it.
///
/// # Errors
/// Those of [`Impairment::attach`], and when it cannot print.
pub fn run(args: &ImpairArgs) -> anyhow::Result<()> {
    // Before anything is attached, so that no signal finds this program unprepared.
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("preparing for signals")?;
    let Ports { first, last } = args.port.unwrap_or(Ports { first: 1, last: u16::MAX });
    let config = ImpairConfig {
        first_port: first,
        port_count: last - first + 1,
        everything: args.everything,
        loss: args.loss.0,
        burst: args.burst,
        seed: args.seed,
    };
    let impairment = Impairment::attach(&args.interface, &config)?;
    if args.json {
        let how = impairment.to_string();
        say_json(&Event::Attached {
            interface: &args.interface,
            first_port: first,
            last_port: last,
            loss: config.loss,
            seed: args.seed,
            how,
        })?;
    } else {
        let which = if args.everything { "all packets".to_owned() } else { format!("packets to ports {first}-{last}") };
        say(&format!("losing {which} that leave {} ({impairment}); Ctrl-C ends it", args.interface))?;
    }

    signals.forever().next();

    let counts = impairment.counts()?;
    drop(impairment);
    if args.json {
        return say_json(&Event::Total(counts));
    }
    let share = 100.0 * counts.lost() as f64 / counts.matched.max(1) as f64;
    say(&format!(
        "{} packets, {} lost ({share:.3} %): {} at random, {} in bursts",
        counts.matched,
        counts.lost(),
        counts.lost_at_random,
        counts.lost_in_bursts
    ))
}

/// A line to standard output, at once: it may be a pipe.
fn say(line: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    Ok(output.flush()?)
}

fn say_json(event: &Event<'_>) -> anyhow::Result<()> {
    say(&serde_json::to_string(event)?)
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is no port"));
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (number(first)?, number(last)?);
        if first == 0 || last < first {
            return Err("ports go from 1 to 65535, the smaller first".to_owned());
        }
        Ok(Self { first, last })
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || "a share is written 1% or 0.01".to_owned();
        let (number, unit) = match text.strip_suffix('%') {
            Some(number) => (number, 100.0),
            None => (text, 1.0),
        };
        let share = number.trim().parse::<f64>().map_err(|_| refuse())? / unit;
        // A bare 1 is more likely to mean one per cent than everything.
        let ambiguous = unit == 1.0 && share >= 1.0;
        if ambiguous || !(0.0..=1.0).contains(&share) { Err(refuse()) } else { Ok(Self(share)) }
    }
}

impl FromStr for Burst {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || "a burst is written COUNT@AFTER or COUNT@AFTER/EVERY, in packets".to_owned();
        let number = |text: &str| text.parse::<u64>().map_err(|_| refuse());
        let (packets, rest) = text.split_once('@').ok_or_else(refuse)?;
        let (after, every) = match rest.split_once('/') {
            Some((after, every)) => (after, Some(number(every)?)),
            None => (rest, None),
        };
        let burst = Self { packets: number(packets)?, after_packets: number(after)?, every_packets: every };
        if burst.packets == 0 || burst.every_packets.is_some_and(|every| every < burst.packets) {
            return Err("a burst loses at least one packet and ends before the next begins".to_owned());
        }
        Ok(burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_say_what_they_are_of() {
        assert_eq!("1%".parse(), Ok(Share(0.01)));
        assert_eq!("0.01".parse(), Ok(Share(0.01)));
        assert_eq!("100%".parse(), Ok(Share(1.0)));
        for text in ["1", "2", "-1%", "101%", "%", "NaN", ""] {
            assert!(text.parse::<Share>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn bursts_and_ports_are_parsed() {
        assert_eq!("500@10000".parse(), Ok(Burst { packets: 500, after_packets: 10_000, every_packets: None }));
        assert_eq!("5@0/50".parse(), Ok(Burst { packets: 5, after_packets: 0, every_packets: Some(50) }));
        for text in ["500", "0@5", "5@5/4", "a@b", "5@"] {
            assert!(text.parse::<Burst>().is_err(), "{text:?}");
        }
        assert_eq!("5000-5003".parse(), Ok(Ports { first: 5000, last: 5003 }));
        for text in ["0", "5003-5000", "70000", "x"] {
            assert!(text.parse::<Ports>().is_err(), "{text:?}");
        }
    }
}
