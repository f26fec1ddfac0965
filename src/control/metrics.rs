//! Metrics: a series for everything that is configured, up or not, and counters that never go back while the daemon runs.
//!
//! [`gather`] copies the numbers, on the control thread; [`Gathered::text`] writes them down, on another.

use super::daemon::Daemon;
use super::history::{ChildHistory, History};
use super::openmetrics::{Kind, Page, label};
use super::status;
use crate::config::Expiry;
use crate::data::{ChildSaStats, ConnectionStats};
use landbridge_proto::ike::{Counters, IkeSaStatus, Tally};
use landbridge_proto::policy::sad::ChildName;
use landbridge_proto::time::{Instant, Now};
use std::collections::{BTreeMap, BTreeSet};

/// Causes of a connection's drops that have a series before the first: what is absent can't be seen to grow.
const USUAL_DROPS: [&str; 8] = [
    "integrity",
    "no_sa",
    "replayed",
    "selector_in",
    "selector_out",
    "send_failed",
    "too_big",
    "too_old",
];

/// The numbers of one moment.
#[derive(Default)]
pub(super) struct Gathered {
    /// When the daemon was started, in seconds since 1970.
    started: u64,
    /// Octets of memory, if the system tells.
    resident: Option<u64>,
    half_open: usize,
    tcp_connections: usize,
    counters: Counters,
    drops: BTreeMap<String, u64>,
    offloads: Vec<(&'static str, bool)>,
    /// The last second of each certificate and list, by the labels.
    expiries: BTreeMap<String, u64>,
    connections: Vec<Connection>,
}

#[derive(Default)]
struct Connection {
    /// `connection="..."`.
    label: String,
    up: bool,
    ike_sas: usize,
    /// Those over TCP (RFC 9329).
    over_tcp: usize,
    post_quantum: bool,
    waits: bool,
    /// See [`History::peer_certificate`]; of those in use, the first to run out.
    peer_certificate: Option<u64>,
    tally: Tally,
    history: History,
    stats: ConnectionStats,
    children: Vec<Child>,
}

#[derive(Default)]
struct Child {
    /// `connection="...",child="..."`.
    label: String,
    up: bool,
    history: ChildHistory,
    stats: ChildSaStats,
}

/// Everything at this moment.
pub(super) fn gather(daemon: &Daemon) -> Gathered {
    let Now { instant: now, unix } = daemon.clock.now();
    let sas = daemon.endpoint.status();
    let own = status::by_connection(&sas);
    let connections = daemon.configuration.ike.connections.iter();
    Gathered {
        started: unix.saturating_sub(now.saturating_since(Instant::ZERO).as_secs()),
        resident: resident(),
        half_open: sas.iter().filter(|sa| sa.stage == "half-open").count(),
        tcp_connections: daemon.streams.len(),
        counters: daemon.endpoint.counters(),
        drops: status::drops_of_no_connection(daemon),
        offloads: daemon.data.offloads(),
        expiries: expiries(&daemon.configuration.expiries),
        connections: connections
            .map(|(name, configured)| {
                let history = daemon.histories.get(name).cloned().unwrap_or_default();
                let sas = own.get(name).map_or(&[][..], Vec::as_slice);
                let mut gathered = connection(name, configured.children.keys(), sas, daemon.data.stats(name), history);
                gathered.tally = daemon.endpoint.tally(name);
                gathered.waits = daemon.attempts.due_in(name).is_some();
                gathered
            })
            .collect(),
    }
}

fn connection<'a>(
    name: &str,
    children: impl Iterator<Item = &'a ChildName>,
    sas: &[&IkeSaStatus],
    stats: ConnectionStats,
    history: History,
) -> Connection {
    let connection = label("connection", name);
    let up: BTreeSet<&ChildName> = sas
        .iter()
        .flat_map(|sa| &sa.children)
        .map(|child| &child.child)
        .collect();
    let children = children.map(|child| Child {
        label: format!("{connection},{}", label("child", child)),
        up: up.contains(child),
        history: history.children.get(child).copied().unwrap_or_default(),
        stats: stats.by_child.get(child).cloned().unwrap_or_default(),
    });
    let mut established = sas.iter().filter(|sa| sa.since.is_some()).peekable();
    let shown = sas.iter().filter_map(|sa| sa.peer_certificate.as_ref());
    Connection {
        children: children.collect(),
        up: !up.is_empty(),
        ike_sas: established.clone().count(),
        over_tcp: established.clone().filter(|sa| sa.path.is_tcp()).count(),
        post_quantum: established.peek().is_some() && established.all(|sa| sa.post_quantum),
        peer_certificate: shown.map(|shown| shown.not_after).min().or(history.peer_certificate),
        label: connection,
        history,
        stats,
        ..Connection::default()
    }
}

