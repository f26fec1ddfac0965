//! Group D: IKE_SA_INIT: cookies, INVALID_KE_PAYLOAD, versions, strangers.

use crate::ike_pump::{side_a, side_b};
use crate::peer::Tester;
use crate::peer::messages::*;
use crate::table::Level::{Must, Practice, Should};
use crate::table::{Row, here, row, there};
use landbridge_proto::policy::connection::Gateway;
use landbridge_proto::policy::sad::Path;
use landbridge_proto::wire::*;
use std::time::Duration;

const ENDPOINT: &str = "proto/tests/endpoint.rs";
const MATRIX: &str = "proto/tests/matrix";
const WIRE: &str = "proto/tests/wire.rs";

pub fn rows() -> Vec<Row> {
    vec![
        row(
            ("D1", "RFC 7296 §2.6", Should),
            "with many half-open SAs a cookie is asked for, without state",
            "When a responder detects a large number of half-open IKE SAs, it SHOULD reply to IKE_SA_INIT requests with a \
             response containing the COOKIE notification.",
            there(ENDPOINT, "strangers_cost_nothing_under_load"),
            there(MATRIX, "a_flood_of_first_messages_leaves_room_for_the_honest"),
        ),
        row(
            ("D2", "RFC 7296 §2.6", Must),
            "cookies have 1 to 64 octets",
            "The data associated with this notification MUST be between 1 and 64 octets in length (inclusive), and its \
             generation is described later in this section.",
            here!(cookies_of_1_and_of_64_octets),
            there(WIRE, "cookies_are_1_to_64_octets"),
        ),
        row(
            ("D3", "RFC 7296 §2.6", Must),
            "the request is repeated with the cookie first and all else unchanged",
            "If the IKE_SA_INIT response includes the COOKIE notification, the initiator MUST then retry the IKE_SA_INIT \
             request, and include the COOKIE notification containing the received data as the first payload, and all other \
             payloads unchanged.",
            here!(only_the_cookie_is_new),
            here!(one_cookie_after_another_ends),
        ),
        row(
            ("D4", "RFC 7296 §2.6", Must),
            "a wrong cookie is as good as none",
            "When one party receives an IKE_SA_INIT request containing a cookie whose contents do not match the value \
             expected, that party MUST ignore the cookie and process the message as if no cookie had been included; usually \
             this means sending a response containing a new cookie.",
            here!(a_wrong_cookie_is_as_good_as_none),
            there(ENDPOINT, "strangers_cost_nothing_under_load"),
        ),
        row(
            ("D5", "RFC 7296 §2.6", Practice),
            "a cookie holds for one nonce, address and SPI, and over one change of the secret",
            "practice: Cookie = <VersionIDofSecret> | Hash(Ni | IPi | SPIi | <secret>), the secret changed frequently",
            here!(a_cookie_outlives_one_change_of_the_secret),
            here!(a_cookie_is_bound),
        ),
        row(
            ("D6", "RFC 7296 §1.2", Must),
            "a KE of another group is answered with our group, alone, without state",
            "If the initiator guesses wrong, the responder will respond with a Notify payload of type INVALID_KE_PAYLOAD \
             indicating the selected group.",
            there(MATRIX, "in_a_first_message"),
            here!(no_state_after_invalid_ke_payload),
        ),
        row(
            ("D7", "RFC 7296 §1.2", Must),
            "the retry proposes the full list again",
            "The initiator MUST again propose its full set of acceptable cryptographic suites because the rejection message \
             was unauthenticated and otherwise an active attacker could trick the endpoints into negotiating a weaker suite \
             than a stronger one that they both prefer.",
            here!(the_retry_proposes_all_again),
            here!(no_loop_over_groups),
        ),
        row(
            ("D8", "RFC 7296 §1.2", Practice),
            "INVALID_KE_PAYLOAD with a group not proposed, or the one used, leads nowhere",
            "practice: it can't be meant, and must not make a loop",
            here!(no_loop_over_groups),
            here!(groups_that_can_not_be_meant),
        ),
        row(
            ("D9", "RFC 7296 §2.6.1", Must),
            "cookie and INVALID_KE_PAYLOAD in both orders, even if the cookie is forgotten on the way",
            "Implementations SHOULD support this shorter exchange, but MUST NOT fail if other implementations do not support \
             this shorter exchange.",
            there(ENDPOINT, "cookies_and_another_group"),
            here!(a_peer_that_forgets_its_cookie),
        ),
        row(
            ("D10", "RFC 7296 §2.21.1", Practice),
            "an unprotected refusal does not end the attempt",
            "practice: an error that is not protected may be forged, so another answer is waited for",
            here!(refusals_of_all_kinds_are_survived),
            there(ENDPOINT, "a_forged_refusal_does_not_end_the_attempt"),
        ),
        row(
            ("D11", "RFC 7296 §3.4", Must),
            "the KE's group stands in the offer, its data have the right length",
            "This Diffie-Hellman Group Num MUST match a Diffie-Hellman group specified in a proposal in the SA payload that \
             is sent in the same message, and SHOULD match the Diffie-Hellman group in the first group in the first proposal, \
             if such exists.",
            here!(the_group_of_our_ke_is_the_first_of_the_offer),
            there(MATRIX, "in_a_first_message"),
        ),
        row(
            ("D12", "RFC 6989 §2.1", Must),
            "public values are tested",
            "Each recipient MUST verify that the peer's public value r is in the legal range (1 < r < p-1).",
            there("proto/tests/key_exchange.rs", "every_group_agrees_with_itself"),
            there("proto/tests/key_exchange.rs", "bad_public_values_are_refused"),
        ),
        row(
            ("D13", "RFC 7296 §2.4", Must),
            "a stranger gets at most one small answer, none longer than its question",
            "Implementations MUST limit the rate at which they take actions based on unprotected messages.",
            there(MATRIX, "octets_out_are_no_more_than_octets_in"),
            there(MATRIX, "junk_costs_nothing_that_stays"),
        ),
        row(
            ("D14", "RFC 7296 §2.4", Practice),
            "half-open SAs end, but not because of somebody else's junk",
            "practice: half-open SAs are bounded in number and time",
            there(ENDPOINT, "half_open_sas_end"),
            there(MATRIX, "half_open"),
        ),
    ]
}

