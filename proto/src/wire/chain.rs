//! The datagram's outer structure and the payload chain (RFC 7296 §3.1, §3.2, §3.14; RFC 7383 §2.5).

use super::header::{Flags, Header, IkeSpi, Outer, OuterBody};
use super::payload::{
    Authentication, Certificate, CertificateRequest, Configuration, Identification, KeyExchange, Nonce, Payload,
};
use super::reader::Reader;
use super::writer::Writer;
use super::{
    AuthMethod, CertEncoding, CfgType, DecodeError, ExchangeType, IdType, KeMethod, PayloadType, limits, notify, sa, ts,
};

/// Octets of a generic payload header.
const GENERIC: usize = 4;
/// Flags: RFC 7296 §3.1.
const INITIATOR: u8 = 0x08;
const RESPONSE: u8 = 0x20;
const CRITICAL: u8 = 0x80;
/// Major version 2, minor version 0.
const VERSION: u8 = 0x20;

/// Splits a datagram (without non-ESP marker) at its outer structure: header, Length == datagram length, SK or SKF last.
///
/// # Errors
/// [`DecodeError`] with the first thing found wrong.
pub fn decode_outer(datagram: &[u8]) -> Result<Outer<'_>, DecodeError> {
    let mut reader = Reader::new("IKE header", datagram);
    let spi_i = IkeSpi(reader.array()?);
    let spi_r = IkeSpi(reader.array()?);
    let first = PayloadType(reader.u8()?);
    let version = reader.u8()?;
    let exchange = ExchangeType(reader.u8()?);
    let flags = reader.u8()?;
    let message_id = reader.u32()?;
    let length = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
    // RFC 7296 §2.5: "If an endpoint receives a message with a higher major version number, it MUST drop the message".
    // The minor version is ignored. A lower major version is IKEv1, which is not spoken.
    if version >> 4 != VERSION >> 4 {
        return Err(DecodeError::MajorVersion(version >> 4));
    }
    if length != datagram.len() {
        return Err(DecodeError::BadLength {
            what: "IKE header",
            length,
        });
    }
    let flags = Flags {
        initiator: flags & INITIATOR != 0,
        response: flags & RESPONSE != 0,
    };
    let header = Header {
        spi_i,
        spi_r,
        exchange,
        flags,
        message_id,
    };
    let body = decode_body(datagram, first)?;
    Ok(Outer { header, body })
}

/// Walks the outer payload headers to an SK or SKF, which must be the last payload (§3.14).
fn decode_body(datagram: &[u8], first: PayloadType) -> Result<OuterBody<'_>, DecodeError> {
    let plain = OuterBody::Plain {
        first,
        payloads: &datagram[Header::LEN..],
    };
    let (mut next, mut at) = (first, Header::LEN);
    for _ in 0..=limits::PAYLOADS {
        if next == PayloadType::NONE {
            return Ok(plain);
        }
        let mut reader = Reader::new("payload header", &datagram[at..]);
        let following = PayloadType(reader.u8()?);
        reader.u8()?; // critical bit and RESERVED
        let length = usize::from(reader.u16()?);
        if length < GENERIC || length > datagram.len() - at {
            return Err(DecodeError::BadLength {
                what: "payload header",
                length,
            });
        }
        if next == PayloadType::SK || next == PayloadType::SKF {
            if at + length != datagram.len() {
                return Err(DecodeError::Invalid {
                    what: "Encrypted payload",
                    why: "something follows it",
                });
            }
            return decode_protected(datagram, next, following, at);
        }
        next = following;
        at += length;
    }
    Err(DecodeError::TooMany {
        what: "payloads",
        cap: limits::PAYLOADS,
    })
}

