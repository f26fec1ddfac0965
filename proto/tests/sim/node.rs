//! One gateway: an endpoint and a model of its data path with real ESP SAs.

use crate::invariants::NonceLedger;
use crate::keys;
use crate::world::Plan;
use landbridge_proto::crypto::{ESP_PROVIDER, Encryption, Group, PrfAlgorithm, Secret, SigningKey};
use landbridge_proto::esp::{InboundError, InboundSa, OutboundSa};
use landbridge_proto::ike::{Command, Endpoint, Event, IkeSaStatus, SignRequest, SolveRequest};
use landbridge_proto::policy::connection::{
    Child, Config, Connection, Gateway, LocalAuth, LocalCredential, RemoteAuth, RemoteCredential, StartAction, Target,
};
use landbridge_proto::policy::proposal::{AdditionalExchanges, EspProposal, IkeProposal};
use landbridge_proto::policy::sad::{ChildSaEntry, ChildSaId, Mode, Path, SadReport, SadUpdate};
use landbridge_proto::time::{Instant, Now};
use landbridge_proto::wire::{
    GatewayIdentity, IdType, Identification, NotifyType, OuterBody, Payload, TrafficSelector, decode_outer,
    decode_payloads,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::iter;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Lines of the trace that are kept.
const MOST_LINES: usize = 4000;

/// The name of the one connection.
pub const CONNECTION: &str = "site";

/// A gateway.
pub struct Node {
    pub endpoint: Endpoint,
    pub address: SocketAddr,
    pub peer: SocketAddr,
    /// The addresses its machine has now.
    pub addresses: Vec<IpAddr>,
    pub initiator: bool,
    /// It brings the connection up by itself.
    pub begins: bool,
    /// When to bring the connection up (again).
    pub connect_at: Option<Instant>,
    pub sad: BTreeMap<ChildSaId, Pair>,
    /// The pair that sends, in each place (RFC 9611).
    pub active: BTreeMap<u16, ChildSaId>,
    /// Packets sealed: they take the places in turn.
    sealed: usize,
    /// What it told, the newest, for the trace.
    pub trace: VecDeque<String>,
    /// Signatures that it waits for.
    pub to_sign: Vec<SignRequest>,
    pub to_solve: Vec<SolveRequest>,
    /// How often the data path said that a limit is reached: soft, hard.
    pub limits_told: [u32; 2],
    /// It makes tokens.
    tokens: bool,
    config: Arc<Config>,
}

/// A Child SA pair of the model.
pub struct Pair {
    pub entry: Arc<ChildSaEntry>,
    path: Path,
    /// Packets: out, in.
    packets: [u64; 2],
    told: [bool; 2],
    inbound: InboundSa,
    outbound: OutboundSa,
    heard: bool,
    accepted: BTreeSet<u64>,
}

impl Node {
    pub fn new(now: Now, seed: u64, initiator: bool, address: SocketAddr, peer: SocketAddr, plan: &Plan) -> Self {
        let config = Arc::new(config(initiator, plan));
        let mut octets = [0; 32];
        octets[..8].copy_from_slice(&seed.to_be_bytes());
        octets[8] = u8::from(initiator);
        let mut node = Self {
            endpoint: Endpoint::new(now, octets, Arc::clone(&config)),
            address,
            peer,
            addresses: Vec::new(),
            initiator,
            begins: initiator || plan.both_begin,
            connect_at: (initiator || plan.both_begin).then_some(now.instant),
            sad: BTreeMap::new(),
            active: BTreeMap::new(),
            sealed: 0,
            trace: VecDeque::new(),
            to_sign: Vec::new(),
            to_solve: Vec::new(),
            limits_told: [0; 2],
            tokens: plan.quick_crash_detection,
            config,
        };
        node.make_tokens();
        let two = plan.moves.is_some() || plan.redirects > 0 && !initiator;
        let second = two.then(|| second_address(address.ip()));
        node.set_addresses(now, iter::once(address.ip()).chain(second).collect());
        node
    }

    /// Its machine has these addresses from now on.
    pub fn set_addresses(&mut self, now: Now, addresses: Vec<IpAddr>) {
        self.addresses.clone_from(&addresses);
        self.endpoint.handle_addresses(now, addresses);
    }

    /// All memory lost, as after kill -9.
    pub fn restart(&mut self, now: Now, seed: u64) {
        let mut octets = [1; 32];
        octets[..8].copy_from_slice(&seed.to_be_bytes());
        octets[8] = u8::from(self.initiator);
        self.endpoint = Endpoint::new(now, octets, Arc::clone(&self.config));
        self.make_tokens();
        self.sad.clear();
        self.active.clear();
        self.connect_at = self.begins.then_some(now.instant);
        self.set_addresses(now, self.addresses.clone());
        self.tell("restart".to_owned());
    }

    /// The secret is the same in every life.
    fn make_tokens(&mut self) {
        if self.tokens {
            let secret = Secret::new(vec![u8::from(self.initiator); 32]);
            self.endpoint.set_token_secret(secret);
        }
    }

    /// RFC 6290 §9.2: "A token maker MUST NOT send a valid QCD token in an unprotected message for an existing IKE SA."
    pub fn check_token(&self, datagram: &[u8]) {
        let outer = decode_outer(datagram).expect("what it sends can be read");
        let OuterBody::Plain { first, payloads } = outer.body else {
            return;
        };
        let payloads = decode_payloads(first, payloads).expect("what it sends can be read");
        let token = |payload: &Payload| matches!(payload, Payload::Notify(n) if n.notify_type == NotifyType::QUICK_CRASH_DETECTION);
        let lives = |sa: &IkeSaStatus| (sa.spi_i, sa.spi_r) == (outer.header.spi_i, outer.header.spi_r);
        if payloads.iter().any(token) {
            assert!(
                !self.endpoint.status().iter().any(lives),
                "a token of an IKE SA that lives"
            );
        }
    }

    pub fn tell(&mut self, line: String) {
        self.trace.push_back(line);
        if self.trace.len() > MOST_LINES {
            self.trace.pop_front();
        }
    }

    /// Asks for a pair with the peer, or for the connection, as the operator does.
    pub fn up(&mut self, now: Now) {
        self.connect_at = Some(now.instant);
        self.connect_if_due(now);
    }

    /// Tries to connect if it is time.
    pub fn connect_if_due(&mut self, now: Now) {
        if self.connect_at.is_some_and(|at| at <= now.instant) {
            self.connect_at = None;
            let target = Target {
                local: SocketAddr::new(self.addresses[0], self.address.port()),
                remote: self.peer,
            };
            let command = Command::Up {
                connection: CONNECTION.into(),
                child: None,
                target,
            };
            self.endpoint.handle_command(now, command).unwrap();
        }
    }

    /// Takes all events; SAD updates reach the data path before any datagram leaves.
    pub fn drain_events(&mut self, now: Now) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Sad(update) => self.apply(update),
                Event::NeedTarget { at, .. } => {
                    if self.begins {
                        self.connect_at = Some(at);
                    }
                }
                Event::NeedPaths {
                    spi,
                    local_port,
                    remotes,
                    ..
                } => {
                    let ways = |remote: SocketAddr| {
                        let local = self.addresses.iter().map(move |ip| SocketAddr::new(*ip, local_port));
                        local.map(move |local| Path::udp(local, remote))
                    };
                    let paths = remotes.into_iter().flat_map(ways).collect();
                    self.endpoint.handle_paths(now, spi, paths);
                }
                Event::Redirected { to, .. } => {
                    self.tell(format!("Redirected to {to}"));
                    let GatewayIdentity::Address(to) = to else {
                        unreachable!("gateways have addresses here")
                    };
                    let target = Some(Target {
                        local: SocketAddr::new(self.addresses[0], self.address.port()),
                        remote: SocketAddr::new(to, self.peer.port()),
                    });
                    let connection = CONNECTION.into();
                    let follow = Command::Follow { connection, target };
                    self.endpoint.handle_command(now, follow).unwrap();
                }
                Event::Sign(request) => self.to_sign.push(request),
                Event::Solve(request) => self.to_solve.push(request),
                Event::SolveNoMore(ticket) => self.to_solve.retain(|request| request.ticket != ticket),
                Event::Message { .. } => {}
                other => self.tell(format!("{other:?}")),
            }
        }
    }

    fn apply(&mut self, update: SadUpdate) {
        match update {
            SadUpdate::InstallInbound(entry) => {
                let inbound = InboundSa::new(&ESP_PROVIDER, &entry.inbound, entry.replay_window).unwrap();
                let outbound = OutboundSa::new(&ESP_PROVIDER, &entry.outbound, [7; 32]).unwrap();
                let spi = entry.inbound.spi;
                assert!(spi > 255, "RFC 4303 §2.1 reserves SPIs 1 to 255");
                assert!(
                    self.sad.values().all(|p| p.entry.inbound.spi != spi),
                    "an inbound SPI is used twice"
                );
                let pair = Pair {
                    entry: Arc::clone(&entry),
                    path: entry.path,
                    packets: [0; 2],
                    told: [false; 2],
                    inbound,
                    outbound,
                    heard: false,
                    accepted: BTreeSet::new(),
                };
                assert!(self.sad.insert(entry.id, pair).is_none(), "a Child SA id is used twice");
            }
            SadUpdate::ActivateOutbound { id, .. } => {
                let pair = self.sad.get(&id).expect("activated before it was installed");
                self.active.insert(pair.entry.resource, id);
            }
            SadUpdate::DeactivateOutbound(id) => self.active.retain(|_, active| *active != id),
            SadUpdate::Remove(id) => {
                assert!(self.sad.remove(&id).is_some(), "removed twice");
                self.active.retain(|_, active| *active != id);
            }
            SadUpdate::Move { id, path, .. } => {
                self.sad.get_mut(&id).expect("moved before it was installed").path = path;
            }
        }
    }

    /// Seals one inner packet on an active pair, if there is one.
    pub fn seal(&mut self, now: Now, ledger: &mut NonceLedger) -> Option<(Path, Vec<u8>)> {
        self.sealed += 1;
        let turn = self.sealed.checked_rem(self.active.len())?;
        let (place, id) = self.active.iter().nth(turn).map(|(place, id)| (*place, *id))?;
        if !self.count(now, id, 0) {
            return None;
        }
        let pair = self.sad.get_mut(self.active.get(&place)?)?;
        let payload = [0x45_u8; 40];
        let sequence = pair.outbound.reserve(1).ok()?;
        ledger.esp_sealed(pair.entry.outbound.key.expose(), sequence);
        let mut packet = vec![0; pair.outbound.sealed_len(payload.len())];
        let at = pair.outbound.headroom();
        packet[at..at + payload.len()].copy_from_slice(&payload);
        pair.outbound.seal(sequence, 4, payload.len(), &mut packet);
        Some((pair.path, packet))
    }

    /// Opens an ESP packet; true if an inner packet came out. A sequence number is accepted once in a life.
    pub fn open(&mut self, now: Now, path: Path, mut packet: Vec<u8>) -> bool {
        let Some(spi) = packet.first_chunk::<4>().map(|b| u32::from_be_bytes(*b)) else {
            return false;
        };
        let Some(pair) = self.sad.values_mut().find(|p| p.entry.inbound.spi == spi) else {
            if self.tokens {
                let (local, remote) = (path.local.ip(), path.remote);
                self.endpoint
                    .handle_report(now, SadReport::UnknownSpi { spi, local, remote });
            }
            return false;
        };
        let from = path.remote;
        match pair.inbound.open(&mut packet) {
            Ok(opened) => {
                let newest = pair.accepted.last().is_none_or(|last| *last < opened.sequence);
                assert!(pair.accepted.insert(opened.sequence), "a replayed packet was accepted");
                let id = pair.entry.id;
                // RFC 7296 §2.23: an authentic, newer packet from elsewhere.
                if newest && pair.path.remote != from {
                    let moved = SadReport::PeerMoved { id, remote: from };
                    self.endpoint.handle_report(now, moved);
                }
                if pair.accepted.len() > 256 {
                    pair.accepted.pop_first();
                }
                self.count(now, id, 1);
                let Some(pair) = self.sad.get_mut(&id) else { return true };
                if !std::mem::replace(&mut pair.heard, true) {
                    self.endpoint.handle_report(now, SadReport::FirstInbound(id));
                }
                self.endpoint.handle_report(now, SadReport::Alive(id));
                true
            }
            Err(
                InboundError::Replayed
                | InboundError::TooOld
                | InboundError::Integrity
                | InboundError::Malformed
                | InboundError::Padding,
            ) => false,
        }
    }
}

