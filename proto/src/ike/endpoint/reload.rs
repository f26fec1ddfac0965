//! A new configuration: what did not change lives on.

use super::*;
use crate::policy::change::{Changes, ChildChange, KEYS};

impl Endpoint {
    /// A new configuration: a diff by name. Unchanged connections keep their SAs; of changed ones only what has to goes (see
    /// [`Changes`]); removed ones, and those that have to begin anew, are deleted: a [`Command::Up`] begins them again.
    pub fn reconfigure(&mut self, now: Now, config: Arc<Config>) {
        self.shared.now = now;
        let old = std::mem::replace(&mut self.shared.config, config);
        for (name, connection) in &old.connections {
            let Some(new) = self.shared.config.connections.get(name).cloned() else {
                self.end_connection(name, true);
                continue;
            };
            let changes = Changes::between(connection, &new);
            if changes.restart.is_empty() {
                self.change_connection(&new, &changes);
            } else {
                self.end_connection(name, false);
            }
        }
    }

    /// All its SAs are deleted; half-open ones would be matched with what the configuration was.
    fn end_connection(&mut self, name: &ConnectionName, removed: bool) {
        self.shared.down.retain(|(of, _)| of != name);
        self.standing.remove(name);
        self.kept.remove(name);
        self.redirects.remove(name);
        self.shared.resumption.void(self.shared.now, name);
        let mut orphans = Vec::new();
        for sa in self.sas.values_mut() {
            if let Stage::HalfOpen(half) = &mut sa.stage {
                half.candidates.retain(|candidate| candidate.name != *name);
                if half.candidates.is_empty() {
                    orphans.push(sa.own_spi());
                }
            }
        }
        let reason = if removed {
            "the connection was removed"
        } else {
            "the configuration changed"
        };
        for spi in orphans {
            self.with_sa(spi, |sa, shared| sa.close(shared, reason));
        }
        for spi in self.of_connection(name) {
            match self.sas[&spi].stage {
                Stage::Established | Stage::Rekeyed => self.delete_ike(spi),
                Stage::Closing => {}
                _ => self.with_sa(spi, |sa, shared| sa.close(shared, reason)),
            }
        }
    }

    /// What is up or under way goes on under the new configuration.
    fn change_connection(&mut self, new: &Arc<Connection>, changes: &Changes) {
        let name = &new.name;
        for (child, change) in &changes.children {
            let key = (Arc::clone(name), Arc::clone(child));
            match change {
                // Whatever is in flight for it is deleted when it is there.
                ChildChange::Removed => _ = self.shared.down.insert(key),
                ChildChange::Added => _ = self.shared.down.remove(&key),
                _ => {}
            }
        }
        for sa in self.sas.values_mut() {
            if let Stage::HalfOpen(half) = &mut sa.stage {
                for candidate in half.candidates.iter_mut().filter(|candidate| candidate.name == *name) {
                    *candidate = Arc::clone(new);
                }
            }
        }
        let ends = |change: &ChildChange| matches!(change, ChildChange::Removed | ChildChange::Restarted(_));
        let cut = changes.children.values().any(ends);
        for spi in self.of_connection(name) {
            let begins = matches!(self.sas[&spi].stage, Stage::Initiating);
            self.with_sa(spi, |sa, shared| {
                sa.connection = Some(Arc::clone(new));
                // IKE_AUTH asks for a child as it was: it begins anew.
                if begins && cut {
                    return sa.close(shared, "the configuration changed");
                }
                sa.change_children(shared, new, changes);
                sa.work(shared);
            });
        }
        // A key of either kind that was taken away takes the tickets with it that were made with it; a new one is asked for.
        if changes.in_place.contains(&"ppk") {
            self.shared.resumption.void(self.shared.now, name);
            self.drop_own_tickets(name);
        } else if changes.in_place.contains(&KEYS) {
            self.shared.resumption.recheck(self.shared.now, name);
            self.drop_own_tickets(name);
        }
        if changes.in_place.contains(&KEYS) {
            self.lock_out(name);
        }
    }

    /// RFC 5723 §6.2: "when credentials associated with the IKE SA are invalidated ..., the ticket MUST be deleted."
    fn drop_own_tickets(&mut self, name: &ConnectionName) {
        self.kept.remove(name);
        for spi in self.of_connection(name) {
            self.with_sa(spi, |sa, shared| {
                // One that is being presented: its SA would take over a proof that is looked at nowhere else.
                if sa.resumes.is_some() || matches!(sa.exchange, Some(Exchange::Resume(_))) {
                    sa.exchange = None;
                    sa.close(shared, "the configuration changed");
                    return;
                }
                if sa.ticket.take().is_some() {
                    sa.jobs.at_once(shared.now.instant, Job::AskTicket);
                    sa.work(shared);
                }
            });
        }
    }

    /// Who has lost the right to be there goes: its packets at once, its IKE SA with a Delete.
    fn lock_out(&mut self, name: &ConnectionName) {
        for spi in self.of_connection(name) {
            if !matches!(self.sas[&spi].stage, Stage::Established | Stage::Rekeyed) {
                continue;
            }
            let mut out = false;
            self.with_sa(spi, |sa, shared| {
                if let Err(error) = sa.check_proof(shared.now.unix) {
                    out = true;
                    sa.tell_error(
                        shared,
                        "what the peer proved itself with was taken away, so its SAs end",
                        &error,
                    );
                    for child in std::mem::take(&mut sa.children) {
                        child.remove(shared, "what the peer proved itself with was taken away");
                    }
                }
            });
            if out {
                self.delete_ike(spi);
            }
        }
    }
}

impl IkeSa {
    /// Whether the peer would still be taken as it was.
    fn check_proof(&self, unix: u64) -> Result<(), IkeError> {
        match (&self.connection, &self.proof, &self.peer_id) {
            (Some(connection), Some(proof), Some(id)) => Ok(proof.is_still_good(&connection.remote, id, unix)?),
            _ => Ok(()),
        }
    }

    fn change_children(&mut self, shared: &mut Shared, new: &Connection, changes: &Changes) {
        let now = shared.now.instant;
        let mut jobs = Vec::new();
        for pair in &mut self.children {
            let name = &pair.config.name;
            match changes.children.get(name) {
                Some(ChildChange::Removed | ChildChange::Restarted(_)) if pair.is_current() => {
                    pair.state = ChildState::Deleting;
                    jobs.push(Job::DeleteChild(pair.id()));
                }
                Some(ChildChange::Rekeyed(_)) if pair.is_current() => jobs.push(Job::RekeyChild(pair.id())),
                _ => {}
            }
            if let Some(config) = new.children.get(&pair.config.name) {
                pair.config = Arc::clone(config);
            }
        }
        for (name, change) in &changes.children {
            if !matches!(change, ChildChange::InPlace(_)) {
                self.parts.remove(name);
            }
            let starts = new
                .children
                .get(name)
                .is_some_and(|child| child.start_action == StartAction::Start);
            match change {
                ChildChange::Removed => {
                    self.jobs.drop_if(
                        |job| matches!(job, Job::CreateChild(queued) | Job::CreatePair(queued) if queued == name),
                    );
                }
                // What is up already is not made twice.
                _ if starts => jobs.push(Job::CreateChild(Arc::clone(name))),
                _ => {}
            }
        }
        if self.is_established() {
            jobs.into_iter().for_each(|job| self.jobs.add(now, job));
        }
    }
}
