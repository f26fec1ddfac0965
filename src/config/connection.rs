//! `[connections.NAME]`: a peer, how to reach it, and the tunnel to it.

use super::document::{Spots, Table, Value, nearest};
use super::gateway::set;
use super::profiles::{self, Profile};
use super::units::{self, duration_or_never, integer, is_any, is_host_name};
use super::{Prefix, Spot, Tunnel, auth, child, gateway, ppk, proposals, tls};
use crate::signer::Signers;
use landbridge_proto::ip::tunnel::DontFragment;
use landbridge_proto::policy::connection::{Connection, StartAction, TcpUse};
use landbridge_proto::policy::sad::{ConnectionName, Mode};
use landbridge_proto::policy::selector::{are_host, to_prefixes};
use landbridge_proto::wire::{Identification, TrafficSelector};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Lifetime of an IKE SA before rekey.
const IKE_REKEY_TIME: Duration = Duration::from_secs(4 * 3600);
/// A shorter `reauth_time` is warned about.
const SHORT_REAUTH_TIME: Duration = Duration::from_secs(300);
/// Silence after which the peer is asked whether it lives.
const DPD_DELAY: Duration = Duration::from_secs(30);
/// RFC 7383 §2.5.1: "1280 bytes" for IPv6; it passes nearly every IPv4 path too.
const FRAGMENT_SIZE: usize = 1280;
/// Metric of the tunnel's routes: a route the operator set up by hand (metric 0) wins.
const METRIC: u32 = 100;
/// Longest interface name (IFNAMSIZ, 16, holds a terminator).
const INTERFACE_NAME: usize = 15;

/// A connection, its tunnel, and where things stand that other connections may clash with.
pub(super) struct Read {
    pub connection: Connection,
    pub tunnel: Tunnel,
    pub signers: Signers,
    pub expiries: Vec<super::Expiry>,
    pub spot: Spot,
    pub interface_spot: Spot,
    pub routes_spot: Spot,
    /// In the order of the file.
    pub child_spots: Vec<(Arc<str>, Spot, Spots)>,
    /// What it is held against.
    pub profile: Option<&'static Profile>,
    /// Where its keys stand.
    pub spots: Spots,
}

