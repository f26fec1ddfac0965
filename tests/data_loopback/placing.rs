//! A tunnel's queue goes from worker to worker, by how busy they are.

use crate::SOME;
use crate::support::static_keys::{Pair, Side, Tunnel, name};
use crate::support::transfer::one_way;
use crate::support::{World, wait_until};
use landbridge::data::{DataOptions, DataPlane, Placement};
use landbridge_proto::policy::sad::{ChildSaId, SadUpdate};
use landbridge_proto::policy::spi::OWNER_SHIFT;
use std::sync::Arc;
use std::time::Duration;

fn workers(workers: usize, placement: Placement) -> DataOptions {
    DataOptions {
        workers,
        placement,
        ..DataOptions::default()
    }
}

/// Queues go round as often as they can.
fn restless(test: &str, count: usize) -> Option<Pair> {
    Pair::up(test, workers(count, Placement::Restless), Tunnel::default())
}

fn moved(side: &Side) -> u64 {
    side.with(|data, _| data.queues_moved())
}

/// While a queue goes round as often as it can: data both ways, and pairs that come and go in the midst of it: nothing is lost, nothing
/// comes twice.
#[test]
fn nothing_is_lost_on_the_way() {
    /// Pairs by which A sends, one after the other.
    const PAIRS: u64 = 1500;
    for count in [2, 3] {
        let Some(mut pair) = restless("a queue that goes round", count) else {
            return;
        };
        // What the kernel itself multicasts on an interface that comes up may come before the first SA.
        let before = [&pair.a, &pair.b].map(|side| side.dropped("no_sa"));
        pair.carries(SOME);
        pair.b.with(|data, _| {
            for id in 1..=PAIRS {
                data.apply(&SadUpdate::InstallInbound(Tunnel::default().entry(false, id)));
            }
        });
        let flood = flood(&mut pair.world);
        // What comes to A comes by the first pair all the time.
        pair.a.with(move |data, _| {
            for id in 1..=PAIRS {
                let mut entry = Arc::unwrap_or_clone(Tunnel::default().entry(true, id));
                // So the places that the queue goes to differ.
                entry.inbound.spi |= (id as u32 % count as u32) << OWNER_SHIFT;
                let (id, before) = (ChildSaId(id), ChildSaId(id - 1));
                data.apply(&SadUpdate::InstallInbound(Arc::new(entry)));
                data.apply(&SadUpdate::ActivateOutbound {
                    id,
                    replaces: Some(before),
                });
                if before.0 > 0 {
                    data.apply(&SadUpdate::Remove(before));
                }
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        pair.world.end(flood, libc::SIGINT);
        one_way(&pair.world, "a", "b", "10.2.0.1", SOME);
        one_way(&pair.world, "b", "a", "10.1.0.1", SOME);
        for (side, before) in [&pair.a, &pair.b].into_iter().zip(before) {
            let moves = moved(side);
            assert!(moves > 50, "{moves}");
            assert_eq!(side.dropped("no_sa"), before);
            for cause in ["replayed", "too_old", "integrity", "handover"] {
                assert_eq!(side.dropped(cause) + side.stray(cause), 0, "{cause}");
            }
        }
    }
}

/// An order holds for every packet read after it was given, also if the queue was on its way: what is deactivated sends nothing.
#[test]
fn an_order_finds_a_queue_on_its_way() {
    let Some(mut pair) = restless("a queue that has not heard", 2) else {
        return;
    };
    let pings = pair.world.spawn(
        "a",
        "pings.log",
        "ping",
        &["-q", "-i", "0.001", "-w", "600", "10.2.0.1"],
    );
    // A move takes a packet that was read, and there are few while nothing is sent.
    let mut round = 0;
    while round < 400 || (moved(&pair.a) <= 100 && round < 4000) {
        round += 1;
        let silent = pair.a.with(|data, _| {
            let id = ChildSaId(0);
            data.apply(&SadUpdate::DeactivateOutbound(id));
            let sent = |data: &DataPlane| data.stats(&name()).total.outbound.packets;
            // A packet that was read before may be sealed later; a worker that has not heard goes on and on.
            let silent = (0..5).any(|_| {
                let before = sent(data);
                std::thread::sleep(Duration::from_millis(4));
                sent(data) == before
            });
            data.apply(&SadUpdate::ActivateOutbound { id, replaces: None });
            silent
        });
        assert!(silent, "round {round}");
    }
    assert_ne!(pair.world.end(pings, libc::SIGINT), None);
    let moves = moved(&pair.a);
    assert!(moves > 100, "{moves}");
}

/// An interface is removed, and another has its number, while its queue goes round.
#[test]
fn an_interface_goes_while_its_queue_goes_round() {
    let Some(mut pair) = restless("a queue of what is gone", 2) else {
        return;
    };
    let flood = flood(&mut pair.world);
    for id in 1..20 {
        assert!(pair.ping("10.2.0.1"), "{id}");
        // Nobody keeps the queue, or it would not be gone.
        pair.renew_interface(id);
    }
    assert!(pair.ping("10.2.0.1"));
    pair.world.end(flood, libc::SIGINT);
    assert!(moved(&pair.a) > 5 && moved(&pair.b) > 5);
}

/// Pings from A to B as fast as answers come, for a minute at most; which child of the world does it.
fn flood(world: &mut World) -> usize {
    let options = ["-f", "-q", "-w", "60", "10.2.0.1"];
    world.spawn("a", "flood.log", "ping", &options)
}

/// Little to do brings both directions together, much parts them, little brings them together again.
#[test]
fn by_load() {
    let Some(pair) = Pair::up("a queue and the load", workers(2, Placement::ByLoad), Tunnel::default()) else {
        return;
    };
    // It begins where the inbound SA is not.
    let little = |side: &Side, moves: u64| {
        wait_until(
            "few packets bring both directions together",
            Duration::from_secs(10),
            || {
                assert!(pair.ping("10.2.0.1"));
                moved(side) == moves
            },
        );
    };
    little(&pair.a, 1);
    for _ in 0..10 {
        assert!(pair.ping("10.2.0.1"));
    }
    assert_eq!(moved(&pair.a), 1, "it stays where it is best");
    wait_until("many packets part them", Duration::from_secs(60), || {
        one_way(&pair.world, "a", "b", "10.2.0.1", 20 * SOME);
        moved(&pair.a) >= 2
    });
    // Whether it came back between two transfers or not: in the end it does.
    wait_until("and few bring them together again", Duration::from_secs(10), || {
        assert!(pair.ping("10.2.0.1"));
        moved(&pair.a) % 2 == 1
    });
}

/// There is nowhere to go.
#[test]
fn one_worker_keeps_its_queue() {
    let Some(pair) = restless("one worker and a queue", 1) else {
        return;
    };
    pair.carries(SOME);
    assert_eq!(moved(&pair.a), 0);
}
