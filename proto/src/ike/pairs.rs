//! Several Child SA pairs of one child with the same selectors (RFC 9611), so that each core may have one of its own.
//!
//! Pairs of one child with the same selectors in one IKE SA stand beside each other, each in a place with a number: the
//! `resource` of its SAD entry. They are equals: whichever goes, the others stay, and the child is up as long as one is. Who
//! has begun the first begins the others, one after the other, and looks whether some are missing whenever the one in the
//! first place is new: made, or rekeyed, by either end. What the peer has deleted is therefore not asked for at once.

use super::child::{Child, Negotiated};
use super::error::IkeError;
use super::exchange::Exchange;
use super::followup::Makes;
use super::jobs::Job;
use super::parts::MOST;
use super::sa::IkeSa;
use super::shared::Shared;
use crate::policy::aggfrag::Aggfrag;
use crate::policy::connection;
use crate::policy::proposal::{EspProposal, EspSuite};
use crate::policy::sad::{ChildName, ChildSaId, Mode};
use crate::policy::selector::is_subset;
use crate::policy::spi::owner_of;
use crate::time::Instant;
use crate::wire::TrafficSelector;
use crate::wire::message::ChildPayloads;
use std::sync::Arc;
use std::time::Duration;

/// Child SAs of an IKE SA: so many for each child configured (several may be narrowed from one, and old ones linger), or one
/// for each two of its selectors, and so many besides. Then NO_ADDITIONAL_SAS (RFC 7296 §1.3); rekeys may go to twice that.
const PAIRS_A_CHILD: usize = 4;
/// See [`PAIRS_A_CHILD`].
const PAIRS_BESIDES: usize = 16;
/// With several for the same selectors (RFC 9611 §7: "RECOMMENDED that an implementation limits the maximum number of additional
/// Child SAs") not more than this for a child in all its parts.
const PAIRS_FOR_CORES: usize = 512;

/// What a group of pairs has in common: selectors on our side and on the peer's.
type Selectors<'a> = (&'a [TrafficSelector], &'a [TrafficSelector]);

/// Whether there are to be other pairs beside one. RFC 9611 §3: the initiator "will add the SA_RESOURCE_INFO notify payload to
/// the Exchange negotiating the Child SA", and a "responder that is willing to have multiple Child SAs for the same Traffic
/// Selectors will respond by also adding the SA_RESOURCE_INFO notify payload".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Further {
    /// One end at least has not said so.
    #[default]
    No,
    /// Both have, and we began: we ask for the others.
    Ours,
    /// Both have, and the peer began: it asks.
    Theirs,
}

/// Which of its child's pairs a new one is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// See [`crate::policy::sad::ChildSaEntry::resource`].
    pub resource: u16,
    pub further: Further,
}

impl Place {
    /// With the peer's answer to what we asked for.
    pub fn answered(self, config: &connection::Child, answer: &ChildPayloads) -> Self {
        let further = match self.further {
            Further::No if config.pairs > 1 && answer.resource_info => Further::Ours,
            agreed => agreed,
        };
        Self { further, ..self }
    }
}

/// What a further pair has to be like. §3: "These resource-specific Child SAs MUST be negotiated with identical Child SA
/// properties that were negotiated for the initial Child SA. This includes cryptographic algorithms, Traffic Selectors, Mode
/// (e.g., transport mode), compression usage, etc."
#[derive(Clone)]
pub struct Model {
    suite: EspSuite,
    pub mode: Mode,
    pub aggfrag: Option<Aggfrag>,
    pub local_ts: Vec<TrafficSelector>,
    pub remote_ts: Vec<TrafficSelector>,
}

impl Model {
    pub fn of(child: &Child) -> Self {
        let entry = &child.entry;
        Self {
            suite: child.suite,
            mode: entry.mode,
            aggfrag: entry.aggfrag,
            local_ts: entry.local_ts.clone(),
            remote_ts: entry.remote_ts.clone(),
        }
    }

