//! The loop: datagrams, reports, commands, timers and signals go into the endpoint; orders, transmits and news come out.

use super::RunError;
use super::addresses::{self, Watch};
use super::attempts::{Attempts, Resolved};
use super::clock::Clock;
use super::handshakes::Done;
use super::history::History;
use super::journal::{Journal, Level};
use super::key_export::KeyExport;
use super::links::Links;
use super::routes::Routes;
use super::server::{Answer, ControlServer, Order};
use super::signing::{Signed, SigningDesk};
use super::sockets::{IkeSockets, Inbound};
use super::solving::{Solution, SolvingDesk};
use super::state::{self, TokenSecret};
use super::streams::{Opened, SWEEP, Streams};
use crate::config::{Configuration, Prefix};
use crate::data::{Audit, DataOptions, DataPlane, FromStream, RawEsp, Sinks};
use landbridge_proto::ike::Endpoint;
use landbridge_proto::policy::sad::{ConnectionName, Encapsulation, Path, SadReport};
use landbridge_proto::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Reports from the workers that may wait for control.
const REPORT_QUEUE: usize = 1024;
/// Auditable events that may wait for control; more are only counted.
const AUDIT_QUEUE: usize = 64;
/// IKE messages that came to the workers, waiting for control.
const STRAY_QUEUE: usize = 256;
/// How long a clean stop waits for the peers' answers to Delete.
const STOP_PATIENCE: Duration = Duration::from_secs(3);
/// How often the log is told of what runs out.
const DAY: Duration = Duration::from_secs(86_400);

/// Everything the control thread owns.
pub struct Daemon {
    pub(super) configuration: Configuration,
    pub(super) endpoint: Endpoint,
    pub(super) data: DataPlane,
    pub(super) clock: Clock,
    pub(super) journal: Journal,
    pub(super) known: BTreeMap<ConnectionName, Known>,
    /// What is counted of each connection that ever was.
    pub(super) histories: BTreeMap<ConnectionName, History>,
    pub(super) attempts: Attempts,
    sockets: Option<IkeSockets>,
    /// TCP connections (RFC 9329).
    pub(super) streams: Streams,
    pub(super) links: Links,
    pub(super) desk: SigningDesk,
    pub(super) puzzles: SolvingDesk,
    watch: Option<Watch>,
    /// When interfaces that were missing were made last.
    pub(super) mended: Option<tokio::time::Instant>,
    /// The machine's addresses as they were last looked at.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) routes: Routes,
    /// What is up may have changed since the routes were looked at.
    pub(super) routes_due: bool,
    transmit: Vec<u8>,
    /// Where the keys of all SAs go, if the operator wants that.
    pub(super) keys: Option<KeyExport>,
    /// No other gateway of this machine makes tokens of our secret while we have it.
    token_lock: Option<File>,
    pub(super) stopping: bool,
    pub(super) stopped: bool,
}

/// What comes from the workers.
pub struct Inlets {
    reports: mpsc::Receiver<SadReport>,
    strays: mpsc::Receiver<(Path, Vec<u8>)>,
    signed: mpsc::UnboundedReceiver<Signed>,
    solved: mpsc::UnboundedReceiver<Solution>,
    audits: mpsc::Receiver<Audit>,
    /// It is bounded by the connections: `data::streams` has their limits.
    streams: mpsc::UnboundedReceiver<FromStream>,
}

/// What is remembered of a connection beyond its SAs.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// The last failure, until the connection is up again.
    pub failure: Option<(Instant, landbridge_proto::ike::Failure)>,
    /// The MTU its interface has.
    pub mtu: u16,
    /// The path of its last IKE SA, and how ESP goes there.
    pub path: Option<(Path, Encapsulation)>,
}

