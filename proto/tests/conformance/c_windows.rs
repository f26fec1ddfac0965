//! Group C: message IDs, windows, retransmission.

use crate::ike_pump::{SITE, side_a, side_b};
use crate::peer::Tester;
use crate::peer::messages::*;
use crate::table::Level::{Must, Practice};
use crate::table::{Row, here, row, there};
use landbridge_proto::ike::Command;
use landbridge_proto::wire::*;
use std::time::Duration;

const WINDOW: &str = "proto/src/ike/window.rs";
const ENDPOINT: &str = "proto/tests/endpoint.rs";
const MATRIX: &str = "proto/tests/matrix";

pub fn rows() -> Vec<Row> {
    vec![
        row(
            ("C1", "RFC 7296 §2.2", Must),
            "the first request of each direction has ID 0; IKE_SA_INIT always, IKE_AUTH 1",
            "The Message ID is a 32-bit quantity, which is zero for the IKE_SA_INIT messages (including retries of the message due \
             to responses such as COOKIE and INVALID_KE_PAYLOAD), and incremented for each subsequent exchange.",
            here!(the_first_request_of_each_direction_has_id_0),
            there(ENDPOINT, "cookies_and_another_group"),
        ),
        row(
            ("C2", "RFC 7296 §2.1", Must),
            "a retransmission is the same, bit for bit",
            "A retransmission from the initiator MUST be bitwise identical to the original request.",
            here!(a_retransmission_is_the_same_bit_for_bit),
            there(WINDOW, "retransmissions_are_identical_grow_and_end"),
        ),
        row(
            ("C3", "RFC 7296 §2.1", Must),
            "a response is sent again only when its request is; nothing else happens then",
            "The responder MUST never retransmit a response unless it receives a retransmission of the request.",
            here!(a_repeated_request_gets_the_same_answer_and_no_more),
            there(ENDPOINT, "repeated_requests_get_the_same_answer"),
        ),
        row(
            ("C4", "RFC 7296 §2.4", Must),
            "retransmission until there is an answer or an end, at growing intervals",
            "To be a good network citizen, retransmission times MUST increase exponentially to avoid flooding the network \
             and making an existing congestion situation worse.",
            there(WINDOW, "retransmissions_are_identical_grow_and_end"),
            there(ENDPOINT, "a_dead_peer_is_found_by_retransmission_alone"),
        ),
        row(
            ("C5", "RFC 7296 §2.1", Practice),
            "a repeated IKE_SA_INIT is known by the whole message, not by its SPI",
            "practice: two initiators behind one address may choose the same SPI",
            here!(two_initiators_with_one_spi),
            there(
                "proto/tests/ike_limits.rs",
                "a_copied_first_message_from_elsewhere_draws_nothing",
            ),
        ),
        row(
            ("C6", "RFC 7296 §2.3", Must),
            "one request at a time, as long as the peer takes no more",
            "An IKE endpoint MUST wait for a response to each of its messages before sending a subsequent message unless it \
             has received a SET_WINDOW_SIZE Notify message from its peer informing it that the peer is prepared to maintain \
             state for multiple outstanding messages in order to allow greater throughput.",
            here!(one_request_at_a_time),
            there(MATRIX, "rekeying_a_child"),
        ),
        row(
            ("C7", "RFC 7296 §2.3", Must),
            "a request is taken while our own is not answered",
            "An IKE endpoint MUST be prepared to accept and process a request while it has a request outstanding in order to \
             avoid a deadlock in this situation.",
            there(MATRIX, "rekeying_the_ike_sa"),
            there("proto/tests/ike_rekey_ike.rs", "crossing_rekeys_in_any_order"),
        ),
        row(
            ("C8", "RFC 7296 §2.3", Must),
            "the peer's window is not exceeded, whatever it announces",
            "An IKE endpoint MUST NOT exceed the peer's stated window size for transmitted IKE requests.",
            here!(a_window_of_four_is_not_exceeded),
            there(MATRIX, "notifies_of_all_lengths_in_all_exchanges"),
        ),
        row(
            ("C9", "RFC 7296 §2.3", Must),
            "a request outside the window is not answered and changes nothing",
            "This Notify message MUST NOT be sent in a response; the invalid request MUST NOT be acknowledged.",
            there(MATRIX, "established_as_initiator"),
            there(MATRIX, "established_as_responder"),
        ),
        row(
            ("C10", "RFC 7296 §2.1", Practice),
            "a response never asked for, or a second one, is ignored",
            "practice: a request is remembered until its response comes, and no longer",
            here!(a_second_response_is_ignored),
            there(MATRIX, "closing"),
        ),
        row(
            ("C11", "RFC 7296 §3.1", Must),
            "a response is never answered",
            "An IKE endpoint MUST NOT generate a response to a message that is marked as being a response (with one \
             exception; see Section 2.21.2).",
            there(MATRIX, "responses_are_never_answered"),
            there(MATRIX, "established_as_responder"),
        ),
        row(
            ("C12", "RFC 7296 §2.2", Must),
            "message IDs don't wrap",
            "In the unlikely event that Message IDs grow too large to fit in 32 bits, the IKE SA MUST be closed or rekeyed.",
            there(WINDOW, "message_ids_do_not_wrap"),
            there(WINDOW, "the_last_request_there_can_be_is_taken_once"),
        ),
        row(
            ("C13", "RFC 7296 §2.18", Must),
            "after a rekey both counters begin at 0",
            "The new IKE SA MUST reset its message counters to 0.",
            here!(a_rekeyed_sa_counts_from_0),
            there("proto/tests/ike_rekey_ike.rs", "again_and_again"),
        ),
        row(
            ("C14", "RFC 7296 §2.4", Practice),
            "what fails its integrity check moves nothing",
            "practice: before the ICV verifies only counters move",
            there(ENDPOINT, "forged_messages_change_nothing"),
            there(MATRIX, "auth_sent"),
        ),
    ]
}

