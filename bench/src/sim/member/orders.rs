//! What the sender tells a member: which streams to listen to, and what to fetch by unicast.

use super::{Happening, Member, Message, Surroundings};
use sender::schedule::ReceiverId;
use wire::ChunkId;

impl Member {
    /// What the sender told it on its connection, when it hears of that.
    pub(super) fn hear_orders(&mut self, around: &Surroundings<'_>) {
        let Some((connection, _)) = self.connection else { return };
        self.hear_fetches(around, connection);
        let Some(told) = around.listening.get(&connection).filter(|told| told.version > self.told_version) else { return };
        self.told_version = told.version;
        self.at_ns(told.heard_ns.max(self.now_ns), Happening::Listens { connection, version: told.version });
    }

    /// What it is to fetch comes after a call's way there and back, unless that fails.
    pub(super) fn hear_fetches(&mut self, around: &Surroundings<'_>, connection: ReceiverId) {
        for fetch in around.fetches.get(&connection).into_iter().flatten().skip(self.told_fetches) {
            self.told_fetches += 1;
            for chunk in fetch.chunks.iter().flat_map(|run| run.chunks()) {
                if !self.random.chance_ppm(around.scenario.fetch_fails_ppm) {
                    let arrives_ns = fetch.heard_ns.max(self.now_ns) + 2 * self.spec(around).report_latency_us * 1_000;
                    self.at_ns(arrives_ns, Happening::Fetched { connection, chunk: chunk.0 });
                }
            }
        }
    }

    pub(super) fn fetched(&mut self, around: &Surroundings<'_>, chunk: ChunkId, messages: &mut Vec<Message>) -> Result<(), String> {
        let Some(node) = &mut self.node else { return Ok(()) };
        let was_idle = !node.is_finishing();
        if !node.fetched(around.pack, chunk)? {
            return Ok(());
        }
        if was_idle {
            self.schedule_finish(around);
        }
        self.drive(around, messages)
    }

    pub(super) fn listen(&mut self, around: &Surroundings<'_>, connection: ReceiverId, version: u64) {
        let Some(told) = around.listening.get(&connection).filter(|told| told.version == version) else { return };
        if self.connection.is_none_or(|(current, _)| current != connection) {
            return;
        }
        for &stream in told.streams.iter().filter(|stream| !self.streams.contains(stream)) {
            if let Some(cursor) = self.cursors.get_mut(usize::from(stream.0)) {
                *cursor = around.wires[usize::from(stream.0)].first_from(self.now_ns);
            }
        }
        self.streams = told.streams.clone();
        if let Some(node) = &mut self.node {
            node.assembler.listen_to(&self.streams);
        }
    }
}
