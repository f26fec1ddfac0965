//! IP-TFS (RFC 9347) from the configuration to the wire.

use super::support::transfer::{both_ways, one_way, ping};
use super::support::wait_until;
use super::{Options, Pair};
use std::time::Duration;

fn iptfs(pair: &Pair) -> [serde_json::Value; 2] {
    [&pair.a, &pair.b].map(|gateway| {
        let status = gateway.connection(&pair.world, "site");
        status["ike_sas"][0]["children"][0]["iptfs"].clone()
    })
}

#[test]
fn aggregated_through_rekeys() {
    for child in [
        "iptfs = { mode = \"aggregate\", required = true }",
        "iptfs = { mode = \"aggregate\", delay = \"1ms\", size = 1200, fragments = false }",
    ] {
        let options = Options {
            child,
            ..Options::default()
        };
        let Some(pair) = Pair::up("IP-TFS, aggregate", options) else {
            return;
        };
        assert_eq!(iptfs(&pair), ["aggregate", "aggregate"]);
        assert!(ping(&pair.world, "ha", "10.2.0.2"));
        both_ways(&pair.world);
        pair.a.client(&pair.world, &["rekey", "site"]);
        pair.b.client(&pair.world, &["rekey", "site", "--ike"]);
        both_ways(&pair.world);
        assert_eq!(iptfs(&pair), ["aggregate", "aggregate"]);
    }
}

#[test]
fn at_a_constant_rate() {
    let options = Options {
        child: "iptfs = { mode = \"constant\", rate = \"40Mbit/s\", size = 1300 }",
        ..Options::default()
    };
    let Some(pair) = Pair::up("IP-TFS, constant", options) else {
        return;
    };
    assert_eq!(iptfs(&pair), ["constant", "constant"]);
    assert!(ping(&pair.world, "ha", "10.2.0.2"));
    one_way(&pair.world, "ha", "hb", "10.2.0.2", 2_000_000);
    pair.a.client(&pair.world, &["rekey", "site"]);
    one_way(&pair.world, "hb", "ha", "10.1.0.2", 2_000_000);
    // Larger than the tunnel's MTU: it is cut and put together again.
    let mut big = pair.world.command("ha", "ping");
    big.args(["-q", "-c", "2", "-W", "2", "-s", "4000", "10.2.0.2"]);
    assert!(big.output().unwrap().status.success());
}

/// What a gateway says of a path, and how many of the outer packets that came to it had losses before them.
fn path(pair: &Pair, gateway: &super::Gateway) -> (serde_json::Value, u64) {
    let status = gateway.connection(&pair.world, "site");
    let lost = status["drops"]["aggfrag_lost"].as_u64().unwrap_or(0);
    (status["ike_sas"][0]["children"][0]["iptfs_path"].clone(), lost)
}

/// Packets that came to a gateway on the NAT port, by a counter that is put there first.
fn came(pair: &Pair) -> u64 {
    let list = pair.world.must("gb", &["nft", "list", "table", "inet", "seen"]);
    let count = list.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
    count.unwrap().parse().unwrap()
}

/// A tunnel whose way to B takes 20 Mbit/s, with a queue of 30 ms; `None` where it can't be.
fn through_a_bottleneck(child: &'static str) -> Option<Pair> {
    let options = Options {
        child,
        ..Options::default()
    };
    let pair = Pair::up("IP-TFS through a bottleneck", options)?;
    // A queue that counts packets as they are on a wire.
    for (ns, device) in [("ga", "wan0"), ("net", "eth1")] {
        pair.world.ip(ns, &["link", "set", device, "gso_max_segs", "1"]);
    }
    let shape = |ns: &str, what: &str| {
        let words: Vec<&str> = ["tc", "qdisc", "add", "dev"]
            .into_iter()
            .chain(what.split(' '))
            .collect();
        pair.world.must(ns, &words);
    };
    shape("net", "eth1 root tbf rate 20mbit burst 8k latency 30ms");
    let rules = "add table inet seen; add chain inet seen came { type filter hook input priority 0; }; \
                 add rule inet seen came udp dport 4500 counter";
    pair.world.must("gb", &["nft", rules]);
    Some(pair)
}

/// The congestion-controlled mode finds what the bottleneck takes, and loses little; a constant rate of twice that loses half.
#[test]
fn a_bottleneck() {
    const CHILD: &str =
        "iptfs = { mode = \"congestion\", rate = \"40Mbit/s\", least_rate = \"100kbit/s\", size = 1400 }";
    let Some(pair) = through_a_bottleneck(CHILD) else {
        return;
    };
    assert_eq!(iptfs(&pair), ["congestion", "congestion"]);
    wait_until("slow start has ended", Duration::from_secs(20), || {
        path(&pair, &pair.a).0["loss_events_out"].as_f64().unwrap_or(0.0) > 0.0
    });
    std::thread::sleep(Duration::from_secs(3));
    let (came_before, (_, lost_before)) = (came(&pair), path(&pair, &pair.b));
    let (mut rates, mut back) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(250));
        rates.push(path(&pair, &pair.a).0["rate"].as_u64().unwrap());
        back.push(path(&pair, &pair.b).0["rate"].as_u64().unwrap());
    }
    rates.sort_unstable();
    back.sort_unstable();
    let (here, lost) = (came(&pair) - came_before, path(&pair, &pair.b).1 - lost_before);
    let told = format!(
        "{here} packets came, {lost} were lost, at {rates:?}; {:?}",
        path(&pair, &pair.a).0
    );
    println!("{told}");
    // 20 Mbit/s are 8900 packets in five seconds.
    assert!(here > 4500, "{told}");
    assert!(lost * 20 < here, "{told}");
    // Each is of a moment, and goes up while a worker that waited for a processor lets the bottleneck's queue run empty.
    let most = &rates[..18];
    assert!(most.iter().all(|rate| (5_000_000..25_000_000).contains(rate)), "{told}");
    // Back, where nothing is in the way, it is as fast as it may be; almost, while the queue of the other way makes the RTT longer.
    assert!((30_000_000..=40_000_000).contains(&back[10]), "{back:?}");
    let rtt = path(&pair, &pair.a).0["rtt_seconds"].as_f64().unwrap();
    assert!((0.01..0.1).contains(&rtt), "{rtt}");
    one_way(&pair.world, "ha", "hb", "10.2.0.2", 2_000_000);
    one_way(&pair.world, "hb", "ha", "10.1.0.2", 2_000_000);
    // A rekey takes up where the old pair was.
    pair.a.client(&pair.world, &["rekey", "site"]);
    std::thread::sleep(Duration::from_millis(500));
    let rate = path(&pair, &pair.a).0["rate"].as_u64().unwrap();
    assert!(rate > 3_000_000, "{rate} after a rekey");
    let metrics = pair.a.client(&pair.world, &["metrics"]);
    assert!(
        metrics.contains("landbridge_child_iptfs_rate_bits_per_second{"),
        "{metrics}"
    );
    drop(pair);

    const CONSTANT: &str = "iptfs = { mode = \"constant\", rate = \"40Mbit/s\", size = 1400 }";
    let Some(pair) = through_a_bottleneck(CONSTANT) else {
        return;
    };
    std::thread::sleep(Duration::from_secs(1));
    let (came_before, (_, lost_before)) = (came(&pair), path(&pair, &pair.b));
    std::thread::sleep(Duration::from_secs(3));
    let (here, lost) = (came(&pair) - came_before, path(&pair, &pair.b).1 - lost_before);
    assert!(lost * 10 > here * 6, "{lost} lost, {here} came");
}
