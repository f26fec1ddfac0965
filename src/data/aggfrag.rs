//! IP-TFS (RFC 9347) on the way out and in: inner packets gathered into outer ones, and outer ones taken apart.
//!
//! Outbound, a packet is copied twice: from the TUN's buffer into the queue, and from there to where it is sealed. Inbound, what
//! came whole and in its turn stays where it was opened; only what was cut or overtaken is copied.
//! Nothing here is called for a pair without it.

use super::audit::Audit;
use super::batch::{Outer, Places, SendBatch};
use super::deliver::Place;
use super::inbound::{Fate, Inbound, Receiver, Receiving, event};
use super::report::Nanos;
use super::sending::Sending;
use super::stats::Cause;
use super::table::{ChildSa, Interface};
use super::worker::Wakeup;
use crate::sys::receive::Message;
use landbridge_proto::crypto::CipherSizes;
use landbridge_proto::esp::aggfrag::{self, Bounds, Control, Decoder, Drops, Encoder, Found, Header, Pace};
use landbridge_proto::esp::{NextHeader, Opened, transform};
use landbridge_proto::ip::segment::Segmenter;
use landbridge_proto::ip::tunnel::DontFragment;
use landbridge_proto::policy::aggfrag::{Aggfrag, SendMode};
use landbridge_proto::policy::sad::{ChildSaEntry, Encapsulation, SadReport};
use landbridge_proto::policy::spi;
use landbridge_proto::time::Instant;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Octets that may wait while packets are gathered: more than one read from a TUN brings.
const GATHERED: usize = 256 << 10;
/// How long a packet waits at most behind others for its turn at a constant rate; then the queue is full.
const QUEUE_TIME: Duration = Duration::from_millis(200);
/// Octets of the longest such queue.
const QUEUE_MOST: usize = 8 << 20;
/// The longest payload: what a datagram carries, less what stands around it.
const PAYLOAD_MOST: usize = 65_000;
/// The shortest: what a mistaken MTU or size still leaves.
const PAYLOAD_LEAST: usize = Header::CONGESTION + 64;
/// What a worker that sends late at a constant rate catches up with.
const CAUGHT_UP: Duration = Duration::from_millis(20);
/// Octets of a Pad Data Block in a payload that is sent for its header: on an SA with IP-TFS none is empty (RFC 9347 §2.2.4: "this
/// situation is only applicable in use cases without Internet Key Exchange Protocol Version 2 (IKEv2)").
const PAD: usize = 4;

/// What waits to be sent by a pair with IP-TFS, and when.
pub(super) struct Bundle {
    encoder: Encoder,
    mode: SendMode,
    /// Octets before the data blocks.
    header: usize,
    /// Octets of a full payload.
    payload: usize,
    /// At a rate; it begins with the first tick.
    pace: Option<Pace>,
    /// When what was gathered is sent.
    due: Option<Nanos>,
    /// When the peer is to be told of the path, if nothing was sent by then.
    tell: Option<Nanos>,
}

impl Bundle {
    pub(super) fn new(agreed: &Aggfrag) -> Self {
        let mode = agreed.iptfs.mode;
        let most = match mode {
            SendMode::Aggregate { .. } => GATHERED,
            SendMode::Constant { rate } => queue_octets(rate),
            // It becomes more with the rate.
            SendMode::Congestion { least, .. } => queue_octets(least),
        };
        let informs = agreed.informs();
        Self {
            encoder: Encoder::new(!agreed.peer.dont_fragment(), most),
            mode,
            header: if informs { Header::CONGESTION } else { Header::PLAIN },
            payload: PAYLOAD_LEAST,
            pace: None,
            due: None,
            tell: (informs && matches!(mode, SendMode::Aggregate { .. })).then_some(0),
        }
    }

