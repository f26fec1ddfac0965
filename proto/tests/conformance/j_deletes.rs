//! Group J: deletes, INITIAL_CONTACT, liveness.

use crate::ike_pump::{SITE, side_a, side_b};
use crate::peer::messages::*;
use crate::peer::{Sa, Tester};
use crate::table::Level::{Must, Practice, Should};
use crate::table::{Row, here, row, there};
use landbridge_proto::ike::Command;
use landbridge_proto::wire::*;
use std::time::Duration;

const MATRIX: &str = "proto/tests/matrix";
const PEER: &str = "proto/tests/ike_peer.rs";

pub fn rows() -> Vec<Row> {
    vec![
        row(
            ("J1", "RFC 7296 §1.4.1", Must),
            "a Delete lists the sender's inbound SPIs, the answer the other half's",
            "When an SA is closed, both members of the pair MUST be closed (that is, deleted).",
            here!(each_lists_its_own_inbound_spis),
            there(MATRIX, "deletes_of_all_kinds"),
        ),
        row(
            ("J2", "RFC 7296 §1.4.1", Must),
            "crossing deletes: no Delete in the answers, both SAs gone",
            "In that case, the responses MUST NOT include Delete payloads for the deleted SAs, since that would result in \
             duplicate deletion and could in theory delete the wrong SA.",
            here!(crossing_deletes),
            there(
                "proto/tests/ike_child.rs",
                "children_are_deleted_by_either_end_and_by_both",
            ),
        ),
        row(
            ("J3", "RFC 7296 §1.4.1", Practice),
            "the IKE SA's Delete is answered empty, its children go with it",
            "practice: Deleting an IKE SA implicitly closes any remaining Child SAs negotiated under it.",
            here!(the_ike_sa_goes_with_its_children),
            there(MATRIX, "deletes_of_all_kinds"),
        ),
        row(
            ("J4", "RFC 7296 §3.11", Must),
            "a Delete payload has one protocol, SPIs of its size, and as many as it says",
            "It MUST be zero for IKE (SPI is in message header) or four for AH and ESP.",
            there(MATRIX, "deletes_of_all_kinds"),
            there("proto/tests/wire.rs", "delete_payloads"),
        ),
        row(
            ("J5", "RFC 7296 §1.4", Must),
            "every INFORMATIONAL request is answered, an empty one empty",
            "The recipient of an INFORMATIONAL exchange request MUST send some response; otherwise, the sender will assume the \
             message was lost in the network and will retransmit it.",
            there(MATRIX, "established_as_responder"),
            there(MATRIX, "notifies_of_all_lengths_in_all_exchanges"),
        ),
        row(
            ("J6", "RFC 7296 §2.4", Must),
            "a peer is dead only when it does not answer, never because somebody says so",
            "Since IKE is designed to operate in spite of DoS attacks from the network, an endpoint MUST NOT conclude that the \
             other endpoint has failed based on any routing information (e.g., ICMP messages) or IKE messages that arrive \
             without cryptographic protection (e.g., Notify messages complaining about unknown SPIs).",
            there(
                "proto/tests/endpoint.rs",
                "a_dead_peer_is_found_by_retransmission_alone",
            ),
            here!(unprotected_complaints_change_nothing),
        ),
        row(
            ("J7", "RFC 7296 §2.4", Practice),
            "no liveness check while something comes in",
            "practice: if no cryptographically protected messages have been received recently, a liveness check is needed",
            there(PEER, "no_liveness_check_while_traffic_comes_in"),
            there(MATRIX, "asking_for_liveness"),
        ),
        row(
            ("J8", "RFC 7296 §2.4", Must),
            "INITIAL_CONTACT in the first IKE_AUTH ends the peer's other SAs, after authentication, and nowhere else",
            "The INITIAL_CONTACT notification, if sent, MUST be in the first IKE_AUTH request or response, not as a separate \
             exchange afterwards; receiving parties MAY ignore it in other messages.",
            here!(initial_contact_ends_the_older_sa),
            here!(initial_contact_elsewhere_is_nothing),
        ),
        row(
            ("J9", "RFC 7296 §2.4", Should),
            "a clean stop deletes; a restart says INITIAL_CONTACT",
            "In this case, an IKE endpoint SHOULD send a Delete payload indicating that it has closed the IKE SA unless the \
             other endpoint is no longer responding.",
            there("proto/tests/endpoint.rs", "shutdown_tells_the_peer"),
            there("tests/netns/lifecycle.rs", "killed_and_started_again"),
        ),
        row(
            ("J10", "RFC 7296 §2.4", Must),
            "a Delete is sent for what we end at its lifetime",
            "If an IKE endpoint chooses to delete Child SAs, it MUST send Delete payloads to the other end notifying it of the \
             deletion.",
            there("proto/tests/ike_child.rs", "a_child_that_is_not_rekeyed_ends"),
            there("proto/tests/ike_child.rs", "limits_by_traffic"),
        ),
    ]
}

