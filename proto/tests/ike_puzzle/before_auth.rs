//! A puzzle in the regular answer to IKE_SA_INIT, for IKE_AUTH (§7.2).

use super::*;

/// One more puzzle in the answer, and what it is solved for.
fn asked_before_auth(t: &mut Tester, solves: bool, fragments: bool) -> Option<SolveRequest> {
    t.provoke();
    if solves {
        answer(t, Some(b"cookie"), of(8));
        let request = wanted(t).unwrap();
        let solution = request.puzzle.clone().solve();
        solve(t, request, solution);
    } else {
        answer(t, Some(b"cookie"), None);
    }
    let sent = t.out.pop_front().unwrap();
    t.sa.request.clone_from(&sent.octets);
    let asked = t.open(&[sent]);
    let mut payloads = t.init_answer(&asked);
    payloads.push(Payload::Notify(of(9).unwrap().notify()));
    if fragments {
        payloads.push(notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED));
    }
    t.answer_init(&payloads);
    wanted(t)
}

/// §7.2.2: "the Initiator sends the IKE_AUTH request message containing the PS payload": "HDR, PS, SK {...}". "If IKE
/// fragmentation [RFC7383] is used in the IKE_AUTH exchange, then the PS payload MUST be present only in the first IKE Fragment
/// message".
#[test]
fn a_puzzle_before_ike_auth() {
    for size in [1280, 200] {
        let mut a = side_a();
        a.fragment_size = size;
        let mut t = Tester::new(a);
        let request = asked_before_auth(&mut t, true, true).unwrap();
        // §7.2.3: "PRF(Ki,Nr | SPIr)".
        assert_eq!(request.puzzle.string, [t.sa.nr.as_slice(), &t.sa.spi_r.0].concat());
        assert_eq!(request.puzzle.difficulty, 9);
        t.pass(59 * SECOND);
        assert!(t.out.is_empty());
        let solution = request.puzzle.clone().solve().unwrap();
        solve(&mut t, request, Some(solution.clone()));
        let sent: Vec<_> = t.out.drain(..).collect();
        assert_eq!(sent.len() > 1, size == 200);
        for (number, datagram) in sent.iter().enumerate() {
            assert!(datagram.octets.len() + 32 <= size, "{}", datagram.octets.len());
            let own = if size == 200 { 53 } else { 46 };
            if number > 0 {
                assert_eq!(datagram.octets[16], own);
                continue;
            }
            assert_eq!(datagram.octets[16], 54);
            assert_eq!(datagram.octets[28..32], [own, 0, 0, 20]);
            assert_eq!(datagram.octets[32..48], solution);
        }
        let asked = t.open(&sent);
        // It is repeated as it stands.
        t.pass(2 * SECOND);
        let again: Vec<_> = t.out.drain(..).map(|sent| sent.octets).collect();
        assert_eq!(again, sent.iter().map(|sent| sent.octets.clone()).collect::<Vec<_>>());
        let payloads = t.auth_answer();
        t.respond(&asked.header, &payloads);
        assert!(t.is_up(), "{:?}", t.failures());
        // And in nothing else.
        let liveness = t.dut.poll_timeout();
        t.report(landbridge_proto::policy::sad::SadReport::SoftLimit(
            *t.sad.pairs.keys().next().unwrap(),
        ));
        let sent = t.out.pop_front().unwrap_or_else(|| panic!("a rekey: {liveness:?}"));
        assert_ne!(sent.octets[16], 54);
    }
}

/// §7.2.1: "The Responder MUST NOT use puzzles in the IKE_AUTH exchange unless a puzzle has been previously presented and solved in
/// the preceding IKE_SA_INIT exchange."
#[test]
fn a_puzzle_before_ike_auth_that_comes_out_of_nothing() {
    let mut t = Tester::new(side_a());
    assert!(asked_before_auth(&mut t, false, false).is_none());
    let asked = t.next_request().expect("IKE_AUTH");
    let payloads = t.auth_answer();
    t.respond(&asked.header, &payloads);
    assert!(t.is_up(), "{:?}", t.failures());
}

/// It takes too long: the request goes without, and whether the peer takes it is the peer's.
#[test]
fn a_puzzle_before_ike_auth_that_takes_too_long() {
    let mut t = Tester::new(side_a());
    asked_before_auth(&mut t, true, false).unwrap();
    t.pass(61 * SECOND);
    assert_eq!(stopped(&t), 1);
    assert_eq!(t.out[0].octets[16], 46);
}

/// As responder we ask for none there; one that is shown all the same is passed over.
#[test]
fn a_solution_before_ike_auth_that_nobody_asked_for() {
    let mut t = Tester::new(side_b());
    let payloads = t.init_payloads();
    t.init(&payloads);
    t.sa.protection.as_mut().unwrap().show(Some(vec![1; 16]));
    let payloads = t.auth_payloads();
    t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(t.is_up() && t.pairs() == 1);
}
