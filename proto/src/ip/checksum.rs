//! The Internet checksum (RFC 1071), its incremental update (RFC 1624) and completion of partial checksums.

/// A running one's complement sum. Pieces are added at even offsets only: all but the last have an even length.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sum(u64);

impl Sum {
    /// Adds a 16-bit word given by its value.
    #[must_use]
    pub fn word(self, value: u16) -> Self {
        todo!("{value}")
    }

    /// Adds octets; an odd last one is padded with zero (RFC 1071 §1).
    #[must_use]
    pub fn octets(self, octets: &[u8]) -> Self {
        todo!("{octets:?}")
    }

    /// Copies `from` to the beginning of `to`, adding what is copied: one pass. As much as both have room for.
    #[must_use]
    pub fn copy(self, from: &[u8], to: &mut [u8]) -> Self {
        todo!("{from:?}{to:?}")
    }

    /// The checksum: the complement of the folded sum. 0 over octets that contain a right checksum.
    #[must_use]
    pub fn checksum(self) -> u16 {
        todo!()
    }

    /// The folded sum, not complemented: what a partial checksum field holds.
    #[must_use]
    pub fn folded(self) -> u16 {
        todo!()
    }
}

/// csum_start and csum_offset point out of the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("checksum place lies outside the packet")]
pub struct OutOfPacket;

/// Completes a partial checksum as [`super::vnet::NEEDS_CSUM`] asks: the field at `start + offset` holds the pseudo
/// header's sum; octets from `start` to the end are added and the complement is stored.
///
/// # Errors
/// [`OutOfPacket`]; the packet is unchanged.
pub fn complete(packet: &mut [u8], start: usize, offset: usize) -> Result<(), OutOfPacket> {
    todo!("{packet:?}{start}{offset}")
}

/// RFC 1624 §3, equation 3: the checksum after one 16-bit word changed.
#[must_use]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    todo!("{checksum}{old}{new}")
}
