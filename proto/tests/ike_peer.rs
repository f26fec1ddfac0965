//! The peer comes and goes: lost messages, restarts, address changes, both ends that begin, and what strangers send.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;

use ike_pump::{Letter, Nat, Pump, SITE, side_a, side_b};
use landbridge_proto::ike::{Command, Event};
use landbridge_proto::policy::connection::{StartAction, Target};
use landbridge_proto::policy::sad::{SadReport, SadUpdate};
use landbridge_proto::policy::selector;
use landbridge_proto::wire::ExchangeType;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use std::collections::BTreeSet;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn everything(_: &Letter) -> bool {
    true
}

/// Any one message of the handshake lost: retransmission brings it about, once.
#[test]
fn any_message_of_the_handshake_may_be_lost() {
    for lost in 0..4 {
        let mut pump = Pump::new(side_a(), side_b());
        pump.connect();
        let mut count = 0;
        pump.run_for(30 * SECOND, |_| {
            count += 1;
            count != lost + 1
        });
        pump.assert_joined();
        assert_eq!(
            (pump.sad[0].pairs.len(), pump.sad[1].pairs.len()),
            (1, 1),
            "message {lost}"
        );
        assert_eq!((pump.status(0).len(), pump.status(1).len()), (1, 1));
    }
}

/// The peer is not there yet: tried again for ever, and nothing is left over.
#[test]
fn a_peer_that_comes_late() {
    let mut pump = Pump::new(side_a(), side_b());
    pump.connect();
    pump.run_for(600 * SECOND, |_| false);
    assert!(pump.failures(0).len() >= 5, "{:?}", pump.failures(0));
    assert!(pump.failures(0)[0].hint.is_some());
    pump.run_for(150 * SECOND, everything);
    pump.assert_joined();
    assert_eq!(pump.status(0).len(), 1);
}

/// §2.4: the initiator restarts: INITIAL_CONTACT clears the old SA at once, without a word on the wire about it.
#[test]
fn the_initiator_restarts() {
    let mut pump = Pump::up(side_a(), side_b());
    pump.restart(0, 77);
    pump.connect();
    pump.deliver_all();
    pump.assert_joined();
    assert_eq!(pump.sad[1].pairs.len(), 1);
    assert_eq!(pump.ike_downs(1).len(), 1);
    assert!(pump.ike_downs(1)[0].contains("INITIAL_CONTACT"));
    assert!(!pump.saw(1, "[D]"));
}

/// The responder restarts: the liveness check goes unanswered, then the initiator begins anew. An unprotected
/// INVALID_IKE_SPI is a hint at most (§2.4).
#[test]
fn the_responder_restarts() {
    let mut a = side_a();
    a.dpd_delay = Some(10 * SECOND);
    let mut pump = Pump::up(a, side_b());
    pump.restart(1, 78);
    pump.run_for(15 * SECOND, everything);
    assert!(pump.is_up(0), "hints don't kill an SA");
    pump.run_for(120 * SECOND, everything);
    pump.assert_joined();
    assert!(
        pump.ike_downs(0)[0].contains("does not answer"),
        "{:?}",
        pump.ike_downs(0)
    );
}

/// §2.4, checklist J7: whoever hears from the peer need not ask.
#[test]
fn no_liveness_check_while_traffic_comes_in() {
    let mut a = side_a();
    a.dpd_delay = Some(10 * SECOND);
    let mut pump = Pump::up(a, side_b());
    let id = pump.sad[0].active["net"];
    for _ in 0..20 {
        pump.run_for(5 * SECOND, everything);
        pump.report(0, SadReport::Alive(id));
    }
    assert!(!pump.saw(0, "INFORMATIONAL"), "{:?}", pump.lines(0));
    pump.run_for(25 * SECOND, everything);
    assert!(pump.saw(0, "INFORMATIONAL request 2 []"), "then it does");
    pump.assert_joined();
}

