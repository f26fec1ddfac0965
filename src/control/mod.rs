//! The control thread: one tokio runtime that owns the IKE endpoint.

pub mod client;
pub mod protocol;

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

/// Runs the daemon until a signal or `landbridge stop` ends it. The control socket is made at `socket`.
///
/// # Errors
/// [`RunError`], with what could not be had.
pub fn run(configuration: Configuration, socket: &Path) -> Result<(), RunError> {
    let _ = (configuration, socket);
    Err(RunError::Start { what: "the control thread", cause: io::Error::other("not built yet") })
}
