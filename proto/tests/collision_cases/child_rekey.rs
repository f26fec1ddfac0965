//! `test_child_rekey`: Child SA rekeys, alone and crossing others (RFC 7296 §2.8, §2.8.1, §2.25.1).

use super::*;
use crate::peer::Tester;
use crate::peer::messages::{delete_children, deleted, ke, notify_esp};
use landbridge_proto::crypto::{Group, IKE_PROVIDER};
use landbridge_proto::policy::sad::{ChildSaId, SadReport};
use landbridge_proto::wire::{ExchangeType, NotifyType};

/// The pair in use at an end.
fn pair(pump: &Pump, who: usize) -> ChildSaId {
    pump.sad[who].active["net"]
}

fn no_outage(pump: &Pump) {
    assert_eq!(pump.child_downs(0) + pump.child_downs(1), 0, "a rekey is no outage");
}

/// Both have asked; nothing is delivered.
fn both_rekey(seed: u8) -> Pump {
    let mut pump = up_with(seed);
    pump.rekey_child(0);
    pump.rekey_child(1);
    assert_eq!(pump.wire.len(), 2);
    pump
}

/// Either end rekeys; whoever asked deletes the old pair.
#[test]
fn test_regular() {
    for who in 0..2 {
        let mut pump = up();
        let old = [pair(&pump, 0), pair(&pump, 1)];
        pump.rekey_child(who);
        to(&mut pump, 1 - who);
        to(&mut pump, who);
        assert!(pump.saw(1 - who, "[N(REKEY_SA) SA No KE TSi TSr]"));
        assert_eq!(said(&pump, 1 - who, "INFORMATIONAL request"), 0);
        assert_eq!(said(&pump, who, "INFORMATIONAL request"), 1);
        to(&mut pump, 1 - who);
        to(&mut pump, who);
        assert!(pump.wire.is_empty(), "four messages, and whoever asked sent the Delete");
        assert!((0..2).all(|end| pair(&pump, end) != old[end]));
        calm_down(&mut pump);
        no_outage(&pump);
    }
}

/// §1.3: the other end wants another group: INVALID_KE_PAYLOAD, and again with that one.
#[test]
fn test_regular_ke_invalid() {
    for who in 0..2 {
        let (a, b) = other_groups(side_a(), side_b());
        let mut pump = Pump::up(a, b);
        pump.rekey_child(who);
        to(&mut pump, 1 - who);
        assert_eq!(said(&pump, 1 - who, "CREATE_CHILD_SA response"), 1);
        to(&mut pump, who);
        assert_eq!(said(&pump, who, "[N(REKEY_SA) SA No KE TSi TSr]"), 2);
        to(&mut pump, 1 - who);
        to(&mut pump, who);
        calm_down(&mut pump);
        assert_eq!(pump.sa(0).children[0].suite.group.unwrap().to_string(), "ecp384");
        no_outage(&pump);
    }
}

/// The responder's own soft limit comes while it waits for the Delete: the pair is rekeyed already.
#[test]
fn test_regular_responder_ignore_soft_expire() {
    let mut pump = up();
    let old = pair(&pump, 1);
    pump.rekey_child(0);
    to(&mut pump, 1);
    pump.report(1, SadReport::SoftLimit(old));
    assert_eq!(pump.wire.len(), 1, "just the answer");
    calm_down(&mut pump);
    assert_eq!(said(&pump, 1, "N(REKEY_SA)"), 0);
    no_outage(&pump);
}

/// The responder's hard limit comes while it waits for the Delete: it deletes the old pair itself, and sends by the new one.
/// The Deletes cross, and neither answer carries one (§1.4.1).
#[test]
fn test_regular_responder_handle_hard_expire() {
    let mut pump = up();
    let old = pair(&pump, 1);
    pump.rekey_child(0);
    to(&mut pump, 1);
    to(&mut pump, 0);
    pump.report(1, SadReport::HardLimit(old));
    assert_ne!(pair(&pump, 1), old, "the old one takes no more packets");
    let deletes: Vec<usize> = pump.wire.iter().map(|letter| letter.to).collect();
    assert_eq!(deletes, [1, 0]);
    pump.deliver_all();
    assert_eq!(said(&pump, 0, "response 0 [D]") + said(&pump, 1, "response 3 [D]"), 0);
    calm_down(&mut pump);
    no_outage(&pump);
}

