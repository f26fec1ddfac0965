//! Of an SA that is up.

use super::*;

/// §5: the new SA is up before the old one goes, and the client deletes it.
#[test]
fn by_order_without_a_gap() {
    let mut net = two_gateways();
    net.order(1, Some(to(GATEWAYS[1]))).unwrap();
    net.run(SECOND);
    net.assert_with(2);
    assert_eq!(net.outages, 0);
    assert_eq!((net.tally(1).redirects_sent, net.tally(0).redirects_followed), (1, 1));
    let sent = |event: &Event| matches!(event, Event::SentAway { to: there, .. } if *there == to(GATEWAYS[1]));
    assert!(net.events[1].iter().any(sent));
    assert_eq!(net.up(0)[0].redirected_from, Some(GATEWAYS[0].parse().unwrap()));
    let down = |event: &&Event| matches!(event, Event::IkeDown { reason, .. } if reason == "we deleted it");
    assert_eq!(net.events[0].iter().filter(down).count(), 1);
    // And back, and there again; the old gateway keeps nothing.
    for (from, there) in [(2, 1), (1, 2)] {
        net.run(100 * SECOND);
        net.order(from, Some(to(GATEWAYS[there - 1]))).unwrap();
        net.run(20 * SECOND);
        net.assert_with(there);
        assert_eq!(net.ends[from].load().ike_sas, 0);
    }
    assert_eq!(net.outages, 0);
}

/// Any message lost: the same, and there is always something to send by.
#[test]
fn by_order_whatever_is_lost() {
    for lost in 0..12 {
        let mut net = two_gateways();
        net.order(1, Some(to(GATEWAYS[1]))).unwrap();
        let mut count = 0;
        net.run_with(50 * SECOND, |_, _| {
            count += 1;
            count != lost + 1
        });
        net.assert_with(2);
        assert_eq!(net.outages, 0, "message {lost}");
    }
}

/// With several children, rekeys of the IKE SA by either end in between, and a gateway there that has another identity.
#[test]
fn by_order_whatever_happens_besides() {
    for case in 0..4 {
        let more = |mut c: Connection, ours: &str, theirs: &str, action: StartAction| {
            let child = ike_pump::child("more", ours, theirs, "aes256gcm16-x25519", action);
            c.children.insert("more".into(), child);
            c
        };
        let mut a = more(client(), "10.3.0.0/16", "10.4.0.0/16", StartAction::Start);
        a.remote.id = None;
        let b = || more(side_b(), "10.4.0.0/16", "10.3.0.0/16", StartAction::None);
        let mut other = b();
        other.local.id = landbridge_proto::wire::Identification::parse("c.example").unwrap();
        let mut net = Net::new(a, vec![(b(), Gateway::default()), (other, Gateway::default())]);
        net.connect();
        net.run(SECOND);
        let connection = || SITE.into();
        let rekey = |net: &mut Net, who: usize| {
            let connection = connection();
            net.command(who, Command::RekeyIke { connection }).unwrap();
        };
        if case & 1 != 0 {
            rekey(&mut net, 1);
            net.run(SECOND);
        }
        if case & 2 != 0 {
            rekey(&mut net, 0);
        }
        net.order(1, Some(to(GATEWAYS[1]))).unwrap();
        if case & 1 != 0 {
            rekey(&mut net, 0);
        }
        net.run(20 * SECOND);
        let [sa] = &net.up(0)[..] else {
            panic!("{case}: {:#?}", net.ends[0].status())
        };
        assert_eq!(
            (sa.peer.as_ref().unwrap().to_string().as_str(), sa.children.len()),
            ("c.example", 2)
        );
        assert_eq!(
            (net.sad[0].pairs.len(), net.sad[0].active.len(), net.sad[1].pairs.len()),
            (2, 2, 0)
        );
        assert_eq!(net.outages, 0, "{case}");
    }
}

/// "it should allow sufficient time for the client to set up the required security associations with the new security gateway":
/// a client that finds no way stays that long; then it is deleted, and begins where it is configured to.
#[test]
fn who_does_not_go_is_deleted_in_time() {
    let mut net = two_gateways();
    net.order(1, Some(to("nowhere.example"))).unwrap();
    net.run(59 * SECOND);
    net.assert_with(1);
    assert_eq!(net.outages, 0);
    net.run(30 * SECOND);
    net.assert_with(1);
    assert!(net.outages > 0);
    let down = |event: &&Event| matches!(event, Event::IkeDown { reason, .. } if reason == "the peer deleted it");
    assert_eq!(net.events[0].iter().filter(down).count(), 1);
    // A gateway that is not there: the same.
    let mut net = two_gateways();
    net.order(1, Some(to(GATEWAYS[2]))).unwrap();
    net.run(59 * SECOND);
    assert_eq!(net.outages, 0);
    net.run(60 * SECOND);
    net.assert_with(1);
    // It may be sent elsewhere in the meantime.
    let mut net = two_gateways();
    net.order(1, Some(to("nowhere.example"))).unwrap();
    net.run(5 * SECOND);
    net.order(1, Some(to(GATEWAYS[1]))).unwrap();
    net.run(5 * SECOND);
    net.assert_with(2);
    assert_eq!(net.outages, 0);
}

