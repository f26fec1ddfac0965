//! Any octets as an inner packet: flow, MSS, segmentation, joining, ICMP errors.
#![no_main]
use landbridge_proto::ip::coalesce::{CoalesceOptions, Coalescer};
use landbridge_proto::ip::segment::Segmenter;
use landbridge_proto::ip::vnet::VnetHeader;
use landbridge_proto::ip::{flow, icmp, mss};

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    let Some((header, packet)) = octets.split_first_chunk::<{ VnetHeader::LEN }>() else { return };
    let (vnet, mut packet) = (VnetHeader::from_octets(header), packet.to_vec());
    let Ok(flow) = flow::parse(&packet) else { return };
    mss::clamp(&mut packet, &flow, 1400, vnet.needs_checksum());
    let mut out = vec![0; 70_000];
    if let Ok(segmenter) = Segmenter::new(&vnet, &packet) {
        for index in 0..segmenter.count() {
            assert_eq!(segmenter.write_segment(index, &mut out), Some(segmenter.segment_len(index)));
        }
    }
    icmp::build(icmp::IcmpError::TooBig { mtu: 1400 }, &flow, &packet, flow.key.destination, &mut out);
    let mut coalescer = Coalescer::new(CoalesceOptions { tcp: true, udp: true }, 4);
    for index in 0..3 {
        coalescer.push(index, &flow, &packet);
    }
    let parts: usize = coalescer.plan().map(|item| item.parts().count()).sum();
    assert_eq!(parts, 3);
});
