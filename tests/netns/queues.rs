//! Several pairs of one child, each with a queue of the interface (RFC 9611): all of them carry traffic, both ways; pairs come, go
//! and are rekeyed under load, and nothing that can be handed over is lost.

use crate::support::static_keys::{Pair, Side, Tunnel, interface_options, name};
use crate::support::stream::{Outcome, Rate, Stream};
use crate::support::transfer::one_way;
use crate::support::wait_until;
use landbridge::data::{DataOptions, InterfaceOptions};
use landbridge_proto::ip::tunnel::DontFragment;
use landbridge_proto::policy::aggfrag::{Aggfrag, Iptfs, SendMode};
use landbridge_proto::policy::sad::{ChildSaId, SadReport, SadUpdate};
use landbridge_proto::wire::AggfragFlags;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

/// UDP flows in each direction. The kernel's hash has a random key: that one of three queues gets none of them happens in one of three
/// million directions, 3 (2/3)^40.
const FLOWS: usize = 40;
/// Where it does not matter which queue a flow is of.
const FEW: usize = 16;
/// Of each flow a second.
const DATAGRAMS: u64 = 80;
/// What half the flows of both directions send in 30 ms. What a worker that waits for a processor has not read when the kernel detaches a
/// queue is thrown away, and where one worker follows another packets may overtake each other.
const WHILE_DETACHED: u64 = 96;
const MOMENT: Duration = Duration::from_millis(300);

fn options() -> DataOptions {
    DataOptions {
        workers: 2,
        ..DataOptions::default()
    }
}

/// The pair for a queue; its packets are opened by the worker of the same number.
fn tunnel(resource: u16) -> Tunnel {
    Tunnel {
        resource,
        owner: u32::from(resource) % 2,
        ..Tunnel::default()
    }
}

/// What a worker that waits for a processor finds later is not lost: 500 packets are an eighth of a second.
fn lengthen(pair: &Pair) {
    for ns in ["a", "b"] {
        pair.world.ip(ns, &["link", "set", "tun0", "txqueuelen", "2000"]);
    }
}

/// Two gateways with two pairs, 0 and 1.
fn up(test: &str, like: Tunnel) -> Option<Pair> {
    let pair = Pair::with_queues(test, options(), 2)?;
    lengthen(&pair);
    for resource in 0..2 {
        let Tunnel { owner, .. } = tunnel(resource);
        let tunnel = Tunnel {
            resource,
            owner,
            ..like
        };
        add(&pair, tunnel, resource.into(), None);
    }
    Some(pair)
}

fn add(pair: &Pair, tunnel: Tunnel, id: u64, replaces: Option<u64>) {
    pair.install(tunnel, id);
    pair.activate(id, replaces);
}

/// As the key exchange does it: both sides send no more by it, then it goes.
fn remove(pair: &Pair, id: u64) {
    let id = ChildSaId(id);
    for side in [&pair.a, &pair.b] {
        side.apply(SadUpdate::DeactivateOutbound(id));
    }
    sleep(MOMENT);
    for side in [&pair.a, &pair.b] {
        side.apply(SadUpdate::Remove(id));
    }
}

/// Packets in and out by each present pair.
fn carried(side: &Side) -> Vec<(u64, u64, u64)> {
    let stats = side.with(|data, _| data.stats(&name()));
    let children = stats.children.iter();
    children
        .map(|(id, stats)| (id.0, stats.inbound.packets, stats.outbound.packets))
        .collect()
}

/// All present pairs carry traffic both ways, seen from both sides.
fn assert_all_carry(pair: &Pair, count: usize) {
    for side in [&pair.a, &pair.b] {
        let carried = carried(side);
        assert_eq!(carried.len(), count, "{carried:?}");
        let idle = carried
            .iter()
            .find(|(_, inbound, outbound)| *inbound < 100 || *outbound < 100);
        assert_eq!(idle, None, "{carried:?}");
    }
}

