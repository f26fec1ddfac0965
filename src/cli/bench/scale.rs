//! One tunnel among many: what a packet's way through a gateway takes while the gateway holds ten thousand Child SAs, and
//! while a thousand of them a second are rekeyed. Both ends hold as many and rekey as many.

use super::network::Network;
use super::tunnel::{End, OUTER, PATIENCE, bring_up, pair, wait};
use super::{Report, Row};
use crate::data::{DataPlane, InterfaceOptions};
use crate::sys::namespace::{current_network, unshare_network};
use landbridge_proto::crypto::{CipherSuite, ESP_PROVIDER};
use landbridge_proto::esp::transform::inner_mtu;
use landbridge_proto::ip::tunnel::{DontFragment, OuterDscp};
use landbridge_proto::policy::sad::{ChildSaId, SadUpdate};
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Child SA pairs at each end.
const PAIRS: usize = 10_000;
/// Connections that they belong to, each with an interface.
const CONNECTIONS: usize = 100;
/// Child SAs rekeyed in a second at each end.
const REKEYS: u32 = 1_000;
/// From one packet to the next.
const INTERVAL: Duration = Duration::from_micros(500);
/// After which a packet counts as lost.
const LOST: Duration = Duration::from_millis(500);
/// The NAT traversal port, which both ends have in a namespace of their own.
const PORT: u16 = 4500;

/// What the far end is to do; it answers each when it is done.
enum Order {
    Fill,
    Rekey(Duration),
}

pub(super) fn run(span: Duration, suite: CipherSuite, workers: Option<usize>) -> io::Result<Report> {
    let workers = workers.unwrap_or(thread::available_parallelism().map_or(1, usize::from).min(8));
    unshare_network()?;
    let (tell, told) = channel();
    let (order, orders) = channel();
    let (tell_done, done) = channel();
    let far = thread::Builder::new().name("far".into()).spawn(move || {
        unshare_network()?;
        drop(tell.send(current_network()?));
        far_end(suite, workers, &orders, &tell_done)
    })?;
    let near = (|| {
        let namespace = wait(&told)?;
        Network::open()?.cable("wire0", "wire1", &namespace)?;
        _ = order.send(Order::Fill);
        let mut data = bring_up(End::Near, suite, workers, 1)?;
        let echo = wait(&done)?;
        let report = near_end(span, suite, &mut data, echo, (&order, &done));
        data.stop();
        report
    })();
    drop(order);
    let far = far.join().map_err(|_| io::Error::other("the far end panicked"))?;
    match (near, far) {
        (Ok(report), Ok(())) => Ok(report),
        (Err(error), Err(other)) if other.kind() == io::ErrorKind::NotConnected => Err(error),
        (_, Err(error)) | (Err(error), Ok(())) => Err(error),
    }
}

fn far_end(suite: CipherSuite, workers: usize, orders: &Receiver<Order>, done: &Sender<u16>) -> io::Result<()> {
    // The first order says that the cable is there.
    wait(orders)?;
    let mut data = bring_up(End::Far, suite, workers, 1)?;
    let echo = UdpSocket::bind((Ipv4Addr::from(End::Far.inner()), 0))?;
    echo.set_read_timeout(Some(Duration::from_millis(100)))?;
    _ = done.send(echo.local_addr()?.port());
    let (stop, stopped) = channel::<()>();
    let echoing = thread::Builder::new().name("echo".into()).spawn(move || {
        let mut packet = [0; 64];
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            if let Ok((len, from)) = echo.recv_from(&mut packet) {
                drop(echo.send_to(packet.get(..len).unwrap_or_default(), from));
            }
        }
    })?;
    let worked = (|| {
        let mut many = None;
        // It ends when the near end has no more orders.
        while let Ok(order) = orders.recv() {
            match (order, &mut many) {
                (Order::Fill, many) => *many = Some(Many::fill(End::Far, suite, &mut data)?),
                (Order::Rekey(span), Some(many)) => drop(many.rekey(span, &mut data)),
                (Order::Rekey(_), None) => {}
            }
            _ = done.send(0);
        }
        Ok(())
    })();
    drop(stop);
    drop(echoing.join());
    data.stop();
    worked
}

fn near_end(
    span: Duration,
    suite: CipherSuite,
    data: &mut DataPlane,
    echo: u16,
    (order, done): (&Sender<Order>, &Receiver<u16>),
) -> io::Result<Report> {
    let socket = UdpSocket::bind((Ipv4Addr::from(End::Near.inner()), 0))?;
    socket.connect(SocketAddr::from((End::Far.inner(), echo)))?;
    let alone = probe(&socket, span)?;
    _ = order.send(Order::Fill);
    let begin = Instant::now();
    let mut many = Many::fill(End::Near, suite, data)?;
    let filled = begin.elapsed();
    done.recv_timeout(6 * PATIENCE)
        .map_err(|_| io::Error::other("the far end did not come to its Child SAs"))?;
    let full = probe(&socket, span)?;
    _ = order.send(Order::Rekey(span));
    let (busy, rekeyed) = thread::scope(|scope| {
        let rekeying = scope.spawn(|| many.rekey(span, data));
        let busy = probe(&socket, span);
        let rekeyed = rekeying.join().map_err(|_| io::Error::other("rekeying panicked"))?;
        Ok::<_, io::Error>((busy?, rekeyed))
    })?;
    wait(done)?;
    let mut rows = vec![Row::new(
        format!("to install a pair, {PAIRS} of them"),
        filled.as_secs_f64() * 1e6 / PAIRS as f64,
        "us",
        None,
    )];
    rows.push(Row::new("rekeys at each end", rekeyed, "a second", None));
    for (name, seen) in [
        ("one pair", &alone),
        ("10,000 pairs", &full),
        ("while they are rekeyed", &busy),
    ] {
        rows.push(Row::new(
            format!("there and back, median, {name}"),
            seen.quantile(0.5),
            "us",
            None,
        ));
        rows.push(Row::new(
            format!("there and back, 99 of 100, {name}"),
            seen.quantile(0.99),
            "us",
            None,
        ));
        rows.push(Row::new(format!("lost, {name}"), seen.lost as f64, "packets", None));
    }
    let ratio = busy.quantile(0.99) / full.quantile(0.99).max(f64::MIN_POSITIVE);
    let bottleneck = format!(
        "While {REKEYS} pairs a second are rekeyed at each end, the slowest of a hundred packets takes {ratio:.1} times what it takes \
         otherwise. Both ends share this machine's processors with the rekeying."
    );
    Ok(Report {
        what: "scale",
        rows,
        bottleneck,
    })
}