/// A rekey by the peer while the REDIRECT is on its way: the new SA is what is deleted in time.
#[test]
fn the_time_holds_for_the_rekeyed_sa() {
    let mut net = two_gateways();
    net.order(1, Some(to("nowhere.example"))).unwrap();
    // Both are on their way at once.
    let connection = SITE.into();
    net.command(0, Command::RekeyIke { connection }).unwrap();
    net.run(59 * SECOND);
    net.assert_with(1);
    assert_eq!((net.outages, net.tally(1).redirects_sent), (0, 1));
    net.run(30 * SECOND);
    assert!(net.outages > 0);
}

/// Who is there already is not sent there, and so not deleted either.
#[test]
fn nobody_is_sent_to_where_he_is() {
    let mut net = two_gateways();
    let error = net.order(1, Some(to(GATEWAYS[0]))).unwrap_err();
    assert!(matches!(error, CommandError::CannotBeSent(_)), "{error}");
    net.run(100 * SECOND);
    net.assert_with(1);
    assert_eq!((net.outages, net.tally(1).redirects_sent), (0, 0));
}

/// The operator may change his mind between the redirect and the way there.
#[test]
fn who_does_not_follow_any_more_stays() {
    let mut net = two_gateways();
    net.resolves = false;
    net.order(1, Some(to(GATEWAYS[1]))).unwrap();
    net.run(SECOND);
    let now = net.at();
    net.ends[0].reconfigure(now, config(vec![side_a()], Gateway::default()));
    net.follow(Some(GATEWAYS[1]));
    net.run(20 * SECOND);
    net.assert_with(1);
    assert_eq!((net.outages, net.tally(0).redirects_followed), (0, 0));
}

/// What an order is refused for, and where it takes its gateway from.
#[test]
fn orders() {
    let mut net = two_gateways();
    let error = net.order(1, None).unwrap_err();
    assert!(matches!(error, CommandError::NowhereToGo(_)), "{error}");
    let error = net.order(2, Some(to(GATEWAYS[0]))).unwrap_err();
    assert!(matches!(error, CommandError::NotEstablished(_)), "{error}");
    // §10: "only the original responder can redirect the original initiator to another server", whoever rekeyed it since.
    let connection = SITE.into();
    net.command(1, Command::RekeyIke { connection }).unwrap();
    net.run(SECOND);
    let error = net.order(0, Some(to(GATEWAYS[1]))).unwrap_err();
    assert!(matches!(error, CommandError::CannotBeSent(_)), "{error}");
    // A key that is added holds at once for the order, and for the next who comes.
    let mut b = side_b();
    b.redirect_to = Some(to(GATEWAYS[1]));
    let now = net.at();
    net.ends[1].reconfigure(now, config(vec![b], Gateway::default()));
    net.run(SECOND);
    net.assert_with(1);
    net.order(1, None).unwrap();
    net.run(SECOND);
    net.assert_with(2);
    assert_eq!(net.outages, 0);
}

/// While the way is being looked for, the operator may want something else.
#[test]
fn the_operator_comes_first() {
    for case in 0..4 {
        let mut net = Net::new(
            client(),
            vec![(side_b(), sends(GATEWAYS[1])), (side_b(), Gateway::default())],
        );
        net.resolves = false;
        net.connect();
        net.run(SECOND);
        assert_eq!(net.sent(), 1);
        let connection = SITE.into();
        let now = net.at();
        match case {
            0 => net
                .command(
                    0,
                    Command::Down {
                        connection,
                        child: None,
                    },
                )
                .unwrap(),
            1 => net.ends[0].reconfigure(now, config(vec![], Gateway::default())),
            2 => net.connect(),
            // Nothing else begins meanwhile.
            _ => {
                net.run(100 * SECOND);
                assert_eq!(net.saw(1, "IKE_SA_INIT request"), 1);
                net.follow(Some(GATEWAYS[1]));
                net.run(SECOND);
                net.assert_with(2);
                continue;
            }
        }
        if case != 1 {
            net.follow(Some(GATEWAYS[1]));
        }
        if case == 2 {
            net.run(SECOND);
            net.follow(Some(GATEWAYS[1]));
        }
        net.run(20 * SECOND);
        if case == 2 {
            net.assert_with(2);
        } else {
            assert!(
                net.up(2).is_empty() && net.ends[0].load().ike_sas == 0,
                "{case}: {:#?}",
                net.ends[0].status()
            );
        }
    }
}

