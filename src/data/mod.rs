//! The data path: W plain threads between TUN queues and UDP sockets. No tokio, no lock and no allocation a packet.
//!
//! | file | subject |
//! |---|---|
//! | `table` | the immutable view of all SAs that control publishes |
//! | `worker` | one thread's loop |
//! | `outbound`, `batch` | TUN -> segments, sealed in the send batch -> one send call |
//! | `inbound` | receive batch -> opened, checked, joined -> one write to the TUN |
//! | `report`, `stats` | what control is told, and the counters |
//!
//! Each SA direction has one owner: the worker in the inbound SPI's owner bits, and the worker that reads the connection's
//! TUN for outbound. So sequence numbers and replay windows need no lock, and order is kept by construction.

mod batch;
mod inbound;
mod outbound;
pub mod report;
pub mod stats;
pub mod table;
pub mod worker;

use crate::sys::tun::Tun;
use crate::sys::udp;
use arc_swap::ArcSwap;
use inbound::StraySink;
use landbridge_proto::ip::coalesce::CoalesceOptions;
use landbridge_proto::policy::sad::{ChildSaId, ConnectionName, Encapsulation, Path, SadReport, SadUpdate};
use landbridge_proto::policy::selector::SelectorSet;
use landbridge_proto::policy::spi;
use report::ReportSink;
use stats::PairCounters;
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use table::{Interface, Pair, Port, SaTable};
use worker::{FIRST_INTERFACE, Mailbox, Worker};

/// The running data path, owned by control.
pub struct DataPlane {
    table: Arc<ArcSwap<SaTable>>,
    workers: Vec<(Arc<Mailbox>, JoinHandle<io::Result<()>>)>,
    /// What pairs that are gone have counted, by connection.
    past: BTreeMap<ConnectionName, ChildSaStats>,
    next_token: u64,
    granted: Vec<(&'static str, bool)>,
}

/// How the data path is set up.
#[derive(Clone, Debug)]
pub struct DataOptions {
    /// Worker threads, at least 1.
    pub workers: usize,
    /// NAT traversal port (4500): the reuseport group of workers and control.
    pub nat_port: u16,
    /// Let the kernel segment what is sent (UDP_SEGMENT); off for tests of what a kernel without it gets.
    pub udp_gso: bool,
    /// Hand joined packets to the TUN; off likewise.
    pub coalesce: bool,
}

/// Where the data path puts what is not for it.
pub struct Sinks {
    /// Reports to control. Must not block.
    pub reports: Arc<dyn Fn(SadReport) + Send + Sync>,
    /// IKE messages (marker cut off) that the kernel merged into ESP's. Must not block.
    pub strays: Arc<dyn Fn(Path, Vec<u8>) + Send + Sync>,
}

/// A connection's interface, before SAs exist. It outlives them.
#[derive(Clone, Debug)]
pub struct InterfaceOptions {
    /// TUN name.
    pub name: String,
    /// Inner MTU.
    pub mtu: u16,
    /// Clamp TCP MSS to the inner MTU.
    pub clamp_mss: bool,
}

/// Counters of one direction of a Child SA pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Inner packets (segments, not super-packets).
    pub packets: u64,
    /// Octets of inner packets.
    pub bytes: u64,
}

/// Counters of a Child SA pair.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChildSaStats {
    /// Received.
    pub inbound: Traffic,
    /// Sent.
    pub outbound: Traffic,
    /// Drops by cause (names as in metrics: `replayed`, `integrity`, `selector_in`, `selector_out`, `malformed`, ...).
    pub drops: Vec<(&'static str, u64)>,
}

/// Counters of a connection: they go on across rekeys and while the tunnel is down.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConnectionStats {
    /// Sums of all its Child SAs, past and present.
    pub total: ChildSaStats,
    /// Each present Child SA.
    pub children: Vec<(ChildSaId, ChildSaStats)>,
}