/// The kernel puts packets on so many queues, at both sides, and has for a moment.
fn assert_attached(pair: &Pair, count: usize) {
    wait_until("the queues are attached", Duration::from_secs(5), || {
        ["a", "b"].iter().all(|ns| {
            let list = pair.world.must(ns, &["ls", "/sys/class/net/tun0/queues"]);
            list.lines().filter(|line| line.starts_with("tx-")).count() == count
        })
    });
    sleep(MOMENT);
}

/// Numbered datagrams in several flows, each way.
fn flows(pair: &Pair, time: Duration) -> Vec<Stream> {
    some_flows(pair, FLOWS, time)
}

fn some_flows(pair: &Pair, count: usize, time: Duration) -> Vec<Stream> {
    let rate = Rate {
        datagrams: DATAGRAMS,
        len: 600,
        time,
    };
    let ways = [("a", "b", "10.2.0.1"), ("b", "a", "10.1.0.1")];
    let begin = |(from, to, address)| Stream::start(&pair.world, from, to, address, rate);
    ways.into_iter().cycle().take(2 * count).map(begin).collect()
}

/// What became of all flows together.
fn finish(flows: Vec<Stream>) -> Outcome {
    let mut all = Outcome::default();
    for flow in flows {
        let one = flow.finish();
        all.sent += one.sent;
        all.lost += one.lost;
        all.doubled += one.doubled;
        all.late += one.late;
    }
    assert!(all.sent > 1000, "{all:?}");
    all
}

/// Nothing was lost on the way, nor dropped, but what the kernel says of its own accord.
fn assert_nothing_lost(pair: &Pair, all: &Outcome) {
    assert_eq!((all.lost, all.doubled, all.late), (0, 0, 0), "{all:?}");
    assert_nothing_dropped(pair);
}

fn assert_nothing_dropped(pair: &Pair) {
    for side in [&pair.a, &pair.b] {
        let mut drops = side.with(|data, _| data.stats(&name()).total.drops);
        drops.extend(side.with(|data, _| data.stray_drops()));
        drops.retain(|(cause, _)| !matches!(*cause, "selector_out" | "no_sa"));
        assert_eq!(drops, []);
    }
}

fn four_tcp_flows(pair: &Pair, len: usize) {
    scope(|scope| {
        for (from, to, address) in [("a", "b", "10.2.0.1"), ("b", "a", "10.1.0.1")] {
            for _ in 0..2 {
                scope.spawn(move || one_way(&pair.world, from, to, address, len));
            }
        }
    });
}

#[test]
fn two_pairs_carry_both_ways() {
    let Some(pair) = up("two pairs", Tunnel::default()) else {
        return;
    };
    assert_attached(&pair, 2);
    let udp = flows(&pair, Duration::from_secs(4));
    four_tcp_flows(&pair, 20_000_000);
    assert_nothing_lost(&pair, &finish(udp));
    assert_all_carry(&pair, 2);
}

/// A flow that comes by one pair goes back by the same, whatever the kernels' hashes say.
#[test]
fn both_ways_of_a_flow_go_by_one_pair() {
    let Some(pair) = Pair::with_queues("one flow", options(), 2) else {
        return;
    };
    // Both kernels are the same one here, and so are their hashes: each numbers the pairs in its own way.
    for resource in 0..2 {
        let (tunnel, id) = (tunnel(resource), resource.into());
        let other = Tunnel {
            resource: 1 - resource,
            ..tunnel
        };
        pair.a.apply(SadUpdate::InstallInbound(tunnel.entry(true, id)));
        pair.b.apply(SadUpdate::InstallInbound(other.entry(false, id)));
        pair.activate(id, None);
    }
    for _ in 0..32 {
        let before = carried(&pair.a);
        one_way(&pair.world, "a", "b", "10.2.0.1", 2_000_000);
        let after = carried(&pair.a);
        let grown: Vec<_> = before
            .iter()
            .zip(&after)
            .map(|(before, after)| (after.1 - before.1, after.2 - before.2))
            .collect();
        // The first few may take the other way: the kernel answers before it has noted where the flow came from.
        let by_one = |(own, other): (usize, usize)| grown[own].1 > 1000 && grown[own].0 > 5 && grown[other].1 < 50;
        assert!(by_one((0, 1)) || by_one((1, 0)), "{grown:?}");
    }
}

