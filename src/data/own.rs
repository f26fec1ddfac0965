//! A queue of an interface, and the pairs whose packets come by it: one is chosen for each packet, and seals it.

use super::aggfrag;
use super::attaching::{self, Order, Step};
use super::audit::{Audit, Auditor};
use super::batch::{Outer, SendBatch};
use super::queues;
use super::report::{FewASecond, Seldom};
use super::sending::Sending;
use super::stats::Cause;
use super::streams::StreamBatch;
use super::table::{ChildSa, Interface};
use super::worker::{Sockets, Wakeup, socket_of};
use crate::sys::tun::{Pieces, Tun};
use landbridge_proto::ip::flow::{Flow, FlowKey, protocol};
use landbridge_proto::ip::icmp::{self, IcmpError};
use landbridge_proto::ip::mss;
use landbridge_proto::ip::segment::Segmenter;
use landbridge_proto::ip::vnet::VnetHeader;
use landbridge_proto::policy::sad::SadReport;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// Turns of a queue before it is detached: as long as a turn takes 256 KiB, more than the 500 super-packets that it holds if nobody made
/// it longer. Others have their turns between.
const LEAVING_TURNS: u8 = 128;

/// A queue of an interface that a worker reads; mostly it is the only one.
pub(super) struct Own {
    pub interface: Arc<Interface>,
    number: usize,
    queue: usize,
    /// Its worker waits for its packets.
    pub listening: bool,
    /// Turns that it has before it is detached though something is in it.
    pub turns_left: u8,
    /// In the order of [`Interface::active`], of which these are the queue's.
    pub active: Vec<Sending>,
    resting: Vec<Sending>,
    /// One of the pairs has IP-TFS.
    pub timed: bool,
    /// The latest flow, and which of the active pairs it goes by.
    latest: Option<(FlowKey, usize)>,
    acquire: Seldom,
    errors: FewASecond,
    auditor: Auditor,
}

/// A packet to answer with an ICMP error.
pub(super) struct TooBig {
    flow: Flow,
    mtu: u16,
    quoted: Vec<u8>,
}

impl TooBig {
    /// The answer comes from the packet's destination: an address of our own would be a martian on the TUN, and any other
    /// fails the strict reverse path check.
    fn build(&self, out: &mut [u8]) -> Option<usize> {
        let (source, mtu) = (self.flow.key.destination, self.mtu);
        icmp::build(IcmpError::TooBig { mtu }, &self.flow, &self.quoted, source, out)
    }
}

impl Own {
    pub(super) fn new(interface: &Arc<Interface>, number: usize, queue: usize) -> Self {
        Self {
            interface: Arc::clone(interface),
            number,
            queue,
            listening: false,
            turns_left: LEAVING_TURNS,
            active: Vec::new(),
            resting: Vec::new(),
            timed: false,
            latest: None,
            acquire: Seldom::default(),
            errors: FewASecond::default(),
            auditor: Auditor::default(),
        }
    }

    /// Whether it is of that interface: another connection may have taken over the number.
    pub(super) fn is_of(&self, interface: &Interface) -> bool {
        Arc::ptr_eq(&self.interface.queues, &interface.queues)
    }

    /// Whether another worker may have it: it is the only queue, and nothing is sent by time.
    pub(super) fn may_go(&self) -> bool {
        self.interface.queues.len() == 1 && !self.timed
    }

    /// The SPI of ours of its first pair.
    pub(super) fn spi(&self) -> Option<u32> {
        self.active.first().map(|sending| sending.child.entry.inbound.spi)
    }

    pub(super) fn tun(&self) -> Option<&Tun> {
        self.interface.queues.tun(self.queue)
    }

    /// What is to be done so that it is attached, or not, as it should be; `None` if the kernel has refused that since the last change.
    pub(super) fn step(&self) -> Option<Step> {
        let Self { interface, queue, .. } = self;
        let state = interface.queues.state(*queue);
        let step = attaching::step(state, interface.wants(*queue), interface.has_wanted());
        let is_refused = matches!(step, Step::Attach | Step::Detach) && interface.queues.has_refused(*queue);
        Some(step).filter(|_| !is_refused)
    }

    /// Has it attached or detached by the thread that does so.
    pub(super) fn order(&self, step: Step, orders: &Sender<Order>) {
        let attach = step == Step::Attach;
        self.interface.queues.order(self.queue, attach);
        let order = Order {
            queues: Arc::downgrade(&self.interface.queues),
            queue: self.queue,
            attach,
        };
        // The thread is there as long as anybody can order.
        let _ = orders.send(order);
    }

    /// Answers a packet that is too big.
    pub(super) fn answer(&self, error: &TooBig, icmp: &mut [u8], pieces: &mut Pieces) {
        let (Some(len), Some(tun)) = (error.build(icmp), self.tun()) else {
            return;
        };
        let header = [0; VnetHeader::LEN];
        let header = if tun.vnet() { &header[..] } else { &[] };
        let answer = icmp.get(..len).unwrap_or_default();
        if tun.write(pieces, [header, answer].into_iter()).is_err() {
            self.interface.counters.dropped(Cause::TunWrite, 1);
        }
    }

