//! CREATE_CHILD_SA as requester, to rekey the IKE SA (RFC 7296 §1.3.2, §2.18).

use super::{Exchange, Next, Request};
use crate::crypto::Group;
use crate::ike::collision::{Loser, loser};
use crate::ike::error::IkeError;
use crate::ike::jobs::Job;
use crate::ike::kex::KeyExchanges;
use crate::ike::sa::{IkeSa, Stage};
use crate::ike::shared::{Effect, Shared};
use crate::ike::succession::{IKE_SPI, Successor, peer_ike_spi};
use crate::policy::proposal::IkeProposal;
use crate::time::Instant;
use crate::wire::message::{self, CreateChildSaKind, CreateChildSaReply, CreateChildSaRequest};
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
    pub crossing: Option<CrossingIkeRekey>,
    repetitions: u32,
    began: Instant,
}

/// The peer's rekey of the same IKE SA.
#[derive(Clone)]
pub struct CrossingIkeRekey {
    /// Our SPI in the SA it made.
    pub spi: IkeSpi,
    /// Its Ni and our Nr.
    pub nonces: [Vec<u8>; 2],
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
        };
        let request = CreateChildSaRequest {
            // §2.18: "New initiator and responder SPIs are supplied in the SPI fields in the Proposal structures".
            kind: CreateChildSaKind::RekeyIke(IkeProposal::to_wire(
                &IkeProposal::without_additional(&sa.connection.as_ref()?.ike_proposals),
                &exchange.spi.0,
            )),
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

    /// It will not be answered: if the peer rekeyed the SA too, its new one stays.
    pub fn abandon(self, shared: &mut Shared) {
        if let Some(theirs) = self.crossing {
            shared.effects.push(Effect::Settled {
                from: theirs.spi,
                to: None,
            });
        }
    }

    /// The answer.
    pub fn on_reply(self, sa: &mut IkeSa, shared: &mut Shared, reply: CreateChildSaReply) -> Next {
        match reply {
            CreateChildSaReply::Ike {
                sa: answer, nonce, ke, ..
            } => self.accepted(sa, shared, &answer, &nonce, &ke),
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
        nonce: &Nonce,
        ke: &KeyExchange,
    ) -> Next {
        let now = shared.now.instant;
        let mut new = match self.negotiated(sa, shared, answer, nonce, ke) {
            Ok(new) => new,
            Err(error) => {
                sa.tell_error(
                    shared,
                    "rekeying the IKE SA: the peer's answer is not acceptable",
                    &error,
                );
                if self.crossing.is_none() {
                    // The peer takes a new SA for made that we don't have: begin anew.
                    sa.jobs.add(now, Job::DeleteIke);
                    sa.stage = Stage::Closing;
                }
                self.abandon(shared);
                return Next::Done;
            }
        };
        let Some(theirs) = self.crossing else {
            sa.hand_over(shared, new, now);
            return Next::Done;
        };
        // §2.8.2: "The new IKE SA containing the lowest nonce SHOULD be deleted by the node that created it, and the other
        // surviving new IKE SA MUST inherit all the Child SAs."
        let [ni, nr] = &theirs.nonces;
        let redundant = loser([&self.nonce.0, &nonce.0], [ni, nr]) == Loser::Ours;
        let (from, ours) = (theirs.spi, new.own_spi());
        if redundant {
            let _nothing = new.give_away(now);
            new.established = None;
            shared.effects.push(Effect::Successor(Box::new(new)));
            shared.effects.push(Effect::Settled { from, to: None });
        } else {
            sa.hand_over(shared, new, now);
            shared.effects.push(Effect::Settled { from, to: Some(ours) });
        }
        Next::Done
    }

    fn negotiated(
        &self,
        sa: &IkeSa,
        shared: &mut Shared,
        answer: &SecurityAssociation,
        nonce: &Nonce,
        ke: &KeyExchange,
    ) -> Result<IkeSa, IkeError> {
        let connection = sa.connection.as_ref().ok_or(IkeError::Internal("no connection"))?;
        let offered = IkeProposal::without_additional(&connection.ike_proposals);
        let chosen = IkeProposal::verify_answer(&offered, answer, IKE_SPI)?;
        let group = self.kex.group();
        if chosen.suite.group != group || ke.method != group.method() {
            return Err(IkeError::Malformed(DecodeError::Invalid {
                what: "KE payload",
                why: "it does not go with the proposal chosen",
            }));
        }
        let secret = self.kex.finish(&ke.data)?;
        let parts = Successor {
            spi_i: self.spi,
            spi_r: peer_ike_spi(&chosen.peer_spi)?,
            initiator: true,
            suite: chosen.suite,
            secret: &secret,
            nonces: [&self.nonce.0, &nonce.0],
            began: self.began,
        };
        sa.successor(shared, &parts)
    }

    fn refused(self, sa: &mut IkeSa, shared: &mut Shared, notify: &Notify) -> Next {
        if self.crossing.is_some() {
            // §2.8.2: the peer did not notice the crossing: its new SA is the one, and "the first peer can forget its own
            // rekey attempt".
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
                sa.tell_failure(shared, verdict, vec![], vec![], Some(hint.to_owned()));
                Next::Later(Job::RekeyIke, REFUSED_WAIT)
            }
        }
    }
}
