//! `landbridge bench`: figures come out, and the machine's network is as it was.

use crate::support::gateway::LANDBRIDGE;
use crate::support::{World, privileged, run};
use serde_json::Value;

#[test]
fn a_benchmark_leaves_the_network_alone() {
    if !privileged("bench") {
        return;
    }
    let mut world = World::new();
    world.add("here");
    let network =
        |world: &World| world.must("here", &["ip", "-o", "addr", "show"]) + &world.must("here", &["ip", "-o", "link"]);
    let before = network(&world);
    for (words, row) in [
        (
            &["bench", "tun", "--seconds", "1", "--json"][..],
            "write, packet by packet",
        ),
        (
            &["bench", "tunnel", "--seconds", "1", "--json"],
            "one TCP stream, aes256gcm16",
        ),
        (
            &[
                "bench",
                "tunnel",
                "--seconds",
                "1",
                "--json",
                "--suite",
                "chacha20poly1305",
                "--workers",
                "1",
            ],
            "one TCP stream, chacha20poly1305",
        ),
        (
            &[
                "bench",
                "tunnel",
                "--seconds",
                "1",
                "--json",
                "--pairs",
                "2",
                "--streams",
                "4",
            ],
            "4 TCP streams, 2 SA pairs, aes256gcm16",
        ),
    ] {
        let output = run(world.command("here", LANDBRIDGE).args(words));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let rows = report["rows"].as_array().unwrap();
        let found = rows
            .iter()
            .find(|found| found["name"] == row)
            .unwrap_or_else(|| panic!("{words:?}: {report}"));
        assert!(found["gbit"].as_f64().unwrap() > 0.01, "{words:?}: {report}");
        assert!(report["bottleneck"].as_str().unwrap().len() > 20, "{report}");
        assert_eq!(network(&world), before, "{words:?}");
    }
}