    /// Pairs that stay keep their state; a new one brings its SA, which can be taken only once.
    pub(super) fn take_up(&mut self, interface: &Arc<Interface>) {
        let mut old: Vec<Option<Sending>> = self.active.drain(..).chain(self.resting.drain(..)).map(Some).collect();
        // Nearly all of them stay, in their order: the next is looked for behind the one before.
        let mut next = 0;
        let mut take = |child: &Arc<ChildSa>| {
            let is_it = |place: &Option<Sending>| {
                let pair = place.as_ref().map(|sending| &sending.child.pair);
                pair.is_some_and(|pair| Arc::ptr_eq(pair, &child.pair))
            };
            let behind = old.iter().skip(next).position(is_it).map(|at| next + at);
            match behind.or_else(|| old.iter().take(next).position(is_it)) {
                Some(at) => {
                    next = at + 1;
                    let mut sending = old.get_mut(at)?.take()?;
                    if sending.bundle.is_some() {
                        aggfrag::look_at_way(&sending.child, child);
                    }
                    sending.child = Arc::clone(child);
                    Some(sending)
                }
                None => Some(Sending::new(child, child.pair.take_outbound()?)),
            }
        };
        let queue = self.queue;
        let is_its = |child: &&Arc<ChildSa>| interface.queues.of(child) == queue;
        self.active = interface.active.iter().filter(is_its).filter_map(&mut take).collect();
        self.resting = interface.resting.iter().filter(is_its).filter_map(&mut take).collect();
        self.latest = None;
        interface.queues.try_again(queue);
        self.turns_left = LEAVING_TURNS;
        self.interface = Arc::clone(interface);
        self.timed = self
            .active
            .iter()
            .chain(&self.resting)
            .any(|sending| sending.bundle.is_some());
        if self.timed {
            aggfrag::take_up(&self.interface, &mut self.active, &mut self.resting);
        }
    }

    /// Sends what is due by time.
    pub(super) fn tick(&mut self, wakeup: &Wakeup<'_>, sockets: &mut Sockets) {
        let Self {
            interface,
            active,
            resting,
            ..
        } = self;
        for sending in active.iter_mut().filter(|sending| sending.bundle.is_some()) {
            let begun = resting
                .iter_mut()
                .find(|old| old.has_begun() && sending.succeeds(&old.child));
            if let Some(old) = begun
                && let Some(batch) = batch_of(sockets, &old.child)
            {
                old.finish(sending, interface, wakeup, batch);
            }
            if let Some(batch) = batch_of(sockets, &sending.child) {
                sending.tick(interface, wakeup, batch);
            }
        }
    }

    /// Sends one packet as read from the TUN, after so many hops between workers.
    pub(super) fn send(
        &mut self,
        packet: &mut [u8],
        hops: u8,
        wakeup: &Wakeup<'_>,
        sockets: &mut Sockets,
        streams: &mut StreamBatch,
    ) -> Option<TooBig> {
        let interface = &*self.interface;
        let (vnet, packet) = if self.tun()?.vnet() {
            let (header, packet) = packet.split_first_chunk_mut::<{ VnetHeader::LEN }>()?;
            (VnetHeader::from_octets(header), packet)
        } else {
            (VnetHeader::default(), packet)
        };
        let Ok(mut segmenter) = Segmenter::new(&vnet, packet) else {
            interface.counters.dropped(Cause::OutMalformed, 1);
            return None;
        };
        let flow = *segmenter.flow();
        let count = segmenter.count();
        let Some(index) = self.choose(&flow, packet) else {
            self.without_pair(&flow, (&vnet, packet), count, hops, wakeup);
            return None;
        };
        if self.interface.clamp_mss && is_syn(&flow, packet) {
            mss::clamp(packet, &flow, self.interface.mtu, vnet.needs_checksum());
            segmenter = Segmenter::new(&vnet, packet).ok()?;
        }
        let longest = self.active.get(index)?.longest(&self.interface);
        if segmenter.max_segment_len() > longest {
            self.interface.counters.dropped(Cause::TooBig, count as u64);
            if !flow.dont_fragment || !self.errors.allows(wakeup.now) {
                return None;
            }
            // Rare, and limited: it may allocate.
            let mut quoted = vec![0; segmenter.max_segment_len()];
            segmenter.write_segment(0, &mut quoted)?;
            let total_len = quoted.len();
            return Some(TooBig {
                flow: Flow { total_len, ..flow },
                mtu: u16::try_from(longest).unwrap_or(u16::MAX).min(self.interface.mtu),
                quoted,
            });
        }
        let sending = self.active.get_mut(index)?;
        let socket = socket_of(&sending.child.path, sending.child.encapsulation);
        if sending.bundle.is_some() {
            // What was begun by the pair before goes first.
            if let Some(old) = self
                .resting
                .iter_mut()
                .find(|old| old.has_begun() && sending.succeeds(&old.child))
                && let Some(batch) = batch_of(sockets, &old.child)
            {
                old.finish(sending, &self.interface, wakeup, batch);
            }
            // None goes by TCP: the key exchange does not allow it.
            let Some(batch) = sockets.get_mut(socket).and_then(Option::as_mut) else {
                wakeup.counters.dropped(Cause::SendFailed, count as u64);
                return None;
            };
            sending.gather(&segmenter, count, &self.interface, wakeup, batch);
            return None;
        }
        let outer = Outer {
            tos: self.interface.dscp.tos(flow.tos),
            dont_fragment: self.interface.dont_fragment.of(&flow) && !sending.child.path.is_ipv6(),
        };
        // RFC 4303 §2.7: behind the inner packet, whose own length says where it ends.
        let least = sending.child.entry.tfc_padding.unwrap_or(0).min(self.interface.mtu);
        let lengths = (count, usize::from(least));
        let sealed = if let Some(batch) = sockets.get_mut(socket).and_then(Option::as_mut) {
            sending.seal(&segmenter, &flow, lengths, outer, wakeup, batch)
        } else if let Some(stream) = &sending.child.stream {
            streams.turn_to(stream, wakeup.shared, wakeup.counters);
            sending.seal(&segmenter, &flow, lengths, outer, wakeup, streams)
        } else {
            wakeup.counters.dropped(Cause::SendFailed, count as u64);
            return None;
        };
        if !sealed {
            let entry = &sending.child.entry;
            // RFC 4303 §3.3.3: "An attempt to transmit a packet that would result in sequence number overflow is an
            // auditable event."
            self.auditor.tell(Cause::Expired, wakeup, || Audit {
                connection: Some(Arc::clone(&entry.connection)),
                spi: Some(entry.outbound.spi),
                inner: Some(flow.key),
                ..Audit::default()
            });
        }
        None
    }

