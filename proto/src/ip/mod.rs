//! Inner packets as pure functions over octets: flow key, tunnel header rules (RFC 6040), checksums, segmentation of
//! super-packets, coalescing plans, MSS clamping, ICMP too big. No state, no allocation on the packet path.
