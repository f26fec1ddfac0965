//! One UDP datagram at a time with both of its addresses, as the key exchange needs it (the data path has its batches
//! in [`super::udp`]).

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};

/// What was received: `len` octets in the caller's buffer, which hold one datagram, or several of `segment` octets
/// each (the last may be shorter) if the kernel merged them (UDP_GRO).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Octets.
    pub len: usize,
    /// Octets of one datagram.
    pub segment: usize,
    /// From where.
    pub remote: SocketAddr,
    /// To which of our addresses.
    pub local: IpAddr,
}

/// A non-blocking UDP socket bound to the wildcard address, which tells the destination of what it receives. An IPv6
/// socket takes IPv6 only.
///
/// # Errors
/// Port in use, not permitted, no IPv6 on this machine.
pub fn bind_wildcard(ipv6: bool, port: u16) -> io::Result<UdpSocket> {
    let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is a fresh socket that nothing else owns.
    let socket = unsafe { UdpSocket::from_raw_fd(fd) };
    let any: IpAddr = if ipv6 {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    want_destination(&socket, ipv6)?;
    super::udp::outer_header_options(&socket, ipv6)?;
    super::mark::mark(&socket);
    let (address, length) = to_sockaddr(SocketAddr::new(any, port));
    // SAFETY: `address` is a valid sockaddr of `length` octets.
    if unsafe { libc::bind(fd, std::ptr::from_ref(&address).cast(), length) } != 0 {
        let cause = io::Error::last_os_error();
        return Err(io::Error::new(cause.kind(), format!("UDP port {port}: {cause}")));
    }
    Ok(socket)
}

/// Makes a socket tell each datagram's destination address (IP_PKTINFO, IPV6_RECVPKTINFO).
///
/// # Errors
/// As the system says.
pub fn want_destination(socket: &impl AsFd, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
    } else {
        set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
    }
}

/// Receives without blocking.
///
/// # Errors
/// `WouldBlock` when there is nothing; what an ICMP error left behind (such as `ConnectionRefused`) is passed on.
pub fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    // SAFETY: all-zero octets are a valid value of these C structures.
    let (mut name, mut message): (libc::sockaddr_storage, libc::msghdr) = unsafe { (mem::zeroed(), mem::zeroed()) };
    let mut control = ControlBuffer([0; 128]);
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    message.msg_name = std::ptr::from_mut(&mut name).cast();
    message.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: every pointer in `message` is valid for the length that goes with it until the call returns.
    let len = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    let remote = from_sockaddr(&name).ok_or_else(|| io::Error::other("datagram without a source address"))?;
    let mut local = None;
    let mut segment = len;
    // SAFETY: `message` was filled in by recvmsg; CMSG_FIRSTHDR and CMSG_NXTHDR stay within its control buffer, and the
    // data of each control message is read unaligned, as the type that its level and type say.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info: libc::in_pktinfo = data.cast::<libc::in_pktinfo>().read_unaligned();
                    local = Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr))));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info: libc::in6_pktinfo = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    local = Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)));
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size: libc::c_int = data.cast::<libc::c_int>().read_unaligned();
                    segment = usize::try_from(size).unwrap_or(len).max(1);
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    let local = local.ok_or_else(|| io::Error::other("datagram without a destination address"))?;
    Ok(Received {
        len,
        segment,
        remote,
        local,
    })
}

