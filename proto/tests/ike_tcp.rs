//! IKE SAs over TCP (RFC 9329): when they go there, what becomes of them when the TCP connection breaks, and how they come back.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;

use ike_pump::{Letter, Pump, reversed, side_a, side_b};
use landbridge_proto::ike::{Command, Event, TimerKind};
use landbridge_proto::policy::connection::{Connection, Gateway, TcpUse};
use landbridge_proto::policy::sad::{Encapsulation, Path, SadReport, SadUpdate};
use landbridge_proto::wire::IkeSpi;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn pump_with(tcp: TcpUse, change: impl Fn(&mut Connection)) -> Pump {
    let (mut a, mut b) = (side_a(), side_b());
    a.tcp = tcp;
    for connection in [&mut a, &mut b] {
        connection.mobike = true;
        change(connection);
    }
    let mut pump = Pump::new(a, b);
    pump.listens = true;
    pump
}

fn tcp_only(letter: &Letter) -> bool {
    letter.path.is_tcp()
}

/// Up over TCP.
fn up(tcp: TcpUse, change: impl Fn(&mut Connection)) -> Pump {
    let mut pump = pump_with(tcp, change);
    pump.connect();
    pump.run_for(20 * SECOND, tcp_only);
    pump.assert_joined();
    assert_over_tcp(&pump);
    pump
}

/// Both ends use one and the same TCP connection, for IKE and for ESP.
fn assert_over_tcp(pump: &Pump) {
    let (a, b) = (pump.sa(0), pump.sa(1));
    assert!(a.path.is_tcp() && pump.streams.contains(&a.path), "{:?}", a.path);
    assert_eq!(a.path, reversed(b.path));
    assert_eq!([a.encapsulation, b.encapsulation], [Encapsulation::Tcp; 2]);
    for (who, path) in [(0, a.path), (1, b.path)] {
        assert!(pump.sad[who].pairs.values().all(|pair| pair.path == path), "end {who}");
        assert_eq!(pump.ends[who].streams(), [(path, true)].into());
    }
}

fn spi(pump: &Pump) -> IkeSpi {
    pump.sa(0).spi_i
}

/// Whether an end sent such a message by this transport.
fn sent(pump: &Pump, who: usize, tcp: bool, part: &str) -> usize {
    let said = |event: &&Event| matches!(event, Event::Message { received: false, path, line, .. } if path.is_tcp() == tcp && line.contains(part));
    pump.events[who].iter().filter(said).count()
}

/// §5.1: "It is recommended that the initial message over UDP be retransmitted at least once before falling back to TCP".
/// "When switching from UDP to TCP, a new IKE_SA_INIT exchange MUST be initiated with the Initiator's new SPI".
#[test]
fn no_answer_over_udp_and_then_tcp() {
    let mut pump = pump_with(TcpUse::Fallback, |_| {});
    pump.connect();
    let first: Vec<IkeSpi> = pump.status(0).iter().map(|sa| sa.spi_i).collect();
    let mut by_udp = 0;
    pump.run_for(20 * SECOND, |letter| {
        by_udp += usize::from(!letter.path.is_tcp());
        letter.path.is_tcp()
    });
    pump.assert_joined();
    assert_over_tcp(&pump);
    assert_eq!(by_udp, 3, "sent, and sent again twice");
    assert!(!first.contains(&spi(&pump)));
    assert_eq!(
        (pump.opened, pump.streams.len()),
        (1, 1),
        "§6.1: one TCP connection per IKE SA"
    );
    assert_eq!(pump.sa(0).why_tcp, Some("the peer does not answer over UDP"));
    assert_eq!(pump.sa(1).why_tcp, Some("the peer opened the TCP connection"));
    let told = pump.failures(0);
    assert!(told.len() == 1 && told[0].verdict.ends_with("TCP is tried"), "{told:?}");
    // §6.5: "SHOULD use the applicable TCP ports when creating and checking the SHA-1 digests".
    assert!(pump.sa(0).nat.detection && !pump.sa(0).nat.local && !pump.sa(1).nat.remote);
}

/// §5: "it is recommended that Initiators only use TCP encapsulation when traffic over UDP is blocked".
#[test]
fn udp_is_taken_where_it_works() {
    let mut pump = pump_with(TcpUse::Fallback, |_| {});
    pump.connect();
    pump.run_for(20 * SECOND, |_| true);
    pump.assert_joined();
    assert!(!pump.sa(0).path.is_tcp());
    assert_eq!(pump.opened, 0);
}

