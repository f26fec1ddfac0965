//! How outer and inner header relate in tunnel mode: DSCP copied (RFC 4301 §5.1.2.1, RFC 2983), ECN after RFC 6040.
//!
//! TTL and hop limit: RFC 4301 §5.1.2.1 note 2 has the encapsulator and the decapsulator decrement them where they
//! forward. Here the kernel forwards: it decremented before it handed a packet to the TUN, and it will decrement when
//! it forwards what we write there. Nothing here touches them; a second decrement would make the tunnel two hops.

use super::flow::Flow;

/// An ECN field (RFC 3168 §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ecn {
    /// 00
    NotEct,
    /// 01
    Ect1,
    /// 10
    Ect0,
    /// 11: congestion experienced
    Ce,
}

impl Ecn {
    /// From the low two bits of a TOS or traffic class octet.
    #[must_use]
    pub fn from_tos(tos: u8) -> Self {
        match tos & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }
}

/// The packet is to be dropped: outer CE over an inner Not-ECT (RFC 6040 §4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("congestion was marked on a packet whose transport has no ECN")]
pub struct DropCe;

/// The outer header's TOS or traffic class: DSCP and ECN copied ("normal mode", RFC 6040 §4.1).
#[must_use]
pub fn outer_tos(inner_tos: u8) -> u8 {
    inner_tos
}

/// Combines the outer ECN field into the inner header (RFC 6040 §4.2, figure 4), with the IPv4 checksum. `flow` is
/// that of `packet` and gets its `tos` updated. Returns the combinations that RFC 6040 calls currently unused, for a
/// counter.
///
/// # Errors
/// [`DropCe`]: drop the packet.
pub fn decapsulate_ecn(outer: Ecn, flow: &mut Flow, packet: &mut [u8]) -> Result<Anomaly, DropCe> {
    todo!("{outer:?}{flow:?}{packet:?}")
}

/// How unusual a combination of outer and inner ECN field is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Anomaly {
    /// Ordinary.
    None,
    /// "(!)" in figure 4: possibly dangerous.
    Unused,
    /// "(!!!)" in figure 4: always potentially dangerous.
    Dangerous,
}
