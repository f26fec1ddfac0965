//! `--insecure-export-keys`: an independent tool reads a capture with what it wrote, and nothing without it.

use super::support::capture::{self, count, tshark};
use super::support::gateway::Gateway;
use super::support::transfer::{one_way, ping};
use super::support::{World, privileged, wait_until};
use super::{Options, initiator, responder};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// A tunnel whose initiator exports its keys: set up, used, its Child SA and its IKE SA rekeyed, used again.
fn captured(test: &str, options: &Options) -> Option<(World, Gateway)> {
    if !privileged(test) {
        return None;
    }
    let mut world = World::two_sites(false, 1500);
    let dump = capture::start(&mut world);
    let b = Gateway::start(&mut world, "gb", &responder(options));
    let mut a = Gateway::prepare(&world, "ga");
    a.configure(&initiator(options));
    let keys = a.folder().join("keys");
    let allow = ["LANDBRIDGE_ALLOW_KEY_EXPORT=1"];
    a.launch_with(&mut world, &allow, &["--insecure-export-keys", keys.to_str().unwrap()]);
    a.wait_up(&world, "site");
    b.wait_up(&world, "site");
    assert!(ping(&world, "ha", "10.2.0.2"));
    let sa = |what: &str| a.connection(&world, "site")["ike_sas"][0][what].to_string();
    // The rest of what is said of a child changes by itself.
    let child = || a.connection(&world, "site")["ike_sas"][0]["children"][0]["spi_in"].to_string();
    let (spi, children) = (sa("spi_i"), child());
    a.client(&world, &["rekey", "site"]);
    wait_until("the Child SA is rekeyed", Duration::from_secs(20), || {
        child() != children && a.is_up(&world, "site")
    });
    a.client(&world, &["rekey", "site", "--ike"]);
    wait_until("the IKE SA is rekeyed", Duration::from_secs(20), || sa("spi_i") != spi);
    one_way(&world, "ha", "hb", "10.2.0.2", 20_000);
    // By the new IKE SA.
    let children = child();
    a.client(&world, &["rekey", "site"]);
    wait_until("the Child SA is rekeyed again", Duration::from_secs(20), || {
        child() != children && a.is_up(&world, "site")
    });
    assert!(ping(&world, "ha", "10.2.0.2"));
    capture::stop(&mut world, dump);
    Some((world, a))
}

