//! The main job: a tunnel comes up and carries data.

use super::support::gateway::Gateway;
use super::support::transfer::{both_ways, one_way, ping};
use super::support::{World, privileged, run, wait_until};
use super::{Options, Pair, configuration};
use std::collections::BTreeMap;
use std::time::Duration;

#[test]
fn hosts_talk_through_two_gateways() {
    let Some(pair) = Pair::up("two gateways", Options::default()) else {
        return;
    };
    assert!(ping(&pair.world, "ha", "10.2.0.2"));
    both_ways(&pair.world);
}

#[test]
fn behind_a_nat() {
    let Some(pair) = Pair::up(
        "behind a NAT",
        Options {
            nat: true,
            ..Options::default()
        },
    ) else {
        return;
    };
    both_ways(&pair.world);
}

#[test]
fn every_esp_suite_carries_data() {
    for esp in [
        "aes128gcm16",
        "aes256gcm16-esn",
        "chacha20poly1305",
        "aes128-sha256",
        "aes256-sha384",
        "aes256-sha512-esn",
    ] {
        let Some(pair) = Pair::up(
            esp,
            Options {
                esp,
                ..Options::default()
            },
        ) else {
            return;
        };
        both_ways(&pair.world);
        let status = pair.a.connection(&pair.world, "site");
        let suite = status["ike_sas"][0]["children"][0]["suite"].to_string();
        assert!(
            suite.contains(esp.trim_end_matches("-esn")),
            "asked for {esp}, got {suite}"
        );
    }
}

#[test]
fn several_workers() {
    let Some(pair) = Pair::up(
        "several workers",
        Options {
            gateway: "workers = 2",
            ..Options::default()
        },
    ) else {
        return;
    };
    both_ways(&pair.world);
}

