//! `landbridge check`: is the configuration right, and what would run?

use super::output::{complain, duration, json, octets, print};
use super::{Exit, Global};
use crate::config::{self, ConfigError, Configuration, Tunnel};
use landbridge_proto::policy::aggfrag::{Iptfs, SendMode};
use landbridge_proto::policy::connection::{Child, Connection, LocalCredential, RemoteCredential, StartAction};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// For programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(global: &Global, args: &Args) -> Exit {
    let loaded = config::load(&global.config);
    if args.json {
        json(&match &loaded {
            Ok(configuration) => Report::valid(configuration),
            Err(errors) => Report::invalid(global, errors),
        });
    } else {
        match &loaded {
            Ok(configuration) => {
                for warning in &configuration.warnings {
                    drop(writeln!(std::io::stderr(), "warning: {warning}"));
                }
                print(&summary(configuration).unwrap_or_default());
            }
            Err(errors) => report_errors(errors),
        }
    }
    if loaded.is_ok() { Exit::Ok } else { Exit::Usage }
}

/// All errors to stderr, and how many there are.
pub(super) fn report_errors(errors: &[ConfigError]) {
    for error in errors {
        drop(writeln!(std::io::stderr(), "{error}"));
    }
    let plural = if errors.len() == 1 { "" } else { "s" };
    complain(format!("{} error{plural} in the configuration", errors.len()));
}

#[derive(Serialize)]
struct Report {
    file: String,
    valid: bool,
    errors: Vec<ReportedError>,
    warnings: Vec<String>,
    connections: Vec<ReportedConnection>,
}

#[derive(Serialize)]
struct ReportedError {
    file: String,
    line: Option<usize>,
    column: Option<usize>,
    problem: String,
    remedy: Option<String>,
}

#[derive(Serialize)]
struct ReportedConnection {
    name: String,
    profile: Option<&'static str>,
    local_addrs: Vec<String>,
    remote_addrs: Vec<String>,
    local_id: String,
    local_auth: &'static str,
    remote_id: Option<String>,
    remote_auth: &'static str,
    proposals: Vec<String>,
    rekey_seconds: Option<u64>,
    reauth_seconds: Option<u64>,
    dpd_seconds: Option<u64>,
    interface: String,
    addresses: Vec<String>,
    mtu: Option<u16>,
    mtu_most: Option<u16>,
    routes: Vec<String>,
    metric: u32,
    fail_closed: bool,
    children: Vec<ReportedChild>,
}

#[derive(Serialize)]
struct ReportedChild {
    name: String,
    local_ts: Vec<String>,
    remote_ts: Vec<String>,
    esp_proposals: Vec<String>,
    rekey_seconds: Option<u64>,
    life_seconds: Option<u64>,
    rekey_bytes: Option<u64>,
    life_bytes: Option<u64>,
    replay_window: u32,
    start_action: &'static str,
}

impl Report {
    fn valid(configuration: &Configuration) -> Self {
        Self {
            file: configuration.path.display().to_string(),
            valid: true,
            errors: Vec::new(),
            warnings: configuration.warnings.clone(),
            connections: pairs(configuration)
                .map(|(connection, tunnel)| reported(connection, tunnel))
                .collect(),
        }
    }

    fn invalid(global: &Global, errors: &[ConfigError]) -> Self {
        let errors = errors.iter().map(|error| ReportedError {
            file: error.file.display().to_string(),
            line: error.line,
            column: error.column,
            problem: error.problem.clone(),
            remedy: error.remedy.clone(),
        });
        Self {
            file: global.config.display().to_string(),
            valid: false,
            errors: errors.collect(),
            warnings: Vec::new(),
            connections: Vec::new(),
        }
    }
}

