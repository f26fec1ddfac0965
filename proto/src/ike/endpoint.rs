//! All IKE SAs of a gateway: where a datagram belongs, what the operator wants, when who is to be woken, and how much
//! strangers may cost.

mod admission;
mod neighbours;
mod operator;
mod redirect;
mod reload;
mod resumption;
mod strangers;
mod streams;

use self::redirect::Redirects;
use super::budget::Budget;
use super::child::{Child, ChildState};
use super::cookie::CookieJar;
use super::error::IkeError;
use super::event::{
    Command, CommandError, Counters, Event, Failure, IkeSaStatus, Load, PuzzleTicket, SignTicket, Tally, TimerKind,
    Transmit,
};
use super::exchange::{Exchange, capabilities};
use super::jobs::{Job, Jobs};
use super::nat;
use super::resume::Kept;
use super::sa::{HalfOpen, IkeSa, InitMessages, Stage};
use super::shared::{Effect, Shared};
use super::window::Incoming;
use crate::crypto::{Group, IKE_PROVIDER, PrfAlgorithm, Secret};
use crate::policy::connection::{Config, Connection, Gateway, StartAction, Target};
use crate::policy::pad;
use crate::policy::proposal::IkeProposal;
use crate::policy::sad::{ChildName, ConnectionName, Path, SadReport, SadUpdate};
use crate::policy::selector::is_subset;
use crate::time::{Instant, Now};
use crate::wire::message::{IkeSaInitReply, IkeSaInitRequest, IkeSaInitResponse, Request, Response};
use crate::wire::{
    self, ExchangeType, Flags, Header, Identification, IkeSpi, KeyExchange, Notify, NotifyType, OuterBody, Payload,
    encode_plain,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Unprotected answers to strangers' stray messages, at most so many a second (checklist L6; RFC 7296 §1.5).
const STRAY_ANSWERS: u32 = 50;

/// Refusals of IKE_SA_INIT and of tickets a second. Apart from the others: INVALID_KE_PAYLOAD is how an honest peer finds our group.
const INIT_REFUSALS: u32 = 200;

/// Messages to peers of a life before this one that go out in a second: tokens (RFC 6290), and that an SPI of ESP is not known.
/// There are none of these peers any more after [`CRASH_IS_OVER`]: then [`TOKENS_LATER`].
const TOKENS: u32 = 1000;
/// RFC 6290 §9.3: "Throttling the amount of QCD_TOKEN notifications sent out, ... especially when not soon after a crash will limit
/// the attacker's ability to construct a dictionary."
const TOKENS_LATER: u32 = 10;
/// So long after the start peers may still find out that we have begun anew.
const CRASH_IS_OVER: Duration = Duration::from_secs(900);
/// Flags of a first message.
const BEGINNING: Flags = Flags {
    initiator: true,
    response: false,
};

/// The IKE endpoint. See the module's contract.
///
/// A clone is another future of the same endpoint, keys and randomness included: for searching through futures, never for
/// two lives with one peer, which would use the same nonces.
#[derive(Clone)]
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
    /// Tickets of IKE SAs whose peer was silent for too long: the next attempt presents them.
    kept: BTreeMap<ConnectionName, Box<Kept>>,
    /// Where we were sent, and how often.
    redirects: BTreeMap<ConnectionName, Redirects>,
    stray_answers: Budget,
    tokens: Budget,
    init_refusals: Budget,
    complaints: Budget,
    shutting_down: bool,
    began: Instant,
}

/// What the operator wants of a connection, and how often it failed.
#[derive(Clone, Default)]
struct Standing {
    wanted: bool,
    failures: u32,
    /// The child that traffic asked for (start action Trap).
    trapped: Option<ChildName>,
}

impl Endpoint {
    /// Whether each message makes an [`Event::Message`] (it does at first). Where nobody reads the lines, they cost.
    pub fn tell_messages(&mut self, tell: bool) {
        self.shared.tell_messages = tell;
    }

