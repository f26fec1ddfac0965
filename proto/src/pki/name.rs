//! Distinguished names (RFC 5280 §4.1.2.4, §7.1): `C=CH, O=Example, CN=gw.example.com`, in the order of the certificate.

use std::fmt::Write as _;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{Any, BmpString, ObjectIdentifier, SetOfVec};
use x509_cert::der::{Decode, Encode, Tag, Tagged};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};

/// Attributes with their words, and the string type they are written in.
const ATTRIBUTES: [(&str, ObjectIdentifier, Tag); 14] = [
    ("CN", ObjectIdentifier::new_unwrap("2.5.4.3"), Tag::Utf8String),
    ("C", ObjectIdentifier::new_unwrap("2.5.4.6"), Tag::PrintableString),
    ("L", ObjectIdentifier::new_unwrap("2.5.4.7"), Tag::Utf8String),
    ("ST", ObjectIdentifier::new_unwrap("2.5.4.8"), Tag::Utf8String),
    ("STREET", ObjectIdentifier::new_unwrap("2.5.4.9"), Tag::Utf8String),
    ("O", ObjectIdentifier::new_unwrap("2.5.4.10"), Tag::Utf8String),
    ("OU", ObjectIdentifier::new_unwrap("2.5.4.11"), Tag::Utf8String),
    ("SN", ObjectIdentifier::new_unwrap("2.5.4.4"), Tag::Utf8String),
    ("GN", ObjectIdentifier::new_unwrap("2.5.4.42"), Tag::Utf8String),
    (
        "serialNumber",
        ObjectIdentifier::new_unwrap("2.5.4.5"),
        Tag::PrintableString,
    ),
    (
        "DC",
        ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.25"),
        Tag::Ia5String,
    ),
    (
        "UID",
        ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.1"),
        Tag::Utf8String,
    ),
    (
        "E",
        ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1"),
        Tag::Ia5String,
    ),
    (
        "emailAddress",
        ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1"),
        Tag::Ia5String,
    ),
];

/// Longest name in words, for the log.
const LONGEST: usize = 512;

/// The DER of a name in words: `C=CH, O=Example, CN=gw`. A backslash takes a comma, a plus or an equals sign literally.
///
/// # Errors
/// What is wrong, in words.
pub fn parse(text: &str) -> Result<Vec<u8>, String> {
    let mut rdns = Vec::new();
    for part in split(text, ',') {
        let part = part.trim();
        let attributes = split(part, '+')
            .into_iter()
            .map(|attribute| parse_attribute(attribute.trim(), text))
            .collect::<Result<Vec<_>, _>>()?;
        let twice =
            |(index, one): (usize, &AttributeTypeAndValue)| attributes[..index].iter().any(|a| a.oid == one.oid);
        if attributes.iter().enumerate().any(twice) {
            return Err(format!("{text:?}: {part:?} names an attribute twice"));
        }
        let set = SetOfVec::try_from(attributes).map_err(|_| format!("{text:?}: {part:?} names an attribute twice"))?;
        rdns.push(RelativeDistinguishedName::from(set));
    }
    RdnSequence::from(rdns)
        .to_der()
        .map_err(|_| format!("{text:?} is no distinguished name"))
}

fn parse_attribute(attribute: &str, whole: &str) -> Result<AttributeTypeAndValue, String> {
    let Some((word, value)) = attribute.split_once('=') else {
        return Err(format!("{whole:?}: {attribute:?} is not of the form CN=name"));
    };
    let (word, value) = (word.trim(), unescape(value.trim()));
    let known = ATTRIBUTES.iter().find(|(name, ..)| name.eq_ignore_ascii_case(word));
    let (oid, tag) = match known {
        Some((_, oid, tag)) => (*oid, *tag),
        None => (
            ObjectIdentifier::new(word).map_err(|_| {
                let words: Vec<&str> = ATTRIBUTES.iter().map(|(name, ..)| *name).collect();
                format!(
                    "{whole:?}: {word:?} is not known; known are {} and dotted numbers",
                    words.join(", ")
                )
            })?,
            Tag::Utf8String,
        ),
    };
    let value = Any::new(tag, value.as_bytes()).map_err(|_| format!("{whole:?}: the value of {word} is too long"))?;
    Ok(AttributeTypeAndValue { oid, value })
}

/// At each separator that no backslash stands before.
fn split(text: &str, separator: char) -> Vec<&str> {
    let mut escaped = false;
    text.split(|c| {
        let at = c == separator && !escaped;
        escaped = c == '\\' && !escaped;
        at
    })
    .collect()
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        out.extend(if c == '\\' { characters.next() } else { Some(c) });
    }
    out
}

