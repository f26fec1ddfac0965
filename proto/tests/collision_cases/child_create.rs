//! `test_child_create`: more Child SAs (RFC 7296 §1.3.1, §2.25.2).

use super::*;
use landbridge_proto::policy::connection::Target;

fn up_child(pump: &mut Pump, who: usize, name: &str) {
    let target = Target {
        local: pump.addresses[who],
        remote: pump.addresses[1 - who],
    };
    let up = Command::Up {
        connection: SITE.into(),
        child: Some(name.into()),
        target,
    };
    pump.command(who, up);
}

fn two() -> (Connection, Connection) {
    let a = with_more(side_a(), "10.3.0.0/16", "10.4.0.0/16");
    (a, with_more(side_b(), "10.4.0.0/16", "10.3.0.0/16"))
}

/// What is up is not made a second time, by whomever; and when both ask at once, one pair stays.
#[test]
fn test_duplicate() {
    let (a, b) = two();
    let mut pump = Pump::up(a, b);
    for who in 0..2 {
        up_child(&mut pump, who, "net");
        assert!(pump.wire.is_empty());
    }
    for seed in 0..SEEDS {
        let (a, b) = two();
        let mut pump = Pump::with(a, b, seed, Gateway::default());
        pump.connect();
        pump.deliver_all();
        up_child(&mut pump, 0, "more");
        up_child(&mut pump, 1, "more");
        // B's request comes before or after A has its own answer.
        let late = seed % 2 == 0;
        to(&mut pump, 1);
        if late {
            let index = pump.wire.iter().position(Letter::is_response).unwrap();
            pump.deliver(index);
        }
        calm_down(&mut pump);
        assert_eq!(pump.sa(0).children.len(), 2, "seed {seed}");
        assert_eq!(pump.sad[0].active.len(), 2);
    }
}

/// A Child SA of its own with three key exchanges (RFC 9370 §2.2.4).
#[test]
fn test_multi_ke() {
    for who in 0..2 {
        let (a, b) = two();
        let multi = |connection| proposing(connection, &[MULTI_IKE], &[MULTI_ESP]);
        let mut pump = Pump::up(multi(a), multi(b));
        up_child(&mut pump, who, "more");
        to(&mut pump, 1 - who);
        for _ in 0..2 {
            to(&mut pump, who);
            assert_eq!(asked(&pump, 1 - who, ExchangeType::IKE_FOLLOWUP_KE), 1);
            assert_eq!(pump.sad[1 - who].pairs.len(), 1, "nothing is made yet");
            to(&mut pump, 1 - who);
        }
        to(&mut pump, who);
        calm_down(&mut pump);
        assert_eq!(pump.sa(0).children.len(), 2);
        assert_eq!(pump.sa(who).children[1].suite.to_string(), MULTI_ESP);
    }
}

/// One end asks for a Child SA, the other rekeys the IKE SA: TEMPORARY_FAILURE at both (§2.25.1, §2.25.2), and again later.
#[test]
fn test_collision_ike_rekey() {
    for (child, ike) in [(0, 1), (1, 0)] {
        let (a, b) = two();
        let mut pump = Pump::up(a, b);
        let spi = pump.sa(0).spi_i;
        up_child(&mut pump, child, "more");
        rekey_ike(&mut pump, ike);
        to(&mut pump, 1);
        to(&mut pump, 0);
        pump.deliver_all();
        assert!(pump.saw(0, "[N(TEMPORARY_FAILURE)]") && pump.saw(1, "[N(TEMPORARY_FAILURE)]"));
        calm_down(&mut pump);
        assert_eq!(pump.sa(0).children.len(), 2);
        assert_ne!(pump.sa(0).spi_i, spi);
    }
}
