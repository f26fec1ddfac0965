//! Group B: the critical bit, unknown payloads and notifies.

use crate::ike_pump::{SITE, side_a, side_b};
use crate::peer::messages::*;
use crate::peer::{Sent, Tester};
use crate::table::Level::Must;
use crate::table::{Row, here, out, row, there};
use landbridge_proto::ike::Command;
use landbridge_proto::wire::*;

const WIRE: &str = "proto/tests/wire.rs";
const MATRIX: &str = "proto/tests/matrix";

pub fn rows() -> Vec<Row> {
    vec![
        row(
            ("B1", "RFC 7296 §2.5", Must),
            "an unknown payload without C is skipped, in every exchange",
            "If the critical flag is not set and the payload type is unsupported, that payload MUST be ignored.",
            here!(unknown_payloads_are_skipped_in_every_exchange),
            there(WIRE, "the_critical_bit"),
        ),
        row(
            ("B2", "RFC 7296 §2.5", Must),
            "an unknown payload with C: the whole message is rejected, the type is told, the SA lives on",
            "If the critical flag is set and the payload type is unrecognized, the message MUST be rejected and the response \
             to the IKE request containing that payload MUST include a Notify payload UNSUPPORTED_CRITICAL_PAYLOAD, \
             indicating an unsupported critical payload was included.",
            here!(unknown_critical_payloads_are_named),
            there(MATRIX, "payloads_of_ikev1"),
        ),
        row(
            ("B3", "RFC 7296 §3.2", Must),
            "C on a payload that is known is ignored",
            "MUST be ignored by the recipient if the recipient understands the payload type code.",
            here!(critical_on_known_payloads_is_ignored),
            there(WIRE, "the_critical_bit"),
        ),
        row(
            ("B4", "RFC 7296 §2.5", Must),
            "we never set C",
            "Payloads sent in IKE response messages MUST NOT have the critical flag set.",
            here!(nothing_we_send_is_critical),
            out("what we don't send can't be provoked otherwise than by the messages of the positive test"),
        ),
        row(
            ("B5", "RFC 7296 §3.10.1", Must),
            "an unknown error in a response means failure; in requests, and unknown status anywhere, it is ignored",
            "An implementation receiving a Notify payload with one of these types that it does not recognize in a response \
             MUST assume that the corresponding request has failed entirely.",
            here!(unknown_errors_in_responses_are_failures),
            there(MATRIX, "notifies_beside_the_proof_of_either_side"),
        ),
        row(
            ("B6", "RFC 7296 §3.12", Must),
            "unknown Vendor IDs are ignored",
            "Unfamiliar Vendor IDs MUST be ignored.",
            here!(vendor_ids_are_ignored),
            there(MATRIX, "more_payloads_than_anybody_needs"),
        ),
    ]
}

/// A Child SA beside the first (which `side_b` has room for).
fn another_child(t: &mut Tester) -> Vec<Payload> {
    let mut payloads = t.child_offer(true);
    payloads.push(t.nonce(32));
    payloads.push(ke(KeMethod::CURVE25519, &[9; 32]));
    payloads
}

#[test]
fn unknown_payloads_are_skipped_in_every_exchange() {
    for number in [1, 32, 55, 127, 128, 255] {
        let odd = unknown(number, false);
        let mut t = Tester::new(side_b());
        let mut payloads = t.init_payloads();
        payloads.insert(1, odd.clone());
        t.init(&payloads);
        let mut payloads = t.auth_payloads();
        payloads.insert(0, odd.clone());
        t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert!(t.is_up() && t.pairs() == 1, "{number}");
        let mut payloads = another_child(&mut t);
        payloads.push(odd.clone());
        let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
        assert!(sa_of(&answer.payloads).is_some(), "{number}");
        let answer = t
            .request(ExchangeType::INFORMATIONAL, std::slice::from_ref(&odd))
            .unwrap();
        assert!(answer.payloads.is_empty());
        // In answers.
        let mut t = Tester::new(side_a());
        let asked = t.provoke();
        let mut payloads = t.init_answer(&asked);
        payloads.push(odd.clone());
        t.answer_init(&payloads);
        let asked = t.next_request().unwrap();
        let mut payloads = t.auth_answer();
        payloads.push(odd);
        t.respond(&asked.header, &payloads);
        assert!(t.is_up() && t.pairs() == 1, "{number}");
    }
}

#[test]
fn unknown_critical_payloads_are_named() {
    for number in [1, 32, 55, 127, 128, 255] {
        let odd = unknown(number, true);
        let mut t = Tester::new(side_b());
        let mut payloads = t.init_payloads();
        payloads.push(odd.clone());
        let answer = t.init(&payloads);
        let told = answer
            .notify(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD)
            .expect("it is told");
        assert_eq!(told.data, [number]);
        assert!(t.status().is_empty());
        for exchange in [ExchangeType::CREATE_CHILD_SA, ExchangeType::INFORMATIONAL] {
            let mut t = Tester::up(side_b());
            // Whatever else stands in it is not done.
            let answer = t.request(exchange, &[delete_children(&[t.esp]), odd.clone()]).unwrap();
            assert_eq!(answer.payloads.len(), 1);
            assert_eq!(answer.all_notifies()[0].data, [number]);
            assert!(t.is_up() && t.pairs() == 1);
            t.assert_alive();
        }
    }
}

