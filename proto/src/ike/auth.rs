//! The AUTH payload (RFC 7296 §2.15; RFC 7427 §3; RFC 7670; RFC 8420).

mod methods;
mod scheme;

pub use methods::{PeerMethods, announce};
pub use scheme::HASHES;

use super::keys::IkeKeys;
use super::proven::Proven;
use crate::crypto::{KeyKind, Provider, Scheme, Secret, SignError, SigningKey, VerifyingKey};
use crate::pki::{self, CertifiedKey, PkiError};
use crate::policy::connection::{Connection, LocalCredential, RemoteAuth, RemoteCredential};
use crate::wire::{
    AuthMethod, Authentication, CertEncoding, Certificate, CertificateRequest, HashAlgorithm, Identification,
};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// What one side signs: its own first message as sent, the other's nonce, and prf(SK_p, ID payload body) (§2.15).
#[derive(Clone, Copy, Debug)]
pub struct SignedOctets<'a> {
    /// RealMessage1 or RealMessage2: the signer's IKE_SA_INIT, header and all, exactly as sent.
    pub message: &'a [u8],
    /// The other side's nonce.
    pub peer_nonce: &'a [u8],
    /// The signer's identity (RESERVED octets as received).
    pub id: &'a Identification,
    /// Whether the signer is the original initiator (SK_pi) or responder (SK_pr).
    pub initiator: bool,
    /// IntAuth (RFC 9242 §3.3.2); empty without IKE_INTERMEDIATE.
    pub intermediate: &'a [u8],
}

/// Why we can't authenticate, or the peer didn't. For the log; the peer gets AUTHENTICATION_FAILED and no more (§2.21.2).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthError {
    /// The peer used a method we don't accept from it.
    #[error("the peer authenticates with {got}, the configuration wants {want}")]
    Method {
        /// Used.
        got: String,
        /// Wanted.
        want: String,
    },
    /// The MIC is wrong.
    #[error("the pre-shared keys differ")]
    WrongPsk,
    /// The key is not one of those configured.
    #[error("the peer's public key {0} is not configured for it")]
    UnknownKey(String),
    /// The signature is wrong.
    #[error("the peer's signature ({0}) does not verify")]
    BadSignature(String),
    /// The AUTH data does not parse.
    #[error("the AUTH payload is malformed")]
    Malformed,
    /// A signature algorithm that is not taken, by its AlgorithmIdentifier in hex.
    #[error("the peer signs with an algorithm that is not accepted (AlgorithmIdentifier {0})")]
    Algorithm(String),
    /// The peer did not announce a hash that our key can sign with (RFC 7427 §4, 8420 §2).
    #[error(
        "the peer does not accept signatures of our {key} key: it {}, the key needs {}",
        announced.as_ref().map_or_else(|| "sends no SIGNATURE_HASH_ALGORITHMS".to_owned(), |list| format!("announces {}", list.join(" "))),
        wanted.join(" or ")
    )]
    HashNotAccepted {
        /// Kind of our key.
        key: String,
        /// Hashes it can sign with.
        wanted: Vec<String>,
        /// Hashes the peer announced, if it announced any.
        announced: Option<Vec<String>>,
    },
    /// Our own key did not sign.
    #[error("our key {key} did not sign: {why}")]
    NotSigned {
        /// Its name.
        key: String,
        /// Why.
        why: String,
    },
    /// The peer's certificate is not taken.
    #[error("{0}")]
    Certificate(#[from] Box<PkiError>),
    /// We have no certificate at all.
    #[error("we have no certificate to show")]
    NoCertificate,
    /// It is not the peer that the ticket was made for (RFC 5723).
    #[error("the peer does not prove that it had the IKE SA of its ticket")]
    Resumption,
    /// The ticket is not good any more.
    #[error("the ticket is not good any more: {0}")]
    Ticket(&'static str),
    /// The provider lacks the PRF.
    #[error("algorithm not available")]
    Unsupported,
}

/// What we prove ourselves with.
#[derive(Debug)]
pub struct Proof {
    /// CERT payloads: our certificates, leaf first, or our raw key (encoding 15).
    pub certs: Vec<Certificate>,
    /// The AUTH payload, or how to come by it.
    pub auth: Auth,
}

/// See [`Proof`].
#[derive(Debug)]
pub enum Auth {
    /// It is there.
    Ready(Authentication),
    /// Its signature has to be made by the caller.
    ToSign(Box<Unsigned>),
}

/// An AUTH payload that lacks its signature.
#[derive(Clone, Debug)]
pub struct Unsigned {
    /// The key that is to sign, which is kept elsewhere.
    pub key: Arc<SigningKey>,
    /// How.
    pub scheme: Scheme,
    /// What.
    pub octets: Vec<u8>,
    method: AuthMethod,
}

impl Unsigned {
    /// The AUTH payload with its signature. It is verified first: a broken signature would only tell the peer about our
    /// key, and the operator nothing.
    ///
    /// # Errors
    /// [`AuthError::NotSigned`].
    pub fn complete(self, signature: Result<Vec<u8>, String>) -> Result<Authentication, AuthError> {
        let failed = |why: String| AuthError::NotSigned {
            key: self.key.elsewhere().map_or_else(String::new, ToString::to_string),
            why,
        };
        let public = self.key.verifying_key();
        let signature = signature.map_err(failed)?;
        if public.verify(self.scheme, &self.octets, &signature).is_err() {
            return Err(failed(format!(
                "what it made is no {} signature of the key {}",
                self.scheme,
                fingerprint(&public)
            )));
        }
        scheme::write(self.method, self.scheme, public.kind(), signature)
    }
}

/// What the peer told us of what it can verify.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes<'a> {
    /// SIGNATURE_HASH_ALGORITHMS; `None` if it sent none.
    pub hashes: Option<&'a [HashAlgorithm]>,
    /// What it takes (RFC 9593), as far as it said.
    pub methods: Option<&'a PeerMethods>,
    /// The CAs in its CERTREQ payloads, by the hashes of their keys.
    pub authorities: &'a [[u8; 20]],
    /// CA certificates of ours, which may be its too.
    pub known: &'a [pki::Certificate],
    /// Seconds since 1970.
    pub unix: u64,
}

