//! Group M: IKE fragmentation (RFC 7383).

use crate::ike_pump::{SITE, side_a, side_b};
use crate::peer::messages::*;
use crate::peer::{Sent, Tester, seal};
use crate::table::Level::{Must, Practice, Should};
use crate::table::{Row, here, row, there};
use landbridge_proto::ike::Command;
use landbridge_proto::policy::connection::Connection;
use landbridge_proto::wire::*;
use std::time::Duration;

const FRAG: &str = "proto/src/ike/frag.rs";
const PEER: &str = "proto/tests/ike_peer.rs";
const ENDPOINT: &str = "proto/tests/endpoint.rs";

pub fn rows() -> Vec<Row> {
    vec![
        row(
            ("M1", "RFC 7383 §2.3", Must),
            "only if both announced it, never in IKE_SA_INIT",
            "IKE fragmentation MUST NOT be used unless both peers have indicated their support for it.",
            here!(fragments_only_if_both_want_them),
            here!(fragments_nobody_asked_for),
        ),
        row(
            ("M2", "RFC 7383 §2.5", Must),
            "numbers from 1 to the total, the first payload's type in fragment 1 alone, each sealed by itself",
            "In the rest of the Fragment messages (with Fragment Number greater than 1), this field MUST be set to zero.",
            here!(our_fragments_are_as_they_should_be),
            there(ENDPOINT, "large_messages_go_in_fragments"),
        ),
        row(
            ("M3", "RFC 7383 §2.5.1", Should),
            "fragments fit the path",
            "When splitting the content of an Encrypted payload into chunks, the sender SHOULD choose their size so that the \
             resulting IP datagrams will be smaller than some fragmentation threshold.",
            here!(our_fragments_are_as_they_should_be),
            there(PEER, "fragments_become_smaller_on_a_narrow_way"),
        ),
        row(
            ("M4", "RFC 7383 §2.5", Must),
            "numbers of 0, beyond the total or far beyond need are dropped, and so are duplicates",
            "This field MUST be less than or equal to the next field (Total Fragments).",
            there("proto/tests/wire.rs", "fragment_numbers"),
            here!(fragments_that_can_not_be),
        ),
        row(
            ("M5", "RFC 7383 §2.6", Must),
            "a larger total begins anew, a smaller one is ignored",
            "o If reassembling is not finished yet and the Total Fragments field in the received fragment is greater than the \
             Total Fragments field in those fragments that are in the reassembling queue, the receiver MUST discard all \
             received fragments and start the reassembly process over with just the received IKE Fragment message.",
            here!(a_larger_total_begins_anew),
            there(FRAG, "a_larger_total_restarts_and_a_smaller_is_dropped"),
        ),
        row(
            ("M6", "RFC 7383 §2.6", Must),
            "any order, bounded in memory and time",
            "If the receiver does not get all IKE fragments needed to reassemble the original message within a timeout \
             interval, it MUST discard all IKE Fragment messages received so far for the exchange.",
            here!(fragments_in_any_order),
            there(FRAG, "memory_and_time_are_bounded"),
        ),
        row(
            ("M7", "RFC 7383 §2.6.1", Must),
            "after the answer only fragment 1 draws it again",
            "that event MUST only trigger a retransmission of the response message (fragmented or not) if the Fragment Number \
             field in the received fragment is set to 1; otherwise, it MUST be ignored.",
            here!(only_fragment_1_draws_the_answer_again),
            there("proto/src/ike/window.rs", "a_repeated_request_is_told_by_its_octets"),
        ),
        row(
            ("M8", "RFC 7383 §2.5.2", Must),
            "the path is probed with ever smaller fragments",
            "While doing probes, it MUST start from larger values and refragment the original message, using the next smaller \
             value of the threshold if it did not receive a response in a reasonable time after several retransmissions.",
            there(PEER, "fragments_become_smaller_on_a_narrow_way"),
            there(PEER, "a_request_cut_anew_is_answered_once_more"),
        ),
        row(
            ("M9", "RFC 7383 §2.4", Practice),
            "a message in fragments may be answered whole, and the other way round",
            "practice: request and response are fragmented independently",
            here!(whole_answers_to_fragments_and_fragments_to_whole_requests),
            there(ENDPOINT, "large_messages_go_in_fragments"),
        ),
        row(
            ("M10", "RFC 7383 §2.6", Must),
            "what fails its integrity check never comes into the queue",
            "If the ICV check fails, the message MUST be silently discarded.",
            here!(forged_fragments_poison_nothing),
            there("proto/tests/matrix", "half_open"),
        ),
    ]
}

/// Up with fragmentation announced by T, or not.
fn up(connection: Connection, announced: bool) -> Tester {
    let mut t = Tester::new(connection);
    let mut payloads = t.init_payloads();
    payloads.extend(announced.then(|| notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)));
    let answer = t.init(&payloads);
    assert_eq!(answer.has(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED), announced);
    let payloads = t.auth_payloads();
    t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(t.is_up());
    t
}

