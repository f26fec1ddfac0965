//! Announcing authentication methods (RFC 9593).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;
mod keys;
#[path = "peer/mod.rs"]
mod peer;

use ike_pump::{side_a, side_b};
use keys::{der, key};
use landbridge_proto::crypto::{Group, Hash, IKE_PROVIDER, Scheme};
use landbridge_proto::ike::Event;
use landbridge_proto::pki::{Certificate, CertifiedKey, Trust};
use landbridge_proto::policy::connection::{Connection, LocalCredential, RemoteCredential};
use landbridge_proto::policy::proposal::IkeProposal;
use landbridge_proto::wire::*;
use peer::messages::*;
use peer::{Message, Tester};
use std::path::Path;
use std::sync::Arc;

const METHODS: NotifyType = NotifyType::SUPPORTED_AUTH_METHODS;

fn certificate(name: &str) -> Certificate {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pki").join(name);
    Certificate::from_der(&der(&std::fs::read_to_string(path).unwrap())).unwrap()
}

fn blob(scheme: Scheme, link: u8) -> Vec<u8> {
    let identifier = scheme.identifier();
    [&[3 + identifier.len() as u8, 14, link], identifier.as_slice()].concat()
}

/// A with this credential begins, T answers with these notifies; A's IKE_AUTH, if it comes at once.
fn until_auth(credential: LocalCredential, notifies: &[Payload]) -> (Tester, Option<Message>) {
    let mut a = side_a();
    a.local.credential = credential;
    let mut t = Tester::new(a);
    // 2027-01-01: the certificates are good.
    t.unix = 1_798_761_600;
    let asked = t.provoke();
    let mut payloads = t.init_answer(&asked);
    payloads.extend_from_slice(notifies);
    t.answer_init(&payloads);
    let asked = t.next_request();
    (t, asked)
}

fn hashes() -> Payload {
    notify_with(NotifyType::SIGNATURE_HASH_ALGORITHMS, &[0, 2, 0, 3, 0, 4, 0, 5])
}

/// Three certificates of one CA; which is shown?
fn shown(announced: &[u8], requests: Option<&[u8]>) -> usize {
    const KINDS: [&str; 3] = ["p384", "ed25519", "p256"];
    let own = KINDS.map(|kind| CertifiedKey {
        chain: vec![certificate(&format!("gw-{kind}.crt")), certificate("inter.crt")],
        key: key(kind),
    });
    let mut payloads = vec![hashes(), notify_with(METHODS, announced)];
    payloads.extend(requests.map(|hashes| {
        Payload::CertReq(CertificateRequest {
            encoding: CertEncoding::X509_SIGNATURE,
            authorities: hashes.to_vec(),
        })
    }));
    let (_, asked) = until_auth(LocalCredential::Certificates(own.to_vec()), &payloads);
    let first = asked.unwrap().payloads.into_iter().find_map(|payload| match payload {
        Payload::Cert(cert) => Some(cert.data),
        _ => None,
    });
    let first = first.expect("a certificate");
    own.iter().position(|own| own.chain[0].der() == first).unwrap()
}

/// "The receiving party may take this information into consideration when selecting an algorithm for its authentication ... if
/// several alternatives are available" (§3).
#[test]
fn a_key_is_chosen_by_what_is_announced() {
    let (p384, ed25519, p256) = (
        blob(Scheme::Ecdsa(Hash::Sha384), 0),
        blob(Scheme::Ed25519, 0),
        blob(Scheme::Ecdsa(Hash::Sha256), 0),
    );
    // The first of our own that is taken, in our order.
    assert_eq!(shown(&p384, None), 0);
    assert_eq!(shown(&ed25519, None), 1);
    assert_eq!(shown(&[ed25519.clone(), p384.clone()].concat(), None), 0);
    // A P-384 key signs with SHA2-256 as well; but the older method is "ECDSA with SHA-256 on the P-256 curve" (§3.2.2).
    assert_eq!(shown(&p256, None), 0);
    assert_eq!(shown(&[3, 9, 0], None), 2);
    assert_eq!(shown(&[3, 10, 0], None), 0);
    assert_eq!(
        shown(&[2, 2], None),
        0,
        "nothing that we have: as if it had not been said"
    );
    // "the announced authentication method is intended to be used only with the N-th trust anchor (CA certificate) from the
    // Certificate Request payload(s) sent by this peer".
    let (other, ours) = ([9; 20], certificate("inter.crt").key_hash());
    let requests = [&other[..], &ours].concat();
    assert_eq!(shown(&blob(Scheme::Ed25519, 2), Some(&requests)), 1);
    assert_eq!(shown(&blob(Scheme::Ed25519, 1), Some(&requests)), 0);
    assert_eq!(shown(&blob(Scheme::Ed25519, 9), Some(&requests)), 0);
    // "If no Certificate Request payload were received, the content of this field MUST be ignored and treated as zero."
    assert_eq!(shown(&blob(Scheme::Ed25519, 9), None), 1);
}

