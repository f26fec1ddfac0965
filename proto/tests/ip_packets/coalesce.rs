//! `ip::coalesce`: what it joins, segmentation takes apart again; what must not join, does not.

use crate::build::*;
use landbridge_proto::ip::coalesce::{CoalesceOptions, Coalescer, MAX_COUNT, MAX_OPEN, MAX_TOTAL_LEN};
use landbridge_proto::ip::flow;
use landbridge_proto::ip::segment::Segmenter;
use landbridge_proto::ip::vnet::{self, VnetHeader};
use proptest::prelude::*;

const BOTH: CoalesceOptions = CoalesceOptions { tcp: true, udp: true };

/// One write to the TUN, and which packets went into it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Write {
    vnet: VnetHeader,
    octets: Vec<u8>,
    of: Vec<u32>,
}

fn writes_with(coalescer: &mut Coalescer, packets: &[Vec<u8>]) -> Vec<Write> {
    coalescer.clear();
    for (index, packet) in packets.iter().enumerate() {
        coalescer.push(index as u32, &flow::parse(packet).unwrap(), packet);
    }
    let len = coalescer.len();
    let writes: Vec<Write> = coalescer
        .plan()
        .map(|item| {
            let mut octets = item.header.to_vec();
            item.parts()
                .for_each(|part| octets.extend(&packets[part.index as usize][part.range]));
            let of: Vec<u32> = item.parts().map(|part| part.index).collect();
            assert_eq!(of.len(), item.count);
            Write {
                vnet: item.vnet,
                octets,
                of,
            }
        })
        .collect();
    assert_eq!(writes.len(), len);
    let mut all: Vec<u32> = writes.iter().flat_map(|write| write.of.clone()).collect();
    all.sort_unstable();
    assert_eq!(all, (0..packets.len() as u32).collect::<Vec<_>>(), "each packet once");
    writes
}

fn writes(packets: &[Vec<u8>]) -> Vec<Write> {
    writes_with(&mut Coalescer::new(BOTH, 4), packets)
}

fn groups(packets: &[Vec<u8>]) -> Vec<Vec<u32>> {
    writes(packets).into_iter().map(|write| write.of).collect()
}

fn split(write: &Write) -> Vec<Vec<u8>> {
    let segmenter = Segmenter::new(&write.vnet, &write.octets).unwrap();
    let mut out = vec![0; segmenter.max_segment_len()];
    (0..segmenter.count())
        .map(|index| {
            let len = segmenter.write_segment(index, &mut out).unwrap();
            out[..len].to_vec()
        })
        .collect()
}

#[test]
fn a_run_becomes_what_it_was_split_from() {
    for (packet, size) in [
        (
            Packet {
                flags: ACK | PSH,
                ..Packet::tcp(false, 5000)
            },
            1400,
        ),
        (
            Packet {
                flags: ACK | FIN | ECE | CWR,
                ..Packet::tcp(true, 4200)
            },
            1400,
        ),
        (
            Packet {
                dont_fragment: false,
                ..Packet::tcp(false, 2801)
            },
            1400,
        ),
        (Packet::udp(false, 5000), 1200),
        (Packet::udp(true, 2400), 1200),
    ] {
        let writes = writes(&packet.split(size.into()));
        assert_eq!(writes.len(), 1);
        assert_eq!(writes[0].octets, packet.octets(true));
        assert_eq!(writes[0].vnet, packet.vnet(size));
    }
}

#[test]
fn a_single_packet_goes_as_it_is() {
    let packet = Packet::tcp(false, 1400).octets(false);
    let mut padded = packet.clone();
    padded.extend([0; 99]);
    assert_eq!(
        writes(&[padded]),
        [Write {
            vnet: VnetHeader::default(),
            octets: packet,
            of: vec![0]
        }]
    );
}

#[test]
fn interleaved_flows_join_side_by_side() {
    let flows: Vec<Vec<Vec<u8>>> = (0..4)
        .map(|host| {
            let packet = if host % 2 == 0 {
                Packet::tcp(host > 1, 4200)
            } else {
                Packet::udp(host > 1, 4200)
            };
            Packet { host, ..packet }.split(1400)
        })
        .collect();
    let mixed: Vec<Vec<u8>> = (0..3)
        .flat_map(|at| flows.iter().map(move |flow| flow[at].clone()))
        .collect();
    assert_eq!(groups(&mixed), [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]);
}

