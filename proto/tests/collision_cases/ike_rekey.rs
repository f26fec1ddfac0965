//! `test_ike_rekey`: IKE SA rekeys, alone and crossing others (RFC 7296 §2.8.2, §2.25.2).

use super::*;
use crate::peer::messages::{delete_ike, ike_transforms, ke, ke_of, notify_with, proposal, sa, sa_of, transform};
use crate::peer::{Message, Tester};
use landbridge_proto::crypto::{Group, IKE_PROVIDER};
use landbridge_proto::wire::{ExchangeType, NotifyType, Payload, ProtocolId, TransformType};

/// Both have asked; nothing is delivered.
fn both_rekey(seed: u8) -> Pump {
    let mut pump = up_with(seed);
    rekey_ike(&mut pump, 0);
    rekey_ike(&mut pump, 1);
    assert_eq!(pump.wire.len(), 2);
    pump
}

/// Another IKE SA, and not a change in the data path.
fn rekeyed(pump: &mut Pump, before: landbridge_proto::wire::IkeSpi, changes: [usize; 2]) {
    calm_down(pump);
    assert_ne!(pump.sa(0).spi_i, before);
    assert_eq!(
        [pump.sad[0].changes, pump.sad[1].changes],
        changes,
        "the Child SAs were inherited"
    );
    assert_eq!(pump.child_downs(0) + pump.child_downs(1), 0);
}

fn changes(pump: &Pump) -> [usize; 2] {
    [pump.sad[0].changes, pump.sad[1].changes]
}

#[test]
fn test_regular() {
    for who in 0..2 {
        let mut pump = up();
        let (spi, changes) = (pump.sa(0).spi_i, changes(&pump));
        rekey_ike(&mut pump, who);
        to(&mut pump, 1 - who);
        to(&mut pump, who);
        to(&mut pump, 1 - who);
        to(&mut pump, who);
        assert!(pump.wire.is_empty(), "four messages: whoever asked sent the Delete");
        rekeyed(&mut pump, spi, changes);
        assert!(pump.sa(who).initiator);
    }
}

/// §1.3: "In the case of such a rejection, the CREATE_CHILD_SA exchange fails, and the initiator will probably retry the
/// exchange with a Diffie-Hellman proposal and KEi in the group that the responder gave". As requester and as responder.
/// (Two endpoints always have the group in use in common: the other one is played by hand.)
#[test]
fn test_regular_ke_invalid() {
    let mut t = Tester::up_as_responder(side_a());
    t.command(rekey());
    let first = t.next_request().unwrap();
    assert_eq!(ke_of(&first.payloads).unwrap().0, Group::Curve25519.method());
    t.respond(&first.header, &[invalid_ke(Group::Ecp256)]);
    let second = t.next_request().unwrap();
    assert_eq!(ke_of(&second.payloads).unwrap().0, Group::Ecp256.method());
    assert_eq!(second.header.message_id, first.header.message_id + 1, "a new exchange");
    let transforms = |message: &Message| sa_of(&message.payloads).unwrap().proposals[0].transforms.clone();
    assert_eq!(
        transforms(&first),
        transforms(&second),
        "all that is offered is offered again"
    );
    // A group that was not offered, and one that is asked for again and again: that is no loop.
    t.respond(&second.header, &[invalid_ke(Group::Modp2048)]);
    assert!(t.next_request().is_none());
    assert!(t.is_up());

    let mut t = Tester::up(side_b());
    let wrong = ike_request(&mut t, Group::Modp2048);
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &wrong).unwrap();
    let notify = answer
        .notify(NotifyType::INVALID_KE_PAYLOAD)
        .expect("INVALID_KE_PAYLOAD");
    assert_eq!(notify.data, Group::Curve25519.method().0.to_be_bytes());
    assert_eq!(t.status().len(), 1, "nothing was made");
    t.rekey_ike();
    assert!(t.is_up());
}

fn rekey() -> Command {
    Command::RekeyIke {
        connection: SITE.into(),
    }
}

fn invalid_ke(group: Group) -> Payload {
    notify_with(NotifyType::INVALID_KE_PAYLOAD, &group.method().0.to_be_bytes())
}

