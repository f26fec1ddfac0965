//! The machine's outer addresses, and the news that they or the routes changed (rtnetlink), for SAs that move (RFC 4555).

use super::resolve;
use futures_util::{StreamExt as _, TryStreamExt as _};
use landbridge_proto::policy::sad::Path;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::{Handle, MulticastGroup};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Changes come in bursts (an address goes, its routes go, another comes): they are looked at together.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// The system's loopback interface has this index in every network namespace.
const LOOPBACK: u32 = 1;

/// Hears of changes.
pub(super) struct Watch {
    changes: futures_util::stream::BoxStream<'static, ()>,
    handle: Handle,
}

impl Watch {
    /// Subscribes to links, addresses and routes; its task lives on the current runtime.
    ///
    /// # Errors
    /// As the system says.
    pub fn open() -> io::Result<Self> {
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])?;
        drop(tokio::spawn(connection));
        Ok(Self {
            changes: messages.map(|_| ()).boxed(),
            handle,
        })
    }

    /// Waits for a change, and takes what came with it.
    pub async fn changed(&mut self) {
        if self.changes.next().await.is_none() {
            // The system closed the socket: nothing more will be heard.
            std::future::pending::<()>().await;
        }
    }

    /// The addresses that gateways can be reached by: not those of loopback, of the interfaces in `without`, of one link
    /// only, or not yet usable.
    ///
    /// # Errors
    /// As the system says.
    pub async fn addresses(&self, without: &[u32]) -> io::Result<Vec<IpAddr>> {
        let found = self.handle.address().get().execute();
        let found: Vec<AddressMessage> = found.try_collect().await.map_err(io::Error::other)?;
        let mut list: Vec<IpAddr> = found
            .iter()
            .filter(|message| message.header.index != LOOPBACK && !without.contains(&message.header.index))
            .filter_map(usable)
            .collect();
        list.sort_unstable();
        list.dedup();
        Ok(list)
    }
}

/// The address in a message, if others can send to it.
fn usable(message: &AddressMessage) -> Option<IpAddr> {
    if !matches!(message.header.scope, AddressScope::Universe | AddressScope::Site) {
        return None;
    }
    let not_yet = AddressFlags::Tentative | AddressFlags::Dadfailed;
    let in_header = message
        .header
        .flags
        .intersects(AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed);
    let attributes = || message.attributes.iter();
    if in_header || attributes().any(|a| matches!(a, AddressAttribute::Flags(flags) if flags.intersects(not_yet))) {
        return None;
    }
    // Between two ends of a link `Address` is the other one's.
    let own = attributes().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    own.or_else(|| {
        attributes().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

/// The ways to a peer's addresses, best first: from the address that the routing table takes, or from each of those that
/// are configured as ours and there.
pub(super) fn paths(remotes: &[SocketAddr], configured: &[IpAddr], there: &[IpAddr], local_port: u16) -> Vec<Path> {
    let own: Vec<IpAddr> = configured
        .iter()
        .filter(|address| there.contains(address))
        .copied()
        .collect();
    let mut paths = Vec::new();
    for remote in remotes {
        let of_family = own.iter().filter(|address| address.is_ipv4() == remote.is_ipv4());
        let locals: Vec<IpAddr> = if configured.is_empty() {
            resolve::local_address(*remote, &[]).into_iter().collect()
        } else {
            of_family
                .filter(|local| resolve::reaches(**local, *remote))
                .copied()
                .collect()
        };
        paths.extend(
            locals
                .into_iter()
                .map(|local| Path::udp(SocketAddr::new(local, local_port), *remote)),
        );
    }
    paths
}
