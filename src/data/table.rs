//! All SAs: the register, which is control's, and the changes of it that the workers hear of. A change costs what it
//! touches, however many other SAs there are.

use super::queues::{Queues, wanted};
use super::stats::Counters;
use super::streams::Stream;
use super::{ChildSaStats, ConnectionStats};
use super::{InterfaceOptions, TRANSPORT_MTU};
use crate::sys::netdev::index_of;
use crate::sys::tun::Tun;
use landbridge_proto::crypto::Provider;
use landbridge_proto::esp::aggfrag::Control;
use landbridge_proto::esp::{InboundSa, OutboundSa};
use landbridge_proto::ip::flow::{FlowKey, Ports};
use landbridge_proto::ip::tunnel::{DontFragment, OuterDscp};
use landbridge_proto::policy::sad::{ChildName, ChildSaEntry, ChildSaId, ConnectionName, Encapsulation, Path};
use landbridge_proto::policy::selector::{PortMatch, SelectorSet};
use landbridge_proto::policy::spi;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What one order changed: the new value of each place. Each worker takes from it what it owns.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Pairs by the slot of our SPI; the interface of each that is there now is among `interfaces`.
    pub inbound: Vec<(usize, Option<Arc<ChildSa>>)>,
    /// Interfaces by number.
    pub interfaces: Vec<(usize, Option<Arc<Interface>>)>,
}

impl Change {
    /// What has become of an interface, if that is part of the change.
    pub(super) fn interface(&self, number: usize) -> Option<&Arc<Interface>> {
        let found = self.interfaces.iter().find(|(other, _)| *other == number);
        found.and_then(|(_, interface)| interface.as_ref())
    }
}

/// A connection's interface and its SAs.
#[derive(Debug)]
pub(super) struct Interface {
    /// Whose.
    pub connection: ConnectionName,
    /// What it is read from and written to.
    pub queues: Arc<Queues>,
    /// Which of them are to be attached; empty if there is only one.
    pub wanted: Vec<bool>,
    /// Inner MTU: what fits one datagram of the path.
    pub mtu: u16,
    /// See [`InterfaceOptions::transport`].
    pub transport: bool,
    /// Clamp TCP MSS to the inner MTU.
    pub clamp_mss: bool,
    /// DF outside.
    pub dont_fragment: DontFragment,
    /// DSCP outside.
    pub dscp: OuterDscp,
    /// Pairs to send by, the first that fits.
    pub active: Vec<Arc<ChildSa>>,
    /// Pairs not (or no longer) to send by.
    pub resting: Vec<Arc<ChildSa>>,
    /// What belongs to no SA.
    pub counters: Arc<Counters>,
}

impl Interface {
    /// Whether a queue is to be attached.
    pub(super) fn wants(&self, queue: usize) -> bool {
        self.queues.len() == 1 || self.wanted.get(queue) == Some(&true)
    }

    /// Whether one of those that are to be attached is.
    pub(super) fn has_wanted(&self) -> bool {
        (0..self.queues.len()).any(|queue| self.wants(queue) && self.queues.is_attached(queue))
    }

    /// Octets of the longest packet that is taken.
    pub(super) fn longest(&self) -> usize {
        usize::from(if self.transport { TRANSPORT_MTU } else { self.mtu })
    }
}

/// A Child SA pair. A move of the peer makes a new value of the same pair.
pub(super) struct ChildSa {
    /// As the key exchange gave it.
    pub entry: Arc<ChildSaEntry>,
    /// Outer addresses: those of the entry until the peer moves.
    pub path: Path,
    /// How it is sent, likewise. It is received both ways.
    pub encapsulation: Encapsulation,
    /// The TCP connection that it is sent by, if that is how; `None` also if it is closed.
    pub stream: Option<Arc<Stream>>,
    /// The number of its interface.
    pub interface: usize,
    /// What stays the same all its life.
    pub pair: Arc<Pair>,
}

impl ChildSa {
    /// Whether its selectors are for a packet that is to be sent.
    pub(super) fn covers(&self, key: &FlowKey) -> bool {
        let (source, destination) = ports(key);
        self.pair.local.contains(key.source, key.protocol, source)
            && self.pair.remote.contains(key.destination, key.protocol, destination)
    }
}

