//! Deliveries over several streams without a network: what is sent arrives whole where it is listened to, and is reported at once.

mod priorities;
mod replanning;

use super::*;
use crate::schedule::Threshold;
use std::collections::BTreeSet;
use wire::session::SessionParameters;
use wire::{ChunkId, SessionId};

const K: u16 = 4;
const SYMBOL_BYTES: u16 = 1_000;
const CHUNK_BYTES: u64 = 4_000;
/// Bytes of chunks a second that the link carries, about.
const LINK: u64 = 10_000_000;

struct Scene {
    delivery: Delivery,
    now: Micros,
    listening: BTreeMap<ReceiverId, Vec<StreamId>>,
    wants: BTreeMap<ReceiverId, BTreeSet<u32>>,
    orders: Vec<(ReceiverId, Order)>,
    /// Chunks in the order in which they were sent, and on which stream.
    sent: Vec<(u32, StreamId)>,
}

fn range(first: u32, count: u32) -> ChunkRange {
    ChunkRange { first: ChunkId(first), count }
}

impl Scene {
    /// `classes` of so many chunks each.
    fn new(classes: &[u32], streams: u16, policy: &str) -> Scene {
        let chunk_count = classes.iter().sum();
        let mut first = 0;
        let runs = classes.iter().map(|&count| {
            first += count;
            range(first - count, count)
        });
        let parameters =
            SessionParameters { session: SessionId(1), symbol_bytes: SYMBOL_BYTES, chunk_count, chunk_bytes_max: CHUNK_BYTES as u32 };
        let schedule = ScheduleConfig {
            parameters,
            source_symbols: vec![K; chunk_count as usize],
            streams: (0..streams).map(StreamId).collect(),
            rate_cap_bits_per_second: LINK * 8,
            rate_floor_bits_per_second: LINK / 100,
            frame_overhead_bytes: 0,
        };
        let config = DeliveryConfig { schedule, classes: runs.collect(), stragglers: policy.parse().unwrap(), last_by_unicast: false };
        Scene {
            delivery: Delivery::new(config),
            now: Micros(1),
            listening: BTreeMap::new(),
            wants: BTreeMap::new(),
            orders: Vec::new(),
            sent: Vec::new(),
        }
    }

    fn join(&mut self, receiver: u64, want: &[ChunkRange], restore_bytes_per_second: u64) {
        let receiver = ReceiverId(receiver);
        self.wants.insert(receiver, want.iter().flat_map(|range| range.chunks()).map(|chunk| chunk.0).collect());
        self.delivery.join(self.now, receiver, want, restore_bytes_per_second, false);
        self.obey();
    }

    /// The receivers report what they restored.
    fn show(&mut self, rates: &[(u64, u64)]) {
        for &(receiver, restore_bytes_per_second) in rates {
            let report = Report { restore_bytes_per_second, ..Report::default() };
            self.delivery.handle(self.now, Event::Reported { receiver: ReceiverId(receiver), report });
        }
    }

    fn prioritize(&mut self, receiver: u64, priority: i16) {
        self.delivery.handle(self.now, Event::Prioritized { receiver: ReceiverId(receiver), priority });
    }

    fn obey(&mut self) {
        for (receiver, order) in self.delivery.take_orders() {
            if let Order::Listen(streams) = &order {
                self.listening.insert(receiver, streams.clone());
            }
            self.orders.push((receiver, order));
        }
    }

    /// Asks every stream once; whoever listens to what is sent has it, and says so. Whether anything was sent.
    fn step(&mut self) -> bool {
        self.now = self.now.after(50_000);
        let mut any = false;
        for stream in 0..self.delivery.lanes.len() as u16 {
            let stream = StreamId(stream);
            let next = self.delivery.next(self.now, stream);
            self.obey();
            let (chunks, passed): (Vec<ChunkId>, _) = match next {
                Next::Wait { .. } => continue,
                Next::Sync { sequence } => (Vec::new(), sequence),
                Next::Group(group) => (group.chunks.iter().map(|part| part.chunk).collect(), group.sync_sequence()),
            };
            any = true;
            self.sent.extend(chunks.iter().map(|chunk| (chunk.0, stream)));
            let listens = |receiver: &ReceiverId| self.listening.get(receiver).is_some_and(|list| list.contains(&stream));
            let receivers: Vec<ReceiverId> = self.wants.keys().copied().filter(listens).collect();
            for receiver in receivers {
                let Some(want) = self.wants.get_mut(&receiver) else { continue };
                let completed: Vec<u32> = chunks.iter().map(|chunk| chunk.0).filter(|chunk| want.contains(chunk)).collect();
                want.retain(|chunk| !completed.contains(chunk));
                let mut completed = completed;
                completed.sort_unstable();
                let completed = ChunkRange::from_sorted(completed.into_iter().map(ChunkId));
                let report = Report { passed: vec![(stream, passed)], completed, ..Report::default() };
                self.delivery.handle(self.now, Event::Reported { receiver, report });
                if self.wants[&receiver].is_empty() {
                    self.wants.remove(&receiver);
                    self.delivery.handle(self.now, Event::Left { receiver });
                }
                self.obey();
            }
        }
        self.delivery.check().unwrap();
        any
    }

