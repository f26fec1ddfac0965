//! UDP (or IP protocol 50) -> TUN: what came in is told apart datagram by datagram (the kernel merges by address and size
//! only), opened in place, checked against the SA's selectors, and delivered.

use super::aggfrag::Unbundle;
use super::audit::{Audit, Auditor};
use super::deliver::{Delivery, Place};
use super::own::is_syn;
use super::report::{Limits, Seldom, SeldomEach};
use super::stats::Cause;
use super::table::{Change, ChildSa, Interface, ports};
use super::worker::{Letter, Wakeup};
use crate::sys::receive::{Message, ReceiveBatch};
use landbridge_proto::esp::aggfrag::Found;
use landbridge_proto::esp::encap::{Datagram, classify};
use landbridge_proto::esp::{InboundError, InboundSa, NextHeader, Opened};
use landbridge_proto::ip::flow::{self, Flow, FlowKey, Ports};
use landbridge_proto::ip::tunnel::{self, Ecn};
use landbridge_proto::ip::{icmp, mss, transport};
use landbridge_proto::policy::sad::{ChildSaEntry, Mode, Path, SadReport};
use landbridge_proto::policy::spi;
use landbridge_proto::wire::TrafficSelector;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

/// RFC 3948 §2.2: four zero octets where an ESP packet has its SPI.
const NON_ESP_MARKER: usize = 4;
/// Messages in a batch: as many as this if they are short, fewer if the kernel merges.
const MESSAGES: usize = 64;
const FEWEST: usize = 4;
/// Octets of a batch: what the second-level cache holds.
const BATCH_OCTETS: usize = 256 << 10;

/// What became of an ESP packet, as far as its TCP connection is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It is of an SA of ours.
    Taken,
    /// Of one that this worker has.
    HandedOver(usize),
    UnknownSpi,
    /// Of an SA of ours, but its ICV is wrong.
    NotAuthentic,
}

/// The inbound half of a worker.
pub(super) struct Inbound {
    /// By slot; those of other workers are `None`.
    pub own: Vec<Option<Box<Receiving>>>,
    batch: ReceiveBatch,
    /// Messages to ask for, by what came last.
    most: usize,
    pub receiver: Receiver,
    /// There was a pair with IP-TFS.
    pub timed: bool,
}

/// What receiving takes besides the SA.
pub(super) struct Receiver {
    pub delivery: Delivery,
    unknown: SeldomEach,
    auditor: Auditor,
    /// Inner packets of one outer packet of IP-TFS.
    pub found: Vec<Found>,
    /// Slots of pairs with IP-TFS for which something came before its turn.
    pub waiting: Vec<usize>,
}

/// An inbound SA and what goes with it.
pub(super) struct Receiving {
    pub child: Arc<ChildSa>,
    pub interface: Arc<Interface>,
    sa: InboundSa,
    limits: Limits,
    packets: u64,
    bytes: u64,
    /// In transport mode: source and destination of what comes in.
    transport: Option<(IpAddr, IpAddr)>,
    /// The latest flow within the selectors.
    latest: Option<FlowKey>,
    first_told: bool,
    alive: Seldom,
    moved: Seldom,
    /// Why the last packet was dropped, and what was in it.
    pub why: Option<(Cause, Option<FlowKey>)>,
    /// With IP-TFS: what is not yet whole, or not yet in order.
    pub unbundle: Option<Box<Unbundle>>,
}

impl Inbound {
    pub(super) fn new() -> Self {
        Self {
            own: Vec::new(),
            batch: ReceiveBatch::new(MESSAGES),
            most: FEWEST * 2,
            receiver: Receiver {
                delivery: Delivery::default(),
                unknown: SeldomEach::default(),
                auditor: Auditor::default(),
                found: Vec::new(),
                waiting: Vec::new(),
            },
            timed: false,
        }
    }

    /// Takes up a change: pairs that stay keep their window; a new SA is taken, which goes only once.
    pub(super) fn take_up(&mut self, change: &Change, owns: impl Fn(u32) -> bool) {
        for (slot, child) in &change.inbound {
            if self.own.len() <= *slot {
                self.own.resize_with(*slot + 1, || None);
            }
            let Some(own) = self.own.get_mut(*slot) else { continue };
            let child = child.as_ref().filter(|child| owns(child.entry.inbound.spi));
            let Some((child, interface)) = child.and_then(|child| Some((child, change.interface(child.interface)?)))
            else {
                *own = None;
                continue;
            };
            match own {
                Some(own) if Arc::ptr_eq(&own.child.pair, &child.pair) => own.child = Arc::clone(child),
                own => {
                    *own = Receiving::new(child, interface).map(Box::new);
                    self.timed |= child.entry.aggfrag.is_some();
                }
            }
        }
        for interface in change.interfaces.iter().filter_map(|(_, interface)| interface.as_ref()) {
            for child in interface.active.iter().chain(&interface.resting) {
                let own = self.own.get_mut(spi::slot_of(child.entry.inbound.spi));
                if let Some(Some(own)) = own
                    && Arc::ptr_eq(&own.child.pair, &child.pair)
                {
                    own.interface = Arc::clone(interface);
                }
            }
        }
    }

