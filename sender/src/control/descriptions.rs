//! Descriptions (a manifest, and the proof of a signed pack behind it) multicast once to all who wait for the same; see
//! [`wire::description`].
//!
//! Requests for one image's description are gathered until no more come for a moment, and while another description is on its way. What is wanted by fewer
//! than [`RECEIVERS_MIN`] by then goes to each over its own connection. A receiver that came too late for the first packets waits for the
//! next time; one that lost packets asks for the blocks that it lacks.

use super::session::SessionInfo;
use super::{ControlEvent, Shared};
use crate::transmit::{LINK_OVERHEAD_BYTES, frame_bytes};
use crossbeam_channel::{Sender, TrySendError};
use serde::Serialize;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval_at, sleep, sleep_until};
use tonic::Status;
use wire::Sequence;
use wire::description::{Packets, Shape};
use wire::proto::v1::{self, manifest_part::Multicast};

/// A part is made when the connection has room for it, so a slow receiver holds about three of them in memory: 2,000 receivers that
/// fetch at once hold 400 MB at worst.
const PART_BYTES: usize = 64 * 1024;
/// How long [`DescriptiveStream::gather`] is as a rule: what one machine of a rack is behind the one before it, and too short to be felt.
pub const GATHER: Duration = Duration::from_millis(20);
/// While requests keep coming they are gathered for this many times `gather` at most, so that the first does not wait for long.
const GATHER_TIMES_MAX: u32 = 10;
/// The last to ask has joined the group just before: its switch may not know yet.
const SETTLE: Duration = Duration::from_millis(10);
/// Two save little; the third makes up for the packets that only switches see and for the repair symbols.
const RECEIVERS_MIN: usize = 3;
/// Nobody waits for descriptions while chunks are sent, so they take a tenth of what the operator allows, and no more than any link has. The streams leave
/// them that much.
const RATE_SHARE: u64 = 10;
/// A description has ended within minutes where the cap is low, if half of the cap is so much.
const RATE_MIN_BITS_PER_SECOND: u64 = 1_000_000;
const RATE_MAX_BITS_PER_SECOND: u64 = 100_000_000;
/// How long to wait when the engine has more events than it can take.
const ENGINE_BEHIND: Duration = Duration::from_millis(5);
/// The receiver gives up a sender that says nothing for longer.
const GOES_ON_INTERVAL: Duration = Duration::from_secs(1);

/// Where descriptions are multicast.
#[derive(Debug)]
pub struct DescriptiveStream {
    /// Group and UDP port.
    pub group: SocketAddr,
    /// The address that its packets come from.
    pub source: IpAddr,
    /// Connected to the group.
    pub socket: std::net::UdpSocket,
    /// A description is sent when nobody has asked for it for so long; see [`GATHER`].
    pub gather: Duration,
}

/// How manifests have been sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ManifestCounts {
    /// Over receivers' own connections.
    pub by_unicast: u64,
    /// Times that one was multicast.
    pub multicasts: u64,
    /// Receivers that waited for these.
    pub by_multicast: u64,
    /// Blocks that receivers of a multicast lacked and fetched.
    pub blocks_fetched: u64,
}

/// A description that is being gathered for, sent, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Gathering,
    Sending,
    Ended,
    /// Everybody gets it over the own connection.
    Unicast,
}

pub(super) struct Descriptions {
    /// BLAKE3 of each image's description, by the image's index.
    hashes: Vec<[u8; 32]>,
    socket: Option<UdpSocket>,
    gather: Duration,
    /// By image: who asks now joins these.
    gathering: Mutex<HashMap<usize, watch::Receiver<Phase>>>,
    /// Held while one is sent: together they keep to the rate.
    sending: tokio::sync::Mutex<()>,
    sequence: AtomicU32,
    events: Sender<ControlEvent>,
    by_unicast: AtomicU64,
    multicasts: AtomicU64,
    by_multicast: AtomicU64,
    blocks_fetched: AtomicU64,
}

impl Descriptions {
    /// Within a tokio runtime.
    pub(super) fn new(info: &SessionInfo, events: Sender<ControlEvent>) -> io::Result<Descriptions> {
        let socket = |stream: &Arc<DescriptiveStream>| {
            stream.socket.set_nonblocking(true)?;
            UdpSocket::from_std(stream.socket.try_clone()?)
        };
        let hash = |manifest: &Vec<u8>| *blake3::Hasher::new().update(manifest).update(&info.proof).finalize().as_bytes();
        Ok(Descriptions {
            hashes: info.images.iter().map(|image| hash(&image.manifest)).collect(),
            socket: info.descriptive.as_ref().map(socket).transpose()?,
            gather: info.descriptive.as_ref().map_or(GATHER, |stream| stream.gather),
            gathering: Mutex::default(),
            sending: tokio::sync::Mutex::default(),
            sequence: AtomicU32::new(0),
            events,
            by_unicast: AtomicU64::new(0),
            multicasts: AtomicU64::new(0),
            by_multicast: AtomicU64::new(0),
            blocks_fetched: AtomicU64::new(0),
        })
    }

