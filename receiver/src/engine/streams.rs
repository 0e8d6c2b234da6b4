//! Which of the session's streams are followed: the first one until the sender says which ones carry something for this receiver.

use std::net::SocketAddr;

use wire::StreamId;

use crate::control::StreamInfo;

/// See the module's text.
pub(super) struct Streams {
    all: Vec<StreamInfo>,
    followed: Vec<StreamId>,
    /// The sender has said in this attendance which carry something.
    told: bool,
}

impl Streams {
    /// Of the session's streams the first is followed, whose group was joined at open.
    pub(super) fn new(all: Vec<StreamInfo>) -> Streams {
        let followed = all.iter().take(1).map(|stream| stream.id).collect();
        Streams { all, followed, told: false }
    }

    /// Whether something is to come from those that are followed, in the sender's own words.
    pub(super) fn carry_something(&self) -> bool {
        self.told && !self.followed.is_empty()
    }

    /// A new attendance: the sender will say it again. What is followed stays until then.
    pub(super) fn reconnected(&mut self) {
        self.told = false;
    }

    pub(super) fn followed(&self) -> &[StreamId] {
        &self.followed
    }

    /// The sender says which. Answers whether that changes anything.
    pub(super) fn follow(&mut self, streams: &[StreamId]) -> bool {
        // In the order of the enrolment, each once; one that the enrolment did not name has no group.
        let followed: Vec<StreamId> = self.all.iter().map(|stream| stream.id).filter(|id| streams.contains(id)).collect();
        self.told = true;
        let changes = followed != self.followed;
        self.followed = followed;
        changes
    }

    /// The groups of those that are followed.
    pub(super) fn groups(&self) -> Vec<SocketAddr> {
        self.all.iter().filter(|stream| self.followed.contains(&stream.id)).map(|stream| stream.group).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(id: u16) -> StreamInfo {
        let group = SocketAddr::from(([239, 192, 68, id as u8], 4700));
        StreamInfo { id: StreamId(id), group, source: [10, 0, 0, 1].into() }
    }

    #[test]
    fn the_first_stream_is_followed_until_the_sender_says_which() {
        let mut streams = Streams::new(vec![stream(1), stream(2), stream(3)]);
        assert_eq!((streams.followed(), streams.groups()), (&[StreamId(1)][..], vec![stream(1).group]));
        assert!(!streams.carry_something(), "nobody has said so");
        assert!(!streams.follow(&[StreamId(1)]), "nothing changes");
        assert!(streams.carry_something());
        assert!(streams.follow(&[StreamId(3), StreamId(9), StreamId(2), StreamId(3)]));
        assert_eq!((streams.followed(), streams.groups()), (&[StreamId(2), StreamId(3)][..], vec![stream(2).group, stream(3).group]));
        streams.reconnected();
        assert!(!streams.carry_something() && streams.followed().len() == 2);
        assert!(streams.follow(&[]) && !streams.carry_something() && streams.groups().is_empty());
    }
}
