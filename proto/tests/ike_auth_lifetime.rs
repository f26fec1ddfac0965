//! Repeated authentication at the responder's wish (RFC 4478).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;
#[path = "peer/mod.rs"]
mod peer;

use ike_pump::{Letter, Pump, SITE, side_a, side_b};
use landbridge_proto::ike::{Command, Event};
use landbridge_proto::policy::connection::{Connection, Gateway};
use landbridge_proto::policy::sad::SadUpdate;
use landbridge_proto::wire::{ExchangeType, NotifyType, Payload};
use peer::Tester;
use peer::messages::*;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const LIFETIME: Duration = Duration::from_secs(100);

fn everything(_: &Letter) -> bool {
    true
}

/// B wants A to authenticate anew.
fn ends() -> (Connection, Connection) {
    let mut b = side_b();
    b.reauth_time = Some(LIFETIME);
    (side_a(), b)
}

fn ups(pump: &Pump) -> usize {
    let up = |event: &&Event| matches!(event, Event::IkeUp(up) if up.rekeyed_from.is_none());
    pump.events[0].iter().filter(up).count()
}

/// Again and again, without a moment in which nothing could be sent, and without a word of the responder's; rekeys in between
/// don't put it off.
#[test]
fn an_announced_lifetime_is_kept_to() {
    for rekeys in [false, true] {
        let (mut a, b) = ends();
        a.ike_rekey_time = rekeys.then_some(30 * SECOND);
        let mut pump = Pump::up(a, b);
        let at = pump.sa(0).reauth_at.unwrap();
        let (earliest, latest) = (pump.now + 80 * SECOND, pump.now + 90 * SECOND);
        assert!((earliest..=latest).contains(&at));
        for _ in 0..1000 {
            pump.run_for(SECOND, everything);
            for who in 0..2 {
                assert_eq!(pump.sad[who].active.len(), 1, "end {who}");
            }
        }
        let outage = |event: &&Event| matches!(event, Event::Sad(SadUpdate::DeactivateOutbound(_)));
        assert!(!pump.events.iter().flatten().any(|event| outage(&event)));
        let count = ups(&pump);
        assert!((11..=14).contains(&count), "{count} times");
        assert!(pump.failures(1).is_empty());
        pump.run_for(10 * SECOND, everything);
        pump.assert_joined();
    }
}

/// "It does not override any security policy on the Initiator": who wants it more often does it more often.
#[test]
fn the_shorter_time_counts() {
    for (own, most) in [(50, 50), (1000, 90)] {
        let (mut a, b) = ends();
        a.reauth_time = Some(own * SECOND);
        let mut pump = Pump::up(a, b);
        assert!(pump.sa(0).reauth_at.unwrap() <= pump.now + most * SECOND);
        pump.run_for(most * SECOND + SECOND, everything);
        assert_eq!(ups(&pump), 2);
    }
}

/// An attempt that fails is made again while the old SA is there; when its time is over the responder ends it, and all begins
/// anew as after any Delete.
#[test]
fn the_responder_ends_what_lasts_longer() {
    let (a, b) = ends();
    let mut pump = Pump::up(a, b);
    let began = pump.now;
    let first = pump.sa(0).spi_i;
    let no_init = |letter: &Letter| letter.exchange() != ExchangeType::IKE_SA_INIT;
    pump.run_for(105 * SECOND, no_init);
    pump.assert_joined();
    assert_eq!(pump.sa(0).spi_i, first);
    // A tenth of the time after its end.
    pump.run_for(4 * SECOND, no_init);
    assert!(pump.is_up(0) && pump.now < began + 110 * SECOND);
    pump.run_for(2 * SECOND, no_init);
    assert!(!pump.is_up(0) && !pump.is_up(1));
    assert_eq!(pump.ike_downs(0), ["the peer deleted it"]);
    assert!(pump.failures(1)[0].verdict.contains("did not authenticate itself anew"));
    pump.run_for(100 * SECOND, everything);
    pump.assert_joined();
}

/// The time limit goes on through rekeys of either end.
#[test]
fn a_rekey_does_not_put_the_end_off() {
    for rekeys in 0..2 {
        let mut b = side_b();
        b.reauth_time = Some(LIFETIME);
        let mut pump = Pump::up(side_a(), b);
        for _ in 0..3 {
            pump.run_for(25 * SECOND, everything);
            let connection = SITE.into();
            pump.command(rekeys, Command::RekeyIke { connection });
        }
        pump.run_for(SECOND, everything);
        assert_eq!(ups(&pump), 1);
        let ends = pump.sa(1).reauth_at.unwrap();
        assert!(ends < pump.now + 35 * SECOND);
        pump.run_for(15 * SECOND, everything);
        assert_eq!(ups(&pump), 2);
    }
}

