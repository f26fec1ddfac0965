//! Landbridge against strongSwan (userspace ESP, kernel-libipsec), in both roles. Each scenario moves twenty megabytes
//! by TCP each way and compares the hashes.
//!
//! ```text
//! ha 10.1.0.2 --- ga (Landbridge) --- net --- gb (strongSwan) --- hb 10.2.0.2
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

#[path = "../support/mod.rs"]
mod support;

mod algorithms;
mod authentication;
mod certificates;
mod clouds;
mod decrypt;
mod kernel;
mod lab;
mod lifecycle;
mod mobike;
mod nat;
mod pairs;
mod post_quantum;
mod ppk;
mod redirect;
mod rekey_load;

use std::cell::{Cell, RefCell};
use support::World;
use support::gateway::Gateway;
use support::report::{Row, record};
use support::strongswan::{StrongSwan, available};

/// What a scenario varies; the rest is as in [`Pair::start`].
struct Scenario {
    /// strongSwan's (and our) word for the IKE proposal.
    ike: &'static str,
    /// The ESP proposal of both.
    esp: &'static str,
    /// Landbridge begins.
    initiate: bool,
    /// A NAT in front of Landbridge; it lets IKE in if strongSwan begins.
    nat: bool,
    /// A NAT in front of strongSwan; it lets IKE in if Landbridge begins.
    their_nat: bool,
    /// MTU of the network between.
    mtu: u32,
    /// Further addresses of ours: `, "..."`.
    also_local: &'static str,
    /// Further lines of our gateway, and of the connection.
    gateway: &'static str,
    more: &'static str,
    /// Further settings of strongSwan's.
    peer_more: &'static [&'static str],
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            ike: "aes256-sha256-x25519",
            esp: "aes256gcm16",
            initiate: true,
            nat: false,
            their_nat: false,
            mtu: 1500,
            also_local: "",
            gateway: "",
            more: "",
            peer_more: &[],
        }
    }
}

/// Landbridge at `ga`, strongSwan at `gb`, the tunnel up.
struct Pair {
    world: World,
    ours: Gateway,
    theirs: StrongSwan,
    /// The line of the table of results, once the tunnel was up.
    row: RefCell<Option<Row>>,
    moved: Cell<usize>,
}

impl Drop for Pair {
    fn drop(&mut self) {
        if let Some(mut row) = self.row.take() {
            let octets = self.moved.get();
            if octets > 0 {
                row.data = format!("{} MB each way", octets / 1_000_000);
            }
            record(&row, !std::thread::panicking());
        }
    }
}

/// Our configuration for a scenario.
fn configuration(scenario: &Scenario) -> String {
    let local = if scenario.nat { "192.168.50.2" } else { "192.0.2.1" };
    let action = if scenario.initiate { "start" } else { "none" };
    format!(
        r#"
[gateway]
id = "gw.example"
log_level = "landbridge=debug,info"
{gateway}

[connections.peer]
local_addrs = ["{local}"{also_local}]
remote_addrs = ["198.51.100.2"]
proposals = ["{ike}"]
interface = "lb-peer"
{more}
[connections.peer.local]
auth = "psk"
id = "gw.example"
psk_file = "peer.psk"
[connections.peer.remote]
auth = "psk"
id = "peer.example"
psk_file = "peer.psk"
[connections.peer.children.net]
local_ts = ["10.1.0.0/24"]
remote_ts = ["10.2.0.0/24"]
esp_proposals = ["{esp}"]
start_action = "{action}"
"#,
        ike = scenario.ike,
        esp = scenario.esp,
        also_local = scenario.also_local,
        gateway = scenario.gateway,
        more = scenario.more,
    )
}

impl Pair {
    /// Starts both and brings the tunnel up; `None` (said) where it can't run.
    fn start(test: &str, scenario: &Scenario) -> Option<Self> {
        let pair = Self::prepare(test, scenario)?;
        pair.bring_up(scenario);
        Some(pair)
    }

    /// Starts both, strongSwan first; does not initiate on strongSwan's side.
    fn prepare(test: &str, scenario: &Scenario) -> Option<Self> {
        if !support::privileged(test) || !available(test) {
            return None;
        }
        let mut world = World::two_sites(scenario.nat, scenario.mtu);
        if scenario.their_nat {
            world.nat_before_gb();
        }
        if scenario.nat && !scenario.initiate {
            world.forward_ike("nat", "192.168.50.2");
        }
        if scenario.their_nat && scenario.initiate {
            world.forward_ike("natb", "192.168.60.2");
        }
        let theirs = StrongSwan::host(&mut world, "gb");
        let (ike, esp) = (format!("IKE={}", scenario.ike), format!("ESP={}", scenario.esp));
        let mut settings = vec![
            if scenario.their_nat {
                "LOCAL=192.168.60.2"
            } else {
                "LOCAL=198.51.100.2"
            },
            if scenario.nat && scenario.initiate {
                "REMOTE=%any"
            } else {
                "REMOTE=192.0.2.1"
            },
            "LOCAL_ID=peer.example",
            "REMOTE_ID=gw.example",
            "LOCAL_TS=10.2.0.0/24",
            "REMOTE_TS=10.1.0.0/24",
            "PSK=interop-test-only",
            &ike,
            &esp,
        ];
        settings.extend(scenario.peer_more);
        theirs.start(&settings);
        let ours = Gateway::start(&mut world, "ga", &configuration(scenario));
        let row = Row {
            what: test.to_owned(),
            peer: theirs.title(),
            role: if scenario.initiate { "initiator" } else { "responder" },
            auth: "PSK".to_owned(),
            ike: scenario.ike.to_owned(),
            esp: scenario.esp.to_owned(),
            encapsulation: "UDP, IPv4 in IPv4".to_owned(),
            nat: match (scenario.nat, scenario.their_nat) {
                (false, false) => "none",
                (true, false) => "ours",
                (false, true) => "the peer's",
                (true, true) => "both",
            },
            ..Row::default()
        };
        Some(Self {
            world,
            ours,
            theirs,
            row: RefCell::new(Some(row)),
            moved: Cell::new(0),
        })
    }

    fn bring_up(&self, scenario: &Scenario) {
        if !scenario.initiate {
            self.theirs.peer(&["initiate"]);
        }
        self.ours.wait_up(&self.world, "peer");
    }

    fn move_data(&self) {
        support::transfer::both_ways(&self.world);
        self.moved.set(self.moved.get() + support::transfer::TWENTY_MB);
    }

    /// What was rekeyed, for the table of results.
    fn rekeyed(&self, what: &str) {
        if let Some(row) = self.row.borrow_mut().as_mut() {
            let separator = if row.rekeys.is_empty() { "" } else { ", " };
            row.rekeys = format!("{}{separator}{what}", row.rekeys);
        }
    }

    /// Our SPIs of the child, as status shows them.
    fn spis(&self) -> (String, String) {
        let connection = self.ours.connection(&self.world, "peer");
        let child = &connection["ike_sas"][0]["children"][0];
        (child["spi_in"].to_string(), child["spi_out"].to_string())
    }
}
