use super::*;
use crate::wire::{Attribute, AttributeType, ProtocolId, SecurityAssociation, TransformType};

fn ike(text: &str) -> IkeProposal {
    IkeProposal::parse(text).unwrap()
}

fn esp(text: &str) -> EspProposal {
    EspProposal::parse(text).unwrap()
}

#[test]
fn words_survive_a_round_trip() {
    for text in [
        "aes256gcm16-prfsha384-ecp384",
        "aes192gcm16-prfsha1-ecp521",
        "aes128-aes192-aes256-sha256-sha512-prfsha256-x25519-modp2048",
        "aes256-sha1-prfsha1-modp1024-modp1536-modp2048s256-modp6144-modp8192",
    ] {
        assert_eq!(ike(text).to_string(), text);
    }
    for text in [
        "aes256gcm16-ecp384",
        "aes128-sha256-modp2048-esn-noesn",
        "null-sha256",
        "chacha20poly1305",
    ] {
        assert_eq!(esp(text).to_string(), text);
    }
    assert_eq!(ike("aes256-sha512-modp4096").prf, [PrfAlgorithm::HmacSha512]);
    assert_eq!(ike("aes256-sha1-modp1024").prf, [PrfAlgorithm::HmacSha1]);
}

#[test]
fn wrong_words_get_a_remedy() {
    let problem = |text: &str| IkeProposal::parse(text).unwrap_err().problem;
    assert!(problem("aes256gmc16-prfsha384-ecp384").contains("did you mean \"aes256gcm16\""));
    assert!(problem("aes256gcm16-sha384-ecp384").contains("prfsha384"));
    assert!(problem("aes256gcm16-ecp384").contains("PRF"));
    assert!(problem("aes256-md5-modp2048").contains("sha256"));
    assert!(problem("3des-sha256-modp2048").contains("aes256gcm16"));
    for (word, group) in [
        ("modp768", "group 1 "),
        ("modp1024s160", "group 22"),
        ("modp2048s224", "group 23"),
    ] {
        assert!(problem(&format!("aes256-sha256-{word}")).contains(group));
    }
    assert!(problem("aes256gcm16-aes256-sha256-prfsha256-x25519").contains("write two"));
    assert!(problem("aes256-modp2048").contains("integrity"));
    assert!(problem("null-sha256-x25519").contains("encryption"));
    assert!(problem("aes256-sha256").contains("key exchange"));
    assert!(EspProposal::parse("aes256gcm16-prfsha256").is_err());
}

#[test]
fn a_choice_is_one_transform_of_each_type_as_it_came() {
    // RFC 7296 §3.3.6: "the responder MUST choose ... exactly one"
    let offer = IkeProposal::to_wire(&IkeProposal::defaults(), &[]);
    let ours = [ike("aes256-sha384-ecp384"), ike("aes128gcm16-prfsha256-ecp256-x25519")];
    let chosen = IkeProposal::choose(&ours, &offer, 0, Some(Group::Curve25519)).unwrap();
    assert_eq!(chosen.suite.to_string(), "aes256-sha384-prfsha384-ecp384");
    assert_eq!((chosen.answer.number, chosen.answer.transforms.len()), (3, 4));
    let answer = SecurityAssociation {
        proposals: vec![chosen.answer],
    };
    let verified = IkeProposal::verify_answer(&IkeProposal::defaults(), &answer, 0).unwrap();
    assert_eq!(verified.suite, chosen.suite);
    let second = IkeProposal::choose(&ours[1..], &offer, 0, Some(Group::Curve25519)).unwrap();
    assert_eq!(
        second.suite.group,
        Group::Curve25519,
        "the group of the KE at hand saves a round trip"
    );
}

