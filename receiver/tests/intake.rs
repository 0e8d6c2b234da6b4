//! Intake on a real interface: a veth between two network namespaces.
//!
//! | test | what it proves |
//! | --- | --- |
//! | … receives exactly what is wanted | every intake, with every place of the filter: wanted chunks and syncs arrive whole, others do not, a cleared bit counts at once, counts add up |
//! | IPv6, two streams, jumbo | groups of both families; several ports; packets of several UMEM frames |
//! | membership | it is listed by the kernel, and left |
//! | streams are joined and left | the kernel lists exactly the groups that are followed, a group that stays is never left, packets of a group that is joined come once |
//! | fall back | an interface that is taken gives UDP and the filter in user space; insisting gives an error |
//! | nothing stays behind | after SIGKILL no program is attached |
//!
//! Needs root; says so where it has none.

mod support;

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use receiver::intake::{self, IntakeMode, IntakeOptions, Opened, PacketCounts, XdpMode, is_member};
use receiver::interface::Interface;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use socket2::{Domain, Protocol, SockRef, Type};
use support::{DEADLINE, Pair, eventually};
use wire::packet::{Header, Kind};
use wire::session::SessionParameters;
use wire::{ChunkId, Sequence, SessionId, StreamId, Symbol, SymbolIndex};

const GROUP: &str = "239.192.68.1:4700";
const GROUP_V6: &str = "[ff18::d15c]:4700";
const SESSION: SessionId = SessionId(0xC0FFEE);
const CHUNK_COUNT: u32 = 10;
/// Set for the process that is there to be killed.
const CHILD: &str = "DISCUS_TEST_INTAKE_CHILD";

fn main() -> ExitCode {
    if std::env::var_os(CHILD).is_some() {
        return hold_intake();
    }
    let arguments = Arguments::from_args();
    let privileged = geteuid().is_root();
    let modes = [
        ("af_xdp_in_driver_mode", how(IntakeMode::AfXdp, XdpMode::Driver)),
        ("af_xdp_with_busy_polling", IntakeOptions { busy_poll: true, ..how(IntakeMode::AfXdp, XdpMode::Driver) }),
        ("af_xdp_in_generic_mode", how(IntakeMode::AfXdpCopy, XdpMode::Generic)),
        ("udp_behind_the_kernel_filter", how(IntakeMode::Udp, XdpMode::Auto)),
        ("udp_with_the_filter_in_user_space", how(IntakeMode::Udp, XdpMode::Off)),
    ];
    let mut trials: Vec<Trial> = modes
        .into_iter()
        .map(|(name, options)| Trial::test(format!("{name}_receives_exactly_what_is_wanted"), move || exactly_what_is_wanted(options)))
        .collect();
    trials.extend([
        Trial::test("an_ipv6_group_is_received_through_af_xdp", || other_groups(&[GROUP_V6], IntakeMode::AfXdp)),
        Trial::test("an_ipv6_group_is_received_through_udp", || other_groups(&[GROUP_V6], IntakeMode::Udp)),
        Trial::test("two_streams_are_received_through_af_xdp", || other_groups(&[GROUP, "239.192.68.2:4702"], IntakeMode::AfXdp)),
        Trial::test("two_streams_are_received_through_udp", || other_groups(&[GROUP, "239.192.68.2:4702"], IntakeMode::Udp)),
        Trial::test("jumbo_packets_of_several_frames_are_put_together", jumbo_packets),
        Trial::test("membership_is_listed_and_left", membership_is_listed_and_left),
        Trial::test("streams_are_joined_and_left_through_af_xdp", || joined_and_left(IntakeMode::AfXdp)),
        Trial::test("streams_are_joined_and_left_through_udp", || joined_and_left(IntakeMode::Udp)),
        Trial::test("an_occupied_interface_gives_udp_and_a_filter_in_user_space", occupied_interface),
        Trial::test("insisting_on_af_xdp_without_xdp_is_an_error", insisting_is_an_error),
        Trial::test("a_killed_receiver_leaves_no_program", a_killed_receiver_leaves_no_program),
    ]);
    if !privileged && !arguments.list {
        eprintln!("skipped {} tests: they make network namespaces and attach XDP programs, which needs root", trials.len());
    }
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(!privileged)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn parameters(symbol_bytes: u16) -> SessionParameters {
    SessionParameters { session: SESSION, symbol_bytes, chunk_count: CHUNK_COUNT, chunk_bytes_max: 256 * 1024 }
}

/// The packet of symbol 0 of `chunk`, or the sync that carries `chunk` as its number of chunks.
fn packet(parameters: &SessionParameters, chunk: u32) -> Vec<u8> {
    let header = Header {
        kind: if chunk < CHUNK_COUNT { Kind::Symbol } else { Kind::Sync },
        session: parameters.session,
        chunk: ChunkId(chunk),
        symbol: SymbolIndex(0),
        source_symbols: 1,
        sequence: Sequence(chunk),
        stream: StreamId(0),
    };
    let symbol: Vec<u8> =
        if header.kind == Kind::Symbol { (0..parameters.symbol_bytes).map(|at| (at as u8).wrapping_mul(31)).collect() } else { Vec::new() };
    let mut bytes = [0; wire::packet::HEADER_BYTES];
    header.write(&mut bytes, Symbol::new(&symbol));
    [&bytes[..], &symbol].concat()
}

fn sending_socket(pair: &Pair, group: SocketAddr) -> io::Result<UdpSocket> {
    pair.sender.inside(|| {
        let socket = UdpSocket::from(socket2::Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP))?);
        let settings = SockRef::from(&socket);
        match group.ip() {
            IpAddr::V4(_) => settings.set_multicast_if_v4(&"10.77.0.1".parse().map_err(io::Error::other)?)?,
            IpAddr::V6(_) => settings.set_multicast_if_v6(Interface::find("eth0")?.index())?,
        }
        Ok(socket)
    })?
}

