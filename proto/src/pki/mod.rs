//! X.509 certificates (RFC 5280) as IKEv2 uses them (RFC 4945; RFC 7296 §3.6, §3.7).
//!
//! | file | subject |
//! |---|---|
//! | `name` | distinguished names: words, octets, comparison |
//! | `certificate` | one certificate, read; which identities it holds |
//! | `trust` | whom we trust: anchors, pinned certificates, CRLs; is this chain good, now, for this identity? |
//! | `algorithms` | the signatures that may stand in a chain |
//! | `own` | our certificates, and which of them to show |
//!
//! Paths are built and verified by `webpki`. What it leaves out is done beside it, and fails closed: key usage; dates,
//! path length and key usage of the trust anchor; which identity the certificate holds. It refuses every path under a CA
//! with name constraints on directory names, mail addresses or URIs, where the certificate has such names; so do we.
//! Nothing is ever fetched: certificates come in CERT payloads and files, CRLs in files.

mod algorithms;
mod certificate;
pub mod name;
mod own;
mod trust;

pub use certificate::{Certificate, CertificateError};
pub use own::CertifiedKey;
pub use trust::{Crl, PkiError, Revocation, Trust};
