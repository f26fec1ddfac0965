//! Child SAs of an IKE SA: made before the old ones break, removed when nothing in flight can need them.

use super::error::IkeError;
use super::event::{ChildUp, Event, TimerKind};
use super::export;
use super::jobs::Job;
use super::keys::ChildKeys;
use super::pairs::{Further, Place};
use super::sa::IkeSa;
use super::shared::{Claim, Effect, Shared};
use crate::crypto::Secret;
use crate::ike::reason::Reason;
use crate::policy::aggfrag::{Aggfrag, Iptfs};
use crate::policy::connection;
use crate::policy::proposal::EspSuite;
use crate::policy::sad::{ChildSaEntry, ChildSaId, Encapsulation, Mode, Path, SaParameters, SadUpdate, TrafficLimits};
use crate::policy::selector::are_host;
use crate::time::Instant;
use crate::wire::NotifyType;
use crate::wire::message::ChildPayloads;
use crate::wire::{DecodeError, TrafficSelector};
use rand_core::Rng;
use std::sync::Arc;
use std::time::Duration;

/// A replaced inbound SA is kept this long after its Delete: what was sent before is then in, or lost.
const LINGER: Duration = Duration::from_secs(5);

/// A pair that we made as responder is left alone until the peer is known to have it, but not longer than this: then the
/// peer has given up asking, or it has nothing to say.
const UNCONFIRMED: Duration = Duration::from_secs(30);

/// Who rekeyed a pair deletes the old one (RFC 7296 §2.8). If that Delete does not come, we send ours after this.
const DELETE_OVERDUE: Duration = Duration::from_secs(30);

/// What a Child SA pair is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChildState {
    /// In use (or about to be: see [`Child::replaces`]).
    Installed,
    /// Another has taken its place; it is about to be deleted.
    Rekeyed,
    /// Our Delete for it is queued or on its way.
    Deleting,
    /// Deleted; inbound is still open for what is in flight.
    Lingering {
        /// Then it is removed.
        until: Instant,
    },
}

/// A Child SA pair.
#[derive(Clone)]
pub struct Child {
    pub config: Arc<connection::Child>,
    pub entry: Arc<ChildSaEntry>,
    pub suite: EspSuite,
    pub state: ChildState,
    /// The way that the data path sends it: the entry's until it moves.
    pub way: (Path, Encapsulation),
    /// Whether there are to be others with the same selectors (RFC 9611), and who asks for them.
    pub further: Further,
    /// The peer rekeyed this pair, and outbound moves over when the peer is known to use the new one.
    pub replaces: Option<ChildSaId>,
    rekeyed_from: Option<ChildSaId>,
    /// We made it as responder, and don't know yet whether our answer arrived.
    pub unconfirmed: bool,
    /// It crossed another that stays (§2.8.1): its end is no outage.
    pub redundant: bool,
    /// How the peer refused to have it rekeyed, last.
    pub refused: Option<NotifyType>,
    /// The lowest nonce of our own exchange that made it, until the peer's next request: that one may have crossed ours.
    pub contest: Option<Vec<u8>>,
    since: Instant,
    rekey_at: Option<Instant>,
    expire_at: Option<Instant>,
}

/// What was negotiated for a new pair, but for its keys.
#[derive(Clone)]
pub struct Negotiated {
    pub config: Arc<connection::Child>,
    pub suite: EspSuite,
    pub spi_in: u32,
    pub spi_out: u32,
    pub local_ts: Vec<TrafficSelector>,
    pub remote_ts: Vec<TrafficSelector>,
    pub mode: Mode,
    /// The peer did not say ESP_TFC_PADDING_NOT_SUPPORTED.
    pub takes_padding: bool,
    /// IP-TFS is agreed on.
    pub aggfrag: Option<Aggfrag>,
    /// We sent the request that made it: KEYMAT's first half is our outbound key (RFC 7296 §2.17).
    pub we_requested: bool,
    /// The pair it rekeys.
    pub rekeys: Option<ChildSaId>,
    /// Which of its child's pairs it is.
    pub place: Place,
}

impl Child {
    pub fn id(&self) -> ChildSaId {
        self.entry.id
    }

    /// Whether it is to be seen: not one that only waits for its end.
    pub fn is_current(&self) -> bool {
        matches!(self.state, ChildState::Installed)
    }

