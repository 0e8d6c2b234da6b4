//! The tables: what each step costs, what each thread does, and what follows.

use serde::Serialize;

use super::stage::{Side, Stage};
use super::threads::Spent;

/// One transfer.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    pub(super) data_bytes: u64,
    pub(super) wire_bytes: u64,
    pub(super) packets: u64,
    pub(super) seconds: f64,
    pub(super) mtu_bytes: u32,
    pub(super) transmit: String,
    pub(super) intake: String,
    pub(super) packets_overrun: u64,
    pub(super) loss: f64,
    pub(super) backlog_permille: Vec<u64>,
    pub(super) counters: String,
    pub(super) costs: Vec<Cost>,
    /// The dearest first.
    pub(super) functions: Vec<Function>,
    pub(super) threads: Vec<ThreadShare>,
}

/// Processor time of a step.
#[derive(Debug, Serialize)]
pub(super) struct Cost {
    #[serde(flatten)]
    pub(super) stage: Stage,
    pub(super) cpu_ns: u64,
}

/// Processor time of one function, without those that it calls.
#[derive(Debug, Serialize)]
pub(super) struct Function {
    pub(super) side: Side,
    pub(super) step: String,
    pub(super) name: String,
    pub(super) cpu_ns: u64,
}

/// What a thread did.
#[derive(Debug, Serialize)]
pub(super) struct ThreadShare {
    pub(super) side: Side,
    #[serde(flatten)]
    pub(super) spent: Spent,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Sender => "sender",
            Side::Receiver => "receiver",
        }
    }
}

/// Threads that ran for less than this share of the time are not shown.
const THREAD_SHARE_MIN: f64 = 0.005;

impl Figures {
    fn gigabits_per_second(&self) -> f64 {
        self.data_bytes as f64 * 8e-9 / self.seconds.max(1e-9)
    }

    pub(super) fn markdown(&self) -> String {
        let mut text = format!(
            "One image of {} MiB over one veth pair, MTU {}, {}; {}. {:.2} s, {:.2} Gbit/s onto the disk, while being watched; {} packets, {} overrun, loss {:.3} %.\n\n",
            self.data_bytes >> 20,
            self.mtu_bytes,
            self.transmit,
            self.intake,
            self.seconds,
            self.gigabits_per_second(),
            self.packets,
            self.packets_overrun,
            self.loss * 100.0,
        );
        text += "| side | step | ns per packet | ns per KiB of image | share of one core |\n| --- | --- | --- | --- | --- |\n";
        for cost in &self.costs {
            let cpu_ns = cost.cpu_ns as f64;
            text += &format!(
                "| {} | {} | {:.0} | {:.0} | {:.1} % |\n",
                cost.stage.side.name(),
                cost.stage.name,
                cpu_ns / self.packets.max(1) as f64,
                cpu_ns * 1024.0 / self.data_bytes.max(1) as f64,
                cpu_ns / self.seconds.max(1e-9) / 1e7,
            );
        }
        text += "\n| side | thread | running | waiting for a core | asleep |\n| --- | --- | --- | --- | --- |\n";
        for ThreadShare { side, spent } in &self.threads {
            let share = |ns: u64| ns as f64 / 1e9 / self.seconds.max(1e-9);
            let (running, waiting) = (share(spent.running_ns), share(spent.waiting_for_core_ns));
            if running >= THREAD_SHARE_MIN {
                let asleep = (1.0 - running - waiting).max(0.0);
                let name = &spent.name;
                text += &format!(
                    "| {} | {name} | {:.1} % | {:.1} % | {:.1} % |\n",
                    side.name(),
                    running * 100.0,
                    waiting * 100.0,
                    asleep * 100.0
                );
            }
        }
        text += &self.conclusions();
        text += "\n| side | step | function, without those that it calls | ns per packet |\n| --- | --- | --- | --- |\n";
        for Function { side, step, name, cpu_ns } in &self.functions {
            let per_packet = *cpu_ns as f64 / self.packets.max(1) as f64;
            text += &format!("| {} | {step} | `{name}` | {per_packet:.0} |\n", side.name());
        }
        text
    }

