//! What the program in the kernel says about packets, by BPF_PROG_TEST_RUN and without any interface: every
//! fixture gets the verdict it is owed, and thousands of mutated packets under several
//! configurations get the verdict of an independent model. Needs root; says so where it has none.

mod support;

use std::process::ExitCode;

use bpf::fixtures::{self, Fixture};
use bpf::measure::{BUDGET, FixtureFilters, loop_floor};
use bpf::{Error, FilterConfig, IdWidth, LoadedFilter, Mark, OnWanted, Streams, Verdict};
use libtest_mimic::{Failed, Trial};
use support::{Random, model};

fn main() -> ExitCode {
    let unprivileged = vec![
        Trial::test("the_model_agrees_with_the_table", the_model_agrees_with_the_table),
        Trial::test("a_bad_configuration_is_refused_before_the_kernel_sees_it", a_bad_configuration_is_refused),
    ];
    let mut privileged: Vec<_> =
        fixtures::table().into_iter().map(|fixture| Trial::test(format!("verdict: {}", fixture.name), move || verdict(&fixture))).collect();
    privileged.extend([
        Trial::test("every_prefix_of_every_fixture_gets_the_models_verdict", every_prefix),
        Trial::test("mutated_packets_get_the_models_verdict", mutated_packets),
        Trial::test("a_cleared_bit_counts_with_the_next_packet", a_cleared_bit_counts_with_the_next_packet),
        Trial::test("a_closed_socket_gives_its_packets_back_to_the_stack", a_closed_socket_gives_its_packets_back),
        Trial::test("only_af_xdp_sockets_on_possible_queues_are_registered", only_af_xdp_sockets_are_registered),
        Trial::test("a_mark_tells_what_of_its_stream_ended_here_before_it", a_mark_tells_what_ended_before_it),
        Trial::test("the_want_set_outlives_the_filter", the_want_set_outlives_the_filter),
        Trial::test("want_sets_of_every_size_work_to_their_last_id", want_sets_of_every_size_work_to_their_last_id),
        Trial::test("every_fixture_is_measured", every_fixture_is_measured),
    ]);
    support::run(unprivileged, privileged)
}

fn check(condition: bool, why: impl FnOnce() -> String) -> Result<(), Failed> {
    if condition { Ok(()) } else { Err(why().into()) }
}

fn verdict(fixture: &Fixture) -> Result<(), Failed> {
    let measured = FixtureFilters::load(&fixtures::config())?.measure(fixture, 3, 1)?;
    check(measured.verdict == Some(fixture.verdict), || format!("counted under {:?}, owed {}", measured.verdict, fixture.verdict))?;
    check(measured.action == fixture.verdict.action(), || format!("{:?} under {}", measured.action, fixture.verdict))
}

fn the_model_agrees_with_the_table() -> Result<(), Failed> {
    let wants = bpf::WantSet::in_memory(fixtures::ID_COUNT);
    wants.set(fixtures::WANTED);
    for fixture in fixtures::table() {
        let says = model::judge(&fixtures::config(), &wants, fixture.with_socket, &fixture.packet);
        check(says == fixture.verdict, || format!("{}: the model says {says}, the table {}", fixture.name, fixture.verdict))?;
    }
    Ok(())
}

fn a_bad_configuration_is_refused() -> Result<(), Failed> {
    let refused = LoadedFilter::load(&FilterConfig { id_count: 0, ..fixtures::config() });
    check(matches!(refused, Err(Error::Config(_))), || format!("{refused:?}"))
}

/// Runs one packet and compares with the model.
fn compare(filters: &FixtureFilters, config: &FilterConfig, with_socket: bool, packet: &[u8], name: &'static str) -> Result<(), Failed> {
    let owed = model::judge(config, &filters.filter(with_socket).want_set(), with_socket, packet);
    let fixture = Fixture { name, packet: packet.to_vec(), with_socket, verdict: owed };
    let measured = filters.measure(&fixture, 1, 1)?;
    check(measured.verdict == Some(owed) && measured.action == owed.action(), || {
        format!("{name}: {:?}, {:?}, owed {owed}; config {config:?}, packet {packet:02x?}", measured.verdict, measured.action)
    })
}

fn every_prefix() -> Result<(), Failed> {
    let config = fixtures::config();
    let filters = FixtureFilters::load(&config)?;
    for fixture in fixtures::table() {
        // The kernel runs nothing shorter than an Ethernet header; past the feed's header nothing changes.
        for bytes in 14..=fixture.packet.len().min(150) {
            compare(&filters, &config, fixture.with_socket, &fixture.packet[..bytes], fixture.name)?;
        }
    }
    Ok(())
}

