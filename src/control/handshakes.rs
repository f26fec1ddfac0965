//! TLS handshakes on TCP connections (RFC 9329 Appendix A): the data path has a connection when its handshake is over.

use crate::tls::Session;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{Instant, timeout};

/// How long one that somebody else begins may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many records it may be made of: a flight of either end has one for each message, seldom more than five.
const MOST_RECORDS: usize = 64;
/// RFC 8446 §5.1: type, version, length.
const HEADER: usize = 5;
/// §5.2: "The length MUST NOT exceed 2^14 + 256 bytes."
const LONGEST: usize = (1 << 14) + 256;
/// How often the log is told of those that fail.
const TOLD: Duration = Duration::from_secs(60);

/// Those that others have begun.
pub(super) struct Handshakes {
    under_way: BTreeMap<u64, UnderWay>,
    made: u64,
    sender: mpsc::UnboundedSender<Done>,
    done: mpsc::UnboundedReceiver<Done>,
    /// Strangers have one of our cores at most.
    turn: Arc<Semaphore>,
    /// Those that failed.
    pub failed: u64,
    told: Option<(Instant, u64)>,
    patience: Duration,
}

struct UnderWay {
    remote: SocketAddr,
    since: Instant,
    task: AbortHandle,
}

/// What became of one.
pub(super) struct Done {
    number: u64,
    pub remote: SocketAddr,
    pub outcome: io::Result<(std::net::TcpStream, Session)>,
}

impl Handshakes {
    pub fn new() -> Self {
        let (sender, done) = mpsc::unbounded_channel();
        Self {
            under_way: BTreeMap::new(),
            made: 0,
            sender,
            done,
            turn: Arc::new(Semaphore::new(1)),
            failed: 0,
            told: None,
            patience: PATIENCE,
        }
    }

    /// Somebody has opened this connection.
    pub fn begin(&mut self, socket: TcpStream, remote: SocketAddr, session: Session) {
        self.made += 1;
        let (number, patience) = (self.made, self.patience);
        let (sender, turn) = (self.sender.clone(), Arc::clone(&self.turn));
        let task = tokio::spawn(async move {
            let shaking = timeout(patience, shake(socket, session, Some(&turn))).await;
            let late = |_| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "TLS: the handshake takes too long",
                ))
            };
            let outcome = shaking.unwrap_or_else(late);
            // The receiver lives as long as the loop; after that nobody wants it.
            drop(sender.send(Done {
                number,
                remote,
                outcome,
            }));
        });
        let under_way = UnderWay {
            remote,
            since: Instant::now(),
            task: task.abort_handle(),
        };
        self.under_way.insert(number, under_way);
    }

    /// Waits for one that is over. Those whose place was given to another meanwhile are passed over.
    pub async fn next(&mut self) -> Option<Done> {
        loop {
            let done = self.done.recv().await?;
            if self.under_way.remove(&done.number).is_some() {
                return Some(done);
            }
        }
    }

    /// Those that are under way, by who began them.
    pub fn remotes(&self) -> impl Iterator<Item = SocketAddr> + Clone {
        self.under_way.values().map(|under_way| under_way.remote)
    }

    /// When the oldest began.
    pub fn oldest(&self) -> Option<Instant> {
        self.under_way.values().map(|under_way| under_way.since).min()
    }

    /// Ends the oldest.
    pub fn end_oldest(&mut self) {
        if let Some((_, oldest)) = self.under_way.pop_first() {
            oldest.task.abort();
        }
    }

    /// One has failed; what is to be told of it, and of those that failed since the last time.
    pub fn fail(&mut self, now: Instant, remote: SocketAddr, why: &io::Error) -> Option<String> {
        self.failed += 1;
        let before = match self.told {
            Some((at, _)) if now.duration_since(at) < TOLD => return None,
            Some((_, before)) => before,
            None => 0,
        };
        self.told = Some((now, self.failed));
        let more = self.failed - before - 1;
        let more = if more > 0 {
            format!(" ({more} others too since the last time)")
        } else {
            String::new()
        };
        Some(format!("the TCP connection from {remote} is refused: {why}{more}"))
    }
}

