//! Receiving in batches: `recvmmsg`, each message holding one datagram or, with UDP_GRO, many.

use super::datagram::from_sockaddr;
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

/// Octets of a message's place: a merged datagram is as long as IPv4's total length allows.
pub const PLACE: usize = 1 << 16;

/// One message: where its octets are, and what came with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Where it begins in the batch's octets.
    pub start: usize,
    /// Octets.
    pub len: usize,
    /// Octets of each datagram in it, at least 1; the last may be shorter.
    pub segment: usize,
    /// From where.
    pub remote: SocketAddr,
    /// To which of our addresses.
    pub local: IpAddr,
    /// TOS or traffic class of the outer header (equal for all that were merged).
    pub tos: u8,
    /// Our port of the TCP connection that it came by (RFC 9329), if it did.
    pub tcp: Option<u16>,
}

/// A batch of messages and the memory they are received into, which is used again. Pages that nothing was received into
/// are never touched.
pub struct ReceiveBatch {
    slab: Vec<u8>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    messages: Vec<Message>,
}

/// Room for packet information, TOS and segment size; control messages want their header's alignment.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Control([u8; 128]);

impl ReceiveBatch {
    /// Room for `most` messages.
    #[must_use]
    pub fn new(most: usize) -> Self {
        // SAFETY: all-zero octets are valid values of these C structures.
        let (name, header): (libc::sockaddr_storage, libc::mmsghdr) = unsafe { (mem::zeroed(), mem::zeroed()) };
        let vector = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        Self {
            slab: vec![0; most * PLACE],
            names: vec![name; most],
            controls: vec![Control([0; 128]); most],
            vectors: vec![vector; most],
            headers: vec![header; most],
            messages: Vec::with_capacity(most),
        }
    }

    /// Receives up to `most` messages without blocking; what was received before is forgotten.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing.
    pub fn receive(&mut self, socket: &impl AsFd, most: usize) -> io::Result<()> {
        self.messages.clear();
        let most = most.min(self.headers.len());
        let places = self.slab.chunks_exact_mut(PLACE);
        let rows = self.headers.iter_mut().zip(&mut self.vectors).zip(&mut self.names);
        for (((header, vector), name), (control, place)) in rows.zip(self.controls.iter_mut().zip(places)).take(most) {
            vector.iov_base = place.as_mut_ptr().cast();
            vector.iov_len = place.len();
            let header = &mut header.msg_hdr;
            header.msg_name = std::ptr::from_mut(name).cast();
            header.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = control.0.len() as _;
            header.msg_flags = 0;
        }
        let fd = socket.as_fd().as_raw_fd();
        let flags = libc::MSG_DONTWAIT as _;
        // SAFETY: the first `most` headers were filled in just now; each pointer in them is valid for the length beside
        // it until the call returns, and they do not overlap.
        let count = unsafe {
            libc::recvmmsg(
                fd,
                self.headers.as_mut_ptr(),
                most as libc::c_uint,
                flags,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (index, (header, name)) in self.headers.iter().zip(&self.names).take(count).enumerate() {
            // Without an address there is nobody to answer to; it does not happen on UDP sockets.
            if let Some(remote) = from_sockaddr(name) {
                self.messages.push(read(index * PLACE, header, remote));
            }
        }
        Ok(())
    }

    /// What was received: all octets, and the messages in them.
    pub fn parts(&mut self) -> (&mut [u8], &[Message]) {
        (&mut self.slab, &self.messages)
    }
}

fn read(start: usize, header: &libc::mmsghdr, remote: SocketAddr) -> Message {
    let len = (header.msg_len as usize).min(PLACE);
    let local = if remote.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let mut message = Message {
        start,
        len,
        segment: len.max(1),
        remote,
        local,
        tos: 0,
        tcp: None,
    };
    // SAFETY: recvmmsg filled the header in, its control buffer still lives; CMSG_FIRSTHDR and CMSG_NXTHDR stay within it,
    // and each control message's data is read unaligned, as the type that its level and type say.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(&raw const header.msg_hdr);
        while !at.is_null() {
            let data = libc::CMSG_DATA(at);
            match ((*at).cmsg_level, (*at).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info: libc::in_pktinfo = data.cast::<libc::in_pktinfo>().read_unaligned();
                    message.local = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into();
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info: libc::in6_pktinfo = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    message.local = Ipv6Addr::from(info.ipi6_addr.s6_addr).into();
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => message.tos = data.read(),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    message.tos = data.cast::<libc::c_int>().read_unaligned() as u8;
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size: libc::c_int = data.cast::<libc::c_int>().read_unaligned();
                    message.segment = usize::try_from(size).unwrap_or(len).max(1);
                }
                _ => {}
            }
            at = libc::CMSG_NXTHDR(&raw const header.msg_hdr, at);
        }
    }
    message
}
