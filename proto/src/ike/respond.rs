//! The peer's requests within an IKE SA: each gets exactly one answer.

mod crossing;

use super::auth::{Auth, PeerMethods, SignedOctets, Wishes, authorities, prove, verify};
use super::child::{Child, Negotiated, requires_aggfrag, wanted_aggfrag};
use super::collision::{ChildRequest, IkeRequest, Verdict, ike_verdict, verdict};
use super::error::IkeError;
use super::exchange::{Exchange, PFS_HINT, peer_spi};
use super::followup::Makes;
use super::jobs::Job;
use super::kex::respond_key_exchange;
use super::keys::Secrets;
use super::mobike::met_a_nat;
use super::ppk::PeerProof;
use super::sa::{IkeSa, Stage};
use super::shared::Shared;
use super::signing::For;
use crate::crypto::Secret;
use crate::policy::aggfrag::Aggfrag;
use crate::policy::connection::{self, Connection, StartAction};
use crate::policy::pad;
use crate::policy::proposal::EspProposal;
use crate::policy::sad::{ChildSaId, Mode, Path};
use crate::policy::spd;
use crate::wire::message::{
    ChildPayloads, CreateChildSaKind, CreateChildSaReply, CreateChildSaRequest, FollowupReply, IkeAuthReply,
    IkeAuthRequest, IkeAuthResponse, Informational, IntermediateReply, Response,
};
use crate::wire::{
    Authentication, Certificate, Delete, ExchangeType, KeyExchange, Nonce, Notify, NotifyType, ProtocolId,
    TrafficSelector,
};
use std::sync::Arc;

/// An answer, and what becomes of the IKE SA once it has left.
pub struct Reply {
    pub response: Response,
    pub close: Option<String>,
}

impl Reply {
    pub fn stay(response: Response) -> Option<Self> {
        Some(Self { response, close: None })
    }

    /// IKE_AUTH failed: nothing is left to go on with.
    fn failed(error: &IkeError) -> Self {
        let response = Response::IkeAuth(IkeAuthReply::Refused(error.notify()));
        Self {
            response,
            close: Some(error.to_string()),
        }
    }

    /// An error in a request of a kind; an INVALID_SYNTAX ends the SA (RFC 7296 §2.21.3).
    pub fn refuse(exchange: ExchangeType, error: &IkeError) -> Option<Self> {
        let notify = error.notify();
        let response = match exchange {
            ExchangeType::IKE_AUTH => Response::IkeAuth(IkeAuthReply::Refused(notify)),
            ExchangeType::CREATE_CHILD_SA => Response::CreateChildSa(CreateChildSaReply::Refused(notify)),
            ExchangeType::IKE_INTERMEDIATE => Response::IkeIntermediate(IntermediateReply::Refused(notify)),
            ExchangeType::IKE_FOLLOWUP_KE => Response::IkeFollowupKe(FollowupReply::Refused(notify)),
            ExchangeType::INFORMATIONAL => Response::Informational(Informational {
                notifies: vec![notify],
                ..Informational::default()
            }),
            _ => return None,
        };
        // An IKE_AUTH that fails leaves nothing to go on with, and so does what comes before it.
        let early = matches!(exchange, ExchangeType::IKE_AUTH | ExchangeType::IKE_INTERMEDIATE);
        let fatal = error.is_fatal() || early;
        Some(Self {
            response,
            close: fatal.then(|| error.to_string()),
        })
    }
}

/// A Child SA that we agree to as responder, and our answer about it.
struct Granted {
    new: Negotiated,
    answer: ChildPayloads,
    ke: Option<KeyExchange>,
    /// g^ir, if there was a key exchange.
    secret: Option<Secret>,
}

