//! The protocol's promises, each in a scenario of its own; then whatever a few hundred seeds come up with.

use super::*;

const GBIT: u64 = 1_000_000_000;

fn run(scenario: &Scenario) -> Outcome {
    World::new(scenario).run().unwrap_or_else(|error| panic!("{error}\nin {scenario:#?}"))
}

fn ratio(outcome: &Outcome) -> f64 {
    outcome.sent_over_needed()
}

/// When receiver `index` was complete, in multiples of the time that the whole pack takes on the line at the cap.
fn transfers(scenario: &Scenario, outcome: &Outcome, index: usize) -> f64 {
    let complete_us = outcome.complete_us[index].expect("complete");
    (complete_us - scenario.receivers[index].start_us) as f64 / scenario.transfer_us() as f64
}

/// A scenario without the ramp from 1 Gbit/s and without tests of what losses are, so that times can be compared.
fn at_one_gigabit(seed: u64, chunks: usize, receivers: usize) -> Scenario {
    Scenario { cap_bits_per_second: GBIT, floor_bits_per_second: GBIT, ..Scenario::on_lan(seed, chunks, receivers) }
}

#[test]
fn without_loss_every_symbol_is_sent_once() {
    for receivers in [1, 3] {
        let scenario = at_one_gigabit(1, 300, receivers);
        let outcome = run(&scenario);
        assert_eq!((outcome.symbols_sent, outcome.repair_symbols_sent), (300 * 187, 0));
        let all = outcome.symbols_sent + outcome.syncs_sent;
        assert!(all as f64 <= 1.005 * outcome.symbols_needed as f64, "{outcome:?}");
        assert!(transfers(&scenario, &outcome, 0) < 1.02, "{outcome:?}");
    }
}

#[test]
fn one_percent_loss_at_three_receivers_costs_what_the_bound_says() {
    let mut scenario = at_one_gigabit(2, 500, 3);
    scenario.receivers.iter_mut().for_each(|receiver| receiver.loss_ppm = 10_000);
    let outcome = run(&scenario);
    let bound = least_overhead(187, &[0.01; 3]);
    assert!(ratio(&outcome) <= 1.06 && ratio(&outcome) <= 1.01 * bound, "{} where the bound is {bound}", ratio(&outcome));
    assert!(transfers(&scenario, &outcome, 0) < 1.06, "{outcome:?}");
}

#[test]
fn one_receiver_that_loses_one_percent_gets_originals_and_decodes_nothing() {
    let mut scenario = at_one_gigabit(3, 200, 1);
    scenario.receivers[0].loss_ppm = 10_000;
    let outcome = run(&scenario);
    assert_eq!(outcome.repair_symbols_sent, 0);
    assert!(ratio(&outcome) < 1.013, "{}", ratio(&outcome));
}

#[test]
fn the_bound_is_kept_for_many_receivers_at_any_loss() {
    for (receivers, loss_ppm) in [(10, 1_000), (10, 50_000), (50, 10_000)] {
        let mut scenario = at_one_gigabit(4, 96, receivers);
        scenario.receivers.iter_mut().for_each(|receiver| receiver.loss_ppm = loss_ppm);
        let outcome = run(&scenario);
        let bound = least_overhead(187, &vec![f64::from(loss_ppm) / 1e6; receivers]);
        assert!(ratio(&outcome) <= 1.02 * bound, "{receivers} at {loss_ppm} ppm: {} where the bound is {bound}", ratio(&outcome));
    }
}

#[test]
fn a_burst_of_500_packets_is_repaired_at_its_own_cost() {
    let mut scenario = at_one_gigabit(5, 200, 3);
    scenario.receivers[1].burst_once = Some((5_000, 500));
    let outcome = run(&scenario);
    assert!(outcome.symbols_sent <= outcome.symbols_needed + 505, "{outcome:?}");
    assert!(transfers(&scenario, &outcome, 1) < 1.04, "{outcome:?}");
}

#[test]
fn images_with_a_common_part_share_it() {
    let mut scenario = at_one_gigabit(6, 190, 3);
    scenario.images = (0..3).map(|image| (0..190).filter(|&chunk| chunk < 70 || chunk % 3 == image).collect()).collect();
    scenario.receivers = (0..3).map(Receiver::on_lan).collect();
    let outcome = run(&scenario);
    assert_eq!(outcome.symbols_sent, 190 * 187);
}