    pub(super) fn counts(&self) -> ManifestCounts {
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        ManifestCounts {
            by_unicast: read(&self.by_unicast),
            multicasts: read(&self.multicasts),
            by_multicast: read(&self.by_multicast),
            blocks_fetched: read(&self.blocks_fetched),
        }
    }

    /// What an enrolled receiver of `image` is told of the descriptive stream.
    pub(super) fn announced(&self, info: &SessionInfo, image: usize) -> Option<v1::Description> {
        let stream = info.descriptive.as_ref()?;
        shape(info, self.hashes.get(image)?, image)?;
        Some(v1::Description { group: stream.group.to_string(), source: stream.source.to_string(), hash: self.hashes.get(image)?.to_vec() })
    }

    /// The streams are to leave so much of the cap to descriptions from now on. It is not lost when the engine is behind.
    async fn reserve(&self, bits_per_second: u64) {
        while let Err(TrySendError::Full(_)) = self.events.try_send(ControlEvent::Describing { bits_per_second }) {
            sleep(ENGINE_BEHIND).await;
        }
    }

    fn gathering(&self) -> MutexGuard<'_, HashMap<usize, watch::Receiver<Phase>>> {
        // Entries come and go whole.
        self.gathering.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None` when the description cannot be multicast.
fn shape(info: &SessionInfo, hash: &[u8; 32], image: usize) -> Option<Shape> {
    Shape::new(hash, info.images.get(image)?.manifest.len() + info.proof.len(), &info.parameters)
}

/// Answers one request for a manifest, as fast as the receiver takes it, until it hangs up.
pub(super) async fn answer(
    shared: Arc<Shared>,
    image: usize,
    request: v1::ManifestRequest,
    parts: mpsc::Sender<Result<v1::ManifestPart, Status>>,
) {
    // Who hangs up wants no more: nothing is lost.
    let _ = if !request.block.is_empty() {
        send_blocks(&shared, image, &request.block, &parts).await
    } else if request.multicast && shared.descriptions.socket.is_some() {
        await_multicast(&shared, image, &parts).await
    } else {
        send_all(&shared, image, &parts).await
    };
}

/// The receiver wants no more.
struct HungUp;

type PartSender = mpsc::Sender<Result<v1::ManifestPart, Status>>;

async fn send(parts: &PartSender, part: Result<v1::ManifestPart, Status>) -> Result<(), HungUp> {
    parts.send(part).await.map_err(|_| HungUp)
}

async fn send_all(shared: &Shared, image: usize, parts: &PartSender) -> Result<(), HungUp> {
    shared.descriptions.by_unicast.fetch_add(1, Ordering::Relaxed);
    for bytes in shared.info.images[image].manifest.chunks(PART_BYTES) {
        send(parts, Ok(v1::ManifestPart { data: bytes.to_vec(), ..v1::ManifestPart::default() })).await?;
    }
    for bytes in shared.info.proof.chunks(PART_BYTES) {
        send(parts, Ok(v1::ManifestPart { proof: bytes.to_vec(), ..v1::ManifestPart::default() })).await?;
    }
    Ok(())
}

/// Single blocks, for one who has the others.
async fn send_blocks(shared: &Shared, image: usize, blocks: &[u32], parts: &PartSender) -> Result<(), HungUp> {
    let refused = |why: &str| Err(Status::invalid_argument(why.to_owned()));
    let Some(shape) = shape(&shared.info, &shared.descriptions.hashes[image], image) else {
        return send(parts, refused("this image's manifest has no blocks")).await;
    };
    if !blocks.is_sorted_by(|first, second| first < second) || blocks.last().is_some_and(|last| *last >= shape.block_count()) {
        return send(parts, refused("blocks that the manifest does not have, or not ascending")).await;
    }
    let (manifest, proof) = (&shared.info.images[image].manifest, &shared.info.proof);
    for &block in blocks {
        shared.descriptions.blocks_fetched.fetch_add(1, Ordering::Relaxed);
        let range = shape.block(block);
        // The proof stands behind the manifest.
        let of_manifest = &manifest[range.start.min(manifest.len())..range.end.min(manifest.len())];
        let of_proof = &proof[range.start.saturating_sub(manifest.len())..range.end.saturating_sub(manifest.len())];
        let data = [of_manifest, of_proof].concat();
        send(parts, Ok(v1::ManifestPart { data, block: Some(block), ..v1::ManifestPart::default() })).await?;
    }
    Ok(())
}

/// Says what happens to the description that this receiver waits for together with others.
async fn await_multicast(shared: &Arc<Shared>, image: usize, parts: &PartSender) -> Result<(), HungUp> {
    let say = |multicast: Multicast| Ok(v1::ManifestPart { multicast: multicast.into(), ..v1::ManifestPart::default() });
    let mut phase = join(shared, image);
    let mut goes_on = interval_at(Instant::now() + GOES_ON_INTERVAL, GOES_ON_INTERVAL);
    loop {
        let now = *phase.borrow_and_update();
        match now {
            Phase::Gathering => {}
            Phase::Sending => send(parts, say(Multicast::GoesOn)).await?,
            Phase::Ended => return send(parts, say(Multicast::Ended)).await,
            Phase::Unicast => return send_all(shared, image, parts).await,
        }
        tokio::select! {
            changed = phase.changed() => if changed.is_err() {
                // Whoever sent it ended with the server's runtime.
                return send(parts, Err(Status::unavailable("the sender is stopping"))).await;
            },
            _ = goes_on.tick() => send(parts, say(Multicast::GoesOn)).await?,
            // Who has all of it does not wait for the end.
            () = parts.closed() => return Err(HungUp),
        }
    }
}

/// Joins those who wait for the image's description, as the first of them if nobody does.
fn join(shared: &Arc<Shared>, image: usize) -> watch::Receiver<Phase> {
    let mut gathering = shared.descriptions.gathering();
    if let Some(phase) = gathering.get(&image) {
        return phase.clone();
    }
    let (phase, waiting) = watch::channel(Phase::Gathering);
    gathering.insert(image, waiting.clone());
    tokio::spawn(gather_and_send(Arc::clone(shared), image, phase));
    waiting
}

async fn gather_and_send(shared: Arc<Shared>, image: usize, phase: watch::Sender<Phase>) {
    let descriptions = &shared.descriptions;
    let deadline = Instant::now() + descriptions.gather * GATHER_TIMES_MAX;
    let mut asking = 0;
    while Instant::now() < deadline && phase.receiver_count() != asking {
        asking = phase.receiver_count();
        sleep(descriptions.gather).await;
    }
    let _turn = descriptions.sending.lock().await;
    let gathered = descriptions.gathering().remove(&image);
    // The list's own handle is not a receiver that waits.
    let waiting = phase.receiver_count() - usize::from(gathered.is_some());
    drop(gathered);
    if waiting < RECEIVERS_MIN {
        phase.send_replace(Phase::Unicast);
        return;
    }
    descriptions.reserve(rate_bits_per_second(&shared)).await;
    sleep(SETTLE).await;
    phase.send_replace(Phase::Sending);
    let outcome = multicast(&shared, image).await;
    descriptions.reserve(0).await;
    match outcome {
        Ok(()) => {
            descriptions.multicasts.fetch_add(1, Ordering::Relaxed);
            descriptions.by_multicast.fetch_add(waiting as u64, Ordering::Relaxed);
            phase.send_replace(Phase::Ended);
        }
        Err(error) => {
            tracing::warn!("a manifest could not be multicast ({error}); receivers get it over their connections");
            phase.send_replace(Phase::Unicast);
        }
    }
}

/// What descriptions may take now, frames and what is around them included.
fn rate_bits_per_second(shared: &Shared) -> u64 {
    let cap = shared.settings.current().rate_cap_bits_per_second;
    (cap / RATE_SHARE).clamp(RATE_MIN_BITS_PER_SECOND, RATE_MAX_BITS_PER_SECOND).min(cap / 2).max(1)
}

/// Sends all packets of a description once, evenly; the streams have made room for it.
async fn multicast(shared: &Shared, image: usize) -> io::Result<()> {
    let unusable = || io::Error::from(io::ErrorKind::Unsupported);
    let descriptions = &shared.descriptions;
    let (socket, shape) = descriptions.socket.as_ref().zip(shape(&shared.info, &descriptions.hashes[image], image)).ok_or_else(unusable)?;
    let description = [shared.info.images[image].manifest.as_slice(), &shared.info.proof].concat();
    let group = shared.info.descriptive.as_ref().ok_or_else(unusable)?.group.ip();
    let mut due = Instant::now();
    let mut reserved = rate_bits_per_second(shared);
    let mut packets = Packets::new(shape, &description, Sequence(descriptions.sequence.load(Ordering::Relaxed)));
    // Blocks are encoded one group at a time, some milliseconds of work at most.
    for packet in packets.by_ref() {
        sleep_until(due).await;
        match socket.send(&packet).await {
            Ok(_) => {}
            // A queue that is full for a moment loses one packet, as the network may.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(error) => return Err(error),
        }
        let rate = rate_bits_per_second(shared);
        if rate != reserved {
            descriptions.reserve(rate).await;
            reserved = rate;
        }
        let line_bits = (frame_bytes(group, packet.len()) + LINK_OVERHEAD_BYTES) as u64 * 8;
        due += Duration::from_nanos(line_bits * 1_000_000_000 / rate);
    }
    descriptions.sequence.store(packets.next_sequence().0, Ordering::Relaxed);
    Ok(())
}
