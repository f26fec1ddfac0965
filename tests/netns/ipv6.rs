//! IPv6 outside, inside and both; ESP with and without UDP; each MTU as it is computed; paths that are narrower than their
//! ends.

use super::support::gateway::Gateway;
use super::support::transfer::{TWENTY_MB, both_ways, one_way, ping};
use super::support::{World, privileged, wait_until};
use super::{Options, Pair, configuration};
use std::time::Duration;

/// IPv6 beside IPv4 in [`World::two_sites`].
fn with_ipv6(world: &World) {
    for (ns, device, address) in [
        ("ha", "eth0", "2001:db8:a::2/64"),
        ("ga", "lan0", "2001:db8:a::1/64"),
        ("ga", "wan0", "2001:db8:1::1/64"),
        ("net", "eth0", "2001:db8:1::ff/64"),
        ("net", "eth1", "2001:db8:2::ff/64"),
        ("gb", "wan0", "2001:db8:2::2/64"),
        ("gb", "lan0", "2001:db8:b::1/64"),
        ("hb", "eth0", "2001:db8:b::2/64"),
    ] {
        world.ip(ns, &["addr", "add", address, "dev", device, "nodad"]);
    }
    for name in ["ga", "net", "gb"] {
        world.must(name, &["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"]);
    }
    for (ns, gateway) in [
        ("ha", "2001:db8:a::1"),
        ("ga", "2001:db8:1::ff"),
        ("gb", "2001:db8:2::ff"),
        ("hb", "2001:db8:b::1"),
    ] {
        world.ip(ns, &["-6", "route", "add", "default", "via", gateway]);
    }
}

/// Both networks have both families; the gateways' identities are their addresses.
fn pair(test: &str, ipv6_outside: bool, connection: &'static str, prepare: impl FnOnce(&World)) -> Option<Pair> {
    if !privileged(test) {
        return None;
    }
    let (outer_a, outer_b) = if ipv6_outside {
        ("2001:db8:1::1", "2001:db8:2::2")
    } else {
        ("192.0.2.1", "198.51.100.2")
    };
    let options = Options {
        connection,
        ..Options::default()
    };
    let (net_a, net_b) = ("10.1.0.0/24\", \"2001:db8:a::/64", "10.2.0.0/24\", \"2001:db8:b::/64");
    let mut world = World::two_sites(false, 1500);
    with_ipv6(&world);
    prepare(&world);
    let text = configuration(&options, outer_b, outer_a, outer_b, outer_a, (net_b, net_a), "none");
    let b = Gateway::start(&mut world, "gb", &text);
    let text = configuration(&options, outer_a, outer_b, outer_a, outer_b, (net_a, net_b), "start");
    let a = Gateway::start(&mut world, "ga", &text);
    a.wait_up(&world, "site");
    b.wait_up(&world, "site");
    Some(Pair { world, a, b })
}

/// What goes over the network between: ESP without UDP, and with.
fn counts(world: &World) -> (u64, u64) {
    let text = world.must("net", &["nft", "list", "table", "inet", "seen"]);
    let mut counts = text.split("packets ").skip(1).map(|rest| {
        let number = rest.split_whitespace().next().unwrap();
        number.parse().unwrap()
    });
    (counts.next().unwrap(), counts.next().unwrap())
}

