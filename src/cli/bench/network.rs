//! Interfaces in the namespaces of a benchmark.

use crate::config::Prefix;
use crate::control::links::Links;
use crate::sys::netdev::index_of;
use rtnetlink::{LinkUnspec, LinkVeth};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use tokio::runtime::{Builder, Runtime};

/// Netlink in the namespace of the thread that opened it.
pub(super) struct Network {
    runtime: Runtime,
    links: Links,
}

impl Network {
    pub(super) fn open() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let links = runtime.block_on(async { Links::open() })?;
        Ok(Self { runtime, links })
    }

    /// Brings an interface up with an address.
    pub(super) fn configure(&self, interface: &str, mtu: u16, address: [u8; 4], length: u8) -> io::Result<()> {
        let address = Prefix {
            address: IpAddr::from(address),
            length,
        };
        self.runtime.block_on(self.links.configure(interface, mtu, &[address]))
    }

    /// Makes a cable: one end stays here, the other goes to another namespace.
    pub(super) fn cable(&self, here: &str, there: &str, namespace: &File) -> io::Result<()> {
        let failed = |error| io::Error::other(format!("a veth pair can't be made: {error}"));
        self.runtime.block_on(async {
            let link = self.links.handle().link();
            link.add(LinkVeth::new(here, there).build())
                .execute()
                .await
                .map_err(failed)?;
            let moved = LinkUnspec::new_with_index(index_of(there)?)
                .setns_by_fd(namespace.as_raw_fd())
                .build();
            self.links.handle().link().change(moved).execute().await.map_err(failed)
        })
    }
}
