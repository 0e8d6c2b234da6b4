//! Loading the filter, attaching it to an interface, and the handle that keeps it there.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libbpf_rs::libbpf_sys::{XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use rustix::net::{AddressFamily, SocketType, netdevice, socket};

use crate::kernel::{TestRun, XdpLink, load_empty_program, test_run};
use crate::shared::{CounterRow, Shared, StreamRow};
use crate::skeleton::{FilterSkelBuilder, types};
use crate::want_set::bytes_for;
use crate::{Counters, Error, FilterConfig, Mark, WantSet, libbpf_log};

/// Where in the receive path the filter shall run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AttachMode {
    /// In the driver, or else generically.
    #[default]
    Auto,
    /// In the driver only.
    Driver,
    /// In the kernel's generic receive path only: works on every interface, after the packet has become an skb.
    Generic,
}

/// Where in the receive path the filter runs, and why there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachedMode {
    /// In the driver, before the packet becomes an skb.
    Driver,
    /// In the generic receive path.
    Generic {
        /// Why not in the driver.
        because: String,
    },
}

impl fmt::Display for AttachedMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Driver => formatter.write_str("driver mode"),
            Self::Generic { because } => write!(formatter, "generic mode ({because})"),
        }
    }
}

/// A filter in the kernel, attached to no interface: for test runs, and the step before [`Filter`].
#[derive(Debug)]
pub struct LoadedFilter {
    program: OwnedFd,
    wants: WantSet,
    counters: Shared<CounterRow>,
    streams: Shared<StreamRow>,
    sockets: MapHandle,
}

impl LoadedFilter {
    /// Loads the filter with an empty want set.
    ///
    /// # Errors
    /// [`Error::Config`] without asking the kernel, [`Error::Permission`], [`Error::Load`].
    pub fn load(config: &FilterConfig) -> Result<Self, Error> {
        let constants = config.to_constants()?;
        let (result, log) = libbpf_log::collect(|| load_maps_and_program(constants, bytes_for(config.id_count)));
        let parts = result.map_err(|error| match error.kind() {
            // The verifier says the same of a program that it does not like, so ask with one that it must like.
            libbpf_rs::ErrorKind::PermissionDenied if load_empty_program().is_err() => Error::Permission,
            _ => Error::Load { reason: format!("{error:#}"), log },
        })?;
        Ok(Self {
            program: parts.program,
            wants: WantSet::mapped(Shared::new(&parts.wanted)?, config.id_count),
            counters: Shared::new(&parts.counters)?,
            streams: Shared::new(&parts.streams)?,
            sockets: parts.sockets,
        })
    }

    /// Attaches the filter to `interface`, a name in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::Interface`], [`Error::Busy`], [`Error::Attach`].
    pub fn attach(self, interface: &str, mode: AttachMode) -> Result<Filter, Error> {
        let index = interface_index(interface).map_err(|source| Error::Interface { interface: interface.to_owned(), source })?;
        let link = |flags| XdpLink::new(self.program.as_fd(), index, flags);
        let refused = |tried: String, source: io::Error| match source.raw_os_error() {
            // EEXIST: a program is attached in the other mode.
            Some(libc::EBUSY | libc::EEXIST) => Error::Busy { interface: interface.to_owned() },
            _ => Error::Attach { interface: interface.to_owned(), tried, source },
        };
        let generic = |because: String| match link(XDP_FLAGS_SKB_MODE) {
            Ok(link) => Ok((link, AttachedMode::Generic { because })),
            Err(error) => Err(refused(format!("generic mode ({because})"), error)),
        };
        let (link, mode) = match mode {
            AttachMode::Generic => generic("asked for".to_owned())?,
            AttachMode::Driver | AttachMode::Auto => match link(XDP_FLAGS_DRV_MODE) {
                Ok(link) => (link, AttachedMode::Driver),
                // What is no fault of the driver would go wrong in generic mode, too.
                Err(error)
                    if mode == AttachMode::Driver
                        || matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST | libc::EPERM | libc::ENODEV)) =>
                {
                    return Err(refused("driver mode".to_owned(), error));
                }
                Err(error) => generic(format!("the driver refused: {error}"))?,
            },
        };
        Ok(Filter { loaded: self, link, mode })
    }

    /// The ids that the filter lets through, empty at first. A clone that outlives the filter stays usable.
    pub fn want_set(&self) -> WantSet {
        self.wants.clone()
    }

    /// Sends wanted packets of receive queue `queue` to `socket`, an AF_XDP socket bound to that queue of
    /// the interface, from now on. When the socket is closed the kernel removes it, and packets pass again.
    ///
    /// # Errors
    /// [`Error::Socket`], if it is no AF_XDP socket or the queue's number is over 1023.
    pub fn register_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), Error> {
        let descriptor = socket.as_raw_fd();
        self.sockets
            .update(&queue.to_ne_bytes(), &descriptor.to_ne_bytes(), MapFlags::ANY)
            .map_err(|error| Error::Socket { queue, source: into_io(error) })
    }

    /// Packets by verdict since the filter was loaded, all CPUs together. Costs no system call.
    ///
    /// # Errors
    /// None today.
    pub fn counters(&self) -> Result<Counters, Error> {
        Ok(Counters::sum(self.counters.values()))
    }

    /// The last mark of `stream` that got here; the one before the first is all zeros. None when the filter does not count that stream. Costs no
    /// system call.
    pub fn mark(&self, stream: u16) -> Option<Mark> {
        Mark::read(self.streams.values(), stream)
    }

    /// Runs the filter `repeat` times on `packet`, an Ethernet frame of at least 14 bytes. Counts like real packets.
    ///
    /// # Errors
    /// [`Error::Kernel`], for a packet that is too short or longer than the kernel allows.
    pub fn test_run(&self, packet: &[u8], repeat: u32) -> Result<TestRun, Error> {
        test_run(self.program.as_fd(), packet, repeat)
    }
}

