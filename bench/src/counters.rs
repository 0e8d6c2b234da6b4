//! What a piece of work cost the processor, by perf events: cycles, instructions and cache misses where the hardware counters exist,
//! the kernel's software counters otherwise (in most virtual machines).

use perf_event::events::{Event, Hardware, Software};
use perf_event::{Builder, Counter, Group};
use serde::Serialize;

/// A group of counters of this thread, enabled and read together.
pub struct Counters {
    group: Group,
    members: Vec<(&'static str, Counter)>,
    kind: Kind,
}

/// Which counters there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Counted by the processor.
    Hardware,
    /// Counted by the kernel, because this machine shows no hardware counters.
    Software,
}

/// What was counted, by name.
#[derive(Clone, Debug, Serialize)]
pub struct Counts {
    /// Where the figures come from.
    pub kind: Kind,
    /// Name and count of each event.
    pub events: Vec<(&'static str, u64)>,
}

impl Counts {
    /// The sum of what two threads counted.
    #[must_use]
    pub fn with(mut self, other: &Counts) -> Counts {
        for (name, count) in &mut self.events {
            *count += other.events.iter().find(|(known, _)| known == name).map_or(0, |(_, count)| *count);
        }
        self
    }
}

impl Counters {
    /// Opens the hardware counters, or the software ones when there are none.
    ///
    /// # Errors
    /// When the kernel gives neither (`perf_event_paranoid` above 2 for an ordinary user, or no perf events at all).
    pub fn open() -> std::io::Result<Counters> {
        let hardware: [(&'static str, Event); 3] = [
            ("cycles", Event::Hardware(Hardware::CPU_CYCLES)),
            ("instructions", Event::Hardware(Hardware::INSTRUCTIONS)),
            ("cache_misses", Event::Hardware(Hardware::CACHE_MISSES)),
        ];
        let software: [(&'static str, Event); 3] = [
            ("task_clock_ns", Event::Software(Software::TASK_CLOCK)),
            ("page_faults", Event::Software(Software::PAGE_FAULTS)),
            ("context_switches", Event::Software(Software::CONTEXT_SWITCHES)),
        ];
        Counters::open_group(hardware, Kind::Hardware).or_else(|_| Counters::open_group(software, Kind::Software))
    }

    fn open_group(events: [(&'static str, Event); 3], kind: Kind) -> std::io::Result<Counters> {
        let mut group = Group::new()?;
        let mut members = Vec::new();
        for (name, event) in events {
            members.push((name, Builder::new().group(&mut group).kind(event).build()?));
        }
        Ok(Counters { group, members, kind })
    }

    /// Runs `work` and says what it cost.
    ///
    /// # Errors
    /// When the counters cannot be switched or read.
    pub fn count<T>(&mut self, work: impl FnOnce() -> T) -> std::io::Result<(T, Counts)> {
        self.group.reset()?;
        self.group.enable()?;
        let value = work();
        self.group.disable()?;
        let counts = self.group.read()?;
        let events = self.members.iter().map(|(name, counter)| (*name, counts[counter])).collect();
        Ok((value, Counts { kind: self.kind, events }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted() {
        let Ok(mut counters) = Counters::open() else {
            eprintln!("skipped: this kernel gives no perf events");
            return;
        };
        let (sum, counts) = counters.count(|| (0..1_000_000_u64).map(std::hint::black_box).sum::<u64>()).unwrap();
        assert_eq!(sum, 499_999_500_000);
        assert!(counts.events[0].1 > 100_000, "{counts:?}");
    }
}
