//! Chains, names and revocation (RFC 5280, 4945; checklist G3, G7, G11), against certificates made by OpenSSL
//! (`data/pki/make`), and the same between two endpoints.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;
mod keys;

use ike_pump::{Pump, SITE, side_a, side_b};
use keys::{der, key, sign_rsa};
use landbridge_proto::crypto::SigningKey;
use landbridge_proto::ike::{Command, Event};
use landbridge_proto::pki::{Certificate, CertifiedKey, Crl, PkiError, Revocation, Trust};
use landbridge_proto::policy::connection::{Connection, LocalCredential, RemoteCredential};
use landbridge_proto::wire::{CertEncoding, Certificate as Payload, CertificateRequest, Identification};
use std::path::Path;
use std::sync::Arc;

/// 2027-01-01: after all certificates here were made.
const NOW: u64 = 1_798_761_600;
const YEAR: u64 = 31_557_600;

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pki").join(name);
    der(&String::from_utf8(std::fs::read(path).unwrap()).unwrap())
}

fn cert(name: &str) -> Certificate {
    Certificate::from_der(&file(&format!("{name}.crt"))).unwrap()
}

fn crl(name: &str) -> Crl {
    Crl::from_der(&file(&format!("{name}.crl"))).unwrap()
}

fn id(text: &str) -> Identification {
    Identification::parse(text).unwrap()
}

fn trust(roots: &[&str]) -> Trust {
    Trust {
        anchors: roots.iter().map(|name| cert(name)).collect(),
        ..Trust::default()
    }
}

fn verify_at(trust: &Trust, chain: &[&str], who: &str, unix: u64) -> Result<Certificate, PkiError> {
    let ders: Vec<Vec<u8>> = chain.iter().map(|name| file(&format!("{name}.crt"))).collect();
    let shown: Vec<&[u8]> = ders.iter().map(Vec::as_slice).collect();
    trust.verify(&shown, &id(who), true, unix)
}

fn verify(trust: &Trust, chain: &[&str], who: &str) -> Result<Certificate, PkiError> {
    verify_at(trust, chain, who, NOW)
}

/// It is refused, and the log says why.
fn refused(trust: &Trust, chain: &[&str], who: &str, why: &str) {
    match verify(trust, chain, who) {
        Ok(_) => panic!("{chain:?} is taken"),
        Err(error) => assert!(error.to_string().contains(why), "{chain:?}: {error}"),
    }
}

/// RFC 7296 §3.6: "the first certificate MUST contain the public key associated with the private key used to sign the AUTH payload. The other
/// certificates may be sent in any order."
#[test]
fn chains_of_every_kind_of_key_are_good_in_any_order() {
    let root = trust(&["root"]);
    for kind in ["ed25519", "p256", "p384", "p521", "rsa2048", "rsa3072"] {
        let leaf = format!("gw-{kind}");
        let taken = verify(&root, &[&leaf, "inter"], "gw.example").unwrap();
        assert_eq!(*taken.key(), key(kind).verifying_key());
        for chain in [
            vec![leaf.as_str(), "root", "inter"],
            vec![leaf.as_str(), "by-ed25519", "inter-deep", "inter"],
            vec![leaf.as_str(), "inter", "inter", "inter"],
        ] {
            verify(&root, &chain, "gw.example").unwrap();
        }
        refused(
            &root,
            &[&leaf],
            "gw.example",
            "no CA certificate in cacert_files issued it",
        );
        refused(&root, &["inter", &leaf], "gw.example", "digitalSignature");
    }
    for by in [
        "rsa",
        "rsa-sha512",
        "pss-sha256",
        "pss-sha384",
        "pss-sha512",
        "p256",
        "p384",
        "p521",
        "ed25519",
    ] {
        let all = trust(&["root-rsa", "root-p256", "root-p384", "root-p521", "root-ed25519"]);
        verify(&all, &[&format!("by-{by}")], "gw.example").unwrap_or_else(|error| panic!("by {by}: {error}"));
    }
}

