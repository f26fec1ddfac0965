//! Raw sockets for ESP without UDP (IP protocol 50). Each worker has one of each family, and each of them is shown every
//! packet: a socket filter lets it keep those whose SPI it owns.
//!
//! Facts of the kernel behind this:
//! - An IPv4 raw socket and its filter see the IP header before ESP, an IPv6 one only what follows the headers.
//! - Fragments are put together before a raw socket sees them (RFC 4303 §3.4.1).
//! - Without IP_HDRINCL the kernel writes the header: identification, fragmentation and DF as for UDP.
//! - There is no segmentation and no merging: a packet is a message, each way.
//! - An IPv6 raw socket that is not connected learns of Packet Too Big only with IPV6_RECVERR, and only the sender
//!   fragments there. Then each ICMP error makes one call fail, and waits in a queue: see [`forget_errors`].
//! - It takes CAP_NET_RAW.

use super::datagram::{set_option, want_destination};
use super::mark::mark;
use super::udp::{GroupOptions, Steering, attach_with, grow_buffers, outer_header_options};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Opens the sockets, one a worker; not blocking.
///
/// # Errors
/// `PermissionDenied` without CAP_NET_RAW; no such family on this machine.
pub fn open_raw(ipv6: bool, options: &GroupOptions, steering: &Steering) -> io::Result<Vec<OwnedFd>> {
    (0..steering.workers.max(1))
        .map(|worker| {
            let socket = open(ipv6)?;
            // Before anything else: a packet that comes in meanwhile is another worker's, or lost to the last one.
            let filter = program(ipv6, worker, steering);
            attach_with(&socket, libc::SO_ATTACH_FILTER, &filter)?;
            mark(&socket);
            want_destination(&socket, ipv6)?;
            outer_header_options(&socket, ipv6)?;
            grow_buffers(&socket, options.buffer)?;
            if ipv6 {
                set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
            }
            Ok(socket)
        })
        .collect()
}

fn open(ipv6: bool) -> io::Result<OwnedFd> {
    let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(family, kind, libc::IPPROTO_ESP) };
    if fd < 0 {
        let cause = io::Error::last_os_error();
        let what = if cause.kind() == io::ErrorKind::PermissionDenied {
            "ESP without UDP takes CAP_NET_RAW"
        } else {
            "a raw socket for ESP without UDP"
        };
        return Err(io::Error::new(cause.kind(), Unavailable { what, cause }));
    }
    // SAFETY: `fd` is a fresh socket that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Empties the queue of ICMP errors: the kernel has taken what it needs from them (the path's MTU). What is left in it keeps
/// the socket "ready".
pub fn forget_errors(socket: &impl AsFd) {
    // SAFETY: all-zero octets are a valid msghdr, which asks for nothing but the message's removal.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    // Bounded, in case they come faster than they go.
    for _ in 0..64 {
        // SAFETY: `message` has no pointers.
        let result = unsafe {
            libc::recvmsg(
                socket.as_fd().as_raw_fd(),
                &raw mut message,
                libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
            )
        };
        if result < 0 {
            return;
        }
    }
}

/// Why there is no raw socket.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
struct Unavailable {
    what: &'static str,
    #[source]
    cause: io::Error,
}

/// Whether an error of [`open_raw`] says that this machine has no such family.
#[must_use]
pub fn no_such_family(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Unavailable>());
    inner.is_some_and(|inner| inner.cause.raw_os_error() == Some(libc::EAFNOSUPPORT))
}

/// Keeps the packets whose SPI belongs to `worker`, as [`super::udp`] steers datagrams. An SPI that is not ours has an
/// owner that may not exist: one of the workers gets it, and counts it.
fn program(ipv6: bool, worker: usize, steering: &Steering) -> Vec<libc::sock_filter> {
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let arithmetic = |operation: u32, k: u32| statement(libc::BPF_ALU | operation | libc::BPF_K, k);
    let mask = (1_u32 << steering.bits.min(31)) - 1;
    let workers = u32::try_from(steering.workers.max(1)).unwrap_or(1);
    let worker = u32::try_from(worker).unwrap_or(0);
    let mut program = if ipv6 {
        vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)]
    } else {
        vec![
            // X = length of the IPv4 header; A = the word behind it.
            statement(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
            statement(libc::BPF_LD | libc::BPF_W | libc::BPF_IND, 0),
        ]
    };
    program.extend([
        arithmetic(libc::BPF_RSH, steering.shift),
        arithmetic(libc::BPF_AND, mask),
        arithmetic(libc::BPF_MOD, workers),
        libc::sock_filter {
            jt: 0,
            jf: 1,
            ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, worker)
        },
        // All of it; nothing of it.
        statement(libc::BPF_RET | libc::BPF_K, u32::MAX),
        statement(libc::BPF_RET | libc::BPF_K, 0),
    ]);
    program
}

#[cfg(test)]
mod tests {
    use super::super::receive::ReceiveBatch;
    use super::super::transmit::{Outgoing, TransmitBatch};
    use super::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

    /// Needs CAP_NET_RAW; without it, the error says so.
    #[test]
    fn each_packet_comes_to_the_owner_of_its_spi_with_addresses_and_tos() {
        let steering = Steering {
            shift: 16,
            bits: 6,
            workers: 2,
        };
        let options = GroupOptions {
            port: 0,
            gro: false,
            buffer: 1 << 20,
        };
        for loopback in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let sockets = match open_raw(loopback.is_ipv6(), &options, &steering) {
                Ok(sockets) => sockets,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    assert!(error.to_string().contains("CAP_NET_RAW"), "{error}");
                    continue;
                }
                Err(error) if no_such_family(&error) => continue,
                Err(error) => panic!("{error}"),
            };
            // Other tests on this machine may send ESP over the loopback as well: this one knows its own by the end.
            let mark = std::process::id().to_be_bytes();
            for (owner, worker) in [(0_u32, 0), (1, 1), (2, 0), (63, 1)] {
                let packet = [&(0x5040_0000_u32 | owner << 16 | 5).to_be_bytes(), &[7; 40][..], &mark].concat();
                let message = Outgoing {
                    start: 0,
                    len: packet.len(),
                    segment: packet.len(),
                    local: loopback,
                    remote: SocketAddr::new(loopback, 0),
                    tos: 0xba,
                    dont_fragment: false,
                };
                let sent = TransmitBatch::new(1).send(&sockets[0], &packet, &[message]).unwrap();
                assert_eq!(sent, 1);
                for (index, socket) in sockets.iter().enumerate() {
                    let mut batch = ReceiveBatch::new(4);
                    let mut own = Vec::new();
                    while batch.receive(socket, 4).is_ok() {
                        let (octets, messages) = batch.parts();
                        for message in messages {
                            let all = &octets[message.start..message.start + message.len];
                            let header = if loopback.is_ipv4() { 20 } else { 0 };
                            if all[header..] == packet {
                                own.push((message.remote.ip(), message.local, message.tos));
                            }
                        }
                    }
                    let expected = if index == worker {
                        vec![(loopback, loopback, 0xba)]
                    } else {
                        vec![]
                    };
                    assert_eq!(own, expected, "owner {owner} at {index}");
                }
            }
        }
    }
}
