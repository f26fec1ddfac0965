//! Clamps the Maximum Segment Size option of TCP SYNs to the tunnel (RFC 9293 §3.7.1).

use super::checksum;
use super::flow::{Flow, protocol};

const SYN: u8 = 0x02;

/// The MSS for an MTU: without IP header (20 or 40 octets) and TCP header (20), options not counted (RFC 6691 §2).
#[must_use]
pub fn for_mtu(mtu: u16, ipv6: bool) -> u16 {
    mtu.saturating_sub(if ipv6 { 60 } else { 40 })
}

/// Lowers the MSS option of a SYN or SYN-ACK to what fits `mtu`; true if it changed. It is never raised, and none is
/// added where there is none (the sender then takes 536 or 1220). `flow` is that of `packet`.
///
/// The checksum is updated incrementally, except when it is `partial` ([`super::vnet::NEEDS_CSUM`]): the field then
/// holds the pseudo header's sum, in which the option has no part.
pub fn clamp(packet: &mut [u8], flow: &Flow, mtu: u16, partial: bool) -> bool {
    if flow.key.protocol != protocol::TCP || flow.later_fragment {
        return false;
    }
    let Some(tcp) = packet.get_mut(flow.header_len..flow.total_len) else {
        return false;
    };
    let header_len = match tcp.get(12..14) {
        Some([offset, flags]) if flags & SYN != 0 => usize::from(offset >> 4) * 4,
        _ => return false,
    };
    let Some(tcp) = tcp.get_mut(..header_len) else {
        return false;
    };
    let mss = for_mtu(mtu, flow.is_ipv6());
    match find_mss(tcp) {
        Some(at) => lower(tcp, at, mss, partial),
        None => false,
    }
}

/// The offset of the option's value (kind 2, length 4: RFC 9293 §3.2).
fn find_mss(tcp: &[u8]) -> Option<usize> {
    let mut at = 20;
    loop {
        match *tcp.get(at)? {
            0 => return None,
            1 => at += 1,
            kind => {
                let len = usize::from(*tcp.get(at + 1)?);
                if len < 2 || at + len > tcp.len() {
                    return None;
                }
                if kind == 2 && len == 4 {
                    return Some(at + 2);
                }
                at += len;
            }
        }
    }
}

fn lower(tcp: &mut [u8], at: usize, mss: u16, partial: bool) -> bool {
    let Some(value) = tcp.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) else {
        return false;
    };
    let old = *value;
    if u16::from_be_bytes(old) <= mss {
        return false;
    }
    let new = mss.to_be_bytes();
    *value = new;
    if !partial && let Some(field) = tcp.get_mut(16..18).and_then(|rest| rest.first_chunk_mut::<2>()) {
        // An option may begin at an odd offset: its octets then stand swapped in the words that are summed
        // (RFC 1071 §2 B), and the sum changes by the swapped difference.
        let word = if at.is_multiple_of(2) {
            u16::from_be_bytes
        } else {
            u16::from_le_bytes
        };
        *field = checksum::update(u16::from_be_bytes(*field), word(old), word(new)).to_be_bytes();
    }
    true
}
