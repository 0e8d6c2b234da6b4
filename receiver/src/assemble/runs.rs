//! How long the runs of lost packets are, as far as one receiver can tell: a gap in the numbers of what arrives is a run of lost packets, unless
//! the filter has hidden packets of chunks that are not wanted. Whether it has shows in the sum: more in gaps than was lost.

use wire::{Sequence, StreamId};

/// Streams that are followed at most.
const STREAMS_MAX: usize = 64;
/// A gap that is longer than this is an interruption, not a run.
const GAP_MAX: i32 = 100_000;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct LossRuns {
    last: Vec<(StreamId, Sequence)>,
    gaps: u64,
    packets: u64,
}

impl LossRuns {
    /// A packet of this session came.
    pub(super) fn arrived(&mut self, stream: StreamId, sequence: Sequence) {
        let Some((_, last)) = self.last.iter_mut().find(|(known, _)| *known == stream) else {
            if self.last.len() < STREAMS_MAX {
                self.last.push((stream, sequence));
            }
            return;
        };
        let ahead = sequence.since(*last);
        match ahead {
            // It was overtaken, and taken for lost; or the stream began anew, which the next gaps will tell.
            ..=0 => {
                self.packets = self.packets.saturating_sub(1);
                if ahead < -GAP_MAX {
                    *last = sequence;
                }
                return;
            }
            1 => {}
            2..=GAP_MAX => {
                self.gaps += 1;
                self.packets += ahead as u64 - 1;
            }
            _ => {}
        }
        *last = sequence;
    }

    /// Forgets where all streams stood but those to `keep`: the next packet of another one follows no gap.
    pub(super) fn retain(&mut self, keep: impl Fn(StreamId) -> bool) {
        self.last.retain(|&(stream, _)| keep(stream));
    }

    /// The number of runs since this was last asked, in which `lost` packets were lost; 0 when gaps do not tell.
    pub(super) fn take(&mut self, lost: u64) -> u64 {
        let (gaps, packets) = (std::mem::take(&mut self.gaps), std::mem::take(&mut self.packets));
        if packets * 4 <= lost * 5 { gaps.min(lost) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(sequences: &[u32], lost: u64) -> u64 {
        let mut runs = LossRuns::default();
        sequences.iter().for_each(|&sequence| runs.arrived(StreamId(1), Sequence(sequence)));
        runs.take(lost)
    }

    #[test]
    fn each_gap_is_a_run() {
        assert_eq!(runs(&[5, 6, 10, 11, 13], 4), 2);
        assert_eq!(runs(&[u32::MAX, 3], 3), 1);
        assert_eq!(runs(&[1, 2, 3], 0), 0);
    }

    #[test]
    fn where_packets_were_hidden_gaps_tell_nothing() {
        assert_eq!(runs(&[5, 7, 9, 11, 13], 1), 0);
    }

    #[test]
    fn a_packet_that_was_overtaken_is_not_lost() {
        assert_eq!(runs(&[1, 2, 4, 3, 5, 8], 2), 2);
    }
}
