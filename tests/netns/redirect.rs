//! A gateway sends its peer to another one (RFC 5685).
//!
//! ```text
//!                                      198.51.100.2 gb 10.2.0.1
//! ha --- ga 192.0.2.1 --- net (router) <                       > hb
//!                                       203.0.113.2 gc 10.2.9.1
//! ```

use super::support::gateway::Gateway;
use super::support::transfer::{TWENTY_MB, both_ways, one_way};
use super::support::{self, World, wait_until};
use super::{Options, configuration};
use std::time::Duration;

/// The gateway that A is configured to, and the other one.
const FIRST: &str = "198.51.100.2";
const OTHER: &str = "203.0.113.2";

fn responder(address: &str, gateway: &'static str) -> String {
    let options = Options {
        gateway,
        ..Options::default()
    };
    let subnets = ("10.2.0.0/24", "10.1.0.0/24");
    configuration(&options, "b.example", "a.example", address, "%any", subnets, "none")
}

/// By order in the middle of a transfer, without a packet lost that TCP would miss; then back and there at the first message.
#[test]
fn a_gateway_sends_its_peer_to_another() {
    if !support::privileged("redirect") {
        return;
    }
    let mut world = World::two_sites(false, 1500);
    world.add("gc");
    world.join("gc", "wan0", "203.0.113.2/24", "net", "eth2", "203.0.113.1/24");
    world.join("gc", "lan0", "10.2.9.1/24", "hb", "eth1", "10.2.9.2/24");
    world.ip("gc", &["route", "add", "default", "via", "203.0.113.1"]);
    world.ip("gc", &["route", "add", "10.2.0.0/24", "via", "10.2.9.2"]);
    world.must("gc", &["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
    let options = Options {
        connection: "follow_redirects = true",
        ..Options::default()
    };
    let subnets = ("10.1.0.0/24", "10.2.0.0/24");
    let a = configuration(&options, "a.example", "b.example", "192.0.2.1", FIRST, subnets, "start");
    let b = Gateway::start(&mut world, "gb", &responder(FIRST, ""));
    let c = Gateway::start(&mut world, "gc", &responder(OTHER, ""));
    let a = Gateway::start(&mut world, "ga", &a);
    a.wait_up(&world, "site");
    assert!(b.is_up(&world, "site") && !c.is_up(&world, "site"));
    let arrived = |from: &Gateway, to: &Gateway, by: &str| {
        wait_until("the peer has gone", Duration::from_secs(20), || {
            to.is_up(&world, "site") && !from.is_up(&world, "site")
        });
        // What is behind the gateways takes the same way back.
        let back = ["route", "replace", "10.1.0.0/24", "via", by, "src", "10.2.0.2"];
        world.ip("hb", &back);
    };
    // What can't be done is said.
    let refused = a.try_client(&world, &["redirect", "site", "--to", OTHER]);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && text.contains("can be sent elsewhere"),
        "{text}"
    );
    let refused = b.try_client(&world, &["redirect", "--all"]);
    assert!(!refused.status.success());
    std::thread::scope(|scope| {
        let load = scope.spawn(|| one_way(&world, "ha", "hb", "10.2.0.2", 3 * TWENTY_MB));
        std::thread::sleep(Duration::from_millis(200));
        b.client(&world, &["redirect", "site", "--to", OTHER]);
        arrived(&b, &c, "10.2.9.1");
        load.join().unwrap();
    });
    both_ways(&world);
    let sa = a.connection(&world, "site")["ike_sas"][0].clone();
    assert_eq!(sa["redirected_from"], FIRST);
    assert!(a.client(&world, &["status"]).contains("sent there by 198.51.100.2"));
    let log = a.log(&world);
    assert!(log.contains("sends us to 203.0.113.2"));
    assert!(
        b.client(&world, &["metrics"])
            .contains("landbridge_connection_redirects_sent_total{connection=\"site\"} 1")
    );
    // The other sends everybody away, and a new attempt begins where it is configured to.
    c.configure(&responder(OTHER, "redirect_to = \"198.51.100.2\""));
    c.client(&world, &["reload"]);
    c.client(&world, &["redirect", "--all"]);
    arrived(&c, &b, "10.2.0.1");
    both_ways(&world);
    // So does the first now: at the first message.
    b.configure(&responder(FIRST, "redirect_to = \"203.0.113.2\""));
    b.client(&world, &["reload"]);
    c.configure(&responder(OTHER, ""));
    c.client(&world, &["reload"]);
    a.client(&world, &["down", "site"]);
    b.wait_down(&world, "site");
    a.client(&world, &["up", "site"]);
    arrived(&b, &c, "10.2.9.1");
    both_ways(&world);
    assert_eq!(b.status(&world)["drops"]["redirects_sent"], 1);
    assert_eq!(a.connection(&world, "site")["ike_sas"][0]["redirected_from"], FIRST);
}
