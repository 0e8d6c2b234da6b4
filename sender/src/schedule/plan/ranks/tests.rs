//! Plans for several priorities carried out chunk by chunk by devices with little memory: when each is done.

use super::*;
use crate::schedule::ReceiverId;
use proptest::prelude::*;

const LINK: u64 = 1_000_000;
const CHUNK: u64 = 1_000;
/// What a device holds that it has not restored yet; what comes beyond is lost to it.
const MEMORY_CHUNKS: f64 = 20.0;

/// A delivery in progress.
struct Run {
    rates: Vec<u64>,
    ranks: Vec<usize>,
    streams_max: usize,
    /// wants[class][chunk][receiver]
    wants: Vec<Vec<Vec<bool>>>,
    /// What each device holds, in chunks, when it last got one.
    held: Vec<(f64, f64)>,
    done_at: Vec<Option<f64>>,
    now: f64,
    sent_chunks: usize,
    most_streams: usize,
}

impl Run {
    /// `receivers` are (what it restores, rank), `classes` (chunks, who wants them).
    fn new(receivers: &[(u64, usize)], classes: &[(usize, Vec<usize>)], streams_max: usize) -> Run {
        let chunk = |members: &Vec<usize>| (0..receivers.len()).map(|receiver| members.contains(&receiver)).collect::<Vec<bool>>();
        let wants: Vec<Vec<Vec<bool>>> = classes.iter().map(|(chunks, members)| vec![chunk(members); *chunks]).collect();
        let wanting = |receiver: usize| wants.iter().flatten().any(|wants| wants[receiver]);
        Run {
            rates: receivers.iter().map(|&(rate, _)| rate).collect(),
            ranks: receivers.iter().map(|&(_, rank)| rank).collect(),
            streams_max,
            held: vec![(0.0, 0.0); receivers.len()],
            done_at: (0..receivers.len()).map(|receiver| (!wanting(receiver)).then_some(0.0)).collect(),
            wants,
            now: 0.0,
            sent_chunks: 0,
            most_streams: 0,
        }
    }

    fn rank_of(&self, class: usize, chunk: usize) -> Option<usize> {
        let wants = &self.wants[class][chunk];
        (0..wants.len()).filter(|&receiver| wants[receiver]).map(|receiver| self.ranks[receiver]).min()
    }

    fn ranked(&self) -> Ranked {
        let piece = |rank: usize, class: usize| {
            let chunks: Vec<usize> = (0..self.wants[class].len()).filter(|&chunk| self.rank_of(class, chunk) == Some(rank)).collect();
            let wanted = |&receiver: &usize| chunks.iter().any(|&chunk| self.wants[class][chunk][receiver]);
            Class { remaining_bytes: chunks.len() as u64 * CHUNK, wanted_by: (0..self.ranks.len()).filter(wanted).collect() }
        };
        let ranks = 0..=self.ranks.iter().copied().max().unwrap_or(0);
        Ranked {
            receivers: (0..).zip(&self.rates).map(|(id, &rate)| Device::new(ReceiverId(id), rate, true)).collect(),
            ranks: self.ranks.clone(),
            pieces: ranks.map(|rank| (0..self.wants.len()).map(|class| piece(rank, class)).collect()).collect(),
            total_bytes_per_second: LINK,
            streams_max: self.streams_max,
            express: true,
        }
    }

    /// Whether stream `on` of `levels` is to bring a chunk to `receiver`, which wants it.
    fn brings(&self, levels: &[Level], on: (usize, usize), class: usize, chunk: usize, receiver: usize) -> bool {
        let level_of = |rank: usize| levels.iter().position(|level| rank <= level.ranks.1).unwrap();
        let (own, of_chunk) = (level_of(self.ranks[receiver]), level_of(self.rank_of(class, chunk).unwrap()));
        let target = if of_chunk < own && !levels[of_chunk].refused.contains(&receiver) { of_chunk } else { own };
        let streams = &levels[target].streams;
        let base = |stream: &StreamPlan| stream.pace == Pace::Base;
        let carrier = streams.iter().position(|stream| base(stream) && stream.classes.contains(&class));
        // What only those want who share a level's streams comes by the last of them.
        let carrier = carrier.or_else(|| streams.iter().rposition(base));
        let stream = &streams.get(on.1).filter(|_| on.0 == target);
        carrier == Some(on.1) && on.0 == target
            || stream.is_some_and(|stream| !base(stream) && stream.classes.contains(&class) && stream.members.contains(&receiver))
    }

