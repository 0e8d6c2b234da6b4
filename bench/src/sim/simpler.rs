//! What simpler schemes send in a scenario: selective repeat of source symbols, a plain carousel, and requests for whole chunks as Frisbee makes them.
//!
//! Simulated over the receivers' own paths, with the seed of the run. Three kindnesses are done to them: before each round they know at once and for
//! nothing what everybody lacks, receivers keep every symbol, and nothing is sent but symbols. All of them send symbols in the order of the pack.

use super::path::Path;
use super::random::Random;
use super::scenario::{Receiver, Scenario, frame_bits};

/// Symbols sent per symbol needed.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Simpler {
    /// Every source symbol is sent again until all have it.
    pub selective_repeat: f64,
    /// All source symbols are sent round and round until all have all.
    pub carousel: f64,
    /// A chunk is sent again, wholly, until all have all of its symbols.
    pub whole_chunks: f64,
}

/// Runs the schemes for the receivers of `scenario`, all of whom want all of its pack and are there from the start.
pub fn simpler_schemes(scenario: &Scenario) -> Simpler {
    let mut random = Random::new(scenario.seed ^ 0x5EED);
    let count: u32 = scenario.source_symbols.iter().map(|&symbols| u32::from(symbols)).sum();
    let mut listeners: Vec<Listener<'_>> = Vec::new();
    for spec in &scenario.receivers {
        let path = Path::new(random.fork());
        // As in `Member`, whose second source of chance has no part in losses.
        let _ = random.fork();
        listeners.push(Listener::new(spec, path, count));
    }
    let all: Vec<u32> = (0..count).collect();
    let round = |listeners: &mut [Listener<'_>], symbols: &[u32], sent: u64| hear(scenario, listeners, symbols, sent);
    // The first round is the same for all schemes.
    round(&mut listeners, &all, 0);
    let complete = |listeners: &[Listener<'_>]| listeners.iter().all(|listener| listener.left == 0);

    let repeat = |mut listeners: Vec<Listener<'_>>, again: &dyn Fn(&[Listener<'_>]) -> Vec<u32>| {
        let mut sent = u64::from(count);
        while !complete(&listeners) {
            let symbols = again(&listeners);
            round(&mut listeners, &symbols, sent);
            sent += symbols.len() as u64;
        }
        // It stops when the last receiver has the last symbol that it lacked.
        let last = listeners.iter().map(|listener| listener.last_at).max().unwrap_or(0);
        (sent, (last + 1).max(u64::from(count)))
    };
    let (carousel_rounds, carousel) = repeat(listeners.clone(), &|_| all.clone());
    debug_assert!(carousel <= carousel_rounds);
    let (whole, _) = repeat(listeners.clone(), &|listeners| chunks_of(&lacked_by_any(listeners, count), &scenario.source_symbols));
    let (selective, _) = repeat(listeners, &|listeners| lacked_by_any(listeners, count));
    let relative = |sent: u64| sent as f64 / f64::from(count.max(1));
    Simpler { selective_repeat: relative(selective), carousel: relative(carousel), whole_chunks: relative(whole) }
}

/// A receiver that keeps what arrives.
#[derive(Clone)]
struct Listener<'a> {
    spec: &'a Receiver,
    path: Path,
    /// A bit for each symbol that it lacks.
    lacking: Vec<u64>,
    left: u32,
    /// Which packet brought the last symbol that it lacked.
    last_at: u64,
}

