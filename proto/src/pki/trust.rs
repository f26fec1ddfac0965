//! Whom we trust, and whether a peer's chain leads there.

use super::algorithms;
use super::certificate::{Certificate, CertificateError};
use super::name;
use crate::wire::Identification;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::cell::RefCell;
use std::time::Duration;
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter,
    KeyUsage, OwnedCertRevocationList, RequiredEkuNotFoundContext, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy, VerifiedPath,
};
use x509_cert::der::{Decode, Encode};

/// Certificates read from a peer's CERT payloads: twice what it MUST be able to send (RFC 7296 §3.6).
const MOST_READ: usize = 8;

/// Key purposes under which a certificate may be used for IKE (RFC 4945 §5.1.3.12): id-kp-ipsecIKE,
/// anyExtendedKeyUsage, and what was in use before: ipsecEndSystem, ipsecTunnel, ipsecUser (RFC 2459) and ikeIntermediate.
const PURPOSES: [&[u8]; 6] = [
    &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x11],
    &[0x55, 0x1d, 0x25, 0x00],
    &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x05],
    &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x06],
    &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x07],
    &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x08, 0x02, 0x02],
];

/// Whom we trust to say who a peer is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trust {
    /// CAs.
    pub anchors: Vec<Certificate>,
    /// Certificates of the peer itself: trusted as they are, whoever issued them.
    pub pinned: Vec<Certificate>,
    /// Revocation lists.
    pub crls: Vec<Crl>,
    /// How they are used.
    pub revocation: Revocation,
    /// Take certificates whose extended key usage does not speak of IKE (those of web servers).
    pub ignore_eku: bool,
}

/// What a certificate of unknown status means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Revocation {
    /// With CRLs at all, each CA of a chain must have one, and a current one.
    #[default]
    Strict,
    /// What no CRL speaks of is good, and one that is out of date still counts.
    Relaxed,
}

/// A certificate revocation list (RFC 5280 §5).
#[derive(Clone)]
pub struct Crl {
    der: Vec<u8>,
    issuer: Vec<u8>,
    this_update: u64,
    next_update: Option<u64>,
    parsed: std::sync::Arc<CertRevocationList<'static>>,
}

impl PartialEq for Crl {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}
impl Eq for Crl {}

impl std::fmt::Debug for Crl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Crl({})", self.issuer_in_words())
    }
}

impl Crl {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn from_der(der: &[u8]) -> Result<Self, String> {
        let list = x509_cert::crl::CertificateList::<x509_cert::certificate::Rfc5280>::from_der(der)
            .map_err(|error| format!("it is no CRL in DER: {error}"))?;
        let list = list.tbs_cert_list;
        let parsed =
            OwnedCertRevocationList::from_der(der).map_err(|error| format!("it is no CRL that is taken: {error}"))?;
        Ok(Self {
            der: der.to_vec(),
            issuer: list.issuer.to_der().map_err(|error| error.to_string())?,
            this_update: list.this_update.to_unix_duration().as_secs(),
            next_update: list.next_update.map(|time| time.to_unix_duration().as_secs()),
            parsed: std::sync::Arc::new(parsed.into()),
        })
    }

    /// Whose it is, in words.
    #[must_use]
    pub fn issuer_in_words(&self) -> String {
        name::to_words(&self.issuer).unwrap_or_else(|| "?".to_owned())
    }

    /// The issuer's name in DER.
    #[must_use]
    pub fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    /// When it was made, and when it is out of date, in seconds since 1970.
    #[must_use]
    pub const fn validity(&self) -> (u64, Option<u64>) {
        (self.this_update, self.next_update)
    }
}

