//! Connection attempts: when the next one is due, and the names it resolves. One task a connection at most.

use super::resolve;
use crate::config::{Configuration, Tunnel};
use landbridge_proto::policy::connection::Target;
use landbridge_proto::policy::sad::{ChildName, ConnectionName};
use landbridge_proto::wire::GatewayIdentity;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A target for an attempt, or why there is none.
#[derive(Debug)]
pub struct Resolved {
    /// Whose.
    pub connection: ConnectionName,
    /// One child, or all.
    pub child: Option<ChildName>,
    /// Where to.
    pub target: io::Result<Target>,
    /// It is the gateway that the peer has sent us to.
    pub follows: bool,
}

/// All connections' attempts.
#[derive(Default)]
pub struct Attempts {
    sender: Option<mpsc::Sender<Resolved>>,
    by_connection: BTreeMap<ConnectionName, Attempt>,
}

#[derive(Default)]
struct Attempt {
    /// Attempts since the last success: turns through the peer's addresses.
    count: usize,
    task: Option<JoinHandle<()>>,
    /// When the waiting one goes off.
    due: Option<tokio::time::Instant>,
}

impl Attempts {
    /// Where results go.
    pub fn set_sender(&mut self, sender: mpsc::Sender<Resolved>) {
        self.sender = Some(sender);
    }

    /// Resolves after `wait` and reports a target for all children.
    pub fn connect(&mut self, name: &ConnectionName, tunnel: &Tunnel, configuration: &Configuration, wait: Duration) {
        self.connect_child(name, None, tunnel, configuration, wait);
    }

    /// Resolves after `wait` and reports a target for one child. A waiting attempt of the connection is superseded.
    pub fn connect_child(
        &mut self,
        name: &ConnectionName,
        child: Option<ChildName>,
        tunnel: &Tunnel,
        configuration: &Configuration,
        wait: Duration,
    ) {
        let (Some(sender), Some(connection)) = (self.sender.clone(), configuration.ike.connections.get(name)) else {
            return;
        };
        if tunnel.remote_hosts.is_empty() {
            return;
        }
        let attempt = self.by_connection.entry(Arc::clone(name)).or_default();
        if let Some(task) = attempt.task.take() {
            task.abort();
        }
        let turn = attempt.count;
        attempt.count += 1;
        attempt.due = Some(tokio::time::Instant::now() + wait);
        let (hosts, locals) = (tunnel.remote_hosts.clone(), connection.local_addrs.clone());
        let (local_port, remote_port) = (configuration.gateway.port, connection.remote_port);
        let connection = Arc::clone(name);
        attempt.task = Some(tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let target = resolve::target(&hosts, &locals, local_port, remote_port, turn, |_| false).await;
            // The receiver lives as long as the loop; after that nobody wants the answer.
            drop(
                sender
                    .send(Resolved {
                        connection,
                        child,
                        target,
                        follows: false,
                    })
                    .await,
            );
        }));
    }

    /// Resolves the gateway that the peer has sent us to, and reports the target: an attempt like another, which one that is made
    /// later supersedes. A name may have several addresses: where we don't go is asked for last.
    pub fn follow(
        &mut self,
        name: &ConnectionName,
        to: &GatewayIdentity,
        configuration: &Configuration,
        not_to: Vec<IpAddr>,
    ) {
        let (Some(sender), Some(connection)) = (self.sender.clone(), configuration.ike.connections.get(name)) else {
            return;
        };
        let attempt = self.by_connection.entry(Arc::clone(name)).or_default();
        if let Some(task) = attempt.task.take() {
            task.abort();
        }
        attempt.due = None;
        let tunnel = configuration.tunnels.get(name).cloned();
        let avoid = move |address| not_to.contains(&address) || tunnel.as_ref().is_some_and(|t| t.hides(address));
        let (hosts, locals) = ([to.to_string()], connection.local_addrs.clone());
        let (local_port, remote_port) = (configuration.gateway.port, connection.remote_port);
        let connection = Arc::clone(name);
        attempt.task = Some(tokio::spawn(async move {
            let target = resolve::target(&hosts, &locals, local_port, remote_port, 0, avoid).await;
            let resolved = Resolved {
                connection,
                child: None,
                target,
                follows: true,
            };
            drop(sender.send(resolved).await);
        }));
    }

    /// The connection is up: the next attempt begins with its first address and the shortest wait.
    pub fn succeeded(&mut self, name: &ConnectionName) {
        if let Some(attempt) = self.by_connection.get_mut(name) {
            attempt.count = 0;
            attempt.due = None;
        }
    }

    /// The wait before the next attempt: doubled with each, up to the longest.
    #[must_use]
    pub fn back_off(&self, name: &ConnectionName, (first, longest): (Duration, Duration)) -> Duration {
        let count = self.by_connection.get(name).map_or(0, |attempt| attempt.count);
        let doublings = u32::try_from(count.saturating_sub(1).min(16)).unwrap_or(16);
        first.saturating_mul(1 << doublings).min(longest)
    }

    /// How long until the next attempt, if one waits.
    #[must_use]
    pub fn due_in(&self, name: &ConnectionName) -> Option<Duration> {
        let attempt = self.by_connection.get(name)?;
        let running = attempt.task.as_ref().is_some_and(|task| !task.is_finished());
        attempt
            .due
            .filter(|_| running)
            .map(|due| due.saturating_duration_since(tokio::time::Instant::now()))
    }

    /// Forgets a connection's waiting attempt.
    pub fn cancel(&mut self, name: &ConnectionName) {
        if let Some(task) = self.by_connection.remove(name).and_then(|attempt| attempt.task) {
            task.abort();
        }
    }

    /// Forgets all.
    pub fn cancel_all(&mut self) {
        for attempt in std::mem::take(&mut self.by_connection).into_values() {
            if let Some(task) = attempt.task {
                task.abort();
            }
        }
    }
}
