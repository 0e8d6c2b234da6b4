//! What the operator's tools read and change over HTTPS on the same port. Every change needs the token, and reading needs it unless
//! status is public.
//!
//! | request | what it does |
//! | --- | --- |
//! | `GET /status` | all there is to see, as JSON |
//! | `GET /metrics` | figures, in Prometheus' text format |
//! | `GET /settings` | the [`Settings`](super::Settings) |
//! | `PATCH /settings` | changes some of them (a [`SettingsPatch`]); answers with all |
//! | `DELETE /receivers/ID` | dismisses a receiver; the body may be `{"reason": "…"}` |
//!
//! What is refused is answered with `{"error": "…"}`: 400 when the body cannot be read, 401 without the token, 404 when the receiver is
//! not listed, 422 when a setting cannot be.

use super::metrics::prometheus;
use super::roster::ENGINE_BUSY_PAUSE;
use super::settings::Change;
use super::traffic::TrafficSnapshot;
use super::{Settings, SettingsPatch, Shared, printable};
use crate::schedule::{Order, ReceiverId};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use tokio::time::sleep;

/// A patch with priorities for a thousand racks has some 30 KB.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// The reason of a dismissal when none is given.
const REASON_DEFAULT: &str = "the operator took it off the list";

/// The document of `/status`.
#[derive(Serialize)]
struct Status {
    discus_version: &'static str,
    session_id: u32,
    pack_root: String,
    images: Vec<ImageStatus>,
    receivers: Vec<super::ReceiverStatus>,
    traffic: TrafficSnapshot,
    settings: Settings,
}

#[derive(Serialize)]
struct ImageStatus {
    name: String,
    chunks: u32,
    manifest_bytes: usize,
}

/// The body of a dismissal.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dismissal {
    reason: Option<String>,
}

/// The operator's pages.
pub(super) fn pages(shared: Arc<Shared>) -> Router {
    let views = Router::new().route("/status", get(status)).route("/metrics", get(metrics)).route("/settings", get(settings));
    let views = if shared.access.public_status { views } else { views.route_layer(from_fn_with_state(shared.clone(), with_token)) };
    let changes = Router::new()
        .route("/settings", patch(change_settings))
        .route("/receivers/{id}", delete(dismiss))
        .route_layer(from_fn_with_state(shared.clone(), with_token));
    views.merge(changes).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(shared)
}

/// Lets a request pass that shows the token.
async fn with_token(State(shared): State<Arc<Shared>>, headers: HeaderMap, request: Request, next: Next) -> Response {
    let shown = headers.get(header::AUTHORIZATION).is_some_and(|value| shared.access.token.is_shown_by(value.as_bytes()));
    if shown {
        return next.run(request).await;
    }
    let why = "this needs the operator's token as `Authorization: Bearer TOKEN`; it is in `operator-token` in the sender's state directory";
    ([(header::WWW_AUTHENTICATE, "Bearer")], refusal(StatusCode::UNAUTHORIZED, why)).into_response()
}

fn refusal(status: StatusCode, why: impl std::fmt::Display) -> Response {
    (status, Json(json!({ "error": why.to_string() }))).into_response()
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
        settings: shared.settings.current(),
    };
    Json(document).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let text = prometheus(&shared.roster.snapshot(), &shared.traffic.snapshot(), &shared.descriptions.counts(), &shared.settings.current());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn settings(State(shared): State<Arc<Shared>>) -> Response {
    Json(shared.settings.current()).into_response()
}

async fn change_settings(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let patch: SettingsPatch = match serde_json::from_slice(&body) {
        Ok(patch) => patch,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, format_args!("the body is no change of settings: {error}")),
    };
    loop {
        match shared.settings.change(&patch, shared.info.images.iter().map(|image| image.name.as_str())) {
            Change::Done(settings) => return Json(settings).into_response(),
            Change::Refused(error) => return refusal(StatusCode::UNPROCESSABLE_ENTITY, error),
            // Ends with the request's own time limit.
            Change::Busy => sleep(ENGINE_BUSY_PAUSE).await,
            Change::EngineGone => {
                shared.stop();
                return refusal(StatusCode::SERVICE_UNAVAILABLE, "the sender is stopping");
            }
        }
    }
}

async fn dismiss(State(shared): State<Arc<Shared>>, Path(id): Path<u64>, body: Bytes) -> Response {
    let dismissal = if body.is_empty() { Ok(Dismissal::default()) } else { serde_json::from_slice::<Dismissal>(&body) };
    let reason = match dismissal {
        Ok(dismissal) => dismissal.reason.map_or_else(|| REASON_DEFAULT.to_owned(), |reason| printable(&reason)),
        Err(error) => return refusal(StatusCode::BAD_REQUEST, format_args!("the body is no dismissal: {error}")),
    };
    if shared.roster.direct(ReceiverId(id), Order::Leave(reason.clone())) {
        // It is told now; that it is off the list shows in the status.
        return (StatusCode::ACCEPTED, Json(json!({ "receiver_id": id, "reason": reason }))).into_response();
    }
    refusal(StatusCode::NOT_FOUND, format_args!("receiver {id} is not listed"))
}
