//! AES-CBC (RFC 3602) or NULL (RFC 2410) with HMAC-SHA2 (RFC 4868) or HMAC-SHA1 (RFC 2404): encrypt, then authenticate.

use super::sizes;
use crate::crypto::{CipherSizes, CipherSuite, Encryption, Integrity, IntegrityError, PacketCipher, Secret};
use aes::cipher::{Block, BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit};
use aes::{Aes128, Aes192, Aes256};
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq;

/// AES and CBC use 16-octet blocks.
const BLOCK: usize = 16;

enum Mode {
    Null,
    Aes128(Box<Aes128>),
    Aes192(Box<Aes192>),
    Aes256(Box<Aes256>),
}

/// An HMAC with its key schedule done, cloned for each packet.
enum KeyedMac {
    Sha256(Hmac<Sha256>),
    Sha384(Hmac<Sha384>),
    Sha512(Hmac<Sha512>),
    Sha1(Hmac<Sha1>),
}

struct CipherWithHmac {
    mode: Mode,
    mac: KeyedMac,
    sizes: CipherSizes,
}

/// A keyed cipher with HMAC; `None` for an AEAD, or a key of the wrong length.
#[must_use]
pub fn new(suite: CipherSuite, key: &Secret) -> Option<Box<dyn PacketCipher>> {
    let sizes = sizes(suite)?;
    let (encryption_key, integrity_key) = key.expose().split_at_checked(sizes.key)?;
    if integrity_key.len() != sizes.integrity_key {
        return None;
    }
    let mode = match suite.encryption {
        Encryption::AesCbc128 => Mode::Aes128(Box::new(Aes128::new_from_slice(encryption_key).ok()?)),
        Encryption::AesCbc192 => Mode::Aes192(Box::new(Aes192::new_from_slice(encryption_key).ok()?)),
        Encryption::AesCbc256 => Mode::Aes256(Box::new(Aes256::new_from_slice(encryption_key).ok()?)),
        Encryption::Null => Mode::Null,
        Encryption::AesGcm16_128
        | Encryption::AesGcm16_192
        | Encryption::AesGcm16_256
        | Encryption::ChaCha20Poly1305 => return None,
    };
    let mac = match suite.integrity? {
        Integrity::HmacSha256_128 => KeyedMac::Sha256(Hmac::new_from_slice(integrity_key).ok()?),
        Integrity::HmacSha384_192 => KeyedMac::Sha384(Hmac::new_from_slice(integrity_key).ok()?),
        Integrity::HmacSha512_256 => KeyedMac::Sha512(Hmac::new_from_slice(integrity_key).ok()?),
        Integrity::HmacSha1_96 => KeyedMac::Sha1(Hmac::new_from_slice(integrity_key).ok()?),
    };
    Some(Box::new(CipherWithHmac { mode, mac, sizes }))
}

impl KeyedMac {
    /// HMAC over the parts, cut to the ICV's length.
    fn compute(&self, parts: [&[u8]; 4], icv: &mut [u8]) {
        fn run<M: Mac + Clone>(keyed: &M, parts: [&[u8]; 4], icv: &mut [u8]) {
            let mut mac = keyed.clone();
            for part in parts {
                mac.update(part);
            }
            let tag = mac.finalize().into_bytes();
            icv.copy_from_slice(&tag[..icv.len()]);
        }
        match self {
            Self::Sha256(mac) => run(mac, parts, icv),
            Self::Sha384(mac) => run(mac, parts, icv),
            Self::Sha512(mac) => run(mac, parts, icv),
            Self::Sha1(mac) => run(mac, parts, icv),
        }
    }
}

impl PacketCipher for CipherWithHmac {
    fn sizes(&self) -> CipherSizes {
        self.sizes
    }

    fn seal(&self, header: &[u8], esn_high: Option<u32>, iv: &[u8], text: &mut [u8], icv: &mut [u8]) {
        match &self.mode {
            Mode::Null => {}
            Mode::Aes128(aes) => cbc_encrypt(aes.as_ref(), iv, text),
            Mode::Aes192(aes) => cbc_encrypt(aes.as_ref(), iv, text),
            Mode::Aes256(aes) => cbc_encrypt(aes.as_ref(), iv, text),
        }
        // RFC 4303 §3.3.2.1: the high half of the sequence number is implicit, appended for the ICV only.
        let high = esn_high.map(u32::to_be_bytes);
        self.mac
            .compute([header, iv, text, high.as_ref().map_or(&[], |h| h)], icv);
    }

    fn open(
        &self,
        header: &[u8],
        esn_high: Option<u32>,
        iv: &[u8],
        text: &mut [u8],
        icv: &[u8],
    ) -> Result<(), IntegrityError> {
        if !text.len().is_multiple_of(self.sizes.block) || icv.len() != self.sizes.icv {
            return Err(IntegrityError);
        }
        let high = esn_high.map(u32::to_be_bytes);
        let mut want = [0; 32];
        let want = &mut want[..self.sizes.icv];
        self.mac
            .compute([header, iv, text, high.as_ref().map_or(&[], |h| h)], want);
        if !bool::from(want.ct_eq(icv)) {
            return Err(IntegrityError);
        }
        match &self.mode {
            Mode::Null => {}
            Mode::Aes128(aes) => cbc_decrypt(aes.as_ref(), iv, text),
            Mode::Aes192(aes) => cbc_decrypt(aes.as_ref(), iv, text),
            Mode::Aes256(aes) => cbc_decrypt(aes.as_ref(), iv, text),
        }
        Ok(())
    }
}

/// CBC over a keyed block cipher: the key schedule is made once an SA, not once a packet.
fn cbc_encrypt<C: BlockCipherEncrypt + BlockSizeUser>(cipher: &C, iv: &[u8], text: &mut [u8]) {
    let mut previous = [0; BLOCK];
    previous.copy_from_slice(&iv[..BLOCK]);
    for block in text.chunks_exact_mut(BLOCK) {
        block
            .iter_mut()
            .zip(previous)
            .for_each(|(octet, chained)| *octet ^= chained);
        if let Ok(block) = <&mut Block<C>>::try_from(&mut *block) {
            cipher.encrypt_block(block);
        }
        previous.copy_from_slice(block);
    }
}

/// CBC decryption, several blocks at a time: the block cipher works on them in parallel.
fn cbc_decrypt<C: BlockCipherDecrypt + BlockSizeUser>(cipher: &C, iv: &[u8], text: &mut [u8]) {
    const LANES: usize = 8;
    let mut previous = [0; BLOCK];
    previous.copy_from_slice(&iv[..BLOCK]);
    for run in text.chunks_mut(LANES * BLOCK) {
        let mut sealed = [0; LANES * BLOCK];
        let sealed = &mut sealed[..run.len()];
        sealed.copy_from_slice(run);
        let (blocks, _) = Block::<C>::slice_as_chunks_mut(run);
        cipher.decrypt_blocks(blocks);
        let chain = previous.iter().chain(sealed.iter());
        run.iter_mut().zip(chain).for_each(|(octet, chained)| *octet ^= chained);
        previous.copy_from_slice(&sealed[sealed.len() - BLOCK..]);
    }
}
