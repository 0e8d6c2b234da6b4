//! What to do about receivers that cannot keep up: the operator's policy, and who is meant.

use std::fmt;
use std::str::FromStr;
use wire::Micros;

/// What happens to a receiver that cannot keep up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Remedy {
    /// All wait for it.
    Wait,
    /// It takes streams at its own rate; the others get a faster one beside them.
    #[default]
    SlowStream,
    /// It fetches the rest over its control connection.
    Unicast,
    /// It is taken off the list.
    Drop,
}

/// From where on a receiver cannot keep up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// It restores less than a quarter of what the median receiver does, or loses more than a quarter of its packets.
    Relative,
    /// It restores less than so many bits of chunks a second.
    BitsPerSecond(u64),
    /// It loses more than this share of its packets, 0 to 1.
    Loss(f64),
}

/// The operator's policy: `wait`, `slow-stream`, `unicast` or `drop`, and from where on, as in `drop:200M` or `unicast:10%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StragglerPolicy {
    /// What happens.
    pub remedy: Remedy,
    /// To whom.
    pub threshold: Threshold,
}

impl Default for StragglerPolicy {
    fn default() -> StragglerPolicy {
        StragglerPolicy { remedy: Remedy::default(), threshold: Threshold::Relative }
    }
}

/// Packets that a loss must rest on before somebody is called a straggler for it: a tenth of 10,000 are 1,000, which is no accident.
const LOSS_PACKETS_MIN: u64 = 10_000;
/// [`Threshold::Relative`]: this share of the median restore rate.
const RELATIVE_RATE_DIVISOR: u64 = 4;
/// [`Threshold::Relative`]: this loss. Twice what Reed-Solomon at R = K / 4 mends at once.
const RELATIVE_LOSS: f64 = 0.25;

/// What is known of a receiver.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    /// Bytes of chunks a second; 0: not known.
    pub(super) restore_bytes_per_second: u64,
    /// It has reported that rate of what it restored; until then it is what a short test before the transfer said, which others may have disturbed.
    pub(super) is_shown: bool,
    pub(super) packets_sent: u64,
    pub(super) packets_lost: u64,
    /// What it has completed since then is being counted.
    pub(super) counted_since: Option<Micros>,
    pub(super) counted_bytes: u64,
}

/// What a receiver completes is counted so long: restore rates are reported for a second too.
const COUNT_US: u64 = 1_000_000;
/// Who completes more than it is known to restore, by this share, restores more: less than streams may be faster than planned, so that a stream that is held
/// down by nothing but the plan is planned faster and faster …
const MORE_SHARE: f64 = 1.0 / 16.0;
/// … by this much at a time, as reports may come late and then many together.
const MORE_MAX: f64 = 1.25;

impl Standing {
    /// Chunks of so many bytes are complete. Whether that shows that it restores more than was known.
    pub(super) fn completed(&mut self, now: Micros, bytes: u64) -> bool {
        let since = *self.counted_since.get_or_insert(now);
        self.counted_bytes += bytes;
        let elapsed_us = now.since(since);
        if elapsed_us < COUNT_US {
            return false;
        }
        let rate = self.counted_bytes as f64 * 1e6 / elapsed_us as f64;
        (self.counted_since, self.counted_bytes) = (Some(now), 0);
        let known = self.restore_bytes_per_second as f64;
        let is_more = known > 0.0 && rate > known * (1.0 + MORE_SHARE);
        if is_more {
            self.restore_bytes_per_second = rate.min(known * MORE_MAX) as u64;
        }
        is_more
    }
}

impl StragglerPolicy {
    /// Whether a receiver of this `standing` cannot keep up, where the median receiver restores `median_bytes_per_second` (0: not known).
    pub(super) fn applies(&self, standing: &Standing, median_bytes_per_second: u64) -> bool {
        let rate = standing.restore_bytes_per_second;
        let loss = standing.packets_lost as f64 / standing.packets_sent.max(1) as f64;
        let loses = |most: f64| standing.packets_sent >= LOSS_PACKETS_MIN && loss > most;
        match self.threshold {
            Threshold::Relative => (rate > 0 && rate < median_bytes_per_second / RELATIVE_RATE_DIVISOR) || loses(RELATIVE_LOSS),
            Threshold::BitsPerSecond(least) => rate > 0 && rate.saturating_mul(8) < least,
            Threshold::Loss(most) => loses(most),
        }
    }
}

