//! Traffic selectors: narrowing (RFC 7296 §2.9), words, prefixes for routes, and the check of inner packets (RFC 4301 §5.2).

use crate::wire::{TrafficSelector, limits};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The port (or ICMP type and code) of a packet, as far as it has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortMatch {
    /// A number.
    Number(u16),
    /// It has none that can be seen (a later fragment, or a protocol without ports): only ANY and OPAQUE match
    /// (RFC 4301 §4.4.1.1).
    Opaque,
}

/// One end's selectors of an SA, compiled for the check of every packet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SelectorSet {
    /// Sorted by first address; `reach` is the highest last address up to and including this entry.
    v4: Vec<Entry>,
    v6: Vec<Entry>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    start: u128,
    end: u128,
    reach: u128,
    protocol: u8,
    ports: (u16, u16),
}

impl SelectorSet {
    /// Compiles a list; types that are not known never match.
    #[must_use]
    pub fn new(list: &[TrafficSelector]) -> Self {
        let mut set = Self::default();
        for selector in list {
            if let TrafficSelector::Range {
                protocol,
                start_port,
                end_port,
                start,
                end,
            } = *selector
            {
                let family = if start.is_ipv4() { &mut set.v4 } else { &mut set.v6 };
                let (start, end) = (number(start), number(end));
                family.push(Entry {
                    start,
                    end,
                    reach: end,
                    protocol,
                    ports: (start_port, end_port),
                });
            }
        }
        for family in [&mut set.v4, &mut set.v6] {
            family.sort_by_key(|entry| (entry.start, entry.end));
            let mut reach = 0;
            for entry in family {
                reach = reach.max(entry.end);
                entry.reach = reach;
            }
        }
        set
    }

    /// Whether a packet's end with this address, protocol and port is inside.
    #[must_use]
    pub fn contains(&self, address: IpAddr, protocol: u8, port: PortMatch) -> bool {
        let (family, address) = if address.is_ipv4() {
            (&self.v4, number(address))
        } else {
            (&self.v6, number(address))
        };
        let candidates = family.partition_point(|entry| entry.start <= address);
        // Backwards from the last that begins at or before the address, while any earlier one still reaches it.
        family[..candidates]
            .iter()
            .rev()
            .take_while(|entry| entry.reach >= address)
            .any(|entry| entry.matches(address, protocol, port))
    }
}

impl Entry {
    fn matches(&self, address: u128, protocol: u8, port: PortMatch) -> bool {
        let port_matches = match (self.ports, port) {
            ((0, 65535), _) | ((65535, 0), PortMatch::Opaque) => true,
            ((start, end), PortMatch::Number(port)) => (start..=end).contains(&port),
            (_, PortMatch::Opaque) => false,
        };
        self.end >= address && (self.protocol == 0 || self.protocol == protocol) && port_matches
    }
}

const fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits() as u128,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// What two selectors have in common.
#[must_use]
pub fn intersect(a: &TrafficSelector, b: &TrafficSelector) -> Option<TrafficSelector> {
    let (
        &TrafficSelector::Range {
            protocol: pa,
            start_port: sa,
            end_port: ea,
            start: fa,
            end: la,
        },
        &TrafficSelector::Range {
            protocol: pb,
            start_port: sb,
            end_port: eb,
            start: fb,
            end: lb,
        },
    ) = (a, b)
    else {
        return None;
    };
    if fa.is_ipv4() != fb.is_ipv4() {
        return None;
    }
    let protocol = match (pa, pb) {
        (0, other) | (other, 0) => other,
        (x, y) if x == y => x,
        _ => return None,
    };
    // OPAQUE is 65535-0 (RFC 7296 §3.13.1): it meets ANY and itself.
    const ANY: (u16, u16) = (0, 65535);
    const OPAQUE: (u16, u16) = (65535, 0);
    let ports = match ((sa, ea), (sb, eb)) {
        (ANY, other) | (other, ANY) => other,
        (OPAQUE, OPAQUE) => OPAQUE,
        (OPAQUE, _) | (_, OPAQUE) => return None,
        ((sa, ea), (sb, eb)) if sa.max(sb) <= ea.min(eb) => (sa.max(sb), ea.min(eb)),
        _ => return None,
    };
    let (start, end) = (fa.max(fb), la.min(lb));
    (start <= end).then_some(TrafficSelector::Range {
        protocol,
        start_port: ports.0,
        end_port: ports.1,
        start,
        end,
    })
}

