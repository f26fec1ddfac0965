//! Any datagram at the outer structure.
#![no_main]
use landbridge_proto::wire::decode_outer;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    let _ = decode_outer(octets);
});
