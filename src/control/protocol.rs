//! The control socket's language: a stream socket in the file system, one JSON object a line each way.
//!
//! A client sends one [`Request`] and reads [`Response`]s. All requests but [`Request::Log`] and [`Request::Metrics`] are answered by
//! exactly one; `Log` by any number of [`Response::Line`] and, unless it follows, a final [`Response::Done`]. A request that can't be
//! carried out or read is answered by [`Response::Error`]. Unknown fields are ignored by both sides, so that each may be
//! older than the other; an unknown `command` or `result` is an error.
//!
//! ```json
//! {"command":"up","connection":"cloud"}
//! {"result":"done","message":"connecting cloud"}
//! ```

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest line that is read, in octets.
pub const LONGEST_LINE: usize = 16 << 20;

/// What a client wants.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// [`Response::Status`].
    Status,
    /// The metrics, as [`Response::Text`] in pieces and a final [`Response::Done`].
    Metrics,
    /// Bring a connection up, or one child of it.
    Up {
        /// Which.
        connection: String,
        /// One child; all whose start action is `start`, or all if none has it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<String>,
    },
    /// Take a connection down, or one child of it; it stays down.
    Down {
        /// Which.
        connection: String,
        /// One child; the whole connection with its IKE SA.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<String>,
    },
    /// Rekey the Child SAs of a connection, or of one child.
    Rekey {
        /// Which.
        connection: String,
        /// One child, or all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<String>,
    },
    /// Rekey the IKE SA of a connection; its Child SAs live on.
    RekeyIke {
        /// Which.
        connection: String,
    },
    /// Send the peers of a connection to another gateway (RFC 5685).
    Redirect {
        /// Which; all of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        connection: Option<String>,
        /// An address or a name; what `redirect_to` says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    /// Read the configuration file again; what did not change keeps its SAs, a broken file changes nothing.
    Reload {
        /// Only say what would be done.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        dry_run: bool,
    },
    /// The recent log lines, and with `follow` those to come.
    Log {
        /// Keep sending until the client hangs up.
        #[serde(default)]
        follow: bool,
    },
    /// [`Response::Version`].
    Version,
    /// Delete all SAs and end.
    Stop,
}

/// What the daemon answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Response {
    /// Carried out, or begun.
    Done {
        /// What, in words.
        message: String,
    },
    /// Not carried out.
    Error {
        /// Why, and what to do; may have several lines.
        message: String,
    },
    /// To [`Request::Status`].
    Status {
        /// The snapshot.
        status: Box<Status>,
    },
    /// The next piece of a long text: whole lines.
    Text {
        /// The piece.
        text: String,
    },
    /// A line of the log.
    Line {
        /// Time, connection, text.
        line: String,
    },
    /// To [`Request::Version`].
    Version {
        /// The daemon's version, which may not be the client's.
        version: String,
    },
}

/// The daemon at one moment. Ages and times are in seconds.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Since it was started.
    pub uptime_seconds: u64,
    /// Every configured connection, up or not, by name.
    pub connections: Vec<ConnectionStatus>,
    /// Responder's IKE SAs of peers that have not proven who they are.
    pub half_open: u64,
    /// Drops that belong to no connection, by cause (`unknown_spi`, `malformed`, `cookies_sent`, ...).
    pub drops: BTreeMap<String, u64>,
    /// What the kernel granted: `udp_gso`, `udp_gro`, ...
    pub offloads: BTreeMap<String, bool>,
    /// Certificates and revocation lists in use, and when they run out.
    #[serde(default)]
    pub certificates: Vec<CertificateStatus>,
}

/// Whether a connection carries traffic.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// A Child SA is installed.
    Up,
    /// An attempt is under way, or the next one waits.
    Connecting,
    /// Nothing there, nothing to do: taken down, or waiting for the peer.
    #[default]
    Down,
}

impl std::fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Connecting => "connecting",
            Self::Down => "down",
        })
    }
}

