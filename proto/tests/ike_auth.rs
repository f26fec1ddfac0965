//! Authentication by signatures between two endpoints: every kind of raw key, keys that sign elsewhere and slowly, which
//! hash goes with which key (RFC 7427), and the methods from before it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;
mod keys;

use ike_pump::{Pump, child, side_a, side_b};
use keys::{key, sign_rsa};
use landbridge_proto::crypto::{Hash, IKE_PROVIDER, Scheme, Secret, SigningKey};
use landbridge_proto::ike::auth::{Auth, AuthError, SignedOctets, Wishes, prove, verify};
use landbridge_proto::ike::keys::{Binding, IkeKeys};
use landbridge_proto::ike::{Event, SignRequest, TimerKind};
use landbridge_proto::policy::connection::{Connection, LocalCredential, RemoteAuth, RemoteCredential, StartAction};
use landbridge_proto::policy::proposal::IkeProposal;
use landbridge_proto::wire::{AuthMethod, Authentication, ExchangeType, HashAlgorithm, Identification, IkeSpi};
use std::sync::Arc;
use std::time::Duration;

const KINDS: [&str; 6] = ["ed25519", "p256", "p384", "p521", "rsa2048", "rsa3072"];

fn ends(ours: &Arc<SigningKey>, theirs: &Arc<SigningKey>) -> (Connection, Connection) {
    let (mut a, mut b) = (side_a(), side_b());
    a.local.credential = LocalCredential::RawKey(Arc::clone(ours));
    b.remote.credential = RemoteCredential::RawKeys(vec![ours.verifying_key()]);
    b.local.credential = LocalCredential::RawKey(Arc::clone(theirs));
    a.remote.credential = RemoteCredential::RawKeys(vec![theirs.verifying_key()]);
    (a, b)
}

/// Signatures asked for at an end and not yet taken.
fn asked(pump: &mut Pump, who: usize) -> Vec<SignRequest> {
    let events = std::mem::take(&mut pump.events[who]);
    let (asked, rest): (Vec<Event>, Vec<Event>) = events.into_iter().partition(|event| matches!(event, Event::Sign(_)));
    pump.events[who] = rest;
    let request = |event| match event {
        Event::Sign(request) => Some(request),
        _ => None,
    };
    asked.into_iter().filter_map(request).collect()
}

fn answer(pump: &mut Pump, who: usize, request: &SignRequest, signature: Result<Vec<u8>, String>) {
    let now = pump.at();
    pump.ends[who].handle_signature(now, request.ticket, signature);
    pump.drain();
}

/// Makes the signatures that are asked for, at both ends, until all is quiet.
fn run(pump: &mut Pump) {
    loop {
        pump.deliver_all();
        let requests: Vec<(usize, SignRequest)> = (0..2)
            .flat_map(|who| asked(pump, who).into_iter().map(move |request| (who, request)))
            .collect();
        if requests.is_empty() {
            return;
        }
        for (who, request) in requests {
            let name = request.key.elsewhere().unwrap().to_string();
            let signature = sign_rsa(&name, request.scheme, &request.octets);
            answer(pump, who, &request, Ok(signature));
        }
    }
}

#[test]
fn every_kind_of_raw_key_authenticates_both_ends() {
    for ours in KINDS {
        for theirs in ["ed25519", "p384", "rsa2048"] {
            let (a, b) = ends(&key(ours), &key(theirs));
            let mut pump = Pump::new(a, b);
            pump.connect();
            run(&mut pump);
            assert!(
                pump.is_up(0) && pump.is_up(1),
                "{ours} with {theirs}: {:?}",
                pump.failures(0)
            );
            pump.assert_joined();
        }
    }
}

/// Two keys of the peer are known while it changes from one to the other.
#[test]
fn either_of_two_keys_is_taken_during_a_rotation() {
    let [old, new, other] = ["p256", "ed25519", "p384"].map(key);
    for (shown, up) in [(&old, true), (&new, true), (&other, false)] {
        let (mut a, mut b) = ends(&old, &key("p521"));
        a.local.credential = LocalCredential::RawKey(Arc::clone(shown));
        b.remote.credential = RemoteCredential::RawKeys(vec![old.verifying_key(), new.verifying_key()]);
        let mut pump = Pump::new(a, b);
        pump.connect();
        run(&mut pump);
        assert_eq!(pump.is_up(0) && pump.is_up(1), up);
        if !up {
            assert!(
                pump.failures(1)[0].verdict.contains("is not configured for it"),
                "{:?}",
                pump.failures(1)
            );
        }
    }
}

