//! Authenticating anew, make-before-break (RFC 7296 §2.8.3).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;

use ike_pump::{Letter, Pump, child, side_a, side_b};
use landbridge_proto::ike::Event;
use landbridge_proto::policy::connection::{Connection, StartAction};
use landbridge_proto::policy::sad::SadUpdate;
use landbridge_proto::wire::ExchangeType;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const REAUTH: Duration = Duration::from_secs(100);

fn everything(_: &Letter) -> bool {
    true
}

fn two(mut connection: Connection, local: &str, remote: &str, start_action: StartAction) -> Connection {
    let more = child("more", local, remote, "aes256gcm16-x25519", start_action);
    connection.children.insert("more".into(), more);
    connection.reauth_time = Some(REAUTH);
    connection
}

fn ends() -> (Connection, Connection) {
    let a = two(side_a(), "10.3.0.0/16", "10.4.0.0/16", StartAction::Start);
    let mut b = two(side_b(), "10.4.0.0/16", "10.3.0.0/16", StartAction::None);
    // Without a limit of its own: `ike_auth_lifetime` has those.
    b.reauth_time = None;
    (a, b)
}

/// No moment without a pair that sends, at either end, and one IKE SA in the end.
#[test]
fn nothing_breaks_before_the_new_is_made() {
    let (a, b) = ends();
    let mut pump = Pump::up(a, b);
    let first = pump.sa(0).spi_i;
    // Ten times over, with the children's own lives in between.
    for _ in 0..10 {
        let end = pump.now + REAUTH;
        while pump.now < end {
            pump.run_for(SECOND, everything);
            for who in 0..2 {
                let sends = pump.sad[who].active.keys().map(String::as_str).collect::<Vec<_>>();
                assert_eq!(sends, ["more", "net"], "end {who}");
            }
        }
    }
    pump.run_for(10 * SECOND, everything);
    pump.assert_joined();
    assert_ne!(pump.sa(0).spi_i, first);
    let outage = |event: &&Event| matches!(event, Event::Sad(SadUpdate::DeactivateOutbound(_)));
    assert!(!pump.events.iter().flatten().any(|event| outage(&event)));
    let ups = |event: &&Event| matches!(event, Event::IkeUp(_));
    let count = pump.events[0].iter().filter(ups).count();
    assert!((10..=13).contains(&count), "{count} times");
    assert_eq!(
        (pump.sad[0].pairs.len(), pump.sad[1].pairs.len()),
        (2, 2),
        "nothing is left over"
    );
    assert_eq!(pump.ends[0].spis_in_use(), 2);
}

/// Any message lost: the same.
#[test]
fn any_message_may_be_lost() {
    for lost in 0..14 {
        let (a, b) = ends();
        let mut pump = Pump::up(a, b);
        let mut count = 0;
        pump.run_for(REAUTH + 40 * SECOND, |_| {
            count += 1;
            count != lost + 1
        });
        pump.assert_joined();
        for who in 0..2 {
            assert_eq!(pump.sad[who].pairs.len(), 2, "message {lost}, end {who}");
        }
    }
}

/// An attempt that fails costs nothing: the old SA is there, and it is tried again.
#[test]
fn a_failed_attempt_is_made_again() {
    let (a, b) = ends();
    let mut pump = Pump::up(a, b);
    let first = pump.sa(0).spi_i;
    // For a while no first message comes through.
    pump.run_for(REAUTH + 60 * SECOND, |letter| {
        letter.exchange() != ExchangeType::IKE_SA_INIT
    });
    pump.assert_joined();
    assert_eq!(pump.sa(0).spi_i, first);
    pump.run_for(120 * SECOND, everything);
    pump.assert_joined();
    assert_ne!(pump.sa(0).spi_i, first);
}

/// A rekey of the IKE SA in between does not put it off, and is not in its way.
#[test]
fn beside_rekeys_of_the_ike_sa() {
    let (mut a, mut b) = ends();
    a.ike_rekey_time = Some(Duration::from_secs(30));
    b.ike_rekey_time = Some(Duration::from_secs(33));
    let mut pump = Pump::up(a, b);
    pump.run_for(10 * REAUTH, everything);
    pump.run_for(5 * SECOND, everything);
    let anew = |event: &&Event| matches!(event, Event::IkeUp(up) if up.rekeyed_from.is_none());
    let count = pump.events[0].iter().filter(anew).count();
    assert!(count >= 9, "{count}");
    pump.joined()
        .or_else(|_| {
            pump.run_for(20 * SECOND, everything);
            pump.joined()
        })
        .unwrap();
}
