//! What goes into the endpoint and what comes out.

use super::export::ExportedKeys;
use super::nat::NatSituation;
use super::puzzle::Puzzle;
use crate::crypto::{Scheme, SigningKey};
use crate::ike::reason::Reason;
use crate::policy::aggfrag::SendMode;
use crate::policy::connection::Target;
use crate::policy::proposal::{EspSuite, IkeSuite};
use crate::policy::sad::{ChildName, ChildSaId, ConnectionName, Encapsulation, Mode, Path, SadUpdate};
use crate::time::Instant;
use crate::wire::{GatewayIdentity, Identification, IkeSpi, TrafficSelector};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// A datagram to send, without non-ESP marker: the caller adds it when `path.local.port()` is the NAT port (RFC 3948 §2.2), and
/// over TCP (RFC 9329 §3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// From and to.
    pub path: Path,
    /// Octets of the caller's buffer.
    pub len: usize,
    /// A NAT keepalive (one octet 0xff): sent as it is, without marker (RFC 3948 §2.3).
    pub keepalive: bool,
}

/// Why the endpoint wants to be called again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum TimerKind {
    Retransmit,
    HalfOpenExpiry,
    Signature,
    Puzzle,
    Liveness,
    TryUdp,
    NatKeepalive,
    RekeyChild,
    ExpireChild,
    RekeyIke,
    ExpireIke,
    Reauthenticate,
    Retry,
    LingerInbound,
    ReassemblyExpiry,
    SeriesExpiry,
    CookieSecret,
}

/// What the operator (or the daemon on its own) wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Bring a connection up towards `target`, with all its children whose start action is Start (or all, if none's is), or the
    /// one named.
    Up {
        /// Which.
        connection: ConnectionName,
        /// One child, or all.
        child: Option<ChildName>,
        /// Resolved just now.
        target: Target,
    },
    /// Delete the SAs of a connection, or of one child; it stays down until `Up`.
    Down {
        /// Which.
        connection: ConnectionName,
        /// One child, or all with the IKE SA.
        child: Option<ChildName>,
    },
    /// Rekey one child or all children of a connection.
    RekeyChild {
        /// Which.
        connection: ConnectionName,
        /// One child, or all.
        child: Option<ChildName>,
    },
    /// Rekey the IKE SA of a connection; its Child SAs live on.
    RekeyIke {
        /// Which.
        connection: ConnectionName,
    },
    /// Send the peers of a connection to another gateway (RFC 5685 §5).
    Redirect {
        /// Which.
        connection: ConnectionName,
        /// Where to; what the connection or the gateway has configured for it.
        to: Option<GatewayIdentity>,
    },
    /// The answer to [`Event::Redirected`].
    Follow {
        /// Which.
        connection: ConnectionName,
        /// Resolved just now; nothing if there is no way there.
        target: Option<Target>,
    },
    /// Delete everything with Delete payloads and accept nothing new: the clean stop.
    Shutdown,
}

/// Why a command can't be carried out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommandError {
    /// Not configured.
    #[error("no connection named {0:?}")]
    UnknownConnection(ConnectionName),
    /// Not configured.
    #[error("connection {0:?} has no child named {1:?}")]
    UnknownChild(ConnectionName, ChildName),
    /// Neither the order nor the configuration names a gateway.
    #[error("neither the order nor redirect_to says where the peers of connection {0:?} are to go")]
    NowhereToGo(ConnectionName),
    /// RFC 5685 §3, §10.
    #[error(
        "connection {0:?} has no peer that can be sent elsewhere: it has to have begun the IKE SA, to have said that it follows (RFC 5685), and not to be there"
    )]
    CannotBeSent(ConnectionName),
    /// Nothing to rekey or take down.
    #[error("connection {0:?} has no established SA")]
    NotEstablished(ConnectionName),
    /// Shutdown has begun.
    #[error("the endpoint is shutting down")]
    ShuttingDown,
}

