//! The snapshot for `landbridge status`, and the MTU that goes with a path.

use super::daemon::Daemon;
use super::protocol::{
    CertificateStatus, ChildSaStatus, ConnectionState, ConnectionStatus, FailureStatus, IkeSaStatus, IptfsPath, Status,
};
use crate::config::{self, Configuration, Expiry};
use crate::data::{ChildSaStats, ConnectionStats, USUAL_HEADER};
use crate::sys::netdev;
use landbridge_proto::crypto::ESP_PROVIDER;
use landbridge_proto::esp::aggfrag::PathReport;
use landbridge_proto::esp::transform;
use landbridge_proto::ike;
use landbridge_proto::policy::sad::{ConnectionName, Encapsulation, Path};
use landbridge_proto::time::{Instant, Now};
use landbridge_proto::wire::TrafficSelector;
use std::collections::BTreeMap;

/// Ethernet's MTU: what is taken for a path that nothing is known of.
const USUAL_MTU: u16 = 1500;
/// RFC 8200 §5: no link carries less, and neither does a tunnel.
const LEAST_MTU: u16 = 1280;

/// Everything at this moment.
pub(super) fn snapshot(daemon: &Daemon) -> Status {
    let Now { instant: now, unix } = daemon.clock.now();
    let sas = daemon.endpoint.status();
    let own = by_connection(&sas);
    let connections = daemon
        .configuration
        .tunnels
        .keys()
        .map(|name| connection(daemon, name, own.get(name).map_or(&[], Vec::as_slice), now))
        .collect();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: now.saturating_since(Instant::ZERO).as_secs(),
        connections,
        half_open: sas.iter().filter(|sa| sa.stage == "half-open").count() as u64,
        drops: drops_of_no_connection(daemon),
        offloads: daemon
            .data
            .offloads()
            .into_iter()
            .map(|(name, granted)| (name.to_owned(), granted))
            .collect(),
        certificates: daemon
            .configuration
            .expiries
            .iter()
            .map(|expiry| certificate(expiry, unix))
            .collect(),
    }
}

/// What was dropped before or without a connection, by cause.
pub(super) fn drops_of_no_connection(daemon: &Daemon) -> BTreeMap<String, u64> {
    let counters = daemon.endpoint.counters();
    let mut drops: BTreeMap<String, u64> = [
        ("malformed", counters.malformed),
        ("unknown_ike_spi", counters.unknown_spi),
        ("ike_integrity", counters.integrity_failed),
        ("ike_unexpected", counters.unexpected),
        ("ike_replayed", counters.replayed),
        ("cookies_sent", counters.cookies_sent),
        ("puzzles_unsolved", counters.puzzles_unsolved),
        ("tickets_refused", counters.tickets_refused),
        ("redirects_sent", counters.redirects_sent),
        ("over_limit", counters.over_limit),
        ("fragments", counters.fragments_dropped),
        ("no_matching_connection", counters.no_matching_connection),
        ("auth_failed", counters.auth_failed),
        ("tokens_refused", counters.tokens_refused),
        ("tcp_refused", daemon.streams.refused),
        ("tls_failed", daemon.streams.handshakes.failed),
    ]
    .map(|(cause, count)| (cause.to_owned(), count))
    .into();
    for (cause, count) in daemon.data.stray_drops() {
        *drops.entry(cause.to_owned()).or_default() += count;
    }
    drops
}

/// The SAs of each connection, without those that are over: they only repeat their last answers for a while.
pub(super) fn by_connection(sas: &[ike::IkeSaStatus]) -> BTreeMap<&ConnectionName, Vec<&ike::IkeSaStatus>> {
    let mut by_connection: BTreeMap<&ConnectionName, Vec<&ike::IkeSaStatus>> = BTreeMap::new();
    for sa in sas.iter().filter(|sa| sa.stage != "closing") {
        if let Some(name) = &sa.connection {
            by_connection.entry(name).or_default().push(sa);
        }
    }
    by_connection
}

