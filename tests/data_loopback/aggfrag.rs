//! IP-TFS (RFC 9347) through two data paths.

use crate::SOME;
use crate::inner::{HOST_A, HOST_B, ipv4, send_sealed, udp};
use crate::outer::counts;
use crate::support::static_keys::{Pair, Tunnel, name};
use crate::support::transfer::{inside, one_way};
use crate::support::{World, wait_until};
use landbridge::data::DataOptions;
use landbridge_proto::crypto::{CipherSuite, Encryption, Integrity};
use landbridge_proto::esp::aggfrag::{Encoder, NEXT_HEADER};
use landbridge_proto::policy::aggfrag::{Aggfrag, Iptfs, SendMode};
use landbridge_proto::policy::sad::{ChildSaId, SadUpdate};
use landbridge_proto::wire::AggfragFlags;
use std::net::UdpSocket;
use std::time::Duration;

fn with(mode: SendMode) -> Tunnel {
    Tunnel {
        aggfrag: Some(Aggfrag {
            iptfs: Iptfs {
                mode,
                size: None,
                reorder_window: 3,
                reorder_time: Duration::from_millis(10),
                fragments: true,
                required: false,
            },
            peer: AggfragFlags(0),
        }),
        ..Tunnel::default()
    }
}

const AT_ONCE: SendMode = SendMode::Aggregate { delay: Duration::ZERO };
const SOON: SendMode = SendMode::Aggregate {
    delay: Duration::from_millis(2),
};

#[test]
fn aggregated_packets_arrive_whole_and_in_order() {
    let cbc = CipherSuite {
        encryption: Encryption::AesCbc256,
        integrity: Some(Integrity::HmacSha256_128),
    };
    for (mode, workers, owner, raw, cbc, ipv6_outside) in [
        (AT_ONCE, 1, 0, false, None, false),
        (AT_ONCE, 2, 1, false, Some(cbc), true),
        (SOON, 2, 0, true, None, false),
    ] {
        let options = DataOptions {
            workers,
            ..DataOptions::default()
        };
        let mut tunnel = Tunnel {
            owner,
            raw: (raw, raw),
            ipv6_outside,
            ..with(mode)
        };
        tunnel.suite = cbc.unwrap_or(tunnel.suite);
        let Some(pair) = Pair::up("aggregate", options, tunnel) else {
            return;
        };
        pair.carries(SOME);
    }
}

/// Datagrams from A to B, a hundred at once.
fn burst(pair: &Pair, count: usize, len: usize) {
    inside(&pair.world, "a", move || {
        let socket = UdpSocket::bind("10.1.0.1:0").unwrap();
        for number in 0..count {
            socket.send_to(&vec![7; len], "10.2.0.1:9").unwrap();
            // A TUN's queue holds 500 packets.
            if number % 100 == 99 {
                std::thread::sleep(Duration::from_millis(3));
            }
        }
    })
    .join()
    .unwrap();
}

/// What it is for: many small packets in few outer ones.
#[test]
fn small_packets_share_outer_ones() {
    let Some(pair) = Pair::up("sharing", DataOptions::default(), with(SOON)) else {
        return;
    };
    count_esp(&pair.world, 0);
    let before = pair.b.with(|data, _| data.stats(&name()).total.inbound.packets);
    burst(&pair, 2000, 36);
    let came = || pair.b.with(|data, _| data.stats(&name()).total.inbound.packets) - before;
    wait_until("most are there", Duration::from_secs(5), || came() > 1500);
    let outer = counts(&pair.world)[0];
    assert!(outer * 4 < came(), "{outer} outer packets for {} inner ones", came());
}

/// Counts what comes to B on the NAT port: all, and what has not the length given.
fn count_esp(world: &World, length: usize) {
    let rules = format!(
        "add table inet seen; \
         add chain inet seen came {{ type filter hook input priority 0; }}; \
         add rule inet seen came udp dport 4500 counter; \
         add rule inet seen came udp dport 4500 meta length != {length} counter; \
         add rule inet seen came udp dport 4500 ip dscp != 0 counter; \
         add rule inet seen came udp dport 4500 ip ecn != 0 counter"
    );
    world.must("b", &["nft", &rules]);
}

