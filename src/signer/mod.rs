//! Private keys that sign outside the protocol: RSA keys from files (their padding takes random octets), and keys in a
//! PKCS#11 token, which no program can read.
//!
//! A signer is called on a thread of its own (`control::signing`): it may take its time.

mod rsa;
mod token;

pub use rsa::{RsaSigner, read as read_rsa};
pub use token::{TokenSigner, TokenUri};

use landbridge_proto::crypto::Scheme;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Signers by the names that `SigningKey::elsewhere` gives.
pub type Signers = BTreeMap<Arc<str>, Arc<dyn Signer>>;

/// A private key that signs.
pub trait Signer: std::fmt::Debug + Send + Sync {
    /// Signs a message; ECDSA signatures in DER. May block.
    ///
    /// # Errors
    /// Why not, in words for the log.
    fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, String>;
}