/// Both flights, to the end. It is read record by record and not beyond: what follows is the data path's.
pub(super) async fn shake(
    mut socket: TcpStream,
    mut session: Session,
    turn: Option<&Arc<Semaphore>>,
) -> io::Result<(std::net::TcpStream, Session)> {
    for _ in 0..MOST_RECORDS {
        send(&mut socket, &mut session).await?;
        if !session.is_handshaking() {
            return Ok((socket.into_std()?, session));
        }
        let record = record(&mut socket).await?;
        let turn = match turn {
            Some(turn) => Some(Arc::clone(turn).acquire_owned().await.map_err(io::Error::other)?),
            None => None,
        };
        // Key exchange and signature take their time, which the control thread has better uses for. The turn ends with them, also
        // where nobody waits for them any more.
        let opening = spawn_blocking(move || {
            let opened = session.open(&record, &mut []);
            drop(turn);
            (session, opened)
        });
        let opened;
        (session, opened) = opening.await.map_err(io::Error::other)?;
        match opened {
            Ok(opened) if opened.closed => return Err(ended()),
            Ok(_) => {}
            Err(why) => {
                // The alert; if it can't be sent, that is not what matters.
                drop(send(&mut socket, &mut session).await);
                return Err(io::Error::other(why));
            }
        }
    }
    Err(io::Error::other("TLS: the handshake has no end"))
}

async fn send(socket: &mut TcpStream, session: &mut Session) -> io::Result<()> {
    let mut flight = Vec::new();
    while session.wants_write() {
        session.write_to(&mut flight)?;
    }
    socket.write_all(&flight).await.map_err(|error| in_words(&error))
}

async fn record(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut record = vec![0; HEADER];
    read(socket, &mut record).await?;
    let [kind, _, _, high, low] = record[..] else {
        return Err(ended());
    };
    if record == b"IKETC" {
        let text = "it begins with IKETCP: this port is for IKE in TLS, and the other end does without";
        return Err(io::Error::other(text));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    // §5.1: change_cipher_spec(20), alert(21), handshake(22), application_data(23).
    if !(20..=23).contains(&kind) || length > LONGEST {
        return Err(io::Error::other(
            "TLS: what came is no TLS: does the other end speak TLS on this port?",
        ));
    }
    record.resize(HEADER + length, 0);
    read(socket, record.get_mut(HEADER..).unwrap_or_default()).await?;
    Ok(record)
}

async fn read(socket: &mut TcpStream, place: &mut [u8]) -> io::Result<()> {
    socket
        .read_exact(place)
        .await
        .map(drop)
        .map_err(|error| in_words(&error))
}

fn in_words(error: &io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => ended(),
        kind => io::Error::new(kind, format!("TLS: {error}")),
    }
}

