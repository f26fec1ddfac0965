//! Over a real Linux kernel's ESP: strongSwan (kernel-netlink) and Libreswan in a guest, both roles each. One guest is
//! booted for each test.

use super::lab::{Case, Lab, Step};
use super::support::peer::Software;
use super::support::transfer::one_way;

/// Everything that a gateway lives through, in one tunnel.
const LIFE: &[Step] = &[
    Step::TheyRekeyChild,
    Step::WeRekeyIke,
    Step::WeRekeyChild,
    Step::TheyRekeyIke,
    Step::TheyDelete,
    Step::TheyRestart,
    Step::WeDelete,
];
/// A rekey of the Child SA by each end.
const CHILD: &[Step] = &[Step::TheyRekeyChild, Step::WeRekeyChild];

/// As much as in all other tests, each way.
const TWENTY: usize = 20_000_000;

fn both_roles(lab: &mut Lab, case: &Case, then: impl Fn(&Lab)) {
    for initiate in [true, false] {
        lab.case(
            &Case {
                initiate,
                ..case.clone()
            },
            &then,
        );
    }
}

/// What both are tried with.
fn usual(lab: &mut Lab) {
    for raw in [false, true] {
        let case = Case {
            what: "twenty megabytes",
            data: TWENTY,
            raw,
            ..Case::default()
        };
        both_roles(lab, &case, |lab| {
            // What came out of the kernel in order must not fall out of a window here, nor the other way.
            assert_eq!(lab.kernel_errors(), "", "the guest's kernel dropped something");
            let drops = lab.drops();
            for cause in [
                "too_old",
                "replayed",
                "integrity",
                "padding",
                "inner_malformed",
                "send_failed",
            ] {
                assert_eq!(drops.get(cause), None, "{drops:?}");
            }
        });
    }
    let case = Case {
        what: "life of a tunnel",
        esp: "aes256gcm16-x25519",
        steps: LIFE,
        ..Case::default()
    };
    both_roles(lab, &case, |_| {});
    lab.case(&Case { raw: true, ..case }, |_| {});
    for (ike, esp, raw) in [
        ("aes256-sha256-x25519", "aes256gcm16-esn-x25519", false),
        ("aes256-sha256-x25519", "aes256gcm16-noesn-x25519", true),
        ("aes256-sha256-modp2048", "aes256-sha256-esn-modp2048", true),
    ] {
        let case = Case {
            what: "sequence numbers",
            ike,
            esp,
            raw,
            steps: CHILD,
            ..Case::default()
        };
        both_roles(lab, &case, |lab| {
            let suite = lab.connection()["ike_sas"][0]["children"][0]["suite"].to_string();
            assert_eq!(suite.contains("-esn"), !esp.contains("noesn"), "{suite}");
        });
    }
    for (outer6, inner6) in [(false, true), (true, false), (true, true)] {
        for raw in [false, true] {
            // One role each: what differs is in the packets.
            let case = Case {
                what: "IPv6",
                outer6,
                inner6,
                raw,
                initiate: raw,
                steps: CHILD,
                ..Case::default()
            };
            lab.case(&case, |_| {});
        }
    }
}

/// ESP suites of the kernel, beside the one of all other cases; each in one role. The group is that of the IKE SA too:
/// Libreswan takes it for the rekeys, whatever stands in its `esp`.
fn suites(lab: &mut Lab) {
    for (index, (ike, esp)) in [
        ("aes256-sha256-x25519", "aes128gcm16-x25519"),
        ("aes256-sha256-ecp256", "aes192gcm16-ecp256"),
        ("aes256-sha256-ecp384", "chacha20poly1305-ecp384"),
        ("aes256-sha256-modp2048", "aes128-sha256-modp2048"),
        ("aes256-sha256-modp3072", "aes192-sha384-modp3072"),
        ("aes256-sha256-modp4096", "aes256-sha512-modp4096"),
        ("aes256-sha256-modp2048", "aes128-sha1-modp2048"),
        ("aes256-sha256-ecp521", "null-sha256-ecp521"),
    ]
    .into_iter()
    .enumerate()
    {
        let case = Case {
            what: "suites",
            ike,
            esp,
            initiate: index % 2 == 0,
            raw: index % 4 > 1,
            steps: CHILD,
            ..Case::default()
        };
        lab.case(&case, |_| {});
    }
}

