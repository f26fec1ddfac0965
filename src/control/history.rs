//! What is counted and remembered of a connection beyond its SAs: it goes on while the tunnel is down, across rekeys, and when
//! a reload takes the connection away and another brings it back.

use landbridge_proto::ike::{ChildUp, IkeUp, Reason};
use landbridge_proto::policy::sad::ChildName;
use std::collections::BTreeMap;
use std::time::Duration;

/// A name of the peer could not be resolved: a reason beside those of the key exchange.
pub(super) const NAME_RESOLUTION: &str = "name_resolution";

/// Of a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// IKE SAs that came up, not by a rekey: those that we began, and those that the peer began.
    pub handshakes: [u64; 2],
    /// When the last of them did, in seconds since 1970, and how long it took.
    pub last_handshake: Option<(u64, Duration)>,
    /// Rekeys of IKE SAs.
    pub ike_rekeys: u64,
    /// By child.
    pub children: BTreeMap<ChildName, ChildHistory>,
    /// Failures by reason.
    pub failures: BTreeMap<&'static str, u64>,
    /// The last one: when, in seconds since 1970, and why.
    pub last_failure: Option<(u64, &'static str)>,
    /// The last second of the certificate that the peer showed last, since 1970.
    pub peer_certificate: Option<u64>,
}

/// Of a child.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ChildHistory {
    /// Rekeys of its Child SAs.
    pub rekeys: u64,
    /// When a Child SA came up last, not by a rekey, in seconds since 1970.
    pub since: Option<u64>,
}

impl History {
    /// An IKE SA came up.
    pub(super) fn ike_up(&mut self, unix: u64, up: &IkeUp) {
        if let Some(shown) = &up.peer_certificate {
            self.peer_certificate = Some(shown.not_after);
        }
        if up.rekeyed_from.is_some() {
            self.ike_rekeys += 1;
            return;
        }
        self.handshakes[usize::from(!up.initiator)] += 1;
        self.last_handshake = Some((unix, up.setup_time));
    }

    /// A Child SA came up.
    pub(super) fn child_up(&mut self, unix: u64, up: &ChildUp) {
        let child = self.children.entry(std::sync::Arc::clone(&up.child)).or_default();
        if up.rekeyed_from.is_some() {
            child.rekeys += 1;
        } else if up.pair.is_none_or(|(pair, _)| pair == 1) {
            // A further pair of a child that is up is no news.
            child.since = Some(unix);
        }
    }

    /// Something failed.
    pub(super) fn failed(&mut self, unix: u64, reason: &'static str) {
        *self.failures.entry(reason).or_default() += 1;
        self.last_failure = Some((unix, reason));
    }

    /// All reasons there are.
    pub(super) fn reasons() -> impl Iterator<Item = &'static str> {
        Reason::ALL.into_iter().map(Reason::name).chain([NAME_RESOLUTION])
    }
}
