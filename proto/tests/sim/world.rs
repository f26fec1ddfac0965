//! The network and its clock: what happens when, all drawn from the seed.

use crate::invariants::NonceLedger;
use crate::link::{carry, unit};
use crate::node::{CONNECTION, Node};
use landbridge_proto::ike::Command;
use landbridge_proto::policy::sad::Path;
use landbridge_proto::time::{Instant, Now};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the links are bad.
const TROUBLE: Duration = Duration::from_secs(120);
/// How long they are good afterwards: longer than all retransmissions of a request take to give up.
const CALM: Duration = Duration::from_secs(400);
/// Steps no run may exceed: nothing may chatter.
const STEP_LIMIT: u32 = 60_000;

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
    /// Both sides are told to rekey at the same moments.
    pub crossing_rekeys: bool,
    /// One side restarts half-way.
    pub restart: bool,
    /// Both ends rekey the IKE SA about so often.
    pub ike_rekey_time: Option<Duration>,
    /// IKE messages are fragmented.
    pub fragment: bool,
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
            crossing_rekeys: false,
            restart: false,
            ike_rekey_time: None,
            fragment: seed.is_multiple_of(3),
        }
    }
}

enum Due {
    Ike { to: usize, path: Path, octets: Vec<u8> },
    Esp { to: usize, octets: Vec<u8> },
    Traffic,
    Rekey { who: usize },
    Restart { who: usize },
}

