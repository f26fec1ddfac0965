//! The codec against checklist groups A, B, H, J, M: what every field may hold, and what it may not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

use landbridge_proto::wire::message::{IkeSaInitReply, Request, Response};
use landbridge_proto::wire::*;
use proptest::prelude::*;

fn header(exchange: ExchangeType, response: bool) -> Header {
    let flags = Flags {
        initiator: !response,
        response,
    };
    Header {
        spi_i: IkeSpi([1; 8]),
        spi_r: IkeSpi([0; 8]),
        exchange,
        flags,
        message_id: 0,
    }
}

fn transform(transform_type: TransformType, id: u16) -> Transform {
    Transform {
        transform_type,
        id,
        attributes: vec![],
    }
}

fn init() -> Vec<Payload> {
    let transforms = vec![
        Transform {
            attributes: vec![Attribute::Short(AttributeType::KEY_LENGTH, 256)],
            ..transform(TransformType::ENCR, 20)
        },
        transform(TransformType::PRF, 5),
        transform(TransformType::KE, 31),
    ];
    let proposals = vec![Proposal {
        number: 1,
        protocol: ProtocolId::IKE,
        spi: vec![],
        transforms,
    }];
    vec![
        Payload::Sa(SecurityAssociation { proposals }),
        Payload::Ke(KeyExchange {
            method: KeMethod::CURVE25519,
            data: vec![9; 32],
        }),
        Payload::Nonce(Nonce(vec![7; 32])),
    ]
}

fn decode(datagram: &[u8]) -> Result<Request, DecodeError> {
    let outer = decode_outer(datagram)?;
    let OuterBody::Plain { first, payloads } = outer.body else {
        panic!("it is plain")
    };
    decode_request(outer.header.exchange, decode_payloads(first, payloads)?)
}

fn init_datagram(payloads: &[Payload]) -> Vec<u8> {
    encode_plain(&header(ExchangeType::IKE_SA_INIT, false), payloads)
}

/// A3, A4: "If an endpoint receives a message with a higher major version number, it MUST drop the message"; the minor
/// version is ignored.
#[test]
fn versions() {
    let mut datagram = init_datagram(&init());
    datagram[17] = 0x2f;
    assert!(decode(&datagram).is_ok());
    for version in [0x30, 0xf0, 0x10, 0x00] {
        datagram[17] = version;
        assert_eq!(
            decode_outer(&datagram).unwrap_err(),
            DecodeError::MajorVersion(version >> 4)
        );
    }
}

/// A5: RESERVED fields "MUST be sent as zero and MUST be ignored on receipt".
#[test]
fn reserved_bits_are_ignored_and_sent_as_zero() {
    let good = init_datagram(&init());
    let want = decode(&good).unwrap();
    let mut datagram = good.clone();
    datagram[19] |= 0xc7 | 0x10; // X bits and V
    datagram[29] |= 0x7f; // RESERVED of the SA payload's header
    datagram[33] = 0xff; // RESERVED of the proposal
    assert_eq!(decode(&datagram).unwrap(), want);
    assert_eq!((good[19], good[29], good[33]), (0x08, 0, 0));
}

/// A6: the order of payloads is not a reason to reject.
#[test]
fn any_order() {
    let mut payloads = init();
    let want = decode(&init_datagram(&payloads)).unwrap();
    payloads.reverse();
    assert_eq!(decode(&init_datagram(&payloads)).unwrap(), want);
}

/// B1, B2, B3: unknown payloads are skipped without C, and refused with it; C on known ones is ignored.
#[test]
fn the_critical_bit() {
    for payload_type in [1, 32, 48, 55, 127, 128, 255] {
        let unknown = |critical| {
            let mut payloads = init();
            payloads.insert(
                1,
                Payload::Unknown {
                    payload_type: PayloadType(payload_type),
                    critical,
                    body: vec![1, 2, 3],
                },
            );
            init_datagram(&payloads)
        };
        assert!(decode(&unknown(false)).is_ok(), "{payload_type}");
        assert_eq!(
            decode(&unknown(true)).unwrap_err(),
            DecodeError::UnsupportedCritical(payload_type)
        );
    }
    let mut datagram = init_datagram(&init());
    datagram[29] |= 0x80;
    assert!(decode(&datagram).is_ok());
}

/// A7: the Encrypted payload is the last, and never inside another.
#[test]
fn nothing_follows_or_contains_sk() {
    let body = [vec![0, 0, 0, 4 + 40], vec![5; 40]].concat();
    let mut datagram = encode_header(&header(ExchangeType::IKE_AUTH, false), PayloadType::SK, 28 + 44).to_vec();
    datagram.extend_from_slice(&body);
    assert!(matches!(decode_outer(&datagram).unwrap().body, OuterBody::Sk { .. }));
    let mut longer = datagram.clone();
    longer.extend_from_slice(&[0, 0, 0, 4]);
    longer[24..28].copy_from_slice(&76_u32.to_be_bytes());
    assert!(decode_outer(&longer).is_err());
    assert!(decode_payloads(PayloadType::SK, &body).is_err());
    assert!(decode_payloads(PayloadType::SKF, &body).is_err());
}

