//! Group E: SA negotiation.

use crate::ike_pump::{side_a, side_b};
use crate::peer::messages::*;
use crate::peer::{Message, Tester};
use crate::table::Level::{Must, Practice};
use crate::table::{Row, here, row, there};
use landbridge_proto::crypto::{Encryption, Integrity};
use landbridge_proto::policy::proposal::{EspProposal, IkeProposal};
use landbridge_proto::wire::*;

const MATRIX: &str = "proto/tests/matrix";
const POLICY: &str = "proto/tests/policy.rs";

pub fn rows() -> Vec<Row> {
    vec![
        row(
            ("E1", "RFC 7296 §3.3.1", Must),
            "proposals are numbered 1, 2, 3; the answer has the number of the one taken",
            "When a proposal is accepted, the proposal number in the SA payload MUST match the number on the proposal sent \
             that was accepted.",
            here!(the_number_of_the_proposal_taken),
            here!(numbers_with_gaps_are_refused),
        ),
        row(
            ("E2", "RFC 7296 §3.3.6", Must),
            "one proposal is chosen, and one transform a type, as it came",
            "If the selected proposal has multiple transforms with the same type, the responder MUST choose a single one. \
             Any attributes of a selected transform MUST be returned unmodified.",
            here!(one_transform_of_each_type_as_it_came),
            there(POLICY, "integ_none_is_returned"),
        ),
        row(
            ("E3", "RFC 7296 §3.3.6", Must),
            "an answer that is none of our proposals ends the exchange",
            "The initiator of an exchange MUST check that the accepted offer is consistent with one of its proposals, and if \
             not MUST terminate the exchange.",
            there(POLICY, "e3_verify_refuses_what_was_not_offered"),
            here!(answers_that_are_none_of_our_proposals),
        ),
        row(
            ("E4", "RFC 7296 §3.3.6", Must),
            "an unknown type spoils its proposal, an unknown transform or attribute only itself",
            "Similarly, if the responder receives a transform that it does not understand, or one that contains a Transform \
             Attribute it does not understand, it MUST consider this transform unacceptable; other transforms with the same \
             Transform Type are processed as usual.",
            here!(what_is_not_understood_spoils_no_more_than_it_must),
            there(MATRIX, "every_transform_as_a_proposal"),
        ),
        row(
            ("E5", "RFC 7296 §3.3.5", Must),
            "AES needs a key length, a cipher of fixed length must not have one",
            "The Key Length attribute MUST NOT be used with transforms that use a fixed-length key.",
            here!(key_lengths),
            there(MATRIX, "every_transform_as_a_proposal"),
        ),
        row(
            ("E6", "RFC 7296 §3.3", Must),
            "with an AEAD no integrity, or NONE; without one, some",
            "Combined-mode ciphers include both integrity and encryption in a single encryption algorithm, and MUST either \
             offer no integrity algorithm or a single integrity algorithm of \"NONE\", with no integrity algorithm being the \
             RECOMMENDED method.",
            here!(integrity_goes_with_ciphers_that_lack_it),
            here!(no_ike_sa_without_encryption_or_integrity),
        ),
        row(
            ("E7", "RFC 7296 §3.3", Practice),
            "AEADs and other ciphers are offered in different proposals",
            "practice: a proposal with both can't say which integrity goes with which cipher",
            here!(aeads_stand_in_proposals_of_their_own),
            there("tests/config_cases.rs", "every_case_is_judged_as_written_beside_it"),
        ),
        row(
            ("E8", "RFC 7296 §2.18", Must),
            "no IKE SA without a key exchange, in a rekey neither",
            "In other words, an initiator MUST NOT propose the value \"NONE\" for the Diffie-Hellman transform, and a \
             responder MUST NOT accept such a proposal.",
            there(
                "proto/tests/ike_rekey_ike.rs",
                "either_end_rekeys_and_the_children_move_over",
            ),
            here!(a_rekey_without_key_exchange_is_refused),
        ),
        row(
            ("E9", "RFC 7296 §3.3.6", Must),
            "ESP proposals have ENCR and sequence numbers; a group in IKE_AUTH is passed over",
            "If the responder receives a proposal that contains a Transform Type it does not understand, or a proposal that \
             is missing a mandatory Transform Type, it MUST consider this proposal unacceptable; however, other proposals in \
             the same SA payload are processed as usual.",
            here!(a_group_in_ike_auth_is_passed_over),
            here!(esp_proposals_that_lack_a_type),
        ),
        row(
            ("E10", "RFC 7296 §3.3.1", Must),
            "SPI sizes: 0 for the first IKE SA, 8 in its rekey, 4 for ESP",
            "For an initial IKE SA negotiation, this field MUST be zero; the SPI is obtained from the outer header.",
            here!(spi_sizes_of_ike),
            there(MATRIX, "reserved_spis"),
        ),
        row(
            ("E11", "RFC 7296 §1.3.1", Must),
            "NO_PROPOSAL_CHOSEN in the clear first, protected afterwards; the IKE SA outlives its first child's failure",
            "A failed attempt to create a Child SA SHOULD NOT tear down the IKE SA: there is no reason to lose the work done \
             to set up the IKE SA.",
            here!(no_proposal_chosen_where_it_belongs),
            there(MATRIX, "proposals_that_lack_a_type"),
        ),
        row(
            ("E12", "RFC 7296 §3.3.4", Must),
            "what the configuration does not allow is refused",
            "The implementation MUST reject SA proposals that are not authorized by these IKE suite controls.",
            there(
                "proto/tests/algorithms.rs",
                "the_weak_is_not_offered_and_not_taken_by_default",
            ),
            there(MATRIX, "every_transform_as_a_proposal"),
        ),
        row(
            ("E13", "RFC 8247 §2.1", Practice),
            "the mandatory algorithms exist and work with others",
            "practice: AES-CBC and AES-GCM, SHA2, groups 14 and 19 against a foreign peer",
            there("tests/interop/algorithms.rs", "we_initiate"),
            there("tests/interop/algorithms.rs", "we_respond"),
        ),
        row(
            ("E14", "RFC 7427 §4", Must),
            "signatures by method 14, RSA of 2048 bits or more, no SHA-1",
            "When calculating the digital signature, a peer MUST pick one algorithm sent by the other peer.",
            there("proto/tests/ike_auth.rs", "the_hash_is_one_that_the_peer_announced"),
            there(MATRIX, "signatures_that_are_wrong"),
        ),
    ]
}