/// Reads a connection; what is wrong is reported, and then there is nothing.
pub(super) fn read(name: &str, table: &Table<'_, '_>, gateway: &gateway::Read) -> Option<Read> {
    let spot = table.spot();
    check_name(table, name, "connection");
    let profile = profiles::read(table);
    let local_addrs = table.get("local_addrs").map_or(Some(Vec::new()), |value| local(&value));
    let remote = table.get("remote_addrs");
    let peer = remote.as_ref().map_or_else(|| Some(Peer::default()), peer);
    let default_id = match (&gateway.id, local_addrs.as_deref()) {
        (Some(id), _) => Some(id.clone()),
        (None, Some([address])) => Some(Identification::address(*address)),
        _ => None,
    };
    let auth = auth::read(table, default_id.as_ref());
    let ike_proposals = proposals::ike(table, profile);
    let hosts = [
        local_addrs.as_deref().and_then(only),
        peer.as_ref()
            .filter(|peer| peer.hosts.len() == 1)
            .and_then(|peer| only(&peer.addresses)),
    ];
    let children = children(table, hosts, gateway.ike.workers, profile);
    let summary = children.as_deref().map(summary_of).unwrap_or_default();
    let start = summary.start;

    let mut remote_port = 500;
    if let Some(value) = table.get("remote_port") {
        set(&mut remote_port, integer(&value, 1..=65_535));
    }
    let mut ike_rekey_time = Some(profile.map_or(IKE_REKEY_TIME, Profile::ike_rekey_time));
    if let Some(value) = table.get("rekey_time") {
        set(&mut ike_rekey_time, duration_or_never(&value));
    }
    let mut reauth_time = None;
    if let Some(value) = table.get("reauth_time") {
        set(&mut reauth_time, duration_or_never(&value));
        // RFC 4478 §3: "It is usually not reasonable to set this value to less than 300 (5 minutes)".
        if reauth_time.is_some_and(|time| time < SHORT_REAUTH_TIME) {
            value.warn("authenticating anew so often costs much and protects little; an hour or more is usual");
        }
    }
    let mut dpd_delay = Some(profile.map_or(DPD_DELAY, |profile| profile.values.dpd_delay));
    if let Some(value) = table.get("dpd_delay") {
        set(&mut dpd_delay, duration_or_never(&value));
        if dpd_delay.is_none() {
            value.warn("a dead peer will be noticed only at the next rekey");
        }
    }
    let fragmentation = flag(table, "fragmentation", true);
    let mut fragment_size = FRAGMENT_SIZE;
    if let Some(value) = table.get("fragment_size") {
        set(&mut fragment_size, integer(&value, 160..=65_535));
    }
    let mut force_udp_encapsulation = true;
    if let Some(value) = table.get("encap") {
        let choice = [("udp", true), ("auto", false)];
        set(&mut force_udp_encapsulation, word(&value, &choice));
    }
    let mobike = flag(table, "mobike", true);
    let mut tcp = TcpUse::default();
    if let Some(value) = table.get("tcp") {
        let choice = [
            ("never", TcpUse::Never),
            ("accept", TcpUse::Accept),
            ("fallback", TcpUse::Fallback),
            ("always", TcpUse::Always),
        ];
        set(&mut tcp, word(&value, &choice));
    }
    // RFC 9329 §2: "TCP port 4500, which is reserved for IPsec NAT traversal".
    let mut tcp_port = 4500;
    if let Some(value) = table.get("tcp_port") {
        set(&mut tcp_port, integer(&value, 1..=65_535));
    }
    let ppk = ppk::read(table);
    let resumption = flag(table, "resumption", false);
    let hosts = peer.as_ref().map(|p| p.hosts.clone()).unwrap_or_default();
    let follow_redirects = flag(table, "follow_redirects", false);
    let mut redirect_to = None;
    if let Some(value) = table.get("redirect_to") {
        redirect_to = gateway::redirect_to(&value);
        if start {
            value.warn("this end begins the connection by itself, and so calls back whom it sends away");
        }
    }
    let keep_trying = flag(table, "keep_trying", true);
    let mut tls_expiries = Vec::new();
    let tcp_tls = tls::client(table, name, tcp, &hosts, &mut tls_expiries);
    if start && hosts.is_empty() && peer.is_some() {
        let place = remote.as_ref().map_or(spot, Value::spot);
        let problem = format!(
            "[{}] is to be started, but has no remote_addrs to connect to",
            table.path()
        );
        let remedy =
            "name the peer's address in remote_addrs, or set start_action = \"none\" and wait for it".to_owned();
        table.findings().error(place, problem, Some(remedy));
    }
    let literal = peer.as_ref().map(|p| p.addresses.clone()).unwrap_or_default();
    let (mut tunnel, interface_spot, routes_spot) = tunnel(table, name, &summary, (hosts, gateway.ike.retry), &literal);
    if let Some(tunnel) = &mut tunnel {
        tunnel.tcp_tls.clone_from(&tcp_tls.clone().flatten());
    }
    if let (Some(tunnel), Some(profile)) = (&mut tunnel, profile) {
        tunnel.profile = Some(profile.name);
        tunnel.mtu_most = profile.values.mtu_most;
        tunnel.outer_mtu_most = profile.values.outer_mtu_most;
    }
    table.finish();

    let child_spots = children
        .iter()
        .flatten()
        .map(|c| (Arc::clone(&c.child.name), c.spot, c.spots.clone()))
        .collect();
    let auth::Read {
        local,
        remote,
        signers,
        mut expiries,
    } = auth?;
    tcp_tls?;
    expiries.append(&mut tls_expiries);
    let connection = Connection {
        name: ConnectionName::from(name),
        local_addrs: local_addrs?,
        remote_addrs: peer?.addresses,
        remote_port,
        ike_proposals: ike_proposals?,
        local,
        remote,
        ike_rekey_time,
        reauth_time,
        dpd_delay,
        fragmentation,
        fragment_size,
        force_udp_encapsulation,
        mobike,
        tcp,
        tcp_port,
        ppk: ppk?,
        resumption,
        follow_redirects,
        redirect_to,
        keep_trying,
        children: children?
            .into_iter()
            .map(|c| (Arc::clone(&c.child.name), Arc::new(c.child)))
            .collect(),
    };
    Some(Read {
        connection,
        tunnel: tunnel?,
        signers,
        expiries,
        spot,
        interface_spot,
        routes_spot,
        child_spots,
        profile,
        spots: table.spots(),
    })
}