/// Checklist G11 and the list of what has gone wrong elsewhere: each of these is refused, for its own reason.
#[test]
fn what_must_be_refused_is() {
    let root = trust(&["root"]);
    let gw = "gw.example";
    refused(&root, &["bad-ku", "inter"], gw, "digitalSignature");
    refused(&root, &["under-no-sign", "inter-no-sign"], gw, "keyCertSign");
    refused(&root, &["under-no-ca", "inter-no-ca"], gw, "is no CA's");
    refused(
        &root,
        &["under-deep", "inter-deep", "inter"],
        gw,
        "longer than a CA allows",
    );
    refused(&root, &["critical", "inter"], gw, "critical extension");
    refused(&root, &["self-signed"], gw, "no CA certificate");
    refused(&root, &["by-impostor"], gw, "does not verify");
    refused(&root, &["by-impostor", "impostor"], gw, "");
    refused(&root, &["root"], gw, "digitalSignature");
    refused(&trust(&["root-rsa"]), &["by-sha1"], gw, "");
    refused(&root, &["weak-rsa1024", "inter"], gw, "not safe");
    refused(&root, &["weak-e3", "inter"], gw, "not safe");
    assert!(
        Certificate::from_der(&file("root-e3.crt")).is_err(),
        "no trust anchor with exponent 3"
    );
    refused(&root, &[], gw, "no certificate");
    refused(&root, &["gw-p256"; 9], gw, "more than 8");
    refused(&Trust::default(), &["gw-p256", "inter"], gw, "no CA certificate");
}

/// RFC 5280 §6.1.4 (l), (m): also for the trust anchor's own path length.
#[test]
fn the_path_length_of_a_trust_anchor_counts() {
    let short = trust(&["root-short"]);
    verify(&short, &["short-leaf"], "gw.example").unwrap();
    refused(
        &short,
        &["short-too-long", "short-inter"],
        "gw.example",
        "longer than that CA allows",
    );
}

/// RFC 5280 §6.1.3 (a) (2): "The certificate validity period includes the current time."
#[test]
fn time_is_looked_at_in_every_certificate() {
    let root = trust(&["root"]);
    let chain = ["gw-p256", "inter"];
    let (from, to) = cert("gw-p256").validity();
    assert!(
        verify_at(&root, &chain, "gw.example", from - 2 * YEAR)
            .unwrap_err()
            .to_string()
            .contains("not valid yet")
    );
    assert!(
        verify_at(&root, &chain, "gw.example", to + YEAR)
            .unwrap_err()
            .to_string()
            .contains("expired")
    );
    assert!(verify_at(&root, &chain, "gw.example", 0).is_err());
    verify_at(&root, &chain, "gw.example", to - 60).unwrap();
}

/// RFC 4945 §5.1.3.12: an extended key usage must speak of IKE, unless the operator says otherwise; none is good.
#[test]
fn extended_key_usage_must_allow_ike() {
    let mut root = trust(&["root"]);
    verify(&root, &["eku-ike", "inter"], "gw.example").unwrap();
    verify(&root, &["eku-any", "inter"], "gw.example").unwrap();
    refused(&root, &["eku-server", "inter"], "gw.example", "ignore_eku");
    root.ignore_eku = true;
    verify(&root, &["eku-server", "inter"], "gw.example").unwrap();
}

/// Checklist G3, G6: "ID must correspond to the key used". RFC 4945 §3.1; RFC 5280 §7.5 for mail addresses.
#[test]
fn an_identity_must_be_in_the_certificate() {
    let root = trust(&["root"]);
    let chain = ["gw-p256", "inter"];
    for held in [
        "gw.example",
        "GW.Example",
        "192.0.2.1",
        "2001:db8::1",
        "ops@example.com",
        "C=CH, O=Landbridge tests, CN=gw",
        "c=ch, o=landbridge  TESTS, cn=GW",
    ] {
        verify(&root, &chain, held).unwrap_or_else(|error| panic!("{held}: {error}"));
    }
    for other in [
        "example",
        "x.gw.example",
        "gw.example.",
        "gw",
        "192.0.2.2",
        "2001:db8::2",
        "OPS@example.com",
        "C=CH, CN=gw",
        "CN=gw, O=Landbridge tests, C=CH",
        "C=CH, O=Landbridge tests, CN=gw, CN=gw",
        "keyid:gw.example",
        "fqdn:192.0.2.1",
    ] {
        refused(&root, &chain, other, "does not hold its identity");
    }
    // A wildcard stands for nothing, and a common name is no host name.
    refused(
        &root,
        &["wildcard", "inter"],
        "gw.example",
        "does not hold its identity",
    );
    verify(&root, &["wildcard", "inter"], "*.example").unwrap();
    refused(&root, &["cn-only", "inter"], "gw.example", "does not hold its identity");
    verify(&root, &["cn-only", "inter"], "CN=gw.example").unwrap();
}