    /// The pair's way or its interface changed: how long a full payload is. Without a size in the configuration a packet as
    /// long as the interface's MTU fills it.
    fn fit(&mut self, child: &ChildSa, interface: &Interface, sizes: &CipherSizes) {
        let udp = child.encapsulation == Encapsulation::Udp;
        let size = child.entry.aggfrag.as_ref().and_then(|agreed| agreed.iptfs.size);
        let payload = match size {
            Some(outer) => transform::inner_mtu(sizes, usize::from(outer), child.path.is_ipv6(), udp),
            None => usize::from(interface.mtu) + USUAL_HEADER,
        };
        self.payload = payload.clamp(PAYLOAD_LEAST, PAYLOAD_MOST);
        match self.mode {
            SendMode::Aggregate { .. } => {}
            SendMode::Constant { rate } => {
                let interval = Pace::interval(rate, outer_len(self.payload, child, sizes));
                if let Some(pace) = &mut self.pace {
                    pace.set_interval(interval);
                }
            }
            SendMode::Congestion { least, most } => {
                if let Some(mut control) = child.pair.control() {
                    control.set_bounds(Bounds::new(least, most, outer_len(self.payload, child, sizes)));
                }
            }
        }
    }

    /// Whether the next packet at a rate is due: then it is to be sent.
    fn is_due(&mut self, now: Nanos, child: &ChildSa, sizes: &CipherSizes) -> bool {
        let now = Instant::from_nanos(now);
        let (interval, late) = match self.mode {
            SendMode::Aggregate { .. } => return false,
            // As long as the pace is there, it has it.
            SendMode::Constant { .. } if self.pace.is_some() => (None, CAUGHT_UP),
            SendMode::Constant { rate } => {
                let interval = Pace::interval(rate, outer_len(self.payload, child, sizes));
                (Some(interval), CAUGHT_UP)
            }
            // RFC 5348 §4.6: "This limit MUST be less than or equal to one round-trip time's worth of packets."
            SendMode::Congestion { .. } => {
                let due = self.pace.is_none_or(|pace| pace.next() <= now);
                let control = if due { child.pair.control() } else { None };
                (control.map(|mut control| control.interval(now)), aggfrag::FLOOR)
            }
        };
        let Some(pace) = &mut self.pace else {
            let interval = interval.unwrap_or(CAUGHT_UP);
            return self.pace.insert(Pace::new(now, interval, late)).due(now);
        };
        if let Some(interval) = interval.filter(|interval| *interval != pace.current()) {
            pace.set_interval(interval);
            self.encoder.set_most(queue_octets(rate(self.payload, interval)));
        }
        pace.due(now)
    }

    /// It is not sent at a rate.
    const fn gathers(&self) -> bool {
        matches!(self.mode, SendMode::Aggregate { .. })
    }

    /// Octets of data blocks in a full payload.
    const fn capacity(&self) -> usize {
        self.payload - self.header
    }

    /// The longest packet that can be sent; `None` is any. RFC 9347 §2.2.7: "there is normally no effective MTU (EMTU) on an
    /// AGGFRAG tunnel", but where the peer takes no fragments.
    pub(super) fn longest(&self) -> Option<usize> {
        (!self.encoder.fragments()).then(|| self.capacity())
    }

    /// When [`Sending::tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        match self.mode {
            SendMode::Aggregate { .. } => self.due.into_iter().chain(self.tell).min(),
            SendMode::Constant { .. } | SendMode::Congestion { .. } => {
                Some(self.pace.as_ref().map_or(0, |pace| pace.next().as_nanos()))
            }
        }
    }

    /// What a packet that was begun leaves behind when another pair takes over; the others go by that one.
    fn hand_over(&mut self, to: Option<(&mut Self, &ChildSa)>, child: &ChildSa) {
        let lost = match to {
            Some((to, new)) => {
                if let (Some(old), Some(mut new)) = (child.pair.control(), new.pair.control()) {
                    new.inherit(&old);
                }
                if !to.gathers() && !self.gathers() {
                    to.pace = to.pace.or(self.pace);
                }
                to.due = to.due.or(self.due);
                to.encoder.set_most(to.encoder.most().max(self.encoder.most()));
                self.encoder.hand_over(&mut to.encoder)
            }
            None => self.encoder.clear(),
        };
        child.pair.outbound.dropped(Cause::QueueFull, lost);
    }

    /// What was begun and has to be ended before the pair that takes over sends anything.
    pub(super) const fn has_begun(&self) -> bool {
        self.encoder.has_begun()
    }
}