#[test]
fn more_flows_than_places() {
    let hosts = MAX_OPEN as u8 + 1;
    let flows: Vec<_> = (0..hosts)
        .map(|host| {
            Packet {
                host,
                ..Packet::tcp(false, 2800)
            }
            .split(1400)
        })
        .collect();
    let mixed: Vec<Vec<u8>> = (0..2)
        .flat_map(|at| flows.iter().map(move |flow| flow[at].clone()))
        .collect();
    // Each newcomer puts out the oldest, which is just the one to come next: nothing joins, and nothing is lost.
    assert_eq!(groups(&mixed).len(), 2 * usize::from(hosts));
    let fewer: Vec<Vec<u8>> = (0..2)
        .flat_map(|at| flows[1..].iter().map(move |flow| flow[at].clone()))
        .collect();
    assert_eq!(groups(&fewer).len(), MAX_OPEN);
}

#[test]
fn limits() {
    let many = Packet {
        payload: vec![7; 10 * (MAX_COUNT + 2)],
        ..Packet::udp(false, 0)
    }
    .split(10);
    assert_eq!(groups(&many).iter().map(Vec::len).collect::<Vec<_>>(), [MAX_COUNT, 2]);
    let base = Packet::tcp(true, 9000);
    let packets: Vec<Vec<u8>> = (0..8u32)
        .map(|at| {
            Packet {
                seq: base.seq.wrapping_add(at * 9000),
                ..base.clone()
            }
            .octets(false)
        })
        .collect();
    let writes = writes(&packets);
    assert_eq!(writes.iter().map(|write| write.of.len()).collect::<Vec<_>>(), [7, 1]);
    assert!(writes.iter().all(|write| write.octets.len() <= MAX_TOTAL_LEN));
}

type Change = fn(&mut Packet);

/// Two packets that would join but for what `change` does to the second.
fn second(base: &Packet, change: impl Fn(&mut Packet)) -> Vec<Vec<u8>> {
    let mut next = base.clone();
    next.seq = base.seq.wrapping_add(base.payload.len() as u32);
    next.id = base.id.wrapping_add(1);
    change(&mut next);
    vec![base.octets(false), next.octets(false)]
}

#[test]
fn headers_must_agree() {
    let apart: &[(&str, Change)] = &[
        ("longer", |p| p.payload.push(1)),
        ("empty", |p| p.payload.clear()),
        ("tos", |p| p.tos ^= 4),
        ("ecn", |p| p.tos ^= 3),
        ("ttl", |p| p.ttl -= 1),
        ("port", |p| p.ports[0] += 1),
        ("address", |p| p.host += 1),
    ];
    let apart_tcp: &[(&str, Change)] = &[
        ("seq", |p| p.seq = p.seq.wrapping_add(1)),
        ("again", |p| p.seq = p.seq.wrapping_sub(1000)),
        ("ack", |p| p.ack += 1),
        ("window", |p| p.window += 1),
        ("timestamp", |p| p.tcp_options[11] ^= 1),
        ("no options", |p| p.tcp_options.clear()),
        ("urgent pointer", |p| p.urgent = 1),
        ("urg", |p| p.flags |= URG),
        ("syn", |p| p.flags |= SYN),
        ("rst", |p| p.flags |= RST),
        ("ece", |p| p.flags |= ECE),
        ("cwr", |p| p.flags |= CWR),
        ("no ack", |p| p.flags = PSH),
    ];
    for ipv6 in [false, true] {
        for base in [Packet::tcp(ipv6, 1000), Packet::udp(ipv6, 1000)] {
            assert_eq!(groups(&second(&base, |_| ())), [[0, 1]]);
            assert_eq!(groups(&second(&base, |p| p.payload.truncate(1))), [[0, 1]]);
            for (name, change) in apart.iter().chain(if base.tcp { apart_tcp } else { &[] }) {
                assert_eq!(groups(&second(&base, change)), [[0], [1]], "{name} {}", base.tcp);
            }
            let with_options = Packet {
                options: vec![1; 4],
                ..base.clone()
            };
            assert_eq!(groups(&second(&with_options, |_| ())), [[0], [1]]);
            let flow_label = second(&base, |p| p.flow_label += 1);
            assert_eq!(groups(&flow_label).len(), if ipv6 { 2 } else { 1 });
        }
    }
}

