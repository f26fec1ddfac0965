//! As initiator, in IKE_SA_INIT: what is solved, and what is left.

use super::*;

#[test]
fn while_a_puzzle_is_solved() {
    let mut t = Tester::new(side_a());
    let first = t.provoke();
    answer(&mut t, Some(b"cookie"), of(8));
    let request = wanted(&mut t).unwrap();
    assert_eq!(request.puzzle.string, b"cookie");
    assert_eq!(request.puzzle.difficulty, 8);
    assert_eq!(
        t.status()[0].in_flight.as_deref(),
        Some("IKE_SA_INIT: solving a puzzle of 8 bits")
    );
    // It is not sent again meanwhile, and no other puzzle, cookie or group is looked at. Others may be solved before.
    t.pass(59 * SECOND);
    answer(&mut t, Some(b"another"), of(9));
    answer(&mut t, Some(b"a third"), None);
    assert!(t.out.is_empty() && wanted(&mut t).is_none());
    let solution = request.puzzle.clone().solve();
    solve(&mut t, request.clone(), solution.clone());
    assert_eq!(repeated(&mut t, &first, b"cookie"), solution);
    assert_eq!(t.counters().puzzles_done, 1);
    // An answer that comes twice, to a question of before, changes nothing.
    solve(&mut t, request, None);
    answer(&mut t, Some(b"cookie"), of(8));
    assert!(t.out.is_empty() && wanted(&mut t).is_none());
    // It is repeated as it stands.
    t.pass(2 * SECOND);
    assert_eq!(repeated(&mut t, &first, b"cookie"), solution);
    assert_eq!(stopped(&t), 0);
}

#[test]
fn a_puzzle_that_takes_too_long() {
    let mut t = Tester::new(side_a());
    let first = t.provoke();
    answer(&mut t, Some(b"cookie"), of(20));
    let request = wanted(&mut t).unwrap();
    t.pass(61 * SECOND);
    assert_eq!(repeated(&mut t, &first, b"cookie"), None);
    assert_eq!(stopped(&t), 1);
    // It comes too late.
    solve(&mut t, request, Some(vec![1; 16]));
    t.out.clear();
    t.pass(SECOND * 2);
    assert_eq!(repeated(&mut t, &first, b"cookie"), None);
    assert_eq!(t.counters().puzzles_left, 1);
}

/// §9: "Initiators SHOULD set a maximum difficulty level beyond which they won't try to solve the puzzle and log or display a
/// failure message to the administrator or user."
#[test]
fn a_puzzle_that_is_too_hard() {
    for (accepted, difficulty, taken, told) in [
        (20, 20, true, 0),
        (20, 21, false, 1),
        (20, 255, false, 1),
        (0, 8, false, 0),
        (8, 8, true, 0),
    ] {
        let gateway = Gateway {
            puzzle_difficulty_accepted: accepted,
            ..Gateway::default()
        };
        let mut t = Tester::with(side_a(), gateway);
        let first = t.provoke();
        answer(&mut t, Some(b"cookie"), of(difficulty));
        assert_eq!(wanted(&mut t).is_some(), taken, "{difficulty}");
        assert_eq!(t.failures().len(), told, "{:?}", t.failures());
        if !taken {
            assert_eq!(repeated(&mut t, &first, b"cookie"), None);
        }
    }
}

/// §8.1: "Value 0 means that the Responder doesn't request any specific difficulty level".
#[test]
fn a_difficulty_of_our_own() {
    let mut t = Tester::new(side_a());
    t.provoke();
    answer(&mut t, Some(b"cookie"), of(0));
    assert_eq!(wanted(&mut t).unwrap().puzzle.difficulty, 18);
}

/// A PRF that we did not offer, or that does not exist, can't be meant.
#[test]
fn a_puzzle_with_another_prf() {
    for prf in [PrfId::HMAC_SHA2_512, PrfId::AES128_CMAC, PrfId(0)] {
        let mut t = Tester::new(side_a());
        let first = t.provoke();
        answer(&mut t, Some(b"cookie"), Some(PuzzleNotify { prf, difficulty: 8 }));
        assert!(wanted(&mut t).is_none());
        assert_eq!(repeated(&mut t, &first, b"cookie"), None);
    }
}

