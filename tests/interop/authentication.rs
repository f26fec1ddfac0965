//! Pre-shared keys and raw Ed25519 keys, right and wrong, in both roles, with and without NAT.

use super::support::gateway::{self, Gateway};
use super::support::strongswan::{StrongSwan, available};
use super::support::{self, World};
use super::{Pair, Scenario};
use std::process::Command;
use std::time::Duration;

#[test]
fn psk_behind_a_nat() {
    let scenario = Scenario {
        nat: true,
        ..Scenario::default()
    };
    let Some(pair) = Pair::start("psk behind a NAT", &scenario) else {
        return;
    };
    pair.move_data();
    let path = pair.ours.connection(&pair.world, "peer")["ike_sas"][0]["remote"].to_string();
    assert!(
        path.contains(":4500"),
        "RFC 7296 §2.23 moves to port 4500; the path is {path}"
    );
}

#[test]
fn fragmented_ike_messages() {
    // A small path between, and messages cut to fit: IKE_AUTH travels as SKF (RFC 7383) in both directions.
    for initiate in [true, false] {
        let scenario = Scenario {
            initiate,
            mtu: 600,
            more: "fragment_size = 200",
            peer_more: &["FRAGMENT_SIZE=200"],
            ..Scenario::default()
        };
        let Some(pair) = Pair::start("fragmented IKE", &scenario) else {
            return;
        };
        let log = pair.theirs.log();
        assert!(log.contains("EF(1/"), "strongSwan saw no fragment:\n{log}");
        assert!(
            log.contains("splitting IKE message"),
            "strongSwan sent no fragment:\n{log}"
        );
        pair.move_data();
    }
}

#[test]
fn ed25519_we_initiate() {
    ed25519("Ed25519 as initiator", true);
}

#[test]
fn ed25519_we_respond() {
    ed25519("Ed25519 as responder", false);
}

fn ed25519(test: &str, initiate: bool) {
    if !support::privileged(test) || !available(test) {
        return;
    }
    let mut world = World::two_sites(false, 1500);
    let mut ours = Gateway::prepare(&world, "ga");
    let theirs = StrongSwan::host(&mut world, "gb");
    let key = |name: &str| {
        let path = world.dir().join(format!("{name}.key"));
        support::run(
            Command::new("openssl")
                .args(["genpkey", "-algorithm", "ed25519", "-out"])
                .arg(&path),
        );
        let private = std::fs::read_to_string(&path).unwrap();
        let public = support::run(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&path)).stdout;
        (private, String::from_utf8(public).unwrap())
    };
    let (our_private, our_public) = key("gw");
    let (their_private, their_public) = key("peer");
    ours.secret("gw.key", &our_private);
    ours.secret("peer.pub", &their_public);
    theirs.put("keys/peer.key", &their_private);
    theirs.put("keys/peer.pub", &their_public);
    theirs.put("keys/gw.pub", &our_public);
    theirs.sh("mkdir -p /run/um-strongswan/swanctl/pubkey /run/um-strongswan/swanctl/private; cp /um/keys/*.pub /run/um-strongswan/swanctl/pubkey; cp /um/keys/peer.key /run/um-strongswan/swanctl/private");
    theirs.put(
        "ed25519.conf",
        r"connections { peer {
    version = 2
    local_addrs = 198.51.100.2
    remote_addrs = 192.0.2.1
    proposals = aes256-sha256-x25519
    mobike = no
    local { auth = pubkey
        id = peer.example
        pubkeys = peer.pub }
    remote { auth = pubkey
        id = gw.example
        pubkeys = gw.pub }
    children { child {
        local_ts = 10.2.0.0/24
        remote_ts = 10.1.0.0/24
        esp_proposals = aes256gcm16 } } } }
",
    );
    theirs.start(&["LOCAL=198.51.100.2", "REMOTE=192.0.2.1", "CONF_FILE=/um/ed25519.conf"]);
    ours.configure(&format!(
        r#"
[gateway]
id = "gw.example"

[connections.peer]
local_addrs = ["192.0.2.1"]
remote_addrs = ["198.51.100.2"]
proposals = ["aes256-sha256-x25519"]
interface = "lb-peer"
[connections.peer.local]
auth = "pubkey"
id = "gw.example"
private_key_file = "gw.key"
[connections.peer.remote]
auth = "pubkey"
id = "peer.example"
public_key_files = ["peer.pub"]
[connections.peer.children.net]
local_ts = ["10.1.0.0/24"]
remote_ts = ["10.2.0.0/24"]
esp_proposals = ["aes256gcm16"]
start_action = "{}"
"#,
        if initiate { "start" } else { "none" }
    ));
    ours.launch(&mut world);
    if !initiate {
        theirs.peer(&["initiate"]);
    }
    ours.wait_up(&world, "peer");
    assert!(theirs.log().contains("with ED25519 successful"), "{}", theirs.log());
    support::transfer::both_ways(&world);
}

#[test]
fn wrong_psk_is_told_in_our_log_and_to_nobody_else() {
    for initiate in [true, false] {
        let scenario = Scenario {
            initiate,
            peer_more: &["PSK=not-the-same-at-all"],
            ..Scenario::default()
        };
        let Some(pair) = Pair::prepare("wrong PSK", &scenario) else {
            return;
        };
        if !initiate {
            // It fails, as it must.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pair.theirs.peer(&["initiate"])));
        }
        support::wait_until("the failure is explained", Duration::from_secs(20), || {
            !pair.ours.connection(&pair.world, "peer")["last_failure"].is_null()
        });
        let told = pair.ours.connection(&pair.world, "peer")["last_failure"].to_string();
        assert!(
            told.to_lowercase().contains("key") || told.contains("AUTHENTICATION_FAILED"),
            "{told}"
        );
        assert!(!pair.ours.is_up(&pair.world, "peer"));
        assert!(
            !pair.ours.log(&pair.world).contains(gateway::PSK),
            "the key stands in the log"
        );
    }
}

#[test]
fn no_common_proposal_names_both_sides() {
    let scenario = Scenario {
        peer_more: &["IKE=aes128-sha512-modp4096"],
        ..Scenario::default()
    };
    let Some(pair) = Pair::prepare("no common proposal", &scenario) else {
        return;
    };
    // Our own request is refused with NO_PROPOSAL_CHOSEN (unauthenticated: we go on waiting); theirs we refuse.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pair.theirs.peer(&["initiate"])));
    support::wait_until("the failure is explained", Duration::from_secs(20), || {
        let log = pair.ours.log(&pair.world);
        log.contains("aes128-sha512-") && log.contains("modp4096") && log.contains("aes256-sha256-")
    });
}

#[test]
fn no_common_selectors_leave_the_ike_sa_up() {
    let scenario = Scenario {
        peer_more: &["LOCAL_TS=10.77.0.0/24"],
        ..Scenario::default()
    };
    let Some(pair) = Pair::prepare("no common selectors", &scenario) else {
        return;
    };
    support::wait_until("the failure is explained", Duration::from_secs(20), || {
        pair.ours.log(&pair.world).contains("TS_UNACCEPTABLE")
    });
    assert!(!pair.ours.is_up(&pair.world, "peer"));
}
