//! TCP sockets that carry IKE and ESP (RFC 9329): how they are made, and what the kernel holds of them.

use super::datagram::{set_option, to_sockaddr};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::time::Duration;

/// Connections that wait to be accepted.
const BACKLOG: libc::c_int = 256;
/// What is sent and not acknowledged for so long ends the connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// Silence after which the kernel asks whether the other end is there. RFC 9329 §6.7: such keep-alives "MAY be used", but not "as
/// indications of IKE peer liveness".
const SILENCE: Duration = Duration::from_secs(60);

/// A non-blocking listener. One on IPv6 takes IPv6 only.
///
/// # Errors
/// Port in use, not permitted, no such family on this machine; the message names the address.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv6() {
        libc::AF_INET6
    } else {
        libc::AF_INET
    };
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is a fresh socket that nothing else owns.
    let socket = unsafe { TcpListener::from_raw_fd(fd) };
    if address.is_ipv6() {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    // What is left of connections of a gateway before this one does not keep it from listening.
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    super::mark::mark(&socket);
    let (name, length) = to_sockaddr(address);
    // SAFETY: `name` is a valid sockaddr of `length` octets.
    let bound = unsafe { libc::bind(fd, std::ptr::from_ref(&name).cast(), length) } == 0;
    // SAFETY: no pointers.
    if !bound || unsafe { libc::listen(fd, BACKLOG) } != 0 {
        let cause = io::Error::last_os_error();
        return Err(io::Error::new(cause.kind(), format!("TCP {address}: {cause}")));
    }
    Ok(socket)
}

/// What each connection has, opened or accepted.
///
/// # Errors
/// As the system says.
pub fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // Whole batches are written: there is nothing to wait for.
    socket.set_nodelay(true)?;
    super::mark::mark(socket);
    set_option(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    let seconds = |time: Duration| libc::c_int::try_from(time.as_secs()).unwrap_or(libc::c_int::MAX);
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, seconds(SILENCE))?;
    let limit = libc::c_int::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(libc::c_int::MAX);
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, limit)
}

/// Octets that the kernel has taken and not yet sent for the first time; 0 if it does not say.
#[must_use]
pub fn unsent(socket: &impl AsFd) -> usize {
    // linux/sockios.h
    const SIOCOUTQNSD: libc::Ioctl = 0x894b;
    let mut count: libc::c_int = 0;
    // SAFETY: the descriptor is open, and `count` is valid for the write of an int, which this request makes.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCOUTQNSD, &raw mut count) };
    if result == 0 {
        usize::try_from(count).unwrap_or(0)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_port_in_use_is_named_and_what_is_unsent_is_counted() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let error = listen(address).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()));
        let mut stream = TcpStream::connect(address).unwrap();
        prepare(&stream).unwrap();
        assert_eq!(unsent(&stream), 0);
        // Nobody reads: at last the kernel takes no more.
        let octets = vec![0; 1 << 20];
        while stream.write(&octets).is_ok() {}
        assert!(unsent(&stream) > 0);
    }
}
