//! Puzzles of peers (RFC 8019): one thread solves them, behind everything else, and all of them in turn, so that a hard one, which
//! anybody may have sent, holds no other up for long.

use crate::sys;
use landbridge_proto::ike::puzzle::{Progress, Search};
use landbridge_proto::ike::{PuzzleTicket, SolveRequest};
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvError, SyncSender, TryRecvError, TrySendError, sync_channel};
use tokio::sync::mpsc::UnboundedSender;

/// Orders that may wait for the thread.
const QUEUE: usize = 64;

/// Puzzles that are solved at the same time.
const MOST: usize = 32;

/// Keys that are tried of one puzzle before the next has its turn: some milliseconds.
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

/// Searches that take turns.
struct Turns<T> {
    searches: VecDeque<(T, Search)>,
}

impl<T: PartialEq> Turns<T> {
    /// One more; it is given back if there are too many.
    fn add(&mut self, who: T, search: Search) -> Result<(), T> {
        if self.searches.len() >= MOST {
            return Err(who);
        }
        self.searches.push_back((who, search));
        Ok(())
    }

    fn remove(&mut self, who: &T) {
        self.searches.retain(|(other, _)| other != who);
    }

    /// The next one's turn; what it has come to, if it is over.
    fn turn(&mut self) -> Option<(T, Option<Vec<u8>>)> {
        let (who, mut search) = self.searches.pop_front()?;
        match search.run(TURN) {
            Progress::Solved(solution) => Some((who, Some(solution))),
            Progress::Hopeless => Some((who, None)),
            Progress::NotYet => {
                self.searches.push_back((who, search));
                None
            }
        }
    }
}

/// Until the desk or the daemon is gone.
fn serve(inbox: &Receiver<Order>, answers: &UnboundedSender<Solution>) {
    sys::affinity::yield_to_all_others();
    let mut turns = Turns {
        searches: VecDeque::new(),
    };
    loop {
        let order = if turns.searches.is_empty() {
            inbox.recv().map_err(|RecvError| TryRecvError::Disconnected)
        } else {
            inbox.try_recv()
        };
        let over = match order {
            Ok(Order::Solve(request)) => turns
                .add(request.ticket, request.puzzle.search())
                .err()
                .map(|ticket| (ticket, None)),
            Ok(Order::NoMore(ticket)) => {
                turns.remove(&ticket);
                None
            }
            Err(TryRecvError::Empty) => turns.turn(),
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

    #[test]
    fn a_hard_one_holds_no_other_up() {
        let mut turns = Turns {
            searches: VecDeque::new(),
        };
        turns.add("impossible", search(255)).unwrap();
        turns.add("easy", search(10)).unwrap();
        let (who, solution) = (0..10).find_map(|_| turns.turn()).unwrap();
        assert_eq!((who, solution.unwrap().len()), ("easy", 16));
        turns.remove(&"impossible");
        assert!(turns.searches.is_empty() && turns.turn().is_none());
    }

    #[test]
    fn there_are_not_too_many() {
        let mut turns = Turns {
            searches: VecDeque::new(),
        };
        for number in 0..MOST {
            turns.add(number, search(255)).unwrap();
        }
        assert_eq!(turns.add(MOST, search(8)), Err(MOST));
    }
}