    /// The pair for a flow.
    fn choose(&mut self, flow: &Flow, packet: &[u8]) -> Option<usize> {
        if let Some((key, index)) = &self.latest
            && *key == flow.key
        {
            return Some(*index);
        }
        let covering = |key: &FlowKey| self.active.iter().position(|sending| sending.child.covers(key));
        if let Some(index) = covering(&flow.key) {
            self.latest = Some((flow.key, index));
            return Some(index);
        }
        // RFC 4301 §6.2: an ICMP error that no SA is for goes by "the SA that would carry the return traffic associated with
        // the packet that triggered the ICMP error message". It is not remembered: the next may be about another.
        icmp::return_flow(flow, packet).and_then(|key| covering(&key))
    }

    /// No pair of this queue is for a packet: another's may be. If none is, it is counted and control may hear of it.
    #[cold]
    fn without_pair(
        &mut self,
        flow: &Flow,
        (vnet, packet): (&VnetHeader, &[u8]),
        count: usize,
        hops: u8,
        wakeup: &Wakeup<'_>,
    ) {
        let interface = &*self.interface;
        if interface.queues.len() > 1 {
            let header = vnet.to_octets();
            let has_header = self.tun().is_some_and(Tun::vnet);
            let from = queues::From {
                interface: self.number,
                queue: self.queue,
                hops,
                parts: [if has_header { &header[..] } else { &[] }, packet],
                packets: count,
            };
            let flows = [flow.key].into_iter().chain(icmp::return_flow(flow, packet));
            if queues::hand_over(interface, flows, &from, wakeup) {
                return;
            }
        }
        let cause = if interface.active.is_empty() {
            Cause::NoSa
        } else {
            Cause::SelectorOut
        };
        self.interface.counters.dropped(cause, count as u64);
        // What the kernel itself multicasts on an interface that comes up is nobody's traffic.
        if !flow.key.destination.is_multicast() {
            self.auditor.tell(cause, wakeup, || Audit {
                connection: Some(Arc::clone(&self.interface.connection)),
                inner: Some(flow.key),
                ..Audit::default()
            });
        }
        // What the kernel itself multicasts on every interface that comes up is no reason for a tunnel.
        if !flow.key.destination.is_multicast() && self.acquire.due(wakeup.now) {
            (wakeup.shared.sinks.reports)(SadReport::Acquire {
                source: flow.key.source,
                destination: flow.key.destination,
            });
        }
    }
}

/// The batch that a pair's packets leave by.
fn batch_of<'a>(sockets: &'a mut Sockets, child: &ChildSa) -> Option<&'a mut SendBatch> {
    sockets.get_mut(socket_of(&child.path, child.encapsulation))?.as_mut()
}

/// A TCP SYN, whose MSS option may want clamping.
pub(super) fn is_syn(flow: &Flow, packet: &[u8]) -> bool {
    const SYN: u8 = 0x02;
    flow.key.protocol == protocol::TCP
        && !flow.later_fragment
        && packet.get(flow.header_len + 13).is_some_and(|flags| flags & SYN != 0)
}
