//! Group L: errors outside and inside of an IKE SA.

use crate::ike_pump::{SITE, side_a, side_b};
use crate::peer::Tester;
use crate::peer::messages::*;
use crate::table::Level::{Must, Practice, Should};
use crate::table::{Row, here, row, there};
use landbridge_proto::ike::Command;
use landbridge_proto::policy::sad::{Path, SadReport};
use landbridge_proto::wire::*;
use std::time::Duration;

const MATRIX: &str = "proto/tests/matrix";

pub fn rows() -> Vec<Row> {
    vec![
        row(
            ("L1", "RFC 7296 §2.21.4", Must),
            "an unknown IKE SPI: at most one hint, with the same SPIs and ID, to where it came from",
            "If a response is sent, the response MUST be sent to the IP address and port from where it came with the same IKE \
             SPIs and the Message ID copied.",
            here!(unknown_ike_spis_draw_a_hint),
            there(MATRIX, "nothing"),
        ),
        row(
            ("L2", "RFC 7296 §1.5", Should),
            "an unknown ESP SPI: told within the IKE SA, rarely",
            "If an error occurs outside the context of an IKE request (e.g., the node is getting ESP messages on a nonexistent \
             SPI), the node SHOULD initiate an INFORMATIONAL exchange with a Notify payload describing the problem.",
            here!(unknown_esp_spis_are_told_seldom),
            here!(unknown_esp_spis_of_strangers_are_counted),
        ),
        row(
            ("L3", "RFC 7296 §2.21.3", Must),
            "after authentication every wrong request is answered; INVALID_SYNTAX ends the SA",
            "After the IKE SA is authenticated, all requests having errors MUST result in a response notifying the other end \
             of the error.",
            here!(wrong_requests_are_answered),
            there("proto/tests/conformance", "a_broken_sa_payload_in_any_exchange"),
        ),
        row(
            ("L4", "RFC 7296 §2.21.3", Must),
            "an error in a response is never answered",
            "Because sending such error messages as an INFORMATIONAL exchange might lead to further errors that could cause \
             loops, such errors SHOULD NOT be sent.",
            here!(wrong_responses_are_not_answered),
            there(MATRIX, "responses_are_never_answered"),
        ),
        row(
            ("L5", "RFC 7296 §2.21.3", Practice),
            "an exchange nobody knows is ignored, and the SA lives on",
            "practice: what is not understood as a whole can't be answered in kind",
            here!(unknown_exchanges_within_the_sa),
            there(MATRIX, "established_as_initiator"),
        ),
        row(
            ("L6", "RFC 7296 §2.4", Must),
            "what unprotected messages bring about is limited",
            "Implementations MUST limit the rate at which they take actions based on unprotected messages.",
            here!(hints_are_limited),
            there(MATRIX, "junk_costs_nothing_that_stays"),
        ),
        row(
            ("L7", "RFC 7296 §3.1", Practice),
            "our own messages come back are dropped",
            "practice: the I flag tells whose they are",
            there("proto/tests/endpoint.rs", "reflected_messages_are_dropped"),
            there(MATRIX, "established_as_responder"),
        ),
    ]
}

#[test]
fn unknown_ike_spis_draw_a_hint() {
    let mut t = Tester::up(side_b());
    for exchange in [35, 36, 37] {
        let mut header = t.sa.header(ExchangeType(exchange), false, 77);
        (header.spi_i, header.spi_r) = (IkeSpi([1; 8]), IkeSpi([2; 8]));
        let datagram = t.seal(&header, &[]).remove(0);
        let elsewhere = landbridge_proto::policy::sad::Path {
            remote: "203.0.113.9:7777".parse().unwrap(),
            ..t.path
        };
        t.out.clear();
        t.send_from(elsewhere, &datagram);
        let sent: Vec<_> = t.out.drain(..).collect();
        assert_eq!((sent.len(), sent[0].path), (1, elsewhere));
        let hint = t.open(&sent);
        assert_eq!(hint.notifies(), [NotifyType::INVALID_IKE_SPI]);
        let told = hint.header;
        assert_eq!(
            (told.spi_i, told.spi_r, told.message_id),
            (header.spi_i, header.spi_r, 77)
        );
        assert!(told.flags.response && !told.flags.initiator);
        // Not to a response.
        header.flags.response = true;
        let datagram = t.seal(&header, &[]).remove(0);
        assert!(t.ask(&datagram).is_empty());
    }
    t.assert_alive();
}

/// RFC 7296 §1.5: "The Notification Data contains the SPI of the invalid packet."
#[test]
fn unknown_esp_spis_are_told_seldom() {
    // By UDP, and without (no port).
    for port in [None, Some(0)] {
        let mut t = Tester::up(side_b());
        let Path { local, mut remote, .. } = t.path;
        let local = local.ip();
        remote.set_port(port.unwrap_or(remote.port()));
        for spi in 5000..6000 {
            t.report(SadReport::UnknownSpi { spi, local, remote });
        }
        assert_eq!(t.out.len(), 1);
        let told = t.next_request().unwrap();
        assert_eq!(told.header.exchange, ExchangeType::INFORMATIONAL);
        let notify = told.notify(NotifyType::INVALID_SPI).unwrap();
        assert_eq!(
            (told.payloads.len(), &notify.data[..]),
            (1, &5000_u32.to_be_bytes()[..])
        );
        t.respond(&told.header, &[]);
        t.pass(Duration::from_secs(10));
        t.report(SadReport::UnknownSpi {
            spi: 6000,
            local,
            remote,
        });
        assert!(t.out.is_empty(), "once a minute");
        assert_eq!(t.counters().unknown_spi, 1001);
        t.assert_alive();
    }
}