#[test]
fn each_lists_its_own_inbound_spis() {
    // T deletes: the DUT answers with its half.
    let mut t = Tester::up(side_b());
    let inbound = t.sad.pairs.values().next().unwrap().inbound.spi;
    let answer = t
        .request(ExchangeType::INFORMATIONAL, &[delete_children(&[t.esp])])
        .unwrap();
    assert_eq!(deleted(&answer.payloads), [inbound]);
    assert_eq!(t.pairs(), 0);
    t.assert_alive();
    // The DUT deletes.
    let mut t = Tester::up(side_b());
    let inbound = t.sad.pairs.values().next().unwrap().inbound.spi;
    t.command(Command::Down {
        connection: SITE.into(),
        child: Some("net".into()),
    });
    let asked = t.next_request().unwrap();
    assert_eq!(deleted(&asked.payloads), [inbound]);
    t.respond(&asked.header, &[delete_children(&[t.esp])]);
    assert_eq!((t.pairs(), t.dut.spis_in_use()), (0, 0));
}

#[test]
fn crossing_deletes() {
    let mut t = Tester::up(side_b());
    t.command(Command::Down {
        connection: SITE.into(),
        child: Some("net".into()),
    });
    let asked = t.next_request().unwrap();
    let answer = t
        .request(ExchangeType::INFORMATIONAL, &[delete_children(&[t.esp])])
        .unwrap();
    assert!(answer.payloads.is_empty());
    t.respond(&asked.header, &[]);
    assert_eq!((t.pairs(), t.dut.spis_in_use()), (0, 0));
    t.assert_alive();
}

#[test]
fn the_ike_sa_goes_with_its_children() {
    let mut t = Tester::up(side_b());
    let mut key = t.init_payloads();
    let mut payloads = t.child_offer(true);
    payloads.extend([t.nonce(32), key.remove(1)]);
    t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
    assert_eq!(t.pairs(), 2);
    let answer = t.request(ExchangeType::INFORMATIONAL, &[delete_ike()]).unwrap();
    assert!(answer.payloads.is_empty());
    assert_eq!((t.pairs(), t.dut.spis_in_use()), (0, 0));
}

#[test]
fn unprotected_complaints_change_nothing() {
    for mut t in [Tester::up(side_b()), Tester::up_as_responder(side_a())] {
        // The first is followed by a question, and no other for a minute.
        let header = t.sa.header(ExchangeType::INFORMATIONAL, true, 7);
        t.send(&encode_plain(&header, &[notify(NotifyType::INVALID_IKE_SPI)]));
        let asked = t.next_request().unwrap();
        assert_eq!(
            (asked.header.exchange, asked.payloads),
            (ExchangeType::INFORMATIONAL, vec![])
        );
        t.respond(&asked.header, &[]);
        let state = t.state();
        for complaint in [
            NotifyType::INVALID_IKE_SPI,
            NotifyType::INVALID_SPI,
            NotifyType::INVALID_SYNTAX,
            NotifyType::INVALID_MAJOR_VERSION,
            NotifyType::AUTHENTICATION_FAILED,
            NotifyType::INVALID_MESSAGE_ID,
        ] {
            for response in [true, false] {
                for id in [0, 1, 2, t.sa.next] {
                    for exchange in [34, 35, 36, 37] {
                        let header = t.sa.header(ExchangeType(exchange), response, id);
                        let datagram = encode_plain(&header, &[notify(complaint)]);
                        assert!(t.ask(&datagram).is_empty(), "{complaint}");
                        assert_eq!(t.state(), state);
                    }
                }
            }
        }
        t.assert_alive();
    }
}

