//! Group K: NAT traversal, and peers whose address changes.

use crate::ike_pump::{SITE, side_a, side_b};
use crate::peer::Tester;
use crate::peer::messages::*;
use crate::table::Level::{Must, Should};
use crate::table::{Row, here, out, row, there};
use landbridge_proto::policy::connection::Gateway;
use landbridge_proto::policy::sad::Path;
use landbridge_proto::wire::*;
use sha1::{Digest, Sha1};
use std::net::{IpAddr, SocketAddr};

const PEER: &str = "proto/tests/ike_peer.rs";
const MATRIX: &str = "proto/tests/matrix";

pub fn rows() -> Vec<Row> {
    vec![
        row(
            ("K1", "RFC 7296 §2.23", Must),
            "both NAT_DETECTION notifies in IKE_SA_INIT, SHA-1 over SPIs, address and port",
            "o Both the IKE initiator and responder MUST include in their IKE_SA_INIT packets Notify payloads of type \
             NAT_DETECTION_SOURCE_IP and NAT_DETECTION_DESTINATION_IP.",
            here!(digests_of_both_ends),
            there(MATRIX, "nat_detection_of_all_lengths"),
        ),
        row(
            ("K2", "RFC 7296 §2.23", Must),
            "a NAT on the way: from IKE_AUTH on by port 4500, ESP in UDP",
            "An IPsec endpoint that discovers a NAT between it and its correspondent (as described below) MUST send all \
             subsequent traffic from port 4500, which NATs should not treat specially (as they might with port 500).",
            there(PEER, "behind_a_nat"),
            there("tests/netns/tunnel.rs", "behind_a_nat"),
        ),
        row(
            ("K3", "RFC 7296 §2.23", Must),
            "requests from any port are taken, and answered to it",
            "For this reason, even though IKE packets MUST be sent to and from UDP port 500 or 4500, they MUST be accepted \
             coming from any port and responses MUST be sent to the port from whence they came.",
            here!(requests_from_any_port),
            there("tests/interop/authentication.rs", "psk_behind_a_nat"),
        ),
        row(
            ("K4", "RFC 7296 §2.23", Must),
            "no ESP in UDP on port 500; in UDP it is taken at any time",
            "o Implementations MUST process received UDP-encapsulated ESP packets even when no NAT was detected.",
            there(
                "proto/tests/endpoint.rs",
                "esp_goes_without_udp_only_if_neither_end_insists_or_sees_a_nat",
            ),
            there("tests/netns/hostile.rs", "junk_is_counted_and_changes_nothing"),
        ),
        row(
            ("K5", "RFC 3948 §2.3", Must),
            "keepalives are ignored and prove nothing; other short datagrams are dropped",
            "Reception of NAT-keepalive packets MUST NOT be used to detect whether a connection is live.",
            there("proto/src/esp/encap.rs", "kinds"),
            there("tests/netns/hostile.rs", "junk_is_counted_and_changes_nothing"),
        ),
        row(
            ("K6", "RFC 3948 §4", Should),
            "who stands behind the NAT sends keepalives when idle",
            "A peer SHOULD send a NAT-keepalive packet if a need for it is detected according to [RFC3947] and if no other \
             packet to the peer has been sent in M seconds.",
            there("proto/tests/endpoint.rs", "keepalives_behind_a_nat"),
            there(PEER, "behind_a_nat"),
        ),
        row(
            ("K7", "RFC 3948 §2.1", Should),
            "outer UDP checksums: zero sent over IPv4, any taken",
            "the IPv4 UDP Checksum SHOULD be transmitted as a zero value",
            out("real checksums are sent, because the kernel's receive offload passes over datagrams without one"),
            there("tests/interop/lifecycle.rs", "a_rekey_while_data_move_loses_nothing"),
        ),
        row(
            ("K8", "RFC 7296 §2.23", Should),
            "a peer behind a NAT is followed by authentic, newer packets only",
            "A host behind a NAT SHOULD NOT do this type of dynamic address update if a validated packet has different port \
             and/or address values because it opens a possible DoS attack (such as allowing an attacker to break the \
             connection with a single packet).",
            there("tests/netns/rebind.rs", "a_nat_that_rebinds_is_followed"),
            here!(a_replayed_message_moves_nobody),
        ),
        row(
            ("K9", "RFC 7296 §2.11", Must),
            "an answer goes back the way its request came",
            "It MUST specify the address and port at which the request was received as the source address and port in the \
             response.",
            here!(answers_go_back_the_way_they_came),
            there(PEER, "without_a_nat_nobody_moves"),
        ),
        row(
            ("K10", "RFC 3948 §5.1", Must),
            "two peers behind one NAT don't take each other's traffic",
            "Implementors MUST devise ways of preventing this from occurring.",
            here!(two_peers_behind_one_nat),
            here!(a_network_belongs_to_one_peer),
        ),
        row(
            ("K11", "RFC 4555 §3.1", Must),
            "MOBIKE, if both announce it",
            "Implementations that wish to use MOBIKE for a particular IKE_SA MUST include a MOBIKE_SUPPORTED notification in \
             the IKE_AUTH exchange (in case of multiple IKE_AUTH exchanges, in the message containing the SA payload).",
            there("proto/tests/ike_mobike.rs", "the_initiator_moves"),
            there("proto/tests/ike_mobike.rs", "an_unacceptable_address"),
        ),
        row(
            ("K12", "RFC 7296 §3.10.1", Must),
            "without MOBIKE its notifies are unknown status",
            "Notify payloads with status types MAY be added to any message and MUST be ignored if not recognized.",
            here!(without_mobike_an_update_is_nothing),
            there("proto/tests/ike_mobike.rs", "a_peer_without_it"),
        ),
    ]
}

