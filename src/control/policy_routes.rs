//! Policy routing, for connections whose peer's own address lies behind their tunnel (host to host, VM to VM).
//!
//! Their routes stand in a table of their own, and one rule for each address family leads there whatever does not carry the
//! gateway's mark:
//!
//! ```text
//! 19522: not from all fwmark 0x4c42 lookup 19522
//! ```
//!
//! So the machine's own traffic to the peer goes into the tunnel, also before there is an SA (where it is dropped), and the
//! gateway's IKE and ESP go around it. Behind each route stands an unreachable one: when the gateway is killed, the rule
//! and these stay, and nothing leaves in the clear until it runs again or the rule is deleted.

use super::links::{Links, ROUTE_PROTOCOL, route_said};
use crate::config::Prefix;
use crate::sys::mark;
use futures_util::TryStreamExt as _;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::RouteMessageBuilder;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The table of these routes, and the rule's priority: before the main table's (32766), behind the local one's (0).
pub(super) const TABLE: u32 = mark::OWN;

impl Links {
    /// Makes the rule, if it is not there.
    ///
    /// # Errors
    /// As the system says.
    pub async fn add_rule(&self, ipv6: bool) -> io::Result<()> {
        let mut request = self.handle().rule().add();
        *request.message_mut() = rule(ipv6);
        match request.execute().await {
            Err(rtnetlink::Error::NetlinkError(message)) if message.to_io().kind() == io::ErrorKind::AlreadyExists => {
                Ok(())
            }
            other => other.map_err(|error| route_said("a policy routing rule", error)),
        }
    }

    /// Deletes the rule. That there is none is no error.
    pub async fn remove_rule(&self, ipv6: bool) {
        if let Err(error) = self.handle().rule().del(rule(ipv6)).execute().await {
            tracing::debug!(%error, "no policy routing rule to remove");
        }
    }

    /// Deletes from the table what a gateway that was killed left there, except the unreachable routes of what is wanted
    /// still: with those, nothing gets out in the meantime.
    pub async fn forget_stale_routes(&self, wanted: &[Prefix]) {
        for ipv6 in [false, true] {
            let filter = if ipv6 {
                RouteMessageBuilder::<Ipv6Addr>::new().build()
            } else {
                RouteMessageBuilder::<Ipv4Addr>::new().build()
            };
            let mut found = self.handle().route().get(filter).execute();
            let mut stale = Vec::new();
            while let Ok(Some(route)) = found.try_next().await {
                if is_ours(&route) && prefix(&route).is_some_and(|prefix| !wanted.contains(&prefix)) {
                    stale.push(route);
                }
            }
            for route in stale {
                if let Err(error) = self.handle().route().del(route).execute().await {
                    tracing::debug!(%error, "a stale route stays");
                }
            }
        }
    }
}

fn rule(ipv6: bool) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if ipv6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    message.header.action = RuleAction::ToTable;
    message.header.flags = RuleFlags::Invert;
    message.attributes = vec![
        RuleAttribute::Priority(TABLE),
        RuleAttribute::FwMark(mark::OWN),
        RuleAttribute::FwMask(u32::MAX),
        RuleAttribute::Table(TABLE),
        RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)),
    ];
    message
}

fn is_ours(route: &RouteMessage) -> bool {
    route.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
        && route.attributes.contains(&RouteAttribute::Table(TABLE))
}

fn prefix(route: &RouteMessage) -> Option<Prefix> {
    let length = route.header.destination_prefix_length;
    let any = || match route.header.address_family {
        AddressFamily::Inet => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        AddressFamily::Inet6 => Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        _ => None,
    };
    let given = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    });
    Some(Prefix {
        address: given.or_else(any)?,
        length,
    })
}
