//! Two endpoints joined by hand: each message can be looked at, held back, changed or repeated.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

use landbridge_proto::crypto::{Encryption, Group, PrfAlgorithm, Secret, SigningKey};
use landbridge_proto::ike::{Command, Endpoint, Event, Failure, TimerKind};
use landbridge_proto::policy::connection::{
    Child, Config, Connection, Gateway, LocalAuth, LocalCredential, RemoteAuth, RemoteCredential, StartAction, Target,
};
use landbridge_proto::policy::proposal::{EspProposal, IkeProposal};
use landbridge_proto::policy::sad::{Mode, Path, SadUpdate, TrafficLimits};
use landbridge_proto::policy::selector;
use landbridge_proto::time::{Instant, Now};
use landbridge_proto::wire::{ExchangeType, Flags, Header, Identification, IkeSpi, OuterBody, decode_outer};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const A: &str = "192.0.2.1:500";
const B: &str = "198.51.100.2:500";

fn child(local: &str, remote: &str, esp: &str, start_action: StartAction) -> Child {
    Child {
        name: "net".into(),
        local_ts: vec![selector::parse(local).unwrap()],
        remote_ts: vec![selector::parse(remote).unwrap()],
        esp_proposals: vec![EspProposal::parse(esp).unwrap()],
        rekey_time: None,
        life_time: None,
        rand_time: Duration::ZERO,
        limits: TrafficLimits::default(),
        mode: Mode::Tunnel,
        replay_window: 64,
        tfc_padding: None,
        iptfs: None,
        pairs: 1,
        start_action,
        close_action: start_action,
    }
}

fn connection(us: &str, them: &str, child: Child) -> Connection {
    let psk = || Secret::new(b"a secret of both".to_vec());
    Connection {
        name: "site".into(),
        local_addrs: vec![],
        remote_addrs: vec![],
        remote_port: 500,
        ike_proposals: vec![IkeProposal::parse("aes256gcm16-prfsha256-x25519-ecp256").unwrap()],
        local: LocalAuth {
            id: Identification::parse(us).unwrap(),
            credential: LocalCredential::Psk(psk()),
        },
        remote: RemoteAuth {
            id: Some(Identification::parse(them).unwrap()),
            credential: RemoteCredential::Psk(vec![psk()]),
        },
        ike_rekey_time: None,
        reauth_time: None,
        dpd_delay: None,
        fragmentation: true,
        fragment_size: 1280,
        force_udp_encapsulation: true,
        mobike: false,
        tcp: Default::default(),
        tcp_port: 4500,
        ppk: Default::default(),
        resumption: false,
        follow_redirects: false,
        redirect_to: None,
        keep_trying: true,
        children: [("net".into(), Arc::new(child))].into(),
    }
}

fn side_a() -> Connection {
    connection(
        "a.example",
        "b.example",
        child("10.1.0.0/16", "10.2.0.0/16", "aes256gcm16-x25519", StartAction::Start),
    )
}

fn side_b() -> Connection {
    connection(
        "b.example",
        "a.example",
        child("10.2.0.0/16", "10.1.0.0/16", "aes256gcm16-x25519", StartAction::None),
    )
}

struct Pump {
    ends: [Endpoint; 2],
    addresses: [SocketAddr; 2],
    now: Instant,
    events: [Vec<Event>; 2],
    /// What is under way: to whom, from and to, octets.
    wire: Vec<(usize, Path, Vec<u8>)>,
}

impl Pump {
    fn new(a: Connection, b: Connection, gateway_b: Gateway) -> Self {
        let config = |connection: Connection, gateway| {
            Arc::new(Config {
                connections: [("site".into(), Arc::new(connection))].into(),
                gateway,
            })
        };
        let now = Instant::from_nanos(1);
        let at = Now { instant: now, unix: 0 };
        let ends = [
            Endpoint::new(at, [1; 32], config(a, Gateway::default())),
            Endpoint::new(at, [2; 32], config(b, gateway_b)),
        ];
        let addresses = [A.parse().unwrap(), B.parse().unwrap()];
        Self {
            ends,
            addresses,
            now,
            events: [vec![], vec![]],
            wire: vec![],
        }
    }

