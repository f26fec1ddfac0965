//! The peer authorization database (RFC 4301 §4.4.3): which connection a peer belongs to, by addresses first and by
//! identity once it is shown.

use super::connection::{Config, Connection, TcpUse};
use super::sad::Path;
use crate::wire::Identification;
use std::net::IpAddr;
use std::sync::Arc;

/// The connections an IKE_SA_INIT on this path may belong to: those with the peer's address named come before those that
/// take any.
#[must_use]
pub fn candidates(config: &Config, path: &Path) -> Vec<Arc<Connection>> {
    let (local, remote) = (path.local.ip(), path.remote.ip());
    let takes = |list: &[IpAddr], address: IpAddr| list.is_empty() || list.contains(&address);
    let fitting = config
        .connections
        .values()
        // RFC 9329 §5: "TCP encapsulation is applicable only when it has been configured to be used with specific IKE peers."
        .filter(|c| !path.is_tcp() || c.tcp_use() != TcpUse::Never)
        .filter(|c| takes(&c.local_addrs, local) && takes(&c.remote_addrs, remote));
    let (named, any): (Vec<_>, Vec<_>) = fitting.cloned().partition(|c| !c.remote_addrs.is_empty());
    named.into_iter().chain(any).collect()
}

/// The candidate whose peer this is: its identity as shown, and ours if the peer asked for one. Among several, one that
/// names the identity comes before one that takes any.
///
/// # Errors
/// What was shown and what is configured, for the log.
pub fn choose(
    candidates: &[Arc<Connection>],
    peer: &Identification,
    asked_for: Option<&Identification>,
) -> Result<Arc<Connection>, UnknownPeer> {
    let ours = |c: &&Arc<Connection>| asked_for.is_none_or(|id| id.same(&c.local.id));
    let by_name = candidates
        .iter()
        .filter(|c| c.remote.id.as_ref().is_some_and(|id| id.same(peer)))
        .find(ours);
    let by_any = || candidates.iter().filter(|c| c.remote.id.is_none()).find(ours);
    by_name.or_else(by_any).cloned().ok_or_else(|| UnknownPeer {
        shown: peer.to_string(),
        asked_for: asked_for.map(ToString::to_string),
        configured: candidates
            .iter()
            .map(|c| {
                let peer = c
                    .remote
                    .id
                    .as_ref()
                    .map_or_else(|| "any".to_owned(), ToString::to_string);
                format!("{}: peer {peer}, ourselves {}", c.name, c.local.id)
            })
            .collect(),
    })
}

/// No connection is configured for the identity shown.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the peer shows identity {shown}{}, which no connection expects", asked_for.as_deref().map(|id| format!(" and asks for {id}")).unwrap_or_default())]
pub struct UnknownPeer {
    /// The peer's identity.
    pub shown: String,
    /// Ours, as the peer would have it.
    pub asked_for: Option<String>,
    /// The connections that came into question.
    pub configured: Vec<String>,
}
