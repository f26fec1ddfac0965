//! AEADs by `ring`: the fast ones, for ESP. It has no AES-192.

use super::{Associated, SALT, nonce, sizes};
use crate::crypto::{CipherSizes, CipherSuite, Encryption, IntegrityError, PacketCipher, Secret};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

struct RingAead {
    key: LessSafeKey,
    salt: [u8; SALT],
    sizes: CipherSizes,
}

/// A keyed AEAD; `None` for what is not one, or a key of the wrong length.
#[must_use]
pub fn new(suite: CipherSuite, key: &Secret) -> Option<Box<dyn PacketCipher>> {
    let sizes = sizes(suite)?;
    let algorithm = match suite.encryption {
        Encryption::AesGcm16_128 => &AES_128_GCM,
        Encryption::AesGcm16_256 => &AES_256_GCM,
        Encryption::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        Encryption::AesGcm16_192
        | Encryption::AesCbc128
        | Encryption::AesCbc192
        | Encryption::AesCbc256
        | Encryption::Null => return None,
    };
    let (key, salt) = key.expose().split_at_checked(sizes.key)?;
    let key = LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?);
    Some(Box::new(RingAead {
        key,
        salt: salt.try_into().ok()?,
        sizes,
    }))
}

impl PacketCipher for RingAead {
    fn sizes(&self) -> CipherSizes {
        self.sizes
    }

    fn seal(&self, header: &[u8], esn_high: Option<u32>, iv: &[u8], text: &mut [u8], icv: &mut [u8]) {
        let aad = Associated::new(header, esn_high);
        let nonce = Nonce::assume_unique_for_key(nonce(self.salt, iv));
        // It fails only beyond the cipher's length limit (64 GiB): an all-zero ICV then verifies nowhere.
        match self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(aad.octets()), text)
        {
            Ok(tag) => icv.copy_from_slice(tag.as_ref()),
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
        let tag = Tag::try_from(icv).map_err(|_| IntegrityError)?;
        let nonce = Nonce::assume_unique_for_key(nonce(self.salt, iv));
        match self
            .key
            .open_in_place_separate_tag(nonce, Aad::from(aad.octets()), tag, text, 0..)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(IntegrityError),
        }
    }
}
