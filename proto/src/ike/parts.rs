//! A child in several Child SAs: the peer takes its selectors only in parts (RFC 7296 §2.9).

use super::jobs::Job;
use super::sa::IkeSa;
use super::shared::Shared;
use crate::policy::connection::Child;
use crate::policy::selector::{is_subset, meet};
use crate::wire::TrafficSelector;
use std::sync::Arc;

/// Pairs of one child, and offers of it that were refused.
pub const MOST: usize = 64;

/// TSi and TSr of an offer of ours: our side and the peer's.
pub type Offer = (Vec<TrafficSelector>, Vec<TrafficSelector>);

/// How the rest of a child is asked for.
#[derive(Clone, Default)]
pub struct Parts {
    /// One selector of each side at a time.
    single: bool,
    /// What the peer does not want.
    refused: Vec<Offer>,
}

impl IkeSa {
    /// What is offered for a child: all of it while it has no pair; then what no pair has to do with, if the peer is known to
    /// take it in parts. `None`: nothing is left to be asked for.
    pub fn next_offer(&self, config: &Child) -> Option<Offer> {
        let mut pairs: Vec<(&[TrafficSelector], &[TrafficSelector])> = Vec::new();
        let up = |pair: &&super::child::Child| pair.is_current() && pair.config.name == config.name;
        for pair in self.children.iter().filter(up) {
            // Several with the same (RFC 9611) count as one.
            let part = (&pair.entry.local_ts[..], &pair.entry.remote_ts[..]);
            if !pairs.contains(&part) {
                pairs.push(part);
            }
        }
        let all = || (config.local_ts.clone(), config.remote_ts.clone());
        let Some(parts) = self.parts.get(&config.name) else {
            return pairs.is_empty().then(all);
        };
        if pairs.is_empty() && parts.refused.is_empty() && !parts.single {
            return Some(all());
        }
        if pairs.len() + parts.refused.len() >= MOST {
            return None;
        }
        let taken = |local: &TrafficSelector, remote: &TrafficSelector| {
            let refused = parts.refused.iter().map(|(local, remote)| (&local[..], &remote[..]));
            let (local, remote) = (std::slice::from_ref(local), std::slice::from_ref(remote));
            pairs
                .iter()
                .copied()
                .chain(refused)
                .any(|pair| meet((local, remote), pair))
        };
        // For each selector of ours those of the peer's that are left.
        let rows: Vec<(&TrafficSelector, Vec<TrafficSelector>)> = config
            .local_ts
            .iter()
            .map(|local| {
                let left = config.remote_ts.iter().filter(|remote| !taken(local, remote));
                (local, left.cloned().collect())
            })
            .filter(|(_, left): &(_, Vec<_>)| !left.is_empty())
            .collect();
        let (first, left) = rows.first()?;
        if parts.single {
            return Some((vec![(*first).clone()], vec![left.first()?.clone()]));
        }
        // An offer is a product: as many selectors of ours as have the same left.
        let alike = rows.iter().filter(|(_, other)| other == left);
        Some((alike.map(|(local, _)| (*local).clone()).collect(), left.clone()))
    }

    /// The peer has answered our offer with these selectors. §2.9: "The ADDITIONAL_TS_POSSIBLE notification asserts that the
    /// responder narrowed the proposed Traffic Selectors but that other Traffic Selectors would also have been acceptable,
    /// though only in a separate SA." Peers that take one selector of each side an SA don't all say so.
    pub fn note_answer(&mut self, shared: &Shared, config: &Child, asked: &Offer, answer: &Offer, possible: bool) {
        let narrowed = !is_subset(&asked.0, &answer.0) || !is_subset(&asked.1, &answer.1);
        let single = answer.0.len() == 1 && answer.1.len() == 1;
        if narrowed && (possible || single) {
            self.parts.entry(Arc::clone(&config.name)).or_default();
        }
        if self.parts.contains_key(&config.name) && self.next_offer(config).is_some() {
            self.jobs
                .add(shared.now.instant, Job::CreateChild(Arc::clone(&config.name)));
        }
    }

    /// SINGLE_PAIR_REQUIRED: whether it can be asked for with fewer selectors. §2.9: "The requestor is expected to respond by
    /// requesting an SA for only the specific traffic it is trying to forward": no packet is known here, but each selector is
    /// what the operator wants forwarded.
    pub fn ask_singly(&mut self, config: &Child) -> bool {
        let parts = self.parts.entry(Arc::clone(&config.name)).or_default();
        let fewer = config.local_ts.len() > 1 || config.remote_ts.len() > 1;
        fewer && !std::mem::replace(&mut parts.single, true)
    }

    /// The peer does not want this part. Whether it is settled: others are asked for, or there are pairs; with nothing at all
    /// it is begun anew some time.
    pub fn note_refused_part(&mut self, shared: &Shared, config: &Child, offer: &Offer) -> bool {
        let Some(parts) = self.parts.get_mut(&config.name) else {
            return false;
        };
        parts.refused.push(offer.clone());
        let left = self.next_offer(config).is_some();
        let up = |pair: &super::child::Child| pair.is_current() && pair.config.name == config.name;
        if left {
            self.jobs
                .add(shared.now.instant, Job::CreateChild(Arc::clone(&config.name)));
        } else if !self.children.iter().any(up) {
            self.parts.remove(&config.name);
            return false;
        }
        true
    }
}
