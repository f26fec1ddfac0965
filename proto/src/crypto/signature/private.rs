//! Private keys. Those whose signatures need no randomness sign here; all others sign elsewhere, at the caller's: RSA
//! (RSASSA-PSS takes a random salt), and keys that no program can read, in a token.

use super::{KeyFormatError, KeyKind, Scheme, VerifyingKey};
use ed25519_dalek::Signer;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use p256::ecdsa::signature::hazmat::PrehashSigner;
use rand_core::CryptoRng;
use std::sync::Arc;
use zeroize::Zeroizing;

/// A private key that can be asked for signatures.
pub struct SigningKey {
    public: VerifyingKey,
    schemes: Vec<Scheme>,
    private: Private,
}

enum Private {
    Ed25519(ed25519_dalek::SigningKey),
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    P521(p521::ecdsa::SigningKey),
    Elsewhere(Arc<str>),
}

/// Why there is no signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SignError {
    /// The caller has to have it made.
    #[error("the key signs elsewhere")]
    Elsewhere,
    /// Not for this kind of key.
    #[error("the scheme does not fit the key")]
    Scheme,
}

/// Keys are the same if their public halves are, if they sign in the same way, and if they are kept in the same place.
impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        self.public == other.public && self.schemes == other.schemes && self.elsewhere() == other.elsewhere()
    }
}
impl Eq for SigningKey {}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.public.kind())
    }
}

