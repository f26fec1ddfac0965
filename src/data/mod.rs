//! The data path: W plain threads between TUN queues and UDP sockets. No tokio, no lock and no allocation a packet.
//!
//! | module | subject |
//! |---|---|
//! | `table` | the register of all SAs, and the changes of it that the workers hear of |
//! | `options` | how it is set up |
//! | `worker` | the loop of one thread, and what all threads see |
//! | `load` | how busy a worker is |
//! | `eagerness` | how a worker wants to be scheduled |
//! | `outbound` | TUN -> UDP or IP protocol 50: the queues that a worker reads |
//! | `own` | one of them: choose the pair, split |
//! | `placing` | which worker reads the queue of an interface |
//! | `sending` | an outbound SA: seal |
//! | `queues` | several queues of an interface, one for each of a child's pairs |
//! | `attaching` | whether the kernel puts packets on one of them |
//! | `batch` | the send batch: where datagrams are sealed and sent from |
//! | `inbound` | UDP or IP protocol 50 -> TUN: open, check |
//! | `deliver` | joined packets to the TUNs |
//! | `streams/` | TCP connections: reading, writing |
//! | `report` | what workers tell control |
//! | `stats` | the counters |
//! | `audit` | what was dropped, for the log |
//!
//! Who owns what: an inbound SA belongs to the worker that its SPI names (`policy::spi::owner_of`), which is also where the
//! socket filter steers its packets; an outbound SA to the worker that reads its queue of the connection's TUN, and goes with that from
//! worker to worker (`placing`). Sequence counter and replay window are made once, and live until the pair is removed.

mod aggfrag;
mod attaching;
mod audit;
mod batch;
mod deliver;
mod eagerness;
mod inbound;
mod load;
mod options;
mod outbound;
mod own;
mod placing;
mod queues;
mod report;
mod sending;
mod stats;
mod streams;
mod table;
mod worker;

pub(crate) use aggfrag::USUAL_HEADER;
pub use audit::Audit;
pub use options::{DataOptions, InterfaceOptions, RawEsp, TRANSPORT_MTU};
pub use placing::Placement;
pub use report::{FromStream, Sinks};
pub use stats::{ChildSaStats, ConnectionStats, Traffic};

use crate::sys::netdev::index_of;
use crate::sys::poll::{Poll, Waker};
use crate::sys::raw::{no_such_family, open_raw};
use crate::sys::receive::Message;
use crate::sys::tun::{Tun, TunOptions};
use crate::sys::udp::{Group, GroupOptions, Steering, bind_group, has_segmentation};
use eagerness::Busy;
use landbridge_proto::esp::encap::{Datagram, classify};
use landbridge_proto::policy::sad::{ConnectionName, Path, SadUpdate};
use landbridge_proto::policy::spi;
use load::Load;
use stats::{Cause, Counters};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use streams::{Reading, Stream};
use table::{Refusal, Register, Removed};
use worker::{Desk, Letter, Shared, Worker};

/// The kernel's buffers of each UDP socket, in octets: some milliseconds at ten gigabits a second.
const SOCKET_BUFFER: usize = 8 << 20;
/// Letters that may wait for a worker: datagrams that came to another, mostly.
const MAILBOX: usize = 256;
/// How long the workers may take to let an interface go.
const PATIENCE: Duration = Duration::from_secs(2);

/// The running data path, owned by control.
pub struct DataPlane {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Attaches queues and detaches them.
    attaching: JoinHandle<()>,
    register: Register,
    options: DataOptions,
    granted: Granted,
}

/// What the kernel granted at the start.
#[derive(Clone, Copy, Debug)]
struct Granted {
    gro: bool,
    ipv6: bool,
    raw: bool,
    /// Of the interfaces; `None` before the first.
    tun: Option<(bool, bool)>,
}

