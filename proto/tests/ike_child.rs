//! Child SAs over their life (RFC 7296 §1.3.1, §1.3.3, §1.4.1, §2.8, §2.25): made, rekeyed by either end, deleted by either
//! end, with any message lost.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;

use ike_pump::{Letter, Pump, SITE, child, side_a, side_b};
use landbridge_proto::ike::{Command, Event};
use landbridge_proto::policy::connection::{Child, Connection, StartAction, Target};
use landbridge_proto::policy::sad::{SadReport, SadUpdate};
use landbridge_proto::wire::ExchangeType;
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn everything(_: &Letter) -> bool {
    true
}

fn change(connection: &mut Connection, change: impl FnOnce(&mut Child)) {
    let mut child = Child::clone(&connection.children["net"]);
    change(&mut child);
    connection.children.insert("net".into(), Arc::new(child));
}

fn two_children(mut connection: Connection, local: &str, remote: &str, start_action: StartAction) -> Connection {
    let more = child("more", local, remote, "aes256gcm16-x25519", start_action);
    connection.children.insert("more".into(), more);
    connection
}

/// The position of the first SAD update that `pick`s, among an end's events.
fn position(pump: &Pump, who: usize, pick: impl Fn(&SadUpdate) -> bool) -> Option<usize> {
    pump.events[who]
        .iter()
        .position(|event| matches!(event, Event::Sad(update) if pick(update)))
}

/// §2.8: the new pair is there at both ends before the old one goes; §1.3.3: whoever rekeyed deletes the old one; the
/// responder sends by the new one once it knows that the requester has it.
#[test]
fn either_end_rekeys_a_child_with_pfs() {
    for who in 0..2 {
        let mut pump = Pump::up(side_a(), side_b());
        let old: Vec<_> = (0..2).map(|end| pump.sa(end).children[0].clone()).collect();
        pump.rekey_child(who);
        assert!(pump.saw(who, "CREATE_CHILD_SA request") && pump.saw(who, "[N(REKEY_SA) SA No KE TSi TSr]"));
        pump.deliver(0);
        let other = 1 - who;
        assert_eq!(
            pump.sad[other].pairs.len(),
            2,
            "inbound is open before the answer leaves"
        );
        assert_eq!(
            pump.sad[other].active["net"], old[other].id,
            "but the old one still sends"
        );
        pump.deliver(0);
        assert_ne!(
            pump.sad[who].active["net"], old[who].id,
            "the requester has the answer: it sends by the new one"
        );
        pump.assert_joined();
        // The first packet on the new pair tells the responder, even if the Delete is late.
        let delete = pump.wire.remove(0);
        assert_eq!(delete.exchange(), ExchangeType::INFORMATIONAL);
        let new = pump.sad[other].pairs.keys().next_back().copied().unwrap();
        pump.report(other, SadReport::FirstInbound(new));
        assert_eq!(pump.sad[other].active["net"], new);
        pump.hand(&delete);
        pump.deliver_all();
        pump.assert_joined();
        assert_eq!(
            (pump.sad[0].pairs.len(), pump.sad[1].pairs.len()),
            (2, 2),
            "the old inbound lingers"
        );
        pump.run_for(30 * SECOND, everything);
        for (end, old) in old.iter().enumerate() {
            let now = pump.sa(end);
            assert_eq!(now.children.len(), 1);
            assert_eq!(now.children[0].rekeyed_from, Some(old.id));
            assert!(now.children[0].suite.group.is_some(), "PFS");
            assert_eq!(pump.sad[end].pairs.len(), 1);
            assert_eq!(pump.child_downs(end), 0, "a rekey is no outage");
        }
    }
}

/// Any message of a rekey lost: the same pair in the end, at both ends.
#[test]
fn any_message_of_a_child_rekey_may_be_lost() {
    for lost in 0..4 {
        let mut pump = Pump::up(side_a(), side_b());
        pump.rekey_child(0);
        let mut count = 0;
        pump.run_for(60 * SECOND, |_| {
            count += 1;
            count != lost + 1
        });
        pump.assert_joined();
        assert_eq!(
            (pump.sad[0].pairs.len(), pump.sad[1].pairs.len()),
            (1, 1),
            "message {lost}"
        );
        assert_eq!(pump.child_downs(0) + pump.child_downs(1), 0);
    }
}