/// CVE-2020-16088: a wrong key of the right kind.
#[test]
fn a_wrong_key_of_the_same_kind_does_not_authenticate() {
    for (right, wrong) in [("rsa2048", "rsa3072"), ("p256", "p384"), ("ed25519", "p521")] {
        let (mut a, b) = ends(&key(right), &key("p256"));
        a.local.credential = LocalCredential::RawKey(key(wrong));
        let mut pump = Pump::new(a, b);
        pump.connect();
        run(&mut pump);
        assert!(!pump.is_up(0) && !pump.is_up(1));
        assert!(
            pump.lines(0)
                .contains(&"IKE_AUTH response 1 [N(AUTHENTICATION_FAILED)]")
        );
    }
}

/// RFC 7296 §2.15 knows methods that don't fit what is configured: none stands in for another.
#[test]
fn a_pre_shared_key_is_no_signature_and_a_signature_is_no_pre_shared_key() {
    for swap in [true, false] {
        let (mut a, mut b) = ends(&key("ed25519"), &key("p256"));
        if swap {
            a.local.credential = LocalCredential::Psk(Secret::new(key("ed25519").verifying_key().to_spki_der()));
        } else {
            b.remote.credential =
                RemoteCredential::Psk(vec![Secret::new(key("ed25519").verifying_key().to_spki_der())]);
        }
        let mut pump = Pump::new(a, b);
        pump.connect();
        run(&mut pump);
        assert!(!pump.is_up(0) && !pump.is_up(1));
        assert!(
            pump.failures(1)[0].verdict.contains("authenticates with"),
            "{:?}",
            pump.failures(1)
        );
    }
}

/// A slow key: the initiator waits before its request, the responder before its answer; the message comes once.
#[test]
fn both_ends_wait_for_a_slow_key() {
    let (a, b) = ends(&key("rsa2048"), &key("rsa3072"));
    let mut pump = Pump::new(a, b);
    pump.connect();
    pump.deliver_all();
    let ours = asked(&mut pump, 0).remove(0);
    assert!(
        !pump.saw(0, "IKE_AUTH request"),
        "nothing leaves before the signature is there"
    );
    // Time passes, and IKE_SA_INIT is answered: no retransmission, no second request for a signature.
    pump.run_for(Duration::from_secs(10), |_| true);
    assert!(asked(&mut pump, 0).is_empty() && pump.wire.is_empty());
    answer(&mut pump, 0, &ours, Ok(sign_rsa("rsa2048", ours.scheme, &ours.octets)));
    let request = pump.deliver(0);
    assert_eq!(request.exchange(), ExchangeType::IKE_AUTH);
    let theirs = asked(&mut pump, 1).remove(0);
    // The initiator repeats its request meanwhile: swallowed.
    let before = pump.ends[1].counters().replayed;
    for _ in 0..3 {
        pump.hand(&request);
    }
    assert_eq!(pump.ends[1].counters().replayed, before + 3);
    assert!(asked(&mut pump, 1).is_empty() && pump.wire.is_empty());
    answer(
        &mut pump,
        1,
        &theirs,
        Ok(sign_rsa("rsa3072", theirs.scheme, &theirs.octets)),
    );
    assert_eq!(pump.wire.len(), 1);
    // §2.1: a repeated request now gets the same answer.
    let answered = pump.wire[0].octets.clone();
    pump.hand(&request);
    assert_eq!(pump.wire[1].octets, answered);
    pump.deliver_all();
    pump.assert_joined();
    // A signature twice, or late, changes nothing.
    answer(&mut pump, 0, &ours, Err("late".to_owned()));
    answer(&mut pump, 1, &theirs, Ok(vec![]));
    pump.assert_joined();
    assert!(pump.failures(0).is_empty() && pump.failures(1).is_empty());
}

/// An artificially slow token of one connection: the other connection of the same gateway comes up and works meanwhile.
#[test]
fn a_slow_key_keeps_no_other_sa_waiting() {
    let (a, b) = ends(&key("ed25519"), &key("rsa2048"));
    let mut pump = Pump::new(a, b);
    pump.connect();
    pump.deliver_all();
    let slow = asked(&mut pump, 1).remove(0);
    // The same peer begins again, as after a restart; its first attempt still waits for the token of the other end.
    pump.restart(0, 77);
    pump.connect();
    pump.deliver_all();
    let second = asked(&mut pump, 1).remove(0);
    assert_ne!(slow.ticket, second.ticket);
    answer(
        &mut pump,
        1,
        &second,
        Ok(sign_rsa("rsa2048", second.scheme, &second.octets)),
    );
    pump.deliver_all();
    assert!(pump.is_up(0) && pump.is_up(1));
    pump.rekey_child(0);
    pump.deliver_all();
    pump.assert_joined();
    // The first is answered at last: its initiator is gone, and nothing suffers.
    answer(&mut pump, 1, &slow, Ok(sign_rsa("rsa2048", slow.scheme, &slow.octets)));
    pump.deliver_all();
    assert!(pump.is_up(0));
}

