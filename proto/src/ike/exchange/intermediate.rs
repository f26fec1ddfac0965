//! IKE_INTERMEDIATE (RFC 9242) as initiator: the additional key exchanges of the initial exchange, one after the other
//! (RFC 9370 §2.2.2), then IKE_AUTH.

use super::auth::AuthExchange;
use super::{Exchange, Next, Request};
use crate::ike::auth::PeerMethods;
use crate::ike::error::IkeError;
use crate::ike::kex::KeyExchanges;
use crate::ike::sa::IkeSa;
use crate::ike::shared::Shared;
use crate::policy::connection::Connection;
use crate::wire::message::{self, Intermediate, IntermediateReply};
use crate::wire::{DecodeError, KeyExchange};
use std::sync::Arc;

/// What the additional key exchange in flight needs.
#[derive(Clone)]
pub struct IntermediateExchange {
    connection: Arc<Connection>,
    kex: KeyExchanges,
    /// Those before it.
    done: usize,
}

impl IntermediateExchange {
    /// The next additional key exchange, or IKE_AUTH when `done` of them were all.
    pub fn begin(sa: &mut IkeSa, shared: &mut Shared, connection: Arc<Connection>, done: usize) -> Next {
        let groups = sa.suite.map(|suite| suite.additional).unwrap_or_default();
        let Some(group) = groups.iter().nth(done) else {
            return AuthExchange::begin(sa, shared, connection);
        };
        let Some(kex) = KeyExchanges::start(shared.provider, group, &mut shared.rng) else {
            return Next::Close(format!("{group} is not available"));
        };
        let request = Intermediate {
            ke: Some(KeyExchange {
                method: group.method(),
                data: kex.public().to_vec(),
            }),
            notifies: vec![],
        };
        let exchange = Exchange::Intermediate(Box::new(Self { connection, kex, done }));
        Next::Send(exchange, Request(message::Request::IkeIntermediate(request)))
    }

    /// KEr(n): the keys are made anew.
    pub fn on_reply(self, sa: &mut IkeSa, shared: &mut Shared, reply: IntermediateReply) -> Next {
        let Self { connection, kex, done } = self;
        let answer = match reply {
            IntermediateReply::Accepted(answer) => answer,
            IntermediateReply::Refused(notify) => {
                let verdict = format!("the peer answers {} to IKE_INTERMEDIATE", notify.notify_type);
                let hint = format!(
                    "see the peer's log; without -ke{}_{} it is not asked for",
                    done + 1,
                    kex.group()
                );
                sa.tell_failure(
                    shared,
                    notify.notify_type.into(),
                    verdict.clone(),
                    vec![],
                    vec![],
                    Some(hint),
                );
                return Next::Close(verdict);
            }
        };
        // RFC 9593 §3.1: the list may come here, where it can be fragmented, and nobody reads it.
        let methods = PeerMethods::read(&answer.notifies);
        if methods.said() {
            sa.peer_methods = methods;
        }
        // §2.2.2: "field in the KEi(n) and KEr(n) payloads MUST match the n-th negotiated additional key exchange."
        let ke = answer.ke.filter(|ke| ke.method == kex.group().method());
        let secret = match ke.map(|ke| kex.finish(&ke.data)) {
            Some(Ok(secret)) => secret,
            Some(Err(error)) => return Self::failed(sa, shared, &IkeError::KeyExchange(error)),
            None => {
                let error = IkeError::Malformed(DecodeError::Invalid {
                    what: "IKE_INTERMEDIATE response",
                    why: "it has no KE payload of the method that was negotiated",
                });
                return Self::failed(sa, shared, &error);
            }
        };
        let keys = sa.keys_after(shared, &secret);
        if !sa.set_keys(shared, keys) {
            return Next::Close("an algorithm is not available".to_owned());
        }
        Self::begin(sa, shared, connection, done + 1)
    }

    fn failed(sa: &IkeSa, shared: &mut Shared, error: &IkeError) -> Next {
        sa.tell_error(shared, "an additional key exchange failed", error);
        Next::Close(error.to_string())
    }
}