/// §1.3: INVALID_KE_PAYLOAD names the peer's group: a new exchange with that.
#[test]
fn another_group_at_the_peers_wish() {
    let (mut a, mut b) = (side_a(), side_b());
    let esp = |words: &str| vec![landbridge_proto::policy::proposal::EspProposal::parse(words).unwrap()];
    change(&mut a, |child| child.esp_proposals = esp("aes256gcm16-x25519-ecp256"));
    change(&mut b, |child| child.esp_proposals = esp("aes256gcm16-ecp256"));
    let mut pump = Pump::up(a, b);
    pump.rekey_child(0);
    pump.deliver_all();
    assert!(
        pump.saw(0, "CREATE_CHILD_SA response 2 [N(INVALID_KE_PAYLOAD)]"),
        "{:?}",
        pump.lines(0)
    );
    assert!(pump.saw(0, "CREATE_CHILD_SA request 3 [N(REKEY_SA)"));
    pump.assert_joined();
    pump.run_for(30 * SECOND, everything);
    assert_eq!(
        (pump.sad[0].pairs.len(), pump.sad[1].pairs.len()),
        (1, 1),
        "nothing is left over"
    );
}

/// Every configured child that starts comes up, the first in IKE_AUTH, the others in CREATE_CHILD_SA, one after the other
/// (§2.3: a window of one).
#[test]
fn more_than_one_child() {
    let a = two_children(side_a(), "10.3.0.0/16", "10.4.0.0/16", StartAction::Start);
    let b = two_children(side_b(), "10.4.0.0/16", "10.3.0.0/16", StartAction::None);
    let mut pump = Pump::up(a, b);
    assert_eq!((pump.sad[0].active.len(), pump.sad[1].active.len()), (2, 2));
    assert!(pump.saw(0, "CREATE_CHILD_SA request 2 [SA No KE TSi TSr]"));
    // One of them goes; the other and the IKE SA stay.
    pump.down(0, Some("more"));
    pump.deliver_all();
    pump.run_for(20 * SECOND, everything);
    pump.assert_joined();
    assert_eq!(
        (pump.sad[0].pairs.len(), pump.sad[1].pairs.len()),
        (1, 1),
        "what the operator took down stays down"
    );
    // And comes again.
    let target = Target {
        local: pump.addresses[0],
        remote: pump.addresses[1],
    };
    pump.command(
        0,
        Command::Up {
            connection: SITE.into(),
            child: Some("more".into()),
            target,
        },
    );
    pump.deliver_all();
    pump.assert_joined();
    assert_eq!(pump.sad[0].active.len(), 2);
}

/// §1.4.1: the Delete names the sender's inbound SPI, the answer the other one's; crossing Deletes are answered without.
#[test]
fn children_are_deleted_by_either_end_and_by_both() {
    for ends in [vec![0], vec![1], vec![0, 1]] {
        let mut pump = Pump::up(side_a(), side_b());
        for who in &ends {
            pump.down(*who, Some("net"));
        }
        pump.deliver_all();
        assert_eq!((pump.sad[0].pairs.len(), pump.sad[1].pairs.len()), (0, 0), "{ends:?}");
        assert!(pump.is_up(0) && pump.is_up(1), "the IKE SA stays");
        let answered = |who: usize| {
            pump.lines(who)
                .iter()
                .filter(|line| line.contains("response") && line.contains("[D]"))
                .count()
        };
        assert_eq!(
            answered(0),
            usize::from(ends.len() == 1),
            "§1.4.1: without a Delete payload when they cross"
        );
    }
}

