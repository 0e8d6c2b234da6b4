//! One control connection, from TCP to the acknowledgement of its completion: the real protocol, spoken for a receiver without a data plane.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use receiver::control::channel;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{RwLock, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use wire::proto::v1::provision_client::ProvisionClient;
use wire::proto::v1::{self, receiver_message, sender_message};
use wire::proto::{MESSAGE_BYTES_MAX, PROTOCOL_VERSION};

use super::digest::Digest;
use super::holding::Holding;
use crate::sim::Random;

/// Thousands at once on the cores of one machine: far above what a receiver would wait for an answer.
const ENROL_TIMEOUT: Duration = Duration::from_secs(300);

/// What all connections share.
pub(super) struct Shared {
    pub(super) server: SocketAddr,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) image: String,
    pub(super) loss: f64,
    pub(super) seed: u64,
    /// What would have been multicast so far.
    pub(super) digests: RwLock<Vec<Digest>>,
    pub(super) listed: AtomicUsize,
    pub(super) complete: AtomicUsize,
    pub(super) acknowledged: AtomicUsize,
    pub(super) reports: AtomicU64,
    pub(super) report_entries: AtomicU64,
}

/// Lives through the whole life of receiver number `index`.
///
/// # Errors
/// When the sender does not answer as it should.
pub(super) async fn live(shared: Arc<Shared>, index: usize) -> Result<()> {
    timeout(ENROL_TIMEOUT, Attendance::begin(&shared, index))
        .await
        .map_err(|_| anyhow!("not listed within {ENROL_TIMEOUT:?}"))??
        .run()
        .await
}

struct Attendance<'a> {
    shared: &'a Shared,
    holding: Holding,
    random: Random,
    outbound: mpsc::Sender<v1::ReceiverMessage>,
    inbound: Streaming<v1::SenderMessage>,
    interval: Duration,
    /// Digests that were looked at.
    read: usize,
    began: Instant,
}

impl<'a> Attendance<'a> {
    /// Enrols, fetches the manifest and says what is wanted, until it is listed.
    async fn begin(shared: &'a Shared, index: usize) -> Result<Attendance<'a>> {
        let mut client = ProvisionClient::new(connect(shared).await?)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let mut random = Random::new(shared.seed ^ ((index as u64) << 32));
        let request = v1::EnrolRequest {
            protocol_version: PROTOCOL_VERSION,
            receiver_name: format!("node-{index}"),
            image: shared.image.clone(),
            instance: random.bits(),
            group: String::new(),
        };
        let reply = client.enrol(request).await.context("enrolling")?.into_inner();
        let mut parts = client
            .fetch_manifest(v1::ManifestRequest { receiver_id: reply.receiver_id, ..v1::ManifestRequest::default() })
            .await?
            .into_inner();
        let mut manifest_bytes = 0;
        while let Some(part) = parts.message().await.context("fetching the manifest")? {
            manifest_bytes += part.data.len() as u64;
        }
        ensure!(manifest_bytes == reply.manifest_bytes, "a manifest of {manifest_bytes} bytes instead of {}", reply.manifest_bytes);

        let (outbound, messages) = mpsc::channel(64);
        let want = vec![v1::ChunkRange { first: 0, count: reply.chunk_count }];
        let ready = v1::Ready { receiver_id: reply.receiver_id, want, ..Default::default() };
        outbound.send(v1::ReceiverMessage { message: Some(receiver_message::Message::Ready(ready)) }).await?;
        let mut inbound = client.attend(ReceiverStream::new(messages)).await.context("attending")?.into_inner();
        match inbound.message().await?.and_then(|message| message.message) {
            Some(sender_message::Message::Listed(_)) => {}
            other => bail!("{other:?} instead of being listed"),
        }
        shared.listed.fetch_add(1, Ordering::Relaxed);
        Ok(Attendance {
            shared,
            holding: Holding::new(reply.chunk_count, shared.loss, random.fork()),
            random,
            outbound,
            inbound,
            interval: Duration::from_micros(reply.report_interval_us.into()),
            read: 0,
            began: Instant::now(),
        })
    }

    /// Reports at the sender's pace, completes, and waits for the acknowledgement.
    async fn run(mut self) -> Result<()> {
        // The first one anywhere in the interval, as receivers do.
        let mut report_at = Instant::now() + self.interval.mul_f64(self.random.below(1000) as f64 / 1000.0);
        loop {
            tokio::select! {
                message = self.inbound.message() => match message?.ok_or_else(|| anyhow!("the sender ended the attendance"))?.message {
                    Some(sender_message::Message::Acknowledged(_)) => {
                        self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                        return Ok(());
                    }
                    Some(sender_message::Message::Pace(pace)) => self.interval = Duration::from_micros(pace.report_interval_us.into()),
                    Some(sender_message::Message::Dismissed(dismissed)) => bail!("dismissed: {}", dismissed.reason),
                    _ => {}
                },
                () = sleep_until(report_at), if !self.holding.is_complete() => {
                    self.report().await?;
                    // Three to five quarters of the interval.
                    report_at = Instant::now() + self.interval.mul_f64(0.75 + self.random.below(500) as f64 / 1000.0);
                }
            }
        }
    }

    async fn report(&mut self) -> Result<()> {
        {
            let digests = self.shared.digests.read().await;
            while let Some(digest) = digests.get(self.read).filter(|_| !self.holding.is_full()) {
                self.holding.take(digest);
                self.read += 1;
            }
        }
        if let Some(report) = self.holding.report() {
            self.shared.reports.fetch_add(1, Ordering::Relaxed);
            self.shared.report_entries.fetch_add(report.deficits.len() as u64, Ordering::Relaxed);
            self.say(receiver_message::Message::Report(v1::Report::from(&report))).await?;
        }
        if self.holding.is_complete() {
            self.shared.complete.fetch_add(1, Ordering::Relaxed);
            let duration_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.say(receiver_message::Message::Complete(v1::Complete { image_bytes: 0, duration_ms })).await?;
        }
        Ok(())
    }

    async fn say(&self, message: receiver_message::Message) -> Result<()> {
        self.outbound.send(v1::ReceiverMessage { message: Some(message) }).await.context("the connection takes no more messages")
    }
}

/// TCP, TLS and HTTP/2, as a receiver sets them up.
async fn connect(shared: &Shared) -> Result<Channel> {
    let stream = TcpStream::connect(shared.server).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("discus")?;
    let stream = TlsConnector::from(Arc::clone(&shared.tls)).connect(name, stream).await.context("TLS handshake")?;
    channel(stream).await.context("HTTP/2")
}
