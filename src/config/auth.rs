//! `.local` and `.remote`: who we are, who the peer is, and how each proves it.

use super::certificates::{self, Expiry};
use super::document::{Table, Value};
use super::{identity, secrets};
use crate::signer::Signers;
use landbridge_proto::crypto::{Hash, KeyKind, Scheme, Secret, SigningKey, VerifyingKey};
use landbridge_proto::pki::{CertifiedKey, Revocation, Trust};
use landbridge_proto::policy::connection::{LocalAuth, LocalCredential, RemoteAuth, RemoteCredential};
use landbridge_proto::wire::{IdType, Identification};
use std::path::Path;
use std::sync::Arc;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Psk,
    PublicKey,
    Certificate,
}

/// Both sides, and what signs for ours.
pub(super) struct Read {
    pub local: LocalAuth,
    pub remote: RemoteAuth,
    pub signers: Signers,
    pub expiries: Vec<Expiry>,
}

/// Reads both tables; what is wrong is reported, and then there is nothing.
pub(super) fn read(connection: &Table<'_, '_>, default_id: Option<&Identification>) -> Option<Read> {
    let (local, remote) = (connection.table("local"), connection.table("remote"));
    for (table, name) in [(&local, "local"), (&remote, "remote")] {
        if table.is_none() {
            let problem = format!("[{}] has no table {name:?}", connection.path());
            let remedy = format!("add [{}.{name}] with auth and a key file", connection.path());
            connection.findings().error(connection.spot(), problem, Some(remedy));
        }
    }
    let (local, remote) = (local?, remote?);
    let ours = read_local(connection, &local, default_id);
    let theirs = read_remote(connection, &remote);
    local.finish();
    remote.finish();
    combine(connection, ours?, theirs?)
}

struct Local {
    id: Identification,
    psk: Option<Secret>,
    credential: Option<LocalCredential>,
    signers: Signers,
    expiries: Vec<Expiry>,
}

struct Remote {
    id: Option<Identification>,
    method: Method,
    psks: Vec<Secret>,
    keys: Vec<VerifyingKey>,
    trust: Trust,
    expiries: Vec<Expiry>,
}

/// The values of a key that takes one file and of its twin that takes several.
pub(super) fn files<'a, 'd>(table: &Table<'a, 'd>, one: &'static str, several: &'static str) -> Vec<Value<'a, 'd>> {
    let mut list: Vec<Value<'a, 'd>> = table.get(one).into_iter().collect();
    let several = table.get(several);
    list.extend(
        several
            .iter()
            .filter_map(|value| value.strings())
            .flatten()
            .map(|(_, item)| item),
    );
    list
}

fn read_local(connection: &Table<'_, '_>, table: &Table<'_, '_>, default_id: Option<&Identification>) -> Option<Local> {
    let directory = table.findings().directory();
    let given = table.get("id");
    let mut complete = true;
    let psk = table.get("psk_file").map(|value| secrets::psk(&value, directory));
    // Every key is named by a file or, in a token, by a URI.
    let pin = table.get("pin_file").map(|value| secrets::pin(&value, directory));
    let rsa = rsa_schemes(table);
    let mut signers = Signers::new();
    let mut keys = Vec::new();
    let key_files = files(table, "private_key_file", "private_key_files");
    let tokens = files(table, "private_key", "private_keys");
    let has_keys = !key_files.is_empty() || !tokens.is_empty();
    let read_keys = key_files.iter().map(|value| secrets::private_key(value, directory));
    let token_keys = tokens
        .iter()
        .map(|value| secrets::token_key(value, pin.as_ref().and_then(Option::as_ref)));
    for key in read_keys.chain(token_keys) {
        let Some(secrets::PrivateKey { key, signer }) = key else {
            complete = false;
            continue;
        };
        let key = match (&rsa, key.verifying_key().kind()) {
            (Some(schemes), KeyKind::Rsa(_)) => key.with_schemes(schemes),
            _ => key,
        };
        if let (Some(name), Some(signer)) = (key.elsewhere(), signer) {
            signers.insert(Arc::clone(name), signer);
        }
        keys.push(Arc::new(key));
    }
    let cert_files = files(table, "cert_file", "cert_files");
    let method = method(table, psk.is_some(), has_keys, !cert_files.is_empty())?;
    let mut expiries = Vec::new();
    let mut own = Vec::new();
    for value in &cert_files {
        match certified(value, directory, &keys, complete) {
            Some((file, certified)) => {
                for certificate in &certified.chain {
                    expiries.push(certificates::expiry(
                        name_of(connection),
                        certificates::OURS,
                        file,
                        certificate,
                    ));
                }
                own.push(certified);
            }
            None => complete = false,
        }
    }
    let credential = match method {
        Method::Psk => None,
        Method::PublicKey | Method::Certificate if !has_keys => {
            let remedy = "make a key with landbridge keygen FILE and write private_key_file = \"FILE\"".to_owned();
            missing(table, "private_key_file", remedy);
            return None;
        }
        Method::PublicKey if keys.len() > 1 => {
            let problem = format!(
                "[{}] has several private keys, but a raw key is shown as one",
                table.path()
            );
            table
                .findings()
                .error(table.spot(), problem, Some("leave one, or use certificates".to_owned()));
            return None;
        }
        Method::PublicKey => keys.first().map(|key| LocalCredential::RawKey(Arc::clone(key))),
        Method::Certificate if cert_files.is_empty() => {
            let remedy =
                "write cert_file = \"FILE\": our certificate, and after it those that lead to its CA".to_owned();
            missing(table, "cert_file", remedy);
            return None;
        }
        Method::Certificate => Some(LocalCredential::Certificates(own)),
    };
    let id = own_id(table, given.as_ref(), default_id, credential.as_ref());
    // A file that was named and could not be read has been reported; it must not look as if none were named.
    let psk = match psk {
        Some(psk) => Some(psk?),
        None => None,
    };
    Some(Local {
        id: id?,
        psk,
        credential: if complete { credential } else { return None },
        signers,
        expiries,
    })
}