/// Why a peer's certificate is not taken: for our log, never for the peer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PkiError {
    /// No certificate came, and none is pinned.
    #[error("the peer sent no certificate")]
    NoCertificate,
    /// One that came can't be read.
    #[error("a certificate of the peer can't be used: {0}")]
    Certificate(#[from] CertificateError),
    /// Too many came.
    #[error("the peer sent {0} certificates, more than 8")]
    TooMany(usize),
    /// It does not hold the identity.
    #[error("the peer's certificate ({}) does not hold its identity {id}", holds.join("; "))]
    Identity {
        /// The identity shown in IDi or IDr.
        id: String,
        /// What the certificate holds.
        holds: Vec<String>,
    },
    /// Its key usage forbids it.
    #[error("the key usage of {0} does not allow it to sign ({1} is missing)")]
    KeyUsage(String, &'static str),
    /// Outside its time.
    #[error("the certificate {0} is {1}")]
    Time(String, &'static str),
    /// More intermediate certificates than the trust anchor allows.
    #[error("the chain under {0} is longer than that CA allows")]
    PathLength(String),
    /// No path to a trust anchor, or one that is broken.
    #[error("the certificate {subject}, issued by {issuer}, is not trusted: {why}")]
    Path {
        /// Whose.
        subject: String,
        /// By whom.
        issuer: String,
        /// Why.
        why: String,
    },
}

impl PkiError {
    /// For the operator: what the peer showed, what was wanted, and what to change.
    #[must_use]
    pub fn explain(&self) -> (Vec<String>, Vec<String>, Option<String>) {
        match self {
            Self::Identity { id, holds } => (
                holds.clone(),
                vec![id.clone()],
                Some("give the peer an id that its certificate holds, or a certificate that holds its id".to_owned()),
            ),
            Self::Path { subject, issuer, .. } => (
                vec![format!("{subject}, issued by {issuer}")],
                vec![],
                Some(
                    "compare remote.cacert_files with what the peer sends: its certificate and the intermediate ones"
                        .to_owned(),
                ),
            ),
            Self::NoCertificate => (
                vec![],
                vec![],
                Some("let the peer send its certificate, or name it in remote.cert_files".to_owned()),
            ),
            Self::Time(..) => (vec![], vec![], Some("renew it, or set the clock".to_owned())),
            _ => (vec![], vec![], None),
        }
    }
}

impl Trust {
    /// Whether the peer's certificates prove that its key belongs to this identity, now. Returns its own certificate.
    ///
    /// RFC 7296 §3.6: "the first certificate MUST contain the public key associated with the private key used to sign the
    /// AUTH payload. The other certificates may be sent in any order." `configured` says that the identity is the one the configuration names: then
    /// it is bound to a pinned certificate by that.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn verify(
        &self,
        shown: &[&[u8]],
        id: &Identification,
        configured: bool,
        unix: u64,
    ) -> Result<Certificate, PkiError> {
        if shown.len() > MOST_READ {
            return Err(PkiError::TooMany(shown.len()));
        }
        let leaf = match (shown.first(), self.pinned.as_slice()) {
            (Some(der), _) => Certificate::from_der(der)?,
            // One that is pinned need not be sent.
            (None, [only]) => only.clone(),
            (None, _) => return Err(PkiError::NoCertificate),
        };
        let pinned = self.pinned.contains(&leaf);
        if !leaf.is_valid_at(unix) {
            return Err(out_of_time(&leaf, unix));
        }
        if !leaf.may_sign() {
            return Err(PkiError::KeyUsage(leaf.subject_in_words(), "digitalSignature"));
        }
        if !pinned {
            let others: Vec<CertificateDer<'_>> = shown.iter().skip(1).map(|der| CertificateDer::from(*der)).collect();
            self.verify_path(&leaf, &others, unix)?;
        }
        let bound = pinned && configured;
        if !bound && !leaf.holds(id) {
            return Err(PkiError::Identity {
                id: id.to_string(),
                holds: leaf.identities(),
            });
        }
        Ok(leaf)
    }

    /// RFC 5280 §6.1, by `webpki`, and beside it what that leaves out.
    fn verify_path(&self, leaf: &Certificate, others: &[CertificateDer<'_>], unix: u64) -> Result<(), PkiError> {
        let refused = |why: String| PkiError::Path {
            subject: leaf.subject_in_words(),
            issuer: leaf.issuer_in_words(),
            why,
        };
        let der = CertificateDer::from(leaf.der());
        let end_entity = EndEntityCert::try_from(&der).map_err(|error| refused(in_words(&error)))?;
        // A trust anchor has dates too: one that is out of date is no anchor.
        let (anchors, late): (Vec<_>, Vec<_>) = self.anchors.iter().partition(|anchor| anchor.is_valid_at(unix));
        let ders: Vec<CertificateDer<'_>> = anchors
            .iter()
            .map(|anchor| CertificateDer::from(anchor.der()))
            .collect();
        let roots: Vec<TrustAnchor<'_>> = ders
            .iter()
            .map(webpki::anchor_from_trusted_cert)
            .collect::<Result<_, _>>()
            .map_err(|error| refused(format!("a trust anchor can't be used: {error}")))?;
        let lists: Vec<&CertRevocationList<'_>> = self.crls.iter().map(|crl| crl.parsed.as_ref()).collect();
        let (status, expiry) = match self.revocation {
            Revocation::Strict => (UnknownStatusPolicy::Deny, ExpirationPolicy::Enforce),
            Revocation::Relaxed => (UnknownStatusPolicy::Allow, ExpirationPolicy::Ignore),
        };
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|builder| {
            let builder = builder
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(status);
            builder.with_expiration_policy(expiry).build()
        });
        let reason = RefCell::new(None);
        let beside = |path: &VerifiedPath<'_>| {
            self.check_beside(path, &anchors, unix).map_err(|error| {
                *reason.borrow_mut() = Some(error);
                webpki::Error::CertDistrusted
            })
        };
        let time = UnixTime::since_unix_epoch(Duration::from_secs(unix));
        let purposes = Purposes { any: self.ignore_eku };
        let verified = end_entity.verify_for_usage(
            algorithms::ALL,
            &roots,
            others,
            time,
            purposes,
            revocation,
            Some(&beside),
        );
        let Err(error) = verified else { return Ok(()) };
        if let Some(reason) = reason.into_inner() {
            return Err(reason);
        }
        if let Some(late) = late.iter().find(|late| name::same(late.subject(), leaf.issuer())) {
            return Err(out_of_time(late, unix));
        }
        Err(refused(in_words(&error)))
    }

    /// What `webpki` does not look at: the key usage of every CA on the path (RFC 5280 §6.1.4 (n)), and the path length of
    /// the trust anchor.
    fn check_beside(&self, path: &VerifiedPath<'_>, anchors: &[&Certificate], unix: u64) -> Result<(), PkiError> {
        let mut between: u8 = 0;
        for intermediate in path.intermediate_certificates() {
            let ca = Certificate::from_der(&intermediate.der())?;
            if !ca.may_issue() {
                return Err(PkiError::KeyUsage(ca.subject_in_words(), "keyCertSign"));
            }
            if !ca.is_valid_at(unix) {
                return Err(out_of_time(&ca, unix));
            }
            // RFC 5280 §4.2.1.9: "non-self-issued intermediate certificates".
            between = between.saturating_add(u8::from(!ca.is_self_issued()));
        }
        let root = path.anchor();
        let issued = anchors.iter().filter(|anchor| {
            webpki::anchor_from_trusted_cert(&CertificateDer::from(anchor.der())).is_ok_and(|anchor| anchor == *root)
        });
        // Several certificates may share name and key: what any of them allows is allowed, but at least one must.
        let mut limits = issued.map(|anchor| (anchor, anchor.path_length()));
        match limits.find(|(_, most)| most.is_none_or(|most| between <= most)) {
            Some((anchor, _)) if anchor.may_issue() => Ok(()),
            Some((anchor, _)) => Err(PkiError::KeyUsage(anchor.subject_in_words(), "keyCertSign")),
            None => Err(PkiError::PathLength(path.end_entity().issuer().to_words())),
        }
    }
}