/// Certificates under an intermediate CA, in both roles; each authenticates anew after a restart of the peer. Libreswan has
/// no Ed25519, and takes one kind of signature a connection. (All kinds in both roles: `certificates.rs`.)
fn certificates(lab: &mut Lab, kinds: &[(&'static str, &[bool])]) {
    for (kind, roles) in kinds {
        let case = Case {
            what: "certificates",
            certificates: Some(kind),
            steps: &[Step::TheyRekeyIke, Step::TheyRestart],
            ..Case::default()
        };
        for initiate in *roles {
            let case = Case {
                initiate: *initiate,
                ..case.clone()
            };
            lab.case(&case, |lab| {
                let shown = lab.connection()["ike_sas"][0]["peer_certificate"].to_string();
                assert!(shown.contains("O=interop, CN=peer.example"), "{shown}");
            });
        }
    }
}

/// Transport mode between the gateways' own addresses.
fn transport(lab: &mut Lab) {
    let case = Case {
        what: "transport mode",
        esp: "aes256gcm16-x25519",
        transport: true,
        raw: true,
        steps: CHILD,
        ..Case::default()
    };
    both_roles(lab, &case, |lab| {
        // RFC 7296 §1.3.1: the responder accepts with USE_TRANSPORT_MODE; so both ends know, and after each rekey.
        let child = lab.connection()["ike_sas"][0]["children"][0].to_string();
        assert!(child.contains("transport"), "{child}");
        let installed = lab.theirs.sh("ip xfrm state");
        assert!(
            installed.contains("mode transport") && !installed.contains("mode tunnel"),
            "{installed}"
        );
        assert_eq!(lab.kernel_errors(), "");
    });
}

#[test]
fn strongswan() {
    let Some(mut lab) = Lab::guest("strongSwan over the kernel's ESP", Software::StrongSwan) else {
        return;
    };
    usual(&mut lab);
    suites(&mut lab);
    lab.finish();
}

#[test]
fn strongswan_by_certificates_and_in_transport_mode() {
    let Some(mut lab) = Lab::guest("certificates and transport mode", Software::StrongSwan) else {
        return;
    };
    transport(&mut lab);
    certificates(&mut lab, &[("ecdsa", &[true, false]), ("rsa", &[true])]);
    lab.finish();
}

#[test]
fn libreswan() {
    let Some(mut lab) = Lab::guest("Libreswan over the kernel's ESP", Software::Libreswan) else {
        return;
    };
    usual(&mut lab);
    suites(&mut lab);
    lab.finish();
}

#[test]
fn libreswan_by_certificates_and_on_a_bad_path() {
    let Some(mut lab) = Lab::guest("certificates, and a bad path for IKE", Software::Libreswan) else {
        return;
    };
    certificates(&mut lab, &[("ecdsa", &[true, false])]);
    bad_path(&mut lab);
    lab.finish();
}

/// What is special about a kernel's packets, and about a network that does not carry them well.
#[test]
fn packets() {
    let Some(mut lab) = Lab::guest("packets of the kernel's ESP", Software::StrongSwan) else {
        return;
    };
    // The smallest windows of the peer: our packets leave in order of their numbers, or some would be dropped.
    for (what, peer_more) in [
        ("window of 1 at the peer", &["REPLAY_WINDOW=1"][..]),
        ("window of 32 at the peer", &["REPLAY_WINDOW=32"]),
    ] {
        let case = Case {
            what,
            data: 5_000_000,
            peer_more,
            ..Case::default()
        };
        lab.case(&case, |lab| assert_eq!(lab.kernel_errors(), ""));
    }
    // Our window: late and double packets. The kernel numbers them; the relay delays some by 3 ms and doubles some.
    for (what, esp) in [
        ("late and double packets", "aes256gcm16-noesn"),
        ("late and double packets, ESN", "aes256gcm16-esn"),
    ] {
        lab.case(
            &Case {
                what,
                esp,
                ..Case::default()
            },
            |lab| {
                let relay = lab.impair(&["only=esp", "reorder=5", "dup=5", "gap=3"]);
                one_way(&lab.world, "hb", "ha", "10.1.0.2", 3_000_000);
                one_way(&lab.world, "ha", "hb", "10.2.0.2", 3_000_000);
                let stats = relay.stop();
                let sent_twice = stats["ba"]["duplicated"].as_u64().unwrap();
                assert!(
                    sent_twice > 20 && stats["ba"]["reordered"].as_u64().unwrap() > 20,
                    "{stats}"
                );
                let drops = lab.drops();
                let replayed = drops.get("replayed").copied().unwrap_or(0);
                // Each double is dropped, and a late packet is not.
                assert_eq!(replayed, sent_twice, "{drops:?} {stats}");
                assert_eq!(drops.get("too_old"), None, "{drops:?}");
            },
        );
    }
    // Beyond a window of 32, late packets are dropped; TCP gets over it.
    let case = Case {
        what: "packets later than our window",
        child_more: "replay_window = 32",
        ..Case::default()
    };
    lab.case(&case, |lab| {
        let relay = lab.impair(&["only=esp", "reorder=2", "gap=60"]);
        one_way(&lab.world, "hb", "ha", "10.1.0.2", 1_000_000);
        relay.stop();
    });
    let case = Case {
        what: "checksums of zero",
        ..Case::default()
    };
    lab.case(&case, |lab| {
        lab.nft(
            "add table ip t; add chain ip t f { type filter hook forward priority 0; }; \
                 add rule ip t f iifname eth1 udp sport 4500 udp checksum 0 counter name zero; \
                 add rule ip t f iifname eth0 udp sport 4500 udp checksum 0 counter name none",
            &["zero", "none"],
        );
        lab.move_data(&Case::default());
        // RFC 3948 §2.1: the checksum of ESP in UDP over IPv4 is zero where the sender follows the SHOULD; ours is right.
        assert!(lab.counter("zero") > 100);
        assert_eq!(lab.counter("none"), 0);
        lab.world.must("net", &["nft", "delete table ip t"]);
    });
    for raw in [false, true] {
        lab.case(&Case { what: "congestion marks", raw, ..Case::default() }, |lab| {
            lab.nft("add table ip t; add chain ip t f { type filter hook forward priority 0; }; \
                     add rule ip t f ip ecn ect0 counter name zero ip ecn set ce", &["zero"]);
            for ns in ["ha", "hb"] {
                lab.world.must(ns, &["nft", "add table ip t; add counter ip t ce; add chain ip t i { type filter hook input priority 0; }; add rule ip t i icmp type echo-request ip ecn ce counter name ce"]);
            }
            lab.world.must("ha", &["ping", "-q", "-c", "3", "-i", "0.2", "-Q", "2", "10.2.0.2"]);
            lab.world.must("hb", &["ping", "-q", "-c", "3", "-i", "0.2", "-Q", "2", "10.1.0.2"]);
            // RFC 6040 §4.1 and §4.2: the inner ECT goes outside, a mark made on the way comes in.
            for ns in ["ha", "hb"] {
                let counted = lab.world.must(ns, &["nft", "list counter ip t ce"]);
                assert!(counted.contains("packets 3"), "{ns}: {counted}");
                lab.world.must(ns, &["nft", "delete table ip t"]);
            }
            lab.world.must("net", &["nft", "delete table ip t"]);
        });
    }
    // A path that narrows behind the first router: whoever sends with DF hears of it, and says so inside.
    for raw in [false, true] {
        let case = Case {
            what: "a path of 1300 octets",
            raw,
            initiate: raw,
            ..Case::default()
        };
        lab.case(&case, |lab| {
            let routes = [("192.0.2.0/24", "eth0"), ("198.51.100.0/24", "eth1")];
            for (net, device) in routes {
                lab.world
                    .ip("net", &["route", "replace", net, "dev", device, "mtu", "lock", "1300"]);
            }
            lab.move_data(&Case {
                data: 3_000_000,
                ..Case::default()
            });
            let seen = lab.world.must("net", &["nstat", "-az", "IpFragCreates", "IpFragFails"]);
            let count = |name: &str| {
                let mut words = seen.split_whitespace().skip_while(|word| *word != name);
                words.nth(1).unwrap().parse::<u64>().unwrap()
            };
            // Ours are fragmented on the way (`df = "clear"`), the kernel's come back to it with the MTU.
            assert!(count("IpFragCreates") > 0 && count("IpFragFails") > 0, "{seen}");
            for (net, device) in routes {
                lab.world.ip("net", &["route", "replace", net, "dev", device]);
            }
        });
    }
    lab.finish();
}

/// Handshake and rekeys while IKE messages are lost, late and double.
fn bad_path(lab: &mut Lab) {
    let relay = lab.impair(&["only=ike", "loss=15", "dup=15", "reorder=15", "gap=40"]);
    for initiate in [true, false] {
        let case = Case {
            what: "IKE messages lost, late and double",
            esp: "aes256gcm16-x25519",
            initiate,
            steps: super::lab::REKEYS,
            ..Case::default()
        };
        lab.case(&case, |_| {});
    }
    let stats = relay.stop();
    assert!(
        stats["ab"]["lost"].as_u64().unwrap() + stats["ba"]["lost"].as_u64().unwrap() > 0,
        "{stats}"
    );
}

#[test]
fn a_bad_path_for_ike() {
    let Some(mut lab) = Lab::guest("a bad path for IKE", Software::StrongSwan) else {
        return;
    };
    bad_path(&mut lab);
    lab.finish();
}