#[test]
fn a_key_that_never_signs_is_given_up_and_the_log_says_so() {
    // As initiator.
    let (a, b) = ends(&key("rsa2048"), &key("ed25519"));
    let mut pump = Pump::new(a, b);
    pump.reconnect = false;
    pump.connect();
    pump.deliver_all();
    assert_eq!(
        pump.ends[0].poll_timeout().map(|(_, kind)| kind),
        Some(TimerKind::Signature)
    );
    pump.run_for(Duration::from_secs(60), |_| true);
    assert!(
        pump.failures(0)[0].verdict.contains("our key rsa2048 did not sign"),
        "{:?}",
        pump.failures(0)
    );
    assert!(
        pump.status(0).is_empty() && pump.status(1).is_empty(),
        "nothing is left behind"
    );
    // As responder: the peer hears AUTHENTICATION_FAILED, and no more.
    let (a, b) = ends(&key("ed25519"), &key("rsa2048"));
    let mut pump = Pump::new(a, b);
    pump.reconnect = false;
    pump.connect();
    pump.run_for(Duration::from_secs(120), |_| true);
    assert!(
        pump.failures(1)[0].verdict.contains("our key rsa2048 did not sign"),
        "{:?}",
        pump.failures(1)
    );
    assert!(pump.status(1).is_empty() && pump.ends[1].spis_in_use() == 0);
}

#[test]
fn a_token_that_fails_or_signs_wrongly_is_told_to_us_and_not_to_the_peer() {
    for (signature, told) in [
        (Err("the PIN is locked".to_owned()), "the PIN is locked"),
        (Ok(vec![7; 256]), "is no RSASSA-PSS with SHA2-256 signature"),
        (Ok(vec![]), "is no RSASSA-PSS with SHA2-256 signature"),
    ] {
        let (a, b) = ends(&key("ed25519"), &key("rsa2048"));
        let mut pump = Pump::new(a, b);
        pump.reconnect = false;
        pump.connect();
        pump.deliver_all();
        let request = asked(&mut pump, 1).remove(0);
        answer(&mut pump, 1, &request, signature);
        assert!(pump.failures(1)[0].verdict.contains(told), "{:?}", pump.failures(1));
        pump.deliver_all();
        assert!(
            pump.lines(0)
                .contains(&"IKE_AUTH response 1 [N(AUTHENTICATION_FAILED)]")
        );
        assert!(!pump.is_up(0) && !pump.is_up(1));
    }
}

/// A restart of the connection, or the end of the gateway, while a token is at work.
#[test]
fn an_sa_that_ends_forgets_its_signature() {
    let (a, b) = ends(&key("rsa2048"), &key("ed25519"));
    let mut pump = Pump::new(a, b);
    pump.connect();
    pump.deliver_all();
    let request = asked(&mut pump, 0).remove(0);
    pump.down(0, None);
    answer(
        &mut pump,
        0,
        &request,
        Ok(sign_rsa("rsa2048", request.scheme, &request.octets)),
    );
    pump.deliver_all();
    assert!(!pump.is_up(0) && !pump.saw(0, "IKE_AUTH request"));
}

/// More children than one, by name, still come up when the request had to wait.
#[test]
fn the_request_that_waited_is_the_one_that_is_wanted_now() {
    let (mut a, mut b) = ends(&key("rsa2048"), &key("ed25519"));
    let more = |local, remote, action| child("more", local, remote, "aes256gcm16-x25519", action);
    a.children
        .insert("more".into(), more("10.3.0.0/16", "10.4.0.0/16", StartAction::Start));
    b.children
        .insert("more".into(), more("10.4.0.0/16", "10.3.0.0/16", StartAction::None));
    let mut pump = Pump::new(a, b);
    pump.connect();
    pump.deliver_all();
    let request = asked(&mut pump, 0).remove(0);
    pump.down(0, Some("more"));
    answer(
        &mut pump,
        0,
        &request,
        Ok(sign_rsa("rsa2048", request.scheme, &request.octets)),
    );
    pump.deliver_all();
    assert_eq!(pump.sa(0).children.len(), 1);
    pump.assert_joined();
}

