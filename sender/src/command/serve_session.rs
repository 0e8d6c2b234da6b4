//! What a session is made of: its id, its packets' size, its groups, and what the control plane and the scheduler are told of the pack.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::bail;
use image::Pack;
use sender::control::{DescriptiveStream, GATHER, ImageInfo, Priorities, PriorityArgument, Settings, SettingsPatch};
use sender::interface::Interface;
use sender::transmit::{self, TransmitConfig};
use wire::report::ChunkRange;
use wire::{ChunkId, Fingerprint, SessionId};

use super::exit::NetworkUnusable;

/// The group whose address comes `step` after that of `first`, if it is one.
fn group_after(first: SocketAddr, step: u8) -> Option<SocketAddr> {
    let address: IpAddr = match first.ip() {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits().wrapping_add(step.into())).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits().wrapping_add(step.into())).into(),
    };
    address.is_multicast().then(|| SocketAddr::new(address, first.port()))
}

/// Where manifests are multicast: in the group after those of the streams; nowhere when there is no such address.
pub(super) fn descriptive_stream(config: &TransmitConfig) -> anyhow::Result<Option<Arc<DescriptiveStream>>> {
    let Some(group) = config.groups.last().and_then(|last| group_after(*last, 1)) else { return Ok(None) };
    let socket = transmit::group_socket(config, group)?;
    Ok(Some(Arc::new(DescriptiveStream { group, source: config.source.ip(), socket, gather: GATHER })))
}

/// The largest IP packet: what was asked for, if the interface allows it.
pub(super) fn mtu(asked: Option<usize>, interface: &Interface) -> anyhow::Result<usize> {
    match asked {
        Some(asked) if asked > interface.mtu_bytes => bail!(NetworkUnusable(format!(
            "--mtu {asked} is more than {} allows, {}; raise it with `ip link set {} mtu {asked}`",
            interface.name, interface.mtu_bytes, interface.name
        ))),
        Some(asked) => Ok(asked),
        None => Ok(interface.mtu_bytes),
    }
}

/// The groups of the streams: consecutive addresses.
pub(super) fn groups(first: SocketAddr, count: u8) -> anyhow::Result<Vec<SocketAddr>> {
    let all: Option<Vec<SocketAddr>> = (0..count).map(|step| group_after(first, step)).collect();
    let wrong = || match first.ip().is_multicast() {
        false => {
            format!("--group {first} is no multicast group; these are 224.0.0.0 to 239.255.255.255 and ff00::/8, such as 239.192.68.1:4700")
        }
        true => format!("--group {first} and the {} addresses after it, for --streams {count}, are not all multicast groups", count - 1),
    };
    Ok(all.ok_or_else(|| image::Error::Parameter(wrong()))?)
}

/// Runs of chunks that the same images share.
pub(super) fn classes(pack: &Pack) -> Vec<ChunkRange> {
    let segments = pack.segments().iter().filter(|segment| segment.chunks > 0);
    segments.map(|segment| ChunkRange { first: ChunkId(segment.first_chunk.0), count: segment.chunks }).collect()
}

/// What receivers are told of the images.
pub(super) fn images(pack: &Pack) -> anyhow::Result<Vec<ImageInfo>> {
    let image = |(index, image): (usize, &image::pack::ImageInfo)| {
        let segments = pack.segments().iter().filter(|segment| segment.images.contains(index) && segment.chunks > 0);
        let chunks = segments.map(|segment| ChunkRange { first: ChunkId(segment.first_chunk.0), count: segment.chunks }).collect();
        Ok(ImageInfo { name: image.name.clone(), manifest: pack.manifest_section(index)?, chunks })
    };
    pack.images().iter().enumerate().map(image).collect()
}

/// What the sender starts with and the operator may change while it runs.
pub(super) fn settings(rate_cap_bits_per_second: u64, priorities: &[PriorityArgument], pack: &Pack) -> anyhow::Result<Settings> {
    let mut patch = SettingsPatch::default();
    priorities.iter().cloned().for_each(|priority| patch.priorities.add(priority));
    let mut settings = Settings { rate_cap_bits_per_second, priorities: Priorities::default() };
    let applied = settings.apply(&patch, pack.images().iter().map(|image| image.name.as_str()));
    applied.map_err(|error| image::Error::Parameter(format!("--priority: {error}")))?;
    Ok(settings)
}

/// The same for the same pack, certificate and symbol size, so that a sender that was restarted goes on with its session and receivers
/// keep what they have.
pub(super) fn session_id(root: &[u8; 32], fingerprint: &Fingerprint, symbol_bytes: u16) -> SessionId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(root).update(&fingerprint.0).update(&symbol_bytes.to_be_bytes());
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    SessionId(u32::from_be_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_multicast_group_is_wrong_usage() {
        for (first, count, message) in
            [("10.0.0.1:4700", 1, "is no multicast group"), ("239.255.255.254:4700", 3, "the 2 addresses after it")]
        {
            let error = groups(first.parse().unwrap(), count).unwrap_err();
            assert_eq!(super::super::exit::code_of(&error), 2);
            assert!(error.to_string().contains(message), "{error}");
        }
        let last = groups("[ff15::ffff]:1".parse().unwrap(), 2).unwrap()[1];
        assert_eq!(last, "[ff15::1:0]:1".parse().unwrap());
    }

    #[test]
    fn the_session_depends_on_pack_certificate_and_symbol_size_alone() {
        let id = |root: u8, certificate: u8, symbol_bytes| session_id(&[root; 32], &Fingerprint([certificate; 32]), symbol_bytes);
        assert_eq!(id(1, 2, 1408), id(1, 2, 1408));
        let others = [id(2, 2, 1408), id(1, 3, 1408), id(1, 2, 8768)];
        assert!(others.iter().all(|other| *other != id(1, 2, 1408)));
    }
}