/// RFC 5723: a ticket is no way around it: who presents one begins anew, and is sent away then.
#[test]
fn who_comes_with_a_ticket_is_sent_away() {
    for by_connection in [false, true] {
        let with = |mut c: Connection| {
            c.resumption = true;
            c.dpd_delay = Some(10 * SECOND);
            c
        };
        let gateways = || {
            vec![
                (with(side_b()), Gateway::default()),
                (with(side_b()), Gateway::default()),
            ]
        };
        let mut net = Net::new(with(client()), gateways());
        net.connect();
        net.run(SECOND);
        net.assert_with(1);
        // Nothing arrives until the client has given it up.
        while !net.up(0).is_empty() {
            net.run_with(SECOND, |_, _| false);
        }
        let now = net.at();
        let mut b = with(side_b());
        b.redirect_to = by_connection.then(|| to(GATEWAYS[1]));
        let gateway = if by_connection {
            Gateway::default()
        } else {
            sends(GATEWAYS[1])
        };
        net.ends[1].reconfigure(now, config(vec![b], gateway));
        net.run(SECOND * 100);
        assert_eq!(net.ends[1].counters().tickets_refused, 1);
        let [sa] = &net.up(0)[..] else { panic!() };
        assert_eq!(sa.path.remote.ip().to_string(), GATEWAYS[1]);
    }
}

/// An authentication anew is sent away like a first one, beside the SA there is.
#[test]
fn while_authenticating_anew() {
    let mut a = client();
    a.reauth_time = Some(100 * SECOND);
    let mut net = Net::new(a, vec![(side_b(), Gateway::default()), (side_b(), Gateway::default())]);
    net.connect();
    net.run(SECOND);
    let now = net.at();
    net.ends[1].reconfigure(now, config(vec![side_b()], sends(GATEWAYS[1])));
    net.run(110 * SECOND);
    net.assert_with(2);
    // And if there is no way, the SA that is up stays, and it is tried again.
    let config = config(vec![side_b()], sends("nowhere.example"));
    net.ends[2].reconfigure(now, config);
    net.run(200 * SECOND);
    net.assert_with(2);
    assert_eq!(net.outages, 0);
    assert!(net.sent() > 2);
    assert_eq!(net.tally(0).redirects_followed, 1);
}

/// In either exchange, and the gateway there has another identity: the new SA takes the old one's place all the same.
#[test]
fn while_authenticating_anew_to_another_identity() {
    for by_connection in [false, true] {
        let mut a = client();
        (a.remote.id, a.reauth_time) = (None, Some(100 * SECOND));
        let mut other = side_b();
        other.local.id = landbridge_proto::wire::Identification::parse("c.example").unwrap();
        let mut net = Net::new(a, vec![(side_b(), Gateway::default()), (other, Gateway::default())]);
        net.connect();
        net.run(SECOND);
        let (mut b, mut gateway) = (side_b(), sends(GATEWAYS[1]));
        if by_connection {
            (b.redirect_to, gateway) = (gateway.redirect_to, Gateway::default());
        }
        let now = net.at();
        net.ends[1].reconfigure(now, config(vec![b], gateway));
        net.run(120 * SECOND);
        net.assert_with(2);
        assert_eq!(net.outages, 0);
    }
}

/// The client authenticates anew after 100 seconds, of which some have passed.
fn authenticating_anew_in(rest: Duration) -> Net {
    let mut a = client();
    a.reauth_time = Some(100 * SECOND);
    let mut net = Net::new(a, vec![(side_b(), Gateway::default()), (side_b(), Gateway::default())]);
    net.connect();
    net.run(100 * SECOND - rest);
    net
}

/// The client authenticates anew with the first gateway, whose answers are lost.
fn authenticating_anew() -> Net {
    let mut net = authenticating_anew_in(SECOND * 99);
    net.run_with(100 * SECOND, not_init);
    let initiating = |sa: &IkeSaStatus| sa.stage == "initiating";
    assert!(net.ends[0].status().iter().any(initiating));
    net
}

/// What arrives unless it is IKE_SA_INIT at the first gateway.
fn not_init(whom: usize, octets: &[u8]) -> bool {
    whom != 1 || octets[18] != ExchangeType::IKE_SA_INIT.0
}

