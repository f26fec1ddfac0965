//! TUN -> UDP: super-packets are read, split, and sealed segment by segment where they are sent from.

use super::aggfrag::Bundle;
use super::audit::{Audit, Auditor};
use super::batch::{Outer, Places, SendBatch};
use super::report::{FewASecond, Limits, Nanos, Seldom};
use super::stats::Cause;
use super::streams::StreamBatch;
use super::table::{Change, ChildSa, Interface};
use super::worker::{Shared, Sockets, Wakeup, socket_of};
use crate::sys::tun::Pieces;
use landbridge_proto::esp::OutboundSa;
use landbridge_proto::ip::flow::{Flow, FlowKey, Ports, protocol};
use landbridge_proto::ip::icmp::{self, IcmpError};
use landbridge_proto::ip::segment::Segmenter;
use landbridge_proto::ip::vnet::VnetHeader;
use landbridge_proto::ip::{mss, transport};
use landbridge_proto::policy::sad::{Encapsulation, Mode, SadReport};
use landbridge_proto::policy::selector::PortMatch;
use std::sync::Arc;

/// Packets of a TUN in one turn.
const TURN_PACKETS: usize = 64;
/// Octets of a TUN in one turn; then the others have theirs.
const TURN_OCTETS: usize = 256 << 10;
/// The longest packet a TUN hands out, with its header.
const LONGEST: usize = VnetHeader::LEN + 65_536;

/// The outbound half of a worker.
pub(super) struct Outbound {
    /// By number; those of other workers are `None`.
    interfaces: Vec<Option<Own>>,
    /// Those with pairs that send by time.
    timed: Vec<usize>,
    buffer: Vec<u8>,
    pieces: Pieces,
    icmp: Vec<u8>,
}

/// An interface that this worker reads.
struct Own {
    interface: Arc<Interface>,
    /// In the order of [`Interface::active`].
    active: Vec<Sending>,
    resting: Vec<Sending>,
    /// One of the pairs has IP-TFS.
    timed: bool,
    /// The latest flow, and which of the active pairs it goes by.
    latest: Option<(FlowKey, usize)>,
    acquire: Seldom,
    errors: FewASecond,
    auditor: Auditor,
}

/// An outbound SA and what goes with it.
pub(super) struct Sending {
    pub child: Arc<ChildSa>,
    pub sa: OutboundSa,
    pub limits: Limits,
    /// What was sealed under its key: packets, and octets of what was in them.
    pub packets: u64,
    pub bytes: u64,
    pub sent: Seldom,
    /// With IP-TFS: what waits to be sent.
    pub bundle: Option<Box<Bundle>>,
}

impl Outbound {
    pub(super) fn new() -> Self {
        Self {
            interfaces: Vec::new(),
            timed: Vec::new(),
            buffer: vec![0; LONGEST],
            pieces: Pieces::default(),
            icmp: vec![0; icmp::MAX_LEN],
        }
    }

    /// Takes up a change: `owns` says which interfaces are this worker's. `came` and `went` hear of changes.
    pub(super) fn take_up(
        &mut self,
        change: &Change,
        owns: impl Fn(usize) -> bool,
        mut came: impl FnMut(usize, &Interface),
        mut went: impl FnMut(&Interface),
    ) {
        for (number, new) in &change.interfaces {
            if self.interfaces.len() <= *number {
                self.interfaces.resize_with(*number + 1, || None);
            }
            let Some(own) = self.interfaces.get_mut(*number) else {
                continue;
            };
            let new = new.as_ref().filter(|_| owns(*number));
            // Another connection may have taken over the number.
            let same = |own: &Own, new: &Arc<Interface>| Arc::ptr_eq(&own.interface.tun, &new.tun);
            if let Some(old) = own.take_if(|own| !new.is_some_and(|new| same(own, new))) {
                went(&old.interface);
            }
            match (own, new) {
                (Some(own), Some(new)) => own.take_up(new),
                (own @ None, Some(new)) => {
                    came(*number, new);
                    own.insert(Own::new(new)).take_up(new);
                }
                _ => {}
            }
            self.timed.retain(|timed| timed != number);
            if self
                .interfaces
                .get(*number)
                .and_then(Option::as_ref)
                .is_some_and(|own| own.timed)
            {
                self.timed.push(*number);
            }
        }
    }

    /// Some pair sends by time.
    pub(super) fn is_timed(&self) -> bool {
        !self.timed.is_empty()
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        let owns = self
            .timed
            .iter()
            .filter_map(|number| self.interfaces.get(*number)?.as_ref());
        // A pair without a socket would be due for ever.
        let pairs = owns.flat_map(|own| &own.active);
        let pairs = pairs.filter(|sending| sending.child.encapsulation != Encapsulation::Tcp);
        let deadline = |sending: &Sending| sending.bundle.as_ref()?.deadline();
        pairs.filter_map(deadline).min()
    }

    /// Sends what is due by time.
    pub(super) fn tick(&mut self, wakeup: &Wakeup<'_>, sockets: &mut Sockets) {
        for number in &self.timed {
            if let Some(Some(own)) = self.interfaces.get_mut(*number) {
                own.tick(wakeup, sockets);
            }
        }
        for batch in sockets.iter_mut().flatten() {
            batch.send(wakeup.shared, wakeup.counters);
        }
    }

