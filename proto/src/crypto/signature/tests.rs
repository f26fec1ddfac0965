//! Against keys and signatures made by OpenSSL (`proto/tests/data/keys/make`).

use super::*;

macro_rules! text {
    ($name:literal) => {
        include_str!(concat!("../../../tests/data/keys/", $name))
    };
}
macro_rules! octets {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/data/keys/", $name)).as_slice()
    };
}

const MESSAGE: &[u8] = include_bytes!("../../../tests/data/keys/message");

fn made_elsewhere() -> Vec<(&'static str, Scheme, &'static [u8])> {
    use Hash::{Sha256, Sha384, Sha512};
    vec![
        (text!("ed25519-pub.pem"), Scheme::Ed25519, octets!("ed25519.sig")),
        (text!("p256-pub.pem"), Scheme::Ecdsa(Sha256), octets!("p256-sha256.sig")),
        (text!("p256-pub.pem"), Scheme::Ecdsa(Sha384), octets!("p256-sha384.sig")),
        (text!("p256-pub.pem"), Scheme::Ecdsa(Sha512), octets!("p256-sha512.sig")),
        (text!("p384-pub.pem"), Scheme::Ecdsa(Sha256), octets!("p384-sha256.sig")),
        (text!("p384-pub.pem"), Scheme::Ecdsa(Sha384), octets!("p384-sha384.sig")),
        (text!("p384-pub.pem"), Scheme::Ecdsa(Sha512), octets!("p384-sha512.sig")),
        (text!("p521-pub.pem"), Scheme::Ecdsa(Sha384), octets!("p521-sha384.sig")),
        (text!("p521-pub.pem"), Scheme::Ecdsa(Sha512), octets!("p521-sha512.sig")),
        (
            text!("rsa2048-pub.pem"),
            Scheme::RsaPkcs1(Sha256),
            octets!("rsa2048-pkcs1-sha256.sig"),
        ),
        (
            text!("rsa2048-pub.pem"),
            Scheme::RsaPkcs1(Sha384),
            octets!("rsa2048-pkcs1-sha384.sig"),
        ),
        (
            text!("rsa2048-pub.pem"),
            Scheme::RsaPkcs1(Sha512),
            octets!("rsa2048-pkcs1-sha512.sig"),
        ),
        (
            text!("rsa3072-pub.pem"),
            Scheme::RsaPss(Sha256),
            octets!("rsa3072-pss-sha256.sig"),
        ),
        (
            text!("rsa3072-pub.pem"),
            Scheme::RsaPss(Sha384),
            octets!("rsa3072-pss-sha384.sig"),
        ),
        (
            text!("rsa3072-pub.pem"),
            Scheme::RsaPss(Sha512),
            octets!("rsa3072-pss-sha512.sig"),
        ),
    ]
}

#[test]
fn signatures_of_openssl_verify_and_nothing_else_does() {
    let all = made_elsewhere();
    for (pem, scheme, signature) in &all {
        let key = VerifyingKey::from_pem(pem).unwrap();
        assert_eq!(key.verify(*scheme, MESSAGE, signature), Ok(()), "{scheme} by {key:?}");
        assert!(key.verify(*scheme, b"another message", signature).is_err(), "{scheme}");
        assert!(key.verify(*scheme, MESSAGE, &signature[1..]).is_err(), "{scheme}");
        assert!(key.verify(*scheme, MESSAGE, &[]).is_err(), "{scheme}");
        for at in [0, signature.len() / 2, signature.len() - 1] {
            let mut broken = signature.to_vec();
            broken[at] ^= 1;
            assert!(key.verify(*scheme, MESSAGE, &broken).is_err(), "{scheme}, octet {at}");
        }
        // Another scheme, or another key, never verifies it.
        for (other, another, _) in &all {
            let other = VerifyingKey::from_pem(other).unwrap();
            if another != scheme || other != key {
                assert!(
                    other.verify(*another, MESSAGE, signature).is_err(),
                    "{scheme} as {another} by {other:?}"
                );
            }
        }
    }
}

