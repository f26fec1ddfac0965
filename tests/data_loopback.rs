//! Two data paths with static keys, each in a network namespace of its own, without any key exchange.
//!
//! Needs root and `/dev/net/tun`; where they are missing, each test says so and passes.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in what its functions share"
)]

mod support;

use landbridge::data::{DataOptions, RawEsp};
use landbridge_proto::crypto::{CipherSuite, ESP_PROVIDER, Encryption, Integrity};
use landbridge_proto::esp::OutboundSa;
use landbridge_proto::ip::tunnel::DontFragment;
use landbridge_proto::policy::sad::{ChildSaId, Encapsulation, Path, SadReport, SadUpdate, TrafficLimits};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::mpsc::channel;
use std::time::Duration;
use support::static_keys::{GCM, NAT_PORT, Pair, Tunnel, add_interface, find, name};
use support::transfer::{inside, one_way};
use support::{World, wait_until};

const SOME: usize = 5_000_000;

#[test]
fn one_worker() {
    let Some(pair) = Pair::up("one worker", DataOptions::default(), Tunnel::default()) else {
        return;
    };
    pair.carries(4 * SOME);
    let id = ChildSaId(0);
    for report in [SadReport::FirstInbound(id), SadReport::Alive(id), SadReport::Sent(id)] {
        assert!(pair.a.told(report) && pair.b.told(report), "{report:?}");
    }
}

#[test]
fn two_workers_with_every_owner() {
    for owner in [0, 1] {
        let options = DataOptions {
            workers: 2,
            pin: true,
            ..DataOptions::default()
        };
        let tunnel = Tunnel {
            owner,
            ..Tunnel::default()
        };
        let Some(pair) = Pair::up("two workers", options, tunnel) else {
            return;
        };
        pair.carries(SOME);
        assert_eq!(pair.a.stray("unknown_spi") + pair.b.stray("unknown_spi"), 0);
    }
}

#[test]
fn without_each_offload() {
    type Change = fn(&mut DataOptions);
    let changes: [(&str, Change); 5] = [
        ("no UDP_SEGMENT", |o| o.udp_gso = false),
        ("no UDP_GRO", |o| o.udp_gro = false),
        ("no joining", |o| o.coalesce = false),
        ("no offload on the TUN", |o| o.tun_offload = false),
        ("nothing", |o| {
            (o.udp_gso, o.udp_gro, o.coalesce, o.tun_offload) = (false, false, false, false);
        }),
    ];
    for (what, change) in changes {
        let mut options = DataOptions::default();
        change(&mut options);
        let Some(pair) = Pair::up(what, options, Tunnel::default()) else {
            return;
        };
        eprintln!("{what}");
        pair.carries(SOME);
    }
}

#[test]
fn over_ipv6_and_with_other_ciphers() {
    let cbc = CipherSuite {
        encryption: Encryption::AesCbc256,
        integrity: Some(Integrity::HmacSha256_128),
    };
    let chacha = CipherSuite {
        encryption: Encryption::ChaCha20Poly1305,
        integrity: None,
    };
    for (suite, esn, ipv6_outside) in [
        (GCM, true, true),
        (GCM, false, false),
        (chacha, true, false),
        (cbc, false, true),
    ] {
        let tunnel = Tunnel {
            suite,
            esn,
            ipv6_outside,
            ..Tunnel::default()
        };
        let Some(pair) = Pair::up("IPv6, ciphers", DataOptions::default(), tunnel) else {
            return;
        };
        pair.carries(SOME / 5);
    }
}

/// RFC 7296 §2.23: "all devices MUST be able to receive and process both UDP-encapsulated ESP and non-UDP-encapsulated ESP
/// packets at any time. Either side can decide whether or not to use UDP encapsulation for ESP irrespective of the choice
/// made by the other side." (K4)
#[test]
fn without_udp_and_one_end_with_the_other_without() {
    for (raw, ipv6_outside, owner) in [
        ((true, true), false, 0),
        ((true, true), true, 1),
        ((true, false), false, 1),
        ((false, true), true, 0),
    ] {
        let options = DataOptions {
            workers: 2,
            raw: RawEsp::Required,
            ..DataOptions::default()
        };
        let tunnel = Tunnel {
            raw,
            ipv6_outside,
            owner,
            ..Tunnel::default()
        };
        let Some(pair) = Pair::bare("raw ESP", options) else {
            return;
        };
        count_esp(&pair.world);
        pair.install(tunnel, 0);
        pair.activate(0, None);
        pair.carries(SOME);
        assert_eq!(pair.a.stray("unknown_spi") + pair.b.stray("unknown_spi"), 0);
        // What comes to B was sent by A.
        let (plain, udp) = esp_counts(&pair.world);
        assert_eq!(
            (plain > 1000, udp > 100),
            (raw.0, !raw.0),
            "{plain} without UDP, {udp} with"
        );
        // A NAT came, or went: the same SAs, the other way.
        let path = tunnel.entry(true, 0).path;
        let encapsulation = if raw.0 { Encapsulation::Udp } else { Encapsulation::Raw };
        let id = ChildSaId(0);
        pair.a.apply(SadUpdate::Move {
            id,
            path,
            encapsulation,
        });
        pair.carries(SOME / 5);
        let (plain_now, udp_now) = esp_counts(&pair.world);
        assert_eq!((plain_now > plain, udp_now > udp), (!raw.0, raw.0));
    }
}

