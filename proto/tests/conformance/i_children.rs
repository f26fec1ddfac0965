//! Group I: CREATE_CHILD_SA: new Child SAs, rekeys, and what crosses them.

use crate::ike_pump::{SITE, child, side_a, side_b};
use crate::peer::messages::*;
use crate::peer::{Message, Tester};
use crate::table::Level::{Must, Practice, Should};
use crate::table::{Row, here, row, there};
use landbridge_proto::crypto::IKE_PROVIDER;
use landbridge_proto::ike::Command;
use landbridge_proto::policy::connection::{Connection, StartAction};
use landbridge_proto::wire::*;
use std::sync::Arc;
use std::time::Duration;

const CHILD: &str = "proto/tests/ike_child.rs";
const IKE: &str = "proto/tests/ike_rekey_ike.rs";

pub fn rows() -> Vec<Row> {
    let mut rows = made_and_replaced();
    rows.extend(crossing());
    rows
}

fn made_and_replaced() -> Vec<Row> {
    vec![
        row(
            ("I1", "RFC 7296 §1.3", Must),
            "a new Child SA with and without PFS; KE if and only if a group is proposed",
            "If a CREATE_CHILD_SA exchange includes a KEi payload, at least one of the SA offers MUST include the \
             Diffie-Hellman group of the KEi.",
            here!(children_with_and_without_pfs),
            here!(pfs_is_not_given_up),
        ),
        row(
            ("I2", "RFC 7296 §1.3", Must),
            "another group at the responder's wish, in a new exchange",
            "If the responder selects a proposal using a different Diffie-Hellman group (other than NONE), the responder MUST \
             reject the request and indicate its preferred Diffie-Hellman group in the INVALID_KE_PAYLOAD Notify payload.",
            there(CHILD, "another_group_at_the_peers_wish"),
            here!(a_group_never_proposed_is_not_used),
        ),
        row(
            ("I3", "RFC 7296 §2.8", Must),
            "the responder receives on the new SA before its answer leaves",
            "The responder to a CREATE_CHILD_SA MUST be prepared to accept messages on an SA before sending its response to \
             the creation request, so there is no ambiguity for the initiator.",
            here!(inbound_is_installed_before_the_answer),
            there("tests/interop/lifecycle.rs", "a_rekey_while_data_move_loses_nothing"),
        ),
        row(
            ("I4", "RFC 7296 §2.25", Must),
            "REKEY_SA names the requester's inbound SPI; an unknown one is CHILD_SA_NOT_FOUND with it",
            "A CHILD_SA_NOT_FOUND notification SHOULD be sent when a peer receives a request to rekey a Child SA that does not \
             exist.",
            here!(rekey_sa_names_the_requesters_inbound_spi),
            there("proto/tests/matrix", "rekeys_of_what_is_not_there"),
        ),
        row(
            ("I5", "RFC 7296 §2.8", Practice),
            "no packet is lost in a rekey",
            "practice: the old inbound SA stays until nothing in flight can need it",
            there(
                "tests/netns/rekey_load.rs",
                "numbered_datagrams_survive_a_rekey_a_second_whoever_begins",
            ),
            there("tests/interop/lifecycle.rs", "a_rekey_while_data_move_loses_nothing"),
        ),
        row(
            ("I6", "RFC 7296 §2.8", Practice),
            "whoever rekeyed a Child SA deletes the old one",
            "practice: To rekey a Child SA within an existing IKE SA, create a new, equivalent SA, and when the new one is \
             established, delete the old one.",
            here!(whoever_rekeyed_deletes),
            there(CHILD, "any_message_of_a_child_rekey_may_be_lost"),
        ),
        row(
            ("I7", "RFC 7296 §2.8", Must),
            "a rekeyed IKE SA's children live on; its own Delete is its last request",
            "After the new equivalent IKE SA is created, the initiator deletes the old IKE SA, and the Delete payload to delete \
             itself MUST be the last request sent over the old IKE SA.",
            here!(the_last_request_of_an_old_sa_is_its_delete),
            there(IKE, "any_message_may_be_lost_or_come_twice"),
        ),
        row(
            ("I8", "RFC 7296 §1.3.2", Should),
            "nothing new is made by an IKE SA that is being rekeyed",
            "Once a peer receives a request to rekey an IKE SA or sends a request to rekey an IKE SA, it SHOULD NOT start any \
             new CREATE_CHILD_SA exchanges on the IKE SA that is being rekeyed.",
            here!(nothing_new_on_an_old_sa),
            there(IKE, "nothing_is_begun_by_a_contested_sa"),
        ),
        row(
            ("I9", "RFC 7296 §4", Must),
            "NO_ADDITIONAL_SAS: the old SA is deleted and a new one made",
            "If the responder rejects the CREATE_CHILD_SA request with a NO_ADDITIONAL_SAS notification, the implementation \
             MUST be capable of instead deleting the old SA and creating a new one.",
            here!(a_peer_that_takes_one_at_a_time),
            there("proto/tests/ike_limits.rs", "child_sas_of_a_peer_have_an_end"),
        ),
        row(
            ("I10", "RFC 7296 §2.8.1", Should),
            "rekey times are jittered",
            "To reduce the probability of this happening, the timing of rekeying requests SHOULD be jittered (delayed by a \
             random amount of time after the need for rekeying is noticed).",
            here!(rekey_times_differ),
            there("proto/tests/sim", "sim_crossing_rekeys"),
        ),
        row(
            ("I11", "RFC 7296 §2.8", Must),
            "what has expired is not used; an IKE SA that can't be rekeyed ends",
            "If an SA has expired or is about to expire and rekeying attempts using the mechanisms described here fail, an \
             implementation MUST close the IKE SA and any associated Child SAs and then MAY start new ones.",
            there(CHILD, "a_child_that_is_not_rekeyed_ends"),
            there(IKE, "what_can_not_be_rekeyed_is_closed_and_begun_anew"),
        ),
    ]
}

