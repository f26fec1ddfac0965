//! The AUTH payload (RFC 7296 §2.15; RFC 7427 §3; RFC 7670; RFC 8420).

use super::keys::IkeKeys;
use crate::crypto::{Provider, VerifyingKey};
use crate::policy::connection::{LocalCredential, RemoteCredential};
use crate::wire::{Authentication, Certificate, HashAlgorithm, Identification};

/// What one side signs: its own first message as sent, the other's nonce, and prf(SK_p, ID payload body) (§2.15).
#[derive(Clone, Copy, Debug)]
pub struct SignedOctets<'a> {
    /// RealMessage1 or RealMessage2: the signer's IKE_SA_INIT, header and all, exactly as sent.
    pub message: &'a [u8],
    /// The other side's nonce.
    pub peer_nonce: &'a [u8],
    /// The signer's identity (RESERVED octets as received).
    pub id: &'a Identification,
    /// Whether the signer is the original initiator (SK_pi) or responder (SK_pr).
    pub initiator: bool,
}

/// Why we can't authenticate, or the peer didn't. For the log; the peer gets AUTHENTICATION_FAILED and no more (§2.21.2).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthError {
    /// The peer used a method we don't accept from it.
    #[error("the peer authenticates with {got}, the configuration wants {want}")]
    Method {
        /// Used.
        got: String,
        /// Wanted.
        want: String,
    },
    /// The MIC is wrong.
    #[error("the pre-shared keys differ")]
    WrongPsk,
    /// The key is not one of those configured.
    #[error("the peer's public key {0} is not configured for it")]
    UnknownKey(String),
    /// The signature is wrong.
    #[error("the peer's signature does not verify")]
    BadSignature,
    /// The AUTH data does not parse.
    #[error("the AUTH payload is malformed")]
    Malformed,
    /// The peer did not announce the hash our key needs (RFC 7427 §4, 8420 §2).
    #[error("the peer does not accept Ed25519 signatures (no Identity in its SIGNATURE_HASH_ALGORITHMS)")]
    HashNotAccepted,
    /// The provider lacks the PRF.
    #[error("algorithm not available")]
    Unsupported,
}

/// Our AUTH payload and the CERT payloads to go with it (a raw key goes as CERT encoding 15).
///
/// # Errors
/// [`AuthError::HashNotAccepted`], [`AuthError::Unsupported`].
pub fn sign(
    provider: &Provider,
    keys: &IkeKeys,
    credential: &LocalCredential,
    octets: &SignedOctets<'_>,
    peer_hashes: Option<&[HashAlgorithm]>,
) -> Result<(Authentication, Vec<Certificate>), AuthError> {
    let _ = (provider, keys, credential, octets, peer_hashes);
    todo!()
}

/// Verifies the peer's AUTH in constant time against its credential. A raw key in CERT only selects among those
/// configured; it is never trusted by itself.
///
/// # Errors
/// [`AuthError`].
pub fn verify(
    provider: &Provider,
    keys: &IkeKeys,
    credential: &RemoteCredential,
    octets: &SignedOctets<'_>,
    auth: &Authentication,
    certs: &[Certificate],
) -> Result<(), AuthError> {
    let _ = (provider, keys, credential, octets, auth, certs);
    todo!()
}

/// SHA-256 fingerprint of a public key's SubjectPublicKeyInfo, for people: `SHA256:...` in unpadded base64.
#[must_use]
pub fn fingerprint(key: &VerifyingKey) -> String {
    let _ = key;
    todo!()
}
