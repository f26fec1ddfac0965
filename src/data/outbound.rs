//! From the TUN to the wire: a super-packet is read, looked up once, and each of its segments is written and sealed in
//! its place in the send batch.

use super::batch::SendBatch;
use super::report::{OutboundReports, ReportSink};
use super::stats::Drop;
use super::table::{Pair, Port};
use crate::sys::udp::Destination;
use landbridge_proto::crypto::ESP_PROVIDER;
use landbridge_proto::esp::OutboundSa;
use landbridge_proto::ip::flow::{self, Flow, Ports};
use landbridge_proto::ip::icmp::{self, IcmpError};
use landbridge_proto::ip::segment::Segmenter;
use landbridge_proto::ip::vnet::VnetHeader;
use landbridge_proto::ip::{mss, tunnel};
use landbridge_proto::policy::sad::{ChildSaId, SadReport, TrafficLimits};
use landbridge_proto::policy::selector::PortMatch;
use std::io::IoSlice;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Instant;

/// A packet and its vnet header.
const READ_BUFFER: usize = 64 * 1024 + 64;
/// Packets read from one TUN before others have their turn.
const BUDGET: usize = 32;
/// An ICMP error quotes at most this much (RFC 1812 §4.3.2.3, RFC 4443 §3.2).
const ICMP_BUFFER: usize = 1280;
/// ICMP errors a wake-up: they answer packets of our own hosts, but a flood is a flood.
const MOST_ERRORS: u32 = 16;

/// The outbound SAs this worker owns, and its buffers.
pub struct Outbound {
    states: Vec<State>,
    buffer: Vec<u8>,
    scratch: Vec<u8>,
    /// By address family of the outside.
    batch_v4: SendBatch,
    batch_v6: SendBatch,
    errors_left: u32,
    acquired: Option<Instant>,
}

struct State {
    id: ChildSaId,
    sa: OutboundSa,
    reports: OutboundReports,
}

/// Where things go.
pub struct Cx<'a> {
    pub now: Instant,
    pub reports: &'a ReportSink,
    pub socket_v4: RawFd,
    pub socket_v6: Option<RawFd>,
}

impl Outbound {
    /// Nothing owned yet.
    pub fn new(gso: bool) -> Self {
        Self {
            states: Vec::new(),
            buffer: vec![0; READ_BUFFER],
            scratch: vec![0; READ_BUFFER],
            batch_v4: SendBatch::new(gso),
            batch_v6: SendBatch::new(gso),
            errors_left: MOST_ERRORS,
            acquired: None,
        }
    }

    /// Whether the kernel still segments for us.
    pub fn gso(&self) -> bool {
        self.batch_v4.gso()
    }

    /// Keys what is new and drops what is gone. A pair keeps its sequence numbers as long as it is installed, whether it
    /// sends or not: no (key, IV) pair can come twice.
    pub fn sync(&mut self, installed: &dyn Fn(ChildSaId) -> bool) {
        self.states.retain(|state| installed(state.id));
    }

    fn state(&mut self, pair: &Pair) -> Option<&mut State> {
        let id = pair.id();
        if let Some(index) = self.states.iter().position(|state| state.id == id) {
            return self.states.get_mut(index);
        }
        let seed = pair.entry.iv_seed.expose().try_into().ok()?;
        let sa = OutboundSa::new(&ESP_PROVIDER, &pair.entry.outbound, seed)?;
        self.states.push(State {
            id,
            sa,
            reports: OutboundReports::default(),
        });
        self.states.last_mut()
    }

    /// Reads what the interface has, up to a budget; true if there may be more.
    pub fn run(&mut self, port: &Port, cx: &Cx<'_>) -> bool {
        self.errors_left = MOST_ERRORS;
        let mut more = true;
        for _ in 0..BUDGET {
            let mut buffer = std::mem::take(&mut self.buffer);
            let got = port.interface.tun.read(&mut buffer);
            if let Ok(len) = got {
                self.packet(port, cx, &mut buffer[..len]);
            }
            self.buffer = buffer;
            if got.is_err() {
                more = false;
                break;
            }
        }
        self.flush(port, cx);
        more
    }

    fn packet(&mut self, port: &Port, cx: &Cx<'_>, octets: &mut [u8]) {
        let interface = &port.interface;
        let counters = &interface.counters.outbound;
        let Some((header, packet)) = octets.split_first_chunk_mut::<{ VnetHeader::LEN }>() else {
            return;
        };
        let vnet = VnetHeader::from_octets(header);
        let Ok(flow) = flow::parse(packet) else {
            counters.dropped(Drop::Malformed, 1);
            return;
        };
        let Some(pair) = choose(&port.active, &flow) else {
            let cause = if port.active.is_empty() {
                Drop::NoSa
            } else {
                Drop::SelectorOut
            };
            counters.dropped(cause, 1);
            if cause == Drop::NoSa {
                self.acquire(cx, &flow);
            }
            return;
        };
        let mtu = interface.mtu();
        if interface.clamp_mss {
            mss::clamp(packet, &flow, mtu, vnet.needs_checksum());
        }
        let Ok(segmenter) = Segmenter::new(&vnet, packet) else {
            pair.counters.outbound.dropped(Drop::Malformed, 1);
            return;
        };
        if segmenter.max_segment_len() > usize::from(mtu) {
            pair.counters.outbound.dropped(Drop::Mtu, segmenter.count() as u64);
            self.too_big(port, &segmenter, mtu);
            return;
        }
        self.seal(port, cx, pair, &segmenter);
    }

