//! INFORMATIONAL with REDIRECT (RFC 5685 §5): the peer of an SA that is up is sent to another gateway.

use super::{Exchange, Request};
use crate::ike::jobs::Job;
use crate::ike::sa::IkeSa;
use crate::ike::shared::Shared;
use crate::wire::message::{self, Informational};
use crate::wire::{GatewayIdentity, Redirect};

/// Nothing is needed for it.
#[derive(Clone)]
pub struct RedirectExchange;

impl RedirectExchange {
    /// The request. §5: "The gateway MUST NOT include any nonce data in the REDIRECT payload".
    ///
    /// The peer deletes the SA when it has another; "The gateway MAY also decide to delete the security associations without any
    /// signaling from the client ...; however, it should allow sufficient time for the client to set up the required security
    /// associations with the new security gateway. This time period should be configurable on the gateway." That is queued now
    /// and not with the answer: if the peer rekeys the SA meanwhile, it moves to the new one.
    pub fn begin(sa: &mut IkeSa, shared: &mut Shared, to: GatewayIdentity) -> Option<(Exchange, Request)> {
        let connection = sa.connection.clone().filter(|_| sa.can_be_sent(&to))?;
        sa.tell_sent_away(shared, &connection, &to);
        let end = shared.now.instant + shared.config.gateway.redirect_timeout;
        sa.jobs.add(end, Job::DeleteIke);
        let nonce = Vec::new();
        let request = Informational {
            notifies: vec![Redirect { to, nonce }.notify()],
            ..Informational::default()
        };
        let request = Request(message::Request::Informational(request));
        Some((Exchange::Redirect(Self), request))
    }
}
