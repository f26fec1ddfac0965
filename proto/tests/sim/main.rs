//! Two endpoints, a virtual clock and bad links: loss, duplication, reordering, delay and corruption; a NAT that forgets,
//! crashes, operators, limits by traffic; all from one seed that is printed when something breaks. After every step the
//! invariants of [`invariants`] hold; when the links are good again, both sides end with one working Child SA pair.
//!
//! ```text
//! LANDBRIDGE_SIM_SEEDS=10000 cargo test -p landbridge-proto --test sim     # how many (100)
//! LANDBRIDGE_SIM_SEED=42 cargo test -p landbridge-proto --test sim         # just this one
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod end;
mod invariants;
#[path = "../keys/mod.rs"]
mod keys;
mod link;
mod node;
mod world;

use std::ops::Range;
use std::time::Duration;
use world::{Fault, Outcome, Plan, World};

/// The seeds to run: one, or as many as asked for (100 when nobody asks, so that a plain `cargo test` stays quick). The
/// scenarios that are part of [`sim_everything`] too run a tenth of them.
fn seeds(tenth: bool) -> Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("LANDBRIDGE_SIM_SEED") {
        return seed..seed + 1;
    }
    let all: u64 = number("LANDBRIDGE_SIM_SEEDS").unwrap_or(100);
    0..if tenth { (all / 10).max(50) } else { all }
}

