//! AEADs by RustCrypto: for IKE, and wherever `ring` does not reach.

use super::{Associated, SALT, nonce, sizes};
use crate::crypto::{CipherSizes, CipherSuite, Encryption, IntegrityError, PacketCipher, Secret};
use aes_gcm::aead::consts::{U12, U16};
use aes_gcm::aead::{AeadCore, AeadInOut, KeyInit};
use aes_gcm::aes::Aes192;
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm};
use chacha20poly1305::ChaCha20Poly1305;

struct RustCryptoAead<C> {
    cipher: C,
    salt: [u8; SALT],
    sizes: CipherSizes,
}

/// A keyed AEAD; `None` for what is not one, or a key of the wrong length.
#[must_use]
pub fn new(suite: CipherSuite, key: &Secret) -> Option<Box<dyn PacketCipher>> {
    let sizes = sizes(suite)?;
    let (key, salt) = key.expose().split_at_checked(sizes.key)?;
    let salt = salt.try_into().ok()?;
    Some(match suite.encryption {
        Encryption::AesGcm16_128 => boxed(Aes128Gcm::new_from_slice(key).ok()?, salt, sizes),
        Encryption::AesGcm16_192 => boxed(AesGcm::<Aes192, U12>::new_from_slice(key).ok()?, salt, sizes),
        Encryption::AesGcm16_256 => boxed(Aes256Gcm::new_from_slice(key).ok()?, salt, sizes),
        Encryption::ChaCha20Poly1305 => boxed(ChaCha20Poly1305::new_from_slice(key).ok()?, salt, sizes),
        Encryption::AesCbc128 | Encryption::AesCbc192 | Encryption::AesCbc256 | Encryption::Null => return None,
    })
}

fn boxed<C>(cipher: C, salt: [u8; SALT], sizes: CipherSizes) -> Box<dyn PacketCipher>
where
    C: AeadInOut + AeadCore<NonceSize = U12, TagSize = U16> + Send + Sync + 'static,
{
    Box::new(RustCryptoAead { cipher, salt, sizes })
}

impl<C> PacketCipher for RustCryptoAead<C>
where
    C: AeadInOut + AeadCore<NonceSize = U12, TagSize = U16> + Send + Sync,
{
    fn sizes(&self) -> CipherSizes {
        self.sizes
    }

    fn seal(&self, header: &[u8], esn_high: Option<u32>, iv: &[u8], text: &mut [u8], icv: &mut [u8]) {
        let aad = Associated::new(header, esn_high);
        let nonce = nonce(self.salt, iv);
        // As with ring: beyond the cipher's length limit nothing is sealed, and nothing verifies.
        match self
            .cipher
            .encrypt_inout_detached((&nonce).into(), aad.octets(), text.into())
        {
            Ok(tag) => icv.copy_from_slice(&tag),
            Err(_) => icv.fill(0),
        }
    }

    fn open(
        &self,
        header: &[u8],
        esn_high: Option<u32>,
        iv: &[u8],
        text: &mut [u8],
        icv: &[u8],
    ) -> Result<(), IntegrityError> {
        let aad = Associated::new(header, esn_high);
        let nonce = nonce(self.salt, iv);
        let tag = icv.try_into().map_err(|_| IntegrityError)?;
        self.cipher
            .decrypt_inout_detached((&nonce).into(), aad.octets(), text.into(), tag)
            .map_err(|_| IntegrityError)
    }
}
