//! Messages whose insides are odd, in the clear and under the keys, in both roles: counts, lengths, types and numbers that
//! an honest peer does not send. Each test ends with a DUT that is alive, or an SA that ended for the reason that the RFC
//! gives, and nothing left behind.

use crate::ike_pump::{side_a, side_b};
use crate::peer::Tester;
use crate::peer::messages::*;
use landbridge_proto::wire::{
    ExchangeType, IdType, Identification, KeMethod, Notify, NotifyType, Payload, PayloadType, ProtocolId, Transform,
    TransformType, encode_payloads,
};

const KNOWN_NOTIFIES: &[u16] = &[
    1, 4, 5, 7, 9, 11, 14, 17, 24, 34, 35, 36, 37, 38, 39, 40, 41, 43, 44, 45, 46, 47, 48, 8191, 16383, 16384, 16385,
    16386, 16387, 16388, 16389, 16390, 16391, 16392, 16393, 16394, 16395, 16396, 16397, 16398, 16399, 16400, 16401,
    16402, 16403, 16404, 16406, 16407, 16418, 16419, 16420, 16430, 16431, 16433, 16435, 16436, 16437, 16438, 16441,
    16442, 16443, 16444, 16447, 40959, 65535,
];

fn odd_notify(number: u16, protocol: u8, spi: usize, data: usize) -> Payload {
    Payload::Notify(Notify {
        protocol: ProtocolId(protocol),
        spi: vec![0x5a; spi],
        notify_type: NotifyType(number),
        data: vec![0xa5; data],
    })
}

/// Nothing of what failed is kept.
fn assert_tidy(t: &Tester, what: &str) {
    assert_eq!(t.dut.spis_in_use(), t.pairs(), "{what}: SPIs and pairs differ");
    if !t.is_up() {
        assert_eq!(t.pairs(), 0, "{what}: pairs without an SA");
    }
}

/// Every notify type there is, with every length of SPI and data that could trip a parser, in every exchange.
#[test]
fn notifies_of_all_lengths_in_all_exchanges() {
    let lengths = [
        (0, 0),
        (0, 1),
        (0, 3),
        (0, 19),
        (0, 20),
        (0, 21),
        (4, 0),
        (8, 0),
        (4, 4),
        (255, 0),
        (3, 2),
        (0, 64),
        (0, 65),
        (0, 900),
    ];
    for number in KNOWN_NOTIFIES {
        for (spi, data) in lengths {
            for protocol in [0, 1, 3] {
                let what = format!("{} {protocol} {spi} {data}", NotifyType(*number));
                let odd = odd_notify(*number, protocol, spi, data);
                // The first two exchanges.
                let mut t = Tester::new(side_b());
                let mut payloads = t.init_payloads();
                payloads.push(odd.clone());
                let datagram = t.init_datagram(&payloads);
                let sent = t.ask(&datagram);
                assert!(sent.len() <= 1 && t.status().len() <= 1, "{what}");
                if protocol != 0 && spi != 4 {
                    continue; // The expensive part for the likely ones only.
                }
                let mut t = Tester::up(side_b());
                t.request(ExchangeType::INFORMATIONAL, std::slice::from_ref(&odd))
                    .expect(&what);
                assert!(t.is_up() && t.pairs() == 1, "{what}: a notify alone ends nothing");
                let mut payloads = t.child_offer(true);
                payloads.extend([t.nonce(32), ke(KeMethod::CURVE25519, &[9; 32]), odd.clone()]);
                t.request(ExchangeType::CREATE_CHILD_SA, &payloads).expect(&what);
                assert_tidy(&t, &what);
            }
        }
    }
}

#[test]
fn notifies_beside_the_proof_of_either_side() {
    for number in KNOWN_NOTIFIES {
        for (protocol, spi, data) in [(0, 0, 0), (3, 4, 0), (1, 8, 2), (0, 0, 20), (3, 255, 0), (0, 0, 400)] {
            let what = format!("{} {protocol} {spi} {data}", NotifyType(*number));
            let odd = odd_notify(*number, protocol, spi, data);
            let mut t = Tester::new(side_b());
            let payloads = t.init_payloads();
            t.init(&payloads);
            let mut payloads = t.auth_payloads();
            payloads.push(odd.clone());
            t.request(ExchangeType::IKE_AUTH, &payloads).expect(&what);
            assert!(t.is_up() && t.pairs() == 1, "{what}");
            // RFC 7296 §2.21.2: "the initiator MUST NOT fail the authentication because of this".
            let (mut t, asked) = Tester::until_auth(side_a());
            let mut payloads = t.auth_answer();
            payloads.push(odd.clone());
            t.respond(&asked.header, &payloads);
            assert!(t.is_up(), "{what}");
            // Where the answer was not one to what was asked, the Child SA is deleted.
            if let Some(asked) = t.next_request() {
                t.respond(&asked.header, &[]);
            }
            assert_tidy(&t, &what);
        }
    }
}