#[test]
fn the_id_counts_unless_the_datagram_is_atomic() {
    for (dont_fragment, step, joined) in [(true, 0, true), (true, 9, true), (false, 1, true), (false, 0, false)] {
        for base in [Packet::tcp(false, 1000), Packet::udp(false, 1000)] {
            let base = Packet { dont_fragment, ..base };
            let packets = second(&base, |p| p.id = base.id.wrapping_add(step));
            assert_eq!(groups(&packets).len() == 1, joined, "{dont_fragment} {step}");
        }
    }
    let base = Packet::tcp(false, 1000);
    assert_eq!(groups(&second(&base, |p| p.dont_fragment = false)).len(), 2);
}

#[test]
fn nothing_joins_after_a_short_one_or_psh_or_fin() {
    let base = Packet::tcp(false, 1000);
    let run = |flags: [u8; 3], lens: [usize; 3]| {
        let mut seq = base.seq;
        let packets: Vec<Vec<u8>> = (0..3)
            .map(|at| {
                let packet = Packet {
                    seq,
                    flags: flags[at],
                    payload: vec![at as u8; lens[at]],
                    ..base.clone()
                };
                seq = seq.wrapping_add(lens[at] as u32);
                packet.octets(false)
            })
            .collect();
        groups(&packets)
    };
    assert_eq!(run([ACK; 3], [9, 9, 9]), [vec![0, 1, 2]]);
    assert_eq!(run([ACK; 3], [9, 8, 8]), [vec![0, 1], vec![2]]);
    assert_eq!(run([ACK, ACK | PSH, ACK], [9, 9, 9]), [vec![0, 1], vec![2]]);
    assert_eq!(run([ACK, ACK, ACK | FIN], [9, 9, 9]), [vec![0, 1, 2]]);
    assert_eq!(run([ACK | PSH, ACK, ACK], [9, 9, 9]), [vec![0], vec![1, 2]]);
    assert_eq!(run([ACK | FIN, ACK, ACK], [9, 9, 9]), [vec![0], vec![1, 2]]);
}

#[test]
fn a_flow_is_never_reordered() {
    let base = Packet::tcp(false, 1000);
    let at = |step: u32, change: fn(&mut Packet)| {
        let mut packet = Packet {
            seq: base.seq.wrapping_add(step * 1000),
            ..base.clone()
        };
        change(&mut packet);
        packet.octets(false)
    };
    // A pure acknowledgment, a packet with options, or a SYN of the flow between two that would join.
    let between: [fn(&mut Packet); 3] = [|p| p.payload.clear(), |p| p.options = vec![1; 4], |p| p.flags = SYN];
    for change in between {
        assert_eq!(groups(&[at(0, |_| ()), at(1, change), at(1, |_| ())]), [[0], [1], [2]]);
    }
    // A fragment between the same two addresses.
    let mut fragment = at(5, |_| ());
    fragment[6..8].copy_from_slice(&[0, 200]);
    assert_eq!(
        groups(&[at(0, |_| ()), fragment.clone(), at(1, |_| ())]),
        [[0], [1], [2]]
    );
    // One of another flow is in nobody's way.
    fragment[15] = 77;
    assert_eq!(groups(&[at(0, |_| ()), fragment, at(1, |_| ())]), [vec![0, 2], vec![1]]);
}