    /// From now on peers get tokens by which they can tell a crash of ours (RFC 6290), made from this. It has to be the same
    /// after a restart, and nobody else's: "Anyone gaining access to this value will be able to delete all the IKE SAs for this
    /// token maker" (§9.1).
    pub fn set_token_secret(&mut self, secret: Secret) {
        self.shared.token_secret = Some(secret);
    }

    /// From now on the keys of every SA come out as events: for decrypting captures, and ruin for whatever they protect.
    pub fn export_keys(&mut self) {
        self.shared.export_keys = true;
    }

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
            kept: BTreeMap::new(),
            redirects: BTreeMap::new(),
            stray_answers: Budget::new(STRAY_ANSWERS),
            tokens: Budget::new(TOKENS),
            began: now.instant,
            init_refusals: Budget::new(INIT_REFUSALS),
            complaints: Budget::new(STRAY_ANSWERS),
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
        if matches!(
            header.exchange,
            ExchangeType::IKE_SA_INIT | ExchangeType::IKE_SESSION_RESUME
        ) {
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
                    let critical = matches!(error, wire::DecodeError::UnsupportedCritical(_));
                    // Not by more octets than it has itself: header, generic header, Notify with the type.
                    if critical && first && header.flags == BEGINNING && datagram.len() > Header::LEN + 8 {
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
            match outer.body {
                // RFC 7296 §1.5: only "an encrypted IKE request packet" is answered; what is in the clear may be about an
                // SPI of ESP, and then "the receiving node MUST NOT respond to it".
                OuterBody::Plain { .. } => self.hear_complaint(path, &outer.body),
                OuterBody::Sk { .. } | OuterBody::Skf { .. } => self.answer_unknown_spi(path, &header, datagram),
            }
        }
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

    /// The answer to [`Event::Sign`]: a signature, or why there is none. One that nobody waits for any more is dropped.
    pub fn handle_signature(&mut self, now: Now, ticket: SignTicket, signature: Result<Vec<u8>, String>) {
        self.shared.now = now;
        let alone = self.is_alone(ticket.sa);
        self.with_sa(ticket.sa, |sa, shared| {
            // Others may have come up while the key was at it.
            sa.initial_contact &= alone;
            sa.handle_signature(shared, ticket, signature);
        });
    }

    /// The answer to [`Event::Solve`]: what was found, or that nothing will be. One that nobody waits for any more is dropped.
    pub fn handle_solution(&mut self, now: Now, ticket: PuzzleTicket, solution: Option<Vec<u8>>) {
        self.shared.now = now;
        self.with_sa(ticket.sa, |sa, shared| sa.handle_solution(shared, ticket, solution));
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
            | SadReport::PeerMoved { id, .. }
            | SadReport::StreamMoved { id, .. } => id,
            SadReport::Acquire { source, destination } => return self.acquire(source, destination),
            SadReport::UnknownSpi { spi, local, remote } => {
                self.shared.counters.unknown_spi += 1;
                // ESP without UDP has no port.
                let same = |peer: SocketAddr| peer == remote || remote.port() == 0 && peer.ip() == remote.ip();
                let known = |sa: &&IkeSa| sa.is_established() && same(sa.path.remote);
                let own = self.sas.values().find(known).map(IkeSa::own_spi);
                match own {
                    Some(own) => self.with_sa(own, |sa, shared| sa.tell_unknown_spi(shared, spi)),
                    None => self.complain(spi, local, remote),
                }
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
                SadReport::HardLimit(id) => sa.hard_limit(shared, id),
                // RFC 7296 §2.8: the peer uses the new pair, so it can receive on it.
                SadReport::FirstInbound(id) => {
                    sa.last_heard = now;
                    sa.confirm(shared, Some(id));
                    sa.move_over_to(shared, id);
                }
                // §2.4: "Receipt of a fresh cryptographically protected message on an IKE SA or any of its Child SAs ensures
                // liveness of the IKE SA and all of its Child SAs."
                SadReport::Alive(_) => sa.last_heard = now,
                SadReport::Sent(_) => sa.last_sent = now,
                SadReport::PeerMoved { remote, .. } => sa.follow_peer(shared, remote),
                SadReport::StreamMoved { path, .. } => sa.follow_stream(shared, path),
                SadReport::Acquire { .. } | SadReport::UnknownSpi { .. } => {}
            }
            sa.work(shared);
        });
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

