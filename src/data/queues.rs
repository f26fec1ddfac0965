//! Several queues of one interface, one for each of a child's pairs (RFC 9611), so that one tunnel is worked on by several cores.
//!
//! The kernel chooses the queue of a packet: the one that its flow was last written to, else by a hash of the flow; and only
//! among those that are attached. So a queue is attached while every child that is sent by has a pair for it; what comes by one
//! without a pair all the same is handed to the worker of one that has.

use super::attaching::State;
use super::stats::Cause;
use super::table::{ChildSa, Interface};
use super::worker::{Letter, Wakeup};
use crate::sys::tun::Tun;
use landbridge_proto::ip::flow::{Flow, FlowKey, Ports};
use landbridge_proto::policy::sad::ChildSaEntry;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Weak};

/// How often a packet goes from worker to worker: the first may not have heard yet of what the second has.
const HOPS: u8 = 2;

/// An interface's queues; mostly there is one.
#[derive(Debug)]
pub(super) struct Queues {
    /// The name of the interface when it was made.
    name: String,
    /// A worker has found it deleted by another program.
    gone: AtomicBool,
    list: Box<[Queue]>,
}

#[derive(Debug)]
struct Queue {
    tun: Tun,
    /// A [`State`]. The worker that reads it orders a change, and no other until that has been carried out.
    state: AtomicU8,
    /// The kernel has refused the latest change.
    refused: AtomicBool,
    /// What reads it has been made; from then on it goes from worker to worker.
    begun: AtomicBool,
}

impl Queues {
    /// As they were made: the first is attached.
    pub(super) fn new(name: &str, tuns: Vec<Tun>) -> Self {
        let queue = |(number, tun)| Queue {
            tun,
            state: AtomicU8::new(if number == 0 { State::Attached } else { State::Detached } as u8),
            refused: AtomicBool::new(false),
            begun: AtomicBool::new(false),
        };
        Self {
            name: name.into(),
            gone: AtomicBool::new(false),
            list: tuns.into_iter().enumerate().map(queue).collect(),
        }
    }

    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.list.len()
    }

    /// One of them.
    pub(super) fn tun(&self, queue: usize) -> Option<&Tun> {
        self.list.get(queue).map(|queue| &queue.tun)
    }

    /// Whether another program has deleted the interface.
    pub(super) fn are_gone(&self) -> bool {
        self.tun(0).is_some_and(Tun::is_gone)
    }

    /// Whether a worker has found that.
    pub(super) fn are_known_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// A worker has found that; true once.
    pub(super) fn found_gone(&self) -> bool {
        !self.gone.swap(true, Ordering::Relaxed)
    }

    /// The queue whose packets go by a pair.
    pub(super) fn of(&self, child: &ChildSa) -> usize {
        usize::from(child.entry.resource) % self.list.len().max(1)
    }

    /// Where to write what came by a pair. The kernel returns the flow by the queue that it was written to, and so, by writing to
    /// the pair's own, both directions come to go by one pair. If both ends did that, two that begin at once would follow each other
    /// round and round; so for each flow one end leads: that which sends to the lower address has a queue of its own choice.
    #[inline]
    pub(super) fn to_write(&self, child: &ChildSa, flow: &Flow) -> usize {
        if self.list.len() == 1 {
            return 0;
        }
        let key = &flow.key;
        let queue = if key.source > key.destination && !flow.fragment {
            spread(key) % self.list.len().max(1)
        } else {
            self.of(child)
        };
        if self.is_attached(queue) {
            return queue;
        }
        self.any_attached().unwrap_or(0)
    }

    /// Any that is attached.
    fn any_attached(&self) -> Option<usize> {
        (0..self.list.len()).find(|queue| self.is_attached(*queue))
    }

    pub(super) fn is_attached(&self, queue: usize) -> bool {
        let queue = self.list.get(queue);
        queue.is_some_and(|queue| queue.state.load(Ordering::Acquire) == State::Attached as u8)
    }

    /// Whether the kernel puts packets there; where there is none it does not.
    pub(super) fn state(&self, queue: usize) -> State {
        let state = self.list.get(queue).map(|queue| queue.state.load(Ordering::Acquire));
        let is = |of: State| state == Some(of as u8);
        let states = [State::Attaching, State::Attached, State::Detaching];
        states.into_iter().find(|of| is(*of)).unwrap_or(State::Detached)
    }

    /// Whether what reads it is to be made: true once.
    pub(super) fn begin(&self, queue: usize) -> bool {
        let queue = self.list.get(queue);
        queue.is_some_and(|queue| !queue.begun.swap(true, Ordering::Relaxed))
    }

    fn set(&self, queue: usize, state: State) {
        if let Some(queue) = self.list.get(queue) {
            queue.state.store(state as u8, Ordering::Release);
        }
    }

    /// An order is given.
    pub(super) fn order(&self, queue: usize, attach: bool) {
        self.set(queue, if attach { State::Attaching } else { State::Detaching });
    }

    /// It is carried out, which may take as long as another program holds the kernel's lock of network devices. What the kernel refuses is
    /// logged, and the queue stays as it was.
    pub(super) fn carry_out(&self, queue: usize, attach: bool) {
        let (from, to) = if attach {
            (State::Detached, State::Attached)
        } else {
            (State::Attached, State::Detached)
        };
        let result = if attach || self.is_another_left(queue) {
            self.tun(queue).map_or(Ok(()), |tun| tun.set_attached(attach))
        } else {
            // Its worker and that of the other went by different changes; they will have the same soon.
            return self.set(queue, from);
        };
        if let (Err(error), Some(of)) = (&result, self.list.get(queue)) {
            of.refused.store(true, Ordering::Relaxed);
            let what = if attach { "attached" } else { "detached" };
            tracing::error!(%error, interface = self.name, queue, "a queue can't be {what}");
        }
        self.set(queue, if result.is_ok() { to } else { from });
    }

    /// Whether the kernel has refused the latest change of a queue.
    pub(super) fn has_refused(&self, queue: usize) -> bool {
        let queue = self.list.get(queue);
        queue.is_some_and(|queue| queue.refused.load(Ordering::Relaxed))
    }

    /// What was refused may be tried again.
    pub(super) fn try_again(&self, queue: usize) {
        if let Some(queue) = self.list.get(queue) {
            queue.refused.store(false, Ordering::Relaxed);
        }
    }

    /// Whether the kernel puts packets on another queue. One thread carries out all orders, so it stays so until the next.
    fn is_another_left(&self, queue: usize) -> bool {
        let is_left = |other: usize| matches!(self.state(other), State::Attached | State::Detaching);
        (0..self.list.len()).any(|other| other != queue && is_left(other))
    }
}

