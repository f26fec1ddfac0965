//! Redirection to another gateway (RFC 5685): several gateways and a client; then T as either side, which does what it must not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;
#[path = "peer/mod.rs"]
mod peer;

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

/// §3: before anything is computed or kept, with the nonce, and the next gateway is told by whom.
#[test]
fn everybody_is_sent_away_at_the_first_message() {
    for name in [GATEWAYS[1], "second.example"] {
        let mut net = Net::new(client(), vec![(side_b(), sends(name)), (side_b(), Gateway::default())]);
        net.names.insert("second.example", GATEWAYS[1]);
        net.connect();
        net.run(SECOND);
        net.assert_with(2);
        assert_eq!(net.up(0)[0].redirected_from, Some(GATEWAYS[0].parse().unwrap()));
        assert_eq!(net.ends[1].load().ike_sas, 0);
        assert_eq!(net.ends[1].counters().redirects_sent, 1);
        assert_eq!(net.tally(0).redirects_followed, 1);
        assert_eq!(net.saw(1, "N(REDIRECT_SUPPORTED)"), 1);
        assert_eq!(
            (net.saw(2, "N(REDIRECTED_FROM)"), net.saw(2, "N(REDIRECT_SUPPORTED)")),
            (1, 0)
        );
        assert!(net.failures().is_empty());
        // It is announced again when the peer is asked anew, and the rekeyed SA still knows where it comes from.
        let connection = SITE.into();
        net.command(0, Command::RekeyIke { connection }).unwrap();
        net.run(20 * SECOND);
        net.assert_with(2);
        assert!(net.up(0)[0].redirected_from.is_some());
    }
}

/// "If the IKE_SA_INIT request did not indicate support for the redirect mechanism, the responder MUST NOT send the REDIRECT
/// payload to the VPN client. This is applicable to all REDIRECT scenarios described in this document."
#[test]
fn who_does_not_follow_is_served() {
    let mut b = side_b();
    b.redirect_to = Some(to(GATEWAYS[1]));
    let mut net = Net::new(side_a(), vec![(b, sends(GATEWAYS[1])), (side_b(), Gateway::default())]);
    net.connect();
    net.run(SECOND);
    net.assert_with(1);
    let error = net.order(1, Some(to(GATEWAYS[1]))).unwrap_err();
    assert!(matches!(error, CommandError::CannotBeSent(_)), "{error}");
    net.run(SECOND);
    net.assert_with(1);
    assert_eq!(net.saw(1, "REDIRECT"), 0);
}

/// §7: two gateways that send their peers to each other, by names that resolve; and as soon as one serves, all is well.
#[test]
fn loops_end() {
    let pair = |first: &str, second: &str| vec![(side_b(), sends(first)), (side_b(), sends(second))];
    let mut net = Net::new(client(), pair("second.example", "first.example"));
    net.names = BTreeMap::from([("first.example", GATEWAYS[0]), ("second.example", GATEWAYS[1])]);
    net.connect();
    net.run(290 * SECOND);
    let followed = net.tally(0).redirects_followed;
    assert_eq!(followed, 5, "MAX_REDIRECTS");
    assert!(net.failures()[0].contains("more than 5 times"), "{:?}", net.failures());
    // The last attempt waits for another answer; the waits between attempts grow as after any failure.
    let asked = net.saw(1, "IKE_SA_INIT request") + net.saw(2, "IKE_SA_INIT request");
    assert!((7..60).contains(&asked), "{asked}");
    let (now, config) = (net.at(), config(vec![side_b()], Gateway::default()));
    net.ends[1].reconfigure(now, config);
    net.run(100 * SECOND);
    net.assert_with(1);
    // An address says by itself that it is a loop: nobody is sent back to who sent it.
    let mut net = Net::new(client(), pair(GATEWAYS[1], GATEWAYS[0]));
    net.connect();
    net.run(SECOND);
    net.assert_with(2);
}

/// "The client MAY get redirected again by the new VPN gateway if the new VPN gateway also cannot serve the client."
#[test]
fn from_one_to_the_next() {
    let gateways = vec![
        (side_b(), sends(GATEWAYS[1])),
        (side_b(), sends(GATEWAYS[2])),
        (side_b(), Gateway::default()),
    ];
    let mut net = Net::new(client(), gateways);
    net.connect();
    net.run(SECOND);
    net.assert_with(3);
    assert_eq!(net.up(0)[0].redirected_from, Some(GATEWAYS[1].parse().unwrap()));
}

