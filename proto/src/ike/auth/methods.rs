//! Announcing authentication methods (RFC 9593): what an end takes from its peer, so that the peer chooses among what it has, and
//! both can say why it did not work. "\[S\]ending the SUPPORTED_AUTH_METHODS notification and using information obtained from it are
//! optional" (§3.1): it prefers, and excludes nothing.

use crate::crypto::{Hash, KeyKind, Scheme, SigningKey, schemes};
use crate::policy::connection::{Connection, LocalCredential, RemoteCredential};
use crate::wire::{AuthMethod, Notify, NotifyType};

/// Announcements read of a peer.
const MOST: usize = 64;

/// One announcement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Announcement {
    /// What is taken.
    pub what: What,
    /// Only with the N-th CA of the CERTREQ payloads; 0 is any.
    pub link: u8,
}

/// See [`Announcement`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// A method that says all.
    Method(AuthMethod),
    /// Method 14 with an algorithm that we know.
    Scheme(Scheme),
}

impl What {
    /// Whether such a signature by a key of this kind is taken: the methods from before RFC 7427 each stand for one, on one curve
    /// ("ECDSA with SHA-256 on the P-256 curve", RFC 9593 §3.2.2). An algorithm of method 14 names no curve.
    fn covers(self, kind: KeyKind, scheme: Scheme) -> bool {
        match self {
            Self::Scheme(own) => own == scheme,
            Self::Method(method) => matches!(
                (method, kind, scheme),
                (
                    AuthMethod::ECDSA_P256_SHA256,
                    KeyKind::P256,
                    Scheme::Ecdsa(Hash::Sha256)
                ) | (
                    AuthMethod::ECDSA_P384_SHA384,
                    KeyKind::P384,
                    Scheme::Ecdsa(Hash::Sha384)
                ) | (
                    AuthMethod::ECDSA_P521_SHA512,
                    KeyKind::P521,
                    Scheme::Ecdsa(Hash::Sha512)
                ) | (AuthMethod::RSA_SIGNATURE, KeyKind::Rsa(_), Scheme::RsaPkcs1(_))
            ),
        }
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Method(AuthMethod::SHARED_KEY_MIC) => f.write_str("a pre-shared key"),
            Self::Method(method) => write!(f, "method {method}"),
            Self::Scheme(scheme) => write!(f, "{scheme}"),
        }
    }
}

/// What a peer takes; `None` inside if it did not say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PeerMethods(Option<Vec<Announcement>>);

impl PeerMethods {
    /// Of the notifies of a message: "If multiple SUPPORTED_AUTH_METHODS notifications are included in a message, all their
    /// announcements form a single ordered list" (§3.1). An empty one says that the list is still to come, or nothing.
    #[must_use]
    pub fn read(notifies: &[Notify]) -> Self {
        let of_these = |notify: &&Notify| notify.notify_type == NotifyType::SUPPORTED_AUTH_METHODS;
        let mut list: Option<Vec<Announcement>> = None;
        for notify in notifies
            .iter()
            .filter(of_these)
            .filter(|notify| !notify.data.is_empty())
        {
            let list = list.get_or_insert_default();
            let mut rest = notify.data.as_slice();
            // "The blob always starts with an octet containing the length of the blob followed by an octet containing the
            // authentication method" (§3.2). What does not is not read on.
            while let Some((blob, after)) = rest.first().and_then(|length| rest.split_at_checked((*length).into())) {
                let Some((head, tail)) = blob.split_first_chunk::<2>() else {
                    break;
                };
                rest = after;
                if list.len() < MOST {
                    list.extend(announcement(AuthMethod(head[1]), tail));
                }
            }
        }
        Self(list)
    }

    /// Whether it said anything.
    #[must_use]
    pub const fn said(&self) -> bool {
        self.0.is_some()
    }