fn is_fragment(sent: &Sent) -> bool {
    matches!(decode_outer(&sent.octets).unwrap().body, OuterBody::Skf { .. })
}

/// A side whose messages don't fit into its fragment size.
fn small(mut connection: Connection) -> Connection {
    connection.fragment_size = 200;
    connection
}

#[test]
fn fragments_only_if_both_want_them() {
    for announced in [true, false] {
        // The answer to a rekey of the IKE SA is longer than 200 octets.
        let mut t = up(small(side_b()), announced);
        let mut key = t.init_payloads();
        let payloads = [with_spi(ike_offer(t.sa.suite), &[6; 8]), t.nonce(32), key.remove(1)];
        let header = t.sa.header(ExchangeType::CREATE_CHILD_SA, false, t.sa.next);
        let datagram = t.seal(&header, &payloads).remove(0);
        let sent = t.ask(&datagram);
        assert_eq!(sent.len() > 1, announced);
        assert!(sent.iter().all(|sent| is_fragment(sent) == announced));
    }
    // IKE_SA_INIT goes whole, however long it is.
    let mut t = Tester::new(small(side_a()));
    let asked = t.provoke();
    assert!(asked.has(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED));
    let mut off = side_a();
    off.fragmentation = false;
    let mut t = Tester::new(off);
    assert!(!t.provoke().has(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED));
}

#[test]
fn fragments_nobody_asked_for() {
    let mut t = up(side_b(), false);
    let header = t.sa.header(ExchangeType::INFORMATIONAL, false, t.sa.next);
    let fragment = seal::fragment(&t.sa, &header, PayloadType::NONE, &[], (1, 1));
    assert!(t.ask(&fragment).is_empty());
    assert_eq!(t.counters().fragments_dropped, 1);
    t.assert_alive();
}

#[test]
fn our_fragments_are_as_they_should_be() {
    let mut t = up(small(side_b()), true);
    let mut key = t.init_payloads();
    let mut payloads = t.child_offer(true);
    payloads.extend([t.nonce(32), key.remove(1)]);
    let header = t.sa.header(ExchangeType::CREATE_CHILD_SA, false, t.sa.next);
    let datagram = t.seal(&header, &payloads).remove(0);
    let sent = t.ask(&datagram);
    assert!(sent.len() > 1);
    let mut ivs = std::collections::BTreeSet::new();
    for (index, one) in sent.iter().enumerate() {
        // IPv4 and UDP headers and the marker on top.
        assert!(one.octets.len() + 20 + 8 + 4 <= 200, "{}", one.octets.len());
        let outer = decode_outer(&one.octets).unwrap();
        assert_eq!(
            outer.header,
            Header {
                flags: Flags {
                    initiator: false,
                    response: true
                },
                ..header
            }
        );
        let OuterBody::Skf {
            fragment,
            total,
            protected,
            ..
        } = outer.body
        else {
            panic!("no fragment")
        };
        assert_eq!((usize::from(fragment), usize::from(total)), (index + 1, sent.len()));
        // The raw field, which the codec does not look at beyond fragment 1.
        assert_eq!(one.octets[28] == 0, index > 0);
        assert!(ivs.insert(protected[..8].to_vec()), "an IV twice");
    }
    let answer = t.open(&sent);
    assert!(sa_of(&answer.payloads).is_some());
}

/// T's next request, an empty one, in pieces of one octet each of a Vendor ID payload.
fn pieces(t: &Tester, count: u16) -> Vec<Vec<u8>> {
    let chain = [
        &[0, 0][..],
        &(count + 3).to_be_bytes(),
        &vec![7; usize::from(count) - 1],
    ]
    .concat();
    assert_eq!(chain.len(), usize::from(count) + 3);
    let header = t.sa.header(ExchangeType::INFORMATIONAL, false, t.sa.next);
    (1..=count)
        .map(|number| {
            let part = if number == 1 {
                &chain[..4]
            } else {
                &chain[usize::from(number) + 2..usize::from(number) + 3]
            };
            let first = if number == 1 {
                PayloadType::VENDOR_ID
            } else {
                PayloadType::NONE
            };
            seal::fragment(&t.sa, &header, first, part, (number, count))
        })
        .collect()
}

