//! Group A: header and payloads.

use crate::ike_pump::{side_a, side_b};
use crate::peer::Tester;
use crate::peer::messages::*;
use crate::table::Level::{Must, Practice};
use crate::table::{Row, here, row, there};
use landbridge_proto::wire::*;
use std::collections::BTreeSet;

const WIRE: &str = "proto/tests/wire.rs";

pub fn rows() -> Vec<Row> {
    vec![
        row(
            ("A1", "RFC 7296 §2", Must),
            "messages of 1280 octets, and better of 3000, are sent, received, processed",
            "All IKEv2 implementations MUST be able to send, receive, and process IKE messages that are up to 1280 octets \
             long, and they SHOULD be able to send, receive, and process messages that are up to 3000 octets long.",
            here!(long_messages_are_processed),
            here!(longer_than_its_length_is_dropped),
        ),
        row(
            ("A2", "RFC 7296 §2", Must),
            "on port 4500 four zero octets stand before each IKE message, on 500 never",
            "The UDP payload of all packets containing IKE messages sent on port 4500 MUST begin with the prefix of four \
             zeros; otherwise, the receiver won't know how to handle them.",
            there("tests/netns/tunnel.rs", "nothing_but_ike_and_esp_is_on_the_wire"),
            there("tests/netns/hostile.rs", "junk_is_counted_and_changes_nothing"),
        ),
        row(
            ("A3", "RFC 7296 §2.5", Must),
            "a higher major version is dropped, with one hint to requests",
            "If an endpoint receives a message with a higher major version number, it MUST drop the message and SHOULD send \
             an unauthenticated Notify message of type INVALID_MAJOR_VERSION containing the highest (closest) version \
             number it supports.",
            here!(a_higher_version_is_told_ours),
            there("proto/tests/ike_limits.rs", "only_higher_versions_are_answered"),
        ),
        row(
            ("A4", "RFC 7296 §3.1", Must),
            "the minor version is ignored, and sent as 0",
            "They MUST ignore the minor version number of received messages.",
            here!(minor_version_one_all_along),
            there(WIRE, "versions"),
        ),
        row(
            ("A5", "RFC 7296 §2.5", Must),
            "what is RESERVED is sent as zero and ignored when received",
            "Also, for forward compatibility, all fields marked RESERVED MUST be set to zero by an implementation running \
             version 2.0, and their content MUST be ignored by an implementation running version 2.0",
            here!(reserved_fields_are_ignored_one_by_one),
            here!(reserved_octets_of_an_identity_are_covered_by_auth),
        ),
        row(
            ("A6", "RFC 7296 §2.5", Must),
            "the order of payloads is no reason to reject",
            "implementations MUST NOT reject as invalid a message with those payloads in any other order.",
            here!(payloads_in_any_order),
            there(WIRE, "any_order"),
        ),
        row(
            ("A7", "RFC 7296 §3", Must),
            "the Encrypted payload is the last one, and none is within another",
            "An Encrypted payload MUST be the last payload in a packet and an Encrypted payload MUST NOT contain another \
             Encrypted payload.",
            here!(sk_within_sk_is_invalid_syntax),
            there(WIRE, "nothing_follows_or_contains_sk"),
        ),
        row(
            ("A8", "RFC 7296 §3.3", Must),
            "an SA payload's lengths and counts agree",
            "When parsing an SA, an implementation MUST check that the total Payload Length is consistent with the payload's \
             internal lengths and counts.",
            there(WIRE, "the_sa_payload_holds_together"),
            here!(a_broken_sa_payload_in_any_exchange),
        ),
        row(
            ("A9", "RFC 7296 §2.21", Practice),
            "every length is checked; cut anywhere, a message does no harm",
            "practice: lengths below that of a header, beyond the message, or other than UDP's make no message",
            there(WIRE, "every_length_is_checked"),
            here!(cut_at_every_octet),
        ),
        row(
            ("A10", "RFC 7296 §2.10", Must),
            "nonces of 16 to 256 octets; ours have at least 128 bits and half the PRF's key",
            "Nonces used in IKEv2 MUST be randomly chosen, MUST be at least 128 bits in size, and MUST be at least half the \
             key size of the negotiated pseudorandom function (PRF).",
            here!(nonces_of_all_lengths_and_our_own),
            there(WIRE, "nonces_are_16_to_256_octets"),
        ),
        row(
            ("A11", "RFC 7296 §3.1", Must),
            "the initiator's SPI is not zero, the responder's is in the first message; ours are unique",
            "This value MUST be zero in the first message of an IKE initial exchange (including repeats of that message \
             including a cookie).",
            here!(our_spis_never_come_twice),
            here!(zero_and_not_zero_where_they_must_not_be),
        ),
        row(
            ("A12", "RFC 7296 §3.1", Must),
            "I is set by who began the SA, in each of its messages; R in responses",
            "This bit MUST be set in messages sent by the original initiator of the IKE SA and MUST be cleared in messages \
             sent by the original responder.",
            here!(who_began_the_sa_sets_the_i_flag),
            there("proto/tests/matrix", "established_as_responder"),
        ),
    ]
}

