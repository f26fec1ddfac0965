//! Sizes (RFC 4303 §2): what an ESP packet adds to its payload, and what is left of a path's MTU for the inner packet.

use crate::crypto::CipherSizes;

/// SPI and sequence number.
pub const HEADER: usize = 8;
/// Pad Length and Next Header.
pub const TRAILER: usize = 2;
/// A UDP header (RFC 3948 §2.1).
pub const UDP: usize = 8;

/// Payload, padding and trailer end on this boundary: 4 octets (RFC 4303 §2.4), or the cipher's block.
#[must_use]
pub const fn alignment(sizes: &CipherSizes) -> usize {
    if sizes.block > 4 { sizes.block } else { 4 }
}

/// Octets of padding for a payload.
#[must_use]
pub const fn padding(sizes: &CipherSizes, payload: usize) -> usize {
    let align = alignment(sizes);
    (align - (payload + TRAILER) % align) % align
}

/// Octets of the whole ESP packet.
#[must_use]
pub const fn sealed_len(sizes: &CipherSizes, payload: usize) -> usize {
    HEADER + sizes.iv + payload + padding(sizes, payload) + TRAILER + sizes.icv
}

/// The largest inner packet that fits into `outer` octets of path MTU.
#[must_use]
pub const fn inner_mtu(sizes: &CipherSizes, outer: usize, ipv6: bool, udp: bool) -> usize {
    let around = if ipv6 { 40 } else { 20 } + if udp { UDP } else { 0 } + HEADER + sizes.iv + sizes.icv;
    let align = alignment(sizes);
    (outer.saturating_sub(around) / align * align).saturating_sub(TRAILER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{CipherSuite, ESP_PROVIDER, Encryption, Integrity};

    fn sizes(encryption: Encryption, integrity: Option<Integrity>) -> CipherSizes {
        (ESP_PROVIDER.sizes)(CipherSuite { encryption, integrity }).unwrap()
    }

    #[test]
    fn the_inner_mtu_is_what_aws_and_gcp_publish() {
        let gcm = sizes(Encryption::AesGcm16_256, None);
        let sha256 = sizes(Encryption::AesCbc256, Some(Integrity::HmacSha256_128));
        let sha384 = sizes(Encryption::AesCbc256, Some(Integrity::HmacSha384_192));
        let sha512 = sizes(Encryption::AesCbc256, Some(Integrity::HmacSha512_256));
        let table = [
            (gcm, 1446, 1438),
            (sha256, 1438, 1422),
            (sha384, 1422, 1422),
            (sha512, 1422, 1406),
        ];
        for (sizes, raw, udp) in table {
            assert_eq!(inner_mtu(&sizes, 1500, false, false), raw);
            assert_eq!(inner_mtu(&sizes, 1500, false, true), udp);
        }
        assert_eq!(
            [gcm, sha256, sha512].map(|s| inner_mtu(&s, 1460, false, false)),
            [1406, 1390, 1374]
        );
    }

    #[test]
    fn what_fits_fits_and_one_more_does_not() {
        for (encryption, integrity) in [
            (Encryption::AesGcm16_128, None),
            (Encryption::AesCbc128, Some(Integrity::HmacSha256_128)),
        ] {
            let sizes = sizes(encryption, integrity);
            for outer in 576..1600 {
                let inner = inner_mtu(&sizes, outer, false, true);
                assert!(20 + UDP + sealed_len(&sizes, inner) <= outer);
                assert!(20 + UDP + sealed_len(&sizes, inner + 1) > outer);
            }
        }
    }
}
