//! NAT detection (RFC 7296 §2.23): SHA-1(SPIi | SPIr | IP | port).

use crate::wire::IkeSpi;
use std::net::SocketAddr;

/// The digest for one address.
#[must_use]
pub fn digest(spi_i: IkeSpi, spi_r: IkeSpi, address: SocketAddr) -> [u8; 20] {
    let _ = (spi_i, spi_r, address);
    todo!()
}

/// What the peer's NAT_DETECTION notifies say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NatSituation {
    /// The peer did send them (RFC 3947-style detection is possible).
    pub detection: bool,
    /// We stand behind a NAT (no destination digest is ours): keepalives are ours to send.
    pub local: bool,
    /// The peer does (no source digest matches where its message came from).
    pub remote: bool,
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
    let _ = (spi_i, spi_r, from, to, source, destination);
    todo!()
}
