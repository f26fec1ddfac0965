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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::checksum::Sum;
    use crate::ip::flow;

    /// A TCP segment with these flags and options, its checksum right (or the pseudo header's sum if `partial`).
    fn tcp(ipv6: bool, flags: u8, options: &[u8], partial: bool) -> Vec<u8> {
        assert!(options.len().is_multiple_of(4));
        let len = 20 + options.len() as u16;
        let mut packet = if ipv6 {
            let mut ip = vec![0x60, 0, 0, 0, 0, len as u8, 6, 64];
            ip.extend([0x20; 16]);
            ip.extend([0x21; 16]);
            ip
        } else {
            vec![
                0x45,
                0,
                0,
                20 + len as u8,
                0,
                0,
                0x40,
                0,
                64,
                6,
                0,
                0,
                10,
                0,
                0,
                1,
                10,
                0,
                0,
                2,
            ]
        };
        let at = packet.len();
        packet.extend([
            0x9c,
            0x40,
            0,
            80,
            1,
            2,
            3,
            4,
            0,
            0,
            0,
            0,
            (len / 4) as u8 * 16,
            flags,
            0xff,
            0xff,
            0,
            0,
            0,
            0,
        ]);
        packet.extend(options);
        let key = flow::parse(&packet).unwrap().key;
        let pseudo = Sum::pseudo_header(key.source, key.destination, 6, len.into());
        let field = if partial {
            pseudo.folded()
        } else {
            pseudo.octets(&packet[at..]).checksum()
        };
        packet[at + 16..at + 18].copy_from_slice(&field.to_be_bytes());
        packet
    }

    fn clamped(mut packet: Vec<u8>, mtu: u16, partial: bool) -> (Vec<u8>, bool) {
        let flow = flow::parse(&packet).unwrap();
        let changed = clamp(&mut packet, &flow, mtu, partial);
        (packet, changed)
    }

    #[test]
    fn lowers_the_option_and_corrects_the_checksum() {
        for ipv6 in [false, true] {
            let mss = for_mtu(1400, ipv6);
            assert_eq!(mss, if ipv6 { 1340 } else { 1360 });
            let [high, low] = mss.to_be_bytes();
            for flags in [0x02, 0x12, 0xc2] {
                for partial in [false, true] {
                    // On an even offset, and on an odd one after a single no-operation.
                    let even = |value: [u8; 2]| [2, 4, value[0], value[1], 4, 2, 1, 1];
                    let odd = |value: [u8; 2]| [1, 2, 4, value[0], value[1], 1, 4, 2];
                    for options in [even, odd as fn([u8; 2]) -> [u8; 8]] {
                        let before = tcp(ipv6, flags, &options([0x05, 0xb4]), partial);
                        let expected = tcp(ipv6, flags, &options([high, low]), partial);
                        assert_eq!(
                            clamped(before, 1400, partial),
                            (expected, true),
                            "{ipv6} {flags} {partial}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn leaves_everything_else_alone() {
        let untouched = [
            tcp(false, 0x02, &[2, 4, 0x05, 0x50], false),             // 1360: just fits
            tcp(false, 0x02, &[2, 4, 0x02, 0x00], false),             // never raised
            tcp(false, 0x10, &[2, 4, 0x05, 0xb4], false),             // no SYN
            tcp(false, 0x02, &[], false),                             // no option
            tcp(false, 0x02, &[0, 2, 4, 0xff, 0xff, 0, 0, 0], false), // after the end of the list
            tcp(false, 0x02, &[3, 0, 2, 4, 0xff, 0xff, 0, 0], false), // length 0
            tcp(false, 0x02, &[1, 1, 1, 2], false),                   // cut
            tcp(false, 0x02, &[1, 1, 2, 4], false),                   // cut
        ];
        for packet in untouched {
            assert_eq!(clamped(packet.clone(), 1400, false), (packet, false));
        }
        let mut udp = tcp(false, 0x02, &[2, 4, 0x05, 0xb4], false);
        udp[9] = 17;
        assert_eq!(clamped(udp.clone(), 1400, false), (udp, false));
    }
}