fn reported(connection: &Connection, tunnel: &Tunnel) -> ReportedConnection {
    let seconds = |duration: Option<Duration>| duration.map(|d| d.as_secs());
    let children = connection.children.values().map(|child| ReportedChild {
        name: child.name.to_string(),
        local_ts: texts(&child.local_ts),
        remote_ts: texts(&child.remote_ts),
        esp_proposals: texts(&child.esp_proposals),
        rekey_seconds: seconds(child.rekey_time),
        life_seconds: seconds(child.life_time),
        rekey_bytes: child.limits.soft_bytes,
        life_bytes: child.limits.hard_bytes,
        replay_window: child.replay_window,
        start_action: action(child),
    });
    ReportedConnection {
        name: connection.name.to_string(),
        profile: tunnel.profile,
        local_addrs: texts(&connection.local_addrs),
        remote_addrs: tunnel.remote_hosts.clone(),
        local_id: connection.local.id.to_string(),
        local_auth: local_auth(connection),
        remote_id: connection.remote.id.as_ref().map(ToString::to_string),
        remote_auth: remote_auth(connection),
        proposals: texts(&connection.ike_proposals),
        rekey_seconds: seconds(connection.ike_rekey_time),
        reauth_seconds: seconds(connection.reauth_time),
        dpd_seconds: seconds(connection.dpd_delay),
        interface: tunnel.interface.clone(),
        addresses: texts(&tunnel.addresses),
        mtu: tunnel.mtu,
        mtu_most: tunnel.mtu_most,
        routes: texts(&tunnel.routes),
        metric: tunnel.metric,
        fail_closed: tunnel.fail_closed,
        children: children.collect(),
    }
}

/// What would run, for people.
fn summary(configuration: &Configuration) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let (count, gateway) = (configuration.tunnels.len(), &configuration.gateway);
    let plural = if count == 1 { "" } else { "s" };
    let socket = gateway.control_socket.display();
    writeln!(
        text,
        "{} is valid: {count} connection{plural}",
        configuration.path.display()
    )?;
    writeln!(
        text,
        "  UDP {} and {}, control socket {socket}",
        gateway.port, gateway.nat_port
    )?;
    if !gateway.tcp_listen.is_empty() {
        let list: Vec<String> = gateway.tcp_listen.iter().map(ToString::to_string).collect();
        writeln!(text, "  TCP {}", list.join(", "))?;
    }
    if let Some(to) = &configuration.ike.gateway.redirect_to {
        writeln!(text, "  peers that can be sent elsewhere are sent to {to}")?;
    }
    if !gateway.tls_listen.is_empty() {
        let list: Vec<String> = gateway.tls_listen.iter().map(ToString::to_string).collect();
        writeln!(text, "  TCP with TLS {}", list.join(", "))?;
    }
    for (connection, tunnel) in pairs(configuration) {
        write_connection(&mut text, connection, tunnel)?;
    }
    Ok(text)
}

