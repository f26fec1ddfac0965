//! What strangers, and peers that have proven who they are, may cost an endpoint.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;

use ike_pump::{Letter, Pump, SITE, child, side_a, side_b};
use landbridge_proto::crypto::Secret;
use landbridge_proto::ike::{Command, Event};
use landbridge_proto::policy::connection::{Config, Connection, Gateway, LocalCredential, StartAction};
use landbridge_proto::policy::sad::SadReport;
use landbridge_proto::wire::{ExchangeType, Flags, Header, IkeSpi, encode_plain};
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn everything(_: &Letter) -> bool {
    true
}

fn with_wrong_psk() -> Connection {
    let mut a = side_a();
    a.local.credential = LocalCredential::Psk(Secret::new(b"not the secret".to_vec()));
    a
}

/// A stranger that goes on proving wrongly comes under the limits as one that proves nothing: cookies first (RFC 7296
/// §2.6), then puzzles, which it solves, then silence; and when it stops, all is forgotten.
#[test]
fn wrong_proofs_in_a_loop() {
    let gateway = Gateway {
        puzzle_difficulty: 8,
        ..Gateway::default()
    };
    let mut pump = Pump::with(with_wrong_psk(), side_b(), 0, gateway);
    pump.reconnect = false;
    for _ in 0..1000 {
        pump.connect();
        pump.deliver_all();
        // The attempt is over, or was refused: the next has another SPI.
        pump.down(0, None);
        pump.wire.clear();
    }
    let counters = pump.ends[1].counters();
    assert!(counters.auth_failed >= 32, "{counters:?}");
    assert!(counters.auth_failed <= 64, "the limit for one address: {counters:?}");
    assert!(counters.cookies_sent > 0 && counters.over_limit > 0, "{counters:?}");
    assert_eq!(counters.puzzles_solved, 32, "{counters:?}");
    assert!(pump.status(1).len() <= 64, "{} SAs", pump.status(1).len());
    pump.run_for(60 * SECOND, everything);
    assert_eq!(pump.status(1).len(), 0);
    // Whoever is right is served again.
    pump.configs[0] = Pump::new(side_a(), side_b()).configs[0].clone();
    pump.restart(0, 77);
    pump.connect();
    pump.deliver_all();
    pump.assert_joined();
}

/// A new configuration is not proven against with what the old one was.
#[test]
fn a_reload_between_the_first_and_the_second_message() {
    let mut pump = Pump::new(side_a(), side_b());
    pump.reconnect = false;
    pump.connect();
    pump.deliver(0);
    pump.deliver(0);
    assert_eq!(pump.wire[0].exchange(), ExchangeType::IKE_AUTH);
    let mut changed = side_b();
    changed.local.credential = LocalCredential::Psk(Secret::new(b"another secret".to_vec()));
    let config = Config {
        connections: [(SITE.into(), Arc::new(changed))].into(),
        ..Config::default()
    };
    let now = pump.at();
    pump.ends[1].reconfigure(now, Arc::new(config));
    pump.drain();
    pump.deliver_all();
    assert!(!pump.is_up(1) && !pump.is_up(0));
}

/// A repeated first message is answered as before only to where it came from.
#[test]
fn a_copied_first_message_from_elsewhere_draws_nothing() {
    let mut pump = Pump::new(side_a(), side_b());
    pump.connect();
    let first = pump.wire[0].clone();
    pump.deliver(0);
    assert_eq!(pump.wire.len(), 1);
    pump.hand(&first);
    assert_eq!(pump.wire.len(), 2, "the same answer again");
    let mut forged = first;
    forged.path.remote = "203.0.113.66:500".parse().unwrap();
    pump.hand(&forged);
    assert_eq!(pump.wire.len(), 2);
}

/// RFC 7296 §2.5 asks for INVALID_MAJOR_VERSION to "a higher major version number": IKEv1 gets no answer.
#[test]
fn only_higher_versions_are_answered() {
    let mut pump = Pump::new(side_a(), side_b());
    let header = Header {
        spi_i: IkeSpi([7; 8]),
        spi_r: IkeSpi::ZERO,
        exchange: ExchangeType::IKE_SA_INIT,
        flags: Flags {
            initiator: true,
            response: false,
        },
        message_id: 0,
    };
    // A header alone is shorter than the answer would be, and gets none.
    for (version, body, answers) in [(0x10, 40, 0), (0x30, 0, 0), (0x30, 40, 1)] {
        let mut octets = [encode_plain(&header, &[]), vec![0; body]].concat();
        octets[17] = version;
        let letter = Letter {
            to: 1,
            path: landbridge_proto::policy::sad::Path::udp(pump.addresses[1], pump.addresses[0]),
            octets,
        };
        pump.hand(&letter);
        assert_eq!(pump.wire.len(), answers, "version {version:#x}");
    }
}