#[test]
fn the_first_request_of_each_direction_has_id_0() {
    let mut t = Tester::new(side_a());
    let asked = t.provoke();
    assert_eq!(asked.header.message_id, 0);
    let payloads = t.init_answer(&asked);
    t.answer_init(&payloads);
    let asked = t.next_request().unwrap();
    assert_eq!(
        (asked.header.exchange, asked.header.message_id),
        (ExchangeType::IKE_AUTH, 1)
    );
    let payloads = t.auth_answer();
    t.respond(&asked.header, &payloads);
    // T's first request by this SA is 0, though the DUT's next is 2.
    assert_eq!(t.sa.next, 0);
    t.assert_alive();
    // As responder: the DUT's first.
    let mut t = Tester::up(side_b());
    t.command(Command::Down {
        connection: SITE.into(),
        child: None,
    });
    assert_eq!(t.next_request().unwrap().header.message_id, 0);
}

#[test]
fn a_retransmission_is_the_same_bit_for_bit() {
    let (mut t, asked) = Tester::until_auth(side_a());
    assert_eq!(asked.header.message_id, 1);
    let mut seen = Vec::new();
    for _ in 0..3 {
        t.tick();
        seen.push(t.out.pop_front().unwrap().octets);
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[1], seen[2]);
    // And it is the request that was sent first.
    let again = decode_outer(&seen[0]).unwrap();
    let body = t.sa.protection.as_ref().unwrap().open(&again).unwrap();
    assert_eq!(decode_payloads(body.first, &body.payloads).unwrap(), asked.payloads);
}

