//! TCP connections for IKE and ESP (RFC 9329): accepted where the gateway listens, opened where an IKE SA asks for one, and closed
//! when no IKE SA uses them. What they carry is the data path's (`data::streams`), and the TLS around it, after the handshake
//! (`handshakes`).

use super::RunError;
use super::daemon::{Came, Daemon};
use super::handshakes::{self, Handshakes};
use super::journal::Level;
use crate::data::FromStream;
use crate::sys;
use crate::tls::{ClientTls, Session};
use landbridge_proto::policy::sad::{ConnectionName, Path};
use landbridge_proto::wire::IkeSpi;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Connections that nobody has authenticated by, in all and from one address (IPv6: one /64, as one host has).
const MOST_UNPROVEN: usize = 128;
const MOST_UNPROVEN_OF_ONE: usize = 16;
/// How long one may take to authenticate, whatever it says.
const UNPROVEN: Duration = Duration::from_secs(60);
/// How long one may be used by no IKE SA. RFC 9329 §6.1: "the TCP Responder MAY close the connection ... within some reasonable period
/// of time (e.g., a few seconds)"; §6.3.1: "it is believed that 5-10 seconds is a good compromise".
const UNUSED: Duration = Duration::from_secs(10);
/// The same of one that we opened: §6.1: "the TCP Originator SHOULD close the TCP connection if it does not intend to use" it.
const UNUSED_OURS: Duration = Duration::from_secs(3);
/// How long opening one may take, with TLS or without.
const CONNECT: Duration = Duration::from_secs(10);
/// How often unused ones are looked for.
pub(super) const SWEEP: Duration = Duration::from_secs(1);
/// The wait after an error in accepting: such as no descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// An IKE SA's TCP connection, or why there is none.
pub(super) struct Opened {
    spi: IkeSpi,
    connection: ConnectionName,
    remote: SocketAddr,
    outcome: io::Result<(std::net::TcpStream, Option<Session>)>,
}

/// All of them.
pub(super) struct Streams {
    /// Those of `tcp_listen`, and those of `tls_listen`; the one that somebody came to last is the last.
    listeners: Vec<(TcpListener, bool)>,
    open: BTreeMap<Path, Open>,
    pub handshakes: Handshakes,
    sender: mpsc::UnboundedSender<Opened>,
    opened: mpsc::UnboundedReceiver<Opened>,
    /// Connections that were closed at once because there were too many.
    pub refused: u64,
}

