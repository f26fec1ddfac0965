//! Additional key exchanges in rekeys: IKE_FOLLOWUP_KE (RFC 9370 §2.2.4). Quotations are of that section.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;

use ike_pump::{Letter, Pump, SITE, child, side_a, side_b};
use landbridge_proto::ike::Command;
use landbridge_proto::policy::connection::{Connection, StartAction};
use landbridge_proto::policy::proposal::{EspProposal, IkeProposal};
use landbridge_proto::wire::ExchangeType;
use std::sync::Arc;
use std::time::Duration;

const IKE: &str = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";
const ESP: &str = "aes256gcm16-x25519-ke1_mlkem768-esn";
const SEVEN: &str = "x25519-ke1_ecp256-ke2_mlkem512-ke3_ecp384-ke4_mlkem1024-ke5_modp2048-ke6_mlkem768-ke7_modp3072";
const SECOND: Duration = Duration::from_secs(1);

fn with(mut connection: Connection, ike: &str, esp: &str) -> Connection {
    connection.ike_proposals = vec![IkeProposal::parse(ike).unwrap()];
    for child in connection.children.values_mut() {
        Arc::make_mut(child).esp_proposals = vec![EspProposal::parse(esp).unwrap()];
    }
    connection
}

fn up_with(ike: &str, esp: &str) -> Pump {
    let pump = Pump::up(with(side_a(), ike, esp), with(side_b(), ike, esp));
    pump.assert_joined();
    pump
}

/// Messages of one datagram each, so that a test can pick them.
fn up() -> Pump {
    let whole = |connection: Connection| Connection {
        fragment_size: 4000,
        ..with(connection, IKE, ESP)
    };
    let pump = Pump::up(whole(side_a()), whole(side_b()));
    pump.assert_joined();
    pump
}

fn rekey_ike(pump: &mut Pump, who: usize) {
    let connection = SITE.into();
    pump.command(who, Command::RekeyIke { connection });
}

fn is(letter: &Letter, exchange: ExchangeType, response: bool) -> bool {
    letter.exchange() == exchange && letter.is_response() == response
}

fn is_followup(letter: &Letter) -> bool {
    is(letter, ExchangeType::IKE_FOLLOWUP_KE, false)
}

fn everything(_: &Letter) -> bool {
    true
}

fn esp_suite(pump: &Pump, who: usize) -> String {
    pump.sa(who).children[0].suite.to_string()
}

/// "the additional key exchanges are performed in a series of new IKE_FOLLOWUP_KE exchanges that follow the CREATE_CHILD_SA
/// exchange."
#[test]
fn a_child_sa_is_rekeyed_with_two_key_exchanges() {
    for who in 0..2 {
        let mut pump = up_with(IKE, ESP);
        // RFC 7296 §1.2: the first has none.
        assert_eq!(esp_suite(&pump, 0), "aes256gcm16-esn");
        let before = pump.sa(who).children[0].spis;
        pump.rekey_child(who);
        pump.deliver_all();
        pump.run_for(10 * SECOND, everything);
        pump.assert_joined();
        assert_ne!(pump.sa(who).children[0].spis, before);
        for end in 0..2 {
            assert_eq!(esp_suite(&pump, end), ESP);
            assert_eq!(pump.ends[end].spis_in_use(), 1);
        }
        assert!(pump.saw(who, "IKE_FOLLOWUP_KE request") && pump.saw(who, "[KE N(ADDITIONAL_KEY_EXCHANGE)]"));
        assert!(pump.saw(who, "IKE_FOLLOWUP_KE response") && pump.saw(who, "[KE]"));
    }
}

#[test]
fn the_ike_sa_is_rekeyed_with_two_key_exchanges() {
    for who in 0..2 {
        let mut pump = up_with(IKE, ESP);
        let before = pump.sa(who).spi_i;
        rekey_ike(&mut pump, who);
        pump.deliver_all();
        pump.run_for(10 * SECOND, everything);
        pump.assert_joined();
        assert_ne!(pump.sa(who).spi_i, before);
        for end in 0..2 {
            assert_eq!(pump.sa(end).suite.unwrap().to_string(), IKE);
            assert!(pump.sa(end).post_quantum);
        }
        // And the new one works, in the same way once more.
        rekey_ike(&mut pump, 1 - who);
        pump.run_for(10 * SECOND, everything);
        pump.rekey_child(who);
        pump.run_for(10 * SECOND, everything);
        pump.assert_joined();
    }
}