/// What waits behind a pair that was replaced goes by the one that took its place.
pub(super) fn take_up(interface: &Interface, active: &mut [Sending], resting: &mut [Sending]) {
    // The newest first: what it knows of the path counts.
    for Sending { child, bundle, .. } in resting.iter_mut().rev() {
        let Some(bundle) = bundle else { continue };
        let to = active.iter_mut().find(|new| new.succeeds(child));
        let heir = to.and_then(|new| Some((new.bundle.as_deref_mut()?, &*new.child)));
        bundle.hand_over(heir, child);
    }
    // After that: a pace that was taken over is another rate's.
    for Sending { child, sa, bundle, .. } in active.iter_mut().chain(resting) {
        if let Some(bundle) = bundle {
            bundle.fit(child, interface, sa.sizes());
        }
    }
}

/// The pair's way changed, perhaps: what was learnt of the old one is not true of another.
pub(super) fn look_at_way(old: &ChildSa, new: &ChildSa) {
    let way = |child: &ChildSa| (child.path.local.ip(), child.path.remote.ip());
    if way(old) != way(new)
        && let Some(mut control) = new.pair.control()
    {
        control.moved();
    }
}

fn nanos(time: Duration) -> Nanos {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Octets that wait [`QUEUE_TIME`] at a rate; at least what one read from a TUN brings.
fn queue_octets(rate: u64) -> usize {
    let octets = u128::from(rate / 8) * QUEUE_TIME.as_millis() / 1000;
    usize::try_from(octets)
        .unwrap_or(QUEUE_MOST)
        .clamp(GATHERED, QUEUE_MOST)
}

/// Bits a second of payloads of a length.
fn rate(payload: usize, interval: Duration) -> u64 {
    let nanos = interval.as_nanos().max(1);
    u64::try_from(payload as u128 * 8_000_000_000 / nanos).unwrap_or(u64::MAX)
}

/// Octets of an outer packet with a payload, IP header and all.
fn outer_len(payload: usize, child: &ChildSa, sizes: &CipherSizes) -> usize {
    let ip = if child.path.is_ipv6() { 40 } else { 20 };
    let udp = if child.encapsulation == Encapsulation::Udp {
        transform::UDP
    } else {
        0
    };
    ip + udp + transform::sealed_len(sizes, payload)
}

/// Octets before the data blocks that an interface's MTU leaves room for: the longer header, which the peer may ask for
/// whatever our own mode is, and which our packets then have.
pub(crate) const USUAL_HEADER: usize = Header::CONGESTION;

/// What both owners of a pair know of the path, where one of the ends goes by it.
pub(super) fn control(entry: &ChildSaEntry) -> Option<Mutex<Control>> {
    let agreed = entry.aggfrag.as_ref().filter(|agreed| agreed.informs())?;
    Some(Mutex::new(Control::new(agreed.iptfs.reorder_window.into())))
}

/// What decides the outer header. RFC 9347 §2.2.5.1: "The AGGFRAG mode never maps the inner DF bit"; §2.2.5.3: "By default, the
/// DS field SHOULD NOT be copied"; §3.1: the ingress "always sets the newly constructed outer encapsulating packet header ECN
/// field to Not-ECT". One DSCP for all is the operator's word.
fn outer(child: &ChildSa, interface: &Interface) -> Outer {
    Outer {
        tos: interface.dscp.tos(0),
        dont_fragment: interface.dont_fragment == DontFragment::Set && !child.path.is_ipv6(),
    }
}

impl Sending {
    /// Takes all `count` segments of a packet into the queue; sends what fills whole payloads, if no rate says when.
    pub(super) fn gather(
        &mut self,
        segmenter: &Segmenter<'_>,
        count: usize,
        interface: &Interface,
        wakeup: &Wakeup<'_>,
        batch: &mut SendBatch,
    ) {
        for index in 0..count {
            let Some(bundle) = &mut self.bundle else { return };
            let room = bundle.encoder.room(segmenter.segment_len(index));
            match room.and_then(|room| segmenter.write_segment(index, room)) {
                Some(_) => {}
                None => self.child.pair.outbound.dropped(Cause::QueueFull, 1),
            }
            if let SendMode::Aggregate { delay } = bundle.mode {
                bundle.due = bundle.due.or(Some(wakeup.now + nanos(delay)));
                while self.bundle.as_ref().is_some_and(|b| b.encoder.queued() >= b.capacity()) {
                    self.emit(interface, wakeup, batch);
                }
            }
        }
    }

    /// Sends what is due.
    pub(super) fn tick(&mut self, interface: &Interface, wakeup: &Wakeup<'_>, batch: &mut SendBatch) {
        let Some(bundle) = &mut self.bundle else { return };
        match bundle.mode {
            SendMode::Aggregate { .. } => {
                if bundle.due.is_some_and(|due| due <= wakeup.now) {
                    self.send_all(interface, wakeup, batch);
                } else if bundle.tell.is_some_and(|tell| tell <= wakeup.now) {
                    let control = self.child.pair.control();
                    let (telling, news) = control.map_or((CAUGHT_UP, false), |c| (c.telling(), c.has_news()));
                    bundle.tell = Some(wakeup.now + nanos(telling));
                    if news {
                        // An all-pad payload, for what stands before it.
                        self.emit(interface, wakeup, batch);
                    }
                }
            }
            SendMode::Constant { .. } | SendMode::Congestion { .. } => {
                while self.is_due(wakeup) {
                    self.emit(interface, wakeup, batch);
                }
            }
        }
    }

    /// Whether the next packet at a rate is due: then it is to be sent.
    fn is_due(&mut self, wakeup: &Wakeup<'_>) -> bool {
        let Self { bundle, child, sa, .. } = self;
        let bundle = bundle.as_mut();
        bundle.is_some_and(|bundle| bundle.is_due(wakeup.now, child, sa.sizes()))
    }

    /// A packet of it has been sent in part.
    pub(super) fn has_begun(&self) -> bool {
        self.bundle.as_ref().is_some_and(|bundle| bundle.has_begun())
    }

    /// Ends the packet that was begun before `new` took over; at a constant rate in its turns.
    pub(super) fn finish(&mut self, new: &mut Self, interface: &Interface, wakeup: &Wakeup<'_>, batch: &mut SendBatch) {
        let by_rate = new.by_rate();
        while self.has_begun() && (!by_rate || new.is_due(wakeup)) {
            self.emit(interface, wakeup, batch);
        }
    }

    fn by_rate(&self) -> bool {
        self.bundle.as_ref().is_some_and(|bundle| !bundle.gathers())
    }

    /// Sends everything that waits.
    pub(super) fn send_all(&mut self, interface: &Interface, wakeup: &Wakeup<'_>, batch: &mut SendBatch) {
        while self.bundle.as_ref().is_some_and(|bundle| !bundle.encoder.is_empty()) {
            self.emit(interface, wakeup, batch);
        }
        if let Some(bundle) = &mut self.bundle {
            bundle.due = None;
        }
    }

    /// Sends one outer packet: a full one, or where packets are only gathered one as long as what is in it.
    pub(super) fn emit(&mut self, interface: &Interface, wakeup: &Wakeup<'_>, batch: &mut SendBatch) {
        let Self {
            child,
            sa,
            limits,
            packets,
            bytes,
            bundle,
            ..
        } = self;
        let Some(bundle) = bundle else { return };
        let (id, counters, sinks) = (child.entry.id, &child.pair.outbound, &wakeup.shared.sinks);
        let sequence = match sa.reserve(1) {
            Ok(sequence) if !limits.expired(*packets, *bytes) => sequence,
            _ => {
                counters.dropped(Cause::Expired, bundle.encoder.clear());
                limits.tell_end(id, sinks);
                return;
            }
        };
        let payload_len = match bundle.mode {
            SendMode::Aggregate { .. } if bundle.encoder.is_empty() => bundle.header + PAD,
            SendMode::Aggregate { .. } => bundle.header + bundle.encoder.next_len(bundle.capacity()),
            SendMode::Constant { .. } | SendMode::Congestion { .. } => bundle.payload,
        };
        let sealed_len = sa.sealed_len(payload_len);
        let outer = outer(child, interface);
        let Some(place) = batch.place(sealed_len, &child.path, outer, wakeup.shared, wakeup.counters) else {
            return;
        };
        let headroom = sa.headroom();
        let congestion = child.pair.control().map(|mut control| {
            let telling = control.telling();
            let pace = bundle.pace.as_ref().map_or(telling, Pace::current);
            bundle.tell = bundle.tell.map(|_| wakeup.now + nanos(telling));
            control.tell(Instant::from_nanos(wakeup.now), pace)
        });
        let payload = place.get_mut(headroom..headroom + payload_len);
        let filled = payload.and_then(|payload| bundle.encoder.fill(congestion, payload));
        let filled = filled.unwrap_or_default();
        // RFC 9347 §2.3: "A sender MUST only send AGGFRAG_PAYLOAD payloads over an SA configured for AGGFRAG mode."
        sa.seal(sequence, aggfrag::NEXT_HEADER, payload_len, place);
        // The limits are about sequence numbers and octets under one key: outer packets, whatever is in them.
        *packets += 1;
        *bytes += payload_len as u64;
        counters.add(filled.packets, filled.octets);
        counters.dropped(Cause::TooBig, filled.too_long);
        limits.tell(id, *packets, *bytes, sinks);
        if self.sent.due(wakeup.now) {
            (sinks.reports)(SadReport::Sent(id));
        }
    }
}

/// What a pair with IP-TFS has received and not yet delivered.
pub(super) struct Unbundle {
    decoder: Decoder,
}

impl Unbundle {
    pub(super) fn new(agreed: &Aggfrag) -> Self {
        let window = usize::from(agreed.iptfs.reorder_window);
        Self {
            decoder: Decoder::new(window, agreed.iptfs.reorder_time),
        }
    }
}

/// An all-pad payload.
const ALL_PAD: [u8; Header::PLAIN] = [0; Header::PLAIN];

impl Receiving {
    /// Takes what was opened apart; the packets are in `found`, not yet checked against the selectors. False if it is not
    /// for a pair with IP-TFS; that is the caller's to count.
    pub(super) fn unbundle(
        &mut self,
        opened: &Opened,
        packet: &[u8],
        tos: u8,
        now: Nanos,
        built: &mut Vec<u8>,
        found: &mut Vec<Found>,
    ) -> bool {
        let Some(unbundle) = &mut self.unbundle else {
            return false;
        };
        let payload = match opened.next_header {
            NextHeader::Other(aggfrag::NEXT_HEADER) => packet.get(opened.payload.clone()).unwrap_or_default(),
            // RFC 4303 §2.6: dummies are discarded "without prejudice"; but their turn was theirs.
            NextHeader::Dummy => &ALL_PAD,
            _ => return false,
        };
        let now = Instant::from_nanos(now);
        if let Some(mut control) = self.child.pair.control() {
            let header = Header::read(payload).ok();
            let heard = header.and_then(|(header, _)| header.congestion);
            control.arrived(now, opened.sequence, heard.as_ref());
        }
        let outer = aggfrag::Outer {
            sequence: opened.sequence,
            tos,
            payload,
        };
        unbundle.decoder.take(now, outer, built, found);
        true
    }

    /// When [`Self::overdue`] has something to do.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        let deadline = self.unbundle.as_ref()?.decoder.deadline();
        deadline.map(Instant::as_nanos)
    }

    /// What was waited for in vain is given up.
    pub(super) fn overdue(&mut self, now: Nanos, built: &mut Vec<u8>, found: &mut Vec<Found>) {
        if let Some(unbundle) = &mut self.unbundle {
            unbundle.decoder.timeout(Instant::from_nanos(now), built, found);
        }
    }

    /// What came to nothing since this was asked last.
    fn drops(&mut self) -> Drops {
        let unbundle = self.unbundle.as_mut();
        unbundle.map_or_else(Drops::default, |unbundle| unbundle.decoder.drops())
    }
}

