//! What the key exchange costs: handshakes and rekeys a second of one core, each end's share measured apart, and memory at
//! ten thousand connections. `cargo bench -p landbridge-proto --bench ike`; an argument picks rows by name.
//!
//! A harness of its own: what is measured is one end's share of an exchange, and what a process keeps.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "it measures time; the protocol does not read the clock"
)]

#[path = "../tests/ike_pump/mod.rs"]
mod ike_pump;

use ike_pump::{side_a, side_b};
use landbridge_proto::crypto::{PrfAlgorithm, Secret, SigningKey};
use landbridge_proto::ike::puzzle::{Progress, Puzzle};
use landbridge_proto::ike::{Command, Endpoint, Event};
use landbridge_proto::policy::connection::{
    Config, Connection, Gateway, LocalCredential, RemoteCredential, StartAction, Target,
};
use landbridge_proto::policy::proposal::{EspProposal, IkeProposal};
use landbridge_proto::policy::sad::{ConnectionName, Path};
use landbridge_proto::time::{Instant, Now};
use landbridge_proto::wire::Identification;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

/// Connections of one endpoint where memory is measured.
const MANY: usize = 10_000;
/// Each row runs for about this long, the two ends together.
const ROW: Duration = Duration::from_secs(4);

/// Two gateways with the same number of connections, and the time each has spent.
struct Bench {
    ends: [Endpoint; 2],
    spent: [Duration; 2],
    now: Instant,
    /// Child SAs that came up, IKE SAs that came up.
    up: [usize; 2],
    /// Datagrams and octets (UDP payload) sent by each, and the turns that were taken to get there.
    sent: [(usize, usize); 2],
    turns: usize,
    /// Nothing arrives.
    deaf: bool,
}

/// How the ends prove who they are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Auth {
    Psk,
    Ed25519,
    EcdsaP384,
}

/// Two P-384 keys, for this and nothing else.
const ECDSA: [&str; 2] = [
    "-----BEGIN PRIVATE KEY-----
MIG2AgEAMBAGByqGSM49AgEGBSuBBAAiBIGeMIGbAgEBBDAa4dSG/bQx1mmhljO3
r5KrK5mbqsymWHeemP7ngpbOaGRdwb+v0zoGmB2NYkhvG7mhZANiAAQZSL3K2Jjz
caA7AV/VFWyv9oU2wOUblRqkTBPFtLa8yEQFNO1cUUqIrIUlUQC4rVI+Llq1nQoa
FrXwPV14m91+aEgcjnC4xDk6r7CEogggHqZZ/ZiLnTxZKA3vk8G3sA4=
-----END PRIVATE KEY-----
",
    "-----BEGIN PRIVATE KEY-----
MIG2AgEAMBAGByqGSM49AgEGBSuBBAAiBIGeMIGbAgEBBDAWBy0flFKn/5oDHlgR
rZ8j1+aDEvKaitBu05KijwO3yZZoYxqRmu+j4S/r9Gf6qgOhZANiAAR2PhIXjPnp
O5oENoVoJ/8UrL/y5HS8XUoeBsJD7LX94uKqmtV7qsNG4bXhe11ShBr5d5Kq0E95
WzsioKrYBhamDIvoV4rMwj/AQh8LhpXe1AR6NN9kDLmmo4ih0ZtHkYA=
-----END PRIVATE KEY-----
",
];

fn name(index: usize) -> ConnectionName {
    format!("site{index}").into()
}

fn address(index: usize) -> SocketAddr {
    let index = u32::try_from(index).unwrap();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0xc612_0001 + index)), 500)
}

fn hub() -> SocketAddr {
    "192.0.2.1:500".parse().unwrap()
}

