//! `/etc/landbridge/landbridge.toml`: parsed, checked and turned into what the protocol and the data path take.
//!
//! | module | subject |
//! |---|---|
//! | `document` | TOML with places; a reader that collects all errors and knows the keys |
//! | `gateway`, `connection`, `auth`, `child` | one table each |
//! | `profiles` | what each cloud accepts: values for a connection, and lints |
//! | `identity`, `selector`, `proposals`, `dscp`, `units` | values with a syntax of their own |
//! | `secrets`, `pem` | keys, from files and tokens only |
//! | `certificates` | certificates and revocation lists, and when they run out |
//! | `tls` | TLS around TCP |
//! | `check` | what clashes between connections |

mod auth;
mod certificates;
mod check;
mod child;
mod connection;
mod document;
mod dscp;
mod gateway;
mod identity;
mod iptfs;
mod pem;
mod ppk;
mod profiles;
mod proposals;
mod secrets;
mod selector;
mod tls;
mod units;

pub use certificates::{EXPIRY_WARNING, Expiry, day};
pub use gateway::{DEFAULT_SOCKET, another_gateway};
pub use secrets::public_key_of as public_key;

use crate::signer::Signers;
use crate::tls::{ClientTls, ServerTls};
use document::{Findings, Spot, Table};
use landbridge_proto::crypto::CipherSuite;
use landbridge_proto::ip::tunnel::{DontFragment, OuterDscp};
use landbridge_proto::policy::connection::Config;
use landbridge_proto::policy::proposal::EspProposal;
use landbridge_proto::policy::sad::ConnectionName;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The whole configuration, checked: nothing in it can fail later for a reason that could be known now.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Where it was read from.
    pub path: PathBuf,
    /// `[gateway]`.
    pub gateway: GatewaySettings,
    /// The certificate of TLS around TCP, if there is one.
    pub tls: Option<ServerTls>,
    /// What the key exchange takes.
    pub ike: Arc<Config>,
    /// What the daemon does for each connection besides.
    pub tunnels: BTreeMap<ConnectionName, Tunnel>,
    /// What signs with the keys that don't sign in the protocol itself.
    pub signers: Signers,
    /// The certificates and revocation lists, and when they run out.
    pub expiries: Vec<Expiry>,
    /// Warnings: legal, but worth a word (weak algorithms, first Child SA without PFS, ...).
    pub warnings: Vec<String>,
}

/// `[gateway]`: the daemon's own settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GatewaySettings {
    /// Control socket.
    pub control_socket: PathBuf,
    /// Data workers; the configuration fills it in: as many as there are cores, at most 8.
    pub workers: Option<usize>,
    /// IKE port (500).
    pub port: u16,
    /// NAT traversal port (4500).
    pub nat_port: u16,
    /// Where IKE and ESP over TCP are accepted (RFC 9329).
    pub tcp_listen: Vec<SocketAddr>,
    /// The same within TLS (Appendix A).
    pub tls_listen: Vec<SocketAddr>,
    /// `log_level`: an `EnvFilter` directive.
    pub log_level: String,
    /// Where metrics are served over HTTP, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Where the daemon keeps what outlives it; otherwise where systemd says, or the usual place.
    pub state_dir: Option<PathBuf>,
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
    /// Without `mtu`: not more than this, whatever the path carries.
    pub mtu_most: Option<u16>,
    /// Without `mtu`: the outer path carries no more than this at the peer's end.
    pub outer_mtu_most: Option<u16>,
    /// The profile that filled in what the connection does not say.
    pub profile: Option<&'static str>,
    /// Clamp TCP MSS to the inner MTU.
    pub clamp_mss: bool,
    /// DF of the outer IPv4 header.
    pub dont_fragment: DontFragment,
    /// DSCP of the outer header.
    pub dscp: OuterDscp,
    /// Routes through the tunnel: the children's remote selectors as prefixes, unless `routes` is given.
    pub routes: Vec<Prefix>,
    /// An unreachable route stands behind each of them, with a worse metric (fail closed).
    pub fail_closed: bool,
    /// Route metric.
    pub metric: u32,
    /// The routes stand in a table of their own, which the gateway's own packets pass by: so the peer's own address may be
    /// among them.
    pub policy_routing: bool,
    /// What the machine itself sends into the tunnel comes from here: the selectors name this host alone.
    pub source: Option<IpAddr>,
    /// The children are for transport mode.
    pub transport: bool,
    /// The peer: literal addresses or names, tried in order, names resolved at each attempt. Empty: responder only.
    pub remote_hosts: Vec<String>,
    /// Bring it up when loaded, and again when it falls.
    pub start: bool,
    /// TCP connections that we open have TLS around what they carry.
    pub tcp_tls: Option<ClientTls>,
    /// First wait after a failed attempt, and the longest.
    pub retry: (Duration, Duration),
}

