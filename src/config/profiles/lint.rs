//! A connection held against its profile: the setup and each rekey. Each finding says what to change, and at which end.

mod algorithms;

use super::super::connection::Read;
use super::super::document::{Findings, Spot, Spots};
use super::{Accepts, EspRow, IkeRow, NO_PFS, Profile};
use landbridge_proto::crypto::{ESP_PROVIDER, Encryption};
use landbridge_proto::esp::transform;
use landbridge_proto::policy::connection::{Child, Connection, LocalCredential, StartAction};
use landbridge_proto::policy::proposal::{EspProposal, IkeProposal};
use landbridge_proto::policy::sad::Mode;
use std::time::Duration;

/// What the profile of one connection has to say about it.
pub(in super::super) fn lint(findings: &Findings<'_>, read: &Read) {
    let Some(profile) = read.profile else { return };
    let desk = Desk {
        findings,
        profile,
        place: format!("connections.{}", read.connection.name),
        spots: &read.spots,
        table: read.spot,
    };
    if let Some(weak) = profile.weak {
        desk.warn("profile", weak);
    }
    algorithms::ike(&desk, &read.connection);
    reach(&desk, read);
    tunnel(&desk, read);
    key(&desk, &read.connection);
    let accepts = &profile.accepts;
    let children = read.connection.children.len();
    if children > accepts.children {
        desk.warn(
            "children",
            format!(
                "{children} children, but {} has room for {} of them in one connection; put all networks into one child \
                 (remote_ts = [\"0.0.0.0/0\"] and routes = [...] for what goes through)",
                profile.gateway, accepts.children
            ),
        );
    }
    for (name, spot, spots) in &read.child_spots {
        if let Some(child) = read.connection.children.get(name) {
            let place = format!("{}.children.{name}", desk.place);
            algorithms::child(
                &Desk {
                    findings,
                    profile,
                    place,
                    spots,
                    table: *spot,
                },
                child,
            );
        }
    }
}

/// What profiles have to say about all connections together.
pub(in super::super) fn lint_together(findings: &Findings<'_>, list: &[Read]) {
    for (index, read) in list.iter().enumerate() {
        let Some(profile) = read.profile else { continue };
        let alike = |other: &&Read| other.profile.is_some_and(|other| std::ptr::eq(other, profile));
        if let Some(why) = profile.accepts.pair
            && list.iter().filter(alike).count() == 1
        {
            findings.warn(
                read.spot,
                format!(
                    "connections.{} is the only tunnel to {}: {why}; add the second tunnel as a connection of its own, with a \
                     larger metric",
                    read.connection.name, profile.gateway
                ),
            );
        }
        if !profile.accepts.same_in_pair {
            continue;
        }
        if let Some(first) = list[..index].iter().find(alike)
            && !same_algorithms(&first.connection, &read.connection)
        {
            findings.warn(
                read.spot,
                format!(
                    "connections.{} and connections.{} differ in proposals, esp_proposals or the child's lifetime: the tunnels of \
                     one {} gateway must have the same; make them equal here and in {}",
                    first.connection.name, read.connection.name, profile.gateway, profile.settings
                ),
            );
        }
    }
}

fn same_algorithms(a: &Connection, b: &Connection) -> bool {
    let children = |connection: &Connection| {
        let list = connection.children.values();
        list.map(|child| (child.esp_proposals.clone(), child.life_time))
            .collect::<Vec<_>>()
    };
    a.ike_proposals == b.ike_proposals && children(a) == children(b)
}

/// Where findings about one table go.
struct Desk<'a, 'd> {
    findings: &'a Findings<'d>,
    profile: &'static Profile,
    place: String,
    spots: &'a Spots,
    table: Spot,
}

impl Desk<'_, '_> {
    /// About a key, whether it is written or not.
    fn warn(&self, key: &'static str, text: impl AsRef<str>) {
        let spot = self.spots.get(key).copied().unwrap_or(self.table);
        self.findings.warn(
            spot,
            format!(
                "{}.{key} (profile {:?}): {}",
                self.place,
                self.profile.name,
                text.as_ref()
            ),
        );
    }

    fn accepts(&self) -> &'static Accepts {
        &self.profile.accepts
    }
}

