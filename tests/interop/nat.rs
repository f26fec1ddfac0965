//! NATs in front of either end or both, whoever begins; the tunnel lives on through rekeys.

use super::support::wait_until;
use super::{Pair, Scenario};
use std::time::Duration;

fn through(nat: bool, their_nat: bool, initiate: bool) {
    let scenario = Scenario {
        nat,
        their_nat,
        initiate,
        esp: "aes256gcm16-x25519",
        // Without a NAT this would be ESP without UDP.
        more: "encap = \"auto\"",
        ..Scenario::default()
    };
    let Some(pair) = Pair::start("NAT", &scenario) else {
        return;
    };
    // RFC 7296 §2.23: an initiator that sees a NAT "MUST send all subsequent traffic from port 4500".
    let ike = &pair.ours.connection(&pair.world, "peer")["ike_sas"][0];
    assert_eq!(ike["nat_local"], nat, "{ike}");
    // (kernel-libipsec pretends to be behind a NAT, always.)
    assert_eq!(ike["nat_remote"], true, "{ike}");
    if !their_nat {
        assert!(ike["remote"].to_string().contains(":4500"), "{ike}");
    }
    pair.move_data();
    for step in ["Child by us", "Child by peer", "IKE by us", "IKE by peer"] {
        let before = (pair.spis(), ike_spi(&pair));
        match step {
            "Child by us" => drop(pair.ours.client(&pair.world, &["rekey", "peer"])),
            "Child by peer" => drop(pair.theirs.peer(&["rekey"])),
            "IKE by us" => drop(pair.ours.client(&pair.world, &["rekey", "peer", "--ike"])),
            _ => drop(pair.theirs.peer(&["rekey-ike"])),
        }
        wait_until(step, Duration::from_secs(20), || {
            let now = (pair.spis(), ike_spi(&pair));
            if step.starts_with("IKE") {
                now.1 != before.1
            } else {
                now.0 != before.0
            }
        });
        pair.rekeyed(step);
    }
    pair.move_data();
}

fn ike_spi(pair: &Pair) -> String {
    pair.ours.connection(&pair.world, "peer")["ike_sas"][0]["spi_i"].to_string()
}

#[test]
fn in_front_of_us_we_initiate() {
    through(true, false, true);
}

#[test]
fn in_front_of_us_we_respond() {
    through(true, false, false);
}

#[test]
fn in_front_of_the_peer_we_initiate() {
    through(false, true, true);
}

#[test]
fn in_front_of_the_peer_we_respond() {
    through(false, true, false);
}

#[test]
fn in_front_of_both_we_initiate() {
    through(true, true, true);
}

#[test]
fn in_front_of_both_we_respond() {
    through(true, true, false);
}
