//! `configs/azure.toml`, `aws.toml` and `gcp.toml` as they are, against strongSwan with the policies that the clouds
//! publish, in their order of preference. Lifetimes and timers alone are shortened, for the test's sake, and nothing is
//! replaced: addresses are those of the examples.
//!
//! strongSwan's side narrows our 0.0.0.0/0 to 10.1.0.0/24 on our side: its userspace ESP would route everything else into
//! the tunnel too.

use super::support::gateway::Gateway;
use super::support::report::{Row, record};
use super::support::strongswan::{StrongSwan, available};
use super::support::transfer::{TWENTY_MB, one_way, ping};
use super::support::{self, World, wait_until};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
/// Letters and digits: what AWS takes.
const KEY: &str = "A2345678901234567890.abcdef_XYZ";

const AZURE: Policy = Policy {
    ike: "aes256gcm16-prfsha384-ecp384",
    esp: "aes256gcm16-ecp384-noesn",
};
/// Without a policy: what Azure has as responder, with its order (3DES and DES left out).
const AZURE_DEFAULT: Policy = Policy {
    ike: "aes256-sha1-modp1024,aes256-sha256-modp1024,aes128-sha1-modp1024,aes128-sha256-modp1024",
    esp: "aes256gcm16-noesn,aes256-sha1-noesn,aes256-sha256-noesn,aes128-sha1-noesn,\
          aes256-sha1-modp1024-modp2048-noesn,aes128-sha1-modp1024-modp2048-noesn,\
          aes256-sha256-modp1024-modp2048-noesn,aes128-sha256-noesn,aes128-sha256-modp1024-modp2048-noesn",
};
/// All that AWS has unless told otherwise, the lowest first.
const AWS: Policy = Policy {
    ike: "aes128-aes256-sha1-sha256-sha384-sha512-modp1024-modp2048-modp3072-modp4096-modp6144-modp8192-ecp256-ecp384-ecp521,\
          aes128gcm16-aes256gcm16-prfsha1-prfsha256-prfsha384-prfsha512-modp1024-modp2048-modp3072-modp4096-ecp256-ecp384-ecp521",
    esp: "aes128-aes256-sha1-sha256-sha384-sha512-modp1024-modp1536-modp2048-modp3072-modp4096-ecp256-ecp384-ecp521-noesn,\
          aes128gcm16-aes256gcm16-modp1024-modp1536-modp2048-modp3072-modp4096-ecp256-ecp384-ecp521-noesn",
};
/// GCP's tables, PFS required.
const GCP: Policy = Policy {
    ike: "aes128gcm16-aes192gcm16-aes256gcm16-prfsha1-prfsha256-prfsha384-prfsha512-modp2048-modp1536-modp3072-modp4096-modp8192-modp1024-ecp256-ecp384-ecp521-curve25519,\
          aes128-aes192-aes256-sha1-sha256-sha384-sha512-modp2048-modp1536-modp3072-modp4096-modp8192-modp1024-ecp256-ecp384-ecp521-curve25519",
    esp: "aes128gcm16-aes256gcm16-aes192gcm16-modp2048-modp1536-modp3072-modp4096-modp1024-ecp256-ecp384-ecp521-curve25519-noesn,\
          aes128-aes256-aes192-sha256-sha512-sha1-modp2048-modp1536-modp3072-modp4096-modp1024-ecp256-ecp384-ecp521-curve25519-noesn",
};

struct Policy {
    ike: &'static str,
    esp: &'static str,
}

/// swanctl.conf of the cloud's end at `address`; `lifetime` is a line about when it rekeys the child by itself.
fn cloud(policy: &Policy, address: &str, lifetime: &str) -> String {
    let Policy { ike, esp } = policy;
    format!(
        "connections {{ peer {{
    version = 2
    local_addrs = {address}
    remote_addrs = 192.0.2.1
    proposals = {ike}
    mobike = no
    rekey_time = 0
    local {{ auth = psk
        id = {address} }}
    remote {{ auth = psk
        id = 192.0.2.1 }}
    children {{ child {{
        local_ts = 0.0.0.0/0
        remote_ts = 10.1.0.0/24
        esp_proposals = {esp}
        {lifetime} }} }} }} }}
