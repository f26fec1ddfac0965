//! Every algorithm we know, against strongSwan in both roles: in the handshake, in a Child rekey with PFS and in an IKE
//! rekey, each begun by either end.

use super::lab::Lab;
use landbridge_proto::crypto::{Encryption, Group, Integrity, PrfAlgorithm};
use landbridge_proto::policy::proposal::{EspProposal, IkeProposal};

/// IKE and ESP proposals which together name everything; the last use what is only for old peers.
const COMBINATIONS: &[(&str, &str)] = &[
    ("aes128gcm16-prfsha256-x25519", "aes128gcm16-x25519"),
    ("aes192gcm16-prfsha384-ecp256", "aes192gcm16-ecp256"),
    ("aes256gcm16-prfsha512-ecp384", "aes256gcm16-ecp384"),
    ("chacha20poly1305-prfsha256-ecp521", "chacha20poly1305-ecp521"),
    ("aes128-sha256-modp2048", "aes128-sha256-modp2048"),
    ("aes192-sha384-modp3072", "aes192-sha384-modp3072"),
    ("aes256-sha512-modp4096", "aes256-sha512-modp4096"),
    ("aes256-sha256-modp6144", "null-sha256-modp6144"),
    ("aes256gcm16-prfsha384-modp8192", "aes256gcm16-modp8192"),
    ("aes128-sha1-modp1024", "aes128-sha1-modp1024"),
    ("aes256-sha1-modp1536", "null-sha1-modp1536"),
    ("aes256gcm16-prfsha1-modp2048s256", "aes256-sha1-modp2048s256"),
];

fn run(initiate: bool) {
    let test = if initiate {
        "algorithms as initiator"
    } else {
        "algorithms as responder"
    };
    let Some(mut lab) = Lab::namespace(test) else {
        return;
    };
    lab.each("algorithms", COMBINATIONS, initiate, |_, _| {});
    lab.finish();
}

#[test]
fn we_initiate() {
    run(true);
}

#[test]
fn we_respond() {
    run(false);
}

#[test]
fn nothing_is_left_out() {
    let ike: Vec<IkeProposal> = COMBINATIONS
        .iter()
        .map(|(ike, _)| IkeProposal::parse(ike).unwrap())
        .collect();
    let esp: Vec<EspProposal> = COMBINATIONS
        .iter()
        .map(|(_, esp)| EspProposal::parse(esp).unwrap())
        .collect();
    for algorithm in Encryption::ALL {
        // RFC 7296 §5: an IKE SA can't go without encryption.
        assert!(
            *algorithm == Encryption::Null || ike.iter().any(|p| p.encryption.contains(algorithm)),
            "IKE {algorithm}"
        );
        assert!(esp.iter().any(|p| p.encryption.contains(algorithm)), "ESP {algorithm}");
    }
    for algorithm in Integrity::ALL {
        assert!(ike.iter().any(|p| p.integrity.contains(algorithm)), "IKE {algorithm}");
        assert!(esp.iter().any(|p| p.integrity.contains(algorithm)), "ESP {algorithm}");
    }
    for algorithm in PrfAlgorithm::ALL {
        assert!(ike.iter().any(|p| p.prf.contains(algorithm)), "{algorithm}");
    }
    for group in Group::ALL {
        // No peer at hand has them: proto/tests/ike_intermediate.rs has them against ourselves.
        if matches!(group, Group::MlKem512 | Group::MlKem768 | Group::MlKem1024) {
            continue;
        }
        assert!(ike.iter().any(|p| p.groups.contains(group)), "IKE {group}");
        assert!(esp.iter().any(|p| p.groups.contains(group)), "ESP {group}");
    }
}