/// A first message with these proposals.
fn offer(proposals: Vec<Proposal>) -> Message {
    let mut t = Tester::new(side_b());
    let mut payloads = t.init_payloads();
    payloads[0] = sa(proposals);
    t.init(&payloads)
}

fn taken(answer: &Message) -> Option<&Proposal> {
    let proposals = &sa_of(&answer.payloads)?.proposals;
    assert_eq!(proposals.len(), 1);
    Some(&proposals[0])
}

fn ike(number: u8, transforms: Vec<Transform>) -> Proposal {
    proposal(number, ProtocolId::IKE, &[], transforms)
}

fn cbc_transforms() -> Vec<Transform> {
    vec![
        with_key(TransformType::ENCR, 12, 256),
        transform(TransformType::PRF, 5),
        transform(TransformType::INTEG, 12),
        transform(TransformType::KE, 31),
    ]
}

#[test]
fn the_number_of_the_proposal_taken() {
    let answer = offer(vec![
        ike(1, cbc_transforms()),
        ike(2, cbc_transforms()),
        ike(3, ike_transforms()),
    ]);
    assert_eq!(taken(&answer).unwrap().number, 3);
    // Ours begin with 1.
    let mut t = Tester::new(side_a());
    let asked = t.provoke();
    let numbers: Vec<u8> = sa_of(&asked.payloads)
        .unwrap()
        .proposals
        .iter()
        .map(|p| p.number)
        .collect();
    assert!(numbers.iter().copied().eq(1..=numbers.len() as u8));
}

#[test]
fn numbers_with_gaps_are_refused() {
    for numbers in [[0, 1], [1, 3], [2, 3], [1, 1], [255, 0]] {
        let proposals = numbers.map(|number| ike(number, ike_transforms())).to_vec();
        let answer = offer(proposals);
        assert_eq!(answer.notifies(), [NotifyType::NO_PROPOSAL_CHOSEN], "{numbers:?}");
    }
}

#[test]
fn one_transform_of_each_type_as_it_came() {
    let mut transforms = vec![
        with_key(TransformType::ENCR, 12, 128),
        with_key(TransformType::ENCR, 20, 128),
        with_key(TransformType::ENCR, 20, 256),
        transform(TransformType::ENCR, 28),
        transform(TransformType::PRF, 7),
        transform(TransformType::PRF, 5),
        transform(TransformType::KE, 19),
        transform(TransformType::KE, 14),
        transform(TransformType::KE, 31),
    ];
    for _ in 0..transforms.len() {
        transforms.rotate_left(1);
        let answer = offer(vec![ike(1, transforms.clone())]);
        let mut chosen = taken(&answer).unwrap().transforms.clone();
        chosen.sort_by_key(|one| one.transform_type);
        assert_eq!(chosen, ike_transforms());
    }
}

