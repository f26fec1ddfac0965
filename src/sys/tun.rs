//! TUN interfaces with the offloads that make super-packets: made by `tun-rs`, read and written here, with the
//! virtio-net header in the data.

use super::capabilities;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use tun_rs::{DeviceBuilder, SyncDevice};

/// IFNAMSIZ with its terminating zero.
const NAME_LEN: usize = 16;

/// What to ask the kernel for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunOptions {
    /// IFF_VNET_HDR with checksum and segmentation offload. Where the kernel refuses, it goes without.
    pub offload: bool,
}

/// One queue of a TUN interface, not blocking. The interface goes when its last queue is dropped.
pub struct Tun {
    device: SyncDevice,
    vnet: bool,
    uso: bool,
}

/// Room for the pieces of a write, to be used again and again.
#[derive(Default)]
pub struct Pieces(Vec<libc::iovec>);

impl Tun {
    /// Makes an interface: down, without addresses.
    ///
    /// # Errors
    /// No `/dev/net/tun`, no CAP_NET_ADMIN, the name is taken or no name; the message says which.
    pub fn create(name: &str, options: TunOptions) -> io::Result<Self> {
        Self::open(name, options, false)
    }

    /// Makes an interface with this many queues (IFF_MULTI_QUEUE if it is more than one, at most 256): down, without addresses.
    /// All but the first are detached.
    ///
    /// # Errors
    /// As for [`Self::create`], or no more queues are to be had.
    pub fn create_queues(name: &str, options: TunOptions, count: usize) -> io::Result<Vec<Self>> {
        let first = Self::open(name, options, count > 1)?;
        let (vnet, uso) = (first.vnet, first.uso);
        let mut queues = vec![first];
        while let Some(first) = queues.first().filter(|_| queues.len() < count) {
            let device = first.device.try_clone().map_err(|cause| explain(name, &cause))?;
            device.set_nonblocking(true)?;
            let queue = Self { device, vnet, uso };
            queue.set_attached(false)?;
            queues.push(queue);
        }
        Ok(queues)
    }

    fn open(name: &str, options: TunOptions, multi_queue: bool) -> io::Result<Self> {
        if name.is_empty() || name.len() >= NAME_LEN {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name:?} is no interface name: 1 to 15 octets"),
            ));
        }
        // A TUN that is there already (left persistent, or of another program) would be taken over in silence.
        if super::netdev::index_of(name).is_ok() {
            let text = format!("interface {name} exists already");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        let build = |offload| {
            DeviceBuilder::new()
                .name(name)
                .offload(offload)
                .multi_queue(multi_queue)
                .enable(false)
                .build_sync()
        };
        let device = match (options.offload, build(options.offload)) {
            // Before Linux 2.6.27, and on what imitates Linux.
            (true, Err(error)) if error.raw_os_error() == Some(libc::EINVAL) => build(false),
            (_, result) => result,
        };
        let device = device.map_err(|cause| explain(name, &cause))?;
        device.set_nonblocking(true)?;
        let vnet = options.offload && device.tcp_gso();
        let uso = vnet && device.udp_gso();
        Ok(Self { device, vnet, uso })
    }

    /// Whether a virtio-net header comes before each packet, in both directions, and TCP super-packets with it.
    #[must_use]
    pub const fn vnet(&self) -> bool {
        self.vnet
    }

    /// Whether UDP super-packets come and are taken (USO: Linux 6.2).
    #[must_use]
    pub const fn uso(&self) -> bool {
        self.uso
    }

    /// Whether its interface has been deleted. Reading and writing is `EBADFD` then, for good.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let result = self.device.name();
        result.is_err_and(|error| error.raw_os_error() == Some(libc::EBADFD))
    }

    /// Attaches one of several queues, or detaches it: the kernel puts no more packets there, and throws away those that are, at the end
    /// of the call. A detached queue is empty, and can be written to. If another queue than the one attached last is detached, that one
    /// takes its number, and the kernel may throw away some that were for it meanwhile.
    ///
    /// # Errors
    /// It is so already, or the interface has one queue.
    pub fn set_attached(&self, attached: bool) -> io::Result<()> {
        // SAFETY: all-zero octets are a valid ifreq.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        let flag = if attached {
            libc::IFF_ATTACH_QUEUE
        } else {
            libc::IFF_DETACH_QUEUE
        };
        request.ifr_ifru.ifru_flags = flag as libc::c_short;
        // SAFETY: `request` is valid for the call; the descriptor is open.
        if unsafe { libc::ioctl(self.device.as_raw_fd(), libc::TUNSETQUEUE as _, &raw mut request) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Reads one packet with its header. What does not fit is cut off by the kernel.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: `buffer` is valid for writes of its length; the descriptor is open.
        let len = unsafe { libc::read(self.device.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        usize::try_from(len).map_err(|_| io::Error::last_os_error())
    }

    /// Writes one packet, gathered from `parts` (the first is the header).
    ///
    /// # Errors
    /// `EINVAL` for a super-packet that the kernel does not take, `EIO` while the interface is down.
    pub fn write<'a>(&self, pieces: &mut Pieces, parts: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        pieces.0.clear();
        pieces.0.extend(parts.map(|part| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        }));
        let count = libc::c_int::try_from(pieces.0.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: each piece was made of a slice of lifetime 'a, which outlives this call; writev only reads them.
        let len = unsafe { libc::writev(self.device.as_raw_fd(), pieces.0.as_ptr(), count) };
        pieces.0.clear();
        if len < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl std::fmt::Debug for Tun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fd = self.device.as_raw_fd();
        f.debug_struct("Tun")
            .field("fd", &fd)
            .field("vnet", &self.vnet)
            .finish()
    }
}

fn explain(name: &str, cause: &io::Error) -> io::Error {
    let why = match cause.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV) => "there is no TUN device (modprobe tun; in a container, hand it in)",
        Some(libc::EPERM | libc::EACCES) if !capabilities::has(capabilities::NET_ADMIN).unwrap_or(true) => {
            "it takes CAP_NET_ADMIN"
        }
        Some(libc::EPERM | libc::EACCES) => "/dev/net/tun is not to be had",
        Some(libc::EBUSY) => "another program has it",
        Some(libc::E2BIG) => "it can't have so many queues",
        _ => "it can't be made",
    };
    io::Error::new(cause.kind(), format!("interface {name}: {why}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_cannot_be_is_said() {
        for name in ["", "sixteen-octets-x"] {
            let error = Tun::create(name, TunOptions { offload: true }).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        let error = Tun::create("lo", TunOptions { offload: true }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{error}");
    }
}