    /// The next chunk of a stream: of the highest rank there is; then of the class of which most is left, or of the first.
    fn take(&self, levels: &[Level], on: (usize, usize), under_way: &[(usize, usize)]) -> Option<(usize, usize)> {
        let wanted = |class: usize, chunk: usize| {
            let wants = &self.wants[class][chunk];
            let here = (0..wants.len()).filter(|&receiver| wants[receiver] && self.brings(levels, on, class, chunk, receiver));
            here.map(|receiver| self.ranks[receiver]).min().filter(|_| !under_way.contains(&(class, chunk)))
        };
        let descending = levels[on.0].streams[on.1].pace == Pace::Express;
        let of_class = |class: usize| {
            let waiting: Vec<(usize, usize)> =
                (0..self.wants[class].len()).filter_map(|chunk| Some((wanted(class, chunk)?, chunk))).collect();
            let rank = waiting.iter().map(|&(rank, _)| rank).min()?;
            let chunks: Vec<usize> = waiting.iter().filter(|&&(of, _)| of == rank).map(|&(_, chunk)| chunk).collect();
            let chunk = *if descending { chunks.last() } else { chunks.first() }?;
            let left = if levels[on.0].side_by_side { chunks.len() } else { 0 };
            Some((rank, std::cmp::Reverse(left), class, chunk))
        };
        (0..self.wants.len()).filter_map(of_class).min().map(|(_, _, class, chunk)| (class, chunk))
    }

    fn run(mut self) -> Run {
        while self.done_at.contains(&None) {
            let levels = self.ranked().plan();
            self.check(&levels);
            self.carry_out(&levels);
        }
        self
    }

    fn check(&self, levels: &[Level]) {
        let streams = || levels.iter().flat_map(|level| &level.streams);
        assert!((1..=self.streams_max).contains(&streams().count()), "{levels:?}");
        let most: u64 = streams().map(|stream| stream.bytes_per_second_max).sum();
        assert!(most <= LINK, "{levels:?}");
        assert!(streams().all(|stream| stream.bytes_per_second <= stream.bytes_per_second_max + 1), "{levels:?}");
        assert!(levels.windows(2).all(|pair| pair[0].ranks.1 < pair[1].ranks.0), "{levels:?}");
    }

