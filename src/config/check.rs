//! What can only be seen by looking at all connections together.

use super::connection::Read;
use super::document::Findings;
use super::profiles;
use landbridge_proto::policy::connection::{Child, Connection};
use std::net::IpAddr;
use std::sync::Arc;

/// Reports what clashes.
pub(super) fn check(findings: &Findings<'_>, list: &[Read]) {
    for (index, later) in list.iter().enumerate() {
        own(findings, later);
        profiles::lint(findings, later);
        for earlier in &list[..index] {
            pair(findings, earlier, later);
        }
    }
    profiles::lint_together(findings, list);
}

/// Within one connection.
fn own(findings: &Findings<'_>, read: &Read) {
    for (index, (name, spot, _)) in read.child_spots.iter().enumerate() {
        let Some(child) = read.connection.children.get(name) else {
            continue;
        };
        for (earlier, first, _) in &read.child_spots[..index] {
            if read
                .connection
                .children
                .get(earlier)
                .is_some_and(|other| same_traffic(other, child))
            {
                let (line, name) = (findings.line(*first), &read.connection.name);
                let problem = format!(
                    "children {earlier:?} (line {line}) and {:?} of {name:?} have the same selectors",
                    child.name
                );
                findings.error(*spot, problem, Some("remove one of them".to_owned()));
            }
        }
    }
    for route in read.tunnel.routes.iter().filter(|_| !read.tunnel.policy_routing) {
        if let Some(peer) = read.connection.remote_addrs.iter().find(|peer| route.contains(**peer)) {
            findings.warn(
                read.routes_spot,
                format!(
                    "the route {route} of {:?} holds the peer's own address {peer}: without a narrower route to the \
                     peer, the tunnel's packets would go into the tunnel",
                    read.connection.name
                ),
            );
        }
    }
}

fn pair(findings: &Findings<'_>, earlier: &Read, later: &Read) {
    let (a, b) = (&earlier.connection, &later.connection);
    // Every pair of connections comes here: words are found when they are needed.
    let names = || {
        let first = findings.line(earlier.spot);
        format!("connections {:?} (line {first}) and {:?}", a.name, b.name)
    };
    if indistinguishable(a, b) {
        let id = a.remote.id.as_ref().map_or("any".to_owned(), ToString::to_string);
        findings.error(
            later.spot,
            format!(
                "{} can't be told apart when the peer connects: same addresses, same remote id ({id})",
                names()
            ),
            Some("give each its own remote.id, remote_addrs or local_addrs; or make them children of one".to_owned()),
        );
    }
    if earlier.tunnel.interface == later.tunnel.interface {
        findings.error(
            later.interface_spot,
            format!("{} have the same interface {:?}", names(), later.tunnel.interface),
            Some("give one of them another interface".to_owned()),
        );
    }
    if earlier.tunnel.metric == later.tunnel.metric
        && let Some(route) = later
            .tunnel
            .routes
            .iter()
            .find(|route| earlier.tunnel.routes.contains(route))
    {
        findings.error(
            later.routes_spot,
            format!(
                "{} both have a route to {route} with metric {}",
                names(),
                later.tunnel.metric
            ),
            Some("let remote_ts not overlap, or give the second choice a larger metric".to_owned()),
        );
    }
}

/// Whether a request from a peer could belong to either (RFC 4301 §4.4.3: the PAD's lookup must have one answer).
fn indistinguishable(a: &Connection, b: &Connection) -> bool {
    let in_common = |a: &[IpAddr], b: &[IpAddr]| a.iter().any(|address| b.contains(address));
    let local = |a: &[IpAddr], b: &[IpAddr]| a.is_empty() || b.is_empty() || in_common(a, b);
    // Any beside a particular address is told apart: the particular one goes first.
    let remote = |a: &[IpAddr], b: &[IpAddr]| (a.is_empty() && b.is_empty()) || in_common(a, b);
    let id = match (&a.remote.id, &b.remote.id) {
        (Some(a), Some(b)) => a.same(b),
        (a, b) => a.is_none() && b.is_none(),
    };
    local(&a.local_addrs, &b.local_addrs) && remote(&a.remote_addrs, &b.remote_addrs) && id
}

fn same_traffic(a: &Arc<Child>, b: &Arc<Child>) -> bool {
    let sorted = |list: &[_]| {
        let mut list = list.to_vec();
        list.sort();
        list
    };
    sorted(&a.local_ts) == sorted(&b.local_ts) && sorted(&a.remote_ts) == sorted(&b.remote_ts)
}
