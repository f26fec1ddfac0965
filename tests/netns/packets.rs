//! What leaves the far TUN is packet for packet what entered the near one, and a flow keeps its order: for every kind of packet,
//! with every offload and without each. What goes in is put before the near TUN by a packet socket, super-packets included;
//! what comes out is taken behind the far one. Super-packets are taken apart by [`apart`], which shares nothing with
//! what is tested.

use crate::build::{ACK, CWR, ECE, FIN, PSH, Packet, URG, any_packet, checksum};
use crate::support::packet_socket::{Kernel, PacketSocket};
use crate::support::static_keys::{Pair, Side, Tunnel, find, name};
use crate::support::transfer::{inside, one_way};
use crate::support::{World, privileged};
use landbridge::data::{DataOptions, InterfaceOptions};
use landbridge_proto::ip::tunnel::{DontFragment, OuterDscp};
use landbridge_proto::ip::vnet::{self, VnetHeader};
use landbridge_proto::policy::sad::{ChildSaId, SadUpdate};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const MTU: u16 = 1400;
/// Injected before it is waited for what comes out: a TUN's queue holds 500 packets.
const AT_ONCE: usize = 12;
/// Random super-packets in each setting.
const RANDOM: usize = 60;

/// What is put in, and the packets it stands for.
struct Injected {
    vnet: VnetHeader,
    octets: Vec<u8>,
    packets: Vec<Vec<u8>>,
}

impl Injected {
    fn single(octets: Vec<u8>) -> Self {
        Self {
            vnet: VnetHeader::default(),
            packets: vec![octets.clone()],
            octets,
        }
    }

    /// One packet whose checksum the device is to complete.
    fn partial(packet: &Packet) -> Self {
        let vnet = VnetHeader {
            gso_type: vnet::GSO_NONE,
            gso_size: 0,
            hdr_len: 0,
            ..packet.vnet(1)
        };
        Self {
            vnet,
            octets: packet.octets(true),
            packets: vec![packet.octets(false)],
        }
    }

    fn together(packet: &Packet, size: usize) -> Self {
        Self {
            vnet: packet.vnet(size as u16),
            octets: packet.octets(true),
            packets: packet.split(size),
        }
    }

    /// The same packets one by one: what the far end may join.
    fn apart(packet: &Packet, size: usize) -> impl Iterator<Item = Self> {
        packet.split(size).into_iter().map(Self::single)
    }
}

/// The packets that a super-packet, or one with a checksum to complete, stands for: as in RFC 9293, RFC 768 and the kernel's
/// own segmentation, from the octets alone.
fn apart(vnet: &VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let (start, field) = (
        usize::from(vnet.csum_start),
        usize::from(vnet.csum_start + vnet.csum_offset),
    );
    let complete = |mut packet: Vec<u8>| {
        let sum = match checksum(&packet[start..]) {
            0 => 0xffff,
            sum => sum,
        };
        packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        packet
    };
    if !vnet.is_gso() {
        return vec![if vnet.needs_checksum() {
            complete(packet.to_vec())
        } else {
            packet.to_vec()
        }];
    }
    assert!(vnet.needs_checksum(), "a super-packet without a checksum to complete");
    let (v6, tcp) = (packet[0] >> 4 == 6, vnet.gso_type & !vnet::GSO_ECN != vnet::GSO_UDP_L4);
    let header = start
        + if tcp {
            usize::from(packet[start + 12] >> 4) * 4
        } else {
            8
        };
    let size = usize::from(vnet.gso_size);
    let chunks: Vec<&[u8]> = packet[header..].chunks(size).collect();
    let last = chunks.len() - 1;
    let mut list = Vec::new();
    for (index, chunk) in chunks.into_iter().enumerate() {
        let mut one = [&packet[..header], chunk].concat();
        let transport_len = one.len() - start;
        let word = |one: &[u8], at: usize| u16::from_be_bytes([one[at], one[at + 1]]);
        if v6 {
            let len = (one.len() - 40) as u16;
            one[4..6].copy_from_slice(&len.to_be_bytes());
        } else {
            let (len, id) = (one.len() as u16, word(&one, 4).wrapping_add(index as u16));
            one[2..4].copy_from_slice(&len.to_be_bytes());
            one[4..6].copy_from_slice(&id.to_be_bytes());
            one[10..12].fill(0);
            let sum = checksum(&one[..usize::from(one[0] & 15) * 4]);
            one[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        if tcp {
            let sequence = u32::from_be_bytes(one[start + 4..start + 8].try_into().unwrap());
            let sequence = sequence.wrapping_add((index * size) as u32);
            one[start + 4..start + 8].copy_from_slice(&sequence.to_be_bytes());
            if index > 0 {
                one[start + 13] &= !CWR;
            }
            if index < last {
                one[start + 13] &= !(FIN | PSH);
            }
        } else {
            one[start + 4..start + 6].copy_from_slice(&(transport_len as u16).to_be_bytes());
        }
        // The pseudo header's sum has the length of the whole: out with it, in with the segment's.
        let whole = (packet.len() - start) as u16;
        let pseudo = [
            word(packet, field).to_be_bytes(),
            (!whole).to_be_bytes(),
            (transport_len as u16).to_be_bytes(),
        ]
        .concat();
        one[field..field + 2].copy_from_slice(&(!checksum(&pseudo)).to_be_bytes());
        list.push(complete(one));
    }
    list
}

/// Source and destination: here each flow has addresses of its own.
fn addresses(packet: &[u8]) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        packet[8..40].to_vec()
    } else {
        packet[12..20].to_vec()
    }
}

