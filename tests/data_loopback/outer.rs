//! The outer packet: with UDP and without, its DF bit, its DSCP, fragments.

use crate::SOME;
use crate::support::World;
use crate::support::static_keys::{Pair, Tunnel, add_interface, interface_options, name};
use landbridge::data::{DataOptions, InterfaceOptions, RawEsp};
use landbridge_proto::ip::tunnel::{DontFragment, OuterDscp};
use landbridge_proto::policy::sad::{ChildSaId, Encapsulation, SadUpdate};
use std::time::Duration;

/// RFC 7296 §2.23: "all devices MUST be able to receive and process both UDP-encapsulated ESP and non-UDP-encapsulated ESP
/// packets at any time. Either side can decide whether or not to use UDP encapsulation for ESP irrespective of the choice
/// made by the other side." (K4)
#[test]
fn without_udp_and_one_end_with_the_other_without() {
    for (raw, ipv6_outside, owner) in [
        ((true, true), false, 0),
        ((true, true), true, 1),
        ((true, false), false, 1),
        ((false, true), true, 0),
    ] {
        let options = DataOptions {
            workers: 2,
            raw: RawEsp::Required,
            ..DataOptions::default()
        };
        let tunnel = Tunnel {
            raw,
            ipv6_outside,
            owner,
            ..Tunnel::default()
        };
        let Some(pair) = Pair::bare("raw ESP", options) else {
            return;
        };
        count_esp(&pair.world);
        pair.install(tunnel, 0);
        pair.activate(0, None);
        pair.carries(SOME);
        assert_eq!(pair.a.stray("unknown_spi") + pair.b.stray("unknown_spi"), 0);
        // What comes to B was sent by A.
        let (plain, udp) = settled(|| esp_counts(&pair.world));
        assert_eq!(
            (plain > 1000, udp > 100),
            (raw.0, !raw.0),
            "{plain} without UDP, {udp} with"
        );
        // A NAT came, or went: the same SAs, the other way.
        let path = tunnel.entry(true, 0).path;
        let encapsulation = if raw.0 { Encapsulation::Udp } else { Encapsulation::Raw };
        let id = ChildSaId(0);
        pair.a.apply(SadUpdate::Move {
            id,
            path,
            encapsulation,
        });
        pair.carries(SOME / 5);
        let (plain_now, udp_now) = esp_counts(&pair.world);
        assert_eq!((plain_now > plain, udp_now > udp), (!raw.0, raw.0));
    }
}

/// What two looks agree on: the last acknowledgment may be under way.
fn settled<T: PartialEq>(look: impl Fn() -> T) -> T {
    let mut before = look();
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(100));
        let now = look();
        if now == before {
            return now;
        }
        before = now;
    }
    panic!("it goes on and on");
}

/// Counts ESP that comes to B, without and with UDP.
pub fn count_esp(world: &World) {
    let rules = "add table inet seen; \
         add chain inet seen came { type filter hook input priority 0; }; \
         add rule inet seen came meta l4proto 50 counter; \
         add rule inet seen came udp dport 4500 counter; \
         add rule inet seen came iifname wan0 ip frag-off & 0x4000 == 0x4000 counter";
    world.must("b", &["nft", rules]);
}

pub fn esp_counts(world: &World) -> (u64, u64) {
    let counts = counts(world);
    (counts[0], counts[1])
}

pub fn counts(world: &World) -> Vec<u64> {
    let text = world.must("b", &["nft", "list", "table", "inet", "seen"]);
    let mut words = text.split_whitespace();
    let mut list = Vec::new();
    while let Some(word) = words.next() {
        if word == "packets" {
            list.push(words.next().unwrap().parse().unwrap());
        }
    }
    list
}

/// RFC 4301 §8.1: "it MUST be possible to configure the implementation's treatment of the DF bit (set, clear, copy from
/// inner header) for each SA."
#[test]
fn the_df_bit_is_cleared_set_or_copied() {
    for (policy, raw, with_inner, without_inner) in [
        (DontFragment::Clear, false, false, false),
        (DontFragment::Set, false, true, true),
        (DontFragment::Copy, false, true, false),
        (DontFragment::Copy, true, true, false),
        (DontFragment::Clear, true, false, false),
    ] {
        let Some(pair) = Pair::bare("DF", DataOptions::default()) else {
            return;
        };
        pair.a.with(|data, _| data.remove_interface(&name()));
        add_interface(&pair.a, policy);
        pair.world.ip("a", &["addr", "add", "10.1.0.1/24", "dev", "tun0"]);
        pair.world.ip("a", &["link", "set", "tun0", "mtu", "1400", "up"]);
        pair.world.ip("a", &["route", "add", "10.2.0.0/24", "dev", "tun0"]);
        let tunnel = Tunnel {
            raw: (raw, raw),
            ..Tunnel::default()
        };
        pair.install(tunnel, 0);
        pair.activate(0, None);
        count_esp(&pair.world);
        for (inner, outer) in [("do", with_inner), ("dont", without_inner)] {
            let before = counts(&pair.world)[2];
            let mut command = pair.world.command("a", "ping");
            command.args(["-c", "5", "-i", "0.05", "-W", "2", "-M", inner, "10.2.0.1"]);
            assert!(command.output().unwrap().status.success());
            let set = counts(&pair.world)[2] - before;
            assert_eq!(set >= 5, outer, "{policy:?}, inner -M {inner}: {set} with DF");
            assert!(outer || set == 0, "{policy:?}, inner -M {inner}: {set} with DF");
        }
    }
}

