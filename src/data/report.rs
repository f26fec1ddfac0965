//! What workers tell control, and how seldom. The clock is read once for each time a worker wakes up.

use super::audit::Audit;
use landbridge_proto::policy::sad::{ChildSaId, Path, SadReport, TrafficLimits};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;

/// Where the data path puts what is not for it. All are called by worker threads and must not block.
#[derive(Clone)]
pub struct Sinks {
    /// Reports to control. `false`: the queue is full; what matters is then told again with a later packet.
    pub reports: Arc<dyn Fn(SadReport) -> bool + Send + Sync>,
    /// IKE messages (marker cut off) that the kernel merged into ESP's (UDP_GRO).
    pub strays: Arc<dyn Fn(Path, Vec<u8>) + Send + Sync>,
    /// Auditable events, for the log.
    pub audit: Arc<dyn Fn(Audit) + Send + Sync>,
    /// From TCP connections. None is lost: how many there may be, the connections limit.
    pub streams: Arc<dyn Fn(FromStream) + Send + Sync>,
}

/// What came of a TCP connection (RFC 9329).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FromStream {
    /// An IKE message (marker cut off), by the connection of that number. [`super::DataPlane::stream_taken`] is to be told that
    /// it was taken.
    Ike(Path, u64, Vec<u8>),
    /// The connection of that number is closed, and why. [`super::DataPlane::forget_stream`] lets it go.
    Closed(Path, u64, String),
}

/// Nanoseconds since the worker began.
pub(super) type Nanos = u64;

pub(super) const SECOND: Nanos = 1_000_000_000;

/// Once a second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seldom {
    next: Nanos,
}

impl Seldom {
    /// Whether it is time again; the next time is a second later.
    pub(super) fn due(&mut self, now: Nanos) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now + SECOND;
        true
    }
}

/// Once a second for each source: so that one that is loud does not silence the others. After a crash all peers come at once.
#[derive(Debug)]
pub(super) struct SeldomEach {
    /// Sources share a place by chance; nobody outside can choose with whom.
    places: [Seldom; 256],
    hasher: RandomState,
}

impl Default for SeldomEach {
    fn default() -> Self {
        Self {
            places: [Seldom::default(); 256],
            hasher: RandomState::new(),
        }
    }
}

impl SeldomEach {
    pub(super) fn due(&mut self, source: &SocketAddr, now: Nanos) -> bool {
        let at = self.hasher.hash_one(source) as usize % self.places.len();
        self.places.get_mut(at).is_some_and(|place| place.due(now))
    }
}

/// A few a second (RFC 4443 §2.4 f: ICMP errors are limited).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FewASecond {
    window: Seldom,
    used: u32,
}

impl FewASecond {
    const MOST: u32 = 20;

    pub(super) fn allows(&mut self, now: Nanos) -> bool {
        if self.window.due(now) {
            self.used = 0;
        }
        self.used += 1;
        self.used <= Self::MOST
    }
}

/// Where one direction of an SA stands towards its limits (RFC 4301 §4.4.2.1, "soft" and "hard").
#[derive(Debug)]
pub(super) struct Limits {
    soft: Mark,
    hard: Mark,
    soft_told: bool,
    hard_told: bool,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    packets: u64,
    bytes: u64,
}

impl Mark {
    const fn reached(self, packets: u64, bytes: u64) -> bool {
        packets >= self.packets || bytes >= self.bytes
    }
}

/// Without ESN, control is told in time that the sequence numbers run out: 2^28 packets before the end.
const SOFT_WITHOUT_ESN: u64 = (1 << 32) - (1 << 28);

impl Limits {
    pub(super) fn new(limits: &TrafficLimits, esn: bool) -> Self {
        let soft_packets = limits.soft_packets.unwrap_or(u64::MAX);
        Self {
            soft: Mark {
                packets: if esn {
                    soft_packets
                } else {
                    soft_packets.min(SOFT_WITHOUT_ESN)
                },
                bytes: limits.soft_bytes.unwrap_or(u64::MAX),
            },
            hard: Mark {
                packets: limits.hard_packets.unwrap_or(u64::MAX),
                bytes: limits.hard_bytes.unwrap_or(u64::MAX),
            },
            soft_told: false,
            hard_told: false,
        }
    }

