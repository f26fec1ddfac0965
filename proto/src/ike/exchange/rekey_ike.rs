//! CREATE_CHILD_SA as requester, to rekey the IKE SA (RFC 7296 §1.3.2, §2.18).

use super::followup::{FollowupFailure, Step};
use super::{Exchange, Followups, Next, Request};
use crate::crypto::{Group, Secret};
use crate::ike::collision::Crossing;
use crate::ike::error::IkeError;
use crate::ike::jobs::Job;
use crate::ike::kex::KeyExchanges;
use crate::ike::keys::Secrets;
use crate::ike::qcd::PeerTokens;
use crate::ike::sa::{IkeSa, Stage};
use crate::ike::shared::{Effect, Shared};
use crate::ike::succession::{IKE_SPI, Successor, peer_ike_spi};
use crate::policy::proposal::IkeProposal;
use crate::time::Instant;
use crate::wire::message::{self, CreateChildSaKind, CreateChildSaReply, CreateChildSaRequest, FollowupReply};
use crate::wire::{DecodeError, IkeSpi, KeMethod, KeyExchange, Nonce, Notify, NotifyType, SecurityAssociation};
use std::time::Duration;

/// A peer that refuses for another reason is asked again after this.
const REFUSED_WAIT: Duration = Duration::from_secs(300);
/// Groups tried, at the peer's wish, before it is taken for broken.
const MOST_REPETITIONS: u32 = 3;

/// What rekeying the IKE SA needs.
#[derive(Clone)]
pub struct RekeyIkeExchange {
    /// Our SPI for the new SA.
    spi: IkeSpi,
    kex: KeyExchanges,
    nonce: Nonce,
    /// The peer rekeyed the same IKE SA meanwhile.
    pub crossing: Option<Crossing<IkeSpi>>,
    repetitions: u32,
    began: Instant,
    /// The peer's token for the new SA (RFC 6290 §4.3).
    tokens: PeerTokens,
    /// It was answered: what was agreed on, and the key exchanges that are still to be done for it (RFC 9370 §2.2.4).
    following: Option<Box<(Successor, Followups)>>,
}

impl RekeyIkeExchange {
    /// The request.
    pub fn begin(sa: &IkeSa, shared: &mut Shared) -> Option<(Exchange, Request)> {
        let connection = sa.connection.as_ref()?;
        let allowed = |group: &Group| connection.ike_proposals.iter().any(|p| p.groups.contains(group));
        // The group of the SA in use is one that the peer has.
        let known = sa.suite.map(|suite| suite.group).filter(allowed);
        let group = known.or_else(|| connection.ike_proposals.first()?.groups.first().copied())?;
        Self::with_group(sa, shared, group, 0)
    }

    fn with_group(sa: &IkeSa, shared: &mut Shared, group: Group, repetitions: u32) -> Option<(Exchange, Request)> {
        let exchange = Self {
            spi: shared.ike_spi(),
            kex: KeyExchanges::start(shared.provider, group, &mut shared.rng)?,
            nonce: shared.nonce(),
            crossing: None,
            repetitions,
            began: shared.now.instant,
            tokens: PeerTokens::default(),
            following: None,
        };
        let request = CreateChildSaRequest {
            // §2.18: "New initiator and responder SPIs are supplied in the SPI fields in the Proposal structures".
            kind: CreateChildSaKind::RekeyIke(IkeProposal::to_wire(&sa.rekey_proposals(), &exchange.spi.0)),
            nonce: exchange.nonce.clone(),
            ke: Some(KeyExchange {
                method: group.method(),
                data: exchange.kex.public().to_vec(),
            }),
            other: vec![],
        };
        let request = Request(message::Request::CreateChildSa(Box::new(request)));
        Some((Exchange::RekeyIke(Box::new(exchange)), request))
    }

    /// Whether it was answered, and additional key exchanges are under way.
    pub const fn is_following_up(&self) -> bool {
        self.following.is_some()
    }

    /// It will not be answered: if the peer rekeyed the SA too, its new one stays.
    pub fn abandon(self, shared: &mut Shared) {
        if let Some(from) = self.crossing.and_then(|theirs| theirs.made) {
            shared.effects.push(Effect::Settled { from, to: None });
        }
    }

