//! Group G: authentication, identities, certificates.

use crate::ike_pump::{side_a, side_b};
use crate::peer::messages::*;
use crate::peer::{PSK, Tester};
use crate::table::Level::{Must, Should};
use crate::table::{Row, here, row, there};
use landbridge_proto::crypto::{Secret, SigningKey};
use landbridge_proto::policy::connection::{Gateway, LocalCredential, RemoteCredential};
use landbridge_proto::policy::proposal::IkeProposal;
use landbridge_proto::wire::*;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::sync::Arc;

const MATRIX: &str = "proto/tests/matrix";
const ENDPOINT: &str = "proto/tests/endpoint.rs";

pub fn rows() -> Vec<Row> {
    vec![
        row(
            ("G1", "RFC 7296 §2.15", Must),
            "AUTH is about the own first message as sent last, the peer's nonce, and the identity",
            "InitiatorSignedOctets = RealMessage1 | NonceRData | MACedIDForI",
            here!(auth_is_about_the_last_first_message),
            there(MATRIX, "no_wrong_proof_lets_an_initiator_in"),
        ),
        row(
            ("G2", "RFC 7296 §2.15", Must),
            "the shared secret goes through the key pad; 64 characters and hex are taken, no terminator is added",
            "The management interface by which the shared secret is provided MUST accept ASCII strings of at least 64 octets \
             and MUST NOT add a null terminator before using them as shared secrets.",
            here!(a_long_secret),
            there("tests/config_cases.rs", "every_case_is_judged_as_written_beside_it"),
        ),
        row(
            ("G3", "RFC 7296 §1.2", Must),
            "the identity belongs to the key",
            "If either side uses a shared secret for authentication, the names in the ID payload MUST correspond to the key \
             used to generate the AUTH payload.",
            here!(each_peer_has_its_own_secret),
            there(MATRIX, "no_wrong_proof_lets_an_initiator_in"),
        ),
        row(
            ("G4", "RFC 7296 §2.21.2", Should),
            "whatever fails, the peer hears AUTHENTICATION_FAILED and no more",
            "All errors that occur in an IKE_AUTH exchange, causing the authentication to fail for whatever reason (invalid \
             shared secret, invalid ID, untrusted certificate issuer, revoked or expired certificate, etc.) SHOULD result in \
             an AUTHENTICATION_FAILED notification.",
            there(ENDPOINT, "what_is_wrong_is_told_to_us_and_not_to_the_peer"),
            there(MATRIX, "no_wrong_proof_lets_an_initiator_in"),
        ),
        row(
            ("G5", "RFC 7296 §1.2", Must),
            "a responder's bad proof: the SA is deleted, nothing is installed",
            "Both parties in the IKE_AUTH exchange MUST verify that all signatures and Message Authentication Codes (MACs) \
             are computed correctly.",
            there(ENDPOINT, "two_round_trips_and_both_are_up"),
            there(MATRIX, "no_wrong_proof_is_taken_from_a_responder"),
        ),
        row(
            ("G6", "RFC 7296 §3.5", Must),
            "identities: IPv4, IPv6, FQDN, e-mail, key ID; no terminators",
            "To assure maximum interoperability, implementations MUST be configurable to send at least one of ID_IPV4_ADDR, \
             ID_FQDN, ID_RFC822_ADDR, or ID_KEY_ID, and MUST be configurable to accept all of these four types.",
            here!(identities_of_all_types_are_accepted),
            there(MATRIX, "identities_of_all_types_and_lengths"),
        ),
        crate::table::certificates::g7(),
        crate::table::certificates::g8(),
        row(
            ("G9", "RFC 7427 §3", Must),
            "a digital signature only to a peer that announced hashes, and by one of them",
            "If both ends send and receive SIGNATURE_HASH_ALGORITHMS Notify payloads, and signature authentication is to be \
             used, then the authentication method specified in this Authentication payload MUST be used.",
            there("proto/tests/ike_auth.rs", "the_hash_is_one_that_the_peer_announced"),
            there("proto/tests/ike_auth.rs", "broken_auth_data_is_refused"),
        ),
        row(
            ("G10", "RFC 8420 §2", Must),
            "Ed25519 goes by Identity, which is announced, and without a hash before it",
            "Ed25519 and Ed448 are only defined with the \"Identity\" hash and MUST NOT be sent to a receiver that has not \
             indicated support for the \"Identity\" hash.",
            there(MATRIX, "signatures_that_are_wrong"),
            here!(no_signature_for_a_peer_without_hashes),
        ),
        crate::table::certificates::g11(),
        row(
            ("G12", "RFC 7296 §1", Must),
            "nothing but IKE_AUTH before both are authenticated, and no second one after",
            "In all cases, all IKE_SA_INIT exchanges MUST complete before any other exchange type, then all IKE_AUTH \
             exchanges MUST complete, and following that, any number of CREATE_CHILD_SA and INFORMATIONAL exchanges may occur \
             in any order.",
            here!(no_other_exchange_before_ike_auth),
            there(MATRIX, "half_open"),
        ),
        row(
            ("G13", "RFC 7296 §2.21.2", Must),
            "an error about the first child beside the proof does not fail the authentication",
            "Specifically, a responder may include all the payloads associated with authentication (IDr, CERT, and AUTH) \
             while sending error notifications for the piggybacked exchanges (FAILED_CP_REQUIRED, NO_PROPOSAL_CHOSEN, and so \
             on), and the initiator MUST NOT fail the authentication because of this.",
            here!(the_ike_sa_is_up_although_its_child_failed),
            there(MATRIX, "notifies_beside_the_proof_of_either_side"),
        ),
    ]
}

