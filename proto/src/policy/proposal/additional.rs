//! Additional key exchanges (RFC 9370 §2.2.1): the transform types ADDKE1 to ADDKE7, spelled `ke1_mlkem768` to `ke7_none`.

use super::choose::Picker;
use super::{IkeProposal, convert};
use crate::crypto::Group;
use crate::wire::{Transform, TransformType};
use std::fmt;

/// Additional key exchanges there can be.
pub const MOST: usize = 7;

/// Those of a configured proposal: for ADDKE1 to ADDKE7 the methods in order of preference, where `None` means that it may
/// be left out. An empty list is a type that is not proposed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AdditionalExchanges(pub [Vec<Option<Group>>; MOST]);

/// Those that were chosen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AdditionalGroups(pub [Option<Group>; MOST]);

fn transform_type(index: usize) -> TransformType {
    TransformType(TransformType::ADDKE1.0 + index as u8)
}

/// Whether a transform is of one of these types.
pub(super) fn is_additional(transform: &Transform) -> bool {
    (TransformType::ADDKE1..=TransformType::ADDKE7).contains(&transform.transform_type)
}

impl IkeProposal {
    /// The same without additional key exchanges.
    #[must_use]
    pub fn without_additional(list: &[Self]) -> Vec<Self> {
        let mut out: Vec<Self> = Vec::new();
        for own in list {
            let plain = Self {
                additional: AdditionalExchanges::default(),
                ..own.clone()
            };
            if !out.contains(&plain) {
                out.push(plain);
            }
        }
        out
    }
}

impl AdditionalGroups {
    /// In the order in which they take place: "in an order of the values of their Transform Types".
    pub fn iter(&self) -> impl Iterator<Item = Group> {
        self.0.into_iter().flatten()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl AdditionalExchanges {
    /// Whether none is proposed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Vec::is_empty)
    }

    /// One more method for ADDKE`number` (from 1); false if there is no such type.
    pub(super) fn add(&mut self, number: usize, group: Option<Group>) -> bool {
        let list = number.checked_sub(1).and_then(|index| self.0.get_mut(index));
        let Some(list) = list else { return false };
        if !list.contains(&group) {
            list.push(group);
        }
        true
    }

    /// All methods of all types.
    pub fn groups(&self) -> impl Iterator<Item = Group> {
        self.0.iter().flatten().filter_map(|group| *group)
    }

    /// Whether every choice out of them includes a post-quantum method.
    #[must_use]
    pub fn are_post_quantum(&self) -> bool {
        let is_sure = |list: &Vec<Option<Group>>| {
            !list.is_empty() && list.iter().all(|group| group.is_some_and(Group::is_post_quantum))
        };
        self.0.iter().any(is_sure)
    }

    /// As they are offered.
    pub(super) fn transforms(&self) -> impl Iterator<Item = Transform> {
        self.0.iter().enumerate().flat_map(|(index, list)| {
            list.iter().filter_map(move |group| match group {
                Some(group) => convert::additional(transform_type(index), *group),
                None => Some(convert::no_additional(transform_type(index))),
            })
        })
    }

    /// Whether a choice that was made under another proposal is one of these.
    #[must_use]
    pub fn allow(&self, chosen: AdditionalGroups) -> bool {
        self.0.iter().zip(chosen.0).all(|(list, group)| match group {
            Some(_) => list.contains(&group),
            None => list.is_empty() || list.contains(&None),
        })
    }

    /// Chooses one of each type that is offered, and none twice: "the responder's choice MUST NOT contain duplicated
    /// algorithms ..., except for the Transform ID of NONE."
    pub(super) fn choose(&self, picker: &Picker<'_>) -> Option<(AdditionalGroups, Vec<Transform>)> {
        let mut chosen = AdditionalGroups::default();
        let mut transforms = Vec::new();
        self.choose_from(0, picker, &mut chosen, &mut transforms)
            .then_some((chosen, transforms))
    }

    /// From type `index` on. What was chosen before may leave nothing for a later type: then another is tried.
    fn choose_from(
        &self,
        index: usize,
        picker: &Picker<'_>,
        chosen: &mut AdditionalGroups,
        transforms: &mut Vec<Transform>,
    ) -> bool {
        let Some(ours) = self.0.get(index) else { return true };
        let kind = transform_type(index);
        let is_offered = picker.of(kind).next().is_some();
        // "The responder MUST treat all of the omitted ADDKE transforms as if they were proposed with Transform ID NONE."
        if !is_offered {
            return (ours.is_empty() || ours.contains(&None))
                && self.choose_from(index + 1, picker, chosen, transforms);
        }
        let only_none = [None];
        let ours: &[Option<Group>] = if ours.is_empty() { &only_none } else { ours };
        for own in ours {
            let transform = match own {
                Some(_) if chosen.0.contains(own) => continue,
                Some(group) => picker.pick(kind, &[*group], convert::to_group).map(|(_, t)| t),
                None => picker.none(kind),
            };
            let Some(transform) = transform else { continue };
            chosen.0[index] = *own;
            transforms.push(transform);
            if self.choose_from(index + 1, picker, chosen, transforms) {
                return true;
            }
            chosen.0[index] = None;
            transforms.pop();
        }
        false
    }
}

/// `-ke1_mlkem768-ke2_...`, with the `-` in front.
impl fmt::Display for AdditionalGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (group, number) in self.0.iter().zip(1..) {
            if let Some(group) = group {
                write!(f, "-ke{number}_{group}")?;
            }
        }
        Ok(())
    }
}

/// As [`AdditionalGroups`], with all that is proposed.
impl fmt::Display for AdditionalExchanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (list, number) in self.0.iter().zip(1..) {
            for group in list {
                match group {
                    Some(group) => write!(f, "-ke{number}_{group}")?,
                    None => write!(f, "-ke{number}_none")?,
                }
            }
        }
        Ok(())
    }
}
