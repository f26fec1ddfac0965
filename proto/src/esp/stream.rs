//! IKE messages and ESP packets in a TCP stream (RFC 9329 §3, §4): a prefix at the beginning, then messages, each behind its
//! length. What a message is, its first octets say, as in UDP ([`super::encap`]).

use std::ops::Range;

/// RFC 9329 §4: "Each stream of bytes used for IKE and IPsec encapsulation MUST begin with a fixed sequence of 6 bytes as a
/// magic value, containing the characters "IKETCP" as ASCII values." It is "only sent once, by the TCP Originator only".
pub const PREFIX: [u8; 6] = *b"IKETCP";

/// Octets of the Length field.
pub const LENGTH: usize = 2;

/// §3: "it is impossible to encapsulate messages greater than 65533 octets in length".
pub const LONGEST: usize = 65_533;

/// The stream can't be read on: the TCP connection is to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StreamError {
    /// It is another protocol's.
    #[error("the stream does not begin with IKETCP")]
    Prefix,
    /// §3.1: "The value in the Length field MUST NOT be 0 or 1. The receiver MUST treat these values as fatal errors and
    /// MUST close the TCP connection."
    #[error("a length of {0}, which has no room for itself")]
    Length(u16),
}

/// Finds the messages in what was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deframer {
    awaits_prefix: bool,
}

impl Deframer {
    /// At the end that the TCP connection was opened to: the prefix comes first.
    #[must_use]
    pub const fn responder() -> Self {
        Self { awaits_prefix: true }
    }

    /// At the end that opened it, which sends the prefix.
    #[must_use]
    pub const fn originator() -> Self {
        Self { awaits_prefix: false }
    }

    /// The place of the next whole message in `octets`, from `at` on, which then stands behind it; `None` if more has to be
    /// received first, from `at` on.
    ///
    /// # Errors
    /// [`StreamError`]: nothing that follows can be trusted.
    pub fn next(&mut self, octets: &[u8], at: &mut usize) -> Result<Option<Range<usize>>, StreamError> {
        // §6.1: "The TCP Responder MUST wait for the entire stream prefix to be received on the stream before trying to
        // parse out any IKE or ESP messages."
        if self.awaits_prefix {
            let begin = octets.get(*at..).unwrap_or_default();
            let known = begin.len().min(PREFIX.len());
            if begin.get(..known) != PREFIX.get(..known) {
                return Err(StreamError::Prefix);
            }
            if known < PREFIX.len() {
                return Ok(None);
            }
            self.awaits_prefix = false;
            *at += PREFIX.len();
        }
        while let Some([high, low]) = octets.get(*at..*at + LENGTH) {
            let length = u16::from_be_bytes([*high, *low]);
            if length < 2 {
                return Err(StreamError::Length(length));
            }
            let (begin, end) = (*at + LENGTH, *at + usize::from(length));
            if octets.len() < end {
                return Ok(None);
            }
            *at = end;
            // §3: "Empty messages (where the Length field equals 2) MUST be silently ignored by receiver."
            if begin < end {
                return Ok(Some(begin..end));
            }
        }
        Ok(None)
    }
}

/// The Length field of a message of `len` octets; `None` if none is that long. §3: "equal to the length of the original message
/// plus the length of the field itself, in octets".
#[must_use]
pub fn length_field(len: usize) -> Option<[u8; LENGTH]> {
    u16::try_from(len + LENGTH).ok().map(u16::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(deframer: &mut Deframer, octets: &[u8]) -> (Result<Vec<Vec<u8>>, StreamError>, usize) {
        let (mut at, mut found) = (0, Vec::new());
        loop {
            match deframer.next(octets, &mut at) {
                Ok(Some(range)) => found.push(octets[range].to_vec()),
                Ok(None) => return (Ok(found), at),
                Err(error) => return (Err(error), at),
            }
        }
    }

    #[test]
    fn messages_come_out_however_the_stream_is_cut() {
        let messages = [vec![0xff], vec![0, 0, 0, 0, 9], vec![7; 300], vec![1; LONGEST]];
        let mut stream = PREFIX.to_vec();
        for message in &messages {
            stream.extend(length_field(message.len()).unwrap());
            stream.extend(message);
            // An empty one, which is ignored.
            stream.extend([0, 2]);
        }
        for piece in [1, 2, 3, 5, 7, 1000, stream.len()] {
            let (mut deframer, mut held, mut found) = (Deframer::responder(), Vec::new(), Vec::new());
            for octets in stream.chunks(piece) {
                held.extend_from_slice(octets);
                let (messages, used) = all(&mut deframer, &held);
                found.extend(messages.unwrap());
                held.drain(..used);
            }
            assert_eq!(found, messages, "in pieces of {piece}");
            assert!(held.is_empty());
        }
    }

    #[test]
    fn what_is_no_such_stream_is_known_by_its_first_wrong_octet() {
        for wrong in [&b"G"[..], b"IKE/", b"IKETCQ", b"\x16\x03\x01", b"\0\x06IKETCP"] {
            assert_eq!(all(&mut Deframer::responder(), wrong).0, Err(StreamError::Prefix));
        }
        for begun in [&b""[..], b"I", b"IKETC", b"IKETCP", b"IKETCP\0", b"IKETCP\0\x03"] {
            assert_eq!(all(&mut Deframer::responder(), begun).0, Ok(vec![]), "{begun:?}");
        }
        // It comes once, and from one side.
        let again = b"IKETCPIKETCP";
        let (found, used) = all(&mut Deframer::responder(), again);
        assert_eq!(
            (found, used),
            (Ok(vec![]), 6),
            "the second is the begin of a long message"
        );
    }

    #[test]
    fn lengths_that_can_not_be() {
        for length in [0, 1] {
            let (found, _) = all(&mut Deframer::originator(), &[0, 3, 0xff, 0, length, 0, 0]);
            assert_eq!(found, Err(StreamError::Length(u16::from(length))));
        }
        assert_eq!(length_field(LONGEST), Some([0xff, 0xff]));
        assert_eq!(length_field(LONGEST + 1), None);
        assert_eq!(length_field(1), Some([0, 3]), "§6.6: a NAT keepalive");
    }
}
