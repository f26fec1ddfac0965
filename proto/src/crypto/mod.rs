//! Algorithms behind a [`Provider`] of static tables. Nothing here knows a message.
//!
//! An algorithm is named by a closed enum ([`Encryption`], [`Integrity`], [`PrfAlgorithm`], [`Group`]); what a provider
//! has of it is found by lookup and may be nothing, which is an ordinary answer and never a panic.

pub mod cipher;
pub mod kex;
pub mod prf;
mod provider;
mod signature;

pub use provider::{ESP_PROVIDER, IKE_PROVIDER, Provider};
pub use signature::{
    Hash, KeyFormatError, KeyKind, Scheme, SignError, SignatureError, SigningKey, VerifyingKey, ecdsa_der, ecdsa_fixed,
    schemes,
};

use rand_core::CryptoRng;
use zeroize::Zeroizing;

/// Key octets: zeroized when dropped, no `Debug` of the contents, constant-time equality.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the octets over.
    #[must_use]
    pub fn new(octets: Vec<u8>) -> Self {
        Self(Zeroizing::new(octets))
    }

    /// The octets. Never hand them to a log.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Clone for Secret {
    fn clone(&self) -> Self {
        Self::new(self.0.to_vec())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({} octets)", self.0.len())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        subtle::ConstantTimeEq::ct_eq(self.expose(), other.expose()).into()
    }
}
impl Eq for Secret {}

/// Encryption algorithms (transform type 1) with their key length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Encryption {
    /// AES-GCM with a 16-octet ICV, 128-bit key (RFC 4106, 5282).
    AesGcm16_128,
    /// AES-GCM with a 16-octet ICV, 192-bit key.
    AesGcm16_192,
    /// AES-GCM with a 16-octet ICV, 256-bit key.
    AesGcm16_256,
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305,
    /// AES-CBC, 128-bit key (RFC 3602).
    AesCbc128,
    /// AES-CBC, 192-bit key.
    AesCbc192,
    /// AES-CBC, 256-bit key.
    AesCbc256,
    /// NULL (RFC 2410): ESP only, with integrity, and only where the configuration names it.
    Null,
}

impl Encryption {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::AesGcm16_256,
        Self::AesGcm16_192,
        Self::AesGcm16_128,
        Self::ChaCha20Poly1305,
        Self::AesCbc256,
        Self::AesCbc192,
        Self::AesCbc128,
        Self::Null,
    ];

    /// Whether it brings its own integrity (RFC 5282).
    #[must_use]
    pub const fn is_aead(self) -> bool {
        matches!(
            self,
            Self::AesGcm16_128 | Self::AesGcm16_192 | Self::AesGcm16_256 | Self::ChaCha20Poly1305
        )
    }
}

/// Integrity algorithms (transform type 3; RFC 4868).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Integrity {
    /// HMAC-SHA2-256-128.
    HmacSha256_128,
    /// HMAC-SHA2-384-192.
    HmacSha384_192,
    /// HMAC-SHA2-512-256.
    HmacSha512_256,
    /// HMAC-SHA1-96 (RFC 2404): weak, only where the configuration names it.
    HmacSha1_96,
}

impl Integrity {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::HmacSha256_128,
        Self::HmacSha384_192,
        Self::HmacSha512_256,
        Self::HmacSha1_96,
    ];

    /// Why it should not be used, if so: nothing offers or accepts it unless the configuration names it.
    #[must_use]
    pub const fn weakness(self) -> Option<&'static str> {
        match self {
            // RFC 8247 §2.3, RFC 8221 §6: "MUST-".
            Self::HmacSha1_96 => Some("SHA-1 is for old peers only (RFC 8247 §2.3)"),
            Self::HmacSha256_128 | Self::HmacSha384_192 | Self::HmacSha512_256 => None,
        }
    }
}

/// Pseudo-random functions (transform type 2; RFC 4868).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PrfAlgorithm {
    /// PRF-HMAC-SHA2-256.
    HmacSha256,
    /// PRF-HMAC-SHA2-384.
    HmacSha384,
    /// PRF-HMAC-SHA2-512.
    HmacSha512,
    /// PRF-HMAC-SHA1 (RFC 2104): weak, only where the configuration names it.
    HmacSha1,
}

