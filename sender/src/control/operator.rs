//! What the operator's tools read over HTTPS on the same port: `/status` as JSON, `/metrics` in Prometheus' text format.

use super::Shared;
use super::roster::{ReceiverState, RosterSnapshot};
use super::traffic::TrafficSnapshot;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use std::fmt::Write;
use std::sync::Arc;

/// The document of `/status`.
#[derive(Serialize)]
struct Status {
    discus_version: &'static str,
    session_id: u32,
    pack_root: String,
    images: Vec<ImageStatus>,
    receivers: Vec<super::ReceiverStatus>,
    traffic: TrafficSnapshot,
}

#[derive(Serialize)]
struct ImageStatus {
    name: String,
    chunks: u32,
    manifest_bytes: usize,
}

/// The operator's pages.
pub(super) fn pages(shared: Arc<Shared>) -> Router {
    Router::new().route("/status", get(status)).route("/metrics", get(metrics)).with_state(shared)
}

async fn status(State(shared): State<Arc<Shared>>) -> Response {
    let image = |(image, chunks): (&super::ImageInfo, &super::session::ChunkSet)| ImageStatus {
        name: image.name.clone(),
        chunks: chunks.chunk_count(),
        manifest_bytes: image.manifest.len(),
    };
    let document = Status {
        discus_version: env!("CARGO_PKG_VERSION"),
        session_id: shared.info.parameters.session.0,
        pack_root: shared.info.pack_root.iter().map(|byte| format!("{byte:02x}")).collect(),
        images: shared.info.images.iter().zip(&shared.images).map(image).collect(),
        receivers: shared.roster.snapshot().receivers,
        traffic: shared.traffic.snapshot(),
    };
    Json(document).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let text = prometheus(&shared.roster.snapshot(), &shared.traffic.snapshot());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

fn prometheus(roster: &RosterSnapshot, traffic: &TrafficSnapshot) -> String {
    let mut text = String::new();
    let states = [
        (ReceiverState::Enrolled, "enrolled"),
        (ReceiverState::Listed, "listed"),
        (ReceiverState::Completed, "completed"),
        (ReceiverState::Failed, "failed"),
        (ReceiverState::Lost, "lost"),
    ];
    let receivers = states.map(|(state, label)| (format!("{{state=\"{label}\"}}"), roster.count(state) as u64));
    let sum = |of: fn(&super::ReceiverStatus) -> u64| [(String::new(), roster.receivers.iter().map(of).sum::<u64>())];
    let plain = |value: u64| [(String::new(), value)];
    family(&mut text, "discus_receivers", "gauge", "Receivers by state.", &receivers);
    family(
        &mut text,
        "discus_chunks_remaining",
        "gauge",
        "Chunks that listed receivers have not yet reported as verified, summed over them.",
        &sum(|receiver| if receiver.state == ReceiverState::Listed { receiver.chunks_remaining.into() } else { 0 }),
    );
    let lost = |receiver: &super::ReceiverStatus| receiver.packets_sent.saturating_sub(receiver.packets_seen);
    family(
        &mut text,
        "discus_receiver_packets_lost",
        "gauge",
        "Packets that did not reach a receiver, summed over the receivers on the list.",
        &sum(lost),
    );
    family(&mut text, "discus_symbols_sent_total", "counter", "Symbols multicast.", &plain(traffic.symbols_sent));
    family(
        &mut text,
        "discus_symbols_needed_total",
        "counter",
        "Source symbols of the chunks that were in demand, each counted once.",
        &plain(traffic.symbols_needed),
    );
    family(&mut text, "discus_syncs_sent_total", "counter", "Sync packets multicast.", &plain(traffic.syncs_sent));
    family(&mut text, "discus_wire_bytes_sent_total", "counter", "Bytes of frames multicast.", &plain(traffic.wire_bytes_sent));
    family(
        &mut text,
        "discus_rate_bits_per_second",
        "gauge",
        "Rate that the streams are paced to, summed.",
        &plain(traffic.rate_bits_per_second),
    );
    text
}

fn family(text: &mut String, name: &str, kind: &str, help: &str, samples: &[(String, u64)]) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_in_the_text_format() {
        let traffic = TrafficSnapshot { symbols_sent: 7, ..TrafficSnapshot::default() };
        let text = prometheus(&RosterSnapshot::default(), &traffic);
        assert!(text.contains("# TYPE discus_symbols_sent_total counter\ndiscus_symbols_sent_total 7\n"), "{text}");
        assert!(text.contains("discus_receivers{state=\"listed\"} 0\n"), "{text}");
        for line in text.lines() {
            assert!(line.starts_with('#') || line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<u64>().is_ok()), "{line}");
        }
    }
}