/// §2.23: behind a NAT IKE_AUTH goes to port 4500 from port 4500, ESP goes in UDP there, and the side behind the NAT keeps
/// the mapping alive (RFC 3948 §4).
#[test]
fn behind_a_nat() {
    let mut pump = Pump::new(side_a(), side_b());
    pump.nat = Some(Nat {
        public: "203.0.113.7".parse().unwrap(),
        shift: 10_000,
    });
    pump.connect();
    pump.deliver_all();
    pump.assert_joined();
    let (a, b) = (pump.sa(0), pump.sa(1));
    assert!(a.nat.local && !a.nat.remote && b.nat.remote && !b.nat.local);
    assert_eq!((a.path.local.port(), a.path.remote.port()), (4500, 4500));
    assert_eq!(b.path.remote, "203.0.113.7:14500".parse().unwrap());
    pump.run_for(200 * SECOND, everything);
    assert!(pump.keepalives[0] >= 9, "{:?}", pump.keepalives);
    assert_eq!(pump.keepalives[1], 0);
    // RFC 3948 §4: none while something else is sent.
    let (before, id) = (pump.keepalives[0], pump.sad[0].active["net"]);
    for _ in 0..20 {
        pump.run_for(10 * SECOND, everything);
        pump.report(0, SadReport::Sent(id));
    }
    assert_eq!(pump.keepalives[0], before);
}

/// §2.23, checklist K8, K9: the NAT forgets its mapping: the new address is taken from an authentic, new request, never
/// from a repeated one; the answer goes where the request came from.
#[test]
fn the_peer_behind_a_nat_moves() {
    let nat = |shift| {
        Some(Nat {
            public: "203.0.113.7".parse().unwrap(),
            shift,
        })
    };
    let mut pump = Pump::new(side_a(), side_b());
    pump.nat = nat(10_000);
    pump.connect();
    let mut old_request = None;
    while !pump.wire.is_empty() {
        let letter = pump.deliver(0);
        if letter.to == 1 {
            old_request = Some(letter);
        }
    }
    pump.assert_joined();
    // An old request, from elsewhere: answered there as it was, and nothing else.
    let mut replayed = old_request.unwrap();
    replayed.path.remote = "203.0.113.99:666".parse().unwrap();
    pump.hand(&replayed);
    assert_eq!(pump.wire.remove(0).path.local, replayed.path.remote);
    assert_eq!(pump.sa(1).path.remote, "203.0.113.7:14500".parse().unwrap());
    // A new one, by another mapping.
    pump.nat = nat(20_000);
    pump.rekey_child(0);
    pump.deliver_all();
    let moved = "203.0.113.7:24500".parse().unwrap();
    assert_eq!(pump.sa(1).path.remote, moved);
    assert!(pump.sad[1].pairs.values().all(|pair| pair.path.remote == moved));
    pump.assert_joined();
    // The data path sees it first.
    pump.nat = nat(30_000);
    let id = pump.sad[1].active["net"];
    let moved = "203.0.113.7:34500".parse().unwrap();
    pump.report(1, SadReport::PeerMoved { id, remote: moved });
    assert_eq!(pump.sa(1).path.remote, moved);
    assert!(
        pump.events[1]
            .iter()
            .any(|e| matches!(e, Event::Sad(SadUpdate::Move { path, .. }) if path.remote == moved))
    );
    pump.rekey_child(1);
    pump.deliver_all();
    pump.run_for(20 * SECOND, everything);
    pump.assert_joined();
}

/// Without a NAT the peer has an address, and nobody moves it by forging where a message came from.
#[test]
fn without_a_nat_nobody_moves() {
    let mut pump = Pump::up(side_a(), side_b());
    let before = pump.sa(1).path;
    pump.rekey_child(0);
    pump.wire[0].path.remote = "203.0.113.99:4500".parse().unwrap();
    pump.deliver(0);
    assert_eq!(
        pump.wire[0].path.local,
        "203.0.113.99:4500".parse().unwrap(),
        "§2.11: answered to where it came from"
    );
    assert_eq!(pump.sa(1).path, before);
}

