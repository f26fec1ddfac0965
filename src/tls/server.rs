//! The end that accepts TCP connections.

use super::session::Session;
use super::{in_words, provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{Error, InconsistentKeys, ServerConfig, ServerConnection};
use std::fmt;
use std::sync::Arc;

/// A certificate with its key, for all TLS connections that are accepted.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    chain: Vec<CertificateDer<'static>>,
}

impl ServerTls {
    /// From a certificate, in DER, with those that lead to its CA behind it, and its key.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub fn new(chain: Vec<Vec<u8>>, key: PrivateKeyDer<'static>) -> Result<Self, String> {
        let chain: Vec<CertificateDer<'static>> = chain.into_iter().map(CertificateDer::from).collect();
        // RFC 9329 Appendix B.1: "the server SHOULD NOT request the client's certificate since authentication is handled as part of
        // IKE negotiation." Tickets for TLS session resumption, which Appendix A recommends, are made and kept in memory, as rustls
        // does of itself. No ALPN: there is no name for what goes inside, and what a client offers is passed over.
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain.clone(), key));
        match config {
            Ok(config) => Ok(Self {
                config: Arc::new(config),
                chain,
            }),
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                Err("the key is not that of the certificate".to_owned())
            }
            Err(error) => Err(format!(
                "TLS can't use it ({error}): the key is to be ECDSA on P-256 or P-384, Ed25519, or RSA with 2048 to 4096 bits"
            )),
        }
    }

    /// A connection that somebody has opened.
    ///
    /// # Errors
    /// As rustls says: it has no random numbers.
    pub fn accept(&self) -> Result<Session, String> {
        ServerConnection::new(Arc::clone(&self.config))
            .map(|connection| Session::new(connection.into()))
            .map_err(|error| in_words(&error))
    }
}

/// The key belongs to the certificate: it need not be compared.
impl PartialEq for ServerTls {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain
    }
}

impl Eq for ServerTls {}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerTls({} certificates)", self.chain.len())
    }
}
