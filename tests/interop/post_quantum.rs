//! Hybrid key exchanges with strongSwan 6: IKE_INTERMEDIATE (RFC 9242), additional key exchanges (RFC 9370) and ML-KEM,
//! in the handshake and in all rekeys (IKE_FOLLOWUP_KE), each begun by either end.

use super::lab::{Case, Lab, REKEYS, Step};

/// IKE and ESP proposals.
const COMBINATIONS: &[(&str, &str)] = &[
    (
        "aes256gcm16-prfsha384-x25519-ke1_mlkem768",
        "aes256gcm16-x25519-ke1_mlkem768",
    ),
    (
        "aes256gcm16-prfsha512-ecp384-ke1_mlkem1024",
        "aes256gcm16-ecp384-ke1_mlkem1024",
    ),
    ("aes128-sha256-x25519-ke1_mlkem512", "aes128gcm16-x25519-ke1_mlkem512"),
    (
        "aes256gcm16-prfsha384-x25519-ke1_ecp384-ke2_mlkem768-ke3_mlkem1024",
        "aes256gcm16-x25519-ke1_ecp384-ke2_mlkem768",
    ),
    ("aes256gcm16-prfsha384-mlkem768", "aes256gcm16-mlkem768"),
    // The Child SAs are rekeyed without a key exchange of their own.
    ("aes256gcm16-prfsha384-x25519-ke1_mlkem768", "aes256gcm16"),
];

fn run(initiate: bool) {
    let test = if initiate {
        "ML-KEM as initiator"
    } else {
        "ML-KEM as responder"
    };
    let Some(mut lab) = Lab::newer(test) else {
        return;
    };
    lab.each("hybrid key exchanges", COMBINATIONS, initiate, |lab, case| {
        says_so(lab, case.ike, case.esp)
    });
    // RFC 9242 §1: "The IKE_INTERMEDIATE exchange messages can be fragmented using the IKE fragmentation mechanism".
    let case = Case {
        what: "hybrid key exchanges in small fragments",
        ike: COMBINATIONS[1].0,
        esp: COMBINATIONS[1].1,
        initiate,
        steps: REKEYS,
        peer_more: &["FRAGMENT_SIZE=576"],
        ..Case::default()
    };
    lab.case(&case, |lab| says_so(lab, case.ike, case.esp));
    // AUTH covers IKE_INTERMEDIATE whatever it is made with.
    for kind in ["ecdsa", "ed25519"] {
        let case = Case {
            what: "hybrid key exchange, certificates",
            ike: COMBINATIONS[0].0,
            esp: COMBINATIONS[0].1,
            initiate,
            certificates: Some(kind),
            steps: &[Step::TheyRekeyIke, Step::WeDelete],
            ..Case::default()
        };
        lab.case(&case, |lab| says_so(lab, case.ike, "aes256gcm16"));
    }
    lab.finish();
}

/// Both ends name every key exchange, in the IKE SA of this moment and in the Child SA, which was rekeyed.
fn says_so(lab: &Lab, ike: &str, esp: &str) {
    let status = lab.ours().connection(&lab.world, "peer");
    let sa = &status["ike_sas"][0];
    assert_eq!(sa["post_quantum"], true, "{sa}");
    let (ours, child) = (sa["suite"].to_string(), sa["children"][0]["suite"].to_string());
    let theirs = lab.theirs.status();
    for (proposal, ours) in [(ike, ours), (esp, child)] {
        let exchanges = proposal
            .split('-')
            .filter(|word| word.contains("mlkem") || word.starts_with("ke"));
        for word in exchanges {
            assert!(ours.contains(word), "{word}: {ours}");
            let word = word.replace("mlkem", "ML_KEM_").replace("ecp", "ECP_").to_uppercase();
            assert!(theirs.contains(&word), "{word}:\n{theirs}");
        }
    }
}

#[test]
fn we_initiate() {
    run(true);
}

#[test]
fn we_respond() {
    run(false);
}