#[test]
fn a_wrong_checksum_is_not_laundered() {
    for ipv6 in [false, true] {
        for base in [Packet::tcp(ipv6, 1000), Packet::udp(ipv6, 1000)] {
            for wrong in 0..2 {
                let mut packets = second(&base, |_| ());
                *packets[wrong].last_mut().unwrap() ^= 1;
                let writes = writes(&packets);
                assert_eq!(writes.len(), 2);
                assert_eq!(writes[wrong].octets, packets[wrong]);
                assert_eq!(writes[wrong].vnet, VnetHeader::default());
            }
        }
    }
    let mut packets = second(&Packet::tcp(false, 1000), |_| ());
    packets[1][10] ^= 1;
    assert_eq!(groups(&packets).len(), 2, "IPv4 header checksum");
    // UDP without checksum, even where 0 happens to be the right sum.
    let mut packets = second(&Packet::udp(false, 1000), |_| ());
    for packet in &mut packets {
        packet[1026..1028].copy_from_slice(&[0, 0]);
        let sum = Packet {
            payload: packet[28..].to_vec(),
            ..Packet::udp(false, 0)
        }
        .octets(false);
        packet[1026..1028].copy_from_slice(&sum[26..28]);
        packet[26..28].copy_from_slice(&[0, 0]);
    }
    assert_eq!(groups(&packets).len(), 2, "UDP without checksum");
}

#[test]
fn options_switch_it_off() {
    let tcp = Packet::tcp(false, 2000).split(1000);
    let udp = Packet::udp(false, 2000).split(1000);
    let packets = [tcp, udp].concat();
    for (tcp, udp, items) in [(true, true, 2), (false, true, 3), (true, false, 3), (false, false, 4)] {
        let mut coalescer = Coalescer::new(CoalesceOptions { tcp, udp }, 0);
        assert!(coalescer.is_empty());
        assert_eq!(writes_with(&mut coalescer, &packets).len(), items);
        coalescer.set_options(BOTH);
        assert_eq!(writes_with(&mut coalescer, &packets).len(), 2);
    }
}

#[test]
fn the_ecn_bit_goes_with_cwr() {
    let packet = Packet {
        flags: ACK | CWR,
        ..Packet::tcp(false, 3000)
    };
    let writes = writes(&packet.split(1000));
    assert_eq!(writes[0].vnet.gso_type, vnet::GSO_TCPV4 | vnet::GSO_ECN);
    assert_eq!(split(&writes[0]), packet.split(1000));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Split some super-packets, interleave their segments at random, join, split again: each flow has the same packets
    /// in the same order.
    #[test]
    fn there_and_back(
        packets in proptest::collection::vec(
            (any_packet(6000, (any::<u8>(), any::<bool>()).prop_map(|(f, odd)| if odd { f & !(SYN | RST) } else { ACK | f & (PSH | FIN | ECE | CWR) })), 300u16..2000),
            1..20,
        ),
        order in proptest::collection::vec(any::<u16>(), 200),
    ) {
        let mut queues: Vec<std::collections::VecDeque<Vec<u8>>> = packets
            .iter()
            .enumerate()
            .map(|(host, (packet, size))| Packet { host: host as u8, ..packet.clone() }.split((*size).into()).into())
            .collect();
        let mut mixed = vec![];
        for choice in order.iter().cycle() {
            queues.retain(|queue| !queue.is_empty());
            if queues.is_empty() { break }
            let at = usize::from(*choice) % queues.len().min(1 + usize::from(*choice) % 3);
            mixed.extend(queues[at].pop_front());
        }
        let writes = writes(&mixed);
        for write in &writes {
            let back = split(write);
            prop_assert_eq!(back.len(), write.of.len());
            for (index, (back, of)) in back.iter().zip(&write.of).enumerate() {
                let mut original = mixed[*of as usize].clone();
                if original[0] >> 4 == 4 && original[6] & 0x40 != 0 && index > 0 {
                    // The ID of an atomic datagram may change (RFC 6864 §4.1), the checksum with it.
                    original[4..6].copy_from_slice(&back[4..6]);
                    original[10..12].copy_from_slice(&back[10..12]);
                }
                prop_assert_eq!(back, &original);
            }
        }
        // In each flow the order of the writes is the order of arrival.
        let key = |index: u32| flow::parse(&mixed[index as usize]).unwrap().key;
        let written: Vec<u32> = writes.iter().flat_map(|write| write.of.clone()).collect();
        for (at, first) in written.iter().enumerate() {
            for later in &written[at + 1..] {
                prop_assert!(first < later || key(*first) != key(*later));
            }
        }
    }
}
