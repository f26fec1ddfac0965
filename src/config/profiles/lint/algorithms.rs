//! Algorithms: what the other end has, at setup and at each rekey.

use super::*;

/// The groups that are worth recommending.
const STRONG: [&str; 9] = [
    "x25519", "ecp256", "ecp384", "ecp521", "modp2048", "modp3072", "modp4096", "modp6144", "modp8192",
];

/// IKE_SA_INIT, and each rekey of the IKE SA, which negotiates the same.
pub(super) fn ike(desk: &Desk<'_, '_>, connection: &Connection) {
    let (accepts, profile) = (desk.accepts(), desk.profile);
    let rows = accepts.ike;
    let mut agreed = false;
    for proposal in &connection.ike_proposals {
        let all = combinations(&proposal.encryption, &proposal.integrity);
        let agrees = rows.iter().any(|row| {
            all.iter()
                .any(|(encryption, integrity)| fits(row.encryption, row.integrity, encryption, integrity))
                && any(&proposal.prf, row.prf)
                && any(&proposal.groups, row.groups)
        });
        agreed |= agrees;
        let missing = missing_of_ike(proposal, accepts);
        if !missing.is_empty() {
            desk.warn(
                "proposals",
                format!(
                    "{proposal}: {} does not have {}; take it out here ({} is what the profile takes)",
                    profile.gateway,
                    missing.join(", "),
                    profile.values.proposals.join(", ")
                ),
            );
        }
    }
    if !agreed {
        desk.warn(
            "proposals",
            format!(
                "none of them is accepted by {}: IKE_SA_INIT will end with NO_PROPOSAL_CHOSEN; write {} here and set the same in {}",
                profile.gateway,
                profile.values.proposals.join(", "),
                profile.settings
            ),
        );
    }
    let alternatives: usize = connection.ike_proposals.iter().map(ways_of_ike).sum();
    if alternatives > 1 {
        desk.warn("proposals", one_only(profile, alternatives, profile.values.proposals));
    }
    let hard = connection.ike_rekey_time.map(|time| time * 11 / 10);
    lifetime(
        desk,
        "rekey_time",
        connection.ike_rekey_time,
        hard,
        accepts.ike_lifetime,
    );
}

/// What is offered beyond one combination.
fn one_only(profile: &Profile, alternatives: usize, recommended: &[&str]) -> String {
    format!(
        "{alternatives} combinations are offered, and {} chooses by its own order, not by ours; offer exactly one ({}) and set \
         the same in {}",
        profile.gateway,
        recommended.join(", "),
        profile.settings
    )
}

/// A Child SA: its first pair (without a key exchange), each rekey by us, each rekey by the other end.
pub(super) fn child(desk: &Desk<'_, '_>, child: &Child) {
    let (accepts, profile) = (desk.accepts(), desk.profile);
    let mut any_setup = false;
    let mut any_rekey = (false, false);
    for proposal in &child.esp_proposals {
        let rows: Vec<(&EspRow, String)> = matching_rows(proposal, accepts.esp);
        if rows.is_empty() {
            let list = proposal.encryption.iter().map(ToString::to_string);
            let list: Vec<String> = list.chain(proposal.integrity.iter().map(ToString::to_string)).collect();
            desk.warn(
                "esp_proposals",
                format!(
                    "{proposal}: {} does not have {}; take it out here ({} is what the profile takes)",
                    profile.gateway,
                    list.join("-"),
                    profile.values.esp_proposals.join(", ")
                ),
            );
            continue;
        }
        any_setup = true;
        let groups: Vec<String> = if proposal.groups.is_empty() {
            vec![NO_PFS.to_owned()]
        } else {
            proposal.groups.iter().map(ToString::to_string).collect()
        };
        let accepted = |groups_of: fn(&EspRow) -> &'static [&'static str]| {
            let rows = rows.iter();
            rows.flat_map(|(row, _)| groups_of(row))
                .any(|group| groups.iter().any(|ours| ours == group))
        };
        any_rekey.0 |= accepted(|row| row.groups);
        any_rekey.1 |= accepted(|row| row.groups_of_its_own);
        sequence_numbers(desk, proposal);
    }
    if !any_setup {
        desk.warn(
            "esp_proposals",
            format!(
                "at setup: none of them is accepted by {}: the Child SA will be refused with NO_PROPOSAL_CHOSEN; write {} here and set \
                 the same in {}",
                profile.gateway,
                profile.values.esp_proposals.join(", "),
                profile.settings
            ),
        );
    } else {
        rekeys(desk, child, any_rekey);
    }
    if child.mode == Mode::Transport {
        desk.warn(
            "mode",
            format!(
                "{} is a gateway: it has tunnel mode only; leave mode out here",
                profile.gateway
            ),
        );
    }
    let alternatives: usize = child.esp_proposals.iter().map(ways_of_esp).sum();
    if alternatives > 1 {
        desk.warn(
            "esp_proposals",
            one_only(profile, alternatives, profile.values.esp_proposals),
        );
    }
    limits(desk, child);
}

