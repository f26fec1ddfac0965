//! A child that the peer takes only in parts, each in a Child SA of its own (RFC 7296 §2.9).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;

use ike_pump::{Pump, child, side_a, side_b};
use landbridge_proto::policy::connection::{Connection, StartAction};
use landbridge_proto::policy::selector;
use landbridge_proto::wire::TrafficSelector;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn list(texts: &[&str]) -> Vec<TrafficSelector> {
    texts.iter().map(|text| selector::parse(text).unwrap()).collect()
}

const OURS: [&str; 2] = ["10.1.0.0/24", "10.1.1.0/24"];
const THEIRS: [&str; 3] = ["10.2.0.0/24", "10.2.1.0/24", "10.2.2.0/24"];

/// One child with several selectors at one end.
fn whole(start_action: StartAction) -> Connection {
    let mut a = side_a();
    let net = Arc::make_mut(a.children.get_mut("net").unwrap());
    (net.local_ts, net.remote_ts) = (list(&OURS), list(&THEIRS));
    net.start_action = start_action;
    a
}

/// A child for each two selectors, but for those left out, at the other.
fn apart(but: &[(&str, &str)]) -> Connection {
    let mut b = side_b();
    b.children.clear();
    for local in THEIRS {
        for remote in OURS {
            if !but.contains(&(remote, local)) {
                let name = format!("{local}-{remote}");
                let net = child(&name, local, remote, "aes256gcm16-x25519", StartAction::None);
                b.children.insert(Arc::clone(&net.name), net);
            }
        }
    }
    b
}

/// What the pairs of the first end are for, and that the other has the same.
fn pairs(pump: &Pump) -> BTreeSet<(String, String)> {
    let words = |list: &[TrafficSelector]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let [a, b] = [0, 1].map(|who| pump.sa(who).children);
    let mine = a.iter().map(|pair| (words(&pair.local_ts), words(&pair.remote_ts)));
    let theirs = b.iter().map(|pair| (words(&pair.remote_ts), words(&pair.local_ts)));
    let mine: BTreeSet<_> = mine.collect();
    assert_eq!(mine, theirs.collect());
    assert_eq!((mine.len(), mine.len()), (a.len(), b.len()), "none is there twice");
    mine
}

fn all() -> BTreeSet<(String, String)> {
    let product = OURS
        .iter()
        .flat_map(|l| THEIRS.iter().map(|r| (l.to_string(), r.to_string())));
    product.collect()
}

/// "The ADDITIONAL_TS_POSSIBLE notification asserts that the responder narrowed the proposed Traffic Selectors but that other
/// Traffic Selectors would also have been acceptable, though only in a separate SA."
#[test]
fn what_was_narrowed_away_is_asked_for() {
    let mut pump = Pump::new(whole(StartAction::Start), apart(&[]));
    pump.connect();
    pump.run_for(10 * SECOND, |_| true);
    assert_eq!(pairs(&pump), all());
    assert!(pump.saw(0, "N(ADDITIONAL_TS_POSSIBLE)"));
    assert!(pump.failures(0).is_empty() && pump.failures(1).is_empty());
    // Each lives by itself: they are rekeyed,
    let before = pump.sa(0).children;
    pump.rekey_child(0);
    pump.run_for(10 * SECOND, |_| true);
    let after = pump.sa(0).children;
    assert_eq!(pairs(&pump), all());
    assert!(after.iter().all(|pair| before.iter().all(|old| old.id != pair.id)));
    // and come back one by one, also after a rekey of the IKE SA.
    let name = Arc::clone(&pump.sa(1).children[2].child);
    pump.down(1, Some(&*name));
    pump.deliver_all();
    assert_eq!(pairs(&pump).len(), 5);
    pump.command(
        0,
        landbridge_proto::ike::Command::RekeyIke {
            connection: ike_pump::SITE.into(),
        },
    );
    pump.run_for(SECOND / 2, |_| true);
    let target = landbridge_proto::policy::connection::Target {
        local: pump.sa(1).path.local,
        remote: pump.sa(1).path.remote,
    };
    pump.command(
        1,
        landbridge_proto::ike::Command::Up {
            connection: ike_pump::SITE.into(),
            child: Some(name),
            target,
        },
    );
    pump.run_for(20 * SECOND, |_| true);
    assert_eq!(pairs(&pump), all());
}

/// A part that the peer does not want is asked for once, and told.
#[test]
fn a_part_that_is_refused() {
    let but = ("10.1.1.0/24", "10.2.1.0/24");
    let mut pump = Pump::new(whole(StartAction::Start), apart(&[but]));
    pump.connect();
    pump.run_for(300 * SECOND, |_| true);
    let mut expected = all();
    expected.remove(&(but.0.to_owned(), but.1.to_owned()));
    assert_eq!(pairs(&pump), expected);
    assert_eq!(pump.failures(0).len(), 1, "{:?}", pump.failures(0));
}

/// Without a child that the peer has in parts, narrowing is what it was: one pair, nothing more is asked for.
#[test]
fn a_narrower_peer_is_left_alone() {
    let mut b = side_b();
    let net = Arc::make_mut(b.children.get_mut("net").unwrap());
    (net.local_ts, net.remote_ts) = (list(&THEIRS[..2]), list(&OURS));
    let mut pump = Pump::new(whole(StartAction::Start), b);
    pump.connect();
    pump.run_for(100 * SECOND, |_| true);
    assert_eq!(pairs(&pump).len(), 1);
    assert!(!pump.saw(0, "CREATE_CHILD_SA"));
}