    /// What of our proposals is like it. One that was made in IKE_AUTH has no key exchange of its own (RFC 7296 §1.2), which
    /// says nothing about the others: theirs is what is configured.
    pub fn proposals(&self, all: &[EspProposal]) -> Vec<EspProposal> {
        let EspSuite { cipher, group, esn, .. } = self.suite;
        let fits = |own: &&EspProposal| {
            let integrity = cipher.integrity.is_none_or(|wanted| own.integrity.contains(&wanted));
            let group = group.is_none_or(|wanted| own.groups.contains(&wanted));
            integrity && group && own.encryption.contains(&cipher.encryption) && own.esn.contains(&esn)
        };
        let like = |own: &EspProposal| EspProposal {
            encryption: vec![cipher.encryption],
            integrity: cipher.integrity.into_iter().collect(),
            groups: group.map_or_else(|| own.groups.clone(), |group| vec![group]),
            additional: own.additional.clone(),
            esn: vec![esn],
        };
        all.iter().filter(fits).map(like).collect()
    }

    /// # Errors
    /// [`IkeError::NotAlike`].
    pub fn check(&self, new: &Negotiated) -> Result<(), IkeError> {
        let differs = [
            (
                "the encryption",
                (new.suite.cipher, new.suite.esn) != (self.suite.cipher, self.suite.esn),
            ),
            (
                "the selectors",
                !same((&new.local_ts, &new.remote_ts), (&self.local_ts, &self.remote_ts)),
            ),
            ("the mode", new.mode != self.mode),
            (
                "IP-TFS",
                new.aggfrag.map(|agreed| agreed.peer) != self.aggfrag.map(|agreed| agreed.peer),
            ),
        ];
        match differs.into_iter().find(|(_, differs)| *differs) {
            Some((what, _)) => Err(IkeError::NotAlike(what)),
            None => Ok(()),
        }
    }
}

/// Whether two lists of selectors mean the same, for either side.
fn same((a_local, a_remote): Selectors<'_>, (b_local, b_remote): Selectors<'_>) -> bool {
    let alike = |a: &[TrafficSelector], b: &[TrafficSelector]| is_subset(a, b) && is_subset(b, a);
    alike(a_local, b_local) && alike(a_remote, b_remote)
}

/// Pairs with the same selectors that are accepted. §6: "allowing at the very least double the number of available CPUs is
/// RECOMMENDED."
const fn most(config: &connection::Child) -> usize {
    config.pairs as usize * 2
}

impl IkeSa {
    /// What an authenticated peer may pile up has an end too. `said`: it asks with SA_RESOURCE_INFO.
    ///
    /// # Errors
    /// [`IkeError::NoAdditionalSas`], [`IkeError::MaxQueue`].
    pub fn has_room(&self, connection: &connection::Connection, said: bool, is_rekey: bool) -> Result<(), IkeError> {
        let pairs = |child: &Arc<connection::Child>| {
            let parts = (child.local_ts.len() * child.remote_ts.len()).min(MOST);
            parts.max(PAIRS_A_CHILD).max((parts * most(child)).min(PAIRS_FOR_CORES))
        };
        let room = connection.children.values().map(pairs).sum::<usize>() + PAIRS_BESIDES;
        match self.children.len() < if is_rekey { 2 * room } else { room } {
            true => Ok(()),
            false if said && !is_rekey => Err(IkeError::MaxQueue),
            false => Err(IkeError::NoAdditionalSas),
        }
    }