fn several_children(mut connection: Connection, count: u8, ours: u8, theirs: u8) -> Connection {
    for number in 0..count {
        let name = format!("c{number}");
        let (local, remote) = (format!("10.{ours}.{number}.0/24"), format!("10.{theirs}.{number}.0/24"));
        let more = child(&name, &local, &remote, "aes256gcm16-x25519", StartAction::Start);
        connection.children.insert(more.name.clone(), more);
    }
    connection
}

/// RFC 7296 §1.3: NO_ADDITIONAL_SAS "indicates that a CREATE_CHILD_SA request is unacceptable because the responder is
/// unwilling to accept any more Child SAs on this IKE SA."
#[test]
fn child_sas_of_a_peer_have_an_end() {
    // B has one child, wide enough for all of A's.
    let mut b = side_b();
    b.children = [child(
        "net",
        "10.0.0.0/8",
        "10.0.0.0/8",
        "aes256gcm16-x25519",
        StartAction::None,
    )]
    .map(|c| (c.name.clone(), c))
    .into();
    let mut pump = Pump::new(several_children(side_a(), 40, 1, 2), b);
    pump.connect();
    pump.deliver_all();
    assert!(pump.saw(0, "[N(NO_ADDITIONAL_SAS)]"));
    assert_eq!(pump.sad[1].pairs.len(), 20, "4 for the one configured, 16 besides");
    assert!(pump.is_up(0) && pump.is_up(1), "the IKE SA lives on");
}

/// RFC 7296 §2.25: "If a peer continues to receive TEMPORARY_FAILURE on the same IKE SA after several minutes, it SHOULD
/// conclude that the state information is out of sync": two of them far apart are no such thing.
#[test]
fn two_busy_moments_far_apart_do_not_end_the_sa() {
    let mut pump = Pump::up(side_a(), side_b());
    for _ in 0..2 {
        // B deletes the pair that A rekeys: its Delete is slow, so A is told to wait.
        pump.run_for(600 * SECOND, everything);
        let id = pump.sad[1].active["net"];
        pump.report(1, SadReport::HardLimit(id));
        pump.rekey_child(0);
        let delete = pump.wire.remove(0);
        pump.deliver(0);
        assert!(pump.saw(0, "CREATE_CHILD_SA request"));
        pump.deliver(0);
        assert!(pump.saw(0, "[N(TEMPORARY_FAILURE)]"), "{:?}", pump.lines(0));
        pump.hand(&delete);
        pump.run_for(30 * SECOND, everything);
        assert!(pump.is_up(0) && pump.is_up(1), "{:?}", pump.ike_downs(0));
    }
    assert!(pump.ike_downs(0).is_empty());
}

/// `landbridge down` while a rekey is on its way: the new pair goes too, and none comes back.
#[test]
fn down_in_the_middle_of_a_rekey_stays_down() {
    let mut pump = Pump::up(side_a(), side_b());
    pump.rekey_child(0);
    pump.down(0, Some("net"));
    pump.run_for(60 * SECOND, everything);
    assert!(pump.is_up(0));
    assert!(pump.sad[0].pairs.is_empty(), "{:?}", pump.sad[0].active);
    // Nor in the next IKE SA, until the operator says so; here the peer is asked for nothing.
    let up = Command::Up {
        connection: SITE.into(),
        child: Some("net".into()),
        target: landbridge_proto::policy::connection::Target {
            local: pump.addresses[0],
            remote: pump.addresses[1],
        },
    };
    pump.command(0, up);
    pump.run_for(10 * SECOND, everything);
    pump.assert_joined();
}

/// RFC 7296 §2.8: a pair that the peer has rekeyed is the peer's to delete; we don't rekey it again.
#[test]
fn a_pair_that_the_peer_rekeyed_is_left_to_it() {
    let mut pump = Pump::up(side_a(), side_b());
    let old = pump.sa(0).children[0].id;
    pump.rekey_child(1);
    pump.deliver(0);
    pump.deliver(0);
    // B's Delete is late.
    let delete = pump.wire.remove(0);
    pump.report(0, SadReport::SoftLimit(old));
    assert!(pump.wire.is_empty(), "no request for the old pair: {:?}", pump.lines(0));
    pump.hand(&delete);
    pump.run_for(60 * SECOND, everything);
    pump.assert_joined();
    let ups = |event: &&Event| matches!(event, Event::ChildUp(_));
    assert_eq!(pump.events[0].iter().filter(ups).count(), 2);
}