/// One that is to be closed, and why.
type Over = (Path, u64, &'static str);

/// What is known of one.
struct Open {
    /// The data path's.
    number: u64,
    ours: bool,
    tls: bool,
    proven: bool,
    /// It is closed to make room; its end is not told yet.
    yields: bool,
    since: Instant,
    /// When an IKE SA was last seen to use it, at first when it was opened.
    used: Instant,
}

impl Streams {
    /// Listens.
    ///
    /// # Errors
    /// Port in use, not permitted.
    pub fn listen(plain: &[SocketAddr], tls: &[SocketAddr]) -> Result<Self, RunError> {
        let mut listeners = Vec::new();
        let plain = plain.iter().map(|address| (address, false));
        for (address, tls) in plain.chain(tls.iter().map(|address| (address, true))) {
            match sys::stream::listen(*address).and_then(TcpListener::from_std) {
                Ok(listener) => listeners.push((listener, tls)),
                // A machine without IPv6 does without, where any address is meant.
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) && address.ip().is_unspecified() => {}
                Err(error) => return Err(RunError::start("the TCP listener")(error)),
            }
        }
        let (sender, opened) = mpsc::unbounded_channel();
        Ok(Self {
            listeners,
            open: BTreeMap::new(),
            handshakes: Handshakes::new(),
            sender,
            opened,
            refused: 0,
        })
    }

    /// Waits for a connection that somebody opens, or one that was asked for.
    pub async fn event(&mut self) -> Came {
        let Self {
            listeners,
            opened,
            handshakes,
            ..
        } = self;
        tokio::select! {
            (socket, tls) = accept(listeners) => Came::Accepted(socket, tls),
            Some(opened) = opened.recv() => Came::Opened(opened),
            Some(done) = handshakes.next() => Came::Secured(done),
        }
    }

    /// Another is to be accepted from there; returns what has to be closed for it. `in_use` are those that IKE SAs use.
    ///
    /// # Errors
    /// There are too many already.
    pub fn admit(&mut self, remote: IpAddr, in_use: impl FnOnce() -> BTreeMap<Path, bool>) -> io::Result<Option<Over>> {
        let unproven = |open: &Open| !open.ours && !open.proven && !open.yields;
        let open = self.open.iter().filter(|(_, open)| unproven(open));
        let all = open.map(|(path, _)| path.remote).chain(self.handshakes.remotes());
        let from_there = all.clone().filter(|other| network(other.ip()) == network(remote));
        if from_there.count() < MOST_UNPROVEN_OF_ONE {
            if all.count() < MOST_UNPROVEN {
                return Ok(None);
            }
            // Those that say nothing don't keep out who does: the oldest goes.
            let in_use = in_use();
            let idle = self.open.iter_mut();
            let idle = idle.filter(|(path, open)| unproven(open) && !in_use.contains_key(path));
            let idle = idle.min_by_key(|(_, open)| open.number);
            match (self.handshakes.oldest(), idle) {
                (Some(began), idle) if idle.as_ref().is_none_or(|(_, open)| began < open.since) => {
                    self.handshakes.end_oldest();
                    return Ok(None);
                }
                (_, Some((path, open))) => {
                    open.yields = true;
                    return Ok(Some((*path, open.number, "others want its place")));
                }
                (_, None) => {}
            }
        }
        self.refused += 1;
        Err(io::Error::other(
            "too many TCP connections that nobody has authenticated by",
        ))
    }

    /// Opens one for an IKE SA, from an address of ours, with TLS or without.
    fn connect(
        &self,
        spi: IkeSpi,
        connection: ConnectionName,
        (local, remote): (IpAddr, SocketAddr),
        tls: Option<ClientTls>,
    ) {
        let sender = self.sender.clone();
        drop(tokio::spawn(async move {
            let opening = tokio::time::timeout(CONNECT, open(local, remote, tls)).await;
            let timeout = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"));
            let outcome = opening.unwrap_or_else(timeout);
            // The receiver lives as long as the loop; after that nobody wants it.
            drop(sender.send(Opened {
                spi,
                connection,
                remote,
                outcome,
            }));
        }));
    }

    /// The data path has it now; whether another of the same ends was there, whose end was not told yet.
    pub fn add(&mut self, path: Path, number: u64, ours: bool, tls: bool) -> bool {
        let now = Instant::now();
        let open = Open {
            number,
            ours,
            tls,
            proven: false,
            yields: false,
            since: now,
            used: now,
        };
        self.open.insert(path, open).is_some()
    }

    /// It is closed; whether nobody has authenticated by it.
    pub fn remove(&mut self, path: &Path) -> bool {
        self.open.remove(path).is_none_or(|open| !open.proven)
    }

    /// An authenticated IKE SA uses it; whether that is new.
    fn prove(&mut self, path: &Path) -> bool {
        let open = self.open.get_mut(path);
        open.is_some_and(|open| !std::mem::replace(&mut open.proven, true))
    }

    /// Whether there is TLS around what this one carries.
    pub fn is_tls(&self, path: &Path) -> bool {
        self.open.get(path).is_some_and(|open| open.tls)
    }

    /// Whether there are any to look after.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Looks at what is used: those that have become proven, and those that are to be closed, with the reason.
    pub fn sweep(&mut self, in_use: &BTreeMap<Path, bool>) -> (Vec<Path>, Vec<Over>) {
        let now = Instant::now();
        let (mut proven, mut over) = (Vec::new(), Vec::new());
        for (path, open) in &mut self.open {
            let used = in_use.get(path);
            if used.is_some() {
                open.used = now;
            }
            if used == Some(&true) && !open.proven {
                open.proven = true;
                proven.push(*path);
            }
            let patience = if open.ours { UNUSED_OURS } else { UNUSED };
            if now.duration_since(open.used) >= patience {
                over.push((*path, open.number, "no IKE SA uses it"));
            } else if !open.ours && !open.proven && now.duration_since(open.since) >= UNPROVEN {
                over.push((*path, open.number, "nobody has authenticated by it"));
            }
        }
        (proven, over)
    }
}

