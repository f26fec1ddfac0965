//! Azure VPN Gateway and Virtual WAN.
//!
//! Sources: learn.microsoft.com, "About VPN devices" (default parameters), "About cryptographic requirements" (custom
//! policies), "Virtual WAN IPsec policies", "VPN Gateway FAQ", "BGP with APIPA addresses", as of November 2026.

use super::{Accepts, EspRow, IkeRow, NO_PFS, Profile, Values, hours};
use crate::config::Prefix;
use std::net::IpAddr;
use std::time::Duration;

/// A connection with a custom IPsec policy: exactly one combination, used in both roles.
pub(super) static AZURE: Profile = Profile {
    name: "azure",
    gateway: "Azure VPN Gateway with a custom policy",
    settings: "the connection's IPsec policy (az network vpn-connection ipsec-policy add)",
    weak: None,
    values: VALUES,
    accepts: CUSTOM,
};

/// A connection without one. Its only group for IKE is the 1024-bit one.
pub(super) static AZURE_DEFAULT: Profile = Profile {
    name: "azure-default",
    gateway: "Azure VPN Gateway with its default policy",
    settings: "the connection: give it an IPsec policy (az network vpn-connection ipsec-policy add) and use profile \"azure\"",
    weak: Some(
        "a 1024-bit group for the keys of everything, and rekeys without a key exchange of their own; give the connection at Azure an IPsec policy (az network vpn-connection ipsec-policy add) and write profile = \"azure\" here",
    ),
    values: Values {
        proposals: &["aes256-sha256-modp1024"],
        esp_proposals: &["aes256gcm16"],
        ..VALUES
    },
    accepts: Accepts {
        ike: &[IkeRow {
            encryption: &["aes256", "aes128"],
            integrity: &["sha1", "sha256"],
            prf: &["prfsha1", "prfsha256"],
            groups: &["modp1024"],
        }],
        esp: DEFAULT_ESP,
        ..CUSTOM
    },
};

/// A site of Virtual WAN with a custom policy.
pub(super) static AZURE_VWAN: Profile = Profile {
    name: "azure-vwan",
    gateway: "Azure Virtual WAN with a custom policy",
    settings: "the link connection's custom IPsec policy (az network vpn-gateway connection ipsec-policy add)",
    weak: None,
    values: VALUES,
    accepts: Accepts {
        child_lifetime: (Duration::from_secs(300), hours(1)),
        ..CUSTOM
    },
};

const VALUES: Values = Values {
    proposals: &["aes256gcm16-prfsha384-ecp384"],
    esp_proposals: &["aes256gcm16-ecp384"],
    dpd_delay: Duration::from_secs(30),
    // "Clamp TCP MSS at 1350", or a tunnel MTU of 1400.
    mtu_most: Some(1400),
    outer_mtu_most: None,
};

/// `PFS24` to `PFS1`, and none.
const CUSTOM_PFS: &[&str] = &[
    "modp2048s256",
    "ecp384",
    "ecp256",
    "modp2048",
    "modp1024",
    "modp768",
    NO_PFS,
];
const CUSTOM_DH: &[&str] = &["modp2048s256", "ecp384", "ecp256", "modp2048", "modp1024", "modp768"];

const CUSTOM: Accepts = Accepts {
    ike: &[
        // "IKE integrity" is taken for the PRF when the cipher is GCM.
        IkeRow {
            encryption: &["aes256gcm16", "aes128gcm16"],
            integrity: &[],
            prf: &["prfsha384", "prfsha256", "prfsha1"],
            groups: CUSTOM_DH,
        },
        IkeRow {
            encryption: &["aes256", "aes192", "aes128"],
            integrity: &["sha384", "sha256", "sha1"],
            prf: &["prfsha384", "prfsha256", "prfsha1"],
            groups: CUSTOM_DH,
        },
    ],
    esp: &[
        EspRow {
            encryption: &["aes256gcm16", "aes192gcm16", "aes128gcm16"],
            integrity: &[],
            groups: CUSTOM_PFS,
            groups_of_its_own: CUSTOM_PFS,
        },
        EspRow {
            encryption: &["aes256", "aes192", "aes128"],
            integrity: &["sha256", "sha1"],
            groups: CUSTOM_PFS,
            groups_of_its_own: CUSTOM_PFS,
        },
    ],
    // "IKE phase 1 lifetime: 28,800 seconds", fixed also with a custom policy.
    ike_lifetime: hours(8),
    child_lifetime: (Duration::from_secs(300), Duration::from_secs(27_000)),
    // 102,400,000 KB.
    child_octets: Some(102_400_000_000),
    esn: false,
    children: 100,
    selectors: 100,
    outer_ipv6: false,
    // "DPD timeout: 45 seconds", 30 to 45 recommended.
    dpd_most: Duration::from_secs(45),
    replay_window: 32,
    waits: false,
    psk: None,
    inside: Some(inside),
    fragments_lost: Some("Azure drops IP fragments that come out of order"),
    pair: None,
    same_in_pair: false,
};

/// What the default policy has as responder; as initiator it has the same without a group.
const DEFAULT_ESP: &[EspRow] = &[
    EspRow {
        encryption: &["aes256gcm16"],
        integrity: &[],
        groups: &[NO_PFS],
        groups_of_its_own: &[NO_PFS],
    },
    EspRow {
        encryption: &["aes256"],
        integrity: &["sha1", "sha256"],
        groups: &[NO_PFS, "modp768", "modp1024", "modp2048", "modp2048s256"],
        groups_of_its_own: &[NO_PFS],
    },
    EspRow {
        encryption: &["aes128"],
        integrity: &["sha1"],
        groups: &[NO_PFS, "modp768", "modp1024", "modp2048"],
        groups_of_its_own: &[NO_PFS],
    },
    EspRow {
        encryption: &["aes128"],
        integrity: &["sha256"],
        groups: &[NO_PFS, "modp768", "modp1024", "modp2048"],
        // It offers no AES-128 with SHA-256 itself.
        groups_of_its_own: &[],
    },
];

/// The addresses that BGP over Azure takes from 169.254.0.0/16.
fn inside(prefix: Prefix) -> Result<(), String> {
    let IpAddr::V4(address) = prefix.address else {
        return Ok(());
    };
    let octets = address.octets();
    if !address.is_link_local() || matches!(octets[2], 21 | 22) {
        return Ok(());
    }
    Err(format!(
        "{address} is not between 169.254.21.0 and 169.254.22.255: Azure takes no other link-local address for BGP; choose \
         one there, and enter it as the local network gateway's BGP peer address"
    ))
}