/// The responder's operator deletes the new pair before the requester has deleted the old one: A wants it up, so it comes
/// again, and nothing of either stays.
#[test]
fn test_regular_responder_delete() {
    for answered in [true, false] {
        let mut pump = up();
        pump.rekey_child(0);
        to(&mut pump, 1);
        if answered {
            to(&mut pump, 0);
        }
        pump.down(1, Some("net"));
        calm_down(&mut pump);
        assert!(pump.child_downs(1) > 0);
    }
}

/// The responder does not know the pair (any more): CHILD_SA_NOT_FOUND with the SPI (§2.25), and "a request to create a new
/// Child SA from scratch".
#[test]
fn test_regular_responder_lost_sa() {
    let a = with_more(side_a(), "10.3.0.0/16", "10.4.0.0/16");
    let b = with_more(side_b(), "10.4.0.0/16", "10.3.0.0/16");
    let mut pump = Pump::up(a, b);
    let old = pump.sa(0).children[0].clone();
    // An A that deletes the pair, and one that does not know of that: it has spent the message ID on something else.
    let (other_a, other_b) = (pump.ends[0].clone(), pump.ends[1].clone());
    pump.down(0, Some("net"));
    pump.deliver_all();
    let losing_b = std::mem::replace(&mut pump.ends[1], other_b);
    pump.ends[0] = other_a;
    pump.sad = Default::default();
    for who in 0..2 {
        // The data path is as it was.
        let updates = pump.events[who].iter().filter_map(|event| match event {
            Event::Sad(update) => Some(update.clone()),
            _ => None,
        });
        for update in updates.take(2).collect::<Vec<_>>() {
            pump.sad[who].apply(&update);
        }
    }
    up_more(&mut pump);
    pump.deliver_all();
    pump.ends[1] = losing_b;
    pump.sad[1] = Default::default();
    pump.rekey_child(0);
    to(&mut pump, 1);
    assert_eq!(
        said(&pump, 1, "response 3 [N(CHILD_SA_NOT_FOUND)]"),
        1,
        "{:?}",
        pump.lines(1)
    );
    to(&mut pump, 0);
    assert!(
        !pump.sad[0].pairs.contains_key(&old.id),
        "§2.25: \"silently delete the Child SA\""
    );
    pump.deliver_all();
    let net = |who: usize| {
        pump.sa(who)
            .children
            .into_iter()
            .find(|child| &*child.child == "net")
            .unwrap()
    };
    assert_eq!(net(0).spis.0, net(1).spis.1);
    assert_eq!(net(0).rekeyed_from, None, "\"from scratch\"");
}

fn up_more(pump: &mut Pump) {
    let target = landbridge_proto::policy::connection::Target {
        local: pump.addresses[0],
        remote: pump.addresses[1],
    };
    let up = Command::Up {
        connection: SITE.into(),
        child: Some("more".into()),
        target,
    };
    pump.command(0, up);
}

/// The responder deletes the old pair itself, at once, although that is for whoever asked (§2.8): before or after the
/// requester has the answer.
#[test]
fn test_regular_responder_incorrect_delete() {
    for late in [false, true] {
        let mut pump = up();
        let old = pair(&pump, 1);
        pump.rekey_child(0);
        to(&mut pump, 1);
        let answer = take(&mut pump, 0);
        pump.report(1, SadReport::HardLimit(old));
        if late {
            // §2.25.1: "currently rekeying, it SHOULD reply as usual, with a Delete payload".
            to(&mut pump, 0);
            to(&mut pump, 1);
            assert_eq!(said(&pump, 0, "response 0 [D]"), 1);
            pump.hand(&answer);
        } else {
            pump.hand(&answer);
            assert_ne!(pair(&pump, 0), old);
        }
        calm_down(&mut pump);
        assert_eq!(pump.sa(0).children.len(), 1);
    }
}