/// Runs a plan for each seed, on all cores; a panic names the seed. What came of them, by seed.
fn for_each_seed(name: &str, seeds: Range<u64>, plan: impl Fn(u64) -> Plan + Sync) -> Vec<Outcome> {
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let run = |first: u64| {
        let mine = seeds.clone().filter(move |seed| seed % threads == first);
        mine.map(|seed| {
            let plan = plan(seed);
            let outcome = std::panic::catch_unwind(|| World::new(seed, &plan).run());
            outcome.unwrap_or_else(|panic| {
                eprintln!("{name}: seed {seed} failed: replay with LANDBRIDGE_SIM_SEED={seed}");
                std::panic::resume_unwind(panic)
            })
        })
        .collect::<Vec<_>>()
    };
    let outcomes = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|first| scope.spawn(move || run(first))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.collect::<Result<Vec<_>, _>>()
    });
    match outcomes {
        Ok(outcomes) => {
            println!("{name}: {} seeds", seeds.count());
            outcomes.into_iter().flatten().collect()
        }
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// In how many runs something was told.
fn told(outcomes: &[Outcome], what: &str) -> usize {
    let has = |outcome: &&Outcome| outcome.trace.iter().any(|line| line.contains(what));
    outcomes.iter().filter(has).count()
}

/// All that there is, in a mix drawn from the seed: loss, reordering, duplication, corruption, a NAT that forgets, crashes of
/// either side, addresses that come and go, ML-KEM, signatures
/// that take their time, commands of both operators, rekeys of both kinds by time, by packets and by octets, authenticating anew, both
/// ends beginning at once.
#[test]
fn sim_everything() {
    let outcomes = for_each_seed("everything", seeds(false), Plan::everything);
    if outcomes.len() >= 100 {
        assert!(outcomes.iter().any(|outcome| outcome.limits_told[0] > 0));
        assert!(outcomes.iter().any(|outcome| outcome.limits_told[1] > 0));
        // RFC 7296 §2.4: after a crash of the initiator.
        assert!(told(&outcomes, "INITIAL_CONTACT") > 0);
        assert!(told(&outcomes, "it was rekeyed") > 0);
        assert!(
            told(
                &outcomes,
                "to: Path { local: 192.0.2.65:4500, remote: 198.51.100.66:4500,"
            ) > 0
        );
        assert!(told(&outcomes, "MlKem768") > 0);
        assert!(told(&outcomes, "QUICK_CRASH_DETECTION") > 0);
        assert!(told(&outcomes, "pair: Some((3, 3))") > 0);
    }
}

/// Bad links alone.
#[test]
fn sim_bad_links() {
    for_each_seed("bad links", seeds(true), Plan::from_seed);
}

/// Loss alone, so heavy that whole exchanges fail and begin again.
#[test]
fn sim_heavy_loss() {
    for_each_seed("heavy loss", seeds(true), |seed| Plan {
        faults: vec![Fault::Loss(0.4)],
        ..Plan::from_seed(seed)
    });
}

/// Both sides rekey at the same moments over slow links, so that their requests cross.
#[test]
fn sim_crossing_rekeys() {
    for_each_seed("crossing rekeys", seeds(true), |seed| Plan {
        crossing_rekeys: true,
        ..Plan::from_seed(seed)
    });
}

/// Both sides rekey the IKE SA, and the Child SA in between, over bad links.
#[test]
fn sim_ike_rekeys() {
    for_each_seed("IKE rekeys", seeds(true), |seed| Plan {
        ike_rekey_time: Some(Duration::from_secs(60)),
        restarts: u32::from(seed % 5 == 0),
        ..Plan::from_seed(seed)
    });
}

/// One side loses its memory in the middle and begins anew.
#[test]
fn sim_restarts() {
    for_each_seed("restarts", seeds(true), |seed| Plan {
        restarts: 1,
        ..Plan::from_seed(seed)
    });
}

/// The same with quick crash detection (RFC 6290), also over good links: what was lost is noticed by a token.
#[test]
fn sim_crashes() {
    let outcomes = for_each_seed("crashes", seeds(true), |seed| Plan {
        restarts: 2,
        quick_crash_detection: true,
        faults: if seed % 2 == 0 {
            vec![Fault::Delay(40)]
        } else {
            Plan::from_seed(seed).faults
        },
        ike_rekey_time: (seed % 3 == 0).then_some(Duration::from_secs(20)),
        ..Plan::from_seed(seed)
    });
    if outcomes.len() >= 20 {
        assert!(told(&outcomes, "QUICK_CRASH_DETECTION") > outcomes.len() / 3);
    }
}

/// Puzzles (RFC 8019), and both sides lose their memory now and then: with it the cookies, or the puzzle that is being solved.
#[test]
fn sim_puzzles() {
    let outcomes = for_each_seed("puzzles", seeds(true), |seed| Plan {
        puzzles: true,
        restarts: u32::from(seed % 2 == 0),
        both_begin: seed % 3 == 0,
        hybrid: seed % 5 == 0,
        ..Plan::from_seed(seed)
    });
    if outcomes.len() >= 20 {
        assert!(told(&outcomes, "a puzzle is solved") > outcomes.len() / 2);
    }
}

/// A NAT that forgets its mappings, again and again: the peer is followed (RFC 7296 §2.23).
#[test]
fn sim_nat_rebinding() {
    for_each_seed("NAT rebinding", seeds(true), |seed| Plan {
        rebindings: Some(4),
        ..Plan::from_seed(seed)
    });
}

/// Nothing gets through for longer than a peer is waited for: it comes back with its ticket (RFC 5723), or, if one of the ends has
/// lost its memory too, without.
#[test]
fn sim_outages() {
    let outcomes = for_each_seed("outages", seeds(true), |seed| Plan {
        outages: 1,
        resumption: true,
        restarts: u32::from(seed % 3 == 0),
        ike_rekey_time: (seed % 4 == 0).then_some(Duration::from_secs(60)),
        hybrid: seed % 5 == 0,
        ..Plan::from_seed(seed)
    });
    if outcomes.len() >= 50 {
        assert!(told(&outcomes, "resumed: true") > 10);
    }
}

/// The responder sends the initiator to its other address, as to another gateway, in the middle of rekeys of everything (RFC 5685).
#[test]
fn sim_redirects() {
    let outcomes = for_each_seed("redirects", seeds(true), |seed| Plan {
        redirects: 4,
        ike_rekey_time: (seed % 2 == 0).then_some(Duration::from_secs(30)),
        reauth_time: (seed % 3 == 0).then_some(Duration::from_secs(50)),
        restarts: u32::from(seed % 5 == 0),
        signs: seed % 4 == 0,
        hybrid: seed % 7 == 0,
        ..Plan::from_seed(seed)
    });
    if outcomes.len() >= 20 {
        assert!(told(&outcomes, "Redirected to") > outcomes.len() / 2);
    }
}

/// Several pairs of one child (RFC 9611) over bad links, with rekeys that cross: at the end there are as many as wanted.
#[test]
fn sim_pairs() {
    let outcomes = for_each_seed("pairs", seeds(true), |seed| Plan {
        pairs: [[4, 4], [2, 4], [4, 2], [8, 3]][(seed % 4) as usize],
        crossing_rekeys: seed % 3 == 0,
        restarts: u32::from(seed % 5 == 0),
        ike_rekey_time: (seed % 2 == 0).then_some(Duration::from_secs(60)),
        both_begin: seed % 7 == 0,
        ..Plan::from_seed(seed)
    });
    if outcomes.len() >= 50 {
        assert!(told(&outcomes, "pair: Some((4, 4))") > 10);
    }
}

/// Both ends begin at the same moment: one IKE SA stays.
#[test]
fn sim_both_begin() {
    for_each_seed("both begin", seeds(true), |seed| Plan {
        both_begin: true,
        restarts: u32::from(seed % 3 == 0),
        ..Plan::from_seed(seed)
    });
}

/// A month with a rekey every minute, of the IKE SA every hour, and now and then a lost message: it ends with one pair, and
/// holds no more on the last day than on the first ones.
#[test]
fn sim_a_month() {
    let outcomes = for_each_seed("a month", 0..1, |seed| Plan {
        faults: vec![Fault::Loss(0.002), Fault::Delay(40)],
        trouble: Duration::from_secs(30 * 86_400),
        ike_rekey_time: Some(Duration::from_secs(3600)),
        child_rekey_time: Duration::from_secs(66),
        traffic: Duration::from_secs(15),
        pfs: false,
        fragment: false,
        ..Plan::from_seed(seed)
    });
    let [month] = outcomes.as_slice() else {
        panic!("one run")
    };
    assert!(month.days.len() >= 30);
    let (first, last) = (month.days[..3].to_vec(), month.days[27..30].to_vec());
    let most = |days: &[landbridge_proto::ike::Load]| {
        let most = |of: fn(&landbridge_proto::ike::Load) -> usize| days.iter().map(of).max().unwrap_or(0);
        [
            most(|l| l.ike_sas),
            most(|l| l.child_sas),
            most(|l| l.jobs),
            most(|l| l.spis),
            most(|l| l.timers),
        ]
    };
    println!(
        "the most of IKE SAs, Child SAs, jobs, SPIs, timers: {:?}, then {:?}",
        most(&first),
        most(&last)
    );
    for (before, after) in most(&first).into_iter().zip(most(&last)) {
        assert!(after <= before + 2, "{first:?}\n{last:?}");
    }
    for left in month.left {
        assert_eq!(
            (left.ike_sas, left.child_sas, left.spis, left.jobs),
            (1, 1, 1, 0),
            "{left:?}"
        );
    }
}

/// The same seed gives the same trace, octet for octet.
#[test]
fn sim_is_deterministic() {
    for seed in 0..10 {
        let plan = Plan::everything(seed);
        let trace = || World::new(seed, &plan).run().trace;
        assert_eq!(trace(), trace(), "seed {seed}");
    }
}