#[test]
fn all_four_combinations_with_and_without_udp() {
    for (ipv6_outside, connection, mtu) in [
        (false, "", 1438),
        (false, "encap = \"auto\"", 1446),
        (true, "", 1418),
        (true, "encap = \"auto\"", 1426),
    ] {
        let count = |world: &World| {
            let rules = "add table inet seen; add chain inet seen through { type filter hook forward priority 0; }; \
                 add rule inet seen through meta l4proto 50 counter; add rule inet seen through udp dport 4500 counter";
            world.must("net", &["nft", rules]);
        };
        let Some(pair) = pair("IPv6 and raw ESP", ipv6_outside, connection, count) else {
            return;
        };
        for address in ["10.2.0.2", "2001:db8:b::2"] {
            one_way(&pair.world, "ha", "hb", address, TWENTY_MB / 2);
        }
        for address in ["10.1.0.2", "2001:db8:a::2"] {
            one_way(&pair.world, "hb", "ha", address, TWENTY_MB / 2);
        }
        let raw = !connection.is_empty();
        let (plain, udp) = counts(&pair.world);
        // IKE goes by port 4500 in any case; a packet counted may be a super-packet.
        assert_eq!(
            (plain > 10_000, udp > 100),
            (raw, !raw),
            "{plain} without UDP, {udp} with"
        );
        for gateway in [&pair.a, &pair.b] {
            let site = gateway.connection(&pair.world, "site");
            let ike = &site["ike_sas"][0];
            assert_eq!(site["mtu"], mtu, "IPv6 outside: {ipv6_outside}, {connection}");
            assert_eq!(ike["encapsulation"], if raw { "raw" } else { "udp" });
            assert!(!ike["nat_local"].as_bool().unwrap() && !ike["nat_remote"].as_bool().unwrap());
            assert_eq!(ike["remote"].as_str().unwrap().starts_with("[2001:db8:"), ipv6_outside);
            // (What the kernel itself says on an interface that comes up is for no SA.)
            let drops = site["drops"].as_object().unwrap();
            let lost = drops
                .keys()
                .find(|cause| !matches!(cause.as_str(), "no_sa" | "selector_out"));
            assert_eq!(lost, None, "{drops:?}");
        }
        // One octet more than fits is answered with what does.
        for (address, headers) in [("10.2.0.2", 28), ("2001:db8:b::2", 48)] {
            let size = |len: u32| (len - headers).to_string();
            let fits = pair
                .world
                .must("ha", &["ping", "-c1", "-W2", "-Mdo", "-s", &size(mtu), address]);
            assert!(fits.contains("1 received"), "{fits}");
            let mut command = pair.world.command("ha", "ping");
            let told = command
                .args(["-c1", "-W2", "-Mdo", "-s", &size(mtu + 1), address])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&told.stdout).into_owned() + &String::from_utf8_lossy(&told.stderr);
            assert!(
                text.contains(&format!("mtu={mtu}")) || text.contains(&format!("mtu = {mtu}")),
                "{text}"
            );
        }
    }
}

/// The gateways see 1500; between them less gets through. IPv4 routers fragment what has no DF; over IPv6 the gateway
/// learns it. IKE and ESP get through all the same, and the inner MTU stays.
#[test]
fn a_path_that_is_narrow_in_the_middle_carries_everything() {
    for (ipv6_outside, connection, narrow) in [
        (false, "", "600"),
        (false, "encap = \"auto\"", "900"),
        (true, "", "1280"),
        (true, "encap = \"auto\"", "1280"),
    ] {
        // Of the router's routes, both ways: the links themselves are as wide as the gateways see them.
        let narrowed = |world: &World| {
            let routes = if ipv6_outside {
                [("-6", "2001:db8:1::/64", "eth0"), ("-6", "2001:db8:2::/64", "eth1")]
            } else {
                [("-4", "192.0.2.0/24", "eth0"), ("-4", "198.51.100.0/24", "eth1")]
            };
            for (family, route, device) in routes {
                let mut words = vec![family, "route", "replace", route, "dev", device, "mtu", "lock", narrow];
                if ipv6_outside {
                    words.extend(["proto", "kernel", "metric", "256"]);
                }
                world.ip("net", &words);
            }
        };
        let Some(pair) = pair("narrow in the middle", ipv6_outside, connection, narrowed) else {
            return;
        };
        both_ways(&pair.world);
        for address in ["10.2.0.2", "2001:db8:b::2"] {
            let size = ["ping", "-c3", "-i0.2", "-W2", "-s1300", address];
            let answer = pair.world.must("ha", &size);
            assert!(answer.contains("3 received"), "{answer}");
        }
        pair.a.client(&pair.world, &["rekey", "site"]);
        assert!(ping(&pair.world, "ha", "10.2.0.2"));
    }
}

/// N23: the kernel forwards, and decrements as every router does: once at each gateway, and the tunnel is one hop.
#[test]
fn a_tunnel_is_two_routers_to_ttl_and_hop_limit() {
    let Some(pair) = pair("TTL", false, "", |_| ()) else {
        return;
    };
    for address in ["10.2.0.2", "2001:db8:b::2"] {
        // (IPv6 addresses are held back for a second at first: duplicate address detection.)
        wait_until("the host is reached", Duration::from_secs(10), || {
            ping(&pair.world, "ha", address)
        });
        for (ttl, arrives) in [("1", false), ("2", false), ("3", true)] {
            let mut command = pair.world.command("ha", "ping");
            let output = command.args(["-c1", "-W2", "-t", ttl, address]).output().unwrap();
            assert_eq!(output.status.success(), arrives, "{address} with TTL {ttl}");
        }
        let answer = pair.world.must("ha", &["ping", "-c1", "-W2", address]);
        assert!(answer.contains("ttl=62"), "{answer}");
    }
}
