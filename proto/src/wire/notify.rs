//! Notify and Delete payloads (RFC 7296 §3.10, §3.11).

use super::payload::{Delete, Notify};
use super::reader::Reader;
use super::writer::Writer;
use super::{DecodeError, NotifyType, ProtocolId, limits};

pub(super) fn decode_notify(body: &[u8]) -> Result<Notify, DecodeError> {
    let mut reader = Reader::new("Notify payload", body);
    let protocol = ProtocolId(reader.u8()?);
    let spi_size = usize::from(reader.u8()?);
    let notify_type = NotifyType(reader.u16()?);
    let spi = reader.take(spi_size)?.to_vec();
    Ok(Notify {
        protocol,
        spi,
        notify_type,
        data: reader.rest().to_vec(),
    })
}

pub(super) fn encode_notify(notify: &Notify, writer: &mut Writer<'_>) {
    writer.u8(notify.protocol.0);
    writer.u8(u8::try_from(notify.spi.len()).unwrap_or(u8::MAX));
    writer.u16(notify.notify_type.0);
    writer.octets(&notify.spi);
    writer.octets(&notify.data);
}

pub(super) fn decode_delete(body: &[u8]) -> Result<Delete, DecodeError> {
    let mut reader = Reader::new("Delete payload", body);
    let protocol = ProtocolId(reader.u8()?);
    let spi_size = reader.u8()?;
    let count = usize::from(reader.u16()?);
    // RFC 7296 §3.11: "SPI Size ... zero for IKE (SPI is in message header) or four for AH and ESP."
    match (protocol, spi_size) {
        (ProtocolId::IKE, 0) if count == 0 => {
            reader.finish()?;
            Ok(Delete::Ike)
        }
        (ProtocolId::AH | ProtocolId::ESP, 4) => {
            if count > limits::DELETE_SPIS {
                return Err(DecodeError::TooMany {
                    what: "SPIs in a Delete payload",
                    cap: limits::DELETE_SPIS,
                });
            }
            let mut spis = Vec::with_capacity(count);
            for _ in 0..count {
                spis.push(reader.u32()?);
            }
            reader.finish()?;
            Ok(Delete::Children { protocol, spis })
        }
        _ => Err(DecodeError::Invalid {
            what: "Delete payload",
            why: "protocol, SPI size and count don't agree",
        }),
    }
}

pub(super) fn encode_delete(delete: &Delete, writer: &mut Writer<'_>) {
    match delete {
        Delete::Ike => writer.octets(&[ProtocolId::IKE.0, 0, 0, 0]),
        Delete::Children { protocol, spis } => {
            writer.octets(&[protocol.0, 4]);
            writer.u16(u16::try_from(spis.len()).unwrap_or(u16::MAX));
            for spi in spis {
                writer.u32(*spi);
            }
        }
    }
}
