//! The network and its clock: what happens when, all drawn from the seed.

use crate::invariants::NonceLedger;
use crate::keys;
use crate::link::{carry, unit};
use crate::node::{CONNECTION, Node, second_address};
use landbridge_proto::ike::{Command, Load, SignTicket, SolveRequest};
use landbridge_proto::policy::sad::{Path, TrafficLimits};
use landbridge_proto::time::{Instant, Now};
use landbridge_proto::wire::GatewayIdentity;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// How long the links are good afterwards: longer than all retransmissions of a request take to give up.
const CALM: Duration = Duration::from_secs(400);
/// Steps no run of the usual length may exceed: nothing may chatter.
const STEP_LIMIT: u32 = 60_000;
/// The NAT's address outside.
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));

/// What a link does to datagrams.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Lost with this probability.
    Loss(f64),
    /// Sent a second time, up to three seconds later.
    Duplicate(f64),
    /// Held for up to this many milliseconds (so reordered).
    Delay(u64),
    /// One bit flipped.
    Corrupt(f64),
}

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    pub faults: Vec<Fault>,
    /// How long the links are bad, and all sorts of things happen.
    pub trouble: Duration,
    /// Both sides are told to rekey at the same moments.
    pub crossing_rekeys: bool,
    /// So many times one side loses its memory.
    pub restarts: u32,
    /// Both ends make and take tokens (RFC 6290).
    pub quick_crash_detection: bool,
    /// So many commands of both operators: rekey, down, up, of the child and of the connection.
    pub commands: u32,
    /// Node 0 stands behind a NAT that forgets its mappings so many times.
    pub rebindings: Option<u32>,
    /// Both ends have two addresses and MOBIKE; so many times the initiator's machine has others than before, and as often an
    /// address of the responder can't be reached for a while.
    pub moves: Option<u32>,
    /// So many times nothing gets through for longer than a peer is waited for.
    pub outages: u32,
    /// IKE SAs are resumed with tickets (RFC 5723).
    pub resumption: bool,
    /// The responder's machine has two addresses, and so many times it sends the initiator to either of them, as to another gateway
    /// (RFC 5685).
    pub redirects: u32,
    /// They authenticate with signatures that are made elsewhere and take their time; with a shared secret otherwise.
    pub signs: bool,
    /// Who begins has to solve puzzles (RFC 8019), which takes its time.
    pub puzzles: bool,
    /// ML-KEM-768 comes second (RFC 9370).
    pub hybrid: bool,
    /// So many Child SA pairs each end wants (RFC 9611).
    pub pairs: [u16; 2],
    /// Both ends bring the connection up by themselves, at the same moment.
    pub both_begin: bool,
    /// Both ends rekey the IKE SA about so often.
    pub ike_rekey_time: Option<Duration>,
    /// The initiator authenticates anew about so often.
    pub reauth_time: Option<Duration>,
    /// Both ends rekey the Child SA about so often.
    pub child_rekey_time: Duration,
    /// Limits by traffic.
    pub limits: TrafficLimits,
    /// Child SA rekeys have a key exchange.
    pub pfs: bool,
    /// IKE messages are fragmented.
    pub fragment: bool,
    /// A packet each way so often.
    pub traffic: Duration,
}