/// NAT_DETECTION data of another length than a SHA-1 hash: no NAT can be told from it, and nothing breaks.
#[test]
fn nat_detection_of_all_lengths() {
    for len in (0..=24).chain([32, 255, 1000]) {
        for both in [false, true] {
            let mut t = Tester::new(side_b());
            let mut payloads = t.init_payloads();
            payloads.push(notify_with(NotifyType::NAT_DETECTION_SOURCE_IP, &vec![0xab; len]));
            if both {
                payloads.push(notify_with(NotifyType::NAT_DETECTION_DESTINATION_IP, &vec![0xcd; len]));
            }
            t.init(&payloads);
            let payloads = t.auth_payloads();
            t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
            assert!(t.is_up(), "{len}");
            let mut t = Tester::new(side_a());
            let asked = t.provoke();
            let mut payloads = t.init_answer(&asked);
            payloads.push(notify_with(NotifyType::NAT_DETECTION_SOURCE_IP, &vec![0xab; len]));
            payloads.push(notify_with(NotifyType::NAT_DETECTION_DESTINATION_IP, &vec![0xcd; len]));
            t.answer_init(&payloads);
            assert!(t.next_request().is_some(), "{len}");
        }
    }
}

/// More payloads than fit any table: refused as a whole, inside and outside of the keys, and around an Encrypted payload.
#[test]
fn more_payloads_than_anybody_needs() {
    for count in [36, 37, 38, 100, 1000, 15_000] {
        let many = vec![unknown(200, false); count];
        let mut t = Tester::new(side_b());
        let mut payloads = t.init_payloads();
        payloads.extend(many.clone());
        let datagram = t.init_datagram(&payloads);
        let taken = !t.ask(&datagram).is_empty();
        assert_eq!(taken, count <= 37, "{count}");
        let mut t = Tester::up(side_b());
        let answer = t
            .request(ExchangeType::INFORMATIONAL, &many[..count.min(8000)])
            .unwrap();
        assert_eq!(answer.has(NotifyType::INVALID_SYNTAX), count > 40, "{count}");
        // In front of SK: nothing is authenticated yet, so it is dropped.
        let mut t = Tester::up(side_b());
        let header = t.sa.header(ExchangeType::INFORMATIONAL, false, t.sa.next);
        let sealed = t.seal(&header, &[]).remove(0);
        let (_, chain) = encode_payloads(&many);
        let mut chain = chain;
        let last = chain.len() - 7;
        chain[last] = PayloadType::SK.0;
        let mut datagram = sealed[..28].to_vec();
        datagram[16] = 200;
        datagram.extend_from_slice(&chain);
        datagram.extend_from_slice(&sealed[28..]);
        let len = u32::try_from(datagram.len()).unwrap();
        datagram[24..28].copy_from_slice(&len.to_be_bytes());
        let before = t.state();
        assert!(t.ask(&datagram).is_empty());
        assert_eq!(t.state(), before);
        t.assert_alive();
    }
}

/// IKEv1's payload types (1 to 32) are unknown types here, and IKEv1's header is nobody's.
#[test]
fn payloads_of_ikev1() {
    for payload_type in 1..=32 {
        for critical in [false, true] {
            let odd = unknown(payload_type, critical);
            let mut t = Tester::new(side_b());
            let mut payloads = t.init_payloads();
            payloads.insert(0, odd.clone());
            let datagram = t.init_datagram(&payloads);
            let sent = t.ask(&datagram);
            let refused = t.open(&sent).has(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD);
            assert_eq!(refused, critical, "{payload_type}");
            let mut t = Tester::up(side_b());
            let answer = t.request(ExchangeType::INFORMATIONAL, &[odd]).unwrap();
            assert_eq!(
                answer.has(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD),
                critical,
                "{payload_type}"
            );
            t.assert_alive();
        }
    }
    let mut t = Tester::up(side_b());
    let payloads = t.init_payloads();
    let mut datagram = t.init_datagram(&payloads);
    for version in [0x10, 0x11, 0x00] {
        datagram[17] = version;
        for exchange in [2, 4, 5, 32, 33] {
            datagram[18] = exchange;
            assert!(t.ask(&datagram).is_empty());
        }
    }
    t.assert_alive();
}

