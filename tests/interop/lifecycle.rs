//! Rekeys, deletes, and a peer that dies and comes back.

use super::support::transfer::{TWENTY_MB, one_way, ping};
use super::support::wait_until;
use super::{Pair, Scenario};
use std::time::Duration;

#[test]
fn strongswan_rekeys_the_child() {
    for esp in ["aes256gcm16", "aes256gcm16-x25519"] {
        let Some(pair) = Pair::start(
            "strongSwan rekeys",
            &Scenario {
                esp,
                ..Scenario::default()
            },
        ) else {
            return;
        };
        let before = pair.spis();
        pair.theirs.peer(&["rekey"]);
        wait_until("the SPIs changed", Duration::from_secs(10), || pair.spis() != before);
        pair.rekeyed("Child by peer");
        pair.move_data();
        wait_until("one Child SA is left", Duration::from_secs(20), || children(&pair) == 1);
    }
}

#[test]
fn we_rekey_the_child() {
    for (esp, initiate) in [
        ("aes256gcm16", true),
        ("chacha20poly1305-ecp256", true),
        ("aes256gcm16-x25519", false),
    ] {
        let Some(pair) = Pair::start(
            "we rekey",
            &Scenario {
                esp,
                initiate,
                ..Scenario::default()
            },
        ) else {
            return;
        };
        let before = pair.spis();
        pair.ours.client(&pair.world, &["rekey", "peer"]);
        wait_until("the SPIs changed", Duration::from_secs(10), || pair.spis() != before);
        pair.rekeyed("Child by us");
        pair.move_data();
        wait_until("one Child SA is left", Duration::from_secs(20), || children(&pair) == 1);
    }
}

#[test]
fn strongswan_rekeys_the_ike_sa() {
    let Some(pair) = Pair::start("strongSwan rekeys the IKE SA", &Scenario::default()) else {
        return;
    };
    let spi = |pair: &Pair| pair.ours.connection(&pair.world, "peer")["ike_sas"][0]["spi_i"].to_string();
    let (before, children_before) = (spi(&pair), pair.spis());
    pair.theirs.peer(&["rekey-ike"]);
    wait_until("another IKE SA is there", Duration::from_secs(10), || {
        spi(&pair) != before
    });
    wait_until("it is the only one", Duration::from_secs(20), || {
        pair.ours.connection(&pair.world, "peer")["ike_sas"]
            .as_array()
            .is_some_and(|list| list.len() == 1)
    });
    assert_eq!(
        pair.spis(),
        children_before,
        "RFC 7296 §2.8: the Child SAs are inherited"
    );
    pair.rekeyed("IKE by peer");
    pair.move_data();
    pair.ours.client(&pair.world, &["rekey", "peer"]);
    wait_until("the Child SA is rekeyed under it", Duration::from_secs(10), || {
        pair.spis() != children_before
    });
    pair.move_data();
}

#[test]
fn a_rekey_while_data_move_loses_nothing() {
    let Some(pair) = Pair::start(
        "rekey under load",
        &Scenario {
            esp: "aes256gcm16-x25519",
            ..Scenario::default()
        },
    ) else {
        return;
    };
    std::thread::scope(|scope| {
        let load = scope.spawn(|| one_way(&pair.world, "ha", "hb", "10.2.0.2", 3 * TWENTY_MB));
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(300));
            pair.ours.client(&pair.world, &["rekey", "peer"]);
            std::thread::sleep(Duration::from_millis(300));
            pair.theirs.peer(&["rekey"]);
        }
        load.join().unwrap();
    });
    pair.rekeyed("Child by us and peer, three times each");
    pair.move_data();
}

#[test]
fn strongswan_deletes() {
    let Some(pair) = Pair::start(
        "strongSwan deletes",
        &Scenario {
            initiate: false,
            ..Scenario::default()
        },
    ) else {
        return;
    };
    pair.move_data();
    pair.theirs.peer(&["terminate"]);
    pair.ours.wait_down(&pair.world, "peer");
    pair.theirs.peer(&["initiate"]);
    pair.ours.wait_up(&pair.world, "peer");
    pair.move_data();
}

#[test]
fn we_delete() {
    let Some(pair) = Pair::start("we delete", &Scenario::default()) else {
        return;
    };
    pair.move_data();
    pair.ours.client(&pair.world, &["down", "peer"]);
    pair.ours.wait_down(&pair.world, "peer");
    wait_until("strongSwan knows", Duration::from_secs(5), || {
        !pair.theirs.status().contains("ESTABLISHED")
    });
    assert!(
        !ping(&pair.world, "ha", "10.2.0.2"),
        "a packet got through without an SA"
    );
    pair.ours.client(&pair.world, &["up", "peer"]);
    pair.ours.wait_up(&pair.world, "peer");
    pair.move_data();
}

#[test]
fn strongswan_is_killed_and_comes_back() {
    let scenario = Scenario {
        more: "dpd_delay = \"1s\"",
        ..Scenario::default()
    };
    let Some(pair) = Pair::start("strongSwan dies", &scenario) else {
        return;
    };
    pair.move_data();
    pair.theirs.kill();
    // Nobody tells us: the liveness check finds out, and we try for ever.
    wait_until("we noticed", Duration::from_secs(60), || {
        !pair.ours.is_up(&pair.world, "peer")
    });
    pair.theirs.start(&[
        "LOCAL=198.51.100.2",
        "REMOTE=192.0.2.1",
        "LOCAL_ID=peer.example",
        "REMOTE_ID=gw.example",
        "LOCAL_TS=10.2.0.0/24",
        "REMOTE_TS=10.1.0.0/24",
        "PSK=interop-test-only",
        "IKE=aes256-sha256-x25519",
        "ESP=aes256gcm16",
    ]);
    wait_until("the tunnel came back by itself", Duration::from_secs(60), || {
        pair.ours.is_up(&pair.world, "peer")
    });
    pair.move_data();
}

#[test]
fn a_restarted_initiator_replaces_its_old_sas() {
    let scenario = Scenario {
        initiate: false,
        ..Scenario::default()
    };
    let Some(pair) = Pair::start("strongSwan restarts", &scenario) else {
        return;
    };
    pair.theirs.kill();
    pair.theirs.start(&[
        "LOCAL=198.51.100.2",
        "REMOTE=192.0.2.1",
        "LOCAL_ID=peer.example",
        "REMOTE_ID=gw.example",
        "LOCAL_TS=10.2.0.0/24",
        "REMOTE_TS=10.1.0.0/24",
        "PSK=interop-test-only",
        "IKE=aes256-sha256-x25519",
        "ESP=aes256gcm16",
    ]);
    pair.theirs.peer(&["initiate"]);
    // RFC 7296 §2.4: INITIAL_CONTACT tells that this is the only IKE SA; the old one goes at once.
    wait_until("one IKE SA is left", Duration::from_secs(10), || {
        pair.ours.connection(&pair.world, "peer")["ike_sas"]
            .as_array()
            .is_some_and(|list| list.len() == 1)
    });
    pair.move_data();
}

fn children(pair: &Pair) -> usize {
    let connection = pair.ours.connection(&pair.world, "peer");
    let list = connection["ike_sas"].as_array().cloned().unwrap_or_default();
    list.iter()
        .map(|ike| ike["children"].as_array().map_or(0, Vec::len))
        .sum()
}
