//! Where to connect to: names are resolved anew at each attempt, all addresses are tried in turn.

use landbridge_proto::policy::connection::Target;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Resolves the peer's hosts and picks the target of attempt number `attempt` (from 0): the addresses in order, IPv4
/// and IPv6 as the resolver sorts them; those to `avoid` come after all others.
///
/// # Errors
/// No name resolves, or no address of ours reaches the peer.
pub async fn target(
    hosts: &[String],
    local_addrs: &[IpAddr],
    local_port: u16,
    remote_port: u16,
    attempt: usize,
    avoid: impl Fn(IpAddr) -> bool,
) -> io::Result<Target> {
    let mut addresses = Vec::new();
    let mut failure = None;
    for host in hosts {
        match tokio::net::lookup_host((host.as_str(), remote_port)).await {
            Ok(found) => addresses.extend(found),
            Err(error) => {
                failure = Some(io::Error::new(
                    error.kind(),
                    format!("{host} does not resolve: {error}"),
                ))
            }
        }
    }
    addresses.dedup();
    addresses.sort_by_key(|address| avoid(address.ip()));
    if addresses.is_empty() {
        return Err(failure.unwrap_or_else(|| io::Error::other("no remote_addrs to connect to")));
    }
    let mut failure = None;
    for turn in 0..addresses.len() {
        let remote = addresses[(attempt + turn) % addresses.len()];
        match local_address(remote, local_addrs) {
            Ok(local) => {
                return Ok(Target {
                    local: SocketAddr::new(local, local_port),
                    remote,
                });
            }
            Err(error) => {
                failure = Some(io::Error::new(
                    error.kind(),
                    format!("no way to {}: {error}", remote.ip()),
                ))
            }
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::other("no address reaches the peer")))
}

/// The configured local address of the peer's family, or the one the routing table would use.
pub(super) fn local_address(remote: SocketAddr, local_addrs: &[IpAddr]) -> io::Result<IpAddr> {
    if !local_addrs.is_empty() {
        let of_family = || {
            local_addrs
                .iter()
                .copied()
                .filter(|local| local.is_ipv4() == remote.is_ipv4())
        };
        // One that is there comes before one that is only configured.
        return of_family()
            .find(|local| reaches(*local, remote))
            .or_else(|| of_family().next())
            .ok_or_else(|| io::Error::other("local_addrs has no address of the peer's family"));
    }
    let any: IpAddr = if remote.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    probe(any, remote)
}

/// Whether there is a route to `remote` from an address of ours.
pub(super) fn reaches(local: IpAddr, remote: SocketAddr) -> bool {
    probe(local, remote).is_ok()
}

/// Connecting a UDP socket asks the routing table and sends nothing.
fn probe(local: IpAddr, remote: SocketAddr) -> io::Result<IpAddr> {
    let probe = UdpSocket::bind((local, 0))?;
    crate::sys::mark::mark(&probe);
    probe.connect(remote)?;
    Ok(probe.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_to_be_avoided_comes_last() {
        let hosts = ["127.0.0.2", "127.0.0.3", "127.0.0.4"].map(str::to_owned);
        for (avoided, expected) in [(&[2][..], 3), (&[2, 3], 4), (&[2, 3, 4], 2), (&[], 2)] {
            let avoid = |address: IpAddr| avoided.iter().any(|last| address == Ipv4Addr::new(127, 0, 0, *last));
            let target = target(&hosts, &[], 500, 500, 0, avoid).await.unwrap();
            assert_eq!(target.remote.ip(), Ipv4Addr::new(127, 0, 0, expected));
        }
    }
}
