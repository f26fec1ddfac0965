//! Offering, choosing and checking proposals (RFC 7296 §2.7, §3.3.6).

use super::additional::{AdditionalExchanges, is_additional};
use super::convert::{self, describe};
use super::{Chosen, EspProposal, EspSuite, IkeProposal, IkeSuite, NoCommonProposal};
use crate::crypto::{CipherSuite, Encryption, Group, Integrity, PrfAlgorithm};
use crate::wire::{IntegId, Proposal, ProtocolId, SecurityAssociation, Transform, TransformType, limits};

/// Octets of an ESP SPI.
const ESP_SPI: usize = 4;

impl IkeProposal {
    /// An SA payload that offers these, numbered 1, 2, 3, ... (§3.3.1). `spi` is empty in IKE_SA_INIT and our new SPI in
    /// a rekey.
    #[must_use]
    pub fn to_wire(list: &[Self], spi: &[u8]) -> SecurityAssociation {
        let proposals = list.iter().map(|own| {
            let mut transforms: Vec<Transform> =
                own.encryption.iter().filter_map(|a| convert::encryption(*a)).collect();
            transforms.extend(own.prf.iter().filter_map(|a| convert::prf(*a)));
            transforms.extend(own.integrity.iter().filter_map(|a| convert::integrity(*a)));
            transforms.extend(own.groups.iter().filter_map(|a| convert::group(*a)));
            transforms.extend(own.additional.transforms());
            (ProtocolId::IKE, transforms)
        });
        offer(proposals, spi)
    }

    /// As responder: picks exactly one proposal and one transform of each type, by our order. Where the peer's KE payload
    /// is of a group that our proposal has too, that group is taken, which saves a round trip.
    ///
    /// # Errors
    /// [`NoCommonProposal`], explained.
    pub fn choose(
        ours: &[Self],
        offer: &SecurityAssociation,
        spi_len: usize,
        ke_group: Option<Group>,
    ) -> Result<Chosen<IkeSuite>, NoCommonProposal> {
        Self::choose_if(ours, offer, spi_len, ke_group, |_| true)
    }

    /// The same for a peer that does not announce IKE_INTERMEDIATE: then "the peers MUST treat any ADDKE Transform Types
    /// in the IKE_SA_INIT exchange messages as unknown transform types and skip the proposals they appear in" (RFC 9370
    /// §2.2.1).
    ///
    /// # Errors
    /// [`NoCommonProposal`], explained.
    pub fn choose_without_additional(
        ours: &[Self],
        offer: &SecurityAssociation,
        spi_len: usize,
        ke_group: Option<Group>,
    ) -> Result<Chosen<IkeSuite>, NoCommonProposal> {
        Self::choose_if(ours, offer, spi_len, ke_group, |proposal| {
            !proposal.transforms.iter().any(is_additional)
        })
    }

    fn choose_if(
        ours: &[Self],
        offer: &SecurityAssociation,
        spi_len: usize,
        ke_group: Option<Group>,
        usable: impl Fn(&Proposal) -> bool,
    ) -> Result<Chosen<IkeSuite>, NoCommonProposal> {
        in_order(offer)
            .then(|| {
                ours.iter().find_map(|own| {
                    let mut offered = offer.proposals.iter().filter(|proposal| usable(proposal));
                    offered.find_map(|p| own.match_one(p, spi_len, ke_group))
                })
            })
            .flatten()
            .ok_or_else(|| {
                explain(
                    offer,
                    ours.iter().map(ToString::to_string).collect(),
                    &Self::to_wire(ours, &[]),
                )
            })
    }