impl Node {
    /// Counts a packet of a direction, and tells when a limit is reached; false if the direction has stopped.
    fn count(&mut self, now: Now, id: ChildSaId, direction: usize) -> bool {
        let Some(pair) = self.sad.get_mut(&id) else {
            return false;
        };
        let limits = pair.entry.limits;
        let count = pair.packets[direction] + 1;
        let bytes = count * 40;
        let over = |packets: Option<u64>, most: Option<u64>| {
            packets.is_some_and(|packets| count > packets) || most.is_some_and(|most| bytes > most)
        };
        let hard = over(limits.hard_packets, limits.hard_bytes);
        if !hard {
            pair.packets[direction] = count;
        }
        let reached = [over(limits.soft_packets, limits.soft_bytes), hard];
        for (kind, report) in [SadReport::SoftLimit(id), SadReport::HardLimit(id)]
            .into_iter()
            .enumerate()
        {
            let told = self.sad.get_mut(&id).map(|pair| &mut pair.told[kind]);
            if reached[kind] && told.is_some_and(|told| !std::mem::replace(told, true)) {
                self.limits_told[kind] += 1;
                self.endpoint.handle_report(now, report);
                self.drain_events(now);
            }
        }
        !hard
    }
}

/// The other address of a machine that has two.
pub fn second_address(first: IpAddr) -> IpAddr {
    let IpAddr::V4(first) = first else { return first };
    let [a, b, c, d] = first.octets();
    [a, b, c, d + 64].into()
}