/// §4: "The VPN gateway that received the IKE_SA_INIT request MAY redirect the client to its own unicast address".
#[test]
fn an_anycast_address_leads_to_its_own() {
    let mut net = Net::new(client(), vec![(side_b(), sends(GATEWAYS[0]))]);
    net.configured = ANYCAST;
    net.connect();
    net.run(SECOND);
    net.assert_with(1);
    assert_eq!(net.up(0)[0].redirected_from, Some(ANYCAST.parse().unwrap()));
}

/// Where there can be no other gateway we don't go. Anybody who sees the request can say so: the true answer is still waited for.
/// What a name leads to turns out later: then the attempt has failed, and the next is made as configured.
#[test]
fn some_addresses_are_nobodys() {
    for nowhere in [
        "0.0.0.0",
        "::",
        "127.0.0.1",
        "::1",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "::ffff:198.51.100.2",
        CLIENT,
        GATEWAYS[0],
        "self.example",
        "nowhere.example",
    ] {
        let mut net = Net::new(client(), vec![(side_b(), sends("other.example"))]);
        let now = net.at();
        net.ends[0].handle_addresses(now, vec![CLIENT.parse().unwrap()]);
        net.names.insert("self.example", GATEWAYS[0]);
        net.connect();
        // What our gateway would not say is said in its place.
        let (whom, path, request) = net.wire.pop_front().unwrap();
        assert_eq!(whom, 1);
        let answer = redirect_init(&request, &to(nowhere), None);
        for _ in 0..3 {
            net.ends[0].handle_datagram(now, reversed(path), &answer);
            net.drain();
        }
        assert!(net.up(0).is_empty() && net.wire.is_empty(), "{nowhere}");
        let goes_on = net.ends[0].status().iter().any(|sa| sa.stage == "initiating");
        assert_eq!(goes_on, !nowhere.ends_with(".example"), "{nowhere}");
        assert_eq!(net.tally(0).redirects_followed, 0);
        let told = net.failures().len();
        assert_eq!(
            told,
            usize::from(nowhere != "nowhere.example"),
            "{nowhere}: {:?}",
            net.failures()
        );
        let config = config(vec![side_b()], Gateway::default());
        net.ends[1].reconfigure(now, config);
        if goes_on {
            net.wire.push_back((whom, path, request));
            net.run(SECOND);
        } else {
            net.run(10 * SECOND);
        }
        net.assert_with(1);
    }
}

/// RFC 9329 §6.4: over TCP "an Initiator SHOULD NOT wait for additional messages": nobody else can have sent it.
#[test]
fn over_tcp_such_an_answer_is_the_last() {
    let mut a = client();
    a.tcp = landbridge_proto::policy::connection::TcpUse::Always;
    let mut net = Net::new(a, vec![(side_b(), Gateway::default())]);
    net.connect();
    let needed = net.events[0].iter().find_map(|event| match event {
        Event::NeedStream { spi, local, remote, .. } => {
            let local = SocketAddr::new(*local, 40_000);
            Some((*spi, Path::tcp(local, *remote)))
        }
        _ => None,
    });
    let (spi, path) = needed.unwrap();
    let now = net.at();
    net.ends[0].handle_stream(now, spi, Ok(path));
    net.drain();
    let (_, path, request) = net.wire.pop_front().unwrap();
    let answer = redirect_init(&request, &to("0.0.0.0"), None);
    net.ends[0].handle_datagram(now, reversed(path), &answer);
    net.drain();
    assert_eq!(net.ends[0].status()[0].stage, "closing");
    assert_eq!((net.failures().len(), net.sent()), (1, 0));
    assert!(net.connect_at.is_some());
}

/// While a puzzle is being solved: who goes elsewhere needs no solution; who does not go waits for it.
#[test]
fn while_a_puzzle_is_solved() {
    for (there, goes) in [(GATEWAYS[1], true), ("0.0.0.0", false)] {
        let mut t = Tester::new(client());
        let asked = t.provoke();
        t.answer_init(&[
            notify_with(NotifyType::COOKIE, &[7; 8]),
            notify_with(NotifyType::PUZZLE, &[0, 5, 16]),
        ]);
        let solves = |t: &Tester| t.events.iter().any(|event| matches!(event, Event::Solve(_)));
        assert!(solves(&t), "{:?}", asked.payloads);
        t.send(&redirect_init(&t.sa.request.clone(), &to(there), None));
        let stopped = t.events.iter().any(|event| matches!(event, Event::SolveNoMore(_)));
        assert_eq!((stopped, redirected(&t)), (goes, usize::from(goes)));
    }
}