    /// Whether the direction has stopped: its hard limit is reached.
    pub(super) const fn expired(&self, packets: u64, bytes: u64) -> bool {
        self.hard.reached(packets, bytes)
    }

    /// Tells control what was reached, once.
    pub(super) fn tell(&mut self, id: ChildSaId, packets: u64, bytes: u64, sinks: &Sinks) {
        if !self.soft_told && self.soft.reached(packets, bytes) {
            self.soft_told = (sinks.reports)(SadReport::SoftLimit(id));
        }
        if self.expired(packets, bytes) {
            self.tell_end(id, sinks);
        }
    }

    /// Tells control, once, that the direction has ended.
    pub(super) fn tell_end(&mut self, id: ChildSaId, sinks: &Sinks) {
        if !self.hard_told {
            self.hard_told = (sinks.reports)(SadReport::HardLimit(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn a_loud_source_does_not_silence_the_others() {
        let mut each = SeldomEach::default();
        let source = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let told = (0..1_000).filter(|now| each.due(&source(1), *now)).count();
        assert_eq!(told, 1);
        let others = (2..102).filter(|port| each.due(&source(*port), 1_000)).count();
        // Few of a hundred share a place with another.
        assert!(others > 50, "{others}");
        assert!(each.due(&source(1), SECOND));
    }

    fn sinks(room: usize) -> (Sinks, Arc<Mutex<Vec<SadReport>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&told);
        let report = move |report| {
            let mut list = list.lock().unwrap();
            let fits = list.len() < room;
            if fits {
                list.push(report);
            }
            fits
        };
        let sinks = Sinks {
            reports: Arc::new(report),
            strays: Arc::new(|_, _| {}),
            audit: Arc::new(|_| {}),
            streams: Arc::new(|_| {}),
        };
        (sinks, told)
    }

    #[test]
    fn limits_are_told_once_and_again_only_if_the_queue_was_full() {
        let limits = TrafficLimits {
            soft_packets: Some(10),
            hard_bytes: Some(5000),
            ..TrafficLimits::default()
        };
        let id = ChildSaId(3);
        let mut state = Limits::new(&limits, true);
        let (full, _) = sinks(0);
        let (sinks, told) = sinks(9);
        state.tell(id, 9, 900, &sinks);
        assert_eq!(*told.lock().unwrap(), []);
        state.tell(id, 10, 1000, &full);
        state.tell(id, 11, 1100, &sinks);
        state.tell(id, 12, 1200, &sinks);
        assert_eq!(*told.lock().unwrap(), [SadReport::SoftLimit(id)]);
        assert!(!state.expired(12, 4999) && state.expired(12, 5000));
        state.tell(id, 13, 5001, &sinks);
        state.tell(id, 13, 5001, &sinks);
        assert_eq!(
            *told.lock().unwrap(),
            [SadReport::SoftLimit(id), SadReport::HardLimit(id)]
        );
    }

    #[test]
    fn without_esn_a_rekey_comes_before_the_numbers_run_out() {
        let (sinks, told) = sinks(9);
        for (esn, expected) in [(true, 0), (false, 1)] {
            Limits::new(&TrafficLimits::default(), esn).tell(ChildSaId(1), 0xf000_0000, 1, &sinks);
            assert_eq!(told.lock().unwrap().len(), expected);
        }
    }

    #[test]
    fn rates() {
        let (mut seldom, mut few) = (Seldom::default(), FewASecond::default());
        assert_eq!(
            [0, 1, 999_999_999, SECOND, SECOND + 1].map(|now| seldom.due(now)),
            [true, false, false, true, false]
        );
        assert_eq!((0..100).filter(|now| few.allows(*now)).count(), 20);
        assert!(few.allows(SECOND));
    }
}
