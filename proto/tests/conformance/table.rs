//! Rows, and how they are held against the source tree.

use std::path::Path;

/// How much is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// MUST, MUST NOT.
    Must,
    /// SHOULD, SHOULD NOT, RECOMMENDED.
    Should,
    /// No keyword: practice, or what follows from the text. The quotation is then what it follows from, or a reason.
    Practice,
}

/// What shows it.
pub enum Proof {
    /// A test of this binary: name and function, so that one that is missing does not compile.
    Here(&'static str, fn()),
    /// A test elsewhere: a file or folder of the repository, and its name.
    There(&'static str, &'static str),
    /// Nothing, and why.
    Out(&'static str),
}

/// An item.
pub struct Row {
    pub id: &'static str,
    /// RFC and section of the quotation.
    pub clause: &'static str,
    pub level: Level,
    /// In short words.
    pub requirement: &'static str,
    /// The RFC's.
    pub quote: &'static str,
    pub positive: Proof,
    pub negative: Proof,
}

pub fn row(
    (id, clause, level): (&'static str, &'static str, Level),
    requirement: &'static str,
    quote: &'static str,
    positive: Proof,
    negative: Proof,
) -> Row {
    Row {
        id,
        clause,
        level,
        requirement,
        quote,
        positive,
        negative,
    }
}

pub const fn there(file: &'static str, name: &'static str) -> Proof {
    Proof::There(file, name)
}

/// Left out, or there is nothing to try.
pub const fn out(reason: &'static str) -> Proof {
    Proof::Out(reason)
}

/// The test of this file that proves it.
macro_rules! here {
    ($name:ident) => {
        crate::table::Proof::Here(stringify!($name), $name)
    };
}
pub(crate) use here;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn texts(path: &Path, out: &mut Vec<String>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            texts(&entry.unwrap().path(), out);
        }
    } else if path.extension().is_some_and(|ext| ext == "rs") {
        out.push(std::fs::read_to_string(path).unwrap());
    }
}

/// Whether a file, or one of a folder, holds a test of this name.
pub fn assert_is_a_test(file: &str, name: &str) {
    let mut all = Vec::new();
    texts(&root().join(file), &mut all);
    assert!(!all.is_empty(), "{file} is not there");
    let head = format!("fn {name}(");
    let found = all.iter().any(|text| {
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().enumerate().any(|(at, line)| {
            line.trim_start().starts_with(&head) && attributes(&lines[..at]).any(|line| line.starts_with("#[test]"))
        })
    });
    assert!(found, "{file} has no test {name}");
    let ignored = all.iter().any(|text| {
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().enumerate().any(|(at, line)| {
            line.trim_start().starts_with(&head)
                && attributes(&lines[..at]).any(|line| line.trim_start_matches("#[").starts_with("ignore"))
        })
    });
    assert!(!ignored, "{file}: {name} is switched off");
}

/// Attributes and comments right above a function, upwards.
fn attributes<'a>(above: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    above
        .iter()
        .rev()
        .map(|line| line.trim())
        .take_while(|line| line.starts_with("#[") || line.starts_with("//"))
}

/// Whether the quotation (parts joined by "...") stands in its RFC.
pub fn is_quoted(folder: &Path, row: &Row) -> bool {
    let number: String = row
        .clause
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    let text = std::fs::read_to_string(folder.join(format!("rfc{number}.txt"))).unwrap_or_default();
    // Page breaks: a footer, a form feed, a header.
    let kept = text.lines().filter(|line| {
        let footer = line.ends_with(']') && line.contains("[Page ");
        let header = line.trim_start_matches('\u{c}').starts_with("RFC ") && line.contains("    ");
        !(footer || header)
    });
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = flat(&kept.collect::<Vec<_>>().join("\n"));
    let mut rest = text.as_str();
    row.quote.split(" ... ").all(|part| match rest.find(&flat(part)) {
        Some(at) => {
            rest = &rest[at..];
            true
        }
        None => false,
    })
}

/// The rows about certificates, whose tests stand elsewhere.
pub mod certificates {
    use super::Level::{Must, Should};
    use super::{Row, row, there};

    const PKI: &str = "proto/tests/pki.rs";

    pub fn g7() -> Row {
        row(
            ("G7", "RFC 7296 §1.2", Must),
            "the first CERT holds the key that verifies AUTH",
            "If any CERT payloads are included, the first certificate provided MUST contain the public key used to verify the \
             AUTH field.",
            there(PKI, "chains_of_every_kind_of_key_are_good_in_any_order"),
            there(PKI, "the_signature_must_be_of_the_certificates_own_key"),
        )
    }

    pub fn g8() -> Row {
        row(
            ("G8", "RFC 7296 §3.7", Should),
            "CERTREQ lists trusted authorities; one that matches nothing is not fatal",
            "If an end-entity certificate exists that satisfies the criteria specified in the CERTREQ, a certificate or \
             certificate chain SHOULD be sent back to the certificate requestor",
            there(PKI, "the_certificate_fits_the_request_if_any_does"),
            there(PKI, "requests_name_the_keys_of_our_cas"),
        )
    }

    pub fn g11() -> Row {
        row(
            ("G11", "RFC 5280 §4.2", Must),
            "a path is validated: times, CA flag, key usage, revocation",
            "A certificate-using system MUST reject the certificate if it encounters a critical extension it does not \
             recognize or a critical extension that contains information that it cannot process.",
            there(PKI, "chains_of_every_kind_of_key_are_good_in_any_order"),
            there(PKI, "what_must_be_refused_is"),
        )
    }
}
