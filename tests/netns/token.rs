//! A gateway whose private key is in a PKCS#11 token (SoftHSM): it authenticates in both roles, and again after a restart
//! of the peer; a token that takes seconds keeps nobody waiting but the connection that uses it.

use super::support::gateway::{Gateway, LANDBRIDGE};
use super::support::transfer::{one_way, ping};
use super::support::{World, privileged, run, wait_until};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
/// Nothing that a log holds by chance: four digits once stood in an SPI.
const PIN: &str = "pin of the gateway";

fn available(test: &str) -> bool {
    if Path::new(MODULE).exists() {
        return true;
    }
    assert!(
        std::env::var_os("LANDBRIDGE_TEST_STRICT").is_none(),
        "{test}: needs the packages softhsm2 and opensc"
    );
    eprintln!("skipped: {test}: needs the packages softhsm2 and opensc");
    false
}

/// `ga` with a key in a token and `gb` with one in a file; nothing runs yet.
struct Site {
    world: World,
    a: Gateway,
    b: Gateway,
    /// The environment in which the library finds the token.
    softhsm: String,
}

impl Site {
    fn prepare(kind: &str) -> Self {
        let world = World::two_sites(false, 1500);
        let (a, b) = (Gateway::prepare(&world, "ga"), Gateway::prepare(&world, "gb"));
        let tokens = world.dir().join("tokens");
        std::fs::create_dir_all(&tokens).unwrap();
        let conf = world.dir().join("softhsm2.conf");
        std::fs::write(&conf, format!("directories.tokendir = {}\n", tokens.display())).unwrap();
        let softhsm = format!("SOFTHSM2_CONF={}", conf.display());
        let tool = |program: &str, words: &[&str]| {
            run(Command::new(program).args(words).env("SOFTHSM2_CONF", &conf));
        };
        #[rustfmt::skip]
        tool("softhsm2-util", &["--init-token", "--free", "--label", "vpn", "--pin", PIN, "--so-pin", "5678"]);
        #[rustfmt::skip]
        tool("pkcs11-tool", &[
            "--module", MODULE, "--token-label", "vpn", "--login", "--pin", PIN,
            "--keypairgen", "--key-type", kind, "--id", "01", "--label", "gw",
        ]);
        a.secret("pin", &format!("{PIN}\n"));
        let public = run(Command::new(LANDBRIDGE)
            .env("SOFTHSM2_CONF", &conf)
            .arg("pubkey")
            .arg(uri(MODULE))
            .arg("--pin-file")
            .arg(a.folder().join("pin")));
        b.secret("peer.pub", &String::from_utf8(public.stdout).unwrap());
        let public = run(Command::new(LANDBRIDGE).arg("keygen").arg(b.folder().join("own.key")));
        a.secret("peer.pub", &String::from_utf8(public.stdout).unwrap());
        Self { world, a, b, softhsm }
    }
}

fn uri(module: &str) -> String {
    format!("pkcs11:token=vpn;object=gw?module-path={module}")
}

/// A connection `name` of either end: 10.1.N.0/24 at A, 10.2.N.0/24 at B.
fn connection(name: &str, n: u8, at_a: bool, local: &str, remote: &str, action: &str) -> String {
    let (mine, theirs, us, them) = if at_a {
        (1, 2, "192.0.2.1", "198.51.100.2")
    } else {
        (2, 1, "198.51.100.2", "192.0.2.1")
    };
    let id = |end: u8| format!("{}.{name}", if end == 1 { "a" } else { "b" });
    format!(
        r#"
[connections.{name}]
local_addrs = ["{us}"]
remote_addrs = ["{them}"]
interface = "lb-{name}"
[connections.{name}.local]
id = "{}"
{local}
[connections.{name}.remote]
id = "{}"
{remote}
[connections.{name}.children.net]
local_ts = ["10.{mine}.{n}.0/24"]
remote_ts = ["10.{theirs}.{n}.0/24"]
start_action = "{action}"
"#,
        id(mine),
        id(theirs),
    )
}

const BY_KEY: &str = "auth = \"pubkey\"\npublic_key_files = [\"peer.pub\"]";
const BY_PSK: &str = "auth = \"psk\"\npsk_file = \"peer.psk\"";

