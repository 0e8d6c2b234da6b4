//! The gRPC service: enrolment, manifests, and the door to attendance.

use super::attendance::attend;
use super::connection::Connection;
use super::roster::Enrolment;
use super::session::ChunkSource;
use super::{Shared, is_group_name};
use crate::schedule::ReceiverId;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::proto::v1::provision_server::Provision;
use wire::proto::{PROTOCOL_VERSION, v1};
use wire::report::ChunkRange;

/// A manifest goes out in parts of this size. A part is made when the connection has room for it, so a slow receiver holds about
/// three of them in memory: 2,000 receivers that fetch at once hold 400 MB at worst.
const MANIFEST_PART_BYTES: usize = 64 * 1024;
/// Host names have at most 253 bytes.
const NAME_BYTES_MAX: usize = 255;
/// Names of images in an error message; it travels in a header of limited size.
const IMAGES_LISTED_BYTES_MAX: usize = 2048;
/// Chunks that are read before the connection has room for them, of at most 256 KiB as packs are made: 2,000 receivers that fetch at once
/// hold 1 GB at worst.
const CHUNKS_AHEAD: usize = 2;
/// `listed`, `pace`, `streams` and one more can wait for a receiver to read them.
const OUTBOUND_MESSAGES: usize = 4;

type Parts<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

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
        Ok(Response::new(self.shared.info.enrol_reply(receiver.0, &self.shared.info.images[image], report_interval_us)))
    }

    type FetchManifestStream = Parts<v1::ManifestPart>;

    async fn fetch_manifest(&self, request: Request<v1::ManifestRequest>) -> Result<Response<Self::FetchManifestStream>, Status> {
        let connection = connection_of(&request)?;
        let (_, image) = enrolled(&connection, Some(ReceiverId(request.into_inner().receiver_id)))?;
        let shared = self.shared.clone();
        let bytes = (shared.info.images[image].manifest.len(), shared.info.proof.len());
        let starts = |bytes| (0..bytes).step_by(MANIFEST_PART_BYTES);
        let part = |bytes: &[u8], start| bytes[start..bytes.len().min(start + MANIFEST_PART_BYTES)].to_vec();
        let of_proof = shared.clone();
        let manifest =
            starts(bytes.0).map(move |at| v1::ManifestPart { data: part(&shared.info.images[image].manifest, at), proof: Vec::new() });
        let proof = starts(bytes.1).map(move |at| v1::ManifestPart { data: Vec::new(), proof: part(&of_proof.info.proof, at) });
        Ok(Response::new(Box::pin(tokio_stream::iter(manifest.chain(proof).map(Ok)))))
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
        let (parts, reply) = mpsc::channel(CHUNKS_AHEAD);
        tokio::spawn(send_chunks(source, chunks, parts));
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

/// Reads chunks as fast as the receiver takes them, until it hangs up.
async fn send_chunks(source: Arc<dyn ChunkSource>, chunks: Vec<ChunkRange>, parts: mpsc::Sender<Result<v1::ChunkPart, Status>>) {
    for chunk in chunks.into_iter().flat_map(ChunkRange::chunks) {
        let source = source.clone();
        let part = match tokio::task::spawn_blocking(move || source.stored(chunk)).await {
            Ok(Ok(stored)) => Ok(v1::ChunkPart { chunk: chunk.0, stored }),
            Ok(Err(why)) => Err(Status::data_loss(why)),
            Err(_) => Err(Status::internal("the thread that reads chunks ended")),
        };
        let last = part.is_err();
        if parts.send(part).await.is_err() || last {
            return;
        }
    }
}

impl Service {
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