fn under_load() -> Tester {
    let gateway = Gateway {
        cookie_threshold: 0,
        ..Gateway::default()
    };
    Tester::with(side_b(), gateway)
}

fn cookie_of(t: &mut Tester, payloads: &[Payload]) -> Vec<u8> {
    let answer = t.init(payloads);
    assert_eq!(answer.payloads.len(), 1);
    assert_eq!(answer.header.spi_r, IkeSpi::ZERO);
    let cookie = answer.notify(NotifyType::COOKIE).expect("a cookie").data.clone();
    assert!((1..=64).contains(&cookie.len()));
    cookie
}

fn with_cookie(cookie: &[u8], payloads: &[Payload]) -> Vec<Payload> {
    let mut out = vec![notify_with(NotifyType::COOKIE, cookie)];
    out.extend_from_slice(payloads);
    out
}

/// Sends the DUT's IKE_SA_INIT an answer without a responder SPI.
fn answer(t: &mut Tester, payload: Payload) {
    let mut header = t.sa.header(ExchangeType::IKE_SA_INIT, true, 0);
    header.spi_r = IkeSpi::ZERO;
    let datagram = encode_plain(&header, &[payload]);
    t.send(&datagram);
}

#[test]
fn cookies_of_1_and_of_64_octets() {
    for (len, taken) in [(0, false), (1, true), (64, true), (65, false)] {
        let mut t = Tester::new(side_a());
        t.provoke();
        answer(&mut t, notify_with(NotifyType::COOKIE, &vec![7; len]));
        assert_eq!(t.out.len(), usize::from(taken), "{len}");
        assert_eq!(t.stage(), Some("initiating"));
    }
}