    fn run(&mut self) {
        for _ in 0..100_000 {
            if self.wants.is_empty() {
                return;
            }
            self.step();
        }
        panic!("it never ends: {:?}", self.wants);
    }

    fn streams_of(&self, receiver: u64) -> Vec<u16> {
        self.listening[&ReceiverId(receiver)].iter().map(|stream| stream.0).collect()
    }
}

/// Four images of 300 chunks of their own and 700 common ones.
fn four_images(scene: &mut Scene, restore_bytes_per_second: u64) {
    for image in 0..4 {
        scene.join(image, &[range(0, 700), range(700 + 300 * image as u32, 300)], restore_bytes_per_second);
    }
}

#[test]
fn one_stream_does_when_the_link_is_the_limit() {
    let mut scene = Scene::new(&[700, 300, 300, 300, 300], 8, "slow-stream");
    four_images(&mut scene, LINK * 2);
    scene.step();
    assert_eq!(scene.delivery.streams_in_use(), 1);
    scene.run();
    assert!(scene.sent.iter().all(|&(_, stream)| stream == StreamId(0)));
    assert_eq!(scene.sent.len(), 1_900, "every chunk once");
}

#[test]
fn devices_of_a_quarter_of_the_link_get_parallel_streams_at_rates_by_what_is_left() {
    let mut scene = Scene::new(&[700, 300, 300, 300, 300], 8, "slow-stream");
    four_images(&mut scene, LINK / 4);
    scene.show(&[0, 1, 2, 3].map(|image| (image, LINK / 4)));
    (0..6).for_each(|_| _ = scene.step());
    assert_eq!(scene.delivery.streams_in_use(), 5);
    for image in 0..4 {
        assert_eq!(scene.streams_of(image).len(), 2, "the common stream and its own");
    }
    let rates: Vec<f64> = (0..8).map(|stream| scene.delivery.lanes[stream].rate_cap_bits_per_second() as f64).collect();
    let mut used: Vec<f64> = (0..8).filter(|&lane| !scene.delivery.lanes[lane].is_empty()).map(|lane| rates[lane]).collect();
    used.sort_by(f64::total_cmp);
    assert!((used[4] / used[0] - 7.0 / 3.0).abs() < 0.2, "{used:?}");
    let each = used[4] + used[0];
    assert!((each / (LINK * 8) as f64 / (0.25 * 1.1) - 1.0).abs() < 0.1, "a device gets what it restores and a tenth more: {each}");
    scene.run();
    assert_eq!(scene.sent.len(), 1_900, "every chunk once");
}

#[test]
fn more_classes_than_streams_are_sent_side_by_side() {
    let mut scene = Scene::new(&[100, 100, 100, 100], 2, "wait");
    for receiver in 0..4 {
        scene.join(receiver, &[range(100 * receiver as u32, 100)], LINK / 8);
    }
    (0..4).for_each(|_| _ = scene.step());
    assert_eq!(scene.delivery.streams_in_use(), 2);
    let shared = (0..2).map(StreamId).find(|&stream| scene.listening.values().filter(|list| list.contains(&stream)).count() == 3).unwrap();
    let early: Vec<u32> = scene.sent.iter().filter(|(_, stream)| *stream == shared).map(|(chunk, _)| chunk / 100).take(30).collect();
    let mut classes = early.clone();
    classes.sort_unstable();
    classes.dedup();
    assert_eq!(classes.len(), 3, "{early:?}");
    scene.run();
    assert_eq!(scene.sent.len(), 400);
}

#[test]
fn a_fast_receiver_gets_a_stream_of_its_own_beside_a_slow_one_from_the_other_end() {
    let mut scene = Scene::new(&[1_000], 2, "slow-stream");
    scene.join(0, &[range(0, 1_000)], LINK / 4);
    scene.join(1, &[range(0, 1_000)], LINK);
    (0..4).for_each(|_| _ = scene.step());
    assert_eq!((scene.streams_of(0).len(), scene.streams_of(1).len()), (1, 1), "a test before the transfer may have been disturbed");
    scene.show(&[(0, LINK / 4)]);
    scene.now = scene.now.after(PLAN_INTERVAL_US);
    (0..4).for_each(|_| _ = scene.step());
    assert_eq!((scene.streams_of(0).len(), scene.streams_of(1).len()), (1, 2));
    let express = scene.streams_of(1).into_iter().find(|stream| !scene.streams_of(0).contains(stream)).unwrap();
    let of_express: Vec<u32> = scene.sent.iter().filter(|(_, stream)| stream.0 == express).map(|(chunk, _)| *chunk).collect();
    assert!(of_express.windows(2).all(|pair| pair[0] > pair[1]) && of_express[0] > 900, "{of_express:?}");
    scene.run();
}