/// RFC 4303 §2.1: "The set of SPI values in the range 1 through 255 are reserved ... zero (0) is reserved for local": none is
/// taken from a peer, in an offer or an answer.
#[test]
fn reserved_spis() {
    for spi in [0, 1, 255, 256] {
        let good = spi > 255;
        let offer = |spi| child(spi, None, "10.1.0.0/16", "10.2.0.0/16");
        let mut t = Tester::new(side_b());
        let payloads = t.init_payloads();
        t.init(&payloads);
        let mut payloads = t.auth_payloads();
        payloads.truncate(2);
        payloads.extend(offer(spi));
        t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert_eq!(t.pairs(), usize::from(good), "{spi}");
        assert!(t.is_up(), "the IKE SA is up all the same");
        let (mut t, asked) = Tester::until_auth(side_a());
        let mut payloads = t.auth_answer();
        payloads.truncate(2);
        payloads.extend(offer(spi));
        t.respond(&asked.header, &payloads);
        assert!(t.is_up());
        assert_eq!(t.pairs(), usize::from(good), "{spi}");
    }
    // SPIs of other lengths, for all three protocols.
    for len in [0, 1, 3, 5, 8, 16, 255] {
        let mut t = Tester::up(side_b());
        let mut payloads = vec![sa(vec![proposal(1, ProtocolId::ESP, &vec![9; len], esp_transforms())])];
        payloads.extend([tsi(&["10.1.0.0/16"]), tsr(&["10.2.0.0/16"]), t.nonce(32)]);
        let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
        assert_eq!(answer.notifies(), [NotifyType::NO_PROPOSAL_CHOSEN], "{len}");
        assert_tidy(&t, "odd SPI");
        t.assert_alive();
    }
}

/// Identities of every type and length, up to what a datagram holds.
#[test]
fn identities_of_all_types_and_lengths() {
    for id_type in (0..=14).chain([200, 255]) {
        for len in [0, 1, 3, 4, 5, 15, 16, 17, 255, 256, 3000, 64_000] {
            let data: Vec<u8> = (0..len).map(|at| [b'%', b's', 0, 0xff, b'\n', 0x1b][at % 6]).collect();
            let named = Payload::IdI(Identification {
                id_type: IdType(id_type),
                reserved: [0; 3],
                data,
            });
            let mut t = Tester::new(side_b());
            let payloads = t.init_payloads();
            t.init(&payloads);
            let mut payloads = vec![named.clone(), t.auth(crate::peer::PSK, &named)];
            payloads.extend(t.child_offer(false));
            let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
            assert_eq!(
                answer.notifies(),
                [NotifyType::AUTHENTICATION_FAILED],
                "{id_type} {len}"
            );
            assert!(!t.is_up());
            // What is told to people is short and printable.
            for told in t.failures() {
                assert!(told.len() < 2000, "{id_type} {len}: {} octets in the log", told.len());
                assert!(!told.chars().any(|c| c.is_control()), "{id_type} {len}: {told:?}");
            }
        }
    }
}

