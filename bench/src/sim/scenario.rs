//! What is simulated: a pack, receivers with their networks and disks, and what goes wrong.

mod drawn;
mod priorities;

use super::random::Random;

/// One run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Seeds everything random in the run.
    pub seed: u64,
    /// K of each chunk of the pack.
    pub source_symbols: Vec<u16>,
    /// The chunks of each image, ascending.
    pub images: Vec<Vec<u32>>,
    /// The operator's cap.
    pub cap_bits_per_second: u64,
    /// What the rate does not fall below, whatever receivers say; as the cap, it is fixed.
    pub floor_bits_per_second: u64,
    /// The sender's network interface.
    pub line_bits_per_second: u64,
    /// Streams to send on at most.
    pub streams: usize,
    /// Groups that the sender's engine takes from the scheduler before the first of them has left.
    pub groups_ahead: usize,
    /// What few lack in the end may be fetched by unicast …
    pub last_by_unicast: bool,
    /// … which comes to nothing in so many cases.
    pub fetch_fails_ppm: u32,
    /// The receivers.
    pub receivers: Vec<Receiver>,
    /// Times at which the sender dies, and for how long.
    pub sender_restarts: Vec<(u64, u64)>,
    /// Least time between two reports: as the program asks for it by the number of receivers, instead of what each receiver's
    /// `report_interval_us` says.
    pub paced_reports: bool,
    /// Symbols carry bytes, made and decoded by the real erasure code and compared.
    pub carry_bytes: bool,
    /// By when everybody who can be complete must be.
    pub limit_us: u64,
}

/// One receiver.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// Index of its image.
    pub image: usize,
    /// When it starts.
    pub start_us: u64,
    /// From the sender's interface to its own.
    pub latency_us: u64,
    /// From its control connection to the sender's scheduler, and up to this much more.
    pub report_latency_us: u64,
    /// See `report_latency_us`.
    pub report_jitter_us: u64,
    /// Least time between its reports.
    pub report_interval_us: u64,
    /// Independent loss of packets.
    pub loss_ppm: u32,
    /// A burst begins at a packet with this probability …
    pub burst_ppm: u32,
    /// … and takes up to this many.
    pub burst_packets_max: u64,
    /// One burst at a given packet (counted at this receiver), so long.
    pub burst_once: Option<(u64, u64)>,
    /// Gilbert-Elliott model: at a packet the bad state, in which all is lost, begins with this probability …
    pub bad_enter_ppm: u32,
    /// … and ends with this.
    pub bad_leave_ppm: u32,
    /// Which rack it stands in.
    pub rack: u32,
    /// What the rack's switch loses for all of the rack.
    pub rack_loss_ppm: u32,
    /// … in runs of so many packets.
    pub rack_burst_packets: u64,
    /// Packets that are overtaken by others …
    pub reorder_ppm: u32,
    /// … by up to this much.
    pub reorder_us: u64,
    /// Packets that come twice.
    pub duplicate_ppm: u32,
    /// What the narrowest link on the way carries.
    pub path_bits_per_second: u64,
    /// Packets that wait before it at most.
    pub path_queue_packets: u64,
    /// Buffers for chunks in assembly and on their way to disk.
    pub buffers: usize,
    /// Of these, chunks in assembly at most.
    pub entries: usize,
    /// Decoding, hashing and writing of one chunk, one after the other.
    pub finish_us: u64,
    /// What it says that it restores, when it joins; 0: nothing.
    pub restore_bytes_per_second: u64,
    /// Its first report says so too, as when an operator told it: then it counts as shown.
    pub shows_rate: bool,
    /// Chunks that turn out corrupt.
    pub corrupt_ppm: u32,
    /// What the operator says of it.
    pub priority: i16,
    /// … and when the operator changes that, ascending.
    pub priority_changes: Vec<(u64, i16)>,
    /// What it does.
    pub conduct: Conduct,
    /// Times at which its control connection breaks.
    pub disconnects: Vec<Disconnect>,
}

/// The control connection of a receiver breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// When.
    pub at_us: u64,
    /// How long until it is back.
    pub down_us: u64,
    /// Whether what is on its way at that time is lost.
    pub loses_reports: bool,
}

/// How a receiver behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// As it should.
    Honest,
    /// It dies.
    Crash {
        /// When.
        at_us: u64,
        /// When the sender learns of it.
        noticed_us: u64,
        /// When it comes back, with nothing in its memory or on its disk.
        back_us: Option<u64>,
    },
    /// It sends reports that are untrue in every way.
    Liar {
        /// How often.
        interval_us: u64,
    },
}

/// Bytes of every symbol: that of MTU 1500.
pub(super) const SYMBOL_BYTES: u16 = 1408;
/// Ethernet, IPv4, UDP.
pub(super) const FRAME_OVERHEAD_BYTES: u32 = 42;

const GBIT: u64 = 1_000_000_000;

