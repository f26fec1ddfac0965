//! The keys that `--insecure-export-keys` writes, of a tunnel with somebody else: `tshark` reads a capture with them, so
//! they are the keys that strongSwan has too.

use super::support::capture::{self, count, tshark};
use super::support::gateway::Gateway;
use super::support::transfer::{one_way, ping};
use super::support::{self, World, wait_until};
use super::{Scenario, StrongSwan, available, configuration};
use std::fs;
use std::time::Duration;

#[test]
fn a_capture_with_strongswan_is_read_by_tshark() {
    let test = "tshark reads a capture with strongSwan";
    if !support::privileged(test) || !available(test) {
        return;
    }
    let scenario = Scenario {
        esp: "aes256gcm16-x25519",
        ..Scenario::default()
    };
    let mut world = World::two_sites(false, 1500);
    let theirs = StrongSwan::host(&mut world, "gb");
    #[rustfmt::skip]
    theirs.start(&[
        "LOCAL=198.51.100.2", "REMOTE=192.0.2.1", "LOCAL_ID=peer.example", "REMOTE_ID=gw.example",
        "LOCAL_TS=10.2.0.0/24", "REMOTE_TS=10.1.0.0/24", "ESP=aes256gcm16-x25519",
    ]);
    let dump = capture::start(&mut world);
    let mut ours = Gateway::prepare(&world, "ga");
    ours.configure(&configuration(&scenario));
    let keys = ours.folder().join("keys");
    let allow = ["LANDBRIDGE_ALLOW_KEY_EXPORT=1"];
    ours.launch_with(&mut world, &allow, &["--insecure-export-keys", keys.to_str().unwrap()]);
    ours.wait_up(&world, "peer");
    assert!(ping(&world, "ha", "10.2.0.2"));
    // A rekey of each kind, by them: we are the responder of both.
    let sa = |what: &str| ours.connection(&world, "peer")["ike_sas"][0][what].to_string();
    // The rest of what is said of a child changes by itself.
    let child = || ours.connection(&world, "peer")["ike_sas"][0]["children"][0]["spi_in"].to_string();
    let (spi, children) = (sa("spi_i"), child());
    theirs.peer(&["rekey"]);
    wait_until("the Child SA is rekeyed", Duration::from_secs(20), || {
        child() != children && ours.is_up(&world, "peer")
    });
    theirs.peer(&["rekey-ike"]);
    wait_until("the IKE SA is rekeyed", Duration::from_secs(20), || sa("spi_i") != spi);
    one_way(&world, "ha", "hb", "10.2.0.2", 20_000);
    one_way(&world, "hb", "ha", "10.1.0.2", 20_000);
    ours.client(&world, &["down", "peer"]);
    capture::stop(&mut world, dump);

    let file = world.dir().join(capture::FILE);
    let tables = world.dir().join("tables");
    fs::create_dir(&tables).unwrap();
    let inner = "icmp || tcp";
    assert_eq!(count(&file, &tables, inner), 0, "nothing is seen without the keys");
    for table in ["ikev2_decryption_table", "esp_sa"] {
        fs::copy(ours.folder().join(format!("keys.{table}")), tables.join(table)).unwrap();
    }
    let esp = count(&file, &tables, "esp");
    assert!(esp >= 10, "{esp} ESP packets");
    let fields = ["-T", "fields", "-e", "frame.number", "-e", "esp.spi"];
    let dark = tshark(&file, &tables, &format!("esp && !({inner})"), &fields);
    assert_eq!(dark, "", "ESP packets that don't show what is in them");
    for filter in [
        "icmp.type == 8 && ip.src == 10.1.0.2",
        "icmp.type == 0 && ip.src == 10.2.0.2",
        "tcp.flags.syn == 1 && ip.src == 10.2.0.2 && ip.dst == 10.1.0.2",
    ] {
        assert!(count(&file, &tables, filter) > 0, "{filter}");
    }
    let text = tshark(&file, &tables, "isakmp.exchangetype == 35", &["-V", "-O", "isakmp"]);
    assert!(text.contains("gw.example") && text.contains("peer.example"), "{text}");
    let protected = count(&file, &tables, "isakmp.enc.data");
    assert!(protected >= 8, "{protected} protected IKE messages");
    assert_eq!(count(&file, &tables, "isakmp.enc.decrypted"), protected);
}