/// A filter that is attached to an interface. It is detached when this value is dropped, and by the kernel
/// when the process ends in whatever way.
#[derive(Debug)]
pub struct Filter {
    loaded: LoadedFilter,
    link: XdpLink,
    mode: AttachedMode,
}

impl Filter {
    /// Loads a filter and attaches it to `interface`, with an empty want set: nothing of the feed passes yet.
    ///
    /// # Errors
    /// Those of [`LoadedFilter::load`] and [`LoadedFilter::attach`].
    pub fn attach(interface: &str, config: &FilterConfig, mode: AttachMode) -> Result<Self, Error> {
        LoadedFilter::load(config)?.attach(interface, mode)
    }

    /// Loads a filter without attaching it.
    ///
    /// # Errors
    /// Those of [`LoadedFilter::load`].
    pub fn load(config: &FilterConfig) -> Result<LoadedFilter, Error> {
        LoadedFilter::load(config)
    }

    /// Where the filter runs.
    pub fn mode(&self) -> &AttachedMode {
        &self.mode
    }

    /// Detaches the filter and says whether that worked, unlike dropping it.
    ///
    /// # Errors
    /// [`Error::Kernel`], for example when the interface is gone.
    pub fn detach(self) -> Result<(), Error> {
        self.link.detach().map_err(Error::kernel("detaching the filter"))
    }
}

impl Deref for Filter {
    type Target = LoadedFilter;

    fn deref(&self) -> &LoadedFilter {
        &self.loaded
    }
}

/// What stays of the skeleton: descriptors, which keep the kernel's objects alive by themselves.
struct Parts {
    program: OwnedFd,
    wanted: MapHandle,
    counters: MapHandle,
    streams: MapHandle,
    sockets: MapHandle,
}

fn load_maps_and_program(constants: types::filter_config, wanted_bytes: u32) -> libbpf_rs::Result<Parts> {
    let mut object = MaybeUninit::uninit();
    let mut skeleton = FilterSkelBuilder::default().open(&mut object)?;
    let Some(rodata) = skeleton.maps.rodata_data.as_deref_mut() else {
        return Err(io::Error::other("the program has no constants").into());
    };
    rodata.config = constants;
    // Resizing moves libbpf's mapping of the map, so nobody may keep a reference into it.
    skeleton.maps.bss_wanted_data = None;
    skeleton.maps.bss_wanted.set_value_size(wanted_bytes)?;
    let skeleton = skeleton.load()?;
    Ok(Parts {
        program: skeleton.progs.discus_filter.as_fd().try_clone_to_owned()?,
        wanted: MapHandle::try_from(&skeleton.maps.bss_wanted)?,
        counters: MapHandle::try_from(&skeleton.maps.bss_counters)?,
        streams: MapHandle::try_from(&skeleton.maps.bss_streams)?,
        sockets: MapHandle::try_from(&skeleton.maps.sockets)?,
    })
}

fn interface_index(interface: &str) -> io::Result<u32> {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    Ok(netdevice::name_to_index(any, interface)?)
}

fn into_io(error: libbpf_rs::Error) -> io::Error {
    match error.kind() {
        libbpf_rs::ErrorKind::InvalidInput => io::Error::new(io::ErrorKind::InvalidInput, error.to_string()),
        _ => io::Error::other(error.to_string()),
    }
}