/// Counts ESP that comes to B, without and with UDP.
fn count_esp(world: &World) {
    let rules = "add table inet seen; \
         add chain inet seen came { type filter hook input priority 0; }; \
         add rule inet seen came meta l4proto 50 counter; \
         add rule inet seen came udp dport 4500 counter; \
         add rule inet seen came iifname wan0 ip frag-off & 0x4000 == 0x4000 counter";
    world.must("b", &["nft", rules]);
}

fn esp_counts(world: &World) -> (u64, u64) {
    let counts = counts(world);
    (counts[0], counts[1])
}

fn counts(world: &World) -> Vec<u64> {
    let text = world.must("b", &["nft", "list", "table", "inet", "seen"]);
    let mut words = text.split_whitespace();
    let mut list = Vec::new();
    while let Some(word) = words.next() {
        if word == "packets" {
            list.push(words.next().unwrap().parse().unwrap());
        }
    }
    list
}

/// RFC 4301 §8.1: "it MUST be possible to configure the implementation's treatment of the DF bit (set, clear, copy from
/// inner header) for each SA."
#[test]
fn the_df_bit_is_cleared_set_or_copied() {
    for (policy, raw, with_inner, without_inner) in [
        (DontFragment::Clear, false, false, false),
        (DontFragment::Set, false, true, true),
        (DontFragment::Copy, false, true, false),
        (DontFragment::Copy, true, true, false),
        (DontFragment::Clear, true, false, false),
    ] {
        let Some(pair) = Pair::bare("DF", DataOptions::default()) else {
            return;
        };
        pair.a.with(|data, _| data.remove_interface(&name()));
        add_interface(&pair.a, policy);
        pair.world.ip("a", &["addr", "add", "10.1.0.1/24", "dev", "tun0"]);
        pair.world.ip("a", &["link", "set", "tun0", "mtu", "1400", "up"]);
        pair.world.ip("a", &["route", "add", "10.2.0.0/24", "dev", "tun0"]);
        let tunnel = Tunnel {
            raw: (raw, raw),
            ..Tunnel::default()
        };
        pair.install(tunnel, 0);
        pair.activate(0, None);
        count_esp(&pair.world);
        for (inner, outer) in [("do", with_inner), ("dont", without_inner)] {
            let before = counts(&pair.world)[2];
            let mut command = pair.world.command("a", "ping");
            command.args(["-c", "5", "-i", "0.05", "-W", "2", "-M", inner, "10.2.0.1"]);
            assert!(command.output().unwrap().status.success());
            let set = counts(&pair.world)[2] - before;
            assert_eq!(set >= 5, outer, "{policy:?}, inner -M {inner}: {set} with DF");
            assert!(outer || set == 0, "{policy:?}, inner -M {inner}: {set} with DF");
        }
    }
}

/// The device below is smaller than the datagrams: IP fragments them, whatever UDP_SEGMENT says.
#[test]
fn a_small_device_mtu_fragments() {
    for ipv6_outside in [false, true] {
        let tunnel = Tunnel {
            ipv6_outside,
            ..Tunnel::default()
        };
        let Some(pair) = Pair::bare("small MTU", DataOptions::default()) else {
            return;
        };
        for ns in ["a", "b"] {
            pair.world.ip(ns, &["link", "set", "wan0", "mtu", "1300"]);
        }
        pair.install(tunnel, 0);
        pair.activate(0, None);
        pair.carries(SOME / 5);
        let offloads = pair.a.with(|data, _| data.offloads());
        assert!(
            offloads.contains(&("udp-gso", true)),
            "{offloads:?}: given up because of an MTU"
        );
    }
}

