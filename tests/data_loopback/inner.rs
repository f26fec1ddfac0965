//! The inner packet: next headers, ICMP errors, fragments.

use crate::hostile::send;
use crate::support::static_keys::{Pair, Tunnel, name};
use crate::support::transfer::inside;
use crate::support::wait_until;
use landbridge::data::DataOptions;
use landbridge_proto::crypto::ESP_PROVIDER;
use landbridge_proto::esp::OutboundSa;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

/// An IPv4 packet from one address to another. `fragment` is the word of flags and offset.
pub fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
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
pub fn udp(source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
    let words = [source, destination, 8 + data.len() as u16, 0];
    let mut octets: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    octets.extend(data);
    octets
}

pub const HOST_A: [u8; 4] = [10, 1, 0, 1];
pub const HOST_B: [u8; 4] = [10, 2, 0, 1];

/// Seals packets as A would, with the next headers given, and sends them to B one by one.
pub fn send_sealed(pair: &Pair, tunnel: Tunnel, first: u64, packets: &[(u8, Vec<u8>)]) {
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
