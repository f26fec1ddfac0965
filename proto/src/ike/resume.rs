//! Session resumption (RFC 5723): what both roles keep for it, and what becomes of a resumed IKE SA.
//!
//! The end that began the IKE SA is the client: it asks for a ticket, keeps it while the SA lives, and presents it when the peer
//! was silent for too long. The other end grants it (`ticket`) and takes it back (`endpoint::resumption`).

use super::auth::{AuthError, SignedOctets, resumption_mic};
use super::auth_lifetime::Reauthentication;
use super::error::IkeError;
use super::exchange::Exchange;
use super::jobs::Job;
use super::proven::Proven;
use super::sa::IkeSa;
use super::shared::{Effect, Shared};
use super::ticket::{Issued, LONGEST, MOST_OF_ONE, TicketState};
use crate::crypto::Secret;
use crate::policy::connection::{Connection, Target};
use crate::policy::proposal::{IkeProposal, IkeSuite};
use crate::time::{Instant, Now};
use crate::wire::message::TicketAnswer;
use crate::wire::{AuthMethod, Authentication, Identification, IkeSpi};
use std::net::IpAddr;
use std::time::Duration;
use subtle::ConstantTimeEq;

/// A ticket that is good for less is not worth its octets.
const SHORTEST: Duration = Duration::from_secs(60);

/// An IKE SA that is being resumed, and what it takes over from the one before: "from the ticket" (§5).
#[derive(Clone, Debug)]
pub struct Resumption {
    /// Our identity.
    pub own: Identification,
    /// The peer's.
    pub peer: Identification,
    /// What the peer had proven itself with.
    pub proof: Proven,
    pub post_quantum: bool,
    pub ppk: bool,
    /// When the key exchange was that the keys come of, through however many resumptions.
    pub exchanged: Instant,
    /// When to authenticate anew: resuming is not authenticating, and does not put it off.
    pub reauth: Reauthentication,
    /// As responder: the ticket, and the SPI we had chosen for the SA it is of.
    pub ticket: Option<(Issued, TicketState)>,
}

/// A client's ticket. §4.2: "the local storage MUST also include all items marked as 'from the ticket' in the table of Section 5."
#[derive(Clone)]
pub struct Kept {
    pub ticket: Vec<u8>,
    /// By either clock: one may stand still while the machine sleeps, the other may be set.
    expires: (Instant, u64),
    pub suite: IkeSuite,
    pub d: Secret,
    /// Where the peer was.
    remote: IpAddr,
    /// It was presented before, and there was no answer.
    pub unanswered: bool,
    pub state: Resumption,
}

/// A client's ticket while its IKE SA lives.
#[derive(Clone)]
pub struct OwnTicket {
    ticket: Vec<u8>,
    expires: (Instant, u64),
}

impl Kept {
    /// Whether it may be presented: §4.3.1: "A client MUST NOT present a ticket when it knows that the ticket's lifetime has
    /// expired."
    pub fn is_usable(&self, now: Now, connection: &Connection, target: &Target) -> bool {
        let lives = self.expires.0 > now.instant && self.expires.1 > now.unix;
        let proof = &self.state.proof;
        let proven =
            proof.is_of(&connection.remote.credential) && proof.good_until(&connection.remote, now.unix) >= now.unix;
        let time = self.state.reauth.due().is_none_or(|at| at > now.instant);
        let left = connection.time_without_exchange(now.instant, self.state.exchanged);
        let fresh = left.is_none_or(|left| left > Duration::ZERO);
        // "the client always resumes into the same gateway that generated the ticket": another address may be another's.
        let there = target.remote.ip() == self.remote;
        lives && proven && time && fresh && there && connection.allows_resumption(self.suite, &self.state)
    }

    /// Whether it is of no use any more, wherever the peer is.
    pub fn is_over(&self, now: Now) -> bool {
        self.expires.0 <= now.instant || self.expires.1 <= now.unix
    }
}

impl Connection {
    /// How much longer an IKE SA may live on a key exchange of then: resumptions one after the other don't add up to more than
    /// the `rekey_time` that there would be without them. `None` is for ever.
    fn time_without_exchange(&self, now: Instant, exchanged: Instant) -> Option<Duration> {
        let since = now.saturating_since(exchanged);
        self.ike_rekey_time.map(|time| time.saturating_sub(since))
    }

    /// Whether, as it is configured now, an IKE SA like this may be resumed.
    fn allows_resumption(&self, suite: IkeSuite, state: &Resumption) -> bool {
        let allows = |list: &[IkeProposal]| list.iter().any(|proposal| proposal.allows(suite));
        // It may have been rekeyed without additional key exchanges (see `rekey_proposals`): what had protected it still does.
        let plain = || state.post_quantum && allows(&IkeProposal::without_additional(&self.ike_proposals));
        self.resumption
            && self.local.id == state.own
            && self.remote.id.as_ref().is_none_or(|id| id.same(&state.peer))
            && (allows(&self.ike_proposals) || plain())
            // RFC 8784 §3: a PPK "MUST NOT be used" for the keys of a resumption: it is in SK_d, or it is not there.
            && (state.ppk || !self.ppk.required)
    }
}

