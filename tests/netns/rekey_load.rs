//! Rekeys under load: a byte lifetime forces one about every second, and no inner packet is lost.

use super::support::gateway::Gateway;
use super::support::stream::{Rate, Stream};
use super::support::transfer::{TWENTY_MB, one_way};
use super::support::{World, run};
use super::{Options, initiator, responder};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

/// What a path with a debug build on two busy processors carries without loss.
const RATE: Rate = Rate {
    datagrams: 4000,
    len: 1000,
    time: Duration::from_secs(6),
};

/// Octets after which each direction of an SA is used up, at that rate about a second.
const LIFETIME: &str = "rekey_bytes = \"4 MB\"\nlife_bytes = \"40 MB\"\n";

/// Two gateways, of which A, B or both have the lifetime.
fn pair(
    test: &str,
    options: &Options,
    lifetime: &str,
    (a_rekeys, b_rekeys): (bool, bool),
    prepare: impl FnOnce(&mut World),
) -> Option<super::Pair> {
    if !super::support::privileged(test) {
        return None;
    }
    let limited = |text: String, limited: bool| {
        if limited {
            text.replace("start_action", &format!("{lifetime}start_action"))
        } else {
            text
        }
    };
    let mut world = World::two_sites(options.nat, options.mtu);
    prepare(&mut world);
    let b = Gateway::start(&mut world, "gb", &limited(responder(options), b_rekeys));
    let a = Gateway::start(&mut world, "ga", &limited(initiator(options), a_rekeys));
    a.wait_up(&world, "site");
    b.wait_up(&world, "site");
    // What a worker that waits for a processor finds later is not lost: 500 packets are an eighth of a second.
    for ns in ["ga", "gb"] {
        world.ip(ns, &["link", "set", "lb-site", "txqueuelen", "2000"]);
    }
    Some(super::Pair { world, a, b })
}

/// Puts a wire between gateway A and the network that delays ESP, and lets some of it overtake the rest by far.
fn bad_wire(world: &mut World) {
    world.add("wire");
    world.ip("net", &["link", "del", "eth0"]);
    for (ns, device, end) in [("ga", "wan0", "w0"), ("net", "eth0", "w1")] {
        let (there, wire) = (world.ns(ns), world.ns("wire"));
        let words = [
            "link", "add", device, "netns", &there, "type", "veth", "peer", "name", end, "netns", &wire,
        ];
        run(Command::new("ip").args(words));
        world.ip(ns, &["link", "set", device, "up"]);
        world.ip("wire", &["link", "set", end, "up"]);
    }
    world.ip("ga", &["addr", "add", "192.0.2.1/24", "dev", "wan0"]);
    world.ip("net", &["addr", "add", "192.0.2.254/24", "dev", "eth0"]);
    world.ip("ga", &["route", "add", "default", "via", "192.0.2.254"]);
    let impair = concat!(env!("CARGO_MANIFEST_DIR"), "/netns-scripts/peers/impair");
    let netns = world.ns("wire");
    let words = [
        "start",
        "--netns",
        &netns,
        "--a",
        "w0",
        "--b",
        "w1",
        "only=esp",
        "delay=5",
        "reorder=20",
        "gap=80",
    ];
    let state = run(Command::new(impair).args(words)).stdout;
    world.at_end(&[impair, "stop", String::from_utf8_lossy(&state).trim()]);
}

