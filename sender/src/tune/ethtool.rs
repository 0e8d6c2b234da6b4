//! What `ethtool` says of an interface: its ring sizes, the offloads that stand in the way of XDP, and its queues.

use std::process::{Command, Stdio};

/// A value and the most that it can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) current: u32,
    pub(super) max: u32,
}

/// What the driver can be asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Features {
    pub(super) ring_rx: Option<Range>,
    pub(super) ring_tx: Option<Range>,
    /// Names of features that are on and can be switched off.
    pub(super) on: Vec<String>,
    /// Whether packets can be steered to queues by their port, and whether that is on.
    pub(super) ntuple: Option<bool>,
}

/// Asks ethtool. What a driver does not have is left out; so is everything when there is no ethtool.
pub(super) fn features(interface: &str) -> Features {
    let (rings, offloads) = (output(&["-g", interface]), output(&["-k", interface]));
    let (on, ntuple) = parse_features(&offloads);
    Features { ring_rx: parse_range(&rings, "RX:"), ring_tx: parse_range(&rings, "TX:"), on, ntuple }
}

fn output(arguments: &[&str]) -> String {
    let output = Command::new("ethtool").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// The line `label` stands twice: below the maximums, then below the current settings.
fn parse_range(text: &str, label: &str) -> Option<Range> {
    let mut values = text.lines().filter_map(|line| line.trim().strip_prefix(label)).filter_map(|value| value.trim().parse().ok());
    let (max, current) = (values.next()?, values.next()?);
    Some(Range { current, max })
}

fn parse_features(text: &str) -> (Vec<String>, Option<bool>) {
    let lines = text.lines().filter_map(|line| line.trim().split_once(": "));
    let changeable: Vec<(&str, bool)> =
        lines.filter(|(_, value)| !value.contains("[fixed]")).map(|(name, value)| (name, value.starts_with("on"))).collect();
    let on = changeable.iter().filter(|(_, on)| *on).map(|(name, _)| (*name).to_owned()).collect();
    let ntuple = changeable.iter().find(|(name, _)| *name == "ntuple-filters").map(|(_, on)| *on);
    (on, ntuple)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maximum_and_current_value_are_told_apart() {
        let text = "Ring parameters for eth1:\nPre-set maximums:\nRX:\t\t4096\nRX Mini:\tn/a\nTX:\t\t4096\nCurrent hardware settings:\nRX:\t\t512\nRX Mini:\tn/a\nTX:\t\t256\n";
        assert_eq!(parse_range(text, "RX:"), Some(Range { current: 512, max: 4096 }));
        assert_eq!(parse_range(text, "TX:"), Some(Range { current: 256, max: 4096 }));
        assert_eq!(parse_range("", "TX:"), None);
        assert_eq!(parse_range("Pre-set maximums:\nRX:\t\tn/a\n", "RX:"), None);
    }

    #[test]
    fn fixed_features_are_no_settings() {
        let text =
            "Features for eth1:\nlarge-receive-offload: on\nrx-gro-hw: off [fixed]\nntuple-filters: off\n\ttx-checksum-ipv4: on [fixed]\n";
        assert_eq!(parse_features(text), (vec!["large-receive-offload".to_owned()], Some(false)));
    }
}
