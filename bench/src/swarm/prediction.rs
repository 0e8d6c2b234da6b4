//! What the simulator says of the same delivery: the same chunks, images, arrivals and losses, at a given rate.

use anyhow::{Context, Result};

use super::SwarmArgs;
use super::run::Delivery;
use crate::sim::{Receiver, Scenario, World};

/// What is predicted.
pub(super) struct Prediction {
    pub(super) symbols_sent: u64,
    pub(super) symbols_by_unicast: u64,
    pub(super) symbols_needed: u64,
    pub(super) took_seconds: Vec<f64>,
}

pub(super) fn predict(args: &SwarmArgs, delivery: &Delivery, bits_per_second: u64) -> Result<Prediction> {
    let mut scenario = Scenario::on_lan(1, delivery.source_symbols.len(), 1);
    scenario.source_symbols.clone_from(&delivery.source_symbols);
    scenario.images.clone_from(&delivery.images);
    scenario.cap_bits_per_second = bits_per_second;
    let receiver = |machine: &super::run::Machine| Receiver {
        start_us: u64::try_from(machine.joined.as_micros()).unwrap_or(u64::MAX),
        loss_ppm: if machine.is_lossy { (args.loss_percent * 1e4).round() as u32 } else { 0 },
        ..Receiver::on_lan(machine.image)
    };
    scenario.receivers = delivery.machines.iter().map(receiver).collect();
    // Ten minutes: far above any rate that can be asked for.
    scenario.limit_us = 600_000_000;
    let outcome = World::new(&scenario).run().map_err(anyhow::Error::msg).context("the prediction failed")?;
    let took = |(complete_us, receiver): (&Option<u64>, &Receiver)| {
        complete_us.map_or(f64::INFINITY, |complete_us| complete_us.saturating_sub(receiver.start_us) as f64 / 1e6)
    };
    Ok(Prediction {
        symbols_sent: outcome.symbols_sent,
        symbols_by_unicast: outcome.symbols_by_unicast,
        symbols_needed: outcome.symbols_needed,
        took_seconds: outcome.complete_us.iter().zip(&scenario.receivers).map(took).collect(),
    })
}
