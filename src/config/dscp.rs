//! `dscp`: which DSCP the outer header has (RFC 4301 §5.1.2.1).

use super::document::{Value, nearest};
use landbridge_proto::ip::tunnel::OuterDscp;

/// The names of RFC 2474, 2597, 3246, 5865 and 8622.
const NAMES: [(&str, u8); 24] = [
    ("cs0", 0),
    ("cs1", 8),
    ("cs2", 16),
    ("cs3", 24),
    ("cs4", 32),
    ("cs5", 40),
    ("cs6", 48),
    ("cs7", 56),
    ("af11", 10),
    ("af12", 12),
    ("af13", 14),
    ("af21", 18),
    ("af22", 20),
    ("af23", 22),
    ("af31", 26),
    ("af32", 28),
    ("af33", 30),
    ("af41", 34),
    ("af42", 36),
    ("af43", 38),
    ("ef", 46),
    ("voice-admit", 44),
    ("le", 1),
    ("be", 0),
];

/// Reads `"copy"`, one value for all, or a list of `"inner=outer"`.
pub(super) fn read(value: &Value<'_, '_>) -> Option<OuterDscp> {
    if value.is_integer() {
        return value.integer(0..=63).map(|dscp| OuterDscp::all(dscp as u8));
    }
    if value.is_string() {
        return match value.string()? {
            "copy" => Some(OuterDscp::default()),
            word => dscp(word, value).map(OuterDscp::all),
        };
    }
    let mut map = OuterDscp::default();
    for (text, element) in value.strings()? {
        let Some((inner, outer)) = text.split_once('=') else {
            let remedy = "write for example dscp = [\"ef=cs5\", \"cs6=cs0\"]".to_owned();
            element.error(format!("{text:?} is not of the form inner=outer"), Some(remedy));
            return None;
        };
        map.set(dscp(inner.trim(), &element)?, dscp(outer.trim(), &element)?);
    }
    Some(map)
}

fn dscp(word: &str, value: &Value<'_, '_>) -> Option<u8> {
    let named = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    let number = || word.parse().ok().filter(|number| *number < 64);
    let found = named.map(|(_, number)| *number).or_else(number);
    if found.is_none() {
        let near = nearest(word, NAMES.iter().map(|(name, _)| *name)).map(|name| format!("did you mean {name:?}?"));
        let remedy = near.or_else(|| Some("a name such as \"ef\", or a number from 0 to 63".to_owned()));
        value.error(format!("{word:?} is no DSCP"), remedy);
    }
    found
}
