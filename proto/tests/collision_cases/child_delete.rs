//! `test_child_delete`: Child SA Deletes (RFC 7296 §1.4.1, §2.25.1, §2.25.2).

use super::*;

/// No pair at either end, the IKE SA is there.
fn no_child(pump: &mut Pump) {
    pump.run_for(60 * SECOND, |_| true);
    for who in 0..2 {
        let load = pump.ends[who].load();
        assert_eq!(
            (load.ike_sas, load.child_sas, load.spis, load.jobs, load.requests),
            (1, 0, 0, 0, 0),
            "end {who}"
        );
        assert!(pump.sad[who].pairs.is_empty() && pump.is_up(who));
    }
}

/// Nobody starts it.
fn up_by_hand() -> Pump {
    let mut pump = up();
    // As if A's operator had taken it down before B does: then A does not bring it up again.
    pump.reconnect = false;
    pump
}

#[test]
fn test_regular() {
    let mut pump = up_by_hand();
    pump.down(0, Some("net"));
    to(&mut pump, 1);
    to(&mut pump, 0);
    assert_eq!(said(&pump, 1, "INFORMATIONAL response 2 [D]"), 1, "with the other half");
    no_child(&mut pump);
}

/// §1.4.1: "the responses MUST NOT include Delete payloads for the deleted SAs".
#[test]
fn test_collision() {
    let mut pump = up_by_hand();
    pump.down(0, Some("net"));
    pump.down(1, Some("net"));
    to(&mut pump, 1);
    to(&mut pump, 0);
    pump.deliver_all();
    assert_eq!(said(&pump, 0, "INFORMATIONAL response 0 []"), 1);
    assert_eq!(said(&pump, 1, "INFORMATIONAL response 2 []"), 1);
    no_child(&mut pump);
}

/// The same, one of the requests is lost at first: when it comes, the pair is gone.
#[test]
fn test_collision_drop() {
    for lost in 0..2 {
        let mut pump = up_by_hand();
        pump.down(0, Some("net"));
        pump.down(1, Some("net"));
        take(&mut pump, lost);
        to(&mut pump, 1 - lost);
        to(&mut pump, lost);
        no_child(&mut pump);
        let answers = said(&pump, 0, "INFORMATIONAL response 0 []") + said(&pump, 1, "INFORMATIONAL response 2 []");
        assert_eq!(answers, 2, "neither has a Delete payload");
    }
}

/// §2.25.2: "If a peer receives a request to delete a Child SA when it is currently rekeying the IKE SA, it SHOULD reply as
/// usual, with a Delete payload."; §2.25.1: the rekey of the IKE SA has to wait.
#[test]
fn test_collision_ike_rekey() {
    for (deletes, rekeys) in [(0, 1), (1, 0)] {
        let mut pump = up();
        let spi = pump.sa(0).spi_i;
        rekey_ike(&mut pump, rekeys);
        pump.down(deletes, Some("net"));
        to(&mut pump, deletes);
        to(&mut pump, rekeys);
        pump.deliver_all();
        assert!(pump.saw(rekeys, "[N(TEMPORARY_FAILURE)]"));
        assert_eq!(
            said(&pump, rekeys, "INFORMATIONAL response 2 [D]") + said(&pump, rekeys, "INFORMATIONAL response 0 [D]"),
            1
        );
        if deletes == 0 {
            no_child(&mut pump);
        } else {
            calm_down(&mut pump);
        }
        assert_ne!(pump.sa(0).spi_i, spi, "it was rekeyed in the end");
    }
}

/// One end deletes the Child SA, the other the IKE SA: all is gone.
#[test]
fn test_collision_ike_delete() {
    for ike in 0..2 {
        let mut pump = up_by_hand();
        pump.down(1 - ike, Some("net"));
        pump.down(ike, None);
        to(&mut pump, ike);
        to(&mut pump, 1 - ike);
        pump.run_for(60 * SECOND, |_| true);
        for who in 0..2 {
            assert!(!pump.is_up(who) && pump.sad[who].pairs.is_empty());
            assert_eq!(pump.ends[who].load().spis, 0);
        }
    }
}