/// SHA-1(SPIi | SPIr | IP | port), by hand.
fn digest(header: &Header, address: SocketAddr) -> Vec<u8> {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let all = [&header.spi_i.0[..], &header.spi_r.0, &ip, &address.port().to_be_bytes()].concat();
    Sha1::digest(all).to_vec()
}

#[test]
fn digests_of_both_ends() {
    for (local, remote) in [
        ("198.51.100.2:500", "192.0.2.1:500"),
        ("[2001:db8::2]:500", "[2001:db8::1]:500"),
    ] {
        let path = Path::udp(local.parse().unwrap(), remote.parse().unwrap());
        let mut t = Tester::new(side_a());
        t.path = path;
        let asked = t.provoke();
        assert_eq!(asked.header.spi_r, IkeSpi::ZERO);
        let source = &asked.notify(NotifyType::NAT_DETECTION_SOURCE_IP).unwrap().data;
        assert_eq!(source, &digest(&asked.header, path.local));
        let destination = &asked.notify(NotifyType::NAT_DETECTION_DESTINATION_IP).unwrap().data;
        assert_eq!(destination, &digest(&asked.header, path.remote));
        // In an answer: to one who sent them.
        let mut t = Tester::new(side_b());
        t.path = path;
        let mut payloads = t.init_payloads();
        payloads.push(notify_with(NotifyType::NAT_DETECTION_SOURCE_IP, &[1; 20]));
        payloads.push(notify_with(NotifyType::NAT_DETECTION_DESTINATION_IP, &[1; 20]));
        let answer = t.init(&payloads);
        let source = &answer.notify(NotifyType::NAT_DETECTION_SOURCE_IP).unwrap().data;
        assert_eq!(source, &digest(&answer.header, path.local));
        let destination = &answer.notify(NotifyType::NAT_DETECTION_DESTINATION_IP).unwrap().data;
        assert_eq!(destination, &digest(&answer.header, path.remote));
        assert!(t.status()[0].nat.local && t.status()[0].nat.remote);
    }
}

#[test]
fn requests_from_any_port() {
    for port in [1, 499, 1024, 4500, 33_333, 65_535] {
        let mut t = Tester::new(side_b());
        t.path.remote.set_port(port);
        let payloads = t.init_payloads();
        let datagram = t.init_datagram(&payloads);
        let sent = t.ask(&datagram);
        assert_eq!(
            sent[0].path, t.path,
            "back to where it came from, from where it went to"
        );
        t.begin();
        assert!(t.is_up());
    }
}

