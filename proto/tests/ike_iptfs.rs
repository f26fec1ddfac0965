//! IP-TFS (RFC 9347 §5.1): asked for, granted or not, with what each requires of the other, kept by rekeys.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;
mod peer;

use ike_pump::{Pump, side_a, side_b};
use landbridge_proto::policy::aggfrag::{Aggfrag, Iptfs, SendMode};
use landbridge_proto::policy::connection::{Child, Connection};
use landbridge_proto::policy::sad::Mode;
use landbridge_proto::wire::{AggfragFlags, ExchangeType, NotifyType};
use peer::Tester;
use peer::messages::*;
use std::sync::Arc;
use std::time::Duration;

const IPTFS: Iptfs = Iptfs {
    mode: SendMode::Aggregate { delay: Duration::ZERO },
    size: None,
    reorder_window: 3,
    reorder_time: Duration::from_millis(10),
    fragments: true,
    required: false,
};

fn with(mut connection: Connection, iptfs: Option<Iptfs>) -> Connection {
    let mut child = Child::clone(&connection.children["net"]);
    child.iptfs = iptfs;
    connection.children.insert("net".into(), Arc::new(child));
    connection
}

/// What each pair of a side has.
fn agreed(pump: &Pump, who: usize) -> Vec<Option<Aggfrag>> {
    pump.sad[who].pairs.values().map(|entry| entry.aggfrag).collect()
}

/// "If the request is accepted, then the response MUST also include a notification of type USE_AGGFRAG."
#[test]
fn both_want_it() {
    let whole = Iptfs {
        fragments: false,
        ..IPTFS
    };
    let mut pump = Pump::new(with(side_a(), Some(IPTFS)), with(side_b(), Some(whole)));
    pump.connect();
    pump.deliver_all();
    assert!(pump.saw(1, "IKE_AUTH response 1 [IDr AUTH N(USE_AGGFRAG) SA TSi TSr]"));
    for turn in 0..3 {
        pump.assert_joined();
        // D: "This value only applies to what the sender is capable of receiving".
        for pair in agreed(&pump, 0) {
            assert_eq!(pair.unwrap().peer, AggfragFlags::new(false, true));
        }
        for pair in agreed(&pump, 1) {
            assert_eq!(pair.unwrap().peer, AggfragFlags::new(false, false));
        }
        let up = |who| {
            pump.sa(who)
                .children
                .iter()
                .all(|child| child.iptfs == Some(IPTFS.mode))
        };
        assert!(up(0) && up(1));
        pump.rekey_child(turn % 2);
        pump.deliver_all();
    }
}

/// Each end says for itself whether it goes by the path; "the sender is requiring that congestion control information MUST be returned to
/// it periodically": then both inform each other, as there is something to answer.
#[test]
fn who_goes_by_the_path_requires_information() {
    let congestion = Iptfs {
        mode: SendMode::Congestion {
            least: 64_000,
            most: 10_000_000,
        },
        ..IPTFS
    };
    for (modes, informs) in [
        ([IPTFS, IPTFS], false),
        ([congestion, IPTFS], true),
        ([IPTFS, congestion], true),
        ([congestion, congestion], true),
    ] {
        let mut pump = Pump::new(with(side_a(), Some(modes[0])), with(side_b(), Some(modes[1])));
        pump.connect();
        pump.deliver_all();
        for turn in 0..3 {
            pump.assert_joined();
            for who in [0, 1] {
                for pair in agreed(&pump, who) {
                    let pair = pair.unwrap();
                    let requires = matches!(modes[1 - who].mode, SendMode::Congestion { .. });
                    assert_eq!(
                        (pair.iptfs, pair.peer),
                        (modes[who], AggfragFlags::new(requires, false))
                    );
                    assert_eq!(pair.informs(), informs, "{modes:?}");
                }
            }
            pump.rekey_child(turn % 2);
            pump.deliver_all();
        }
    }
}

/// "If the responder declines the request, the Child SA will be established without AGGFRAG_PAYLOAD payload use enabled."
#[test]
fn one_wants_it() {
    for wish in [[Some(IPTFS), None], [None, Some(IPTFS)]] {
        let mut pump = Pump::new(with(side_a(), wish[0]), with(side_b(), wish[1]));
        pump.connect();
        pump.deliver_all();
        pump.assert_joined();
        assert_eq!(agreed(&pump, 0), [None]);
        assert_eq!(agreed(&pump, 1), [None]);
    }
}

