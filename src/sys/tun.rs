//! A TUN interface with a vnet header before each packet: super-packets both ways (see `landbridge_proto::ip::vnet`).
//!
//! The crate `tun-rs` makes the device and its queues and asks for the offloads (TSO, and USO where the kernel has it);
//! reading and writing is ours, since segmenting is fused with sealing, and joining with opening.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use tun_rs::{DeviceBuilder, SyncDevice};

/// One queue of a TUN interface.
pub struct Tun {
    device: SyncDevice,
    name: String,
}

impl Tun {
    /// Makes an interface, down and without addresses.
    ///
    /// # Errors
    /// No `/dev/net/tun`, no CAP_NET_ADMIN, the name is taken: as the system says it, with the name.
    pub fn create(name: &str, mtu: u16) -> io::Result<Self> {
        let exists = super::netdev::index_of(name).is_ok();
        if exists {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("interface {name} exists already"),
            ));
        }
        let device = DeviceBuilder::new()
            .name(name)
            .mtu(mtu)
            .offload(true)
            .packet_information(false)
            .enable(false)
            .build_sync()
            .map_err(|cause| explain(name, &cause))?;
        device.set_nonblocking(true)?;
        Ok(Self {
            device,
            name: name.to_owned(),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the kernel takes and gives UDP super-packets (USO).
    #[must_use]
    pub fn has_uso(&self) -> bool {
        self.device.udp_gso()
    }

    /// Whether it takes and gives TCP super-packets (TSO).
    #[must_use]
    pub fn has_tso(&self) -> bool {
        self.device.tcp_gso()
    }

    /// Reads a vnet header and a packet.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the buffer is valid for writes of its length; the descriptor is open as long as `self` lives.
        let got = unsafe { libc::read(self.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// Writes a vnet header and a packet, in pieces.
    ///
    /// # Errors
    /// As the system says.
    pub fn write(&self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let count = libc::c_int::try_from(pieces.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: `IoSlice` has the layout of `iovec` (std guarantees it on Unix), and each piece is valid for reads.
        let put = unsafe { libc::writev(self.as_raw_fd(), pieces.as_ptr().cast(), count) };
        usize::try_from(put).map_err(|_| io::Error::last_os_error())
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.device.as_raw_fd()
    }
}

fn explain(name: &str, cause: &io::Error) -> io::Error {
    let text = match cause.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            "there is no /dev/net/tun: load the module tun, or give the container the device".to_owned()
        }
        Some(libc::EPERM | libc::EACCES) => {
            format!("interface {name} can't be made: CAP_NET_ADMIN is missing, or /dev/net/tun may not be opened")
        }
        _ => format!("interface {name} can't be made: {cause}"),
    };
    let kind = match cause.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => io::ErrorKind::PermissionDenied,
        _ => cause.kind(),
    };
    io::Error::new(kind, text)
}