impl DataPlane {
    /// Binds the group of UDP sockets on `nat_port` (index 0 is control's, returned), starts the workers. Threads and
    /// sockets are of the calling thread's network namespace.
    ///
    /// # Errors
    /// Port in use, no permission: as the system says it, with the address in the message.
    pub fn start(options: &DataOptions, sinks: Sinks) -> io::Result<(Self, ControlSockets)> {
        let workers = options.workers.clamp(1, 1 << spi::OWNER_BITS);
        let steering = Steering {
            shift: spi::OWNER_SHIFT,
            bits: spi::OWNER_BITS,
            workers,
        };
        let group_options = GroupOptions {
            port: options.nat_port,
            gro: options.udp_gro,
            buffer: SOCKET_BUFFER,
        };
        let ipv4 = bind_group(false, &group_options, &steering)?;
        let ipv6 = match bind_group(true, &group_options, &steering) {
            Ok(group) => Some(group),
            // A machine without IPv6 does without.
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(error) => return Err(error),
        };
        let raw = raw_sockets(options.raw, &group_options, &steering)?;
        let granted = Granted {
            gro: ipv4.gro,
            ipv6: ipv6.is_some(),
            raw: raw[0].is_some(),
            tun: None,
        };
        // Before Linux 4.18 what asks for it is ignored, and the datagrams would leave as one.
        let segmentation = ipv4.members.first().is_some_and(has_segmentation);
        let (control_ipv4, members_ipv4) = take_apart(ipv4)?;
        let (control_ipv6, mut members_ipv6) = match ipv6.map(take_apart).transpose()? {
            Some((control, members)) => (Some(control), members.into_iter().map(Some).collect()),
            None => (None, Vec::new()),
        };
        members_ipv6.resize_with(workers, || None);
        let mut desks = Vec::with_capacity(workers);
        let mut ready = Vec::with_capacity(workers);
        let [mut raw_ipv4, mut raw_ipv6] = raw.map(|sockets| sockets.unwrap_or_default().into_iter());
        for (number, sockets) in members_ipv4.into_iter().zip(members_ipv6).enumerate() {
            let (mailbox_sender, mailbox) = sync_channel(MAILBOX);
            let (change_sender, changes) = channel();
            let desk = Desk {
                bell: Arc::new(Waker::new()?),
                changes: change_sender,
                mailbox: mailbox_sender,
                arrivals: Mutex::default(),
                counters: Counters::default(),
                load: Load::default(),
                given: AtomicU64::new(0),
            };
            let worker = Worker {
                number,
                sockets: [Some(sockets.0), sockets.1],
                raw: [raw_ipv4.next(), raw_ipv6.next()],
                mailbox,
                changes,
                poll: Poll::new()?,
                pin: options.pin,
            };
            worker.listen(&desk)?;
            desks.push(desk);
            ready.push(worker);
        }
        let (orders, received) = channel();
        let bells: Vec<Arc<Waker>> = desks.iter().map(|desk| Arc::clone(&desk.bell)).collect();
        let shared = Arc::new(Shared {
            generation: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            began: Instant::now(),
            desks,
            sinks,
            nat_port: options.nat_port,
            segmentation: AtomicBool::new(options.udp_gso && segmentation),
            told_segment_size: AtomicBool::new(false),
            coalesce_tcp: AtomicBool::new(options.coalesce),
            coalesce_udp: AtomicBool::new(options.coalesce),
            orders,
            busy: Busy::default(),
            placement: options.placement,
        });
        let mut data = Self {
            shared,
            threads: Vec::with_capacity(workers),
            attaching: start_thread("data-queues".into(), move || {
                attaching::carry_out(&received, &bells);
                Ok(())
            })?,
            register: Register::new(granted.raw, options.provider),
            options: options.clone(),
            granted,
        };
        for worker in ready {
            let shared = Arc::clone(&data.shared);
            match start_thread(format!("data-{}", worker.number), move || worker.run(&shared)) {
                Ok(thread) => data.threads.push(thread),
                Err(error) => {
                    data.stop();
                    return Err(error);
                }
            }
        }
        let sockets = ControlSockets {
            ipv4: Arc::new(control_ipv4),
            ipv6: control_ipv6.map(Arc::new),
        };
        Ok((data, sockets))
    }