/// Both ends begin at the same time: however the messages fall, traffic can flow both ways in the end, and no end sends by
/// an SA that the other has forgotten.
#[test]
fn both_ends_begin() {
    let mut both = 0;
    for seed in 0..200 {
        let mut b = side_b();
        let mut child = landbridge_proto::policy::connection::Child::clone(&b.children["net"]);
        child.start_action = StartAction::Start;
        b.children.insert("net".into(), std::sync::Arc::new(child));
        let mut pump = Pump::with(side_a(), b, seed, Default::default());
        let mut rng = ChaCha8Rng::seed_from_u64(u64::from(seed));
        pump.connect();
        let target = Target {
            local: pump.addresses[1],
            remote: pump.addresses[0],
        };
        let up = Command::Up {
            connection: SITE.into(),
            child: None,
            target,
        };
        pump.command(1, up);
        while !pump.wire.is_empty() {
            let index = rng.next_u32() as usize % pump.wire.len();
            pump.deliver(index);
        }
        // Before either is deleted both have all children.
        both += usize::from(
            pump.stages()[0]
                .iter()
                .filter(|(_, stage)| *stage == "established")
                .count()
                == 2,
        );
        pump.run_for(60 * SECOND, everything);
        pump.joined()
            .unwrap_or_else(|problem| panic!("seed {seed}: {problem} {:#?}", pump.lines(0)));
        let outage = |event: &&Event| matches!(event, Event::Sad(SadUpdate::DeactivateOutbound(_)));
        assert!(!pump.events.iter().flatten().any(|event| outage(&event)), "seed {seed}");
        let spis = pump
            .stages()
            .map(|all| all.iter().map(|(spi, _)| *spi).collect::<BTreeSet<_>>());
        assert_eq!((spis[0].len(), &spis[0]), (1, &spis[1]), "seed {seed}");
        let pairs = [0, 1].map(|who| pump.sad[who].pairs.len());
        assert_eq!(pairs, [1, 1], "seed {seed}: nothing is left over");
    }
    assert!(both > 0, "two SAs came up at least once");
}

/// Before IKE_AUTH is done there is nothing but IKE_AUTH, and after it there is no other (checklist: every message in every
/// state).
#[test]
fn no_exchange_at_the_wrong_time() {
    let mut pump = Pump::new(side_a(), side_b());
    pump.connect();
    pump.deliver(0);
    pump.deliver(0);
    let auth = pump.wire[0].clone();
    for exchange in [
        ExchangeType::CREATE_CHILD_SA,
        ExchangeType::INFORMATIONAL,
        ExchangeType(99),
    ] {
        let mut wrong = auth.clone();
        wrong.octets[18] = exchange.0;
        pump.hand(&wrong);
        assert_eq!(pump.wire.len(), 1, "{exchange} is answered");
    }
    pump.deliver_all();
    pump.assert_joined();
    let mut late = auth;
    late.octets[23] = 2;
    pump.hand(&late);
    assert!(pump.wire.is_empty());
    pump.assert_joined();
}

/// §2.5: a request of a later major version is answered with INVALID_MAJOR_VERSION, an unknown critical payload with
/// UNSUPPORTED_CRITICAL_PAYLOAD, each once, small, unprotected, and without state; a response is never answered.
#[test]
fn what_a_stranger_is_told_about_what_we_do_not_speak() {
    let mut pump = Pump::new(side_a(), side_b());
    pump.connect();
    let good = pump.wire.remove(0);
    let answer_to = |pump: &mut Pump, octets: Vec<u8>| {
        let letter = Letter { octets, ..good.clone() };
        pump.hand(&letter);
        let answer = pump.wire.pop();
        assert!(pump.wire.is_empty() && pump.status(1).is_empty());
        answer.map(|letter| letter.octets)
    };
    let mut later = good.octets.clone();
    later[17] = 0x30;
    let answer = answer_to(&mut pump, later.clone()).expect("SHOULD be told");
    assert_eq!(
        (answer[17], answer[19] & 0x20, &answer[..8]),
        (0x20, 0x20, &good.octets[..8])
    );
    assert_eq!(answer[28 + 6..28 + 8], 5_u16.to_be_bytes());
    later[19] |= 0x20;
    assert_eq!(answer_to(&mut pump, later), None, "a response is not answered");

    let mut critical = good.octets.clone();
    let first = std::mem::replace(&mut critical[16], 127);
    critical.splice(28..28, [first, 0x80, 0, 4]);
    let length = u32::try_from(critical.len()).unwrap();
    critical[24..28].copy_from_slice(&length.to_be_bytes());
    let answer = answer_to(&mut pump, critical).expect("MUST be told");
    // "The notification data contains the one-octet payload type."
    assert_eq!(
        (&answer[28 + 6..28 + 8], &answer[28 + 8..]),
        (&1_u16.to_be_bytes()[..], &[127][..])
    );
    pump.hand(&good);
    pump.deliver_all();
    pump.assert_joined();
}