    pub fn describe(&self) -> ChildUp {
        ChildUp {
            connection: Arc::clone(&self.entry.connection),
            child: Arc::clone(&self.entry.child),
            id: self.entry.id,
            rekeyed_from: self.rekeyed_from,
            spis: (self.entry.inbound.spi, self.entry.outbound.spi),
            suite: self.suite,
            mode: self.entry.mode,
            iptfs: self.entry.aggfrag.as_ref().map(|aggfrag| aggfrag.iptfs.mode),
            pair: (self.config.pairs > 1).then_some((self.entry.resource + 1, self.config.pairs)),
            local_ts: self.entry.local_ts.clone(),
            remote_ts: self.entry.remote_ts.clone(),
            since: self.since,
            rekey_at: self.rekey_at,
        }
    }

    /// Takes the pair out of the data path and gives its SPI back.
    pub fn remove(self, shared: &mut Shared, reason: &str) {
        let ChildSaEntry {
            id,
            connection,
            child,
            resource,
            inbound,
            ..
        } = &*self.entry;
        shared.sad(SadUpdate::Remove(*id));
        shared.claims.remove(&(Arc::clone(connection), *id));
        shared.spis.release(inbound.spi);
        if self.state == ChildState::Installed || self.state == ChildState::Deleting {
            let (connection, child) = (Arc::clone(connection), Arc::clone(child));
            shared.effects.push(Effect::ChildGone {
                connection: Arc::clone(&connection),
                child: Arc::clone(&child),
                resource: *resource,
            });
            if self.redundant {
                return;
            }
            shared.event(Event::ChildDown {
                connection,
                child,
                id: *id,
                reason: reason.to_owned(),
            });
        }
    }
}

/// IP-TFS as a child has it on a path. RFC 9347 §5.1: "the USE_AGGFRAG notification MUST NOT be combined with the
/// USE_TRANSPORT notification." Over TCP there is none: packets of one size at a rate are not what a stream carries.
pub fn wanted_aggfrag<'a>(config: &'a connection::Child, path: &Path) -> Option<&'a Iptfs> {
    let iptfs = config.iptfs.as_ref();
    iptfs.filter(|_| config.mode == Mode::Tunnel && !path.is_tcp())
}

/// Whether a child is not to be without IP-TFS.
pub fn requires_aggfrag(config: &connection::Child) -> bool {
    config.mode == Mode::Tunnel && config.iptfs.as_ref().is_some_and(|iptfs| iptfs.required)
}

/// RFC 7296 §2.8.1: "the timing of rekeying requests SHOULD be jittered": up to a tenth is taken from the soft limits by
/// traffic. The hard ones are as they are.
fn jittered(shared: &mut Shared, limits: TrafficLimits) -> TrafficLimits {
    let mut less = |limit: Option<u64>| {
        let share = u128::from(shared.rng.next_u32() % 1001);
        limit.map(|limit| limit - u64::try_from(u128::from(limit) * share / 10_000).unwrap_or(0))
    };
    TrafficLimits {
        soft_bytes: less(limits.soft_bytes),
        soft_packets: less(limits.soft_packets),
        ..limits
    }
}

