//! One thread: what it waits for, and whose turn it is.

use super::inbound::{self, Inbound, StraySink};
use super::outbound::{self, Outbound};
use super::report::ReportSink;
use super::stats::StrayCounters;
use super::table::SaTable;
use crate::sys::poll::{Poll, Waker};
use arc_swap::ArcSwap;
use landbridge_proto::ip::coalesce::CoalesceOptions;
use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// What epoll says is ready: sockets and waker have these, an interface has its own from 16 on.
const WAKER: u64 = 0;
const SOCKET_V4: u64 = 1;
const SOCKET_V6: u64 = 2;
/// Tokens of interfaces begin here.
pub const FIRST_INTERFACE: u64 = 16;

/// What control and one worker share.
pub struct Mailbox {
    waker: Waker,
    stop: AtomicBool,
    /// ESP that control received.
    injected: Mutex<Vec<(SocketAddr, Vec<u8>)>>,
    /// The worker's own.
    pub strays: StrayCounters,
    /// The kernel still segments what this worker sends.
    pub gso: AtomicBool,
}

impl Mailbox {
    /// An empty one.
    ///
    /// # Errors
    /// As the system says.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            waker: Waker::new()?,
            stop: AtomicBool::new(false),
            injected: Mutex::new(Vec::new()),
            strays: StrayCounters::default(),
            gso: AtomicBool::new(true),
        })
    }

    /// The worker looks at the table, and at what was injected.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// The worker ends.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// Hands an ESP packet over; beyond a few it is dropped, as a full socket buffer would.
    pub fn inject(&self, remote: SocketAddr, packet: Vec<u8>) {
        const MOST: usize = 64;
        if let Ok(mut injected) = self.injected.lock()
            && injected.len() < MOST
        {
            injected.push((remote, packet));
        }
        self.wake();
    }
}

/// Everything a worker needs.
pub struct Worker {
    /// Its number.
    pub index: usize,
    /// What to look things up in.
    pub table: Arc<ArcSwap<SaTable>>,
    /// What control says.
    pub mailbox: Arc<Mailbox>,
    /// Its member of the IPv4 group.
    pub ipv4: Arc<UdpSocket>,
    /// Its member of the IPv6 group.
    pub ipv6: Option<Arc<UdpSocket>>,
    /// Reports to control.
    pub reports: Arc<ReportSink>,
    /// IKE that came merged into ESP.
    pub strays: Arc<StraySink>,
    /// The group's port.
    pub nat_port: u16,
    /// Let the kernel segment.
    pub gso: bool,
    /// What to join for the TUN.
    pub coalesce: CoalesceOptions,
}

impl Worker {
    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// As the system says, when it can't wait for its descriptors.
    pub fn run(self) -> io::Result<()> {
        let poll = Poll::new()?;
        poll.add(self.mailbox.waker.as_raw_fd(), WAKER)?;
        poll.add(self.ipv4.as_raw_fd(), SOCKET_V4)?;
        if let Some(socket) = &self.ipv6 {
            poll.add(socket.as_raw_fd(), SOCKET_V6)?;
        }
        let (mut outbound, mut inbound) = (Outbound::new(self.gso), Inbound::new(self.coalesce));
        let mut watched: BTreeSet<(u64, RawFd)> = BTreeSet::new();
        let mut ready = Vec::with_capacity(64);
        let mut table = self.table.load_full();
        self.take_up(&table, &poll, &mut watched);
        loop {
            poll.wait(&mut ready, -1);
            if self.mailbox.stop.load(Ordering::Acquire) {
                return Ok(());
            }
            // Whatever control has published before this wake-up holds for all that is read in it.
            let now = Instant::now();
            let newest = self.table.load();
            if !Arc::ptr_eq(&table, &newest) {
                table = Arc::clone(&newest);
                let installed = |id| table.pairs.contains_key(&id);
                outbound.sync(&installed);
                inbound.sync(&installed);
                self.take_up(&table, &poll, &mut watched);
            }
            drop(newest);
            let into = inbound::Cx {
                now,
                table: &table,
                reports: &*self.reports,
                strays: &*self.strays,
                stray_counters: &self.mailbox.strays,
                nat_port: self.nat_port,
            };
            let out = outbound::Cx {
                now,
                reports: &*self.reports,
                socket_v4: self.ipv4.as_raw_fd(),
                socket_v6: self.ipv6.as_ref().map(|socket| socket.as_raw_fd()),
            };
            // Level-triggered: what is not emptied within its budget is ready again, after the others.
            for token in &ready {
                match *token {
                    WAKER => {
                        self.mailbox.waker.drain();
                        let injected = self.mailbox.injected.lock().map(|mut list| std::mem::take(&mut *list));
                        for (remote, mut packet) in injected.unwrap_or_default() {
                            inbound.inject(remote, &mut packet, &into);
                        }
                    }
                    SOCKET_V4 => drop(inbound.run(&self.ipv4, &into)),
                    SOCKET_V6 => {
                        if let Some(socket) = &self.ipv6 {
                            inbound.run(socket, &into);
                        }
                    }
                    token => {
                        if let Some(port) = table.ports.iter().find(|port| port.interface.token == token) {
                            outbound.run(port, &out);
                        }
                    }
                }
            }
            self.mailbox.gso.store(outbound.gso(), Ordering::Relaxed);
        }
    }

    /// Waits for the interfaces that are this worker's, and no more for those that are gone.
    fn take_up(&self, table: &SaTable, poll: &Poll, watched: &mut BTreeSet<(u64, RawFd)>) {
        let own = table.ports.iter().filter(|port| port.interface.owner == self.index);
        let wanted: BTreeSet<(u64, RawFd)> = own
            .map(|port| (port.interface.token, port.interface.tun.as_raw_fd()))
            .collect();
        for (_, fd) in watched.difference(&wanted) {
            poll.remove(*fd);
        }
        for (token, fd) in wanted.difference(watched) {
            if let Err(error) = poll.add(*fd, *token) {
                tracing::warn!(%error, "an interface can't be watched");
            }
        }
        *watched = wanted;
    }
}
