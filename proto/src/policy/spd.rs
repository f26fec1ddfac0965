//! The security policy database (RFC 4301 §4.4.1) of a route-based gateway: a connection's children, each a pair of selector
//! lists. Which one does an offer belong to?

use super::connection::{Child, Connection};
use super::selector::{is_subset, narrow};
use crate::wire::TrafficSelector;
use std::sync::Arc;

/// The child an offer belongs to, and what both sides have in common.
#[derive(Clone, Debug)]
pub struct Choice {
    /// It.
    pub child: Arc<Child>,
    /// Our side, narrowed.
    pub local_ts: Vec<TrafficSelector>,
    /// The peer's side, narrowed.
    pub remote_ts: Vec<TrafficSelector>,
}

/// Chooses among a connection's children (or takes `only`, in a rekey): one that covers the whole offer comes before one
/// that narrows it (RFC 7296 §2.9). `None`: nothing in common, TS_UNACCEPTABLE.
#[must_use]
pub fn choose_child(
    connection: &Connection,
    only: Option<&Child>,
    local_offer: &[TrafficSelector],
    remote_offer: &[TrafficSelector],
) -> Option<Choice> {
    let children = connection
        .children
        .values()
        .filter(|child| only.is_none_or(|only| only.name == child.name));
    let mut choices: Vec<Choice> = children
        .map(|child| Choice {
            child: Arc::clone(child),
            local_ts: narrow(local_offer, &child.local_ts),
            remote_ts: narrow(remote_offer, &child.remote_ts),
        })
        .filter(|choice| !choice.local_ts.is_empty() && !choice.remote_ts.is_empty())
        .collect();
    // RFC 7296 §2.9: the initiator's first selectors are those of the packet that started it, and are kept if the policy
    // allows; then comes what covers the whole offer, then the first by name.
    let first =
        |list: &[TrafficSelector], narrowed: &[TrafficSelector]| is_subset(&list[..list.len().min(1)], narrowed);
    let rank = |choice: &Choice| {
        let has_first = first(local_offer, &choice.local_ts) && first(remote_offer, &choice.remote_ts);
        let has_all = is_subset(local_offer, &choice.local_ts) && is_subset(remote_offer, &choice.remote_ts);
        (!has_first, !has_all)
    };
    let index = (0..choices.len()).min_by_key(|index| rank(&choices[*index]))?;
    Some(choices.swap_remove(index))
}

/// Whether another child would take some of the offer that this choice leaves out.
#[must_use]
pub fn has_more(
    connection: &Connection,
    choice: &Choice,
    local_offer: &[TrafficSelector],
    remote_offer: &[TrafficSelector],
) -> bool {
    let others = connection
        .children
        .values()
        .filter(|child| child.name != choice.child.name);
    others.into_iter().any(|child| {
        let local = narrow(local_offer, &child.local_ts);
        let remote = narrow(remote_offer, &child.remote_ts);
        let covered = is_subset(&local, &choice.local_ts) && is_subset(&remote, &choice.remote_ts);
        !local.is_empty() && !remote.is_empty() && !covered
    })
}

/// A connection's children in words.
#[must_use]
pub fn in_words(connection: &Connection) -> Vec<String> {
    let join = |list: &[TrafficSelector]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let children = connection.children.values();
    children
        .map(|child| {
            format!(
                "{}: {} === {}",
                child.name,
                join(&child.remote_ts),
                join(&child.local_ts)
            )
        })
        .collect()
}