/// A configured connection.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionStatus {
    /// Name.
    pub name: String,
    /// Whether it carries traffic.
    pub state: ConnectionState,
    /// TUN interface.
    pub interface: String,
    /// Its MTU.
    pub mtu: u16,
    /// Its IKE SAs; more than one for a moment during a rekey.
    pub ike_sas: Vec<IkeSaStatus>,
    /// Octets of inner packets received, across all rekeys and reconnects.
    pub bytes_in: u64,
    /// Octets of inner packets sent.
    pub bytes_out: u64,
    /// Inner packets received.
    pub packets_in: u64,
    /// Inner packets sent.
    pub packets_out: u64,
    /// Packets dropped, by cause (`replayed`, `integrity`, `selector_in`, ...).
    pub drops: BTreeMap<String, u64>,
    /// Why the last attempt failed; gone when the connection is up again.
    pub last_failure: Option<FailureStatus>,
    /// Until the next attempt.
    pub next_attempt_seconds: Option<u64>,
}

/// An IKE SA.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IkeSaStatus {
    /// `initiating`, `half-open`, `established`, `rekeyed`, `closing`.
    pub stage: String,
    /// The initiator's SPI, 16 hexadecimal digits.
    pub spi_i: String,
    /// The responder's SPI.
    pub spi_r: String,
    /// Whether we began it.
    pub initiator: bool,
    /// Our address and port.
    pub local: String,
    /// The peer's address and port.
    pub remote: String,
    /// The peer's identity, once proven.
    pub peer: Option<String>,
    /// The subject of the certificate that proved it.
    pub peer_certificate: Option<String>,
    /// When that certificate runs out.
    pub peer_certificate_expires: Option<String>,
    /// Algorithms in the words of the configuration, once chosen.
    pub suite: Option<String>,
    /// How ESP travels: `udp`, `raw` (IP protocol 50), or `tcp` (RFC 9329, IKE as well).
    #[serde(default)]
    pub encapsulation: String,
    /// Why it runs over TCP, if it does.
    #[serde(default)]
    pub why_tcp: Option<String>,
    /// There is TLS around it (RFC 9329 Appendix A).
    #[serde(default)]
    pub tls: bool,
    /// A post-quantum key exchange is in its keys, and so in those of its children.
    pub post_quantum: bool,
    /// A post-quantum preshared key is in its keys (RFC 8784).
    pub ppk: bool,
    /// The key exchanges that made it, or the one that it was resumed from: `x25519+mlkem768`.
    pub key_exchange: Option<String>,
    /// We are behind a NAT.
    pub nat_local: bool,
    /// The peer is behind a NAT.
    pub nat_remote: bool,
    /// It was resumed with a ticket, without a key exchange (RFC 5723): the next rekey has one.
    #[serde(default)]
    pub resumed: bool,
    /// The gateway that sent us to this one (RFC 5685).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirected_from: Option<String>,
    /// Its ends may move (MOBIKE).
    pub mobike: bool,
    /// A crash of the peer will be noticed at once (RFC 6290).
    pub quick_crash_detection: bool,
    /// Since it was established.
    pub age_seconds: Option<u64>,
    /// Until it is rekeyed.
    pub rekey_in_seconds: Option<u64>,
    /// Until we authenticate anew, or, as responder, until it ends if the peer does not.
    pub reauth_in_seconds: Option<u64>,
    /// The exchange under way: `IKE_AUTH request 1, sent 2 times`.
    pub in_flight: Option<String>,
    /// Its Child SAs.
    pub children: Vec<ChildSaStatus>,
}

