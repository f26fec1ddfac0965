//! IKE_FOLLOWUP_KE as responder (RFC 9370 §2.2.4): what a CREATE_CHILD_SA of the peer agreed on is kept until its key
//! exchanges are done, and made then.

use super::child::{Child, ChildState, Negotiated};
use super::error::IkeError;
use super::jobs::Job;
use super::keys::Secrets;
use super::respond::Reply;
use super::sa::IkeSa;
use super::shared::Shared;
use super::succession::Successor;
use crate::policy::proposal::AdditionalGroups;
use crate::policy::sad::ChildSaId;
use crate::time::Instant;
use crate::wire::message::{FollowupKe, FollowupReply, Response};
use crate::wire::{DecodeError, ExchangeType, KeyExchange, Nonce, Notify, NotifyType};
use std::time::Duration;

/// "In general, 5-20 seconds of waiting time should be appropriate in most cases."
const PATIENCE: Duration = Duration::from_secs(20);

/// Series under way at a time in an IKE SA; a peer that begins more has given the oldest up.
const MOST_SERIES: usize = 4;

/// A CREATE_CHILD_SA of the peer that was answered, and whose key exchanges are not done.
#[derive(Clone)]
pub struct Series {
    link: [u8; 8],
    expires: Instant,
    groups: AdditionalGroups,
    done: usize,
    secrets: Secrets,
    nonces: [Nonce; 2],
    /// What it is for.
    pub makes: Makes,
    /// What we wanted to do, and left to the peer (its exchange crossed ours and stays).
    left: Option<Job>,
}

/// What will be there when it is done.
#[derive(Clone)]
pub enum Makes {
    /// A Child SA pair, and the pairs of ours that go then.
    Child(Box<Negotiated>, Vec<ChildSaId>),
    /// The IKE SA that replaces this one.
    Ike(Successor),
}

impl Makes {
    fn release(&self, shared: &mut Shared) {
        if let Self::Child(new, _) = self {
            shared.spis.release(new.spi_in);
        }
    }

    /// The job of ours that would do the same.
    pub fn job(&self) -> Job {
        match self {
            Self::Ike(_) => Job::RekeyIke,
            Self::Child(new, _) => match new.rekeys {
                Some(id) => Job::RekeyChild(id),
                None => Job::CreateChild(std::sync::Arc::clone(&new.config.name)),
            },
        }
    }
}

/// What we might begin while the peer is at it: nothing that it would have to refuse.
pub fn may_begin(series: &[Series], job: &Job) -> bool {
    match job {
        Job::DeleteIke
        | Job::UpdateAddresses
        | Job::TellToken
        | Job::AskTicket
        | Job::Redirect(_)
        | Job::Liveness
        | Job::TryUdp => true,
        Job::DeleteChild(_) | Job::DeleteStillborn(_) => {
            !series.iter().any(|series| matches!(series.makes, Makes::Ike(_)))
        }
        Job::RekeyIke | Job::RekeyChild(_) | Job::CreateChild(_) | Job::CreatePair(_) => series.is_empty(),
    }
}

impl IkeSa {
    /// The answer to CREATE_CHILD_SA is about to leave: what it agreed on waits. Returns the data of ADDITIONAL_KEY_EXCHANGE.
    pub fn begin_series(
        &mut self,
        shared: &mut Shared,
        groups: AdditionalGroups,
        secrets: Secrets,
        nonces: [Nonce; 2],
        makes: Makes,
    ) -> Vec<u8> {
        // The same once more: the peer has given the first up.
        let job = makes.job();
        self.drop_series(shared, |series| series.makes.job() == job);
        while self.series.len() >= MOST_SERIES {
            self.series.remove(0).makes.release(shared);
        }
        let link = random_link(shared);
        self.series.push(Series {
            link,
            expires: shared.now.instant + PATIENCE,
            groups,
            done: 0,
            secrets,
            nonces,
            makes,
            left: None,
        });
        link.to_vec()
    }

    /// Forgets those that a test picks.
    pub fn drop_series(&mut self, shared: &mut Shared, pick: impl Fn(&Series) -> bool) {
        for series in self.series.extract_if(.., |series| pick(series)) {
            series.makes.release(shared);
        }
    }

    /// Our own exchange lost against the peer's, which is not done yet: what it was for is kept, in case the peer stops.
    pub fn leave_to_series(&mut self, job: Job) {
        if let Some(series) = self.series.iter_mut().find(|series| series.makes.job() == job) {
            series.left = Some(job);
        }
    }

