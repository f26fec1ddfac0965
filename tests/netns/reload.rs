//! A reload under traffic: what did not change goes on as if nothing had happened, and the plan says what would.

use super::support::gateway::Gateway;
use super::support::transfer::ping;
use super::support::{World, wait_until};
use super::{Options, Pair, initiator};
use std::time::Duration;

/// A second connection, to an address where nobody answers.
const SPARE: &str = r#"
[connections.spare]
local_addrs = ["192.0.2.1"]
remote_addrs = ["192.0.2.254"]
[connections.spare.local]
psk_file = "peer.psk"
[connections.spare.remote]
auth = "psk"
id = "spare.example"
[connections.spare.children.net]
local_ts = ["10.1.0.0/24"]
remote_ts = ["10.9.0.0/24"]
start_action = "start"
"#;

/// Pings through the tunnel all the while, and says how many were lost.
fn lost_meanwhile(world: &World, count: u32, meanwhile: impl FnOnce()) -> u32 {
    std::thread::scope(|scope| {
        let pings = scope.spawn(|| {
            let count = count.to_string();
            let words = ["ping", "-q", "-i", "0.01", "-W", "2", "-c", &count, "10.2.0.2"];
            let output = world.command("ha", words[0]).args(&words[1..]).output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        });
        meanwhile();
        let said = pings.join().unwrap();
        let numbers: Vec<u32> = said
            .lines()
            .find(|line| line.contains("packets transmitted"))
            .unwrap_or_else(|| panic!("{said}"))
            .split([' ', ','])
            .filter_map(|word| word.parse().ok())
            .collect();
        numbers[0] - numbers[1]
    })
}

/// Interface index, routes and SPIs of the tunnel: what must stay.
fn state(world: &World, gateway: &Gateway) -> (String, String, String) {
    let link = world.must("ga", &["ip", "-o", "link", "show", "lb-site"]);
    let index = link.split(':').next().unwrap().to_owned();
    let routes = world.must("ga", &["ip", "route", "show", "10.2.0.0/24"]);
    let sa = &gateway.connection(world, "site")["ike_sas"][0];
    let spis = format!(
        "{} {} {}",
        sa["spi_i"], sa["children"][0]["spi_in"], sa["children"][0]["spi_out"]
    );
    (index, routes, spis)
}

#[test]
fn a_reload_loses_no_packet_of_what_stays() {
    let Some(pair) = Pair::up("reload under traffic", Options::default()) else {
        return;
    };
    let Pair { world, a, .. } = &pair;
    let base = initiator(&Options::default());
    let before = state(world, a);
    let reload = |text: &str| {
        a.configure(text);
        let plan = a.client(world, &["reload", "--dry-run"]);
        let done = a.client(world, &["reload"]);
        // A dry run repeats warnings whose line has moved.
        let plan = plan.split("\nwarning:").next().unwrap();
        assert_eq!(
            plan.trim().trim_start_matches("a reload would do this: "),
            done.trim().trim_start_matches("reloaded: ")
        );
        done
    };
    let lost = lost_meanwhile(world, 500, || {
        // Another connection comes, begins to connect in vain, is reloaded meanwhile, changes, and goes.
        let said = reload(&(base.clone() + SPARE));
        assert!(
            said.contains("1 added, 0 removed, 0 restarted, 0 changed in place, 1 unchanged"),
            "{said}"
        );
        wait_until("the other one tries", Duration::from_secs(5), || {
            a.connection(world, "spare")["ike_sas"]
                .as_array()
                .is_some_and(|list| !list.is_empty())
        });
        let attempt = a.connection(world, "spare")["ike_sas"][0]["spi_i"].clone();
        reload(&(base.clone() + SPARE));
        assert_eq!(
            a.connection(world, "spare")["ike_sas"][0]["spi_i"],
            attempt,
            "the reload killed an attempt"
        );
        let said = reload(&(base.clone() + &SPARE.replace("192.0.2.254\"]", "192.0.2.253\"]")));
        assert!(said.contains("! spare: restarted, for remote_addrs"), "{said}");
        assert!(world.must("ga", &["ip", "route"]).contains("10.9.0.0/24 dev lb-spare"));
        let said = reload(&base);
        assert!(said.contains("- spare: removed"), "{said}");
        // What changes in place: MTU, keys' lifetimes, DPD.
        let changed = base
            .replace("interface", "mtu = 1400\ndpd_delay = \"20s\"\ninterface")
            .replace("start_action", "rekey_time = \"50m\"\nstart_action");
        let said = reload(&changed);
        assert!(
            said.contains("~ site: changed in place: dpd_delay (from now on); mtu; child net:"),
            "{said}"
        );
        // Other proposals: a rekey, make before break. (The peer takes both.)
        let said = reload(&changed.replace("\"aes256gcm16\"", "\"aes256gcm16-esn-noesn\""));
        assert!(said.contains("child net: rekeyed (esp_proposals)"), "{said}");
        reload(&changed);
        reload(&base);
    });
    assert_eq!(lost, 0, "pings were lost");
    let after = state(world, a);
    assert_eq!(
        (&before.0, &before.1),
        (&after.0, &after.1),
        "the interface or its routes were made anew"
    );
    let ike = |state: &(String, String, String)| state.2.split(' ').next().unwrap().to_owned();
    assert_eq!(ike(&before), ike(&after), "the IKE SA is another");
    let links = world.must("ga", &["ip", "link"]);
    assert!(!links.contains("lb-spare"), "{links}");
    let routes = world.must("ga", &["ip", "route", "show", "table", "all"]);
    assert!(!routes.contains("10.9.0.0/24"), "{routes}");
}

