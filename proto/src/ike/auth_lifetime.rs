//! Repeated authentication at the responder's wish (RFC 4478): AUTH_LIFETIME says how long an IKE SA is good without another
//! proof. The responder ends what lasts longer; the initiator authenticates anew before, make-before-break as it does at its own
//! wish (RFC 7296 §2.8.3).

use super::jobs::Job;
use super::sa::IkeSa;
use super::shared::{Effect, Shared};
use crate::policy::connection::Connection;
use crate::time::Instant;
use crate::wire::{Notify, NotifyType};
use std::time::Duration;

/// §5: "An Initiator MAY set reasonable limits on the amount of time in the AUTH_LIFETIME notification." An IKE SA lives at least
/// so long before the peer's wish is followed: it is not to keep us busy.
const LEAST: Duration = Duration::from_secs(10);

/// §2: "The original Responder that sends the AUTH_LIFETIME notification SHOULD send a DELETE notification soon after the end of
/// the lifetime period": so long after it, at most, for an attempt that is under way.
const GRACE: Duration = Duration::from_secs(60);

/// When an IKE SA has to be authenticated anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reauthentication {
    /// As initiator: our own wish. A rekey does not put it off.
    pub own: Option<Instant>,
    /// As initiator: the peer's, with time left for it.
    pub asked: Option<Instant>,
    /// As responder: the end, if the peer does not do it.
    pub end: Option<Instant>,
    /// As initiator: it was begun; if it fails, it is begun again.
    pub begun: bool,
}

impl Reauthentication {
    /// When there is something to do: to begin as initiator, to end it as responder.
    pub fn due(&self) -> Option<Instant> {
        self.own.into_iter().chain(self.asked).chain(self.end).min()
    }
}

/// §3: "Lifetime is the amount of time (in seconds) left before the peer should repeat the Initial exchange."
pub fn as_notify(left: Duration) -> Notify {
    let seconds = u32::try_from(left.as_secs()).unwrap_or(u32::MAX);
    Notify::new(NotifyType::AUTH_LIFETIME, seconds.to_be_bytes().to_vec())
}

impl IkeSa {
    /// As responder, with the answer to IKE_AUTH: the lifetime begins. "The Responder MUST send this information to the Initiator
    /// in an AUTH_LIFETIME notification" (§2).
    pub fn announce_lifetime(&mut self, shared: &Shared, connection: &Connection) -> Option<Notify> {
        let time = connection.reauth_time.filter(|_| !self.ours)?;
        let (now, grace) = (shared.now.instant, (time / 10).min(GRACE));
        // A resumed SA was authenticated when the one before was (RFC 5723 §5: "ticket lifetime is bounded by this duration").
        let end = now + time + grace;
        let end = self.reauth.end.map_or(end, |before| before.min(end));
        self.reauth.end = Some(end);
        Some(as_notify(end.saturating_since(now + grace)))
    }

    /// As initiator: what the peer announces, in IKE_AUTH or later. "If the IKE SA is rekeyed, then the time limit applies to the
    /// new SA"; "The time is measured from the time that the original Initiator receives the notification." It "does not override
    /// any security policy on the Initiator" (§5): our own time stays, if it is shorter.
    pub fn hear_lifetime(&mut self, shared: &mut Shared, notifies: &[Notify]) {
        let announced = notifies
            .iter()
            .find(|notify| notify.notify_type == NotifyType::AUTH_LIFETIME);
        let seconds = announced.and_then(|notify| <[u8; 4]>::try_from(notify.data.as_slice()).ok());
        let Some(seconds) = seconds.filter(|_| self.ours && !self.reauth.begun) else {
            return;
        };
        let time = Duration::from_secs(u32::from_be_bytes(seconds).into());
        let now = shared.now.instant;
        // A tenth is left for it, and up to another is taken off at random: many peers of one gateway don't come at once.
        let begin = now + time - time / 10 - shared.jitter(time / 10);
        let least = self.established.unwrap_or(now) + LEAST;
        self.reauth.asked = Some(begin.max(least));
    }

    /// It is time to authenticate anew, or, as responder, for the end.
    pub fn reauth_timeout(&mut self, shared: &mut Shared) {
        let now = shared.now.instant;
        let due = |at: &mut Instant| *at <= now;
        let asked = self.reauth.asked.take_if(due).is_some();
        if self.reauth.own.take_if(due).is_some() || asked {
            (self.reauth.own, self.reauth.asked) = (None, None);
            self.reauth.begun = true;
            shared.effects.push(Effect::Reauthenticate { spi: self.own_spi() });
        }
        if self.reauth.end.take_if(due).is_some() {
            self.tell_lifetime_over(shared);
            self.jobs.add(now, Job::DeleteIke);
        }
    }

    fn tell_lifetime_over(&self, shared: &mut Shared) {
        let verdict = "the peer did not authenticate itself anew within reauth_time: its SAs end".to_owned();
        let hint =
            "a peer that does not know AUTH_LIFETIME (RFC 4478) has to be configured to authenticate anew by itself";
        let reason = super::reason::Reason::Expired;
        self.tell_failure(shared, reason, verdict, vec![], vec![], Some(hint.to_owned()));
    }
}
