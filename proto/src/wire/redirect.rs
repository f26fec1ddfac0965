//! Sending an initiator to another gateway: the notifies of RFC 5685 §9.

use super::payload::Notify;
use super::reader::Reader;
use super::sort::Parts;
use super::{DecodeError, NotifyType};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Octets of the longest name (RFC 1035 §2.3.4, without the root).
const LONGEST_NAME: usize = 253;

/// Gateway Identity Types (§12).
const IPV4: u8 = 1;
const IPV6: u8 = 2;
const FQDN: u8 = 3;

/// Another gateway: "its IP address or DNS name" (§9.2).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum GatewayIdentity {
    /// By its address.
    Address(IpAddr),
    /// By a name, which resolves to one.
    Name(String),
}

/// N(REDIRECT): "the New Responder GW Identity", and in IKE_SA_INIT the nonce of the request (§9.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redirect {
    /// Where to.
    pub to: GatewayIdentity,
    /// Ni; empty everywhere but in IKE_SA_INIT.
    pub nonce: Vec<u8>,
}

/// What an initiator says in IKE_SA_INIT: that it can be sent elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RedirectSupport {
    /// REDIRECT_SUPPORTED (§9.1).
    Announced,
    /// REDIRECTED_FROM: it was, by the gateway with this address (§9.3: "This payload also serves the purpose of indicating
    /// support for the redirect mechanism").
    From(IpAddr),
}

impl GatewayIdentity {
    /// An address or a name, as it is written.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.parse() {
            Ok(address) => Some(Self::Address(address)),
            Err(_) => is_name(text.as_bytes()).then(|| Self::Name(text.to_owned())),
        }
    }

    /// Type, length and identity, as in both notifies. §9.2: they "MUST be encoded as described in Section 3.5" of RFC 7296.
    fn encode(&self) -> Vec<u8> {
        let (kind, octets) = match self {
            Self::Address(IpAddr::V4(address)) => (IPV4, address.octets().to_vec()),
            Self::Address(IpAddr::V6(address)) => (IPV6, address.octets().to_vec()),
            Self::Name(name) => (FQDN, name.as_bytes().to_vec()),
        };
        let length = u8::try_from(octets.len()).unwrap_or(u8::MAX);
        [vec![kind, length], octets].concat()
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let (kind, length) = (reader.u8().ok()?, reader.u8().ok()?);
        let octets = reader.take(length.into()).ok()?;
        match kind {
            IPV4 => <[u8; 4]>::try_from(octets)
                .ok()
                .map(|octets| Self::Address(Ipv4Addr::from(octets).into())),
            IPV6 => <[u8; 16]>::try_from(octets)
                .ok()
                .map(|octets| Self::Address(Ipv6Addr::from(octets).into())),
            FQDN if is_name(octets) => String::from_utf8(octets.to_vec()).ok().map(Self::Name),
            _ => None,
        }
    }
}

impl std::fmt::Display for GatewayIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// What a resolver and a log can be given: letters, digits, hyphens, dots (and the underscores that some have).
fn is_name(octets: &[u8]) -> bool {
    let fine = |octet: &u8| octet.is_ascii_alphanumeric() || b"-._".contains(octet);
    (1..=LONGEST_NAME).contains(&octets.len())
        && octets.iter().all(fine)
        && octets.first().is_some_and(u8::is_ascii_alphanumeric)
}

impl Redirect {
    /// What a notify says.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`]: it names no gateway.
    pub fn decode(notify: &Notify) -> Result<Self, DecodeError> {
        let mut reader = Reader::new("REDIRECT", &notify.data);
        let to = GatewayIdentity::decode(&mut reader).ok_or(DecodeError::Invalid {
            what: "REDIRECT",
            why: "it names no gateway",
        })?;
        let nonce = reader.rest().to_vec();
        Ok(Self { to, nonce })
    }

    /// As it is sent. §9.2: "The 'Protocol ID' MUST be set to 0", and the SPI Size.
    #[must_use]
    pub fn notify(&self) -> Notify {
        let data = [self.to.encode(), self.nonce.clone()].concat();
        Notify::new(NotifyType::REDIRECT, data)
    }

    /// Where a protected message sends us, if it does. §9.2: the nonce "MUST NOT be included" there; what is there all the same
    /// means nothing.
    #[must_use]
    pub fn among(notifies: &[Notify]) -> Option<GatewayIdentity> {
        let is_one = |notify: &&Notify| notify.notify_type == NotifyType::REDIRECT;
        let found = notifies.iter().find(is_one)?;
        Self::decode(found).ok().map(|redirect| redirect.to)
    }
}

impl RedirectSupport {
    /// Takes the announcements out. A REDIRECTED_FROM that can't be read is none.
    pub(super) fn take(parts: &mut Parts) -> Option<Self> {
        let announced = parts.take(NotifyType::REDIRECT_SUPPORTED);
        let from = parts.take(NotifyType::REDIRECTED_FROM);
        let address = from.first().and_then(|notify| {
            match GatewayIdentity::decode(&mut Reader::new("REDIRECTED_FROM", &notify.data))? {
                GatewayIdentity::Address(address) => Some(address),
                GatewayIdentity::Name(_) => None,
            }
        });
        let announced = (!announced.is_empty()).then_some(Self::Announced);
        address.map(Self::From).or(announced)
    }

    /// As it is sent.
    pub(super) fn notify(self) -> Notify {
        match self {
            Self::Announced => Notify::new(NotifyType::REDIRECT_SUPPORTED, Vec::new()),
            Self::From(address) => Notify::new(NotifyType::REDIRECTED_FROM, GatewayIdentity::Address(address).encode()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_what_was_written() {
        for (text, octets) in [
            ("192.0.2.7", &[1, 4, 192, 0, 2, 7][..]),
            (
                "2001:db8::7",
                &[2, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
            ),
            ("gw.example", b"\x03\x0agw.example"),
        ] {
            let to = GatewayIdentity::parse(text).unwrap();
            let redirect = Redirect { to, nonce: vec![9; 32] };
            let notify = redirect.notify();
            assert_eq!(notify.data, [octets, &[9; 32]].concat());
            assert_eq!((notify.protocol.0, notify.spi.len()), (0, 0));
            assert_eq!(Redirect::decode(&notify), Ok(redirect.clone()));
            assert_eq!(Redirect::among(&[notify]), Some(redirect.to.clone()));
            assert_eq!(redirect.to.to_string(), text);
        }
    }

    #[test]
    fn what_names_no_gateway_is_none() {
        let long = [&[3, 254][..], &[b'a'; 254]].concat();
        for data in [
            &[][..],
            &[1],
            &[1, 4, 192, 0, 2],
            &[1, 3, 192, 0, 2],
            &[1, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            &[2, 4, 192, 0, 2, 1],
            &[3, 0],
            &[0, 4, 192, 0, 2, 1],
            &[4, 4, 192, 0, 2, 1],
            b"\x03\x03a b",
            b"\x03\x03-ab",
            b"\x03\x03a\x0ab",
            b"\x03\x02\xc3\xa4",
            &long,
        ] {
            assert!(Redirect::decode(&Notify::new(NotifyType::REDIRECT, data.to_vec())).is_err());
        }
        assert_eq!(GatewayIdentity::parse("two words"), None);
    }
}