fn decode_protected(
    datagram: &[u8],
    payload_type: PayloadType,
    first: PayloadType,
    at: usize,
) -> Result<OuterBody<'_>, DecodeError> {
    if payload_type == PayloadType::SK {
        let (associated, protected) = datagram.split_at(at + GENERIC);
        return Ok(OuterBody::Sk {
            first,
            associated,
            protected,
        });
    }
    let mut reader = Reader::new("Encrypted Fragment payload", &datagram[at + GENERIC..]);
    let (fragment, total) = (reader.u16()?, reader.u16()?);
    // RFC 7383 §2.5: "Fragment Number ... MUST NOT be zero", "Total Fragments ... MUST NOT be zero", number <= total.
    if fragment == 0 || total == 0 || fragment > total {
        return Err(DecodeError::Invalid {
            what: "Encrypted Fragment payload",
            why: "fragment number or total is wrong",
        });
    }
    // §2.5: in fragments after the first, Next Payload MUST be zero; what else stands there is not used.
    let first = if fragment == 1 { first } else { PayloadType::NONE };
    let (associated, protected) = datagram.split_at(at + GENERIC + 4);
    Ok(OuterBody::Skf {
        first,
        fragment,
        total,
        associated,
        protected,
    })
}

/// Parses a payload chain, plain or decrypted. RESERVED bits are ignored; trailing octets are an error.
///
/// # Errors
/// [`DecodeError`]; `UnsupportedCritical` for an unknown payload with C set.
pub fn decode_payloads(first: PayloadType, octets: &[u8]) -> Result<Vec<Payload>, DecodeError> {
    let mut reader = Reader::new("payload", octets);
    let mut payloads = Vec::new();
    let mut notifies = 0;
    let mut next = first;
    while next != PayloadType::NONE {
        let following = PayloadType(reader.u8()?);
        let critical = reader.u8()? & CRITICAL != 0;
        let length = usize::from(reader.u16()?);
        let body = reader.take(length.checked_sub(GENERIC).ok_or(DecodeError::BadLength {
            what: "payload",
            length,
        })?)?;
        if payloads.len() == limits::PAYLOADS {
            return Err(DecodeError::TooMany {
                what: "payloads",
                cap: limits::PAYLOADS,
            });
        }
        let payload = decode_payload(next, critical, body)?;
        if matches!(payload, Payload::Notify(_)) {
            notifies += 1;
            if notifies > limits::NOTIFIES {
                return Err(DecodeError::TooMany {
                    what: "Notify payloads",
                    cap: limits::NOTIFIES,
                });
            }
        }
        payloads.push(payload);
        next = following;
    }
    reader.finish()?;
    Ok(payloads)
}

