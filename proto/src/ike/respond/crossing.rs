//! The peer's requests about a pair that we are busy with ourselves (RFC 7296 §2.8.1, §2.25).

use crate::ike::child::{Child, ChildState, Negotiated};
use crate::ike::collision::{ChildActivity, ChildRequest, Crossing, Verdict, verdict};
use crate::ike::error::IkeError;
use crate::ike::exchange::Exchange;
use crate::ike::jobs::Job;
use crate::ike::sa::IkeSa;
use crate::ike::shared::Shared;
use crate::policy::sad::ChildSaId;
use crate::policy::selector::meet;
use crate::wire::Nonce;

impl IkeSa {
    /// The peer makes a pair while our own request for the same is in flight, or was answered just now: the nonces decide,
    /// in a rekey (§2.8.1) and, by the same rule, when both ends ask for a pair of one child that had none. (Two pairs are
    /// allowed, and one that the peer made stays unless the peer deletes it; but two for one child are of no use to us.)
    ///
    /// Returns the pairs of ours that go when the peer's is there.
    pub(super) fn note_crossing(&mut self, new: &Negotiated, theirs: &[Nonce; 2]) -> Vec<ChildSaId> {
        if let Some(Exchange::CreateChild(ours)) = &mut self.exchange
            && ours.rekeys == new.rekeys
            && (new.rekeys.is_some() || ours.is_first_for(new))
        {
            ours.crossing = Some(Crossing::new(theirs));
            return Vec::new();
        }
        if new.rekeys.is_some() {
            return Vec::new();
        }
        let lowest = theirs.iter().map(|nonce| &nonce.0[..]).min();
        let beaten = |child: &&Child| {
            let lost = child.contest.as_deref().is_some_and(|ours| Some(ours) < lowest);
            let same = meet(
                (&child.entry.local_ts, &child.entry.remote_ts),
                (&new.local_ts, &new.remote_ts),
            );
            child.config.name == new.config.name && child.is_current() && lost && same
        };
        self.children.iter().filter(beaten).map(Child::id).collect()
    }

    /// The pair that the peer asked for is there: see [`Self::note_crossing`].
    pub(super) fn settle_crossing(
        &mut self,
        shared: &Shared,
        id: ChildSaId,
        theirs: &[Nonce; 2],
        beaten: &[ChildSaId],
    ) {
        if let Some(Exchange::CreateChild(ours)) = &mut self.exchange
            && let Some(crossing) = &mut ours.crossing
        {
            crossing.complete(theirs, id);
        }
        for id in beaten {
            if let Some(child) = self.child_mut(*id).filter(|child| child.is_current()) {
                child.state = ChildState::Rekeyed;
                child.redundant = true;
                self.jobs.add(shared.now.instant, Job::DeleteChild(*id));
            }
        }
    }

    /// What a request to rekey the pair with this SPI (the peer's inbound) means now.
    pub(super) fn rekey_verdict(&self, spi: u32) -> Result<ChildSaId, IkeError> {
        let child = self.child_by_peer_spi(spi);
        match (verdict(self.activity(spi), ChildRequest::Rekey), child) {
            (Verdict::Proceed | Verdict::ProceedCrossing, Some(child)) => Ok(child.id()),
            (Verdict::TemporaryFailure, _) => Err(IkeError::TemporaryFailure),
            _ => Err(IkeError::ChildNotFound(spi)),
        }
    }

    pub(super) fn activity(&self, spi: u32) -> ChildActivity {
        let Some(child) = self.child_by_peer_spi(spi) else {
            return ChildActivity::Unknown;
        };
        match child.state {
            ChildState::Rekeyed => ChildActivity::Rekeyed,
            ChildState::Installed if self.is_replaced(child.id()) => ChildActivity::Rekeyed,
            ChildState::Deleting | ChildState::Lingering { .. } => ChildActivity::Deleting,
            ChildState::Installed => match &self.exchange {
                Some(Exchange::CreateChild(ours)) if ours.rekeys == Some(child.id()) => {
                    if ours.is_following_up() {
                        ChildActivity::FollowingUp
                    } else {
                        ChildActivity::Rekeying
                    }
                }
                _ => ChildActivity::Idle,
            },
        }
    }
}
