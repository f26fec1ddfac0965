//! Private keys of `data/keys`, and RSA signatures as the daemon would make them.
#![allow(dead_code, reason = "each test file uses what it needs")]

use landbridge_proto::crypto::{Hash, Scheme, SigningKey, VerifyingKey};
use std::path::Path;
use std::sync::Arc;

/// A file of `data/keys`.
pub fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/keys").join(name)).unwrap()
}

fn text(name: &str) -> String {
    String::from_utf8(file(name)).unwrap()
}

/// A key by the name of its file; RSA keys sign elsewhere.
pub fn key(name: &str) -> Arc<SigningKey> {
    let private = text(&format!("{name}.pem"));
    let key = SigningKey::from_pem(&private).unwrap_or_else(|_| {
        let public = VerifyingKey::from_pem(&text(&format!("{name}-pub.pem"))).unwrap();
        SigningKey::kept_elsewhere(public, name.into())
    });
    Arc::new(key)
}

/// The DER in a PEM text of one block.
pub fn der(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    base64(&body)
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::new();
    let (mut word, mut bits) = (0_u32, 0);
    for digit in text.bytes().filter(|b| *b != b'=') {
        word = word << 6 | DIGITS.iter().position(|d| *d == digit).unwrap() as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits) as u8);
        }
    }
    out
}

/// Signs with an RSA key of `data/keys`.
pub fn sign_rsa(name: &str, scheme: Scheme, message: &[u8]) -> Vec<u8> {
    use ring::signature;
    let key = ring::rsa::KeyPair::from_pkcs8(&der(&text(&format!("{name}.pem")))).unwrap();
    let padding: &'static dyn signature::RsaEncoding = match scheme {
        Scheme::RsaPss(Hash::Sha256) => &signature::RSA_PSS_SHA256,
        Scheme::RsaPss(Hash::Sha384) => &signature::RSA_PSS_SHA384,
        Scheme::RsaPss(Hash::Sha512) => &signature::RSA_PSS_SHA512,
        Scheme::RsaPkcs1(Hash::Sha256) => &signature::RSA_PKCS1_SHA256,
        Scheme::RsaPkcs1(Hash::Sha384) => &signature::RSA_PKCS1_SHA384,
        Scheme::RsaPkcs1(Hash::Sha512) => &signature::RSA_PKCS1_SHA512,
        _ => panic!("{scheme} is not RSA's"),
    };
    let mut out = vec![0; key.public().modulus_len()];
    key.sign(padding, &ring::rand::SystemRandom::new(), message, &mut out)
        .unwrap();
    out
}
