//! So many a second: what is done for strangers.

use crate::time::Instant;
use std::time::Duration;

/// A limit by the second.
#[derive(Clone)]
pub struct Budget {
    /// How many a second.
    pub most: u32,
    second: Instant,
    spent: u32,
}

impl Budget {
    pub const fn new(most: u32) -> Self {
        Self {
            most,
            second: Instant::ZERO,
            spent: 0,
        }
    }

    /// Whether there is one left.
    pub fn spend(&mut self, now: Instant) -> bool {
        if now.saturating_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.spent) = (now, 0);
        }
        self.spent = self.spent.saturating_add(1);
        self.spent <= self.most
    }
}