/// The peer's addresses.
#[derive(Default)]
struct Peer {
    /// All of them, to connect to.
    hosts: Vec<String>,
    /// The literal ones, to accept from; empty for any.
    addresses: Vec<IpAddr>,
}

fn local(value: &Value<'_, '_>) -> Option<Vec<IpAddr>> {
    let (mut list, mut complete) = (Vec::new(), true);
    for (text, item) in value.strings()? {
        match text.parse::<IpAddr>() {
            _ if is_any(text) => return Some(Vec::new()),
            Ok(address) => list.push(address),
            Err(_) => {
                let remedy = "write an address of this machine, or leave local_addrs out for any".to_owned();
                item.error(format!("{text:?} is not an address"), Some(remedy));
                complete = false;
            }
        }
    }
    complete.then_some(list)
}

fn peer(value: &Value<'_, '_>) -> Option<Peer> {
    let (mut peer, mut any, mut complete) = (Peer::default(), false, true);
    for (text, item) in value.strings()? {
        if is_any(text) {
            any = true;
        } else if let Ok(address) = text.parse() {
            peer.hosts.push(text.to_owned());
            peer.addresses.push(address);
        } else if is_host_name(text) {
            // It may resolve to anything, each time; who the peer is, it proves by its key.
            peer.hosts.push(text.to_owned());
            any = true;
        } else {
            let remedy = "write an address, a name that resolves to one, or \"%any\" to wait for the peer".to_owned();
            item.error(format!("{text:?} is not an address or name"), Some(remedy));
            complete = false;
        }
    }
    if any {
        peer.addresses.clear();
    }
    complete.then_some(peer)
}

fn only(addresses: &[IpAddr]) -> Option<IpAddr> {
    match addresses {
        [address] => Some(*address),
        _ => None,
    }
}

fn children(
    table: &Table<'_, '_>,
    hosts: [Option<IpAddr>; 2],
    workers: u8,
    profile: Option<&Profile>,
) -> Option<Vec<child::Read>> {
    let Some(all) = table.table("children") else {
        let problem = format!("[{}] has no children", table.path());
        let remedy = format!("add [{}.children.net] with local_ts and remote_ts", table.path());
        table.findings().error(table.spot(), problem, Some(remedy));
        return None;
    };
    let named = all.named();
    if named.is_empty() {
        let remedy = format!("add [{}.net] with local_ts and remote_ts", all.path());
        all.findings()
            .error(all.spot(), format!("[{}] is empty", all.path()), Some(remedy));
    }
    let read = |(name, value): (&str, Value<'_, '_>)| {
        let table = value.table()?;
        check_name(&table, name, "child");
        child::read(name, table, hosts, workers, profile)
    };
    // All of them are read before any is missed, so that all that is wrong is reported.
    let list: Vec<_> = named.into_iter().map(read).collect();
    list.into_iter()
        .collect::<Option<Vec<_>>>()
        .filter(|list| !list.is_empty())
}

/// What the children have in common.
#[derive(Default)]
struct Summary {
    /// One is to be started.
    start: bool,
    /// All of them are in transport mode; or one of them is, and others are not.
    transport: bool,
    mixed: Option<Spot>,
    /// The one host that all local selectors are for.
    source: Option<IpAddr>,
    remote_ts: Vec<TrafficSelector>,
}

fn summary_of(children: &[child::Read]) -> Summary {
    let transport = |c: &&child::Read| c.child.mode == Mode::Transport;
    let count = children.iter().filter(transport).count();
    let host = children
        .iter()
        .flat_map(|c| &c.child.local_ts)
        .find_map(|selector| match selector {
            TrafficSelector::Range { start, .. } => Some(*start),
            TrafficSelector::Unknown { .. } => None,
        });
    Summary {
        start: children.iter().any(|c| c.child.start_action == StartAction::Start),
        transport: count == children.len(),
        mixed: children
            .iter()
            .find(transport)
            .filter(|_| count < children.len())
            .map(|c| c.spot),
        source: host.filter(|host| children.iter().all(|c| are_host(&c.child.local_ts, *host))),
        remote_ts: children
            .iter()
            .flat_map(|c| c.child.remote_ts.iter().cloned())
            .collect(),
    }
}

