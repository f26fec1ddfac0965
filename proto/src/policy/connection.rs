//! A connection: what the operator configures, as the key exchange needs it. The daemon's `config` module builds these.

use super::aggfrag::Iptfs;
use super::sad::{ChildName, ConnectionName, Mode, TrafficLimits};
use crate::crypto::{Secret, SigningKey, VerifyingKey};
use crate::pki::{Certificate, CertifiedKey, Trust};
use crate::wire::{GatewayIdentity, Identification, TrafficSelector};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// All connections, by name, and what holds for the whole gateway.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The connections. A reload is a diff of these by name.
    pub connections: std::collections::BTreeMap<ConnectionName, Arc<Connection>>,
    /// Gateway-wide settings.
    pub gateway: Gateway,
}

/// Gateway-wide settings of the key exchange.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gateway {
    /// Half-open responder SAs from which on cookies are demanded (RFC 7296 §2.6).
    pub cookie_threshold: usize,
    /// Half-open responder SAs from which on a puzzle has to be solved as well (RFC 8019). For those of one address it is half of
    /// their limit.
    pub puzzle_threshold: usize,
    /// Zero bits of the hardest puzzle that is asked for; 0: none ever is.
    pub puzzle_difficulty: u8,
    /// Zero bits of the hardest puzzle that is solved; 0: none ever is.
    pub puzzle_difficulty_accepted: u8,
    /// Half-open responder SAs beyond which requests are dropped.
    pub half_open_limit: usize,
    /// Half-open responder SAs from one address, or one /64 of IPv6, beyond which requests from it are dropped.
    pub half_open_limit_per_address: usize,
    /// A half-open responder SA is forgotten after this.
    pub half_open_timeout: Duration,
    /// First retransmission.
    pub retransmit_timeout: Duration,
    /// Factor between retransmissions, in percent (180 = 1.8).
    pub retransmit_base_percent: u32,
    /// Retransmissions before the peer is given up.
    pub retransmit_tries: u32,
    /// NAT keepalives (RFC 3948 §4), when idle.
    pub nat_keepalive: Duration,
    /// First wait after a failed attempt, doubled with each up to the second.
    pub retry: (Duration, Duration),
    /// Workers of the data path: inbound SAs are dealt out among them.
    pub workers: u8,
    /// Ports to move to when NAT is found, ours and the peer's (4500).
    pub nat_port: u16,
    /// Give peers tokens to tell our crash by, and take theirs (RFC 6290).
    pub quick_crash_detection: bool,
    /// The gateway that everybody is sent to who wants to begin, and can be sent (RFC 5685 §3): before anything is known of them.
    pub redirect_to: Option<GatewayIdentity>,
    /// So long a peer that was told to go elsewhere may take, until its SAs are deleted (§5).
    pub redirect_timeout: Duration,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            cookie_threshold: 32,
            puzzle_threshold: 256,
            puzzle_difficulty: 18,
            puzzle_difficulty_accepted: 20,
            half_open_limit: 1024,
            half_open_limit_per_address: 64,
            half_open_timeout: Duration::from_secs(30),
            retransmit_timeout: Duration::from_secs(1),
            retransmit_base_percent: 180,
            retransmit_tries: 5,
            nat_keepalive: Duration::from_secs(20),
            retry: (Duration::from_secs(1), Duration::from_secs(60)),
            workers: 1,
            nat_port: 4500,
            quick_crash_detection: true,
            redirect_to: None,
            redirect_timeout: Duration::from_secs(60),
        }
    }
}

/// One connection: a peer, how it authenticates, and its children.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Name, unique.
    pub name: ConnectionName,
    /// Our outer addresses; empty means any.
    pub local_addrs: Vec<IpAddr>,
    /// The peer's outer addresses as far as they are literal or resolved; empty means any (responder only).
    pub remote_addrs: Vec<IpAddr>,
    /// The peer's port (500).
    pub remote_port: u16,
    /// IKE proposals in order of preference; never empty.
    pub ike_proposals: Vec<super::proposal::IkeProposal>,
    /// How we authenticate, and as whom.
    pub local: LocalAuth,
    /// How the peer must authenticate, and as whom.
    pub remote: RemoteAuth,
    /// IKE SA lifetime before rekey; `None` is never.
    pub ike_rekey_time: Option<Duration>,
    /// As original initiator: authenticate anew after this, make-before-break; as responder: the peer is told to (RFC 4478), and
    /// its IKE SA ends if it does not. `None` is never (RFC 7296 §2.8.3).
    pub reauth_time: Option<Duration>,
    /// Liveness check after this much silence; `None` is off (RFC 7296 §2.4).
    pub dpd_delay: Option<Duration>,
    /// IKE fragmentation (RFC 7383).
    pub fragmentation: bool,
    /// Largest IP datagram an IKE message may make before it is fragmented.
    pub fragment_size: usize,
    /// ESP in UDP always, and the peer is made to do the same; otherwise only where there is a NAT (RFC 7296 §2.23).
    pub force_udp_encapsulation: bool,
    /// Offer and accept MOBIKE (RFC 4555).
    pub mobike: bool,
    /// IKE and ESP over TCP (RFC 9329).
    pub tcp: TcpUse,
    /// The peer's TCP port (4500).
    pub tcp_port: u16,
    /// Post-quantum preshared keys.
    pub ppk: Ppks,
    /// Ask for tickets, grant them, and resume IKE SAs with them (RFC 5723).
    pub resumption: bool,
    /// As initiator: say that we can be sent to another gateway, and go there (RFC 5685).
    pub follow_redirects: bool,
    /// As responder: the gateway that this peer is sent to, once it has authenticated itself (RFC 5685 §6).
    pub redirect_to: Option<GatewayIdentity>,
    /// Retry for ever after a failure.
    pub keep_trying: bool,
    /// Children by name.
    pub children: std::collections::BTreeMap<ChildName, Arc<Child>>,
}

