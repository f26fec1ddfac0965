//! Transport mode (RFC 7296 §1.3.1): asked for, granted or not, never behind a NAT, kept by rekeys.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;

use ike_pump::{Nat, Pump, side_a, side_b};
use landbridge_proto::policy::connection::{Child, Connection};
use landbridge_proto::policy::sad::Mode;
use landbridge_proto::policy::selector::from_prefix;
use std::net::IpAddr;
use std::sync::Arc;

/// The connection with selectors for these two hosts alone.
fn hosts(mut connection: Connection, local: IpAddr, remote: IpAddr, mode: Mode) -> Connection {
    let mut child = Child::clone(&connection.children["net"]);
    child.local_ts = vec![from_prefix(local, 32)];
    child.remote_ts = vec![from_prefix(remote, 32)];
    child.mode = mode;
    connection.children.insert("net".into(), Arc::new(child));
    connection
}

/// The outer addresses of the pump's ends.
fn addresses() -> [IpAddr; 2] {
    let pump = Pump::new(side_a(), side_b());
    [pump.addresses[0].ip(), pump.addresses[1].ip()]
}

fn pump(modes: [Mode; 2]) -> Pump {
    let [a, b] = addresses();
    Pump::new(hosts(side_a(), a, b, modes[0]), hosts(side_b(), b, a, modes[1]))
}

fn modes(pump: &Pump) -> [Vec<Mode>; 2] {
    [0, 1].map(|who| pump.sa(who).children.iter().map(|child| child.mode).collect())
}

/// "If the request is accepted, the response MUST also include a notification of type USE_TRANSPORT_MODE."
#[test]
fn both_want_it() {
    let mut pump = pump([Mode::Transport, Mode::Transport]);
    pump.connect();
    pump.deliver_all();
    assert_eq!(modes(&pump), [vec![Mode::Transport], vec![Mode::Transport]]);
    assert!(pump.saw(1, "IKE_AUTH response 1 [IDr AUTH N(USE_TRANSPORT_MODE) SA TSi TSr]"));
    pump.assert_joined();
    for who in 0..2 {
        pump.rekey_child(who);
        pump.deliver_all();
        let modes = modes(&pump);
        assert!(
            modes.iter().flatten().all(|mode| *mode == Mode::Transport),
            "a rekey keeps it: {modes:?}"
        );
        pump.assert_joined();
    }
}

/// "If the responder declines the request, the Child SA will be established in tunnel mode."
#[test]
fn one_wants_it() {
    for wish in [[Mode::Transport, Mode::Tunnel], [Mode::Tunnel, Mode::Transport]] {
        let mut pump = pump(wish);
        pump.connect();
        pump.deliver_all();
        assert_eq!(modes(&pump), [vec![Mode::Tunnel], vec![Mode::Tunnel]], "{wish:?}");
        pump.assert_joined();
    }
}

/// What stands behind a NAT has another address at the other end: tunnel mode carries it all the same.
#[test]
fn not_through_a_nat() {
    let [a, b] = addresses();
    let public: IpAddr = "198.51.100.77".parse().unwrap();
    // The far end knows the near one by its public address, or by its own: neither makes transport mode fit.
    for seen in [public, a] {
        let far = hosts(side_b(), b, seen, Mode::Transport);
        let mut pump = Pump::new(hosts(side_a(), a, b, Mode::Transport), far);
        pump.nat = Some(Nat { public, shift: 1000 });
        pump.connect();
        pump.deliver_all();
        assert!(!pump.saw(0, "USE_TRANSPORT_MODE"), "it is not even asked for");
        if seen == a {
            assert_eq!(modes(&pump), [vec![Mode::Tunnel], vec![Mode::Tunnel]]);
        }
    }
}

/// Selectors for more than the two hosts are tunnel mode's, whatever is configured.
#[test]
fn not_for_networks() {
    let [a, b] = addresses();
    let mut near = hosts(side_a(), a, b, Mode::Transport);
    let mut child = Child::clone(&near.children["net"]);
    child.local_ts = vec![from_prefix(a, 24)];
    near.children.insert("net".into(), Arc::new(child));
    let mut pump = Pump::new(near, hosts(side_b(), b, a, Mode::Transport));
    pump.connect();
    pump.deliver_all();
    assert_eq!(modes(&pump), [vec![Mode::Tunnel], vec![Mode::Tunnel]]);
}