/// A8: "total length must agree with internal lengths and counts".
#[test]
fn the_sa_payload_holds_together() {
    let good = init_datagram(&init());
    assert!(decode(&good).is_ok());
    // Proposal at 32: last, reserved, length (2), number, protocol, SPI size, transforms.
    for (at, values) in [
        (32, vec![1, 2, 3, 255]),     // last substructure
        (35, vec![0, 7, 8, 43, 45]),  // proposal length
        (38, vec![1, 8, 255]),        // SPI size
        (39, vec![0, 2, 4, 255]),     // number of transforms
        (40, vec![0, 1, 255]),        // "more transforms follow"
        (43, vec![0, 4, 7, 11, 255]), // transform length
    ] {
        for value in values {
            let mut datagram = good.clone();
            datagram[at] = value;
            assert!(decode(&datagram).is_err(), "octet {at} = {value}");
        }
    }
}

/// A9: every length is checked; cut or changed anywhere, a message is refused or understood, and nothing worse.
#[test]
fn every_length_is_checked() {
    let good = init_datagram(&init());
    for len in 0..good.len() {
        assert!(decode_outer(&good[..len]).is_err());
    }
    for value in [0_u16, 1, 3, 0xffff] {
        let mut datagram = good.clone();
        datagram[30..32].copy_from_slice(&value.to_be_bytes());
        assert!(decode(&datagram).is_err());
    }
    let mut longer = good;
    longer.push(0);
    assert!(decode_outer(&longer).is_err(), "the header's length is the datagram's");
}

/// A10: "The size of the Nonce Data MUST be between 16 and 256 octets, inclusive."
#[test]
fn nonces_are_16_to_256_octets() {
    for (len, ok) in [(15, false), (16, true), (256, true), (257, false)] {
        let mut payloads = init();
        payloads[2] = Payload::Nonce(Nonce(vec![1; len]));
        assert_eq!(decode(&init_datagram(&payloads)).is_ok(), ok, "{len}");
    }
}

/// D2: "between 1 and 64 octets in length (inclusive)".
#[test]
fn cookies_are_1_to_64_octets() {
    for (len, ok) in [(0, false), (1, true), (64, true), (65, false)] {
        let cookie = Payload::Notify(Notify::new(NotifyType::COOKIE, vec![1; len]));
        let reply = decode_response(ExchangeType::IKE_SA_INIT, vec![cookie]);
        assert_eq!(reply.is_ok(), ok, "{len}");
    }
}

/// B5: an unknown error in a response is a refusal; unknown status types and errors in requests are ignored.
#[test]
fn unknown_notifies() {
    let notify = |number| Payload::Notify(Notify::new(NotifyType(number), vec![]));
    let reply = decode_response(ExchangeType::IKE_SA_INIT, vec![notify(8191)]).unwrap();
    assert!(matches!(reply, Response::IkeSaInit(IkeSaInitReply::Refused(n)) if n.notify_type.0 == 8191));
    let mut payloads = init();
    payloads.extend([notify(8191), notify(40000)]);
    let Request::IkeSaInit(request) = decode(&init_datagram(&payloads)).unwrap() else {
        panic!()
    };
    assert_eq!(request.other.len(), 1);
}

/// The caps of `limits`: one more is refused as a whole.
#[test]
fn caps() {
    let vendor = |count| {
        init()
            .into_iter()
            .chain((0..count).map(|_| Payload::VendorId(vec![1; 4])))
            .collect::<Vec<_>>()
    };
    assert!(decode(&init_datagram(&vendor(limits::PAYLOADS - 3))).is_ok());
    assert!(decode(&init_datagram(&vendor(limits::PAYLOADS - 2))).is_err());
    let proposal = Proposal {
        number: 1,
        protocol: ProtocolId::IKE,
        spi: vec![],
        transforms: vec![transform(TransformType::PRF, 5)],
    };
    let sa = |count| {
        vec![Payload::Sa(SecurityAssociation {
            proposals: vec![proposal.clone(); count],
        })]
    };
    let decodes = |payloads: &[Payload]| {
        let (first, chain) = encode_payloads(payloads);
        decode_payloads(first, &chain).is_ok()
    };
    assert!(decodes(&sa(limits::PROPOSALS)) && !decodes(&sa(limits::PROPOSALS + 1)));
    let many = |count| {
        let transforms = vec![transform(TransformType::PRF, 5); count];
        vec![Payload::Sa(SecurityAssociation {
            proposals: vec![Proposal {
                transforms,
                ..proposal.clone()
            }],
        })]
    };
    assert!(decodes(&many(limits::TRANSFORMS)) && !decodes(&many(limits::TRANSFORMS + 1)));
    let notifies = |count| vec![Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT, vec![])); count];
    assert!(decodes(&notifies(limits::NOTIFIES)) && !decodes(&notifies(limits::NOTIFIES + 1)));
}