impl Wishes<'_> {
    /// Whether the peer announces that it takes such a signature, with a raw key.
    fn announced(&self, kind: KeyKind, scheme: Scheme) -> bool {
        self.methods
            .is_some_and(|methods| methods.takes(kind, scheme, |_| true))
    }

    /// The same with one of our certificates. "If no Certificate Request payload were received, the content of this field MUST be
    /// ignored and treated as zero" (RFC 9593 §3.2.2).
    fn announced_for(&self, own: &CertifiedKey, scheme: Scheme) -> bool {
        let linked = |number: u8| {
            let ca = usize::from(number)
                .checked_sub(1)
                .and_then(|at| self.authorities.get(at));
            self.authorities.is_empty() || ca.is_some_and(|ca| own.leads_to(&[*ca], self.known))
        };
        let kind = own.key.verifying_key().kind();
        self.methods.is_some_and(|methods| methods.takes(kind, scheme, linked))
    }
}

/// CAs read from a peer's CERTREQ payloads.
const MOST_AUTHORITIES: usize = 256;
/// CAs named in ours: a message should not grow with every CA that somebody trusts.
const MOST_REQUESTED: usize = 50;

/// The CAs that CERTREQ payloads name (RFC 7296 §3.7: concatenated SHA-1 hashes). Other encodings are not spoken.
#[must_use]
pub fn authorities(requests: &[CertificateRequest]) -> Vec<[u8; 20]> {
    let x509 = requests
        .iter()
        .filter(|request| request.encoding == CertEncoding::X509_SIGNATURE);
    let hashes = x509.flat_map(|request| request.authorities.chunks_exact(20));
    hashes
        .filter_map(|hash| hash.try_into().ok())
        .take(MOST_AUTHORITIES)
        .collect()
}

/// The CERTREQ payload for the CAs of these connections; none if none of them wants a certificate.
#[must_use]
pub fn request<'a>(connections: impl IntoIterator<Item = &'a Connection>) -> Vec<CertificateRequest> {
    let mut hashes: Vec<[u8; 20]> = Vec::new();
    for ca in connections
        .into_iter()
        .flat_map(|connection| connection.remote.credential.authorities())
    {
        if hashes.len() < MOST_REQUESTED && !hashes.contains(&ca.key_hash()) {
            hashes.push(ca.key_hash());
        }
    }
    let request = CertificateRequest {
        encoding: CertEncoding::X509_SIGNATURE,
        authorities: hashes.concat(),
    };
    if hashes.is_empty() { Vec::new() } else { vec![request] }
}