/// What selectors call ports, source and destination. An ICMP type and code stands on both sides (RFC 4301 §4.4.1.1).
pub(super) fn ports(key: &FlowKey) -> (PortMatch, PortMatch) {
    match key.ports {
        Ports::Pair { source, destination } => (PortMatch::Number(source), PortMatch::Number(destination)),
        Ports::Message(message) => (PortMatch::Number(message), PortMatch::Number(message)),
        Ports::None | Ports::Opaque => (PortMatch::Opaque, PortMatch::Opaque),
    }
}

/// The life-long part of a Child SA pair.
pub(super) struct Pair {
    /// Our side.
    pub local: SelectorSet,
    /// The peer's side.
    pub remote: SelectorSet,
    /// Written by the inbound owner.
    pub inbound: Counters,
    /// Written by the outbound owner.
    pub outbound: Counters,
    /// With congestion information (RFC 9347 §3): what both owners know of the path. Nobody else takes this lock but who wants to
    /// know.
    pub control: Option<Mutex<Control>>,
    sas: Mutex<(Option<InboundSa>, Option<OutboundSa>)>,
}

impl Pair {
    /// The inbound SA, once: to its owner. So its window exists once.
    pub(super) fn take_inbound(&self) -> Option<InboundSa> {
        self.sas.lock().unwrap_or_else(PoisonError::into_inner).0.take()
    }

    /// What is known of the path, if anybody goes by it.
    pub(super) fn control(&self) -> Option<MutexGuard<'_, Control>> {
        let control = self.control.as_ref()?;
        Some(control.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The outbound SA, once: to its owner. So no sequence number, and with it no nonce, can come twice.
    pub(super) fn take_outbound(&self) -> Option<OutboundSa> {
        self.sas.lock().unwrap_or_else(PoisonError::into_inner).1.take()
    }
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pair")
    }
}

impl std::fmt::Debug for ChildSa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChildSa({})", self.entry.id.0)
    }
}

/// Why an order is not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("ESP without UDP encapsulation takes CAP_NET_RAW, which the gateway did not have when it started")]
    Raw,
    #[error("a replay window of 0 is refused: anti-replay is never off")]
    NoReplayWindow,
    #[error("the connection has no interface")]
    NoInterface,
    #[error("the cipher is not supported, or its key has the wrong length")]
    Cipher,
    #[error("the SPI's slot is in use, or the pair is installed already")]
    Taken,
    #[error("no such Child SA")]
    Unknown,
}

/// All interfaces and SAs; control's.
#[derive(Debug)]
pub(super) struct Register {
    /// There are raw sockets.
    raw: bool,
    /// Who seals and opens.
    provider: &'static Provider,
    children: BTreeMap<ChildSaId, Arc<ChildSa>>,
    /// TCP connections by their ends.
    pub(super) streams: BTreeMap<Path, Arc<Stream>>,
    /// How many there have been.
    pub(super) streams_made: u64,
    inbound: Vec<Option<Arc<ChildSa>>>,
    interfaces: Vec<Option<Registered>>,
    /// Which of them is whose.
    numbers: BTreeMap<ConnectionName, usize>,
    /// What was counted for connections that have no interface now: it goes on when they have one again.
    gone: BTreeMap<ConnectionName, Past>,
    /// Removed pairs that a worker may still be counting for.
    retired: Vec<Retired>,
    /// What the workers have not been told yet.
    untold: Change,
}

/// A removed pair.
#[derive(Debug)]
struct Retired {
    connection: ConnectionName,
    child: ChildName,
    pair: Arc<Pair>,
}

/// What was counted for Child SA pairs that are no more.
#[derive(Debug, Default)]
struct Past {
    /// Sums of pairs that nobody uses any more, by child.
    children: BTreeMap<ChildName, ChildSaStats>,
    /// Drops of interfaces that are no more.
    drops: Vec<(&'static str, u64)>,
}

#[derive(Debug)]
struct Registered {
    /// The TUN's.
    name: String,
    /// What the kernel knows it by.
    index: Option<u32>,
    interface: Arc<Interface>,
    past: Past,
}

/// An interface that has been removed; it goes when nobody has its queues any more.
pub(super) struct Removed {
    pub name: String,
    pub index: Option<u32>,
    pub queues: Arc<Queues>,
}

impl Register {
    /// An empty one, for a data path that has raw sockets or has not.
    pub(super) fn new(raw: bool, provider: &'static Provider) -> Self {
        Self {
            raw,
            provider,
            children: BTreeMap::new(),
            streams: BTreeMap::new(),
            streams_made: 0,
            inbound: Vec::new(),
            interfaces: Vec::new(),
            numbers: BTreeMap::new(),
            gone: BTreeMap::new(),
            retired: Vec::new(),
            untold: Change::default(),
        }
    }

