//! Loss of a cable and of a full link, disks, stragglers, caps: what each does to the rate.

use super::*;

const GBIT: u64 = 1_000_000_000;

struct Run {
    control: RateControl,
    now: Micros,
}

impl Run {
    fn new(cap: u64) -> Run {
        Run { control: RateControl::new(cap, GBIT / 100), now: Micros(0) }
    }

    /// One window in which receiver i loses `losses_permille[i]` of 10,000 packets.
    fn window(&mut self, losses_permille: &[u64], backlog_permille: u16) -> u64 {
        for (receiver, loss) in (0..).zip(losses_permille) {
            let packets_seen = 10_000 - loss * 10;
            let report = Report { packets_sent: 10_000, packets_seen, loss_runs: loss * 10, backlog_permille, ..Report::default() };
            self.control.note(ReceiverId(receiver), &report);
        }
        self.now = self.now.after(WINDOW_US);
        self.control.tick(self.now, 10_000);
        self.control.bits_per_second()
    }

    fn windows(&mut self, count: usize, losses_permille: &[u64]) -> u64 {
        (0..count).for_each(|_| _ = self.window(losses_permille, 0));
        self.control.bits_per_second()
    }

    /// Windows on a link that carries `link`; what a window has of it is seen by one receiver.
    fn behind(&mut self, link: u64, windows: usize) -> (u64, u64) {
        let mut range = (u64::MAX, 0);
        for _ in 0..windows {
            let rate = self.control.bits_per_second();
            range = (range.0.min(rate), range.1.max(rate));
            self.window(&[1000 - (link * 1000 / rate).min(1000)], 0);
        }
        range
    }

    /// Seconds with a receiver whose memory `drain_s` of its disk's `disk` bits a second fill. The extremes of the rate and the fullest memory.
    fn with_disk(&mut self, disk: u64, drain_s: f64, memory: &mut f64, seconds: usize) -> (f64, f64, f64) {
        let (mut low, mut high, mut fullest) = (f64::INFINITY, 0.0_f64, 0.0_f64);
        // What is reported now was sent three windows ago.
        let mut under_way = std::collections::VecDeque::from([self.control.bits_per_second(); 3]);
        for _ in 0..seconds * 20 {
            under_way.push_back(self.control.bits_per_second());
            let rate = under_way.pop_front().unwrap_or(0) as f64 / disk as f64;
            (low, high) = (low.min(rate), high.max(rate));
            *memory = (*memory + (rate - 1.0) * 0.05 / drain_s).clamp(0.0, 1.0);
            fullest = fullest.max(*memory);
            self.window(&[0], (*memory * 1000.0) as u16);
        }
        (low, high, fullest)
    }
}

#[test]
fn without_loss_the_cap_is_reached_in_six_windows_and_never_passed() {
    let mut run = Run::new(10 * GBIT);
    assert_eq!(run.windows(6, &[0, 0]), 10 * GBIT);
    assert_eq!(run.windows(100, &[0, 0]), 10 * GBIT);
}

#[test]
fn loss_that_the_rate_does_not_make_costs_one_test() {
    for losses in [[10, 12, 8], [50, 0, 1], [200, 200, 200]] {
        let mut run = Run::new(GBIT);
        assert!(run.window(&losses, 0) < GBIT * 4 / 5);
        assert_eq!(run.windows(8, &losses), GBIT);
        for _ in 0..400 {
            assert_eq!(run.window(&losses, 0), GBIT);
        }
    }
}

#[test]
fn more_loss_than_the_cable_makes_is_noticed() {
    let mut run = Run::new(GBIT);
    run.windows(40, &[50]);
    assert_eq!(run.window(&[50], 0), GBIT);
    assert!(run.windows(3, &[80]) < GBIT);
}

#[test]
fn a_mended_cable_makes_it_as_wary_as_ever() {
    let mut run = Run::new(GBIT);
    run.windows(40, &[50]);
    assert_eq!(run.windows(40, &[0]), GBIT);
    assert!(run.windows(2, &[20]) < GBIT);
}

#[test]
fn a_burst_costs_a_quarter_and_a_second() {
    let mut run = Run::new(GBIT);
    run.windows(20, &[0]);
    let slowed = run.window(&[5], 0);
    assert!((GBIT * 7 / 10..GBIT * 4 / 5).contains(&slowed), "{slowed}");
    assert_eq!(run.windows(4, &[0]), slowed, "what comes right after is not judged");
    assert_eq!(run.windows(40, &[0]), GBIT);
}

#[test]
fn a_stray_burst_on_the_way_up_does_not_end_the_ramp() {
    let mut run = Run::new(10 * GBIT);
    run.window(&[0], 0);
    assert!(run.window(&[5], 0) < 2 * GBIT);
    assert_eq!(run.windows(14, &[0]), 10 * GBIT, "0.2 s for the test, then half as much again a window");
}

#[test]
fn a_narrow_link_is_found_whatever_the_overshoot() {
    for link in [GBIT / 20, GBIT / 4, GBIT, 3 * GBIT] {
        let mut run = Run::new(10 * GBIT);
        run.behind(link, 60);
        let (low, high) = run.behind(link, 400);
        assert!(low > link / 2 && high < link + link / 4, "{low} to {high} at {link}");
    }
}