    /// RFC 8019 §7.1.1.2: "The Responder parses the received SA payload and finds mutually supported transforms of type PRF. The
    /// Responder selects the preferred PRF from the list of mutually supported ones".
    #[must_use]
    pub fn common_prf<'a>(
        ours: impl IntoIterator<Item = &'a Self>,
        offer: &SecurityAssociation,
    ) -> Option<PrfAlgorithm> {
        let offered: Vec<PrfAlgorithm> = offer
            .proposals
            .iter()
            .flat_map(|proposal| &proposal.transforms)
            .filter(|transform| transform.transform_type == TransformType::PRF)
            .filter_map(convert::to_prf)
            .collect();
        let mut ours = ours.into_iter().flat_map(|proposal| &proposal.prf);
        ours.find(|prf| offered.contains(prf)).copied()
    }

    /// As initiator: the answer must be one of our proposals, narrowed to one transform of each type (§3.3.6).
    ///
    /// # Errors
    /// [`NoCommonProposal`]: the peer chose what was not offered.
    pub fn verify_answer(
        ours: &[Self],
        answer: &SecurityAssociation,
        spi_len: usize,
    ) -> Result<Chosen<IkeSuite>, NoCommonProposal> {
        single_answer(answer, &Self::to_wire(ours, &[]))
            .and_then(|(index, proposal)| ours[index].match_one(proposal, spi_len, None))
            .ok_or_else(|| {
                explain(
                    answer,
                    ours.iter().map(ToString::to_string).collect(),
                    &Self::to_wire(ours, &[]),
                )
            })
    }

    /// Whether it allows a suite that was negotiated under another proposal.
    #[must_use]
    pub fn allows(&self, suite: IkeSuite) -> bool {
        self.encryption.contains(&suite.cipher.encryption)
            && suite
                .cipher
                .integrity
                .is_none_or(|integrity| self.integrity.contains(&integrity))
            && self.prf.contains(&suite.prf)
            && self.groups.contains(&suite.group)
            && self.additional.allow(suite.additional)
    }

    fn match_one(&self, proposal: &Proposal, spi_len: usize, ke_group: Option<Group>) -> Option<Chosen<IkeSuite>> {
        use TransformType as T;
        let wanted = proposal.protocol == ProtocolId::IKE && proposal.spi.len() == spi_len;
        let picker = Picker::new(wanted.then_some(proposal)?, &[T::ENCR, T::PRF, T::INTEG, T::KE])?;
        let (additional, further) = self.additional.choose(&picker)?;
        let encryption = picker.pick(T::ENCR, &self.encryption, convert::to_encryption)?;
        let prf = picker.pick(T::PRF, &self.prf, convert::to_prf)?;
        let integrity = picker.pick_integrity(encryption.0, &self.integrity)?;
        let preferred = ke_group.filter(|group| self.groups.contains(group));
        let group = preferred
            .and_then(|group| picker.pick(T::KE, &[group], convert::to_group))
            .or_else(|| picker.pick(T::KE, &self.groups, convert::to_group))?;
        let suite = IkeSuite {
            cipher: CipherSuite {
                encryption: encryption.0,
                integrity: integrity.as_ref().map(|i| i.0),
            },
            prf: prf.0,
            group: group.0,
            additional,
        };
        let transforms = [
            Some(encryption.1),
            Some(prf.1),
            integrity.map(|i| i.1).or_else(|| picker.none(T::INTEG)),
            Some(group.1),
        ];
        Some(picker.chosen(suite, transforms, further))
    }
}

impl EspProposal {
    /// An SA payload that offers these. `with_groups` is false in IKE_AUTH, which has no KE payload (§1.2).
    #[must_use]
    pub fn to_wire(list: &[Self], spi: u32, with_groups: bool) -> SecurityAssociation {
        let proposals = list.iter().map(|own| {
            let mut transforms: Vec<Transform> =
                own.encryption.iter().filter_map(|a| convert::encryption(*a)).collect();
            transforms.extend(own.integrity.iter().filter_map(|a| convert::integrity(*a)));
            if with_groups {
                transforms.extend(own.groups.iter().filter_map(|a| convert::group(*a)));
                transforms.extend(own.additional.transforms());
            }
            // §3.3.3: the ESN transform is mandatory in ESP.
            transforms.extend(own.esn.iter().map(|e| convert::esn(*e)));
            (ProtocolId::ESP, transforms)
        });
        offer(proposals, &spi.to_be_bytes())
    }

    /// As responder: see [`IkeProposal::choose`]. Without `with_groups` (IKE_AUTH) key exchange transforms are passed over.
    ///
    /// # Errors
    /// [`NoCommonProposal`], explained.
    pub fn choose(
        ours: &[Self],
        offer: &SecurityAssociation,
        with_groups: bool,
        ke_group: Option<Group>,
    ) -> Result<Chosen<EspSuite>, NoCommonProposal> {
        in_order(offer)
            .then(|| {
                ours.iter().find_map(|own| {
                    offer
                        .proposals
                        .iter()
                        .find_map(|p| own.match_one(p, with_groups, ke_group))
                })
            })
            .flatten()
            .ok_or_else(|| {
                explain(
                    offer,
                    ours.iter().map(ToString::to_string).collect(),
                    &Self::to_wire(ours, 0, with_groups),
                )
            })
    }