    fn carry_out(&mut self, levels: &[Level]) {
        let streams: Vec<(usize, usize)> =
            levels.iter().enumerate().flat_map(|(level, of)| (0..of.streams.len()).map(move |stream| (level, stream))).collect();
        self.most_streams = self.most_streams.max(streams.len());
        let mut under_way: Vec<Option<(usize, usize)>> = vec![None; streams.len()];
        let mut free_at = vec![self.now; streams.len()];
        let began = self.now;
        loop {
            for index in 0..streams.len() {
                if under_way[index].is_none() {
                    let (level, stream) = streams[index];
                    // The same chunk may be on the streams of two levels.
                    let of_level = (0..streams.len()).filter(|&other| streams[other].0 == level);
                    let others: Vec<(usize, usize)> = of_level.filter_map(|other| under_way[other]).collect();
                    under_way[index] = self.take(levels, (level, stream), &others);
                    free_at[index] = self.now.max(free_at[index]) + CHUNK as f64 / levels[level].streams[stream].bytes_per_second as f64;
                }
            }
            let next = (0..streams.len()).filter(|&index| under_way[index].is_some()).min_by(|&a, &b| free_at[a].total_cmp(&free_at[b]));
            let next = next.unwrap_or_else(|| panic!("nothing is sent: {levels:?}"));
            self.now = free_at[next];
            let (class, chunk) = under_way[next].take().unwrap();
            self.sent_chunks += 1;
            let mut changed = self.now - began > 2.0;
            let here: Vec<usize> = (0..self.ranks.len())
                .filter(|&receiver| self.wants[class][chunk][receiver] && self.brings(levels, streams[next], class, chunk, receiver))
                .collect();
            for receiver in here {
                let restores = self.rates[receiver] as f64 / CHUNK as f64;
                let (held, at) = self.held[receiver];
                let held = (held - (self.now - at) * restores).max(0.0);
                self.held[receiver] = (held, self.now);
                if held + 1.0 <= MEMORY_CHUNKS {
                    self.held[receiver].0 += 1.0;
                    self.wants[class][chunk][receiver] = false;
                    if !self.wants.iter().flatten().any(|wants| wants[receiver]) {
                        self.done_at[receiver] = Some(self.now + (held + 1.0) / restores);
                        changed = true;
                    }
                }
            }
            changed |= streams.iter().any(|&on| self.take(levels, on, &[]).is_none());
            if changed {
                return;
            }
        }
    }

    /// When the last receiver of `rank` is done.
    fn last(&self, rank: usize) -> f64 {
        let of_rank = self.done_at.iter().zip(&self.ranks).filter(|(_, of)| **of == rank);
        of_rank.filter_map(|(at, _)| *at).fold(0.0, f64::max)
    }
}

/// The least time in which what receivers of the first `ranks` want can be brought to them.
fn bound(receivers: &[(u64, usize)], classes: &[(usize, Vec<usize>)], ranks: usize) -> f64 {
    let wants = |receiver: usize| -> usize { classes.iter().filter(|(_, by)| by.contains(&receiver)).map(|(chunks, _)| chunks).sum() };
    let meant = |receiver: &usize| receivers[*receiver].1 < ranks;
    let link: usize = classes.iter().filter(|(_, by)| by.iter().any(meant)).map(|(chunks, _)| chunks).sum();
    let alone = (0..receivers.len()).filter(meant).map(|receiver| wants(receiver) as f64 * CHUNK as f64 / receivers[receiver].0 as f64);
    alone.fold(link as f64 * CHUNK as f64 / LINK as f64, f64::max)
}

#[test]
fn fast_devices_of_a_lower_priority_take_what_slow_ones_of_a_higher_leave() {
    let run = Run::new(&[(LINK / 4, 0), (LINK / 4, 0), (LINK, 1)], &[(500, vec![0, 1]), (500, vec![2])], 4).run();
    assert!(run.last(0) <= 2.0 * 1.05, "{:?}", run.done_at);
    assert!(run.last(1) <= 0.5 / 0.75 * 1.05, "three quarters of the link are left: {:?}", run.done_at);
    assert_eq!((run.sent_chunks, run.most_streams), (1_000, 2));
}

#[test]
fn one_stream_carries_all_priorities_where_the_link_is_the_limit_for_the_highest() {
    let run = Run::new(&[(LINK, 0), (LINK, 1), (2 * LINK, 2)], &[(100, vec![0]), (300, vec![1]), (100, vec![2])], 4).run();
    assert_eq!((run.most_streams, run.sent_chunks), (1, 500));
    let done = [run.last(0), run.last(1), run.last(2)];
    assert!(done[0] <= 0.105 + 0.02 && done[1] <= 0.42 + 0.02 && done[2] <= 0.525 + 0.02, "one after the other: {done:?}");
}

#[test]
fn what_devices_that_are_alike_want_too_comes_by_the_higher_ones_stream() {
    let common = [(300, vec![0, 1]), (100, vec![0]), (100, vec![1])];
    let run = Run::new(&[(LINK / 4, 0), (LINK / 4, 1)], &common, 4).run();
    // What the device is too busy for while it listens to both comes again; here nobody pushes back.
    assert!(run.sent_chunks <= 525, "nothing crosses the link on two streams: {}", run.sent_chunks);
    // While it listens to both its own come slowly, until the next plan is made of what is left.
    assert!(run.last(0) <= 1.6 * 1.05 && run.last(1) <= 1.6 * 1.2, "{:?}", run.done_at);
}