    fn at(&self) -> Now {
        Now {
            instant: self.now,
            unix: 0,
        }
    }

    fn drain(&mut self) {
        for who in 0..2 {
            while let Some(event) = self.ends[who].poll_event() {
                self.events[who].push(event);
            }
            let mut out = Vec::new();
            while let Some(transmit) = self.ends[who].poll_transmit(&mut out) {
                let path = Path::udp(transmit.path.remote, transmit.path.local);
                self.wire.push((1 - who, path, out.clone()));
            }
        }
    }

    fn connect(&mut self) {
        let target = Target {
            local: self.addresses[0],
            remote: self.addresses[1],
        };
        let now = self.at();
        self.ends[0]
            .handle_command(
                now,
                Command::Up {
                    connection: "site".into(),
                    child: None,
                    target,
                },
            )
            .unwrap();
        self.drain();
    }

    /// Delivers the first message under way, through a hand that may change it (or hold it back).
    fn step(&mut self, hand: impl FnOnce(usize, &mut Vec<u8>) -> bool) -> bool {
        if self.wire.is_empty() {
            return false;
        }
        let (to, path, mut octets) = self.wire.remove(0);
        if hand(to, &mut octets) {
            let now = self.at();
            self.ends[to].handle_datagram(now, path, &octets);
        }
        self.drain();
        true
    }

    fn run(&mut self) {
        while self.step(|_, _| true) {}
    }

    /// Moves time on to the next timer of an end.
    fn tick(&mut self, who: usize) {
        let (at, _) = self.ends[who].poll_timeout().expect("a timer");
        self.now = self.now.max(at);
        let now = self.at();
        self.ends[who].handle_timeout(now);
        self.drain();
    }

    fn up(&self, who: usize) -> bool {
        self.ends[who]
            .status()
            .iter()
            .any(|sa| sa.stage == "established" && sa.children.len() == 1)
    }

    fn failures(&self, who: usize) -> Vec<&Failure> {
        self.events[who]
            .iter()
            .filter_map(|e| {
                if let Event::Failed(failure) = e {
                    Some(failure)
                } else {
                    None
                }
            })
            .collect()
    }

    fn lines(&self, who: usize) -> Vec<&str> {
        self.events[who]
            .iter()
            .filter_map(|e| {
                if let Event::Message { line, .. } = e {
                    Some(line.as_str())
                } else {
                    None
                }
            })
            .collect()
    }
}

#[test]
fn two_round_trips_and_both_are_up() {
    let mut pump = Pump::new(side_a(), side_b(), Gateway::default());
    pump.connect();
    let mut messages = 0;
    while pump.step(|_, _| true) {
        messages += 1;
    }
    assert_eq!(messages, 4);
    assert!(pump.up(0) && pump.up(1));
    let (a, b) = (
        pump.ends[0].status()[0].children[0].spis,
        pump.ends[1].status()[0].children[0].spis,
    );
    assert_eq!(a, (b.1, b.0));
}

#[test]
fn raw_keys_authenticate_and_wrong_ones_do_not() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let [ka, kb, kc] = [(); 3].map(|()| Arc::new(SigningKey::generate(&mut rng)));
    for (presented, accepted, ok) in [(&ka, &ka, true), (&kc, &ka, false)] {
        let (mut a, mut b) = (side_a(), side_b());
        a.local.credential = LocalCredential::RawKey(Arc::clone(presented));
        a.remote.credential = RemoteCredential::RawKeys(vec![kb.verifying_key()]);
        b.local.credential = LocalCredential::RawKey(Arc::clone(&kb));
        b.remote.credential = RemoteCredential::RawKeys(vec![accepted.verifying_key()]);
        let mut pump = Pump::new(a, b, Gateway::default());
        pump.connect();
        pump.run();
        assert_eq!((pump.up(0), pump.up(1)), (ok, ok));
        if !ok {
            assert!(
                pump.failures(1)[0].verdict.contains("public key"),
                "{:?}",
                pump.failures(1)
            );
        }
    }
}

