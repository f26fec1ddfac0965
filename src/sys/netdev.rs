//! Facts about network devices and paths that the standard library does not tell.

use std::ffi::CString;
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

/// The index of an interface.
///
/// # Errors
/// No such interface in this network namespace.
pub fn index_of(interface: &str) -> io::Result<u32> {
    let name = CString::new(interface)?;
    // SAFETY: `name` is a NUL-terminated string that lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        let cause = io::Error::last_os_error();
        return Err(io::Error::new(cause.kind(), format!("interface {interface}: {cause}")));
    }
    Ok(index)
}

/// The path MTU the kernel knows towards `remote`: its interface's MTU, or less once the path has told.
///
/// # Errors
/// No route.
pub fn path_mtu(remote: SocketAddr) -> io::Result<u16> {
    let any: IpAddr = if remote.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let probe = UdpSocket::bind((any, 0))?;
    super::mark::mark(&probe);
    probe.connect(remote)?;
    let (level, option) = if remote.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU)
    };
    let mut mtu: libc::c_int = 0;
    let mut length = mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `mtu` and `length` are valid for writes of the sizes given; the descriptor is open.
    let result = unsafe {
        libc::getsockopt(
            probe.as_raw_fd(),
            level,
            option,
            std::ptr::from_mut(&mut mtu).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}
