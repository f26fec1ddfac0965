//! From the wire to the TUN: messages are received in batches, each ESP packet is opened in its place, checked against
//! the selectors, and what belongs together goes to the TUN in one write.

use super::outbound::ports;
use super::report::{InboundReports, ReportSink};
use super::stats::{Drop, StrayCounters};
use super::table::{Interface, Pair, SaTable};
use crate::sys::udp::{Message, RECEIVE_BUFFER, ReceiveBatch};
use landbridge_proto::crypto::ESP_PROVIDER;
use landbridge_proto::esp::encap::{Datagram, classify};
use landbridge_proto::esp::{InboundError, InboundSa, NextHeader};
use landbridge_proto::ip::coalesce::{CoalesceOptions, Coalescer, MAX_COUNT};
use landbridge_proto::ip::flow::{self, Flow};
use landbridge_proto::ip::tunnel::{Ecn, decapsulate_ecn};
use landbridge_proto::ip::vnet::VnetHeader;
use landbridge_proto::policy::sad::{ChildSaId, Path, SadReport};
use landbridge_proto::policy::spi::slot_of;
use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Receive calls before others have their turn.
const BUDGET: usize = 8;
/// Packets a batch usually holds.
const USUAL: usize = 512;
/// RFC 4303 and users' complaints: unknown SPIs are told to control at most so often a wake-up.
const UNKNOWN_TOLD: u32 = 4;

/// Takes IKE messages that the kernel merged into ESP's (UDP_GRO looks at addresses only).
pub type StraySink = dyn Fn(Path, Vec<u8>) + Send + Sync;

/// The receive buffers, and what is made of them.
pub struct Inbound {
    batch: ReceiveBatch,
    opener: Opener,
    joiner: Joiner,
}

/// The inbound SAs this worker owns.
struct Opener {
    states: Vec<Option<State>>,
}

/// Inner packets of one interface on their way to its TUN.
struct Joiner {
    coalescer: Coalescer,
    /// Where each packet of the coalescer lies in the batch's buffers.
    places: Vec<Range<usize>>,
    /// Whose they are.
    current: Option<Arc<Interface>>,
    told: bool,
}

/// An inner packet that may go in.
struct Admitted<'t> {
    pair: &'t Arc<Pair>,
    flow: Flow,
    /// Within its datagram.
    range: Range<usize>,
}

struct State {
    id: ChildSaId,
    sa: InboundSa,
    reports: InboundReports,
}

/// Where things go.
pub struct Cx<'a> {
    pub now: Instant,
    pub table: &'a SaTable,
    pub reports: &'a ReportSink,
    pub strays: &'a StraySink,
    pub stray_counters: &'a StrayCounters,
    pub nat_port: u16,
}

impl Inbound {
    /// Nothing owned yet.
    pub fn new(coalesce: CoalesceOptions) -> Self {
        let joiner = Joiner {
            coalescer: Coalescer::new(coalesce, USUAL),
            places: Vec::with_capacity(USUAL),
            current: None,
            told: false,
        };
        Self {
            batch: ReceiveBatch::new(),
            opener: Opener { states: Vec::new() },
            joiner,
        }
    }

    /// Drops what is gone. The replay window of a pair lives as long as the pair.
    pub fn sync(&mut self, installed: &dyn Fn(ChildSaId) -> bool) {
        for state in &mut self.opener.states {
            if state.as_ref().is_some_and(|state| !installed(state.id)) {
                *state = None;
            }
        }
    }

    /// Receives what a socket has, up to a budget; true if there may be more.
    pub fn run(&mut self, socket: &UdpSocket, cx: &Cx<'_>) -> bool {
        for _ in 0..BUDGET {
            let Ok(count) = self.batch.receive(socket) else {
                return false;
            };
            let mut unknown_told = 0;
            for index in 0..count {
                self.message(index, cx, &mut unknown_told);
            }
            self.joiner.flush(self.batch.octets());
        }
        true
    }

