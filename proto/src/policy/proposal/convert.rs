//! Algorithms <-> transforms (RFC 7296 §3.3.2, §3.3.5).

use super::additional::is_additional;
use crate::crypto::{Encryption, Group, Integrity, PrfAlgorithm};
use crate::wire::{Attribute, AttributeType, EncrId, IntegId, KeMethod, PrfId, Transform, TransformType};

/// Two tables in one: to the wire and back.
const ENCRYPTION: &[(Encryption, EncrId, Option<u16>)] = &[
    (Encryption::AesGcm16_128, EncrId::AES_GCM_16, Some(128)),
    (Encryption::AesGcm16_192, EncrId::AES_GCM_16, Some(192)),
    (Encryption::AesGcm16_256, EncrId::AES_GCM_16, Some(256)),
    // RFC 7634 §2: "MUST NOT" carry a Key Length attribute.
    (Encryption::ChaCha20Poly1305, EncrId::CHACHA20_POLY1305, None),
    (Encryption::AesCbc128, EncrId::AES_CBC, Some(128)),
    (Encryption::AesCbc192, EncrId::AES_CBC, Some(192)),
    (Encryption::AesCbc256, EncrId::AES_CBC, Some(256)),
    (Encryption::Null, EncrId::NULL, None),
];

const INTEGRITY: &[(Integrity, IntegId)] = &[
    (Integrity::HmacSha256_128, IntegId::HMAC_SHA2_256_128),
    (Integrity::HmacSha384_192, IntegId::HMAC_SHA2_384_192),
    (Integrity::HmacSha512_256, IntegId::HMAC_SHA2_512_256),
    (Integrity::HmacSha1_96, IntegId::HMAC_SHA1_96),
];

const PRF: &[(PrfAlgorithm, PrfId)] = &[
    (PrfAlgorithm::HmacSha256, PrfId::HMAC_SHA2_256),
    (PrfAlgorithm::HmacSha384, PrfId::HMAC_SHA2_384),
    (PrfAlgorithm::HmacSha512, PrfId::HMAC_SHA2_512),
    (PrfAlgorithm::HmacSha1, PrfId::HMAC_SHA1),
];

const GROUP: &[(Group, KeMethod)] = &[
    (Group::Curve25519, KeMethod::CURVE25519),
    (Group::Ecp256, KeMethod::ECP_256),
    (Group::Ecp384, KeMethod::ECP_384),
    (Group::Ecp521, KeMethod::ECP_521),
    (Group::Modp2048, KeMethod::MODP_2048),
    (Group::Modp3072, KeMethod::MODP_3072),
    (Group::Modp4096, KeMethod::MODP_4096),
    (Group::Modp6144, KeMethod::MODP_6144),
    (Group::Modp8192, KeMethod::MODP_8192),
    (Group::Modp1024, KeMethod::MODP_1024),
    (Group::Modp1536, KeMethod::MODP_1536),
    (Group::Modp2048s256, KeMethod::MODP_2048_256),
    (Group::MlKem512, KeMethod::ML_KEM_512),
    (Group::MlKem768, KeMethod::ML_KEM_768),
    (Group::MlKem1024, KeMethod::ML_KEM_1024),
];

fn plain(transform_type: TransformType, id: u16) -> Transform {
    Transform {
        transform_type,
        id,
        attributes: Vec::new(),
    }
}

pub(super) fn encryption(algorithm: Encryption) -> Option<Transform> {
    let (_, id, bits) = ENCRYPTION.iter().find(|(known, ..)| *known == algorithm)?;
    let attributes = bits
        .iter()
        .map(|bits| Attribute::Short(AttributeType::KEY_LENGTH, *bits))
        .collect();
    Some(Transform {
        transform_type: TransformType::ENCR,
        id: id.0,
        attributes,
    })
}

pub(super) fn integrity(algorithm: Integrity) -> Option<Transform> {
    let (_, id) = INTEGRITY.iter().find(|(known, _)| *known == algorithm)?;
    Some(plain(TransformType::INTEG, id.0))
}

pub(super) fn prf(algorithm: PrfAlgorithm) -> Option<Transform> {
    let (_, id) = PRF.iter().find(|(known, _)| *known == algorithm)?;
    Some(plain(TransformType::PRF, id.0))
}

pub(super) fn group(algorithm: Group) -> Option<Transform> {
    Some(plain(TransformType::KE, algorithm.method().0))
}

pub(super) fn additional(transform_type: TransformType, algorithm: Group) -> Option<Transform> {
    Some(plain(transform_type, algorithm.method().0))
}

