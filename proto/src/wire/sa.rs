//! The SA payload (RFC 7296 §3.3): proposals, transforms, attributes.

use super::payload::{Attribute, Proposal, SecurityAssociation, Transform};
use super::reader::Reader;
use super::writer::Writer;
use super::{AttributeType, DecodeError, ProtocolId, TransformType, limits};

/// "Last Substruc" of a proposal that is followed by another (§3.3.1).
const MORE_PROPOSALS: u8 = 2;
/// "Last Substruc" of a transform that is followed by another (§3.3.2).
const MORE_TRANSFORMS: u8 = 3;
/// Attribute format bit: a 2-octet value in place of a length (§3.3.5).
const SHORT: u16 = 0x8000;

pub(super) fn decode(body: &[u8]) -> Result<SecurityAssociation, DecodeError> {
    let mut reader = Reader::new("SA payload", body);
    let mut proposals = Vec::new();
    loop {
        let last = reader.u8()?;
        reader.u8()?; // RESERVED
        let length = usize::from(reader.u16()?);
        let rest = reader.take(length.checked_sub(4).ok_or(DecodeError::BadLength {
            what: "proposal",
            length,
        })?)?;
        if proposals.len() == limits::PROPOSALS {
            return Err(DecodeError::TooMany {
                what: "proposals",
                cap: limits::PROPOSALS,
            });
        }
        proposals.push(decode_proposal(rest)?);
        match (last, reader.is_empty()) {
            (MORE_PROPOSALS, false) => {}
            (0, true) => return Ok(SecurityAssociation { proposals }),
            _ => {
                return Err(DecodeError::Invalid {
                    what: "proposal",
                    why: "Last Substruc contradicts the length",
                });
            }
        }
    }
}

fn decode_proposal(octets: &[u8]) -> Result<Proposal, DecodeError> {
    let mut reader = Reader::new("proposal", octets);
    let number = reader.u8()?;
    let protocol = ProtocolId(reader.u8()?);
    let spi_size = usize::from(reader.u8()?);
    let count = usize::from(reader.u8()?);
    let spi = reader.take(spi_size)?.to_vec();
    if count > limits::TRANSFORMS {
        return Err(DecodeError::TooMany {
            what: "transforms",
            cap: limits::TRANSFORMS,
        });
    }
    let mut transforms = Vec::with_capacity(count);
    for index in 1..=count {
        let last = reader.u8()?;
        reader.u8()?; // RESERVED
        let length = usize::from(reader.u16()?);
        let rest = reader.take(length.checked_sub(4).ok_or(DecodeError::BadLength {
            what: "transform",
            length,
        })?)?;
        if last != if index == count { 0 } else { MORE_TRANSFORMS } {
            return Err(DecodeError::Invalid {
                what: "transform",
                why: "Last Substruc contradicts the count",
            });
        }
        transforms.push(decode_transform(rest)?);
    }
    reader.finish()?;
    Ok(Proposal {
        number,
        protocol,
        spi,
        transforms,
    })
}

fn decode_transform(octets: &[u8]) -> Result<Transform, DecodeError> {
    let mut reader = Reader::new("transform", octets);
    let transform_type = TransformType(reader.u8()?);
    reader.u8()?; // RESERVED
    let id = reader.u16()?;
    let mut attributes = Vec::new();
    while !reader.is_empty() {
        let word = reader.u16()?;
        let value = reader.u16()?;
        attributes.push(if word & SHORT != 0 {
            Attribute::Short(AttributeType(word & !SHORT), value)
        } else {
            Attribute::Long(AttributeType(word), reader.take(usize::from(value))?.to_vec())
        });
    }
    Ok(Transform {
        transform_type,
        id,
        attributes,
    })
}

pub(super) fn encode(sa: &SecurityAssociation, writer: &mut Writer<'_>) {
    for (index, proposal) in sa.proposals.iter().enumerate() {
        let last = index + 1 == sa.proposals.len();
        let open = writer.open(if last { 0 } else { MORE_PROPOSALS }, 0);
        writer.u8(proposal.number);
        writer.u8(proposal.protocol.0);
        writer.u8(u8::try_from(proposal.spi.len()).unwrap_or(u8::MAX));
        writer.u8(u8::try_from(proposal.transforms.len()).unwrap_or(u8::MAX));
        writer.octets(&proposal.spi);
        for (index, transform) in proposal.transforms.iter().enumerate() {
            let last = index + 1 == proposal.transforms.len();
            let open = writer.open(if last { 0 } else { MORE_TRANSFORMS }, 0);
            writer.u8(transform.transform_type.0);
            writer.u8(0);
            writer.u16(transform.id);
            for attribute in &transform.attributes {
                match attribute {
                    Attribute::Short(kind, value) => {
                        writer.u16(kind.0 | SHORT);
                        writer.u16(*value);
                    }
                    Attribute::Long(kind, value) => {
                        writer.u16(kind.0);
                        writer.u16(u16::try_from(value.len()).unwrap_or(u16::MAX));
                        writer.octets(value);
                    }
                }
            }
            writer.close(open);
        }
        writer.close(open);
    }
}
