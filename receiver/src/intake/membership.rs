//! Membership of the streams' multicast groups, by an ordinary socket: the kernel then speaks IGMP or MLD to the switches and opens
//! the interface's multicast filter.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use super::Error;
use crate::interface::Interface;

/// Groups joined on one interface, left when this is dropped.
///
/// Its sockets are bound to no port, so that nothing is ever delivered to them and they need not be drained.
#[derive(Debug)]
pub struct Membership {
    interface_index: u32,
    groups: Vec<IpAddr>,
    sockets: Vec<Socket>,
}

impl Membership {
    /// Joins `groups` on `interface` and reads the memberships back from the kernel.
    ///
    /// # Errors
    /// [`Error::Join`].
    pub fn join(interface: &Interface, groups: &[SocketAddr]) -> Result<Membership, Error> {
        let mut sockets = Vec::with_capacity(groups.len());
        for group in groups {
            let join = || -> io::Result<Socket> {
                let socket = Socket::new(Domain::for_address(*group), Type::DGRAM, Some(Protocol::UDP))?;
                join(&socket, group.ip(), interface.index())?;
                if is_member(interface, group.ip())? {
                    Ok(socket)
                } else {
                    Err(io::Error::other("the kernel does not list the membership"))
                }
            };
            let socket = join().map_err(|source| Error::Join { group: group.ip(), interface: interface.name().to_owned(), source })?;
            sockets.push(socket);
        }
        let groups = groups.iter().map(SocketAddr::ip).collect();
        Ok(Membership { interface_index: interface.index(), groups, sockets })
    }

    /// Leaves all groups and joins them again, so that the kernel reports the memberships anew: a report may have been lost. `others` are
    /// further members, one for each group; the last one to leave is what the kernel tells the network.
    ///
    /// # Errors
    /// When a group cannot be joined again.
    pub fn join_again(&self, others: &[Socket]) -> io::Result<()> {
        for (at, &group) in self.groups.iter().enumerate() {
            let members = || self.sockets.get(at).into_iter().chain(others.get(at));
            for socket in members() {
                // One that is no member any more has nothing to leave.
                let _ = leave(socket, group, self.interface_index);
            }
            members().try_for_each(|socket| join(socket, group, self.interface_index))?;
        }
        Ok(())
    }
}

/// Joins `group` with `socket` on the interface of that number.
pub(super) fn join(socket: &Socket, group: IpAddr, interface_index: u32) -> io::Result<()> {
    match group {
        IpAddr::V4(group) => socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(interface_index)),
        IpAddr::V6(group) => socket.join_multicast_v6(&group, interface_index),
    }
}

fn leave(socket: &Socket, group: IpAddr, interface_index: u32) -> io::Result<()> {
    match group {
        IpAddr::V4(group) => socket.leave_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(interface_index)),
        IpAddr::V6(group) => socket.leave_multicast_v6(&group, interface_index),
    }
}

/// Whether the kernel lists `group` among the memberships of `interface`.
///
/// # Errors
/// Those of reading `/proc`.
pub fn is_member(interface: &Interface, group: IpAddr) -> io::Result<bool> {
    // thread-self: the file of the calling thread's network namespace.
    match group {
        IpAddr::V4(group) => Ok(lists_ipv4(&fs::read_to_string("/proc/thread-self/net/igmp")?, interface.index(), group)),
        IpAddr::V6(group) => Ok(lists_ipv6(&fs::read_to_string("/proc/thread-self/net/igmp6")?, interface.index(), group)),
    }
}

/// `/proc/net/igmp`: a line `INDEX\tNAME ...` per interface, then a line per group that starts with tabs and has the group's address
/// as the hexadecimal number that its bytes make in the machine's order (net/ipv4/igmp.c, `igmp_mc_seq_show`).
fn lists_ipv4(table: &str, interface_index: u32, group: Ipv4Addr) -> bool {
    let mut within = false;
    for line in table.lines().skip(1) {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !line.starts_with('\t') {
            within = first.parse() == Ok(interface_index);
        } else if within && u32::from_str_radix(first, 16).is_ok_and(|number| number.to_ne_bytes() == group.octets()) {
            return true;
        }
    }
    false
}

/// `/proc/net/igmp6`: a line `INDEX NAME GROUP ...` per membership, the group as 32 hexadecimal digits.
fn lists_ipv6(table: &str, interface_index: u32, group: Ipv6Addr) -> bool {
    table.lines().any(|line| {
        let mut words = line.split_whitespace();
        let index = words.next().and_then(|word| word.parse().ok());
        let address = words.nth(1).and_then(|word| u128::from_str_radix(word, 16).ok());
        index == Some(interface_index) && address == Some(group.to_bits())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn an_ipv4_membership_counts_on_its_own_interface_only() {
        let table = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
            1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n\
            2\teth1      :     2      V3\n\t\t\t\t0144C0EF     1 0:00000000\t\t0\n\t\t\t\t010000E0     1 0:00000000\t\t0\n";
        let group = Ipv4Addr::new(239, 192, 68, 1);
        assert!(lists_ipv4(table, 2, group));
        assert!(!lists_ipv4(table, 1, group));
        assert!(!lists_ipv4(table, 2, Ipv4Addr::new(239, 192, 68, 2)));
    }

    #[test]
    fn an_ipv6_membership_counts_on_its_own_interface_only() {
        let table = "1    lo              ff020000000000000000000000000001     1 0000000C 0\n\
            2    eth1            ff18000000000000000000000000d15c     1 00000004 0\n";
        let group = "ff18::d15c".parse().unwrap();
        assert!(lists_ipv6(table, 2, group));
        assert!(!lists_ipv6(table, 1, group));
        assert!(!lists_ipv6(table, 2, "ff18::d15d".parse().unwrap()));
    }
}
