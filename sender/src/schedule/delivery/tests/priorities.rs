//! Receivers of several priorities on streams that take their time, with devices that do.

use super::*;

/// What a device holds that it has not restored yet.
const MEMORY_BYTES: f64 = 1_200_000.0;

/// A receiver's device.
#[derive(Clone, Copy)]
struct Machine {
    bytes_per_second: f64,
    held_bytes: f64,
    at: Micros,
}

/// A scene in which time passes as the streams' rates say.
struct Paced {
    scene: Scene,
    machines: BTreeMap<ReceiverId, Machine>,
    /// Per stream, when it is asked next.
    asked_at: Vec<Micros>,
    done_s: BTreeMap<u64, f64>,
    asked: u64,
}

impl Paced {
    fn new(classes: &[u32], streams: u16, policy: &str) -> Paced {
        let scene = Scene::new(classes, streams, policy);
        let asked_at = vec![scene.now; usize::from(streams)];
        Paced { scene, machines: BTreeMap::new(), asked_at, done_s: BTreeMap::new(), asked: 0 }
    }

    /// A receiver whose device has shown what it restores.
    fn join(&mut self, receiver: u64, priority: i16, want: &[ChunkRange], bytes_per_second: u64) {
        self.scene.join(receiver, want, bytes_per_second);
        self.scene.show(&[(receiver, bytes_per_second)]);
        self.prioritize(receiver, priority);
        let machine = Machine { bytes_per_second: bytes_per_second as f64, held_bytes: 0.0, at: self.scene.now };
        self.machines.insert(ReceiverId(receiver), machine);
    }

    fn prioritize(&mut self, receiver: u64, priority: i16) {
        self.scene.prioritize(receiver, priority);
    }

    /// The stream that is due sends, and whoever listens reports.
    fn step(&mut self) {
        let stream = (0..self.asked_at.len()).min_by_key(|&stream| self.asked_at[stream]).unwrap();
        self.scene.now = Micros(self.scene.now.0.max(self.asked_at[stream].0));
        let (now, id) = (self.scene.now, StreamId(stream as u16));
        let next = self.scene.delivery.next(now, id);
        self.scene.obey();
        let (chunks, passed) = match next {
            Next::Wait { until } => {
                let soon = now.after(5_000);
                self.asked_at[stream] = until.map_or(soon, |until| Micros(until.0.clamp(now.0 + 1, soon.0)));
                return;
            }
            Next::Sync { sequence } => (Vec::new(), sequence),
            Next::Group(group) => (group.chunks.iter().map(|part| part.chunk.0).collect(), group.sync_sequence()),
        };
        let line_bits = (chunks.len() as u64 * CHUNK_BYTES + 100) * 8;
        self.asked_at[stream] = now.after(line_bits * 1_000_000 / self.scene.delivery.rate_bits_per_second(id).max(1));
        // It has arrived when the line is free again; nobody else acts before that.
        self.scene.sent.extend(chunks.iter().map(|&chunk| (chunk, id)));
        let listens = |receiver: &ReceiverId| self.scene.listening.get(receiver).is_some_and(|list| list.contains(&id));
        for receiver in self.scene.wants.keys().copied().filter(listens).collect::<Vec<_>>() {
            self.hear(receiver, id, passed, &chunks);
        }
        self.asked += 1;
        if self.asked.is_multiple_of(50) {
            self.scene.delivery.check().unwrap();
        }
    }