/// Our identity: as written; else the usual one, unless our certificate does not hold it: then its subject.
fn own_id(
    table: &Table<'_, '_>,
    given: Option<&Value<'_, '_>>,
    default_id: Option<&Identification>,
    credential: Option<&LocalCredential>,
) -> Option<Identification> {
    let leaf = match credential {
        Some(LocalCredential::Certificates(list)) => list.first().and_then(|own| own.chain.first()),
        _ => None,
    };
    if let Some(value) = given {
        let id = identity::read(value)?;
        let Some(id) = id else {
            value.error("we need an identity of our own", None);
            return None;
        };
        if let Some(leaf) = leaf.filter(|leaf| !leaf.holds(&id)) {
            let holds = leaf.identities().join("; ");
            value.warn(format!(
                "our certificate does not hold {id}: most peers will refuse it; it holds {holds}"
            ));
        }
        return Some(id);
    }
    let held = |id: &&Identification| leaf.is_none_or(|leaf| leaf.holds(id));
    let id = default_id
        .filter(held)
        .cloned()
        .or_else(|| leaf.map(|leaf| Identification::new(IdType::DER_ASN1_DN, leaf.subject().to_vec())));
    if id.is_none() {
        let remedy = "write id = \"...\" here or under [gateway]".to_owned();
        table
            .findings()
            .error(table.spot(), format!("[{}] has no id", table.path()), Some(remedy));
    }
    id
}

/// A certificate with those that lead to its CA, and the one of our keys that belongs to it.
fn certified<'a>(
    value: &Value<'a, '_>,
    directory: &Path,
    keys: &[Arc<SigningKey>],
    complete: bool,
) -> Option<(&'a str, CertifiedKey)> {
    let file = value.string()?;
    let chain = certificates::certificates(value, file, directory)?;
    let leaf = chain.first()?;
    if !leaf.may_sign() {
        value.error(
            "its key usage does not allow it to sign (digitalSignature is missing)",
            None,
        );
        return None;
    }
    let Some(key) = keys.iter().find(|key| key.verifying_key() == *leaf.key()) else {
        // A key that could not be read has been reported.
        if complete {
            let problem = format!(
                "no private key here belongs to the certificate {}",
                leaf.subject_in_words()
            );
            let remedy =
                "name its key in private_key_file; the certificate itself stands first in its file, before those \
                          of the CAs"
                    .to_owned();
            value.error(problem, Some(remedy));
        }
        return None;
    };
    let key = Arc::clone(key);
    Some((file, CertifiedKey { chain, key }))
}