fn connection(daemon: &Daemon, name: &ConnectionName, sas: &[&ike::IkeSaStatus], now: Instant) -> ConnectionStatus {
    let stats = daemon.data.stats(name);
    let known = daemon.known.get(name).cloned().unwrap_or_default();
    let ike_sas: Vec<IkeSaStatus> = sas
        .iter()
        .map(|sa| ike_sa(sa, daemon.streams.is_tls(&sa.path), &stats, now))
        .collect();
    let next = daemon.attempts.due_in(name);
    let state = if ike_sas.iter().any(|sa| !sa.children.is_empty()) {
        ConnectionState::Up
    } else if !ike_sas.is_empty() || next.is_some() {
        ConnectionState::Connecting
    } else {
        ConnectionState::Down
    };
    let ChildSaStats {
        inbound,
        outbound,
        drops,
        ..
    } = &stats.total;
    ConnectionStatus {
        name: name.to_string(),
        state,
        interface: daemon
            .configuration
            .tunnels
            .get(name)
            .map(|t| t.interface.clone())
            .unwrap_or_default(),
        mtu: known.mtu,
        ike_sas,
        bytes_in: inbound.bytes,
        bytes_out: outbound.bytes,
        packets_in: inbound.packets,
        packets_out: outbound.packets,
        drops: by_cause(drops),
        last_failure: known.failure.map(|(at, failure)| FailureStatus {
            verdict: failure.verdict,
            remote: failure.path.remote.to_string(),
            offered: failure.offered,
            wanted: failure.wanted,
            hint: failure.hint,
            age_seconds: now.saturating_since(at).as_secs(),
        }),
        next_attempt_seconds: next.map(|wait| wait.as_secs()),
    }
}

fn certificate(expiry: &Expiry, unix: u64) -> CertificateStatus {
    let seconds = |unix: u64| i64::try_from(unix).unwrap_or(i64::MAX);
    CertificateStatus {
        connection: expiry.connection.clone(),
        what: expiry.what.to_owned(),
        subject: expiry.subject.clone(),
        file: expiry.file.clone(),
        expires: expiry.not_after.map_or_else(|| "never".to_owned(), config::day),
        expires_in_seconds: expiry.not_after.map(|end| seconds(end).saturating_sub(seconds(unix))),
        warning: expiry.warning(unix),
    }
}

fn ike_sa(sa: &ike::IkeSaStatus, tls: bool, stats: &ConnectionStats, now: Instant) -> IkeSaStatus {
    IkeSaStatus {
        stage: sa.stage.to_owned(),
        spi_i: sa.spi_i.to_string(),
        spi_r: sa.spi_r.to_string(),
        initiator: sa.initiator,
        local: sa.path.local.to_string(),
        remote: sa.path.remote.to_string(),
        peer: sa.peer.as_ref().map(ToString::to_string),
        peer_certificate: sa.peer_certificate.as_ref().map(|shown| shown.subject.clone()),
        peer_certificate_expires: sa.peer_certificate.as_ref().map(|shown| config::day(shown.not_after)),
        suite: sa.suite.map(|suite| suite.to_string()),
        encapsulation: match sa.encapsulation {
            Encapsulation::Udp => "udp",
            Encapsulation::Raw => "raw",
            Encapsulation::Tcp => "tcp",
        }
        .to_owned(),
        why_tcp: sa.why_tcp.map(str::to_owned),
        tls,
        post_quantum: sa.post_quantum,
        ppk: sa.ppk,
        key_exchange: sa.suite.map(|suite| suite.key_exchange()),
        nat_local: sa.nat.local,
        nat_remote: sa.nat.remote && !sa.nat.pretended,
        resumed: sa.resumed,
        redirected_from: sa.redirected_from.map(|from| from.to_string()),
        mobike: sa.mobike,
        quick_crash_detection: sa.quick_crash_detection,
        age_seconds: sa.since.map(|since| now.saturating_since(since).as_secs()),
        reauth_in_seconds: sa.reauth_at.map(|at| at.saturating_since(now).as_secs()),
        rekey_in_seconds: sa.rekey_at.map(|at| at.saturating_since(now).as_secs()),
        in_flight: sa.in_flight.clone(),
        children: sa.children.iter().map(|child| child_sa(child, stats, now)).collect(),
    }
}

