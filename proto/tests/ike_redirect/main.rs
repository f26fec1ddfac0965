//! Redirection to another gateway (RFC 5685): several gateways and a client; then T as either side, which does what it must not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

#[path = "../ike_pump/mod.rs"]
mod ike_pump;
#[path = "../peer/mod.rs"]
mod peer;

mod at_setup;
mod by_order;
mod wire;

use ike_pump::{SITE, Sad, reversed, side_a, side_b};
use landbridge_proto::ike::{Command, CommandError, Endpoint, Event, IkeSaStatus, Tally};
use landbridge_proto::policy::connection::{Config, Connection, Gateway, StartAction, Target};
use landbridge_proto::policy::sad::Path;
use landbridge_proto::time::{Instant, Now};
use landbridge_proto::wire::{
    ExchangeType, GatewayIdentity, Header, IkeSpi, Notify, NotifyType, Payload, Redirect, encode_plain,
};
use peer::Tester;
use peer::messages::*;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const CLIENT: &str = "192.0.2.1";
const GATEWAYS: [&str; 3] = ["198.51.100.2", "198.51.100.3", "198.51.100.4"];
/// Of the first gateway, and of whoever is nearest.
const ANYCAST: &str = "198.51.100.99";

fn to(text: &str) -> GatewayIdentity {
    GatewayIdentity::parse(text).unwrap()
}

fn client() -> Connection {
    let mut connection = side_a();
    connection.follow_redirects = true;
    connection
}

/// A client (0) and gateways (1, 2, 3), with a clock that only the test moves.
struct Net {
    ends: Vec<Endpoint>,
    now: Instant,
    /// To whom, as the receiver sees it.
    wire: VecDeque<(usize, Path, Vec<u8>)>,
    events: Vec<Vec<Event>>,
    sad: Vec<Sad>,
    names: BTreeMap<&'static str, &'static str>,
    /// Where the client connects to.
    configured: &'static str,
    connect_at: Option<Instant>,
    /// The client follows at once; otherwise the test does.
    resolves: bool,
    /// Moments at which the client could not send since it was up.
    outages: usize,
    was_up: bool,
}

fn config(connections: Vec<Connection>, gateway: Gateway) -> Arc<Config> {
    let connections = connections.into_iter().map(|c| (Arc::clone(&c.name), Arc::new(c)));
    Arc::new(Config {
        connections: connections.collect(),
        gateway,
    })
}

fn sends(to_: &str) -> Gateway {
    Gateway {
        redirect_to: Some(to(to_)),
        ..Gateway::default()
    }
}

impl Net {
    fn new(client: Connection, gateways: Vec<(Connection, Gateway)>) -> Self {
        let mut configs = vec![config(vec![client], Gateway::default())];
        configs.extend(gateways.into_iter().map(|(c, gateway)| config(vec![c], gateway)));
        Self::with(configs)
    }