impl IkeSa {
    /// Installs a pair. Inbound is open before the peer is told; outbound is used at once, or, if the peer rekeys, when the
    /// peer is known to have the new pair (RFC 7296 §2.8).
    /// Without `activate` (a redundant pair, about to be deleted) outbound is never used.
    pub fn install(&mut self, shared: &mut Shared, new: Negotiated, mut keys: ChildKeys, activate: bool) -> ChildSaId {
        let id = shared.child_id();
        let Negotiated {
            config,
            suite,
            spi_in,
            spi_out,
            local_ts,
            remote_ts,
            mode,
            takes_padding,
            aggfrag,
            we_requested,
            rekeys,
            place,
        } = new;
        let origin = keys.origin.take();
        let (key_out, key_in) = if we_requested {
            (keys.initiator_to_responder, keys.responder_to_initiator)
        } else {
            (keys.responder_to_initiator, keys.initiator_to_responder)
        };
        let parameters = |spi, key| SaParameters {
            spi,
            suite: suite.cipher,
            key,
            esn: suite.esn,
        };
        let entry = Arc::new(ChildSaEntry {
            id,
            connection: self.name().unwrap_or_else(|| "".into()),
            child: Arc::clone(&config.name),
            resource: place.resource,
            inbound: parameters(spi_in, key_in),
            outbound: parameters(spi_out, key_out),
            local_ts,
            remote_ts,
            path: self.path,
            encapsulation: self.encapsulation(),
            mode,
            replay_window: config.replay_window,
            // RFC 7296 §1.3.1: ESP_TFC_PADDING_NOT_SUPPORTED "asserts that the sending endpoint will not accept packets that
            // contain Traffic Flow Confidentiality (TFC) padding over the Child SA being negotiated".
            tfc_padding: config.tfc_padding.filter(|_| takes_padding && mode == Mode::Tunnel),
            aggfrag,
            limits: jittered(shared, config.limits),
            iv_seed: Secret::new(shared.random_octets().to_vec()),
        });
        if let Some(origin) = origin {
            export::child(shared, &entry, suite, &origin);
        }
        if let Some(peer) = self.peer_id.clone() {
            let entry = Arc::clone(&entry);
            shared
                .claims
                .insert((Arc::clone(&entry.connection), id), Claim { peer, entry });
        }
        shared.sad(SadUpdate::InstallInbound(Arc::clone(&entry)));
        let wait_for_peer = rekeys.is_some() && !we_requested;
        if activate && !wait_for_peer {
            shared.sad(SadUpdate::ActivateOutbound { id, replaces: rekeys });
        }
        let now = shared.now.instant;
        // RFC 7296 §2.8.1: "lifetimes ... SHOULD be jittered". The responder of a rekey waits a little longer, so that the
        // same side as before usually does the next.
        let rekey_at = config
            .rekey_time
            .map(|time| now + time.saturating_sub(shared.jitter(config.rand_time)));
        let child = Child {
            expire_at: config.life_time.map(|time| now + time),
            since: now,
            rekey_at,
            rekeyed_from: rekeys,
            unconfirmed: false,
            redundant: false,
            refused: None,
            contest: None,
            further: place.further,
            replaces: rekeys.filter(|_| wait_for_peer),
            config,
            entry,
            suite,
            way: (self.path, self.encapsulation()),
            state: ChildState::Installed,
        };
        shared.event(Event::ChildUp(child.describe()));
        self.children.push(child);
        if activate {
            self.look_for_pairs(now, id);
        }
        id
    }

    /// Whether a Child SA with these selectors can be in transport mode: it is wanted, each side's selectors are the address
    /// by which the SA reaches it, and nothing in between translates addresses. RFC 7296 §2.23.1 has rules for transport mode
    /// through a NAT; tunnel mode does the same there without rewriting what is inside.
    pub fn transport_fits(
        &self,
        config: &connection::Child,
        local_ts: &[TrafficSelector],
        remote_ts: &[TrafficSelector],
    ) -> bool {
        let translated = self.nat.local || (self.nat.remote && !self.nat.pretended);
        config.mode == Mode::Transport
            && !translated
            && are_host(local_ts, self.path.local.ip())
            && are_host(remote_ts, self.path.remote.ip())
    }

    /// What the peer's answer to our offer means. RFC 7296 §1.3.1: "If the responder declines the request, the Child SA
    /// will be established in tunnel mode." It protects the same traffic, so it is taken.
    ///
    /// # Errors
    /// Transport mode that was not offered.
    pub fn answered_mode(&self, config: &connection::Child, answer: &ChildPayloads) -> Result<Mode, IkeError> {
        match answer.transport_mode {
            false => Ok(Mode::Tunnel),
            true if self.transport_fits(config, &answer.ts_i, &answer.ts_r) => Ok(Mode::Transport),
            true => Err(IkeError::Malformed(DecodeError::Invalid {
                what: "USE_TRANSPORT_MODE",
                why: "it was not asked for, or not for these selectors",
            })),
        }
    }

    /// What the peer's answer says about IP-TFS. RFC 9347 §5.1: "If the responder declines the request, the Child SA will be
    /// established without AGGFRAG_PAYLOAD payload use enabled. If this is unacceptable to the initiator, the initiator MUST
    /// delete the Child SA."
    ///
    /// # Errors
    /// It is required and declined; it was not asked for, or demands what we can't do: the peer would then send what we
    /// don't take.
    pub fn answered_aggfrag(
        &self,
        config: &connection::Child,
        answer: &ChildPayloads,
    ) -> Result<Option<Aggfrag>, IkeError> {
        let asked = config.iptfs.as_ref().filter(|_| config.mode == Mode::Tunnel);
        match (Aggfrag::agree(asked, answer.aggfrag), answer.aggfrag) {
            (None, Some(_)) if asked.is_none() || answer.transport_mode => {
                Err(IkeError::Malformed(DecodeError::Invalid {
                    what: "USE_AGGFRAG",
                    why: "it was not asked for",
                }))
            }
            (None, Some(_)) => Err(IkeError::NoAggfrag),
            (None, None) if requires_aggfrag(config) => Err(IkeError::NoAggfrag),
            // The SA went over to TCP meanwhile.
            (Some(_), _) if self.path.is_tcp() => Err(IkeError::NoAggfrag),
            (agreed, _) => Ok(agreed),
        }
    }