/// Of one key, how it signs.
#[test]
fn a_scheme_is_chosen_by_what_is_announced() {
    let scheme = |announced: &[u8]| {
        let credential = LocalCredential::RawKey(key("rsa2048"));
        let (t, _) = until_auth(credential, &[hashes(), notify_with(METHODS, announced)]);
        t.events.iter().find_map(|event| match event {
            Event::Sign(request) => Some(request.scheme),
            _ => None,
        })
    };
    let pkcs1 = Scheme::RsaPkcs1(Hash::Sha512);
    assert_eq!(scheme(&blob(pkcs1, 0)), Some(pkcs1));
    assert_eq!(scheme(&blob(Scheme::Ed25519, 0)), Some(Scheme::RsaPss(Hash::Sha256)));
    assert_eq!(scheme(&[]), Some(Scheme::RsaPss(Hash::Sha256)));
}

/// "Implementations MUST ignore announcements whose semantics they don't understand": it goes on as without.
#[test]
fn what_is_wrong_or_not_known_changes_nothing() {
    let ed25519 = blob(Scheme::Ed25519, 0);
    for unknown in [&[2, 12][..], &[2, 200], &[7, 99, 1, 2, 3, 4, 5], &[5, 14, 0, 5, 0]] {
        assert_eq!(shown(&[unknown, &ed25519].concat(), None), 1, "{unknown:?}");
        assert_eq!(shown(unknown, None), 0);
    }
    for broken in [&[0][..], &[1], &[255; 40], &[20, 14, 0, 0x30]] {
        assert_eq!(shown(&[&ed25519, broken].concat(), None), 1, "{broken:?}");
        assert_eq!(shown(broken, None), 0, "{broken:?}");
    }
}

/// A refusal is explained.
#[test]
fn a_refusal_says_what_the_peer_takes() {
    for (announced, explained) in [(blob(Scheme::Ed25519, 0), true), (vec![2, 2], false)] {
        let psk = side_a().local.credential;
        let (mut t, asked) = until_auth(psk, &[notify_with(METHODS, &announced)]);
        t.refuse(&asked.unwrap().header, NotifyType::AUTHENTICATION_FAILED);
        let hints = t.events.iter().filter_map(|event| match event {
            Event::Failed(failure) => failure.hint.clone(),
            _ => None,
        });
        let told = "the peer announces that it takes Ed25519, and we have a pre-shared key";
        let hints: Vec<String> = hints.collect();
        assert_eq!(hints.iter().any(|hint| hint == told), explained, "{hints:?}");
    }
}

fn methods_of(message: &Message) -> Option<Vec<u8>> {
    let notify = message.notify(METHODS)?;
    assert_eq!(
        (notify.protocol, notify.spi.len()),
        (ProtocolId::NONE, 0),
        "\"the Protocol ID field is set to 0, the SPI Size is set to 0\""
    );
    Some(notify.data.clone())
}

/// B's answer to IKE_SA_INIT, with room for more in the request.
fn init_answer(b: Connection, room: usize) -> (Tester, Message) {
    let mut t = Tester::new(b.clone());
    let mut payloads = t.init_payloads();
    payloads[0] = Payload::Sa(IkeProposal::to_wire(&b.ike_proposals, &[]));
    payloads.push(notify(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED));
    payloads.push(Payload::VendorId(vec![0; room]));
    let datagram = t.init_datagram(&payloads).len();
    let answer = t.init(&payloads);
    assert!(t.sa.response.len() <= datagram || !answer.has(METHODS));
    (t, answer)
}