    /// As initiator: see [`IkeProposal::verify_answer`].
    ///
    /// # Errors
    /// [`NoCommonProposal`]: the peer chose what was not offered.
    pub fn verify_answer(
        ours: &[Self],
        answer: &SecurityAssociation,
        with_groups: bool,
    ) -> Result<Chosen<EspSuite>, NoCommonProposal> {
        single_answer(answer, &Self::to_wire(ours, 0, with_groups))
            .and_then(|(index, proposal)| ours[index].match_one(proposal, with_groups, None))
            .ok_or_else(|| {
                explain(
                    answer,
                    ours.iter().map(ToString::to_string).collect(),
                    &Self::to_wire(ours, 0, with_groups),
                )
            })
    }

    fn match_one(&self, proposal: &Proposal, with_groups: bool, ke_group: Option<Group>) -> Option<Chosen<EspSuite>> {
        use TransformType as T;
        let wanted = proposal.protocol == ProtocolId::ESP && proposal.spi.len() == ESP_SPI;
        let picker = Picker::new(wanted.then_some(proposal)?, &[T::ENCR, T::INTEG, T::KE, T::ESN])?;
        let encryption = picker.pick(T::ENCR, &self.encryption, convert::to_encryption)?;
        let integrity = picker.pick_integrity(encryption.0, &self.integrity)?;
        let esn = picker.pick(T::ESN, &self.esn, convert::to_esn)?;
        // IKE_AUTH has no key exchange, so no additional ones either.
        let without = AdditionalExchanges::default();
        let (group, additional) = if with_groups {
            (self.pick_group(&picker, ke_group)?, &self.additional)
        } else {
            (None, &without)
        };
        let (additional, further) = additional.choose(&picker)?;
        // RFC 9370 §2.2.4: they follow "the one performed in the CREATE_CHILD_SA".
        if group.is_none() && !additional.is_empty() {
            return None;
        }
        let suite = EspSuite {
            cipher: CipherSuite {
                encryption: encryption.0,
                integrity: integrity.as_ref().map(|i| i.0),
            },
            group: group.as_ref().map(|g| g.0),
            additional,
            esn: esn.0,
        };
        let transforms = [
            Some(encryption.1),
            integrity.map(|i| i.1).or_else(|| picker.none(T::INTEG)),
            group.map(|g| g.1).or_else(|| picker.none(T::KE)),
            Some(esn.1),
        ];
        Some(picker.chosen(suite, transforms, further))
    }

    /// `Some(None)`: neither side wants PFS. A group that only one side wants is no match, but NONE may stand for none.
    #[allow(
        clippy::option_option,
        reason = "no match and a match without a group are different answers"
    )]
    fn pick_group(&self, picker: &Picker<'_>, ke_group: Option<Group>) -> Option<Option<(Group, Transform)>> {
        let preferred = ke_group.filter(|group| self.groups.contains(group));
        let picked = preferred
            .and_then(|group| picker.pick(TransformType::KE, &[group], convert::to_group))
            .or_else(|| picker.pick(TransformType::KE, &self.groups, convert::to_group));
        if picked.is_some() {
            return Some(picked);
        }
        let takes_none = picker.of(TransformType::KE).next().is_none() || picker.none(TransformType::KE).is_some();
        (self.groups.is_empty() && takes_none).then_some(None)
    }
}

fn offer(proposals: impl Iterator<Item = (ProtocolId, Vec<Transform>)>, spi: &[u8]) -> SecurityAssociation {
    let numbered = proposals.take(limits::PROPOSALS).zip(1..);
    let proposals = numbered.map(|((protocol, transforms), number)| Proposal {
        number,
        protocol,
        spi: spi.to_vec(),
        transforms,
    });
    SecurityAssociation {
        proposals: proposals.collect(),
    }
}

/// §3.3.1: "the first proposal in an SA payload MUST be 1, and subsequent proposals MUST be one more than the previous
/// proposal".
fn in_order(offer: &SecurityAssociation) -> bool {
    offer
        .proposals
        .iter()
        .zip(1..)
        .all(|(proposal, number)| proposal.number == number)
}

/// The one proposal of an answer and the index of ours that it answers. §3.3.6: one transform of each type, and each as it
/// was offered; NONE may stand for what was not (RFC 5282 §8 for integrity).
fn single_answer<'a>(answer: &'a SecurityAssociation, offer: &SecurityAssociation) -> Option<(usize, &'a Proposal)> {
    let [proposal] = answer.proposals.as_slice() else {
        return None;
    };
    let index = usize::from(proposal.number).checked_sub(1)?;
    let offered = offer.proposals.get(index)?;
    let none = |one: &Transform| {
        one.id == 0
            && matches!(one.transform_type, TransformType::INTEG | TransformType::KE)
            && !offered
                .transforms
                .iter()
                .any(|other| other.transform_type == one.transform_type)
    };
    let sound = proposal.transforms.iter().enumerate().all(|(at, one)| {
        let alone = proposal.transforms[..at]
            .iter()
            .all(|other| other.transform_type != one.transform_type);
        alone && (offered.transforms.contains(one) || none(one))
    });
    sound.then_some((index, proposal))
}

