//! What an IKE SA means to do: a queue by priority, since only one request is in flight (RFC 7296 §2.3).

use crate::policy::sad::{ChildName, ChildSaId};
use crate::time::Instant;
use crate::wire::GatewayIdentity;

/// One intent. The order is the priority: what ends SAs comes first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Job {
    /// Tell the peer of our addresses, or find out about its (RFC 4555): the rest waits for a way that works.
    UpdateAddresses,
    /// Delete the IKE SA and all its children.
    DeleteIke,
    /// Delete a Child SA pair.
    DeleteChild(ChildSaId),
    /// Delete an inbound SPI that was offered and answered, but never became a Child SA here.
    DeleteStillborn(u32),
    /// Send the peer to another gateway (RFC 5685 §5).
    Redirect(GatewayIdentity),
    /// Rekey the IKE SA. Before the jobs that are done as well on the new one (RFC 7296 §1.3.2).
    RekeyIke,
    /// Rekey a Child SA pair.
    RekeyChild(ChildSaId),
    /// Make a Child SA for a configured child.
    CreateChild(ChildName),
    /// Make another pair beside one that is up (RFC 9611).
    CreatePair(ChildName),
    /// Tell the peer our token for an IKE SA that we have rekeyed (RFC 6290 §4.3).
    TellToken,
    /// Ask for a ticket (RFC 5723 §4.1).
    AskTicket,
    /// Ask whether the peer is there.
    Liveness,
    /// Ask by UDP, from an IKE SA over TCP (RFC 9329).
    TryUdp,
}

/// Jobs and the time from which on each may start.
#[derive(Clone, Debug, Default)]
pub struct Jobs {
    queue: Vec<(Instant, Job)>,
}

impl Jobs {
    /// Queues a job unless it is queued already.
    pub fn add(&mut self, not_before: Instant, job: Job) {
        if !self.queue.iter().any(|(_, queued)| *queued == job) {
            self.queue.push((not_before, job));
        }
    }

    /// Takes the job of the highest priority among those that may start now and that a test lets through.
    pub fn take(&mut self, now: Instant, may_begin: impl Fn(&Job) -> bool) -> Option<Job> {
        let due = self.queue.iter().enumerate();
        let due = due.filter(|(_, (at, job))| *at <= now && may_begin(job));
        let (index, _) = due.min_by(|(_, (_, a)), (_, (_, b))| a.cmp(b))?;
        Some(self.queue.swap_remove(index).1)
    }

    /// When the next job of those that a test lets through may start.
    #[must_use]
    pub fn next(&self, may_begin: impl Fn(&Job) -> bool) -> Option<Instant> {
        let may_begin = self.queue.iter().filter(|(_, job)| may_begin(job));
        may_begin.map(|(at, _)| *at).min()
    }

    /// Whether a job is queued.
    #[must_use]
    pub fn has(&self, job: &Job) -> bool {
        self.queue.iter().any(|(_, queued)| queued == job)
    }

    /// Whether a job of a kind is queued.
    #[must_use]
    pub fn any(&self, pick: impl Fn(&Job) -> bool) -> bool {
        self.queue.iter().any(|(_, job)| pick(job))
    }

    /// The children that Child SAs are to be made for.
    #[must_use]
    pub fn children(&self) -> Vec<ChildName> {
        let child = |(_, job): &(Instant, Job)| match job {
            Job::CreateChild(child) => Some(child.clone()),
            _ => None,
        };
        self.queue.iter().filter_map(child).collect()
    }

    /// How many are queued.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Queues a job that may start at once, also if it is queued for later already.
    pub fn at_once(&mut self, now: Instant, job: Job) {
        self.drop_if(|queued| *queued == job);
        self.add(now, job);
    }

    /// Lets those that a test picks start from `now` on.
    pub fn hurry(&mut self, now: Instant, pick: impl Fn(&Job) -> bool) {
        let picked = self.queue.iter_mut().filter(|(at, job)| *at > now && pick(job));
        picked.for_each(|(at, _)| *at = now);
    }

    /// Queues what another queue held.
    pub fn append(&mut self, other: Self) {
        other.queue.into_iter().for_each(|(at, job)| self.add(at, job));
    }

    /// The SPIs that are to be given back when the queue is dropped.
    pub fn stillborn(self) -> impl Iterator<Item = u32> {
        self.queue.into_iter().filter_map(|(_, job)| match job {
            Job::DeleteStillborn(spi) => Some(spi),
            _ => None,
        })
    }

    /// Drops all jobs that a test picks.
    pub fn drop_if(&mut self, pick: impl Fn(&Job) -> bool) {
        self.queue.retain(|(_, job)| !pick(job));
    }
}