fn config(count: usize, who: usize, ike: &str, auth: Auth) -> Arc<Config> {
    let mut rng = ChaCha20Rng::seed_from_u64(9);
    let keys = [0, 1].map(|who: usize| match auth {
        Auth::EcdsaP384 => SigningKey::from_pem(ECDSA[who]).unwrap(),
        Auth::Psk | Auth::Ed25519 => SigningKey::generate(&mut rng),
    });
    let proposal = vec![IkeProposal::parse(ike).unwrap()];
    let esp = vec![EspProposal::parse("aes256gcm16-x25519").unwrap()];
    let peer = keys[1 - who].verifying_key();
    let [first, second] = keys;
    let own = Arc::new(if who == 0 { first } else { second });
    let connections = (0..count).map(|index| {
        let mut connection: Connection = if who == 0 { side_a() } else { side_b() };
        connection.name = name(index);
        connection.ike_proposals.clone_from(&proposal);
        let spoke = Identification::parse(&format!("site{index}.example")).unwrap();
        let hub_id = Identification::parse("hub.example").unwrap();
        if who == 0 {
            (connection.local.id, connection.remote.id) = (spoke, Some(hub_id));
            connection.local_addrs = vec![address(index).ip()];
            connection.remote_addrs = vec![hub().ip()];
        } else {
            (connection.local.id, connection.remote.id) = (hub_id, Some(spoke));
            connection.remote_addrs = vec![address(index).ip()];
        }
        if auth == Auth::Psk {
            let psk = || Secret::new(b"0123456789abcdef0123456789abcdef".to_vec());
            connection.local.credential = LocalCredential::Psk(psk());
            connection.remote.credential = RemoteCredential::Psk(vec![psk()]);
        } else {
            connection.local.credential = LocalCredential::RawKey(Arc::clone(&own));
            connection.remote.credential = RemoteCredential::RawKeys(vec![peer.clone()]);
        }
        for child in connection.children.values_mut() {
            Arc::make_mut(child).esp_proposals.clone_from(&esp);
        }
        // A second child, brought up apart.
        let (_, first) = connection.children.first_key_value().unwrap();
        let mut second = (**first).clone();
        second.name = "second".into();
        second.start_action = StartAction::None;
        connection.children.insert("second".into(), Arc::new(second));
        (name(index), Arc::new(connection))
    });
    Arc::new(Config {
        connections: connections.collect(),
        gateway: Gateway::default(),
    })
}

impl Bench {
    fn new(configs: &[Arc<Config>; 2], seed: u8) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let at = Now { instant: now, unix: 0 };
        let end = |who: usize| {
            let mut end = Endpoint::new(at, [seed.wrapping_mul(2) + who as u8; 32], Arc::clone(&configs[who]));
            // As a gateway runs that does not log at DEBUG.
            end.tell_messages(false);
            end
        };
        Self {
            ends: [end(0), end(1)],
            spent: [Duration::ZERO; 2],
            now,
            up: [0; 2],
            sent: [(0, 0); 2],
            turns: 0,
            deaf: false,
        }
    }

    /// Lets one end work, and carries what it says until nothing is under way.
    fn work(&mut self, who: usize, what: impl FnOnce(&mut Endpoint, Now)) {
        let at = Now {
            instant: self.now,
            unix: 0,
        };
        let mut wire = Vec::new();
        let mut out = Vec::new();
        let began = Clock::now();
        what(&mut self.ends[who], at);
        self.take(who, began, &mut out, &mut wire);
        while !wire.is_empty() {
            self.turns += 1;
            for (to, path, octets) in std::mem::take(&mut wire) {
                let began = Clock::now();
                self.ends[to].handle_datagram(at, path, &octets);
                self.take(to, began, &mut out, &mut wire);
            }
        }
    }

    /// Drains an end: events to nowhere, datagrams to the other.
    fn take(&mut self, who: usize, began: Clock, out: &mut Vec<u8>, wire: &mut Vec<(usize, Path, Vec<u8>)>) {
        let end = &mut self.ends[who];
        while let Some(event) = end.poll_event() {
            match event {
                Event::ChildUp(_) if who == 0 => self.up[0] += 1,
                Event::IkeUp(_) if who == 0 => self.up[1] += 1,
                Event::Failed(failure) => panic!("{failure:?}"),
                _ => {}
            }
        }
        while let Some(transmit) = end.poll_transmit(out) {
            let path = Path::udp(transmit.path.remote, transmit.path.local);
            self.sent[who].0 += 1;
            self.sent[who].1 += out.len();
            if self.deaf {
                continue;
            }
            wire.push((1 - who, path, out.clone()));
        }
        self.spent[who] += began.elapsed();
    }

    fn connect(&mut self, index: usize) {
        let up = Command::Up {
            connection: name(index),
            child: None,
            target: Target {
                local: address(index),
                remote: hub(),
            },
        };
        self.work(0, |end, now| end.handle_command(now, up).unwrap());
    }

    /// Time passes at both ends.
    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        for who in 0..2 {
            self.work(who, |end, now| end.handle_timeout(now));
        }
    }
}

fn report(row: &str, count: usize, spent: [Duration; 2], roles: [&str; 2]) {
    let rate = |time: Duration| count as f64 / time.as_secs_f64();
    println!(
        "{row:<44} {:>8.0}/s as {:<10} {:>8.0}/s as {}",
        rate(spent[0]),
        roles[0],
        rate(spent[1]),
        roles[1]
    );
}