/// J4: one protocol a payload, SPI size and count agree.
#[test]
fn delete_payloads() {
    let decodes = |body: &[u8]| {
        let chain = [&[0, 0, 0, 4 + body.len() as u8], body].concat();
        decode_payloads(PayloadType::DELETE, &chain).is_ok()
    };
    assert!(decodes(&[1, 0, 0, 0]) && decodes(&[3, 4, 0, 1, 1, 2, 3, 4]) && decodes(&[2, 4, 0, 0]));
    for wrong in [
        &[1, 8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0][..],
        &[1, 0, 0, 1],
        &[3, 8, 0, 0],
        &[3, 4, 0, 2, 1, 2, 3, 4],
        &[3, 4, 0, 0, 1],
        &[9, 4, 0, 0],
    ] {
        assert!(!decodes(wrong), "{wrong:?}");
    }
}

/// H6: start above end, wrong lengths, no selector.
#[test]
fn traffic_selectors() {
    let decodes = |body: &[u8]| {
        let chain = [&[0, 0, 0, 4 + body.len() as u8], body].concat();
        decode_payloads(PayloadType::TSI, &chain).is_ok()
    };
    let v4 =
        |ports: [u8; 4], start: [u8; 4], end: [u8; 4]| [&[1, 0, 0, 0, 7, 6, 0, 16][..], &ports, &start, &end].concat();
    assert!(decodes(&v4([0, 0, 255, 255], [10, 0, 0, 0], [10, 0, 0, 255])));
    assert!(decodes(&v4([255, 255, 0, 0], [10, 0, 0, 0], [10, 0, 0, 255])), "OPAQUE");
    assert!(!decodes(&v4([0, 9, 0, 8], [10, 0, 0, 0], [10, 0, 0, 255])));
    assert!(!decodes(&v4([0, 0, 255, 255], [10, 0, 0, 2], [10, 0, 0, 1])));
    assert!(!decodes(&[0, 0, 0, 0]));
    assert!(!decodes(&v4([0; 4], [0; 4], [0; 4])[..19]));
    let unknown = [1, 0, 0, 0, 10, 0, 0, 8, 1, 2, 3, 4];
    assert!(decodes(&unknown), "H7: an unknown type does no harm");
}

/// M4: "Fragment Number ... MUST NOT be zero", no more than the total.
#[test]
fn fragment_numbers() {
    for (fragment, total, ok) in [
        (1_u16, 1_u16, true),
        (2, 3, true),
        (0, 1, false),
        (1, 0, false),
        (3, 2, false),
    ] {
        let mut datagram = encode_header(&header(ExchangeType::IKE_AUTH, false), PayloadType::SKF, 28 + 48).to_vec();
        datagram.extend_from_slice(&[35, 0, 0, 48]);
        datagram.extend_from_slice(&fragment.to_be_bytes());
        datagram.extend_from_slice(&total.to_be_bytes());
        datagram.extend_from_slice(&[0; 40]);
        assert_eq!(decode_outer(&datagram).is_ok(), ok, "{fragment} of {total}");
    }
}

/// The line of the log, in the RFC's words.
#[test]
fn summaries() {
    let mut payloads = init();
    payloads.push(Payload::Notify(Notify::new(
        NotifyType::NAT_DETECTION_SOURCE_IP,
        vec![0; 20],
    )));
    let line = summarize(&header(ExchangeType::IKE_SA_INIT, false), &payloads);
    assert_eq!(line, "IKE_SA_INIT request 0 [SA KE No N(NAT_DETECTION_SOURCE_IP)]");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// No octets make it panic, and what is understood means the same when written again.
    #[test]
    fn random_and_mutated_octets(changes in proptest::collection::vec((0_usize..200, any::<u8>()), 0..6), junk in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut datagram = init_datagram(&init());
        for (at, value) in changes {
            let at = at % datagram.len();
            datagram[at] = value;
        }
        for octets in [&datagram[..], &junk] {
            let _ = decode_outer(octets);
            for first in [33, 34, 35, 37, 38, 39, 40, 41, 42, 44, 47] {
                if let Ok(payloads) = decode_payloads(PayloadType(first), octets) {
                    let (again, chain) = encode_payloads(&payloads);
                    prop_assert_eq!(decode_payloads(again, &chain).unwrap(), payloads.clone());
                    for exchange in [34, 35, 36, 37, 99] {
                        let _ = decode_request(ExchangeType(exchange), payloads.clone());
                        let _ = decode_response(ExchangeType(exchange), payloads.clone());
                    }
                }
            }
        }
    }
}
