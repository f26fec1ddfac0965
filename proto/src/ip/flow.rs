//! What an IP packet says about itself: lengths, addresses, the selector fields of RFC 4301 §4.4.1.1.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocol numbers that this crate looks into.
pub mod protocol {
    /// IPv6 Hop-by-Hop Options (RFC 8200 §4.3).
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// DCCP (RFC 4340).
    pub const DCCP: u8 = 33;
    /// IPv6 Routing header (RFC 8200 §4.4).
    pub const ROUTING: u8 = 43;
    /// IPv6 Fragment header (RFC 8200 §4.5).
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// IPv6 Destination Options (RFC 8200 §4.6).
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;
    /// Mobility Header (RFC 6275).
    pub const MOBILITY: u8 = 135;
    /// UDP-Lite (RFC 3828).
    pub const UDP_LITE: u8 = 136;
}

/// Extension headers walked before a packet is given up as [`Malformed::TooManyHeaders`]. RFC 8200 §4.1 lists at most
/// seven in one packet.
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// The packet cannot be handled; it is dropped and counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// Neither IPv4 nor IPv6.
    #[error("neither IPv4 nor IPv6")]
    Version,
    /// Shorter than its header says, or than a header it must have.
    #[error("packet is shorter than its headers say")]
    Truncated,
    /// IPv4 header length below 20 octets, or beyond the total length.
    #[error("header length out of range")]
    HeaderLength,
    /// More than [`MAX_EXTENSION_HEADERS`] IPv6 extension headers.
    #[error("too many IPv6 extension headers")]
    TooManyHeaders,
    /// An IPv4 fragment that would overwrite the ports of the first one (RFC 4301 §7.2, RFC 1858 §3).
    #[error("fragment overlaps the transport header")]
    OverlappingFragment,
}

/// The selector that RFC 4301 §4.4.1.1 makes of the next layer protocol's first octets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Ports {
    /// The protocol has none.
    None,
    /// A later fragment: they cannot be seen. Matches only selectors that are ANY or OPAQUE.
    Opaque,
    /// TCP, UDP, UDP-Lite, SCTP, DCCP.
    Pair {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP, ICMPv6: type in the high octet, code in the low one. Mobility Header: MH type in the high octet
    /// (RFC 7296 §3.13.1).
    Message(u16),
}

/// What a flow is known by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowKey {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Next layer protocol (after the extension headers).
    pub protocol: u8,
    /// Its ports, or what stands for them.
    pub ports: Ports,
}

impl FlowKey {
    /// A 32-bit hash, the same in every run. All fragments of a datagram hash alike, because `fragment` leaves the
    /// ports out: they shall not overtake each other on different SAs.
    #[must_use]
    pub fn hash(&self, fragment: bool) -> u32 {
        let ports = match self.ports {
            Ports::Pair { source, destination } if !fragment => u64::from(source) << 16 | u64::from(destination),
            _ => 0,
        };
        let mut state = mix(0x9e37_79b9_7f4a_7c15, ports | u64::from(self.protocol) << 32);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                state = mix(
                    state,
                    u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits()),
                );
            }
            (source, destination) => {
                for half in [source, destination]
                    .map(to_u128)
                    .iter()
                    .flat_map(|a| [(a >> 64) as u64, *a as u64])
                {
                    state = mix(state, half);
                }
            }
        }
        (state >> 32) as u32 ^ state as u32
    }
}

/// A packet's headers, read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Addresses, protocol, ports.
    pub key: FlowKey,
    /// Octets of the IP packet by its own header. What follows in the buffer is TFC padding (RFC 4303 §2.7).
    pub total_len: usize,
    /// Octets before the next layer protocol: IP header with options, or with extension headers.
    pub header_len: usize,
    /// Traffic class or type of service: DSCP and ECN.
    pub tos: u8,
    /// One of several fragments (the first one included). An atomic fragment (RFC 6946) is none.
    pub fragment: bool,
    /// The fragment offset is not 0: no ports.
    pub later_fragment: bool,
    /// IPv4 Don't Fragment; always true for IPv6.
    pub dont_fragment: bool,
}

impl Flow {
    /// IPv6?
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.key.source.is_ipv6()
    }

    /// [`FlowKey::hash`] with the fragment rule applied.
    #[must_use]
    pub fn hash(&self) -> u32 {
        self.key.hash(self.fragment)
    }
}

/// Reads the headers of an IP packet. Octets after its total length are allowed and not looked at.
///
/// # Errors
/// [`Malformed`]; no octets make it panic.
pub fn parse(packet: &[u8]) -> Result<Flow, Malformed> {
    match packet.first().map(|octet| octet >> 4) {
        Some(4) => parse_ipv4(packet),
        Some(6) => parse_ipv6(packet),
        Some(_) => Err(Malformed::Version),
        None => Err(Malformed::Truncated),
    }
}

