//! Stateless cookies (RFC 7296 §2.6): Cookie = version | HMAC-SHA-256(secret, Ni | IPi | port | SPIi); the secret is rotated and
//! the previous one still taken for a while.

use crate::time::Instant;
use crate::wire::IkeSpi;
use rand_core::CryptoRng;
use std::net::SocketAddr;

/// The responder's cookie secrets.
pub struct CookieJar {
    current: ([u8; 32], u8),
    previous: Option<([u8; 32], u8)>,
    rotated: Instant,
}

impl CookieJar {
    /// With a first secret.
    #[must_use]
    pub fn new(now: Instant, rng: &mut dyn CryptoRng) -> Self {
        let _ = (now, rng);
        todo!()
    }

    /// The cookie for an IKE_SA_INIT request; rotates the secret when it is due.
    pub fn make(
        &mut self,
        now: Instant,
        from: SocketAddr,
        spi_i: IkeSpi,
        nonce: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> Vec<u8> {
        let _ = (
            now,
            from,
            spi_i,
            nonce,
            rng,
            &self.current,
            &self.previous,
            self.rotated,
        );
        todo!()
    }

    /// Whether `cookie` is one we made for the same request, by the current or the previous secret.
    #[must_use]
    pub fn check(&self, from: SocketAddr, spi_i: IkeSpi, nonce: &[u8], cookie: &[u8]) -> bool {
        let _ = (from, spi_i, nonce, cookie);
        todo!()
    }
}