/// §7.1.2: "If the received message contains a PUZZLE notification and doesn't contain a COOKIE notification ..., the Initiator
/// MUST ignore the received message and continue to wait".
#[test]
fn a_puzzle_without_a_cookie() {
    let mut t = Tester::new(side_a());
    let asked = t.provoke();
    answer(&mut t, None, of(8));
    let malformed = notify_with(NotifyType::PUZZLE, &[0, 5]);
    let mut header = t.sa.header(ExchangeType::IKE_SA_INIT, true, 0);
    header.spi_r = IkeSpi::ZERO;
    let error = notify(NotifyType::NO_PROPOSAL_CHOSEN);
    t.send(&encode_plain(
        &header,
        &[error, Payload::Notify(of(8).unwrap().notify())],
    ));
    t.send(&encode_plain(
        &header,
        &[notify_with(NotifyType::COOKIE, b"cookie"), malformed],
    ));
    assert!(t.out.is_empty() && wanted(&mut t).is_none() && t.failures().is_empty());
    assert_eq!(t.counters().malformed, 3);
    // "... until either a valid PUZZLE notification is received or the retransmission timer fires."
    t.pass(SECOND * 2);
    assert_eq!(t.next_request().unwrap().payloads, asked.payloads);
    answer(&mut t, Some(b"cookie"), of(8));
    assert!(wanted(&mut t).is_some());
}

/// Puzzles are not authentic. Whoever forges them costs an attempt three, and the true answer ends that.
#[test]
fn forged_puzzles() {
    let mut t = Tester::new(side_a());
    let asked = t.provoke();
    let mut puzzles = 0;
    for number in 0..100_u8 {
        answer(&mut t, Some(&[number; 8]), of(8));
        if let Some(request) = wanted(&mut t) {
            puzzles += 1;
            let solution = request.puzzle.clone().solve();
            solve(&mut t, request, solution);
        }
    }
    assert_eq!(puzzles, 3);
    assert!(t.out.len() <= 6, "{}", t.out.len());
    assert_eq!(t.stage(), Some("initiating"));
    let payloads = t.init_answer(&asked);
    t.answer_init(&payloads);
    // The true answer, while one is being solved.
    let mut t = Tester::new(side_a());
    let asked = t.provoke();
    answer(&mut t, Some(b"forged"), of(20));
    let request = wanted(&mut t).unwrap();
    let payloads = t.init_answer(&asked);
    t.answer_init(&payloads);
    assert_eq!(stopped(&t), 1);
    let asked = t.next_request().expect("IKE_AUTH");
    solve(&mut t, request, Some(vec![1; 16]));
    assert!(t.out.is_empty());
    let payloads = t.auth_answer();
    t.respond(&asked.header, &payloads);
    assert!(t.is_up(), "{:?}", t.failures());
}

/// A refusal while a puzzle is being solved may be forged as well, and another group may not be meant.
#[test]
fn what_else_comes_meanwhile() {
    let mut t = Tester::new(side_a());
    let first = t.provoke();
    answer(&mut t, Some(b"cookie"), of(8));
    let request = wanted(&mut t).unwrap();
    let mut header = t.sa.header(ExchangeType::IKE_SA_INIT, true, 0);
    header.spi_r = IkeSpi::ZERO;
    let group = notify_with(NotifyType::INVALID_KE_PAYLOAD, &KeMethod::ECP_256.0.to_be_bytes());
    for payload in [group, notify(NotifyType::NO_PROPOSAL_CHOSEN)] {
        t.send(&encode_plain(&header, &[payload]));
    }
    assert!(t.out.is_empty());
    let solution = request.puzzle.clone().solve();
    solve(&mut t, request, solution.clone());
    assert_eq!(repeated(&mut t, &first, b"cookie"), solution);
}

/// A second puzzle after a solution: §7.1.5, "Demand more work from the Initiator by giving it a new puzzle." Also with the cookie
/// that it has already.
#[test]
fn another_puzzle() {
    let mut t = Tester::new(side_a());
    let first = t.provoke();
    answer(&mut t, Some(b"cookie"), None);
    assert_eq!(repeated(&mut t, &first, b"cookie"), None);
    for difficulty in [8, 9] {
        answer(&mut t, Some(b"cookie"), of(difficulty));
        let request = wanted(&mut t).unwrap();
        assert_eq!(request.puzzle.difficulty, difficulty);
        let solution = request.puzzle.clone().solve();
        solve(&mut t, request, solution.clone());
        assert_eq!(repeated(&mut t, &first, b"cookie"), solution);
    }
}

/// Who is taken down does not wait for a solution.
#[test]
fn down_while_a_puzzle_is_solved() {
    let mut t = Tester::new(side_a());
    t.provoke();
    answer(&mut t, Some(b"cookie"), of(20));
    let request = wanted(&mut t).unwrap();
    t.command(landbridge_proto::ike::Command::Down {
        connection: ike_pump::SITE.into(),
        child: None,
    });
    assert_eq!(stopped(&t), 1);
    solve(&mut t, request, Some(vec![1; 16]));
    assert!(t.out.is_empty());
}