#[test]
fn a_slow_device_of_a_lower_priority_holds_nobody_up_and_takes_its_own_time() {
    let run = Run::new(&[(LINK / 2, 0), (LINK / 8, 1)], &[(400, vec![0, 1])], 4).run();
    assert!(run.last(0) <= 0.8 * 1.05, "{:?}", run.done_at);
    assert!(run.last(1) <= 3.2 * 1.05, "{:?}", run.done_at);
}

#[test]
fn a_fast_device_of_a_lower_priority_is_not_held_to_the_pace_of_a_slow_one_of_a_higher() {
    let run = Run::new(&[(LINK / 4, 0), (LINK, 1)], &[(250, vec![0, 1]), (250, vec![0]), (250, vec![1])], 4).run();
    assert!(run.last(0) <= 2.0 * 1.05, "{:?}", run.done_at);
    assert!(run.last(1) <= 0.5 / 0.75 * 1.05, "{:?}", run.done_at);
}

#[test]
fn more_priorities_than_streams_share_the_last_one() {
    let receivers: Vec<(u64, usize)> = (0..5).map(|rank| (LINK / 8, rank)).collect();
    let classes: Vec<(usize, Vec<usize>)> = (0..5).map(|receiver| (100, vec![receiver])).collect();
    let run = Run::new(&receivers, &classes, 3);
    let levels = run.ranked().plan();
    assert_eq!(levels.iter().map(|level| level.ranks).collect::<Vec<_>>(), [(0, 0), (1, 1), (2, 4)]);
    let left = LINK - 2 * (LINK / 8 * 11 / 10);
    assert!(levels[2].streams[0].bytes_per_second_max.abs_diff(left) < 10, "{levels:?}");
    let run = run.run();
    for rank in 0..3 {
        assert!(run.last(rank) <= 0.8 * 1.05, "rank {rank}: {:?}", run.done_at);
    }
}

#[test]
fn a_higher_priority_with_more_classes_than_streams_leaves_one_to_the_lower() {
    let mut classes: Vec<(usize, Vec<usize>)> = (0..4).map(|receiver| (200, vec![receiver])).collect();
    classes.push((200, vec![4]));
    let receivers = [(LINK / 8, 0), (LINK / 8, 0), (LINK / 8, 0), (LINK / 8, 0), (LINK, 1)];
    let run = Run::new(&receivers, &classes, 2).run();
    assert!(run.last(0) <= 1.6 * 1.05, "{:?}", run.done_at);
    assert!(run.last(1) <= 0.2 / 0.45 * 1.05, "{:?}", run.done_at);
}