fn ended() -> io::Error {
    io::Error::other("TLS: the other end closed the connection in the handshake: does it speak TLS on this port?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::ClientTls;

    async fn pair() -> (TcpStream, TcpStream, SocketAddr) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (accepted, remote) = accepted.unwrap();
        (ours.unwrap(), accepted, remote)
    }

    fn client() -> Session {
        let tls = ClientTls::new(None, vec![], vec![]).unwrap();
        tls.connect("127.0.0.1".parse().unwrap()).unwrap()
    }

    fn server() -> Session {
        crate::tls::tests::server().accept().unwrap()
    }

    async fn refusal(octets: &[u8]) -> String {
        let (mut ours, accepted, remote) = pair().await;
        let mut handshakes = Handshakes::new();
        handshakes.begin(accepted, remote, server());
        ours.write_all(octets).await.unwrap();
        ours.shutdown().await.unwrap();
        let done = handshakes.next().await.unwrap();
        assert_eq!(done.remote, remote);
        done.outcome.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn both_ends_come_to_an_end_and_nothing_is_lost() {
        let (ours, accepted, remote) = pair().await;
        let mut handshakes = Handshakes::new();
        handshakes.begin(accepted, remote, server());
        // The first message follows at once: it is not for the handshake.
        let (socket, mut session) = shake(ours, client(), None).await.unwrap();
        session.seal(b"IKETCP").unwrap();
        let mut sealed = Vec::new();
        session.write_to(&mut sealed).unwrap();
        socket.set_nonblocking(false).unwrap();
        std::io::Write::write_all(&mut &socket, &sealed).unwrap();
        let (other, mut session) = handshakes.next().await.unwrap().outcome.unwrap();
        other.set_nonblocking(false).unwrap();
        let mut came = vec![0; 1000];
        let len = std::io::Read::read(&mut &other, &mut came).unwrap();
        let mut plain = [0; 100];
        assert_eq!(session.open(&came[..len], &mut plain).unwrap().len, 6);
        assert_eq!(&plain[..6], b"IKETCP");
        assert_eq!(handshakes.remotes().count(), 0);
    }

    #[tokio::test]
    async fn what_is_no_tls_is_told_in_words() {
        for (octets, words) in [
            (&b"IKETCP\0\x20"[..], "it begins with IKETCP"),
            (b"GET / HTTP/1.1\r\n\r\n", "is no TLS"),
            (&[22, 3, 1, 0xff, 0xff, 0], "is no TLS"),
            (b"", "closed the connection in the handshake"),
            (&[22, 3, 1, 0, 100, 1], "closed the connection in the handshake"),
            (&[22, 3, 1, 0, 4, 9, 0, 0, 0], "is no TLS, or is broken"),
            (&[23, 3, 3, 0, 1, 0], "is no TLS, or is broken"),
        ] {
            let why = refusal(octets).await;
            assert!(why.contains(words), "{octets:?}: {why}");
        }
        // One octet of a message in each record: there is an end to it.
        let mut octets = Vec::new();
        for octet in [1, 0, 0xff, 0xff].into_iter().chain(std::iter::repeat_n(7, 1000)) {
            octets.extend_from_slice(&[22, 3, 1, 0, 1, octet]);
        }
        assert!(refusal(&octets).await.contains("has no end"));
    }

    #[tokio::test]
    async fn who_says_nothing_is_not_waited_for() {
        let (_ours, accepted, remote) = pair().await;
        let mut handshakes = Handshakes {
            patience: Duration::from_millis(50),
            ..Handshakes::new()
        };
        handshakes.begin(accepted, remote, server());
        let done = handshakes.next().await.unwrap();
        assert!(done.outcome.unwrap_err().to_string().contains("takes too long"));
    }

    #[tokio::test]
    async fn the_oldest_makes_room() {
        let (first, second) = (pair().await, pair().await);
        let mut handshakes = Handshakes::new();
        let (mut one, mut other) = (first.0, second.0);
        handshakes.begin(first.1, first.2, server());
        handshakes.begin(second.1, second.2, server());
        // It has failed, and nobody has looked yet.
        one.write_all(b"nothing that is known").await.unwrap();
        while handshakes.done.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        handshakes.end_oldest();
        assert_eq!(handshakes.remotes().collect::<Vec<_>>(), [second.2]);
        other.write_all(b"nothing that is known").await.unwrap();
        assert_eq!(handshakes.next().await.unwrap().remote, second.2);
    }

    #[test]
    fn failures_are_told_once_a_minute() {
        let mut handshakes = Handshakes::new();
        let now = Instant::now();
        let remote = "192.0.2.1:9".parse().unwrap();
        let why = io::Error::other("why");
        let first = handshakes.fail(now, remote, &why).unwrap();
        assert_eq!(first, "the TCP connection from 192.0.2.1:9 is refused: why");
        assert_eq!((0..5).filter_map(|_| handshakes.fail(now, remote, &why)).count(), 0);
        let next = handshakes.fail(now + TOLD, remote, &why).unwrap();
        assert!(next.ends_with("why (5 others too since the last time)"));
        assert_eq!(handshakes.failed, 7);
    }
}
