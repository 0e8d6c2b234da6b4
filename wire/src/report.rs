//! What a receiver reports to its sender while data flows, as plain checked types: the state machines of both ends use these, the
//! control plane carries them as [`crate::proto`] messages.

use crate::ids::{ChunkId, Sequence, StreamId, SymbolIndex};
use crate::proto::v1;

/// A receiver names the source symbols it lacks only up to this many per chunk; beyond, repair symbols serve better than originals.
pub const MISSING_LISTED_MAX: usize = 16;
/// Most deficits in one report: 16 interleaved chunks a group, and room for many groups between two reports. What does not fit
/// follows in the next report. 4096 entries of at most 60 bytes stay far below gRPC's 4 MiB message limit.
pub const DEFICITS_PER_REPORT_MAX: usize = 4096;
/// Most corrupt chunks in one report: each is a defect somewhere, and what is not named now is named when it has come again.
pub const CORRUPT_PER_REPORT_MAX: usize = 64;
/// Most ranges of completed chunks in one report.
pub const RANGES_PER_REPORT_MAX: usize = 16_384;

/// A run of chunk ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRange {
    /// The first.
    pub first: ChunkId,
    /// How many; at least 1.
    pub count: u32,
}

/// What one chunk lacks at one receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deficit {
    /// The chunk.
    pub chunk: ChunkId,
    /// How many more symbols are needed to decode it. 0: it has enough of them and waits to be verified; without such an entry the
    /// sender would take the chunk as wholly lost (see [`Report::passed`]).
    pub symbols: u16,
    /// The source symbols that it lacks, all of them, when they are no more than [`MISSING_LISTED_MAX`]; else empty.
    pub missing: Vec<SymbolIndex>,
}

/// One report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Per stream, the position before which everything has arrived or is lost. A chunk that the receiver wants, all of whose
    /// symbols were sent before that position, and which is neither in `completed` nor in `deficits` of this or an earlier report
    /// since, lacks all K.
    pub passed: Vec<(StreamId, Sequence)>,
    /// Chunks that need nothing more: assembled and verified since the last report.
    pub completed: Vec<ChunkRange>,
    /// Chunks that were sent and are not verified, with what they lack, when that differs from what was last reported. What a chunk
    /// lacks stays as reported until another entry or its completion; before the first entry it is K.
    pub deficits: Vec<Deficit>,
    /// Packets of this session that the filter or socket saw since the last report, wanted or not.
    pub packets_seen: u64,
    /// Packets that the stream positions say were sent to the groups joined since the last report.
    pub packets_sent: u64,
    /// In how many runs the packets were lost that were sent and not seen; 0 when that is not known.
    pub loss_runs: u64,
    /// How full the receiver's memory of chunks that wait for hashing, decompression and disk is, in thousandths.
    pub backlog_permille: u16,
    /// Bytes of stored chunks a second that the receiver has lately shown that it restores; 0: nothing new is known.
    pub restore_bytes_per_second: u64,
    /// Chunks that had enough symbols and did not match their hash, and are wanted again.
    pub corrupt: Vec<ChunkId>,
}

/// Why a peer's report is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// A chunk id or range outside the pack.
    #[error("chunk {0} is outside the pack")]
    Chunk(u64),
    /// A number does not fit its field.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// More entries than a report may have.
    #[error("too many {0}")]
    TooMany(&'static str),
}

impl ChunkRange {
    /// The chunk ids of the run.
    pub fn chunks(self) -> impl Iterator<Item = ChunkId> {
        (self.first.0..self.first.0 + self.count).map(ChunkId)
    }

    /// Joins ascending chunk ids into runs.
    pub fn from_sorted(chunks: impl IntoIterator<Item = ChunkId>) -> Vec<ChunkRange> {
        let mut ranges: Vec<ChunkRange> = Vec::new();
        for chunk in chunks {
            match ranges.last_mut() {
                Some(last) if last.first.0 + last.count == chunk.0 => last.count += 1,
                _ => ranges.push(ChunkRange { first: chunk, count: 1 }),
            }
        }
        ranges
    }

    /// Checks a peer's runs against the pack.
    ///
    /// # Errors
    /// [`ReportError`] when a run leaves the pack or there are too many of them.
    pub fn checked(ranges: &[v1::ChunkRange], chunk_count: u32) -> Result<Vec<ChunkRange>, ReportError> {
        if ranges.len() > RANGES_PER_REPORT_MAX {
            return Err(ReportError::TooMany("chunk ranges"));
        }
        let check = |range: &v1::ChunkRange| {
            let end = u64::from(range.first) + u64::from(range.count);
            if range.count == 0 {
                Err(ReportError::Range("count of a chunk range"))
            } else if end > u64::from(chunk_count) {
                Err(ReportError::Chunk(end - 1))
            } else {
                Ok(ChunkRange { first: ChunkId(range.first), count: range.count })
            }
        };
        ranges.iter().map(check).collect()
    }
}

impl From<ChunkRange> for v1::ChunkRange {
    fn from(range: ChunkRange) -> Self {
        v1::ChunkRange { first: range.first.0, count: range.count }
    }
}

