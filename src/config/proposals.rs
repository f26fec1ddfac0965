//! Lists of proposals. The words are `policy::proposal`'s.

use super::document::{Table, Value};
use super::profiles::Profile;
use landbridge_proto::crypto::Encryption;
use landbridge_proto::policy::proposal::{EspProposal, IkeProposal, ProposalSyntaxError};
use landbridge_proto::wire::limits;

/// `proposals` of a connection; without it, the profile's, or the defaults.
pub(super) fn ike(table: &Table<'_, '_>, profile: Option<&Profile>) -> Option<Vec<IkeProposal>> {
    match (table.get("proposals"), profile) {
        (Some(value), _) => list(&value, IkeProposal::parse, IkeProposal::defaults, examine_ike),
        (None, Some(profile)) => from_profile(table, profile, profile.values.proposals, IkeProposal::parse),
        (None, None) => Some(IkeProposal::defaults()),
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