#[test]
fn a_replayed_message_moves_nobody() {
    // The peer stands behind a NAT, the DUT does not.
    let mut t = Tester::new(side_b());
    let mut payloads = t.init_payloads();
    payloads.push(notify_with(NotifyType::NAT_DETECTION_SOURCE_IP, &[1; 20]));
    let header = t.sa.header(ExchangeType::IKE_SA_INIT, false, 0);
    let ours = digest(&header, t.path.local);
    payloads.push(notify_with(NotifyType::NAT_DETECTION_DESTINATION_IP, &ours));
    t.init(&payloads);
    (t.path.local, t.path.remote) = (t.address("198.51.100.2:4500"), t.address("192.0.2.1:4500"));
    let payloads = t.auth_payloads();
    t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    let nat = t.status()[0].nat;
    assert!(nat.remote && !nat.local, "{nat:?}");
    let header = t.sa.header(ExchangeType::INFORMATIONAL, false, t.sa.next);
    let old = t.seal(&header, &[]).remove(0);
    t.send(&old);
    t.sa.next += 1;
    let home = t.status()[0].path;
    // The old one again, from elsewhere: answered there, but nobody moves.
    let elsewhere = Path {
        remote: "203.0.113.9:7777".parse().unwrap(),
        ..t.path
    };
    t.out.clear();
    t.send_from(elsewhere, &old);
    assert!(t.out.iter().all(|sent| sent.path == elsewhere));
    assert_eq!(t.status()[0].path, home);
    // A forged new one: not even that.
    let header = t.sa.header(ExchangeType::INFORMATIONAL, false, t.sa.next);
    let mut forged = t.seal(&header, &[]).remove(0);
    *forged.last_mut().unwrap() ^= 1;
    t.out.clear();
    t.send_from(elsewhere, &forged);
    assert!(t.out.is_empty());
    assert_eq!(t.status()[0].path, home);
    // A new one moves the peer.
    let real = t.seal(&header, &[]).remove(0);
    t.send_from(elsewhere, &real);
    assert_eq!(t.status()[0].path, elsewhere);
}

#[test]
fn answers_go_back_the_way_they_came() {
    let mut t = Tester::up(side_b());
    let home = t.status()[0].path;
    let elsewhere = Path::udp(
        "198.51.100.77:500".parse().unwrap(),
        "203.0.113.9:7777".parse().unwrap(),
    );
    let header = t.sa.header(ExchangeType::INFORMATIONAL, false, t.sa.next);
    let datagram = t.seal(&header, &[]).remove(0);
    for _ in 0..2 {
        t.out.clear();
        t.send_from(elsewhere, &datagram);
        assert_eq!(t.out[0].path, elsewhere);
        assert_eq!(t.status()[0].path, home, "without a NAT nobody moves");
    }
}

#[test]
fn two_peers_behind_one_nat() {
    let other = |mut connection: landbridge_proto::policy::connection::Connection| {
        connection.name = "other".into();
        connection.remote.id = Some(Identification::parse("c.example").unwrap());
        connection
    };
    let mut t = Tester::with_all(vec![side_b(), other(side_b())], Gateway::default());
    t.begin();
    let first = t.sad.pairs.values().next().unwrap().clone();
    // The other: same address, another port, the same selectors, and even the same SPIs of its own.
    let mut u = crate::peer::Sa::new(t.sa.spi_i, IkeSpi::ZERO, true);
    std::mem::swap(&mut t.sa, &mut u);
    t.path.remote.set_port(1025);
    t.esp -= 1;
    let payloads = t.init_payloads();
    t.init(&payloads);
    let named = id(true, "c.example");
    let mut payloads = vec![named.clone(), t.auth(crate::peer::PSK, &named)];
    payloads.extend(t.child_offer(false));
    t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert_eq!((t.status().len(), t.pairs()), (2, 2));
    let second = t.sad.pairs.values().find(|pair| pair.id != first.id).unwrap();
    assert_ne!(first.inbound.spi, second.inbound.spi);
    assert_ne!(first.inbound.key, second.inbound.key);
    assert_eq!((&*first.connection, &*second.connection), (SITE, "other"));
    assert_eq!(first.path.remote.ip(), second.path.remote.ip());
    assert_ne!(first.path.remote, second.path.remote);
    // Each is still alive by itself.
    t.assert_alive();
    std::mem::swap(&mut t.sa, &mut u);
    t.path.remote.set_port(500);
    t.assert_alive();
}

