//! Session resumption (RFC 5723): IKE_SESSION_RESUME, and the notifies that ask for a ticket and bring one.

use super::arrange::{notify, push_announcements};
use super::message::{ResumeReply, ResumeRequest, ResumeResponse, TicketAnswer};
use super::payload::{Notify, Payload};
use super::sort::{Parts, missing, need};
use super::{DecodeError, NotifyType, rules};

/// A ticket that is longer makes a message that IP has to cut (RFC 7383 §3: "It is recommended that smaller tickets be used").
const LONGEST_TICKET: usize = 2048;

impl TicketAnswer {
    /// The answer among these notifies, if there is one that can be used: it is taken out.
    pub fn take(notifies: &mut Vec<Notify>) -> Option<Self> {
        let is_one = |notify: &Notify| {
            let NotifyType(number) = notify.notify_type;
            (NotifyType::TICKET_LT_OPAQUE.0..=NotifyType::TICKET_NACK.0).contains(&number)
                && notify.notify_type != NotifyType::TICKET_REQUEST
        };
        let found = notifies.extract_if(.., |notify| is_one(notify)).next()?;
        match found.notify_type {
            NotifyType::TICKET_ACK => Some(Self::Later),
            NotifyType::TICKET_NACK => Some(Self::Refused),
            _ => {
                let (lifetime, ticket) = found.data.split_first_chunk()?;
                (1..=LONGEST_TICKET).contains(&ticket.len()).then(|| Self::Granted {
                    lifetime: u32::from_be_bytes(*lifetime),
                    ticket: ticket.to_vec(),
                })
            }
        }
    }

    /// As it is sent. §7: "the Protocol ID and the SPI Size fields MUST both be sent as 0."
    #[must_use]
    pub fn notify(&self) -> Notify {
        match self {
            Self::Granted { lifetime, ticket } => {
                let data = [&lifetime.to_be_bytes(), ticket.as_slice()].concat();
                Notify::new(NotifyType::TICKET_LT_OPAQUE, data)
            }
            Self::Later => Notify::new(NotifyType::TICKET_ACK, Vec::new()),
            Self::Refused => Notify::new(NotifyType::TICKET_NACK, Vec::new()),
        }
    }
}

pub(super) fn decode_request(payloads: Vec<Payload>) -> Result<ResumeRequest, DecodeError> {
    rules::check("IKE_SESSION_RESUME request", rules::SESSION_RESUME, &payloads)?;
    let mut parts = Parts::collect(payloads);
    parts.drop_errors();
    let (nat_source, nat_destination) = parts.nat_detection();
    Ok(ResumeRequest {
        cookie: parts.cookie()?,
        nonce: need(parts.nonce.take(), "NONCE")?,
        ticket: parts
            .data(NotifyType::TICKET_OPAQUE)
            .ok_or_else(|| missing("IKE_SESSION_RESUME request", "TICKET_OPAQUE"))?,
        nat_source,
        nat_destination,
        capabilities: parts.capabilities()?,
        other: parts.notifies,
    })
}

pub(super) fn decode_reply(payloads: Vec<Payload>) -> Result<ResumeReply, DecodeError> {
    let accepts = payloads.iter().any(|payload| matches!(payload, Payload::Nonce(_)));
    if accepts {
        rules::check("IKE_SESSION_RESUME response", rules::SESSION_RESUME, &payloads)?;
    }
    let mut parts = Parts::collect(payloads);
    // With a nonce beside it, it is a refusal all the same: some send both.
    if let Some(refused) = parts.take(NotifyType::TICKET_NACK).into_iter().next() {
        return Ok(ResumeReply::Refused(refused));
    }
    if !accepts {
        if let Some(cookie) = parts.cookie()? {
            return Ok(ResumeReply::Cookie(cookie));
        }
        let error = parts.first_error();
        return error
            .map(ResumeReply::Refused)
            .ok_or_else(|| missing("IKE_SESSION_RESUME response", "NONCE"));
    }
    let (nat_source, nat_destination) = parts.nat_detection();
    Ok(ResumeReply::Accepted(Box::new(ResumeResponse {
        nonce: need(parts.nonce.take(), "NONCE")?,
        nat_source,
        nat_destination,
        capabilities: parts.capabilities()?,
        other: parts.notifies,
    })))
}

/// Figure 4: `HDR, [N(COOKIE),] Ni, N(TICKET_OPAQUE) [,N+]`.
pub(super) fn encode_request(out: &mut Vec<Payload>, m: &ResumeRequest) {
    out.extend(m.cookie.iter().map(|cookie| notify(NotifyType::COOKIE, cookie)));
    out.push(Payload::Nonce(m.nonce.clone()));
    out.push(notify(NotifyType::TICKET_OPAQUE, &m.ticket));
    push_announcements(out, &m.nat_source, &m.nat_destination, &m.capabilities, &[], &m.other);
}

/// Figure 5: `HDR, Nr [,N+]`.
pub(super) fn encode_reply(out: &mut Vec<Payload>, reply: &ResumeReply) {
    match reply {
        ResumeReply::Accepted(m) => {
            out.push(Payload::Nonce(m.nonce.clone()));
            push_announcements(out, &m.nat_source, &m.nat_destination, &m.capabilities, &[], &m.other);
        }
        ResumeReply::Cookie(cookie) => out.push(notify(NotifyType::COOKIE, cookie)),
        ResumeReply::Refused(refused) => out.push(Payload::Notify(refused.clone())),
    }
}
