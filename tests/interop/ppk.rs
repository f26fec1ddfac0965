//! Post-quantum preshared keys (RFC 8784) with strongSwan, in both roles: insisted on, left out, rotated.

use super::support::gateway::Gateway;
use super::support::report::{Row, record};
use super::support::strongswan::{StrongSwan, available};
use super::support::{self, World, transfer};

/// `psk` in hex: 256 bits.
const OURS: &str = "0x00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OTHER: &str = "0xffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

struct Case {
    name: &'static str,
    initiate: bool,
    /// What strongSwan says of PPKs in its connection, and its keys: name and value.
    theirs: (&'static str, &'static [(&'static str, &'static str)]),
    ours: &'static str,
    used: bool,
}

#[test]
fn ppk_with_strongswan() {
    let cases = [
        Case {
            name: "we begin, both insist",
            initiate: true,
            theirs: ("ppk_id = k2026\n    ppk_required = yes", &[("k2026", OURS)]),
            ours: "",
            used: true,
        },
        Case {
            name: "the peer begins, both insist",
            initiate: false,
            theirs: ("ppk_id = k2026\n    ppk_required = yes", &[("k2026", OURS)]),
            ours: "",
            used: true,
        },
        Case {
            name: "the peer begins with the older key of a rotation",
            initiate: false,
            theirs: ("ppk_id = k2025\n    ppk_required = yes", &[("k2025", OTHER)]),
            ours: "",
            used: true,
        },
        Case {
            // strongSwan announces PPKs always. With a ppk_id of its own it would take no other, nor none.
            name: "we begin, the peer has none: NO_PPK_AUTH",
            initiate: true,
            theirs: ("", &[]),
            ours: "ppk_required = false",
            used: false,
        },
        Case {
            name: "the peer begins with one that we lack: NO_PPK_AUTH",
            initiate: false,
            theirs: ("ppk_id = another", &[("another", OTHER)]),
            ours: "ppk_required = false",
            used: false,
        },
    ];
    for case in cases {
        if !support::privileged("PPK with strongSwan") || !available("PPK with strongSwan") {
            return;
        }
        run(&case);
    }
}

fn run(case: &Case) {
    let Case {
        name,
        initiate,
        theirs: (settings, keys),
        ours: more,
        used,
    } = case;
    let mut world = World::two_sites(false, 1500);
    let mut ours = Gateway::prepare(&world, "ga");
    let theirs = StrongSwan::host(&mut world, "gb");
    let keys: String = (1..)
        .zip(*keys)
        .map(|(number, (id, key))| format!("    ppk-{number} {{\n        id = {id}\n        secret = {key} }}\n"))
        .collect();
    theirs.put(
        "ppk.conf",
        &format!(
            "connections {{ peer {{
    version = 2
    local_addrs = 198.51.100.2
    remote_addrs = 192.0.2.1
    proposals = aes256-sha256-x25519
    mobike = no
    {settings}
    local {{ auth = psk
        id = peer.example }}
    remote {{ auth = psk
        id = gw.example }}
    children {{ child {{
        local_ts = 10.2.0.0/24
        remote_ts = 10.1.0.0/24
        esp_proposals = aes256gcm16 }} }} }} }}
secrets {{
    ike-1 {{
        id = gw.example
        secret = a pre-shared key of both ends }}
{keys}}}
"
        ),
    );
    theirs.start(&["LOCAL=198.51.100.2", "REMOTE=192.0.2.1", "CONF_FILE=/um/ppk.conf"]);
    ours.secret("peer.psk", "a pre-shared key of both ends\n");
    ours.secret("k2026.ppk", &format!("{OURS}\n"));
    ours.secret("k2025.ppk", &format!("{OTHER}\n"));
    let start = if *initiate { "start" } else { "none" };
    ours.configure(&format!(
        r#"
[connections.peer]
local_addrs = ["192.0.2.1"]
remote_addrs = ["198.51.100.2"]
proposals = ["aes256-sha256-x25519"]
interface = "lb-peer"
ppk_id = "k2026"
{more}
[connections.peer.ppk]
k2026 = "k2026.ppk"
k2025 = "k2025.ppk"
[connections.peer.local]
auth = "psk"
id = "gw.example"
psk_file = "peer.psk"
[connections.peer.remote]
auth = "psk"
id = "peer.example"
[connections.peer.children.net]
local_ts = ["10.1.0.0/24"]
remote_ts = ["10.2.0.0/24"]
esp_proposals = ["aes256gcm16"]
start_action = "{start}"
"#
    ));
    ours.launch(&mut world);
    if !initiate {
        theirs.peer(&["initiate"]);
    }
    ours.wait_up(&world, "peer");
    let sa = &ours.connection(&world, "peer")["ike_sas"][0];
    assert_eq!(sa["ppk"], *used, "{name}: {sa}");
    assert_eq!(sa["post_quantum"], *used, "{name}");
    let log = theirs.log();
    assert_eq!(log.contains("using PPK for PPK_ID"), *used, "{name}:\n{log}");
    transfer::both_ways(&world);
    // A rekeyed IKE SA has it by SK_d, and so have its Child SAs.
    let spis = || {
        let status = ours.connection(&world, "peer");
        let sa = &status["ike_sas"][0];
        [sa["spi_i"].to_string(), sa["children"][0]["spi_in"].to_string()]
    };
    for (at, words) in [&["rekey", "peer", "--ike"][..], &["rekey", "peer"]]
        .into_iter()
        .enumerate()
    {
        let before = spis();
        ours.client(&world, words);
        support::wait_until("the rekey", std::time::Duration::from_secs(10), || {
            ours.is_up(&world, "peer") && spis()[at] != before[at]
        });
    }
    assert_eq!(
        ours.connection(&world, "peer")["ike_sas"][0]["ppk"],
        *used,
        "{name}, rekeyed"
    );
    transfer::both_ways(&world);
    let row = Row {
        what: format!("PPK: {name}"),
        peer: theirs.title(),
        role: if *initiate { "initiator" } else { "responder" },
        auth: "PSK".to_owned(),
        ike: "aes256-sha256-x25519".to_owned(),
        esp: "aes256gcm16".to_owned(),
        encapsulation: "UDP, IPv4 in IPv4".to_owned(),
        nat: "none",
        rekeys: "IKE by us, Child by us".to_owned(),
        data: "40 MB each way".to_owned(),
    };
    record(&row, true);
}
