//! Rekeying the IKE SA (RFC 7296 §1.3.2, §2.8.2, §2.18, §2.25.2): the new SA inherits, the old one is deleted, and whatever
//! crosses ends with one SA at both ends and no Child SA lost.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ike_pump;

use ike_pump::{Letter, Pump, side_a, side_b};
use landbridge_proto::ike::{Command, Event};
use landbridge_proto::policy::connection::{Connection, Gateway};
use landbridge_proto::wire::ExchangeType;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use std::time::Duration;

/// Jitter is a tenth of it: less than the time after which an unanswered request is given up.
const REKEY: Duration = Duration::from_secs(100);
const SECOND: Duration = Duration::from_secs(1);

fn rekeying(mut connection: Connection) -> Connection {
    connection.ike_rekey_time = Some(REKEY);
    connection
}

fn everything(_: &Letter) -> bool {
    true
}

/// Time passes until the ends in `who` have sent their request to rekey the IKE SA; nothing is delivered.
fn until_requested(pump: &mut Pump, who: &[usize]) {
    pump.wire.clear();
    let asked = |pump: &Pump, who: usize| pump.wire.iter().any(|letter| letter.to == 1 - who);
    while !who.iter().all(|who| asked(pump, *who)) {
        pump.tick();
    }
    // Retransmissions of the one that waited for the other are not needed.
    let mut seen: Vec<Vec<u8>> = vec![];
    pump.wire.retain(|letter| {
        let new = !seen.contains(&letter.octets);
        seen.push(letter.octets.clone());
        new
    });
    assert_eq!(pump.wire.len(), who.len());
}

/// §1.3.2: "The first IKE requests from both sides on the new IKE SA will have Message ID 0"; "the initiator in this rekey
/// exchange is the new "original initiator" of the new IKE SA". §2.8: the Child SAs are inherited, and none is touched.
#[test]
fn either_end_rekeys_and_the_children_move_over() {
    for who in 0..2 {
        let (mut a, mut b) = (side_a(), side_b());
        if who == 0 { &mut a } else { &mut b }.ike_rekey_time = Some(REKEY);
        let mut pump = Pump::up(a, b);
        let before = [pump.sa(0), pump.sa(1)];
        let changes = [pump.sad[0].changes, pump.sad[1].changes];
        assert!(before[who].rekey_at.is_some());
        pump.run_for(REKEY, everything);
        pump.assert_joined();
        for end in 0..2 {
            let after = pump.sa(end);
            assert_ne!((after.spi_i, after.spi_r), (before[end].spi_i, before[end].spi_r));
            assert_eq!(after.initiator, end == who);
            assert_eq!(after.children, before[end].children);
            assert_eq!(after.peer, before[end].peer);
            assert_eq!(pump.sad[end].changes, changes[end], "the data path does not notice");
            assert_eq!(pump.ike_downs(end), ["it was rekeyed"]);
            let replaced =
                |event: &Event| matches!(event, Event::IkeUp(up) if up.rekeyed_from == Some(before[end].spi_i));
            assert!(pump.events[end].iter().any(replaced));
        }
        // The new SA works: each end asks something by it, from ID 0.
        for end in 0..2 {
            pump.rekey_child(end);
            assert_eq!(
                (pump.wire[0].exchange(), pump.wire[0].message_id()),
                (ExchangeType::CREATE_CHILD_SA, 0)
            );
            assert_eq!(pump.wire[0].octets[19] & 0x08 != 0, end == who, "the I flag");
            pump.run_for(10 * SECOND, everything);
            pump.assert_joined();
        }
        pump.run_for(60 * SECOND, everything);
        assert_eq!(
            (pump.status(0).len(), pump.status(1).len()),
            (1, 1),
            "the old one is gone"
        );
    }
}