fn handshakes(row: &str, ike: &str, auth: Auth) {
    let configs = [0, 1].map(|who| config(1, who, ike, auth));
    let (mut spent, mut count) = ([Duration::ZERO; 2], 0);
    let mut wire = String::new();
    // The first ones make tables and warm caches.
    for round in 0.. {
        let mut bench = Bench::new(&configs, round as u8);
        bench.connect(0);
        assert_eq!(bench.up, [1, 1]);
        if round == 0 {
            let [(a, from_a), (b, from_b)] = bench.sent;
            wire = format!(
                "{} round trips, {a}+{b} datagrams, {from_a}+{from_b} octets",
                bench.turns / 2
            );
        }
        if round >= 20 {
            count += 1;
            spent[0] += bench.spent[0];
            spent[1] += bench.spent[1];
        }
        if spent[0] + spent[1] >= ROW {
            break;
        }
    }
    report(row, count, spent, ["initiator", "responder"]);
    println!("{:<44} {wire}", "");
}

/// What comes back with a ticket (RFC 5723): the second of two handshakes, the peer having been silent for too long between them.
fn resumptions(row: &str, ike: &str, auth: Auth) {
    let mut configs = [0, 1].map(|who| config(1, who, ike, auth));
    for (who, config) in configs.iter_mut().enumerate() {
        for connection in Arc::make_mut(config).connections.values_mut() {
            let connection = Arc::make_mut(connection);
            connection.resumption = true;
            connection.dpd_delay = (who == 0).then_some(Duration::from_secs(10));
        }
    }
    let mut bench = Bench::new(&configs, 5);
    bench.connect(0);
    let (mut spent, mut count) = ([Duration::ZERO; 2], 0);
    let mut wire = String::new();
    while spent[0] + spent[1] < ROW {
        bench.deaf = true;
        while bench.ends[0].status().iter().any(|sa| sa.stage == "established") {
            bench.pass(Duration::from_secs(30));
        }
        bench.deaf = false;
        (bench.spent, bench.up, bench.sent, bench.turns) = ([Duration::ZERO; 2], [0; 2], [(0, 0); 2], 0);
        bench.connect(0);
        assert_eq!(bench.up, [1, 1]);
        assert!(
            bench.ends[0]
                .status()
                .iter()
                .any(|sa| sa.resumed && sa.stage == "established")
        );
        let [(a, from_a), (b, from_b)] = bench.sent;
        wire = format!(
            "{} round trips, {a}+{b} datagrams, {from_a}+{from_b} octets",
            bench.turns / 2
        );
        count += 1;
        spent[0] += bench.spent[0];
        spent[1] += bench.spent[1];
    }
    report(row, count, spent, ["initiator", "responder"]);
    println!("{:<44} {wire}", "");
}

fn rekeys(row: &str, additional: &str, command: fn() -> Command, which: usize) {
    let ike = format!("aes256gcm16-prfsha256-x25519{additional}");
    let mut configs = [0, 1].map(|who| config(1, who, &ike, Auth::Psk));
    let esp = vec![EspProposal::parse(&format!("aes256gcm16-x25519{additional}")).unwrap()];
    for connection in configs
        .iter_mut()
        .flat_map(|c| Arc::make_mut(c).connections.values_mut())
    {
        for child in Arc::make_mut(connection).children.values_mut() {
            Arc::make_mut(child).esp_proposals.clone_from(&esp);
        }
    }
    let mut bench = Bench::new(&configs, 7);
    bench.connect(0);
    (bench.spent, bench.up) = ([Duration::ZERO; 2], [0; 2]);
    let mut count = 0;
    while bench.spent[0] + bench.spent[1] < ROW {
        bench.work(0, |end, now| end.handle_command(now, command()).unwrap());
        // What lingers goes.
        bench.pass(Duration::from_secs(20));
        count += 1;
    }
    assert_eq!(bench.up[which], count);
    report(row, count, bench.spent, ["requester", "responder"]);
}