#[test]
fn long_messages_are_processed() {
    for size in [1280, 3000] {
        let mut t = Tester::new(side_b());
        let mut payloads = t.init_payloads();
        let bare = t.init_datagram(&payloads).len();
        payloads.push(Payload::VendorId(vec![7; size - bare - 4]));
        let datagram = t.init_datagram(&payloads);
        assert_eq!(datagram.len(), size);
        t.init_with(&datagram);
        let mut payloads = t.auth_payloads();
        payloads.push(Payload::VendorId(vec![7; size - 400]));
        let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert!(t.is_up(), "{:?}", answer.payloads);
        assert_eq!(t.pairs(), 1);
    }
}

#[test]
fn longer_than_its_length_is_dropped() {
    let mut t = Tester::new(side_b());
    let payloads = t.init_payloads();
    let mut datagram = t.init_datagram(&payloads);
    datagram.extend_from_slice(&[0; 40]);
    assert!(t.ask(&datagram).is_empty());
    assert!(t.status().is_empty());
}

#[test]
fn a_higher_version_is_told_ours() {
    let mut t = Tester::new(side_b());
    let payloads = t.init_payloads();
    let mut datagram = t.init_datagram(&payloads);
    datagram[17] = 0x30;
    let sent = t.ask(&datagram);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].octets[17], 0x20, "our version stands in the header");
    assert!(sent[0].octets.len() <= datagram.len());
    assert_eq!(t.open(&sent).notifies(), [NotifyType::INVALID_MAJOR_VERSION]);
    datagram[19] |= 0x20;
    assert!(t.ask(&datagram).is_empty(), "a response is never answered");
    assert!(t.status().is_empty());
}

/// The DUT is sent minor version 1 in everything, and sends 0.
#[test]
fn minor_version_one_all_along() {
    let mut t = Tester::new(side_b());
    let payloads = t.init_payloads();
    let mut datagram = t.init_datagram(&payloads);
    datagram[17] = 0x21;
    t.init_with(&datagram);
    assert_eq!(t.sa.response[17], 0x20);
    // Under the ICV the version octet is T's own: sealed with it.
    let payloads = t.auth_payloads();
    let sent = seal_with(&mut t, ExchangeType::IKE_AUTH, &payloads, |head| head[17] = 0x21);
    assert_eq!(sent[0].octets[17], 0x20);
    assert!(t.is_up());
}

/// Seals T's next request by hand, with a changed header, and sends it.
fn seal_with(
    t: &mut Tester,
    exchange: ExchangeType,
    payloads: &[Payload],
    change: fn(&mut [u8]),
) -> Vec<crate::peer::Sent> {
    let header = t.sa.header(exchange, false, t.sa.next);
    let (first, chain) = encode_payloads(payloads);
    let datagram = crate::peer::seal::by_hand(&t.sa, &header, first, &chain, &[], change);
    let sent = t.ask(&datagram);
    if !sent.is_empty() {
        t.sa.next += 1;
    }
    sent
}