/// The operator asks for it, at either end, before its time.
#[test]
fn on_command() {
    let mut pump = Pump::up(side_a(), side_b());
    for who in [0, 1, 0] {
        let before = pump.sa(who);
        pump.command(
            who,
            Command::RekeyIke {
                connection: ike_pump::SITE.into(),
            },
        );
        pump.run_for(10 * SECOND, everything);
        pump.assert_joined();
        let after = pump.sa(who);
        assert_ne!((after.spi_i, after.spi_r), (before.spi_i, before.spi_r));
        assert_eq!(after.children, before.children);
        assert!(after.initiator);
    }
}

/// One rekey after the other, by whoever comes first.
#[test]
fn again_and_again() {
    let mut pump = Pump::up(rekeying(side_a()), rekeying(side_b()));
    for _ in 0..10 {
        pump.run_for(REKEY, everything);
        pump.assert_joined();
    }
    assert!(pump.ike_downs(0).len() >= 9);
    assert_eq!(pump.child_downs(0) + pump.child_downs(1), 0);
    assert!(pump.failures(0).is_empty() && pump.failures(1).is_empty());
}

/// Any one message lost, the answer repeats and nothing is made twice (§2.1).
#[test]
fn any_message_may_be_lost_or_come_twice() {
    for lost in 0..6 {
        let mut pump = Pump::up(rekeying(side_a()), side_b());
        let mut count = 0;
        pump.run_for(REKEY + 60 * SECOND, |_| {
            count += 1;
            count != lost + 1
        });
        pump.assert_joined();
        assert_eq!(
            (pump.status(0).len(), pump.status(1).len()),
            (1, 1),
            "message {lost} lost"
        );
        assert_eq!(pump.child_downs(0) + pump.child_downs(1), 0);

        let mut pump = Pump::up(rekeying(side_a()), side_b());
        until_requested(&mut pump, &[0]);
        let request = pump.wire[0].clone();
        pump.deliver(0);
        let answer = pump.wire[0].clone();
        pump.hand(&request);
        assert_eq!(pump.wire[1].octets, answer.octets, "the same answer, octet for octet");
        pump.deliver_all();
        pump.hand(&request);
        pump.deliver_all();
        pump.assert_joined();
    }
}

/// §2.8.2: "The new IKE SA containing the lowest nonce SHOULD be deleted by the node that created it, and the other surviving
/// new IKE SA MUST inherit all the Child SAs."
#[test]
fn when_both_rekey_the_lowest_nonce_loses() {
    let mut winners = [0, 0];
    for seed in 0..20 {
        let mut pump = Pump::with(rekeying(side_a()), rekeying(side_b()), seed, Gateway::default());
        pump.connect();
        pump.deliver_all();
        let changes = pump.sad[0].changes + pump.sad[1].changes;
        until_requested(&mut pump, &[0, 1]);
        // Both requests arrive before either answer.
        pump.deliver(0);
        pump.deliver(0);
        assert_eq!(pump.wire.len(), 2);
        assert!(pump.wire.iter().all(Letter::is_response));
        pump.deliver_all();
        pump.run_for(75 * SECOND, everything);
        pump.assert_joined();
        assert_eq!(
            (pump.status(0).len(), pump.status(1).len()),
            (1, 1),
            "{:#?}",
            pump.status(0)
        );
        winners[usize::from(pump.sa(1).initiator)] += 1;
        assert_eq!(
            pump.sad[0].changes + pump.sad[1].changes,
            changes,
            "no Child SA is touched"
        );
        assert!(
            !pump
                .events
                .iter()
                .flatten()
                .any(|event| matches!(event, Event::NeedTarget { .. }))
        );
    }
    assert!(winners[0] > 0 && winners[1] > 0, "{winners:?}");
}

/// While it is open which of the two new SAs stays, the peer's begins nothing; what was wanted meanwhile is done afterwards.
#[test]
fn nothing_is_begun_by_a_contested_sa() {
    for seed in 0..10 {
        let mut pump = Pump::with(rekeying(side_a()), rekeying(side_b()), seed, Gateway::default());
        pump.connect();
        pump.deliver_all();
        let old = pump.sad[0].active["net"];
        until_requested(&mut pump, &[0, 1]);
        pump.deliver(0);
        pump.deliver(0);
        pump.rekey_child(0);
        assert_eq!(pump.wire.len(), 2, "just the two answers");
        pump.run_for(75 * SECOND, everything);
        pump.assert_joined();
        assert_ne!(pump.sad[0].active["net"], old, "the Child SA was rekeyed");
        assert_eq!((pump.sad[0].pairs.len(), pump.sad[1].pairs.len()), (1, 1));
    }
}