impl DataPlane {
    /// Binds the group of UDP sockets on `nat_port` (index 0 is control's, returned), starts the workers.
    ///
    /// # Errors
    /// Port in use, no permission: as the system says it, with the port in the message.
    pub fn start(options: &DataOptions, sinks: Sinks) -> io::Result<(Self, ControlSockets)> {
        let count = options.workers.clamp(1, 1 << spi::OWNER_BITS);
        let bind = |ipv6| udp::bind_group(ipv6, options.nat_port, count, spi::OWNER_SHIFT, spi::OWNER_BITS);
        let mut ipv4 = bind(false)?.into_iter().map(Arc::new);
        let mut ipv6 = match bind(true) {
            Ok(sockets) => sockets,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => Vec::new(),
            Err(error) => return Err(error),
        }
        .into_iter()
        .map(Arc::new);
        let control = ControlSockets {
            ipv4: ipv4.next().ok_or_else(|| io::Error::other("no socket"))?,
            ipv6: ipv6.next(),
        };
        let table = Arc::new(ArcSwap::from_pointee(SaTable::default()));
        let (reports, strays): (Arc<ReportSink>, Arc<StraySink>) = (sinks.reports, sinks.strays);
        let coalesce = CoalesceOptions {
            tcp: options.coalesce,
            udp: options.coalesce,
        };
        let mut workers = Vec::with_capacity(count);
        for (index, socket) in ipv4.enumerate() {
            let mailbox = Arc::new(Mailbox::new()?);
            let worker = Worker {
                index,
                table: Arc::clone(&table),
                mailbox: Arc::clone(&mailbox),
                ipv4: socket,
                ipv6: ipv6.next(),
                reports: Arc::clone(&reports),
                strays: Arc::clone(&strays),
                nat_port: options.nat_port,
                gso: options.udp_gso,
                coalesce,
            };
            let thread = std::thread::Builder::new()
                .name(format!("landbridge-{index}"))
                .spawn(move || worker.run())?;
            workers.push((mailbox, thread));
        }
        let past = BTreeMap::new();
        Ok((
            Self {
                table,
                workers,
                past,
                next_token: FIRST_INTERFACE,
                granted: Vec::new(),
            },
            control,
        ))
    }

    /// Creates a connection's TUN interface (down, without addresses: that is `control::links`).
    ///
    /// # Errors
    /// No `/dev/net/tun`, no CAP_NET_ADMIN, name taken.
    pub fn add_interface(&mut self, connection: &ConnectionName, options: &InterfaceOptions) -> io::Result<()> {
        let tun = Tun::create(&options.name, options.mtu)?;
        self.granted = vec![("tun-tso", tun.has_tso()), ("tun-uso", tun.has_uso())];
        let token = self.next_token;
        self.next_token += 1;
        // Inbound SAs are dealt out by their SPIs from worker 0 on; outbound from the last one down, so that with two
        // workers the directions of a tunnel run on both.
        let owner = self.workers.len() - 1 - (token - FIRST_INTERFACE) as usize % self.workers.len();
        let name = Arc::clone(connection);
        let interface = Interface::new(token, name, tun, owner, options.clamp_mss, options.mtu);
        self.change(|table| {
            table.ports.push(Port {
                interface: Arc::new(interface),
                active: Vec::new(),
            })
        });
        Ok(())
    }

    /// Removes it, and the SAs that use it.
    pub fn remove_interface(&mut self, connection: &ConnectionName) {
        let table = self.table.load_full();
        let gone: Vec<ChildSaId> = table
            .pairs
            .values()
            .filter(|pair| pair.entry.connection == *connection)
            .map(|pair| pair.id())
            .collect();
        gone.into_iter().for_each(|id| self.forget(id));
        self.change(|table| table.ports.retain(|port| port.interface.connection != *connection));
        self.past.remove(connection);
    }

    /// Changes the inner MTU that segmentation and MSS clamping go by.
    pub fn set_mtu(&mut self, connection: &ConnectionName, mtu: u16) {
        if let Some(port) = self.port(connection) {
            port.interface.set_mtu(mtu);
        }
    }

