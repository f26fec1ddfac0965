//! Quick crash detection (RFC 6290).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;
#[path = "peer/mod.rs"]
mod peer;

use ike_pump::{Letter, Pump, SITE, side_a, side_b};
use landbridge_proto::crypto::Secret;
use landbridge_proto::ike::Command;
use landbridge_proto::policy::connection::{Connection, Gateway};
use landbridge_proto::policy::sad::SadReport;
use landbridge_proto::wire::*;
use peer::Tester;
use peer::messages::*;
use std::collections::BTreeSet;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const TOKEN: NotifyType = NotifyType::QUICK_CRASH_DETECTION;
const LOST: &str = "the peer has lost its state (QUICK_CRASH_DETECTION)";

fn everything(_: &Letter) -> bool {
    true
}

fn secret(n: u8) -> Secret {
    Secret::new(vec![n; 32])
}

/// Both make tokens.
fn pump(a: Connection, b: Connection) -> Pump {
    let mut pump = Pump::new(a, b);
    for who in 0..2 {
        pump.ends[who].set_token_secret(secret(u8::try_from(who).unwrap()));
    }
    pump.connect();
    pump.deliver_all();
    pump.assert_joined();
    pump
}

fn restart(pump: &mut Pump, who: usize) {
    pump.restart(who, 77);
    pump.ends[who].set_token_secret(secret(u8::try_from(who).unwrap()));
}

/// ESP of the other end comes to an end that has begun anew.
fn esp_arrives(pump: &mut Pump, who: usize) {
    let pair = pump.sad[1 - who].pairs.values().next().unwrap();
    let (spi, path) = (pair.outbound.spi, pair.path);
    let (local, remote) = (path.remote.ip(), path.local);
    pump.report(who, SadReport::UnknownSpi { spi, local, remote });
}

fn crashes(pump: &Pump, who: usize) -> u64 {
    pump.ends[who].tally(&SITE.into()).crashed_peers
}

/// From the first packet on no time passes: INVALID_SPI, a liveness check, the token, and all begins anew.
#[test]
fn a_peer_that_has_begun_anew_is_noticed_in_a_round_trip() {
    let mut pump = pump(side_a(), side_b());
    let before = pump.sa(0).spi_i;
    pump.run_for(20 * SECOND, everything);
    restart(&mut pump, 1);
    let began = pump.now;
    esp_arrives(&mut pump, 1);
    pump.deliver_all();
    assert_eq!(pump.ike_downs(0), [LOST]);
    assert!(pump.sad[0].pairs.is_empty());
    assert!(!pump.said(0, "INFORMATIONAL request 3"), "silently: without a Delete");
    pump.run_for(Duration::ZERO, everything);
    pump.assert_joined();
    assert_eq!(pump.now, began);
    assert_ne!(pump.sa(0).spi_i, before);
    assert_eq!((crashes(&pump, 0), crashes(&pump, 1)), (1, 0));
    assert!(pump.sa(0).quick_crash_detection && pump.sa(1).quick_crash_detection);
}

/// The initiator is the one that crashed, and nobody asks for the connection there: the responder notices as well.
#[test]
fn whoever_it_was_that_began() {
    let mut pump = pump(side_a(), side_b());
    restart(&mut pump, 0);
    esp_arrives(&mut pump, 0);
    pump.deliver_all();
    assert_eq!(pump.ike_downs(1), [LOST]);
    assert!(pump.status(1).iter().all(|sa| sa.stage == "closing"));
}

/// It does not take an SPI of ESP: whatever is asked by the IKE SA. And none without a secret, or with another.
#[test]
fn a_token_comes_with_any_request() {
    for (knows, again) in [(true, Some(1)), (true, Some(9)), (true, None), (false, Some(1))] {
        let (mut a, b) = (side_a(), side_b());
        a.dpd_delay = Some(30 * SECOND);
        let mut pump = Pump::new(a, b);
        if knows {
            pump.ends[1].set_token_secret(secret(1));
        }
        pump.connect();
        pump.deliver_all();
        assert_eq!(pump.sa(0).quick_crash_detection, knows);
        pump.restart(1, 77);
        if let Some(n) = again {
            pump.ends[1].set_token_secret(secret(n));
        }
        pump.run_for(32 * SECOND, everything);
        let noticed = knows && again == Some(1);
        assert_eq!(pump.ike_downs(0).contains(&LOST), noticed, "{knows} {again:?}");
        assert_eq!(pump.saw(0, "QUICK_CRASH_DETECTION"), knows);
    }
}

