//! What a look at the control connection says: whether the sender is there, is the one that is meant, and serves what is wanted.

use std::time::{Duration, Instant};

use wire::doctor::Finding;

use crate::control::{ConnectOptions, ControlError, Enrolled, Seen, Trust, look};

/// Between two looks for a sender that is not there yet: short beside a round of probes.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// Looks again and again until somebody answers, for `limit` or until `stopped` says so.
///
/// # Errors
/// Those of [`look`].
pub fn look_until(options: &ConnectOptions, limit: Duration, stopped: impl Fn() -> bool) -> Result<Seen, ControlError> {
    let deadline = Instant::now() + limit;
    loop {
        match look(options) {
            Err(ControlError::Unreachable { .. }) if !stopped() && Instant::now() < deadline => std::thread::sleep(LOOK_PAUSE),
            outcome => return outcome,
        }
    }
}

/// Lines on the connection and, when an image was asked for, on that and on the packets in which it comes to an interface with this MTU.
pub fn control_findings(options: &ConnectOptions, outcome: &Result<Seen, ControlError>, mtu_bytes: Option<usize>) -> Vec<Finding> {
    let server = &options.server;
    let seen = match outcome {
        Ok(seen) => seen,
        Err(error) => return vec![unseen(error, server.port)],
    };
    let mut findings = vec![match options.trust {
        Trust::Pin(_) => Finding::ok(
            "control",
            format!("{} answers within {:.1} ms, its fingerprint is the given one", seen.peer, milliseconds(seen.took)),
        ),
        Trust::AnyServer => Finding::warn(
            "control",
            format!("{} answers with the fingerprint {}, which was compared with nothing", seen.peer, seen.fingerprint),
            "give --server-fingerprint, with what discus serve or discus doctor prints on the sender",
        ),
    }];
    match &seen.enrolled {
        None if options.image.is_empty() => {}
        None => findings.push(Finding::warn(
            "image",
            format!("a sender's doctor answers, which knows nothing of {}", options.image),
            "look again while discus serve runs",
        )),
        Some(Err(error)) => {
            findings.push(Finding::fail(
                "image",
                error.to_string(),
                "the line says what the sender serves, or that its release is another one",
            ));
        }
        Some(Ok(enrolled)) => {
            let groups: Vec<String> = enrolled.streams.iter().map(|stream| stream.group.to_string()).collect();
            findings.push(Finding::ok("image", format!("the sender serves {} in {}", options.image, groups.join(", "))));
            findings.extend(mtu_bytes.map(|mtu_bytes| session_packets(enrolled, mtu_bytes)));
        }
    }
    findings
}

fn unseen(error: &ControlError, port: u16) -> Finding {
    let advice = match error {
        ControlError::Fingerprint { .. } => {
            "another machine answers at this address, or the sender's state directory was replaced: look at what discus serve or discus doctor prints there".to_owned()
        }
        ControlError::Unreachable { .. } => format!(
            "discus serve has to run there, or discus doctor --probe meanwhile; does a firewall drop TCP port {port}? is it the sender's address in this network?"
        ),
        _ => "install the same release of discus at both ends".to_owned(),
    };
    Finding::fail("control", error.to_string(), advice)
}

fn session_packets(enrolled: &Enrolled, mtu_bytes: usize) -> Finding {
    let packet_bytes = enrolled.parameters.packet_bytes(enrolled.streams.iter().any(|stream| stream.group.is_ipv6()));
    if packet_bytes <= mtu_bytes {
        return Finding::ok("session", format!("packets of {packet_bytes} bytes fit the MTU of {mtu_bytes}"));
    }
    Finding::fail(
        "session",
        format!("the sender's packets have {packet_bytes} bytes, the MTU is {mtu_bytes}"),
        format!("ip link set IF mtu {packet_bytes}, or discus serve --mtu {mtu_bytes}"),
    )
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{ServerAddress, StreamInfo};
    use wire::doctor::Verdict;
    use wire::session::SessionParameters;
    use wire::{Fingerprint, SessionId, StreamId};

    fn options(trust: Trust, image: &str) -> ConnectOptions {
        ConnectOptions {
            server: ServerAddress { host: "sender".to_owned(), port: 4700 },
            trust,
            name: "machine".to_owned(),
            group: String::new(),
            image: image.to_owned(),
            interface_index: None,
            give_up_after: Duration::ZERO,
        }
    }

    fn seen(enrolled: Option<Result<Enrolled, ControlError>>) -> Result<Seen, ControlError> {
        let (peer, fingerprint) = (([10, 0, 0, 1], 4700).into(), Fingerprint([1; 32]));
        Ok(Seen { peer, fingerprint, took: Duration::from_millis(1), serves: enrolled.is_some(), enrolled })
    }

    fn enrolled() -> Enrolled {
        Enrolled {
            receiver_id: 1,
            parameters: SessionParameters { session: SessionId(1), symbol_bytes: 1408, chunk_count: 1, chunk_bytes_max: 256 << 10 },
            pack_root: [0; 32],
            manifest: Vec::new(),
            proof: Vec::new(),
            manifest_by_multicast: false,
            streams: vec![StreamInfo { id: StreamId(0), group: ([239, 192, 68, 1], 4700).into(), source: [10, 0, 0, 1].into() }],
            report_interval_us: 10_000,
            server_fingerprint: Fingerprint([1; 32]),
        }
    }

    #[test]
    fn what_the_sender_shows_decides_what_is_said() {
        use Verdict::{Fail, Ok, Warn};
        let pin = Trust::Pin(Fingerprint([1; 32]));
        let said = |trust, image: &str, outcome: &Result<Seen, ControlError>, mtu_bytes| -> Vec<(&str, Verdict)> {
            let findings = control_findings(&options(trust, image), outcome, Some(mtu_bytes));
            findings.iter().map(|finding| (finding.subject, finding.verdict)).collect()
        };
        assert_eq!(said(pin, "", &seen(None), 1500), [("control", Ok)]);
        assert_eq!(said(Trust::AnyServer, "", &seen(None), 1500), [("control", Warn)], "nothing was compared");
        assert_eq!(said(pin, "web", &seen(None), 1500), [("control", Ok), ("image", Warn)], "a doctor serves nothing");
        let served = seen(Some(Result::Ok(enrolled())));
        assert_eq!(said(pin, "web", &served, 1500), [("control", Ok), ("image", Ok), ("session", Ok)]);
        assert_eq!(said(pin, "web", &served, 1400), [("control", Ok), ("image", Ok), ("session", Fail)]);
        let server = ServerAddress { host: "sender".to_owned(), port: 4700 };
        let refused = ControlError::Refused { server: server.clone(), reason: "no image of that name; it serves: db".to_owned() };
        assert_eq!(said(pin, "web", &seen(Some(Err(refused))), 1500), [("control", Ok), ("image", Fail)]);
        let (expected, got) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
        assert_eq!(said(pin, "", &Err(ControlError::Fingerprint { server: server.clone(), expected, got }), 1500), [("control", Fail)]);
        let unreachable = Err(ControlError::Unreachable { server, seconds: 0, last: "connection refused".to_owned() });
        assert_eq!(said(pin, "", &unreachable, 1500), [("control", Fail)]);
    }
}
