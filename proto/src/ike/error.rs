//! Who is wrong, and which notify says so (RFC 7296 §2.21, §3.10.1). The mapping stands here and nowhere else.

use super::auth::AuthError;
use crate::crypto::KeyExchangeError;
use crate::policy::pad::UnknownPeer;
use crate::policy::proposal::NoCommonProposal;
use crate::wire::{DecodeError, Notify, NotifyType, ProtocolId, TrafficSelector};

/// Why a request can't be granted, or a response not be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IkeError {
    /// Bad bytes: the message is not what its exchange wants.
    #[error("malformed message: {0}")]
    Malformed(#[from] DecodeError),
    /// No common choice of algorithms.
    #[error("{0}")]
    NoProposal(#[from] NoCommonProposal),
    /// No common traffic.
    #[error(
        "no common traffic selectors: the peer offers {} === {}",
        words(offered_remote),
        words(offered_local)
    )]
    TsUnacceptable {
        /// The peer's own side as it offers it.
        offered_remote: Vec<TrafficSelector>,
        /// Our side as the peer offers it.
        offered_local: Vec<TrafficSelector>,
        /// Our children, in words.
        wanted: Vec<String>,
    },
    /// Another peer has these networks.
    #[error("{} is behind another peer of this connection already: {by}", words(.wanted))]
    Claimed {
        /// What the peer wants to have behind it.
        wanted: Vec<TrafficSelector>,
        /// Whose it is.
        by: String,
    },
    /// The peer's key exchange value is wrong.
    #[error("key exchange: {0}")]
    KeyExchange(#[from] KeyExchangeError),
    /// The peer did not prove who it is.
    #[error("{0}")]
    Auth(#[from] AuthError),
    /// The peer is nobody we know.
    #[error("{0}")]
    UnknownPeer(#[from] UnknownPeer),
    /// No post-quantum preshared key that both have (RFC 8784).
    #[error("no post-quantum preshared key: {0}")]
    NoPpk(String),
    /// IP-TFS is required here, and the peer does without (RFC 9347 §5.1).
    #[error("the peer does not use IP-TFS (USE_AGGFRAG), or requires of it what is not to be had here")]
    NoAggfrag,
    /// The key exchange must be repeated with this group.
    #[error("the peer used another group than {0}")]
    InvalidKe(crate::crypto::Group),
    /// The Child SA to be rekeyed or deleted is not there.
    #[error("no Child SA with SPI {0:#010x}")]
    ChildNotFound(u32),
    /// Something is under way that does not go together with this: later (RFC 7296 §2.25).
    #[error("busy with another exchange about the same SA")]
    TemporaryFailure,
    /// Not here, not now.
    #[error("no further SA is accepted")]
    NoAdditionalSas,
    /// So many pairs with the same selectors are enough (RFC 9611 §6).
    #[error("no further pair with the same traffic selectors is accepted")]
    MaxQueue,
    /// A further pair that is not like the first (RFC 9611 §3).
    #[error("a further pair has to be like the first one of the child: {0} differs")]
    NotAlike(&'static str),
    /// Our machine: no SPI left, an algorithm that the provider lacks.
    #[error("{0}")]
    Internal(&'static str),
}

impl IkeError {
    /// The notify that tells the peer. It says no more than the RFC asks for.
    #[must_use]
    pub fn notify(&self) -> Notify {
        let plain = |notify_type| Notify::new(notify_type, Vec::new());
        match self {
            Self::Malformed(DecodeError::UnsupportedCritical(payload)) => {
                // §2.5: "In that Notify payload, the Notification Data contains the one-octet payload type."
                Notify::new(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![*payload])
            }
            Self::Malformed(_) | Self::KeyExchange(_) => plain(NotifyType::INVALID_SYNTAX),
            Self::NoProposal(_) | Self::NoAggfrag | Self::NotAlike(_) | Self::Internal(_) => {
                plain(NotifyType::NO_PROPOSAL_CHOSEN)
            }
            Self::TsUnacceptable { .. } | Self::Claimed { .. } => plain(NotifyType::TS_UNACCEPTABLE),
            // §2.21.2: "All errors that occur in an IKE_AUTH exchange, causing the authentication to fail for whatever
            // reason ... SHOULD result in an AUTHENTICATION_FAILED notification".
            Self::Auth(_) | Self::UnknownPeer(_) | Self::NoPpk(_) => plain(NotifyType::AUTHENTICATION_FAILED),
            Self::InvalidKe(group) => {
                Notify::new(NotifyType::INVALID_KE_PAYLOAD, group.method().0.to_be_bytes().to_vec())
            }
            // §2.25: CHILD_SA_NOT_FOUND carries the SPI of the SA that is missing.
            Self::ChildNotFound(spi) => Notify {
                protocol: ProtocolId::ESP,
                spi: spi.to_be_bytes().to_vec(),
                notify_type: NotifyType::CHILD_SA_NOT_FOUND,
                data: Vec::new(),
            },
            Self::TemporaryFailure => plain(NotifyType::TEMPORARY_FAILURE),
            Self::NoAdditionalSas => plain(NotifyType::NO_ADDITIONAL_SAS),
            // RFC 9611 §6: "MUST NOT return the NO_ADDITIONAL_SAS error because it could be misinterpreted by the peer to mean
            // that no other Child SA with a different TSi and/or TSr is allowed either. Instead, it MUST return TS_MAX_QUEUE."
            Self::MaxQueue => plain(NotifyType::TS_MAX_QUEUE),
        }
    }

    /// Whether the IKE SA can't go on after this error in an authenticated request (§2.21.3: INVALID_SYNTAX is fatal).
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.notify().notify_type == NotifyType::INVALID_SYNTAX
    }

    /// For the operator: offered, wanted, and what to change.
    #[must_use]
    pub fn explain(&self) -> (Vec<String>, Vec<String>, Option<String>) {
        match self {
            Self::NoProposal(error) => (error.offered.clone(), error.wanted.clone(), error.hint.clone()),
            Self::TsUnacceptable {
                offered_remote,
                offered_local,
                wanted,
            } => (
                vec![format!("{} === {}", words(offered_remote), words(offered_local))],
                wanted.clone(),
                Some("make remote_ts and local_ts here mirror local_ts and remote_ts at the peer".to_owned()),
            ),
            Self::Claimed { .. } => (
                vec![],
                vec![],
                Some(
                    "give each peer networks of its own, or a connection of its own (remote.id) with other routes"
                        .to_owned(),
                ),
            ),
            Self::UnknownPeer(error) => (
                vec![error.shown.clone()],
                error.configured.clone(),
                Some("set remote.id here to what the peer shows, or the peer's own id to what is expected".to_owned()),
            ),
            Self::NoAggfrag => (
                vec![],
                vec!["USE_AGGFRAG".to_owned()],
                Some("give the child iptfs at both ends; with required = false it goes on without".to_owned()),
            ),
            Self::Auth(AuthError::WrongPsk) => (
                vec![],
                vec![],
                Some("compare the pre-shared keys of both ends; the identity is right".to_owned()),
            ),
            Self::Auth(AuthError::Certificate(error)) => error.explain(),
            Self::NoPpk(_) => (
                vec![],
                vec![],
                Some(
                    "give both ends the same key under the same id in [connections.NAME.ppk]; while one end lacks it, \
                     ppk_required = false goes on without"
                        .to_owned(),
                ),
            ),
            Self::Auth(AuthError::UnknownKey(_)) => (
                vec![],
                vec![],
                Some("add the peer's public key to remote.public_key_files".to_owned()),
            ),
            _ => (vec![], vec![], None),
        }
    }
}

fn words(list: &[TrafficSelector]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