/// §4.3: both ends have a token for the SA that a rekey made, whoever rekeyed; and a peer that lost the old one has lost nothing.
#[test]
fn after_rekeys_of_either_end() {
    for rekeys in [vec![0], vec![1], vec![0, 1, 1, 0]] {
        for crashed in 0..2 {
            let mut a = side_a();
            a.dpd_delay = Some(30 * SECOND);
            let mut b = side_b();
            b.dpd_delay = Some(30 * SECOND);
            let mut pump = pump(a, b);
            for who in &rekeys {
                let connection = SITE.into();
                pump.command(*who, Command::RekeyIke { connection });
                pump.run_for(25 * SECOND, everything);
                pump.assert_joined();
            }
            assert!(pump.said(rekeys[0], "INFORMATIONAL request 0 [N(QUICK_CRASH_DETECTION)]"));
            assert!(pump.sa(0).quick_crash_detection && pump.sa(1).quick_crash_detection);
            restart(&mut pump, crashed);
            esp_arrives(&mut pump, crashed);
            pump.deliver_all();
            assert!(pump.ike_downs(1 - crashed).contains(&LOST), "{rekeys:?}, {crashed}");
        }
    }
}

/// A peer that is up again sooner than what was asked before is repeated: it is repeated at once.
#[test]
fn what_is_asked_already_is_asked_again_at_once() {
    let mut a = side_a();
    a.dpd_delay = Some(5 * SECOND);
    let mut pump = pump(a, side_b());
    // Nobody is there for a while.
    pump.run_for(14 * SECOND, |_| false);
    assert!(pump.sa(0).in_flight.is_some_and(|what| what.contains("sent 4 times")));
    restart(&mut pump, 1);
    esp_arrives(&mut pump, 1);
    pump.deliver_all();
    pump.run_for(Duration::ZERO, everything);
    assert_eq!(pump.ike_downs(0), [LOST]);
    pump.run_for(Duration::ZERO, everything);
    pump.assert_joined();
}

/// A peer that crashes whenever it is up is tried with the usual waits.
#[test]
fn one_that_crashes_again_and_again_keeps_nobody_busy() {
    let mut pump = pump(side_a(), side_b());
    for _ in 0..5 {
        restart(&mut pump, 1);
        esp_arrives(&mut pump, 1);
        pump.run_for(Duration::from_millis(500), everything);
        assert!(!pump.is_up(0));
        pump.run_for(3 * SECOND, everything);
        pump.assert_joined();
    }
}

/// A tester that is up, as responder or as initiator, and gave the DUT a token.
fn with_token(as_initiator: bool, token: &[u8]) -> Tester {
    let mut notifies = vec![notify_with(TOKEN, token)];
    with_notifies(as_initiator, &mut notifies)
}

fn with_notifies(as_initiator: bool, notifies: &mut Vec<Payload>) -> Tester {
    let mut t = if as_initiator {
        let mut t = Tester::new(side_b());
        let payloads = t.init_payloads();
        t.init(&payloads);
        let mut payloads = t.auth_payloads();
        payloads.append(notifies);
        t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        t
    } else {
        let (mut t, asked) = Tester::until_auth(side_a());
        let mut payloads = t.auth_answer();
        payloads.append(notifies);
        t.respond(&asked.header, &payloads);
        t
    };
    assert!(t.is_up());
    t.out.clear();
    t
}

/// An unprotected message about an SA of T's.
fn cry(t: &Tester, response: bool, payloads: &[Payload]) -> Vec<u8> {
    encode_plain(&t.sa.header(ExchangeType::INFORMATIONAL, response, 5), payloads)
}