/// How RSA keys sign.
fn rsa_schemes(table: &Table<'_, '_>) -> Option<Vec<Scheme>> {
    let value = table.get("rsa_padding")?;
    let hashes = [Hash::Sha256, Hash::Sha384, Hash::Sha512];
    match value.string()? {
        "pss" => Some([hashes.map(Scheme::RsaPss), hashes.map(Scheme::RsaPkcs1)].concat()),
        "pkcs1" => Some(hashes.map(Scheme::RsaPkcs1).to_vec()),
        other => {
            value.error(
                format!("{other:?} is not known"),
                Some("write \"pss\" or \"pkcs1\"".to_owned()),
            );
            None
        }
    }
}

fn read_remote(connection: &Table<'_, '_>, table: &Table<'_, '_>) -> Option<Remote> {
    let directory = table.findings().directory();
    let id = match table.get("id") {
        Some(value) => identity::read(&value),
        None => Some(None),
    };
    let (mut psks, mut keys) = (Vec::new(), Vec::new());
    let mut complete = true;
    for value in files(table, "psk_file", "psk_files") {
        match secrets::psk(&value, directory) {
            Some(secret) => psks.push(secret),
            None => complete = false,
        }
    }
    let (key_files, inline) = (table.get("public_key_files"), table.get("public_keys"));
    for (text, item) in key_files.iter().filter_map(|value| value.strings()).flatten() {
        match secrets::public_key(&item, text, directory) {
            Some(key) => keys.push(key),
            None => complete = false,
        }
    }
    for (text, item) in inline.iter().filter_map(|value| value.strings()).flatten() {
        match secrets::inline_public_key(&item, text) {
            Some(key) => keys.push(key),
            None => complete = false,
        }
    }
    let mut expiries = Vec::new();
    let cas = files(table, "cacert_file", "cacert_files");
    let certs = files(table, "cert_file", "cert_files");
    let has_trust = !cas.is_empty() || !certs.is_empty();
    let trust = read_trust(name_of(connection), table, &cas, &certs, &mut expiries);
    let method = method(
        table,
        !psks.is_empty(),
        key_files.is_some() || inline.is_some(),
        has_trust,
    )?;
    if method == Method::PublicKey && keys.is_empty() && complete {
        let remedy = "write public_key_files = [\"FILE\"] with what the peer's landbridge pubkey prints".to_owned();
        missing(table, "public_key_files", remedy);
        return None;
    }
    if method == Method::Certificate && !has_trust {
        let remedy = "write cacert_files = [\"FILE\"] with the CA that issued the peer's certificate".to_owned();
        missing(table, "cacert_files", remedy);
        return None;
    }
    let trust = trust?;
    complete.then_some(Remote {
        id: id?,
        method,
        psks,
        keys,
        trust,
        expiries,
    })
}

/// `cacert_files`, `cert_files`, `crl_files`, `revocation`, `ignore_eku`.
fn read_trust(
    connection: &str,
    table: &Table<'_, '_>,
    cas: &[Value<'_, '_>],
    certs: &[Value<'_, '_>],
    expiries: &mut Vec<Expiry>,
) -> Option<Trust> {
    let directory = table.findings().directory();
    let mut trust = Trust::default();
    let mut complete = true;
    for value in cas {
        let file = value.string()?;
        let Some(list) = certificates::certificates(value, file, directory) else {
            complete = false;
            continue;
        };
        for ca in list {
            if !ca.may_issue() {
                let problem = format!("{} in {file} is not the certificate of a CA", ca.subject_in_words());
                let remedy = "a certificate of the peer itself goes into cert_files".to_owned();
                value.error(problem, Some(remedy));
                complete = false;
            }
            expiries.push(certificates::expiry(connection, certificates::AUTHORITY, file, &ca));
            trust.anchors.push(ca);
        }
    }
    for value in certs {
        let file = value.string()?;
        let Some(list) = certificates::certificates(value, file, directory) else {
            complete = false;
            continue;
        };
        // Those of its CAs may stand behind it; they are not what is pinned.
        if let Some(certificate) = list.into_iter().next() {
            expiries.push(certificates::expiry(connection, certificates::PEER, file, &certificate));
            trust.pinned.push(certificate);
        }
    }
    let crl_files = table.get("crl_files");
    for (file, item) in crl_files.iter().filter_map(|value| value.strings()).flatten() {
        match certificates::crls(&item, file, directory) {
            Some(lists) => {
                for list in lists {
                    expiries.push(certificates::list_expiry(connection, file, &list));
                    trust.crls.push(list);
                }
            }
            None => complete = false,
        }
    }
    if let Some(value) = table.get("revocation") {
        match value.string()? {
            "strict" => trust.revocation = Revocation::Strict,
            "relaxed" => trust.revocation = Revocation::Relaxed,
            other => {
                let remedy = Some("write \"strict\" or \"relaxed\"".to_owned());
                value.error(format!("{other:?} is not known"), remedy);
                complete = false;
            }
        }
    }
    if let Some(value) = table.get("ignore_eku") {
        trust.ignore_eku = value.boolean()?;
    }
    complete.then_some(trust)
}

