//! One IKE SA: its stage, its windows, and the way of every message in and out.

use super::child::Child;
use super::error::IkeError;
use super::event::{ChildUp, Event, Failure, IkeSaStatus, IkeUp, TimerKind};
use super::exchange::{Exchange, Next, Request};
use super::frag::{FragmentOutcome, Reassembly};
use super::jobs::{Job, Jobs};
use super::keys::IkeKeys;
use super::nat::NatSituation;
use super::respond::Reply;
use super::seal::{MessageProtection, OpenError, OpenedBody};
use super::shared::{Effect, Shared};
use super::window::{Arrival, Due, Incoming, Outgoing, Schedule};
use crate::crypto::Secret;
use crate::policy::connection::Connection;
use crate::policy::proposal::IkeSuite;
use crate::policy::sad::{ChildName, ConnectionName, Path, SadUpdate};
use crate::time::Instant;
use crate::wire::message::{Request as WireRequest, Response};
use crate::wire::{
    self, ExchangeType, Flags, HashAlgorithm, Header, Identification, IkeSpi, Outer, OuterBody, Payload,
    encode_payloads, encode_plain,
};
use std::sync::Arc;
use std::time::Duration;

/// A closed SA still answers repeated requests for this long (RFC 7296 §2.1).
const CLOSED_LINGER: Duration = Duration::from_secs(15);

/// The wait after a TEMPORARY_FAILURE (and half as much again at random).
const TEMPORARY_WAIT: Duration = Duration::from_secs(5);

/// A peer that is busy for this long is not busy, but out of step.
const OUT_OF_SYNC: Duration = Duration::from_secs(180);

/// Where an IKE SA stands.
pub enum Stage {
    /// We began it; IKE_SA_INIT or IKE_AUTH is under way.
    Initiating,
    /// The peer began it; IKE_AUTH is awaited.
    HalfOpen(Box<HalfOpen>),
    /// Both are authenticated.
    Established,
    /// Another has taken its place (RFC 7296 §2.18); it waits to be deleted, by us or by the peer.
    Rekeyed,
    /// Our Delete is on its way; nothing new is begun.
    Closing,
    /// Gone; it only repeats its last answers until then.
    Closed { until: Instant },
}

/// What a responder keeps between IKE_SA_INIT and IKE_AUTH.
pub struct HalfOpen {
    /// The connections it may belong to.
    pub candidates: Vec<Arc<Connection>>,
    /// g^ir; the keys are derived from it when the second message comes.
    pub shared: Secret,
    /// Forgotten after this.
    pub expires: Instant,
}

/// The first two messages and what was learnt from them: AUTH is about these (RFC 7296 §2.15).
#[derive(Default)]
pub struct InitMessages {
    /// The request as sent, header and all.
    pub request: Vec<u8>,
    /// The response as sent.
    pub response: Vec<u8>,
    /// Ni.
    pub nonce_i: Vec<u8>,
    /// Nr.
    pub nonce_r: Vec<u8>,
}

/// An IKE SA.
pub struct IkeSa {
    pub spi_i: IkeSpi,
    pub spi_r: IkeSpi,
    /// We are its original initiator.
    pub initiator: bool,
    pub stage: Stage,
    pub path: Path,
    pub nat: NatSituation,
    pub connection: Option<Arc<Connection>>,
    pub suite: Option<IkeSuite>,
    pub keys: Option<IkeKeys>,
    pub protection: Option<MessageProtection>,
    pub init: InitMessages,
    pub peer_id: Option<Identification>,
    pub peer_fragments: bool,
    pub peer_hashes: Option<Vec<HashAlgorithm>>,
    pub outgoing: Outgoing,
    pub incoming: Incoming,
    pub exchange: Option<Exchange>,
    pub jobs: Jobs,
    pub children: Vec<Child>,
    pub began: Instant,
    pub established: Option<Instant>,
    /// The how-manieth to be established, and how many were when it began: which was there before which, exactly.
    pub number: u64,
    pub known: u64,
    /// When it is to be rekeyed, and when to be closed if that failed.
    pub rekey_at: Option<Instant>,
    pub expire_at: Option<Instant>,
    /// The peer made it by a rekey that crossed ours of the SA with this SPI, and it is open which of the two new ones
    /// stays.
    pub contested: Option<IkeSpi>,
    /// Since when the peer answers nothing but TEMPORARY_FAILURE.
    pub busy_since: Option<Instant>,
    pub last_heard: Instant,
    pub last_sent: Instant,
    /// The child that was asked for by name; otherwise all that start by themselves.
    pub wanted: Option<ChildName>,
    /// No other SA with this peer is up: said in IKE_AUTH.
    pub initial_contact: bool,
    requests: Collected,
    responses: Collected,
}