/// An answer, whatever it says, shows that UDP works.
#[test]
fn a_refusal_by_udp_is_an_answer() {
    let mut pump = pump_with(TcpUse::Fallback, |_| {});
    let proposal = landbridge_proto::policy::proposal::IkeProposal::parse("aes128gcm16-prfsha256-x25519").unwrap();
    let mut b = Connection::clone(&pump.configs[1].connections["site"]);
    b.ike_proposals = vec![proposal];
    let config = landbridge_proto::policy::connection::Config {
        connections: [("site".into(), b.into())].into(),
        gateway: Gateway::default(),
    };
    let now = pump.at();
    pump.ends[1].reconfigure(now, config.into());
    pump.connect();
    pump.run_for(30 * SECOND, |_| true);
    assert_eq!(pump.opened, 0);
}

/// The other words: `always`, `accept`, `never`.
#[test]
fn always_and_never() {
    let pump = up(TcpUse::Always, |connection| connection.fragmentation = true);
    assert_eq!(sent(&pump, 0, false, ""), 0, "nothing goes by UDP");
    assert_eq!(pump.sa(0).why_tcp, Some("tcp = \"always\""));
    for tcp in [TcpUse::Accept, TcpUse::Never] {
        let mut pump = pump_with(tcp, |_| {});
        pump.connect();
        pump.run_for(200 * SECOND, |_| false);
        assert_eq!(pump.opened, 0, "{tcp:?}");
    }
    // §5: "TCP encapsulation is applicable only when it has been configured to be used with specific IKE peers."
    let (mut a, mut b) = (side_a(), side_b());
    (a.tcp, b.tcp) = (TcpUse::Always, TcpUse::Never);
    let mut pump = Pump::new(a, b);
    pump.listens = true;
    pump.connect();
    pump.run_for(SECOND / 2, |_| true);
    assert!(pump.saw(0, "NO_PROPOSAL_CHOSEN"));
    // §6.4: "an Initiator SHOULD NOT wait for additional messages in case it receives an error notification".
    assert!(
        pump.status(0).iter().all(|sa| sa.stage == "closing"),
        "{:?}",
        pump.status(0)
    );
}

/// A peer that does not listen: the attempt fails with the reason, and both ways are tried again, UDP first.
#[test]
fn no_tcp_either() {
    let mut pump = pump_with(TcpUse::Fallback, |_| {});
    pump.listens = false;
    pump.connect();
    pump.run_for(10 * SECOND, |_| false);
    let verdicts: Vec<&str> = pump
        .failures(0)
        .iter()
        .map(|failure| failure.verdict.as_str())
        .collect();
    assert!(
        verdicts
            .iter()
            .any(|verdict| verdict.contains("no TCP connection to 198.51.100.2:4500: connection refused")),
        "{verdicts:?}"
    );
    pump.run_for(60 * SECOND, |_| true);
    pump.assert_joined();
    assert!(!pump.sa(0).path.is_tcp());
}

/// §6.2: "The exchange Initiator SHOULD NOT retransmit request message"; "if no response is received within some reasonable period
/// of time, the IKE SA is deleted". Before that, another TCP connection is tried.
#[test]
fn a_request_is_sent_once_by_a_tcp_connection() {
    let mut pump = up(TcpUse::Always, |connection| connection.dpd_delay = Some(10 * SECOND));
    let before = spi(&pump);
    let retransmitted = pump.ends[0].counters().retransmitted;
    // The peer falls silent for a while, without its TCP connection being closed.
    pump.run_for(13 * SECOND, |_| false);
    assert_eq!(pump.ends[0].counters().retransmitted, retransmitted);
    assert_eq!(pump.opened, 1);
    pump.run_for(8 * SECOND, |_| false);
    assert_eq!(pump.opened, 2, "a connection that says nothing is replaced");
    pump.run_for(10 * SECOND, |_| true);
    assert_eq!(spi(&pump), before);
    pump.assert_joined();
    // For ever: the SA ends.
    pump.run_for(120 * SECOND, |_| false);
    assert!(
        !pump.is_up(0) && pump.ike_downs(0)[0].contains("does not answer"),
        "{:?}",
        pump.ike_downs(0)
    );
}

