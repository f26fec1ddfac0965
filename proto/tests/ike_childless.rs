//! IKE SAs that begin without a Child SA (RFC 6023).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;
#[path = "peer/mod.rs"]
mod peer;

use ike_pump::{Pump, SITE, child, side_a, side_b};
use landbridge_proto::ike::Command;
use landbridge_proto::policy::connection::{Connection, StartAction, Target};
use landbridge_proto::wire::{ExchangeType, NotifyType, Payload, ProtocolId};
use peer::Tester;
use peer::messages::*;
use std::sync::Arc;
use std::time::Duration;

fn has_child(payloads: &[Payload]) -> bool {
    let of_a_child = |payload: &Payload| matches!(payload, Payload::Sa(_) | Payload::TsI(_) | Payload::TsR(_));
    payloads.iter().any(of_a_child)
}

/// The operator took the only child down, and then it is time to authenticate anew: the IKE SA alone. Its Child SA, asked for
/// later, has a key exchange of its own.
#[test]
fn nothing_is_asked_for_that_nobody_wants() {
    let mut a = side_a();
    a.reauth_time = Some(Duration::from_secs(100));
    let mut pump = Pump::up(a, side_b());
    let before = pump.sa(0).spi_i;
    pump.down(0, Some("net"));
    pump.run_for(Duration::from_secs(110), |_| true);
    assert_ne!(pump.sa(0).spi_i, before);
    for who in 0..2 {
        assert!(pump.sa(who).children.is_empty());
        assert_eq!(pump.ends[who].spis_in_use(), 0);
    }
    assert!(pump.saw(0, "N(CHILDLESS_IKEV2_SUPPORTED)"));
    up(&mut pump, Some("net"));
    pump.assert_joined();
    assert!(pump.sa(0).children[0].suite.group.is_some());
}

fn up(pump: &mut Pump, child: Option<&str>) {
    let target = Target {
        local: pump.addresses[0],
        remote: pump.addresses[1],
    };
    let up = Command::Up {
        connection: SITE.into(),
        child: child.map(Into::into),
        target,
    };
    pump.command(0, up);
    pump.run_for(Duration::from_secs(2), |_| true);
}

/// Who asks for a connection whose children don't start by themselves wants them all, and not an IKE SA alone.
#[test]
fn a_connection_that_is_asked_for_comes_up_with_its_children() {
    let with_more = |connection: Connection, local: &str, remote: &str| {
        let mut connection = connection;
        let more = child("more", local, remote, "aes256gcm16-x25519", StartAction::None);
        connection.children.insert("more".into(), more);
        for child in connection.children.values_mut() {
            Arc::make_mut(child).start_action = StartAction::None;
        }
        connection
    };
    let a = with_more(side_a(), "10.3.0.0/16", "10.4.0.0/16");
    let mut pump = Pump::new(a, with_more(side_b(), "10.4.0.0/16", "10.3.0.0/16"));
    up(&mut pump, None);
    pump.assert_joined();
    assert_eq!(pump.sa(0).children.len(), 2);
}

/// "A supporting responder that has advertised support by including the notification in the IKE_SA_INIT response MUST process a
/// modified IKE_AUTH request, and MUST reply with a modified IKE_AUTH response."
#[test]
fn a_request_without_a_child_is_answered_without_one() {
    let mut t = Tester::new(side_b());
    let mut payloads = t.init_payloads();
    payloads.push(notify(NotifyType::REDIRECT_SUPPORTED));
    let answer = t.init(&payloads);
    let notify = answer.notify(NotifyType::CHILDLESS_IKEV2_SUPPORTED).expect("announced");
    assert_eq!(notify.protocol, ProtocolId::IKE);
    let mut payloads = t.auth_payloads();
    payloads.truncate(2);
    let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(t.is_up() && !has_child(&answer.payloads), "{:?}", answer.payloads);
    assert_eq!(t.pairs(), 0);
    // The other way round: "Such a responder MUST NOT reply with a modified IKE_AUTH response if the initiator did not send a
    // modified IKE_AUTH request."
    let mut t = Tester::new(side_b());
    let payloads = t.init_payloads();
    t.init(&payloads);
    let payloads = t.auth_payloads();
    let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(has_child(&answer.payloads));
}

/// "The initiator MUST NOT send the modified IKE_AUTH request if the notification was not present."
#[test]
fn a_responder_that_does_not_announce_it_is_asked_for_a_child() {
    for announced in [false, true] {
        let mut t = Tester::new(side_a());
        let asked = t.provoke();
        // The operator takes its only child down while it begins.
        let down = Command::Down {
            connection: SITE.into(),
            child: Some("net".into()),
        };
        t.command(down);
        let mut payloads = t.init_answer(&asked);
        if announced {
            payloads.push(notify(NotifyType::CHILDLESS_IKEV2_SUPPORTED));
        }
        t.answer_init(&payloads);
        let asked = t.next_request().unwrap();
        assert_eq!(has_child(&asked.payloads), !announced);
    }
}