secrets {{ ike-peer {{ id-1 = {address}
    id-2 = 192.0.2.1
    secret = \"{KEY}\" }} }}
"
    )
}

/// It rekeys nothing by itself.
const NEVER: &str = "rekey_time = 0";

fn start(theirs: &StrongSwan, policy: &Policy, address: &str, lifetime: &str) {
    theirs.put("swanctl.conf", &cloud(policy, address, lifetime));
    theirs.start(&["CONF_FILE=/um/swanctl.conf"]);
}

/// An example with quicker timers: `connection` and `child` lines are added to all of theirs.
fn example(name: &str, connection: &str, child: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("configs")
        .join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = Vec::new();
    for line in text.lines() {
        lines.push(line.to_owned());
        if line == "[gateway]" {
            // So that a dead peer is given up within seconds.
            lines.push("retransmit_tries = 2\nretry_max = \"2s\"\nlog_level = \"landbridge=debug,info\"".to_owned());
        } else if line.starts_with("profile = ") {
            lines.push(format!("dpd_delay = \"1s\"\n{connection}"));
        } else if line.ends_with(".children.net]") {
            lines.push(child.to_owned());
        }
    }
    lines.join("\n") + "\n"
}

fn run(world: &mut World, text: &str) -> Gateway {
    let mut ours = Gateway::prepare(world, "ga");
    for name in ["azure.psk", "aws-1.psk", "aws-2.psk", "gcp.psk"] {
        ours.secret(name, KEY);
    }
    ours.configure(text);
    ours.launch(world);
    ours
}

fn spis(world: &World, ours: &Gateway, name: &str) -> (String, String) {
    let sa = &ours.connection(world, name)["ike_sas"][0];
    (sa["spi_i"].to_string(), sa["children"][0]["spi_in"].to_string())
}

fn through(world: &World) {
    one_way(world, "ha", "hb", "10.2.0.2", TWENTY_MB / 4);
    one_way(world, "hb", "ha", "10.1.0.2", TWENTY_MB / 4);
}

/// A cloud, and how the example is used for it.
struct Cloud {
    title: &'static str,
    file: &'static str,
    /// The connection tried.
    name: &'static str,
    policy: &'static Policy,
    /// In place of the example's profile.
    profile: Option<&'static str>,
    /// What is agreed upon for IKE, and for ESP at the first rekey.
    ike: &'static str,
    esp: &'static str,
    /// Whether it comes up also without a profile, by what we offer by default.
    by_default: bool,
    /// Setup and a rekey by time only.
    brief: bool,
}

/// A line of the table of results.
struct Line {
    row: Row,
}

impl Line {
    fn new(what: String, theirs: &StrongSwan, ike: &str, esp: &str, rekeys: &str) -> Self {
        let row = Row {
            what,
            peer: theirs.title(),
            role: "initiator",
            auth: "PSK".to_owned(),
            ike: ike.to_owned(),
            esp: esp.to_owned(),
            encapsulation: "UDP, IPv4 in IPv4".to_owned(),
            nat: "none",
            rekeys: rekeys.to_owned(),
            data: "5 MB each way after each".to_owned(),
        };
        Self { row }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        record(&self.row, !std::thread::panicking());
    }
}

impl Cloud {
    fn example(&self, child: &str) -> String {
        let text = example(self.file, "", child);
        match self.profile {
            None => text,
            Some(profile) => text.replace("profile = \"azure\"", &format!("profile = \"{profile}\"")),
        }
    }
}

/// Setup, rekeys by either end, by time and by octets, a peer that vanishes, a restart of either; then without a profile.
fn life(cloud: &Cloud) {
    let &Cloud { name, policy, .. } = cloud;
    if !support::privileged(cloud.title) || !available(cloud.title) {
        return;
    }
    let mut world = World::two_sites(false, 1500);
    let theirs = StrongSwan::host(&mut world, "gb");
    start(&theirs, policy, "198.51.100.2", NEVER);
    let what = format!("policy of {}", cloud.title);
    let steps = if cloud.brief {
        "Child by us by time"
    } else {
        "Child by time and by octets by each end, IKE by each end, peer vanished, both restarted"
    };
    let _line = Line::new(what, &theirs, cloud.ike, cloud.esp, steps);
    let mut ours = run(&mut world, &cloud.example("rekey_time = \"4s\"\nrand_time = 0"));
    ours.wait_up(&world, name);
    let sa = ours.connection(&world, name)["ike_sas"][0].clone();
    assert_eq!(sa["suite"], cloud.ike);
    // RFC 7296 §1.2: the first Child SA has no key exchange of its own; each rekey has.
    let first = cloud.esp.split('-').next().unwrap();
    assert_eq!(sa["children"][0]["suite"], first);
    through(&world);

    let before = spis(&world, &ours, name);
    wait_until("a rekey by time", PATIENCE, || spis(&world, &ours, name).1 != before.1);
    let sa = ours.connection(&world, name)["ike_sas"][0].clone();
    assert_eq!(sa["children"][0]["suite"], cloud.esp, "the rekey's algorithms");
    through(&world);

    if cloud.brief {
        return;
    }
    // From the next rekey on by octets only.
    ours.configure(&cloud.example("rekey_bytes = \"3 MB\""));
    let said = ours.client(&world, &["reload"]);
    assert!(
        said.contains("changed in place: child net:") && said.contains("0 restarted"),
        "{said}"
    );
    let before = spis(&world, &ours, name);
    ours.client(&world, &["rekey", name]);
    wait_until("the rekey asked for", PATIENCE, || {
        spis(&world, &ours, name).1 != before.1
    });
    let before = spis(&world, &ours, name);
    assert!(ping(&world, "ha", "10.2.0.2"));
    assert_eq!(spis(&world, &ours, name).1, before.1, "no rekey without octets");
    through(&world);
    wait_until("a rekey by octets", PATIENCE, || {
        spis(&world, &ours, name).1 != before.1
    });

    let before = spis(&world, &ours, name);
    theirs.peer(&["rekey"]);
    wait_until("the cloud's rekey", PATIENCE, || {
        spis(&world, &ours, name).1 != before.1
    });
    let before = spis(&world, &ours, name);
    ours.client(&world, &["rekey", "--ike", name]);
    wait_until("our rekey of the IKE SA", PATIENCE, || {
        spis(&world, &ours, name).0 != before.0
    });
    let before = spis(&world, &ours, name);
    theirs.peer(&["rekey-ike"]);
    wait_until("the cloud's rekey of the IKE SA", PATIENCE, || {
        spis(&world, &ours, name).0 != before.0
    });
    through(&world);

    // The cloud's end vanishes, and comes back: it rekeys by time now. We don't.
    ours.configure(&cloud.example(""));
    ours.client(&world, &["reload"]);
    theirs.kill();
    wait_until("we noticed", PATIENCE, || !ours.is_up(&world, name));
    start(
        &theirs,
        policy,
        "198.51.100.2",
        "rekey_time = 2s\n        life_time = 60s\n        rand_time = 0",
    );
    wait_until("it is up again", PATIENCE, || ours.is_up(&world, name));
    rekeyed_by_the_cloud(&world, &ours, &theirs, cloud, || {});
    // Once more: by octets. And ours was restarted.
    theirs.stop();
    start(
        &theirs,
        policy,
        "198.51.100.2",
        "rekey_time = 0\n        rekey_bytes = 3000000\n        life_bytes = 90000000\n        rand_bytes = 0",
    );
    ours.end(&mut world, libc::SIGKILL);
    ours.launch(&mut world);
    ours.wait_up(&world, name);
    rekeyed_by_the_cloud(&world, &ours, &theirs, cloud, || through(&world));

    without_a_profile(&mut world, ours, cloud);
}

/// By the cloud itself, while `meanwhile` happens.
fn rekeyed_by_the_cloud(world: &World, ours: &Gateway, theirs: &StrongSwan, cloud: &Cloud, meanwhile: impl Fn()) {
    let before = spis(world, ours, cloud.name);
    meanwhile();
    wait_until("the cloud rekeyed the Child SA", PATIENCE, || {
        spis(world, ours, cloud.name).1 != before.1
    });
    let log = theirs.log();
    assert!(log.contains("creating rekey job for CHILD_SA"), "not by itself: {log}");
    let sa = ours.connection(world, cloud.name)["ike_sas"][0].clone();
    assert_eq!(sa["children"][0]["suite"], cloud.esp, "the rekey's algorithms");
    through(world);
}

/// What we offer by default holds what the cloud takes, setup and rekey; or it is said that it does not.
fn without_a_profile(world: &mut World, mut ours: Gateway, cloud: &Cloud) {
    let text: Vec<String> = cloud
        .example("local_ts = [\"0.0.0.0/0\"]\nremote_ts = [\"0.0.0.0/0\"]\nstart_action = \"start\"")
        .lines()
        .filter(|line| !line.starts_with("profile = "))
        .map(|line| line.replace("psk_file", "auth = \"psk\"\npsk_file"))
        .collect();
    ours.end(world, libc::SIGTERM);
    ours.configure(&text.join("\n"));
    ours.launch(world);
    if !cloud.by_default {
        wait_until("the refusal is told", PATIENCE, || {
            let failure = ours.connection(world, cloud.name)["last_failure"].to_string();
            failure.contains("NO_PROPOSAL_CHOSEN")
        });
        return;
    }
    ours.wait_up(world, cloud.name);
    let before = spis(world, &ours, cloud.name);
    ours.client(world, &["rekey", cloud.name]);
    wait_until("a rekey", PATIENCE, || spis(world, &ours, cloud.name).1 != before.1);
    through(world);
}

#[test]
fn azure() {
    life(&Cloud {
        title: "Azure",
        file: "azure.toml",
        name: "azure",
        policy: &AZURE,
        profile: None,
        ike: "aes256gcm16-prfsha384-ecp384",
        esp: "aes256gcm16-ecp384",
        by_default: true,
        brief: false,
    });
}

/// Its policy is the same; its lifetimes are shorter, and so is this.
#[test]
fn azure_virtual_wan() {
    life(&Cloud {
        title: "Azure Virtual WAN",
        file: "azure.toml",
        name: "azure",
        policy: &AZURE,
        profile: Some("azure-vwan"),
        ike: "aes256gcm16-prfsha384-ecp384",
        esp: "aes256gcm16-ecp384",
        by_default: true,
        brief: true,
    });
}

#[test]
fn azure_without_a_policy() {
    life(&Cloud {
        title: "Azure unless told otherwise",
        file: "azure.toml",
        name: "azure",
        policy: &AZURE_DEFAULT,
        profile: Some("azure-default"),
        ike: "aes256-sha256-prfsha256-modp1024",
        esp: "aes256gcm16",
        // Its only group is one that we have by name only.
        by_default: false,
        brief: false,
    });
}

#[test]
fn aws() {
    life(&Cloud {
        title: "AWS unless told otherwise",
        file: "aws.toml",
        name: "aws-1",
        policy: &AWS,
        profile: None,
        ike: "aes256gcm16-prfsha512-ecp384",
        esp: "aes256gcm16-ecp384",
        by_default: true,
        brief: false,
    });
}

#[test]
fn gcp() {
    life(&Cloud {
        title: "GCP unless told otherwise",
        file: "gcp.toml",
        name: "gcp-0",
        policy: &GCP,
        profile: None,
        ike: "aes256gcm16-prfsha512-ecp384",
        esp: "aes256gcm16-ecp384",
        by_default: true,
        brief: false,
    });
}

/// What `check` warns about, happening: Azure's default policy has no group for AES-GCM. It comes up; the rekey is refused,
/// the failure says why, and the pair there is lives on meanwhile.
#[test]
fn a_group_that_azure_has_not_shows_at_the_first_rekey() {
    let test = "PFS with Azure's default";
    if !support::privileged(test) || !available(test) {
        return;
    }
    let mut world = World::two_sites(false, 1500);
    let theirs = StrongSwan::host(&mut world, "gb");
    start(&theirs, &AZURE_DEFAULT, "198.51.100.2", NEVER);
    let text = example("azure.toml", "", "esp_proposals = [\"aes256gcm16-ecp384\"]");
    let ours = run(
        &mut world,
        &text.replace("profile = \"azure\"", "profile = \"azure-default\""),
    );
    let file = ours.folder().join("landbridge.toml");
    let checked = support::gateway::landbridge(&["check", "--config", file.to_str().unwrap()]);
    let warned = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(
        warned.contains("it will come up") && warned.contains("will be refused"),
        "{warned}"
    );
    assert!(ours.log(&world).contains("will be refused"), "told at setup too");
    ours.wait_up(&world, "azure");
    ours.client(&world, &["rekey", "azure"]);
    wait_until("the refusal is told", PATIENCE, || {
        ours.connection(&world, "azure")["last_failure"]
            .to_string()
            .contains("NO_PROPOSAL_CHOSEN")
    });
    assert!(ours.is_up(&world, "azure") && ping(&world, "ha", "10.2.0.2"));
}

/// Two endpoints of a cloud, `gb` and `gc`, and behind both the same host.
fn two_endpoints(policy: &Policy) -> (World, StrongSwan, StrongSwan) {
    let mut world = World::two_sites(false, 1500);
    world.add("gc");
    world.join("net", "eth2", "203.0.113.1/24", "gc", "wan0", "203.0.113.2/24");
    world.join("gc", "lan0", "10.3.0.1/24", "hb", "eth1", "10.3.0.2/24");
    world.ip("gc", &["route", "add", "default", "via", "203.0.113.1"]);
    world.ip("gc", &["route", "add", "10.2.0.2/32", "via", "10.3.0.2"]);
    world.must("gc", &["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
    for name in ["all", "default", "eth0", "eth1"] {
        world.must("hb", &["sysctl", "-qw", &format!("net.ipv4.conf.{name}.rp_filter=0")]);
    }
    let (first, second) = (StrongSwan::host(&mut world, "gb"), StrongSwan::host(&mut world, "gc"));
    start(&first, policy, "198.51.100.2", NEVER);
    start(&second, policy, "203.0.113.2", NEVER);
    (world, first, second)
}

/// The cloud's own routing: which endpoint it sends back by, whatever its host's address there is.
fn back_by(world: &World, gateway: &str) {
    world.ip(
        "hb",
        &["route", "replace", "10.1.0.0/24", "via", gateway, "src", "10.2.0.2"],
    );
}

fn failover(test: &str, file: &str, [one, two]: [&str; 2], policy: &Policy) {
    if !support::privileged(test) || !available(test) {
        return;
    }
    let (mut world, first, second) = two_endpoints(policy);
    let _line = Line::new(
        test.to_owned(),
        &first,
        "aes256gcm16-prfsha512-ecp384",
        "aes256gcm16-ecp384",
        "tunnel 1 vanished, tunnel 2 vanished, tunnel 1 came back",
    );
    let ours = run(&mut world, &example(file, "", ""));
    for name in [one, two] {
        ours.wait_up(&world, name);
    }
    let routes = |world: &World| world.must("ga", &["ip", "route", "show", "10.2.0.0/24"]);
    let (via_one, via_two) = (format!("dev lb-{one}"), format!("dev lb-{two}"));
    let shown = routes(&world);
    assert!(
        shown.contains(&via_one) && shown.contains(&via_two) && shown.contains("unreachable"),
        "{shown}"
    );
    let sent = |world: &World, name: &str| ours.connection(world, name)["packets_out"].as_u64().unwrap();
    back_by(&world, "10.2.0.1");
    through(&world);
    assert!(
        sent(&world, one) > 0 && sent(&world, two) == 0,
        "the lower metric carries"
    );

    first.kill();
    wait_until("the dead tunnel's route gives way", PATIENCE, || {
        let shown = routes(&world);
        !shown.contains(&via_one) && shown.contains(&via_two)
    });
    back_by(&world, "10.3.0.1");
    through(&world);
    assert!(sent(&world, two) > 1000, "the spare carries");

    // Both are gone: nothing leaves, in the clear or otherwise.
    second.kill();
    ours.wait_down(&world, two);
    let shown = routes(&world);
    assert!(shown.contains("unreachable"), "{shown}");
    let rules = "add table ip leak; add chain ip leak seen { type filter hook prerouting priority 0; }; \
                 add rule ip leak seen ip daddr 10.0.0.0/8 counter";
    world.must("net", &["nft", rules]);
    assert!(!ping(&world, "ha", "10.2.0.2"));
    let seen = world.must("net", &["nft", "list", "table", "ip", "leak"]);
    assert!(
        seen.contains("packets 0 "),
        "packets left the gateway in the clear: {seen}"
    );

    // The first is back, and carries again.
    start(&first, policy, "198.51.100.2", NEVER);
    wait_until("the first is up again", PATIENCE, || ours.is_up(&world, one));
    let shown = routes(&world);
    assert!(shown.contains(&via_one), "{shown}");
    back_by(&world, "10.2.0.1");
    let before = sent(&world, one);
    through(&world);
    assert!(sent(&world, one) > before + 1000, "the first carries again");
}

#[test]
fn both_tunnels_of_aws() {
    failover("AWS, both tunnels", "aws.toml", ["aws-1", "aws-2"], &AWS);
}

#[test]
fn both_tunnels_of_gcp() {
    failover("GCP, both tunnels", "gcp.toml", ["gcp-0", "gcp-1"], &GCP);
}
