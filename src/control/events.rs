//! What the key exchange tells: orders to the data path, what came up or went down, and what it asks for.

use super::daemon::Daemon;
use super::history::History;
use super::journal::Level;
use super::{addresses, describe, status};
use crate::config;
use landbridge_proto::ike::Event;
use landbridge_proto::policy::sad::{ConnectionName, Encapsulation, Path};
use landbridge_proto::time::Now;
use std::sync::Arc;

impl Daemon {
    /// Carries out, logs and remembers one event of the key exchange.
    pub(super) async fn handle_event(&mut self, event: Event) {
        match event {
            Event::Sad(update) => self.data.apply(&update),
            Event::IkeUp(up) => {
                self.attempts.succeeded(&up.connection);
                self.prove_stream(&up.path);
                let unix = self.clock.now().unix;
                self.history(&up.connection).ike_up(unix, &up);
                let known = self.known.entry(Arc::clone(&up.connection)).or_default();
                known.failure = None;
                known.path = Some((up.path, up.encapsulation));
                self.log(Level::Info, Some(&up.connection), &describe::ike_up(&up));
                if let Some(shown) = &up.peer_certificate {
                    let left = shown.not_after.saturating_sub(self.clock.now().unix);
                    if left < config::EXPIRY_WARNING {
                        let text = format!(
                            "the peer's certificate {} expires on {}",
                            shown.subject,
                            config::day(shown.not_after)
                        );
                        self.log(Level::Warn, Some(&up.connection), &text);
                    }
                }
                self.adapt_mtu(&up.connection, &up.path, up.encapsulation).await;
            }
            Event::IkeDown {
                connection,
                spi_i,
                spi_r,
                reason,
            } => {
                self.routes_due = true;
                self.log(
                    Level::Info,
                    Some(&connection),
                    &format!("IKE SA {spi_i}-{spi_r} is down: {reason}"),
                );
            }
            Event::ChildUp(up) => {
                let unix = self.clock.now().unix;
                self.history(&up.connection).child_up(unix, &up);
                self.routes_due = true;
                self.log(Level::Info, Some(&up.connection), &describe::child_up(&up));
            }
            Event::ChildDown {
                connection,
                child,
                reason,
                ..
            } => {
                self.routes_due = true;
                self.log(
                    Level::Info,
                    Some(&connection),
                    &format!("Child SA {child} is down: {reason}"),
                );
            }
            Event::Failed(failure) => {
                self.log(Level::Warn, failure.connection.as_deref(), &describe::failure(&failure));
                if let Some(connection) = failure.connection.clone() {
                    let Now { instant: at, unix } = self.clock.now();
                    self.history(&connection).failed(unix, failure.reason.name());
                    self.known.entry(connection).or_default().failure = Some((at, failure));
                }
            }
            Event::NeedTarget { connection, at } => {
                if let (Some(tunnel), false) = (self.configuration.tunnels.get(&connection).cloned(), self.stopping) {
                    let wait = at.saturating_since(self.clock.now().instant);
                    self.attempts.connect(&connection, &tunnel, &self.configuration, wait);
                }
            }
            Event::Message {
                connection,
                received,
                path,
                line,
            } => {
                let arrow = if received { "<-" } else { "->" };
                self.log(
                    Level::Debug,
                    connection.as_deref(),
                    &format!("{arrow} {} {line}", path.remote),
                );
            }
            Event::Sign(request) => {
                if let Err((ticket, why)) = self.desk.submit(request) {
                    self.endpoint.handle_signature(self.clock.now(), ticket, why);
                }
            }
            Event::Solve(request) => {
                if let Err(ticket) = self.puzzles.submit(request) {
                    self.endpoint.handle_solution(self.clock.now(), ticket, None);
                }
            }
            Event::SolveNoMore(ticket) => self.puzzles.no_more(ticket),
            Event::NeedPaths {
                spi,
                connection,
                local_port,
                remotes,
            } => {
                let configured = self.configuration.ike.connections.get(&connection);
                let configured = configured.map(|c| c.local_addrs.clone()).unwrap_or_default();
                let paths = addresses::paths(&remotes, &configured, &self.addresses, local_port);
                self.endpoint.handle_paths(self.clock.now(), spi, paths);
            }
            Event::NeedStream {
                spi,
                connection,
                local,
                remote,
            } => self.open_stream(spi, &connection, local, remote),
            Event::Redirected { connection, from, to } => {
                let text = format!("the peer {from} sends us to {to}");
                self.log(Level::Info, Some(&connection), &text);
                // Who sends us, and we ourselves, are no other gateway.
                let not_to = self.addresses.iter().copied().chain([from.ip()]).collect();
                self.attempts.follow(&connection, &to, &self.configuration, not_to);
            }
            Event::SentAway { connection, remote, to } => {
                let text = format!("we send the peer {remote} to {to}");
                self.log(Level::Info, Some(&connection), &text);
            }
            Event::Moved {
                connection,
                from,
                to,
                encapsulation,
                reason,
            } => {
                self.prove_stream(&to);
                self.log(Level::Info, Some(&connection), &describe::moved(&from, &to, &reason));
                self.adapt_mtu(&connection, &to, encapsulation).await;
            }
            Event::Keys(keys) => self.export(&keys),
            Event::ShutdownComplete => self.stopped = true,
        }
    }

    /// What is counted of a connection.
    pub(super) fn history(&mut self, connection: &ConnectionName) -> &mut History {
        self.histories.entry(Arc::clone(connection)).or_default()
    }

    /// The path is known now: the inner MTU follows from it, unless the configuration gives one.
    async fn adapt_mtu(&mut self, name: &ConnectionName, path: &Path, encapsulation: Encapsulation) {
        let Some(tunnel) = self.configuration.tunnels.get(name).filter(|t| t.mtu.is_none()) else {
            return;
        };
        let mtu = status::inner_mtu(&self.configuration, name, Some((path, encapsulation)));
        let known = self.known.entry(Arc::clone(name)).or_default();
        if known.mtu != mtu {
            known.mtu = mtu;
            self.data.set_mtu(name, mtu);
            if !tunnel.transport
                && let Err(error) = self.links.set_mtu(&tunnel.interface, mtu).await
            {
                tracing::warn!(%error, "MTU");
            }
        }
    }

    fn export(&mut self, keys: &landbridge_proto::ike::export::ExportedKeys) {
        let unix = self.clock.now().unix;
        let Some(export) = &mut self.keys else { return };
        let text = match export.write(unix, keys) {
            Ok(whose) => format!("the keys of {whose} were written to {}", export.path().display()),
            Err(error) => format!("keys can't be written to {}: {error}", export.path().display()),
        };
        self.log(Level::Warn, None, &text);
    }
}
