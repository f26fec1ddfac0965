//! Rekeys under load with strongSwan: one about every second, begun by either end; no inner packet is lost.

use super::support::stream::{Rate, Stream};
use super::{Pair, Scenario, configuration};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// What strongSwan's userspace ESP carries without loss on a busy machine.
const RATE: Rate = Rate {
    datagrams: 2500,
    len: 800,
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
        let there = Stream::start(&pair.world, "ha", "hb", "10.2.0.2", RATE);
        let back = Stream::start(&pair.world, "hb", "ha", "10.1.0.2", RATE);
        let (begin, mut asked, mut spis) = (Instant::now(), 0, BTreeSet::new());
        while begin.elapsed() < RATE.time {
            if !we_rekey && begin.elapsed().as_secs() > asked {
                asked += 1;
                pair.theirs.peer(&["rekey"]);
            }
            spis.insert(pair.spis().0);
            std::thread::sleep(Duration::from_millis(100));
        }
        let rekeys = spis.len() - 1;
        for (outcome, way) in [(there.finish(), "to strongSwan"), (back.finish(), "from strongSwan")] {
            let who = if we_rekey { "we rekey" } else { "strongSwan rekeys" };
            eprintln!("{who}: {rekeys} rekeys; {way}: {outcome:?}");
            assert_eq!((outcome.lost, outcome.doubled), (0, 0), "{way}: {outcome:?}");
        }
        assert!(rekeys >= 3, "only {rekeys} rekeys");
        let (status, connection) = (pair.ours.status(&pair.world), pair.ours.connection(&pair.world, "peer"));
        for cause in ["unknown_spi", "too_old", "replayed", "expired", "integrity", "handover"] {
            assert!(status["drops"][cause].as_u64().unwrap_or(0) == 0, "{}", status["drops"]);
            assert!(connection["drops"][cause].is_null(), "{}", connection["drops"]);
        }
    }
}
