//! How the data path and its interfaces are set up.

use super::placing::Placement;
use landbridge_proto::crypto::{ESP_PROVIDER, Provider};
use landbridge_proto::ip::tunnel::{DontFragment, OuterDscp};

/// The MTU of an interface for transport mode: with ESP and UDP around it, it still fits an IP packet.
pub const TRANSPORT_MTU: u16 = 65_000;

/// How the data path is set up.
#[derive(Clone, Debug)]
pub struct DataOptions {
    /// Worker threads, at least 1.
    pub workers: usize,
    /// NAT traversal port (4500): the reuseport group of workers and control.
    pub nat_port: u16,
    /// Use UDP_SEGMENT where the kernel has it.
    pub udp_gso: bool,
    /// Use UDP_GRO where the kernel has it.
    pub udp_gro: bool,
    /// Use super-packets on the TUNs where the kernel has them.
    pub tun_offload: bool,
    /// Hand joined packets to the TUNs.
    pub coalesce: bool,
    /// Bind each worker to a processor.
    pub pin: bool,
    /// ESP without UDP.
    pub raw: RawEsp,
    /// How queues of interfaces go from worker to worker. No configuration says otherwise than the default; tests may.
    pub placement: Placement,
    /// Who seals and opens. No configuration says otherwise than the default; benchmarks and tests may.
    pub provider: &'static Provider,
}

/// Whether there are raw sockets for ESP without UDP. A peer that detected no NAT may use it at any time (RFC 7296 §2.23).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RawEsp {
    /// None.
    Off,
    /// If CAP_NET_RAW is there.
    #[default]
    IfPermitted,
    /// A connection is configured to use it: without CAP_NET_RAW there is no start.
    Required,
}

impl Default for DataOptions {
    /// One worker on port 4500, all offloads, not pinned, with [`ESP_PROVIDER`].
    fn default() -> Self {
        Self {
            workers: 1,
            nat_port: 4500,
            udp_gso: true,
            udp_gro: true,
            tun_offload: true,
            coalesce: true,
            pin: false,
            raw: RawEsp::default(),
            placement: Placement::default(),
            provider: &ESP_PROVIDER,
        }
    }
}

/// A connection's interface, before SAs exist. It outlives them.
#[derive(Clone, Debug)]
pub struct InterfaceOptions {
    /// TUN name.
    pub name: String,
    /// Inner MTU.
    pub mtu: u16,
    /// Queues, at least 1: one for each of a child's pairs (RFC 9611), each read by a worker of its own. No more are made than there are
    /// workers.
    pub queues: u16,
    /// Clamp TCP MSS to the inner MTU.
    pub clamp_mss: bool,
    /// Its SAs are for transport mode, which carries no fragments (RFC 4303 §3.3.4: "In transport mode, ESP is
    /// applied only to whole IP datagrams (not to IP fragments)"): so packets up to [`TRANSPORT_MTU`] are taken, and what exceeds the path is fragmented outside.
    pub transport: bool,
    /// DF outside.
    pub dont_fragment: DontFragment,
    /// DSCP outside.
    pub dscp: OuterDscp,
}