/// §6.1: "An unexpected FIN or a TCP Reset on the TCP connection may indicate a loss of connectivity ... both sides SHOULD maintain
/// the state for their SAs"; "The TCP Originator is responsible for re-establishing the TCP connection".
#[test]
fn the_connection_is_reset() {
    for (mobike, told) in [
        (true, [true, true]),
        (false, [true, true]),
        (true, [true, false]),
        (false, [true, false]),
    ] {
        let mut pump = up(TcpUse::Always, |connection| connection.mobike = mobike);
        let before = (spi(&pump), pump.sa(0).children[0].spis);
        let moves = pump.sad[1].changes;
        pump.reset_streams(told);
        assert_eq!(pump.opened, 2);
        pump.run_for(2 * SECOND, |_| true);
        pump.assert_joined();
        assert_over_tcp(&pump);
        assert_eq!((spi(&pump), pump.sa(0).children[0].spis), before);
        assert!(pump.sad[1].changes > moves, "its packets go by the new one");
        let what = if mobike {
            "N(UPDATE_SA_ADDRESSES)"
        } else {
            "INFORMATIONAL request 2 []"
        };
        assert!(pump.said(0, what), "{:?}", pump.lines(0));
    }
}

/// "If a new TCP connection for the IKE SA is established while the exchange Initiator is waiting for a response, the Initiator MUST
/// retransmit its request over this connection and continue to wait for a response."
#[test]
fn a_request_in_flight_goes_by_the_new_connection() {
    for who in [0, 1] {
        let mut pump = up(TcpUse::Always, |connection| connection.mobike = false);
        let before = pump.sa(0).children[0].spis;
        pump.rekey_child(who);
        // It is lost with the connection, or its answer is.
        if who == 0 {
            pump.deliver(0);
        }
        pump.reset_streams([true, true]);
        pump.run_for(30 * SECOND, |_| true);
        pump.assert_joined();
        assert_over_tcp(&pump);
        assert!(pump.said(who, "N(REKEY_SA)"));
        assert_ne!(pump.sa(0).children[0].spis, before, "the rekey was carried out");
    }
}

/// While the peer refuses, it is tried again and again, as long as a request may go unanswered.
#[test]
fn the_peer_is_gone_for_a_while() {
    let mut pump = up(TcpUse::Always, |_| {});
    let before = spi(&pump);
    pump.listens = false;
    pump.reset_streams([true, true]);
    pump.run_for(10 * SECOND, |_| true);
    assert_eq!(pump.opened, 1);
    pump.listens = true;
    pump.run_for(10 * SECOND, |_| true);
    assert_eq!(spi(&pump), before);
    assert_over_tcp(&pump);
    pump.listens = false;
    pump.reset_streams([true, true]);
    pump.run_for(60 * SECOND, |_| true);
    assert!(!pump.is_up(0));
}

/// What is closed again and again is not opened as often as that.
#[test]
fn one_that_is_closed_at_once_is_not_followed_at_once() {
    let mut pump = up(TcpUse::Always, |_| {});
    pump.now = pump.now + 3 * SECOND;
    let begin = pump.now;
    for _ in 0..40 {
        pump.reset_streams([true, true]);
        pump.run_for(SECOND / 10, |_| true);
    }
    assert!(pump.now.saturating_since(begin) >= 4 * SECOND - SECOND / 10);
    assert!((2..=7).contains(&pump.opened), "{}", pump.opened);
    pump.run_for(3 * SECOND, |_| true);
    assert_over_tcp(&pump);
}

/// The one that is closed while IKE_SA_INIT or IKE_AUTH is under way ends the attempt.
#[test]
fn closed_before_it_is_up() {
    let mut pump = pump_with(TcpUse::Always, |_| {});
    pump.connect();
    pump.deliver(0);
    pump.reset_streams([true, true]);
    assert!(pump.status(0).iter().all(|sa| sa.stage == "closing"));
    assert!(pump.failures(0)[0].verdict.contains("was closed"));
    pump.run_for(10 * SECOND, |_| true);
    pump.assert_joined();
}

