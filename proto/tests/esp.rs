//! ESP from one end to the other (RFC 4303): sequence numbers across 2^32, limits, padding, dummies.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use landbridge_proto::crypto::{CipherSuite, ESP_PROVIDER, Encryption, Integrity, Secret};
use landbridge_proto::esp::{InboundError, InboundSa, NextHeader, OutboundSa, SequenceExhausted};
use landbridge_proto::policy::sad::SaParameters;

const SUITES: [CipherSuite; 3] = [
    CipherSuite {
        encryption: Encryption::AesGcm16_256,
        integrity: None,
    },
    CipherSuite {
        encryption: Encryption::ChaCha20Poly1305,
        integrity: None,
    },
    CipherSuite {
        encryption: Encryption::AesCbc128,
        integrity: Some(Integrity::HmacSha256_128),
    },
];

fn ends(suite: CipherSuite, esn: bool, window: u32) -> (OutboundSa, InboundSa) {
    let sizes = (ESP_PROVIDER.sizes)(suite).unwrap();
    let parameters = SaParameters {
        spi: 0x1234_5678,
        suite,
        key: Secret::new((0..sizes.key_material() as u8).collect()),
        esn,
    };
    let outbound = OutboundSa::new(&ESP_PROVIDER, &parameters, [3; 32]).unwrap();
    let inbound = InboundSa::new(&ESP_PROVIDER, &parameters, window).unwrap();
    (outbound, inbound)
}

fn seal(sa: &mut OutboundSa, sequence: u64, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; sa.sealed_len(payload.len())];
    let at = sa.headroom();
    packet[at..at + payload.len()].copy_from_slice(payload);
    sa.seal(sequence, next_header, payload.len(), &mut packet);
    packet
}

/// N11. RFC 4303 §2.2.1: "Only the low-order 32 bits of the sequence number are transmitted in the plaintext ESP header of
/// each packet", and §3.4.3 with Appendix A has the receiver find the high-order ones, also when packets change places
/// around 2^32.
#[test]
fn extended_sequence_numbers_cross_two_to_the_32() {
    for suite in SUITES {
        for window in [64, 4096] {
            let (mut sender, mut receiver) = ends(suite, true, window);
            let start = (1_u64 << 32) - 20;
            let packets: Vec<(u64, Vec<u8>)> = (start..start + 40)
                .map(|sequence| (sequence, seal(&mut sender, sequence, 4, &[0x45; 60])))
                .collect();
            assert_eq!(packets[0].1[4..8], 0xffff_ffec_u32.to_be_bytes());
            assert_eq!(packets[20].1[4..8], [0; 4], "only the low half is sent");
            // Even numbers first, then the odd ones: the window reaches over the boundary from both sides.
            let order = packets.iter().step_by(2).chain(packets.iter().skip(1).step_by(2));
            for (sequence, packet) in order {
                let opened = receiver.open(&mut packet.clone()).unwrap();
                assert_eq!(opened.sequence, *sequence);
            }
            assert_eq!(receiver.highest(), start + 39);
            for (sequence, packet) in &packets {
                let again = receiver.open(&mut packet.clone());
                assert_eq!(again, Err(InboundError::Replayed), "{sequence}");
            }
            // A number of another cycle does not pass for one of this: the high half is under the ICV.
            let mut other_cycle = seal(&mut sender, start + 100 + (1 << 32), 4, &[0x45; 60]);
            assert_eq!(receiver.open(&mut other_cycle), Err(InboundError::Integrity));
            assert_eq!(receiver.highest(), start + 39, "and moves nothing");
        }
    }
}

/// N12: the high half is under the ICV only if it was negotiated, so the two kinds don't mix once it is not 0.
#[test]
fn without_esn_numbers_have_32_bits() {
    for suite in SUITES {
        let (mut sender, mut receiver) = ends(suite, false, 64);
        let last = u64::from(u32::MAX);
        assert_eq!(
            receiver
                .open(&mut seal(&mut sender, last, 4, &[0x45; 20]))
                .unwrap()
                .sequence,
            last
        );
        // RFC 4303 §3.3.3: it must not cycle; what comes after it looks like a very old packet.
        let wrapped = receiver.open(&mut seal(&mut sender, 1, 4, &[0x45; 20]));
        assert_eq!(wrapped, Err(InboundError::TooOld));
    }
}

/// N3. RFC 4303 §3.3.3: "the sender MUST NOT send a packet on an SA if doing so would cause the sequence number to cycle".
#[test]
fn sending_stops_before_the_numbers_are_used_up() {
    let (mut sender, _) = ends(SUITES[0], false, 64);
    assert_eq!(sender.reserve(1), Ok(1), "N2: the first packet has number 1");
    assert_eq!(sender.reserve(u32::MAX - 3), Ok(2));
    assert_eq!(sender.reserve(3), Err(SequenceExhausted), "not even in part");
    assert_eq!(sender.reserve(2), Ok(u64::from(u32::MAX) - 1));
    assert_eq!(sender.reserve(1), Err(SequenceExhausted));
    let (mut sender, _) = ends(SUITES[0], true, 64);
    for _ in 0..3 {
        sender.reserve(u32::MAX).unwrap();
    }
    assert_eq!(sender.reserve(1), Ok(3 * u64::from(u32::MAX) + 1));
}

/// N7. RFC 4303 §2.6: "A receiver MUST be prepared to discard such packets without indicating an error"; they count in the
/// window like all others.
#[test]
fn a_dummy_is_authentic_and_counted() {
    for suite in SUITES {
        let (mut sender, mut receiver) = ends(suite, true, 64);
        let dummy = seal(&mut sender, 1, 59, &[0xa5; 33]);
        assert_eq!(
            receiver.open(&mut dummy.clone()).unwrap().next_header,
            NextHeader::Dummy
        );
        assert_eq!(receiver.open(&mut dummy.clone()), Err(InboundError::Replayed));
        let empty = receiver.open(&mut seal(&mut sender, 2, 59, &[])).unwrap();
        assert!(empty.payload.is_empty());
    }
}

/// N9. §3.4.3: "The receive window is updated only if the integrity verification succeeds."
#[test]
fn a_flipped_bit_anywhere_changes_nothing() {
    for suite in SUITES {
        let (mut sender, mut receiver) = ends(suite, true, 64);
        let good = seal(&mut sender, 7, 4, &[0x45; 41]);
        // The SPI names the SA; behind it every bit is under the ICV.
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(receiver.open(&mut bad).is_err(), "bit {bit}");
            assert_eq!(receiver.highest(), 0);
        }
        assert_eq!(receiver.open(&mut good.clone()).unwrap().sequence, 7);
    }
}

/// N5: whatever is too short or not aligned is dropped.
#[test]
fn every_length_is_taken_or_refused() {
    for suite in SUITES {
        let (mut sender, mut receiver) = ends(suite, true, 64);
        let good = seal(&mut sender, 1, 4, &[0x45; 64]);
        for len in 0..good.len() {
            let result = receiver.open(&mut good[..len].to_vec());
            assert!(
                matches!(result, Err(InboundError::Malformed | InboundError::Integrity)),
                "{len}"
            );
        }
        assert!(receiver.open(&mut good.clone()).is_ok());
    }
}
