//! An IKE SA over TCP (RFC 9329): when it goes there, what becomes of it when the TCP connection breaks, and how it comes back
//! to UDP.
//!
//! TCP connections are the daemon's: the SA asks for one by [`Event::NeedStream`], is told by
//! [`super::Endpoint::handle_stream`], and hears of its end by [`super::Endpoint::handle_stream_closed`]. RFC 9329 §1.2: "If an
//! IKE SA is rekeyed one or more times, the TCP Originator MUST remain the peer that originally initiated the first IKE SA":
//! that is [`IkeSa::ours`].

use super::event::Event;
use super::exchange::Exchange;
use super::jobs::{Job, Jobs};
use super::reason::Reason;
use super::sa::{IkeSa, Stage};
use super::shared::{Effect, Shared};
use crate::policy::connection::{Connection, TcpUse};
use crate::policy::sad::Path;
use crate::time::Instant;
use crate::wire::IkeSpi;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// IKE_SA_INIT is sent so often by UDP before TCP is tried. §5.1: "It is recommended that the initial message over UDP be
/// retransmitted at least once before falling back to TCP".
const INIT_BY_UDP: u32 = 3;

/// A request of an SA that is up is sent so often by UDP before TCP is tried (§7.1: "after several retransmissions"): once more
/// than it takes until other addresses are tried.
const REQUEST_BY_UDP: u32 = 4;

/// A request gets no answer: after so many of its retransmission times the TCP connection is replaced by another.
const SILENT: u32 = 3;

/// A request that finds out whether UDP works again is sent so often by UDP, then by TCP.
const PROBE_BY_UDP: u32 = 2;

/// UDP is tried again after this, then seldomer and seldomer.
const FIRST_PROBE: Duration = Duration::from_secs(15);

/// But not more seldom than this.
const LAST_PROBE: Duration = Duration::from_secs(600);

/// A TCP connection that stood for less than this is not followed by another at once.
const SHORT_LIFE: Duration = Duration::from_secs(2);

/// Why it runs over TCP, in words.
const CONFIGURED: &str = "tcp = \"always\"";
const UNANSWERED: &str = "the peer does not answer over UDP";
const PEER: &str = "the peer opened the TCP connection";

/// What a TCP connection is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// To begin the SA with it.
    Begin,
    /// To go on with it, in the place of UDP.
    FallBack,
    /// To go on with it, in the place of another.
    Resume,
}

/// What an IKE SA knows of its TCP connection.
#[derive(Clone, Default)]
pub struct StreamState {
    /// One is being opened.
    pub awaited: Option<Wish>,
    /// The one that the path names is closed.
    pub lost: bool,
    /// When the last one was opened.
    opened: Option<Instant>,
    /// What is in flight has not been sent by the one that the path names.
    resend: bool,
    /// Why it runs over TCP.
    why: Option<&'static str>,
    /// Times that UDP was tried since, and when it was last tried or TCP taken.
    probes: u32,
    since: Option<Instant>,
    /// The next request goes by this way, to find out whether it works.
    probe: Option<Path>,
}

impl StreamState {
    /// What the successor of a rekeyed IKE SA takes over. §6.1: one may share a TCP connection with the other if it "is a rekey
    /// of an existing IKE SA".
    #[must_use]
    pub fn inherit(&self) -> Self {
        Self {
            awaited: None,
            resend: false,
            probe: None,
            ..self.clone()
        }
    }

    /// The way of the next request, if it is not the SA's.
    pub fn take_probe(&mut self) -> Option<Path> {
        self.resend = false;
        self.probe.take()
    }
}

