//! The cases of `tests/config-cases`: a configuration, and beside it exactly what is said about it.
//!
//! `LANDBRIDGE_BLESS=1 cargo test --test config_cases` writes what is said now; read the diff before you commit it.
#![allow(
    clippy::unwrap_used,
    clippy::let_underscore_must_use,
    reason = "a test may panic; leftovers may be absent"
)]

use landbridge::config::{self, Configuration};
use landbridge_proto::crypto::Group;
use landbridge_proto::policy::connection::{LocalCredential, RemoteCredential, StartAction, TcpUse};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The example keys of RFC 8410 §10.1 and §10.3.
const PRIVATE_KEY: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
";
const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";

/// A directory with the files that cases name. Git keeps no modes, so they are made here.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    for (file, mode, text) in [
        ("cloud.psk", 0o600, "a pre-shared key that is long enough\n"),
        ("other.psk", 0o400, "0x000102030405060708090a0b0c0d0e0f\n"),
        ("open.psk", 0o644, "a pre-shared key that everybody may read\n"),
        ("group.psk", 0o640, "a pre-shared key that the group may read\n"),
        ("short.psk", 0o600, "secret\n"),
        ("empty.psk", 0o600, "\n"),
        ("aws.psk", 0o600, "Aa0123456789.with_what_is_allowed\n"),
        ("zero.psk", 0o600, "0123456789_abcdefghij\n"),
        ("long.psk", 0o600, &"x".repeat(65)),
        ("nul.psk", 0o600, "a\0b"),
        ("hex.psk", 0o600, "0x12345\n"),
        ("own.key", 0o600, PRIVATE_KEY),
        ("open.key", 0o644, PRIVATE_KEY),
        ("peer.pub", 0o644, PUBLIC_KEY),
        ("writable.pub", 0o666, PUBLIC_KEY),
        ("gw.crt", 0o644, &data("pki/gw-p256.crt")),
        ("gw.key", 0o600, &data("keys/p256.pem")),
        ("ca.crt", 0o644, &data("pki/root.crt")),
        ("writable.crt", 0o666, &data("pki/gw-p256.crt")),
    ] {
        let path = folder.join(file);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(folder.join("directory.psk")).unwrap();
    folder
}

/// A file of the protocol's tests.
fn data(name: &str) -> String {
    fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("proto/tests/data")
            .join(name),
    )
    .unwrap()
}

fn said(path: &Path) -> String {
    let mut text = String::new();
    match config::load(path) {
        Ok(configuration) => {
            text.push_str("ok\n");
            for warning in configuration.warnings {
                writeln!(text, "warning: {warning}").unwrap();
            }
        }
        Err(errors) => errors.iter().for_each(|error| writeln!(text, "{error}").unwrap()),
    }
    text.replace(&format!("{}/", path.parent().unwrap().display()), "")
}

#[test]
fn every_case_is_judged_as_written_beside_it() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config-cases");
    let folder = folder("config-cases");
    let bless = std::env::var_os("LANDBRIDGE_BLESS").is_some();
    let (mut count, mut wrong) = (0, Vec::new());
    for entry in fs::read_dir(&cases).unwrap() {
        let case = entry.unwrap().path();
        if case.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        count += 1;
        let copy = folder.join(case.file_name().unwrap());
        fs::copy(&case, &copy).unwrap();
        let (said, expected) = (said(&copy), case.with_extension("expected"));
        if bless {
            fs::write(&expected, said).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != said {
            wrong.push(format!("--- {}\n{said}", case.display()));
        }
    }
    assert!(count > 20, "only {count} cases in {}", cases.display());
    assert!(wrong.is_empty(), "not as expected:\n{}", wrong.join("\n"));
}

fn load(name: &str, text: &str) -> Configuration {
    let path = folder(name).join("landbridge.toml");
    fs::write(&path, text).unwrap();
    config::load(&path).unwrap_or_else(|errors| panic!("{errors:?}"))
}

const SMALL: &str = r#"
[connections.cloud]
remote_addrs = ["203.0.113.7"]
[connections.cloud.local]
id = "office.example.com"
psk_file = "cloud.psk"
[connections.cloud.remote]
id = "cloud.example.com"
auth = "psk"
[connections.cloud.children.net]
local_ts = ["10.1.0.0/16"]
remote_ts = ["10.2.0.0/16", "10.2.3.0/24", "192.0.2.1-192.0.2.2"]
"#;

