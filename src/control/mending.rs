//! Interfaces that another program has deleted, or that could not be made: they are made anew.

use super::daemon::Daemon;
use super::journal::Level;
use landbridge_proto::policy::sad::ConnectionName;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// How long after one attempt the next is made: another program may delete them over and over.
const PAUSE: Duration = Duration::from_secs(10);

impl Daemon {
    /// Makes the interfaces anew that are missing. Their connections begin anew; those that were up, or about to be, are brought up. Returns
    /// when to look again.
    pub(super) async fn mend_interfaces(&mut self) -> Option<Instant> {
        let lacks = |name: &&ConnectionName| self.data.lacks_interface(name);
        let missing: Vec<ConnectionName> = self.configuration.tunnels.keys().filter(lacks).cloned().collect();
        if missing.is_empty() || self.stopping {
            return None;
        }
        let now = Instant::now();
        if let Some(next) = self.mended.map(|last| last + PAUSE).filter(|next| *next > now) {
            return Some(next);
        }
        self.mended = Some(now);
        let sas = self.endpoint.status();
        let is_up = |name: &&ConnectionName| {
            let has_sa = sas.iter().any(|sa| sa.connection.as_ref() == Some(*name));
            has_sa || self.attempts.due_in(name).is_some()
        };
        let up: BTreeSet<ConnectionName> = missing.iter().filter(is_up).cloned().collect();
        for name in &missing {
            let text = "its interface is missing (another program deleted it, or it could not be made): interface and connection begin anew";
            self.log(Level::Warn, Some(name), text);
        }
        for text in self.begin_anew(&missing, "its interface, which is missing", &up).await {
            self.log(Level::Warn, None, &text);
        }
        let lacks = |name: &ConnectionName| self.data.lacks_interface(name);
        missing.iter().any(lacks).then_some(now + PAUSE)
    }
}