#[test]
fn reserved_fields_are_ignored_one_by_one() {
    // The octets of IKE_SA_INIT: header flags; SA header, proposal, transforms; KE header and its RESERVED; nonce header.
    let mut t = Tester::new(side_b());
    let payloads = t.init_payloads();
    let good = t.init_datagram(&payloads);
    let sa = 28;
    let sa_len = usize::from(u16::from_be_bytes([good[sa + 2], good[sa + 3]]));
    let ke = sa + sa_len;
    let ke_len = usize::from(u16::from_be_bytes([good[ke + 2], good[ke + 3]]));
    let nonce = ke + ke_len;
    let places = [
        (19, 0x01),
        (19, 0x02),
        (19, 0x04),
        (19, 0x40),
        (19, 0x80),
        (19, 0x10),
        (sa + 1, 0x7f),
        (sa + 5, 0xff),      // proposal
        (sa + 12 + 1, 0xff), // transform
        (sa + 12 + 5, 0xff), // behind the transform type
        (ke + 1, 0x7f),
        (ke + 6, 0xff),
        (ke + 7, 0xff),
        (nonce + 1, 0x7f),
    ];
    for (at, bits) in places {
        let mut t = Tester::new(side_b());
        let payloads = t.init_payloads();
        let mut datagram = t.init_datagram(&payloads);
        datagram[at] |= bits;
        assert_ne!(datagram, t.init_datagram(&payloads), "octet {at}");
        let answer = t.init_with(&datagram);
        assert!(sa_of(&answer.payloads).is_some(), "octet {at}");
        // What we send is zero there.
        let ours = &t.sa.response;
        assert_eq!(ours[19] & !0x28, 0);
        assert_eq!((ours[29], ours[33]), (0, 0));
        // AUTH is about the octets as they were sent.
        let payloads = t.auth_payloads();
        t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert!(t.is_up(), "octet {at}: {:?}", t.failures());
    }
    // Under the keys: AUTH, TS, and the chain's own headers.
    let find = |chain: &[u8], first: PayloadType, wanted: PayloadType| {
        let (mut at, mut next) = (0, first);
        while next != wanted {
            next = PayloadType(chain[at]);
            at += usize::from(u16::from_be_bytes([chain[at + 2], chain[at + 3]]));
        }
        at
    };
    for (payload, behind) in [
        (PayloadType::AUTH, 5),
        (PayloadType::TSI, 5),
        (PayloadType::TSR, 7),
        (PayloadType::SA, 5),
        (PayloadType::AUTH, 1),
    ] {
        let mut t = Tester::new(side_b());
        let payloads = t.init_payloads();
        t.init(&payloads);
        let (first, mut chain) = encode_payloads(&t.auth_payloads());
        let at = find(&chain, first, payload) + behind;
        chain[at] |= 0x7f;
        t.request_chain(ExchangeType::IKE_AUTH, first, &chain).unwrap();
        assert!(t.is_up() && t.pairs() == 1, "{payload}: {:?}", t.failures());
    }
}

/// The RESERVED octets of an ID payload are under prf(SK_p, ...): ignored, but not changed on the way.
#[test]
fn reserved_octets_of_an_identity_are_covered_by_auth() {
    for honest in [true, false] {
        let mut t = Tester::new(side_b());
        let payloads = t.init_payloads();
        t.init(&payloads);
        let Payload::IdI(mut named) = id(true, "a.example") else {
            unreachable!()
        };
        let plain = Payload::IdI(named.clone());
        named.reserved = [1, 2, 3];
        let named = Payload::IdI(named);
        let auth = t.auth(crate::peer::PSK, if honest { &named } else { &plain });
        let mut payloads = vec![named, auth];
        payloads.extend(t.child_offer(false));
        let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert_eq!(t.is_up(), honest);
        assert_eq!(answer.has(NotifyType::AUTHENTICATION_FAILED), !honest);
    }
}

