//! CREATE_CHILD_SA as requester: a new Child SA, or the rekey of one (RFC 7296 §1.3.1, §1.3.3).

use super::auth::{CHILD_RETRY, peer_spi, tell_child_refused};
use super::followup::{FollowupFailure, Step};
use super::offer::{check_selectors, offer_selectors};
use super::{Exchange, Followups, Next, Request};
use crate::crypto::{Group, Secret};
use crate::ike::child::{ChildState, Negotiated};
use crate::ike::collision::Crossing;
use crate::ike::error::IkeError;
use crate::ike::jobs::Job;
use crate::ike::kex::KeyExchanges;
use crate::ike::keys::Secrets;
use crate::ike::pairs::{Further, Model, Place};
use crate::ike::parts::Offer;
use crate::ike::sa::IkeSa;
use crate::ike::shared::Shared;
use crate::policy::connection;
use crate::policy::proposal::EspProposal;
use crate::policy::sad::{ChildName, ChildSaId, Mode};
use crate::policy::selector::meet;
use crate::wire::message::{
    self, ChildPayloads, CreateChildSaKind, CreateChildSaReply, CreateChildSaRequest, FollowupReply,
};
use crate::wire::{KeMethod, KeyExchange, Nonce, Notify, NotifyType};
use std::sync::Arc;

/// RFC 7296 §1.2: the first Child SA has no key exchange of its own, whatever the proposals say.
pub const PFS_HINT: &str = "the first Child SA takes its keys from the IKE SA, so PFS is compared for the first time now: give \
                            the esp_proposals of both ends the same key exchange group, or none at both ends";

/// Groups tried, at the peer's wish, before it is taken for broken.
const MOST_REPETITIONS: u32 = 3;

/// What CREATE_CHILD_SA for a Child SA needs.
#[derive(Clone)]
pub struct CreateChildExchange {
    config: Arc<connection::Child>,
    /// Our inbound SPI for the new pair.
    pub spi: u32,
    kex: Option<KeyExchanges>,
    nonce: Nonce,
    /// The pair it rekeys.
    pub rekeys: Option<ChildSaId>,
    /// Another pair beside this one (RFC 9611).
    beside: Option<Box<Model>>,
    place: Place,
    /// What is offered.
    proposals: Vec<EspProposal>,
    /// TSi and TSr of the offer.
    selectors: Offer,
    /// The answer had ADDITIONAL_TS_POSSIBLE.
    more_possible: bool,
    /// The peer rekeyed the same pair meanwhile, or made one for the same child.
    pub crossing: Option<Crossing<ChildSaId>>,
    /// What the peer deleted, by its inbound SPIs, while our request is in flight, and we don't know: perhaps the pair that
    /// its answer is about, which then comes late.
    deleted: Vec<u32>,
    repetitions: u32,
    /// It was answered: what was agreed on, and the key exchanges that are still to be done for it (RFC 9370 §2.2.4).
    following: Option<Box<(Negotiated, Followups)>>,
}

/// Deletes of unknown pairs that are remembered during a request.
const MOST_DELETED: usize = 8;

impl CreateChildExchange {
    /// For a configured child that has no pair.
    pub fn create(sa: &IkeSa, shared: &mut Shared, name: &ChildName) -> Option<(Exchange, Request)> {
        let config = sa.connection.as_ref()?.children.get(name)?;
        if shared.is_down(sa.connection.as_deref(), name) {
            return None;
        }
        sa.next_offer(config)?;
        Self::begin(shared, Arc::clone(config), None, None, (None, 0), sa)
    }

    /// For one that is up, and is to have further pairs (RFC 9611 §3).
    pub fn pair(sa: &IkeSa, shared: &mut Shared, name: &ChildName) -> Option<(Exchange, Request)> {
        let config = sa.connection.as_ref()?.children.get(name)?;
        if shared.is_down(sa.connection.as_deref(), name) {
            return None;
        }
        let model = Box::new(sa.to_be_joined(config)?);
        Self::begin(shared, Arc::clone(config), None, Some(model), (None, 0), sa)
    }