/// "Each additional key exchange method MUST be fully completed before the next one is started." In pieces, too.
#[test]
fn seven_of_them() {
    for fragment_size in [400, 1280] {
        let small = |connection: Connection| Connection {
            fragment_size,
            ..connection
        };
        let (ike, esp) = (format!("aes256gcm16-prfsha256-{SEVEN}"), format!("aes256gcm16-{SEVEN}"));
        let mut pump = Pump::up(small(with(side_a(), &ike, &esp)), small(with(side_b(), &ike, &esp)));
        for who in 0..2 {
            rekey_ike(&mut pump, who);
            pump.run_for(10 * SECOND, everything);
            pump.rekey_child(who);
            pump.run_for(10 * SECOND, everything);
            pump.assert_joined();
            assert_eq!(pump.sa(who).suite.unwrap().to_string(), ike);
            assert_eq!(esp_suite(&pump, who), esp);
        }
    }
}

/// A peer that has no additional ones in its ESP proposals is not asked for any that it would refuse; an SA that began
/// without them is rekeyed without them.
#[test]
fn what_only_one_side_has_is_left_out_if_it_may_be() {
    let plain = "aes256gcm16-prfsha384-x25519";
    let both = |mut connection: Connection| {
        connection.ike_proposals = [IKE, plain].map(|text| IkeProposal::parse(text).unwrap()).to_vec();
        connection
    };
    let esp = "aes256gcm16-x25519-ke1_mlkem768-ke1_none-esn";
    let a = both(with(side_a(), IKE, esp));
    let mut pump = Pump::up(a, with(side_b(), plain, "aes256gcm16-x25519-esn"));
    for who in 0..2 {
        rekey_ike(&mut pump, who);
        pump.run_for(10 * SECOND, everything);
        pump.rekey_child(who);
        pump.run_for(10 * SECOND, everything);
        pump.assert_joined();
        assert_eq!(pump.sa(who).suite.unwrap().to_string(), plain);
        assert_eq!(esp_suite(&pump, who), "aes256gcm16-x25519-esn");
    }
    assert!(!pump.saw(0, "IKE_FOLLOWUP_KE"));
}

/// Another child than the first: made with them, not only rekeyed.
#[test]
fn a_further_child_is_made_with_them() {
    let more = |mut connection: Connection, local: &str, remote: &str| {
        let second = child("second", local, remote, ESP, StartAction::None);
        connection.children.insert("second".into(), second);
        with(connection, IKE, ESP)
    };
    let a = more(side_a(), "10.31.0.0/16", "10.32.0.0/16");
    let b = more(side_b(), "10.32.0.0/16", "10.31.0.0/16");
    let mut pump = Pump::up(a, b);
    let target = landbridge_proto::policy::connection::Target {
        local: pump.addresses[0],
        remote: pump.addresses[1],
    };
    let command = Command::Up {
        connection: SITE.into(),
        child: Some("second".into()),
        target,
    };
    pump.command(0, command);
    pump.run_for(SECOND, everything);
    let second = |pump: &Pump, who: usize| {
        let children = pump.sa(who).children;
        let found = children.iter().find(|child| &*child.child == "second").cloned();
        found.expect("it is not there")
    };
    assert_eq!(second(&pump, 0).suite.to_string(), ESP);
    assert_eq!(second(&pump, 0).suite, second(&pump, 1).suite);
}

#[test]
fn lost_and_repeated_messages() {
    for ike in [false, true] {
        for lost in 0..6 {
            let mut pump = up();
            if ike {
                rekey_ike(&mut pump, 0);
            } else {
                pump.rekey_child(0);
            }
            let mut count = 0;
            pump.run_for(20 * SECOND, |_| {
                count += 1;
                count - 1 != lost
            });
            pump.assert_joined();
            assert!(pump.saw(1, "IKE_FOLLOWUP_KE"));
        }
        let mut pump = up();
        if ike {
            rekey_ike(&mut pump, 0);
        } else {
            pump.rekey_child(0);
        }
        while !pump.wire.is_empty() {
            let letter = pump.deliver(0);
            pump.hand(&letter);
        }
        pump.run_for(10 * SECOND, everything);
        pump.assert_joined();
        assert_eq!(pump.ends[1].spis_in_use(), 1);
    }
}

