//! Corner cases of choosing: RFC 7296 §2.9, §3.3.6; RFC 9370 §2.2.1.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

use landbridge_proto::crypto::Secret;
use landbridge_proto::policy::connection::*;
use landbridge_proto::policy::proposal::*;
use landbridge_proto::policy::sad::*;
use landbridge_proto::policy::selector::*;
use landbridge_proto::wire::*;
use std::sync::Arc;
use std::time::Duration;
fn list(t: &[&str]) -> Vec<TrafficSelector> {
    t.iter().map(|t| parse(t).unwrap()).collect()
}
#[test]
fn none_offered_beside_a_group_is_taken_without_pfs() {
    let mut o = EspProposal::to_wire(&[EspProposal::parse("aes256gcm16-ecp384").unwrap()], 0x12345678, true);
    o.proposals[0].transforms.push(Transform {
        transform_type: TransformType::KE,
        id: 0,
        attributes: vec![],
    });
    EspProposal::choose(&[EspProposal::parse("aes256gcm16").unwrap()], &o, true, None).unwrap();
}
#[test]
fn integ_none_is_returned() {
    let p = IkeProposal::parse("aes256gcm16-prfsha256-x25519").unwrap();
    let mut o = IkeProposal::to_wire(std::slice::from_ref(&p), &[]);
    let none = Transform {
        transform_type: TransformType::INTEG,
        id: 0,
        attributes: vec![],
    };
    o.proposals[0].transforms.push(none.clone());
    let c = IkeProposal::choose(&[p], &o, 0, None).unwrap();
    assert!(c.answer.transforms.contains(&none));
}
#[test]
fn e3_verify_refuses_what_was_not_offered() {
    let p = EspProposal::parse("aes256gcm16-ecp384").unwrap();
    let mut o = EspProposal::to_wire(&[EspProposal::parse("aes256gcm16-modp2048").unwrap()], 0x12345678, true);
    o.proposals[0]
        .transforms
        .retain(|t| !(t.transform_type == TransformType::ESN && t.id == 1));
    assert!(
        EspProposal::verify_answer(&[p], &o, false).is_err(),
        "a group in IKE_AUTH"
    );
}
#[test]
fn h4_subset_by_union() {
    assert!(is_subset(
        &list(&["10.1.0.0/23"]),
        &list(&["10.1.0.0/24", "10.1.1.0/24"])
    ));
}
#[test]
fn addke_none() {
    let p = IkeProposal::parse("aes256gcm16-prfsha256-x25519").unwrap();
    let mut o = IkeProposal::to_wire(std::slice::from_ref(&p), &[]);
    o.proposals[0].transforms.push(Transform {
        transform_type: TransformType::ADDKE1,
        id: 36,
        attributes: vec![],
    });
    o.proposals[0].transforms.push(Transform {
        transform_type: TransformType::ADDKE1,
        id: 0,
        attributes: vec![],
    });
    IkeProposal::choose(&[p], &o, 0, None).unwrap();
}
#[test]
fn h1_first_selectors_decide() {
    let child = |n: &str, l: &[&str]| Child {
        name: n.into(),
        local_ts: list(l),
        remote_ts: list(&["10.2.0.0/16"]),
        esp_proposals: EspProposal::defaults(),
        rekey_time: None,
        life_time: None,
        rand_time: Duration::ZERO,
        limits: TrafficLimits::default(),
        mode: Mode::Tunnel,
        replay_window: 64,
        tfc_padding: None,
        iptfs: None,
        pairs: 1,
        start_action: StartAction::None,
        close_action: StartAction::None,
    };
    let mut c = Connection {
        name: "c".into(),
        local_addrs: vec![],
        remote_addrs: vec![],
        remote_port: 500,
        ike_proposals: vec![],
        local: LocalAuth {
            id: Identification {
                id_type: IdType::FQDN,
                reserved: [0; 3],
                data: b"x".to_vec(),
            },
            credential: LocalCredential::Psk(Secret::new(vec![1])),
        },
        remote: RemoteAuth {
            id: None,
            credential: RemoteCredential::Psk(vec![]),
        },
        ike_rekey_time: None,
        reauth_time: None,
        dpd_delay: None,
        fragmentation: true,
        fragment_size: 1280,
        force_udp_encapsulation: false,
        mobike: false,
        tcp: Default::default(),
        tcp_port: 4500,
        ppk: Default::default(),
        resumption: false,
        follow_redirects: false,
        redirect_to: None,
        keep_trying: true,
        children: Default::default(),
    };
    for x in [child("a", &["10.1.0.0/24"]), child("b", &["10.1.1.0/24"])] {
        c.children.insert(x.name.clone(), Arc::new(x));
    }
    let ch = landbridge_proto::policy::spd::choose_child(
        &c,
        None,
        &list(&["10.1.1.7[tcp/443]", "10.1.0.0/16"]),
        &list(&["10.2.0.9[tcp/50000]", "10.2.0.0/16"]),
    )
    .unwrap();
    assert_eq!(&*ch.child.name, "b");
}
#[test]
fn spi_differs_in_a_slots_next_life() {
    use rand_core::SeedableRng;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let mut s = landbridge_proto::policy::spi::SpiAllocator::default();
    let mut last = std::collections::BTreeMap::new();
    for _ in 0..200_000 {
        let x = s.allocate(0, &mut rng).unwrap();
        let old = last.insert(landbridge_proto::policy::spi::slot_of(x), x);
        assert_ne!(old, Some(x));
        s.release(x);
    }
}