#[test]
fn payloads_in_any_order() {
    let mut t = Tester::new(side_b());
    let mut payloads = t.init_payloads();
    payloads.reverse();
    t.init(&payloads);
    let mut payloads = t.auth_payloads();
    payloads.reverse();
    t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(t.is_up());
    let mut payloads = vec![t.nonce(32)];
    payloads.extend(t.child_offer(false));
    payloads.reverse();
    t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
    assert!(t.is_up());
    // And as initiator: the answer.
    let (mut t, asked) = Tester::until_auth(side_a());
    let mut payloads = t.auth_answer();
    payloads.reverse();
    t.respond(&asked.header, &payloads);
    assert!(t.is_up() && t.pairs() == 1);
}

#[test]
fn sk_within_sk_is_invalid_syntax() {
    for inner in [PayloadType::SK, PayloadType::SKF] {
        let mut t = Tester::up(side_b());
        let chain = [&[0, 0, 0, 44][..], &[5; 40]].concat();
        let answer = t.request_chain(ExchangeType::INFORMATIONAL, inner, &chain).unwrap();
        assert_eq!(answer.notifies(), [NotifyType::INVALID_SYNTAX]);
    }
}

#[test]
fn a_broken_sa_payload_in_any_exchange() {
    // Offsets in the SA payload, and values that contradict the rest of it.
    // The first transform stands behind the proposal's SPI.
    let (proposal, transform) = (
        [
            (4, 1),
            (4, 2),
            (4, 255),
            (7, 7),
            (7, 0),
            (7, 200),
            (10, 255),
            (11, 0),
            (11, 9),
        ],
        [(12, 255), (15, 7), (15, 4)],
    );
    let breaks = proposal
        .map(|place| (place, 0))
        .into_iter()
        .chain(transform.map(|place| (place, 4)));
    for ((at, value), spi) in breaks {
        // A stranger's: dropped without state.
        let mut t = Tester::new(side_b());
        let payloads = t.init_payloads();
        let mut datagram = t.init_datagram(&payloads);
        datagram[28 + at] = value;
        assert!(t.ask(&datagram).is_empty(), "octet {at} = {value}");
        assert!(t.status().is_empty());
        // A peer's: INVALID_SYNTAX, and with it the end (§2.21.3).
        let mut t = Tester::up(side_b());
        let mut payloads = t.child_offer(true);
        payloads.push(t.nonce(32));
        let (first, mut chain) = encode_payloads(&payloads);
        chain[at + spi] = value;
        let answer = t.request_chain(ExchangeType::CREATE_CHILD_SA, first, &chain).unwrap();
        assert_eq!(answer.notifies(), [NotifyType::INVALID_SYNTAX], "octet {at} = {value}");
        assert_eq!(t.pairs(), 0);
        // In an answer to us.
        let (mut t, asked) = Tester::until_auth(side_a());
        let mut payloads = t.auth_answer();
        payloads.rotate_left(2);
        let (first, mut chain) = encode_payloads(&payloads);
        chain[at + spi] = value;
        let header = t.sa.header(ExchangeType::IKE_AUTH, true, asked.header.message_id);
        let datagrams = t.seal_chain(&header, first, &chain);
        datagrams.iter().for_each(|datagram| t.send(datagram));
        assert!(!t.is_up());
        assert_eq!(t.pairs(), 0);
    }
}

#[test]
fn cut_at_every_octet() {
    let mut t = Tester::new(side_b());
    let payloads = t.init_payloads();
    let good = t.init_datagram(&payloads);
    for len in 0..good.len() {
        assert!(t.ask(&good[..len]).is_empty(), "{len} octets");
        // With a header that owns up to it.
        if len >= 28 {
            let mut cut = good[..len].to_vec();
            cut[24..28].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
            assert!(t.ask(&cut).is_empty(), "{len} octets");
        }
    }
    assert!(t.status().is_empty());
    // A decrypted chain, cut: INVALID_SYNTAX at most; whole payloads are a message of its own.
    t.init(&payloads);
    let (first, chain) = encode_payloads(&t.auth_payloads());
    for len in (0..chain.len()).step_by(3) {
        let mut t = Tester::new(side_b());
        let payloads = t.init_payloads();
        t.init(&payloads);
        let answer = t.request_chain(ExchangeType::IKE_AUTH, first, &chain[..len]).unwrap();
        assert_eq!(answer.notifies().len(), 1, "{len}");
        assert!(!t.is_up() && t.pairs() == 0);
    }
    for value in [0_u16, 1, 3, 0xffff] {
        let mut t = Tester::up(side_b());
        let chain = [&[0, 0][..], &value.to_be_bytes(), &[1, 2, 3, 4]].concat();
        let answer = t
            .request_chain(ExchangeType::INFORMATIONAL, PayloadType::VENDOR_ID, &chain)
            .unwrap();
        assert_eq!(answer.notifies(), [NotifyType::INVALID_SYNTAX]);
    }
}

