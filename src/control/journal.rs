//! What an operator reads: every line goes to `tracing` and to whoever follows `landbridge log`.

use std::collections::VecDeque;
use tokio::sync::broadcast;

/// Lines kept for those who ask later.
const KEPT: usize = 1000;
/// Lines a slow follower may lag behind before it loses some.
const BACKLOG: usize = 256;

/// How much a line matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// Each IKE message.
    Debug,
    /// Up, down, rekeyed.
    Info,
    /// Failed, degraded.
    Warn,
}

/// The recent lines, and those who follow.
pub struct Journal {
    recent: VecDeque<String>,
    followers: broadcast::Sender<String>,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            recent: VecDeque::with_capacity(KEPT),
            followers: broadcast::channel(BACKLOG).0,
        }
    }
}

impl Journal {
    /// Writes a line about a connection, or about the gateway.
    pub fn write(&mut self, unix: u64, level: Level, connection: Option<&str>, text: &str) {
        let about = connection.unwrap_or("gateway");
        match level {
            Level::Debug => tracing::debug!(connection = about, "{text}"),
            Level::Info => tracing::info!(connection = about, "{text}"),
            Level::Warn => tracing::warn!(connection = about, "{text}"),
        }
        if level == Level::Debug {
            return;
        }
        let time = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + std::time::Duration::from_secs(unix));
        let line = format!("{time} {about}: {text}");
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(line.clone());
        // Nobody following is no error.
        drop(self.followers.send(line));
    }

    /// Whether lines at [`Level::Debug`] go anywhere.
    #[must_use]
    pub fn has_debug() -> bool {
        tracing::enabled!(tracing::Level::DEBUG)
    }

    /// The lines kept.
    #[must_use]
    pub fn recent(&self) -> Vec<String> {
        self.recent.iter().cloned().collect()
    }

    /// All lines from now on.
    #[must_use]
    pub fn follow(&self) -> broadcast::Receiver<String> {
        self.followers.subscribe()
    }
}