#[test]
fn a_pair_goes_and_another_comes_under_load() {
    let Some(pair) = up("a pair goes", Tunnel::default()) else {
        return;
    };
    let mut pairs = [0, 1];
    for (resource, id) in [(1, 2), (0, 3)] {
        let udp = flows(&pair, Duration::from_secs(4));
        sleep(MOMENT);
        remove(&pair, pairs[resource]);
        assert_attached(&pair, 1);
        // All goes by the other.
        let before = carried(&pair.a);
        sleep(MOMENT);
        let after = carried(&pair.a);
        assert_eq!((before.len(), after.len()), (1, 1));
        assert!(
            after[0].1 > before[0].1 + 500 && after[0].2 > before[0].2 + 500,
            "{before:?} {after:?}"
        );
        add(&pair, tunnel(resource as u16), id, None);
        pairs[resource] = id;
        assert_attached(&pair, 2);
        four_tcp_flows(&pair, 2_000_000);
        assert_all_carry(&pair, 2);
        let all = finish(udp);
        eprintln!("pair {resource} of two went and came: {all:?}");
        assert!(all.lost <= WHILE_DETACHED && all.late <= WHILE_DETACHED, "{all:?}");
        assert_eq!(all.doubled, 0, "{all:?}");
        assert_nothing_dropped(&pair);
    }
}

/// Other programs hold the kernel's lock of network devices for a while; a queue is read until it is really detached.
#[test]
fn a_pair_goes_while_another_program_holds_the_kernels_lock() {
    let Some(pair) = up("a pair goes meanwhile", Tunnel::default()) else {
        return;
    };
    let list: String = (0..1500)
        .map(|number| format!("link add near{number} group 7 type veth peer name far{number}\n"))
        .collect();
    let file = pair.world.dir().join("interfaces");
    std::fs::write(&file, list).unwrap();
    pair.world.ip("a", &["-batch", file.to_str().unwrap()]);
    let udp = some_flows(&pair, FEW, Duration::from_secs(3));
    sleep(MOMENT);
    let held = scope(|scope| {
        let deletion = scope.spawn(|| {
            let begin = Instant::now();
            pair.world.ip("a", &["link", "del", "group", "7"]);
            begin.elapsed()
        });
        sleep(Duration::from_millis(20));
        remove(&pair, 1);
        deletion.join().unwrap()
    });
    assert!(
        held > Duration::from_millis(200),
        "the lock was not held for long enough: {held:?}"
    );
    assert_attached(&pair, 1);
    let all = finish(udp);
    eprintln!("the kernel took {held:?} to delete interfaces: {all:?}");
    // If the worker waited itself, most of what half the flows send meanwhile would be lost (three quarters and more, measured).
    let sent_meanwhile = FEW as u128 * u128::from(DATAGRAMS) * held.as_millis().min(1000) / 1000;
    assert!(u128::from(all.lost) < sent_meanwhile / 2, "{all:?}");
    assert_eq!(all.doubled, 0, "{all:?}");
    assert_nothing_dropped(&pair);
}

#[test]
fn one_pair_is_rekeyed_under_load() {
    let Some(pair) = up("a pair is rekeyed", Tunnel::default()) else {
        return;
    };
    let udp = flows(&pair, Duration::from_secs(4));
    for (id, resource, replaces) in [(2, 1, 1), (3, 0, 0), (4, 1, 2)] {
        sleep(MOMENT);
        add(&pair, tunnel(resource), id, Some(replaces));
        sleep(MOMENT);
        pair.a.apply(SadUpdate::Remove(ChildSaId(replaces)));
        pair.b.apply(SadUpdate::Remove(ChildSaId(replaces)));
        assert_attached(&pair, 2);
    }
    four_tcp_flows(&pair, 2_000_000);
    assert_nothing_lost(&pair, &finish(udp));
    assert_all_carry(&pair, 2);
}