fn crossing() -> Vec<Row> {
    vec![
        row(
            ("I12", "RFC 7296 §2.8.1", Should),
            "both rekey a Child SA: the one made with the lowest nonce is closed by who made it",
            "If redundant SAs are created through such a collision, the SA created with the lowest of the four nonces used in \
             the two exchanges SHOULD be closed by the endpoint that created it.",
            here!(both_rekey_a_child),
            there(CHILD, "when_both_rekey_a_child_one_pair_stays"),
        ),
        row(
            ("I13", "RFC 7296 §2.25", Should),
            "a rekey of a Child SA that one end does not notice leaves no orphan",
            "A TEMPORARY_FAILURE notification SHOULD be sent when a peer receives a request that cannot be completed due to a \
             temporary condition such as a rekeying operation.",
            here!(a_rekey_that_one_end_does_not_notice),
            there("proto/tests/exhaustive", "one_operation"),
        ),
        row(
            ("I14", "RFC 7296 §2.8.2", Should),
            "both rekey the IKE SA: the lowest nonce loses, the other inherits",
            "The new IKE SA containing the lowest nonce SHOULD be deleted by the node that created it, and the other surviving \
             new IKE SA MUST inherit all the Child SAs.",
            there(IKE, "when_both_rekey_the_lowest_nonce_loses"),
            there(IKE, "crossing_rekeys_in_any_order"),
        ),
        row(
            ("I15", "RFC 7296 §2.8.2", Should),
            "a rekey of an IKE SA that is rekeyed already is TEMPORARY_FAILURE",
            "In this case, when the peer that did not notice the simultaneous rekey gets the request to rekey the IKE SA that \
             it has already successfully rekeyed, it SHOULD return TEMPORARY_FAILURE because it is an IKE SA that it is \
             currently trying to close (whether or not it has already sent the delete notification for the SA).",
            here!(an_ike_sa_is_rekeyed_once),
            there(IKE, "one_end_does_not_notice_the_crossing"),
        ),
        row(
            ("I16", "RFC 7296 §2.25.1", Should),
            "a rekey of a Child SA we close is TEMPORARY_FAILURE",
            "If a peer receives a request to rekey a Child SA that it is currently trying to close, it SHOULD reply with \
             TEMPORARY_FAILURE.",
            here!(a_rekey_of_a_child_we_close),
            there("proto/src/ike/collision.rs", "what_crosses_at_a_child_sa"),
        ),
        row(
            ("I17", "RFC 7296 §2.25.1", Should),
            "a Delete of a Child SA we rekey is answered with ours; our rekey ends with CHILD_SA_NOT_FOUND",
            "If a peer receives a request to close a Child SA that it is currently rekeying, it SHOULD reply as usual, with a \
             Delete payload.",
            here!(a_delete_of_a_child_we_rekey),
            there(CHILD, "a_delete_crosses_a_rekey"),
        ),
        row(
            ("I18", "RFC 7296 §2.25.1", Should),
            "a Delete of a Child SA we close, or don't know, is answered without one",
            "If a peer receives a request to close a Child SA that it is currently trying to close, it SHOULD reply without a \
             Delete payload (see Section 1.4.1).",
            here!(a_delete_of_a_child_we_close),
            there("proto/tests/matrix", "deletes_of_all_kinds"),
        ),
        row(
            ("I19", "RFC 7296 §2.25.1", Should),
            "rekeys of the IKE SA and work on its children wait for each other; deletes don't",
            "If a peer receives a request to rekey the IKE SA, and it is currently creating, rekeying, or closing a Child SA \
             of that IKE SA, it SHOULD reply with TEMPORARY_FAILURE.",
            here!(ike_and_child_wait_for_each_other),
            there(IKE, "a_child_rekey_that_crosses_waits_and_so_does_the_other"),
        ),
        row(
            ("I20", "RFC 7296 §2.25.2", Should),
            "the IKE SA's Delete while we rekey or delete it is answered as usual",
            "If a peer receives a request to close an IKE SA that it is currently rekeying, it SHOULD reply as usual, and \
             forget about its own rekeying request.",
            here!(the_ike_sa_is_deleted_under_our_request),
            there(IKE, "down_and_shutdown_in_the_middle"),
        ),
        row(
            ("I21", "RFC 7296 §2.25", Must),
            "after TEMPORARY_FAILURE we wait; after minutes of it we close",
            "When a peer receives a TEMPORARY_FAILURE notification, it MUST NOT immediately retry the operation; it MUST wait \
             so that the sender may complete whatever operation caused the temporary condition.",
            here!(a_peer_that_is_always_busy),
            there(
                "proto/tests/ike_limits.rs",
                "two_busy_moments_far_apart_do_not_end_the_sa",
            ),
        ),
        row(
            ("I22", "RFC 7296 §2.25", Should),
            "CHILD_SA_NOT_FOUND: the Child SA is forgotten and made anew",
            "A peer that receives a CHILD_SA_NOT_FOUND notification SHOULD silently delete the Child SA (if it still exists) \
             and send a request to create a new Child SA from scratch (if the Child SA does not yet exist).",
            here!(a_child_that_the_peer_does_not_know),
            there(CHILD, "a_pair_that_the_peer_lost_is_made_anew"),
        ),
    ]
}