/// RFC 5280 §4.2.1.10. CVE-2026-35331: a comparison with regard to case let excluded names in.
#[test]
fn name_constraints_hold_whatever_the_case() {
    let root = trust(&["root"]);
    verify(&root, &["nc-dns-good", "nc-dns"], "gw.example").unwrap();
    verify(&root, &["nc-dns-case", "nc-dns"], "gw.example").unwrap();
    verify(&root, &["nc-not-good", "nc-not"], "other.example").unwrap();
    verify(&root, &["nc-ip-good", "nc-ip"], "192.0.2.1").unwrap();
    for (leaf, ca, who) in [
        ("nc-dns-bad", "nc-dns", "gw.test"),
        ("nc-dns-alike", "nc-dns", "gw.notexample"),
        ("nc-not-bad", "nc-not", "gw.example"),
        ("nc-not-case", "nc-not", "gw.example"),
        ("nc-ip-bad", "nc-ip", "198.51.100.1"),
        // Constraints of kinds that are not compared: "the application MUST either process the constraint or reject the
        // certificate."
        ("nc-mail-leaf", "nc-mail", "ops@example.com"),
        ("nc-dir-leaf", "nc-dir", "gw.example"),
    ] {
        refused(&root, &[leaf, ca], who, "name constraints");
    }
    // A wildcard might stand for what is excluded.
    refused(&root, &["nc-not-wild", "nc-not"], "*.example", "is not trusted");
}

#[test]
fn revocation_lists_are_kept() {
    let with = |lists: &[&str], revocation| Trust {
        crls: lists.iter().map(|name| crl(name)).collect(),
        revocation,
        ..trust(&["root"])
    };
    let strict = |lists: &[&str]| with(lists, Revocation::Strict);
    let relaxed = |lists: &[&str]| with(lists, Revocation::Relaxed);
    let (good, bad) = (["gw-p256", "inter"], ["revoked", "inter"]);
    let gw = "gw.example";
    verify(&trust(&["root"]), &bad, gw).unwrap();
    verify(&strict(&["root", "inter"]), &good, gw).unwrap();
    refused(&strict(&["root", "inter"]), &bad, gw, "it is revoked");
    refused(
        &strict(&["root", "inter-revoked"]),
        &["under-revoked", "inter-revoked"],
        gw,
        "it is revoked",
    );
    refused(&relaxed(&["inter"]), &bad, gw, "it is revoked");
    // Strict: every CA of the chain needs a list, and a current one.
    refused(&strict(&["root"]), &good, gw, "crl_files has no list");
    refused(&strict(&["inter"]), &good, gw, "crl_files has no list");
    refused(&strict(&["root", "inter-old"]), &good, gw, "out of date");
    verify(&relaxed(&["root"]), &good, gw).unwrap();
    verify(&relaxed(&["root", "inter-old"]), &good, gw).unwrap();
    refused(&relaxed(&["root", "inter-old"]), &bad, gw, "it is revoked");
    // A list of another CA under the same name counts for nothing.
    refused(&strict(&["impostor", "inter"]), &good, gw, "");
    for broken in [&b""[..], b"\x30\x00", &file("root.crt")] {
        assert!(Crl::from_der(broken).is_err());
    }
}