/// Two nodes and what is under way between them.
pub struct World {
    seed: u64,
    rng: ChaCha8Rng,
    now: Instant,
    end_of_trouble: Instant,
    faults: Vec<Fault>,
    nodes: [Node; 2],
    queue: BTreeMap<(Instant, u64), Due>,
    counter: u64,
    ledger: NonceLedger,
    delivered: [u64; 2],
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
            end_of_trouble: now + TROUBLE,
            faults: plan.faults.clone(),
            nodes,
            queue: BTreeMap::new(),
            counter: 0,
            ledger: NonceLedger::default(),
            delivered: [0; 2],
            rng: ChaCha8Rng::seed_from_u64(rng.next_u64()),
        };
        world.push(now + Duration::from_millis(100), Due::Traffic);
        for _ in 0..6 {
            let at = now + Duration::from_millis(u64::from(rng.next_u32()) % 110_000);
            if plan.crossing_rekeys {
                world.push(at, Due::Rekey { who: 0 });
                world.push(
                    at + Duration::from_millis(u64::from(rng.next_u32() % 3)),
                    Due::Rekey { who: 1 },
                );
            } else if rng.next_u32().is_multiple_of(2) {
                world.push(
                    at,
                    Due::Rekey {
                        who: rng.next_u32() as usize % 2,
                    },
                );
            }
        }
        if plan.restart {
            let at = now + Duration::from_millis(30_000 + u64::from(rng.next_u32()) % 60_000);
            world.push(
                at,
                Due::Restart {
                    who: rng.next_u32() as usize % 2,
                },
            );
        }
        world
    }

    /// Runs to the end and checks it; returns the trace.
    pub fn run(mut self) -> Vec<String> {
        let end = self.end_of_trouble + CALM;
        let mut steps = 0;
        while self.now < end {
            self.step();
            steps += 1;
            assert!(steps < STEP_LIMIT, "the endpoints chatter");
        }
        self.check_the_end();
        let [a, b] = self.nodes;
        a.trace.into_iter().chain(b.trace).collect()
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
            Due::Esp { to, octets } => {
                if self.nodes[to].open(now, octets) {
                    self.delivered[to] += 1;
                }
                self.drain(to);
            }
            Due::Traffic => {
                for from in 0..2 {
                    if let Some((_, octets)) = self.nodes[from].seal(&mut self.ledger) {
                        self.carry(1 - from, |to, octets| Due::Esp { to, octets }, &octets);
                    }
                }
                self.push(self.now + Duration::from_millis(500), Due::Traffic);
            }
            Due::Rekey { who } => {
                let command = Command::RekeyChild {
                    connection: CONNECTION.into(),
                    child: None,
                };
                // Not established just now: nothing to rekey.
                let _ = self.nodes[who].endpoint.handle_command(now, command);
                self.drain(who);
            }
            Due::Restart { who } => {
                let seed = self.rng.next_u64();
                self.nodes[who].restart(now, seed);
            }
        }
    }

    fn drain(&mut self, who: usize) {
        self.nodes[who].drain_events();
        let mut octets = Vec::new();
        while let Some(transmit) = self.nodes[who].endpoint.poll_transmit(&mut octets) {
            assert_eq!(transmit.len, octets.len());
            if transmit.keepalive {
                continue;
            }
            self.ledger.ike_left(&octets);
            let path = Path {
                local: transmit.path.remote,
                remote: transmit.path.local,
            };
            self.carry(1 - who, |to, octets| Due::Ike { to, path, octets }, &octets);
        }
    }

    fn carry(&mut self, to: usize, due: impl Fn(usize, Vec<u8>) -> Due, octets: &[u8]) {
        let faults = if self.now < self.end_of_trouble {
            self.faults.clone()
        } else {
            Vec::new()
        };
        for (delay, octets) in carry(&mut self.rng, &faults, octets) {
            self.push(self.now + delay, due(to, octets));
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

    /// Memory is bounded, at every moment.
    fn check_bounds(&self) {
        for node in &self.nodes {
            assert!(node.sad.len() <= 16, "{} Child SAs at once", node.sad.len());
            assert!(
                node.endpoint.status().len() <= 12,
                "{} IKE SAs at once",
                node.endpoint.status().len()
            );
        }
    }

    /// Both sides have one IKE SA with one Child SA pair, they are the same, and data pass both ways. A rekey may be going
    /// on at any moment, so this is waited for, but not longer than a rekey takes.
    fn check_the_end(&mut self) {
        let patience = self.now + Duration::from_secs(30);
        while let Err(problem) = self.settled() {
            if self.now > patience {
                let [a, b] = &self.nodes;
                panic!(
                    "seed {}: {problem}\nA: {:#?}\n{:#?}\nB: {:#?}\n{:#?}",
                    self.seed,
                    a.endpoint.status(),
                    a.trace,
                    b.endpoint.status(),
                    b.trace
                );
            }
            self.step();
        }
        let before = self.delivered;
        let end = self.now + Duration::from_secs(20);
        while self.now < end {
            self.step();
        }
        for (who, before) in before.into_iter().enumerate() {
            let arrived = self.delivered[who] - before;
            assert!(
                arrived >= 38,
                "seed {}: only {arrived} of 40 packets reached node {who} over a good link",
                self.seed
            );
        }
    }

    fn settled(&self) -> Result<(), String> {
        for (who, node) in self.nodes.iter().enumerate() {
            let status = node.endpoint.status();
            let [sa] = status.as_slice() else {
                return Err(format!("node {who} has {} IKE SAs", status.len()));
            };
            if sa.stage != "established" || sa.children.len() != 1 {
                return Err(format!("node {who}: {} with {} Child SAs", sa.stage, sa.children.len()));
            }
            if node.sad.len() != 1 {
                return Err(format!("node {who}: {} pairs in the SAD", node.sad.len()));
            }
            if node.endpoint.spis_in_use() != 1 {
                return Err(format!(
                    "node {who}: {} SPIs are not freed",
                    node.endpoint.spis_in_use()
                ));
            }
            if node.active != node.sad.keys().next().copied() {
                return Err(format!("node {who} does not send"));
            }
        }
        let spis = |who: usize| {
            self.nodes[who]
                .sad
                .values()
                .next()
                .map(|pair| (pair.entry.inbound.spi, pair.entry.outbound.spi))
        };
        let (a, b) = (spis(0), spis(1));
        if a != b.map(|(inbound, outbound)| (outbound, inbound)) {
            return Err("the two ends don't belong together".to_owned());
        }
        Ok(())
    }
}
