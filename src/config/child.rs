//! `.children.NAME`: what a Child SA is negotiated from.

use super::document::{Spots, Table, Value, nearest};
use super::gateway::set;
use super::profiles::Profile;
use super::units::{duration, duration_or_never, integer, octets};
use super::{Spot, iptfs, proposals, selector};
use landbridge_proto::policy::aggfrag::{Iptfs, SendMode};
use landbridge_proto::policy::connection::{Child, StartAction};
use landbridge_proto::policy::sad::{ChildName, Mode, TrafficLimits};
use landbridge_proto::policy::selector::{are_host, from_prefix};
use landbridge_proto::wire::TrafficSelector;
use std::net::IpAddr;
use std::time::Duration;

/// Lifetime before rekey.
const REKEY_TIME: Duration = Duration::from_secs(3600);
/// Packets the replay window covers.
const REPLAY_WINDOW: u32 = 4096;
// RFC 4303 §2.2: "the sender's counter and the receiver's counter MUST be reset (by establishing a new SA and thus a new
// key) prior to the transmission of the 2^32nd packet on an SA." So a rekey begins at three quarters of that, also where
// 64-bit numbers were chosen.
const REKEY_PACKETS: u64 = 3 << 30;

/// As many as there may be workers.
const MOST_PAIRS: u64 = 64;

/// A child and where it stands.
pub(super) struct Read {
    pub child: Child,
    pub spot: Spot,
    pub spots: Spots,
}

/// Reads a child; what is wrong is reported, and then there is nothing.
///
/// `hosts` are our outer address and the peer's, where the connection names just one of each.
pub(super) fn read(
    name: &str,
    table: Table<'_, '_>,
    hosts: [Option<IpAddr>; 2],
    workers: u8,
    profile: Option<&Profile>,
) -> Option<Read> {
    let spot = table.spot();
    let mode = table.get("mode").map_or(Some(Mode::Tunnel), |value| mode(&value));
    let [local, remote] = hosts;
    let (local_ts, remote_ts) = match mode {
        Some(Mode::Transport) => (host(&table, "local_ts", local), host(&table, "remote_ts", remote)),
        _ => (
            selectors(&table, "local_ts", profile),
            selectors(&table, "remote_ts", profile),
        ),
    };
    let esp_proposals = proposals::esp(&table, profile);
    let (rekey_time, life_time, rand_time) = lifetimes(&table, profile);
    let limits = limits(&table, profile);
    let mut replay_window = REPLAY_WINDOW;
    if let Some(value) = table.get("replay_window") {
        set(&mut replay_window, integer(&value, 32..=65_536));
    }
    let tfc_padding = table.get("tfc_padding").and_then(|value| padding(&value, mode));
    let iptfs = iptfs::read(&table, mode);
    if tfc_padding.is_some()
        && let (Some(_), Some(value)) = (&iptfs, table.get("tfc_padding"))
    {
        value.error(
            "with iptfs the packets have one size, or hide nothing: leave it out",
            None,
        );
    }
    let mut pairs = 1;
    if let Some(value) = table.get("pairs") {
        set(&mut pairs, count_of_pairs(&value, workers));
        let at_a_rate = |iptfs: &Iptfs| !matches!(iptfs.mode, SendMode::Aggregate { .. });
        if pairs > 1 && iptfs.as_ref().is_some_and(at_a_rate) {
            value.error("each pair would send at the rate of iptfs: leave it out", None);
        }
    }
    // A cloud's gateway has a fixed address and often waits for us.
    let mut start_action = profile.map_or(StartAction::None, |_| StartAction::Start);
    if let Some(value) = table.get("start_action") {
        set(&mut start_action, action(&value));
    }
    let mut close_action = start_action;
    if let Some(value) = table.get("close_action") {
        set(&mut close_action, action(&value));
    }
    table.finish();
    let spots = table.spots();
    let child = Child {
        name: ChildName::from(name),
        local_ts: local_ts?,
        remote_ts: remote_ts?,
        esp_proposals: esp_proposals?,
        rekey_time,
        life_time,
        rand_time,
        limits,
        mode: mode?,
        replay_window,
        tfc_padding,
        iptfs,
        pairs,
        start_action,
        close_action,
    };
    Some(Read { child, spot, spots })
}

