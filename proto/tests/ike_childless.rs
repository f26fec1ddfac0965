//! IKE SAs that begin without a Child SA (RFC 6023).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;
#[path = "peer/mod.rs"]
mod peer;

use ike_pump::{Pump, SITE, side_a, side_b};
use landbridge_proto::ike::Command;
use landbridge_proto::policy::connection::{Connection, StartAction, Target};
use landbridge_proto::wire::{ExchangeType, NotifyType, Payload, ProtocolId};
use peer::Tester;
use peer::messages::*;
use std::sync::Arc;
use std::time::Duration;

fn idle(mut connection: Connection) -> Connection {
    for child in connection.children.values_mut() {
        Arc::make_mut(child).start_action = StartAction::None;
    }
    connection
}

fn has_child(payloads: &[Payload]) -> bool {
    let of_a_child = |payload: &Payload| matches!(payload, Payload::Sa(_) | Payload::TsI(_) | Payload::TsR(_));
    payloads.iter().any(of_a_child)
}

/// The IKE SA alone; its first Child SA then has a key exchange of its own.
#[test]
fn nothing_is_asked_for_that_nobody_wants() {
    let mut pump = Pump::new(idle(side_a()), idle(side_b()));
    pump.connect();
    pump.run_for(Duration::from_secs(2), |_| true);
    for who in 0..2 {
        assert!(pump.sa(who).children.is_empty());
        assert_eq!(pump.ends[who].spis_in_use(), 0);
    }
    assert!(pump.saw(0, "N(CHILDLESS_IKEV2_SUPPORTED)"));
    let target = Target {
        local: pump.addresses[0],
        remote: pump.addresses[1],
    };
    let up = Command::Up {
        connection: SITE.into(),
        child: Some("net".into()),
        target,
    };
    pump.command(0, up);
    pump.run_for(Duration::from_secs(2), |_| true);
    pump.assert_joined();
    assert!(pump.sa(0).children[0].suite.group.is_some());
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
        let mut t = Tester::new(idle(side_a()));
        let asked = t.provoke();
        let mut payloads = t.init_answer(&asked);
        if announced {
            payloads.push(notify(NotifyType::CHILDLESS_IKEV2_SUPPORTED));
        }
        t.answer_init(&payloads);
        let asked = t.next_request().unwrap();
        assert_eq!(has_child(&asked.payloads), !announced);
    }
}
