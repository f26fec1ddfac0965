//! One direction of a bad link.

use crate::world::Fault;
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;
use std::time::Duration;

/// A number in 0..1.
pub fn unit(rng: &mut ChaCha8Rng) -> f64 {
    f64::from(rng.next_u32()) / (f64::from(u32::MAX) + 1.0)
}

/// What becomes of one datagram: copies with their delays.
pub fn carry(rng: &mut ChaCha8Rng, faults: &[Fault], datagram: &[u8]) -> Vec<(Duration, Vec<u8>)> {
    let mut copies = vec![(Duration::from_millis(5), datagram.to_vec())];
    for fault in faults {
        match *fault {
            Fault::Loss(p) => copies.retain(|_| unit(rng) >= p),
            Fault::Duplicate(p) => {
                for index in 0..copies.len() {
                    if unit(rng) < p {
                        let (delay, octets) = copies[index].clone();
                        copies.push((delay + Duration::from_millis(u64::from(rng.next_u32() % 3000)), octets));
                    }
                }
            }
            Fault::Delay(milliseconds) => {
                for (delay, _) in &mut copies {
                    *delay += Duration::from_millis(u64::from(rng.next_u32()) % milliseconds);
                }
            }
            Fault::Corrupt(p) => {
                for (_, octets) in &mut copies {
                    if !octets.is_empty() && unit(rng) < p {
                        let at = rng.next_u32() as usize % octets.len();
                        octets[at] ^= 1 << (rng.next_u32() % 8);
                    }
                }
            }
        }
    }
    copies
}