    /// Receives one batch from a socket; false if there is nothing.
    pub(super) fn receive(&mut self, socket: &impl AsFd) -> bool {
        match self.batch.receive(socket, self.most) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            // What an ICMP error left behind: it is taken away by being read, and says nothing (RFC 7296 §2.4).
            Err(error) => {
                tracing::trace!(%error, "receiving ESP");
                false
            }
        }
    }

    /// Works on the batch received, which came by a UDP socket or a raw one.
    pub(super) fn turn(&mut self, raw: bool, wakeup: &Wakeup<'_>) {
        let (octets, messages) = self.batch.parts();
        let mut total = 0;
        for message in messages {
            total += message.len;
            if raw {
                self.receiver.take_raw(&mut self.own, octets, message, wakeup);
            } else {
                self.receiver.take(&mut self.own, octets, message, false, wakeup);
            }
        }
        self.receiver.delivery.write(octets, wakeup);
        if total > BATCH_OCTETS {
            self.most = (self.most / 2).max(FEWEST);
        } else if messages.len() == self.most && total * 2 <= BATCH_OCTETS {
            self.most = (self.most * 2).min(MESSAGES);
        }
    }

    /// An ESP packet that a TCP connection carried; [`Self::deliver`] is called after the last of them.
    pub(super) fn streamed(
        &mut self,
        octets: &mut [u8],
        spi: u32,
        place: Range<usize>,
        message: &Message,
        wakeup: &Wakeup<'_>,
    ) -> Fate {
        self.receiver
            .esp(&mut self.own, octets, spi, place, message, false, wakeup)
    }

    /// Writes what was opened in `octets` to the TUNs.
    pub(super) fn deliver(&mut self, octets: &[u8], wakeup: &Wakeup<'_>) {
        self.receiver.delivery.write(octets, wakeup);
    }

    /// A datagram that came to another worker or to control.
    pub(super) fn handed_over(&mut self, octets: &mut [u8], message: &Message, wakeup: &Wakeup<'_>) {
        self.receiver.take(&mut self.own, octets, message, true, wakeup);
        self.receiver.delivery.write(octets, wakeup);
    }
}

impl Receiver {
    /// Takes one message, which may hold many datagrams, each with its own SPI.
    fn take(
        &mut self,
        own: &mut [Option<Box<Receiving>>],
        octets: &mut [u8],
        message: &Message,
        handed_over: bool,
        wakeup: &Wakeup<'_>,
    ) {
        let end = message.start + message.len;
        let mut next = message.start;
        while next < end {
            let range = next..end.min(next + message.segment);
            next = range.end;
            let Some(datagram) = octets.get_mut(range.clone()) else {
                return;
            };
            match classify(datagram) {
                Datagram::Esp(spi) => {
                    let fate = self.esp(own, octets, spi, range, message, handed_over, wakeup);
                    if let Fate::HandedOver(owner) = fate {
                        next += hand_over_run(owner, octets.get(next..end).unwrap_or_default(), message, wakeup);
                    }
                }
                Datagram::Ike => {
                    // It was merged behind ESP, else the filter would have steered it to control.
                    let ike = datagram.get(NON_ESP_MARKER..).unwrap_or_default().to_vec();
                    let local = SocketAddr::new(message.local, wakeup.shared.nat_port);
                    let path = Path::udp(local, message.remote);
                    (wakeup.shared.sinks.strays)(path, ike);
                }
                // RFC 3948 §2.3: "The receiver SHOULD ignore a received NAT-keepalive packet."
                Datagram::Keepalive => {}
                Datagram::Short => wakeup.counters.dropped(Cause::Short, 1),
            }
        }
    }

