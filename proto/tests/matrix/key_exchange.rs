//! Public values that are none (RFC 6989 §2, RFC 8031 §5): in the first message and its answer, in CREATE_CHILD_SA and its
//! answer, for every group there is. A wrong one never leads to keys, and never to a panic.

use crate::ike_pump::{SITE, child, side_a, side_b};
use crate::peer::Tester;
use crate::peer::messages::*;
use landbridge_proto::crypto::{Group, IKE_PROVIDER};
use landbridge_proto::ike::Command;
use landbridge_proto::policy::connection::{Connection, StartAction};
use landbridge_proto::policy::proposal::IkeProposal;
use landbridge_proto::wire::{ExchangeType, NotifyType, Payload};

const GROUPS: [(Group, &str); 6] = [
    (Group::Curve25519, "x25519"),
    (Group::Ecp256, "ecp256"),
    (Group::Ecp384, "ecp384"),
    (Group::Modp2048, "modp2048"),
    (Group::Modp3072, "modp3072"),
    (Group::Modp4096, "modp4096"),
];

fn with_group(mut connection: Connection, word: &str) -> Connection {
    connection.ike_proposals = vec![IkeProposal::parse(&format!("aes256gcm16-prfsha256-{word}")).unwrap()];
    let (local, remote) = if &*connection.local.id.to_string() == "a.example" {
        ("10.1.0.0/16", "10.2.0.0/16")
    } else {
        ("10.2.0.0/16", "10.1.0.0/16")
    };
    let start = connection.children[&std::sync::Arc::from("net")].start_action;
    let net = child("net", local, remote, &format!("aes256gcm16-{word}"), start);
    connection.children = [("net".into(), net)].into();
    assert!(matches!(start, StartAction::Start | StartAction::None));
    connection
}

fn tester(connection: Connection, group: Group, word: &str) -> Tester {
    let mut t = Tester::new(with_group(connection, word));
    t.sa.suite.group = group;
    t
}

/// Values of this group that are no public key.
fn wrong_values(group: Group) -> Vec<(&'static str, Vec<u8>)> {
    let len = (IKE_PROVIDER.key_exchange)(group).unwrap().public_len();
    let mut one = vec![0; len];
    one[len - 1] = 1;
    let mut out = vec![
        ("empty", vec![]),
        ("one octet", vec![2]),
        ("short", vec![2; len - 1]),
        ("long", vec![2; len + 1]),
        ("very long", vec![2; 4000]),
        ("zero", vec![0; len]),
    ];
    match group {
        Group::Curve25519 => {
            // RFC 7748's points of low order, which give an all-zero secret.
            out.push(("one", {
                let mut low = vec![0; 32];
                low[0] = 1;
                low
            }));
            let mut p = vec![0xff; 32];
            (p[0], p[31]) = (0xed, 0x7f);
            out.push(("p", p.clone()));
            p[0] = 0xec;
            out.push(("p-1", p.clone()));
            p[0] = 0xee;
            out.push(("p+1", p));
            out.push((
                "order 8",
                vec![
                    0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
                    0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
                ],
            ));
        }
        Group::Ecp256 | Group::Ecp384 => {
            out.push(("off the curve", vec![1; len]));
            out.push(("beyond the field", vec![0xff; len]));
            out.push(("with a SEC 1 prefix", [vec![4], vec![1; len]].concat()));
        }
        _ => {
            out.push(("one", one));
            // RFC 3526: all these primes begin and end with 64 one bits; the value of all ones is above them.
            out.push(("above p", vec![0xff; len]));
        }
    }
    out
}

