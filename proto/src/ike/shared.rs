//! What all IKE SAs of an endpoint share while one of them works: clock, randomness, SPIs, and the way out.

use super::child::Child;
use super::event::{Counters, Event, Failure, Tally, Transmit};
use super::jobs::Jobs;
use super::redirect::Sent;
use super::resume::Kept;
use super::sa::IkeSa;
use super::ticket::Tickets;
use crate::crypto::{Provider, Secret};
use crate::policy::connection::{Config, Connection};
use crate::policy::sad::{ChildName, ChildSaEntry, ChildSaId, ConnectionName, Path, SadUpdate};
use crate::policy::selector;
use crate::policy::spi::SpiAllocator;
use crate::time::{Instant, Now};
use crate::wire::{Header, Identification, IkeSpi, Payload, TrafficSelector, summarize};
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Failures that strangers can cause are told at most this often.
const STRANGER_FAILURES: Duration = Duration::from_secs(1);

/// See the module's head.
#[derive(Clone)]
pub struct Shared {
    pub now: Now,
    pub provider: &'static Provider,
    pub rng: ChaCha20Rng,
    pub config: Arc<Config>,
    pub spis: SpiAllocator,
    pub counters: Counters,
    /// What is counted by connection: as many as were ever configured.
    pub tallies: BTreeMap<ConnectionName, Tally>,
    pub events: VecDeque<Event>,
    pub transmits: VecDeque<(Transmit, Vec<u8>)>,
    /// What concerns other SAs or the connection: carried out by the endpoint when the SA is done.
    pub effects: Vec<Effect>,
    /// IKE SAs established so far.
    pub established: u64,
    /// The machine's addresses that gateways can be reached by; empty: not known.
    pub addresses: Vec<IpAddr>,
    /// Which peer of a connection has which networks behind it: the pairs of each connection, one after the other.
    pub claims: BTreeMap<(ConnectionName, ChildSaId), Claim>,
    /// Children that the operator took down: they don't come back by themselves.
    pub down: BTreeSet<(ConnectionName, ChildName)>,
    /// The tickets that we gave for resuming an IKE SA (RFC 5723).
    pub resumption: Tickets,
    /// Signatures asked for so far.
    pub tickets: u64,
    /// Whether a line is made of each message.
    pub tell_messages: bool,
    /// Whether keys are exported.
    pub export_keys: bool,
    /// What our tokens are made from (RFC 6290 §5.1: QCD_SECRET); without it there are none.
    pub token_secret: Option<Secret>,
    next_child: u64,
    next_owner: u8,
    last_stranger_failure: Option<Instant>,
}

/// A Child SA pair, and whose it is.
#[derive(Clone)]
pub struct Claim {
    pub peer: Identification,
    pub entry: Arc<ChildSaEntry>,
}

/// What one SA's work means for the rest of the endpoint.
#[derive(Clone)]
pub enum Effect {
    /// An SA was authenticated. With `initial_contact`, others with the same peer are gone (RFC 7296 §2.4).
    Established {
        spi: IkeSpi,
        connection: ConnectionName,
        peer: Identification,
        initial_contact: bool,
    },
    /// An SA is gone; the connection may want another, unless `again` says that it does not; `at_once` if the peer is known to
    /// be there.
    Down {
        connection: Option<ConnectionName>,
        again: bool,
        at_once: bool,
    },
    /// A pair that may have been sending is gone: if both ends began, the same child may be up in another IKE SA.
    ChildGone {
        connection: ConnectionName,
        child: ChildName,
        resource: u16,
    },
    /// An IKE SA is about to be deleted by us: what another SA has as well goes there from now on.
    Leaving { spi: IkeSpi },
    /// The time has come to authenticate anew (RFC 7296 §2.8.3), beside the SA there is.
    Reauthenticate { spi: IkeSpi },
    /// An attempt to do so failed.
    NotReauthenticated { connection: ConnectionName },
    /// The ticket of an IKE SA whose peer was silent for too long (RFC 5723): for the next attempt.
    KeepTicket {
        connection: ConnectionName,
        kept: Box<Kept>,
    },
    /// The peer sends us to another gateway (RFC 5685).
    Sent(Box<Sent>),
    /// The peer resumed an IKE SA: the one before, by the SPI that we had chosen for it, is over.
    Resumed { old: IkeSpi },
    /// An IKE SA was rekeyed: here is the new one (RFC 7296 §2.18).
    Successor(Box<IkeSa>),
    /// Another SA is begun in the place of one that got no answer.
    Begin(Box<IkeSa>),
    /// Both sides rekeyed an IKE SA, and it is decided: what the peer's new SA `from` has belongs to our new SA `to`, or,
    /// without one, stays where it is (§2.8.2).
    Settled { from: IkeSpi, to: Option<IkeSpi> },
    /// Before that was decided the peer deleted its new SA: what it had inherited goes back to the old one.
    HandBack {
        to: IkeSpi,
        children: Vec<Child>,
        jobs: Jobs,
    },
}

