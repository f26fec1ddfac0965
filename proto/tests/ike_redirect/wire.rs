//! T as either side, which does what it must not.

use super::*;

/// "If the values do not match, the client MUST silently discard the response (and keep waiting for another response)."
#[test]
fn a_wrong_nonce_is_discarded() {
    let mut t = Tester::new(client());
    let asked = t.provoke();
    let right = nonce_of(&asked.payloads);
    let before = t.state();
    let mut wrong = vec![vec![], right[1..].to_vec(), [&right[..], &[0]].concat(), vec![7; 32]];
    wrong.push(right.iter().map(|octet| octet ^ 1).collect());
    for nonce in wrong {
        let answer = redirect_init(&t.sa.request, &to(GATEWAYS[1]), Some(nonce));
        assert!(t.ask(&answer).is_empty());
        assert_eq!((t.state(), redirected(&t)), (before.clone(), 0));
    }
    // Nor does one that can't be read, or another exchange's, do anything.
    for data in [&[][..], &[3, 5, b'a'], &[9, 1, 1]] {
        t.answer_init(&[notify_with(NotifyType::REDIRECT, &[data, &right].concat())]);
        assert_eq!((t.state(), redirected(&t)), (before.clone(), 0));
    }
    // The true answer is still waited for.
    let payloads = t.init_answer(&asked);
    t.answer_init(&payloads);
    assert_eq!(t.next_request().unwrap().header.exchange, ExchangeType::IKE_AUTH);
    // With the right nonce it goes; once.
    let mut t = Tester::new(client());
    t.provoke();
    let answer = redirect_init(&t.sa.request, &to(GATEWAYS[1]), None);
    for _ in 0..3 {
        t.send(&answer);
        assert_eq!(redirected(&t), 1);
    }
}

/// Who is not to follow does not announce it, and does not do it in any exchange.
#[test]
fn who_does_not_follow_stays() {
    let redirect = |nonce: &[u8]| {
        let nonce = nonce.to_vec();
        Payload::Notify(
            Redirect {
                to: to(GATEWAYS[1]),
                nonce,
            }
            .notify(),
        )
    };
    let mut t = Tester::new(side_a());
    let asked = t.provoke();
    assert!(!asked.has(NotifyType::REDIRECT_SUPPORTED));
    let answer = redirect_init(&t.sa.request, &to(GATEWAYS[1]), None);
    assert!(t.ask(&answer).is_empty());
    let payloads = t.init_answer(&asked);
    t.answer_init(&payloads);
    let asked = t.next_request().unwrap();
    let mut payloads = t.auth_answer();
    payloads.push(redirect(&[]));
    t.respond(&asked.header, &payloads);
    assert!(t.is_up() && t.pairs() == 1);
    let answer = t.request(ExchangeType::INFORMATIONAL, &[redirect(&[])]).unwrap();
    assert!(answer.payloads.is_empty());
    assert_eq!(redirected(&t), 0);
    t.assert_alive();
}

/// "the client MUST verify the gateway's AUTH payload before acting on the REDIRECT payload."
#[test]
fn in_ike_auth_only_from_who_proves_itself() {
    for (psk, follows) in [(peer::PSK, 1), (&b"another secret"[..], 0)] {
        let (mut t, asked) = Tester::until_auth(client());
        let id = id(false, "b.example");
        let auth = t.auth(psk, &id);
        let nonce = Vec::new();
        let redirect = Redirect {
            to: to(GATEWAYS[1]),
            nonce,
        }
        .notify();
        t.respond(&asked.header, &[id, auth, Payload::Notify(redirect)]);
        assert_eq!((redirected(&t), t.pairs()), (follows, 0));
        assert_eq!(t.dut.spis_in_use(), 0);
        // "it SHOULD delete the IKEv2 security association".
        let asked = t.next_request().unwrap();
        assert!(asked.payloads.contains(&delete_ike()), "{:?}", asked.payloads);
    }
}