impl Plan {
    /// A mix of faults.
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x706c_616e);
        let faults = vec![
            Fault::Loss(unit(&mut rng) * 0.25),
            Fault::Duplicate(unit(&mut rng) * 0.2),
            Fault::Delay(1 + u64::from(rng.next_u32() % 1500)),
            Fault::Corrupt(unit(&mut rng) * 0.05),
        ];
        Self {
            faults,
            trouble: Duration::from_secs(120),
            crossing_rekeys: false,
            restarts: 0,
            quick_crash_detection: false,
            commands: 0,
            rebindings: None,
            moves: None,
            outages: 0,
            resumption: seed % 2 == 1,
            redirects: 0,
            signs: false,
            puzzles: false,
            hybrid: false,
            pairs: [1; 2],
            both_begin: false,
            ike_rekey_time: None,
            reauth_time: None,
            child_rekey_time: Duration::from_secs(45),
            limits: TrafficLimits::default(),
            pfs: true,
            fragment: seed.is_multiple_of(3),
            traffic: Duration::from_millis(500),
        }
    }

    /// All that there is, each in some of the seeds.
    pub fn everything(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x616c_6c21);
        let mut often = |of: u32| rng.next_u32() % of == 0;
        let (nat, both) = (often(3), often(4));
        let limits = TrafficLimits {
            soft_packets: often(3).then_some(30),
            hard_packets: often(3).then_some(60),
            soft_bytes: often(5).then_some(800),
            hard_bytes: often(5).then_some(2000),
        };
        Self {
            restarts: u32::from(often(2)) + u32::from(often(4)),
            commands: if often(2) { 8 } else { 0 },
            quick_crash_detection: !seed.is_multiple_of(3),
            crossing_rekeys: often(4),
            rebindings: nat.then_some(1 + u32::from(often(2))),
            both_begin: both && !nat,
            ike_rekey_time: often(2).then_some(Duration::from_secs(60)),
            reauth_time: often(4).then_some(Duration::from_secs(100)),
            limits,
            moves: (often(3) && !nat && !both).then_some(1 + u32::from(often(2))),
            hybrid: often(3),
            signs: often(3),
            puzzles: often(4),
            redirects: if often(3) && !nat && !both { 3 } else { 0 },
            pairs: [[1, 1], [1, 1], [1, 3], [3, 1], [3, 3], [2, 4]][(rng.next_u32() % 6) as usize],
            ..Self::from_seed(seed)
        }
    }
}

/// What the operators ask for.
#[derive(Clone, Copy, Debug)]
enum Order {
    RekeyChild,
    RekeyIke,
    DownChild,
    Down,
    Up,
    Redirect(IpAddr),
}

enum Due {
    Ike {
        to: usize,
        path: Path,
        octets: Vec<u8>,
    },
    Esp {
        to: usize,
        path: Path,
        octets: Vec<u8>,
    },
    Traffic,
    Order {
        who: usize,
        order: Order,
    },
    Restart {
        who: usize,
    },
    Rebind,
    Signed {
        who: usize,
        ticket: SignTicket,
        signature: Vec<u8>,
    },
    Solved {
        who: usize,
        request: SolveRequest,
    },
    /// The initiator's machine has other addresses.
    Move,
    /// An address of the responder can't be reached, or all can again.
    Block(Option<IpAddr>),
}

/// What came of a run.
pub struct Outcome {
    /// What both sides told.
    pub trace: Vec<String>,
    /// The most that either side ever held, day by day.
    pub days: Vec<Load>,
    /// Limits by traffic that were reached: soft, hard.
    pub limits_told: [u32; 2],
    /// What either side holds at the end.
    pub left: [Load; 2],
}

/// Two nodes and what is under way between them.
pub struct World {
    seed: u64,
    rng: ChaCha8Rng,
    now: Instant,
    began: Instant,
    end_of_trouble: Instant,
    last_phase: bool,
    pub plan: Plan,
    /// What the NAT adds to ports, if there is one.
    shift: Option<u16>,
    /// What is sent to this address is lost.
    blocked: Option<IpAddr>,
    pub nodes: [Node; 2],
    queue: BTreeMap<(Instant, u64), Due>,
    counter: u64,
    ledger: NonceLedger,
    delivered: [u64; 2],
    days: Vec<Load>,
}