/// A gateway says it once: who authenticates anew meanwhile goes when that is over, whether something has come of it or not.
#[test]
fn heard_while_authenticating_anew() {
    for comes in [true, false] {
        let mut net = authenticating_anew();
        net.order(1, Some(to(GATEWAYS[1]))).unwrap();
        net.run_with(SECOND, not_init);
        assert_eq!(net.sent(), 0);
        net.run_with(50 * SECOND, |whom, octets| comes || not_init(whom, octets));
        net.assert_with(2);
        assert_eq!((net.outages, net.sent()), (0, 1));
        assert_eq!(net.up(0)[0].redirected_from, Some(GATEWAYS[0].parse().unwrap()));
        assert_eq!(net.saw(1, "IKE_AUTH request"), if comes { 2 } else { 1 });
    }
}

/// The answer to the authentication anew sends it to the same place.
#[test]
fn heard_on_the_way_there() {
    let mut net = authenticating_anew();
    let now = net.at();
    net.ends[1].reconfigure(now, config(vec![side_b()], sends(GATEWAYS[1])));
    net.order(1, Some(to(GATEWAYS[1]))).unwrap();
    net.run_with(SECOND, not_init);
    net.run(30 * SECOND);
    net.assert_with(2);
    assert_eq!((net.outages, net.sent(), net.failures().len()), (0, 1, 0));
}

/// The way to the first place is still looked for when the gateway names another: the newest counts if the first leads nowhere.
#[test]
fn another_order_while_the_way_is_looked_for() {
    let mut net = two_gateways();
    net.resolves = false;
    for there in ["nowhere.example", GATEWAYS[2], GATEWAYS[1]] {
        net.order(1, Some(to(there))).unwrap();
        net.run(SECOND);
    }
    assert_eq!(net.sent(), 1);
    net.resolves = true;
    net.follow(None);
    net.run(SECOND);
    net.assert_with(2);
    assert_eq!((net.outages, net.sent()), (0, 2));
    // Taken down: neither counts any more.
    let mut net = two_gateways();
    net.resolves = false;
    for there in ["nowhere.example", GATEWAYS[1]] {
        net.order(1, Some(to(there))).unwrap();
        net.run(SECOND);
    }
    let (connection, child) = (SITE.into(), None);
    net.command(0, Command::Down { connection, child }).unwrap();
    net.follow(None);
    net.run(20 * SECOND);
    assert_eq!((net.sent(), net.ends[0].load().ike_sas), (1, 0));
}

/// The time to authenticate anew comes while we are on the way elsewhere: it waits, so that there are no two SAs in the end.
#[test]
fn no_authentication_anew_on_the_way() {
    for looks in [true, false] {
        let mut net = authenticating_anew_in(SECOND * 15);
        net.resolves = !looks;
        net.order(1, Some(to(GATEWAYS[1]))).unwrap();
        let lost = |whom: usize, octets: &[u8]| whom != 2 || octets[18] != ExchangeType::IKE_SA_INIT.0;
        net.run_with(20 * SECOND, lost);
        assert_eq!((net.saw(1, "IKE_SA_INIT request"), net.sent()), (1, 1));
        if looks {
            net.follow(Some(GATEWAYS[1]));
        }
        net.run(20 * SECOND);
        net.assert_with(2);
        assert_eq!(net.outages, 0);
    }
}

/// `up` for what is up asks for children, and not to stay; they are wanted there, too.
#[test]
fn up_while_the_way_is_looked_for() {
    let with = |mut c: Connection, ours: &str, theirs: &str| {
        let child = ike_pump::child("more", ours, theirs, "aes256gcm16-x25519", StartAction::None);
        c.children.insert("more".into(), child);
        c
    };
    let b = || (with(side_b(), "10.4.0.0/16", "10.3.0.0/16"), Gateway::default());
    let mut net = Net::new(with(client(), "10.3.0.0/16", "10.4.0.0/16"), vec![b(), b()]);
    net.connect();
    net.run(SECOND);
    net.resolves = false;
    net.order(1, Some(to(GATEWAYS[1]))).unwrap();
    net.run(SECOND);
    net.connect();
    let up = Command::Up {
        connection: SITE.into(),
        child: Some("more".into()),
        target: Net::target(GATEWAYS[0]),
    };
    net.command(0, up).unwrap();
    net.run(SECOND);
    net.follow(Some(GATEWAYS[1]));
    net.run(20 * SECOND);
    let [sa] = &net.up(0)[..] else {
        panic!("{:#?}", net.ends[0].status())
    };
    let there: IpAddr = GATEWAYS[1].parse().unwrap();
    assert_eq!((sa.path.remote.ip(), sa.children.len()), (there, 2));
    assert_eq!((net.outages, net.ends[1].load().ike_sas), (0, 0));
}
