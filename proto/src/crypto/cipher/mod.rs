//! Packet ciphers behind [`super::PacketCipher`]: AEADs by two libraries, and a cipher with a separate HMAC.

pub mod aead_ring;
pub mod aead_rustcrypto;
pub mod with_hmac;

use super::{CipherSizes, CipherSuite, Encryption, Integrity};

/// Octets of the salt in front of the 8-octet IV in an AEAD's nonce (RFC 4106 §4, RFC 7634 §2).
const SALT: usize = 4;
/// Octets of an AEAD's explicit IV (RFC 4106 §3.1, RFC 7634 §2).
const AEAD_IV: usize = 8;
/// Octets of an AEAD's ICV: only the full tag is offered (RFC 8221 §5).
const AEAD_ICV: usize = 16;

/// The lengths a suite implies; `None` if encryption and integrity don't go together.
#[must_use]
pub const fn sizes(suite: CipherSuite) -> Option<CipherSizes> {
    let (integrity_key, icv) = match (suite.encryption.is_aead(), suite.integrity) {
        (true, None) => (0, AEAD_ICV),
        (false, Some(integrity)) => integrity.sizes(),
        _ => return None,
    };
    let (key, salt, iv, block) = match suite.encryption {
        Encryption::AesGcm16_128 => (16, SALT, AEAD_IV, 1),
        Encryption::AesGcm16_192 => (24, SALT, AEAD_IV, 1),
        Encryption::AesGcm16_256 | Encryption::ChaCha20Poly1305 => (32, SALT, AEAD_IV, 1),
        Encryption::AesCbc128 => (16, 0, 16, 16),
        Encryption::AesCbc192 => (24, 0, 16, 16),
        Encryption::AesCbc256 => (32, 0, 16, 16),
        Encryption::Null => (0, 0, 0, 1),
    };
    Some(CipherSizes {
        key,
        salt,
        integrity_key,
        iv,
        icv,
        block,
    })
}

impl Integrity {
    /// Key and (truncated) ICV in octets (RFC 4868 §2.6).
    #[must_use]
    pub const fn sizes(self) -> (usize, usize) {
        match self {
            Self::HmacSha256_128 => (32, 16),
            Self::HmacSha384_192 => (48, 24),
            Self::HmacSha512_256 => (64, 32),
            // RFC 2404 §2, §3.
            Self::HmacSha1_96 => (20, 12),
        }
    }
}

/// An AEAD's nonce: salt, then IV. The callers hand over an IV of the right length; another can't verify.
fn nonce(salt: [u8; SALT], iv: &[u8]) -> [u8; SALT + AEAD_IV] {
    let mut nonce = [0; SALT + AEAD_IV];
    nonce[..SALT].copy_from_slice(&salt);
    if iv.len() == AEAD_IV {
        nonce[SALT..].copy_from_slice(iv);
    }
    nonce
}

/// The AAD of an ESP packet with 64-bit sequence numbers: SPI, high half, low half (RFC 4106 §5); otherwise the header
/// as it is.
enum Associated<'a> {
    Header(&'a [u8]),
    Extended([u8; 12]),
}

impl<'a> Associated<'a> {
    fn new(header: &'a [u8], esn_high: Option<u32>) -> Self {
        match (esn_high, header.first_chunk::<8>()) {
            (Some(high), Some(esp)) => {
                let mut aad = [0; 12];
                aad[..4].copy_from_slice(&esp[..4]);
                aad[4..8].copy_from_slice(&high.to_be_bytes());
                aad[8..].copy_from_slice(&esp[4..]);
                Self::Extended(aad)
            }
            _ => Self::Header(header),
        }
    }

    fn octets(&self) -> &[u8] {
        match self {
            Self::Header(header) => header,
            Self::Extended(aad) => aad,
        }
    }
}