/// Nor do crossing rekeys, whichever new SA stays; also if the peer deletes its own before ours is there.
#[test]
fn crossing_rekeys_do_not_put_the_end_off() {
    let mut winners = [0, 0];
    for (seed, late) in (0..20).flat_map(|seed| (0..3).map(move |late| (seed, late))) {
        let (mut a, b) = ends();
        a.reauth_time = (seed % 2 == 0).then_some(60 * SECOND);
        let mut pump = Pump::with(a, b, seed, Gateway::default());
        pump.connect();
        pump.deliver_all();
        let times = |pump: &Pump| [pump.sa(0).reauth_at.unwrap(), pump.sa(1).reauth_at.unwrap()];
        let before = times(&pump);
        pump.run_for(25 * SECOND, everything);
        for who in 0..2 {
            let connection = SITE.into();
            pump.command(who, Command::RekeyIke { connection });
        }
        // Both requests arrive before either answer; one of the two answers may come last.
        pump.deliver(0);
        pump.deliver(0);
        let mut all = pump.status(0).into_iter().chain(pump.status(1));
        assert!(all.all(|sa| sa.reauth_at.is_some() == (sa.stage == "established")));
        let last = pump.wire.iter().position(|letter| letter.to == late);
        let last = last.map(|at| pump.wire.remove(at));
        pump.deliver_all();
        last.iter().for_each(|letter| pump.hand(letter));
        pump.deliver_all();
        pump.assert_joined();
        assert_eq!(times(&pump), before, "seed {seed}, the answer to {late} is late");
        winners[usize::from(pump.sa(1).initiator)] += 1;
        pump.run_for(70 * SECOND, everything);
        assert_eq!(ups(&pump), 2);
    }
    assert!(winners[0] > 0 && winners[1] > 0, "{winners:?}");
}

fn lifetime_of(payloads: &[Payload]) -> Option<Vec<u8>> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Notify(n) if n.notify_type == NotifyType::AUTH_LIFETIME => {
            assert_eq!(
                (n.protocol.0, n.spi.len()),
                (0, 0),
                "§3: \"Protocol ID (1 octet) MUST be 0\""
            );
            Some(n.data.clone())
        }
        _ => None,
    })
}

/// §2: "The Responder MUST send this information to the Initiator in an AUTH_LIFETIME notification"; who wants nothing, and who
/// began, says nothing.
#[test]
fn an_initiator_announces_nothing() {
    for time in [None, Some(1000 * SECOND)] {
        let mut b = side_b();
        b.reauth_time = time;
        let mut t = Tester::new(b);
        let payloads = t.init_payloads();
        t.init(&payloads);
        let payloads = t.auth_payloads();
        let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        let want = time.map(|_| 1000_u32.to_be_bytes().to_vec());
        assert_eq!(lifetime_of(&answer.payloads), want);
        let mut a = side_a();
        a.reauth_time = time;
        let (_, asked) = Tester::until_auth(a);
        assert_eq!(lifetime_of(&asked.payloads), None);
    }
}

/// T, as responder, announces this in IKE_AUTH; when the DUT will begin anew.
fn announced(data: &[u8]) -> (Tester, Option<Duration>) {
    let (mut t, asked) = Tester::until_auth(side_a());
    let mut payloads = t.auth_answer();
    payloads.push(notify_with(NotifyType::AUTH_LIFETIME, data));
    t.respond(&asked.header, &payloads);
    assert!(t.is_up());
    let left = wait_of(&t);
    (t, left)
}

fn wait_of(t: &Tester) -> Option<Duration> {
    t.status()[0].reauth_at.map(|at| at.saturating_since(t.now))
}

/// Four octets, from the responder, and not so soon that we would do nothing else; another announcement takes the place of the
/// first.
#[test]
fn what_is_no_lifetime_or_not_the_peers_to_say() {
    for data in [&[][..], &[0, 0, 0], &[0, 0, 0, 1, 0]] {
        assert_eq!(announced(data).1, None);
    }
    let (mut t, left) = announced(&1000_u32.to_be_bytes());
    assert!((800 * SECOND..=900 * SECOND).contains(&left.unwrap()));
    let tell = |t: &mut Tester, time: u32| {
        let notify = notify_with(NotifyType::AUTH_LIFETIME, &time.to_be_bytes());
        let answer = t.request(ExchangeType::INFORMATIONAL, &[notify]).unwrap();
        assert!(answer.payloads.is_empty());
    };
    t.pass(20 * SECOND);
    tell(&mut t, 5000);
    assert!((4000 * SECOND..=4500 * SECOND).contains(&wait_of(&t).unwrap()));
    tell(&mut t, u32::MAX);
    // "A zero value signifies that the Initial exchange should begin immediately."
    tell(&mut t, 0);
    assert_eq!(wait_of(&t), Some(Duration::ZERO));
    t.pass(Duration::ZERO);
    let begins = |t: &Tester| {
        t.out
            .iter()
            .any(|sent| sent.header().exchange == ExchangeType::IKE_SA_INIT)
    };
    assert!(begins(&t));
    // One that has just come up is not made anew at once.
    let (mut t, left) = announced(&[0; 4]);
    assert_eq!(left, Some(10 * SECOND));
    tell(&mut t, 0);
    t.pass(5 * SECOND);
    assert!(!begins(&t));
    t.pass(5 * SECOND);
    assert!(begins(&t));
    // It is for the responder to say.
    let mut t = Tester::up(side_b());
    tell(&mut t, 100);
    assert_eq!(wait_of(&t), None);
}