#[test]
fn defaults_are_those_of_the_guide() {
    let configuration = load("defaults", SMALL);
    let connection = &configuration.ike.connections["cloud"];
    let child = &connection.children["net"];
    let tunnel = &configuration.tunnels["cloud"];
    assert_eq!(configuration.warnings, Vec::<String>::new());
    assert_eq!(connection.dpd_delay, Some(Duration::from_secs(30)));
    assert_eq!((connection.tcp, connection.tcp_port), (TcpUse::Accept, 4500));
    assert!(configuration.gateway.tcp_listen.is_empty() && configuration.gateway.tls_listen.is_empty());
    assert_eq!((&configuration.tls, &tunnel.tcp_tls), (&None, &None));
    assert_eq!(connection.ike_rekey_time, Some(Duration::from_secs(4 * 3600)));
    assert!(
        connection.fragmentation
            && !connection.resumption
            && !connection.follow_redirects
            && connection.keep_trying
            && connection.force_udp_encapsulation
    );
    assert_eq!((connection.remote_port, connection.fragment_size), (500, 1280));
    assert_eq!(child.rekey_time, Some(Duration::from_secs(3600)));
    assert_eq!(child.life_time, Some(Duration::from_secs(3960)));
    assert_eq!(child.rand_time, Duration::from_secs(360));
    assert_eq!(child.replay_window, 4096);
    assert_eq!(child.start_action, StartAction::None);
    assert!(
        child
            .esp_proposals
            .iter()
            .all(|p| p.groups.contains(&Group::Curve25519)),
        "PFS is on"
    );
    assert_eq!(tunnel.interface, "lb-cloud");
    assert!(tunnel.fail_closed && tunnel.clamp_mss && tunnel.mtu.is_none() && !tunnel.start);
    // What lies within another route needs none of its own; a range takes the prefixes that cover it.
    let routes: Vec<String> = tunnel.routes.iter().map(ToString::to_string).collect();
    assert_eq!(routes, ["10.2.0.0/16", "192.0.2.1/32", "192.0.2.2/32"]);
    assert_eq!(configuration.gateway.port, 500);
    // The key exchange deals SAs out to as many owners as there are workers.
    assert_eq!(
        configuration.gateway.workers,
        Some(configuration.ike.gateway.workers.into())
    );
    assert_eq!(tunnel.retry, configuration.ike.gateway.retry);
    assert_eq!(tunnel.retry, (Duration::from_secs(1), Duration::from_secs(60)));
    assert_eq!(configuration.gateway.control_socket, Path::new(config::DEFAULT_SOCKET));
}

#[test]
fn a_port_without_an_address_is_listened_on_everywhere() {
    let text = format!("[gateway]\ntcp_listen = [\":4500\", \"192.0.2.1:443\", \":4500\"]\n{SMALL}");
    let listen: Vec<String> = load("tcp", &text)
        .gateway
        .tcp_listen
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(listen, ["0.0.0.0:4500", "192.0.2.1:443", "[::]:4500"]);
}

#[test]
fn tls_has_a_certificate_and_a_name() {
    let gateway = "[gateway]\ntls_listen = [\":443\"]\ntls_cert_file = \"gw.crt\"\ntls_private_key_file = \"gw.key\"\n";
    let with = |addresses: &str, keys: &str| {
        let hosts = format!("remote_addrs = {addresses}\ntcp = \"always\"\ntcp_port = 443\ntcp_tls = true\n{keys}");
        let text = gateway.to_owned() + &SMALL.replace("remote_addrs = [\"203.0.113.7\"]", &hosts);
        let configuration = load("tls", &text);
        assert_eq!(configuration.warnings, Vec::<String>::new());
        assert!(configuration.tls.is_some());
        configuration
    };
    let tls = |configuration: &Configuration| configuration.tunnels["cloud"].tcp_tls.clone().unwrap();
    // Who is connected to by name is asked for by it; by address, there is none.
    let plain = with("[\"203.0.113.7\"]", "");
    assert_eq!((tls(&plain).name(), tls(&plain).is_checked()), (None, false));
    assert_eq!(plain.expiries.len(), 1, "our certificate");
    let named = with(
        "[\"203.0.113.7\", \"vpn.example\"]",
        "tcp_tls_cacert_files = [\"ca.crt\"]",
    );
    assert_eq!(
        (tls(&named).name().as_deref(), tls(&named).is_checked()),
        (Some("vpn.example"), true)
    );
    assert_eq!(named.expiries.len(), 2);
    let pinned = with(
        "[\"vpn.example\"]",
        "tcp_tls_name = \"gw.example\"\ntcp_tls_cert_file = \"gw.crt\"",
    );
    assert_eq!(
        (tls(&pinned).name().as_deref(), tls(&pinned).is_checked()),
        (Some("gw.example"), true)
    );
    assert_ne!(tls(&named), tls(&pinned));
    let again = with(
        "[\"vpn.example\"]",
        "tcp_tls_name = \"gw.example\"\ntcp_tls_cert_file = \"gw.crt\"",
    );
    assert_eq!(
        (tls(&again), &again.tls),
        (tls(&pinned), &pinned.tls),
        "a reload changes nothing"
    );
}