    fn hear(&mut self, receiver: ReceiverId, stream: StreamId, passed: wire::Sequence, chunks: &[u32]) {
        let now = self.asked_at[usize::from(stream.0)];
        let machine = self.machines.get_mut(&receiver).unwrap();
        machine.held_bytes = (machine.held_bytes - now.since(machine.at) as f64 / 1e6 * machine.bytes_per_second).max(0.0);
        machine.at = Micros(now.0.max(machine.at.0));
        let want = self.scene.wants.get_mut(&receiver).unwrap();
        let mut completed = Vec::new();
        for chunk in chunks.iter().filter(|chunk| want.contains(chunk)) {
            if machine.held_bytes + CHUNK_BYTES as f64 <= MEMORY_BYTES {
                machine.held_bytes += CHUNK_BYTES as f64;
                completed.push(ChunkId(*chunk));
            }
        }
        completed.sort_unstable();
        completed.iter().for_each(|chunk| _ = want.remove(&chunk.0));
        let is_done = want.is_empty();
        let packets = chunks.len() as u64 * u64::from(K) + 1;
        let report = Report {
            passed: vec![(stream, passed)],
            completed: ChunkRange::from_sorted(completed),
            backlog_permille: (machine.held_bytes / MEMORY_BYTES * 1_000.0) as u16,
            packets_sent: packets,
            packets_seen: packets,
            ..Report::default()
        };
        self.scene.delivery.handle(self.scene.now, Event::Reported { receiver, report });
        if is_done {
            self.scene.wants.remove(&receiver);
            self.done_s.insert(receiver.0, now.0 as f64 / 1e6 + machine.held_bytes / machine.bytes_per_second);
            self.scene.delivery.handle(self.scene.now, Event::Left { receiver });
        }
        self.scene.obey();
    }

    fn run_until(&mut self, seconds: f64) {
        while (self.scene.now.0 as f64) < seconds * 1e6 && !self.scene.wants.is_empty() {
            self.step();
        }
    }

    fn run(&mut self) -> BTreeMap<u64, f64> {
        self.run_until(60.0);
        assert!(self.scene.wants.is_empty(), "not over: {:?} done", self.done_s);
        self.done_s.clone()
    }

    /// The streams that `receiver` listens to.
    fn streams_of(&self, receiver: u64) -> Vec<u16> {
        self.scene.streams_of(receiver)
    }
}

/// Two slow receivers that come first, if anybody is to, and two fast ones: 8 MB for each pair and 4 MB for both.
fn slow_and_fast(slow_priority: i16, with_fast: bool) -> Paced {
    let mut paced = Paced::new(&[1_000, 2_000, 2_000], 4, "slow-stream");
    for receiver in 0..2 {
        paced.join(receiver, slow_priority, &[range(0, 3_000)], LINK / 4);
        if with_fast {
            paced.join(10 + receiver, 0, &[range(0, 1_000), range(3_000, 2_000)], LINK);
        }
    }
    paced
}

#[test]
fn slow_devices_of_a_high_priority_finish_as_if_they_were_alone_and_fast_ones_of_a_lower_long_before_them() {
    let alone = slow_and_fast(5, false).run();
    let mut paced = slow_and_fast(5, true);
    let done = paced.run();
    // 12 MB at 2.5 MB/s.
    assert!(alone[&0] < 4.8 * 1.08, "{alone:?}");
    assert!(done[&0] < alone[&0] * 1.03 && done[&1] < alone[&1] * 1.03, "{done:?} beside {alone:?}");
    // 12 MB at the three quarters of 10 MB/s that are left; on one stream it would be 4.8 s and what it takes to send 8 MB.
    assert!(done[&10] < 12.0 / 7.5 * 1.25 && done[&11] < 12.0 / 7.5 * 1.25, "{done:?}");
}

#[test]
fn where_the_link_is_the_limit_one_stream_carries_all_and_they_are_done_in_the_order_of_their_priorities() {
    let mut paced = Paced::new(&[1_000, 1_000, 1_000], 4, "slow-stream");
    for (receiver, priority) in [(0, -3), (1, 7), (2, 0)] {
        paced.join(receiver, priority, &[range(1_000 * receiver as u32, 1_000)], 2 * LINK);
    }
    let done = paced.run();
    assert!(paced.scene.sent.iter().all(|&(_, stream)| stream == StreamId(0)));
    assert_eq!(paced.scene.sent.len(), 3_000, "every chunk once");
    let of_each = [done[&1], done[&2], done[&0]];
    assert!((0..3).all(|place| of_each[place] < 0.4 * (place as f64 + 1.0) * 1.06), "{of_each:?}");
    assert!(of_each[0] < of_each[1] && of_each[1] < of_each[2], "{of_each:?}");
    let highest_first = paced.scene.sent[..990].iter().all(|(chunk, _)| (1_000..2_000).contains(chunk));
    assert!(highest_first, "{:?}", paced.scene.sent);
}