    pub fn child(&self, id: ChildSaId) -> Option<&Child> {
        self.children.iter().find(|child| child.id() == id)
    }

    pub fn child_mut(&mut self, id: ChildSaId) -> Option<&mut Child> {
        self.children.iter_mut().find(|child| child.id() == id)
    }

    /// Whether another pair has taken its place already, by either end's rekey.
    pub fn is_replaced(&self, id: ChildSaId) -> bool {
        self.children
            .iter()
            .any(|child| child.rekeyed_from == Some(id) && child.is_current())
    }

    /// By the SPI the peer calls it: its inbound, our outbound. Those that only linger are gone for the peer.
    pub fn child_by_peer_spi(&self, spi: u32) -> Option<&Child> {
        let alive = self
            .children
            .iter()
            .filter(|child| !matches!(child.state, ChildState::Lingering { .. }));
        alive.into_iter().find(|child| child.entry.outbound.spi == spi)
    }

    /// From when on we may ask the peer something about this pair. RFC 7296 §2.8 (timing windows): a peer that has not had
    /// our answer knows no such SA: it would answer a rekey with CHILD_SA_NOT_FOUND, and a Delete would pass it by.
    pub fn unconfirmed_until(&self, id: ChildSaId) -> Option<Instant> {
        let child = self.child(id).filter(|child| child.unconfirmed)?;
        Some(child.since + UNCONFIRMED)
    }

    /// The peer sent another request (§2.3: with a window of one it has the answer to the one before), or packets on the
    /// pair: it has what we made as responder.
    pub fn confirm(&mut self, shared: &Shared, only: Option<ChildSaId>) {
        for child in &mut self.children {
            if child.unconfirmed && only.is_none_or(|id| child.id() == id) {
                child.unconfirmed = false;
                let id = child.id();
                let about = |job: &Job| matches!(job, Job::RekeyChild(x) | Job::DeleteChild(x) if *x == id);
                self.jobs.hurry(shared.now.instant, about);
            }
        }
    }

    /// The peer rekeyed this pair: see [`DELETE_OVERDUE`].
    pub fn expect_delete(&mut self, now: Instant, id: ChildSaId) {
        self.jobs.add(now + DELETE_OVERDUE, Job::DeleteChild(id));
    }

    /// A limit is reached at which the outbound half stops: the pair is deleted, and one that replaces it sends at once,
    /// whether the peer is known to have it or not.
    pub fn hard_limit(&mut self, shared: &mut Shared, id: ChildSaId) {
        self.take_over_from(shared, id);
        self.delete_now(shared.now.instant, id);
    }

    /// The Delete may be queued for later.
    pub fn delete_now(&mut self, now: Instant, id: ChildSaId) {
        self.jobs.at_once(now, Job::DeleteChild(id));
    }

    /// The pair sends no more: the one that waits to replace it does.
    pub fn take_over_from(&mut self, shared: &mut Shared, id: ChildSaId) {
        let successor = self.children.iter().find(|child| child.replaces == Some(id));
        if let Some(successor) = successor.map(Child::id) {
            self.move_over_to(shared, successor);
        }
    }

    /// Outbound moves over from the pair that was rekeyed to the one that replaces it, if it still waits for that.
    pub fn move_over_to(&mut self, shared: &mut Shared, id: ChildSaId) {
        if let Some(replaces) = self.child_mut(id).and_then(|child| child.replaces.take()) {
            shared.sad(SadUpdate::ActivateOutbound {
                id,
                replaces: Some(replaces),
            });
        }
    }

