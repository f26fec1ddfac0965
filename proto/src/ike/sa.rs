//! One IKE SA: its stage, its windows, and the way of every message in and out.

mod fragments;
mod messages;
mod telling;
mod timers;

use self::fragments::Sizes;
use super::auth::PeerMethods;
use super::auth_lifetime::Reauthentication;
use super::child::Child;
use super::error::IkeError;
use super::event::{ChildUp, Event, Failure, IkeSaStatus, IkeUp, PeerCertificate, TimerKind};
use super::exchange::{Exchange, InitExchange, Next, Request, ResumeExchange};
use super::followup::{self, Series};
use super::frag::{FragmentOutcome, Reassembly};
use super::int_auth::{self, IntAuth};
use super::jobs::{Job, Jobs};
use super::keys::IkeKeys;
use super::mobike::Mobike;
use super::nat::NatSituation;
use super::parts::Parts;
use super::ppk::PpkState;
use super::proven::Proven;
use super::puzzle::Puzzle;
use super::qcd::PeerTokens;
use super::redirect::Redirection;
use super::respond::Reply;
use super::resume::{Kept, OwnTicket, Resumption};
use super::seal::{MessageProtection, OpenError, OpenedBody};
use super::shared::{Effect, Shared};
use super::signing::{Held, Signing};
use super::solving::Solving;
use super::stream::StreamState;
use super::ticket::Issued;
use super::window::{Arrival, Due, Incoming, Outgoing, Schedule};
use crate::crypto::Secret;
use crate::policy::connection::Connection;
use crate::policy::proposal::IkeSuite;
use crate::policy::sad::{ChildName, ConnectionName, Encapsulation, Path};
use crate::time::Instant;
use crate::wire::message::{Request as WireRequest, Response};
use crate::wire::{
    self, ExchangeType, Flags, HashAlgorithm, Header, Identification, IkeSpi, Outer, OuterBody, Payload,
    encode_payloads, encode_plain,
};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A closed SA still answers repeated requests for this long (RFC 7296 §2.1).
const CLOSED_LINGER: Duration = Duration::from_secs(15);

/// The wait after a TEMPORARY_FAILURE (and half as much again at random).
const TEMPORARY_WAIT: Duration = Duration::from_secs(5);

/// TEMPORARY_FAILUREs with a longer pause between them don't belong together.
const SAME_ROW: Duration = Duration::from_secs(60);

/// A peer that is busy for this long is not busy, but out of step.
const OUT_OF_SYNC: Duration = Duration::from_secs(180);

/// Where an IKE SA stands.
#[derive(Clone)]
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
#[derive(Clone)]
pub struct HalfOpen {
    /// The connections it may belong to.
    pub candidates: Vec<Arc<Connection>>,
    /// g^ir; the keys are derived from it when the second message comes.
    pub shared: Secret,
    /// Forgotten after this.
    pub expires: Instant,
    /// Additional key exchanges that were answered (RFC 9370 §2.2.2).
    pub additional_done: usize,
    /// The keys of the last of them: they hold when its answer is sealed.
    pub next_keys: Option<IkeKeys>,
}