fn tunnel(
    table: &Table<'_, '_>,
    name: &str,
    summary: &Summary,
    peer: (Vec<String>, (Duration, Duration)),
    literal: &[IpAddr],
) -> (Option<Tunnel>, Spot, Spot) {
    let (remote_hosts, retry) = peer;
    if let Some(spot) = summary.mixed {
        let problem = format!("[{}] has children in transport mode and in tunnel mode", table.path());
        let remedy = "make two connections of it: they need two interfaces".to_owned();
        table.findings().error(spot, problem, Some(remedy));
    }
    let (mut interface, mut interface_spot) = (Some(default_interface(name)), table.spot());
    if let Some(value) = table.get("interface") {
        interface = interface_name(&value);
        interface_spot = value.spot();
    }
    let addresses = table
        .get("addresses")
        .map_or(Some(Vec::new()), |value| units::addresses(&value));
    let mut mtu = None;
    if let Some(value) = table.get("mtu") {
        set(&mut mtu, read_mtu(&value));
    }
    let given = table.get("routes");
    let routes_spot = given.as_ref().map_or(table.spot(), Value::spot);
    let routes = match &given {
        Some(value) => units::networks(value),
        None => Some(routes_of(table, &summary.remote_ts)),
    };
    let mut metric = METRIC;
    if let Some(value) = table.get("metric") {
        // The unreachable route behind it has a worse one.
        set(&mut metric, integer(&value, 1..=u64::from(u32::MAX - 1024)));
    }
    let clamp_mss = flag(table, "clamp_mss", true);
    let mut dont_fragment = DontFragment::Clear;
    if let Some(value) = table.get("df") {
        let choice = [
            ("clear", DontFragment::Clear),
            ("set", DontFragment::Set),
            ("copy", DontFragment::Copy),
        ];
        set(&mut dont_fragment, word(&value, &choice));
    }
    let dscp = table
        .get("dscp")
        .and_then(|value| super::dscp::read(&value))
        .unwrap_or_default();
    let fail_closed = flag(table, "fail_closed", true);
    // The peer behind its own tunnel: without a table of its own the route would swallow ESP too.
    let around = |routes: &[Prefix]| {
        let within = |peer: &IpAddr| routes.iter().any(|route| route.contains(*peer));
        literal.iter().any(within)
    };
    let policy_routing = flag(table, "policy_routing", routes.as_deref().is_some_and(around));
    let tunnel = interface
        .zip(addresses)
        .zip(routes)
        .map(|((interface, addresses), routes)| Tunnel {
            interface,
            addresses,
            mtu,
            tcp_tls: None,
            mtu_most: None,
            outer_mtu_most: None,
            profile: None,
            clamp_mss,
            dont_fragment,
            dscp,
            routes,
            fail_closed,
            metric,
            policy_routing,
            source: summary.source,
            transport: summary.transport,
            remote_hosts,
            start: summary.start,
            retry,
        });
    (tunnel, interface_spot, routes_spot)
}

/// The prefixes of the remote selectors, without duplicates and without those that lie within another.
fn routes_of(table: &Table<'_, '_>, remote_ts: &[TrafficSelector]) -> Vec<Prefix> {
    let mut list = Vec::new();
    for selector in remote_ts {
        list.extend(
            to_prefixes(selector)
                .into_iter()
                .map(|(address, length)| Prefix { address, length }),
        );
    }
    list.sort_by_key(|prefix| (prefix.length, prefix.address));
    let mut routes: Vec<Prefix> = Vec::new();
    for prefix in list {
        if !routes.iter().any(|wider| wider.contains(prefix.address)) {
            routes.push(prefix);
        }
    }
    if routes.iter().any(|route| route.length == 0) {
        let problem = format!(
            "[{}] would send everything into the tunnel, also the tunnel's own packets",
            table.path()
        );
        let remedy =
            "remote_ts may stay as it is; say with routes = [\"...\"] which networks lie behind the peer".to_owned();
        table.findings().error(table.spot(), problem, Some(remedy));
    }
    routes
}