/// Every transform ID that the registry may hold, alone in its type: refused, or (ours) taken, never a crash.
#[test]
fn every_transform_as_a_proposal() {
    for (transform_type, at) in [
        (TransformType::ENCR, 0),
        (TransformType::PRF, 1),
        (TransformType::KE, 2),
    ] {
        for number in (0..=60_u16).chain([255, 1024, 65535]) {
            for bits in [None, Some(0), Some(1), Some(128), Some(255), Some(256), Some(65535)] {
                let mut transforms = ike_transforms();
                transforms[at] = match bits {
                    None => transform(transform_type, number),
                    Some(bits) => with_key(transform_type, number, bits),
                };
                let usual = transforms == ike_transforms();
                let mut t = Tester::new(side_b());
                let mut payloads = t.init_payloads();
                payloads[0] = sa(vec![proposal(1, ProtocolId::IKE, &[], transforms)]);
                let datagram = t.init_datagram(&payloads);
                let sent = t.ask(&datagram);
                let answer = t.open(&sent);
                let taken = sa_of(&answer.payloads).is_some();
                // The DUT has Curve25519 and ECP-256.
                let asks = answer.has(NotifyType::INVALID_KE_PAYLOAD);
                assert_eq!(taken, usual, "{transform_type} {number} {bits:?}");
                assert_eq!(
                    asks,
                    transform_type == TransformType::KE && number == 19 && bits.is_none()
                );
                assert_eq!(t.status().len(), usize::from(taken));
            }
        }
    }
    // In ESP's.
    for (transform_type, at) in [(TransformType::ENCR, 0), (TransformType::ESN, 1)] {
        for number in (0..=60_u16).chain([255, 65535]) {
            for bits in [None, Some(0), Some(128), Some(256), Some(65535)] {
                let mut transforms = esp_transforms();
                transforms[at] = match bits {
                    None => transform(transform_type, number),
                    Some(bits) => with_key(transform_type, number, bits),
                };
                transforms.push(transform(TransformType::KE, 31));
                let mut t = Tester::up(side_b());
                let mut payloads = vec![sa(vec![proposal(1, ProtocolId::ESP, &[1, 2, 3, 4], transforms)])];
                payloads.extend([tsi(&["10.1.0.0/16"]), tsr(&["10.2.0.0/16"]), t.nonce(32)]);
                payloads.push(ke(KeMethod::CURVE25519, &[9; 32]));
                let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
                assert_eq!(answer.has(NotifyType::NO_PROPOSAL_CHOSEN), t.pairs() == 1);
                assert_tidy(&t, "transform");
                t.assert_alive();
            }
        }
    }
}

/// A proposal without one of its types, or with NONE for it (CVE-2016-5391).
#[test]
fn proposals_that_lack_a_type() {
    let types = [TransformType::ENCR, TransformType::PRF, TransformType::KE];
    for missing in types {
        for none in [false, true] {
            let mut transforms: Vec<Transform> = ike_transforms();
            transforms.retain(|transform| transform.transform_type != missing);
            if none {
                transforms.push(transform(missing, 0));
            }
            let mut t = Tester::new(side_b());
            let mut payloads = t.init_payloads();
            payloads[0] = sa(vec![proposal(1, ProtocolId::IKE, &[], transforms)]);
            let answer = t.init(&payloads);
            assert_eq!(answer.notifies(), [NotifyType::NO_PROPOSAL_CHOSEN], "{missing}");
            assert!(t.status().is_empty());
        }
    }
    // No transform at all, and no proposal of ours.
    for proposals in [
        vec![proposal(1, ProtocolId::IKE, &[], vec![])],
        vec![proposal(1, ProtocolId::ESP, &[1, 2, 3, 4], esp_transforms())],
        vec![proposal(1, ProtocolId::AH, &[1, 2, 3, 4], esp_transforms())],
        vec![proposal(1, ProtocolId(77), &[], ike_transforms())],
    ] {
        let mut t = Tester::new(side_b());
        let mut payloads = t.init_payloads();
        payloads[0] = sa(proposals);
        let answer = t.init(&payloads);
        assert_eq!(answer.notifies(), [NotifyType::NO_PROPOSAL_CHOSEN]);
    }
}

/// Deletes: twice, of unknown ones, of another protocol, of everything, mixed with more.
#[test]
fn deletes_of_all_kinds() {
    use landbridge_proto::wire::Delete;
    let ah = |spis: &[u32]| {
        Payload::Delete(Delete::Children {
            protocol: ProtocolId::AH,
            spis: spis.to_vec(),
        })
    };
    let mut t = Tester::up(side_b());
    let ours = t.esp;
    let inbound = t.sad.pairs.values().next().unwrap().inbound.spi;
    // Unknown ones, the DUT's own inbound SPI, AH with the right number, none at all.
    for odd in [
        vec![delete_children(&[1, 2, 3])],
        vec![delete_children(&[inbound])],
        vec![ah(&[ours])],
        vec![delete_children(&[])],
        vec![ah(&[])],
        vec![delete_children(&(0..1000).collect::<Vec<_>>())],
    ] {
        let answer = t.request(ExchangeType::INFORMATIONAL, &odd).unwrap();
        assert!(answer.payloads.is_empty(), "{:?}", answer.payloads);
        assert_eq!(t.pairs(), 1);
    }
    // The right one, three times over in one message.
    let twice = [delete_children(&[ours, 5, ours]), ah(&[ours]), delete_children(&[ours])];
    let answer = t.request(ExchangeType::INFORMATIONAL, &twice).unwrap();
    assert_eq!(deleted(&answer.payloads), [inbound]);
    assert_eq!(t.pairs(), 0);
    // And once more.
    let answer = t
        .request(ExchangeType::INFORMATIONAL, &[delete_children(&[ours])])
        .unwrap();
    assert!(answer.payloads.is_empty());
    // The IKE SA, and children, and the IKE SA again: it ends, once.
    let mut t = Tester::up(side_b());
    let all = [
        delete_children(&[t.esp]),
        delete_ike(),
        delete_children(&[7]),
        delete_ike(),
    ];
    let answer = t.request(ExchangeType::INFORMATIONAL, &all).unwrap();
    assert!(answer.payloads.is_empty());
    assert_eq!((t.pairs(), t.is_up()), (0, false));
    assert_eq!(t.dut.spis_in_use(), 0);
}

