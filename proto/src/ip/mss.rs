//! Clamps the Maximum Segment Size option of TCP SYNs to the tunnel (RFC 9293 §3.7.1).

use super::flow::Flow;

/// The MSS for an MTU: without IP header (20 or 40 octets) and TCP header (20), options not counted (RFC 6691 §2).
#[must_use]
pub fn for_mtu(mtu: u16, ipv6: bool) -> u16 {
    mtu.saturating_sub(if ipv6 { 60 } else { 40 })
}

/// Lowers the MSS option of a SYN or SYN-ACK to what fits `mtu`; true if it changed. It is never raised, and none is
/// added where there is none (the peer then takes 536 or 1220). `flow` is that of `packet`.
///
/// The checksum is updated incrementally, except when it is `partial` ([`super::vnet::NEEDS_CSUM`]): the field then
/// holds the pseudo header's sum, in which the option has no part.
pub fn clamp(packet: &mut [u8], flow: &Flow, mtu: u16, partial: bool) -> bool {
    todo!("{packet:?}{flow:?}{mtu}{partial}")
}
