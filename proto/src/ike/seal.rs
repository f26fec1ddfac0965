//! Protection of IKE messages: the SK payload (RFC 7296 §3.14; AEAD: RFC 5282) and SKF (RFC 7383 §2.5).

use super::keys::IkeKeys;
use crate::crypto::{PacketCipher, Provider};
use crate::wire::{Header, Outer, PayloadType};
use rand_core::CryptoRng;

/// Seals what we send, opens what the peer sends.
pub struct MessageProtection {
    seal: Box<dyn PacketCipher>,
    open: Box<dyn PacketCipher>,
    /// AEAD IVs: a counter from a random start, never repeated under one key.
    iv_counter: u64,
}

/// An opened message or fragment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenedBody {
    /// First payload inside.
    pub first: PayloadType,
    /// The payload chain (or a part of it), padding cut.
    pub payloads: Vec<u8>,
}

/// Why a protected body can't be opened: it is dropped and counted, nothing else changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// Too short, or not a multiple of the block.
    #[error("malformed encrypted payload")]
    Malformed,
    /// ICV.
    #[error("integrity check failed")]
    Integrity,
    /// The outer body is in the clear.
    #[error("message is not protected")]
    Unprotected,
}

impl MessageProtection {
    /// For one side of an IKE SA; `we_are_initiator` says whose keys seal.
    #[must_use]
    pub fn new(provider: &Provider, keys: &IkeKeys, we_are_initiator: bool, rng: &mut dyn CryptoRng) -> Option<Self> {
        let _ = (provider, keys, we_are_initiator, rng);
        todo!()
    }

    /// One message as datagrams: one with SK, or several with SKF if `max_datagram` (octets of IKE message that fit in
    /// one datagram; `None`: never fragment) is exceeded. Minimal padding.
    pub fn seal(
        &mut self,
        header: &Header,
        first: PayloadType,
        payloads: &[u8],
        max_datagram: Option<usize>,
        rng: &mut dyn CryptoRng,
    ) -> Vec<Vec<u8>> {
        let _ = (header, first, payloads, max_datagram, rng);
        todo!()
    }

    /// Opens an SK or SKF body of a message the peer sent.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, outer: &Outer<'_>) -> Result<OpenedBody, OpenError> {
        let _ = (outer, &self.seal, &self.open, self.iv_counter);
        todo!()
    }
}