impl IkeSa {
    /// IKE_AUTH as responder (§1.2): who is it, is it really, and the first Child SA. `None` if our own signature has to be
    /// waited for.
    pub fn respond_auth(&mut self, shared: &mut Shared, path: Path, request: IkeAuthRequest) -> Option<Reply> {
        // §2.23: the initiator may have moved to port 4500, or behind a NAT to any.
        self.path = path;
        self.int_auth.set_auth_id(self.incoming.expected());
        let connection = match self.authenticate_peer(shared, &request) {
            Ok(()) => self.connection.clone(),
            Err(error) => {
                shared.counters.auth_failed += 1;
                // Whoever gets this far has proven nothing: it may not fill the log.
                shared.failed_by_stranger(self.failure("a peer did not authenticate itself", &error));
                return Some(Reply::failed(&error));
            }
        };
        let Some(connection) = connection else {
            return Some(Reply::failed(&IkeError::Internal("no connection")));
        };
        if self.resumes.is_some() {
            let auth = self.resumption_auth(shared, &connection.local.id);
            return Some(self.accept_peer(shared, &connection, request, Vec::new(), auth));
        }
        let signed = match &self.keys {
            Some(keys) => {
                let id = &connection.local.id;
                let authorities = authorities(&request.certreqs);
                let methods = PeerMethods::read(&request.other);
                let wishes = Wishes {
                    hashes: self.peer_hashes.as_deref(),
                    methods: Some(&methods),
                    authorities: &authorities,
                    known: connection.remote.credential.authorities(),
                    unix: shared.now.unix,
                };
                let octets = SignedOctets {
                    message: &self.init.response,
                    peer_nonce: &self.init.nonce_i,
                    id,
                    initiator: false,
                    intermediate: &self.int_auth.octets(),
                };
                prove(shared.provider, keys, &connection.local.credential, &octets, &wishes).map_err(IkeError::Auth)
            }
            None => Err(IkeError::Internal("no keys")),
        };
        Some(match signed {
            Ok(proof) => match proof.auth {
                Auth::Ready(auth) => self.accept_peer(shared, &connection, request, proof.certs, Ok(auth)),
                Auth::ToSign(unsigned) => {
                    let request = For::Answer(Box::new(request));
                    self.begin_signing(shared, *unsigned, connection, proof.certs, request);
                    return None;
                }
            },
            Err(error) => self.accept_peer(shared, &connection, request, Vec::new(), Err(error)),
        })
    }

    /// The peer has proven who it is: our own proof, and the first Child SA.
    pub fn accept_peer(
        &mut self,
        shared: &mut Shared,
        connection: &Arc<Connection>,
        request: IkeAuthRequest,
        certs: Vec<Certificate>,
        auth: Result<Authentication, IkeError>,
    ) -> Reply {
        let auth = match auth {
            Ok(auth) => auth,
            Err(error) => {
                self.tell_error(shared, "we can't authenticate ourselves", &error);
                return Reply::failed(&error);
            }
        };
        if let Some(to) = self.elsewhere(connection) {
            return self.send_away(shared, connection, certs, auth, to);
        }
        let agreed = connection.speaks_mobike() && request.mobike;
        if agreed && met_a_nat(self.path, &request.other) {
            // RFC 4555 §3.9: the peer does no NAT traversal, and there is a NAT.
            let notify = Notify::new(NotifyType::UNEXPECTED_NAT_DETECTED, Vec::new());
            return Reply {
                response: Response::IkeAuth(IkeAuthReply::Refused(notify)),
                close: Some("a NAT is in the way, which the peer does not allow".to_owned()),
            };
        }
        self.mobike.agree(agreed, false, &request.other, self.path.remote.ip());
        self.peer_tokens.keep_one(request.qcd_token.as_deref());
        let resumes = self.resumes.is_some();
        self.establish(shared, request.id_i, request.initial_contact);
        let (ni, nr) = (Nonce(self.init.nonce_i.clone()), Nonce(self.init.nonce_r.clone()));
        let child = request.child.map(|offer| {
            let granted = self.grant(shared, &offer, None, None, true).and_then(|granted| {
                self.make_child(shared, granted.new, &Secrets::default(), [&ni, &nr])?;
                Ok(granted.answer)
            });
            granted.map_err(|error| {
                // §1.2: the error stands for the Child SA; the IKE SA is up.
                self.tell_error(shared, "the first Child SA is refused", &error);
                error.notify()
            })
        });
        let mut other = if self.mobike.enabled {
            self.mobike_offer(shared, connection)
        } else {
            vec![]
        };
        other.extend(self.announce_lifetime(shared, connection));
        let response = IkeAuthResponse {
            id_r: connection.local.id.clone(),
            certs,
            auth,
            child,
            configuration: None,
            initial_contact: false,
            mobike: self.mobike.enabled,
            ppk: self.ppk.used && !resumes,
            ticket: request.ticket_request.then(|| self.grant_ticket(shared)),
            qcd_token: self.own_token(shared),
            other,
        };
        Reply {
            response: Response::IkeAuth(IkeAuthReply::Accepted(Box::new(response))),
            close: None,
        }
    }

