//! Gateways whose addresses change, whose way dies, and that stand behind NATs.
//!
//! ```text
//!               192.0.2.1 wan0                        wan0 198.51.100.2
//! ha --- ga <                    > net (router) <                       > gb --- hb
//!             203.0.113.2 wan1                        wan1 198.18.0.2
//! ```

use super::support::gateway::Gateway;
use super::support::transfer::{TWENTY_MB, both_ways, one_way};
use super::support::{self, World, wait_until};
use super::{Options, configuration};
use std::time::Duration;

const SUBNETS: (&str, &str) = ("10.1.0.0/24", "10.2.0.0/24");

/// Both gateways have two ways into the network; the first is preferred.
struct TwoWays {
    world: World,
    a: Gateway,
    b: Gateway,
}

impl TwoWays {
    /// Up by the first ways; `None` (said) where it can't run.
    fn up(test: &str, connection: &'static str) -> Option<Self> {
        if !support::privileged(test) {
            return None;
        }
        let mut world = World::two_sites(false, 1500);
        for (gateway, device, far, address, router) in [
            ("ga", "wan1", "eth2", "203.0.113.2", "203.0.113.1"),
            ("gb", "wan1", "eth3", "198.18.0.2", "198.18.0.1"),
        ] {
            let (near, other) = (format!("{address}/24"), format!("{router}/24"));
            world.join(gateway, device, &near, "net", far, &other);
            world.ip(gateway, &["route", "add", "default", "via", router, "metric", "500"]);
            // What comes from an address leaves by its own way.
            world.ip(gateway, &["route", "add", "default", "via", router, "table", "77"]);
            world.ip(gateway, &["rule", "add", "from", address, "lookup", "77"]);
        }
        let options = Options {
            connection,
            ..Options::default()
        };
        let (ours, theirs) = ("192.0.2.1\", \"203.0.113.2", "198.51.100.2\", \"198.18.0.2");
        let a = configuration(
            &options,
            "a.example",
            "b.example",
            ours,
            "198.51.100.2",
            SUBNETS,
            "start",
        );
        let (there, here) = SUBNETS;
        let b = configuration(
            &options,
            "b.example",
            "a.example",
            theirs,
            "%any",
            (here, there),
            "none",
        );
        let b = Gateway::start(&mut world, "gb", &b);
        let a = Gateway::start(&mut world, "ga", &a);
        a.wait_up(&world, "site");
        b.wait_up(&world, "site");
        Some(Self { world, a, b })
    }

    /// The IKE SA of a gateway: its SPI, our address, the peer's.
    fn sa(&self, gateway: &Gateway) -> (String, String, String) {
        let sa = gateway.connection(&self.world, "site")["ike_sas"][0].clone();
        let address = |key: &str| {
            sa[key]
                .as_str()
                .unwrap_or_default()
                .rsplit_once(':')
                .map(|(ip, _)| ip.to_owned())
        };
        let of = |key: &str| address(key).unwrap_or_default();
        (sa["spi_i"].to_string(), of("local"), of("remote"))
    }

    /// Waits until both ends have moved, with the SA they had.
    fn wait_at(&self, spi: &str, a: &str, b: &str) {
        wait_until("both ends have moved", Duration::from_secs(30), || {
            self.sa(&self.a) == (spi.to_owned(), a.to_owned(), b.to_owned())
                && self.sa(&self.b) == (spi.to_owned(), b.to_owned(), a.to_owned())
        });
    }
}

/// RFC 4555 §3.5: the initiator's address goes away in the middle of a transfer; the transfer does not notice.
#[test]
fn our_address_changes_under_load() {
    let Some(pair) = TwoWays::up("an address changes", "") else {
        return;
    };
    let (spi, ..) = pair.sa(&pair.a);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| one_way(&pair.world, "ha", "hb", "10.2.0.2", 3 * TWENTY_MB));
        std::thread::sleep(Duration::from_millis(200));
        pair.world.ip("ga", &["addr", "del", "192.0.2.1/24", "dev", "wan0"]);
        pair.wait_at(&spi, "203.0.113.2", "198.51.100.2");
        load.join().unwrap();
    });
    both_ways(&pair.world);
    // And back, when it is there again: it is the first of local_addrs.
    pair.world.ip("ga", &["addr", "add", "192.0.2.1/24", "dev", "wan0"]);
    pair.world
        .ip("ga", &["route", "replace", "default", "via", "192.0.2.254"]);
    pair.wait_at(&spi, "192.0.2.1", "198.51.100.2");
    both_ways(&pair.world);
    assert!(pair.a.log(&pair.world).contains("moved from 192.0.2.1:4500"));
}

/// §3.6: the responder's address goes away.
#[test]
fn the_responders_address_changes() {
    let Some(pair) = TwoWays::up("the responder's address changes", "") else {
        return;
    };
    let (spi, ..) = pair.sa(&pair.a);
    pair.world.ip("gb", &["addr", "del", "198.51.100.2/24", "dev", "wan0"]);
    pair.wait_at(&spi, "192.0.2.1", "198.18.0.2");
    both_ways(&pair.world);
}

