//! Rekeying the IKE SA (RFC 7296 §1.3.2, §2.8, §2.18): the new SA inherits the Child SAs and the jobs of the old one, which
//! lives on until it is deleted.
//!
//! Whoever answers a rekey hands over at once, so the new SA is good for whatever comes by it. If our own rekey of the same
//! SA is in flight then, the peer's SA is *contested*: it answers, but begins nothing, until the nonces have decided
//! (§2.8.2).

use super::child::Child;
use super::collision::{Crossing, IkeActivity, IkeRequest, Verdict, ike_verdict};
use super::error::IkeError;
use super::event::{Event, IkeUp};
use super::exchange::Exchange;
use super::followup::Makes;
use super::jobs::{Job, Jobs};
use super::keys::{Binding, IkeKeys, Secrets};
use super::respond::Reply;
use super::sa::{IkeSa, Stage};
use super::shared::{Effect, Shared};
use crate::crypto::Group;
use crate::policy::proposal::{IkeProposal, IkeSuite};
use crate::time::Instant;
use crate::wire::message::{CreateChildSaReply, CreateChildSaRequest, Response, TicketAnswer};
use crate::wire::{DecodeError, IkeSpi, KeyExchange, Nonce, Notify, NotifyType, SecurityAssociation};
use std::time::Duration;

/// Who rekeyed an IKE SA deletes it (§2.8). If that Delete does not come, we send ours after this.
const DELETE_OVERDUE: Duration = Duration::from_secs(20);

/// Octets of an IKE SPI in a proposal (§3.3.1).
pub const IKE_SPI: usize = 8;

/// What was negotiated for a new IKE SA.
#[derive(Clone, Copy)]
pub struct Successor {
    pub spi_i: IkeSpi,
    pub spi_r: IkeSpi,
    /// We sent the request, so we are the new SA's original initiator (§1.3.2).
    pub initiator: bool,
    pub suite: IkeSuite,
    /// When the rekey began.
    pub began: Instant,
}

impl IkeSa {
    /// What we are doing with this IKE SA, as far as a request of the peer may cross it.
    pub fn ike_activity(&self) -> IkeActivity {
        if matches!(self.stage, Stage::Closing | Stage::Rekeyed) || self.jobs.has(&Job::DeleteIke) {
            return IkeActivity::Closing;
        }
        match &self.exchange {
            Some(Exchange::RekeyIke(ours)) if ours.is_following_up() => IkeActivity::FollowingUp,
            Some(Exchange::RekeyIke(_)) => IkeActivity::Rekeying,
            Some(exchange) if exchange.concerns_a_child() => IkeActivity::ChildBusy,
            // Whether this SA stays is not decided yet: it can't be rekeyed in its turn.
            _ if self.contested.is_some() => IkeActivity::ChildBusy,
            _ => IkeActivity::Idle,
        }
    }