#[test]
fn images_are_complete_in_the_order_of_their_priorities() {
    // db, web and a common part of 60 chunks; one machine in three has db.
    let mut scenario = at_one_gigabit(16, 180, 6);
    scenario.images = vec![(0..120).collect(), (0..60).chain(120..180).collect()];
    for (index, receiver) in scenario.receivers.iter_mut().enumerate() {
        let is_db = index % 3 == 1;
        // What is db's stands behind what is web's in the pack.
        (receiver.image, receiver.priority, receiver.loss_ppm) = if is_db { (1, 10, 10_000) } else { (0, 0, 10_000) };
    }
    let outcome = run(&scenario);
    let complete = |db: bool| (0..6).filter(move |index| (index % 3 == 1) == db).map(|index| outcome.complete_us[index].expect("complete"));
    let (db_us, web_us) = (complete(true).max(), complete(false).min());
    assert!(db_us < web_us, "{outcome:?}");
    // What is sent to others while db's repair is on its way may delay it by little.
    assert!(transfers(&scenario, &outcome, 1) < 0.8 && transfers(&scenario, &outcome, 0) < 1.1, "{outcome:?}");
    assert!(ratio(&outcome) < 1.05, "{}", ratio(&outcome));
}

/// What a device restores, in bytes a second, that takes so long for a chunk of 187 symbols.
fn restores(finish_us: u64) -> u64 {
    187 * 1_408 * 1_000_000 / finish_us
}

#[test]
fn what_slow_devices_of_a_high_priority_leave_of_the_link_goes_to_a_lower_one() {
    let scenario = |with_lower: bool| {
        let mut scenario =
            Scenario { floor_bits_per_second: GBIT / 100, streams: 4, ..at_one_gigabit(17, 800, if with_lower { 4 } else { 2 }) };
        scenario.images = vec![(0..400).collect(), (400..800).collect()];
        for (index, receiver) in scenario.receivers.iter_mut().enumerate() {
            // At 1 Gbit/s a chunk takes 2.2 ms: the first two take a quarter of that.
            (receiver.image, receiver.priority, receiver.finish_us) = if index < 2 { (0, 10, 8_800) } else { (1, 0, 200) };
            (receiver.restore_bytes_per_second, receiver.shows_rate) = (restores(receiver.finish_us), true);
        }
        scenario
    };
    let (alone, both) = (run(&scenario(false)), run(&scenario(true)));
    let complete = |outcome: &Outcome, index: usize| outcome.complete_us[index].expect("complete") as f64;
    for index in 0..2 {
        assert!(complete(&alone, index) < 400.0 * 8_800.0 * 1.06, "{alone:?}");
        assert!(complete(&both, index) < complete(&alone, index) * 1.03, "{both:?}");
    }
    // 0.9 s at the whole rate, 1.24 s at what is left, from the second plan on. On one stream it would be the 3.5 s of the others and 0.9 s more.
    assert!(complete(&both, 2) < 1_600_000.0 && complete(&both, 3) < 1_600_000.0, "{both:?}");
    assert!(ratio(&both) < 1.01, "{}", ratio(&both));
}

#[test]
fn a_slow_device_of_a_lower_priority_holds_no_stream_down_that_it_shares_with_a_higher_one() {
    let scenario = |receivers: usize| {
        let mut scenario = Scenario { floor_bits_per_second: GBIT / 100, ..at_one_gigabit(18, 800, receivers) };
        scenario.receivers[0].priority = 1;
        scenario
            .receivers
            .iter_mut()
            .skip(1)
            .for_each(|receiver| (receiver.finish_us, receiver.buffers, receiver.entries) = (8_800, 150, 150));
        scenario
    };
    let (alone, all) = (run(&scenario(1)), run(&scenario(3)));
    let complete = |outcome: &Outcome, index: usize| outcome.complete_us[index].expect("complete") as f64;
    assert!(complete(&all, 0) < complete(&alone, 0) * 1.05, "{:?} beside {:?}", all.complete_us, alone.complete_us);
    // 7 s, and what they lost meanwhile comes again.
    assert!(complete(&all, 1) < 800.0 * 8_800.0 * 1.15, "{all:?}");
}