impl Daemon {
    /// Binds, creates the interfaces, loads the connections. Nothing is left behind on an error.
    ///
    /// # Errors
    /// [`RunError`], with what could not be had.
    pub async fn start(configuration: Configuration, keys: Option<KeyExport>) -> Result<(Self, Inlets), RunError> {
        let clock = Clock::start();
        let (report_sender, reports) = mpsc::channel(REPORT_QUEUE);
        let (stray_sender, strays) = mpsc::channel(STRAY_QUEUE);
        let (audit_sender, audits) = mpsc::channel(AUDIT_QUEUE);
        let (stream_sender, from_streams) = mpsc::unbounded_channel();
        let workers = configuration.gateway.workers.unwrap_or_else(default_workers);
        let nat_port = configuration.gateway.nat_port;
        let connections = &configuration.ike.connections;
        let raw = if connections
            .values()
            .all(|connection| connection.force_udp_encapsulation)
        {
            RawEsp::IfPermitted
        } else {
            RawEsp::Required
        };
        let options = DataOptions {
            workers,
            nat_port,
            raw,
            ..DataOptions::default()
        };
        // A full queue refuses a report, and a later packet tells the same again; IKE is sent again by its timer.
        let sinks = Sinks {
            reports: Arc::new(move |report| {
                let sent = report_sender.try_send(report).is_ok();
                if !sent {
                    tracing::trace!("report queue is full");
                }
                sent
            }),
            strays: Arc::new(move |path, message| {
                if stray_sender.try_send((path, message)).is_err() {
                    tracing::trace!("stray queue is full");
                }
            }),
            audit: Arc::new(move |audit| {
                if audit_sender.try_send(audit).is_err() {
                    tracing::trace!("audit queue is full");
                }
            }),
            // The receiver lives as long as the loop.
            streams: Arc::new(move |from| drop(stream_sender.send(from))),
        };
        let streams = Streams::listen(&configuration.gateway.tcp_listen, &configuration.gateway.tls_listen)?;
        let (data, group) = DataPlane::start(&options, sinks).map_err(RunError::start("the data path"))?;
        let sockets = IkeSockets::open(configuration.gateway.port, configuration.gateway.nat_port, &group)
            .map_err(RunError::start("the IKE sockets"));
        let (sockets, links) = match (sockets, Links::open().map_err(RunError::start("netlink"))) {
            (Ok(sockets), Ok(links)) => (sockets, links),
            (Err(error), _) | (_, Err(error)) => {
                data.stop();
                return Err(error);
            }
        };
        let mut seed = [0; 32];
        if let Err(error) = getrandom::fill(&mut seed) {
            data.stop();
            return Err(RunError::Start {
                what: "the system's random numbers",
                cause: std::io::Error::other(error),
            });
        }
        let endpoint = Endpoint::new(clock.now(), seed, Arc::clone(&configuration.ike));
        zeroize::Zeroize::zeroize(&mut seed);
        let (answers, signed) = mpsc::unbounded_channel();
        let desk = SigningDesk::new(configuration.signers.clone(), answers);
        let (solutions, solved) = mpsc::unbounded_channel();
        let mut daemon = Self {
            configuration,
            endpoint,
            data,
            clock,
            journal: Journal::default(),
            known: BTreeMap::new(),
            histories: BTreeMap::new(),
            attempts: Attempts::default(),
            sockets: Some(sockets),
            streams,
            links,
            desk,
            puzzles: SolvingDesk::new(solutions),
            watch: None,
            mended: None,
            addresses: Vec::new(),
            routes: Routes::default(),
            routes_due: false,
            transmit: Vec::with_capacity(2048),
            keys,
            token_lock: None,
            stopping: false,
            stopped: false,
        };
        daemon.endpoint.tell_messages(Journal::has_debug());
        daemon.make_tokens();
        if let Some(keys) = &daemon.keys {
            let path = keys.path().display().to_string();
            daemon.endpoint.export_keys();
            daemon.log(
                Level::Warn,
                None,
                &format!(
                    "THE KEYS OF ALL SAs ARE WRITTEN TO {path} (--insecure-export-keys): who reads it reads the traffic"
                ),
            );
        }
        for warning in daemon.configuration.warnings.clone() {
            daemon.log(Level::Warn, None, &warning);
        }
        daemon.links.forget_stale_routes(&daemon.policy_routes()).await;
        for (name, tunnel) in daemon.configuration.tunnels.clone() {
            if let Err(error) = daemon.add_tunnel(&name, &tunnel).await {
                daemon.tear_down().await;
                return Err(error);
            }
        }
        if let Err(error) = daemon.sync_routes().await {
            daemon.tear_down().await;
            return Err(RunError::start("a route")(error));
        }
        // What a gateway that was killed left, and nothing of this configuration needs.
        let routes = daemon.policy_routes();
        for ipv6 in [false, true] {
            if !routes.iter().any(|route| route.address.is_ipv6() == ipv6) {
                daemon.links.remove_rule(ipv6).await;
            }
        }
        for (name, granted) in daemon.data.offloads() {
            tracing::info!(offload = name, granted, "data path");
        }
        Ok((
            daemon,
            Inlets {
                reports,
                strays,
                signed,
                solved,
                audits,
                streams: from_streams,
            },
        ))
    }

