//! The priority of each listed receiver, as the operator's settings have it at the moment.

use crate::control::Priorities;
use crate::schedule::ReceiverId;
use std::collections::BTreeMap;

/// Who is listed for what, and with which priority.
pub(super) struct PriorityBook {
    image_names: Vec<String>,
    priorities: Priorities,
    receivers: BTreeMap<ReceiverId, Entry>,
}

struct Entry {
    image: usize,
    group: String,
    priority: i16,
}

impl PriorityBook {
    /// Images by their index in events.
    pub(super) fn new(image_names: Vec<String>, priorities: Priorities) -> PriorityBook {
        PriorityBook { image_names, priorities, receivers: BTreeMap::new() }
    }

    /// Enters a receiver and returns its priority.
    pub(super) fn joined(&mut self, receiver: ReceiverId, image: usize, group: String) -> i16 {
        let priority = priority(&self.priorities, &self.image_names, image, &group);
        self.receivers.insert(receiver, Entry { image, group, priority });
        priority
    }

    /// A receiver is off the list.
    pub(super) fn left(&mut self, receiver: ReceiverId) {
        self.receivers.remove(&receiver);
    }

    /// Takes new settings; returns the receivers whose priority they change, with the new one.
    pub(super) fn change(&mut self, priorities: Priorities) -> Vec<(ReceiverId, i16)> {
        self.priorities = priorities;
        let mut changed = Vec::new();
        for (&receiver, entry) in &mut self.receivers {
            let priority = priority(&self.priorities, &self.image_names, entry.image, &entry.group);
            if std::mem::replace(&mut entry.priority, priority) != priority {
                changed.push((receiver, priority));
            }
        }
        changed
    }
}

fn priority(priorities: &Priorities, image_names: &[String], image: usize, group: &str) -> i16 {
    priorities.of(image_names.get(image).map_or("", String::as_str), group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Settings, SettingsPatch};

    fn priorities(json: &str) -> Priorities {
        let mut settings = Settings { rate_cap_bits_per_second: 1_000_000, priorities: Priorities::default() };
        let patch: SettingsPatch = serde_json::from_str(json).unwrap();
        settings.apply(&patch, ["web", "db"].into_iter()).unwrap();
        settings.priorities
    }

    #[test]
    fn only_those_whose_priority_changes_are_named() {
        let before = priorities(r#"{"priorities":{"images":{"db":10}}}"#);
        let mut book = PriorityBook::new(vec!["web".to_owned(), "db".to_owned()], before);
        let [web, db, db_in_rack, gone] = [1, 2, 3, 4].map(ReceiverId);
        assert_eq!(book.joined(web, 0, String::new()), 0);
        assert_eq!(book.joined(db, 1, String::new()), 10);
        assert_eq!(book.joined(db_in_rack, 1, "rack-1".to_owned()), 10);
        assert_eq!(book.joined(gone, 1, "rack-1".to_owned()), 10);
        book.left(gone);
        let after = priorities(r#"{"priorities":{"images":{"db":10},"groups":{"rack-1":-1}}}"#);
        assert_eq!(book.change(after.clone()), [(db_in_rack, -1)]);
        assert_eq!(book.change(after), []);
        assert_eq!(book.change(Priorities::default()), [(db, 0), (db_in_rack, 0)]);
    }
}