/// `auth`, or what the credentials say.
fn method(table: &Table<'_, '_>, has_psk: bool, has_key: bool, has_cert: bool) -> Option<Method> {
    let Some(value) = table.get("auth") else {
        return match (has_psk, has_key, has_cert) {
            (true, false, false) => Some(Method::Psk),
            (false, true, false) => Some(Method::PublicKey),
            (false, _, true) => Some(Method::Certificate),
            _ => {
                missing(
                    table,
                    "auth",
                    "write auth = \"psk\", auth = \"pubkey\" or auth = \"cert\"".to_owned(),
                );
                None
            }
        };
    };
    let method = match value.string()? {
        "psk" => Method::Psk,
        "pubkey" => Method::PublicKey,
        "cert" => Method::Certificate,
        other => {
            value.error(
                format!("{other:?} is not supported"),
                Some("write \"psk\", \"pubkey\" (a raw key) or \"cert\"".to_owned()),
            );
            return None;
        }
    };
    match method {
        Method::Psk if has_key => value.error("it says \"psk\", but there is a public or private key", None),
        Method::Psk if has_cert => value.error("it says \"psk\", but there is a certificate", None),
        Method::PublicKey if has_psk => value.error("it says \"pubkey\", but there is a psk_file", None),
        Method::PublicKey if has_cert => {
            let remedy = Some("write auth = \"cert\", or leave the certificates out".to_owned());
            value.error("it says \"pubkey\", but there is a certificate", remedy);
        }
        Method::Certificate if has_psk => value.error("it says \"cert\", but there is a psk_file", None),
        _ => return Some(method),
    }
    None
}

/// A pre-shared key is the same at both ends, so one of the two tables is enough to name it.
fn combine(connection: &Table<'_, '_>, local: Local, mut remote: Remote) -> Option<Read> {
    if remote.psks.is_empty() {
        remote.psks.extend(local.psk.clone());
    }
    let shared = local.psk.or_else(|| remote.psks.first().cloned());
    let ours = match local.credential {
        Some(key) => Some(key),
        None => shared.map(LocalCredential::Psk),
    };
    let theirs = match remote.method {
        Method::Psk if remote.psks.is_empty() => None,
        Method::Psk => Some(RemoteCredential::Psk(remote.psks)),
        Method::PublicKey => Some(RemoteCredential::RawKeys(remote.keys)),
        Method::Certificate => Some(RemoteCredential::Certificates(Arc::new(remote.trust))),
    };
    let (Some(ours), Some(theirs)) = (ours, theirs) else {
        let problem = format!("[{}]: auth is \"psk\", but no psk_file is named", connection.path());
        let remedy = "make one with landbridge keygen --psk FILE and write psk_file = \"FILE\" under .local".to_owned();
        connection.findings().error(connection.spot(), problem, Some(remedy));
        return None;
    };
    let anybody = match remote.method {
        Method::Psk => Some("whoever knows the pre-shared key is accepted under any identity"),
        Method::Certificate => Some("whoever has a certificate of its CAs is accepted, under any identity in it"),
        Method::PublicKey => None,
    };
    if let (None, Some(anybody)) = (&remote.id, anybody) {
        let text = format!("[{}.remote] has no id: {anybody}", connection.path());
        connection.findings().warn(connection.spot(), text);
    }
    Some(Read {
        local: LocalAuth {
            id: local.id,
            credential: ours,
        },
        remote: RemoteAuth {
            id: remote.id,
            credential: theirs,
        },
        signers: local.signers,
        expiries: [local.expiries, remote.expiries].concat(),
    })
}

fn missing(table: &Table<'_, '_>, key: &str, remedy: String) {
    table
        .findings()
        .error(table.spot(), format!("[{}] has no {key}", table.path()), Some(remedy));
}

/// The name the operator gave the connection.
fn name_of<'t>(connection: &'t Table<'_, '_>) -> &'t str {
    connection.path().trim_start_matches("connections.")
}
