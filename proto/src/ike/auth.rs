//! The AUTH payload (RFC 7296 §2.15; RFC 7427 §3; RFC 7670; RFC 8420).

use super::keys::IkeKeys;
use crate::crypto::{Provider, Secret, VerifyingKey};
use crate::policy::connection::{LocalCredential, RemoteCredential};
use crate::wire::{AuthMethod, Authentication, CertEncoding, Certificate, HashAlgorithm, Identification};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// AlgorithmIdentifier of Ed25519 (RFC 8420 §A.1): SEQUENCE { OID 1.3.101.112 }.
const ED25519_IDENTIFIER: [u8; 7] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];

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
    let signed = signed_octets(provider, keys, octets)?;
    match credential {
        LocalCredential::Psk(psk) => {
            let mic = shared_key_mic(provider, keys, psk, &signed)?;
            Ok((
                Authentication {
                    method: AuthMethod::SHARED_KEY_MIC,
                    data: mic.expose().to_vec(),
                },
                Vec::new(),
            ))
        }
        LocalCredential::RawKey(key) => {
            // RFC 8420 §2: Ed25519 goes with the Identity hash, which the peer must have announced (RFC 7427 §4).
            if !peer_hashes.is_some_and(|hashes| hashes.contains(&HashAlgorithm::IDENTITY)) {
                return Err(AuthError::HashNotAccepted);
            }
            let mut data = vec![ED25519_IDENTIFIER.len() as u8];
            data.extend_from_slice(&ED25519_IDENTIFIER);
            data.extend_from_slice(&key.sign(&signed));
            let cert = Certificate {
                encoding: CertEncoding::RAW_PUBLIC_KEY,
                data: key.verifying_key().to_spki_der(),
            };
            Ok((
                Authentication {
                    method: AuthMethod::DIGITAL_SIGNATURE,
                    data,
                },
                vec![cert],
            ))
        }
    }
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
    let signed = signed_octets(provider, keys, octets)?;
    let want = match credential {
        RemoteCredential::Psk(_) => AuthMethod::SHARED_KEY_MIC,
        RemoteCredential::RawKeys(_) => AuthMethod::DIGITAL_SIGNATURE,
    };
    if auth.method != want {
        return Err(AuthError::Method {
            got: auth.method.to_string(),
            want: want.to_string(),
        });
    }
    match credential {
        RemoteCredential::Psk(secrets) => {
            // All are tried, whichever matches: the time tells nothing.
            let mut right = subtle::Choice::from(0);
            for psk in secrets {
                right |= shared_key_mic(provider, keys, psk, &signed)?.expose().ct_eq(&auth.data);
            }
            if right.into() { Ok(()) } else { Err(AuthError::WrongPsk) }
        }
        RemoteCredential::RawKeys(known) => {
            let (len, rest) = auth.data.split_first().ok_or(AuthError::Malformed)?;
            let (identifier, signature) = rest.split_at_checked(usize::from(*len)).ok_or(AuthError::Malformed)?;
            if identifier != ED25519_IDENTIFIER {
                return Err(AuthError::Method {
                    got: "another signature algorithm".into(),
                    want: "Ed25519".into(),
                });
            }
            if known.iter().any(|key| key.verify(&signed, signature).is_ok()) {
                return Ok(());
            }
            // For the log: whether the peer shows a key that we don't know, or failed with one that we do.
            let shown = certs
                .iter()
                .filter(|cert| cert.encoding == CertEncoding::RAW_PUBLIC_KEY);
            match shown
                .filter_map(|cert| VerifyingKey::from_spki_der(&cert.data).ok())
                .next()
            {
                Some(key) if !known.contains(&key) => Err(AuthError::UnknownKey(fingerprint(&key))),
                _ => Err(AuthError::BadSignature),
            }
        }
    }
}

/// SHA-256 fingerprint of a public key's SubjectPublicKeyInfo, for people: `SHA256:...` in unpadded base64.
#[must_use]
pub fn fingerprint(key: &VerifyingKey) -> String {
    format!("SHA256:{}", base64(&Sha256::digest(key.to_spki_der())))
}

/// `<msg octets> | nonce | prf(SK_p, RestOfIDPayload)` (RFC 7296 §2.15).
fn signed_octets(provider: &Provider, keys: &IkeKeys, octets: &SignedOctets<'_>) -> Result<Vec<u8>, AuthError> {
    let prf = (provider.prf)(keys.suite.prf).ok_or(AuthError::Unsupported)?;
    let key = if octets.initiator { &keys.pi } else { &keys.pr };
    let maced_id = prf.prf(key.expose(), &[&octets.id.body()]);
    Ok([octets.message, octets.peer_nonce, maced_id.expose()].concat())
}

/// `AUTH = prf(prf(Shared Secret, "Key Pad for IKEv2"), <SignedOctets>)` (§2.15: "17 ASCII characters without null
/// termination").
fn shared_key_mic(provider: &Provider, keys: &IkeKeys, psk: &Secret, signed: &[u8]) -> Result<Secret, AuthError> {
    let prf = (provider.prf)(keys.suite.prf).ok_or(AuthError::Unsupported)?;
    let key = prf.prf(psk.expose(), &[b"Key Pad for IKEv2"]);
    Ok(prf.prf(key.expose(), &[signed]))
}

/// Unpadded base64, for fingerprints only.
fn base64(data: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in data.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, octet| word << 8 | u32::from(*octet)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            out.push(char::from(DIGITS[(word >> (18 - 6 * place)) as usize & 63]));
        }
    }
    out
}
