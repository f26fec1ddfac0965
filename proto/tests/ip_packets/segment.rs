//! `ip::segment` against [`Packet::split`].

use crate::build::*;
use landbridge_proto::ip::segment::{SegmentError, Segmenter};
use landbridge_proto::ip::vnet::{self, VnetHeader};
use proptest::prelude::*;

fn segments(vnet: &VnetHeader, packet: &[u8]) -> Result<Vec<Vec<u8>>, SegmentError> {
    let segmenter = Segmenter::new(vnet, packet)?;
    let mut segments = vec![];
    for index in 0..segmenter.count() {
        let len = segmenter.segment_len(index);
        assert!(len <= segmenter.max_segment_len());
        let mut out = vec![0xee; len + 3];
        assert_eq!(segmenter.write_segment(index, &mut out[..len - 1]), None);
        assert!(
            out.iter().all(|octet| *octet == 0xee),
            "written though there was no room"
        );
        assert_eq!(segmenter.write_segment(index, &mut out), Some(len));
        assert_eq!(out[len..], [0xee; 3]);
        out.truncate(len);
        transport_is_the_rest(&segmenter, index, &out);
        segments.push(out);
    }
    let mut out = vec![0; 70_000];
    assert_eq!(segmenter.segment_len(segmenter.count()), 0);
    assert_eq!(segmenter.write_segment(segmenter.count(), &mut out), None);
    assert_eq!(segmenter.write_segment(usize::MAX, &mut out), None);
    Ok(segments)
}

/// Transport mode carries the same octets but for the IP header, and nothing that has more than the plain one.
fn transport_is_the_rest(segmenter: &Segmenter<'_>, index: usize, whole: &[u8]) {
    let flow = segmenter.flow();
    let plain = if flow.is_ipv6() { 40 } else { 20 };
    let mut out = vec![0xee; whole.len()];
    let written = segmenter.write_transport(index, &mut out);
    if flow.fragment || flow.header_len != plain {
        assert_eq!(written, None);
        return;
    }
    assert_eq!(written, Some(whole.len() - plain));
    assert_eq!(out[..whole.len() - plain], whole[plain..]);
    assert_eq!(out[whole.len() - plain..], vec![0xee; plain]);
}

#[test]
fn flags_stay_where_they_belong() {
    for ipv6 in [false, true] {
        let packet = Packet {
            flags: ACK | FIN | PSH | CWR | ECE | URG,
            urgent: 5,
            ..Packet::tcp(ipv6, 3000)
        };
        let segments = segments(&packet.vnet(1000), &packet.octets(true)).unwrap();
        let flags: Vec<u8> = segments
            .iter()
            .map(|segment| segment[packet.ip_header_len() + 13])
            .collect();
        assert_eq!(
            flags,
            [ACK | CWR | ECE | URG, ACK | ECE | URG, ACK | FIN | PSH | ECE | URG]
        );
        assert_eq!(segments, packet.split(1000));
    }
}

#[test]
fn the_id_and_the_sequence_number_wrap() {
    let packet = Packet {
        id: 0xffff,
        seq: 0xffff_ffff,
        ..Packet::tcp(false, 30)
    };
    let segments = segments(&packet.vnet(10), &packet.octets(true)).unwrap();
    assert_eq!(segments, packet.split(10));
    assert_eq!(segments[1][4..6], [0, 0]);
    assert_eq!(segments[1][24..28], [0, 0, 0, 9]);
}

#[test]
fn the_largest_and_the_smallest() {
    for (packet, size) in [
        (Packet::tcp(false, 65_535 - 52), 1448),
        (Packet::tcp(true, 65_535 - 72), 1428),
        (Packet::tcp(false, 65_535 - 52), 65_535),
        (Packet::tcp(false, 700), 1),
        (Packet::udp(false, 65_535 - 28), 1472),
        (Packet::udp(true, 65_535 - 48), 1),
        (Packet::udp(false, 1), 1),
        (Packet::udp(false, 0), 1),
        (Packet::tcp(true, 0), 9),
    ] {
        let segments = segments(&packet.vnet(size), &packet.octets(true)).unwrap();
        assert!(
            segments == packet.split(size.into()),
            "{} octets in {size}",
            packet.payload.len()
        );
    }
}

#[test]
fn hdr_len_is_not_looked_at() {
    let packet = Packet::tcp(false, 5000);
    for hdr_len in [0, 1, 52, 9999, u16::MAX] {
        let vnet = VnetHeader {
            hdr_len,
            ..packet.vnet(1400)
        };
        assert_eq!(segments(&vnet, &packet.octets(true)).unwrap(), packet.split(1400));
    }
}