/// A Child SA pair.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ChildSaStatus {
    /// The child's name in the configuration.
    pub name: String,
    /// Our inbound SPI, `0x` and 8 hexadecimal digits.
    pub spi_in: String,
    /// The peer's inbound SPI.
    pub spi_out: String,
    /// Algorithms in the words of the configuration.
    pub suite: String,
    /// `tunnel` or `transport`.
    pub mode: String,
    /// How we send with IP-TFS (RFC 9347): `aggregate`, `constant` or `congestion`; without it nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptfs: Option<String>,
    /// With congestion information of IP-TFS, what is known of the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptfs_path: Option<IptfsPath>,
    /// Of a child with several pairs (RFC 9611): which it is, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<u16>,
    /// How many are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<u16>,
    /// Negotiated selectors on our side.
    pub local_ts: Vec<String>,
    /// Negotiated selectors on the peer's side.
    pub remote_ts: Vec<String>,
    /// Since it was installed.
    pub age_seconds: u64,
    /// Until it is rekeyed.
    pub rekey_in_seconds: Option<u64>,
    /// Octets of inner packets received.
    pub bytes_in: u64,
    /// Octets of inner packets sent.
    pub bytes_out: u64,
    /// Inner packets received.
    pub packets_in: u64,
    /// Inner packets sent.
    pub packets_out: u64,
    /// Packets dropped, by cause.
    pub drops: BTreeMap<String, u64>,
}

/// What congestion control (RFC 9347 §3) knows of a path.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IptfsPath {
    /// Bits a second of outer packets that we send now, if the path decides that.
    pub rate: Option<u64>,
    /// Round trip time, once there is one.
    pub rtt_seconds: Option<f64>,
    /// Loss events a packet among those that we send, as the peer says.
    pub loss_events_out: f64,
    /// Among those that we receive.
    pub loss_events_in: f64,
}

/// A certificate of ours, of a CA or of the peer, or a revocation list.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateStatus {
    /// The connection that needs it.
    pub connection: String,
    /// What it is for: `our certificate`, `the CA`, `the peer's certificate`, `the revocation list`.
    pub what: String,
    /// Its subject; of a list, its issuer.
    pub subject: String,
    /// Its file, as written in the configuration.
    pub file: String,
    /// When it runs out (RFC 3339), or `never`.
    pub expires: String,
    /// Until then; negative when it is over, none if there is no end.
    pub expires_in_seconds: Option<i64>,
    /// What there is to say about that.
    pub warning: Option<String>,
}

/// A failed attempt, explained.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FailureStatus {
    /// What happened.
    pub verdict: String,
    /// The peer's address and port.
    pub remote: String,
    /// What the peer offered.
    pub offered: Vec<String>,
    /// What we wanted.
    pub wanted: Vec<String>,
    /// What to change, and at which end.
    pub hint: Option<String>,
    /// How long ago.
    pub age_seconds: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_on_the_socket() {
        for (request, line) in [
            (Request::Status, r#"{"command":"status"}"#),
            (
                Request::Up {
                    connection: "a".into(),
                    child: None,
                },
                r#"{"command":"up","connection":"a"}"#,
            ),
            (
                Request::Rekey {
                    connection: "a".into(),
                    child: Some("net".into()),
                },
                r#"{"command":"rekey","connection":"a","child":"net"}"#,
            ),
            (
                Request::RekeyIke { connection: "a".into() },
                r#"{"command":"rekey_ike","connection":"a"}"#,
            ),
            (Request::Metrics, r#"{"command":"metrics"}"#),
            (Request::Reload { dry_run: false }, r#"{"command":"reload"}"#),
            (
                Request::Reload { dry_run: true },
                r#"{"command":"reload","dry_run":true}"#,
            ),
            (Request::Log { follow: true }, r#"{"command":"log","follow":true}"#),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), line);
            assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
        }
        assert_eq!(
            serde_json::from_str::<Request>(r#"{"command":"log"}"#).unwrap(),
            Request::Log { follow: false }
        );
        assert!(serde_json::from_str::<Request>(r#"{"command":"fly"}"#).is_err());
    }

    #[test]
    fn an_older_client_reads_a_newer_status() {
        let line = r#"{"result":"status","status":{"connections":[{"name":"a","state":"up","colour":"blue"}]}}"#;
        let Response::Status { status } = serde_json::from_str(line).unwrap() else {
            panic!("not a status")
        };
        assert_eq!(status.connections[0].state, ConnectionState::Up);
        assert_eq!(status.connections[0].last_failure, None);
    }
}
