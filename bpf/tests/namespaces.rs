//! The filter on a real interface with real traffic: a veth between two network namespaces.
//!
//! | test | what it proves |
//! | --- | --- |
//! | wants decide, at once | only wanted ids arrive; a bit cleared in user space counts for the next packet; counters add up |
//! | other traffic passes | foreign ports, other sessions and IPv6 reach their sockets with the filter attached |
//! | modes | driver mode on a veth, at MTU 9000 too; generic mode when asked for; what the mode says |
//! | nothing stays behind | after detach, drop, SIGTERM and SIGKILL no program is attached |
//! | occupied, missing | the errors that tell the operator what is wrong, and their exit codes |
//!
//! Needs root; says so where it has none.

mod support;

use std::io::{self, BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Child, ExitCode, Stdio};
use std::time::{Duration, Instant};

use bpf::fixtures::{self, PORT};
use bpf::{AttachMode, AttachedMode, Counters, Error, Filter, FilterConfig, OnWanted};
use libtest_mimic::{Failed, Trial};
use rustix::process::{Pid, Signal, kill_process};
use support::namespaces::{Namespace, Pair};

/// Nothing here takes longer unless it is broken.
const DEADLINE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let privileged = vec![
        Trial::test("wants_decide_and_a_cleared_bit_counts_at_once", wants_decide_at_once),
        Trial::test("other_traffic_passes_untouched", other_traffic_passes),
        Trial::test("jumbo_packets_are_filtered_in_driver_mode", jumbo_packets_in_driver_mode),
        Trial::test("generic_mode_filters_too_and_says_why", generic_mode_filters_too),
        Trial::test("detach_and_drop_leave_nothing_behind", detach_and_drop_leave_nothing),
        Trial::test("an_occupied_interface_is_reported", an_occupied_interface_is_reported),
        Trial::test("the_command_detaches_on_sigterm_and_says_what_it_counted", the_command_ends_on_sigterm),
        Trial::test("a_killed_command_leaves_nothing_behind", a_killed_command_leaves_nothing),
        Trial::test("the_command_has_an_exit_code_for_each_error", the_command_has_exit_codes),
    ];
    support::run(Vec::new(), privileged)
}

fn check(condition: bool, why: impl FnOnce() -> String) -> Result<(), Failed> {
    if condition { Ok(()) } else { Err(why().into()) }
}

