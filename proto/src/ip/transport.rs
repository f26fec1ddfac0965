//! Transport mode's IP header (RFC 4303 §3.1.1): ESP stands behind it, so it does not travel inside. What is taken off at
//! one end is put back at the other from what is known there: the SA's addresses, the Next Header of the ESP trailer, and
//! the outer header's TOS.

use super::checksum::Sum;
use super::octets::put;
use std::net::IpAddr;

/// The TTL or hop limit of a header that is put back: the packet is where it was to go, so it only has to be alive.
const HOPS: u8 = 64;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// Octets of the longest header written here.
pub const LONGEST: usize = IPV6;
/// Don't Fragment: so an ID of 0 is right (RFC 6864 §4.1).
const DONT_FRAGMENT: u16 = 0x4000;

/// Octets of the header between these addresses.
#[must_use]
pub const fn header_len(source: IpAddr) -> usize {
    if source.is_ipv4() { IPV4 } else { IPV6 }
}

/// Writes the IP header for `payload_len` octets that follow it to the beginning of `out`, and returns its length. `None` if
/// the addresses are of two families, or the packet would be too long for its length field.
pub fn write_header(
    source: IpAddr,
    destination: IpAddr,
    next_header: u8,
    tos: u8,
    payload_len: usize,
    out: &mut [u8],
) -> Option<usize> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = out.get_mut(..IPV4)?;
            let total = u16::try_from(payload_len + IPV4).ok()?;
            header.fill(0);
            header[0] = 0x45;
            header[1] = tos;
            put(header, 2, total)?;
            put(header, 6, DONT_FRAGMENT)?;
            header[8] = HOPS;
            header[9] = next_header;
            header[12..16].copy_from_slice(&source.octets());
            header[16..20].copy_from_slice(&destination.octets());
            let sum = Sum::default().octets(header).checksum();
            put(header, 10, sum)?;
            Some(IPV4)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = out.get_mut(..IPV6)?;
            header.fill(0);
            put(header, 0, 0x6000 | u16::from(tos) << 4)?;
            put(header, 4, u16::try_from(payload_len).ok()?)?;
            header[6] = next_header;
            header[7] = HOPS;
            header[8..24].copy_from_slice(&source.octets());
            header[24..40].copy_from_slice(&destination.octets());
            Some(IPV6)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::flow;

    #[test]
    fn what_is_put_back_is_a_packet_again() {
        for (source, destination) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            let (source, destination): (IpAddr, IpAddr) = (source.parse().unwrap(), destination.parse().unwrap());
            let mut packet = [0xee_u8; 40 + 12];
            let len = write_header(source, destination, 17, 0xb8, 12, &mut packet).unwrap();
            assert_eq!(len, header_len(source));
            packet[len..len + 12].copy_from_slice(&[0x12, 0x34, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]);
            let flow = flow::parse(&packet[..len + 12]).unwrap();
            assert_eq!(
                (flow.key.source, flow.key.destination, flow.key.protocol),
                (source, destination, 17)
            );
            assert_eq!((flow.tos, flow.header_len, flow.total_len), (0xb8, len, len + 12));
            if source.is_ipv4() {
                assert_eq!(
                    Sum::default().octets(&packet[..20]).checksum(),
                    0,
                    "the header's checksum"
                );
            }
        }
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let mut out = [0; 64];
        assert_eq!(write_header(v4, v6, 6, 0, 10, &mut out), None);
        assert_eq!(write_header(v4, v4, 6, 0, 65_516, &mut out), None);
        assert_eq!(write_header(v6, v6, 6, 0, 65_536, &mut out), None);
        assert_eq!(write_header(v4, v4, 6, 0, 10, &mut out[..19]), None);
    }
}