/// "The responder MUST handle this situation gracefully and delete the associated state if it does not receive the next
/// expected IKE_FOLLOWUP_KE request after some reasonable period of time." "If the responder receives an IKE_FOLLOWUP_KE
/// message for which it does not have a key exchange state, it MUST send back a new error type notification called
/// "STATE_NOT_FOUND"." "the initiator MAY start a new CREATE_CHILD_SA exchange".
#[test]
fn a_responder_forgets_and_is_asked_again() {
    for ike in [false, true] {
        let mut pump = up();
        if ike {
            rekey_ike(&mut pump, 0);
        } else {
            pump.rekey_child(0);
        }
        let spi = pump.sa(0).spi_i;
        // All requests of the first 22 seconds are lost.
        pump.run_for(22 * SECOND, |letter| !is_followup(letter));
        assert_eq!(pump.ends[1].spis_in_use(), 1, "the SPI is given back");
        pump.run_for(60 * SECOND, everything);
        pump.assert_joined();
        assert!(pump.saw(0, "N(STATE_NOT_FOUND)"));
        assert_eq!(pump.sa(0).spi_i != spi, ike);
        assert_eq!(esp_suite(&pump, 0) == ESP, !ike);
        assert_eq!(pump.ike_downs(0).len(), usize::from(ike), "{:?}", pump.ike_downs(0));
    }
}

/// "If the initiator continues to receive STATE_NOT_FOUND notifications after several retries, it MUST treat this situation
/// as a fatal error and delete the IKE SA by sending a DELETE payload."
#[test]
fn a_responder_that_always_forgets_loses_the_ike_sa() {
    let mut pump = up();
    pump.rekey_child(0);
    let mut since = None;
    let mut seen = Vec::new();
    for _ in 0..400 {
        let now = pump.now;
        pump.run_for(SECOND, |letter| {
            if !is_followup(letter) {
                return true;
            }
            if !seen.contains(&letter.message_id()) {
                seen.push(letter.message_id());
                since = Some(now);
            }
            now >= since.unwrap() + 21 * SECOND
        });
        if !pump.ike_downs(0).is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), 4, "tried, and tried again three times");
    assert_eq!(pump.ike_downs(0), ["we deleted it"]);
    assert_eq!(pump.ike_downs(1), ["the peer deleted it"]);
    assert!(
        pump.failures(0)
            .iter()
            .any(|failure| failure.verdict.contains("forgets"))
    );
}

/// Both requests to rekey are on the wire at once, then both answers: `who` have sent IKE_FOLLOWUP_KE after that.
fn cross(pump: &mut Pump, begin: impl Fn(&mut Pump, usize)) -> Vec<usize> {
    begin(pump, 0);
    begin(pump, 1);
    assert_eq!(pump.wire.len(), 2);
    pump.deliver(0);
    pump.deliver(0);
    assert!(
        pump.wire
            .iter()
            .all(|letter| is(letter, ExchangeType::CREATE_CHILD_SA, true))
    );
    assert_eq!(pump.wire.len(), 2);
    pump.deliver(0);
    pump.deliver(0);
    pump.wire
        .iter()
        .filter(|letter| is_followup(letter))
        .map(|letter| 1 - letter.to)
        .collect()
}

/// "because there is nothing to delete yet, the initiator of this exchange just stops the rekeying process, and it MUST NOT
/// initiate the IKE_FOLLOWUP_KE exchange."
#[test]
fn of_two_crossing_rekeys_one_just_stops() {
    let mut winners = [0; 2];
    for seed in 0..20 {
        for ike in [false, true] {
            let whole = |connection: Connection| Connection {
                fragment_size: 4000,
                ..with(connection, IKE, ESP)
            };
            let mut pump = Pump::with(whole(side_a()), whole(side_b()), seed, Default::default());
            pump.connect();
            pump.deliver_all();
            let went_on = cross(&mut pump, |pump, who| {
                if ike {
                    rekey_ike(pump, who);
                } else {
                    pump.rekey_child(who);
                }
            });
            assert_eq!(went_on.len(), 1, "{went_on:?}");
            winners[went_on[0]] += 1;
            pump.deliver_all();
            pump.run_for(10 * SECOND, everything);
            pump.assert_joined();
            for end in 0..2 {
                assert_eq!(pump.ends[end].spis_in_use(), 1);
                let fine = pump.failures(end).is_empty() && pump.child_downs(end) == 0;
                assert!(fine, "{:?}", pump.failures(end));
            }
        }
    }
    assert!(winners[0] > 5 && winners[1] > 5, "{winners:?}");
}