/// Octets of this process in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Both ends are in this process and keep the same: half of what it grows by is one end's.
fn memory(row: &str) {
    let configs = [0, 1].map(|who| config(MANY, who, "aes256gcm16-prfsha256-x25519", Auth::Psk));
    let mut bench = Bench::new(&configs, 3);
    let empty = resident();
    for index in 0..MANY {
        bench.connect(index);
    }
    let setup = bench.spent;
    assert_eq!(bench.up, [MANY, MANY]);
    let first = resident();
    for index in 0..MANY {
        let child = Command::Up {
            connection: name(index),
            child: Some("second".into()),
            target: Target {
                local: address(index),
                remote: hub(),
            },
        };
        bench.work(0, |end, now| end.handle_command(now, child).unwrap());
    }
    assert_eq!(bench.up, [2 * MANY, MANY]);
    let second = resident();
    let each = |grown: usize| grown / 2 / MANY;
    let (both, child) = (each(first - empty), each(second - first));
    println!("{row:<44} {both:>8} octets a connection: IKE SA and a Child SA pair; {child} more for a second pair");
    report(
        &format!("handshakes among {MANY} connections"),
        MANY,
        setup,
        ["initiator", "responder"],
    );
}

/// Solving and verifying (RFC 8019), with as long a cookie as we make.
fn puzzles(row: &str, difficulty: u8) {
    let (mut solving, mut verifying, mut solved, mut tried) = (Duration::ZERO, Duration::ZERO, 0_u32, 0);
    while solving < ROW {
        let puzzle = Puzzle {
            prf: PrfAlgorithm::HmacSha256,
            difficulty,
            string: [solved.to_be_bytes().as_slice(), &[7; 36]].concat(),
        };
        let (began, mut search) = (Clock::now(), puzzle.clone().search());
        let progress = search.run(u64::MAX);
        solving += began.elapsed();
        let Progress::Solved(solution) = progress else {
            panic!("not solved")
        };
        let began = Clock::now();
        for _ in 0..1000 {
            puzzle.verify(&solution).unwrap();
        }
        verifying += began.elapsed() / 1000;
        solved += 1;
        tried += search.tried();
    }
    let (each, rate) = (solving / solved, tried as f64 / solving.as_secs_f64() / 1e6);
    println!(
        "{row:<44} {each:>10.1?} to solve ({rate:.2} million keys a second), {:.2?} to verify",
        verifying / solved
    );
}

fn main() {
    // `cargo bench` hands over --bench.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let row = |row: &str| wanted.is_empty() || wanted.iter().any(|word| row.contains(word.as_str()));
    for (text, ike, auth) in [
        (
            "handshake x25519, Ed25519",
            "aes256gcm16-prfsha256-x25519",
            Auth::Ed25519,
        ),
        ("handshake x25519, PSK", "aes256gcm16-prfsha256-x25519", Auth::Psk),
        (
            "handshake ecp384, ECDSA P-384",
            "aes256gcm16-prfsha384-ecp384",
            Auth::EcdsaP384,
        ),
        ("handshake ecp384, PSK", "aes256gcm16-prfsha384-ecp384", Auth::Psk),
        ("handshake modp2048, PSK", "aes256-sha256-modp2048", Auth::Psk),
        (
            "handshake x25519+mlkem512, Ed25519",
            "aes256gcm16-prfsha256-x25519-ke1_mlkem512",
            Auth::Ed25519,
        ),
        (
            "handshake x25519+mlkem768, Ed25519",
            "aes256gcm16-prfsha256-x25519-ke1_mlkem768",
            Auth::Ed25519,
        ),
        (
            "handshake x25519+mlkem1024, Ed25519",
            "aes256gcm16-prfsha256-x25519-ke1_mlkem1024",
            Auth::Ed25519,
        ),
        (
            "handshake mlkem768 alone, Ed25519",
            "aes256gcm16-prfsha256-mlkem768",
            Auth::Ed25519,
        ),
    ] {
        if row(text) {
            handshakes(text, ike, auth);
        }
    }
    for (text, ike, auth) in [
        ("resumption, Ed25519", "aes256gcm16-prfsha256-x25519", Auth::Ed25519),
        (
            "resumption, ECDSA P-384",
            "aes256gcm16-prfsha384-ecp384",
            Auth::EcdsaP384,
        ),
    ] {
        if row(text) {
            resumptions(text, ike, auth);
        }
    }
    for additional in ["", "-ke1_mlkem768"] {
        let text = format!("Child rekey x25519{additional}");
        if row(&text) {
            let command = || Command::RekeyChild {
                connection: name(0),
                child: None,
            };
            rekeys(&text, additional, command, 0);
        }
        let text = format!("IKE rekey x25519{additional}");
        if row(&text) {
            rekeys(&text, additional, || Command::RekeyIke { connection: name(0) }, 1);
        }
    }
    for difficulty in [15, 16, 18, 20] {
        let text = format!("puzzle of {difficulty} bits");
        if row(&text) {
            puzzles(&text, difficulty);
        }
    }
    if row("memory") {
        memory("memory at 10,000 connections");
    }
}