#[test]
fn a_small_path_mtu_loses_nothing() {
    let Some(pair) = Pair::up(
        "small MTU",
        Options {
            mtu: 1280,
            ..Options::default()
        },
    ) else {
        return;
    };
    both_ways(&pair.world);
    // Larger than the tunnel: fragmented inside, or answered with the MTU that fits; never lost without a word.
    let big = pair
        .world
        .command("ha", "ping")
        .args(["-q", "-c", "2", "-W", "2", "-s", "2000", "10.2.0.2"])
        .output()
        .unwrap();
    assert!(big.status.success(), "{}", String::from_utf8_lossy(&big.stdout));
    let told = pair
        .world
        .command("ha", "ping")
        .args(["-c", "1", "-W", "2", "-M", "do", "-s", "1400", "10.2.0.2"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&told.stdout).into_owned() + &String::from_utf8_lossy(&told.stderr);
    assert!(
        text.contains("mtu") || text.contains("too long"),
        "no word about the MTU: {text}"
    );
}

#[test]
fn nothing_but_ike_and_esp_is_on_the_wire() {
    let Some(mut pair) = Pair::up("the wire", Options::default()) else {
        return;
    };
    let file = pair.world.dir().join("wire.pcap");
    let dump = pair.world.spawn(
        "net",
        "tcpdump.log",
        "tcpdump",
        &["-i", "eth1", "-n", "-U", "-w", file.to_str().unwrap()],
    );
    wait_until("tcpdump listens", Duration::from_secs(5), || {
        std::fs::read_to_string(pair.world.dir().join("tcpdump.log")).is_ok_and(|t| t.contains("listening"))
    });
    both_ways(&pair.world);
    pair.world.end(dump, libc::SIGINT);
    let count = |filter: &str| {
        let out = run(std::process::Command::new("tcpdump").args(["-n", "-r", file.to_str().unwrap(), filter]));
        String::from_utf8_lossy(&out.stdout).lines().count()
    };
    // (A captured packet may be a super-packet of up to 64 segments.)
    assert!(count("udp port 4500 or udp port 500") > 100);
    assert_eq!(count("ip and not (udp port 4500 or udp port 500)"), 0);
    assert_eq!(count("net 10.0.0.0/8"), 0);
}

#[test]
fn status_shows_what_an_operator_asks_for() {
    let Some(pair) = Pair::up("status", Options::default()) else {
        return;
    };
    both_ways(&pair.world);
    let site = pair.a.connection(&pair.world, "site");
    let ike = &site["ike_sas"][0];
    let child = &ike["children"][0];
    assert_eq!(site["state"], "up");
    assert!(ike["peer"].to_string().contains("b.example"), "{ike}");
    assert!(
        ike["suite"].to_string().contains("aes256gcm16-prfsha384-x25519"),
        "{ike}"
    );
    assert!(child["suite"].to_string().contains("aes256gcm16"), "{child}");
    for key in ["spi_in", "spi_out", "age_seconds", "rekey_in_seconds"] {
        assert!(!child[key].is_null(), "{key} is missing in {child}");
    }
    for direction in ["in", "out"] {
        let bytes = child[format!("bytes_{direction}")].as_u64().unwrap();
        let packets = child[format!("packets_{direction}")].as_u64().unwrap();
        assert!(
            bytes > 20_000_000 && packets > 10_000,
            "{direction}: {bytes} octets, {packets} packets"
        );
    }
    assert!(site["drops"].is_object(), "{site}");
    let table = pair.a.client(&pair.world, &["status"]);
    assert!(table.contains("site") && table.contains("b.example"), "{table}");
}

#[test]
fn raw_ed25519_keys() {
    use super::support::World;
    use super::support::gateway::{Gateway, landbridge};
    if !super::support::privileged("raw Ed25519 keys") {
        return;
    }
    let mut world = World::two_sites(false, 1500);
    let (mut a, mut b) = (Gateway::prepare(&world, "ga"), Gateway::prepare(&world, "gb"));
    let key = |gateway: &Gateway| {
        let path = gateway.folder().join("own.key");
        let made = landbridge(&["keygen", path.to_str().unwrap()]);
        assert!(made.status.success(), "{made:?}");
        let public = landbridge(&["pubkey", path.to_str().unwrap()]);
        assert!(public.status.success(), "{public:?}");
        String::from_utf8(public.stdout).unwrap()
    };
    let (public_a, public_b) = (key(&a), key(&b));
    a.secret("peer.pub", &public_b);
    b.secret("peer.pub", &public_a);
    let with_keys = |text: String| {
        text.replace("auth = \"psk\"", "auth = \"pubkey\"")
            .replacen("psk_file = \"peer.psk\"", "private_key_file = \"own.key\"", 1)
            .replacen("psk_file = \"peer.psk\"", "public_key_files = [\"peer.pub\"]", 1)
    };
    let options = Options::default();
    a.configure(&with_keys(super::initiator(&options)));
    b.configure(&with_keys(super::responder(&options)));
    b.launch(&mut world);
    a.launch(&mut world);
    a.wait_up(&world, "site");
    both_ways(&world);
}

/// Selectors of one host that is not the gateway itself: the route names no source then.
#[test]
fn one_host_behind_each_gateway() {
    if !privileged("one_host_behind_each_gateway") {
        return;
    }
    let options = Options::default();
    let mut world = World::two_sites(false, 1500);
    let (ga, gb) = ("192.0.2.1", "198.51.100.2");
    let (a, b) = ("10.1.0.2/32", "10.2.0.2/32");
    let text = configuration(&options, gb, ga, gb, ga, (b, a), "none");
    let _b = Gateway::start(&mut world, "gb", &text);
    let text = configuration(&options, ga, gb, ga, gb, (a, b), "start");
    let gateway = Gateway::start(&mut world, "ga", &text);
    gateway.wait_up(&world, "site");
    both_ways(&world);
}

/// RFC 9611, key exchange and data path together: two pairs of one child, each rekeyed in its place.
#[test]
fn two_pairs_of_one_child() {
    let options = Options {
        gateway: "workers = 2",
        child: "pairs = 2",
        ..Options::default()
    };
    let Some(pair) = Pair::up("two pairs of one child", options) else {
        return;
    };
    let spis = |gateway: &Gateway| -> BTreeMap<u64, String> {
        let connection = gateway.connection(&pair.world, "site");
        let children = connection["ike_sas"][0]["children"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        children
            .iter()
            .map(|child| (child["pair"].as_u64().unwrap(), child["spi_in"].to_string()))
            .collect()
    };
    let both = |gateway: &Gateway| spis(gateway).len() == 2;
    wait_until("both pairs are up", Duration::from_secs(10), || {
        both(&pair.a) && both(&pair.b)
    });
    both_ways(&pair.world);
    // Connections one after the other spread over the queues, and so over the pairs.
    for _ in 0..16 {
        assert!(ping(&pair.world, "ha", "10.2.0.2"));
        one_way(&pair.world, "ha", "hb", "10.2.0.2", 100_000);
    }
    let connection = pair.a.connection(&pair.world, "site");
    for child in connection["ike_sas"][0]["children"].as_array().unwrap() {
        assert!(child["packets_out"].as_u64().unwrap() > 0, "{child}");
    }
    let before = spis(&pair.a);
    pair.a.client(&pair.world, &["rekey", "site"]);
    wait_until("both are others", Duration::from_secs(10), || {
        let now = spis(&pair.a);
        now.len() == 2 && now.iter().all(|(place, spi)| before[place] != *spi)
    });
    both_ways(&pair.world);
}
