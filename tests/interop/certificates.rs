//! Certificates against strongSwan, in both roles: a root, an intermediate CA and leaves with keys of every kind, the
//! methods from before RFC 7427, and certificates that must not be taken.

use super::support::gateway::Gateway;
use super::support::strongswan::{StrongSwan, available};
use super::support::{self, World};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Landbridge at `ga` and strongSwan at `gb`, with certificates of one kind.
struct Certified {
    world: World,
    ours: Gateway,
    theirs: StrongSwan,
}

/// What a scenario varies.
struct Variant {
    /// Kind of the leaves' keys, as `netns-scripts/peers/certs` calls it.
    kind: &'static str,
    initiate: bool,
    /// strongSwan's own certificate, of those made.
    peer: &'static str,
    /// Further settings of strongSwan's.
    settings: &'static [&'static str],
    /// Further lines in [connections.peer.local] and [connections.peer.remote].
    local: &'static str,
    remote: &'static str,
}

impl Default for Variant {
    fn default() -> Self {
        Self {
            kind: "ecdsa",
            initiate: true,
            peer: "peer.example",
            settings: &[],
            local: "",
            remote: "",
        }
    }
}

impl Certified {
    fn prepare(test: &str, variant: &Variant) -> Option<Self> {
        if !support::privileged(test) || !available(test) {
            return None;
        }
        let mut world = World::two_sites(false, 1500);
        let mut ours = Gateway::prepare(&world, "ga");
        let theirs = StrongSwan::host(&mut world, "gb");
        let made = world.dir().join("certs");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("netns-scripts/peers/certs");
        let names = ["gw.example", "peer.example", "revoked.example"];
        support::run(Command::new(script).arg(&made).arg(variant.kind).args(names));
        let text = |name: &str| std::fs::read_to_string(PathBuf::from(&made).join(name)).unwrap();
        for file in [
            "gw.example.key",
            "gw.example-chain.crt",
            "ca.crt",
            "ca.crl",
            "inter.crl",
        ] {
            ours.secret(file, &text(file));
        }
        let peer = variant.peer;
        for (file, as_file) in [("ca.crt", "x509ca/ca.crt"), ("inter.crt", "x509/inter.crt")] {
            theirs.put(&format!("keys/{as_file}"), &text(file));
        }
        theirs.put("keys/x509/peer.crt", &text(&format!("{peer}.crt")));
        theirs.put("keys/private/peer.key", &text(&format!("{peer}.key")));
        theirs.sh("cd /um/keys; for d in *; do mkdir -p /run/um-strongswan/swanctl/$d; cp $d/* /run/um-strongswan/swanctl/$d; done");
        theirs.put(
            "certs.conf",
            &format!(
                r"connections {{ peer {{
    version = 2
    local_addrs = 198.51.100.2
    remote_addrs = 192.0.2.1
    proposals = aes256-sha256-x25519
    mobike = no
    local {{ auth = pubkey
        id = {peer}
        certs = peer.crt }}
    remote {{ auth = pubkey
        id = gw.example
        cacerts = ca.crt }}
    children {{ child {{
        local_ts = 10.2.0.0/24
        remote_ts = 10.1.0.0/24
        esp_proposals = aes256gcm16 }} }} }} }}
