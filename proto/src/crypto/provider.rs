//! Which library does what: `landbridge version --crypto` prints this.

use super::cipher::{self, aead_ring, aead_rustcrypto, with_hmac};
use super::{
    CipherSizes, CipherSuite, Encryption, Group, KeyExchange, PacketCipher, Prf, PrfAlgorithm, Secret, kex, prf,
};

/// Static tables of what is implemented.
pub struct Provider {
    /// Name of the provider, e.g. `RustCrypto`.
    pub name: &'static str,
    /// The cipher for a suite keyed with `key` (encryption key | salt | integrity key); `None` if the suite is not
    /// supported or the key has the wrong length.
    pub cipher: fn(suite: CipherSuite, key: &Secret) -> Option<Box<dyn PacketCipher>>,
    /// Lengths of a suite, if supported.
    pub sizes: fn(suite: CipherSuite) -> Option<CipherSizes>,
    /// The PRF, if supported.
    pub prf: fn(PrfAlgorithm) -> Option<&'static dyn Prf>,
    /// The key exchange, if supported.
    pub key_exchange: fn(Group) -> Option<&'static dyn KeyExchange>,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Provider({})", self.name)
    }
}

/// RustCrypto and dalek: all algorithms, used for IKE. NULL encryption is not among them (RFC 7296 §5).
pub static IKE_PROVIDER: Provider = Provider {
    name: "RustCrypto",
    cipher: |suite, key| match suite.encryption {
        Encryption::Null => None,
        encryption if encryption.is_aead() => aead_rustcrypto::new(suite, key),
        _ => with_hmac::new(suite, key),
    },
    sizes: |suite| cipher::sizes(suite).filter(|_| suite.encryption != Encryption::Null),
    prf: |algorithm| Some(prf::get(algorithm)),
    key_exchange: |group| Some(kex::get(group)),
};

/// `ring` for the AEADs that it has, RustCrypto for the rest: used for ESP, where a packet's cost counts.
pub static ESP_PROVIDER: Provider = Provider {
    name: "ring",
    cipher: |suite, key| {
        if suite.encryption.is_aead() {
            aead_ring::new(suite, key).or_else(|| aead_rustcrypto::new(suite, key))
        } else {
            with_hmac::new(suite, key)
        }
    },
    sizes: cipher::sizes,
    prf: |_| None,
    key_exchange: |_| None,
};
