//! Lifetimes and refusals (RFC 7296 §1.3, §2.8, §2.25): rekeys by time and by traffic, jittered; a peer that refuses them, for
//! a while or for good; what the operator is told.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;
mod peer;

use ike_pump::{Letter, Pump, side_a, side_b};
use landbridge_proto::ike::Event;
use landbridge_proto::policy::connection::{Child, Connection};
use landbridge_proto::policy::proposal::EspProposal;
use landbridge_proto::policy::sad::{SadReport, TrafficLimits};
use landbridge_proto::wire::{ExchangeType, NotifyType};
use peer::Tester;
use peer::messages::{delete_children, deleted};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn everything(_: &Letter) -> bool {
    true
}

fn with(mut connection: Connection, change: impl Fn(&mut Child)) -> Connection {
    let mut child = Child::clone(&connection.children["net"]);
    change(&mut child);
    connection.children.insert("net".into(), Arc::new(child));
    connection
}

fn esp(connection: Connection, words: &str) -> Connection {
    with(connection, |child| {
        child.esp_proposals = vec![EspProposal::parse(words).unwrap()]
    })
}

/// §2.8.1: "the timing of rekeying requests SHOULD be jittered (delayed by a random amount of time after the need for rekeying
/// is noticed)." Checklist I10: twenty SAs spread. The soft limits by traffic likewise, the hard ones not.
#[test]
fn rekeys_are_jittered() {
    let limits = TrafficLimits {
        soft_bytes: Some(1_000_000),
        soft_packets: Some(10_000),
        hard_bytes: Some(2_000_000),
        hard_packets: Some(20_000),
    };
    let long = |connection: Connection| {
        with(connection, |child| {
            child.rekey_time = Some(1000 * SECOND);
            child.life_time = Some(1100 * SECOND);
            child.rand_time = 100 * SECOND;
            child.limits = limits;
        })
    };
    let (mut times, mut ike_times, mut bytes, mut packets) =
        <(BTreeSet<_>, BTreeSet<_>, BTreeSet<_>, BTreeSet<_>)>::default();
    for seed in 0..20 {
        let mut a = long(side_a());
        a.ike_rekey_time = Some(5000 * SECOND);
        let mut pump = Pump::with(a, long(side_b()), seed, Default::default());
        pump.connect();
        pump.deliver_all();
        let child = pump.sa(0).children[0].clone();
        let wait = child.rekey_at.unwrap().saturating_since(child.since);
        assert!((900 * SECOND..=1000 * SECOND).contains(&wait), "{wait:?}");
        times.insert(wait);
        let sa = pump.sa(0);
        let wait = sa.rekey_at.unwrap().saturating_since(sa.since.unwrap());
        assert!((4500 * SECOND..=5000 * SECOND).contains(&wait), "{wait:?}");
        ike_times.insert(wait);
        let entry = pump.sad[0].pairs.values().next().unwrap();
        let given = entry.limits;
        assert!((900_000..=1_000_000).contains(&given.soft_bytes.unwrap()));
        assert!((9_000..=10_000).contains(&given.soft_packets.unwrap()));
        assert_eq!(
            (given.hard_bytes, given.hard_packets),
            (limits.hard_bytes, limits.hard_packets)
        );
        bytes.insert(given.soft_bytes);
        packets.insert(given.soft_packets);
    }
    for spread in [times.len(), ike_times.len(), bytes.len(), packets.len()] {
        assert!(spread >= 15, "{spread} of 20 differ");
    }
}