fn rekey(t: &mut Tester) -> Message {
    t.command(Command::RekeyChild {
        connection: SITE.into(),
        child: None,
    });
    let asked = t.next_request().expect("a rekey");
    assert!(asked.has(NotifyType::REKEY_SA));
    asked
}

fn down(t: &mut Tester, child: Option<&str>) -> Message {
    t.command(Command::Down {
        connection: SITE.into(),
        child: child.map(Into::into),
    });
    t.next_request().expect("a Delete")
}

/// A good answer to the DUT's request for a Child SA, with this nonce.
fn answer_child(t: &mut Tester, asked: &Message, nonce_r: &[u8]) {
    let mut payloads = t.child_offer(false);
    payloads[0] = esp_offer(t.esp, Some(KeMethod::CURVE25519));
    let (_, data) = ke_of(&asked.payloads).unwrap();
    let method = (IKE_PROVIDER.key_exchange)(t.sa.suite.group).unwrap();
    let (public, _) = method.respond(&data, &mut t.rng).unwrap();
    payloads.extend([nonce(nonce_r), ke(KeMethod::CURVE25519, &public)]);
    t.respond(&asked.header, &payloads);
}

/// T's request to rekey the pair that it receives by `spi` on, with this nonce.
fn ask_rekey(t: &mut Tester, spi: u32, nonce_i: &[u8]) -> Message {
    let mut key = t.init_payloads();
    let mut payloads = vec![notify_esp(NotifyType::REKEY_SA, spi)];
    payloads.extend(t.child_offer(true));
    if !t.sa.initiator {
        // To `side_a`: T's own side comes first.
        payloads.truncate(2);
        payloads.extend([tsi(&["10.2.0.0/16"]), tsr(&["10.1.0.0/16"])]);
    }
    payloads.extend([nonce(nonce_i), key.remove(1)]);
    t.request(ExchangeType::CREATE_CHILD_SA, &payloads).expect("an answer")
}