    /// The answer.
    pub fn on_reply(mut self, sa: &mut IkeSa, shared: &mut Shared, reply: CreateChildSaReply) -> Next {
        match reply {
            CreateChildSaReply::Ike {
                sa: answer,
                nonce,
                ke,
                link,
                other,
            } => {
                self.tokens.learn(&other);
                self.accepted(sa, shared, &answer, nonce, &ke, link)
            }
            CreateChildSaReply::Refused(notify) => self.refused(sa, shared, &notify),
            CreateChildSaReply::Child { .. } => {
                self.abandon(shared);
                Next::Close("the peer answered the request to rekey the IKE SA with a Child SA".to_owned())
            }
        }
    }

    fn accepted(
        self,
        sa: &mut IkeSa,
        shared: &mut Shared,
        answer: &SecurityAssociation,
        nonce: Nonce,
        ke: &KeyExchange,
        link: Option<Vec<u8>>,
    ) -> Next {
        let (parts, first) = match self.negotiated(sa, answer, ke) {
            Ok(agreed) => agreed,
            Err(error) => return self.not_acceptable(sa, shared, &error, link.is_none()),
        };
        let additional = parts.suite.additional;
        if additional.is_empty() {
            return self.complete(sa, shared, &parts, &Secrets::of(Some(first)), &nonce);
        }
        // RFC 9370 §2.2.4: "because there is nothing to delete yet, the initiator of this exchange just stops the rekeying
        // process, and it MUST NOT initiate the IKE_FOLLOWUP_KE exchange."
        if self.loses(&nonce) {
            sa.leave_to_series(Job::RekeyIke);
            self.abandon(shared);
            return Next::Done;
        }
        if self.crossing.is_some() {
            // The peer stops likewise.
            sa.drop_series(shared, |series| series.makes.job() == Job::RekeyIke);
        }
        match Followups::begin(shared, additional, link, nonce, Some(first)) {
            Ok(followups) => self.follow_up(parts, followups),
            Err(error) => self.not_acceptable(sa, shared, &error, false),
        }
    }

    /// The next key exchange.
    fn follow_up(mut self, parts: Successor, followups: Followups) -> Next {
        let request = followups.request();
        self.following = Some(Box::new((parts, followups)));
        Next::Send(Exchange::RekeyIke(Box::new(self)), request)
    }

    /// The answer to one of the key exchanges that follow.
    pub fn on_followup(mut self, sa: &mut IkeSa, shared: &mut Shared, reply: FollowupReply) -> Next {
        let Some((parts, followups)) = self.following.take().map(|following| *following) else {
            self.abandon(shared);
            return Next::Close("the peer answered with another exchange".to_owned());
        };
        match followups.on_reply(shared, reply) {
            Ok(Step::Next(followups)) => self.follow_up(parts, followups),
            Ok(Step::Complete(secrets, nonce)) => self.complete(sa, shared, &parts, &secrets, &nonce),
            Err(FollowupFailure::Wrong { error, last }) => self.not_acceptable(sa, shared, &error, last),
            Err(FollowupFailure::Refused(notify)) => {
                let settled = self.crossing.as_ref().is_some_and(|theirs| theirs.made.is_some());
                self.abandon(shared);
                if settled {
                    return Next::Done;
                }
                sa.followup_refused(shared, "the IKE SA", &notify, Job::RekeyIke)
            }
        }
    }

    /// §2.8.2: "The new IKE SA containing the lowest nonce SHOULD be deleted by the node that created it, and the other
    /// surviving new IKE SA MUST inherit all the Child SAs."
    fn loses(&self, nonce: &Nonce) -> bool {
        let theirs = self.crossing.as_ref();
        theirs.is_some_and(|theirs| theirs.beats(&self.nonce, nonce))
    }

