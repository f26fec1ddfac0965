//! Puzzles (RFC 8019): four different keys for a PRF, each of which makes of an unpredictable string something that ends in so
//! many zero bits. Asking for them is the endpoint's, waiting for them the IKE SA's (`ike/solving.rs`); here they are
//! looked for and looked at.
//!
//! Looking for them takes long, so the caller does it, elsewhere, by [`Search::run`]: in pieces, the same each time.

use crate::crypto::{Prf, PrfAlgorithm, prf};
use std::time::Duration;

/// §7.1.3: "This specification requires that the puzzle solution contains 4 different keys (i.e., N=4)."
const KEYS: usize = 4;

/// Octets of the keys that we try. §8.2: "It is expected that in most cases, the keys will be 4 (or even less) octets in length".
const KEY: usize = 4;

/// A search ends when it has tried so many times what it takes on an average: more than that one in 10,000 needs.
const PATIENCE: u64 = 4;

/// The hardest that there are keys of four octets enough for.
pub const HARDEST: u8 = 28;

/// So long one search may take, once it has begun. RFC 8019 §6: "by taking up to 10 seconds to solve the puzzle".
pub const TIME_TO_SEARCH: Duration = Duration::from_secs(10);

/// Keys that one core tries in a second (docs/decisions/0018-puzzles.md).
const SPEED: u64 = 3_000_000;

/// How long one core looks for a solution, more or less. It is too hard when this is more than [`TIME_TO_SEARCH`].
#[must_use]
pub fn usual_time(difficulty: u8) -> Duration {
    let keys = (KEYS as u64).saturating_mul(1_u64.checked_shl(difficulty.into()).unwrap_or(u64::MAX));
    Duration::from_millis(keys.saturating_mul(1000) / SPEED)
}

/// A puzzle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Puzzle {
    /// The PRF.
    pub prf: PrfAlgorithm,
    /// Zero bits that each result ends in at least.
    pub difficulty: u8,
    /// The string S of §7.1.3: the cookie.
    pub string: Vec<u8>,
}

/// Why four keys are no solution.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoSolution {
    /// "the size of each key MUST be between 1 octet and the preferred key length of the PRF (inclusive)" (§8.2).
    #[error("the keys are too short or too long")]
    KeySize,
    /// §7.1.3: "the four different, equal-sized keys".
    #[error("a key stands twice")]
    Twice,
    /// §7.1.4: "this means that the Initiator spent less resources than expected by the Responder".
    #[error("a result ends in {0} zero bits")]
    TooEasy(u32),
}

impl Puzzle {
    /// Holds a solution against the puzzle. §7.1.4: "The Responder MUST check all of the four returned keys."
    ///
    /// # Errors
    /// [`NoSolution`].
    pub fn verify(&self, solution: &[u8]) -> Result<(), NoSolution> {
        let prf = prf::get(self.prf);
        // "The Responder determines the size of each key by dividing the size of the Puzzle Solution Data by 4". All PRFs that we
        // have are HMACs, which take keys of any size.
        let size = solution.len() / KEYS;
        if !(1..=prf.output_len()).contains(&size) || solution.len() != size * KEYS {
            return Err(NoSolution::KeySize);
        }
        let keys = || solution.chunks_exact(size);
        let repeated = |(at, key): (usize, &[u8])| keys().take(at).any(|earlier| earlier == key);
        if keys().enumerate().any(repeated) {
            return Err(NoSolution::Twice);
        }
        for key in keys() {
            let bits = self.zero_bits(prf, key);
            if bits < u32::from(self.difficulty) {
                return Err(NoSolution::TooEasy(bits));
            }
        }
        Ok(())
    }

    fn zero_bits(&self, prf: &dyn Prf, key: &[u8]) -> u32 {
        let result = prf.prf(key, &[&self.string]);
        let zeroes = result.expose().iter().rev().take_while(|octet| **octet == 0).count();
        let last = result.expose().iter().rev().nth(zeroes);
        let whole = u32::try_from(zeroes).unwrap_or(u32::MAX).saturating_mul(8);
        whole.saturating_add(last.map_or(0, |octet| octet.trailing_zeros()))
    }

