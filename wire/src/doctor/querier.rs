//! Listening for those who query for multicast memberships: the only part of this crate that opens a socket, so that both ends have it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recvfrom};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use super::{Finding, is_igmp_query, is_mld_query, querier};

/// How soon an end is noticed.
const LOOK: Duration = Duration::from_millis(100);
/// A query is a few words long.
const PACKET_BYTES: usize = 1500;

/// Hears queries until it is asked.
pub struct Listening {
    began: Instant,
    stop: Arc<AtomicBool>,
    heard: JoinHandle<Option<IpAddr>>,
}

impl Listening {
    /// Begins to listen on `interface` for queries of the family of `group`.
    ///
    /// # Errors
    /// When there is no raw socket to be had (root is needed).
    pub fn begin(interface: &str, index: u32, group: IpAddr) -> io::Result<Listening> {
        let socket = if group.is_ipv4() {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(2)))?;
            // Queries go to all hosts: 224.0.0.1.
            socket.join_multicast_v4_n(&[224, 0, 0, 1].into(), &InterfaceIndexOrAddress::Index(index))?;
            socket
        } else {
            let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
            socket.join_multicast_v6(&[0xFF02, 0, 0, 0, 0, 0, 0, 1].into(), index)?;
            socket
        };
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.set_read_timeout(Some(LOOK))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let heard = std::thread::Builder::new().name("querier".to_owned()).spawn(move || listen(&socket, group.is_ipv4(), &stopped))?;
        Ok(Listening { began: Instant::now(), stop, heard })
    }

    /// Ends listening, once a querier was heard or `least` has passed since it began, and says what was heard.
    pub fn end(self, least: Duration) -> Finding {
        while !self.heard.is_finished() && self.began.elapsed() < least {
            std::thread::sleep(LOOK);
        }
        self.stop.store(true, Ordering::Relaxed);
        let seconds = self.began.elapsed().as_secs();
        // A thread that panicked has heard nothing.
        querier(self.heard.join().ok().flatten(), seconds)
    }
}

/// The first querier's address.
fn listen(socket: &Socket, is_ipv4: bool, stop: &AtomicBool) -> Option<IpAddr> {
    let mut buffer = [0; PACKET_BYTES];
    while !stop.load(Ordering::Relaxed) {
        // Until the timeout.
        let Ok((count, _, from)) = recvfrom(socket, &mut buffer[..], RecvFlags::empty()) else { continue };
        let packet = &buffer[..count];
        let is_query = if is_ipv4 { is_igmp_query(packet) } else { is_mld_query(packet) };
        if let (true, Some(Ok(address))) = (is_query, from.map(SocketAddr::try_from)) {
            return Some(address.ip());
        }
    }
    None
}
