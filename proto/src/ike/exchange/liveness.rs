//! The liveness check: an INFORMATIONAL, which must be answered (RFC 7296 §1.4, §2.4).

use super::{Exchange, Next, Request};
use crate::ike::jobs::Job;
use crate::ike::mobike::digests;
use crate::ike::qcd;
use crate::ike::sa::IkeSa;
use crate::ike::shared::Shared;
use crate::wire::message::{self, Informational};
use crate::wire::{Notify, NotifyType};

/// Nothing is needed for it: any authentic answer will do.
#[derive(Clone)]
pub struct LivenessExchange;

impl LivenessExchange {
    /// The request.
    pub fn begin(sa: &mut IkeSa) -> (Exchange, Request) {
        let mut request = Informational::default();
        // RFC 7296 §1.5: "it MAY send an INVALID_SPI notification of the wayward packet over that IKE SA in an
        // INFORMATIONAL exchange. The Notification Data contains the SPI of the invalid packet."
        let unknown = sa.unknown_spi.take();
        let notify = |spi: u32| Notify::new(NotifyType::INVALID_SPI, spi.to_be_bytes().to_vec());
        request.notifies.extend(unknown.map(notify));
        // RFC 4555 §3.8: "When the initiator is behind a NAT ..., it SHOULD include these notifications in DPD messages".
        if watches_the_nat(sa) {
            request.notifies.extend(sa.nat_detection(sa.path));
        }
        (
            Exchange::Liveness(Self),
            Request(message::Request::Informational(request)),
        )
    }

    /// A request that brings our token (RFC 6290 §4.3).
    pub fn with_token(sa: &IkeSa, shared: &Shared) -> Option<(Exchange, Request)> {
        let request = Informational {
            notifies: vec![qcd::as_notify(sa.own_token(shared)?)],
            ..Informational::default()
        };
        let request = Request(message::Request::Informational(request));
        Some((Exchange::Liveness(Self), request))
    }

    /// The request that finds out whether a way works: it says nothing about addresses.
    pub fn begin_probe() -> (Exchange, Request) {
        let request = message::Request::Informational(Informational::default());
        (Exchange::Liveness(Self), Request(request))
    }

    /// The answer.
    pub fn on_reply(sa: &mut IkeSa, shared: &Shared, reply: &Informational) -> Next {
        let seen_as = digests(&reply.notifies, NotifyType::NAT_DETECTION_DESTINATION_IP);
        // "If the values do not match, the IP address and/or port seen by the responder has changed, and the initiator
        // SHOULD send UPDATE_SA_ADDRESSES".
        if watches_the_nat(sa) && !seen_as.is_empty() && sa.mobike.seen_as.as_ref() != Some(&seen_as) {
            sa.mobike.pending.update = true;
            sa.jobs.add(shared.now.instant, Job::UpdateAddresses);
        }
        Next::Done
    }
}

const fn watches_the_nat(sa: &IkeSa) -> bool {
    sa.mobike.enabled && sa.mobike.decides && sa.nat.local
}