    /// One turn of a TUN. Everything is sent at its end.
    pub(super) fn turn(
        &mut self,
        number: usize,
        wakeup: &Wakeup<'_>,
        sockets: &mut Sockets,
        streams: &mut StreamBatch,
    ) {
        let Self {
            interfaces,
            buffer,
            pieces,
            icmp,
            ..
        } = self;
        let Some(Some(own)) = interfaces.get_mut(number) else {
            return;
        };
        let interface = Arc::clone(&own.interface);
        let mut octets = 0;
        for _ in 0..TURN_PACKETS {
            // An error is "nothing there", or the interface is going away: epoll will tell.
            let Ok(len) = interface.tun.read(buffer) else { break };
            let packet = buffer.get_mut(..len).unwrap_or_default();
            if let Some(error) = own.send(packet, wakeup, sockets, streams)
                && let Some(len) = error.build(icmp)
            {
                let header = [0; VnetHeader::LEN];
                let header = if interface.tun.vnet() { &header[..] } else { &[] };
                let answer = icmp.get(..len).unwrap_or_default();
                if interface.tun.write(pieces, [header, answer].into_iter()).is_err() {
                    interface.counters.dropped(Cause::TunWrite, 1);
                }
            }
            octets += len;
            if octets >= TURN_OCTETS {
                break;
            }
        }
        if own.timed {
            own.tick(wakeup, sockets);
        }
        for batch in sockets.iter_mut().flatten() {
            batch.send(wakeup.shared, wakeup.counters);
        }
        streams.send(wakeup.shared, wakeup.counters);
    }
}

/// A packet to answer with an ICMP error.
struct TooBig {
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
    fn new(interface: &Arc<Interface>) -> Self {
        Self {
            interface: Arc::clone(interface),
            active: Vec::new(),
            resting: Vec::new(),
            timed: false,
            latest: None,
            acquire: Seldom::default(),
            errors: FewASecond::default(),
            auditor: Auditor::default(),
        }
    }