impl Inbound {
    /// Some pair waits by time, or did.
    pub(super) fn is_timed(&self) -> bool {
        self.timed
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        let waiting = self.receiver.waiting.iter();
        let waiting = waiting.filter_map(|slot| self.own.get(*slot)?.as_ref()?.deadline());
        waiting.min()
    }

    /// What was waited for too long is given up.
    pub(super) fn tick(&mut self, wakeup: &Wakeup<'_>) {
        let Self { own, receiver, .. } = self;
        let mut waiting = std::mem::take(&mut receiver.waiting);
        waiting.retain(|slot| {
            let Some(Some(receiving)) = own.get_mut(*slot) else {
                return false;
            };
            if receiving.deadline().is_some_and(|deadline| deadline <= wakeup.now) {
                receiving.overdue(wakeup.now, receiver.delivery.built(), &mut receiver.found);
                receiver.count_lost(receiving, wakeup);
                receiver.admit_found(receiving, &mut [], 0, wakeup);
            }
            receiving.deadline().is_some()
        });
        receiver.waiting = waiting;
        receiver.delivery.write(&[], wakeup);
    }
}

impl Receiver {
    /// Takes one ESP packet of a pair with IP-TFS.
    pub(super) fn take_apart(
        &mut self,
        receiving: &mut Receiving,
        octets: &mut [u8],
        spi: u32,
        place: Range<usize>,
        message: &Message,
        wakeup: &Wakeup<'_>,
    ) -> Fate {
        let Some(packet) = octets.get_mut(place.clone()) else {
            return Fate::Taken;
        };
        let Some(opened) = receiving.open_outer(packet, message, wakeup) else {
            let forged = matches!(receiving.why, Some((Cause::Integrity, _)));
            self.tell_why(receiving, event(spi, packet, message), wakeup);
            return if forged { Fate::NotAuthentic } else { Fate::Taken };
        };
        // RFC 4301 §4.4.2.1: an SA's life is about outer packets, and about octets that the cipher worked on, padding too.
        receiving.spend(opened.payload.len() as u64, wakeup);
        let (built, found) = (self.delivery.built(), &mut self.found);
        found.clear();
        if !receiving.unbundle(&opened, packet, message.tos, wakeup.now, built, found) {
            receiving.dropped::<()>(Cause::NextHeader);
            self.tell_why(receiving, event(spi, packet, message), wakeup);
            return Fate::Taken;
        }
        self.count_lost(receiving, wakeup);
        let slot = spi::slot_of(spi);
        if receiving.deadline().is_some() && !self.waiting.contains(&slot) {
            self.waiting.push(slot);
        }
        self.admit_found(receiving, octets, place.start + opened.payload.start, wakeup);
        Fate::Taken
    }