/// N21. RFC 4301 §5.1.2.1: "If the packet will immediately enter a domain for which the DSCP value in the outer header is not
/// appropriate, that value MUST be mapped to an appropriate value for the domain". It changes while the tunnel is up.
#[test]
fn a_dscp_is_copied_or_mapped() {
    let Some(pair) = Pair::up("DSCP", DataOptions::default(), Tunnel::default()) else {
        return;
    };
    let rules = "add table inet seen; \
         add chain inet seen came { type filter hook input priority 0; }; \
         add rule inet seen came iifname wan0 ip dscp ef counter; \
         add rule inet seen came iifname wan0 ip dscp cs5 counter; \
         add rule inet seen came iifname wan0 ip dscp cs1 counter; \
         add chain inet seen inner { type filter hook input priority 0; }; \
         add rule inet seen inner iifname tun0 ip dscp ef counter";
    pair.world.must("b", &["nft", rules]);
    let mut map = OuterDscp::default();
    map.set(46, 40);
    for (dscp, seen) in [(OuterDscp::default(), 0), (map, 1), (OuterDscp::all(8), 2)] {
        let options = InterfaceOptions {
            queues: 1,
            dscp,
            ..interface_options(DontFragment::Clear)
        };
        pair.a.with(move |data, _| data.change_interface(&name(), &options));
        let before = counts(&pair.world);
        let mut command = pair.world.command("a", "ping");
        command.args(["-c", "5", "-i", "0.05", "-W", "2", "-Q", "0xb8", "10.2.0.1"]);
        assert!(command.output().unwrap().status.success());
        let after = counts(&pair.world);
        for place in 0..3 {
            let came = after[place] - before[place];
            assert_eq!(came >= 5, place == seen, "{place}: {came}");
        }
        // What is inside stays as it is (RFC 2983 §4.1).
        assert!(after[3] - before[3] >= 5);
    }
}

/// N8. RFC 4303 §2.7: "An IPsec implementation SHOULD be capable of padding traffic by adding bytes after the end of the Payload
/// Data": what was short is as long as the rest, and arrives as it was.
#[test]
fn padding_makes_packets_alike() {
    // Octets of UDP around an inner packet with AES-GCM: UDP, SPI, sequence number, IV, trailer, ICV.
    const AROUND: usize = 8 + 8 + 8 + 2 + 16;
    for (padding, least) in [(u16::MAX, 1400), (600, 600)] {
        let tunnel = Tunnel {
            tfc_padding: Some(padding),
            ..Tunnel::default()
        };
        let Some(pair) = Pair::up("padding", DataOptions::default(), tunnel) else {
            return;
        };
        let limit = least + AROUND;
        let rules = format!(
            "add table inet seen; \
             add chain inet seen came {{ type filter hook input priority 0; }}; \
             add rule inet seen came iifname wan0 udp dport 4500 udp length < {limit} counter; \
             add rule inet seen came iifname wan0 udp dport 4500 udp length < {} counter; \
             add rule inet seen came iifname wan0 udp dport 4500 counter",
            limit + 4
        );
        pair.world.must("b", &["nft", &rules]);
        for size in ["0", "100", "500"] {
            let mut command = pair.world.command("a", "ping");
            command.args(["-c", "3", "-i", "0.05", "-W", "2", "-s", size, "10.2.0.1"]);
            assert!(command.output().unwrap().status.success());
        }
        let counts = counts(&pair.world);
        assert_eq!(counts[0], 0, "shorter than {limit}");
        assert!(
            counts[1] >= 9 && counts[1] == counts[2],
            "{counts:?}: longer than needed"
        );
        pair.carries(SOME / 5);
    }
}

/// The device below is smaller than the datagrams: IP fragments them, whatever UDP_SEGMENT says.
#[test]
fn a_small_device_mtu_fragments() {
    for ipv6_outside in [false, true] {
        let tunnel = Tunnel {
            ipv6_outside,
            ..Tunnel::default()
        };
        let Some(pair) = Pair::bare("small MTU", DataOptions::default()) else {
            return;
        };
        for ns in ["a", "b"] {
            pair.world.ip(ns, &["link", "set", "wan0", "mtu", "1300"]);
        }
        pair.install(tunnel, 0);
        pair.activate(0, None);
        pair.carries(SOME / 5);
        let offloads = pair.a.with(|data, _| data.offloads());
        assert!(
            offloads.contains(&("udp-gso", true)),
            "{offloads:?}: given up because of an MTU"
        );
    }
}