#[test]
fn a_slow_device_of_a_lower_priority_does_not_hold_a_stream_down_that_it_shares() {
    let mut paced = Paced::new(&[3_000], 1, "wait");
    paced.join(0, 1, &[range(0, 3_000)], 2 * LINK);
    paced.join(1, 0, &[range(0, 3_000)], LINK / 10);
    let done = paced.run();
    assert!(done[&0] < 1.2 * 1.06, "{done:?}");
    assert!(done[&1] < 12.0 * 1.15, "it takes its own time: {done:?}");
}

#[test]
fn a_priority_that_is_raised_while_running_comes_first_from_then_on() {
    let both = |raised: Option<u64>| {
        let mut paced = Paced::new(&[2_000, 2_000], 4, "slow-stream");
        paced.join(0, 0, &[range(0, 2_000)], 2 * LINK);
        paced.join(1, -1, &[range(2_000, 2_000)], 2 * LINK);
        paced.run_until(0.3);
        raised.into_iter().for_each(|receiver| paced.prioritize(receiver, 1));
        (paced.run(), paced.scene.sent.len())
    };
    let (as_before, sent) = both(None);
    assert!(as_before[&0] < 0.8 * 1.05 && as_before[&0] < as_before[&1] && sent == 4_000, "{as_before:?}");
    let (raised, sent) = both(Some(1));
    assert!(raised[&1] < (0.3 + 0.8) * 1.05 && raised[&1] < raised[&0] && sent == 4_000, "{raised:?} {sent}");
}

#[test]
fn a_change_of_priorities_moves_streams_and_nothing_is_lost_or_sent_twice() {
    let mut paced = Paced::new(&[3_000, 3_000, 1_500], 4, "slow-stream");
    paced.join(0, 3, &[range(0, 3_000)], LINK / 4);
    paced.join(1, 0, &[range(3_000, 3_000)], LINK / 4);
    paced.join(2, 0, &[range(6_000, 1_500)], LINK / 8);
    paced.run_until(1.0);
    let before = [paced.streams_of(0), paced.streams_of(1), paced.streams_of(2)];
    assert!(before.iter().all(|streams| streams.len() == 1) && before[0] != before[1], "{before:?}");
    for (receiver, priority) in [(0, -4), (1, 9), (2, 9)] {
        paced.prioritize(receiver, priority);
    }
    paced.run_until(1.5);
    paced.prioritize(2, 0);
    let done = paced.run();
    assert_eq!(paced.scene.sent.len(), 7_500);
    assert!(done.values().all(|&done| done < 4.8 * 1.1), "the link has room for all of them: {done:?}");
}

#[test]
fn more_priorities_than_streams_are_done_one_after_the_other_where_they_share_the_last() {
    let mut paced = Paced::new(&[1_000; 5], 3, "slow-stream");
    for receiver in 0..5 {
        let rate = if receiver < 2 { LINK / 8 } else { 2 * LINK };
        paced.join(receiver, -(receiver as i16), &[range(1_000 * receiver as u32, 1_000)], rate);
    }
    let done = paced.run();
    assert_eq!(paced.scene.sent.len(), 5_000);
    assert!(done[&0] < 3.2 * 1.05 && done[&1] < 3.2 * 1.05, "{done:?}");
    // Three quarters of the link, less a tenth of the quarter, are left to three times 4 MB.
    let each = 4.0 / (10.0 - 2.75);
    assert!((2..5).all(|receiver| done[&receiver] < each * (receiver - 1) as f64 * 1.1 + 0.1), "{done:?}");
    assert!(done[&2] < done[&3] && done[&3] < done[&4], "{done:?}");
}

