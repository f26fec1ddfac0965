//! RFC 4555 with strongSwan: it moves, and we move, each as initiator and, with the address that is gone, as responder.

use super::support::wait_until;
use super::{Pair, Scenario};
use std::time::Duration;

/// Both have a second way into the network, worse than the first.
fn two_ways(test: &str, initiate: bool) -> Option<Pair> {
    let scenario = Scenario {
        initiate,
        also_local: ", \"203.0.113.2\"",
        peer_more: &["MOBIKE=yes"],
        ..Scenario::default()
    };
    let mut pair = Pair::prepare(test, &scenario)?;
    for (gateway, far, address, router) in [
        ("ga", "eth2", "203.0.113.2", "203.0.113.1"),
        ("gb", "eth3", "198.18.0.2", "198.18.0.1"),
    ] {
        let world = &mut pair.world;
        let (near, other) = (format!("{address}/24"), format!("{router}/24"));
        world.join(gateway, "wan1", &near, "net", far, &other);
        world.ip(gateway, &["route", "add", "default", "via", router, "metric", "500"]);
        world.ip(gateway, &["route", "add", "default", "via", router, "table", "77"]);
        world.ip(gateway, &["rule", "add", "from", address, "lookup", "77"]);
    }
    pair.bring_up(&scenario);
    assert_eq!(sa(&pair)["mobike"], true);
    Some(pair)
}

fn sa(pair: &Pair) -> serde_json::Value {
    pair.ours.connection(&pair.world, "peer")["ike_sas"][0].clone()
}

fn wait_at(pair: &Pair, spi: &serde_json::Value, local: &str, remote: &str) {
    let is = |value: &serde_json::Value, address: &str| {
        value
            .as_str()
            .and_then(|text| text.rsplit_once(':'))
            .is_some_and(|(ip, _)| ip == address)
    };
    wait_until(
        &format!("the SA is at {local} - {remote}"),
        Duration::from_secs(40),
        || {
            let sa = sa(pair);
            sa["spi_i"] == *spi && is(&sa["local"], local) && is(&sa["remote"], remote)
        },
    );
}

#[test]
fn we_move() {
    for initiate in [true, false] {
        let Some(pair) = two_ways("we move", initiate) else {
            return;
        };
        let spi = sa(&pair)["spi_i"].clone();
        pair.move_data();
        pair.world.ip("ga", &["addr", "del", "192.0.2.1/24", "dev", "wan0"]);
        wait_at(&pair, &spi, "203.0.113.2", "198.51.100.2");
        pair.move_data();
        assert!(pair.theirs.status().contains("203.0.113.2"), "{}", pair.theirs.status());
        // The keys of the SAs are the same; both still rekey.
        pair.theirs.peer(&["rekey"]);
        pair.ours.client(&pair.world, &["rekey", "peer"]);
        pair.move_data();
    }
}

#[test]
fn strongswan_moves() {
    for initiate in [false, true] {
        let Some(pair) = two_ways("strongSwan moves", initiate) else {
            return;
        };
        let spi = sa(&pair)["spi_i"].clone();
        pair.world.ip("gb", &["addr", "del", "198.51.100.2/24", "dev", "wan0"]);
        wait_at(&pair, &spi, "192.0.2.1", "198.18.0.2");
        pair.move_data();
    }
}
