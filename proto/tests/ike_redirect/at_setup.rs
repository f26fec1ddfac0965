//! In IKE_SA_INIT and in IKE_AUTH: several gateways and a client.

use super::*;

/// §3: before anything is computed or kept, with the nonce, and the next gateway is told by whom.
#[test]
fn everybody_is_sent_away_at_the_first_message() {
    for name in [GATEWAYS[1], "second.example"] {
        let mut net = Net::new(client(), vec![(side_b(), sends(name)), (side_b(), Gateway::default())]);
        net.names.insert("second.example", GATEWAYS[1]);
        net.connect();
        net.run(SECOND);
        net.assert_with(2);
        assert_eq!(net.up(0)[0].redirected_from, Some(GATEWAYS[0].parse().unwrap()));
        assert_eq!(net.ends[1].load().ike_sas, 0);
        assert_eq!(net.ends[1].counters().redirects_sent, 1);
        assert_eq!(net.tally(0).redirects_followed, 1);
        assert_eq!(net.saw(1, "N(REDIRECT_SUPPORTED)"), 1);
        assert_eq!(
            (net.saw(2, "N(REDIRECTED_FROM)"), net.saw(2, "N(REDIRECT_SUPPORTED)")),
            (1, 0)
        );
        assert!(net.failures().is_empty());
        // It is announced again when the peer is asked anew, and the rekeyed SA still knows where it comes from.
        let connection = SITE.into();
        net.command(0, Command::RekeyIke { connection }).unwrap();
        net.run(20 * SECOND);
        net.assert_with(2);
        assert!(net.up(0)[0].redirected_from.is_some());
    }
}

/// "If the IKE_SA_INIT request did not indicate support for the redirect mechanism, the responder MUST NOT send the REDIRECT
/// payload to the VPN client. This is applicable to all REDIRECT scenarios described in this document."
#[test]
fn who_does_not_follow_is_served() {
    let mut b = side_b();
    b.redirect_to = Some(to(GATEWAYS[1]));
    let mut net = Net::new(side_a(), vec![(b, sends(GATEWAYS[1])), (side_b(), Gateway::default())]);
    net.connect();
    net.run(SECOND);
    net.assert_with(1);
    let error = net.order(1, Some(to(GATEWAYS[1]))).unwrap_err();
    assert!(matches!(error, CommandError::CannotBeSent(_)), "{error}");
    net.run(SECOND);
    net.assert_with(1);
    assert_eq!(net.saw(1, "REDIRECT"), 0);
}

/// §7: two gateways that send their peers to each other, by names that resolve; and as soon as one serves, all is well.
#[test]
fn loops_end() {
    let pair = |first: &str, second: &str| vec![(side_b(), sends(first)), (side_b(), sends(second))];
    let mut net = Net::new(client(), pair("second.example", "first.example"));
    net.names = BTreeMap::from([("first.example", GATEWAYS[0]), ("second.example", GATEWAYS[1])]);
    net.connect();
    net.run(290 * SECOND);
    let followed = net.tally(0).redirects_followed;
    assert_eq!(followed, 5, "MAX_REDIRECTS");
    assert!(net.failures()[0].contains("more than 5 times"), "{:?}", net.failures());
    // The last attempt waits for another answer; the waits between attempts grow as after any failure.
    let asked = net.saw(1, "IKE_SA_INIT request") + net.saw(2, "IKE_SA_INIT request");
    assert!((7..60).contains(&asked), "{asked}");
    let (now, config) = (net.at(), config(vec![side_b()], Gateway::default()));
    net.ends[1].reconfigure(now, config);
    net.run(100 * SECOND);
    net.assert_with(1);
    // An address says by itself that it is a loop: nobody is sent back to who sent it.
    let mut net = Net::new(client(), pair(GATEWAYS[1], GATEWAYS[0]));
    net.connect();
    net.run(SECOND);
    net.assert_with(2);
}

/// "The client MAY get redirected again by the new VPN gateway if the new VPN gateway also cannot serve the client."
#[test]
fn from_one_to_the_next() {
    let gateways = vec![
        (side_b(), sends(GATEWAYS[1])),
        (side_b(), sends(GATEWAYS[2])),
        (side_b(), Gateway::default()),
    ];
    let mut net = Net::new(client(), gateways);
    net.connect();
    net.run(SECOND);
    net.assert_with(3);
    assert_eq!(net.up(0)[0].redirected_from, Some(GATEWAYS[1].parse().unwrap()));
}

/// §4: "The VPN gateway that received the IKE_SA_INIT request MAY redirect the client to its own unicast address".
#[test]
fn an_anycast_address_leads_to_its_own() {
    let mut net = Net::new(client(), vec![(side_b(), sends(GATEWAYS[0]))]);
    net.configured = ANYCAST;
    net.connect();
    net.run(SECOND);
    net.assert_with(1);
    assert_eq!(net.up(0)[0].redirected_from, Some(ANYCAST.parse().unwrap()));
}

