//! Puzzles (RFC 8019): what the responder asks for is solved by the initiator's thread.

use super::support::gateway::Gateway;
use super::support::transfer::ping;
use super::support::{World, wait_until};
use super::{Options, Pair};
use std::time::Duration;

fn puzzles(gateway: &Gateway, world: &World, role: &str, outcome: &str) -> u64 {
    let labels = [format!("outcome=\"{outcome}\""), format!("role=\"{role}\"")];
    let text = gateway.client(world, &["metrics"]);
    let line = text.lines().find(|line| {
        line.starts_with("landbridge_puzzles_total{") && labels.iter().all(|label| line.contains(label.as_str()))
    });
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    value.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

/// Twice: the thread is there for the next one.
#[test]
fn a_puzzle_is_solved_on_the_way_up() {
    let options = Options {
        gateway: "cookie_threshold = 0\npuzzle_threshold = 0\npuzzle_difficulty = 16",
        ..Options::default()
    };
    let Some(pair) = Pair::up("puzzles", options) else {
        return;
    };
    let solved = |times: u64| {
        assert_eq!(puzzles(&pair.a, &pair.world, "initiator", "solved"), times);
        assert_eq!(puzzles(&pair.b, &pair.world, "responder", "asked"), times);
        assert_eq!(puzzles(&pair.b, &pair.world, "responder", "solved"), times);
        assert_eq!(puzzles(&pair.b, &pair.world, "responder", "wrong"), 0);
        assert!(ping(&pair.world, "ha", "10.2.0.2"));
    };
    solved(1);
    pair.a.client(&pair.world, &["down", "site"]);
    wait_until("it is down", Duration::from_secs(10), || {
        !pair.a.is_up(&pair.world, "site")
    });
    pair.a.client(&pair.world, &["up", "site"]);
    pair.a.wait_up(&pair.world, "site");
    solved(2);
}
