//! The signatures that may stand in a chain: our own keys' verification, so that what is weak for AUTH is weak here too.

use crate::crypto::{Hash, Scheme, VerifyingKey};
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};

#[derive(Debug)]
struct Algorithm {
    key: AlgorithmIdentifier,
    signature: AlgorithmIdentifier,
    scheme: Scheme,
}

impl SignatureVerificationAlgorithm for Algorithm {
    fn verify_signature(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let key = VerifyingKey::from_algorithm_value(self.key.as_ref(), public_key).map_err(|_| InvalidSignature)?;
        key.verify(self.scheme, message, signature)
            .map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.key
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}

const fn with(key: AlgorithmIdentifier, signature: AlgorithmIdentifier, scheme: Scheme) -> Algorithm {
    Algorithm { key, signature, scheme }
}

/// All that are taken. No SHA-1, no MD5.
pub(super) static ALL: &[&dyn SignatureVerificationAlgorithm] = &[
    &with(alg_id::ED25519, alg_id::ED25519, Scheme::Ed25519),
    &with(alg_id::ECDSA_P256, alg_id::ECDSA_SHA256, Scheme::Ecdsa(Hash::Sha256)),
    &with(alg_id::ECDSA_P256, alg_id::ECDSA_SHA384, Scheme::Ecdsa(Hash::Sha384)),
    &with(alg_id::ECDSA_P256, alg_id::ECDSA_SHA512, Scheme::Ecdsa(Hash::Sha512)),
    &with(alg_id::ECDSA_P384, alg_id::ECDSA_SHA256, Scheme::Ecdsa(Hash::Sha256)),
    &with(alg_id::ECDSA_P384, alg_id::ECDSA_SHA384, Scheme::Ecdsa(Hash::Sha384)),
    &with(alg_id::ECDSA_P384, alg_id::ECDSA_SHA512, Scheme::Ecdsa(Hash::Sha512)),
    &with(alg_id::ECDSA_P521, alg_id::ECDSA_SHA384, Scheme::Ecdsa(Hash::Sha384)),
    &with(alg_id::ECDSA_P521, alg_id::ECDSA_SHA512, Scheme::Ecdsa(Hash::Sha512)),
    &with(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PKCS1_SHA256,
        Scheme::RsaPkcs1(Hash::Sha256),
    ),
    &with(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PKCS1_SHA384,
        Scheme::RsaPkcs1(Hash::Sha384),
    ),
    &with(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PKCS1_SHA512,
        Scheme::RsaPkcs1(Hash::Sha512),
    ),
    &with(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PSS_SHA256,
        Scheme::RsaPss(Hash::Sha256),
    ),
    &with(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PSS_SHA384,
        Scheme::RsaPss(Hash::Sha384),
    ),
    &with(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PSS_SHA512,
        Scheme::RsaPss(Hash::Sha512),
    ),
];
