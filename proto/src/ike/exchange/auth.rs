//! IKE_AUTH as initiator (RFC 7296 §1.2, §2.15), with the first Child SA.

use super::offer::{check_selectors, offer_selectors};
use super::{Exchange, Next, Request};
use crate::ike::auth::{Auth, SignedOctets, Wishes, announce, prove, request, verify};
use crate::ike::child::Negotiated;
use crate::ike::error::IkeError;
use crate::ike::jobs::Job;
use crate::ike::keys::Secrets;
use crate::ike::pairs::Place;
use crate::ike::sa::{IkeSa, Stage};
use crate::ike::shared::Shared;
use crate::ike::signing::For;
use crate::policy::connection::{self, Connection, StartAction};
use crate::policy::pad::UnknownPeer;
use crate::policy::proposal::EspProposal;
use crate::wire::message::{self, ChildPayloads, IkeAuthReply, IkeAuthRequest, IkeAuthResponse};
use crate::wire::{Authentication, Certificate, Notify, NotifyType, Redirect};
use std::sync::Arc;
use std::time::Duration;

/// A refused Child SA is asked for again after this.
pub const CHILD_RETRY: Duration = Duration::from_secs(30);

/// What IKE_AUTH needs.
#[derive(Clone)]
pub struct AuthExchange {
    connection: Arc<Connection>,
    /// The first child and our inbound SPI for it.
    child: Option<(Arc<connection::Child>, u32)>,
}

/// What we prove ourselves with, as far as it is there.
#[derive(Clone, Default)]
pub struct OwnProof {
    certs: Vec<Certificate>,
    auth: Option<Authentication>,
    /// The PPK_ID, if AUTH is made with a PPK (RFC 8784 §3).
    ppk_identity: Option<Vec<u8>>,
    no_ppk_auth: Option<Vec<u8>>,
}

impl AuthExchange {
    /// The request, or a wait for our signature, or the end if we can't authenticate ourselves.
    pub fn begin(sa: &mut IkeSa, shared: &mut Shared, connection: Arc<Connection>) -> Next {
        if let Some(message_id) = sa.outgoing.next_id() {
            sa.int_auth.set_auth_id(message_id);
        }
        if sa.resumes.is_some() {
            let auth = sa.resumption_auth(shared, &connection.local.id);
            return Self::proven(sa, shared, connection, OwnProof::default(), Vec::new(), auth);
        }
        match sa.use_ppk(shared, &connection) {
            Ok(id) => {
                let proof = OwnProof {
                    ppk_identity: id,
                    ..OwnProof::default()
                };
                Self::prove(sa, shared, connection, proof)
            }
            Err(error) => {
                sa.tell_error(shared, "the peer has no post-quantum preshared key for us", &error);
                Next::Close(error.to_string())
            }
        }
    }

    /// Makes AUTH, or, when that is there, NO_PPK_AUTH.
    fn prove(sa: &mut IkeSa, shared: &mut Shared, connection: Arc<Connection>, so_far: OwnProof) -> Next {
        let keys = if so_far.auth.is_some() {
            sa.keys_without_ppk(&connection)
        } else {
            sa.keys.as_ref()
        };
        let Some(keys) = keys else {
            return Next::Close("no keys".to_owned());
        };
        let id = connection.local.id.clone();
        let octets = SignedOctets {
            message: &sa.init.request,
            peer_nonce: &sa.init.nonce_r,
            id: &id,
            initiator: true,
            intermediate: &sa.int_auth.octets(),
        };
        let wishes = Wishes {
            hashes: sa.peer_hashes.as_deref(),
            methods: Some(&sa.peer_methods),
            authorities: &sa.peer_authorities,
            known: connection.remote.credential.authorities(),
            unix: shared.now.unix,
        };
        match prove(shared.provider, keys, &connection.local.credential, &octets, &wishes) {
            Ok(proof) => match proof.auth {
                Auth::Ready(auth) => Self::proven(sa, shared, connection, so_far, proof.certs, Ok(auth)),
                Auth::ToSign(unsigned) => {
                    sa.begin_signing(shared, *unsigned, connection, proof.certs, For::Ask(Box::new(so_far)));
                    Next::Done
                }
            },
            Err(error) => Self::proven(sa, shared, connection, so_far, Vec::new(), Err(IkeError::Auth(error))),
        }
    }

