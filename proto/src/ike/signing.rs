//! Waiting for a signature that is made elsewhere: by a token, by a thread of the caller's.
//!
//! A key may take its time, or never answer. Only the IKE SA that asked waits: as initiator before it sends its IKE_AUTH
//! request, as responder before it answers the peer's. Everything else goes on.

use super::auth::Unsigned;
use super::error::IkeError;
use super::event::{Event, SignRequest, SignTicket};
use super::exchange::{AuthExchange, OwnProof};
use super::sa::IkeSa;
use super::shared::Shared;
use crate::policy::connection::Connection;
use crate::policy::sad::Path;
use crate::time::Instant;
use crate::wire::message::IkeAuthRequest;
use crate::wire::{Certificate, Header};
use std::sync::Arc;
use std::time::Duration;

/// A key that has not signed after this is given up. A peer hardly keeps a half-open SA for longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A signature asked for.
#[derive(Clone)]
pub struct Signing {
    ticket: SignTicket,
    /// Given up after this.
    pub deadline: Instant,
    unsigned: Unsigned,
    connection: Arc<Connection>,
    certs: Vec<Certificate>,
    then: Then,
}

/// What a signature is for.
pub enum For {
    /// Our IKE_AUTH request, of which there is so much.
    Ask(Box<OwnProof>),
    /// The answer to this one.
    Answer(Box<IkeAuthRequest>),
}

#[derive(Clone)]
enum Then {
    Ask(Box<OwnProof>),
    /// The answer to the peer's, which has proven who it is.
    Answer {
        request: Box<IkeAuthRequest>,
        held: Option<Held>,
    },
}

/// The request that will be answered.
#[derive(Clone)]
pub struct Held {
    pub header: Header,
    pub digest: [u8; 32],
    pub path: Path,
}

impl IkeSa {
    /// Asks for a signature.
    pub fn begin_signing(
        &mut self,
        shared: &mut Shared,
        unsigned: Unsigned,
        connection: Arc<Connection>,
        certs: Vec<Certificate>,
        what: For,
    ) {
        shared.tickets += 1;
        let ticket = SignTicket {
            sa: self.own_spi(),
            number: shared.tickets,
        };
        shared.event(Event::Sign(SignRequest {
            ticket,
            key: Arc::clone(&unsigned.key),
            scheme: unsigned.scheme,
            octets: unsigned.octets.clone(),
        }));
        let then = match what {
            For::Ask(so_far) => Then::Ask(so_far),
            For::Answer(request) => Then::Answer { request, held: None },
        };
        self.signing = Some(Box::new(Signing {
            ticket,
            deadline: shared.now.instant + PATIENCE,
            unsigned,
            connection,
            certs,
            then,
        }));
    }

    /// Whether the peer's IKE_AUTH request waits for our signature: it is kept, to be answered then.
    pub fn hold(&mut self, request: Held) -> bool {
        match self.signing.as_mut().map(|signing| &mut signing.then) {
            Some(Then::Answer { held, .. }) => {
                *held = Some(request);
                true
            }
            _ => false,
        }
    }

    /// The signature is there, or there will be none.
    pub fn handle_signature(&mut self, shared: &mut Shared, ticket: SignTicket, signature: Result<Vec<u8>, String>) {
        let Some(signing) = self.signing.take_if(|signing| signing.ticket == ticket) else {
            return;
        };
        let Signing {
            unsigned,
            connection,
            certs,
            then,
            ..
        } = *signing;
        let auth = unsigned.complete(signature).map_err(IkeError::Auth);
        match then {
            Then::Ask(so_far) => {
                let next = AuthExchange::proven(self, shared, connection, *so_far, certs, auth);
                self.follow(shared, next);
            }
            Then::Answer { request, held } => {
                let reply = self.accept_peer(shared, &connection, *request, certs, auth);
                if let Some(held) = held {
                    self.answer(shared, &held, reply);
                }
            }
        }
        self.work(shared);
    }

    /// The key did not sign in time.
    pub fn give_up_signing(&mut self, shared: &mut Shared) {
        if let Some(signing) = &self.signing {
            let ticket = signing.ticket;
            self.handle_signature(shared, ticket, Err("it did not answer in time".to_owned()));
        }
    }
}
