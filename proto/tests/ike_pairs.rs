//! Several Child SA pairs of one child (RFC 9611): both ends say that they want them, who began the first begins the others,
//! each has its place, which rekeys keep, and what goes wrong with one does not hurt the others.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;

use ike_pump::{Pump, SITE, child, side_a, side_b};
use landbridge_proto::ike::{Command, Event};
use landbridge_proto::policy::connection::{Child, Connection, Gateway, StartAction};
use landbridge_proto::policy::sad::{ChildSaId, SadReport};
use landbridge_proto::policy::spi::owner_of;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

fn changed(mut connection: Connection, change: impl Fn(&mut Child)) -> Connection {
    let mut child = Child::clone(&connection.children["net"]);
    change(&mut child);
    connection.children.insert("net".into(), Arc::new(child));
    connection
}

fn with(connection: Connection, pairs: u16) -> Connection {
    changed(connection, |child| child.pairs = pairs)
}

fn up(a: u16, b: u16) -> Pump {
    let mut pump = Pump::new(with(side_a(), a), with(side_b(), b));
    pump.connect();
    pump.deliver_all();
    pump.assert_joined();
    pump
}

/// The places of an end's pairs in its data path.
fn places(pump: &Pump, who: usize) -> Vec<u16> {
    let mut places: Vec<u16> = pump.sad[who].pairs.values().map(|pair| pair.resource).collect();
    places.sort_unstable();
    places
}

/// Each pair of one end in the place that the other end has it in.
fn places_by_spi(pump: &Pump, who: usize) -> BTreeMap<u32, u16> {
    let spi = |pair: &landbridge_proto::policy::sad::ChildSaEntry| match who {
        0 => pair.inbound.spi,
        _ => pair.outbound.spi,
    };
    pump.sad[who]
        .pairs
        .values()
        .map(|pair| (spi(pair), pair.resource))
        .collect()
}

fn pair_in(pump: &Pump, who: usize, place: u16) -> ChildSaId {
    let mut pairs = pump.sad[who].pairs.values();
    pairs
        .find(|pair| pair.resource == place)
        .expect("a pair in this place")
        .id
}

#[test]
fn both_want_as_many() {
    let pump = up(4, 4);
    for who in [0, 1] {
        assert_eq!(places(&pump, who), [0, 1, 2, 3]);
        assert_eq!(pump.sad[who].active.len(), 4, "each place sends");
        let told: Vec<_> = pump.sa(who).children.iter().map(|child| child.pair.unwrap()).collect();
        assert_eq!(told, [(1, 4), (2, 4), (3, 4), (4, 4)]);
        assert_eq!(pump.ends[who].spis_in_use(), 4);
        assert_eq!(pump.failures(who).len(), 0);
    }
    assert!(pump.saw(1, "IKE_AUTH response 1 [IDr AUTH N(SA_RESOURCE_INFO) SA TSi TSr]"));
    // "However, each Child SA does have its own keying material": §3.
    let keys: std::collections::BTreeSet<_> = pump.sad[0]
        .pairs
        .values()
        .map(|pair| pair.inbound.key.expose().to_vec())
        .collect();
    assert_eq!(keys.len(), 4);
    // PFS is for those as it is configured, though the first, made in IKE_AUTH, has none.
    let groups: Vec<_> = pump
        .sa(0)
        .children
        .iter()
        .map(|child| child.suite.group.is_some())
        .collect();
    assert_eq!(groups, [false, true, true, true]);
}

/// What is not there at both ends is at neither.
#[test]
fn one_wants_several() {
    for (a, b) in [(4, 1), (1, 4), (1, 1)] {
        let mut pump = up(a, b);
        assert_eq!((places(&pump, 0), places(&pump, 1)), (vec![0], vec![0]), "{a} {b}");
        let said = "N(SA_RESOURCE_INFO)";
        assert_eq!((pump.said(0, said), pump.said(1, said)), (a > 1, false));
        for who in [0, 1, 0] {
            pump.rekey_child(who);
            pump.deliver_all();
            pump.run_for(Duration::from_secs(60), |_| true);
            pump.assert_joined();
            assert_eq!((places(&pump, 0), places(&pump, 1)), (vec![0], vec![0]));
        }
    }
}