    /// The connection by identity, then the proof, then whether its policy allows what was negotiated before it was known.
    fn authenticate_peer(&mut self, shared: &Shared, request: &IkeAuthRequest) -> Result<(), IkeError> {
        let Stage::HalfOpen(half) = &self.stage else {
            return Err(IkeError::Internal("not half open"));
        };
        if let Some(state) = &self.resumes {
            // It is one; what it is may have changed since the ticket was taken.
            let connection = half.candidates.first().cloned();
            let connection = connection.ok_or(IkeError::Internal("no connection"))?;
            Self::may_resume(shared, &connection, state).map_err(super::auth::AuthError::Ticket)?;
            if request.id_r.as_ref().is_some_and(|id| !id.same(&state.own)) {
                return Err(IkeError::Auth(super::auth::AuthError::Resumption));
            }
            self.connection = Some(connection);
            return self.check_resumption(shared, &request.id_i, request.auth.as_ref());
        }
        let connection = pad::choose(&half.candidates, &request.id_i, request.id_r.as_ref())?;
        // From here on a failure is told under the connection's name.
        self.connection = Some(Arc::clone(&connection));
        let proof = self.choose_ppk(shared, &connection, request)?;
        let keys = self.keys.as_ref().ok_or(IkeError::Internal("no keys"))?;
        let auth = match &proof {
            PeerProof::Auth => request.auth.as_ref(),
            PeerProof::WithoutPpk(auth) => Some(auth),
        };
        let auth = auth.ok_or_else(|| {
            IkeError::Auth(super::auth::AuthError::Method {
                got: "EAP".into(),
                want: "AUTH".into(),
            })
        })?;
        let octets = SignedOctets {
            message: &self.init.request,
            peer_nonce: &self.init.nonce_r,
            id: &request.id_i,
            initiator: true,
            intermediate: &self.int_auth.octets(),
        };
        let proof = verify(
            shared.provider,
            keys,
            &connection.remote,
            &octets,
            auth,
            &request.certs,
            shared.now.unix,
        )?;
        self.proof = Some(proof);
        match self.suite {
            Some(suite) if connection.ike_proposals.iter().any(|proposal| proposal.allows(suite)) => Ok(()),
            _ => Err(IkeError::Internal(
                "the connection does not allow the algorithms that were negotiated",
            )),
        }
    }

    /// CREATE_CHILD_SA (§1.3).
    pub fn respond_create_child(&mut self, shared: &mut Shared, request: CreateChildSaRequest) -> Option<Reply> {
        let refuse = |error: &IkeError| Reply::refuse(ExchangeType::CREATE_CHILD_SA, error);
        if let CreateChildSaKind::RekeyIke(offer) = &request.kind {
            return match self.respond_rekey_ike(shared, offer, &request) {
                Ok(reply) => Some(reply),
                Err(error) => {
                    if !matches!(error, IkeError::InvalidKe(_) | IkeError::TemporaryFailure) {
                        self.tell_error(shared, "rekeying the IKE SA is refused", &error);
                    }
                    refuse(&error)
                }
            };
        }
        if ike_verdict(self.ike_activity(), IkeRequest::CreateChild) == Verdict::TemporaryFailure {
            return refuse(&IkeError::TemporaryFailure);
        }
        let (offer, rekeyed) = match &request.kind {
            CreateChildSaKind::NewChild(offer) => (offer, None),
            CreateChildSaKind::RekeyChild { rekeyed, child } => (child, Some(*rekeyed)),
            CreateChildSaKind::RekeyIke(_) => return None,
        };
        let old = match rekeyed.map(|spi| self.rekey_verdict(spi)) {
            None => None,
            Some(Ok(id)) => Some(id),
            Some(Err(error)) => return refuse(&error),
        };
        match self.agree(shared, offer, request.ke.as_ref(), old, &request.nonce) {
            Ok(reply) => Reply::stay(Response::CreateChildSa(reply)),
            Err(error) => {
                if !matches!(error, IkeError::InvalidKe(_) | IkeError::MaxQueue) {
                    self.tell_child_refusal(shared, old, &error);
                }
                refuse(&error)
            }
        }
    }