#[test]
fn what_has_not_been_shown_leaves_less_to_lower_priorities() {
    let run = Run::new(&[(LINK / 8, 0), (LINK, 1)], &[(100, vec![0]), (100, vec![1])], 4);
    let mut ranked = run.ranked();
    let left = |ranked: &Ranked| ranked.plan().last().map_or(0, |level| level.streams[0].bytes_per_second_max);
    assert!(left(&ranked).abs_diff(LINK - LINK / 8 * 11 / 10) < 10);
    ranked.receivers[0].is_shown = false;
    assert!(left(&ranked).abs_diff(LINK / 2) < 10, "it may be four times as fast as a test said");
    ranked.receivers[0].bytes_per_second = LINK / 4;
    assert_eq!(ranked.plan().len(), 1, "and then nothing is left");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn whatever_the_devices_the_highest_priority_is_done_as_if_it_were_alone(
        receivers in proptest::collection::vec((1u64..=5, 0usize..3), 2..6),
        classes in proptest::collection::vec((60usize..120, 1u8..32), 1..5),
        streams_max in 1usize..6,
    ) {
        let count = receivers.len();
        let mut receivers: Vec<(u64, usize)> = receivers.iter().map(|&(quarters, rank)| (LINK * quarters / 4, rank)).collect();
        receivers[0].1 = 0;
        let members = |mask: u8| (0..count).filter(move |receiver| mask >> receiver & 1 == 1 || *receiver == usize::from(mask) % count);
        let classes: Vec<(usize, Vec<usize>)> = classes.into_iter().map(|(chunks, mask)| (chunks, members(mask).collect())).collect();
        let alone: Vec<(usize, Vec<usize>)> = classes.iter().map(|(chunks, members)| {
            (*chunks, members.iter().copied().filter(|&member| receivers[member].1 == 0).collect())
        }).collect();
        let all = Run::new(&receivers, &classes, streams_max).run();
        let by_itself = Run::new(&receivers, &alone, streams_max).run();
        // With one stream to share the plan does not reach the bound: then it is as it would be alone. What is under way when a plan is made begins anew.
        let least = bound(&receivers, &classes, 1).max(by_itself.last(0));
        prop_assert!(all.last(0) <= least * 1.05 + 0.02, "{} where {} are due, {:?} {:?}", all.last(0), least, receivers, classes);
    }
}

#[test]
fn who_restores_too_little_for_a_higher_ones_stream_is_no_guest_there() {
    let is_refused = |restores: u64| {
        let levels = Run::new(&[(LINK / 2, 0), (restores, 1)], &[(100, vec![0, 1])], 4).ranked().plan();
        levels[0].refused.contains(&1)
    };
    assert!(!is_refused(LINK * 45 / 100), "1.1 times what it restores");
    assert!(is_refused(LINK * 30 / 100), "1.7 times");
}

#[test]
fn a_lower_priority_has_streams_of_its_own_from_a_twentieth_of_the_link_on() {
    let levels =
        |of_first: u64| Run::new(&[(LINK * of_first / 100, 0), (LINK, 1)], &[(100, vec![0]), (100, vec![1])], 4).ranked().plan().len();
    // With the margin the first takes 93.5 and 96.8 %.
    assert_eq!((levels(85), levels(88)), (2, 1));
}

/// Two receivers of one image: the slow one of the higher priority and the fast one of the lower, which restore so many hundredths of what the link carries.
fn slow_above_fast(slow_percent: u64, fast_percent: u64) -> Ranked {
    let of_link = |percent: u64| LINK * percent / 100;
    Run::new(&[(of_link(slow_percent), 0), (of_link(fast_percent), 1)], &[(100, vec![0, 1])], 4).ranked()
}

#[test]
fn a_lower_priority_gets_what_a_higher_one_carries_too_only_where_it_gains_a_fifth_by_it_and_it_is_certain_who_is_slow() {
    let is_by_itself = |ranked: &Ranked| ranked.plan()[0].refused.contains(&1);
    assert!(is_by_itself(&slow_above_fast(30, 60)), "done in 0.17 s where it would be 0.33");
    assert!(!is_by_itself(&slow_above_fast(30, 33)), "a tenth sooner");
    let mut tested = slow_above_fast(30, 60);
    tested.receivers[0].is_shown = false;
    tested.receivers[0].bytes_per_second = LINK / 10;
    assert!(!is_by_itself(&tested), "by a test before the transfer it is slow, and nobody knows whether it is");
}

#[test]
fn fast_ones_have_streams_of_their_own_where_they_gain_a_fifth_by_it() {
    let has_express = |slow_percent, fast_percent| {
        let mut ranked = slow_above_fast(slow_percent, fast_percent);
        ranked.ranks = vec![0, 0];
        ranked.pieces.truncate(1);
        ranked.plan()[0].streams.iter().any(|stream| stream.pace == Pace::Express)
    };
    assert!(has_express(35, 50), "three tenths sooner");
    assert!(!has_express(45, 50), "a tenth sooner");
}