    /// Carries out an order of the key exchange; it holds for every packet read after this returns.
    pub fn apply(&mut self, update: &SadUpdate) {
        match update {
            SadUpdate::InstallInbound(entry) => {
                let Some(port) = self.port(&entry.connection) else {
                    tracing::warn!(connection = %entry.connection, "a Child SA for a connection without an interface");
                    return;
                };
                if entry.encapsulation == Encapsulation::Raw {
                    tracing::error!(connection = %entry.connection, "ESP without UDP is not supported");
                    return;
                }
                let pair = Pair {
                    entry: Arc::clone(entry),
                    local: SelectorSet::new(&entry.local_ts),
                    remote: SelectorSet::new(&entry.remote_ts),
                    path: entry.path,
                    interface: port.interface,
                    counters: Arc::new(PairCounters::default()),
                };
                self.change(|table| table.put(pair));
            }
            SadUpdate::ActivateOutbound { id, replaces } => self.change(|table| table.activate(*id, *replaces)),
            SadUpdate::DeactivateOutbound(id) => self.change(|table| table.deactivate(*id)),
            SadUpdate::Remove(id) => self.forget(*id),
            SadUpdate::Move { id, path } => {
                if let Some(pair) = self.table.load().pairs.get(id).map(|pair| pair.moved(*path)) {
                    self.change(|table| table.put(pair));
                }
            }
        }
    }

    /// A connection's counters.
    #[must_use]
    pub fn stats(&self, connection: &ConnectionName) -> ConnectionStats {
        let table = self.table.load();
        let mut total = self.past.get(connection).cloned().unwrap_or_default();
        if let Some(port) = table.ports.iter().find(|port| port.interface.connection == *connection) {
            stats::add(&mut total, &port.interface.counters.snapshot());
        }
        let own = table.pairs.values().filter(|pair| pair.entry.connection == *connection);
        let children: Vec<_> = own.map(|pair| (pair.id(), pair.counters.snapshot())).collect();
        children.iter().for_each(|(_, child)| stats::add(&mut total, child));
        ConnectionStats { total, children }
    }

    /// Drops that belong to no connection, by cause (`unknown_spi`, `short`).
    #[must_use]
    pub fn stray_drops(&self) -> Vec<(&'static str, u64)> {
        let sum = |pick: fn(&stats::StrayCounters) -> u64| {
            self.workers.iter().map(|(mailbox, _)| pick(&mailbox.strays)).sum()
        };
        vec![
            ("unknown_spi", sum(|s| s.unknown_spi.get())),
            ("short", sum(|s| s.short.get())),
        ]
    }

    /// What the kernel granted and what was degraded, for `doctor` and `status`: e.g. `("udp-gso", true)`.
    #[must_use]
    pub fn offloads(&self) -> Vec<(&'static str, bool)> {
        let mut offloads = self.granted.clone();
        offloads.push((
            "udp-gso",
            self.workers.iter().all(|(mailbox, _)| mailbox.gso.load(Relaxed)),
        ));
        offloads
    }

    /// An ESP packet that came to control's socket, merged into an IKE message.
    pub fn inject(&self, remote: SocketAddr, packet: Vec<u8>) {
        let Some(spi) = packet.first_chunk::<4>().map(|octets| u32::from_be_bytes(*octets)) else {
            return;
        };
        let owner = usize::from(spi::owner_of(spi)) % self.workers.len();
        self.workers[owner].0.inject(remote, packet);
    }

    /// Stops and joins the workers; removes all interfaces.
    pub fn stop(self) {
        self.workers.iter().for_each(|(mailbox, _)| mailbox.stop());
        for (_, thread) in self.workers {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "a worker ended"),
                Err(_) => tracing::error!("a worker panicked"),
            }
        }
    }

    fn port(&self, connection: &ConnectionName) -> Option<Port> {
        self.table
            .load()
            .ports
            .iter()
            .find(|port| port.interface.connection == *connection)
            .cloned()
    }

    fn forget(&mut self, id: ChildSaId) {
        let mut removed = None;
        self.change(|table| removed = table.remove(id));
        if let Some(pair) = removed {
            let past = self.past.entry(Arc::clone(&pair.entry.connection)).or_default();
            stats::add(past, &pair.counters.snapshot());
        }
    }

    /// A new table for all workers.
    fn change(&mut self, change: impl FnOnce(&mut SaTable)) {
        let mut table = SaTable::clone(&self.table.load());
        change(&mut table);
        self.table.store(Arc::new(table));
        self.workers.iter().for_each(|(mailbox, _)| mailbox.wake());
    }
}

/// Control's members of the reuseport groups on the NAT port: what carries a non-ESP marker comes here.
pub struct ControlSockets {
    /// `0.0.0.0:4500`.
    pub ipv4: Arc<UdpSocket>,
    /// `[::]:4500`, if the machine has IPv6.
    pub ipv6: Option<Arc<UdpSocket>>,
}
