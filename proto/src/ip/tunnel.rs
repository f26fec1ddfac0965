//! How outer and inner header relate in tunnel mode: DSCP copied or mapped (RFC 4301 §5.1.2.1, RFC 2983), ECN after RFC
//! 6040.
//!
//! TTL and hop limit: RFC 4301 §5.1.2.1 note 2 has the encapsulator and the decapsulator decrement them where they
//! forward. Here the kernel forwards: it decremented before it handed a packet to the TUN, and it will decrement when
//! it forwards what we write there. Nothing here touches them; a second decrement would make the tunnel two hops.
//!
//! DF: [`DontFragment`] is the operator's choice (RFC 4301 §8.1).

use super::checksum;
use super::flow::Flow;

/// An ECN field (RFC 3168 §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ecn {
    /// 00: the transport does not understand ECN.
    NotEct = 0,
    /// 01
    Ect1 = 1,
    /// 10
    Ect0 = 2,
    /// 11: congestion experienced.
    Ce = 3,
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

/// DF of the outer IPv4 header. RFC 4301 §8.1: "it MUST be possible to configure the implementation's treatment of the DF
/// bit (set, clear, copy from inner header) for each SA. This applies to SAs where both inner and outer headers are IPv4."
/// Without it a path narrower than the first link fragments, which every path can: so that is the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DontFragment {
    /// Not set.
    #[default]
    Clear,
    /// Set.
    Set,
    /// As the inner packet has it; an IPv6 packet has none.
    Copy,
}

impl DontFragment {
    /// For a packet.
    #[must_use]
    pub fn of(self, flow: &Flow) -> bool {
        match self {
            Self::Clear => false,
            Self::Set => true,
            Self::Copy => flow.dont_fragment && !flow.is_ipv6(),
        }
    }
}

/// The packet is to be dropped: outer CE over an inner Not-ECT (RFC 6040 §4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("congestion was marked on a packet whose transport has no ECN")]
pub struct DropCe;

/// How unusual a combination of outer and inner ECN field is (RFC 6040 §4.2); for a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Anomaly {
    /// Ordinary.
    None,
    /// "(!)" in figure 4: unused, possibly dangerous.
    Unused,
    /// "(!!!)" in figure 4: unused, always potentially dangerous.
    Dangerous,
}

/// The DSCP of the outer header, by that of the inner one. RFC 4301 §5.1.2.1: "DS Field: copied from inner hdr", unless
/// the next domain wants another: then "that value MUST be mapped to an appropriate value for the domain".
#[derive(Clone, PartialEq, Eq)]
pub struct OuterDscp([u8; 64]);

impl Default for OuterDscp {
    fn default() -> Self {
        Self(std::array::from_fn(|dscp| dscp as u8))
    }
}

impl std::fmt::Debug for OuterDscp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let changed = (0..).zip(self.0).filter(|(inner, outer)| inner != outer);
        f.debug_map().entries(changed).finish()
    }
}

impl OuterDscp {
    /// One for all: nothing of the inner ones is seen outside.
    #[must_use]
    pub const fn all(dscp: u8) -> Self {
        Self([dscp & 63; 64])
    }

    /// Another value for one of them.
    pub fn set(&mut self, inner: u8, outer: u8) {
        if let Some(entry) = self.0.get_mut(usize::from(inner)) {
            *entry = outer & 63;
        }
    }

    /// The outer header's TOS or traffic class. RFC 6040 §4.1, normal mode: ECN is copied, CE as well.
    #[must_use]
    #[inline]
    pub fn tos(&self, inner_tos: u8) -> u8 {
        let inner = usize::from(inner_tos >> 2);
        self.0.get(inner).copied().unwrap_or(0) << 2 | inner_tos & 3
    }
}

/// Combines the outer ECN field into the inner header, IPv4 header checksum included. `flow` is that of `packet`; its
/// `tos` follows. The DSCP of the inner header stays (RFC 2983 §4.1, the pipe model; RFC 4301 §5.1.2.1 "no change").
///
/// # Errors
/// [`DropCe`]: drop the packet.
pub fn decapsulate_ecn(outer: Ecn, flow: &mut Flow, packet: &mut [u8]) -> Result<Anomaly, DropCe> {
    let inner = Ecn::from_tos(flow.tos);
    let (outgoing, anomaly) = combine(inner, outer).ok_or(DropCe)?;
    if outgoing != inner {
        set_tos(flow, packet, flow.tos & !3 | outgoing as u8);
    }
    Ok(anomaly)
}

/// RFC 6040 §4.2, figure 4; `None` is `<drop>`.
fn combine(inner: Ecn, outer: Ecn) -> Option<(Ecn, Anomaly)> {
    Some(match (inner, outer) {
        // "If the inner ECN field is Not-ECT and the outer ECN field is CE, the decapsulator MUST drop the packet."
        (Ecn::NotEct, Ecn::Ce) => return None,
        (Ecn::NotEct, Ecn::NotEct) => (Ecn::NotEct, Anomaly::None),
        (Ecn::NotEct, Ecn::Ect0 | Ecn::Ect1) => (Ecn::NotEct, Anomaly::Dangerous),
        (Ecn::Ect0, Ecn::NotEct | Ecn::Ect0) => (Ecn::Ect0, Anomaly::None),
        (Ecn::Ect0, Ecn::Ect1) => (Ecn::Ect1, Anomaly::None),
        (Ecn::Ect1, Ecn::NotEct | Ecn::Ect1) => (Ecn::Ect1, Anomaly::None),
        (Ecn::Ect1, Ecn::Ect0) => (Ecn::Ect1, Anomaly::Unused),
        (Ecn::Ce, Ecn::Ect1) => (Ecn::Ce, Anomaly::Dangerous),
        (Ecn::Ce, _) | (_, Ecn::Ce) => (Ecn::Ce, Anomaly::None),
    })
}

