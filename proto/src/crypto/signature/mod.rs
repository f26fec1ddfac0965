//! Keys that sign and verify AUTH and certificates: Ed25519 (RFC 8032, 8410, 8420), ECDSA over P-256, P-384 and P-521
//! (RFC 4754, 7427), RSA from 2048 bits on (RFC 8017).
//!
//! SHA-1 is in no scheme (RFC 8247 §3.2: "SHA1 ... MUST NOT"), and a key that is too weak is no [`VerifyingKey`]: what
//! can't be made can't be trusted by mistake.

mod identifier;
mod private;
mod public;

pub use private::{SignError, SigningKey};
pub use public::VerifyingKey;

/// The signature does not verify.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("signature does not verify")]
pub struct SignatureError;

/// Not a key that is taken. What it holds is not repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyFormatError {
    /// Not in this form.
    #[error("not a key in {0}")]
    Form(&'static str),
    /// Of another kind.
    #[error("the key is neither Ed25519, ECDSA on P-256, P-384 or P-521, nor RSA")]
    Kind,
    /// An RSA key that is not safe to use (CVE-2026-14957, 2018-16151: exponents 0, 1 and 3).
    #[error("the RSA key is not safe: {0}")]
    Rsa(&'static str),
}

/// Kinds of keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum KeyKind {
    /// Ed25519 (RFC 8410).
    Ed25519,
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// ECDSA on P-521.
    P521,
    /// RSA with a modulus of so many bits.
    Rsa(usize),
}

impl std::fmt::Display for KeyKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::P256 => f.write_str("ECDSA P-256"),
            Self::P384 => f.write_str("ECDSA P-384"),
            Self::P521 => f.write_str("ECDSA P-521"),
            Self::Rsa(bits) => write!(f, "RSA {bits}"),
        }
    }
}

/// Hashes that signatures are made over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Hash {
    /// SHA2-256.
    Sha256,
    /// SHA2-384.
    Sha384,
    /// SHA2-512.
    Sha512,
}

impl Hash {
    /// Of a message.
    #[must_use]
    pub fn digest(self, message: &[u8]) -> Vec<u8> {
        use sha2::Digest;
        match self {
            Self::Sha256 => sha2::Sha256::digest(message).to_vec(),
            Self::Sha384 => sha2::Sha384::digest(message).to_vec(),
            Self::Sha512 => sha2::Sha512::digest(message).to_vec(),
        }
    }

    /// Octets of a digest.
    #[must_use]
    pub const fn octets(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA2-256",
            Self::Sha384 => "SHA2-384",
            Self::Sha512 => "SHA2-512",
        }
    }
}

/// How a signature is made. An ECDSA signature is always the DER of ECDSA-Sig-Value (RFC 3279 §2.2.3); [`ecdsa_fixed`]
/// makes the form of RFC 4754 of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scheme {
    /// Ed25519 over the message itself (RFC 8420).
    Ed25519,
    /// ECDSA.
    Ecdsa(Hash),
    /// RSASSA-PSS, MGF1 with the same hash, salt of the hash's length.
    RsaPss(Hash),
    /// RSASSA-PKCS1-v1_5.
    RsaPkcs1(Hash),
}

impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Ecdsa(hash) => write!(f, "ECDSA with {}", hash.name()),
            Self::RsaPss(hash) => write!(f, "RSASSA-PSS with {}", hash.name()),
            Self::RsaPkcs1(hash) => write!(f, "RSASSA-PKCS1-v1_5 with {}", hash.name()),
        }
    }
}

impl Scheme {
    /// Whether a key of this kind makes and verifies such signatures.
    #[must_use]
    pub const fn fits(self, kind: KeyKind) -> bool {
        match (self, kind) {
            (Self::Ed25519, KeyKind::Ed25519)
            | (Self::Ecdsa(_), KeyKind::P256 | KeyKind::P384)
            | (Self::RsaPss(_) | Self::RsaPkcs1(_), KeyKind::Rsa(_)) => true,
            // A digest of less than half the field's length wastes the curve.
            (Self::Ecdsa(hash), KeyKind::P521) => hash.octets() > 32,
            _ => false,
        }
    }
}

/// The schemes a key of a kind signs with, the preferred one first: the hash that is as strong as the key, then those
/// that are stronger, then weaker ones; for RSA PSS (RFC 8247 §3.2: "RSASSA-PSS MUST be supported and RSASSA-PKCS1-v1.5
/// MAY be supported").
#[must_use]
pub fn schemes(kind: KeyKind) -> Vec<Scheme> {
    use Hash::{Sha256, Sha384, Sha512};
    match kind {
        KeyKind::Ed25519 => vec![Scheme::Ed25519],
        KeyKind::P256 => [Sha256, Sha384, Sha512].map(Scheme::Ecdsa).to_vec(),
        KeyKind::P384 => [Sha384, Sha512, Sha256].map(Scheme::Ecdsa).to_vec(),
        KeyKind::P521 => [Sha512, Sha384].map(Scheme::Ecdsa).to_vec(),
        KeyKind::Rsa(_) => {
            let hashes = [Sha256, Sha384, Sha512];
            [hashes.map(Scheme::RsaPss), hashes.map(Scheme::RsaPkcs1)].concat()
        }
    }
}

/// Octets of each of the two numbers in a signature of RFC 4754.
const fn field_octets(kind: KeyKind) -> Option<usize> {
    match kind {
        KeyKind::P256 => Some(32),
        KeyKind::P384 => Some(48),
        KeyKind::P521 => Some(66),
        _ => None,
    }
}

/// DER to the form of RFC 4754 §7: r | s, each of the curve's length. `None` if it is no ECDSA signature.
#[must_use]
pub fn ecdsa_fixed(kind: KeyKind, der: &[u8]) -> Option<Vec<u8>> {
    match kind {
        KeyKind::P256 => Some(p256::ecdsa::Signature::from_der(der).ok()?.to_bytes().to_vec()),
        KeyKind::P384 => Some(p384::ecdsa::Signature::from_der(der).ok()?.to_bytes().to_vec()),
        KeyKind::P521 => Some(p521::ecdsa::Signature::from_der(der).ok()?.to_bytes().to_vec()),
        _ => None,
    }
}

/// The form of RFC 4754 (and of PKCS#11) to DER. `None` if its length is not exactly the curve's (RFC 4754 §7), or a
/// number is out of range.
#[must_use]
pub fn ecdsa_der(kind: KeyKind, fixed: &[u8]) -> Option<Vec<u8>> {
    if fixed.len() != 2 * field_octets(kind)? {
        return None;
    }
    match kind {
        KeyKind::P256 => Some(
            p256::ecdsa::Signature::from_slice(fixed)
                .ok()?
                .to_der()
                .as_bytes()
                .to_vec(),
        ),
        KeyKind::P384 => Some(
            p384::ecdsa::Signature::from_slice(fixed)
                .ok()?
                .to_der()
                .as_bytes()
                .to_vec(),
        ),
        KeyKind::P521 => Some(
            p521::ecdsa::Signature::from_slice(fixed)
                .ok()?
                .to_der()
                .as_bytes()
                .to_vec(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