    /// GRO merges by addresses and size only: each segment of a message is looked at by itself.
    fn message(&mut self, index: usize, cx: &Cx<'_>, unknown_told: &mut u32) {
        let Self { batch, opener, joiner } = self;
        let base = index * RECEIVE_BUFFER;
        let mut start = 0;
        while let Some((message, octets)) = batch.message(index) {
            if start >= message.len {
                return;
            }
            let end = (start + message.segment).min(message.len);
            if let Some(Admitted { pair, flow, range }) =
                opener.datagram(&mut octets[start..end], &message, cx, unknown_told)
            {
                let place = base + start + range.start..base + start + range.end;
                joiner.push(&pair.interface, &flow, place, batch.octets());
            }
            start = end;
        }
    }

    /// A datagram that control received merged into an IKE message.
    pub fn inject(&mut self, remote: SocketAddr, octets: &mut [u8], cx: &Cx<'_>) {
        let message = Message {
            len: octets.len(),
            segment: octets.len().max(1),
            remote,
            local: remote.ip(),
            tos: 0,
        };
        if let Some(Admitted { pair, range, .. }) = self.opener.datagram(octets, &message, cx, &mut 0) {
            let plain = VnetHeader::default().to_octets();
            let pieces = [IoSlice::new(&plain), IoSlice::new(&octets[range])];
            if pair.interface.tun.write(&pieces).is_err() {
                pair.counters.inbound.dropped(Drop::TunFailed, 1);
            }
        }
    }
}

impl Opener {
    fn datagram<'t>(
        &mut self,
        octets: &mut [u8],
        message: &Message,
        cx: &Cx<'t>,
        unknown_told: &mut u32,
    ) -> Option<Admitted<'t>> {
        let spi = match classify(octets) {
            Datagram::Esp(spi) => spi,
            Datagram::Ike => {
                let local = SocketAddr::new(message.local, cx.nat_port);
                (cx.strays)(
                    Path {
                        local,
                        remote: message.remote,
                    },
                    octets[4..].to_vec(),
                );
                return None;
            }
            Datagram::Keepalive => {
                cx.stray_counters.keepalives.add(1);
                return None;
            }
            Datagram::Short => {
                cx.stray_counters.short.add(1);
                return None;
            }
        };
        let Some(pair) = cx.table.inbound(spi) else {
            cx.stray_counters.unknown_spi.add(1);
            if *unknown_told < UNKNOWN_TOLD {
                *unknown_told += 1;
                (cx.reports)(SadReport::UnknownSpi {
                    spi,
                    remote: message.remote,
                });
            }
            return None;
        };
        match self.open(pair, message, octets, cx) {
            Ok(admitted) => {
                pair.counters.inbound.passed(1, admitted.range.len() as u64);
                Some(admitted)
            }
            Err(Refused::Dropped(cause)) => {
                pair.counters.inbound.dropped(cause, 1);
                None
            }
            Err(Refused::Dummy) => None,
        }
    }

    /// Opens in place, then checks what came out.
    fn open<'t>(
        &mut self,
        pair: &'t Arc<Pair>,
        message: &Message,
        octets: &mut [u8],
        cx: &Cx<'_>,
    ) -> Result<Admitted<'t>, Refused> {
        let malformed = Refused::Dropped(Drop::Malformed);
        let state = state(&mut self.states, pair).ok_or(malformed)?;
        let opened = state.sa.open(octets).map_err(|error| {
            Refused::Dropped(match error {
                InboundError::Replayed | InboundError::TooOld => Drop::Replayed,
                InboundError::Integrity => Drop::Integrity,
                InboundError::Malformed => Drop::Malformed,
                InboundError::Padding => Drop::Padding,
            })
        })?;
        state.reports.heard(cx.reports, cx.now, pair.id());
        if message.remote != pair.path.remote && opened.sequence == state.sa.highest() {
            state.reports.moved(cx.reports, pair.id(), message.remote);
        }
        let packet = &mut octets[opened.payload.clone()];
        // RFC 4303 §2.6: dummy packets are discarded without complaint; tunnel mode carries IP only.
        let ipv6 = match opened.next_header {
            NextHeader::Ipv4 => false,
            NextHeader::Ipv6 => true,
            NextHeader::Dummy => return Err(Refused::Dummy),
            NextHeader::Other(_) => return Err(malformed),
        };
        let mut flow = flow::parse(packet).map_err(|_| malformed)?;
        if flow.is_ipv6() != ipv6 {
            return Err(malformed);
        }
        // RFC 4301 §5.2: what comes out must be what the SA is for: from the peer's side, to ours.
        let (source, destination) = ports(&flow);
        let protocol = flow.key.protocol;
        if !pair.remote.contains(flow.key.source, protocol, source)
            || !pair.local.contains(flow.key.destination, protocol, destination)
        {
            return Err(Refused::Dropped(Drop::SelectorIn));
        }
        if decapsulate_ecn(Ecn::from_tos(message.tos), &mut flow, packet).is_err() {
            return Err(Refused::Dropped(Drop::Ecn));
        }
        // What follows the IP packet is TFC padding (RFC 4303 §2.7).
        let range = opened.payload.start..opened.payload.start + flow.total_len;
        Ok(Admitted { pair, flow, range })
    }
}

