//! The loop of one thread: its TUN queues, its UDP sockets, a bell. Each that is ready has one turn of bounded length, then
//! the kernel is asked again: so no direction and no tunnel starves another.

use super::attaching::Order;
use super::batch::SendBatch;
use super::eagerness::{Busy, Eagerness};
use super::inbound::Inbound;
use super::load::{Load, Meter};
use super::outbound::Outbound;
use super::placing::{self, Handed, Placement, Places, Placing};
use super::queues::Packet;
use super::report::{Nanos, Sinks};
use super::stats::{Cause, Counters};
use super::streams::{Readers, Reading, StreamBatch};
use super::table::Change;
use crate::sys::affinity;
use crate::sys::poll::{Poll, Ready, Timer, Waker};
use crate::sys::raw::forget_errors;
use crate::sys::receive::Message;
use crate::sys::tun::Tun;
use landbridge_proto::ip::coalesce::CoalesceOptions;
use landbridge_proto::ip::vnet::GSO_UDP_L4;
use landbridge_proto::policy::sad::{Encapsulation, Path};
use landbridge_proto::policy::spi;
use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Descriptors that have their turn after one look at the kernel.
const READY: usize = 64;

/// Tokens: the bell, the UDP sockets by family, the raw ones, the timer, then interfaces by number, their other queues far behind
/// the first, and TCP connections behind those.
const BELL: u64 = 0;
const SOCKETS: u64 = 1;
const RAW: u64 = 3;
const TIMER: u64 = 5;
const INTERFACES: u64 = 6;
const QUEUE_SHIFT: u32 = 32;
const STREAMS: u64 = 1 << 42;

/// What all threads of the data path see.
pub(super) struct Shared {
    /// Counts the changes; it is raised after the change is sent.
    pub generation: AtomicU64,
    pub stop: AtomicBool,
    /// Where the workers' clocks begin.
    pub began: Instant,
    pub desks: Vec<Desk>,
    pub sinks: Sinks,
    pub nat_port: u16,
    /// UDP_SEGMENT is in use.
    pub segmentation: AtomicBool,
    pub told_segment_size: AtomicBool,
    /// TCP and UDP packets are joined for the TUN.
    pub coalesce_tcp: AtomicBool,
    pub coalesce_udp: AtomicBool,
    /// To the thread that attaches queues of interfaces and detaches them.
    pub orders: Sender<Order>,
    pub busy: Busy,
    pub placement: Placement,
}

/// Where a worker is reached.
pub(super) struct Desk {
    pub bell: Arc<Waker>,
    pub mailbox: SyncSender<Letter>,
    /// Control alone sends here, and the worker takes all there is at each turn, or what a queue that comes to it has heard of already.
    pub changes: Sender<Arc<Change>>,
    /// TCP connections that the worker is to read from now on.
    pub arrivals: Mutex<Vec<Reading>>,
    /// What belongs to no connection.
    pub counters: Counters,
    pub load: Load,
    /// Queues that the worker gave to others.
    pub given: AtomicU64,
}

/// What came to one worker and is for another.
pub(super) enum Letter {
    /// Datagrams: their message begins at 0.
    Datagrams(Message, Vec<u8>),
    /// What was read from a TUN.
    Packet(Packet),
    /// What reads a TUN.
    Queue(Box<Handed>),
}

impl Letter {
    /// With a datagram that came as part of a message.
    pub(super) fn datagram(message: &Message, datagram: &[u8]) -> Self {
        Self::datagrams(message, datagram, datagram.len())
    }

    /// With several, each of so many octets; the last may be shorter.
    pub(super) fn datagrams(message: &Message, datagrams: &[u8], segment: usize) -> Self {
        let message = Message {
            start: 0,
            len: datagrams.len(),
            segment: segment.max(1),
            ..*message
        };
        Self::Datagrams(message, datagrams.to_vec())
    }
}

/// One time that a worker is awake.
pub(super) struct Wakeup<'a> {
    pub now: Nanos,
    pub shared: &'a Shared,
    pub counters: &'a Counters,
    worker: usize,
}

