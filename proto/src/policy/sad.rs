//! What the key exchange tells the data path: SAD entries as values (RFC 4301 §4.4.2).

use super::aggfrag::Aggfrag;
use crate::crypto::{CipherSuite, Secret};
use crate::wire::TrafficSelector;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A connection's name: what the operator configures.
pub type ConnectionName = Arc<str>;
/// A child's name within its connection.
pub type ChildName = Arc<str>;

/// Identifies one Child SA pair for its whole life, never reused by an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChildSaId(pub u64);

/// What carries IKE messages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Transport {
    /// Datagrams.
    #[default]
    Udp,
    /// A TCP connection, which then carries the ESP packets as well (RFC 9329).
    Tcp,
}

/// The outer addresses of an SA, and what goes between them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Path {
    /// Ours. Port 500 or 4500 (or as configured).
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// UDP, or TCP: then the two addresses name a TCP connection.
    pub transport: Transport,
}

impl Path {
    /// Over UDP.
    #[must_use]
    pub const fn udp(local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            local,
            remote,
            transport: Transport::Udp,
        }
    }

    /// Of a TCP connection.
    #[must_use]
    pub const fn tcp(local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            local,
            remote,
            transport: Transport::Tcp,
        }
    }

    /// Whether it is a TCP connection.
    #[must_use]
    pub const fn is_tcp(&self) -> bool {
        matches!(self.transport, Transport::Tcp)
    }

    /// Whether both ends are IPv6 on the outside.
    #[must_use]
    pub const fn is_ipv6(&self) -> bool {
        self.remote.is_ipv6()
    }
}

/// How ESP travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encapsulation {
    /// In UDP on port 4500 (RFC 3948), with or without a NAT.
    Udp,
    /// IP protocol 50.
    Raw,
    /// In a TCP connection (RFC 9329 §3.2).
    Tcp,
}

/// Tunnel or transport (RFC 4303 §3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Whole IP packets.
    #[default]
    Tunnel,
    /// Upper-layer payloads between the gateways' own addresses.
    Transport,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tunnel => "tunnel",
            Self::Transport => "transport",
        })
    }
}

/// Keys and parameters of one direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SaParameters {
    /// SPI: ours for inbound, the peer's for outbound.
    pub spi: u32,
    /// Cipher.
    pub suite: CipherSuite,
    /// Encryption key | salt | integrity key.
    pub key: Secret,
    /// 64-bit sequence numbers (RFC 4303 §2.2.1).
    pub esn: bool,
}

/// Soft limits after which the data path reports, and hard ones at which it stops. `None` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TrafficLimits {
    /// Octets of inner packets.
    pub soft_bytes: Option<u64>,
    /// Packets.
    pub soft_packets: Option<u64>,
    /// Octets.
    pub hard_bytes: Option<u64>,
    /// Packets.
    pub hard_packets: Option<u64>,
}

/// One Child SA pair as the data path needs it. Selectors are local and remote, whoever initiated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChildSaEntry {
    /// Identity.
    pub id: ChildSaId,
    /// Whose.
    pub connection: ConnectionName,
    /// Which child of it.
    pub child: ChildName,
    /// Which of the child's pairs with the same selectors (RFC 9611 §3): 0 is the first, and mostly the only one. It is also
    /// the queue of the interface whose packets it carries.
    pub resource: u16,
    /// Receiving.
    pub inbound: SaParameters,
    /// Sending.
    pub outbound: SaParameters,
    /// Negotiated selectors on our side.
    pub local_ts: Vec<TrafficSelector>,
    /// Negotiated selectors on the peer's side.
    pub remote_ts: Vec<TrafficSelector>,
    /// Outer addresses.
    pub path: Path,
    /// UDP or raw.
    pub encapsulation: Encapsulation,
    /// Tunnel or transport.
    pub mode: Mode,
    /// Packets the replay window covers; 0 is refused (anti-replay is never off).
    pub replay_window: u32,
    /// Inner packets are made at least this long (RFC 4303 §2.7), but not longer than the inner MTU; the peer takes it.
    pub tfc_padding: Option<u16>,
    /// AGGFRAG_PAYLOAD and nothing else is sent and taken (RFC 9347 §2.3).
    pub aggfrag: Option<Aggfrag>,
    /// Limits for each direction.
    pub limits: TrafficLimits,
    /// Seed for unpredictable IVs (CBC) of this SA.
    pub iv_seed: Secret,
}

/// Orders to the data path, in order. Each comes before the transmit that tells the peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SadUpdate {
    /// Accept packets of the inbound SA. Outbound is not yet used.
    InstallInbound(Arc<ChildSaEntry>),
    /// Send by this pair's outbound SA from now on; it takes over from `replaces`.
    ActivateOutbound {
        /// The pair (its inbound is installed).
        id: ChildSaId,
        /// The pair it takes over from in a rekey.
        replaces: Option<ChildSaId>,
    },
    /// Send no more by this pair; keep receiving.
    DeactivateOutbound(ChildSaId),
    /// Forget the pair, both directions.
    Remove(ChildSaId),
    /// The peer (or we) moved: new outer addresses for the pair.
    Move {
        /// The pair.
        id: ChildSaId,
        /// The new addresses.
        path: Path,
        /// How ESP travels from now on: a NAT may have come or gone.
        encapsulation: Encapsulation,
    },
}

/// What the data path tells the key exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SadReport {
    /// A soft limit was reached: rekey.
    SoftLimit(ChildSaId),
    /// A hard limit was reached: the direction stopped.
    HardLimit(ChildSaId),
    /// An authentic packet came in on this pair for the first time (the peer has moved over to it).
    FirstInbound(ChildSaId),
    /// Authentic traffic has come in since the last such report: proof of life (RFC 7296 §2.4). At most one a second a pair.
    Alive(ChildSaId),
    /// Something was sent since the last such report: no NAT keepalive is due (RFC 3948 §4). At most one a second a pair.
    Sent(ChildSaId),
    /// An authentic, newer packet came from another outer address (RFC 7296 §2.23).
    PeerMoved {
        /// The pair.
        id: ChildSaId,
        /// From where.
        remote: SocketAddr,
    },
    /// An authentic, newer packet came by another TCP connection (RFC 9329 §6.1).
    StreamMoved {
        /// The pair.
        id: ChildSaId,
        /// The connection.
        path: Path,
    },
    /// An inner packet wants to leave by a connection that has no SA (start_action = trap).
    Acquire {
        /// Inner source.
        source: IpAddr,
        /// Inner destination.
        destination: IpAddr,
    },
    /// ESP with an SPI we don't know (unauthenticated: counters and rate-limited hints only).
    UnknownSpi {
        /// The SPI.
        spi: u32,
        /// To which address.
        local: IpAddr,
        /// From where; port 0 without UDP.
        remote: SocketAddr,
    },
}
