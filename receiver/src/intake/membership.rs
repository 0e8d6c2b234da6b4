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
    interface_name: String,
    /// One for each group: a socket may be in 20 groups at most (`net.ipv4.igmp_max_memberships`).
    members: Vec<(SocketAddr, Socket)>,
}

impl Membership {
    /// Joins `groups` on `interface` and reads the memberships back from the kernel.
    ///
    /// # Errors
    /// [`Error::Join`].
    pub fn join(interface: &Interface, groups: &[SocketAddr]) -> Result<Membership, Error> {
        let mut membership =
            Membership { interface_index: interface.index(), interface_name: interface.name().to_owned(), members: Vec::new() };
        membership.change(groups)?;
        Ok(membership)
    }

    /// Of no groups, on no interface.
    pub(super) fn none() -> Membership {
        Membership { interface_index: 0, interface_name: String::new(), members: Vec::new() }
    }

    /// Joins those of `groups` that are not joined yet, then leaves all others.
    ///
    /// # Errors
    /// [`Error::Join`]; then nothing has been left.
    pub fn change(&mut self, groups: &[SocketAddr]) -> Result<(), Error> {
        let open = |group| {
            let error = |source| Error::Join { group: SocketAddr::ip(&group), interface: self.interface_name.clone(), source };
            open_member(group.ip(), self.interface_index).map_err(error)
        };
        replace(&mut self.members, groups, open).map(drop)
    }

    /// The groups that are joined.
    pub fn groups(&self) -> impl Iterator<Item = SocketAddr> {
        self.members.iter().map(|(group, _)| *group)
    }

    /// Leaves all groups and joins them again, so that the kernel reports the memberships anew: a report may have been lost. `others` are
    /// further members, one for each group in the same order; the last one to leave is what the kernel tells the network.
    ///
    /// # Errors
    /// When a group cannot be joined again.
    pub fn join_again(&self, others: &[&Socket]) -> io::Result<()> {
        for (at, (group, own)) in self.members.iter().enumerate() {
            let members = || std::iter::once(own).chain(others.get(at).copied());
            for socket in members() {
                // One that is no member any more has nothing to leave.
                let _ = leave(socket, group.ip(), self.interface_index);
            }
            members().try_for_each(|socket| join(socket, group.ip(), self.interface_index))?;
        }
        Ok(())
    }
}

/// Makes `members` those of `groups`, in that order and each once: opens what is missing, then answers what is not needed any more, to be
/// dropped. After an error nothing has changed.
pub(super) fn replace<M, E>(
    members: &mut Vec<(SocketAddr, M)>,
    groups: &[SocketAddr],
    mut open: impl FnMut(SocketAddr) -> Result<M, E>,
) -> Result<Vec<(SocketAddr, M)>, E> {
    let mut opened: Vec<(SocketAddr, M)> = Vec::new();
    for &group in groups {
        if !members.iter().chain(&opened).any(|(known, _)| *known == group) {
            opened.push((group, open(group)?));
        }
    }
    let mut before = std::mem::take(members);
    before.append(&mut opened);
    for group in groups {
        members.extend(before.iter().position(|(known, _)| known == group).map(|at| before.swap_remove(at)));
    }
    Ok(before)
}

/// A socket that is a member, as the kernel confirms.
fn open_member(group: IpAddr, interface_index: u32) -> io::Result<Socket> {
    let family = if group.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(family, Type::DGRAM, Some(Protocol::UDP))?;
    join(&socket, group, interface_index)?;
    if is_listed(interface_index, group)? { Ok(socket) } else { Err(io::Error::other("the kernel does not list the membership")) }
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
    is_listed(interface.index(), group)
}

fn is_listed(interface_index: u32, group: IpAddr) -> io::Result<bool> {
    // thread-self: the file of the calling thread's network namespace.
    match group {
        IpAddr::V4(group) => Ok(lists_ipv4(&fs::read_to_string("/proc/thread-self/net/igmp")?, interface_index, group)),
        IpAddr::V6(group) => Ok(lists_ipv6(&fs::read_to_string("/proc/thread-self/net/igmp6")?, interface_index, group)),
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
    fn members_follow_the_groups_and_what_exists_is_kept() {
        let groups = |ports: &[u16]| ports.iter().map(|&port| SocketAddr::from(([239, 1, 1, 1], port))).collect::<Vec<_>>();
        let mut members: Vec<(SocketAddr, u32)> = Vec::new();
        let mut opened = 0;
        let mut change = |members: &mut Vec<(SocketAddr, u32)>, ports: &[u16]| {
            let open = |group: SocketAddr| {
                opened += 1;
                if group.port() == 9 { Err("nine") } else { Ok(opened) }
            };
            replace(members, &groups(ports), open).map(|left| left.into_iter().map(|(group, _)| group.port()).collect::<Vec<_>>())
        };
        let have = |members: &[(SocketAddr, u32)]| members.iter().map(|(group, number)| (group.port(), *number)).collect::<Vec<_>>();
        assert_eq!(change(&mut members, &[1, 2, 2]), Ok(vec![]));
        assert_eq!(have(&members), [(1, 1), (2, 2)]);
        assert_eq!(change(&mut members, &[3, 2]), Ok(vec![1]));
        assert_eq!(have(&members), [(3, 3), (2, 2)]);
        assert_eq!(change(&mut members, &[4, 9]), Err("nine"));
        assert_eq!(have(&members), [(3, 3), (2, 2)], "nothing has changed");
        assert_eq!(change(&mut members, &[]), Ok(vec![3, 2]));
    }

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
