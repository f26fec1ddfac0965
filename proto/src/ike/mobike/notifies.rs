//! The contents of MOBIKE's notifies, and which addresses they may have (RFC 4555 §3.6, §3.9, §4.2).

use super::MOST_ADDRESSES;
use crate::policy::connection::Connection;
use crate::policy::sad::Path;
use crate::policy::selector::{self, PortMatch, SelectorSet};
use crate::wire::{Notify, NotifyType};
use std::net::{IpAddr, SocketAddr};

/// N(NO_NATS_ALLOWED) for a message on a path (§4.2.6): addresses, then ports, of source and destination.
#[must_use]
pub fn no_nats_allowed(source: SocketAddr, destination: SocketAddr) -> Notify {
    let mut data = Vec::with_capacity(36);
    for address in [source.ip(), destination.ip()] {
        match address {
            IpAddr::V4(v4) => data.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => data.extend_from_slice(&v6.octets()),
        }
    }
    for port in [source.port(), destination.port()] {
        data.extend_from_slice(&port.to_be_bytes());
    }
    Notify::new(NotifyType::NO_NATS_ALLOWED, data)
}

/// Whether a message that came by `path` says NO_NATS_ALLOWED, and met one (§3.9: "The exchange responder MUST verify that
/// the contents of the NO_NATS_ALLOWED notification match the addresses in the IP header").
#[must_use]
pub fn met_a_nat(path: Path, notifies: &[Notify]) -> bool {
    // RFC 9329 §7.1: "In the case of TCP, the NO_NATS_ALLOWED notification SHOULD be ignored".
    if path.is_tcp() {
        return false;
    }
    let expected = no_nats_allowed(path.remote, path.local);
    notifies
        .iter()
        .any(|notify| notify.notify_type == NotifyType::NO_NATS_ALLOWED && notify.data != expected.data)
}

/// The addresses that a message announces (§3.6: "The new list of addresses replaces the old information"); `None` if it
/// says nothing about them. What is no address to send to is left out, and so is what is over the cap.
#[must_use]
pub fn announced(notifies: &[Notify]) -> Option<Vec<IpAddr>> {
    let mut any = false;
    let mut list = Vec::new();
    for notify in notifies {
        let address = match (notify.notify_type, notify.data.len()) {
            (NotifyType::NO_ADDITIONAL_ADDRESSES, _) => {
                any = true;
                continue;
            }
            (NotifyType::ADDITIONAL_IP4_ADDRESS, 4) => {
                <[u8; 4]>::try_from(notify.data.as_slice()).ok().map(IpAddr::from)
            }
            (NotifyType::ADDITIONAL_IP6_ADDRESS, 16) => {
                <[u8; 16]>::try_from(notify.data.as_slice()).ok().map(IpAddr::from)
            }
            _ => continue,
        };
        any = true;
        let address = address.filter(|address| is_an_end(*address) && !list.contains(address));
        list.extend(address.filter(|_| list.len() < MOST_ADDRESSES));
    }
    any.then_some(list)
}

/// ADDITIONAL_IP4_ADDRESS and ADDITIONAL_IP6_ADDRESS (§4.2.2).
#[must_use]
pub fn additional(addresses: &[IpAddr]) -> Vec<Notify> {
    let notify = |address: &IpAddr| match address {
        IpAddr::V4(v4) => Notify::new(NotifyType::ADDITIONAL_IP4_ADDRESS, v4.octets().to_vec()),
        IpAddr::V6(v6) => Notify::new(NotifyType::ADDITIONAL_IP6_ADDRESS, v6.octets().to_vec()),
    };
    addresses.iter().map(notify).collect()
}

/// Whether a gateway can be at this address.
pub(super) fn is_an_end(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !broadcast
}

/// Whether packets to this address would go into one of the connection's own tunnels, `local` or remote side.
pub(super) fn is_inside(connection: &Connection, address: IpAddr, local: bool) -> bool {
    connection.children.values().any(|child| {
        let list = if local { &child.local_ts } else { &child.remote_ts };
        let whole = |selector: &&crate::wire::TrafficSelector| {
            // 0.0.0.0/0 says nothing about where the gateways are: routes are given apart from it.
            selector::to_prefixes(selector)
                .first()
                .is_some_and(|(_, length)| *length > 0)
        };
        let list: Vec<_> = list.iter().filter(whole).cloned().collect();
        SelectorSet::new(&list).contains(address, 0, PortMatch::Opaque)
    })
}

/// Our addresses that the peer may be told of besides the one in use: those configured as ours, or else those that are not
/// in a network behind us.
#[must_use]
pub fn further_addresses(connection: &Connection, ours: &[IpAddr], in_use: IpAddr) -> Vec<IpAddr> {
    let fits = |address: &&IpAddr| {
        **address != in_use
            && if connection.local_addrs.is_empty() {
                !is_inside(connection, **address, true)
            } else {
                connection.local_addrs.contains(address)
            }
    };
    ours.iter().filter(fits).take(MOST_ADDRESSES).copied().collect()
}

/// The digests in NAT detection notifies of a type.
#[must_use]
pub fn digests(notifies: &[Notify], wanted: NotifyType) -> Vec<[u8; 20]> {
    let of_type = notifies.iter().filter(|notify| notify.notify_type == wanted);
    of_type
        .filter_map(|notify| <[u8; 20]>::try_from(notify.data.as_slice()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notify(notify_type: NotifyType) -> Notify {
        Notify::new(notify_type, Vec::new())
    }

    /// What a peer may announce has an end, and is nothing but addresses.
    #[test]
    fn announced_addresses() {
        let four = |octets: &[u8]| Notify::new(NotifyType::ADDITIONAL_IP4_ADDRESS, octets.to_vec());
        assert_eq!(announced(&[notify(NotifyType::COOKIE2)]), None);
        assert_eq!(announced(&[notify(NotifyType::NO_ADDITIONAL_ADDRESSES)]), Some(vec![]));
        let odd: [&[u8]; 5] = [&[], &[1, 2, 3], &[0, 0, 0, 0], &[224, 0, 0, 1], &[255; 4]];
        for octets in odd {
            assert!(announced(&[four(octets)]).unwrap_or_default().is_empty(), "{octets:?}");
        }
        let many: Vec<Notify> = (0..30).map(|n| four(&[192, 0, 2, n])).collect();
        assert_eq!(announced(&many).unwrap().len(), MOST_ADDRESSES);
        assert_eq!(
            announced(&[four(&[192, 0, 2, 1]), four(&[192, 0, 2, 1])])
                .unwrap()
                .len(),
            1
        );
        assert_eq!(
            announced(&additional(&["2001:db8::1".parse().unwrap()])).unwrap().len(),
            1
        );
    }
}