/// Two in one file may have the same subject: the first to run out counts, as labels may not repeat.
fn expiries(list: &[Expiry]) -> BTreeMap<String, u64> {
    let mut expiries = BTreeMap::new();
    for expiry in list {
        let Some(end) = expiry.not_after else { continue };
        let labels = [
            label("connection", &expiry.connection),
            label("what", expiry.what),
            label("subject", &expiry.subject),
            label("file", &expiry.file),
        ];
        let first = expiries.entry(labels.join(",")).or_insert(end);
        *first = end.min(*first);
    }
    expiries
}

/// proc(5): "VmRSS", in kibibytes.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

impl Gathered {
    /// In the format of [`super::openmetrics`].
    pub(super) fn text(&self) -> String {
        let mut page = Page::default();
        self.gateway(&mut page);
        self.connections_state(&mut page);
        self.connections_traffic(&mut page);
        self.connections_events(&mut page);
        self.children(&mut page);
        page.end()
    }

    fn gateway(&self, page: &mut Page) {
        page.family("landbridge_build", Kind::Info, "The daemon's version.");
        page.sample(label("version", env!("CARGO_PKG_VERSION")), 1);
        page.family(
            "process_start_time_seconds",
            Kind::Gauge,
            "When the daemon was started, since 1970.",
        );
        page.plain(self.started);
        if let Some(resident) = self.resident {
            page.family(
                "process_resident_memory_bytes",
                Kind::Gauge,
                "Resident memory of the daemon.",
            );
            page.plain(resident);
        }
        page.family(
            "landbridge_half_open_ike_sas",
            Kind::Gauge,
            "IKE SAs of peers that have not proven who they are.",
        );
        page.plain(self.half_open);
        page.family(
            "landbridge_tcp_connections",
            Kind::Gauge,
            "TCP connections for IKE and ESP, opened or accepted.",
        );
        page.plain(self.tcp_connections);
        page.family("landbridge_ike_messages", Kind::Counter, "IKE datagrams.");
        page.sample(label("direction", "in"), self.counters.received);
        page.sample(label("direction", "out"), self.counters.sent);
        page.family(
            "landbridge_drops",
            Kind::Counter,
            "Packets and messages of no connection that were dropped, by cause.",
        );
        for (cause, count) in &self.drops {
            page.sample(label("cause", cause), count);
        }
        page.family(
            "landbridge_puzzles",
            Kind::Counter,
            "Puzzles against denial of service (RFC 8019), by our role and what became of them.",
        );
        let counters = &self.counters;
        for (role, outcome, count) in [
            ("responder", "asked", counters.puzzles_sent),
            ("responder", "solved", counters.puzzles_solved),
            ("responder", "wrong", counters.puzzles_wrong),
            ("responder", "unsolved", counters.puzzles_unsolved),
            ("initiator", "solved", counters.puzzles_done),
            ("initiator", "left", counters.puzzles_left),
        ] {
            page.sample(
                format_args!("{},{}", label("role", role), label("outcome", outcome)),
                count,
            );
        }
        page.family("landbridge_offload", Kind::Gauge, "1 if the kernel grants it.");
        for (name, granted) in &self.offloads {
            page.sample(label("offload", name), u8::from(*granted));
        }
        page.family(
            "landbridge_certificate_not_after_timestamp_seconds",
            Kind::Gauge,
            "When a certificate or revocation list of the configuration runs out, since 1970.",
        );
        for (labels, end) in &self.expiries {
            page.sample(labels, end);
        }
        page.family(
            "landbridge_peer_certificate_not_after_timestamp_seconds",
            Kind::Gauge,
            "When the certificate that the peer showed runs out, since 1970.",
        );
        for connection in &self.connections {
            if let Some(end) = connection.peer_certificate {
                page.sample(&connection.label, end);
            }
        }
    }