fn mutated_packets() -> Result<(), Failed> {
    const SEED: u64 = 2026;
    const PACKETS_PER_CONFIG: usize = 20_000;
    let base = fixtures::config();
    let configs = [
        base.clone(),
        FilterConfig { on_wanted: OnWanted::Pass, ..base.clone() },
        FilterConfig { id_width: IdWidth::U8, id_offset: 11, id_count: 200, ..base.clone() },
        FilterConfig { id_width: IdWidth::U16, id_offset: 10, id_count: 65_536, ..base.clone() },
        FilterConfig { match_mask: 0, min_payload_bytes: 0, ..base.clone() },
        FilterConfig { match_mask: 0xffff_0000_0000_00f0, match_offset: 0, ..base.clone() },
        FilterConfig { match_offset: 3, match_value: base.match_value << 24, match_mask: 0xffff_ffff_ff00_0000, ..base.clone() },
        FilterConfig { first_port: 65_535, port_count: 1, ..base.clone() },
        FilterConfig { first_port: 0, port_count: u16::MAX, ..base.clone() },
        FilterConfig { min_payload_bytes: u16::MAX, ..base.clone() },
        FilterConfig { id_offset: 1020, ..base.clone() },
    ];
    let table = fixtures::table();
    for config in &configs {
        let filters = FixtureFilters::load(config)?;
        let mut random = Random(SEED);
        let mut verdicts = [0; Verdict::ALL.len()];
        for _ in 0..PACKETS_PER_CONFIG {
            let fixture = &table[random.below(table.len())];
            let mut packet = fixture.packet.clone();
            // Where an untagged IPv4 packet has its port: about the range that this configuration asks for.
            if packet.len() > 38 && random.below(2) == 0 {
                let port = config.first_port.wrapping_add(random.below(6) as u16).wrapping_sub(1);
                packet[36..38].copy_from_slice(&port.to_be_bytes());
            }
            // Most mutations hit the headers, half of them a single bit.
            for _ in 0..random.below(3) {
                let at = random.below(packet.len().min(90));
                let noise = random.next();
                packet[at] ^= if noise & 1 == 0 { 1 << (noise >> 1 & 7) } else { (noise >> 8) as u8 };
            }
            if random.below(4) == 0 {
                packet.truncate(14 + random.below(packet.len().min(100) - 13));
            }
            let with_socket = random.below(2) == 0;
            compare(&filters, config, with_socket, &packet, fixture.name).map_err(|failed| format!("seed {SEED}: {failed:?}"))?;
            verdicts[model::judge(config, &filters.filter(with_socket).want_set(), with_socket, &packet) as usize] += 1;
        }
        check(verdicts.iter().filter(|&&count| count > 0).count() >= 2, || {
            format!("the packets prove nothing for {config:?}: {verdicts:?}")
        })?;
    }
    Ok(())
}

fn a_cleared_bit_counts_with_the_next_packet() -> Result<(), Failed> {
    let filter = LoadedFilter::load(&fixtures::config())?;
    let wants = filter.want_set();
    let packet = fixtures::Frame::udp(fixtures::PORT, fixtures::payload(fixtures::UNWANTED)).bytes();
    let expected = |wanted| if wanted { bpf::Action::Pass } else { bpf::Action::Drop };
    for wanted in [false, true, false, true] {
        if wanted {
            wants.set(fixtures::UNWANTED);
        } else {
            wants.clear(fixtures::UNWANTED);
        }
        let run = filter.test_run(&packet, 1)?;
        check(run.action == expected(wanted), || format!("wanted {wanted}: {:?}", run.action))?;
    }
    Ok(())
}

fn a_closed_socket_gives_its_packets_back() -> Result<(), Failed> {
    let filter = LoadedFilter::load(&fixtures::config())?;
    filter.want_set().set(fixtures::WANTED);
    let packet = fixtures::Frame::udp(fixtures::PORT, fixtures::payload(fixtures::WANTED)).bytes();
    let socket = rustix::net::socket(rustix::net::AddressFamily::XDP, rustix::net::SocketType::RAW, None)?;
    filter.register_socket(0, std::os::fd::AsFd::as_fd(&socket))?;
    let open = filter.test_run(&packet, 1)?;
    check(open.action == bpf::Action::Redirect, || format!("open: {:?}", open.action))?;
    drop(socket);
    let closed = filter.test_run(&packet, 1)?;
    check(closed.action == bpf::Action::Pass, || format!("closed: {:?}", closed.action))
}

fn only_af_xdp_sockets_are_registered() -> Result<(), Failed> {
    let filter = LoadedFilter::load(&fixtures::config())?;
    let udp = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let refused = filter.register_socket(0, std::os::fd::AsFd::as_fd(&udp));
    check(matches!(refused, Err(Error::Socket { queue: 0, .. })), || format!("UDP: {refused:?}"))?;
    let socket = rustix::net::socket(rustix::net::AddressFamily::XDP, rustix::net::SocketType::RAW, None)?;
    let refused = filter.register_socket(1024, std::os::fd::AsFd::as_fd(&socket));
    check(matches!(refused, Err(Error::Socket { queue: 1024, .. })), || format!("queue 1024: {refused:?}"))?;
    Ok(filter.register_socket(1023, std::os::fd::AsFd::as_fd(&socket))?)
}