    /// A proof is made, or there will be none. With a PPK that may be left out another is needed: "the authentication method
    /// used for computing the authentication data MUST be the same" (RFC 8784 §3).
    pub fn proven(
        sa: &mut IkeSa,
        shared: &mut Shared,
        connection: Arc<Connection>,
        so_far: OwnProof,
        certs: Vec<Certificate>,
        auth: Result<Authentication, IkeError>,
    ) -> Next {
        let auth = match auth {
            Ok(auth) => auth,
            Err(error) => {
                sa.tell_error(shared, "we can't authenticate ourselves", &error);
                return Next::Close(error.to_string());
            }
        };
        if so_far.auth.is_some() {
            let no_ppk_auth = Some(auth.data);
            return Self::send(sa, shared, connection, OwnProof { no_ppk_auth, ..so_far });
        }
        let auth = Some(auth);
        let so_far = OwnProof { auth, certs, ..so_far };
        if sa.keys_without_ppk(&connection).is_some() {
            return Self::prove(sa, shared, connection, so_far);
        }
        Self::send(sa, shared, connection, so_far)
    }

    /// The request with our proof; a puzzle comes before it.
    pub fn send(sa: &mut IkeSa, shared: &mut Shared, connection: Arc<Connection>, proof: OwnProof) -> Next {
        if let Some(puzzle) = sa.auth_puzzle.take() {
            sa.begin_solving(shared, puzzle, Some(Box::new((connection, proof))));
            return Next::Done;
        }
        let wanted = sa.wanted.clone();
        let is_up = |child: &&Arc<connection::Child>| !shared.is_down(Some(&connection), &child.name);
        let first = connection.children.values().filter(is_up).find(|child| match &wanted {
            Some(name) => child.name == *name,
            None => child.start_action == StartAction::Start,
        });
        // RFC 6023 §3: "The initiator MUST NOT send the modified IKE_AUTH request if the notification was not present." Then a
        // Child SA has to be asked for, so any will do.
        let any = connection.children.values().next().filter(|_| !sa.peer_childless);
        let first = first.or(any).cloned();
        let child = first.and_then(|child| shared.esp_spi(None).map(|spi| (child, spi)));
        let payloads = child.as_ref().map(|(child, spi)| ChildPayloads {
            // §1.2: "the SA payloads in the IKE_AUTH exchange cannot contain ... Diffie-Hellman": no PFS for the first.
            sa: EspProposal::to_wire(&child.esp_proposals, *spi, false),
            ..offer_selectors(sa, child)
        });
        // RFC 5723 §4.3.3: "A CERT payload MUST NOT be included in this exchange", and the IDr value "sent (by the gateway, and
        // optionally by the client) in this exchange MUST also be identical to the value included in the ticket."
        let (wanted, id_r) = match &sa.resumes {
            Some(state) => (Vec::new(), Some(state.peer.clone())),
            None => (request([connection.as_ref()]), connection.remote.id.clone()),
        };
        let mut other = sa.mobike_offer(shared, &connection);
        // RFC 9593 §3.1: "Regardless of whether the notification is received", and beside CERTREQ.
        if sa.resumes.is_none() {
            other.extend(announce([connection.as_ref()]));
        }
        let request = IkeAuthRequest {
            id_i: connection.local.id.clone(),
            certs: proof.certs,
            certreqs: wanted,
            id_r,
            auth: proof.auth,
            child: payloads,
            configuration: None,
            // §2.4: "this IKE SA is the only IKE SA currently active between the authenticated identities".
            initial_contact: sa.initial_contact,
            mobike: connection.speaks_mobike(),
            ppk_identity: proof.ppk_identity,
            no_ppk_auth: proof.no_ppk_auth,
            qcd_token: sa.own_token(shared),
            ticket_request: sa.asks_for_a_ticket(&connection),
            other,
        };
        let exchange = Exchange::Auth(Box::new(Self { connection, child }));
        Next::Send(exchange, Request(message::Request::IkeAuth(Box::new(request))))
    }

    /// It will not be answered.
    pub fn abandon(self, shared: &mut Shared) {
        if let Some((_, spi)) = self.child {
            shared.spis.release(spi);
        }
    }