#[test]
fn a_dry_run_and_a_broken_file_change_nothing() {
    let Some(pair) = Pair::up("a dry run", Options::default()) else {
        return;
    };
    let Pair { world, a, .. } = &pair;
    let base = initiator(&Options::default());
    let before = state(world, a);
    for (text, part) in [
        (
            base.replace("10.2.0.0/24", "10.8.0.0/24"),
            "child net: begins anew (remote_ts)",
        ),
        (String::new(), "- site: removed"),
        (
            base.replace("\"lb-site\"", "\"lb-other\""),
            "! site: restarted, for interface",
        ),
    ] {
        a.configure(&text);
        let said = a.client(world, &["reload", "--dry-run"]);
        assert!(said.contains(part), "{said}");
        assert_eq!(state(world, a), before);
    }
    for (text, part) in [
        (
            "[connections.site]\nremote_adrs = [\"198.51.100.2\"]\n".to_owned(),
            "remote_addrs",
        ),
        (
            base.replace("[gateway]\n", "[gateway]\nport = 501\n"),
            "port of [gateway] changed",
        ),
        (base.replace("peer.psk", "nothing.psk"), "nothing.psk"),
    ] {
        a.configure(&text);
        for words in [&["reload"][..], &["reload", "--dry-run"]] {
            let refused = a.try_client(world, words);
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(
                !refused.status.success() && said.contains(part) && said.contains("nothing changed"),
                "{said}"
            );
            assert_eq!(state(world, a), before);
        }
    }
    assert!(ping(world, "ha", "10.2.0.2"));
}

#[test]
fn what_has_to_begin_anew_does_and_what_is_removed_goes() {
    let Some(mut pair) = Pair::up("a restart by reload", Options::default()) else {
        return;
    };
    let base = initiator(&Options::default());
    let before = state(&pair.world, &pair.a);
    // Another proposal for IKE: the SAs begin anew, the interface stays. SIGHUP does the same as the command.
    pair.a.configure(&base.replace("x25519", "ecp256"));
    let other = super::responder(&Options::default()).replace("-x25519", "-x25519-ecp256");
    pair.b.configure(&other);
    assert!(
        pair.b
            .client(&pair.world, &["reload"])
            .contains("restarted, for proposals")
    );
    // SAFETY: a process that this test started and has not waited for.
    unsafe { libc::kill(pair.a.pid(&pair.world) as libc::pid_t, libc::SIGHUP) };
    wait_until("it is up with the other proposal", Duration::from_secs(20), || {
        let connection = pair.a.connection(&pair.world, "site");
        connection["state"] == "up"
            && connection["ike_sas"][0]["suite"]
                .as_str()
                .is_some_and(|s| s.contains("ecp256"))
    });
    let after = state(&pair.world, &pair.a);
    assert_eq!((&before.0, &before.1), (&after.0, &after.1));
    assert_ne!(before.2, after.2);
    // Both have begun anew, and one SA too many may just go.
    wait_until("it goes through", Duration::from_secs(10), || {
        ping(&pair.world, "ha", "10.2.0.2")
    });
    // Another interface.
    pair.a
        .configure(&base.replace("x25519", "ecp256").replace("\"lb-site\"", "\"lb-other\""));
    assert!(
        pair.a
            .client(&pair.world, &["reload"])
            .contains("restarted, for interface")
    );
    pair.a.wait_up(&pair.world, "site");
    wait_until("it goes through", Duration::from_secs(10), || {
        ping(&pair.world, "ha", "10.2.0.2")
    });
    let routes = pair.world.must("ga", &["ip", "route", "show", "10.2.0.0/24"]);
    assert!(
        routes.contains("lb-other") && routes.contains("unreachable"),
        "{routes}"
    );
    // Removed: the peer is told, nothing is left.
    pair.a.configure("[gateway]\nid = \"a.example\"\n");
    assert!(pair.a.client(&pair.world, &["reload"]).contains("- site: removed"));
    pair.b.wait_down(&pair.world, "site");
    let routes = pair.world.must("ga", &["ip", "route", "show", "table", "all"]);
    assert!(!routes.contains("10.2.0.0/24"), "{routes}");
    assert_eq!(pair.a.end(&mut pair.world, libc::SIGTERM), Some(0));
}

/// Another program deletes the interface of a gateway: it is made anew, whoever began the connection.
#[test]
fn an_interface_that_was_deleted_comes_back() {
    let Some(pair) = Pair::up("deleted interface", Options::default()) else {
        return;
    };
    for (ns, gateway) in [("ga", &pair.a), ("gb", &pair.b)] {
        assert!(ping(&pair.world, "ha", "10.2.0.2"));
        pair.world.ip(ns, &["link", "del", "lb-site"]);
        wait_until("it is told", Duration::from_secs(10), || {
            gateway.log(&pair.world).contains("interface and connection begin anew")
        });
        wait_until("it goes through again", Duration::from_secs(20), || {
            ping(&pair.world, "ha", "10.2.0.2") && ping(&pair.world, "hb", "10.1.0.2")
        });
        assert!(pair.world.must(ns, &["ip", "addr", "show", "lb-site"]).contains("mtu"));
    }
    // Another has its name at once, and for a while.
    let file = pair.world.dir().join("in its place");
    std::fs::write(&file, "link del lb-site\nlink add lb-site type veth peer name other\n").unwrap();
    pair.world.ip("ga", &["-batch", file.to_str().unwrap()]);
    wait_until("it is told why there is none", Duration::from_secs(20), || {
        pair.a.log(&pair.world).contains("lb-site exists already")
    });
    pair.world.ip("ga", &["link", "del", "lb-site"]);
    wait_until("it goes through again", Duration::from_secs(20), || {
        ping(&pair.world, "ha", "10.2.0.2")
    });
}
