//! UDP in batches: one socket a worker in a reuseport group steered by our inbound SPI, segmentation on sending
//! (UDP_SEGMENT), merging on receipt (UDP_GRO), several messages a call (recvmmsg).

use super::datagram::{bind_group_member, from_sockaddr, set_option, to_sockaddr, want_destination};
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

/// Messages one receive call takes.
pub const RECEIVE_BATCH: usize = 8;
/// Octets of a receive buffer: a merged message is at most this long.
pub const RECEIVE_BUFFER: usize = 64 * 1024;
/// Segments a send call may have (the kernel's UDP_MAX_SEGMENTS is 64 or 128).
pub const MOST_SEGMENTS: usize = 64;
/// Octets of all segments of a send call together.
pub const MOST_OCTETS: usize = 65_000;
/// Asked for; the kernel gives what it allows.
const SOCKET_BUFFER: libc::c_int = 8 << 20;

/// Binds a group of `1 + workers` sockets on a port. Datagrams of an ESP SPI go to worker `(spi >> shift) % 2^bits`, at
/// index `1 + that % workers`; what has a non-ESP marker or is too short for ESP goes to index 0.
///
/// # Errors
/// Port in use, no permission, no IPv6 on this machine.
pub fn bind_group(ipv6: bool, port: u16, workers: usize, shift: u32, bits: u32) -> io::Result<Vec<UdpSocket>> {
    // A member of a group may join any other program's group on the port: that must not be. A socket without
    // SO_REUSEPORT finds out.
    drop(super::datagram::bind_wildcard(ipv6, port)?);
    let mut sockets = Vec::with_capacity(workers + 1);
    // RFC 3948 and the kernel: the index is the order of binding; all members must have UDP_GRO for any to have it.
    for index in 0..=workers {
        let socket = bind_group_member(ipv6, port)?;
        want_destination(&socket, ipv6)?;
        if set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1).is_err() {
            tracing::debug!("no UDP_GRO");
        }
        if ipv6 {
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
            set_option(
                &socket,
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                libc::IP_PMTUDISC_DONT,
            )?;
        } else {
            set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
            // The outer DF bit stays clear: a path that fragments still works (RFC 4301 §8.1 leaves it to policy).
            set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
        }
        for (force, plain) in [
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
        ] {
            if set_option(&socket, libc::SOL_SOCKET, force, SOCKET_BUFFER).is_err() {
                set_option(&socket, libc::SOL_SOCKET, plain, SOCKET_BUFFER)?;
            }
        }
        if index == 0 {
            attach_steering(&socket, workers, shift, bits)?;
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

/// A classic BPF program over the UDP payload that returns the index of a socket of the group.
fn attach_steering(socket: &UdpSocket, workers: usize, shift: u32, bits: u32) -> io::Result<()> {
    const LOAD_LENGTH: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_LEN) as u16;
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_GE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const JUMP_EQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const SHIFT_RIGHT: u16 = (libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K) as u16;
    const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    const MODULO: u16 = (libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K) as u16;
    const ADD: u16 = (libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K) as u16;
    const RETURN_K: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const RETURN_A: u16 = (libc::BPF_RET | libc::BPF_A) as u16;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let workers = u32::try_from(workers.max(1)).unwrap_or(1);
    let mut program = [
        op(LOAD_LENGTH, 0, 0, 0),
        op(JUMP_GE, 1, 0, 8), // as long as SPI and sequence number?
        op(RETURN_K, 0, 0, 0),
        op(LOAD_WORD, 0, 0, 0), // the SPI
        op(JUMP_EQ, 0, 1, 0),   // the non-ESP marker
        op(RETURN_K, 0, 0, 0),
        op(SHIFT_RIGHT, 0, 0, shift),
        op(AND, 0, 0, (1 << bits) - 1),
        op(MODULO, 0, 0, workers),
        op(ADD, 0, 0, 1),
        op(RETURN_A, 0, 0, 0),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `filter` and the program it points to live through the call, and the size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            std::ptr::from_ref(&filter).cast(),
            mem::size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// One received message: `len` octets in its buffer, in segments of `segment` octets, the last of which may be shorter.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// Octets.
    pub len: usize,
    /// Octets of a segment.
    pub segment: usize,
    /// From where.
    pub remote: SocketAddr,
    /// To which of our addresses.
    pub local: IpAddr,
    /// The outer header's TOS or traffic class.
    pub tos: u8,
}

/// Buffers and headers for one receive call, made once.
pub struct ReceiveBatch {
    buffers: Vec<u8>,
    messages: Vec<Option<Message>>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
}

#[repr(align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 128]);

impl ReceiveBatch {
    /// Room for [`RECEIVE_BATCH`] messages.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: all-zero octets are a valid sockaddr_storage.
        let name: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Self {
            buffers: vec![0; RECEIVE_BATCH * RECEIVE_BUFFER],
            messages: vec![None; RECEIVE_BATCH],
            names: vec![name; RECEIVE_BATCH],
            controls: vec![Control([0; 128]); RECEIVE_BATCH],
        }
    }

    /// Receives what is there without blocking; returns the number of messages.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        // SAFETY: all-zero octets are valid values of these C structures.
        let (mut vectors, mut headers): ([libc::iovec; RECEIVE_BATCH], [libc::mmsghdr; RECEIVE_BATCH]) =
            unsafe { (mem::zeroed(), mem::zeroed()) };
        for (index, buffer) in self.buffers.chunks_exact_mut(RECEIVE_BUFFER).enumerate() {
            vectors[index] = libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            };
            let header = &mut headers[index].msg_hdr;
            header.msg_name = std::ptr::from_mut(&mut self.names[index]).cast();
            header.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[index].0.as_mut_ptr().cast();
            header.msg_controllen = self.controls[index].0.len() as _;
        }
        // SAFETY: every pointer in `headers` is valid for the length beside it, and all of it lives through the call.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                RECEIVE_BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for ((message, header), name) in self.messages.iter_mut().zip(&headers).zip(&self.names).take(count) {
            *message = describe(header, name);
        }
        Ok(count)
    }

    /// A message and its octets.
    pub fn message(&mut self, index: usize) -> Option<(Message, &mut [u8])> {
        let message = (*self.messages.get(index)?)?;
        let start = index * RECEIVE_BUFFER;
        Some((message, self.buffers.get_mut(start..start + message.len)?))
    }

    /// All buffers, for reading what lies where: message `index` begins at `index * RECEIVE_BUFFER`.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.buffers
    }
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self::new()
    }
}

