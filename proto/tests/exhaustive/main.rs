//! Two operations at once, one at each end, and every order of what follows: the endpoints are values, so each is copied where
//! the ways part. Operations begin at any moment of the other; datagrams arrive in any order, some are lost, some come twice,
//! some later than a retransmission; then time passes until both ends are quiet. RFC 7296 §2.8.1, §2.8.2, §2.25.
//!
//! In every situation: no key and no (key, IV) pair is used twice, nothing is removed twice; while nobody deletes, each end
//! sends by a pair that the other receives on. At every end: one IKE SA, the same at both ends (or none, if one was asked to delete it); one pair for each child
//! that is wanted, the same at both ends, and nothing else: no SA, no SPI, no job, no timer is left over.
//!
//! ```text
//! cargo test -p landbridge-proto --test exhaustive -- --nocapture
//! LANDBRIDGE_SEARCH_FAULTS=3 cargo test -p landbridge-proto --test exhaustive -- --nocapture    # up to 3 faults a run, not 1
//! LANDBRIDGE_SEARCH_SEEDS=8 ...     # more nonces (4): they decide who wins
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

#[path = "../ike_pump/mod.rs"]
mod ike_pump;
mod search;
mod side;

use ike_pump::{Pump, SITE, child, side_a, side_b};
use landbridge_proto::ike::Command;
use landbridge_proto::policy::connection::{Connection, Gateway, StartAction, Target};
use landbridge_proto::policy::proposal::IkeProposal;
use landbridge_proto::time::Instant;
use search::{Budget, Found, Laws, Search};
use side::Side;

/// What is asked of an end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operation {
    RekeyChild,
    RekeyIke,
    DeleteChild,
    DeleteIke,
    CreateChild,
}
use Operation as O;

const ALL: [Operation; 5] = [O::RekeyChild, O::RekeyIke, O::DeleteChild, O::DeleteIke, O::CreateChild];

fn number(name: &str, otherwise: u8) -> u8 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

/// Without PFS, a key exchange changes no order, and costs most of the time; or `followed` by an additional one (RFC 9370
/// §2.2.4), in rekeys of both kinds.
fn connection(mut connection: Connection, ours: u8, theirs: u8, start: StartAction, followed: bool) -> Connection {
    let mut esp = "aes256gcm16";
    if followed {
        esp = "aes256gcm16-x25519-ke1_mlkem512";
        connection.ike_proposals = vec![IkeProposal::parse("aes256gcm16-prfsha256-x25519-ke1_mlkem512").unwrap()];
        connection.fragmentation = false;
    }
    let children = [("net", 0, start), ("more", 128, StartAction::None)];
    let children = children.map(|(name, third, start)| {
        let network = |second: u8| format!("10.{second}.{third}.0/17");
        let child = child(name, &network(ours), &network(theirs), esp, start);
        (child.name.clone(), child)
    });
    connection.children = children.into();
    connection
}

/// Two ends that are up, with one pair of the child "net".
fn ends(seed: u8, followed: bool) -> ([Side; 2], Instant, Target) {
    let a = connection(side_a(), 1, 2, StartAction::Start, followed);
    let b = connection(side_b(), 2, 1, StartAction::None, followed);
    let mut pump = Pump::with(a, b, seed, Gateway::default());
    pump.connect();
    pump.deliver_all();
    pump.assert_joined();
    let target = Target {
        local: pump.addresses[0],
        remote: pump.addresses[1],
    };
    let now = pump.now;
    let [a, b] = pump.ends;
    let [sad_a, sad_b] = pump.sad;
    let mut sides = [Side::new(0, a), Side::new(1, b)];
    for (side, sad) in sides.iter_mut().zip([sad_a, sad_b]) {
        side.pairs = sad.pairs;
        side.active = sad.active.into_iter().map(|(name, id)| (name.into(), id)).collect();
        side.heard = side.pairs.keys().copied().collect();
    }
    (sides, now, target)
}

fn command(operation: Operation, target: Target) -> Command {
    match operation {
        O::RekeyChild => Command::RekeyChild {
            connection: SITE.into(),
            child: Some("net".into()),
        },
        O::RekeyIke => Command::RekeyIke {
            connection: SITE.into(),
        },
        O::DeleteChild => Command::Down {
            connection: SITE.into(),
            child: Some("net".into()),
        },
        O::DeleteIke => Command::Down {
            connection: SITE.into(),
            child: None,
        },
        O::CreateChild => Command::Up {
            connection: SITE.into(),
            child: Some("more".into()),
            target,
        },
    }
}

/// Each end sends by pairs that the other has.
fn nothing_is_lost(ends: [&Side; 2]) -> Result<(), String> {
    for (us, them) in [(ends[0], ends[1]), (ends[1], ends[0])] {
        let Some(id) = us.active.get("net") else {
            return Err(format!("side {} does not send", us.who));
        };
        let outbound = &us.pairs[id].outbound;
        let received =
            |key: &landbridge_proto::policy::sad::SaParameters| key.spi == outbound.spi && key.key == outbound.key;
        if !them.pairs.values().any(|pair| received(&pair.inbound)) {
            return Err(format!("side {} sends what the other can't receive", us.who));
        }
    }
    Ok(())
}