    /// Counts what came to nothing, and tells of it as of other drops. RFC 9347 §2.4.1: "packet loss should be reported to the
    /// administrator".
    fn count_lost(&mut self, receiving: &mut Receiving, wakeup: &Wakeup<'_>) {
        let drops = receiving.drops();
        if drops == Drops::default() {
            return;
        }
        let child = &receiving.child;
        for (cause, count) in [
            (Cause::AggfragLost, drops.lost),
            (Cause::AggfragLate, drops.late),
            (Cause::AggfragMalformed, drops.malformed),
            (Cause::AggfragIncomplete, drops.incomplete),
        ] {
            if count > 0 {
                child.pair.inbound.dropped(cause, count);
                self.tell(cause, wakeup, || Audit {
                    connection: Some(Arc::clone(&child.entry.connection)),
                    spi: Some(child.entry.inbound.spi),
                    remote: Some(child.path.remote),
                    ..Audit::default()
                });
            }
        }
    }

    /// Delivers the packets found, those in the payload at `start` and those that were built.
    fn admit_found(&mut self, receiving: &mut Receiving, octets: &mut [u8], start: usize, wakeup: &Wakeup<'_>) {
        let mut found = std::mem::take(&mut self.found);
        for Found { place, tos } in found.drain(..) {
            let (place, inner) = match place {
                aggfrag::Place::Payload(range) => {
                    let range = start + range.start..start + range.end;
                    (Place::Batch(range.clone()), octets.get_mut(range))
                }
                aggfrag::Place::Built(range) => (Place::Built(range.clone()), self.delivery.built().get_mut(range)),
            };
            let Some(inner) = inner else { continue };
            if let Some(flow) = receiving.admit(inner, tos, wakeup) {
                let Receiving { child, interface, .. } = &*receiving;
                self.delivery.push(interface, child, &flow, octets, place, wakeup);
            } else if receiving.why.is_some() {
                let spi = receiving.child.entry.inbound.spi;
                let about = Audit {
                    spi: Some(spi),
                    remote: Some(receiving.child.path.remote),
                    ..Audit::default()
                };
                self.tell_why(receiving, about, wakeup);
            }
        }
        self.found = found;
    }
}
