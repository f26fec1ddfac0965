//! The anti-replay window (RFC 4303 §3.4.3) as a ring of blocks (RFC 6479): moving it clears whole words, never shifts
//! bits. Check and mark are apart: only an authenticated packet marks.

/// Why a sequence number is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Left of the window.
    TooOld,
    /// Marked before, or zero.
    Replayed,
}

/// Bits of a block.
const BLOCK: u64 = 64;
/// Windows larger than this would only cost memory.
const LARGEST: u32 = 1 << 16;

/// A window.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    size: u64,
    /// One block more than the window needs, rounded to a power of two: the one being filled never overlaps the oldest.
    blocks: Vec<u64>,
    highest: u64,
}

impl ReplayWindow {
    /// A window of `size` packets, at least 32 (RFC 4303 §3.4.3: "A minimum window size of 32 packets MUST be supported").
    #[must_use]
    pub fn new(size: u32) -> Self {
        let size = u64::from(size.clamp(32, LARGEST));
        let blocks = usize::try_from(size.div_ceil(BLOCK) + 1)
            .unwrap_or(2)
            .next_power_of_two();
        Self {
            size,
            blocks: vec![0; blocks],
            highest: 0,
        }
    }

    /// Highest number marked; 0 before the first.
    #[must_use]
    pub const fn highest(&self) -> u64 {
        self.highest
    }

    /// Whether a number is new and not too old. Changes nothing.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check(&self, sequence: u64) -> Result<(), Refused> {
        if sequence > self.highest {
            return Ok(());
        }
        // The first packet of an SA has number 1 (§3.3.3).
        if sequence == 0 {
            return Err(Refused::Replayed);
        }
        if self.highest - sequence >= self.size {
            return Err(Refused::TooOld);
        }
        let (index, bit) = self.place(sequence);
        if self.blocks[index] & bit == 0 {
            Ok(())
        } else {
            Err(Refused::Replayed)
        }
    }

    /// Marks a number whose packet was authenticated. Call it after [`Self::check`] said yes.
    pub fn mark(&mut self, sequence: u64) {
        if sequence > self.highest {
            let (from, to) = (self.highest / BLOCK, sequence / BLOCK);
            let count = self.blocks.len() as u64;
            for block in (from + 1..=to).rev().take(self.blocks.len()) {
                self.blocks[(block % count) as usize] = 0;
            }
            self.highest = sequence;
        }
        let (index, bit) = self.place(sequence);
        self.blocks[index] |= bit;
    }

    fn place(&self, sequence: u64) -> (usize, u64) {
        let count = self.blocks.len() as u64;
        ((sequence / BLOCK % count) as usize, 1 << (sequence % BLOCK))
    }

    /// The full number of which `low` are the lower 32 bits: the one nearest to the window (RFC 4303 Appendix A2.2).
    #[must_use]
    pub fn infer(&self, low: u32) -> u64 {
        const SPAN: u64 = 1 << 32;
        let (high, top) = (self.highest / SPAN, self.highest % SPAN);
        let bottom = (self.highest + 1).saturating_sub(self.size);
        let candidate = high * SPAN + u64::from(low);
        if top >= self.size - 1 {
            // Case A: the window lies within one subspace.
            if u64::from(low) >= bottom % SPAN {
                candidate
            } else {
                candidate.saturating_add(SPAN)
            }
        } else if high > 0 && u64::from(low) >= (SPAN + top + 1 - self.size) {
            // Case B: the window reaches back into the subspace before.
            candidate - SPAN
        } else {
            candidate
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn edges() {
        let mut window = ReplayWindow::new(64);
        assert_eq!(window.check(0), Err(Refused::Replayed));
        for sequence in [1, 2, 100] {
            assert_eq!(window.check(sequence), Ok(()));
            window.mark(sequence);
            assert_eq!(window.check(sequence), Err(Refused::Replayed));
        }
        assert_eq!(window.check(100 - 63), Ok(()), "the oldest inside");
        assert_eq!(window.check(100 - 64), Err(Refused::TooOld), "the first outside");
        window.mark(100 + (1 << 31));
        assert_eq!(window.check(100), Err(Refused::TooOld));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_set(size in 32_u32..300, steps in proptest::collection::vec((any::<bool>(), 0_u64..400), 1..400)) {
            let mut window = ReplayWindow::new(size);
            let (mut seen, mut highest) = (BTreeSet::new(), 0_u64);
            for (forward, distance) in steps {
                let sequence = if forward { highest + distance } else { highest.saturating_sub(distance) };
                let fresh = sequence > 0 && !seen.contains(&sequence) && (sequence > highest || highest - sequence < u64::from(size));
                prop_assert_eq!(window.check(sequence).is_ok(), fresh);
                if fresh {
                    window.mark(sequence);
                    seen.insert(sequence);
                    highest = highest.max(sequence);
                }
            }
        }

        /// RFC 4303 Appendix A2: with reordering within the window and less than 2^31 lost, the guess is right.
        #[test]
        fn the_high_half_is_inferred(start in 0_u64..(1 << 34), jumps in proptest::collection::vec(0_u64..(1 << 30), 1..20), back in 0_u64..4000) {
            let mut window = ReplayWindow::new(4096);
            let mut sequence = start;
            window.mark(sequence.max(1));
            for jump in jumps {
                sequence += jump + 1;
                prop_assert_eq!(window.infer(sequence as u32), sequence);
                window.mark(sequence);
                let late = sequence.saturating_sub(back).max(1);
                prop_assert_eq!(window.infer(late as u32), late);
            }
        }
    }
}
