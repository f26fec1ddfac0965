//! Nobody gets in by a wrong proof, whatever is wrong with it, in either role; and all wrong proofs look the same from
//! outside.

use crate::ike_pump::{side_a, side_b};
use crate::peer::messages::*;
use crate::peer::{PSK, Tester};
use landbridge_proto::crypto::{IKE_PROVIDER, Scheme, SigningKey};
use landbridge_proto::ike::Event;
use landbridge_proto::policy::connection::{Connection, LocalCredential, RemoteCredential};
use landbridge_proto::wire::{
    AuthMethod, Authentication, ExchangeType, HashAlgorithm, IdType, Identification, NotifyType, Payload, PayloadType,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::sync::Arc;

/// A change to the payloads of an IKE_AUTH message.
type Wrong = fn(&mut Tester, &mut Vec<Payload>);

fn replace(payloads: &mut [Payload], with: Payload) {
    let same = |payload: &Payload| std::mem::discriminant(payload) == std::mem::discriminant(&with);
    let at = payloads.iter().position(same);
    payloads[at.unwrap()] = with;
}

fn method(payloads: &mut [Payload], method: AuthMethod) {
    for payload in payloads {
        if let Payload::Auth(auth) = payload {
            auth.method = method;
        }
    }
}

fn own_id(t: &Tester) -> Payload {
    id(t.sa.initiator, if t.sa.initiator { "a.example" } else { "b.example" })
}

/// What is wrong with the proof.
const WRONG: &[(&str, Wrong)] = &[
    ("another secret", |t, p| {
        let auth = t.auth(b"another secret", &own_id(t));
        replace(p, auth);
    }),
    ("an empty secret", |t, p| {
        let auth = t.auth(b"", &own_id(t));
        replace(p, auth);
    }),
    // (One with zeroes behind it is the same key to an HMAC.)
    ("the secret with a line end", |t, p| {
        let auth = t.auth(b"a secret of both\n", &own_id(t));
        replace(p, auth);
    }),
    ("no AUTH data", |_, p| replace(p, psk_auth(&[]))),
    ("zeroes", |_, p| replace(p, psk_auth(&[0; 32]))),
    ("one bit", |t, p| {
        let Payload::Auth(Authentication { mut data, .. }) = t.auth(PSK, &own_id(t)) else {
            unreachable!()
        };
        data[31] ^= 1;
        replace(p, psk_auth(&data));
    }),
    ("a prefix of the MIC", |t, p| {
        let Payload::Auth(Authentication { data, .. }) = t.auth(PSK, &own_id(t)) else {
            unreachable!()
        };
        replace(p, psk_auth(&data[..16]));
    }),
    ("the MIC and more", |t, p| {
        let Payload::Auth(Authentication { mut data, .. }) = t.auth(PSK, &own_id(t)) else {
            unreachable!()
        };
        data.push(0);
        replace(p, psk_auth(&data));
    }),
    ("the MIC of the other direction", |t, p| {
        // What the peer itself will send, were it to sign our words.
        let prf = (IKE_PROVIDER.prf)(t.sa.suite.prf).unwrap();
        let keys = t.sa.keys.as_ref().unwrap();
        let (key, message, nonce) = if t.sa.initiator {
            (&keys.pr, &t.sa.response, &t.sa.ni)
        } else {
            (&keys.pi, &t.sa.request, &t.sa.nr)
        };
        let maced = prf.prf(key.expose(), &[&id_body(&own_id(t))]);
        let pad = prf.prf(PSK, &[b"Key Pad for IKEv2"]);
        let mic = prf.prf(pad.expose(), &[message, nonce, maced.expose()]);
        replace(p, psk_auth(mic.expose()));
    }),
    ("a proof about another first message", |t, p| {
        // As after a downgrade on the way: T has seen another offer than the DUT.
        let (request, response) = (t.sa.request.clone(), t.sa.response.clone());
        *t.sa.request.last_mut().unwrap() ^= 1;
        *t.sa.response.last_mut().unwrap() ^= 1;
        let auth = t.auth(PSK, &own_id(t));
        (t.sa.request, t.sa.response) = (request, response);
        replace(p, auth);
    }),
    ("the right secret under a name nobody knows", |t, p| {
        let stranger = id(t.sa.initiator, "stranger.example");
        let auth = t.auth(PSK, &stranger);
        replace(p, stranger);
        replace(p, auth);
    }),
    ("the DUT's own name", |t, p| {
        let own = id(t.sa.initiator, if t.sa.initiator { "b.example" } else { "a.example" });
        let auth = t.auth(PSK, &own);
        replace(p, own);
        replace(p, auth);
    }),
    ("a name with a terminator", |t, p| {
        let named = Identification {
            id_type: IdType::FQDN,
            reserved: [0; 3],
            data: id_body(&own_id(t))[4..].iter().copied().chain([0]).collect(),
        };
        let named = if t.sa.initiator {
            Payload::IdI(named)
        } else {
            Payload::IdR(named)
        };
        let auth = t.auth(PSK, &named);
        replace(p, named);
        replace(p, auth);
    }),
    ("a name of another type", |t, p| {
        let named = Identification {
            id_type: IdType::KEY_ID,
            reserved: [0; 3],
            data: id_body(&own_id(t))[4..].to_vec(),
        };
        let named = if t.sa.initiator {
            Payload::IdI(named)
        } else {
            Payload::IdR(named)
        };
        let auth = t.auth(PSK, &named);
        replace(p, named);
        replace(p, auth);
    }),
    ("AUTH with NULL authentication", |_, p| method(p, AuthMethod::NULL)),
    ("AUTH with a digital signature", |_, p| {
        method(p, AuthMethod::DIGITAL_SIGNATURE)
    }),
    ("AUTH with RSA", |_, p| method(p, AuthMethod::RSA_SIGNATURE)),
    ("AUTH with method 0", |_, p| method(p, AuthMethod(0))),
    ("AUTH with method 255", |_, p| method(p, AuthMethod(255))),
];

#[test]
fn no_wrong_proof_lets_an_initiator_in() {
    for (what, wrong) in WRONG {
        let mut t = Tester::new(side_b());
        let payloads = t.init_payloads();
        t.init(&payloads);
        let mut payloads = t.auth_payloads();
        wrong(&mut t, &mut payloads);
        let answer = t.request(ExchangeType::IKE_AUTH, &payloads).expect(what);
        assert_eq!(answer.notifies(), [NotifyType::AUTHENTICATION_FAILED], "{what}");
        assert!(
            answer.payloads.len() == 1 && answer.all_notifies()[0].data.is_empty(),
            "{what}: no reason is told"
        );
        assert_eq!(t.pairs(), 0, "{what}");
        assert!(!t.is_up(), "{what}");
        assert!(!t.events.iter().any(|event| matches!(event, Event::IkeUp(_))), "{what}");
        assert_eq!(t.dut.spis_in_use(), 0, "{what}");
        assert_eq!(t.counters().auth_failed, 1, "{what}");
        // The right proof comes too late.
        let payloads = t.auth_payloads();
        assert!(t.request(ExchangeType::IKE_AUTH, &payloads).is_none(), "{what}");
        // And a new attempt is served.
        t.pass(std::time::Duration::from_secs(60));
        t.sa.spi_i = landbridge_proto::wire::IkeSpi([9; 8]);
        t.sa.next = 1;
        t.begin();
    }
}

#[test]
fn no_wrong_proof_is_taken_from_a_responder() {
    for (what, wrong) in WRONG {
        let (mut t, asked) = Tester::until_auth(side_a());
        let mut payloads = t.auth_answer();
        wrong(&mut t, &mut payloads);
        t.respond(&asked.header, &payloads);
        assert!(!t.is_up(), "{what}");
        assert_eq!(t.pairs(), 0, "{what}");
        assert!(!t.events.iter().any(|event| matches!(event, Event::IkeUp(_))), "{what}");
        // RFC 7296 §2.21.2: it deletes the SA.
        let asked = t.next_request().expect(what);
        assert_eq!(asked.payloads, [delete_ike()], "{what}");
        t.respond(&asked.header, &[]);
        assert_eq!(t.dut.spis_in_use(), 0, "{what}");
    }
}

#[test]
fn no_auth_at_all_is_refused() {
    // RFC 7296 §2.16: without AUTH the initiator asks for EAP, which is not spoken.
    let mut t = Tester::new(side_b());
    let payloads = t.init_payloads();
    t.init(&payloads);
    let payloads = without(&t.auth_payloads(), |payload| matches!(payload, Payload::Auth(_)));
    let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert_eq!(answer.notifies(), [NotifyType::AUTHENTICATION_FAILED]);
    assert!(!t.is_up() && t.pairs() == 0);
    // EAP payloads of a responder: 48 is a type that is skipped; what is left proves nothing.
    let (mut t, asked) = Tester::until_auth(side_a());
    let eap = Payload::Unknown {
        payload_type: PayloadType::EAP,
        critical: false,
        body: vec![3, 1, 0, 4],
    };
    let mut payloads = without(&t.auth_answer(), |payload| matches!(payload, Payload::Auth(_)));
    payloads.push(eap);
    t.respond(&asked.header, &payloads);
    assert!(
        !t.is_up() && t.pairs() == 0,
        "an early EAP Success is no authentication"
    );
}

/// A connection that wants a raw key of its peer, or has one itself.
fn raw(mut connection: Connection, own: &Arc<SigningKey>, theirs: &SigningKey) -> Connection {
    connection.local.credential = LocalCredential::RawKey(Arc::clone(own));
    connection.remote.credential = RemoteCredential::RawKeys(vec![theirs.verifying_key()]);
    connection
}

/// A peer whose public key is expected does not get in by a shared secret: neither by an empty one, nor by one made of
/// what everybody knows.
#[test]
fn a_shared_secret_is_no_substitute_for_a_key() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let [own, theirs] = [(); 2].map(|()| Arc::new(SigningKey::generate(&mut rng)));
    for psk in [b"".to_vec(), PSK.to_vec(), theirs.verifying_key().to_spki_der()] {
        let mut t = Tester::new(raw(side_b(), &own, &theirs));
        let mut payloads = t.init_payloads();
        payloads.push(notify_with(
            NotifyType::SIGNATURE_HASH_ALGORITHMS,
            &HashAlgorithm::IDENTITY.0.to_be_bytes(),
        ));
        t.init(&payloads);
        let named = id(true, "a.example");
        let mut payloads = vec![named.clone(), t.auth(&psk, &named)];
        payloads.extend(t.child_offer(false));
        let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert_eq!(answer.notifies(), [NotifyType::AUTHENTICATION_FAILED]);
        assert!(!t.is_up());
    }
}