/// Who begins has so many as it wants, if the other end takes them: "allowing at the very least double the number of available
/// CPUs is RECOMMENDED" (§6). "Responders should install the additional Child SA on a CPU with the least amount" (§4).
#[test]
fn unequal_counts() {
    for (a, b, at_b) in [
        (2, 8, vec![0, 1]),
        (3, 2, vec![0, 0, 1]),
        (8, 4, vec![0, 0, 1, 1, 2, 2, 3, 3]),
        // Beyond that TS_MAX_QUEUE, which is no failure.
        (16, 3, vec![0, 0, 1, 1, 2, 2]),
    ] {
        let mut pump = up(a, b);
        assert_eq!(places(&pump, 1), at_b, "{a} {b}");
        assert_eq!(places(&pump, 0), (0..at_b.len() as u16).collect::<Vec<_>>());
        let refused = usize::from(a) > 2 * usize::from(b);
        assert_eq!(pump.saw(0, "[N(TS_MAX_QUEUE)]"), refused);
        assert_eq!((pump.failures(0).len(), pump.failures(1).len()), (0, 0));
        // It is not asked again and again.
        let changes = pump.sad[0].changes;
        pump.run_for(Duration::from_secs(600), |_| true);
        assert_eq!(pump.sad[0].changes, changes);
        pump.assert_joined();
    }
}

/// §3: "the rekeyed Child SA should be bound to the same resource(s) as the Child SA that is being rekeyed", whoever does it.
#[test]
fn rekeys_keep_places() {
    let mut pump = up(4, 3);
    for who in [0, 1, 1, 0] {
        let before = [places_by_spi(&pump, 0), places_by_spi(&pump, 1)];
        pump.rekey_child(who);
        pump.deliver_all();
        pump.run_for(Duration::from_secs(60), |_| true);
        pump.assert_joined();
        assert_eq!(
            (places(&pump, 0), places(&pump, 1)),
            (vec![0, 1, 2, 3], vec![0, 0, 1, 2])
        );
        for end in [0, 1] {
            let after = places_by_spi(&pump, end);
            assert!(before[end].keys().all(|spi| !after.contains_key(spi)), "all are new");
        }
        // Each pair has taken the place of the one that it replaced, at both ends.
        let ups = |end: usize| {
            let ups = pump.events[end].iter().filter_map(|event| match event {
                Event::ChildUp(up) => Some((up.id, (up.rekeyed_from, up.pair.unwrap().0))),
                _ => None,
            });
            ups.collect::<BTreeMap<_, _>>()
        };
        for end in [0, 1] {
            let ups = ups(end);
            for (rekeyed_from, pair) in ups.values() {
                assert!(rekeyed_from.is_none_or(|old| ups[&old].1 == *pair));
            }
        }
        assert_eq!(pump.ends[0].spis_in_use(), 4);
    }
}

/// Both rekey the same pairs at once: no pair more than before, each in its place.
#[test]
fn crossing_rekeys() {
    let mut pump = up(3, 3);
    for _ in 0..4 {
        pump.rekey_child(0);
        pump.rekey_child(1);
        pump.deliver_all();
        pump.run_for(Duration::from_secs(60), |_| true);
        pump.assert_joined();
        assert_eq!((places(&pump, 0), places(&pump, 1)), (vec![0, 1, 2], vec![0, 1, 2]));
        assert_eq!((pump.failures(0).len(), pump.failures(1).len()), (0, 0));
    }
}

