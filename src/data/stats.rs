//! Counters. Packets and octets of an SA's direction are written by its one owner and read by control; drops are counted
//! by whoever drops.

use landbridge_proto::esp::aggfrag::PathReport;
use landbridge_proto::policy::sad::{ChildName, ChildSaId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one direction of a Child SA pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Inner packets (segments, not super-packets).
    pub packets: u64,
    /// Octets of inner packets.
    pub bytes: u64,
}

/// Counters of a Child SA pair.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChildSaStats {
    /// Received.
    pub inbound: Traffic,
    /// Sent.
    pub outbound: Traffic,
    /// Drops by cause (names as in metrics: `replayed`, `integrity`, `selector_in`, `selector_out`, `malformed`, ...).
    pub drops: Vec<(&'static str, u64)>,
    /// With congestion information of IP-TFS, what is known of the path now.
    pub path: Option<PathReport>,
}

/// Counters of a connection: they go on across rekeys and while the tunnel is down.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConnectionStats {
    /// Sums of all its Child SAs, past and present.
    pub total: ChildSaStats,
    /// The same for each child, those included that are no more.
    pub by_child: BTreeMap<ChildName, ChildSaStats>,
    /// Each present Child SA, by its identity.
    pub children: Vec<(ChildSaId, ChildSaStats)>,
}

/// Why a packet went no further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    /// ESP: too short or not aligned.
    Malformed,
    /// ESP: left of the replay window.
    TooOld,
    /// ESP: seen before.
    Replayed,
    /// ESP: the ICV does not verify.
    Integrity,
    /// ESP: wrong padding.
    Padding,
    /// Authentic, but a dummy (RFC 4303 §2.6), or no IP packet, or not the one that Next Header says.
    NextHeader,
    /// Authentic, but the inner packet's headers are wrong.
    InnerMalformed,
    /// Authentic, but outside the negotiated selectors (RFC 4301 §5.2).
    SelectorIn,
    /// Congestion marked on a packet without ECN (RFC 6040 §4.2).
    CongestionMark,
    /// The SA has reached its hard limit, or used up its sequence numbers.
    Expired,
    /// From the TUN: headers wrong, or not to be segmented.
    OutMalformed,
    /// From the TUN: no SA for it at the moment.
    NoSa,
    /// From the TUN: outside the selectors of all SAs.
    SelectorOut,
    /// From the TUN: larger than the inner MTU.
    TooBig,
    /// From the TUN: transport mode carries neither fragments nor IP options.
    NotForTransport,
    /// From the TUN: what waits for its turn at a constant rate is as much as may wait (RFC 9347).
    QueueFull,
    /// AGGFRAG: an outer packet that never came, or too late.
    AggfragLost,
    /// AGGFRAG: an outer packet that the reorder window had passed by.
    AggfragLate,
    /// AGGFRAG: a payload with a wrong header, or with something that is no data block.
    AggfragMalformed,
    /// AGGFRAG: an inner packet of which a part was lost.
    AggfragIncomplete,
    /// The TUN does not take it (it is down).
    TunWrite,
    /// The UDP socket does not take it.
    SendFailed,
    /// The UDP socket's buffer stays full.
    SendFull,
    /// ESP with an SPI that is not ours.
    UnknownSpi,
    /// On the NAT port, neither ESP nor IKE.
    Short,
    /// It came to another worker than the SA's owner, whose mailbox was full.
    Handover,
}

impl Cause {
    /// How many there are.
    pub(super) const COUNT: usize = Self::ALL.len();

