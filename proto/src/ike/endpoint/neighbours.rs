//! What the fate of one SA means for the others and for its connection.

use super::*;
use crate::ike::stream::tcp_path;
use crate::policy::connection::TcpUse;

/// Both ends began at once: after this the redundant SA is deleted.
const DUPLICATE_WAIT: Duration = Duration::from_secs(3);

/// Established IKE SAs with one peer by one connection; beyond that the oldest go.
const MOST_SAS_OF_A_PEER: usize = 8;

/// A reauthentication that failed is tried again after this, as long as the old SA lives.
const REAUTH_RETRY: Duration = Duration::from_secs(60);

impl Endpoint {
    /// Whether no other IKE SA is up with the peer of this one, by whatever connection: only then INITIAL_CONTACT is true
    /// (RFC 7296 §2.4: "the only IKE SA currently active between the authenticated identities").
    pub(super) fn is_alone(&self, spi: IkeSpi) -> bool {
        let Some(connection) = self.sas.get(&spi).and_then(|sa| sa.connection.clone()) else {
            return false;
        };
        let wanted = connection.remote.id.as_ref();
        !self.sas.values().any(|other| {
            let same_peer = || {
                wanted
                    .zip(other.peer_id.as_ref())
                    .is_some_and(|(id, peer)| id.same(peer))
            };
            other.own_spi() != spi
                && other.is_established()
                && (other.name().as_ref() == Some(&connection.name) || same_peer())
        })
    }

    /// Sends by the newest pair that is left of a child in this place, in whatever IKE SA it is. The child's pairs in other places
    /// send anyhow.
    pub(super) fn fall_back(&mut self, connection: &ConnectionName, child: &ChildName, resource: u16) {
        let left = self
            .sas
            .values()
            .filter(|sa| sa.is_established() && sa.name().as_ref() == Some(connection))
            .flat_map(|sa| &sa.children)
            .filter(|pair| pair.is_current() && pair.replaces.is_none())
            .filter(|pair| pair.config.name == *child && pair.entry.resource == resource);
        if let Some(id) = left.map(Child::id).max() {
            self.shared.sad(SadUpdate::ActivateOutbound { id, replaces: None });
        }
    }

    /// Both sides rekeyed the same IKE SA, and it is decided which of the new ones stays (RFC 7296 §2.8.2).
    pub(super) fn settle(&mut self, from: IkeSpi, to: Option<IkeSpi>) {
        let overdue = IkeSa::delete_overdue(self.shared.now.instant);
        let Some(theirs) = self.sas.get_mut(&from) else { return };
        if theirs.contested.take().is_none() {
            return;
        }
        if to.is_some() {
            theirs.drop_series(&mut self.shared, |_| true);
        }
        let given = to.map(|to| (to, theirs.give_away(overdue)));
        self.with_sa(from, IkeSa::work);
        if let Some((to, (children, jobs))) = given {
            self.with_sa(to, |sa, shared| {
                sa.inherit(children, jobs);
                sa.work(shared);
            });
        }
    }

    /// The peer deleted the new SA that it had made while our own rekey is still under way: ours will inherit.
    pub(super) fn hand_back(&mut self, to: IkeSpi, children: Vec<Child>, jobs: Jobs) {
        match self.sas.get_mut(&to) {
            Some(old) if old.counts() || matches!(old.stage, Stage::Rekeyed) => {
                if let Some(Exchange::RekeyIke(ours)) = &mut old.exchange {
                    ours.crossing = None;
                }
                old.inherit(children, jobs);
            }
            _ => children
                .into_iter()
                .for_each(|child| child.remove(&mut self.shared, "the peer deleted its IKE SA")),
        }
        self.reindex(to);
    }

    /// RFC 7296 §2.4: the peer has no other IKE SA with us: what we still have under its proven identity is gone. But what
    /// came up after the peer began this SA, the peer may not have known of when it said so: both ends began at once.
    pub(super) fn initial_contact(&mut self, newest: IkeSpi, connection: &ConnectionName, peer: &Identification) {
        let Some(known) = self.sas.get(&newest).map(|sa| sa.known) else {
            return;
        };
        let older = |sa: &IkeSa| matches!(sa.stage, Stage::Established | Stage::Rekeyed) && sa.number <= known;
        let same_peer = |sa: &IkeSa| {
            sa.own_spi() != newest
                && sa.name().as_ref() == Some(connection)
                && sa.peer_id.as_ref().is_some_and(|id| id.same(peer))
        };
        let old = self.sas.values().filter(|sa| older(sa) && same_peer(sa));
        let old: Vec<IkeSpi> = old.map(IkeSa::own_spi).collect();
        for spi in old {
            self.with_sa(spi, |sa, shared| {
                sa.close(shared, "the peer began anew (INITIAL_CONTACT)")
            });
        }
    }