#[test]
fn a_device_that_turns_out_to_be_faster_gets_more_of_the_link_if_its_priority_is_higher() {
    let mut paced = Paced::new(&[20_000, 20_000], 4, "slow-stream");
    paced.join(0, 1, &[range(0, 20_000)], LINK / 4);
    paced.join(1, 0, &[range(20_000, 20_000)], LINK);
    paced.machines.get_mut(&ReceiverId(0)).unwrap().bytes_per_second = LINK as f64;
    let done = paced.run();
    // 80 MB: at 2.5 MB/s 32 s.
    assert!(done[&0] < 20.0, "{done:?}");
}

#[test]
fn no_stream_is_kept_for_a_receiver_that_does_not_answer() {
    let mut paced = Paced::new(&[1_000, 3_000], 4, "slow-stream");
    paced.join(1, 0, &[range(1_000, 3_000)], 2 * LINK);
    // It is listed and never heard.
    paced.scene.delivery.join(paced.scene.now, ReceiverId(0), &[range(0, 1_000)], LINK / 2, false);
    paced.prioritize(0, 5);
    let report = Report { restore_bytes_per_second: LINK / 2, ..Report::default() };
    paced.scene.delivery.handle(paced.scene.now, Event::Reported { receiver: ReceiverId(0), report });
    let done = paced.run();
    assert!(done[&1] < 2.0, "four tenths of the link for the second until it is absent, and then all of it: {done:?}");
}

#[test]
fn room_for_what_drains_is_made_at_the_expense_of_the_lowest() {
    let mut paced = Paced::new(&[1_000, 1_000, 1_000], 3, "slow-stream");
    for receiver in 0..3 {
        paced.join(receiver, -(receiver as i16), &[range(1_000 * receiver as u32, 1_000)], LINK / 4);
    }
    paced.run_until(0.05);
    let lanes = [0, 1, 2].map(|receiver| usize::from(paced.streams_of(receiver)[0]));
    let cap = LINK * 8;
    let limits = |paced: &mut Paced, shares: [Option<u64>; 3]| {
        let delivery = &mut paced.scene.delivery;
        for (level, (&lane, share)) in lanes.iter().zip(shares).enumerate() {
            delivery.planned[lane] = share.map(|percent| Planned { level, bits_per_second: cap / 100 * percent });
        }
        delivery.limit_lanes();
        delivery.check().unwrap();
        lanes.map(|lane| delivery.lanes[lane].rate_cap_bits_per_second() * 1_000 / cap)
    };
    assert_eq!(limits(&mut paced, [Some(60), Some(30), None]), [600, 300, 100], "there is room");
    assert_eq!(limits(&mut paced, [Some(60), Some(40), None]), [600, 390, 10], "a hundredth of the link for what is lower than others");
    assert_eq!(limits(&mut paced, [None, Some(60), Some(40)]), [100, 600, 300], "a tenth for what is the highest");
    assert_eq!(limits(&mut paced, [Some(100), None, None]), [990, 5, 5]);
    assert_eq!(limits(&mut paced, [None, Some(95), Some(5)]), [100, 895, 5], "a tenth of it is left to the lowest");
    paced.scene.delivery.members.get_mut(&ReceiverId(0)).unwrap().is_planned = false;
    assert_eq!(limits(&mut paced, [None, Some(60), Some(40)]), [10, 600, 390], "a hundredth for the highest when it is absent");
}