fn write_connection(text: &mut String, connection: &Connection, tunnel: &Tunnel) -> std::fmt::Result {
    let from = if connection.local_addrs.is_empty() {
        "any address".to_owned()
    } else {
        joined(&connection.local_addrs)
    };
    let to = if tunnel.remote_hosts.is_empty() {
        "any peer".to_owned()
    } else {
        tunnel.remote_hosts.join(", ")
    };
    let peer = connection
        .remote
        .id
        .as_ref()
        .map_or("any identity".to_owned(), ToString::to_string);
    let most = tunnel
        .mtu_most
        .map_or(String::new(), |most| format!(", at most {most}"));
    let mtu = tunnel
        .mtu
        .map_or_else(|| format!("from the path{most}"), |mtu| mtu.to_string());
    writeln!(
        text,
        "\n{}: {from} {} {to}",
        connection.name,
        if tunnel.start { "->" } else { "<-" }
    )?;
    if let Some(profile) = tunnel.profile {
        writeln!(text, "  profile    {profile}")?;
    }
    writeln!(
        text,
        "  we are     {} ({})",
        connection.local.id,
        local_auth(connection)
    )?;
    writeln!(text, "  peer is    {peer} ({})", remote_auth(connection))?;
    writeln!(text, "  IKE        {}", joined(&connection.ike_proposals))?;
    writeln!(
        text,
        "             rekey {}{}, DPD {}",
        or_never(connection.ike_rekey_time),
        match connection.reauth_time {
            Some(_) => format!(", reauthentication {}", or_never(connection.reauth_time)),
            None => String::new(),
        },
        or_never(connection.dpd_delay)
    )?;
    if let Some(to) = &connection.redirect_to {
        writeln!(text, "  redirect   the peer is sent to {to}, if it can be")?;
    }
    if let Some(tls) = &tunnel.tcp_tls {
        let name = tls.name().map_or(String::new(), |name| format!(" to {name}"));
        let checked = if tls.is_checked() { "is" } else { "is NOT" };
        writeln!(
            text,
            "  TCP        with TLS{name}, the certificate of the other end {checked} looked at (IKE authenticates in any case)"
        )?;
    }
    writeln!(
        text,
        "  interface  {}, MTU {mtu}{}",
        tunnel.interface,
        listed(", address ", &tunnel.addresses)
    )?;
    if tunnel.routes.is_empty() {
        writeln!(text, "  routes     none")?;
    } else {
        let closed = if tunnel.fail_closed {
            "unreachable while down"
        } else {
            "NOT closed while down"
        };
        writeln!(
            text,
            "  routes     {} (metric {}, {closed})",
            joined(&tunnel.routes),
            tunnel.metric
        )?;
    }
    for child in connection.children.values() {
        writeln!(
            text,
            "  child {}: {} === {}",
            child.name,
            joined(&child.local_ts),
            joined(&child.remote_ts)
        )?;
        writeln!(text, "    ESP      {}", joined(&child.esp_proposals))?;
        writeln!(
            text,
            "             rekey {}, life {}, replay window {}, start action {}",
            or_never(child.rekey_time),
            or_never(child.life_time),
            child.replay_window,
            action(child)
        )?;
        if child.pairs > 1 {
            writeln!(text, "             {} pairs", child.pairs)?;
        }
        if let Some(iptfs) = &child.iptfs {
            writeln!(text, "             IP-TFS {}", in_words(iptfs))?;
        }
        if let Some(bytes) = child.limits.soft_bytes {
            let life = child.limits.hard_bytes.map_or("never".to_owned(), octets);
            writeln!(text, "             rekey after {}, life {life}", octets(bytes))?;
        }
    }
    Ok(())
}

fn pairs(configuration: &Configuration) -> impl Iterator<Item = (&Connection, &Tunnel)> {
    let connections = configuration.ike.connections.iter();
    connections.filter_map(|(name, connection)| Some((connection.as_ref(), configuration.tunnels.get(name)?)))
}

fn local_auth(connection: &Connection) -> &'static str {
    match connection.local.credential {
        LocalCredential::Psk(_) => "pre-shared key",
        LocalCredential::RawKey(_) => "raw public key",
        LocalCredential::Certificates(_) => "certificate",
    }
}

fn remote_auth(connection: &Connection) -> &'static str {
    match connection.remote.credential {
        RemoteCredential::Psk(_) => "pre-shared key",
        RemoteCredential::RawKeys(_) => "raw public key",
        RemoteCredential::Certificates(_) => "certificate",
    }
}

fn action(child: &Child) -> &'static str {
    match child.start_action {
        StartAction::Start => "start",
        StartAction::Trap => "trap",
        StartAction::None => "none",
    }
}

fn in_words(iptfs: &Iptfs) -> String {
    let mode = match iptfs.mode {
        SendMode::Aggregate { delay } if delay.is_zero() => "aggregate".to_owned(),
        SendMode::Aggregate { delay } => format!("aggregate, delay {}", duration(delay)),
        SendMode::Constant { rate } => format!("constant, {rate} bit/s all the time"),
        SendMode::Congestion { least, most } => format!("congestion, {least} to {most} bit/s, as the path allows"),
    };
    let size = iptfs.size.map_or(String::new(), |size| format!(", size {size}"));
    let fragments = if iptfs.fragments { "" } else { ", no fragments taken" };
    let required = if iptfs.required { ", required" } else { "" };
    format!("{mode}{size}{fragments}{required}")
}

fn or_never(time: Option<Duration>) -> String {
    time.map_or("never".to_owned(), duration)
}

fn texts<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn joined<T: ToString>(list: &[T]) -> String {
    texts(list).join(", ")
}

fn listed<T: ToString>(before: &str, list: &[T]) -> String {
    if list.is_empty() {
        String::new()
    } else {
        format!("{before}{}", joined(list))
    }
}