/// G4: "All errors causing the authentication to fail ... MUST be AUTHENTICATION_FAILED", and our own log knows why.
#[test]
fn what_is_wrong_is_told_to_us_and_not_to_the_peer() {
    type Change = fn(&mut Connection);
    let cases: [(Change, &str); 3] = [
        (
            |a| a.local.credential = LocalCredential::Psk(Secret::new(b"another".to_vec())),
            "pre-shared keys differ",
        ),
        (
            |a| a.local.id = Identification::parse("stranger.example").unwrap(),
            "stranger.example",
        ),
        (
            |a| a.remote.id = Some(Identification::parse("somebody.else").unwrap()),
            "somebody.else",
        ),
    ];
    for (change, told) in cases {
        let mut a = side_a();
        change(&mut a);
        let mut pump = Pump::new(a, side_b(), Gateway::default());
        pump.connect();
        pump.run();
        assert!(!pump.up(0) && !pump.up(1));
        assert!(pump.failures(1)[0].verdict.contains(told), "{:?}", pump.failures(1));
        assert!(
            pump.lines(0)
                .contains(&"IKE_AUTH response 1 [N(AUTHENTICATION_FAILED)]"),
            "{:?}",
            pump.lines(0)
        );
        assert!(pump.failures(0)[0].verdict.contains("AUTHENTICATION_FAILED"));
        assert!(
            pump.events[0].iter().any(|e| matches!(e, Event::NeedTarget { .. })),
            "it is tried again"
        );
    }
}

/// D6, D7, D9: cookie first, or another group first: both orders converge, and the offer stays the same.
#[test]
fn cookies_and_another_group() {
    for (cookies, group) in [(true, false), (false, true), (true, true)] {
        let mut b = side_b();
        if group {
            b.ike_proposals = vec![IkeProposal::parse("aes256gcm16-prfsha256-ecp256").unwrap()];
        }
        let threshold = if cookies { 0 } else { 100 };
        let mut pump = Pump::new(
            side_a(),
            b,
            Gateway {
                cookie_threshold: threshold,
                ..Gateway::default()
            },
        );
        pump.connect();
        let mut requests = Vec::new();
        while pump.step(|to, octets| {
            if to == 1 && octets[18] == ExchangeType::IKE_SA_INIT.0 {
                requests.push(octets.clone());
            }
            true
        }) {}
        assert!(pump.up(0) && pump.up(1), "{:?}", pump.lines(0));
        assert_eq!(requests.len(), 1 + usize::from(cookies) + usize::from(group));
        // C1: "IKE_SA_INIT ... message ID 0", and the same SPI.
        assert!(
            requests
                .iter()
                .all(|r| r[20..24] == [0; 4] && r[..16] == requests[0][..16])
        );
        let last = requests.last().unwrap();
        // D3: the cookie is the first payload.
        assert_eq!(last[16] == 41, cookies, "{last:02x?}");
        assert_eq!(pump.ends[1].counters().cookies_sent > 0, cookies);
    }
}

/// D1, D4: under load a wrong cookie gets a new one, and no state is kept.
#[test]
fn strangers_cost_nothing_under_load() {
    let gateway = Gateway {
        cookie_threshold: 0,
        ..Gateway::default()
    };
    let mut pump = Pump::new(side_a(), side_b(), gateway);
    pump.connect();
    let (_, path, request) = pump.wire.remove(0);
    let mut octets_out = 0;
    for n in 0..1000_u64 {
        let mut forged = request.clone();
        forged[..8].copy_from_slice(&(n + 1).to_be_bytes());
        let now = pump.at();
        pump.ends[1].handle_datagram(now, path, &forged);
        pump.drain();
        octets_out += pump.wire.drain(..).map(|(_, _, octets)| octets.len()).sum::<usize>();
    }
    assert!(pump.ends[1].status().is_empty());
    assert!(octets_out <= 1000 * request.len(), "D13: no amplification");
}

