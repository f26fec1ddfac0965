//! Inner packets as pure functions over octets: flow key, tunnel header rules (RFC 6040), checksums, segmentation of
//! super-packets, coalescing plans, MSS clamping, ICMP too big. No state, no allocation on the packet path.
//!
//! Outbound: [`flow::parse`] the packet read from the TUN, [`mss::clamp`] it, then [`segment::Segmenter`] writes each
//! segment to the place where it is sealed. Inbound: [`flow::parse`] the decrypted packet (its selector check),
//! [`tunnel::decapsulate_ecn`], [`mss::clamp`], then [`coalesce::Coalescer`] plans the writes to the TUN.

pub mod checksum;
pub mod coalesce;
pub mod flow;
pub mod icmp;
pub mod mss;
mod octets;
pub mod segment;
pub mod transport;
pub mod tunnel;
pub mod vnet;