    /// The responder's proof, and its answer about the Child SA.
    pub fn on_reply(self, sa: &mut IkeSa, shared: &mut Shared, reply: IkeAuthReply) -> Next {
        let response = match reply {
            IkeAuthReply::Accepted(response) => *response,
            IkeAuthReply::Refused(notify) => return self.refused(sa, shared, &notify),
        };
        let settled = sa.settle_ppk(&self.connection, response.ppk);
        if settled.is_err() {
            // RFC 8784 §3: "sending the AUTHENTICATION_FAILED notification in the INFORMATIONAL exchange".
            sa.farewell = Some(NotifyType::AUTHENTICATION_FAILED);
        }
        if let Err(error) = settled.and_then(|()| self.authenticate(sa, shared, &response)) {
            // §2.21.2: the initiator deletes the SA and installs nothing.
            sa.tell_error(shared, "the peer did not authenticate itself", &error);
            self.abandon(shared);
            sa.jobs.add(shared.now.instant, Job::DeleteIke);
            sa.stage = Stage::Closing;
            return Next::Done;
        }
        // RFC 5685 §6: "the client MUST verify the gateway's AUTH payload before acting on the REDIRECT payload".
        if let Some(to) = Redirect::among(&response.other).filter(|_| self.connection.follow_redirects) {
            self.abandon(shared);
            return sa.sent_in_auth(shared, to);
        }
        let initial_contact = response.initial_contact;
        sa.peer_tokens.keep_one(response.qcd_token.as_deref());
        let agreed = self.connection.speaks_mobike() && response.mobike;
        sa.mobike.agree(agreed, true, &response.other, sa.path.remote.ip());
        sa.establish(shared, response.id_r, initial_contact);
        sa.hear_lifetime(shared, &response.other);
        let Self { connection, child } = self;
        sa.take_ticket(shared, response.ticket.filter(|_| connection.resumption));
        for other in connection
            .children
            .values()
            .filter(|other| other.start_action == StartAction::Start)
        {
            if child.as_ref().is_none_or(|(first, _)| first.name != other.name) {
                sa.jobs
                    .add(shared.now.instant, Job::CreateChild(Arc::clone(&other.name)));
            }
        }
        let Some((config, spi)) = child else { return Next::Done };
        let outcome = match response.child {
            Some(Ok(answer)) => accept(sa, shared, &config, spi, &answer),
            Some(Err(notify)) => Err((notify.notify_type, None)),
            None => Err((NotifyType::NO_PROPOSAL_CHOSEN, None)),
        };
        let Err((notify_type, error)) = outcome else {
            return Next::Done;
        };
        if error.is_none() && notify_type == NotifyType::SINGLE_PAIR_REQUIRED && sa.ask_singly(&config) {
            shared.spis.release(spi);
            sa.jobs
                .add(shared.now.instant, Job::CreateChild(Arc::clone(&config.name)));
            return Next::Done;
        }
        // §1.2: the IKE SA is up all the same.
        match &error {
            Some(error) => {
                sa.tell_error(
                    shared,
                    &format!("Child SA {}: the peer's answer is not acceptable", config.name),
                    error,
                );
                // The SPI is given back when the peer has answered that Delete.
                sa.jobs.add(shared.now.instant, Job::DeleteStillborn(spi));
            }
            None => {
                tell_child_refused(sa, shared, &config, notify_type);
                shared.spis.release(spi);
            }
        }
        Next::Later(Job::CreateChild(Arc::clone(&config.name)), CHILD_RETRY)
    }

    fn refused(self, sa: &IkeSa, shared: &mut Shared, notify: &Notify) -> Next {
        let (verdict, hint) = if notify.notify_type == NotifyType::AUTHENTICATION_FAILED {
            let us = &self.connection.local.id;
            let asked = self
                .connection
                .remote
                .id
                .as_ref()
                .map_or_else(|| "anybody".to_owned(), ToString::to_string);
            (
                format!("the peer answers AUTHENTICATION_FAILED: it does not accept us as {us}, or is not {asked}"),
                match sa.peer_methods.objection(&self.connection.local.credential) {
                    Some(objection) => objection,
                    None => "compare the keys of both ends, and our id with the one the peer expects".to_owned(),
                },
            )
        } else {
            let hint = "see the peer's log".to_owned();
            (format!("the peer answers {} to IKE_AUTH", notify.notify_type), hint)
        };
        sa.tell_failure(
            shared,
            notify.notify_type.into(),
            verdict.clone(),
            vec![],
            vec![],
            Some(hint),
        );
        self.abandon(shared);
        Next::Close(verdict)
    }

