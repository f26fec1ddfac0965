//! Two endpoints, a clock that only the test moves, a model of each side's SAD, and messages that lie on the wire until the
//! test delivers, loses, repeats or reorders them.
#![allow(dead_code, reason = "each test file uses what it needs")]

use landbridge_proto::crypto::Secret;
use landbridge_proto::ike::{ChildUp, Command, Endpoint, Event, Failure, IkeSaStatus};
use landbridge_proto::policy::connection::{
    Child, Config, Connection, Gateway, LocalAuth, LocalCredential, RemoteAuth, RemoteCredential, StartAction, Target,
};
use landbridge_proto::policy::proposal::{EspProposal, IkeProposal};
use landbridge_proto::policy::sad::{ChildSaEntry, ChildSaId, Mode, Path, SadReport, SadUpdate, TrafficLimits};
use landbridge_proto::policy::selector;
use landbridge_proto::time::{Instant, Now};
use landbridge_proto::wire::{ExchangeType, Identification, IkeSpi};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// The name of the connection at both ends.
pub const SITE: &str = "site";

/// A datagram under way.
#[derive(Clone, Debug)]
pub struct Letter {
    pub to: usize,
    /// As the receiver sees it.
    pub path: Path,
    pub octets: Vec<u8>,
}

impl Letter {
    pub fn exchange(&self) -> ExchangeType {
        ExchangeType(self.octets[18])
    }

    pub fn is_response(&self) -> bool {
        self.octets[19] & 0x20 != 0
    }

    pub fn message_id(&self) -> u32 {
        u32::from_be_bytes(self.octets[20..24].try_into().unwrap())
    }
}

/// What the data path would hold.
#[derive(Clone, Default)]
pub struct Sad {
    pub pairs: BTreeMap<ChildSaId, Arc<ChildSaEntry>>,
    /// Each pair that sends, by child's name, and its place if that is not the first.
    pub active: BTreeMap<String, ChildSaId>,
    /// How often anything changed.
    pub changes: usize,
}

/// A NAT in front of end 0: its public address, and what it adds to ports.
#[derive(Clone, Copy)]
pub struct Nat {
    pub public: IpAddr,
    pub shift: u16,
}

pub struct Pump {
    pub ends: [Endpoint; 2],
    pub configs: [Arc<Config>; 2],
    pub addresses: [SocketAddr; 2],
    pub now: Instant,
    /// The wall clock at the beginning, in seconds.
    pub unix: u64,
    pub events: [Vec<Event>; 2],
    pub sad: [Sad; 2],
    pub wire: Vec<Letter>,
    pub nat: Option<Nat>,
    /// Whether end 0 follows NeedTarget events.
    pub reconnect: bool,
    /// The ways that each end's routing table has to its peer, best first: the answer to NeedPaths.
    pub ways: [Vec<Path>; 2],
    /// Keepalives seen, by sender.
    pub keepalives: [usize; 2],
    /// Whether end 1 accepts TCP connections.
    pub listens: bool,
    /// Whether puzzles are solved at once; else never.
    pub solves: bool,
    /// The TCP connections that are open, as end 0 sees them; what is sent by others goes nowhere.
    pub streams: Vec<Path>,
    /// Those that there have been.
    pub opened: u16,
    connect_at: Option<Instant>,
}

pub fn child(name: &str, local: &str, remote: &str, esp: &str, start_action: StartAction) -> Arc<Child> {
    Arc::new(Child {
        name: name.into(),
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
    })
}

fn connection(us: &str, them: &str, children: Vec<Arc<Child>>) -> Connection {
    let psk = || Secret::new(b"a secret of both".to_vec());
    Connection {
        name: SITE.into(),
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
        force_udp_encapsulation: false,
        mobike: false,
        tcp: Default::default(),
        tcp_port: 4500,
        ppk: Default::default(),
        resumption: false,
        follow_redirects: false,
        redirect_to: None,
        keep_trying: true,
        children: children
            .into_iter()
            .map(|child| (Arc::clone(&child.name), child))
            .collect(),
    }
}

/// The side that begins.
pub fn side_a() -> Connection {
    let net = child(
        "net",
        "10.1.0.0/16",
        "10.2.0.0/16",
        "aes256gcm16-x25519",
        StartAction::Start,
    );
    connection("a.example", "b.example", vec![net])
}

/// The side that answers.
pub fn side_b() -> Connection {
    let net = child(
        "net",
        "10.2.0.0/16",
        "10.1.0.0/16",
        "aes256gcm16-x25519",
        StartAction::None,
    );
    connection("b.example", "a.example", vec![net])
}