    /// Makes what the peer asks for, or, with additional key exchanges, keeps it until they are done (RFC 9370 §2.2.4).
    fn agree(
        &mut self,
        shared: &mut Shared,
        offer: &ChildPayloads,
        ke: Option<&KeyExchange>,
        old: Option<ChildSaId>,
        ni: &Nonce,
    ) -> Result<CreateChildSaReply, IkeError> {
        let Granted {
            new,
            answer,
            ke,
            secret,
        } = self.grant(shared, offer, ke, old, false)?;
        let nonces = [ni.clone(), shared.nonce()];
        let [_, nonce] = nonces.clone();
        let beaten = self.note_crossing(&new, &nonces);
        let secrets = Secrets::of(secret);
        let additional = new.suite.additional;
        let link = if additional.is_empty() {
            self.complete_child(shared, new, &secrets, &nonces, &beaten)?;
            None
        } else {
            Some(self.begin_series(shared, additional, secrets, nonces, Makes::Child(Box::new(new), beaten)))
        };
        Ok(CreateChildSaReply::Child {
            child: answer,
            nonce,
            ke,
            link,
            other: vec![],
        })
    }

    /// What the peer asked for has all it needs: the pair is made.
    ///
    /// # Errors
    /// [`IkeError::Internal`]: the provider lacks an algorithm.
    pub fn complete_child(
        &mut self,
        shared: &mut Shared,
        new: Negotiated,
        secrets: &Secrets,
        nonces: &[Nonce; 2],
        beaten: &[ChildSaId],
    ) -> Result<(), IkeError> {
        let old = new.rekeys;
        let [ni, nr] = nonces;
        let id = self.make_child(shared, new, secrets, [ni, nr])?;
        if let Some(child) = self.child_mut(id) {
            child.unconfirmed = true;
        }
        if let Some(old) = old {
            self.expect_delete(shared.now.instant, old);
        }
        self.settle_crossing(shared, id, nonces, beaten);
        Ok(())
    }

    /// Whether no other peer of the connection has part of these networks behind it.
    pub fn check_claims(
        &self,
        shared: &Shared,
        local_ts: &[TrafficSelector],
        remote_ts: &[TrafficSelector],
    ) -> Result<(), IkeError> {
        let (Some(peer), Some(name)) = (&self.peer_id, self.name()) else {
            return Ok(());
        };
        match shared.claimed_by_another(&name, peer, local_ts, remote_ts) {
            Some(other) => Err(IkeError::Claimed {
                by: other.to_string(),
                wanted: remote_ts.to_vec(),
            }),
            None => Ok(()),
        }
    }

    fn make_child(
        &mut self,
        shared: &mut Shared,
        new: Negotiated,
        secrets: &Secrets,
        [ni, nr]: [&Nonce; 2],
    ) -> Result<ChildSaId, IkeError> {
        let keys = self
            .keys
            .as_ref()
            .and_then(|keys| keys.child(shared.provider, &new.suite, secrets, &ni.0, &nr.0));
        let Some(keys) = keys else {
            shared.spis.release(new.spi_in);
            return Err(IkeError::Internal("an algorithm is not available"));
        };
        Ok(self.install(shared, new, keys, true))
    }

    fn tell_child_refusal(&self, shared: &mut Shared, rekeyed: Option<ChildSaId>, error: &IkeError) {
        let Some(old) = rekeyed.and_then(|id| self.child(id)) else {
            return self.tell_error(shared, "a Child SA is refused", error);
        };
        let mut failure = self.failure(&format!("rekeying Child SA {} is refused", old.config.name), error);
        if matches!(error, IkeError::NoProposal(_)) && old.suite.group.is_none() {
            failure.hint = Some(PFS_HINT.to_owned());
        }
        shared.failed(failure);
    }