    /// Runs until a signal or `landbridge stop` ends it, then deletes all SAs, routes and interfaces.
    ///
    /// # Errors
    /// [`RunError`] if a signal handler or the control socket can't be had.
    pub async fn run(mut self, inlets: Inlets, mut server: ControlServer) -> Result<(), RunError> {
        let Inlets {
            mut reports,
            mut strays,
            mut signed,
            mut solved,
            mut audits,
            streams: mut from_streams,
        } = inlets;
        let mut terminate = signal(SignalKind::terminate()).map_err(RunError::start("signals"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::start("signals"))?;
        let mut hangup = signal(SignalKind::hangup()).map_err(RunError::start("signals"))?;
        let watchdog = sd_notify::watchdog_enabled().map_or(Duration::from_secs(3600), |limit| limit / 2);
        let mut watchdog = tokio::time::interval(watchdog);
        let (resolved_sender, mut resolved) = mpsc::channel::<Resolved>(64);
        self.attempts.set_sender(resolved_sender);
        for (name, tunnel) in self.configuration.tunnels.clone() {
            if tunnel.start {
                self.attempts
                    .connect(&name, &tunnel, &self.configuration, Duration::ZERO);
            }
        }
        self.notify(&[sd_notify::NotifyState::Ready]);
        self.log(
            Level::Info,
            None,
            &format!("serving {} connections", self.configuration.tunnels.len()),
        );
        // Without it, SAs stay where they are: a peer that is lost is found dead, as without MOBIKE.
        match Watch::open() {
            Ok(watch) => self.watch = Some(watch),
            Err(error) => tracing::warn!(%error, "changes of addresses and routes are not heard"),
        }
        self.look_at_addresses().await;
        let (mut look_at, mut stop_at) = (None, None);
        let mut days = tokio::time::interval(DAY);
        days.reset();
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.stopped {
            self.drain().await;
            if self.stopped {
                break;
            }
            let wake = self.endpoint.poll_timeout().map_or(Instant::FAR_FUTURE, |(at, _)| at);
            let wake = self.clock.to_tokio(wake);
            // Taken out for the time of the select: the handler needs the endpoint and the sockets at once.
            let Some(mut sockets) = self.sockets.take() else { break };
            let mut watch = self.watch.take();
            let (endpoint, clock, data) = (&mut self.endpoint, self.clock, &self.data);
            let streams = &mut self.streams;
            let sweeps = !streams.is_empty();
            let mut came = None;
            tokio::select! {
                () = sockets.receive(|path, came| match came {
                    Inbound::Ike(message) => endpoint.handle_datagram(clock.now(), path, message),
                    Inbound::Esp(packet) => data.inject(path.remote, packet),
                }) => {}
                Some((path, message)) = strays.recv() => endpoint.handle_datagram(clock.now(), path, &message),
                Some((ticket, signature)) = signed.recv() => endpoint.handle_signature(clock.now(), ticket, signature),
                Some((ticket, solution)) = solved.recv() => endpoint.handle_solution(clock.now(), ticket, solution),
                () = tokio::time::sleep_until(wake) => endpoint.handle_timeout(clock.now()),
                Some(report) = reports.recv() => {
                    endpoint.handle_report(clock.now(), report);
                    while let Ok(report) = reports.try_recv() {
                        endpoint.handle_report(clock.now(), report);
                    }
                }
                Some(audit) = audits.recv() => came = Some(Came::Audit(audit)),
                Some(from) = from_streams.recv() => came = Some(Came::FromStream(from)),
                accepted = streams.event() => came = Some(accepted),
                _ = sweep.tick(), if sweeps => came = Some(Came::Sweep),
                order = server.next() => came = Some(Came::Order(order)),
                Some(target) = resolved.recv() => came = Some(Came::Target(target)),
                _ = terminate.recv() => came = Some(Came::Stop),
                _ = interrupt.recv() => came = Some(Came::Stop),
                _ = hangup.recv() => came = Some(Came::Reload),
                _ = days.tick() => came = Some(Came::Day),
                _ = watchdog.tick() => came = Some(Came::Watchdog),
                () = sleep_until_some(stop_at) => came = Some(Came::Patience),
                () = changed(&mut watch) => came = Some(Came::Change),
                () = sleep_until_some(look_at) => came = Some(Came::Look),
            }
            self.watch = watch;
            self.sockets = Some(sockets);
            match came {
                None => {}
                Some(Came::Order((order, answer))) => self.obey(order, answer).await,
                Some(Came::Target(target)) => self.connect(target),
                Some(Came::Reload) => {
                    if let Err(text) = self.reload().await {
                        self.log(Level::Warn, None, &text);
                    }
                }
                // RFC 4303 §4, RFC 4301 §5.2: what is dropped is an auditable event.
                Some(Came::Audit(audit)) => {
                    let connection = audit.connection.clone();
                    self.log(Level::Info, connection.as_deref(), &audit.to_string());
                }
                Some(Came::FromStream(from)) => self.streamed(from),
                Some(Came::Accepted(socket, tls)) => self.accept_stream(socket, tls),
                Some(Came::Secured(done)) => self.secured_stream(done),
                Some(Came::Opened(opened)) => self.opened_stream(opened),
                Some(Came::Sweep) => self.sweep_streams(),
                Some(Came::Watchdog) => self.notify(&[sd_notify::NotifyState::Watchdog]),
                Some(Came::Day) => self.warn_of_expiries(),
                Some(Came::Stop) => self.begin_stop(),
                Some(Came::Patience) => self.stopped = true,
                Some(Came::Change) => {
                    let soon = tokio::time::Instant::now() + addresses::PAUSE;
                    look_at = Some(look_at.map_or(soon, |at: tokio::time::Instant| at.min(soon)));
                }
                Some(Came::Look) => {
                    self.look_at_addresses().await;
                    look_at = self.mend_interfaces().await;
                }
            }
            if self.stopping && stop_at.is_none() {
                stop_at = Some(tokio::time::Instant::now() + STOP_PATIENCE);
            }
        }
        self.drain().await;
        self.tear_down().await;
        tracing::info!("stopped");
        Ok(())
    }

    /// Orders to the data path first, then the messages that tell the peer (design: make before break).
    pub(super) async fn drain(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            self.handle_event(event).await;
        }
        if self.routes_due
            && self.routes.depend_on_state()
            && let Err(error) = self.sync_routes().await
        {
            self.log(Level::Warn, None, &format!("routes: {error}"));
        }
        while let Some(transmit) = self.endpoint.poll_transmit(&mut self.transmit) {
            if transmit.path.is_tcp() {
                if !self.data.send_ike(&transmit.path, &self.transmit[..transmit.len]) {
                    tracing::debug!(remote = %transmit.path.remote, "the TCP connection is closed: not sent");
                }
                continue;
            }
            let Some(sockets) = self.sockets.as_mut() else { return };
            if let Err(error) = sockets.send(&transmit.path, &self.transmit[..transmit.len], transmit.keepalive) {
                tracing::debug!(remote = %transmit.path.remote, %error, "sending IKE");
            }
        }
    }