/// Fragments of a message from the peer, and the digest of the first.
#[derive(Default)]
struct Collected {
    parts: Reassembly,
    first: Option<[u8; 32]>,
}

impl IkeSa {
    /// A new SA, nothing sent yet.
    pub fn new(shared: &Shared, spi_i: IkeSpi, spi_r: IkeSpi, initiator: bool, stage: Stage, path: Path) -> Self {
        let now = shared.now.instant;
        Self {
            spi_i,
            spi_r,
            initiator,
            stage,
            path,
            nat: NatSituation::default(),
            connection: None,
            suite: None,
            keys: None,
            protection: None,
            init: InitMessages::default(),
            peer_id: None,
            peer_fragments: false,
            peer_hashes: None,
            outgoing: Outgoing::new(0),
            incoming: Incoming::new(0),
            exchange: None,
            jobs: Jobs::default(),
            children: Vec::new(),
            began: now,
            established: None,
            number: 0,
            known: shared.established,
            rekey_at: None,
            expire_at: None,
            contested: None,
            busy_since: None,
            last_heard: now,
            last_sent: now,
            wanted: None,
            initial_contact: false,
            requests: Collected::default(),
            responses: Collected::default(),
        }
    }

    /// The SPI we chose: what the peer's messages name us by.
    pub const fn own_spi(&self) -> IkeSpi {
        if self.initiator { self.spi_i } else { self.spi_r }
    }

    pub fn name(&self) -> Option<ConnectionName> {
        self.connection.as_ref().map(|connection| Arc::clone(&connection.name))
    }

    pub const fn is_established(&self) -> bool {
        matches!(self.stage, Stage::Established)
    }

    /// Whether it is, or may become, the connection's SA: not one that is gone or was replaced.
    pub const fn counts(&self) -> bool {
        !matches!(self.stage, Stage::Closed { .. } | Stage::Rekeyed)
    }

    /// A protected message with our SPI in it. Until the ICV verifies nothing but counters moves.
    pub fn handle_message(&mut self, shared: &mut Shared, path: Path, datagram: &[u8], outer: &Outer<'_>) {
        let header = outer.header;
        // The I flag is the original initiator's; with ours in it, it is our own message come back (checklist L7).
        if header.flags.initiator == self.initiator || header.spi_i != self.spi_i || header.spi_r != self.spi_r {
            shared.counters.unexpected += 1;
            return;
        }
        if header.flags.response {
            self.handle_response(shared, path, datagram, outer)
        } else {
            self.handle_request(shared, path, datagram, outer)
        }
    }

