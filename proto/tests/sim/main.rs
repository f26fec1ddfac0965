//! Two endpoints, a virtual clock and bad links: loss, duplication, reordering, delay and corruption, all from one seed
//! that is printed when something breaks. After every step the invariants of [`invariants`] hold; when the links are
//! good again, both sides end with one working Child SA pair.
//!
//! ```text
//! LANDBRIDGE_SIM_SEEDS=10000 cargo test -p landbridge-proto --test sim     # how many
//! LANDBRIDGE_SIM_SEED=42 cargo test -p landbridge-proto --test sim         # just this one
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod invariants;
mod link;
mod node;
mod world;

use std::time::Duration;
use world::{Fault, Plan, World};

/// The seeds to run: one, or as many as asked for (100 when nobody asks, so that a plain `cargo test` stays quick).
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("LANDBRIDGE_SIM_SEED") {
        return seed..seed + 1;
    }
    0..number("LANDBRIDGE_SIM_SEEDS").unwrap_or(100)
}

/// Runs a plan for each seed; a panic names the seed.
fn for_each_seed(name: &str, plan: impl Fn(u64) -> Plan) {
    for seed in seeds() {
        let plan = plan(seed);
        let outcome = std::panic::catch_unwind(|| World::new(seed, &plan).run());
        if let Err(panic) = outcome {
            eprintln!("{name}: seed {seed} failed: replay with LANDBRIDGE_SIM_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
    println!("{name}: {} seeds", seeds().count());
}

/// Everything at once, in a mix drawn from the seed.
#[test]
fn sim_bad_links() {
    for_each_seed("bad links", Plan::from_seed);
}

/// Loss alone, so heavy that whole exchanges fail and begin again.
#[test]
fn sim_heavy_loss() {
    for_each_seed("heavy loss", |seed| Plan {
        faults: vec![Fault::Loss(0.4)],
        ..Plan::from_seed(seed)
    });
}

/// Both sides rekey at the same moments over slow links, so that their requests cross.
#[test]
fn sim_crossing_rekeys() {
    for_each_seed("crossing rekeys", |seed| Plan {
        crossing_rekeys: true,
        ..Plan::from_seed(seed)
    });
}

/// Both sides rekey the IKE SA, and the Child SA in between, over bad links.
#[test]
fn sim_ike_rekeys() {
    for_each_seed("IKE rekeys", |seed| Plan {
        ike_rekey_time: Some(Duration::from_secs(60)),
        restart: seed % 5 == 0,
        ..Plan::from_seed(seed)
    });
}

/// One side loses its memory in the middle and begins anew.
#[test]
fn sim_restarts() {
    for_each_seed("restarts", |seed| Plan {
        restart: true,
        ..Plan::from_seed(seed)
    });
}

/// The same seed gives the same trace, octet for octet.
#[test]
fn sim_is_deterministic() {
    for seed in 0..10 {
        let plan = Plan::from_seed(seed);
        assert_eq!(
            World::new(seed, &plan).run(),
            World::new(seed, &plan).run(),
            "seed {seed}"
        );
    }
}