    /// Whether it announces a signature by a key of this kind; `linked` tells of a CA's number whether our certificate leads to it.
    #[must_use]
    pub fn takes(&self, kind: KeyKind, scheme: Scheme, linked: impl Fn(u8) -> bool) -> bool {
        self.any(|one| one.what.covers(kind, scheme) && (one.link == 0 || linked(one.link)))
    }

    fn any(&self, test: impl Fn(&Announcement) -> bool) -> bool {
        self.0.iter().flatten().any(test)
    }

    /// Why our credential can't be what the peer takes, if it said so: for the operator, once it has failed.
    #[must_use]
    pub fn objection(&self, credential: &LocalCredential) -> Option<String> {
        let list = self.0.as_ref()?;
        let taken = |key: &SigningKey| {
            let kind = key.verifying_key().kind();
            key.schemes().iter().any(|scheme| self.takes(kind, *scheme, |_| true))
        };
        let (fits, ours) = match credential {
            LocalCredential::Psk(_) => {
                let psk = What::Method(AuthMethod::SHARED_KEY_MIC);
                (self.any(|one| one.what == psk), psk.to_string())
            }
            LocalCredential::RawKey(key) => (taken(key), format!("a raw {} key", key.verifying_key().kind())),
            LocalCredential::Certificates(all) => {
                let kinds: Vec<String> = all
                    .iter()
                    .map(|own| own.key.verifying_key().kind().to_string())
                    .collect();
                let fits = all.iter().any(|own| taken(&own.key));
                (fits, format!("a certificate with a key of kind {}", kinds.join(" or ")))
            }
        };
        let theirs: Vec<String> = list.iter().map(|one| one.what.to_string()).collect();
        let theirs = if theirs.is_empty() {
            "nothing that is known here".to_owned()
        } else {
            theirs.join(", ")
        };
        (!fits).then(|| format!("the peer announces that it takes {theirs}, and we have {ours}"))
    }
}

/// "Implementations MUST ignore announcements whose semantics they don't understand" (§3.2).
fn announcement(method: AuthMethod, tail: &[u8]) -> Option<Announcement> {
    let (what, link) = match (method, tail) {
        (AuthMethod::SHARED_KEY_MIC | AuthMethod::NULL, []) => (What::Method(method), 0),
        (
            AuthMethod::RSA_SIGNATURE
            | AuthMethod::DSS
            | AuthMethod::ECDSA_P256_SHA256
            | AuthMethod::ECDSA_P384_SHA384
            | AuthMethod::ECDSA_P521_SHA512,
            [link],
        ) => (What::Method(method), *link),
        (AuthMethod::DIGITAL_SIGNATURE, [link, identifier @ ..]) => {
            (What::Scheme(Scheme::from_identifier(identifier)?), *link)
        }
        _ => return None,
    };
    Some(Announcement { what, link })
}

/// What we take of a peer that may belong to any of these connections, "ordered by their preference" (§3.1). Links to CAs are left
/// out: each of ours may vouch for keys of every kind.
#[must_use]
pub fn announce<'a>(connections: impl IntoIterator<Item = &'a Connection>) -> Option<Notify> {
    let mut list: Vec<What> = Vec::new();
    for connection in connections {
        let taken = match &connection.remote.credential {
            RemoteCredential::Psk(_) => vec![What::Method(AuthMethod::SHARED_KEY_MIC)],
            RemoteCredential::RawKeys(keys) => of_kinds(keys.iter().map(|key| key.kind())),
            RemoteCredential::Certificates(trust) if trust.anchors.is_empty() => {
                of_kinds(trust.pinned.iter().map(|certificate| certificate.key().kind()))
            }
            RemoteCredential::Certificates(_) => of_kinds([
                KeyKind::Ed25519,
                KeyKind::P256,
                KeyKind::P384,
                KeyKind::P521,
                KeyKind::Rsa(2048),
            ]),
        };
        for what in taken {
            if !list.contains(&what) {
                list.push(what);
            }
        }
    }
    let mut data = Vec::new();
    for what in list {
        let blob = match what {
            What::Method(method) => vec![method.0],
            What::Scheme(scheme) => [&[AuthMethod::DIGITAL_SIGNATURE.0, 0], scheme.identifier().as_slice()].concat(),
        };
        data.push(u8::try_from(blob.len() + 1).ok()?);
        data.extend(blob);
    }
    (!data.is_empty()).then(|| Notify::new(NotifyType::SUPPORTED_AUTH_METHODS, data))
}

