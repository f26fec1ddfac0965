//! AGGFRAG_PAYLOAD (RFC 9347, IP-TFS): inner packets back to back in ESP payloads, several in one, or one over several.
//!
//! [`Encoder`] is a queue of inner packets that fills outer payloads; [`Decoder`] takes outer payloads with their sequence
//! numbers and finds the inner packets in them; [`Header`] is what stands before the data blocks; [`Pace`] says when the
//! next outer packet is due, [`Control`] at what rate the path takes them. Who seals, opens, sends and tells the time is the
//! caller.

mod control;
mod decoder;
mod encoder;
mod header;
mod pace;

pub use control::{Bounds, Control, FLOOR, PathReport};
pub use decoder::{Decoder, Drops, Found, Outer, Place};
pub use encoder::{Encoder, Filled};
pub use header::{Congestion, Header, WrongHeader};
pub use pace::Pace;

use header::DELAY_MOST;

/// ESP's Next Header (RFC 9347 §6.1): "ESP Next Header value: 144".
pub const NEXT_HEADER: u8 = 144;

/// Octets of the longest inner packet: what BlockOffset can count, and IPv4's Total Length.
pub const LONGEST: usize = 65_535;

/// What the first octets of a data block say about it (RFC 9347 §6.1.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Block {
    /// A packet of so many octets.
    Packet(usize),
    /// It extends to the end of the payload (§6.1.3.3).
    Pad,
    /// Its length has not come yet.
    Runt,
    /// No type there is, or a length shorter than the packet's own header.
    Wrong,
}

impl Block {
    /// `octets` begins with the block, which may be cut off.
    fn read(octets: &[u8]) -> Self {
        let length = |at: usize| {
            let two = octets.get(at..)?.first_chunk::<2>()?;
            Some(usize::from(u16::from_be_bytes(*two)))
        };
        match octets.first().map(|octet| octet >> 4) {
            None => Self::Runt,
            Some(0) => Self::Pad,
            // "the length of the data block is extracted from the encapsulated IPv4's Total Length or IPv6's Payload
            // Length fields" (§2.2.1).
            Some(4) => match length(2) {
                None => Self::Runt,
                Some(20..) if octets.first().is_some_and(|octet| octet & 15 < 5) => Self::Wrong,
                Some(total @ 20..) => Self::Packet(total),
                Some(_) => Self::Wrong,
            },
            Some(6) => match length(4).map(|payload| 40 + payload) {
                None => Self::Runt,
                Some(total @ ..=LONGEST) => Self::Packet(total),
                Some(_) => Self::Wrong,
            },
            Some(_) => Self::Wrong,
        }
    }
}

#[cfg(test)]
mod tests;