    /// For a pair that is to be replaced.
    pub fn rekey(sa: &IkeSa, shared: &mut Shared, id: ChildSaId) -> Option<(Exchange, Request)> {
        // One that the peer rekeyed already is the peer's to delete (§2.8).
        let child = sa
            .child(id)
            .filter(|child| child.state == ChildState::Installed && !sa.is_replaced(id))?;
        Self::begin(shared, Arc::clone(&child.config), Some(id), None, (None, 0), sa)
    }

    fn begin(
        shared: &mut Shared,
        config: Arc<connection::Child>,
        rekeys: Option<ChildSaId>,
        beside: Option<Box<Model>>,
        (group, repetitions): (Option<Group>, u32),
        sa: &IkeSa,
    ) -> Option<(Exchange, Request)> {
        let proposals = match &beside {
            Some(model) => model.proposals(&config.esp_proposals),
            None => config.esp_proposals.clone(),
        };
        let first = proposals.first()?;
        let group = group.or_else(|| first.groups.first().copied());
        let kex = match group {
            Some(group) => Some(KeyExchanges::start(shared.provider, group, &mut shared.rng)?),
            None => None,
        };
        // §2.9.2: "the new SA MUST NOT have narrower selectors than the original": those in use are the offer.
        let old = rekeys.and_then(|id| sa.child(id));
        let selectors = match (old, &beside) {
            (Some(old), _) => (old.entry.local_ts.clone(), old.entry.remote_ts.clone()),
            (None, Some(model)) => (model.local_ts.clone(), model.remote_ts.clone()),
            (None, None) => sa.next_offer(&config)?,
        };
        let in_use = (&selectors.0[..], &selectors.1[..]);
        let place = Place {
            resource: old.map_or_else(|| sa.free_place(&config, in_use), |old| old.entry.resource),
            further: match (old, &beside) {
                (Some(old), _) => old.further,
                (None, Some(_)) => Further::Ours,
                (None, None) => Further::No,
            },
        };
        let owner = sa.owner_for(shared, &config, in_use, place.resource);
        let spi = shared.esp_spi(owner)?;
        let nonce = shared.nonce();
        let exchange = Self {
            config,
            spi,
            kex,
            nonce,
            rekeys,
            beside,
            place,
            proposals,
            selectors,
            more_possible: false,
            crossing: None,
            deleted: Vec::new(),
            repetitions,
            following: None,
        };
        let request = exchange.request(sa);
        Some((Exchange::CreateChild(Box::new(exchange)), request))
    }

    /// The peer deleted a pair that we don't know.
    pub fn note_deleted(&mut self, spi: u32) {
        if self.deleted.len() < MOST_DELETED {
            self.deleted.push(spi);
        }
    }

    /// Whether it was answered, and additional key exchanges are under way.
    pub const fn is_following_up(&self) -> bool {
        self.following.is_some()
    }

    /// As a further pair: beside which, and in which place.
    pub fn further_place(&self) -> Option<(&Model, u16)> {
        Some((self.beside.as_deref()?, self.place.resource))
    }

    /// Whether it asks for some of the traffic of this pair, and not beside one that is there (RFC 9611), which crosses nothing.
    pub fn is_first_for(&self, pair: &Negotiated) -> bool {
        let about = meet(
            (&self.selectors.0, &self.selectors.1),
            (&pair.local_ts, &pair.remote_ts),
        );
        about && self.beside.is_none() && self.config.name == pair.config.name
    }

    /// The child's name.
    pub fn name(&self) -> &ChildName {
        &self.config.name
    }

    fn request(&self, sa: &IkeSa) -> Request {
        let mut child = ChildPayloads {
            sa: EspProposal::to_wire(&self.proposals, self.spi, true),
            ts_i: self.selectors.0.clone(),
            ts_r: self.selectors.1.clone(),
            ..offer_selectors(sa, &self.config)
        };
        if let Some(model) = &self.beside {
            child.transport_mode &= model.mode == Mode::Transport;
            child.aggfrag = child.aggfrag.filter(|_| model.aggfrag.is_some());
        }
        let old = self.rekeys.and_then(|id| sa.child(id));
        let kind = match old {
            Some(old) => CreateChildSaKind::RekeyChild {
                rekeyed: old.entry.inbound.spi,
                child,
            },
            None => CreateChildSaKind::NewChild(child),
        };
        let ke = self.kex.as_ref().map(|kex| KeyExchange {
            method: kex.group().method(),
            data: kex.public().to_vec(),
        });
        let request = CreateChildSaRequest {
            kind,
            nonce: self.nonce.clone(),
            ke,
            other: vec![],
        };
        Request(message::Request::CreateChildSa(Box::new(request)))
    }

