//! How the threads of a process spend their time: running, waiting for a core, asleep; from the kernel's scheduler statistics.

use std::collections::BTreeMap;
use std::fs;

use serde::Serialize;

/// Of one thread, since it began.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Spent {
    pub(super) name: String,
    pub(super) running_ns: u64,
    pub(super) waiting_for_core_ns: u64,
}

/// The threads of one process, looked at again and again until it ends, because nothing of them is left afterwards.
#[derive(Debug, Default)]
pub(super) struct Threads {
    process_id: u32,
    by_id: BTreeMap<u32, Spent>,
}

impl Threads {
    pub(super) fn of(process_id: u32) -> Threads {
        Threads { process_id, by_id: BTreeMap::new() }
    }

    /// Notes what all have spent by now. A process that has ended changes nothing.
    pub(super) fn look(&mut self) {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.process_id)) else { return };
        for task in tasks.flatten() {
            let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
            let (Some(id), Some((running_ns, waiting_for_core_ns))) =
                (task.file_name().to_str().and_then(|name| name.parse().ok()), schedstat(&read("schedstat")))
            else {
                continue;
            };
            self.by_id.insert(id, Spent { name: read("comm").trim().to_owned(), running_ns, waiting_for_core_ns });
        }
    }

    /// What all have spent, threads of one name together, the busiest first.
    pub(super) fn spent(&self) -> Vec<Spent> {
        let mut by_name: BTreeMap<&str, Spent> = BTreeMap::new();
        for spent in self.by_id.values() {
            let sum = by_name.entry(&spent.name).or_insert_with(|| Spent { name: spent.name.clone(), ..Spent::default() });
            sum.running_ns += spent.running_ns;
            sum.waiting_for_core_ns += spent.waiting_for_core_ns;
        }
        let mut all: Vec<Spent> = by_name.into_values().collect();
        all.sort_by_key(|spent| std::cmp::Reverse(spent.running_ns));
        all
    }
}

/// `RUNNING WAITING TIMESLICES`, in ns.
fn schedstat(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_present_process_has_run() {
        let mut threads = Threads::of(std::process::id());
        threads.look();
        assert!(threads.spent().iter().any(|spent| spent.running_ns > 0));
        assert_eq!(schedstat("12 34 5\n"), Some((12, 34)));
        assert_eq!(schedstat("12\n"), None);
    }
}