/// Counts the Child SAs that come and go until `done`.
fn rekeys(pair: &super::Pair, mut done: impl FnMut() -> bool) -> usize {
    let mut spis = BTreeSet::new();
    while !done() {
        let site = pair.a.connection(&pair.world, "site");
        for ike in site["ike_sas"].as_array().into_iter().flatten() {
            for child in ike["children"].as_array().into_iter().flatten() {
                spis.insert(child["spi_in"].to_string());
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    spis.len() - 1
}

/// Whatever a gateway counted as dropped.
fn drops(gateway: &Gateway, world: &World) -> Vec<(String, u64)> {
    let (all, site) = (gateway.status(world), gateway.connection(world, "site"));
    let counted = [&all["drops"], &site["drops"]];
    let list = counted.into_iter().flat_map(|drops| drops.as_object().unwrap());
    list.map(|(cause, count)| (cause.clone(), count.as_u64().unwrap()))
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[test]
fn numbered_datagrams_survive_a_rekey_a_second_whoever_begins() {
    for (who, gateway) in [((true, false), ""), ((false, true), ""), ((true, true), "workers = 2")] {
        let options = Options {
            esp: "aes256gcm16-esn-x25519",
            gateway,
            ..Options::default()
        };
        let Some(pair) = pair("rekeys, numbered", &options, LIFETIME, who, |_| ()) else {
            return;
        };
        let there = Stream::start(&pair.world, "ha", "hb", "10.2.0.2", RATE);
        let back = Stream::start(&pair.world, "hb", "ha", "10.1.0.2", RATE);
        let end = Instant::now() + RATE.time;
        let count = rekeys(&pair, || Instant::now() > end);
        for outcome in [there.finish(), back.finish()] {
            eprintln!("{who:?} {gateway}: {count} rekeys, {outcome:?}");
            assert_eq!((outcome.lost, outcome.doubled), (0, 0), "{outcome:?}");
            assert!(outcome.sent > RATE.datagrams * RATE.time.as_secs() / 2, "{outcome:?}");
        }
        assert!(count >= 4, "only {count} rekeys");
        for gateway in [&pair.a, &pair.b] {
            assert_eq!(drops(gateway, &pair.world), []);
        }
    }
}

/// What was sealed by the old SA still comes in when the new one has long been in use: so the old one lingers
/// (RFC 7296 §2.8). Without that, this loses a few in each rekey.
#[test]
fn what_is_overtaken_by_a_rekey_arrives() {
    let rate = Rate { datagrams: 800, ..RATE };
    for who in [(true, false), (false, true)] {
        let options = Options {
            esp: "aes256gcm16-esn-x25519",
            ..Options::default()
        };
        let lifetime = "rekey_bytes = \"800 kB\"\n";
        let Some(pair) = pair("rekeys, overtaken", &options, lifetime, who, bad_wire) else {
            return;
        };
        let there = Stream::start(&pair.world, "ha", "hb", "10.2.0.2", rate);
        let back = Stream::start(&pair.world, "hb", "ha", "10.1.0.2", rate);
        let end = Instant::now() + rate.time;
        let count = rekeys(&pair, || Instant::now() > end);
        for outcome in [there.finish(), back.finish()] {
            eprintln!("{who:?}: {count} rekeys, {outcome:?}");
            assert_eq!((outcome.lost, outcome.doubled), (0, 0), "{outcome:?}");
            assert!(outcome.late > 100, "nothing was overtaken: {outcome:?}");
        }
        assert!(count >= 3, "only {count} rekeys");
        for gateway in [&pair.a, &pair.b] {
            assert_eq!(drops(gateway, &pair.world), []);
        }
    }
}

#[test]
fn tcp_at_full_speed_survives_a_rekey_a_second() {
    for gateway in ["", "workers = 2"] {
        let options = Options {
            esp: "aes256gcm16-esn-x25519",
            gateway,
            ..Options::default()
        };
        // A second of what two processors do, roughly; the hard limit is near, and is never met.
        let lifetime = "rekey_bytes = \"40 MB\"\nlife_bytes = \"160 MB\"\n";
        let Some(pair) = pair("rekeys, full speed", &options, lifetime, (true, true), |_| ()) else {
            return;
        };
        let count = std::thread::scope(|scope| {
            let there = scope.spawn(|| one_way(&pair.world, "ha", "hb", "10.2.0.2", 15 * TWENTY_MB));
            let back = scope.spawn(|| one_way(&pair.world, "hb", "ha", "10.1.0.2", 15 * TWENTY_MB));
            let count = rekeys(&pair, || there.is_finished() && back.is_finished());
            there.join().unwrap();
            back.join().unwrap();
            count
        });
        eprintln!("{count} rekeys at full speed, {gateway}");
        assert!(count >= 4, "only {count} rekeys");
        for gateway in [&pair.a, &pair.b] {
            assert_eq!(drops(gateway, &pair.world), []);
        }
    }
}