#[test]
fn nonces_of_all_lengths_and_our_own() {
    for (len, ok) in [(15, false), (16, true), (32, true), (256, true), (257, false)] {
        let mut t = Tester::new(side_b());
        let mut payloads = t.init_payloads();
        payloads[2] = t.nonce(len);
        let datagram = t.init_datagram(&payloads);
        assert_eq!(!t.ask(&datagram).is_empty(), ok, "{len}");
    }
    // 32 octets are half the key of PRF-HMAC-SHA2-512, the longest there is; and they never come twice.
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        let mut t = Tester::new(side_b());
        let payloads = t.init_payloads();
        for _ in 0..3 {
            t.sa.spi_i = IkeSpi([1 + seen.len() as u8; 8]);
            let answer = t.init(&payloads);
            assert!(nonce_of(&answer.payloads).len() >= 32);
            seen.insert((nonce_of(&answer.payloads), seen.len() / 3));
        }
    }
    assert_eq!(seen.len(), 60);
    let mut t = Tester::new(side_a());
    let asked = t.provoke();
    assert!(nonce_of(&asked.payloads).len() >= 32);
}

#[test]
fn our_spis_never_come_twice() {
    let mut t = Tester::with(
        side_b(),
        landbridge_proto::policy::connection::Gateway {
            cookie_threshold: 2000,
            half_open_limit: 2000,
            half_open_limit_per_address: 2000,
            ..Default::default()
        },
    );
    let payloads = t.init_payloads();
    let mut seen = BTreeSet::new();
    for number in 1..=1000_u64 {
        t.sa.spi_i = IkeSpi(number.to_be_bytes());
        let datagram = t.init_datagram(&payloads);
        let sent = t.ask(&datagram);
        let spi = sent[0].header().spi_r;
        assert_ne!(spi, IkeSpi::ZERO);
        assert!(seen.insert(spi), "{spi} twice");
    }
}

#[test]
fn zero_and_not_zero_where_they_must_not_be() {
    let mut t = Tester::new(side_b());
    let payloads = t.init_payloads();
    let good = t.init_datagram(&payloads);
    let mut zero = good.clone();
    zero[..8].fill(0);
    let mut already = good.clone();
    already[8..16].fill(9);
    for wrong in [zero, already] {
        assert!(t.ask(&wrong).is_empty());
        assert!(t.status().is_empty());
    }
    // As initiator: an answer that names no responder SPI is not taken.
    let mut t = Tester::new(side_a());
    let asked = t.provoke();
    let payloads = t.init_answer(&asked);
    t.sa.spi_r = IkeSpi::ZERO;
    t.answer_init(&payloads);
    assert_eq!(t.stage(), Some("initiating"));
    assert!(t.out.is_empty());
}

#[test]
fn who_began_the_sa_sets_the_i_flag() {
    let mut t = Tester::up_as_responder(side_a());
    let answer = t.request(ExchangeType::INFORMATIONAL, &[]).unwrap();
    assert!(
        answer.header.flags.initiator && answer.header.flags.response,
        "it began"
    );
    // T rekeys: the DUT is the new SA's original responder, whoever began the old one.
    t.rekey_ike();
    let answer = t.request(ExchangeType::INFORMATIONAL, &[]).unwrap();
    assert!(!answer.header.flags.initiator && answer.header.flags.response);
    t.command(landbridge_proto::ike::Command::Down {
        connection: crate::ike_pump::SITE.into(),
        child: Some("net".into()),
    });
    let asked = t.next_request().unwrap();
    assert!(!asked.header.flags.initiator && !asked.header.flags.response);
    assert_eq!(asked.header.message_id, 0);
}
