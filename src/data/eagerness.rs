//! How the workers want to be scheduled. With little to do they want a processor as soon as a packet is there: somebody waits for it. While
//! one of them has much to do they had better not take the processor from who runs (SCHED_BATCH, sched(7)): more has come when they get
//! there, and each look at the kernel brings more. That holds most of all for a worker that has little to do itself because it has the
//! acknowledgments of what another carries. What it gains: docs/decisions/0013.

use super::report::Nanos;
use crate::sys::affinity::{Scheduling, schedule_as_batch, scheduling, thread_cpu_time};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a look at a worker's load is about.
const LOOK: Nanos = 100_000_000;
/// Thousandths of a processor from which a worker has much to do.
const MUCH: u128 = 250;
/// How long that holds for all of them.
const HOLDS: Nanos = 3 * LOOK;

/// Until when one of the workers counts as one that has much to do.
#[derive(Debug, Default)]
pub(super) struct Busy(AtomicU64);

/// A worker's, in its thread.
pub(super) struct Eagerness {
    next: Nanos,
    looked: Nanos,
    used: Duration,
    /// As the kernel was told last.
    batch: bool,
    /// It stays as it is: the operator has chosen (as by CPUSchedulingPolicy= of systemd), or the kernel does not let us.
    fixed: bool,
}

impl Eagerness {
    /// Of the calling thread.
    pub(super) fn new(now: Nanos) -> Self {
        Self {
            next: now + LOOK,
            looked: now,
            used: thread_cpu_time(),
            batch: false,
            fixed: scheduling() != Scheduling::Usual,
        }
    }

    /// Whether it is time for a look.
    #[inline]
    pub(super) const fn is_due(&self, now: Nanos) -> bool {
        now >= self.next && !self.fixed
    }

    /// Looks how much the thread has used since the last time, and tells the kernel what it wants.
    pub(super) fn look(&mut self, now: Nanos, busy: &Busy) {
        let used = thread_cpu_time();
        if is_much(used.saturating_sub(self.used), now.saturating_sub(self.looked)) {
            busy.0.fetch_max(now + HOLDS, Ordering::Relaxed);
        }
        (self.next, self.looked, self.used) = (now + LOOK, now, used);
        let batch = busy.0.load(Ordering::Relaxed) > now;
        if batch == self.batch {
            return;
        }
        self.batch = batch;
        if let Err(error) = schedule_as_batch(batch) {
            tracing::debug!(%error, "SCHED_BATCH is not to be had: a busy worker interrupts others as often as it is woken");
            self.fixed = true;
        }
    }
}

fn is_much(used: Duration, passed: Nanos) -> bool {
    used.as_nanos().saturating_mul(1000) >= MUCH * u128::from(passed.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_a_processor_is_much() {
        let of = |milliseconds| is_much(Duration::from_millis(milliseconds), LOOK);
        assert_eq!([0, 24, 25, 100].map(of), [false, false, true, true]);
        assert!(!is_much(Duration::ZERO, 0));
    }

    #[test]
    fn what_one_has_to_do_holds_for_all_for_a_while() {
        let busy = Busy::default();
        std::thread::scope(|scope| {
            let one = scope.spawn(|| {
                let mut one = Eagerness::new(0);
                assert!(!one.is_due(LOOK - 1) && one.is_due(LOOK));
                while thread_cpu_time() < one.used + Duration::from_millis(60) {}
                one.look(LOOK, &busy);
                scheduling()
            });
            assert_eq!(one.join().unwrap(), Scheduling::Batch);
            let other = scope.spawn(|| {
                let mut other = Eagerness::new(0);
                let mut look = |now| {
                    other.look(now, &busy);
                    scheduling()
                };
                // It has done nothing itself.
                [2 * LOOK, LOOK + HOLDS, 9 * LOOK].map(&mut look)
            });
            let (batch, usual) = (Scheduling::Batch, Scheduling::Usual);
            assert_eq!(other.join().unwrap(), [batch, usual, usual]);
        });
    }

    #[test]
    fn what_the_operator_chose_stays() {
        let there = std::thread::spawn(|| {
            // One that is not the usual, and that anybody may choose.
            schedule_as_batch(true).unwrap();
            Eagerness::new(0).is_due(Nanos::MAX)
        });
        assert!(!there.join().unwrap());
    }
}
