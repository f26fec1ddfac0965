//! Lists of proposals. The words are `policy::proposal`'s.

use super::document::{Table, Value, nearest};
use super::profiles::Profile;
use landbridge_proto::crypto::Encryption;
use landbridge_proto::policy::proposal::{EspProposal, IkeProposal, ProposalSyntaxError};
use landbridge_proto::wire::limits;

/// `pq` of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PostQuantum {
    /// Where the peer can.
    Prefer,
    /// Nothing else.
    Require,
    /// Not unless `proposals` says so.
    Off,
}

fn post_quantum(table: &Table<'_, '_>) -> PostQuantum {
    let Some(value) = table.get("pq") else {
        return PostQuantum::Prefer;
    };
    match value.string() {
        Some("prefer") | None => PostQuantum::Prefer,
        Some("require") => PostQuantum::Require,
        Some("off") => PostQuantum::Off,
        Some(other) => {
            let words = ["prefer", "require", "off"];
            let remedy = nearest(other, words).map(|word| format!("did you mean {word:?}?"));
            value.error(format!("{other:?} is not \"prefer\", \"require\" or \"off\""), remedy);
            PostQuantum::Prefer
        }
    }
}

fn is_post_quantum(proposal: &IkeProposal) -> bool {
    proposal.additional.are_post_quantum() || proposal.groups.iter().all(|group| group.is_post_quantum())
}

/// `proposals` of a connection, as `pq` lets them be; without it, the profile's, or the defaults.
pub(super) fn ike(table: &Table<'_, '_>, profile: Option<&Profile>) -> Option<Vec<IkeProposal>> {
    let wish = post_quantum(table);
    let defaults = || {
        let all = IkeProposal::defaults();
        match wish {
            PostQuantum::Prefer => all,
            PostQuantum::Require => all.into_iter().filter(is_post_quantum).collect(),
            PostQuantum::Off => IkeProposal::without_additional(&all),
        }
    };
    let examine = |value: &Value<'_, '_>, proposal: &IkeProposal| {
        examine_ike(value, proposal);
        if wish == PostQuantum::Require && !is_post_quantum(proposal) {
            let remedy = "add -ke1_mlkem768 to it, or set pq = \"prefer\"".to_owned();
            value.error(
                format!("pq = \"require\", and {proposal} is not post-quantum"),
                Some(remedy),
            );
        }
    };
    match (table.get("proposals"), profile) {
        (Some(value), _) => list(&value, IkeProposal::parse, defaults, examine),
        (None, Some(profile)) if wish == PostQuantum::Require => {
            let problem = format!(
                "pq = \"require\", and profile {:?} has nothing post-quantum",
                profile.name
            );
            table
                .findings()
                .error(table.spot(), problem, Some("remove pq".to_owned()));
            None
        }
        (None, Some(profile)) => from_profile(table, profile, profile.values.proposals, IkeProposal::parse),
        (None, None) => Some(defaults()),
    }
}

/// `esp_proposals` of a child; without it, the profile's, or the defaults.
pub(super) fn esp(table: &Table<'_, '_>, profile: Option<&Profile>) -> Option<Vec<EspProposal>> {
    match (table.get("esp_proposals"), profile) {
        (Some(value), _) => list(&value, EspProposal::parse, EspProposal::defaults, examine),
        (None, Some(profile)) => from_profile(table, profile, profile.values.esp_proposals, EspProposal::parse),
        (None, None) => Some(EspProposal::defaults()),
    }
}

fn from_profile<P>(
    table: &Table<'_, '_>,
    profile: &Profile,
    words: &[&str],
    parse: impl Fn(&str) -> Result<P, ProposalSyntaxError>,
) -> Option<Vec<P>> {
    let parsed: Result<Vec<P>, _> = words.iter().map(|text| parse(text)).collect();
    match parsed {
        Ok(list) => Some(list),
        Err(error) => {
            let problem = format!("profile {:?}: {error}", profile.name);
            table.findings().error(table.spot(), problem, None);
            None
        }
    }
}

/// A weak algorithm is taken, because the operator named it; the operator is told.
fn weak(value: &Value<'_, '_>, proposal: &str, weaknesses: &[String]) {
    for weakness in weaknesses {
        value.warn(format!("{proposal} is weak: {weakness}"));
    }
}

fn examine_ike(value: &Value<'_, '_>, proposal: &IkeProposal) {
    weak(value, &proposal.to_string(), &proposal.weaknesses());
}

fn examine(value: &Value<'_, '_>, proposal: &EspProposal) {
    weak(value, &proposal.to_string(), &proposal.weaknesses());
    if proposal.groups.is_empty() {
        value.warn(format!(
            "{proposal} has no key exchange: rekeys have no perfect forward secrecy; add for example -x25519 at both ends"
        ));
    }
    if proposal.encryption.contains(&Encryption::Null) {
        value.warn(format!("{proposal} does not encrypt: packets can be read on the way"));
    }
}

fn list<P>(
    value: &Value<'_, '_>,
    parse: impl Fn(&str) -> Result<P, ProposalSyntaxError>,
    defaults: impl Fn() -> Vec<P>,
    examine: impl Fn(&Value<'_, '_>, &P),
) -> Option<Vec<P>> {
    let items = value.strings()?;
    if items.is_empty() {
        value.error("it is empty", Some("leave it out to get the defaults".to_owned()));
        return None;
    }
    let (mut found, mut complete) = (Vec::new(), true);
    for (text, item) in items {
        if text == "default" {
            found.extend(defaults());
            continue;
        }
        match parse(text) {
            Ok(proposal) => {
                examine(&item, &proposal);
                found.push(proposal);
            }
            Err(error) => {
                item.error(error.to_string(), None);
                complete = false;
            }
        }
    }
    if found.len() > limits::PROPOSALS {
        value.error(
            format!("{} proposals; a message holds {}", found.len(), limits::PROPOSALS),
            None,
        );
        return None;
    }
    complete.then_some(found)
}
