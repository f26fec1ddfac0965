//! The IKE header (RFC 7296 §3.1): 28 octets.

use super::number::{ExchangeType, PayloadType};

/// An IKE SPI: 8 octets; zero stands for "not yet known".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct IkeSpi(pub [u8; 8]);

impl IkeSpi {
    /// The responder's SPI in the first message.
    pub const ZERO: Self = Self([0; 8]);
}

impl std::fmt::Display for IkeSpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl std::fmt::Debug for IkeSpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Header flags. I says who began the SA, R says request or response: different questions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    /// 0x08: sent by the SA's original initiator.
    pub initiator: bool,
    /// 0x20: a response.
    pub response: bool,
}

/// The IKE header, without its Length field, which is computed when written and checked when read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// SPI chosen by the SA's original initiator.
    pub spi_i: IkeSpi,
    /// SPI chosen by the SA's original responder.
    pub spi_r: IkeSpi,
    /// Exchange type.
    pub exchange: ExchangeType,
    /// I and R; the other bits are sent 0 and ignored (RFC 7296 §3.1).
    pub flags: Flags,
    /// Message ID.
    pub message_id: u32,
}

impl Header {
    /// Octets of an IKE header.
    pub const LEN: usize = 28;
}

/// A datagram split at its outer structure; nothing in it is authenticated yet.
#[derive(Clone, Debug)]
pub struct Outer<'a> {
    /// The header.
    pub header: Header,
    /// What follows it.
    pub body: OuterBody<'a>,
}

/// What follows the IKE header.
#[derive(Clone, Debug)]
pub enum OuterBody<'a> {
    /// A chain of payloads in the clear (IKE_SA_INIT, unprotected notifies).
    Plain {
        /// Type of the first payload.
        first: PayloadType,
        /// The chain.
        payloads: &'a [u8],
    },
    /// An Encrypted payload (RFC 7296 §3.14); it is the last one. `associated` and `protected` are adjacent.
    Sk {
        /// Type of the first payload inside.
        first: PayloadType,
        /// From the IKE header through the SK payload's generic header: authenticated, in the clear.
        associated: &'a [u8],
        /// IV, ciphertext, ICV.
        protected: &'a [u8],
    },
    /// An Encrypted Fragment payload (RFC 7383 §2.5).
    Skf {
        /// Type of the first payload inside the whole message; NONE but in fragment 1.
        first: PayloadType,
        /// 1-based.
        fragment: u16,
        /// Total fragments, at least `fragment`.
        total: u16,
        /// From the IKE header through Total Fragments.
        associated: &'a [u8],
        /// IV, ciphertext, ICV.
        protected: &'a [u8],
    },
}
