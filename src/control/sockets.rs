//! The IKE sockets: UDP 500, and control's member of the groups on UDP 4500 (what carries a non-ESP marker).

use crate::data::ControlSockets;
use crate::sys::datagram::{self, Received};
use landbridge_proto::esp::encap::{Datagram, classify};
use landbridge_proto::policy::sad::Path;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// RFC 3948 §2.2: four zero octets where an ESP packet has its SPI.
const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// Datagrams taken from one socket before the others have their turn.
const BUDGET: usize = 32;

/// What came in.
pub enum Inbound<'a> {
    /// An IKE message, its marker cut off.
    Ike(&'a [u8]),
    /// An ESP packet that the kernel merged into an IKE message's datagram (UDP_GRO looks at addresses only).
    Esp(&'a [u8]),
}

/// Both ports, both families.
pub struct IkeSockets {
    sockets: Vec<IkeSocket>,
    nat_port: u16,
    buffer: Vec<u8>,
    framed: Vec<u8>,
}

struct IkeSocket {
    socket: UdpSocket,
    port: u16,
    ipv6: bool,
}

impl IkeSockets {
    /// Binds `port` and takes over control's sockets on `nat_port`. A machine without IPv6 does without.
    ///
    /// # Errors
    /// Port in use, not permitted.
    pub fn open(port: u16, nat_port: u16, group: &ControlSockets) -> io::Result<Self> {
        let mut sockets = vec![IkeSocket::new(datagram::bind_wildcard(false, port)?, port, false)?];
        match datagram::bind_wildcard(true, port) {
            Ok(socket) => sockets.push(IkeSocket::new(socket, port, true)?),
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
            Err(error) => return Err(error),
        }
        datagram::want_destination(&*group.ipv4, false)?;
        sockets.push(IkeSocket::new(group.ipv4.try_clone()?, nat_port, false)?);
        if let Some(ipv6) = &group.ipv6 {
            datagram::want_destination(&**ipv6, true)?;
            sockets.push(IkeSocket::new(ipv6.try_clone()?, nat_port, true)?);
        }
        Ok(Self {
            sockets,
            nat_port,
            buffer: vec![0; 64 * 1024],
            framed: Vec::new(),
        })
    }

    /// Waits until there is something to receive, then hands it to `handle`, up to a
    /// budget for each socket.
    pub async fn receive(&mut self, mut handle: impl FnMut(Path, Inbound<'_>)) {
        let Self {
            sockets,
            nat_port,
            buffer,
            ..
        } = self;
        poll_fn(|cx| {
            let mut any = false;
            for socket in sockets.iter() {
                for _ in 0..BUDGET {
                    let Poll::Ready(Ok(())) = socket.socket.poll_recv_ready(cx) else {
                        break;
                    };
                    match socket
                        .socket
                        .try_io(Interest::READABLE, || datagram::receive(&socket.socket, buffer))
                    {
                        Ok(received) => {
                            any = true;
                            split(&received, buffer, socket.port, *nat_port, &mut handle);
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        // RFC 7296 §2.4: ICMP is a hint at most; here it only uses up the socket's pending error.
                        Err(error) => tracing::debug!(%error, "receiving IKE"),
                    }
                }
            }
            // With the budget used up the sockets stay ready, so the next call goes on at once.
            if any { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Sends one message (or a NAT keepalive, as it is) from `path.local` to `path.remote`.
    ///
    /// # Errors
    /// As the system says. A lost message is sent again by its timer, so the caller only logs this.
    pub fn send(&mut self, path: &Path, message: &[u8], keepalive: bool) -> io::Result<()> {
        let port = path.local.port();
        let ipv6 = path.remote.is_ipv6();
        let socket = self
            .sockets
            .iter()
            .find(|s| s.port == port && s.ipv6 == ipv6)
            .ok_or_else(|| io::Error::other(format!("no socket for {}", path.local)))?;
        let datagram = if port == self.nat_port && !keepalive {
            self.framed.clear();
            self.framed.extend_from_slice(&NON_ESP_MARKER);
            self.framed.extend_from_slice(message);
            &self.framed
        } else {
            message
        };
        match datagram::send(&socket.socket, datagram, path.local.ip(), path.remote) {
            // An earlier datagram's ICMP error is reported here once; this one has not been sent yet.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                datagram::send(&socket.socket, datagram, path.local.ip(), path.remote)
            }
            other => other,
        }
    }
}

impl IkeSocket {
    fn new(socket: std::net::UdpSocket, port: u16, ipv6: bool) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: UdpSocket::from_std(socket)?,
            port,
            ipv6,
        })
    }
}

fn split(received: &Received, buffer: &[u8], port: u16, nat_port: u16, handle: &mut impl FnMut(Path, Inbound<'_>)) {
    let path = Path::udp(SocketAddr::new(received.local, port), received.remote);
    for datagram in buffer[..received.len].chunks(received.segment.max(1)) {
        if port == nat_port {
            match classify(datagram) {
                Datagram::Ike => handle(path, Inbound::Ike(&datagram[NON_ESP_MARKER.len()..])),
                Datagram::Esp(_) => handle(path, Inbound::Esp(datagram)),
                Datagram::Keepalive | Datagram::Short => {}
            }
        } else {
            handle(path, Inbound::Ike(datagram));
        }
    }
}