/// Our proof for a peer.
///
/// # Errors
/// [`AuthError::HashNotAccepted`], [`AuthError::NoCertificate`], [`AuthError::Unsupported`].
pub fn prove(
    provider: &Provider,
    keys: &IkeKeys,
    credential: &LocalCredential,
    octets: &SignedOctets<'_>,
    peer: &Wishes<'_>,
) -> Result<Proof, AuthError> {
    let signed = signed_octets(provider, keys, octets)?;
    match credential {
        LocalCredential::Psk(psk) => {
            let mic = shared_key_mic(provider, keys, psk, &signed)?;
            Ok(Proof {
                certs: Vec::new(),
                auth: Auth::Ready(Authentication {
                    method: AuthMethod::SHARED_KEY_MIC,
                    data: mic.expose().to_vec(),
                }),
            })
        }
        LocalCredential::RawKey(key) => Ok(Proof {
            certs: vec![Certificate {
                encoding: CertEncoding::RAW_PUBLIC_KEY,
                data: key.verifying_key().to_spki_der(),
            }],
            auth: sign(
                key,
                peer.hashes,
                |scheme| peer.announced(key.verifying_key().kind(), scheme),
                signed,
            )?,
        }),
        LocalCredential::Certificates(list) => {
            // One that the peer announces comes before one that it does not, among those that would do otherwise.
            let usable = |own: &CertifiedKey| match scheme::choose(&own.key, peer.hashes, |scheme| {
                peer.announced_for(own, scheme)
            }) {
                Ok((_, scheme)) => {
                    let valid = own.chain.iter().all(|certificate| certificate.is_valid_at(peer.unix));
                    let leads = peer.authorities.is_empty() || own.leads_to(peer.authorities, peer.known);
                    (true, valid && leads && peer.announced_for(own, scheme))
                }
                Err(_) => (false, false),
            };
            let own = CertifiedKey::choose(list, peer.authorities, peer.known, peer.unix, usable);
            let own = own.ok_or(AuthError::NoCertificate)?;
            let certs = own.to_send().into_iter().map(|certificate| Certificate {
                encoding: CertEncoding::X509_SIGNATURE,
                data: certificate.der().to_vec(),
            });
            Ok(Proof {
                certs: certs.collect(),
                auth: sign(&own.key, peer.hashes, |scheme| peer.announced_for(own, scheme), signed)?,
            })
        }
    }
}

fn sign(
    key: &Arc<SigningKey>,
    peer_hashes: Option<&[HashAlgorithm]>,
    announced: impl Fn(Scheme) -> bool,
    octets: Vec<u8>,
) -> Result<Auth, AuthError> {
    let (method, scheme) = scheme::choose(key, peer_hashes, announced)?;
    match key.sign(scheme, &octets) {
        Ok(signature) => {
            let kind = key.verifying_key().kind();
            scheme::write(method, scheme, kind, signature).map(Auth::Ready)
        }
        Err(SignError::Elsewhere) => Ok(Auth::ToSign(Box::new(Unsigned {
            key: Arc::clone(key),
            scheme,
            octets,
            method,
        }))),
        Err(SignError::Scheme) => Err(AuthError::Unsupported),
    }
}