/// A certificate that is pinned is trusted as it is, but not after its time, and under no identity that nobody gave it.
#[test]
fn a_pinned_certificate_stands_for_itself() {
    let pinned = Trust {
        pinned: vec![cert("self-signed")],
        ..Trust::default()
    };
    verify(&pinned, &["self-signed"], "gw.example").unwrap();
    verify(&pinned, &[], "gw.example").unwrap();
    let der = file("self-signed.crt");
    assert!(
        pinned.verify(&[&der], &id("keyid:other"), true, NOW).is_ok(),
        "bound by the configuration"
    );
    assert!(pinned.verify(&[&der], &id("keyid:other"), false, NOW).is_err());
    assert!(pinned.verify(&[&der], &id("gw.example"), false, NOW).is_ok());
    assert!(verify_at(&pinned, &["self-signed"], "gw.example", NOW + 40 * YEAR).is_err());
    // The same key and name in another certificate is not the one that is pinned.
    refused(&pinned, &["gw-p256", "inter"], "gw.example", "no CA certificate");
}

/// Every prefix of a certificate, and every octet changed, gives an error or another certificate, never a panic, and never
/// trust.
#[test]
fn broken_certificates_are_refused() {
    let root = trust(&["root"]);
    let (leaf, inter) = (file("gw-p256.crt"), file("inter.crt"));
    for cut in 0..leaf.len() {
        assert!(
            root.verify(&[&leaf[..cut], &inter], &id("gw.example"), true, NOW)
                .is_err()
        );
    }
    for at in 0..leaf.len() {
        let mut broken = leaf.clone();
        broken[at] ^= 0x55;
        assert!(
            root.verify(&[&broken, &inter], &id("gw.example"), true, NOW).is_err(),
            "octet {at}"
        );
        // As an intermediate one it must not matter, or be refused.
        let mut broken = inter.clone();
        if at < broken.len() {
            broken[at] ^= 0x55;
            assert!(
                root.verify(&[&leaf, &broken], &id("gw.example"), true, NOW).is_err(),
                "octet {at}"
            );
        }
    }
}

// Between two endpoints.

fn own(leaf: &str, name: &str) -> CertifiedKey {
    CertifiedKey {
        chain: vec![cert(leaf), cert("inter")],
        key: key(name),
    }
}

fn ends(ours: Vec<CertifiedKey>, trusted: Trust) -> (Connection, Connection) {
    let (mut a, mut b) = (side_a(), side_b());
    a.local.id = id("gw.example");
    a.local.credential = LocalCredential::Certificates(ours);
    b.remote.id = Some(id("gw.example"));
    b.remote.credential = RemoteCredential::Certificates(Arc::new(trusted));
    b.local.id = id("peer.example");
    b.local.credential = LocalCredential::Certificates(vec![own("peer", "p256")]);
    a.remote.id = Some(id("peer.example"));
    a.remote.credential = RemoteCredential::Certificates(Arc::new(trust(&["root"])));
    (a, b)
}

fn connect(a: Connection, b: Connection) -> Pump {
    let mut pump = Pump::new(a, b);
    pump.unix = NOW;
    pump.reconnect = false;
    pump.connect();
    loop {
        pump.deliver_all();
        let mut requests = Vec::new();
        for who in 0..2 {
            let events = std::mem::take(&mut pump.events[who]);
            let (signs, rest): (Vec<Event>, Vec<Event>) =
                events.into_iter().partition(|event| matches!(event, Event::Sign(_)));
            pump.events[who] = rest;
            requests.extend(signs.into_iter().map(|event| (who, event)));
        }
        if requests.is_empty() {
            return pump;
        }
        for (who, event) in requests {
            let Event::Sign(request) = event else { continue };
            let signature = sign_rsa(request.key.elsewhere().unwrap(), request.scheme, &request.octets);
            let now = pump.at();
            pump.ends[who].handle_signature(now, request.ticket, Ok(signature));
            pump.drain();
        }
    }
}

