//! Key exchanges of one negotiation as one value: KE now, ADDKE1..7 (RFC 9370) by the same door later.

use crate::crypto::{Group, KeyExchangeError, KeyExchangeInitiator, Provider, Secret};
use rand_core::CryptoRng;
use std::sync::Arc;

/// The requester's half between request and response.
#[derive(Clone)]
pub struct KeyExchanges {
    group: Group,
    initiator: Arc<dyn KeyExchangeInitiator>,
}

impl KeyExchanges {
    /// A fresh key pair; `None` if the provider lacks the group.
    #[must_use]
    pub fn start(provider: &Provider, group: Group, rng: &mut dyn CryptoRng) -> Option<Self> {
        Some(Self {
            group,
            initiator: Arc::from((provider.key_exchange)(group)?.initiate(rng)),
        })
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> Group {
        self.group
    }

    /// KEi's data.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        self.initiator.public()
    }

    /// The shared secret.
    ///
    /// # Errors
    /// [`KeyExchangeError`].
    pub fn finish(&self, peer_public: &[u8]) -> Result<Secret, KeyExchangeError> {
        self.initiator.finish(peer_public)
    }
}
