//! One certificate, read once.

use super::name;
use crate::crypto::{KeyFormatError, VerifyingKey};
use crate::wire::{IdType, Identification};
use sha1::{Digest, Sha1};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, SubjectAltName};

/// Larger certificates are not read.
const LARGEST: usize = 32 * 1024;

/// A certificate with what is asked of it here. That it can be read says nothing about whether it can be trusted.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    not_before: u64,
    not_after: u64,
    key: VerifyingKey,
    key_hash: [u8; 20],
    key_usage: Option<KeyUsage>,
    /// The CA flag is set, with the path length if it is limited.
    ca: Option<Option<u8>>,
    names: Vec<San>,
}

/// A name in SubjectAltName that may be an IKE identity.
#[derive(Clone, PartialEq, Eq, Debug)]
enum San {
    Dns(String),
    Mail(String),
    Address(Vec<u8>),
    Directory(Vec<u8>),
}

/// What can't be read as a certificate that is of any use here.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CertificateError {
    /// Not DER, or not a certificate.
    #[error("it is no X.509 certificate in DER: {0}")]
    Malformed(String),
    /// Its key is of no use.
    #[error("{0}")]
    Key(#[from] KeyFormatError),
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certificate({})", self.subject_in_words())
    }
}

impl Certificate {
    /// Reads one.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let malformed = |error: x509_cert::der::Error| CertificateError::Malformed(error.to_string());
        if der.len() > LARGEST {
            return Err(CertificateError::Malformed("it is too large".to_owned()));
        }
        let parsed = x509_cert::Certificate::from_der(der).map_err(malformed)?;
        let tbs = parsed.tbs_certificate();
        let spki = tbs.subject_public_key_info().to_der().map_err(malformed)?;
        let key_usage = tbs
            .get_extension::<KeyUsage>()
            .map_err(malformed)?
            .map(|(_, usage)| usage);
        let constraints = tbs.get_extension::<BasicConstraints>().map_err(malformed)?;
        let ca = constraints
            .filter(|(_, basic)| basic.ca)
            .map(|(_, basic)| basic.path_len_constraint);
        let names = tbs.get_extension::<SubjectAltName>().map_err(malformed)?;
        let names = names.map(|(_, SubjectAltName(names))| names).unwrap_or_default();
        let names = names
            .iter()
            .filter_map(|general| match general {
                GeneralName::DnsName(text) => Some(San::Dns(text.as_str().to_owned())),
                GeneralName::Rfc822Name(text) => Some(San::Mail(text.as_str().to_owned())),
                GeneralName::IpAddress(octets) => Some(San::Address(octets.as_bytes().to_vec())),
                GeneralName::DirectoryName(name) => name.to_der().ok().map(San::Directory),
                _ => None,
            })
            .collect();
        Ok(Self {
            der: der.to_vec(),
            subject: tbs.subject().to_der().map_err(malformed)?,
            issuer: tbs.issuer().to_der().map_err(malformed)?,
            not_before: tbs.validity().not_before.to_unix_duration().as_secs(),
            not_after: tbs.validity().not_after.to_unix_duration().as_secs(),
            key: VerifyingKey::from_spki_der(&spki)?,
            key_hash: Sha1::digest(&spki).into(),
            key_usage,
            ca,
            names,
        })
    }

    /// As it came.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The subject's name in DER: what goes into an ID payload of type ID_DER_ASN1_DN.
    #[must_use]
    pub fn subject(&self) -> &[u8] {
        &self.subject
    }

    /// The issuer's name in DER.
    #[must_use]
    pub fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    /// The subject in words.
    #[must_use]
    pub fn subject_in_words(&self) -> String {
        in_words(&self.subject)
    }

    /// The issuer in words.
    #[must_use]
    pub fn issuer_in_words(&self) -> String {
        in_words(&self.issuer)
    }

    /// Its public key.
    #[must_use]
    pub const fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// SHA-1 of its SubjectPublicKeyInfo, as CERTREQ names a CA (RFC 7296 §3.7).
    #[must_use]
    pub const fn key_hash(&self) -> [u8; 20] {
        self.key_hash
    }

    /// The seconds since 1970 from which and up to which it is valid.
    #[must_use]
    pub const fn validity(&self) -> (u64, u64) {
        (self.not_before, self.not_after)
    }

    /// Whether it is valid at this time.
    #[must_use]
    pub const fn is_valid_at(&self, unix: u64) -> bool {
        self.not_before <= unix && unix <= self.not_after
    }

    /// Whether it may issue certificates: RFC 5280 §6.1.4 (k), (n): the CA flag, and keyCertSign if there is a key usage.
    #[must_use]
    pub fn may_issue(&self) -> bool {
        self.ca.is_some() && self.key_usage.is_none_or(|usage| usage.key_cert_sign())
    }

    /// Whether it may sign CRLs (RFC 5280 §6.3.3 (f)).
    #[must_use]
    pub fn may_sign_crls(&self) -> bool {
        self.key_usage.is_none_or(|usage| usage.crl_sign())
    }

    /// Most intermediate certificates below it, if that is limited.
    #[must_use]
    pub fn path_length(&self) -> Option<u8> {
        self.ca.flatten()
    }

    /// Whether its issuer is itself, by name.
    #[must_use]
    pub fn is_self_issued(&self) -> bool {
        name::same(&self.subject, &self.issuer)
    }

    /// Whether it may sign AUTH: RFC 4945 §5.1.3.2: if there is a key usage, it must have digitalSignature or
    /// nonRepudiation.
    #[must_use]
    pub fn may_sign(&self) -> bool {
        self.key_usage
            .is_none_or(|usage| usage.digital_signature() || usage.non_repudiation())
    }

    /// Whether it holds this identity (RFC 4945 §3.1): an address, name or mail address by SubjectAltName, compared as a
    /// whole and never with wildcards; a distinguished name by its subject, or by SubjectAltName. The common name is not
    /// looked at: it says nothing about what it is the name of. Any other kind of identity no certificate holds.
    #[must_use]
    pub fn holds(&self, id: &Identification) -> bool {
        match id.id_type {
            IdType::IPV4_ADDR | IdType::IPV6_ADDR => {
                let length = if id.id_type == IdType::IPV4_ADDR { 4 } else { 16 };
                id.data.len() == length
                    && self
                        .names
                        .iter()
                        .any(|name| matches!(name, San::Address(octets) if *octets == id.data))
            }
            IdType::FQDN => self
                .names
                .iter()
                .any(|name| matches!(name, San::Dns(text) if text.as_bytes().eq_ignore_ascii_case(&id.data))),
            IdType::RFC822_ADDR => self
                .names
                .iter()
                .any(|name| matches!(name, San::Mail(text) if same_mail(text.as_bytes(), &id.data))),
            IdType::DER_ASN1_DN => {
                name::same(&self.subject, &id.data)
                    || self
                        .names
                        .iter()
                        .any(|name| matches!(name, San::Directory(dn) if name::same(dn, &id.data)))
            }
            _ => false,
        }
    }

    /// The identities it holds, in words, for the log.
    #[must_use]
    pub fn identities(&self) -> Vec<String> {
        let names = self.names.iter().take(16).map(|name| match name {
            San::Dns(text) | San::Mail(text) => text.escape_debug().take(255).collect(),
            San::Address(octets) => Identification::new(
                if octets.len() == 4 {
                    IdType::IPV4_ADDR
                } else {
                    IdType::IPV6_ADDR
                },
                octets.clone(),
            )
            .to_string(),
            San::Directory(dn) => in_words(dn),
        });
        std::iter::once(self.subject_in_words()).chain(names).collect()
    }
}

/// RFC 5280 §7.5: the local part exactly, the domain without regard to case.
fn same_mail(a: &[u8], b: &[u8]) -> bool {
    let cut = |mail: &[u8]| mail.iter().rposition(|octet| *octet == b'@');
    match (cut(a), cut(b)) {
        (Some(x), Some(y)) => a[..x] == b[..y] && a[x..].eq_ignore_ascii_case(&b[y..]),
        _ => false,
    }
}

fn in_words(name: &[u8]) -> String {
    name::to_words(name).unwrap_or_else(|| "?".to_owned())
}