    /// Chooses a Child SA for the peer's offer.
    fn grant(
        &self,
        shared: &mut Shared,
        offer: &ChildPayloads,
        ke: Option<&KeyExchange>,
        rekeys: Option<ChildSaId>,
        in_auth: bool,
    ) -> Result<Granted, IkeError> {
        let connection = self.connection.clone().ok_or(IkeError::Internal("no connection"))?;
        self.has_room(&connection, offer.resource_info, rekeys.is_some())?;
        let old = rekeys.and_then(|id| self.child(id));
        let only = old.map(|child| Arc::clone(&child.config));
        let in_use = old.map(|child| (child.entry.local_ts.clone(), child.entry.remote_ts.clone()));
        let choice = spd::choose_child(&connection, only.as_deref(), &offer.ts_r, &offer.ts_i);
        // §2.9: "there may be several subsets that are acceptable but their union is not".
        let more_possible = only.is_none()
            && choice
                .as_ref()
                .is_some_and(|choice| spd::has_more(&connection, choice, &offer.ts_r, &offer.ts_i));
        let spd::Choice {
            child: config,
            local_ts,
            remote_ts,
        } = choice.ok_or_else(|| IkeError::TsUnacceptable {
            offered_remote: offer.ts_i.clone(),
            offered_local: offer.ts_r.clone(),
            wanted: spd::in_words(&connection),
        })?;
        // §2.9.2: a rekey does not narrow below what is in use.
        let (local_ts, remote_ts) = in_use
            .filter(|(local, remote)| {
                crate::policy::selector::is_subset(local, &offer.ts_r)
                    && crate::policy::selector::is_subset(remote, &offer.ts_i)
            })
            .unwrap_or((local_ts, remote_ts));
        self.check_claims(shared, &local_ts, &remote_ts)?;
        let selectors = (&local_ts[..], &remote_ts[..]);
        let (place, model) = self.grant_place(&config, selectors, offer.resource_info, old)?;
        let owner = self.owner_for(shared, &config, selectors, place.resource);
        // RFC 9347 §5.1: the two notifies "MUST NOT be combined": who sends both gets tunnel mode without.
        let wanted = wanted_aggfrag(&config, &self.path);
        let aggfrag = Aggfrag::agree(wanted, offer.aggfrag.filter(|_| !offer.transport_mode));
        if aggfrag.is_none() && requires_aggfrag(&config) {
            return Err(IkeError::NoAggfrag);
        }
        let ke_group = ke.and_then(|ke| crate::crypto::Group::from_method(ke.method));
        // §1.2: IKE_AUTH has no KE payload, so no group either; CREATE_CHILD_SA has what the proposals say.
        let like_it = model.as_ref().map(|model| model.proposals(&config.esp_proposals));
        let proposals = like_it.as_deref().unwrap_or(&config.esp_proposals);
        let chosen = EspProposal::choose(proposals, &offer.sa, !in_auth, ke_group)?;
        let spi_out = peer_spi(&chosen.peer_spi)?;
        let (ke_answer, secret) = respond_key_exchange(shared, chosen.suite.group, ke)?;
        let spi_in = shared.esp_spi(owner).ok_or(IkeError::Internal("all SPIs are in use"))?;
        let mut proposal = chosen.answer;
        proposal.spi = spi_in.to_be_bytes().to_vec();
        // §1.3.1: "If the request is accepted, the response MUST also include a notification of type
        // USE_TRANSPORT_MODE." Else it is tunnel mode.
        let transport = offer.transport_mode && self.transport_fits(&config, &local_ts, &remote_ts);
        let answer = ChildPayloads {
            sa: crate::wire::SecurityAssociation {
                proposals: vec![proposal],
            },
            ts_i: remote_ts.clone(),
            ts_r: local_ts.clone(),
            transport_mode: transport,
            no_tfc_padding: false,
            non_first_fragments: false,
            // RFC 9347 §5.1: "If the request is accepted, then the response MUST also include a notification of type
            // USE_AGGFRAG."
            aggfrag: aggfrag.as_ref().map(|agreed| agreed.iptfs.flags()),
            // RFC 9611 §3: "A responder that is willing to have multiple Child SAs for the same Traffic Selectors will respond by
            // also adding the SA_RESOURCE_INFO notify payload".
            resource_info: offer.resource_info && config.pairs > 1,
            additional_ts_possible: more_possible,
        };
        let config: Arc<connection::Child> = config;
        let new = Negotiated {
            config,
            suite: chosen.suite,
            spi_in,
            spi_out,
            local_ts,
            remote_ts,
            mode: if transport { Mode::Transport } else { Mode::Tunnel },
            takes_padding: !offer.no_tfc_padding,
            aggfrag,
            we_requested: false,
            rekeys,
            place,
        };
        if let Some(Err(error)) = model.map(|model| model.check(&new)) {
            shared.spis.release(new.spi_in);
            return Err(error);
        }
        Ok(Granted {
            new,
            answer,
            ke: ke_answer,
            secret,
        })
    }