/// Where there can be no other gateway we don't go. Anybody who sees the request can say so: the true answer is still waited for.
/// What a name leads to turns out later: then the attempt has failed, and the next is made as configured.
#[test]
fn some_addresses_are_nobodys() {
    for nowhere in [
        "0.0.0.0",
        "::",
        "127.0.0.1",
        "::1",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "::ffff:198.51.100.2",
        CLIENT,
        GATEWAYS[0],
        "self.example",
        "nowhere.example",
    ] {
        let mut net = Net::new(client(), vec![(side_b(), sends("other.example"))]);
        let now = net.at();
        net.ends[0].handle_addresses(now, vec![CLIENT.parse().unwrap()]);
        net.names.insert("self.example", GATEWAYS[0]);
        net.connect();
        // What our gateway would not say is said in its place.
        let (whom, path, request) = net.wire.pop_front().unwrap();
        assert_eq!(whom, 1);
        let answer = redirect_init(&request, &to(nowhere), None);
        for _ in 0..3 {
            net.ends[0].handle_datagram(now, reversed(path), &answer);
            net.drain();
        }
        assert!(net.up(0).is_empty() && net.wire.is_empty(), "{nowhere}");
        let goes_on = net.ends[0].status().iter().any(|sa| sa.stage == "initiating");
        assert_eq!(goes_on, !nowhere.ends_with(".example"), "{nowhere}");
        assert_eq!(net.tally(0).redirects_followed, 0);
        let told = net.failures().len();
        assert_eq!(
            told,
            usize::from(nowhere != "nowhere.example"),
            "{nowhere}: {:?}",
            net.failures()
        );
        let config = config(vec![side_b()], Gateway::default());
        net.ends[1].reconfigure(now, config);
        if goes_on {
            net.wire.push_back((whom, path, request));
            net.run(SECOND);
        } else {
            net.run(10 * SECOND);
        }
        net.assert_with(1);
    }
}

/// RFC 9329 §6.4: over TCP "an Initiator SHOULD NOT wait for additional messages": nobody else can have sent it.
#[test]
fn over_tcp_such_an_answer_is_the_last() {
    let mut a = client();
    a.tcp = landbridge_proto::policy::connection::TcpUse::Always;
    let mut net = Net::new(a, vec![(side_b(), Gateway::default())]);
    net.connect();
    let needed = net.events[0].iter().find_map(|event| match event {
        Event::NeedStream { spi, local, remote, .. } => {
            let local = SocketAddr::new(*local, 40_000);
            Some((*spi, Path::tcp(local, *remote)))
        }
        _ => None,
    });
    let (spi, path) = needed.unwrap();
    let now = net.at();
    net.ends[0].handle_stream(now, spi, Ok(path));
    net.drain();
    let (_, path, request) = net.wire.pop_front().unwrap();
    let answer = redirect_init(&request, &to("0.0.0.0"), None);
    net.ends[0].handle_datagram(now, reversed(path), &answer);
    net.drain();
    assert_eq!(net.ends[0].status()[0].stage, "closing");
    assert_eq!((net.failures().len(), net.sent()), (1, 0));
    assert!(net.connect_at.is_some());
}

/// While a puzzle is being solved: who goes elsewhere needs no solution; who does not go waits for it.
#[test]
fn while_a_puzzle_is_solved() {
    for (there, goes) in [(GATEWAYS[1], true), ("0.0.0.0", false)] {
        let mut t = Tester::new(client());
        let asked = t.provoke();
        t.answer_init(&[
            notify_with(NotifyType::COOKIE, &[7; 8]),
            notify_with(NotifyType::PUZZLE, &[0, 5, 16]),
        ]);
        let solves = |t: &Tester| t.events.iter().any(|event| matches!(event, Event::Solve(_)));
        assert!(solves(&t), "{:?}", asked.payloads);
        t.send(&redirect_init(&t.sa.request.clone(), &to(there), None));
        let stopped = t.events.iter().any(|event| matches!(event, Event::SolveNoMore(_)));
        assert_eq!((stopped, redirected(&t)), (goes, usize::from(goes)));
    }
}

