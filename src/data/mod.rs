//! The data path: W plain threads between TUN queues and UDP sockets. No tokio, no lock and no allocation a packet.
//!
//! [`table`] is the immutable view of all SAs that control publishes; [`worker`] the loop of one thread;
//! [`report`] what workers tell control; [`stats`] the counters.

use landbridge_proto::policy::sad::{ChildSaId, ConnectionName, SadReport, SadUpdate};
use std::io;
use std::sync::Arc;

/// The running data path, owned by control.
pub struct DataPlane {
    _todo: (),
}

/// How the data path is set up.
#[derive(Clone, Debug)]
pub struct DataOptions {
    /// Worker threads, at least 1.
    pub workers: usize,
    /// NAT traversal port (4500): the reuseport group of workers and control.
    pub nat_port: u16,
}

/// A connection's interface, before SAs exist. It outlives them.
#[derive(Clone, Debug)]
pub struct InterfaceOptions {
    /// TUN name.
    pub name: String,
    /// Inner MTU.
    pub mtu: u16,
    /// Clamp TCP MSS to the inner MTU.
    pub clamp_mss: bool,
}

/// Counters of one direction of a Child SA pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Inner packets (segments, not super-packets).
    pub packets: u64,
    /// Octets of inner packets.
    pub bytes: u64,
}

/// Counters of a Child SA pair.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChildSaStats {
    /// Received.
    pub inbound: Traffic,
    /// Sent.
    pub outbound: Traffic,
    /// Drops by cause (names as in metrics: `replayed`, `integrity`, `selector_in`, `selector_out`, `malformed`, ...).
    pub drops: Vec<(&'static str, u64)>,
}

/// Counters of a connection: they go on across rekeys and while the tunnel is down.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConnectionStats {
    /// Sums of all its Child SAs, past and present.
    pub total: ChildSaStats,
    /// Each present Child SA.
    pub children: Vec<(ChildSaId, ChildSaStats)>,
}

impl DataPlane {
    /// Binds the group of UDP sockets on `nat_port` (index 0 is control's, returned), starts the workers.
    ///
    /// # Errors
    /// Port in use, no permission: as the system says it, with the address in the message.
    pub fn start(
        options: &DataOptions,
        reports: Box<dyn Fn(SadReport) + Send + Sync>,
    ) -> io::Result<(Self, ControlSockets)> {
        let _ = (options, reports);
        todo!()
    }

    /// Creates a connection's TUN interface (down, without addresses: that is `control::routes`).
    ///
    /// # Errors
    /// No `/dev/net/tun`, no CAP_NET_ADMIN, name taken.
    pub fn add_interface(&mut self, connection: &ConnectionName, options: &InterfaceOptions) -> io::Result<()> {
        let _ = (connection, options);
        todo!()
    }

    /// Removes it, and the SAs that use it.
    pub fn remove_interface(&mut self, connection: &ConnectionName) {
        let _ = connection;
        todo!()
    }

    /// Changes the inner MTU that segmentation and MSS clamping go by.
    pub fn set_mtu(&mut self, connection: &ConnectionName, mtu: u16) {
        let _ = (connection, mtu);
        todo!()
    }

    /// Carries out an order of the key exchange; it holds for every packet read after this returns.
    pub fn apply(&mut self, update: &SadUpdate) {
        let _ = update;
        todo!()
    }

    /// A connection's counters.
    #[must_use]
    pub fn stats(&self, connection: &ConnectionName) -> ConnectionStats {
        let _ = connection;
        todo!()
    }

    /// Drops that belong to no connection, by cause (`unknown_spi`, `short`, ...).
    #[must_use]
    pub fn stray_drops(&self) -> Vec<(&'static str, u64)> {
        todo!()
    }

    /// What the kernel granted and what was degraded, for `doctor` and `status`: e.g. `("udp-gso", true)`.
    #[must_use]
    pub fn offloads(&self) -> Vec<(&'static str, bool)> {
        todo!()
    }

    /// Stops and joins the workers; removes all interfaces.
    pub fn stop(self) {
        todo!()
    }
}

/// Control's members of the reuseport groups on the NAT port: what carries a non-ESP marker comes here.
pub struct ControlSockets {
    /// 0.0.0.0:4500.
    pub ipv4: Arc<std::net::UdpSocket>,
    /// [::]:4500, if the machine has IPv6.
    pub ipv6: Option<Arc<std::net::UdpSocket>>,
}