/// Half-open SAs are bounded, and forgotten.
#[test]
fn half_open_sas_end() {
    let gateway = Gateway {
        cookie_threshold: 1000,
        half_open_limit_per_address: 10,
        ..Gateway::default()
    };
    let mut pump = Pump::new(side_a(), side_b(), gateway);
    pump.connect();
    let (_, path, request) = pump.wire.remove(0);
    for n in 0..100_u64 {
        let mut other = request.clone();
        other[..8].copy_from_slice(&(n + 1).to_be_bytes());
        let now = pump.at();
        pump.ends[1].handle_datagram(now, path, &other);
    }
    pump.drain();
    assert_eq!(pump.ends[1].status().len(), 10);
    assert_eq!(pump.ends[1].counters().over_limit, 90);
    for _ in 0..100 {
        if pump.ends[1].poll_timeout().is_none() {
            break;
        }
        pump.tick(1);
    }
    assert!(pump.ends[1].status().is_empty());
    let now = pump.at();
    pump.ends[1].handle_datagram(now, path, &request);
    assert_eq!(pump.ends[1].status().len(), 1, "there is room again");
}

/// C3, C5: a repeated request gets the identical answer and changes nothing, in every exchange.
#[test]
fn repeated_requests_get_the_same_answer() {
    let mut pump = Pump::new(side_a(), side_b(), Gateway::default());
    pump.connect();
    for _ in 0..2 {
        let (to, path, request) = pump.wire.remove(0);
        let now = pump.at();
        let mut answers = Vec::new();
        for _ in 0..3 {
            pump.ends[to].handle_datagram(now, path, &request);
            pump.drain();
            answers.push(pump.wire.remove(0));
        }
        assert!(answers.iter().all(|answer| answer.2 == answers[0].2));
        pump.wire.push(answers.remove(0));
        pump.step(|_, _| true);
    }
    assert!(pump.up(0) && pump.up(1));
    assert_eq!(pump.ends[1].status().len(), 1);
}

/// C14, F10: flip any bit of any protected message: it is dropped, nothing changes, and the real one still works.
#[test]
fn forged_messages_change_nothing() {
    let mut pump = Pump::new(side_a(), side_b(), Gateway::default());
    pump.connect();
    pump.step(|_, _| true);
    pump.step(|_, _| true);
    for _ in 0..2 {
        let (to, path, good) = pump.wire.remove(0);
        let elsewhere = Path {
            remote: "203.0.113.9:4500".parse().unwrap(),
            ..path
        };
        for at in 0..good.len() {
            let mut forged = good.clone();
            forged[at] ^= 0x10;
            let now = pump.at();
            pump.ends[to].handle_datagram(now, elsewhere, &forged);
            pump.drain();
            // At most a hint that the SPI is unknown, to where it came from.
            pump.wire
                .retain(|(_, path, _)| path.local.ip() != elsewhere.remote.ip());
            assert!(pump.wire.is_empty(), "octet {at} of a forged message was answered");
        }
        assert!(!pump.up(to));
        let now = pump.at();
        pump.ends[to].handle_datagram(now, path, &good);
        pump.drain();
    }
    assert!(pump.up(0) && pump.up(1));
    assert!(pump.ends[1].status()[0].path.remote.ip() == pump.addresses[0].ip());
}

/// L7: our own messages sent back to us are dropped.
#[test]
fn reflected_messages_are_dropped() {
    let mut pump = Pump::new(side_a(), side_b(), Gateway::default());
    pump.connect();
    for _ in 0..4 {
        let (to, path, octets) = pump.wire[0].clone();
        for flags in [None, Some(0x08), Some(0x20), Some(0x28), Some(0)] {
            let mut mirrored = octets.clone();
            mirrored[19] = flags.unwrap_or(mirrored[19]);
            let now = pump.at();
            let back = Path::udp(path.remote, path.local);
            pump.ends[1 - to].handle_datagram(now, back, &mirrored);
        }
        let before = pump.wire.len();
        pump.drain();
        pump.wire.truncate(before);
        pump.step(|_, _| true);
    }
    assert!(pump.up(0) && pump.up(1));
    assert_eq!(pump.ends[0].status().len(), 1);
}

