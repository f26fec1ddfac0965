//! `test_ike_delete`: the IKE SA is deleted (RFC 7296 §1.4.1, §2.25.2).

use super::*;

fn all_gone(pump: &mut Pump) {
    pump.run_for(60 * SECOND, |_| true);
    for who in 0..2 {
        let load = pump.ends[who].load();
        assert_eq!(
            (load.ike_sas, load.child_sas, load.spis, load.timers),
            (0, 0, 0, 0),
            "end {who}"
        );
        assert!(pump.sad[who].pairs.is_empty());
    }
}

#[test]
fn test_regular() {
    for who in 0..2 {
        let mut pump = up();
        pump.reconnect = false;
        pump.down(who, None);
        to(&mut pump, 1 - who);
        to(&mut pump, who);
        // §1.4.1: "The response to a request that deletes the IKE SA is an empty INFORMATIONAL response."
        assert_eq!(said(&pump, 1 - who, "INFORMATIONAL response"), 1);
        assert!(pump.lines(who).iter().any(|line| line.ends_with("[]")));
        all_gone(&mut pump);
    }
}

/// §2.25.2: "If a peer receives a request to close an IKE SA that it is currently trying to close, it SHOULD reply as usual,
/// and forget about its own close request."
#[test]
fn test_collision() {
    for answers_arrive in [true, false] {
        let mut pump = up();
        pump.reconnect = false;
        pump.down(0, None);
        pump.down(1, None);
        to(&mut pump, 1);
        to(&mut pump, 0);
        if !answers_arrive {
            pump.wire.clear();
        }
        pump.deliver_all();
        assert!(!pump.is_up(0) && !pump.is_up(1));
        let at = pump.now;
        pump.run_for(14 * SECOND, |_| true);
        assert!(pump.wire.is_empty() && pump.now > at, "neither repeats its own");
        all_gone(&mut pump);
    }
}
