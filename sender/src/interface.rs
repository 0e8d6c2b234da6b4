//! What the sender has to know of a network interface: index, hardware address, MTU, queues, carrier and IP addresses, asked of the
//! kernel over rtnetlink. (Files under /sys would show another network namespace's interfaces to a process that was put into one
//! without a mount of its own.)

use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};
use wire::frame::MacAddress;

/// An interface as it was when it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The kernel's number for it.
    pub index: u32,
    /// Its Ethernet address; none for loopback and tunnels.
    pub mac: Option<MacAddress>,
    /// Largest IP packet.
    pub mtu_bytes: usize,
    /// Transmit queues that the driver made.
    pub transmit_queues: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether a link partner is there.
    pub carrier: bool,
    /// Its addresses, those that may be used as a source.
    pub addresses: Vec<Address>,
}

/// An IP address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Whether it is valid on this link only.
    pub link_local: bool,
}

/// Why an interface cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// No such name.
    #[error("there is no interface {name:?}; this machine has: {present}")]
    Missing {
        /// The name that was asked for.
        name: String,
        /// The names that exist.
        present: String,
    },
    /// The kernel would not say.
    #[error("asking the kernel for interface {name:?}: {source}")]
    Netlink {
        /// The name that was asked for.
        name: String,
        /// What it said.
        source: io::Error,
    },
    /// Nothing to send from.
    #[error("interface {name} has no {family} address to send to group {group} from; add one with `ip address add … dev {name}`")]
    NoAddress {
        /// The interface.
        name: String,
        /// IPv4 or IPv6.
        family: &'static str,
        /// The group.
        group: IpAddr,
    },
    /// Administratively down.
    #[error("interface {name} is down; bring it up with `ip link set {name} up`")]
    Down {
        /// The interface.
        name: String,
    },
}

impl Interface {
    /// Asks the kernel for the interface called `name`.
    ///
    /// # Errors
    /// [`InterfaceError::Missing`] lists those that exist.
    pub fn find(name: &str) -> Result<Interface, InterfaceError> {
        let failed = |source| InterfaceError::Netlink { name: name.to_owned(), source };
        let mut links = dump(RTM_GETLINK, INTERFACE_INFO_BYTES).map_err(failed)?.iter().filter_map(|m| link(m)).collect::<Vec<_>>();
        let Some(at) = links.iter().position(|link| link.name == name) else {
            let present = links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(InterfaceError::Missing { name: name.to_owned(), present });
        };
        let mut interface = links.swap_remove(at);
        let messages = dump(RTM_GETADDR, ADDRESS_INFO_BYTES).map_err(failed)?;
        interface.addresses = messages.iter().filter_map(|m| address(m, interface.index)).collect();
        Ok(interface)
    }

    /// The address to send to `group` from: of its family, and of link scope only for a group of link scope or when there is no other.
    ///
    /// # Errors
    /// [`InterfaceError::NoAddress`], [`InterfaceError::Down`].
    pub fn source_for(&self, group: IpAddr) -> Result<IpAddr, InterfaceError> {
        if !self.up {
            return Err(InterfaceError::Down { name: self.name.clone() });
        }
        let link_scope = matches!(group, IpAddr::V6(v6) if v6.octets()[1] & 0x0F <= 2);
        let usable = || self.addresses.iter().filter(|address| address.ip.is_ipv4() == group.is_ipv4());
        let found = usable().find(|address| address.link_local == link_scope).or_else(|| usable().next());
        found.map(|address| address.ip).ok_or_else(|| InterfaceError::NoAddress {
            name: self.name.clone(),
            family: if group.is_ipv4() { "IPv4" } else { "IPv6" },
            group,
        })
    }