/// RFC 9347 §2.4.1: "IP-TFS sends fixed-size packets over an AGGFRAG tunnel at a constant rate", whatever goes through it.
#[test]
fn a_constant_rate_says_nothing_of_what_goes_through() {
    let mut tunnel = with(SendMode::Constant { rate: 8_000_000 });
    if let Some(agreed) = &mut tunnel.aggfrag {
        agreed.iptfs.size = Some(1000);
    }
    // A kernel that joins what it receives would show lengths of several.
    let options = DataOptions {
        udp_gso: false,
        udp_gro: false,
        ..DataOptions::default()
    };
    let Some(pair) = Pair::up("constant rate", options, tunnel) else {
        return;
    };
    pair.world.ip("a", &["link", "set", "wan0", "gso_max_segs", "1"]);
    // 1000 octets, as near as the cipher's alignment comes.
    let length = 20 + 8 + 8 + 8 + (1000 - 20 - 8 - 16 - 16) / 4 * 4 + 16;
    count_esp(&pair.world, length);
    let mut rates = Vec::new();
    for load in 0..3 {
        let before = counts(&pair.world)[0];
        let began = std::time::Instant::now();
        // Long enough that a worker that waits for a processor makes less than a tenth.
        match load {
            0 => std::thread::sleep(Duration::from_millis(1500)),
            1 => one_way(&pair.world, "a", "b", "10.2.0.1", 1_500_000),
            _ => {
                assert!(pair.ping("10.2.0.1"));
                burst(&pair, 300, 500);
                std::thread::sleep(Duration::from_millis(1500));
            }
        }
        let sent = counts(&pair.world)[0] - before;
        rates.push(sent as f64 / began.elapsed().as_secs_f64());
    }
    // 8 Mbit/s by 1000 octets.
    for rate in &rates {
        assert!((900.0..1100.0).contains(rate), "{rates:?} packets a second");
    }
    let counts = counts(&pair.world);
    assert_eq!(counts[1..], [0, 0, 0], "another length, DSCP or ECN, of {}", counts[0]);
}

/// RFC 9347 §2.2.6: "when fragmentation has been disabled on the AGGFRAG tunnel, then the treatment of arriving inner traffic
/// exactly maps to that of a non-AGGFRAG ESP tunnel."
#[test]
fn a_peer_that_takes_no_fragments_gets_none() {
    let mut tunnel = with(AT_ONCE);
    if let Some(agreed) = &mut tunnel.aggfrag {
        agreed.peer = AggfragFlags::new(false, true);
        agreed.iptfs.size = Some(700);
    }
    let Some(pair) = Pair::up("no fragments", DataOptions::default(), tunnel) else {
        return;
    };
    assert!(pair.ping("10.2.0.1"));
    let mut command = pair.world.command("a", "ping");
    command.args(["-c", "1", "-W", "1", "-M", "do", "-s", "1000", "10.2.0.1"]);
    let told = command.output().unwrap();
    assert!(!told.status.success());
    // The kernel knows now, and fragments by itself.
    assert!(
        pair.world
            .must("a", &["ip", "route", "get", "10.2.0.1"])
            .contains("mtu 6"),
        "no MTU was told"
    );
    one_way(&pair.world, "a", "b", "10.2.0.1", SOME / 10);
    assert_eq!(
        pair.b.dropped("aggfrag_malformed") + pair.b.dropped("aggfrag_incomplete"),
        0
    );
}

fn congestion(least: u64, most: u64) -> Tunnel {
    let mut tunnel = with(SendMode::Congestion { least, most });
    if let Some(agreed) = &mut tunnel.aggfrag {
        agreed.peer = AggfragFlags::new(true, false);
    }
    tunnel
}