    fn conclusions(&self) -> String {
        let mut text = "\n".to_owned();
        for side in [Side::Sender, Side::Receiver] {
            let cpu_ns: u64 = self.costs.iter().filter(|cost| cost.stage.side == side).map(|cost| cost.cpu_ns).sum();
            let cores = cpu_ns as f64 / 1e9 / self.seconds.max(1e-9);
            text += &format!(
                "- {}: {cores:.2} cores, {:.3} cores per Gbit/s onto the disk\n",
                side.name(),
                cores / self.gigabits_per_second().max(1e-9)
            );
        }
        let busy = |thread: &&ThreadShare| thread.spent.running_ns + thread.spent.waiting_for_core_ns;
        if let Some(thread) = self.threads.iter().max_by_key(busy) {
            text += &format!("- the bottleneck: the {}'s thread `{}`, which sleeps least", thread.side.name(), thread.spent.name);
            if let Some(cost) = self.costs.iter().max_by_key(|cost| cost.cpu_ns) {
                text += &format!("; the dearest step: {} ({})", cost.stage.name, cost.stage.side.name());
            }
            text += "\n";
        }
        let most = self.backlog_permille.iter().max();
        match most {
            Some(most) => {
                let mean = self.backlog_permille.iter().sum::<u64>() as f64 / self.backlog_permille.len() as f64;
                text += &format!(
                    "- queue before the receiver's disk: {:.1} % of its memory on average, {:.1} % at most ({} looks)\n",
                    mean / 10.0,
                    *most as f64 / 10.0,
                    self.backlog_permille.len()
                );
            }
            None => text += "- queue before the receiver's disk: the transfer was over before it could be asked for\n",
        }
        if !self.counters.is_empty() {
            text += &format!("- counted over both programs: {}\n", self.counters);
        }
        text + "\nProcessor time by sampling with perf's software clock, stacks counted by what they do; softirqs that deliver a veth's packets interrupt \
            whichever program runs and are counted for the receiver. A thread that waits for a core had work and no processor.\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::stacks::{Frame, Sample};

    #[test]
    fn costs_are_divided_by_packets_and_bytes_and_the_busiest_thread_is_named() {
        let frames = vec![Frame { symbol: "crc32fast".to_owned(), is_kernel: false }];
        let sample = Sample { thread: "discus-receive".to_owned(), process_id: 1, period_ns: 1, frames };
        let stage = super::super::stage::of(&sample, Side::Receiver);
        let spent = |name: &str, running_ns| Spent { name: name.to_owned(), running_ns, waiting_for_core_ns: 0 };
        let figures = Figures {
            data_bytes: 1024 * 1000,
            wire_bytes: 0,
            packets: 500,
            seconds: 1.0,
            mtu_bytes: 1500,
            transmit: "AF_XDP".to_owned(),
            intake: "AF_XDP".to_owned(),
            packets_overrun: 0,
            loss: 0.0,
            backlog_permille: vec![10, 30],
            counters: String::new(),
            costs: vec![Cost { stage, cpu_ns: 500_000_000 }],
            functions: vec![Function { side: Side::Receiver, step: "x".to_owned(), name: "crc32fast".to_owned(), cpu_ns: 500_000_000 }],
            threads: vec![
                ThreadShare { side: Side::Sender, spent: spent("a", 100_000_000) },
                ThreadShare { side: Side::Receiver, spent: spent("b", 900_000_000) },
            ],
        };
        let text = figures.markdown();
        assert!(text.contains("| receiver | intake: CRC-32 | 1000000 | 500000 | 50.0 % |"), "{text}");
        assert!(text.contains("| receiver | b | 90.0 % | 0.0 % | 10.0 % |") && text.contains("thread `b`"), "{text}");
        assert!(text.contains("| receiver | x | `crc32fast` | 1000000 |"), "{text}");
        assert!(text.contains("2.0 % of its memory on average, 3.0 % at most"), "{text}");
    }
}
