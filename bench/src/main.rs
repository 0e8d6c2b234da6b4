//! `discus-bench`: measures the limits of the machine and of discus, and impairs networks for tests.

use bench::{ceiling, code, control, filter, images, impair, leavings, limits, pacing, path, peers, sharing, sim, swarm};
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(version, about = "Measure the limits of this machine and of discus; impair networks for tests")]
#[command(
    after_help = "Ctrl-C (exit code 130) and SIGTERM (143) end a measurement with all that it has started: programs, network namespaces, files.\n\
    A second one ends it at once. `impair` and `limits rx` end so as a matter of course."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare transfers, transmitting and filtering with what the machine does with the same packets and nothing else
    Ceiling(ceiling::CeilingArgs),
    /// Measure what the erasure code costs, per processor kernel
    Code(code::CodeArgs),
    /// Measure what many control connections cost one sender: real TLS connections over loopback, no data
    Control(control::ControlArgs),
    /// Measure what the receiver's filter costs per packet
    Filter(filter::FilterArgs),
    /// Compare packs with other ways to store disk images: time, size, memory; and restoring with plain O_DIRECT writing
    Images(images::ImagesArgs),
    /// Lose multicast packets that leave an interface
    Impair(impair::ImpairArgs),
    /// Measure what this machine, its link and its disk can do at best; `rx` and `tx` measure a real link between two hosts
    Limits(limits::LimitsArgs),
    /// Measure how evenly packets leave at a given rate: what the interface counts in each millisecond
    Pacing(pacing::PacingArgs),
    /// Show where the time goes in a transfer: what each step costs a packet and a byte, and which is the bottleneck
    Path(path::PathArgs),
    /// Compare discus with other ways to bring images to machines: udpcast, UFTP, BitTorrent, rsync, nc, HTTP
    Peers(peers::PeersArgs),
    /// Measure how discus shares a narrow link with another session or with TCP
    Sharing(sharing::SharingArgs),
    /// Simulate a delivery: the real scheduler and assemblers over a modelled network
    Sim(sim::SimArgs),
    /// Deliver four images to many receivers in network namespaces, and compare with what the simulator predicts
    Swarm(swarm::SwarmArgs),
}

fn main() -> anyhow::Result<()> {
    let result = match Arguments::parse().command {
        Command::Ceiling(args) => ceiling::run(&args),
        Command::Code(args) => code::run(&args),
        Command::Control(args) => control::run(&args),
        Command::Filter(args) => filter::run(&args),
        Command::Images(args) => images::run(&args),
        Command::Impair(args) => impair::run(&args),
        Command::Limits(args) => limits::run(&args),
        Command::Pacing(args) => pacing::run(&args),
        Command::Path(args) => path::run(&args),
        Command::Peers(args) => peers::run(&args),
        Command::Sharing(args) => sharing::run(&args),
        Command::Sim(args) => sim::run(&args),
        Command::Swarm(args) => swarm::run(&args),
    };
    leavings::settle();
    result
}
