//! `.local` and `.remote`: who we are, who the peer is, and how each proves it.

use super::document::Table;
use super::{identity, secrets};
use crate::signer::Signers;
use landbridge_proto::crypto::{Secret, VerifyingKey};
use landbridge_proto::policy::connection::{LocalAuth, LocalCredential, RemoteAuth, RemoteCredential};
use landbridge_proto::wire::Identification;
use std::sync::Arc;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Psk,
    PublicKey,
}

/// Both sides, and what signs for ours.
pub(super) struct Read {
    pub local: LocalAuth,
    pub remote: RemoteAuth,
    pub signers: Signers,
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
    let ours = read_local(&local, default_id);
    let theirs = read_remote(&remote);
    local.finish();
    remote.finish();
    combine(connection, ours?, theirs?)
}

struct Local {
    id: Identification,
    psk: Option<Secret>,
    credential: Option<LocalCredential>,
    signers: Signers,
}

struct Remote {
    id: Option<Identification>,
    method: Method,
    psks: Vec<Secret>,
    keys: Vec<VerifyingKey>,
}

fn read_local(table: &Table<'_, '_>, default_id: Option<&Identification>) -> Option<Local> {
    let directory = table.findings().directory();
    let id = match table.get("id") {
        Some(value) => identity::read(&value).and_then(|id| {
            if id.is_none() {
                value.error("we need an identity of our own", None);
            }
            id
        }),
        None => {
            if default_id.is_none() {
                let remedy = "write id = \"...\" here or under [gateway]".to_owned();
                table
                    .findings()
                    .error(table.spot(), format!("[{}] has no id", table.path()), Some(remedy));
            }
            default_id.cloned()
        }
    };
    let (psk_file, key_file) = (table.get("psk_file"), table.get("private_key_file"));
    let psk = psk_file.as_ref().map(|value| secrets::psk(value, directory));
    let key = key_file.as_ref().map(|value| secrets::private_key(value, directory));
    let method = method(table, psk.is_some(), key.is_some())?;
    let mut signers = Signers::new();
    let key = match (method, key) {
        (Method::PublicKey, None) => {
            let remedy = "make a key with landbridge keygen FILE and write private_key_file = \"FILE\"".to_owned();
            missing(table, "private_key_file", remedy);
            return None;
        }
        (Method::PublicKey, Some(key)) => {
            let secrets::PrivateKey { key, signer } = key?;
            if let (Some(name), Some(signer)) = (key.elsewhere(), signer) {
                signers.insert(Arc::clone(name), signer);
            }
            Some(LocalCredential::RawKey(Arc::new(key)))
        }
        (Method::Psk, _) => None,
    };
    // A file that was named and could not be read has been reported; it must not look as if none were named.
    let psk = match psk {
        Some(psk) => Some(psk?),
        None => None,
    };
    Some(Local {
        id: id?,
        psk,
        credential: key,
        signers,
    })
}

fn read_remote(table: &Table<'_, '_>) -> Option<Remote> {
    let directory = table.findings().directory();
    let id = match table.get("id") {
        Some(value) => identity::read(&value),
        None => Some(None),
    };
    let (mut psks, mut keys) = (Vec::new(), Vec::new());
    let mut complete = true;
    for value in table.get("psk_file").into_iter() {
        match secrets::psk(&value, directory) {
            Some(secret) => psks.push(secret),
            None => complete = false,
        }
    }
    let files = table.get("psk_files");
    for (_, item) in files.iter().filter_map(|value| value.strings()).flatten() {
        match secrets::psk(&item, directory) {
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
    let method = method(table, !psks.is_empty(), key_files.is_some() || inline.is_some())?;
    if method == Method::PublicKey && keys.is_empty() && complete {
        let remedy = "write public_key_files = [\"FILE\"] with what the peer's landbridge pubkey prints".to_owned();
        missing(table, "public_key_files", remedy);
        return None;
    }
    complete.then_some(Remote {
        id: id?,
        method,
        psks,
        keys,
    })
}

/// `auth`, or what the credentials say.
fn method(table: &Table<'_, '_>, has_psk: bool, has_key: bool) -> Option<Method> {
    let Some(value) = table.get("auth") else {
        return match (has_psk, has_key) {
            (true, false) => Some(Method::Psk),
            (false, true) => Some(Method::PublicKey),
            _ => {
                missing(table, "auth", "write auth = \"psk\" or auth = \"pubkey\"".to_owned());
                None
            }
        };
    };
    let method = match value.string()? {
        "psk" => Method::Psk,
        "pubkey" => Method::PublicKey,
        other => {
            value.error(
                format!("{other:?} is not supported"),
                Some("write \"psk\" or \"pubkey\"".to_owned()),
            );
            return None;
        }
    };
    match (method, has_psk, has_key) {
        (Method::Psk, _, true) => value.error("it says \"psk\", but there is a public or private key", None),
        (Method::PublicKey, true, _) => value.error("it says \"pubkey\", but there is a psk_file", None),
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
    };
    let (Some(ours), Some(theirs)) = (ours, theirs) else {
        let problem = format!("[{}]: auth is \"psk\", but no psk_file is named", connection.path());
        let remedy = "make one with landbridge keygen --psk FILE and write psk_file = \"FILE\" under .local".to_owned();
        connection.findings().error(connection.spot(), problem, Some(remedy));
        return None;
    };
    if remote.id.is_none() && remote.method == Method::Psk {
        let text = format!(
            "[{}.remote] has no id: whoever knows the pre-shared key is accepted under any identity",
            connection.path()
        );
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
    })
}

fn missing(table: &Table<'_, '_>, key: &str, remedy: String) {
    table
        .findings()
        .error(table.spot(), format!("[{}] has no {key}", table.path()), Some(remedy));
}