    /// The pair is deleted, by the peer or not. One that was replaced lingers; another goes at once.
    pub fn end_child(&mut self, shared: &mut Shared, id: ChildSaId, by_peer: bool, reason: &str) {
        self.take_over_from(shared, id);
        let Some(index) = self.children.iter().position(|child| child.id() == id) else {
            return;
        };
        if self.is_replaced(id) {
            self.children[index].state = ChildState::Lingering {
                until: shared.now.instant + LINGER,
            };
            return;
        }
        let child = self.children.swap_remove(index);
        let config = Arc::clone(&child.config);
        let ours = child.further == Further::Ours && !child.redundant;
        child.remove(shared, reason);
        self.want_again(shared, &config, by_peer);
        if ours && !by_peer {
            self.want_pair_again(shared, &config.name);
        }
    }

    /// A pair of this child is gone, or did not come about; because the peer wanted that, or not.
    pub fn want_again(&mut self, shared: &mut Shared, config: &connection::Child, by_peer: bool) {
        let name = Arc::clone(&config.name);
        let action = if by_peer {
            config.close_action
        } else {
            config.start_action
        };
        let wanted =
            action == connection::StartAction::Start && !shared.is_down(self.connection.as_deref(), &config.name);
        // What is to be up always comes back, but not at once: the peer had its reason.
        if wanted && self.is_established() && self.next_offer(config).is_some() {
            let wait = Duration::from_secs(1) + shared.jitter(Duration::from_secs(1));
            self.jobs.add(shared.now.instant + wait, Job::CreateChild(name));
        }
    }

    /// Lifetimes and lingering.
    pub fn children_timeout(&mut self, shared: &mut Shared) {
        let now = shared.now.instant;
        for index in (0..self.children.len()).rev() {
            let child = &mut self.children[index];
            match child.state {
                ChildState::Lingering { until } if until <= now => {
                    self.children.swap_remove(index).remove(shared, "replaced")
                }
                ChildState::Installed if child.rekey_at.is_some_and(|at| at <= now) => {
                    child.rekey_at = None;
                    let job = Job::RekeyChild(child.id());
                    self.jobs.add(now, job);
                }
                _ => {}
            }
        }
        let expired =
            |child: &&Child| child.state == ChildState::Installed && child.expire_at.is_some_and(|at| at <= now);
        let expired: Vec<ChildSaId> = self.children.iter().filter(expired).map(Child::id).collect();
        expired.into_iter().for_each(|id| self.expire(shared, id));
    }

    /// RFC 7296 §2.8: "When the lifetime of a Security Association expires, the Security Association MUST NOT be used."
    fn expire(&mut self, shared: &mut Shared, id: ChildSaId) {
        let now = shared.now.instant;
        self.take_over_from(shared, id);
        let replaced = self.is_replaced(id);
        let Some(child) = self.child_mut(id) else { return };
        child.state = ChildState::Deleting;
        child.expire_at = None;
        let (name, refused) = (Arc::clone(&child.config.name), child.refused);
        let to_be_rekeyed = child.config.rekey_time.is_some() && !replaced;
        let life = child.config.life_time.unwrap_or_default();
        shared.sad(SadUpdate::DeactivateOutbound(id));
        if !to_be_rekeyed {
            return self.delete_now(now, id);
        }
        // §2.8: "If an SA has expired or is about to expire and rekeying attempts using the mechanisms described here fail,
        // an implementation MUST close the IKE SA and any associated Child SAs and then MAY start new ones."
        let why = refused.map_or_else(
            || "no rekey was completed".to_owned(),
            |notify| format!("the peer refused each rekey, last with {notify}"),
        );
        let verdict = format!(
            "the lifetime of Child SA {name} ({} s) is over: {why}; the IKE SA is closed and begun anew",
            life.as_secs()
        );
        let hint =
            "see the failures told before this one; a peer that never rekeys needs the tunnel to begin anew each time";
        self.tell_failure(shared, Reason::Expired, verdict, vec![], vec![], Some(hint.to_owned()));
        self.jobs.add(now, Job::DeleteIke);
    }

    /// When [`Self::children_timeout`] has something to do.
    pub fn children_next(&self) -> Option<(Instant, TimerKind)> {
        let timers = self.children.iter().flat_map(|child| match child.state {
            ChildState::Installed => [
                child.rekey_at.map(|at| (at, TimerKind::RekeyChild)),
                child.expire_at.map(|at| (at, TimerKind::ExpireChild)),
            ],
            ChildState::Lingering { until } => [Some((until, TimerKind::LingerInbound)), None],
            ChildState::Rekeyed | ChildState::Deleting => [None, None],
        });
        timers.flatten().min()
    }
}