fn without_pfs(mut connection: Connection) -> Connection {
    let (local, remote, start) = {
        let net = &connection.children[&Arc::from("net")];
        (
            net.local_ts[0].to_string(),
            net.remote_ts[0].to_string(),
            net.start_action,
        )
    };
    let net = child("net", &local, &remote, "aes256gcm16", start);
    connection.children = [("net".into(), net)].into();
    connection
}

#[test]
fn children_with_and_without_pfs() {
    for pfs in [true, false] {
        let b = if pfs { side_b() } else { without_pfs(side_b()) };
        let mut t = Tester::up(b);
        let mut key = t.init_payloads();
        let mut payloads = t.child_offer(pfs);
        payloads.push(t.nonce(32));
        if pfs {
            payloads.push(key.remove(1));
        }
        let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
        assert_eq!(t.pairs(), 2);
        assert_eq!(ke_of(&answer.payloads).is_some(), pfs);
        // As requester.
        let a = if pfs { side_a() } else { without_pfs(side_a()) };
        let mut t = Tester::up_as_responder(a);
        let asked = rekey(&mut t);
        let offered = &sa_of(&asked.payloads).unwrap().proposals[0];
        let group = offered
            .transforms
            .iter()
            .find(|one| one.transform_type == TransformType::KE);
        assert_eq!((group.is_some(), ke_of(&asked.payloads).is_some()), (pfs, pfs));
        if let Some(group) = group {
            assert_eq!(ke_of(&asked.payloads).unwrap().0.0, group.id);
        }
    }
}

#[test]
fn pfs_is_not_given_up() {
    // Configured with PFS, asked without.
    let mut t = Tester::up(side_b());
    let mut payloads = t.child_offer(false);
    payloads.push(t.nonce(32));
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
    assert_eq!(answer.notifies(), [NotifyType::NO_PROPOSAL_CHOSEN]);
    // Proposed, and no KE payload.
    let mut payloads = t.child_offer(true);
    payloads.push(t.nonce(32));
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
    assert_eq!(answer.notifies(), [NotifyType::INVALID_KE_PAYLOAD]);
    assert_eq!((t.pairs(), t.dut.spis_in_use()), (1, 1));
    // An answer that leaves the group or the KE payload out.
    for left_out in [0, 1] {
        let mut t = Tester::up_as_responder(side_a());
        let asked = rekey(&mut t);
        let mut key = t.init_payloads();
        let mut payloads = t.child_offer(left_out == 1);
        payloads.push(t.nonce(32));
        if left_out == 0 {
            payloads.push(key.remove(1));
        }
        t.respond(&asked.header, &payloads);
        assert_eq!(t.pairs(), 1, "the old pair alone");
    }
}

#[test]
fn a_group_never_proposed_is_not_used() {
    let mut t = Tester::up_as_responder(side_a());
    let asked = rekey(&mut t);
    t.respond(
        &asked.header,
        &[notify_with(NotifyType::INVALID_KE_PAYLOAD, &14_u16.to_be_bytes())],
    );
    assert!(t.next_request().is_none(), "group 14 was not proposed");
    assert!(t.is_up() && t.pairs() == 1);
    assert_eq!(t.dut.spis_in_use(), 1);
}