    /// The answer to a request to rekey this IKE SA (§1.3.2).
    ///
    /// # Errors
    /// Why it is refused.
    pub fn respond_rekey_ike(
        &mut self,
        shared: &mut Shared,
        offer: &SecurityAssociation,
        request: &CreateChildSaRequest,
    ) -> Result<Reply, IkeError> {
        if ike_verdict(self.ike_activity(), IkeRequest::Rekey) == Verdict::TemporaryFailure {
            return Err(IkeError::TemporaryFailure);
        }
        let connection = self.connection.clone().ok_or(IkeError::Internal("no connection"))?;
        // §2.18: "a successful exchange rekeying the IKE SA always includes the KEi/KEr payloads".
        let ke = request.ke.as_ref().ok_or(IkeError::Malformed(DecodeError::Rule {
            exchange: "CREATE_CHILD_SA request",
            payload: "KE",
            problem: "is missing",
        }))?;
        let ke_group = Group::from_method(ke.method);
        let chosen = {
            // What protects this SA protects the next (see `rekey_proposals`), so a rekey without them is no less.
            let all = &connection.ike_proposals;
            let plain = IkeProposal::without_additional(all);
            IkeProposal::choose(all, offer, IKE_SPI, ke_group)
                .or_else(|_| IkeProposal::choose(&plain, offer, IKE_SPI, ke_group))?
        };
        let group = chosen.suite.group;
        if ke.method != group.method() {
            return Err(IkeError::InvalidKe(group));
        }
        let spi_i = peer_ike_spi(&chosen.peer_spi)?;
        let method = (shared.provider.key_exchange)(group).ok_or(IkeError::Internal("the group is not available"))?;
        let (public, secret) = method.respond(&ke.data, &mut shared.rng)?;
        let (spi_r, nonce) = (shared.ike_spi(), shared.nonce());
        let parts = Successor {
            spi_i,
            spi_r,
            initiator: false,
            suite: chosen.suite,
            began: shared.now.instant,
        };
        let nonces = [request.nonce.clone(), nonce.clone()];
        if let Some(Exchange::RekeyIke(ours)) = &mut self.exchange {
            // §2.25.2: "it SHOULD reply as usual, and SHOULD prepare to close redundant SAs and move inherited Child SAs
            // later based on the nonces".
            ours.crossing = Some(Crossing::new(&nonces));
        }
        let secrets = Secrets::of(Some(secret));
        let additional = chosen.suite.additional;
        // RFC 5723 §4.1: "when an IKE SA is rekeyed (and only when this exchange is initiated by the client)". While key
        // exchanges are to follow there is no SK_d yet that a ticket could hold.
        let is_request = |notify: &Notify| notify.notify_type == NotifyType::TICKET_REQUEST;
        let asks = request.other.iter().any(is_request);
        let (link, ticket) = if additional.is_empty() {
            (None, self.complete_ike(shared, parts, &secrets, &nonces, asks)?)
        } else {
            let link = self.begin_series(shared, additional, secrets, nonces, Makes::Ike(parts));
            (Some(link), asks.then_some(TicketAnswer::Later))
        };
        let mut proposal = chosen.answer;
        proposal.spi = spi_r.0.to_vec();
        let response = CreateChildSaReply::Ike {
            sa: SecurityAssociation {
                proposals: vec![proposal],
            },
            nonce,
            ke: KeyExchange {
                method: group.method(),
                data: public,
            },
            link,
            // RFC 6290 §4.3: "After rekeying an IKE SA, the IKE SPIs are replaced, so the new SA also needs to have a token."
            other: shared
                .token_notify(false, spi_i, spi_r)
                .into_iter()
                .chain(ticket.iter().map(TicketAnswer::notify))
                .collect(),
        };
        Ok(Reply {
            response: Response::CreateChildSa(response),
            close: None,
        })
    }

    /// The peer's rekey of this SA has all it needs: the new SA takes over. Returns its ticket, if the peer asks for one.
    ///
    /// # Errors
    /// This one is on its way out, or has been replaced.
    pub fn complete_ike(
        &mut self,
        shared: &mut Shared,
        parts: Successor,
        secrets: &Secrets,
        nonces: &[Nonce; 2],
        asks_for_a_ticket: bool,
    ) -> Result<Option<TicketAnswer>, IkeError> {
        if ike_verdict(self.ike_activity(), IkeRequest::Rekey) == Verdict::TemporaryFailure {
            return Err(IkeError::TemporaryFailure);
        }
        let [ni, nr] = nonces;
        let mut successor = self.successor(shared, &parts, secrets, [ni, nr])?;
        let own_spi = self.own_spi();
        if let Some(Exchange::RekeyIke(ours)) = &mut self.exchange
            && let Some(theirs) = &mut ours.crossing
            && theirs.complete(nonces, successor.own_spi())
        {
            successor.contested = Some(own_spi);
        }
        let ticket = asks_for_a_ticket.then(|| successor.grant_ticket(shared));
        self.hand_over(shared, successor, shared.now.instant + DELETE_OVERDUE);
        Ok(ticket)
    }

