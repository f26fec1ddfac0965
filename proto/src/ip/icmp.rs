//! ICMP and ICMPv6 errors toward the sender of an inner packet.

use super::checksum::Sum;
use super::flow::{Flow, FlowKey, Ports, protocol};
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

/// Octets of a quoted packet that are looked at: an IPv6 header with all extension headers that are usual, and ports.
const QUOTED: usize = 128;

/// If `packet` (parsed: `flow`) is an ICMP error, what it says about the packet that triggered it, turned round: the flow
/// of the return traffic. RFC 4301 §6.2: "The implementation extracts the header for the packet that triggered the error
/// (from the ICMP message payload), reverses the source and destination IP address fields, extracts the protocol field,
/// and reverses the port fields (if accessible)."
///
/// `None` if it is no error, if its quotation can't be read, or if it does not go to whom it is about.
#[must_use]
pub fn return_flow(flow: &Flow, packet: &[u8]) -> Option<FlowKey> {
    let kind = packet.get(flow.header_len)?;
    let error = match flow.key.protocol {
        // RFC 1122 §3.2.2: Destination Unreachable, Source Quench, Redirect, Time Exceeded, Parameter Problem.
        protocol::ICMP => !flow.is_ipv6() && matches!(kind, 3 | 4 | 5 | 11 | 12),
        // RFC 4443 §2.1: "error messages and informational messages ... are identified by a zero in the high-order bit".
        protocol::ICMPV6 => flow.is_ipv6() && *kind < 128,
        _ => false,
    };
    if !error || flow.fragment {
        return None;
    }
    let quoted = packet.get(flow.header_len + 8..flow.total_len)?;
    let mut head = [0; QUOTED];
    let len = quoted.len().min(QUOTED);
    let head = head.get_mut(..len)?;
    head.copy_from_slice(quoted.get(..len)?);
    // It was cut off: its length is made to say so.
    let (at, length) = if flow.is_ipv6() {
        (4, len.checked_sub(40)?)
    } else {
        (2, len)
    };
    let length = u16::try_from(length).ok()?;
    head.get_mut(at..at + 2)?.copy_from_slice(&length.to_be_bytes());
    let about = super::flow::parse(head).ok()?;
    // The error goes to the sender of the packet: about another's packet it has nothing to say.
    if about.key.source != flow.key.destination {
        return None;
    }
    let ports = match about.key.ports {
        Ports::Pair { source, destination } => Ports::Pair {
            source: destination,
            destination: source,
        },
        other => other,
    };
    Some(FlowKey {
        source: about.key.destination,
        destination: about.key.source,
        protocol: about.key.protocol,
        ports,
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::flow;

    const ROUTER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9));
    const ROUTER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9));

    fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 7, 0x40, 0, 63, protocol, 0, 0];
        packet.extend(source.iter().chain(&destination).chain(payload));
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet
    }

    fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, protocol, 63];
        packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        packet.extend(source.octets().iter().chain(&destination.octets()).chain(payload));
        packet
    }

    fn report(error: IcmpError, packet: &[u8], source: IpAddr) -> Option<Vec<u8>> {
        let mut out = [0xee; MAX_LEN];
        let len = build(error, &flow::parse(packet).unwrap(), packet, source, &mut out)?;
        Some(out[..len].to_vec())
    }

    const TOO_BIG: IcmpError = IcmpError::TooBig { mtu: 1390 };
    const A: [u8; 4] = [192, 0, 2, 1];
    const B: [u8; 4] = [198, 51, 100, 1];
    const C: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    const D: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1);

    #[test]
    fn fragmentation_needed() {
        // RFC 1191 §4: "the router MUST include the MTU of that next-hop network in the low-order 16 bits of the ICMP
        // header field that is labelled "unused" in the ICMP specification".
        let packet = ipv4(A, B, 17, &[0x5a; 1480]);
        let error = report(TOO_BIG, &packet, ROUTER_V4).unwrap();
        assert_eq!(error.len(), 576);
        assert_eq!(error[12..20], [10, 9, 9, 9, 192, 0, 2, 1]);
        assert_eq!(error[20..22], [3, 4]);
        assert_eq!(error[24..28], [0, 0, 0x05, 0x6e]);
        assert_eq!(error[28..], packet[..548]);
        assert_eq!(Sum::default().octets(&error[..20]).checksum(), 0);
        assert_eq!(Sum::default().octets(&error[20..]).checksum(), 0);
        let flow = flow::parse(&error).unwrap();
        assert_eq!((flow.total_len, flow.key.protocol), (576, 1));
    }

    #[test]
    fn packet_too_big() {
        let packet = ipv6(C, D, 6, &[0x5a; 1460]);
        let error = report(TOO_BIG, &packet, ROUTER_V6).unwrap();
        // RFC 4443 §3.2: as much of the packet as fits "without the ICMPv6 packet exceeding the minimum IPv6 MTU".
        assert_eq!(error.len(), 1280);
        assert_eq!(error[40..42], [2, 0]);
        assert_eq!(error[44..48], [0, 0, 0x05, 0x6e]);
        assert_eq!(error[48..], packet[..1232]);
        let flow = flow::parse(&error).unwrap();
        let pseudo = Sum::pseudo_header(flow.key.source, flow.key.destination, 58, 1240);
        assert_eq!(pseudo.octets(&error[40..]).checksum(), 0);
        // No IPv6 sender goes below 1280.
        let error = report(IcmpError::TooBig { mtu: 900 }, &packet, ROUTER_V6).unwrap();
        assert_eq!(error[44..48], [0, 0, 0x05, 0x00]);
    }

    #[test]
    fn prohibited() {
        let error = report(IcmpError::AdminProhibited, &ipv4(A, B, 17, &[0; 9]), ROUTER_V4).unwrap();
        assert_eq!((error.len(), &error[20..22]), (57, &[3, 13][..]));
        assert_eq!(Sum::default().octets(&error[20..]).checksum(), 0);
        let error = report(IcmpError::AdminProhibited, &ipv6(C, D, 17, &[0; 9]), ROUTER_V6).unwrap();
        assert_eq!((error.len(), &error[40..42]), (97, &[1, 1][..]));
    }

    #[test]
    fn never_about_what_the_rfcs_forbid() {
        // RFC 1122 §3.2.2: "An ICMP error message MUST NOT be sent as the result of receiving: an ICMP error message"
        for kind in [3, 4, 5, 11, 12, 200] {
            assert_eq!(
                report(TOO_BIG, &ipv4(A, B, 1, &[kind, 0, 0, 0, 0, 0, 0, 0]), ROUTER_V4),
                None
            );
        }
        assert!(report(TOO_BIG, &ipv4(A, B, 1, &[8, 0, 0, 0, 0, 0, 0, 0]), ROUTER_V4).is_some());
        let bad_sources = [
            [0, 0, 0, 0],
            [0, 1, 2, 3],
            [127, 0, 0, 1],
            [224, 0, 0, 1],
            [255, 255, 255, 255],
            [240, 0, 0, 1],
        ];
        for source in bad_sources {
            assert_eq!(
                report(TOO_BIG, &ipv4(source, B, 17, &[0; 8]), ROUTER_V4),
                None,
                "{source:?}"
            );
        }
        for destination in [[224, 0, 0, 1], [255, 255, 255, 255]] {
            assert_eq!(
                report(TOO_BIG, &ipv4(A, destination, 17, &[0; 8]), ROUTER_V4),
                None,
                "{destination:?}"
            );
        }
        let mut fragment = ipv4(A, B, 17, &[0; 8]);
        fragment[7] = 9;
        assert_eq!(report(TOO_BIG, &fragment, ROUTER_V4), None);
        fragment[7] = 0;
        fragment[6] = 0x20;
        assert!(report(TOO_BIG, &fragment, ROUTER_V4).is_some());

        // RFC 4443 §2.4 e: "An ICMPv6 error message MUST NOT be originated as a result of receiving the following"
        for kind in [1, 2, 3, 4, 127, 137] {
            assert_eq!(
                report(TOO_BIG, &ipv6(C, D, 58, &[kind, 0, 0, 0, 0, 0, 0, 0]), ROUTER_V6),
                None
            );
        }
        assert!(report(TOO_BIG, &ipv6(C, D, 58, &[128, 0, 0, 0, 0, 0, 0, 0]), ROUTER_V6).is_some());
        for source in [
            Ipv6Addr::UNSPECIFIED,
            Ipv6Addr::LOCALHOST,
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
        ] {
            assert_eq!(report(TOO_BIG, &ipv6(source, D, 17, &[0; 8]), ROUTER_V6), None);
        }
        let multicast = ipv6(C, Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 1), 17, &[0; 8]);
        assert!(report(TOO_BIG, &multicast, ROUTER_V6).is_some());
        assert_eq!(report(IcmpError::AdminProhibited, &multicast, ROUTER_V6), None);
    }

    #[test]
    fn other_version_or_no_room() {
        let packet = ipv4(A, B, 17, &[0; 600]);
        assert_eq!(report(TOO_BIG, &packet, ROUTER_V6), None);
        let flow = flow::parse(&packet).unwrap();
        assert_eq!(build(TOO_BIG, &flow, &packet, ROUTER_V4, &mut [0; 575]), None);
        assert_eq!(build(TOO_BIG, &flow, &packet[..300], ROUTER_V4, &mut [0; 1280]), None);
        assert_eq!(build(TOO_BIG, &flow, &packet, ROUTER_V4, &mut [0; 576]), Some(576));
    }

    #[test]
    fn an_error_belongs_to_the_return_traffic_of_what_triggered_it() {
        let port = |source: u16, destination: u16| [source.to_be_bytes(), destination.to_be_bytes()].concat();
        let router = [10, 9, 9, 9];
        let of = |packet: &[u8]| return_flow(&flow::parse(packet).unwrap(), packet);
        // A sent from port 7 to B's port 9; a router says that it does not get there. Only eight octets are quoted.
        let mut about = ipv4(A, B, 17, &[port(7, 9), vec![0; 1000]].concat());
        about.truncate(28);
        let error =
            |kind: u8, to: [u8; 4], about: &[u8]| ipv4(router, to, 1, &[&[kind, 1, 0, 0, 0, 0, 0, 0], about].concat());
        let back = FlowKey {
            source: B.into(),
            destination: A.into(),
            protocol: 17,
            ports: Ports::Pair {
                source: 9,
                destination: 7,
            },
        };
        for kind in [3, 4, 5, 11, 12] {
            assert_eq!(of(&error(kind, A, &about)), Some(back), "{kind}");
        }
        for kind in [0, 8, 13] {
            assert_eq!(of(&error(kind, A, &about)), None, "{kind} is no error");
        }
        assert_eq!(of(&error(3, B, &about)), None, "it goes to another");
        for cut in 0..28 {
            let ports = of(&error(3, A, &about[..cut])).map(|key| key.ports);
            assert!(cut >= 24 || ports.is_none(), "{cut} octets quoted: {ports:?}");
        }
        let about = ipv6(C, D, 17, &[port(7, 9), vec![0; 500]].concat());
        let router: Ipv6Addr = "2001:db8::99".parse().unwrap();
        for (kind, expected) in [(1, true), (2, true), (3, true), (4, true), (128, false), (135, false)] {
            let packet = ipv6(router, C, 58, &[&[kind, 0, 0, 0, 0, 0, 0, 0], &about[..]].concat());
            let key = of(&packet).map(|key| (key.source, key.destination, key.protocol));
            assert_eq!(key, expected.then_some((D.into(), C.into(), 17)), "{kind}");
        }
    }
}