    /// The answer.
    pub fn on_reply(mut self, sa: &mut IkeSa, shared: &mut Shared, reply: CreateChildSaReply) -> Next {
        if self.beside.is_some() {
            sa.end_contest(&self.config.name);
        }
        match reply {
            CreateChildSaReply::Child {
                child, nonce, ke, link, ..
            } => self.accepted(sa, shared, &child, nonce, ke.as_ref(), link),
            CreateChildSaReply::Refused(notify) => self.refused(sa, shared, &notify),
            CreateChildSaReply::Ike { .. } => {
                shared.spis.release(self.spi);
                self.crossing = None;
                Next::Close("the peer answered the request for a Child SA with an IKE SA".to_owned())
            }
        }
    }

    fn accepted(
        mut self,
        sa: &mut IkeSa,
        shared: &mut Shared,
        answer: &ChildPayloads,
        nonce: Nonce,
        ke: Option<&KeyExchange>,
        link: Option<Vec<u8>>,
    ) -> Next {
        let (new, first) = match self.negotiated(sa, answer, ke) {
            Ok(agreed) => agreed,
            Err(error) => return self.not_acceptable(sa, shared, &error, link.is_none()),
        };
        self.more_possible = answer.additional_ts_possible;
        let additional = new.suite.additional;
        if additional.is_empty() {
            return self.complete(sa, shared, new, &Secrets::of(first), &nonce);
        }
        // RFC 9370 §2.2.4: "because there is nothing to delete yet, the initiator of this exchange just stops the rekeying
        // process, and it MUST NOT initiate the IKE_FOLLOWUP_KE exchange."
        if self.loses(&nonce) {
            sa.busy = None;
            shared.spis.release(self.spi);
            sa.leave_to_series(self.again());
            return Next::Done;
        }
        if self.crossing.is_some() {
            // The peer stops likewise.
            let job = self.again();
            sa.drop_series(shared, |series| series.makes.job() == job);
            self.outdo(sa);
        }
        match Followups::begin(shared, additional, link, nonce, first) {
            Ok(followups) => self.follow_up(new, followups),
            Err(error) => self.not_acceptable(sa, shared, &error, false),
        }
    }

    /// The next key exchange.
    fn follow_up(mut self, new: Negotiated, followups: Followups) -> Next {
        let request = followups.request();
        self.following = Some(Box::new((new, followups)));
        Next::Send(Exchange::CreateChild(Box::new(self)), request)
    }

    /// The answer to one of the key exchanges that follow.
    pub fn on_followup(mut self, sa: &mut IkeSa, shared: &mut Shared, reply: FollowupReply) -> Next {
        let Some((new, followups)) = self.following.take().map(|following| *following) else {
            shared.spis.release(self.spi);
            return Next::Close("the peer answered with another exchange".to_owned());
        };
        match followups.on_reply(shared, reply) {
            Ok(Step::Next(followups)) => self.follow_up(new, followups),
            Ok(Step::Complete(secrets, nonce)) => self.complete(sa, shared, new, &secrets, &nonce),
            Err(FollowupFailure::Wrong { error, last }) => self.not_acceptable(sa, shared, &error, last),
            Err(FollowupFailure::Refused(notify)) => {
                shared.spis.release(self.spi);
                if self.rekeys.is_some_and(|id| sa.child(id).is_none()) {
                    // The peer deleted what was to be rekeyed: what is to come of that was decided then.
                    return Next::Done;
                }
                sa.followup_refused(shared, &format!("Child SA {}", self.config.name), &notify, self.again())
            }
        }
    }

    /// §2.8.1: both rekeyed the same pair. The nonces decide, whatever has become of the peer's pair since.
    fn loses(&self, nonce: &Nonce) -> bool {
        let theirs = self.crossing.as_ref();
        theirs.is_some_and(|theirs| theirs.beats(&self.nonce, nonce))
    }