fn selectors(table: &Table<'_, '_>, key: &'static str, profile: Option<&Profile>) -> Option<Vec<TrafficSelector>> {
    match (table.get(key), profile) {
        (Some(value), _) => selector::read(&value),
        // Route-based gateways: everything, and routes say what goes through.
        (None, Some(_)) => landbridge_proto::policy::selector::parse("0.0.0.0/0")
            .ok()
            .map(|any| vec![any]),
        (None, None) => {
            let remedy = format!("write for example {key} = [\"10.1.0.0/16\"]");
            table
                .findings()
                .error(table.spot(), format!("[{}] has no {key}", table.path()), Some(remedy));
            None
        }
    }
}

/// Rekey, life and random time: 1 h, 1.1 times that, a tenth of it. A profile's rekey time, and then the cloud's own
/// lifetime for the second.
fn lifetimes(table: &Table<'_, '_>, profile: Option<&Profile>) -> (Option<Duration>, Option<Duration>, Duration) {
    let mut rekey_time = Some(profile.map_or(REKEY_TIME, Profile::child_rekey_time));
    let given = table.get("rekey_time");
    if let Some(value) = &given {
        set(&mut rekey_time, duration_or_never(value));
    }
    let mut life_time = match (&given, profile) {
        (None, Some(profile)) => Some(profile.accepts.child_lifetime.1),
        _ => rekey_time.map(|d| d * 11 / 10),
    };
    if let Some(value) = table.get("life_time") {
        set(&mut life_time, duration_or_never(&value));
        if let (Some(life), Some(rekey)) = (life_time, rekey_time)
            && life <= rekey
        {
            let (life, rekey) = (humantime::format_duration(life), humantime::format_duration(rekey));
            let remedy = "leave it out: it is then 1.1 times rekey_time".to_owned();
            value.error(format!("{life} is not longer than rekey_time ({rekey})"), Some(remedy));
        }
    }
    let mut rand_time = rekey_time.unwrap_or_default() / 10;
    if let Some(value) = table.get("rand_time") {
        set(&mut rand_time, duration(&value));
        if rekey_time.is_some_and(|rekey| rand_time >= rekey) {
            value.error("it must be shorter than rekey_time", None);
        }
    }
    (rekey_time, life_time, rand_time)
}

fn limits(table: &Table<'_, '_>, profile: Option<&Profile>) -> TrafficLimits {
    let octets_there = profile.and_then(|profile| profile.accepts.child_octets);
    let mut limits = TrafficLimits {
        soft_packets: Some(REKEY_PACKETS),
        soft_bytes: octets_there.map(|octets| octets / 10 * 9),
        hard_bytes: octets_there,
        ..TrafficLimits::default()
    };
    let rekey_bytes = table.get("rekey_bytes");
    if let Some(value) = &rekey_bytes {
        set(&mut limits.soft_bytes, octets(value).map(Some));
    }
    if let Some(value) = table.get("life_bytes") {
        set(&mut limits.hard_bytes, octets(&value).map(Some));
        if rekey_bytes.is_none() {
            limits.soft_bytes = limits.hard_bytes.map(in_time);
        }
        above(&value, limits.hard_bytes, limits.soft_bytes, "rekey_bytes");
    }
    let rekey_packets = table.get("rekey_packets");
    if let Some(value) = &rekey_packets {
        set(&mut limits.soft_packets, value.integer(1..=u64::MAX >> 1).map(Some));
    }
    if let Some(value) = table.get("life_packets") {
        set(&mut limits.hard_packets, value.integer(1..=u64::MAX >> 1).map(Some));
        if rekey_packets.is_none() {
            limits.soft_packets = limits.hard_packets.map(|hard| in_time(hard).min(REKEY_PACKETS));
        }
        above(&value, limits.hard_packets, limits.soft_packets, "rekey_packets");
    }
    limits
}

