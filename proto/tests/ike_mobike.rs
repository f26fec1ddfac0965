//! Ends that move (RFC 4555): addresses change at either end, ways die, NATs forget, and the SAs live on.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;

use ike_pump::{Letter, Nat, Pump, side_a, side_b};
use landbridge_proto::ike::{Command, Event};
use landbridge_proto::policy::connection::Connection;
use landbridge_proto::policy::sad::{Path, SadUpdate};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
/// A's and B's first and second addresses.
const A1: &str = "192.0.2.1";
const A2: &str = "203.0.113.9";
const B1: &str = "198.51.100.2";
const B2: &str = "198.51.100.77";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn way(local: &str, remote: &str) -> Path {
    let at = |text| SocketAddr::new(ip(text), 4500);
    Path::udp(at(local), at(remote))
}

/// Two ends that speak MOBIKE, up, and told of their addresses.
fn up_with(change: impl Fn(&mut Connection), ours: [&[&str]; 2]) -> Pump {
    let (mut a, mut b) = (side_a(), side_b());
    for connection in [&mut a, &mut b] {
        connection.mobike = true;
        change(connection);
    }
    let mut pump = Pump::new(a, b);
    for (who, list) in ours.into_iter().enumerate() {
        tell(&mut pump, who, list);
    }
    pump.connect();
    pump.deliver_all();
    pump.assert_joined();
    pump
}

fn up() -> Pump {
    up_with(|_| {}, [&[A1], &[B1]])
}

/// An end's machine has these addresses now.
fn tell(pump: &mut Pump, who: usize, addresses: &[&str]) {
    let now = pump.at();
    let list = addresses.iter().map(|text| ip(text)).collect();
    pump.ends[who].handle_addresses(now, list);
    pump.drain();
}