    /// All is agreed on: the pair is made.
    fn complete(
        self,
        sa: &mut IkeSa,
        shared: &mut Shared,
        mut new: Negotiated,
        secrets: &Secrets,
        nonce: &Nonce,
    ) -> Next {
        let keys = sa
            .keys
            .as_ref()
            .and_then(|keys| keys.child(shared.provider, &new.suite, secrets, &self.nonce.0, &nonce.0));
        let Some(keys) = keys else {
            return self.not_acceptable(sa, shared, &IkeError::Internal("an algorithm is not available"), true);
        };
        new.rekeys = self.rekeys.filter(|id| sa.child(*id).is_some());
        (sa.busy, sa.forgotten) = (None, 0);
        let redundant = self.loses(nonce);
        if self.deleted.contains(&new.spi_out) {
            return self.deleted_before(sa, shared, redundant);
        }
        let id = sa.install(shared, new, keys, !redundant);
        if self.crossing.is_none()
            && self.rekeys.is_none()
            && self.beside.is_none()
            && let Some(child) = sa.child_mut(id)
        {
            child.contest = (&self.nonce.0).min(&nonce.0).clone().into();
        }
        // One that the peer brought up since is in use: it is being deleted only if it was there to be taken down.
        let old = self.rekeys.and_then(|id| sa.child(id));
        let taken_down = shared.is_down(sa.connection.as_deref(), &self.config.name)
            && old.is_none_or(|old| old.state == ChildState::Deleting);
        let config = Arc::clone(&self.config);
        let (asked, more_possible) = (self.selectors.clone(), self.more_possible);
        let is_new = self.rekeys.is_none() && !redundant && !taken_down;
        let is_further = self.beside.is_some();
        self.settle(sa, shared, id, redundant);
        if is_new && is_further {
            sa.jobs
                .at_once(shared.now.instant, Job::CreatePair(Arc::clone(&config.name)));
        } else if let Some(made) = sa.child(id).filter(|_| is_new) {
            let answer = (made.entry.local_ts.clone(), made.entry.remote_ts.clone());
            sa.note_answer(shared, &config, &asked, &answer, more_possible);
        }
        // The operator took the child down meanwhile.
        if let Some(child) = sa.child_mut(id).filter(|_| taken_down) {
            child.state = ChildState::Deleting;
            sa.jobs.add(shared.now.instant, Job::DeleteChild(id));
        }
        Next::Done
    }

    /// The old pair lives on. If the peer takes the new one for `made`, it is told.
    fn not_acceptable(self, sa: &mut IkeSa, shared: &mut Shared, error: &IkeError, made: bool) -> Next {
        let verdict = format!("Child SA {}: the peer's answer is not acceptable", self.config.name);
        sa.tell_error(shared, &verdict, error);
        if made {
            // The SPI is given back when the peer has answered that Delete: it still sends there.
            sa.jobs.add(shared.now.instant, Job::DeleteStillborn(self.spi));
        } else {
            shared.spis.release(self.spi);
        }
        if self.crossing.is_some() {
            sa.leave_to_series(self.again());
            return Next::Done;
        }
        if self.beside.is_some() {
            return Next::Done;
        }
        Next::Later(self.again(), CHILD_RETRY)
    }

    /// The peer has made the pair and deleted it, and that Delete was faster than the answer.
    fn deleted_before(self, sa: &mut IkeSa, shared: &mut Shared, redundant: bool) -> Next {
        shared.spis.release(self.spi);
        match self.rekeys.filter(|_| !redundant) {
            // It is replaced for the peer, so it is ours to delete; whether another is wanted shows then.
            Some(old) if sa.child(old).is_some() => sa.delete_now(shared.now.instant, old),
            _ => sa.want_again(shared, &self.config, true),
        }
        Next::Done
    }