/// §3.10: nothing is lost that the machine could see: the way in use just swallows everything. The liveness check finds
/// another, by the peer's other address.
#[test]
fn the_way_dies_silently() {
    let Some(pair) = TwoWays::up("the way dies", "dpd_delay = \"1s\"") else {
        return;
    };
    let (spi, ..) = pair.sa(&pair.a);
    pair.world.must(
        "net",
        &["nft", "add table ip dead; add chain ip dead forth { type filter hook forward priority 0; }; add rule ip dead forth ip daddr 198.51.100.2 drop"],
    );
    wait_until("another way is found", Duration::from_secs(40), || {
        let (now, _, remote) = pair.sa(&pair.a);
        now == spi && remote == "198.18.0.2"
    });
    both_ways(&pair.world);
}

/// Without it a peer that takes us to be behind a NAT follows what is authentic (RFC 7296 §2.23), and the SAs live on; for
/// another the tunnel is begun anew from where we are now.
#[test]
fn without_mobike() {
    for (connection, lives_on) in [("mobike = false", true), ("mobike = false\nencap = \"auto\"", false)] {
        let Some(pair) = TwoWays::up("no MOBIKE", connection) else {
            return;
        };
        let (spi, ..) = pair.sa(&pair.a);
        pair.world.ip("ga", &["addr", "del", "192.0.2.1/24", "dev", "wan0"]);
        wait_until("it is up from the other address", Duration::from_secs(30), || {
            let (now, local, _) = pair.sa(&pair.a);
            (now == spi) == lives_on && local == "203.0.113.2" && pair.a.is_up(&pair.world, "site")
        });
        both_ways(&pair.world);
    }
}

/// A NAT in front of both gateways: B's forwards its ports to it. Both identities are names: addresses say nothing here.
#[test]
fn both_ends_behind_nats() {
    if !support::privileged("both ends behind NATs") {
        return;
    }
    let mut world = World::new();
    for name in ["ha", "ga", "nata", "net", "natb", "gb", "hb"] {
        world.add(name);
    }
    world.join("ha", "eth0", "10.1.0.2/24", "ga", "lan0", "10.1.0.1/24");
    world.join("ga", "wan0", "192.168.50.2/24", "nata", "lan0", "192.168.50.1/24");
    world.join("nata", "wan0", "192.0.2.1/24", "net", "eth0", "192.0.2.254/24");
    world.join("net", "eth1", "198.51.100.1/24", "natb", "wan0", "198.51.100.2/24");
    // The same private network as in front of A.
    world.join("natb", "lan0", "192.168.50.1/24", "gb", "wan0", "192.168.50.2/24");
    world.join("gb", "lan0", "10.2.0.1/24", "hb", "eth0", "10.2.0.2/24");
    for (ns, via) in [
        ("ha", "10.1.0.1"),
        ("ga", "192.168.50.1"),
        ("nata", "192.0.2.254"),
        ("natb", "198.51.100.1"),
        ("gb", "192.168.50.1"),
        ("hb", "10.2.0.1"),
    ] {
        world.ip(ns, &["route", "add", "default", "via", via]);
    }
    for ns in ["ga", "nata", "net", "natb", "gb"] {
        world.must(ns, &["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
    }
    for ns in ["nata", "natb"] {
        world.must(ns, &["nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority srcnat; }; add rule ip nat post oifname wan0 masquerade random"]);
    }
    world.must("natb", &["nft", "add chain ip nat pre { type nat hook prerouting priority dstnat; }; add rule ip nat pre iifname wan0 udp dport { 500, 4500 } dnat to 192.168.50.2"]);
    // As it is, not as it may be pretended: detection decides.
    let options = Options {
        connection: "encap = \"auto\"",
        ..Options::default()
    };
    let a = configuration(
        &options,
        "a.example",
        "b.example",
        "192.168.50.2",
        "198.51.100.2",
        SUBNETS,
        "start",
    );
    let (there, here) = SUBNETS;
    let b = configuration(
        &options,
        "b.example",
        "a.example",
        "192.168.50.2",
        "%any",
        (here, there),
        "none",
    );
    let b = Gateway::start(&mut world, "gb", &b);
    let a = Gateway::start(&mut world, "ga", &a);
    a.wait_up(&world, "site");
    b.wait_up(&world, "site");
    for gateway in [&a, &b] {
        let sa = &gateway.connection(&world, "site")["ike_sas"][0];
        assert_eq!(
            (&sa["nat_local"], &sa["nat_remote"]),
            (&true.into(), &true.into()),
            "{sa}"
        );
    }
    both_ways(&world);
    // Either end's rekey gets through both.
    for gateway in [&a, &b] {
        gateway.client(&world, &["rekey", "site"]);
        gateway.client(&world, &["rekey", "site", "--ike"]);
        both_ways(&world);
    }
}