    /// "The responder MUST handle this situation gracefully and delete the associated state if it does not receive the next
    /// expected IKE_FOLLOWUP_KE request after some reasonable period of time."
    pub fn series_timeout(&mut self, shared: &mut Shared) {
        let now = shared.now.instant;
        for series in self.series.extract_if(.., |series| series.expires <= now) {
            series.makes.release(shared);
            if let Some(job) = series.left {
                self.jobs.add(now, job);
            }
        }
    }

    /// When the first of them is forgotten.
    pub fn series_expires(&self) -> Option<Instant> {
        self.series.iter().map(|series| series.expires).min()
    }

    /// KEi(n).
    pub fn respond_followup(&mut self, shared: &mut Shared, request: &FollowupKe) -> Option<Reply> {
        let refuse = |notify: Notify| Reply::stay(Response::IkeFollowupKe(FollowupReply::Refused(notify)));
        let known = |series: &Series| request.link.as_deref() == Some(&series.link[..]);
        let Some(index) = self.series.iter().position(known) else {
            // "If the responder receives an IKE_FOLLOWUP_KE message for which it does not have a key exchange state, it MUST
            // send back a new error type notification called "STATE_NOT_FOUND"."
            return refuse(Notify::new(NotifyType::STATE_NOT_FOUND, Vec::new()));
        };
        let mut series = self.series.remove(index);
        let (data, secret) = match key_exchange(shared, &series, &request.ke) {
            Ok(done) => done,
            Err(error) => {
                series.makes.release(shared);
                self.tell_error(shared, "an additional key exchange failed", &error);
                return Reply::refuse(ExchangeType::IKE_FOLLOWUP_KE, &error);
            }
        };
        series.secrets.further.push(secret);
        series.done += 1;
        let link = if series.groups.iter().nth(series.done).is_some() {
            series.link = random_link(shared);
            series.expires = shared.now.instant + PATIENCE;
            let link = series.link.to_vec();
            self.series.push(series);
            Some(link)
        } else {
            let Series {
                secrets, nonces, makes, ..
            } = series;
            let made = match makes {
                Makes::Child(new, beaten) => match self.is_still_possible(shared, &new) {
                    Ok(()) => self.complete_child(shared, *new, &secrets, &nonces, &beaten),
                    Err(error) => {
                        shared.spis.release(new.spi_in);
                        Err(error)
                    }
                },
                Makes::Ike(parts) => self.complete_ike(shared, parts, &secrets, &nonces, false).map(|_| ()),
            };
            if let Err(error) = made {
                // What it was for is not there any more.
                shared.counters.unexpected += 1;
                if let IkeError::Internal(_) = error {
                    self.tell_error(shared, "an additional key exchange came to nothing", &error);
                }
                return refuse(Notify::new(NotifyType::STATE_NOT_FOUND, Vec::new()));
            }
            None
        };
        Reply::stay(Response::IkeFollowupKe(FollowupReply::Accepted(FollowupKe {
            ke: KeyExchange {
                method: request.ke.method,
                data,
            },
            link,
            other: vec![],
        })))
    }

    /// Since it was granted, the pair that it replaces may have gone, or another peer come to these networks.
    fn is_still_possible(&self, shared: &Shared, new: &Negotiated) -> Result<(), IkeError> {
        let there = |child: &Child| child.state == ChildState::Installed && !self.is_replaced(child.id());
        match new.rekeys {
            Some(id) if !self.child(id).is_some_and(there) => Err(IkeError::TemporaryFailure),
            _ => self.check_claims(shared, &new.local_ts, &new.remote_ts),
        }
    }
}

fn random_link(shared: &mut Shared) -> [u8; 8] {
    let octets = shared.random_octets();
    let mut link = [0; 8];
    link.copy_from_slice(&octets[..8]);
    link
}

fn key_exchange(
    shared: &mut Shared,
    series: &Series,
    ke: &KeyExchange,
) -> Result<(Vec<u8>, crate::crypto::Secret), IkeError> {
    let group = series.groups.iter().nth(series.done);
    // "field in the KEi(n) and KEr(n) payloads MUST match the n-th negotiated additional key exchange."
    let group = group
        .filter(|group| group.method() == ke.method)
        .ok_or(IkeError::Malformed(DecodeError::Invalid {
            what: "IKE_FOLLOWUP_KE request",
            why: "its KE payload is not of the method that was negotiated",
        }))?;
    let method = (shared.provider.key_exchange)(group).ok_or(IkeError::Internal("the method is not available"))?;
    Ok(method.respond(&ke.data, &mut shared.rng)?)
}