/// The requester never deletes the old pair: after a while the responder does.
#[test]
fn test_regular_delete_timeout() {
    let mut t = Tester::up(side_b());
    let old = t.sad.pairs.values().next().unwrap().clone();
    let mut payloads = t.child_offer(true);
    payloads.insert(0, notify_esp(NotifyType::REKEY_SA, old.outbound.spi));
    let method = (IKE_PROVIDER.key_exchange)(Group::Curve25519).unwrap();
    let public = method.initiate(&mut t.rng).public().to_vec();
    let nonce = t.nonce(32);
    payloads.extend([nonce, ke(Group::Curve25519.method(), &public)]);
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).expect("an answer");
    assert!(answer.notifies().is_empty(), "{answer:?}");
    t.pass(29 * SECOND);
    assert!(t.next_request().is_none());
    t.pass(2 * SECOND);
    let delete = t.next_request().expect("a Delete");
    assert_eq!(deleted(&delete.payloads), [old.inbound.spi]);
    assert_ne!(t.sad.active["net"], old.id, "by now the new one sends");
    t.respond(&delete.header, &[delete_children(&[old.outbound.spi])]);
    t.pass(10 * SECOND);
    assert_eq!(t.pairs(), 1);
    t.assert_alive();
}

/// §2.8.1: both ask, both notice, the lowest of the four nonces loses.
#[test]
fn test_collision() {
    let mut winners = [0, 0];
    for seed in 0..SEEDS {
        let mut pump = both_rekey(seed);
        to(&mut pump, 1);
        to(&mut pump, 0);
        assert!(pump.wire.iter().all(Letter::is_response));
        let first = *pump.sad[0].pairs.keys().next_back().unwrap();
        to(&mut pump, 0);
        to(&mut pump, 1);
        assert_eq!(pump.sad[0].pairs.len(), 3, "the old one and two new ones");
        // One Delete from each end: the loser's new pair, and the winner's old one.
        assert_eq!(pump.wire.iter().map(|letter| letter.to).collect::<Vec<_>>(), [1, 0]);
        calm_down(&mut pump);
        no_outage(&pump);
        // At A the pair of B's request was made first: it stays if B's was not the lowest.
        winners[usize::from(pair(&pump, 0) == first)] += 1;
    }
    assert!(winners[0] > 0 && winners[1] > 0, "{winners:?}");
}

/// One answer is late: the other end has compared the nonces and deleted what it was to delete before it comes.
#[test]
fn test_collision_delayed_response() {
    for seed in 0..SEEDS {
        let mut pump = both_rekey(seed);
        to(&mut pump, 1);
        to(&mut pump, 0);
        let answer_to_a = take(&mut pump, 0);
        to(&mut pump, 1); // B has its answer, and deletes its own or the old pair
        to(&mut pump, 0);
        to(&mut pump, 1);
        pump.hand(&answer_to_a);
        calm_down(&mut pump);
        assert_eq!(pump.sa(0).children.len(), 1);
    }
}

/// The same, and then the other end deletes the pair that stayed, too, before the answer comes: it is not installed any more.
#[test]
fn test_collision_delayed_response_delete() {
    for seed in 0..SEEDS {
        let mut pump = both_rekey(seed);
        to(&mut pump, 1);
        to(&mut pump, 0);
        let answer_to_a = take(&mut pump, 0);
        to(&mut pump, 1);
        to(&mut pump, 0);
        to(&mut pump, 1);
        pump.down(1, Some("net"));
        // What A repeats is lost for long enough: B does not wait for ever.
        pump.run_for(35 * SECOND, |letter| {
            letter.to == 0 && !(letter.exchange().0 == 36 && letter.is_response())
                || letter.is_response() && letter.exchange().0 == 37
        });
        pump.hand(&answer_to_a);
        calm_down(&mut pump);
        assert!(pump.child_downs(1) > 0, "seed {seed}");
    }
}