/// The first two messages and what was learnt from them: AUTH is about these (RFC 7296 §2.15).
#[derive(Clone, Default)]
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
#[derive(Clone)]
pub struct IkeSa {
    pub spi_i: IkeSpi,
    pub spi_r: IkeSpi,
    /// We are its original initiator.
    pub initiator: bool,
    /// We began the SA that was authenticated; a rekey, by whomever, does not change that.
    pub ours: bool,
    pub stage: Stage,
    pub path: Path,
    pub nat: NatSituation,
    pub connection: Option<Arc<Connection>>,
    pub suite: Option<IkeSuite>,
    /// What is recorded today is not decrypted by a quantum computer: a post-quantum key exchange is in its keys.
    pub post_quantum: bool,
    pub ppk: PpkState,
    /// Said with the Delete of it.
    pub farewell: Option<crate::wire::NotifyType>,
    pub keys: Option<IkeKeys>,
    pub protection: Option<MessageProtection>,
    pub init: InitMessages,
    /// After a rekey: what [`Self::lowest_nonce`] was before it.
    pub inherited_nonce: Vec<u8>,
    /// What AUTH covers besides.
    pub int_auth: IntAuth,
    pub peer_id: Option<Identification>,
    pub peer_fragments: bool,
    /// The responder takes an IKE_AUTH without a Child SA (RFC 6023).
    pub peer_childless: bool,
    pub peer_hashes: Option<Vec<HashAlgorithm>>,
    /// What the responder takes, as far as it said (RFC 9593).
    pub peer_methods: PeerMethods,
    /// The CAs in the responder's CERTREQ.
    pub peer_authorities: Vec<[u8; 20]>,
    /// What the peer has proven itself with.
    pub proof: Option<Proven>,
    pub outgoing: Outgoing,
    pub incoming: Incoming,
    pub exchange: Option<Exchange>,
    pub jobs: Jobs,
    pub children: Vec<Child>,
    /// The children that the peer takes in parts.
    pub parts: BTreeMap<ChildName, Parts>,
    pub began: Instant,
    /// When the key exchange began that its keys come of; before it did, if it was resumed.
    pub exchanged: Instant,
    pub established: Option<Instant>,
    /// The how-manieth to be established, and how many were when it began: which was there before which, exactly.
    pub number: u64,
    pub known: u64,
    /// It is made beside an older one, to take its place when all children are up (RFC 7296 §2.8.3).
    pub reauthenticates: bool,
    /// When to authenticate anew; a rekey does not put it off.
    pub reauth: Reauthentication,
    /// When it is to be rekeyed, and when to be closed if that failed.
    pub rekey_at: Option<Instant>,
    pub expire_at: Option<Instant>,
    /// The peer made it by a rekey that crossed ours of the SA with this SPI, and it is open which of the two new ones
    /// stays.
    pub contested: Option<IkeSpi>,
    /// The peer's CREATE_CHILD_SA whose additional key exchanges are not done (RFC 9370 §2.2.4).
    pub series: Vec<Series>,
    /// STATE_NOT_FOUNDs in a row.
    pub forgotten: u32,
    /// The first and the last TEMPORARY_FAILURE of a row.
    pub busy: Option<(Instant, Instant)>,
    pub last_heard: Instant,
    pub last_sent: Instant,
    /// The child that was asked for by name; otherwise all that start by themselves.
    pub wanted: Option<ChildName>,
    /// A stranger's SA counts against the limits of this address until it is authenticated or forgotten.
    pub counted: Option<IpAddr>,
    /// Digest of the IKE_SA_INIT request it answered.
    pub answers: Option<[u8; 32]>,
    /// No other SA with this peer is up: said in IKE_AUTH.
    pub initial_contact: bool,
    /// The peer deletes it, and what it had is not begun anew for that.
    pub let_go: bool,
    /// What the peer would show if it had lost this SA.
    pub peer_tokens: PeerTokens,
    /// The peer has lost it, and is there: the next attempt is made at once.
    pub begin_at_once: bool,
    /// IKE_AUTH waits for our signature.
    pub signing: Option<Box<Signing>>,
    /// It is to be solved before IKE_AUTH.
    pub auth_puzzle: Option<Puzzle>,
    /// The peer's puzzle is being solved.
    pub solving: Option<Solving>,
    /// When a hint that the peer has lost its state was last followed.
    pub hinted: Option<Instant>,
    /// An SPI of ESP from the peer that is not ours, to be told to it.
    pub unknown_spi: Option<u32>,
    /// It is being resumed (RFC 5723): what it takes over when both are authenticated.
    pub resumes: Option<Box<Resumption>>,
    /// It was resumed: its keys come of those of the one before, without a key exchange.
    pub resumed: bool,
    /// As client: what it may be resumed with.
    pub ticket: Option<OwnTicket>,
    /// The peer grants tickets.
    pub peer_grants: bool,
    /// As responder: the ticket that the peer has.
    pub issued: Option<Issued>,
    /// How many it was given.
    pub granted: u32,
    /// Where its ends are (RFC 4555).
    pub mobike: Mobike,
    /// Its TCP connection (RFC 9329).
    pub stream: StreamState,
    /// Where from, and whether elsewhere (RFC 5685).
    pub redirection: Redirection,
    /// Our further addresses that the peer was told of.
    pub announced: Vec<IpAddr>,
    sizes: Sizes,
    requests: Collected,
    responses: Collected,
}