fn decrypts(test: &str, options: &Options) {
    let Some((world, a)) = captured(test, options) else {
        return;
    };
    let capture = world.dir().join("capture.pcap");
    let tables = world.dir().join("tables");
    fs::create_dir(&tables).unwrap();
    // Without the keys there is nothing to see: so what is seen below is seen by them.
    let inner = "icmp || tcp";
    assert_eq!(count(&capture, &tables, inner), 0);
    assert_eq!(count(&capture, &tables, "isakmp.id.type"), 0);
    for table in ["ikev2_decryption_table", "esp_sa"] {
        let written = a.folder().join(format!("keys.{table}"));
        assert_eq!(fs::metadata(&written).unwrap().permissions().mode() & 0o777, 0o600);
        fs::copy(written, tables.join(table)).unwrap();
    }
    let esp = count(&capture, &tables, "esp");
    assert!(esp >= 10, "{esp} ESP packets");
    let fields = [
        "-T",
        "fields",
        "-e",
        "frame.number",
        "-e",
        "frame.len",
        "-e",
        "esp.spi",
        "-e",
        "esp.sequence",
    ];
    let dark = tshark(&capture, &tables, &format!("esp && !({inner})"), &fields);
    assert_eq!(dark, "", "ESP packets that don't show what is in them");
    for filter in [
        "icmp.type == 8 && ip.src == 10.1.0.2 && ip.dst == 10.2.0.2",
        "icmp.type == 0 && ip.src == 10.2.0.2",
        "tcp.flags.syn == 1 && ip.src == 10.1.0.2",
    ] {
        assert!(count(&capture, &tables, filter) > 0, "{filter}");
    }
    // RFC 7296 §1.2: both messages of IKE_AUTH, down to the identities.
    let text = tshark(&capture, &tables, "isakmp.exchangetype == 35", &["-V", "-O", "isakmp"]);
    for part in [
        "Payload: Identification - Initiator (35)",
        "Payload: Identification - Responder (36)",
        "Payload: Authentication (39)",
        "Payload: Traffic Selector - Initiator (44)",
        "a.example",
        "b.example",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    // The rekeys: by the first IKE SA and by the one that replaced it.
    let text = tshark(&capture, &tables, "isakmp.exchangetype == 36", &["-V", "-O", "isakmp"]);
    assert!(text.matches("REKEY_SA").count() >= 2, "{text}");
    let spis = tshark(
        &capture,
        &tables,
        "isakmp.exchangetype == 36 && isakmp.notify.msgtype == 16393",
        &["-T", "fields", "-e", "isakmp.ispi"],
    );
    let mut spis: Vec<&str> = spis.lines().collect();
    spis.sort_unstable();
    spis.dedup();
    assert_eq!(spis.len(), 2, "{spis:?}");
    let protected = count(&capture, &tables, "isakmp.enc.data");
    assert!(protected >= 12, "{protected} protected IKE messages");
    assert_eq!(count(&capture, &tables, "isakmp.enc.decrypted"), protected);
    whole(&a, &world);
}

/// The JSON lines have everything, and the log says loudly what is going on.
fn whole(a: &Gateway, world: &World) {
    let path = a.folder().join("keys");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).collect::<Vec<_>>();
    let (ike, children) = (of("ike"), of("child"));
    assert_eq!((ike.len(), children.len()), (2, 3), "{text}");
    for line in &ike {
        for name in [
            "spi_i", "spi_r", "ni", "nr", "g_ir", "sk_d", "sk_ei", "sk_er", "sk_pi", "sk_pr",
        ] {
            assert!(
                line[name].as_str().is_some_and(|hex| hex.len() >= 16),
                "{name} in {line}"
            );
        }
        assert_eq!(line["connection"], "site");
    }
    for line in &children {
        assert!(line["ni"].as_str().is_some_and(|hex| hex.len() >= 32), "{line}");
        assert_eq!(line["inbound"]["spi"].as_str().map(str::len), Some(8));
        assert_eq!(line["remote_ts"][0], "10.2.0.0/24");
    }
    // RFC 7296 §1.3.3: the rekeys had a key exchange of their own; IKE_AUTH has none.
    let secrets: Vec<bool> = children.iter().map(|line| line["g_ir"].is_string()).collect();
    assert_eq!(secrets, [false, true, true]);
    let log = a.log(world);
    assert!(log.contains("THE KEYS OF ALL SAs ARE WRITTEN TO"), "{log}");
    assert_eq!(log.matches("the keys of IKE SA").count(), 2, "{log}");
    assert_eq!(log.matches("the keys of Child SA").count(), 3, "{log}");
    let key = children[0]["inbound"]["encryption_key"].as_str().unwrap();
    assert!(key.is_empty() || !log.contains(key), "a key is in the log");
}

#[test]
fn a_capture_with_aes_gcm_is_read_by_tshark() {
    decrypts(
        "tshark reads AES-GCM",
        &Options {
            esp: "aes256gcm16-x25519",
            ..Options::default()
        },
    );
}

#[test]
fn a_capture_with_aes_cbc_and_hmac_is_read_by_tshark() {
    decrypts(
        "tshark reads AES-CBC",
        &Options {
            ike: "aes192-sha384-ecp256",
            esp: "aes128-sha256-modp2048-esn",
            ..Options::default()
        },
    );
}

/// An option alone is not enough, and a file that exists is not overwritten.
#[test]
fn keys_are_exported_only_if_it_is_meant() {
    let test = "keys are not exported by chance";
    if !privileged(test) {
        return;
    }
    let mut world = World::new();
    world.add("ga");
    let a = Gateway::prepare(&world, "ga");
    a.configure(&initiator(&Options::default()));
    let (config, keys) = (a.folder().join("landbridge.toml"), a.folder().join("keys"));
    let attempt = |environment: &str| {
        let mut command = world.command("ga", super::support::gateway::LANDBRIDGE);
        let output = command
            .env("LANDBRIDGE_ALLOW_KEY_EXPORT", environment)
            .args(["run", "--config", config.to_str().unwrap()])
            .args(["--insecure-export-keys", keys.to_str().unwrap()])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    for value in ["", "0", "yes"] {
        let (code, text) = attempt(value);
        assert_eq!(code, Some(64), "{text}");
        assert!(text.contains("LANDBRIDGE_ALLOW_KEY_EXPORT=1"), "{text}");
        assert!(!keys.exists());
    }
    fs::write(&keys, "somebody else's").unwrap();
    let (code, text) = attempt("1");
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("does not exist yet"), "{text}");
    assert_eq!(fs::read_to_string(&keys).unwrap(), "somebody else's");
}