    /// INFORMATIONAL (§1.4): always answered.
    pub fn respond_informational(&mut self, shared: &mut Shared, path: Path, request: &Informational) -> Reply {
        // RFC 6290 §4.4: "A token taker MUST accept such gratuitous QCD_TOKEN notifications as long as they are carried in
        // protected exchanges."
        self.peer_tokens.learn(&request.notifies);
        self.hear_lifetime(shared, &request.notifies);
        self.hear_redirect(shared, &request.notifies);
        let activity = self.ike_activity();
        let proceeds = |request| matches!(ike_verdict(activity, request), Verdict::Proceed | Verdict::ProceedAlone);
        if request.deletes.contains(&Delete::Ike) && proceeds(IkeRequest::Delete) {
            // §1.4.1: "an empty INFORMATIONAL response"; the children go with it.
            let response = Response::Informational(Informational::default());
            // What the operator brought up by hand stays wanted: only what says so is let go.
            let lets_go = |child: &Child| {
                child.config.start_action == StartAction::Start && child.config.close_action != StartAction::Start
            };
            self.let_go = !self.children.is_empty() && self.children.iter().all(lets_go);
            return Reply {
                response,
                close: Some("the peer deleted it".to_owned()),
            };
        }
        let mut spis = Vec::new();
        for delete in request.deletes.iter().filter(|_| proceeds(IkeRequest::DeleteChild)) {
            let Delete::Children {
                protocol: ProtocolId::ESP,
                spis: theirs,
            } = delete
            else {
                continue;
            };
            for spi in theirs {
                match (
                    verdict(self.activity(*spi), ChildRequest::Delete),
                    self.child_by_peer_spi(*spi).map(|c| c.id()),
                ) {
                    (Verdict::Proceed, Some(id)) => {
                        // §1.4.1: the answer names "the paired SA": our inbound SPI.
                        spis.extend(self.child(id).map(|child| child.entry.inbound.spi));
                        self.jobs
                            .drop_if(|job| matches!(job, Job::DeleteChild(x) | Job::RekeyChild(x) if *x == id));
                        self.end_child(shared, id, true, "the peer deleted it");
                    }
                    // Crossing deletes: our own answer closes it.
                    _ => {
                        shared.counters.unexpected += 1;
                        if let Some(Exchange::CreateChild(ours)) = &mut self.exchange {
                            ours.note_deleted(*spi);
                        }
                    }
                }
            }
        }
        let deletes = if spis.is_empty() {
            vec![]
        } else {
            vec![Delete::Children {
                protocol: ProtocolId::ESP,
                spis,
            }]
        };
        let asks = request
            .notifies
            .iter()
            .any(|notify| notify.notify_type == NotifyType::TICKET_REQUEST);
        let ticket = asks.then(|| self.grant_ticket(shared).notify());
        let mut notifies = self.respond_mobike(shared, path, request);
        notifies.extend(ticket);
        let response = Response::Informational(Informational {
            deletes,
            notifies,
            ..Informational::default()
        });
        Reply { response, close: None }
    }
}
