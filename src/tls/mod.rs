//! TLS 1.3 around a TCP stream of IKE and ESP (RFC 9329 Appendix A): for middleboxes that let nothing else through. §10 of the RFC
//! and all of IKE hold without it: "The security of the IKE session is entirely derived from the IKE negotiation and key
//! establishment and not from the TLS session (which, in this context, is only used for encapsulation purposes)".
//!
//! Nothing here reads or writes a socket: a [`Session`] turns octets into octets.
//!
//! | module | subject |
//! |---|---|
//! | `server`, `client` | what either end is configured with |
//! | `session` | one TLS connection |

mod client;
mod server;
mod session;

pub use client::ClientTls;
pub use rustls::pki_types::PrivateKeyDer;
pub use server::ServerTls;
pub use session::{Opened, Session};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, Error};
use std::sync::Arc;

/// *ring*, as everywhere else; its suites are those of TLS 1.3 alone, since TLS 1.2 is not compiled in.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Whether TLS can have it for the name of the other end: a host's name or an address.
#[must_use]
pub fn is_name(text: &str) -> bool {
    ServerName::try_from(text).is_ok()
}

/// An error for people.
fn in_words(error: &Error) -> String {
    match error {
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            format!("TLS: what came is no TLS, or is broken ({error}): does the other end speak TLS on this port?")
        }
        // A self-signed one that is not pinned counts as a CA for webpki.
        Error::InvalidCertificate(why) if *why == CertificateError::UnknownIssuer || is_ca(why) => {
            "TLS: the certificate of the other end is not issued under tcp_tls_cacert_files, and is none of \
             tcp_tls_cert_files"
                .to_owned()
        }
        Error::InvalidCertificate(CertificateError::Other(why)) => {
            format!("TLS: the certificate of the other end is refused: {why}")
        }
        Error::InvalidCertificate(why) => format!("TLS: the certificate of the other end is refused: {why}"),
        Error::AlertReceived(AlertDescription::ProtocolVersion) => "TLS: the other end can't do TLS 1.3".to_owned(),
        Error::AlertReceived(alert) => format!("TLS: the other end refuses ({alert:?})"),
        Error::PeerIncompatible(why) => {
            format!("TLS: nothing in common with the other end ({why:?}); TLS 1.3 is needed")
        }
        error => format!("TLS: {error}"),
    }
}

fn is_ca(why: &CertificateError) -> bool {
    matches!(why, CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity"))
}

#[cfg(test)]
pub(crate) mod tests;