fn parse_ipv4(packet: &[u8]) -> Result<Flow, Malformed> {
    let header: &[u8; 20] = packet.first_chunk().ok_or(Malformed::Truncated)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header_len < header.len() || header_len > total_len {
        return Err(Malformed::HeaderLength);
    }
    let packet = packet.get(..total_len).ok_or(Malformed::Truncated)?;
    let fragmentation = u16::from_be_bytes([header[6], header[7]]);
    let offset = fragmentation & 0x1fff;
    let protocol = header[9];
    // RFC 4301 §7.2: "Receivers MUST perform a minimum offset check on IPv4 (non-initial) fragments to protect
    // against overlapping fragment attacks". RFC 1858 §3.2.2: an offset of one is the only one that can reach into
    // the fixed part of a TCP header whose first fragment has its ports.
    if offset == 1 && protocol == protocol::TCP {
        return Err(Malformed::OverlappingFragment);
    }
    Ok(Flow {
        key: FlowKey {
            source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
            destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
            protocol,
            ports: ports(protocol, offset != 0, packet.get(header_len..).unwrap_or_default())?,
        },
        total_len,
        header_len,
        tos: header[1],
        fragment: fragmentation & 0x3fff != 0,
        later_fragment: offset != 0,
        dont_fragment: fragmentation & 0x4000 != 0,
    })
}

fn parse_ipv6(packet: &[u8]) -> Result<Flow, Malformed> {
    let header: &[u8; 40] = packet.first_chunk().ok_or(Malformed::Truncated)?;
    // A jumbogram (RFC 2675) says 0 here; its Hop-by-Hop header then lies beyond the packet and it is refused.
    let total_len = header.len() + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let packet = packet.get(..total_len).ok_or(Malformed::Truncated)?;
    let chain = Chain::walk(packet, header[6])?;
    let address = |at: usize| {
        let octets = packet.get(at..).and_then(|rest| rest.first_chunk::<16>());
        octets.map(|octets| Ipv6Addr::from(*octets)).ok_or(Malformed::Truncated)
    };
    Ok(Flow {
        key: FlowKey {
            source: address(8)?.into(),
            destination: address(24)?.into(),
            protocol: chain.protocol,
            ports: ports(
                chain.protocol,
                chain.offset != 0,
                packet.get(chain.end..).unwrap_or_default(),
            )?,
        },
        total_len,
        header_len: chain.end,
        tos: header[0] << 4 | header[1] >> 4,
        fragment: chain.offset != 0 || chain.more,
        later_fragment: chain.offset != 0,
        dont_fragment: true,
    })
}

/// The end of an IPv6 header chain.
struct Chain {
    protocol: u8,
    end: usize,
    offset: u16,
    more: bool,
}

impl Chain {
    /// RFC 4301 §4.4.1.1: what is skipped by default is Hop-by-Hop, Routing, Fragment and Destination Options; AH and
    /// ESP are next layer protocols.
    fn walk(packet: &[u8], first: u8) -> Result<Self, Malformed> {
        let mut chain = Self {
            protocol: first,
            end: 40,
            offset: 0,
            more: false,
        };
        for _ in 0..=MAX_EXTENSION_HEADERS {
            let rest = packet.get(chain.end..).ok_or(Malformed::Truncated)?;
            let len = match chain.protocol {
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                    let length = rest.get(1).ok_or(Malformed::Truncated)?;
                    8 + usize::from(*length) * 8
                }
                protocol::FRAGMENT => {
                    let octets = rest.get(2..4).ok_or(Malformed::Truncated)?;
                    let field = u16::from_be_bytes([octets[0], octets[1]]);
                    chain.offset = field >> 3;
                    chain.more = field & 1 != 0;
                    8
                }
                _ => return Ok(chain),
            };
            // RFC 7112 §5: a first fragment has the whole header chain, so one that ends here is not let through.
            let header = rest.get(..len).ok_or(Malformed::Truncated)?;
            chain.protocol = *header.first().ok_or(Malformed::Truncated)?;
            chain.end += len;
            if chain.offset != 0 {
                return Ok(chain);
            }
        }
        Err(Malformed::TooManyHeaders)
    }
}

fn ports(protocol: u8, later_fragment: bool, payload: &[u8]) -> Result<Ports, Malformed> {
    let fields = || payload.first_chunk::<4>().ok_or(Malformed::Truncated);
    Ok(match protocol {
        _ if later_fragment => Ports::Opaque,
        protocol::TCP | protocol::UDP | protocol::UDP_LITE | protocol::SCTP | protocol::DCCP => {
            let [a, b, c, d] = *fields()?;
            Ports::Pair {
                source: u16::from_be_bytes([a, b]),
                destination: u16::from_be_bytes([c, d]),
            }
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let [kind, code, ..] = *fields()?;
            Ports::Message(u16::from_be_bytes([kind, code]))
        }
        protocol::MOBILITY => Ports::Message(u16::from_be_bytes([fields()?[2], 0])),
        _ => Ports::None,
    })
}