    /// Creates a connection's TUN interface (down, without addresses: that is `control::links`) in the calling thread's
    /// network namespace.
    ///
    /// # Errors
    /// No `/dev/net/tun`, no CAP_NET_ADMIN, name taken.
    pub fn add_interface(&mut self, connection: &ConnectionName, options: &InterfaceOptions) -> io::Result<()> {
        if self.register.has_interface(connection) {
            let text = format!("connection {connection} has an interface already");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        let offload = self.options.tun_offload;
        // More than there are workers would only cost (RFC 9611 §4: "the peer with the least amount of resources may decide to not
        // install a second outbound Child SA for the same resource, as it will never use it to send traffic").
        let count = usize::from(options.queues).clamp(1, self.shared.desks.len().max(1));
        let tuns = Tun::create_queues(&options.name, TunOptions { offload }, count)?;
        let (vnet, uso) = self.granted.tun.unwrap_or((true, true));
        let all = |has: fn(&Tun) -> bool| tuns.iter().all(has);
        self.granted.tun = Some((vnet && all(Tun::vnet), uso && all(Tun::uso)));
        self.register.add_interface(connection, tuns, options);
        self.publish();
        Ok(())
    }

    /// Removes it, and the SAs that use it. When this returns the interface is gone.
    pub fn remove_interface(&mut self, connection: &ConnectionName) {
        let Some(Removed { name, index, queues }) = self.register.remove_interface(connection) else {
            return;
        };
        self.publish();
        // A reload may want its name again at once. It goes with its queues: here, not in a worker, because that takes as long as another program
        // holds the kernel's lock of network devices.
        let is_there = || index.is_some() && index_of(&name).ok() == index;
        let end = Instant::now() + PATIENCE;
        let wait = |held: &dyn Fn() -> bool| {
            while held() && Instant::now() < end {
                std::thread::sleep(Duration::from_micros(200));
            }
        };
        wait(&|| Arc::strong_count(&queues) > 1);
        drop(queues);
        wait(&is_there);
        if is_there() {
            tracing::error!(interface = name, "can't be removed: something still holds it");
        }
    }

    /// Whether a connection has no interface: none was made, or another program has deleted it. Nothing goes by it until it is removed and
    /// added again.
    #[must_use]
    pub fn lacks_interface(&self, connection: &ConnectionName) -> bool {
        self.register.lacks_interface(connection)
    }

    /// Changes the inner MTU that segmentation and MSS clamping go by.
    pub fn set_mtu(&mut self, connection: &ConnectionName, mtu: u16) {
        self.register.set_mtu(connection, mtu);
        self.publish();
    }

    /// Changes what does not take another interface: MTU, MSS clamping, DF and DSCP outside.
    pub fn change_interface(&mut self, connection: &ConnectionName, options: &InterfaceOptions) {
        self.register.change_interface(connection, options);
        self.publish();
    }

    /// Carries out an order of the key exchange; it holds for every packet read after this returns. What can't be carried
    /// out is logged.
    pub fn apply(&mut self, update: &SadUpdate) {
        let result = match update {
            SadUpdate::InstallInbound(entry) => self.register.install(entry),
            SadUpdate::ActivateOutbound { id, replaces } => self.register.activate(*id, *replaces),
            SadUpdate::DeactivateOutbound(id) => self.register.deactivate(*id),
            SadUpdate::Remove(id) => self.register.remove(*id),
            SadUpdate::Move {
                id,
                path,
                encapsulation,
            } => self.register.move_to(*id, *path, *encapsulation),
        };
        match result {
            Ok(()) => self.publish(),
            // Such as what follows a removal of the interface, or a refused install (which was an error then).
            Err(Refusal::Unknown) => tracing::debug!(?update, "an order for a Child SA that is not there"),
            Err(refusal) => tracing::error!(%refusal, ?update, "a Child SA is not installed"),
        }
    }

    fn publish(&mut self) {
        let change = Arc::new(self.register.take_change());
        for desk in &self.shared.desks {
            // A worker that has ended takes the process with it.
            let _ = desk.changes.send(Arc::clone(&change));
        }
        drop(change);
        self.shared.generation.fetch_add(1, Ordering::Release);
        for desk in &self.shared.desks {
            desk.bell.ring();
        }
        self.register.settle();
    }

    /// A connection's counters.
    #[must_use]
    pub fn stats(&self, connection: &ConnectionName) -> ConnectionStats {
        self.register.stats(connection)
    }

    /// Drops that belong to no connection, by cause (`unknown_spi`, `short`, ...).
    #[must_use]
    pub fn stray_drops(&self) -> Vec<(&'static str, u64)> {
        let mut list = Vec::new();
        for desk in &self.shared.desks {
            stats::add_drops(&mut list, desk.counters.drops());
        }
        list
    }

    /// How often the queue of an interface went from one worker to another.
    #[must_use]
    pub fn queues_moved(&self) -> u64 {
        let desks = self.shared.desks.iter();
        desks.map(|desk| desk.given.load(Ordering::Relaxed)).sum()
    }

    /// What the kernel granted and what was degraded, for `doctor` and `status`: e.g. `("udp-gso", true)`.
    #[must_use]
    pub fn offloads(&self) -> Vec<(&'static str, bool)> {
        let shared = &self.shared;
        let mut list = vec![
            ("udp-gso", shared.segmentation.load(Ordering::Relaxed)),
            ("udp-gro", self.granted.gro),
            ("ipv6", self.granted.ipv6),
            ("raw-esp", self.granted.raw),
        ];
        if let Some((vnet, uso)) = self.granted.tun {
            list.push(("tun-tso", vnet && shared.coalesce_tcp.load(Ordering::Relaxed)));
            list.push(("tun-uso", uso && shared.coalesce_udp.load(Ordering::Relaxed)));
        }
        list
    }

    /// Whether ESP without UDP can be sent and received.
    #[must_use]
    pub const fn has_raw(&self) -> bool {
        self.granted.raw
    }

    /// An ESP packet that came to control's socket: the kernel had merged it into an IKE message (UDP_GRO).
    pub fn inject(&self, remote: SocketAddr, packet: &[u8]) {
        let Datagram::Esp(spi) = classify(packet) else { return };
        let message = Message {
            start: 0,
            len: packet.len(),
            segment: packet.len().max(1),
            remote,
            local: if remote.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            },
            tos: 0,
            tcp: None,
        };
        let owner = self.shared.inbound_owner(spi);
        if !self.shared.post(owner, Letter::datagram(&message, packet))
            && let Some(desk) = self.shared.desks.get(owner)
        {
            desk.counters.dropped(Cause::Handover, 1);
        }
    }