fn config(initiator: bool, plan: &Plan) -> Config {
    let id = |name: &str| Identification {
        id_type: IdType::FQDN,
        reserved: [0; 3],
        data: name.as_bytes().to_vec(),
    };
    let network = |second: u8| {
        vec![TrafficSelector::Range {
            protocol: 0,
            start_port: 0,
            end_port: 65535,
            start: [10, second, 0, 0].into(),
            end: [10, second, 255, 255].into(),
        }]
    };
    let mut additional = AdditionalExchanges::default();
    if plan.hybrid {
        additional.0[0] = vec![Some(Group::MlKem768)];
    }
    let psk = || Secret::new(b"simulation only".to_vec());
    let (our_key, their_key) = if initiator {
        ("ed25519", "p256")
    } else {
        ("p256", "ed25519")
    };
    let (us, them, local, remote) = if initiator { ("a", "b", 1, 2) } else { ("b", "a", 2, 1) };
    let start_action = if initiator || plan.both_begin {
        StartAction::Start
    } else {
        StartAction::None
    };
    let child = Child {
        name: "net".into(),
        local_ts: network(local),
        remote_ts: network(remote),
        esp_proposals: vec![EspProposal {
            additional: if plan.pfs {
                additional.clone()
            } else {
                AdditionalExchanges::default()
            },
            encryption: vec![Encryption::AesGcm16_256],
            integrity: vec![],
            groups: if plan.pfs { vec![Group::Curve25519] } else { vec![] },
            esn: vec![true],
        }],
        rekey_time: Some(plan.child_rekey_time),
        life_time: Some(plan.child_rekey_time * 7),
        rand_time: plan.child_rekey_time / 5,
        limits: plan.limits,
        mode: Mode::Tunnel,
        replay_window: 64,
        tfc_padding: None,
        iptfs: None,
        pairs: plan.pairs[usize::from(!initiator)],
        start_action,
        close_action: start_action,
    };
    let connection = Connection {
        name: CONNECTION.into(),
        local_addrs: vec![],
        remote_addrs: vec![],
        remote_port: 500,
        ike_proposals: vec![IkeProposal {
            additional,
            encryption: vec![Encryption::AesGcm16_256],
            integrity: vec![],
            prf: vec![PrfAlgorithm::HmacSha256],
            groups: vec![Group::Curve25519],
        }],
        local: LocalAuth {
            id: id(us),
            credential: if plan.signs {
                // Its signatures come when they come.
                let elsewhere = SigningKey::kept_elsewhere(keys::key(our_key).verifying_key(), our_key.into());
                LocalCredential::RawKey(Arc::new(elsewhere))
            } else {
                LocalCredential::Psk(psk())
            },
        },
        remote: RemoteAuth {
            id: Some(id(them)),
            credential: if plan.signs {
                RemoteCredential::RawKeys(vec![keys::key(their_key).verifying_key()])
            } else {
                RemoteCredential::Psk(vec![psk()])
            },
        },
        ike_rekey_time: plan.ike_rekey_time,
        reauth_time: plan.reauth_time,
        dpd_delay: Some(Duration::from_secs(10)),
        fragmentation: true,
        fragment_size: if plan.fragment { 200 } else { 1280 },
        force_udp_encapsulation: false,
        mobike: plan.moves.is_some(),
        tcp: Default::default(),
        tcp_port: 4500,
        ppk: Default::default(),
        resumption: plan.resumption,
        follow_redirects: plan.redirects > 0,
        redirect_to: None,
        keep_trying: true,
        children: [("net".into(), Arc::new(child))].into(),
    };
    Config {
        connections: [(CONNECTION.into(), Arc::new(connection))].into(),
        gateway: if plan.puzzles {
            Gateway {
                cookie_threshold: 0,
                puzzle_threshold: 0,
                puzzle_difficulty: 8,
                ..Gateway::default()
            }
        } else {
            Gateway::default()
        },
    }
}