/// A name in words, cut and escaped: it may be the peer's. `None` if the octets are no name.
#[must_use]
pub fn to_words(der: &[u8]) -> Option<String> {
    let name = Name::from_der(der).ok()?;
    let mut out = String::new();
    for rdn in name.iter_rdn() {
        for (index, attribute) in rdn.iter().enumerate() {
            out.push_str(match (out.is_empty(), index) {
                (true, _) => "",
                (false, 0) => ", ",
                (false, _) => "+",
            });
            let known = ATTRIBUTES.iter().find(|(_, oid, _)| *oid == attribute.oid);
            match known {
                Some((word, ..)) => out.push_str(word),
                None => drop(write!(out, "{}", attribute.oid)),
            }
            out.push('=');
            match string(&attribute.value) {
                Some(text) => {
                    for c in text.chars() {
                        match c {
                            ',' | '+' | '\\' => out.extend(['\\', c]),
                            c if c.is_control() => drop(write!(out, "{}", c.escape_default())),
                            c => out.push(c),
                        }
                    }
                }
                None => out.push('?'),
            }
            if out.len() > LONGEST {
                let end = (0..=LONGEST).rev().find(|at| out.is_char_boundary(*at)).unwrap_or(0);
                out.truncate(end);
                out.push_str("...");
                return Some(out);
            }
        }
    }
    Some(out)
}

/// Whether two names are the same: RFC 5280 §7.1: attribute by attribute, without regard to case, string type and the
/// number of spaces. Names that can't be read are the same if their octets are.
#[must_use]
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a == b || matches!((normal(a), normal(b)), (Some(a), Some(b)) if a == b)
}

/// Comparable: for each RDN its attributes in order, each with its value made plain.
fn normal(der: &[u8]) -> Option<Vec<Vec<(ObjectIdentifier, Value)>>> {
    let name = Name::from_der(der).ok()?;
    let rdn = |rdn: &RelativeDistinguishedName| {
        let mut attributes: Vec<_> = rdn
            .iter()
            .map(|attribute| {
                let value = match string(&attribute.value) {
                    Some(text) => Value::Text(text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()),
                    None => Value::Octets(attribute.value.to_der().unwrap_or_default()),
                };
                (attribute.oid, value)
            })
            .collect();
        attributes.sort();
        attributes
    };
    Some(name.iter_rdn().map(rdn).collect())
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Text(String),
    Octets(Vec<u8>),
}

/// The text of a string value of the types that still are in use.
fn string(value: &Any) -> Option<String> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => {
            std::str::from_utf8(value.value()).ok().map(ToOwned::to_owned)
        }
        Tag::BmpString => BmpString::from_ucs2(value.value()).ok().map(|text| text.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip() {
        for text in [
            "C=CH, O=Example, CN=gw.example.com",
            "CN=only",
            "O=One\\, Two\\+Three, CN=back\\\\slash",
            "DC=example, DC=com, UID=7, serialNumber=12",
            "1.2.3.4=other, CN=ü",
        ] {
            assert_eq!(to_words(&parse(text).unwrap()).unwrap(), text);
        }
        assert_eq!(to_words(&parse("cn = a ,o=b+ou=c").unwrap()).unwrap(), "CN=a, O=b+OU=c");
        for wrong in ["gw", "CN=a, b", "XY=a", "", "CN=a,", "CN=a+CN=a"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn names_compare_by_rfc_5280() {
        let name = |text: &str| parse(text).unwrap();
        assert!(same(&name("O=Example  Ltd, CN=GW"), &name("o=example ltd, cn=gw")));
        // Another string type: C is a PrintableString here, a UTF8String by its number.
        assert!(same(&name("C=CH"), &name("2.5.4.6=ch")));
        assert!(same(&name("O=a+OU=b"), &name("OU=B+O=A")));
        for (a, b) in [
            ("CN=a, O=b", "O=b, CN=a"),
            ("CN=a", "CN=a, CN=a"),
            ("CN=a", "OU=a"),
            ("CN=a b", "CN=ab"),
            ("O=a, OU=b", "O=a+OU=b"),
        ] {
            assert!(!same(&name(a), &name(b)), "{a} and {b}");
        }
        assert!(!same(&name("CN=a"), b"") && !same(b"\x30", b"\x31") && same(b"x", b"x"));
    }

    #[test]
    fn a_hostile_name_is_escaped_and_cut() {
        let long = parse(&format!("CN={}", "\u{1b}[31m\n".repeat(200))).unwrap();
        let words = to_words(&long).unwrap();
        assert!(words.len() < 600 && words.chars().all(|c| !c.is_control()), "{words}");
        for cut in 0..long.len() {
            let _ = to_words(&long[..cut]);
            assert!(!same(&long[..cut], &long));
        }
    }
}