#[test]
fn keys_of_openssl_are_read_and_sign() {
    for (private, public) in [
        (text!("ed25519.pem"), text!("ed25519-pub.pem")),
        (text!("p256.pem"), text!("p256-pub.pem")),
        (text!("p256-sec1.pem"), text!("p256-pub.pem")),
        (text!("p384.pem"), text!("p384-pub.pem")),
        (text!("p384-sec1.pem"), text!("p384-pub.pem")),
        (text!("p521.pem"), text!("p521-pub.pem")),
        (text!("p521-sec1.pem"), text!("p521-pub.pem")),
    ] {
        let key = SigningKey::from_pem(private).unwrap();
        let public = VerifyingKey::from_pem(public).unwrap();
        assert_eq!(key.verifying_key(), public);
        assert_eq!(SigningKey::from_pem(&key.to_pem().unwrap()).unwrap(), key);
        assert_eq!(VerifyingKey::from_pem(&public.to_pem().unwrap()).unwrap(), public);
        assert_eq!(VerifyingKey::from_spki_der(&public.to_spki_der()).unwrap(), public);
        for scheme in schemes(public.kind()) {
            let signature = key.sign(scheme, MESSAGE).unwrap();
            assert_eq!(public.verify(scheme, MESSAGE, &signature), Ok(()), "{scheme}");
            assert_eq!(
                key.sign(scheme, MESSAGE).unwrap(),
                signature,
                "signing is deterministic"
            );
            if let Scheme::Ecdsa(_) = scheme {
                let fixed = ecdsa_fixed(public.kind(), &signature).unwrap();
                assert_eq!(ecdsa_der(public.kind(), &fixed).unwrap(), signature);
                // RFC 4754 §7: a signature of another length is none.
                assert_eq!(ecdsa_der(public.kind(), &fixed[1..]), None);
                assert_eq!(ecdsa_der(public.kind(), &[&[0], &fixed[..]].concat()), None);
            }
        }
        assert_eq!(key.sign(Scheme::RsaPss(Hash::Sha256), MESSAGE), Err(SignError::Scheme));
    }
}

#[test]
fn weak_and_foreign_keys_are_no_keys() {
    let rsa = |pem| matches!(VerifyingKey::from_pem(pem), Err(KeyFormatError::Rsa(_)));
    assert!(rsa(text!("rsa1024-pub.pem")), "1024 bits");
    assert!(rsa(text!("rsa2048-e3-pub.pem")), "exponent 3");
    for foreign in [text!("ed448-pub.pem"), text!("k256-pub.pem")] {
        assert_eq!(VerifyingKey::from_pem(foreign), Err(KeyFormatError::Kind));
    }
    for foreign in [
        text!("ed448.pem"),
        text!("k256.pem"),
        text!("rsa2048.pem"),
        text!("p256-pub.pem"),
        "",
    ] {
        assert!(SigningKey::from_pem(foreign).is_err());
    }
}

/// RSAPublicKey with these octets as modulus and exponent.
fn rsa_der(n: &[u8], e: &[u8]) -> Vec<u8> {
    let integer = |octets: &[u8]| {
        let mut value = if octets.first().is_some_and(|first| *first >= 0x80) {
            vec![0]
        } else {
            vec![]
        };
        value.extend_from_slice(octets);
        [&[0x02, 0x82, (value.len() >> 8) as u8, value.len() as u8][..], &value].concat()
    };
    // DER wants the short form for the exponent.
    let exponent = [&[0x02, e.len() as u8][..], e].concat();
    let body = [integer(n), exponent].concat();
    [&[0x30, 0x82, (body.len() >> 8) as u8, body.len() as u8][..], &body].concat()
}

