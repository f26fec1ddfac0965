//! Landbridge with Landbridge in network namespaces: the main job, and what must not happen.
//!
//! ```text
//! ha 10.1.0.2 --- ga --- (nat) --- net --- gb --- hb 10.2.0.2
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

#[allow(dead_code, reason = "the tests of proto use the rest")]
#[path = "../../proto/tests/ip_packets/build.rs"]
mod build;
#[path = "../support/mod.rs"]
mod support;

mod bench;
mod decrypt;
mod hostile;
mod iptfs;
mod ipv6;
mod lifecycle;
mod mesh;
mod metrics;
mod moving;
mod packets;
mod puzzles;
mod queues;
mod raw;
mod rebind;
mod redirect;
mod rekey_load;
mod reload;
mod tcp;
mod tls;
mod token;
mod tunnel;

use support::World;
use support::gateway::Gateway;

/// Two gateways with a tunnel between them: `a` begins, `b` answers anybody.
struct Pair {
    world: World,
    a: Gateway,
    b: Gateway,
}

/// The lines that differ between tests.
#[derive(Clone, Copy)]
struct Options {
    nat: bool,
    mtu: u32,
    ike: &'static str,
    esp: &'static str,
    /// Lines in [gateway] of both.
    gateway: &'static str,
    /// Lines in the connection of both.
    connection: &'static str,
    /// Lines in the child of both.
    child: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nat: false,
            mtu: 1500,
            ike: "aes256gcm16-prfsha384-x25519",
            esp: "aes256gcm16",
            gateway: "",
            connection: "",
            child: "",
        }
    }
}

/// Gateway A's configuration.
fn initiator(options: &Options) -> String {
    let local = if options.nat { "192.168.50.2" } else { "192.0.2.1" };
    configuration(
        options,
        "a.example",
        "b.example",
        local,
        "198.51.100.2",
        ("10.1.0.0/24", "10.2.0.0/24"),
        "start",
    )
}

/// Gateway B's.
fn responder(options: &Options) -> String {
    configuration(
        options,
        "b.example",
        "a.example",
        "198.51.100.2",
        "%any",
        ("10.2.0.0/24", "10.1.0.0/24"),
        "none",
    )
}

fn configuration(
    options: &Options,
    us: &str,
    them: &str,
    local: &str,
    remote: &str,
    (local_ts, remote_ts): (&str, &str),
    action: &str,
) -> String {
    let Options {
        ike,
        esp,
        gateway,
        connection,
        child,
        ..
    } = options;
    format!(
        r#"
[gateway]
id = "{us}"
{gateway}
[connections.site]
local_addrs = ["{local}"]
remote_addrs = ["{remote}"]
proposals = ["{ike}"]
interface = "lb-site"
{connection}
[connections.site.local]
auth = "psk"
id = "{us}"
psk_file = "peer.psk"
[connections.site.remote]
auth = "psk"
id = "{them}"
psk_file = "peer.psk"
[connections.site.children.net]
local_ts = ["{local_ts}"]
remote_ts = ["{remote_ts}"]
esp_proposals = ["{esp}"]
start_action = "{action}"
{child}
"#
    )
}

impl Pair {
    /// Both running, the tunnel up; `None` (said) where it can't run.
    fn up(test: &str, options: Options) -> Option<Self> {
        if !support::privileged(test) {
            return None;
        }
        let mut world = World::two_sites(options.nat, options.mtu);
        let b = Gateway::start(&mut world, "gb", &responder(&options));
        let a = Gateway::start(&mut world, "ga", &initiator(&options));
        a.wait_up(&world, "site");
        b.wait_up(&world, "site");
        Some(Self { world, a, b })
    }
}