fn how(mode: IntakeMode, xdp: XdpMode) -> IntakeOptions {
    IntakeOptions { mode, xdp, busy_poll: false }
}

fn open(pair: &Pair, groups: &[SocketAddr], symbol_bytes: u16, options: IntakeOptions) -> Result<Opened, Failed> {
    let opened = pair.receiver.inside(|| {
        let interface = Interface::find("eth0")?;
        intake::open(&interface, &parameters(symbol_bytes), groups, groups, options).map_err(io::Error::other)
    })??;
    eprintln!("filter {}; intake {}", opened.filter.describe(), opened.intake.describe());
    Ok(opened)
}

/// The chunks of the packets that arrive until a sync does, which is sent last.
fn chunks_until_sync(opened: &mut Opened) -> Result<Vec<u32>, Failed> {
    let mut chunks = Vec::new();
    let mut broken = None;
    let deadline = Instant::now() + DEADLINE;
    while chunks.last() != Some(&CHUNK_COUNT) {
        if Instant::now() > deadline {
            return Err(format!("no sync; got {chunks:?}").into());
        }
        let filter = &mut opened.filter;
        let received = opened.intake.receive(&mut |payload| {
            if filter.admits(payload) {
                match Header::parse(payload) {
                    Ok((header, _)) if header.session == SESSION => chunks.push(header.chunk.0),
                    // To a UDP socket other sessions get through, like any traffic that is not the filter's business.
                    Ok(_) => {}
                    Err(error) => broken = Some(error),
                }
            }
        })?;
        if received == 0 {
            opened.intake.wait(Duration::from_millis(50))?;
        }
    }
    match broken {
        Some(error) => Err(format!("a packet arrived broken: {error}").into()),
        None => Ok(chunks),
    }
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, have: T, want: T) -> Result<(), Failed> {
    if have == want { Ok(()) } else { Err(format!("{what}: {have:?} instead of {want:?}").into()) }
}