/// A request to rekey the IKE SA that offers Curve25519 and another group, with a KE of that one.
fn ike_request(t: &mut Tester, group: Group) -> Vec<Payload> {
    let mut transforms = ike_transforms();
    transforms.push(transform(TransformType::KE, group.method().0));
    let method = (IKE_PROVIDER.key_exchange)(group).unwrap();
    let ke = ke(group.method(), method.initiate(&mut t.rng).public());
    let nonce = t.nonce(32);
    vec![sa(vec![proposal(1, ProtocolId::IKE, &[9; 8], transforms)]), nonce, ke]
}

/// §2.8.2: both ask, both notice.
#[test]
fn test_collision() {
    let mut winners = [0, 0];
    for seed in 0..SEEDS {
        let mut pump = both_rekey(seed);
        let (spi, changes) = (pump.sa(0).spi_i, changes(&pump));
        to(&mut pump, 1);
        to(&mut pump, 0);
        assert!(pump.wire.iter().all(Letter::is_response));
        to(&mut pump, 0);
        to(&mut pump, 1);
        rekeyed(&mut pump, spi, changes);
        winners[usize::from(pump.sa(1).initiator)] += 1;
    }
    assert!(winners[0] > 0 && winners[1] > 0, "{winners:?}");
}

/// Both ask with a group that the other end does not take. Neither makes an SA, so nothing has crossed yet; then both ask
/// again, and the peer's is the one that stays.
#[test]
fn test_collision_ke_invalid() {
    let (mut t, retry) = both_refused();
    let old = t.rekey_ike();
    let new = std::mem::replace(&mut t.sa, old);
    // T answers like one that did not notice.
    t.refuse(&retry.header, NotifyType::TEMPORARY_FAILURE);
    t.sa = new;
    assert!(t.is_up());
    t.pass(10 * SECOND);
    assert!(
        t.next_request().is_none(),
        "§2.8.2: it \"can forget its own rekey attempt\""
    );
    t.assert_alive();
    assert_eq!(t.pairs(), 1);
}

/// The second request of one end is late: the other end has rekeyed, and deleted the old SA before it comes.
#[test]
fn test_collision_ke_invalid_delayed_retry() {
    let (mut t, _late) = both_refused();
    let old = t.rekey_ike();
    let new = std::mem::replace(&mut t.sa, old);
    // §2.25.2: "reply as usual, and forget about its own rekeying request".
    let answer = t
        .request(ExchangeType::INFORMATIONAL, &[delete_ike()])
        .expect("an answer");
    assert_eq!(answer.payloads, vec![]);
    t.out.clear();
    t.sa = new;
    t.pass(60 * SECOND);
    assert!(t.out.is_empty(), "the old request is not repeated");
    assert!(t.is_up());
    t.assert_alive();
    assert_eq!((t.status().len(), t.pairs()), (1, 1));
}

/// T and the DUT have refused each other's group, and the DUT has asked again.
fn both_refused() -> (Tester, Message) {
    let mut t = Tester::up(side_b());
    t.command(rekey());
    let first = t.next_request().unwrap();
    let wrong = ike_request(&mut t, Group::Modp2048);
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &wrong).unwrap();
    assert!(answer.has(NotifyType::INVALID_KE_PAYLOAD));
    t.respond(&first.header, &[invalid_ke(Group::Ecp256)]);
    let retry = t.next_request().unwrap();
    assert_eq!(ke_of(&retry.payloads).unwrap().0, Group::Ecp256.method());
    (t, retry)
}

/// One answer is late: the other end has settled, and deleted what it was to delete.
#[test]
fn test_collision_delayed_response() {
    for (seed, late) in (0..SEEDS).flat_map(|seed| [(seed, 0), (seed, 1)]) {
        let mut pump = both_rekey(seed);
        let (spi, changes) = (pump.sa(0).spi_i, changes(&pump));
        to(&mut pump, 1);
        to(&mut pump, 0);
        let answer = take(&mut pump, late);
        to(&mut pump, 1 - late);
        pump.deliver_all();
        pump.hand(&answer);
        rekeyed(&mut pump, spi, changes);
    }
}