#[test]
fn certificates_of_every_kind_authenticate_both_ends() {
    for kind in ["ed25519", "p256", "p384", "p521", "rsa2048"] {
        let (a, b) = ends(vec![own(&format!("gw-{kind}"), kind)], trust(&["root"]));
        let pump = connect(a, b);
        assert!(
            pump.is_up(0) && pump.is_up(1),
            "{kind}: {:?} {:?}",
            pump.failures(0),
            pump.failures(1)
        );
        pump.assert_joined();
        let shown = pump.sa(1).peer_certificate.unwrap();
        assert_eq!(shown.subject, "C=CH, O=Landbridge tests, CN=gw");
        assert!(shown.not_after > NOW + 20 * YEAR);
        // RFC 7296 §3.7: both ask for what they trust.
        assert!(pump.saw(0, "IKE_SA_INIT response 0 [SA KE No"), "{:?}", pump.lines(0));
        assert!(
            pump.lines(0)
                .iter()
                .any(|line| line.starts_with("IKE_SA_INIT response") && line.contains("CERTREQ"))
        );
        assert!(
            pump.lines(1)
                .iter()
                .any(|line| line.starts_with("IKE_AUTH request 1 [IDi CERT CERT ") && line.contains(" CERTREQ "))
        );
    }
}

/// Checklist G4: whatever is wrong with a certificate, the peer hears AUTHENTICATION_FAILED and no more, and our log knows.
#[test]
fn a_bad_certificate_is_told_to_us_and_not_to_the_peer() {
    for (leaf, name, trusted, told) in [
        ("bad-ku", "p256", trust(&["root"]), "key usage"),
        ("eku-server", "p256", trust(&["root"]), "extended key usage"),
        ("wildcard", "p256", trust(&["root"]), "does not hold its identity"),
        ("gw-p256", "p256", trust(&["root-rsa"]), "cacert_files"),
        ("gw-p256", "p384", trust(&["root"]), "does not verify"),
        (
            "revoked",
            "p256",
            Trust {
                crls: vec![crl("root"), crl("inter")],
                ..trust(&["root"])
            },
            "revoked",
        ),
    ] {
        let (a, b) = ends(vec![own(leaf, name)], trusted);
        let pump = connect(a, b);
        assert!(!pump.is_up(0) && !pump.is_up(1));
        assert!(
            pump.failures(1)[0].verdict.contains(told),
            "{leaf}: {:?}",
            pump.failures(1)
        );
        assert!(
            pump.lines(0)
                .contains(&"IKE_AUTH response 1 [N(AUTHENTICATION_FAILED)]"),
            "{leaf}"
        );
    }
}

/// Checklist G5: a responder with a bad certificate gets a Delete, and nothing is installed.
#[test]
fn a_responder_with_a_bad_certificate_is_left() {
    let (a, mut b) = ends(vec![own("gw-p256", "p256")], trust(&["root"]));
    b.local.credential = LocalCredential::Certificates(vec![own("gw-ed25519", "ed25519")]);
    let pump = connect(a, b);
    assert!(!pump.is_up(0) && pump.sad[0].pairs.is_empty());
    assert!(
        pump.failures(0)[0]
            .verdict
            .contains("does not hold its identity peer.example"),
        "{:?}",
        pump.failures(0)
    );
}

/// CVE-2023-26463: a good certificate with another key's signature.
#[test]
fn the_signature_must_be_of_the_certificates_own_key() {
    let stolen = CertifiedKey {
        chain: vec![cert("gw-ed25519"), cert("inter")],
        key: key("p256"),
    };
    let (a, b) = ends(vec![stolen], trust(&["root"]));
    let pump = connect(a, b);
    assert!(!pump.is_up(1));
    assert!(
        pump.failures(1)[0].verdict.contains("does not verify"),
        "{:?}",
        pump.failures(1)
    );
}

/// Method confusion: neither a pre-shared key nor a raw key stands in for a certificate, nor the other way round.
#[test]
fn a_certificate_is_not_a_raw_key_and_not_a_pre_shared_key() {
    let raw = || LocalCredential::RawKey(key("p256"));
    let (mut a, b) = ends(vec![own("gw-p256", "p256")], trust(&["root"]));
    a.local.credential = raw();
    let pump = connect(a, b);
    assert!(!pump.is_up(1));
    assert!(
        pump.failures(1)[0].verdict.contains("the peer sent no certificate"),
        "{:?}",
        pump.failures(1)
    );
    let (a, mut b) = ends(vec![own("gw-p256", "p256")], trust(&["root"]));
    b.remote.credential = RemoteCredential::RawKeys(vec![key("p384").verifying_key()]);
    assert!(!connect(a, b).is_up(1));
}

