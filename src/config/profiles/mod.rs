//! `profile = "azure"`: what a cloud's gateway accepts, as its vendor documents it, as tables of values.
//!
//! A profile does two things. Where a connection says nothing, it gives the value that the cloud accepts ([`Values`]); and
//! what the connection says is held against what the cloud accepts ([`Accepts`], `lint`), for the setup and for each rekey.
//! The first Child SA takes its keys from the IKE SA's key exchange, without one of its own (RFC 7296 §1.2), so a wrong
//! group in `esp_proposals` shows only at the first rekey, hours later.
//!
//! Algorithms stand here in the words of the configuration: the tables can name what the other end has and we have not.

mod aws;
mod azure;
mod gcp;
mod lint;

pub(super) use lint::{lint, lint_together};

use super::document::{Table, nearest};
use std::time::Duration;

/// A kind of gateway.
#[derive(Debug)]
pub(super) struct Profile {
    /// The word in the configuration.
    pub name: &'static str,
    /// What it is, for messages.
    pub gateway: &'static str,
    /// Where at the other end its algorithms and lifetimes are set, for messages.
    pub settings: &'static str,
    /// Why one should not use it.
    pub weak: Option<&'static str>,
    /// What a connection gets where it says nothing.
    pub values: Values,
    /// What the other end accepts.
    pub accepts: Accepts,
}

/// What a connection gets where it says nothing.
#[derive(Debug)]
pub(super) struct Values {
    pub proposals: &'static [&'static str],
    pub esp_proposals: &'static [&'static str],
    pub dpd_delay: Duration,
    /// The largest inner MTU, whatever the path carries.
    pub mtu_most: Option<u16>,
    /// The MTU of the cloud's end of the outer path, where it is smaller than ours may be.
    pub outer_mtu_most: Option<u16>,
}

/// What the other end accepts.
#[derive(Debug)]
pub(super) struct Accepts {
    pub ike: &'static [IkeRow],
    pub esp: &'static [EspRow],
    /// Lifetime of its IKE SAs.
    pub ike_lifetime: Duration,
    /// Lifetime of its Child SAs: the least that can be set there, and the one it has unless told otherwise.
    pub child_lifetime: (Duration, Duration),
    /// The same in octets.
    pub child_octets: Option<u64>,
    /// 64-bit sequence numbers.
    pub esn: bool,
    /// Children of one connection.
    pub children: usize,
    /// Selectors of one child and side.
    pub selectors: usize,
    /// The outer path may be IPv6.
    pub outer_ipv6: bool,
    /// Silence after which a dead peer should be asked for, at the latest.
    pub dpd_most: Duration,
    /// The replay window should not be smaller.
    pub replay_window: u32,
    /// It begins nothing by itself, unless told to.
    pub waits: bool,
    /// What a pre-shared key must look like.
    pub psk: Option<PskRule>,
    /// What addresses inside the tunnel it takes, `None` if there is no rule.
    pub inside: Option<InsideRule>,
    /// IKE messages that were cut into IP fragments are lost, and why.
    pub fragments_lost: Option<&'static str>,
    /// A connection needs a second one beside it, and why.
    pub pair: Option<&'static str>,
    /// The tunnels of one such pair must have the same algorithms.
    pub same_in_pair: bool,
}

/// Algorithms of IKE that go together; any one of each list.
#[derive(Debug)]
pub(super) struct IkeRow {
    pub encryption: &'static [&'static str],
    /// Empty for AEADs.
    pub integrity: &'static [&'static str],
    pub prf: &'static [&'static str],
    pub groups: &'static [&'static str],
}

/// Algorithms of ESP that go together. A group of [`NO_PFS`] is none.
#[derive(Debug)]
pub(super) struct EspRow {
    pub encryption: &'static [&'static str],
    /// Empty for AEADs.
    pub integrity: &'static [&'static str],
    /// Accepted when we rekey.
    pub groups: &'static [&'static str],
    /// What it has when it rekeys itself.
    pub groups_of_its_own: &'static [&'static str],
}

/// Without a key exchange.
pub(super) const NO_PFS: &str = "";

/// What a pre-shared key must look like.
#[derive(Debug)]
pub(super) struct PskRule {
    /// Octets, at least and at most.
    pub length: (usize, usize),
    /// Octets it may hold, in words, and as a function.
    pub charset: (&'static str, fn(u8) -> bool),
    /// With what it must not begin.
    pub not_first: Option<u8>,
}

/// Judges an address on the tunnel's interface: `Err` says what is wrong and what to write.
pub(super) type InsideRule = fn(super::Prefix) -> Result<(), String>;

/// All there are.
const ALL: [&Profile; 5] = [
    &azure::AZURE,
    &azure::AZURE_DEFAULT,
    &azure::AZURE_VWAN,
    &aws::AWS,
    &gcp::GCP,
];

/// `profile` of a connection.
pub(super) fn read(table: &Table<'_, '_>) -> Option<&'static Profile> {
    let value = table.get("profile")?;
    let word = value.string()?;
    let found = ALL.into_iter().find(|profile| profile.name == word);
    if found.is_none() {
        let names = ALL.map(|profile| profile.name);
        let remedy = nearest(word, names).map_or_else(
            || format!("there are {}", names.join(", ")),
            |name| format!("did you mean {name:?}?"),
        );
        value.error(format!("there is no profile {word:?}"), Some(remedy));
    }
    found
}

impl Profile {
    /// When we rekey the IKE SA: at nine tenths of the other end's lifetime at the latest, so that one end does it and the
    /// hard end (a tenth later) comes before the cloud's own.
    pub(super) fn ike_rekey_time(&self) -> Duration {
        self.accepts.ike_lifetime * 9 / 10
    }

    /// When we rekey a Child SA.
    pub(super) fn child_rekey_time(&self) -> Duration {
        self.accepts.child_lifetime.1 * 9 / 10
    }
}

const fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}