/// Up to the rate that is the most where the path takes it, which is found by what each end tells the other.
#[test]
fn a_path_that_takes_it_gets_the_highest_rate() {
    for workers in [1, 2] {
        let options = DataOptions {
            workers,
            ..DataOptions::default()
        };
        let Some(pair) = Pair::up("congestion control", options, congestion(64_000, 30_000_000)) else {
            return;
        };
        let path = |side: &crate::support::static_keys::Side| {
            let stats = side.with(|data, _| data.stats(&name()));
            stats.by_child.values().next().and_then(|child| child.path).unwrap()
        };
        // The RTT is a mean, and 10 ms the least that counts.
        wait_until("both send as fast as they may", Duration::from_secs(10), || {
            [&pair.a, &pair.b]
                .map(path)
                .iter()
                .all(|path| (path.rate, path.rtt) == (Some(30_000_000), Some(Duration::from_millis(10))))
        });
        for side in [&pair.a, &pair.b] {
            let path = path(side);
            assert_eq!((path.sent, path.received), (0, 0), "{path:?}");
        }
        pair.carries(SOME / 5);
    }
}

/// Who only gathers tells of the path all the same, when the peer requires it and something comes.
#[test]
fn who_gathers_tells_of_the_path() {
    let mut tunnel = with(AT_ONCE);
    if let Some(agreed) = &mut tunnel.aggfrag {
        agreed.peer = AggfragFlags::new(true, false);
    }
    let Some(pair) = Pair::up("telling", DataOptions::default(), tunnel) else {
        return;
    };
    count_esp(&pair.world, 0);
    let told = || counts(&pair.world)[0];
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(told(), 0, "there was nothing to tell");
    // Each answers what the other says, from the first packet on.
    assert!(pair.ping("10.2.0.1"));
    std::thread::sleep(Duration::from_millis(500));
    assert!((8..=200).contains(&told()), "{} in half a second", told());
    pair.carries(SOME / 5);
}

/// What a rekey could cost.
const LOST: [&str; 6] = [
    "aggfrag_lost",
    "aggfrag_late",
    "aggfrag_malformed",
    "aggfrag_incomplete",
    "unknown_spi",
    "expired",
];

/// A pair takes over while packets wait, begun or not: nothing is lost.
#[test]
fn rekeys_lose_nothing() {
    let constant = SendMode::Constant { rate: 60_000_000 };
    let congested = congestion(8_000_000, 80_000_000);
    for tunnel in [with(AT_ONCE), with(SOON), with(constant), congested] {
        let mode = tunnel.aggfrag.unwrap().iptfs.mode;
        let Some(pair) = Pair::up("rekeys with IP-TFS", DataOptions::default(), tunnel) else {
            return;
        };
        // Each takes a second or so.
        let len = if matches!(mode, SendMode::Aggregate { .. }) {
            16 * SOME
        } else {
            SOME
        };
        std::thread::scope(|scope| {
            let transfer = scope.spawn(|| one_way(&pair.world, "a", "b", "10.2.0.1", len));
            let mut id = 0;
            while !transfer.is_finished() {
                id += 1;
                pair.install(tunnel, id);
                pair.activate(id, Some(id - 1));
                std::thread::sleep(Duration::from_millis(20));
                for side in [&pair.a, &pair.b] {
                    side.apply(SadUpdate::Remove(ChildSaId(id - 1)));
                }
            }
            assert!(id > 2, "too few rekeys");
        });
        for side in [&pair.a, &pair.b] {
            let lost = LOST.map(|cause| side.dropped(cause));
            assert_eq!(lost, [0; 6], "{LOST:?}, {mode:?}");
        }
    }
}

