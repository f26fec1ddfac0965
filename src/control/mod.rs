//! The control thread: one tokio runtime that owns the IKE endpoint.
//!
//! | file | subject |
//! |---|---|
//! | `daemon` | the loop: what comes in, what goes out |
//! | `events`, `orders` | what the key exchange tells, and what the operator wants |
//! | `sockets` | UDP 500 and control's part of UDP 4500 |
//! | `streams` | TCP connections for IKE and ESP: accepted, opened, closed |
//! | `handshakes` | TLS around them, until it is up |
//! | `attempts`, `resolve` | when to connect, and where to |
//! | `addresses` | the machine's addresses, and the ways to a peer's |
//! | `links`, `policy_routes` | interfaces, addresses, routes, rules (rtnetlink) |
//! | `routes` | which routes there should be, at the start, after a reload and as tunnels come and go |
//! | `reload` | a new configuration as a plan, and carrying it out |
//! | `mending` | interfaces that another program has deleted |
//! | `server`, `protocol`, `client` | the control socket |
//! | `key_export` | keys for decrypting captures, only when started for it |
//! | `state` | what is kept from one run to the next |
//! | `status`, `describe`, `journal` | what an operator is told |
//! | `metrics`, `openmetrics`, `metrics_http`, `history` | numbers for monitoring, how they are written and served, and what is counted for them |

mod addresses;
mod attempts;
pub mod client;
mod clock;
mod daemon;
mod describe;
mod events;
mod handshakes;
mod history;
mod journal;
pub mod key_export;
pub(crate) mod links;
mod mending;
mod metrics;
mod metrics_http;
mod openmetrics;
mod orders;
mod policy_routes;
pub mod protocol;
mod reload;
mod resolve;
mod routes;
mod server;
mod signing;
mod sockets;
mod solving;
mod state;
mod status;
mod streams;

use crate::config::Configuration;
use std::io;
use std::path::Path;

/// Why the daemon can't run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Something it needs could not be had.
    #[error("{what}: {cause}")]
    Start {
        /// What was wanted.
        what: &'static str,
        /// What the system said.
        cause: io::Error,
    },
}

impl RunError {
    /// For `map_err`: what was wanted.
    pub fn start(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Start { what, cause }
    }

    /// Whether a privilege is missing (exit code 77).
    #[must_use]
    pub fn is_not_permitted(&self) -> bool {
        let Self::Start { cause, .. } = self;
        cause.kind() == io::ErrorKind::PermissionDenied
    }
}

/// Runs the daemon until a signal or `landbridge stop` ends it. The control socket is made at `socket`; with `keys`, the
/// keys of all SAs are written there.
///
/// # Errors
/// [`RunError`], with what could not be had.
pub fn run(configuration: Configuration, socket: &Path, keys: Option<key_export::KeyExport>) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::start("the control thread"))?;
    runtime.block_on(async {
        // Before anything is bound or created: is another one here already?
        let server = server::ControlServer::open(socket)?;
        let listener = match configuration.gateway.metrics_listen {
            Some(address) => Some(metrics_http::open(address).await?),
            None => None,
        };
        let (daemon, inlets) = daemon::Daemon::start(configuration, keys).await?;
        if let Some(listener) = listener {
            drop(tokio::spawn(metrics_http::serve(
                listener,
                server.sender(),
                metrics_http::PATIENCE,
            )));
        }
        daemon.run(inlets, server).await
    })
}
