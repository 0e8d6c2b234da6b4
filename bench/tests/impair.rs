//! The impairment loses exactly what it says, on a veth between two network namespaces, and nothing else.
//! Needs root; says so where it has none.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bench::impair::{Burst, Counts, ImpairConfig, Impairment};
use libtest_mimic::{Arguments, Failed, Trial};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const PORT: u16 = 5000;
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
/// Nothing here takes longer unless it is broken.
const DEADLINE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let root = rustix::process::geteuid().is_root();
    if !root && !arguments.list {
        eprintln!("skipped: the impairment and network namespaces need root");
    }
    let trials = [
        Trial::test("a_burst_loses_exactly_its_packets", a_burst_loses_exactly_its_packets),
        Trial::test("bursts_come_again", bursts_come_again),
        Trial::test("random_loss_is_near_its_share_and_the_seed_repeats_it", random_loss_repeats),
        Trial::test("other_ports_and_unicast_pass", other_packets_pass),
        Trial::test("the_command_counts_and_a_killed_one_leaves_nothing_behind", the_command_ends_well),
    ];
    libtest_mimic::run(&arguments, trials.into_iter().map(|trial| trial.with_ignored_flag(!root)).collect()).exit_code()
}

fn check(condition: bool, why: impl FnOnce() -> String) -> Result<(), Failed> {
    if condition { Ok(()) } else { Err(why().into()) }
}

/// Two namespaces joined by a veth with sockets at both ends, gone when dropped.
struct Net {
    sender: String,
    receiver: String,
    from: UdpSocket,
    to: UdpSocket,
}

impl Net {
    fn new() -> Result<Self, Failed> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("bpft-imp-{}-{number}{side}", std::process::id());
        let (sender, receiver) = (name("s"), name("r"));
        let made = || {
            ip(&["netns", "add", &sender])?;
            ip(&["netns", "add", &receiver])?;
            ip(&["link", "add", "eth0", "netns", &sender, "type", "veth", "peer", "name", "eth0", "netns", &receiver])?;
            for (namespace, address) in [(&sender, "10.78.0.1/24"), (&receiver, "10.78.0.2/24")] {
                ip(&["-netns", namespace, "address", "add", address, "dev", "eth0"])?;
                ip(&["-netns", namespace, "link", "set", "eth0", "up"])?;
            }
            let from = inside(&sender, || UdpSocket::bind("10.78.0.1:0"))??;
            from.set_multicast_ttl_v4(1)?;
            let to = inside(&receiver, || {
                let socket = UdpSocket::bind(("0.0.0.0", PORT))?;
                socket.join_multicast_v4(&GROUP, &Ipv4Addr::new(10, 78, 0, 2))?;
                io::Result::Ok(socket)
            })??;
            to.set_read_timeout(Some(DEADLINE))?;
            io::Result::Ok((from, to))
        };
        match made() {
            Ok((from, to)) => Ok(Self { sender, receiver, from, to }),
            Err(error) => {
                remove(&sender);
                remove(&receiver);
                Err(error.into())
            }
        }
    }

    fn impair(&self, config: &ImpairConfig) -> Result<Impairment, Failed> {
        Ok(inside(&self.sender, || Impairment::attach("eth0", config))?.map_err(|error| format!("{error:#}"))?)
    }

    /// Sends numbered packets one by one to the group; answers which arrived. Each is followed by a mark that
    /// is not impaired, so that a lost packet is known without waiting for it.
    fn send(&self, count: u32) -> Result<Vec<u32>, Failed> {
        let mut arrived = Vec::new();
        for number in 0..count {
            self.from.send_to(&number.to_be_bytes(), (GROUP, PORT))?;
            self.from.send_to(b"mark!", ("10.78.0.2", PORT))?;
            loop {
                let mut packet = [0; 16];
                let bytes = self.to.recv(&mut packet)?;
                match packet.first_chunk().filter(|_| bytes == 4) {
                    Some(number) => arrived.push(u32::from_be_bytes(*number)),
                    None => break,
                }
            }
        }
        Ok(arrived)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        remove(&self.sender);
        remove(&self.receiver);
    }
}

fn remove(namespace: &str) {
    // Nothing can be done about a failure here.
    let _ = ip(&["netns", "delete", namespace]);
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())))
}