/// Outer payloads of so many octets of data blocks, filled with these packets.
fn payloads(packets: &[Vec<u8>], space: usize) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new(true, 1 << 20);
    for packet in packets {
        encoder.room(packet.len()).unwrap().copy_from_slice(packet);
    }
    let mut list = Vec::new();
    while !encoder.is_empty() {
        let mut payload = vec![0; 4 + encoder.next_len(space)];
        encoder.fill(None, &mut payload).unwrap();
        list.push(payload);
    }
    list
}

/// Each inner packet is held against the selectors; what is overtaken or lost costs only what was in it; and neither kind of
/// SA takes the other's packets (RFC 9347 §2.3).
#[test]
fn each_inner_packet_is_checked_and_each_loss_is_its_own() {
    let mut tunnel = with(AT_ONCE);
    if let Some(agreed) = &mut tunnel.aggfrag {
        // Longer than what follows each other may take to be sent.
        agreed.iptfs.reorder_time = Duration::from_millis(500);
    }
    let Some(pair) = Pair::up("inner checks", DataOptions::default(), tunnel) else {
        return;
    };
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
        String::from_utf8_lossy(&buffer[..len]).trim_end_matches('.').to_owned()
    };
    let datagram = |text: &str| ipv4(HOST_A, HOST_B, 17, 0, &udp(7, 5555, format!("{text:.<80}").as_bytes()));
    let spoofed = ipv4([10, 9, 0, 1], HOST_B, 17, 0, &udp(7, 5555, b"spoofed"));
    let together = payloads(&[datagram("one"), spoofed, datagram("two")], 1000);
    let bundle = |payload: &Vec<u8>| (NEXT_HEADER, payload.clone());
    send_sealed(&pair, tunnel, 1, &[bundle(&together[0])]);
    assert_eq!([receive(), receive()], ["one", "two"]);
    wait_until("it is counted", Duration::from_secs(5), || {
        pair.b.dropped("selector_in") == 1
    });
    // 108 octets each, 60 a payload, and not in order.
    let cut = payloads(&["a", "b", "c", "d"].map(datagram), 60);
    assert_eq!(cut.len(), 8);
    for at in [0, 2, 1, 3] {
        send_sealed(&pair, tunnel, 2 + at as u64, &[bundle(&cut[at])]);
    }
    assert_eq!([receive(), receive()], ["a", "b"]);
    // The fifth is lost: c goes with it, d comes when it was waited for long enough.
    for at in [5, 6, 7] {
        send_sealed(&pair, tunnel, 2 + at as u64, &[bundle(&cut[at])]);
    }
    assert_eq!(receive(), "d");
    assert_eq!(pair.b.dropped("aggfrag_incomplete"), 1);
    // Too late; and what is no AGGFRAG_PAYLOAD.
    send_sealed(&pair, tunnel, 6, &[bundle(&cut[4])]);
    wait_until("it is counted", Duration::from_secs(5), || {
        pair.b.dropped("aggfrag_late") == 1
    });
    send_sealed(
        &pair,
        tunnel,
        10,
        &[(4, datagram("plain")), (59, vec![0; 50]), bundle(&vec![9; 50])],
    );
    wait_until("both are counted", Duration::from_secs(5), || {
        (pair.b.dropped("next_header"), pair.b.dropped("aggfrag_malformed")) == (1, 1)
    });
    send_sealed(&pair, tunnel, 13, &[bundle(&together[0])]);
    assert_eq!([receive(), receive()], ["one", "two"]);
}

#[test]
fn a_pair_without_it_takes_no_aggfrag_payload() {
    let tunnel = Tunnel::default();
    let Some(pair) = Pair::up("without IP-TFS", DataOptions::default(), tunnel) else {
        return;
    };
    let payload = payloads(&[ipv4(HOST_A, HOST_B, 17, 0, &udp(7, 5555, b"x"))], 100);
    send_sealed(&pair, tunnel, 1, &[(NEXT_HEADER, payload[0].clone())]);
    wait_until("it is counted", Duration::from_secs(5), || {
        pair.b.dropped("next_header") == 1
    });
}
