//! Reassembly of IKE fragments (RFC 7383 §2.6). Only fragments whose ICV verified come here.

use super::seal::OpenedBody;
use crate::time::Instant;
use crate::wire::{PayloadType, limits};
use std::time::Duration;

/// Fragments a message; 64 KiB in pieces of a small IPv4 datagram are fewer.
const MOST_FRAGMENTS: u16 = 160;
/// How long a half-received message is kept: longer than a few retransmissions of the peer's.
const PATIENCE: Duration = Duration::from_secs(30);

/// The fragments of one message, in any order; bounded by [`crate::wire::limits::MESSAGE`] octets.
#[derive(Clone, Debug, Default)]
pub struct Reassembly {
    message_id: Option<u32>,
    total: u16,
    parts: Vec<Option<OpenedBody>>,
    octets: usize,
    started: Option<Instant>,
}

/// What became of a fragment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FragmentOutcome {
    /// More are needed.
    Pending,
    /// The whole message.
    Complete(OpenedBody),
    /// Duplicate, smaller total, or over a cap: dropped (§2.6).
    Dropped,
}

impl Reassembly {
    /// Adds an authenticated fragment. A larger total restarts reassembly, a smaller one is dropped (§2.6).
    pub fn add(
        &mut self,
        now: Instant,
        message_id: u32,
        fragment: u16,
        total: u16,
        body: OpenedBody,
    ) -> FragmentOutcome {
        if fragment == 0 || fragment > total || total > MOST_FRAGMENTS {
            return FragmentOutcome::Dropped;
        }
        if self.message_id != Some(message_id) || total > self.total {
            let parts = (0..total).map(|_| None).collect();
            *self = Self {
                message_id: Some(message_id),
                total,
                parts,
                octets: 0,
                started: Some(now),
            };
        }
        // §2.6: a fragment with a smaller total belongs to an older try of the sender's and is ignored; so is one "already
        // present in the reassembling queue".
        let Some(place) = self
            .parts
            .get_mut(usize::from(fragment) - 1)
            .filter(|_| total == self.total)
        else {
            return FragmentOutcome::Dropped;
        };
        if place.is_some() {
            return FragmentOutcome::Dropped;
        }
        self.octets += body.payloads.len();
        if self.octets > limits::MESSAGE {
            *self = Self::default();
            return FragmentOutcome::Dropped;
        }
        *place = Some(body);
        if self.parts.iter().any(Option::is_none) {
            return FragmentOutcome::Pending;
        }
        let mut whole = OpenedBody {
            first: PayloadType::NONE,
            payloads: Vec::with_capacity(self.octets),
        };
        for (index, part) in std::mem::take(self).parts.into_iter().flatten().enumerate() {
            if index == 0 {
                whole.first = part.first;
            }
            whole.payloads.extend_from_slice(&part.payloads);
        }
        FragmentOutcome::Complete(whole)
    }

    /// When what has been collected is dropped; `None` if nothing is.
    #[must_use]
    pub fn expires_at(&self) -> Option<Instant> {
        self.started.map(|started| started + PATIENCE)
    }

    /// Drops what has expired.
    pub fn expire(&mut self, now: Instant) {
        if self.expires_at().is_some_and(|at| at <= now) {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(text: &str) -> OpenedBody {
        OpenedBody {
            first: PayloadType::SA,
            payloads: text.as_bytes().to_vec(),
        }
    }

    #[test]
    fn any_order_and_no_duplicates() {
        let mut r = Reassembly::default();
        assert_eq!(r.add(Instant::ZERO, 1, 3, 3, part("c")), FragmentOutcome::Pending);
        assert_eq!(r.add(Instant::ZERO, 1, 1, 3, part("a")), FragmentOutcome::Pending);
        assert_eq!(r.add(Instant::ZERO, 1, 1, 3, part("x")), FragmentOutcome::Dropped);
        assert_eq!(
            r.add(Instant::ZERO, 1, 2, 3, part("b")),
            FragmentOutcome::Complete(part("abc"))
        );
        assert_eq!(r.expires_at(), None);
    }

    #[test]
    fn a_larger_total_restarts_and_a_smaller_is_dropped() {
        let mut r = Reassembly::default();
        assert_eq!(r.add(Instant::ZERO, 1, 1, 2, part("a")), FragmentOutcome::Pending);
        assert_eq!(r.add(Instant::ZERO, 1, 1, 3, part("A")), FragmentOutcome::Pending);
        assert_eq!(r.add(Instant::ZERO, 1, 2, 2, part("b")), FragmentOutcome::Dropped);
        assert_eq!(r.add(Instant::ZERO, 1, 2, 3, part("B")), FragmentOutcome::Pending);
        assert_eq!(
            r.add(Instant::ZERO, 1, 3, 3, part("C")),
            FragmentOutcome::Complete(part("ABC"))
        );
    }

    #[test]
    fn memory_and_time_are_bounded() {
        let mut r = Reassembly::default();
        assert_eq!(
            r.add(Instant::ZERO, 1, 1, u16::MAX, part("a")),
            FragmentOutcome::Dropped
        );
        let big = OpenedBody {
            first: PayloadType::NONE,
            payloads: vec![0; 40_000],
        };
        assert_eq!(r.add(Instant::ZERO, 1, 1, 3, big.clone()), FragmentOutcome::Pending);
        assert_eq!(r.add(Instant::ZERO, 1, 2, 3, big), FragmentOutcome::Dropped);
        assert_eq!(r.add(Instant::ZERO, 2, 1, 2, part("a")), FragmentOutcome::Pending);
        r.expire(Instant::ZERO + PATIENCE);
        assert_eq!(r.add(Instant::ZERO, 2, 2, 2, part("b")), FragmentOutcome::Pending);
    }
}
