//! A tunnel from one end to the other on this machine: two data paths with fixed keys in two network namespaces, a cable
//! between them, TCP through it. Both ends and both hosts share the processors: a real gateway has but one end.

use super::crypto::{FULL, cost, parameters};
use super::network::Network;
use super::{Report, Row};
use crate::data::{DataOptions, DataPlane, InterfaceOptions, RawEsp, Sinks};
use crate::sys::namespace::{current_network, unshare_network};
use landbridge_proto::crypto::{CipherSuite, ESP_PROVIDER, Secret};
use landbridge_proto::esp::transform::inner_mtu;
use landbridge_proto::ip::tunnel::DontFragment;
use landbridge_proto::policy::sad::{ChildSaEntry, ChildSaId, Encapsulation, Mode, Path, SadUpdate, TrafficLimits};
use landbridge_proto::policy::selector::from_prefix;
use landbridge_proto::policy::spi;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Octets of the outer path.
pub(super) const OUTER: usize = 1500;
/// The owner bits of an SPI.
const OWNERS: u32 = ((1 << spi::OWNER_BITS) - 1) << spi::OWNER_SHIFT;
/// Before the figures are taken.
const WARM_UP: Duration = Duration::from_millis(700);
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Of a processor: from here on it counts as busy.
const BUSY: f64 = 0.85;

/// One of the two ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Near,
    Far,
}

impl End {
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Near => Self::Far,
            Self::Far => Self::Near,
        }
    }

    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Near => 1,
            Self::Far => 2,
        }
    }

    pub(super) const fn outer(self) -> [u8; 4] {
        [192, 0, 2, self.number()]
    }

    pub(super) const fn inner(self) -> [u8; 4] {
        [10, 99, 0, self.number()]
    }
}

/// What the tunnel consists of, and what goes through it.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub pairs: u16,
    pub streams: usize,
}

impl Load {
    fn words(self) -> String {
        let streams = match self.streams {
            1 => "one TCP stream".to_owned(),
            streams => format!("{streams} TCP streams"),
        };
        match self.pairs {
            1 => streams,
            pairs => format!("{streams}, {pairs} SA pairs"),
        }
    }
}

pub(super) fn run(
    span: Duration,
    words: &str,
    suite: CipherSuite,
    workers: Option<usize>,
    load: Load,
) -> io::Result<Report> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let workers = workers.unwrap_or(processors.min(8));
    let missing = || io::Error::other(format!("{words} is not there"));
    let cipher = cost(suite, FULL, span / 4).ok_or_else(missing)?;
    unshare_network()?;
    let (tell, told) = channel();
    let (go, gone) = channel();
    let received = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&received);
    let far = thread::Builder::new()
        .name("far".into())
        .spawn(move || -> io::Result<()> {
            unshare_network()?;
            drop(tell.send((current_network()?, 0)));
            wait(&gone)?;
            let data = bring_up(End::Far, suite, workers, load.pairs)?;
            let listener = TcpListener::bind((Ipv4Addr::from(End::Far.inner()), 0))?;
            drop(tell.send((current_network()?, listener.local_addr()?.port())));
            receive(&listener, load.streams, &count)?;
            data.stop();
            Ok(())
        })?;
    let near = (|| -> io::Result<_> {
        let (namespace, _) = wait(&told)?;
        Network::open()?.cable("wire0", "wire1", &namespace)?;
        let data = bring_up(End::Near, suite, workers, load.pairs)?;
        _ = go.send(());
        let (_, port) = wait(&told)?;
        let measured = measure(span, &data, port, load.streams, &received);
        Ok((measured, data))
    })();
    drop(go);
    // The end of the streams is still under way: the far end has seen it before the near one stops.
    let far = far.join().map_err(|_| io::Error::other("the far end panicked"))?;
    let (measured, data) = match (near, far) {
        (Ok(near), Ok(())) => near,
        // Each says of the other that it did not come up: the one with another reason is right.
        (Err(error), Err(other)) if other.kind() == io::ErrorKind::NotConnected => return Err(error),
        (_, Err(error)) | (Err(error), Ok(())) => return Err(error),
    };
    data.stop();
    let measured = measured?;
    let words = format!("{}, {words}", load.words());
    Ok(measured.report(words, cipher.seal + cipher.open, processors))
}

/// What the other thread says, or an error if it came to nothing: then its own error is the one to tell.
pub(super) fn wait<T>(from: &Receiver<T>) -> io::Result<T> {
    from.recv_timeout(PATIENCE)
        .map_err(|_| io::Error::new(io::ErrorKind::NotConnected, "the other end did not come up"))
}