/// What is taken of the peer: in the answer to IKE_SA_INIT, unless that would be longer than the request, and in IKE_AUTH.
#[test]
fn both_ends_announce_what_they_take() {
    let raw = |names: &[&str]| RemoteCredential::RawKeys(names.iter().map(|name| key(name).verifying_key()).collect());
    let ecdsa = [Hash::Sha256, Hash::Sha384, Hash::Sha512]
        .map(|hash| blob(Scheme::Ecdsa(hash), 0))
        .concat();
    let any = Trust {
        anchors: vec![certificate("root.crt")],
        ..Trust::default()
    };
    for (credential, want) in [
        (side_b().remote.credential, vec![2, 2]),
        (raw(&["ed25519"]), blob(Scheme::Ed25519, 0)),
        (
            raw(&["p256", "ed25519"]),
            [ecdsa.clone(), blob(Scheme::Ed25519, 0)].concat(),
        ),
        (RemoteCredential::Certificates(Arc::new(any)), vec![]),
    ] {
        let (mut b, mut a) = (side_b(), side_a());
        b.remote.credential = credential.clone();
        a.remote.credential = credential;
        let (_, answer) = init_answer(b.clone(), 600);
        let methods = methods_of(&answer).expect("a list");
        if want.is_empty() {
            // Of a CA's, all that there is.
            for scheme in [
                Scheme::Ed25519,
                Scheme::Ecdsa(Hash::Sha512),
                Scheme::RsaPss(Hash::Sha384),
            ] {
                let blob = blob(scheme, 0);
                assert!(methods.windows(blob.len()).any(|part| part == blob), "{scheme}");
            }
        } else {
            assert_eq!(methods, want);
        }
        let (_, answer) = init_answer(b, 0);
        assert!(methods_of(&answer).is_none_or(|short| short == methods));
        let mut t = Tester::new(a);
        let asked = t.provoke();
        assert_eq!(methods_of(&asked), None, "not in the request of IKE_SA_INIT");
        let payloads = t.init_answer(&asked);
        t.answer_init(&payloads);
        assert_eq!(methods_of(&t.next_request().unwrap()), Some(methods));
    }
}

/// "In this case, the responder includes a SUPPORTED_AUTH_METHODS notification containing no data in the IKE_SA_INIT response",
/// and the list in the last IKE_INTERMEDIATE.
#[test]
fn the_list_comes_in_the_last_ike_intermediate() {
    let mut b = side_b();
    b.ike_proposals = vec![IkeProposal::parse("aes256gcm16-prfsha256-x25519-ke2_mlkem512-ke5_ecp256").unwrap()];
    let (mut t, answer) = init_answer(b, 600);
    assert_eq!(methods_of(&answer), Some(vec![]));
    let groups = [Group::MlKem512, Group::Ecp256];
    for (n, group) in groups.into_iter().enumerate() {
        let ours = (IKE_PROVIDER.key_exchange)(group).unwrap().initiate(&mut t.rng);
        let request = [ke(group.method(), ours.public())];
        let answer = t.request(ExchangeType::IKE_INTERMEDIATE, &request).unwrap();
        assert_eq!(methods_of(&answer), (n == 1).then(|| vec![2, 2]));
        let (_, data) = ke_of(&answer.payloads).unwrap();
        let secret = ours.finish(&data).unwrap();
        let binding = landbridge_proto::ike::keys::Binding {
            ni: &t.sa.ni,
            nr: &t.sa.nr,
            spi_i: t.sa.spi_i,
            spi_r: t.sa.spi_r,
        };
        let secrets = landbridge_proto::ike::keys::Secrets::of(Some(secret));
        let keys = t.sa.keys.clone().unwrap();
        let keys = keys.rekey(&IKE_PROVIDER, keys.suite, &secrets, &binding).unwrap();
        t.sa.set_keys(keys, &mut t.rng);
    }
}

/// As initiator, a list that comes there counts as well.
#[test]
fn a_list_in_ike_intermediate_is_read() {
    let proposals = vec![IkeProposal::parse("aes256gcm16-prfsha256-x25519-ke1_ecp256").unwrap()];
    let mut a = side_a();
    a.local.credential = LocalCredential::RawKey(key("rsa2048"));
    a.ike_proposals.clone_from(&proposals);
    let mut t = Tester::new(a);
    let asked = t.provoke();
    let mut payloads = t.init_answer(&asked);
    payloads[0] = Payload::Sa(IkeProposal::to_wire(&proposals, &[]));
    payloads.extend([
        hashes(),
        notify(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED),
        notify(METHODS),
    ]);
    t.answer_init(&payloads);
    let asked = t.next_request().unwrap();
    let (_, public) = ke_of(&asked.payloads).unwrap();
    let method = (IKE_PROVIDER.key_exchange)(Group::Ecp256).unwrap();
    let (data, _) = method.respond(&public, &mut t.rng).unwrap();
    let pkcs1 = Scheme::RsaPkcs1(Hash::Sha384);
    let payloads = [ke(Group::Ecp256.method(), &data), notify_with(METHODS, &blob(pkcs1, 0))];
    t.respond(&asked.header, &payloads);
    let asked_for = |event: &Event| matches!(event, Event::Sign(request) if request.scheme == pkcs1);
    assert!(t.events.iter().any(asked_for));
}