/// §2.8, checklist I11: without a rekey the pair ends with its lifetime, and one that is to be up comes again.
#[test]
fn a_child_that_is_not_rekeyed_ends() {
    let mut a = side_a();
    change(&mut a, |child| {
        child.rekey_time = Some(100 * SECOND);
        child.life_time = Some(130 * SECOND);
    });
    let mut pump = Pump::up(a, side_b());
    let old = pump.sa(0).children[0].id;
    // The peer refuses each rekey: its answers are replaced by nothing for as long as the request is tried.
    pump.run_for(129 * SECOND, |letter| {
        letter.exchange() != ExchangeType::CREATE_CHILD_SA
    });
    let after = position(&pump, 0, |update| matches!(update, SadUpdate::Remove(id) if *id == old));
    assert!(after.is_none(), "it is used as long as it may");
    pump.run_for(100 * SECOND, everything);
    pump.assert_joined();
    assert!(!pump.sad[0].pairs.contains_key(&old));
}

/// Limits by traffic: soft rekeys, hard ends.
#[test]
fn limits_by_traffic() {
    let mut pump = Pump::up(side_a(), side_b());
    let old = pump.sad[1].active["net"];
    pump.report(1, SadReport::SoftLimit(old));
    pump.deliver_all();
    pump.run_for(20 * SECOND, everything);
    pump.assert_joined();
    assert_ne!(pump.sad[1].active["net"], old);
    let old = pump.sad[0].active["net"];
    pump.report(0, SadReport::HardLimit(old));
    pump.deliver_all();
    pump.run_for(20 * SECOND, everything);
    pump.assert_joined();
    assert_ne!(pump.sad[0].active["net"], old);
}

/// §2.25: "A peer that receives a CHILD_SA_NOT_FOUND notification SHOULD silently delete the Child SA (if it still exists) and
/// send a request to create a new Child SA from scratch".
#[test]
fn a_pair_that_the_peer_lost_is_made_anew() {
    let mut pump = Pump::up(side_a(), side_b());
    // B deletes; the Delete is under way when A asks for a rekey.
    pump.down(1, Some("net"));
    let delete = pump.wire.remove(0);
    pump.rekey_child(0);
    pump.deliver(0);
    assert!(pump.saw(1, "[N(TEMPORARY_FAILURE)]"), "§2.25.1: it is being closed");
    pump.hand(&delete);
    pump.deliver_all();
    pump.run_for(60 * SECOND, everything);
    pump.assert_joined();
    assert_eq!((pump.sad[0].pairs.len(), pump.sad[1].pairs.len()), (1, 1));
}

/// §2.25.1: "If a peer receives a request to close a Child SA that it is currently rekeying, it SHOULD reply as usual, with a
/// Delete payload", and its own rekey finds nothing.
#[test]
fn a_delete_crosses_a_rekey() {
    let mut pump = Pump::up(side_a(), side_b());
    pump.down(1, Some("net"));
    pump.rekey_child(0);
    let delete = pump.wire.remove(0);
    assert_eq!((delete.to, delete.exchange()), (0, ExchangeType::INFORMATIONAL));
    let rekey = pump.wire.remove(0);
    pump.hand(&delete);
    assert!(pump.saw(0, "INFORMATIONAL response 0 [D]"));
    pump.deliver_all();
    pump.hand(&rekey);
    assert!(pump.saw(1, "[N(CHILD_SA_NOT_FOUND)]"), "{:?}", pump.lines(1));
    pump.deliver_all();
    pump.run_for(30 * SECOND, everything);
    pump.assert_joined();
    assert_eq!(
        (pump.sad[0].pairs.len(), pump.sad[1].pairs.len()),
        (1, 1),
        "A wants it up"
    );
}

/// §2.8.1: "the SA created with the lowest of the four nonces used in the two exchanges SHOULD be closed by the endpoint that
/// created it".
#[test]
fn when_both_rekey_a_child_one_pair_stays() {
    for seed in 0..20 {
        let mut pump = Pump::with(side_a(), side_b(), seed, Default::default());
        pump.connect();
        pump.deliver_all();
        pump.rekey_child(0);
        pump.rekey_child(1);
        pump.deliver(0);
        pump.deliver(0);
        pump.deliver_all();
        pump.run_for(30 * SECOND, everything);
        pump.assert_joined();
        assert_eq!((pump.sad[0].pairs.len(), pump.sad[1].pairs.len()), (1, 1));
        let outage = |event: &&Event| matches!(event, Event::Sad(SadUpdate::DeactivateOutbound(_)));
        assert!(!pump.events.iter().flatten().any(|event| outage(&event)), "seed {seed}");
    }
}
