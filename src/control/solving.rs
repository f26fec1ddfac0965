//! Puzzles of peers (RFC 8019): one thread solves them, behind everything else, one after the other, so that what is begun comes to
//! its end in time. The easiest goes first, so that a hard one, which anybody may have sent, holds no easier one up.

use crate::sys;
use landbridge_proto::ike::puzzle::{Progress, Search, TIME_TO_SEARCH};
use landbridge_proto::ike::{PuzzleTicket, SolveRequest};
use std::sync::mpsc::{Receiver, RecvError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// Orders that may wait for the thread.
const QUEUE: usize = 64;

/// Puzzles that wait at most, with the one that is being solved.
const MOST: usize = 64;

/// Keys that are tried before somebody else may have the turn: some milliseconds.
const TURN: u64 = 1 << 14;

/// A solution, or that there is none.
pub(super) type Solution = (PuzzleTicket, Option<Vec<u8>>);

enum Order {
    Solve(SolveRequest),
    NoMore(PuzzleTicket),
}

/// Takes puzzles in and has them solved.
pub(super) struct SolvingDesk {
    orders: Option<SyncSender<Order>>,
    /// As many answers as there are puzzles, so [`QUEUE`] and [`MOST`] bound their number.
    answers: UnboundedSender<Solution>,
}

impl SolvingDesk {
    pub(super) const fn new(answers: UnboundedSender<Solution>) -> Self {
        Self { orders: None, answers }
    }

    /// Hands a puzzle to the thread.
    ///
    /// # Errors
    /// It is not solved: to be told to the endpoint at once.
    pub(super) fn submit(&mut self, request: SolveRequest) -> Result<(), PuzzleTicket> {
        let ticket = request.ticket;
        if self.orders.is_none() {
            let (orders, inbox) = sync_channel(QUEUE);
            let answers = self.answers.clone();
            let thread = std::thread::Builder::new().name("lb-solve".to_owned());
            thread.spawn(move || serve(&inbox, &answers)).map_err(|_| ticket)?;
            self.orders = Some(orders);
        }
        let sent = self
            .orders
            .as_ref()
            .map(|orders| orders.try_send(Order::Solve(request)));
        match sent {
            Some(Ok(())) => Ok(()),
            Some(Err(TrySendError::Full(_))) => Err(ticket),
            Some(Err(TrySendError::Disconnected(_))) | None => {
                self.orders = None;
                Err(ticket)
            }
        }
    }

    /// A solution is not needed any more. If this does not get through, it is looked for in vain.
    pub(super) fn no_more(&self, ticket: PuzzleTicket) {
        if let Some(orders) = &self.orders {
            drop(orders.try_send(Order::NoMore(ticket)));
        }
    }
}

/// Searches that wait for their turn, in the order in which they came.
struct Searches<T> {
    waiting: Vec<Waiting<T>>,
    /// A search that has run for so long is left.
    patience: Duration,
}

struct Waiting<T> {
    who: T,
    search: Search,
    /// How long it has run.
    spent: Duration,
}

impl<T: PartialEq> Searches<T> {
    const fn new(patience: Duration) -> Self {
        let waiting = Vec::new();
        Self { waiting, patience }
    }

    /// One more; it is given back if there are too many.
    fn add(&mut self, who: T, search: Search) -> Result<(), T> {
        if self.waiting.len() >= MOST {
            return Err(who);
        }
        let spent = Duration::ZERO;
        self.waiting.push(Waiting { who, search, spent });
        Ok(())
    }

    fn remove(&mut self, who: &T) {
        self.waiting.retain(|waiting| waiting.who != *who);
    }

    /// Goes on with the oldest of the easiest; what it has come to, if it is over.
    fn turn(&mut self) -> Option<(T, Option<Vec<u8>>)> {
        let places = self.waiting.iter_mut().enumerate();
        let (at, waiting) = places.min_by_key(|(_, waiting)| waiting.search.difficulty())?;
        let begun = Instant::now();
        let solution = match waiting.search.run(TURN) {
            Progress::Solved(solution) => Some(solution),
            Progress::Hopeless => None,
            Progress::NotYet => {
                waiting.spent += begun.elapsed();
                if waiting.spent < self.patience {
                    return None;
                }
                None
            }
        };
        Some((self.waiting.remove(at).who, solution))
    }
}

/// Until the desk or the daemon is gone.
fn serve(inbox: &Receiver<Order>, answers: &UnboundedSender<Solution>) {
    sys::affinity::yield_to_all_others();
    let mut searches = Searches::new(TIME_TO_SEARCH);
    loop {
        let order = if searches.waiting.is_empty() {
            inbox.recv().map_err(|RecvError| TryRecvError::Disconnected)
        } else {
            inbox.try_recv()
        };
        let over = match order {
            Ok(Order::Solve(request)) => searches
                .add(request.ticket, request.puzzle.search())
                .err()
                .map(|ticket| (ticket, None)),
            Ok(Order::NoMore(ticket)) => {
                searches.remove(&ticket);
                None
            }
            Err(TryRecvError::Empty) => searches.turn(),
            Err(TryRecvError::Disconnected) => return,
        };
        if over.is_some_and(|over| answers.send(over).is_err()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landbridge_proto::crypto::PrfAlgorithm;
    use landbridge_proto::ike::puzzle::Puzzle;

    fn search(difficulty: u8) -> Search {
        let string = b"a cookie".to_vec();
        let prf = PrfAlgorithm::HmacSha256;
        Puzzle {
            prf,
            difficulty,
            string,
        }
        .search()
    }

    /// Turns until one is over.
    fn next<T: PartialEq>(searches: &mut Searches<T>) -> (T, bool) {
        let over = (0..1000).find_map(|_| searches.turn()).unwrap();
        (over.0, over.1.is_some())
    }

    #[test]
    fn a_hard_one_holds_no_other_up() {
        let mut searches = Searches::new(TIME_TO_SEARCH);
        searches.add("impossible", search(255)).unwrap();
        assert_eq!(searches.turn(), None);
        searches.add("easy", search(10)).unwrap();
        assert_eq!(next(&mut searches), ("easy", true));
        searches.remove(&"impossible");
        assert!(searches.waiting.is_empty() && searches.turn().is_none());
    }

    /// The time of each runs from its first turn on, and each has its end before the next begins.
    #[test]
    fn what_waits_is_not_late() {
        let mut searches = Searches::new(TIME_TO_SEARCH);
        for number in 0..40 {
            searches.add(number, search(14)).unwrap();
        }
        for number in 0..40 {
            assert_eq!(next(&mut searches), (number, true));
            assert!(searches.waiting.iter().all(|waiting| waiting.spent.is_zero()));
        }
    }

    #[test]
    fn a_search_that_takes_too_long() {
        let mut searches = Searches::new(Duration::ZERO);
        searches.add("impossible", search(255)).unwrap();
        assert_eq!(searches.turn(), Some(("impossible", None)));
        assert_eq!(searches.turn(), None);
    }

    #[test]
    fn there_are_not_too_many() {
        let mut searches = Searches::new(TIME_TO_SEARCH);
        for number in 0..MOST {
            searches.add(number, search(255)).unwrap();
        }
        assert_eq!(searches.add(MOST, search(8)), Err(MOST));
    }
}
