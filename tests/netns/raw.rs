//! ESP without UDP is a privilege, and asked for only where it is configured; what comes in the clear is dropped by the
//! kernel's reverse path filter.

use super::support::gateway::{Gateway, LANDBRIDGE};
use super::support::transfer::ping;
use super::support::{self, World, wait_until};
use super::{Options, Pair, initiator, responder};
use std::time::Duration;

const NO_RAW: [&str; 2] = ["--bounding-set=-net_raw", "--inh-caps=-net_raw"];

#[test]
fn without_cap_net_raw_it_says_so_if_it_is_needed() {
    if !support::privileged("no CAP_NET_RAW") {
        return;
    }
    let world = World::two_sites(false, 1500);
    let gateway = Gateway::prepare(&world, "gb");
    let options = Options {
        connection: "encap = \"auto\"",
        ..Options::default()
    };
    gateway.configure(&responder(&options));
    let refused = world
        .command("gb", "setpriv")
        .args(NO_RAW)
        .args([LANDBRIDGE, "run", "--config"])
        .arg(gateway.folder().join("landbridge.toml"))
        .arg("--socket")
        .arg(world.dir().join("none.sock"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(77), "{text}");
    assert!(text.contains("CAP_NET_RAW"), "{text}");
    let doctor = world
        .command("gb", "setpriv")
        .args(NO_RAW)
        .args([LANDBRIDGE, "doctor", "--config"])
        .arg(gateway.folder().join("landbridge.toml"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&doctor.stdout);
    assert!(text.contains("FAIL  CAP_NET_RAW"), "{text}");
}

#[test]
fn in_udp_it_works_without_cap_net_raw() {
    if !support::privileged("UDP without CAP_NET_RAW") {
        return;
    }
    let mut world = World::two_sites(false, 1500);
    let b = Gateway::prepare(&world, "gb");
    b.configure(&responder(&Options::default()));
    let (config, socket) = (b.folder().join("landbridge.toml"), b.folder().join("control.sock"));
    let mut words = NO_RAW.to_vec();
    words.extend([LANDBRIDGE, "run", "--config", config.to_str().unwrap()]);
    words.extend(["--socket", socket.to_str().unwrap()]);
    world.spawn("gb", "landbridge-gb.log", "setpriv", &words);
    wait_until("the gateway serves", Duration::from_secs(10), || {
        b.try_client(&world, &["status", "--json"]).status.success()
    });
    // The other end would do without UDP; it follows.
    let options = Options {
        connection: "encap = \"auto\"",
        ..Options::default()
    };
    let a = Gateway::start(&mut world, "ga", &initiator(&options));
    a.wait_up(&world, "site");
    wait_until("data get through", Duration::from_secs(10), || {
        ping(&world, "ha", "10.2.0.2")
    });
    assert_eq!(b.status(&world)["offloads"]["raw-esp"], false);
    assert_eq!(a.status(&world)["offloads"]["raw-esp"], true);
    assert_eq!(a.connection(&world, "site")["ike_sas"][0]["encapsulation"], "udp");
}

/// N24. RFC 4301 §5.2 discards what comes in the clear although a policy protects it. The kernel forwards, so it is the
/// kernel that has to: its strict reverse path filter knows that the peer's networks are behind the tunnel.
#[test]
fn what_comes_in_the_clear_from_the_peers_networks_is_dropped_by_the_reverse_path_filter() {
    let Some(pair) = Pair::up("in the clear", Options::default()) else {
        return;
    };
    pair.world
        .must("gb", &["sysctl", "-qw", "net.ipv4.conf.wan0.rp_filter=1"]);
    let rules = "add table ip seen; add chain ip seen came { type filter hook input priority 0; }; \
                 add rule ip seen came ip saddr 10.1.0.2 icmp type echo-request counter";
    pair.world.must("hb", &["nft", rules]);
    let seen = |pair: &Pair| {
        let text = pair.world.must("hb", &["nft", "list", "table", "ip", "seen"]);
        let count = text
            .split("packets ")
            .nth(1)
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap();
        count.parse::<u32>().unwrap()
    };
    // Somebody on the network between who says that he is host A.
    pair.world.ip("net", &["addr", "add", "10.1.0.2/32", "dev", "lo"]);
    pair.world
        .ip("net", &["route", "add", "10.2.0.0/24", "via", "198.51.100.2"]);
    let spoof = |pair: &Pair| {
        let mut command = pair.world.command("net", "ping");
        let words = ["-c3", "-i0.1", "-W1", "-I", "10.1.0.2", "10.2.0.2"];
        let _ = command.args(words).output().unwrap();
    };
    spoof(&pair);
    assert_eq!(seen(&pair), 0, "a packet in the clear got in");
    assert!(ping(&pair.world, "ha", "10.2.0.2"), "the tunnel's own suffered");
    assert_eq!(seen(&pair), 1);
    // It is the filter that does it.
    pair.world
        .must("gb", &["sysctl", "-qw", "net.ipv4.conf.wan0.rp_filter=0"]);
    spoof(&pair);
    assert!(seen(&pair) > 1);
}
