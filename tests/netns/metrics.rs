//! Metrics, as a scraper sees them: what is down has its series, and no counter ever goes back.

use super::support::gateway::Gateway;
use super::support::openmetrics::Page;
use super::support::transfer::{both_ways, ping};
use super::support::{World, wait_until};
use super::{Options, Pair, initiator};
use std::time::Duration;

/// A scrape in few words: what a plain TCP client in the gateway's namespace gets.
const CLIENT: &str =
    "exec 3<>/dev/tcp/127.0.0.1/9811; printf 'GET /metrics HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&3; cat <&3";

const UP: &str = "landbridge_connection_up{connection=\"site\"}";
const CHILD_UP: &str = "landbridge_child_up{child=\"net\",connection=\"site\"}";
const IN: &str = "landbridge_child_traffic_bytes_total{child=\"net\",connection=\"site\",direction=\"in\"}";
const OUT: &str = "landbridge_connection_traffic_packets_total{connection=\"site\",direction=\"out\"}";
const CHILD_REKEYS: &str = "landbridge_child_rekeys_total{child=\"net\",connection=\"site\"}";
const IKE_REKEYS: &str = "landbridge_connection_ike_rekeys_total{connection=\"site\"}";
const HANDSHAKES: &str = "landbridge_connection_handshakes_total{connection=\"site\",role=\"initiator\"}";
const DEAD: &str = "landbridge_connection_dead_peers_total{connection=\"site\"}";
const CHECKS: &str = "landbridge_connection_liveness_checks_total{connection=\"site\"}";
const AGAIN: &str = "landbridge_connection_retransmissions_total{connection=\"site\"}";
const NO_ANSWER: &str = "landbridge_connection_failures_total{connection=\"site\",reason=\"no_answer\"}";
const NO_SA: &str = "landbridge_connection_drops_total{cause=\"no_sa\",connection=\"site\"}";

/// A scrape; no counter may be less than in the one before, or missing.
fn scrape(world: &World, before: Option<&Page>, gone: bool) -> Page {
    let said = world.must("ga", &["bash", "-c", CLIENT]);
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let page = Page::read(body).unwrap_or_else(|why| panic!("{why}\n{body}"));
    for (sample, value) in before.iter().flat_map(|page| page.counters()) {
        match page.samples.get(sample) {
            Some(now) => assert!(*now >= value, "{sample} went back from {value} to {now}"),
            None => assert!(gone && sample.contains("connection=\"site\""), "{sample} vanished"),
        }
    }
    page
}

fn reload(world: &World, gateway: &Gateway, text: &str) {
    gateway.configure(text);
    gateway.client(world, &["reload"]);
}

#[test]
fn counters_outlive_rekeys_reloads_and_the_peer() {
    let options = Options {
        gateway: "metrics_listen = \"127.0.0.1:9811\"\nretransmit_timeout = \"100ms\"\nretransmit_tries = 3\nretry_max = \"1s\"",
        connection: "dpd_delay = \"1s\"",
        ..Options::default()
    };
    let Some(mut pair) = Pair::up("metrics", options) else {
        return;
    };
    both_ways(&pair.world);
    let world = &pair.world;
    let up = scrape(world, None, false);
    assert_eq!((up.get(UP), up.get(CHILD_UP), up.get(HANDSHAKES)), (1.0, 1.0, 1.0));
    assert_eq!((up.get(CHILD_REKEYS), up.get(NO_ANSWER)), (0.0, 0.0));
    assert!(up.get(IN) > 1e6 && up.get(OUT) > 1e3);
    assert!(up.get("process_resident_memory_bytes") > 1e6);
    assert!(up.get("landbridge_connection_established_timestamp_seconds{connection=\"site\"}") > 1.7e9);
    // The command says the same.
    let printed = Page::read(&pair.a.client(world, &["metrics"])).unwrap();
    assert_eq!(printed.families, up.families);
    // Nothing else is served.
    let other = world.must("ga", &["bash", "-c", &CLIENT.replace("GET /metrics", "GET /")]);
    assert!(other.starts_with("HTTP/1.1 404 "), "{other}");

    pair.a.client(world, &["rekey", "site"]);
    pair.a.client(world, &["rekey", "site", "--ike"]);
    let mut rekeyed = up;
    wait_until("both are rekeyed", Duration::from_secs(10), || {
        rekeyed = scrape(world, Some(&rekeyed), false);
        rekeyed.get(CHILD_REKEYS) == 1.0 && rekeyed.get(IKE_REKEYS) == 1.0
    });
    assert_eq!((rekeyed.get(UP), rekeyed.get(HANDSHAKES)), (1.0, 1.0));

    // A reload takes the connection away, and another brings it back.
    let base = initiator(&options);
    let head = base.split("[connections.site]").next().unwrap();
    reload(world, &pair.a, head);
    let without = scrape(world, Some(&rekeyed), true);
    assert!(!without.samples.contains_key(UP));
    reload(world, &pair.a, &base);
    pair.a.wait_up(world, "site");
    wait_until("packets go through", Duration::from_secs(10), || {
        ping(world, "ha", "10.2.0.2")
    });
    let back = scrape(world, Some(&rekeyed), false);
    assert_eq!(
        (back.get(UP), back.get(HANDSHAKES), back.get(CHILD_REKEYS)),
        (1.0, 2.0, 1.0)
    );
    assert!(back.get(IN) > rekeyed.get(IN) && back.get(OUT) > rekeyed.get(OUT));

    pair.b.end(&mut pair.world, libc::SIGKILL);
    let world = &pair.world;
    let mut down = back;
    wait_until(
        "the peer is found dead, and attempts fail",
        Duration::from_secs(30),
        || {
            ping(world, "ha", "10.2.0.2");
            down = scrape(world, Some(&down), false);
            down.get(UP) == 0.0 && down.get(NO_ANSWER) >= 1.0
        },
    );
    assert_eq!((down.get(CHILD_UP), down.get(DEAD)), (0.0, 1.0));
    assert!(down.get(CHECKS) >= 1.0 && down.get(AGAIN) >= 3.0 && down.get(NO_SA) >= 0.0);
    let failed = "landbridge_connection_last_failure_timestamp_seconds{connection=\"site\",reason=\"no_answer\"}";
    assert!(down.get(failed) > 1.7e9);

    pair.b.launch(&mut pair.world);
    pair.a.wait_up(&pair.world, "site");
    let again = scrape(&pair.world, Some(&down), false);
    assert_eq!(
        (again.get(UP), again.get(CHILD_UP), again.get(HANDSHAKES)),
        (1.0, 1.0, 3.0)
    );
}