/// The first Child SA has no key exchange (§1.2), so that the ends differ about PFS shows at the first rekey: both ends say so,
/// with the remedy. The pair in use goes on until its lifetime ends.
#[test]
fn what_differs_about_pfs_shows_at_the_first_rekey() {
    for (ours, theirs) in [
        ("aes256gcm16-x25519", "aes256gcm16"),
        ("aes256gcm16", "aes256gcm16-x25519"),
    ] {
        let mut pump = Pump::up(esp(side_a(), ours), esp(side_b(), theirs));
        let pair = pump.sad[0].active["net"];
        pump.rekey_child(0);
        pump.deliver_all();
        assert!(pump.saw(0, "[N(NO_PROPOSAL_CHOSEN)]"), "{:?}", pump.lines(0));
        for who in 0..2 {
            let failure = pump.failures(who)[0].clone();
            assert!(
                failure.verdict.contains("rekey") && failure.verdict.contains("net"),
                "{failure:?}"
            );
            let hint = failure.hint.unwrap();
            assert!(hint.contains("PFS") && hint.contains("both ends"), "{hint}");
        }
        pump.assert_joined();
        assert_eq!(pump.sad[0].active["net"], pair);
        assert_eq!(pump.ends[0].load().spis, 1);
    }
}

/// §2.8: "If an SA has expired or is about to expire and rekeying attempts using the mechanisms described here fail, an
/// implementation MUST close the IKE SA and any associated Child SAs and then MAY start new ones." Checklist I11.
#[test]
fn a_rekey_that_is_refused_until_the_end() {
    let a = with(esp(side_a(), "aes256gcm16-x25519"), |child| {
        child.rekey_time = Some(100 * SECOND);
        child.life_time = Some(150 * SECOND);
    });
    let mut pump = Pump::up(a, esp(side_b(), "aes256gcm16"));
    let (spi, pair) = (pump.sa(0).spi_i, pump.sad[0].active["net"]);
    pump.run_for(149 * SECOND, everything);
    assert_eq!(pump.sad[0].active["net"], pair, "used as long as it may");
    let asked = pump
        .lines(0)
        .iter()
        .filter(|line| line.contains("request") && line.contains("REKEY_SA"))
        .count();
    assert!((2..=3).contains(&asked), "tried again, but not in a loop: {asked}");
    pump.run_for(20 * SECOND, everything);
    let told = |event: &&Event| {
        matches!(event, Event::Failed(failure)
        if failure.verdict.contains("lifetime of Child SA net") && failure.verdict.contains("NO_PROPOSAL_CHOSEN"))
    };
    assert_eq!(pump.events[0].iter().filter(told).count(), 1);
    assert!(!pump.sad[0].pairs.contains_key(&pair));
    pump.assert_joined();
    assert_ne!(pump.sa(0).spi_i, spi, "begun anew");
}

/// Soft limits rekey, also when the rekey has to be tried again; hard ones end the pair.
#[test]
fn limits_by_traffic_of_either_end() {
    for who in 0..2 {
        let mut pump = Pump::up(side_a(), side_b());
        let old = pump.sad[who].active["net"];
        // Told more than once: one rekey.
        pump.report(who, SadReport::SoftLimit(old));
        pump.report(who, SadReport::SoftLimit(old));
        pump.run_for(30 * SECOND, everything);
        pump.assert_joined();
        let rekeys = pump
            .lines(who)
            .iter()
            .filter(|line| line.contains("request") && line.contains("REKEY_SA"))
            .count();
        assert_eq!(rekeys, 1);
        // The soft limit of a pair that is replaced, or gone, is nobody's business.
        pump.report(who, SadReport::SoftLimit(old));
        assert!(pump.wire.is_empty());
        let old = pump.sad[who].active["net"];
        pump.report(who, SadReport::HardLimit(old));
        pump.run_for(30 * SECOND, everything);
        pump.assert_joined();
        assert_ne!(pump.sad[who].active["net"], old);
    }
}

/// A hard limit that is reached while the rekey is under way waits for it: no gap.
#[test]
fn a_hard_limit_during_the_rekey() {
    let mut pump = Pump::up(side_a(), side_b());
    let old = pump.sad[0].active["net"];
    pump.report(0, SadReport::SoftLimit(old));
    pump.report(0, SadReport::HardLimit(old));
    pump.run_for(30 * SECOND, everything);
    pump.assert_joined();
    assert_eq!(pump.child_downs(0) + pump.child_downs(1), 0);
    assert_eq!(pump.sa(0).children[0].rekeyed_from, Some(old));
}

