//! Key exchanges of one negotiation as one value: KE now, ADDKE1..7 (RFC 9370) by the same door later.

use super::error::IkeError;
use super::shared::Shared;
use crate::crypto::{Group, KeyExchangeError, KeyExchangeInitiator, Provider, Secret};
use crate::wire::KeyExchange;
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

/// The responder's half, if the suite has one.
///
/// # Errors
/// [`IkeError::InvalidKe`], or the value is wrong.
pub fn respond_key_exchange(
    shared: &mut Shared,
    group: Option<Group>,
    ke: Option<&KeyExchange>,
) -> Result<(Option<KeyExchange>, Option<Secret>), IkeError> {
    let Some(group) = group else { return Ok((None, None)) };
    // RFC 7296 §1.3: a KE of another group than the one chosen is answered with INVALID_KE_PAYLOAD.
    let ke = ke
        .filter(|ke| ke.method == group.method())
        .ok_or(IkeError::InvalidKe(group))?;
    let method = (shared.provider.key_exchange)(group).ok_or(IkeError::Internal("the group is not available"))?;
    let (data, secret) = method.respond(&ke.data, &mut shared.rng)?;
    Ok((
        Some(KeyExchange {
            method: group.method(),
            data,
        }),
        Some(secret),
    ))
}
