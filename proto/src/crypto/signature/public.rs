//! Public keys.

use super::{Hash, KeyFormatError, KeyKind, Scheme, SignatureError};
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::elliptic_curve::sec1::ToSec1Point;
use p256::pkcs8::EncodePublicKey;
use ring::signature::UnparsedPublicKey;
use x509_cert::der::asn1::{AnyRef, BitStringRef, ObjectIdentifier, UintRef};
use x509_cert::der::{Decode, Document, Reader, SliceReader};
use x509_cert::spki::SubjectPublicKeyInfoRef;

const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");

/// RFC 8247 §3.1.1: "RSA with key length smaller than 2048: SHOULD NOT"; beyond the other, verifying takes too long.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A public key that verifies AUTH and certificates.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    kind: KeyKind,
    /// SubjectPublicKeyInfo, in the one way it is written here: points uncompressed.
    spki: Vec<u8>,
    /// Ed25519: 32 octets; ECDSA: the point, uncompressed; RSA: RSAPublicKey in DER.
    key: Vec<u8>,
}

impl std::fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VerifyingKey({})", self.kind)
    }
}

impl VerifyingKey {
    /// From SubjectPublicKeyInfo in PEM (`-----BEGIN PUBLIC KEY-----`).
    ///
    /// # Errors
    /// [`KeyFormatError`].
    pub fn from_pem(text: &str) -> Result<Self, KeyFormatError> {
        let not_pem = KeyFormatError::Form("SubjectPublicKeyInfo PEM");
        let (label, document) = Document::from_pem(text.trim()).map_err(|_| not_pem)?;
        if label == "PUBLIC KEY" {
            Self::from_spki_der(document.as_bytes())
        } else {
            Err(not_pem)
        }
    }

