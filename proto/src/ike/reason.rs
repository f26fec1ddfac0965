//! Why something failed, in one of a few words: for counting. What happened in full is in [`super::Failure`].

use super::error::IkeError;
use crate::wire::NotifyType;

/// Kinds of failure. There are few, whatever a peer sends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// The peer does not answer.
    NoAnswer,
    /// No common algorithms.
    NoProposalChosen,
    /// One side does not accept the other's identity or proof.
    AuthenticationFailed,
    /// No common traffic selectors.
    TsUnacceptable,
    /// A message is not as its exchange wants it.
    InvalidSyntax,
    /// The peer refuses for another reason, or is busy again and again.
    Refused,
    /// A Child SA's lifetime ended without a rekey.
    Expired,
    /// Our machine: a key that does not sign, no SPI left.
    Internal,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::NoAnswer,
        Self::NoProposalChosen,
        Self::AuthenticationFailed,
        Self::TsUnacceptable,
        Self::InvalidSyntax,
        Self::Refused,
        Self::Expired,
        Self::Internal,
    ];

    /// Its word in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoAnswer => "no_answer",
            Self::NoProposalChosen => "no_proposal_chosen",
            Self::AuthenticationFailed => "authentication_failed",
            Self::TsUnacceptable => "ts_unacceptable",
            Self::InvalidSyntax => "invalid_syntax",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Internal => "internal",
        }
    }
}

/// What the peer says to a request of ours.
impl From<NotifyType> for Reason {
    fn from(notify: NotifyType) -> Self {
        match notify {
            NotifyType::NO_PROPOSAL_CHOSEN | NotifyType::INVALID_KE_PAYLOAD => Self::NoProposalChosen,
            NotifyType::AUTHENTICATION_FAILED => Self::AuthenticationFailed,
            NotifyType::TS_UNACCEPTABLE | NotifyType::SINGLE_PAIR_REQUIRED => Self::TsUnacceptable,
            NotifyType::INVALID_SYNTAX | NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD => Self::InvalidSyntax,
            _ => Self::Refused,
        }
    }
}

/// What we find wrong.
impl From<&IkeError> for Reason {
    fn from(error: &IkeError) -> Self {
        match error {
            IkeError::Internal(_) | IkeError::Auth(super::auth::AuthError::NotSigned { .. }) => Self::Internal,
            other => other.notify().notify_type.into(),
        }
    }
}
