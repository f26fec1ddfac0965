//! Opening (RFC 4303 §3.4).

use super::replay::{Refused, ReplayWindow};
use super::transform::{HEADER, TRAILER, alignment};
use super::{InboundError, NextHeader, Opened};
use crate::crypto::{CipherSizes, PacketCipher, Provider};
use crate::policy::sad::SaParameters;

/// The receiving half of an ESP SA. One owner.
pub struct InboundSa {
    cipher: Box<dyn PacketCipher>,
    sizes: CipherSizes,
    esn: bool,
    window: ReplayWindow,
}

impl InboundSa {
    /// Keys an SA with a replay window of `window` packets (at least 32).
    #[must_use]
    pub fn new(provider: &Provider, parameters: &SaParameters, window: u32) -> Option<Self> {
        let cipher = (provider.cipher)(parameters.suite, &parameters.key)?;
        let sizes = cipher.sizes();
        Some(Self {
            cipher,
            sizes,
            esn: parameters.esn,
            window: ReplayWindow::new(window),
        })
    }

    /// Check the window, open in place, mark the window, cut the padding (RFC 4303 §3.4). `packet` begins with the SPI.
    ///
    /// # Errors
    /// [`InboundError`]; the window moves only after the ICV verified.
    pub fn open(&mut self, packet: &mut [u8]) -> Result<Opened, InboundError> {
        let Self {
            cipher,
            sizes,
            esn,
            window,
        } = self;
        let text_at = HEADER + sizes.iv;
        let text_len = packet
            .len()
            .checked_sub(text_at + sizes.icv)
            .ok_or(InboundError::Malformed)?;
        if text_len < TRAILER || text_len % alignment(sizes) != 0 {
            return Err(InboundError::Malformed);
        }
        let (front, icv) = packet.split_at_mut(text_at + text_len);
        let (head, text) = front.split_at_mut(text_at);
        let (header, iv) = head.split_at_mut(HEADER);
        let low = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let sequence = if *esn { window.infer(low) } else { u64::from(low) };
        // §3.4.3: "the receiver MUST ... verify that the packet contains a Sequence Number that does not duplicate".
        window.check(sequence).map_err(|refused| match refused {
            Refused::TooOld => InboundError::TooOld,
            Refused::Replayed => InboundError::Replayed,
        })?;
        let high = esn.then_some((sequence >> 32) as u32);
        cipher.open(header, high, iv, text, icv)?;
        // §3.4.3: "The receive window is updated only if the integrity verification succeeds."
        window.mark(sequence);
        let pad = usize::from(text[text_len - TRAILER]);
        let next_header = NextHeader::from_octet(text[text_len - 1]);
        let payload_len = (text_len - TRAILER).checked_sub(pad).ok_or(InboundError::Padding)?;
        // §2.4: "the receiver SHOULD inspect the Padding field", after the ICV.
        let padding = &text[payload_len..payload_len + pad];
        if !padding.iter().zip(1_u8..=255).all(|(octet, value)| *octet == value) {
            return Err(InboundError::Padding);
        }
        Ok(Opened {
            payload: text_at..text_at + payload_len,
            next_header,
            sequence,
        })
    }

    /// Highest sequence number authenticated.
    #[must_use]
    pub const fn highest(&self) -> u64 {
        self.window.highest()
    }
}