    /// Takes what came by a raw socket: one ESP packet, over IPv4 behind its IP header.
    fn take_raw(
        &mut self,
        own: &mut [Option<Box<Receiving>>],
        octets: &mut [u8],
        message: &Message,
        wakeup: &Wakeup<'_>,
    ) {
        let all = octets
            .get(message.start..message.start + message.len)
            .unwrap_or_default();
        let header = match all.first() {
            Some(first) if message.remote.is_ipv4() => usize::from(first & 0x0f) * 4,
            _ => 0,
        };
        let Some([a, b, c, d, ..]) = all.get(header..) else {
            return wakeup.counters.dropped(Cause::Short, 1);
        };
        // There is no non-ESP marker here: an SPI of 0 is one that nobody has (RFC 4303 §2.1).
        let spi = u32::from_be_bytes([*a, *b, *c, *d]);
        let place = message.start + header..message.start + message.len;
        self.esp(own, octets, spi, place, message, false, wakeup);
    }

    /// Takes one ESP packet, at `place` in the batch's octets.
    #[allow(clippy::too_many_arguments, reason = "all of them are the packet's circumstances")]
    fn esp(
        &mut self,
        own: &mut [Option<Box<Receiving>>],
        octets: &mut [u8],
        spi: u32,
        place: Range<usize>,
        message: &Message,
        handed_over: bool,
        wakeup: &Wakeup<'_>,
    ) -> Fate {
        let Some(packet) = octets.get_mut(place.clone()) else {
            return Fate::Taken;
        };
        let mut fate = Fate::Taken;
        let receiving = own.get_mut(spi::slot_of(spi)).and_then(Option::as_mut);
        match receiving.filter(|receiving| receiving.child.entry.inbound.spi == spi) {
            Some(receiving) if receiving.unbundle.is_some() => {
                fate = self.take_apart(receiving, octets, spi, place, message, wakeup);
            }
            Some(receiving) => {
                let built = self.delivery.built();
                if let Some((flow, inner)) = receiving.open(packet, message, wakeup, built) {
                    let inner = inner.from(place.start);
                    let Receiving { child, interface, .. } = &**receiving;
                    self.delivery.push(interface, child, &flow, octets, inner, wakeup);
                } else if let Some((cause, inner)) = receiving.why.take() {
                    if cause == Cause::Integrity {
                        fate = Fate::NotAuthentic;
                    }
                    self.auditor.tell(cause, wakeup, || Audit {
                        connection: Some(Arc::clone(&receiving.child.entry.connection)),
                        inner,
                        ..event(spi, packet, message)
                    });
                }
            }
            None if !handed_over && wakeup.hand_over(spi, message, packet) => {
                fate = Fate::HandedOver(wakeup.shared.inbound_owner(spi));
            }
            None => {
                fate = Fate::UnknownSpi;
                self.unknown_spi(spi, message, wakeup);
                self.auditor
                    .tell(Cause::UnknownSpi, wakeup, || event(spi, packet, message));
            }
        }
        fate
    }

    /// Tells of a drop that is no single packet's.
    pub(super) fn tell(&mut self, cause: Cause, wakeup: &Wakeup<'_>, event: impl FnOnce() -> Audit) {
        self.auditor.tell(cause, wakeup, event);
    }

    /// Tells of the last drop.
    pub(super) fn tell_why(&mut self, receiving: &mut Receiving, about: Audit, wakeup: &Wakeup<'_>) {
        let Some((cause, inner)) = receiving.why.take() else {
            return;
        };
        self.auditor.tell(cause, wakeup, || Audit {
            connection: Some(Arc::clone(&receiving.child.entry.connection)),
            inner,
            ..about
        });
    }

    fn unknown_spi(&mut self, spi: u32, message: &Message, wakeup: &Wakeup<'_>) {
        wakeup.counters.dropped(Cause::UnknownSpi, 1);
        // Who comes by TCP has lost its connection if we have lost the SA.
        if message.tcp.is_none() && self.unknown.due(&message.remote, wakeup.now) {
            let (local, remote) = (message.local, message.remote);
            (wakeup.shared.sinks.reports)(SadReport::UnknownSpi { spi, local, remote });
        }
    }
}

impl Receiving {
    fn new(child: &Arc<ChildSa>, interface: &Arc<Interface>) -> Option<Self> {
        Some(Self {
            child: Arc::clone(child),
            interface: Arc::clone(interface),
            sa: child.pair.take_inbound()?,
            limits: Limits::new(&child.entry.limits, child.entry.inbound.esn),
            packets: 0,
            bytes: 0,
            transport: hosts(&child.entry),
            latest: None,
            first_told: false,
            alive: Seldom::default(),
            moved: Seldom::default(),
            why: None,
            unbundle: child.entry.aggfrag.as_ref().map(Unbundle::new).map(Box::new),
        })
    }