/// What happened, for the daemon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// An order to the data path.
    Sad(SadUpdate),
    /// An IKE SA is authenticated.
    IkeUp(IkeUp),
    /// An IKE SA is gone.
    IkeDown {
        /// Whose.
        connection: ConnectionName,
        /// SPIs.
        spi_i: IkeSpi,
        /// SPIs.
        spi_r: IkeSpi,
        /// Why, in words.
        reason: String,
    },
    /// A Child SA pair is up.
    ChildUp(ChildUp),
    /// A Child SA pair is gone.
    ChildDown {
        /// Whose.
        connection: ConnectionName,
        /// Which.
        child: ChildName,
        /// Identity.
        id: ChildSaId,
        /// Why, in words.
        reason: String,
    },
    /// An attempt failed: the verdict, what was offered, what was wanted, what to change at which end.
    Failed(Failure),
    /// The connection needs `Command::Up` with a freshly resolved target, not before `at`.
    NeedTarget {
        /// Which.
        connection: ConnectionName,
        /// When.
        at: Instant,
    },
    /// An IKE SA wants to know which ways there are to these addresses of its peer: [`super::Endpoint::handle_paths`].
    NeedPaths {
        /// The SPI we chose for it.
        spi: IkeSpi,
        /// Whose.
        connection: ConnectionName,
        /// Our port.
        local_port: u16,
        /// The one in use comes first.
        remotes: Vec<SocketAddr>,
    },
    /// An IKE SA wants a TCP connection (RFC 9329 §6.1): it is opened, and [`super::Endpoint::handle_stream`] told, in any case.
    NeedStream {
        /// The SPI we chose for it.
        spi: IkeSpi,
        /// Whose.
        connection: ConnectionName,
        /// From which of our addresses.
        local: IpAddr,
        /// Where the peer listens.
        remote: SocketAddr,
    },
    /// The peer sends us to another gateway, and we go (RFC 5685): the way there is to be found, and [`Command::Follow`] given in any
    /// case.
    Redirected {
        /// Which.
        connection: ConnectionName,
        /// Who sends us.
        from: SocketAddr,
        /// Where to.
        to: GatewayIdentity,
    },
    /// A peer that has authenticated itself was sent to another gateway.
    SentAway {
        /// Which.
        connection: ConnectionName,
        /// Where it is.
        remote: SocketAddr,
        /// Where it was sent.
        to: GatewayIdentity,
    },
    /// An IKE SA goes another way (RFC 4555, or RFC 7296 §2.23).
    Moved {
        /// Whose.
        connection: ConnectionName,
        /// Before.
        from: Path,
        /// Now.
        to: Path,
        /// How ESP travels now.
        encapsulation: Encapsulation,
        /// Why, in words.
        reason: String,
    },
    /// One IKE message, for DEBUG: `CREATE_CHILD_SA request 3 [N(REKEY_SA) SA No KE TSi TSr]`.
    Message {
        /// Whose, when known.
        connection: Option<ConnectionName>,
        /// Received (or sent).
        received: bool,
        /// Addresses.
        path: Path,
        /// The line.
        line: String,
    },
    /// A signature is wanted: answer with `Endpoint::handle_signature`, whenever it is there.
    Sign(SignRequest),
    /// A puzzle is to be solved: answer with `Endpoint::handle_solution`, whenever there is a solution, or when it is certain that
    /// there will be none.
    Solve(SolveRequest),
    /// Its solution is not needed any more.
    SolveNoMore(PuzzleTicket),
    /// Keys, for decrypting captures: only after `Endpoint::export_keys`.
    Keys(Box<ExportedKeys>),
    /// All is deleted after `Command::Shutdown`.
    ShutdownComplete,
}

/// A peer's certificate, for the log and the status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerCertificate {
    /// Its subject.
    pub subject: String,
    /// The last second of its validity, since 1970.
    pub not_after: u64,
}

impl PeerCertificate {
    pub(super) fn of(certificate: &crate::pki::Certificate) -> Self {
        Self {
            subject: certificate.subject_in_words(),
            not_after: certificate.validity().1,
        }
    }
}

/// A signature to be made by a key that is kept elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignRequest {
    /// To be handed back with the signature.
    pub ticket: SignTicket,
    /// The key; `SigningKey::elsewhere` names it.
    pub key: Arc<SigningKey>,
    /// How to sign.
    pub scheme: Scheme,
    /// The message itself, not its hash.
    pub octets: Vec<u8>,
}

