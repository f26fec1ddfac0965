//! Identities. The words are `policy::id`'s; what can't be meant is refused here.

use super::document::Value;
use super::units::is_host_name;
use landbridge_proto::wire::{IdType, Identification};

/// Reads an identity; the inner `None` is `%any`.
pub(super) fn read(value: &Value<'_, '_>) -> Option<Option<Identification>> {
    let text = value.string()?.trim();
    if matches!(text, "%any" | "any") {
        return Some(None);
    }
    match Identification::parse(text).and_then(|id| meant(text, &id).map(|()| id)) {
        Ok(id) => Some(Some(id)),
        Err(problem) => {
            value.error(problem, None);
            None
        }
    }
}

/// Refuses what parses as a name but is a slip or can't match.
fn meant(text: &str, id: &Identification) -> Result<(), String> {
    let unadorned = std::str::from_utf8(&id.data).is_ok_and(|data| data == text);
    // RFC 7296 §3.5: "The string MUST NOT contain any terminators (e.g., NULL, CR, etc.). All characters in the ID_FQDN
    // are ASCII".
    let graphic = id.data.iter().all(u8::is_ascii_graphic);
    match id.id_type {
        _ if id.data.is_empty() => Err(format!("{text:?}: the identity is empty")),
        IdType::FQDN | IdType::RFC822_ADDR if !graphic => Err(format!(
            "{text:?}: a name has no spaces, no control characters and nothing beyond ASCII"
        )),
        IdType::FQDN if unadorned && text.contains('*') => Err(format!(
            "{text:?}: patterns are not supported; name the identity, or write \"%any\""
        )),
        IdType::FQDN if unadorned && !is_host_name(text) => Err(format!(
            "{text:?} is neither an address nor a name; if it is meant as it stands, write \"fqdn:{text}\""
        )),
        _ => Ok(()),
    }
}