impl PrfAlgorithm {
    /// All of them.
    pub const ALL: &[Self] = &[Self::HmacSha256, Self::HmacSha384, Self::HmacSha512, Self::HmacSha1];

    /// See [`Integrity::weakness`].
    #[must_use]
    pub const fn weakness(self) -> Option<&'static str> {
        match self {
            // RFC 8247 §2.2: "MUST-".
            Self::HmacSha1 => Some("SHA-1 is for old peers only (RFC 8247 §2.2)"),
            Self::HmacSha256 | Self::HmacSha384 | Self::HmacSha512 => None,
        }
    }
}

/// Key exchange methods (transform type 4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Group {
    /// Curve25519 (31; RFC 8031).
    Curve25519,
    /// 256-bit random ECP group (19; RFC 5903).
    Ecp256,
    /// 384-bit random ECP group (20).
    Ecp384,
    /// 521-bit random ECP group (21).
    Ecp521,
    /// 2048-bit MODP group (14; RFC 3526).
    Modp2048,
    /// 3072-bit MODP group (15).
    Modp3072,
    /// 4096-bit MODP group (16).
    Modp4096,
    /// 6144-bit MODP group (17).
    Modp6144,
    /// 8192-bit MODP group (18).
    Modp8192,
    /// 1024-bit MODP group (2; RFC 7296 Appendix B.2): weak, only where the configuration names it.
    Modp1024,
    /// 1536-bit MODP group (5; RFC 3526): weak, only where the configuration names it.
    Modp1536,
    /// 2048-bit MODP group with 256-bit prime order subgroup (24; RFC 5114): weak, only where the configuration names it.
    Modp2048s256,
    /// ML-KEM-512 (35; FIPS 203, draft-ietf-ipsecme-ikev2-mlkem).
    MlKem512,
    /// ML-KEM-768 (36).
    MlKem768,
    /// ML-KEM-1024 (37).
    MlKem1024,
}

impl Group {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Curve25519,
        Self::Ecp256,
        Self::Ecp384,
        Self::Ecp521,
        Self::Modp2048,
        Self::Modp3072,
        Self::Modp4096,
        Self::Modp6144,
        Self::Modp8192,
        Self::Modp1024,
        Self::Modp1536,
        Self::Modp2048s256,
        Self::MlKem512,
        Self::MlKem768,
        Self::MlKem1024,
    ];

    /// See [`Integrity::weakness`].
    #[must_use]
    pub const fn weakness(self) -> Option<&'static str> {
        match self {
            // RFC 8247 §2.4: 2, 5 and 24 are "SHOULD NOT".
            Self::Modp1024 => Some("1024 bits are within reach of large organisations (RFC 8247 §2.4)"),
            Self::Modp1536 => Some("1536 bits are too few (RFC 8247 §2.4)"),
            Self::Modp2048s256 => Some("nobody can say how its prime was made (RFC 8247 §2.4)"),
            Self::Curve25519
            | Self::Ecp256
            | Self::Ecp384
            | Self::Ecp521
            | Self::Modp2048
            | Self::Modp3072
            | Self::Modp4096
            | Self::Modp6144
            | Self::Modp8192
            | Self::MlKem512
            | Self::MlKem768
            | Self::MlKem1024 => None,
        }
    }

    /// Whether a quantum computer is not known to break it.
    #[must_use]
    pub const fn is_post_quantum(self) -> bool {
        matches!(self, Self::MlKem512 | Self::MlKem768 | Self::MlKem1024)
    }
}

/// A cipher that protects packets: an AEAD, or a cipher with a separate integrity algorithm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CipherSuite {
    /// Encryption.
    pub encryption: Encryption,
    /// Integrity; `None` if and only if the encryption is an AEAD.
    pub integrity: Option<Integrity>,
}

/// Lengths in octets that a cipher suite implies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CipherSizes {
    /// Encryption key, without salt.
    pub key: usize,
    /// Salt that follows the key in the keying material (RFC 4106 §8.1, 7634 §2); 0 if none.
    pub salt: usize,
    /// Integrity key; 0 for an AEAD.
    pub integrity_key: usize,
    /// IV on the wire.
    pub iv: usize,
    /// Integrity check value.
    pub icv: usize,
    /// The plaintext's length must be a multiple of this: 1 for an AEAD, the block for CBC.
    pub block: usize,
}