// The AUTH payload by itself: what a peer of any kind may announce, and what it may send.

struct Parts {
    keys: IkeKeys,
    id: Identification,
}

impl Parts {
    fn new() -> Self {
        let proposal = IkeProposal::parse("aes256gcm16-prfsha256-x25519").unwrap();
        let offer = IkeProposal::to_wire(std::slice::from_ref(&proposal), &[]);
        let suite = IkeProposal::choose(&[proposal], &offer, 0, None).unwrap().suite;
        let binding = Binding {
            ni: &[1; 32],
            nr: &[2; 32],
            spi_i: IkeSpi([3; 8]),
            spi_r: IkeSpi([4; 8]),
        };
        let keys = IkeKeys::derive(&IKE_PROVIDER, suite, &Secret::new(vec![5; 32]), &binding).unwrap();
        let id = Identification::parse("a.example").unwrap();
        Self { keys, id }
    }

    fn octets(&self) -> SignedOctets<'_> {
        SignedOctets {
            message: b"IKE_SA_INIT",
            peer_nonce: &[2; 32],
            id: &self.id,
            initiator: true,
            intermediate: &[],
        }
    }

    fn prove(&self, key: &Arc<SigningKey>, hashes: Option<&[HashAlgorithm]>) -> Result<Authentication, AuthError> {
        let credential = LocalCredential::RawKey(Arc::clone(key));
        let wishes = Wishes {
            hashes,
            ..Wishes::default()
        };
        match prove(&IKE_PROVIDER, &self.keys, &credential, &self.octets(), &wishes)?.auth {
            Auth::Ready(auth) => Ok(auth),
            Auth::ToSign(unsigned) => {
                let signature = sign_rsa(key.elsewhere().unwrap(), unsigned.scheme, &unsigned.octets);
                unsigned.complete(Ok(signature))
            }
        }
    }

    fn verify(&self, key: &Arc<SigningKey>, auth: &Authentication) -> Result<(), AuthError> {
        let remote = RemoteAuth {
            id: None,
            credential: RemoteCredential::RawKeys(vec![key.verifying_key()]),
        };
        verify(&IKE_PROVIDER, &self.keys, &remote, &self.octets(), auth, &[], 0).map(drop)
    }
}

/// RFC 7427 §4: "When calculating the digital signature, a peer MUST pick one algorithm sent by the other peer."
#[test]
fn the_hash_is_one_that_the_peer_announced() {
    const SHA1: HashAlgorithm = HashAlgorithm::SHA1;
    const SHA256: HashAlgorithm = HashAlgorithm::SHA2_256;
    const SHA384: HashAlgorithm = HashAlgorithm::SHA2_384;
    const SHA512: HashAlgorithm = HashAlgorithm::SHA2_512;
    const IDENTITY: HashAlgorithm = HashAlgorithm::IDENTITY;
    let parts = Parts::new();
    let cases: [(&str, &[HashAlgorithm], Option<Scheme>); 13] = [
        ("ed25519", &[SHA256, IDENTITY], Some(Scheme::Ed25519)),
        ("ed25519", &[SHA1, SHA256, SHA384, SHA512], None),
        ("p256", &[SHA1, SHA512, SHA256], Some(Scheme::Ecdsa(Hash::Sha256))),
        ("p256", &[SHA512], Some(Scheme::Ecdsa(Hash::Sha512))),
        ("p256", &[IDENTITY, SHA1], None),
        ("p384", &[SHA256, SHA384], Some(Scheme::Ecdsa(Hash::Sha384))),
        ("p384", &[SHA256], Some(Scheme::Ecdsa(Hash::Sha256))),
        ("p521", &[SHA512, SHA256], Some(Scheme::Ecdsa(Hash::Sha512))),
        ("p521", &[SHA256], None),
        ("rsa2048", &[SHA256, SHA512], Some(Scheme::RsaPss(Hash::Sha256))),
        ("rsa3072", &[SHA384], Some(Scheme::RsaPss(Hash::Sha384))),
        ("rsa2048", &[SHA1], None),
        ("rsa2048", &[HashAlgorithm(77)], None),
    ];
    for (name, announced, expected) in cases {
        let proof = parts.prove(&key(name), Some(announced));
        match expected {
            Some(scheme) => {
                let auth = proof.unwrap();
                assert_eq!(auth.method, AuthMethod::DIGITAL_SIGNATURE);
                // RFC 7427 §3: one octet of length, then the AlgorithmIdentifier.
                let identifier = scheme.identifier();
                assert_eq!(usize::from(auth.data[0]), identifier.len(), "{name}");
                assert_eq!(auth.data[1..=identifier.len()], identifier, "{name}");
                assert_eq!(parts.verify(&key(name), &auth), Ok(()), "{name} with {scheme}");
            }
            None => assert!(
                matches!(proof, Err(AuthError::HashNotAccepted { .. })),
                "{name}: {proof:?}"
            ),
        }
    }
}

