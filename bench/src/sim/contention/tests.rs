//! Nobody starves at a bottleneck, and a bad cable is not taken for one.

use super::*;

const GBIT: u64 = 1_000_000_000;
const SESSION: Party = Party::Session { cap_bits_per_second: 10 * GBIT };
/// From shallow switches to 12 ms.
const QUEUES_PACKETS: [u64; 4] = [50, 100, 300, 1_000];

/// Mean rates over five seconds, at the least over two such times, as parts of a fair share; and how much of the link was used.
fn worst_shares(seed: u64, bits_per_second: u64, queue_packets: u64, parties: &[(f64, Party)]) -> (Vec<f64>, f64) {
    let link = Bottleneck { bits_per_second, queue_packets, round_trip_us: 200, loss_ppm: 0 };
    let shares = contend(seed, link, parties, 14);
    let means = |from_s: f64| -> Vec<f64> {
        let share = |party| shares.mean(party, from_s, from_s + 5.0) * parties.len() as f64 / bits_per_second as f64;
        (0..parties.len()).map(share).collect()
    };
    let (one, other) = (means(4.0), means(9.0));
    let used = |shares: &[f64]| shares.iter().sum::<f64>() / parties.len() as f64;
    let used = used(&one).min(used(&other));
    (one.into_iter().zip(other).map(|(one, other)| one.min(other)).collect(), used)
}

#[test]
fn alone_it_uses_a_link_well_however_shallow_the_queue() {
    for queue_packets in QUEUES_PACKETS {
        for link in [GBIT / 10, GBIT] {
            let (_, used) = worst_shares(1, link, queue_packets, &[(0.0, SESSION)]);
            assert!(used > 0.8, "{used} of {link} with a queue of {queue_packets}");
        }
    }
}

#[test]
fn two_sessions_leave_each_other_a_third_of_a_fair_share_and_mostly_more() {
    for queue_packets in QUEUES_PACKETS {
        for second in [SESSION, Party::Session { cap_bits_per_second: GBIT }] {
            let (shares, used) = worst_shares(2, GBIT, queue_packets, &[(0.0, SESSION), (1.3, second)]);
            let (less, more) = (shares[0].min(shares[1]), shares[0].max(shares[1]));
            assert!(less > 1.0 / 3.0 && more < 3.0 * less && used > 0.85, "{shares:?} and {used} with a queue of {queue_packets}");
        }
    }
}

#[test]
fn tcp_and_a_session_leave_each_other_a_third_of_a_fair_share_whoever_was_first() {
    for queue_packets in QUEUES_PACKETS {
        for window in [Window::Reno, Window::Cubic] {
            for flows in [1, 4] {
                for (session_s, tcp_s) in [(0.0, 2.0), (1.0, 0.0)] {
                    let flows = (0..flows).map(|flow| (tcp_s + f64::from(flow) / 10.0, Party::Tcp(window)));
                    let parties: Vec<(f64, Party)> = [(session_s, SESSION)].into_iter().chain(flows).collect();
                    let (shares, used) = worst_shares(3, GBIT, queue_packets, &parties);
                    let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
                    let what = format!("{window:?}, queue of {queue_packets}, session at {session_s} s: {shares:?} and {used}");
                    assert!(least > 1.0 / 3.0 && used > 0.75, "{what}");
                }
            }
        }
    }
}

/// The session's way of looking for more is quicker than TCP's where a queue takes longer than some 10 ms to pass.
#[test]
fn on_a_narrow_link_tcp_gets_less_and_yet_does_not_starve() {
    for (link, queue_packets, least_allowed) in [(GBIT / 10, 50, 0.05), (GBIT * 3 / 10, 100, 0.2), (GBIT * 3 / 10, 300, 0.2)] {
        for window in [Window::Reno, Window::Cubic] {
            for (session_s, tcp_s) in [(0.0, 2.0), (1.0, 0.0)] {
                let parties = [(session_s, SESSION), (tcp_s, Party::Tcp(window))];
                let (shares, used) = worst_shares(3, link, queue_packets, &parties);
                assert!(
                    shares[1] > least_allowed && shares[0] > 0.2 && used > 0.8,
                    "{window:?} on {link}, session at {session_s} s: {shares:?}"
                );
            }
        }
    }
}

#[test]
fn random_loss_hardly_slows_a_session() {
    for (loss_ppm, cap_bits_per_second) in [(100, 10 * GBIT), (10_000, 10 * GBIT), (50_000, 10 * GBIT), (10_000, GBIT), (50_000, GBIT)] {
        let link = Bottleneck { bits_per_second: 40 * GBIT, queue_packets: 1_000, round_trip_us: 200, loss_ppm };
        let shares = contend(4, link, &[(0.0, Party::Session { cap_bits_per_second })], 6);
        let arrives = shares.mean(0, 2.0, 6.0) / cap_bits_per_second as f64 / (1.0 - f64::from(loss_ppm) / 1e6);
        assert!(arrives > 0.95, "{arrives} of {cap_bits_per_second} at {loss_ppm} ppm");
    }
}
