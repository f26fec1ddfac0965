//! GCP HA VPN.
//!
//! Sources: cloud.google.com, Cloud VPN, "Supported IKE ciphers" (2026-04-10), "MTU considerations", "Advanced
//! configurations", "Choose a VPN routing option", as of November 2026.

use super::{Accepts, EspRow, IkeRow, Profile, Values, hours};
use std::time::Duration;

/// One tunnel of an HA VPN gateway; the promise of availability takes two.
pub(super) static GCP: Profile = Profile {
    name: "gcp",
    gateway: "GCP HA VPN",
    settings: "the tunnel's ciphers (ciphers.phase1 and ciphers.phase2 of the VPN tunnel)",
    weak: None,
    values: Values {
        proposals: &["aes256gcm16-prfsha512-ecp384"],
        esp_proposals: &["aes256gcm16-ecp384"],
        dpd_delay: Duration::from_secs(20),
        mtu_most: None,
        // "The MTU of the gateway": 1460 octets outside.
        outer_mtu_most: Some(1460),
    },
    accepts: Accepts {
        ike: &[
            IkeRow {
                encryption: &["aes128gcm16", "aes192gcm16", "aes256gcm16"],
                integrity: &[],
                prf: PRF,
                groups: DH,
            },
            IkeRow {
                encryption: &["aes128", "aes192", "aes256"],
                integrity: &["sha1", "sha256", "sha384", "sha512"],
                prf: PRF,
                groups: DH,
            },
        ],
        esp: &[
            // PFS is required.
            EspRow {
                encryption: &["aes128gcm16", "aes256gcm16", "aes192gcm16"],
                integrity: &[],
                groups: DH,
                groups_of_its_own: DH,
            },
            EspRow {
                encryption: &["aes128", "aes256", "aes192"],
                integrity: &["sha256", "sha512", "sha1"],
                groups: DH,
                groups_of_its_own: DH,
            },
        ],
        ike_lifetime: hours(10),
        // It can't be set.
        child_lifetime: (Duration::ZERO, hours(3)),
        child_octets: None,
        esn: true,
        children: 1,
        selectors: 1,
        outer_ipv6: true,
        dpd_most: Duration::from_secs(60),
        replay_window: 32,
        waits: false,
        psk: None,
        inside: None,
        fragments_lost: Some("Cloud VPN drops IKE messages that are larger than its gateway's MTU"),
        pair: None,
        same_in_pair: true,
    },
};

const PRF: &[&str] = &["prfsha1", "prfsha256", "prfsha384", "prfsha512"];
const DH: &[&str] = &[
    "modp2048",
    "modp2048s224",
    "modp2048s256",
    "modp1536",
    "modp3072",
    "modp4096",
    "modp8192",
    "modp1024",
    "modp1024s160",
    "ecp256",
    "ecp384",
    "ecp521",
    "x25519",
];
