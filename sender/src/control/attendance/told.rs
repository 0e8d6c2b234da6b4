//! What a receiver has been told in one attendance, so that it is told what is new and no more.

use crate::control::roster::Orders;
use wire::StreamId;
use wire::proto::v1::{self, sender_message};

/// What a receiver has been told in this attendance.
#[derive(Default)]
pub(super) struct Told {
    streams: Option<Vec<StreamId>>,
    unicast_runs: usize,
    rest_runs: usize,
}

impl Told {
    /// What of `orders` it has not been told yet.
    pub(super) fn news(&mut self, orders: Orders) -> Vec<sender_message::Message> {
        let mut messages = Vec::new();
        if let Some(streams) = orders.streams.filter(|streams| self.streams.as_ref() != Some(streams)) {
            let stream = streams.iter().map(|stream| stream.0.into()).collect();
            self.streams = Some(streams);
            messages.push(sender_message::Message::Streams(v1::Streams { stream }));
        }
        if let Some(runs) = orders.unicast.get(self.unicast_runs..).filter(|runs| !runs.is_empty()) {
            let chunks = runs.iter().copied().map(v1::ChunkRange::from).collect();
            self.unicast_runs = orders.unicast.len();
            messages.push(sender_message::Message::TakeByUnicast(v1::TakeByUnicast { chunks }));
        }
        if let Some(runs) = orders.rest.get(self.rest_runs..).filter(|runs| !runs.is_empty()) {
            let chunks = runs.iter().copied().map(v1::ChunkRange::from).collect();
            self.rest_runs = orders.rest.len();
            messages.push(sender_message::Message::TakeRest(v1::TakeRest { chunks }));
        }
        messages
    }
}