/// One request is lost: only the end that sent it notices. §2.8.2: it "can forget its own rekey attempt".
#[test]
fn test_collision_dropped_request() {
    for (seed, lost) in (0..SEEDS).flat_map(|seed| [(seed, 0), (seed, 1)]) {
        let mut pump = both_rekey(seed);
        let (spi, changes) = (pump.sa(0).spi_i, changes(&pump));
        take(&mut pump, lost);
        pump.deliver_all();
        rekeyed(&mut pump, spi, changes);
        assert!(pump.sa(lost).initiator, "the one that came through");
    }
}

/// One request is late: the other end has rekeyed, and its Delete is on the way.
#[test]
fn test_collision_delayed_request() {
    for (seed, late) in (0..SEEDS).flat_map(|seed| [(seed, 0), (seed, 1)]) {
        let first = 1 - late;
        let mut pump = both_rekey(seed);
        let (spi, changes) = (pump.sa(0).spi_i, changes(&pump));
        let request = take(&mut pump, first);
        to(&mut pump, late);
        to(&mut pump, first);
        pump.hand(&request);
        let refusal = pump.wire.iter().position(Letter::is_response).expect("an answer");
        pump.deliver(refusal);
        assert!(pump.saw(late, "[N(TEMPORARY_FAILURE)]"), "{:?}", pump.lines(late));
        rekeyed(&mut pump, spi, changes);
        assert!(pump.sa(first).initiator);
    }
}

/// The same, and the Delete comes before the refusal.
#[test]
fn test_collision_delayed_request_and_delete() {
    for (seed, late) in (0..SEEDS).flat_map(|seed| [(seed, 0), (seed, 1)]) {
        let first = 1 - late;
        let mut pump = both_rekey(seed);
        let (spi, changes) = (pump.sa(0).spi_i, changes(&pump));
        let request = take(&mut pump, first);
        to(&mut pump, late);
        to(&mut pump, first);
        pump.hand(&request);
        let refusal = pump.wire.iter().position(Letter::is_response).expect("an answer");
        let refusal = pump.wire.remove(refusal);
        // §2.8.2: "it knows that the other peer did not detect the simultaneous rekey".
        to(&mut pump, late);
        let before = pump.wire.len();
        pump.hand(&refusal);
        assert_eq!(pump.wire.len(), before, "too late to matter");
        rekeyed(&mut pump, spi, changes);
        assert!(pump.sa(first).initiator);
    }
}

/// One end rekeys what the other deletes: TEMPORARY_FAILURE for the rekey; §2.25.2: "reply as usual, and forget about its own
/// rekeying request".
#[test]
fn test_collision_delete() {
    for deletes in 0..2 {
        let mut pump = up();
        pump.reconnect = false;
        rekey_ike(&mut pump, 1 - deletes);
        pump.down(deletes, None);
        to(&mut pump, deletes);
        to(&mut pump, 1 - deletes);
        pump.deliver_all();
        assert_eq!(said(&pump, deletes, "[N(TEMPORARY_FAILURE)]"), 1);
        all_gone(&mut pump);
    }
}

/// The same, the Delete is lost at first.
#[test]
fn test_collision_delete_drop_delete() {
    for deletes in 0..2 {
        let mut pump = up();
        pump.reconnect = false;
        rekey_ike(&mut pump, 1 - deletes);
        pump.down(deletes, None);
        take(&mut pump, 1 - deletes);
        to(&mut pump, deletes);
        to(&mut pump, 1 - deletes);
        assert!(pump.saw(1 - deletes, "[N(TEMPORARY_FAILURE)]"));
        assert!(pump.wire.is_empty());
        all_gone(&mut pump);
    }
}

fn all_gone(pump: &mut Pump) {
    pump.run_for(60 * SECOND, |_| true);
    for who in 0..2 {
        let load = pump.ends[who].load();
        assert_eq!(
            (load.ike_sas, load.child_sas, load.spis, load.timers),
            (0, 0, 0, 0),
            "end {who}"
        );
        assert!(pump.sad[who].pairs.is_empty());
    }
}