    fn handle_request(&mut self, shared: &mut Shared, path: Path, datagram: &[u8], outer: &Outer<'_>) {
        let fragment = fragment_number(outer);
        match self.incoming.classify(outer.header.message_id, datagram, fragment) {
            Arrival::New => {}
            Arrival::Repeated(datagrams) => {
                // RFC 7296 §2.1, §2.11: the stored response, back along the path of the request.
                shared.counters.retransmitted += 1;
                shared.transmit(path, &datagrams);
                return;
            }
            Arrival::OutOfWindow => {
                shared.counters.replayed += 1;
                return;
            }
        }
        if matches!(self.stage, Stage::Closed { .. } | Stage::Initiating) {
            shared.counters.unexpected += 1;
            return;
        }
        if matches!(self.stage, Stage::HalfOpen(_)) && outer.header.exchange != ExchangeType::IKE_AUTH {
            // RFC 7296 §1.2: before IKE_AUTH is complete there is nothing else.
            shared.counters.unexpected += 1;
            return;
        }
        self.derive_late(shared);
        let Some((body, digest)) = self.open(shared, datagram, outer, false) else {
            return;
        };
        self.heard(shared, path);
        let header = outer.header;
        let reply = match wire::decode_payloads(body.first, &body.payloads) {
            Ok(payloads) => {
                shared.log_message(self.name(), true, path, &header, &payloads);
                match wire::decode_request(header.exchange, payloads) {
                    Ok(request) => self.respond(shared, path, request),
                    Err(wire::DecodeError::UnknownExchange(_)) => {
                        // Checklist L5: not known, so not answered; the SA lives on.
                        shared.counters.unexpected += 1;
                        return;
                    }
                    Err(error) => Reply::refuse(header.exchange, &IkeError::Malformed(error)),
                }
            }
            Err(error) => {
                shared.counters.malformed += 1;
                Reply::refuse(header.exchange, &IkeError::Malformed(error))
            }
        };
        let Some(reply) = reply else {
            shared.counters.unexpected += 1;
            return;
        };
        let payloads = wire::encode_response(&reply.response);
        let flags = Flags {
            initiator: self.initiator,
            response: true,
        };
        let answer = Header {
            flags,
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            ..header
        };
        shared.log_message(self.name(), false, path, &answer, &payloads);
        let datagrams = self.seal(shared, &answer, &payloads);
        self.incoming.answered(digest, datagrams.clone());
        shared.transmit(path, &datagrams);
        self.last_sent = shared.now.instant;
        if let Some(reason) = reply.close {
            self.close(shared, &reason);
        }
        self.work(shared);
    }

    fn handle_response(&mut self, shared: &mut Shared, path: Path, datagram: &[u8], outer: &Outer<'_>) {
        let header = outer.header;
        let expected = self
            .outgoing
            .in_flight()
            .is_some_and(|request| request.message_id == header.message_id);
        if !expected
            || self
                .exchange
                .as_ref()
                .is_none_or(|exchange| exchange.exchange_type() != header.exchange)
        {
            // RFC 7296 §2.3: not asked for, or answered before.
            shared.counters.unexpected += 1;
            return;
        }
        let Some((body, _)) = self.open(shared, datagram, outer, true) else {
            return;
        };
        self.heard(shared, path);
        self.outgoing.answered(header.message_id);
        let Some(exchange) = self.exchange.take() else { return };
        let decoded = wire::decode_payloads(body.first, &body.payloads);
        if let Ok(payloads) = &decoded {
            shared.log_message(self.name(), true, path, &header, payloads);
        }
        let response = decoded.and_then(|payloads| wire::decode_response(header.exchange, payloads));
        let next = match response {
            Ok(response) => exchange.on_response(self, shared, response),
            Err(error) => {
                // §2.21.3, §2.21.4: an error in a response is never answered; the SA is not what we think it is.
                shared.counters.malformed += 1;
                exchange.abandon(self, shared);
                Next::Close(format!("the peer's response is malformed: {error}"))
            }
        };
        self.follow(shared, next);
        self.work(shared);
    }

    /// The plain answer to our IKE_SA_INIT: unauthenticated until AUTH covers it.
    pub fn handle_init_response(
        &mut self,
        shared: &mut Shared,
        path: Path,
        datagram: &[u8],
        header: &Header,
        payloads: Vec<Payload>,
    ) {
        let awaited = self
            .outgoing
            .in_flight()
            .is_some_and(|request| request.message_id == header.message_id);
        let Some(Exchange::Init(exchange)) = self.exchange.take_if(|e| awaited && matches!(e, Exchange::Init(_)))
        else {
            shared.counters.unexpected += 1;
            return;
        };
        shared.log_message(self.name(), true, path, header, &payloads);
        let next = match wire::decode_response(ExchangeType::IKE_SA_INIT, payloads) {
            Ok(Response::IkeSaInit(reply)) => exchange.on_reply(self, shared, header, datagram, reply),
            Ok(_) | Err(_) => {
                shared.counters.malformed += 1;
                Next::KeepWaiting(Exchange::Init(exchange))
            }
        };
        self.follow(shared, next);
        self.work(shared);
    }

