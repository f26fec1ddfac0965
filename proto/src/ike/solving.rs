//! Waiting for the solution of a puzzle (RFC 8019 §7.1.2), which is looked for elsewhere: by a thread of the caller's.
//!
//! Who asks for it has proven nothing. So a puzzle costs at most what the configuration allows and [`PATIENCE`], an attempt solves
//! [`MOST`] of them, and whatever else comes meanwhile is heard: the answer of the real peer ends the search. Retransmissions
//! pause: the request has been answered.

use super::event::{Event, PuzzleTicket, SolveRequest};
use super::exchange::Exchange;
use super::puzzle::Puzzle;
use super::sa::IkeSa;
use super::shared::Shared;
use crate::time::Instant;
use std::time::Duration;

/// A puzzle that is not solved after this is left. RFC 8019 §6: "by taking up to 10 seconds to solve the puzzle".
const PATIENCE: Duration = Duration::from_secs(10);

/// Puzzles that an attempt solves; then it only returns cookies.
pub const MOST: u32 = 3;

/// A puzzle that is being solved.
#[derive(Clone)]
pub struct Solving {
    ticket: PuzzleTicket,
    /// Left after this.
    pub deadline: Instant,
    pub difficulty: u8,
}

impl IkeSa {
    /// Has a puzzle solved.
    pub fn begin_solving(&mut self, shared: &mut Shared, puzzle: Puzzle) {
        self.stop_solving(shared);
        shared.tickets += 1;
        let ticket = PuzzleTicket {
            sa: self.own_spi(),
            number: shared.tickets,
        };
        self.solving = Some(Solving {
            ticket,
            deadline: shared.now.instant + PATIENCE,
            difficulty: puzzle.difficulty,
        });
        shared.event(Event::Solve(SolveRequest { ticket, puzzle }));
    }

    /// Its solution is of no use any more.
    pub fn stop_solving(&mut self, shared: &mut Shared) {
        if let Some(solving) = self.solving.take() {
            shared.event(Event::SolveNoMore(solving.ticket));
        }
    }

    /// The solution is there, or there will be none.
    pub fn handle_solution(&mut self, shared: &mut Shared, ticket: PuzzleTicket, solution: Option<Vec<u8>>) {
        if self.solving.take_if(|solving| solving.ticket == ticket).is_some() {
            self.go_on(shared, solution);
        }
    }

    /// It takes too long. §7.1.2: the initiator "MAY ignore the PUZZLE notification".
    pub fn give_up_solving(&mut self, shared: &mut Shared) {
        self.stop_solving(shared);
        self.go_on(shared, None);
    }

    fn go_on(&mut self, shared: &mut Shared, solution: Option<Vec<u8>>) {
        match solution {
            Some(_) => shared.counters.puzzles_done += 1,
            None => shared.counters.puzzles_left += 1,
        }
        match self.exchange.take() {
            Some(Exchange::Init(exchange)) => {
                let next = exchange.on_solution(self, shared, solution);
                self.follow(shared, next);
            }
            other => self.exchange = other,
        }
        self.work(shared);
    }
}
