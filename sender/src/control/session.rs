//! What a sender serves, as the control plane tells it to receivers and checks what they say against it.

use super::descriptions::DescriptiveStream;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use wire::proto::{PROTOCOL_VERSION, v1};
use wire::report::{ChunkRange, Report};
use wire::session::SessionParameters;
use wire::{ChunkId, StreamId};

/// Everything that receivers are told at enrolment.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Parameters of the session's packets.
    pub parameters: SessionParameters,
    /// BLAKE3 root of the pack.
    pub pack_root: [u8; 32],
    /// What proves that the pack is signed, as `image::Pack::proof_bytes` gives it; empty when it is not.
    pub proof: Vec<u8>,
    /// Where chunks that receivers fetch by unicast come from; without one nothing is sent by unicast.
    pub chunk_source: Option<Arc<dyn ChunkSource>>,
    /// The images; events name one by its index here.
    pub images: Vec<ImageInfo>,
    /// The multicast streams.
    pub streams: Vec<StreamInfo>,
    /// Where manifests are multicast that many wait for; without it each receiver fetches its own.
    pub descriptive: Option<Arc<DescriptiveStream>>,
    /// Least time between two reports of a receiver, to begin with.
    pub report_interval_us: u32,
}

/// Stored bytes of chunks. Called on threads that may block.
pub trait ChunkSource: Debug + Send + Sync {
    /// The stored bytes of `chunk`.
    ///
    /// # Errors
    /// Why they cannot be had, in words for the receiver's operator.
    fn stored(&self, chunk: ChunkId) -> Result<Vec<u8>, String>;
}

impl ChunkSource for image::Pack {
    fn stored(&self, chunk: ChunkId) -> Result<Vec<u8>, String> {
        self.stored_chunk(image::ChunkId(chunk.0)).map_err(|error| error.to_string())
    }
}

/// One image of the pack.
#[derive(Clone, Debug)]
pub struct ImageInfo {
    /// By which receivers ask for it.
    pub name: String,
    /// The manifest section as it stands in the pack.
    pub manifest: Vec<u8>,
    /// The chunks that the image is made of, in any order.
    pub chunks: Vec<ChunkRange>,
}

/// One multicast stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Its id in every packet.
    pub id: StreamId,
    /// Group and UDP port.
    pub group: SocketAddr,
    /// The address that its packets come from.
    pub source: IpAddr,
}

impl SessionInfo {
    /// The answer to an enrolment.
    pub(super) fn enrol_reply(
        &self,
        receiver_id: u64,
        image: &ImageInfo,
        report_interval_us: u32,
        description: Option<v1::Description>,
    ) -> v1::EnrolReply {
        let stream = |stream: &StreamInfo| v1::Stream {
            stream: stream.id.0.into(),
            group: stream.group.to_string(),
            source: stream.source.to_string(),
        };
        v1::EnrolReply {
            protocol_version: PROTOCOL_VERSION,
            receiver_id,
            session_id: self.parameters.session.0,
            pack_root: self.pack_root.to_vec(),
            symbol_bytes: self.parameters.symbol_bytes.into(),
            chunk_count: self.parameters.chunk_count,
            chunk_bytes_max: self.parameters.chunk_bytes_max,
            manifest_bytes: image.manifest.len() as u64,
            erasure_code: v1::ErasureCode::CauchyGf256.into(),
            streams: self.streams.iter().map(stream).collect(),
            report_interval_us,
            proof_bytes: self.proof.len() as u64,
            description,
        }
    }

    /// Checks a report from a receiver of an image that is made of `chunks`.
    ///
    /// # Errors
    /// What is wrong with it, for the receiver and the operator to read.
    pub(super) fn checked_report(&self, message: &v1::Report, chunks: &ChunkSet) -> Result<Report, String> {
        let report = Report::checked(message, self.parameters.chunk_count).map_err(|error| error.to_string())?;
        let unknown = |stream: StreamId| self.streams.iter().all(|known| known.id != stream);
        if let Some((stream, _)) = report.passed.iter().find(|(stream, _)| unknown(*stream)) {
            return Err(format!("there is no stream {stream}"));
        }
        if report.passed.len() > self.streams.len() {
            return Err("more positions than streams".to_owned());
        }
        let single = |chunk: ChunkId| ChunkRange { first: chunk, count: 1 };
        let named = report.completed.iter().copied().chain(report.deficits.iter().map(|deficit| single(deficit.chunk)));
        if let Some(stray) = named.into_iter().find(|range| !chunks.contains(*range)) {
            return Err(format!("chunk {} is not of its image", stray.first));
        }
        let symbols_max = self.parameters.source_symbols_max();
        let impossible =
            |symbols: u16, missing: &[wire::SymbolIndex]| symbols > symbols_max || missing.iter().any(|index| index.0 >= symbols_max);
        if let Some(deficit) = report.deficits.iter().find(|deficit| impossible(deficit.symbols, &deficit.missing)) {
            return Err(format!("chunk {} has fewer symbols than it is said to lack", deficit.chunk));
        }
        Ok(report)
    }
}