    /// What the exchange decided.
    pub fn follow(&mut self, shared: &mut Shared, next: Next) {
        match next {
            Next::Send(exchange, request) => self.send(shared, exchange, request),
            Next::Done => {}
            Next::Later(job, wait) => {
                let wait = wait + shared.jitter(wait / 2);
                self.jobs.add(shared.now.instant + wait, job);
            }
            Next::KeepWaiting(exchange) => self.exchange = Some(exchange),
            Next::Close(reason) => self.close(shared, &reason),
        }
    }

    /// Sends a request; its exchange waits for the answer.
    pub fn send(&mut self, shared: &mut Shared, exchange: Exchange, request: Request) {
        let Some(message_id) = self.outgoing.next_id() else {
            // RFC 7296 §2.2: the Message IDs are used up; the IKE SA can't be used any more.
            exchange.abandon(self, shared);
            self.close(shared, "all message IDs are used");
            return;
        };
        let flags = Flags {
            initiator: self.initiator,
            response: false,
        };
        let exchange_type = exchange.exchange_type();
        let header = Header {
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            exchange: exchange_type,
            flags,
            message_id,
        };
        let payloads = wire::encode_request(&request.0);
        shared.log_message(self.name(), false, self.path, &header, &payloads);
        let datagrams = if exchange_type == ExchangeType::IKE_SA_INIT {
            let datagram = encode_plain(&header, &payloads);
            self.init.request.clone_from(&datagram);
            vec![datagram]
        } else {
            self.seal(shared, &header, &payloads)
        };
        shared.transmit(self.path, &datagrams);
        let schedule = schedule(shared);
        self.outgoing
            .sent(shared.now.instant, self.path, datagrams, &schedule, &mut shared.rng);
        self.last_sent = shared.now.instant;
        self.exchange = Some(exchange);
    }

    /// Whether it may begin something.
    const fn is_idle(&self) -> bool {
        self.exchange.is_none() && self.contested.is_none()
    }

    /// Begins the next job if nothing is in flight.
    pub fn work(&mut self, shared: &mut Shared) {
        while self.is_idle() && matches!(self.stage, Stage::Established | Stage::Rekeyed | Stage::Closing) {
            let Some(job) = self.jobs.take(shared.now.instant) else {
                return;
            };
            if matches!(self.stage, Stage::Rekeyed | Stage::Closing) && job != Job::DeleteIke {
                continue;
            }
            if let Some((exchange, request)) = Exchange::begin(self, shared, job) {
                self.send(shared, exchange, request);
            }
        }
    }

    /// RFC 7296 §2.25: "When a peer receives a TEMPORARY_FAILURE notification, it MUST NOT immediately retry the operation";
    /// "If a peer continues to receive TEMPORARY_FAILURE on the same IKE SA after several minutes, it SHOULD conclude that
    /// the state information is out of sync and close the IKE SA."
    pub fn wait_for_peer(&mut self, now: Instant, job: Job) -> Next {
        let since = *self.busy_since.get_or_insert(now);
        if now.saturating_since(since) >= OUT_OF_SYNC {
            self.jobs.add(now, Job::DeleteIke);
            return Next::Done;
        }
        Next::Later(job, TEMPORARY_WAIT)
    }

    /// All that time brings: retransmissions, lifetimes, liveness, keepalives.
    pub fn handle_timeout(&mut self, shared: &mut Shared) {
        let now = shared.now.instant;
        self.requests.parts.expire(now);
        self.responses.parts.expire(now);
        match &self.stage {
            Stage::HalfOpen(half) if half.expires <= now => {
                self.close(shared, "the peer did not go on");
                self.stage = Stage::Closed { until: now };
                return;
            }
            Stage::Closed { .. } => return,
            _ => {}
        }
        let schedule = schedule(shared);
        match self.outgoing.due(now, &schedule, &mut shared.rng) {
            Due::Wait => {}
            Due::Retransmit(path, datagrams) => {
                shared.counters.retransmitted += 1;
                shared.transmit(path, &datagrams);
                self.last_sent = now;
            }
            Due::GiveUp => {
                let what = self.exchange.as_ref().map_or("request", Exchange::what);
                let reason = format!("the peer {} does not answer ({what})", self.path.remote);
                if let Some(exchange) = self.exchange.take() {
                    exchange.abandon(self, shared);
                }
                if matches!(self.stage, Stage::Initiating) {
                    let hint = "is the peer running, and do UDP 500 and 4500 get through to it?".to_owned();
                    self.tell_failure(shared, reason.clone(), vec![], vec![], Some(hint));
                }
                self.close(shared, &reason);
                return;
            }
        }
        if self.is_established() {
            self.children_timeout(shared);
            self.lifetime_timeout(now);
            if self.liveness_due().is_some_and(|at| at <= now) {
                self.jobs.add(now, Job::Liveness);
            }
            if self.keepalive_due(shared).is_some_and(|at| at <= now) {
                shared.keepalive(self.path);
                self.last_sent = now;
            }
        }
        self.work(shared);
    }