/// One request is late: the other end has done its rekey, and is about to delete the old pair: TEMPORARY_FAILURE.
#[test]
fn test_collision_delayed_request() {
    for (seed, first) in (0..SEEDS).flat_map(|seed| [(seed, 0), (seed, 1)]) {
        let late = 1 - first;
        let mut pump = both_rekey(seed);
        let request = take(&mut pump, first);
        to(&mut pump, late); // `late` answers, and knows that they cross
        to(&mut pump, first);
        pump.hand(&request);
        pump.deliver_all();
        assert!(pump.saw(late, "[N(TEMPORARY_FAILURE)]"), "{:?}", pump.lines(late));
        calm_down(&mut pump);
        no_outage(&pump);
        assert_eq!(
            said(&pump, late, "N(REKEY_SA)"),
            1,
            "it is not tried again: the pair is rekeyed"
        );
    }
}

/// One request is later still: the old pair is gone: CHILD_SA_NOT_FOUND. §2.8.1: "it already knows there was simultaneous
/// rekeying, so it can ignore the error message."
#[test]
fn test_collision_delayed_request_more() {
    for (seed, first) in (0..SEEDS).flat_map(|seed| [(seed, 0), (seed, 1)]) {
        let late = 1 - first;
        let mut pump = both_rekey(seed);
        let request = take(&mut pump, first);
        to(&mut pump, late);
        to(&mut pump, first);
        to(&mut pump, late); // the Delete
        to(&mut pump, first);
        pump.hand(&request);
        pump.deliver_all();
        assert!(pump.saw(late, "[N(CHILD_SA_NOT_FOUND)]"));
        calm_down(&mut pump);
        no_outage(&pump);
        assert_eq!(said(&pump, late, "CREATE_CHILD_SA request"), 1, "nothing is made anew");
    }
}

/// And then the new pair is deleted as well, before the request comes.
#[test]
fn test_collision_delayed_request_more_delete() {
    for seed in 0..SEEDS {
        let mut pump = both_rekey(seed);
        let request = take(&mut pump, 1);
        to(&mut pump, 0);
        to(&mut pump, 1);
        to(&mut pump, 0);
        to(&mut pump, 1);
        pump.down(1, Some("net"));
        to(&mut pump, 0);
        to(&mut pump, 1);
        assert!(pump.sad.iter().all(|sad| sad.active.is_empty()));
        pump.hand(&request);
        pump.deliver_all();
        assert!(pump.saw(0, "[N(CHILD_SA_NOT_FOUND)]"));
        calm_down(&mut pump);
        assert_eq!(pump.sa(0).children[0].rekeyed_from, None, "A wants it up: from scratch");
    }
}

/// Both ask with a group that the other end does not take, and again with another.
#[test]
fn test_collision_ke_invalid() {
    for seed in 0..SEEDS {
        let mut pump = both_refused(seed);
        to(&mut pump, 1);
        to(&mut pump, 0);
        pump.deliver_all();
        calm_down(&mut pump);
        no_outage(&pump);
        assert_eq!(pump.sad[0].pairs.len(), 1);
    }
}

/// Both have INVALID_KE_PAYLOAD and have asked again.
fn both_refused(seed: u8) -> Pump {
    let (a, b) = other_groups(side_a(), side_b());
    let mut pump = Pump::with(a, b, seed, Gateway::default());
    pump.connect();
    pump.deliver_all();
    pump.rekey_child(0);
    pump.rekey_child(1);
    to(&mut pump, 1);
    to(&mut pump, 0);
    to(&mut pump, 0);
    to(&mut pump, 1);
    for who in 0..2 {
        assert!(pump.saw(who, "response") && pump.saw(who, "[N(INVALID_KE_PAYLOAD)]"));
    }
    assert_eq!(pump.wire.len(), 2);
    assert!(!pump.wire.iter().any(Letter::is_response));
    pump
}

/// One of the second requests is late: the other end is through with its own.
#[test]
fn test_collision_ke_invalid_delayed_retry() {
    for (seed, more) in (0..SEEDS).flat_map(|seed| [(seed, false), (seed, true)]) {
        let mut pump = both_refused(seed);
        let retry = take(&mut pump, 1);
        to(&mut pump, 0);
        to(&mut pump, 1);
        if more {
            to(&mut pump, 0);
            to(&mut pump, 1);
        }
        pump.hand(&retry);
        pump.deliver_all();
        let answer = if more {
            "[N(CHILD_SA_NOT_FOUND)]"
        } else {
            "[N(TEMPORARY_FAILURE)]"
        };
        assert!(pump.saw(0, answer), "{:?}", pump.lines(0));
        calm_down(&mut pump);
        no_outage(&pump);
    }
}

