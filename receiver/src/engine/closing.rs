//! What is left when all data is here: the writer's end, and the sender's word that it knows.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select};

use super::{Error, Link};
use crate::control::{FromSender, Profile, ToSender};

/// What a receiver says that has everything.
const NOTHING_WANTED: ToSender = ToSender::Ready { want: Vec::new(), profile: Profile { restore_bytes_per_second: 0, unicast: false } };

/// Waits for the writer, and answers the sender meanwhile: flushing a disk can take longer than a connection lives.
pub(super) fn await_writer(
    result: &Receiver<image::Result<Option<Vec<String>>>>,
    link: &dyn Link,
    notices: &Sender<String>,
) -> Result<Option<Vec<String>>, Error> {
    let mut events = link.events().clone();
    loop {
        select! {
            recv(result) -> outcome => return match outcome {
                Ok(outcome) => outcome.map_err(Error::Target),
                Err(_) => Err(Error::Panicked("writer")),
            },
            recv(events) -> event => match event {
                Ok(FromSender::NeedReady) => link.send(NOTHING_WANTED),
                Ok(FromSender::Lost(why)) => {
                    let _ = notices.send(format!("lost the sender ({why}); all data is here"));
                }
                // Nothing that the sender says now makes the data less whole.
                Ok(_) => {}
                Err(_) => events = crossbeam_channel::never(),
            },
        }
    }
}

/// Tells the sender that the image is whole. Answers whether it has confirmed that.
pub(super) fn announce(link: &dyn Link, complete: impl Fn() -> ToSender, within: Duration, notices: &Sender<String>) -> bool {
    let deadline = Instant::now() + within;
    link.send(complete());
    loop {
        match link.events().recv_deadline(deadline) {
            Ok(FromSender::Acknowledged) => return true,
            Ok(FromSender::NeedReady) => {
                link.send(NOTHING_WANTED);
                link.send(complete());
            }
            Ok(FromSender::Lost(why)) => {
                let _ = notices.send(format!("lost the sender ({why}) before it confirmed the completion; trying to reach it again"));
            }
            Ok(FromSender::Dismissed(_) | FromSender::Changed(_) | FromSender::GaveUp(_)) | Err(_) => return false,
            Ok(
                FromSender::Listed | FromSender::Pace(_) | FromSender::Streams(_) | FromSender::TakeByUnicast(_) | FromSender::TakeRest(_),
            ) => {}
        }
    }
}
