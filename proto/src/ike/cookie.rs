//! Stateless cookies (RFC 7296 §2.6): Cookie = version | HMAC-SHA-256(secret, Ni | IPi | port | SPIi); the secret is rotated and
//! the previous one still taken for a while.

use crate::crypto::{PrfAlgorithm, prf};
use crate::time::Instant;
use crate::wire::IkeSpi;
use rand_core::CryptoRng;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use subtle::ConstantTimeEq;

/// How long a secret is the current one.
const ROTATION: Duration = Duration::from_secs(120);

/// The responder's cookie secrets.
#[derive(Clone)]
pub struct CookieJar {
    current: ([u8; 32], u8),
    previous: Option<([u8; 32], u8)>,
    rotated: Instant,
}

impl CookieJar {
    /// With a first secret.
    #[must_use]
    pub fn new(now: Instant, rng: &mut dyn CryptoRng) -> Self {
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        Self {
            current: (secret, 0),
            previous: None,
            rotated: now,
        }
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
        if now.saturating_since(self.rotated) >= ROTATION {
            let mut secret = [0; 32];
            rng.fill_bytes(&mut secret);
            // After a long quiet the old secret is no longer that of a moment ago.
            self.previous = (now.saturating_since(self.rotated) < ROTATION * 2).then_some(self.current);
            self.current = (secret, self.current.1.wrapping_add(1));
            self.rotated = now;
        }
        compute(&self.current, from, spi_i, nonce)
    }

    /// Whether `cookie` is one we made for the same request, by the current or the previous secret, and not long ago.
    #[must_use]
    pub fn check(&self, now: Instant, from: SocketAddr, spi_i: IkeSpi, nonce: &[u8], cookie: &[u8]) -> bool {
        let age = now.saturating_since(self.rotated);
        let current = Some(&self.current).filter(|_| age < ROTATION * 2);
        let previous = self.previous.as_ref().filter(|_| age < ROTATION);
        let secrets = current.into_iter().chain(previous);
        secrets
            .into_iter()
            .any(|secret| compute(secret, from, spi_i, nonce).ct_eq(cookie).into())
    }
}

fn compute((secret, version): &([u8; 32], u8), from: SocketAddr, spi_i: IkeSpi, nonce: &[u8]) -> Vec<u8> {
    let mut data = nonce.to_vec();
    match from.ip() {
        IpAddr::V4(v4) => data.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => data.extend_from_slice(&v6.octets()),
    }
    data.extend_from_slice(&from.port().to_be_bytes());
    data.extend_from_slice(&spi_i.0);
    let digest = prf::get(PrfAlgorithm::HmacSha256).prf(secret, &[&data]);
    [&[*version], digest.expose()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    #[test]
    fn a_cookie_is_bound_to_its_request_and_ages() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut jar = CookieJar::new(Instant::ZERO, &mut rng);
        let (from, other) = ("192.0.2.1:500".parse().unwrap(), "192.0.2.2:500".parse().unwrap());
        let (spi, nonce) = (IkeSpi([1; 8]), [7; 32]);
        let cookie = jar.make(Instant::ZERO, from, spi, &nonce, &mut rng);
        assert!(
            (1..=64).contains(&cookie.len()),
            "RFC 7296 §2.6: between 1 and 64 octets"
        );
        assert!(jar.check(Instant::ZERO, from, spi, &nonce, &cookie));
        assert!(!jar.check(Instant::ZERO, other, spi, &nonce, &cookie));
        assert!(!jar.check(Instant::ZERO, from, IkeSpi([2; 8]), &nonce, &cookie));
        assert!(!jar.check(Instant::ZERO, from, spi, &[8; 32], &cookie));
        assert!(!jar.check(Instant::ZERO, from, spi, &nonce, &cookie[1..]));
        jar.make(Instant::ZERO + ROTATION, other, spi, &nonce, &mut rng);
        assert!(
            jar.check(Instant::ZERO + ROTATION, from, spi, &nonce, &cookie),
            "the previous secret is still taken"
        );
        assert!(
            !jar.check(Instant::ZERO + ROTATION * 2, from, spi, &nonce, &cookie),
            "not if nobody asked for a cookie meanwhile either"
        );
        jar.make(Instant::ZERO + ROTATION * 2, other, spi, &nonce, &mut rng);
        assert!(!jar.check(Instant::ZERO + ROTATION * 2, from, spi, &nonce, &cookie));
    }
}