    fn connections_state(&self, page: &mut Page) {
        let mut each = |name: &str, help: &str, value: &dyn Fn(&Connection) -> u64| {
            page.family(name, Kind::Gauge, help);
            for connection in &self.connections {
                page.sample(&connection.label, value(connection));
            }
        };
        each("landbridge_connection_up", "1 if a Child SA is installed.", &|c| {
            c.up.into()
        });
        each(
            "landbridge_connection_connecting",
            "1 if it is not up, and an attempt is under way or waits.",
            &|c| (!c.up && (c.ike_sas > 0 || c.waits)).into(),
        );
        each("landbridge_connection_ike_sas", "Established IKE SAs.", &|c| {
            c.ike_sas as u64
        });
        each(
            "landbridge_connection_ike_sas_over_tcp",
            "Those of them that run over TCP.",
            &|c| c.over_tcp as u64,
        );
        each(
            "landbridge_connection_post_quantum",
            "1 if a post-quantum key exchange is in the keys of all its IKE SAs.",
            &|c| c.post_quantum.into(),
        );
        each(
            "landbridge_connection_established_timestamp_seconds",
            "When an IKE SA came up last, not by a rekey, since 1970; 0 if never.",
            &|c| c.history.last_handshake.map_or(0, |(at, _)| at),
        );
        page.family(
            "landbridge_connection_handshake_duration_seconds",
            Kind::Gauge,
            "From the first message of the last handshake to its end.",
        );
        for connection in &self.connections {
            if let Some((_, took)) = connection.history.last_handshake {
                page.sample(&connection.label, took.as_secs_f64());
            }
        }
    }

    fn connections_traffic(&self, page: &mut Page) {
        let all = || self.connections.iter().map(|c| (c.label.as_str(), &c.stats.total));
        traffic(page, "landbridge_connection", all);
        page.family(
            "landbridge_connection_drops",
            Kind::Counter,
            "Packets that were dropped, by cause.",
        );
        for (connection, total) in all() {
            let count = |cause: &str| {
                total
                    .drops
                    .iter()
                    .find(|(name, _)| *name == cause)
                    .map_or(0, |(_, n)| *n)
            };
            for cause in USUAL_DROPS {
                page.sample(format_args!("{connection},cause=\"{cause}\""), count(cause));
            }
            for (cause, count) in total.drops.iter().filter(|(name, _)| !USUAL_DROPS.contains(name)) {
                page.sample(format_args!("{connection},cause=\"{cause}\""), count);
            }
        }
    }

    fn connections_events(&self, page: &mut Page) {
        page.family(
            "landbridge_connection_handshakes",
            Kind::Counter,
            "IKE SAs that came up, not by a rekey, by our role.",
        );
        for Connection { label, history, .. } in &self.connections {
            for (role, count) in ["initiator", "responder"].iter().zip(history.handshakes) {
                page.sample(format_args!("{label},role=\"{role}\""), count);
            }
        }
        let mut each = |name: &str, help: &str, value: &dyn Fn(&Connection) -> u64| {
            page.family(name, Kind::Counter, help);
            for connection in &self.connections {
                page.sample(&connection.label, value(connection));
            }
        };
        each("landbridge_connection_ike_rekeys", "Rekeys of IKE SAs.", &|c| {
            c.history.ike_rekeys
        });
        each(
            "landbridge_connection_retransmissions",
            "IKE messages that were sent again.",
            &|c| c.tally.retransmissions,
        );
        each(
            "landbridge_connection_liveness_checks",
            "Signs of life that the peer was asked for (DPD).",
            &|c| c.tally.liveness_checks,
        );
        each(
            "landbridge_connection_dead_peers",
            "IKE SAs given up because the peer did not answer.",
            &|c| c.tally.dead_peers,
        );
        each(
            "landbridge_connection_crashed_peers",
            "IKE SAs given up because the peer showed that it had lost them.",
            &|c| c.tally.crashed_peers,
        );
        each(
            "landbridge_connection_redirects_sent",
            "Times that peers which had proven who they are were sent to another gateway.",
            &|c| c.tally.redirects_sent,
        );
        each(
            "landbridge_connection_redirects_followed",
            "Times that we went to another gateway at the peer's word.",
            &|c| c.tally.redirects_followed,
        );
        page.family(
            "landbridge_connection_failures",
            Kind::Counter,
            "Failed attempts and exchanges, by reason.",
        );
        for Connection { label, history, .. } in &self.connections {
            for reason in History::reasons() {
                let count = history.failures.get(reason).copied().unwrap_or_default();
                page.sample(format_args!("{label},reason=\"{reason}\""), count);
            }
        }
        page.family(
            "landbridge_connection_last_failure_timestamp_seconds",
            Kind::Gauge,
            "When something failed last, since 1970, with the reason.",
        );
        for Connection { label, history, .. } in &self.connections {
            if let Some((at, reason)) = history.last_failure {
                page.sample(format_args!("{label},reason=\"{reason}\""), at);
            }
        }
    }

