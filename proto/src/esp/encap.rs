//! What a datagram on the NAT traversal port is (RFC 3948 §2).

/// Kinds of datagrams on UDP 4500.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Datagram {
    /// One octet 0xff (§2.3): ignored, and no proof of life.
    Keepalive,
    /// Four zero octets, then an IKE message (§2.2).
    Ike,
    /// An ESP packet with this SPI (§2.1).
    Esp(u32),
    /// Nothing of these: dropped.
    Short,
}

/// Tells them apart by their first octets.
#[must_use]
pub const fn classify(datagram: &[u8]) -> Datagram {
    match datagram {
        [0xff] => Datagram::Keepalive,
        [0, 0, 0, 0, ..] => Datagram::Ike,
        [a, b, c, d, _, _, _, _, ..] => Datagram::Esp(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => Datagram::Short,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        assert_eq!(classify(&[0xff]), Datagram::Keepalive);
        assert_eq!(classify(&[0, 0, 0, 0, 1]), Datagram::Ike);
        assert_eq!(classify(&[1, 2, 3, 4, 0, 0, 0, 1]), Datagram::Esp(0x0102_0304));
        for short in [&[][..], &[0], &[0xff, 0xff], &[1, 2, 3, 4, 0, 0, 0]] {
            assert_eq!(classify(short), Datagram::Short);
        }
    }
}