impl SigningKey {
    /// A fresh Ed25519 key.
    #[must_use]
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut());
        Self::ed25519(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    /// A key from its secret octets: Ed25519's seed, or the number of an ECDSA key, big-endian. `None` if they are no key of
    /// this kind: a number may be out of range, though hardly ever.
    #[must_use]
    pub fn from_secret(kind: KeyKind, octets: &[u8]) -> Option<Self> {
        match kind {
            KeyKind::Ed25519 => Some(Self::ed25519(ed25519_dalek::SigningKey::from_bytes(
                octets.try_into().ok()?,
            ))),
            KeyKind::P256 => Self::p256(p256::SecretKey::from_slice(octets).ok()?.into()).ok(),
            KeyKind::P384 => Self::p384(p384::SecretKey::from_slice(octets).ok()?.into()).ok(),
            KeyKind::P521 => Self::p521(p521::SecretKey::from_slice(octets).ok()?.into()).ok(),
            KeyKind::Rsa(_) => None,
        }
    }

    /// A key whose signatures are made by the caller (`ike::Event::Sign`), who knows it as `name`.
    #[must_use]
    pub fn kept_elsewhere(public: VerifyingKey, name: Arc<str>) -> Self {
        Self::new(public, Private::Elsewhere(name))
    }

    fn new(public: VerifyingKey, private: Private) -> Self {
        Self {
            schemes: super::schemes(public.kind()),
            public,
            private,
        }
    }

    /// The same key, but signing only with these schemes, the preferred one first; those that don't fit it are left out.
    #[must_use]
    pub fn with_schemes(mut self, schemes: &[Scheme]) -> Self {
        let kind = self.public.kind();
        self.schemes = schemes.iter().copied().filter(|scheme| scheme.fits(kind)).collect();
        self
    }

    /// What it signs with, the preferred scheme first.
    #[must_use]
    pub fn schemes(&self) -> &[Scheme] {
        &self.schemes
    }

    /// From PEM: PKCS#8 (`PRIVATE KEY`; RFC 5958, 8410), or SEC 1 (`EC PRIVATE KEY`; RFC 5915). RSA keys don't sign here.
    ///
    /// # Errors
    /// [`KeyFormatError`].
    pub fn from_pem(text: &str) -> Result<Self, KeyFormatError> {
        let text = text.trim();
        if let Ok(key) = ed25519_dalek::SigningKey::from_pkcs8_pem(text) {
            return Ok(Self::ed25519(key));
        }
        if let Ok(key) = p256::SecretKey::from_pkcs8_pem(text).or_else(|_| sec1(text, p256::SecretKey::from_sec1_der)) {
            return Self::p256(key.into());
        }
        if let Ok(key) = p384::SecretKey::from_pkcs8_pem(text).or_else(|_| sec1(text, p384::SecretKey::from_sec1_der)) {
            return Self::p384(key.into());
        }
        if let Ok(key) = p521::SecretKey::from_pkcs8_pem(text).or_else(|_| sec1(text, p521::SecretKey::from_sec1_der)) {
            return Self::p521(key.into());
        }
        Err(KeyFormatError::Form("PKCS#8 or SEC 1 PEM"))
    }

    fn ed25519(key: ed25519_dalek::SigningKey) -> Self {
        Self::new(VerifyingKey::ed25519(&key.verifying_key()), Private::Ed25519(key))
    }

    fn p256(key: p256::ecdsa::SigningKey) -> Result<Self, KeyFormatError> {
        Ok(Self::new(
            VerifyingKey::p256(&key.verifying_key().into())?,
            Private::P256(key),
        ))
    }

    fn p384(key: p384::ecdsa::SigningKey) -> Result<Self, KeyFormatError> {
        Ok(Self::new(
            VerifyingKey::p384(&key.verifying_key().into())?,
            Private::P384(key),
        ))
    }

    fn p521(key: p521::ecdsa::SigningKey) -> Result<Self, KeyFormatError> {
        Ok(Self::new(
            VerifyingKey::p521(&key.verifying_key().into())?,
            Private::P521(key),
        ))
    }

    /// To PKCS#8 PEM.
    ///
    /// # Errors
    /// [`KeyFormatError`] if it is kept elsewhere or can't be encoded.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, KeyFormatError> {
        let failed = KeyFormatError::Form("PKCS#8 PEM");
        match &self.private {
            Private::Ed25519(key) => {
                // Without the public key inside: version 1, which every tool reads (RFC 8410 §7).
                let bytes = ed25519_dalek::pkcs8::KeypairBytes {
                    secret_key: key.to_bytes(),
                    public_key: None,
                };
                bytes.to_pkcs8_pem(LineEnding::LF).map_err(|_| failed)
            }
            Private::P256(key) => key.to_pkcs8_pem(LineEnding::LF).map_err(|_| failed),
            Private::P384(key) => key.to_pkcs8_pem(LineEnding::LF).map_err(|_| failed),
            Private::P521(key) => p521::SecretKey::from_bytes(&key.to_bytes())
                .map_err(|_| failed)
                .and_then(|key| key.to_pkcs8_pem(LineEnding::LF).map_err(|_| failed)),
            Private::Elsewhere(_) => Err(failed),
        }
    }

    /// The name of a key that signs elsewhere.
    #[must_use]
    pub fn elsewhere(&self) -> Option<&Arc<str>> {
        match &self.private {
            Private::Elsewhere(name) => Some(name),
            _ => None,
        }
    }

    /// Signs, if it can be done here: deterministically (RFC 8032; RFC 6979).
    ///
    /// # Errors
    /// [`SignError`].
    pub fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, SignError> {
        if !scheme.fits(self.public.kind()) {
            return Err(SignError::Scheme);
        }
        let digest = match scheme {
            Scheme::Ecdsa(hash) => hash.digest(message),
            _ => Vec::new(),
        };
        match &self.private {
            Private::Ed25519(key) => Ok(key.sign(message).to_bytes().to_vec()),
            Private::P256(key) => PrehashSigner::<p256::ecdsa::Signature>::sign_prehash(key, &digest)
                .map(|signature| signature.to_der().as_bytes().to_vec())
                .map_err(|_| SignError::Scheme),
            Private::P384(key) => PrehashSigner::<p384::ecdsa::Signature>::sign_prehash(key, &digest)
                .map(|signature| signature.to_der().as_bytes().to_vec())
                .map_err(|_| SignError::Scheme),
            Private::P521(key) => PrehashSigner::<p521::ecdsa::Signature>::sign_prehash(key, &digest)
                .map(|signature| signature.to_der().as_bytes().to_vec())
                .map_err(|_| SignError::Scheme),
            Private::Elsewhere(_) => Err(SignError::Elsewhere),
        }
    }

    /// The public half.
    #[must_use]
    pub fn verifying_key(&self) -> VerifyingKey {
        self.public.clone()
    }
}

/// `EC PRIVATE KEY`, which tools still write.
fn sec1<K, E>(text: &str, read: fn(&[u8]) -> Result<K, E>) -> Result<K, ()> {
    use x509_cert::der::SecretDocument;
    let (label, document) = SecretDocument::from_pem(text).map_err(|_| ())?;
    if label != "EC PRIVATE KEY" {
        return Err(());
    }
    read(document.as_bytes()).map_err(|_| ())
}