/// D10: "an unauthenticated error ... SHOULD NOT" end the attempt.
#[test]
fn a_forged_refusal_does_not_end_the_attempt() {
    use landbridge_proto::wire::{Notify, NotifyType, Payload, encode_plain};
    let mut pump = Pump::new(side_a(), side_b(), Gateway::default());
    pump.connect();
    let spi = IkeSpi(pump.wire[0].2[..8].try_into().unwrap());
    let path = Path::udp(pump.addresses[0], pump.addresses[1]);
    for number in [14, 24, 7, 17, 4, 8191] {
        let flags = Flags {
            initiator: false,
            response: true,
        };
        let header = Header {
            spi_i: spi,
            spi_r: IkeSpi::ZERO,
            exchange: ExchangeType::IKE_SA_INIT,
            flags,
            message_id: 0,
        };
        let datagram = encode_plain(
            &header,
            &[Payload::Notify(Notify::new(NotifyType(number), vec![0, 14]))],
        );
        let now = pump.at();
        pump.ends[0].handle_datagram(now, path, &datagram);
    }
    pump.run();
    assert!(pump.up(0) && pump.up(1));
}

/// M1, M2: messages larger than the limit go in fragments; each is protected by itself.
#[test]
fn large_messages_go_in_fragments() {
    let (mut a, mut b) = (side_a(), side_b());
    (a.fragment_size, b.fragment_size) = (180, 180);
    let mut pump = Pump::new(a, b, Gateway::default());
    pump.connect();
    let mut fragments = [0, 0];
    while pump.step(|to, octets| {
        let outer = decode_outer(octets).unwrap();
        if matches!(outer.body, OuterBody::Skf { .. }) {
            fragments[to] += 1;
            assert_ne!(outer.header.exchange, ExchangeType::IKE_SA_INIT);
            assert!(octets.len() + 32 <= 180);
        }
        true
    }) {}
    assert!(pump.up(0) && pump.up(1));
    assert!(fragments[0] > 1 && fragments[1] > 1, "{fragments:?}");
}

/// H1, H2, G13: the answer is a subset of the offer; nothing in common leaves the IKE SA up.
#[test]
fn selectors_are_narrowed_or_refused() {
    let mut a = side_a();
    a.children = [(
        "net".into(),
        Arc::new(child("0.0.0.0/0", "0.0.0.0/0", "aes256gcm16", StartAction::Start)),
    )]
    .into();
    let mut b = side_b();
    b.children = [(
        "net".into(),
        Arc::new(child("10.2.0.0/16", "10.1.0.0/16", "aes256gcm16", StartAction::None)),
    )]
    .into();
    let mut pump = Pump::new(a, b, Gateway::default());
    pump.connect();
    pump.run();
    let status = pump.ends[0].status();
    assert_eq!(
        status[0].children[0].local_ts,
        [selector::parse("10.1.0.0/16").unwrap()]
    );
    assert_eq!(
        status[0].children[0].remote_ts,
        [selector::parse("10.2.0.0/16").unwrap()]
    );
    let mut b = side_b();
    b.children = [(
        "net".into(),
        Arc::new(child(
            "10.8.0.0/16",
            "10.9.0.0/16",
            "aes256gcm16-x25519",
            StartAction::None,
        )),
    )]
    .into();
    let mut pump = Pump::new(side_a(), b, Gateway::default());
    pump.connect();
    pump.run();
    for who in 0..2 {
        assert_eq!(pump.ends[who].status()[0].stage, "established");
        assert!(pump.ends[who].status()[0].children.is_empty());
        assert!(!pump.failures(who).is_empty());
    }
}