    /// What is offered in a rekey: additional key exchanges if this SA had some, since then the peer knows them. Else none:
    /// SK_d of the old SA goes into the new one's keys (RFC 7296 §2.18), so what protected that one protects this one.
    pub fn rekey_proposals(&self) -> Vec<IkeProposal> {
        let all = self.connection.as_ref().map(|connection| &connection.ike_proposals[..]);
        let all = all.unwrap_or_default();
        match self.suite {
            Some(suite) if !suite.additional.is_empty() => all.to_vec(),
            _ => IkeProposal::without_additional(all),
        }
    }

    /// The IKE SA that replaces this one, still without children.
    ///
    /// # Errors
    /// [`IkeError::Internal`]: the provider lacks an algorithm.
    pub fn successor(
        &self,
        shared: &mut Shared,
        parts: &Successor,
        secrets: &Secrets,
        [ni, nr]: [&Nonce; 2],
    ) -> Result<Self, IkeError> {
        let (ni, nr) = (&ni.0[..], &nr.0[..]);
        let (spi_i, spi_r) = (parts.spi_i, parts.spi_r);
        let binding = Binding { ni, nr, spi_i, spi_r };
        let old: Option<&IkeKeys> = self.keys.as_ref();
        let keys = old.and_then(|keys| keys.rekey(shared.provider, parts.suite, secrets, &binding));
        // §2.18: "The new IKE SA MUST reset its message counters to 0": that is how a new one begins.
        let mut new = Self::new(shared, spi_i, spi_r, parts.initiator, Stage::Established, self.path);
        new.connection.clone_from(&self.connection);
        if !new.set_keys(shared, keys) {
            return Err(IkeError::Internal("an algorithm is not available"));
        }
        new.ours = self.ours;
        new.inherited_nonce = self.lowest_nonce().to_vec();
        new.nat = self.nat;
        new.mobike = self.mobike.inherit();
        new.stream = self.stream.inherit();
        new.redirection = self.redirection;
        new.announced.clone_from(&self.announced);
        new.suite = Some(parts.suite);
        new.parts.clone_from(&self.parts);
        new.peer_id.clone_from(&self.peer_id);
        new.peer_fragments = self.peer_fragments;
        new.peer_hashes.clone_from(&self.peer_hashes);
        new.peer_grants = self.peer_grants;
        // SK_d of this one is in the new one's keys.
        new.post_quantum = self.post_quantum || parts.suite.is_post_quantum();
        // RFC 8784 §3: a PPK "MUST NOT be used when these subkeys are calculated as result of IKE SA rekey": it is in SK_d.
        new.ppk.used = self.ppk.used;
        new.proof.clone_from(&self.proof);
        new.began = parts.began;
        new.number = self.number;
        new.reauth = self.reauth;
        new.begin_lifetime(shared);
        Ok(new)
    }

    /// The new SA takes over what this one has; this one is deleted at `delete_at`, unless the peer does it before.
    /// §2.8.2: the "surviving new IKE SA MUST inherit all the Child SAs".
    pub fn hand_over(&mut self, shared: &mut Shared, mut new: Self, delete_at: Instant) {
        // What the peer had begun by this one is over: its keys would come from this one's.
        self.drop_series(shared, |_| true);
        // RFC 5723 §6.2: "When the IKE SA is rekeyed, the ticket is invalidated, and the client SHOULD request a new ticket."
        self.withdraw_ticket(shared);
        if new.peer_grants && new.ours {
            new.jobs.add(shared.now.instant, Job::AskTicket);
        }
        let (children, jobs) = self.give_away(delete_at);
        new.inherit(children, jobs);
        if let (Some(connection), Some(suite), Some(peer)) = (new.name(), new.suite, new.peer_id.clone()) {
            shared.event(Event::IkeUp(IkeUp {
                connection,
                spi_i: new.spi_i,
                spi_r: new.spi_r,
                initiator: new.initiator,
                peer,
                peer_certificate: new.peer_certificate(),
                suite,
                post_quantum: new.post_quantum,
                ppk: new.ppk.used,
                path: new.path,
                nat: new.nat,
                encapsulation: new.encapsulation(),
                why_tcp: new.why_tcp(),
                setup_time: shared.now.instant.saturating_since(new.began),
                resumed: false,
                rekeyed_from: Some(self.spi_i),
            }));
        }
        shared.effects.push(Effect::Successor(Box::new(new)));
    }