    /// Pairs that stay keep their state; a new one brings its SA, which can be taken only once.
    fn take_up(&mut self, interface: &Arc<Interface>) {
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
                    sending.child = Arc::clone(child);
                    Some(sending)
                }
                None => Some(Sending::new(child, child.pair.take_outbound()?)),
            }
        };
        self.active = interface.active.iter().filter_map(&mut take).collect();
        self.resting = interface.resting.iter().filter_map(&mut take).collect();
        self.latest = None;
        self.interface = Arc::clone(interface);
        self.timed = self
            .active
            .iter()
            .chain(&self.resting)
            .any(|sending| sending.bundle.is_some());
        if self.timed {
            self.take_up_bundles();
        }
    }

    /// What waits behind a pair that was replaced goes by the one that took its place.
    fn take_up_bundles(&mut self) {
        let Self {
            interface,
            active,
            resting,
            ..
        } = self;
        for Sending { child, sa, bundle, .. } in active.iter_mut().chain(&mut *resting) {
            if let Some(bundle) = bundle {
                bundle.fit(child, interface, sa.sizes());
            }
        }
        for Sending { child, bundle, .. } in resting {
            let Some(bundle) = bundle else { continue };
            let to = active.iter_mut().find(|new| new.succeeds(child));
            bundle.hand_over(to.and_then(|new| new.bundle.as_deref_mut()), child);
        }
    }

    /// Sends what is due by time.
    fn tick(&mut self, wakeup: &Wakeup<'_>, sockets: &mut Sockets) {
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

    /// Sends one packet as read from the TUN.
    fn send(
        &mut self,
        packet: &mut [u8],
        wakeup: &Wakeup<'_>,
        sockets: &mut Sockets,
        streams: &mut StreamBatch,
    ) -> Option<TooBig> {
        let interface = &*self.interface;
        let (vnet, packet) = if interface.tun.vnet() {
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
        let index = self.choose(&flow, packet, count, wakeup)?;
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

    /// The pair for a flow; if there is none, the packet is counted and control may hear of it.
    fn choose(&mut self, flow: &Flow, packet: &[u8], count: usize, wakeup: &Wakeup<'_>) -> Option<usize> {
        if let Some((key, index)) = &self.latest
            && *key == flow.key
        {
            return Some(*index);
        }
        if let Some(index) = self.active.iter().position(|sending| sending.covers(&flow.key)) {
            self.latest = Some((flow.key, index));
            return Some(index);
        }
        // RFC 4301 §6.2: an ICMP error that no SA is for goes by "the SA that would carry the return traffic associated with
        // the packet that triggered the ICMP error message". It is not remembered: the next may be about another.
        let back = icmp::return_flow(flow, packet);
        if let Some(index) = back.and_then(|key| self.active.iter().position(|sending| sending.covers(&key))) {
            return Some(index);
        }
        let cause = if self.active.is_empty() {
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
        None
    }
}

impl Sending {
    /// Whether its selectors are for a packet.
    fn covers(&self, key: &FlowKey) -> bool {
        let pair = &self.child.pair;
        let (source, destination) = ports(key);
        pair.local.contains(key.source, key.protocol, source)
            && pair.remote.contains(key.destination, key.protocol, destination)
    }

    fn new(child: &Arc<ChildSa>, sa: OutboundSa) -> Self {
        Self {
            child: Arc::clone(child),
            sa,
            limits: Limits::new(&child.entry.limits, child.entry.outbound.esn),
            packets: 0,
            bytes: 0,
            sent: Seldom::default(),
            bundle: child.entry.aggfrag.as_ref().map(Bundle::new).map(Box::new),
        }
    }

    /// Octets of the longest packet it takes.
    fn longest(&self, interface: &Interface) -> usize {
        let most = self.bundle.as_ref().and_then(|bundle| bundle.longest());
        most.map_or(interface.longest(), |most| most.min(interface.longest()))
    }

    /// Whether it is for the traffic of another: it took its place in a rekey.
    fn succeeds(&self, old: &ChildSa) -> bool {
        let (new, old) = (&self.child.entry, &old.entry);
        new.child == old.child && new.local_ts == old.local_ts && new.remote_ts == old.remote_ts
    }

    /// Seals all `count` segments of a packet, each padded to `least` octets, into the send batch; false if the SA is used up.
    fn seal<B: Places>(
        &mut self,
        segmenter: &Segmenter<'_>,
        flow: &Flow,
        (count, least): (usize, usize),
        outer: Outer,
        wakeup: &Wakeup<'_>,
        batch: &mut B,
    ) -> bool {
        let Shared { sinks, .. } = wakeup.shared;
        let Self { child, sa, .. } = self;
        let (id, counters) = (child.entry.id, &child.pair.outbound);
        if self.limits.expired(self.packets, self.bytes) {
            counters.dropped(Cause::Expired, count as u64);
            self.limits.tell_end(id, sinks);
            return false;
        }
        let Ok(first) = sa.reserve(u32::try_from(count).unwrap_or(u32::MAX)) else {
            counters.dropped(Cause::Expired, count as u64);
            self.limits.tell_end(id, sinks);
            return false;
        };
        let transport = child.entry.mode == Mode::Transport;
        let (next_header, without) = if transport {
            let header_len = transport::header_len(flow.key.source);
            if flow.fragment || flow.header_len != header_len {
                counters.dropped(Cause::NotForTransport, count as u64);
                return true;
            }
            (flow.key.protocol, header_len)
        } else {
            // RFC 4303 §2.6: 4 for IPv4, 41 for IPv6.
            (if flow.is_ipv6() { 41 } else { 4 }, 0)
        };
        let headroom = sa.headroom();
        let mut octets = 0;
        for (index, sequence) in (0..count).zip(first..) {
            let whole_len = segmenter.segment_len(index);
            let len = whole_len - without;
            let padded = len.max(least);
            let sealed_len = sa.sealed_len(padded);
            let place = batch.place(sealed_len, &child.path, outer, wakeup.shared, wakeup.counters);
            let Some(place) = place else { break };
            if let Some(payload) = place.get_mut(headroom..) {
                if transport {
                    segmenter.write_transport(index, payload);
                } else {
                    segmenter.write_segment(index, payload);
                }
            }
            if padded > len
                && let Some(rest) = place.get_mut(headroom + len..headroom + padded)
            {
                // What the buffer held before is nobody's business.
                rest.fill(0);
            }
            sa.seal(sequence, next_header, padded, place);
            octets += whole_len as u64;
        }
        self.packets += count as u64;
        self.bytes += octets;
        counters.add(count as u64, octets);
        self.limits.tell(id, self.packets, self.bytes, sinks);
        if self.sent.due(wakeup.now) {
            (sinks.reports)(SadReport::Sent(id));
        }
        true
    }
}

/// The batch that a pair's packets leave by.
fn batch_of<'a>(sockets: &'a mut Sockets, child: &ChildSa) -> Option<&'a mut SendBatch> {
    sockets.get_mut(socket_of(&child.path, child.encapsulation))?.as_mut()
}

/// What selectors call ports, source and destination. An ICMP type and code stands on both sides (RFC 4301 §4.4.1.1).
pub(super) fn ports(key: &FlowKey) -> (PortMatch, PortMatch) {
    match key.ports {
        Ports::Pair { source, destination } => (PortMatch::Number(source), PortMatch::Number(destination)),
        Ports::Message(message) => (PortMatch::Number(message), PortMatch::Number(message)),
        Ports::None | Ports::Opaque => (PortMatch::Opaque, PortMatch::Opaque),
    }
}

/// A TCP SYN, whose MSS option may want clamping.
pub(super) fn is_syn(flow: &Flow, packet: &[u8]) -> bool {
    const SYN: u8 = 0x02;
    flow.key.protocol == protocol::TCP
        && !flow.later_fragment
        && packet.get(flow.header_len + 13).is_some_and(|flags| flags & SYN != 0)
}

impl std::fmt::Debug for Sending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sending({:?}, {} packets)", self.child, self.packets)
    }
}
