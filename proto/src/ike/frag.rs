//! Reassembly of IKE fragments (RFC 7383 §2.6). Only fragments whose ICV verified come here.

use super::seal::OpenedBody;
use crate::time::Instant;

/// The fragments of one message, in any order; bounded by [`crate::wire::limits::MESSAGE`] octets.
#[derive(Debug, Default)]
pub struct Reassembly {
    message_id: Option<u32>,
    total: u16,
    parts: Vec<Option<OpenedBody>>,
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
        let _ = (
            now,
            message_id,
            fragment,
            total,
            body,
            &self.parts,
            self.total,
            self.message_id,
        );
        todo!()
    }

    /// When what has been collected is dropped; `None` if nothing is.
    #[must_use]
    pub fn expires_at(&self) -> Option<Instant> {
        let _ = self.started;
        todo!()
    }

    /// Drops what has expired.
    pub fn expire(&mut self, now: Instant) {
        let _ = now;
        todo!()
    }
}