/// "If this is unacceptable to the initiator, the initiator MUST delete the Child SA." A responder does not make it.
#[test]
fn one_requires_it() {
    let required = Some(Iptfs {
        required: true,
        ..IPTFS
    });
    for wish in [[required, None], [None, required]] {
        let mut pump = Pump::new(with(side_a(), wish[0]), with(side_b(), wish[1]));
        pump.connect();
        pump.deliver_all();
        assert_eq!(agreed(&pump, 0), []);
        assert_eq!(agreed(&pump, 1), [], "it was deleted, or not made");
        let by = usize::from(wish[0].is_none());
        let failures = pump.failures(by);
        let failure = failures.first().expect("it is told");
        assert!(failure.hint.as_ref().unwrap().contains("iptfs"), "{failure:?}");
    }
    let mut pump = Pump::new(with(side_a(), required), with(side_b(), required));
    pump.connect();
    pump.deliver_all();
    pump.assert_joined();
    assert!(agreed(&pump, 0)[0].is_some());
}

fn flags(octets: &[u8]) -> landbridge_proto::wire::Payload {
    notify_with(NotifyType::USE_AGGFRAG, octets)
}

/// "If any requirement flags are not understood or cannot be supported by the receiver, then the receiver SHOULD NOT enable
/// use of AGGFRAG_PAYLOAD"; "the USE_AGGFRAG notification MUST NOT be combined with the USE_TRANSPORT notification."
#[test]
fn what_a_responder_declines() {
    for (offer, expected) in [
        (vec![flags(&[0])], Some(AggfragFlags(0))),
        (vec![flags(&[1])], Some(AggfragFlags(1))),
        (vec![flags(&[2])], Some(AggfragFlags(2))),
        (vec![flags(&[3])], Some(AggfragFlags(3))),
        (vec![flags(&[4])], None),
        (vec![flags(&[0x81])], None),
        (vec![flags(&[])], None),
        (vec![flags(&[0, 0])], None),
        (vec![flags(&[0]), notify(NotifyType::USE_TRANSPORT_MODE)], None),
    ] {
        let mut t = Tester::new(with(side_b(), Some(IPTFS)));
        let payloads = t.init_payloads();
        t.init(&payloads);
        let mut payloads = t.auth_payloads();
        payloads.splice(2..2, offer.clone());
        let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert_eq!(answer.has(NotifyType::USE_AGGFRAG), expected.is_some(), "{offer:?}");
        let pair = t.sad.pairs.values().next().unwrap();
        assert_eq!(pair.aggfrag.as_ref().map(|agreed| agreed.peer), expected, "{offer:?}");
        assert_eq!(pair.mode, Mode::Tunnel);
    }
}

/// An answer that was not asked for, or that demands what we can't do: the peer would send what we don't take.
#[test]
fn what_an_initiator_does_not_accept() {
    for (wish, answered, accepted) in [
        (Some(IPTFS), vec![flags(&[1])], true),
        (Some(IPTFS), vec![flags(&[2])], true),
        (Some(IPTFS), vec![], true),
        (Some(IPTFS), vec![flags(&[8])], false),
        (None, vec![flags(&[0])], false),
        (
            Some(IPTFS),
            vec![flags(&[0]), notify(NotifyType::USE_TRANSPORT_MODE)],
            false,
        ),
    ] {
        let (mut t, asked) = Tester::until_auth(with(side_a(), wish));
        assert_eq!(asked.has(NotifyType::USE_AGGFRAG), wish.is_some());
        let mut payloads = t.auth_answer();
        payloads.splice(2..2, answered.clone());
        t.respond(&asked.header, &payloads);
        assert_eq!(t.sad.pairs.len(), usize::from(accepted), "{answered:?}");
    }
}

/// Another word in the configuration is a rekey: it is negotiated.
#[test]
fn a_reload_that_changes_it_rekeys() {
    use landbridge_proto::policy::change::ChildChange;
    let [old, new] = [None, Some(IPTFS)].map(|iptfs| with(side_a(), iptfs));
    let change = ChildChange::between(&old.children["net"], &new.children["net"]);
    assert_eq!(change, Some(ChildChange::Rekeyed(vec!["iptfs"])));
}