/// Waits until `condition` holds.
fn eventually(what: &str, mut condition: impl FnMut() -> io::Result<bool>) -> Result<(), Failed> {
    let deadline = Instant::now() + DEADLINE;
    while !condition()? {
        check(Instant::now() < deadline, || format!("not within {DEADLINE:?}: {what}"))?;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The fixtures' feed, for ordinary sockets.
fn config() -> FilterConfig {
    FilterConfig { on_wanted: OnWanted::Pass, ..fixtures::config() }
}

/// Sockets at both ends of a pair.
struct Link {
    from: UdpSocket,
    to: UdpSocket,
    port: u16,
}

impl Link {
    fn new(pair: &Pair, port: u16) -> io::Result<Self> {
        let to = pair.receiver.inside(|| UdpSocket::bind(("10.77.0.2", port)))??;
        to.set_read_timeout(Some(DEADLINE))?;
        let from = pair.sender.inside(|| UdpSocket::bind("10.77.0.1:0"))??;
        Ok(Self { from, to, port })
    }

    fn send(&self, payload: &[u8]) -> io::Result<()> {
        self.from.send_to(payload, ("10.77.0.2", self.port)).map(|_| ())
    }

    /// The next payload that arrives.
    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut payload = vec![0; 65_536];
        let bytes = self.to.recv(&mut payload)?;
        payload.truncate(bytes);
        Ok(payload)
    }
}

fn attach(namespace: &Namespace, config: &FilterConfig, mode: AttachMode) -> Result<Filter, Failed> {
    Ok(namespace.inside(|| Filter::attach("eth0", config, mode))??)
}

fn wants_decide_at_once() -> Result<(), Failed> {
    let pair = Pair::new()?;
    let link = Link::new(&pair, PORT)?;
    let filter = attach(&pair.receiver, &config(), AttachMode::Auto)?;
    check(*filter.mode() == AttachedMode::Driver, || format!("{}", filter.mode()))?;
    let wants = filter.want_set();
    let rounds = 200;
    for round in 0..rounds {
        // Two ids; the first is wanted in every round, the second is a mark that is always wanted.
        let (id, mark) = (10 + round, 900);
        wants.set(id);
        wants.set(mark);
        link.send(&fixtures::payload(id))?;
        check(link.receive()? == fixtures::payload(id), || format!("id {id} arrived changed"))?;
        wants.clear(id);
        // The veth keeps their order, so if the mark is next the finished one was dropped.
        link.send(&fixtures::payload(id))?;
        link.send(&fixtures::payload(mark))?;
        check(link.receive()? == fixtures::payload(mark), || format!("id {id} passed after its bit was cleared"))?;
    }
    link.send(&fixtures::payload(fixtures::ID_COUNT))?;
    link.send(&fixtures::payload(900)[..20])?;
    let counted = |counters: &Counters| (counters.wanted_passed, counters.unwanted, counters.id_out_of_range, counters.malformed);
    let expected = (2 * u64::from(rounds), u64::from(rounds), 1, 1);
    eventually("all packets are counted", || Ok(filter.counters().is_ok_and(|counters| counted(&counters) == expected)))
}

fn other_traffic_passes() -> Result<(), Failed> {
    let pair = Pair::new()?;
    let (foreign, ours) = (Link::new(&pair, PORT - 1)?, Link::new(&pair, PORT)?);
    let filter = attach(&pair.receiver, &config(), AttachMode::Auto)?;
    foreign.send(&fixtures::payload(fixtures::UNWANTED))?;
    check(foreign.receive()? == fixtures::payload(fixtures::UNWANTED), || "foreign port".to_owned())?;
    for payload in [&b"another application"[..], b"", &[0xff; 1400]] {
        ours.send(payload)?;
        check(ours.receive()? == payload, || format!("other session, {} bytes", payload.len()))?;
    }
    // More than fits a packet: the fragments pass and become a datagram again.
    let mut long = fixtures::payload(fixtures::UNWANTED);
    long.resize(5000, 7);
    ours.send(&long)?;
    check(ours.receive()? == long, || "fragments".to_owned())?;
    let counters = filter.counters()?;
    check(counters.other_session == 3 && counters.foreign >= 5 && counters.dropped() == 0, || format!("{counters:?}"))
}

fn jumbo_packets_in_driver_mode() -> Result<(), Failed> {
    let pair = Pair::new()?;
    for namespace in [&pair.sender, &pair.receiver] {
        namespace.ip(&["link", "set", "eth0", "mtu", "9000"])?;
    }
    let link = Link::new(&pair, PORT)?;
    let filter = attach(&pair.receiver, &config(), AttachMode::Driver)?;
    filter.want_set().set(1);
    let jumbo = |id| {
        let mut payload = fixtures::payload(id);
        payload.resize(8900, 3);
        payload
    };
    link.send(&jumbo(2))?;
    link.send(&jumbo(1))?;
    check(link.receive()? == jumbo(1), || "the wanted jumbo packet is not the first".to_owned())?;
    let counters = filter.counters()?;
    check(counters.unwanted == 1 && counters.wanted_passed == 1, || format!("{counters:?}"))
}

fn generic_mode_filters_too() -> Result<(), Failed> {
    let pair = Pair::new()?;
    let link = Link::new(&pair, PORT)?;
    let filter = attach(&pair.receiver, &config(), AttachMode::Generic)?;
    check(filter.mode().to_string() == "generic mode (asked for)", || filter.mode().to_string())?;
    filter.want_set().set(1);
    link.send(&fixtures::payload(2))?;
    link.send(&fixtures::payload(1))?;
    check(link.receive()? == fixtures::payload(1), || "the wanted packet is not the first".to_owned())
}

fn detach_and_drop_leave_nothing() -> Result<(), Failed> {
    let pair = Pair::new()?;
    let filter = attach(&pair.receiver, &config(), AttachMode::Auto)?;
    check(pair.receiver.has_xdp()?, || "nothing attached".to_owned())?;
    filter.detach()?;
    check(!pair.receiver.has_xdp()?, || "still attached after detach".to_owned())?;
    drop(attach(&pair.receiver, &config(), AttachMode::Generic)?);
    check(!pair.receiver.has_xdp()?, || "still attached after drop".to_owned())
}

fn an_occupied_interface_is_reported() -> Result<(), Failed> {
    let pair = Pair::new()?;
    let first = attach(&pair.receiver, &config(), AttachMode::Auto)?;
    for mode in [AttachMode::Auto, AttachMode::Driver, AttachMode::Generic] {
        let second = pair.receiver.inside(|| Filter::attach("eth0", &config(), mode))?;
        check(matches!(second, Err(Error::Busy { .. })), || format!("{mode:?}: {second:?}"))?;
    }
    first.detach()?;
    let missing = pair.receiver.inside(|| Filter::attach("eth7", &config(), AttachMode::Auto))?;
    check(matches!(missing, Err(Error::Interface { .. })), || format!("{missing:?}"))
}

/// A running `discus-filter`, killed when dropped.
struct Command(Child);

impl Command {
    /// Starts it in a namespace and waits until it says that it is attached.
    fn start(namespace: &Namespace, arguments: &[&str]) -> Result<(Self, impl Iterator<Item = String>), Failed> {
        let mut child = namespace
            .command(env!("CARGO_BIN_EXE_discus-filter"))
            .args(["--interface", "eth0", "--port", "5000-5003", "--match-value", "464545440001cafe", "--id-offset", "8"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        let command = Self(child);
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let first = lines.next().unwrap_or_default();
        check(first.contains("driver mode") && namespace.has_xdp()?, || format!("not attached: {first:?}"))?;
        Ok((command, lines))
    }

    /// `ip netns exec` has become the command itself, so the child is the command.
    fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.0), signal)?)
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn the_command_ends_on_sigterm() -> Result<(), Failed> {
    let pair = Pair::new()?;
    let link = Link::new(&pair, PORT)?;
    let (mut command, lines) = Command::start(&pair.receiver, &["--ids", "0-3,9", "--id-count", "20", "--json"])?;
    for id in [1, 4, 5, 20, 9] {
        link.send(&fixtures::payload(id))?;
    }
    check(link.receive()? == fixtures::payload(1) && link.receive()? == fixtures::payload(9), || "wrong packets passed".to_owned())?;
    command.signal(Signal::TERM)?;
    let last = lines.last().ok_or("no output")?;
    let event: serde_json::Value = serde_json::from_str(&last).map_err(|error| format!("{error}: {last}"))?;
    let total = &event["total"];
    check(event["event"] == "total" && total["wanted_passed"] == 2 && total["unwanted"] == 2 && total["id_out_of_range"] == 1, || last)?;
    let status = command.0.wait()?;
    check(status.code() == Some(0), || format!("{status}"))?;
    check(!pair.receiver.has_xdp()?, || "still attached".to_owned())
}

fn a_killed_command_leaves_nothing() -> Result<(), Failed> {
    let pair = Pair::new()?;
    let (mut command, _lines) = Command::start(&pair.receiver, &["--ids", "none"])?;
    command.signal(Signal::KILL)?;
    command.0.wait()?;
    eventually("the kernel detaches a killed program's filter", || Ok(!pair.receiver.has_xdp()?))
}

fn the_command_has_exit_codes() -> Result<(), Failed> {
    let pair = Pair::new()?;
    let occupied = attach(&pair.receiver, &config(), AttachMode::Auto)?;
    for (interface, id_offset, code) in [("eth0", "8", 5), ("eth7", "8", 4), ("eth0", "9999", 2), ("eth0", "x", 2)] {
        let output = pair
            .receiver
            .command(env!("CARGO_BIN_EXE_discus-filter"))
            .args(["--interface", interface, "--port", "5000", "--ids", "1", "--id-offset", id_offset])
            .output()?;
        check(output.status.code() == Some(code), || format!("{interface} {id_offset}: {output:?}"))?;
    }
    Ok(occupied.detach()?)
}