#[test]
fn answers_that_are_none_of_our_proposals() {
    let with = |change: fn(&mut Vec<Transform>)| {
        let mut transforms = ike_transforms();
        change(&mut transforms);
        transforms
    };
    let cases: [(&str, u8, Vec<Transform>); 9] = [
        ("another number", 2, ike_transforms()),
        ("number 0", 0, ike_transforms()),
        (
            "a shorter key",
            1,
            with(|t| t[0] = with_key(TransformType::ENCR, 20, 128)),
        ),
        ("no key length", 1, with(|t| t[0] = transform(TransformType::ENCR, 20))),
        ("another PRF", 1, with(|t| t[1].id = 7)),
        ("no PRF", 1, with(|t| drop(t.remove(1)))),
        ("no key exchange", 1, with(|t| drop(t.remove(2)))),
        (
            "two ciphers",
            1,
            with(|t| t.push(with_key(TransformType::ENCR, 20, 256))),
        ),
        (
            "sequence numbers",
            1,
            with(|t| t.push(transform(TransformType::ESN, 0))),
        ),
    ];
    for (what, number, transforms) in cases {
        let mut t = Tester::new(side_a());
        let asked = t.provoke();
        let good = t.init_answer(&asked);
        let mut payloads = good.clone();
        payloads[0] = sa(vec![ike(number, transforms)]);
        let kept = t.sa.response.clone();
        t.answer_init(&payloads);
        t.sa.response = kept;
        assert!(t.out.is_empty(), "{what}");
        assert_eq!(t.stage(), Some("initiating"), "{what}");
    }
    // Of a Child SA: it is deleted, the IKE SA lives on.
    let esp = |number, transforms| vec![proposal(number, ProtocolId::ESP, &[1, 2, 3, 4], transforms)];
    let mut two = esp(1, esp_transforms());
    two.extend(esp(2, esp_transforms()));
    for (what, proposals) in [
        ("another number", esp(2, esp_transforms())),
        (
            "64-bit numbers",
            esp(
                1,
                vec![with_key(TransformType::ENCR, 20, 256), transform(TransformType::ESN, 1)],
            ),
        ),
        (
            "no sequence numbers",
            esp(1, vec![with_key(TransformType::ENCR, 20, 256)]),
        ),
        (
            "a shorter key",
            esp(
                1,
                vec![with_key(TransformType::ENCR, 20, 128), transform(TransformType::ESN, 0)],
            ),
        ),
        ("two", two),
        ("AH", vec![proposal(1, ProtocolId::AH, &[1, 2, 3, 4], esp_transforms())]),
    ] {
        let (mut t, asked) = Tester::until_auth(side_a());
        let mut payloads = t.auth_answer();
        payloads[2] = sa(proposals);
        t.respond(&asked.header, &payloads);
        assert!(t.is_up() && t.pairs() == 0, "{what}");
        let asked = t.next_request().expect(what);
        assert_eq!(deleted(&asked.payloads).len(), 1, "{what}");
    }
}

#[test]
fn what_is_not_understood_spoils_no_more_than_it_must() {
    // A type that nobody knows: proposal 1 is out, proposal 2 is taken.
    let mut odd = ike_transforms();
    odd.push(transform(TransformType(240), 1));
    assert_eq!(
        taken(&offer(vec![ike(1, odd.clone()), ike(2, ike_transforms())]))
            .unwrap()
            .number,
        2
    );
    assert!(taken(&offer(vec![ike(1, odd)])).is_none());
    // An ID that nobody knows, and an attribute: the other transforms of the type are as good as before.
    let strange = Transform {
        attributes: vec![
            Attribute::Short(AttributeType::KEY_LENGTH, 256),
            Attribute::Short(AttributeType(99), 1),
        ],
        ..transform(TransformType::ENCR, 20)
    };
    let long = Transform {
        attributes: vec![Attribute::Long(AttributeType(98), vec![1; 40])],
        ..transform(TransformType::PRF, 5)
    };
    let mut transforms = ike_transforms();
    transforms.splice(
        0..0,
        [strange.clone(), long.clone(), transform(TransformType::KE, 9999)],
    );
    let answer = offer(vec![ike(1, transforms)]);
    assert_eq!(taken(&answer).unwrap().transforms, ike_transforms());
    let mut transforms = ike_transforms();
    transforms[0] = strange;
    assert!(taken(&offer(vec![ike(1, transforms)])).is_none());
    let mut transforms = ike_transforms();
    transforms[1] = long;
    assert!(taken(&offer(vec![ike(1, transforms)])).is_none());
}