/// C4, J6: no answer: the same octets again at growing intervals, then the end; never by an unprotected hint.
#[test]
fn a_dead_peer_is_found_by_retransmission_alone() {
    let mut a = side_a();
    a.dpd_delay = Some(Duration::from_secs(10));
    let mut pump = Pump::new(a, side_b(), Gateway::default());
    pump.connect();
    pump.run();
    assert!(pump.up(0));
    let mut sent: Vec<(Instant, Vec<u8>)> = Vec::new();
    for _ in 0..50 {
        pump.tick(0);
        let now = pump.now;
        sent.extend(pump.wire.drain(..).map(|(_, _, octets)| (now, octets)));
        if !pump.up(0) {
            break;
        }
    }
    assert!(!pump.up(0), "the peer is still taken for alive");
    assert_eq!(sent.len(), 6);
    assert!(
        sent.iter().all(|(_, octets)| *octets == sent[0].1),
        "C2: bitwise identical"
    );
    let gaps: Vec<Duration> = sent
        .windows(2)
        .map(|pair| pair[1].0.saturating_since(pair[0].0))
        .collect();
    assert!(gaps.windows(2).all(|pair| pair[1] > pair[0]), "{gaps:?}");
}

/// J3, J9: a clean stop deletes; the peer closes silently.
#[test]
fn shutdown_tells_the_peer() {
    let mut pump = Pump::new(side_a(), side_b(), Gateway::default());
    pump.connect();
    pump.run();
    let now = pump.at();
    pump.ends[0].handle_command(now, Command::Shutdown).unwrap();
    pump.drain();
    pump.run();
    assert!(pump.events[0].contains(&Event::ShutdownComplete));
    assert!(!pump.up(0) && !pump.up(1));
    let target = Target {
        local: pump.addresses[0],
        remote: pump.addresses[1],
    };
    let again = pump.ends[0].handle_command(
        now,
        Command::Up {
            connection: "site".into(),
            child: None,
            target,
        },
    );
    assert!(again.is_err());
}

/// A reload keeps what did not change.
#[test]
fn reconfigure_is_a_diff() {
    let mut pump = Pump::new(side_a(), side_b(), Gateway::default());
    pump.connect();
    pump.run();
    let spi = pump.ends[0].status()[0].spi_i;
    let now = pump.at();
    let same = Config {
        connections: [("site".into(), Arc::new(side_a()))].into(),
        gateway: Gateway::default(),
    };
    pump.ends[0].reconfigure(now, Arc::new(same));
    pump.run();
    assert!(pump.up(0) && pump.ends[0].status()[0].spi_i == spi);
    let mut changed = side_a();
    changed.remote_port = 501;
    let changed = Config {
        connections: [("site".into(), Arc::new(changed))].into(),
        gateway: Gateway::default(),
    };
    pump.ends[0].reconfigure(now, Arc::new(changed));
    pump.drain();
    pump.run();
    assert!(!pump.up(0) && !pump.up(1));
}

/// §1.3.1: more Child SAs by CREATE_CHILD_SA, with a key exchange of their own; one deleted leaves the other.
#[test]
fn additional_child_sas() {
    let (mut a, mut b) = (side_a(), side_b());
    let more = |local, remote, action| {
        Arc::new(Child {
            name: "more".into(),
            ..child(local, remote, "aes256gcm16-ecp256", action)
        })
    };
    a.children
        .insert("more".into(), more("10.3.0.0/16", "10.4.0.0/16", StartAction::Start));
    b.children
        .insert("more".into(), more("10.4.0.0/16", "10.3.0.0/16", StartAction::None));
    let mut pump = Pump::new(a, b, Gateway::default());
    pump.connect();
    pump.run();
    for who in 0..2 {
        let status = pump.ends[who].status();
        assert_eq!(status[0].children.len(), 2, "{status:?}");
        // The first came with IKE_AUTH, without a key exchange of its own (§1.2); the second has one.
        let groups = [0, 1].map(|index| status[0].children[index].suite.group);
        assert_eq!(groups, [None, Some(Group::Curve25519)]);
        assert_eq!(pump.ends[who].spis_in_use(), 2);
    }
    let now = pump.at();
    let down = Command::Down {
        connection: "site".into(),
        child: Some("more".into()),
    };
    pump.ends[1].handle_command(now, down).unwrap();
    pump.drain();
    pump.run();
    assert!(pump.up(0) && pump.up(1));
    assert_eq!((pump.ends[0].spis_in_use(), pump.ends[1].spis_in_use()), (1, 1));
}