#[test]
fn what_a_lower_priority_has_in_part_of_a_higher_ones_stream_does_not_keep_its_memory_full() {
    // Two devices that are alike: the first wants 1,500 chunks, the second 100 more, and listens to the first one's stream, which is a little faster than it. What it
    // loses there for want of memory is repaired when the first is done.
    let mut scenario = Scenario { floor_bits_per_second: GBIT / 20, streams: 4, groups_ahead: 1, ..at_one_gigabit(19, 1_600, 2) };
    scenario.images = vec![(0..1_500).collect(), (0..1_600).collect()];
    for (index, receiver) in scenario.receivers.iter_mut().enumerate() {
        (receiver.image, receiver.priority, receiver.finish_us) = (index, if index == 0 { 1 } else { 0 }, 8_800);
        (receiver.restore_bytes_per_second, receiver.shows_rate) = (restores(8_800), true);
        (receiver.buffers, receiver.entries) = (32, 32);
    }
    let outcome = run(&scenario);
    let complete = |index: usize| outcome.complete_us[index].expect("complete") as f64;
    assert!(complete(0) < 1_500.0 * 8_800.0 * 1.05, "{outcome:?}");
    // 14.1 s; where it kept what it had 41 s.
    assert!(complete(1) < 25e6, "{outcome:?}");
}

#[test]
fn a_late_joiner_gets_what_it_missed_and_holds_nobody_up() {
    let mut scenario = at_one_gigabit(7, 400, 2);
    scenario.receivers[1].start_us = scenario.transfer_us() / 2;
    let outcome = run(&scenario);
    assert!(ratio(&outcome) < 1.52, "{}", ratio(&outcome));
    assert!(transfers(&scenario, &outcome, 0) < 1.03, "{outcome:?}");
    assert!(transfers(&scenario, &outcome, 1) < 1.06, "{outcome:?}");
}

#[test]
fn joiners_in_the_middle_of_groups_cost_nobody_time_and_nothing_is_sent_in_vain() {
    for chunks in [100, 250] {
        let mut scenario = at_one_gigabit(7, chunks, 15);
        let transfer_us = scenario.transfer_us();
        for (index, receiver) in scenario.receivers.iter_mut().enumerate() {
            receiver.start_us = transfer_us * index as u64 / 8;
        }
        let outcome = run(&scenario);
        for index in 0..15 {
            let transfers = transfers(&scenario, &outcome, index);
            // At the end of 220 ms: three groups, of which nothing is known yet, and the answers to them.
            assert!(transfers < if chunks == 100 { 1.06 } else { 1.03 }, "receiver {index} of {chunks} chunks: {transfers}");
        }
        let needed_by_the_last = outcome.symbols_missed[14] + outcome.symbols_needed;
        assert_eq!(outcome.symbols_sent, needed_by_the_last, "somebody was there all the time");
    }
}

#[test]
fn a_receiver_that_dies_holds_nobody_up() {
    for noticed_us in [1_000_000, u64::MAX / 4_000] {
        let mut scenario = at_one_gigabit(8, 400, 3);
        scenario.receivers.iter_mut().for_each(|receiver| receiver.loss_ppm = 10_000);
        scenario.receivers[1].conduct = Conduct::Crash { at_us: scenario.transfer_us() / 3, noticed_us, back_us: None };
        let outcome = run(&scenario);
        assert!(transfers(&scenario, &outcome, 0) < 1.1 && transfers(&scenario, &outcome, 2) < 1.1, "{outcome:?}");
        assert!(ratio(&outcome) < 1.06, "{}", ratio(&outcome));
    }
}

#[test]
fn a_restarted_sender_goes_on_where_it_was() {
    let mut scenario = at_one_gigabit(9, 400, 3);
    scenario.receivers.iter_mut().for_each(|receiver| receiver.loss_ppm = 1_000);
    scenario.sender_restarts = vec![(scenario.transfer_us() / 2, 200_000)];
    let outcome = run(&scenario);
    // What was on its way is lost in part; the receivers, back one after the other within 300 ms, take all that is sent.
    assert!((outcome.symbols_sent as f64) < 1.1 * 400.0 * 187.0, "{outcome:?}");
}