#[test]
fn key_lengths() {
    let mut b = side_b();
    b.ike_proposals = vec![IkeProposal::parse("chacha20poly1305-aes256gcm16-prfsha256-x25519").unwrap()];
    for (cipher, bits, ok) in [
        (20, Some(256), true),
        (20, None, false),
        (20, Some(257), false),
        (28, None, true),
        (28, Some(256), false),
    ] {
        let mut t = Tester::new(b.clone());
        let mut payloads = t.init_payloads();
        let mut transforms = ike_transforms();
        transforms[0] = match bits {
            Some(bits) => with_key(TransformType::ENCR, cipher, bits),
            None => transform(TransformType::ENCR, cipher),
        };
        payloads[0] = sa(vec![ike(1, transforms)]);
        let datagram = t.init_datagram(&payloads);
        let sent = t.ask(&datagram);
        assert_eq!(sa_of(&t.open(&sent).payloads).is_some(), ok, "{cipher} {bits:?}");
    }
}

#[test]
fn integrity_goes_with_ciphers_that_lack_it() {
    for (integrity, ok) in [(None, true), (Some(0), true), (Some(12), false)] {
        let mut transforms = ike_transforms();
        transforms.extend(integrity.map(|id| transform(TransformType::INTEG, id)));
        assert_eq!(taken(&offer(vec![ike(1, transforms)])).is_some(), ok, "{integrity:?}");
    }
}

#[test]
fn no_ike_sa_without_encryption_or_integrity() {
    let mut b = side_b();
    b.ike_proposals = vec![IkeProposal::parse("aes256-sha256-x25519").unwrap()];
    for (cipher, integrity, ok) in [
        (Some((12, 256)), Some(12), true),
        (Some((12, 256)), None, false),
        (Some((12, 256)), Some(0), false),
        (None, Some(12), false),
    ] {
        let mut t = Tester::new(b.clone());
        let mut payloads = t.init_payloads();
        let mut transforms = cbc_transforms();
        transforms[0] = match cipher {
            Some((id, bits)) => with_key(TransformType::ENCR, id, bits),
            None => transform(TransformType::ENCR, EncrId::NULL.0),
        };
        transforms.retain(|one| one.transform_type != TransformType::INTEG);
        transforms.extend(integrity.map(|id| transform(TransformType::INTEG, id)));
        payloads[0] = sa(vec![ike(1, transforms)]);
        let datagram = t.init_datagram(&payloads);
        let sent = t.ask(&datagram);
        assert_eq!(sa_of(&t.open(&sent).payloads).is_some(), ok, "{cipher:?} {integrity:?}");
    }
}

#[test]
fn aeads_stand_in_proposals_of_their_own() {
    let aead = |proposal: &IkeProposal| proposal.encryption.iter().map(|e| e.is_aead()).collect::<Vec<_>>();
    for proposal in IkeProposal::defaults() {
        let kinds = aead(&proposal);
        assert!(kinds.iter().all(|kind| *kind == kinds[0]), "{proposal}");
        assert_eq!(proposal.integrity.is_empty(), kinds[0]);
    }
    for proposal in EspProposal::defaults() {
        let kinds: Vec<bool> = proposal.encryption.iter().map(|e| e.is_aead()).collect();
        assert!(kinds.iter().all(|kind| *kind == kinds[0]), "{proposal}");
    }
    assert!(Encryption::AesGcm16_256.is_aead() && !Encryption::AesCbc256.is_aead());
    assert!(
        IkeProposal::parse("aes256gcm16-aes256-sha256-x25519").is_err(),
        "both in one are refused"
    );
    let _ = Integrity::HmacSha256_128;
}

#[test]
fn a_rekey_without_key_exchange_is_refused() {
    let none = |mut transforms: Vec<Transform>| {
        transforms[2].id = 0;
        transforms
    };
    let mut without = ike_transforms();
    without.truncate(2);
    for transforms in [none(ike_transforms()), without] {
        for with_ke in [true, false] {
            let mut t = Tester::up(side_b());
            let mut payloads = vec![
                sa(vec![proposal(1, ProtocolId::IKE, &[7; 8], transforms.clone())]),
                t.nonce(32),
            ];
            if with_ke {
                payloads.push(ke(KeMethod::CURVE25519, &[9; 32]));
            }
            let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
            assert!(sa_of(&answer.payloads).is_none());
            let want = if with_ke {
                NotifyType::NO_PROPOSAL_CHOSEN
            } else {
                NotifyType::INVALID_SYNTAX
            };
            assert_eq!(answer.notifies(), [want]);
        }
    }
}