#[test]
fn a_repeated_request_gets_the_same_answer_and_no_more() {
    let mut t = Tester::up(side_b());
    let mut child = t.child_offer(true);
    child.push(t.nonce(32));
    child.push(ke(KeMethod::CURVE25519, &[9; 32]));
    let delete = vec![delete_children(&[t.esp])];
    for (exchange, payloads, pairs) in [
        (ExchangeType::CREATE_CHILD_SA, child, 2),
        (ExchangeType::INFORMATIONAL, delete, 1),
    ] {
        let header = t.sa.header(exchange, false, t.sa.next);
        let datagram = t.seal(&header, &payloads).remove(0);
        t.sa.next += 1;
        let first = t.ask(&datagram);
        assert_eq!(t.pairs(), pairs);
        let state = t.state();
        for _ in 0..3 {
            let again = t.ask(&datagram);
            assert_eq!(again.len(), 1);
            assert_eq!(again[0].octets, first[0].octets);
            assert_eq!(t.state(), state);
        }
        // The same payloads sealed anew under the same ID are no repetition: dropped.
        let other = t.seal(&header, &payloads).remove(0);
        assert!(t.ask(&other).is_empty());
        assert_eq!(t.state(), state);
    }
    // By itself it never sends it again.
    t.pass(Duration::from_secs(300));
    assert!(t.out.iter().all(|sent| !sent.header().flags.response));
}

#[test]
fn two_initiators_with_one_spi() {
    let mut t = Tester::new(side_b());
    let first = t.init_payloads();
    let second = t.init_payloads();
    let (first, second) = (t.init_datagram(&first), t.init_datagram(&second));
    assert_eq!(first[..8], second[..8]);
    let a = t.ask(&first).remove(0);
    let b = t.ask(&second).remove(0);
    assert_ne!(a.header().spi_r, b.header().spi_r);
    assert_eq!(t.status().len(), 2);
    assert_eq!(t.ask(&first)[0].octets, a.octets);
    assert_eq!(t.ask(&second)[0].octets, b.octets);
    assert_eq!(t.status().len(), 2);
}

#[test]
fn one_request_at_a_time() {
    let mut t = Tester::up_as_responder(side_a());
    t.command(Command::RekeyChild {
        connection: SITE.into(),
        child: None,
    });
    t.command(Command::Down {
        connection: SITE.into(),
        child: None,
    });
    assert_eq!(t.out.len(), 1);
    let asked = t.next_request().unwrap();
    t.refuse(&asked.header, NotifyType::TEMPORARY_FAILURE);
    let next = t.next_request().unwrap();
    assert_eq!(next.header.message_id, asked.header.message_id + 1);
    assert_eq!(next.payloads, [delete_ike()]);
}

#[test]
fn a_window_of_four_is_not_exceeded() {
    for window in [1_u32, 4, 0, u32::MAX] {
        let (mut t, asked) = Tester::until_auth(side_a());
        let mut payloads = t.auth_answer();
        payloads.push(notify_with(NotifyType::SET_WINDOW_SIZE, &window.to_be_bytes()));
        t.respond(&asked.header, &payloads);
        assert!(t.is_up());
        t.command(Command::RekeyChild {
            connection: SITE.into(),
            child: None,
        });
        t.command(Command::Down {
            connection: SITE.into(),
            child: None,
        });
        // One at a time never exceeds any window.
        assert_eq!(t.out.len(), 1, "{window}");
    }
}

#[test]
fn a_second_response_is_ignored() {
    let (mut t, asked) = Tester::until_auth(side_a());
    let payloads = t.auth_answer();
    let header = t.sa.header(ExchangeType::IKE_AUTH, true, asked.header.message_id);
    let datagram = t.seal(&header, &payloads).remove(0);
    t.send(&datagram);
    assert!(t.is_up());
    let state = t.state();
    assert!(t.ask(&datagram).is_empty());
    let refusal = t.seal(&header, &[notify(NotifyType::AUTHENTICATION_FAILED)]).remove(0);
    assert!(t.ask(&refusal).is_empty());
    assert_eq!(t.state(), state);
}

#[test]
fn a_rekeyed_sa_counts_from_0() {
    for mut t in [Tester::up(side_b()), Tester::up_as_responder(side_a())] {
        t.assert_alive();
        t.assert_alive();
        t.rekey_ike();
        assert_eq!(t.sa.next, 0);
        t.assert_alive();
        t.command(Command::Down {
            connection: SITE.into(),
            child: Some("net".into()),
        });
        assert_eq!(t.next_request().unwrap().header.message_id, 0);
    }
}