/// Two certificates of ours, during a rotation or for two CAs: the one the peer asked for is shown (RFC 7296 §3.7), and a
/// CERTREQ that none fits is "not an error condition".
#[test]
fn the_certificate_fits_the_request_if_any_does() {
    let by = |root: &str, leaf: &str| CertifiedKey {
        chain: vec![cert(leaf), cert(root)],
        key: key("p256"),
    };
    let both = || vec![by("root-rsa", "by-rsa"), by("root-p384", "by-p384")];
    for (root, subject) in [("root-rsa", "by-rsa"), ("root-p384", "by-p384")] {
        let (a, b) = ends(both(), trust(&[root]));
        let pump = connect(a, b);
        assert!(pump.is_up(1), "{:?}", pump.failures(1));
        assert!(pump.sa(1).peer_certificate.unwrap().subject.ends_with(subject));
    }
    let (a, b) = ends(both(), trust(&["root"]));
    let pump = connect(a, b);
    assert!(
        !pump.is_up(1) && pump.failures(1)[0].verdict.contains("CN=by-rsa"),
        "{:?}",
        pump.failures(1)
    );
    // By time, and by what the peer can verify.
    let list = both();
    let usable = |own: &CertifiedKey| own.chain[0] == list[1].chain[0];
    assert_eq!(CertifiedKey::choose(&list, &[], &[], NOW, usable), Some(&list[1]));
    assert_eq!(CertifiedKey::choose(&list, &[], &[], NOW, |_| true), Some(&list[0]));
    assert_eq!(
        CertifiedKey::choose(&list, &[[7; 20]], &[], NOW, |_| false),
        Some(&list[0])
    );
    assert_eq!(CertifiedKey::choose(&[], &[], &[], NOW, |_| true), None);
}

/// RFC 7296 §3.6: "Implementations MUST be capable of being configured to send and accept up to four X.509 certificates".
#[test]
fn at_most_four_certificates_are_sent_and_no_root() {
    let own = CertifiedKey {
        chain: [
            "gw-p256",
            "inter",
            "inter-deep",
            "root",
            "inter-no-ca",
            "inter-revoked",
            "nc-dns",
        ]
        .map(cert)
        .to_vec(),
        key: key("p256"),
    };
    let sent = own.to_send();
    assert_eq!(sent.len(), 4);
    assert_eq!(*sent[0], cert("gw-p256"));
    assert!(sent.iter().all(|certificate| !certificate.is_self_issued()));
}

/// CERTREQ: "the Certification Authority value is a concatenated list of SHA-1 hashes of the public keys of trusted
/// Certification Authorities" (§3.7); what is unknown or cut is passed over.
#[test]
fn requests_name_the_keys_of_our_cas() {
    use landbridge_proto::ike::auth::{authorities, request};
    let (_, b) = ends(vec![], trust(&["root", "root-rsa"]));
    let requests = request([&b]);
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].encoding, CertEncoding::X509_SIGNATURE);
    assert_eq!(
        authorities(&requests),
        [cert("root").key_hash(), cert("root-rsa").key_hash()]
    );
    assert!(
        request([&side_a()]).is_empty(),
        "a pre-shared key asks for no certificate"
    );
    let odd = |encoding, octets: usize| CertificateRequest {
        encoding,
        authorities: vec![1; octets],
    };
    assert!(
        authorities(&[
            odd(CertEncoding::X509_SIGNATURE, 19),
            odd(CertEncoding::HASH_URL_CERT, 40)
        ])
        .is_empty()
    );
    assert_eq!(authorities(&[odd(CertEncoding::X509_SIGNATURE, 65_000)]).len(), 256);
}