impl Shared {
    /// Switches UDP_SEGMENT off for good, and says so once.
    pub(super) fn segmentation_off(&self, error: &io::Error) {
        if self.segmentation.swap(false, Ordering::Relaxed) {
            tracing::warn!(%error, "the kernel refuses UDP_SEGMENT here: datagrams are sent one by one from now on");
        }
    }

    /// Joins no more packets of this kind (a gso_type), and says so once.
    pub(super) fn coalescing_off(&self, gso_type: u8, error: &io::Error) {
        let (flag, what) = if gso_type == GSO_UDP_L4 {
            (&self.coalesce_udp, "UDP")
        } else {
            (&self.coalesce_tcp, "TCP")
        };
        if flag.swap(false, Ordering::Relaxed) {
            tracing::warn!(%error, what, "the TUN refuses super-packets: packets are written one by one from now on");
        }
    }

    /// What may be joined for a TUN.
    pub(super) fn coalesce(&self, tun: &Tun) -> CoalesceOptions {
        CoalesceOptions {
            tcp: tun.vnet() && self.coalesce_tcp.load(Ordering::Relaxed),
            udp: tun.uso() && self.coalesce_udp.load(Ordering::Relaxed),
        }
    }

    /// The worker that has the inbound SA of an SPI of ours.
    pub(super) fn inbound_owner(&self, spi: u32) -> usize {
        usize::from(spi::owner_of(spi)) % self.desks.len().max(1)
    }

    /// The worker that reads a queue of an interface: for good where there are several queues, at first where there is one (then see
    /// `placing`). Numbers go down while the owners of SPIs go up.
    pub(super) fn outbound_owner(&self, number: usize, queue: usize) -> usize {
        let count = self.desks.len().max(1);
        count - 1 - (number + queue) % count
    }

    /// Lets a worker read a TCP connection.
    pub(super) fn arrive(&self, worker: usize, reading: Reading) {
        if let Some(desk) = self.desks.get(worker) {
            desk.arrivals
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(reading);
            desk.bell.ring();
        }
    }

    /// Puts a letter into a worker's mailbox and wakes the worker; false if it is full.
    pub(super) fn post(&self, worker: usize, letter: Letter) -> bool {
        self.try_post(worker, letter).is_ok()
    }

    /// Likewise; returns the letter if it is full.
    pub(super) fn try_post(&self, worker: usize, letter: Letter) -> Result<(), Letter> {
        let Some(desk) = self.desks.get(worker) else {
            return Err(letter);
        };
        desk.mailbox.try_send(letter).map_err(|error| match error {
            TrySendError::Full(letter) | TrySendError::Disconnected(letter) => letter,
        })?;
        desk.bell.ring();
        Ok(())
    }
}

impl Wakeup<'_> {
    /// Lets this worker look again soon, whatever comes.
    pub(super) fn again(&self) {
        if let Some(desk) = self.shared.desks.get(self.worker) {
            desk.bell.ring();
        }
    }

    /// Whether this worker has the inbound SA of an SPI of ours.
    pub(super) fn owns(&self, spi: u32) -> bool {
        self.shared.inbound_owner(spi) == self.worker
    }

    /// Hands a datagram to the owner of its SPI; false if that is this worker. It is seldom needed: only when the kernel
    /// merges datagrams of several SPIs of one peer. It allocates and rings.
    pub(super) fn hand_over(&self, spi: u32, message: &Message, datagram: &[u8]) -> bool {
        let owner = self.shared.inbound_owner(spi);
        if owner == self.worker {
            return false;
        }
        if !self.shared.post(owner, Letter::datagram(message, datagram)) {
            self.counters.dropped(Cause::Handover, 1);
        }
        true
    }
}

/// A worker, before its thread begins.
pub(super) struct Worker {
    pub number: usize,
    /// IPv4, IPv6.
    pub sockets: [Option<UdpSocket>; 2],
    /// For ESP without UDP.
    pub raw: [Option<OwnedFd>; 2],
    pub mailbox: Receiver<Letter>,
    pub changes: Receiver<Arc<Change>>,
    pub poll: Poll,
    pub pin: bool,
}