#[test]
fn unknown_esp_spis_of_strangers_are_counted() {
    let mut t = Tester::up(side_b());
    let state = t.state();
    let Path { local, mut remote, .. } = t.path;
    let local = local.ip();
    remote.set_ip([203, 0, 113, 77].into());
    for spi in 0..1000 {
        t.report(SadReport::UnknownSpi { spi, local, remote });
    }
    assert!(t.out.is_empty());
    assert_eq!(t.state(), state);
    assert_eq!(t.counters().unknown_spi, 1000);
}

type Make = fn(&mut Tester) -> Vec<Payload>;

#[test]
fn wrong_requests_are_answered() {
    // Well-formed, but not to be granted: answered, and the SA lives on. Not a message of its kind: INVALID_SYNTAX, the end.
    let cases: [(&str, ExchangeType, Make, NotifyType, bool); 7] = [
        (
            "no proposal",
            ExchangeType::CREATE_CHILD_SA,
            |t| {
                let mut payloads = t.child_offer(false);
                payloads.push(t.nonce(32));
                payloads
            },
            NotifyType::NO_PROPOSAL_CHOSEN,
            true,
        ),
        (
            "no such selectors",
            ExchangeType::CREATE_CHILD_SA,
            |t| {
                let mut payloads = vec![
                    esp_offer(t.esp + 1, Some(KeMethod::CURVE25519)),
                    tsi(&["10.9.0.0/16"]),
                    tsr(&["10.9.0.0/16"]),
                ];
                payloads.push(t.nonce(32));
                payloads
            },
            NotifyType::TS_UNACCEPTABLE,
            true,
        ),
        (
            "unknown and critical",
            ExchangeType::INFORMATIONAL,
            |_| vec![unknown(99, true)],
            NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD,
            true,
        ),
        (
            "no nonce",
            ExchangeType::CREATE_CHILD_SA,
            |t| t.child_offer(true),
            NotifyType::INVALID_SYNTAX,
            false,
        ),
        (
            "nothing",
            ExchangeType::CREATE_CHILD_SA,
            |_| vec![],
            NotifyType::INVALID_SYNTAX,
            false,
        ),
        (
            "two SA payloads",
            ExchangeType::CREATE_CHILD_SA,
            |t| {
                let mut payloads = t.child_offer(true);
                payloads.extend(t.child_offer(true));
                payloads.push(t.nonce(32));
                payloads
            },
            NotifyType::INVALID_SYNTAX,
            false,
        ),
        (
            "half of the selectors",
            ExchangeType::CREATE_CHILD_SA,
            |t| {
                let mut payloads = t.child_offer(true);
                payloads.truncate(2);
                payloads.push(t.nonce(32));
                payloads
            },
            NotifyType::INVALID_SYNTAX,
            false,
        ),
    ];
    for (what, exchange, make, want, lives) in cases {
        let mut t = Tester::up(side_b());
        let payloads = make(&mut t);
        let answer = t.request(exchange, &payloads).expect(what);
        assert_eq!(answer.notifies(), [want], "{what}");
        assert_eq!((t.is_up(), t.pairs()), (lives, usize::from(lives)), "{what}");
        if lives {
            t.assert_alive();
        }
    }
}

#[test]
fn wrong_responses_are_not_answered() {
    let bodies: [(PayloadType, &[u8]); 4] = [
        (PayloadType::SA, &[0, 0, 0, 3]),
        (PayloadType::NONCE, &[0, 0, 0, 5, 1]),
        (PayloadType(99), &[0, 0x80, 0, 4]),
        (PayloadType::SK, &[0, 0, 0, 40, 1, 2, 3]),
    ];
    for (first, chain) in bodies {
        let mut a = side_a();
        a.keep_trying = false;
        let mut t = Tester::up_as_responder(a);
        t.command(Command::RekeyChild {
            connection: SITE.into(),
            child: None,
        });
        let asked = t.next_request().unwrap();
        let header = t.sa.header(asked.header.exchange, true, asked.header.message_id);
        let datagram = t.seal_chain(&header, first, chain).remove(0);
        assert!(t.ask(&datagram).is_empty(), "{first}");
        assert_eq!(t.dut.spis_in_use(), t.pairs());
    }
}

#[test]
fn unknown_exchanges_within_the_sa() {
    let mut t = Tester::up(side_b());
    let state = t.state();
    for exchange in [0, 33, 38, 99, 128, 240, 255] {
        for payloads in [vec![], vec![delete_ike()], vec![notify(NotifyType::INITIAL_CONTACT)]] {
            assert!(t.request(ExchangeType(exchange), &payloads).is_none(), "{exchange}");
            assert_eq!(t.state(), state);
        }
    }
    t.assert_alive();
}

#[test]
fn hints_are_limited() {
    let mut t = Tester::up(side_b());
    let mut header = t.sa.header(ExchangeType::INFORMATIONAL, false, 1);
    header.spi_r = IkeSpi([2; 8]);
    let datagram = t.seal(&header, &[]).remove(0);
    let mut drawn = 0;
    for _ in 0..10_000 {
        drawn += t.ask(&datagram).len();
    }
    assert!((1..=100).contains(&drawn), "{drawn} hints in one second");
    t.assert_alive();
}