/// A limit is one of its pair alone.
#[test]
fn a_limit_concerns_one_pair() {
    let mut pump = up(3, 3);
    let before = places_by_spi(&pump, 0);
    let id = pair_in(&pump, 0, 1);
    pump.report(0, SadReport::SoftLimit(id));
    pump.deliver_all();
    pump.run_for(Duration::from_secs(60), |_| true);
    pump.assert_joined();
    let after = places_by_spi(&pump, 0);
    assert_eq!(before.iter().filter(|(spi, _)| after.contains_key(spi)).count(), 2);
    assert_eq!(places(&pump, 1), [0, 1, 2]);
    // At a hard limit the pair ends; another comes in its place.
    let id = pair_in(&pump, 0, 2);
    pump.report(0, SadReport::HardLimit(id));
    pump.deliver_all();
    assert_eq!(places(&pump, 0), [0, 1]);
    pump.run_for(Duration::from_secs(10), |_| true);
    pump.assert_joined();
    assert_eq!((places(&pump, 0), places(&pump, 1)), (vec![0, 1, 2], vec![0, 1, 2]));
}

/// The IKE SA is rekeyed while they are being made: the new one has those that there are, and gets the others.
#[test]
fn an_ike_rekey_takes_them_over() {
    for who in [0, 1] {
        let mut pump = Pump::new(with(side_a(), 4), with(side_b(), 4));
        pump.connect();
        while places(&pump, 0).len() < 2 {
            pump.deliver(0);
        }
        pump.command(
            who,
            Command::RekeyIke {
                connection: SITE.into(),
            },
        );
        pump.deliver_all();
        pump.run_for(Duration::from_secs(120), |_| true);
        pump.assert_joined();
        assert_eq!(
            (places(&pump, 0), places(&pump, 1)),
            (vec![0, 1, 2, 3], vec![0, 1, 2, 3])
        );
        pump.command(
            1 - who,
            Command::RekeyIke {
                connection: SITE.into(),
            },
        );
        pump.deliver_all();
        pump.run_for(Duration::from_secs(120), |_| true);
        pump.assert_joined();
        assert_eq!(
            (places(&pump, 0), places(&pump, 1)),
            (vec![0, 1, 2, 3], vec![0, 1, 2, 3])
        );
        pump.rekey_child(who);
        pump.deliver_all();
        pump.assert_joined();
    }
}

/// Both ends ask for the child at once, in an IKE SA that has none: one first pair stays, and its maker makes the others.
#[test]
fn both_ask_for_the_first() {
    let mut counts = BTreeMap::new();
    for seed in 0..12 {
        let both = |side: Connection| changed(with(side, 3), |child| child.start_action = StartAction::Start);
        let mut pump = Pump::with(both(side_a()), both(side_b()), seed, Gateway::default());
        pump.connect();
        pump.deliver_all();
        for who in [0, 1] {
            pump.down(who, Some("net"));
        }
        pump.deliver_all();
        assert_eq!((places(&pump, 0), places(&pump, 1)), (vec![], vec![]));
        for who in [0, 1] {
            let target = landbridge_proto::policy::connection::Target {
                local: pump.addresses[who],
                remote: pump.addresses[1 - who],
            };
            let (connection, child) = (SITE.into(), Some("net".into()));
            pump.command(
                who,
                Command::Up {
                    connection,
                    child,
                    target,
                },
            );
        }
        pump.deliver_all();
        pump.run_for(Duration::from_secs(60), |_| true);
        pump.assert_joined();
        for who in [0, 1] {
            assert_eq!(pump.sa(who).children.len(), 3, "seed {seed}");
            assert_eq!(places(&pump, who).len(), 3);
            assert_eq!(pump.ends[who].spis_in_use(), 3);
        }
        // The winner made them all.
        let asked = |who: usize| {
            let asked = |line: &&&str| line.starts_with("CREATE_CHILD_SA request");
            let sent = |event: &&Event| matches!(event, Event::Message { received: false, .. });
            let lines = pump.events[who].iter().filter(sent).filter_map(|event| match event {
                Event::Message { line, .. } => Some(line.as_str()),
                _ => None,
            });
            lines.collect::<Vec<_>>().iter().filter(asked).count()
        };
        *counts.entry(asked(0) > asked(1)).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 2, "either end wins: {counts:?}");
}