/// An acquire of the data path asks for the connection once it is idle.
#[test]
fn a_trap_brings_the_connection_up() {
    let mut a = side_a();
    let mut child = landbridge_proto::policy::connection::Child::clone(&a.children["net"]);
    child.start_action = StartAction::Trap;
    a.children.insert("net".into(), std::sync::Arc::new(child));
    let mut pump = Pump::new(a, side_b());
    let acquire = SadReport::Acquire {
        source: "10.1.0.1".parse().unwrap(),
        destination: "10.2.0.1".parse().unwrap(),
    };
    pump.report(0, acquire);
    pump.run_for(SECOND, everything);
    pump.assert_joined();
    let asked = |pump: &Pump| {
        pump.events[0]
            .iter()
            .filter(|e| matches!(e, Event::NeedTarget { .. }))
            .count()
    };
    assert_eq!(asked(&pump), 1);
    // The IKE SA is up, and the child is not: it alone is asked for.
    pump.down(1, Some("net"));
    pump.run_for(SECOND, everything);
    if pump.sa(0).children.is_empty() {
        pump.report(0, acquire);
    }
    pump.run_for(SECOND, everything);
    pump.assert_joined();
    assert_eq!(asked(&pump), 1);
    // A path by which nothing of ours goes.
    let elsewhere = SadReport::Acquire {
        source: "10.1.0.1".parse().unwrap(),
        destination: "192.0.2.200".parse().unwrap(),
    };
    pump.report(0, elsewhere);
    assert_eq!(asked(&pump), 1);
}

/// Checklist J6, §2.4: "an endpoint MUST NOT conclude that the other endpoint has failed based on any routing information
/// (e.g., ICMP messages) or IKE messages that arrive without cryptographic protection (e.g., Notify messages complaining
/// about unknown SPIs)": whoever forges them brings about one liveness check a minute, and no more.
#[test]
fn forged_complaints_about_spis() {
    let mut pump = Pump::up(side_a(), side_b());
    let mut stranger = Pump::new(side_a(), side_b());
    for who in 0..2 {
        // A true one, as an end without state sends it.
        pump.rekey_child(1 - who);
        let request = pump.wire.remove(0);
        stranger.ends[who].handle_datagram(stranger.at(), request.path, &request.octets);
        let mut octets = Vec::new();
        while stranger.ends[who].poll_event().is_some() {}
        stranger.ends[who].poll_transmit(&mut octets).unwrap();
        pump.hand(&request);
        pump.deliver_all();
        let complaint = Letter {
            to: 1 - who,
            path: ike_pump::reversed(request.path),
            octets,
        };
        pump.hand(&complaint);
        assert_eq!(pump.wire.len(), 1, "it asks");
        assert!(pump.saw(1 - who, "INFORMATIONAL request"));
        pump.deliver_all();
        for _ in 0..100 {
            pump.hand(&complaint);
            pump.run_for(SECOND / 4, everything);
            assert!(pump.wire.is_empty());
        }
        pump.run_for(40 * SECOND, everything);
        pump.hand(&complaint);
        assert_eq!(pump.wire.len(), 1, "and later again");
        pump.deliver_all();
        pump.assert_joined();
    }
}