fn read_mtu(value: &Value<'_, '_>) -> Option<Option<u16>> {
    if !value.is_string() {
        let mtu = integer::<u16>(value, 576..=65_535)?;
        if mtu < 1280 {
            value.warn("IPv6 needs an MTU of 1280 at least (RFC 8200 §5)");
        }
        return Some(Some(mtu));
    }
    if value.string()? != "auto" {
        value.error("an integer is expected, or \"auto\"", None);
        return None;
    }
    Some(None)
}

/// One of a few words.
fn word<T: Copy>(value: &Value<'_, '_>, choice: &[(&'static str, T)]) -> Option<T> {
    let text = value.string()?;
    if let Some((_, meaning)) = choice.iter().find(|(word, _)| *word == text) {
        return Some(*meaning);
    }
    let words: Vec<String> = choice.iter().map(|(word, _)| format!("{word:?}")).collect();
    let remedy = nearest(text, choice.iter().map(|(word, _)| *word)).map(|word| format!("did you mean {word:?}?"));
    value.error(format!("{text:?} is none of {}", words.join(", ")), remedy);
    None
}

pub(super) fn flag(table: &Table<'_, '_>, key: &'static str, default: bool) -> bool {
    table.get(key).and_then(|value| value.boolean()).unwrap_or(default)
}

/// Names appear in log lines, commands and interface names.
fn check_name(table: &Table<'_, '_>, name: &str, what: &str) {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(fine) || name.starts_with(['-', '.']) {
        let problem = format!("{name:?} can't be the name of a {what}");
        let remedy = "use at most 64 letters, digits, - _ and ., and begin with none of - and .".to_owned();
        table.findings().error(table.spot(), problem, Some(remedy));
    }
}

fn interface_name(value: &Value<'_, '_>) -> Option<String> {
    let name = value.string()?;
    let fine = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%');
    if name.is_empty()
        || name.len() > INTERFACE_NAME
        || !name.chars().all(fine)
        || matches!(name, "." | ".." | "lo" | "all" | "default")
    {
        let remedy = format!("use at most {INTERFACE_NAME} letters, digits, - _ and .");
        value.error(format!("{name:?} can't be the name of an interface"), Some(remedy));
        return None;
    }
    Some(name.to_owned())
}

/// `lb-NAME`; a name too long is cut, and told from others by a digest of it.
fn default_interface(name: &str) -> String {
    let whole = format!("lb-{name}");
    if whole.len() <= INTERFACE_NAME {
        return whole;
    }
    // FNV-1a: any fixed function of the name would do; the name of the interface must not change with a release.
    let digest = name.bytes().fold(0x811c_9dc5_u32, |hash, octet| {
        (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193)
    });
    let kept: String = whole.chars().take(INTERFACE_NAME - 5).collect();
    format!("{kept}-{:04x}", (digest >> 16) ^ (digest & 0xffff))
}

/// All connections in the order of the file.
pub(super) fn read_all(root: &Table<'_, '_>, gateway: &gateway::Read) -> Vec<Option<Read>> {
    let Some(all) = root.table("connections") else {
        return Vec::new();
    };
    all.named()
        .into_iter()
        .map(|(name, value)| read(name, &value.table()?, gateway))
        .collect()
}

/// Sorted out for the rest of the daemon.
pub(super) fn into_maps(
    list: Vec<Read>,
) -> (
    BTreeMap<ConnectionName, Arc<Connection>>,
    BTreeMap<ConnectionName, Tunnel>,
) {
    list.into_iter()
        .map(|read| {
            let name = Arc::clone(&read.connection.name);
            ((Arc::clone(&name), Arc::new(read.connection)), (name, read.tunnel))
        })
        .unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_and_differ() {
        assert_eq!(default_interface("cloud"), "lb-cloud");
        assert_eq!(default_interface("twelve-chars"), "lb-twelve-chars");
        let (a, b) = (
            default_interface("a-very-long-name-1"),
            default_interface("a-very-long-name-2"),
        );
        assert!(
            a.len() == 15 && b.len() == 15 && a != b && a.starts_with("lb-a-very-"),
            "{a} {b}"
        );
    }
}
