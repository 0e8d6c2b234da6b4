//! The gRPC service: enrolment, manifests, and the door to attendance.

use super::attendance::attend;
use super::connection::Connection;
use super::descriptions;
use super::roster::Enrolment;
use super::session::ChunkSource;
use super::{Shared, is_group_name};
use crate::schedule::ReceiverId;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::ChunkId;
use wire::proto::v1::provision_server::Provision;
use wire::proto::{PROTOCOL_VERSION, v1};
use wire::report::ChunkRange;
use wire::session::SOURCE_SYMBOLS_MAX;

/// Host names have at most 253 bytes.
const NAME_BYTES_MAX: usize = 255;
/// Names of images in an error message; it travels in a header of limited size.
const IMAGES_LISTED_BYTES_MAX: usize = 2048;
/// Chunks that are read before the connection has room for them, of at most 256 KiB as packs are made: 2,000 receivers that fetch at once
/// hold 1 GB at worst.
const CHUNKS_AHEAD: usize = 2;
/// Chunks that single symbols are asked of in one call; a receiver is never told to fetch more at a time.
const SYMBOL_CHUNKS_MAX: usize = 256;
/// `listed`, `pace`, `streams` and one more can wait for a receiver to read them.
const OUTBOUND_MESSAGES: usize = 4;

/// The service, shared by all connections.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) shared: Arc<Shared>,
}

