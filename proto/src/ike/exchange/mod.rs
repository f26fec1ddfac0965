//! Our requests: at most one is in flight. Each variant owns exactly what its request needs; an answer consumes it and
//! says what is next.

mod auth;
mod create_child;
mod delete;
mod followup;
mod init;
mod intermediate;
mod liveness;
mod mobike;
mod offer;
mod redirect;
mod rekey_ike;
mod resume;
mod ticket;

pub use auth::{AuthExchange, OwnProof, peer_spi};
pub use create_child::{CreateChildExchange, PFS_HINT};
pub use delete::DeleteExchange;
pub use followup::Followups;
pub use init::{InitExchange, capabilities};
pub use intermediate::IntermediateExchange;
pub use liveness::LivenessExchange;
pub use mobike::MobikeExchange;
pub use redirect::RedirectExchange;
pub use rekey_ike::RekeyIkeExchange;
pub use resume::{ResumeExchange, announced};
pub use ticket::TicketExchange;

use super::jobs::Job;
use super::sa::IkeSa;
use super::shared::Shared;
use crate::wire::ExchangeType;
use crate::wire::message::{self, Response};
use std::time::Duration;

/// The request in flight.
#[derive(Clone)]
pub enum Exchange {
    /// IKE_SA_INIT (RFC 7296 §1.2).
    Init(Box<InitExchange>),
    /// IKE_SESSION_RESUME (RFC 5723 §4.3.2).
    Resume(Box<ResumeExchange>),
    /// IKE_INTERMEDIATE (RFC 9242).
    Intermediate(Box<IntermediateExchange>),
    /// IKE_AUTH (§1.2).
    Auth(Box<AuthExchange>),
    /// CREATE_CHILD_SA for a new Child SA, or to rekey one (§1.3.1, §1.3.3).
    CreateChild(Box<CreateChildExchange>),
    /// CREATE_CHILD_SA to rekey the IKE SA (§1.3.2).
    RekeyIke(Box<RekeyIkeExchange>),
    /// INFORMATIONAL with Delete (§1.4.1).
    Delete(DeleteExchange),
    /// INFORMATIONAL, empty (§2.4), or with a notify that takes no answer.
    Liveness(LivenessExchange),
    /// INFORMATIONAL that asks for a ticket (RFC 5723 §4.1).
    Ticket(TicketExchange),
    /// INFORMATIONAL that sends the peer to another gateway (RFC 5685 §5).
    Redirect(RedirectExchange),
    /// INFORMATIONAL about addresses (RFC 4555).
    Mobike(Box<MobikeExchange>),
}

/// A request to send.
pub struct Request(pub message::Request);

/// What follows from an answer.
#[must_use]
pub enum Next {
    /// Another request, at once.
    Send(Exchange, Request),
    /// Nothing: the next job's turn.
    Done,
    /// A job, after a wait (and half as much again at random).
    Later(Job, Duration),
    /// The answer proves nothing: go on waiting for another.
    KeepWaiting(Exchange),
    /// The IKE SA ends.
    Close(String),
}

impl Exchange {
    /// Begins a job; `None` if there is nothing to do for it (any more).
    pub fn begin(sa: &mut IkeSa, shared: &mut Shared, job: Job) -> Option<(Self, Request)> {
        match job {
            Job::DeleteIke => Some(DeleteExchange::ike(sa, shared)),
            Job::DeleteChild(id) => DeleteExchange::child(sa, shared, id),
            Job::DeleteStillborn(spi) => Some(DeleteExchange::stillborn(spi)),
            Job::RekeyIke => RekeyIkeExchange::begin(sa, shared),
            Job::RekeyChild(id) => CreateChildExchange::rekey(sa, shared, id),
            Job::CreateChild(name) => CreateChildExchange::create(sa, shared, &name),
            Job::CreatePair(name) => CreateChildExchange::pair(sa, shared, &name),
            Job::Liveness => {
                shared.count(sa.name(), |tally| tally.liveness_checks += 1);
                Some(LivenessExchange::begin(sa))
            }
            Job::TellToken => LivenessExchange::with_token(sa, shared),
            Job::TryUdp => sa.begin_probe(shared).then(LivenessExchange::begin_probe),
            Job::Redirect(to) => RedirectExchange::begin(sa, shared, to),
            Job::AskTicket => TicketExchange::begin(sa),
            Job::UpdateAddresses => MobikeExchange::begin(sa, shared),
        }
    }

