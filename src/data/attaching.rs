//! Whether the kernel puts packets on a queue of an interface. Attaching and detaching one takes as long as another program holds the
//! kernel's lock of network devices, so a thread of its own does it: the worker goes on with its other tunnels, and with the queue itself,
//! because the kernel throws away what is left in a queue that it detaches.

use super::queues::Queues;
use crate::sys::poll::Waker;
use std::sync::Arc;

/// Of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// The kernel puts nothing there.
    Detached,
    /// A thread is about to have it attached.
    Attaching,
    /// The kernel puts packets there, and takes them by it.
    Attached,
    /// A thread is about to have it detached.
    Detaching,
}

/// What the worker that reads a queue has to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Nothing: all is as it should be.
    Settled,
    /// Nothing yet.
    Wait,
    /// Wait for its packets.
    Listen,
    /// Wait for them no more.
    Forget,
    /// Have it attached.
    Attach,
    /// Have it detached.
    Detach,
}

/// What follows from the state, from whether the queue is wanted, whether the worker waits for its packets, and whether a wanted one is
/// attached: a queue is left only when another is there in its place.
pub(super) const fn step(state: State, wanted: bool, listening: bool, another: bool) -> Step {
    match (state, wanted, listening) {
        (State::Attaching | State::Detaching, ..) => Step::Wait,
        (State::Attached, _, false) => Step::Listen,
        (State::Attached, true, true) => Step::Settled,
        (State::Attached, false, true) if another => Step::Detach,
        (State::Attached, false, true) => Step::Wait,
        (State::Detached, _, true) => Step::Forget,
        (State::Detached, true, false) => Step::Attach,
        (State::Detached, false, false) => Step::Settled,
    }
}

/// Has a queue attached or detached, and rings when that is done. What the kernel refuses is logged, and the queue stays as it was; then this
/// is false until [`Queues::try_again`].
pub(super) fn change(queues: &Arc<Queues>, queue: usize, attach: bool, bell: &Arc<Waker>) -> bool {
    if !queues.begin_change(queue, attach) {
        return false;
    }
    let (of_thread, bell) = (Arc::clone(queues), Arc::clone(bell));
    let work = move || {
        of_thread.end_change(queue, attach);
        bell.ring();
    };
    let thread = std::thread::Builder::new().name("queue".into()).spawn(work);
    if let Err(error) = thread {
        tracing::warn!(%error, queue, "no thread for a queue of an interface: its worker stands still for the moment");
        queues.end_change(queue, attach);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps until nothing more is to be done, as long as the kernel does what it is told.
    fn steps(mut state: State, wanted: bool, mut listening: bool, another: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        loop {
            let next = step(state, wanted, listening, another);
            match next {
                Step::Settled | Step::Wait => return steps,
                Step::Listen => listening = true,
                Step::Forget => listening = false,
                Step::Attach => state = State::Attached,
                Step::Detach => state = State::Detached,
            }
            steps.push(next);
            assert!(steps.len() < 5, "{steps:?}");
        }
    }

    #[test]
    fn a_queue_comes_and_goes() {
        use State::{Attached, Attaching, Detached, Detaching};
        use Step::{Attach, Detach, Forget, Listen};
        assert_eq!(steps(Detached, true, false, false), [Attach, Listen]);
        assert_eq!(steps(Attached, false, true, true), [Detach, Forget]);
        // It is read until it is left, and left only for another.
        assert_eq!(steps(Attached, false, false, false), [Listen]);
        assert_eq!(steps(Attached, false, true, false), []);
        // Wanted again, just after it was detached.
        assert_eq!(steps(Detached, true, true, true), [Forget, Attach, Listen]);
        // Whatever is wanted meanwhile.
        for state in [Attaching, Detaching] {
            for bits in 0..8 {
                let next = step(state, bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
                assert_eq!(next, Step::Wait);
            }
        }
    }
}