/// §1.2: "the TCP Originator MUST remain the peer that originally initiated the first IKE SA", whoever rekeyed it; §6.1: "there will
/// temporarily be two IKE SAs on the same TCP connection".
#[test]
fn rekeys_stay_on_the_connection() {
    for who in [0, 1] {
        let mut pump = up(TcpUse::Always, |_| {});
        let before = spi(&pump);
        pump.command(
            who,
            Command::RekeyIke {
                connection: "site".into(),
            },
        );
        pump.run_for(20 * SECOND, |_| true);
        pump.rekey_child(1 - who);
        pump.run_for(20 * SECOND, |_| true);
        assert_ne!(spi(&pump), before);
        assert_eq!(pump.opened, 1);
        assert_over_tcp(&pump);
        pump.reset_streams([true, true]);
        pump.run_for(2 * SECOND, |_| true);
        assert_eq!(pump.opened, 2);
        assert_over_tcp(&pump);
    }
}

/// The rekey is done, the old IKE SA is not deleted yet, and the connection breaks: both go on by one new connection.
#[test]
fn a_reset_between_rekey_and_delete() {
    let mut pump = up(TcpUse::Always, |_| {});
    pump.command(
        0,
        Command::RekeyIke {
            connection: "site".into(),
        },
    );
    pump.deliver(0);
    pump.deliver(0);
    pump.wire.clear();
    pump.reset_streams([true, true]);
    pump.run_for(30 * SECOND, |_| true);
    assert_eq!(pump.opened, 2);
    assert_over_tcp(&pump);
    assert!(
        pump.status(0).iter().all(|sa| sa.stage != "rekeyed"),
        "{:?}",
        pump.stages()
    );
}

/// §6.1: "It SHOULD choose the TCP connection on which it last received a valid and decryptable IKE or ESP message ..., not be a
/// retransmission of a previously received message".
#[test]
fn the_responder_follows_what_is_authentic_and_new() {
    let mut pump = up(TcpUse::Always, |connection| connection.mobike = false);
    pump.events[0].clear();
    pump.rekey_child(0);
    let request = pump.wire.remove(0);
    let first = pump.sa(1).path;
    let other = Path {
        remote: SocketAddr::new(first.remote.ip(), 50_123),
        ..first
    };
    let by = |octets: Vec<u8>| Letter {
        to: 1,
        path: other,
        octets,
    };
    // Somebody else's connection, with what was changed on the way.
    let mut changed = request.octets.clone();
    *changed.last_mut().unwrap() ^= 1;
    pump.hand(&by(changed));
    assert_eq!(pump.sa(1).path, first, "nothing unauthenticated attaches a connection");
    pump.hand(&request);
    pump.hand(&by(request.octets.clone()));
    assert_eq!(pump.sa(1).path, first, "a retransmission");
    // ESP does, as the data path tells.
    let id = pump.sa(1).children[0].id;
    pump.report(1, SadReport::StreamMoved { id, path: other });
    assert_eq!(pump.sa(1).path, other);
    assert!(pump.events[1].iter().any(|event| matches!(event, Event::Sad(SadUpdate::Move { path, encapsulation: Encapsulation::Tcp, .. }) if *path == other)));
    // And not by UDP: that is for MOBIKE to change (§5).
    pump.report(
        1,
        SadReport::PeerMoved {
            id,
            remote: "203.0.113.5:4500".parse().unwrap(),
        },
    );
    assert_eq!(pump.sa(1).path, other);
}

/// §6.3: "The exchange Responder SHOULD NOT send an IKEv2 Cookie request without an accompanied Puzzle".
#[test]
fn no_cookies_over_tcp_but_the_limits_hold() {
    let gateway = Gateway {
        cookie_threshold: 0,
        half_open_limit_per_address: 1,
        ..Gateway::default()
    };
    let (mut a, b) = (side_a(), side_b());
    a.tcp = TcpUse::Always;
    let mut pump = Pump::with(a, b, 0, gateway);
    pump.listens = true;
    pump.connect();
    pump.deliver(0);
    assert_eq!(pump.ends[1].counters().cookies_sent, 0);
    // Another from there is one too many.
    pump.restart(0, 9);
    pump.connect();
    let second = pump.wire.iter().position(|letter| letter.to == 1).unwrap();
    pump.deliver(second);
    assert_eq!(pump.ends[1].counters().over_limit, 1);
}

