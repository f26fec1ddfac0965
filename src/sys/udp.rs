//! The SO_REUSEPORT groups of the NAT traversal port: member 0 is control's, members 1 to W the workers'. A socket filter
//! (SO_ATTACH_REUSEPORT_CBPF) steers each datagram by the SPI in its first octets.
//!
//! Facts of the kernel behind this:
//! - The filter sees the UDP payload at offset 0, and answers with a member's index: the order of binding. A member that
//!   is closed is replaced by the last one, so a group lives and dies as a whole.
//! - A filter that loads beyond the end of the datagram answers 0.
//! - GRO looks a socket up before the filter runs, so UDP_GRO is set on every member, or merging comes and goes.

use super::datagram::{set_option, to_sockaddr, want_destination};
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};

/// Where the owner stands in our inbound SPIs, and how many there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Steering {
    /// Bits to the right of the owner.
    pub shift: u32,
    /// Bits of the owner.
    pub bits: u32,
    /// Workers, at least 1.
    pub workers: usize,
}

/// How the sockets are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupOptions {
    /// UDP port.
    pub port: u16,
    /// Ask for UDP_GRO.
    pub gro: bool,
    /// Octets of the kernel's buffers, each way.
    pub buffer: usize,
}

/// A group of sockets of one family.
#[derive(Debug)]
pub struct Group {
    /// Control's first, then each worker's.
    pub members: Vec<UdpSocket>,
    /// UDP_GRO was granted.
    pub gro: bool,
}

/// Binds the group to the wildcard address.
///
/// # Errors
/// Port in use, not permitted, no such family on this machine; the message names the port.
pub fn bind_group(ipv6: bool, options: &GroupOptions, steering: &Steering) -> io::Result<Group> {
    let mut members = Vec::with_capacity(steering.workers + 1);
    let mut gro = options.gro;
    for index in 0..=steering.workers {
        let socket = open(ipv6)?;
        if index > 0 {
            set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
        prepare(&socket, ipv6, options)?;
        // UDP_GRO: Linux 5.0.
        gro = gro && set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        bind(&socket, ipv6, options.port)?;
        if index == 0 {
            // Only now: had it been set before, this would silently join the group of another program (of the same user)
            // on this port instead of finding it in use.
            set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
        members.push(socket);
    }
    if !gro {
        for socket in &members {
            // Where it was never set this fails, and changes nothing.
            drop(set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 0));
        }
    }
    if let Some(first) = members.first() {
        attach_with(first, libc::SO_ATTACH_REUSEPORT_CBPF, &program(steering))?;
    }
    Ok(Group { members, gro })
}

fn open(ipv6: bool) -> io::Result<UdpSocket> {
    let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is a fresh socket that nothing else owns.
    Ok(unsafe { UdpSocket::from_raw_fd(fd) })
}

fn prepare(socket: &UdpSocket, ipv6: bool, options: &GroupOptions) -> io::Result<()> {
    want_destination(socket, ipv6)?;
    super::mark::mark(socket);
    if ipv6 {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    outer_header_options(socket, ipv6)?;
    grow_buffers(socket, options.buffer)
}

/// TOS is told, and the fragmentation policy is decision 3: the outer packet may be fragmented, and a forged ICMP moves
/// nothing.
pub(super) fn outer_header_options(socket: &impl AsFd, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        set_option(
            socket,
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DONT,
        )
    } else {
        set_option(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT)
    }
}

/// Whether what is sent from now on has DF set (IPv4). Then the device's MTU is the limit, and the path's is not asked
/// for (IP_PMTUDISC_PROBE).
///
/// # Errors
/// As the system says.
pub fn set_dont_fragment(socket: &impl AsFd, set: bool) -> io::Result<()> {
    let value = if set {
        libc::IP_PMTUDISC_PROBE
    } else {
        libc::IP_PMTUDISC_OMIT
    };
    set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, value)
}

pub(super) fn grow_buffers(socket: &impl AsFd, octets: usize) -> io::Result<()> {
    let size = libc::c_int::try_from(octets).unwrap_or(libc::c_int::MAX);
    for (force, plain) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    ] {
        // Without CAP_NET_ADMIN as much as net.core.rmem_max and wmem_max allow.
        if set_option(socket, libc::SOL_SOCKET, force, size).is_err() {
            set_option(socket, libc::SOL_SOCKET, plain, size)?;
        }
    }
    Ok(())
}

/// Whether the kernel knows UDP_SEGMENT (Linux 4.18).
#[must_use]
pub fn has_segmentation(socket: &UdpSocket) -> bool {
    // 0 is the default: the messages say it for themselves.
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok()
}