/// Runs `action` on a thread inside a namespace.
fn inside<R: Send>(namespace: &str, action: impl FnOnce() -> R + Send) -> io::Result<R> {
    let namespace = File::open(format!("/run/netns/{namespace}"))?;
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(action())
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn config() -> ImpairConfig {
    ImpairConfig { first_port: PORT, port_count: 1, everything: false, loss: 0.0, burst: None, seed: 7 }
}

fn counts(impairment: &Impairment) -> Result<Counts, Failed> {
    Ok(impairment.counts().map_err(|error| format!("{error:#}"))?)
}

fn a_burst_loses_exactly_its_packets() -> Result<(), Failed> {
    let net = Net::new()?;
    let burst = Burst { packets: 30, after_packets: 100, every_packets: None };
    let impairment = net.impair(&ImpairConfig { burst: Some(burst), ..config() })?;
    let arrived = net.send(300)?;
    check(arrived.iter().copied().eq((0..100).chain(130..300)), || format!("{arrived:?}"))?;
    let counted = counts(&impairment)?;
    check(counted == Counts { matched: 300, lost_at_random: 0, lost_in_bursts: 30 }, || format!("{counted:?}"))?;
    drop(impairment);
    check(net.send(200)?.len() == 200, || "still losing after it was dropped".to_owned())
}

fn bursts_come_again() -> Result<(), Failed> {
    let net = Net::new()?;
    let burst = Burst { packets: 2, after_packets: 5, every_packets: Some(10) };
    let _impairment = net.impair(&ImpairConfig { burst: Some(burst), ..config() })?;
    let arrived = net.send(40)?;
    let expected = (0..40).filter(|number| ![5, 6].contains(&(number % 10)));
    check(arrived.iter().copied().eq(expected), || format!("{arrived:?}"))
}

fn random_loss_repeats() -> Result<(), Failed> {
    let net = Net::new()?;
    let arrived = |seed| -> Result<Vec<u32>, Failed> {
        let impairment = net.impair(&ImpairConfig { loss: 0.05, seed, ..config() })?;
        let arrived = net.send(2000)?;
        let counted = counts(&impairment)?;
        check(counted.lost_at_random == 2000 - arrived.len() as u64, || format!("{counted:?}, {} arrived", arrived.len()))?;
        // 100 expected, standard deviation 9.7.
        check((50..150).contains(&counted.lost()), || format!("5 % of 2000: {counted:?}"))?;
        Ok(arrived)
    };
    let first = arrived(1)?;
    check(first == arrived(1)?, || "the same seed loses others".to_owned())?;
    check(first != arrived(2)?, || "another seed loses the same".to_owned())
}

fn other_packets_pass() -> Result<(), Failed> {
    let net = Net::new()?;
    // All packets to the neighbouring port; the marks of `send` are unicast to the impaired one.
    let everything = ImpairConfig { loss: 1.0, ..config() };
    let elsewhere = net.impair(&ImpairConfig { first_port: PORT + 1, ..everything })?;
    check(net.send(20)?.len() == 20, || "lost packets of another port".to_owned())?;
    drop(elsewhere);
    let _here = net.impair(&everything)?;
    check(net.send(20)?.is_empty(), || "100 % loss lets packets through".to_owned())
}

fn the_command_ends_well() -> Result<(), Failed> {
    let net = Net::new()?;
    for (signal, output_lines) in [(Signal::TERM, 2), (Signal::KILL, 1)] {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &net.sender, env!("CARGO_BIN_EXE_discus-bench"), "impair", "--interface", "eth0"])
            .args(["--port", "5000", "--loss", "100%", "--json"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines().map_while(Result::ok);
        let mut said: Vec<String> = lines.next().into_iter().collect();
        let lost = net.send(10);
        kill_process(Pid::from_child(&child), signal)?;
        said.extend(lines);
        child.wait()?;
        check(lost?.is_empty(), || "nothing lost".to_owned())?;
        check(said.len() == output_lines, || format!("{said:?}"))?;
        if let Some(total) = said.get(1) {
            let total: serde_json::Value = serde_json::from_str(total).map_err(|error| format!("{error}: {total}"))?;
            check(total["matched"] == 10 && total["lost_at_random"] == 10, || total.to_string())?;
        }
        let deadline = Instant::now() + DEADLINE;
        while net.send(1)?.is_empty() {
            check(Instant::now() < deadline, || format!("still attached after {signal:?}"))?;
        }
    }
    Ok(())
}
