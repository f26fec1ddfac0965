//! RFC 5685 with strongSwan, to another address of the same gateway: it follows us by order and at its first
//! message, understands us in IKE_AUTH, and we follow it.

use super::support::wait_until;
use super::{Pair, Scenario};
use std::time::Duration;

const OUR_OTHER: &str = "192.0.2.9";
const THEIR_OTHER: &str = "198.51.100.9";

fn prepared(test: &str, scenario: &Scenario) -> Option<Pair> {
    let pair = Pair::prepare(test, scenario)?;
    for (gateway, address) in [("ga", OUR_OTHER), ("gb", THEIR_OTHER)] {
        let address = format!("{address}/24");
        pair.world.ip(gateway, &["addr", "add", &address, "dev", "wan0"]);
    }
    Some(pair)
}

/// The one IKE SA is up between these addresses.
fn wait_at(pair: &Pair, local: &str, remote: &str) -> serde_json::Value {
    let is = |value: &serde_json::Value, address: &str| {
        let text = value.as_str().and_then(|text| text.rsplit_once(':'));
        text.is_some_and(|(ip, _)| ip == address)
    };
    let sas = || {
        let connection = pair.ours.connection(&pair.world, "peer");
        connection["ike_sas"].as_array().cloned().unwrap_or_default()
    };
    wait_until(
        &format!("the SA is at {local} - {remote}"),
        Duration::from_secs(20),
        || match &sas()[..] {
            [sa] => is(&sa["local"], local) && is(&sa["remote"], remote) && sa["children"][0].is_object(),
            _ => false,
        },
    );
    sas()[0].clone()
}

#[test]
fn strongswan_is_sent_away_by_order() {
    let scenario = Scenario {
        initiate: false,
        also_local: ", \"192.0.2.9\"",
        ..Scenario::default()
    };
    let Some(pair) = prepared("redirected by our order", &scenario) else {
        return;
    };
    pair.bring_up(&scenario);
    wait_at(&pair, "192.0.2.1", "198.51.100.2");
    pair.move_data();
    pair.ours.client(&pair.world, &["redirect", "peer", "--to", OUR_OTHER]);
    wait_at(&pair, OUR_OTHER, "198.51.100.2");
    pair.move_data();
}

#[test]
fn strongswan_is_sent_away_at_its_first_message() {
    let scenario = Scenario {
        initiate: false,
        also_local: ", \"192.0.2.9\"",
        gateway: "redirect_to = \"192.0.2.9\"",
        ..Scenario::default()
    };
    let Some(pair) = prepared("redirected in IKE_SA_INIT", &scenario) else {
        return;
    };
    pair.bring_up(&scenario);
    wait_at(&pair, OUR_OTHER, "198.51.100.2");
    assert!(
        pair.theirs.log().contains("redirected to 192.0.2.9"),
        "{}",
        pair.theirs.log()
    );
    pair.move_data();
}

#[test]
fn strongswan_is_sent_away_once_it_is_known() {
    let scenario = Scenario {
        initiate: false,
        also_local: ", \"192.0.2.9\"",
        more: "redirect_to = \"192.0.2.9\"",
        ..Scenario::default()
    };
    let Some(pair) = prepared("redirected in IKE_AUTH: told", &scenario) else {
        return;
    };
    // Its order ends as a failure there. It proves us, hears where to go and says that it begins there; strongSwan 5.9.8 then
    // sends nothing.
    drop(pair.theirs.try_peer(&["initiate"]));
    let log = pair.theirs.log();
    for line in [
        "authentication of 'gw.example' with pre-shared key successful",
        "redirected to 192.0.2.9",
        "initiating IKE_SA peer[1] to 192.0.2.9",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
    assert!(!pair.ours.is_up(&pair.world, "peer"));
}

#[test]
fn strongswan_sends_us_away() {
    let scenario = Scenario {
        more: "follow_redirects = true",
        peer_more: &["LOCAL=198.51.100.2,198.51.100.9"],
        ..Scenario::default()
    };
    let Some(pair) = prepared("redirected by strongSwan's order", &scenario) else {
        return;
    };
    pair.bring_up(&scenario);
    pair.move_data();
    let order = ["swanctl", "--redirect", "--ike", "peer", "--gateway", THEIR_OTHER];
    pair.theirs.peer(&order);
    let sa = wait_at(&pair, "192.0.2.1", THEIR_OTHER);
    assert_eq!(sa["redirected_from"], "198.51.100.2");
    pair.move_data();
}