#[test]
fn a_broken_control_connection_costs_next_to_nothing() {
    let mut scenario = at_one_gigabit(10, 400, 3);
    scenario.receivers.iter_mut().for_each(|receiver| receiver.loss_ppm = 1_000);
    scenario.receivers[2].disconnects = vec![Disconnect { at_us: scenario.transfer_us() / 3, down_us: 50_000, loses_reports: true }];
    let outcome = run(&scenario);
    assert!(ratio(&outcome) < 1.03, "{}", ratio(&outcome));
}

#[test]
fn swapped_and_repeated_packets_cost_next_to_nothing() {
    let mut scenario = at_one_gigabit(11, 200, 3);
    for receiver in &mut scenario.receivers {
        (receiver.reorder_ppm, receiver.reorder_us, receiver.duplicate_ppm) = (10_000, 500, 10_000);
    }
    let outcome = run(&scenario);
    assert!(ratio(&outcome) < 1.01, "{}", ratio(&outcome));
}

#[test]
fn a_slow_disk_slows_the_sender_before_chunks_are_given_up() {
    // 1 Gbit/s brings a chunk in 2.2 ms; the disk takes half of that rate, and a tenth.
    for (finish_us, chunks) in [(4_400, 800), (22_000, 400)] {
        let mut scenario = Scenario { floor_bits_per_second: GBIT / 100, ..at_one_gigabit(12, chunks, 1) };
        (scenario.receivers[0].finish_us, scenario.receivers[0].buffers, scenario.receivers[0].entries) = (finish_us, 250, 250);
        let outcome = run(&scenario);
        assert!(ratio(&outcome) < 1.001, "{outcome:?}");
        assert!(outcome.end_us < chunks as u64 * finish_us * 21 / 20, "{outcome:?}");
    }
}

#[test]
fn one_percent_of_loss_costs_a_short_test_of_the_rate() {
    let mut scenario = Scenario { floor_bits_per_second: GBIT / 100, ..at_one_gigabit(2, 1_000, 3) };
    scenario.receivers.iter_mut().for_each(|receiver| receiver.loss_ppm = 10_000);
    let outcome = run(&scenario);
    // A quarter of the rate for 0.3 to 0.4 s of 2.2, beside repair of 2 %.
    assert!(transfers(&scenario, &outcome, 0) < 1.08, "{outcome:?}");
}

#[test]
fn corrupt_chunks_are_sent_again() {
    let mut scenario = at_one_gigabit(13, 200, 2);
    scenario.receivers[0].corrupt_ppm = 20_000;
    let outcome = run(&scenario);
    assert!(ratio(&outcome) < 1.06, "{}", ratio(&outcome));
}

#[test]
fn a_liar_keeps_nobody_from_finishing() {
    let mut scenario = at_one_gigabit(14, 100, 4);
    scenario.receivers[0].conduct = Conduct::Liar { interval_us: 1_000 };
    scenario.receivers.iter_mut().for_each(|receiver| receiver.loss_ppm = 10_000);
    run(&scenario);
}

/// Twenty receivers of which each wants chunks of its own beside common ones, and the last loses some.
fn few_lack_what_many_would_hear() -> Scenario {
    let mut scenario = Scenario::on_lan(11, 200, 20);
    scenario.images = (0..20).map(|image| (0..180).chain([180 + image]).collect()).collect();
    for (index, receiver) in scenario.receivers.iter_mut().enumerate() {
        receiver.image = index;
        // Nobody is done, and none leaves, before the last ones are.
        receiver.finish_us = 3_000;
    }
    scenario.receivers[19].loss_ppm = 5_000;
    scenario
}

