//! Group H: traffic selectors.

use crate::ike_pump::{SITE, side_a, side_b};
use crate::peer::Tester;
use crate::peer::messages::*;
use crate::table::Level::{Must, Should};
use crate::table::{Row, here, row, there};
use landbridge_proto::ike::Command;
use landbridge_proto::policy::connection::Connection;
use landbridge_proto::policy::selector;
use landbridge_proto::wire::*;

const WIRE: &str = "proto/tests/wire.rs";
const MATRIX: &str = "proto/tests/matrix";
const LOOPBACK: &str = "tests/data_loopback";

pub fn rows() -> Vec<Row> {
    vec![
        row(
            ("H1", "RFC 7296 §2.9", Must),
            "the answer is a subset of the offer, with the initiator's first choices if they are allowed",
            "o If the responder's policy allows it to accept the first selector of TSi and TSr, then the responder MUST narrow \
             the Traffic Selectors to a subset that includes the initiator's first choices.",
            here!(offers_are_narrowed),
            there("proto/tests/policy.rs", "h1_first_selectors_decide"),
        ),
        row(
            ("H2", "RFC 7296 §1.3.1", Must),
            "nothing in common: TS_UNACCEPTABLE, and the IKE SA lives on",
            "A failed attempt to create a Child SA SHOULD NOT tear down the IKE SA: there is no reason to lose the work done \
             to set up the IKE SA.",
            there("proto/tests/endpoint.rs", "selectors_are_narrowed_or_refused"),
            here!(nothing_in_common),
        ),
        row(
            ("H3", "RFC 7296 §2.9.2", Must),
            "an answer wider than the offer, or with the sides changed over, makes no Child SA",
            "When the initiator attempts to rekey the Child SA, the proposed Traffic Selectors SHOULD be either the same as, \
             or a superset of, the Traffic Selectors used in the old Child SA.",
            here!(an_answer_that_narrows_is_taken),
            here!(an_answer_that_widens_makes_no_child),
        ),
        row(
            ("H4", "RFC 7296 §2.9.2", Must),
            "a rekey does not narrow what is in use",
            "The responder MUST NOT narrow down the Traffic Selectors narrower than the scope currently in use.",
            here!(a_rekey_keeps_the_scope),
            there("proto/tests/policy.rs", "h4_subset_by_union"),
        ),
        row(
            ("H5", "RFC 7296 §2.9", Should),
            "ADDITIONAL_TS_POSSIBLE and SINGLE_PAIR_REQUIRED are understood",
            "Because of this, if only some parts of the TSi and TSr proposed by the initiator are acceptable to the responder, \
             responders SHOULD narrow the selectors to an acceptable subset rather than use SINGLE_PAIR_REQUIRED.",
            there("proto/tests/ike_parts.rs", "what_was_narrowed_away_is_asked_for"),
            here!(a_single_pair_is_required),
        ),
        row(
            ("H6", "RFC 7296 §3.13.1", Must),
            "selectors are checked: order, lengths, counts, ports",
            "Systems working with [IPSECARCH] that wish to indicate \"OPAQUE\" ports, but not \"ANY\" ports, MUST set the \
             start port to 65535 and the end port to 0.",
            there(WIRE, "traffic_selectors"),
            there(MATRIX, "selectors_octet_by_octet"),
        ),
        row(
            ("H7", "RFC 7296 §2.9", Must),
            "a selector of an unknown type is passed over",
            "If the type of Traffic Selector proposed is unknown, the responder ignores that Traffic Selector, so that the unknown type \
             is not returned in the narrowed set.",
            here!(unknown_types_of_selectors),
            there(WIRE, "traffic_selectors"),
        ),
        row(
            ("H8", "RFC 4301 §5.2", Must),
            "an inner packet outside the selectors is dropped and counted",
            "If an IPsec system receives an inbound packet on an SA and the packet's header fields are not consistent with the \
             selectors for the SA, it MUST discard the packet.",
            there(
                "tests/netns/hostile.rs",
                "inner_packets_outside_the_selectors_are_dropped_and_counted",
            ),
            there(
                LOOPBACK,
                "spoofed_sources_and_destinations_outside_the_selectors_are_dropped_and_counted",
            ),
        ),
        row(
            ("H9", "RFC 7296 §1.3.1", Must),
            "transport mode where both want it; otherwise the answer does not confirm it",
            "If the request is accepted, the response MUST also include a notification of type USE_TRANSPORT_MODE.",
            there("proto/tests/ike_transport.rs", "both_want_it"),
            there("proto/tests/ike_transport.rs", "one_wants_it"),
        ),
    ]
}

/// TSi and TSr of a message.
fn selectors(payloads: &[Payload]) -> (Vec<TrafficSelector>, Vec<TrafficSelector>) {
    let mut found = (vec![], vec![]);
    for payload in payloads {
        match payload {
            Payload::TsI(list) => found.0.clone_from(list),
            Payload::TsR(list) => found.1.clone_from(list),
            _ => {}
        }
    }
    found
}

