//! What `/metrics` says, in Prometheus' text format.

use super::descriptions::ManifestCounts;
use super::receiver_status::{ReceiverState, ReceiverStatus, RosterSnapshot};
use super::settings::Settings;
use super::traffic::TrafficSnapshot;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The figures as text.
pub(super) fn prometheus(roster: &RosterSnapshot, traffic: &TrafficSnapshot, manifests: &ManifestCounts, settings: &Settings) -> String {
    let mut text = String::new();
    let states = [
        (ReceiverState::Enrolled, "enrolled"),
        (ReceiverState::Listed, "listed"),
        (ReceiverState::Completed, "completed"),
        (ReceiverState::Failed, "failed"),
        (ReceiverState::Lost, "lost"),
    ];
    let listed = || roster.receivers.iter().filter(|receiver| receiver.state == ReceiverState::Listed);
    let receivers = states.map(|(state, label)| (format!("{{state=\"{label}\"}}"), roster.count(state) as u64));
    let plain = |value: u64| [(String::new(), value)];
    family(&mut text, "discus_receivers", "gauge", "Receivers by state.", &receivers);
    family(
        &mut text,
        "discus_chunks_remaining",
        "gauge",
        "Chunks that listed receivers have not yet reported as verified, summed over them.",
        &plain(listed().map(|receiver| u64::from(receiver.chunks_remaining)).sum()),
    );
    family(&mut text, "discus_image_receivers", "gauge", "Listed receivers by image and group.", &by_image_and_group(listed()));
    family(
        &mut text,
        "discus_unicast_receivers",
        "gauge",
        "Listed receivers that multicast does not reach.",
        &plain(listed().filter(|receiver| receiver.unicast).count() as u64),
    );
    family(
        &mut text,
        "discus_receivers_received_bits_per_second",
        "gauge",
        "Symbols that reach listed receivers, summed over them.",
        &plain(listed().map(|receiver| receiver.received_bits_per_second).fold(0, u64::saturating_add)),
    );
    family(
        &mut text,
        "discus_receivers_restore_bytes_per_second",
        "gauge",
        "Stored bytes that listed receivers say they restore, summed over them.",
        &plain(listed().map(|receiver| receiver.restore_bytes_per_second).fold(0, u64::saturating_add)),
    );
    let lost = |receiver: &ReceiverStatus| receiver.packets_sent.saturating_sub(receiver.packets_seen);
    family(
        &mut text,
        "discus_receiver_packets_lost",
        "gauge",
        "Packets that did not reach a receiver, summed over the receivers on the list.",
        &plain(roster.receivers.iter().map(lost).fold(0, u64::saturating_add)),
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
        "discus_manifests_total",
        "counter",
        "Manifests that receivers got, by the way that they came.",
        &[("{by=\"multicast\"}".to_owned(), manifests.by_multicast), ("{by=\"unicast\"}".to_owned(), manifests.by_unicast)],
    );
    family(
        &mut text,
        "discus_rate_bits_per_second",
        "gauge",
        "Rate that the streams are paced to, summed.",
        &plain(traffic.rate_bits_per_second),
    );
    family(
        &mut text,
        "discus_rate_cap_bits_per_second",
        "gauge",
        "Rate that the operator allows.",
        &plain(settings.rate_cap_bits_per_second),
    );
    text
}

fn by_image_and_group<'a>(receivers: impl Iterator<Item = &'a ReceiverStatus>) -> Vec<(String, u64)> {
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for receiver in receivers {
        *counts.entry((&receiver.image, &receiver.group)).or_default() += 1;
    }
    let labels = |(image, group): (&str, &str)| format!("{{image=\"{}\",group=\"{}\"}}", escaped(image), escaped(group));
    counts.into_iter().map(|(names, count)| (labels(names), count)).collect()
}

/// A label's value; names of groups are the receivers' choice. They hold no line breaks.
fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"")
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
    use crate::control::Priorities;

    #[test]
    fn metrics_are_in_the_text_format() {
        let settings = Settings { rate_cap_bits_per_second: 1_000_000, priorities: Priorities::default() };
        let traffic = TrafficSnapshot { symbols_sent: 7, ..TrafficSnapshot::default() };
        let text =
            prometheus(&RosterSnapshot::default(), &traffic, &ManifestCounts { by_multicast: 5, ..ManifestCounts::default() }, &settings);
        assert!(text.contains("# TYPE discus_symbols_sent_total counter\ndiscus_symbols_sent_total 7\n"), "{text}");
        assert!(text.contains("discus_manifests_total{by=\"multicast\"} 5\n"), "{text}");
        assert!(text.contains("discus_receivers{state=\"listed\"} 0\n"), "{text}");
        for line in text.lines() {
            assert!(line.starts_with('#') || line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<u64>().is_ok()), "{line}");
        }
    }

    #[test]
    fn a_groups_name_stays_within_its_label() {
        assert_eq!(escaped(r#"a"} 1 \"#), r#"a\"} 1 \\"#);
    }
}