    /// When [`Self::handle_timeout`] is due, and why.
    pub fn next_timeout(&self, shared: &Shared) -> Option<(Instant, TimerKind)> {
        let mut timers = Vec::with_capacity(8);
        match &self.stage {
            Stage::Closed { until } => return Some((*until, TimerKind::ExpireIke)),
            Stage::HalfOpen(half) => timers.push((half.expires, TimerKind::HalfOpenExpiry)),
            Stage::Established => {
                timers.extend(self.children_next());
                timers.extend(self.rekey_at.map(|at| (at, TimerKind::RekeyIke)));
                timers.extend(self.expire_at.map(|at| (at, TimerKind::ExpireIke)));
                if self.is_idle() {
                    timers.extend(self.liveness_due().map(|at| (at, TimerKind::Liveness)));
                }
                timers.extend(self.keepalive_due(shared).map(|at| (at, TimerKind::NatKeepalive)));
            }
            Stage::Initiating | Stage::Rekeyed | Stage::Closing => {}
        }
        match self.outgoing.in_flight() {
            Some(request) => timers.push((request.due, TimerKind::Retransmit)),
            None if self.is_idle() => timers.extend(self.jobs.next().map(|at| (at, TimerKind::Retry))),
            None => {}
        }
        for collected in [&self.requests, &self.responses] {
            timers.extend(collected.parts.expires_at().map(|at| (at, TimerKind::ReassemblyExpiry)));
        }
        timers.into_iter().min()
    }

    /// RFC 7296 §2.4: after a silence, ask; traffic is proof of life.
    fn liveness_due(&self) -> Option<Instant> {
        let delay = self.connection.as_ref()?.dpd_delay?;
        Some(self.last_heard + delay)
    }

    /// RFC 3948 §4: the side behind the NAT keeps the mapping, when nothing else does.
    fn keepalive_due(&self, shared: &Shared) -> Option<Instant> {
        self.nat
            .local
            .then(|| self.last_sent + shared.config.gateway.nat_keepalive)
    }

    /// Both are who they say: the SA is up.
    pub fn establish(&mut self, shared: &mut Shared, peer: Identification, initial_contact: bool) {
        let now = shared.now.instant;
        self.stage = Stage::Established;
        self.begin_lifetime(shared);
        shared.established += 1;
        self.number = shared.established;
        self.last_heard = now;
        self.peer_id = Some(peer.clone());
        let (Some(connection), Some(suite)) = (self.name(), self.suite) else {
            return;
        };
        shared.event(Event::IkeUp(IkeUp {
            connection: Arc::clone(&connection),
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            initiator: self.initiator,
            peer: peer.clone(),
            suite,
            path: self.path,
            nat: self.nat,
            setup_time: now.saturating_since(self.began),
            rekeyed_from: None,
        }));
        shared.effects.push(Effect::Established {
            spi: self.own_spi(),
            connection,
            peer,
            initial_contact,
        });
    }

