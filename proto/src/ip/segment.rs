//! Splits what a TUN with TSO and USO hands out into the packets that travel: each segment is written once, straight
//! to where it will be sealed, its checksum computed while it is copied.

use super::flow::{Flow, Malformed};
use super::vnet::VnetHeader;

/// The packet cannot be segmented; it is dropped and counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SegmentError {
    /// The packet's own headers are wrong.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A gso_type that was not asked for, or that contradicts the packet.
    #[error("gso_type {0:#04x} does not fit the packet")]
    Type(u8),
    /// gso_size is 0.
    #[error("gso_size is 0")]
    Size,
    /// The headers end beyond the packet, or the checksum place is not where the transport has it.
    #[error("virtio-net header points out of the packet's headers")]
    Header,
    /// A fragment, or a SYN or RST, as a super-packet.
    #[error("packet cannot be a super-packet")]
    NotSegmentable,
}

/// A plan: one packet read from the TUN, to be sent as [`Self::count`] packets.
#[derive(Clone, Debug)]
pub struct Segmenter<'a> {
    packet: &'a [u8],
    flow: Flow,
}

impl<'a> Segmenter<'a> {
    /// Checks a packet against the header it came with. `packet` is without that header; what exceeds the IP total
    /// length is ignored.
    ///
    /// # Errors
    /// [`SegmentError`].
    pub fn new(vnet: &VnetHeader, packet: &'a [u8]) -> Result<Self, SegmentError> {
        todo!("{vnet:?}{packet:?}")
    }

    /// The packet's flow: one look-up for all segments.
    #[must_use]
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Packets that will come of it, at least 1.
    #[must_use]
    pub fn count(&self) -> usize {
        todo!("{:?}", self.packet)
    }

    /// Octets of segment `index` as an IP packet; 0 if there is no such segment.
    #[must_use]
    pub fn segment_len(&self, index: usize) -> usize {
        todo!("{index}")
    }

    /// Octets of the longest segment: larger than the inner MTU means an ICMP error instead of sending
    /// ([`super::icmp`]). For a quotation in it, write segment 0 to a buffer: it has its checksums.
    #[must_use]
    pub fn max_segment_len(&self) -> usize {
        todo!()
    }

    /// Writes segment `index`, a whole IP packet with all checksums, to the beginning of `out`. Returns its length;
    /// `None` (and nothing written) if there is no such segment or no room.
    pub fn write_segment(&self, index: usize, out: &mut [u8]) -> Option<usize> {
        todo!("{index}{out:?}")
    }
}
