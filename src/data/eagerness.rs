//! How the workers want to be scheduled. With little to do they want a processor as soon as a packet is there: somebody waits for it. While
//! one of them has much to do they had better not take the processor from who runs (SCHED_BATCH, sched(7)): more has come when they get
//! there, and each look at the kernel brings more. That holds most of all for a worker that has little to do itself because it has the
//! acknowledgments of what another carries. What it gains: docs/decisions/0013.

use super::load::{LOOK, MUCH};
use super::report::Nanos;
use crate::sys::affinity::{Scheduling, schedule_as_batch, scheduling};
use std::sync::atomic::{AtomicU64, Ordering};

/// How long it holds for all of them that one has much to do.
const HOLDS: Nanos = 3 * LOOK;

/// Until when one of the workers counts as one that has much to do.
#[derive(Debug, Default)]
pub(super) struct Busy(AtomicU64);

/// A worker's, in its thread.
pub(super) struct Eagerness {
    /// As the kernel was told last.
    batch: bool,
    /// It stays as it is: the operator has chosen (as by CPUSchedulingPolicy= of systemd), or the kernel does not let us.
    fixed: bool,
}

impl Eagerness {
    /// Of the calling thread.
    pub(super) fn new() -> Self {
        Self {
            batch: false,
            fixed: scheduling() != Scheduling::Usual,
        }
    }

    /// At a look of the calling thread, which used so many thousandths of a processor: tells the kernel what it wants.
    pub(super) fn look(&mut self, used: u32, now: Nanos, busy: &Busy) {
        if used >= MUCH {
            busy.0.fetch_max(now + HOLDS, Ordering::Relaxed);
        }
        let batch = busy.0.load(Ordering::Relaxed) > now;
        if batch == self.batch || self.fixed {
            return;
        }
        self.batch = batch;
        if let Err(error) = schedule_as_batch(batch) {
            tracing::debug!(%error, "SCHED_BATCH is not to be had: a busy worker interrupts others as often as it is woken");
            self.fixed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_has_to_do_holds_for_all_for_a_while() {
        let busy = Busy::default();
        let looks = |looks: [(u32, Nanos); 3]| {
            std::thread::scope(|scope| {
                let there = scope.spawn(|| {
                    let mut eagerness = Eagerness::new();
                    looks.map(|(used, now)| {
                        eagerness.look(used, now, &busy);
                        scheduling()
                    })
                });
                there.join().unwrap()
            })
        };
        let (batch, usual) = (Scheduling::Batch, Scheduling::Usual);
        assert_eq!(looks([(0, 0), (MUCH - 1, 1), (MUCH, LOOK)]), [usual, usual, batch]);
        // It has done nothing itself.
        assert_eq!(
            looks([(0, 2 * LOOK), (0, LOOK + HOLDS), (0, 9 * LOOK)]),
            [batch, usual, usual]
        );
    }

    #[test]
    fn what_the_operator_chose_stays() {
        let there = std::thread::spawn(|| {
            // One that is not the usual, and that anybody may choose.
            schedule_as_batch(true).unwrap();
            let mut eagerness = Eagerness::new();
            eagerness.look(MUCH, 0, &Busy::default());
            eagerness.look(0, 9 * LOOK, &Busy::default());
            scheduling()
        });
        assert_eq!(there.join().unwrap(), Scheduling::Batch);
    }
}