/// What somebody on the way says does not count against what a gateway has proven to say; nor does what we did not do.
#[test]
fn each_redirect_counts_where_it_belongs() {
    let mut net = two_gateways();
    let now = net.at();
    net.ends[0].handle_addresses(now, vec![CLIENT.parse().unwrap()]);
    for _ in 0..7 {
        net.order(1, Some(to("nowhere.example"))).unwrap();
        net.run(SECOND);
        net.order(1, Some(to(CLIENT))).unwrap();
        net.run(SECOND);
    }
    assert_eq!(net.tally(0).redirects_followed, 0);
    for (from, there) in [(1, 2), (2, 1), (1, 2), (2, 1), (1, 2)] {
        net.order(from, Some(to(GATEWAYS[there - 1]))).unwrap();
        net.run(SECOND);
        net.assert_with(there);
    }
    // That is five times; the sixth is not followed, unless the SA has stood.
    net.order(2, Some(to(GATEWAYS[0]))).unwrap();
    net.run(SECOND);
    net.assert_with(2);
    assert!(net.failures().last().unwrap().contains("more than 5 times"));
    net.run(58 * SECOND);
    net.order(2, Some(to(GATEWAYS[0]))).unwrap();
    net.run(SECOND);
    net.assert_with(1);
    // Five answers are forged and followed: what a gateway has proven to say is followed all the same.
    let mut b = side_b();
    b.redirect_to = Some(to(GATEWAYS[1]));
    let gateways = [side_b(), side_b(), b].map(|b| (b, Gateway::default()));
    let mut net = Net::new(client(), gateways.into());
    net.connect();
    for there in [2, 0, 2, 0, 2] {
        let (_, path, request) = net.wire.pop_front().unwrap();
        let answer = redirect_init(&request, &to(GATEWAYS[there]), None);
        let now = net.at();
        net.ends[0].handle_datagram(now, reversed(path), &answer);
        net.drain();
    }
    net.run(SECOND);
    net.assert_with(2);
    assert_eq!(net.tally(0).redirects_followed, 6);
}

/// §6: only who has proven who it is, and there is no Child SA; others are served by the same gateway.
#[test]
fn one_connection_is_sent_away_in_ike_auth() {
    for (id, gateway) in [("a.example", 2), ("another.example", 1)] {
        let (mut sent, mut kept) = (side_b(), side_b());
        sent.redirect_to = Some(to(GATEWAYS[1]));
        (sent.name, kept.name) = ("sent".into(), SITE.into());
        kept.remote.id = None;
        let mut a = client();
        a.local.id = landbridge_proto::wire::Identification::parse(id).unwrap();
        let mut there = side_b();
        there.remote.id = None;
        let mut net = Net::with(vec![
            config(vec![a], Gateway::default()),
            config(vec![sent, kept], Gateway::default()),
            config(vec![there], Gateway::default()),
        ]);
        net.connect();
        net.run(SECOND);
        net.assert_with(gateway);
        let away = u64::from(gateway == 2);
        assert_eq!(net.ends[1].tally(&"sent".into()).redirects_sent, away);
        let ups = |who: usize| {
            net.events[who]
                .iter()
                .filter(|event| matches!(event, Event::IkeUp(_)))
                .count()
        };
        assert_eq!((ups(0), ups(1) as u64), (1, 1 - away));
        // It has deleted that SA, and is not waited for.
        net.run(20 * SECOND);
        assert_eq!(net.ends[1].load().ike_sas, usize::from(gateway == 1));
        assert_eq!(net.ends[1].load().half_open, 0);
    }
}

