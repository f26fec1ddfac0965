//! Counters. Each is written by one thread only, with plain relaxed stores; control reads them.

use super::{ChildSaStats, Traffic};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds, from the one thread that writes it: no locked instruction.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Why a packet was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Drop {
    /// Seen before, or left of the window.
    Replayed,
    /// The ICV does not verify.
    Integrity,
    /// Not an ESP packet, or no IP packet inside.
    Malformed,
    /// Padding that is none.
    Padding,
    /// An inner packet outside the negotiated selectors came in.
    SelectorIn,
    /// A packet outside the selectors wanted to go out.
    SelectorOut,
    /// No SA to go out by.
    NoSa,
    /// Larger than the tunnel; its sender was told.
    Mtu,
    /// Congestion was marked on a packet that does not know ECN (RFC 6040 §4.2).
    Ecn,
    /// The socket refused it.
    SendFailed,
    /// The interface refused it.
    TunFailed,
    /// The SA's lifetime or sequence numbers are used up.
    Exhausted,
}

/// The causes' names, in the order of [`Drop`].
pub const DROP_NAMES: [&str; 12] = [
    "replayed",
    "integrity",
    "malformed",
    "padding",
    "selector_in",
    "selector_out",
    "no_sa",
    "mtu",
    "ecn",
    "send_failed",
    "tun_failed",
    "exhausted",
];

/// One direction's counters, with one writer.
#[derive(Debug, Default)]
pub struct DirectionCounters {
    /// Inner packets.
    pub packets: Counter,
    /// Their octets.
    pub bytes: Counter,
    drops: [Counter; DROP_NAMES.len()],
}

impl DirectionCounters {
    /// Counts a packet that passed.
    pub fn passed(&self, packets: u64, bytes: u64) {
        self.packets.add(packets);
        self.bytes.add(bytes);
    }

    /// Counts dropped ones.
    pub fn dropped(&self, cause: Drop, count: u64) {
        self.drops[cause as usize].add(count);
    }

    fn traffic(&self) -> Traffic {
        Traffic {
            packets: self.packets.get(),
            bytes: self.bytes.get(),
        }
    }
}

/// Both directions of a Child SA pair (or of an interface, for what belongs to no pair).
#[derive(Debug, Default)]
pub struct PairCounters {
    /// Written by the owner of the inbound SA.
    pub inbound: DirectionCounters,
    /// Written by the owner of the outbound SA.
    pub outbound: DirectionCounters,
}

impl PairCounters {
    /// A snapshot.
    #[must_use]
    pub fn snapshot(&self) -> ChildSaStats {
        let drops = DROP_NAMES
            .iter()
            .enumerate()
            .map(|(index, name)| {
                (
                    *name,
                    self.inbound.drops[index].get() + self.outbound.drops[index].get(),
                )
            })
            .collect();
        ChildSaStats {
            inbound: self.inbound.traffic(),
            outbound: self.outbound.traffic(),
            drops,
        }
    }
}

/// Adds a snapshot to a sum.
pub fn add(sum: &mut ChildSaStats, more: &ChildSaStats) {
    for (sum, more) in [(&mut sum.inbound, &more.inbound), (&mut sum.outbound, &more.outbound)] {
        sum.packets += more.packets;
        sum.bytes += more.bytes;
    }
    if sum.drops.is_empty() {
        sum.drops = DROP_NAMES.iter().map(|name| (*name, 0)).collect();
    }
    for ((_, sum), (_, more)) in sum.drops.iter_mut().zip(&more.drops) {
        *sum += more;
    }
}

/// Drops that belong to no connection; one a worker.
#[derive(Debug, Default)]
pub struct StrayCounters {
    /// ESP with an SPI that nobody has.
    pub unknown_spi: Counter,
    /// Too short for anything.
    pub short: Counter,
    /// NAT keepalives: not a drop, but seen here.
    pub keepalives: Counter,
}