/// Picks transforms out of one offered proposal.
pub(super) struct Picker<'a> {
    proposal: &'a Proposal,
}

impl<'a> Picker<'a> {
    /// §3.3.6: a proposal with a transform type that is not understood is not acceptable.
    fn new(proposal: &'a Proposal, known: &[TransformType]) -> Option<Self> {
        let understood = |transform: &Transform| known.contains(&transform.transform_type) || is_additional(transform);
        proposal.transforms.iter().all(understood).then_some(Self { proposal })
    }

    pub(super) fn of(&self, transform_type: TransformType) -> impl Iterator<Item = &'a Transform> {
        self.proposal
            .transforms
            .iter()
            .filter(move |transform| transform.transform_type == transform_type)
    }

    /// The first of ours that is offered, and the transform as it came.
    pub(super) fn pick<A: Copy + PartialEq>(
        &self,
        transform_type: TransformType,
        ours: &[A],
        convert: fn(&Transform) -> Option<A>,
    ) -> Option<(A, Transform)> {
        ours.iter().find_map(|own| {
            self.of(transform_type)
                .find(|transform| convert(transform) == Some(*own))
                .map(|t| (*own, t.clone()))
        })
    }

    /// RFC 5282 §8, RFC 7296 §3.3: with an AEAD there is no integrity transform, or only NONE; without one it is needed.
    #[allow(
        clippy::option_option,
        reason = "no match and a match without integrity are different answers"
    )]
    fn pick_integrity(&self, encryption: Encryption, ours: &[Integrity]) -> Option<Option<(Integrity, Transform)>> {
        if encryption.is_aead() {
            let none_only = self
                .of(TransformType::INTEG)
                .all(|transform| transform.id == IntegId::NONE.0);
            return none_only.then_some(None);
        }
        self.pick(TransformType::INTEG, ours, convert::to_integrity).map(Some)
    }

    /// NONE of a type, as it came.
    pub(super) fn none(&self, transform_type: TransformType) -> Option<Transform> {
        self.of(transform_type).find(|transform| transform.id == 0).cloned()
    }

    fn chosen<S>(&self, suite: S, transforms: [Option<Transform>; 4], additional: Vec<Transform>) -> Chosen<S> {
        let Proposal {
            number, protocol, spi, ..
        } = self.proposal;
        let transforms = transforms.into_iter().flatten().chain(additional).collect();
        let answer = Proposal {
            number: *number,
            protocol: *protocol,
            spi: spi.clone(),
            transforms,
        };
        Chosen {
            suite,
            answer,
            peer_spi: spi.clone(),
        }
    }
}

/// Both sides in words, and the type of transform in which they have nothing in common.
fn explain(offer: &SecurityAssociation, wanted: Vec<String>, own: &SecurityAssociation) -> NoCommonProposal {
    let words = |proposal: &Proposal| proposal.transforms.iter().map(describe).collect::<Vec<_>>().join("-");
    let offered = offer.proposals.iter().map(words).collect();
    let kinds = [
        (TransformType::ENCR, "encryption"),
        (TransformType::INTEG, "integrity"),
        (TransformType::PRF, "PRF"),
        (TransformType::KE, "key exchange"),
        (TransformType::ESN, "sequence numbers"),
        (TransformType::ADDKE1, "first additional key exchange"),
        (TransformType::ADDKE2, "second additional key exchange"),
    ];
    let all = |sa: &SecurityAssociation, kind: TransformType| -> Vec<String> {
        let transforms = sa
            .proposals
            .iter()
            .flat_map(|p| &p.transforms)
            .filter(|t| t.transform_type == kind);
        transforms.map(describe).collect()
    };
    let hint = kinds.iter().find_map(|(kind, name)| {
        let (theirs, ours) = (all(offer, *kind), all(own, *kind));
        let disjoint = !ours.iter().any(|word| theirs.contains(word));
        (disjoint && !(theirs.is_empty() && ours.is_empty())).then(|| match (theirs.first(), ours.first()) {
            (Some(theirs), Some(ours)) => {
                format!("no {name} in common: add {theirs} here, or {ours} at the peer")
            }
            (None, Some(ours)) => format!("the peer offers no {name}: add {ours} at the peer, or remove it here"),
            (Some(theirs), None) => format!("the peer wants {name} {theirs}: add it here, or remove it at the peer"),
            (None, None) => String::new(),
        })
    });
    NoCommonProposal { offered, wanted, hint }
}