#[test]
fn a_group_in_ike_auth_is_passed_over() {
    let mut t = Tester::new(side_b());
    let payloads = t.init_payloads();
    t.init(&payloads);
    let mut payloads = t.auth_payloads();
    payloads.truncate(2);
    payloads.extend(t.child_offer(true));
    let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(t.is_up() && t.pairs() == 1);
    let chosen = &sa_of(&answer.payloads).unwrap().proposals[0];
    assert!(
        chosen
            .transforms
            .iter()
            .all(|one| one.transform_type != TransformType::KE)
    );
    // Ours has none there.
    let (_, asked) = Tester::until_auth(side_a());
    let offered = sa_of(&asked.payloads).unwrap();
    let all = offered.proposals.iter().flat_map(|proposal| &proposal.transforms);
    assert!(all.into_iter().all(|one| one.transform_type != TransformType::KE));
}

#[test]
fn esp_proposals_that_lack_a_type() {
    for missing in [TransformType::ENCR, TransformType::ESN] {
        let mut transforms = esp_transforms();
        transforms.retain(|one| one.transform_type != missing);
        let mut t = Tester::new(side_b());
        let payloads = t.init_payloads();
        t.init(&payloads);
        let mut payloads = t.auth_payloads();
        payloads[2] = sa(vec![proposal(1, ProtocolId::ESP, &[1, 2, 3, 4], transforms.clone())]);
        let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert!(answer.has(NotifyType::NO_PROPOSAL_CHOSEN), "{missing}");
        assert!(t.is_up() && t.pairs() == 0);
        // Beside a whole one it does no harm.
        let mut t = Tester::new(side_b());
        let payloads = t.init_payloads();
        t.init(&payloads);
        let mut payloads = t.auth_payloads();
        payloads[2] = sa(vec![
            proposal(1, ProtocolId::ESP, &[1, 2, 3, 4], transforms),
            proposal(2, ProtocolId::ESP, &[1, 2, 3, 4], esp_transforms()),
        ]);
        t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert_eq!(t.pairs(), 1, "{missing}");
    }
}

#[test]
fn spi_sizes_of_ike() {
    for (len, ok) in [(0, true), (4, false), (8, false)] {
        let answer = offer(vec![proposal(1, ProtocolId::IKE, &vec![7; len], ike_transforms())]);
        assert_eq!(taken(&answer).is_some(), ok, "{len}");
    }
    for (len, ok) in [(0, false), (4, false), (7, false), (8, true), (9, false), (16, false)] {
        let mut t = Tester::up(side_b());
        let mut key = t.init_payloads();
        let payloads = vec![
            sa(vec![proposal(1, ProtocolId::IKE, &vec![7; len], ike_transforms())]),
            t.nonce(32),
            key.remove(1),
        ];
        let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
        assert_eq!(sa_of(&answer.payloads).is_some(), ok, "{len}");
    }
    // Zero is no SPI (§3.1).
    let mut t = Tester::up(side_b());
    let mut key = t.init_payloads();
    let payloads = vec![with_spi(ike_offer(t.sa.suite), &[0; 8]), t.nonce(32), key.remove(1)];
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
    assert!(sa_of(&answer.payloads).is_none());
}

#[test]
fn no_proposal_chosen_where_it_belongs() {
    let mut odd = ike_transforms();
    odd[1].id = 7;
    let answer = offer(vec![ike(1, odd)]);
    assert_eq!(answer.notifies(), [NotifyType::NO_PROPOSAL_CHOSEN]);
    assert_eq!(answer.header.spi_r, IkeSpi::ZERO);
    // For the first child, beside the proof; for another, alone.
    let mut t = Tester::new(side_b());
    let payloads = t.init_payloads();
    t.init(&payloads);
    let mut payloads = t.auth_payloads();
    payloads[2] = esp_words(9999, "chacha20poly1305", false);
    let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(
        answer
            .payloads
            .iter()
            .any(|payload| matches!(payload, Payload::Auth(_)))
    );
    assert_eq!(answer.notifies(), [NotifyType::NO_PROPOSAL_CHOSEN]);
    assert!(t.is_up() && t.pairs() == 0);
    let mut payloads = t.child_offer(true);
    payloads[0] = esp_words(9998, "chacha20poly1305-x25519", true);
    payloads.extend([t.nonce(32), ke(KeMethod::CURVE25519, &[9; 32])]);
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
    assert_eq!(answer.notifies(), [NotifyType::NO_PROPOSAL_CHOSEN]);
    t.assert_alive();
    assert!(t.is_up());
}