fn describe(header: &libc::mmsghdr, name: &libc::sockaddr_storage) -> Option<Message> {
    let len = header.msg_len as usize;
    let truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
    let remote = from_sockaddr(name).filter(|_| !truncated)?;
    let unspecified = if remote.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let mut message = Message {
        len,
        segment: len.max(1),
        remote,
        local: unspecified,
        tos: 0,
    };
    // SAFETY: the header was filled in by recvmmsg; CMSG_FIRSTHDR and CMSG_NXTHDR stay within its control buffer, and
    // each control message's data is read unaligned, as the type that its level and type say.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(&raw const header.msg_hdr);
        while !control.is_null() {
            let data = libc::CMSG_DATA(control);
            match ((*control).cmsg_level, (*control).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size: libc::c_int = data.cast::<libc::c_int>().read_unaligned();
                    message.segment = usize::try_from(size).unwrap_or(len).max(1);
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => message.tos = data.read(),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    message.tos = data.cast::<libc::c_int>().read_unaligned() as u8;
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info: libc::in_pktinfo = data.cast::<libc::in_pktinfo>().read_unaligned();
                    message.local = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into();
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info: libc::in6_pktinfo = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    message.local = Ipv6Addr::from(info.ipi6_addr.s6_addr).into();
                }
                _ => {}
            }
            control = libc::CMSG_NXTHDR(&raw const header.msg_hdr, control);
        }
    }
    Some(message)
}

/// Where a batch of segments goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Destination {
    /// From this address of ours; unspecified lets the kernel choose.
    pub local: IpAddr,
    /// To there.
    pub remote: SocketAddr,
    /// TOS or traffic class.
    pub tos: u8,
}

/// Sends `octets` as datagrams of `segment` octets (the last may be shorter) in one call.
///
/// # Errors
/// As the system says. `EIO`, `EINVAL` and `EMSGSIZE` say that segmentation does not work here: send them one by one.
pub fn send_segments(fd: RawFd, octets: &[u8], segment: usize, to: &Destination) -> io::Result<()> {
    let (mut name, name_len) = to_sockaddr(to.remote);
    let mut vector = libc::iovec {
        iov_base: octets.as_ptr().cast_mut().cast(),
        iov_len: octets.len(),
    };
    let mut control = Control([0; 128]);
    // SAFETY: all-zero octets are a valid msghdr.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = std::ptr::from_mut(&mut name).cast();
    message.msg_namelen = name_len;
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    let mut used = 0;
    if segment < octets.len() {
        used += put_control(&mut control, used, libc::SOL_UDP, libc::UDP_SEGMENT, segment as u16);
    }
    match to.local {
        IpAddr::V4(local) => {
            if !local.is_unspecified() {
                // SAFETY: all-zero octets are a valid in_pktinfo.
                let mut info: libc::in_pktinfo = unsafe { mem::zeroed() };
                info.ipi_spec_dst.s_addr = u32::from(local).to_be();
                used += put_control(&mut control, used, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            if to.tos != 0 {
                used += put_control(
                    &mut control,
                    used,
                    libc::IPPROTO_IP,
                    libc::IP_TOS,
                    libc::c_int::from(to.tos),
                );
            }
        }
        IpAddr::V6(local) => {
            if !local.is_unspecified() {
                // SAFETY: all-zero octets are a valid in6_pktinfo.
                let mut info: libc::in6_pktinfo = unsafe { mem::zeroed() };
                info.ipi6_addr.s6_addr = local.octets();
                used += put_control(&mut control, used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
            if to.tos != 0 {
                let class = libc::c_int::from(to.tos);
                used += put_control(&mut control, used, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, class);
            }
        }
    }
    message.msg_controllen = used as _;
    if used == 0 {
        message.msg_control = std::ptr::null_mut();
    }
    // SAFETY: every pointer in `message` is valid for the length beside it; sendmsg only reads through them.
    let sent = unsafe { libc::sendmsg(fd, &raw const message, 0) };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Writes one control message at `at`; returns the room it takes.
fn put_control<T>(control: &mut Control, at: usize, level: libc::c_int, kind: libc::c_int, value: T) -> usize {
    // SAFETY: CMSG_SPACE and CMSG_LEN only compute.
    let (space, len) = unsafe {
        (
            libc::CMSG_SPACE(mem::size_of::<T>() as u32) as usize,
            libc::CMSG_LEN(mem::size_of::<T>() as u32),
        )
    };
    debug_assert!(at + space <= control.0.len());
    // SAFETY: the control buffer has room for what this module puts into it (asserted above: at most three small
    // messages); `at` is a multiple of the alignment of cmsghdr, since CMSG_SPACE is.
    unsafe {
        let header = control.0.as_mut_ptr().add(at).cast::<libc::cmsghdr>();
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = len as _;
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
    }
    space
}
