//! What the engine needs of the control plane; tests put a script in its place.

use crossbeam_channel::Receiver;

use crate::control::{ControlLink, Fetched, FromSender, ToSender};

/// The way to the sender and back.
pub trait Link {
    /// Says something to the sender. Never waits; what cannot be said while the connection is down is dropped.
    fn send(&self, message: ToSender);

    /// What the sender says, and what becomes of the connection.
    fn events(&self) -> &Receiver<FromSender>;

    /// What has come of a [`ToSender::Fetch`], if something has. Never waits.
    fn fetched(&self) -> Option<Fetched>;
}

impl Link for ControlLink {
    fn send(&self, message: ToSender) {
        ControlLink::send(self, message);
    }

    fn events(&self) -> &Receiver<FromSender> {
        ControlLink::events(self)
    }

    fn fetched(&self) -> Option<Fetched> {
        ControlLink::fetched(self)
    }
}
