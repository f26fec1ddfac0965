//! What the operator wants: commands, and a new configuration.

use super::*;
use crate::ike::stream::tcp_path;
use crate::policy::connection::TcpUse;

impl Endpoint {
    /// From the operator.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn handle_command(&mut self, now: Now, command: Command) -> Result<(), CommandError> {
        self.shared.now = now;
        match command {
            Command::Up {
                connection,
                child,
                target,
            } => self.up(&connection, child, target),
            Command::Down { connection, child } => self.down(&connection, child.as_ref()),
            Command::RekeyChild { connection, child } => self.rekey(&connection, child.as_ref()),
            Command::RekeyIke { connection } => self.rekey_ike(&connection),
            Command::Redirect { connection, to } => self.redirect(&connection, to),
            Command::Follow { connection, target } => self.follow(&connection, target),
            Command::Shutdown => {
                self.shutting_down = true;
                self.standing.clear();
                self.kept.clear();
                self.redirects.clear();
                let up = |sa: &&IkeSa| matches!(sa.stage, Stage::Established | Stage::Rekeyed);
                let up: Vec<IkeSpi> = self.sas.values().filter(up).map(IkeSa::own_spi).collect();
                for spi in up {
                    self.delete_ike(spi);
                }
                let begun = |sa: &&IkeSa| matches!(sa.stage, Stage::Initiating | Stage::HalfOpen(_));
                let begun: Vec<IkeSpi> = self.sas.values().filter(begun).map(IkeSa::own_spi).collect();
                for spi in begun {
                    self.with_sa(spi, |sa, shared| sa.close(shared, "the gateway stops"));
                }
                self.check_shutdown();
                Ok(())
            }
        }
    }

    pub(super) fn known(
        &self,
        connection: &ConnectionName,
        child: Option<&ChildName>,
    ) -> Result<Arc<Connection>, CommandError> {
        if self.shutting_down {
            return Err(CommandError::ShuttingDown);
        }
        let found = self.shared.config.connections.get(connection);
        let found = found.ok_or_else(|| CommandError::UnknownConnection(Arc::clone(connection)))?;
        match child {
            Some(child) if !found.children.contains_key(child) => {
                Err(CommandError::UnknownChild(Arc::clone(connection), Arc::clone(child)))
            }
            _ => Ok(Arc::clone(found)),
        }
    }

    pub(super) fn up(
        &mut self,
        name: &ConnectionName,
        child: Option<ChildName>,
        target: Target,
    ) -> Result<(), CommandError> {
        let connection = self.known(name, child.as_ref())?;
        self.standing.entry(Arc::clone(name)).or_default().wanted = true;
        self.shared
            .down
            .retain(|(of, down)| of != name || child.as_ref().is_some_and(|child| child != down));
        let now = self.shared.now.instant;
        // One that is about to be deleted is none.
        let stays = |spi: &IkeSpi| self.sas.get(spi).is_some_and(|sa| !sa.jobs.has(&Job::DeleteIke));
        let trapped = self.standing.get_mut(name).and_then(|standing| standing.trapped.take());
        let children = match child.or(trapped) {
            Some(child) => vec![child],
            None => to_bring_up(&connection),
        };
        if let Some(spi) = self.established(Some(name)).into_iter().find(stays) {
            self.with_sa(spi, |sa, shared| {
                for child in children {
                    // Who asks for a child wants all of it.
                    sa.jobs.add(now, Job::CreatePair(Arc::clone(&child)));
                    sa.jobs.add(now, Job::CreateChild(child));
                }
                sa.work(shared);
            });
            return Ok(());
        }
        // Where we were sent before is not wanted any more. (Of an SA that is up, only its children are wanted.)
        self.stay(name);
        let trying = self
            .sas
            .values()
            .any(|sa| sa.name().as_ref() == Some(name) && matches!(sa.stage, Stage::Initiating));
        if trying {
            return Ok(());
        }
        let spi = self.shared.ike_spi();
        let path = match connection.tcp_use() {
            TcpUse::Always => tcp_path(&connection, target.local.ip(), target.remote.ip()),
            TcpUse::Never | TcpUse::Accept | TcpUse::Fallback => Path::udp(target.local, target.remote),
        };
        let mut sa = IkeSa::new(&self.shared, spi, IkeSpi::ZERO, true, Stage::Initiating, path);
        sa.connection = Some(Arc::clone(&connection));
        let mut children = children.into_iter();
        sa.wanted = children.next();
        children.for_each(|child| sa.jobs.add(self.shared.now.instant, Job::CreateChild(child)));
        let kept = self.kept_ticket(&connection, &target);
        self.begin(sa, kept);
        Ok(())
    }

    pub(super) fn down(&mut self, name: &ConnectionName, child: Option<&ChildName>) -> Result<(), CommandError> {
        self.known(name, child)?;
        let now = self.shared.now.instant;
        let Some(child) = child else {
            self.standing.remove(name);
            self.kept.remove(name);
            self.stay(name);
            let all: Vec<IkeSpi> = self.of_connection(name);
            for spi in all {
                if matches!(self.sas[&spi].stage, Stage::Established | Stage::Rekeyed) {
                    self.delete_ike(spi);
                } else if !matches!(self.sas[&spi].stage, Stage::Closing) {
                    self.with_sa(spi, |sa, shared| sa.close(shared, "taken down"));
                }
            }
            return Ok(());
        };
        // It stays so whatever is in flight for it, and in the next IKE SA too.
        self.shared.down.insert((Arc::clone(name), Arc::clone(child)));
        for spi in self.established(Some(name)) {
            self.with_sa(spi, |sa, shared| {
                let mut ids = Vec::new();
                for pair in sa
                    .children
                    .iter_mut()
                    .filter(|c| c.is_current() && c.config.name == *child)
                {
                    pair.state = ChildState::Deleting;
                    ids.push(pair.id());
                }
                sa.jobs.drop_if(
                    |job| matches!(job, Job::CreateChild(queued) | Job::CreatePair(queued) if queued == child),
                );
                ids.into_iter().for_each(|id| sa.jobs.add(now, Job::DeleteChild(id)));
                sa.work(shared);
            });
        }
        Ok(())
    }

    pub(super) fn rekey(&mut self, name: &ConnectionName, child: Option<&ChildName>) -> Result<(), CommandError> {
        self.known(name, child)?;
        let now = self.shared.now.instant;
        let established = self.established(Some(name));
        if established.is_empty() {
            return Err(CommandError::NotEstablished(Arc::clone(name)));
        }
        for spi in established {
            self.with_sa(spi, |sa, shared| {
                let fits = |c: &&Child| c.is_current() && child.is_none_or(|wanted| c.config.name == *wanted);
                let ids: Vec<_> = sa.children.iter().filter(fits).map(|c| c.id()).collect();
                ids.into_iter().for_each(|id| sa.jobs.add(now, Job::RekeyChild(id)));
                sa.work(shared);
            });
        }
        Ok(())
    }

    fn rekey_ike(&mut self, name: &ConnectionName) -> Result<(), CommandError> {
        self.known(name, None)?;
        let now = self.shared.now.instant;
        let established = self.established(Some(name));
        if established.is_empty() {
            return Err(CommandError::NotEstablished(Arc::clone(name)));
        }
        for spi in established {
            self.with_sa(spi, |sa, shared| {
                // One that has been rekeyed is on its way out.
                if matches!(sa.stage, Stage::Established) {
                    sa.jobs.add(now, Job::RekeyIke);
                    sa.work(shared);
                }
            });
        }
        Ok(())
    }

    /// A packet wants to go where no SA is yet: its connection is brought up.
    pub(super) fn acquire(&mut self, source: IpAddr, destination: IpAddr) {
        // By addresses alone: what protocol it was is not told, and its child's selectors decide when it is up.
        let covers = |list: &[wire::TrafficSelector], address: IpAddr| {
            list.iter().any(|selector| match selector {
                wire::TrafficSelector::Range { start, end, .. } => (start..=end).contains(&&address),
                wire::TrafficSelector::Unknown { .. } => false,
            })
        };
        let wanted = self.shared.config.connections.values().find_map(|connection| {
            let child = connection.children.values().find(|child| {
                [child.start_action, child.close_action].contains(&StartAction::Trap)
                    && covers(&child.local_ts, source)
                    && covers(&child.remote_ts, destination)
            });
            child.map(|child| (Arc::clone(&connection.name), Arc::clone(&child.name)))
        });
        let Some((name, child)) = wanted else { return };
        if let Some(spi) = self.established(Some(&name)).into_iter().next_back() {
            return self.with_sa(spi, |sa, shared| {
                let asking =
                    |exchange: &Exchange| matches!(exchange, Exchange::CreateChild(ours) if *ours.name() == child);
                if !sa.exchange.as_ref().is_some_and(asking) {
                    sa.jobs.add(shared.now.instant, Job::CreateChild(child));
                }
                sa.work(shared);
            });
        }
        let busy = self
            .sas
            .values()
            .any(|sa| sa.name().as_ref() == Some(&name) && sa.counts());
        let busy = busy || self.is_sent(&name);
        if !busy && !self.shutting_down {
            self.standing.entry(Arc::clone(&name)).or_default().trapped = Some(child);
            self.shared.event(Event::NeedTarget {
                connection: name,
                at: self.shared.now.instant,
            });
        }
    }

    pub(super) fn established(&self, name: Option<&ConnectionName>) -> Vec<IkeSpi> {
        let fits = |sa: &&IkeSa| sa.is_established() && name.is_none_or(|name| sa.name().as_ref() == Some(name));
        self.sas.values().filter(fits).map(IkeSa::own_spi).collect()
    }

    pub(super) fn of_connection(&self, name: &ConnectionName) -> Vec<IkeSpi> {
        let alive = self.sas.values().filter(|sa| !matches!(sa.stage, Stage::Closed { .. }));
        alive
            .filter(|sa| sa.name().as_ref() == Some(name))
            .map(IkeSa::own_spi)
            .collect()
    }

    pub(super) fn delete_ike(&mut self, spi: IkeSpi) {
        self.with_sa(spi, |sa, shared| {
            // One may be queued for later: after a rekey.
            sa.jobs.drop_if(|job| *job == Job::DeleteIke);
            sa.jobs.add(shared.now.instant, Job::DeleteIke);
            sa.work(shared);
        });
    }

    /// The machine's addresses that gateways can be reached by: at the start, and whenever they or the routes change.
    pub fn handle_addresses(&mut self, now: Now, addresses: Vec<IpAddr>) {
        self.shared.now = now;
        self.shared.addresses = addresses;
        for spi in self.established(None) {
            self.with_sa(spi, |sa, shared| {
                sa.network_changed(shared);
                sa.work(shared);
            });
        }
    }

    /// The answer to [`Event::NeedPaths`]: the ways there are to the peer, best first. `spi` is the event's.
    pub fn handle_paths(&mut self, now: Now, spi: IkeSpi, paths: Vec<Path>) {
        self.shared.now = now;
        self.with_sa(spi, |sa, shared| {
            sa.handle_paths(shared, paths);
            sa.work(shared);
        });
    }
}

/// The children of a connection that is to be up: those that start by themselves, or, if there are none, all: who asks for it
/// wants more than an IKE SA.
fn to_bring_up(connection: &Connection) -> Vec<ChildName> {
    let named = |child: &Arc<crate::policy::connection::Child>| Arc::clone(&child.name);
    let starts = |child: &&Arc<crate::policy::connection::Child>| child.start_action == StartAction::Start;
    let all = connection.children.values();
    let mut names: Vec<ChildName> = all.clone().filter(starts).map(named).collect();
    if names.is_empty() {
        names = all.map(named).collect();
    }
    names
}