#[test]
fn inbound_is_installed_before_the_answer() {
    let mut t = Tester::up(side_b());
    let mut key = t.init_payloads();
    let mut payloads = t.child_offer(true);
    payloads.extend([t.nonce(32), key.remove(1)]);
    let header = t.sa.header(ExchangeType::CREATE_CHILD_SA, false, t.sa.next);
    let datagram = t.seal(&header, &payloads).remove(0);
    let now = t.at();
    t.dut.handle_datagram(now, t.path, &datagram);
    // The events first, as the contract has it: then only is the answer taken.
    while let Some(event) = t.dut.poll_event() {
        if let landbridge_proto::ike::Event::Sad(update) = &event {
            t.sad.apply(update);
        }
    }
    let mut out = Vec::new();
    let transmit = t.dut.poll_transmit(&mut out).expect("the answer");
    let answer = t.open(&[crate::peer::Sent {
        path: transmit.path,
        octets: out,
    }]);
    let spi = esp_spi_of(&answer.payloads);
    assert!(t.sad.pairs.values().any(|pair| pair.inbound.spi == spi));
}

#[test]
fn rekey_sa_names_the_requesters_inbound_spi() {
    let mut t = Tester::up_as_responder(side_a());
    let inbound = t.sad.pairs.values().next().unwrap().inbound.spi;
    let asked = rekey(&mut t);
    let named = asked.notify(NotifyType::REKEY_SA).unwrap();
    assert_eq!(
        (named.protocol, &named.spi[..]),
        (ProtocolId::ESP, &inbound.to_be_bytes()[..])
    );
    // The other way: T's inbound is the DUT's outbound. The DUT's own inbound is not it.
    let mut t = Tester::up(side_b());
    let wrong = t.sad.pairs.values().next().unwrap().inbound.spi;
    let answer = ask_rekey(&mut t, wrong, &[7; 32]);
    let told = answer.notify(NotifyType::CHILD_SA_NOT_FOUND).expect("it is not found");
    assert_eq!(
        (told.protocol, &told.spi[..]),
        (ProtocolId::ESP, &wrong.to_be_bytes()[..])
    );
    let mut t = Tester::up(side_b());
    let spi = t.esp;
    let answer = ask_rekey(&mut t, spi, &[7; 32]);
    assert!(sa_of(&answer.payloads).is_some());
}

#[test]
fn whoever_rekeyed_deletes() {
    // The DUT.
    let mut t = Tester::up_as_responder(side_a());
    let old = t.sad.pairs.values().next().unwrap().inbound.spi;
    let asked = rekey(&mut t);
    answer_child(&mut t, &asked, &[9; 32]);
    let asked = t.next_request().unwrap();
    assert_eq!(deleted(&asked.payloads), [old]);
    // T: the DUT waits for T's Delete.
    let mut t = Tester::up(side_b());
    let spi = t.esp;
    ask_rekey(&mut t, spi, &[9; 32]);
    t.pass(Duration::from_secs(5));
    assert!(t.out.is_empty(), "it leaves the old one to T");
    let answer = t
        .request(ExchangeType::INFORMATIONAL, &[delete_children(&[spi])])
        .unwrap();
    assert_eq!(deleted(&answer.payloads).len(), 1);
}

#[test]
fn the_last_request_of_an_old_sa_is_its_delete() {
    let mut a = side_a();
    a.ike_rekey_time = Some(Duration::from_secs(600));
    let mut t = Tester::up_as_responder(a);
    t.pass(Duration::from_secs(601));
    let asked = t.next_request().unwrap();
    t.out.clear();
    let (_, data) = ke_of(&asked.payloads).unwrap();
    let method = (IKE_PROVIDER.key_exchange)(t.sa.suite.group).unwrap();
    let (public, _) = method.respond(&data, &mut t.rng).unwrap();
    let payloads = [
        with_spi(ike_offer(t.sa.suite), &[8; 8]),
        t.nonce(32),
        ke(KeMethod::CURVE25519, &public),
    ];
    t.respond(&asked.header, &payloads);
    let asked = t.next_request().unwrap();
    assert_eq!(asked.payloads, [delete_ike()]);
    assert_eq!(asked.header.spi_i, t.sa.spi_i, "by the old SA");
    t.respond(&asked.header, &[]);
    t.out.clear();
    t.pass(Duration::from_secs(300));
    assert!(
        t.out.iter().all(|sent| sent.header().spi_i != t.sa.spi_i),
        "and nothing after it"
    );
    assert_eq!(t.pairs(), 1, "the child lives on");
}