#[test]
fn what_few_lack_in_the_end_is_fetched_and_comes_by_multicast_when_that_fails() {
    let by_multicast = run(&Scenario { last_by_unicast: false, ..few_lack_what_many_would_hear() });
    assert_eq!(by_multicast.symbols_by_unicast, 0);
    let fetched = run(&few_lack_what_many_would_hear());
    assert!(fetched.symbols_by_unicast > 0, "{fetched:?}");
    let (all, less) = (by_multicast.symbols_sent, fetched.symbols_sent + fetched.symbols_by_unicast);
    assert!(less <= all + all / 1_000, "{less} with unicast, {all} without");
    let failing = run(&Scenario { fetch_fails_ppm: 1_000_000, ..few_lack_what_many_would_hear() });
    assert!(failing.symbols_by_unicast > 0 && failing.symbols_sent > fetched.symbols_sent, "{failing:?}");
}

#[test]
fn the_end_takes_a_few_round_trips() {
    let mut scenario = at_one_gigabit(15, 1, 3);
    scenario.receivers.iter_mut().for_each(|receiver| receiver.loss_ppm = 20_000);
    let outcome = run(&scenario);
    assert!(outcome.end_us < 60_000, "{outcome:?}");
}

#[test]
fn a_seed_is_a_run() {
    let outcome = |seed| format!("{:?}", run(&Scenario::random(seed)));
    assert_eq!(outcome(7), outcome(7));
    assert_ne!(outcome(7), outcome(8));
}

#[test]
fn a_failure_says_how_to_run_it_again() {
    let args = RunArgs {
        seed: 9,
        count: 5,
        receivers: Some(3),
        chunks: 20,
        loss_percent: 1.5,
        burst_packets: 1.0,
        fixed_rate: true,
        carry_bytes: true,
        show: false,
        json: false,
    };
    let again = "run again with: discus-bench sim --seed 11 --receivers 3 --chunks 20 --loss-percent 1.5 --burst-packets 1 --fixed-rate --carry-bytes";
    assert_eq!(replay(11, &args), again);
    let random = RunArgs { receivers: None, carry_bytes: false, ..args };
    assert_eq!(replay(11, &random), "run again with: discus-bench sim --seed 11");
}

/// How many random scenarios a test run tries; `DISCUS_SIM_SCENARIOS` asks for more (or for other ones, with `DISCUS_SIM_SEED`).
fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn random_scenarios_end_well() {
    let first = from_environment("DISCUS_SIM_SEED", 1);
    let mut failures = Vec::new();
    for seed in first..first + from_environment("DISCUS_SIM_SCENARIOS", 300) {
        let scenario = Scenario::random(seed);
        match World::new(&scenario).run() {
            Ok(outcome) => failures.extend(unbounded(&scenario, &outcome).map(|error| format!("seed {seed}: {error}"))),
            Err(error) => failures.push(format!("{error}\nrun again with: discus-bench sim --seed {seed}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Says so when more was sent than can be explained. The measure is what serving each receiver alone would take. With memory for a hundred
/// chunks, paths as wide as the line, disks that keep up and nobody who lies, sharing must not cost more than that, give or take a third for
/// repeated losses, lost turns and a restarted sender. Elsewhere congestion and chunks given up cost more: 8.5 is the most in 6,000 seeds.
fn unbounded(scenario: &Scenario, outcome: &Outcome) -> Option<String> {
    let symbols_of =
        |image: usize| -> u64 { scenario.images[image].iter().map(|&chunk| u64::from(scenario.source_symbols[chunk as usize])).sum() };
    let alone = |receiver: &Receiver| {
        let lives = if matches!(receiver.conduct, Conduct::Crash { back_us: Some(_), .. }) { 2.0 } else { 1.0 };
        symbols_of(receiver.image) as f64 * lives / (1.0 - f64::from(receiver.loss_ppm) / 1e6)
    };
    let gentle = |receiver: &Receiver| {
        let keeps_up =
            receiver.path_bits_per_second >= scenario.line_bits_per_second && receiver.finish_us <= 200 && receiver.buffers >= 100;
        keeps_up && receiver.burst_ppm == 0 && !matches!(receiver.conduct, Conduct::Liar { .. })
    };
    let bound = if scenario.receivers.iter().all(gentle) { 1.33 } else { 12.0 };
    let alone: f64 = scenario.receivers.iter().map(alone).sum();
    let group = 16.0 * 200.0;
    let sent = outcome.symbols_sent as f64;
    (sent > bound * alone + group).then(|| format!("{sent} symbols sent where {alone} would serve each receiver alone, bound {bound}"))
}