#[test]
fn what_a_higher_priority_has_got_and_a_lower_one_missed_moves_to_the_streams_of_the_lower() {
    let mut paced = Paced::new(&[3_000, 1_000], 4, "slow-stream");
    paced.join(0, 1, &[range(0, 3_000)], LINK / 4);
    paced.join(1, 0, &[range(0, 4_000)], LINK / 4);
    paced.run_until(0.6);
    let carriers = |paced: &Paced, chunk: u32| -> Vec<u16> {
        let lanes = paced.scene.delivery.lanes.iter().filter(|lane| lane.scheduler.wants(ReceiverId(1), ChunkId(chunk)));
        lanes.map(|lane| lane.id.0).collect()
    };
    let higher = carriers(&paced, 2_550);
    assert_eq!(higher, paced.streams_of(0), "it listens to the higher one's stream");
    assert_ne!(higher, carriers(&paced, 3_900));
    // Far from where the stream is; the first time there is a stream more for it, the second time nothing else changes.
    let mut of_lower = None;
    for first in [2_500, 2_800] {
        let report = Report { completed: vec![range(first, 100)], ..Report::default() };
        paced.scene.delivery.handle(paced.scene.now, Event::Reported { receiver: ReceiverId(0), report });
        paced.scene.wants.get_mut(&ReceiverId(0)).unwrap().retain(|chunk| !(first..first + 100).contains(chunk));
        paced.scene.delivery.plan(paced.scene.now);
        paced.scene.obey();
        let lower = carriers(&paced, first + 99);
        assert_eq!(*of_lower.get_or_insert_with(|| lower.clone()), lower);
        assert_ne!(lower, higher);
        assert_eq!(carriers(&paced, first + 100), higher);
    }
    paced.run();
}

#[test]
fn a_stream_of_a_lower_priority_goes_on_at_a_sixteenth_where_one_of_the_highest_becomes_as_slow_as_its_receivers() {
    let mut paced = Paced::new(&[3_000, 3_000], 4, "slow-stream");
    paced.join(0, 1, &[range(0, 3_000)], LINK / 4);
    paced.join(1, 0, &[range(3_000, 3_000)], LINK / 4);
    // Both stand still, with full memories.
    paced.machines.values_mut().for_each(|machine| machine.bytes_per_second = 1.0);
    paced.run_until(3.0);
    let of_planned = [0, 1].map(|receiver| {
        let lane = &paced.scene.delivery.lanes[usize::from(paced.streams_of(receiver)[0])];
        paced.scene.delivery.rate_bits_per_second(lane.id) as f64 / lane.rate_cap_bits_per_second() as f64
    });
    assert!(of_planned[0] < 0.01, "{of_planned:?}");
    assert!((0.06..0.07).contains(&of_planned[1]), "{of_planned:?}");
}

#[test]
fn who_restores_too_little_for_a_higher_ones_stream_does_not_listen_to_it() {
    let listens = |bytes_per_second| {
        let mut paced = Paced::new(&[3_000], 4, "wait");
        paced.join(0, 1, &[range(0, 3_000)], LINK / 2);
        paced.join(1, 0, &[range(0, 3_000)], bytes_per_second);
        paced.run_until(0.5);
        paced.streams_of(1) == paced.streams_of(0)
    };
    assert!(listens(LINK * 45 / 100), "1.1 times what it restores");
    assert!(!listens(LINK * 30 / 100), "1.7 times");
}

#[test]
fn what_only_a_priority_without_streams_of_its_own_wants_comes_by_the_slowest_stream_above_it_and_stays_there() {
    let mut scene = Scene::new(&[1_000, 2_000, 1_000, 500], 4, "wait");
    // The two in the middle take all that the first leaves.
    let (whole, busy) = (LINK * 2, LINK * 11 / 20);
    let receivers =
        [(3, range(0, 1_000), LINK / 8), (2, range(1_000, 2_000), busy), (2, range(3_000, 1_000), busy), (1, range(4_000, 500), whole)];
    for (receiver, (priority, want, restores)) in (0..).zip(receivers) {
        scene.join(receiver, &[want], restores);
        scene.show(&[(receiver, restores)]);
        scene.prioritize(receiver, priority);
    }
    let planned = |scene: &mut Scene| {
        scene.delivery.plan(scene.now);
        scene.obey();
        [0, 1, 2, 3].map(|receiver| scene.streams_of(receiver))
    };
    let streams = planned(&mut scene);
    assert!(streams[0] != streams[1] && streams[1] != streams[2] && streams[3] == streams[2], "{streams:?}");
    let report = Report { completed: vec![range(1_000, 1_500)], ..Report::default() };
    scene.delivery.handle(scene.now, Event::Reported { receiver: ReceiverId(1), report });
    assert_eq!(planned(&mut scene), streams, "although the other one is slower now");
}
