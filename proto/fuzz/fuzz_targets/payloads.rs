//! Any octets as a payload chain: what is understood means the same when written again, and sorts without a panic.
#![no_main]
use landbridge_proto::wire::{ExchangeType, PayloadType, decode_payloads, decode_request, decode_response, encode_payloads};

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    let Some((first, chain)) = octets.split_first() else { return };
    let Ok(payloads) = decode_payloads(PayloadType(*first), chain) else { return };
    let (again, written) = encode_payloads(&payloads);
    assert_eq!(decode_payloads(again, &written).expect("what we write we read"), payloads);
    for exchange in [34, 35, 36, 37] {
        let _ = decode_request(ExchangeType(exchange), payloads.clone());
        let _ = decode_response(ExchangeType(exchange), payloads.clone());
    }
});