impl Tunnel {
    /// Whether packets to the peer at this address would go into the tunnel itself.
    #[must_use]
    pub fn hides(&self, peer: IpAddr) -> bool {
        !self.policy_routing && self.routes.iter().any(|route| route.contains(peer))
    }
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
#[error("{}{}{}: {problem}{}", file.display(), part(":", *line), part(":", *column), part("\n  ", remedy.as_deref()))]
pub struct ConfigError {
    /// File.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: Option<usize>,
    /// Problem.
    pub problem: String,
    /// Remedy.
    pub remedy: Option<String>,
}

/// Where the configuration is, unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/landbridge/landbridge.toml";
/// Larger files are no configuration.
const LARGEST: u64 = 4 << 20;

/// Reads and checks a configuration file and the secrets it names.
///
/// # Errors
/// All that is wrong, not just the first.
pub fn load(path: &Path) -> Result<Configuration, Vec<ConfigError>> {
    let text = read(path).map_err(|error| {
        let problem = format!("can't read it: {error}");
        vec![ConfigError {
            file: path.to_owned(),
            line: None,
            column: None,
            problem,
            remedy: None,
        }]
    })?;
    parse(path, &text)
}

/// The same for a text that is already there; `path` is what relative file names start from.
///
/// # Errors
/// All that is wrong, not just the first.
pub fn parse(path: &Path, text: &str) -> Result<Configuration, Vec<ConfigError>> {
    let findings = Findings::new(path, text);
    let document = document::parse(&findings);
    // Where the syntax is wrong, what follows from it would only mislead.
    let found = if findings.is_clean() {
        read_document(&Table::root(&findings, &document))
    } else {
        None
    };
    let (errors, mut warnings) = findings.into_parts();
    let (Some((gateway, list)), []) = (found, &errors[..]) else {
        return Err(errors);
    };
    if list.is_empty() {
        warnings.push(format!(
            "{}: no [connections.NAME]: there is nothing to do",
            path.display()
        ));
    }
    let of_connections = list.iter().flat_map(|read| read.expiries.clone());
    let expiries: Vec<Expiry> = gateway.expiries.into_iter().chain(of_connections).collect();
    let unix = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    warnings.extend(expiries.iter().filter_map(|expiry| expiry.warning(unix)));
    let signers = list.iter().flat_map(|read| read.signers.clone()).collect();
    let (connections, tunnels) = connection::into_maps(list);
    let ike = Arc::new(Config {
        connections,
        gateway: gateway.ike,
    });
    Ok(Configuration {
        path: path.to_owned(),
        gateway: gateway.settings,
        tls: gateway.tls,
        ike,
        tunnels,
        signers,
        expiries,
        warnings,
    })
}

/// Where the daemon listens, for a client that may not read the keys: what the file says, if it can be read at all.
#[must_use]
pub fn control_socket(path: &Path) -> PathBuf {
    let text = read(path).unwrap_or_default();
    let findings = Findings::new(path, &text);
    let document = document::parse(&findings);
    let gateway = Table::root(&findings, &document).table("gateway");
    let socket = gateway
        .as_ref()
        .and_then(|table| table.get("control_socket"))
        .and_then(|value| value.string());
    socket.map_or_else(|| PathBuf::from(DEFAULT_SOCKET), PathBuf::from)
}

fn read_document(root: &Table<'_, '_>) -> Option<(gateway::Read, Vec<connection::Read>)> {
    let gateway = gateway::read(root.table("gateway"));
    let list = connection::read_all(root, &gateway);
    root.finish();
    let wanted = list.len();
    let list: Vec<_> = list.into_iter().flatten().collect();
    check::check(root.findings(), &list);
    (list.len() == wanted).then_some((gateway, list))
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(LARGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// The ciphers that an ESP proposal may end up with.
pub(crate) fn suites(proposal: &EspProposal) -> Vec<CipherSuite> {
    let mut list = Vec::new();
    for encryption in &proposal.encryption {
        let with = |integrity| CipherSuite {
            encryption: *encryption,
            integrity,
        };
        if encryption.is_aead() {
            list.push(with(None));
        } else {
            list.extend(proposal.integrity.iter().map(|integrity| with(Some(*integrity))));
        }
    }
    list
}

fn part<T: std::fmt::Display>(before: &str, part: Option<T>) -> String {
    part.map_or_else(String::new, |part| format!("{before}{part}"))
}