/// The critical bit matters for unknown types only: RFC 7296 §3.2 "MUST be ignored by the recipient if the recipient
/// understands the payload type code".
fn decode_payload(payload_type: PayloadType, critical: bool, body: &[u8]) -> Result<Payload, DecodeError> {
    let mut reader = Reader::new(payload_type.name().unwrap_or("payload"), body);
    Ok(match payload_type {
        PayloadType::SA => Payload::Sa(sa::decode(body)?),
        PayloadType::KE => {
            let method = KeMethod(reader.u16()?);
            reader.u16()?; // RESERVED
            Payload::Ke(KeyExchange {
                method,
                data: reader.rest().to_vec(),
            })
        }
        PayloadType::IDI | PayloadType::IDR => {
            let id_type = IdType(reader.u8()?);
            let reserved = reader.array()?;
            let id = Identification {
                id_type,
                reserved,
                data: reader.rest().to_vec(),
            };
            if payload_type == PayloadType::IDI {
                Payload::IdI(id)
            } else {
                Payload::IdR(id)
            }
        }
        PayloadType::CERT => {
            let encoding = CertEncoding(reader.u8()?);
            Payload::Cert(Certificate {
                encoding,
                data: reader.rest().to_vec(),
            })
        }
        PayloadType::CERTREQ => {
            let encoding = CertEncoding(reader.u8()?);
            Payload::CertReq(CertificateRequest {
                encoding,
                authorities: reader.rest().to_vec(),
            })
        }
        PayloadType::AUTH => {
            let method = AuthMethod(reader.u8()?);
            reader.take(3)?; // RESERVED
            Payload::Auth(Authentication {
                method,
                data: reader.rest().to_vec(),
            })
        }
        // RFC 7296 §3.9: "The size of the Nonce Data MUST be between 16 and 256 octets, inclusive."
        PayloadType::NONCE if (16..=256).contains(&body.len()) => Payload::Nonce(Nonce(body.to_vec())),
        PayloadType::NONCE => {
            return Err(DecodeError::BadLength {
                what: "Nonce",
                length: body.len(),
            });
        }
        PayloadType::NOTIFY => Payload::Notify(notify::decode_notify(body)?),
        PayloadType::DELETE => Payload::Delete(notify::decode_delete(body)?),
        PayloadType::VENDOR_ID => Payload::VendorId(body.to_vec()),
        PayloadType::TSI => Payload::TsI(ts::decode(body)?),
        PayloadType::TSR => Payload::TsR(ts::decode(body)?),
        PayloadType::CP => Payload::Cp(decode_configuration(reader)?),
        // RFC 8019 §8.2: "This field MUST NOT be empty. All of the keys MUST have the same size; therefore, the size of this field
        // is always a multiple of 4 bytes."
        PayloadType::PUZZLE_SOLUTION if !body.is_empty() && body.len().is_multiple_of(4) => {
            Payload::PuzzleSolution(body.to_vec())
        }
        PayloadType::PUZZLE_SOLUTION => {
            return Err(DecodeError::BadLength {
                what: "Puzzle Solution",
                length: body.len(),
            });
        }
        // RFC 7296 §3.14: the Encrypted payload is outermost; there is none inside another.
        PayloadType::SK | PayloadType::SKF => {
            return Err(DecodeError::Invalid {
                what: "Encrypted payload",
                why: "it stands within a chain",
            });
        }
        _ if critical => return Err(DecodeError::UnsupportedCritical(payload_type.0)),
        _ => Payload::Unknown {
            payload_type,
            critical,
            body: body.to_vec(),
        },
    })
}

fn decode_configuration(mut reader: Reader<'_>) -> Result<Configuration, DecodeError> {
    let cfg_type = CfgType(reader.u8()?);
    reader.take(3)?; // RESERVED
    let mut attributes = Vec::new();
    while !reader.is_empty() {
        let attribute = reader.u16()? & 0x7fff; // the top bit is RESERVED (§3.15.1)
        let length = usize::from(reader.u16()?);
        attributes.push((attribute, reader.take(length)?.to_vec()));
    }
    Ok(Configuration { cfg_type, attributes })
}

/// Writes a payload chain; returns the first payload's type (NONE for an empty chain) and the octets.
#[must_use]
pub fn encode_payloads(payloads: &[Payload]) -> (PayloadType, Vec<u8>) {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    for (index, payload) in payloads.iter().enumerate() {
        let following = payloads.get(index + 1).map_or(PayloadType::NONE, payload_type);
        // RFC 7296 §3.2: the critical bit is 0 for payload types of the RFC itself; an unknown one keeps its own.
        let critical = if matches!(payload, Payload::Unknown { critical: true, .. }) {
            CRITICAL
        } else {
            0
        };
        let open = writer.open(following.0, critical);
        encode_body(payload, &mut writer);
        writer.close(open);
    }
    (payloads.first().map_or(PayloadType::NONE, payload_type), out)
}