    fn authenticate(&self, sa: &mut IkeSa, shared: &Shared, response: &IkeAuthResponse) -> Result<(), IkeError> {
        // As it is now: a key may have been taken away since it was begun.
        if sa.resumes.is_some() {
            return sa.check_resumption(shared, &response.id_r, Some(&response.auth));
        }
        let connection = sa.connection.clone().unwrap_or_else(|| Arc::clone(&self.connection));
        let remote = &connection.remote;
        if let Some(expected) = remote.id.as_ref().filter(|expected| !expected.same(&response.id_r)) {
            return Err(IkeError::UnknownPeer(UnknownPeer {
                shown: response.id_r.to_string(),
                asked_for: None,
                configured: vec![format!("{}: peer {expected}", self.connection.name)],
            }));
        }
        let keys = sa.keys.as_ref().ok_or(IkeError::Internal("no keys"))?;
        let octets = SignedOctets {
            message: &sa.init.response,
            peer_nonce: &sa.init.nonce_i,
            id: &response.id_r,
            initiator: false,
            intermediate: &sa.int_auth.octets(),
        };
        let proof = verify(
            shared.provider,
            keys,
            remote,
            &octets,
            &response.auth,
            &response.certs,
            shared.now.unix,
        )?;
        sa.proof = Some(proof);
        Ok(())
    }
}

/// Takes the answer to an offer without key exchange over.
fn accept(
    sa: &mut IkeSa,
    shared: &mut Shared,
    config: &Arc<connection::Child>,
    spi_in: u32,
    answer: &ChildPayloads,
) -> Result<(), (NotifyType, Option<IkeError>)> {
    let wrong = |error: IkeError| (error.notify().notify_type, Some(error));
    let chosen = EspProposal::verify_answer(&config.esp_proposals, &answer.sa, false).map_err(|e| wrong(e.into()))?;
    check_selectors(config, (&config.local_ts, &config.remote_ts), answer).map_err(wrong)?;
    let mode = sa.answered_mode(config, answer).map_err(wrong)?;
    let aggfrag = sa.answered_aggfrag(config, answer).map_err(wrong)?;
    let spi_out = peer_spi(&chosen.peer_spi).map_err(wrong)?;
    let keys = sa.keys.as_ref().and_then(|keys| {
        keys.child(
            shared.provider,
            &chosen.suite,
            &Secrets::default(),
            &sa.init.nonce_i,
            &sa.init.nonce_r,
        )
    });
    let keys = keys.ok_or_else(|| wrong(IkeError::Internal("an algorithm is not available")))?;
    sa.install(
        shared,
        Negotiated {
            config: Arc::clone(config),
            suite: chosen.suite,
            spi_in,
            spi_out,
            local_ts: answer.ts_i.clone(),
            remote_ts: answer.ts_r.clone(),
            mode,
            takes_padding: !answer.no_tfc_padding,
            aggfrag,
            we_requested: true,
            rekeys: None,
            place: Place::default().answered(config, answer),
        },
        keys,
        true,
    );
    let asked = (config.local_ts.clone(), config.remote_ts.clone());
    let given = (answer.ts_i.clone(), answer.ts_r.clone());
    sa.note_answer(shared, config, &asked, &given, answer.additional_ts_possible);
    Ok(())
}

/// A peer's inbound SPI: four octets, not reserved (RFC 4303 §2.1).
pub fn peer_spi(octets: &[u8]) -> Result<u32, IkeError> {
    let spi = <[u8; 4]>::try_from(octets)
        .map(u32::from_be_bytes)
        .ok()
        .filter(|spi| *spi > 255);
    spi.ok_or(IkeError::Malformed(crate::wire::DecodeError::Invalid {
        what: "proposal",
        why: "the SPI is reserved",
    }))
}

/// The peer refuses a Child SA: what we wanted, for the operator.
pub fn tell_child_refused(sa: &IkeSa, shared: &mut Shared, config: &connection::Child, notify_type: NotifyType) {
    let join =
        |list: &[crate::wire::TrafficSelector]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let (wanted, hint) = match notify_type {
        NotifyType::TS_UNACCEPTABLE => (
            vec![format!("{} === {}", join(&config.local_ts), join(&config.remote_ts))],
            "make local_ts and remote_ts here mirror the peer's",
        ),
        _ => (
            config.esp_proposals.iter().map(ToString::to_string).collect(),
            "compare the ESP proposals of both ends, PFS included",
        ),
    };
    let verdict = format!("the peer refuses Child SA {} with {notify_type}", config.name);
    sa.tell_failure(
        shared,
        notify_type.into(),
        verdict,
        vec![],
        wanted,
        Some(hint.to_owned()),
    );
}