    /// Begins to look for a solution.
    #[must_use]
    pub fn search(self) -> Search {
        let once = 1_u64 << self.difficulty.min(HARDEST);
        Search {
            most: (KEYS as u64) * PATIENCE * once,
            puzzle: self,
            tried: 0,
            found: Vec::new(),
        }
    }

    /// Looks until there is a solution, or none is found in a reasonable time.
    #[must_use]
    pub fn solve(self) -> Option<Vec<u8>> {
        let mut search = self.search();
        loop {
            match search.run(u64::MAX) {
                Progress::Solved(solution) => return Some(solution),
                Progress::Hopeless => return None,
                Progress::NotYet => {}
            }
        }
    }
}

/// How far a search is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Four keys, one after the other: the data of the payload.
    Solved(Vec<u8>),
    /// Go on.
    NotYet,
    /// It takes too long.
    Hopeless,
}

/// A search for a solution.
#[derive(Clone, Debug)]
pub struct Search {
    puzzle: Puzzle,
    tried: u64,
    most: u64,
    found: Vec<[u8; KEY]>,
}

impl Search {
    /// Tries so many keys more.
    pub fn run(&mut self, keys: u64) -> Progress {
        let prf = prf::get(self.puzzle.prf);
        let end = self.most.min(self.tried.saturating_add(keys));
        while self.tried < end {
            let Ok(number) = u32::try_from(self.tried) else {
                return Progress::Hopeless;
            };
            let key = number.to_be_bytes();
            self.tried += 1;
            if self.puzzle.zero_bits(prf, &key) >= u32::from(self.puzzle.difficulty) {
                self.found.push(key);
                if self.found.len() == KEYS {
                    return Progress::Solved(self.found.concat());
                }
            }
        }
        if self.tried >= self.most {
            return Progress::Hopeless;
        }
        Progress::NotYet
    }

    /// Zero bits that are looked for.
    #[must_use]
    pub const fn difficulty(&self) -> u8 {
        self.puzzle.difficulty
    }