/// Verifies the peer's AUTH in constant time against its credential; returns what proved it. A raw key in
/// CERT only selects among those configured; it is never trusted by itself. A certificate is verified before anything is
/// with its key; what it points to is never fetched (CVE-2022-40617), so encodings 12 and 13 are not taken.
///
/// # Errors
/// [`AuthError`].
pub fn verify(
    provider: &Provider,
    keys: &IkeKeys,
    remote: &RemoteAuth,
    octets: &SignedOctets<'_>,
    auth: &Authentication,
    certs: &[Certificate],
    unix: u64,
) -> Result<Proven, AuthError> {
    let signed = signed_octets(provider, keys, octets)?;
    let credential = &remote.credential;
    let (fits, want) = match credential {
        RemoteCredential::Psk(_) => (auth.method == AuthMethod::SHARED_KEY_MIC, "a pre-shared key"),
        RemoteCredential::RawKeys(_) => (scheme::is_signature(auth.method), "a signature of its raw key"),
        RemoteCredential::Certificates(_) => (
            scheme::is_signature(auth.method),
            "a signature of its certificate's key",
        ),
    };
    if !fits {
        return Err(AuthError::Method {
            got: auth.method.to_string(),
            want: want.to_owned(),
        });
    }
    match credential {
        RemoteCredential::Psk(secrets) => {
            // All are tried, whichever matches: the time tells nothing.
            let mut right = subtle::Choice::from(0);
            for psk in secrets {
                right |= shared_key_mic(provider, keys, psk, &signed)?.expose().ct_eq(&auth.data);
            }
            if right.into() {
                Ok(Proven::Psk)
            } else {
                Err(AuthError::WrongPsk)
            }
        }
        RemoteCredential::RawKeys(known) => {
            let claimed = scheme::read(auth)?;
            if let Some(key) = known.iter().find(|key| claimed.verifies(key, &signed)) {
                return Ok(Proven::RawKey(key.clone()));
            }
            // For the log: whether the peer shows a key that we don't know, or failed with one that we do.
            let shown = certs
                .iter()
                .filter(|cert| cert.encoding == CertEncoding::RAW_PUBLIC_KEY);
            match shown
                .filter_map(|cert| VerifyingKey::from_spki_der(&cert.data).ok())
                .next()
            {
                Some(key) if !known.contains(&key) => Err(AuthError::UnknownKey(fingerprint(&key))),
                _ => Err(AuthError::BadSignature(claimed.what())),
            }
        }
        RemoteCredential::Certificates(trust) => {
            let claimed = scheme::read(auth)?;
            let shown: Vec<&[u8]> = certs
                .iter()
                .filter(|cert| cert.encoding == CertEncoding::X509_SIGNATURE)
                .map(|cert| cert.data.as_slice())
                .collect();
            let certificate = trust
                .verify(&shown, octets.id, remote.id.is_some(), unix)
                .map_err(Box::new)?;
            if claimed.verifies(certificate.key(), &signed) {
                Ok(Proven::certificates(&certificate, &shown, unix))
            } else {
                Err(AuthError::BadSignature(claimed.what()))
            }
        }
    }
}

/// SHA-256 fingerprint of a public key's SubjectPublicKeyInfo, for people: `SHA256:...` in unpadded base64.
#[must_use]
pub fn fingerprint(key: &VerifyingKey) -> String {
    format!("SHA256:{}", base64(&Sha256::digest(key.to_spki_der())))
}

/// `<msg octets> | nonce | prf(SK_p, RestOfIDPayload)` (RFC 7296 §2.15).
fn signed_octets(provider: &Provider, keys: &IkeKeys, octets: &SignedOctets<'_>) -> Result<Vec<u8>, AuthError> {
    let prf = (provider.prf)(keys.suite.prf).ok_or(AuthError::Unsupported)?;
    let key = if octets.initiator { &keys.pi } else { &keys.pr };
    let maced_id = prf.prf(key.expose(), &[&octets.id.body()]);
    Ok([
        octets.message,
        octets.peer_nonce,
        maced_id.expose(),
        octets.intermediate,
    ]
    .concat())
}

/// `AUTH = prf(prf(Shared Secret, "Key Pad for IKEv2"), <SignedOctets>)` (§2.15: "17 ASCII characters without null
/// termination").
fn shared_key_mic(provider: &Provider, keys: &IkeKeys, psk: &Secret, signed: &[u8]) -> Result<Secret, AuthError> {
    let prf = (provider.prf)(keys.suite.prf).ok_or(AuthError::Unsupported)?;
    let key = prf.prf(psk.expose(), &[b"Key Pad for IKEv2"]);
    Ok(prf.prf(key.expose(), &[signed]))
}

/// RFC 5723 §4.3.3: `AUTH = prf(SK_px, <message octets>)`, where "The exact material to be signed is defined in Section 2.15".
///
/// # Errors
/// [`AuthError::Unsupported`].
pub fn resumption_mic(provider: &Provider, keys: &IkeKeys, octets: &SignedOctets<'_>) -> Result<Secret, AuthError> {
    let prf = (provider.prf)(keys.suite.prf).ok_or(AuthError::Unsupported)?;
    let key = if octets.initiator { &keys.pi } else { &keys.pr };
    Ok(prf.prf(key.expose(), &[&signed_octets(provider, keys, octets)?]))
}

/// Unpadded base64, for fingerprints only.
fn base64(data: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in data.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, octet| word << 8 | u32::from(*octet)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            out.push(char::from(DIGITS[(word >> (18 - 6 * place)) as usize & 63]));
        }
    }
    out
}