/// Both rekey, and one end deletes the old pair although it is for the other to do so.
#[test]
fn test_collision_responder_incorrect_delete() {
    for (seed, who) in (0..SEEDS).flat_map(|seed| [(seed, 0), (seed, 1)]) {
        let mut pump = both_rekey(seed);
        let old = pair(&pump, who);
        to(&mut pump, 1);
        to(&mut pump, 0);
        to(&mut pump, 0);
        to(&mut pump, 1);
        pump.report(who, SadReport::HardLimit(old));
        calm_down(&mut pump);
        assert_eq!(pump.sad[0].pairs.len(), 1, "seed {seed}");
        no_outage(&pump);
    }
}

/// One end rekeys what the other deletes: TEMPORARY_FAILURE for the rekey, a Delete payload in answer to the Delete (§2.25.1).
#[test]
fn test_collision_delete() {
    for (deletes, rekeys) in [(0, 1), (1, 0)] {
        let mut pump = up();
        pump.rekey_child(rekeys);
        pump.down(deletes, Some("net"));
        to(&mut pump, deletes);
        to(&mut pump, rekeys);
        pump.deliver_all();
        assert!(pump.saw(rekeys, "[N(TEMPORARY_FAILURE)]"));
        assert_eq!(
            said(&pump, rekeys, "INFORMATIONAL response 2 [D]") + said(&pump, rekeys, "INFORMATIONAL response 0 [D]"),
            1
        );
        finish_deleted(&mut pump, deletes);
    }
}

/// B's operator took it down: A brings it up again. A's own did: it stays down, at both ends.
fn finish_deleted(pump: &mut Pump, deletes: usize) {
    if deletes == 1 {
        calm_down(pump);
        return;
    }
    pump.run_for(120 * SECOND, |_| true);
    for who in 0..2 {
        let load = pump.ends[who].load();
        assert_eq!(
            (load.ike_sas, load.child_sas, load.spis, load.jobs),
            (1, 0, 0, 0),
            "end {who}"
        );
        assert!(pump.sad[who].pairs.is_empty());
    }
}

/// The same, the Delete is lost at first.
#[test]
fn test_collision_delete_drop_delete() {
    for (deletes, rekeys) in [(0, 1), (1, 0)] {
        let mut pump = up();
        pump.rekey_child(rekeys);
        pump.down(deletes, Some("net"));
        take(&mut pump, rekeys);
        to(&mut pump, deletes);
        to(&mut pump, rekeys);
        assert!(pump.saw(rekeys, "[N(TEMPORARY_FAILURE)]"));
        assert!(pump.wire.is_empty(), "§2.25: \"MUST NOT immediately retry\"");
        finish_deleted(&mut pump, deletes);
    }
}

/// The same, the request to rekey is lost at first: when it comes, the pair is gone.
#[test]
fn test_collision_delete_drop_rekey() {
    for (deletes, rekeys) in [(0, 1), (1, 0)] {
        let mut pump = up();
        pump.rekey_child(rekeys);
        pump.down(deletes, Some("net"));
        take(&mut pump, deletes);
        to(&mut pump, rekeys);
        to(&mut pump, deletes);
        finish_deleted(&mut pump, deletes);
        assert!(pump.saw(rekeys, "[N(CHILD_SA_NOT_FOUND)]"));
    }
}

/// The same, the answer to the rekey comes after the Delete.
#[test]
fn test_collision_delete_delayed_response() {
    for (deletes, rekeys) in [(0, 1), (1, 0)] {
        let mut pump = up();
        pump.rekey_child(rekeys);
        pump.down(deletes, Some("net"));
        to(&mut pump, deletes);
        let index = pump.wire.iter().position(Letter::is_response).unwrap();
        let refusal = pump.wire.remove(index);
        to(&mut pump, rekeys);
        to(&mut pump, deletes);
        pump.hand(&refusal);
        finish_deleted(&mut pump, deletes);
    }
}