fn child_sa(child: &ike::ChildUp, stats: &ConnectionStats, now: Instant) -> ChildSaStatus {
    let found = stats.children.binary_search_by_key(&child.id, |(id, _)| *id);
    let own = found.ok().and_then(|at| stats.children.get(at));
    let own = own.map(|(_, stats)| stats.clone()).unwrap_or_default();
    let words = |list: &[TrafficSelector]| list.iter().map(ToString::to_string).collect();
    ChildSaStatus {
        name: child.child.to_string(),
        spi_in: format!("{:#010x}", child.spis.0),
        spi_out: format!("{:#010x}", child.spis.1),
        suite: child.suite.to_string(),
        mode: child.mode.to_string(),
        iptfs: child.iptfs.map(|mode| mode.name().to_owned()),
        iptfs_path: own.path.as_ref().map(iptfs_path),
        pair: child.pair.map(|(pair, _)| pair),
        pairs: child.pair.map(|(_, pairs)| pairs),
        local_ts: words(&child.local_ts),
        remote_ts: words(&child.remote_ts),
        age_seconds: now.saturating_since(child.since).as_secs(),
        rekey_in_seconds: child.rekey_at.map(|at| at.saturating_since(now).as_secs()),
        bytes_in: own.inbound.bytes,
        bytes_out: own.outbound.bytes,
        packets_in: own.inbound.packets,
        packets_out: own.outbound.packets,
        drops: by_cause(&own.drops),
    }
}

fn iptfs_path(path: &PathReport) -> IptfsPath {
    IptfsPath {
        rate: path.rate,
        rtt_seconds: path.rtt.map(|rtt| rtt.as_secs_f64()),
        loss_events_out: loss_events(path.sent),
        loss_events_in: loss_events(path.received),
    }
}

/// A LossEventRate as what it is the inverse of.
pub(super) fn loss_events(inverse: u32) -> f64 {
    if inverse == 0 { 0.0 } else { 1.0 / f64::from(inverse) }
}

fn by_cause(drops: &[(&'static str, u64)]) -> BTreeMap<String, u64> {
    drops
        .iter()
        .map(|(cause, count)| ((*cause).to_owned(), *count))
        .collect()
}

/// The largest inner packet that fits the path of a connection, whatever of its proposals is chosen. Without a path, of
/// the usual one.
pub(super) fn inner_mtu(
    configuration: &Configuration,
    name: &ConnectionName,
    path: Option<(&Path, Encapsulation)>,
) -> u16 {
    let outer = path
        .and_then(|(path, _)| netdev::path_mtu(path.remote).ok())
        .unwrap_or(USUAL_MTU);
    let tunnel = configuration.tunnels.get(name);
    let outer = tunnel
        .and_then(|tunnel| tunnel.outer_mtu_most)
        .map_or(outer, |most| outer.min(most));
    let ipv6 = path.is_some_and(|(path, _)| path.is_ipv6());
    // RFC 9329 §3: "implementations SHOULD limit message lengths to match the lengths used for UDP encapsulation of ESP messages".
    let udp = path.is_none_or(|(_, encapsulation)| encapsulation != Encapsulation::Raw);
    let Some(connection) = configuration.ike.connections.get(name) else {
        return LEAST_MTU;
    };
    // So much that a full packet with its AGGFRAG header fills one outer packet.
    let aggregates = connection.children.values().any(|child| child.iptfs.is_some());
    let header = if aggregates { USUAL_HEADER } else { 0 };
    let proposals = connection.children.values().flat_map(|child| &child.esp_proposals);
    let fits = proposals
        .flat_map(crate::config::suites)
        .filter_map(|suite| (ESP_PROVIDER.sizes)(suite))
        .map(|sizes| transform::inner_mtu(&sizes, usize::from(outer), ipv6, udp).saturating_sub(header));
    let mtu = fits.min().and_then(|mtu| u16::try_from(mtu).ok()).unwrap_or(LEAST_MTU);
    tunnel
        .and_then(|tunnel| tunnel.mtu_most)
        .map_or(mtu, |most| mtu.min(most))
}