/// §4.5: "the token taker MUST support at least four QCD_TOKEN notifications in a single packet", "from any IP address and port
/// combination" (§3), whatever else is in there.
#[test]
fn the_right_token_ends_the_sa_silently() {
    for as_initiator in [true, false] {
        for place in 0..4 {
            let mut t = with_token(as_initiator, &[7; 20]);
            assert!(t.status()[0].quick_crash_detection);
            let mut tokens = vec![notify_with(TOKEN, &[1; 20]); 4];
            tokens[place] = notify_with(TOKEN, &[7; 20]);
            tokens.insert(0, notify(NotifyType::INVALID_IKE_SPI));
            let datagram = cry(&t, place != 1, &tokens);
            let mut path = t.path;
            path.remote = t.address("203.0.113.99:7777");
            t.send_from(path, &datagram);
            assert_eq!((t.stage(), t.pairs()), (Some("closing"), 0));
            assert!(t.out.is_empty());
            assert_eq!(t.dut.tally(&SITE.into()).crashed_peers, 1);
            // Once.
            t.send_from(path, &datagram);
            assert_eq!(t.dut.tally(&SITE.into()).crashed_peers, 1);
        }
    }
}

/// An SA that is on its way out is ended by it as well, but that is no crash that anybody notices.
#[test]
fn what_was_over_already_is_no_crash() {
    for rekeyed in [true, false] {
        let mut t = with_token(true, &[7; 16]);
        let datagram = cry(&t, false, &[notify_with(TOKEN, &[7; 16])]);
        if rekeyed {
            t.rekey_ike();
        } else {
            let connection = SITE.into();
            t.command(Command::Down {
                connection,
                child: None,
            });
        }
        t.send(&datagram);
        assert_eq!(t.is_up(), rekeyed);
        assert_eq!(
            (t.dut.tally(&SITE.into()).crashed_peers, t.counters().tokens_refused),
            (0, 0)
        );
        t.out.clear();
        t.pass(15 * SECOND);
        assert!(t.out.is_empty(), "no Delete");
    }
}

/// §4.5: "If the QCD_TOKEN cannot be validated, a response MUST NOT be sent, and the event may be logged."
#[test]
fn a_wrong_token_ends_nothing() {
    let token = [7; 16];
    let mut shorter = token.to_vec();
    shorter.pop();
    let mut other = token;
    other[15] ^= 1;
    let longer = [7; 17];
    for wrong in [&[][..], &shorter, &other, &longer, &[7; 128], &[0; 16]] {
        let mut t = with_token(true, &token);
        let datagram = cry(&t, false, &[notify_with(TOKEN, wrong)]);
        assert!(t.ask(&datagram).is_empty(), "{wrong:?}");
        assert_eq!(t.counters().tokens_refused, 1);
        assert!(t.failures().iter().any(|line| line.contains("wrong token")));
        t.assert_alive();
    }
    // Not with four others before it, and not with the SPIs of another SA.
    let mut t = with_token(true, &token);
    let mut many = vec![notify_with(TOKEN, &other); 4];
    many.push(notify_with(TOKEN, &token));
    let datagram = cry(&t, false, &many);
    assert!(t.ask(&datagram).is_empty());
    for spi in 0..2 {
        let mut header = t.sa.header(ExchangeType::INFORMATIONAL, true, 0);
        *[&mut header.spi_i, &mut header.spi_r][spi] = IkeSpi([9; 8]);
        assert!(
            t.ask(&encode_plain(&header, &[notify_with(TOKEN, &token)])).is_empty(),
            "{spi}"
        );
    }
    t.assert_alive();
    // Too many in a second: the right one is not even looked at.
    let wrong = cry(&t, false, &[notify_with(TOKEN, &other)]);
    for _ in 0..1000 {
        assert!(t.ask(&wrong).is_empty());
    }
    let lines = t.failures().len();
    assert!(lines <= 2, "{lines} lines");
    let right = cry(&t, false, &[notify_with(TOKEN, &token)]);
    t.send(&right);
    assert!(t.is_up());
    t.pass(SECOND);
    t.send(&right);
    assert!(!t.is_up());
}

