//! Waiting for the solution of a puzzle (RFC 8019 §7.1.2, §7.2.2), which is looked for elsewhere: by a thread of the caller's.
//!
//! Who asks for it has proven nothing. So a puzzle costs at most what the configuration allows and [`TIME_TO_SEARCH`], an attempt
//! solves [`MOST`] of them, and whatever else comes meanwhile is heard: the answer of the real peer ends the search.
//! Retransmissions pause: the request has been answered.
//!
//! [`TIME_TO_SEARCH`]: super::puzzle::TIME_TO_SEARCH

use super::cookie::TIME_TO_SOLVE;
use super::event::{Event, PuzzleTicket, SolveRequest};
use super::exchange::{AuthExchange, Exchange, OwnProof};
use super::puzzle::Puzzle;
use super::sa::IkeSa;
use super::shared::Shared;
use crate::policy::connection::Connection;
use crate::time::Instant;
use std::sync::Arc;
use std::time::Duration;

/// A puzzle that is not solved after this is left, even if it still waits for its turn: the cookie is worth nothing any more with a
/// responder such as ours. RFC 8019 §10: who takes longer than the secrets live, "their solutions would be discarded".
const PATIENCE: Duration = Duration::from_secs(TIME_TO_SOLVE as u64);

/// Puzzles that an attempt solves; then it only returns cookies.
pub const MOST: u32 = 3;

/// A puzzle that is being solved.
#[derive(Clone)]
pub struct Solving {
    ticket: PuzzleTicket,
    /// Left after this.
    pub deadline: Instant,
    pub difficulty: u8,
    /// It is for IKE_AUTH, of which there is so much; else for IKE_SA_INIT.
    auth: Option<Box<(Arc<Connection>, OwnProof)>>,
}

impl IkeSa {
    /// Has a puzzle solved.
    pub fn begin_solving(
        &mut self,
        shared: &mut Shared,
        puzzle: Puzzle,
        auth: Option<Box<(Arc<Connection>, OwnProof)>>,
    ) {
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
            auth,
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
        if let Some(solving) = self.solving.take_if(|solving| solving.ticket == ticket) {
            self.go_on(shared, solving, solution);
        }
    }

    /// It takes too long. §7.1.2: the initiator "MAY ignore the PUZZLE notification".
    pub fn give_up_solving(&mut self, shared: &mut Shared) {
        if let Some(solving) = self.solving.take() {
            shared.event(Event::SolveNoMore(solving.ticket));
            self.go_on(shared, solving, None);
        }
    }

    fn go_on(&mut self, shared: &mut Shared, solving: Solving, solution: Option<Vec<u8>>) {
        match solution {
            Some(_) => shared.counters.puzzles_done += 1,
            None => shared.counters.puzzles_left += 1,
        }
        match (solving.auth, self.exchange.take()) {
            (Some(auth), _) => {
                // §7.2.2: "The PS payload MUST be placed outside the Encrypted payload".
                if let Some(protection) = &mut self.protection {
                    protection.show(solution);
                }
                let (connection, proof) = *auth;
                let next = AuthExchange::send(self, shared, connection, proof);
                self.follow(shared, next);
            }
            (None, Some(Exchange::Init(exchange))) => {
                let next = exchange.on_solution(self, shared, solution);
                self.follow(shared, next);
            }
            (None, other) => self.exchange = other,
        }
        self.work(shared);
    }
}