#[test]
fn nothing_new_on_an_old_sa() {
    let mut t = Tester::up(side_b());
    let old = t.rekey_ike();
    t.command(Command::RekeyChild {
        connection: SITE.into(),
        child: None,
    });
    let sent: Vec<_> = t.out.drain(..).collect();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].header().spi_i, t.sa.spi_i, "by the new SA");
    assert_ne!(sent[0].header().spi_i, old.spi_i);
}

#[test]
fn a_peer_that_takes_one_at_a_time() {
    let mut t = Tester::up_as_responder(side_a());
    let old = t.sad.pairs.values().next().unwrap().inbound.spi;
    let asked = rekey(&mut t);
    t.refuse(&asked.header, NotifyType::NO_ADDITIONAL_SAS);
    let asked = t.next_request().unwrap();
    assert_eq!(deleted(&asked.payloads), [old]);
    t.respond(&asked.header, &[delete_children(&[t.esp])]);
    t.pass(Duration::from_secs(5));
    let asked = t.next_request().expect("a new one");
    assert_eq!(asked.header.exchange, ExchangeType::CREATE_CHILD_SA);
    assert!(!asked.has(NotifyType::REKEY_SA));
    answer_child(&mut t, &asked, &[9; 32]);
    assert_eq!(t.pairs(), 1);
}

#[test]
fn rekey_times_differ() {
    let mut b = side_b();
    let mut net = (*b.children[&Arc::from("net")]).clone();
    net.rekey_time = Some(Duration::from_secs(3600));
    net.rand_time = Duration::from_secs(360);
    net.start_action = StartAction::None;
    b.children = [("net".into(), Arc::new(net))].into();
    b.ike_rekey_time = Some(Duration::from_secs(7200));
    // One endpoint, so that it is not the seed that differs.
    let mut t = Tester::up(b);
    let mut times = std::collections::BTreeSet::new();
    for _ in 0..15 {
        let spi = t.esp;
        ask_rekey(&mut t, spi, &[9; 32]);
        t.request(ExchangeType::INFORMATIONAL, &[delete_children(&[spi])])
            .unwrap();
        let children = t.status().remove(0).children;
        times.extend(children.iter().filter_map(|child| child.rekey_at));
    }
    let span = times.last().unwrap().saturating_since(*times.first().unwrap());
    assert!(times.len() > 10 && span > Duration::from_secs(90), "{times:?}");
    let latest = t.now + Duration::from_secs(3600);
    assert!(
        times
            .iter()
            .all(|at| *at <= latest && latest.saturating_since(*at) <= Duration::from_secs(360))
    );
}

#[test]
fn both_rekey_a_child() {
    // T's nonces in its own request and in its answer to the DUT's: one of them is the lowest of the four. Octet by octet,
    // and of two that begin alike the shorter is the lower.
    let cases: [(&[u8], &[u8], bool); 4] = [
        (&[0; 16], &[0xff; 32], true),
        (&[0xff; 32], &[0; 16], false),
        (&[0; 16], &[0; 32], true),
        (&[0; 32], &[0; 16], false),
    ];
    for (nonce_i, nonce_r, theirs_loses) in cases {
        let mut t = Tester::up_as_responder(side_a());
        let spi = t.esp;
        let old = t.sad.pairs.values().next().unwrap().inbound.spi;
        let asked = rekey(&mut t);
        let answer = ask_rekey(&mut t, spi, nonce_i);
        assert!(
            sa_of(&answer.payloads).is_some(),
            "it replies as usual, not {:?}",
            answer.notifies()
        );
        // The old one and both new ones receive.
        answer_child(&mut t, &asked, nonce_r);
        assert_eq!(t.pairs(), 3);
        let gone = deleted(&t.next_request().expect("a Delete").payloads);
        if theirs_loses {
            // T deletes what it made; the DUT, whose rekey stands, the old one.
            assert_eq!(gone, [old]);
        } else {
            assert_eq!(
                gone,
                [esp_spi_of(&asked.payloads)],
                "the DUT deletes what it made itself"
            );
        }
    }
}