fn config(connection: Connection, gateway: Gateway) -> Arc<Config> {
    Arc::new(Config {
        connections: [(Arc::clone(&connection.name), Arc::new(connection))].into(),
        gateway,
    })
}

impl Pump {
    pub fn new(a: Connection, b: Connection) -> Self {
        Self::with(a, b, 0, Gateway::default())
    }

    pub fn with(a: Connection, b: Connection, seed: u8, gateway: Gateway) -> Self {
        let configs = [config(a, gateway.clone()), config(b, gateway)];
        let now = Instant::from_nanos(1_000_000_000);
        let at = Now { instant: now, unix: 0 };
        let end = |who: usize| {
            let mut octets = [seed; 32];
            octets[0] = u8::try_from(who).unwrap();
            Endpoint::new(at, octets, Arc::clone(&configs[who]))
        };
        Self {
            ends: [end(0), end(1)],
            configs,
            addresses: ["192.0.2.1:500".parse().unwrap(), "198.51.100.2:500".parse().unwrap()],
            now,
            unix: 0,
            events: [vec![], vec![]],
            sad: [Sad::default(), Sad::default()],
            wire: vec![],
            nat: None,
            reconnect: true,
            ways: [vec![], vec![]],
            keepalives: [0; 2],
            listens: false,
            solves: true,
            streams: vec![],
            opened: 0,
            connect_at: None,
        }
    }

    /// Two ends that are up.
    pub fn up(a: Connection, b: Connection) -> Self {
        let mut pump = Self::new(a, b);
        pump.connect();
        pump.deliver_all();
        pump.assert_joined();
        pump
    }

    pub fn at(&self) -> Now {
        Now {
            instant: self.now,
            unix: self.unix + self.now.as_nanos() / 1_000_000_000,
        }
    }

    /// An end loses its memory, as after kill -9.
    pub fn restart(&mut self, who: usize, seed: u8) {
        self.ends[who] = Endpoint::new(self.at(), [seed; 32], Arc::clone(&self.configs[who]));
        self.sad[who] = Sad::default();
        self.events[who].clear();
    }

    pub fn connect(&mut self) {
        let target = Target {
            local: self.addresses[0],
            remote: self.addresses[1],
        };
        let up = Command::Up {
            connection: SITE.into(),
            child: None,
            target,
        };
        self.command(0, up);
    }

    pub fn command(&mut self, who: usize, command: Command) {
        let now = self.at();
        self.ends[who].handle_command(now, command).unwrap();
        self.drain();
    }

    pub fn rekey_child(&mut self, who: usize) {
        let command = Command::RekeyChild {
            connection: SITE.into(),
            child: None,
        };
        self.command(who, command);
    }

    pub fn down(&mut self, who: usize, child: Option<&str>) {
        let command = Command::Down {
            connection: SITE.into(),
            child: child.map(Into::into),
        };
        self.command(who, command);
    }

    pub fn report(&mut self, who: usize, report: SadReport) {
        let now = self.at();
        self.ends[who].handle_report(now, report);
        self.drain();
    }

    /// Takes what both ends have to say: SAD updates come before the messages that tell the peer.
    pub fn drain(&mut self) {
        for who in 0..2 {
            while let Some(event) = self.ends[who].poll_event() {
                match &event {
                    Event::NeedPaths { spi, .. } => {
                        let (now, ways) = (self.at(), self.ways[who].clone());
                        self.ends[who].handle_paths(now, *spi, ways);
                    }
                    Event::Solve(request) if self.solves => {
                        let (now, ticket) = (self.at(), request.ticket);
                        let solution = request.puzzle.clone().solve();
                        self.ends[who].handle_solution(now, ticket, solution);
                    }
                    Event::NeedStream { spi, local, remote, .. } => self.open_stream(who, *spi, (*local, *remote)),
                    Event::Sad(update) => self.sad[who].apply(update),
                    Event::NeedTarget { at, .. } if who == 0 && self.reconnect => self.connect_at = Some(*at),
                    _ => {}
                }
                self.events[who].push(event);
            }
            let mut octets = Vec::new();
            while let Some(transmit) = self.ends[who].poll_transmit(&mut octets) {
                if transmit.keepalive {
                    self.keepalives[who] += 1;
                    continue;
                }
                assert_eq!(transmit.len, octets.len());
                let path = self.cross(who, transmit.path);
                let ours = if who == 0 { transmit.path } else { path };
                if ours.is_tcp() && !self.streams.contains(&ours) {
                    continue;
                }
                self.wire.push(Letter {
                    to: 1 - who,
                    path,
                    octets: octets.clone(),
                });
            }
        }
    }