/// Name in words.
trait InWords {
    fn to_words(&self) -> String;
}

impl InWords for [u8] {
    /// `webpki` gives names without tag and length.
    fn to_words(&self) -> String {
        let Ok(length) = x509_cert::der::Length::try_from(self.len()).and_then(|length| length.to_der()) else {
            return "?".to_owned();
        };
        name::to_words(&[&[0x30], length.as_slice(), self].concat()).unwrap_or_else(|| "?".to_owned())
    }
}

fn out_of_time(certificate: &Certificate, unix: u64) -> PkiError {
    let early = unix < certificate.validity().0;
    let when = if early {
        "not valid yet (is the clock right?)"
    } else {
        "expired"
    };
    PkiError::Time(certificate.subject_in_words(), when)
}

/// The errors that operators meet, in words that say what to do; the rest by their names.
fn in_words(error: &webpki::Error) -> String {
    use webpki::Error;
    match error {
        Error::UnknownIssuer => "no CA certificate in cacert_files issued it, nor any certificate that came with it",
        Error::CertRevoked => "it is revoked",
        Error::UnknownRevocationStatus => "crl_files has no list of one of the CAs of its chain",
        Error::CrlExpired { .. } => "the revocation list of one of its CAs is out of date",
        Error::RequiredEkuNotFoundContext(_) => {
            "its extended key usage does not speak of IKE (remote.ignore_eku = true takes it all the same)"
        }
        Error::CertExpired { .. } => "a certificate of its chain is expired",
        Error::CertNotValidYet { .. } => "a certificate of its chain is not valid yet",
        Error::NameConstraintViolation => "the name constraints of a CA do not allow its names",
        Error::PathLenConstraintViolated => "its chain is longer than a CA allows",
        Error::EndEntityUsedAsCa => "a certificate of its chain is no CA's",
        Error::CaUsedAsEndEntity => "it is the certificate of a CA",
        Error::InvalidSignatureForPublicKey => "a signature in its chain does not verify",
        Error::UnsupportedCriticalExtension => "it has a critical extension that is not known here",
        other => return format!("{other}"),
    }
    .to_owned()
}

/// Which extended key usages let a certificate be used for IKE; none at all lets it be used for everything.
struct Purposes {
    any: bool,
}

impl ExtendedKeyUsageValidator for Purposes {
    fn validate(&self, present: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let present = present.collect::<Result<Vec<_>, _>>()?;
        let fits = |id: &KeyPurposeId<'_>| PURPOSES.iter().any(|oid| KeyPurposeId::new(oid) == *id);
        if self.any || present.is_empty() || present.iter().any(fits) {
            return Ok(());
        }
        Err(webpki::Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext {
            required: KeyUsage::required_if_present(PURPOSES[0]),
            present: present.iter().map(KeyPurposeId::to_decoded_oid).collect(),
        }))
    }
}