#[test]
fn a_full_memory_slows_down_to_the_floor() {
    let mut run = Run::new(GBIT);
    assert_eq!(run.window(&[0], 40), GBIT);
    assert_eq!(run.window(&[0], 1000), GBIT / 2);
    (0..100).for_each(|_| _ = run.window(&[0], 1000));
    assert_eq!(run.control.bits_per_second(), GBIT / 100);
    (0..200).for_each(|_| _ = run.window(&[0], 0));
    assert_eq!(run.control.bits_per_second(), GBIT);
}

#[test]
fn the_rate_settles_at_what_a_slow_disk_takes() {
    for (drain_s, fullest_max) in [(1.0, 1.0), (4.0, 1.0), (20.0, 0.6)] {
        let (mut run, mut memory) = (Run::new(GBIT), 0.0);
        let (.., fullest) = run.with_disk(GBIT / 10, drain_s, &mut memory, 20);
        let (low, high, later) = run.with_disk(GBIT / 10, drain_s, &mut memory, 10);
        assert!(fullest <= fullest_max, "{fullest} full, memory for {drain_s} s");
        assert!(low > 0.8 && high < 1.2 && later < 0.6, "{low} to {high} of the disk's rate, {later} full, memory for {drain_s} s");
    }
}

#[test]
fn one_straggler_among_ten_slows_the_rest_only_when_all_are_waited_for() {
    let losses = [500, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut run = Run::new(GBIT);
    assert_eq!(run.windows(10, &losses), GBIT);
    run.control.set_leaves_out_stragglers(false);
    assert!(run.windows(1, &losses) < GBIT);
}

#[test]
fn a_new_cap_holds_at_once_downwards_and_is_approached_upwards() {
    let mut run = Run::new(10 * GBIT);
    run.windows(20, &[0]);
    run.control.set_cap(2 * GBIT);
    assert_eq!(run.control.bits_per_second(), 2 * GBIT);
    run.control.set_cap(10 * GBIT);
    assert_eq!(run.control.bits_per_second(), 2 * GBIT);
    assert_eq!(run.window(&[0], 0), 3 * GBIT);
    run.control.set_floor(4 * GBIT);
    assert_eq!(run.windows(10, &[1000]), 4 * GBIT);
}

#[test]
fn figures_that_cannot_be_do_no_harm() {
    let mut control = RateControl::new(0, u64::MAX);
    let report =
        Report { packets_sent: u64::MAX, packets_seen: u64::MAX, loss_runs: u64::MAX, backlog_permille: u16::MAX, ..Report::default() };
    for window in 0..30 {
        control.note(ReceiverId(1), &report);
        control.note(ReceiverId(1), &Report { packets_seen: window % 2 * u64::MAX, ..report.clone() });
        control.tick(Micros(window * WINDOW_US), u64::MAX / 2);
    }
    assert_eq!(control.bits_per_second(), 1);
}

#[test]
fn silence_halves_the_rate_and_a_word_lets_it_grow() {
    let mut run = Run::new(GBIT);
    let listener = ReceiverId(0);
    let silent = |run: &mut Run, windows: usize| {
        for _ in 0..windows {
            run.now = run.now.after(WINDOW_US);
            run.control.tick(run.now, 10_000);
        }
        run.control.bits_per_second()
    };
    assert_eq!(silent(&mut run, 100), GBIT, "nobody is there to say anything");
    run.control.expect(listener);
    assert_eq!(silent(&mut run, 5), GBIT, "it has not had the time");
    assert_eq!(silent(&mut run, 2), GBIT / 2);
    assert_eq!(silent(&mut run, 6), GBIT / 4);
    // That it has something else to say is no news of the stream.
    run.control.note(listener, &Report { backlog_permille: 10, ..Report::default() });
    assert_eq!(silent(&mut run, 6), GBIT / 8);
    assert_eq!(silent(&mut run, 100), GBIT / 100, "the floor");
    assert_eq!(run.windows(12, &[0]), GBIT);
}

#[test]
fn a_narrow_link_whose_queue_hid_some_loss_is_no_bad_cable() {
    let mut run = Run::new(10 * GBIT);
    // 600 of 1,000 seem lost because the queue was filled, then 400 at half the rate: 300 Mbit/s.
    run.window(&[600], 0);
    run.windows(8, &[400]);
    assert!(run.control.bits_per_second() < GBIT / 2, "{}", run.control.bits_per_second());
}

#[test]
fn bursts_that_strike_some_of_many_by_chance_are_no_congestion() {
    let mut run = Run::new(GBIT);
    // Each of 40 receivers loses 100 of 10,000 packets every fourth window, in one run.
    for window in 0..400_u64 {
        for receiver in 0..40 {
            let lost = if (receiver * 7 + window) % 4 == 0 { 100 } else { 0 };
            let runs = u64::from(lost > 0);
            let report = Report { packets_sent: 10_000, packets_seen: 10_000 - lost, loss_runs: runs, ..Report::default() };
            run.control.note(ReceiverId(receiver), &report);
        }
        run.now = run.now.after(WINDOW_US);
        run.control.tick(run.now, 10_000);
        assert!(run.control.bits_per_second() > GBIT / 2, "window {window}");
    }
    assert_eq!(run.control.bits_per_second(), GBIT);
}

#[test]
fn a_busy_disk_does_not_break_off_what_tells_a_bad_cable() {
    let mut run = Run::new(GBIT);
    // Several receivers come one after the other, each with a bad cable, while memories are filled and emptied by whole groups.
    for joined in 1..=8 {
        for window in 0..12 {
            run.window(&vec![10; joined], if window % 2 == 0 { 150 } else { 20 });
        }
    }
    assert!(run.control.bits_per_second() > GBIT / 4, "{}", run.control.bits_per_second());
}