/// A rekey while data flows, old pair to new pair, and back and forth between owners.
#[test]
fn pairs_follow_each_other_under_load() {
    let options = DataOptions {
        workers: 2,
        ..DataOptions::default()
    };
    let Some(pair) = Pair::up("rekey", options, Tunnel::default()) else {
        return;
    };
    std::thread::scope(|scope| {
        let load = scope.spawn(|| one_way(&pair.world, "a", "b", "10.2.0.1", 100 * SOME));
        let mut id = 0;
        while !load.is_finished() {
            id += 1;
            let tunnel = Tunnel {
                owner: id as u32 % 2,
                ..Tunnel::default()
            };
            pair.install(tunnel, id);
            pair.activate(id, Some(id - 1));
            std::thread::sleep(Duration::from_millis(20));
            for side in [&pair.a, &pair.b] {
                side.apply(SadUpdate::Remove(ChildSaId(id - 1)));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        eprintln!("{id} rekeys");
        assert!(id > 3);
    });
    let stats = pair.b.with(|data, _| data.stats(&name()));
    assert!(
        stats.total.inbound.bytes > 100 * SOME as u64,
        "the past counts: {stats:?}"
    );
    assert_eq!(stats.children.len(), 1);
    for cause in ["replayed", "integrity", "too_old", "malformed"] {
        assert_eq!(find(&stats.total.drops, cause), 0, "{cause}");
    }
}

/// Datagrams of the wire, recorded: a member of the peer's group without its steering.
fn record(pair: &Pair, count: usize) -> Vec<Vec<u8>> {
    // A third address at B's end takes what A sends.
    pair.world.ip("b", &["addr", "add", "192.0.2.9/24", "dev", "wan0"]);
    let (ready, wait) = channel();
    let recorder = inside(&pair.world, "b", move || {
        let socket = UdpSocket::bind("192.0.2.9:4509").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        ready.send(()).unwrap();
        let mut list = Vec::new();
        while list.len() < count {
            let mut buffer = vec![0; 2048];
            let len = socket.recv(&mut buffer).unwrap();
            buffer.truncate(len);
            list.push(buffer);
        }
        list
    });
    wait.recv().unwrap();
    let direct = Tunnel::default().entry(true, 0).path;
    let aside = Path {
        remote: "192.0.2.9:4509".parse().unwrap(),
        ..direct
    };
    let id = ChildSaId(0);
    pair.a.apply(SadUpdate::Move {
        id,
        path: aside,
        encapsulation: Encapsulation::Udp,
    });
    let mut command = pair.world.command("a", "ping");
    command.args(["-c", &count.to_string(), "-i", "0.01", "-W", "1", "10.2.0.1"]);
    assert!(!command.output().unwrap().status.success(), "nobody should answer");
    pair.a.apply(SadUpdate::Move {
        id,
        path: direct,
        encapsulation: Encapsulation::Udp,
    });
    recorder.join().unwrap()
}

/// Sends datagrams to B as if from A's outer address (A's machine does it; the port is A's own if `merged`).
fn send(pair: &Pair, datagrams: Vec<Vec<u8>>) {
    inside(&pair.world, "a", move || {
        let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
        for datagram in datagrams {
            socket.send_to(&datagram, "192.0.2.2:4500").unwrap();
        }
    })
    .join()
    .unwrap();
}

#[test]
fn recorded_corrupted_and_unknown_datagrams_are_dropped_and_counted() {
    let Some(pair) = Pair::up("hostile", DataOptions::default(), Tunnel::default()) else {
        return;
    };
    let recorded = record(&pair, 20);
    let mut corrupted = recorded.clone();
    for (at, datagram) in corrupted.iter_mut().enumerate() {
        let place = 8 + at * 5 % (datagram.len() - 8);
        datagram[place] ^= 1 << (at % 8);
    }
    send(&pair, corrupted);
    wait_until("corrupted ones are counted", Duration::from_secs(5), || {
        pair.b.dropped("integrity") == 20
    });
    assert!(
        !pair.b.told(SadReport::FirstInbound(ChildSaId(0))),
        "nothing authentic has come yet"
    );
    send(&pair, recorded.clone());
    wait_until("they are taken once", Duration::from_secs(5), || {
        pair.b.with(|data, _| data.stats(&name())).total.inbound.packets >= 20
    });
    assert_eq!(pair.b.dropped("replayed"), 0);
    // They came from another port than the path says, authentic and new: the peer has moved.
    let moved = |report: &SadReport| matches!(report, SadReport::PeerMoved { .. });
    assert!(pair.b.reports.lock().unwrap().iter().any(moved));
    pair.b.reports.lock().unwrap().clear();
    for _ in 0..3 {
        send(&pair, recorded.clone());
    }
    wait_until("they are not taken twice", Duration::from_secs(5), || {
        pair.b.dropped("replayed") == 60
    });
    assert!(
        !pair.b.reports.lock().unwrap().iter().any(moved),
        "a replay moved the peer"
    );
    let mut unknown = recorded;
    unknown.iter_mut().for_each(|datagram| datagram[0] ^= 0x20);
    unknown.push(vec![0xff]);
    unknown.push(vec![9; 7]);
    send(&pair, unknown);
    wait_until("unknown SPIs are counted", Duration::from_secs(5), || {
        pair.b.stray("unknown_spi") == 20
    });
    let told = |report: &SadReport| matches!(report, SadReport::UnknownSpi { .. });
    assert_eq!(
        pair.b.reports.lock().unwrap().iter().filter(|r| told(r)).count(),
        1,
        "once a second at most"
    );
    assert!(pair.ping("10.2.0.1"));
}

/// One message with datagrams of several owners, with IKE in it: as UDP_GRO makes them of one peer's datagrams.
#[test]
fn what_the_kernel_merged_finds_its_owner_and_is_replayed_nowhere() {
    let options = DataOptions {
        workers: 2,
        ..DataOptions::default()
    };
    let Some(pair) = Pair::up("merged", options, Tunnel::default()) else {
        return;
    };
    let recorded = record(&pair, 20);
    let len = recorded[0].len();
    assert!(recorded.iter().all(|datagram| datagram.len() == len));
    // The first of each message has the other worker's bits in its SPI, or is IKE (control's), so that the filter
    // steers the whole message there.
    let mut other_owner = recorded[0].clone();
    other_owner[1] ^= 1;
    let mut ike = vec![0; len];
    ike[4..].fill(0x42);
    let message = |first: &[u8], rest: &[Vec<u8>]| [&[first.to_vec()], rest].concat().concat();
    let messages = [
        message(&other_owner, &recorded[..10]),
        message(&ike, &recorded[10..]),
        message(&recorded[0], std::slice::from_ref(&ike)),
    ];
    let replays = [message(&other_owner, &recorded), message(&ike, &recorded)];
    let send_merged = |messages: Vec<Vec<u8>>| {
        inside(&pair.world, "a", move || {
            let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
            let remote: SocketAddr = "192.0.2.2:4500".parse().unwrap();
            let mut batch = landbridge::sys::transmit::TransmitBatch::new(1);
            for message in messages {
                let outgoing = landbridge::sys::transmit::Outgoing {
                    start: 0,
                    len: message.len(),
                    segment: len,
                    local: [192, 0, 2, 1].into(),
                    remote,
                    tos: 0,
                    dont_fragment: false,
                };
                assert_eq!(batch.send(&socket, &message, &[outgoing]).unwrap(), 1);
            }
        })
        .join()
        .unwrap();
    };
    send_merged(messages[..1].to_vec());
    let packets = || pair.b.with(|data, _| data.stats(&name())).total.inbound.packets;
    wait_until(
        "the owner gets what came to another worker",
        Duration::from_secs(5),
        || packets() >= 10,
    );
    // What control receives, it hands back: here the test is control.
    send_merged(messages[1..2].to_vec());
    give_back(&pair);
    wait_until("the owner gets what came to control", Duration::from_secs(5), || {
        packets() >= 20
    });
    send_merged(messages[2..].to_vec());
    wait_until("control gets what came to a worker", Duration::from_secs(5), || {
        pair.b
            .strays
            .lock()
            .unwrap()
            .iter()
            .any(|message| message[..] == ike[4..])
    });
    let before = (packets(), pair.b.dropped("replayed"));
    send_merged(replays.to_vec());
    give_back(&pair);
    wait_until("all are replays, wherever they came", Duration::from_secs(5), || {
        pair.b.dropped("replayed") >= before.1 + 40
    });
    assert_eq!(packets(), before.0);
    assert!(pair.b.stray("unknown_spi") >= 2 && pair.ping("10.2.0.1"));
}

/// Control's part: what is not IKE goes back to the data path.
fn give_back(pair: &Pair) {
    pair.b.with(|data, sockets| {
        let mut buffer = vec![0; 65_536];
        std::thread::sleep(Duration::from_millis(100));
        while let Ok(received) = landbridge::sys::datagram::receive(&*sockets.ipv4, &mut buffer) {
            for datagram in buffer[..received.len].chunks(received.segment) {
                data.inject(received.remote, datagram);
            }
        }
    });
}

#[test]
fn spoofed_sources_and_destinations_outside_the_selectors_are_dropped_and_counted() {
    // A believes that 10.1.0.0/16 may send; for B it is 10.1.0.0/24.
    let tunnel = Tunnel {
        a_prefix: 16,
        ..Tunnel::default()
    };
    let Some(pair) = Pair::up("selectors", DataOptions::default(), tunnel) else {
        return;
    };
    pair.world.ip("a", &["addr", "add", "10.1.9.9/32", "dev", "lo"]);
    let ping_from = |source: &str| {
        let mut command = pair.world.command("a", "ping");
        command.args(["-c", "5", "-i", "0.05", "-W", "1", "-I", source, "10.2.0.1"]);
        command.output().unwrap().status.success()
    };
    assert!(ping_from("10.1.0.1"));
    assert!(!ping_from("10.1.9.9"));
    wait_until("spoofed sources are counted", Duration::from_secs(5), || {
        pair.b.dropped("selector_in") == 5
    });
    // Outbound: a destination that routing leads into the tunnel, but no SA covers.
    pair.world.ip("a", &["route", "add", "10.77.0.0/16", "dev", "tun0"]);
    let before = pair.a.dropped("selector_out");
    assert!(!pair.ping("10.77.0.1"));
    wait_until("no SA covers it", Duration::from_secs(5), || {
        pair.a.dropped("selector_out") >= before + 2
    });
    let asked = |report: &SadReport| matches!(report, SadReport::Acquire { destination, .. } if *destination == IpAddr::from([10, 77, 0, 1]));
    assert_eq!(
        pair.a.reports.lock().unwrap().iter().filter(|r| asked(r)).count(),
        1,
        "once a second at most"
    );
}

#[test]
fn limits_stop_a_pair_and_are_told() {
    let limits = TrafficLimits {
        soft_packets: Some(4),
        hard_packets: Some(8),
        ..TrafficLimits::default()
    };
    let tunnel = Tunnel {
        limits,
        ..Tunnel::default()
    };
    let Some(pair) = Pair::up("limits", DataOptions::default(), tunnel) else {
        return;
    };
    let mut command = pair.world.command("a", "ping");
    command.args(["-c", "20", "-i", "0.01", "-W", "1", "10.2.0.1"]);
    command.output().unwrap();
    let id = ChildSaId(0);
    assert!(pair.a.told(SadReport::SoftLimit(id)) && pair.a.told(SadReport::HardLimit(id)));
    let stats = pair.a.with(|data, _| data.stats(&name())).total;
    assert_eq!(stats.outbound.packets, 8);
    assert!(find(&stats.drops, "expired") >= 12);
    // A fresh pair takes over.
    let fresh = Tunnel::default();
    pair.install(fresh, 1);
    pair.activate(1, Some(0));
    assert!(pair.ping("10.2.0.1"));
}

#[test]
fn an_interface_comes_goes_and_comes_again() {
    let Some(pair) = Pair::up("interface", DataOptions::default(), Tunnel::default()) else {
        return;
    };
    for id in 1..20 {
        pair.a.with(|data, _| data.remove_interface(&name()));
        add_interface(&pair.a, DontFragment::Clear);
        pair.world.ip("a", &["addr", "add", "10.1.0.1/24", "dev", "tun0"]);
        pair.world.ip("a", &["link", "set", "tun0", "mtu", "1400", "up"]);
        pair.world.ip("a", &["route", "add", "10.2.0.0/24", "dev", "tun0"]);
        pair.install(Tunnel::default(), id);
        pair.activate(id, None);
    }
    assert!(pair.ping("10.2.0.1"));
    // Deactivated: nothing leaves; activated again: the numbers go on, so the peer does not take it for a replay.
    let id = ChildSaId(19);
    pair.a.apply(SadUpdate::DeactivateOutbound(id));
    assert!(!pair.ping("10.2.0.1"));
    assert!(pair.a.dropped("no_sa") > 0);
    pair.a.apply(SadUpdate::ActivateOutbound { id, replaces: None });
    assert!(pair.ping("10.2.0.1"));
    assert_eq!(pair.b.dropped("replayed"), 0);
}

/// The interface's MTU is larger than the tunnel's: senders are told (RFC 4301 §8.2.1), by ICMP that they believe.
#[test]
fn senders_of_too_large_packets_are_told() {
    let Some(pair) = Pair::up("too big", DataOptions::default(), Tunnel::default()) else {
        return;
    };
    for side in [&pair.a, &pair.b] {
        side.with(|data, _| data.set_mtu(&name(), 1300));
    }
    for (address, size) in [("10.2.0.1", "1372"), ("fd02::1", "1352")] {
        let mut command = pair.world.command("a", "ping");
        command.args(["-c", "3", "-i", "0.1", "-W", "1", "-M", "do", "-s", size, address]);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("1300"), "{address}: {text}");
    }
    assert!(pair.a.dropped("too_big") >= 2);
    one_way(&pair.world, "a", "b", "10.2.0.1", SOME / 5);
}

/// An IPv4 packet from one address to another. `fragment` is the word of flags and offset.
fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let [high, low] = fragment.to_be_bytes();
    let mut packet = vec![0x45, 0, 0, 0, 0, 9, high, low, 64, protocol, 0, 0];
    packet.extend(source.iter().chain(&destination).chain(payload));
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    let sum = landbridge_proto::ip::checksum::Sum::default()
        .octets(&packet[..20])
        .checksum();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A UDP datagram without a checksum, which IPv4 allows.
fn udp(source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
    let words = [source, destination, 8 + data.len() as u16, 0];
    let mut octets: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    octets.extend(data);
    octets
}

const HOST_A: [u8; 4] = [10, 1, 0, 1];
const HOST_B: [u8; 4] = [10, 2, 0, 1];

/// Seals packets as A would, with the next headers given, and sends them to B one by one.
fn send_sealed(pair: &Pair, tunnel: Tunnel, first: u64, packets: &[(u8, Vec<u8>)]) {
    let entry = tunnel.entry(true, 0);
    let mut sa = OutboundSa::new(&ESP_PROVIDER, &entry.outbound, [9; 32]).unwrap();
    let datagrams = packets.iter().zip(first..).map(|((next_header, packet), sequence)| {
        let mut sealed = vec![0; sa.sealed_len(packet.len())];
        let at = sa.headroom();
        sealed[at..at + packet.len()].copy_from_slice(packet);
        sa.seal(sequence, *next_header, packet.len(), &mut sealed);
        sealed
    });
    send(pair, datagrams.collect());
}

/// N6, N7, N8: what an authentic ESP packet may carry in tunnel mode, and what is told about the rest (O2).
#[test]
fn next_headers_dummies_and_tfc_padding() {
    let tunnel = Tunnel::default();
    let Some(pair) = Pair::up("next headers", DataOptions::default(), tunnel) else {
        return;
    };
    let datagram = |text: &[u8]| ipv4(HOST_A, HOST_B, 17, 0, &udp(7, 5555, text));
    let receiver = inside(&pair.world, "b", || {
        let socket = UdpSocket::bind("10.2.0.1:5555").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    })
    .join()
    .unwrap();
    let receive = || {
        let mut buffer = [0; 2000];
        let len = receiver.recv(&mut buffer).unwrap();
        buffer[..len].to_vec()
    };
    // RFC 4303 §2.7: TFC padding follows the inner packet, whose own length says where it ends.
    let padded = [datagram(b"padded"), vec![0xdd; 700]].concat();
    send_sealed(
        &pair,
        tunnel,
        1000,
        &[(4, datagram(b"plain")), (59, vec![0x77; 90]), (59, vec![]), (4, padded)],
    );
    assert_eq!(receive(), b"plain");
    assert_eq!(receive(), b"padded");
    let drops = pair.b.with(|data, _| data.stats(&name()).total.drops);
    let seen = drops.iter().find(|(cause, _)| *cause != "no_sa");
    assert_eq!(
        seen, None,
        "§2.6: dummies are discarded \"without indicating an error\""
    );
    // They count in the window all the same.
    send_sealed(&pair, tunnel, 1001, &[(59, vec![0x77; 90])]);
    wait_until("the dummy is known", Duration::from_secs(5), || {
        pair.b.dropped("replayed") == 1
    });

    let v6 = [&[0x60, 0, 0, 0, 0, 0, 59, 64][..], &[0; 32]].concat();
    let wrong = [
        (6, datagram(b"x")),
        (17, datagram(b"x")),
        (0, datagram(b"x")),
        (41, datagram(b"x")),
        (4, v6),
    ];
    send_sealed(&pair, tunnel, 1100, &wrong);
    wait_until("all are counted", Duration::from_secs(5), || {
        pair.b.dropped("next_header") == 5
    });
    send_sealed(&pair, tunnel, 1200, &[(4, datagram(b"x")[..19].to_vec()), (4, vec![])]);
    wait_until("both are counted", Duration::from_secs(5), || {
        pair.b.dropped("inner_malformed") == 2
    });

    // RFC 4303 §3.4.3: the audit entry has "the SPI value, date/time received, Source Address, Destination Address, the
    // Sequence Number". One of a kind: the others are only counted.
    let audits = pair.b.audits.lock().unwrap().clone();
    let of = |cause: &str| audits.iter().filter(|audit| audit.cause == cause).collect::<Vec<_>>();
    assert_eq!(
        [
            of("replayed").len(),
            of("next_header").len(),
            of("inner_malformed").len()
        ],
        [1, 1, 1]
    );
    let audit = of("next_header")[0];
    assert_eq!(audit.connection, Some(name()));
    assert_eq!(
        (audit.spi, audit.sequence),
        (Some(tunnel.entry(false, 0).inbound.spi), Some(1100))
    );
    assert_eq!(audit.remote.map(|remote| remote.ip()), Some([192, 0, 2, 1].into()));
    assert_eq!(audit.local, Some([192, 0, 2, 2].into()));
}

/// O3. RFC 4301 §6.2: an ICMP error from a router that the SA is not for passes if it is about the SA's own traffic; "If the
/// packet fails this check, the IPsec implementation MUST NOT forwarded the ICMP message to the destination."
#[test]
fn icmp_errors_are_held_against_what_they_are_about() {
    let tunnel = Tunnel::default();
    let Some(pair) = Pair::up("ICMP errors", DataOptions::default(), tunnel) else {
        return;
    };
    let socket = inside(&pair.world, "b", || {
        let socket = UdpSocket::bind("10.2.0.1:5556").unwrap();
        socket.connect("10.1.0.1:9").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    })
    .join()
    .unwrap();
    let error = |about: &[u8], to: [u8; 4]| {
        // Destination unreachable, port, from a router that no selector names.
        let mut message = [&[3, 3, 0, 0, 0, 0, 0, 0][..], about].concat();
        let sum = landbridge_proto::ip::checksum::Sum::default()
            .octets(&message)
            .checksum();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        ipv4([10, 9, 9, 9], to, 1, 0, &message)
    };
    let ours = ipv4(HOST_B, HOST_A, 17, 0, &udp(5556, 9, b"hello"));
    let others = ipv4(HOST_B, [10, 7, 7, 7], 17, 0, &udp(5556, 9, b"hello"));
    send_sealed(
        &pair,
        tunnel,
        1000,
        &[(4, error(&others, HOST_B)), (4, error(&ours, [10, 2, 0, 77]))],
    );
    wait_until("both are refused", Duration::from_secs(5), || {
        pair.b.dropped("selector_in") == 2
    });
    send_sealed(&pair, tunnel, 1002, &[(4, error(&ours, HOST_B))]);
    let told = socket.recv(&mut [0; 10]).unwrap_err();
    assert_eq!(told.kind(), std::io::ErrorKind::ConnectionRefused, "{told}");
    assert_eq!(pair.b.dropped("selector_in"), 2);
    let audits = pair.b.audits.lock().unwrap().clone();
    let inner = audits
        .iter()
        .find(|audit| audit.cause == "selector_in")
        .and_then(|audit| audit.inner)
        .unwrap();
    assert_eq!(inner.source, IpAddr::from([10, 9, 9, 9]), "this is an auditable event");
}

/// O3, the other way: an error that a router behind A sends goes by the SA of the traffic that it is about.
#[test]
fn icmp_errors_of_routers_find_their_sa() {
    let Some(pair) = Pair::up("ICMP errors out", DataOptions::default(), Tunnel::default()) else {
        return;
    };
    // A router that answers with an address that no selector names.
    pair.world.ip("a", &["addr", "add", "10.9.9.9/32", "dev", "lo"]);
    pair.world.ip("a", &["route", "add", "unreachable", "10.1.0.77/32"]);
    pair.world.must("a", &["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
    pair.world.ip("a", &["addr", "del", "10.1.0.1/24", "dev", "tun0"]);
    pair.world.ip(
        "a",
        &["route", "replace", "10.2.0.0/24", "dev", "tun0", "src", "10.9.9.9"],
    );
    let mut command = pair.world.command("b", "ping");
    let output = command
        .args(["-c1", "-W3", "-I", "10.2.0.1", "10.1.0.77"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("10.9.9.9") && text.contains("Unreachable"), "{text}");
    assert_eq!((pair.a.dropped("selector_out"), pair.b.dropped("selector_in")), (0, 0));
}

/// O4. RFC 4301 §7: a later fragment has no ports, so an SA for one port does not carry it, either way.
#[test]
fn later_fragments_are_not_for_an_sa_with_ports() {
    let tunnel = Tunnel {
        b_port: Some(5555),
        ..Tunnel::default()
    };
    let Some(pair) = Pair::up("fragments and ports", DataOptions::default(), tunnel) else {
        return;
    };
    let whole = udp(7, 5555, &[1; 64]);
    let packets = [
        (4, ipv4(HOST_A, HOST_B, 17, 0x2000, &whole[..40])),
        (4, ipv4(HOST_A, HOST_B, 17, 5, &whole[40..])),
    ];
    send_sealed(&pair, tunnel, 1000, &packets);
    wait_until("the later one is refused", Duration::from_secs(5), || {
        pair.b.dropped("selector_in") == 1
    });
    // From A's kernel: 3000 octets in fragments of the TUN's MTU.
    inside(&pair.world, "a", || {
        let socket = UdpSocket::bind("10.1.0.1:0").unwrap();
        socket.send_to(&[1; 3000], "10.2.0.1:5555").unwrap();
    })
    .join()
    .unwrap();
    wait_until("later ones stay here", Duration::from_secs(5), || {
        pair.a.dropped("selector_out") >= 2
    });
    assert_eq!(pair.b.dropped("selector_in"), 1);
}

/// K8. RFC 7296 §2.23: "dynamic address update should only be done in response to a new packet; otherwise, an attacker can
/// revert the addresses with old replayed packets."
#[test]
fn only_an_authentic_packet_that_is_newer_than_all_others_moves_the_peer() {
    let tunnel = Tunnel::default();
    let Some(pair) = Pair::up("who moved", DataOptions::default(), tunnel) else {
        return;
    };
    let moved = |pair: &Pair| {
        let reports = pair.b.reports.lock().unwrap();
        let ports = reports.iter().filter_map(|report| match report {
            SadReport::PeerMoved { remote, .. } => Some(remote.port()),
            _ => None,
        });
        ports.collect::<Vec<_>>()
    };
    let packet = || (4, ipv4(HOST_A, HOST_B, 17, 0, &udp(7, 9, b"x")));
    let bytes_in = |pair: &Pair| pair.b.with(|data, _| data.stats(&name()).total.inbound.packets);
    // Each is sent from a port of its own: new, then older but never seen before, then the first one again.
    send_sealed(&pair, tunnel, 1000, &[packet()]);
    wait_until("it is told", Duration::from_secs(5), || moved(&pair).len() == 1);
    let before = bytes_in(&pair);
    std::thread::sleep(Duration::from_millis(1100));
    send_sealed(&pair, tunnel, 900, &[packet()]);
    wait_until("it is taken", Duration::from_secs(5), || bytes_in(&pair) == before + 1);
    send_sealed(&pair, tunnel, 1000, &[packet()]);
    wait_until("it is a replay", Duration::from_secs(5), || {
        pair.b.dropped("replayed") == 1
    });
    assert_eq!(moved(&pair).len(), 1);
    send_sealed(&pair, tunnel, 1001, &[packet()]);
    wait_until("the next is told", Duration::from_secs(5), || moved(&pair).len() == 2);
    let ports = moved(&pair);
    assert!(ports[0] != ports[1] && !ports.contains(&NAT_PORT), "{ports:?}");
    // Without UDP there is no NAT, and nobody moves.
    let entry = tunnel.entry(true, 0);
    let mut sa = OutboundSa::new(&ESP_PROVIDER, &entry.outbound, [9; 32]).unwrap();
    let (_, inner) = packet();
    let mut sealed = vec![0; sa.sealed_len(inner.len())];
    let at = sa.headroom();
    sealed[at..at + inner.len()].copy_from_slice(&inner);
    sa.seal(1100, 4, inner.len(), &mut sealed);
    std::thread::sleep(Duration::from_millis(1100));
    let before = bytes_in(&pair);
    send_raw(&pair, sealed);
    wait_until("it is taken", Duration::from_secs(5), || bytes_in(&pair) == before + 1);
    assert_eq!(moved(&pair).len(), 2);
}

/// Sends an ESP packet to B as IP protocol 50, from another address of A's.
fn send_raw(pair: &Pair, packet: Vec<u8>) {
    pair.world.ip("a", &["addr", "add", "192.0.2.77/24", "dev", "wan0"]);
    inside(&pair.world, "a", move || {
        use landbridge::sys::{raw, transmit, udp};
        let steering = udp::Steering {
            shift: 16,
            bits: 6,
            workers: 1,
        };
        let options = udp::GroupOptions {
            port: 0,
            gro: false,
            buffer: 1 << 16,
        };
        let sockets = raw::open_raw(false, &options, &steering).unwrap();
        let message = transmit::Outgoing {
            start: 0,
            len: packet.len(),
            segment: packet.len(),
            local: [192, 0, 2, 77].into(),
            remote: "192.0.2.2:0".parse().unwrap(),
            tos: 0,
            dont_fragment: false,
        };
        assert_eq!(
            transmit::TransmitBatch::new(1)
                .send(&sockets[0], &packet, &[message])
                .unwrap(),
            1
        );
    })
    .join()
    .unwrap();
}
