//! The requests of RFC 4555: UPDATE_SA_ADDRESSES (§3.5), further addresses (§3.6), and whether the peer receives at an
//! address (§3.7).

use super::{Exchange, Next, Request};
use crate::ike::jobs::Job;
use crate::ike::mobike::{Pending, additional, further_addresses, no_nats_allowed};
use crate::ike::reason::Reason;
use crate::ike::sa::{IkeSa, Stage};
use crate::ike::shared::Shared;
use crate::policy::sad::Path;
use crate::wire::message::{self, Informational};
use crate::wire::{Notify, NotifyType};
use std::time::Duration;

/// Octets of COOKIE2 (§4.2.5: "between 8 and 64").
const COOKIE2: usize = 16;

/// §3.9: "it SHOULD retry the operation several times using new INFORMATIONAL requests".
const MOST_UNEXPECTED_NATS: u32 = 4;

/// What such a request needs.
#[derive(Clone)]
pub struct MobikeExchange {
    /// What was asked or told.
    what: Pending,
    /// The way it went first.
    path: Path,
    cookie2: Vec<u8>,
}

impl MobikeExchange {
    /// The request for what is pending; `None` if nothing is.
    pub fn begin(sa: &mut IkeSa, shared: &mut Shared) -> Option<(Exchange, Request)> {
        let what = std::mem::take(&mut sa.mobike.pending);
        if !what.any() || !sa.mobike.enabled {
            return None;
        }
        let path = sa.path;
        let mut notifies = Vec::new();
        if what.update {
            notifies.push(Notify::new(NotifyType::UPDATE_SA_ADDRESSES, Vec::new()));
        }
        if what.announce {
            let connection = sa.connection.as_ref()?;
            sa.announced = further_addresses(connection, &shared.addresses, path.local.ip());
            if sa.announced.is_empty() {
                notifies.push(Notify::new(NotifyType::NO_ADDITIONAL_ADDRESSES, Vec::new()));
            }
            notifies.extend(additional(&sa.announced));
        }
        if what.update && sa.nat.detection {
            notifies.extend(sa.nat_detection(path));
        }
        // §3.9: "when NAT Traversal is not enabled, all messages that can update the addresses ... MUST also include a
        // NO_NATS_ALLOWED notification".
        if (what.update || what.announce) && !sa.nat.detection {
            notifies.push(no_nats_allowed(path.local, path.remote));
        }
        let random = shared.random_octets();
        let cookie2 = random[..COOKIE2].to_vec();
        notifies.push(Notify::new(NotifyType::COOKIE2, cookie2.clone()));
        let request = Informational {
            notifies,
            ..Informational::default()
        };
        let exchange = Self { what, path, cookie2 };
        Some((
            Exchange::Mobike(Box::new(exchange)),
            Request(message::Request::Informational(request)),
        ))
    }

    /// The answer.
    pub fn on_reply(self, sa: &mut IkeSa, shared: &mut Shared, reply: &Informational) -> Next {
        let now = shared.now.instant;
        // §3.7: "the original sender MUST verify that the value is the same one as sent. If the values do not match, the
        // IKE_SA MUST be closed."
        let mut cookies = reply.notifies.iter().filter(|n| n.notify_type == NotifyType::COOKIE2);
        if cookies.next().is_none_or(|cookie| cookie.data != self.cookie2) {
            let verdict = "the peer returned another COOKIE2 than it was sent: the IKE SA is closed";
            sa.tell_failure(shared, Reason::InvalidSyntax, verdict.to_owned(), vec![], vec![], None);
            sa.jobs.add(now, Job::DeleteIke);
            sa.stage = Stage::Closing;
            return Next::Done;
        }
        if sa.path != self.path {
            // "If an address change has occurred after the request was first sent, no MOBIKE processing is done for the
            // reply message because a new UPDATE_SA_ADDRESSES is going to be sent". And an answer to what was sent to
            // several addresses says nothing about any of them (§3.7).
            sa.mobike.pending.update |= self.what.update;
            sa.mobike.pending.check |= self.what.check;
            sa.jobs.add(now, Job::UpdateAddresses);
            return Next::Done;
        }
        let error = reply.notifies.iter().find(|notify| notify.notify_type.is_error());
        if let Some(error) = error {
            return self.refused(sa, shared, error.notify_type);
        }
        sa.mobike.unexpected_nats = 0;
        sa.mobike.verify(self.path.remote.ip());
        if self.what.update {
            sa.detect_nat(shared, self.path, &reply.notifies);
            sa.mobike.previous = None;
        }
        // "It updates the IPsec SAs associated with this IKE_SA with the new addresses (unless this was already done
        // earlier before sending the request".
        sa.move_children(shared, false);
        Next::Done
    }

    fn refused(self, sa: &mut IkeSa, shared: &mut Shared, error: NotifyType) -> Next {
        if error == NotifyType::UNEXPECTED_NAT_DETECTED && sa.mobike.unexpected_nats < MOST_UNEXPECTED_NATS {
            sa.mobike.unexpected_nats += 1;
            sa.mobike.pending = self.what;
            return Next::Later(Job::UpdateAddresses, Duration::from_secs(1));
        }
        let verdict = format!(
            "the peer answers {error} to our new addresses {} - {}",
            self.path.local, self.path.remote
        );
        let hint = match error {
            NotifyType::UNEXPECTED_NAT_DETECTED => "a NAT is in the way, and the peer does no NAT traversal",
            _ => "the peer's configuration does not allow this address",
        };
        sa.tell_failure(shared, error.into(), verdict, vec![], vec![], Some(hint.to_owned()));
        // "the initiator MAY select another addresses and retry the exchange, keep on using the previously used addresses,
        // or disconnect": back, as long as that address is ours.
        if let Some(previous) = sa.mobike.previous.take()
            && shared.addresses.contains(&previous.local.ip())
        {
            sa.set_path(shared, previous, true, "the peer refuses the other way");
        }
        Next::Done
    }
}