#[test]
fn a_super_packet_without_needs_csum_gets_checksums_too() {
    for packet in [
        Packet::tcp(false, 5000),
        Packet::tcp(true, 5000),
        Packet::udp(true, 5000),
    ] {
        let vnet = VnetHeader {
            flags: 0,
            csum_start: 0,
            csum_offset: 0,
            ..packet.vnet(1400)
        };
        assert_eq!(segments(&vnet, &packet.octets(false)).unwrap(), packet.split(1400));
    }
}

#[test]
fn a_plain_packet_is_copied_and_a_partial_one_completed() {
    for packet in [
        Packet::tcp(false, 700),
        Packet::tcp(true, 701),
        Packet::udp(false, 3),
        Packet::udp(true, 0),
    ] {
        let complete = packet.octets(false);
        let mut padded = complete.clone();
        padded.extend([0x77; 40]);
        assert_eq!(segments(&VnetHeader::default(), &padded).unwrap(), [&complete[..]]);
        let vnet = VnetHeader {
            gso_type: vnet::GSO_NONE,
            gso_size: 0,
            ..packet.vnet(0)
        };
        let mut padded = packet.octets(true);
        padded.extend([0x77; 40]);
        assert_eq!(segments(&vnet, &padded).unwrap(), [&complete[..]]);
    }
}

#[test]
fn nonsense_is_an_error() {
    let packet = Packet::tcp(false, 5000);
    let octets = packet.octets(true);
    let good = packet.vnet(1400);
    let refused = |vnet: VnetHeader, octets: &[u8]| segments(&vnet, octets).unwrap_err();
    assert_eq!(refused(VnetHeader { gso_size: 0, ..good }, &octets), SegmentError::Size);
    for gso_type in [vnet::GSO_TCPV6, vnet::GSO_UDP_L4, 2, 3, 0x21, 0x41, 0x7f] {
        assert_eq!(
            refused(VnetHeader { gso_type, ..good }, &octets),
            SegmentError::Type(gso_type)
        );
    }
    for (csum_start, csum_offset) in [(19, 16), (21, 16), (20, 6), (20, 14), (0, 0), (u16::MAX, u16::MAX)] {
        assert_eq!(
            refused(
                VnetHeader {
                    csum_start,
                    csum_offset,
                    ..good
                },
                &octets
            ),
            SegmentError::Header
        );
    }
    for data_offset in [0x00, 0x40] {
        let mut octets = octets.clone();
        octets[32] = data_offset;
        assert_eq!(refused(good, &octets), SegmentError::Header);
    }
    let cut = Packet {
        payload: vec![],
        tcp_options: vec![],
        ..packet.clone()
    };
    let mut octets_cut = cut.octets(true);
    octets_cut[32] = 0xf0;
    assert_eq!(refused(good, &octets_cut), SegmentError::Header);
    for flags in [SYN, RST | ACK] {
        let packet = Packet {
            flags,
            ..packet.clone()
        };
        assert_eq!(refused(good, &packet.octets(true)), SegmentError::NotSegmentable);
    }
    let mut fragment = octets.clone();
    fragment[6] = 0x20;
    assert_eq!(refused(good, &fragment), SegmentError::NotSegmentable);
    assert!(matches!(refused(good, &octets[..5000]), SegmentError::Malformed(_)));
    assert!(matches!(refused(good, &[]), SegmentError::Malformed(_)));

    let plain = VnetHeader {
        gso_type: 0,
        csum_start: octets.len() as u16 - 1,
        csum_offset: 0,
        ..good
    };
    assert_eq!(refused(plain, &octets), SegmentError::Header);
}

#[test]
fn fragments_that_are_not_super_packets_pass() {
    let mut fragment = Packet::udp(false, 600).octets(false);
    fragment[6..8].copy_from_slice(&[0x20, 0x30]);
    assert_eq!(segments(&VnetHeader::default(), &fragment).unwrap(), [fragment]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn like_the_reference(
        packet in any_packet(9000, any::<u8>().prop_map(|flags| flags & !(SYN | RST))),
        gso_size in prop_oneof![1u16..=40, 500u16..=1500, 1u16..=u16::MAX],
    ) {
        let segments = segments(&packet.vnet(gso_size), &packet.octets(true)).unwrap();
        let expected = packet.split(gso_size.into());
        prop_assert_eq!(segments.len(), expected.len());
        for (segment, expected) in segments.iter().zip(&expected) {
            prop_assert_eq!(segment, expected);
        }
    }
}
