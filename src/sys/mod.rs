//! The kernel: devices, sockets and their options, capabilities. The only place with `unsafe`.

pub mod datagram;
pub mod netdev;
pub mod poll;
pub mod tun;
pub mod udp;
