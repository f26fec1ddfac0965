//! All IKE SAs of a gateway: where a datagram belongs, what the operator wants, when who is to be woken, and how much
//! strangers may cost.

use super::child::Child;
use super::cookie::CookieJar;
use super::error::IkeError;
use super::event::{Command, CommandError, Counters, Event, Failure, IkeSaStatus, TimerKind, Transmit};
use super::exchange::{Exchange, InitExchange, capabilities};
use super::jobs::{Job, Jobs};
use super::nat;
use super::sa::{HalfOpen, IkeSa, InitMessages, Stage};
use super::shared::{Effect, Shared};
use super::window::Incoming;
use crate::crypto::{Group, IKE_PROVIDER};
use crate::policy::connection::{Config, Connection, StartAction, Target};
use crate::policy::pad;
use crate::policy::proposal::IkeProposal;
use crate::policy::sad::{ChildName, ConnectionName, Path, SadReport, SadUpdate};
use crate::time::{Instant, Now};
use crate::wire::message::{IkeSaInitReply, IkeSaInitRequest, IkeSaInitResponse, Request, Response};
use crate::wire::{
    self, ExchangeType, Flags, Header, Identification, IkeSpi, KeyExchange, Notify, NotifyType, OuterBody, Payload,
    encode_plain,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Unprotected answers to strangers, at most so many a second (checklist L6; RFC 7296 §1.5).
const STRANGER_ANSWERS: u32 = 50;

/// Flags of a first message.
const BEGINNING: Flags = Flags {
    initiator: true,
    response: false,
};

/// The IKE endpoint. See the module's contract.
pub struct Endpoint {
    shared: Shared,
    /// By the SPI we chose.
    sas: BTreeMap<IkeSpi, IkeSa>,
    /// When each wants to be woken.
    timers: BTreeSet<(Instant, IkeSpi)>,
    due: BTreeMap<IkeSpi, (Instant, TimerKind)>,
    /// IKE_SA_INIT requests answered, by digest: a repeated one gets the same answer (checklist C5).
    init_seen: BTreeMap<[u8; 32], IkeSpi>,
    half_open: BTreeMap<IpAddr, usize>,
    cookies: CookieJar,
    standing: BTreeMap<ConnectionName, Standing>,
    stranger_answers: (Instant, u32),
    shutting_down: bool,
}

/// What the operator wants of a connection, and how often it failed.
#[derive(Default)]
struct Standing {
    wanted: bool,
    failures: u32,
}

impl Endpoint {
    /// An endpoint with its configuration. All randomness (SPIs, nonces, keys, jitter) comes from `seed`.
    #[must_use]
    pub fn new(now: Now, seed: [u8; 32], config: Arc<Config>) -> Self {
        let mut shared = Shared::new(now, &IKE_PROVIDER, ChaCha20Rng::from_seed(seed), config);
        let cookies = CookieJar::new(now.instant, &mut shared.rng);
        Self {
            shared,
            sas: BTreeMap::new(),
            timers: BTreeSet::new(),
            due: BTreeMap::new(),
            init_seen: BTreeMap::new(),
            half_open: BTreeMap::new(),
            cookies,
            standing: BTreeMap::new(),
            stranger_answers: (now.instant, 0),
            shutting_down: false,
        }
    }

    /// A datagram came in on `path` (non-ESP marker already cut). Never fails: counts and drops.
    pub fn handle_datagram(&mut self, now: Now, path: Path, datagram: &[u8]) {
        self.shared.now = now;
        self.shared.counters.received += 1;
        let outer = match wire::decode_outer(datagram) {
            Ok(outer) => outer,
            Err(error) => {
                self.shared.counters.malformed += 1;
                if matches!(error, wire::DecodeError::MajorVersion(_)) {
                    self.answer_other_version(path, datagram);
                }
                return;
            }
        };
        let header = outer.header;
        if header.exchange == ExchangeType::IKE_SA_INIT {
            let OuterBody::Plain { first, payloads } = outer.body else {
                self.shared.counters.malformed += 1;
                return;
            };
            match wire::decode_payloads(first, payloads) {
                Ok(payloads) if header.flags.response => self.handle_init_response(path, datagram, &header, payloads),
                Ok(payloads) => self.handle_init_request(path, datagram, &header, payloads),
                Err(error) => {
                    self.shared.counters.malformed += 1;
                    let first = header.message_id == 0 && header.spi_i != IkeSpi::ZERO && header.spi_r == IkeSpi::ZERO;
                    // §2.5: "the response to the IKE request containing that payload MUST include a Notify payload
                    // UNSUPPORTED_CRITICAL_PAYLOAD". What else is malformed is not answered: nobody is proven to be there.
                    if matches!(error, wire::DecodeError::UnsupportedCritical(_)) && first && header.flags == BEGINNING
                    {
                        self.refuse_init(path, &header, IkeError::Malformed(error).notify());
                    }
                }
            }
            return;
        }
        // The sender set I if it is the original initiator: then the SPI we chose is the responder's.
        let own = if header.flags.initiator {
            header.spi_r
        } else {
            header.spi_i
        };
        if self.sas.contains_key(&own) {
            self.with_sa(own, |sa, shared| sa.handle_message(shared, path, datagram, &outer));
        } else {
            self.shared.counters.unknown_spi += 1;
            self.answer_unknown_spi(path, &header);
        }
    }

    /// RFC 7296 §2.5: "If an endpoint receives a message with a higher major version number, it MUST drop the message and
    /// SHOULD send an unauthenticated Notify message of type INVALID_MAJOR_VERSION". Not to a response (§2.21.4).
    fn answer_other_version(&mut self, path: Path, datagram: &[u8]) {
        let Some((head, _)) = datagram.split_first_chunk::<{ Header::LEN }>() else {
            return;
        };
        let [spi_i @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = *head;
        let [_, _, _, _, _, _, _, _, spi_r @ .., _, _, _, _, _, _, _, _, _, _, _, _] = *head;
        let flags = head[19];
        if flags & 0x20 != 0 || self.shutting_down || !self.may_answer_strangers() {
            return;
        }
        let answer = Header {
            spi_i: IkeSpi(spi_i),
            spi_r: IkeSpi(spi_r),
            exchange: ExchangeType(head[18]),
            flags: Flags {
                initiator: flags & 0x08 == 0,
                response: true,
            },
            message_id: u32::from_be_bytes([head[20], head[21], head[22], head[23]]),
        };
        let notify = Notify::new(NotifyType::INVALID_MAJOR_VERSION, Vec::new());
        let datagram = encode_plain(&answer, &[Payload::Notify(notify)]);
        self.shared.transmit(path, &[datagram]);
    }

    /// RFC 7296 §1.5: "MAY" tell a stranger that its SPI is not ours; it is a hint, never answered, and rate limited.
    fn answer_unknown_spi(&mut self, path: Path, header: &Header) {
        if header.flags.response || self.shutting_down || !self.may_answer_strangers() {
            return;
        }
        let flags = Flags {
            initiator: !header.flags.initiator,
            response: true,
        };
        let answer = Header { flags, ..*header };
        let notify = Notify::new(NotifyType::INVALID_IKE_SPI, Vec::new());
        let datagram = encode_plain(&answer, &[Payload::Notify(notify)]);
        self.shared.transmit(path, &[datagram]);
    }

    fn may_answer_strangers(&mut self) -> bool {
        let now = self.shared.now.instant;
        if now.saturating_since(self.stranger_answers.0) >= Duration::from_secs(1) {
            self.stranger_answers = (now, 0);
        }
        self.stranger_answers.1 += 1;
        self.stranger_answers.1 <= STRANGER_ANSWERS
    }

    fn handle_init_response(&mut self, path: Path, datagram: &[u8], header: &Header, payloads: Vec<Payload>) {
        let fits = self
            .sas
            .get(&header.spi_i)
            .is_some_and(|sa| sa.initiator && !header.flags.initiator);
        if fits && header.message_id == 0 {
            let alone = self.is_alone(header.spi_i);
            self.with_sa(header.spi_i, |sa, shared| {
                sa.initial_contact = alone;
                sa.handle_init_response(shared, path, datagram, header, payloads)
            });
        } else {
            self.shared.counters.unknown_spi += 1;
        }
    }

    /// Whether no other IKE SA is up with the peer of this one, by whatever connection: only then INITIAL_CONTACT is true
    /// (RFC 7296 §2.4: "the only IKE SA currently active between the authenticated identities").
    fn is_alone(&self, spi: IkeSpi) -> bool {
        let Some(connection) = self.sas.get(&spi).and_then(|sa| sa.connection.clone()) else {
            return false;
        };
        let wanted = connection.remote.id.as_ref();
        !self.sas.values().any(|other| {
            let same_peer = || {
                wanted
                    .zip(other.peer_id.as_ref())
                    .is_some_and(|(id, peer)| id.same(peer))
            };
            other.own_spi() != spi
                && other.is_established()
                && (other.name().as_ref() == Some(&connection.name) || same_peer())
        })
    }

    /// A stranger wants to begin (RFC 7296 §1.2). Nothing is kept until cookies, limits and proposals have been passed.
    fn handle_init_request(&mut self, path: Path, datagram: &[u8], header: &Header, payloads: Vec<Payload>) {
        let digest = Incoming::digest(datagram);
        if let Some(sa) = self.init_seen.get(&digest).and_then(|spi| self.sas.get(spi)) {
            // §2.1: recognised by the whole message, not by SPI alone; answered as before.
            self.shared.counters.retransmitted += 1;
            if matches!(sa.stage, Stage::HalfOpen(_)) {
                let response = sa.init.response.clone();
                self.shared.transmit(path, &[response]);
            }
            return;
        }
        // Our own request come back (checklist L7): its SPI is one that we chose.
        let reflected = self.sas.contains_key(&header.spi_i);
        let proper =
            !reflected && header.spi_i != IkeSpi::ZERO && header.spi_r == IkeSpi::ZERO && header.message_id == 0;
        if !proper || !header.flags.initiator || self.shutting_down {
            self.shared.counters.unexpected += 1;
            return;
        }
        self.shared.log_message(None, true, path, header, &payloads);
        let request = match wire::decode_request(ExchangeType::IKE_SA_INIT, payloads) {
            Ok(Request::IkeSaInit(request)) => *request,
            _ => {
                self.shared.counters.malformed += 1;
                return;
            }
        };
        let candidates = pad::candidates(&self.shared.config, &path);
        if candidates.is_empty() {
            self.shared.counters.no_matching_connection += 1;
            let verdict = format!(
                "no connection is configured for {} at {}",
                path.remote.ip(),
                path.local.ip()
            );
            let hint = Some("add a connection whose remote_addrs and local_addrs fit, or stop the peer".to_owned());
            self.shared
                .failed_by_stranger(stranger(path, verdict, vec![], vec![], hint));
            return self.refuse_init(path, header, Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new()));
        }
        if !self.admit(path, header, &request) {
            return;
        }
        match self.begin_responding(path, header, &request, &candidates) {
            Ok(mut sa) => {
                sa.init.request = datagram.to_vec();
                let spi = sa.spi_r;
                self.init_seen.insert(digest, spi);
                *self.half_open.entry(path.remote.ip()).or_default() += 1;
                let response = sa.init.response.clone();
                self.sas.insert(spi, sa);
                self.shared.transmit(path, &[response]);
                self.reindex(spi);
            }
            Err(IkeError::KeyExchange(_)) => self.shared.counters.malformed += 1,
            Err(error) => {
                if !matches!(error, IkeError::InvalidKe(_)) {
                    let (offered, wanted, hint) = error.explain();
                    self.shared
                        .failed_by_stranger(stranger(path, error.to_string(), offered, wanted, hint));
                }
                self.refuse_init(path, header, error.notify());
            }
        }
    }

    /// Limits, and cookies under load (§2.6).
    fn admit(&mut self, path: Path, header: &Header, request: &IkeSaInitRequest) -> bool {
        let gateway = &self.shared.config.gateway;
        let total: usize = self.half_open.values().sum();
        let from_there = self.half_open.get(&path.remote.ip()).copied().unwrap_or(0);
        if total >= gateway.half_open_limit || from_there >= gateway.half_open_limit_per_address {
            self.shared.counters.over_limit += 1;
            return false;
        }
        let nonce = &request.nonce.0;
        let proven = request
            .cookie
            .as_ref()
            .is_some_and(|c| self.cookies.check(path.remote, header.spi_i, nonce, c));
        if total < gateway.cookie_threshold || proven {
            return true;
        }
        // §2.6: a wrong cookie is treated as none: a new one is sent, and no state is kept.
        let Shared { now, rng, .. } = &mut self.shared;
        let cookie = self.cookies.make(now.instant, path.remote, header.spi_i, nonce, rng);
        self.shared.counters.cookies_sent += 1;
        self.reply_init(path, header, IkeSpi::ZERO, IkeSaInitReply::Cookie(cookie));
        false
    }

    fn begin_responding(
        &mut self,
        path: Path,
        header: &Header,
        request: &IkeSaInitRequest,
        candidates: &[Arc<Connection>],
    ) -> Result<IkeSa, IkeError> {
        let shared = &mut self.shared;
        let ours: Vec<IkeProposal> = candidates
            .iter()
            .flat_map(|c| c.ike_proposals.iter().cloned())
            .collect();
        let chosen = IkeProposal::choose(&ours, &request.sa, 0, Group::from_method(request.ke.method))?;
        let group = chosen.suite.group;
        if request.ke.method != group.method() {
            return Err(IkeError::InvalidKe(group));
        }
        let method = (shared.provider.key_exchange)(group).ok_or(IkeError::Internal("the group is not available"))?;
        let (public, secret) = method.respond(&request.ke.data, &mut shared.rng)?;
        let spi_r = shared.ike_spi();
        let nonce = shared.nonce();
        let expires = shared.now.instant + shared.config.gateway.half_open_timeout;
        let half = HalfOpen {
            candidates: candidates.to_vec(),
            shared: secret,
            expires,
        };
        let stage = Stage::HalfOpen(Box::new(half));
        let mut sa = IkeSa::new(shared, header.spi_i, spi_r, false, stage, path);
        sa.suite = Some(chosen.suite);
        sa.incoming = Incoming::new(1);
        sa.peer_fragments = request.capabilities.fragmentation;
        sa.peer_hashes.clone_from(&request.capabilities.signature_hashes);
        let (source, destination) = (&request.nat_source, &request.nat_destination);
        sa.nat = nat::detect(header.spi_i, IkeSpi::ZERO, path.remote, path.local, source, destination);
        let pretend = candidates.iter().any(|connection| connection.force_udp_encapsulation);
        let own = if pretend {
            nat::pretended(header.spi_i, spi_r)
        } else {
            nat::digest(header.spi_i, spi_r, path.local)
        };
        let nat_source = if sa.nat.detection { vec![own] } else { vec![] };
        let there = nat::digest(header.spi_i, spi_r, path.remote);
        let nat_destination = if sa.nat.detection { vec![there] } else { vec![] };
        let mut capabilities = capabilities(&candidates[0]);
        // The connection is known by identity only later: what any of the candidates may need is announced.
        capabilities.signature_hashes = candidates
            .iter()
            .find_map(|c| super::exchange::capabilities(c).signature_hashes);
        let response = IkeSaInitReply::Accepted(Box::new(IkeSaInitResponse {
            sa: wire::SecurityAssociation {
                proposals: vec![chosen.answer],
            },
            ke: KeyExchange {
                method: group.method(),
                data: public,
            },
            nonce: nonce.clone(),
            nat_source,
            nat_destination,
            certreqs: vec![],
            capabilities,
            vendor_ids: vec![],
            other: vec![],
        }));
        let flags = Flags {
            initiator: false,
            response: true,
        };
        let answer = Header {
            spi_r,
            flags,
            ..*header
        };
        let payloads = wire::encode_response(&Response::IkeSaInit(response));
        shared.log_message(None, false, path, &answer, &payloads);
        sa.init = InitMessages {
            request: Vec::new(),
            response: encode_plain(&answer, &payloads),
            nonce_i: request.nonce.0.clone(),
            nonce_r: nonce.0,
        };
        Ok(sa)
    }

    /// At most one small, stateless answer (checklist D13).
    fn refuse_init(&mut self, path: Path, header: &Header, notify: Notify) {
        if self.may_answer_strangers() {
            self.reply_init(path, header, IkeSpi::ZERO, IkeSaInitReply::Refused(notify));
        }
    }

    fn reply_init(&mut self, path: Path, header: &Header, spi_r: IkeSpi, reply: IkeSaInitReply) {
        let flags = Flags {
            initiator: false,
            response: true,
        };
        let answer = Header {
            spi_r,
            flags,
            ..*header
        };
        let payloads = wire::encode_response(&Response::IkeSaInit(reply));
        self.shared.log_message(None, false, path, &answer, &payloads);
        self.shared.transmit(path, &[encode_plain(&answer, &payloads)]);
    }

    /// The time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Now) {
        self.shared.now = now;
        while let Some((at, spi)) = self.timers.first().copied().filter(|(at, _)| *at <= now.instant) {
            self.timers.remove(&(at, spi));
            self.due.remove(&spi);
            let over = matches!(self.sas.get(&spi), Some(IkeSa { stage: Stage::Closed { until }, .. }) if *until <= now.instant);
            if over {
                self.forget(spi);
            } else {
                self.with_sa(spi, |sa, shared| sa.handle_timeout(shared));
            }
        }
    }

    /// From the data path.
    pub fn handle_report(&mut self, now: Now, report: SadReport) {
        self.shared.now = now;
        let id = match report {
            SadReport::SoftLimit(id)
            | SadReport::HardLimit(id)
            | SadReport::FirstInbound(id)
            | SadReport::Alive(id)
            | SadReport::Sent(id)
            | SadReport::PeerMoved { id, .. } => id,
            SadReport::Acquire { source, destination } => return self.acquire(source, destination),
            SadReport::UnknownSpi { .. } => {
                self.shared.counters.unknown_spi += 1;
                return;
            }
        };
        let Some(spi) = self.sas.values().find(|sa| sa.child(id).is_some()).map(IkeSa::own_spi) else {
            return;
        };
        self.with_sa(spi, |sa, shared| {
            let now = shared.now.instant;
            match report {
                SadReport::SoftLimit(id) => sa.jobs.add(now, Job::RekeyChild(id)),
                SadReport::HardLimit(id) => sa.jobs.add(now, Job::DeleteChild(id)),
                // RFC 7296 §2.8: the peer uses the new pair, so it can receive on it.
                SadReport::FirstInbound(id) => {
                    sa.last_heard = now;
                    sa.move_over_to(shared, id);
                }
                // §2.4: "receipt of a fresh cryptographically protected message on ... any of its Child SAs ensures liveness".
                SadReport::Alive(_) => sa.last_heard = now,
                SadReport::Sent(_) => sa.last_sent = now,
                SadReport::PeerMoved { remote, .. } => sa.follow_peer(shared, remote),
                SadReport::Acquire { .. } | SadReport::UnknownSpi { .. } => {}
            }
            sa.work(shared);
        });
    }

    /// A packet wants to go where no SA is yet: its connection is brought up.
    fn acquire(&mut self, source: IpAddr, destination: IpAddr) {
        // By addresses alone: what protocol it was is not told, and its child's selectors decide when it is up.
        let covers = |list: &[wire::TrafficSelector], address: IpAddr| {
            list.iter().any(|selector| match selector {
                wire::TrafficSelector::Range { start, end, .. } => (start..=end).contains(&&address),
                wire::TrafficSelector::Unknown { .. } => false,
            })
        };
        let wanted = self.shared.config.connections.values().find(|connection| {
            connection.children.values().any(|child| {
                child.start_action == StartAction::Trap
                    && covers(&child.local_ts, source)
                    && covers(&child.remote_ts, destination)
            })
        });
        let Some(name) = wanted.map(|connection| Arc::clone(&connection.name)) else {
            return;
        };
        let busy = self
            .sas
            .values()
            .any(|sa| sa.name().as_ref() == Some(&name) && sa.counts());
        if !busy && !self.shutting_down {
            self.shared.event(Event::NeedTarget {
                connection: name,
                at: self.shared.now.instant,
            });
        }
    }

    /// From the operator.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn handle_command(&mut self, now: Now, command: Command) -> Result<(), CommandError> {
        self.shared.now = now;
        match command {
            Command::Up {
                connection,
                child,
                target,
            } => self.up(&connection, child, target),
            Command::Down { connection, child } => self.down(&connection, child.as_ref()),
            Command::RekeyChild { connection, child } => self.rekey(&connection, child.as_ref()),
            Command::Shutdown => {
                self.shutting_down = true;
                self.standing.clear();
                let up = |sa: &&IkeSa| matches!(sa.stage, Stage::Established | Stage::Rekeyed);
                let up: Vec<IkeSpi> = self.sas.values().filter(up).map(IkeSa::own_spi).collect();
                for spi in up {
                    self.delete_ike(spi);
                }
                let begun = |sa: &&IkeSa| matches!(sa.stage, Stage::Initiating | Stage::HalfOpen(_));
                let begun: Vec<IkeSpi> = self.sas.values().filter(begun).map(IkeSa::own_spi).collect();
                for spi in begun {
                    self.with_sa(spi, |sa, shared| sa.close(shared, "the gateway stops"));
                }
                self.check_shutdown();
                Ok(())
            }
        }
    }

    fn known(&self, connection: &ConnectionName, child: Option<&ChildName>) -> Result<Arc<Connection>, CommandError> {
        if self.shutting_down {
            return Err(CommandError::ShuttingDown);
        }
        let found = self.shared.config.connections.get(connection);
        let found = found.ok_or_else(|| CommandError::UnknownConnection(Arc::clone(connection)))?;
        match child {
            Some(child) if !found.children.contains_key(child) => {
                Err(CommandError::UnknownChild(Arc::clone(connection), Arc::clone(child)))
            }
            _ => Ok(Arc::clone(found)),
        }
    }

    fn up(&mut self, name: &ConnectionName, child: Option<ChildName>, target: Target) -> Result<(), CommandError> {
        let connection = self.known(name, child.as_ref())?;
        self.standing.entry(Arc::clone(name)).or_default().wanted = true;
        let now = self.shared.now.instant;
        if let Some(spi) = self.established(Some(name)).first().copied() {
            let starts = |c: &&Arc<crate::policy::connection::Child>| c.start_action == StartAction::Start;
            let children: Vec<ChildName> = match child {
                Some(child) => vec![child],
                None => connection
                    .children
                    .values()
                    .filter(starts)
                    .map(|c| Arc::clone(&c.name))
                    .collect(),
            };
            self.with_sa(spi, |sa, shared| {
                children
                    .into_iter()
                    .for_each(|child| sa.jobs.add(now, Job::CreateChild(child)));
                sa.work(shared);
            });
            return Ok(());
        }
        let trying = self
            .sas
            .values()
            .any(|sa| sa.name().as_ref() == Some(name) && matches!(sa.stage, Stage::Initiating));
        if trying {
            return Ok(());
        }
        let spi = self.shared.ike_spi();
        let path = Path {
            local: target.local,
            remote: target.remote,
        };
        let mut sa = IkeSa::new(&self.shared, spi, IkeSpi::ZERO, true, Stage::Initiating, path);
        sa.connection = Some(Arc::clone(&connection));
        sa.wanted = child;
        self.sas.insert(spi, sa);
        self.with_sa(spi, |sa, shared| match InitExchange::begin(sa, shared, &connection) {
            Some((exchange, request)) => sa.send(shared, exchange, request),
            None => sa.close(shared, "the configured key exchange is not available"),
        });
        Ok(())
    }

    fn down(&mut self, name: &ConnectionName, child: Option<&ChildName>) -> Result<(), CommandError> {
        self.known(name, child)?;
        let now = self.shared.now.instant;
        let Some(child) = child else {
            self.standing.remove(name);
            let all: Vec<IkeSpi> = self.of_connection(name);
            for spi in all {
                if matches!(self.sas[&spi].stage, Stage::Established | Stage::Rekeyed) {
                    self.delete_ike(spi);
                } else if !matches!(self.sas[&spi].stage, Stage::Closing) {
                    self.with_sa(spi, |sa, shared| sa.close(shared, "taken down"));
                }
            }
            return Ok(());
        };
        for spi in self.established(Some(name)) {
            self.with_sa(spi, |sa, shared| {
                let mut ids = Vec::new();
                for pair in sa
                    .children
                    .iter_mut()
                    .filter(|c| c.is_current() && c.config.name == *child)
                {
                    pair.taken_down = true;
                    ids.push(pair.id());
                }
                sa.jobs
                    .drop_if(|job| matches!(job, Job::CreateChild(queued) if queued == child));
                ids.into_iter().for_each(|id| sa.jobs.add(now, Job::DeleteChild(id)));
                sa.work(shared);
            });
        }
        Ok(())
    }

    fn rekey(&mut self, name: &ConnectionName, child: Option<&ChildName>) -> Result<(), CommandError> {
        self.known(name, child)?;
        let now = self.shared.now.instant;
        let established = self.established(Some(name));
        if established.is_empty() {
            return Err(CommandError::NotEstablished(Arc::clone(name)));
        }
        for spi in established {
            self.with_sa(spi, |sa, shared| {
                let fits =
                    |c: &&super::child::Child| c.is_current() && child.is_none_or(|wanted| c.config.name == *wanted);
                let ids: Vec<_> = sa.children.iter().filter(fits).map(|c| c.id()).collect();
                ids.into_iter().for_each(|id| sa.jobs.add(now, Job::RekeyChild(id)));
                sa.work(shared);
            });
        }
        Ok(())
    }

    fn established(&self, name: Option<&ConnectionName>) -> Vec<IkeSpi> {
        let fits = |sa: &&IkeSa| sa.is_established() && name.is_none_or(|name| sa.name().as_ref() == Some(name));
        self.sas.values().filter(fits).map(IkeSa::own_spi).collect()
    }

    fn of_connection(&self, name: &ConnectionName) -> Vec<IkeSpi> {
        let alive = self.sas.values().filter(|sa| !matches!(sa.stage, Stage::Closed { .. }));
        alive
            .filter(|sa| sa.name().as_ref() == Some(name))
            .map(IkeSa::own_spi)
            .collect()
    }

    fn delete_ike(&mut self, spi: IkeSpi) {
        self.with_sa(spi, |sa, shared| {
            // One may be queued for later: after a rekey.
            sa.jobs.drop_if(|job| *job == Job::DeleteIke);
            sa.jobs.add(shared.now.instant, Job::DeleteIke);
            sa.work(shared);
        });
    }

    /// A new configuration: a diff by name. Unchanged connections keep their SAs; changed and removed ones are deleted.
    pub fn reconfigure(&mut self, now: Now, config: Arc<Config>) {
        self.shared.now = now;
        let old = std::mem::replace(&mut self.shared.config, config);
        let changed = |name: &ConnectionName, connection: &Connection| {
            self.shared
                .config
                .connections
                .get(name)
                .is_none_or(|new| !new.same_as(connection))
        };
        let gone: Vec<ConnectionName> = old
            .connections
            .iter()
            .filter(|(name, c)| changed(name, c))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for name in gone {
            self.standing.remove(&name);
            for spi in self.of_connection(&name) {
                if matches!(self.sas[&spi].stage, Stage::Established | Stage::Rekeyed) {
                    self.delete_ike(spi);
                } else {
                    self.with_sa(spi, |sa, shared| sa.close(shared, "the configuration changed"));
                }
            }
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.shared.events.pop_front()
    }

    /// The next datagram; it is written to `out` (cleared first).
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> Option<Transmit> {
        let (transmit, datagram) = self.shared.transmits.pop_front()?;
        out.clear();
        out.extend_from_slice(&datagram);
        Some(transmit)
    }

    /// When to call [`Self::handle_timeout`] next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, TimerKind)> {
        let (_, spi) = self.timers.first()?;
        self.due.get(spi).copied()
    }

    /// All IKE SAs with their children.
    #[must_use]
    pub fn status(&self) -> Vec<IkeSaStatus> {
        self.sas.values().map(IkeSa::status).collect()
    }

    /// What was dropped, by cause.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.shared.counters
    }

    /// Inbound ESP SPIs that are reserved or in use: as many as Child SA pairs, when nothing is being negotiated.
    #[must_use]
    pub fn spis_in_use(&self) -> usize {
        self.shared.spis.in_use()
    }

    /// Lets one SA work, then looks after what that means: its timer, its limits, the others.
    fn with_sa(&mut self, spi: IkeSpi, work: impl FnOnce(&mut IkeSa, &mut Shared)) {
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        let (was_half_open, remote) = (matches!(sa.stage, Stage::HalfOpen(_)), sa.path.remote.ip());
        work(sa, &mut self.shared);
        if was_half_open && !matches!(sa.stage, Stage::HalfOpen(_)) {
            self.half_open_less(remote);
        }
        self.reindex(spi);
        for effect in std::mem::take(&mut self.shared.effects) {
            match effect {
                Effect::Established {
                    spi,
                    connection,
                    peer,
                    initial_contact,
                } => {
                    self.standing.entry(Arc::clone(&connection)).or_default().failures = 0;
                    if initial_contact {
                        self.initial_contact(spi, &connection, &peer);
                    }
                }
                Effect::Down { connection } => self.went_down(connection),
                Effect::ChildGone { connection, child } => self.fall_back(&connection, &child),
                Effect::Successor(new) => {
                    let spi = new.own_spi();
                    self.sas.insert(spi, *new);
                    self.with_sa(spi, IkeSa::work);
                }
                Effect::Settled { from, to } => self.settle(from, to),
                Effect::HandBack { to, children, jobs } => self.hand_back(to, children, jobs),
            }
        }
    }

    /// Sends by the newest pair that is left of a child, in whatever IKE SA it is.
    fn fall_back(&mut self, connection: &ConnectionName, child: &ChildName) {
        let left = self
            .sas
            .values()
            .filter(|sa| sa.is_established() && sa.name().as_ref() == Some(connection))
            .flat_map(|sa| &sa.children)
            .filter(|pair| pair.is_current() && pair.replaces.is_none() && pair.config.name == *child);
        if let Some(id) = left.map(Child::id).max() {
            self.shared.sad(SadUpdate::ActivateOutbound { id, replaces: None });
        }
    }

    /// Both sides rekeyed the same IKE SA, and it is decided which of the new ones stays (RFC 7296 §2.8.2).
    fn settle(&mut self, from: IkeSpi, to: Option<IkeSpi>) {
        let overdue = IkeSa::delete_overdue(self.shared.now.instant);
        let Some(theirs) = self.sas.get_mut(&from) else { return };
        if theirs.contested.take().is_none() {
            return;
        }
        let given = to.map(|to| (to, theirs.give_away(overdue)));
        self.with_sa(from, IkeSa::work);
        if let Some((to, (children, jobs))) = given {
            self.with_sa(to, |sa, shared| {
                sa.inherit(children, jobs);
                sa.work(shared);
            });
        }
    }

    /// The peer deleted the new SA that it had made while our own rekey is still under way: ours will inherit.
    fn hand_back(&mut self, to: IkeSpi, children: Vec<Child>, jobs: Jobs) {
        match self.sas.get_mut(&to) {
            Some(old) if old.counts() || matches!(old.stage, Stage::Rekeyed) => {
                if let Some(Exchange::RekeyIke(ours)) = &mut old.exchange {
                    ours.crossing = None;
                }
                old.inherit(children, jobs);
            }
            _ => children
                .into_iter()
                .for_each(|child| child.remove(&mut self.shared, "the peer deleted its IKE SA")),
        }
        self.reindex(to);
    }

    /// RFC 7296 §2.4: the peer has no other IKE SA with us: what we still have under its proven identity is gone. But what
    /// came up after the peer began this SA, the peer may not have known of when it said so: both ends began at once.
    fn initial_contact(&mut self, newest: IkeSpi, connection: &ConnectionName, peer: &Identification) {
        let Some(known) = self.sas.get(&newest).map(|sa| sa.known) else {
            return;
        };
        let older = |sa: &IkeSa| matches!(sa.stage, Stage::Established | Stage::Rekeyed) && sa.number <= known;
        let same_peer = |sa: &IkeSa| {
            sa.own_spi() != newest
                && sa.name().as_ref() == Some(connection)
                && sa.peer_id.as_ref().is_some_and(|id| id.same(peer))
        };
        let old = self.sas.values().filter(|sa| older(sa) && same_peer(sa));
        let old: Vec<IkeSpi> = old.map(IkeSa::own_spi).collect();
        for spi in old {
            self.with_sa(spi, |sa, shared| {
                sa.close(shared, "the peer began anew (INITIAL_CONTACT)")
            });
        }
    }

    /// An SA is gone: what is wanted is tried again, for ever, with growing waits and jitter.
    fn went_down(&mut self, connection: Option<ConnectionName>) {
        if self.shutting_down {
            return self.check_shutdown();
        }
        let Some(name) = connection else { return };
        let keep_trying = self
            .shared
            .config
            .connections
            .get(&name)
            .is_some_and(|connection| connection.keep_trying);
        let another = self
            .sas
            .values()
            .any(|sa| sa.counts() && sa.name().as_ref() == Some(&name));
        let Some(standing) = self.standing.get_mut(&name).filter(|standing| standing.wanted) else {
            return;
        };
        if another || !keep_trying {
            return;
        }
        let (first, longest) = self.shared.config.gateway.retry;
        let wait = first.saturating_mul(1 << standing.failures.min(16)).min(longest);
        standing.failures += 1;
        let at = self.shared.now.instant + wait + self.shared.jitter(wait / 4);
        self.shared.event(Event::NeedTarget { connection: name, at });
    }

    fn check_shutdown(&mut self) {
        let open = self.sas.values().any(|sa| !matches!(sa.stage, Stage::Closed { .. }));
        if self.shutting_down && !open {
            self.shared.event(Event::ShutdownComplete);
        }
    }

    fn half_open_less(&mut self, remote: IpAddr) {
        if let Some(count) = self.half_open.get_mut(&remote) {
            *count -= 1;
            if *count == 0 {
                self.half_open.remove(&remote);
            }
        }
    }

    fn reindex(&mut self, spi: IkeSpi) {
        let next = self.sas.get(&spi).and_then(|sa| sa.next_timeout(&self.shared));
        let before = match next {
            Some(next) => self.due.insert(spi, next),
            None => self.due.remove(&spi),
        };
        if let Some((at, _)) = before {
            self.timers.remove(&(at, spi));
        }
        if let Some((at, _)) = next {
            self.timers.insert((at, spi));
        }
    }

    fn forget(&mut self, spi: IkeSpi) {
        self.sas.remove(&spi);
        self.init_seen.retain(|_, own| *own != spi);
    }
}

fn stranger(path: Path, verdict: String, offered: Vec<String>, wanted: Vec<String>, hint: Option<String>) -> Failure {
    Failure {
        connection: None,
        path,
        verdict,
        offered,
        wanted,
        hint,
    }
}
