//! What a process takes of processor and memory, from /proc.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

/// Processor time per name of thread, and memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    seconds: BTreeMap<String, f64>,
    /// Resident memory in KiB: now, and the most it ever was.
    pub(super) resident_kib: u64,
    pub(super) resident_max_kib: u64,
}

impl Usage {
    /// Of process `id` now.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn of(id: u32) -> Result<Usage> {
        let mut usage = Usage::default();
        let ticks_per_second = rustix::param::clock_ticks_per_second().max(1) as f64;
        for thread in fs::read_dir(format!("/proc/{id}/task")).context("the sender has ended early")? {
            // A thread that ends meanwhile had little to do.
            let Ok(stat) = fs::read_to_string(thread?.path().join("stat")) else { continue };
            if let Some((name, ticks)) = name_and_ticks(&stat) {
                *usage.seconds.entry(name).or_default() += ticks as f64 / ticks_per_second;
            }
        }
        let status = fs::read_to_string(format!("/proc/{id}/status")).context("the sender has ended early")?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
        usage.resident_kib = field("VmRSS:").unwrap_or(0);
        usage.resident_max_kib = field("VmHWM:").unwrap_or(0);
        Ok(usage)
    }

    /// What is known after another look: of threads that have ended since, what they had taken before.
    #[must_use]
    pub(super) fn and_then(mut self, later: &Usage) -> Usage {
        for (name, &seconds) in &later.seconds {
            let known = self.seconds.entry(name.clone()).or_default();
            *known = known.max(seconds);
        }
        Usage { seconds: self.seconds, ..*later }
    }

    /// Processor seconds of threads named `name` since `earlier`.
    pub(super) fn seconds_since(&self, earlier: &Usage, name: &str) -> f64 {
        let of = |usage: &Usage| usage.seconds.get(name).copied().unwrap_or(0.0);
        of(self) - of(earlier)
    }
}

/// From /proc/PID/task/TID/stat: the name stands in brackets and may hold any character; user and system time are fields 14 and 15.
fn name_and_ticks(stat: &str) -> Option<(String, u64)> {
    let (front, fields) = stat.rsplit_once(')')?;
    let (_, name) = front.split_once('(')?;
    let mut times = fields.split_whitespace().skip(11);
    let user: u64 = times.next()?.parse().ok()?;
    let system: u64 = times.next()?.parse().ok()?;
    Some((name.to_owned(), user + system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name() {
        let stat = "12 (a) b) S 1 12 12 0 -1 4194560 100 0 0 0 250 31 0 0 20 0 1 0";
        assert_eq!(name_and_ticks(stat), Some(("a) b".to_owned(), 281)));
        assert_eq!(name_and_ticks("12 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_threads_and_memory() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(!usage.seconds.is_empty() && usage.resident_kib > 100 && usage.resident_max_kib >= usage.resident_kib);
    }
}