impl<'a> Listener<'a> {
    fn new(spec: &'a Receiver, path: Path, count: u32) -> Listener<'a> {
        let mut lacking = vec![u64::MAX; (count as usize).div_ceil(64)];
        if let Some(last) = lacking.last_mut().filter(|_| !count.is_multiple_of(64)) {
            *last = (1 << (count % 64)) - 1;
        }
        Listener { spec, path, lacking, left: count, last_at: 0 }
    }

    fn hear(&mut self, scenario: &Scenario, symbols: &[u32], sent: u64) {
        // What becomes of packets that it has no use for is of interest only where it bears on others.
        let skips = self.spec.loses_independently();
        let packet_ns = frame_bits() * 1_000_000_000 / scenario.cap_bits_per_second.min(scenario.line_bits_per_second).max(1);
        for (ordinal, &symbol) in (sent..).zip(symbols) {
            if skips && self.left == 0 {
                return;
            }
            let (word, bit) = (symbol as usize / 64, 1_u64 << (symbol % 64));
            let lacks = self.lacking[word] & bit != 0;
            if skips && !lacks {
                continue;
            }
            let arrivals = self.path.carry(scenario.seed, self.spec, ordinal, ordinal * packet_ns, frame_bits());
            if lacks && (arrivals.in_turn_ns.is_some() || arrivals.astray_ns[0].is_some()) {
                self.lacking[word] &= !bit;
                self.left -= 1;
                self.last_at = ordinal;
            }
        }
    }
}

/// Receivers do not meet: they are shared among threads.
fn hear(scenario: &Scenario, listeners: &mut [Listener<'_>], symbols: &[u32], sent: u64) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = listeners.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for listeners in listeners.chunks_mut(share) {
            scope.spawn(move || listeners.iter_mut().for_each(|listener| listener.hear(scenario, symbols, sent)));
        }
    });
}

fn lacked_by_any(listeners: &[Listener<'_>], count: u32) -> Vec<u32> {
    let mut any = vec![0_u64; (count as usize).div_ceil(64)];
    for listener in listeners.iter().filter(|listener| listener.left > 0) {
        any.iter_mut().zip(&listener.lacking).for_each(|(any, lacking)| *any |= lacking);
    }
    (0..count).filter(|&symbol| any[symbol as usize / 64] >> (symbol % 64) & 1 == 1).collect()
}

/// All symbols of the chunks that `symbols`, ascending, belong to.
fn chunks_of(symbols: &[u32], source_symbols: &[u16]) -> Vec<u32> {
    let (mut first, mut at, mut whole) = (0, 0, Vec::new());
    for &k in source_symbols {
        let end = first + u32::from(k);
        if symbols.get(at).is_some_and(|&symbol| symbol < end) {
            whole.extend(first..end);
            at += symbols[at..].partition_point(|&symbol| symbol < end);
        }
        first = end;
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::super::lose;
    use super::*;

    fn scenario(chunks: usize, receivers: usize, loss: f64, burst_packets: f64) -> Scenario {
        let mut scenario = Scenario::on_lan(1, chunks, receivers);
        lose(&mut scenario.receivers, loss, burst_packets);
        scenario
    }

    /// Expected number of times that something is sent that is lost in `units` independent ways: Σ over m ≥ 0 of [1 − Π (1 − p^m)^units].
    fn sendings(receivers: f64, loss: f64, units: f64) -> f64 {
        (0..1_000).map(|m| -(receivers * units * (-loss.powi(m)).ln_1p()).exp_m1()).sum()
    }

    #[test]
    fn each_scheme_sends_what_independent_losses_let_expect() {
        for (receivers, loss) in [(100, 0.01), (1_000, 0.001)] {
            let simpler = simpler_schemes(&scenario(100, receivers, loss, 1.0));
            let expected = |units| sendings(receivers as f64, loss, units);
            assert!((simpler.selective_repeat / expected(1.0) - 1.0).abs() < 0.01, "{simpler:?}");
            assert!((simpler.whole_chunks / expected(187.0) - 1.0).abs() < 0.05, "{simpler:?}");
            let rounds = expected(18_700.0);
            // One run ends within the last round or the one after.
            assert!((rounds - 1.5..rounds + 1.5).contains(&simpler.carousel), "{simpler:?} where {rounds} rounds are expected");
        }
    }

    #[test]
    fn without_loss_everything_is_sent_once() {
        let simpler = simpler_schemes(&scenario(5, 3, 0.0, 1.0));
        assert_eq!(simpler, Simpler { selective_repeat: 1.0, carousel: 1.0, whole_chunks: 1.0 });
    }

    #[test]
    fn bursts_hit_fewer_chunks_than_single_losses() {
        let (single, bursts) = (simpler_schemes(&scenario(50, 20, 0.01, 1.0)), simpler_schemes(&scenario(50, 20, 0.01, 32.0)));
        assert!(bursts.whole_chunks < single.whole_chunks, "{bursts:?} {single:?}");
    }

    #[test]
    fn a_chunk_is_repeated_whole() {
        assert_eq!(chunks_of(&[1, 2, 7], &[3, 3, 2]), [0, 1, 2, 6, 7]);
    }
}