impl CipherSizes {
    /// Keying material of one direction: encryption key, salt, integrity key, in this order (RFC 7296 §2.17).
    #[must_use]
    pub const fn key_material(&self) -> usize {
        self.key + self.salt + self.integrity_key
    }
}

/// The ICV does not verify. It says no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("integrity check failed")]
pub struct IntegrityError;

/// A keyed cipher of one direction, for IKE messages and ESP packets alike.
///
/// `header` are the octets in the clear that come first and are authenticated: the IKE message up to the SK payload's
/// generic header, or ESP's SPI and sequence number (8 octets). `esn_high` is the upper half of a 64-bit ESP sequence
/// number: authenticated, not sent (RFC 4303 §2.2.1; for an AEAD the AAD is SPI, high, low: RFC 4106 §5; otherwise it
/// follows the ciphertext under the ICV: RFC 4303 §3.3.2.1).
pub trait PacketCipher: Send + Sync {
    /// The lengths.
    fn sizes(&self) -> CipherSizes;

    /// Encrypts `text` in place and writes the ICV. `iv` has `sizes().iv` octets, `icv` has `sizes().icv`, `text` is a
    /// multiple of `sizes().block`. No (key, iv) pair may come twice with an AEAD.
    fn seal(&self, header: &[u8], esn_high: Option<u32>, iv: &[u8], text: &mut [u8], icv: &mut [u8]);

    /// Checks the ICV in constant time and decrypts `text` in place.
    ///
    /// # Errors
    /// [`IntegrityError`]: `text` is then unspecified and must not be used.
    fn open(
        &self,
        header: &[u8],
        esn_high: Option<u32>,
        iv: &[u8],
        text: &mut [u8],
        icv: &[u8],
    ) -> Result<(), IntegrityError>;
}

/// A pseudo-random function (RFC 7296 §2.13).
pub trait Prf: Send + Sync {
    /// Which one.
    fn algorithm(&self) -> PrfAlgorithm;
    /// Preferred key length and output length in octets (equal for HMAC).
    fn output_len(&self) -> usize;
    /// `prf(key, data[0] | data[1] | ...)`.
    fn prf(&self, key: &[u8], data: &[&[u8]]) -> Secret;
    /// `prf+(key, seed[0] | seed[1] | ...)`, `len` octets; `None` beyond 255 blocks (RFC 7296 §2.13).
    fn prf_plus(&self, key: &[u8], seed: &[&[u8]], len: usize) -> Option<Secret>;
}

/// Why a key exchange failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyExchangeError {
    /// Public value of the wrong length (RFC 7296 §3.4).
    #[error("public value of {have} octets, {want} are needed")]
    Length {
        /// Needed.
        want: usize,
        /// Received.
        have: usize,
    },
    /// Out of range, not on the curve, or the shared secret is all zero (RFC 6989 §2, 8031 §5).
    #[error("public value fails the group's checks")]
    InvalidPublic,
}

/// A key exchange method, shaped as a KEM so that Diffie-Hellman and ML-KEM look alike.
pub trait KeyExchange: Send + Sync {
    /// Which group.
    fn group(&self) -> Group;
    /// Octets of the initiator's public value.
    fn public_len(&self) -> usize;
    /// A fresh key pair for the side that sends KEi.
    fn initiate(&self, rng: &mut dyn CryptoRng) -> Box<dyn KeyExchangeInitiator>;
    /// The responder's whole part: checks KEi, returns KEr's data and the shared secret.
    ///
    /// # Errors
    /// [`KeyExchangeError`].
    fn respond(&self, peer_public: &[u8], rng: &mut dyn CryptoRng) -> Result<(Vec<u8>, Secret), KeyExchangeError>;
}

/// The initiator's private state between KEi and KEr.
pub trait KeyExchangeInitiator: Send + Sync {
    /// KEi's data.
    fn public(&self) -> &[u8];
    /// Checks KEr and computes the shared secret: fixed length, leading zeros kept (RFC 7296 §2.14; ECP: x only, RFC 5903 §9).
    ///
    /// # Errors
    /// [`KeyExchangeError`].
    fn finish(&self, peer_public: &[u8]) -> Result<Secret, KeyExchangeError>;
}
