//! A message in one line, for the log.

use super::chain::payload_type;
use super::header::Header;
use super::payload::Payload;

/// One line for the log, in the RFC's words: `CREATE_CHILD_SA request 3 [N(REKEY_SA) SA No KE TSi TSr]`. Sizes and
/// names only, never contents.
#[must_use]
pub fn summarize(header: &Header, payloads: &[Payload]) -> String {
    let direction = if header.flags.response { "response" } else { "request" };
    let list: Vec<String> = payloads.iter().map(word).collect();
    format!(
        "{} {direction} {} [{}]",
        header.exchange,
        header.message_id,
        list.join(" ")
    )
}

fn word(payload: &Payload) -> String {
    match payload {
        Payload::Sa(_) => "SA".to_owned(),
        Payload::Ke(_) => "KE".to_owned(),
        Payload::IdI(_) => "IDi".to_owned(),
        Payload::IdR(_) => "IDr".to_owned(),
        Payload::Nonce(_) => "No".to_owned(),
        Payload::Notify(notify) => format!("N({})", notify.notify_type),
        Payload::Delete(_) => "D".to_owned(),
        Payload::VendorId(_) => "V".to_owned(),
        Payload::TsI(_) => "TSi".to_owned(),
        Payload::TsR(_) => "TSr".to_owned(),
        Payload::PuzzleSolution(_) => "PS".to_owned(),
        Payload::Unknown { payload_type, .. } => format!("?{}", payload_type.0),
        Payload::Cert(_) | Payload::CertReq(_) | Payload::Auth(_) | Payload::Cp(_) => payload_type(payload).to_string(),
    }
}