/// What somebody on the way says does not count against what a gateway has proven to say; nor does what we did not do.
#[test]
fn each_redirect_counts_where_it_belongs() {
    let mut net = two_gateways();
    let now = net.at();
    net.ends[0].handle_addresses(now, vec![CLIENT.parse().unwrap()]);
    for _ in 0..7 {
        net.order(1, Some(to("nowhere.example"))).unwrap();
        net.run(SECOND);
        net.order(1, Some(to(CLIENT))).unwrap();
        net.run(SECOND);
    }
    assert_eq!(net.tally(0).redirects_followed, 0);
    for (from, there) in [(1, 2), (2, 1), (1, 2), (2, 1), (1, 2)] {
        net.order(from, Some(to(GATEWAYS[there - 1]))).unwrap();
        net.run(SECOND);
        net.assert_with(there);
    }
    // That is five times; the sixth is not followed, unless the SA has stood.
    net.order(2, Some(to(GATEWAYS[0]))).unwrap();
    net.run(SECOND);
    net.assert_with(2);
    assert!(net.failures().last().unwrap().contains("more than 5 times"));
    net.run(58 * SECOND);
    net.order(2, Some(to(GATEWAYS[0]))).unwrap();
    net.run(SECOND);
    net.assert_with(1);
    // Five answers are forged and followed: what a gateway has proven to say is followed all the same.
    let mut b = side_b();
    b.redirect_to = Some(to(GATEWAYS[1]));
    let gateways = [side_b(), side_b(), b].map(|b| (b, Gateway::default()));
    let mut net = Net::new(client(), gateways.into());
    net.connect();
    for there in [2, 0, 2, 0, 2] {
        let (_, path, request) = net.wire.pop_front().unwrap();
        let answer = redirect_init(&request, &to(GATEWAYS[there]), None);
        let now = net.at();
        net.ends[0].handle_datagram(now, reversed(path), &answer);
        net.drain();
    }
    net.run(SECOND);
    net.assert_with(2);
    assert_eq!(net.tally(0).redirects_followed, 6);
}

/// §6: only who has proven who it is, and there is no Child SA; others are served by the same gateway.
#[test]
fn one_connection_is_sent_away_in_ike_auth() {
    for (id, gateway) in [("a.example", 2), ("another.example", 1)] {
        let (mut sent, mut kept) = (side_b(), side_b());
        sent.redirect_to = Some(to(GATEWAYS[1]));
        (sent.name, kept.name) = ("sent".into(), SITE.into());
        kept.remote.id = None;
        let mut a = client();
        a.local.id = landbridge_proto::wire::Identification::parse(id).unwrap();
        let mut there = side_b();
        there.remote.id = None;
        let mut net = Net::with(vec![
            config(vec![a], Gateway::default()),
            config(vec![sent, kept], Gateway::default()),
            config(vec![there], Gateway::default()),
        ]);
        net.connect();
        net.run(SECOND);
        net.assert_with(gateway);
        let away = u64::from(gateway == 2);
        assert_eq!(net.ends[1].tally(&"sent".into()).redirects_sent, away);
        let ups = |who: usize| {
            net.events[who]
                .iter()
                .filter(|event| matches!(event, Event::IkeUp(_)))
                .count()
        };
        assert_eq!((ups(0), ups(1) as u64), (1, 1 - away));
        // It has deleted that SA, and is not waited for.
        net.run(20 * SECOND);
        assert_eq!(net.ends[1].load().ike_sas, usize::from(gateway == 1));
        assert_eq!(net.ends[1].load().half_open, 0);
    }
}

/// A client that keeps the SA of such an IKE_AUTH has nothing of it.
#[test]
fn an_sa_without_a_use_ends() {
    let mut sent = side_b();
    sent.redirect_to = Some(to(GATEWAYS[1]));
    let mut t = Tester::new(sent);
    let mut payloads = t.init_payloads();
    payloads.push(notify(NotifyType::REDIRECT_SUPPORTED));
    t.init(&payloads);
    let payloads = t.auth_payloads();
    let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(answer.has(NotifyType::REDIRECT) && sa_of(&answer.payloads).is_none());
    let auth = |payload: &Payload| matches!(payload, Payload::Auth(_));
    assert!(answer.payloads.iter().any(auth), "it proves itself");
    assert_eq!(
        answer.notify(NotifyType::REDIRECT).unwrap().data,
        [1, 4, 198, 51, 100, 3],
        "no nonce"
    );
    assert_eq!((t.stage(), t.pairs()), (Some("closing"), 0));
    assert_eq!(t.dut.load().half_open, 0, "it is no stranger");
    // Nothing can be made by it.
    let mut payloads = t.child_offer(false);
    payloads.push(t.nonce(32));
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
    assert!(
        sa_of(&answer.payloads).is_none() && t.pairs() == 0,
        "{:?}",
        answer.payloads
    );
    t.pass(11 * SECOND);
    let asked = t.next_request().unwrap();
    assert!(asked.payloads.contains(&delete_ike()));
    t.respond(&asked.header, &[]);
    t.pass(20 * SECOND);
    assert!(t.status().is_empty());
    // "The gateway MUST verify the client's AUTH payload before sending the REDIRECT payload".
    let mut sent = side_b();
    sent.redirect_to = Some(to(GATEWAYS[1]));
    let mut t = Tester::new(sent);
    let mut payloads = t.init_payloads();
    payloads.push(notify(NotifyType::REDIRECT_SUPPORTED));
    t.init(&payloads);
    let mut payloads = t.auth_payloads();
    payloads[1] = psk_auth(&[7; 32]);
    let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(answer.has(NotifyType::AUTHENTICATION_FAILED) && !answer.has(NotifyType::REDIRECT));
}