fn encode_body(payload: &Payload, writer: &mut Writer<'_>) {
    match payload {
        Payload::Sa(sa) => sa::encode(sa, writer),
        Payload::Ke(ke) => {
            writer.u16(ke.method.0);
            writer.u16(0);
            writer.octets(&ke.data);
        }
        Payload::IdI(id) | Payload::IdR(id) => encode_identification(id, writer),
        Payload::Cert(cert) => {
            writer.u8(cert.encoding.0);
            writer.octets(&cert.data);
        }
        Payload::CertReq(request) => {
            writer.u8(request.encoding.0);
            writer.octets(&request.authorities);
        }
        Payload::Auth(auth) => {
            writer.octets(&[auth.method.0, 0, 0, 0]);
            writer.octets(&auth.data);
        }
        Payload::Nonce(nonce) => writer.octets(&nonce.0),
        Payload::Notify(n) => notify::encode_notify(n, writer),
        Payload::Delete(d) => notify::encode_delete(d, writer),
        Payload::VendorId(octets) | Payload::PuzzleSolution(octets) => writer.octets(octets),
        Payload::TsI(selectors) | Payload::TsR(selectors) => ts::encode(selectors, writer),
        Payload::Cp(configuration) => {
            writer.octets(&[configuration.cfg_type.0, 0, 0, 0]);
            for (attribute, value) in &configuration.attributes {
                writer.u16(*attribute);
                writer.u16(u16::try_from(value.len()).unwrap_or(u16::MAX));
                writer.octets(value);
            }
        }
        Payload::Unknown { body, .. } => writer.octets(body),
    }
}

fn encode_identification(id: &Identification, writer: &mut Writer<'_>) {
    writer.u8(id.id_type.0);
    writer.octets(&id.reserved);
    writer.octets(&id.data);
}

impl Identification {
    /// The payload's body: ID type, RESERVED, data. What AUTH covers (RFC 7296 §2.15: "RestOfInitIDPayload").
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.data.len());
        encode_identification(self, &mut Writer::new(&mut out));
        out
    }
}

/// The type a payload is written with.
#[must_use]
pub const fn payload_type(payload: &Payload) -> PayloadType {
    match payload {
        Payload::Sa(_) => PayloadType::SA,
        Payload::Ke(_) => PayloadType::KE,
        Payload::IdI(_) => PayloadType::IDI,
        Payload::IdR(_) => PayloadType::IDR,
        Payload::Cert(_) => PayloadType::CERT,
        Payload::CertReq(_) => PayloadType::CERTREQ,
        Payload::Auth(_) => PayloadType::AUTH,
        Payload::Nonce(_) => PayloadType::NONCE,
        Payload::Notify(_) => PayloadType::NOTIFY,
        Payload::Delete(_) => PayloadType::DELETE,
        Payload::VendorId(_) => PayloadType::VENDOR_ID,
        Payload::TsI(_) => PayloadType::TSI,
        Payload::TsR(_) => PayloadType::TSR,
        Payload::Cp(_) => PayloadType::CP,
        Payload::PuzzleSolution(_) => PayloadType::PUZZLE_SOLUTION,
        Payload::Unknown { payload_type, .. } => *payload_type,
    }
}

/// The header's octets, for a message of `length` octets in all whose first payload is `first`.
#[must_use]
pub fn encode_header(header: &Header, first: PayloadType, length: usize) -> [u8; Header::LEN] {
    let mut out = [0; Header::LEN];
    out[..8].copy_from_slice(&header.spi_i.0);
    out[8..16].copy_from_slice(&header.spi_r.0);
    let flags = if header.flags.initiator { INITIATOR } else { 0 } | if header.flags.response { RESPONSE } else { 0 };
    out[16..20].copy_from_slice(&[first.0, VERSION, header.exchange.0, flags]);
    out[20..24].copy_from_slice(&header.message_id.to_be_bytes());
    out[24..].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    out
}

/// Frames an unprotected message: header with Length, then the chain.
#[must_use]
pub fn encode_plain(header: &Header, payloads: &[Payload]) -> Vec<u8> {
    let (first, chain) = encode_payloads(payloads);
    let mut out = encode_header(header, first, Header::LEN + chain.len()).to_vec();
    out.extend_from_slice(&chain);
    out
}
