//! IKE_INTERMEDIATE (RFC 9242) as responder, and what both sides do with an additional shared secret (RFC 9370 §2.2.2).

use super::auth::announce;
use super::error::IkeError;
use super::keys::{Binding, IkeKeys, Secrets};
use super::respond::Reply;
use super::sa::{IkeSa, Stage};
use super::shared::Shared;
use crate::crypto::Secret;
use crate::wire::message::{Intermediate, IntermediateReply, Response};
use crate::wire::{DecodeError, ExchangeType, KeyExchange};
use std::sync::Arc;

impl IkeSa {
    /// `SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr)`, and all keys of it: as in a rekey, with the nonces and SPIs of the
    /// initial exchange.
    pub fn keys_after(&self, shared: &Shared, secret: &Secret) -> Option<IkeKeys> {
        let keys = self.keys.as_ref()?;
        let binding = Binding {
            ni: &self.init.nonce_i,
            nr: &self.init.nonce_r,
            spi_i: self.spi_i,
            spi_r: self.spi_r,
        };
        keys.rekey(
            shared.provider,
            keys.suite,
            &Secrets::of(Some(secret.clone())),
            &binding,
        )
    }

    /// Whether, before IKE_AUTH, an additional key exchange is still to come.
    pub fn awaits_intermediate(&self) -> bool {
        let Stage::HalfOpen(half) = &self.stage else {
            return false;
        };
        self.suite
            .is_some_and(|suite| suite.additional.iter().nth(half.additional_done).is_some())
    }

    /// KEi(n): answered with KEr(n) under the keys as they are; the new ones hold once the answer is sealed.
    pub fn respond_intermediate(&mut self, shared: &mut Shared, request: Intermediate) -> Option<Reply> {
        match self.additional_key_exchange(shared, request) {
            Ok(answer) => Some(Reply {
                response: Response::IkeIntermediate(IntermediateReply::Accepted(answer)),
                close: None,
            }),
            Err(error) => {
                shared.failed_by_stranger(self.failure("an additional key exchange failed", &error));
                Reply::refuse(ExchangeType::IKE_INTERMEDIATE, &error)
            }
        }
    }

    fn additional_key_exchange(
        &mut self,
        shared: &mut Shared,
        request: Intermediate,
    ) -> Result<Intermediate, IkeError> {
        let wrong = IkeError::Malformed(DecodeError::Invalid {
            what: "IKE_INTERMEDIATE request",
            why: "it has no KE payload of the method that was negotiated",
        });
        let done = match &self.stage {
            Stage::HalfOpen(half) => half.additional_done,
            _ => return Err(IkeError::Internal("not half open")),
        };
        let group = self.suite.and_then(|suite| suite.additional.iter().nth(done));
        let group = group.ok_or_else(|| wrong.clone())?;
        // §2.2.2: "field in the KEi(n) and KEr(n) payloads MUST match the n-th negotiated additional key exchange."
        let ke = request.ke.filter(|ke| ke.method == group.method()).ok_or(wrong)?;
        let method = (shared.provider.key_exchange)(group).ok_or(IkeError::Internal("the method is not available"))?;
        let (data, secret) = method.respond(&ke.data, &mut shared.rng)?;
        let keys = self.keys_after(shared, &secret);
        let keys = keys.ok_or(IkeError::Internal("an algorithm is not available"))?;
        // RFC 9593 §3.1: "it is RECOMMENDED that the responder use the last IKE_INTERMEDIATE exchange (the one just before
        // IKE_AUTH) to send the list of supported authentication methods."
        let last = self
            .suite
            .is_none_or(|suite| suite.additional.iter().nth(done + 1).is_none());
        let mut notifies = Vec::new();
        if let Stage::HalfOpen(half) = &mut self.stage {
            if last {
                notifies.extend(announce(half.candidates.iter().map(Arc::as_ref)));
            }
            half.additional_done += 1;
            half.next_keys = Some(keys);
        }
        Ok(Intermediate {
            ke: Some(KeyExchange {
                method: group.method(),
                data,
            }),
            notifies,
        })
    }

    /// After the answer was sealed.
    pub fn take_next_keys(&mut self, shared: &mut Shared) {
        if let Stage::HalfOpen(half) = &mut self.stage
            && let Some(keys) = half.next_keys.take()
        {
            self.set_keys(shared, Some(keys));
        }
    }
}
