//! Whether the kernel puts packets on a queue of an interface. To attach or detach one takes as long as another program holds the
//! kernel's lock of network devices, so a thread of its own does it. The worker goes on with its other tunnels, and with the queue itself:
//! the kernel throws away what is left in a queue that it detaches.

use super::queues::Queues;
use crate::sys::poll::Waker;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};

/// Whether the kernel puts packets on a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// It does not.
    Detached,
    /// The thread is attaching it; it may do so already.
    Attaching,
    /// It does, and takes packets by it.
    Attached,
    /// The thread is detaching it; it may do so still.
    Detaching,
}

/// What is to be done about a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Nothing: it is as it should be.
    Settled,
    /// Nothing yet.
    Wait,
    /// To attach it.
    Attach,
    /// To detach it.
    Detach,
}

/// What follows from the state, from whether the queue is wanted, and from whether a wanted one is attached: a queue goes only when another
/// is there in its place.
pub(super) const fn step(state: State, wanted: bool, another: bool) -> Step {
    match (state, wanted) {
        (State::Attached, true) | (State::Detached, false) => Step::Settled,
        (State::Detached, true) => Step::Attach,
        (State::Attached, false) if another => Step::Detach,
        (State::Attached, false) | (State::Attaching | State::Detaching, _) => Step::Wait,
    }
}

/// A queue that is to be attached, or detached.
pub(super) struct Order {
    /// The interface may go before it is carried out.
    pub queues: Weak<Queues>,
    pub queue: usize,
    pub attach: bool,
}

/// Carries out one order after the other until nobody can give any, and rings all workers after each: one may have waited for the queue of
/// another.
pub(super) fn carry_out(orders: &Receiver<Order>, bells: &[Arc<Waker>]) {
    while let Ok(order) = orders.recv() {
        if let Some(queues) = order.queues.upgrade() {
            queues.carry_out(order.queue, order.attach);
        }
        bells.iter().for_each(|bell| bell.ring());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::{Attached, Attaching, Detached, Detaching};

    #[test]
    fn a_queue_comes_when_it_is_wanted_and_goes_when_another_is_there() {
        for another in [false, true] {
            assert_eq!(step(Detached, true, another), Step::Attach);
            assert_eq!(step(Attached, true, another), Step::Settled);
            assert_eq!(step(Detached, false, another), Step::Settled);
        }
        assert_eq!(step(Attached, false, true), Step::Detach);
        assert_eq!(step(Attached, false, false), Step::Wait);
    }

    #[test]
    fn what_has_begun_comes_to_its_end_first() {
        for state in [Attaching, Detaching] {
            for (wanted, another) in [(false, false), (false, true), (true, false), (true, true)] {
                assert_eq!(step(state, wanted, another), Step::Wait);
            }
        }
    }
}