    /// What was counted of a connection; it goes on whatever becomes of its SAs.
    #[must_use]
    pub fn tally(&self, connection: &ConnectionName) -> Tally {
        self.shared.tallies.get(connection).copied().unwrap_or_default()
    }

    /// Inbound ESP SPIs that are reserved or in use: as many as Child SA pairs, when nothing is being negotiated.
    #[must_use]
    pub fn spis_in_use(&self) -> usize {
        self.shared.spis.in_use()
    }

    /// How much it holds: what must not grow over a long life.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            ike_sas: self.sas.len(),
            child_sas: self.sas.values().map(|sa| sa.children.len()).sum(),
            jobs: self.sas.values().map(|sa| sa.jobs.len()).sum(),
            requests: self.sas.values().filter(|sa| sa.exchange.is_some()).count(),
            spis: self.shared.spis.in_use(),
            timers: self.timers.len(),
            half_open: self.half_open.values().sum(),
            init_seen: self.init_seen.len(),
            events: self.shared.events.len(),
            transmits: self.shared.transmits.len(),
            down: self.shared.down.len(),
            tickets: self.shared.resumption.len() + self.kept.len(),
            solved_puzzles: self.cookies.used(),
        }
    }

    /// Lets one SA work, then looks after what that means: its timer, its limits, the others.
    fn with_sa(&mut self, spi: IkeSpi, work: impl FnOnce(&mut IkeSa, &mut Shared)) {
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        work(sa, &mut self.shared);
        // One that failed to authenticate goes on counting until it is forgotten: else a loop of wrong proofs is free.
        let proven = sa.established.is_some() || sa.redirection.away;
        let proven = proven.then(|| sa.counted.take()).flatten();
        let complete = sa.is_complete() && std::mem::take(&mut sa.reauthenticates);
        proven.into_iter().for_each(|address| self.half_open_less(address));
        self.reindex(spi);
        if complete {
            self.replace_older(spi);
        }
        for effect in std::mem::take(&mut self.shared.effects) {
            match effect {
                Effect::Established {
                    spi,
                    connection,
                    peer,
                    initial_contact,
                } => {
                    self.standing.entry(Arc::clone(&connection)).or_default().failures = 0;
                    // An SA is up again: what was kept for coming back is of no use.
                    self.kept.remove(&connection);
                    if initial_contact {
                        self.initial_contact(spi, &connection, &peer);
                    }
                    self.one_of_two(spi);
                    self.not_too_many(spi);
                }
                Effect::Leaving { spi } => self.leave(spi),
                Effect::KeepTicket { connection, kept } => {
                    let now = self.shared.now;
                    self.kept.retain(|_, kept| !kept.is_over(now));
                    self.kept.insert(connection, kept);
                }
                Effect::Sent(sent) => self.sent(*sent),
                Effect::Resumed { old } => self.replace_resumed(spi, old),
                Effect::Reauthenticate { spi } => self.reauthenticate(spi),
                Effect::NotReauthenticated { connection } => self.not_reauthenticated(&connection),
                Effect::Down {
                    connection,
                    again,
                    at_once,
                } => self.went_down(connection, again, at_once),
                Effect::ChildGone {
                    connection,
                    child,
                    resource,
                } => self.fall_back(&connection, &child, resource),
                Effect::Successor(new) => {
                    let spi = new.own_spi();
                    self.sas.insert(spi, *new);
                    self.with_sa(spi, IkeSa::work);
                }
                Effect::Begin(new) => self.begin(*new, None),
                Effect::Settled { from, to } => self.settle(from, to),
                Effect::HandBack { to, children, jobs } => self.hand_back(to, children, jobs),
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
        let Some(sa) = self.sas.remove(&spi) else { return };
        if let Some(digest) = sa.answers {
            self.init_seen.remove(&digest);
        }
        if let Some(address) = sa.counted {
            self.half_open_less(address);
        }
    }
}
