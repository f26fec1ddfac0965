//! ICMP and ICMPv6 errors toward the sender of an inner packet.

use super::flow::Flow;
use std::net::IpAddr;

/// Room for every error: IPv6 errors end at 1280 octets (RFC 4443 §2.4 c), IPv4 ones at 576 (RFC 1812 §4.3.2.3).
pub const MAX_LEN: usize = 1280;

/// What is reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpError {
    /// Fragmentation Needed (RFC 1191 §4) or Packet Too Big (RFC 4443 §3.2).
    TooBig {
        /// The MTU that would do, in octets of inner packet.
        mtu: u16,
    },
    /// Communication administratively prohibited: type 3 code 13 (RFC 1812 §5.2.7.1), ICMPv6 type 1 code 1.
    AdminProhibited,
}

/// Builds an error about `packet` (parsed: `flow`) from `source` to its sender, a whole IP packet at the beginning of
/// `out`. `None` if the rules forbid one (RFC 1122 §3.2.2, RFC 4443 §2.4 e), if `source` is of the other IP version, or
/// if `out` is too small ([`MAX_LEN`] always does). Limiting the rate is the caller's (RFC 4443 §2.4 f).
///
/// `packet` should have its checksums complete: of a super-packet give segment 0 as written.
pub fn build(error: IcmpError, flow: &Flow, packet: &[u8], source: IpAddr, out: &mut [u8]) -> Option<usize> {
    todo!("{error:?}{flow:?}{packet:?}{source}{out:?}")
}
