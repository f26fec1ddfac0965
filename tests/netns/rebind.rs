//! A NAT forgets its mapping: the peer is followed to its new port, by what is authentic and newer (RFC 7296 §2.23).

use super::support::transfer::{both_ways, ping};
use super::support::wait_until;
use super::{Options, Pair};
use std::time::Duration;

#[test]
fn a_nat_that_rebinds_is_followed() {
    let options = Options {
        nat: true,
        gateway: "workers = 2",
        ..Options::default()
    };
    let Some(pair) = Pair::up("NAT rebinds", options) else {
        return;
    };
    let remote = |pair: &Pair| pair.b.connection(&pair.world, "site")["ike_sas"][0]["remote"].to_string();
    for _ in 0..3 {
        assert!(ping(&pair.world, "ha", "10.2.0.2"));
        let before = remote(&pair);
        // An interface that goes down takes its masquerading with it: the next datagram gets another port.
        pair.world.ip("nat", &["link", "set", "wan0", "down"]);
        pair.world.ip("nat", &["link", "set", "wan0", "up"]);
        pair.world
            .ip("nat", &["route", "replace", "default", "via", "192.0.2.254"]);
        wait_until("traffic flows again", Duration::from_secs(20), || {
            ping(&pair.world, "ha", "10.2.0.2")
        });
        wait_until("the gateway knows the new port", Duration::from_secs(5), || {
            // The masquerading goes a moment after the interface.
            ping(&pair.world, "ha", "10.2.0.2") && remote(&pair) != before
        });
        // The other way round, begun at the side that had to follow.
        assert!(ping(&pair.world, "hb", "10.1.0.2"));
    }
    let site = pair.b.connection(&pair.world, "site");
    assert_eq!(site["ike_sas"].as_array().unwrap().len(), 1, "no new SA was needed");
    both_ways(&pair.world);
    for cause in ["replayed", "integrity", "too_old"] {
        assert!(site["drops"][cause].is_null(), "{}", site["drops"]);
    }
    // IKE goes to the new port, too.
    pair.b.client(&pair.world, &["rekey", "site"]);
    both_ways(&pair.world);
}