/// Times of packets that came back, in microseconds, and how many did not.
struct Seen {
    times: Vec<f64>,
    lost: usize,
}

impl Seen {
    fn quantile(&self, share: f64) -> f64 {
        let at = (self.times.len() as f64 * share) as usize;
        self.times.get(at).or(self.times.last()).copied().unwrap_or(0.0)
    }
}

/// Sends numbered packets, one each [`INTERVAL`] or when the one before has come back.
fn probe(socket: &UdpSocket, span: Duration) -> io::Result<Seen> {
    socket.set_read_timeout(Some(LOST))?;
    let mut seen = Seen {
        times: Vec::new(),
        lost: 0,
    };
    let end = Instant::now() + span;
    let mut number = 0_u64;
    while Instant::now() < end {
        number += 1;
        let sent = Instant::now();
        socket.send(&number.to_be_bytes())?;
        let mut answer = [0; 8];
        loop {
            match socket.recv(&mut answer) {
                Ok(8) if answer == number.to_be_bytes() => {
                    seen.times.push(sent.elapsed().as_secs_f64() * 1e6);
                    break;
                }
                // One that was given up.
                Ok(_) if sent.elapsed() < LOST => {}
                _ => {
                    seen.lost += 1;
                    break;
                }
            }
        }
        thread::sleep(INTERVAL.saturating_sub(sent.elapsed()));
    }
    seen.times.sort_unstable_by(f64::total_cmp);
    Ok(seen)
}

/// Pairs that carry nothing, but for the first, which is not among them.
struct Many {
    end: End,
    suite: CipherSuite,
    /// Identity, slot, connection.
    pairs: VecDeque<(ChildSaId, u16, usize)>,
    /// Slots for successors.
    free: VecDeque<u16>,
    next: u64,
}

impl Many {
    fn fill(end: End, suite: CipherSuite, data: &mut DataPlane) -> io::Result<Self> {
        let sizes = (ESP_PROVIDER.sizes)(suite).ok_or_else(|| io::Error::other("the suite is not there"))?;
        for number in 0..CONNECTIONS {
            let options = InterfaceOptions {
                queues: 1,
                name: format!("many{number}"),
                mtu: inner_mtu(&sizes, OUTER, false, true) as u16,
                clamp_mss: true,
                transport: false,
                dont_fragment: DontFragment::Clear,
                dscp: OuterDscp::default(),
            };
            data.add_interface(&name(number), &options)?;
        }
        let mut many = Self {
            end,
            suite,
            pairs: VecDeque::with_capacity(PAIRS),
            free: (PAIRS as u16..2 * PAIRS as u16).collect(),
            next: 1,
        };
        for index in 1..PAIRS {
            many.install(data, index % CONNECTIONS, index as u16, None);
        }
        Ok(many)
    }

    fn install(&mut self, data: &mut DataPlane, connection: usize, slot: u16, replaces: Option<ChildSaId>) {
        let id = ChildSaId(self.next);
        self.next += 1;
        // Hosts of no interest, but different ones: 10.128.0.0 and up.
        let [high, low] = slot.to_be_bytes();
        let host = |end: End| [10, 127 + end.number(), high, low];
        let hosts = (host(self.end), host(self.end.other()));
        if let Some(entry) = pair(self.end, self.suite, PORT, name(connection), (id, slot), hosts) {
            data.apply(&SadUpdate::InstallInbound(Arc::new(entry)));
            data.apply(&SadUpdate::ActivateOutbound { id, replaces });
            self.pairs.push_back((id, slot, connection));
        }
    }

    /// Rekeys the oldest ones; returns how many in a second it came to.
    fn rekey(&mut self, span: Duration, data: &mut DataPlane) -> f64 {
        let begin = Instant::now();
        let mut count = 0_u32;
        while begin.elapsed() < span {
            if let (Some((old, slot, connection)), Some(free)) = (self.pairs.pop_front(), self.free.pop_front()) {
                self.install(data, connection, free, Some(old));
                data.apply(&SadUpdate::Remove(old));
                self.free.push_back(slot);
                count += 1;
            }
            let due = begin + Duration::from_secs(1) * count / REKEYS;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        f64::from(count) / begin.elapsed().as_secs_f64()
    }
}

fn name(connection: usize) -> Arc<str> {
    format!("many{connection}").into()
}