impl Report {
    /// Checks a peer's report against a pack of `chunk_count` chunks.
    ///
    /// # Errors
    /// [`ReportError`] names the first thing that cannot be.
    pub fn checked(message: &v1::Report, chunk_count: u32) -> Result<Report, ReportError> {
        if message.deficits.len() > DEFICITS_PER_REPORT_MAX {
            return Err(ReportError::TooMany("deficits"));
        }
        if message.corrupt.len() > CORRUPT_PER_REPORT_MAX {
            return Err(ReportError::TooMany("corrupt chunks"));
        }
        let corrupt = |&chunk: &u32| if chunk < chunk_count { Ok(ChunkId(chunk)) } else { Err(ReportError::Chunk(chunk.into())) };
        let passed = |position: &v1::StreamPosition| {
            let stream = u16::try_from(position.stream).map_err(|_| ReportError::Range("stream id"))?;
            Ok((StreamId(stream), Sequence(position.sequence)))
        };
        let deficit = |deficit: &v1::Deficit| {
            if deficit.chunk >= chunk_count {
                return Err(ReportError::Chunk(deficit.chunk.into()));
            }
            if deficit.missing.len() > MISSING_LISTED_MAX {
                return Err(ReportError::TooMany("missing symbols"));
            }
            let symbol = |&index: &u32| u16::try_from(index).map(SymbolIndex).map_err(|_| ReportError::Range("symbol index"));
            Ok(Deficit {
                chunk: ChunkId(deficit.chunk),
                symbols: u16::try_from(deficit.symbols).map_err(|_| ReportError::Range("deficit"))?,
                missing: deficit.missing.iter().map(symbol).collect::<Result<_, _>>()?,
            })
        };
        Ok(Report {
            passed: message.passed.iter().map(passed).collect::<Result<_, _>>()?,
            completed: ChunkRange::checked(&message.completed, chunk_count)?,
            deficits: message.deficits.iter().map(deficit).collect::<Result<_, _>>()?,
            packets_seen: message.packets_seen,
            packets_sent: message.packets_sent,
            loss_runs: message.loss_runs,
            restore_bytes_per_second: message.restore_bytes_per_second,
            backlog_permille: u16::try_from(message.backlog_permille.min(1000)).unwrap_or(1000),
            corrupt: message.corrupt.iter().map(corrupt).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Report> for v1::Report {
    fn from(report: &Report) -> Self {
        let position = |&(stream, sequence): &(StreamId, Sequence)| v1::StreamPosition { stream: stream.0.into(), sequence: sequence.0 };
        let deficit = |deficit: &Deficit| v1::Deficit {
            chunk: deficit.chunk.0,
            symbols: deficit.symbols.into(),
            missing: deficit.missing.iter().map(|index| index.0.into()).collect(),
        };
        v1::Report {
            passed: report.passed.iter().map(position).collect(),
            completed: report.completed.iter().map(|&range| range.into()).collect(),
            deficits: report.deficits.iter().map(deficit).collect(),
            packets_seen: report.packets_seen,
            packets_sent: report.packets_sent,
            backlog_permille: report.backlog_permille.into(),
            loss_runs: report.loss_runs,
            restore_bytes_per_second: report.restore_bytes_per_second,
            corrupt: report.corrupt.iter().map(|chunk| chunk.0).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn runs_are_joined() {
        let ranges = ChunkRange::from_sorted([1, 2, 3, 7, 9, 10].map(ChunkId));
        let expected = [(1, 3), (7, 1), (9, 2)].map(|(first, count)| ChunkRange { first: ChunkId(first), count });
        assert_eq!(ranges, expected);
    }

    #[test]
    fn a_run_outside_the_pack_is_refused() {
        let range = |first, count| [v1::ChunkRange { first, count }];
        assert!(ChunkRange::checked(&range(9, 1), 10).is_ok());
        assert_eq!(ChunkRange::checked(&range(9, 2), 10), Err(ReportError::Chunk(10)));
        assert_eq!(ChunkRange::checked(&range(u32::MAX, u32::MAX), 10), Err(ReportError::Chunk(8_589_934_589)));
        assert!(ChunkRange::checked(&range(0, 0), 10).is_err());
    }

    proptest! {
        #[test]
        fn a_report_survives_the_schema(
            passed in proptest::collection::vec((any::<u16>(), any::<u32>()), 0..4),
            deficits in proptest::collection::vec((0u32..100, 0u16..300, proptest::collection::vec(any::<u16>(), 0..16)), 0..20),
            seen: u64, sent: u64, backlog in 0u16..=1000,
        ) {
            let report = Report {
                passed: passed.into_iter().map(|(stream, sequence)| (StreamId(stream), Sequence(sequence))).collect(),
                completed: ChunkRange::from_sorted([1, 2, 50].map(ChunkId)),
                deficits: deficits
                    .into_iter()
                    .map(|(chunk, symbols, missing)| Deficit {
                        chunk: ChunkId(chunk), symbols, missing: missing.into_iter().map(SymbolIndex).collect(),
                    })
                    .collect(),
                packets_seen: seen, packets_sent: sent, loss_runs: seen ^ sent, backlog_permille: backlog,
                restore_bytes_per_second: seen,
                corrupt: vec![ChunkId(99), ChunkId(3)],
            };
            prop_assert_eq!(Report::checked(&v1::Report::from(&report), 100), Ok(report));
        }
    }
}