/// N(REKEY_SA) with everything that can be wrong in it (CVE-2023-38710).
#[test]
fn rekeys_of_what_is_not_there() {
    for protocol in [0, 1, 2, 3, 4, 255] {
        for spi in [0, 1, 3, 4, 5, 8, 255] {
            let mut t = Tester::up(side_b());
            let mut payloads = vec![odd_notify(16393, protocol, spi, 0)];
            payloads.extend(t.child_offer(true));
            payloads.extend([t.nonce(32), ke(KeMethod::CURVE25519, &[9; 32])]);
            let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
            let (want, alive) = if protocol == 3 && spi == 4 {
                (NotifyType::CHILD_SA_NOT_FOUND, true)
            } else {
                (NotifyType::INVALID_SYNTAX, false)
            };
            assert_eq!(answer.notifies(), [want], "{protocol} {spi}");
            assert_eq!(t.is_up(), alive);
            assert_tidy(&t, "REKEY_SA");
        }
    }
    // Without selectors it is no rekey of a Child SA, and with REKEY_SA none of the IKE SA.
    let mut t = Tester::up(side_b());
    let payloads = vec![
        notify_esp(NotifyType::REKEY_SA, t.esp),
        with_spi(ike_offer(t.sa.suite), &[7; 8]),
        t.nonce(32),
        ke(KeMethod::CURVE25519, &[9; 32]),
    ];
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
    assert_eq!(answer.notifies(), [NotifyType::INVALID_SYNTAX]);
}

/// An SA payload without selectors in IKE_AUTH asks for a Child SA and does not say which.
#[test]
fn half_a_child() {
    for missing in 0..3 {
        let mut t = Tester::new(side_b());
        let payloads = t.init_payloads();
        t.init(&payloads);
        let mut payloads = t.auth_payloads();
        payloads.remove(2 + missing);
        let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert_eq!(answer.notifies(), [NotifyType::INVALID_SYNTAX], "{missing}");
        assert!(!t.is_up());
    }
    let mut t = Tester::new(side_b());
    let payloads = t.init_payloads();
    t.init(&payloads);
    let mut payloads = t.auth_payloads();
    payloads.truncate(3);
    let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert_eq!(answer.notifies(), [NotifyType::INVALID_SYNTAX]);
    // In an answer to us: it proves who it is, but a Child SA without selectors is none.
    let (mut t, asked) = Tester::until_auth(side_a());
    let mut payloads = t.auth_answer();
    payloads.truncate(3);
    t.respond(&asked.header, &payloads);
    assert_eq!(t.pairs(), 0);
}

/// Traffic selectors octet by octet: any count, type and length.
#[test]
fn selectors_octet_by_octet() {
    let mut t = Tester::up(side_b());
    let payloads = [vec![t.nonce(32)], t.child_offer(false)].concat();
    let (first, good) = encode_payloads(&payloads);
    let tsi_at = good.len() - 2 * 24;
    for at in tsi_at + 4..tsi_at + 24 {
        for value in [0, 1, 2, 7, 8, 9, 10, 15, 17, 64, 65, 127, 128, 255] {
            let mut chain = good.clone();
            chain[at] = value;
            let mut t = Tester::up(side_b());
            let answer = t.request_chain(ExchangeType::CREATE_CHILD_SA, first, &chain).unwrap();
            assert!(sa_of(&answer.payloads).is_some() || answer.notifies().len() == 1);
            assert_tidy(&t, "TS");
        }
    }
}
