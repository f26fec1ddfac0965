//! INFORMATIONAL that asks for a ticket (RFC 5723 §4.1): after a rekey, before the one there is expires, and where the peer could
//! not give one at once.

use super::{Exchange, Next, Request};
use crate::ike::sa::IkeSa;
use crate::ike::shared::Shared;
use crate::wire::message::{self, Informational, TicketAnswer};
use crate::wire::{Notify, NotifyType};

/// Nothing is needed for it.
#[derive(Clone)]
pub struct TicketExchange;

impl TicketExchange {
    /// The request; none if tickets are not wanted any more.
    pub fn begin(sa: &IkeSa) -> Option<(Exchange, Request)> {
        let connection = sa.connection.as_ref()?;
        sa.asks_for_a_ticket(connection).then(|| {
            let request = Informational {
                notifies: vec![Notify::new(NotifyType::TICKET_REQUEST, Vec::new())],
                ..Informational::default()
            };
            let request = Request(message::Request::Informational(request));
            (Exchange::Ticket(Self), request)
        })
    }

    /// The answer. A second "later" is a no.
    pub fn on_reply(sa: &mut IkeSa, shared: &Shared, mut reply: Informational) -> Next {
        let answer = TicketAnswer::take(&mut reply.notifies);
        sa.take_ticket(shared, answer.filter(|answer| *answer != TicketAnswer::Later));
        Next::Done
    }
}