    /// Another SA has taken this one's place: all it still does is to be deleted.
    pub fn give_away(&mut self, delete_at: Instant) -> (Vec<Child>, Jobs) {
        let before = std::mem::replace(&mut self.stage, Stage::Rekeyed);
        (self.rekey_at, self.expire_at) = (None, None);
        // `reauth` stays, though this one does not look at it any more. RFC 4478 §2: "If the IKE SA is rekeyed, then the time limit
        // applies to the new SA": our own rekey of it may still be answered.
        self.ticket = None;
        let mut jobs = std::mem::take(&mut self.jobs);
        // What is about this very SA does not move. An order to delete the IKE SA is about whichever there is, unless it
        // was given because another had taken this one's place already.
        let replaced = matches!(before, Stage::Rekeyed);
        let own = |job: &Job| {
            matches!(
                job,
                Job::RekeyIke | Job::Liveness | Job::TellToken | Job::AskTicket | Job::TryUdp
            )
        };
        jobs.drop_if(|job| own(job) || replaced && *job == Job::DeleteIke);
        self.jobs.add(delete_at, Job::DeleteIke);
        (std::mem::take(&mut self.children), jobs)
    }

    /// Takes over what another gave away.
    pub fn inherit(&mut self, children: Vec<Child>, jobs: Jobs) {
        self.children.extend(children);
        self.jobs.append(jobs);
    }

    /// See [`DELETE_OVERDUE`].
    pub fn delete_overdue(now: Instant) -> Instant {
        now + DELETE_OVERDUE
    }

    /// The lifetime begins: a rekey in time (§2.8.1: rekey times are jittered, so that the two ends seldom choose the same
    /// moment), and the end if none succeeds.
    pub fn begin_lifetime(&mut self, shared: &mut Shared) {
        let now = shared.now.instant;
        self.established = Some(now);
        let connection = self.connection.clone();
        // §2.8.3: only who began can begin anew, since only he is known to be able to. A rekey does not put it off.
        let reauth = connection.as_ref().and_then(|connection| connection.reauth_time);
        if let Some(time) = reauth.filter(|_| self.ours && self.reauth.own.is_none()) {
            self.reauth.own = Some(now + time.saturating_sub(shared.jitter(time / 10)));
        }
        let time = connection.and_then(|connection| connection.ike_rekey_time);
        let Some(time) = time else { return };
        self.rekey_at = Some(now + time.saturating_sub(shared.jitter(time / 10)));
        self.rekey_early(shared, time);
        // §2.8: an SA that can't be rekeyed is closed; a tenth of its time is left for trying again.
        self.expire_at = Some(now + time + time / 10);
    }

    /// Its lifetime: the job to rekey it, or to end it.
    pub fn lifetime_timeout(&mut self, shared: &mut Shared) {
        let now = shared.now.instant;
        self.reauth_timeout(shared);
        if self.rekey_at.take_if(|at| *at <= now).is_some() {
            self.jobs.add(now, Job::RekeyIke);
        }
        if self.expire_at.take_if(|at| *at <= now).is_some() {
            // §2.8: "If an SA has expired or is about to expire and rekeying attempts using the mechanisms described here
            // fail, an implementation MUST close the IKE SA and any associated Child SAs and then MAY start new ones."
            self.jobs.add(now, Job::DeleteIke);
        }
    }
}

/// A peer's SPI for a new IKE SA: eight octets, not zero (§3.1).
///
/// # Errors
/// [`IkeError::Malformed`].
pub fn peer_ike_spi(octets: &[u8]) -> Result<IkeSpi, IkeError> {
    let spi = <[u8; IKE_SPI]>::try_from(octets).map(IkeSpi).ok();
    spi.filter(|spi| *spi != IkeSpi::ZERO)
        .ok_or(IkeError::Malformed(DecodeError::Invalid {
            what: "proposal",
            why: "the IKE SPI is zero or of another length",
        }))
}