    /// The exchange type on the wire.
    pub fn exchange_type(&self) -> ExchangeType {
        match self {
            Self::Init(_) => ExchangeType::IKE_SA_INIT,
            Self::Resume(_) => ExchangeType::IKE_SESSION_RESUME,
            Self::Intermediate(_) => ExchangeType::IKE_INTERMEDIATE,
            Self::Auth(_) => ExchangeType::IKE_AUTH,
            Self::CreateChild(exchange) if exchange.is_following_up() => ExchangeType::IKE_FOLLOWUP_KE,
            Self::RekeyIke(exchange) if exchange.is_following_up() => ExchangeType::IKE_FOLLOWUP_KE,
            Self::CreateChild(_) | Self::RekeyIke(_) => ExchangeType::CREATE_CHILD_SA,
            Self::Delete(_) | Self::Liveness(_) | Self::Ticket(_) | Self::Redirect(_) | Self::Mobike(_) => {
                ExchangeType::INFORMATIONAL
            }
        }
    }

    /// Whether it creates, rekeys or deletes a Child SA.
    pub const fn concerns_a_child(&self) -> bool {
        match self {
            Self::CreateChild(_) | Self::Delete(DeleteExchange::Child(_) | DeleteExchange::Stillborn(_)) => true,
            Self::Init(_)
            | Self::Resume(_)
            | Self::Intermediate(_)
            | Self::Auth(_)
            | Self::RekeyIke(_)
            | Self::Delete(DeleteExchange::Ike)
            | Self::Liveness(_)
            | Self::Ticket(_)
            | Self::Redirect(_)
            | Self::Mobike(_) => false,
        }
    }

    /// For people: what stands unanswered.
    pub const fn what(&self) -> &'static str {
        match self {
            Self::Init(_) => "IKE_SA_INIT",
            Self::Resume(_) => "IKE_SESSION_RESUME",
            Self::Intermediate(_) => "IKE_INTERMEDIATE",
            Self::Auth(_) => "IKE_AUTH",
            Self::CreateChild(_) => "CREATE_CHILD_SA",
            Self::RekeyIke(_) => "rekey of the IKE SA",
            Self::Delete(_) => "Delete",
            Self::Liveness(_) => "liveness check",
            Self::Ticket(_) => "request for a ticket",
            Self::Redirect(_) => "redirect",
            Self::Mobike(_) => "address update",
        }
    }

    /// An authentic answer.
    pub fn on_response(self, sa: &mut IkeSa, shared: &mut Shared, response: Response) -> Next {
        match (self, response) {
            (Self::Intermediate(exchange), Response::IkeIntermediate(reply)) => exchange.on_reply(sa, shared, reply),
            (Self::Auth(exchange), Response::IkeAuth(reply)) => exchange.on_reply(sa, shared, reply),
            (Self::CreateChild(exchange), Response::CreateChildSa(reply)) => exchange.on_reply(sa, shared, reply),
            (Self::RekeyIke(exchange), Response::CreateChildSa(reply)) => exchange.on_reply(sa, shared, reply),
            (Self::CreateChild(exchange), Response::IkeFollowupKe(reply)) => exchange.on_followup(sa, shared, reply),
            (Self::RekeyIke(exchange), Response::IkeFollowupKe(reply)) => exchange.on_followup(sa, shared, reply),
            (Self::Delete(exchange), Response::Informational(_)) => exchange.on_reply(sa, shared),
            (Self::Liveness(_), Response::Informational(reply)) => LivenessExchange::on_reply(sa, shared, &reply),
            (Self::Ticket(_), Response::Informational(reply)) => TicketExchange::on_reply(sa, shared, reply),
            (Self::Redirect(_), Response::Informational(_)) => Next::Done,
            (Self::Mobike(exchange), Response::Informational(reply)) => exchange.on_reply(sa, shared, &reply),
            (exchange, _) => {
                exchange.abandon(sa, shared);
                Next::Close("the peer answered with another exchange".to_owned())
            }
        }
    }

    /// It will not be answered: what it had reserved is given back.
    pub fn abandon(self, _sa: &mut IkeSa, shared: &mut Shared) {
        match self {
            Self::Auth(exchange) => exchange.abandon(shared),
            Self::CreateChild(exchange) => shared.spis.release(exchange.spi),
            Self::RekeyIke(exchange) => exchange.abandon(shared),
            Self::Init(_)
            | Self::Resume(_)
            | Self::Intermediate(_)
            | Self::Delete(_)
            | Self::Liveness(_)
            | Self::Ticket(_)
            | Self::Redirect(_)
            | Self::Mobike(_) => {}
        }
    }
}