/// One end rekeys the Child SA, the other the IKE SA: both are told to wait (§2.25.1, §2.25.2), and both get their way.
#[test]
fn test_collision_ike_rekey() {
    for (child, ike) in [(0, 1), (1, 0)] {
        let mut pump = up();
        let (old, spi) = (pair(&pump, 0), pump.sa(0).spi_i);
        pump.rekey_child(child);
        rekey_ike(&mut pump, ike);
        to(&mut pump, 1);
        to(&mut pump, 0);
        pump.deliver_all();
        assert!(pump.saw(0, "[N(TEMPORARY_FAILURE)]") && pump.saw(1, "[N(TEMPORARY_FAILURE)]"));
        calm_down(&mut pump);
        assert_ne!(pair(&pump, 0), old);
        assert_ne!(pump.sa(0).spi_i, spi);
        no_outage(&pump);
    }
}

/// One end rekeys the Child SA, the other deletes the IKE SA: all is gone, and what A wants is begun anew.
#[test]
fn test_collision_ike_delete() {
    for deletes in 0..2 {
        let mut pump = up();
        pump.reconnect = false;
        pump.rekey_child(1 - deletes);
        pump.down(deletes, None);
        to(&mut pump, deletes);
        to(&mut pump, 1 - deletes);
        pump.run_for(60 * SECOND, |_| true);
        assert!(!pump.is_up(0) && !pump.is_up(1));
        for who in 0..2 {
            assert_eq!(pump.ends[who].load().spis, 0, "end {who}");
            assert!(pump.sad[who].pairs.is_empty());
        }
        let wants = |event: &&Event| matches!(event, Event::NeedTarget { .. });
        assert_eq!(pump.events[0].iter().filter(wants).count(), deletes);
    }
}

/// Either end rekeys, with three key exchanges: the new pair is made after the last.
#[test]
fn test_regular_multi_ke() {
    for who in 0..2 {
        let mut pump = up_multi(0);
        pump.rekey_child(who);
        to(&mut pump, 1 - who);
        for _ in 0..2 {
            to(&mut pump, who);
            assert_eq!(asked(&pump, 1 - who, ExchangeType::IKE_FOLLOWUP_KE), 1);
            assert_eq!([pump.sad[0].pairs.len(), pump.sad[1].pairs.len()], [1, 1]);
            to(&mut pump, 1 - who);
        }
        assert_eq!(pump.sad[1 - who].pairs.len(), 2);
        to(&mut pump, who);
        calm_down(&mut pump);
        assert_eq!(pump.sa(0).children[0].suite.to_string(), MULTI_ESP);
        no_outage(&pump);
    }
}

/// The first group is refused; the additional ones come after the right one.
#[test]
fn test_regular_ke_invalid_multi_ke() {
    for who in 0..2 {
        let mut pump = up_proposing(
            0,
            [&[IKE], &[IKE]],
            [
                &["aes256gcm16-x25519-ecp384-ke1_mlkem512"],
                &["aes256gcm16-ecp256-ecp384-ke1_mlkem512"],
            ],
        );
        pump.rekey_child(who);
        to(&mut pump, 1 - who);
        assert_eq!(said(&pump, 1 - who, "[N(INVALID_KE_PAYLOAD)]"), 1);
        calm_down(&mut pump);
        assert_eq!(
            pump.sa(0).children[0].suite.to_string(),
            "aes256gcm16-ecp384-ke1_mlkem512"
        );
        no_outage(&pump);
    }
}

/// Both have asked; nothing is delivered.
fn both_rekey_of(mut pump: Pump) -> Pump {
    pump.rekey_child(0);
    pump.rekey_child(1);
    assert_eq!(pump.wire.len(), 2);
    pump
}