    /// An SA is gone: what is wanted is tried again, for ever, with growing waits and jitter, or at once.
    pub(super) fn went_down(&mut self, connection: Option<ConnectionName>, again: bool, at_once: bool) {
        if self.shutting_down {
            return self.check_shutdown();
        }
        // Where we are sent comes first.
        let Some(name) = connection.filter(|name| !self.is_sent(name)) else {
            return;
        };
        let keep_trying = self
            .shared
            .config
            .connections
            .get(&name)
            .is_some_and(|connection| connection.keep_trying);
        let another = self
            .sas
            .values()
            .any(|sa| sa.counts() && sa.name().as_ref() == Some(&name));
        let Some(standing) = self.standing.get_mut(&name).filter(|standing| standing.wanted) else {
            return;
        };
        if another || !keep_trying {
            return;
        }
        if !again {
            standing.wanted = false;
            return;
        }
        let (first, longest) = self.shared.config.gateway.retry;
        let wait = first.saturating_mul(1 << standing.failures.min(16)).min(longest);
        standing.failures += 1;
        let wait = if at_once { Duration::ZERO } else { wait };
        let at = self.shared.now.instant + wait + self.shared.jitter(wait / 4);
        self.shared.event(Event::NeedTarget { connection: name, at });
    }

    pub(super) fn check_shutdown(&mut self) {
        let open = self.sas.values().any(|sa| !matches!(sa.stage, Stage::Closed { .. }));
        if self.shutting_down && !open {
            self.shared.event(Event::ShutdownComplete);
        }
    }

    /// Both ends began at once, and both SAs are up: the one made with the lowest nonce is deleted by the end that made it,
    /// as §2.8.2 has it for rekeys, whoever has rekeyed it since. (If the other end knows nothing of the loser, nothing is lost either.) After a while: the other one's children have to be up first.
    pub(super) fn one_of_two(&mut self, newest: IkeSpi) {
        let Some(new) = self.sas.get(&newest) else { return };
        let crossed = |old: &&IkeSa| {
            old.ours != new.ours && old.own_spi() != newest && old.is_established() && same_peer(new, old)
        };
        let Some(old) = self.sas.values().find(crossed) else {
            return;
        };
        let loser = if new.lowest_nonce() < old.lowest_nonce() {
            new
        } else {
            old
        };
        if !loser.ours {
            return;
        }
        let spi = loser.own_spi();
        self.with_sa(spi, |sa, shared| {
            sa.jobs.add(shared.now.instant + DUPLICATE_WAIT, Job::DeleteIke)
        });
    }

    /// A peer may have several IKE SAs by one connection (it restarts, it authenticates anew), but not any number.
    pub(super) fn not_too_many(&mut self, newest: IkeSpi) {
        let Some(new) = self.sas.get(&newest) else { return };
        let same = |old: &&IkeSa| old.is_established() && same_peer(new, old);
        let mut all: Vec<(u64, IkeSpi)> = self
            .sas
            .values()
            .filter(same)
            .map(|sa| (sa.number, sa.own_spi()))
            .collect();
        all.sort_unstable();
        for (_, spi) in all.iter().take(all.len().saturating_sub(MOST_SAS_OF_A_PEER)) {
            self.delete_ike(*spi);
        }
    }

    /// We are about to delete this SA: where another SA has a pair for the same child, that one sends from now on.
    pub(super) fn leave(&mut self, spi: IkeSpi) {
        let Some(leaving) = self.sas.get(&spi) else { return };
        let others = |sa: &&IkeSa| sa.own_spi() != spi && sa.is_established() && takes_the_place(sa, leaving);
        let mut moves = Vec::new();
        for pair in &leaving.children {
            let left = self.sas.values().filter(others).flat_map(|sa| &sa.children);
            let left = left.filter(|other| other.is_current() && other.config.name == pair.config.name);
            // A child may be up in parts: then the one that has the same traffic.
            let covers = |other: &Child| {
                is_subset(&pair.entry.local_ts, &other.entry.local_ts)
                    && is_subset(&pair.entry.remote_ts, &other.entry.remote_ts)
            };
            // And of several with the same traffic the one in the same place.
            let same_place = |other: &Child| other.entry.resource == pair.entry.resource;
            let best = left.max_by_key(|other| (covers(other), same_place(other), other.id()));
            moves.extend(best.map(|other| (other.id(), pair.id())));
        }
        for (id, old) in moves {
            let replaces = Some(old);
            self.shared.sad(SadUpdate::ActivateOutbound { id, replaces });
        }
    }

