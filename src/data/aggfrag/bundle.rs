//! The way out: what waits to be sent by a pair, and when it is.

use super::USUAL_HEADER;
use crate::data::batch::{Outer, Places, SendBatch};
use crate::data::report::Nanos;
use crate::data::sending::Sending;
use crate::data::stats::Cause;
use crate::data::table::{ChildSa, Interface};
use crate::data::worker::Wakeup;
use landbridge_proto::crypto::CipherSizes;
use landbridge_proto::esp::aggfrag::{self, Bounds, Encoder, Header, Pace};
use landbridge_proto::esp::transform;
use landbridge_proto::ip::segment::Segmenter;
use landbridge_proto::ip::tunnel::DontFragment;
use landbridge_proto::policy::aggfrag::{Aggfrag, SendMode};
use landbridge_proto::policy::sad::{Encapsulation, SadReport};
use landbridge_proto::time::Instant;
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
pub(in crate::data) struct Bundle {
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
    pub(in crate::data) fn new(agreed: &Aggfrag) -> Self {
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
    pub(in crate::data) fn longest(&self) -> Option<usize> {
        (!self.encoder.fragments()).then(|| self.capacity())
    }

    /// When [`Sending::tick`] has something to do.
    pub(in crate::data) fn deadline(&self) -> Option<Nanos> {
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
    pub(in crate::data) const fn has_begun(&self) -> bool {
        self.encoder.has_begun()
    }
}

/// What waits behind a pair that was replaced goes by the one that took its place.
pub(in crate::data) fn take_up(interface: &Interface, active: &mut [Sending], resting: &mut [Sending]) {
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
    pub(in crate::data) fn gather(
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
    pub(in crate::data) fn tick(&mut self, interface: &Interface, wakeup: &Wakeup<'_>, batch: &mut SendBatch) {
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
    pub(in crate::data) fn has_begun(&self) -> bool {
        self.bundle.as_ref().is_some_and(|bundle| bundle.has_begun())
    }

    /// Ends the packet that was begun before `new` took over; at a constant rate in its turns.
    pub(in crate::data) fn finish(
        &mut self,
        new: &mut Self,
        interface: &Interface,
        wakeup: &Wakeup<'_>,
        batch: &mut SendBatch,
    ) {
        let by_rate = new.by_rate();
        while self.has_begun() && (!by_rate || new.is_due(wakeup)) {
            self.emit(interface, wakeup, batch);
        }
    }

    fn by_rate(&self) -> bool {
        self.bundle.as_ref().is_some_and(|bundle| !bundle.gathers())
    }

    /// Sends everything that waits.
    pub(in crate::data) fn send_all(&mut self, interface: &Interface, wakeup: &Wakeup<'_>, batch: &mut SendBatch) {
        while self.bundle.as_ref().is_some_and(|bundle| !bundle.encoder.is_empty()) {
            self.emit(interface, wakeup, batch);
        }
        if let Some(bundle) = &mut self.bundle {
            bundle.due = None;
        }
    }

    /// Sends one outer packet: a full one, or where packets are only gathered one as long as what is in it.
    pub(in crate::data) fn emit(&mut self, interface: &Interface, wakeup: &Wakeup<'_>, batch: &mut SendBatch) {
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