/// A client that keeps the SA of such an IKE_AUTH has nothing of it.
#[test]
fn an_sa_without_a_use_ends() {
    let mut sent = side_b();
    sent.redirect_to = Some(to(GATEWAYS[1]));
    let mut t = Tester::new(sent);
    let mut payloads = t.init_payloads();
    payloads.push(notify(NotifyType::REDIRECT_SUPPORTED));
    t.init(&payloads);
    let payloads = t.auth_payloads();
    let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(answer.has(NotifyType::REDIRECT) && sa_of(&answer.payloads).is_none());
    let auth = |payload: &Payload| matches!(payload, Payload::Auth(_));
    assert!(answer.payloads.iter().any(auth), "it proves itself");
    assert_eq!(
        answer.notify(NotifyType::REDIRECT).unwrap().data,
        [1, 4, 198, 51, 100, 3],
        "no nonce"
    );
    assert_eq!((t.stage(), t.pairs()), (Some("closing"), 0));
    assert_eq!(t.dut.load().half_open, 0, "it is no stranger");
    // Nothing can be made by it.
    let mut payloads = t.child_offer(false);
    payloads.push(t.nonce(32));
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
    assert!(
        sa_of(&answer.payloads).is_none() && t.pairs() == 0,
        "{:?}",
        answer.payloads
    );
    t.pass(11 * SECOND);
    let asked = t.next_request().unwrap();
    assert!(asked.payloads.contains(&delete_ike()));
    t.respond(&asked.header, &[]);
    t.pass(20 * SECOND);
    assert!(t.status().is_empty());
    // "The gateway MUST verify the client's AUTH payload before sending the REDIRECT payload".
    let mut sent = side_b();
    sent.redirect_to = Some(to(GATEWAYS[1]));
    let mut t = Tester::new(sent);
    let mut payloads = t.init_payloads();
    payloads.push(notify(NotifyType::REDIRECT_SUPPORTED));
    t.init(&payloads);
    let mut payloads = t.auth_payloads();
    payloads[1] = psk_auth(&[7; 32]);
    let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(answer.has(NotifyType::AUTHENTICATION_FAILED) && !answer.has(NotifyType::REDIRECT));
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

/// §5: the new SA is up before the old one goes, and the client deletes it.
#[test]
fn by_order_without_a_gap() {
    let mut net = two_gateways();
    net.order(1, Some(to(GATEWAYS[1]))).unwrap();
    net.run(SECOND);
    net.assert_with(2);
    assert_eq!(net.outages, 0);
    assert_eq!((net.tally(1).redirects_sent, net.tally(0).redirects_followed), (1, 1));
    let sent = |event: &Event| matches!(event, Event::SentAway { to: there, .. } if *there == to(GATEWAYS[1]));
    assert!(net.events[1].iter().any(sent));
    assert_eq!(net.up(0)[0].redirected_from, Some(GATEWAYS[0].parse().unwrap()));
    let down = |event: &&Event| matches!(event, Event::IkeDown { reason, .. } if reason == "we deleted it");
    assert_eq!(net.events[0].iter().filter(down).count(), 1);
    // And back, and there again; the old gateway keeps nothing.
    for (from, there) in [(2, 1), (1, 2)] {
        net.run(100 * SECOND);
        net.order(from, Some(to(GATEWAYS[there - 1]))).unwrap();
        net.run(20 * SECOND);
        net.assert_with(there);
        assert_eq!(net.ends[from].load().ike_sas, 0);
    }
    assert_eq!(net.outages, 0);
}

/// Any message lost: the same, and there is always something to send by.
#[test]
fn by_order_whatever_is_lost() {
    for lost in 0..12 {
        let mut net = two_gateways();
        net.order(1, Some(to(GATEWAYS[1]))).unwrap();
        let mut count = 0;
        net.run_with(50 * SECOND, |_, _| {
            count += 1;
            count != lost + 1
        });
        net.assert_with(2);
        assert_eq!(net.outages, 0, "message {lost}");
    }
}

/// With several children, rekeys of the IKE SA by either end in between, and a gateway there that has another identity.
#[test]
fn by_order_whatever_happens_besides() {
    for case in 0..4 {
        let more = |mut c: Connection, ours: &str, theirs: &str, action: StartAction| {
            let child = ike_pump::child("more", ours, theirs, "aes256gcm16-x25519", action);
            c.children.insert("more".into(), child);
            c
        };
        let mut a = more(client(), "10.3.0.0/16", "10.4.0.0/16", StartAction::Start);
        a.remote.id = None;
        let b = || more(side_b(), "10.4.0.0/16", "10.3.0.0/16", StartAction::None);
        let mut other = b();
        other.local.id = landbridge_proto::wire::Identification::parse("c.example").unwrap();
        let mut net = Net::new(a, vec![(b(), Gateway::default()), (other, Gateway::default())]);
        net.connect();
        net.run(SECOND);
        let connection = || SITE.into();
        let rekey = |net: &mut Net, who: usize| {
            let connection = connection();
            net.command(who, Command::RekeyIke { connection }).unwrap();
        };
        if case & 1 != 0 {
            rekey(&mut net, 1);
            net.run(SECOND);
        }
        if case & 2 != 0 {
            rekey(&mut net, 0);
        }
        net.order(1, Some(to(GATEWAYS[1]))).unwrap();
        if case & 1 != 0 {
            rekey(&mut net, 0);
        }
        net.run(20 * SECOND);
        let [sa] = &net.up(0)[..] else {
            panic!("{case}: {:#?}", net.ends[0].status())
        };
        assert_eq!(
            (sa.peer.as_ref().unwrap().to_string().as_str(), sa.children.len()),
            ("c.example", 2)
        );
        assert_eq!(
            (net.sad[0].pairs.len(), net.sad[0].active.len(), net.sad[1].pairs.len()),
            (2, 2, 0)
        );
        assert_eq!(net.outages, 0, "{case}");
    }
}

/// "it should allow sufficient time for the client to set up the required security associations with the new security gateway":
/// a client that finds no way stays that long; then it is deleted, and begins where it is configured to.
#[test]
fn who_does_not_go_is_deleted_in_time() {
    let mut net = two_gateways();
    net.order(1, Some(to("nowhere.example"))).unwrap();
    net.run(59 * SECOND);
    net.assert_with(1);
    assert_eq!(net.outages, 0);
    net.run(30 * SECOND);
    net.assert_with(1);
    assert!(net.outages > 0);
    let down = |event: &&Event| matches!(event, Event::IkeDown { reason, .. } if reason == "the peer deleted it");
    assert_eq!(net.events[0].iter().filter(down).count(), 1);
    // A gateway that is not there: the same.
    let mut net = two_gateways();
    net.order(1, Some(to(GATEWAYS[2]))).unwrap();
    net.run(59 * SECOND);
    assert_eq!(net.outages, 0);
    net.run(60 * SECOND);
    net.assert_with(1);
    // It may be sent elsewhere in the meantime.
    let mut net = two_gateways();
    net.order(1, Some(to("nowhere.example"))).unwrap();
    net.run(5 * SECOND);
    net.order(1, Some(to(GATEWAYS[1]))).unwrap();
    net.run(5 * SECOND);
    net.assert_with(2);
    assert_eq!(net.outages, 0);
}

/// A rekey by the peer while the REDIRECT is on its way: the new SA is what is deleted in time.
#[test]
fn the_time_holds_for_the_rekeyed_sa() {
    let mut net = two_gateways();
    net.order(1, Some(to("nowhere.example"))).unwrap();
    // Both are on their way at once.
    let connection = SITE.into();
    net.command(0, Command::RekeyIke { connection }).unwrap();
    net.run(59 * SECOND);
    net.assert_with(1);
    assert_eq!((net.outages, net.tally(1).redirects_sent), (0, 1));
    net.run(30 * SECOND);
    assert!(net.outages > 0);
}

/// Who is there already is not sent there, and so not deleted either.
#[test]
fn nobody_is_sent_to_where_he_is() {
    let mut net = two_gateways();
    let error = net.order(1, Some(to(GATEWAYS[0]))).unwrap_err();
    assert!(matches!(error, CommandError::CannotBeSent(_)), "{error}");
    net.run(100 * SECOND);
    net.assert_with(1);
    assert_eq!((net.outages, net.tally(1).redirects_sent), (0, 0));
}

/// The operator may change his mind between the redirect and the way there.
#[test]
fn who_does_not_follow_any_more_stays() {
    let mut net = two_gateways();
    net.resolves = false;
    net.order(1, Some(to(GATEWAYS[1]))).unwrap();
    net.run(SECOND);
    let now = net.at();
    net.ends[0].reconfigure(now, config(vec![side_a()], Gateway::default()));
    net.follow(Some(GATEWAYS[1]));
    net.run(20 * SECOND);
    net.assert_with(1);
    assert_eq!((net.outages, net.tally(0).redirects_followed), (0, 0));
}

/// What an order is refused for, and where it takes its gateway from.
#[test]
fn orders() {
    let mut net = two_gateways();
    let error = net.order(1, None).unwrap_err();
    assert!(matches!(error, CommandError::NowhereToGo(_)), "{error}");
    let error = net.order(2, Some(to(GATEWAYS[0]))).unwrap_err();
    assert!(matches!(error, CommandError::NotEstablished(_)), "{error}");
    // §10: "only the original responder can redirect the original initiator to another server", whoever rekeyed it since.
    let connection = SITE.into();
    net.command(1, Command::RekeyIke { connection }).unwrap();
    net.run(SECOND);
    let error = net.order(0, Some(to(GATEWAYS[1]))).unwrap_err();
    assert!(matches!(error, CommandError::CannotBeSent(_)), "{error}");
    // A key that is added holds at once for the order, and for the next who comes.
    let mut b = side_b();
    b.redirect_to = Some(to(GATEWAYS[1]));
    let now = net.at();
    net.ends[1].reconfigure(now, config(vec![b], Gateway::default()));
    net.run(SECOND);
    net.assert_with(1);
    net.order(1, None).unwrap();
    net.run(SECOND);
    net.assert_with(2);
    assert_eq!(net.outages, 0);
}

/// While the way is being looked for, the operator may want something else.
#[test]
fn the_operator_comes_first() {
    for case in 0..4 {
        let mut net = Net::new(
            client(),
            vec![(side_b(), sends(GATEWAYS[1])), (side_b(), Gateway::default())],
        );
        net.resolves = false;
        net.connect();
        net.run(SECOND);
        assert_eq!(net.sent(), 1);
        let connection = SITE.into();
        let now = net.at();
        match case {
            0 => net
                .command(
                    0,
                    Command::Down {
                        connection,
                        child: None,
                    },
                )
                .unwrap(),
            1 => net.ends[0].reconfigure(now, config(vec![], Gateway::default())),
            2 => net.connect(),
            // Nothing else begins meanwhile.
            _ => {
                net.run(100 * SECOND);
                assert_eq!(net.saw(1, "IKE_SA_INIT request"), 1);
                net.follow(Some(GATEWAYS[1]));
                net.run(SECOND);
                net.assert_with(2);
                continue;
            }
        }
        if case != 1 {
            net.follow(Some(GATEWAYS[1]));
        }
        if case == 2 {
            net.run(SECOND);
            net.follow(Some(GATEWAYS[1]));
        }
        net.run(20 * SECOND);
        if case == 2 {
            net.assert_with(2);
        } else {
            assert!(
                net.up(2).is_empty() && net.ends[0].load().ike_sas == 0,
                "{case}: {:#?}",
                net.ends[0].status()
            );
        }
    }
}

/// RFC 5723: a ticket is no way around it: who presents one begins anew, and is sent away then.
#[test]
fn who_comes_with_a_ticket_is_sent_away() {
    for by_connection in [false, true] {
        let with = |mut c: Connection| {
            c.resumption = true;
            c.dpd_delay = Some(10 * SECOND);
            c
        };
        let gateways = || {
            vec![
                (with(side_b()), Gateway::default()),
                (with(side_b()), Gateway::default()),
            ]
        };
        let mut net = Net::new(with(client()), gateways());
        net.connect();
        net.run(SECOND);
        net.assert_with(1);
        // Nothing arrives until the client has given it up.
        while !net.up(0).is_empty() {
            net.run_with(SECOND, |_, _| false);
        }
        let now = net.at();
        let mut b = with(side_b());
        b.redirect_to = by_connection.then(|| to(GATEWAYS[1]));
        let gateway = if by_connection {
            Gateway::default()
        } else {
            sends(GATEWAYS[1])
        };
        net.ends[1].reconfigure(now, config(vec![b], gateway));
        net.run(SECOND * 100);
        assert_eq!(net.ends[1].counters().tickets_refused, 1);
        let [sa] = &net.up(0)[..] else { panic!() };
        assert_eq!(sa.path.remote.ip().to_string(), GATEWAYS[1]);
    }
}

/// An authentication anew is sent away like a first one, beside the SA there is.
#[test]
fn while_authenticating_anew() {
    let mut a = client();
    a.reauth_time = Some(100 * SECOND);
    let mut net = Net::new(a, vec![(side_b(), Gateway::default()), (side_b(), Gateway::default())]);
    net.connect();
    net.run(SECOND);
    let now = net.at();
    net.ends[1].reconfigure(now, config(vec![side_b()], sends(GATEWAYS[1])));
    net.run(110 * SECOND);
    net.assert_with(2);
    // And if there is no way, the SA that is up stays, and it is tried again.
    let config = config(vec![side_b()], sends("nowhere.example"));
    net.ends[2].reconfigure(now, config);
    net.run(200 * SECOND);
    net.assert_with(2);
    assert_eq!(net.outages, 0);
    assert!(net.sent() > 2);
    assert_eq!(net.tally(0).redirects_followed, 1);
}

/// In either exchange, and the gateway there has another identity: the new SA takes the old one's place all the same.
#[test]
fn while_authenticating_anew_to_another_identity() {
    for by_connection in [false, true] {
        let mut a = client();
        (a.remote.id, a.reauth_time) = (None, Some(100 * SECOND));
        let mut other = side_b();
        other.local.id = landbridge_proto::wire::Identification::parse("c.example").unwrap();
        let mut net = Net::new(a, vec![(side_b(), Gateway::default()), (other, Gateway::default())]);
        net.connect();
        net.run(SECOND);
        let (mut b, mut gateway) = (side_b(), sends(GATEWAYS[1]));
        if by_connection {
            (b.redirect_to, gateway) = (gateway.redirect_to, Gateway::default());
        }
        let now = net.at();
        net.ends[1].reconfigure(now, config(vec![b], gateway));
        net.run(120 * SECOND);
        net.assert_with(2);
        assert_eq!(net.outages, 0);
    }
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

/// "If the values do not match, the client MUST silently discard the response (and keep waiting for another response)."
#[test]
fn a_wrong_nonce_is_discarded() {
    let mut t = Tester::new(client());
    let asked = t.provoke();
    let right = nonce_of(&asked.payloads);
    let before = t.state();
    let mut wrong = vec![vec![], right[1..].to_vec(), [&right[..], &[0]].concat(), vec![7; 32]];
    wrong.push(right.iter().map(|octet| octet ^ 1).collect());
    for nonce in wrong {
        let answer = redirect_init(&t.sa.request, &to(GATEWAYS[1]), Some(nonce));
        assert!(t.ask(&answer).is_empty());
        assert_eq!((t.state(), redirected(&t)), (before.clone(), 0));
    }
    // Nor does one that can't be read, or another exchange's, do anything.
    for data in [&[][..], &[3, 5, b'a'], &[9, 1, 1]] {
        t.answer_init(&[notify_with(NotifyType::REDIRECT, &[data, &right].concat())]);
        assert_eq!((t.state(), redirected(&t)), (before.clone(), 0));
    }
    // The true answer is still waited for.
    let payloads = t.init_answer(&asked);
    t.answer_init(&payloads);
    assert_eq!(t.next_request().unwrap().header.exchange, ExchangeType::IKE_AUTH);
    // With the right nonce it goes; once.
    let mut t = Tester::new(client());
    t.provoke();
    let answer = redirect_init(&t.sa.request, &to(GATEWAYS[1]), None);
    for _ in 0..3 {
        t.send(&answer);
        assert_eq!(redirected(&t), 1);
    }
}

/// Who is not to follow does not announce it, and does not do it in any exchange.
#[test]
fn who_does_not_follow_stays() {
    let redirect = |nonce: &[u8]| {
        let nonce = nonce.to_vec();
        Payload::Notify(
            Redirect {
                to: to(GATEWAYS[1]),
                nonce,
            }
            .notify(),
        )
    };
    let mut t = Tester::new(side_a());
    let asked = t.provoke();
    assert!(!asked.has(NotifyType::REDIRECT_SUPPORTED));
    let answer = redirect_init(&t.sa.request, &to(GATEWAYS[1]), None);
    assert!(t.ask(&answer).is_empty());
    let payloads = t.init_answer(&asked);
    t.answer_init(&payloads);
    let asked = t.next_request().unwrap();
    let mut payloads = t.auth_answer();
    payloads.push(redirect(&[]));
    t.respond(&asked.header, &payloads);
    assert!(t.is_up() && t.pairs() == 1);
    let answer = t.request(ExchangeType::INFORMATIONAL, &[redirect(&[])]).unwrap();
    assert!(answer.payloads.is_empty());
    assert_eq!(redirected(&t), 0);
    t.assert_alive();
}

/// "the client MUST verify the gateway's AUTH payload before acting on the REDIRECT payload."
#[test]
fn in_ike_auth_only_from_who_proves_itself() {
    for (psk, follows) in [(peer::PSK, 1), (&b"another secret"[..], 0)] {
        let (mut t, asked) = Tester::until_auth(client());
        let id = id(false, "b.example");
        let auth = t.auth(psk, &id);
        let nonce = Vec::new();
        let redirect = Redirect {
            to: to(GATEWAYS[1]),
            nonce,
        }
        .notify();
        t.respond(&asked.header, &[id, auth, Payload::Notify(redirect)]);
        assert_eq!((redirected(&t), t.pairs()), (follows, 0));
        assert_eq!(t.dut.spis_in_use(), 0);
        // "it SHOULD delete the IKEv2 security association".
        let asked = t.next_request().unwrap();
        assert!(asked.payloads.contains(&delete_ike()), "{:?}", asked.payloads);
    }
}

/// What is unprotected, or an answer, or of who did not begin, sends nobody away.
#[test]
fn only_the_requests_of_the_original_responder_count() {
    let redirect = || {
        let nonce = Vec::new();
        Redirect {
            to: to(GATEWAYS[1]),
            nonce,
        }
        .notify()
    };
    let mut t = Tester::up_as_responder(client());
    let before = t.state();
    for exchange in [
        ExchangeType::INFORMATIONAL,
        ExchangeType::IKE_AUTH,
        ExchangeType::CREATE_CHILD_SA,
    ] {
        for (response, id) in [(false, 0), (false, 1), (true, 0), (true, 2)] {
            let header = t.sa.header(exchange, response, id);
            t.send(&encode_plain(&header, &[Payload::Notify(redirect())]));
        }
    }
    let init = t.sa.request.clone();
    t.send(&redirect_init(&init, &to(GATEWAYS[1]), None));
    assert_eq!((t.state(), redirected(&t)), (before, 0));
    // In other exchanges, and in an answer.
    let mut offer = t.child_offer(false);
    offer.push(t.nonce(32));
    offer.push(Payload::Notify(redirect()));
    t.request(ExchangeType::CREATE_CHILD_SA, &offer).unwrap();
    assert_eq!(redirected(&t), 0);
    t.command(Command::RekeyChild {
        connection: SITE.into(),
        child: None,
    });
    let asked = t.next_request().unwrap();
    t.respond(&asked.header, &[Payload::Notify(redirect())]);
    assert_eq!(redirected(&t), 0);
    // §9.2: a nonce "MUST NOT be included"; one that is there means nothing. It is answered, and only once.
    let mut t = Tester::up_as_responder(client());
    let with_nonce = Redirect {
        to: to(GATEWAYS[1]),
        nonce: vec![1; 32],
    }
    .notify();
    let answer = t
        .request(ExchangeType::INFORMATIONAL, &[Payload::Notify(with_nonce)])
        .unwrap();
    assert!(answer.payloads.is_empty());
    for _ in 0..5 {
        t.request(ExchangeType::INFORMATIONAL, &[Payload::Notify(redirect())])
            .unwrap();
    }
    assert_eq!(redirected(&t), 1);
    assert!(t.is_up() && t.pairs() == 1, "it stays until there is another");
    // §10.
    let mut t = Tester::up(Connection {
        follow_redirects: true,
        ..side_b()
    });
    t.request(ExchangeType::INFORMATIONAL, &[Payload::Notify(redirect())])
        .unwrap();
    assert_eq!(redirected(&t), 0);
    t.assert_alive();
}

/// The answer to a stranger: alone, with its nonce, no SPI of ours, not longer than what came, and nothing is kept; cookies are
/// not needed for it.
#[test]
fn a_stranger_costs_nothing() {
    let gateway = Gateway {
        cookie_threshold: 0,
        ..sends(GATEWAYS[1])
    };
    let mut t = Tester::with(side_b(), gateway.clone());
    let load = t.dut.load();
    for support in [
        Notify::new(NotifyType::REDIRECT_SUPPORTED, vec![]),
        Notify::new(NotifyType::REDIRECTED_FROM, vec![1, 4, 203, 0, 113, 1]),
        // It may say both.
        Notify::new(NotifyType::REDIRECT_SUPPORTED, vec![1, 2, 3]),
    ] {
        for len in [16, 32, 256] {
            let mut payloads = t.init_payloads();
            payloads[2] = t.nonce(len);
            payloads.push(Payload::Notify(support.clone()));
            let datagram = t.init_datagram(&payloads);
            for _ in 0..2 {
                let [answer] = &t.ask(&datagram)[..] else { panic!() };
                assert!(answer.octets.len() <= datagram.len());
                let opened = t.open(std::slice::from_ref(answer));
                assert_eq!(opened.header.spi_r, IkeSpi::ZERO);
                let expected = [&[1, 4, 198, 51, 100, 3], nonce_of(&payloads).as_slice()].concat();
                assert_eq!(opened.payloads, [notify_with(NotifyType::REDIRECT, &expected)]);
            }
        }
    }
    assert_eq!(t.dut.load(), load);
    assert_eq!(t.counters().redirects_sent, 18);
    // What can't be read announces nothing: then it is the cookie.
    for data in [
        &[][..],
        &[1, 3, 1, 2, 3],
        &[3, 3, b'a', b'.', b'b'],
        &[2, 4, 1, 2, 3, 4],
    ] {
        let mut payloads = t.init_payloads();
        payloads.push(notify_with(NotifyType::REDIRECTED_FROM, data));
        let answer = t.init(&payloads);
        assert!(answer.has(NotifyType::COOKIE) && !answer.has(NotifyType::REDIRECT));
    }
    // A name that makes the answer longer than the request is not told.
    let name = format!("{}.example", "a".repeat(240));
    let mut t = Tester::with(side_b(), sends(&name));
    let mut payloads = t.init_payloads();
    payloads.push(notify(NotifyType::REDIRECT_SUPPORTED));
    let answer = t.init(&payloads);
    assert!(!answer.has(NotifyType::REDIRECT) && ke_of(&answer.payloads).is_some());
}