fn parse(list: &[&str]) -> Vec<TrafficSelector> {
    list.iter().map(|text| selector::parse(text).unwrap()).collect()
}

/// The first Child SA with these selectors: the answer's.
fn offered(i: &[&str], r: &[&str]) -> (Vec<TrafficSelector>, Vec<TrafficSelector>, Tester) {
    let mut t = Tester::new(side_b());
    let payloads = t.init_payloads();
    t.init(&payloads);
    let mut payloads = t.auth_payloads();
    payloads.truncate(3);
    payloads.extend([tsi(i), tsr(r)]);
    let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    let (i, r) = selectors(&answer.payloads);
    (i, r, t)
}

#[test]
fn offers_are_narrowed() {
    let cases: [(&[&str], &[&str], &str, &str); 4] = [
        (&["0.0.0.0/0"], &["0.0.0.0/0"], "10.1.0.0/16", "10.2.0.0/16"),
        (&["10.1.7.0/24"], &["10.2.0.0/16"], "10.1.7.0/24", "10.2.0.0/16"),
        (
            &["10.1.7.1/32", "10.1.0.0/16"],
            &["10.2.9.9/32", "10.2.0.0/16"],
            "10.1.0.0/16",
            "10.2.0.0/16",
        ),
        (&["10.0.0.0/8", "::/0"], &["10.2.0.0/15"], "10.1.0.0/16", "10.2.0.0/16"),
    ];
    for (offer_i, offer_r, want_i, want_r) in cases {
        let (i, r, t) = offered(offer_i, offer_r);
        assert_eq!(t.pairs(), 1);
        assert!(selector::is_subset(&i, &parse(offer_i)) && selector::is_subset(&r, &parse(offer_r)));
        assert!(
            selector::is_subset(&parse(&[want_i]), &i) && selector::is_subset(&i, &parse(&[want_i])),
            "{i:?}"
        );
        assert!(
            selector::is_subset(&parse(&[want_r]), &r) && selector::is_subset(&r, &parse(&[want_r])),
            "{r:?}"
        );
        let entry = t.sad.pairs.values().next().unwrap();
        assert_eq!(
            (&entry.remote_ts, &entry.local_ts),
            (&i, &r),
            "what is enforced is what was answered"
        );
    }
}

#[test]
fn nothing_in_common() {
    for (i, r) in [
        ("10.9.0.0/16", "10.2.0.0/16"),
        ("10.1.0.0/16", "10.9.0.0/16"),
        ("10.2.0.0/16", "10.1.0.0/16"),
        ("::/0", "::/0"),
    ] {
        let mut t = Tester::up(side_b());
        let mut payloads = t.child_offer(true);
        payloads.truncate(1);
        payloads.extend([tsi(&[i]), tsr(&[r]), t.nonce(32), ke(KeMethod::CURVE25519, &[9; 32])]);
        let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
        assert_eq!(answer.notifies(), [NotifyType::TS_UNACCEPTABLE], "{i} {r}");
        assert!(t.is_up() && t.pairs() == 1);
        t.assert_alive();
    }
}

/// The DUT's first Child SA, answered with these selectors.
fn answered(i: &[&str], r: &[&str]) -> Tester {
    let (mut t, asked) = Tester::until_auth(side_a());
    let mut payloads = t.auth_answer();
    payloads.truncate(3);
    payloads.extend([tsi(i), tsr(r)]);
    t.respond(&asked.header, &payloads);
    assert!(t.is_up());
    t
}

#[test]
fn an_answer_that_narrows_is_taken() {
    let t = answered(&["10.1.7.0/24", "10.1.9.0/24"], &["10.2.0.0/17"]);
    assert_eq!(t.pairs(), 1);
    let entry = t.sad.pairs.values().next().unwrap();
    assert_eq!(entry.local_ts, parse(&["10.1.7.0/24", "10.1.9.0/24"]));
}

#[test]
fn an_answer_that_widens_makes_no_child() {
    let wrong: [(&[&str], &[&str]); 5] = [
        (&["10.0.0.0/8"], &["10.2.0.0/16"]),
        (&["10.1.0.0/16"], &["0.0.0.0/0"]),
        (&["10.2.0.0/16"], &["10.1.0.0/16"]),
        (&["10.1.0.0/16", "10.9.0.0/16"], &["10.2.0.0/16"]),
        (&["10.1.0.0/16"], &["::/0"]),
    ];
    for (i, r) in wrong {
        let mut t = answered(i, r);
        assert_eq!(t.pairs(), 0, "{i:?} {r:?}");
        let asked = t.next_request().unwrap();
        assert_eq!(deleted(&asked.payloads).len(), 1);
    }
    // In a rekey the offer is what is in use: what the configuration would allow beyond that was not offered.
    let mut t = answered(&["10.1.7.0/24"], &["10.2.0.0/16"]);
    t.command(Command::RekeyChild {
        connection: SITE.into(),
        child: None,
    });
    let asked = t.next_request().unwrap();
    assert_eq!(
        selectors(&asked.payloads),
        (parse(&["10.1.7.0/24"]), parse(&["10.2.0.0/16"]))
    );
    let mut key = t.init_payloads();
    let mut payloads = t.child_offer(true);
    payloads.extend([t.nonce(32), key.remove(1)]);
    t.respond(&asked.header, &payloads);
    assert_eq!(t.pairs(), 1, "the old pair lives on alone");
    let entry = t.sad.pairs.values().next().unwrap();
    assert_eq!(entry.local_ts, parse(&["10.1.7.0/24"]));
}

