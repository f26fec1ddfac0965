//! Our certificates, and which of them to show.

use super::{Certificate, name};
use crate::crypto::SigningKey;
use std::sync::Arc;

/// Certificates sent (RFC 7296 §3.6: "Implementations MUST be capable of being configured to send and accept up to four
/// X.509 certificates").
const MOST_SENT: usize = 4;

/// A certificate of ours with its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertifiedKey {
    /// The certificate first, then those that lead from it to a CA the peer trusts.
    pub chain: Vec<Certificate>,
    /// The key of the first certificate.
    pub key: Arc<SigningKey>,
}

impl CertifiedKey {
    /// What goes into CERT payloads: the leaf first, without the root, which the peer has or does not trust.
    #[must_use]
    pub fn to_send(&self) -> Vec<&Certificate> {
        let (leaf, rest) = self
            .chain
            .split_first()
            .map_or((None, &[][..]), |(leaf, rest)| (Some(leaf), rest));
        leaf.into_iter()
            .chain(rest.iter().filter(|certificate| !certificate.is_self_issued()))
            .take(MOST_SENT)
            .collect()
    }

    /// Whether it leads to one of the CAs that a peer names by the hashes of their keys. `known` are further CA certificates
    /// that we have.
    #[must_use]
    pub fn leads_to(&self, authorities: &[[u8; 20]], known: &[Certificate]) -> bool {
        let issuers: Vec<&[u8]> = self.chain.iter().map(Certificate::issuer).collect();
        self.chain
            .iter()
            .skip(1)
            .chain(known)
            .filter(|ca| issuers.iter().any(|issuer| name::same(issuer, ca.subject())))
            .any(|ca| authorities.contains(&ca.key_hash()))
    }

    /// The one to show among several (old and new, during a rotation; or of several CAs): of those the peer can verify
    /// by what `usable` says, the one that fits most of: leads to a CA the peer asked for; is valid now; stands first.
    /// RFC 7296 §3.7: a CERTREQ that none fits is not an error.
    #[must_use]
    pub fn choose<'a, R: Ord>(
        list: &'a [Self],
        authorities: &[[u8; 20]],
        known: &[Certificate],
        unix: u64,
        usable: impl Fn(&Self) -> R,
    ) -> Option<&'a Self> {
        let fitness = |own: &Self| {
            let valid = own.chain.iter().all(|certificate| certificate.is_valid_at(unix));
            (
                usable(own),
                valid,
                authorities.is_empty() || own.leads_to(authorities, known),
            )
        };
        // `max_by_key` takes the last of equals: from behind, the first.
        list.iter().rev().max_by_key(|own| fitness(own))
    }
}
