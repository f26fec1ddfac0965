//! What goes in comes out: workers, offloads, ciphers, pairs that follow each other.

use crate::SOME;
use crate::support::static_keys::{GCM, Pair, Tunnel, find, name};
use crate::support::transfer::one_way;
use landbridge::data::DataOptions;
use landbridge_proto::crypto::{CipherSuite, Encryption, Integrity};
use landbridge_proto::policy::sad::{ChildSaId, SadReport, SadUpdate};
use std::time::Duration;

#[test]
fn one_worker() {
    let Some(pair) = Pair::up("one worker", DataOptions::default(), Tunnel::default()) else {
        return;
    };
    pair.carries(4 * SOME);
    let id = ChildSaId(0);
    for report in [SadReport::FirstInbound(id), SadReport::Alive(id), SadReport::Sent(id)] {
        assert!(pair.a.told(report) && pair.b.told(report), "{report:?}");
    }
}

#[test]
fn two_workers_with_every_owner() {
    for owner in [0, 1] {
        let options = DataOptions {
            workers: 2,
            pin: true,
            ..DataOptions::default()
        };
        let tunnel = Tunnel {
            owner,
            ..Tunnel::default()
        };
        let Some(pair) = Pair::up("two workers", options, tunnel) else {
            return;
        };
        pair.carries(SOME);
        assert_eq!(pair.a.stray("unknown_spi") + pair.b.stray("unknown_spi"), 0);
    }
}

#[test]
fn without_each_offload() {
    type Change = fn(&mut DataOptions);
    let changes: [(&str, Change); 5] = [
        ("no UDP_SEGMENT", |o| o.udp_gso = false),
        ("no UDP_GRO", |o| o.udp_gro = false),
        ("no joining", |o| o.coalesce = false),
        ("no offload on the TUN", |o| o.tun_offload = false),
        ("nothing", |o| {
            (o.udp_gso, o.udp_gro, o.coalesce, o.tun_offload) = (false, false, false, false);
        }),
    ];
    for (what, change) in changes {
        let mut options = DataOptions::default();
        change(&mut options);
        let Some(pair) = Pair::up(what, options, Tunnel::default()) else {
            return;
        };
        eprintln!("{what}");
        pair.carries(SOME);
    }
}

#[test]
fn over_ipv6_and_with_other_ciphers() {
    let cbc = CipherSuite {
        encryption: Encryption::AesCbc256,
        integrity: Some(Integrity::HmacSha256_128),
    };
    let chacha = CipherSuite {
        encryption: Encryption::ChaCha20Poly1305,
        integrity: None,
    };
    for (suite, esn, ipv6_outside) in [
        (GCM, true, true),
        (GCM, false, false),
        (chacha, true, false),
        (cbc, false, true),
    ] {
        let tunnel = Tunnel {
            suite,
            esn,
            ipv6_outside,
            ..Tunnel::default()
        };
        let Some(pair) = Pair::up("IPv6, ciphers", DataOptions::default(), tunnel) else {
            return;
        };
        pair.carries(SOME / 5);
    }
}

/// A rekey while data flows, old pair to new pair, and back and forth between owners.
#[test]
fn pairs_follow_each_other_under_load() {
    let options = DataOptions {
        workers: 2,
        ..DataOptions::default()
    };
    let Some(pair) = Pair::up("rekey", options, Tunnel::default()) else {
        return;
    };
    std::thread::scope(|scope| {
        let load = scope.spawn(|| one_way(&pair.world, "a", "b", "10.2.0.1", 100 * SOME));
        let mut id = 0;
        while !load.is_finished() {
            id += 1;
            let tunnel = Tunnel {
                owner: id as u32 % 2,
                ..Tunnel::default()
            };
            pair.install(tunnel, id);
            pair.activate(id, Some(id - 1));
            std::thread::sleep(Duration::from_millis(20));
            for side in [&pair.a, &pair.b] {
                side.apply(SadUpdate::Remove(ChildSaId(id - 1)));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        eprintln!("{id} rekeys");
        assert!(id > 3);
    });
    let stats = pair.b.with(|data, _| data.stats(&name()));
    assert!(
        stats.total.inbound.bytes > 100 * SOME as u64,
        "the past counts: {stats:?}"
    );
    assert_eq!(stats.children.len(), 1);
    for cause in ["replayed", "integrity", "too_old", "malformed"] {
        assert_eq!(find(&stats.total.drops, cause), 0, "{cause}");
    }
}
