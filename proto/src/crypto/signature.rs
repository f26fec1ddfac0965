//! Ed25519 keys (RFC 8032, 8410, 8420).

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use ed25519_dalek::{Signature, Signer};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

/// An Ed25519 private key (RFC 8420). Signing is deterministic.
pub struct SigningKey(ed25519_dalek::SigningKey);

/// A public key that verifies AUTH (RFC 7427 §3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

/// The signature does not verify.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("signature does not verify")]
pub struct SignatureError;

/// Not a key of this kind. What it holds is not repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an Ed25519 key in {0}")]
pub struct KeyFormatError(&'static str);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey")
    }
}

impl SigningKey {
    /// A fresh key.
    #[must_use]
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut());
        Self(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    /// From PKCS#8 PEM (`-----BEGIN PRIVATE KEY-----`; RFC 8410 §7).
    ///
    /// # Errors
    /// [`KeyFormatError`].
    pub fn from_pem(text: &str) -> Result<Self, KeyFormatError> {
        ed25519_dalek::SigningKey::from_pkcs8_pem(text.trim())
            .map(Self)
            .map_err(|_| KeyFormatError("PKCS#8 PEM"))
    }

    /// To PKCS#8 PEM.
    ///
    /// # Errors
    /// [`KeyFormatError`] if it can't be encoded.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, KeyFormatError> {
        // Without the public key inside: version 1, which every tool reads (RFC 8410 §7).
        let bytes = ed25519_dalek::pkcs8::KeypairBytes {
            secret_key: self.0.to_bytes(),
            public_key: None,
        };
        bytes
            .to_pkcs8_pem(LineEnding::LF)
            .map_err(|_| KeyFormatError("PKCS#8 PEM"))
    }

    /// Signs; 64 octets.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).to_bytes().to_vec()
    }

    /// The public half.
    #[must_use]
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key())
    }
}

impl VerifyingKey {
    /// From SubjectPublicKeyInfo in PEM (`-----BEGIN PUBLIC KEY-----`).
    ///
    /// # Errors
    /// [`KeyFormatError`].
    pub fn from_pem(text: &str) -> Result<Self, KeyFormatError> {
        ed25519_dalek::VerifyingKey::from_public_key_pem(text.trim())
            .map(Self)
            .map_err(|_| KeyFormatError("SubjectPublicKeyInfo PEM"))
    }

    /// From SubjectPublicKeyInfo in DER, as a raw public key travels in CERT (RFC 7670 §3).
    ///
    /// # Errors
    /// [`KeyFormatError`].
    pub fn from_spki_der(der: &[u8]) -> Result<Self, KeyFormatError> {
        ed25519_dalek::VerifyingKey::from_public_key_der(der)
            .map(Self)
            .map_err(|_| KeyFormatError("SubjectPublicKeyInfo DER"))
    }

    /// To SubjectPublicKeyInfo in PEM.
    ///
    /// # Errors
    /// [`KeyFormatError`] if it can't be encoded.
    pub fn to_pem(&self) -> Result<String, KeyFormatError> {
        self.0
            .to_public_key_pem(LineEnding::LF)
            .map_err(|_| KeyFormatError("SubjectPublicKeyInfo PEM"))
    }

    /// To SubjectPublicKeyInfo in DER (RFC 8410 §4): 12 fixed octets and the key.
    #[must_use]
    pub fn to_spki_der(&self) -> Vec<u8> {
        const PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        [&PREFIX[..], self.0.as_bytes()].concat()
    }

    /// Verifies strictly: no small-order keys, no malleable signatures.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        let signature = Signature::from_slice(signature).map_err(|_| SignatureError)?;
        self.0.verify_strict(message, &signature).map_err(|_| SignatureError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    #[test]
    fn keys_survive_pem_and_der() {
        let key = SigningKey::generate(&mut ChaCha20Rng::seed_from_u64(1));
        let again = SigningKey::from_pem(&key.to_pem().unwrap()).unwrap();
        let public = key.verifying_key();
        assert_eq!(again.verifying_key(), public);
        assert_eq!(VerifyingKey::from_pem(&public.to_pem().unwrap()).unwrap(), public);
        assert_eq!(VerifyingKey::from_spki_der(&public.to_spki_der()).unwrap(), public);
        assert!(SigningKey::from_pem("-----BEGIN PRIVATE KEY-----\nMAo=\n-----END PRIVATE KEY-----").is_err());
    }

    #[test]
    fn only_the_right_key_and_message_verify() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let (key, other) = (SigningKey::generate(&mut rng), SigningKey::generate(&mut rng));
        let signature = key.sign(b"octets");
        assert_eq!(key.verifying_key().verify(b"octets", &signature), Ok(()));
        assert!(key.verifying_key().verify(b"octetS", &signature).is_err());
        assert!(other.verifying_key().verify(b"octets", &signature).is_err());
        assert!(key.verifying_key().verify(b"octets", &signature[..63]).is_err());
    }
}