#[test]
fn a_rekey_begins_before_the_end_that_is_given() {
    let text = SMALL.to_owned() + "life_bytes = \"100 GB\"\nlife_packets = 1000\n";
    let limits = load("ends", &text).ike.connections["cloud"].children["net"].limits;
    assert_eq!(
        (limits.soft_bytes, limits.hard_bytes),
        (Some(75_000_000_000), Some(100_000_000_000))
    );
    assert_eq!((limits.soft_packets, limits.hard_packets), (Some(750), Some(1000)));
}

#[test]
fn one_psk_file_serves_both_directions_and_no_key_shows_in_debug() {
    let configuration = load("one-psk", SMALL);
    let connection = &configuration.ike.connections["cloud"];
    let (LocalCredential::Psk(ours), RemoteCredential::Psk(theirs)) =
        (&connection.local.credential, &connection.remote.credential)
    else {
        panic!("not PSK")
    };
    assert_eq!(ours.expose(), b"a pre-shared key that is long enough");
    assert_eq!(theirs, std::slice::from_ref(ours));
    assert!(!format!("{configuration:?}").contains("long enough"));
}

#[test]
fn two_psks_are_taken_during_a_rotation() {
    let text = SMALL.replace("auth = \"psk\"", "psk_files = [\"cloud.psk\", \"other.psk\"]");
    let configuration = load("rotation", &text);
    let RemoteCredential::Psk(list) = &configuration.ike.connections["cloud"].remote.credential else {
        panic!("not PSK")
    };
    assert_eq!(list.len(), 2);
    assert_eq!(list[1].expose(), (0..16).collect::<Vec<u8>>());
}

#[test]
fn the_outer_dscp_is_a_copy_one_value_or_a_map() {
    for (text, ef, cs6) in [
        ("", 46, 48),
        ("dscp = \"copy\"", 46, 48),
        ("dscp = \"CS1\"", 8, 8),
        ("dscp = 10", 10, 10),
        ("dscp = [\"ef=cs5\", \"cs6 = 0\"]", 40, 0),
    ] {
        let text = SMALL.replacen(
            "[connections.cloud.local]",
            &format!("{text}\n[connections.cloud.local]"),
            1,
        );
        let loaded = load("dscp", &text);
        let dscp = &loaded.tunnels["cloud"].dscp;
        assert_eq!(
            (dscp.tos(46 << 2) >> 2, dscp.tos(48 << 2 | 3)),
            (ef, cs6 << 2 | 3),
            "{text}"
        );
    }
}

#[test]
fn padding_is_a_length_or_the_mtu() {
    for (text, expected) in [
        ("", None),
        ("tfc_padding = 0", None),
        ("tfc_padding = 600", Some(600)),
        ("tfc_padding = \"mtu\"", Some(u16::MAX)),
    ] {
        let loaded = load("padding", &format!("{SMALL}{text}\n"));
        assert_eq!(
            loaded.ike.connections["cloud"].children["net"].tfc_padding, expected,
            "{text}"
        );
    }
}

#[test]
fn pairs_are_a_number_or_one_a_worker() {
    for (text, expected) in [
        ("", 1),
        ("pairs = 1", 1),
        ("pairs = 64", 64),
        ("pairs = \"auto\"", 6),
        ("iptfs = { mode = \"aggregate\" }\npairs = 2", 2),
    ] {
        let loaded = load("pairs", &format!("[gateway]\nworkers = 6\n{SMALL}{text}\n"));
        let connection = &loaded.ike.connections["cloud"];
        assert_eq!(
            (connection.children["net"].pairs, connection.pairs()),
            (expected, expected),
            "{text}"
        );
    }
}

