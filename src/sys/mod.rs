//! The kernel: devices, sockets and their options, threads, capabilities. The only place with `unsafe`.

pub mod affinity;
pub mod capabilities;
pub mod datagram;
pub mod mark;
pub mod namespace;
pub mod netdev;
pub mod poll;
pub mod raw;
pub mod receive;
pub mod stream;
pub mod transmit;
pub mod tun;
pub mod udp;
