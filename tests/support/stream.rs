//! UDP datagrams with numbers, sent at a steady rate: what is lost, doubled or late shows at the other end.

use super::World;
use super::transfer::inside;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How to send.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Datagrams a second.
    pub datagrams: u64,
    /// Octets of each, at least 8.
    pub len: usize,
    /// For how long.
    pub time: Duration,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Sent.
    pub sent: u64,
    /// Of these not received within two seconds after the last.
    pub lost: u64,
    /// The numbers of the first few that were.
    pub first_lost: Vec<u64>,
    /// Received again.
    pub doubled: u64,
    /// Received after one that was sent later.
    pub late: u64,
}

/// A stream under way.
pub struct Stream {
    sender: JoinHandle<u64>,
    receiver: JoinHandle<Outcome>,
}

impl Stream {
    /// Begins to send from one namespace to an address in another.
    pub fn start(world: &World, from: &str, to: &str, address: &str, rate: Rate) -> Self {
        let address: std::net::IpAddr = address.parse().unwrap();
        let total = Arc::new(AtomicU64::new(u64::MAX));
        let known = Arc::clone(&total);
        let (port_sender, port) = std::sync::mpsc::channel();
        let receiver = inside(world, to, move || {
            let socket = UdpSocket::bind((address, 0)).unwrap();
            grow(&socket);
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            port_sender.send(socket.local_addr().unwrap().port()).unwrap();
            receive(&socket, &known)
        });
        let to = SocketAddr::new(address, port.recv().expect("the receiver could not listen"));
        let sender = inside(world, from, move || {
            let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(to).unwrap();
            let sent = send(&socket, rate);
            total.store(sent, Ordering::Release);
            sent
        });
        Self { sender, receiver }
    }

    /// Waits for the end.
    pub fn finish(self) -> Outcome {
        self.sender.join().expect("the sender failed");
        self.receiver.join().expect("the receiver failed")
    }
}

/// In steps of a millisecond, or of a datagram. A step that comes late sends at most four times its share, so that queues are not filled by
/// a machine that was busy elsewhere.
fn send(socket: &UdpSocket, rate: Rate) -> u64 {
    let begin = Instant::now();
    let most = (rate.datagrams / 250).max(4);
    let step_time = Duration::from_micros(1_000_000 / rate.datagrams.min(1000));
    let (mut sent, mut datagram) = (0_u64, vec![0x5a; rate.len]);
    while begin.elapsed() < rate.time {
        let due = begin.elapsed().as_micros() as u64 * rate.datagrams / 1_000_000;
        let step = due.saturating_sub(sent).min(most);
        for _ in 0..step {
            datagram[..8].copy_from_slice(&sent.to_be_bytes());
            if socket.send(&datagram).is_ok() {
                sent += 1;
            }
        }
        std::thread::sleep(step_time);
    }
    sent
}

fn receive(socket: &UdpSocket, total: &AtomicU64) -> Outcome {
    let (mut seen, mut outcome, mut next) = (Vec::new(), Outcome::default(), 0);
    let (mut buffer, mut quiet) = (vec![0; 65536], 0);
    let mut count = 0;
    while quiet < 20 && count < total.load(Ordering::Acquire) {
        let Ok(len) = socket.recv(&mut buffer) else {
            quiet += u32::from(total.load(Ordering::Acquire) != u64::MAX);
            continue;
        };
        let number = u64::from_be_bytes(buffer[..len].first_chunk().copied().unwrap());
        let at = usize::try_from(number).unwrap();
        if seen.len() <= at {
            seen.resize(at + 1, false);
        }
        if std::mem::replace(&mut seen[at], true) {
            outcome.doubled += 1;
            continue;
        }
        count += 1;
        outcome.late += u64::from(number < next);
        next = next.max(number + 1);
    }
    outcome.sent = total.load(Ordering::Acquire);
    seen.resize(usize::try_from(outcome.sent).unwrap(), false);
    outcome.lost = seen.iter().filter(|seen| !**seen).count() as u64;
    let lost = seen
        .iter()
        .zip(0..)
        .filter(|(seen, _)| !**seen)
        .map(|(_, number)| number);
    outcome.first_lost = lost.take(8).collect();
    outcome
}

/// So that a receiver that has to wait for its processor loses nothing.
fn grow(socket: &UdpSocket) {
    let size: libc::c_int = 32 << 20;
    // SAFETY: an int that lives through the call, with its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            std::ptr::from_ref(&size).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "SO_RCVBUFFORCE");
}