/// Which IKE SA waits for a signature, and for which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SignTicket {
    pub(super) sa: IkeSpi,
    pub(super) number: u64,
}

/// A puzzle of a peer (RFC 8019), which has proven nothing yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SolveRequest {
    /// To be handed back with the answer.
    pub ticket: PuzzleTicket,
    /// The puzzle, not harder than is accepted.
    pub puzzle: Puzzle,
}

/// Which IKE SA waits for a solution, and of which puzzle.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PuzzleTicket {
    pub(super) sa: IkeSpi,
    pub(super) number: u64,
}

/// An authenticated IKE SA.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IkeUp {
    /// Whose.
    pub connection: ConnectionName,
    /// SPIs.
    pub spi_i: IkeSpi,
    /// SPIs.
    pub spi_r: IkeSpi,
    /// Whether we began it.
    pub initiator: bool,
    /// The peer's proven identity.
    pub peer: Identification,
    /// The certificate it was proven with.
    pub peer_certificate: Option<PeerCertificate>,
    /// Algorithms.
    pub suite: IkeSuite,
    /// A post-quantum key exchange is in its keys, by this exchange or that of an SA it replaces.
    pub post_quantum: bool,
    /// A post-quantum preshared key is in its keys, likewise (RFC 8784).
    pub ppk: bool,
    /// Outer addresses.
    pub path: Path,
    /// Who stands behind a NAT.
    pub nat: NatSituation,
    /// How ESP travels.
    pub encapsulation: Encapsulation,
    /// Why it runs over TCP, if it does.
    pub why_tcp: Option<&'static str>,
    /// From the first message to now.
    pub setup_time: Duration,
    /// It was resumed with a ticket (RFC 5723): its keys come of those of the SA before, without a key exchange.
    pub resumed: bool,
    /// The SPIs of the SA this one rekeys.
    pub rekeyed_from: Option<IkeSpi>,
}

/// An installed Child SA pair.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChildUp {
    /// Whose.
    pub connection: ConnectionName,
    /// Which.
    pub child: ChildName,
    /// Identity.
    pub id: ChildSaId,
    /// The pair it replaces.
    pub rekeyed_from: Option<ChildSaId>,
    /// Our inbound and the peer's inbound SPI.
    pub spis: (u32, u32),
    /// Algorithms.
    pub suite: EspSuite,
    /// Tunnel or transport.
    pub mode: Mode,
    /// With IP-TFS (RFC 9347), and how we send.
    pub iptfs: Option<SendMode>,
    /// Of a child with several pairs (RFC 9611): which it is, from 1, and how many are wanted.
    pub pair: Option<(u16, u16)>,
    /// Selectors on our side.
    pub local_ts: Vec<TrafficSelector>,
    /// Selectors on the peer's side.
    pub remote_ts: Vec<TrafficSelector>,
    /// When it was installed.
    pub since: Instant,
    /// When it will be rekeyed.
    pub rekey_at: Option<Instant>,
}

/// A failed negotiation, explained.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Whose, when it could be told.
    pub connection: Option<ConnectionName>,
    /// Addresses.
    pub path: Path,
    /// What kind of failure.
    pub reason: Reason,
    /// One sentence: what happened.
    pub verdict: String,
    /// What the peer offered or sent.
    pub offered: Vec<String>,
    /// What we wanted.
    pub wanted: Vec<String>,
    /// What to change, and at which end.
    pub hint: Option<String>,
}

/// Counters of what was dropped before or without an SA, by cause; all saturate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Counters {
    pub received: u64,
    pub sent: u64,
    pub retransmitted: u64,
    pub malformed: u64,
    pub unknown_spi: u64,
    pub integrity_failed: u64,
    pub unexpected: u64,
    pub replayed: u64,
    pub cookies_sent: u64,
    /// Of them, with a puzzle (RFC 8019).
    pub puzzles_sent: u64,
    /// Puzzles of ours that were solved.
    pub puzzles_solved: u64,
    /// Solutions that were wrong.
    pub puzzles_wrong: u64,
    /// Requests that were dropped because they came back without a right solution, when there was little room.
    pub puzzles_unsolved: u64,
    /// Puzzles of peers that we solved.
    pub puzzles_done: u64,
    /// Those that we did not: too hard, or there was no time for them.
    pub puzzles_left: u64,
    pub tickets_refused: u64,
    /// Strangers that were sent to another gateway.
    pub redirects_sent: u64,
    pub over_limit: u64,
    pub fragments_dropped: u64,
    pub no_matching_connection: u64,
    pub auth_failed: u64,
    /// Tokens in the clear (RFC 6290) that were wrong, or too many.
    pub tokens_refused: u64,
}

