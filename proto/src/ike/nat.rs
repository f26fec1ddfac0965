//! NAT detection (RFC 7296 §2.23): SHA-1(SPIi | SPIr | IP | port).

use crate::policy::sad::Encapsulation;
use crate::wire::IkeSpi;
use sha1::{Digest, Sha1};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The digest for one address.
#[must_use]
pub fn digest(spi_i: IkeSpi, spi_r: IkeSpi, address: SocketAddr) -> [u8; 20] {
    let mut hash = Sha1::new();
    hash.update(spi_i.0);
    hash.update(spi_r.0);
    match address.ip() {
        IpAddr::V4(v4) => hash.update(v4.octets()),
        IpAddr::V6(v6) => hash.update(v6.octets()),
    }
    hash.update(address.port().to_be_bytes());
    hash.finalize().into()
}

/// What the peer's NAT_DETECTION notifies say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NatSituation {
    /// The peer did send them (RFC 3947-style detection is possible).
    pub detection: bool,
    /// We stand behind a NAT (no destination digest is ours): keepalives are ours to send.
    pub local: bool,
    /// The peer does (no source digest matches where its message came from), or wants to be treated as if.
    pub remote: bool,
    /// The peer asks for UDP encapsulation by pretending (see [`own`]).
    pub pretended: bool,
    /// We do.
    pub pretending: bool,
}

impl NatSituation {
    /// How ESP is sent. It is received both ways at any time (RFC 7296 §2.23: "all devices MUST be able to receive and
    /// process both UDP-encapsulated ESP and non-UDP-encapsulated ESP packets at any time").
    ///
    /// Kernels are not that tolerant: an SA takes one of the two there. So both ends have to come to the same end, and
    /// whoever wants UDP pretends to be behind a NAT: then neither may do without.
    #[must_use]
    pub const fn encapsulation(&self, always_udp: bool) -> Encapsulation {
        // Without the notifies the peer does not know what ESP in UDP is.
        if !self.detection {
            return Encapsulation::Raw;
        }
        // §2.23: "if a NAT is detected, both devices MUST use UDP encapsulation for ESP."
        if always_udp || self.local || self.remote || self.pretending {
            Encapsulation::Udp
        } else {
            Encapsulation::Raw
        }
    }
}

/// The source digest of an endpoint that wants UDP encapsulation whatever the path: of no address at all. It matches
/// nowhere, so the peer takes the sender to be behind a NAT.
fn pretended(spi_i: IkeSpi, spi_r: IkeSpi) -> [u8; 20] {
    digest(spi_i, spi_r, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0))
}

/// What NAT_DETECTION_SOURCE_IP says of us: the truth, or that there is a NAT.
#[must_use]
pub fn own(pretend: bool, spi_i: IkeSpi, spi_r: IkeSpi, local: SocketAddr) -> [u8; 20] {
    if pretend {
        pretended(spi_i, spi_r)
    } else {
        digest(spi_i, spi_r, local)
    }
}

/// Compares a received message's digests with the addresses it was received by.
#[must_use]
pub fn detect(
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    from: SocketAddr,
    to: SocketAddr,
    source: &[[u8; 20]],
    destination: &[[u8; 20]],
) -> NatSituation {
    if source.is_empty() || destination.is_empty() {
        return NatSituation::default();
    }
    // RFC 7296 §2.23: one match of several source digests is enough (a multihomed sender does not know its source).
    let (here, there) = (digest(spi_i, spi_r, to), digest(spi_i, spi_r, from));
    NatSituation {
        detection: true,
        local: !destination.contains(&here),
        remote: !source.contains(&there),
        pretended: source.contains(&pretended(spi_i, spi_r)),
        pretending: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_behind_a_nat() {
        let (i, r) = (IkeSpi([1; 8]), IkeSpi::ZERO);
        let (inner, outer, us): (SocketAddr, SocketAddr, SocketAddr) = (
            "10.0.0.1:500".parse().unwrap(),
            "192.0.2.1:1024".parse().unwrap(),
            "198.51.100.2:500".parse().unwrap(),
        );
        let at = |address| digest(i, r, address);
        let none = detect(i, r, outer, us, &[at(inner), at(outer)], &[at(us)]);
        assert_eq!(
            none,
            NatSituation {
                detection: true,
                ..NatSituation::default()
            }
        );
        let peer = detect(i, r, outer, us, &[at(inner)], &[at(us)]);
        assert_eq!(
            peer,
            NatSituation {
                detection: true,
                remote: true,
                ..NatSituation::default()
            }
        );
        let both = detect(i, r, outer, us, &[at(inner)], &[at(inner)]);
        assert_eq!(
            both,
            NatSituation {
                detection: true,
                local: true,
                remote: true,
                ..NatSituation::default()
            }
        );
        assert_eq!(detect(i, r, outer, us, &[], &[]), NatSituation::default());
    }

    #[test]
    fn over_ipv6_too() {
        let (i, r) = (IkeSpi([1; 8]), IkeSpi([2; 8]));
        let (peer, us): (SocketAddr, SocketAddr) = (
            "[2001:db8::1]:4500".parse().unwrap(),
            "[2001:db8:1::2]:4500".parse().unwrap(),
        );
        let (there, here) = (digest(i, r, peer), digest(i, r, us));
        let none = detect(i, r, peer, us, &[there], &[here]);
        assert!(none.detection && !none.local && !none.remote);
        let translated = "[2001:db8:2::9]:4500".parse().unwrap();
        assert!(detect(i, r, translated, us, &[there], &[here]).remote);
        assert!(detect(i, r, peer, translated, &[there], &[here]).local);
    }

    #[test]
    fn raw_only_where_neither_end_sees_a_nat() {
        let none = NatSituation {
            detection: true,
            ..NatSituation::default()
        };
        assert_eq!(none.encapsulation(false), Encapsulation::Raw);
        assert_eq!(none.encapsulation(true), Encapsulation::Udp);
        for seen in [
            NatSituation { local: true, ..none },
            NatSituation { remote: true, ..none },
            NatSituation {
                pretending: true,
                ..none
            },
        ] {
            assert_eq!(seen.encapsulation(false), Encapsulation::Udp, "{seen:?}");
        }
        assert_eq!(NatSituation::default().encapsulation(true), Encapsulation::Raw);
    }
}