/// Whom an address stands for.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

async fn open(
    local: IpAddr,
    remote: SocketAddr,
    tls: Option<ClientTls>,
) -> io::Result<(std::net::TcpStream, Option<Session>)> {
    let socket = if remote.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    sys::mark::mark(&socket);
    // RFC 9329 §2: "the TCP Originator may initiate TCP connections to the TCP Responder from any local port".
    socket.bind(SocketAddr::new(local, 0))?;
    let socket = socket.connect(remote).await?;
    let Some(tls) = tls else {
        return Ok((socket.into_std()?, None));
    };
    // RFC 9329 Appendix A: "When new TCP connections are re-established due to a broken connection, TLS must be renegotiated."
    let session = tls.connect(remote.ip()).map_err(io::Error::other)?;
    let (socket, session) = handshakes::shake(socket, session, None).await?;
    tracing::debug!(%remote, session = session.describe(), "TLS is up");
    Ok((socket, Some(session)))
}

/// Waits for somebody who opens a connection. The listeners take turns, so that a flood on one keeps nobody from another.
async fn accept(listeners: &mut [(TcpListener, bool)]) -> (TcpStream, bool) {
    loop {
        let came = poll_fn(|cx| {
            for (at, (listener, tls)) in listeners.iter().enumerate() {
                if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                    return Poll::Ready((at, accepted.map(|(socket, _)| (socket, *tls))));
                }
            }
            Poll::Pending
        });
        let (at, accepted) = came.await;
        listeners.rotate_left(at + 1);
        match accepted {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::debug!(%error, "accepting a TCP connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Daemon {
    /// An IKE SA wants one.
    pub(super) fn open_stream(&mut self, spi: IkeSpi, connection: &ConnectionName, local: IpAddr, remote: SocketAddr) {
        let tunnel = self.configuration.tunnels.get(connection);
        let tls = tunnel.and_then(|tunnel| tunnel.tcp_tls.clone());
        let with = if tls.is_some() { " with TLS" } else { "" };
        self.log(
            Level::Info,
            Some(connection),
            &format!("opening a TCP connection{with} to {remote}"),
        );
        self.streams.connect(spi, Arc::clone(connection), (local, remote), tls);
    }

    /// One that an IKE SA asked for is open, or not.
    pub(super) fn opened_stream(&mut self, opened: Opened) {
        let Opened {
            spi,
            connection,
            remote,
            outcome,
        } = opened;
        let stream = outcome.and_then(|(socket, session)| {
            let tls = session.is_some();
            let (path, number) = self.data.add_stream(socket, true, session)?;
            Ok(self.added_stream(path, number, true, tls))
        });
        let stream = stream.map_err(|error| error.to_string());
        if let Err(why) = &stream {
            let text = format!("no TCP connection to {remote}: {why}");
            self.log(Level::Info, Some(&connection), &text);
        }
        self.endpoint.handle_stream(self.clock.now(), spi, stream);
    }

    /// Somebody has opened one.
    pub(super) fn accept_stream(&mut self, socket: TcpStream, tls: bool) {
        let added = socket.peer_addr().and_then(|remote| {
            let yields = self.streams.admit(remote.ip(), || self.endpoint.streams())?;
            if let Some((path, number, why)) = yields {
                self.data.close_stream(&path, number, why);
            }
            match &self.configuration.tls {
                Some(server) if tls => {
                    let session = server.accept().map_err(io::Error::other)?;
                    self.streams.handshakes.begin(socket, remote, session);
                    Ok(())
                }
                _ if tls => Err(io::Error::other("TLS has no certificate")),
                _ => {
                    let (path, number) = self.data.add_stream(socket.into_std()?, false, None)?;
                    self.added_stream(path, number, false, false);
                    Ok(())
                }
            }
        });
        if let Err(error) = added {
            tracing::debug!(%error, "a TCP connection is refused");
        }
    }

    /// The TLS handshake of one that somebody has opened is over.
    pub(super) fn secured_stream(&mut self, done: handshakes::Done) {
        let remote = done.remote;
        let added = done.outcome.and_then(|(socket, session)| {
            tracing::debug!(%remote, session = session.describe(), "TLS is up");
            self.data.add_stream(socket, false, Some(session))
        });
        match added {
            Ok((path, number)) => {
                self.added_stream(path, number, false, true);
            }
            Err(error) => {
                tracing::debug!(%remote, %error, "a TCP connection is refused");
                if let Some(text) = self.streams.handshakes.fail(Instant::now(), remote, &error) {
                    self.log(Level::Info, None, &text);
                }
            }
        }
    }

    /// The data path has it. If it took another's place, nobody has authenticated by this one.
    fn added_stream(&mut self, path: Path, number: u64, ours: bool, tls: bool) -> Path {
        if self.streams.add(path, number, ours, tls) {
            self.endpoint.handle_stream_closed(self.clock.now(), path);
        }
        path
    }

    /// What one carried, or its end.
    pub(super) fn streamed(&mut self, from: FromStream) {
        let now = self.clock.now();
        match from {
            FromStream::Ike(path, number, message) => {
                self.data.stream_taken(&path, number);
                let before = self.endpoint.counters();
                self.endpoint.handle_datagram(now, path, &message);
                let after = self.endpoint.counters();
                // RFC 9329 §6.1: "if the authentication check for an IKE message or ESP message with a known SPI fails", the stream is
                // corrupted.
                if after.integrity_failed > before.integrity_failed {
                    self.data
                        .close_stream(&path, number, "an IKE message failed its integrity check");
                }
            }
            FromStream::Closed(path, number, why) => {
                // What is there by now may be another connection of the same ends.
                if !self.data.forget_stream(&path, number) {
                    return;
                }
                let unproven = self.streams.remove(&path);
                if unproven {
                    tracing::debug!(remote = %path.remote, why, "a TCP connection is closed");
                } else {
                    let text = format!("the TCP connection {} - {} is closed: {why}", path.local, path.remote);
                    self.log(Level::Info, None, &text);
                }
                self.endpoint.handle_stream_closed(now, path);
            }
        }
    }

    /// An authenticated IKE SA uses this path.
    pub(super) fn prove_stream(&mut self, path: &Path) {
        if self.streams.prove(path) {
            self.data.prove_stream(path);
        }
    }

    /// Closes what nobody uses.
    pub(super) fn sweep_streams(&mut self) {
        let (proven, over) = self.streams.sweep(&self.endpoint.streams());
        for path in proven {
            self.data.prove_stream(&path);
        }
        for (path, number, why) in over {
            self.data.close_stream(&path, number, why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(remote: &str) -> Path {
        let local = "198.51.100.2:4500".parse().unwrap();
        Path::tcp(local, SocketAddr::new(remote.parse().unwrap(), 40_000))
    }

    #[test]
    fn silent_strangers_make_room() {
        let mut streams = Streams::listen(&[], &[]).unwrap();
        let most = u64::try_from(MOST_UNPROVEN).unwrap();
        let of = |number: u64| path(&format!("192.0.2.{number}"));
        let new: IpAddr = "203.0.113.1".parse().unwrap();
        for number in 1..=most {
            assert!(streams.admit(new, BTreeMap::new).unwrap().is_none());
            streams.add(of(number), number, false, false);
        }
        // The first begins an IKE SA: the second goes, then the third though the end of that one was not told yet.
        let used = || BTreeMap::from([(of(1), false)]);
        for oldest in [2, 3] {
            let (path, number, _) = streams.admit(new, used).unwrap().unwrap();
            assert_eq!((path, number), (of(oldest), oldest));
            streams.add(self::path(&format!("203.0.113.{oldest}")), most + oldest, false, false);
        }
        let all = || {
            (1..=most)
                .map(of)
                .chain([2, 3].map(|n| self::path(&format!("203.0.113.{n}"))))
        };
        assert!(
            streams
                .admit(new, || all().map(|path| (path, false)).collect())
                .is_err()
        );
        assert_eq!(streams.refused, 1);
    }

    /// Handshakes of TLS count like connections, and the older of both makes room.
    #[tokio::test]
    async fn handshakes_make_room_too() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let mut streams = Streams::listen(&[], &[]).unwrap();
        let new: IpAddr = "203.0.113.1".parse().unwrap();
        streams.add(path("192.0.2.1"), 1, false, true);
        let mut others = Vec::new();
        for number in 2..=MOST_UNPROVEN {
            assert!(streams.admit(new, BTreeMap::new).unwrap().is_none());
            let (socket, accepted) = tokio::join!(TcpStream::connect(to), listener.accept());
            let remote = SocketAddr::new(format!("192.0.2.{number}").parse().unwrap(), 40_000);
            let session = crate::tls::tests::server().accept().unwrap();
            streams.handshakes.begin(accepted.unwrap().0, remote, session);
            others.push(socket.unwrap());
        }
        // The connection is older; then it is a handshake that goes, which nobody need be told of.
        let (oldest, number, _) = streams.admit(new, BTreeMap::new).unwrap().unwrap();
        assert_eq!((oldest, number), (path("192.0.2.1"), 1));
        streams.add(path("203.0.113.9"), 2, false, true);
        let before = streams.handshakes.remotes().count();
        assert!(streams.admit(new, BTreeMap::new).unwrap().is_none());
        assert_eq!(streams.handshakes.remotes().count(), before - 1);
        assert!(
            streams
                .handshakes
                .remotes()
                .all(|remote| remote.ip().to_string() != "192.0.2.2")
        );
        // And of one address there may be so many of both.
        let of_one: IpAddr = "198.18.0.1".parse().unwrap();
        for number in 0..MOST_UNPROVEN_OF_ONE {
            assert!(streams.admit(of_one, BTreeMap::new).is_ok());
            let remote = SocketAddr::new(of_one, 40_000 + u16::try_from(number).unwrap());
            streams.add(Path::tcp(to, remote), 100, false, true);
        }
        assert!(streams.admit(of_one, BTreeMap::new).is_err());
    }

    #[tokio::test]
    async fn a_flood_on_one_listener_keeps_nobody_from_another() {
        let mut listeners = Vec::new();
        for tls in [false, true] {
            listeners.push((TcpListener::bind("127.0.0.1:0").await.unwrap(), tls));
        }
        let to = |at: usize, listeners: &[(TcpListener, bool)]| listeners[at].0.local_addr().unwrap();
        let (flooded, other) = (to(0, &listeners), to(1, &listeners));
        let mut clients = vec![TcpStream::connect(other).await.unwrap()];
        for _ in 0..10 {
            clients.push(TcpStream::connect(flooded).await.unwrap());
        }
        assert!(!accept(&mut listeners).await.1);
        assert!(accept(&mut listeners).await.1);
        for _ in 0..9 {
            assert!(!accept(&mut listeners).await.1);
        }
    }

    #[test]
    fn an_ipv6_host_is_one() {
        let mut streams = Streams::listen(&[], &[]).unwrap();
        for number in 1..=16 {
            streams.add(path(&format!("2001:db8::{number}:1")), number, false, false);
        }
        let mut admits = |text: &str| streams.admit(text.parse().unwrap(), BTreeMap::new).is_ok();
        assert!(!admits("2001:db8::ffff:ffff:ffff:ffff"));
        assert!(admits("2001:db8:0:1::1"));
    }
}
