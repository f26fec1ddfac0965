//! Which signature goes into AUTH, and how it is written there (RFC 7427 §3, §4; RFC 7296 §2.15; RFC 4754; RFC 8420).

use super::AuthError;
use crate::crypto::{Hash, KeyKind, Scheme, SigningKey, VerifyingKey, ecdsa_der, ecdsa_fixed};
use crate::wire::{AuthMethod, Authentication, HashAlgorithm};

/// What SIGNATURE_HASH_ALGORITHMS announces (RFC 7427 §4; Identity for Ed25519: RFC 8420 §2). No SHA-1 (RFC 8247 §3.2).
pub const HASHES: [HashAlgorithm; 4] = [
    HashAlgorithm::SHA2_256,
    HashAlgorithm::SHA2_384,
    HashAlgorithm::SHA2_512,
    HashAlgorithm::IDENTITY,
];

const fn announced_as(scheme: Scheme) -> HashAlgorithm {
    match scheme {
        Scheme::Ed25519 => HashAlgorithm::IDENTITY,
        Scheme::Ecdsa(hash) | Scheme::RsaPss(hash) | Scheme::RsaPkcs1(hash) => match hash {
            Hash::Sha256 => HashAlgorithm::SHA2_256,
            Hash::Sha384 => HashAlgorithm::SHA2_384,
            Hash::Sha512 => HashAlgorithm::SHA2_512,
        },
    }
}

/// The methods from before RFC 7427, each for one kind of key. The hash of method 1 is not negotiated; SHA-1, its
/// default of old, is neither made nor taken (RFC 8247 §3).
const fn old_method(kind: KeyKind) -> Option<(AuthMethod, Scheme)> {
    match kind {
        KeyKind::Ed25519 => None,
        KeyKind::P256 => Some((AuthMethod::ECDSA_P256_SHA256, Scheme::Ecdsa(Hash::Sha256))),
        KeyKind::P384 => Some((AuthMethod::ECDSA_P384_SHA384, Scheme::Ecdsa(Hash::Sha384))),
        KeyKind::P521 => Some((AuthMethod::ECDSA_P521_SHA512, Scheme::Ecdsa(Hash::Sha512))),
        KeyKind::Rsa(_) => Some((AuthMethod::RSA_SIGNATURE, Scheme::RsaPkcs1(Hash::Sha256))),
    }
}

/// The method and the scheme for our key, by the hashes that the peer announced; among those that it takes, one of those that it
/// `announced` (RFC 9593), if there is one.
///
/// # Errors
/// [`AuthError::HashNotAccepted`].
pub fn choose(
    key: &SigningKey,
    peer: Option<&[HashAlgorithm]>,
    announced: impl Fn(Scheme) -> bool,
) -> Result<(AuthMethod, Scheme), AuthError> {
    let kind = key.verifying_key().kind();
    let choice = match peer {
        // RFC 7427 §4: "When calculating the digital signature, a peer MUST pick one algorithm sent by the other peer."
        Some(hashes) => {
            let all = key.schemes().iter();
            let mut taken = all.filter(|scheme| hashes.contains(&announced_as(**scheme)));
            let best = taken
                .clone()
                .find(|scheme| announced(**scheme))
                .or_else(|| taken.next());
            best.map(|scheme| (AuthMethod::DIGITAL_SIGNATURE, *scheme))
        }
        // RFC 7427 §4: the notify "also implicitly indicates support of the new "Digital Signature" algorithm method".
        None => old_method(kind).filter(|(_, scheme)| key.schemes().contains(scheme)),
    };
    choice.ok_or_else(|| AuthError::HashNotAccepted {
        key: kind.to_string(),
        wanted: key
            .schemes()
            .iter()
            .map(|scheme| announced_as(*scheme).to_string())
            .collect(),
        announced: peer.map(|hashes| hashes.iter().take(16).map(ToString::to_string).collect()),
    })
}

/// A signature as it stands in AUTH.
///
/// # Errors
/// [`AuthError::Unsupported`] if the signature is not of its scheme.
pub fn write(
    method: AuthMethod,
    scheme: Scheme,
    kind: KeyKind,
    signature: Vec<u8>,
) -> Result<Authentication, AuthError> {
    let data = match method {
        AuthMethod::DIGITAL_SIGNATURE => {
            // RFC 7427 §3: length, AlgorithmIdentifier, signature.
            let identifier = scheme.identifier();
            let length = u8::try_from(identifier.len()).map_err(|_| AuthError::Unsupported)?;
            [&[length], identifier.as_slice(), &signature].concat()
        }
        // RFC 4754 §7: two numbers of fixed length.
        AuthMethod::ECDSA_P256_SHA256 | AuthMethod::ECDSA_P384_SHA384 | AuthMethod::ECDSA_P521_SHA512 => {
            ecdsa_fixed(kind, &signature).ok_or(AuthError::Unsupported)?
        }
        _ => signature,
    };
    Ok(Authentication { method, data })
}

/// A signature read from AUTH: what it claims to be.
pub struct Claimed<'a> {
    method: AuthMethod,
    /// Only method 14 names it.
    scheme: Option<Scheme>,
    signature: &'a [u8],
}

/// Whether a method is a signature at all.
pub const fn is_signature(method: AuthMethod) -> bool {
    matches!(
        method,
        AuthMethod::DIGITAL_SIGNATURE
            | AuthMethod::RSA_SIGNATURE
            | AuthMethod::ECDSA_P256_SHA256
            | AuthMethod::ECDSA_P384_SHA384
            | AuthMethod::ECDSA_P521_SHA512
    )
}

/// Reads AUTH of a signature method.
///
/// # Errors
/// [`AuthError::Malformed`], [`AuthError::Algorithm`].
pub fn read(auth: &Authentication) -> Result<Claimed<'_>, AuthError> {
    let (scheme, signature) = if auth.method == AuthMethod::DIGITAL_SIGNATURE {
        let (len, rest) = auth.data.split_first().ok_or(AuthError::Malformed)?;
        let (identifier, signature) = rest.split_at_checked(usize::from(*len)).ok_or(AuthError::Malformed)?;
        let scheme = Scheme::from_identifier(identifier)
            .ok_or_else(|| AuthError::Algorithm(identifier.iter().map(|octet| format!("{octet:02x}")).collect()))?;
        (Some(scheme), signature)
    } else {
        (None, auth.data.as_slice())
    };
    Ok(Claimed {
        method: auth.method,
        scheme,
        signature,
    })
}

impl Claimed<'_> {
    /// Whether this key made it.
    pub fn verifies(&self, key: &VerifyingKey, signed: &[u8]) -> bool {
        let kind = key.kind();
        if let Some(scheme) = self.scheme {
            return key.verify(scheme, signed, self.signature).is_ok();
        }
        match old_method(kind) {
            Some((method, _)) if method != self.method => false,
            // The padding names the hash (RFC 7296 §3.8): any that is not SHA-1.
            Some((AuthMethod::RSA_SIGNATURE, _)) => [Hash::Sha256, Hash::Sha384, Hash::Sha512]
                .into_iter()
                .any(|hash| key.verify(Scheme::RsaPkcs1(hash), signed, self.signature).is_ok()),
            Some((_, scheme)) => {
                ecdsa_der(kind, self.signature).is_some_and(|der| key.verify(scheme, signed, &der).is_ok())
            }
            None => false,
        }
    }

    /// What it is, for the log.
    pub fn what(&self) -> String {
        self.scheme
            .map_or_else(|| format!("method {}", self.method), |scheme| scheme.to_string())
    }
}