    /// §2.8.3: "Reauthentication is done by creating a new IKE SA from scratch (using IKE_SA_INIT/IKE_AUTH exchanges, without
    /// any REKEY_SA Notify payloads), creating new Child SAs within the new IKE SA (without REKEY_SA Notify payloads), and
    /// finally deleting the old IKE SA (which deletes the old Child SAs as well)."
    pub(super) fn reauthenticate(&mut self, old: IkeSpi) {
        let Some(old) = self.sas.get(&old).filter(|sa| sa.is_established()) else {
            return;
        };
        let Some(connection) = old.connection.clone().filter(|_| !self.shutting_down) else {
            return;
        };
        // One is made that takes its place already, or is about to be: elsewhere.
        if self.goes_elsewhere(&connection.name, None) {
            return self.not_reauthenticated(&connection.name);
        }
        let children = old.children.iter().filter(|pair| pair.is_current());
        let mut children: Vec<ChildName> = children.map(|pair| Arc::clone(&pair.config.name)).collect();
        children.sort();
        children.dedup();
        let port = self.shared.config.gateway.nat_port;
        let at = |address: SocketAddr| SocketAddr::new(address.ip(), port);
        // As any attempt: RFC 9329 §5.1: "always attempt to negotiate IKE over UDP first". §6.1: "Multiple IKE SAs MUST NOT share
        // a single TCP connection, unless one is a rekey of an existing IKE SA".
        let path = match connection.tcp_use() {
            TcpUse::Always => tcp_path(&connection, old.path.local.ip(), old.path.remote.ip()),
            _ if !old.path.is_tcp() => old.path,
            TcpUse::Never | TcpUse::Accept | TcpUse::Fallback => Path::udp(at(old.path.local), at(old.path.remote)),
        };
        let spi = self.shared.ike_spi();
        let mut sa = IkeSa::new(&self.shared, spi, IkeSpi::ZERO, true, Stage::Initiating, path);
        sa.connection = Some(Arc::clone(&connection));
        sa.reauthenticates = true;
        let mut children = children.into_iter();
        sa.wanted = children.next();
        children.for_each(|child| sa.jobs.add(self.shared.now.instant, Job::CreateChild(child)));
        self.begin(sa, None);
    }

    /// The old SA is still there; tried again in a while.
    pub(super) fn not_reauthenticated(&mut self, connection: &ConnectionName) {
        for spi in self.established(Some(connection)) {
            self.with_sa(spi, |sa, shared| {
                let soon = shared.now.instant + REAUTH_RETRY + shared.jitter(REAUTH_RETRY / 2);
                if std::mem::take(&mut sa.reauth.begun) {
                    sa.reauth.own = Some(soon);
                }
            });
        }
        self.sent_meanwhile(connection);
    }

    /// A new SA with all children is up beside the older ones: those go.
    pub(super) fn replace_older(&mut self, newest: IkeSpi) {
        let Some(new) = self.sas.get(&newest) else { return };
        let older = |sa: &&IkeSa| sa.number < new.number && sa.ours && sa.is_established() && takes_the_place(new, sa);
        let older: Vec<IkeSpi> = self.sas.values().filter(older).map(IkeSa::own_spi).collect();
        let name = new.name();
        for spi in older {
            self.delete_ike(spi);
        }
        if let Some(name) = name {
            self.sent_meanwhile(&name);
        }
    }
}

/// Whether one is to the other's peer; or made beside it with the gateway that we were sent to, which may have another identity
/// (RFC 5685 §3: "or both should be part of a group of responders that are authorized by the same PAD entry").
fn takes_the_place(new: &IkeSa, old: &IkeSa) -> bool {
    let sent = new.redirection.beside && old.ours && old.number < new.number;
    same_peer(new, old) || sent && new.name() == old.name()
}

pub(super) fn same_peer(a: &IkeSa, b: &IkeSa) -> bool {
    let same_id = a
        .peer_id
        .as_ref()
        .zip(b.peer_id.as_ref())
        .is_some_and(|(a, b)| a.same(b));
    same_id && a.name() == b.name()
}