    /// Takes a TCP connection over, which we opened (`ours`) or accepted, with the TLS session on it, if there is one, whose
    /// handshake is over; returns what it is called from now on, and its number.
    /// What comes of it, [`Sinks::streams`] tells, the end too. One of the same ends, whose end was not noticed yet, is closed.
    ///
    /// # Errors
    /// It is closed already, or there are no descriptors left.
    pub fn add_stream(
        &mut self,
        socket: TcpStream,
        ours: bool,
        tls: Option<crate::tls::Session>,
    ) -> io::Result<(Path, u64)> {
        crate::sys::stream::prepare(&socket)?;
        let path = Path::tcp(socket.local_addr()?, socket.peer_addr()?);
        let number = self.register.streams_made + 1;
        let stream = Arc::new(Stream::new(socket, path, number, ours, tls));
        let reading = Reading::new(Arc::clone(&stream))?;
        self.register.streams_made = number;
        if let Some(old) = self.register.streams.insert(path, stream) {
            old.close("another has taken its place", &self.shared.sinks);
        }
        // Who reads does not matter much: it goes to the owner of the packets that come.
        let worker = self.register.streams.len() % self.shared.desks.len().max(1);
        self.shared.arrive(worker, reading);
        Ok((path, number))
    }

    /// Sends an IKE message (without marker) by a TCP connection; false if there is none of that name.
    pub fn send_ike(&self, path: &Path, message: &[u8]) -> bool {
        let stream = self.register.streams.get(path);
        stream.is_some_and(|stream| {
            stream.send_ike(message, &self.shared.sinks);
            true
        })
    }

