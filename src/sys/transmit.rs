//! Sending in batches: `sendmmsg`, each message one datagram or, with UDP_SEGMENT, many of one size.

use super::datagram::to_sockaddr;
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

/// Datagrams in a message: the limit of Linux before 6.11 (UDP_MAX_SEGMENTS).
pub const MAX_SEGMENTS: usize = 64;
/// Octets of a message: what fits an IPv4 total length (65535) with IP and UDP header, or an IPv6 payload length.
pub const MAX_OCTETS: usize = 65_535 - 20 - 8;

/// One message to send: octets of the batch, and where they go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// Where it begins in the batch's octets.
    pub start: usize,
    /// Octets.
    pub len: usize,
    /// Octets of each datagram; the last may be shorter.
    pub segment: usize,
    /// From which of our addresses; unspecified: as the route says.
    pub local: IpAddr,
    /// To where.
    pub remote: SocketAddr,
    /// TOS or traffic class of the outer header.
    pub tos: u8,
    /// DF of an IPv4 header. The socket has it, not the message: see [`super::udp::set_dont_fragment`].
    pub dont_fragment: bool,
}

impl Outgoing {
    /// More than one datagram: it takes UDP_SEGMENT.
    #[must_use]
    pub const fn is_segmented(&self) -> bool {
        self.len > self.segment
    }

    /// Its datagrams one by one.
    pub fn singles(&self) -> impl Iterator<Item = Self> + use<> {
        let whole = *self;
        (0..self.len).step_by(self.segment.max(1)).map(move |at| Self {
            start: whole.start + at,
            len: whole.segment.min(whole.len - at),
            ..whole
        })
    }
}

/// The system call's structures, used again and again.
pub struct TransmitBatch {
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

/// Room for packet information, TOS and segment size; control messages want their header's alignment.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Control([u8; 128]);

impl TransmitBatch {
    /// Room for `most` messages a call.
    #[must_use]
    pub fn new(most: usize) -> Self {
        // SAFETY: all-zero octets are valid values of these C structures.
        let (name, header): (libc::sockaddr_storage, libc::mmsghdr) = unsafe { (mem::zeroed(), mem::zeroed()) };
        let vector = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        Self {
            names: vec![name; most],
            controls: vec![Control([0; 128]); most],
            vectors: vec![vector; most],
            headers: vec![header; most],
        }
    }

