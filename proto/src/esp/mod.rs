//! ESP (RFC 4303): `outbound` seals, `inbound` opens, [`replay`] is the window, [`encap`] tells ESP from IKE on
//! port 4500 (RFC 3948), [`stream`] carries both in TCP (RFC 9329), [`transform`] has the sizes, [`aggfrag`] is IP-TFS (RFC 9347).

pub mod aggfrag;
pub mod encap;
mod inbound;
mod outbound;
pub mod replay;
pub mod stream;
pub mod transform;

pub use inbound::InboundSa;
pub use outbound::OutboundSa;

use crate::crypto::IntegrityError;

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

impl NextHeader {
    /// From the trailer's octet.
    #[must_use]
    pub const fn from_octet(octet: u8) -> Self {
        match octet {
            4 => Self::Ipv4,
            41 => Self::Ipv6,
            59 => Self::Dummy,
            other => Self::Other(other),
        }
    }

    /// The trailer's octet.
    #[must_use]
    pub const fn octet(self) -> u8 {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 => 41,
            Self::Dummy => 59,
            Self::Other(other) => other,
        }
    }
}