#[test]
fn only_the_cookie_is_new() {
    let mut t = Tester::new(side_a());
    let first = t.provoke();
    answer(&mut t, notify_with(NotifyType::COOKIE, b"cookie"));
    let again = t.next_request().unwrap();
    assert_eq!(again.header, first.header);
    assert_eq!(again.payloads[0], notify_with(NotifyType::COOKIE, b"cookie"));
    assert_eq!(again.payloads[1..], first.payloads);
}

/// A peer that never has enough is not asked for ever.
#[test]
fn one_cookie_after_another_ends() {
    let mut t = Tester::new(side_a());
    t.provoke();
    let mut requests = 0;
    for number in 0..100_u8 {
        t.out.clear();
        answer(&mut t, notify_with(NotifyType::COOKIE, &[number, 1]));
        requests += t.out.len();
    }
    assert!(requests <= 10, "{requests}");
}

#[test]
fn a_wrong_cookie_is_as_good_as_none() {
    let mut t = under_load();
    let payloads = t.init_payloads();
    let right = cookie_of(&mut t, &payloads);
    for wrong in [vec![0; 32], vec![1], right[1..].to_vec(), vec![9; 64], {
        let mut flipped = right.clone();
        *flipped.last_mut().unwrap() ^= 1;
        flipped
    }] {
        let again = cookie_of(&mut t, &with_cookie(&wrong, &payloads));
        assert_eq!(again, right);
        assert!(t.status().is_empty());
    }
    t.init(&with_cookie(&right, &payloads));
    assert_eq!(t.status().len(), 1);
}

#[test]
fn a_cookie_outlives_one_change_of_the_secret() {
    let mut t = under_load();
    let payloads = t.init_payloads();
    let cookie = cookie_of(&mut t, &payloads);
    // Far enough for many changes: the old one is as good as none.
    t.pass(Duration::from_secs(3600));
    cookie_of(&mut t, &payloads);
    t.pass(Duration::from_secs(3600));
    let fresh = cookie_of(&mut t, &with_cookie(&cookie, &payloads));
    assert_ne!(fresh, cookie, "the secret was changed");
    t.init(&with_cookie(&fresh, &payloads));
    assert_eq!(t.status().len(), 1);
}

#[test]
fn a_cookie_is_bound() {
    let mut t = under_load();
    let payloads = t.init_payloads();
    let cookie = cookie_of(&mut t, &payloads);
    // Another nonce.
    let mut other = payloads.clone();
    other[2] = t.nonce(32);
    cookie_of(&mut t, &with_cookie(&cookie, &other));
    // Another address.
    let datagram = t.init_datagram(&with_cookie(&cookie, &payloads));
    let elsewhere = Path {
        remote: "203.0.113.77:500".parse().unwrap(),
        ..t.path
    };
    t.out.clear();
    t.send_from(elsewhere, &datagram);
    let sent: Vec<_> = t.out.drain(..).collect();
    assert!(t.open(&sent).has(NotifyType::COOKIE));
    // Another SPI.
    let spi = std::mem::replace(&mut t.sa.spi_i, IkeSpi([7; 8]));
    cookie_of(&mut t, &with_cookie(&cookie, &payloads));
    assert!(t.status().is_empty());
    t.sa.spi_i = spi;
    t.init(&with_cookie(&cookie, &payloads));
    assert_eq!(t.status().len(), 1);
}

#[test]
fn no_state_after_invalid_ke_payload() {
    let mut t = Tester::new(side_b());
    let mut payloads = t.init_payloads();
    payloads[1] = ke(KeMethod::MODP_2048, &[2; 256]);
    for _ in 0..100 {
        let answer = t.init(&payloads);
        assert_eq!(answer.payloads.len(), 1);
        assert_eq!(answer.header.spi_r, IkeSpi::ZERO);
        assert_eq!(answer.all_notifies()[0].data, 31_u16.to_be_bytes());
    }
    assert!(t.status().is_empty());
    assert_eq!(t.dut.poll_timeout(), None);
}