/// Flows spread over queues. Nobody gains by bringing his own together.
fn spread(key: &FlowKey) -> usize {
    let word = |address: &IpAddr| match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (bits >> 64) as u64 ^ (bits as u64).rotate_left(32)
        }
    };
    let ports = match key.ports {
        Ports::Pair { source, destination } => u64::from(source) << 16 | u64::from(destination),
        Ports::Message(_) | Ports::None | Ports::Opaque => 0,
    };
    let mix = |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let words = [
        word(&key.source),
        word(&key.destination),
        ports << 8 | u64::from(key.protocol),
    ];
    // The low bits are those that everything before has gone into.
    words.into_iter().fold(0, mix) as usize
}

/// Which of `count` queues are to be attached: those for which each child that is sent by has a pair. If there is none, the first; and
/// while nothing is sent at all (as between two IKE SAs), those that were.
pub(super) fn wanted<'a>(active: impl Iterator<Item = &'a ChildSaEntry>, count: usize, before: &[bool]) -> Vec<bool> {
    // Pairs of one child with the same selectors are for the same traffic.
    let mut children = BTreeMap::new();
    for entry in active {
        let key = (&entry.child, &entry.local_ts, &entry.remote_ts);
        let has = children.entry(key).or_insert_with(|| vec![false; count]);
        if let Some(has) = has.get_mut(usize::from(entry.resource) % count) {
            *has = true;
        }
    }
    if children.is_empty() && before.len() == count {
        return before.to_vec();
    }
    let all = |queue: usize| children.values().all(|has| has.get(queue) == Some(&true));
    let wanted: Vec<bool> = (0..count).map(all).collect();
    if wanted.contains(&true) && !children.is_empty() {
        return wanted;
    }
    (0..count).map(|queue| queue == 0).collect()
}

/// A packet for the worker of another queue.
pub(super) struct Packet {
    /// The interface's number, and its queues: another may have taken over the number.
    pub interface: usize,
    pub queues: Weak<Queues>,
    pub queue: usize,
    /// How often it was handed over.
    pub hops: u8,
    /// As it was read, with its header.
    pub octets: Vec<u8>,
}

impl Packet {
    /// Whether it is of that interface.
    pub(super) fn is_of(&self, interface: &Interface) -> bool {
        std::ptr::eq(self.queues.as_ptr(), Arc::as_ptr(&interface.queues))
    }
}

/// Where a packet is, and what it consists of.
pub(super) struct From<'a> {
    pub interface: usize,
    pub queue: usize,
    pub hops: u8,
    /// The virtio-net header, if there is one, and the packet.
    pub parts: [&'a [u8]; 2],
    /// Of which super-packets have many.
    pub packets: usize,
}

