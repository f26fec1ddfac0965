//! The end that opens TCP connections, and what it makes of the other end's certificate.

use super::session::Session;
use super::{in_words, provider};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// How a connection's TLS sessions begin.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    /// What the other end is called; without, by its address.
    name: Option<ServerName<'static>>,
    anchors: Vec<CertificateDer<'static>>,
    pinned: Vec<CertificateDer<'static>>,
}

impl ClientTls {
    /// `name` is sent (SNI), and is to be in a certificate issued under one of `anchors`; or the certificate is one of `pinned`.
    /// All are in DER. With neither, no certificate is looked at.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub fn new(name: Option<&str>, anchors: Vec<Vec<u8>>, pinned: Vec<Vec<u8>>) -> Result<Self, String> {
        let name = name
            .map(|name| {
                ServerName::try_from(name.to_owned()).map_err(|_| format!("{name:?} is no host name or address"))
            })
            .transpose()?;
        let [anchors, pinned] = [anchors, pinned].map(|list| {
            list.into_iter()
                .map(CertificateDer::from)
                .collect::<Vec<CertificateDer<'static>>>()
        });
        let provider = provider();
        let mut roots = RootCertStore::empty();
        for anchor in &anchors {
            roots
                .add(anchor.clone())
                .map_err(|error| format!("TLS can't use a CA's certificate: {error}"))?;
        }
        let issued = if anchors.is_empty() {
            None
        } else {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
            Some(verifier.map_err(|error| error.to_string())?)
        };
        let verifier = Verifier {
            issued,
            pinned: pinned.clone(),
            algorithms: provider.signature_verification_algorithms,
        };
        // Sessions are resumed (Appendix B.3: "The client SHOULD attempt TLS session resumption if it has previously established a
        // session with the server") as long as this lives: a reload with other certificates begins with a full handshake.
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Self {
            config: Arc::new(config),
            name,
            anchors,
            pinned,
        })
    }

    /// A connection that was opened to this address.
    ///
    /// # Errors
    /// As rustls says: it has no random numbers.
    pub fn connect(&self, remote: IpAddr) -> Result<Session, String> {
        // RFC 6066 §3: "Literal IPv4 and IPv6 addresses are not permitted in "HostName"": with an address there is no SNI.
        let name = self.name.clone().unwrap_or_else(|| ServerName::from(remote));
        ClientConnection::new(Arc::clone(&self.config), name)
            .map(|connection| Session::new(connection.into()))
            .map_err(|error| in_words(&error))
    }

    /// Whether the other end's certificate is looked at.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        !self.anchors.is_empty() || !self.pinned.is_empty()
    }

    /// The name that is sent, if there is one.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        self.name.as_ref().map(|name| name.to_str().into_owned())
    }
}

impl PartialEq for ClientTls {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.anchors, &self.pinned) == (&other.name, &other.anchors, &other.pinned)
    }
}

impl Eq for ClientTls {}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (anchors, pinned) = (self.anchors.len(), self.pinned.len());
        write!(f, "ClientTls({:?}, {anchors} CAs, {pinned} pinned)", self.name)
    }
}

/// What a certificate has to be.
#[derive(Debug)]
struct Verifier {
    issued: Option<Arc<WebPkiServerVerifier>>,
    pinned: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// Who the peer is, IKE finds out: without anything to hold the certificate against there is nothing to be found out here.
    fn is_idle(&self) -> bool {
        self.issued.is_none() && self.pinned.is_empty()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.is_idle() || self.pinned.iter().any(|pinned| pinned == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.issued {
            Some(issued) => issued.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now),
            None => Err(rustls::CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not there".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.is_idle() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