    /// Waits until the link has a carrier: binding an AF_XDP socket resets some cards. Says whether it came within `limit`.
    pub fn wait_for_carrier(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            match Interface::find(&self.name) {
                Ok(now) if now.carrier => return true,
                _ if Instant::now() >= deadline => return false,
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

// linux/rtnetlink.h, linux/netlink.h, linux/if_link.h, linux/if_addr.h: numbers are in the byte order of the machine.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x001 | 0x300;
const MESSAGE_HEADER_BYTES: usize = 16;
/// `struct ifinfomsg`.
const INTERFACE_INFO_BYTES: usize = 16;
/// `struct ifaddrmsg`.
const ADDRESS_INFO_BYTES: usize = 8;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_CARRIER: u16 = 33;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFF_UP: u32 = 1;
const ARPHRD_ETHER: u16 = 1;
/// Duplicate address detection failed or has not ended.
const IFA_UNUSABLE: u32 = 0x08 | 0x40;
const RT_SCOPE_LINK: u8 = 253;

/// Sends a dump request and returns the messages of the answer, headers included.
fn dump(kind: u16, body_bytes: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW.cloexec(), Some(Protocol::from(libc::NETLINK_ROUTE)))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = vec![0; MESSAGE_HEADER_BYTES + body_bytes];
    let request_bytes = request.len() as u32;
    request[0..4].copy_from_slice(&request_bytes.to_ne_bytes());
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    socket.write_all(&request)?;
    let mut messages = Vec::new();
    // The kernel fills datagrams of at most 32 KiB on a dump.
    let mut datagram = vec![0; 64 * 1024];
    loop {
        let bytes = socket.read(&mut datagram)?;
        let mut rest = &datagram[..bytes];
        while let Some(message) = first_message(rest) {
            match u16_at(message, 4) {
                NLMSG_DONE => return Ok(messages),
                NLMSG_ERROR => {
                    let code = u32_at(message, MESSAGE_HEADER_BYTES) as i32;
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                _ => messages.push(message.to_vec()),
            }
            rest = rest.get(message.len().next_multiple_of(4)..).unwrap_or_default();
        }
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn first_message(bytes: &[u8]) -> Option<&[u8]> {
    (bytes.len() >= MESSAGE_HEADER_BYTES)
        .then(|| u32_at(bytes, 0) as usize)
        .filter(|&length| length >= MESSAGE_HEADER_BYTES)
        .and_then(|length| bytes.get(..length))
}

/// Reads zeros past the end, so that a short attribute is a zero value.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_ne_bytes([b[0], b[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

/// The attributes (type, value) of a message behind its body.
fn attributes(message: &[u8], body_bytes: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = message.get(MESSAGE_HEADER_BYTES + body_bytes..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0));
        let value = rest.get(4..length)?;
        // The two top bits mark nesting and byte order.
        let kind = u16_at(rest, 2) & 0x3FFF;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn link(message: &[u8]) -> Option<Interface> {
    if u16_at(message, 4) != RTM_NEWLINK {
        return None;
    }
    let ethernet = u16_at(message, MESSAGE_HEADER_BYTES + 2) == ARPHRD_ETHER;
    let mut interface = Interface {
        name: String::new(),
        index: u32_at(message, MESSAGE_HEADER_BYTES + 4),
        mac: None,
        mtu_bytes: 0,
        transmit_queues: 1,
        up: u32_at(message, MESSAGE_HEADER_BYTES + 8) & IFF_UP != 0,
        carrier: false,
        addresses: Vec::new(),
    };
    for (kind, value) in attributes(message, INTERFACE_INFO_BYTES) {
        match kind {
            IFLA_IFNAME => interface.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned(),
            IFLA_ADDRESS if ethernet => interface.mac = value.try_into().ok().map(MacAddress),
            IFLA_MTU => interface.mtu_bytes = u32_at(value, 0) as usize,
            IFLA_NUM_TX_QUEUES => interface.transmit_queues = u32_at(value, 0).max(1),
            IFLA_CARRIER => interface.carrier = value.first() == Some(&1),
            _ => {}
        }
    }
    Some(interface)
}

fn address(message: &[u8], index: u32) -> Option<Address> {
    if u16_at(message, 4) != RTM_NEWADDR || u32_at(message, MESSAGE_HEADER_BYTES + 4) != index {
        return None;
    }
    let scope = message.get(MESSAGE_HEADER_BYTES + 3).copied()?;
    let mut flags = message.get(MESSAGE_HEADER_BYTES + 2).copied().map_or(0, u32::from);
    let (mut ip, mut local) = (None, None);
    for (kind, value) in attributes(message, ADDRESS_INFO_BYTES) {
        match kind {
            IFA_ADDRESS => ip = parse_ip(value),
            // On a point-to-point link IFA_ADDRESS is the other end's.
            IFA_LOCAL => local = parse_ip(value),
            IFA_FLAGS => flags = u32_at(value, 0),
            _ => {}
        }
    }
    let ip = local.or(ip)?;
    (flags & IFA_UNUSABLE == 0).then_some(Address { ip, link_local: ip.is_ipv6() && scope == RT_SCOPE_LINK })
}

fn parse_ip(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).ok().map(|octets| Ipv4Addr::from(octets).into());
    v4.or_else(|| <[u8; 16]>::try_from(value).ok().map(|octets| Ipv6Addr::from(octets).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_addresses(addresses: &[(&str, bool)]) -> Interface {
        Interface {
            name: "test0".to_owned(),
            index: 1,
            mac: None,
            mtu_bytes: 1500,
            transmit_queues: 1,
            up: true,
            carrier: true,
            addresses: addresses.iter().map(|&(ip, link_local)| Address { ip: ip.parse().unwrap(), link_local }).collect(),
        }
    }

    #[test]
    fn loopback_is_found_with_its_address() {
        let lo = Interface::find("lo").unwrap();
        assert_eq!(lo.mac, None);
        assert!(lo.index > 0 && lo.mtu_bytes >= 1500);
        if lo.up {
            assert_eq!(lo.source_for("239.0.0.1".parse().unwrap()).unwrap(), IpAddr::from([127, 0, 0, 1]));
        }
    }

    #[test]
    fn a_missing_interface_names_those_that_exist() {
        let message = Interface::find("nosuch0").unwrap_err().to_string();
        assert!(message.contains("nosuch0") && message.contains("lo"), "{message}");
    }

    #[test]
    fn the_source_suits_the_scope_of_the_group() {
        let interface = with_addresses(&[("fe80::1", true), ("10.0.0.1", false), ("fd00::1", false)]);
        let source = |group: &str| interface.source_for(group.parse().unwrap()).unwrap().to_string();
        assert_eq!(source("239.192.68.1"), "10.0.0.1");
        assert_eq!(source("ff18::d15c"), "fd00::1");
        assert_eq!(source("ff12::d15c"), "fe80::1");
    }

    #[test]
    fn link_scope_serves_when_there_is_nothing_else() {
        let interface = with_addresses(&[("fe80::1", true)]);
        assert_eq!(interface.source_for("ff18::1".parse().unwrap()).unwrap().to_string(), "fe80::1");
        let message = interface.source_for("239.0.0.1".parse().unwrap()).unwrap_err().to_string();
        assert!(message.contains("no IPv4 address"), "{message}");
    }

    #[test]
    fn an_interface_that_is_down_says_how_to_bring_it_up() {
        let down = Interface { up: false, ..with_addresses(&[("10.0.0.1", false)]) };
        assert!(down.source_for("239.0.0.1".parse().unwrap()).unwrap_err().to_string().contains("ip link set test0 up"));
    }

    #[test]
    fn broken_messages_are_not_read_past_their_end() {
        for length in 0..40 {
            let message = vec![0xFF; length];
            assert!(link(&message).is_none());
            assert!(address(&message, 1).is_none());
            assert!(attributes(&message, 0).count() <= 1);
            assert!(first_message(&message).is_none());
        }
    }
}