"
            ),
        );
        let mut settings = vec!["LOCAL=198.51.100.2", "REMOTE=192.0.2.1", "CONF_FILE=/um/certs.conf"];
        settings.extend(variant.settings);
        theirs.start(&settings);
        ours.configure(&format!(
            r#"
[connections.peer]
local_addrs = ["192.0.2.1"]
remote_addrs = ["198.51.100.2"]
proposals = ["aes256-sha256-x25519"]
interface = "lb-peer"
[connections.peer.local]
auth = "cert"
id = "gw.example"
cert_file = "gw.example-chain.crt"
private_key_file = "gw.example.key"
{}
[connections.peer.remote]
auth = "cert"
id = "{peer}"
cacert_files = ["ca.crt"]
{}
[connections.peer.children.net]
local_ts = ["10.1.0.0/24"]
remote_ts = ["10.2.0.0/24"]
esp_proposals = ["aes256gcm16"]
start_action = "{}"
"#,
            variant.local,
            variant.remote,
            if variant.initiate { "start" } else { "none" }
        ));
        ours.launch(&mut world);
        Some(Self { world, ours, theirs })
    }

    fn up(test: &str, variant: &Variant) -> Option<Self> {
        let pair = Self::prepare(test, variant)?;
        if !variant.initiate {
            pair.theirs.peer(&["initiate"]);
        }
        pair.ours.wait_up(&pair.world, "peer");
        let status = pair.ours.connection(&pair.world, "peer");
        let shown = status["ike_sas"][0]["peer_certificate"].to_string();
        assert!(shown.contains("O=interop, CN=peer.example"), "{status}");
        support::transfer::both_ways(&pair.world);
        Some(pair)
    }

    /// It does not come up, and our log says why.
    fn refused(test: &str, variant: &Variant, why: &str) {
        let Some(pair) = Self::prepare(test, variant) else {
            return;
        };
        if !variant.initiate {
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pair.theirs.peer(&["initiate"])));
        }
        support::wait_until("the failure is explained", Duration::from_secs(20), || {
            pair.ours.connection(&pair.world, "peer")["last_failure"]
                .to_string()
                .contains(why)
        });
        assert!(!pair.ours.is_up(&pair.world, "peer"));
    }
}

fn both_roles(kind: &'static str, local: &'static str, told: &str) {
    for initiate in [true, false] {
        let variant = Variant {
            kind,
            initiate,
            local,
            ..Variant::default()
        };
        let Some(pair) = Certified::up(&format!("{kind} certificates"), &variant) else {
            return;
        };
        let log = pair.theirs.log();
        assert!(log.contains(told), "{kind}: {told}: {log}");
    }
}

#[test]
fn rsa_certificates_with_pss() {
    both_roles("rsa", "", "'gw.example' with RSA_EMSA_PSS");
}

#[test]
fn rsa_certificates_with_pkcs1() {
    both_roles(
        "rsa",
        "rsa_padding = \"pkcs1\"",
        "'gw.example' with RSA_EMSA_PKCS1_SHA2",
    );
}

#[test]
fn ecdsa_p256_certificates() {
    both_roles("ecdsa", "", "'gw.example' with ECDSA_WITH_SHA256_DER successful");
}

#[test]
fn ecdsa_p384_certificates() {
    both_roles("p384", "", "'gw.example' with ECDSA_WITH_SHA384_DER successful");
}

#[test]
fn ecdsa_p521_certificates() {
    both_roles("p521", "", "'gw.example' with ECDSA_WITH_SHA512_DER successful");
}

#[test]
fn ed25519_certificates() {
    both_roles("ed25519", "", "'gw.example' with ED25519 successful");
}

/// Checklist G9: a peer without RFC 7427 gets method 9, and its own is taken.
#[test]
fn ecdsa_without_signature_authentication() {
    for initiate in [true, false] {
        let variant = Variant {
            initiate,
            settings: &["SIGNATURE_AUTH=no"],
            ..Variant::default()
        };
        let Some(pair) = Certified::up("ECDSA, method 9", &variant) else {
            return;
        };
        let log = pair.theirs.log();
        assert!(
            log.contains("'gw.example' with ECDSA-256 signature successful"),
            "{log}"
        );
    }
}

#[test]
fn a_revoked_certificate_is_refused() {
    for initiate in [true, false] {
        let variant = Variant {
            initiate,
            peer: "revoked.example",
            remote: "crl_files = [\"ca.crl\", \"inter.crl\"]",
            ..Variant::default()
        };
        Certified::refused("a revoked certificate", &variant, "it is revoked");
    }
}

#[test]
fn a_certificate_that_is_not_revoked_is_taken() {
    let variant = Variant {
        remote: "crl_files = [\"ca.crl\", \"inter.crl\"]",
        ..Variant::default()
    };
    Certified::up("revocation lists", &variant);
}
