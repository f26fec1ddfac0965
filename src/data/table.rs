//! All SAs and interfaces as workers see them: immutable, swapped as a whole.

use super::stats::PairCounters;
use crate::sys::tun::Tun;
use landbridge_proto::policy::sad::{ChildSaEntry, ChildSaId, ConnectionName, Path};
use landbridge_proto::policy::selector::SelectorSet;
use landbridge_proto::policy::spi;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// A connection's interface. It outlives all SAs.
pub struct Interface {
    /// Identity for workers, never reused.
    pub token: u64,
    /// Whose.
    pub connection: ConnectionName,
    /// The device; its one queue.
    pub tun: Tun,
    /// The worker that reads it, and so owns the connection's outbound SAs.
    pub owner: usize,
    /// Clamp TCP MSS to the MTU.
    pub clamp_mss: bool,
    /// What belongs to no SA.
    pub counters: PairCounters,
    mtu: AtomicU16,
}

impl Interface {
    /// An interface and the worker that has it.
    #[must_use]
    pub fn new(token: u64, connection: ConnectionName, tun: Tun, owner: usize, clamp_mss: bool, mtu: u16) -> Self {
        let counters = PairCounters::default();
        Self {
            token,
            connection,
            tun,
            owner,
            clamp_mss,
            counters,
            mtu: AtomicU16::new(mtu),
        }
    }

    /// Inner MTU.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu.load(Relaxed)
    }

    /// Changes it.
    pub fn set_mtu(&self, mtu: u16) {
        self.mtu.store(mtu, Relaxed);
    }
}

/// An installed Child SA pair.
pub struct Pair {
    /// Keys and parameters.
    pub entry: Arc<ChildSaEntry>,
    /// Selectors of our side, compiled.
    pub local: SelectorSet,
    /// Selectors of the peer's side.
    pub remote: SelectorSet,
    /// Outer addresses now (they may move).
    pub path: Path,
    /// Where its packets come out.
    pub interface: Arc<Interface>,
    /// Shared by all views of the pair.
    pub counters: Arc<PairCounters>,
}

impl Pair {
    /// Its identity.
    #[must_use]
    pub fn id(&self) -> ChildSaId {
        self.entry.id
    }

    /// The same pair on another path.
    #[must_use]
    pub fn moved(&self, path: Path) -> Self {
        Self {
            entry: Arc::clone(&self.entry),
            local: self.local.clone(),
            remote: self.remote.clone(),
            path,
            interface: Arc::clone(&self.interface),
            counters: Arc::clone(&self.counters),
        }
    }
}

/// An interface and the pairs that send for it.
#[derive(Clone)]
pub struct Port {
    /// It.
    pub interface: Arc<Interface>,
    /// Pairs whose outbound SA is in use, the newest first.
    pub active: Vec<Arc<Pair>>,
}

/// What workers look things up in.
#[derive(Clone, Default)]
pub struct SaTable {
    /// By the slot of our inbound SPI.
    by_slot: Vec<Option<Arc<Pair>>>,
    /// All installed pairs.
    pub pairs: BTreeMap<ChildSaId, Arc<Pair>>,
    /// All interfaces.
    pub ports: Vec<Port>,
}

impl SaTable {
    /// The pair that receives by an SPI.
    #[must_use]
    pub fn inbound(&self, spi: u32) -> Option<&Arc<Pair>> {
        self.by_slot
            .get(spi::slot_of(spi))?
            .as_ref()
            .filter(|pair| pair.entry.inbound.spi == spi)
    }

    /// Adds a pair, or replaces the view of one.
    pub fn put(&mut self, pair: Pair) {
        let (id, slot, pair) = (pair.id(), spi::slot_of(pair.entry.inbound.spi), Arc::new(pair));
        if self.by_slot.len() <= slot {
            self.by_slot.resize(slot + 1, None);
        }
        self.by_slot[slot] = Some(Arc::clone(&pair));
        for port in &mut self.ports {
            port.active
                .iter_mut()
                .filter(|active| active.id() == id)
                .for_each(|active| *active = Arc::clone(&pair));
        }
        self.pairs.insert(id, pair);
    }

    /// Forgets a pair.
    pub fn remove(&mut self, id: ChildSaId) -> Option<Arc<Pair>> {
        let pair = self.pairs.remove(&id)?;
        if let Some(place) = self.by_slot.get_mut(spi::slot_of(pair.entry.inbound.spi)) {
            *place = None;
        }
        self.deactivate(id);
        Some(pair)
    }

    /// Sends by a pair from now on, in the place of another.
    pub fn activate(&mut self, id: ChildSaId, replaces: Option<ChildSaId>) {
        let Some(pair) = self.pairs.get(&id).cloned() else {
            return;
        };
        self.deactivate(id);
        if let Some(replaces) = replaces {
            self.deactivate(replaces);
        }
        let token = pair.interface.token;
        if let Some(port) = self.ports.iter_mut().find(|port| port.interface.token == token) {
            // A newer pair of the same child takes over from whatever sent for it.
            port.active.retain(|active| active.entry.child != pair.entry.child);
            port.active.insert(0, pair);
        }
    }

    /// Sends by a pair no more.
    pub fn deactivate(&mut self, id: ChildSaId) {
        for port in &mut self.ports {
            port.active.retain(|active| active.id() != id);
        }
    }
}
