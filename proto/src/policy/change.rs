//! What differs between two readings of a connection, and what that takes: as little as possible.
//!
//! | what changed | what it takes |
//! |---|---|
//! | a key or certificate that a peer has proven itself with is gone, or revoked | its SAs end (`ike::proven`) |
//! | other keys and certificates, IKE lifetimes, DPD, fragmentation, more addresses of the peer | nothing: it holds from the next use on |
//! | a child's lifetimes, limits, window, start action | nothing: it holds for the next pair |
//! | a child's proposals | a rekey of that child |
//! | a child's selectors, mode or number of pairs | that child anew |
//! | a child more, or less | that child |
//! | anything else: identities, IKE proposals, addresses, the kind of authentication | the connection anew |

use super::connection::{Child, Connection, LocalAuth, RemoteAuth};
use super::sad::ChildName;
use std::collections::BTreeMap;
use std::mem::discriminant;
use std::net::IpAddr;

/// What [`Changes::in_place`] says if a key or certificate of either side changed.
pub const KEYS: &str = "keys";

/// What to do about a connection. Keys are named as in the configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// The connection has to begin anew, because of these.
    pub restart: Vec<&'static str>,
    /// These hold from their next use on.
    pub in_place: Vec<&'static str>,
    /// What becomes of the children that did not stay as they were; of no interest in a restart.
    pub children: BTreeMap<ChildName, ChildChange>,
}

/// What to do about a child.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChildChange {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Its pairs are deleted and it begins anew.
    Restarted(Vec<&'static str>),
    /// Its pair is rekeyed: make before break.
    Rekeyed(Vec<&'static str>),
    /// These hold from the next rekey on.
    InPlace(Vec<&'static str>),
}

impl Changes {
    /// From one reading to the next.
    #[must_use]
    pub fn between(old: &Connection, new: &Connection) -> Self {
        let mut changes = Self::default();
        // What is accounted for is made equal here, field by field; if anything is left, nobody knows what it takes.
        let mut rest = old.clone();
        macro_rules! in_place {
            ($($field:ident: $key:literal),*) => {$(
                if old.$field != new.$field {
                    changes.in_place.push($key);
                    rest.$field = new.$field.clone();
                }
            )*};
        }
        macro_rules! restart {
            ($($field:ident: $key:literal),*) => {$(
                if old.$field != new.$field {
                    changes.restart.push($key);
                    rest.$field = new.$field.clone();
                }
            )*};
        }
        if old.remote_addrs != new.remote_addrs {
            let list = if covers(&new.remote_addrs, &old.remote_addrs) {
                &mut changes.in_place
            } else {
                &mut changes.restart
            };
            list.push("remote_addrs");
            rest.remote_addrs.clone_from(&new.remote_addrs);
        }
        restart!(
            local_addrs: "local_addrs",
            remote_port: "remote_port",
            ike_proposals: "proposals",
            force_udp_encapsulation: "encap",
            mobike: "mobike"
        );
        in_place!(
            ike_rekey_time: "rekey_time",
            reauth_time: "reauth_time",
            dpd_delay: "dpd_delay",
            fragmentation: "fragmentation",
            fragment_size: "fragment_size",
            keep_trying: "keep_trying",
            tcp: "tcp",
            tcp_port: "tcp_port",
            ppk: "ppk",
            resumption: "resumption",
            follow_redirects: "follow_redirects",
            redirect_to: "redirect_to"
        );
        if old.local.id != new.local.id {
            changes.restart.push("local.id");
        }
        if old.remote.id != new.remote.id {
            changes.restart.push("remote.id");
        }
        changes.authentication(old, new);
        rest.local = new.local.clone();
        rest.remote = new.remote.clone();
        changes.children(old, new);
        rest.children.clone_from(&new.children);
        if !rest.same_as(new) {
            changes.restart.push("other settings");
        }
        changes
    }

    /// Keys of the same kind are used at the next authentication; another kind is another connection.
    fn authentication(&mut self, old: &Connection, new: &Connection) {
        if discriminant(&old.local.credential) != discriminant(&new.local.credential) {
            self.restart.push("local.auth");
        }
        if discriminant(&old.remote.credential) != discriminant(&new.remote.credential) {
            self.restart.push("remote.auth");
        }
        // Every field is named: a new one can't be forgotten here.
        let LocalAuth {
            id: _,
            credential: local,
        } = &old.local;
        let RemoteAuth {
            id: _,
            credential: remote,
        } = &old.remote;
        if !local.same_as(&new.local.credential) || !remote.same_as(&new.remote.credential) {
            self.in_place.push(KEYS);
        }
    }

    fn children(&mut self, old: &Connection, new: &Connection) {
        for name in old.children.keys().filter(|name| !new.children.contains_key(*name)) {
            self.children.insert(name.clone(), ChildChange::Removed);
        }
        for (name, child) in &new.children {
            let change = match old.children.get(name) {
                None => Some(ChildChange::Added),
                Some(old) => ChildChange::between(old, child),
            };
            if let Some(change) = change {
                self.children.insert(name.clone(), change);
            }
        }
    }

    /// Nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.restart.is_empty() && self.in_place.is_empty() && self.children.is_empty()
    }
}

impl ChildChange {
    /// From one reading to the next; `None` if it stayed as it was.
    #[must_use]
    pub fn between(old: &Child, new: &Child) -> Option<Self> {
        let mut rest = old.clone();
        let (mut restart, mut rekey, mut in_place) = (Vec::new(), Vec::new(), Vec::new());
        macro_rules! differs {
            ($list:ident: $($field:ident $key:literal),*) => {$(
                if old.$field != new.$field {
                    $list.push($key);
                    rest.$field = new.$field.clone();
                }
            )*};
        }
        differs!(restart: local_ts "local_ts", remote_ts "remote_ts", mode "mode", pairs "pairs");
        differs!(rekey: esp_proposals "esp_proposals", iptfs "iptfs");
        differs!(in_place: rekey_time "rekey_time", life_time "life_time", rand_time "rand_time", limits "limits by traffic",
            replay_window "replay_window", tfc_padding "tfc_padding", start_action "start_action", close_action "close_action");
        if rest != *new {
            restart.push("other settings");
        }
        if !restart.is_empty() {
            restart.append(&mut rekey);
            return Some(Self::Restarted(restart));
        }
        if !rekey.is_empty() {
            return Some(Self::Rekeyed(rekey));
        }
        (!in_place.is_empty()).then_some(Self::InPlace(in_place))
    }
}

/// Whether the peer is still where it may be: no addresses are any.
fn covers(new: &[IpAddr], old: &[IpAddr]) -> bool {
    new.is_empty() || (!old.is_empty() && old.iter().all(|address| new.contains(address)))
}