#[test]
fn iptfs_says_how_outer_packets_are_made() {
    use landbridge_proto::policy::aggfrag::{Iptfs, SendMode};
    use std::time::Duration;
    let usual = Iptfs {
        mode: SendMode::Aggregate { delay: Duration::ZERO },
        size: None,
        reorder_window: 3,
        reorder_time: Duration::from_millis(10),
        fragments: true,
        required: false,
    };
    for (text, expected) in [
        ("", None),
        ("iptfs = { mode = \"aggregate\" }", Some(usual)),
        (
            "iptfs = { mode = \"aggregate\", delay = \"500us\", fragments = false, reorder_window = 0 }",
            Some(Iptfs {
                mode: SendMode::Aggregate {
                    delay: Duration::from_micros(500),
                },
                fragments: false,
                reorder_window: 0,
                ..usual
            }),
        ),
        (
            "iptfs = { mode = \"constant\", rate = \"10Mbit/s\", size = 1400, required = true, reorder_time = \"2ms\" }",
            Some(Iptfs {
                mode: SendMode::Constant { rate: 10_000_000 },
                size: Some(1400),
                required: true,
                reorder_time: Duration::from_millis(2),
                ..usual
            }),
        ),
        (
            "iptfs = { mode = \"congestion\", rate = \"10Mbit/s\" }",
            Some(Iptfs {
                mode: SendMode::Congestion {
                    least: 64_000,
                    most: 10_000_000,
                },
                ..usual
            }),
        ),
        (
            "iptfs = { mode = \"congestion\", rate = 20000, size = 500 }",
            Some(Iptfs {
                mode: SendMode::Congestion {
                    least: 20_000,
                    most: 20_000,
                },
                size: Some(500),
                ..usual
            }),
        ),
        (
            "iptfs = { mode = \"congestion\", rate = \"10Mbit/s\", least_rate = \"1Mbit/s\" }",
            Some(Iptfs {
                mode: SendMode::Congestion {
                    least: 1_000_000,
                    most: 10_000_000,
                },
                ..usual
            }),
        ),
    ] {
        let loaded = load("iptfs", &format!("{SMALL}{text}\n"));
        assert_eq!(
            loaded.ike.connections["cloud"].children["net"].iptfs, expected,
            "{text}"
        );
    }
    for rate in [
        "\"1000000 bit/s\"",
        "\"1 Mbit\"",
        "\"1000kbps\"",
        "\"1000kbit/s\"",
        "1000000",
    ] {
        let text = format!("{SMALL}iptfs = {{ mode = \"constant\", rate = {rate} }}\n");
        let iptfs = load("rate", &text).ike.connections["cloud"].children["net"]
            .iptfs
            .unwrap();
        assert_eq!(iptfs.mode, SendMode::Constant { rate: 1_000_000 }, "{rate}");
    }
}

#[test]
fn any_peer_means_to_wait_for_it() {
    for word in ["%any", "any", "0.0.0.0/0"] {
        let configuration = load("any", &SMALL.replace("203.0.113.7", word));
        assert!(configuration.tunnels["cloud"].remote_hosts.is_empty());
        assert!(configuration.ike.connections["cloud"].remote_addrs.is_empty());
    }
    // A name may resolve to anything: connect to it, and take the peer from anywhere.
    let configuration = load("name", &SMALL.replace("203.0.113.7", "gw.example.net"));
    assert_eq!(configuration.tunnels["cloud"].remote_hosts, ["gw.example.net"]);
    assert!(configuration.ike.connections["cloud"].remote_addrs.is_empty());
}

#[test]
fn the_examples_are_right() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let folder = folder("examples");
    for name in [
        "office-cloud.psk",
        "cloud.psk",
        "azure.psk",
        "aws-1.psk",
        "aws-2.psk",
        "gcp.psk",
    ] {
        fs::write(folder.join(name), "aPreSharedKey.ThatEveryCloudTakes").unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    for name in ["office.key", "cloud.key", "vm4.key"] {
        fs::copy(folder.join("own.key"), folder.join(name)).unwrap();
    }
    for name in ["office.pub", "cloud.pub", "vm5.pub", "vm6.pub", "vm7.pub"] {
        fs::copy(folder.join("peer.pub"), folder.join(name)).unwrap();
    }
    let mut count = 0;
    for entry in fs::read_dir(examples).unwrap() {
        let example = entry.unwrap().path();
        if example.extension().is_some_and(|e| e == "toml") {
            let copy = folder.join(example.file_name().unwrap());
            fs::copy(&example, &copy).unwrap();
            assert_eq!(said(&copy), "ok\n", "{}", example.display());
            count += 1;
        }
    }
    assert!(count >= 5, "{count} examples");
}