/// Whether all selectors are for this one address, whatever protocols and ports: what transport mode takes.
#[must_use]
pub fn are_host(list: &[TrafficSelector], address: IpAddr) -> bool {
    let is_it = |selector: &TrafficSelector| matches!(selector, TrafficSelector::Range { start, end, .. } if *start == address && *end == address);
    !list.is_empty() && list.iter().all(is_it)
}

/// Narrows an offer to our policy (RFC 7296 §2.9): what both have in common, in the order of the offer, so that the
/// initiator's first, specific selectors come first; without those that another one covers. Empty: TS_UNACCEPTABLE.
#[must_use]
pub fn narrow(offer: &[TrafficSelector], policy: &[TrafficSelector]) -> Vec<TrafficSelector> {
    let mut out: Vec<TrafficSelector> = Vec::new();
    for common in offer
        .iter()
        .flat_map(|offered| policy.iter().filter_map(|own| intersect(offered, own)))
    {
        if out.len() == limits::SELECTORS {
            break;
        }
        if !is_subset(std::slice::from_ref(&common), &out) {
            out.retain(|earlier| !is_subset(std::slice::from_ref(earlier), std::slice::from_ref(&common)));
            out.push(common);
        }
    }
    out
}

/// Whether two pairs of selector lists have traffic in common.
#[must_use]
pub fn meet(
    (a_local, a_remote): (&[TrafficSelector], &[TrafficSelector]),
    (b_local, b_remote): (&[TrafficSelector], &[TrafficSelector]),
) -> bool {
    let any =
        |a: &[TrafficSelector], b: &[TrafficSelector]| a.iter().any(|a| b.iter().any(|b| intersect(a, b).is_some()));
    any(a_local, b_local) && any(a_remote, b_remote)
}

/// Whether each selector of `inner` lies within those of `outer`, one or several together.
#[must_use]
pub fn is_subset(inner: &[TrafficSelector], outer: &[TrafficSelector]) -> bool {
    inner.iter().all(|small| is_covered(small, outer))
}

/// Sweeps over the addresses of `small` with the selectors that take all of its protocol and ports.
fn is_covered(small: &TrafficSelector, outer: &[TrafficSelector]) -> bool {
    let &TrafficSelector::Range {
        protocol,
        start_port,
        end_port,
        start,
        end,
    } = small
    else {
        return false;
    };
    let mut parts: Vec<(u128, u128)> = outer
        .iter()
        .filter_map(|large| intersect(small, large))
        .filter_map(|common| match common {
            TrafficSelector::Range {
                protocol: p,
                start_port: s,
                end_port: e,
                start,
                end,
            } if (p, s, e) == (protocol, start_port, end_port) => Some((number(start), number(end))),
            _ => None,
        })
        .collect();
    parts.sort_unstable();
    let (mut next, last) = (number(start), number(end));
    for (from, to) in parts {
        if from > next {
            return false;
        }
        if to >= last {
            return true;
        }
        next = next.max(to + 1);
    }
    false
}

/// An address with a prefix length as a selector for all of its traffic.
#[must_use]
pub fn from_prefix(address: IpAddr, length: u8) -> TrafficSelector {
    let (start, end) = match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            let start = v4.to_bits() & mask;
            (
                Ipv4Addr::from_bits(start).into(),
                Ipv4Addr::from_bits(start | !mask).into(),
            )
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            let start = v6.to_bits() & mask;
            (
                Ipv6Addr::from_bits(start).into(),
                Ipv6Addr::from_bits(start | !mask).into(),
            )
        }
    };
    TrafficSelector::Range {
        protocol: 0,
        start_port: 0,
        end_port: 65535,
        start,
        end,
    }
}

/// The fewest prefixes that cover a selector's addresses exactly: for routes.
#[must_use]
pub fn to_prefixes(selector: &TrafficSelector) -> Vec<(IpAddr, u8)> {
    let &TrafficSelector::Range { start, end, .. } = selector else {
        return Vec::new();
    };
    let (width, v4) = if start.is_ipv4() { (32_u32, true) } else { (128, false) };
    let (mut at, last) = (number(start), number(end));
    let mut out = Vec::new();
    loop {
        // The largest block that begins here and does not go beyond the end.
        let mut bits = if at == 0 { width } else { at.trailing_zeros().min(width) };
        while bits > 0 && (bits == 128 || at + ((1_u128 << bits) - 1) > last) && !(bits == 128 && last == u128::MAX) {
            bits -= 1;
        }
        let address = if v4 {
            IpAddr::V4(Ipv4Addr::from_bits(at as u32))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(at))
        };
        out.push((address, (width - bits) as u8));
        let Some(next) = 1_u128.checked_shl(bits).and_then(|size| at.checked_add(size)) else {
            return out;
        };
        if next > last || (v4 && next > u128::from(u32::MAX)) {
            return out;
        }
        at = next;
    }
}