/// Where a rekey begins if only the end is given: with a quarter left, as the end must not be met while it is under way.
const fn in_time(hard: u64) -> u64 {
    hard - hard / 4
}

fn above(value: &Value<'_, '_>, hard: Option<u64>, soft: Option<u64>, name: &str) {
    let (Some(hard), Some(soft)) = (hard, soft) else { return };
    if hard <= soft {
        value.error(format!("{hard} is not above {name} ({soft})"), None);
    } else if hard - soft < hard / 20 {
        value.warn(format!(
            "it leaves {} of {hard} for the rekey: at full speed that is soon used up, and then packets are dropped; \
             leave {name} out, it is then three quarters",
            hard - soft
        ));
    }
}

fn action(value: &Value<'_, '_>) -> Option<StartAction> {
    match value.string()? {
        "start" => Some(StartAction::Start),
        "trap" => Some(StartAction::Trap),
        "none" => Some(StartAction::None),
        other => {
            let remedy = nearest(other, ["start", "trap", "none"]).map(|word| format!("did you mean {word:?}?"));
            value.error(format!("{other:?} is not \"start\", \"trap\" or \"none\""), remedy);
            None
        }
    }
}

fn mode(value: &Value<'_, '_>) -> Option<Mode> {
    match value.string()? {
        "tunnel" => Some(Mode::Tunnel),
        "transport" => Some(Mode::Transport),
        other => {
            let remedy = nearest(other, ["tunnel", "transport"]).map(|word| format!("did you mean {word:?}?"));
            value.error(format!("{other:?} is not \"tunnel\" or \"transport\""), remedy);
            None
        }
    }
}

/// `"mtu"`, or octets; 0 is none.
fn padding(value: &Value<'_, '_>, mode: Option<Mode>) -> Option<u16> {
    if mode == Some(Mode::Transport) {
        value.error(
            "padding stands behind a whole inner packet: it takes mode = \"tunnel\"",
            None,
        );
        return None;
    }
    if value.is_integer() {
        return integer(value, 0..=65_535).filter(|octets| *octets != 0);
    }
    match value.string()? {
        "mtu" => Some(u16::MAX),
        other => {
            value.error(format!("{other:?} is not \"mtu\" or a number of octets"), None);
            None
        }
    }
}

/// `"auto"`, as many as there are workers, or a number.
fn count_of_pairs(value: &Value<'_, '_>, workers: u8) -> Option<u16> {
    if value.is_integer() {
        return integer(value, 1..=MOST_PAIRS);
    }
    match value.string()? {
        "auto" => Some(workers.into()),
        other => {
            value.error(format!("{other:?} is not \"auto\" or a number of Child SA pairs"), None);
            None
        }
    }
}

/// Transport mode is for the two machines themselves: the selectors name them, as the connection does.
fn host(table: &Table<'_, '_>, key: &'static str, address: Option<IpAddr>) -> Option<Vec<TrafficSelector>> {
    let addrs = if key == "local_ts" {
        "local_addrs"
    } else {
        "remote_addrs"
    };
    let Some(address) = address else {
        let problem = format!(
            "[{}] is for transport mode, which is between two addresses: the connection has to have one in {addrs}",
            table.path()
        );
        let remedy = format!("write {addrs} = [\"...\"] with that one address, or use mode = \"tunnel\"");
        table.findings().error(table.spot(), problem, Some(remedy));
        table.get(key);
        return None;
    };
    let Some(value) = table.get(key) else {
        return Some(vec![from_prefix(address, if address.is_ipv4() { 32 } else { 128 })]);
    };
    let list = super::selector::read(&value)?;
    if !are_host(&list, address) {
        value.error(
            format!("transport mode takes only {address} itself here, as in {addrs}"),
            Some(format!("leave {key} out, or use mode = \"tunnel\"")),
        );
        return None;
    }
    Some(list)
}
