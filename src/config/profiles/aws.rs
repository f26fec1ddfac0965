//! AWS Site-to-Site VPN.
//!
//! Sources: docs.aws.amazon.com, Site-to-Site VPN user guide, "Tunnel options", "Tunnel authentication options", "Best
//! practices for your customer gateway device", "IPv4 and IPv6 traffic", as of November 2026.

use super::{Accepts, EspRow, IkeRow, NO_PFS, Profile, PskRule, Values, hours};
use crate::config::Prefix;
use std::net::IpAddr;
use std::time::Duration;

/// One tunnel of a VPN connection; there are always two.
pub(super) static AWS: Profile = Profile {
    name: "aws",
    gateway: "AWS Site-to-Site VPN",
    settings: "the tunnel options (aws ec2 modify-vpn-tunnel-options)",
    weak: None,
    values: Values {
        proposals: &["aes256gcm16-prfsha512-ecp384"],
        esp_proposals: &["aes256gcm16-ecp384"],
        dpd_delay: Duration::from_secs(10),
        mtu_most: None,
        // No path MTU discovery there: what the internet carries is all that counts, also from a jumbo network.
        outer_mtu_most: Some(1500),
    },
    accepts: Accepts {
        ike: &[
            IkeRow {
                encryption: &["aes256gcm16", "aes128gcm16"],
                integrity: &[],
                prf: PRF,
                groups: PHASE1,
            },
            IkeRow {
                encryption: &["aes256", "aes128"],
                integrity: INTEGRITY,
                prf: PRF,
                groups: PHASE1,
            },
        ],
        esp: &[
            EspRow {
                encryption: &["aes256gcm16", "aes128gcm16"],
                integrity: &[],
                groups: PHASE2,
                groups_of_its_own: PHASE2,
            },
            EspRow {
                encryption: &["aes256", "aes128"],
                integrity: INTEGRITY,
                groups: PHASE2,
                groups_of_its_own: PHASE2,
            },
        ],
        ike_lifetime: hours(8),
        child_lifetime: (Duration::from_secs(900), hours(1)),
        child_octets: None,
        esn: true,
        // "One unique security association pair per tunnel."
        children: 1,
        selectors: 1,
        outer_ipv6: true,
        // DPD timeout: 30 seconds at least; it asks every 10 seconds itself.
        dpd_most: Duration::from_secs(30),
        replay_window: 1024,
        // Startup action "Add": the customer gateway begins.
        waits: true,
        psk: Some(PskRule {
            length: (8, 64),
            charset: ("letters, digits, . and _", |octet| {
                octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'_')
            }),
            not_first: Some(b'0'),
        }),
        inside: Some(inside),
        fragments_lost: None,
        pair: Some(
            "AWS replaces the endpoints of its two tunnels one at a time; with one of them only, the network is gone meanwhile",
        ),
        same_in_pair: false,
    },
};

const INTEGRITY: &[&str] = &["sha1", "sha256", "sha384", "sha512"];
const PRF: &[&str] = &["prfsha1", "prfsha256", "prfsha384", "prfsha512"];
/// Phase 1: 2, 14 to 24.
const PHASE1: &[&str] = &[
    "modp1024",
    "modp2048",
    "modp3072",
    "modp4096",
    "modp6144",
    "modp8192",
    "ecp256",
    "ecp384",
    "ecp521",
    "modp1024s160",
    "modp2048s224",
    "modp2048s256",
];
/// Phase 2: 2, 5, 14 to 24, and none.
const PHASE2: &[&str] = &[
    "modp1024",
    "modp1536",
    "modp2048",
    "modp3072",
    "modp4096",
    "modp6144",
    "modp8192",
    "ecp256",
    "ecp384",
    "ecp521",
    "modp1024s160",
    "modp2048s224",
    "modp2048s256",
    NO_PFS,
];

/// Third octets of 169.254.x.0/30 that AWS keeps for itself; 169.254.169.252/30 besides.
const RESERVED: u8 = 5;

/// A size /30 block of 169.254.0.0/16, or a size /126 block of fd00::/8.
fn inside(prefix: Prefix) -> Result<(), String> {
    let Prefix { address, length } = prefix;
    match address {
        IpAddr::V4(address) if address.is_link_local() => {
            let octets = address.octets();
            let host = octets[3] & 3;
            if length != 30 {
                Err(format!(
                    "{address}/{length} is not a /30: AWS has one of 169.254.0.0/16 for each tunnel; write {address}/30"
                ))
            } else if (octets[2] <= RESERVED && octets[3] < 4) || (octets[2] == 169 && octets[3] >= 252) {
                Err(format!(
                    "{address}/30 is reserved: AWS keeps 169.254.0.0/30 to 169.254.5.0/30 and 169.254.169.252/30 for itself; \
                     choose another inside tunnel CIDR at both ends"
                ))
            } else if host != 2 {
                Err(format!(
                    "{address}/30 is not our address: of an inside /30 AWS has the first host and we have the second; \
                     write 169.254.{}.{}/30",
                    octets[2],
                    (octets[3] & !3) + 2
                ))
            } else {
                Ok(())
            }
        }
        IpAddr::V4(address) if address.is_private() => Ok(()),
        IpAddr::V4(address) => Err(format!(
            "{address} is no inside address of AWS: those are a /30 of 169.254.0.0/16"
        )),
        IpAddr::V6(address) if address.octets()[0] != 0xfd || length != 126 => Err(format!(
            "{address}/{length} is no inside address of AWS: those are a /126 of fd00::/8"
        )),
        IpAddr::V6(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inside_addresses() {
        let judge = |text: &str| {
            let (address, length) = text.split_once('/').unwrap();
            inside(Prefix {
                address: address.parse().unwrap(),
                length: length.parse().unwrap(),
            })
        };
        for right in [
            "169.254.11.2/30",
            "169.254.5.6/30",
            "169.254.169.250/30",
            "fd00::2/126",
            "10.0.0.1/32",
        ] {
            assert_eq!(judge(right), Ok(()), "{right}");
        }
        for (wrong, part) in [
            ("169.254.5.2/30", "reserved"),
            ("169.254.169.254/30", "reserved"),
            ("169.254.11.1/30", "write 169.254.11.2/30"),
            ("169.254.11.2/24", "not a /30"),
            ("203.0.113.1/30", "169.254.0.0/16"),
            ("fe80::1/64", "fd00::/8"),
        ] {
            assert!(judge(wrong).unwrap_err().contains(part), "{wrong}");
        }
    }
}
