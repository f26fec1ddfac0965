//! Identities in words (RFC 7296 §3.5): `10.0.0.1`, `gw.example.com`, `user@example.com`, `C=CH, CN=gw`,
//! `keyid:0a0b0c`.

use crate::pki::name;
use crate::wire::{IdType, Identification};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

impl fmt::Display for Identification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.id_type, self.data.as_slice()) {
            (IdType::IPV4_ADDR, &[a, b, c, d]) => write!(f, "{}", Ipv4Addr::new(a, b, c, d)),
            (IdType::IPV6_ADDR, data) if data.len() == 16 => {
                let mut octets = [0; 16];
                octets.copy_from_slice(data);
                write!(f, "{}", Ipv6Addr::from(octets))
            }
            (IdType::FQDN | IdType::RFC822_ADDR, data) => write_text(f, data),
            (IdType::DER_ASN1_DN, data) => match name::to_words(data) {
                Some(words) => f.write_str(&words),
                None => write_hex(f, data),
            },
            (IdType::KEY_ID, data) => {
                f.write_str("keyid:")?;
                if printable(data) {
                    write_text(f, data)
                } else {
                    write_hex(f, data)
                }
            }
            (other, data) => {
                write!(f, "{other}:")?;
                write_hex(f, data)
            }
        }
    }
}

fn printable(data: &[u8]) -> bool {
    !data.is_empty() && data.iter().all(|octet| octet.is_ascii_graphic())
}

/// What a peer sent is shown escaped and cut: it is its text, not ours.
fn write_text(f: &mut fmt::Formatter<'_>, data: &[u8]) -> fmt::Result {
    write!(f, "{}", data[..data.len().min(255)].escape_ascii())
}

fn write_hex(f: &mut fmt::Formatter<'_>, data: &[u8]) -> fmt::Result {
    data.iter().take(64).try_for_each(|octet| write!(f, "{octet:02x}"))?;
    if data.len() > 64 { f.write_str("...") } else { Ok(()) }
}

impl Identification {
    /// An identity of a type, RESERVED zero.
    #[must_use]
    pub const fn new(id_type: IdType, data: Vec<u8>) -> Self {
        Self {
            id_type,
            reserved: [0; 3],
            data,
        }
    }

    /// An address.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::new(IdType::IPV4_ADDR, v4.octets().to_vec()),
            IpAddr::V6(v6) => Self::new(IdType::IPV6_ADDR, v6.octets().to_vec()),
        }
    }

    /// Reads an identity as operators write it: an address, a name, `user@name`, a distinguished name, or with a prefix `fqdn:`, `email:`,
    /// `keyid:` (text, or `0x` and hex). A leading `@` makes a name of what follows, as with other implementations.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("an identity can't be empty".to_owned());
        }
        if let Some(name) = text.strip_prefix("fqdn:").or_else(|| text.strip_prefix('@')) {
            return Ok(Self::new(IdType::FQDN, name.as_bytes().to_vec()));
        }
        if let Some(mail) = text.strip_prefix("email:") {
            return Ok(Self::new(IdType::RFC822_ADDR, mail.as_bytes().to_vec()));
        }
        if let Some(key) = text.strip_prefix("keyid:") {
            let data = match key.strip_prefix("0x") {
                Some(hex) => from_hex(hex).ok_or_else(|| format!("keyid:{key}: not hexadecimal"))?,
                None => key.as_bytes().to_vec(),
            };
            return Ok(Self::new(IdType::KEY_ID, data));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::address(address));
        }
        if text.contains('=') {
            return name::parse(text).map(|der| Self::new(IdType::DER_ASN1_DN, der));
        }
        if text.contains('@') {
            return Ok(Self::new(IdType::RFC822_ADDR, text.as_bytes().to_vec()));
        }
        if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._*".contains(&b)) {
            return Ok(Self::new(IdType::FQDN, text.as_bytes().to_vec()));
        }
        Err(format!(
            "{text:?} is neither an address, a name nor user@name; for anything else write keyid:..."
        ))
    }

    /// Whether two identities are the same. RESERVED does not count; names compare without regard to case,
    /// distinguished names attribute by attribute.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.id_type == other.id_type
            && match self.id_type {
                IdType::FQDN | IdType::RFC822_ADDR => self.data.eq_ignore_ascii_case(&other.data),
                IdType::DER_ASN1_DN => name::same(&self.data, &other.data),
                _ => self.data == other.data,
            }
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).map(|d| d as u8))
        .collect::<Option<_>>()?;
    digits
        .len()
        .is_multiple_of(2)
        .then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_survive_a_round_trip() {
        for text in [
            "10.0.0.1",
            "2001:db8::1",
            "gw.example.com",
            "user@example.com",
            "keyid:office",
            "C=CH, O=Example, CN=gw",
        ] {
            assert_eq!(Identification::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Identification::parse("keyid:0x00ff").unwrap().to_string(), "keyid:00ff");
        assert_eq!(Identification::parse("@10.0.0.1").unwrap().id_type, IdType::FQDN);
        assert_eq!(Identification::parse("CN=gw").unwrap().id_type, IdType::DER_ASN1_DN);
        assert!(Identification::parse("XX=gw").unwrap_err().contains("is not known"));
        assert!(Identification::parse("").is_err());
    }

    #[test]
    fn a_hostile_identity_is_escaped_and_cut() {
        let id = Identification::new(IdType::FQDN, b"\x1b[31m\n".repeat(1000));
        let text = id.to_string();
        assert!(
            text.len() < 1500 && text.chars().all(|c| c.is_ascii_graphic() || c == ' '),
            "{text}"
        );
        for id_type in 0..=255 {
            let _ = Identification::new(IdType(id_type), vec![0xff; 65_000]).to_string();
        }
    }

    #[test]
    fn names_compare_without_case_and_types_with() {
        let id = |text: &str| Identification::parse(text).unwrap();
        assert!(id("GW.example").same(&id("gw.EXAMPLE")));
        assert!(!id("gw.example").same(&id("gw2.example")));
        assert!(!id("@10.0.0.1").same(&id("10.0.0.1")));
    }
}
