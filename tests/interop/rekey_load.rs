//! Rekeys under load with strongSwan: one about every second, begun by either end; no inner packet is lost.

use super::support::stream::{Outcome, Rate, Stream};
use super::{Pair, Scenario, configuration};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// What strongSwan's userspace ESP carries without loss on a busy machine.
const RATE: Rate = Rate {
    datagrams: 2000,
    len: 1000,
    time: Duration::from_secs(6),
};

#[test]
fn numbered_datagrams_survive_a_rekey_a_second_whoever_begins() {
    for we_rekey in [true, false] {
        let scenario = Scenario {
            esp: "aes256gcm16-x25519",
            initiate: false,
            ..Scenario::default()
        };
        let Some(pair) = Pair::prepare("rekeys under load", &scenario) else {
            return;
        };
        if we_rekey {
            // A second at that rate.
            let text = configuration(&scenario);
            let limited = text.replace("start_action", "rekey_bytes = \"2 MB\"\nstart_action");
            pair.ours.configure(&limited);
            pair.ours.client(&pair.world, &["reload"]);
        }
        pair.bring_up(&scenario);
        let who = if we_rekey { "we rekey" } else { "strongSwan rekeys" };
        for attempt in 1.. {
            let before = overflows(&pair);
            let (rekeys, outcomes) = load(&pair, !we_rekey);
            let overflowed = overflows(&pair) - before;
            eprintln!("{who}: {rekeys} rekeys; {outcomes:?}; strongSwan's queues overflowed {overflowed} times");
            let lost: u64 = outcomes.iter().map(|outcome| outcome.lost).sum();
            // charon had to wait for a processor, and its queues hold a tenth and a quarter of a second: that says nothing about rekeys.
            if lost > 0 && overflowed >= lost && attempt < 5 {
                continue;
            }
            for outcome in &outcomes {
                assert_eq!((outcome.lost, outcome.doubled), (0, 0), "{who}: {outcome:?}");
            }
            assert!(rekeys >= 3, "{who}: only {rekeys} rekeys");
            break;
        }
        let (status, connection) = (pair.ours.status(&pair.world), pair.ours.connection(&pair.world, "peer"));
        for cause in ["unknown_spi", "too_old", "replayed", "expired", "integrity", "handover"] {
            assert!(status["drops"][cause].as_u64().unwrap_or(0) == 0, "{}", status["drops"]);
            assert!(connection["drops"][cause].is_null(), "{}", connection["drops"]);
        }
    }
}

/// Datagrams both ways, to strongSwan and from it; how often the SA was rekeyed meanwhile.
fn load(pair: &Pair, ask: bool) -> (usize, [Outcome; 2]) {
    let there = Stream::start(&pair.world, "ha", "hb", "10.2.0.2", RATE);
    let back = Stream::start(&pair.world, "hb", "ha", "10.1.0.2", RATE);
    let (begin, mut asked, mut spis) = (Instant::now(), 0, BTreeSet::new());
    while begin.elapsed() < RATE.time {
        if ask && begin.elapsed().as_secs() > asked {
            asked += 1;
            pair.theirs.peer(&["rekey"]);
        }
        spis.insert(pair.spis().0);
        std::thread::sleep(Duration::from_millis(100));
    }
    (spis.len() - 1, [there.finish(), back.finish()])
}

/// Packets that found a full buffer in strongSwan's namespace (RcvbufErrors), or a full TUN.
fn overflows(pair: &Pair) -> u64 {
    let text = pair.world.must("gb", &["grep", "Udp:", "/proc/net/snmp"]);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let at = lines[0].iter().position(|word| *word == "RcvbufErrors").unwrap();
    let in_socket: u64 = lines[1][at].parse().unwrap();
    let tun = pair
        .world
        .must("gb", &["cat", "/sys/class/net/ipsec0/statistics/tx_dropped"]);
    in_socket + tun.trim().parse::<u64>().unwrap()
}