/// Three key exchanges: the new IKE SA is made after the last.
#[test]
fn test_regular_multi_ke() {
    for who in 0..2 {
        let mut pump = up_multi(0);
        let (spi, changes) = (pump.sa(0).spi_i, changes(&pump));
        rekey_ike(&mut pump, who);
        to(&mut pump, 1 - who);
        for _ in 0..2 {
            to(&mut pump, who);
            assert_eq!(asked(&pump, 1 - who, ExchangeType::IKE_FOLLOWUP_KE), 1);
            assert_eq!([pump.status(0).len(), pump.status(1).len()], [1, 1]);
            to(&mut pump, 1 - who);
        }
        rekeyed(&mut pump, spi, changes);
        assert_eq!(pump.sa(who).suite.unwrap().to_string(), MULTI_IKE);
        assert!(pump.sa(who).initiator);
    }
}

/// Both have asked; nothing is delivered.
fn both_rekey_of(mut pump: Pump) -> Pump {
    rekey_ike(&mut pump, 0);
    rekey_ike(&mut pump, 1);
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
        let (spi, changes) = (pump.sa(0).spi_i, changes(&pump));
        for who in [1, 0, 0, 1] {
            to(&mut pump, who);
        }
        let asked = [1, 0].map(|to| asked(&pump, to, ExchangeType::IKE_FOLLOWUP_KE));
        assert!(asked == [1, 0] || asked == [0, 1], "{asked:?}");
        assert_eq!([pump.status(0).len(), pump.status(1).len()], [1, 1]);
        winners[asked[1]] += 1;
        rekeyed(&mut pump, spi, changes);
        assert!(pump.sa(asked[1]).initiator);
    }
    assert!(winners[0] > 0 && winners[1] > 0, "{winners:?}");
}

/// B's exchange has one key exchange, A's three. If B's stays, A just stops; if A's does, B deletes its own.
#[test]
fn test_collision_mixed() {
    let mut winners = [0, 0];
    for seed in 0..SEEDS {
        // Whoever answers chooses by its own order; and the first IKE SA has three: else none are offered in its rekey.
        let ike = [&[IKE, MULTI_IKE][..], &[MULTI_IKE, IKE][..]];
        let mut pump = both_rekey_of(up_proposing(seed, ike, [&[ESP], &[ESP]]));
        let (spi, changes) = (pump.sa(0).spi_i, changes(&pump));
        for who in [1, 0, 0, 1] {
            to(&mut pump, who);
        }
        let stays = 1 - asked(&pump, 1, ExchangeType::IKE_FOLLOWUP_KE);
        winners[stays] += 1;
        rekeyed(&mut pump, spi, changes);
        assert!(pump.sa(stays).initiator);
        assert_eq!(pump.sa(0).suite.unwrap().to_string(), [MULTI_IKE, IKE][stays]);
    }
    assert!(winners[0] > 0 && winners[1] > 0, "{winners:?}");
}

/// One answer is late: the other end has compared the nonces, and has gone on or stopped, before it comes.
#[test]
fn test_collision_delayed_response_multi_ke() {
    for (seed, late) in (0..SEEDS).flat_map(|seed| [(seed, 0), (seed, 1)]) {
        let mut pump = both_rekey_of(up_multi(seed));
        let (spi, changes) = (pump.sa(0).spi_i, changes(&pump));
        to(&mut pump, 1);
        to(&mut pump, 0);
        let answer = take(&mut pump, late);
        pump.deliver_all();
        pump.hand(&answer);
        rekeyed(&mut pump, spi, changes);
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
            let (spi, changes) = (pump.sa(0).spi_i, changes(&pump));
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
            rekeyed(&mut pump, spi, changes);
            assert!(pump.sa(first).initiator);
        }
    }
}

/// One end rekeys what the other deletes, at each moment of the series.
#[test]
fn test_collision_delete_multi_ke() {
    for deletes in 0..2 {
        for messages in 0..6 {
            let mut pump = up_multi(0);
            pump.reconnect = false;
            rekey_ike(&mut pump, 1 - deletes);
            for step in 0..messages {
                to(&mut pump, if step % 2 == 0 { deletes } else { 1 - deletes });
            }
            pump.down(deletes, None);
            all_gone(&mut pump);
        }
    }
}
