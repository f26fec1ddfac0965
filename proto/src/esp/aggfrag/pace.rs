//! A rate (RFC 9347 §2.4): when the next outer packet is due.

use crate::time::Instant;
use std::time::Duration;

/// Due times, one interval apart. The rate is kept over time: a caller that comes late is told how many it owes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    interval: Duration,
    next: Instant,
    /// What a caller may be behind before it is forgiven.
    late: Duration,
}

impl Pace {
    /// The first packet is due at `now`. Who is more than `late` behind is forgiven: a burst after a long pause would be no rate.
    #[must_use]
    pub fn new(now: Instant, interval: Duration, late: Duration) -> Self {
        Self {
            interval: interval.max(Duration::from_nanos(1)),
            next: now,
            late,
        }
    }

    /// The time between two packets that makes `rate` bits a second of packets of `octets`.
    #[must_use]
    pub fn interval(rate: u64, octets: usize) -> Duration {
        let nanos = (octets as u128 * 8 * 1_000_000_000) / u128::from(rate.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX).max(1))
    }

    /// Another rate from the next packet on.
    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval.max(Duration::from_nanos(1));
    }

    /// The time between two packets.
    #[must_use]
    pub const fn current(&self) -> Duration {
        self.interval
    }

    /// When the next is due.
    #[must_use]
    pub const fn next(&self) -> Instant {
        self.next
    }

    /// Whether one is due: it is then to be sent.
    pub fn due(&mut self, now: Instant) -> bool {
        if self.next > now {
            return false;
        }
        if now.saturating_since(self.next) > self.late.max(self.interval) {
            self.next = now;
        }
        self.next = self.next + self.interval;
        true
    }
}