/// RFC 7296 §1.5: the complaint about an SPI of ESP that comes outside of any IKE SA "should only be used by the recipient as
/// a hint that something might be wrong (because it could easily be forged)", and "the receiving node MUST NOT respond to it".
#[test]
fn a_complaint_about_an_spi_of_esp_is_a_hint() {
    for mut t in [Tester::up(side_b()), Tester::up_as_responder(side_a())] {
        let pair = t.sad.pairs.values().next().unwrap();
        let (known, unknown) = (pair.outbound.spi, pair.outbound.spi ^ 1);
        let complaint = |spi: u32| {
            let mut about = notify(NotifyType::INVALID_SPI);
            if let Payload::Notify(about) = &mut about {
                about.data = spi.to_be_bytes().to_vec();
            }
            let header = Header {
                spi_i: IkeSpi::ZERO,
                spi_r: IkeSpi::ZERO,
                exchange: ExchangeType::INFORMATIONAL,
                flags: Flags {
                    initiator: true,
                    response: false,
                },
                message_id: 0,
            };
            encode_plain(&header, &[about])
        };
        let mut elsewhere = t.path;
        elsewhere.remote.set_ip([203, 0, 113, 77].into());
        t.send_from(elsewhere, &complaint(known));
        t.send(&complaint(unknown));
        assert!(t.out.is_empty(), "not about us");
        for _ in 0..100 {
            t.send(&complaint(known));
        }
        assert_eq!(t.out.len(), 1);
        let asked = t.next_request().unwrap();
        assert_eq!(asked.payloads, vec![]);
        t.respond(&asked.header, &[]);
        t.pass(Duration::from_secs(10));
        t.send(&complaint(known));
        assert!(t.out.is_empty(), "once a minute");
        t.assert_alive();
    }
}

/// A second IKE SA of the same peer, with or without INITIAL_CONTACT; the first SA is returned.
fn second(t: &mut Tester, initial_contact: bool, proven: bool) -> Sa {
    let first = std::mem::replace(&mut t.sa, Sa::new(IkeSpi([8; 8]), IkeSpi::ZERO, true));
    t.pass(Duration::from_secs(10));
    let payloads = t.init_payloads();
    t.init(&payloads);
    let mut payloads = t.auth_payloads();
    if initial_contact {
        payloads.push(notify(NotifyType::INITIAL_CONTACT));
    }
    if !proven {
        payloads[1] = psk_auth(&[0; 32]);
    }
    t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    first
}

#[test]
fn initial_contact_ends_the_older_sa() {
    for (initial_contact, proven, left) in [(true, true, 1), (false, true, 2), (true, false, 1)] {
        let mut t = Tester::up(side_b());
        let first = second(&mut t, initial_contact, proven);
        let up: Vec<_> = t.status().into_iter().filter(|sa| sa.stage == "established").collect();
        assert_eq!(up.len(), left);
        assert_eq!(t.pairs(), left);
        let older_lives = up.iter().any(|sa| sa.spi_i == first.spi_i);
        assert_eq!(older_lives, !(initial_contact && proven));
    }
}

#[test]
fn initial_contact_elsewhere_is_nothing() {
    let mut t = Tester::up(side_b());
    second(&mut t, false, true);
    let state = t.state();
    let answer = t
        .request(ExchangeType::INFORMATIONAL, &[notify(NotifyType::INITIAL_CONTACT)])
        .unwrap();
    assert!(answer.payloads.is_empty());
    assert_eq!(t.state(), state);
    let mut key = t.init_payloads();
    let mut payloads = t.child_offer(true);
    payloads.extend([t.nonce(32), key.remove(1), notify(NotifyType::INITIAL_CONTACT)]);
    t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
    assert_eq!(t.status().iter().filter(|sa| sa.stage == "established").count(), 2);
    // In IKE_SA_INIT nobody is anybody yet.
    t.sa = Sa::new(IkeSpi([9; 8]), IkeSpi::ZERO, true);
    let mut payloads = t.init_payloads();
    payloads.push(notify(NotifyType::INITIAL_CONTACT));
    t.init(&payloads);
    assert_eq!(t.status().iter().filter(|sa| sa.stage == "established").count(), 2);
    // The DUT says it itself when it is true, in IKE_AUTH.
    let (_, asked) = Tester::until_auth(side_a());
    assert!(asked.has(NotifyType::INITIAL_CONTACT));
}