fn mix(state: u64, value: u64) -> u64 {
    let product = u128::from(state ^ value) * 0xd6e8_feb8_6659_fd93;
    (product >> 64) as u64 ^ product as u64
}

fn to_u128(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(protocol: u8, fragmentation: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let [high, low] = fragmentation.to_be_bytes();
        let header_len = 20 + options.len();
        let total_len = ((header_len + payload.len()) as u16).to_be_bytes();
        let mut packet = vec![
            0x40 | (header_len / 4) as u8,
            0xb8,
            total_len[0],
            total_len[1],
            0,
            1,
            high,
            low,
            64,
        ];
        packet.extend([protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend(options.iter().chain(payload));
        packet
    }

    fn ipv6(first: u8, rest: &[u8]) -> Vec<u8> {
        let len = (rest.len() as u16).to_be_bytes();
        let mut packet = vec![0x6b, 0x81, 2, 3, len[0], len[1], first, 64];
        packet.extend([0x20; 16]);
        packet.extend([0x21; 16]);
        packet.extend(rest);
        packet
    }

    const PORTS: [u8; 8] = [0x12, 0x34, 0x56, 0x78, 0, 8, 0, 0];
    const PAIR: Ports = Ports::Pair {
        source: 0x1234,
        destination: 0x5678,
    };

    #[test]
    fn ipv4_packet_with_options_and_padding() {
        let mut packet = ipv4(17, 0x4000, &[1, 1, 1, 0], &PORTS);
        packet.extend([0; 100]);
        let flow = parse(&packet).unwrap();
        assert_eq!(flow.total_len, 32);
        assert_eq!(flow.header_len, 24);
        assert_eq!(flow.tos, 0xb8);
        assert_eq!(flow.key.source, "10.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(flow.key.destination, "10.0.0.2".parse::<IpAddr>().unwrap());
        assert_eq!((flow.key.protocol, flow.key.ports), (17, PAIR));
        assert_eq!(
            (flow.fragment, flow.later_fragment, flow.dont_fragment),
            (false, false, true)
        );
    }

    #[test]
    fn selectors_of_each_protocol() {
        let cases = [
            (protocol::TCP, PAIR),
            (protocol::UDP, PAIR),
            (protocol::SCTP, PAIR),
            (protocol::DCCP, PAIR),
            (protocol::UDP_LITE, PAIR),
            // RFC 7296 §3.13.1: "ICMP Type and Code values are treated as a single 16-bit integer port number, with
            // Type in the most significant eight bits and Code in the least significant eight bits."
            (protocol::ICMP, Ports::Message(0x1234)),
            (protocol::ICMPV6, Ports::Message(0x1234)),
            // "MIPv6 MH Type values are treated as a single 16-bit integer port number, with Type in the most
            // significant eight bits and the least significant eight bits set to zero." (MH Type: RFC 6275 §6.1.1)
            (protocol::MOBILITY, Ports::Message(0x5600)),
            (47, Ports::None),
            (50, Ports::None),
            (51, Ports::None),
        ];
        for (protocol, ports) in cases {
            assert_eq!(
                parse(&ipv4(protocol, 0, &[], &PORTS)).unwrap().key.ports,
                ports,
                "{protocol}"
            );
            assert_eq!(parse(&ipv6(protocol, &PORTS)).unwrap().key.ports, ports, "{protocol}");
        }
    }

    #[test]
    fn fragments_hash_alike() {
        let first = parse(&ipv4(17, 0x2000, &[], &PORTS)).unwrap();
        let later = parse(&ipv4(17, 0x2010, &[], &[0xaa; 40])).unwrap();
        let last = parse(&ipv4(17, 0x0020, &[], &[1])).unwrap();
        assert_eq!(
            (first.key.ports, first.fragment, first.later_fragment),
            (PAIR, true, false)
        );
        assert_eq!(
            (later.key.ports, later.fragment, later.later_fragment),
            (Ports::Opaque, true, true)
        );
        assert_eq!(
            (last.key.ports, last.fragment, last.later_fragment),
            (Ports::Opaque, true, true)
        );
        assert_eq!(first.hash(), later.hash());
        assert_eq!(first.hash(), last.hash());
        let whole = parse(&ipv4(17, 0, &[], &PORTS)).unwrap();
        assert_ne!(first.hash(), whole.hash());
    }

    #[test]
    fn hash_spreads() {
        let mut buckets = [0u32; 16];
        for port in 0..4096u16 {
            let [high, low] = port.to_be_bytes();
            buckets[parse(&ipv4(6, 0, &[], &[high, low, 0, 80, 0, 0])).unwrap().hash() as usize % 16] += 1;
        }
        assert!(buckets.iter().all(|count| (180..340).contains(count)), "{buckets:?}");
    }

    #[test]
    fn extension_headers() {
        let chain: Vec<u8> = [
            &[43, 0, 0, 0, 0, 0, 0, 0][..],                     // Hop-by-Hop, then Routing
            &[60, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], // Routing of 16 octets, then Destination Options
            &[17, 0, 0, 0, 0, 0, 0, 0],                         // Destination Options, then UDP
            &PORTS,
        ]
        .concat();
        let flow = parse(&ipv6(0, &chain)).unwrap();
        assert_eq!((flow.key.protocol, flow.key.ports, flow.header_len), (17, PAIR, 72));
        assert_eq!(flow.tos, 0xb8);
        assert!(flow.dont_fragment && !flow.fragment);
        for cut in 40..40 + chain.len() - 4 {
            let mut packet = ipv6(0, &chain);
            packet.truncate(cut);
            packet[4..6].copy_from_slice(&((cut - 40) as u16).to_be_bytes());
            assert_eq!(parse(&packet), Err(Malformed::Truncated), "{cut}");
        }
    }

    #[test]
    fn the_chain_is_bounded() {
        let headers = |count: usize| {
            let mut rest = [60, 0, 0, 0, 0, 0, 0, 0].repeat(count);
            let at = rest.len() - 8;
            rest[at] = 17;
            rest.extend(PORTS);
            ipv6(60, &rest)
        };
        assert_eq!(parse(&headers(MAX_EXTENSION_HEADERS)).unwrap().key.ports, PAIR);
        assert_eq!(
            parse(&headers(MAX_EXTENSION_HEADERS + 1)),
            Err(Malformed::TooManyHeaders)
        );
    }

    #[test]
    fn ipv6_fragments() {
        let fragment = |field: u16| {
            let [high, low] = field.to_be_bytes();
            let rest = [&[17, 0, high, low, 0, 0, 0, 1][..], &PORTS].concat();
            parse(&ipv6(44, &rest)).unwrap()
        };
        let first = fragment(1);
        assert_eq!(
            (first.key.ports, first.fragment, first.later_fragment, first.header_len),
            (PAIR, true, false, 48)
        );
        let later = fragment(0x100);
        assert_eq!(
            (later.key.ports, later.fragment, later.later_fragment),
            (Ports::Opaque, true, true)
        );
        // RFC 6946: an atomic fragment is a packet of its own.
        let atomic = fragment(0);
        assert_eq!(
            (atomic.key.ports, atomic.fragment, atomic.later_fragment),
            (PAIR, false, false)
        );
    }

    #[test]
    fn overlapping_fragment() {
        // RFC 4301 §7.2: "Receivers MUST perform a minimum offset check on IPv4 (non-initial) fragments to protect
        // against overlapping fragment attacks".
        assert_eq!(parse(&ipv4(6, 1, &[], &[0; 40])), Err(Malformed::OverlappingFragment));
        assert!(parse(&ipv4(6, 3, &[], &[0; 40])).is_ok());
        assert!(parse(&ipv4(17, 1, &[], &[0; 40])).is_ok());
        // RFC 1858 §3.1: a first fragment too small for the ports.
        assert_eq!(parse(&ipv4(6, 0x2000, &[], &[0; 3])), Err(Malformed::Truncated));
    }

    #[test]
    fn nonsense() {
        assert_eq!(parse(&[]), Err(Malformed::Truncated));
        assert_eq!(parse(&[0x50; 60]), Err(Malformed::Version));
        assert_eq!(parse(&[0x45; 19]), Err(Malformed::Truncated));
        let good = ipv4(17, 0, &[], &PORTS);
        for (at, value, error) in [
            (0, 0x44, Malformed::HeaderLength),
            (0, 0x4f, Malformed::HeaderLength),
            (3, 19, Malformed::HeaderLength),
            (3, 29, Malformed::Truncated),
            (3, 23, Malformed::Truncated),
        ] {
            let mut packet = good.clone();
            packet[at] = value;
            assert_eq!(parse(&packet), Err(error), "{at} {value}");
        }
        let mut jumbogram = ipv6(0, &[17, 0, 0xc2, 4, 0, 1, 0, 0]);
        jumbogram[4..6].copy_from_slice(&[0, 0]);
        assert_eq!(parse(&jumbogram), Err(Malformed::Truncated));
    }
}