    /// An authenticated IKE SA uses it: its limits are wider.
    pub fn prove_stream(&self, path: &Path) {
        if let Some(stream) = self.register.streams.get(path) {
            stream.prove();
        }
    }

    /// An IKE message that came by the connection of that number was taken.
    pub fn stream_taken(&self, path: &Path, number: u64) {
        if let Some(stream) = self.numbered(path, number) {
            stream.taken();
        }
    }

    /// Closes the connection of that number, for this reason.
    pub fn close_stream(&self, path: &Path, number: u64, why: &str) {
        if let Some(stream) = self.numbered(path, number) {
            stream.close(why, &self.shared.sinks);
        }
    }

    /// The connection of that number is closed: it goes when the last SA that was sent by it does. False if it is gone already.
    pub fn forget_stream(&mut self, path: &Path, number: u64) -> bool {
        let is_there = self.numbered(path, number).is_some();
        is_there && self.register.streams.remove(path).is_some()
    }

    fn numbered(&self, path: &Path, number: u64) -> Option<&Arc<Stream>> {
        let stream = self.register.streams.get(path);
        stream.filter(|stream| stream.number == number)
    }

    /// Stops and joins the workers; removes all interfaces.
    pub fn stop(self) {
        self.shared.stop.store(true, Ordering::Release);
        for desk in &self.shared.desks {
            desk.bell.ring();
        }
        let Self {
            shared,
            threads,
            attaching,
            register,
            ..
        } = self;
        let join = |thread: JoinHandle<()>| {
            if thread.join().is_err() {
                tracing::error!("a thread of the data path had panicked");
            }
        };
        threads.into_iter().for_each(join);
        // With the last who could give it orders that one ends, too.
        drop((shared, register));
        join(attaching);
    }
}

impl std::fmt::Debug for DataPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataPlane")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

fn take_apart(group: Group) -> io::Result<(UdpSocket, Vec<UdpSocket>)> {
    let mut members = group.members.into_iter();
    let control = members
        .next()
        .ok_or_else(|| io::Error::other("a group without members"))?;
    Ok((control, members.collect()))
}

/// The workers' raw sockets over IPv4 and IPv6.
fn raw_sockets(raw: RawEsp, options: &GroupOptions, steering: &Steering) -> io::Result<[Option<Vec<OwnedFd>>; 2]> {
    let open = |ipv6| match open_raw(ipv6, options, steering) {
        Ok(sockets) => Ok(Some(sockets)),
        Err(error) if ipv6 && no_such_family(&error) => Ok(None),
        Err(error) if raw == RawEsp::IfPermitted && error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(error),
    };
    match raw {
        RawEsp::Off => Ok([None, None]),
        RawEsp::IfPermitted | RawEsp::Required => Ok([open(false)?, open(true)?]),
    }
}

fn start_thread(name: String, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.clone()).spawn(move || {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::error!(%error, thread = name, "a thread of the data path can't go on"),
            Err(_) => tracing::error!(thread = name, "a thread of the data path panicked"),
        }
        // A worker that is gone is a tunnel that swallows packets while it looks up. Better to be started again.
        std::process::abort();
    })
}

/// Control's members of the reuseport groups on the NAT port: what carries a non-ESP marker comes here.
pub struct ControlSockets {
    /// 0.0.0.0:4500.
    pub ipv4: Arc<UdpSocket>,
    /// `[::]:4500`, if the machine has IPv6.
    pub ipv6: Option<Arc<UdpSocket>>,
}