/// The end that stopped does not forget what it wanted: if the other does not go on, it begins again.
#[test]
fn who_stopped_begins_again_if_the_other_does_not_go_on() {
    for ike in [false, true] {
        let mut pump = up();
        let spi = pump.sa(0).spi_i;
        let begin = |pump: &mut Pump, who: usize| {
            if ike {
                rekey_ike(pump, who);
            } else {
                pump.rekey_child(who);
            }
        };
        let winner = cross(&mut pump, begin)[0];
        let loser = 1 - winner;
        // The winner's requests are lost until the loser has forgotten it.
        pump.run_for(22 * SECOND, |letter| letter.to == winner || !is_followup(letter));
        pump.run_for(100 * SECOND, everything);
        pump.assert_joined();
        assert_eq!(pump.sa(loser).spi_i != spi, ike);
        assert_eq!(esp_suite(&pump, loser) == ESP, !ike);
    }
}

/// "a situation may occur when, due to packet loss, one of the peers receives the CREATE_CHILD_SA message requesting the
/// rekey of an SA that is already being rekeyed by this peer (i.e., the CREATE_CHILD_SA exchange initiated by this peer has
/// already been completed, and the series of IKE_FOLLOWUP_KE exchanges is in progress). In this case, a TEMPORARY_FAILURE
/// notification MUST be sent in response to such a request."
#[test]
fn a_request_that_comes_during_the_series_is_refused() {
    for ike in [false, true] {
        let mut pump = up();
        let begin = |pump: &mut Pump, who: usize| {
            if ike {
                rekey_ike(pump, who);
            } else {
                pump.rekey_child(who);
            }
        };
        // End 1's request is late.
        begin(&mut pump, 1);
        let late = pump.wire.remove(0);
        begin(&mut pump, 0);
        pump.deliver(0);
        pump.deliver(0);
        assert!(is_followup(&pump.wire[0]));
        pump.hand(&late);
        assert!(pump.saw(0, "N(TEMPORARY_FAILURE)"));
        pump.deliver_all();
        pump.run_for(20 * SECOND, everything);
        pump.assert_joined();
        for end in 0..2 {
            assert_eq!(pump.ends[end].spis_in_use(), 1);
        }
    }
}

/// RFC 7296 §2.25.2: "If a peer receives a request to close an IKE SA that it is currently rekeying, it SHOULD reply as
/// usual, and forget about its own rekeying request." And one of §2.25.1 in the same way, at each moment of the series.
#[test]
fn what_is_deleted_meanwhile() {
    for child in [None, Some("net")] {
        for ike in [false, true] {
            for who in 0..2 {
                for step in 0..4 {
                    let mut pump = up();
                    if ike {
                        rekey_ike(&mut pump, 0);
                    } else {
                        pump.rekey_child(0);
                    }
                    for _ in 0..step {
                        pump.deliver(0);
                    }
                    pump.down(who, child);
                    pump.run_for(100 * SECOND, everything);
                    if who == 1 {
                        // End 0 wants what it had, and asks for it anew.
                        pump.assert_joined();
                        continue;
                    }
                    for end in 0..2 {
                        let status = pump.status(end);
                        let note = format!("{child:?} {ike} {who} {step} {end}: {status:?}");
                        if child.is_none() {
                            assert!(status.is_empty(), "{note}");
                        } else {
                            assert!(status.len() == 1 && status[0].children.is_empty(), "{note}");
                        }
                        assert_eq!(pump.ends[end].spis_in_use(), 0, "{note}");
                        assert!(pump.sad[end].pairs.is_empty(), "{note}");
                    }
                }
            }
        }
    }
}