impl Worker {
    /// Waits for the bell and for its sockets, too.
    pub(super) fn listen(&self, desk: &Desk) -> io::Result<()> {
        self.poll.add(&desk.bell, BELL)?;
        for (socket, token) in self.sockets.iter().zip(SOCKETS..) {
            if let Some(socket) = socket {
                self.poll.add(socket, token)?;
            }
        }
        for (socket, token) in self.raw.iter().zip(RAW..) {
            if let Some(socket) = socket {
                self.poll.add(socket, token)?;
            }
        }
        Ok(())
    }

    /// Works until [`Shared::stop`].
    pub(super) fn run(self, shared: &Shared) -> io::Result<()> {
        let Some(desk) = shared.desks.get(self.number) else {
            return Ok(());
        };
        if self.pin
            && let Err(error) = affinity::pin_current_thread(self.number)
        {
            tracing::warn!(%error, worker = self.number, "can't be pinned to a processor");
        }
        let segmentation = shared.segmentation.load(Ordering::Relaxed);
        let mut sending = [None, None, None, None];
        let (udp, raw) = sending.split_at_mut(2);
        for (sending, socket) in udp.iter_mut().zip(&self.sockets) {
            if let Some(socket) = socket {
                *sending = Some(SendBatch::udp(socket.try_clone()?.into(), segmentation));
            }
        }
        for (sending, socket) in raw.iter_mut().zip(&self.raw) {
            if let Some(socket) = socket {
                *sending = Some(SendBatch::raw(socket.try_clone()?));
            }
        }
        let mut at_work = AtWork {
            worker: self,
            shared,
            desk,
            inbound: Inbound::new(),
            outbound: Outbound::new(),
            sending,
            readers: Readers::new(),
            streams: StreamBatch::new(),
            generation: 0,
            changes: 0,
            placing: Placing::new(shared.placement),
            timer: None,
            rings: None,
        };
        let begin = shared.began;
        let mut meter = Meter::new(shared.placement.look(), 0);
        let mut eagerness = Eagerness::new();
        let mut ready = Ready::new(READY);
        while !shared.stop.load(Ordering::Acquire) {
            at_work.worker.poll.wait(&mut ready, None)?;
            let now = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
            for token in (0..ready.len()).filter_map(|index| ready.token(index)) {
                at_work.turn(token, now);
                if at_work.timer.is_some() {
                    let now = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    at_work.tick(now);
                }
            }
            if meter.is_due(now) {
                let used = meter.look(now, &desk.load);
                eagerness.look(used, now, &shared.busy);
                at_work.place(used, now);
            }
        }
        Ok(())
    }
}

/// What is sent by: UDP over IPv4 and IPv6, then raw over IPv4 and IPv6. Those that are not to be had are `None`.
pub(super) type Sockets = [Option<SendBatch>; 4];

/// Which of [`Sockets`] a pair's packets leave by.
pub(super) fn socket_of(path: &Path, encapsulation: Encapsulation) -> usize {
    usize::from(path.is_ipv6())
        + match encapsulation {
            Encapsulation::Udp => 0,
            Encapsulation::Raw => 2,
            // None of them.
            Encapsulation::Tcp => 4,
        }
}

/// A worker's own state, in its thread.
struct AtWork<'a> {
    worker: Worker,
    shared: &'a Shared,
    desk: &'a Desk,
    inbound: Inbound,
    outbound: Outbound,
    sending: Sockets,
    /// TCP connections that it reads, and what is written to them.
    readers: Readers,
    streams: StreamBatch,
    generation: u64,
    /// How many changes it has taken up.
    changes: u64,
    placing: Placing,
    /// Since there was a pair that sends or waits by time (IP-TFS), and when it rings.
    timer: Option<Timer>,
    rings: Option<Nanos>,
}

