//! The manifest of the enrolled image, and the proof of a signed pack: over the connection, or from the descriptive stream when the sender
//! says that it comes there, in which case only what was lost of it comes over the connection.

use super::connect::{ANSWER_TIMEOUT, AttemptError, Connection, Connector};
use crate::intake;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};
use tonic::Streaming;
use wire::description::{Gathering, Shape};
use wire::proto::v1::{self, manifest_part::Multicast};

/// Packets that left before the sender said so may still be on their way, in switches and in the socket.
const STRAGGLING: Duration = Duration::from_millis(50);

/// The descriptive stream, as the sender announced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) group: SocketAddr,
    /// BLAKE3 of the manifest and the proof behind it.
    pub(super) hash: [u8; 32],
}

type Parts = Streaming<v1::ManifestPart>;

/// Manifest and proof, one behind the other.
struct Description {
    bytes: Vec<u8>,
    by_multicast: bool,
}

impl Connector {
    /// Fetches the manifest, and the proof if there is one, into `connection.enrolled`; `interface_index` says where multicast is
    /// listened for, if at all.
    pub(super) async fn fetch_manifest(&self, connection: &mut Connection, interface_index: Option<u32>) -> Result<(), AttemptError> {
        let listening = interface_index.zip(connection.announced).and_then(|(interface_index, announced)| {
            let shape = Shape::new(&announced.hash, connection.description_bytes(), &connection.enrolled.parameters)?;
            match listen(interface_index, announced.group) {
                Ok(socket) => Some(Listening { socket, gathering: Gathering::new(shape), hash: announced.hash }),
                Err(error) => {
                    tracing::debug!(%error, group = %announced.group, "cannot listen to the descriptive stream");
                    None
                }
            }
        });
        let description = match listening {
            Some(listening) => self.receive_description(connection, listening).await?,
            None => self.all_by_unicast(connection).await?,
        };
        let mut manifest = description.bytes;
        let proof = manifest.split_off(connection.manifest_bytes as usize);
        (connection.enrolled.manifest, connection.enrolled.proof) = (manifest, proof);
        connection.enrolled.manifest_by_multicast = description.by_multicast;
        Ok(())
    }

    async fn request(&self, connection: &mut Connection, multicast: bool, block: Vec<u32>) -> Result<Parts, AttemptError> {
        let request = v1::ManifestRequest { receiver_id: connection.receiver_id, multicast, block };
        let answer = timeout(ANSWER_TIMEOUT, connection.client.fetch_manifest(request)).await.map_err(|_| silent())?;
        Ok(answer.map_err(|status| self.refusal(&status))?.into_inner())
    }

    async fn next(&self, parts: &mut Parts) -> Result<Option<v1::ManifestPart>, AttemptError> {
        timeout(ANSWER_TIMEOUT, parts.message()).await.map_err(|_| silent())?.map_err(|status| self.refusal(&status))
    }

    async fn all_by_unicast(&self, connection: &mut Connection) -> Result<Description, AttemptError> {
        let mut parts = self.request(connection, false, Vec::new()).await?;
        let first = self.next(&mut parts).await?;
        self.rest_by_unicast(connection, parts, first).await
    }

    /// What comes over the connection, `first` and all that follows.
    async fn rest_by_unicast(
        &self,
        connection: &Connection,
        mut parts: Parts,
        first: Option<v1::ManifestPart>,
    ) -> Result<Description, AttemptError> {
        let (mut manifest, mut proof) = (Vec::new(), Vec::new());
        let mut next = first;
        while let Some(part) = next {
            manifest.extend_from_slice(&part.data);
            proof.extend_from_slice(&part.proof);
            if manifest.len() as u64 > connection.manifest_bytes || proof.len() as u64 > connection.proof_bytes {
                break;
            }
            next = self.next(&mut parts).await?;
        }
        for (what, bytes, announced) in [("manifest", &manifest, connection.manifest_bytes), ("proof", &proof, connection.proof_bytes)] {
            if bytes.len() as u64 != announced {
                return Err(self.unusable(format!("a {what} of {} bytes, announced were {announced}", bytes.len())));
            }
        }
        manifest.extend_from_slice(&proof);
        Ok(Description { bytes: manifest, by_multicast: false })
    }

    /// Asks, takes packets until all is there or the sender says that it has sent all, then asks for what is lacking.
    async fn receive_description(&self, connection: &mut Connection, mut listening: Listening) -> Result<Description, AttemptError> {
        let mut parts = self.request(connection, true, Vec::new()).await?;
        let mut packet = vec![0; wire::packet::HEADER_BYTES + usize::from(connection.enrolled.parameters.symbol_bytes)];
        while !listening.gathering.is_whole() {
            // In any order: a flood of strangers' packets must not keep the sender from being heard.
            tokio::select! {
                () = listening.take_one(&mut packet) => {}
                part = self.next(&mut parts) => match part? {
                    Some(part) if part.multicast() == Multicast::GoesOn => {}
                    Some(part) if part.multicast() == Multicast::Ended => break,
                    // It has decided to send it over the connection.
                    first => return self.rest_by_unicast(connection, parts, first).await,
                },
            }
        }
        drop(parts);
        while !listening.gathering.is_whole() {
            tokio::select! {
                () = listening.take_one(&mut packet) => {}
                () = sleep(STRAGGLING) => break,
            }
        }
        let Listening { mut gathering, hash, .. } = listening;
        let lacking = gathering.lacking();
        // A block at least.
        let by_multicast = lacking.len() < gathering.block_count() as usize;
        if !lacking.is_empty() {
            let mut parts = self.request(connection, false, lacking).await?;
            while let Some(part) = self.next(&mut parts).await? {
                if !part.block.is_some_and(|block| gathering.supply(block, part.data)) {
                    return Err(self.unusable("a block of the manifest that was not asked for".to_owned()));
                }
            }
        }
        match gathering.into_description() {
            Some(bytes) if *blake3::hash(&bytes).as_bytes() == hash => Ok(Description { bytes, by_multicast }),
            _ => {
                tracing::warn!("the manifest that came by multicast is not the sender's; fetching it over the connection");
                self.all_by_unicast(connection).await
            }
        }
    }
}

fn silent() -> AttemptError {
    AttemptError::Passing("it does not send the manifest".to_owned())
}

/// A member of the descriptive stream's group, and what it has heard.
struct Listening {
    socket: UdpSocket,
    gathering: Gathering,
    hash: [u8; 32],
}

impl Listening {
    /// Waits for one packet that is of use.
    async fn take_one(&mut self, packet: &mut [u8]) {
        loop {
            match self.socket.recv(packet).await {
                Ok(bytes) if self.gathering.on_payload(&packet[..bytes]) => return,
                Ok(_) => {}
                // The interface was down for a moment; what is lost is fetched.
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

fn listen(interface_index: u32, group: SocketAddr) -> std::io::Result<UdpSocket> {
    UdpSocket::from_std(intake::group_socket(interface_index, group)?.into())
}