/// Lifetimes and selectors of a child.
fn limits(desk: &Desk<'_, '_>, child: &Child) {
    let (accepts, profile) = (desk.accepts(), desk.profile);
    let (least, usual) = accepts.child_lifetime;
    lifetime(desk, "rekey_time", child.rekey_time, child.life_time, usual);
    if child.rekey_time.is_some_and(|time| time < least) {
        desk.warn(
            "rekey_time",
            format!(
                "it is shorter than any lifetime that {} can have ({}); make it longer here",
                profile.gateway,
                humantime::format_duration(least)
            ),
        );
    }
    if let Some(octets) = accepts.child_octets
        && child.limits.soft_bytes.is_none_or(|bytes| bytes > octets)
    {
        desk.warn(
            "rekey_bytes",
            format!(
                "{} ends a Child SA after {} GB; rekey before that: write rekey_bytes = \"{} GB\" here",
                profile.gateway,
                octets / 1_000_000_000,
                octets / 10 * 9 / 1_000_000_000
            ),
        );
    }
    for (key, list) in [("local_ts", &child.local_ts), ("remote_ts", &child.remote_ts)] {
        if list.len() > accepts.selectors {
            desk.warn(
                key,
                format!(
                    "{} selectors, but {} has {} on a side; write {key} = [\"0.0.0.0/0\"] at both ends and say with routes here, and \
                     the route table there, what goes through",
                    list.len(),
                    profile.gateway,
                    accepts.selectors
                ),
            );
        }
    }
    if child.replay_window < accepts.replay_window {
        desk.warn(
            "replay_window",
            format!(
                "{} is small for {}, which spreads packets over several ways; write {} or more here",
                child.replay_window, profile.gateway, accepts.replay_window
            ),
        );
    }
}

/// Our lifetime has to end before the other end's.
fn lifetime(desk: &Desk<'_, '_>, key: &'static str, soft: Option<Duration>, hard: Option<Duration>, theirs: Duration) {
    let profile = desk.profile;
    let words = humantime::format_duration(theirs);
    let shorter = humantime::format_duration(theirs * 9 / 10);
    match (soft, hard) {
        (None, _) => desk.warn(
            key,
            format!("we never rekey, and {} ends the SA after {words}; write {key} = \"{shorter}\" here", profile.gateway),
        ),
        (Some(soft), _) if soft > theirs => desk.warn(
            key,
            format!(
                "{} is longer than what {} has ({words}): it will rekey first, or end the SA; write {key} = \"{shorter}\" here, or set a \
                 longer lifetime in {}",
                humantime::format_duration(soft),
                profile.gateway,
                profile.settings
            ),
        ),
        (_, Some(hard)) if hard > theirs && key == "rekey_time" && soft.is_some_and(|soft| soft * 11 / 10 > theirs) => desk.warn(
            key,
            format!(
                "it leaves no time for a second try before {} ends the SA after {words}; write {key} = \"{shorter}\" here",
                profile.gateway
            ),
        ),
        _ => {}
    }
}

/// How the peer is found, and found dead.
fn reach(desk: &Desk<'_, '_>, read: &Read) {
    let (accepts, profile) = (desk.accepts(), desk.profile);
    let connection = &read.connection;
    if read.tunnel.remote_hosts.is_empty() {
        desk.warn(
            "remote_addrs",
            format!("{} has a public address of its own; write it here", profile.gateway),
        );
    }
    let literal = connection.local_addrs.iter().chain(&connection.remote_addrs);
    if let (false, Some(address)) = (
        accepts.outer_ipv6,
        literal.into_iter().find(|address| address.is_ipv6()),
    ) {
        desk.warn(
            "remote_addrs",
            format!(
                "{address}: {} is reached over IPv4 only; IPv6 goes inside the tunnel; write IPv4 addresses here",
                profile.gateway
            ),
        );
    }
    match connection.dpd_delay {
        None => desk.warn(
            "dpd_delay",
            format!(
                "it is off: that {} was replaced would be noticed only at the next rekey; write \"{}\" here",
                profile.gateway,
                humantime::format_duration(profile.values.dpd_delay)
            ),
        ),
        Some(delay) if delay > accepts.dpd_most => desk.warn(
            "dpd_delay",
            format!(
                "{} is long: {} is asked for a sign of life too late to fail over; write at most \"{}\" here",
                humantime::format_duration(delay),
                profile.gateway,
                humantime::format_duration(accepts.dpd_most)
            ),
        ),
        Some(_) => {}
    }
    if let (false, Some(why)) = (connection.fragmentation, accepts.fragments_lost) {
        desk.warn(
            "fragmentation",
            format!(
                "it is off, and {why}; leave it on here: large IKE messages then go in pieces of their own (RFC 7383)"
            ),
        );
    }
    let begins = |child: &&std::sync::Arc<Child>| child.start_action != StartAction::None;
    if accepts.waits && connection.children.values().filter(begins).count() == 0 {
        desk.warn(
            "children",
            format!(
                "{} waits for us, and we wait for it; write start_action = \"start\" here, or set its startup action to start in {}",
                profile.gateway, profile.settings
            ),
        );
    }
}

