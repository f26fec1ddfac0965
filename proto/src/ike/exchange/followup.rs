//! IKE_FOLLOWUP_KE as requester (RFC 9370 §2.2.4): the additional key exchanges after a CREATE_CHILD_SA, one after the other.
//! What was negotiated is made when the last of them is done.

use super::{Next, Request};
use crate::ike::error::IkeError;
use crate::ike::jobs::Job;
use crate::ike::kex::KeyExchanges;
use crate::ike::keys::Secrets;
use crate::ike::reason::Reason;
use crate::ike::sa::IkeSa;
use crate::ike::shared::Shared;
use crate::policy::proposal::AdditionalGroups;
use crate::wire::message::{self, FollowupKe, FollowupReply};
use crate::wire::{DecodeError, KeyExchange, Nonce, Notify, NotifyType};
use std::time::Duration;

/// A peer that has forgotten what it was doing is asked again after this.
const FORGOTTEN_WAIT: Duration = Duration::from_secs(2);
/// Another refusal, after this.
const REFUSED_WAIT: Duration = Duration::from_secs(60);
/// "several retries"
const MOST_FORGOTTEN: u32 = 3;

/// The key exchanges that follow a CREATE_CHILD_SA which has been answered.
#[derive(Clone)]
pub struct Followups {
    groups: AdditionalGroups,
    done: usize,
    kex: KeyExchanges,
    link: Vec<u8>,
    nonce_r: Nonce,
    secrets: Secrets,
}

/// What an answer leads to.
pub enum Step {
    /// The next key exchange.
    Next(Followups),
    /// All are done: the secrets and Nr.
    Complete(Secrets, Nonce),
}

/// Why there is no going on.
pub enum FollowupFailure {
    /// The peer says so; it has made nothing.
    Refused(Notify),
    /// Its answer is wrong. If it was the last, it takes what was negotiated for made.
    Wrong { error: IkeError, last: bool },
}

impl Followups {
    /// The first of them, from the answer to CREATE_CHILD_SA.
    ///
    /// # Errors
    /// The answer does not lead on.
    pub fn begin(
        shared: &mut Shared,
        groups: AdditionalGroups,
        link: Option<Vec<u8>>,
        nonce_r: Nonce,
        first: Option<crate::crypto::Secret>,
    ) -> Result<Self, IkeError> {
        let secrets = Secrets::of(first);
        Self::step(shared, groups, 0, link, nonce_r, secrets)
    }

    fn step(
        shared: &mut Shared,
        groups: AdditionalGroups,
        done: usize,
        link: Option<Vec<u8>>,
        nonce_r: Nonce,
        secrets: Secrets,
    ) -> Result<Self, IkeError> {
        // "The responder MUST include this notification in a CREATE_CHILD_SA or IKE_FOLLOWUP_KE response message in case the
        // next IKE_FOLLOWUP_KE exchange is expected".
        let link = link.ok_or(IkeError::Malformed(DecodeError::Invalid {
            what: "response",
            why: "another key exchange is to come, and there is no ADDITIONAL_KEY_EXCHANGE",
        }))?;
        let kex = groups
            .iter()
            .nth(done)
            .and_then(|group| KeyExchanges::start(shared.provider, group, &mut shared.rng))
            .ok_or(IkeError::Internal("a key exchange method is not available"))?;
        Ok(Self {
            groups,
            done,
            kex,
            link,
            nonce_r,
            secrets,
        })
    }

    /// KEi(n). "The initiator MUST send back this notification intact".
    pub fn request(&self) -> Request {
        Request(message::Request::IkeFollowupKe(FollowupKe {
            ke: KeyExchange {
                method: self.kex.group().method(),
                data: self.kex.public().to_vec(),
            },
            link: Some(self.link.clone()),
            other: vec![],
        }))
    }

    /// KEr(n).
    ///
    /// # Errors
    /// [`FollowupFailure`].
    pub fn on_reply(mut self, shared: &mut Shared, reply: FollowupReply) -> Result<Step, FollowupFailure> {
        let answer = match reply {
            FollowupReply::Accepted(answer) => answer,
            FollowupReply::Refused(notify) => return Err(FollowupFailure::Refused(notify)),
        };
        let done = self.done + 1;
        let last = self.groups.iter().nth(done).is_none();
        let wrong = |error| FollowupFailure::Wrong { error, last };
        // "field in the KEi(n) and KEr(n) payloads MUST match the n-th negotiated additional key exchange."
        if answer.ke.method != self.kex.group().method() {
            return Err(wrong(IkeError::Malformed(DecodeError::Invalid {
                what: "IKE_FOLLOWUP_KE response",
                why: "its KE payload is not of the method that was negotiated",
            })));
        }
        let secret = self.kex.finish(&answer.ke.data).map_err(|error| wrong(error.into()))?;
        self.secrets.further.push(secret);
        if last {
            return Ok(Step::Complete(self.secrets, self.nonce_r));
        }
        Self::step(shared, self.groups, done, answer.link, self.nonce_r, self.secrets)
            .map(Step::Next)
            .map_err(wrong)
    }
}

impl IkeSa {
    /// The peer refused one of a series: all of it has failed.
    pub fn followup_refused(&mut self, shared: &mut Shared, what: &str, notify: &Notify, again: Job) -> Next {
        if notify.notify_type != NotifyType::STATE_NOT_FOUND {
            let verdict = format!(
                "the peer refuses an additional key exchange of {what} with {}",
                notify.notify_type
            );
            self.tell_failure(shared, notify.notify_type.into(), verdict, vec![], vec![], None);
            return Next::Later(again, REFUSED_WAIT);
        }
        // "After receiving this notification, the initiator MAY start a new CREATE_CHILD_SA exchange"; "If the initiator
        // continues to receive STATE_NOT_FOUND notifications after several retries, it MUST treat this situation as a fatal
        // error and delete the IKE SA by sending a DELETE payload."
        self.forgotten += 1;
        if self.forgotten > MOST_FORGOTTEN {
            let verdict = format!("the peer forgets, again and again, the key exchanges of {what}");
            self.tell_failure(shared, Reason::Refused, verdict, vec![], vec![], None);
            self.jobs.add(shared.now.instant, Job::DeleteIke);
            return Next::Done;
        }
        Next::Later(again, FORGOTTEN_WAIT)
    }
}
