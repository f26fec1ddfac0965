//! An outbound SA: its worker seals by it, packet by packet.

use super::aggfrag::Bundle;
use super::batch::{Outer, Places};
use super::report::{Limits, Seldom};
use super::stats::Cause;
use super::table::{ChildSa, Interface};
use super::worker::{Shared, Wakeup};
use landbridge_proto::esp::OutboundSa;
use landbridge_proto::ip::flow::Flow;
use landbridge_proto::ip::segment::Segmenter;
use landbridge_proto::ip::transport;
use landbridge_proto::policy::sad::{Mode, SadReport};
use std::sync::Arc;

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

impl Sending {
    pub(super) fn new(child: &Arc<ChildSa>, sa: OutboundSa) -> Self {
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
    pub(super) fn longest(&self, interface: &Interface) -> usize {
        let most = self.bundle.as_ref().and_then(|bundle| bundle.longest());
        most.map_or(interface.longest(), |most| most.min(interface.longest()))
    }

    /// Whether it is for the traffic of another: it took its place in a rekey.
    pub(super) fn succeeds(&self, old: &ChildSa) -> bool {
        let (new, old) = (&self.child.entry, &old.entry);
        new.child == old.child && new.local_ts == old.local_ts && new.remote_ts == old.remote_ts
    }

    /// Seals all `count` segments of a packet, each padded to `least` octets, into the send batch; false if the SA is used up.
    pub(super) fn seal<B: Places>(
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

impl std::fmt::Debug for Sending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sending({:?}, {} packets)", self.child, self.packets)
    }
}
