//! Payloads by hand.

use landbridge_proto::policy::proposal::{EspProposal, IkeProposal, IkeSuite};
use landbridge_proto::policy::selector;
use landbridge_proto::wire::{
    Attribute, AttributeType, AuthMethod, Authentication, Delete, Identification, KeMethod, KeyExchange, Nonce, Notify,
    NotifyType, Payload, PayloadType, Proposal, ProtocolId, SecurityAssociation, Transform, TransformType,
};

pub fn notify(notify_type: NotifyType) -> Payload {
    notify_with(notify_type, &[])
}

pub fn notify_with(notify_type: NotifyType, data: &[u8]) -> Payload {
    Payload::Notify(Notify::new(notify_type, data.to_vec()))
}

/// A notify about an ESP SA.
pub fn notify_esp(notify_type: NotifyType, spi: u32) -> Payload {
    Payload::Notify(Notify {
        protocol: ProtocolId::ESP,
        spi: spi.to_be_bytes().to_vec(),
        notify_type,
        data: vec![],
    })
}

pub fn ke(method: KeMethod, data: &[u8]) -> Payload {
    Payload::Ke(KeyExchange {
        method,
        data: data.to_vec(),
    })
}

pub fn nonce(octets: &[u8]) -> Payload {
    Payload::Nonce(Nonce(octets.to_vec()))
}

/// A payload of a type that nobody knows.
pub fn unknown(payload_type: u8, critical: bool) -> Payload {
    Payload::Unknown {
        payload_type: PayloadType(payload_type),
        critical,
        body: vec![1, 2, 3],
    }
}

/// IDi or IDr with a name.
pub fn id(initiator: bool, name: &str) -> Payload {
    let id = Identification::parse(name).unwrap();
    if initiator { Payload::IdI(id) } else { Payload::IdR(id) }
}

/// ID type, RESERVED and data.
pub fn id_body(payload: &Payload) -> Vec<u8> {
    match payload {
        Payload::IdI(id) | Payload::IdR(id) => [&[id.id_type.0][..], &id.reserved, &id.data].concat(),
        other => panic!("no ID: {other:?}"),
    }
}

pub fn psk_auth(mic: &[u8]) -> Payload {
    Payload::Auth(Authentication {
        method: AuthMethod::SHARED_KEY_MIC,
        data: mic.to_vec(),
    })
}

pub fn delete_children(spis: &[u32]) -> Payload {
    Payload::Delete(Delete::Children {
        protocol: ProtocolId::ESP,
        spis: spis.to_vec(),
    })
}

pub fn delete_ike() -> Payload {
    Payload::Delete(Delete::Ike)
}

pub fn transform(transform_type: TransformType, id: u16) -> Transform {
    Transform {
        transform_type,
        id,
        attributes: vec![],
    }
}

pub fn with_key(transform_type: TransformType, id: u16, bits: u16) -> Transform {
    Transform {
        attributes: vec![Attribute::Short(AttributeType::KEY_LENGTH, bits)],
        ..transform(transform_type, id)
    }
}

pub fn proposal(number: u8, protocol: ProtocolId, spi: &[u8], transforms: Vec<Transform>) -> Proposal {
    Proposal {
        number,
        protocol,
        spi: spi.to_vec(),
        transforms,
    }
}

pub fn sa(proposals: Vec<Proposal>) -> Payload {
    Payload::Sa(SecurityAssociation { proposals })
}

/// One IKE proposal of one transform a type.
pub fn ike_offer(suite: IkeSuite) -> Payload {
    let own = IkeProposal {
        additional: Default::default(),
        encryption: vec![suite.cipher.encryption],
        integrity: suite.cipher.integrity.into_iter().collect(),
        prf: vec![suite.prf],
        groups: vec![suite.group],
    };
    Payload::Sa(IkeProposal::to_wire(&[own], &[]))
}

/// The transforms of `ike_offer` of the usual suite: AES-GCM-16 with 256 bits, PRF-HMAC-SHA2-256, Curve25519.
pub fn ike_transforms() -> Vec<Transform> {
    vec![
        with_key(TransformType::ENCR, 20, 256),
        transform(TransformType::PRF, 5),
        transform(TransformType::KE, 31),
    ]
}

/// The transforms of the usual ESP proposal, without a group.
pub fn esp_transforms() -> Vec<Transform> {
    vec![with_key(TransformType::ENCR, 20, 256), transform(TransformType::ESN, 0)]
}

/// ESP proposals by word, as the configuration has them.
pub fn esp_offer(spi: u32, pfs: Option<KeMethod>) -> Payload {
    let mut transforms = esp_transforms();
    if let Some(method) = pfs {
        transforms.insert(1, transform(TransformType::KE, method.0));
    }
    sa(vec![proposal(1, ProtocolId::ESP, &spi.to_be_bytes(), transforms)])
}

/// An ESP offer in the words of the configuration.
pub fn esp_words(spi: u32, words: &str, with_groups: bool) -> Payload {
    Payload::Sa(EspProposal::to_wire(
        &[EspProposal::parse(words).unwrap()],
        spi,
        with_groups,
    ))
}

/// SA, TSi, TSr.
pub fn child(spi: u32, pfs: Option<KeMethod>, ts_i: &str, ts_r: &str) -> Vec<Payload> {
    vec![esp_offer(spi, pfs), tsi(&[ts_i]), tsr(&[ts_r])]
}

pub fn tsi(list: &[&str]) -> Payload {
    Payload::TsI(list.iter().map(|text| selector::parse(text).unwrap()).collect())
}

pub fn tsr(list: &[&str]) -> Payload {
    Payload::TsR(list.iter().map(|text| selector::parse(text).unwrap()).collect())
}

/// The same SA payload with an SPI in each proposal.
pub fn with_spi(payload: Payload, spi: &[u8]) -> Payload {
    let Payload::Sa(mut sa) = payload else { panic!("no SA") };
    for proposal in &mut sa.proposals {
        proposal.spi = spi.to_vec();
    }
    Payload::Sa(sa)
}

/// Method and data of the KE payload.
pub fn ke_of(payloads: &[Payload]) -> Option<(KeMethod, Vec<u8>)> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Ke(ke) => Some((ke.method, ke.data.clone())),
        _ => None,
    })
}

pub fn nonce_of(payloads: &[Payload]) -> Vec<u8> {
    let nonce = payloads.iter().find_map(|payload| match payload {
        Payload::Nonce(nonce) => Some(nonce.0.clone()),
        _ => None,
    });
    nonce.expect("a nonce")
}

pub fn sa_of(payloads: &[Payload]) -> Option<&SecurityAssociation> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Sa(sa) => Some(sa),
        _ => None,
    })
}

/// The SPI of the first proposal.
pub fn spi_of(payloads: &[Payload]) -> Vec<u8> {
    sa_of(payloads).expect("SA").proposals[0].spi.clone()
}

pub fn esp_spi_of(payloads: &[Payload]) -> u32 {
    u32::from_be_bytes(spi_of(payloads).try_into().unwrap())
}

/// The SPIs of all Delete payloads about ESP.
pub fn deleted(payloads: &[Payload]) -> Vec<u32> {
    let spis = payloads.iter().filter_map(|payload| match payload {
        Payload::Delete(Delete::Children { spis, .. }) => Some(spis.clone()),
        _ => None,
    });
    spis.flatten().collect()
}

/// The same payloads without those of a type.
pub fn without(payloads: &[Payload], unwanted: fn(&Payload) -> bool) -> Vec<Payload> {
    payloads.iter().filter(|payload| !unwanted(payload)).cloned().collect()
}
