//! Octets <-> payloads <-> typed messages (RFC 7296 §3, 7383 §2.5). Knows no SA and no key.
//!
//! Reading: [`decode_outer`] splits a datagram; a plain body goes to [`decode_payloads`] at once, a protected one after
//! `ike::seal` has opened it; [`decode_request`] / [`decode_response`] sort the payloads into a typed message.
//! Writing: [`encode_request`] / [`encode_response`] give a payload chain, which [`encode_plain`] or `ike::seal` frames.

pub mod header;
pub mod message;
pub mod number;
pub mod payload;

pub use header::{Flags, Header, IkeSpi, Outer, OuterBody};
pub use number::*;
pub use payload::*;

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

// --- Signatures agreed first; the bodies live in the modules named in the head comment. ---

/// Splits a datagram (without non-ESP marker) at its outer structure: header, Length == datagram length, SK or SKF last.
///
/// # Errors
/// [`DecodeError`] with the first thing found wrong.
pub fn decode_outer(datagram: &[u8]) -> Result<Outer<'_>, DecodeError> {
    let _ = datagram;
    todo!()
}

/// Parses a payload chain, plain or decrypted. RESERVED bits are ignored; trailing octets are an error.
///
/// # Errors
/// [`DecodeError`]; `UnsupportedCritical` for an unknown payload with C set.
pub fn decode_payloads(first: PayloadType, octets: &[u8]) -> Result<Vec<Payload>, DecodeError> {
    let _ = (first, octets);
    todo!()
}

/// Writes a payload chain; returns the first payload's type (NONE for an empty chain) and the octets.
#[must_use]
pub fn encode_payloads(payloads: &[Payload]) -> (PayloadType, Vec<u8>) {
    let _ = payloads;
    todo!()
}

/// Frames an unprotected message: header with Length, then the chain.
#[must_use]
pub fn encode_plain(header: &Header, payloads: &[Payload]) -> Vec<u8> {
    let _ = (header, payloads);
    todo!()
}

/// Sorts a request's payloads into a typed message, under the rules of its exchange.
///
/// # Errors
/// [`DecodeError::Rule`], [`DecodeError::UnknownExchange`].
pub fn decode_request(exchange: ExchangeType, payloads: Vec<Payload>) -> Result<message::Request, DecodeError> {
    let _ = (exchange, payloads);
    todo!()
}

/// Sorts a response's payloads into a typed message. An unknown error notify is a refusal (RFC 7296 §3.10.1).
///
/// # Errors
/// [`DecodeError::Rule`], [`DecodeError::UnknownExchange`].
pub fn decode_response(exchange: ExchangeType, payloads: Vec<Payload>) -> Result<message::Response, DecodeError> {
    let _ = (exchange, payloads);
    todo!()
}

/// A typed request as payloads in the RFC's order.
#[must_use]
pub fn encode_request(request: &message::Request) -> Vec<Payload> {
    let _ = request;
    todo!()
}

/// A typed response as payloads in the RFC's order.
#[must_use]
pub fn encode_response(response: &message::Response) -> Vec<Payload> {
    let _ = response;
    todo!()
}

/// One line for the log, in the RFC's words: `CREATE_CHILD_SA request 3 [N(REKEY_SA) SA No KE TSi TSr]`.
#[must_use]
pub fn summarize(header: &Header, payloads: &[Payload]) -> String {
    let _ = (header, payloads);
    todo!()
}