#[test]
fn an_answer_that_was_not_offered_is_refused() {
    let ours = [ike("aes256gcm16-prfsha384-ecp384")];
    let offer = IkeProposal::to_wire(&ours, &[]);
    let good = IkeProposal::choose(&ours, &offer, 0, None).unwrap().answer;
    let refused = |change: &dyn Fn(&mut crate::wire::Proposal)| {
        let mut proposal = good.clone();
        change(&mut proposal);
        IkeProposal::verify_answer(
            &ours,
            &SecurityAssociation {
                proposals: vec![proposal],
            },
            0,
        )
        .is_err()
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|p| p.number = 2));
    assert!(refused(
        &|p| p.transforms[0].attributes = vec![Attribute::Short(AttributeType::KEY_LENGTH, 128)]
    ));
    assert!(refused(&|p| drop(p.transforms.pop())));
    assert!(refused(&|p| p.transforms.push(p.transforms[0].clone())));
    assert!(refused(&|p| p.protocol = ProtocolId::ESP));
    assert!(refused(&|p| p.spi = vec![0; 8]));
    assert!(refused(&|p| p.transforms[1].id = 99));
}

#[test]
fn what_is_unknown_spoils_only_what_the_rfc_says() {
    let ours = [ike("aes256gcm16-prfsha384-ecp384")];
    let mut offer = IkeProposal::to_wire(&[ours[0].clone(), ours[0].clone()], &[]);
    // RFC 7296 §3.3.6: an unknown transform type makes the proposal unacceptable, others are processed.
    offer.proposals[0].transforms[0].transform_type = TransformType(240);
    assert_eq!(IkeProposal::choose(&ours, &offer, 0, None).unwrap().answer.number, 2);
    // An unknown attribute makes the transform unacceptable.
    offer.proposals[1].transforms[0]
        .attributes
        .push(Attribute::Short(AttributeType(99), 1));
    assert!(IkeProposal::choose(&ours, &offer, 0, None).is_err());
    // §3.3.5: AES without a key length is not understood.
    let mut offer = IkeProposal::to_wire(&ours, &[]);
    offer.proposals[0].transforms[0].attributes.clear();
    assert!(IkeProposal::choose(&ours, &offer, 0, None).is_err());
    // §3.3.1: numbering.
    let mut offer = IkeProposal::to_wire(&ours, &[]);
    offer.proposals[0].number = 0;
    assert!(IkeProposal::choose(&ours, &offer, 0, None).is_err());
}

#[test]
fn esp_needs_esn_and_agreement_about_pfs() {
    let (plain, pfs) = ([esp("aes256gcm16")], [esp("aes256gcm16-ecp384")]);
    let offer = |list: &[EspProposal]| EspProposal::to_wire(list, 0x1234, true);
    assert!(EspProposal::choose(&plain, &offer(&pfs), true, None).is_err());
    assert!(EspProposal::choose(&pfs, &offer(&plain), true, None).is_err());
    assert_eq!(
        EspProposal::choose(&pfs, &offer(&pfs), true, None).unwrap().suite.group,
        Some(Group::Ecp384)
    );
    // RFC 7296 §1.2: no KE in IKE_AUTH, so no group either, whatever stands there.
    let chosen = EspProposal::choose(&plain, &offer(&pfs), false, None).unwrap();
    assert_eq!((chosen.suite.group, chosen.peer_spi), (None, vec![0, 0, 0x12, 0x34]));
    // §3.3.3: ESP proposals must have the ESN transform.
    let mut without = offer(&plain);
    without.proposals[0]
        .transforms
        .retain(|t| t.transform_type != TransformType::ESN);
    assert!(EspProposal::choose(&plain, &without, true, None).is_err());
}

#[test]
fn no_common_choice_names_both_sides_and_the_remedy() {
    let offer = IkeProposal::to_wire(&[ike("aes256-sha256-modp2048")], &[]);
    let error = IkeProposal::choose(&[ike("aes256gcm16-prfsha384-ecp384")], &offer, 0, None).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("aes256-prfsha256-sha256-modp2048") && text.contains("aes256gcm16-prfsha384-ecp384"),
        "{text}"
    );
    assert!(error.hint.unwrap().contains("encryption"));
}
