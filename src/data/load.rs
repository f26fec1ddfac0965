//! How busy the workers are: each measures itself now and then, for all to see.

use super::report::Nanos;
use crate::sys::affinity::thread_cpu_time;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// How long a look at a worker's load is about.
pub(super) const LOOK: Nanos = 100_000_000;
/// Thousandths of a processor from which a worker has much to do.
pub(super) const MUCH: u32 = 250;

/// How busy a worker was at its last look: written by itself, read by all.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// Thousandths of a processor.
    used: AtomicU32,
    /// When that was.
    at: AtomicU64,
}

impl Load {
    fn set(&self, used: u32, now: Nanos) {
        self.used.store(used, Ordering::Relaxed);
        self.at.store(now, Ordering::Relaxed);
    }

    /// Thousandths of a processor. A worker that sleeps does not look, and has nothing to do.
    pub(super) fn get(&self, now: Nanos) -> u32 {
        let age = now.saturating_sub(self.at.load(Ordering::Relaxed));
        if age > 2 * LOOK {
            0
        } else {
            self.used.load(Ordering::Relaxed)
        }
    }
}

/// A worker's, in its thread.
pub(super) struct Meter {
    every: Nanos,
    next: Nanos,
    looked: Nanos,
    cpu: Duration,
}

impl Meter {
    /// Of the calling thread.
    pub(super) fn new(every: Nanos, now: Nanos) -> Self {
        Self {
            every,
            next: now + every,
            looked: now,
            cpu: thread_cpu_time(),
        }
    }

    /// Whether it is time for a look.
    #[inline]
    pub(super) const fn is_due(&self, now: Nanos) -> bool {
        now >= self.next
    }

    /// What the thread has used since the last look, in thousandths of a processor.
    pub(super) fn look(&mut self, now: Nanos, load: &Load) -> u32 {
        let cpu = thread_cpu_time();
        let used = part(cpu.saturating_sub(self.cpu), now.saturating_sub(self.looked));
        (self.next, self.looked, self.cpu) = (now + self.every, now, cpu);
        load.set(used, now);
        used
    }
}

/// Thousandths.
fn part(used: Duration, passed: Nanos) -> u32 {
    let part = used.as_nanos().saturating_mul(1000) / u128::from(passed.max(1));
    u32::try_from(part).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_a_processor_is_much() {
        let of = |milliseconds| part(Duration::from_millis(milliseconds), LOOK) >= MUCH;
        assert_eq!([0, 24, 25, 100].map(of), [false, false, true, true]);
        assert_eq!(part(Duration::ZERO, 0), 0);
        assert_eq!(part(Duration::MAX, 1), u32::MAX);
    }

    #[test]
    fn a_worker_tells_what_it_used_and_one_that_sleeps_has_nothing_to_do() {
        let load = Load::default();
        let mut meter = Meter::new(LOOK, 0);
        assert!(!meter.is_due(LOOK - 1) && meter.is_due(LOOK));
        let end = meter.cpu + Duration::from_millis(60);
        while thread_cpu_time() < end {}
        let used = meter.look(LOOK, &load);
        assert!(used >= 600, "{used}");
        assert!(!meter.is_due(2 * LOOK - 1) && meter.is_due(2 * LOOK));
        assert_eq!([LOOK, 3 * LOOK, 3 * LOOK + 1].map(|now| load.get(now)), [used, used, 0]);
    }
}