#[test]
fn in_a_first_message() {
    for (group, word) in GROUPS {
        for (what, value) in wrong_values(group) {
            let mut t = tester(side_b(), group, word);
            let mut payloads = t.init_payloads();
            payloads[1] = ke(group.method(), &value);
            let datagram = t.init_datagram(&payloads);
            let sent = t.ask(&datagram);
            assert!(t.status().is_empty(), "{word}: {what}: state");
            assert!(sent.len() <= 1, "{word}: {what}");
            assert_eq!(t.dut.spis_in_use(), 0);
        }
        // The group is not another's, nor of nobody.
        for method in [0, 1, 2, 5, 22, 23, 24, 31, 19, 9999] {
            let mut t = tester(side_b(), group, word);
            if method == group.method().0 {
                continue;
            }
            let mut payloads = t.init_payloads();
            let Payload::Ke(own) = payloads[1].clone() else {
                unreachable!()
            };
            payloads[1] = ke(landbridge_proto::wire::KeMethod(method), &own.data);
            let answer = t.init(&payloads);
            assert_eq!(answer.notifies(), [NotifyType::INVALID_KE_PAYLOAD]);
            assert_eq!(answer.all_notifies()[0].data, group.method().0.to_be_bytes());
            assert!(t.status().is_empty());
        }
    }
}

#[test]
fn in_the_answer_to_a_first_message() {
    for (group, word) in GROUPS {
        let mut t = tester(side_a(), group, word);
        let asked = t.provoke();
        let good = t.init_answer(&asked);
        for (what, value) in wrong_values(group) {
            let mut payloads = good.clone();
            payloads[1] = ke(group.method(), &value);
            let kept = t.sa.response.clone();
            t.answer_init(&payloads);
            t.sa.response = kept;
            assert_eq!(t.stage(), Some("initiating"), "{word}: {what}");
            assert!(t.out.is_empty(), "{word}: {what}: it went on");
        }
        // The attempt is not spoiled: the right answer still is one.
        t.answer_init(&good);
        let asked = t.next_request().expect(word);
        let payloads = t.auth_answer();
        t.respond(&asked.header, &payloads);
        assert!(t.is_up() && t.pairs() == 1, "{word}");
    }
}

#[test]
fn in_a_request_for_a_child_and_for_an_ike_sa() {
    for (group, word) in GROUPS {
        for (what, value) in wrong_values(group) {
            for rekey_ike in [false, true] {
                let mut t = tester(side_b(), group, word);
                t.begin();
                let mut payloads = if rekey_ike {
                    vec![with_spi(ike_offer(t.sa.suite), &[7; 8])]
                } else {
                    t.esp += 1;
                    child_payloads(t.esp, group)
                };
                payloads.push(t.nonce(32));
                payloads.push(ke(group.method(), &value));
                let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).expect(what);
                assert!(sa_of(&answer.payloads).is_none(), "{word}: {what}");
                assert_eq!(answer.notifies(), [NotifyType::INVALID_SYNTAX], "{word}: {what}");
                assert!(t.pairs() <= 1, "{word}: {what}");
                assert!(t.dut.spis_in_use() <= t.pairs(), "{word}: {what}: an SPI is lost");
            }
        }
    }
}

fn child_payloads(spi: u32, group: Group) -> Vec<Payload> {
    crate::peer::messages::child(spi, Some(group.method()), "10.1.0.0/16", "10.2.0.0/16")
}

#[test]
fn in_the_answer_about_a_child() {
    for (group, word) in GROUPS {
        for (what, value) in wrong_values(group) {
            let mut t = tester(side_a(), group, word);
            let asked = t.provoke();
            let payloads = t.init_answer(&asked);
            t.answer_init(&payloads);
            let asked = t.next_request().unwrap();
            let payloads = t.auth_answer();
            t.respond(&asked.header, &payloads);
            assert!(t.is_up());
            t.command(Command::RekeyChild {
                connection: SITE.into(),
                child: None,
            });
            let asked = t.next_request().unwrap();
            t.esp += 1;
            let mut payloads = child_payloads(t.esp, group);
            payloads.push(t.nonce(32));
            payloads.push(ke(group.method(), &value));
            t.respond(&asked.header, &payloads);
            assert_eq!(t.pairs(), 1, "{word}: {what}: the old pair lives on alone");
            // What the peer takes for made is deleted.
            let asked = t.next_request().expect(what);
            assert_eq!(deleted(&asked.payloads).len(), 1, "{word}: {what}");
            t.respond(&asked.header, &[]);
            assert_eq!(t.dut.spis_in_use(), 1, "{word}: {what}");
            t.assert_alive();
        }
    }
}