/// What is unprotected, or an answer, or of who did not begin, sends nobody away.
#[test]
fn only_the_requests_of_the_original_responder_count() {
    let redirect = || {
        let nonce = Vec::new();
        Redirect {
            to: to(GATEWAYS[1]),
            nonce,
        }
        .notify()
    };
    let mut t = Tester::up_as_responder(client());
    let before = t.state();
    for exchange in [
        ExchangeType::INFORMATIONAL,
        ExchangeType::IKE_AUTH,
        ExchangeType::CREATE_CHILD_SA,
    ] {
        for (response, id) in [(false, 0), (false, 1), (true, 0), (true, 2)] {
            let header = t.sa.header(exchange, response, id);
            t.send(&encode_plain(&header, &[Payload::Notify(redirect())]));
        }
    }
    let init = t.sa.request.clone();
    t.send(&redirect_init(&init, &to(GATEWAYS[1]), None));
    assert_eq!((t.state(), redirected(&t)), (before, 0));
    // In other exchanges, and in an answer.
    let mut offer = t.child_offer(false);
    offer.push(t.nonce(32));
    offer.push(Payload::Notify(redirect()));
    t.request(ExchangeType::CREATE_CHILD_SA, &offer).unwrap();
    assert_eq!(redirected(&t), 0);
    t.command(Command::RekeyChild {
        connection: SITE.into(),
        child: None,
    });
    let asked = t.next_request().unwrap();
    t.respond(&asked.header, &[Payload::Notify(redirect())]);
    assert_eq!(redirected(&t), 0);
    // §9.2: a nonce "MUST NOT be included"; one that is there means nothing. It is answered, and only once.
    let mut t = Tester::up_as_responder(client());
    let with_nonce = Redirect {
        to: to(GATEWAYS[1]),
        nonce: vec![1; 32],
    }
    .notify();
    let answer = t
        .request(ExchangeType::INFORMATIONAL, &[Payload::Notify(with_nonce)])
        .unwrap();
    assert!(answer.payloads.is_empty());
    for _ in 0..5 {
        t.request(ExchangeType::INFORMATIONAL, &[Payload::Notify(redirect())])
            .unwrap();
    }
    assert_eq!(redirected(&t), 1);
    assert!(t.is_up() && t.pairs() == 1, "it stays until there is another");
    // §10.
    let mut t = Tester::up(Connection {
        follow_redirects: true,
        ..side_b()
    });
    t.request(ExchangeType::INFORMATIONAL, &[Payload::Notify(redirect())])
        .unwrap();
    assert_eq!(redirected(&t), 0);
    t.assert_alive();
}

/// The answer to a stranger: alone, with its nonce, no SPI of ours, not longer than what came, and nothing is kept; cookies are
/// not needed for it.
#[test]
fn a_stranger_costs_nothing() {
    let gateway = Gateway {
        cookie_threshold: 0,
        ..sends(GATEWAYS[1])
    };
    let mut t = Tester::with(side_b(), gateway.clone());
    let load = t.dut.load();
    for support in [
        Notify::new(NotifyType::REDIRECT_SUPPORTED, vec![]),
        Notify::new(NotifyType::REDIRECTED_FROM, vec![1, 4, 203, 0, 113, 1]),
        // It may say both.
        Notify::new(NotifyType::REDIRECT_SUPPORTED, vec![1, 2, 3]),
    ] {
        for len in [16, 32, 256] {
            let mut payloads = t.init_payloads();
            payloads[2] = t.nonce(len);
            payloads.push(Payload::Notify(support.clone()));
            let datagram = t.init_datagram(&payloads);
            for _ in 0..2 {
                let [answer] = &t.ask(&datagram)[..] else { panic!() };
                assert!(answer.octets.len() <= datagram.len());
                let opened = t.open(std::slice::from_ref(answer));
                assert_eq!(opened.header.spi_r, IkeSpi::ZERO);
                let expected = [&[1, 4, 198, 51, 100, 3], nonce_of(&payloads).as_slice()].concat();
                assert_eq!(opened.payloads, [notify_with(NotifyType::REDIRECT, &expected)]);
            }
        }
    }
    assert_eq!(t.dut.load(), load);
    assert_eq!(t.counters().redirects_sent, 18);
    // What can't be read announces nothing: then it is the cookie.
    for data in [
        &[][..],
        &[1, 3, 1, 2, 3],
        &[3, 3, b'a', b'.', b'b'],
        &[2, 4, 1, 2, 3, 4],
    ] {
        let mut payloads = t.init_payloads();
        payloads.push(notify_with(NotifyType::REDIRECTED_FROM, data));
        let answer = t.init(&payloads);
        assert!(answer.has(NotifyType::COOKIE) && !answer.has(NotifyType::REDIRECT));
    }
    // A name that makes the answer longer than the request is not told.
    let name = format!("{}.example", "a".repeat(240));
    let mut t = Tester::with(side_b(), sends(&name));
    let mut payloads = t.init_payloads();
    payloads.push(notify(NotifyType::REDIRECT_SUPPORTED));
    let answer = t.init(&payloads);
    assert!(!answer.has(NotifyType::REDIRECT) && ke_of(&answer.payloads).is_some());
}
