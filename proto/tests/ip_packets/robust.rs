//! Octets from anywhere: an error or a result, never a panic.

use crate::build::*;
use landbridge_proto::ip::coalesce::{CoalesceOptions, Coalescer};
use landbridge_proto::ip::icmp::{self, IcmpError};
use landbridge_proto::ip::segment::Segmenter;
use landbridge_proto::ip::tunnel::{self, Ecn};
use landbridge_proto::ip::vnet::VnetHeader;
use landbridge_proto::ip::{checksum, flow, mss};
use proptest::prelude::*;

fn everything(vnet: &VnetHeader, octets: &[u8]) {
    let mut out = vec![0; 2048];
    if let Ok(segmenter) = Segmenter::new(vnet, octets) {
        assert!(segmenter.count() >= 1);
        let mut sum = 0;
        for index in 0..segmenter.count() {
            let len = segmenter.segment_len(index);
            assert!(len > 0 && len <= segmenter.max_segment_len());
            sum += len;
            let fits = len <= out.len();
            assert_eq!(segmenter.write_segment(index, &mut out), fits.then_some(len));
            if index > 3 {
                break;
            }
        }
        assert!(sum >= segmenter.max_segment_len());
    }
    let mut packet = octets.to_vec();
    let completed = checksum::complete(&mut packet, vnet.csum_start.into(), vnet.csum_offset.into());
    assert_eq!(
        completed.is_ok(),
        usize::from(vnet.csum_start) + usize::from(vnet.csum_offset) + 2 <= octets.len()
    );
    let Ok(flow) = flow::parse(octets) else { return };
    assert!(flow.header_len <= flow.total_len && flow.total_len <= octets.len());
    for error in [IcmpError::TooBig { mtu: vnet.gso_size }, IcmpError::AdminProhibited] {
        let source = if flow.is_ipv6() {
            "::9".parse().unwrap()
        } else {
            "10.0.0.9".parse().unwrap()
        };
        if let Some(len) = icmp::build(error, &flow, octets, source, &mut out) {
            assert_eq!(flow::parse(&out[..len]).unwrap().total_len, len);
        }
    }
    let mut packet = octets.to_vec();
    mss::clamp(&mut packet, &flow, vnet.gso_size, vnet.needs_checksum());
    let mut changed = flow;
    if tunnel::decapsulate_ecn(Ecn::from_tos(vnet.flags), &mut changed, &mut packet).is_ok() {
        assert_eq!(flow::parse(&packet), Ok(changed));
    }
    let mut coalescer = Coalescer::new(CoalesceOptions { tcp: true, udp: true }, 2);
    // Twice, and once with the flow of another packet's length.
    coalescer.push(0, &flow, octets);
    coalescer.push(1, &flow, octets);
    coalescer.push(2, &flow, &octets[..octets.len() / 2]);
    for item in coalescer.plan() {
        assert_eq!(item.parts().count(), item.count);
        assert!(
            item.parts()
                .all(|part| part.range.start <= part.range.end && part.range.end <= octets.len())
        );
    }
}

fn any_vnet() -> impl Strategy<Value = VnetHeader> {
    let start = prop_oneof![Just(20u16), Just(40), any::<u16>(), 0u16..100];
    let offset = prop_oneof![Just(16u16), Just(6), any::<u16>(), 0u16..100];
    let kind = prop_oneof![Just(1u8), Just(4), Just(5), Just(0), any::<u8>()];
    (
        any::<u8>(),
        kind,
        any::<u16>(),
        prop_oneof![any::<u16>(), 0u16..2000],
        start,
        offset,
    )
        .prop_map(
            |(flags, gso_type, hdr_len, gso_size, csum_start, csum_offset)| VnetHeader {
                flags,
                gso_type,
                hdr_len,
                gso_size,
                csum_start,
                csum_offset,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_octets(vnet in any_vnet(), version in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()], mut octets in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Some(first) = octets.first_mut() { *first = version }
        everything(&vnet, &octets);
    }

    #[test]
    fn mutated_packets(
        vnet in any_vnet(),
        own in any::<bool>(),
        partial in any::<bool>(),
        packet in any_packet(400, any::<u8>()),
        changes in proptest::collection::vec((0usize..80, any::<u8>()), 0..4),
        cut in prop_oneof![Just(usize::MAX), 0usize..200],
    ) {
        let mut octets = packet.octets(partial);
        for (at, value) in changes {
            if let Some(octet) = octets.get_mut(at) { *octet = value }
        }
        octets.truncate(cut);
        let vnet = if own { packet.vnet(vnet.gso_size) } else { vnet };
        everything(&vnet, &octets);
    }
}