/// Fragments of a message from the peer, and the digest of the first.
#[derive(Clone, Default)]
struct Collected {
    parts: Reassembly,
    first: Option<[u8; 32]>,
    /// See [`super::int_auth`].
    head: Option<Vec<u8>>,
}

/// A whole, authentic message.
struct OpenedMessage {
    body: OpenedBody,
    /// Of the datagram, or of that of fragment 1.
    digest: [u8; 32],
    /// What IntAuth needs of its headers.
    head: Option<Vec<u8>>,
}

impl IkeSa {
    /// A new SA, nothing sent yet.
    pub fn new(shared: &Shared, spi_i: IkeSpi, spi_r: IkeSpi, initiator: bool, stage: Stage, path: Path) -> Self {
        let now = shared.now.instant;
        Self {
            spi_i,
            spi_r,
            initiator,
            ours: initiator,
            stage,
            path,
            nat: NatSituation::default(),
            connection: None,
            suite: None,
            post_quantum: false,
            ppk: PpkState::default(),
            farewell: None,
            keys: None,
            protection: None,
            init: InitMessages::default(),
            inherited_nonce: Vec::new(),
            int_auth: IntAuth::default(),
            peer_id: None,
            peer_fragments: false,
            peer_childless: false,
            peer_hashes: None,
            peer_methods: PeerMethods::default(),
            peer_authorities: Vec::new(),
            proof: None,
            outgoing: Outgoing::new(0),
            incoming: Incoming::new(0),
            exchange: None,
            jobs: Jobs::default(),
            children: Vec::new(),
            parts: BTreeMap::new(),
            began: now,
            exchanged: now,
            established: None,
            number: 0,
            known: shared.established,
            reauthenticates: false,
            reauth: Reauthentication::default(),
            rekey_at: None,
            expire_at: None,
            contested: None,
            series: Vec::new(),
            forgotten: 0,
            busy: None,
            last_heard: now,
            last_sent: now,
            wanted: None,
            counted: None,
            answers: None,
            initial_contact: false,
            let_go: false,
            peer_tokens: PeerTokens::default(),
            begin_at_once: false,
            signing: None,
            auth_puzzle: None,
            solving: None,
            hinted: None,
            unknown_spi: None,
            resumes: None,
            resumed: false,
            ticket: None,
            peer_grants: false,
            issued: None,
            granted: 0,
            mobike: Mobike::default(),
            stream: StreamState::default(),
            redirection: Redirection::default(),
            announced: Vec::new(),
            sizes: Sizes::default(),
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

    /// The certificate that the peer has proven itself with.
    pub fn peer_certificate(&self) -> Option<PeerCertificate> {
        self.proof.as_ref().and_then(Proven::certificate).cloned()
    }

    /// How its Child SAs' packets travel (RFC 7296 §2.23).
    pub fn encapsulation(&self) -> Encapsulation {
        // RFC 9329 §6.5: "no change should be made for encapsulation of subsequent IKE or ESP packets since TCP encapsulation inherently supports
        // NAT traversal".
        if self.path.is_tcp() {
            return Encapsulation::Tcp;
        }
        let connection = self.connection.as_ref();
        self.nat
            .encapsulation(connection.is_some_and(|connection| connection.force_udp_encapsulation))
    }

    pub const fn is_established(&self) -> bool {
        matches!(self.stage, Stage::Established)
    }

    /// Whether it is, or may become, the connection's SA: not one that is gone or was replaced.
    pub const fn counts(&self) -> bool {
        !matches!(self.stage, Stage::Closed { .. } | Stage::Rekeyed)
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

    /// Whether it may begin something.
    const fn is_idle(&self) -> bool {
        self.exchange.is_none() && self.contested.is_none()
    }

    /// Whether it is up with all the children it is to have.
    pub fn is_complete(&self) -> bool {
        self.is_established() && self.is_idle() && !self.jobs.any(|job| matches!(job, Job::CreateChild(_)))
    }

    /// The lowest nonce of the IKE_SA_INIT that it, or what it was rekeyed from, began with.
    pub fn lowest_nonce(&self) -> &[u8] {
        if self.init.nonce_i.is_empty() {
            return &self.inherited_nonce;
        }
        self.init.nonce_i.as_slice().min(&self.init.nonce_r)
    }

    /// Begins the next job if nothing is in flight.
    pub fn work(&mut self, shared: &mut Shared) {
        while self.is_idle() && matches!(self.stage, Stage::Established | Stage::Rekeyed | Stage::Closing) {
            let series = &self.series;
            let Some(job) = self
                .jobs
                .take(shared.now.instant, |job| followup::may_begin(series, job))
            else {
                return;
            };
            if matches!(self.stage, Stage::Rekeyed | Stage::Closing) && job != Job::DeleteIke {
                // The peer forgets what it concerned with the IKE SA.
                if let Job::DeleteStillborn(spi) = job {
                    shared.spis.release(spi);
                }
                continue;
            }
            if let Job::RekeyChild(id) | Job::DeleteChild(id) = job
                && let Some(until) = self.unconfirmed_until(id).filter(|until| *until > shared.now.instant)
            {
                self.jobs.add(until, job);
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
        // Two that lie further apart than our own retries are two different busy times.
        let (since, _) = self
            .busy
            .filter(|(_, last)| now.saturating_since(*last) < SAME_ROW)
            .unwrap_or((now, now));
        self.busy = Some((since, now));
        if now.saturating_since(since) >= OUT_OF_SYNC {
            self.jobs.add(now, Job::DeleteIke);
            return Next::Done;
        }
        Next::Later(job, TEMPORARY_WAIT)
    }

    /// Sends the first message: with a ticket, if there is one.
    pub fn begin(&mut self, shared: &mut Shared, connection: &Arc<Connection>, kept: Option<Box<Kept>>) {
        if let Some(kept) = kept {
            let (exchange, request) = ResumeExchange::begin(self, shared, connection, kept);
            return self.send(shared, exchange, request);
        }
        match InitExchange::begin(self, shared, connection) {
            Some((exchange, request)) => self.send(shared, exchange, request),
            None => self.close(shared, "the configured key exchange is not available"),
        }
    }

    /// Both are who they say: the SA is up.
    pub fn establish(&mut self, shared: &mut Shared, peer: Identification, initial_contact: bool) {
        let now = shared.now.instant;
        self.stage = Stage::Established;
        self.sizes.keep(None);
        self.take_over(shared);
        if !self.resumed {
            self.post_quantum = self.ppk.used || self.suite.is_some_and(|suite| suite.is_post_quantum());
        }
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
            peer_certificate: self.peer_certificate(),
            suite,
            post_quantum: self.post_quantum,
            ppk: self.ppk.used,
            path: self.path,
            nat: self.nat,
            encapsulation: self.encapsulation(),
            why_tcp: self.why_tcp(),
            setup_time: now.saturating_since(self.began),
            resumed: self.resumed,
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
        self.sizes.done();
        self.stop_solving(shared);
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
        if self.reauthenticates
            && let Some(connection) = self.name()
        {
            shared.effects.push(Effect::NotReauthenticated { connection });
        }
        shared.effects.push(Effect::Down {
            connection: self
                .name()
                .filter(|_| !rekeyed && (self.initiator || self.established.is_some())),
            again: !self.let_go,
            at_once: self.begin_at_once,
        });
        self.stage = Stage::Closed {
            until: shared.now.instant + CLOSED_LINGER,
        };
        self.outgoing = Outgoing::new(u32::MAX);
        self.drop_series(shared, |_| true);
        for spi in std::mem::take(&mut self.jobs).stillborn() {
            shared.spis.release(spi);
        }
        self.withdraw_ticket(shared);
        (self.signing, self.ticket, self.resumes) = (None, None, None);
        self.init = InitMessages::default();
        self.requests = Collected::default();
        self.responses = Collected::default();
    }

    /// RFC 7296 §2.23: the peer is where its authentic, newer messages come from, unless it is we who stand behind the NAT.
    pub fn follow_peer(&mut self, shared: &mut Shared, remote: std::net::SocketAddr) {
        if self.path.is_tcp() || self.path.remote == remote || self.nat.local || !self.nat.remote {
            return;
        }
        let path = Path { remote, ..self.path };
        self.set_path(
            shared,
            path,
            true,
            "the peer's NAT has given it another address or port",
        );
    }
}