#[test]
fn auth_is_about_the_last_first_message() {
    // As initiator, T has had a cookie and another group asked of it: what counts is the last message.
    for about_the_last in [true, false] {
        let gateway = Gateway {
            cookie_threshold: 0,
            ..Gateway::default()
        };
        let mut t = Tester::with(side_b(), gateway);
        let mut payloads = t.init_payloads();
        let right = payloads[1].clone();
        payloads[1] = ke(KeMethod::MODP_2048, &[2; 256]);
        let answer = t.init(&payloads);
        let cookie = notify_with(NotifyType::COOKIE, &answer.notify(NotifyType::COOKIE).unwrap().data);
        payloads.insert(0, cookie);
        assert!(t.init(&payloads).has(NotifyType::INVALID_KE_PAYLOAD));
        payloads[2] = right;
        let first = t.init_datagram(&payloads[1..]);
        t.init(&payloads);
        if !about_the_last {
            t.sa.request = first; // The same without the cookie.
        }
        let payloads = t.auth_payloads();
        t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert_eq!(t.is_up(), about_the_last);
    }
    // As responder, to a DUT that had to repeat.
    let mut t = Tester::new(side_a());
    t.provoke();
    let mut header = t.sa.header(ExchangeType::IKE_SA_INIT, true, 0);
    header.spi_r = IkeSpi::ZERO;
    let datagram = encode_plain(&header, &[notify_with(NotifyType::COOKIE, b"cookie")]);
    t.send(&datagram);
    let sent = t.out.pop_front().unwrap();
    t.sa.request.clone_from(&sent.octets);
    let asked = t.open(&[sent]);
    let payloads = t.init_answer(&asked);
    t.answer_init(&payloads);
    let asked = t.next_request().unwrap();
    // T verifies: the DUT's AUTH is about its last message.
    let prf = (landbridge_proto::crypto::IKE_PROVIDER.prf)(t.sa.suite.prf).unwrap();
    let keys = t.sa.keys.as_ref().unwrap();
    let maced = prf.prf(keys.pi.expose(), &[&id_body(&asked.payloads[0])]);
    let pad = prf.prf(PSK, &[b"Key Pad for IKEv2"]);
    let mic = prf.prf(pad.expose(), &[&t.sa.request, &t.sa.nr, maced.expose()]);
    assert!(asked.payloads.contains(&psk_auth(mic.expose())), "{:?}", asked.payloads);
    let payloads = t.auth_answer();
    t.respond(&asked.header, &payloads);
    assert!(t.is_up());
}

#[test]
fn a_long_secret() {
    for len in [64, 65, 200, 4000] {
        let secret: Vec<u8> = (0..len).map(|at| b'!' + (at % 90) as u8).collect();
        let mut b = side_b();
        b.local.credential = LocalCredential::Psk(Secret::new(secret.clone()));
        b.remote.credential = RemoteCredential::Psk(vec![Secret::new(secret.clone())]);
        let mut t = Tester::new(b);
        let payloads = t.init_payloads();
        t.init(&payloads);
        let named = id(true, "a.example");
        let mut payloads = vec![named.clone(), t.auth(&secret, &named)];
        payloads.extend(t.child_offer(false));
        t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert!(t.is_up(), "{len}");
    }
}

/// A peer with a secret of its own can't be another.
#[test]
fn each_peer_has_its_own_secret() {
    let psk = |text: &[u8]| Secret::new(text.to_vec());
    let connections = || {
        let (mut one, mut other) = (side_b(), side_b());
        other.name = "other".into();
        for (connection, name, secret) in [(&mut one, "a.example", PSK), (&mut other, "c.example", b"c's own")] {
            connection.remote.id = Some(Identification::parse(name).unwrap());
            connection.local.credential = LocalCredential::Psk(psk(secret));
            connection.remote.credential = RemoteCredential::Psk(vec![psk(secret)]);
        }
        vec![one, other]
    };
    let cases: [(&str, &[u8], Option<&str>); 4] = [
        ("a.example", PSK, Some("site")),
        ("c.example", b"c's own", Some("other")),
        ("a.example", b"c's own", None),
        ("c.example", PSK, None),
    ];
    for (name, secret, wanted) in cases {
        let mut t = Tester::with_all(connections(), Gateway::default());
        let payloads = t.init_payloads();
        t.init(&payloads);
        let named = id(true, name);
        let mut payloads = vec![named.clone(), t.auth(secret, &named)];
        payloads.extend(t.child_offer(false));
        let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert_eq!(t.is_up(), wanted.is_some(), "{name}");
        match wanted {
            Some(wanted) => assert_eq!(t.status()[0].connection.as_deref(), Some(wanted)),
            None => assert_eq!(answer.notifies(), [NotifyType::AUTHENTICATION_FAILED]),
        }
    }
}

