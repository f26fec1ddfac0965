//! IKE_SESSION_RESUME as initiator (RFC 5723 §4.3.2): the place of IKE_SA_INIT, without a key exchange. What goes wrong leads to
//! IKE_SA_INIT at once.

use super::auth::AuthExchange;
use super::{Exchange, InitExchange, Next, Request};
use crate::ike::keys::{Binding, IkeKeys};
use crate::ike::nat;
use crate::ike::resume::Kept;
use crate::ike::sa::IkeSa;
use crate::ike::shared::{Effect, Shared};
use crate::ike::window::Outgoing;
use crate::policy::connection::Connection;
use crate::wire::message::{self, Capabilities, ResumeReply, ResumeRequest, ResumeResponse};
use crate::wire::{Header, IkeSpi, Nonce};
use std::sync::Arc;

/// Repetitions with a cookie.
const MOST_REPETITIONS: u32 = 3;

/// Times it is sent: a peer that does not know it any more does not answer. If it does not answer IKE_SA_INIT either, it is not
/// there, and the next attempt has more patience.
const MOST_SENT: u32 = 2;

/// What IKE_SESSION_RESUME needs.
#[derive(Clone)]
pub struct ResumeExchange {
    connection: Arc<Connection>,
    kept: Box<Kept>,
    nonce: Nonce,
    cookie: Option<Vec<u8>>,
    repetitions: u32,
}

/// What both sides announce. §5: what the peer can is "From new exchange".
pub fn announced(connection: &Connection) -> Capabilities {
    Capabilities {
        fragmentation: connection.fragmentation,
        childless: true,
        // No IKE_INTERMEDIATE (RFC 9242 §4: it MAY be used), and a PPK must not be (RFC 8784 §3).
        ..Capabilities::default()
    }
}

impl ResumeExchange {
    /// The first request of a resumed SA.
    pub fn begin(
        sa: &IkeSa,
        shared: &mut Shared,
        connection: &Arc<Connection>,
        kept: Box<Kept>,
    ) -> (Exchange, Request) {
        let exchange = Self {
            connection: Arc::clone(connection),
            kept,
            nonce: shared.nonce(),
            cookie: None,
            repetitions: 0,
        };
        let request = exchange.request(sa);
        (Exchange::Resume(Box::new(exchange)), request)
    }

    fn request(&self, sa: &IkeSa) -> Request {
        let (local, remote) = (sa.path.local, sa.path.remote);
        let pretend = self.connection.force_udp_encapsulation;
        let source = nat::own(pretend, sa.spi_i, IkeSpi::ZERO, local);
        let mut capabilities = announced(&self.connection);
        capabilities.redirect = self.connection.announces_redirect(None);
        Request(message::Request::IkeSessionResume(Box::new(ResumeRequest {
            cookie: self.cookie.clone(),
            nonce: self.nonce.clone(),
            ticket: self.kept.ticket.clone(),
            nat_source: vec![source],
            nat_destination: vec![nat::digest(sa.spi_i, IkeSpi::ZERO, remote)],
            capabilities,
            other: vec![],
        })))
    }

    /// An answer, unauthenticated. A refusal that somebody else sent costs a key exchange, and no more.
    pub fn on_reply(
        mut self: Box<Self>,
        sa: &mut IkeSa,
        shared: &mut Shared,
        header: &Header,
        datagram: &[u8],
        reply: ResumeReply,
    ) -> Next {
        match reply {
            ResumeReply::Accepted(response) if header.spi_r != IkeSpi::ZERO => {
                self.accepted(sa, shared, header, datagram, &response)
            }
            ResumeReply::Accepted(_) => Next::KeepWaiting(Exchange::Resume(self)),
            ResumeReply::Cookie(cookie)
                if self.cookie.as_ref() != Some(&cookie) && self.repetitions < MOST_REPETITIONS =>
            {
                self.cookie = Some(cookie);
                self.repetitions += 1;
                sa.outgoing = Outgoing::new(0);
                let request = self.request(sa);
                Next::Send(Exchange::Resume(self), request)
            }
            ResumeReply::Cookie(_) => Next::KeepWaiting(Exchange::Resume(self)),
            // §4.3.2: "In that case, the initiator should re-initiate a regular IKE exchange."
            ResumeReply::Refused(_) => Self::begin_anew(sa, shared, &self.connection),
        }
    }

    /// There was no answer: whether it is time to go on without the ticket. It may be of use yet: the peer may not be there at
    /// all.
    pub fn is_given_up(&self, sent: u32, tries: u32) -> bool {
        sent >= if self.kept.unanswered { tries } else { MOST_SENT }
    }

    /// Goes on without the ticket.
    pub fn give_up(mut self, sa: &mut IkeSa, shared: &mut Shared) -> Next {
        self.kept.unanswered = true;
        shared.effects.push(Effect::KeepTicket {
            connection: Arc::clone(&self.connection.name),
            kept: self.kept,
        });
        Self::begin_anew(sa, shared, &self.connection)
    }

    fn begin_anew(sa: &mut IkeSa, shared: &mut Shared, connection: &Arc<Connection>) -> Next {
        sa.outgoing = Outgoing::new(0);
        match InitExchange::begin(sa, shared, connection) {
            Some((exchange, request)) => Next::Send(exchange, request),
            None => Next::Close("the configured key exchange is not available".to_owned()),
        }
    }

    fn accepted(
        self,
        sa: &mut IkeSa,
        shared: &mut Shared,
        header: &Header,
        datagram: &[u8],
        response: &ResumeResponse,
    ) -> Next {
        let Self {
            connection,
            kept,
            nonce,
            ..
        } = self;
        sa.spi_r = header.spi_r;
        sa.suite = Some(kept.suite);
        sa.init.response = datagram.to_vec();
        sa.init.nonce_i.clone_from(&nonce.0);
        sa.init.nonce_r.clone_from(&response.nonce.0);
        sa.peer_fragments = response.capabilities.fragmentation;
        sa.peer_childless = response.capabilities.childless;
        // §4.3.2: "The client's NAT traversal status SHOULD be determined anew in IKE_SESSION_RESUME."
        sa.nat = nat::detect(
            sa.spi_i,
            sa.spi_r,
            sa.path.remote,
            sa.path.local,
            &response.nat_source,
            &response.nat_destination,
        );
        sa.nat.pretending = connection.force_udp_encapsulation;
        let binding = Binding {
            ni: &nonce.0,
            nr: &response.nonce.0,
            spi_i: sa.spi_i,
            spi_r: sa.spi_r,
        };
        let keys = IkeKeys::resume(shared.provider, kept.suite, &kept.d, &binding);
        if !sa.set_keys(shared, keys) {
            return Next::Close("an algorithm is not available".to_owned());
        }
        let nat_port = shared.config.gateway.nat_port;
        if sa.nat.detection {
            sa.path.local.set_port(nat_port);
            sa.path.remote.set_port(nat_port);
        }
        sa.outgoing.answered(0);
        sa.resumes = Some(Box::new(kept.state));
        // §4.3.2: it "MUST be followed by an IKE_AUTH exchange".
        AuthExchange::begin(sa, shared, connection)
    }
}