fn set_tos(flow: &mut Flow, packet: &mut [u8], tos: u8) {
    match packet.first_chunk_mut::<20>() {
        Some(header) if header[0] >> 4 == 4 => {
            let old = u16::from_be_bytes([header[0], header[1]]);
            let new = u16::from_be_bytes([header[0], tos]);
            let sum = checksum::update(u16::from_be_bytes([header[10], header[11]]), old, new);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header[1] = tos;
        }
        Some(header) => {
            header[0] = header[0] & 0xf0 | tos >> 4;
            header[1] = tos << 4 | header[1] & 0x0f;
        }
        None => return,
    }
    flow.tos = tos;
}

#[cfg(test)]
mod tests {
    use super::Anomaly::{Dangerous, None as Ordinary, Unused};
    use super::Ecn::{Ce, Ect0, Ect1, NotEct};
    use super::*;
    use crate::ip::checksum::Sum;
    use crate::ip::flow;

    type Cell = Option<(Ecn, Anomaly)>;

    /// RFC 6040 figure 4: rows are the inner field, columns the outer one: Not-ECT, ECT(0), ECT(1), CE.
    const FIGURE_4: [(Ecn, [Cell; 4]); 4] = [
        (
            NotEct,
            [
                Some((NotEct, Ordinary)),
                Some((NotEct, Dangerous)),
                Some((NotEct, Dangerous)),
                None,
            ],
        ),
        (
            Ect0,
            [
                Some((Ect0, Ordinary)),
                Some((Ect0, Ordinary)),
                Some((Ect1, Ordinary)),
                Some((Ce, Ordinary)),
            ],
        ),
        (
            Ect1,
            [
                Some((Ect1, Ordinary)),
                Some((Ect1, Unused)),
                Some((Ect1, Ordinary)),
                Some((Ce, Ordinary)),
            ],
        ),
        (
            Ce,
            [
                Some((Ce, Ordinary)),
                Some((Ce, Ordinary)),
                Some((Ce, Dangerous)),
                Some((Ce, Ordinary)),
            ],
        ),
    ];

    fn ipv4(tos: u8) -> Vec<u8> {
        let mut packet = vec![0x45, tos, 0, 20, 1, 2, 0x40, 0, 64, 59, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1];
        let sum = Sum::default().octets(&packet).checksum();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn ipv6(tos: u8) -> Vec<u8> {
        let mut packet = vec![0u8; 40];
        packet[0] = 0x60 | tos >> 4;
        packet[1] = tos << 4 | 0x0a;
        packet[2..4].copy_from_slice(&[0xbc, 0xde]);
        packet[6] = 59;
        packet[7] = 64;
        packet[23] = 1;
        packet[39] = 2;
        packet
    }

    #[test]
    fn the_sixteen_combinations() {
        // RFC 6040 §4.2: "a compliant tunnel egress MUST set the outgoing ECN field to the codepoint at the
        // intersection of the appropriate arriving inner header (row) and outer header (column) in Figure 4 (the IPv4
        // header checksum also changes whenever the ECN field is changed)."
        for (inner, row) in FIGURE_4 {
            for (outer, expected) in [NotEct, Ect0, Ect1, Ce].into_iter().zip(row) {
                for build in [ipv4, ipv6] {
                    let dscp = 0b1011_1000;
                    let before = build(dscp | inner as u8);
                    let mut packet = before.clone();
                    let mut flow = flow::parse(&packet).unwrap();
                    let verdict = decapsulate_ecn(outer, &mut flow, &mut packet);
                    match expected {
                        None => assert_eq!((verdict, &packet), (Err(DropCe), &before), "{inner:?} {outer:?}"),
                        Some((outgoing, anomaly)) => {
                            assert_eq!(verdict, Ok(anomaly), "{inner:?} {outer:?}");
                            assert_eq!(packet, build(dscp | outgoing as u8), "{inner:?} {outer:?}");
                            assert_eq!(flow, flow::parse(&packet).unwrap());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn dscp_and_ecn_go_out_as_they_are() {
        for tos in 0..=255 {
            assert_eq!(OuterDscp::default().tos(tos), tos);
            assert_eq!(Ecn::from_tos(tos) as u8, tos & 3);
        }
    }

    #[test]
    fn a_dscp_is_mapped_and_ecn_is_not() {
        let mut map = OuterDscp::default();
        map.set(46, 40);
        map.set(48, 0);
        map.set(64, 1);
        for tos in 0..=255_u8 {
            let outer = match tos >> 2 {
                46 => 40,
                48 => 0,
                same => same,
            };
            assert_eq!(map.tos(tos), outer << 2 | tos & 3);
            assert_eq!(OuterDscp::all(8).tos(tos), 8 << 2 | tos & 3);
        }
        assert_eq!(format!("{map:?}"), "{46: 40, 48: 0}");
    }

    #[test]
    fn a_flow_of_another_packet_does_not_panic() {
        let mut flow = flow::parse(&ipv4(1)).unwrap();
        for len in 0..20 {
            assert_eq!(
                decapsulate_ecn(Ce, &mut flow.clone(), &mut vec![0x45; len]),
                Ok(Ordinary)
            );
        }
        assert_eq!(decapsulate_ecn(Ce, &mut flow, &mut [0x65; 60]), Ok(Ordinary));
    }
}