impl IkeSa {
    // As client.

    /// Whether TICKET_REQUEST is sent.
    pub fn asks_for_a_ticket(&self, connection: &Connection) -> bool {
        self.ours && connection.resumption
    }

    /// The answer to TICKET_REQUEST.
    pub fn take_ticket(&mut self, shared: &Shared, answer: Option<TicketAnswer>) {
        self.ticket = None;
        self.jobs.drop_if(|job| *job == Job::AskTicket);
        self.peer_grants = matches!(answer, Some(TicketAnswer::Granted { .. } | TicketAnswer::Later));
        let now = shared.now;
        match answer {
            Some(TicketAnswer::Granted { lifetime, ticket }) => {
                let lifetime = Duration::from_secs(lifetime.into()).min(LONGEST);
                if lifetime < SHORTEST {
                    return;
                }
                let expires = (now.instant + lifetime, now.unix.saturating_add(lifetime.as_secs()));
                self.ticket = Some(OwnTicket { ticket, expires });
                // §4.1: "or when the ticket lifetime is about to expire".
                self.jobs.add(now.instant + lifetime * 3 / 4, Job::AskTicket);
            }
            // "the client MAY request a ticket later using an Informational exchange".
            Some(TicketAnswer::Later) => self.jobs.add(now.instant, Job::AskTicket),
            Some(TicketAnswer::Refused) | None => {}
        }
    }

    /// The peer was silent for too long, or has lost the IKE SA: the ticket is for now.
    pub fn keep_ticket(&mut self, shared: &mut Shared) {
        // §6.2: "when an IKE SA is deleted by the client or the gateway, the client MUST delete its stored ticket": a Delete that
        // had to wait for the silent peer is one.
        if self.jobs.has(&Job::DeleteIke) {
            return;
        }
        // The peer may have ours too: it stays good.
        self.issued = None;
        // Authenticating anew had begun, and resuming is not that.
        if self.reauth.begun {
            return;
        }
        let (Some(own), Some(connection), Some(suite)) = (self.ticket.take(), &self.connection, self.suite) else {
            return;
        };
        let (Some(keys), Some(peer), Some(proof)) = (&self.keys, &self.peer_id, &self.proof) else {
            return;
        };
        let kept = Kept {
            ticket: own.ticket,
            expires: own.expires,
            suite,
            d: keys.d.clone(),
            remote: self.path.remote.ip(),
            unanswered: false,
            state: Resumption {
                own: connection.local.id.clone(),
                peer: peer.clone(),
                proof: proof.clone(),
                post_quantum: self.post_quantum,
                ppk: self.ppk.used,
                exchanged: self.exchanged,
                reauth: self.reauth,
                ticket: None,
            },
        };
        let connection = std::sync::Arc::clone(&connection.name);
        let kept = Box::new(kept);
        shared.effects.push(Effect::KeepTicket { connection, kept });
    }

    /// IKE_SESSION_RESUME was not answered for a while: it goes on without the ticket.
    pub fn resume_timeout(&mut self, shared: &mut Shared) {
        let now = shared.now.instant;
        let late = self
            .outgoing
            .in_flight()
            .filter(|request| request.due <= now)
            .map(|request| request.sent);
        let tries = shared.config.gateway.retransmit_tries;
        let given_up = |exchange: &mut Exchange| match exchange {
            Exchange::Resume(ours) => late.is_some_and(|sent| ours.is_given_up(sent, tries)),
            _ => false,
        };
        if let Some(Exchange::Resume(ours)) = self.exchange.take_if(given_up) {
            let next = ours.give_up(self, shared);
            self.follow(shared, next);
        }
    }

    // As responder.