    fn open_stream(&mut self, who: usize, spi: IkeSpi, (local, remote): (IpAddr, SocketAddr)) {
        assert_eq!(who, 0, "only the TCP Originator opens TCP connections");
        let stream = if self.listens {
            self.opened += 1;
            let path = Path::tcp(SocketAddr::new(local, 40_000 + self.opened), remote);
            self.streams.push(path);
            Ok(path)
        } else {
            Err("connection refused".to_owned())
        };
        let now = self.at();
        self.ends[who].handle_stream(now, spi, stream);
    }

    /// All TCP connections are reset; `told` says which ends notice.
    pub fn reset_streams(&mut self, told: [bool; 2]) {
        let (now, lost) = (self.at(), std::mem::take(&mut self.streams));
        self.wire.retain(|letter| !letter.path.is_tcp());
        for path in lost {
            for (who, path) in [(0, path), (1, reversed(path))] {
                if told[who] {
                    self.ends[who].handle_stream_closed(now, path);
                }
            }
        }
        self.drain();
    }

    /// The path of what `from` sends as the receiver sees it, behind the NAT if there is one.
    fn cross(&self, from: usize, path: Path) -> Path {
        let (mut source, mut destination) = (path.local, path.remote);
        if let Some(Nat { public, shift }) = self.nat {
            if from == 0 {
                source = SocketAddr::new(public, source.port() + shift);
            } else if destination.ip() == public {
                destination = SocketAddr::new(self.addresses[0].ip(), destination.port() - shift);
            }
        }
        Path {
            local: destination,
            remote: source,
            transport: path.transport,
        }
    }

    /// Delivers the letter at `index`.
    pub fn deliver(&mut self, index: usize) -> Letter {
        let letter = self.wire.remove(index);
        self.hand(&letter);
        letter
    }

    /// Gives a letter to its receiver without looking at the wire.
    pub fn hand(&mut self, letter: &Letter) {
        let now = self.at();
        self.ends[letter.to].handle_datagram(now, letter.path, &letter.octets);
        self.drain();
    }

    /// Delivers in order until nothing is under way.
    pub fn deliver_all(&mut self) {
        for _ in 0..200 {
            if self.wire.is_empty() {
                return;
            }
            self.deliver(0);
        }
        panic!("the ends chatter: {:?}", self.lines(0));
    }

    /// The next timer of either end, or the next attempt to connect.
    pub fn next_timer(&self) -> Option<(Instant, usize)> {
        let ends = (0..2).filter_map(|who| self.ends[who].poll_timeout().map(|(at, _)| (at, who)));
        ends.chain(self.connect_at.map(|at| (at, 2))).min()
    }

    /// Goes to the next timer and lets it fire; nothing is delivered.
    pub fn tick(&mut self) {
        let (at, who) = self.next_timer().expect("no timer");
        self.now = self.now.max(at);
        if who == 2 {
            self.connect_at = None;
            self.connect();
            return;
        }
        let now = self.at();
        self.ends[who].handle_timeout(now);
        self.drain();
    }