    /// Ends the SA with all its children. What the peer has to be told was told before.
    pub fn close(&mut self, shared: &mut Shared, reason: &str) {
        if matches!(self.stage, Stage::Closed { .. }) {
            return;
        }
        if let Some(exchange) = self.exchange.take() {
            exchange.abandon(self, shared);
        }
        if let Some(to) = self.contested.take() {
            let (children, jobs) = self.give_away(shared.now.instant);
            shared.effects.push(Effect::HandBack { to, children, jobs });
        }
        let rekeyed = matches!(self.stage, Stage::Rekeyed) && self.children.is_empty();
        let reason = if rekeyed { "it was rekeyed" } else { reason };
        for child in std::mem::take(&mut self.children) {
            child.remove(shared, reason);
        }
        if let Some(connection) = self.name().filter(|_| self.established.is_some()) {
            let (spi_i, spi_r) = (self.spi_i, self.spi_r);
            shared.event(Event::IkeDown {
                connection,
                spi_i,
                spi_r,
                reason: reason.to_owned(),
            });
        }
        shared.effects.push(Effect::Down {
            connection: self
                .name()
                .filter(|_| !rekeyed && (self.initiator || self.established.is_some())),
        });
        self.stage = Stage::Closed {
            until: shared.now.instant + CLOSED_LINGER,
        };
        self.outgoing = Outgoing::new(u32::MAX);
        self.jobs = Jobs::default();
        self.requests = Collected::default();
        self.responses = Collected::default();
    }

    /// An attempt failed: the verdict for the operator.
    pub fn tell_failure(
        &self,
        shared: &mut Shared,
        verdict: String,
        offered: Vec<String>,
        wanted: Vec<String>,
        hint: Option<String>,
    ) {
        shared.failed(Failure {
            connection: self.name(),
            path: self.path,
            verdict,
            offered,
            wanted,
            hint,
        });
    }

    /// The same, from an error.
    pub fn tell_error(&self, shared: &mut Shared, what: &str, error: &IkeError) {
        shared.failed(self.failure(what, error));
    }

    /// An error as the operator reads it.
    pub fn failure(&self, what: &str, error: &IkeError) -> Failure {
        let (offered, wanted, hint) = error.explain();
        Failure {
            connection: self.name(),
            path: self.path,
            verdict: format!("{what}: {error}"),
            offered,
            wanted,
            hint,
        }
    }

    /// A snapshot.
    pub fn status(&self) -> IkeSaStatus {
        let stage = match self.stage {
            Stage::Initiating => "initiating",
            Stage::HalfOpen(_) => "half-open",
            Stage::Established => "established",
            Stage::Rekeyed => "rekeyed",
            Stage::Closing | Stage::Closed { .. } => "closing",
        };
        let in_flight = self
            .outgoing
            .in_flight()
            .zip(self.exchange.as_ref())
            .map(|(request, exchange)| {
                format!(
                    "{} request {}, sent {} times",
                    exchange.exchange_type(),
                    request.message_id,
                    request.sent
                )
            });
        let children: Vec<ChildUp> = self
            .children
            .iter()
            .filter(|child| child.is_current())
            .map(Child::describe)
            .collect();
        IkeSaStatus {
            connection: self.name(),
            stage,
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            initiator: self.initiator,
            path: self.path,
            nat: self.nat,
            suite: self.suite,
            peer: self.peer_id.clone(),
            since: self.established,
            rekey_at: self.rekey_at,
            children,
            in_flight,
        }
    }

    /// RFC 7296 §2.23: the peer is where its authentic, newer messages come from, unless it is we who stand behind the NAT.
    pub fn follow_peer(&mut self, shared: &mut Shared, remote: std::net::SocketAddr) {
        if self.path.remote == remote || self.nat.local || !self.nat.remote {
            return;
        }
        self.path.remote = remote;
        let path = self.path;
        for child in &self.children {
            shared.sad(SadUpdate::Move { id: child.id(), path });
        }
    }

    fn heard(&mut self, shared: &mut Shared, path: Path) {
        self.last_heard = shared.now.instant;
        self.jobs.drop_if(|job| *job == Job::Liveness);
        self.follow_peer(shared, path.remote);
    }

    /// A responder derives its keys when the second message comes, not for everybody who sends a first.
    fn derive_late(&mut self, shared: &mut Shared) {
        let (Stage::HalfOpen(half), None, Some(suite)) = (&self.stage, &self.keys, self.suite) else {
            return;
        };
        let binding = super::keys::Binding {
            ni: &self.init.nonce_i,
            nr: &self.init.nonce_r,
            spi_i: self.spi_i,
            spi_r: self.spi_r,
        };
        let keys = IkeKeys::derive(shared.provider, suite, &half.shared, &binding);
        self.set_keys(shared, keys);
    }

