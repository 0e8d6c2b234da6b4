//! What an interface has sent, read again and again.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Between two readings, about.
const INTERVAL: Duration = Duration::from_micros(50);

/// What an interface has sent, or sent between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// Of frames from the Ethernet header on, without check sequence.
    pub(super) bytes: u64,
    pub(super) packets: u64,
}

/// Readings in the order of time, in seconds from the first.
#[derive(Debug)]
pub(super) struct Samples(Vec<(f64, Counted)>);

impl Samples {
    /// Reads the counters of `interface`, in the network namespace of this thread, for `duration`.
    pub(super) fn take(interface: &str, duration: Duration) -> Result<Samples> {
        let file = File::open("/proc/thread-self/net/dev").context("opening the interfaces' counters")?;
        let (began, mut samples, mut text) = (Instant::now(), Vec::new(), vec![0; 16 * 1024]);
        while began.elapsed() < duration {
            let length = file.read_at(&mut text, 0).context("reading the interfaces' counters")?;
            let at = began.elapsed().as_secs_f64();
            samples.push((at, counted(&String::from_utf8_lossy(&text[..length]), interface)?));
            std::thread::sleep(INTERVAL);
        }
        ensure!(samples.len() > 1, "no time for two readings");
        Ok(Samples(samples))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// From the first reading to the last, and how many seconds that took.
    pub(super) fn all(&self) -> (Counted, f64) {
        match (self.0.first(), self.0.last()) {
            (Some(first), Some(last)) => between(first, last),
            _ => (Counted::default(), 1.0),
        }
    }

    /// For every reading the stretch from it to the first one that lies at least `window` later, with its true length.
    pub(super) fn within(&self, window: Duration) -> impl Iterator<Item = (Counted, f64)> + '_ {
        self.0.iter().enumerate().filter_map(move |(index, first)| {
            let last = self.0[index..].iter().find(|(at, _)| *at >= first.0 + window.as_secs_f64())?;
            Some(between(first, last))
        })
    }
}

fn between(first: &(f64, Counted), last: &(f64, Counted)) -> (Counted, f64) {
    let sent = Counted { bytes: last.1.bytes.saturating_sub(first.1.bytes), packets: last.1.packets.saturating_sub(first.1.packets) };
    (sent, (last.0 - first.0).max(f64::MIN_POSITIVE))
}

/// What `interface` has sent, as proc_net(5) says it: behind the colon eight numbers of receiving, then bytes and packets that were sent.
fn counted(text: &str, interface: &str) -> Result<Counted> {
    let of_interface = |line: &str| line.trim_start().strip_prefix(interface).and_then(|rest| rest.strip_prefix(':')).map(str::to_owned);
    let numbers = text.lines().find_map(of_interface).with_context(|| format!("{interface} has no counters"))?;
    let mut sent = numbers.split_whitespace().skip(8).map(str::parse);
    match (sent.next(), sent.next()) {
        (Some(Ok(bytes)), Some(Ok(packets))) => Ok(Counted { bytes, packets }),
        _ => anyhow::bail!("the counters of {interface} cannot be read: {numbers}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_the_right_interface_and_direction_are_read() {
        let text = "Inter-|   Receive\n face |bytes\n  lo: 1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\nlan0:  9 8 0 0 0 0 0 0 1500 7 0 0 0 0 0 0\nlan01: 0 0 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n";
        assert_eq!(counted(text, "lan0").unwrap(), Counted { bytes: 1500, packets: 7 });
        assert!(counted(text, "lan").unwrap_err().to_string().contains("no counters"));
        assert!(counted("lan0: 1 2", "lan0").is_err());
    }

    #[test]
    fn a_burst_shows_in_short_windows_and_not_in_long_ones() {
        // 1,000 bytes each millisecond, and 5,000 at once in the middle, after which nothing leaves for as long.
        let at = |ms: u64| if (50..55).contains(&ms) { 55_000 } else { ms * 1_000 };
        let samples = Samples((0..=100).map(|ms| (ms as f64 / 1e3, Counted { bytes: at(ms), packets: 0 })).collect());
        let most = |ms| samples.within(Duration::from_millis(ms)).map(|(sent, seconds)| sent.bytes as f64 / seconds).fold(0.0, f64::max);
        assert!((most(1) / 1e6 - 6.0).abs() < 0.1, "{}", most(1));
        assert!(most(50) / 1e6 < 1.2, "{}", most(50));
        assert_eq!(samples.all().0.bytes, 100_000);
    }
}