#[test]
fn a_rekey_that_one_end_does_not_notice() {
    // The DUT's request comes late to T, who has rekeyed the pair meanwhile and deletes it: TEMPORARY_FAILURE first, then
    // CHILD_SA_NOT_FOUND.
    for refusal in [NotifyType::TEMPORARY_FAILURE, NotifyType::CHILD_SA_NOT_FOUND] {
        let mut t = Tester::up_as_responder(side_a());
        let spi = t.esp;
        let asked = rekey(&mut t);
        let answer = ask_rekey(&mut t, spi, &[7; 32]);
        let made = esp_spi_of(&answer.payloads);
        t.refuse(&asked.header, refusal);
        t.request(ExchangeType::INFORMATIONAL, &[delete_children(&[spi])])
            .unwrap();
        t.pass(Duration::from_secs(60));
        t.out.clear();
        let spis: Vec<u32> = t.sad.pairs.values().map(|pair| pair.inbound.spi).collect();
        assert_eq!(spis, [made], "{refusal}: T's pair alone is left");
        assert_eq!(t.sad.active.len(), 1);
        assert_eq!(t.dut.spis_in_use(), 1);
        t.assert_alive();
    }
}

#[test]
fn an_ike_sa_is_rekeyed_once() {
    let mut t = Tester::up(side_b());
    t.sa = t.rekey_ike();
    let mut key = t.init_payloads();
    let payloads = [with_spi(ike_offer(t.sa.suite), &[6; 8]), t.nonce(32), key.remove(1)];
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
    assert_eq!(answer.notifies(), [NotifyType::TEMPORARY_FAILURE]);
    let mut payloads = t.child_offer(true);
    let mut key = t.init_payloads();
    payloads.extend([t.nonce(32), key.remove(1)]);
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
    assert_eq!(answer.notifies(), [NotifyType::TEMPORARY_FAILURE]);
    assert_eq!(t.pairs(), 1);
}

#[test]
fn a_rekey_of_a_child_we_close() {
    let mut t = Tester::up(side_b());
    let spi = t.esp;
    down(&mut t, Some("net"));
    let answer = ask_rekey(&mut t, spi, &[7; 32]);
    assert_eq!(answer.notifies(), [NotifyType::TEMPORARY_FAILURE]);
    assert!(t.pairs() <= 1);
}

#[test]
fn a_delete_of_a_child_we_rekey() {
    let mut t = Tester::up_as_responder(side_a());
    let spi = t.esp;
    let old = t.sad.pairs.values().next().unwrap().inbound.spi;
    let asked = rekey(&mut t);
    let answer = t
        .request(ExchangeType::INFORMATIONAL, &[delete_children(&[spi])])
        .unwrap();
    assert_eq!(deleted(&answer.payloads), [old]);
    t.refuse(&asked.header, NotifyType::CHILD_SA_NOT_FOUND);
    // It wants one all the same: a new one, from scratch.
    t.pass(Duration::from_secs(10));
    let asked = t.next_request().expect("a new one");
    assert!(!asked.has(NotifyType::REKEY_SA));
    answer_child(&mut t, &asked, &[9; 32]);
    assert_eq!(t.pairs(), 1);
}

#[test]
fn a_delete_of_a_child_we_close() {
    let mut t = Tester::up(side_b());
    let spi = t.esp;
    let asked = down(&mut t, Some("net"));
    let answer = t
        .request(ExchangeType::INFORMATIONAL, &[delete_children(&[spi])])
        .unwrap();
    assert!(answer.payloads.is_empty(), "no Delete in the answer");
    t.respond(&asked.header, &[]);
    assert_eq!((t.pairs(), t.dut.spis_in_use()), (0, 0));
    t.assert_alive();
}