/// A child taken down goes with all its pairs, and comes back with all; so does a connection.
#[test]
fn down_and_up() {
    let mut pump = up(3, 3);
    for child in [Some("net"), None] {
        pump.down(0, child);
        pump.deliver_all();
        pump.run_for(Duration::from_secs(30), |_| true);
        for who in [0, 1] {
            assert_eq!(pump.sad[who].pairs.len(), 0);
            assert_eq!(pump.ends[who].spis_in_use(), 0);
        }
        pump.connect();
        pump.deliver_all();
        pump.run_for(Duration::from_secs(30), |_| true);
        pump.assert_joined();
        assert_eq!((places(&pump, 0), places(&pump, 1)), (vec![0, 1, 2], vec![0, 1, 2]));
    }
    // It is taken down while they are being made.
    pump.down(0, Some("net"));
    pump.deliver_all();
    pump.connect();
    pump.deliver(0);
    pump.deliver(0);
    pump.down(0, Some("net"));
    pump.deliver_all();
    pump.run_for(Duration::from_secs(30), |_| true);
    assert_eq!((places(&pump, 0), places(&pump, 1)), (vec![], vec![]));
}

/// Reauthentication makes all of them anew in the new IKE SA before the old one goes.
#[test]
fn authenticating_anew() {
    let mut a = with(side_a(), 3);
    a.reauth_time = Some(Duration::from_secs(100));
    let mut pump = Pump::up(a, with(side_b(), 3));
    let mut least = usize::MAX;
    for _ in 0..10 {
        pump.run_for(Duration::from_secs(15), |_| true);
        least = least.min(pump.sad[0].active.len()).min(pump.sad[1].active.len());
    }
    pump.assert_joined();
    assert_eq!(least, 3);
    assert_eq!((places(&pump, 0), places(&pump, 1)), (vec![0, 1, 2], vec![0, 1, 2]));
    assert!(!pump.ike_downs(0).is_empty());
}

/// The inbound SAs of one child are spread over the workers.
#[test]
fn workers_in_turn() {
    let gateway = Gateway {
        workers: 4,
        ..Gateway::default()
    };
    let mut pump = Pump::with(with(side_a(), 6), with(side_b(), 3), 5, gateway);
    pump.connect();
    pump.deliver_all();
    for turn in 0..3 {
        pump.assert_joined();
        for who in [0, 1] {
            let pairs = || pump.sad[who].pairs.values();
            let owner = |place| owner_of(pairs().find(|pair| pair.resource == place).unwrap().inbound.spi);
            let first = owner(0);
            for pair in pairs() {
                let expected = (u16::from(first) + pair.resource) % 4;
                assert_eq!(
                    u16::from(owner_of(pair.inbound.spi)),
                    expected,
                    "place {}",
                    pair.resource
                );
            }
        }
        pump.rekey_child(turn % 2);
        pump.deliver_all();
        pump.run_for(Duration::from_secs(60), |_| true);
    }
}

/// A child that the peer takes in parts has several pairs of each.
#[test]
fn parts_have_pairs_each() {
    let mut two = Child::clone(&with(side_a(), 2).children["net"]);
    two.local_ts
        .push(landbridge_proto::policy::selector::parse("10.3.0.0/16").unwrap());
    let mut a = side_a();
    a.children.insert("net".into(), Arc::new(two));
    let mut b = with(side_b(), 2);
    let mut other = Child::clone(&child(
        "other",
        "10.2.0.0/16",
        "10.3.0.0/16",
        "aes256gcm16-x25519",
        StartAction::None,
    ));
    other.pairs = 2;
    b.children.insert("other".into(), Arc::new(other));
    let mut pump = Pump::new(a, b);
    pump.connect();
    pump.deliver_all();
    assert_eq!(places(&pump, 0), [0, 0, 1, 1]);
    assert_eq!(places(&pump, 1), [0, 0, 1, 1]);
    pump.assert_joined();
}

/// Another number is another interface, and other pairs.
#[test]
fn a_reload_that_changes_it() {
    use landbridge_proto::policy::change::ChildChange;
    let [old, new] = [1, 4].map(|pairs| with(side_a(), pairs));
    let change = ChildChange::between(&old.children["net"], &new.children["net"]);
    assert_eq!(change, Some(ChildChange::Restarted(vec!["pairs"])));
    assert_eq!((old.pairs(), new.pairs()), (1, 4));
}