const GUIDE: &str = include_str!("../docs/guide/configuration.md");

#[test]
fn the_guide_knows_every_key() {
    let text = SMALL.replace(
        "[connections.cloud]",
        "[gateway]\nzzz = 1\n[connections.cloud]\nzzz = 1",
    );
    let text = text
        .replace("id = \"office", "zzz = 1\nid = \"office")
        .replace("id = \"cloud", "zzz = 1\nid = \"cloud");
    let path = folder("guide").join("landbridge.toml");
    fs::write(&path, text + "zzz = 1\n").unwrap();
    let errors = config::load(&path).unwrap_err();
    assert_eq!(errors.len(), 5, "{errors:?}");
    for error in &errors {
        let known = error.remedy.as_deref().unwrap().strip_prefix("known here: ").unwrap();
        for key in known
            .split(", ")
            .filter(|key| !["local", "remote", "children"].contains(key))
        {
            assert!(GUIDE.contains(&format!("`{key}`")), "{key} ({})", error.problem);
        }
    }
}

#[test]
fn the_guides_example_is_right() {
    let example = GUIDE.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(load("guide-example", example).warnings, Vec::<String>::new());
}

#[test]
fn a_profile_fills_in_what_is_not_said_and_what_is_said_wins() {
    let azure = SMALL
        .replace(
            "[connections.cloud]",
            "[connections.cloud]\nprofile = \"azure\"\nroutes = [\"10.2.0.0/16\"]",
        )
        .replace("local_ts = [\"10.1.0.0/16\"]\n", "");
    let azure = azure.split("remote_ts").next().unwrap();
    let configuration = load("profile", azure);
    let connection = &configuration.ike.connections["cloud"];
    let (child, tunnel) = (&connection.children["net"], &configuration.tunnels["cloud"]);
    assert_eq!(connection.ike_proposals[0].to_string(), "aes256gcm16-prfsha384-ecp384");
    assert_eq!(child.esp_proposals[0].to_string(), "aes256gcm16-ecp384");
    assert_eq!((connection.ike_proposals.len(), child.esp_proposals.len()), (1, 1));
    // 28,800 s there: we rekey before that, and our end (a tenth later) comes before theirs.
    assert_eq!(connection.ike_rekey_time, Some(Duration::from_secs(25_920)));
    assert_eq!(child.rekey_time, Some(Duration::from_secs(24_300)));
    assert_eq!(child.life_time, Some(Duration::from_secs(27_000)));
    assert_eq!(child.limits.soft_bytes, Some(92_160_000_000));
    assert_eq!(child.limits.hard_bytes, Some(102_400_000_000));
    assert_eq!(child.remote_ts[0].to_string(), "0.0.0.0/0");
    assert_eq!(child.start_action, StartAction::Start);
    assert_eq!((tunnel.mtu, tunnel.mtu_most), (None, Some(1400)));
    assert!(tunnel.start);

    let written = azure.replace("remote_addrs", "dpd_delay = \"7s\"\nrekey_time = \"1h\"\nremote_addrs")
        + "rekey_time = \"30m\"\nstart_action = \"trap\"\nremote_ts = [\"10.2.0.0/16\"]\n";
    let configuration = load("profile-written", &written);
    let connection = &configuration.ike.connections["cloud"];
    let child = &connection.children["net"];
    assert_eq!(connection.dpd_delay, Some(Duration::from_secs(7)));
    assert_eq!(connection.ike_rekey_time, Some(Duration::from_secs(3600)));
    assert_eq!(
        (child.rekey_time, child.life_time),
        (Some(Duration::from_secs(1800)), Some(Duration::from_secs(1980)))
    );
    assert_eq!(child.start_action, StartAction::Trap);
    assert_eq!(child.remote_ts[0].to_string(), "10.2.0.0/16");
}