#[test]
fn ike_and_child_wait_for_each_other() {
    // The DUT rekeys a child: T's rekey of the IKE SA must wait.
    let ask_ike = |t: &mut Tester| {
        let mut key = t.init_payloads();
        let payloads = [with_spi(ike_offer(t.sa.suite), &[6; 8]), t.nonce(32), key.remove(1)];
        t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap()
    };
    let mut t = Tester::up_as_responder(side_a());
    rekey(&mut t);
    assert_eq!(ask_ike(&mut t).notifies(), [NotifyType::TEMPORARY_FAILURE]);
    let mut t = Tester::up(side_b());
    down(&mut t, Some("net"));
    assert_eq!(ask_ike(&mut t).notifies(), [NotifyType::TEMPORARY_FAILURE]);
    // The DUT rekeys the IKE SA: T's rekey of a child must wait, its Delete is answered as usual (§2.25.2).
    let mut a = side_a();
    a.ike_rekey_time = Some(Duration::from_secs(600));
    let mut t = Tester::up_as_responder(a);
    let (spi, inbound) = (t.esp, t.sad.pairs.values().next().unwrap().inbound.spi);
    t.pass(Duration::from_secs(601));
    t.out.clear();
    let answer = ask_rekey(&mut t, spi, &[7; 32]);
    assert_eq!(answer.notifies(), [NotifyType::TEMPORARY_FAILURE]);
    let answer = t
        .request(ExchangeType::INFORMATIONAL, &[delete_children(&[spi])])
        .unwrap();
    assert_eq!(deleted(&answer.payloads), [inbound]);
}

#[test]
fn the_ike_sa_is_deleted_under_our_request() {
    let mut a = side_a();
    a.ike_rekey_time = Some(Duration::from_secs(600));
    a.keep_trying = false;
    let mut rekeying = Tester::up_as_responder(a);
    rekeying.pass(Duration::from_secs(601));
    let mut deleting = Tester::up(side_b());
    down(&mut deleting, None);
    for mut t in [rekeying, deleting] {
        let answer = t.request(ExchangeType::INFORMATIONAL, &[delete_ike()]).unwrap();
        assert!(answer.payloads.is_empty());
        assert_eq!((t.pairs(), t.dut.spis_in_use()), (0, 0));
        t.out.clear();
        t.pass(Duration::from_secs(300));
        assert!(t.out.is_empty(), "it forgot its own request");
        assert!(t.status().is_empty());
    }
}

#[test]
fn a_peer_that_is_always_busy() {
    let mut t = Tester::up_as_responder(side_a());
    let mut asked = rekey(&mut t);
    let began = t.now;
    let mut tries = 1;
    loop {
        t.refuse(&asked.header, NotifyType::TEMPORARY_FAILURE);
        let refused = t.now;
        assert!(t.out.is_empty() || tries > 1, "it does not retry at once");
        while t.out.is_empty() {
            t.tick();
        }
        asked = t.next_request().unwrap();
        if asked.payloads == [delete_ike()] {
            break;
        }
        assert!(t.now.saturating_since(refused) >= Duration::from_secs(1), "it waits");
        tries += 1;
        assert!(tries < 1000, "it never gives up");
    }
    let minutes = t.now.saturating_since(began).as_secs() / 60;
    assert!((2..10).contains(&minutes), "after {minutes} minutes and {tries} tries");
}

#[test]
fn a_child_that_the_peer_does_not_know() {
    let mut t = Tester::up_as_responder(side_a());
    let asked = rekey(&mut t);
    t.respond(&asked.header, &[notify_esp(NotifyType::CHILD_SA_NOT_FOUND, 1)]);
    let sent_deletes = t
        .out
        .iter()
        .filter(|sent| sent.header().exchange == ExchangeType::INFORMATIONAL)
        .count();
    assert_eq!((t.pairs(), sent_deletes), (0, 0), "silently");
    t.pass(Duration::from_secs(5));
    let asked = t.next_request().expect("a new one");
    assert!(!asked.has(NotifyType::REKEY_SA));
    answer_child(&mut t, &asked, &[9; 32]);
    assert_eq!(t.pairs(), 1);
    assert!(t.is_up());
}