/// §6.3: "Puzzles, on the other hand, still remain useful (and their use requires using Cookies)".
#[test]
fn puzzles_over_tcp() {
    let gateway = Gateway {
        cookie_threshold: 0,
        puzzle_threshold: 0,
        puzzle_difficulty: 8,
        ..Gateway::default()
    };
    let (mut a, b) = (side_a(), side_b());
    a.tcp = TcpUse::Always;
    let mut pump = Pump::with(a, b, 0, gateway);
    pump.listens = true;
    pump.connect();
    pump.run_for(5 * SECOND, |_| true);
    pump.assert_joined();
    assert!(pump.said(0, "[N(COOKIE) PS SA"), "{:?}", pump.lines(0));
    let counters = pump.ends[1].counters();
    assert_eq!((counters.puzzles_sent, counters.puzzles_solved), (1, 1));
}

/// §7.5: "an implementation SHOULD NOT send fragments when going over a TCP connection, although it MUST support receiving
/// fragments"; it "SHOULD negotiate IKE fragmentation over a TCP-encapsulated session" with MOBIKE.
#[test]
fn nothing_is_fragmented() {
    let narrow = |connection: &mut Connection| connection.fragment_size = 200;
    let mut pump = pump_with(TcpUse::Always, narrow);
    pump.connect();
    let mut fragments = 0;
    pump.run_for(5 * SECOND, |letter| {
        fragments += usize::from(letter.octets[16] == 53);
        true
    });
    assert_over_tcp(&pump);
    assert_eq!(fragments, 0);
    assert!(pump.saw(1, "N(IKEV2_FRAGMENTATION_SUPPORTED)"));
}

/// §6.6: "IPsec ESP NAT-keepalive packets [RFC3948] SHOULD NOT be sent when using TCP encapsulation."
#[test]
fn no_keepalives_behind_a_nat() {
    let mut pump = pump_with(TcpUse::Always, |_| {});
    pump.nat = Some(ike_pump::Nat {
        public: "203.0.113.1".parse().unwrap(),
        shift: 7,
    });
    pump.connect();
    pump.run_for(100 * SECOND, |_| true);
    pump.assert_joined();
    assert!(pump.sa(0).nat.local && pump.sa(0).encapsulation == Encapsulation::Tcp);
    assert_eq!(pump.keepalives, [0, 0]);
}

/// UDP is blocked when the SA is up. §7.1: "the Initiator ought to change its transport for this exchange from UDP to TCP and resend
/// the request message. A new INFORMATIONAL exchange MUST NOT be started in this situation."
#[test]
fn an_sa_goes_from_udp_to_tcp_and_back() {
    let mut pump = pump_with(TcpUse::Fallback, |connection| connection.dpd_delay = Some(10 * SECOND));
    pump.connect();
    pump.run_for(5 * SECOND, |_| true);
    let before = (spi(&pump), pump.sa(0).children[0].spis);
    pump.events[0].clear();
    // It is the same request: all that goes by UDP until an answer comes by TCP.
    let mut ids = std::collections::BTreeSet::new();
    pump.run_for(40 * SECOND, |letter| {
        if letter.to == 1 && !letter.path.is_tcp() {
            ids.insert(letter.octets.clone());
        }
        letter.path.is_tcp()
    });
    assert_over_tcp(&pump);
    assert_eq!((spi(&pump), pump.sa(0).children[0].spis), before);
    assert!(!ids.is_empty());
    // "a new INFORMATIONAL exchange with the UPDATE_SA_ADDRESSES notify is initiated in case the address (or transport) is changed".
    assert!(sent(&pump, 0, true, "N(UPDATE_SA_ADDRESSES)") >= 1);
    // §3.7 of RFC 4555: "the Return Routability Check SHOULD NOT be performed".
    assert!(!pump.said(1, "request 0 [N(COOKIE2)]"));
    // UDP is open again: it is found out, and taken; the probes before did no harm.
    pump.run_for(120 * SECOND, |_| true);
    pump.assert_joined();
    let (a, b) = (pump.sa(0), pump.sa(1));
    assert!(
        !a.path.is_tcp() && a.path == reversed(b.path),
        "{:?} {:?}",
        a.path,
        b.path
    );
    assert_eq!((spi(&pump), pump.sa(0).children[0].spis), before);
    for who in [0, 1] {
        assert!(pump.sad[who].pairs.values().all(|pair| !pair.path.is_tcp()));
        assert!(
            pump.ends[who].streams().is_empty(),
            "the TCP connection is for nothing now"
        );
    }
    let why = |event: &Event| matches!(event, Event::Moved { reason, .. } if reason == "UDP works again");
    assert!(pump.events[0].iter().any(why));
}