/// The first pair of a Child SA carries no key exchange, so what is wrong here shows at the first rekey.
fn rekeys(desk: &Desk<'_, '_>, child: &Child, (ours, theirs): (bool, bool)) {
    if ours && theirs {
        return;
    }
    let profile = desk.profile;
    let when = child.rekey_time.map_or("whenever it comes".to_owned(), |time| {
        format!("after {}", humantime::format_duration(time))
    });
    let groups: Vec<&str> = {
        let rows = matching_all(&child.esp_proposals, desk.accepts().esp);
        let mut list: Vec<&str> = rows.iter().flat_map(|row| row.groups.iter().copied()).collect();
        list.sort_unstable();
        list.dedup();
        list
    };
    let without = groups.contains(&NO_PFS);
    let named: Vec<&str> = groups.into_iter().filter(|group| STRONG.contains(group)).collect();
    let wanted = match (without, named.is_empty()) {
        (true, true) => {
            "no key exchange at all with these algorithms: take the group out of esp_proposals here".to_owned()
        }
        (true, false) => format!("one of {} or none: change esp_proposals here", named.join(", ")),
        (false, _) => format!("one of {}: add one to esp_proposals here", named.join(", ")),
    };
    let words: Vec<String> = child.esp_proposals.iter().map(ToString::to_string).collect();
    let words = words.join(", ");
    if !ours {
        desk.warn(
            "esp_proposals",
            format!(
                "{words}: it will come up, since the first Child SA carries no key exchange, and the rekey ({when}) will be refused: \
                 {} takes {wanted}; or set the group in {}",
                profile.gateway, profile.settings
            ),
        );
    } else {
        desk.warn(
            "esp_proposals",
            format!(
                "{words}: rekeys that we begin work, those that {} begins come without a key exchange and will be refused by us; \
                 take the group out of esp_proposals here, or change {}",
                profile.gateway, profile.settings
            ),
        );
    }
}

fn sequence_numbers(desk: &Desk<'_, '_>, proposal: &EspProposal) {
    if !desk.accepts().esn && proposal.esn.contains(&true) {
        let end = if proposal.esn.contains(&false) {
            "take esn out here"
        } else {
            "without noesn nothing will be agreed; take esn out here"
        };
        desk.warn(
            "esp_proposals",
            format!(
                "{proposal}: {} has no extended sequence numbers; {end}",
                desk.profile.gateway
            ),
        );
    }
}

/// The words of an IKE proposal that no row has.
fn missing_of_ike(proposal: &IkeProposal, accepts: &Accepts) -> Vec<String> {
    let rows = accepts.ike;
    let has = |word: &str, of: fn(&IkeRow) -> &'static [&'static str]| rows.iter().any(|row| of(row).contains(&word));
    let mut missing = Vec::new();
    let mut look = |words: Vec<String>, of: fn(&IkeRow) -> &'static [&'static str]| {
        missing.extend(words.into_iter().filter(|word| !has(word, of)));
    };
    look(words(&proposal.encryption), |row| row.encryption);
    look(words(&proposal.integrity), |row| row.integrity);
    look(words(&proposal.prf), |row| row.prf);
    look(words(&proposal.groups), |row| row.groups);
    missing
}

/// The rows that the proposal's encryption and integrity are in, each with the combination.
fn matching_rows(proposal: &EspProposal, rows: &'static [EspRow]) -> Vec<(&'static EspRow, String)> {
    let all = combinations(&proposal.encryption, &proposal.integrity);
    let mut found = Vec::new();
    for (encryption, integrity) in all {
        for row in rows {
            if fits(row.encryption, row.integrity, &encryption, &integrity) {
                found.push((row, encryption.clone()));
            }
        }
    }
    found
}

fn matching_all(proposals: &[EspProposal], rows: &'static [EspRow]) -> Vec<&'static EspRow> {
    let rows = proposals.iter().flat_map(|proposal| matching_rows(proposal, rows));
    rows.map(|(row, _)| row).collect()
}

/// Encryption with integrity, in words; an AEAD with none.
fn combinations(encryption: &[Encryption], integrity: &[impl ToString]) -> Vec<(String, Option<String>)> {
    let mut list = Vec::new();
    for encryption in encryption {
        if encryption.is_aead() {
            list.push((encryption.to_string(), None));
        } else {
            list.extend(integrity.iter().map(|i| (encryption.to_string(), Some(i.to_string()))));
        }
    }
    list
}

fn fits(encryptions: &[&str], integrities: &[&str], encryption: &str, integrity: &Option<String>) -> bool {
    let integrity = match integrity {
        Some(word) => integrities.contains(&word.as_str()),
        None => integrities.is_empty(),
    };
    integrity && encryptions.contains(&encryption)
}

fn any(ours: &[impl ToString], theirs: &[&str]) -> bool {
    ours.iter().any(|word| theirs.contains(&word.to_string().as_str()))
}

fn words(list: &[impl ToString]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn ways_of_ike(proposal: &IkeProposal) -> usize {
    let ciphers = combinations(&proposal.encryption, &proposal.integrity).len();
    ciphers * proposal.prf.len() * proposal.groups.len()
}

fn ways_of_esp(proposal: &EspProposal) -> usize {
    let ciphers = combinations(&proposal.encryption, &proposal.integrity).len();
    ciphers * proposal.groups.len().max(1) * proposal.esn.len().max(1)
}
