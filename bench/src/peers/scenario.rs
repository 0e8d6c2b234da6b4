//! What is to be delivered, to whom, over what kind of link.

use clap::ValueEnum;

/// A situation that operators know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// One receiver, one image
    One,
    /// Four receivers of the same image
    Four,
    /// Four receivers, each of an image of its own; 70 % is common to all
    Different,
    /// One receiver behind a link that loses 1 % of all packets to it
    Loss,
    /// A second receiver that comes when half of the time has passed that the first takes alone
    Late,
    /// Four receivers of different images behind a link of 1 Gbit/s
    Narrow,
}

/// What the link of [`Scenario::Narrow`] carries.
pub(crate) const NARROW_MEGABITS: u64 = 1000;
/// And how many full frames wait before it.
pub(crate) const NARROW_QUEUE_PACKETS: u64 = 300;
/// What the link of [`Scenario::Loss`] loses.
pub(crate) const LOSS: &str = "1%";
/// How much of each image is common to all in scenarios with several, in tenths.
pub(crate) const COMMON_TENTHS: u64 = 7;

/// One machine and what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) machine: usize,
    pub(crate) image: usize,
    /// Comes when half of the time has passed.
    pub(crate) late: bool,
}

impl Scenario {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Scenario::One => "1 receiver, 1 image",
            Scenario::Four => "4 receivers, 1 image",
            Scenario::Different => "4 receivers, 4 different images",
            Scenario::Loss => "1 receiver, 1 image, 1 % loss",
            Scenario::Late => "a second receiver that comes half-way",
            Scenario::Narrow => "4 receivers, 4 different images, 1 Gbit/s link",
        }
    }

    /// How the machines are joined.
    pub(crate) fn network(self) -> &'static str {
        match self {
            Scenario::One => "sender and receiver joined by one veth pair",
            Scenario::Four | Scenario::Different | Scenario::Late => "sender and receivers joined by a bridge with a veth pair to each",
            Scenario::Loss => {
                "sender and receiver joined by a bridge that loses 1 % of all IP packets to the receiver, of TCP as of multicast; segmentation offload off, so that each lost packet is one of the link's"
            }
            Scenario::Narrow => {
                "sender and receivers joined by two bridges with a token bucket of 1 Gbit/s and 300 frames of queue between them"
            }
        }
    }

    pub(crate) fn receivers(self) -> usize {
        match self {
            Scenario::One | Scenario::Loss => 1,
            Scenario::Late => 2,
            Scenario::Four | Scenario::Different | Scenario::Narrow => 4,
        }
    }

    pub(crate) fn images(self) -> usize {
        match self {
            Scenario::Different | Scenario::Narrow => 4,
            Scenario::One | Scenario::Four | Scenario::Loss | Scenario::Late => 1,
        }
    }

    /// Who wants what.
    pub(crate) fn wants(self) -> Vec<Want> {
        let want = |machine| Want { machine, image: machine % self.images(), late: self == Scenario::Late && machine > 0 };
        (0..self.receivers()).map(want).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_receiver_wants_an_image_that_there_is_and_only_the_second_of_late_is_late() {
        for scenario in Scenario::value_variants() {
            let wants = scenario.wants();
            assert_eq!(wants.len(), scenario.receivers());
            assert!(wants.iter().all(|want| want.image < scenario.images()));
            let late = wants.iter().filter(|want| want.late).count();
            assert_eq!(late, usize::from(*scenario == Scenario::Late), "{scenario:?}");
        }
    }
}
