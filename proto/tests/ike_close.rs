//! The peer closes what should be up: `close_action`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;

use ike_pump::{Letter, Pump, SITE, side_a, side_b};
use landbridge_proto::ike::Command;
use landbridge_proto::policy::connection::{Child, Connection, StartAction, Target};
use landbridge_proto::policy::sad::SadReport;
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn everything(_: &Letter) -> bool {
    true
}

fn closing(mut side: Connection, start_action: StartAction, close_action: StartAction) -> Connection {
    let mut child = Child::clone(&side.children["net"]);
    (child.start_action, child.close_action) = (start_action, close_action);
    side.children.insert("net".into(), Arc::new(child));
    side
}

fn up(start_action: StartAction, close_action: StartAction) -> Pump {
    let mut pump = Pump::new(closing(side_a(), start_action, close_action), side_b());
    let target = Target {
        local: pump.addresses[0],
        remote: pump.addresses[1],
    };
    // By name: one that does not start by itself is brought up too.
    let up = Command::Up {
        connection: SITE.into(),
        child: Some("net".into()),
        target,
    };
    pump.command(0, up);
    pump.deliver_all();
    pump.assert_joined();
    pump
}

fn packet(pump: &mut Pump) {
    let report = SadReport::Acquire {
        source: "10.1.0.9".parse().unwrap(),
        destination: "10.2.0.9".parse().unwrap(),
    };
    pump.report(0, report);
    pump.deliver_all();
}

#[test]
fn a_child_that_the_peer_closes() {
    for (start, close, comes_back) in [
        (StartAction::Start, StartAction::Start, true),
        (StartAction::Start, StartAction::None, false),
        (StartAction::Start, StartAction::Trap, false),
        (StartAction::None, StartAction::Start, true),
    ] {
        let mut pump = up(start, close);
        let sa = pump.sa(0).spi_i;
        pump.down(1, Some("net"));
        pump.deliver_all();
        assert!(pump.sa(0).children.is_empty());
        pump.run_for(10 * SECOND, everything);
        assert_eq!(!pump.sa(0).children.is_empty(), comes_back, "{start:?} {close:?}");
        packet(&mut pump);
        let waited = comes_back || close == StartAction::Trap;
        assert_eq!(!pump.sa(0).children.is_empty(), waited, "{start:?} {close:?}: a packet");
        // More packets make no more pairs.
        packet(&mut pump);
        pump.run_for(5 * SECOND, everything);
        assert_eq!(pump.sa(0).children.len(), usize::from(waited));
        assert_eq!(pump.sa(0).spi_i, sa, "the IKE SA stays");
    }
}

#[test]
fn an_ike_sa_that_the_peer_closes() {
    for (close, comes_back) in [
        (StartAction::Start, true),
        (StartAction::None, false),
        (StartAction::Trap, false),
    ] {
        let mut pump = up(StartAction::Start, close);
        pump.down(1, None);
        pump.deliver_all();
        pump.run_for(60 * SECOND, everything);
        assert_eq!(pump.is_up(0), comes_back, "{close:?}");
        packet(&mut pump);
        pump.run_for(10 * SECOND, everything);
        assert_eq!(
            pump.is_up(0),
            comes_back || close == StartAction::Trap,
            "{close:?}: a packet"
        );
        // The operator always can.
        pump.connect();
        pump.deliver_all();
        pump.assert_joined();
    }
}

/// Only what the peer wanted is its doing: a pair that is rekeyed is closed by it too.
#[test]
fn a_rekey_by_the_peer_closes_nothing() {
    let mut pump = up(StartAction::Start, StartAction::None);
    pump.rekey_child(1);
    pump.deliver_all();
    pump.run_for(10 * SECOND, everything);
    pump.assert_joined();
}