/// When a peer is spoken to over TCP. RFC 9329 §2: "support for TCP encapsulation is not specifically negotiated in the IKE
/// exchange", it "must be preconfigured on both the TCP Originator and the TCP Responder".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TcpUse {
    /// Never.
    Never,
    /// If the peer begins by it, where the gateway listens; never by ourselves.
    #[default]
    Accept,
    /// If the peer does not answer over UDP (§5.1).
    Fallback,
    /// In the place of UDP.
    Always,
}

/// Post-quantum preshared keys with a peer (RFC 8784).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ppks {
    /// All that are taken as responder: several during a rotation.
    pub keys: Vec<Ppk>,
    /// The PPK_ID of the one that is used as initiator.
    pub send: Option<Vec<u8>>,
    /// Without one there is no SA (the RFC's mandatory_or_not).
    pub required: bool,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ppk {
    /// PPK_ID, with its type in the first octet (§5.1).
    pub id: Vec<u8>,
    /// The key.
    pub secret: Secret,
}

impl Ppk {
    /// With a PPK_ID_FIXED (2): a configured name.
    #[must_use]
    pub fn fixed(name: &str, secret: Secret) -> Self {
        Self {
            id: [&[2], name.as_bytes()].concat(),
            secret,
        }
    }
}

impl Ppks {
    /// The one that is used as initiator.
    #[must_use]
    pub fn to_send(&self) -> Option<&Ppk> {
        let send = self.send.as_ref()?;
        self.keys.iter().find(|key| key.id == *send)
    }
}

/// One child: what a Child SA is negotiated from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Child {
    /// Name, unique in the connection.
    pub name: ChildName,
    /// Our side's selectors.
    pub local_ts: Vec<TrafficSelector>,
    /// The peer's side's selectors.
    pub remote_ts: Vec<TrafficSelector>,
    /// ESP proposals in order of preference; never empty.
    pub esp_proposals: Vec<super::proposal::EspProposal>,
    /// Lifetime before rekey; `None` is never.
    pub rekey_time: Option<Duration>,
    /// Lifetime at which the SA is closed if no rekey succeeded.
    pub life_time: Option<Duration>,
    /// Subtracted at random from `rekey_time`, at most this (RFC 7296 §2.8.1).
    pub rand_time: Duration,
    /// Limits by traffic.
    pub limits: TrafficLimits,
    /// Tunnel or transport.
    pub mode: Mode,
    /// Replay window in packets.
    pub replay_window: u32,
    /// Inner packets are made at least this long (RFC 4303 §2.7), but not longer than the inner MTU.
    pub tfc_padding: Option<u16>,
    /// IP-TFS (RFC 9347).
    pub iptfs: Option<Iptfs>,
    /// Child SA pairs with the same selectors (RFC 9611), at least 1.
    pub pairs: u16,
    /// What to do when the connection is loaded.
    pub start_action: StartAction,
    /// What to do when the peer closes its Child SA, or the IKE SA with it.
    pub close_action: StartAction,
}

/// What to do with a child when its connection is loaded, and when the peer closes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StartAction {
    /// Bring it up, and again whenever it falls.
    Start,
    /// Bring it up when a packet wants to use it.
    Trap,
    /// Wait for the peer or the operator.
    #[default]
    None,
}

/// How we prove who we are.
#[derive(Clone, Debug)]
pub struct LocalAuth {
    /// Our identity (IDi or IDr).
    pub id: Identification,
    /// The credential.
    pub credential: LocalCredential,
}

/// Our credential.
#[derive(Clone)]
pub enum LocalCredential {
    /// Shared secret (RFC 7296 §2.15).
    Psk(Secret),
    /// A key, whose public half is sent as it is (RFC 7670).
    RawKey(Arc<SigningKey>),
    /// Certificates with their keys: several during a rotation, or for peers that trust different CAs.
    Certificates(Vec<CertifiedKey>),
}