    /// All is agreed on: the new SA is made.
    fn complete(
        self,
        sa: &mut IkeSa,
        shared: &mut Shared,
        parts: &Successor,
        secrets: &Secrets,
        nonce: &Nonce,
    ) -> Next {
        let now = shared.now.instant;
        let mut new = match sa.successor(shared, parts, secrets, [&self.nonce, nonce]) {
            Ok(new) => new,
            Err(error) => return self.not_acceptable(sa, shared, &error, true),
        };
        sa.forgotten = 0;
        new.peer_tokens = self.tokens.clone();
        let redundant = self.loses(nonce);
        let theirs = self.crossing.and_then(|theirs| theirs.made);
        if redundant {
            let _nothing = new.give_away(now);
            new.established = None;
            shared.effects.push(Effect::Successor(Box::new(new)));
            if let Some(from) = theirs {
                shared.effects.push(Effect::Settled { from, to: None });
            }
            return Next::Done;
        }
        // RFC 6290 §4.3: "If the initiator is also a token maker, it SHOULD initiate an INFORMATIONAL exchange immediately after
        // the CREATE_CHILD_SA exchange".
        if new.own_token(shared).is_some() {
            new.jobs.add(now, Job::TellToken);
        }
        let to = Some(new.own_spi());
        sa.hand_over(shared, new, now);
        if let Some(from) = theirs {
            shared.effects.push(Effect::Settled { from, to });
        }
        Next::Done
    }

    /// If the peer takes the new SA for `made`, which we don't have, all begins anew.
    fn not_acceptable(self, sa: &mut IkeSa, shared: &mut Shared, error: &IkeError, made: bool) -> Next {
        sa.tell_error(
            shared,
            "rekeying the IKE SA: the peer's answer is not acceptable",
            error,
        );
        let crossed = self.crossing.is_some();
        self.abandon(shared);
        match (made, crossed) {
            (_, true) => {
                sa.leave_to_series(Job::RekeyIke);
                Next::Done
            }
            (false, false) => Next::Later(Job::RekeyIke, REFUSED_WAIT),
            (true, false) => {
                sa.jobs.add(shared.now.instant, Job::DeleteIke);
                sa.stage = Stage::Closing;
                Next::Done
            }
        }
    }

    /// What the answer says, and g^ir (new).
    fn negotiated(
        &self,
        sa: &IkeSa,
        answer: &SecurityAssociation,
        ke: &KeyExchange,
    ) -> Result<(Successor, Secret), IkeError> {
        let chosen = IkeProposal::verify_answer(&sa.rekey_proposals(), answer, IKE_SPI)?;
        let group = self.kex.group();
        if chosen.suite.group != group || ke.method != group.method() {
            return Err(IkeError::Malformed(DecodeError::Invalid {
                what: "KE payload",
                why: "it does not go with the proposal chosen",
            }));
        }
        let parts = Successor {
            spi_i: self.spi,
            spi_r: peer_ike_spi(&chosen.peer_spi)?,
            initiator: true,
            suite: chosen.suite,
            began: self.began,
        };
        Ok((parts, self.kex.finish(&ke.data)?))
    }

    fn refused(self, sa: &mut IkeSa, shared: &mut Shared, notify: &Notify) -> Next {
        if self.crossing.is_some() {
            // §2.8.2: the peer did not notice the crossing: its new SA is the one, and "the first peer can forget its own
            // rekey attempt".
            sa.leave_to_series(Job::RekeyIke);
            self.abandon(shared);
            return Next::Done;
        }
        match notify.notify_type {
            NotifyType::INVALID_KE_PAYLOAD if self.repetitions < MOST_REPETITIONS => {
                let method = <[u8; 2]>::try_from(notify.data.as_slice()).map(u16::from_be_bytes);
                let group = method.ok().and_then(|number| Group::from_method(KeMethod(number)));
                let group = group.filter(|group| {
                    let proposals = sa.connection.as_ref().map(|connection| &connection.ike_proposals);
                    proposals.is_some_and(|all| all.iter().any(|proposal| proposal.groups.contains(group)))
                });
                match group.and_then(|group| Self::with_group(sa, shared, group, self.repetitions + 1)) {
                    Some((exchange, request)) => Next::Send(exchange, request),
                    None => Next::Later(Job::RekeyIke, REFUSED_WAIT),
                }
            }
            NotifyType::TEMPORARY_FAILURE => sa.wait_for_peer(shared.now.instant, Job::RekeyIke),
            other => {
                let verdict = format!("the peer refuses to rekey the IKE SA with {other}");
                let hint = "without a rekey it is closed and begun anew when its lifetime ends: compare the IKE proposals of \
                            both ends, or set rekey_time = \"never\" here and let the peer rekey";
                sa.tell_failure(shared, other.into(), verdict, vec![], vec![], Some(hint.to_owned()));
                Next::Later(Job::RekeyIke, REFUSED_WAIT)
            }
        }
    }
}
