//! Traffic selectors (RFC 7296 §3.13).

use super::payload::TrafficSelector;
use super::reader::Reader;
use super::writer::Writer;
use super::{DecodeError, TsType, limits};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) fn decode(body: &[u8]) -> Result<Vec<TrafficSelector>, DecodeError> {
    let mut reader = Reader::new("TS payload", body);
    let count = usize::from(reader.u8()?);
    reader.take(3)?; // RESERVED
    if count == 0 {
        return Err(DecodeError::Invalid {
            what: "TS payload",
            why: "no traffic selector",
        });
    }
    if count > limits::SELECTORS {
        return Err(DecodeError::TooMany {
            what: "traffic selectors",
            cap: limits::SELECTORS,
        });
    }
    let mut selectors = Vec::with_capacity(count);
    for _ in 0..count {
        let ts_type = reader.u8()?;
        let protocol = reader.u8()?;
        let length = usize::from(reader.u16()?);
        let rest = length.checked_sub(4).ok_or(DecodeError::BadLength {
            what: "traffic selector",
            length,
        })?;
        selectors.push(decode_selector(ts_type, protocol, reader.take(rest)?)?);
    }
    reader.finish()?;
    Ok(selectors)
}

fn decode_selector(ts_type: u8, protocol: u8, octets: &[u8]) -> Result<TrafficSelector, DecodeError> {
    let mut reader = Reader::new("traffic selector", octets);
    let family = TsType(ts_type);
    if family != TsType::IPV4_ADDR_RANGE && family != TsType::IPV6_ADDR_RANGE {
        return Ok(TrafficSelector::Unknown {
            ts_type,
            protocol,
            body: octets.to_vec(),
        });
    }
    let (start_port, end_port) = (reader.u16()?, reader.u16()?);
    let (start, end): (IpAddr, IpAddr) = if family == TsType::IPV4_ADDR_RANGE {
        (
            Ipv4Addr::from(reader.array::<4>()?).into(),
            Ipv4Addr::from(reader.array::<4>()?).into(),
        )
    } else {
        (
            Ipv6Addr::from(reader.array::<16>()?).into(),
            Ipv6Addr::from(reader.array::<16>()?).into(),
        )
    };
    reader.finish()?;
    // RFC 7296 §3.13.1: "Starting Address - The smallest address included in this Traffic Selector".
    if start > end {
        return Err(DecodeError::Invalid {
            what: "traffic selector",
            why: "the first address is above the last",
        });
    }
    // §3.13.1: start 65535 with end 0 is OPAQUE; any other start above its end says nothing.
    if start_port > end_port && (start_port, end_port) != (65535, 0) {
        return Err(DecodeError::Invalid {
            what: "traffic selector",
            why: "the first port is above the last",
        });
    }
    Ok(TrafficSelector::Range {
        protocol,
        start_port,
        end_port,
        start,
        end,
    })
}

pub(super) fn encode(selectors: &[TrafficSelector], writer: &mut Writer<'_>) {
    writer.u8(u8::try_from(selectors.len()).unwrap_or(u8::MAX));
    writer.octets(&[0; 3]);
    for selector in selectors {
        match selector {
            TrafficSelector::Range {
                protocol,
                start_port,
                end_port,
                start,
                end,
            } => {
                let family = if start.is_ipv4() {
                    TsType::IPV4_ADDR_RANGE
                } else {
                    TsType::IPV6_ADDR_RANGE
                };
                let open = writer.open(family.0, *protocol);
                writer.u16(*start_port);
                writer.u16(*end_port);
                for address in [start, end] {
                    match address {
                        IpAddr::V4(v4) => writer.octets(&v4.octets()),
                        IpAddr::V6(v6) => writer.octets(&v6.octets()),
                    }
                }
                writer.close(open);
            }
            TrafficSelector::Unknown {
                ts_type,
                protocol,
                body,
            } => {
                let open = writer.open(*ts_type, *protocol);
                writer.octets(body);
                writer.close(open);
            }
        }
    }
}