/// A token shorter or longer than §5 allows is none: nobody is to guess it.
#[test]
fn what_is_no_token_is_not_taken() {
    for token in [vec![], vec![7; 1], vec![7; 15], vec![7; 129]] {
        for as_initiator in [true, false] {
            let mut t = with_token(as_initiator, &token);
            assert!(!t.status()[0].quick_crash_detection);
            let datagram = cry(&t, false, &[notify_with(TOKEN, &token)]);
            t.send(&datagram);
            t.assert_alive();
        }
    }
}

/// Before the peer has proven who it is, its token counts for nothing.
#[test]
fn a_token_of_somebody_unproven_is_not_kept() {
    let mut t = Tester::new(side_b());
    let mut payloads = t.init_payloads();
    payloads.push(notify_with(TOKEN, &[7; 16]));
    t.init(&payloads);
    let datagram = cry(&t, false, &[notify_with(TOKEN, &[7; 16])]);
    assert!(t.ask(&datagram).is_empty());
    let payloads = t.auth_payloads();
    t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    t.send(&datagram);
    t.assert_alive();
}

/// §4.4: "A token taker MUST accept such gratuitous QCD_TOKEN notifications as long as they are carried in protected exchanges."
#[test]
fn a_token_may_be_replaced() {
    let mut t = with_token(true, &[7; 16]);
    let answer = t.request(ExchangeType::INFORMATIONAL, &[notify_with(TOKEN, &[8; 16])]);
    assert!(answer.unwrap().payloads.is_empty());
    let datagram = cry(&t, true, &[notify_with(TOKEN, &[8; 16])]);
    t.send(&datagram);
    assert!(!t.is_up());
}

fn maker() -> Tester {
    let mut t = Tester::new(side_b());
    t.dut.set_token_secret(secret(1));
    t
}

fn token_of(payloads: &[Payload]) -> Option<Vec<u8>> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Notify(notify) if notify.notify_type == TOKEN => {
            assert_eq!(
                (notify.protocol, notify.spi.len()),
                (ProtocolId::IKE, 0),
                "§4.1: \"Protocol ID (1 octet) MUST be 1\", \"SPI Size (1 octet) MUST be zero\""
            );
            Some(notify.data.clone())
        }
        _ => None,
    })
}

/// §9.2: "A token maker MUST NOT send a valid QCD token in an unprotected message for an existing IKE SA."
#[test]
fn a_token_is_not_told_while_the_sa_lives() {
    let mut t = maker();
    t.begin();
    let told = |t: &mut Tester, spi_i: IkeSpi, spi_r: IkeSpi, initiator: bool| {
        let mut header = t.sa.header(ExchangeType::INFORMATIONAL, false, 9);
        (header.spi_i, header.spi_r, header.flags.initiator) = (spi_i, spi_r, initiator);
        let datagram = t.seal(&header, &[]).remove(0);
        let sent = t.ask(&datagram);
        let message = sent.first().map(|_| t.open(&sent));
        message.and_then(|message| token_of(&message.payloads))
    };
    let (i, r) = (t.sa.spi_i, t.sa.spi_r);
    // The whole pair, and the DUT's own SPI with another: nothing.
    for (spi_i, spi_r) in [(i, r), (IkeSpi([9; 8]), r)] {
        assert_eq!(told(&mut t, spi_i, spi_r, true), None);
    }
    // Nor with the I flag turned, by which the DUT does not find it.
    let given = token_in_auth();
    assert_eq!(told(&mut t, i, r, false), None);
    // The peer's SPI with another of the DUT's is another SA.
    let other = told(&mut t, i, IkeSpi([9; 8]), true);
    assert!(other.is_some() && other != Some(given.clone()));
    assert_eq!(told(&mut t, IkeSpi::ZERO, IkeSpi([9; 8]), true), None);
    // In another life, the one that T has.
    let again = |t: &mut Tester, n: Option<u8>| {
        let gateway = Gateway::default();
        let mut new = Tester::with(side_b(), gateway);
        n.into_iter().for_each(|n| new.dut.set_token_secret(secret(n)));
        std::mem::swap(&mut t.dut, &mut new.dut);
    };
    again(&mut t, Some(1));
    assert_eq!(told(&mut t, i, r, true), Some(given.clone()));
    // The other end of the SA has another token, also with the same secret.
    assert!(told(&mut t, i, r, false).is_some_and(|token| token != given));
    again(&mut t, Some(2));
    assert!(told(&mut t, i, r, true).is_some_and(|token| token != given));
    again(&mut t, None);
    assert_eq!(told(&mut t, i, r, true), None);
}

