//! How the streams of `discus serve` leave: the card's queues that the operator names, a way onto the network for each, and what is said of them.

use std::str::FromStr;

use anyhow::bail;
use sender::control::{TransmitStatus, TransmitterStatus};
use sender::interface::Interface;
use sender::transmit::{self, Mode, Opened, TransmitConfig};

use super::exit::NetworkUnusable;

/// Transmit queues of the card in the order in which streams are dealt to them: at least one, none twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Queues(Vec<u32>);

impl FromStr for Queues {
    type Err = String;

    fn from_str(text: &str) -> Result<Queues, String> {
        let mut queues = Vec::new();
        for part in text.split(',') {
            let queue = part.parse().map_err(|_| format!("{part:?} is no number of a queue; queues are given as 0 or 0,1"))?;
            if queues.contains(&queue) {
                return Err(format!("queue {queue} is named twice, and takes one socket"));
            }
            queues.push(queue);
        }
        Ok(Queues(queues))
    }
}

impl Queues {
    /// How many.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// That there is a stream for each.
    pub(super) fn check_streams(&self, streams: u8) -> anyhow::Result<()> {
        let queues = self.count();
        if queues > usize::from(streams) {
            bail!(image::Error::Parameter(format!(
                "--queue names {queues} queues, of which {streams} can have a stream: name fewer, or raise --streams"
            )));
        }
        Ok(())
    }

    /// That the interface has them.
    fn check_interface(&self, interface: &Interface) -> anyhow::Result<()> {
        let (name, there) = (&interface.name, interface.transmit_queues);
        if let Some(queue) = self.0.iter().find(|queue| **queue >= there) {
            let found = if there == 1 { "one transmit queue, 0".to_owned() } else { format!("{there} transmit queues, from 0 on") };
            bail!(NetworkUnusable(format!("--queue {queue}: {name} has {found}; `ethtool -l {name}` says whether there can be more")));
        }
        Ok(())
    }

    /// Opens a way onto the network for each.
    pub(super) fn open(&self, config: &TransmitConfig) -> anyhow::Result<Vec<Opened>> {
        self.check_interface(&config.interface)?;
        let open = |&queue: &u32| Ok(transmit::open(&TransmitConfig { queue, ..config.clone() })?);
        self.0.iter().map(open).collect()
    }

    /// What is said of the ways that were opened for them.
    pub(super) fn status(&self, opened: &[Opened]) -> TransmitStatus {
        let ways = self.0.iter().zip(opened).map(|(&queue, opened)| (queue, opened.transmit.mode(), opened.description.as_str()));
        status(&ways.collect::<Vec<_>>())
    }
}

/// Of each way: the queue that it was opened for, its mode, and its line.
fn status(ways: &[(u32, Mode, &str)]) -> TransmitStatus {
    let mut modes: Vec<&str> = ways.iter().map(|(_, mode, _)| mode.name()).collect();
    modes.dedup();
    let mut lines: Vec<&str> = ways.iter().map(|&(.., line)| line).collect();
    if modes.len() > 1 {
        lines.insert(0, "not all queues the same way");
    }
    let transmitter = |&(queue, mode, _): &(u32, Mode, &str)| TransmitterStatus {
        // The kernel chooses the queue for what a UDP socket sends.
        queue: matches!(mode, Mode::AfXdpZeroCopy | Mode::AfXdpCopy).then_some(queue),
        mode: mode.name(),
    };
    let transmitters = ways.iter().map(transmitter).collect();
    modes.sort_unstable();
    modes.dedup();
    TransmitStatus { mode: modes.join("+"), description: lines.join("; "), transmitters }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_a_number_or_several_different_ones() {
        let parse = |text: &str| text.parse::<Queues>().map(|queues| queues.0);
        assert_eq!(parse("3"), Ok(vec![3]));
        assert_eq!(parse("1,0"), Ok(vec![1, 0]));
        assert!(parse("0,1,0").is_err_and(|error| error.contains("queue 0 is named twice")));
        for wrong in ["", "0,", "-1", "a", "0 1"] {
            assert!(parse(wrong).is_err_and(|error| error.contains("no number of a queue")), "{wrong:?}");
        }
    }

    #[test]
    fn a_queue_without_a_stream_is_wrong_usage() {
        let two = Queues(vec![0, 1]);
        assert!(two.check_streams(2).is_ok());
        assert_eq!(super::super::exit::code_of(&two.check_streams(1).unwrap_err()), 2);
    }

    #[test]
    fn a_queue_that_the_interface_does_not_have_is_said_with_those_that_it_has() {
        let mut interface = Interface::find("lo").unwrap();
        interface.transmit_queues = 2;
        assert!(Queues(vec![0, 1]).check_interface(&interface).is_ok());
        let error = Queues(vec![0, 2]).check_interface(&interface).unwrap_err().to_string();
        assert!(error.starts_with("--queue 2: lo has 2 transmit queues, from 0 on"), "{error}");
    }

    #[test]
    fn queues_in_different_modes_are_said_to_be() {
        let same = status(&[(0, Mode::AfXdpCopy, "copy on 0"), (1, Mode::AfXdpCopy, "copy on 1")]);
        assert_eq!((same.mode.as_str(), same.description.as_str()), ("af-xdp-copy", "copy on 0; copy on 1"));
        let mixed = status(&[(4, Mode::Udp, "plain"), (5, Mode::AfXdpZeroCopy, "zero-copy on 5")]);
        assert_eq!(mixed.mode, "af-xdp-zero-copy+udp");
        assert_eq!(mixed.description, "not all queues the same way; plain; zero-copy on 5");
        assert_eq!(
            mixed.transmitters,
            [TransmitterStatus { queue: None, mode: "udp" }, TransmitterStatus { queue: Some(5), mode: "af-xdp-zero-copy" }]
        );
    }
}
