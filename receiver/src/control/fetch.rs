//! Chunks over the control connection, for a receiver or for chunks that multicast does not reach.

use std::error::Error;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Channel;
use wire::proto::v1::{self, provision_client::ProvisionClient};
use wire::report::ChunkRange;
use wire::{ChunkId, SymbolIndex};

use super::Fetched;

/// Chunks that wait for the engine to have room for them. Of 256 KiB each, beside the 2 MiB that the connection itself takes ahead.
pub(super) const CHUNKS_AHEAD: usize = 4;
/// Within which the next chunk must come: the sender reads it from a disk.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(20);
/// What a message has beside the chunk's bytes: two tags, two lengths and the number.
const PART_OVERHEAD_BYTES: usize = 64;

/// What is to be fetched.
pub(super) struct Call {
    pub(super) number: u32,
    pub(super) chunks: Vec<ChunkRange>,
    pub(super) symbols: Vec<(ChunkId, Vec<SymbolIndex>)>,
}

/// Makes the calls, one after the other, as fast as what comes is taken. Returns only when the connection is of no use any more, and says why.
pub(super) async fn serve(
    client: ProvisionClient<Channel>,
    receiver_id: u64,
    chunk_bytes_max: u32,
    mut calls: mpsc::UnboundedReceiver<Call>,
    fetched: mpsc::Sender<Fetched>,
) -> String {
    let mut client = client.max_decoding_message_size(chunk_bytes_max as usize + PART_OVERHEAD_BYTES);
    while let Some(call) = calls.recv().await {
        let number = call.number;
        let outcome = match fetch(&mut client, receiver_id, call, &fetched).await {
            Ok(()) => Ok(()),
            Err(Failure::Sender(reason)) => Err(reason),
            Err(Failure::Connection(reason)) => return reason,
        };
        if fetched.send(Fetched::Ended { call: number, outcome }).await.is_err() {
            break;
        }
    }
    // Nobody asks, or listens, any more: the owner is closing the link.
    std::future::pending().await
}

enum Failure {
    /// The sender answered that it cannot.
    Sender(String),
    /// The connection broke, or went silent.
    Connection(String),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        match status.source() {
            None => Failure::Sender(status.message().to_owned()),
            Some(_) => Failure::Connection("the connection broke while chunks were fetched".to_owned()),
        }
    }
}

async fn fetch(
    client: &mut ProvisionClient<Channel>,
    receiver_id: u64,
    call: Call,
    fetched: &mpsc::Sender<Fetched>,
) -> Result<(), Failure> {
    let too_slow = |_| Failure::Connection(format!("it sent no chunk for {} s", CHUNK_TIMEOUT.as_secs()));
    let Call { chunks, symbols, .. } = call;
    let parts_asked_for = chunks.iter().fold(symbols.len(), |sum, run| sum.saturating_add(run.count as usize));
    let of_chunk = |(chunk, symbols): (ChunkId, Vec<SymbolIndex>)| {
        let symbol = symbols.into_iter().map(|symbol| symbol.0.into()).collect();
        v1::ChunkSymbols { chunk: chunk.0, symbol }
    };
    let request = v1::ChunkRequest {
        receiver_id,
        chunks: chunks.into_iter().map(v1::ChunkRange::from).collect(),
        symbols: symbols.into_iter().map(of_chunk).collect(),
    };
    let mut parts = timeout(CHUNK_TIMEOUT, client.fetch_chunks(request)).await.map_err(too_slow)??.into_inner();
    // Not one more than were asked for, whatever the sender sends.
    for _ in 0..parts_asked_for {
        let part = timeout(CHUNK_TIMEOUT, parts.message()).await.map_err(too_slow)??;
        let Some(v1::ChunkPart { chunk, stored, symbol }) = part else {
            return Err(Failure::Sender("it left out chunks that it was asked for".to_owned()));
        };
        // It waits here when the engine has no room. Without an engine there is nobody to tell.
        let chunk = ChunkId(chunk);
        let part = if symbol.is_empty() {
            Fetched::Chunk { chunk, stored }
        } else {
            // A number that is too large names no symbol either.
            let symbols = symbol.into_iter().map(|symbol| SymbolIndex(u16::try_from(symbol).unwrap_or(u16::MAX))).collect();
            Fetched::Symbols { chunk, symbols, bytes: stored }
        };
        let _ = fetched.send(part).await;
    }
    Ok(())
}
