//! The header that a TUN interface with IFF_VNET_HDR puts before each packet (`struct virtio_net_hdr`, virtio 1.2
//! §5.1.6). Its integers are in the machine's own order unless TUNSETVNETLE or TUNSETVNETBE says otherwise.

/// Flag: the checksum field holds the pseudo header's sum and is to be completed.
pub const NEEDS_CSUM: u8 = 1;
/// Flag: the checksum was verified. The kernel sets it on packets it hands out; on packets written to a TUN it has no
/// effect, so nothing here sets it.
pub const DATA_VALID: u8 = 2;
/// Not a super-packet.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// UDP datagrams of one size (USO).
pub const GSO_UDP_L4: u8 = 5;
/// Bit in the type: the TCP header has CWR set.
pub const GSO_ECN: u8 = 0x80;

/// `struct virtio_net_hdr`, without the num_buffers that may follow.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VnetHeader {
    /// [`NEEDS_CSUM`], [`DATA_VALID`].
    pub flags: u8,
    /// [`GSO_NONE`], [`GSO_TCPV4`], [`GSO_TCPV6`] (with or without [`GSO_ECN`]), [`GSO_UDP_L4`].
    pub gso_type: u8,
    /// Octets of all headers. Never trusted when read: on the forwarding path the kernel puts other values here.
    pub hdr_len: u16,
    /// Payload octets of a segment.
    pub gso_size: u16,
    /// Where the checksum begins: the transport header's offset.
    pub csum_start: u16,
    /// The checksum field's offset from there.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Octets without num_buffers (the TUN's default).
    pub const LEN: usize = 10;
    /// Octets with num_buffers (`struct virtio_net_hdr_mrg_rxbuf`, TUNSETVNETHDRSZ 12).
    pub const LEN_NUM_BUFFERS: usize = 12;

    /// From the octets before a packet.
    #[must_use]
    pub fn from_octets(octets: &[u8; Self::LEN]) -> Self {
        let field = |at: usize| u16::from_ne_bytes([octets[at], octets[at + 1]]);
        Self {
            flags: octets[0],
            gso_type: octets[1],
            hdr_len: field(2),
            gso_size: field(4),
            csum_start: field(6),
            csum_offset: field(8),
        }
    }

    /// The octets to write before a packet.
    #[must_use]
    pub fn to_octets(self) -> [u8; Self::LEN] {
        let [h0, h1] = self.hdr_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.csum_start.to_ne_bytes();
        let [o0, o1] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }

    /// The same with num_buffers, which is 0 on a TUN.
    #[must_use]
    pub fn to_octets_num_buffers(self) -> [u8; Self::LEN_NUM_BUFFERS] {
        let mut octets = [0; Self::LEN_NUM_BUFFERS];
        octets[..Self::LEN].copy_from_slice(&self.to_octets());
        octets
    }

    /// Is the checksum still to be completed?
    #[must_use]
    pub fn needs_checksum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }

    /// Is it a super-packet?
    #[must_use]
    pub fn is_gso(&self) -> bool {
        self.gso_type & !GSO_ECN != GSO_NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_in_the_machines_order() {
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV6 | GSO_ECN,
            hdr_len: 0x0102,
            gso_size: 0x0304,
            csum_start: 0x0506,
            csum_offset: 0x0708,
        };
        let octets = header.to_octets();
        assert_eq!(octets[..2], [1, 0x84]);
        assert_eq!(octets[4..6], 0x0304u16.to_ne_bytes());
        assert_eq!(VnetHeader::from_octets(&octets), header);
        assert_eq!(header.to_octets_num_buffers()[..10], octets);
        assert_eq!(header.to_octets_num_buffers()[10..], [0, 0]);
        assert!(header.is_gso() && header.needs_checksum());
        assert!(!VnetHeader::default().is_gso() && !VnetHeader::default().needs_checksum());
    }
}