/// One end, in the calling thread's namespace, with so many pairs.
pub(super) fn bring_up(end: End, suite: CipherSuite, workers: usize, pairs: u16) -> io::Result<DataPlane> {
    let network = Network::open()?;
    let wire = if end == End::Near { "wire0" } else { "wire1" };
    network.configure(wire, OUTER as u16, end.outer(), 24)?;
    let options = DataOptions {
        workers,
        raw: RawEsp::Off,
        ..DataOptions::default()
    };
    let port = options.nat_port;
    let sinks = Sinks {
        reports: Arc::new(|_| true),
        strays: Arc::new(|_, _| {}),
        audit: Arc::new(|_| {}),
        streams: Arc::new(|_| {}),
    };
    let (mut data, _) = DataPlane::start(&options, sinks)?;
    let wrong = || io::Error::other("the suite is not there");
    let sizes = (ESP_PROVIDER.sizes)(suite).ok_or_else(wrong)?;
    let mtu = inner_mtu(&sizes, OUTER, false, true) as u16;
    let connection: Arc<str> = "bench".into();
    let interface = InterfaceOptions {
        queues: pairs,
        name: "tunnel0".into(),
        mtu,
        clamp_mss: true,
        transport: false,
        dont_fragment: DontFragment::Clear,
        dscp: landbridge_proto::ip::tunnel::OuterDscp::default(),
    };
    data.add_interface(&connection, &interface)?;
    network.configure("tunnel0", mtu, end.inner(), 24)?;
    let hosts = (end.inner(), end.other().inner());
    for resource in 0..pairs {
        let id = ChildSaId(resource.into());
        let mut pair = pair(end, suite, port, Arc::clone(&connection), (id, resource), hosts).ok_or_else(wrong)?;
        pair.resource = resource;
        data.apply(&SadUpdate::InstallInbound(Arc::new(pair)));
        data.apply(&SadUpdate::ActivateOutbound { id, replaces: None });
    }
    Ok(data)
}

/// A pair between two inner hosts (ours first) with fixed keys; the slot of an SPI is the same at both ends.
pub(super) fn pair(
    end: End,
    suite: CipherSuite,
    port: u16,
    connection: Arc<str>,
    (id, slot): (ChildSaId, u16),
    (ours, theirs): ([u8; 4], [u8; 4]),
) -> Option<ChildSaEntry> {
    let sizes = (ESP_PROVIDER.sizes)(suite)?;
    let to = |end: End| {
        let owner = u32::from(slot) << spi::OWNER_SHIFT & OWNERS;
        let mut parameters = parameters(suite, 0x5500_0000 | owner | u32::from(slot))?;
        parameters.key = Secret::new(vec![end.number(); sizes.key_material()]);
        Some(parameters)
    };
    Some(ChildSaEntry {
        id,
        connection,
        child: "net".into(),
        resource: 0,
        inbound: to(end)?,
        outbound: to(end.other())?,
        local_ts: vec![from_prefix(ours.into(), 32)],
        remote_ts: vec![from_prefix(theirs.into(), 32)],
        path: Path::udp(
            SocketAddr::from((end.outer(), port)),
            SocketAddr::from((end.other().outer(), port)),
        ),
        encapsulation: Encapsulation::Udp,
        mode: Mode::Tunnel,
        replay_window: 4096,
        tfc_padding: None,
        aggfrag: None,
        limits: TrafficLimits::default(),
        iv_seed: Secret::new(vec![7; 32]),
    })
}

/// Takes all streams to their ends.
fn receive(listener: &TcpListener, streams: usize, count: &AtomicU64) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let end = Instant::now() + 2 * PATIENCE;
    thread::scope(|scope| {
        let mut receivers = Vec::new();
        while receivers.len() < streams {
            match listener.accept() {
                Ok((stream, _)) => receivers.push(scope.spawn(move || receive_one(stream, count))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error),
            }
        }
        let panicked = || io::Error::other("a receiver panicked");
        let mut results = receivers
            .into_iter()
            .map(|receiver| receiver.join().map_err(|_| panicked())?);
        results.try_for_each(|result| result)
    })
}

fn receive_one(mut stream: TcpStream, count: &AtomicU64) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            len => _ = count.fetch_add(len as u64, Ordering::Relaxed),
        }
    }
}

/// Seconds of user and system time.
#[derive(Clone, Copy, Default, Debug)]
struct Spent {
    user: f64,
    system: f64,
}

/// What was seen between two moments.
struct Measured {
    wall: f64,
    bytes: f64,
    packets: f64,
    /// The workers of both ends together, and the one that did most.
    workers: Spent,
    busiest: f64,
    /// All threads: the workers, and the two hosts.
    all: f64,
}

