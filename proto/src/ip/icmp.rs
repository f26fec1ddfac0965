//! ICMP and ICMPv6 errors toward the sender of an inner packet.

use super::checksum::Sum;
use super::flow::{Flow, protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Room for every error: IPv6 errors end at 1280 octets (RFC 4443 §2.4 c), IPv4 ones at 576 (RFC 1812 §4.3.2.3).
pub const MAX_LEN: usize = 1280;

/// What an ICMPv6 Packet Too Big says at least: no IPv6 sender goes below (RFC 8200 §5).
const MIN_MTU_IPV6: u16 = 1280;
/// The least MTU of an IPv4 link (RFC 791 §3.2).
const MIN_MTU_IPV4: u16 = 68;
const MAX_LEN_IPV4: usize = 576;
const TTL: u8 = 64;

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
/// `out`; returns its length. `None` if the rules forbid one (RFC 1122 §3.2.2, RFC 4443 §2.4 e), if `source` is of the
/// other IP version, or if `out` is too small ([`MAX_LEN`] always does). Limiting the rate is the caller's
/// (RFC 4443 §2.4 f).
///
/// `packet` should have its checksums complete: of a super-packet give segment 0 as written.
pub fn build(error: IcmpError, flow: &Flow, packet: &[u8], source: IpAddr, out: &mut [u8]) -> Option<usize> {
    let packet = packet.get(..flow.total_len)?;
    match (source, flow.key.source, flow.key.destination) {
        (IpAddr::V4(source), IpAddr::V4(sender), IpAddr::V4(destination)) => {
            allowed_ipv4(flow, packet, sender, destination).then_some(())?;
            build_ipv4(error, packet, source, sender, out)
        }
        (IpAddr::V6(source), IpAddr::V6(sender), IpAddr::V6(destination)) => {
            allowed_ipv6(error, flow, packet, sender, destination).then_some(())?;
            build_ipv6(error, packet, source, sender, out)
        }
        _ => None,
    }
}

fn allowed_ipv4(flow: &Flow, packet: &[u8], sender: Ipv4Addr, destination: Ipv4Addr) -> bool {
    // RFC 1122 §3.2.2: "An ICMP error message MUST NOT be sent as the result of receiving: an ICMP error message, or
    // a datagram destined to an IP broadcast or IP multicast address, or [...] a non-initial fragment, or a datagram
    // whose source address does not define a single host".
    let about_error = flow.key.protocol == protocol::ICMP
        && !matches!(
            packet.get(flow.header_len),
            Some(0 | 8 | 9 | 10 | 13..=18 | 30 | 42 | 43)
        );
    let single_host = !(sender.octets()[0] == 0 || sender.is_loopback() || sender.octets()[0] >= 224);
    !about_error && !flow.later_fragment && single_host && !destination.is_multicast() && !destination.is_broadcast()
}

fn allowed_ipv6(error: IcmpError, flow: &Flow, packet: &[u8], sender: Ipv6Addr, destination: Ipv6Addr) -> bool {
    // RFC 4443 §2.4 e: not about an ICMPv6 error (types below 128) or a Redirect (137); not to a multicast
    // destination, except Packet Too Big; not to a source that does not identify a single node.
    let about_error =
        flow.key.protocol == protocol::ICMPV6 && !matches!(packet.get(flow.header_len), Some(128..=136 | 138..=255));
    let single_node = !(sender.is_unspecified() || sender.is_loopback() || sender.is_multicast());
    let multicast = destination.is_multicast() && !matches!(error, IcmpError::TooBig { .. });
    // Whether a later fragment carries an ICMPv6 error cannot be seen; and its sender learns from the first one.
    !about_error && !flow.later_fragment && single_node && !multicast
}

fn build_ipv4(
    error: IcmpError,
    packet: &[u8],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    out: &mut [u8],
) -> Option<usize> {
    let quoted = packet.get(..packet.len().min(MAX_LEN_IPV4 - 28))?;
    let len = 28 + quoted.len();
    let out = out.get_mut(..len)?;
    let (header, message) = out.split_first_chunk_mut::<20>()?;
    let (code, mtu) = match error {
        IcmpError::TooBig { mtu } => (4, mtu.max(MIN_MTU_IPV4)),
        IcmpError::AdminProhibited => (13, 0),
    };
    // RFC 1812 §4.3.2.5: precedence 6 (internetwork control). DF makes it an atomic datagram, whose ID nobody reads
    // (RFC 6864 §4.1); 576 octets reach every IPv4 host (RFC 791 §3.1).
    *header = [
        0x45,
        0xc0,
        0,
        0,
        0,
        0,
        0x40,
        0,
        TTL,
        protocol::ICMP,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    let sum = Sum::default().octets(header).checksum();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    // RFC 1191 §4: type 3, code 4, the MTU in the low 16 bits of the unused word.
    finish(message, [3, code], u32::from(mtu), quoted, Sum::default())?;
    Some(len)
}

fn build_ipv6(
    error: IcmpError,
    packet: &[u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    out: &mut [u8],
) -> Option<usize> {
    let quoted = packet.get(..packet.len().min(MAX_LEN - 48))?;
    let message_len = 8 + quoted.len();
    let len = 40 + message_len;
    let out = out.get_mut(..len)?;
    let (header, message) = out.split_first_chunk_mut::<40>()?;
    *header = [0; 40];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&(message_len as u16).to_be_bytes());
    header[6] = protocol::ICMPV6;
    header[7] = TTL;
    header[8..24].copy_from_slice(&source.octets());
    header[24..40].copy_from_slice(&destination.octets());
    let pseudo = Sum::pseudo_header(source.into(), destination.into(), protocol::ICMPV6, message_len as u32);
    let (kind, word) = match error {
        IcmpError::TooBig { mtu } => ([2, 0], u32::from(mtu.max(MIN_MTU_IPV6))),
        IcmpError::AdminProhibited => ([1, 1], 0),
    };
    finish(message, kind, word, quoted, pseudo)?;
    Some(len)
}

/// Type, code, checksum, the four octets after it, and the packet quoted.
fn finish(message: &mut [u8], kind: [u8; 2], word: u32, quoted: &[u8], pseudo: Sum) -> Option<()> {
    let (head, body) = message.split_first_chunk_mut::<8>()?;
    let [a, b, c, d] = word.to_be_bytes();
    *head = [kind[0], kind[1], 0, 0, a, b, c, d];
    let sum = pseudo.octets(head).copy(quoted, body);
    head[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
    Some(())
}
