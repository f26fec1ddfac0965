//! The tunnel's interface as the system sees it: state, MTU, addresses, routes, by rtnetlink.
//!
//! Behind each route through a tunnel stands an unreachable one with a worse metric, in case the interface goes away
//! (fail closed: RFC 4301 §5.1 discards what no policy lets through).

use super::policy_routes;
use super::routes::{Route, Way};
use crate::config::Prefix;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope, RouteType};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use std::io;
use std::net::IpAddr;

/// Metric of the unreachable routes: worse than any a tunnel has.
const FAIL_CLOSED_METRIC: u32 = 0x7fff_fff0;

/// `RTPROT_STATIC`'s neighbour of our own choosing (see `/etc/iproute2/rt_protos`): routes we made can be told apart.
pub(super) const ROUTE_PROTOCOL: u8 = 186;

/// Makes changes to links, addresses and routes in the network namespace the daemon runs in.
#[derive(Clone)]
pub struct Links {
    handle: Handle,
}

impl Links {
    /// Opens a netlink socket; its task lives on the current runtime.
    ///
    /// # Errors
    /// As the system says.
    pub fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        drop(tokio::spawn(connection));
        Ok(Self { handle })
    }

    pub(crate) const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Brings an interface up with its MTU and addresses. No IPv6 link-local address is made: nothing of the
    /// machine's own may enter the tunnel unasked.
    ///
    /// # Errors
    /// As the system says.
    pub async fn configure(&self, interface: &str, mtu: u16, addresses: &[Prefix]) -> io::Result<()> {
        let index = index_of(interface)?;
        let quiet = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
                AfSpecInet6::AddrGenMode(In6AddrGenMode::None),
            ])]))
            .build();
        if let Err(error) = self.handle.link().change(quiet).execute().await {
            tracing::debug!(interface, %error, "IPv6 address generation stays on");
        }
        let up = LinkUnspec::new_with_index(index).mtu(u32::from(mtu)).up().build();
        self.handle
            .link()
            .change(up)
            .execute()
            .await
            .map_err(|e| route_said(&format!("interface {interface}"), e))?;
        for address in addresses {
            self.handle
                .address()
                .add(index, address.address, address.length)
                .replace()
                .execute()
                .await
                .map_err(|e| {
                    route_said(
                        &format!("address {}/{} on {interface}", address.address, address.length),
                        e,
                    )
                })?;
        }
        Ok(())
    }

    /// Changes the MTU.
    ///
    /// # Errors
    /// As the system says.
    pub async fn set_mtu(&self, interface: &str, mtu: u16) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(index_of(interface)?)
            .mtu(u32::from(mtu))
            .build();
        self.handle
            .link()
            .change(message)
            .execute()
            .await
            .map_err(|e| route_said(&format!("MTU of {interface}"), e))
    }

    /// Takes an address off an interface. That it is gone already is no error.
    pub async fn remove_address(&self, interface: &str, address: Prefix) {
        let Ok(index) = index_of(interface) else { return };
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = address.length;
        message.header.family = if address.address.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        message.attributes.push(AddressAttribute::Address(address.address));
        if address.address.is_ipv4() {
            message.attributes.push(AddressAttribute::Local(address.address));
        }
        if let Err(error) = self.handle.address().del(message).execute().await {
            tracing::debug!(%error, "the address was gone already");
        }
    }

    /// Makes a route, or replaces the one to the same network with the same metric.
    ///
    /// # Errors
    /// As the system says.
    pub async fn add_route(&self, route: &Route) -> io::Result<()> {
        let added = self.replace_route(message_of(route, true)?, route.prefix).await;
        let named = matches!(route.way, Way::Tunnel { source: Some(_), .. });
        match added {
            // The one host that the selectors name may be another than this machine: then there is no source to prefer.
            Err(error) if named && error.kind() == io::ErrorKind::InvalidInput => {
                self.replace_route(message_of(route, false)?, route.prefix).await
            }
            added => added,
        }
    }

    /// Removes a route. That it is gone already is no error.
    pub async fn remove_route(&self, route: &Route) {
        // Where the interface is gone, so are its routes.
        let Ok(message) = message_of(route, false) else { return };
        if let Err(error) = self.handle.route().del(message).execute().await {
            tracing::debug!(%error, "route was gone already");
        }
    }

    async fn replace_route(&self, message: RouteMessage, route: Prefix) -> io::Result<()> {
        let what = format!("route {}/{}", route.address, route.length);
        self.handle
            .route()
            .add(message)
            .replace()
            .execute()
            .await
            .map_err(|e| route_said(&what, e))
    }
}

fn message_of(route: &Route, with_source: bool) -> io::Result<RouteMessage> {
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .protocol(RouteProtocol::Other(ROUTE_PROTOCOL))
        .destination_prefix(route.prefix.address, route.prefix.length)
        .map_err(io::Error::other)?;
    let builder = if route.policy {
        builder.table_id(policy_routes::TABLE)
    } else {
        builder
    };
    let ipv4 = route.prefix.address.is_ipv4();
    Ok(match &route.way {
        Way::Unreachable => builder
            .kind(RouteType::Unreachable)
            .priority(FAIL_CLOSED_METRIC)
            .build(),
        Way::Tunnel {
            interface,
            metric,
            source,
        } => {
            let scope = if ipv4 { RouteScope::Link } else { RouteScope::Universe };
            let builder = builder
                .output_interface(index_of(interface)?)
                .priority(*metric)
                .scope(scope);
            // Host to host: what the machine sends by itself has to come from the address that the selectors name.
            match source.filter(|source| with_source && source.is_ipv4() == ipv4) {
                Some(source) => builder.pref_source(source).map_err(io::Error::other)?.build(),
                None => builder.build(),
            }
        }
    })
}

fn index_of(interface: &str) -> io::Result<u32> {
    crate::sys::netdev::index_of(interface)
}

/// Puts what was to be done in front of the system's words, and keeps the error number (so that "not permitted" can be
/// told from the rest).
pub(super) fn route_said(what: &str, error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            let cause = message.to_io();
            io::Error::new(cause.kind(), format!("{what}: {cause}"))
        }
        other => io::Error::other(format!("{what}: {other}")),
    }
}
