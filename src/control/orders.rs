//! What the operator wants, by the control socket or a signal; and attempts whose target was resolved.

use super::attempts::Resolved;
use super::daemon::Daemon;
use super::history::NAME_RESOLUTION;
use super::journal::Level;
use super::server::{Answer, Order};
use super::{metrics, status};
use landbridge_proto::ike::{Command, CommandError, Reason};
use landbridge_proto::policy::connection::Target;
use landbridge_proto::policy::sad::ConnectionName;
use landbridge_proto::wire::GatewayIdentity;
use std::sync::Arc;
use std::time::Duration;

impl Daemon {
    /// Carries out an order and answers it.
    pub(super) async fn obey(&mut self, order: Order, answer: Answer) {
        let now = self.clock.now();
        let done = match order {
            Order::Status => return answer.status(status::snapshot(self)),
            Order::Metrics => return answer.metrics(metrics::gather(self)),
            Order::Log => return answer.log(self.journal.recent(), self.journal.follow()),
            Order::Reload { dry_run: true } => self.dry_run(),
            Order::Reload { dry_run: false } => self.reload().await,
            Order::Up { connection, child } => match self.configuration.tunnels.get(&connection).cloned() {
                None => Err(format!("no connection named {connection:?}")),
                Some(tunnel) if tunnel.remote_hosts.is_empty() => Err(format!(
                    "connection {connection:?} has no remote_addrs to connect to: it waits for the peer"
                )),
                Some(tunnel) => {
                    self.attempts
                        .connect_child(&connection, child, &tunnel, &self.configuration, Duration::ZERO);
                    Ok(format!("connecting {connection}"))
                }
            },
            Order::Down { connection, child } => {
                self.attempts.cancel(&connection);
                let told = format!("taking down {connection}");
                self.endpoint
                    .handle_command(now, Command::Down { connection, child })
                    .map(|()| told)
                    .map_err(|e| e.to_string())
            }
            Order::Rekey { connection, child } => {
                let told = format!("rekeying {connection}");
                self.endpoint
                    .handle_command(now, Command::RekeyChild { connection, child })
                    .map(|()| told)
                    .map_err(|e| e.to_string())
            }
            Order::RekeyIke { connection } => {
                let told = format!("rekeying the IKE SA of {connection}");
                self.endpoint
                    .handle_command(now, Command::RekeyIke { connection })
                    .map(|()| told)
                    .map_err(|e| e.to_string())
            }
            Order::Redirect { connection, to } => self.redirect(connection, to),
            Order::Stop => {
                self.begin_stop();
                Ok("stopping".to_owned())
            }
        };
        answer.done(done);
    }

    /// A name was resolved (or not): make the attempt, or try again later.
    pub(super) fn connect(&mut self, resolved: Resolved) {
        let Resolved {
            connection,
            child,
            target,
            follows,
        } = resolved;
        if follows {
            return self.follow(connection, target);
        }
        let Some(tunnel) = self.configuration.tunnels.get(&connection).cloned() else {
            return;
        };
        match target {
            Ok(target) => {
                let command = Command::Up {
                    connection: Arc::clone(&connection),
                    child,
                    target,
                };
                if let Err(error) = self.endpoint.handle_command(self.clock.now(), command) {
                    self.log(Level::Warn, Some(&connection), &error.to_string());
                }
            }
            Err(error) => {
                let unix = self.clock.now().unix;
                self.history(&connection).failed(unix, NAME_RESOLUTION);
                let wait = self.attempts.back_off(&connection, tunnel.retry);
                let again = humantime::format_duration(Duration::from_secs(wait.as_secs().max(1)));
                self.log(
                    Level::Warn,
                    Some(&connection),
                    &format!("{error}; next attempt in {again}"),
                );
                self.attempts.connect(&connection, &tunnel, &self.configuration, wait);
            }
        }
    }

    /// Peers are sent to another gateway (RFC 5685 §5): those of one connection, or of all that have some who can be sent.
    fn redirect(&mut self, connection: Option<ConnectionName>, to: Option<GatewayIdentity>) -> Result<String, String> {
        let now = self.clock.now();
        let mut send = |connection: &ConnectionName| {
            let (connection, to) = (Arc::clone(connection), to.clone());
            self.endpoint.handle_command(now, Command::Redirect { connection, to })
        };
        if let Some(connection) = connection {
            let told = format!("sending the peers of {connection} to another gateway");
            return send(&connection).map(|()| told).map_err(|error| error.to_string());
        }
        let names: Vec<ConnectionName> = self.configuration.tunnels.keys().cloned().collect();
        let (mut sent, mut failures) = (Vec::new(), Vec::new());
        for name in names {
            match send(&name) {
                Ok(()) => sent.push(name.to_string()),
                Err(CommandError::NotEstablished(_)) => {}
                Err(error) => failures.push(error.to_string()),
            }
        }
        let told = match sent.as_slice() {
            [] => "no connection has a peer that can be sent to another gateway".to_owned(),
            sent => format!("sending the peers of {} to another gateway", sent.join(", ")),
        };
        let stay: String = failures.iter().map(|error| format!("\n{error}")).collect();
        if sent.is_empty() {
            Err(told + &stay)
        } else {
            Ok(told + &stay)
        }
    }

    /// Where the peer sent us was resolved (or not): we go there, or stay.
    fn follow(&mut self, connection: ConnectionName, target: std::io::Result<Target>) {
        let unresolved = |error: std::io::Error| (error.to_string(), NAME_RESOLUTION);
        let target = target.map_err(unresolved).and_then(|target| {
            let tunnel = self.configuration.tunnels.get(&connection);
            let there = target.remote.ip();
            if tunnel.is_some_and(|tunnel| tunnel.hides(there)) {
                let why = format!(
                    "{there} lies behind the tunnel itself, where its packets would go: policy_routing = true leads them past it"
                );
                return Err((why, Reason::Refused.name()));
            }
            Ok(target)
        });
        if let Err((why, reason)) = &target {
            let text = format!("we don't go where the peer sends us: {why}");
            self.log(Level::Warn, Some(&connection), &text);
            let unix = self.clock.now().unix;
            self.history(&connection).failed(unix, reason);
        }
        let target = target.ok();
        let command = Command::Follow { connection, target };
        if let Err(error) = self.endpoint.handle_command(self.clock.now(), command) {
            tracing::debug!(%error, "redirect");
        }
    }

    /// All SAs are deleted, and when the peers have answered, or not in time, the daemon ends.
    pub(super) fn begin_stop(&mut self) {
        if self.stopping {
            self.stopped = true; // asked twice: at once
            return;
        }
        self.stopping = true;
        self.notify(&[sd_notify::NotifyState::Stopping]);
        self.attempts.cancel_all();
        self.log(Level::Info, None, "stopping: deleting all SAs");
        if let Err(error) = self.endpoint.handle_command(self.clock.now(), Command::Shutdown) {
            tracing::debug!(%error, "shutdown");
            self.stopped = true;
        }
    }
}