/// Sends from a given local address without blocking.
///
/// # Errors
/// As the system says; `WouldBlock` when the socket's buffer is full.
pub fn send(socket: &impl AsFd, datagram: &[u8], local: IpAddr, remote: SocketAddr) -> io::Result<()> {
    let (mut name, name_len) = to_sockaddr(remote);
    let mut control = ControlBuffer([0; 128]);
    let mut vector = libc::iovec {
        iov_base: datagram.as_ptr().cast_mut().cast(),
        iov_len: datagram.len(),
    };
    // SAFETY: all-zero octets are a valid msghdr.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = std::ptr::from_mut(&mut name).cast();
    message.msg_namelen = name_len;
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    if !local.is_unspecified() {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len() as _;
        // SAFETY: the control buffer is aligned and larger than one control message of either kind; the header that
        // CMSG_FIRSTHDR gives lies in it.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            match local {
                IpAddr::V4(local) => {
                    let mut info: libc::in_pktinfo = mem::zeroed();
                    info.ipi_spec_dst.s_addr = u32::from(local).to_be();
                    (*header).cmsg_level = libc::IPPROTO_IP;
                    (*header).cmsg_type = libc::IP_PKTINFO;
                    (*header).cmsg_len = libc::CMSG_LEN(mem::size_of_val(&info) as u32) as _;
                    libc::CMSG_DATA(header).cast::<libc::in_pktinfo>().write_unaligned(info);
                    message.msg_controllen = libc::CMSG_SPACE(mem::size_of_val(&info) as u32) as _;
                }
                IpAddr::V6(local) => {
                    let mut info: libc::in6_pktinfo = mem::zeroed();
                    info.ipi6_addr.s6_addr = local.octets();
                    (*header).cmsg_level = libc::IPPROTO_IPV6;
                    (*header).cmsg_type = libc::IPV6_PKTINFO;
                    (*header).cmsg_len = libc::CMSG_LEN(mem::size_of_val(&info) as u32) as _;
                    libc::CMSG_DATA(header)
                        .cast::<libc::in6_pktinfo>()
                        .write_unaligned(info);
                    message.msg_controllen = libc::CMSG_SPACE(mem::size_of_val(&info) as u32) as _;
                }
            }
        }
    }
    // SAFETY: every pointer in `message` is valid for the length that goes with it until the call returns; sendmsg
    // only reads through them.
    let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, libc::MSG_DONTWAIT) };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Control messages want their header's alignment.
#[repr(align(8))]
struct ControlBuffer([u8; 128]);

pub(super) fn set_option(
    socket: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: `value` is an int that lives through the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&value).cast(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

pub(super) fn to_sockaddr(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all-zero octets are a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let place = std::ptr::from_mut(&mut storage);
    match address {
        SocketAddr::V4(v4) => {
            let value = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from(*v4.ip()).to_be(),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is large enough for, and aligned as, every socket address.
            unsafe { place.cast::<libc::sockaddr_in>().write(value) };
            (storage, mem::size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        SocketAddr::V6(v6) => {
            let value = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { place.cast::<libc::sockaddr_in6>().write(value) };
            (storage, mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t)
        }
    }
}

pub(super) fn from_sockaddr(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let place = std::ptr::from_ref(storage);
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that a sockaddr_in is there.
            let value = unsafe { place.cast::<libc::sockaddr_in>().read() };
            Some(SocketAddr::new(
                Ipv4Addr::from(u32::from_be(value.sin_addr.s_addr)).into(),
                u16::from_be(value.sin_port),
            ))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that a sockaddr_in6 is there.
            let value = unsafe { place.cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(value.sin6_addr.s6_addr);
            Some(std::net::SocketAddrV6::new(ip, u16::from_be(value.sin6_port), 0, value.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_carries_both_addresses() {
        for (ipv6, loopback) in [
            (false, IpAddr::from([127, 0, 0, 1])),
            (true, Ipv6Addr::LOCALHOST.into()),
        ] {
            let Ok(a) = bind_wildcard(ipv6, 0) else { continue };
            let b = bind_wildcard(ipv6, 0).unwrap();
            let to = SocketAddr::new(loopback, b.local_addr().unwrap().port());
            send(&a, b"hello", loopback, to).unwrap();
            let mut buffer = [0; 64];
            let got = receive(&b, &mut buffer).unwrap();
            assert_eq!(
                (&buffer[..got.len], got.segment, got.local),
                (&b"hello"[..], 5, loopback)
            );
            assert_eq!(got.remote, SocketAddr::new(loopback, a.local_addr().unwrap().port()));
            assert_eq!(receive(&b, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn a_port_in_use_is_named() {
        let first = bind_wildcard(false, 0).unwrap();
        let port = first.local_addr().unwrap().port();
        let error = bind_wildcard(false, port).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&port.to_string()));
    }
}