/// Only X.509 certificates count among CERT payloads: nothing is fetched (CVE-2022-40617), whatever is asked for.
#[test]
fn hash_and_url_is_not_followed() {
    use landbridge_proto::crypto::{IKE_PROVIDER, Secret};
    use landbridge_proto::ike::auth::{AuthError, SignedOctets, verify};
    use landbridge_proto::ike::keys::{Binding, IkeKeys};
    use landbridge_proto::policy::connection::RemoteAuth;
    use landbridge_proto::policy::proposal::IkeProposal;
    use landbridge_proto::wire::{AuthMethod, Authentication, IkeSpi};
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
    let gw = id("gw.example");
    let octets = SignedOctets {
        message: b"m",
        peer_nonce: &[2; 32],
        id: &gw,
        initiator: true,
        intermediate: &[],
    };
    let remote = RemoteAuth {
        id: Some(gw.clone()),
        credential: RemoteCredential::Certificates(Arc::new(trust(&["root"]))),
    };
    let auth = Authentication {
        method: AuthMethod::ECDSA_P256_SHA256,
        data: vec![1; 64],
    };
    for encoding in [12, 13, 1, 7, 15, 200].map(CertEncoding) {
        let certs = [Payload {
            encoding,
            data: file("gw-p256.crt"),
        }];
        let error = verify(&IKE_PROVIDER, &keys, &remote, &octets, &auth, &certs, NOW).unwrap_err();
        let AuthError::Certificate(error) = error else {
            panic!("{error}")
        };
        assert_eq!(*error, PkiError::NoCertificate);
    }
}

/// A key that signs elsewhere with a certificate: the chain waits with it.
#[test]
fn a_slow_key_has_its_certificates_with_it() {
    let (a, mut b) = ends(vec![own("gw-rsa2048", "rsa2048")], trust(&["root"]));
    b.remote.id = None;
    let pump = connect(a, b);
    assert!(pump.is_up(0) && pump.is_up(1), "{:?}", pump.failures(1));
    let _: &SigningKey = &key("rsa2048");
}

/// A reload at the responder; the clock stands still.
fn reload(pump: &mut Pump, side: &Connection) {
    let mut config = landbridge_proto::policy::connection::Config::default();
    config
        .connections
        .insert(Arc::clone(&side.name), Arc::new(side.clone()));
    let now = pump.at();
    pump.ends[1].reconfigure(now, Arc::new(config));
    pump.drain();
    pump.deliver_all();
}

/// What is taken away ends what was made with it, in SAs that were rekeyed too; a renewed list or CA ends nothing.
#[test]
fn who_is_locked_out_goes_and_who_is_not_stays() {
    let with = |side: &Connection, trusted: Trust| {
        let mut side = side.clone();
        side.remote.credential = RemoteCredential::Certificates(Arc::new(trusted));
        side
    };
    let lists = |roots: &[&str]| Trust {
        crls: vec![crl("root"), crl("inter")],
        ..trust(roots)
    };
    for (leaf, trusted, stays) in [
        ("gw-p256", lists(&["root"]), true),
        ("gw-p256", trust(&["root", "root-rsa"]), true),
        ("revoked", lists(&["root"]), false),
        ("gw-p256", trust(&["root-rsa"]), false),
    ] {
        let (a, b) = ends(vec![own(leaf, "p256")], trust(&["root"]));
        let mut pump = connect(a, b.clone());
        assert!(pump.is_up(0) && pump.is_up(1), "{leaf}: {:?}", pump.failures(1));
        let now = pump.at();
        let rekey = Command::RekeyIke {
            connection: SITE.into(),
        };
        pump.ends[0].handle_command(now, rekey).unwrap();
        pump.drain();
        pump.deliver_all();
        let spi = pump.sa(1).spi_i;
        pump.reconnect = false;
        reload(&mut pump, &with(&b, trusted));
        assert_eq!((pump.is_up(0), pump.is_up(1)), (stays, stays), "{leaf}");
        if stays {
            assert_eq!(pump.sa(1).spi_i, spi);
            continue;
        }
        assert!(pump.sad[0].pairs.is_empty() && pump.sad[1].pairs.is_empty(), "{leaf}");
        let told = pump.failures(1);
        assert!(
            told.iter().any(|failure| failure.verdict.contains("was taken away")),
            "{told:?}"
        );
    }
}