    /// Takes keys over and makes the message protection of them; false if an algorithm is missing.
    pub fn set_keys(&mut self, shared: &mut Shared, keys: Option<IkeKeys>) -> bool {
        let provider = shared.provider;
        self.protection = keys
            .as_ref()
            .and_then(|keys| MessageProtection::new(provider, keys, self.initiator, &mut shared.rng));
        self.keys = keys;
        self.protection.is_some()
    }

    /// Verifies and decrypts; collects fragments. `None` until there is a whole, authentic message.
    fn open(
        &mut self,
        shared: &mut Shared,
        datagram: &[u8],
        outer: &Outer<'_>,
        response: bool,
    ) -> Option<(OpenedBody, [u8; 32])> {
        let protection = self.protection.as_ref()?;
        let body = match protection.open(outer) {
            Ok(body) => body,
            Err(OpenError::Unprotected) => {
                shared.counters.unexpected += 1;
                return None;
            }
            Err(OpenError::Malformed) => {
                shared.counters.malformed += 1;
                return None;
            }
            Err(OpenError::Integrity) => {
                shared.counters.integrity_failed += 1;
                return None;
            }
        };
        let digest = Incoming::digest(datagram);
        let OuterBody::Skf { fragment, total, .. } = outer.body else {
            return Some((body, digest));
        };
        // RFC 7383 §2.3: only if both have announced it.
        if !self.peer_fragments {
            shared.counters.fragments_dropped += 1;
            return None;
        }
        let collected = if response {
            &mut self.responses
        } else {
            &mut self.requests
        };
        let outcome = collected
            .parts
            .add(shared.now.instant, outer.header.message_id, fragment, total, body);
        if fragment == 1 && outcome != FragmentOutcome::Dropped {
            collected.first = Some(digest);
        }
        match outcome {
            FragmentOutcome::Complete(body) => Some((body, collected.first.take().unwrap_or(digest))),
            FragmentOutcome::Pending => None,
            FragmentOutcome::Dropped => {
                shared.counters.fragments_dropped += 1;
                None
            }
        }
    }

    fn seal(&mut self, shared: &mut Shared, header: &Header, payloads: &[Payload]) -> Vec<Vec<u8>> {
        let (first, chain) = encode_payloads(payloads);
        // RFC 7383 §2.5.1: IP header, UDP header and non-ESP marker come on top.
        let around = if self.path.is_ipv6() { 40 } else { 20 } + 8 + 4;
        let fragment = self
            .connection
            .as_ref()
            .filter(|c| self.peer_fragments && c.fragmentation);
        let most = fragment.map(|connection| connection.fragment_size.saturating_sub(around));
        match &mut self.protection {
            Some(protection) => protection.seal(header, first, &chain, most, &mut shared.rng),
            None => Vec::new(),
        }
    }

    /// Answers a request of the peer, by stage.
    fn respond(&mut self, shared: &mut Shared, path: Path, request: WireRequest) -> Option<Reply> {
        match (&self.stage, request) {
            (Stage::HalfOpen(_), WireRequest::IkeAuth(request)) => Some(self.respond_auth(shared, path, *request)),
            (Stage::Established | Stage::Rekeyed | Stage::Closing, WireRequest::CreateChildSa(request)) => {
                self.respond_create_child(shared, *request)
            }
            (Stage::Established | Stage::Rekeyed | Stage::Closing, WireRequest::Informational(request)) => {
                Some(self.respond_informational(shared, &request))
            }
            _ => None,
        }
    }
}

fn fragment_number(outer: &Outer<'_>) -> Option<u16> {
    match outer.body {
        OuterBody::Skf { fragment, .. } => Some(fragment),
        _ => None,
    }
}

fn schedule(shared: &Shared) -> Schedule {
    let gateway = &shared.config.gateway;
    Schedule {
        timeout: gateway.retransmit_timeout,
        base_percent: gateway.retransmit_base_percent,
        tries: gateway.retransmit_tries,
    }
}