    /// What the answer says, and g^ir.
    fn negotiated(
        &self,
        sa: &IkeSa,
        answer: &ChildPayloads,
        ke: Option<&KeyExchange>,
    ) -> Result<(Negotiated, Option<Secret>), IkeError> {
        let chosen = EspProposal::verify_answer(&self.proposals, &answer.sa, true)?;
        check_selectors(&self.config, (&self.selectors.0, &self.selectors.1), answer)?;
        let new = Negotiated {
            config: Arc::clone(&self.config),
            suite: chosen.suite,
            spi_in: self.spi,
            spi_out: peer_spi(&chosen.peer_spi)?,
            local_ts: answer.ts_i.clone(),
            remote_ts: answer.ts_r.clone(),
            mode: sa.answered_mode(&self.config, answer)?,
            takes_padding: !answer.no_tfc_padding,
            aggfrag: sa.answered_aggfrag(&self.config, answer)?,
            we_requested: true,
            rekeys: self.rekeys,
            place: self.place.answered(&self.config, answer),
        };
        if let Some(model) = &self.beside {
            model.check(&new)?;
            // RFC 9611 §3: "similarly identified by an accompanying SA_RESOURCE_INFO notification": else it is no further pair
            // for the peer.
            if !answer.resource_info {
                return Err(IkeError::NotAlike("SA_RESOURCE_INFO"));
            }
        }
        Ok((new, self.finish(chosen.suite.group, ke)?))
    }

    /// g^ir of the new Child SA, if a group was chosen: then both sent KE payloads of it.
    fn finish(&self, group: Option<Group>, ke: Option<&KeyExchange>) -> Result<Option<Secret>, IkeError> {
        let wrong = IkeError::Malformed(crate::wire::DecodeError::Invalid {
            what: "KE payload",
            why: "it does not go with the proposal chosen",
        });
        match (group, &self.kex, ke) {
            (None, _, None) => Ok(None),
            (Some(group), Some(kex), Some(ke)) if kex.group() == group && ke.method == group.method() => {
                Ok(Some(kex.finish(&ke.data)?))
            }
            _ => Err(wrong),
        }
    }

    /// Ours stays. The peer deletes its own; it is not moved over to.
    fn outdo(&self, sa: &mut IkeSa) {
        let theirs = self.crossing.as_ref().and_then(|theirs| theirs.made);
        if let Some(child) = theirs.and_then(|id| sa.child_mut(id)) {
            child.redundant = true;
            child.replaces = None;
            // One that rekeys nothing is of use as long as it is there.
            if self.rekeys.is_some() && child.state == ChildState::Installed {
                child.state = ChildState::Rekeyed;
            }
        }
    }

    /// The new pair is there: who deletes which (§2.8, §2.8.1).
    fn settle(self, sa: &mut IkeSa, shared: &mut Shared, id: ChildSaId, redundant: bool) {
        let now = shared.now.instant;
        if redundant {
            // Ours goes; the peer's stays, and the peer deletes the old one.
            if let Some(child) = sa.child_mut(id) {
                child.state = ChildState::Rekeyed;
                child.redundant = true;
            }
            sa.jobs.add(now, Job::DeleteChild(id));
            return;
        }
        self.outdo(sa);
        let Some(old) = self.rekeys else { return };
        // §2.8: "when the new one is established, delete the old one": that is for whoever asked.
        if let Some(child) = sa.child_mut(old).filter(|child| child.state == ChildState::Installed) {
            child.state = ChildState::Rekeyed;
            sa.delete_now(now, old);
        }
    }