impl Shared {
    pub fn new(now: Now, provider: &'static Provider, rng: ChaCha20Rng, config: Arc<Config>) -> Self {
        Self {
            now,
            provider,
            rng,
            config,
            spis: SpiAllocator::default(),
            counters: Counters::default(),
            tallies: BTreeMap::new(),
            events: VecDeque::new(),
            transmits: VecDeque::new(),
            effects: Vec::new(),
            established: 0,
            addresses: Vec::new(),
            claims: BTreeMap::new(),
            down: BTreeSet::new(),
            resumption: Tickets::default(),
            tickets: 0,
            tell_messages: true,
            export_keys: false,
            token_secret: None,
            next_child: 1,
            next_owner: 0,
            last_stranger_failure: None,
        }
    }

    /// Whether the operator took this child down.
    pub fn is_down(&self, connection: Option<&Connection>, child: &ChildName) -> bool {
        connection.is_some_and(|connection| {
            let child = (Arc::clone(&connection.name), Arc::clone(child));
            self.down.contains(&child)
        })
    }

    /// Another peer of the connection that has part of these networks behind it already. RFC 3948 §5.1: with two peers behind
    /// one NAT the gateway "can become confused about where to send packets", and "Implementors MUST devise ways of
    /// preventing this from occurring".
    pub fn claimed_by_another(
        &self,
        connection: &ConnectionName,
        peer: &Identification,
        local_ts: &[TrafficSelector],
        remote_ts: &[TrafficSelector],
    ) -> Option<&Identification> {
        let first = (Arc::clone(connection), ChildSaId(0));
        let mut claims = self
            .claims
            .range(first..)
            .take_while(|((name, _), _)| name == connection);
        let taken = claims.find(|(_, claim)| {
            !claim.peer.same(peer)
                && selector::meet((&claim.entry.local_ts, &claim.entry.remote_ts), (local_ts, remote_ts))
        });
        taken.map(|(_, claim)| &claim.peer)
    }

    /// A fresh IKE SPI, not zero.
    pub fn ike_spi(&mut self) -> IkeSpi {
        loop {
            let spi = IkeSpi(self.rng.next_u64().to_be_bytes());
            if spi != IkeSpi::ZERO {
                return spi;
            }
        }
    }

    /// A nonce: at least half the key size of any PRF we have, and 128 bits (RFC 7296 §2.10).
    pub fn nonce(&mut self) -> crate::wire::Nonce {
        let mut nonce = vec![0; 32];
        self.rng.fill_bytes(&mut nonce);
        crate::wire::Nonce(nonce)
    }

    pub fn random_octets(&mut self) -> [u8; 32] {
        let mut octets = [0; 32];
        self.rng.fill_bytes(&mut octets);
        octets
    }

    /// An identity for a Child SA pair, never used before.
    pub fn child_id(&mut self) -> ChildSaId {
        self.next_child += 1;
        ChildSaId(self.next_child - 1)
    }

    /// A fresh inbound ESP SPI for this worker; without one the workers take turns as owners.
    pub fn esp_spi(&mut self, owner: Option<u8>) -> Option<u32> {
        let owner = owner.unwrap_or_else(|| {
            let next = self.next_owner;
            self.next_owner = (next + 1) % self.config.gateway.workers.max(1);
            next
        });
        self.spis.allocate(owner, &mut self.rng)
    }

    /// Up to `most`, at random: jitter.
    pub fn jitter(&mut self, most: Duration) -> Duration {
        most * (self.rng.next_u32() % 1001) / 1000
    }

    /// Counts something for a connection, once it is known which.
    pub fn count(&mut self, connection: Option<ConnectionName>, count: impl FnOnce(&mut Tally)) {
        if let Some(connection) = connection {
            count(self.tallies.entry(connection).or_default());
        }
    }

    pub fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    pub fn sad(&mut self, update: SadUpdate) {
        self.events.push_back(Event::Sad(update));
    }

    pub fn failed(&mut self, failure: Failure) {
        self.events.push_back(Event::Failed(failure));
    }

    /// A failure that an unauthenticated message brought about: told, but not more often than a log can bear.
    pub fn failed_by_stranger(&mut self, failure: Failure) {
        let now = self.now.instant;
        if self
            .last_stranger_failure
            .is_none_or(|last| now.saturating_since(last) >= STRANGER_FAILURES)
        {
            self.last_stranger_failure = Some(now);
            self.failed(failure);
        }
    }

    /// Datagrams for the peer.
    pub fn transmit(&mut self, path: Path, datagrams: &[Vec<u8>]) {
        for datagram in datagrams {
            self.counters.sent += 1;
            let transmit = Transmit {
                path,
                len: datagram.len(),
                keepalive: false,
            };
            self.transmits.push_back((transmit, datagram.clone()));
        }
    }

    /// One octet 0xff (RFC 3948 §2.3).
    pub fn keepalive(&mut self, path: Path) {
        self.transmits.push_back((
            Transmit {
                path,
                len: 1,
                keepalive: true,
            },
            vec![0xff],
        ));
    }

    /// A line about a message, for DEBUG.
    pub fn log_message(
        &mut self,
        connection: Option<ConnectionName>,
        received: bool,
        path: Path,
        header: &Header,
        payloads: &[Payload],
    ) {
        if !self.tell_messages {
            return;
        }
        let line = summarize(header, payloads);
        self.event(Event::Message {
            connection,
            received,
            path,
            line,
        });
    }

    /// Why a message that came was of no use, for DEBUG.
    pub fn log_line(&mut self, path: Path, line: String) {
        if self.tell_messages {
            self.event(Event::Message {
                connection: None,
                received: true,
                path,
                line,
            });
        }
    }
}
