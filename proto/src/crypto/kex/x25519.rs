//! Curve25519 (RFC 7748, 8031).

use crate::crypto::{Group, KeyExchange, KeyExchangeError, KeyExchangeInitiator, Secret};
use rand_core::CryptoRng;
use x25519_dalek::{PublicKey, StaticSecret};

pub struct Curve25519;

struct Initiator {
    private: StaticSecret,
    public: [u8; 32],
}

impl KeyExchange for Curve25519 {
    fn group(&self) -> Group {
        Group::Curve25519
    }

    fn public_len(&self) -> usize {
        32
    }

    fn initiate(&self, rng: &mut dyn CryptoRng) -> Box<dyn KeyExchangeInitiator> {
        let private = StaticSecret::random_from_rng(rng);
        let public = PublicKey::from(&private).to_bytes();
        Box::new(Initiator { private, public })
    }

    fn respond(&self, peer_public: &[u8], rng: &mut dyn CryptoRng) -> Result<(Vec<u8>, Secret), KeyExchangeError> {
        let own = self.initiate(rng);
        let secret = own.finish(peer_public)?;
        Ok((own.public().to_vec(), secret))
    }
}

impl KeyExchangeInitiator for Initiator {
    fn public(&self) -> &[u8] {
        &self.public
    }

    fn finish(&self, peer_public: &[u8]) -> Result<Secret, KeyExchangeError> {
        let peer: [u8; 32] = peer_public.try_into().map_err(|_| KeyExchangeError::Length {
            want: 32,
            have: peer_public.len(),
        })?;
        let shared = self.private.diffie_hellman(&PublicKey::from(peer));
        // An all-zero secret comes of a point of low order (RFC 7748 §6.1): nobody's key.
        if !shared.was_contributory() {
            return Err(KeyExchangeError::InvalidPublic);
        }
        Ok(Secret::new(shared.as_bytes().to_vec()))
    }
}