/// A set of chunks as ascending runs that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ChunkSet {
    runs: Vec<ChunkRange>,
}

impl ChunkSet {
    /// The union of runs in any order.
    pub(super) fn new(mut ranges: Vec<ChunkRange>) -> ChunkSet {
        ranges.retain(|range| range.count > 0);
        ranges.sort_unstable_by_key(|range| range.first);
        let mut runs: Vec<ChunkRange> = Vec::new();
        for range in ranges {
            match runs.last_mut() {
                Some(last) if end(*last) >= u64::from(range.first.0) => {
                    let joined = end(*last).max(end(range)) - u64::from(last.first.0);
                    last.count = u32::try_from(joined).unwrap_or(u32::MAX);
                }
                _ => runs.push(range),
            }
        }
        ChunkSet { runs }
    }

    /// Whether all chunks of a run are in the set.
    pub(super) fn contains(&self, range: ChunkRange) -> bool {
        let after = self.runs.partition_point(|run| run.first <= range.first);
        after.checked_sub(1).is_some_and(|index| end(range) <= end(self.runs[index]))
    }

    /// How many chunks it has.
    pub(super) fn chunk_count(&self) -> u32 {
        self.runs.iter().fold(0, |sum, run| sum.saturating_add(run.count))
    }

    /// How many runs it has.
    pub(super) fn run_count(&self) -> usize {
        self.runs.len()
    }

    pub(super) fn into_runs(self) -> Vec<ChunkRange> {
        self.runs
    }
}

fn end(range: ChunkRange) -> u64 {
    u64::from(range.first.0) + u64::from(range.count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::report::Deficit;
    use wire::{Sequence, SessionId, SymbolIndex};

    fn range(first: u32, count: u32) -> ChunkRange {
        ChunkRange { first: ChunkId(first), count }
    }

    #[test]
    fn runs_that_overlap_touch_or_repeat_are_one() {
        let set = ChunkSet::new([(8, 2), (0, 3), (2, 2), (4, 1), (0, 1), (9, 1)].map(|(first, count)| range(first, count)).to_vec());
        assert_eq!(set.chunk_count(), 7);
        assert_eq!(set.into_runs(), [range(0, 5), range(8, 2)]);
    }

    #[test]
    fn a_run_is_in_the_set_only_when_all_of_it_is() {
        let set = ChunkSet::new(vec![range(2, 3), range(10, 1), range(u32::MAX, 1)]);
        for inside in [range(2, 3), range(3, 1), range(10, 1), range(u32::MAX, 1)] {
            assert!(set.contains(inside), "{inside:?}");
        }
        for outside in [range(0, 1), range(1, 2), range(4, 2), range(5, 1), range(9, 2), range(u32::MAX, u32::MAX)] {
            assert!(!set.contains(outside), "{outside:?}");
        }
    }

    fn session() -> SessionInfo {
        SessionInfo {
            parameters: SessionParameters { session: SessionId(1), symbol_bytes: 1408, chunk_count: 10, chunk_bytes_max: 256 * 1024 },
            pack_root: [0; 32],
            proof: Vec::new(),
            chunk_source: None,
            images: Vec::new(),
            streams: vec![StreamInfo {
                id: StreamId(3),
                group: SocketAddr::from(([239, 192, 68, 1], 4700)),
                source: IpAddr::from([10, 0, 0, 1]),
            }],
            descriptive: None,
            report_interval_us: 10_000,
        }
    }

    #[test]
    fn a_report_must_keep_to_its_image_and_session() {
        let chunks = ChunkSet::new(vec![range(0, 5)]);
        let check = |report: Report| session().checked_report(&v1::Report::from(&report), &chunks);
        let deficit = |chunk: u32, symbols: u16, missing: u16| Report {
            deficits: vec![Deficit { chunk: ChunkId(chunk), symbols, missing: vec![SymbolIndex(missing)] }],
            ..Report::default()
        };
        let passed = |stream: u16, entries| Report { passed: vec![(StreamId(stream), Sequence(1)); entries], ..Report::default() };
        let completed = |first, count| Report { completed: vec![range(first, count)], ..Report::default() };
        for good in [deficit(4, 187, 186), passed(3, 1), completed(0, 5)] {
            assert_eq!(check(good.clone()), Ok(good));
        }
        let bad = [deficit(5, 1, 0), deficit(4, 188, 0), deficit(4, 1, 187), passed(2, 1), passed(3, 2), completed(4, 2), completed(10, 1)];
        for report in bad {
            assert!(check(report.clone()).is_err(), "{report:?}");
        }
    }
}