#[test]
fn critical_on_known_payloads_is_ignored() {
    let mut t = Tester::new(side_b());
    let payloads = t.init_payloads();
    let mut datagram = t.init_datagram(&payloads);
    set_critical(&mut datagram[28..]);
    t.init_with(&datagram);
    let (first, mut chain) = encode_payloads(&t.auth_payloads());
    assert_eq!(set_critical(&mut chain), 5);
    t.request_chain(ExchangeType::IKE_AUTH, first, &chain).unwrap();
    assert!(t.is_up() && t.pairs() == 1);
}

/// Sets C on every payload of a chain; says how many.
fn set_critical(chain: &mut [u8]) -> usize {
    let (mut at, mut count) = (0, 0);
    while at < chain.len() {
        chain[at + 1] |= 0x80;
        at += usize::from(u16::from_be_bytes([chain[at + 2], chain[at + 3]]));
        count += 1;
    }
    count
}

/// The payload headers of a message: all C bits and RESERVED bits are zero.
fn assert_plain_headers(t: &Tester, sent: &Sent) {
    let outer = decode_outer(&sent.octets).unwrap();
    let chain = match outer.body {
        OuterBody::Plain { payloads, .. } => payloads.to_vec(),
        _ => t.sa.protection.as_ref().unwrap().open(&outer).unwrap().payloads,
    };
    let mut at = 0;
    while at < chain.len() {
        assert_eq!(chain[at + 1], 0, "{:?}", outer.header);
        at += usize::from(u16::from_be_bytes([chain[at + 2], chain[at + 3]]));
    }
    if !matches!(outer.body, OuterBody::Plain { .. }) {
        assert_eq!(sent.octets[29], 0);
    }
}

#[test]
fn nothing_we_send_is_critical() {
    let mut t = Tester::new(side_b());
    let payloads = t.init_payloads();
    let datagram = t.init_datagram(&payloads);
    t.init_with(&datagram);
    let response = Sent {
        path: t.path,
        octets: t.sa.response.clone(),
    };
    assert_plain_headers(&t, &response);
    // Answers of all kinds, good and bad.
    let auth = t.auth_payloads();
    let child = another_child(&mut t);
    for (exchange, payloads) in [
        (ExchangeType::IKE_AUTH, auth),
        (ExchangeType::CREATE_CHILD_SA, child),
        (ExchangeType::CREATE_CHILD_SA, vec![unknown(99, true)]),
        (ExchangeType::INFORMATIONAL, vec![]),
        (ExchangeType::INFORMATIONAL, vec![delete_children(&[t.esp])]),
    ] {
        let header = t.sa.header(exchange, false, t.sa.next);
        let datagram = t.seal(&header, &payloads).remove(0);
        t.sa.next += 1;
        let sent = t.ask(&datagram);
        assert!(!sent.is_empty());
        sent.iter().for_each(|sent| assert_plain_headers(&t, sent));
    }
    // Requests.
    let mut t = Tester::up_as_responder(side_a());
    t.command(Command::RekeyChild {
        connection: SITE.into(),
        child: None,
    });
    let sent = t.out.pop_front().unwrap();
    assert_plain_headers(&t, &sent);
}

#[test]
fn unknown_errors_in_responses_are_failures() {
    for number in [2, 8191, 16383] {
        let odd = notify(NotifyType(number));
        let (mut t, asked) = Tester::until_auth(side_a());
        t.respond(&asked.header, std::slice::from_ref(&odd));
        assert!(!t.is_up() && t.pairs() == 0, "{number}");
        let mut t = Tester::up_as_responder(side_a());
        t.command(Command::RekeyChild {
            connection: SITE.into(),
            child: None,
        });
        let asked = t.next_request().unwrap();
        t.respond(&asked.header, std::slice::from_ref(&odd));
        assert!(t.is_up() && t.pairs() == 1, "the rekey failed, the old pair lives on");
        assert!(
            t.failures().iter().any(|told| told.contains("refuses")),
            "{:?}",
            t.failures()
        );
        // Errors in requests are ignored.
        let answer = t
            .request(ExchangeType::INFORMATIONAL, &[odd, notify(NotifyType(40000))])
            .unwrap();
        assert!(answer.payloads.is_empty());
    }
}

#[test]
fn vendor_ids_are_ignored() {
    let mut t = Tester::new(side_b());
    let mut payloads = t.init_payloads();
    payloads.extend((0..20).map(|number| Payload::VendorId(vec![number; 3 * usize::from(number)])));
    t.init(&payloads);
    let mut payloads = t.auth_payloads();
    payloads.extend((0..20).map(|number| Payload::VendorId(vec![number; 3 * usize::from(number)])));
    t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(t.is_up() && t.pairs() == 1);
}
