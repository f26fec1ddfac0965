//! Sealing (RFC 4303 §3.3).

use super::SequenceExhausted;
use super::transform::{HEADER, TRAILER, padding, sealed_len};
use crate::crypto::{CipherSizes, PacketCipher, Provider};
use crate::policy::sad::SaParameters;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

/// The sending half of an ESP SA. One owner; no interior sharing.
pub struct OutboundSa {
    spi: u32,
    cipher: Box<dyn PacketCipher>,
    sizes: CipherSizes,
    esn: bool,
    /// The next sequence number.
    next: u64,
    /// Unpredictable IVs for CBC (RFC 3602 §3); AEADs use the sequence number (RFC 4106 §3.1).
    ivs: Option<ChaCha20Rng>,
}

impl OutboundSa {
    /// Keys an SA; `None` if the provider lacks the suite or the key's length is wrong.
    #[must_use]
    pub fn new(provider: &Provider, parameters: &SaParameters, iv_seed: [u8; 32]) -> Option<Self> {
        let cipher = (provider.cipher)(parameters.suite, &parameters.key)?;
        let sizes = cipher.sizes();
        let ivs = (!parameters.suite.encryption.is_aead()).then(|| ChaCha20Rng::from_seed(iv_seed));
        // RFC 4303 §3.3.3: "the first packet sent using a given SA will contain a sequence number of 1".
        Some(Self {
            spi: parameters.spi,
            cipher,
            sizes,
            esn: parameters.esn,
            next: 1,
            ivs,
        })
    }

    /// Octets of the ESP packet that carries `payload_len` octets: SPI, sequence, IV, payload, padding, trailer, ICV.
    #[must_use]
    pub fn sealed_len(&self, payload_len: usize) -> usize {
        sealed_len(&self.sizes, payload_len)
    }

    /// Octets before the payload: SPI, sequence number, IV.
    #[must_use]
    pub const fn headroom(&self) -> usize {
        HEADER + self.sizes.iv
    }

    /// The lengths of the cipher.
    #[must_use]
    pub const fn sizes(&self) -> &CipherSizes {
        &self.sizes
    }

    /// Takes `count` consecutive sequence numbers at once; returns the first.
    ///
    /// # Errors
    /// [`SequenceExhausted`]: RFC 4303 §3.3.3: "the sender MUST NOT send a packet on an SA if doing so would cause the
    /// sequence number to cycle".
    pub fn reserve(&mut self, count: u32) -> Result<u64, SequenceExhausted> {
        let last = if self.esn { u64::MAX } else { u64::from(u32::MAX) };
        let first = self.next;
        let next = first
            .checked_add(u64::from(count))
            .filter(|next| next - 1 <= last)
            .ok_or(SequenceExhausted)?;
        self.next = next;
        Ok(first)
    }

    /// Seals in place. `packet` has exactly `sealed_len(payload_len)` octets and already holds the payload at
    /// `headroom()`; the rest is written here. `sequence` comes from [`Self::reserve`] and is used once.
    pub fn seal(&mut self, sequence: u64, next_header: u8, payload_len: usize, packet: &mut [u8]) {
        let Self {
            spi,
            cipher,
            sizes,
            esn,
            ivs,
            ..
        } = self;
        let text_at = HEADER + sizes.iv;
        let icv_at = packet.len() - sizes.icv;
        let pad = padding(sizes, payload_len);
        let (front, icv) = packet.split_at_mut(icv_at);
        let (head, text) = front.split_at_mut(text_at);
        let (header, iv) = head.split_at_mut(HEADER);
        header[..4].copy_from_slice(&spi.to_be_bytes());
        header[4..].copy_from_slice(&(sequence as u32).to_be_bytes());
        match ivs {
            Some(ivs) => ivs.fill_bytes(iv),
            None => iv.copy_from_slice(&sequence.to_be_bytes()),
        }
        // RFC 4303 §2.4: "The first padding byte appended to the plaintext is numbered 1, with subsequent padding bytes making
        // up a monotonically increasing sequence".
        let trailer = &mut text[payload_len..payload_len + pad + TRAILER];
        for (octet, value) in trailer.iter_mut().zip(1..=pad as u8) {
            *octet = value;
        }
        trailer[pad] = pad as u8;
        trailer[pad + 1] = next_header;
        let high = esn.then_some((sequence >> 32) as u32);
        cipher.seal(header, high, iv, text, icv);
    }
}