/// Delivers what goes between addresses that are in use; the rest is lost.
fn deliver_between<'a>(list: &'a [&'a str]) -> impl FnMut(&Letter) -> bool + 'a {
    let there = |address: IpAddr, list: &[&str]| list.iter().any(|text| ip(text) == address);
    move |letter| there(letter.path.local.ip(), list) && there(letter.path.remote.ip(), list)
}

fn path_of_pairs(pump: &Pump, who: usize) -> BTreeSet<String> {
    let pairs = pump.sad[who].pairs.values();
    pairs
        .map(|pair| format!("{} {}", pair.path.local.ip(), pair.path.remote.ip()))
        .collect()
}

fn assert_at(pump: &Pump, a: &str, b: &str) {
    assert_eq!(pump.sa(0).path, way(a, b));
    assert_eq!(pump.sa(1).path, way(b, a));
    assert_eq!(path_of_pairs(pump, 0), BTreeSet::from([format!("{a} {b}")]));
    assert_eq!(path_of_pairs(pump, 1), BTreeSet::from([format!("{b} {a}")]));
    pump.assert_joined();
}

/// §3.5: the initiator's address changes: IKE SA and Child SAs move, the same ones. §3.7: "By default, the return
/// routability check SHOULD be done before updating the IPsec SAs": the responder moves its Child SAs after its own check.
#[test]
fn the_initiator_moves() {
    let mut pump = up();
    assert!(pump.saw(0, "N(MOBIKE_SUPPORTED)") && pump.sa(0).mobike && pump.sa(1).mobike);
    let before = (pump.sa(0).spi_i, pump.sa(0).children[0].spis);
    pump.ways[0] = vec![way(A2, B1)];
    tell(&mut pump, 0, &[A2]);
    assert_eq!(pump.sa(0).path, way(A2, B1));
    assert_eq!(
        path_of_pairs(&pump, 0),
        BTreeSet::from([format!("{A2} {B1}")]),
        "the peer's address is proven"
    );
    assert!(pump.saw(
        0,
        "INFORMATIONAL request 2 [N(UPDATE_SA_ADDRESSES) N(NAT_DETECTION_SOURCE_IP) N(NAT_DETECTION_DESTINATION_IP) N(COOKIE2)]"
    ));
    pump.deliver(0);
    assert_eq!(pump.sa(1).path, way(B1, A2), "the IKE SA follows at once");
    assert_eq!(
        path_of_pairs(&pump, 1),
        BTreeSet::from([format!("{B1} {A1}")]),
        "the Child SAs wait for the check"
    );
    assert!(pump.saw(
        1,
        "INFORMATIONAL response 2 [N(NAT_DETECTION_SOURCE_IP) N(NAT_DETECTION_DESTINATION_IP) N(COOKIE2)]"
    ));
    pump.deliver_all();
    assert!(pump.saw(1, "INFORMATIONAL request 0 [N(COOKIE2)]"));
    assert_at(&pump, A2, B1);
    assert_eq!((pump.sa(0).spi_i, pump.sa(0).children[0].spis), before);
    let moved = |event: &Event| matches!(event, Event::Moved { reason, .. } if reason.contains("is gone"));
    assert!(pump.events[0].iter().any(moved));
    // And back: that address is known.
    pump.ways[0] = vec![way(A1, B1)];
    tell(&mut pump, 0, &[A1]);
    pump.deliver(0);
    assert_eq!(path_of_pairs(&pump, 1), BTreeSet::from([format!("{B1} {A1}")]));
    pump.deliver_all();
    assert_at(&pump, A1, B1);
}

/// Any one message of a move may be lost.
#[test]
fn any_message_of_a_move_may_be_lost() {
    for lost in 0..5 {
        let mut pump = up();
        pump.ways[0] = vec![way(A2, B1)];
        tell(&mut pump, 0, &[A2]);
        let mut count = 0;
        pump.run_for(40 * SECOND, |_| {
            count += 1;
            count != lost + 1
        });
        assert_at(&pump, A2, B1);
    }
}

/// §3.5: "If there are outstanding IKEv2 requests ..., continues retransmitting them using the addresses in the IKE_SA (the
/// new addresses)", at either end.
#[test]
fn requests_in_flight_go_along() {
    for who in 0..2 {
        let mut pump = up();
        pump.rekey_child(who);
        pump.wire.clear();
        pump.ways[0] = vec![way(A2, B1)];
        tell(&mut pump, 0, &[A2]);
        pump.run_for(30 * SECOND, deliver_between(&[A2, B1]));
        assert_at(&pump, A2, B1);
        assert!(
            pump.events[who]
                .iter()
                .filter(|e| matches!(e, Event::ChildUp(_)))
                .count()
                == 2,
            "the rekey is done too"
        );
    }
}

/// The address changes again before the first change is through: "starts again from the first step (and ignores responses
/// to this UPDATE_SA_ADDRESSES request)".
#[test]
fn twice_in_a_row() {
    let mut pump = up();
    pump.ways[0] = vec![way(A2, B1)];
    tell(&mut pump, 0, &[A2]);
    let first = pump.wire.remove(0);
    pump.ways[0] = vec![way("203.0.113.10", B1)];
    tell(&mut pump, 0, &["203.0.113.10"]);
    // It was not lost, only slow.
    pump.hand(&first);
    pump.run_for(30 * SECOND, deliver_between(&["203.0.113.10", B1]));
    assert_at(&pump, "203.0.113.10", B1);
}

/// §3.10: the way in use dies without a word; the peer has another address: the request in flight goes there as well, and
/// the SA follows the way by which it is answered.
#[test]
fn another_way_is_found_when_one_dies() {
    for (ways, at) in [
        (vec![way(A1, B1), way(A1, B2)], (A1, B2)),
        (vec![way(A1, B1), way(A2, B1)], (A2, B1)),
        (vec![way(A1, B1), way(A2, B1), way(A1, B2), way(A2, B2)], (A2, B2)),
    ] {
        let mut pump = up_with(|c| c.dpd_delay = Some(10 * SECOND), [&[A1, A2], &[B1, B2]]);
        assert!(pump.saw(1, "N(ADDITIONAL_IP4_ADDRESS)"), "{:?}", pump.lines(1));
        pump.ways[0] = ways;
        pump.run_for(60 * SECOND, deliver_between(&[at.0, at.1]));
        assert_at(&pump, at.0, at.1);
        assert_eq!(pump.ike_downs(0).len() + pump.ike_downs(1).len(), 0);
    }
}

/// §3.6: the responder's address changes: it says so from the new one, and the initiator decides.
#[test]
fn the_responder_moves() {
    let mut pump = up();
    pump.ways = [vec![way(A1, B2)], vec![way(B2, A1)]];
    tell(&mut pump, 1, &[B2]);
    assert!(pump.saw(1, "INFORMATIONAL request 0 [N(NO_ADDITIONAL_ADDRESSES) N(COOKIE2)]"));
    assert!(!pump.said(1, "UPDATE_SA_ADDRESSES"), "only the initiator updates");
    pump.run_for(20 * SECOND, deliver_between(&[A1, B2]));
    assert!(pump.said(0, "UPDATE_SA_ADDRESSES"));
    assert_at(&pump, A1, B2);
}

/// §3.6: a further address comes and goes: the list is told, "the complete list is sent every time".
#[test]
fn further_addresses_are_told() {
    let mut pump = up();
    tell(&mut pump, 1, &[B1, B2]);
    pump.deliver_all();
    assert!(pump.saw(1, "INFORMATIONAL request 0 [N(ADDITIONAL_IP4_ADDRESS) N(COOKIE2)]"));
    tell(&mut pump, 1, &[B1]);
    pump.deliver_all();
    assert!(pump.saw(1, "INFORMATIONAL request 1 [N(NO_ADDITIONAL_ADDRESSES) N(COOKIE2)]"));
    tell(&mut pump, 1, &[B1]);
    assert!(pump.wire.is_empty(), "nothing changed, nothing is told");
    // A network behind us is none of the peer's business.
    tell(&mut pump, 1, &[B1, "10.2.0.1"]);
    assert!(pump.wire.is_empty());
    assert_at(&pump, A1, B1);
}

/// The initiator of the first IKE SA decides, whoever rekeyed it since (§2.1: "in a series of possibly several rekeyed
/// IKE_SAs").
#[test]
fn after_a_rekey_of_the_ike_sa() {
    for who in 0..2 {
        let mut pump = up();
        pump.command(
            who,
            Command::RekeyIke {
                connection: ike_pump::SITE.into(),
            },
        );
        pump.run_for(5 * SECOND, |_| true);
        assert!(pump.sa(who).initiator);
        pump.ways[0] = vec![way(A2, B1)];
        tell(&mut pump, 0, &[A2]);
        pump.run_for(20 * SECOND, deliver_between(&[A2, B1]));
        assert!(pump.said(0, "UPDATE_SA_ADDRESSES") && !pump.said(1, "UPDATE_SA_ADDRESSES"));
        assert_at(&pump, A2, B1);
    }
}

/// §3.8: a NAT forgets: the liveness check of the end behind it carries NAT detection, and what the other end sees has
/// changed: UPDATE_SA_ADDRESSES. "The host not behind a NAT MUST NOT use these dynamic updates for IKEv2 packets".
#[test]
fn a_nat_forgets() {
    let nat = |shift| {
        Some(Nat {
            public: "203.0.113.7".parse().unwrap(),
            shift,
        })
    };
    let (mut a, mut b) = (side_a(), side_b());
    (a.mobike, b.mobike) = (true, true);
    a.dpd_delay = Some(10 * SECOND);
    let mut pump = Pump::new(a, b);
    pump.nat = nat(10_000);
    pump.connect();
    pump.deliver_all();
    pump.assert_joined();
    // The first check may lead to one update (the digests of IKE_SA_INIT were about other SPIs), the next to none.
    pump.run_for(35 * SECOND, |_| true);
    let updates = |pump: &Pump| {
        pump.lines(0)
            .iter()
            .filter(|line| line.contains("request") && line.contains("UPDATE_SA"))
            .count()
    };
    assert!(updates(&pump) <= 1, "{:?}", pump.lines(0));
    let before = updates(&pump);
    pump.nat = nat(20_000);
    while pump.wire.is_empty() {
        pump.tick();
    }
    pump.deliver(0);
    assert_eq!(
        pump.sa(1).path.remote,
        "203.0.113.7:14500".parse().unwrap(),
        "not by an IKE message without UPDATE"
    );
    pump.deliver_all();
    assert_eq!(updates(&pump), before + 1);
    let moved = "203.0.113.7:24500".parse().unwrap();
    assert_eq!(pump.sa(1).path.remote, moved);
    assert!(pump.sad[1].pairs.values().all(|pair| pair.path.remote == moved));
    pump.assert_joined();
}

/// What would lead the gateways' own packets into the tunnel is refused, and the SA stays where it was.
#[test]
fn an_unacceptable_address() {
    let mut pump = up();
    pump.ways[0] = vec![way("10.1.0.1", B1)];
    tell(&mut pump, 0, &[A1, "10.1.0.1"]);
    pump.deliver_all();
    assert!(pump.saw(0, "N(UNACCEPTABLE_ADDRESSES)"), "{:?}", pump.lines(0));
    assert!(
        pump.failures(0)
            .iter()
            .any(|failure| failure.verdict.contains("UNACCEPTABLE_ADDRESSES"))
    );
    pump.ways[0] = vec![way(A1, B1)];
    pump.run_for(20 * SECOND, |_| true);
    assert_at(&pump, A1, B1);
}

/// The peer does not speak it (K12): what is left is to begin anew, at once.
#[test]
fn a_peer_without_it() {
    let (mut a, b) = (side_a(), side_b());
    a.mobike = true;
    let mut pump = Pump::new(a, b);
    tell(&mut pump, 0, &[A1]);
    pump.connect();
    pump.deliver_all();
    assert!(!pump.sa(0).mobike && !pump.sa(1).mobike);
    pump.addresses[0] = SocketAddr::new(ip(A2), 500);
    pump.ways[0] = vec![way(A2, B1)];
    tell(&mut pump, 0, &[A2]);
    assert!(!pump.saw(0, "UPDATE_SA_ADDRESSES"));
    assert!(pump.ike_downs(0)[0].contains("does not speak MOBIKE"));
    pump.run_for(10 * SECOND, deliver_between(&[A2, B1]));
    assert_at(&pump, A2, B1);
}

/// ... but behind a NAT the peer follows what is authentic (RFC 7296 §2.23), and the SA lives on.
#[test]
fn a_peer_without_it_behind_a_nat() {
    let mut pump = Pump::new(side_a(), side_b());
    pump.nat = Some(Nat {
        public: "203.0.113.7".parse().unwrap(),
        shift: 10_000,
    });
    tell(&mut pump, 0, &[A1]);
    pump.connect();
    pump.deliver_all();
    pump.nat = Some(Nat {
        public: "203.0.113.8".parse().unwrap(),
        shift: 10_000,
    });
    pump.ways[0] = vec![way(A2, B1)];
    tell(&mut pump, 0, &[A2]);
    pump.deliver_all();
    assert_eq!(pump.ike_downs(0).len(), 0);
    assert_eq!(pump.sa(1).path.remote, "203.0.113.8:14500".parse().unwrap());
    pump.assert_joined();
}

/// No address, no way: nothing is given up before the peer is found dead.
#[test]
fn without_any_way_it_waits() {
    let mut pump = up();
    tell(&mut pump, 0, &[]);
    pump.ways[0] = vec![];
    tell(&mut pump, 0, &[A2]);
    assert!(pump.is_up(0) && pump.wire.is_empty());
    assert!(
        !pump.events[0]
            .iter()
            .any(|event| matches!(event, Event::Sad(SadUpdate::Remove(_))))
    );
    pump.ways[0] = vec![way(A2, B1)];
    tell(&mut pump, 0, &[A2]);
    pump.deliver_all();
    assert_at(&pump, A2, B1);
}
