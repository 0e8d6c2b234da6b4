//! The last symbols of a chunk by unicast: when few receivers lack something of it that many others would have to hear too, these few fetch it.
//!
//! What counts is what crosses links, the sender's and each listener's. To multicast `s` symbols to `L` listeners costs `s (1 + L)` frames; that receivers fetch
//! `d` symbols each costs `2 (d + CALL_FRAMES)` frames for each of them.

use super::{Flight, Scheduler};
use crate::schedule::ReceiverId;
use wire::ChunkId;
use wire::report::ChunkRange;

/// More than so many receivers are not asked: multicast is one packet for all of them, and calls are work for the sender's processor.
const RECEIVERS_MAX: usize = 4;
/// What a call costs beside its symbols, in full frames: the order and the request with their acknowledgements, and what TLS and HTTP/2 put around the answer.
const CALL_FRAMES: u64 = 4;

impl Scheduler {
    /// At most so many chunks more may be handed over from now on; none at first.
    pub(in crate::schedule) fn set_handover_room(&mut self, chunks: usize) {
        self.handover_room = chunks;
    }

    /// Who is to fetch what since this was last asked, in order. It is not to get it here any more.
    pub(in crate::schedule) fn take_handed_over(&mut self) -> Vec<(ReceiverId, ChunkId)> {
        std::mem::take(&mut self.handed_over)
    }

    /// `receiver` is gone for good, or begins anew.
    pub(in crate::schedule) fn forget_handed_over(&mut self, receiver: ReceiverId) {
        self.handed_before.retain(|&(handed, _)| handed != receiver);
    }

    /// Whether there is nothing to send but repairs, so that chunks may be handed over.
    pub(super) fn is_at_the_end(&self) -> bool {
        self.handover_room > 0 && self.queues.iter().all(|queue| queue.whole.is_empty())
    }

    /// Hands `chunk`, which is to be repaired, over to those who lack something of it, if that costs less. Once for each chunk and receiver.
    pub(super) fn hand_over(&mut self, stream: usize, chunk: ChunkId) -> bool {
        let Some(needs) = self.roster.needs(chunk) else { return false };
        let all_said = self.progress[chunk.index()].flight == Flight::Landed && needs.reporters() == self.roster.demand(chunk);
        let needy = needs.needy() as usize;
        if !all_said || needs.turn_max().is_some() || !(1..=RECEIVERS_MAX.min(self.handover_room)).contains(&needy) {
            return false;
        }
        let multicast = u64::from(needs.partial_max()) * (1 + self.streams[stream].listener_count() as u64);
        // The least that unicast can cost: spares looking for who it is.
        if 2 * needy as u64 * (1 + CALL_FRAMES) >= multicast {
            return false;
        }
        let receivers = self.roster.needy(chunk, needy);
        let unicast: u64 = receivers.iter().map(|&(_, symbols)| 2 * (u64::from(symbols) + CALL_FRAMES)).sum();
        if unicast >= multicast || receivers.iter().any(|&(receiver, _)| self.handed_before.contains(&(receiver, chunk))) {
            return false;
        }
        for (receiver, symbols) in receivers {
            self.roster.complete(receiver, ChunkRange { first: chunk, count: 1 });
            self.handed_before.insert((receiver, chunk));
            self.handed_over.push((receiver, chunk));
            self.handover_room = self.handover_room.saturating_sub(1);
            self.totals.symbols_by_unicast += u64::from(symbols);
        }
        true
    }
}
