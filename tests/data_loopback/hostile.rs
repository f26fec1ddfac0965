//! What must not come in: recorded, corrupted, stray and spoofed packets; and who moves a peer.

use crate::inner::{HOST_A, HOST_B, ipv4, send_sealed, udp};
use crate::support::static_keys::{NAT_PORT, Pair, Tunnel, name};
use crate::support::transfer::inside;
use crate::support::wait_until;
use landbridge::data::DataOptions;
use landbridge_proto::crypto::ESP_PROVIDER;
use landbridge_proto::esp::OutboundSa;
use landbridge_proto::policy::sad::{ChildSaId, Encapsulation, Path, SadReport, SadUpdate};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::mpsc::channel;
use std::time::Duration;

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
pub fn send(pair: &Pair, datagrams: Vec<Vec<u8>>) {
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
