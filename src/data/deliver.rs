//! What was opened goes to the TUNs: joined to super-packets, one write each.

use super::stats::Cause;
use super::table::{ChildSa, Interface};
use super::worker::Wakeup;
use crate::sys::tun::{Pieces, Tun};
use landbridge_proto::ip::coalesce::{CoalesceOptions, Coalescer};
use landbridge_proto::ip::flow::Flow;
use landbridge_proto::ip::vnet::VnetHeader;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Queues of interfaces that are filled side by side in one batch; with more, the batch is written in parts.
const LANES: usize = 8;
/// Packets a lane has room for from the start.
const PACKETS: usize = 512;

/// Where a packet stands until it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Where it was opened, in the batch's octets.
    Batch(Range<usize>),
    /// In [`Delivery::built`].
    Built(Range<usize>),
}

impl Place {
    /// Its place in the batch, if it is in a datagram that begins at `start`.
    pub(super) fn from(self, start: usize) -> Self {
        match self {
            Self::Batch(range) => Self::Batch(start + range.start..start + range.end),
            built @ Self::Built(_) => built,
        }
    }

    fn octets<'a>(&self, batch: &'a [u8], built: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Self::Batch(range) => batch.get(range.clone()),
            Self::Built(range) => built.get(range.clone()),
        }
    }
}

/// The packets of a batch, by interface and queue. They stay where they were opened until they are written.
#[derive(Default)]
pub(super) struct Delivery {
    lanes: Vec<Lane>,
    built: Vec<u8>,
    used: usize,
    pieces: Pieces,
}

struct Lane {
    interface: Option<Arc<Interface>>,
    /// The interface's queue that it is written to.
    queue: usize,
    coalescer: Coalescer,
    packets: Vec<Place>,
}

impl Lane {
    fn new() -> Self {
        let options = CoalesceOptions { tcp: false, udp: false };
        Self {
            interface: None,
            queue: 0,
            coalescer: Coalescer::new(options, PACKETS),
            packets: Vec::with_capacity(PACKETS),
        }
    }
}

impl Delivery {
    /// For packets that can't stay where they were opened: what is put at its end stays there until it is written.
    pub(super) fn built(&mut self) -> &mut Vec<u8> {
        &mut self.built
    }

    /// Takes an inner packet of a pair, which stands at `place`, in the batch's `octets` or among the built ones.
    pub(super) fn push(
        &mut self,
        interface: &Arc<Interface>,
        child: &ChildSa,
        flow: &Flow,
        octets: &[u8],
        place: Place,
        wakeup: &Wakeup<'_>,
    ) {
        let used = self.lanes.get(..self.used).unwrap_or_default();
        let queue = interface.queues.to_write(child, flow);
        let is_its = |lane: &Lane| {
            let same = |other: &Arc<Interface>| Arc::ptr_eq(&other.queues, &interface.queues);
            lane.queue == queue && lane.interface.as_ref().is_some_and(same)
        };
        let at = match used.iter().position(is_its) {
            Some(at) => at,
            None => {
                if self.used == LANES {
                    self.write_lanes(octets, wakeup);
                }
                if self.used == self.lanes.len() {
                    self.lanes.push(Lane::new());
                }
                self.used += 1;
                self.used - 1
            }
        };
        let Some(lane) = self.lanes.get_mut(at) else { return };
        if lane.interface.is_none() {
            lane.interface = Some(Arc::clone(interface));
            lane.queue = queue;
            if let Some(tun) = interface.queues.tun(queue) {
                lane.coalescer.set_options(wakeup.shared.coalesce(tun));
            }
        }
        let Some(packet) = place.octets(octets, &self.built) else {
            return;
        };
        lane.coalescer.push(lane.packets.len() as u32, flow, packet);
        lane.packets.push(place);
    }

    /// Writes everything.
    pub(super) fn write(&mut self, octets: &[u8], wakeup: &Wakeup<'_>) {
        self.write_lanes(octets, wakeup);
        self.built.clear();
    }

    /// What was built stays: one packet may just be on its way in.
    fn write_lanes(&mut self, octets: &[u8], wakeup: &Wakeup<'_>) {
        let Self {
            lanes,
            used,
            pieces,
            built,
        } = self;
        for lane in lanes.iter_mut().take(std::mem::take(used)) {
            if let Some(interface) = lane.interface.take() {
                write_lane(lane, &interface, (octets, built.as_slice()), pieces, wakeup);
            }
            lane.coalescer.clear();
            lane.packets.clear();
        }
    }
}

fn write_lane(
    lane: &mut Lane,
    interface: &Interface,
    (octets, built): (&[u8], &[u8]),
    pieces: &mut Pieces,
    wakeup: &Wakeup<'_>,
) {
    let Lane {
        coalescer,
        packets,
        queue,
        ..
    } = lane;
    let Some(tun) = interface.queues.tun(*queue) else {
        return;
    };
    let whole = |index: u32| packets.get(index as usize)?.octets(octets, built);
    for item in coalescer.plan() {
        let header = item.vnet.to_octets();
        let header = if tun.vnet() { &header[..] } else { &[] };
        let write = |tun: &Tun, pieces: &mut Pieces| {
            let parts = item.parts().map(|part| {
                whole(part.index)
                    .and_then(|packet| packet.get(part.range))
                    .unwrap_or_default()
            });
            let front = [header, item.header].into_iter().filter(|part| !part.is_empty());
            tun.write(pieces, front.chain(parts))
        };
        let result = write(tun, pieces);
        let Err(error) = result else { continue };
        if item.count == 1 {
            interface.counters.dropped(Cause::TunWrite, 1);
            continue;
        }
        if error.kind() == io::ErrorKind::InvalidInput {
            wakeup.shared.coalescing_off(item.vnet.gso_type, &error);
        }
        // The packets themselves are as they were: the super-packet had its header elsewhere.
        for part in item.parts() {
            let single = [0; VnetHeader::LEN];
            let front = [&single[..]].into_iter();
            let packet = whole(part.index).unwrap_or_default();
            if tun.write(pieces, front.chain([packet])).is_err() {
                interface.counters.dropped(Cause::TunWrite, 1);
            }
        }
    }
}