fn bind(socket: &UdpSocket, ipv6: bool, port: u16) -> io::Result<()> {
    let any: IpAddr = if ipv6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let (address, length) = to_sockaddr(SocketAddr::new(any, port));
    // SAFETY: `address` is a valid sockaddr of `length` octets.
    if unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), length) } != 0 {
        let cause = io::Error::last_os_error();
        let text = format!("UDP {}: {cause}", SocketAddr::new(any, port));
        return Err(io::Error::new(cause.kind(), text));
    }
    Ok(())
}

/// SPI 0 (the non-ESP marker of RFC 3948 §2.2) and what is too short for ESP (a keepalive) go to control, the rest to
/// the SPI's owner. An SPI that is not ours has an owner that may not exist: it goes to any, where it is counted.
fn program(steering: &Steering) -> [libc::sock_filter; 10] {
    let instruction = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let jump = |test: u32, k: u32, yes: u8, no: u8| libc::sock_filter {
        jt: yes,
        jf: no,
        ..instruction(libc::BPF_JMP | test | libc::BPF_K, k)
    };
    let arithmetic = |operation: u32, k: u32| instruction(libc::BPF_ALU | operation | libc::BPF_K, k);
    let mask = (1_u32 << steering.bits.min(31)) - 1;
    let workers = u32::try_from(steering.workers.max(1)).unwrap_or(1);
    [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0),
        jump(libc::BPF_JGE, 8, 0, 7),
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        jump(libc::BPF_JEQ, 0, 5, 0),
        arithmetic(libc::BPF_RSH, steering.shift),
        arithmetic(libc::BPF_AND, mask),
        arithmetic(libc::BPF_MOD, workers),
        arithmetic(libc::BPF_ADD, 1),
        instruction(libc::BPF_RET | libc::BPF_A, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0),
    ]
}

pub(super) fn attach_with(socket: &impl AsFd, option: libc::c_int, filter: &[libc::sock_filter]) -> io::Result<()> {
    let mut filter = filter.to_vec();
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap_or(0),
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: `program` points to `len` instructions that live through the call; the kernel checks and copies them.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(&program).cast(),
            mem::size_of_val(&program) as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const OPTIONS: GroupOptions = GroupOptions {
        port: 0,
        gro: true,
        buffer: 1 << 20,
    };

    /// A port that nothing uses at the moment.
    fn free_port() -> u16 {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.local_addr().unwrap().port()
    }

    fn group(ipv6: bool, workers: usize) -> Option<(u16, Group)> {
        let steering = Steering {
            shift: 16,
            bits: 6,
            workers,
        };
        let port = free_port();
        let options = GroupOptions { port, ..OPTIONS };
        match bind_group(ipv6, &options, &steering) {
            Err(error) if ipv6 && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            group => Some((port, group.unwrap())),
        }
    }

    #[test]
    fn each_datagram_goes_to_the_owner_of_its_spi() {
        for (ipv6, loopback) in [
            (false, IpAddr::from(Ipv4Addr::LOCALHOST)),
            (true, Ipv6Addr::LOCALHOST.into()),
        ] {
            let Some((port, group)) = group(ipv6, 3) else { continue };
            let sender = UdpSocket::bind((loopback, 0)).unwrap();
            let esp = |owner: u32| [(0x5040_0000_u32 | owner << 16 | 0xfff7).to_be_bytes(), [0; 4]].concat();
            let cases: [(Vec<u8>, usize); 8] = [
                (vec![0; 32], 0),
                (vec![0xff], 0),
                (vec![], 0),
                (vec![1; 7], 0),
                (esp(0), 1),
                (esp(1), 2),
                (esp(2), 3),
                (esp(63), 1),
            ];
            for (datagram, member) in cases {
                sender.send_to(&datagram, (loopback, port)).unwrap();
                let socket = &group.members[member];
                socket.set_nonblocking(false).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut buffer = [0; 64];
                let len = socket
                    .recv(&mut buffer)
                    .unwrap_or_else(|e| panic!("{datagram:?} to {member}: {e}"));
                assert_eq!(buffer[..len], datagram);
            }
        }
    }

    #[test]
    fn a_port_in_use_is_said_even_by_a_group() {
        let (port, _held) = group(false, 1).unwrap();
        let steering = Steering {
            shift: 16,
            bits: 6,
            workers: 1,
        };
        let error = bind_group(false, &GroupOptions { port, ..OPTIONS }, &steering).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&port.to_string()));
    }
}
