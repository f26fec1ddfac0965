//! ESP (RFC 4303): [`outbound`] seals, [`inbound`] opens, [`replay`] is the window, [`encap`] tells ESP from IKE on
//! port 4500 (RFC 3948), [`transform`] has the sizes.

use crate::crypto::{IntegrityError, Provider};
use crate::policy::sad::SaParameters;

/// Fast path provider: the ciphers of `ring` where it has them, RustCrypto's otherwise. (Measured: see docs/decisions.)
pub use crate::crypto::ESP_PROVIDER;

/// Next Header values an inner packet may have (RFC 4303 §2.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NextHeader {
    /// 4: an IPv4 packet in a tunnel.
    Ipv4,
    /// 41: an IPv6 packet in a tunnel.
    Ipv6,
    /// 59: a dummy packet, to be dropped after it was counted.
    Dummy,
    /// Another: an upper-layer protocol in transport mode.
    Other(u8),
}

/// Why an inbound packet is dropped; each has a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InboundError {
    /// Too short, or not aligned.
    #[error("malformed")]
    Malformed,
    /// Left of the window.
    #[error("too old for the replay window")]
    TooOld,
    /// Seen before.
    #[error("replayed")]
    Replayed,
    /// ICV.
    #[error("integrity check failed")]
    Integrity,
    /// Pad Length exceeds the payload, or padding that is not 1, 2, 3, ...
    #[error("bad padding")]
    Padding,
}

impl From<IntegrityError> for InboundError {
    fn from(_: IntegrityError) -> Self {
        Self::Integrity
    }
}

/// What was opened: the inner packet's place in the buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Octets of the inner packet within the ESP packet's buffer (padding and trailer cut; TFC padding not yet).
    pub payload: std::ops::Range<usize>,
    /// Its type.
    pub next_header: NextHeader,
    /// The full sequence number.
    pub sequence: u64,
}

/// The sequence numbers are used up (RFC 4303 §3.3.3): the SA must not send again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("sequence numbers exhausted")]
pub struct SequenceExhausted;

/// The sending half of an ESP SA. One owner; no interior sharing.
pub struct OutboundSa {
    _todo: (),
}

impl OutboundSa {
    /// Keys an SA; `None` if the provider lacks the suite or the key's length is wrong.
    #[must_use]
    pub fn new(provider: &Provider, parameters: &SaParameters, iv_seed: [u8; 32]) -> Option<Self> {
        let _ = (provider, parameters, iv_seed);
        todo!()
    }

    /// Octets of the ESP packet that carries `payload_len` octets: SPI, sequence, IV, payload, padding, trailer, ICV.
    #[must_use]
    pub fn sealed_len(&self, payload_len: usize) -> usize {
        let _ = payload_len;
        todo!()
    }

    /// Octets before the payload: SPI, sequence number, IV.
    #[must_use]
    pub fn headroom(&self) -> usize {
        todo!()
    }

    /// Takes `count` consecutive sequence numbers at once; returns the first.
    ///
    /// # Errors
    /// [`SequenceExhausted`].
    pub fn reserve(&mut self, count: u32) -> Result<u64, SequenceExhausted> {
        let _ = count;
        todo!()
    }

    /// Seals in place. `packet` has exactly `sealed_len(payload_len)` octets and already holds the payload at
    /// `headroom()`; the rest is written here. `sequence` comes from [`Self::reserve`] and is used once.
    pub fn seal(&mut self, sequence: u64, next_header: u8, payload_len: usize, packet: &mut [u8]) {
        let _ = (sequence, next_header, payload_len, packet);
        todo!()
    }
}

/// The receiving half of an ESP SA. One owner.
pub struct InboundSa {
    _todo: (),
}

impl InboundSa {
    /// Keys an SA with a replay window of `window` packets (at least 32).
    #[must_use]
    pub fn new(provider: &Provider, parameters: &SaParameters, window: u32) -> Option<Self> {
        let _ = (provider, parameters, window);
        todo!()
    }

    /// Check the window, open in place, mark the window, cut the padding (RFC 4303 §3.4). `packet` begins with the SPI.
    ///
    /// # Errors
    /// [`InboundError`]; the window moves only after the ICV verified.
    pub fn open(&mut self, packet: &mut [u8]) -> Result<Opened, InboundError> {
        let _ = packet;
        todo!()
    }

    /// Highest sequence number authenticated.
    #[must_use]
    pub fn highest(&self) -> u64 {
        todo!()
    }
}