#[test]
fn the_retry_proposes_all_again() {
    let mut t = Tester::new(side_a());
    let first = t.provoke();
    answer(
        &mut t,
        notify_with(NotifyType::INVALID_KE_PAYLOAD, &19_u16.to_be_bytes()),
    );
    let again = t.next_request().unwrap();
    assert_eq!(again.header, first.header);
    assert_eq!(sa_of(&again.payloads), sa_of(&first.payloads));
    assert_eq!(nonce_of(&again.payloads), nonce_of(&first.payloads));
    assert_eq!(ke_of(&again.payloads).unwrap().0, KeMethod::ECP_256);
}

#[test]
fn no_loop_over_groups() {
    let mut t = Tester::new(side_a());
    t.provoke();
    let mut requests = 0;
    for number in 0..100_u16 {
        t.out.clear();
        let group = if number % 2 == 0 { 19_u16 } else { 31 };
        answer(
            &mut t,
            notify_with(NotifyType::INVALID_KE_PAYLOAD, &group.to_be_bytes()),
        );
        requests += t.out.len();
    }
    assert!(requests <= 10, "{requests}");
}

#[test]
fn groups_that_can_not_be_meant() {
    let odd: [&[u8]; 10] = [
        &[0, 31],
        &[0, 14],
        &[0, 0],
        &[0, 1],
        &[0, 2],
        &[0xff, 0xff],
        &[],
        &[19],
        &[0, 19, 0],
        &[0, 0, 0, 19],
    ];
    let mut t = Tester::new(side_a());
    let asked = t.provoke();
    for data in odd {
        answer(&mut t, notify_with(NotifyType::INVALID_KE_PAYLOAD, data));
        assert!(t.out.is_empty(), "{data:?}");
        assert_eq!(t.stage(), Some("initiating"));
    }
    // The attempt is still good.
    let payloads = t.init_answer(&asked);
    t.answer_init(&payloads);
    assert!(t.next_request().is_some());
}

/// The peer wants a cookie, then another group, then, having forgotten, a cookie once more.
#[test]
fn a_peer_that_forgets_its_cookie() {
    let mut t = Tester::new(side_a());
    t.provoke();
    answer(&mut t, notify_with(NotifyType::COOKIE, b"one"));
    let asked = t.next_request().unwrap();
    assert!(asked.has(NotifyType::COOKIE));
    answer(&mut t, notify_with(NotifyType::INVALID_KE_PAYLOAD, &[0, 19]));
    let asked = t.next_request().unwrap();
    // The shorter exchange: the cookie comes again.
    assert_eq!(asked.notify(NotifyType::COOKIE).unwrap().data, b"one");
    answer(&mut t, notify_with(NotifyType::COOKIE, b"two"));
    let asked = t.next_request().unwrap();
    assert_eq!(asked.notify(NotifyType::COOKIE).unwrap().data, b"two");
    assert_eq!(ke_of(&asked.payloads).unwrap().0, KeMethod::ECP_256);
}

#[test]
fn refusals_of_all_kinds_are_survived() {
    let mut t = Tester::new(side_a());
    let asked = t.provoke();
    for number in (0..=50).chain([8191, 16383]) {
        // (17 is INVALID_KE_PAYLOAD: see above.)
        answer(&mut t, notify(NotifyType(number)));
        assert_eq!(t.stage(), Some("initiating"), "{number}");
    }
    assert!(t.out.is_empty());
    assert!(
        t.failures().len() <= 1,
        "a forger does not fill the log: {:?}",
        t.failures()
    );
    let payloads = t.init_answer(&asked);
    t.answer_init(&payloads);
    let asked = t.next_request().unwrap();
    let payloads = t.auth_answer();
    t.respond(&asked.header, &payloads);
    assert!(t.is_up() && t.pairs() == 1);
}

#[test]
fn the_group_of_our_ke_is_the_first_of_the_offer() {
    let mut t = Tester::new(side_a());
    let asked = t.provoke();
    let offer = sa_of(&asked.payloads).unwrap();
    let first = offer.proposals[0]
        .transforms
        .iter()
        .find(|one| one.transform_type == TransformType::KE)
        .unwrap();
    let (method, data) = ke_of(&asked.payloads).unwrap();
    assert_eq!((method.0, data.len()), (first.id, 32));
}
