//! Scenarios drawn from a seed.

use super::{Conduct, Disconnect, GBIT, Receiver, SYMBOL_BYTES, Scenario};
use crate::sim::random::Random;

impl Scenario {
    /// Whatever `seed` makes of it.
    pub fn random(seed: u64) -> Scenario {
        let mut random = Random::new(seed);
        let chunks = random.between(1, 150) as usize;
        let typical = random.pick(&[1, 4, 30, 30, 60, 187, 187]);
        let source_symbols =
            (0..chunks).map(|_| if random.chance_ppm(100_000) { random.between(1, 200) as u16 } else { typical }).collect();
        let images = random_images(&mut random, chunks as u32);
        let cap_bits_per_second = random.pick(&[GBIT / 10, GBIT, 5 * GBIT, 10 * GBIT]);
        let mut scenario = Scenario {
            seed,
            source_symbols,
            images,
            cap_bits_per_second,
            floor_bits_per_second: cap_bits_per_second / 100,
            line_bits_per_second: random.pick(&[GBIT, 10 * GBIT]),
            streams: 1,
            groups_ahead: random.between(1, 3) as usize,
            last_by_unicast: true,
            fetch_fails_ppm: 0,
            receivers: Vec::new(),
            sender_restarts: Vec::new(),
            paced_reports: false,
            carry_bytes: false,
            limit_us: 0,
        };
        let transfer_us = scenario.transfer_us();
        let count = random.pick(&[1, 1, 2, 3, 3, 4, 8, 12]);
        scenario.receivers = (0..count).map(|_| random_receiver(&mut random, scenario.images.len(), transfer_us)).collect();
        if random.chance_ppm(150_000) {
            scenario.sender_restarts.push((random.below(transfer_us * 2), random.between(1_000, 500_000)));
        }
        // An honest receiver that is alone on the list at the start makes every scenario end in something.
        scenario.receivers[0].conduct = Conduct::Honest;
        scenario.paced_reports = random.chance_ppm(300_000);
        // Of a pack of 100 chunks the code is made to work on some 5 MB.
        scenario.carry_bytes = random.chance_ppm(100_000);
        scenario.prioritize(&mut Random::new(seed ^ 0x9410));
        scenario.streams = random.pick(&[1, 1, 2, 4]);
        for receiver in &mut scenario.receivers {
            // What it says need not be true.
            let true_rate = 187 * u64::from(SYMBOL_BYTES) * 1_000_000 / receiver.finish_us.max(1);
            receiver.restore_bytes_per_second = random.pick(&[0, true_rate, true_rate / 3, true_rate * 2]);
        }
        let mut unicast = Random::new(seed ^ 0x0C57);
        scenario.last_by_unicast = unicast.chance_ppm(700_000);
        scenario.fetch_fails_ppm = unicast.pick(&[0, 0, 10_000, 300_000, 1_000_000]);
        scenario.press(&mut Random::new(seed ^ 0x51A7));
        scenario.limit_us = scenario.generous_limit_us();
        scenario
    }
}

/// One to four images with a common part.
fn random_images(random: &mut Random, chunks: u32) -> Vec<Vec<u32>> {
    let count = random.between(1, 4);
    let common_ppm = random.pick(&[0, 300_000, 700_000, 1_000_000]);
    let mut images = vec![Vec::new(); count as usize];
    for chunk in 0..chunks {
        let owner = random.below(count) as usize;
        let common = random.chance_ppm(common_ppm);
        for (index, image) in images.iter_mut().enumerate() {
            if common || index == owner {
                image.push(chunk);
            }
        }
    }
    images
}

fn random_receiver(random: &mut Random, images: usize, transfer_us: u64) -> Receiver {
    let sometimes = |random: &mut Random, value: u32| if random.chance_ppm(300_000) { value } else { 0 };
    let loss_ppm = random.pick(&[0, 0, 100, 1_000, 10_000, 10_000, 50_000, 200_000]);
    let burst_ppm = sometimes(random, 200);
    let reorder_ppm = sometimes(random, 10_000);
    let duplicate_ppm = sometimes(random, 10_000);
    let corrupt_ppm = if random.chance_ppm(100_000) { 20_000 } else { 0 };
    let slow_disk = random.chance_ppm(150_000);
    let narrow = random.chance_ppm(100_000);
    let buffers = if random.chance_ppm(200_000) { random.between(16, 100) as usize } else { 900 };
    let start_us = random.pick(&[0, 0, 0, transfer_us / 2, transfer_us * 2]);
    let conduct = match random.below(20) {
        0..3 => {
            let at_us = start_us + 1 + random.below(transfer_us * 2);
            let back_us = random.chance_ppm(500_000).then(|| at_us + random.between(1_000, 2_000_000));
            Conduct::Crash { at_us, noticed_us: at_us + random.pick(&[100, 10_000, 3_000_000, 20_000_000]), back_us }
        }
        3 => Conduct::Liar { interval_us: random.between(100, 20_000) },
        _ => Conduct::Honest,
    };
    let disconnects = (0..random.pick(&[0, 0, 0, 0, 0, 1, 2])).map(|_| Disconnect {
        at_us: random.below(transfer_us * 2),
        down_us: random.between(1_000, 1_000_000),
        loses_reports: random.chance_ppm(500_000),
    });
    let disconnects = disconnects.collect();
    let receiver = match random.chance_ppm(150_000) {
        true => Receiver::on_lan(0).with_bursts(random.pick(&[0.001, 0.01, 0.05]), random.pick(&[4.0, 32.0, 100.0])),
        false => Receiver::on_lan(0),
    };
    let rack_loss_ppm = sometimes(random, 10_000);
    Receiver {
        rack: random.below(2) as u32,
        rack_loss_ppm,
        rack_burst_packets: random.pick(&[1, 1, 8, 64]),
        image: random.below(images as u64) as usize,
        start_us,
        latency_us: random.pick(&[5, 50, 500, 20_000]),
        report_latency_us: random.pick(&[100, 300, 2_000, 40_000]),
        report_jitter_us: random.pick(&[0, 100, 5_000, 50_000]),
        report_interval_us: random.pick(&[1_000, 10_000, 10_000, 100_000]),
        loss_ppm,
        burst_ppm,
        burst_packets_max: random.pick(&[8, 64, 500, 3_000]),
        burst_once: None,
        reorder_ppm,
        reorder_us: random.pick(&[10, 200, 5_000]),
        duplicate_ppm,
        path_bits_per_second: if narrow { GBIT / 4 } else { 10 * GBIT },
        path_queue_packets: random.pick(&[50, 1_000]),
        buffers,
        entries: buffers,
        restore_bytes_per_second: 0,
        finish_us: if slow_disk { random.between(2_000, 20_000) } else { 200 },
        corrupt_ppm,
        conduct,
        disconnects,
        ..receiver
    }
}