fn exactly_what_is_wanted(options: IntakeOptions) -> Result<(), Failed> {
    let pair = Pair::new(1500)?;
    let group = GROUP.parse()?;
    let mut opened = open(&pair, &[group], 1408, options)?;
    let wants = opened.filter.want_set();
    for id in [2, 5, CHUNK_COUNT] {
        wants.set(id);
    }
    let socket = sending_socket(&pair, group)?;
    let parameters = parameters(1408);
    let send_all = || (0..=CHUNK_COUNT).try_for_each(|chunk| socket.send_to(&packet(&parameters, chunk), group).map(|_| ()));

    send_all()?;
    expect("wanted chunks and the sync", chunks_until_sync(&mut opened)?, vec![2, 5, CHUNK_COUNT])?;
    wants.clear(2);
    let other_session = SessionParameters { session: SessionId(1), ..parameters };
    socket.send_to(&packet(&other_session, 5), group)?;
    send_all()?;
    expect("after 2 was cleared", chunks_until_sync(&mut opened)?, vec![5, CHUNK_COUNT])?;

    let (sent, accepted) = (u64::from(2 * (CHUNK_COUNT + 1)), 5);
    expect("counts", opened.filter.counts(), PacketCounts { seen: sent, accepted, dropped: sent - accepted })?;
    expect("overruns", opened.intake.overruns(), 0)
}

fn other_groups(groups: &[&str], mode: IntakeMode) -> Result<(), Failed> {
    let pair = Pair::new(1500)?;
    let groups: Vec<SocketAddr> = groups.iter().map(|group| group.parse()).collect::<Result<_, _>>()?;
    let mut opened = open(&pair, &groups, 1408, how(mode, XdpMode::Auto))?;
    opened.filter.want_set().set_all();
    for (&group, chunk) in groups.iter().zip(0..) {
        let socket = sending_socket(&pair, group)?;
        socket.send_to(&packet(&parameters(1408), chunk), group)?;
        socket.send_to(&packet(&parameters(1408), CHUNK_COUNT), group)?;
        expect("one chunk and a sync of this group", chunks_until_sync(&mut opened)?, vec![chunk, CHUNK_COUNT])?;
    }
    Ok(())
}

fn jumbo_packets() -> Result<(), Failed> {
    let pair = Pair::new(9000)?;
    let group = GROUP.parse()?;
    let mut opened = open(&pair, &[group], 8768, how(IntakeMode::AfXdp, XdpMode::Auto))?;
    opened.filter.want_set().set_all();
    let socket = sending_socket(&pair, group)?;
    for chunk in 0..=CHUNK_COUNT {
        socket.send_to(&packet(&parameters(8768), chunk), group)?;
    }
    expect("all chunks", chunks_until_sync(&mut opened)?, (0..=CHUNK_COUNT).collect())
}

fn membership_is_listed_and_left() -> Result<(), Failed> {
    let pair = Pair::new(1500)?;
    for group in [GROUP, GROUP_V6] {
        let group: SocketAddr = group.parse()?;
        let listed = || pair.receiver.inside(|| is_member(&Interface::find("eth0")?, group.ip()))?;
        expect("listed before", listed()?, false)?;
        let opened = open(&pair, &[group], 1408, how(IntakeMode::AfXdp, XdpMode::Auto))?;
        expect("listed while open", listed()?, true)?;
        drop(opened);
        eventually("the group is left", || Ok(!listed()?))?;
    }
    Ok(())
}