fn sign(key: &SigningKey, text: &[u8]) -> Vec<u8> {
    key.sign(Scheme::Ed25519, text).unwrap()
}

/// Ed25519: another key, another's words, another algorithm in front, cut and long.
#[test]
fn signatures_that_are_wrong() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let [own, theirs, other] = [(); 3].map(|()| Arc::new(SigningKey::generate(&mut rng)));
    const ED25519: [u8; 8] = [7, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70];
    type Make = fn(&SigningKey, &SigningKey, &[u8]) -> Vec<u8>;
    let cases: [(&str, Make, bool); 12] = [
        ("right", |key, _, text| [&ED25519[..], &sign(key, text)].concat(), true),
        (
            "another key",
            |_, other, text| [&ED25519[..], &sign(other, text)].concat(),
            false,
        ),
        (
            "other words",
            |key, _, _| [&ED25519[..], &sign(key, b"other words")].concat(),
            false,
        ),
        (
            "one bit",
            |key, _, text| {
                let mut data = [&ED25519[..], &sign(key, text)].concat();
                data[70] ^= 1;
                data
            },
            false,
        ),
        (
            "cut",
            |key, _, text| [&ED25519[..], &sign(key, text)[..63]].concat(),
            false,
        ),
        (
            "long",
            |key, _, text| [&ED25519[..], &sign(key, text), &[0]].concat(),
            false,
        ),
        ("empty", |_, _, _| vec![], false),
        ("a length and no identifier", |_, _, _| vec![7], false),
        ("an identifier beyond the end", |_, _, _| vec![255, 0x30, 5], false),
        (
            "no identifier",
            |key, _, text| [&[0][..], &sign(key, text)].concat(),
            false,
        ),
        (
            "Ed448's identifier",
            |key, _, text| [&[7, 0x30, 5, 6, 3, 0x2b, 0x65, 0x71][..], &sign(key, text)].concat(),
            false,
        ),
        (
            "RSA's identifier",
            |key, _, text| {
                let rsa = [15, 0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0xd, 1, 1, 11, 5, 0];
                [&rsa[..], &sign(key, text)].concat()
            },
            false,
        ),
    ];
    for (what, make, good) in cases {
        let mut t = Tester::new(raw(side_b(), &own, &theirs));
        let mut payloads = t.init_payloads();
        payloads.push(notify_with(
            NotifyType::SIGNATURE_HASH_ALGORITHMS,
            &HashAlgorithm::IDENTITY.0.to_be_bytes(),
        ));
        t.init(&payloads);
        let named = id(true, "a.example");
        let prf = (IKE_PROVIDER.prf)(t.sa.suite.prf).unwrap();
        let maced = prf.prf(t.sa.keys.as_ref().unwrap().pi.expose(), &[&id_body(&named)]);
        let text = [&t.sa.request[..], &t.sa.nr, maced.expose()].concat();
        let auth = Payload::Auth(Authentication {
            method: AuthMethod::DIGITAL_SIGNATURE,
            data: make(&theirs, &other, &text),
        });
        let mut payloads = vec![named, auth];
        payloads.extend(t.child_offer(false));
        let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert_eq!(t.is_up(), good, "{what}");
        assert_eq!(answer.has(NotifyType::AUTHENTICATION_FAILED), !good, "{what}");
    }
}

/// Wrong proofs end the attempt, and an authenticated SA of the same peer is not touched by them.
#[test]
fn wrong_proofs_do_not_touch_the_sa_that_is_up() {
    let mut t = Tester::up(side_b());
    let first = std::mem::replace(
        &mut t.sa,
        crate::peer::Sa::new(landbridge_proto::wire::IkeSpi([8; 8]), Default::default(), true),
    );
    let payloads = t.init_payloads();
    t.init(&payloads);
    let mut payloads = t.auth_payloads();
    payloads.push(notify(NotifyType::INITIAL_CONTACT));
    replace(&mut payloads, psk_auth(&[1; 32]));
    t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    t.sa = first;
    assert!(t.is_up() && t.pairs() == 1);
    t.assert_alive();
}