    /// Its name in the counters.
    pub(super) fn name(self) -> &'static str {
        Self::ALL.get(self as usize).map_or("", |(_, name)| name)
    }

    const ALL: [(Self, &'static str); 26] = [
        (Self::Malformed, "malformed"),
        (Self::TooOld, "too_old"),
        (Self::Replayed, "replayed"),
        (Self::Integrity, "integrity"),
        (Self::Padding, "padding"),
        (Self::NextHeader, "next_header"),
        (Self::InnerMalformed, "inner_malformed"),
        (Self::SelectorIn, "selector_in"),
        (Self::CongestionMark, "congestion_mark"),
        (Self::Expired, "expired"),
        (Self::OutMalformed, "out_malformed"),
        (Self::NoSa, "no_sa"),
        (Self::SelectorOut, "selector_out"),
        (Self::TooBig, "too_big"),
        (Self::NotForTransport, "not_for_transport"),
        (Self::QueueFull, "queue_full"),
        (Self::AggfragLost, "aggfrag_lost"),
        (Self::AggfragLate, "aggfrag_late"),
        (Self::AggfragMalformed, "aggfrag_malformed"),
        (Self::AggfragIncomplete, "aggfrag_incomplete"),
        (Self::TunWrite, "tun_write"),
        (Self::SendFailed, "send_failed"),
        (Self::SendFull, "send_full"),
        (Self::UnknownSpi, "unknown_spi"),
        (Self::Short, "short"),
        (Self::Handover, "handover"),
    ];
}

/// Packets, octets and drops. On cache lines of its own: two directions may have two owners.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Counters {
    packets: AtomicU64,
    bytes: AtomicU64,
    drops: [AtomicU64; Cause::ALL.len()],
}

impl Counters {
    /// Adds traffic. Only the owner may: no read-modify-write is needed then.
    pub(super) fn add(&self, packets: u64, bytes: u64) {
        for (counter, by) in [(&self.packets, packets), (&self.bytes, bytes)] {
            counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
        }
    }

    /// Packets and octets.
    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    /// Counts drops. Anybody may.
    pub(super) fn dropped(&self, cause: Cause, count: u64) {
        if let Some(counter) = self.drops.get(cause as usize) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Those that are not 0.
    pub(super) fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.drops.iter().map(|counter| counter.load(Ordering::Relaxed));
        let named = Cause::ALL.iter().zip(counts).map(|((_, name), count)| (*name, count));
        named.filter(|(_, count)| *count > 0)
    }
}

impl ChildSaStats {
    /// Adds another's numbers.
    pub(super) fn plus(&mut self, other: &Self) {
        for (sum, part) in [
            (&mut self.inbound, &other.inbound),
            (&mut self.outbound, &other.outbound),
        ] {
            sum.packets += part.packets;
            sum.bytes += part.bytes;
        }
        self.add_drops(other.drops.iter().copied());
    }

    /// Adds drops.
    pub(super) fn add_drops(&mut self, drops: impl Iterator<Item = (&'static str, u64)>) {
        add_drops(&mut self.drops, drops);
    }
}

/// Adds counts to a list by name, which stays sorted.
pub(super) fn add_drops(list: &mut Vec<(&'static str, u64)>, drops: impl Iterator<Item = (&'static str, u64)>) {
    for (name, count) in drops {
        match list.binary_search_by_key(&name, |(name, _)| *name) {
            Ok(at) => list[at].1 += count,
            Err(at) => list.insert(at, (name, count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_name_at_its_number() {
        for (number, (cause, name)) in Cause::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, number);
            let counters = Counters::default();
            counters.dropped(*cause, 3);
            assert_eq!(counters.drops().collect::<Vec<_>>(), [(*name, 3)]);
        }
    }

    #[test]
    fn sums() {
        let counters = Counters::default();
        counters.add(2, 300);
        counters.add(1, 50);
        let mut total = ChildSaStats {
            inbound: counters.traffic(),
            ..ChildSaStats::default()
        };
        total.add_drops([("short", 1), ("replayed", 4), ("short", 2)].into_iter());
        let twice = total.clone();
        total.plus(&twice);
        assert_eq!((total.inbound.packets, total.inbound.bytes), (6, 700));
        assert_eq!(total.drops, [("replayed", 8), ("short", 6)]);
    }
}