/// RFC 9370 §2.2.4: "because there is nothing to delete yet, the initiator of this exchange just stops the rekeying process,
/// and it MUST NOT initiate the IKE_FOLLOWUP_KE exchange."
#[test]
fn test_collision_multi_ke() {
    let mut winners = [0, 0];
    for seed in 0..SEEDS {
        let mut pump = both_rekey_of(up_multi(seed));
        for who in [1, 0, 0, 1] {
            to(&mut pump, who);
        }
        let asked = [1, 0].map(|to| asked(&pump, to, ExchangeType::IKE_FOLLOWUP_KE));
        assert!(asked == [1, 0] || asked == [0, 1], "{asked:?}");
        assert_eq!([pump.sad[0].pairs.len(), pump.sad[1].pairs.len()], [1, 1]);
        winners[asked[1]] += 1;
        calm_down(&mut pump);
        no_outage(&pump);
        for (who, asked) in asked.into_iter().enumerate() {
            assert_eq!(said(&pump, who, "IKE_FOLLOWUP_KE request"), 2 * asked);
        }
    }
    assert!(winners[0] > 0 && winners[1] > 0, "{winners:?}");
}

/// A's exchange has one key exchange, B's three. If A's stays, B just stops; if B's does, A deletes its own.
#[test]
fn test_collision_mixed() {
    let mut winners = [0, 0];
    for seed in 0..SEEDS {
        let mut pump = both_rekey_of(up_mixed(seed));
        for who in [1, 0, 0, 1] {
            to(&mut pump, who);
        }
        assert_eq!(pump.sad[0].pairs.len(), 2, "A's new one");
        let stays = asked(&pump, 0, ExchangeType::IKE_FOLLOWUP_KE);
        winners[stays] += 1;
        calm_down(&mut pump);
        no_outage(&pump);
        let suite = pump.sa(0).children[0].suite.to_string();
        assert_eq!(suite, [ESP, MULTI_ESP][stays]);
    }
    assert!(winners[0] > 0 && winners[1] > 0, "{winners:?}");
}

/// One answer is late: the other end has compared the nonces, and has gone on or stopped, before it comes.
#[test]
fn test_collision_delayed_response_multi_ke() {
    for (seed, late) in (0..SEEDS).flat_map(|seed| [(seed, 0), (seed, 1)]) {
        let mut pump = both_rekey_of(up_multi(seed));
        to(&mut pump, 1);
        to(&mut pump, 0);
        let answer = take(&mut pump, late);
        pump.deliver_all();
        pump.hand(&answer);
        calm_down(&mut pump);
        no_outage(&pump);
        assert_eq!(pump.sa(0).children[0].suite.to_string(), MULTI_ESP);
    }
}

/// One request is late, and comes at each moment of the other end's series: "In this case, a TEMPORARY_FAILURE notification
/// MUST be sent in response to such a request."
#[test]
fn test_collision_delayed_request_multi_ke() {
    for (seed, late) in (0..SEEDS).flat_map(|seed| [(seed, 0), (seed, 1)]) {
        for exchanges in 0..2 {
            let first = 1 - late;
            let mut pump = both_rekey_of(up_multi(seed));
            let request = take(&mut pump, first);
            to(&mut pump, late);
            to(&mut pump, first);
            for _ in 0..exchanges {
                to(&mut pump, late);
                to(&mut pump, first);
            }
            assert_eq!(asked(&pump, late, ExchangeType::IKE_FOLLOWUP_KE), 1);
            pump.hand(&request);
            assert_eq!(said(&pump, first, "[N(TEMPORARY_FAILURE)]"), 1);
            calm_down(&mut pump);
            no_outage(&pump);
            assert_eq!(said(&pump, late, "N(REKEY_SA)"), 1, "it is not tried again");
        }
    }
}

/// One end rekeys what the other deletes, at each moment of the series.
#[test]
fn test_collision_delete_multi_ke() {
    for (deletes, rekeys) in [(0, 1), (1, 0)] {
        for messages in 0..6 {
            let mut pump = up_multi(0);
            pump.rekey_child(rekeys);
            for step in 0..messages {
                to(&mut pump, if step % 2 == 0 { deletes } else { rekeys });
            }
            let old = pair(&pump, deletes);
            pump.down(deletes, Some("net"));
            calm_or_gone(&mut pump, deletes, old);
        }
    }
}

fn calm_or_gone(pump: &mut Pump, deletes: usize, old: ChildSaId) {
    finish_deleted(pump, deletes);
    assert!(!pump.sad[deletes].pairs.contains_key(&old));
}