#[test]
fn identities_of_all_types_are_accepted() {
    let plain = |id_type, data: &[u8]| Identification {
        id_type,
        reserved: [0; 3],
        data: data.to_vec(),
    };
    let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    for named in [
        plain(IdType::IPV4_ADDR, &[192, 0, 2, 1]),
        plain(IdType::FQDN, b"a.example"),
        plain(IdType::RFC822_ADDR, b"a@example.com"),
        plain(IdType::KEY_ID, b"any octets\0\xff"),
        plain(IdType::IPV6_ADDR, &v6),
    ] {
        let mut b = side_b();
        b.remote.id = Some(named.clone());
        let mut t = Tester::new(b);
        let payloads = t.init_payloads();
        t.init(&payloads);
        let shown = Payload::IdI(named.clone());
        let mut payloads = vec![shown.clone(), t.auth(PSK, &shown)];
        payloads.extend(t.child_offer(false));
        t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert!(t.is_up(), "{named}");
        assert_eq!(t.status()[0].peer.as_ref(), Some(&named));
    }
}

#[test]
fn no_signature_for_a_peer_without_hashes() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let [own, theirs] = [(); 2].map(|()| Arc::new(SigningKey::generate(&mut rng)));
    for hashes in [None, Some(vec![]), Some(vec![HashAlgorithm::SHA2_256])] {
        let mut a = side_a();
        a.local.credential = LocalCredential::RawKey(Arc::clone(&own));
        a.remote.credential = RemoteCredential::RawKeys(vec![theirs.verifying_key()]);
        let mut t = Tester::new(a);
        let asked = t.provoke();
        let announced = asked
            .notify(NotifyType::SIGNATURE_HASH_ALGORITHMS)
            .expect("it announces hashes");
        assert!(
            announced
                .data
                .chunks(2)
                .any(|hash| hash == HashAlgorithm::IDENTITY.0.to_be_bytes())
        );
        let mut payloads = t.init_answer(&asked);
        if let Some(hashes) = hashes {
            let data: Vec<u8> = hashes.iter().flat_map(|hash| hash.0.to_be_bytes()).collect();
            payloads.push(notify_with(NotifyType::SIGNATURE_HASH_ALGORITHMS, &data));
        }
        t.answer_init(&payloads);
        assert!(t.out.is_empty(), "no IKE_AUTH leaves");
        assert!(!t.is_up());
    }
}

#[test]
fn no_other_exchange_before_ike_auth() {
    let mut t = Tester::new(side_b());
    let payloads = t.init_payloads();
    t.init(&payloads);
    let mut child = t.child_offer(true);
    child.extend([t.nonce(32), ke(KeMethod::CURVE25519, &[9; 32])]);
    for (exchange, payloads) in [
        (ExchangeType::CREATE_CHILD_SA, child),
        (ExchangeType::INFORMATIONAL, vec![]),
        (ExchangeType::INFORMATIONAL, vec![delete_ike()]),
    ] {
        assert!(t.request(exchange, &payloads).is_none());
        assert_eq!(t.pairs(), 0);
    }
    let payloads = t.auth_payloads();
    t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(t.is_up() && t.pairs() == 1);
    // A second one is none of its business.
    let payloads = t.auth_payloads();
    assert!(t.request(ExchangeType::IKE_AUTH, &payloads).is_none());
    t.assert_alive();
    let _ = IkeProposal::defaults();
}

#[test]
fn the_ike_sa_is_up_although_its_child_failed() {
    for error in [
        NotifyType::NO_PROPOSAL_CHOSEN,
        NotifyType::TS_UNACCEPTABLE,
        NotifyType::INTERNAL_ADDRESS_FAILURE,
        NotifyType::FAILED_CP_REQUIRED,
        NotifyType::SINGLE_PAIR_REQUIRED,
        NotifyType::NO_ADDITIONAL_SAS,
    ] {
        let (mut t, asked) = Tester::until_auth(side_a());
        let mut payloads = t.auth_answer();
        payloads.truncate(2);
        payloads.push(notify(error));
        t.respond(&asked.header, &payloads);
        assert!(t.is_up(), "{error}");
        assert_eq!((t.pairs(), t.dut.spis_in_use()), (0, 0), "{error}");
        assert!(
            t.failures().iter().any(|told| told.contains("refuses Child SA")),
            "{:?}",
            t.failures()
        );
        t.assert_alive();
    }
}