    fn with(configs: Vec<Arc<Config>>) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let end = |(seed, config): (usize, &Arc<Config>)| {
            let at = Now { instant: now, unix: 0 };
            Endpoint::new(at, [seed as u8 + 1; 32], Arc::clone(config))
        };
        let ends: Vec<Endpoint> = configs.iter().enumerate().map(end).collect();
        let count = ends.len();
        Self {
            ends,
            now,
            wire: VecDeque::new(),
            events: vec![vec![]; count],
            sad: vec![Sad::default(); count],
            names: BTreeMap::new(),
            configured: GATEWAYS[0],
            connect_at: None,
            resolves: true,
            outages: 0,
            was_up: false,
        }
    }

    fn at(&self) -> Now {
        let unix = self.now.as_nanos() / 1_000_000_000;
        Now {
            instant: self.now,
            unix,
        }
    }

    fn target(remote: &str) -> Target {
        let address = |text: &str| SocketAddr::new(text.parse().unwrap(), 500);
        Target {
            local: address(CLIENT),
            remote: address(remote),
        }
    }

    fn connect(&mut self) {
        let up = Command::Up {
            connection: SITE.into(),
            child: None,
            target: Self::target(self.configured),
        };
        self.command(0, up).unwrap();
    }

    fn command(&mut self, who: usize, command: Command) -> Result<(), CommandError> {
        let now = self.at();
        let done = self.ends[who].handle_command(now, command);
        self.drain();
        done
    }

    fn order(&mut self, who: usize, to: Option<GatewayIdentity>) -> Result<(), CommandError> {
        let connection = SITE.into();
        self.command(who, Command::Redirect { connection, to })
    }

    fn follow(&mut self, remote: Option<&str>) {
        let follow = Command::Follow {
            connection: SITE.into(),
            target: remote.map(Self::target),
        };
        self.command(0, follow).unwrap();
    }

    fn drain(&mut self) {
        for who in 0..self.ends.len() {
            while let Some(event) = self.ends[who].poll_event() {
                match &event {
                    Event::Sad(update) => self.sad[who].apply(update),
                    Event::NeedTarget { at, .. } if who == 0 => self.connect_at = Some(*at),
                    Event::Redirected { to, .. } if self.resolves => {
                        let text = to.to_string();
                        let found = self.names.get(text.as_str()).copied().map(str::to_owned);
                        let target = match to {
                            GatewayIdentity::Address(_) => Some(text),
                            GatewayIdentity::Name(_) => found,
                        };
                        let follow = Command::Follow {
                            connection: SITE.into(),
                            target: target.as_deref().map(Self::target),
                        };
                        let now = self.at();
                        self.ends[0].handle_command(now, follow).unwrap();
                    }
                    _ => {}
                }
                self.events[who].push(event);
            }
            let mut octets = Vec::new();
            while let Some(transmit) = self.ends[who].poll_transmit(&mut octets) {
                let there = transmit.path.remote.ip().to_string();
                let index = GATEWAYS.iter().position(|gateway| *gateway == there).map(|i| i + 1);
                let whom = match there.as_str() {
                    CLIENT => Some(0),
                    ANYCAST => Some(1),
                    _ => index,
                };
                if let Some(whom) = whom.filter(|whom| *whom < self.ends.len() && !transmit.keepalive) {
                    self.wire.push_back((whom, reversed(transmit.path), octets.clone()));
                }
            }
        }
        let up = !self.sad[0].active.is_empty();
        self.outages += usize::from(self.was_up && !up);
        self.was_up = up;
    }

    /// Time passes; whatever `arrives` says so is delivered.
    fn run_with(&mut self, time: Duration, mut arrives: impl FnMut(usize, &[u8]) -> bool) {
        let end = self.now + time;
        for _ in 0..20_000 {
            while let Some((whom, path, octets)) = self.wire.pop_front() {
                if arrives(whom, &octets) {
                    let now = self.at();
                    self.ends[whom].handle_datagram(now, path, &octets);
                    self.drain();
                }
            }
            let timers = self.ends.iter().enumerate();
            let timers = timers.filter_map(|(who, end)| end.poll_timeout().map(|(at, _)| (at, who)));
            let next = timers.chain(self.connect_at.map(|at| (at, usize::MAX))).min();
            match next {
                Some((at, who)) if at <= end => {
                    self.now = self.now.max(at);
                    if who == usize::MAX {
                        self.connect_at = None;
                        self.connect();
                    } else {
                        let now = self.at();
                        self.ends[who].handle_timeout(now);
                        self.drain();
                    }
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("they chatter: {:?}", self.lines(0));
    }

    fn run(&mut self, time: Duration) {
        self.run_with(time, |_, _| true);
    }

    fn up(&self, who: usize) -> Vec<IkeSaStatus> {
        let up = |sa: &IkeSaStatus| sa.stage == "established";
        self.ends[who].status().into_iter().filter(up).collect()
    }

    /// The client is up with this gateway, and with no other.
    fn assert_with(&self, gateway: usize) {
        for who in 1..self.ends.len() {
            let expected = usize::from(who == gateway);
            assert_eq!(self.up(who).len(), expected, "gateway {who}: {:#?}", self.lines(0));
            assert_eq!(self.sad[who].pairs.len(), expected, "gateway {who}");
        }
        let [sa] = &self.up(0)[..] else {
            panic!("{:#?}", self.ends[0].status())
        };
        let there: IpAddr = GATEWAYS[gateway - 1].parse().unwrap();
        assert_eq!((sa.path.remote.ip(), sa.children.len()), (there, 1));
        assert_eq!((self.sad[0].pairs.len(), self.sad[0].active.len()), (1, 1));
        assert_eq!(self.ends[0].spis_in_use(), 1);
    }

    fn lines(&self, who: usize) -> Vec<&str> {
        let lines = self.events[who].iter().filter_map(|event| match event {
            Event::Message { line, .. } => Some(line.as_str()),
            _ => None,
        });
        lines.collect()
    }

    fn saw(&self, who: usize, part: &str) -> usize {
        self.lines(who).iter().filter(|line| line.contains(part)).count()
    }

    fn failures(&self) -> Vec<&str> {
        let failures = self.events[0].iter().filter_map(|event| match event {
            Event::Failed(failure) => Some(failure.verdict.as_str()),
            _ => None,
        });
        failures.collect()
    }

    /// How often the client was sent elsewhere, and meant to go.
    fn sent(&self) -> usize {
        let to = |event: &&Event| matches!(event, Event::Redirected { .. });
        self.events[0].iter().filter(to).count()
    }

    fn tally(&self, who: usize) -> Tally {
        self.ends[who].tally(&SITE.into())
    }
}

fn two_gateways() -> Net {
    let mut net = Net::new(
        client(),
        vec![(side_b(), Gateway::default()), (side_b(), Gateway::default())],
    );
    net.connect();
    net.run(SECOND);
    net.assert_with(1);
    net
}

/// The answer to an IKE_SA_INIT request, as a gateway or somebody on the way makes it.
fn redirect_init(request: &[u8], to: &GatewayIdentity, nonce: Option<Vec<u8>>) -> Vec<u8> {
    let outer = landbridge_proto::wire::decode_outer(request).unwrap();
    let landbridge_proto::wire::OuterBody::Plain { first, payloads } = outer.body else {
        panic!("it is plain")
    };
    let payloads = landbridge_proto::wire::decode_payloads(first, payloads).unwrap();
    let nonce = nonce.unwrap_or_else(|| nonce_of(&payloads));
    let to = to.clone();
    let header = Header {
        flags: landbridge_proto::wire::Flags {
            initiator: false,
            response: true,
        },
        ..outer.header
    };
    encode_plain(&header, &[Payload::Notify(Redirect { to, nonce }.notify())])
}

fn redirected(t: &Tester) -> usize {
    let to = |event: &&Event| matches!(event, Event::Redirected { .. });
    t.events.iter().filter(to).count()
}