    fn seal(&mut self, port: &Port, cx: &Cx<'_>, pair: &Pair, segmenter: &Segmenter<'_>) {
        let flow = segmenter.flow();
        let (next_header, tos) = (if flow.is_ipv6() { 41 } else { 4 }, tunnel::outer_tos(flow.tos));
        let to = Destination {
            local: pair.path.local.ip(),
            remote: pair.path.remote,
            tos,
        };
        let ipv6 = pair.path.is_ipv6();
        let count = segmenter.count();
        let counters = &pair.counters.outbound;
        let Some(state) = self.state(pair) else {
            counters.dropped(Drop::NoSa, count as u64);
            return;
        };
        if over(&pair.entry.limits, counters.bytes.get(), counters.packets.get()).1 {
            state.reports.hard(cx.reports, pair.id());
            counters.dropped(Drop::Exhausted, count as u64);
            return;
        }
        let Ok(first) = state.sa.reserve(u32::try_from(count).unwrap_or(u32::MAX)) else {
            state.reports.hard(cx.reports, pair.id());
            counters.dropped(Drop::Exhausted, count as u64);
            return;
        };
        let mut bytes = 0;
        for index in 0..count {
            let inner = segmenter.segment_len(index);
            // Looked up anew each time: flushing needs all of self in between.
            let Some(position) = self.states.iter().position(|state| state.id == pair.id()) else {
                return;
            };
            let len = self.states[position].sa.sealed_len(inner);
            let batch = if ipv6 { &self.batch_v6 } else { &self.batch_v4 };
            if !batch.fits(len, &to) {
                self.flush(port, cx);
            }
            let Self {
                states,
                batch_v4,
                batch_v6,
                ..
            } = self;
            let sa = &mut states[position].sa;
            let place = if ipv6 { batch_v6 } else { batch_v4 }.place(len, &to);
            let at = sa.headroom();
            let written = segmenter.write_segment(index, &mut place[at..]);
            debug_assert_eq!(written, Some(inner));
            sa.seal(first + index as u64, next_header, inner, place);
            bytes += inner as u64;
        }
        counters.passed(count as u64, bytes);
        if let Some(state) = self.states.iter_mut().find(|state| state.id == pair.id()) {
            state.reports.sent(cx.reports, cx.now, pair.id());
            if over(&pair.entry.limits, counters.bytes.get(), counters.packets.get()).0 {
                state.reports.soft(cx.reports, pair.id());
            }
        }
    }

    fn flush(&mut self, port: &Port, cx: &Cx<'_>) {
        let mut lost = self.batch_v4.flush(cx.socket_v4);
        match cx.socket_v6 {
            Some(socket) => lost += self.batch_v6.flush(socket),
            None => debug_assert_eq!(self.batch_v6.count(), 0),
        }
        if lost > 0 {
            port.interface.counters.outbound.dropped(Drop::SendFailed, lost as u64);
        }
    }

    /// RFC 4301 §8.2.1: the sender is told the tunnel's MTU.
    fn too_big(&mut self, port: &Port, segmenter: &Segmenter<'_>, mtu: u16) {
        if self.errors_left == 0 {
            return;
        }
        self.errors_left -= 1;
        let Some(len) = segmenter.write_segment(0, &mut self.scratch) else {
            return;
        };
        let Ok(flow) = flow::parse(&self.scratch[..len]) else {
            return;
        };
        // From the far end of the packet's own way: the gateway need not have an address on the interface.
        let source = flow.key.destination;
        let mut answer = [0; ICMP_BUFFER];
        let error = IcmpError::TooBig { mtu };
        if let Some(len) = icmp::build(error, &flow, &self.scratch[..len], source, &mut answer) {
            let plain = VnetHeader::default().to_octets();
            if port
                .interface
                .tun
                .write(&[IoSlice::new(&plain), IoSlice::new(&answer[..len])])
                .is_err()
            {
                port.interface.counters.outbound.dropped(Drop::TunFailed, 1);
            }
        }
    }

    fn acquire(&mut self, cx: &Cx<'_>, flow: &Flow) {
        let due = self
            .acquired
            .is_none_or(|last| cx.now.duration_since(last).as_secs() >= 1);
        if due {
            self.acquired = Some(cx.now);
            (cx.reports)(SadReport::Acquire {
                source: flow.key.source,
                destination: flow.key.destination,
            });
        }
    }
}

/// The pair whose selectors take the packet: its source on our side, its destination on the peer's (RFC 4301 §5.1).
fn choose<'a>(active: &'a [Arc<Pair>], flow: &Flow) -> Option<&'a Arc<Pair>> {
    let (source, destination) = ports(flow);
    let protocol = flow.key.protocol;
    active.iter().find(|pair| {
        pair.local.contains(flow.key.source, protocol, source)
            && pair.remote.contains(flow.key.destination, protocol, destination)
    })
}

/// Source and destination port as selectors see them (RFC 7296 §3.13.1).
pub fn ports(flow: &Flow) -> (PortMatch, PortMatch) {
    match flow.key.ports {
        Ports::Pair { source, destination } => (PortMatch::Number(source), PortMatch::Number(destination)),
        Ports::Message(message) => (PortMatch::Number(message), PortMatch::Number(message)),
        Ports::None | Ports::Opaque => (PortMatch::Opaque, PortMatch::Opaque),
    }
}

/// Whether soft and hard limits are reached.
fn over(limits: &TrafficLimits, bytes: u64, packets: u64) -> (bool, bool) {
    let at = |limit: Option<u64>, value: u64| limit.is_some_and(|limit| value >= limit);
    (
        at(limits.soft_bytes, bytes) || at(limits.soft_packets, packets),
        at(limits.hard_bytes, bytes) || at(limits.hard_packets, packets),
    )
}