impl std::fmt::Debug for LocalCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Psk(_) => "Psk",
            Self::RawKey(_) => "RawKey",
            Self::Certificates(_) => "Certificates",
        })
    }
}

/// How the peer proves who it is: an entry of RFC 4301's peer authorization database (§4.4.3).
#[derive(Clone, Debug)]
pub struct RemoteAuth {
    /// The identity it must show; `None` accepts whatever identity the credential proves.
    pub id: Option<Identification>,
    /// The credential.
    pub credential: RemoteCredential,
}

/// The peer's credential.
#[derive(Clone, Debug)]
pub enum RemoteCredential {
    /// Shared secrets, any of which is taken (two during a rotation).
    Psk(Vec<Secret>),
    /// Public keys, any of which is taken.
    RawKeys(Vec<VerifyingKey>),
    /// A certificate that leads to one of these CAs, or is one of these.
    Certificates(Arc<Trust>),
}

/// Where a connection attempt goes: filled in by the daemon at each attempt, after resolving names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Our address.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
}

impl LocalCredential {
    /// Whether it is the same, keys included. Every kind is named: a new one can't be forgotten here.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        match self {
            Self::Psk(own) => matches!(other, Self::Psk(others) if own == others),
            Self::RawKey(own) => matches!(other, Self::RawKey(others) if own == others),
            Self::Certificates(own) => matches!(other, Self::Certificates(others) if own == others),
        }
    }

    /// Whether AUTH is a signature.
    #[must_use]
    pub const fn signs(&self) -> bool {
        matches!(self, Self::RawKey(_) | Self::Certificates(_))
    }
}

impl RemoteCredential {
    /// Whether it is the same, keys included. Every kind is named: a new one can't be forgotten here.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        match self {
            Self::Psk(own) => matches!(other, Self::Psk(others) if own == others),
            Self::RawKeys(own) => matches!(other, Self::RawKeys(others) if own == others),
            Self::Certificates(own) => matches!(other, Self::Certificates(others) if own == others),
        }
    }

    /// Whether AUTH must be a signature.
    #[must_use]
    pub const fn signs(&self) -> bool {
        matches!(self, Self::RawKeys(_) | Self::Certificates(_))
    }

    /// The CAs that may vouch for the peer, and the certificates that stand for themselves.
    #[must_use]
    pub fn authorities(&self) -> &[Certificate] {
        match self {
            Self::Certificates(trust) if trust.anchors.is_empty() => &trust.pinned,
            Self::Certificates(trust) => &trust.anchors,
            Self::Psk(_) | Self::RawKeys(_) => &[],
        }
    }
}

impl Connection {
    /// When the peer is spoken to over TCP: never where a child is to hide its traffic by IP-TFS, whose sending by time means
    /// nothing behind a stream's buffers.
    #[must_use]
    pub fn tcp_use(&self) -> TcpUse {
        if self.children.values().any(|child| child.iptfs.is_some()) {
            return TcpUse::Never;
        }
        self.tcp
    }

    /// Whether MOBIKE is offered and accepted. RFC 4555 "supports only tunnel mode IPsec SAs".
    #[must_use]
    pub fn speaks_mobike(&self) -> bool {
        self.mobike && self.children.values().all(|child| child.mode == Mode::Tunnel)
    }

    /// The most pairs that a child of it has: so many queues are of use to its interface.
    #[must_use]
    pub fn pairs(&self) -> u16 {
        self.children.values().map(|child| child.pairs).max().unwrap_or(1)
    }

    /// Whether nothing changed between two readings of the configuration, keys included.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        // Every field is named: a new one can't be forgotten here.
        let Self {
            name,
            local_addrs,
            remote_addrs,
            remote_port,
            ike_proposals,
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
            ppk,
            resumption,
            follow_redirects,
            redirect_to,
            keep_trying,
            children,
        } = self;
        let LocalAuth {
            id: local_id,
            credential: local,
        } = local;
        let RemoteAuth {
            id: remote_id,
            credential: remote,
        } = remote;
        local.same_as(&other.local.credential)
            && remote.same_as(&other.remote.credential)
            && *name == other.name
            && *local_addrs == other.local_addrs
            && *ppk == other.ppk
            && *resumption == other.resumption
            && *follow_redirects == other.follow_redirects
            && *redirect_to == other.redirect_to
            && *remote_addrs == other.remote_addrs
            && *remote_port == other.remote_port
            && *ike_proposals == other.ike_proposals
            && *local_id == other.local.id
            && *remote_id == other.remote.id
            && *ike_rekey_time == other.ike_rekey_time
            && *reauth_time == other.reauth_time
            && *dpd_delay == other.dpd_delay
            && *fragmentation == other.fragmentation
            && *fragment_size == other.fragment_size
            && *force_udp_encapsulation == other.force_udp_encapsulation
            && *mobike == other.mobike
            && *tcp == other.tcp
            && *tcp_port == other.tcp_port
            && *keep_trying == other.keep_trying
            && *children == other.children
    }
}