fn by_token(module: &str) -> String {
    format!(
        "auth = \"pubkey\"\nprivate_key = \"{}\"\npin_file = \"pin\"",
        uri(module)
    )
}

/// Both roles, with kinds of keys that sign in different ways.
#[test]
fn a_key_in_a_token_authenticates_in_both_roles() {
    let test = "a key in a token";
    if !privileged(test) || !available(test) {
        return;
    }
    for kind in ["rsa:2048", "EC:secp384r1"] {
        let Site {
            mut world,
            mut a,
            mut b,
            softhsm,
        } = Site::prepare(kind);
        for a_begins in [true, false] {
            let action = |begins: bool| if begins { "start" } else { "none" };
            a.configure(&connection("key", 0, true, &by_token(MODULE), BY_KEY, action(a_begins)));
            let own = "auth = \"pubkey\"\nprivate_key_file = \"own.key\"";
            b.configure(&connection("key", 0, false, own, BY_KEY, action(!a_begins)));
            a.launch_with(&mut world, &[&softhsm], &[]);
            b.launch(&mut world);
            for gateway in [&a, &b] {
                gateway.wait_up(&world, "key");
            }
            one_way(&world, "ha", "hb", "10.2.0.2", 1_000_000);
            one_way(&world, "hb", "ha", "10.1.0.2", 1_000_000);
            let log = a.log(&world);
            assert!(!log.contains(PIN), "the PIN is in the log: {log}");
            for gateway in [&mut a, &mut b] {
                assert_eq!(gateway.end(&mut world, libc::SIGTERM), Some(0));
            }
        }
    }
}

/// While the token takes its six seconds, another tunnel of the same gateway is set up, carries, is rekeyed, and the gateway
/// answers its operator.
#[test]
fn a_slow_token_stalls_nobody_else() {
    let test = "a slow token";
    if !privileged(test) || !available(test) {
        return;
    }
    let Site {
        mut world,
        mut a,
        mut b,
        softhsm,
    } = Site::prepare("EC:prime256v1");
    let slow = world.dir().join("slow-token.so");
    let slow = slow.to_str().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/netns/slow-token.c");
    run(Command::new("cc")
        .args(["-shared", "-fPIC", "-O", "-o", slow])
        .arg(format!("-DMODULE=\"{MODULE}\""))
        .arg(source)
        .arg("-ldl"));
    a.configure(
        &(connection("slow", 9, true, &by_token(slow), BY_KEY, "none")
            + &connection("quick", 0, true, BY_PSK, BY_PSK, "start")),
    );
    let own = "auth = \"pubkey\"\nprivate_key_file = \"own.key\"";
    b.configure(
        &(connection("slow", 9, false, own, BY_KEY, "none") + &connection("quick", 0, false, BY_PSK, BY_PSK, "none")),
    );
    b.launch(&mut world);
    a.launch_with(&mut world, &[&softhsm], &[]);
    a.wait_up(&world, "quick");

    let began = Instant::now();
    let mut up = a.spawn_client(&world, &["up", "slow"]);
    wait_until("the token is asked", Duration::from_secs(3), || {
        a.connection(&world, "slow")["state"] != "down"
    });
    let children = || a.connection(&world, "quick")["ike_sas"][0]["children"][0]["spi_in"].to_string();
    let spi = || a.connection(&world, "quick")["ike_sas"][0]["spi_i"].to_string();
    let (before, ike) = (children(), spi());
    a.client(&world, &["rekey", "quick"]);
    wait_until("the other tunnel is rekeyed", Duration::from_secs(3), || {
        children() != before
    });
    a.client(&world, &["rekey", "quick", "--ike"]);
    wait_until("the other IKE SA is rekeyed", Duration::from_secs(3), || spi() != ike);
    assert!(ping(&world, "ha", "10.2.0.2"));
    one_way(&world, "ha", "hb", "10.2.0.2", 1_000_000);
    let took = began.elapsed();
    assert!(
        !a.is_up(&world, "slow"),
        "it was to be while the token signs, but took {took:?}"
    );
    a.wait_up(&world, "slow");
    assert!(
        began.elapsed() >= Duration::from_secs(6),
        "the token was not slow: {:?}",
        began.elapsed()
    );
    assert!(up.wait().unwrap().success());
}