impl IkeSa {
    /// Why it runs over TCP; `None` if it does not.
    #[must_use]
    pub fn why_tcp(&self) -> Option<&'static str> {
        self.path.is_tcp().then(|| self.stream.why.unwrap_or(PEER))
    }

    /// Asks for a TCP connection to where the peer is, one at a time.
    pub fn want_stream(&mut self, shared: &mut Shared, wish: Wish) {
        let Some(connection) = self.connection.clone() else {
            return;
        };
        if self.stream.awaited.replace(wish).is_some() {
            return;
        }
        shared.event(Event::NeedStream {
            spi: self.own_spi(),
            connection: Arc::clone(&connection.name),
            local: self.path.local.ip(),
            remote: SocketAddr::new(self.path.remote.ip(), connection.tcp_port),
        });
    }

    /// There it is, or why not.
    pub fn handle_stream(&mut self, shared: &mut Shared, stream: Result<Path, String>) {
        let Some(wish) = self.stream.awaited.take() else { return };
        let connection = self
            .connection
            .clone()
            .filter(|_| !matches!(self.stage, Stage::Closed { .. }));
        let Some(connection) = connection else {
            return;
        };
        let path = match (wish, stream) {
            (_, Ok(path)) => {
                self.stream.opened = Some(shared.now.instant);
                path
            }
            (Wish::Begin, Err(why)) => {
                let verdict = format!("no TCP connection to {}: {why}", self.path.remote);
                let hint = format!("does the peer listen on TCP port {}?", connection.tcp_port);
                self.tell_failure(shared, Reason::NoAnswer, verdict.clone(), vec![], vec![], Some(hint));
                return self.close(shared, &verdict);
            }
            // Asked for again when the request in flight would be sent again; with its last time the SA ends.
            (Wish::FallBack | Wish::Resume, Err(_)) => return,
        };
        match wish {
            Wish::Begin if matches!(self.stage, Stage::Initiating) => {
                self.path = path;
                self.stream.lost = false;
                self.enter_tcp(shared, reason(&connection));
                self.begin(shared, &connection, None);
            }
            // §7.1: "the Initiator ought to change its transport for this exchange from UDP to TCP and resend the request
            // message. A new INFORMATIONAL exchange MUST NOT be started in this situation." If UDP was answered meanwhile, it
            // stays there.
            Wish::FallBack if self.is_established() && !self.path.is_tcp() && self.is_silent() => {
                self.enter_tcp(shared, UNANSWERED);
                self.go(shared, path, UNANSWERED);
            }
            Wish::Resume if !matches!(self.stage, Stage::Closed { .. }) && self.path.is_tcp() => {
                self.resume(shared, path);
            }
            Wish::Begin | Wish::FallBack | Wish::Resume => {}
        }
    }

    /// Goes on by another TCP connection. §6.1: "If the session had been fully established previously, it is suggested that the
    /// TCP Originator send an UPDATE_SA_ADDRESSES message if MOBIKE is supported and an empty informational message if it is
    /// not."
    pub fn resume(&mut self, shared: &mut Shared, path: Path) {
        self.set_path(shared, path, true, "the TCP connection is opened again");
        self.repeat_by_stream(shared);
        self.ask_for_a_sign(shared.now.instant);
    }

    /// §6.2: "If a new TCP connection for the IKE SA is established while the exchange Initiator is waiting for a response, the
    /// Initiator MUST retransmit its request over this connection and continue to wait for a response." Its tries don't begin
    /// anew: who accepts connections and says nothing is dead.
    fn repeat_by_stream(&mut self, shared: &mut Shared) {
        self.stream.resend = false;
        let Some(request) = self.outgoing.in_flight() else {
            return;
        };
        let datagrams = request.datagrams.clone();
        shared.counters.retransmitted += 1;
        shared.count(self.name(), |tally| tally.retransmissions += 1);
        shared.transmit(self.path, &datagrams);
        self.last_sent = shared.now.instant;
    }

    fn ask_for_a_sign(&mut self, now: Instant) {
        if !self.is_established() {
            return;
        }
        if self.mobike.enabled && self.mobike.decides {
            self.mobike.pending.update = true;
            self.jobs.add(now, Job::UpdateAddresses);
        } else {
            self.jobs.add(now, Job::Liveness);
        }
    }

    /// From now on it runs over TCP.
    fn enter_tcp(&mut self, shared: &Shared, why: &'static str) {
        self.stream.why = Some(why);
        (self.stream.probes, self.stream.since) = (0, Some(shared.now.instant));
    }

    /// Its path is another one now; what is in flight has not gone there yet.
    pub fn took_path(&mut self) {
        self.stream.lost = false;
        self.stream.resend = self.path.is_tcp();
        self.stream.probe = None;
    }

    /// The TCP connection of its path is closed. §6.1: "If a DELETE payload has not been sent, both sides SHOULD maintain the
    /// state for their SAs for the standard lifetime or timeout period. The TCP Originator is responsible for re-establishing
    /// the TCP connection".
    pub fn stream_closed(&mut self, shared: &mut Shared) {
        self.stream.lost = true;
        match self.stage {
            Stage::Initiating => {
                let verdict = format!("the TCP connection to {} was closed", self.path.remote);
                let hint = "does the peer speak IKE over TCP (RFC 9329) on this port, and has it a connection for us?";
                self.tell_failure(
                    shared,
                    Reason::NoAnswer,
                    verdict.clone(),
                    vec![],
                    vec![],
                    Some(hint.to_owned()),
                );
                self.close(shared, &verdict);
            }
            Stage::Established if self.ours => {
                let now = shared.now.instant;
                // One that is closed as soon as it is open waits for the time below.
                let stood = |opened| now.saturating_since(opened) >= SHORT_LIFE;
                if self.stream.opened.is_none_or(stood) {
                    self.want_stream(shared, Wish::Resume);
                }
                // If none can be had, its retransmission times say when to try again, and when to give up.
                self.ask_for_a_sign(now);
            }
            _ => {}
        }
    }

    /// An authentic message of the peer came by a TCP connection. §6.1: a TCP Responder "SHOULD choose the TCP connection on
    /// which it last received a valid and decryptable IKE or ESP message", which is not "a retransmission of a previously
    /// received message". From UDP to TCP it is MOBIKE that moves an SA (§5).
    pub fn follow_stream(&mut self, shared: &mut Shared, path: Path) {
        // Another connection may have the ends of the one that was lost.
        let is_there = self.path == path && !self.stream.lost;
        if self.ours || !self.path.is_tcp() || !path.is_tcp() || is_there {
            return;
        }
        self.set_path(shared, path, true, "the peer has opened another TCP connection");
        self.repeat_by_stream(shared);
    }

    /// The way by which a request that got no answer is sent again; `None`: it is not.
    pub fn way_to_repeat(&mut self, shared: &mut Shared, path: Path) -> Option<Path> {
        let sent = self.outgoing.in_flight().map_or(0, |request| request.sent);
        if !path.is_tcp() && self.path.is_tcp() {
            if sent <= PROBE_BY_UDP {
                return Some(path);
            }
            // UDP does not work yet.
            self.outgoing.redirect(self.path);
            return (!self.stream.lost).then_some(self.path);
        }
        if !path.is_tcp() {
            let falls_back =
                self.is_established() && self.mobike.enabled && self.mobike.decides && self.may_fall_back();
            if falls_back && sent >= REQUEST_BY_UDP {
                self.want_stream(shared, Wish::FallBack);
            }
            return Some(path);
        }
        if std::mem::take(&mut self.stream.resend) {
            return Some(path);
        }
        // §6.2: "The exchange Initiator SHOULD NOT retransmit request message". A connection that says nothing for long is
        // replaced by another, though: a NAT may have forgotten it.
        let up = matches!(self.stage, Stage::Established | Stage::Closing);
        if self.ours && up && (self.stream.lost || sent > SILENT) {
            self.want_stream(shared, Wish::Resume);
        }
        None
    }

    fn may_fall_back(&self) -> bool {
        let connection = self.connection.as_ref();
        connection.is_some_and(|connection| connection.tcp_use() == TcpUse::Fallback)
    }

    /// Whether IKE_SA_INIT has been sent often enough by UDP, without any answer.
    #[must_use]
    pub fn is_unheard(&self, now: Instant) -> bool {
        let Some(Exchange::Init(exchange)) = &self.exchange else {
            return false;
        };
        let often = |request: &super::window::InFlight| request.due <= now && request.sent >= INIT_BY_UDP;
        exchange.has_heard_nothing()
            && !self.path.is_tcp()
            && self.may_fall_back()
            && self.outgoing.in_flight().is_some_and(often)
    }

    /// UDP got no answer: another SA is begun by TCP. §5.1: "When switching from UDP to TCP, a new IKE_SA_INIT exchange MUST be
    /// initiated with the Initiator's new SPI and with recalculated content of NAT_DETECTION_*_IP notifications."
    pub fn fall_back(&mut self, shared: &mut Shared) -> bool {
        let Some(connection) = self.connection.clone() else {
            return false;
        };
        if !matches!(self.stage, Stage::Initiating) || self.path.is_tcp() || !self.may_fall_back() {
            return false;
        }
        let what = self.exchange.as_ref().map_or("request", Exchange::what);
        let verdict = format!(
            "the peer {} does not answer over UDP ({what}): TCP is tried",
            self.path.remote
        );
        self.tell_failure(shared, Reason::NoAnswer, verdict.clone(), vec![], vec![], None);
        let path = tcp_path(&connection, self.path.local.ip(), self.path.remote.ip());
        let spi = shared.ike_spi();
        let mut new = Self::new(shared, spi, IkeSpi::ZERO, true, Stage::Initiating, path);
        new.connection = Some(connection);
        new.wanted = self.wanted.take();
        new.reauthenticates = std::mem::take(&mut self.reauthenticates);
        new.redirection = self.redirection;
        let mut jobs = std::mem::take(&mut self.jobs);
        jobs.drop_if(|job| !matches!(job, Job::CreateChild(_)));
        new.jobs.append(jobs);
        shared.effects.push(Effect::Begin(Box::new(new)));
        self.jobs = Jobs::default();
        self.close(shared, &verdict);
        true
    }

    /// When to find out whether UDP works again. §2: "implementations SHOULD prefer ESP direct or UDP-encapsulated SAs over
    /// TCP-encapsulated SAs when possible"; without MOBIKE an SA has to stay where it is (§5).
    pub fn probe_due(&self) -> Option<Instant> {
        let movable = self.path.is_tcp() && self.mobike.enabled && self.mobike.decides && self.may_fall_back();
        let wait = FIRST_PROBE
            .saturating_mul(1 << self.stream.probes.min(16))
            .min(LAST_PROBE);
        self.stream.since.filter(|_| movable).map(|since| since + wait)
    }

    /// The next request goes by UDP.
    pub fn begin_probe(&mut self, shared: &Shared) -> bool {
        if self.probe_due().is_none() || self.stream.lost {
            return false;
        }
        let port = shared.config.gateway.nat_port;
        let at = |address: SocketAddr| SocketAddr::new(address.ip(), port);
        self.stream.probe = Some(Path::udp(at(self.path.local), at(self.path.remote)));
        self.stream.probes += 1;
        self.stream.since = Some(shared.now.instant);
        true
    }

    /// An authentic answer came by UDP to what was sent there: UDP works.
    pub fn probe_answered(&mut self, shared: &mut Shared, path: Path) {
        let asked = self.outgoing.in_flight().map(|request| request.path);
        if self.path.is_tcp() && !path.is_tcp() && asked == Some(path) {
            self.go(shared, path, "UDP works again");
        }
    }

    /// The ways that there are by UDP, for an SA over TCP; routes or addresses have changed.
    pub fn paths_beside_stream(&mut self, shared: &mut Shared, paths: &[Path], gone: bool) {
        let (local, remote) = (self.path.local.ip(), self.path.remote.ip());
        let same = paths.iter().find(|path| path.remote.ip() == remote);
        let Some(best) = same.or(paths.first()).copied() else {
            return;
        };
        if !gone && best.local.ip() == local && best.remote.ip() == remote {
            // It is the same way; but another network may let UDP through.
            self.stream.probes = 0;
            return;
        }
        if self.mobike.enabled && self.mobike.decides && self.may_fall_back() {
            // §7.1: "the INFORMATIONAL exchange with the UPDATE_SA_ADDRESSES notification SHOULD be initiated first over UDP
            // before attempting over TCP".
            return self.go(shared, best, "the network has changed");
        }
        // §6.1: "new TCP connections may use different IP addresses and/or ports".
        if gone && self.ours {
            self.path.local.set_ip(best.local.ip());
            self.stream_closed(shared);
        }
    }
}

/// Where a TCP connection is to be opened; its port here is not known before.
#[must_use]
pub fn tcp_path(connection: &Connection, local: IpAddr, remote: IpAddr) -> Path {
    Path::tcp(SocketAddr::new(local, 0), SocketAddr::new(remote, connection.tcp_port))
}

fn reason(connection: &Connection) -> &'static str {
    match connection.tcp_use() {
        TcpUse::Always => CONFIGURED,
        TcpUse::Never | TcpUse::Accept | TcpUse::Fallback => UNANSWERED,
    }
}
