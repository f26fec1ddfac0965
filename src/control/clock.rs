//! The one place where the daemon reads its clocks for the protocol.

use landbridge_proto::time::{Instant, Now};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The protocol's clock: nanoseconds since the daemon began.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self {
            origin: std::time::Instant::now(),
        }
    }

    /// Both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let nanos = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Now {
            instant: Instant::from_nanos(nanos),
            unix,
        }
    }

    /// A protocol time as one that tokio can sleep to.
    #[must_use]
    pub fn to_tokio(self, instant: Instant) -> tokio::time::Instant {
        // An hour is far enough for a timer; the loop asks again.
        let ahead = instant
            .saturating_since(self.now().instant)
            .min(Duration::from_secs(3600));
        tokio::time::Instant::now() + ahead
    }
}
