//! Octets <-> payloads <-> typed messages (RFC 7296 §3, 7383 §2.5). Knows no SA and no key.
//!
//! Reading: [`decode_outer`] splits a datagram; a plain body goes to [`decode_payloads`] at once, a protected one after
//! `ike::seal` has opened it; [`decode_request`] / [`decode_response`] sort the payloads into a typed message.
//! Writing: [`encode_request`] / [`encode_response`] give a payload chain, which [`encode_plain`] or `ike::seal` frames.

pub mod header;
pub mod message;
pub mod number;
pub mod payload;
pub mod rules;

mod arrange;
mod chain;
mod notify;
mod reader;
mod redirect;
mod sa;
mod sort;
mod summary;
mod ticket;
mod ts;
mod writer;

pub use arrange::{encode_request, encode_response};
pub use chain::{decode_outer, decode_payloads, encode_header, encode_payloads, encode_plain};
pub use sort::{decode_request, decode_response};
pub use summary::summarize;

pub use header::{Flags, Header, IkeSpi, Outer, OuterBody};
pub use number::*;
pub use payload::*;
pub use redirect::{GatewayIdentity, Redirect, RedirectSupport};

/// Caps on what one message may hold; beyond them it is refused as a whole.
pub mod limits {
    /// Octets of one (reassembled) message.
    pub const MESSAGE: usize = 64 * 1024;
    /// Payloads a message.
    pub const PAYLOADS: usize = 40;
    /// Proposals an SA payload.
    pub const PROPOSALS: usize = 16;
    /// Transforms a proposal.
    pub const TRANSFORMS: usize = 64;
    /// Notifies a message.
    pub const NOTIFIES: usize = 32;
    /// Traffic selectors a TS payload.
    pub const SELECTORS: usize = 64;
    /// SPIs a Delete payload.
    pub const DELETE_SPIS: usize = 1024;
}

/// Why octets are not an IKE message. Which notify answers it is decided in `ike::error`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than its structure says.
    #[error("{what}: {have} octets where {want} are needed")]
    Truncated {
        /// The structure.
        what: &'static str,
        /// Octets wanted.
        want: usize,
        /// Octets there.
        have: usize,
    },
    /// A length field that contradicts what holds it.
    #[error("{what}: length {length} is impossible here")]
    BadLength {
        /// The structure.
        what: &'static str,
        /// The value read.
        length: usize,
    },
    /// A value that the RFC forbids.
    #[error("{what}: {why}")]
    Invalid {
        /// The structure.
        what: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// More than a cap allows.
    #[error("more than {cap} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The cap.
        cap: usize,
    },
    /// Major version above 2 (RFC 7296 §2.5).
    #[error("IKE major version {0}")]
    MajorVersion(u8),
    /// A payload of unknown type with the critical bit set (RFC 7296 §2.5).
    #[error("unsupported critical payload of type {0}")]
    UnsupportedCritical(u8),
    /// A payload that is missing, or there too often, in this exchange and direction.
    #[error("{exchange}: {payload} payload {problem}")]
    Rule {
        /// Exchange and direction.
        exchange: &'static str,
        /// Payload.
        payload: &'static str,
        /// "is missing", "stands twice", "is out of place".
        problem: &'static str,
    },
    /// An exchange type not spoken here.
    #[error("exchange type {0}")]
    UnknownExchange(u8),
}