/// Checklist L2, §1.5: ESP with an SPI that is not ours comes from a peer with whom there is an IKE SA: it is told within
/// that, once a minute.
#[test]
fn the_peer_is_told_of_unknown_spis() {
    let mut pump = Pump::up(side_a(), side_b());
    let (local, remote) = (pump.sa(1).path.local.ip(), pump.sa(1).path.remote);
    for spi in 5000..5100 {
        pump.report(1, SadReport::UnknownSpi { spi, local, remote });
        pump.deliver_all();
    }
    let told = |pump: &Pump| {
        pump.lines(0)
            .iter()
            .filter(|line| line.contains("[N(INVALID_SPI)]"))
            .count()
    };
    assert_eq!(told(&pump), 1);
    // Nobody else is.
    pump.run_for(61 * SECOND, everything);
    let elsewhere = "203.0.113.99:4500".parse().unwrap();
    pump.report(
        1,
        SadReport::UnknownSpi {
            spi: 5000,
            local,
            remote: elsewhere,
        },
    );
    assert!(pump.wire.is_empty());
    pump.assert_joined();
}

/// A connection whose IKE_AUTH is large: many selectors.
fn large() -> Pump {
    let (mut a, mut b) = (side_a(), side_b());
    for (connection, ours, theirs) in [(&mut a, 1, 2), (&mut b, 2, 1)] {
        let net = std::sync::Arc::make_mut(connection.children.get_mut("net").unwrap());
        let list = |site: u8| {
            let texts = (0..60).map(|n| format!("10.{site}.{n}.0/25"));
            texts.map(|text| selector::parse(&text).unwrap()).collect::<Vec<_>>()
        };
        (net.local_ts, net.remote_ts) = (list(ours), list(theirs));
    }
    Pump::new(a, b)
}

/// Checklist M8, RFC 7383 §2.5.2: "it MUST start from larger values and refragment the original message, using the next
/// smaller value of the threshold if it did not receive a response in a reasonable time after several retransmissions".
#[test]
fn fragments_become_smaller_on_a_narrow_way() {
    let mut pump = large();
    pump.connect();
    let mut sizes = [Vec::new(), Vec::new()];
    pump.run_for(30 * SECOND, |letter| {
        sizes[letter.to].push(letter.octets.len());
        letter.octets.len() + 32 <= 576
    });
    assert!(pump.is_up(0) && pump.is_up(1), "{:?}", pump.lines(0));
    let [answers, asked] = &sizes;
    // Twice as configured, then smaller, and no larger again.
    let large: Vec<usize> = asked.iter().copied().filter(|len| *len + 32 > 576).collect();
    assert_eq!(large.len(), 4, "{asked:?}");
    assert!(
        large.iter().max() == Some(&(1280 - 32)) && asked[1..5] == large,
        "{asked:?}"
    );
    // The answer goes as the request came.
    assert!(answers.iter().all(|len| len + 32 <= 576), "{answers:?}");
    // "In subsequent exchanges, the node should start with the current value of the fragmentation threshold."
    pump.rekey_child(0);
    pump.run_for(SECOND, |letter| {
        assert!(letter.octets.len() + 32 <= 576);
        true
    });
    pump.assert_joined();
}

/// §2.6.1: fragments of a request that was answered, cut anew because the answer was lost, "MUST only trigger a
/// retransmission of the response message"; and only the first of them does.
#[test]
fn a_request_cut_anew_is_answered_once_more() {
    let mut pump = large();
    pump.connect();
    let (mut fragments, mut answers) = (Vec::new(), 0);
    pump.run_for(30 * SECOND, |letter| {
        if letter.to == 1 && letter.exchange() == ExchangeType::IKE_AUTH {
            fragments.push(letter.octets.len());
        }
        // The answers are lost until the request comes in smaller pieces.
        let lost = letter.to == 0 && letter.exchange() == ExchangeType::IKE_AUTH && fragments.len() <= 4;
        answers += usize::from(letter.to == 0 && !lost);
        !lost
    });
    assert!(fragments.len() > 4, "{fragments:?}");
    pump.assert_joined();
    assert_eq!(pump.status(1).len(), 1);
    // The answer to IKE_SA_INIT, and the fragments of the one to IKE_AUTH.
    assert_eq!(answers, 1 + 2);
}