#[test]
fn rsa_numbers_are_checked() {
    let n = [&[0xc5; 255][..], &[0x01]].concat();
    assert!(VerifyingKey::from_rsa_der(&rsa_der(&n, &[1, 0, 1])).is_ok());
    let bad = |n: &[u8], e: &[u8], what: &str| {
        assert!(VerifyingKey::from_rsa_der(&rsa_der(n, e)).is_err(), "{what}");
    };
    bad(&n, &[0], "exponent 0");
    bad(&n, &[1], "exponent 1");
    bad(&n, &[3], "exponent 3");
    bad(&n, &[1, 0, 0], "even exponent");
    bad(&n, &[1, 0, 0, 0, 1], "exponent beyond 2^32");
    bad(&n[1..], &[1, 0, 1], "2040 bits");
    bad(&[&n[..255], &[0x02]].concat(), &[1, 0, 1], "even modulus");
    bad(&[0xc5; 1025], &[1, 0, 1], "8200 bits");
}

#[test]
fn identifiers_are_those_of_the_rfcs() {
    let hex = |text: &str| -> Vec<u8> {
        let digits: Vec<u8> = text
            .bytes()
            .filter(|b| b.is_ascii_hexdigit())
            .map(|b| (b as char).to_digit(16).unwrap() as u8)
            .collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    };
    // RFC 7427 §A.1.2, §A.3.2, §A.4.3; RFC 8420 appendix A.
    for (scheme, text) in [
        (Scheme::RsaPkcs1(Hash::Sha256), "300d 0609 2a86 4886 f70d 0101 0b05 00"),
        (Scheme::RsaPkcs1(Hash::Sha384), "300d 0609 2a86 4886 f70d 0101 0c05 00"),
        (Scheme::RsaPkcs1(Hash::Sha512), "300d 0609 2a86 4886 f70d 0101 0d05 00"),
        (Scheme::Ecdsa(Hash::Sha256), "300a 0608 2a86 48ce 3d04 0302"),
        (Scheme::Ecdsa(Hash::Sha384), "300a 0608 2a86 48ce 3d04 0303"),
        (Scheme::Ecdsa(Hash::Sha512), "300a 0608 2a86 48ce 3d04 0304"),
        (
            Scheme::RsaPss(Hash::Sha256),
            "3046 0609 2a86 4886 f70d 0101 0a30 39a0 0f30 0d06 0960 8648 0165 0304 0201 0500 a11c 301a 0609 2a86 4886 \
             f70d 0101 0830 0d06 0960 8648 0165 0304 0201 0500 a203 0201 20a3 0302 0101",
        ),
        (Scheme::Ed25519, "3005 0603 2b65 70"),
    ] {
        let der = hex(text);
        assert_eq!(Scheme::from_identifier(&der), Some(scheme), "{scheme}");
        assert_eq!(Scheme::from_identifier(&scheme.identifier()), Some(scheme));
    }
    for refused in [
        "",
        "30",
        "3000",
        "300d 0609 2a86 4886 f70d 0101 0505 00",    // sha1WithRSAEncryption
        "3009 0607 2a86 48ce 3d04 01",              // ecdsa-with-sha1
        "300d 0609 2a86 4886 f70d 0101 0a30 00",    // RFC 8247 §3.2: "RSASSA-PSS with Empty Parameters: MUST NOT"
        "300d 0609 2a86 4886 f70d 0101 0b05 00 00", // octets behind it
        "3005 0603 2b65 71",                        // Ed448
    ] {
        assert_eq!(Scheme::from_identifier(&hex(refused)), None, "{refused}");
    }
    // Another salt length, or another hash in MGF1, than the hash's own.
    let mut salt = Scheme::RsaPss(Hash::Sha256).identifier();
    let last = salt.len() - 1;
    salt[last] = 20;
    assert_eq!(Scheme::from_identifier(&salt), None);
    let mut mgf = Scheme::RsaPss(Hash::Sha256).identifier();
    let at = mgf.len() - 8;
    assert_eq!(mgf[at], 1, "the MGF's hash");
    mgf[at] = 2;
    assert_eq!(Scheme::from_identifier(&mgf), None);
}