    /// What changed since this was last asked.
    pub(super) fn take_change(&mut self) -> Change {
        std::mem::take(&mut self.untold)
    }

    /// Adds a connection's interface; its number is as low as possible, and decides who reads it first.
    pub(super) fn add_interface(&mut self, connection: &ConnectionName, tuns: Vec<Tun>, options: &InterfaceOptions) {
        let registered = Registered {
            name: options.name.clone(),
            index: index_of(&options.name).ok(),
            interface: Arc::new(Interface {
                connection: Arc::clone(connection),
                queues: Arc::new(Queues::new(&options.name, tuns)),
                wanted: Vec::new(),
                mtu: options.mtu,
                transport: options.transport,
                clamp_mss: options.clamp_mss,
                dont_fragment: options.dont_fragment,
                dscp: options.dscp.clone(),
                active: Vec::new(),
                resting: Vec::new(),
                counters: Arc::default(),
            }),
            past: self.gone.remove(connection).unwrap_or_default(),
        };
        let free = self.interfaces.iter().position(Option::is_none);
        let number = free.unwrap_or(self.interfaces.len());
        match self.interfaces.get_mut(number) {
            Some(slot) => *slot = Some(registered),
            None => self.interfaces.push(Some(registered)),
        }
        self.numbers.insert(Arc::clone(connection), number);
        self.change(number, |_| {});
    }

    /// Whether a connection has an interface.
    pub(super) fn has_interface(&self, connection: &ConnectionName) -> bool {
        self.number(connection).is_some()
    }

    /// Removes a connection's interface and SAs.
    pub(super) fn remove_interface(&mut self, connection: &ConnectionName) -> Option<Removed> {
        let number = self.number(connection)?;
        let of_it = self.children.values().filter(|child| child.interface == number);
        let ids: Vec<ChildSaId> = of_it.map(|child| child.entry.id).collect();
        for id in ids {
            self.forget(id);
        }
        self.numbers.remove(connection);
        let Registered {
            name,
            index,
            interface,
            mut past,
            ..
        } = self.interfaces.get_mut(number)?.take()?;
        super::stats::add_drops(&mut past.drops, interface.counters.drops());
        self.gone.insert(Arc::clone(connection), past);
        self.tell_interface(number, None);
        let queues = Arc::clone(&interface.queues);
        Some(Removed { name, index, queues })
    }

    /// Whether a connection has no interface, or one that another program has deleted.
    pub(super) fn lacks_interface(&self, connection: &ConnectionName) -> bool {
        let number = self.number(connection);
        let registered = number.and_then(|number| self.interfaces.get(number)?.as_ref());
        // To ask for the name first takes no lock of the kernel's.
        registered.is_none_or(|of| index_of(&of.name).ok() != of.index && of.interface.queues.are_gone())
    }

    /// Changes the inner MTU.
    pub(super) fn set_mtu(&mut self, connection: &ConnectionName, mtu: u16) {
        if let Some(number) = self.number(connection) {
            self.change(number, |interface| interface.mtu = mtu);
        }
    }

    /// Changes what can be changed.
    pub(super) fn change_interface(&mut self, connection: &ConnectionName, options: &InterfaceOptions) {
        if let Some(number) = self.number(connection) {
            self.change(number, |interface| {
                interface.mtu = options.mtu;
                interface.clamp_mss = options.clamp_mss;
                interface.dont_fragment = options.dont_fragment;
                interface.dscp = options.dscp.clone();
            });
        }
    }