/// What the DUT gives T (with the seeds of the tests always the same SPIs).
fn token_in_auth() -> Vec<u8> {
    let mut t = maker();
    let payloads = t.init_payloads();
    t.init(&payloads);
    let payloads = t.auth_payloads();
    let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    let payload_type = |payload: &Payload| encode_payloads(std::slice::from_ref(payload)).0;
    let types: Vec<PayloadType> = answer.payloads.iter().map(payload_type).collect();
    // §4.2: "should follow the AUTH payload and precede the Configuration payload and all payloads related to the child SA".
    assert_eq!(types[..3], [PayloadType::IDR, PayloadType::AUTH, PayloadType::NOTIFY]);
    let token = token_of(&answer.payloads).expect("a token");
    assert!((16..=128).contains(&token.len()));
    token
}

/// A message under whatever key, so long.
fn sealed(header: &Header, length: u8) -> Vec<u8> {
    let mut datagram = encode_plain(header, &[]);
    datagram[16] = PayloadType::SK.0;
    datagram.extend([0, 0, 0, length - 28]);
    datagram.resize(length.into(), 0);
    datagram[27] = length;
    datagram
}

/// §5: "a collision of QCD tokens between different pairs of IKE SPI will be highly unlikely".
#[test]
fn tokens_differ() {
    let mut all = BTreeSet::new();
    let mut t = maker();
    for n in 0..200_u64 {
        let mut header = t.sa.header(ExchangeType::INFORMATIONAL, false, 9);
        header.spi_i = IkeSpi((n / 14 + 1).to_be_bytes());
        header.spi_r = IkeSpi((n % 14 + 1).to_be_bytes());
        let datagram = sealed(&header, 57);
        let sent = t.ask(&datagram);
        assert!(sent[0].octets.len() <= datagram.len() + 3);
        all.insert(token_of(&t.open(&sent).payloads).expect("a token"));
    }
    assert_eq!(all.len(), 200);
    // Short ones draw none, and nobody draws many.
    let header = t.sa.header(ExchangeType::INFORMATIONAL, false, 9);
    let header = Header {
        spi_r: IkeSpi([1; 8]),
        ..header
    };
    let (shorter, short) = (sealed(&header, 56), sealed(&header, 57));
    let tokens = |t: &mut Tester, datagram: &[u8], count: usize| {
        let mut tokens = 0;
        for _ in 0..count {
            let sent = t.ask(datagram);
            tokens += usize::from(!sent.is_empty() && token_of(&t.open(&sent).payloads).is_some());
        }
        tokens
    };
    assert_eq!(tokens(&mut t, &shorter, 10), 0);
    assert!(tokens(&mut t, &short, 5000) <= 1000);
    // Long after the start there is hardly anybody left who could need one (§9.3).
    t.pass(1000 * SECOND);
    assert_eq!(tokens(&mut t, &short, 5000), 10);
}

/// "MUST allow the user to control whether the extension is enabled or disabled" (§8.1): neither made nor taken.
#[test]
fn it_can_be_switched_off() {
    let gateway = Gateway {
        quick_crash_detection: false,
        ..Gateway::default()
    };
    let mut t = Tester::with(side_b(), gateway);
    t.dut.set_token_secret(secret(1));
    let payloads = t.init_payloads();
    t.init(&payloads);
    let mut payloads = t.auth_payloads();
    payloads.push(notify_with(TOKEN, &[7; 16]));
    let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert_eq!(token_of(&answer.payloads), None);
    let datagram = cry(&t, false, &[notify_with(TOKEN, &[7; 16])]);
    t.send(&datagram);
    t.assert_alive();
    let local = t.path.local.ip();
    let remote = t.address("203.0.113.99:4500");
    t.report(SadReport::UnknownSpi {
        spi: 5000,
        local,
        remote,
    });
    assert!(t.out.is_empty());
}