#[test]
fn fragments_in_any_order() {
    for rotate in 0..5 {
        for reverse in [true, false] {
            let mut t = up(side_b(), true);
            let mut parts = pieces(&t, 5);
            parts.rotate_left(rotate);
            if reverse {
                parts.reverse();
            }
            let last = parts.pop().unwrap();
            for part in &parts {
                assert!(t.ask(part).is_empty());
                assert!(t.ask(part).is_empty(), "twice is as good as once");
            }
            assert_eq!(t.ask(&last).len(), 1);
            t.sa.next += 1;
            t.assert_alive();
        }
    }
    // A gap, and a long time: all is forgotten; from the start again it works.
    let mut t = up(side_b(), true);
    let parts = pieces(&t, 5);
    parts[..4].iter().for_each(|part| t.send(part));
    t.pass(Duration::from_secs(120));
    assert!(t.ask(&parts[4]).is_empty());
    parts[..3].iter().for_each(|part| t.send(part));
    assert_eq!(t.ask(&parts[3]).len(), 1);
}

#[test]
fn fragments_that_can_not_be() {
    let mut t = up(side_b(), true);
    let header = t.sa.header(ExchangeType::INFORMATIONAL, false, t.sa.next);
    let state = t.state();
    for (number, total) in [
        (0, 1),
        (1, 0),
        (0, 0),
        (2, 1),
        (65_535, 1),
        (1, 65_535),
        (65_535, 65_535),
        (1, 1000),
        (1000, 1000),
    ] {
        let odd = seal::fragment(&t.sa, &header, PayloadType::VENDOR_ID, &[0, 0, 0, 4], (number, total));
        assert!(t.ask(&odd).is_empty(), "{number} of {total}");
        assert_eq!(t.state(), state);
    }
    // As many as are taken, as large as they come: more than 64 KiB are never kept.
    for number in 1..=150 {
        let large = seal::fragment(&t.sa, &header, PayloadType::VENDOR_ID, &vec![0; 60_000], (number, 150));
        assert!(t.ask(&large).is_empty());
    }
    assert!(t.counters().fragments_dropped > 50);
    // Zero octets in each.
    for number in 1..=100 {
        let empty = seal::fragment(&t.sa, &header, PayloadType::NONE, &[], (number, 101));
        assert!(t.ask(&empty).is_empty());
    }
    t.assert_alive();
}

#[test]
fn a_larger_total_begins_anew() {
    let mut t = up(side_b(), true);
    let (three, five) = (pieces(&t, 3), pieces(&t, 5));
    t.send(&three[0]);
    t.send(&three[1]);
    t.send(&five[0]);
    // The smaller total is out of date now.
    assert!(t.ask(&three[2]).is_empty());
    five[1..4].iter().for_each(|part| t.send(part));
    assert_eq!(t.ask(&five[4]).len(), 1);
}

#[test]
fn only_fragment_1_draws_the_answer_again() {
    let mut t = up(side_b(), true);
    let parts = pieces(&t, 4);
    parts[..3].iter().for_each(|part| t.send(part));
    let answer = t.ask(&parts[3]);
    assert_eq!(answer.len(), 1);
    for (index, part) in parts.iter().enumerate() {
        let again = t.ask(part);
        assert_eq!(again.len(), usize::from(index == 0), "fragment {}", index + 1);
        if index == 0 {
            assert_eq!(again[0].octets, answer[0].octets);
        }
    }
}

#[test]
fn whole_answers_to_fragments_and_fragments_to_whole_requests() {
    // T in fragments, the DUT whole.
    let mut t = up(side_b(), true);
    let parts = pieces(&t, 4);
    parts[..3].iter().for_each(|part| t.send(part));
    assert!(!is_fragment(&t.ask(&parts[3])[0]));
    // T whole, the DUT in fragments: see M2. And the DUT's requests, answered whole and in fragments.
    for in_fragments in [false, true] {
        let mut t = Tester::new(small(side_a()));
        let asked = t.provoke();
        let mut payloads = t.init_answer(&asked);
        payloads.push(notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED));
        t.answer_init(&payloads);
        let sent: Vec<_> = t.out.drain(..).collect();
        assert!(sent.len() > 1 && sent.iter().all(is_fragment));
        let asked = t.open(&sent);
        t.fragment = in_fragments.then_some(160);
        let payloads = t.auth_answer();
        t.respond(&asked.header, &payloads);
        assert!(t.is_up() && t.pairs() == 1);
        t.command(Command::Down {
            connection: SITE.into(),
            child: None,
        });
        assert_eq!(
            t.next_request().unwrap().payloads,
            [delete_ike()],
            "a small one goes whole"
        );
    }
}

#[test]
fn forged_fragments_poison_nothing() {
    let mut t = up(side_b(), true);
    let parts = pieces(&t, 4);
    for part in &parts {
        for at in [28, 33, 35, 36, 44, part.len() - 1] {
            let mut forged = part.clone();
            forged[at] ^= 1;
            assert!(t.ask(&forged).is_empty());
        }
        // One of T's own with another total does not hurt either, if it is smaller.
    }
    parts[..3].iter().for_each(|part| t.send(part));
    assert_eq!(t.ask(&parts[3]).len(), 1);
}
