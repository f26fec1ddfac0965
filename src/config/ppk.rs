//! `[connections.NAME.ppk]`, `ppk_id`, `ppk_required`: post-quantum preshared keys (RFC 8784).

use super::document::Table;
use super::{connection::flag, secrets};
use landbridge_proto::policy::connection::{Ppk, Ppks};

/// Fewer octets than this have less than 256 bits, whatever they are (RFC 8784 §6: "The strongest practice is to ensure that any
/// post-quantum preshared key contains at least 256 bits of entropy; this will provide 128 bits of post-quantum security").
const SHORT: usize = 32;
/// Longest name: it travels in IKE_AUTH.
const LONGEST_ID: usize = 128;

/// Reads them; what is wrong is reported, and then there is nothing.
pub(super) fn read(connection: &Table<'_, '_>) -> Option<Ppks> {
    let id = connection.get("ppk_id");
    let required = connection.get("ppk_required");
    let Some(table) = connection.table("ppk") else {
        for (value, name) in [(&id, "ppk_id"), (&required, "ppk_required")] {
            if let Some(value) = value {
                let remedy = "write id = \"FILE\" in it; make a key with: landbridge keygen --psk FILE".to_owned();
                let problem = format!("{name} needs a table [{}.ppk]", connection.path());
                value.error(problem, Some(remedy));
                return None;
            }
        }
        return Some(Ppks::default());
    };
    let (mut keys, mut complete) = (Vec::new(), true);
    for (name, value) in table.named() {
        if name.is_empty() || name.len() > LONGEST_ID {
            value.error(format!("the id of a PPK has 1 to {LONGEST_ID} octets"), None);
            complete = false;
            continue;
        }
        match secrets::ppk(&value, table.findings().directory()) {
            Some(secret) => {
                if secret.expose().len() < SHORT {
                    value.warn("the PPK is shorter than 256 bits: a quantum computer could try them all; make one with: landbridge keygen --psk FILE");
                }
                keys.push(Ppk::fixed(name, secret));
            }
            None => complete = false,
        }
    }
    if keys.is_empty() && complete {
        let problem = format!("[{}] names no key", table.path());
        table
            .findings()
            .error(table.spot(), problem, Some("write id = \"FILE\" in it".to_owned()));
        return None;
    }
    let send = match &id {
        Some(value) => {
            let wanted = [&[2], value.string()?.as_bytes()].concat();
            if complete && !keys.iter().any(|key| key.id == wanted) {
                value.error(format!("[{}] has no key of this id", table.path()), None);
                return None;
            }
            Some(wanted)
        }
        None if keys.len() > 1 => {
            let problem = format!("[{}] has several keys", table.path());
            let remedy = "say with ppk_id which one is used when we begin; all of them are accepted".to_owned();
            table.findings().error(table.spot(), problem, Some(remedy));
            return None;
        }
        None => keys.first().map(|key| key.id.clone()),
    };
    let required = flag(connection, "ppk_required", true);
    if !required && let Some(value) = connection.get("ppk_required") {
        value.warn("a peer, or whoever can break the key exchange as it happens, may go on without the PPK");
    }
    complete.then_some(Ppks { keys, send, required })
}