/// K6: the side behind the NAT keeps the mapping when it is idle; the other has no reason to.
#[test]
fn keepalives_behind_a_nat() {
    let mut a = side_a();
    a.force_udp_encapsulation = false;
    let mut b = side_b();
    b.force_udp_encapsulation = false;
    let mut pump = Pump::new(a, b, Gateway::default());
    pump.connect();
    // A's packets leave the NAT from another address and port; answers find their way back.
    let (inside, outside): (SocketAddr, SocketAddr) = (A.parse().unwrap(), "203.0.113.5:1024".parse().unwrap());
    while !pump.wire.is_empty() {
        let (to, mut path, octets) = pump.wire.remove(0);
        if to == 1 {
            path.remote = SocketAddr::new(outside.ip(), outside.port() + path.remote.port());
        } else {
            path.local = SocketAddr::new(inside.ip(), path.local.port() - outside.port());
        }
        let now = pump.at();
        pump.ends[to].handle_datagram(now, path, &octets);
        pump.drain();
    }
    assert!(pump.up(0) && pump.up(1));
    let (at_a, at_b) = (pump.ends[0].status()[0].clone(), pump.ends[1].status()[0].clone());
    assert!(at_a.nat.local && !at_a.nat.remote && at_b.nat.remote && !at_b.nat.local);
    assert_eq!(
        (at_a.path.local.port(), at_a.path.remote.port()),
        (4500, 4500),
        "K2: both ports move"
    );
    assert_eq!(
        pump.ends[0].poll_timeout().map(|(_, kind)| kind),
        Some(TimerKind::NatKeepalive)
    );
    assert_ne!(
        pump.ends[1].poll_timeout().map(|(_, kind)| kind),
        Some(TimerKind::NatKeepalive)
    );
    pump.tick(0);
    assert_eq!(pump.wire.pop().map(|(_, _, octets)| octets), Some(vec![0xff]));
}

/// RFC 7296 §2.23: "Either side can decide whether or not to use UDP encapsulation for ESP irrespective of the choice made
/// by the other side. However, if a NAT is detected, both devices MUST use UDP encapsulation for ESP." One that insists on
/// UDP lets the other see a NAT, so both come to the same end.
#[test]
fn esp_goes_without_udp_only_if_neither_end_insists_or_sees_a_nat() {
    use landbridge_proto::policy::sad::Encapsulation::{Raw, Udp};
    let addresses = [[A, B], ["[2001:db8::1]:500", "[2001:db8:1::2]:500"]];
    for (insists, expected) in [
        ([false, false], Raw),
        ([true, false], Udp),
        ([false, true], Udp),
        ([true, true], Udp),
    ] {
        for addresses in addresses {
            let (mut a, mut b) = (side_a(), side_b());
            [a.force_udp_encapsulation, b.force_udp_encapsulation] = insists;
            let mut pump = Pump::new(a, b, Gateway::default());
            pump.addresses = addresses.map(|address| address.parse().unwrap());
            pump.connect();
            pump.run();
            for who in 0..2 {
                let used: Vec<_> = pump.events[who]
                    .iter()
                    .filter_map(|event| match event {
                        Event::Sad(SadUpdate::InstallInbound(entry)) => Some(entry.encapsulation),
                        Event::IkeUp(up) => Some(up.encapsulation),
                        _ => None,
                    })
                    .collect();
                assert_eq!(used, [expected; 2], "{insists:?} at {who} over {addresses:?}");
                let nat = pump.ends[who].status()[0].nat;
                // The pretended one is at the other end, and never where keepalives would be sent.
                assert_eq!((nat.local, nat.remote), (false, insists[1 - who]));
            }
        }
    }
}

/// Unused here, but held: what the other suites of the tests are made of.
#[test]
fn words_and_numbers_agree() {
    let proposal = IkeProposal::parse("aes256gcm16-prfsha256-x25519").unwrap();
    assert_eq!(
        (proposal.encryption[0], proposal.prf[0], proposal.groups[0]),
        (Encryption::AesGcm16_256, PrfAlgorithm::HmacSha256, Group::Curve25519)
    );
}