    /// The key exchange learns the machine's addresses, and that routes may have changed.
    async fn look_at_addresses(&mut self) {
        let Some(watch) = &self.watch else { return };
        let tunnels = self.configuration.tunnels.values();
        let own: Vec<u32> = tunnels
            .filter_map(|tunnel| crate::sys::netdev::index_of(&tunnel.interface).ok())
            .collect();
        match watch.addresses(&own).await {
            Ok(addresses) => {
                self.addresses.clone_from(&addresses);
                self.endpoint.handle_addresses(self.clock.now(), addresses);
            }
            Err(error) => tracing::warn!(%error, "the machine's addresses"),
        }
    }

    /// Peers get tokens that tell a crash of ours (RFC 6290), if there is a place for the secret they are made from.
    fn make_tokens(&mut self) {
        if !self.configuration.ike.gateway.quick_crash_detection {
            return;
        }
        let folder = state::folder(self.configuration.gateway.state_dir.as_deref());
        match state::token_secret(&folder) {
            Ok(TokenSecret { secret, lock }) => {
                self.endpoint.set_token_secret(secret);
                self.token_lock = Some(lock);
            }
            Err(error) => {
                let text = format!(
                    "{}: {error}: nothing can be kept there, so peers will not notice a crash of this gateway at once; see state_dir",
                    folder.display()
                );
                self.log(Level::Warn, None, &text);
            }
        }
    }