/// What must be there when both are quiet.
fn is_settled(ends: [&Side; 2], operations: [Option<Operation>; 2]) -> Result<(), String> {
    let asked = |operation| operations.contains(&Some(operation));
    let ike = usize::from(!asked(O::DeleteIke));
    // A brings "net" up again when B deletes it, not when its own operator took it down.
    let net = ike * usize::from(operations[0] != Some(O::DeleteChild));
    let more = ike * usize::from(asked(O::CreateChild));
    // Up after Down begins anew.
    let anew = asked(O::DeleteIke) && asked(O::CreateChild) && !ends[0].active.is_empty();
    let (ike, net, more) = if anew {
        (1, usize::from(ends[0].active.contains_key("net")), 1)
    } else {
        (ike, net, more)
    };
    for side in ends {
        let load = side.endpoint.load();
        let mut want = load;
        want.ike_sas = ike;
        want.child_sas = net + more;
        want.spis = net + more;
        (want.jobs, want.requests, want.timers) = (0, 0, 0);
        (want.half_open, want.events, want.transmits) = (0, 0, 0);
        want.init_seen = load.init_seen.min(ike);
        if load != want {
            return Err(format!("side {}: {load:?} instead of {want:?}", side.who));
        }
        if side.pairs.len() != net + more || side.active.len() != net + more {
            return Err(format!(
                "side {}: {} pairs, {:?} send",
                side.who,
                side.pairs.len(),
                side.active
            ));
        }
        if side.active.contains_key("net") != (net == 1) {
            return Err(format!("side {}: {:?}", side.who, side.active));
        }
    }
    let spis = ends.map(|side| {
        let status = side.endpoint.status();
        status
            .iter()
            .map(|sa| (sa.stage, sa.spi_i, sa.spi_r))
            .collect::<Vec<_>>()
    });
    if spis[0] != spis[1] || spis[0].iter().any(|(stage, ..)| *stage != "established") {
        return Err(format!("the IKE SAs differ: {spis:?}"));
    }
    for (name, id) in &ends[0].active {
        let (ours, theirs) = (&ends[0].pairs[id], &ends[1].pairs[&ends[1].active[name]]);
        if ours.inbound != theirs.outbound || ours.outbound != theirs.inbound {
            return Err(format!("the pairs of {name} differ"));
        }
    }
    Ok(())
}

/// Searches through two operations (or one), once for each seed.
fn search(operations: [Option<Operation>; 2], followed: bool) -> Found {
    let faults = number("LANDBRIDGE_SEARCH_FAULTS", 1);
    let budget = Budget {
        drops: faults,
        duplicates: faults,
        timers: faults,
        packets: faults,
        total: faults,
    };
    // Nobody's rekey crosses another: the nonces decide nothing.
    let crossing =
        operations[0] == operations[1] && matches!(operations[0], Some(O::RekeyChild | O::RekeyIke | O::CreateChild));
    let seeds = if crossing {
        number("LANDBRIDGE_SEARCH_SEEDS", 4)
    } else {
        1
    };
    let mut all = Found::default();
    let calm = operations
        .iter()
        .flatten()
        .all(|o| !matches!(o, O::DeleteChild | O::DeleteIke));
    for seed in 0..seeds {
        let (sides, now, target) = ends(seed, followed);
        let both = [0, 1].into_iter().zip(operations);
        let asked = both
            .filter_map(|(who, operation)| Some((who, command(operation?, target))))
            .collect();
        let laws = Laws {
            always: &|ends| if calm { nothing_is_lost(ends) } else { Ok(()) },
            at_the_end: &|ends| is_settled(ends, operations),
        };
        match Search::new(sides, asked, laws).run(now, budget) {
            Ok(found) => {
                all.situations += found.situations;
                all.leaves += found.leaves;
                all.schedules += found.schedules;
                all.states += found.states;
            }
            Err(problem) => {
                panic!("{operations:?}, followed: {followed}, seed {seed}, up to {faults} faults: {problem}")
            }
        }
    }
    println!(
        "{operations:?}{}: {} leaves, {:.3e} schedules, {} situations, {} states",
        if followed { ", followed" } else { "" },
        all.leaves,
        all.schedules,
        all.situations,
        all.states
    );
    all
}

#[test]
fn one_operation() {
    for operation in ALL {
        for followed in [false, true] {
            search([Some(operation), None], followed);
            search([None, Some(operation)], followed);
        }
    }
}

macro_rules! pairs {
    ($($name:ident: $operation:expr;)*) => {$(
        #[test]
        fn $name() {
            let run = |other, followed| {
                std::panic::catch_unwind(|| search([Some($operation), Some(other)], followed)).is_ok()
            };
            let all = ALL.into_iter().flat_map(|other| [(other, false), (other, true)]);
            let wrong: Vec<_> = all.filter(|(other, followed)| !run(*other, *followed)).collect();
            assert!(wrong.is_empty(), "with {wrong:?}: see above");
        }
    )*};
}

pairs! {
    rekey_child_and_any: O::RekeyChild;
    rekey_ike_and_any: O::RekeyIke;
    delete_child_and_any: O::DeleteChild;
    delete_ike_and_any: O::DeleteIke;
    create_child_and_any: O::CreateChild;
}