    /// From SubjectPublicKeyInfo in DER, as a raw public key travels in CERT (RFC 7670 §3). A point must lie on its curve,
    /// an RSA key have a safe size and exponent.
    ///
    /// # Errors
    /// [`KeyFormatError`].
    pub fn from_spki_der(der: &[u8]) -> Result<Self, KeyFormatError> {
        let malformed = KeyFormatError::Form("SubjectPublicKeyInfo DER");
        let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| malformed)?;
        let key = info.subject_public_key.as_bytes().ok_or(malformed)?;
        Self::from_parts(info.algorithm.oid, info.algorithm.parameters, key)
    }

    /// From the value of an AlgorithmIdentifier (without its tag and length) and the key, as a certificate's path is
    /// verified.
    ///
    /// # Errors
    /// [`KeyFormatError`].
    pub(crate) fn from_algorithm_value(algorithm: &[u8], key: &[u8]) -> Result<Self, KeyFormatError> {
        let malformed = |_| KeyFormatError::Form("SubjectPublicKeyInfo DER");
        let mut reader = SliceReader::new(algorithm).map_err(malformed)?;
        let oid = reader.decode().map_err(malformed)?;
        let parameters = reader.decode::<Option<AnyRef<'_>>>().map_err(malformed)?;
        Self::from_parts(oid, parameters, key)
    }

    fn from_parts(oid: ObjectIdentifier, parameters: Option<AnyRef<'_>>, key: &[u8]) -> Result<Self, KeyFormatError> {
        let malformed = KeyFormatError::Form("SubjectPublicKeyInfo DER");
        match oid {
            ED25519 if parameters.is_none() => {
                let octets = key.try_into().map_err(|_| malformed)?;
                let key = ed25519_dalek::VerifyingKey::from_bytes(octets).map_err(|_| malformed)?;
                Ok(Self::ed25519(&key))
            }
            EC => match parameters.and_then(|named| named.decode_as::<ObjectIdentifier>().ok()) {
                Some(P256) => p256::PublicKey::from_sec1_bytes(key)
                    .map_err(|_| malformed)
                    .and_then(|key| Self::p256(&key)),
                Some(P384) => p384::PublicKey::from_sec1_bytes(key)
                    .map_err(|_| malformed)
                    .and_then(|key| Self::p384(&key)),
                Some(P521) => p521::PublicKey::from_sec1_bytes(key)
                    .map_err(|_| malformed)
                    .and_then(|key| Self::p521(&key)),
                _ => Err(KeyFormatError::Kind),
            },
            // RFC 3279 §2.3.1: the parameters are NULL.
            RSA if parameters.is_some_and(|p| p.is_null()) => Self::from_rsa_der(key),
            _ => Err(KeyFormatError::Kind),
        }
    }

    /// From RSAPublicKey in DER (RFC 8017 §A.1.1).
    ///
    /// # Errors
    /// [`KeyFormatError`].
    pub fn from_rsa_der(der: &[u8]) -> Result<Self, KeyFormatError> {
        let malformed = |_| KeyFormatError::Form("RSAPublicKey DER");
        let mut reader = SliceReader::new(der).map_err(malformed)?;
        let (n, e) = reader
            .sequence(|inner| {
                Ok::<_, x509_cert::der::Error>((inner.decode::<UintRef<'_>>()?, inner.decode::<UintRef<'_>>()?))
            })
            .map_err(malformed)?;
        reader.finish().map_err(malformed)?;
        let (n, e) = (n.as_bytes(), e.as_bytes());
        let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
        if !RSA_BITS.contains(&bits) {
            return Err(KeyFormatError::Rsa("its modulus is not of 2048 to 8192 bits"));
        }
        if n.last().is_none_or(|last| last % 2 == 0) {
            return Err(KeyFormatError::Rsa("its modulus is even"));
        }
        // With a small exponent one lax comparison lets forged signatures in: none below 65537 is taken (FIPS 186-5 §5.4),
        // and none so large that verifying costs.
        let exponent = e.iter().fold(0_u64, |sum, octet| sum << 8 | u64::from(*octet));
        if e.len() > 4 || exponent < 65537 || exponent % 2 == 0 {
            return Err(KeyFormatError::Rsa(
                "its exponent is not an odd number from 65537 to 2^32",
            ));
        }
        let info = SubjectPublicKeyInfoRef {
            algorithm: x509_cert::spki::AlgorithmIdentifierRef {
                oid: RSA,
                parameters: Some(AnyRef::NULL),
            },
            subject_public_key: BitStringRef::from_bytes(der).map_err(malformed)?,
        };
        Ok(Self {
            kind: KeyKind::Rsa(bits),
            spki: Document::encode_msg(&info).map_err(malformed)?.into_vec(),
            key: der.to_vec(),
        })
    }

    pub(super) fn ed25519(key: &ed25519_dalek::VerifyingKey) -> Self {
        const PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        Self {
            kind: KeyKind::Ed25519,
            spki: [&PREFIX[..], key.as_bytes()].concat(),
            key: key.as_bytes().to_vec(),
        }
    }

    pub(super) fn p256(key: &p256::PublicKey) -> Result<Self, KeyFormatError> {
        Self::from_point(KeyKind::P256, key, key.to_sec1_point(false).as_bytes())
    }

    pub(super) fn p384(key: &p384::PublicKey) -> Result<Self, KeyFormatError> {
        Self::from_point(KeyKind::P384, key, key.to_sec1_point(false).as_bytes())
    }

    pub(super) fn p521(key: &p521::PublicKey) -> Result<Self, KeyFormatError> {
        Self::from_point(KeyKind::P521, key, key.to_sec1_point(false).as_bytes())
    }

    fn from_point(kind: KeyKind, key: &impl EncodePublicKey, point: &[u8]) -> Result<Self, KeyFormatError> {
        let document = key
            .to_public_key_der()
            .map_err(|_| KeyFormatError::Form("SubjectPublicKeyInfo DER"))?;
        Ok(Self {
            kind,
            spki: document.into_vec(),
            key: point.to_vec(),
        })
    }

    /// What kind of key it is.
    #[must_use]
    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The key itself: Ed25519's 32 octets, the point uncompressed (SEC 1 §2.3.3), or RSAPublicKey in DER.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// To SubjectPublicKeyInfo in PEM.
    ///
    /// # Errors
    /// [`KeyFormatError`] if it can't be encoded.
    pub fn to_pem(&self) -> Result<String, KeyFormatError> {
        Document::try_from(self.spki.as_slice())
            .and_then(|document| document.to_pem("PUBLIC KEY", LineEnding::LF))
            .map_err(|_| KeyFormatError::Form("SubjectPublicKeyInfo PEM"))
    }

    /// SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn to_spki_der(&self) -> Vec<u8> {
        self.spki.clone()
    }

    /// Verifies strictly: for Ed25519 no small-order keys and no malleable signatures; for RSA the padding is encoded
    /// anew and compared.
    ///
    /// # Errors
    /// [`SignatureError`], also if the scheme is not for this kind of key.
    pub fn verify(&self, scheme: Scheme, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        if !scheme.fits(self.kind) {
            return Err(SignatureError);
        }
        match (scheme, self.kind) {
            (Scheme::Ed25519, _) => {
                let octets = self.key.as_slice().try_into().map_err(|_| SignatureError)?;
                let key = ed25519_dalek::VerifyingKey::from_bytes(octets).map_err(|_| SignatureError)?;
                let signature = ed25519_dalek::Signature::from_slice(signature).map_err(|_| SignatureError)?;
                key.verify_strict(message, &signature).map_err(|_| SignatureError)
            }
            (Scheme::Ecdsa(hash), kind) => self.verify_ecdsa(kind, hash, message, signature),
            (Scheme::RsaPss(hash), _) => {
                let parameters = match hash {
                    Hash::Sha256 => &ring::signature::RSA_PSS_2048_8192_SHA256,
                    Hash::Sha384 => &ring::signature::RSA_PSS_2048_8192_SHA384,
                    Hash::Sha512 => &ring::signature::RSA_PSS_2048_8192_SHA512,
                };
                self.verify_by_ring(parameters, message, signature)
            }
            (Scheme::RsaPkcs1(hash), _) => {
                let parameters = match hash {
                    Hash::Sha256 => &ring::signature::RSA_PKCS1_2048_8192_SHA256,
                    Hash::Sha384 => &ring::signature::RSA_PKCS1_2048_8192_SHA384,
                    Hash::Sha512 => &ring::signature::RSA_PKCS1_2048_8192_SHA512,
                };
                self.verify_by_ring(parameters, message, signature)
            }
        }
    }

    /// By `ring` what it has, for it is three times as fast; the rest by the crates of the curves.
    fn verify_ecdsa(&self, kind: KeyKind, hash: Hash, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        use ring::signature::{
            ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
        };
        match (kind, hash) {
            (KeyKind::P256, Hash::Sha256) => self.verify_by_ring(&ECDSA_P256_SHA256_ASN1, message, signature),
            (KeyKind::P256, Hash::Sha384) => self.verify_by_ring(&ECDSA_P256_SHA384_ASN1, message, signature),
            (KeyKind::P384, Hash::Sha256) => self.verify_by_ring(&ECDSA_P384_SHA256_ASN1, message, signature),
            (KeyKind::P384, Hash::Sha384) => self.verify_by_ring(&ECDSA_P384_SHA384_ASN1, message, signature),
            (KeyKind::P256, Hash::Sha512) => p256::ecdsa::VerifyingKey::from_sec1_bytes(&self.key)
                .and_then(|key| {
                    key.verify_prehash(&hash.digest(message), &p256::ecdsa::Signature::from_der(signature)?)
                })
                .map_err(|_| SignatureError),
            (KeyKind::P384, Hash::Sha512) => p384::ecdsa::VerifyingKey::from_sec1_bytes(&self.key)
                .and_then(|key| {
                    key.verify_prehash(&hash.digest(message), &p384::ecdsa::Signature::from_der(signature)?)
                })
                .map_err(|_| SignatureError),
            (KeyKind::P521, _) => p521::ecdsa::VerifyingKey::from_sec1_bytes(&self.key)
                .and_then(|key| {
                    key.verify_prehash(&hash.digest(message), &p521::ecdsa::Signature::from_der(signature)?)
                })
                .map_err(|_| SignatureError),
            (KeyKind::Ed25519 | KeyKind::Rsa(_), _) => Err(SignatureError),
        }
    }

    fn verify_by_ring(
        &self,
        algorithm: &'static dyn ring::signature::VerificationAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        UnparsedPublicKey::new(algorithm, &self.key)
            .verify(message, signature)
            .map_err(|_| SignatureError)
    }
}