    /// Keys a pair.
    pub(super) fn install(&mut self, entry: &Arc<ChildSaEntry>) -> Result<(), Refusal> {
        match entry {
            entry if entry.encapsulation == Encapsulation::Raw && !self.raw => return Err(Refusal::Raw),
            entry if entry.replay_window == 0 => return Err(Refusal::NoReplayWindow),
            _ => {}
        }
        let number = self.number(&entry.connection).ok_or(Refusal::NoInterface)?;
        let slot = spi::slot_of(entry.inbound.spi);
        if self.inbound.get(slot).is_some_and(Option::is_some) || self.children.contains_key(&entry.id) {
            return Err(Refusal::Taken);
        }
        let seed = entry.iv_seed.expose().first_chunk().ok_or(Refusal::Cipher)?;
        let inbound = InboundSa::new(self.provider, &entry.inbound, entry.replay_window).ok_or(Refusal::Cipher)?;
        let outbound = OutboundSa::new(self.provider, &entry.outbound, *seed).ok_or(Refusal::Cipher)?;
        let child = Arc::new(ChildSa {
            entry: Arc::clone(entry),
            path: entry.path,
            encapsulation: entry.encapsulation,
            stream: self.stream_of(&entry.path),
            interface: number,
            pair: Arc::new(Pair {
                local: SelectorSet::new(&entry.local_ts),
                remote: SelectorSet::new(&entry.remote_ts),
                inbound: Counters::default(),
                outbound: Counters::default(),
                control: super::aggfrag::control(entry),
                sas: Mutex::new((Some(inbound), Some(outbound))),
            }),
        });
        if self.inbound.len() <= slot {
            self.inbound.resize(slot + 1, None);
        }
        self.inbound[slot] = Some(Arc::clone(&child));
        self.untold.inbound.push((slot, Some(Arc::clone(&child))));
        self.children.insert(entry.id, Arc::clone(&child));
        self.change(number, |interface| interface.resting.push(child));
        Ok(())
    }

    /// The TCP connection that a path names.
    fn stream_of(&self, path: &Path) -> Option<Arc<Stream>> {
        self.streams.get(path).filter(|_| path.is_tcp()).map(Arc::clone)
    }

    /// Sends by a pair, in the place of another or before all others.
    pub(super) fn activate(&mut self, id: ChildSaId, replaces: Option<ChildSaId>) -> Result<(), Refusal> {
        let child = Arc::clone(self.children.get(&id).ok_or(Refusal::Unknown)?);
        self.change(child.interface, |interface| {
            let is = |id: ChildSaId| move |other: &Arc<ChildSa>| other.entry.id == id;
            interface.resting.retain(|other| other.entry.id != id);
            interface.active.retain(|other| other.entry.id != id);
            match replaces.and_then(|old| interface.active.iter().position(is(old))) {
                Some(at) => {
                    let old = std::mem::replace(&mut interface.active[at], child);
                    interface.resting.push(old);
                }
                None => interface.active.insert(0, child),
            }
        });
        Ok(())
    }

    /// Sends no more by a pair.
    pub(super) fn deactivate(&mut self, id: ChildSaId) -> Result<(), Refusal> {
        let child = Arc::clone(self.children.get(&id).ok_or(Refusal::Unknown)?);
        self.change(child.interface, |interface| {
            let before = interface.active.len();
            interface.active.retain(|other| other.entry.id != id);
            if interface.active.len() < before {
                interface.resting.push(child);
            }
        });
        Ok(())
    }

    /// Forgets a pair.
    pub(super) fn remove(&mut self, id: ChildSaId) -> Result<(), Refusal> {
        self.forget(id).ok_or(Refusal::Unknown)
    }

    fn forget(&mut self, id: ChildSaId) -> Option<()> {
        let child = self.children.remove(&id)?;
        let slot = spi::slot_of(child.entry.inbound.spi);
        *self.inbound.get_mut(slot)? = None;
        self.untold.inbound.push((slot, None));
        self.change(child.interface, |interface| {
            interface.active.retain(|other| other.entry.id != id);
            interface.resting.retain(|other| other.entry.id != id);
        });
        self.retired.push(Retired {
            connection: Arc::clone(&child.entry.connection),
            child: Arc::clone(&child.entry.child),
            pair: Arc::clone(&child.pair),
        });
        Some(())
    }

    /// Sends a pair elsewhere. Keys, counters and window stay.
    pub(super) fn move_to(&mut self, id: ChildSaId, path: Path, encapsulation: Encapsulation) -> Result<(), Refusal> {
        if encapsulation == Encapsulation::Raw && !self.raw {
            return Err(Refusal::Raw);
        }
        let old = self.children.get(&id).ok_or(Refusal::Unknown)?;
        let new = Arc::new(ChildSa {
            entry: Arc::clone(&old.entry),
            path,
            encapsulation,
            stream: self.stream_of(&path),
            interface: old.interface,
            pair: Arc::clone(&old.pair),
        });
        let slot = spi::slot_of(new.entry.inbound.spi);
        if let Some(place) = self.inbound.get_mut(slot) {
            *place = Some(Arc::clone(&new));
            self.untold.inbound.push((slot, Some(Arc::clone(&new))));
        }
        self.children.insert(id, Arc::clone(&new));
        self.change(new.interface, |interface| {
            let all = interface.active.iter_mut().chain(&mut interface.resting);
            for child in all.filter(|child| child.entry.id == id) {
                *child = Arc::clone(&new);
            }
        });
        Ok(())
    }