/// Two children of which each has a pair for one queue only: no queue is for both, so the first takes all packets, and its worker hands
/// those of the other child over.
#[test]
fn what_has_no_pair_in_its_queue_is_handed_over() {
    let Some(pair) = Pair::with_queues("handed over", options(), 2) else {
        return;
    };
    lengthen(&pair);
    let one_port = Tunnel {
        b_port: Some(7),
        ..tunnel(0)
    };
    add(&pair, one_port, 0, None);
    add(&pair, tunnel(1), 1, None);
    assert_attached(&pair, 1);
    // All of them go by one mailbox, which is for moments.
    let udp = some_flows(&pair, FEW, Duration::from_secs(2));
    for address in ["10.2.0.1", "fd02::1"] {
        one_way(&pair.world, "a", "b", address, 1_000_000);
    }
    assert_nothing_lost(&pair, &finish(udp));
    for side in [&pair.a, &pair.b] {
        let carried = carried(side);
        assert!(carried[1].1 > 1000 && carried[1].2 > 1000, "{carried:?}");
    }
}

/// Before the first SA the gateway asks for one; a queue without a pair takes no part; all of them go with the interface.
#[test]
fn queues_without_pairs() {
    let four = DataOptions {
        workers: 4,
        ..options()
    };
    let Some(pair) = Pair::with_queues("queues without pairs", four, 4) else {
        return;
    };
    lengthen(&pair);
    assert_attached(&pair, 1);
    assert!(!pair.ping("10.2.0.1"));
    let asked = |report: &SadReport| matches!(report, SadReport::Acquire { .. });
    assert!(pair.a.reports.lock().unwrap().iter().any(asked));
    // The third of four comes first: the first queue makes room for it.
    add(&pair, tunnel(2), 0, None);
    assert_attached(&pair, 1);
    four_tcp_flows(&pair, 1_000_000);
    for resource in [3, 1] {
        add(&pair, tunnel(resource), resource.into(), None);
    }
    assert_attached(&pair, 3);
    let udp = flows(&pair, Duration::from_secs(2));
    four_tcp_flows(&pair, 1_000_000);
    assert_nothing_lost(&pair, &finish(udp));
    assert_all_carry(&pair, 3);
    for side in [&pair.a, &pair.b] {
        let options = InterfaceOptions {
            queues: 3,
            ..interface_options(DontFragment::Clear)
        };
        side.with(move |data, _| {
            data.remove_interface(&name());
            data.add_interface(&name(), &options).unwrap();
        });
    }
    assert_attached(&pair, 1);
}

/// RFC 9611 §4: "it must install all inbound Child SAs"; but more queues than workers would only cost.
#[test]
fn more_pairs_than_workers() {
    let Some(pair) = Pair::with_queues("more pairs than workers", options(), 4) else {
        return;
    };
    for resource in 0..4 {
        add(&pair, tunnel(resource), resource.into(), None);
    }
    assert_attached(&pair, 2);
    let udp = flows(&pair, Duration::from_secs(2));
    four_tcp_flows(&pair, 1_000_000);
    assert_nothing_lost(&pair, &finish(udp));
    // Of two in one place the newer sends.
    for side in [&pair.a, &pair.b] {
        let senders: Vec<bool> = carried(side).iter().map(|(.., sent)| *sent > 100).collect();
        assert_eq!(senders, [false, false, true, true]);
    }
}

#[test]
fn with_iptfs() {
    let like = Tunnel {
        aggfrag: Some(Aggfrag {
            iptfs: Iptfs {
                mode: SendMode::Aggregate {
                    delay: Duration::from_millis(1),
                },
                size: None,
                reorder_window: 3,
                reorder_time: Duration::from_millis(10),
                fragments: true,
                required: false,
            },
            peer: AggfragFlags(0),
        }),
        ..Tunnel::default()
    };
    let Some(pair) = up("two pairs with IP-TFS", like) else {
        return;
    };
    let udp = flows(&pair, Duration::from_secs(3));
    four_tcp_flows(&pair, 5_000_000);
    assert_nothing_lost(&pair, &finish(udp));
    assert_all_carry(&pair, 2);
}