/// MTU, MSS and the addresses inside.
fn tunnel(desk: &Desk<'_, '_>, read: &Read) {
    let (accepts, profile, tunnel) = (desk.accepts(), desk.profile, &read.tunnel);
    let outer = profile
        .values
        .outer_mtu_most
        .map(|outer| largest_inner(&read.connection, outer));
    let most = [profile.values.mtu_most, outer].into_iter().flatten().min();
    if let (Some(mtu), Some(most)) = (tunnel.mtu, most)
        && mtu > most
    {
        desk.warn(
            "mtu",
            format!(
                "{mtu} is more than {} passes without fragments ({most}); write {most} here, or leave mtu out",
                profile.gateway
            ),
        );
    }
    if !tunnel.clamp_mss {
        desk.warn(
            "clamp_mss",
            format!(
                "it is off, and {} tells nobody that a packet was too large: TCP connections would hang; leave clamp_mss on here",
                profile.gateway
            ),
        );
    }
    for address in &tunnel.addresses {
        if let Some(Err(text)) = accepts.inside.map(|judge| judge(*address)) {
            desk.warn("addresses", text);
        }
    }
}

/// The largest inner MTU that an outer one leaves room for, over IPv4 and without UDP: beyond it nothing fits.
fn largest_inner(connection: &Connection, outer: u16) -> u16 {
    let proposals = connection.children.values().flat_map(|child| &child.esp_proposals);
    let mtu = proposals.flat_map(super::super::suites).filter_map(|suite| {
        let sizes = (ESP_PROVIDER.sizes)(suite)?;
        u16::try_from(transform::inner_mtu(&sizes, outer.into(), false, false)).ok()
    });
    mtu.max().unwrap_or(outer)
}

/// Pre-shared keys and raw keys.
fn key(desk: &Desk<'_, '_>, connection: &Connection) {
    let profile = desk.profile;
    match &connection.local.credential {
        LocalCredential::RawKey(_) => desk.warn(
            "local",
            format!(
                "{} takes no raw public keys; write auth = \"psk\" here and psk_file",
                profile.gateway
            ),
        ),
        // What certificates a cloud takes depends on what was uploaded there.
        LocalCredential::Certificates(_) => {}
        LocalCredential::Psk(secret) => {
            let Some(rule) = &profile.accepts.psk else { return };
            let octets = secret.expose();
            let (least, most) = rule.length;
            let (charset, fits) = rule.charset;
            // What is wrong is said without repeating any of it.
            let wrong = if !(least..=most).contains(&octets.len()) {
                Some(format!(
                    "it has {} characters, {least} to {most} are possible",
                    octets.len()
                ))
            } else if !octets.iter().all(|octet| fits(*octet)) {
                Some(format!("it has characters other than {charset}"))
            } else if octets.first().copied() == rule.not_first {
                let first = char::from(rule.not_first.unwrap_or_default());
                Some(format!("it begins with {first:?}"))
            } else {
                None
            };
            if let Some(wrong) = wrong {
                desk.warn(
                    "local",
                    format!(
                        "{} does not take this pre-shared key: {wrong}; make one with landbridge keygen --psk FILE and enter it in {}",
                        profile.gateway, profile.settings
                    ),
                );
            }
        }
    }
}
