//! Limits of a pair, and an interface that comes, goes and changes.

use crate::SOME;
use crate::support::static_keys::{Pair, Tunnel, find, name};
use crate::support::transfer::one_way;
use landbridge::data::DataOptions;
use landbridge_proto::policy::sad::{ChildSaId, SadReport, SadUpdate, TrafficLimits};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

#[test]
fn limits_stop_a_pair_and_are_told() {
    let limits = TrafficLimits {
        soft_packets: Some(4),
        hard_packets: Some(8),
        ..TrafficLimits::default()
    };
    let tunnel = Tunnel {
        limits,
        ..Tunnel::default()
    };
    let Some(pair) = Pair::up("limits", DataOptions::default(), tunnel) else {
        return;
    };
    let mut command = pair.world.command("a", "ping");
    command.args(["-c", "20", "-i", "0.01", "-W", "1", "10.2.0.1"]);
    command.output().unwrap();
    let id = ChildSaId(0);
    assert!(pair.a.told(SadReport::SoftLimit(id)) && pair.a.told(SadReport::HardLimit(id)));
    let stats = pair.a.with(|data, _| data.stats(&name())).total;
    assert_eq!(stats.outbound.packets, 8);
    assert!(find(&stats.drops, "expired") >= 12);
    // A fresh pair takes over.
    let fresh = Tunnel::default();
    pair.install(fresh, 1);
    pair.activate(1, Some(0));
    assert!(pair.ping("10.2.0.1"));
}

#[test]
fn an_interface_comes_goes_and_comes_again() {
    let Some(pair) = Pair::up("interface", DataOptions::default(), Tunnel::default()) else {
        return;
    };
    for id in 1..20 {
        pair.renew_interface(id);
    }
    assert!(pair.ping("10.2.0.1"));
    // Deactivated: nothing leaves; activated again: the numbers go on, so the peer does not take it for a replay.
    let id = ChildSaId(19);
    pair.a.apply(SadUpdate::DeactivateOutbound(id));
    assert!(!pair.ping("10.2.0.1"));
    assert!(pair.a.dropped("no_sa") > 0);
    pair.a.apply(SadUpdate::ActivateOutbound { id, replaces: None });
    assert!(pair.ping("10.2.0.1"));
    assert_eq!(pair.b.dropped("replayed"), 0);
}

/// Clock ticks that the threads in a namespace have used.
fn ticks(pair: &Pair, ns: &str) -> u64 {
    let namespace = pair.world.must(ns, &["readlink", "/proc/self/ns/net"]);
    let tasks = fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|task| task.unwrap().path());
    let there = tasks.filter(|task| {
        let link = fs::read_link(task.join("ns/net"));
        link.is_ok_and(|link| link.to_string_lossy() == namespace.trim())
    });
    let used = |task: PathBuf| {
        let stat = fs::read_to_string(task.join("stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?)
    };
    there.filter_map(used).sum()
}

/// Another program deletes an interface: it is noticed, costs nothing, and the interface can be made anew.
#[test]
fn an_interface_is_deleted_by_another_program() {
    let Some(pair) = Pair::up("deleted", DataOptions::default(), Tunnel::default()) else {
        return;
    };
    let is_gone = || pair.a.with(|data, _| data.lacks_interface(&name()));
    pair.carries(SOME / 10);
    assert!(!is_gone());
    pair.world.ip("a", &["link", "del", "tun0"]);
    assert!(is_gone());
    std::thread::sleep(Duration::from_millis(200));
    let before = ticks(&pair, "a");
    std::thread::sleep(Duration::from_millis(500));
    let used = ticks(&pair, "a") - before;
    assert!(
        used < 10,
        "a worker looks again and again: {used} hundredths of a second"
    );
    pair.renew_interface(1);
    assert!(pair.ping("10.2.0.1"));
    assert!(!is_gone());
}

/// The interface's MTU is larger than the tunnel's: senders are told (RFC 4301 §8.2.1), by ICMP that they believe.
#[test]
fn senders_of_too_large_packets_are_told() {
    let Some(pair) = Pair::up("too big", DataOptions::default(), Tunnel::default()) else {
        return;
    };
    for side in [&pair.a, &pair.b] {
        side.with(|data, _| data.set_mtu(&name(), 1300));
    }
    for (address, size) in [("10.2.0.1", "1372"), ("fd02::1", "1352")] {
        let mut command = pair.world.command("a", "ping");
        command.args(["-c", "3", "-i", "0.1", "-W", "1", "-M", "do", "-s", size, address]);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("1300"), "{address}: {text}");
    }
    assert!(pair.a.dropped("too_big") >= 2);
    one_way(&pair.world, "a", "b", "10.2.0.1", SOME / 5);
}