    /// Certificates and revocation lists that run out, or have.
    fn warn_of_expiries(&mut self) {
        let unix = self.clock.now().unix;
        for warning in self
            .configuration
            .expiries
            .iter()
            .filter_map(|expiry| expiry.warning(unix))
            .collect::<Vec<_>>()
        {
            self.log(Level::Warn, None, &warning);
        }
    }

    /// What policy routing leads into tunnels.
    fn policy_routes(&self) -> Vec<Prefix> {
        let tunnels = self.configuration.tunnels.values();
        tunnels
            .filter(|tunnel| tunnel.policy_routing)
            .flat_map(|tunnel| tunnel.routes.iter().copied())
            .collect()
    }

    /// Routes follow the configuration, and, where a network can be reached by several connections, what is up.
    pub(super) async fn sync_routes(&mut self) -> std::io::Result<()> {
        self.routes_due = false;
        let sas = self.endpoint.status();
        let up: BTreeSet<&ConnectionName> = sas
            .iter()
            .filter(|sa| sa.stage != "closing" && !sa.children.is_empty())
            .filter_map(|sa| sa.connection.as_ref())
            .collect();
        let is_up = |name: &ConnectionName| up.contains(name);
        self.routes
            .become_(&self.links, &self.configuration.tunnels, is_up)
            .await
    }

    async fn tear_down(mut self) {
        // Nothing is left to fail here.
        drop(self.routes.become_(&self.links, &BTreeMap::new(), |_| false).await);
        self.data.stop();
    }

    pub(super) fn log(&mut self, level: Level, connection: Option<&str>, text: &str) {
        self.journal.write(self.clock.now().unix, level, connection, text);
    }

    pub(super) fn notify(&self, state: &[sd_notify::NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(state) {
            tracing::debug!(%error, "sd_notify");
        }
    }
}

/// What the loop woke up for.
pub(super) enum Came {
    FromStream(FromStream),
    /// From `tls_listen`, or not.
    Accepted(tokio::net::TcpStream, bool),
    Secured(Done),
    Opened(Opened),
    Sweep,
    Audit(Audit),
    Order((Order, Answer)),
    Target(Resolved),
    Stop,
    Reload,
    Watchdog,
    Day,
    Patience,
    Change,
    Look,
}

async fn changed(watch: &mut Option<Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

fn default_workers() -> usize {
    std::thread::available_parallelism()
        .map_or(1, std::num::NonZero::get)
        .min(8)
}

async fn sleep_until_some(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