fn joined_and_left(mode: IntakeMode) -> Result<(), Failed> {
    let pair = Pair::new(1500)?;
    let groups = ["239.192.68.1:4700", "239.192.68.2:4700", "239.192.68.3:4700"];
    let groups: Vec<SocketAddr> = groups.iter().map(|group| group.parse()).collect::<Result<_, _>>()?;
    let listed = || {
        pair.receiver.inside(|| {
            let interface = Interface::find("eth0")?;
            groups.iter().map(|group| is_member(&interface, group.ip())).collect::<io::Result<Vec<bool>>>()
        })
    };
    let mut opened = pair.receiver.inside(|| {
        let interface = Interface::find("eth0")?;
        intake::open(&interface, &parameters(1408), &groups, &groups[..1], how(mode, XdpMode::Auto)).map_err(io::Error::other)
    })??;
    opened.filter.want_set().set_all();
    expect("at open", listed()??, vec![true, false, false])?;
    let sockets: Vec<UdpSocket> = groups.iter().map(|&group| sending_socket(&pair, group)).collect::<io::Result<_>>()?;
    for followed in [&[0, 1][..], &[1, 2], &[2], &[], &[2, 0]] {
        let joined: Vec<SocketAddr> = followed.iter().map(|&at| groups[at]).collect();
        pair.receiver.inside(|| opened.follow(&joined))??;
        let expected: Vec<bool> = (0..groups.len()).map(|at| followed.contains(&at)).collect();
        // The kernel may take a group off its list a little later.
        eventually("exactly these groups are listed", || Ok(listed()?? == expected))?;
        expect("the groups", opened.membership.groups().collect(), joined)?;
        for &at in followed {
            sockets[at].send_to(&packet(&parameters(1408), at as u32), groups[at])?;
            sockets[at].send_to(&packet(&parameters(1408), CHUNK_COUNT), groups[at])?;
            expect("one chunk and a sync of this group", chunks_until_sync(&mut opened)?, vec![at as u32, CHUNK_COUNT])?;
        }
    }
    Ok(())
}

fn occupied_interface() -> Result<(), Failed> {
    let pair = Pair::new(1500)?;
    let group = GROUP.parse()?;
    let _first = open(&pair, &[group], 1408, how(IntakeMode::AfXdp, XdpMode::Driver))?;
    let second = open(&pair, &[group], 1408, how(IntakeMode::Auto, XdpMode::Auto))?;
    let (filter, intake) = (second.filter.describe(), second.intake.describe());
    if !filter.contains("user space") || !intake.contains("UDP") {
        return Err(format!("filter {filter}; intake {intake}").into());
    }
    match open(&pair, &[group], 1408, how(IntakeMode::Auto, XdpMode::Driver)) {
        Ok(_) => Err("two programs on one interface".into()),
        Err(_) => Ok(()),
    }
}

fn insisting_is_an_error() -> Result<(), Failed> {
    let pair = Pair::new(1500)?;
    match open(&pair, &[GROUP.parse()?], 1408, how(IntakeMode::AfXdp, XdpMode::Off)) {
        Ok(opened) => Err(format!("got {}", opened.intake.describe()).into()),
        Err(_) => Ok(()),
    }
}

fn a_killed_receiver_leaves_no_program() -> Result<(), Failed> {
    let pair = Pair::new(1500)?;
    let program = std::env::current_exe()?;
    // `ip netns exec` becomes the program, so that the child's id is the program's.
    let mut child = pair.receiver.command(&program).env(CHILD, "1").stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    let attached = pair.receiver.has_xdp()?;
    kill_process(Pid::from_child(&child), Signal::KILL)?;
    child.wait()?;
    expect("the child said", line.trim(), "open")?;
    expect("attached while it lived", attached, true)?;
    eventually("the program is gone", || Ok(!pair.receiver.has_xdp()?))
}

/// The process that is killed: has an intake open and waits.
fn hold_intake() -> ExitCode {
    let opened = Interface::find("eth0").map_err(|error| error.to_string()).and_then(|interface| {
        let groups = [GROUP.parse().map_err(|_| "group")?];
        intake::open(&interface, &parameters(1408), &groups, &groups, how(IntakeMode::AfXdp, XdpMode::Driver))
            .map_err(|error| error.to_string())
    });
    println!("{}", if opened.is_ok() { "open" } else { "failed" });
    let _ = io::stdout().flush();
    std::thread::sleep(DEADLINE);
    ExitCode::FAILURE
}
