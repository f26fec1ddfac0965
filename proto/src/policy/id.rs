//! Identities in words (RFC 7296 §3.5): `10.0.0.1`, `gw.example.com`, `user@example.com`, `C=CH, CN=gw`,
//! `keyid:0x0a0b0c`.

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

    /// Reads an identity as operators write it: an address, a name, `user@name`, a distinguished name, or what a prefix says:
    /// `ipv4:`, `ipv6:`, `fqdn:` or `dns:`, `email:`, `rfc822:` or `userfqdn:`, `asn1dn:`, `keyid:`. After `asn1dn:` and
    /// `keyid:` hex may stand, as `0x...` or `#...`. As with other implementations, `@` makes a name of what follows, `@@` a
    /// mail address, `@#` a key ID in hex.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("an identity can't be empty".to_owned());
        }
        let plain = |id_type, text: &str| Ok(Self::new(id_type, text.as_bytes().to_vec()));
        if let Some(rest) = text.strip_prefix('@') {
            return match rest.as_bytes().first() {
                Some(b'#') => from_hex(&rest[1..])
                    .map(|data| Self::new(IdType::KEY_ID, data))
                    .ok_or_else(|| format!("{text}: not hexadecimal")),
                Some(b'@') => plain(IdType::RFC822_ADDR, &rest[1..]),
                _ => plain(IdType::FQDN, rest),
            };
        }
        if let Some((prefix, rest)) = text.split_once(':') {
            let octets = || {
                let hex = rest.strip_prefix("0x").or_else(|| rest.strip_prefix('#'));
                hex.map(|hex| from_hex(hex).ok_or_else(|| format!("{text}: not hexadecimal")))
            };
            match prefix {
                "fqdn" | "dns" => return plain(IdType::FQDN, rest),
                "email" | "rfc822" | "userfqdn" => return plain(IdType::RFC822_ADDR, rest),
                "keyid" => {
                    let data = octets().unwrap_or_else(|| Ok(rest.as_bytes().to_vec()))?;
                    return Ok(Self::new(IdType::KEY_ID, data));
                }
                "asn1dn" => {
                    let der = octets().unwrap_or_else(|| name::parse(rest))?;
                    return match name::to_words(&der) {
                        Some(_) => Ok(Self::new(IdType::DER_ASN1_DN, der)),
                        None => Err(format!("{text}: these octets are not the DER of a distinguished name")),
                    };
                }
                "ipv4" => {
                    let address = rest.parse().map(|address: Ipv4Addr| Self::address(address.into()));
                    return address.map_err(|_| format!("{text}: {rest:?} is not an IPv4 address"));
                }
                "ipv6" => {
                    let address = rest.parse().map(|address: Ipv6Addr| Self::address(address.into()));
                    return address.map_err(|_| format!("{text}: {rest:?} is not an IPv6 address"));
                }
                _ => {}
            }
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
            "{text:?} is neither an address, a name nor user@name; for anything else write keyid:..., or another prefix"
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

    /// The prefixes and signs of swanctl.conf.
    #[test]
    fn a_prefix_says_the_type() {
        let same = [
            ("ipv4:10.0.0.1", "10.0.0.1"),
            ("ipv6:2001:db8::1", "2001:DB8::1"),
            ("fqdn:gw.example", "gw.example"),
            ("dns:gw.example", "@gw.example"),
            ("email:a@b.example", "a@b.example"),
            ("rfc822:a@b.example", "@@a@b.example"),
            ("userfqdn:a@b.example", "email:a@b.example"),
            ("asn1dn:C=CH, CN=gw", "C=CH, CN=gw"),
            ("asn1dn:#300d310b3009060355040613024348", "C=CH"),
            ("asn1dn:0x300d310b3009060355040613024348", "C=CH"),
            ("keyid:#00fF", "keyid:0x00ff"),
            ("@#00ff", "keyid:0x00ff"),
            ("keyid:office", "keyid:0x6f6666696365"),
        ];
        for (a, b) in same {
            let id = |text: &str| Identification::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!(id(a), id(b), "{a} and {b}");
        }
        assert_eq!(
            Identification::parse("email:10.0.0.1").unwrap().id_type,
            IdType::RFC822_ADDR
        );
        let wrong = [
            "ipv4:2001:db8::1",
            "ipv6:10.0.0.1",
            "ipv4:gw",
            "asn1dn:gw",
            "asn1dn:#3001",
            "keyid:#0",
            "@#xy",
        ];
        for text in wrong {
            assert!(Identification::parse(text).is_err(), "{text}");
        }
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
