//! Values with a unit or a syntax of their own: durations, octets, addresses, prefixes.

use super::Prefix;
use super::document::Value;
use std::net::IpAddr;
use std::time::Duration;

/// Longest duration taken: a year.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// `"30s"`, `"1h 30m"`, or an integer of seconds.
pub(super) fn duration(value: &Value<'_, '_>) -> Option<Duration> {
    if value.is_integer() {
        return value.integer(0..=LONGEST.as_secs()).map(Duration::from_secs);
    }
    let remedy = || Some("write for example \"30s\", \"5m\", \"4h\" or \"1h 30m\"".to_owned());
    if !value.is_string() {
        value.error("a duration is expected", remedy());
        return None;
    }
    let text = value.string()?;
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= LONGEST => return Some(duration),
        Ok(_) => value.error(format!("{text:?} is longer than a year"), None),
        Err(_) => value.error(format!("{text:?} is not a duration"), remedy()),
    }
    None
}

/// A duration of which zero means never.
pub(super) fn duration_or_never(value: &Value<'_, '_>) -> Option<Option<Duration>> {
    duration(value).map(|d| (!d.is_zero()).then_some(d))
}

/// A duration above zero.
pub(super) fn some_duration(value: &Value<'_, '_>) -> Option<Duration> {
    let found = duration(value)?;
    if found.is_zero() {
        value.error("0 is not possible here", None);
        return None;
    }
    Some(found)
}

/// An integer of octets, or with a unit: `"10 GB"`, `"512 MiB"`.
pub(super) fn octets(value: &Value<'_, '_>) -> Option<u64> {
    if !value.is_string() {
        return value.integer(1..=u64::MAX >> 1);
    }
    let text = value.string()?;
    let found = parse_octets(text);
    if found.is_none() {
        value.error(
            format!("{text:?} is not a number of octets"),
            Some("write an integer, or for example \"10 GB\" or \"512 MiB\"".to_owned()),
        );
    }
    found
}

fn parse_octets(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor).filter(|n| *n > 0)
}

/// Bits a second: an integer, or with a unit: `"10Mbit/s"`, `"64 kbit/s"`.
pub(super) fn bit_rate(value: &Value<'_, '_>, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
    if !value.is_string() {
        return value.integer(range);
    }
    let text = value.string()?;
    let found = parse_bit_rate(text).filter(|rate| range.contains(rate));
    if found.is_none() {
        value.error(
            format!(
                "{text:?} is no rate between {} bit/s and {} bit/s",
                range.start(),
                range.end()
            ),
            Some("write for example \"10Mbit/s\", \"500 kbit/s\" or \"1Gbit/s\"".to_owned()),
        );
    }
    found
}

fn parse_bit_rate(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().trim_end_matches("/s") {
        "bit" | "bps" => 1,
        "kbit" | "kbps" => 1_000,
        "Mbit" | "Mbps" => 1_000_000,
        "Gbit" | "Gbps" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// An integer that fits the type.
pub(super) fn integer<T: TryFrom<u64>>(value: &Value<'_, '_>, range: std::ops::RangeInclusive<u64>) -> Option<T> {
    value.integer(range).and_then(|n| T::try_from(n).ok())
}

/// A prefix as text: `10.1.0.0/16`, or an address alone (32 or 128 bits).
///
/// # Errors
/// The problem in words.
pub(super) fn parse_prefix(text: &str) -> Result<Prefix, String> {
    let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
    let address: IpAddr = address
        .parse()
        .map_err(|_| format!("{text:?} is not an address or prefix"))?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => longest,
        Some(bits) => bits
            .parse()
            .ok()
            .filter(|bits| *bits <= longest)
            .ok_or_else(|| format!("{text:?}: the prefix length must be between 0 and {longest}"))?,
    };
    Ok(Prefix { address, length })
}

/// A list of networks: no bits beyond the prefix.
pub(super) fn networks(value: &Value<'_, '_>) -> Option<Vec<Prefix>> {
    let mut list = Vec::new();
    for (text, item) in value.strings()? {
        match parse_prefix(text) {
            Ok(prefix) if prefix.network() == prefix => list.push(prefix),
            Ok(prefix) => item.error(
                format!("{text:?} has bits set beyond its prefix"),
                Some(format!("the network is {:?}", prefix.network().to_string())),
            ),
            Err(problem) => item.error(problem, None),
        }
    }
    Some(list)
}

/// A list of interface addresses with their prefix length.
pub(super) fn addresses(value: &Value<'_, '_>) -> Option<Vec<Prefix>> {
    let mut list = Vec::new();
    for (text, item) in value.strings()? {
        match parse_prefix(text) {
            Ok(prefix) => list.push(prefix),
            Err(problem) => item.error(problem, None),
        }
    }
    Some(list)
}

/// Whether a word means "any address".
pub(super) fn is_any(word: &str) -> bool {
    matches!(
        word,
        "%any" | "%any4" | "%any6" | "any" | "0.0.0.0/0" | "::/0" | "0.0.0.0" | "::"
    )
}

/// Whether text can be a host name: letters, digits, hyphens in dotted labels (RFC 1123 §2.1); not all digits.
pub(super) fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    // What looks like a mistyped address (203.0.113.777) is not a name.
    name.len() <= 253 && name.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit())
}

impl Prefix {
    /// The prefix with all bits beyond its length cleared.
    #[must_use]
    pub fn network(self) -> Self {
        let address = match self.address {
            IpAddr::V4(a) => IpAddr::V4((a.to_bits() & mask32(self.length)).into()),
            IpAddr::V6(a) => IpAddr::V6((a.to_bits() & mask128(self.length)).into()),
        };
        Self { address, ..self }
    }

    /// Whether an address lies within.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Self { address, ..self }.network() == self.network()
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

fn mask32(length: u8) -> u32 {
    u32::MAX.checked_shl(32_u32.saturating_sub(length.into())).unwrap_or(0)
}

fn mask128(length: u8) -> u128 {
    u128::MAX
        .checked_shl(128_u32.saturating_sub(length.into()))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_contain() {
        let net = parse_prefix("10.1.0.0/16").unwrap();
        assert!(net.contains("10.1.255.255".parse().unwrap()));
        assert!(!net.contains("10.2.0.0".parse().unwrap()) && !net.contains("::1".parse().unwrap()));
        assert!(
            parse_prefix("0.0.0.0/0")
                .unwrap()
                .contains("203.0.113.7".parse().unwrap())
        );
        assert_eq!(parse_prefix("10.1.2.3/16").unwrap().network(), net);
        assert!(parse_prefix("10.1.0.0/33").is_err() && parse_prefix("10.1.0/16").is_err());
    }

    #[test]
    fn octets_have_units() {
        assert_eq!(parse_octets("10 GB"), Some(10_000_000_000));
        assert_eq!(parse_octets("512MiB"), Some(512 << 20));
        assert_eq!(
            (parse_octets("0"), parse_octets("1.5 GB"), parse_octets("GB")),
            (None, None, None)
        );
    }

    #[test]
    fn names_are_not_mistyped_addresses() {
        assert!(is_host_name("gw.example.net") && is_host_name("localhost"));
        assert!(!is_host_name("203.0.113.777") && !is_host_name("a b") && !is_host_name("") && !is_host_name("-x.net"));
    }
}