/// The same with answers, deletes and retransmissions in any order, some lost: it always ends well.
#[test]
fn crossing_rekeys_in_any_order() {
    for seed in 0..200 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut pump = Pump::with(
            rekeying(side_a()),
            rekeying(side_b()),
            u8::try_from(seed).unwrap(),
            Gateway::default(),
        );
        pump.connect();
        pump.deliver_all();
        until_requested(&mut pump, &[0, 1]);
        for _ in 0..60 {
            match rng.next_u32() % 10 {
                0 if !pump.wire.is_empty() => {
                    let index = rng.next_u32() as usize % pump.wire.len();
                    pump.wire.remove(index);
                }
                1 if !pump.wire.is_empty() => {
                    let index = rng.next_u32() as usize % pump.wire.len();
                    let again = pump.wire[index].clone();
                    pump.hand(&again);
                }
                // A retransmission, but not so many that an end gives up.
                2 if pump.next_timer().is_some_and(|(at, _)| at <= pump.now + 3 * SECOND) => pump.tick(),
                _ if !pump.wire.is_empty() => {
                    let index = rng.next_u32() as usize % pump.wire.len();
                    pump.deliver(index);
                }
                _ => {}
            }
        }
        pump.run_for(75 * SECOND, everything);
        if let Err(problem) = pump.joined() {
            panic!("seed {seed}: {problem}\n{:#?}\n{:#?}", pump.events[0], pump.lines(1));
        }
        // An SA whose maker forgot it (its answer was lost) is deleted in vain: it may be just about gone.
        let left = pump
            .stages()
            .into_iter()
            .flatten()
            .filter(|(_, stage)| *stage != "closing");
        assert_eq!(left.count(), 2, "seed {seed}: {:?}", pump.stages());
        assert_eq!(
            pump.child_downs(0) + pump.child_downs(1),
            0,
            "seed {seed}: {:#?} {:#?}",
            pump.lines(0),
            pump.ike_downs(0)
        );
    }
}

/// §2.8.2's figure: B's request crosses A's rekey, and A has finished before it sees it: "it SHOULD return
/// TEMPORARY_FAILURE because it is an IKE SA that it is currently trying to close"; B "can forget its own rekey attempt".
#[test]
fn one_end_does_not_notice_the_crossing() {
    for late in [false, true] {
        let mut pump = Pump::up(rekeying(side_a()), rekeying(side_b()));
        until_requested(&mut pump, &[0, 1]);
        let of_b = pump.wire.iter().position(|letter| letter.to == 0).unwrap();
        let req2 = pump.wire.remove(of_b);
        pump.deliver(0); // req1
        pump.deliver(0); // resp1: A has rekeyed, and deletes the old SA
        if late {
            pump.deliver_all();
            pump.hand(&req2);
        } else {
            pump.hand(&req2);
            assert!(pump.saw(0, "N(TEMPORARY_FAILURE)"));
        }
        pump.deliver_all();
        pump.run_for(30 * SECOND, everything);
        pump.assert_joined();
        assert!(pump.sa(0).initiator, "A's is the one");
        assert_eq!((pump.status(0).len(), pump.status(1).len()), (1, 1));
        assert_eq!(pump.child_downs(0) + pump.child_downs(1), 0);
    }
}

