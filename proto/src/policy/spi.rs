//! Our inbound ESP SPIs: unique while in use, never 0-255 (RFC 4303 §2.1), carrying owner and slot.
//!
//! ```text
//!  31           22 21      16 15                 0
//! +---------------+----------+--------------------+
//! |  random       |  owner   |  slot              |
//! +---------------+----------+--------------------+
//! ```
//!
//! The slot indexes the data path's table of inbound SAs, the owner is the worker that has the SA: a socket filter steers
//! by it. The random part (never zero) makes an SPI of an earlier life of the slot different; a slot is reused as late
//! as possible.

use rand_core::CryptoRng;
use std::collections::{BTreeSet, VecDeque};

/// Bits of the slot.
pub const SLOT_BITS: u32 = 16;
/// Where the owner begins.
pub const OWNER_SHIFT: u32 = SLOT_BITS;
/// Bits of the owner: at most 64 workers.
pub const OWNER_BITS: u32 = 6;
const RANDOM_SHIFT: u32 = OWNER_SHIFT + OWNER_BITS;
const SLOTS: u32 = 1 << SLOT_BITS;

/// The worker that owns the SA of one of our SPIs.
#[must_use]
pub const fn owner_of(spi: u32) -> u8 {
    ((spi >> OWNER_SHIFT) & ((1 << OWNER_BITS) - 1)) as u8
}

/// The slot of one of our SPIs.
#[must_use]
pub const fn slot_of(spi: u32) -> usize {
    (spi & (SLOTS - 1)) as usize
}

/// Hands out SPIs.
#[derive(Clone, Debug, Default)]
pub struct SpiAllocator {
    /// Slots from here on were never used.
    fresh: u32,
    /// SPIs that were released, the oldest first.
    released: VecDeque<u32>,
    in_use: BTreeSet<u32>,
}

/// Released slots rest until so many others were released, so that late packets meet an empty slot.
const REST: usize = 64;

impl SpiAllocator {
    /// A fresh SPI for worker `owner`; `None` when all slots are in use.
    pub fn allocate(&mut self, owner: u8, rng: &mut dyn CryptoRng) -> Option<u32> {
        let (slot, before) = if self.released.len() > REST || self.fresh == SLOTS {
            let before = self.released.pop_front()?;
            (before & (SLOTS - 1), Some(before >> RANDOM_SHIFT))
        } else {
            self.fresh += 1;
            (self.fresh - 1, None)
        };
        let owner = u32::from(owner) & ((1 << OWNER_BITS) - 1);
        let random = loop {
            let bits = rng.next_u32() >> RANDOM_SHIFT;
            if bits != 0 && Some(bits) != before {
                break bits;
            }
        };
        let spi = random << RANDOM_SHIFT | owner << OWNER_SHIFT | slot;
        self.in_use.insert(spi);
        Some(spi)
    }

    /// Gives an SPI back. What is not in use is ignored.
    pub fn release(&mut self, spi: u32) {
        if self.in_use.remove(&spi) {
            self.released.push_back(spi);
        }
    }

    /// SPIs in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.in_use.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    #[test]
    fn spis_are_unique_and_above_255() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut allocator = SpiAllocator::default();
        let spis: BTreeSet<u32> = (0..1000)
            .map(|n| allocator.allocate((n % 3) as u8, &mut rng).unwrap())
            .collect();
        assert_eq!(spis.len(), 1000);
        assert!(
            spis.iter().all(|spi| *spi > 255),
            "RFC 4303 §2.1: 1 through 255 are reserved"
        );
        assert_eq!(
            spis.iter().map(|spi| slot_of(*spi)).collect::<BTreeSet<_>>().len(),
            1000
        );
        assert!(spis.iter().all(|spi| owner_of(*spi) < 3));
    }

    #[test]
    fn slots_come_back_late_and_run_out_politely() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut allocator = SpiAllocator::default();
        let first = allocator.allocate(0, &mut rng).unwrap();
        allocator.release(first);
        allocator.release(first);
        assert_ne!(slot_of(allocator.allocate(0, &mut rng).unwrap()), slot_of(first));
        while allocator.in_use() < 65_536 {
            assert!(allocator.allocate(0, &mut rng).is_some());
        }
        assert_eq!(allocator.allocate(0, &mut rng), None);
    }
}