/// Checklist G9: a peer that sends no SIGNATURE_HASH_ALGORITHMS gets method 1 or 9 to 11; Ed25519 has none of them.
#[test]
fn without_the_notify_the_old_methods_are_used() {
    let parts = Parts::new();
    for (name, method, octets) in [
        ("rsa2048", AuthMethod::RSA_SIGNATURE, 256),
        ("p256", AuthMethod::ECDSA_P256_SHA256, 64),
        ("p384", AuthMethod::ECDSA_P384_SHA384, 96),
        ("p521", AuthMethod::ECDSA_P521_SHA512, 132),
    ] {
        let auth = parts.prove(&key(name), None).unwrap();
        // RFC 4754 §7: the two numbers have the length of the curve's, with zeros in front.
        assert_eq!((auth.method, auth.data.len()), (method, octets), "{name}");
        assert_eq!(parts.verify(&key(name), &auth), Ok(()), "{name}");
        for other in [
            AuthMethod::RSA_SIGNATURE,
            AuthMethod::ECDSA_P256_SHA256,
            AuthMethod::ECDSA_P384_SHA384,
            AuthMethod::ECDSA_P521_SHA512,
            AuthMethod::DIGITAL_SIGNATURE,
            AuthMethod::SHARED_KEY_MIC,
            AuthMethod::NULL,
            AuthMethod(255),
        ] {
            let as_other = Authentication {
                method: other,
                data: auth.data.clone(),
            };
            assert_eq!(
                parts.verify(&key(name), &as_other).is_ok(),
                other == method,
                "{name} as {other}"
            );
        }
        for broken in [&auth.data[1..], &auth.data[..octets - 1], &[0; 300], &[]] {
            let broken = Authentication {
                method,
                data: broken.to_vec(),
            };
            assert!(parts.verify(&key(name), &broken).is_err());
        }
    }
    let error = parts.prove(&key("ed25519"), None).unwrap_err();
    assert!(
        error.to_string().contains("sends no SIGNATURE_HASH_ALGORITHMS"),
        "{error}"
    );
}

/// RSASSA-PKCS1-v1_5 stays for those who need it (RFC 8247 §3.2: "MAY be supported").
#[test]
fn a_key_signs_only_with_its_schemes() {
    let parts = Parts::new();
    let public = key("rsa2048").verifying_key();
    let pkcs1 = SigningKey::kept_elsewhere(public, "rsa2048".into()).with_schemes(&[
        Scheme::RsaPkcs1(Hash::Sha512),
        Scheme::RsaPkcs1(Hash::Sha256),
        Scheme::Ed25519,
    ]);
    assert_eq!(pkcs1.schemes().len(), 2);
    let pkcs1 = Arc::new(pkcs1);
    let auth = parts
        .prove(&pkcs1, Some(&[HashAlgorithm::SHA2_256, HashAlgorithm::SHA2_512]))
        .unwrap();
    assert_eq!(auth.data[1..16], Scheme::RsaPkcs1(Hash::Sha512).identifier());
    assert_eq!(parts.verify(&key("rsa2048"), &auth), Ok(()));
}

/// Every prefix and every flipped octet of an AUTH payload is refused, none panics.
#[test]
fn broken_auth_data_is_refused() {
    let parts = Parts::new();
    for name in ["ed25519", "p384", "rsa2048"] {
        let auth = parts
            .prove(
                &key(name),
                Some(&[
                    HashAlgorithm::SHA2_256,
                    HashAlgorithm::SHA2_384,
                    HashAlgorithm::IDENTITY,
                ]),
            )
            .unwrap();
        let refused = |data: Vec<u8>| {
            let method = AuthMethod::DIGITAL_SIGNATURE;
            assert!(parts.verify(&key(name), &Authentication { method, data }).is_err());
        };
        for cut in 0..auth.data.len() {
            refused(auth.data[..cut].to_vec());
        }
        for at in 0..auth.data.len() {
            let mut data = auth.data.clone();
            data[at] ^= 0x40;
            refused(data);
        }
        refused([auth.data.as_slice(), &[0]].concat());
    }
}