    /// Sends the first messages without blocking; returns how many went, which may be fewer than given.
    ///
    /// # Errors
    /// Of the first message: `WouldBlock` when the socket's buffer is full; `EIO`, `EINVAL`, `EMSGSIZE` when
    /// UDP_SEGMENT is not possible there.
    pub fn send(&mut self, socket: &impl AsFd, octets: &[u8], messages: &[Outgoing]) -> io::Result<usize> {
        let rows = self.headers.iter_mut().zip(&mut self.vectors).zip(&mut self.names);
        let mut count = 0;
        for (((header, vector), name), (control, message)) in rows.zip(self.controls.iter_mut().zip(messages)) {
            let data = octets
                .get(message.start..message.start + message.len)
                .unwrap_or_default();
            vector.iov_base = data.as_ptr().cast_mut().cast();
            vector.iov_len = data.len();
            let (address, length) = to_sockaddr(message.remote);
            *name = address;
            let header = &mut header.msg_hdr;
            header.msg_name = std::ptr::from_mut(name).cast();
            header.msg_namelen = length;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            write_control(header, control, message);
            count += 1;
        }
        let fd = socket.as_fd().as_raw_fd();
        let flags = libc::MSG_DONTWAIT as _;
        // SAFETY: the first `count` headers were filled in just now; each pointer in them is valid for the length beside
        // it until the call returns. sendmmsg reads through them, and writes msg_len of the headers only.
        let sent = unsafe { libc::sendmmsg(fd, self.headers.as_mut_ptr(), count, flags) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

fn write_control(header: &mut libc::msghdr, control: &mut Control, message: &Outgoing) {
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len() as _;
    let mut used = 0;
    // SAFETY: the buffer is aligned, and larger than the three control messages together (32 or 40, 24, 24 octets). The
    // place of each next one is the end of those before, which CMSG_SPACE keeps aligned.
    let mut put = |level: libc::c_int, kind: libc::c_int, data: &[u8]| unsafe {
        let len = data.len() as libc::c_uint;
        let at = control.0.as_mut_ptr().add(used).cast::<libc::cmsghdr>();
        (*at).cmsg_level = level;
        (*at).cmsg_type = kind;
        (*at).cmsg_len = libc::CMSG_LEN(len) as _;
        std::ptr::copy_nonoverlapping(data.as_ptr(), libc::CMSG_DATA(at), data.len());
        used += libc::CMSG_SPACE(len) as usize;
    };
    match message.local {
        local if local.is_unspecified() => {}
        IpAddr::V4(local) => {
            // struct in_pktinfo: interface index, local address, destination (not used when sending).
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&local.octets());
            put(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        IpAddr::V6(local) => {
            // struct in6_pktinfo: address, interface index (a link-local address has one).
            let mut info = [0; 20];
            info[..16].copy_from_slice(&local.octets());
            if let SocketAddr::V6(remote) = message.remote {
                info[16..].copy_from_slice(&remote.scope_id().to_ne_bytes());
            }
            put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
    }
    if message.tos != 0 {
        let tos = libc::c_int::from(message.tos).to_ne_bytes();
        if message.remote.is_ipv4() {
            put(libc::IPPROTO_IP, libc::IP_TOS, &tos);
        } else {
            put(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &tos);
        }
    }
    if message.is_segmented() {
        let size = u16::try_from(message.segment).unwrap_or(u16::MAX);
        put(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
    }
    if used == 0 {
        header.msg_control = std::ptr::null_mut();
    }
    header.msg_controllen = used as _;
}

#[cfg(test)]
mod tests {
    use super::super::receive::ReceiveBatch;
    use super::super::udp::{GroupOptions, Steering, bind_group};
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

    /// Three datagrams of 1000 octets and one of 10, as one message, with a TOS, to a socket with and without UDP_GRO.
    #[test]
    fn segments_arrive_with_addresses_and_tos() {
        for (loopback, gro) in [
            (IpAddr::from(Ipv4Addr::LOCALHOST), true),
            (Ipv4Addr::LOCALHOST.into(), false),
            (Ipv6Addr::LOCALHOST.into(), true),
            (Ipv6Addr::LOCALHOST.into(), false),
        ] {
            let Ok(sender) = UdpSocket::bind((loopback, 0)) else {
                continue;
            };
            let port = UdpSocket::bind((loopback, 0)).unwrap().local_addr().unwrap().port();
            let options = GroupOptions {
                port,
                gro,
                buffer: 1 << 20,
            };
            let steering = Steering {
                shift: 16,
                bits: 6,
                workers: 1,
            };
            let group = bind_group(loopback.is_ipv6(), &options, &steering).unwrap();
            let octets: Vec<u8> = (0..3010_u32).map(|n| (n / 7) as u8 | 1).collect();
            let message = Outgoing {
                start: 0,
                len: 3010,
                segment: 1000,
                local: loopback,
                remote: SocketAddr::new(loopback, port),
                tos: 0xba,
                dont_fragment: false,
            };
            assert_eq!(TransmitBatch::new(4).send(&sender, &octets, &[message]).unwrap(), 1);
            let mut batch = ReceiveBatch::new(8);
            let mut got = Vec::new();
            while got.len() < 4 {
                batch.receive(&group.members[1], 8).unwrap();
                let (slab, messages) = batch.parts();
                for message in messages {
                    assert_eq!((message.local, message.tos), (loopback, 0xba));
                    assert_eq!(message.remote, sender.local_addr().unwrap());
                    let datagrams = slab[message.start..message.start + message.len].chunks(message.segment);
                    got.extend(datagrams.map(<[u8]>::to_vec));
                }
            }
            assert_eq!(got, octets.chunks(1000).map(<[u8]>::to_vec).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_message_falls_apart_into_its_datagrams() {
        let message = Outgoing {
            start: 5,
            len: 25,
            segment: 10,
            local: Ipv4Addr::UNSPECIFIED.into(),
            remote: SocketAddr::from(([192, 0, 2, 1], 4500)),
            tos: 0,
            dont_fragment: false,
        };
        let places: Vec<_> = message.singles().map(|m| (m.start, m.len)).collect();
        assert_eq!(places, [(5, 10), (15, 10), (25, 5)]);
        assert!(message.is_segmented() && message.singles().all(|m| !m.is_segmented()));
    }
}
