//! Certificates and revocation lists from files, and when they run out.

use super::document::Value;
use super::{pem, secrets};
use landbridge_proto::pki::{Certificate, Crl};
use std::path::Path;

/// Within so many seconds of its end a certificate is worth a word: 30 days.
pub const EXPIRY_WARNING: u64 = 30 * 86_400;

/// Something that runs out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expiry {
    /// The connection that needs it.
    pub connection: String,
    /// What it is for: `our certificate`, `the CA`, `the peer's certificate`, `the revocation list`.
    pub what: &'static str,
    /// Its subject, or a list's issuer.
    pub subject: String,
    /// The file it is in.
    pub file: String,
    /// Valid from, in seconds since 1970.
    pub not_before: u64,
    /// Valid until; a list need not say.
    pub not_after: Option<u64>,
}

impl Expiry {
    /// What there is to say about it at this time, if anything.
    #[must_use]
    pub fn warning(&self, unix: u64) -> Option<String> {
        let Self {
            connection,
            what,
            subject,
            file,
            ..
        } = self;
        let named = format!("{connection}: {what} {subject} ({file})");
        if unix < self.not_before {
            return Some(format!("{named} is not valid before {}", day(self.not_before)));
        }
        let end = self.not_after?;
        // A revocation list lives for hours or days: only one that is over is worth a word.
        let ahead = if *what == LIST { 0 } else { EXPIRY_WARNING };
        if end < unix {
            Some(format!("{named} has expired on {}", day(end)))
        } else if end - unix < ahead {
            Some(format!(
                "{named} expires in {} days, on {}",
                (end - unix) / 86_400,
                day(end)
            ))
        } else {
            None
        }
    }
}

/// See [`Expiry::what`].
pub(super) const OURS: &str = "our certificate";
pub(super) const AUTHORITY: &str = "the CA";
pub(super) const PEER: &str = "the peer's certificate";
const LIST: &str = "the revocation list";

/// A day in words: `2027-03-01T12:00:00Z`.
#[must_use]
pub fn day(unix: u64) -> String {
    let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(unix));
    // RFC 5280 §4.1.2.5: 99991231235959Z says that there is no end.
    time.filter(|_| unix < 253_402_300_799).map_or_else(
        || "never".to_owned(),
        |time| humantime::format_rfc3339_seconds(time).to_string(),
    )
}

/// The certificates in a file: PEM, one or more, or one in DER.
pub(super) fn certificates(value: &Value<'_, '_>, text: &str, directory: &Path) -> Option<Vec<Certificate>> {
    let (path, octets) = secrets::public(value, text, directory)?;
    let mut list = Vec::new();
    for der in blocks(&octets, "CERTIFICATE") {
        match Certificate::from_der(&der) {
            Ok(certificate) => list.push(certificate),
            Err(error) => {
                value.error(format!("{}: {error}", path.display()), None);
                return None;
            }
        }
    }
    if list.is_empty() {
        let remedy = Some("certificates are written between -----BEGIN CERTIFICATE----- and its END".to_owned());
        value.error(format!("{} holds no certificate", path.display()), remedy);
        return None;
    }
    Some(list)
}

/// The revocation lists in a file.
pub(super) fn crls(value: &Value<'_, '_>, text: &str, directory: &Path) -> Option<Vec<Crl>> {
    let (path, octets) = secrets::public(value, text, directory)?;
    let lists: Result<Vec<Crl>, String> = blocks(&octets, "X509 CRL")
        .iter()
        .map(|der| Crl::from_der(der))
        .collect();
    match lists {
        Ok(lists) if !lists.is_empty() => Some(lists),
        Ok(_) => {
            value.error(format!("{} holds no revocation list", path.display()), None);
            None
        }
        Err(problem) => {
            value.error(format!("{}: {problem}", path.display()), None);
            None
        }
    }
}

/// When a certificate runs out.
pub(super) fn expiry(connection: &str, what: &'static str, file: &str, certificate: &Certificate) -> Expiry {
    let (not_before, not_after) = certificate.validity();
    Expiry {
        connection: connection.to_owned(),
        what,
        subject: certificate.subject_in_words(),
        file: file.to_owned(),
        not_before,
        not_after: Some(not_after),
    }
}

/// When a list runs out.
pub(super) fn list_expiry(connection: &str, file: &str, list: &Crl) -> Expiry {
    let (not_before, not_after) = list.validity();
    Expiry {
        connection: connection.to_owned(),
        what: LIST,
        subject: format!("of {}", list.issuer_in_words()),
        file: file.to_owned(),
        not_before,
        not_after,
    }
}

/// The blocks with this label, or the whole as DER if there is no PEM in it.
fn blocks(octets: &[u8], label: &str) -> Vec<Vec<u8>> {
    match std::str::from_utf8(octets) {
        Ok(text) => pem::read(text)
            .into_iter()
            .filter(|block| block.label == label)
            .map(|block| block.der.to_vec())
            .collect(),
        Err(_) => vec![octets.to_vec()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_out_is_told_in_time() {
        let at = |not_after, what| Expiry {
            connection: "cloud".to_owned(),
            what,
            subject: "CN=gw".to_owned(),
            file: "gw.crt".to_owned(),
            not_before: 1_000,
            not_after: Some(not_after),
        };
        let now = 1_800_000_000;
        assert_eq!(at(now + EXPIRY_WARNING, OURS).warning(now), None);
        let soon = at(now + 86_400 * 3 + 5, OURS).warning(now).unwrap();
        assert_eq!(
            soon,
            "cloud: our certificate CN=gw (gw.crt) expires in 3 days, on 2027-01-18T08:00:05Z"
        );
        assert!(
            at(now - 1, AUTHORITY)
                .warning(now)
                .unwrap()
                .contains("has expired on 2027-01-15T07:59:59Z")
        );
        assert!(
            at(now, AUTHORITY)
                .warning(999)
                .unwrap()
                .contains("is not valid before 1970-01-01T00:16:40Z")
        );
        assert_eq!(at(now + 60, LIST).warning(now), None);
        assert!(at(now - 60, LIST).warning(now).is_some());
        assert_eq!(day(u64::MAX), "never");
    }
}