#[test]
fn all_wait_where_the_operator_says_so() {
    let mut scene = Scene::new(&[1_000], 4, "wait");
    scene.join(0, &[range(0, 1_000)], LINK / 4);
    scene.join(1, &[range(0, 1_000)], LINK);
    scene.run();
    assert_eq!(scene.sent.len(), 1_000);
}

#[test]
fn who_cannot_keep_up_fetches_or_leaves_where_the_operator_says_so() {
    for (policy, fetches) in [("unicast:8M", true), ("drop:8M", false)] {
        let mut scene = Scene::new(&[100], 4, policy);
        scene.join(0, &[range(0, 100)], 500_000);
        scene.join(1, &[range(0, 100)], 5_000_000);
        scene.step();
        let order = scene.orders.iter().find(|(receiver, order)| receiver.0 == 0 && !matches!(order, Order::Listen(_)));
        match &order.unwrap().1 {
            Order::Fetch(chunks) => assert!(fetches && *chunks == [range(0, 100)]),
            Order::Leave(reason) => assert!(!fetches && reason.contains(policy.split(':').next().unwrap()), "{reason}"),
            Order::Listen(_) | Order::FetchRest(_) => unreachable!(),
        }
        assert!(!scene.delivery.lanes.iter().any(|lane| lane.has(ReceiverId(0))));
    }
    assert_eq!("drop:8M".parse::<StragglerPolicy>().unwrap().threshold, Threshold::BitsPerSecond(8_000_000));
}

#[test]
fn plans_change_while_running_and_nothing_is_lost_or_sent_twice() {
    let mut scene = Scene::new(&[400, 200, 200], 4, "wait");
    scene.join(0, &[range(0, 600)], LINK / 2);
    (0..10).for_each(|_| _ = scene.step());
    assert_eq!(scene.delivery.streams_in_use(), 1);
    let before = scene.sent.len();
    scene.join(1, &[range(600, 200)], LINK / 8);
    (0..6).for_each(|_| _ = scene.step());
    assert!(scene.delivery.streams_in_use() > 1);
    scene.delivery.set_rate_cap(scene.now, LINK * 4);
    scene.run();
    assert_eq!(scene.sent.len(), 800, "after {before}");
}

#[test]
fn what_is_sent_beside_the_streams_is_within_the_cap() {
    let total = |scene: &Scene| -> u64 {
        let used = scene.delivery.lanes.iter().filter(|lane| !lane.is_empty());
        used.map(|lane| lane.rate_cap_bits_per_second()).sum()
    };
    let mut scene = Scene::new(&[700, 300, 300, 300, 300], 8, "wait");
    // With one stream, and with five that have the whole link between them.
    scene.join(9, &[range(0, 1_900)], 0);
    for streams in [1, 5] {
        if streams == 5 {
            scene.delivery.handle(scene.now, Event::Left { receiver: ReceiverId(9) });
            scene.wants.remove(&ReceiverId(9));
            four_images(&mut scene, LINK / 4);
            scene.now = scene.now.after(PLAN_INTERVAL_US);
            scene.step();
        }
        assert_eq!(scene.delivery.streams_in_use(), streams);
        let alone = total(&scene);
        assert!((LINK * 8 * 99 / 100..=LINK * 8).contains(&alone), "{alone}");
        scene.delivery.set_reserved_rate(scene.now, LINK * 8 / 10);
        assert!(total(&scene) <= LINK * 8 * 9 / 10, "{streams}: {}", total(&scene));
        assert!(scene.delivery.total_rate_bits_per_second() <= LINK * 8 * 9 / 10, "at once");
        scene.delivery.set_rate_cap(scene.now, LINK * 4);
        assert!(total(&scene) <= LINK * 4 - LINK * 8 / 10, "the operator's cap and what is reserved");
        scene.delivery.set_rate_cap(scene.now, LINK);
        assert!(total(&scene) >= LINK / 2 * 99 / 100, "half is left of a cap below what is reserved");
        scene.delivery.set_rate_cap(scene.now, LINK * 8);
        scene.delivery.set_reserved_rate(scene.now, 0);
        assert!(total(&scene) >= alone * 99 / 100, "as before");
    }
}

#[test]
fn a_receiver_that_no_multicast_reaches_makes_no_demand() {
    let mut scene = Scene::new(&[10], 2, "wait");
    scene.delivery.join(scene.now, ReceiverId(7), &[range(0, 10)], 0, true);
    assert!(!scene.step());
    let report = Report { completed: vec![range(0, 4)], ..Report::default() };
    scene.delivery.handle(scene.now, Event::Reported { receiver: ReceiverId(7), report });
    assert_eq!(scene.delivery.remaining(ReceiverId(7)), Some(6));
}