/// Streams are numbered in bytes 12 and 13 of the payload, packets in 16 to 19; marks have an id that is wanted.
fn a_mark_tells_what_ended_before_it() -> Result<(), Failed> {
    let streams = Streams { stream_offset: 12, sequence_offset: 16, mark_id: fixtures::WANTED };
    let filter = LoadedFilter::load(&FilterConfig { streams: Some(streams), ..fixtures::config() })?;
    let wants = filter.want_set();
    wants.set(fixtures::WANTED);
    wants.set(fixtures::FINISHED);
    let packet = |id: u32, stream: u16, sequence: u32| {
        let mut payload = fixtures::payload(id);
        payload[12..14].copy_from_slice(&stream.to_be_bytes());
        payload[16..20].copy_from_slice(&sequence.to_be_bytes());
        fixtures::Frame::udp(fixtures::PORT, payload).bytes()
    };
    let run = |id, stream, sequence, repeat| filter.test_run(&packet(id, stream, sequence), repeat).map(drop);
    let expect = |what: &str, stream, sequence, unwanted| {
        let mark = filter.mark(stream);
        check(mark == Some(Mark { sequence, unwanted }), || format!("{what}: {mark:?} instead of {sequence}, {unwanted}"))
    };
    run(fixtures::UNWANTED, 3, 1, 4)?;
    expect("before the first mark", 3, 0, 0)?;
    run(fixtures::WANTED, 3, 0x0102_0304, 1)?;
    expect("four had ended", 3, 0x0102_0304, 4)?;
    run(fixtures::UNWANTED, 3, 2, 2)?;
    run(fixtures::FINISHED, 3, 9, 1)?;
    expect("what came since, and wanted ones that are no marks, do not count", 3, 0x0102_0304, 4)?;
    run(fixtures::UNWANTED, 63, 1, 1)?;
    run(fixtures::WANTED, 3, 10, 1)?;
    expect("nor do other streams", 3, 10, 6)?;
    run(fixtures::WANTED, 63, 11, 1)?;
    expect("the last stream that is counted", 63, 11, 1)?;
    run(fixtures::UNWANTED, 64 + 3, 1, 5)?;
    run(fixtures::WANTED, 64 + 3, 77, 1)?;
    expect("a stream beyond", 3, 10, 6)?;
    check(filter.mark(64).is_none(), || "a stream beyond has a mark".to_owned())?;
    let counted = filter.counters()?;
    check((counted.unwanted, counted.accepted()) == (12, 5), || format!("{counted:?}"))?;
    let plain = LoadedFilter::load(&fixtures::config())?;
    plain.want_set().set(fixtures::WANTED);
    plain.test_run(&packet(fixtures::WANTED, 3, 10), 1)?;
    check(plain.mark(3) == Some(Mark { sequence: 0, unwanted: 0 }), || "counted although nobody asked for it".to_owned())
}

fn the_want_set_outlives_the_filter() -> Result<(), Failed> {
    let filter = LoadedFilter::load(&FilterConfig { id_count: 100_000, ..fixtures::config() })?;
    let wants = filter.want_set();
    wants.set_all();
    drop(filter);
    check(wants.count() == 100_000 && wants.clear(99_999) && wants.count() == 99_999, || format!("{wants:?}"))
}

fn want_sets_of_every_size_work_to_their_last_id() -> Result<(), Failed> {
    const LARGEST: u32 = 1 << 25;
    for id_count in [1, 2, 63, 64, 65, 127, 1000, 4097, 12_345, 99_999, 100_000, (1 << 20) - 1, (1 << 24) + 1, LARGEST - 65, LARGEST] {
        let filter = LoadedFilter::load(&FilterConfig { id_count, ..fixtures::config() })?;
        let last = id_count - 1;
        filter.want_set().set(last);
        let pairs = [(last, bpf::Action::Pass), (last.wrapping_sub(1), bpf::Action::Drop), (id_count, bpf::Action::Drop)];
        for (id, expected) in pairs {
            let run = filter.test_run(&fixtures::Frame::udp(fixtures::PORT, fixtures::payload(id)).bytes(), 1)?;
            check(run.action == expected, || format!("{id_count} ids, id {id}: {:?}", run.action))?;
        }
    }
    Ok(())
}

/// The same table gives the cost per packet. It is printed beside the budget, not held against it: `discus-bench filter` does
/// that, on a machine that is not busy with other tests.
fn every_fixture_is_measured() -> Result<(), Failed> {
    const REPEAT: u32 = 2_000;
    const ROUNDS: u32 = 20;
    let filters = FixtureFilters::load(&fixtures::config())?;
    println!("an empty program: {:?}; budget {BUDGET:?}", loop_floor(REPEAT, ROUNDS)?);
    for fixture in fixtures::table() {
        let per_packet = filters.measure(&fixture, REPEAT, ROUNDS)?.per_packet;
        check(!per_packet.is_zero(), || format!("{} was not measured", fixture.name))?;
        println!("{}: {per_packet:?}", fixture.name);
    }
    Ok(())
}