    /// Opens an ESP packet, whatever is in it.
    #[inline]
    pub(super) fn open_outer(&mut self, packet: &mut [u8], message: &Message, wakeup: &Wakeup<'_>) -> Option<Opened> {
        if self.limits.expired(self.packets, self.bytes) {
            self.limits.tell_end(self.child.entry.id, &wakeup.shared.sinks);
            return self.dropped(Cause::Expired);
        }
        let opened = match self.sa.open(packet) {
            Ok(opened) => opened,
            Err(error) => {
                return self.dropped(match error {
                    InboundError::Malformed => Cause::Malformed,
                    InboundError::TooOld => Cause::TooOld,
                    InboundError::Replayed => Cause::Replayed,
                    InboundError::Integrity => Cause::Integrity,
                    InboundError::Padding => Cause::Padding,
                });
            }
        };
        self.authentic(&opened, message, wakeup);
        Some(opened)
    }

    /// Opens an ESP packet; returns the inner packet's flow and its place, in `packet` or `built`. All else is counted.
    fn open(
        &mut self,
        packet: &mut [u8],
        message: &Message,
        wakeup: &Wakeup<'_>,
        built: &mut Vec<u8>,
    ) -> Option<(Flow, Place)> {
        let opened = self.open_outer(packet, message, wakeup)?;
        if let Some(hosts) = self.transport {
            if opened.next_header == NextHeader::Dummy {
                return None;
            }
            let start = built.len();
            let Some(inner) = rebuild(hosts, &opened, packet, message.tos, built) else {
                return self.dropped(Cause::InnerMalformed);
            };
            let flow = self.admit(inner, message.tos, wakeup);
            if flow.is_none() {
                built.truncate(start);
            }
            let place = Place::Built(start..built.len());
            return flow.map(|flow| (flow, place));
        }
        let inner = packet.get_mut(opened.payload.clone())?;
        let ipv6 = match opened.next_header {
            NextHeader::Ipv4 => false,
            NextHeader::Ipv6 => true,
            // RFC 4303 §2.6: dummy packets are discarded "without prejudice"; they are not even a drop.
            NextHeader::Dummy => return None,
            NextHeader::Other(_) => return self.dropped(Cause::NextHeader),
        };
        // What is neither version is malformed, and found out below.
        let other = if ipv6 { 4 } else { 6 };
        if inner.first().is_some_and(|octet| octet >> 4 == other) {
            return self.dropped(Cause::NextHeader);
        }
        let flow = self.admit(inner, message.tos, wakeup)?;
        // What follows the inner packet is TFC padding (RFC 4303 §2.7).
        let place = opened.payload.start..opened.payload.start + flow.total_len;
        Some((flow, Place::Batch(place)))
    }

    /// Whether an inner packet may enter: within the selectors; counted either way.
    pub(super) fn admit(&mut self, inner: &mut [u8], outer_tos: u8, wakeup: &Wakeup<'_>) -> Option<Flow> {
        let Ok(mut flow) = flow::parse(inner) else {
            return self.dropped(Cause::InnerMalformed);
        };
        self.count(flow.total_len as u64, wakeup);
        // RFC 4301 §5.2: "If an IPsec system receives an inbound packet on an SA and the packet's header fields are not
        // consistent with the selectors for the SA, it MUST discard the packet."
        if self.latest != Some(flow.key) {
            if !self.covers(&flow, inner) {
                self.child.pair.inbound.dropped(Cause::SelectorIn, 1);
                self.why = Some((Cause::SelectorIn, Some(flow.key)));
                return None;
            }
            // What an ICMP error is about differs from one to the next.
            self.latest = Some(flow.key).filter(|key| !matches!(key.ports, Ports::Message(_)));
        }
        // In transport mode there is one IP header, with one ECN field.
        if self.transport.is_none() && tunnel::decapsulate_ecn(Ecn::from_tos(outer_tos), &mut flow, inner).is_err() {
            return self.dropped(Cause::CongestionMark);
        }
        if self.interface.clamp_mss && is_syn(&flow, inner) {
            mss::clamp(inner, &flow, self.interface.mtu, false);
        }
        Some(flow)
    }

    pub(super) fn dropped<T>(&mut self, cause: Cause) -> Option<T> {
        self.child.pair.inbound.dropped(cause, 1);
        self.why = Some((cause, None));
        None
    }