impl fmt::Display for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Range {
            protocol,
            start_port,
            end_port,
            start,
            end,
        } = self
        else {
            let Self::Unknown { ts_type, .. } = self else {
                return Ok(());
            };
            return write!(f, "selector of type {ts_type}");
        };
        match to_prefixes(self).as_slice() {
            [(address, length)] => write!(f, "{address}/{length}")?,
            _ => write!(f, "{start}-{end}")?,
        }
        let name = match protocol {
            0 => "any".to_owned(),
            1 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            58 => "ipv6-icmp".to_owned(),
            other => other.to_string(),
        };
        match (protocol, start_port, end_port) {
            (0, 0, 65535) => Ok(()),
            (_, 0, 65535) => write!(f, "[{name}]"),
            (_, 65535, 0) => write!(f, "[{name}/opaque]"),
            (_, start, end) if start == end => write!(f, "[{name}/{start}]"),
            (_, start, end) => write!(f, "[{name}/{start}-{end}]"),
        }
    }
}

/// Reads a selector as operators write it: `10.1.0.0/16`, `10.1.0.7`, `10.1.0.1-10.1.0.9`, `10.0.0.0/8[tcp/443]`.
///
/// # Errors
/// What is wrong, in words.
pub fn parse(text: &str) -> Result<TrafficSelector, String> {
    let text = text.trim();
    let (addresses, rest) = match text.split_once('[') {
        Some((addresses, rest)) => {
            let rest = rest
                .strip_suffix(']')
                .ok_or_else(|| format!("{text:?}: the closing ] is missing"))?;
            (addresses.trim(), Some(rest))
        }
        None => (text, None),
    };
    let address = |part: &str| {
        part.trim()
            .parse::<IpAddr>()
            .map_err(|_| format!("{:?} is not an IP address", part.trim()))
    };
    let base = if let Some((prefix, length)) = addresses.split_once('/') {
        let prefix = address(prefix)?;
        let most = if prefix.is_ipv4() { 32 } else { 128 };
        let length = length.trim().parse::<u8>().ok().filter(|length| *length <= most);
        let length = length.ok_or_else(|| format!("{addresses:?}: the prefix length goes from 0 to {most}"))?;
        let selector = from_prefix(prefix, length);
        if let TrafficSelector::Range { start, .. } = selector
            && start != prefix
        {
            return Err(format!(
                "{addresses:?} has bits set beyond its prefix; did you mean \"{start}/{length}\"?"
            ));
        }
        selector
    } else if let Some((start, end)) = addresses.split_once('-') {
        let (start, end) = (address(start)?, address(end)?);
        if start.is_ipv4() != end.is_ipv4() || start > end {
            return Err(format!(
                "{addresses:?}: the first address must come before the last, in the same family"
            ));
        }
        TrafficSelector::Range {
            protocol: 0,
            start_port: 0,
            end_port: 65535,
            start,
            end,
        }
    } else {
        let host = address(addresses)?;
        from_prefix(host, if host.is_ipv4() { 32 } else { 128 })
    };
    let (TrafficSelector::Range { start, end, .. }, Some(rest)) = (&base, rest) else {
        return Ok(base);
    };
    let (name, port) = rest
        .split_once('/')
        .map_or((rest, None), |(name, port)| (name, Some(port)));
    let protocol = match name {
        "any" | "" => 0,
        "icmp" => 1,
        "tcp" => 6,
        "udp" => 17,
        "ipv6-icmp" => 58,
        other => other
            .parse::<u8>()
            .map_err(|_| format!("{other:?} is not a protocol: tcp, udp, icmp or a number"))?,
    };
    let number = |part: &str| part.parse::<u16>().map_err(|_| format!("{part:?} is not a port"));
    let (start_port, end_port) = match port {
        None | Some("any") => (0, 65535),
        Some("opaque") => (65535, 0),
        Some(range) => match range.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(range)?, number(range)?),
        },
    };
    if start_port > end_port && port != Some("opaque") {
        return Err(format!("{rest:?}: the first port is above the last"));
    }
    if protocol == 0 && (start_port, end_port) != (0, 65535) {
        return Err(format!("{rest:?}: a port needs a protocol, such as tcp/{start_port}"));
    }
    Ok(TrafficSelector::Range {
        protocol,
        start_port,
        end_port,
        start: *start,
        end: *end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ts(text: &str) -> TrafficSelector {
        parse(text).unwrap()
    }

    fn list(texts: &[&str]) -> Vec<TrafficSelector> {
        texts.iter().map(|text| ts(text)).collect()
    }

    #[test]
    fn words_survive_a_round_trip() {
        for text in [
            "10.1.0.0/16",
            "10.1.0.1-10.1.0.9",
            "10.0.0.0/8[tcp/443]",
            "0.0.0.0/0",
            "::/0",
            "2001:db8::/32[udp/1-9]",
            "10.0.0.1/32[icmp]",
        ] {
            assert_eq!(ts(text).to_string(), text);
        }
        assert!(parse("10.1.2.3/16").unwrap_err().contains("10.1.0.0/16"));
        assert!(
            parse("10.1.0.0/33").is_err() && parse("10.1.0.9-10.1.0.1").is_err() && parse("10.0.0.0/8[/443]").is_err()
        );
    }

    #[test]
    fn narrowing_gives_a_subset_with_the_specific_first() {
        // RFC 7296 §2.9: "IKEv2 allows the responder to choose a subset of the traffic proposed by the initiator."
        let offer = list(&["10.1.0.7/32[tcp/443]", "0.0.0.0/0"]);
        let narrowed = narrow(&offer, &list(&["10.1.0.0/16"]));
        assert_eq!(narrowed, list(&["10.1.0.0/16"]), "the host lies within the network");
        assert!(is_subset(&narrowed, &offer));
        assert_eq!(
            narrow(&list(&["10.1.0.0/16"]), &list(&["10.1.2.0/24", "10.9.0.0/16"])),
            list(&["10.1.2.0/24"])
        );
        assert!(narrow(&list(&["10.1.0.0/16"]), &list(&["10.2.0.0/16", "::/0"])).is_empty());
        assert!(narrow(&list(&["10.1.0.0/16[tcp]"]), &list(&["10.1.0.0/16[udp]"])).is_empty());
        let unknown = TrafficSelector::Unknown {
            ts_type: 10,
            protocol: 0,
            body: vec![],
        };
        assert!(
            narrow(std::slice::from_ref(&unknown), std::slice::from_ref(&unknown)).is_empty(),
            "a type we don't know is never chosen"
        );
    }

    #[test]
    fn opaque_ports_match_only_what_hides_them() {
        let set = SelectorSet::new(&list(&["10.0.0.0/8[tcp/443]"]));
        let at = "10.1.1.1".parse().unwrap();
        assert!(set.contains(at, 6, PortMatch::Number(443)));
        assert!(!set.contains(at, 6, PortMatch::Number(444)) && !set.contains(at, 17, PortMatch::Number(443)));
        assert!(
            !set.contains(at, 6, PortMatch::Opaque),
            "RFC 4301 §7: a later fragment can't match a port"
        );
        assert!(SelectorSet::new(&list(&["10.0.0.0/8[tcp/opaque]"])).contains(at, 6, PortMatch::Opaque));
        assert!(SelectorSet::new(&list(&["10.0.0.0/8"])).contains(at, 6, PortMatch::Opaque));
    }

    proptest! {
        #[test]
        fn prefixes_cover_exactly(start: u32, length in 0_u32..5000) {
            let end = start.saturating_add(length);
            let selector = TrafficSelector::Range { protocol: 0, start_port: 0, end_port: 65535, start: Ipv4Addr::from(start).into(), end: Ipv4Addr::from(end).into() };
            let mut next = u64::from(start);
            for (address, bits) in to_prefixes(&selector) {
                prop_assert_eq!(u64::try_from(number(address)).unwrap(), next);
                next += 1 << (32 - bits);
            }
            prop_assert_eq!(next, u64::from(end) + 1);
        }

        #[test]
        fn the_compiled_set_agrees_with_the_list(ranges in proptest::collection::vec((0_u32..300, 0_u32..40), 0..20), address in 0_u32..350) {
            let list: Vec<_> = ranges.iter().map(|(s, l)| TrafficSelector::Range { protocol: 0, start_port: 0, end_port: 65535, start: Ipv4Addr::from(*s).into(), end: Ipv4Addr::from(s + l).into() }).collect();
            let naive = ranges.iter().any(|(s, l)| (*s..=s + l).contains(&address));
            prop_assert_eq!(SelectorSet::new(&list).contains(Ipv4Addr::from(address).into(), 6, PortMatch::Number(1)), naive);
        }
    }

    #[test]
    fn all_addresses_are_one_prefix() {
        assert_eq!(to_prefixes(&ts("::/0")), [("::".parse().unwrap(), 0)]);
        assert_eq!(to_prefixes(&ts("0.0.0.0/0")), [("0.0.0.0".parse().unwrap(), 0)]);
        assert_eq!(to_prefixes(&ts("ffff::/16")), [("ffff::".parse().unwrap(), 16)]);
    }
}