/// Hands a packet to the worker that has a pair for it, for one of the flows in turn; false if nobody has. It allocates and rings, which is for
/// the moments in which pairs come and go.
#[cold]
pub(super) fn hand_over(
    interface: &Interface,
    flows: impl Iterator<Item = FlowKey>,
    from: &From<'_>,
    wakeup: &Wakeup<'_>,
) -> bool {
    let fits = |flow: FlowKey| interface.active.iter().find(|child| child.covers(&flow));
    let Some(child) = flows.into_iter().find_map(fits) else {
        return false;
    };
    let queue = interface.queues.of(child);
    if queue == from.queue || from.hops == HOPS {
        return false;
    }
    let packet = Packet {
        interface: from.interface,
        queues: Arc::downgrade(&interface.queues),
        queue,
        hops: from.hops + 1,
        octets: from.parts.concat(),
    };
    let owner = wakeup.shared.outbound_owner(from.interface, queue);
    if !wakeup.shared.post(owner, Letter::Packet(packet)) {
        interface.counters.dropped(Cause::Handover, from.packets as u64);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use landbridge_proto::crypto::{CipherSuite, Encryption, Secret};
    use landbridge_proto::policy::sad::{ChildSaId, Encapsulation, Mode, Path, SaParameters, TrafficLimits};
    use landbridge_proto::policy::selector::parse;
    use std::net::SocketAddr;

    fn entry(child: &str, remote: &str, resource: u16) -> ChildSaEntry {
        let parameters = SaParameters {
            spi: 0x4000_0000,
            suite: CipherSuite {
                encryption: Encryption::AesGcm16_256,
                integrity: None,
            },
            key: Secret::new(vec![1; 36]),
            esn: true,
        };
        let outside = SocketAddr::from(([192, 0, 2, 1], 4500));
        ChildSaEntry {
            id: ChildSaId(0),
            connection: "site".into(),
            child: child.into(),
            resource,
            inbound: parameters.clone(),
            outbound: parameters,
            local_ts: vec![parse("10.1.0.0/16").unwrap()],
            remote_ts: vec![parse(remote).unwrap()],
            path: Path::udp(outside, outside),
            encapsulation: Encapsulation::Udp,
            mode: Mode::Tunnel,
            replay_window: 64,
            tfc_padding: None,
            aggfrag: None,
            limits: TrafficLimits::default(),
            iv_seed: Secret::new(vec![2; 32]),
        }
    }

    /// Of three queues; children by name, remote selectors and resource.
    fn of_three(active: &[(&str, &str, u16)], before: [u8; 3]) -> [u8; 3] {
        let entries: Vec<_> = active.iter().map(|(c, r, n)| entry(c, r, *n)).collect();
        let before = before.map(|queue| queue == 1);
        let wanted = wanted(entries.iter(), 3, &before);
        [0, 1, 2].map(|queue| u8::from(wanted[queue]))
    }

    #[test]
    fn flows_spread_over_all_queues() {
        let mut counts = [0; 4];
        for port in 40_000..40_400 {
            let key = FlowKey {
                source: [10, 2, 0, 1].into(),
                destination: [10, 1, 0, 1].into(),
                protocol: 6,
                ports: Ports::Pair {
                    source: 443,
                    destination: port,
                },
            };
            counts[spread(&key) % 4] += 1;
        }
        assert!(counts.iter().all(|count| (60..140).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_queue_is_wanted_while_every_child_has_a_pair_for_it() {
        let (a, b) = ("10.2.0.0/16", "10.3.0.0/16");
        let first = [1, 0, 0];
        assert_eq!(of_three(&[("x", a, 0)], first), [1, 0, 0]);
        assert_eq!(of_three(&[("x", a, 2), ("x", a, 0)], first), [1, 0, 1]);
        // More pairs than queues: they are counted around.
        assert_eq!(of_three(&[("x", a, 4), ("x", a, 3)], first), [1, 1, 0]);
        // The first is nothing special when others are there.
        assert_eq!(of_three(&[("x", a, 1)], first), [0, 1, 0]);
        // Other children, and other selectors of the same child, are other traffic.
        assert_eq!(of_three(&[("x", a, 0), ("x", a, 1), ("y", b, 0)], first), [1, 0, 0]);
        assert_eq!(of_three(&[("x", a, 0), ("x", a, 1), ("x", b, 1)], first), [0, 1, 0]);
        assert_eq!(of_three(&[("x", a, 2), ("y", b, 1)], [0, 1, 1]), [1, 0, 0]);
        // While nobody sends, nothing changes.
        assert_eq!(of_three(&[], [0, 1, 1]), [0, 1, 1]);
        assert_eq!(wanted([].into_iter(), 2, &[]), [true, false]);
    }
}