    /// The pairs of a child with these selectors that are up and stay.
    fn beside<'a>(&'a self, name: &'a ChildName, selectors: Selectors<'a>) -> impl Iterator<Item = &'a Child> {
        let stays = |child: &&Child| child.is_current() && !self.is_replaced(child.id());
        self.children.iter().filter(stays).filter(move |child| {
            child.config.name == *name && same((&child.entry.local_ts, &child.entry.remote_ts), selectors)
        })
    }

    /// The places that those take, and what is being made.
    fn places<'a>(&'a self, name: &'a ChildName, selectors: Selectors<'a>) -> impl Iterator<Item = u16> + 'a {
        let asked = match &self.exchange {
            Some(Exchange::CreateChild(ours)) if ours.name() == name => ours.further_place(),
            _ => None,
        };
        let asked = asked.filter(|(model, _)| same((&model.local_ts, &model.remote_ts), selectors));
        let granted = self.series.iter().filter_map(move |series| match &series.makes {
            Makes::Child(new, _) if new.rekeys.is_none() && new.config.name == *name => {
                same((&new.local_ts, &new.remote_ts), selectors).then_some(new.place.resource)
            }
            _ => None,
        });
        let up = self.beside(name, selectors).map(|child| child.entry.resource);
        up.chain(asked.map(|(_, resource)| resource)).chain(granted)
    }

    /// The place for another. §4: "Responders should install the additional Child SA on a CPU with the least amount of
    /// additional Child SAs for this TSi/TSr pair."
    pub fn free_place(&self, config: &connection::Child, selectors: Selectors<'_>) -> u16 {
        let uses = |place: &u16| {
            let taken = self.places(&config.name, selectors);
            taken.filter(|taken| taken == place).count()
        };
        (0..config.pairs.max(1)).min_by_key(uses).unwrap_or(0)
    }

    /// What the peer asks for: in which place it goes, and what it has to be like. `said`: with SA_RESOURCE_INFO.
    ///
    /// # Errors
    /// [`IkeError::MaxQueue`].
    pub fn grant_place(
        &self,
        config: &connection::Child,
        selectors: Selectors<'_>,
        said: bool,
        rekeys: Option<&Child>,
    ) -> Result<(Place, Option<Model>), IkeError> {
        let willing = said && config.pairs > 1;
        if let Some(old) = rekeys {
            // §3: "the rekeyed Child SA should be bound to the same resource(s) as the Child SA that is being rekeyed."
            let further = match old.further {
                Further::No if willing => Further::Theirs,
                agreed => agreed,
            };
            let resource = old.entry.resource;
            return Ok((Place { resource, further }, None));
        }
        if !willing {
            return Ok((Place::default(), None));
        }
        if self.places(&config.name, selectors).count() >= most(config) {
            return Err(IkeError::MaxQueue);
        }
        let place = Place {
            resource: self.free_place(config, selectors),
            further: Further::Theirs,
        };
        let first = self
            .beside(&config.name, selectors)
            .find(|child| child.further != Further::No);
        Ok((place, first.map(Model::of)))
    }

    /// The worker for a pair in this place: those of one child are spread over all of them.
    pub fn owner_for(
        &self,
        shared: &Shared,
        config: &connection::Child,
        selectors: Selectors<'_>,
        resource: u16,
    ) -> Option<u8> {
        let workers = u16::from(shared.config.gateway.workers.max(1));
        let other = self
            .beside(&config.name, selectors)
            .next()
            .filter(|_| config.pairs > 1)?;
        let owner = u16::from(owner_of(other.entry.inbound.spi)) % workers;
        let steps = resource % workers + workers - other.entry.resource % workers;
        u8::try_from((owner + steps) % workers).ok()
    }

    /// A pair beside which we are to make another.
    pub fn to_be_joined(&self, config: &connection::Child) -> Option<Model> {
        let ours = |child: &&Child| {
            child.config.name == config.name
                && child.further == Further::Ours
                && child.is_current()
                && !self.is_replaced(child.id())
        };
        let short = |child: &&Child| {
            let selectors = (&child.entry.local_ts[..], &child.entry.remote_ts[..]);
            self.places(&config.name, selectors).count() < usize::from(config.pairs)
        };
        self.children.iter().filter(ours).find(short).map(Model::of)
    }

    /// A pair is new: if it is in the first place and the others are ours to ask for, we look whether one is missing.
    pub fn look_for_pairs(&mut self, now: Instant, id: ChildSaId) {
        let Some(child) = self.child(id).filter(|child| child.further == Further::Ours) else {
            return;
        };
        let selectors = (&child.entry.local_ts[..], &child.entry.remote_ts[..]);
        let first = self
            .beside(&child.config.name, selectors)
            .map(|other| other.entry.resource)
            .min();
        if first == Some(child.entry.resource) {
            let name = Arc::clone(&child.config.name);
            self.jobs.at_once(now, Job::CreatePair(name));
        }
    }

    /// We have ended one, which is to be replaced. (Where the peer did it is not: §6: "bringing the deleted per-CPU Child SA
    /// up again immediately after receiving the Delete Notify might cause an infinite loop between the peers.")
    pub fn want_pair_again(&mut self, shared: &mut Shared, name: &ChildName) {
        let wait = Duration::from_secs(1) + shared.jitter(Duration::from_secs(1));
        if self.is_established() {
            self.jobs
                .add(shared.now.instant + wait, Job::CreatePair(Arc::clone(name)));
        }
    }

    /// The peer has answered for a pair that we asked for beside the first: what it asks for from now on did not cross the first.
    pub fn end_contest(&mut self, name: &ChildName) {
        let children = self.children.iter_mut().filter(|child| child.config.name == *name);
        children.for_each(|child| child.contest = None);
    }
}