/// One connection for any peer with the key: the second to want a network that the first has does not get it, and keeps its
/// IKE SA (RFC 7296 §1.2); the first itself may come back, and when it is gone, the other may have it.
#[test]
fn a_network_belongs_to_one_peer() {
    let mut anybody = side_b();
    anybody.remote.id = None;
    let mut t = Tester::new(anybody);
    t.begin();
    assert_eq!(t.pairs(), 1);
    let join = |t: &mut Tester, name: &str, spi: u32, network: &str, port: u16| {
        let mut before = crate::peer::Sa::new(IkeSpi(u64::from(spi).to_be_bytes()), IkeSpi::ZERO, true);
        std::mem::swap(&mut t.sa, &mut before);
        t.path.remote.set_port(port);
        let payloads = t.init_payloads();
        t.init(&payloads);
        let named = id(true, name);
        let mut payloads = vec![named.clone(), t.auth(crate::peer::PSK, &named)];
        payloads.extend(child(spi, None, network, "10.2.0.0/16"));
        let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        (before, answer)
    };
    for (spi, network) in [(0x2000, "10.1.0.0/16"), (0x2100, "10.1.128.0/17")] {
        let (first, answer) = join(&mut t, "c.example", spi, network, 1025);
        assert!(answer.has(NotifyType::TS_UNACCEPTABLE), "{network}");
        assert!(t.is_up() && t.failures().iter().any(|told| told.contains("a.example")));
        assert_eq!(t.pairs(), 1);
        t.sa = first;
    }
    t.path.remote.set_port(500);
    t.assert_alive();
    // The first comes back from elsewhere: it is the same peer, by whatever letters.
    let (first, answer) = join(&mut t, "A.example", 0x2300, "10.1.0.0/16", 1027);
    assert_eq!(answer.notifies(), []);
    // When all of it has gone, another may have the network.
    for sa in [None, Some(first)] {
        t.sa = sa.unwrap_or(t.sa);
        t.request(ExchangeType::INFORMATIONAL, &[Payload::Delete(Delete::Ike)]);
    }
    assert_eq!(t.pairs(), 0);
    let (_, answer) = join(&mut t, "c.example", 0x2400, "10.1.0.0/16", 1028);
    assert_eq!(answer.notifies(), []);
    assert_eq!(t.pairs(), 1);
}

#[test]
fn without_mobike_an_update_is_nothing() {
    for mut t in [Tester::up(side_b()), Tester::up_as_responder(side_a())] {
        let home = t.status()[0].path;
        let update = [
            notify(NotifyType::UPDATE_SA_ADDRESSES),
            notify_with(NotifyType::NAT_DETECTION_SOURCE_IP, &[1; 20]),
            notify_with(NotifyType::NAT_DETECTION_DESTINATION_IP, &[1; 20]),
            notify_with(NotifyType::COOKIE2, &[7; 16]),
            notify_with(NotifyType::ADDITIONAL_IP4_ADDRESS, &[203, 0, 113, 9]),
        ];
        let header = t.sa.header(ExchangeType::INFORMATIONAL, false, t.sa.next);
        let datagram = t.seal(&header, &update).remove(0);
        let elsewhere = Path {
            remote: "203.0.113.9:4500".parse().unwrap(),
            ..t.path
        };
        t.out.clear();
        t.send_from(elsewhere, &datagram);
        assert_eq!(t.out.len(), 1);
        assert_eq!(t.status()[0].path, home);
        assert!(t.sad.pairs.values().all(|pair| pair.path == home));
    }
}