    fn refused(self, sa: &mut IkeSa, shared: &mut Shared, notify: &Notify) -> Next {
        shared.spis.release(self.spi);
        let rekeyed_by_peer = self.crossing.is_some();
        if notify.notify_type != NotifyType::TEMPORARY_FAILURE {
            sa.busy = None;
        }
        match notify.notify_type {
            // The peer's rekey of the same pair was faster, or the pair is on its way out.
            _ if rekeyed_by_peer => {
                sa.leave_to_series(self.again());
                Next::Done
            }
            NotifyType::INVALID_KE_PAYLOAD if self.repetitions < MOST_REPETITIONS => {
                // §1.3: repeated in a new exchange with the group that the peer wants, if we have it too.
                let group = <[u8; 2]>::try_from(notify.data.as_slice())
                    .ok()
                    .map(|octets| KeMethod(u16::from_be_bytes(octets)));
                let group = group
                    .and_then(Group::from_method)
                    .filter(|group| self.proposals.iter().any(|proposal| proposal.groups.contains(group)));
                let again = group.and_then(|group| {
                    Self::begin(
                        shared,
                        Arc::clone(&self.config),
                        self.rekeys,
                        self.beside.clone(),
                        (Some(group), self.repetitions + 1),
                        sa,
                    )
                });
                match again {
                    Some((exchange, request)) => Next::Send(exchange, request),
                    None if self.beside.is_some() => Next::Done,
                    None => Next::Later(self.again(), CHILD_RETRY),
                }
            }
            // §2.25: "A peer that receives a CHILD_SA_NOT_FOUND notification SHOULD silently delete the Child SA".
            NotifyType::CHILD_SA_NOT_FOUND if self.rekeys.is_some() => {
                let Some(id) = self.rekeys.filter(|id| sa.child(*id).is_some()) else {
                    // The peer's Delete was here before its answer: what is to come of that was decided then.
                    return Next::Done;
                };
                sa.end_child(shared, id, false, "the peer does not know it any more");
                sa.jobs
                    .at_once(shared.now.instant, Job::CreateChild(Arc::clone(&self.config.name)));
                Next::Done
            }
            // RFC 9611 §1: the peer is asked for "more additional Child SAs for a single set of Traffic Selectors than it is willing
            // to create": those that are there do. Nor does anything else about a
            // further pair hurt the first.
            NotifyType::TS_MAX_QUEUE if self.beside.is_some() => Next::Done,
            NotifyType::TEMPORARY_FAILURE if self.beside.is_some() => Next::Later(self.again(), CHILD_RETRY),
            other if self.beside.is_some() => {
                self.tell_refused(sa, shared, other);
                Next::Done
            }
            NotifyType::TEMPORARY_FAILURE => sa.wait_for_peer(shared.now.instant, self.again()),
            // Checklist I9: the peer takes one pair at a time: without a second, the first has to go before.
            NotifyType::NO_ADDITIONAL_SAS if self.rekeys.is_some() => {
                let now = shared.now.instant;
                if let Some(id) = self.rekeys {
                    sa.delete_now(now, id);
                }
                sa.jobs.at_once(now, Job::CreateChild(Arc::clone(&self.config.name)));
                Next::Done
            }
            NotifyType::SINGLE_PAIR_REQUIRED if self.rekeys.is_none() && sa.ask_singly(&self.config) => {
                sa.jobs.at_once(shared.now.instant, self.again());
                Next::Done
            }
            other => {
                self.tell_refused(sa, shared, other);
                if self.rekeys.is_none() && sa.note_refused_part(shared, &self.config, &self.selectors) {
                    return Next::Done;
                }
                Next::Later(self.again(), CHILD_RETRY)
            }
        }
    }

    fn tell_refused(&self, sa: &mut IkeSa, shared: &mut Shared, notify_type: NotifyType) {
        let Some(old) = self.rekeys.and_then(|id| sa.child_mut(id)) else {
            return tell_child_refused(sa, shared, &self.config, notify_type);
        };
        old.refused = Some(notify_type);
        let first = old.suite.group.is_none();
        let verdict = format!(
            "the peer refuses to rekey Child SA {} with {notify_type}",
            self.config.name
        );
        let wanted = self.config.esp_proposals.iter().map(ToString::to_string).collect();
        let hint = match notify_type {
            NotifyType::NO_PROPOSAL_CHOSEN if first => PFS_HINT,
            NotifyType::NO_PROPOSAL_CHOSEN => "compare the ESP proposals of both ends, PFS included",
            _ => "see the peer's log; the Child SA in use goes on until its lifetime ends",
        };
        sa.tell_failure(
            shared,
            notify_type.into(),
            verdict,
            vec![],
            wanted,
            Some(hint.to_owned()),
        );
    }

    /// The job that tries it again.
    fn again(&self) -> Job {
        match self.rekeys {
            Some(id) => Job::RekeyChild(id),
            None if self.beside.is_some() => Job::CreatePair(Arc::clone(&self.config.name)),
            None => Job::CreateChild(Arc::clone(&self.config.name)),
        }
    }
}
