//! `/etc/landbridge/landbridge.toml`: parsed, checked and turned into what the protocol and the data path take.

use landbridge_proto::policy::connection::Config;
use landbridge_proto::policy::sad::ConnectionName;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The whole configuration, checked: nothing in it can fail later for a reason that could be known now.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Where it was read from.
    pub path: PathBuf,
    /// `[gateway]`.
    pub gateway: GatewaySettings,
    /// What the key exchange takes.
    pub ike: Arc<Config>,
    /// What the daemon does for each connection besides.
    pub tunnels: BTreeMap<ConnectionName, Tunnel>,
    /// Warnings: legal, but worth a word (weak algorithms, first Child SA without PFS, ...).
    pub warnings: Vec<String>,
}

/// `[gateway]`: the daemon's own settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GatewaySettings {
    /// Control socket.
    pub control_socket: PathBuf,
    /// Data workers; `None`: as many as there are cores, at most 8.
    pub workers: Option<usize>,
    /// IKE port (500).
    pub port: u16,
    /// NAT traversal port (4500).
    pub nat_port: u16,
    /// `log_level`: an `EnvFilter` directive.
    pub log_level: String,
}

/// The daemon's side of a connection: it belongs to the connection, not to an SA, and outlives every rekey.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// TUN interface name.
    pub interface: String,
    /// Addresses on it.
    pub addresses: Vec<Prefix>,
    /// Inner MTU; `None`: computed from the outer path (design.md: floor_to(...)).
    pub mtu: Option<u16>,
    /// Clamp TCP MSS to the inner MTU.
    pub clamp_mss: bool,
    /// Routes through the tunnel: the children's remote selectors as prefixes, unless `routes` is given.
    pub routes: Vec<Prefix>,
    /// An unreachable route stands behind each of them, with a worse metric (fail closed).
    pub fail_closed: bool,
    /// Route metric.
    pub metric: u32,
    /// The peer: literal addresses or names, tried in order, names resolved at each attempt. Empty: responder only.
    pub remote_hosts: Vec<String>,
    /// Bring it up when loaded, and again when it falls.
    pub start: bool,
    /// First wait after a failed attempt, and the longest.
    pub retry: (Duration, Duration),
}

/// An address with a prefix length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    /// Address.
    pub address: IpAddr,
    /// Bits.
    pub length: u8,
}

/// What is wrong, where, and what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}{}: {problem}{}", file.display(), line.map(|l| format!(":{l}")).unwrap_or_default(), remedy.as_deref().map(|r| format!("\n  {r}")).unwrap_or_default())]
pub struct ConfigError {
    /// File.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: Option<usize>,
    /// Problem.
    pub problem: String,
    /// Remedy.
    pub remedy: Option<String>,
}

/// Reads and checks a configuration file and the secrets it names.
///
/// # Errors
/// All that is wrong, not just the first.
pub fn load(path: &std::path::Path) -> Result<Configuration, Vec<ConfigError>> {
    let _ = path;
    todo!()
}