/// Whether it is of the tests' own networks: a kernel says a word or two of its own on every interface.
fn is_ours(packet: &[u8]) -> bool {
    match packet[0] >> 4 {
        4 => packet.get(12..15) == Some(&[192, 0, 2]),
        6 => {
            packet.get(8..12) == Some(&[0x20, 0x01, 0x0d, 0xb8])
                && packet.get(24..28) == Some(&[0x20, 0x01, 0x0d, 0xb8])
        }
        _ => false,
    }
}

/// A setting.
#[derive(Clone, Copy)]
struct Setting {
    name: &'static str,
    options: fn(&mut DataOptions),
    kernel: Kernel,
    /// `ethtool -K` of both TUNs.
    features: &'static [&'static str],
    ipv6_outside: bool,
}

const EVERYTHING: Setting = Setting {
    name: "all offloads",
    options: |_| {},
    kernel: Kernel::ThisOne,
    features: &[],
    ipv6_outside: false,
};

/// Two data paths whose TUNs have no addresses; all traffic is let through.
fn pair(setting: &Setting) -> Option<Pair> {
    if !privileged(setting.name) {
        return None;
    }
    let mut world = World::new();
    world.add("a");
    world.add("b");
    world.join("a", "wan0", "192.0.2.1/24", "b", "wan0", "192.0.2.2/24");
    let mut options = DataOptions {
        workers: 2,
        ..DataOptions::default()
    };
    (setting.options)(&mut options);
    let sides = ["a", "b"].map(|ns| Side::start_on(&world, ns, options.clone(), setting.kernel));
    for (ns, side, outer) in [("a", &sides[0], "fd00::1/64"), ("b", &sides[1], "fd00::2/64")] {
        world.ip(ns, &["addr", "add", outer, "dev", "wan0", "nodad"]);
        let options = InterfaceOptions {
            queues: 1,
            name: "tun0".into(),
            mtu: MTU,
            // A clamped MSS would be a packet that changed.
            clamp_mss: false,
            transport: false,
            dont_fragment: DontFragment::Clear,
            dscp: OuterDscp::default(),
        };
        side.with(move |data, _| data.add_interface(&name(), &options)).unwrap();
        if !setting.features.is_empty() {
            world.must(ns, &[&["ethtool", "-K", "tun0"], setting.features].concat());
        }
        world.ip(ns, &["link", "set", "tun0", "mtu", &MTU.to_string(), "up"]);
    }
    let [a, b] = sides;
    let pair = Pair { a, b, world };
    let tunnel = Tunnel {
        everything: true,
        ipv6_outside: setting.ipv6_outside,
        ..Tunnel::default()
    };
    pair.install(tunnel, 0);
    for side in [&pair.a, &pair.b] {
        let id = ChildSaId(0);
        side.apply(SadUpdate::ActivateOutbound { id, replaces: None });
    }
    Some(pair)
}

