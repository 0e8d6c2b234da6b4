//! What the receiver has to know of the network interface it listens on: index, MTU, carrier and receive queues, all as seen in the
//! network namespace of the calling thread (sysfs may show another one's).
#![allow(unsafe_code)] // The kernel answers these questions through ioctls only.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketType, netdevice, socket};

/// `ETHTOOL_GCHANNELS` of `linux/ethtool.h`.
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_channels` of `linux/ethtool.h`.
#[repr(C)]
#[derive(Default)]
struct EthtoolChannels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx_count: u32,
    tx_count: u32,
    other_count: u32,
    combined_count: u32,
}

/// A network interface, found by name.
#[derive(Debug)]
pub struct Interface {
    name: String,
    index: u32,
    /// Any socket will do to ask about interfaces.
    asking: OwnedFd,
}

impl Interface {
    /// Finds the interface called `name`.
    ///
    /// # Errors
    /// The kernel's, mostly that there is no such interface.
    pub fn find(name: &str) -> io::Result<Interface> {
        let asking = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        let index = netdevice::name_to_index(&asking, name)?;
        Ok(Interface { name: name.to_owned(), index, asking })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The largest IP packet that it takes, in bytes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mtu_bytes(&self) -> io::Result<usize> {
        let mut request = self.request();
        self.ioctl(libc::SIOCGIFMTU, &mut request)?;
        // SAFETY: SIOCGIFMTU fills this member of the union; every bit pattern is an integer.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Ok(usize::try_from(mtu).unwrap_or(0))
    }

    /// Whether it is up and has a carrier.
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_running(&self) -> io::Result<bool> {
        let mut request = self.request();
        self.ioctl(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS fills this member of the union; every bit pattern is an integer.
        let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
        let running = libc::IFF_UP | libc::IFF_RUNNING;
        Ok(flags & running == running)
    }

    /// Receive queues in use; 1 for a driver that does not say.
    pub fn receive_queues(&self) -> u32 {
        let mut channels = EthtoolChannels { cmd: ETHTOOL_GCHANNELS, ..EthtoolChannels::default() };
        let mut request = self.request();
        request.ifr_ifru.ifru_data = (&raw mut channels).cast();
        match self.ioctl(libc::SIOCETHTOOL, &mut request) {
            Ok(()) => channels.rx_count.saturating_add(channels.combined_count).max(1),
            Err(_) => 1,
        }
    }

    /// An interface request that names this interface.
    fn request(&self) -> libc::ifreq {
        // SAFETY: `ifreq` is integers, arrays of them and pointers, for all of which zero is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The name was found, so it is shorter than IFNAMSIZ and the rest stays zero.
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *to = from as libc::c_char;
        }
        request
    }

    fn ioctl(&self, number: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: `request` lives through the call, and so does what it points to (SIOCETHTOOL); the kernel writes no more than
        // the structures that the numbers used above stand for.
        let result = unsafe { libc::ioctl(self.asking.as_raw_fd(), number as _, request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_and_described() {
        let lo = Interface::find("lo").unwrap();
        assert_eq!(lo.name(), "lo");
        assert!(lo.index() >= 1);
        assert!(lo.mtu_bytes().unwrap() >= 1500);
        assert_eq!(lo.receive_queues(), 1);
        lo.is_running().unwrap();
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        assert!(Interface::find("no-such-if0").is_err());
    }
}