    /// Adds up the counters of pairs that no worker holds any more.
    pub(super) fn settle(&mut self) {
        for Retired {
            connection,
            child,
            pair,
        } in std::mem::take(&mut self.retired)
        {
            if Arc::strong_count(&pair) > 1 {
                self.retired.push(Retired {
                    connection,
                    child,
                    pair,
                });
            } else if let Some(past) = self.past(&connection) {
                past.children.entry(child).or_default().plus(&stats(&pair));
            }
        }
    }

    fn past(&mut self, connection: &ConnectionName) -> Option<&mut Past> {
        match self.number(connection) {
            Some(number) => Some(&mut self.interfaces.get_mut(number)?.as_mut()?.past),
            None => self.gone.get_mut(connection),
        }
    }

    /// A connection's counters.
    pub(super) fn stats(&self, connection: &ConnectionName) -> ConnectionStats {
        let slot = self.number(connection).and_then(|number| self.interfaces.get(number));
        let Some(registered) = slot.and_then(Option::as_ref) else {
            return ConnectionStats::default();
        };
        let Registered { interface, past, .. } = registered;
        let mut by_child = past.children.clone();
        let retired = self.retired.iter();
        for Retired { child, pair, .. } in retired.filter(|retired| retired.connection == *connection) {
            by_child.entry(Arc::clone(child)).or_default().plus(&stats(pair));
        }
        let present = interface.active.iter().chain(&interface.resting);
        let mut children = Vec::new();
        for child in present {
            let own = stats(&child.pair);
            let name = Arc::clone(&child.entry.child);
            let sum = by_child.entry(name).or_default();
            sum.plus(&own);
            // Of the one that is sent by; those that rest come behind.
            sum.path = sum.path.or(own.path);
            children.push((child.entry.id, own));
        }
        children.sort_unstable_by_key(|(id, _)| *id);
        let mut total = ChildSaStats::default();
        by_child.values().for_each(|child| total.plus(child));
        total.add_drops(past.drops.iter().copied());
        total.add_drops(interface.counters.drops());
        ConnectionStats {
            total,
            by_child,
            children,
        }
    }

    fn number(&self, connection: &ConnectionName) -> Option<usize> {
        self.numbers.get(connection).copied()
    }

    /// Makes a changed copy of an interface's entry; those who hold the old one hear of it.
    fn change(&mut self, number: usize, change: impl FnOnce(&mut Interface)) {
        if let Some(Some(registered)) = self.interfaces.get_mut(number) {
            let old = &registered.interface;
            let mut new = Interface {
                connection: Arc::clone(&old.connection),
                queues: Arc::clone(&old.queues),
                wanted: Vec::new(),
                mtu: old.mtu,
                transport: old.transport,
                clamp_mss: old.clamp_mss,
                dont_fragment: old.dont_fragment,
                dscp: old.dscp.clone(),
                active: old.active.clone(),
                resting: old.resting.clone(),
                counters: Arc::clone(&old.counters),
            };
            change(&mut new);
            if new.queues.len() > 1 {
                new.wanted = wanted(
                    new.active.iter().map(|child| &*child.entry),
                    new.queues.len(),
                    &old.wanted,
                );
            }
            let new = Arc::new(new);
            registered.interface = Arc::clone(&new);
            self.tell_interface(number, Some(new));
        }
    }

    fn tell_interface(&mut self, number: usize, new: Option<Arc<Interface>>) {
        let told = &mut self.untold.interfaces;
        match told.iter_mut().find(|(other, _)| *other == number) {
            Some((_, interface)) => *interface = new,
            None => told.push((number, new)),
        }
    }
}

fn stats(pair: &Pair) -> ChildSaStats {
    let mut stats = ChildSaStats {
        inbound: pair.inbound.traffic(),
        outbound: pair.outbound.traffic(),
        drops: Vec::new(),
        path: pair.control().map(|control| control.report()),
    };
    stats.add_drops(pair.inbound.drops());
    stats.add_drops(pair.outbound.drops());
    stats
}