    /// Time passes; whatever `arrives` says so is delivered at once, the rest is lost.
    pub fn run_for(&mut self, time: Duration, mut arrives: impl FnMut(&Letter) -> bool) {
        let end = self.now + time;
        for _ in 0..20_000 {
            while !self.wire.is_empty() {
                if arrives(&self.wire[0]) {
                    self.deliver(0);
                } else {
                    self.wire.remove(0);
                }
            }
            match self.next_timer() {
                Some((at, _)) if at <= end => self.tick(),
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("the ends chatter: {:?}", self.lines(0));
    }

    pub fn status(&self, who: usize) -> Vec<IkeSaStatus> {
        self.ends[who].status()
    }

    /// The one IKE SA that is up.
    pub fn sa(&self, who: usize) -> IkeSaStatus {
        let mut up: Vec<_> = self
            .status(who)
            .into_iter()
            .filter(|sa| sa.stage == "established")
            .collect();
        assert_eq!(up.len(), 1, "end {who}: {:#?}", self.status(who));
        up.remove(0)
    }

    /// The stages of all IKE SAs of both ends.
    pub fn stages(&self) -> [Vec<(IkeSpi, &'static str)>; 2] {
        [0, 1].map(|who| self.status(who).iter().map(|sa| (sa.spi_i, sa.stage)).collect())
    }

    pub fn is_up(&self, who: usize) -> bool {
        self.status(who).iter().any(|sa| sa.stage == "established")
    }

    /// Both ends have one and the same IKE SA, their Child SAs match, and each sends by one that the other receives.
    pub fn assert_joined(&self) {
        self.joined().unwrap_or_else(|problem| panic!("{problem}"));
    }

    pub fn joined(&self) -> Result<(), String> {
        for who in 0..2 {
            let up: Vec<_> = self
                .status(who)
                .into_iter()
                .filter(|sa| sa.stage == "established")
                .collect();
            let [sa] = up.as_slice() else {
                return Err(format!("end {who} has {} IKE SAs", up.len()));
            };
            let place = |child: &ChildUp| child.pair.map_or(0, |(pair, _)| pair - 1);
            let mut names: Vec<_> = sa
                .children
                .iter()
                .map(|child| sender(&child.child, place(child)))
                .collect();
            names.sort_unstable();
            names.dedup();
            if names.is_empty() || !self.sad[who].active.keys().eq(names.iter()) {
                return Err(format!("end {who}: {names:?}, sends by {:?}", self.sad[who].active));
            }
            for id in self.sad[who].active.values() {
                let sender = &self.sad[who].pairs[id].outbound;
                let received = self.sad[1 - who].pairs.values().any(|pair| {
                    pair.inbound.spi == sender.spi && pair.inbound.key == sender.key && pair.inbound.esn == sender.esn
                });
                if !received {
                    return Err(format!(
                        "end {who} sends by {:#010x}, which the other does not know",
                        sender.spi
                    ));
                }
            }
        }
        let (a, b) = (self.sa(0), self.sa(1));
        if (a.spi_i, a.spi_r, a.initiator) != (b.spi_i, b.spi_r, !b.initiator) {
            return Err(format!(
                "two IKE SAs: {}-{} and {}-{}",
                a.spi_i, a.spi_r, b.spi_i, b.spi_r
            ));
        }
        Ok(())
    }

    pub fn failures(&self, who: usize) -> Vec<&Failure> {
        let failures = self.events[who].iter().filter_map(|event| match event {
            Event::Failed(failure) => Some(failure),
            _ => None,
        });
        failures.collect()
    }

    /// The messages that an end saw, in words.
    pub fn lines(&self, who: usize) -> Vec<&str> {
        let lines = self.events[who].iter().filter_map(|event| match event {
            Event::Message { line, .. } => Some(line.as_str()),
            _ => None,
        });
        lines.collect()
    }

    pub fn saw(&self, who: usize, part: &str) -> bool {
        self.lines(who).iter().any(|line| line.contains(part))
    }

    /// Whether an end sent such a message.
    pub fn said(&self, who: usize, part: &str) -> bool {
        let said = |event: &Event| matches!(event, Event::Message { received: false, line, .. } if line.contains(part));
        self.events[who].iter().any(said)
    }

    pub fn ike_downs(&self, who: usize) -> Vec<&str> {
        let downs = self.events[who].iter().filter_map(|event| match event {
            Event::IkeDown { reason, .. } => Some(reason.as_str()),
            _ => None,
        });
        downs.collect()
    }

    pub fn child_downs(&self, who: usize) -> usize {
        let down = |event: &&Event| matches!(event, Event::ChildDown { .. });
        self.events[who].iter().filter(down).count()
    }
}

/// What sends: a child in a place.
fn sender(child: &str, resource: u16) -> String {
    match resource {
        0 => child.to_owned(),
        _ => format!("{child}/{resource}"),
    }
}

/// The way back.
pub fn reversed(path: Path) -> Path {
    Path {
        local: path.remote,
        remote: path.local,
        transport: path.transport,
    }
}

impl Sad {
    pub fn apply(&mut self, update: &SadUpdate) {
        self.changes += 1;
        match update {
            SadUpdate::InstallInbound(entry) => {
                assert!(
                    self.pairs.values().all(|pair| pair.inbound.spi != entry.inbound.spi),
                    "SPI used twice"
                );
                assert!(
                    self.pairs.insert(entry.id, Arc::clone(entry)).is_none(),
                    "id used twice"
                );
            }
            SadUpdate::ActivateOutbound { id, .. } => {
                let entry = self.pairs.get(id).expect("activated before it was installed");
                self.active.insert(sender(&entry.child, entry.resource), *id);
            }
            SadUpdate::DeactivateOutbound(id) => self.active.retain(|_, active| active != id),
            SadUpdate::Remove(id) => {
                assert!(self.pairs.remove(id).is_some(), "removed twice");
                self.active.retain(|_, active| active != id);
            }
            SadUpdate::Move { id, path, .. } => {
                let entry = self.pairs.get_mut(id).expect("moved before it was installed");
                let mut moved = ChildSaEntry::clone(entry);
                moved.path = *path;
                *entry = Arc::new(moved);
            }
        }
    }
}
