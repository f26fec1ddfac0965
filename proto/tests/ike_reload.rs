//! A new configuration while SAs are up, or on their way: only what has to goes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;

use ike_pump::{Letter, Pump, child, side_a, side_b};
use landbridge_proto::crypto::{KeyKind, Secret, SigningKey};
use landbridge_proto::policy::change::{Changes, ChildChange};
use landbridge_proto::policy::connection::{
    Child, Config, Connection, Gateway, LocalCredential, RemoteCredential, StartAction,
};
use landbridge_proto::policy::proposal::{EspProposal, IkeProposal};
use landbridge_proto::policy::selector;
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn everything(_: &Letter) -> bool {
    true
}

fn of(list: Vec<Connection>) -> Arc<Config> {
    let connections = list.into_iter().map(|c| (Arc::clone(&c.name), Arc::new(c)));
    Arc::new(Config {
        connections: connections.collect(),
        gateway: Gateway::default(),
    })
}

fn reload(pump: &mut Pump, who: usize, list: Vec<Connection>) {
    let now = pump.at();
    pump.ends[who].reconfigure(now, of(list));
    pump.drain();
}

fn edit(connection: &mut Connection, edit: impl FnOnce(&mut Child)) {
    let mut child = Child::clone(&connection.children["net"]);
    edit(&mut child);
    connection.children.insert("net".into(), Arc::new(child));
}

fn spi(pump: &Pump) -> u32 {
    pump.sa(0).children[0].spis.0
}

