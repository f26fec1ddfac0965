//! Which worker reads the queue of an interface. While there is little to do, the one that has the inbound SA: where one thread does both
//! directions, fewer have to wake up for a packet and its answer (docs/decisions/0003). With much to do, another, so that a lone tunnel
//! has two processors.
//!
//! Who reads a queue decides whether to give it away. What is known of it, the outbound SAs among it, goes along as one value, so that
//! there is always one owner. Interfaces with several queues (RFC 9611) stay where their numbers say.

use super::load::MUCH;
use super::own::Own;
use super::report::Nanos;
use super::worker::{Letter, Shared};

/// Whether queues go from worker to worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Placement {
    /// By how busy the workers are.
    #[default]
    ByLoad,
    /// On and on, as often as can be: for tests.
    Restless,
}

impl Placement {
    /// How long a look at the load takes.
    pub(super) const fn look(self) -> Nanos {
        match self {
            Self::ByLoad => super::load::LOOK,
            Self::Restless => 1_000_000,
        }
    }
}

/// Thousandths of a processor up to which the work of two workers is done by one. Well below [`MUCH`], so that nothing goes to and fro.
const LITTLE: u32 = 150;
/// Looks for which a worker must have much to do before it gives a queue away, and then before it gives another.
const LOOKS: u8 = 2;

/// The workers that may have the queue of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Places {
    /// The one that has the inbound SA: while there is little to do.
    pub together: usize,
    /// Another: while there is much. By the interface's number, so that those of several tunnels are spread whoever is busy when.
    pub apart: usize,
}

impl Places {
    /// With the inbound SA at a worker, where an interface's number stands for another.
    pub(super) const fn new(inbound: usize, by_number: usize, workers: usize) -> Self {
        Self {
            together: inbound,
            apart: if by_number == inbound {
                (by_number + 1) % workers
            } else {
                by_number
            },
        }
    }
}

/// A queue of an interface and what is known of it, on its way to another worker.
pub(super) struct Handed {
    /// The interface's number.
    pub number: usize,
    pub own: Own,
    /// How many changes the giver had taken up.
    pub changes: u64,
}

/// Finds out whether to give a queue away; a worker's, in its thread.
#[derive(Default)]
pub(super) struct Placing {
    placement: Placement,
    /// Looks since when it has had much to do.
    much: u8,
}

impl Placing {
    pub(super) const fn new(placement: Placement) -> Self {
        Self { placement, much: 0 }
    }

    /// At a look of worker `me`, which used so many thousandths of a processor: the worker that is to have the queue that was read last,
    /// if there is one that may go to these `places`.
    pub(super) fn look(
        &mut self,
        me: usize,
        places: Option<Places>,
        used: u32,
        load: impl Fn(usize) -> u32,
    ) -> Option<usize> {
        self.much = if used < MUCH { 0 } else { self.much.saturating_add(1) };
        let Places { together, apart } = places?;
        if self.placement == Placement::Restless {
            return Some(if me == together { apart } else { together });
        }
        if me != together {
            let sum = used.saturating_add(load(together));
            return (sum <= LITTLE).then_some(together);
        }
        if self.much < LOOKS || load(apart) >= used {
            return None;
        }
        self.much = 0;
        Some(apart)
    }
}

/// Puts a queue on its way; returns it if the other's mailbox is full.
pub(super) fn hand(handed: Box<Handed>, to: usize, shared: &Shared) -> Result<(), Box<Handed>> {
    match shared.try_post(to, Letter::Queue(handed)) {
        Err(Letter::Queue(handed)) => Err(handed),
        // What is returned is what was given.
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What follows from looks that find the same over and over, of three workers: the inbound SA is with the first.
    fn of(me: usize, loads: [u32; 3]) -> Option<usize> {
        let mut placing = Placing::default();
        let mut look = || placing.look(me, Some(Places::new(0, 1, 3)), loads[me], |worker| loads[worker]);
        let first = look();
        if me == 0 {
            assert_eq!(first, None, "a single look is not enough");
            return look();
        }
        first
    }

    #[test]
    fn one_worker_does_both_directions_while_there_is_little() {
        assert_eq!(of(1, [0, 0, 1000]), Some(0));
        assert_eq!(of(1, [50, 100, 0]), Some(0));
        assert_eq!(of(1, [50, 101, 0]), None);
        // Where another inbound SA had its place before.
        assert_eq!(of(2, [50, 900, 20]), Some(0));
        for load in 0..MUCH {
            assert_eq!(of(0, [load, 0, 0]), None, "{load}");
        }
    }

    #[test]
    fn with_much_to_do_another_takes_over() {
        assert_eq!(of(0, [MUCH, 0, 0]), Some(1));
        assert_eq!(of(0, [1000, 260, 0]), Some(1));
        assert_eq!(of(0, [1000, 1000, 0]), None, "it has as much itself");
    }

    #[test]
    fn it_is_another() {
        for workers in 2..8 {
            for inbound in 0..workers {
                for number in 0..workers {
                    let places = Places::new(inbound, number, workers);
                    assert!(places.apart != places.together && places.apart < workers);
                }
            }
        }
    }

    #[test]
    fn one_queue_after_another_and_only_while_there_is_much() {
        let mut placing = Placing::default();
        let mut look = |used| placing.look(0, Some(Places::new(0, 1, 2)), used, |_| 0);
        let looks = [300, 300, 300, 300, 300, 0, 300, 300];
        let (stay, go) = (None, Some(1));
        assert_eq!(looks.map(&mut look), [stay, go, stay, go, stay, stay, stay, go]);
        // Looks count also while there is nothing to give.
        let mut placing = Placing::default();
        let looks = [300, 0, 300].map(|used| placing.look(0, None, used, |_| 0));
        assert_eq!(looks, [None; 3]);
        assert_eq!(placing.look(0, Some(Places::new(0, 1, 2)), 300, |_| 0), go);
    }

    /// Whatever the work of a queue is, as long as it is the same it does not go to and fro.
    #[test]
    fn nothing_goes_to_and_fro() {
        for inbound in (0..=1000).step_by(10) {
            for outbound in (0..=1000).step_by(10) {
                let parts = of(0, [u32::min(inbound + outbound, 1000), 0, 0]).is_some();
                let joins = of(1, [inbound, outbound, 0]).is_some();
                assert!(!(parts && joins), "{inbound} and {outbound}");
            }
        }
    }
}