pub(super) fn no_additional(transform_type: TransformType) -> Transform {
    plain(transform_type, KeMethod::NONE.0)
}

pub(super) fn esn(extended: bool) -> Transform {
    plain(TransformType::ESN, u16::from(extended))
}

/// RFC 7296 §3.3.6: a transform with an unknown ID, an unknown attribute, or without the Key Length it needs is not
/// understood; others of its proposal still may be.
pub(super) fn to_encryption(transform: &Transform) -> Option<Encryption> {
    let known_attributes = transform
        .attributes
        .iter()
        .all(|a| matches!(a, Attribute::Short(AttributeType::KEY_LENGTH, _)));
    if !known_attributes || transform.attributes.len() > 1 {
        return None;
    }
    let bits = transform.key_length();
    ENCRYPTION
        .iter()
        .find(|(_, id, want)| id.0 == transform.id && *want == bits)
        .map(|(algorithm, ..)| *algorithm)
}

pub(super) fn to_integrity(transform: &Transform) -> Option<Integrity> {
    without_attributes(transform)?;
    INTEGRITY
        .iter()
        .find(|(_, id)| id.0 == transform.id)
        .map(|(algorithm, _)| *algorithm)
}

pub(super) fn to_prf(transform: &Transform) -> Option<PrfAlgorithm> {
    without_attributes(transform)?;
    PRF.iter()
        .find(|(_, id)| id.0 == transform.id)
        .map(|(algorithm, _)| *algorithm)
}

pub(super) fn to_group(transform: &Transform) -> Option<Group> {
    without_attributes(transform)?;
    Group::from_method(KeMethod(transform.id))
}

pub(super) fn to_esn(transform: &Transform) -> Option<bool> {
    without_attributes(transform)?;
    match transform.id {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn without_attributes(transform: &Transform) -> Option<()> {
    transform.attributes.is_empty().then_some(())
}

/// The registry's numbers for PRFs.
impl PrfAlgorithm {
    /// The transform ID.
    #[must_use]
    pub fn id(self) -> Option<PrfId> {
        PRF.iter().find(|(algorithm, _)| *algorithm == self).map(|(_, id)| *id)
    }

    /// By transform ID.
    #[must_use]
    pub fn from_id(id: PrfId) -> Option<Self> {
        PRF.iter()
            .find(|(_, known)| *known == id)
            .map(|(algorithm, _)| *algorithm)
    }
}

/// The registry's numbers for groups: an extension of the crypto module's type with what the wire needs.
impl Group {
    /// The KE method's number.
    #[must_use]
    pub fn method(self) -> KeMethod {
        GROUP
            .iter()
            .find(|(known, _)| *known == self)
            .map_or(KeMethod::NONE, |(_, method)| *method)
    }

    /// The group of a KE method, if it is implemented.
    #[must_use]
    pub fn from_method(method: KeMethod) -> Option<Self> {
        GROUP
            .iter()
            .find(|(_, known)| *known == method)
            .map(|(group, _)| *group)
    }
}

/// A transform for people: the word of an implemented algorithm, the registry's name of another.
pub(super) fn describe(transform: &Transform) -> String {
    let known = match transform.transform_type {
        TransformType::ENCR => to_encryption(transform).map(|a| a.to_string()),
        TransformType::INTEG => to_integrity(transform).map(|a| a.to_string()),
        TransformType::PRF => to_prf(transform).map(|a| a.to_string()),
        TransformType::KE => to_group(transform).map(|a| a.to_string()),
        kind if is_additional(transform) => {
            let number = kind.0 - TransformType::ADDKE1.0 + 1;
            let method = to_group(transform).map_or_else(|| KeMethod(transform.id).to_string(), |a| a.to_string());
            Some(format!(
                "ke{number}_{}",
                if transform.id == 0 { "none".to_owned() } else { method }
            ))
        }
        TransformType::ESN => to_esn(transform).map(|e| if e { "esn" } else { "noesn" }.to_owned()),
        _ => None,
    };
    known.unwrap_or_else(|| {
        let name = match transform.transform_type {
            TransformType::ENCR => EncrId(transform.id).to_string(),
            TransformType::INTEG => IntegId(transform.id).to_string(),
            TransformType::PRF => PrfId(transform.id).to_string(),
            TransformType::KE => KeMethod(transform.id).to_string(),
            other => format!("{other}/{}", transform.id),
        };
        match transform.key_length() {
            Some(bits) => format!("{name}/{bits}"),
            None => name,
        }
    })
}