/// What is counted of a connection, in all its IKE SAs, past and present.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Requests sent again for want of an answer, and answers sent again to a repeated request.
    pub retransmissions: u64,
    /// Liveness checks begun (RFC 7296 §2.4).
    pub liveness_checks: u64,
    /// Established IKE SAs given up because the peer did not answer.
    pub dead_peers: u64,
    /// IKE SAs given up because the peer has shown that it has lost them (RFC 6290).
    pub crashed_peers: u64,
    /// Times that its peers were sent to another gateway, once they were known (RFC 5685).
    pub redirects_sent: u64,
    /// Times that we went to another gateway at its peer's word.
    pub redirects_followed: u64,
}

/// How much an endpoint holds. Everything here is bounded, and as low as before when nothing is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Load {
    /// IKE SAs in any stage, those included that only repeat their last answers.
    pub ike_sas: usize,
    /// Child SA pairs, those included that only linger.
    pub child_sas: usize,
    /// Jobs queued in all IKE SAs.
    pub jobs: usize,
    /// Requests in flight.
    pub requests: usize,
    /// Inbound ESP SPIs reserved or in use.
    pub spis: usize,
    pub timers: usize,
    pub half_open: usize,
    pub init_seen: usize,
    /// Not yet polled.
    pub events: usize,
    /// Not yet polled.
    pub transmits: usize,
    /// Children that the operator took down.
    pub down: usize,
    /// What is remembered of tickets: those that are out, certificates behind them, our own.
    pub tickets: usize,
    /// Solutions that can't be used again.
    pub solved_puzzles: usize,
}

/// A snapshot of one IKE SA for `status`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IkeSaStatus {
    /// Whose; unknown while half open.
    pub connection: Option<ConnectionName>,
    /// `initiating`, `half-open`, `established`, `rekeyed`, `closing`.
    pub stage: &'static str,
    /// SPIs.
    pub spi_i: IkeSpi,
    /// SPIs.
    pub spi_r: IkeSpi,
    /// Whether we began it.
    pub initiator: bool,
    /// Outer addresses.
    pub path: Path,
    /// Who stands behind a NAT.
    pub nat: NatSituation,
    /// How ESP travels.
    pub encapsulation: Encapsulation,
    /// Why it runs over TCP, if it does.
    pub why_tcp: Option<&'static str>,
    /// Algorithms once chosen.
    pub suite: Option<IkeSuite>,
    /// See [`IkeUp::post_quantum`].
    pub post_quantum: bool,
    /// A post-quantum preshared key is in its keys, likewise (RFC 8784).
    pub ppk: bool,
    /// The peer's identity once proven.
    pub peer: Option<Identification>,
    /// The certificate it was proven with.
    pub peer_certificate: Option<PeerCertificate>,
    /// When it was established.
    pub since: Option<Instant>,
    /// When it will be rekeyed.
    pub rekey_at: Option<Instant>,
    /// When we begin to authenticate anew, or, as responder, when it ends if the peer does not.
    pub reauth_at: Option<Instant>,
    /// See [`IkeUp::resumed`].
    pub resumed: bool,
    /// The gateway that sent us there (RFC 5685).
    pub redirected_from: Option<IpAddr>,
    /// Whether its ends may move (RFC 4555).
    pub mobike: bool,
    /// Whether a crash of the peer will be noticed at once: it has given us a token (RFC 6290).
    pub quick_crash_detection: bool,
    /// Its Child SAs.
    pub children: Vec<ChildUp>,
    /// What is in flight, e.g. `IKE_AUTH request 1, sent 2 times`.
    pub in_flight: Option<String>,
}
