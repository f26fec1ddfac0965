//! The fuzz targets' bodies, run over octets mutated from their seeds: bounded, from a fixed seed, with every `cargo test`.
//! `LANDBRIDGE_FUZZ_ROUNDS` makes it longer, `LANDBRIDGE_FUZZ_SEED` begins elsewhere; an input that fails is printed as hex.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;
#[path = "ike_pump/mod.rs"]
mod ike_pump;
#[path = "peer/mod.rs"]
mod peer;

use bodies::TARGETS;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// Prints the input if its target panics.
struct Witness<'a>(&'a str, &'a [u8]);

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.1.iter().map(|octet| format!("{octet:02x}")).collect();
            eprintln!("{} fails with {hex}", self.0);
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Values that parsers trip over.
const ODD: [u8; 10] = [0, 1, 2, 3, 4, 0x7f, 0x80, 0xfe, 0xff, 53];

fn mutate(octets: &mut Vec<u8>, other: &[u8], rng: &mut ChaCha8Rng) {
    let mut below = |most: usize| (rng.next_u32() as usize) % most.max(1);
    for _ in 0..=below(6) {
        let len = octets.len();
        let at = below(len);
        match below(9) {
            0 | 1 if len > 0 => octets[at] ^= 1 << below(8),
            2 | 3 if len > 0 => octets[at] = ODD[below(ODD.len())],
            4 => octets.truncate(at),
            5 => {
                let value = below(256) as u8;
                octets.insert(at.min(len), value);
            }
            6 if len > 0 => drop(octets.remove(at)),
            // A piece again, or a piece of another seed.
            7 if len > 0 => {
                let piece = octets[at..(at + 1 + below(40)).min(len)].to_vec();
                let to = below(len);
                octets.splice(to..to, piece);
            }
            _ if !other.is_empty() => {
                let from = below(other.len());
                let piece = &other[from..(from + 1 + below(60)).min(other.len())];
                octets.splice(at.min(len)..at.min(len), piece.iter().copied());
            }
            _ => {}
        }
    }
}

fn run(name: &str, rounds: u64) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let seeds = (target.seeds)();
    for seed in &seeds {
        let _witness = Witness(name, seed);
        (target.body)(seed);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(number("LANDBRIDGE_FUZZ_SEED", 1));
    let rounds = rounds * number("LANDBRIDGE_FUZZ_ROUNDS", 1);
    // Inputs that came of others keep the mutations apart from the seeds.
    let mut pool = seeds.clone();
    for _ in 0..rounds {
        let mut octets = pool[(rng.next_u32() as usize) % pool.len()].clone();
        let other = &seeds[(rng.next_u32() as usize) % seeds.len()];
        mutate(&mut octets, other, &mut rng);
        {
            let _witness = Witness(name, &octets);
            (target.body)(&octets);
        }
        if octets.len() < 3000 {
            let place = (rng.next_u32() as usize) % 64;
            if place >= pool.len() {
                pool.push(octets);
            } else if place >= seeds.len() {
                pool[place] = octets;
            }
        }
    }
}

#[test]
fn message() {
    run("message", 200_000);
}

#[test]
fn payloads() {
    run("payloads", 60_000);
}

#[test]
fn proposals() {
    run("proposals", 60_000);
}

#[test]
fn selectors() {
    run("selectors", 100_000);
}

#[test]
fn endpoint() {
    run("endpoint", 10_000);
}

#[test]
fn sealed_request() {
    run("sealed_request", 2_000);
}

#[test]
fn sealed_response() {
    run("sealed_response", 2_000);
}

#[test]
fn fragments() {
    run("fragments", 1_500);
}

#[test]
fn esp_input() {
    run("esp_input", 60_000);
}

#[test]
fn stream() {
    run("stream", 60_000);
}

#[test]
fn inner_packet() {
    run("inner_packet", 40_000);
}

#[test]
fn aggfrag() {
    run("aggfrag", 40_000);
}

#[test]
fn congestion() {
    run("congestion", 20_000);
}

#[test]
fn every_target_is_run() {
    let text = include_str!("fuzzing.rs");
    for target in TARGETS {
        assert!(
            text.contains(&format!("run(\"{}\",", target.name)),
            "{} is not run",
            target.name
        );
    }
    let targets = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    for target in TARGETS {
        let file = targets.join(format!("{}.rs", target.name));
        assert!(file.exists(), "{} is missing", file.display());
    }
}
