//! What a peer has proven itself with: so that a new configuration can be asked whether that is still good.

use super::auth::{AuthError, fingerprint};
use super::event::PeerCertificate;
use crate::crypto::VerifyingKey;
use crate::pki;
use crate::policy::connection::{RemoteAuth, RemoteCredential};
use crate::wire::Identification;
use std::sync::Arc;

/// See the module's head.
#[derive(Clone, Debug)]
pub enum Proven {
    /// A shared key.
    Psk,
    /// A raw public key.
    RawKey(VerifyingKey),
    /// Certificates.
    Certificates {
        /// Its own, in short.
        own: PeerCertificate,
        /// In DER, its own first, then what it showed besides.
        shown: Arc<[Vec<u8>]>,
        /// When, in seconds since 1970.
        unix: u64,
    },
}

impl Proven {
    /// Whether it is of the kind that is asked of a peer.
    pub const fn is_of(&self, credential: &RemoteCredential) -> bool {
        matches!(
            (self, credential),
            (Self::Psk, RemoteCredential::Psk(_))
                | (Self::RawKey(_), RemoteCredential::RawKeys(_))
                | (Self::Certificates { .. }, RemoteCredential::Certificates(_))
        )
    }

    /// Of a certificate that was verified at `unix`, with those shown.
    #[must_use]
    pub fn certificates(own: &pki::Certificate, shown: &[&[u8]], unix: u64) -> Self {
        let others = shown.iter().skip(1).map(|der| der.to_vec());
        Self::Certificates {
            own: PeerCertificate::of(own),
            shown: std::iter::once(own.der().to_vec()).chain(others).collect(),
            unix,
        }
    }

    /// Whether the peer `id` would still be taken with it.
    ///
    /// What is listed is who may come in: a public key that is taken off the list, a certificate that a list revokes, or whose
    /// CA is gone, has lost that. A shared key is changed at both ends without a cut, and says nothing about who: it holds until
    /// the next authentication. Time alone ends nothing either: what was good then, and is not taken away, stays until then.
    ///
    /// # Errors
    /// Why not.
    pub fn is_still_good(&self, remote: &RemoteAuth, id: &Identification, now: u64) -> Result<(), AuthError> {
        match (self, &remote.credential) {
            (Self::RawKey(key), RemoteCredential::RawKeys(known)) if !known.contains(key) => {
                Err(AuthError::UnknownKey(fingerprint(key)))
            }
            (Self::Certificates { shown, unix, .. }, RemoteCredential::Certificates(trust)) => {
                let shown: Vec<&[u8]> = shown.iter().map(Vec::as_slice).collect();
                let at = |time| trust.verify(&shown, id, remote.id.is_some(), time);
                // A CA that was renewed since was not valid then.
                match at(now).or_else(|_| at(*unix)) {
                    Ok(_) => Ok(()),
                    Err(error) => Err(Box::new(error).into()),
                }
            }
            // Another kind of proof is another connection: it begins anew anyway.
            _ => Ok(()),
        }
    }

    /// Whether the peer would be taken with it now, as if it had come anew. Of a shared key nothing is known any more.
    ///
    /// # Errors
    /// Why not.
    pub fn is_good_now(&self, remote: &RemoteAuth, id: &Identification, unix: u64) -> Result<(), AuthError> {
        match (self, &remote.credential) {
            (Self::RawKey(key), RemoteCredential::RawKeys(known)) if known.contains(key) => Ok(()),
            (Self::Certificates { shown, .. }, RemoteCredential::Certificates(trust)) => {
                let shown: Vec<&[u8]> = shown.iter().map(Vec::as_slice).collect();
                let verified = trust.verify(&shown, id, remote.id.is_some(), unix);
                verified.map(|_| ()).map_err(|error| Box::new(error).into())
            }
            (Self::RawKey(key), _) => Err(AuthError::UnknownKey(fingerprint(key))),
            (Self::Psk, _) => Err(AuthError::WrongPsk),
            (Self::Certificates { .. }, _) => Err(AuthError::NoCertificate),
        }
    }

    /// The last second in which none of the certificates behind it has expired, in seconds since 1970.
    #[must_use]
    pub fn good_until(&self, remote: &RemoteAuth, unix: u64) -> u64 {
        let Self::Certificates { own, shown, .. } = self else {
            return u64::MAX;
        };
        let shown = shown.iter().filter_map(|der| pki::Certificate::from_der(der).ok());
        let anchors = remote.credential.authorities().iter().cloned();
        // One that has expired already was of no use to it.
        let ends = shown.chain(anchors).map(|certificate| certificate.validity().1);
        ends.filter(|end| *end >= unix)
            .min()
            .unwrap_or(own.not_after)
            .min(own.not_after)
    }

    /// The certificate, if it was one.
    #[must_use]
    pub fn certificate(&self) -> Option<&PeerCertificate> {
        match self {
            Self::Certificates { own, .. } => Some(own),
            Self::Psk | Self::RawKey(_) => None,
        }
    }
}
