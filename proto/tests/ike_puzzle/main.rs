//! Puzzles against denial of service (RFC 8019): both ends; then T as either side, which does what it must not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

#[path = "../ike_pump/mod.rs"]
mod ike_pump;
#[path = "../peer/mod.rs"]
mod peer;

mod before_auth;
mod initiator;
mod responder;

use ike_pump::{Pump, side_a, side_b};
use landbridge_proto::crypto::PrfAlgorithm;
use landbridge_proto::ike::puzzle::Puzzle;
use landbridge_proto::ike::{Event, SolveRequest};
use landbridge_proto::policy::connection::Gateway;
use landbridge_proto::policy::proposal::IkeProposal;
use landbridge_proto::policy::sad::Path;
use landbridge_proto::wire::{
    ExchangeType, IkeSpi, KeMethod, NotifyType, Payload, PrfId, PuzzleNotify, TransformType, encode_plain,
};
use peer::messages::*;
use peer::{Message, Tester};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Everybody has to solve one, and everybody may try without.
fn always() -> Gateway {
    Gateway {
        cookie_threshold: 0,
        puzzle_threshold: 0,
        puzzle_difficulty: 8,
        ..Gateway::default()
    }
}

/// An answer to the DUT's first message: a cookie and, perhaps, a puzzle.
fn answer(t: &mut Tester, cookie: Option<&[u8]>, puzzle: Option<PuzzleNotify>) {
    let mut payloads: Vec<Payload> = Vec::new();
    payloads.extend(cookie.map(|cookie| notify_with(NotifyType::COOKIE, cookie)));
    payloads.extend(puzzle.map(|puzzle| Payload::Notify(puzzle.notify())));
    let mut header = t.sa.header(ExchangeType::IKE_SA_INIT, true, 0);
    header.spi_r = IkeSpi::ZERO;
    t.send(&encode_plain(&header, &payloads));
}

fn of(difficulty: u8) -> Option<PuzzleNotify> {
    let prf = PrfId::HMAC_SHA2_256;
    Some(PuzzleNotify { prf, difficulty })
}

/// What the DUT wants solved.
fn wanted(t: &mut Tester) -> Option<SolveRequest> {
    let at = t.events.iter().position(|event| matches!(event, Event::Solve(_)))?;
    match t.events.remove(at) {
        Event::Solve(request) => Some(request),
        _ => None,
    }
}

fn stopped(t: &Tester) -> usize {
    t.events
        .iter()
        .filter(|event| matches!(event, Event::SolveNoMore(_)))
        .count()
}

fn solve(t: &mut Tester, request: SolveRequest, solution: Option<Vec<u8>>) {
    let now = t.at();
    t.dut.handle_solution(now, request.ticket, solution);
    t.drain();
}

/// What it repeats: a cookie first, then a solution, and all else unchanged.
fn repeated(t: &mut Tester, first: &Message, cookie: &[u8]) -> Option<Vec<u8>> {
    let again = t.next_request().expect("it repeats");
    assert_eq!(again.header, first.header);
    let [Payload::Notify(shown), rest @ ..] = &again.payloads[..] else {
        panic!()
    };
    assert_eq!((shown.notify_type, shown.data.as_slice()), (NotifyType::COOKIE, cookie));
    match rest {
        [Payload::PuzzleSolution(solution), rest @ ..] => {
            assert_eq!(rest, first.payloads);
            Some(solution.clone())
        }
        rest => {
            assert_eq!(rest, first.payloads);
            None
        }
    }
}

/// Both ends: HDR, N(COOKIE), PS, SA, KE, Ni (figure 3), and what AUTH covers is that.
#[test]
fn a_puzzle_is_solved() {
    let mut pump = Pump::with(side_a(), side_b(), 0, always());
    pump.connect();
    pump.deliver_all();
    pump.assert_joined();
    assert!(
        pump.said(1, "IKE_SA_INIT response 0 [N(COOKIE) N(PUZZLE)]"),
        "{:?}",
        pump.lines(1)
    );
    assert!(
        pump.said(0, "IKE_SA_INIT request 0 [N(COOKIE) PS SA KE No"),
        "{:?}",
        pump.lines(0)
    );
    let (asked, answered) = (pump.ends[0].counters(), pump.ends[1].counters());
    assert_eq!((asked.puzzles_done, asked.puzzles_left), (1, 0));
    assert_eq!(
        (answered.puzzles_sent, answered.puzzles_solved, answered.puzzles_wrong),
        (1, 1, 0)
    );
}

/// §7.1.2: the initiator "MAY ignore the PUZZLE notification", and §7.1: "The Responder MAY choose to process some fraction of
/// IKE_SA_INIT requests without presenting a puzzle".
#[test]
fn who_solves_none_may_get_in() {
    let mut pump = Pump::with(side_a(), side_b(), 0, always());
    let gateway = Gateway {
        puzzle_difficulty_accepted: 0,
        ..Gateway::default()
    };
    pump.configs[0] = Pump::with(side_a(), side_b(), 0, gateway).configs[0].clone();
    pump.restart(0, 1);
    pump.connect();
    pump.deliver_all();
    pump.assert_joined();
    assert!(!pump.said(0, " PS "));
    let counters = pump.ends[1].counters();
    assert_eq!((counters.puzzles_sent, counters.puzzles_solved), (1, 0));
}

/// Cookies and puzzles go on after INVALID_KE_PAYLOAD, and before (RFC 7296 §2.6.1).
#[test]
fn another_group_after_the_puzzle() {
    let mut b = side_b();
    b.ike_proposals = vec![IkeProposal::parse("aes256gcm16-prfsha256-ecp256").unwrap()];
    let mut pump = Pump::with(side_a(), b, 0, always());
    pump.connect();
    pump.deliver_all();
    pump.assert_joined();
    let counters = pump.ends[1].counters();
    assert_eq!(
        (counters.puzzles_sent, counters.puzzles_solved),
        (1, 2),
        "the solution stays good"
    );
}