    fn children(&self, page: &mut Page) {
        let all = || self.connections.iter().flat_map(|connection| &connection.children);
        page.family(
            "landbridge_child_up",
            Kind::Gauge,
            "1 if a Child SA of the child is installed.",
        );
        for child in all() {
            page.sample(&child.label, u8::from(child.up));
        }
        page.family(
            "landbridge_child_established_timestamp_seconds",
            Kind::Gauge,
            "When a Child SA came up last, not by a rekey, since 1970; 0 if never.",
        );
        for child in all() {
            page.sample(&child.label, child.history.since.unwrap_or_default());
        }
        page.family("landbridge_child_rekeys", Kind::Counter, "Rekeys of Child SAs.");
        for child in all() {
            page.sample(&child.label, child.history.rekeys);
        }
        traffic(page, "landbridge_child", || {
            all().map(|child| (child.label.as_str(), &child.stats))
        });
        page.family(
            "landbridge_child_replayed_packets",
            Kind::Counter,
            "Packets dropped as seen before, or left of the replay window.",
        );
        for child in all() {
            let replays = child
                .stats
                .drops
                .iter()
                .filter(|(cause, _)| ["replayed", "too_old"].contains(cause));
            page.sample(&child.label, replays.map(|(_, count)| count).sum::<u64>());
        }
        let paths = || all().filter_map(|child| Some((&child.label, child.stats.path?)));
        let help = "Outer packets that are sent now, where the path decides how many.";
        page.family("landbridge_child_iptfs_rate_bits_per_second", Kind::Gauge, help);
        for (label, path) in paths() {
            path.rate.iter().for_each(|rate| page.sample(label, rate));
        }
        let help = "Round trip time of the path, by congestion information.";
        page.family("landbridge_child_iptfs_round_trip_seconds", Kind::Gauge, help);
        for (label, path) in paths() {
            path.rtt.iter().for_each(|rtt| page.sample(label, rtt.as_secs_f64()));
        }
        let help = "Loss events a packet: of what is sent as the peer says, of what comes by our own measure.";
        page.family("landbridge_child_iptfs_loss_event_ratio", Kind::Gauge, help);
        for (label, path) in paths() {
            for (direction, inverse) in [("in", path.received), ("out", path.sent)] {
                let ratio = status::loss_events(inverse);
                page.sample(format_args!("{label},direction=\"{direction}\""), ratio);
            }
        }
    }
}

/// Inner octets and packets, each way.
fn traffic<'a, I: Iterator<Item = (&'a str, &'a ChildSaStats)>>(page: &mut Page, of: &str, all: impl Fn() -> I) {
    for octets in [true, false] {
        let (name, help) = if octets {
            (
                "traffic_bytes",
                "Octets of inner packets, across rekeys and reconnects.",
            )
        } else {
            ("traffic_packets", "Inner packets, across rekeys and reconnects.")
        };
        page.family(&format!("{of}_{name}"), Kind::Counter, help);
        for (label, stats) in all() {
            for (direction, counted) in [("in", stats.inbound), ("out", stats.outbound)] {
                let value = if octets { counted.bytes } else { counted.packets };
                page.sample(format_args!("{label},direction=\"{direction}\""), value);
            }
        }
    }
}

#[cfg(test)]
#[path = "../../tests/support/openmetrics.rs"]
mod reader;

#[cfg(test)]
mod tests;
