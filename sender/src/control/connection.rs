//! What the server remembers of one connection: who enrolled on it, and until when it may stay open without being of use.

use super::Limits;
use crate::schedule::ReceiverId;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long an enrolled receiver may prepare its target: with `--resume` it reads all of it, 10 TB at 0.5 GB/s.
const PREPARATION_MAX: Duration = Duration::from_secs(6 * 3600);

/// One connection. Calls reach it as an extension of their request, so a receiver can only be spoken for on its own connection.
pub(super) struct Connection {
    /// Tells connections apart.
    pub(super) number: u64,
    /// The peer.
    pub(super) address: SocketAddr,
    use_of_it: Mutex<Use>,
}

struct Use {
    enrolled: Option<Enrolled>,
    attendances: u32,
    last_request: Instant,
}

#[derive(Clone)]
struct Enrolled {
    receiver: ReceiverId,
    image: usize,
    group: String,
    since: Instant,
    attended: bool,
}

impl Connection {
    pub(super) fn new(number: u64, address: SocketAddr) -> Connection {
        Connection { number, address, use_of_it: Mutex::new(Use { enrolled: None, attendances: 0, last_request: Instant::now() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Use> {
        self.use_of_it.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note_request(&self) {
        self.lock().last_request = Instant::now();
    }

    /// Enters an enrolment and returns the one that it replaces.
    pub(super) fn enrol(&self, receiver: ReceiverId, image: usize, group: String) -> Option<ReceiverId> {
        let enrolled = Enrolled { receiver, image, group, since: Instant::now(), attended: false };
        self.lock().enrolled.replace(enrolled).map(|earlier| earlier.receiver)
    }

    /// The receiver that enrolled on this connection, the index of its image, and its group.
    pub(super) fn enrolled(&self) -> Option<(ReceiverId, usize, String)> {
        self.lock().enrolled.as_ref().map(|enrolled| (enrolled.receiver, enrolled.image, enrolled.group.clone()))
    }

    /// Keeps the connection open while the guard lives. Afterwards the receiver may attend again, but soon.
    pub(super) fn attending(self: &Arc<Self>) -> Attending {
        self.lock().attendances += 1;
        Attending(self.clone())
    }

    /// When the connection shall be closed as things stand; ask again then.
    pub(super) fn expires_at(&self, limits: &Limits) -> Instant {
        let of_use = self.lock();
        match &of_use.enrolled {
            _ if of_use.attendances > 0 => Instant::now() + limits.idle_timeout,
            Some(enrolled) if !enrolled.attended => enrolled.since + PREPARATION_MAX,
            _ => of_use.last_request + limits.idle_timeout,
        }
    }
}

/// See [`Connection::attending`].
pub(super) struct Attending(Arc<Connection>);

impl Drop for Attending {
    fn drop(&mut self) {
        let mut of_use = self.0.lock();
        of_use.attendances -= 1;
        of_use.last_request = Instant::now();
        if let Some(enrolled) = &mut of_use.enrolled {
            enrolled.attended = true;
        }
    }
}