#[tonic::async_trait]
impl Provision for Service {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolReply>, Status> {
        let connection = connection_of(&request)?;
        if self.shared.is_stopping() {
            return Err(Status::unavailable("the sender is stopping"));
        }
        let request = request.into_inner();
        if request.protocol_version != PROTOCOL_VERSION {
            return Err(Status::failed_precondition(format!(
                "the sender speaks protocol version {PROTOCOL_VERSION}, the receiver version {}; install the same release of discus on both",
                request.protocol_version
            )));
        }
        let name = request.receiver_name;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(Status::invalid_argument("the receiver's name must have 1 to 255 bytes and no control characters"));
        }
        let group = request.group;
        if !group.is_empty() && !is_group_name(&group) {
            return Err(Status::invalid_argument("the receiver's group must have at most 255 bytes and no control characters"));
        }
        let Some(image) = self.shared.info.images.iter().position(|image| image.name == request.image) else {
            return Err(Status::not_found(format!("the sender has no image of that name; it serves: {}", self.images_listed())));
        };
        let enrolment = Enrolment {
            name,
            image,
            group: group.clone(),
            instance: request.instance,
            address: connection.address,
            connection: connection.number,
        };
        let receiver = self.shared.roster.enrol(enrolment);
        if let Some(earlier) = connection.enrol(receiver, image, group).filter(|&earlier| earlier != receiver) {
            self.shared.roster.forget_unlisted(earlier, connection.number);
        }
        let report_interval_us = *self.shared.pace.borrow();
        let (info, description) = (&self.shared.info, self.shared.descriptions.announced(&self.shared.info, image));
        Ok(Response::new(info.enrol_reply(receiver.0, &info.images[image], report_interval_us, description)))
    }

    type FetchManifestStream = ReceiverStream<Result<v1::ManifestPart, Status>>;

    async fn fetch_manifest(&self, request: Request<v1::ManifestRequest>) -> Result<Response<Self::FetchManifestStream>, Status> {
        let connection = connection_of(&request)?;
        let request = request.into_inner();
        let (_, image) = enrolled(&connection, Some(ReceiverId(request.receiver_id)))?;
        let (parts, reply) = mpsc::channel(1);
        tokio::spawn(descriptions::answer(self.shared.clone(), image, request, parts));
        Ok(Response::new(ReceiverStream::new(reply)))
    }

    type FetchChunksStream = ReceiverStream<Result<v1::ChunkPart, Status>>;

    async fn fetch_chunks(&self, request: Request<v1::ChunkRequest>) -> Result<Response<Self::FetchChunksStream>, Status> {
        let connection = connection_of(&request)?;
        let request = request.into_inner();
        let (_, image) = enrolled(&connection, Some(ReceiverId(request.receiver_id)))?;
        let Some(source) = self.shared.info.chunk_source.clone() else {
            return Err(Status::unavailable("this sender sends nothing by unicast"));
        };
        let chunks = ChunkRange::checked(&request.chunks, self.shared.info.parameters.chunk_count)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Some(stray) = chunks.iter().find(|run| !self.shared.images[image].contains(**run)) {
            return Err(Status::invalid_argument(format!("chunk {} is not of its image", stray.first)));
        }
        let symbols = self.checked_symbols(&request.symbols, image)?;
        let whole = chunks.into_iter().flat_map(ChunkRange::chunks).map(|chunk| (chunk, Vec::new()));
        let wanted = whole.chain(symbols).collect();
        let (parts, reply) = mpsc::channel(CHUNKS_AHEAD);
        tokio::spawn(send_chunks(source, wanted, self.shared.info.parameters.symbol_bytes.into(), parts));
        Ok(Response::new(ReceiverStream::new(reply)))
    }

    type AttendStream = ReceiverStream<Result<v1::SenderMessage, Status>>;

    async fn attend(&self, request: Request<Streaming<v1::ReceiverMessage>>) -> Result<Response<Self::AttendStream>, Status> {
        let connection = connection_of(&request)?;
        enrolled(&connection, None)?;
        let (outbound, messages) = mpsc::channel(OUTBOUND_MESSAGES);
        // A task of its own: what a receiver said is passed on even when its connection is gone by then.
        tokio::spawn(attend(self.shared.clone(), connection, request.into_inner(), outbound));
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

/// A chunk and the source symbols of it that are wanted; none: the whole chunk.
type Wanted = (ChunkId, Vec<u32>);

/// Reads chunks as fast as the receiver takes them, until it hangs up.
async fn send_chunks(
    source: Arc<dyn ChunkSource>,
    wanted: Vec<Wanted>,
    symbol_bytes: usize,
    parts: mpsc::Sender<Result<v1::ChunkPart, Status>>,
) {
    for (chunk, symbol) in wanted {
        let source = source.clone();
        let part = match tokio::task::spawn_blocking(move || source.stored(chunk)).await {
            Ok(Ok(stored)) if symbol.is_empty() => Ok(v1::ChunkPart { chunk: chunk.0, stored, symbol }),
            Ok(Ok(stored)) => match symbols_of(&stored, &symbol, symbol_bytes) {
                Some(stored) => Ok(v1::ChunkPart { chunk: chunk.0, stored, symbol }),
                None => Err(Status::invalid_argument(format!("chunk {chunk} has fewer symbols"))),
            },
            Ok(Err(why)) => Err(Status::data_loss(why)),
            Err(_) => Err(Status::internal("the thread that reads chunks ended")),
        };
        let last = part.is_err();
        if parts.send(part).await.is_err() || last {
            return;
        }
    }
}

/// These source symbols of a chunk, one after the other, as packets carry them. `None` when it has fewer.
fn symbols_of(stored: &[u8], symbols: &[u32], symbol_bytes: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(symbols.len() * symbol_bytes);
    for &symbol in symbols {
        let start = usize::try_from(symbol).ok()?.checked_mul(symbol_bytes).filter(|&start| start < stored.len())?;
        bytes.extend_from_slice(&stored[start..stored.len().min(start + symbol_bytes)]);
        bytes.resize(bytes.len().next_multiple_of(symbol_bytes), 0);
    }
    Some(bytes)
}

impl Service {
    /// Single symbols that a receiver of `image` asks for.
    fn checked_symbols(&self, requested: &[v1::ChunkSymbols], image: usize) -> Result<Vec<Wanted>, Status> {
        if requested.len() > SYMBOL_CHUNKS_MAX {
            return Err(Status::invalid_argument(format!("symbols of more than {SYMBOL_CHUNKS_MAX} chunks at once")));
        }
        let checked = |of_chunk: &v1::ChunkSymbols| {
            let run = ChunkRange { first: ChunkId(of_chunk.chunk), count: 1 };
            let ascending = of_chunk.symbol.is_sorted_by(|first, second| first < second);
            let in_range = (1..=SOURCE_SYMBOLS_MAX).contains(&of_chunk.symbol.len());
            if !self.shared.images[image].contains(run) || !ascending || !in_range {
                return Err(Status::invalid_argument(format!("symbols of chunk {} that cannot be asked for", of_chunk.chunk)));
            }
            Ok((run.first, of_chunk.symbol.clone()))
        };
        requested.iter().map(checked).collect()
    }

    fn images_listed(&self) -> String {
        let mut list = String::new();
        for image in &self.shared.info.images {
            if list.len() + image.name.len() > IMAGES_LISTED_BYTES_MAX {
                list.push_str(", …");
                break;
            }
            if !list.is_empty() {
                list.push_str(", ");
            }
            list.push_str(&image.name);
        }
        list
    }
}

fn connection_of<T>(request: &Request<T>) -> Result<Arc<Connection>, Status> {
    request.extensions().get::<Arc<Connection>>().cloned().ok_or_else(|| Status::internal("call without a connection"))
}

/// The receiver that enrolled on this connection, provided that it is the one that the call names.
fn enrolled(connection: &Connection, named: Option<ReceiverId>) -> Result<(ReceiverId, usize), Status> {
    connection
        .enrolled()
        .map(|(receiver, image, _)| (receiver, image))
        .filter(|(receiver, _)| named.is_none_or(|named| named == *receiver))
        .ok_or_else(|| Status::failed_precondition("enrol on this connection first"))
}
