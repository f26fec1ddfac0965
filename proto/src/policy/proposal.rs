//! Proposals: configured in strongSwan's words, offered and chosen in RFC 7296 §2.7 and §3.3.6's terms.

pub use additional::{AdditionalExchanges, AdditionalGroups, MOST as MOST_ADDITIONAL};

use crate::crypto::{CipherSuite, Encryption, Group, Integrity, PrfAlgorithm};
use crate::wire;

/// An IKE proposal as configured: any of each list may be combined. AEADs and others never share a proposal (RFC 5282 §8).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IkeProposal {
    /// Encryption, in order of preference.
    pub encryption: Vec<Encryption>,
    /// Integrity; empty for AEADs.
    pub integrity: Vec<Integrity>,
    /// PRFs.
    pub prf: Vec<PrfAlgorithm>,
    /// Key exchange methods.
    pub groups: Vec<Group>,
    /// Additional ones (RFC 9370).
    pub additional: AdditionalExchanges,
}

/// An ESP proposal as configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EspProposal {
    /// Encryption, in order of preference.
    pub encryption: Vec<Encryption>,
    /// Integrity; empty for AEADs.
    pub integrity: Vec<Integrity>,
    /// PFS groups for CREATE_CHILD_SA; empty is no PFS.
    pub groups: Vec<Group>,
    /// Additional key exchanges after that (RFC 9370).
    pub additional: AdditionalExchanges,
    /// Sequence numbers, in order of preference (true = 64-bit).
    pub esn: Vec<bool>,
}

/// The suite of an IKE SA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IkeSuite {
    /// Protection of messages.
    pub cipher: CipherSuite,
    /// PRF.
    pub prf: PrfAlgorithm,
    /// Key exchange.
    pub group: Group,
    /// Additional key exchanges (RFC 9370).
    pub additional: AdditionalGroups,
}

/// The suite of a Child SA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EspSuite {
    /// Protection of packets.
    pub cipher: CipherSuite,
    /// Key exchange in this exchange; `None` without PFS and in IKE_AUTH.
    pub group: Option<Group>,
    /// Additional key exchanges (RFC 9370).
    pub additional: AdditionalGroups,
    /// 64-bit sequence numbers.
    pub esn: bool,
}

/// A choice: the suite, and the proposal to answer with (its transforms and attributes as they came, §3.3.6).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen<S> {
    /// What was chosen.
    pub suite: S,
    /// The answer, with the peer's number; the SPI is still the peer's and is to be replaced by ours.
    pub answer: wire::Proposal,
    /// The peer's SPI from the proposal chosen (0, 4 or 8 octets).
    pub peer_spi: Vec<u8>,
}

/// No common choice: what was offered and what was wanted, in the words of the configuration, for the operator.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no common proposal: the peer offers {}, we accept {}", offered.join(", "), wanted.join(", "))]
pub struct NoCommonProposal {
    /// The peer's proposals.
    pub offered: Vec<String>,
    /// Ours.
    pub wanted: Vec<String>,
    /// What kind of transform never matched, and what to change, if it is that simple.
    pub hint: Option<String>,
}

/// A proposal's text is wrong: names the word and the nearest known one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("proposal {text:?}: {problem}")]
pub struct ProposalSyntaxError {
    /// The text.
    pub text: String,
    /// The problem and its remedy.
    pub problem: String,
}

impl IkeSuite {
    /// The key exchanges in words: `x25519+mlkem768`.
    #[must_use]
    pub fn key_exchange(&self) -> String {
        let words: Vec<String> = std::iter::once(self.group)
            .chain(self.additional.iter())
            .map(|group| group.to_string())
            .collect();
        words.join("+")
    }

    /// Whether a key exchange of it withstands a quantum computer.
    #[must_use]
    pub fn is_post_quantum(&self) -> bool {
        self.group.is_post_quantum() || self.additional.iter().any(Group::is_post_quantum)
    }
}

mod additional;
mod choose;
mod convert;
mod words;

#[cfg(test)]
mod tests;
