//! Crossing messages by hand: the cases that strongSwan's unit tests play by name (`test_child_rekey`, `test_child_delete`,
//! `test_child_create`, `test_ike_rekey`, `test_ike_delete`), each under its name, between two endpoints. The `exhaustive`
//! search plays every order; here stands what exactly is said in the ones that somebody once got wrong.
//!
//! After each case both ends are left alone for a while, and then have the same IKE SA and the same Child SAs, and nothing
//! else: no SA, no SPI, no job.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

#[path = "../ike_pump/mod.rs"]
mod ike_pump;
#[path = "../peer/mod.rs"]
mod peer;

mod child_create;
mod child_delete;
mod child_rekey;
mod ike_delete;
mod ike_rekey;

use ike_pump::{Letter, Pump, SITE, child, side_a, side_b};
use landbridge_proto::ike::{Command, Event};
use landbridge_proto::policy::connection::{Connection, Gateway, StartAction};
use landbridge_proto::policy::proposal::{EspProposal, IkeProposal};
use landbridge_proto::wire::ExchangeType;
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// The case that is left out: two endpoints have the group of the SA in use in common and begin with that one, so neither
/// refuses it; and the peer that is played by hand knows no additional key exchanges.
const LEFT_OUT: [&str; 1] = ["ike_rekey::test_regular_ke_invalid_multi_ke"];

/// Thirty, eighteen, five, three and two cases there: each is here or in the list.
#[test]
fn every_case_is_here_or_left_out_by_name() {
    let here = [
        ("child_create", include_str!("child_create.rs"), 3),
        ("child_delete", include_str!("child_delete.rs"), 5),
        ("child_rekey", include_str!("child_rekey.rs"), 30),
        ("ike_delete", include_str!("ike_delete.rs"), 2),
        ("ike_rekey", include_str!("ike_rekey.rs"), 18),
    ];
    for (suite, text, count) in here {
        let tests = text.matches("#[test]").count();
        let out = LEFT_OUT
            .iter()
            .filter(|name| name.starts_with(&format!("{suite}::")))
            .count();
        assert_eq!(tests + out, count, "{suite}");
    }
}

/// So many runs with other nonces: each of the four is the lowest in some of them.
const SEEDS: u8 = 12;

/// Both ends up, the pair in use at both.
fn up() -> Pump {
    Pump::up(side_a(), side_b())
}

fn up_with(seed: u8) -> Pump {
    let mut pump = Pump::with(side_a(), side_b(), seed, Gateway::default());
    pump.connect();
    pump.deliver_all();
    pump.assert_joined();
    pump
}

/// Both sides with these proposals; several in order of preference.
fn proposing(mut connection: Connection, ike: &[&str], esp: &[&str]) -> Connection {
    connection.ike_proposals = ike.iter().map(|text| IkeProposal::parse(text).unwrap()).collect();
    // A datagram a message, so that a test can take it off the wire.
    connection.fragment_size = 4000;
    for child in connection.children.values_mut() {
        Arc::make_mut(child).esp_proposals = esp.iter().map(|text| EspProposal::parse(text).unwrap()).collect();
    }
    connection
}

const IKE: &str = "aes256gcm16-prfsha256-x25519";
const MULTI_IKE: &str = "aes256gcm16-prfsha256-x25519-ke1_mlkem512-ke2_ecp256";
const ESP: &str = "aes256gcm16-x25519";
const MULTI_ESP: &str = "aes256gcm16-x25519-ke1_mlkem512-ke2_ecp256";

/// Rekeys of both kinds have three key exchanges (RFC 9370 §2.2.4).
fn up_multi(seed: u8) -> Pump {
    up_proposing(seed, [&[MULTI_IKE], &[MULTI_IKE]], [&[MULTI_ESP], &[MULTI_ESP]])
}

/// Those that A asks for have one, those that B asks for three: whoever answers chooses by its own order.
fn up_mixed(seed: u8) -> Pump {
    up_proposing(seed, [&[IKE], &[IKE]], [&[MULTI_ESP, ESP], &[ESP, MULTI_ESP]])
}

fn up_proposing(seed: u8, ike: [&[&str]; 2], esp: [&[&str]; 2]) -> Pump {
    let a = proposing(side_a(), ike[0], esp[0]);
    let b = proposing(side_b(), ike[1], esp[1]);
    let mut pump = Pump::with(a, b, seed, Gateway::default());
    pump.connect();
    pump.deliver_all();
    pump.assert_joined();
    pump
}

/// Requests of a kind that lie on the wire for an end.
fn asked(pump: &Pump, to: usize, exchange: ExchangeType) -> usize {
    let is = |letter: &&Letter| letter.to == to && letter.exchange() == exchange && !letter.is_response();
    pump.wire.iter().filter(is).count()
}

/// Neither side has the group that the other tries first.
fn other_groups(mut a: Connection, mut b: Connection) -> (Connection, Connection) {
    for (side, esp) in [
        (&mut a, "aes256gcm16-x25519-ecp384"),
        (&mut b, "aes256gcm16-ecp256-ecp384"),
    ] {
        let mut net = side.children["net"].as_ref().clone();
        net.esp_proposals = vec![EspProposal::parse(esp).unwrap()];
        side.children.insert("net".into(), Arc::new(net));
    }
    (a, b)
}

/// With a second child that nobody starts.
fn with_more(mut connection: Connection, local: &str, remote: &str) -> Connection {
    let more = child("more", local, remote, "aes256gcm16-x25519", StartAction::None);
    connection.children.insert("more".into(), more);
    connection
}

fn rekey_ike(pump: &mut Pump, who: usize) {
    pump.command(
        who,
        Command::RekeyIke {
            connection: SITE.into(),
        },
    );
}

/// Takes the first message to an end off the wire.
fn take(pump: &mut Pump, to: usize) -> Letter {
    let index = pump.wire.iter().position(|letter| letter.to == to);
    pump.wire
        .remove(index.unwrap_or_else(|| panic!("nothing for {to}: {:?}", pump.lines(1 - to))))
}

/// Delivers the first message to an end.
fn to(pump: &mut Pump, who: usize) {
    let letter = take(pump, who);
    pump.hand(&letter);
}

/// Time passes over a good link; then both ends have the same, and nothing is left over.
fn calm_down(pump: &mut Pump) {
    pump.deliver_all();
    pump.run_for(120 * SECOND, |_| true);
    pump.assert_joined();
    let children = pump.sa(0).children.len();
    for who in 0..2 {
        let load = pump.ends[who].load();
        let found = (
            load.ike_sas,
            load.child_sas,
            load.spis,
            load.jobs,
            load.requests,
            load.timers,
        );
        assert_eq!(
            found,
            (1, children, children, 0, 0, 0),
            "end {who}: {:#?}",
            pump.lines(who)
        );
        assert_eq!(pump.sad[who].pairs.len(), children);
    }
}

/// How often an end says this.
fn said(pump: &Pump, who: usize, what: &str) -> usize {
    let sent = |event: &&Event| matches!(event, Event::Message { received: false, line, .. } if line.contains(what));
    pump.events[who].iter().filter(sent).count()
}
