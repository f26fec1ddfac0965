//! See `congestion` in bodies/mod.rs.
#![no_main]
#![allow(dead_code, reason = "one target of several")]

#[path = "../bodies/mod.rs"]
mod bodies;
#[path = "../../tests/ike_pump/mod.rs"]
mod ike_pump;
#[path = "../../tests/peer/mod.rs"]
mod peer;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bodies::congestion(octets));