fn psk(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

#[test]
fn what_holds_from_the_next_use_on_touches_nothing() {
    let mut pump = Pump::up(side_a(), side_b());
    let (sa, child, sad) = (pump.sa(0).spi_i, spi(&pump), pump.sad[0].changes);
    let mut new = side_a();
    new.dpd_delay = Some(5 * SECOND);
    new.ike_rekey_time = Some(3600 * SECOND);
    new.fragment_size = 1400;
    new.remote_addrs = vec![];
    new.remote.credential = RemoteCredential::Psk(vec![psk("a secret of both"), psk("the next one")]);
    edit(&mut new, |child| {
        child.rekey_time = Some(900 * SECOND);
        child.limits.soft_bytes = Some(1_000_000);
        child.replay_window = 128;
    });
    assert!(Changes::between(&side_a(), &new).restart.is_empty());
    reload(&mut pump, 0, vec![new]);
    assert!(pump.wire.is_empty(), "nothing is sent");
    assert_eq!((pump.sa(0).spi_i, spi(&pump), pump.sad[0].changes), (sa, child, sad));
    // From now on it is asked for a sign of life ...
    pump.run_for(6 * SECOND, everything);
    assert!(pump.saw(0, "INFORMATIONAL request"), "{:?}", pump.lines(0));
    // ... and the next pair lives as long as the new configuration says.
    pump.rekey_child(0);
    pump.deliver_all();
    let next = pump.sa(0).children[0].clone();
    assert_ne!(next.spis.0, child);
    assert!(next.rekey_at.is_some());
    assert_eq!(pump.sad[0].pairs[&next.id].replay_window, 128);
    pump.assert_joined();
}

#[test]
fn a_key_is_changed_without_an_outage() {
    let mut pump = Pump::up(side_a(), side_b());
    let sa = pump.sa(0).spi_i;
    let with = |mut side: Connection, own: &str, peers: &[&str]| {
        side.local.credential = LocalCredential::Psk(psk(own));
        side.remote.credential = RemoteCredential::Psk(peers.iter().map(|text| psk(text)).collect());
        side
    };
    let (old, new) = ("a secret of both", "the next one");
    for (own, peers) in [(old, &[old, new][..]), (new, &[old, new]), (new, &[new])] {
        for (who, side) in [side_a(), side_b()].into_iter().enumerate() {
            reload(&mut pump, who, vec![with(side, own, peers)]);
            pump.deliver_all();
        }
        assert_eq!(pump.sa(0).spi_i, sa, "{own}");
    }
    // What comes up from now on has the new one.
    pump.down(0, None);
    pump.deliver_all();
    pump.connect();
    pump.deliver_all();
    pump.assert_joined();
    assert_ne!(pump.sa(0).spi_i, sa);
}

#[test]
fn other_proposals_of_a_child_are_a_rekey() {
    let mut pump = Pump::up(side_a(), side_b());
    let (sa, before) = (pump.sa(0).spi_i, spi(&pump));
    let proposals = || vec![EspProposal::parse("aes128gcm16-ecp256").unwrap()];
    for (who, mut side) in [(1, side_b()), (0, side_a())] {
        edit(&mut side, |child| child.esp_proposals = proposals());
        // The responder's rekey meets the old proposals at the other end and is refused; the pair there is lives on.
        reload(&mut pump, who, vec![side]);
        pump.deliver_all();
        pump.assert_joined();
    }
    assert_eq!(pump.sa(0).spi_i, sa);
    assert_ne!(spi(&pump), before);
    assert_eq!(pump.sa(0).children[0].suite.to_string(), "aes128gcm16-ecp256");
    assert_eq!(pump.child_downs(0), 0, "make before break");
}

#[test]
fn children_come_go_and_begin_anew_alone() {
    let more = |mut side: Connection, local: &str, remote: &str, action| {
        side.children.insert(
            "more".into(),
            child("more", local, remote, "aes256gcm16-x25519", action),
        );
        side
    };
    let a = || more(side_a(), "10.3.0.0/16", "10.4.0.0/16", StartAction::Start);
    let b = || more(side_b(), "10.4.0.0/16", "10.3.0.0/16", StartAction::None);
    let mut pump = Pump::up(side_a(), side_b());
    let (sa, net) = (pump.sa(0).spi_i, spi(&pump));
    let net_of = |pump: &Pump| {
        let sa = pump.sa(0);
        let net = sa.children.iter().find(|child| &*child.child == "net");
        net.map(|child| child.spis.0)
    };

    reload(&mut pump, 1, vec![b()]);
    reload(&mut pump, 0, vec![a()]);
    pump.deliver_all();
    assert_eq!((pump.sa(0).children.len(), net_of(&pump)), (2, Some(net)));
    pump.assert_joined();

    // Other networks: only that child begins anew.
    let moved = |mut side: Connection, ours: bool| {
        let mut child = Child::clone(&side.children["more"]);
        let list = if ours {
            &mut child.local_ts
        } else {
            &mut child.remote_ts
        };
        *list = vec![selector::parse("10.5.0.0/16").unwrap()];
        side.children.insert("more".into(), Arc::new(child));
        side
    };
    reload(&mut pump, 1, vec![moved(b(), false)]);
    pump.deliver_all();
    reload(&mut pump, 0, vec![moved(a(), true)]);
    pump.deliver_all();
    pump.run_for(10 * SECOND, everything);
    pump.assert_joined();
    assert_eq!((pump.sa(0).children.len(), net_of(&pump)), (2, Some(net)));
    let sa_now = pump.sa(0);
    let child = sa_now.children.iter().find(|child| &*child.child == "more").unwrap();
    assert_eq!(child.local_ts[0].to_string(), "10.5.0.0/16");

    reload(&mut pump, 0, vec![side_a()]);
    pump.deliver_all();
    pump.run_for(10 * SECOND, everything);
    assert_eq!((pump.sa(0).spi_i, pump.sa(0).children.len(), spi(&pump)), (sa, 1, net));
    assert_eq!(pump.ends[1].spis_in_use(), 1);
}

#[test]
fn a_child_removed_while_it_is_being_made_does_not_stay() {
    let more = |mut side: Connection, local: &str, remote: &str| {
        let more = child("more", local, remote, "aes256gcm16-x25519", StartAction::Start);
        side.children.insert("more".into(), more);
        side
    };
    let a = more(side_a(), "10.3.0.0/16", "10.4.0.0/16");
    let b = more(side_b(), "10.4.0.0/16", "10.3.0.0/16");
    let mut pump = Pump::new(a.clone(), b);
    pump.connect();
    while !pump.wire.iter().any(|letter| letter.exchange().0 == 36) {
        pump.deliver(0);
    }
    reload(&mut pump, 0, vec![side_a()]);
    pump.deliver_all();
    pump.run_for(10 * SECOND, everything);
    assert_eq!(pump.sa(0).children.len(), 1);
    assert_eq!(pump.ends[1].spis_in_use(), 1);
    // It can come back.
    reload(&mut pump, 0, vec![a]);
    pump.deliver_all();
    assert_eq!(pump.sa(0).children.len(), 2);
}

#[test]
fn a_reload_while_connecting_kills_nothing() {
    // At either end, before each message of the setup, with a change in place or none at all.
    for who in 0..2 {
        for step in 0..4 {
            for change in [false, true] {
                let sides = [side_a(), side_b()];
                let mut pump = Pump::new(side_a(), side_b());
                pump.connect();
                for _ in 0..step {
                    if !pump.wire.is_empty() {
                        pump.deliver(0);
                    }
                }
                let mut side = sides[who].clone();
                if change {
                    side.dpd_delay = Some(60 * SECOND);
                    edit(&mut side, |child| child.rekey_time = Some(500 * SECOND));
                }
                reload(&mut pump, who, vec![side]);
                let first = pump.status(0)[0].spi_i;
                pump.deliver_all();
                pump.assert_joined();
                assert_eq!(pump.sa(0).spi_i, first, "end {who}, step {step}");
                assert!(pump.failures(0).is_empty() && pump.failures(1).is_empty());
            }
        }
    }
}

#[test]
fn what_was_agreed_on_otherwise_begins_anew_and_the_removed_goes() {
    let mut pump = Pump::up(side_a(), side_b());
    let before = pump.sa(0).spi_i;
    let mut new = side_a();
    new.ike_proposals = vec![IkeProposal::parse("aes256gcm16-prfsha256-ecp256").unwrap()];
    assert_eq!(Changes::between(&side_a(), &new).restart, ["proposals"]);
    reload(&mut pump, 0, vec![new]);
    // Begun again at once, while the Delete is still under way: the old SA is not taken for it.
    pump.connect();
    pump.deliver_all();
    pump.assert_joined();
    assert_ne!(pump.sa(0).spi_i, before);
    assert_eq!(pump.sa(0).suite.unwrap().group.to_string(), "ecp256");

    reload(&mut pump, 1, vec![]);
    pump.deliver_all();
    assert!(!pump.is_up(0) && !pump.is_up(1));
    assert_eq!(pump.ike_downs(0).len(), 2);
}

#[test]
fn a_delete_that_has_to_wait_does_not_take_the_new_sa_with_it() {
    let mut pump = Pump::up(side_a(), side_b());
    let before = pump.sa(0).spi_i;
    // A rekey is in flight, so the Delete is queued.
    pump.rekey_child(0);
    let mut new = side_a();
    new.ike_proposals = vec![IkeProposal::parse("aes256gcm16-prfsha256-ecp256").unwrap()];
    reload(&mut pump, 0, vec![new]);
    pump.connect();
    pump.deliver_all();
    pump.run_for(20 * SECOND, everything);
    pump.assert_joined();
    assert_ne!(pump.sa(0).spi_i, before);
}

/// A half-open SA that may belong to two connections outlives the removal of one of them.
#[test]
fn a_half_open_sa_loses_only_the_connection_that_is_gone() {
    let mut other = side_b();
    other.name = "other".into();
    other.remote.id = None;
    let mut pump = Pump::new(side_a(), side_b());
    reload(&mut pump, 1, vec![side_b(), other.clone()]);
    pump.connect();
    pump.deliver(0); // IKE_SA_INIT request
    reload(&mut pump, 1, vec![side_b()]);
    pump.deliver_all();
    pump.assert_joined();

    // And when its last is gone, it goes.
    let mut pump = Pump::new(side_a(), side_b());
    pump.connect();
    pump.deliver(0);
    assert_eq!(pump.status(1).len(), 1);
    reload(&mut pump, 1, vec![]);
    assert!(
        pump.status(1)
            .iter()
            .all(|sa| sa.stage == "closed" || sa.stage == "closing"),
        "{:?}",
        pump.stages()
    );
}

#[test]
fn every_change_is_named_and_what_is_not_known_is_a_restart() {
    let old = side_a();
    let mut new = old.clone();
    assert!(Changes::between(&old, &new).is_empty());
    new.local_addrs = vec!["192.0.2.1".parse().unwrap()];
    new.remote_addrs = vec!["192.0.2.2".parse().unwrap()];
    new.force_udp_encapsulation = true;
    new.local.id = old.remote.id.clone().unwrap();
    let changes = Changes::between(&old, &new);
    assert_eq!(changes.restart, ["remote_addrs", "local_addrs", "encap", "local.id"]);
    assert!(changes.in_place.is_empty() && changes.children.is_empty());
    // One more address of the peer: it is still where it may be.
    let mut more = new.clone();
    more.remote_addrs.push("192.0.2.3".parse().unwrap());
    assert_eq!(Changes::between(&new, &more).in_place, ["remote_addrs"]);
    assert_eq!(Changes::between(&more, &new).restart, ["remote_addrs"]);
    let child = |edit: fn(&mut Child)| {
        let mut child = Child::clone(&side_a().children["net"]);
        edit(&mut child);
        ChildChange::between(&side_a().children["net"], &child)
    };
    assert_eq!(child(|_| {}), None);
    assert_eq!(
        child(|c| c.start_action = StartAction::Trap),
        Some(ChildChange::InPlace(vec!["start_action"]))
    );
    assert_eq!(
        child(|c| c.esp_proposals.clear()),
        Some(ChildChange::Rekeyed(vec!["esp_proposals"]))
    );
    assert_eq!(
        child(|c| {
            c.esp_proposals.clear();
            c.remote_ts.clear();
        }),
        Some(ChildChange::Restarted(vec!["remote_ts", "esp_proposals"]))
    );
    assert_eq!(
        Changes::between(
            &old,
            &Connection {
                name: "x".into(),
                ..old.clone()
            }
        )
        .restart,
        ["other settings"]
    );
}

/// A raw public key that is taken off the list locks its owner out; one that is put on it, or a change of our own, does not.
#[test]
fn a_public_key_that_is_taken_away_ends_what_was_made_with_it() {
    let [old, new, other] =
        [1, 2, 3].map(|seed| Arc::new(SigningKey::from_secret(KeyKind::Ed25519, &[seed; 32]).unwrap()));
    let with = |mut side: Connection, own: &Arc<SigningKey>, peers: &[&Arc<SigningKey>]| {
        side.local.credential = LocalCredential::RawKey(Arc::clone(own));
        let peers = peers.iter().map(|key| key.verifying_key()).collect();
        side.remote.credential = RemoteCredential::RawKeys(peers);
        side
    };
    let mut pump = Pump::up(with(side_a(), &old, &[&other]), with(side_b(), &other, &[&old]));
    let sa = pump.sa(0).spi_i;
    reload(&mut pump, 1, vec![with(side_b(), &other, &[&new, &old])]);
    reload(&mut pump, 0, vec![with(side_a(), &new, &[&other])]);
    pump.deliver_all();
    assert_eq!(pump.sa(0).spi_i, sa);
    pump.assert_joined();
    reload(&mut pump, 1, vec![with(side_b(), &other, &[&new])]);
    assert!(
        pump.sad[1].pairs.is_empty(),
        "not a packet more, whether the peer answers or not"
    );
    let told = pump.failures(1);
    assert!(
        told.iter().any(|failure| failure.verdict.contains("was taken away")),
        "{told:?}"
    );
    pump.deliver_all();
    assert!(!pump.is_up(0));
    // It comes back with the key that it has now.
    pump.run_for(10 * SECOND, everything);
    pump.assert_joined();
    assert_ne!(pump.sa(0).spi_i, sa);
}