fn of_kinds(kinds: impl IntoIterator<Item = KeyKind>) -> Vec<What> {
    kinds.into_iter().flat_map(schemes).map(What::Scheme).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: &[u8]) -> Option<Vec<Announcement>> {
        PeerMethods::read(&[Notify::new(NotifyType::SUPPORTED_AUTH_METHODS, data.to_vec())]).0
    }

    #[test]
    fn announcements_of_all_three_forms_and_none_of_any_other() {
        let psk = Announcement {
            what: What::Method(AuthMethod::SHARED_KEY_MIC),
            link: 0,
        };
        let ed25519 = Announcement {
            what: What::Scheme(Scheme::Ed25519),
            link: 3,
        };
        let identifier = Scheme::Ed25519.identifier();
        let blob = [&[3 + identifier.len() as u8, 14, 3], identifier.as_slice()].concat();
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[2, 2]), Some(vec![psk]));
        assert_eq!(read(&blob), Some(vec![ed25519]));
        assert_eq!(read(&[&[2, 2], &blob[..]].concat()), Some(vec![psk, ed25519]));
        let p256 = What::Method(AuthMethod::ECDSA_P256_SHA256);
        assert_eq!(read(&[3, 9, 1]), Some(vec![Announcement { what: p256, link: 1 }]));
        // Other methods, lengths and algorithms; then one that is known.
        for unknown in [
            &[2, 12][..],
            &[3, 2, 0],
            &[2, 14],
            &[2, 9],
            &[4, 9, 0, 0],
            &[5, 14, 0, 5, 0],
            &[7, 99, 1, 2, 3, 4, 5],
        ] {
            assert_eq!(read(&[unknown, &[2, 2]].concat()), Some(vec![psk]), "{unknown:?}");
        }
        // What does not add up is not read on.
        for broken in [&[0][..], &[1, 2], &[3, 2], &[9, 14, 0], &[255; 20]] {
            assert_eq!(read(&[&[2, 2], broken].concat()), Some(vec![psk]), "{broken:?}");
        }
        assert_eq!(read(&[2, 2].repeat(500)).map(|list| list.len()), Some(MOST));
    }

    #[test]
    fn a_link_is_to_a_ca() {
        let scheme = Scheme::Ecdsa(Hash::Sha256);
        for (link, leads, takes) in [(0, false, true), (2, true, true), (2, false, false)] {
            let what = What::Scheme(scheme);
            let methods = PeerMethods(Some(vec![Announcement { what, link }]));
            assert_eq!(
                methods.takes(KeyKind::P384, scheme, |number| number == 2 && leads),
                takes
            );
            assert!(!methods.takes(KeyKind::Ed25519, Scheme::Ed25519, |_| true));
        }
    }

    #[test]
    fn an_older_method_is_of_one_curve() {
        let kinds = [KeyKind::P256, KeyKind::P384, KeyKind::P521];
        let hashes = [Hash::Sha256, Hash::Sha384, Hash::Sha512];
        for (n, method) in [9, 10, 11].map(AuthMethod).into_iter().enumerate() {
            for (k, kind) in kinds.into_iter().enumerate() {
                for (h, hash) in hashes.into_iter().enumerate() {
                    let covers = What::Method(method).covers(kind, Scheme::Ecdsa(hash));
                    assert_eq!(covers, n == k && n == h, "{method} {kind} {hash:?}");
                }
            }
        }
    }
}