/// Why nothing goes in.
#[derive(Clone, Copy)]
enum Refused {
    Dropped(Drop),
    Dummy,
}

impl Joiner {
    /// Takes the packet at `place` of the buffers.
    fn push(&mut self, interface: &Arc<Interface>, flow: &Flow, place: Range<usize>, octets: &[u8]) {
        if self
            .current
            .as_ref()
            .is_none_or(|current| current.token != interface.token)
        {
            // Another tunnel's: what was collected goes first.
            self.flush(octets);
            self.current = Some(Arc::clone(interface));
        }
        let index = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        self.coalescer.push(index, flow, &octets[place.clone()]);
        self.places.push(place);
    }

    /// Writes what was collected, a super-packet a write.
    fn flush(&mut self, octets: &[u8]) {
        let Some(interface) = self.current.take() else { return };
        let Self {
            coalescer,
            places,
            told,
            ..
        } = self;
        let mut failed = 0;
        let mut refused = false;
        for item in coalescer.plan() {
            let vnet = item.vnet.to_octets();
            let mut pieces = [IoSlice::new(&[]); MAX_COUNT + 2];
            pieces[0] = IoSlice::new(&vnet);
            pieces[1] = IoSlice::new(item.header);
            let mut used = 2;
            for part in item.parts() {
                let place = &places[part.index as usize];
                pieces[used] = IoSlice::new(&octets[place.start + part.range.start..place.start + part.range.end]);
                used += 1;
            }
            if let Err(error) = interface.tun.write(&pieces[..used]) {
                failed += item.count as u64;
                refused |= item.count > 1 && error.raw_os_error() == Some(libc::EINVAL);
            }
        }
        if failed > 0 {
            interface.counters.inbound.dropped(Drop::TunFailed, failed);
        }
        coalescer.clear();
        places.clear();
        if refused {
            // The kernel does not take super-packets (or not this kind): singly from now on.
            coalescer.set_options(CoalesceOptions { tcp: false, udp: false });
            if !std::mem::replace(told, true) {
                let interface = interface.tun.name();
                tracing::warn!(interface, "super-packets are refused: writing packets one by one");
            }
        }
    }
}

fn state<'a>(states: &'a mut Vec<Option<State>>, pair: &Pair) -> Option<&'a mut State> {
    let slot = slot_of(pair.entry.inbound.spi);
    if states.len() <= slot {
        states.resize_with(slot + 1, || None);
    }
    let place = states.get_mut(slot)?;
    if place.as_ref().is_none_or(|state| state.id != pair.id()) {
        let sa = InboundSa::new(&ESP_PROVIDER, &pair.entry.inbound, pair.entry.replay_window)?;
        *place = Some(State {
            id: pair.id(),
            sa,
            reports: InboundReports::default(),
        });
    }
    place.as_mut()
}
