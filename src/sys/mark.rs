//! The mark (SO_MARK) on the gateway's own packets: policy routing sends what carries it past the tunnels, so that ESP to
//! a peer whose own address lies behind its tunnel does not go into that tunnel again.

use super::datagram::set_option;
use std::os::fd::AsFd;

/// "LB". Also the number of the routing table, and the priority of the rule that leads to it.
pub const OWN: u32 = 0x4c42;

/// Marks what a socket sends. It takes CAP_NET_ADMIN; whoever has not got that can't have a rule that looks at the mark
/// either, so a refusal changes nothing.
pub fn mark(socket: &impl AsFd) {
    let value = libc::c_int::from_ne_bytes(OWN.to_ne_bytes());
    if let Err(error) = set_option(socket, libc::SOL_SOCKET, libc::SO_MARK, value) {
        tracing::debug!(%error, "SO_MARK");
    }
}