/// Every kind of packet, each flow with a host of its own; hosts are reused in order.
fn packets() -> Vec<Injected> {
    let mut list = Vec::new();
    let mut host = 0_u8;
    let mut next_host = move || {
        host = host % 250 + 1;
        host
    };
    let mut put = |make: &mut dyn FnMut(u8) -> Vec<Injected>| list.extend(make(next_host()));
    for ipv6 in [false, true] {
        // The longest that is carried, and the shortest.
        for payload in [0, 1, usize::from(MTU) - if ipv6 { 72 } else { 52 }] {
            put(&mut |host| {
                vec![Injected::single(
                    Packet {
                        host,
                        ..Packet::tcp(ipv6, payload)
                    }
                    .octets(false),
                )]
            });
            put(&mut |host| {
                vec![Injected::partial(&Packet {
                    host,
                    ..Packet::tcp(ipv6, payload)
                })]
            });
            put(&mut |host| {
                vec![Injected::partial(&Packet {
                    host,
                    ..Packet::udp(ipv6, payload)
                })]
            });
        }
        // Flags on a super-packet, and on the packets that might be joined to one.
        for flags in [
            ACK,
            ACK | PSH,
            ACK | FIN,
            ACK | URG,
            ACK | ECE,
            ACK | CWR,
            ACK | PSH | FIN | URG | ECE | CWR,
        ] {
            let packet = |host| Packet {
                host,
                flags,
                urgent: u16::from(flags & URG != 0) * 7,
                ..Packet::tcp(ipv6, 9_000)
            };
            put(&mut |host| vec![Injected::together(&packet(host), 1301)]);
            put(&mut |host| Injected::apart(&packet(host), 1301).collect());
        }
        // Odd sizes, from one octet to as much as fits; as long as IP can say.
        for (payload, size) in [
            (3, 1),
            (64, 1),
            (1_000, 7),
            (5_001, 999),
            (20_000, 1327),
            (65_400, 1320),
        ] {
            for packet in [Packet::tcp(ipv6, payload), Packet::udp(ipv6, payload)] {
                // UDP_MAX_SEGMENTS; and the kernel takes no more datagrams a super-packet.
                if !packet.tcp && payload > size * 64 {
                    continue;
                }
                put(&mut |host| vec![Injected::together(&Packet { host, ..packet.clone() }, size)]);
                put(&mut |host| {
                    Injected::apart(&Packet { host, ..packet.clone() }, size)
                        .take(80)
                        .collect()
                });
            }
        }
        // Options: IPv4's own, IPv6 destination options.
        for packet in [Packet::tcp(ipv6, 4_000), Packet::udp(ipv6, 4_000)] {
            put(&mut |host| {
                Injected::apart(
                    &Packet {
                        host,
                        options: vec![1; 8],
                        ..packet.clone()
                    },
                    1200,
                )
                .collect()
            });
        }
        put(&mut |host| {
            vec![Injected::together(
                &Packet {
                    host,
                    options: if ipv6 { vec![] } else { vec![1; 8] },
                    ..Packet::tcp(ipv6, 4_000)
                },
                1200,
            )]
        });
        put(&mut |host| fragments(host, ipv6).into_iter().map(Injected::single).collect());
        // A wrong checksum stays wrong: nobody here may heal it.
        put(&mut |host| {
            let split = Packet {
                host,
                ..Packet::tcp(ipv6, 4_000)
            }
            .split(1000);
            let damage = |(index, mut octets): (usize, Vec<u8>)| {
                if index == 2 {
                    *octets.last_mut().unwrap() ^= 0x40;
                }
                Injected::single(octets)
            };
            split.into_iter().enumerate().map(damage).collect()
        });
        // No ports at all, and next to nothing in it.
        put(&mut |host| {
            let mut packet = Packet {
                host,
                ..Packet::udp(ipv6, 0)
            }
            .octets(false);
            if ipv6 {
                packet.truncate(40);
                packet[4..7].copy_from_slice(&[0, 0, 59]);
            } else {
                packet.truncate(20);
                packet[2..4].copy_from_slice(&[0, 20]);
                packet[9] = 99;
                packet[10..12].fill(0);
                let sum = checksum(&packet);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            vec![Injected::single(packet)]
        });
    }
    // IPv4 allows UDP without a checksum.
    put(&mut |host| {
        let without = |packet: Vec<u8>| {
            let mut packet = packet;
            packet[26..28].fill(0);
            Injected::single(packet)
        };
        Packet {
            host,
            ..Packet::udp(false, 5_000)
        }
        .split(1000)
        .into_iter()
        .map(without)
        .collect()
    });
    let mut runner = TestRunner::deterministic();
    let flags = [ACK, PSH, FIN, URG, ECE, CWR]
        .iter()
        .fold(proptest::strategy::Just(0).boxed(), |all, flag| {
            (all, proptest::bool::ANY)
                .prop_map(move |(all, on)| if on { all | flag } else { all })
                .boxed()
        });
    let random = (any_packet(30_000, flags), 200_usize..1250);
    for _ in 0..RANDOM {
        let (packet, size) = random.new_tree(&mut runner).unwrap().current();
        let size = size.max(packet.payload.len().div_ceil(60));
        let packet = Packet {
            options: vec![],
            ..packet
        };
        if size + packet.header_len() > usize::from(MTU) || packet.payload.is_empty() {
            continue;
        }
        put(&mut |host| vec![Injected::together(&Packet { host, ..packet.clone() }, size)]);
        put(&mut |host| Injected::apart(&Packet { host, ..packet.clone() }, size).collect());
    }
    list
}

/// A UDP datagram in three fragments (RFC 791 §3.2, RFC 8200 §4.5).
fn fragments(host: u8, ipv6: bool) -> Vec<Vec<u8>> {
    let whole = Packet {
        host,
        dont_fragment: false,
        ..Packet::udp(ipv6, 2_900)
    }
    .octets(false);
    let header = if ipv6 { 40 } else { 20 };
    let pieces: Vec<&[u8]> = whole[header..].chunks(1_000).collect();
    let last = pieces.len() - 1;
    let fragment = |(index, piece): (usize, &&[u8])| {
        let word = (index * 1_000 / 8) as u16;
        let more = index < last;
        let mut packet = whole[..header].to_vec();
        if ipv6 {
            packet.extend([17, 0]);
            packet.extend((word << 3 | u16::from(more)).to_be_bytes());
            packet.extend([0, 0, 0, 77]);
            packet[6] = 44;
            packet[4..6].copy_from_slice(&(8 + piece.len() as u16).to_be_bytes());
        } else {
            packet[2..4].copy_from_slice(&(20 + piece.len() as u16).to_be_bytes());
            packet[6..8].copy_from_slice(&(word | u16::from(more) << 13).to_be_bytes());
            packet[10..12].fill(0);
            let sum = checksum(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        packet.extend(*piece);
        packet
    };
    pieces.iter().enumerate().map(fragment).collect()
}

type Flows = BTreeMap<Vec<u8>, Vec<Vec<u8>>>;

fn assert_same(setting: &str, want: &Flows, got: &Flows) {
    for (flow, want) in want {
        let got = got.get(flow).map_or(&[][..], Vec::as_slice);
        for (index, packet) in want.iter().enumerate() {
            assert!(
                got.get(index) == Some(packet),
                "{setting}: packet {index} of {} of flow {flow:?}\n  in: {packet:02x?}\n out: {:02x?}",
                want.len(),
                got.get(index)
            );
        }
        assert_eq!(
            want.len(),
            got.len(),
            "{setting}: more came out of flow {flow:?} than went in"
        );
    }
    assert_eq!(want.len(), got.len(), "{setting}: flows that nobody sent");
}

/// Puts everything in; compares what comes out. Returns the number of super-packets that came out.
fn same_packets(setting: Setting) -> Option<usize> {
    let pair = pair(&setting)?;
    let near = PacketSocket::open(&pair.world, "a", "tun0");
    let far = PacketSocket::open(&pair.world, "b", "tun0");
    let (mut want, mut got) = (Flows::new(), Flows::new());
    let (mut sent, mut came, mut joined) = (0, 0, 0);
    for some in packets().chunks(AT_ONCE) {
        for injected in some {
            let vnet = &injected.vnet;
            near.send(vnet, &injected.octets).unwrap_or_else(|error| {
                panic!("{}: {vnet:?}, {} octets: {error}", setting.name, injected.octets.len())
            });
            sent += injected.packets.len();
            for packet in &injected.packets {
                want.entry(addresses(packet)).or_default().push(packet.clone());
            }
        }
        let end = Instant::now() + Duration::from_secs(10);
        while came < sent && Instant::now() < end {
            for seen in far.take() {
                if seen.outgoing || !is_ours(&seen.packet) {
                    continue;
                }
                joined += usize::from(seen.vnet.is_gso());
                for packet in apart(&seen.vnet, &seen.packet) {
                    came += 1;
                    got.entry(addresses(&packet)).or_default().push(packet);
                }
            }
        }
        if came < sent {
            break;
        }
    }
    assert_eq!(far.lost(), 0);
    let drops: Vec<_> = [&pair.a, &pair.b]
        .map(|side| side.with(|data, _| data.stats(&name()).total.drops))
        .into();
    eprintln!(
        "{}: {sent} packets, {came} came, {joined} super-packets came out",
        setting.name
    );
    for drops in &drops {
        for cause in [
            "out_malformed",
            "inner_malformed",
            "tun_write",
            "too_big",
            "send_failed",
            "integrity",
            "replayed",
        ] {
            assert_eq!(find(drops, cause), 0, "{}: {cause}", setting.name);
        }
    }
    assert_same(setting.name, &want, &got);
    Some(joined)
}

#[test]
fn what_leaves_the_far_tun_is_what_entered_the_near_one() {
    let Some(joined) = same_packets(EVERYTHING) else { return };
    assert!(joined > 50, "hardly anything was joined: {joined}");
    let outside = Setting {
        name: "over IPv6",
        ipv6_outside: true,
        ..EVERYTHING
    };
    assert!(same_packets(outside).unwrap() > 50);
}

#[test]
fn it_is_the_same_without_each_offload() {
    let settings: [Setting; 6] = [
        Setting {
            name: "no UDP_SEGMENT",
            options: |o| o.udp_gso = false,
            ..EVERYTHING
        },
        Setting {
            name: "no UDP_GRO",
            options: |o| o.udp_gro = false,
            ..EVERYTHING
        },
        Setting {
            name: "no joining",
            options: |o| o.coalesce = false,
            ..EVERYTHING
        },
        Setting {
            name: "no offload on the TUN",
            options: |o| o.tun_offload = false,
            ..EVERYTHING
        },
        Setting {
            name: "checksum offload off",
            features: &["tx", "off"],
            ..EVERYTHING
        },
        Setting {
            name: "segmentation offload off",
            features: &["tso", "off", "gso", "off", "tx-udp-segmentation", "off"],
            ..EVERYTHING
        },
    ];
    for setting in settings {
        let Some(joined) = same_packets(setting) else { return };
        if ["no joining", "no offload on the TUN"].contains(&setting.name) {
            assert_eq!(joined, 0, "{}", setting.name);
        }
    }
}

#[test]
fn it_is_the_same_on_older_kernels() {
    for (name, kernel) in [
        ("without USO", Kernel::WithoutUso),
        ("without USO, GSO, GRO", Kernel::WithoutOffloads),
    ] {
        let setting = Setting {
            name,
            kernel,
            ..EVERYTHING
        };
        let Some(joined) = same_packets(setting) else { return };
        assert_eq!(
            joined > 0,
            kernel == Kernel::WithoutUso,
            "{name}: {joined} super-packets"
        );
        let pair = pair(&setting).unwrap();
        let granted = pair.a.with(|data, _| data.offloads());
        assert!(granted.contains(&("tun-uso", false)), "{name}: {granted:?}");
        assert_eq!(
            granted.contains(&("udp-gso", false)),
            kernel == Kernel::WithoutOffloads,
            "{granted:?}"
        );
    }
}

/// A kernel's own TCP, and its own UDP super-packets (UDP_SEGMENT), seen before one TUN and behind the other.
#[test]
fn a_kernels_own_traffic_comes_out_as_it_went_in() {
    let Some(pair) = pair(&EVERYTHING) else { return };
    let world = &pair.world;
    for (ns, own, peer, own6, peer6) in [
        (
            "a",
            "192.0.2.129/32",
            "192.0.2.130",
            "2001:db8:1::1/128",
            "2001:db8:2::1",
        ),
        (
            "b",
            "192.0.2.130/32",
            "192.0.2.129",
            "2001:db8:2::1/128",
            "2001:db8:1::1",
        ),
    ] {
        world.ip(ns, &["addr", "add", own, "dev", "tun0"]);
        world.ip(ns, &["addr", "add", own6, "dev", "tun0", "nodad"]);
        let (source, source6) = (own.trim_end_matches("/32"), own6.trim_end_matches("/128"));
        world.ip(ns, &["route", "add", peer, "dev", "tun0", "src", source]);
        world.ip(ns, &["-6", "route", "add", peer6, "dev", "tun0", "src", source6]);
    }
    let sockets = ["a", "b"].map(|ns| PacketSocket::open(world, ns, "tun0"));
    for (address, from) in [("192.0.2.130", "192.0.2.129:0"), ("2001:db8:2::1", "[2001:db8:1::1]:0")] {
        one_way(world, "a", "b", address, 3_000_000);
        let receiver = inside(world, "b", move || {
            let socket = UdpSocket::bind((address, 5555)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            socket
        });
        let receiver = receiver.join().unwrap();
        let sender = inside(world, "a", move || {
            let socket = UdpSocket::bind(from).unwrap();
            let size: libc::c_int = 1111;
            // SAFETY: `size` is an int that lives through the call, and its size is given.
            let result = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_UDP,
                    libc::UDP_SEGMENT,
                    (&raw const size).cast(),
                    4,
                )
            };
            assert_eq!(result, 0, "{}", io::Error::last_os_error());
            socket
        });
        let sender = sender.join().unwrap();
        let mut buffer = [0; 2000];
        for round in 0..20_u8 {
            sender.send_to(&[round; 30_003], (address, 5555)).unwrap();
            let mut total = 0;
            while total < 30_003 {
                total += receiver.recv(&mut buffer).unwrap();
            }
        }
    }
    // By source and protocol: a flow each way.
    let mut flows = [(); 4].map(|()| Flows::new());
    let mut joined = 0;
    for (index, socket) in sockets.iter().enumerate() {
        for seen in socket.take().into_iter().filter(|seen| is_ours(&seen.packet)) {
            joined += usize::from(!seen.outgoing && seen.vnet.is_gso());
            let protocol = seen.packet[if seen.packet[0] >> 4 == 6 { 6 } else { 9 }];
            for packet in apart(&seen.vnet, &seen.packet) {
                let key = [&addresses(&packet)[..], &[protocol]].concat();
                flows[index * 2 + usize::from(seen.outgoing)]
                    .entry(key)
                    .or_default()
                    .push(packet);
            }
        }
        assert_eq!(socket.lost(), 0);
    }
    let [from_b, into_a, from_a, into_b] = &flows;
    assert!(joined > 20, "{joined} super-packets came out");
    assert_same("a to b", into_a, from_a);
    assert_same("b to a", into_b, from_b);
}