#[test]
fn a_rekey_keeps_the_scope() {
    let (i, r, mut t) = offered(&["10.1.7.0/24"], &["10.2.0.0/16"]);
    for (offer_i, offer_r) in [
        (&["10.1.7.0/24"][..], &["10.2.0.0/16"][..]),
        (&["10.1.0.0/16"], &["0.0.0.0/0"]),
    ] {
        let mut key = t.init_payloads();
        let mut payloads = vec![notify_esp(NotifyType::REKEY_SA, t.esp)];
        let offer = t.child_offer(true);
        payloads.extend(offer.into_iter().take(1));
        payloads.extend([tsi(offer_i), tsr(offer_r), t.nonce(32), key.remove(1)]);
        let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
        let (new_i, new_r) = selectors(&answer.payloads);
        assert!(
            selector::is_subset(&i, &new_i) && selector::is_subset(&r, &new_r),
            "{new_i:?} {new_r:?}"
        );
        assert!(selector::is_subset(&new_i, &parse(offer_i)) && selector::is_subset(&new_r, &parse(offer_r)));
    }
}

/// "The requestor is expected to respond by requesting an SA for only the specific traffic it is trying to forward."
#[test]
fn a_single_pair_is_required() {
    let two = |mut connection: Connection| {
        let net = std::sync::Arc::make_mut(connection.children.get_mut("net").unwrap());
        net.remote_ts.push(selector::parse("10.3.0.0/16").unwrap());
        connection
    };
    for in_auth in [true, false] {
        let (mut t, asked) = Tester::until_auth(two(side_a()));
        let mut payloads = t.auth_answer();
        payloads.truncate(2);
        payloads.push(notify(if in_auth {
            NotifyType::SINGLE_PAIR_REQUIRED
        } else {
            NotifyType::TS_UNACCEPTABLE
        }));
        t.respond(&asked.header, &payloads);
        assert!(t.is_up() && t.pairs() == 0);
        if !in_auth {
            t.pass(std::time::Duration::from_secs(60));
            let asked = t.next_request().unwrap();
            // It was sent several times.
            t.out.clear();
            assert_eq!(selectors(&asked.payloads).1.len(), 2);
            t.refuse(&asked.header, NotifyType::SINGLE_PAIR_REQUIRED);
        }
        // At once, with one of each; then the other.
        for network in ["10.2.0.0/16", "10.3.0.0/16"] {
            let asked = t.next_request().unwrap();
            assert_eq!(asked.header.exchange, ExchangeType::CREATE_CHILD_SA);
            let (i, r) = selectors(&asked.payloads);
            assert_eq!((i.len(), r.clone()), (1, vec![selector::parse(network).unwrap()]));
            t.refuse(&asked.header, NotifyType::TS_UNACCEPTABLE);
        }
        assert!(t.out.is_empty(), "it does not go on for ever");
        assert!(t.is_up());
    }
    // A child of one pair only: nothing less can be asked for.
    let (mut t, asked) = Tester::until_auth(side_a());
    let mut payloads = t.auth_answer();
    payloads.truncate(2);
    payloads.push(notify(NotifyType::SINGLE_PAIR_REQUIRED));
    t.respond(&asked.header, &payloads);
    assert!(t.out.is_empty() && t.is_up());
    assert!(t.failures().iter().any(|told| told.contains("SINGLE_PAIR_REQUIRED")));
}

#[test]
fn unknown_types_of_selectors() {
    let label = TrafficSelector::Unknown {
        ts_type: 10,
        protocol: 0,
        body: b"a security label".to_vec(),
    };
    // Beside others it is left out of the answer; alone it leaves nothing.
    for alone in [false, true] {
        let mut t = Tester::new(side_b());
        let payloads = t.init_payloads();
        t.init(&payloads);
        let mut payloads = t.auth_payloads();
        for payload in &mut payloads {
            if let Payload::TsI(list) | Payload::TsR(list) = payload {
                if alone {
                    list.clear();
                }
                list.insert(0, label.clone());
            }
        }
        let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert!(t.is_up());
        assert_eq!(t.pairs(), usize::from(!alone));
        assert_eq!(answer.has(NotifyType::TS_UNACCEPTABLE), alone);
        let (i, r) = selectors(&answer.payloads);
        assert!(!i.contains(&label) && !r.contains(&label));
    }
}