fn measure(span: Duration, data: &DataPlane, port: u16, streams: usize, received: &AtomicU64) -> io::Result<Measured> {
    let to = SocketAddr::from((End::Far.inner(), port));
    let connect = |_| {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    let streams: Vec<TcpStream> = (0..streams).map(connect).collect::<io::Result<_>>()?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = &stop;
        let send = |mut stream: TcpStream| {
            scope.spawn(move || -> io::Result<()> {
                let block = vec![0xa5; 256 << 10];
                while !stop.load(Ordering::Relaxed) {
                    stream.write_all(&block)?;
                }
                stream.shutdown(std::net::Shutdown::Write)
            })
        };
        let senders: Vec<_> = streams.into_iter().map(send).collect();
        let packets = || {
            let total = data.stats(&"bench".into()).total;
            (total.outbound.packets + total.inbound.packets) as f64
        };
        let look = || -> io::Result<_> {
            let (threads, bytes) = (threads()?, received.load(Ordering::Relaxed));
            Ok((Instant::now(), threads, bytes, packets()))
        };
        let looked = (|| -> io::Result<_> {
            thread::sleep(WARM_UP);
            let before = look()?;
            thread::sleep(span);
            Ok((before, look()?))
        })();
        stop.store(true, Ordering::Relaxed);
        let panicked = || io::Error::other("a sender panicked");
        let sent: Vec<_> = senders.into_iter().map(|sender| sender.join()).collect();
        let (before, after) = looked?;
        for result in sent {
            result.map_err(|_| panicked())??;
        }
        let mut measured = Measured {
            wall: (after.0 - before.0).as_secs_f64(),
            bytes: (after.2 - before.2) as f64,
            packets: after.3 - before.3,
            workers: Spent::default(),
            busiest: 0.0,
            all: 0.0,
        };
        for (id, name, spent) in &after.1 {
            let earlier = before.1.iter().find(|(other, ..)| other == id);
            let earlier = earlier.map_or(Spent::default(), |(.., spent)| *spent);
            let (user, system) = (spent.user - earlier.user, spent.system - earlier.system);
            measured.all += user + system;
            if name.starts_with("data-") {
                measured.workers.user += user;
                measured.workers.system += system;
                measured.busiest = measured.busiest.max(user + system);
            }
        }
        Ok(measured)
    })
}

/// All threads of this process: id, name, time.
fn threads() -> io::Result<Vec<(String, String, Spent)>> {
    // USER_HZ, which is 100 on every architecture that Linux shows it to a program.
    const TICKS: f64 = 100.0;
    let mut list = Vec::new();
    for entry in fs::read_dir("/proc/self/task")? {
        let path = entry?.path();
        // A thread may end meanwhile.
        let (Ok(name), Ok(stat)) = (
            fs::read_to_string(path.join("comm")),
            fs::read_to_string(path.join("stat")),
        ) else {
            continue;
        };
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // proc(5): utime and stime are fields 14 and 15; the list begins with field 3.
        let seconds = |field: usize| {
            fields
                .get(field)
                .and_then(|text| text.parse::<f64>().ok())
                .unwrap_or(0.0)
                / TICKS
        };
        let spent = Spent {
            user: seconds(11),
            system: seconds(12),
        };
        let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        list.push((id, name.trim().to_owned(), spent));
    }
    Ok(list)
}

impl Measured {
    /// `cipher`: nanoseconds of sealing and opening a full packet.
    fn report(&self, words: String, cipher: f64, processors: usize) -> Report {
        let gigabytes = (self.bytes / 1e9).max(f64::MIN_POSITIVE);
        // A packet counted at the near end is sealed or opened at each end once; acknowledgements are short.
        let cipher = (self.packets * cipher / 1e9).min(self.workers.user);
        let own = self.workers.user - cipher;
        let hosts = self.all - self.workers.user - self.workers.system;
        let parts = [
            ("the kernel, for the workers (TUN, UDP)", self.workers.system),
            ("the cipher, both ends", cipher),
            ("the workers' own code", own),
            ("the two hosts (TCP)", hosts),
        ];
        let mut rows = vec![Row::new(
            words,
            self.packets / self.wall / 1e3,
            "kpackets/s",
            Some(self.bytes * 8.0 / self.wall / 1e9),
        )];
        rows.extend(parts.map(|(name, seconds)| Row::new(name, seconds / gigabytes, "CPU s/GB", None)));
        rows.push(Row::new(
            "busiest worker",
            100.0 * self.busiest / self.wall,
            "% of a core",
            None,
        ));
        rows.push(Row::new(
            "all threads",
            100.0 * self.all / self.wall,
            "% of a core",
            None,
        ));
        let largest = parts
            .iter()
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .map_or("", |part| part.0);
        let bottleneck = if self.all >= BUSY * self.wall * processors as f64 {
            format!(
                "All {processors} processors are busy: this machine carries both gateways and both hosts. The largest part is \
                 {largest}. A gateway by itself has half of the first three parts to do."
            )
        } else if self.busiest >= BUSY * self.wall {
            format!(
                "One worker has a core to itself and no more to give: a direction of an SA pair is worked on by one. The largest part is \
                 {largest}. More tunnels use more cores, and so do more pairs (RFC 9611) with more streams."
            )
        } else {
            "Nothing is at its limit: the stream waits, for wake-ups and for its window. Other load on this machine has the same look."
                .to_owned()
        };
        Report {
            what: "tunnel",
            rows,
            bottleneck,
        }
    }
}