impl AtWork<'_> {
    fn turn(&mut self, token: u64, now: Nanos) {
        // The bell before what it rings for: what is published after this look rings again.
        if token == BELL {
            self.desk.bell.clear();
        }
        // Before each batch: an order holds for every packet read after it was given.
        self.take_up_changes();
        let desk = self.desk;
        let wakeup = Wakeup {
            now,
            shared: self.shared,
            counters: &desk.counters,
            worker: self.worker.number,
        };
        if self.outbound.is_unsettled() {
            self.outbound
                .settle(&self.shared.orders, &wakeup, &mut self.sending, &mut self.streams);
        }
        match token {
            BELL => {
                if !self.read_letters(&wakeup) {
                    return;
                }
                let arrivals = std::mem::take(&mut *desk.arrivals.lock().unwrap_or_else(PoisonError::into_inner));
                for reading in arrivals {
                    self.readers.take(reading, &self.worker.poll, STREAMS, &wakeup);
                }
            }
            // It rings for what is done after each turn.
            TIMER => {}
            SOCKETS..TIMER => {
                let (family, raw) = (((token - SOCKETS) % 2) as usize, token >= RAW);
                let came = if raw {
                    let socket = self.worker.raw.get(family).and_then(Option::as_ref);
                    let came = socket.is_some_and(|socket| self.inbound.receive(socket));
                    if let Some(socket) = socket.filter(|_| !came && family == 1) {
                        forget_errors(socket);
                    }
                    came
                } else {
                    let socket = self.worker.sockets.get(family).and_then(Option::as_ref);
                    socket.is_some_and(|socket| self.inbound.receive(socket))
                };
                if came {
                    // Once more: an SA may have been installed, and used by the peer, since the look above.
                    self.take_up_changes();
                    self.inbound.turn(raw, &wakeup);
                }
            }
            STREAMS.. => {
                let number = token - STREAMS;
                self.readers.turn(number, &mut self.inbound, &self.worker.poll, &wakeup);
            }
            token => {
                let place = token - INTERFACES;
                let (number, queue) = ((place as u32) as usize, (place >> QUEUE_SHIFT) as usize);
                // What was handed over was read before what is there now.
                if self.outbound.is_one_of_several(number) {
                    self.read_letters(&wakeup);
                }
                self.outbound
                    .turn(number, queue, &wakeup, &mut self.sending, &mut self.streams);
                let poll = &self.worker.poll;
                self.outbound.leave_gone(|tun| left(poll, tun));
            }
        }
    }

    /// What other workers have handed over; false if there may be more.
    fn read_letters(&mut self, wakeup: &Wakeup<'_>) -> bool {
        let (mut letters, mut packets) = (0, 0);
        while letters < READY
            && let Ok(letter) = self.worker.mailbox.try_recv()
        {
            letters += 1;
            match letter {
                Letter::Datagrams(message, mut octets) => self.inbound.handed_over(&mut octets, &message, wakeup),
                Letter::Packet(mut packet) => {
                    packets += 1;
                    self.outbound
                        .handed_over(&mut packet, wakeup, &mut self.sending, &mut self.streams);
                }
                Letter::Queue(handed) => self.take_queue(*handed),
            }
        }
        if packets > 0 {
            send_all(&mut self.sending, &mut self.streams, wakeup);
        }
        if letters == READY {
            self.desk.bell.ring();
        }
        letters < READY
    }

    /// Gives the queue that was read last to another worker if that is better.
    fn place(&mut self, used: u32, now: Nanos) {
        let (me, shared) = (self.worker.number, self.shared);
        let workers = shared.desks.len();
        let latest = self.outbound.latest().filter(|_| workers > 1);
        let places = latest
            .map(|(number, spi)| Places::new(shared.inbound_owner(spi), shared.outbound_owner(number, 0), workers));
        let load = |worker| shared.desks.get(worker).map_or(0, |desk: &Desk| desk.load.get(now));
        let to = self.placing.look(me, places, used, load);
        let (Some((number, _)), Some(to)) = (latest, to) else {
            return;
        };
        let poll = &self.worker.poll;
        let Some(own) = self.outbound.let_go(number, |tun| left(poll, tun)) else {
            return;
        };
        let changes = self.changes;
        match placing::hand(Box::new(Handed { number, own, changes }), to, shared) {
            Ok(()) => {
                self.desk.given.fetch_add(1, Ordering::Relaxed);
            }
            Err(back) => self.take_queue(*back),
        }
    }

    /// Takes a queue that another worker had.
    fn take_queue(&mut self, handed: Handed) {
        // What the giver knew already has been sent to it; control is just about to send it here.
        while self.changes < handed.changes
            && let Ok(change) = self.worker.changes.recv()
        {
            self.take_up(&change);
        }
        let (poll, number) = (&self.worker.poll, handed.number);
        self.outbound
            .take_queue(number, handed.own, |tun| came(poll, number, 0, tun));
        self.look_at_timer();
    }

    /// What is due by time; then the timer is set for what is due next.
    fn tick(&mut self, now: Nanos) {
        let Some(timer) = &self.timer else { return };
        let wakeup = Wakeup {
            now,
            shared: self.shared,
            counters: &self.desk.counters,
            worker: self.worker.number,
        };
        let is_due = |deadline: Option<Nanos>| deadline.is_some_and(|deadline| deadline <= now);
        if is_due(self.outbound.deadline()) {
            self.outbound.tick(&wakeup, &mut self.sending);
        }
        if is_due(self.inbound.deadline()) {
            self.inbound.tick(&wakeup);
        }
        let deadlines = [self.outbound.deadline(), self.inbound.deadline()];
        let next = deadlines.into_iter().flatten().min();
        if next != self.rings || is_due(self.rings) {
            timer.set(next.map(|next| Duration::from_nanos(next.saturating_sub(now))));
            self.rings = next;
        }
    }

    /// The first pair with IP-TFS brings a timer.
    fn look_at_timer(&mut self) {
        if self.timer.is_some() || !(self.outbound.is_timed() || self.inbound.is_timed()) {
            return;
        }
        let added = Timer::new().and_then(|timer| self.worker.poll.add(&timer, TIMER).map(|()| timer));
        match added {
            Ok(timer) => self.timer = Some(timer),
            Err(error) => tracing::error!(%error, "no timer: IP-TFS sends late"),
        }
    }

    fn take_up_changes(&mut self) {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if generation == self.generation {
            return;
        }
        self.generation = generation;
        while let Ok(change) = self.worker.changes.try_recv() {
            self.take_up(&change);
        }
    }

    fn take_up(&mut self, change: &Change) {
        let (shared, number, poll) = (self.shared, self.worker.number, &self.worker.poll);
        self.inbound.take_up(change, |spi| shared.inbound_owner(spi) == number);
        self.outbound.take_up(
            change,
            |interface, queue| shared.outbound_owner(interface, queue) == number,
            |interface, queue, tun| came(poll, interface, queue, tun),
            |tun| left(poll, tun),
        );
        for batch in self.sending.iter_mut().flatten() {
            batch.paths_changed();
        }
        self.changes += 1;
        self.look_at_timer();
    }
}

/// Waits for a TUN, too; false if that can't be.
fn came(poll: &Poll, interface: usize, queue: usize, tun: &Tun) -> bool {
    let token = INTERFACES + interface as u64 + ((queue as u64) << QUEUE_SHIFT);
    let added = poll.add(tun, token);
    if let Err(error) = &added {
        tracing::error!(%error, "a TUN can't be waited for");
    }
    added.is_ok()
}

/// Waits for a TUN no more.
fn left(poll: &Poll, tun: &Tun) {
    if let Err(error) = poll.remove(tun) {
        tracing::error!(%error, "a TUN can't be left");
    }
}

/// Sends everything that was sealed.
pub(super) fn send_all(sockets: &mut Sockets, streams: &mut StreamBatch, wakeup: &Wakeup<'_>) {
    for batch in sockets.iter_mut().flatten() {
        batch.send(wakeup.shared, wakeup.counters);
    }
    streams.send(wakeup.shared, wakeup.counters);
}