    /// Keys tried so far.
    #[must_use]
    pub const fn tried(&self) -> u64 {
        self.tried
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// §4.4, Example 1: "Suppose the calculated cookie is 739ae7492d8a810cf5e8dc0f9626c9dda773c5a3 (20 octets)".
    fn of(prf: PrfAlgorithm, difficulty: u8) -> Puzzle {
        Puzzle {
            prf,
            difficulty,
            string: octets("739ae7492d8a810cf5e8dc0f9626c9dda773c5a3"),
        }
    }

    fn example(difficulty: u8) -> Puzzle {
        of(PrfAlgorithm::HmacSha256, difficulty)
    }

    fn octets(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    /// Keys, the last 16 octets of each result, and their zero bits, by another implementation (Python's `hmac`): for this
    /// cookie the first four keys of three octets.
    #[test]
    fn a_solution_of_another() {
        let puzzle = example(18);
        let prf = prf::get(puzzle.prf);
        let table = [
            ("00cd8a", "d9020c806e0a90859e962de0a8840000", 18),
            ("0390f7", "07d8afbd8079dd61d5b8761059580000", 19),
            ("088288", "30e4e86e78da1cc023a8e07dcae80000", 19),
            ("10efbe", "be83658a19f71afde35cf3f17f900000", 20),
        ];
        for (key, last, bits) in table {
            let result = prf.prf(&octets(key), &[&puzzle.string]);
            assert_eq!(result.expose()[16..], octets(last), "{key}");
            assert_eq!(puzzle.zero_bits(prf, &octets(key)), bits, "{key}");
        }
        let solution = octets("00cd8a0390f708828810efbe");
        assert_eq!(puzzle.verify(&solution), Ok(()));
        assert_eq!(example(19).verify(&solution), Err(NoSolution::TooEasy(18)));
    }

    /// The first four keys of four octets, by the same, and how many it tried.
    #[test]
    fn we_find_what_another_finds() {
        let table = [
            (
                PrfAlgorithm::HmacSha256,
                16,
                "0000c51500024870000287cf00034992",
                215_443,
            ),
            (PrfAlgorithm::HmacSha384, 14, "00005e580000738a00012c7f000159fa", 88_571),
            (PrfAlgorithm::HmacSha512, 14, "0000544b000095420000f07e0000fbc6", 64_455),
            (PrfAlgorithm::HmacSha1, 14, "000036250000517f0000fbd000019842", 104_515),
        ];
        for (prf, difficulty, solution, tried) in table {
            let mut search = of(prf, difficulty).search();
            assert_eq!(search.run(u64::MAX), Progress::Solved(octets(solution)));
            assert_eq!(search.tried(), tried);
        }
    }

    /// Table 1 and Example 2 of §4.4 don't come out: what they give is not HMAC-SHA-256 of that cookie under those keys, however
    /// either is read (as octets, as text, in the other order, with the 39 digits of Table 2). Here so that nobody looks again.
    #[test]
    fn the_rfcs_own_solutions_are_none() {
        let first = octets("0618400733240c8a2a0d94c8");
        assert!(example(8).verify(&first).is_err());
        let second = octets("005d9e57010d89590110778d01187e37");
        assert!(example(8).verify(&second).is_err());
    }

    #[test]
    fn what_is_found_is_right_and_the_same_in_pieces() {
        for prf in PrfAlgorithm::ALL {
            let puzzle = of(*prf, 8);
            let whole = puzzle.clone().solve().unwrap();
            let mut search = puzzle.clone().search();
            let pieces = loop {
                match search.run(7) {
                    Progress::Solved(solution) => break solution,
                    other => assert_eq!(other, Progress::NotYet),
                }
            };
            assert_eq!(whole, pieces);
            assert_eq!(puzzle.verify(&whole), Ok(()));
        }
    }

    /// What [`HARDEST`] lets through would take minutes.
    #[test]
    fn what_fits_into_the_time() {
        assert_eq!(usual_time(20), Duration::from_millis(1398));
        assert!(usual_time(22) <= TIME_TO_SEARCH && usual_time(23) > TIME_TO_SEARCH);
        assert!(usual_time(HARDEST) > 30 * TIME_TO_SEARCH);
        assert!(usual_time(255) > usual_time(HARDEST));
    }

    #[test]
    fn a_search_ends() {
        let mut search = example(255).search();
        search.tried = search.most - 3;
        assert_eq!(search.run(2), Progress::NotYet);
        assert_eq!(search.run(2), Progress::Hopeless);
        let within = KEYS as u64 * PATIENCE * 256;
        let mut easy = example(8).search();
        assert!(matches!(easy.run(u64::MAX), Progress::Solved(_)) && easy.tried() < within);
    }

    #[test]
    fn what_is_no_solution() {
        let puzzle = example(0);
        let of = |size: usize| -> Vec<u8> { (1..=4).flat_map(|n| vec![n; size]).collect() };
        assert_eq!(puzzle.verify(&of(1)), Ok(()));
        assert_eq!(puzzle.verify(&of(32)), Ok(()));
        // "between 1 octet and the preferred key length of the PRF (inclusive)".
        for size in [0, 33, 64, 1000] {
            assert_eq!(puzzle.verify(&of(size)), Err(NoSolution::KeySize));
        }
        assert_eq!(puzzle.verify(&[1, 2, 3, 4, 5]), Err(NoSolution::KeySize));
        assert_eq!(puzzle.verify(&[1, 2, 3]), Err(NoSolution::KeySize));
        for (at, other) in [(0, 1), (0, 3), (2, 3)] {
            let mut twice = [1, 2, 3, 4];
            twice[other] = twice[at];
            assert_eq!(puzzle.verify(&twice), Err(NoSolution::Twice));
        }
        // Each of the four counts.
        let puzzle = example(18);
        let right = octets("00cd8a0390f708828810efbe");
        for at in 0..right.len() {
            let mut wrong = right.clone();
            wrong[at] ^= 1;
            assert!(matches!(puzzle.verify(&wrong), Err(NoSolution::TooEasy(_))), "{at}");
        }
    }
}