impl FromStr for StragglerPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<StragglerPolicy, String> {
        let (remedy, threshold) = text.split_once(':').map_or((text, None), |(remedy, threshold)| (remedy, Some(threshold)));
        let remedy = match remedy {
            "wait" => Remedy::Wait,
            "slow-stream" => Remedy::SlowStream,
            "unicast" => Remedy::Unicast,
            "drop" => Remedy::Drop,
            other => return Err(format!("`{other}` is none of wait, slow-stream, unicast, drop")),
        };
        let threshold = match threshold {
            None => Threshold::Relative,
            Some(_) if remedy == Remedy::Wait => return Err("`wait` waits for everybody: it takes no threshold".to_owned()),
            Some(text) => parse_threshold(text)?,
        };
        Ok(StragglerPolicy { remedy, threshold })
    }
}

fn parse_threshold(text: &str) -> Result<Threshold, String> {
    let wrong = || format!("`{text}` is neither a rate such as 200M (bits a second) nor a loss such as 10%");
    if let Some(percent) = text.strip_suffix('%') {
        let percent: f64 = percent.parse().map_err(|_| wrong())?;
        return if percent > 0.0 && percent < 100.0 { Ok(Threshold::Loss(percent / 100.0)) } else { Err(wrong()) };
    }
    let (digits, unit) = match text.chars().last() {
        Some('K' | 'k') => (&text[..text.len() - 1], 1e3),
        Some('M' | 'm') => (&text[..text.len() - 1], 1e6),
        Some('G' | 'g') => (&text[..text.len() - 1], 1e9),
        _ => (text, 1.0),
    };
    let rate: f64 = digits.parse().map_err(|_| wrong())?;
    let bits_per_second = rate * unit;
    if (1.0..1e15).contains(&bits_per_second) { Ok(Threshold::BitsPerSecond(bits_per_second as u64)) } else { Err(wrong()) }
}

impl fmt::Display for StragglerPolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.remedy {
            Remedy::Wait => "wait",
            Remedy::SlowStream => "slow-stream",
            Remedy::Unicast => "unicast",
            Remedy::Drop => "drop",
        })?;
        match self.threshold {
            Threshold::Relative => Ok(()),
            Threshold::BitsPerSecond(rate) => write!(formatter, ":{rate}"),
            Threshold::Loss(loss) => write!(formatter, ":{}%", loss * 100.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_parsed_and_printed() {
        for text in ["wait", "slow-stream", "unicast:10%", "drop:200000000"] {
            assert_eq!(text.parse::<StragglerPolicy>().map(|policy| policy.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("drop:0.2G".parse::<StragglerPolicy>().map(|policy| policy.threshold), Ok(Threshold::BitsPerSecond(200_000_000)));
        for text in ["", "kill", "wait:5%", "drop:", "drop:100%", "drop:0", "unicast:x%", "drop:-1", "drop:nan", "drop:1é"] {
            assert!(text.parse::<StragglerPolicy>().is_err(), "{text}");
        }
    }

    #[test]
    fn who_completes_more_than_it_is_known_to_restore_restores_more() {
        let mut standing = Standing { restore_bytes_per_second: 1_000, ..Standing::default() };
        assert!(!standing.completed(Micros(0), 8_000) && !standing.completed(Micros(500_000), 0), "a second is not over");
        assert!(standing.completed(Micros(4_000_000), 0));
        assert_eq!(standing.restore_bytes_per_second, 1_250, "reports may come late and many together");
        assert!(!standing.completed(Micros(5_000_000), 1_300), "that is no more than streams bring by their margin");
        assert!(standing.completed(Micros(6_000_000), 1_375));
        assert_eq!(standing.restore_bytes_per_second, 1_375);
        assert!(!standing.completed(Micros(7_000_000), 10), "what it has nothing to do for says nothing");
        let mut unknown = Standing::default();
        assert!(!unknown.completed(Micros(0), 9) && !unknown.completed(Micros(2_000_000), 9_000));
    }

    #[test]
    fn who_cannot_keep_up_depends_on_the_threshold() {
        let standing = |restore_bytes_per_second, packets_lost| Standing {
            restore_bytes_per_second,
            is_shown: true,
            packets_sent: 100_000,
            packets_lost,
            ..Standing::default()
        };
        let policy = |text: &str| text.parse::<StragglerPolicy>().unwrap();
        assert!(policy("drop").applies(&standing(20, 0), 100) && !policy("drop").applies(&standing(30, 0), 100));
        assert!(policy("drop").applies(&standing(0, 30_000), 100), "loss");
        assert!(
            !policy("drop").applies(&Standing { packets_sent: 10, packets_lost: 9, ..Standing::default() }, 100),
            "too few packets to tell"
        );
        assert!(!policy("drop").applies(&standing(0, 0), 100), "nothing is known");
        assert!(policy("drop:1K").applies(&standing(124, 0), 1) && !policy("drop:1K").applies(&standing(125, 0), 1));
        assert!(policy("drop:5%").applies(&standing(1, 6_000), 1) && !policy("drop:5%").applies(&standing(1, 4_000), 100));
    }
}