impl World {
    pub fn new(seed: u64, plan: &Plan) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let addresses = ["192.0.2.1:500".parse().unwrap(), "198.51.100.2:500".parse().unwrap()];
        let now = Instant::from_nanos(1_000_000_000);
        let at = |now| Now {
            instant: now,
            unix: 1_800_000_000,
        };
        let nodes = [
            Node::new(at(now), seed, true, addresses[0], addresses[1], plan),
            Node::new(at(now), seed, false, addresses[1], addresses[0], plan),
        ];
        let mut world = Self {
            seed,
            now,
            began: now,
            end_of_trouble: now + plan.trouble,
            last_phase: false,
            plan: plan.clone(),
            shift: plan.rebindings.map(|_| 1000),
            blocked: None,
            nodes,
            queue: BTreeMap::new(),
            counter: 0,
            ledger: NonceLedger::default(),
            delivered: [0; 2],
            days: Vec::new(),
            rng: ChaCha8Rng::seed_from_u64(rng.next_u64()),
        };
        world.plan_ahead(&mut rng);
        world
    }

    fn plan_ahead(&mut self, rng: &mut ChaCha8Rng) {
        let now = self.now;
        self.push(now + Duration::from_millis(100), Due::Traffic);
        let trouble = self.plan.trouble.as_millis() as u64;
        for _ in 0..6 {
            let at = now + Duration::from_millis(u64::from(rng.next_u32()) % (trouble - 10_000));
            let order = Order::RekeyChild;
            if self.plan.crossing_rekeys {
                self.push(at, Due::Order { who: 0, order });
                let a_little_later = at + Duration::from_millis(u64::from(rng.next_u32() % 3));
                self.push(a_little_later, Due::Order { who: 1, order });
            } else if rng.next_u32().is_multiple_of(2) {
                let who = rng.next_u32() as usize % 2;
                self.push(at, Due::Order { who, order });
            }
        }
        for _ in 0..self.plan.restarts {
            let at = now + Duration::from_millis(30_000 + u64::from(rng.next_u32()) % (trouble - 60_000));
            let who = rng.next_u32() as usize % 2;
            self.push(at, Due::Restart { who });
        }
        for _ in 0..self.plan.rebindings.unwrap_or(0) {
            let at = now + Duration::from_millis(10_000 + u64::from(rng.next_u32()) % (trouble - 20_000));
            self.push(at, Due::Rebind);
        }
        for _ in 0..self.plan.moves.unwrap_or(0) {
            let mut moment = || Duration::from_millis(10_000 + u64::from(rng.next_u32()) % (trouble - 20_000));
            let (move_at, block_at) = (now + moment(), now + moment());
            self.push(move_at, Due::Move);
            let first = self.nodes[1].address.ip();
            let blocked = [first, second_address(first)][rng.next_u32() as usize % 2];
            self.push(block_at, Due::Block(Some(blocked)));
            self.push(block_at + Duration::from_secs(60), Due::Block(None));
        }
        for _ in 0..self.plan.outages {
            let at = now + Duration::from_millis(10_000 + u64::from(rng.next_u32()) % (trouble - 100_000));
            self.push(at, Due::Block(Some(self.nodes[1].address.ip())));
            self.push(at + Duration::from_secs(85), Due::Block(None));
        }
        for _ in 0..self.plan.redirects {
            let at = now + Duration::from_millis(5_000 + u64::from(rng.next_u32()) % (trouble - 10_000));
            let first = self.nodes[1].address.ip();
            let order = Order::Redirect([first, second_address(first)][rng.next_u32() as usize % 2]);
            self.push(at, Due::Order { who: 1, order });
        }
        for _ in 0..self.plan.commands {
            let at = now + Duration::from_millis(5_000 + u64::from(rng.next_u32()) % (trouble - 10_000));
            let orders = [
                Order::RekeyChild,
                Order::RekeyIke,
                Order::DownChild,
                Order::Down,
                Order::Up,
            ];
            let order = orders[rng.next_u32() as usize % orders.len()];
            let who = rng.next_u32() as usize % 2;
            self.push(at, Due::Order { who, order });
        }
        if self.plan.commands > 0 {
            // Whatever was taken down is wanted again.
            let (at, order) = (self.end_of_trouble, Order::Up);
            self.push(at, Due::Order { who: 0, order });
            if self.plan.both_begin {
                self.push(at, Due::Order { who: 1, order });
            }
        }
    }

    /// Runs to the end and checks it.
    pub fn run(mut self) -> Outcome {
        let end = self.end_of_trouble + CALM;
        let mut steps = 0;
        let usual = self.plan.trouble <= Duration::from_secs(120);
        while self.now < end {
            self.step();
            steps += 1;
            assert!(steps < STEP_LIMIT || !usual, "the endpoints chatter");
        }
        self.check_the_end();
        let left = [0, 1].map(|who| self.nodes[who].endpoint.load());
        let [a, b] = self.nodes;
        let limits_told = [0, 1].map(|kind| a.limits_told[kind] + b.limits_told[kind]);
        Outcome {
            trace: a.trace.into_iter().chain(b.trace).collect(),
            days: self.days,
            limits_told,
            left,
        }
    }

    fn step(&mut self) {
        for who in 0..2 {
            let now = self.clock();
            self.nodes[who].connect_if_due(now);
            self.drain(who);
        }
        // What comes first: something in the queue, or a timer of either node.
        let timer = |node: &Node| {
            let endpoint = node.endpoint.poll_timeout().map(|(at, _)| at);
            endpoint.into_iter().chain(node.connect_at).min()
        };
        let next_timer = (0..2)
            .filter_map(|who| timer(&self.nodes[who]).map(|at| (at, who)))
            .min();
        let next_due = self.queue.first_key_value().map(|(key, _)| *key);
        match (next_due, next_timer) {
            (Some(key), timer) if timer.is_none_or(|(at, _)| key.0 <= at) => {
                self.now = self.now.max(key.0);
                if let Some(due) = self.queue.remove(&key) {
                    self.happen(due);
                }
            }
            (_, Some((at, who))) => {
                self.now = self.now.max(at);
                let now = self.clock();
                self.nodes[who].endpoint.handle_timeout(now);
                self.drain(who);
            }
            (_, None) => unreachable!("traffic goes on for ever"),
        }
        self.check_bounds();
    }

    fn happen(&mut self, due: Due) {
        let now = self.clock();
        match due {
            Due::Ike { to, path, octets } => {
                self.nodes[to].endpoint.handle_datagram(now, path, &octets);
                self.drain(to);
            }
            Due::Esp { to, path, octets } => {
                if self.nodes[to].open(now, path, octets) {
                    self.delivered[to] += 1;
                }
                self.drain(to);
            }
            Due::Traffic => {
                for from in 0..2 {
                    if let Some((path, octets)) = self.nodes[from].seal(now, &mut self.ledger) {
                        self.carry(from, path, |to, path, octets| Due::Esp { to, path, octets }, &octets);
                    }
                    self.drain(from);
                }
                // In the calm there is less to see.
                let calm = self.now > self.end_of_trouble && !self.last_phase;
                self.push(self.now + self.plan.traffic * if calm { 4 } else { 1 }, Due::Traffic);
            }
            Due::Order { who, order } => self.order(who, order),
            Due::Restart { who } => {
                let seed = self.rng.next_u64();
                self.nodes[who].restart(now, seed);
            }
            Due::Signed { who, ticket, signature } => {
                self.nodes[who].endpoint.handle_signature(now, ticket, Ok(signature));
                self.drain(who);
            }
            Due::Solved { who, request } => {
                let node = &mut self.nodes[who];
                let before = node.endpoint.counters().puzzles_done;
                node.endpoint
                    .handle_solution(now, request.ticket, request.puzzle.solve());
                if node.endpoint.counters().puzzles_done > before {
                    node.tell("a puzzle is solved".to_owned());
                }
                self.drain(who);
            }
            Due::Move => {
                let first = self.nodes[0].address.ip();
                let mut addresses = match self.rng.next_u32() % 3 {
                    0 => vec![first],
                    1 => vec![second_address(first)],
                    _ => vec![second_address(first), first],
                };
                if self.nodes[0].addresses == addresses {
                    addresses = vec![second_address(first)];
                }
                self.nodes[0].set_addresses(now, addresses);
                self.drain(0);
            }
            Due::Block(address) => self.blocked = address,
            Due::Rebind => self.shift = self.shift.map(|shift| shift + 7),
        }
    }

    fn order(&mut self, who: usize, order: Order) {
        let (connection, now) = (CONNECTION.into(), self.clock());
        let child = Some("net".into());
        let command = match order {
            Order::RekeyChild => Command::RekeyChild {
                connection,
                child: None,
            },
            Order::RekeyIke => Command::RekeyIke { connection },
            Order::DownChild => Command::Down { connection, child },
            Order::Down => {
                self.nodes[who].connect_at = None;
                Command::Down {
                    connection,
                    child: None,
                }
            }
            Order::Redirect(to) => Command::Redirect {
                connection,
                to: Some(GatewayIdentity::Address(to)),
            },
            Order::Up => {
                // One that only answers has nobody to ask.
                if self.nodes[who].begins {
                    self.nodes[who].up(now);
                    self.drain(who);
                }
                return;
            }
        };
        // Not established just now: nothing to rekey.
        let _ = self.nodes[who].endpoint.handle_command(now, command);
        self.drain(who);
    }

    fn drain(&mut self, who: usize) {
        let now = self.clock();
        self.nodes[who].drain_events(now);
        for request in std::mem::take(&mut self.nodes[who].to_sign) {
            let name = request.key.elsewhere().expect("other signatures are made at once");
            let signature = keys::key(name).sign(request.scheme, &request.octets).unwrap();
            let ticket = request.ticket;
            let wait = Duration::from_millis(u64::from(self.rng.next_u32() % 3000));
            self.push(self.now + wait, Due::Signed { who, ticket, signature });
        }
        for request in std::mem::take(&mut self.nodes[who].to_solve) {
            // Now and then longer than it is waited for.
            let wait = Duration::from_millis(u64::from(self.rng.next_u32() % 12_000));
            self.push(self.now + wait, Due::Solved { who, request });
        }
        let mut octets = Vec::new();
        while let Some(transmit) = self.nodes[who].endpoint.poll_transmit(&mut octets) {
            assert_eq!(transmit.len, octets.len());
            if transmit.keepalive {
                continue;
            }
            self.ledger.ike_left(&octets);
            self.nodes[who].check_token(&octets);
            let ike = |to, path, octets| Due::Ike { to, path, octets };
            self.carry(who, transmit.path, ike, &octets);
        }
    }

    /// The path as the receiver sees it; nothing if the NAT knows no such mapping (any more).
    fn cross(&self, from: usize, path: Path) -> Option<Path> {
        let (mut source, mut destination) = (path.local, path.remote);
        if !self.nodes[from].addresses.contains(&source.ip()) {
            return None;
        }
        match self.shift {
            Some(shift) if from == 0 => source = SocketAddr::new(PUBLIC, source.port() + shift),
            Some(shift) => {
                let port = destination
                    .port()
                    .checked_sub(shift)
                    .filter(|port| [500, 4500].contains(port))?;
                if destination.ip() != PUBLIC {
                    return None;
                }
                destination = SocketAddr::new(self.nodes[0].address.ip(), port);
            }
            None => {}
        }
        let there = self.nodes[1 - from].addresses.contains(&destination.ip());
        if !there || [source.ip(), destination.ip()].map(Some).contains(&self.blocked) {
            return None;
        }
        Some(Path::udp(destination, source))
    }

    fn carry(&mut self, from: usize, path: Path, due: impl Fn(usize, Path, Vec<u8>) -> Due, octets: &[u8]) {
        let Some(path) = self.cross(from, path) else { return };
        let faults = if self.now < self.end_of_trouble {
            self.plan.faults.clone()
        } else {
            Vec::new()
        };
        for (delay, octets) in carry(&mut self.rng, &faults, octets) {
            self.push(self.now + delay, due(1 - from, path, octets));
        }
    }

    fn push(&mut self, at: Instant, due: Due) {
        self.counter += 1;
        self.queue.insert((at, self.counter), due);
    }

    fn clock(&self) -> Now {
        Now {
            instant: self.now,
            unix: 1_800_000_000 + self.now.as_nanos() / 1_000_000_000,
        }
    }

    /// Memory is bounded, at every moment; the most of each day is kept.
    fn check_bounds(&mut self) {
        let day = (self.now.saturating_since(self.began).as_secs() / 86_400) as usize;
        self.days.resize(self.days.len().max(day + 1), Load::default());
        for node in &self.nodes {
            let load = node.endpoint.load();
            let pairs = usize::from(self.plan.pairs[0].max(self.plan.pairs[1]));
            assert!(node.sad.len() <= 16 * pairs && load.child_sas <= 16 * pairs, "{load:?}");
            assert!(
                load.ike_sas <= 12 && load.jobs <= 24 * pairs && load.spis <= 24 * pairs,
                "{load:?}"
            );
            assert!(load.timers <= load.ike_sas + 1, "{load:?}");
            assert_eq!((load.events, load.transmits), (0, 0), "all is polled");
            assert!(
                load.half_open <= 12 && load.init_seen <= 12 && load.down <= 1,
                "{load:?}"
            );
            let most = &mut self.days[day];
            most.ike_sas = most.ike_sas.max(load.ike_sas);
            most.child_sas = most.child_sas.max(load.child_sas);
            most.jobs = most.jobs.max(load.jobs);
            most.requests = most.requests.max(load.requests);
            most.spis = most.spis.max(load.spis);
            most.timers = most.timers.max(load.timers);
            most.init_seen = most.init_seen.max(load.init_seen);
        }
    }

    /// Both sides have one IKE SA with one Child SA pair, or as many as are wanted, they are the same, and data pass both ways. A rekey may be going
    /// on at any moment, so this is waited for, but not longer than a rekey takes.
    fn check_the_end(&mut self) {
        self.last_phase = true;
        let patience = self.now + Duration::from_secs(60);
        while let Err(problem) = self.settled() {
            if self.now > patience {
                let [a, b] = &self.nodes;
                panic!(
                    "seed {}: {problem}\n{:?}\nA: {:#?}\n{:#?}\nB: {:#?}\n{:#?}",
                    self.seed,
                    self.plan,
                    a.endpoint.status(),
                    a.trace,
                    b.endpoint.status(),
                    b.trace
                );
            }
            self.step();
        }
        // From the next packet on they come as often as in the trouble.
        let first = self.now + self.plan.traffic * 4;
        while self.now < first {
            self.step();
        }
        let before = self.delivered;
        let end = self.now + self.plan.traffic * 40;
        while self.now < end {
            self.step();
        }
        // A hard limit is one at which traffic stops.
        let stops = self.plan.limits.hard_bytes.is_some() || self.plan.limits.hard_packets.is_some();
        for (who, before) in before.into_iter().enumerate() {
            let arrived = self.delivered[who] - before;
            assert!(
                arrived >= if stops { 20 } else { 38 },
                "seed {}: only {arrived} of 40 packets reached node {who} over a good link\n{:?}\n{:#?}",
                self.seed,
                self.plan,
                self.nodes[who].trace
            );
        }
        // Not in the middle of a rekey.
        let patience = self.now + Duration::from_secs(60);
        while self.settled().is_err() && self.now < patience {
            self.step();
        }
    }
}