    /// Whether the SA is for this packet; `message` is the packet's octets.
    fn covers(&self, flow: &Flow, packet: &[u8]) -> bool {
        let fits = |key: &FlowKey| {
            let pair = &self.child.pair;
            let (source, destination) = ports(key);
            pair.remote.contains(key.source, key.protocol, source)
                && pair.local.contains(key.destination, key.protocol, destination)
        };
        // RFC 4301 §6.2: "the receiver must extract the header of the triggering packet from the ICMP payload, and reverse
        // fields as described above to determine if the packet is consistent with the selectors for the SA via which the
        // ICMP error message was received."
        fits(&flow.key) || icmp::return_flow(flow, packet).is_some_and(|key| fits(&key))
    }

    fn count(&mut self, octets: u64, wakeup: &Wakeup<'_>) {
        self.child.pair.inbound.add(1, octets);
        if self.unbundle.is_none() {
            self.spend(octets, wakeup);
        }
    }

    /// What an outer packet takes of the SA's life.
    pub(super) fn spend(&mut self, octets: u64, wakeup: &Wakeup<'_>) {
        self.packets += 1;
        self.bytes += octets;
        let id = self.child.entry.id;
        self.limits.tell(id, self.packets, self.bytes, &wakeup.shared.sinks);
    }

    /// The ICV has verified: what control may learn from it.
    fn authentic(&mut self, opened: &Opened, message: &Message, wakeup: &Wakeup<'_>) {
        let report = &wakeup.shared.sinks.reports;
        let id = self.child.entry.id;
        if !self.first_told {
            self.first_told = report(SadReport::FirstInbound(id));
        }
        if self.alive.due(wakeup.now) {
            report(SadReport::Alive(id));
        }
        // RFC 7296 §2.23: only an authentic packet that is newer than all others speaks for a new address. One without UDP
        // (port 0) did not come through a NAT.
        if message.remote != self.child.path.remote
            && message.remote.port() != 0
            && opened.sequence == self.sa.highest()
            && self.moved.due(wakeup.now)
        {
            report(match message.tcp {
                Some(port) => SadReport::StreamMoved {
                    id,
                    path: Path::tcp(SocketAddr::new(message.local, port), message.remote),
                },
                None => SadReport::PeerMoved {
                    id,
                    remote: message.remote,
                },
            });
        }
    }
}

/// Hands over what follows in a message for the same worker, all at once: with several pairs of one peer (RFC 9611) the kernel merges
/// what each sent in a row. Returns its octets.
fn hand_over_run(owner: usize, octets: &[u8], message: &Message, wakeup: &Wakeup<'_>) -> usize {
    let is_its = |datagram: &&[u8]| match classify(datagram) {
        Datagram::Esp(spi) => wakeup.shared.inbound_owner(spi) == owner,
        _ => false,
    };
    let run: usize = octets.chunks(message.segment).take_while(is_its).map(<[u8]>::len).sum();
    let datagrams = octets.get(..run).unwrap_or_default();
    if run > 0
        && !wakeup
            .shared
            .post(owner, Letter::datagrams(message, datagrams, message.segment))
    {
        wakeup
            .counters
            .dropped(Cause::Handover, run.div_ceil(message.segment) as u64);
    }
    run
}

/// What is told of an ESP packet.
pub(super) fn event(spi: u32, packet: &[u8], message: &Message) -> Audit {
    let sequence = packet.get(4..8).and_then(|octets| octets.first_chunk());
    Audit {
        spi: Some(spi),
        sequence: sequence.map(|octets| u32::from_be_bytes(*octets)),
        remote: Some(message.remote),
        local: Some(message.local),
        ..Audit::default()
    }
}

/// The two hosts of an SA in transport mode: its selectors are for them alone. Peer first.
fn hosts(entry: &ChildSaEntry) -> Option<(IpAddr, IpAddr)> {
    let host = |list: &[TrafficSelector]| match list.first() {
        Some(TrafficSelector::Range { start, .. }) => Some(*start),
        _ => None,
    };
    (entry.mode == Mode::Transport).then(|| Some((host(&entry.remote_ts)?, host(&entry.local_ts)?)))?
}

/// Puts the IP header back before what an SA in transport mode carries; the packet goes to the end of `built`.
fn rebuild<'a>(
    (source, destination): (IpAddr, IpAddr),
    opened: &Opened,
    packet: &[u8],
    tos: u8,
    built: &'a mut Vec<u8>,
) -> Option<&'a mut [u8]> {
    let payload = packet.get(opened.payload.clone())?;
    let mut header = [0; transport::LONGEST];
    let next_header = opened.next_header.octet();
    let header_len = transport::write_header(source, destination, next_header, tos, payload.len(), &mut header)?;
    let start = built.len();
    built.extend_from_slice(header.get(..header_len)?);
    built.extend_from_slice(payload);
    built.get_mut(start..)
}