/// §2.25.1: "If a peer receives a request to rekey the IKE SA, and it is currently creating, rekeying, or closing a Child SA
/// of that IKE SA, it SHOULD reply with TEMPORARY_FAILURE." §2.25.2: so it does to a request about a Child SA while it
/// rekeys the IKE SA. §2.25: "it MUST NOT immediately retry the operation".
#[test]
fn a_child_rekey_that_crosses_waits_and_so_does_the_other() {
    let mut pump = Pump::up(rekeying(side_a()), side_b());
    until_requested(&mut pump, &[0]);
    pump.rekey_child(1);
    pump.deliver(0);
    pump.deliver(0);
    assert!(
        pump.saw(0, "CREATE_CHILD_SA response 0 [N(TEMPORARY_FAILURE)]"),
        "{:?}",
        pump.lines(0)
    );
    assert!(
        pump.saw(1, "CREATE_CHILD_SA response 2 [N(TEMPORARY_FAILURE)]"),
        "{:?}",
        pump.lines(1)
    );
    pump.deliver_all();
    let began = pump.now;
    pump.tick();
    assert!(pump.now.saturating_since(began) >= 5 * SECOND);
    pump.run_for(60 * SECOND, everything);
    pump.assert_joined();
    assert!(
        pump.saw(0, "CREATE_CHILD_SA request 0 [N(REKEY_SA)") || pump.saw(1, "CREATE_CHILD_SA request 1 [N(REKEY_SA)")
    );
    assert_eq!(pump.ike_downs(0), ["it was rekeyed"]);
}

/// §2.25: "If a peer continues to receive TEMPORARY_FAILURE on the same IKE SA after several minutes, it SHOULD conclude that
/// the state information is out of sync and close the IKE SA." §2.8: one that can't be rekeyed in time is closed too, and a
/// new one is begun.
#[test]
fn what_can_not_be_rekeyed_is_closed_and_begun_anew() {
    let mut pump = Pump::up(rekeying(side_a()), side_b());
    let first = pump.sa(0).spi_i;
    // The peer's answers to CREATE_CHILD_SA never arrive, whatever they are; everything else does.
    pump.run_for(REKEY * 12 / 10, |letter| {
        !(letter.exchange() == ExchangeType::CREATE_CHILD_SA && letter.is_response())
    });
    pump.run_for(60 * SECOND, everything);
    pump.assert_joined();
    assert_ne!(pump.sa(0).spi_i, first);
}

/// An order to take the connection down that comes in the middle of a rekey takes down what the rekey makes.
#[test]
fn down_and_shutdown_in_the_middle() {
    for (crossing, shutdown) in [(false, false), (false, true), (true, false), (true, true)] {
        let (a, b) = (rekeying(side_a()), if crossing { rekeying(side_b()) } else { side_b() });
        let mut pump = Pump::up(a, b);
        pump.reconnect = false;
        until_requested(&mut pump, if crossing { &[0, 1] } else { &[0] });
        if crossing {
            pump.deliver(0);
            pump.deliver(0);
        }
        if shutdown {
            pump.command(0, Command::Shutdown);
        } else {
            pump.down(0, None);
        }
        pump.run_for(120 * SECOND, everything);
        assert!(
            !pump.is_up(0) && !pump.is_up(1),
            "{crossing} {shutdown}: {:#?}",
            pump.status(0)
        );
        assert_eq!((pump.sad[0].pairs.len(), pump.sad[1].pairs.len()), (0, 0));
        if shutdown {
            assert_eq!(
                pump.events[0].iter().filter(|e| **e == Event::ShutdownComplete).count(),
                1
            );
        }
    }
}

/// The peer restarts while an old SA still lingers: what it had is gone, the new one is up.
#[test]
fn a_peer_that_dies_after_the_rekey_is_found_dead_once() {
    let mut a = rekeying(side_a());
    a.dpd_delay = Some(20 * SECOND);
    let mut pump = Pump::up(a, rekeying(side_b()));
    pump.run_for(REKEY, everything);
    pump.assert_joined();
    pump.reconnect = false;
    pump.run_for(200 * SECOND, |_| false);
    assert!(!pump.is_up(0));
    let wanted = pump.events[0]
        .iter()
        .filter(|e| matches!(e, Event::NeedTarget { .. }))
        .count();
    assert_eq!(wanted, 1);
    assert_eq!(pump.sad[0].pairs.len(), 0);
}