impl Receiver {
    /// A receiver of `image` on a quiet LAN.
    pub fn on_lan(image: usize) -> Receiver {
        Receiver {
            image,
            start_us: 0,
            latency_us: 50,
            report_latency_us: 300,
            report_jitter_us: 0,
            report_interval_us: 10_000,
            loss_ppm: 0,
            burst_ppm: 0,
            burst_packets_max: 0,
            burst_once: None,
            bad_enter_ppm: 0,
            bad_leave_ppm: 0,
            rack: 0,
            rack_loss_ppm: 0,
            rack_burst_packets: 1,
            reorder_ppm: 0,
            reorder_us: 0,
            duplicate_ppm: 0,
            path_bits_per_second: 10 * GBIT,
            path_queue_packets: 1_000,
            buffers: 900,
            entries: 800,
            restore_bytes_per_second: 0,
            shows_rate: false,
            finish_us: 200,
            corrupt_ppm: 0,
            priority: 0,
            priority_changes: Vec::new(),
            conduct: Conduct::Honest,
            disconnects: Vec::new(),
        }
    }

    /// Whether what becomes of a packet bears on no other packet's fate.
    pub(super) fn loses_independently(&self) -> bool {
        let unhindered = self.path_bits_per_second >= 10 * GBIT;
        unhindered && self.burst_ppm == 0 && self.burst_once.is_none() && self.bad_enter_ppm == 0 && self.rack_loss_ppm == 0
    }

    /// The same with losses in bursts of `mean_packets` packets that add up to `loss` of all packets.
    #[must_use]
    pub fn with_bursts(self, loss: f64, mean_packets: f64) -> Receiver {
        let leave = 1.0 / mean_packets.max(1.0);
        // In the long run the share of the bad state is enter / (enter + leave).
        let enter = loss * leave / (1.0 - loss);
        Receiver { bad_enter_ppm: (enter * 1e6).round() as u32, bad_leave_ppm: (leave * 1e6).round() as u32, ..self }
    }
}

impl Scenario {
    /// `receivers` receivers of one image of `chunks` chunks of K = 187 on a quiet LAN at 5 Gbit/s.
    pub fn on_lan(seed: u64, chunks: usize, receivers: usize) -> Scenario {
        Scenario {
            seed,
            source_symbols: vec![187; chunks],
            images: vec![(0..chunks as u32).collect()],
            cap_bits_per_second: 5 * GBIT,
            floor_bits_per_second: GBIT / 20,
            line_bits_per_second: 10 * GBIT,
            streams: 1,
            groups_ahead: 2,
            last_by_unicast: true,
            fetch_fails_ppm: 0,
            // The control plane of a sender with very many receivers is busy. (It also makes the simulator's windows longer, and a run faster.)
            receivers: vec![Receiver { report_latency_us: if receivers < 1_000 { 300 } else { 2_000 }, ..Receiver::on_lan(0) }; receivers],
            sender_restarts: Vec::new(),
            paced_reports: true,
            carry_bytes: false,
            limit_us: 60_000_000,
        }
    }

    /// The rate is the cap once somebody has reported, whatever is said: for what is to be compared at the same rate.
    pub(super) fn fix_rate(&mut self) {
        self.floor_bits_per_second = self.cap_bits_per_second;
    }

    /// Runs of chunks that the same images share.
    pub fn classes(&self) -> Vec<wire::report::ChunkRange> {
        let images_of = |chunk: u32| -> Vec<bool> { self.images.iter().map(|image| image.binary_search(&chunk).is_ok()).collect() };
        let mut classes: Vec<wire::report::ChunkRange> = Vec::new();
        let mut before = None;
        for chunk in 0..self.source_symbols.len() as u32 {
            let images = Some(images_of(chunk));
            match classes.last_mut() {
                Some(last) if images == before => last.count += 1,
                _ => classes.push(wire::report::ChunkRange { first: wire::ChunkId(chunk), count: 1 }),
            }
            before = images;
        }
        classes
    }

    /// Time that all chunks take on the line, once, without loss.
    pub fn transfer_us(&self) -> u64 {
        let symbols: u64 = self.source_symbols.iter().map(|&symbols| u64::from(symbols)).sum();
        let rate = self.cap_bits_per_second.min(self.line_bits_per_second);
        symbols * frame_bits() * 1_000_000 / rate + 1
    }

    /// A time that only a run that stands still exceeds: everything, for each receiver, at the lowest rate that congestion control knows or its
    /// disk has, four times over, and a minute.
    fn generous_limit_us(&self) -> u64 {
        let chunks = self.source_symbols.len() as u64;
        let alone = |receiver: &Receiver| {
            let slowest = receiver.path_bits_per_second.min(self.floor_bits_per_second);
            let transfer_us = self.transfer_us() * self.cap_bits_per_second / slowest.max(1);
            receiver.start_us + 4 * (transfer_us + chunks * receiver.finish_us)
        };
        60_000_000 + self.receivers.iter().map(alone).sum::<u64>()
    }
}

/// Bits of a sync on the wire.
pub(super) fn sync_bits() -> u64 {
    (wire::packet::HEADER_BYTES as u64 + u64::from(FRAME_OVERHEAD_BYTES)) * 8
}

/// Bits of a packet with a symbol on the wire.
pub(super) fn frame_bits() -> u64 {
    (wire::packet::HEADER_BYTES as u64 + u64::from(SYMBOL_BYTES) + u64::from(FRAME_OVERHEAD_BYTES)) * 8
}