    /// The answer to TICKET_REQUEST: §4.1 "it MUST perform one of the following operations".
    pub fn grant_ticket(&mut self, shared: &mut Shared) -> TicketAnswer {
        self.withdraw_ticket(shared);
        let grant = self.to_grant(shared).filter(|(_, lifetime)| *lifetime >= SHORTEST);
        let Some((state, lifetime)) = grant.filter(|_| self.granted < MOST_OF_ONE) else {
            return TicketAnswer::Refused;
        };
        let Shared { now, provider, rng, .. } = shared;
        match shared.resumption.issue(*now, provider, rng, &state, lifetime) {
            Some((issued, ticket)) => {
                self.issued = Some(issued);
                self.granted += 1;
                TicketAnswer::Granted {
                    lifetime: u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX),
                    ticket,
                }
            }
            None => TicketAnswer::Refused,
        }
    }

    fn to_grant(&self, shared: &Shared) -> Option<(TicketState, Duration)> {
        // The client is whoever began.
        let connection = self.connection.as_ref().filter(|c| c.resumption && !self.ours)?;
        let proof = self.proof.clone()?;
        let now = shared.now.unix;
        let proven = proof.good_until(&connection.remote, now).saturating_sub(now);
        // §6.2: "The lifetime of the ticket sent by the gateway SHOULD be the minimum of the IKE SA lifetime (per the gateway's
        // local policy) and its re-authentication time".
        let reauth = self.reauth.end.map(|end| end.saturating_since(shared.now.instant));
        let fresh = connection.time_without_exchange(shared.now.instant, self.exchanged);
        let times = [fresh, reauth, Some(Duration::from_secs(proven))];
        let lifetime = times.into_iter().flatten().min().unwrap_or(LONGEST).min(LONGEST);
        let state = TicketState {
            connection: std::sync::Arc::clone(&connection.name),
            peer: self.peer_id.clone()?,
            own: connection.local.id.clone(),
            spi: self.own_spi(),
            suite: self.suite?,
            d: self.keys.as_ref()?.d.clone(),
            post_quantum: self.post_quantum,
            ppk: self.ppk.used,
            exchanged: self.exchanged,
            reauth_end: self.reauth.end,
            proof,
        };
        Some((state, lifetime))
    }

    /// Its ticket is not good any more.
    pub fn withdraw_ticket(&mut self, shared: &mut Shared) {
        if let Some(issued) = self.issued.take() {
            shared.resumption.withdraw(shared.now, issued);
        }
    }

    /// Whether the ticket that is presented may be used for this connection, as it is configured now.
    ///
    /// # Errors
    /// Why not, for the log.
    pub fn may_resume(shared: &Shared, connection: &Connection, state: &Resumption) -> Result<(), &'static str> {
        let Some((issued, ticket)) = &state.ticket else {
            return Err("there is none");
        };
        shared.resumption.check(*issued)?;
        shared
            .resumption
            .check_changes(shared.now, *issued, ticket, &connection.remote)?;
        if !connection.allows_resumption(ticket.suite, state) {
            return Err("the connection does not allow it");
        }
        Ok(())
    }

    // Both.

    /// Our AUTH. §4.3.3: "The value of the AUTH payload is derived in a manner similar to the usage of IKEv2 pre-shared secret
    /// authentication". Which number that method has the RFC does not say: the one that it is similar to.
    ///
    /// # Errors
    /// [`IkeError::Internal`].
    pub fn resumption_auth(&self, shared: &Shared, id: &Identification) -> Result<Authentication, IkeError> {
        let initiator = self.initiator;
        Ok(Authentication {
            method: AuthMethod::SHARED_KEY_MIC,
            data: self.resumption_mic(shared, id, initiator)?.expose().to_vec(),
        })
    }

    /// The peer's AUTH.
    ///
    /// # Errors
    /// It is wrong, or of somebody else.
    pub fn check_resumption(
        &self,
        shared: &Shared,
        id: &Identification,
        auth: Option<&Authentication>,
    ) -> Result<(), IkeError> {
        let state = self
            .resumes
            .as_deref()
            .ok_or(IkeError::Internal("nothing is resumed"))?;
        // §4.3.3: "The IDi value sent in the IKE_AUTH exchange MUST be identical to the value included in the ticket", and so
        // with IDr.
        let identical = id.id_type == state.peer.id_type && id.data == state.peer.data;
        let mic = self.resumption_mic(shared, id, !self.initiator)?;
        let right = auth.is_some_and(|auth| mic.expose().ct_eq(&auth.data).into());
        if identical && right {
            Ok(())
        } else {
            Err(IkeError::Auth(AuthError::Resumption))
        }
    }

    fn resumption_mic(&self, shared: &Shared, id: &Identification, initiator: bool) -> Result<Secret, IkeError> {
        let keys = self.keys.as_ref().ok_or(IkeError::Internal("no keys"))?;
        let (message, peer_nonce) = if initiator {
            (&self.init.request, &self.init.nonce_r)
        } else {
            (&self.init.response, &self.init.nonce_i)
        };
        let octets = SignedOctets {
            message,
            peer_nonce,
            id,
            initiator,
            intermediate: &[],
        };
        Ok(resumption_mic(shared.provider, keys, &octets)?)
    }

    /// Both are who they were: what the SA takes over.
    pub fn take_over(&mut self, shared: &mut Shared) {
        let Some(state) = self.resumes.take() else { return };
        self.resumed = true;
        self.post_quantum = state.post_quantum;
        self.ppk.used = state.ppk;
        self.exchanged = state.exchanged;
        self.proof = Some(state.proof);
        self.reauth = state.reauth;
        if let Some((issued, ticket)) = state.ticket {
            shared.resumption.withdraw(shared.now, issued);
            let spi: IkeSpi = ticket.spi;
            shared.effects.push(Effect::Resumed { old: spi });
        }
    }

    /// A resumed SA has no key exchange of its own: it is rekeyed early, so that what it protects hangs on the ticket and on the
    /// SA before for a short time only. By the client: the load of that is spread.
    pub fn rekey_early(&mut self, shared: &mut Shared, time: Duration) {
        if self.resumed && self.ours {
            let first = time / 20;
            self.rekey_at = Some(shared.now.instant + first + shared.jitter(first));
        }
    }
}