/// Up, with a DUT that is asked to rekey its pair; its request.
fn asked_to_rekey() -> (Tester, peer::Message) {
    let mut t = Tester::up_as_responder(side_a());
    let pair = t.sad.active["net"];
    t.report(SadReport::SoftLimit(pair));
    let request = t.next_request().expect("a rekey");
    (t, request)
}

/// §1.3: "Some minimal implementations may only accept a single Child SA setup": NO_ADDITIONAL_SAS in answer to a rekey. §4:
/// "the implementation MUST be capable of instead deleting the old SA and creating a new one."
#[test]
fn a_peer_that_takes_one_pair_only() {
    let (mut t, request) = asked_to_rekey();
    let old = t.sad.pairs.values().next().unwrap().clone();
    t.refuse(&request.header, NotifyType::NO_ADDITIONAL_SAS);
    let delete = t.next_request().expect("a Delete");
    assert_eq!(deleted(&delete.payloads), [old.inbound.spi]);
    t.respond(&delete.header, &[delete_children(&[old.outbound.spi])]);
    let create = t.next_request().expect("a new one at once");
    assert_eq!(create.header.exchange, ExchangeType::CREATE_CHILD_SA);
    assert!(!create.has(NotifyType::REKEY_SA), "from scratch");
    assert!(t.is_up());
}

/// The IKE SA's rekey may be refused so too: it goes on, and is begun anew when its lifetime ends.
#[test]
fn a_peer_that_does_not_rekey_the_ike_sa() {
    let mut connection = side_a();
    connection.ike_rekey_time = Some(1000 * SECOND);
    let mut t = Tester::up_as_responder(connection);
    while t.out.is_empty() {
        t.tick();
    }
    let request = t.next_request().expect("a rekey");
    let began = t.now;
    t.refuse(&request.header, NotifyType::NO_ADDITIONAL_SAS);
    assert!(
        t.failures().iter().any(|verdict| verdict.contains("NO_ADDITIONAL_SAS")),
        "{:?}",
        t.failures()
    );
    assert!(t.is_up() && t.pairs() == 1);
    assert!(t.next_request().is_none(), "not again at once");
    while t.out.is_empty() {
        t.tick();
    }
    assert!(t.now.saturating_since(began) >= 100 * SECOND);
    let delete = t.next_request().expect("its lifetime is over");
    assert_eq!(delete.header.exchange, ExchangeType::INFORMATIONAL);
    t.respond(&delete.header, &[]);
    assert_eq!(t.pairs(), 0);
    assert!(
        t.events.iter().any(|event| matches!(event, Event::NeedTarget { .. })),
        "and then it begins anew"
    );
}

/// §2.25: "When a peer receives a TEMPORARY_FAILURE notification, it MUST NOT immediately retry the operation; it MUST wait so
/// that the sender may complete whatever operation caused the temporary condition. The recipient MAY retry the request one or
/// more times over a period of several minutes. If a peer continues to receive TEMPORARY_FAILURE on the same IKE SA after
/// several minutes, it SHOULD conclude that the state information is out of sync and close the IKE SA."
#[test]
fn a_peer_that_is_busy_for_ever() {
    let (mut t, mut request) = asked_to_rekey();
    let began = t.now;
    let mut times = 0;
    loop {
        t.refuse(&request.header, NotifyType::TEMPORARY_FAILURE);
        if let Some(delete) = t.next_request() {
            assert_eq!(delete.header.exchange, ExchangeType::INFORMATIONAL, "not at once");
            request = delete;
            break;
        }
        let refused = t.now;
        // New soft limits don't make it more hasty.
        let pair = t.sad.active["net"];
        t.report(SadReport::SoftLimit(pair));
        assert!(t.next_request().is_none());
        while t.out.is_empty() {
            t.tick();
        }
        request = t.next_request().unwrap();
        assert!(t.now.saturating_since(refused) >= 5 * SECOND);
        times += 1;
    }
    let after = t.now.saturating_since(began);
    assert!(
        after >= 180 * SECOND && after <= 240 * SECOND && times >= 10,
        "{after:?}, {times} times"
    );
    t.respond(&request.header, &[]);
    assert!(!t.is_up());
}
