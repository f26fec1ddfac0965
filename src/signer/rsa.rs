//! RSA keys from files, by `ring`.

use super::Signer;
use landbridge_proto::crypto::{Hash, Scheme, VerifyingKey};
use ring::rand::SystemRandom;
use ring::signature::{self, KeyPair, RsaEncoding};

/// An RSA private key of 2048 to 4096 bits.
#[derive(Debug)]
pub struct RsaSigner {
    key: ring::rsa::KeyPair,
    random: SystemRandom,
}

/// Reads an RSA key: PKCS#8 (`pkcs1` false) or PKCS#1 in DER; `None` if it is none that `ring` takes.
#[must_use]
pub fn read(der: &[u8], pkcs1: bool) -> Option<(VerifyingKey, RsaSigner)> {
    let key = if pkcs1 {
        ring::rsa::KeyPair::from_der(der)
    } else {
        ring::rsa::KeyPair::from_pkcs8(der)
    }
    .ok()?;
    let public = VerifyingKey::from_rsa_der(key.public_key().as_ref()).ok()?;
    let random = SystemRandom::new();
    Some((public, RsaSigner { key, random }))
}

impl Signer for RsaSigner {
    fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, String> {
        let padding: &'static dyn RsaEncoding = match scheme {
            Scheme::RsaPss(Hash::Sha256) => &signature::RSA_PSS_SHA256,
            Scheme::RsaPss(Hash::Sha384) => &signature::RSA_PSS_SHA384,
            Scheme::RsaPss(Hash::Sha512) => &signature::RSA_PSS_SHA512,
            Scheme::RsaPkcs1(Hash::Sha256) => &signature::RSA_PKCS1_SHA256,
            Scheme::RsaPkcs1(Hash::Sha384) => &signature::RSA_PKCS1_SHA384,
            Scheme::RsaPkcs1(Hash::Sha512) => &signature::RSA_PKCS1_SHA512,
            Scheme::Ed25519 | Scheme::Ecdsa(_) => return Err(format!("an RSA key makes no {scheme} signature")),
        };
        let mut out = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(padding, &self.random, message, &mut out)
            .map_err(|_| "signing failed".to_owned())?;
        Ok(out)
    }
}