/// While UDP stays blocked, finding that out disturbs nothing and becomes seldomer.
#[test]
fn probes_become_seldom() {
    let mut pump = up(TcpUse::Fallback, |_| {});
    let mut probes = 0;
    pump.run_for(3600 * SECOND, |letter| {
        probes += usize::from(!letter.path.is_tcp());
        letter.path.is_tcp()
    });
    assert_over_tcp(&pump);
    assert!((8..60).contains(&probes), "{probes}");
    assert!(pump.ike_downs(0).is_empty());
}

/// Without MOBIKE it has to stay where it is (§5).
#[test]
fn without_mobike_there_is_no_probe() {
    let pump = up(TcpUse::Fallback, |connection| connection.mobike = false);
    assert!(
        pump.ends[0]
            .poll_timeout()
            .is_none_or(|(_, kind)| kind != TimerKind::TryUdp)
    );
}

/// §7.1: on another network "the INFORMATIONAL exchange with the UPDATE_SA_ADDRESSES notification SHOULD be initiated first over UDP
/// before attempting over TCP".
#[test]
fn another_network_begins_with_udp() {
    for udp_works in [true, false] {
        let mut pump = up(TcpUse::Fallback, |_| {});
        let before = spi(&pump);
        let now = pump.at();
        let at = |text: &str| SocketAddr::new(text.parse::<IpAddr>().unwrap(), 4500);
        pump.ways[0] = vec![Path::udp(at("203.0.113.9"), at("198.51.100.2"))];
        pump.ends[0].handle_addresses(now, vec!["203.0.113.9".parse().unwrap()]);
        pump.streams.clear();
        pump.drain();
        assert_eq!(sent(&pump, 0, false, "N(UPDATE_SA_ADDRESSES)"), 1);
        pump.run_for(15 * SECOND, |letter| udp_works || letter.path.is_tcp());
        assert_eq!(spi(&pump), before);
        assert_eq!(pump.sa(0).path.is_tcp(), !udp_works);
        assert_eq!(pump.sa(0).path.local.ip(), at("203.0.113.9").ip());
        assert_eq!(pump.sa(0).path, reversed(pump.sa(1).path));
    }
}

/// The peer's next connection may have the very ends of the one that was lost: it is followed all the same.
#[test]
fn another_connection_of_the_same_ends_is_followed() {
    let mut pump = up(TcpUse::Always, |connection| connection.mobike = false);
    let path = pump.sa(1).path;
    let id = pump.sa(1).children[0].id;
    let now = pump.at();
    pump.ends[1].handle_stream_closed(now, path);
    pump.rekey_child(0);
    let request = pump.wire.remove(0);
    pump.events[1].clear();
    pump.hand(&request);
    let moved = |event: &&Event| matches!(event, Event::Sad(SadUpdate::Move { id: moved, path: to, .. }) if *moved == id && *to == path);
    assert_eq!(pump.events[1].iter().filter(moved).count(), 1);
}

/// An SA over TCP is authenticated anew as any attempt begins: by UDP, and by TCP if that gets no answer.
#[test]
fn reauthentication_begins_with_udp() {
    for udp_works in [true, false] {
        let mut pump = up(TcpUse::Fallback, |connection| {
            connection.mobike = false;
            if connection.tcp == TcpUse::Fallback {
                connection.reauth_time = Some(100 * SECOND);
            }
        });
        let before = spi(&pump);
        pump.events[0].clear();
        pump.run_for(140 * SECOND, |letter| udp_works || letter.path.is_tcp());
        pump.assert_joined();
        assert_ne!(spi(&pump), before);
        assert!(sent(&pump, 0, false, "IKE_SA_INIT") > 0);
        assert_eq!(pump.sa(0).path.is_tcp(), !udp_works);
        assert_eq!(sent(&pump, 0, true, "IKE_SA_INIT") > 0, !udp_works);
    }
}
