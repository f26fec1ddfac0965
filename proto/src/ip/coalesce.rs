//! Joins runs of decrypted TCP segments or UDP datagrams into super-packets for one write to the TUN, as the kernel's
//! own GRO would. Nothing is copied but headers: the plan names the payload slices for `writev`.
//!
//! What joins is what the segmentation of [`super::segment`] (the kernel's is the same) takes apart again into the
//! same packets: equal headers but for what counts up, equal sizes but for a shorter last. A packet joins only the
//! latest of its flow, so no flow is reordered; several flows of a batch join side by side.
//!
//! A super-packet goes to the kernel with a partial checksum, and nobody looks at the sender's checksum any more.
//! ESP's ICV does not speak for it: what was corrupted before the tunnel would come out with a right checksum. So
//! each packet's own checksum is verified before it joins, and one that fails goes through alone, as it is.

use super::checksum::Sum;
use super::flow::{Flow, FlowKey, protocol};
use super::octets::{get, put};
use super::vnet::{self, VnetHeader};
use std::ops::Range;

/// Flows of a batch that are joined side by side; with more, the one that was opened first is given up.
pub const MAX_OPEN: usize = 16;
/// Packets in a super-packet, and so parts of a write. The kernel's limit for UDP (UDP_GRO_CNT_MAX) is 64.
pub const MAX_COUNT: usize = 64;
/// Octets of a super-packet: what IPv4's total length can say.
pub const MAX_TOTAL_LEN: usize = 65_535;

/// IPv6 without extension headers and the longest TCP header.
const MAX_HEADER_LEN: usize = 40 + 60;
const NO_NODE: u32 = u32::MAX;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// What may be joined; switched off where the kernel refuses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoalesceOptions {
    /// TCP segments.
    pub tcp: bool,
    /// UDP datagrams (needs USO in the kernel: 6.2).
    pub udp: bool,
}

/// Plans a batch. Reused: after [`Self::clear`] its memory is kept.
///
/// ```text
/// for each decrypted packet, in order of arrival:  coalescer.push(index, &flow, packet)
/// for item in coalescer.plan():  writev([item.vnet.to_octets(), item.header, octets of item.parts()...])
/// coalescer.clear()
/// ```
#[derive(Debug)]
pub struct Coalescer {
    options: CoalesceOptions,
    runs: Vec<Run>,
    nodes: Vec<Node>,
    /// Indices of the runs that may still grow, oldest first.
    open: [Open; MAX_OPEN],
    open_len: usize,
}

/// One write to the TUN: vnet header, `header`, then the parts.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// All zero for a single packet. (The flag DATA_VALID would say nothing: the kernel ignores it on what is written
    /// to a TUN.)
    pub vnet: VnetHeader,
    /// IP and transport header of the super-packet; empty for a single packet, whose part is the whole packet.
    pub header: &'a [u8],
    /// Packets in it, at least 1; as many as parts.
    pub count: usize,
    nodes: &'a [Node],
    first: u32,
}

/// Octets of a packet that was pushed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// The packet.
    pub index: u32,
    /// Octets of it.
    pub range: Range<usize>,
}

impl Coalescer {
    /// For batches of about `packets` packets; larger ones allocate once.
    #[must_use]
    pub fn new(options: CoalesceOptions, packets: usize) -> Self {
        Self {
            options,
            runs: Vec::with_capacity(packets),
            nodes: Vec::with_capacity(packets),
            open: [Open::default(); MAX_OPEN],
            open_len: 0,
        }
    }

    /// Changes what is joined from the next packet on. Nothing pushed before grows any more.
    pub fn set_options(&mut self, options: CoalesceOptions) {
        self.options = options;
        self.open_len = 0;
    }

    /// Takes the next packet, which the plan will name by `index`. `flow` is [`super::flow::parse`] of `packet`;
    /// octets beyond its total length (TFC padding) are left out of the plan.
    pub fn push(&mut self, index: u32, flow: &Flow, packet: &[u8]) {
        let packet = packet.get(..flow.total_len).unwrap_or(packet);
        let joinable = match flow.key.protocol {
            protocol::TCP => self.options.tcp,
            protocol::UDP => self.options.udp,
            _ => false,
        };
        if !joinable {
            self.start(index, packet, None);
            return;
        }
        if flow.fragment {
            // The ports of a later fragment are unknown: it might be of any flow between these two addresses.
            self.close_addresses(&flow.key);
            self.start(index, packet, None);
            return;
        }
        let hash = flow.hash();
        let slot = self.find(hash, &flow.key);
        let segment = Segment::read(flow, packet);
        if let (Some(slot), Some(segment)) = (slot, &segment)
            && self.join(slot, index, segment, packet)
        {
            return;
        }
        if let Some(slot) = slot {
            self.close(slot);
        }
        let run = self.start(index, packet, segment.as_ref().map(|segment| (&flow.key, segment)));
        if segment.is_some_and(|segment| segment.may_start() && segment.checksum_valid(&flow.key, packet)) {
            self.open(Open { hash, run });
        }
    }

    /// What to write, in order.
    pub fn plan(&mut self) -> impl Iterator<Item = Item<'_>> {
        for run in self.runs.iter_mut().filter(|run| run.count > 1) {
            // Every field lies within the 28 octets that any header here has: it cannot fail.
            run.complete_header();
        }
        self.runs.iter().map(|run| match run.segment {
            Some(_) if run.count > 1 => Item {
                vnet: run.vnet(),
                header: run.header.get(..run.header_len).unwrap_or_default(),
                count: run.count,
                nodes: &self.nodes,
                first: run.first,
            },
            _ => Item {
                vnet: VnetHeader::default(),
                header: &[],
                count: 1,
                nodes: &self.nodes,
                first: run.first,
            },
        })
    }

    /// Items that [`Self::plan`] will yield.
    #[must_use]
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Nothing pushed since [`Self::clear`]?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Forgets the batch.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.nodes.clear();
        self.open_len = 0;
    }

    /// A new run of one packet; it grows only if it is opened as well.
    fn start(&mut self, index: u32, packet: &[u8], segment: Option<(&FlowKey, &Segment)>) -> usize {
        let node = self.nodes.len() as u32;
        // A single packet's part begins at 0; when a second one joins, the first gives up its header.
        self.nodes.push(Node {
            index,
            start: 0,
            end: packet.len(),
            next: NO_NODE,
        });
        let mut run = Run {
            key: segment.map(|(key, _)| *key),
            segment: segment.map(|(_, segment)| *segment),
            header: [0; MAX_HEADER_LEN],
            header_len: 0,
            total_len: packet.len(),
            gso_size: 0,
            count: 1,
            first: node,
            last: node,
        };
        if let Some((_, segment)) = segment
            && let Some((to, from)) = run
                .header
                .get_mut(..segment.header_len)
                .zip(packet.get(..segment.header_len))
        {
            to.copy_from_slice(from);
            run.header_len = segment.header_len;
            run.gso_size = packet.len() - segment.header_len;
        }
        self.runs.push(run);
        self.runs.len() - 1
    }

    /// Joins a segment to the run at an open slot; false if it does not fit there.
    fn join(&mut self, slot: usize, index: u32, segment: &Segment, packet: &[u8]) -> bool {
        let Some(open) = self.open.get(slot) else { return false };
        let Some(run) = self.runs.get_mut(open.run) else {
            return false;
        };
        let Some(key) = run.key else { return false };
        if !run.accepts(segment, packet) || !segment.checksum_valid(&key, packet) {
            return false;
        }
        let node = self.nodes.len() as u32;
        if run.count == 1
            && let Some(first) = self.nodes.get_mut(run.first as usize)
        {
            first.start = run.header_len;
        }
        if let Some(last) = self.nodes.get_mut(run.last as usize) {
            last.next = node;
        }
        self.nodes.push(Node {
            index,
            start: segment.header_len,
            end: packet.len(),
            next: NO_NODE,
        });
        let payload_len = packet.len() - segment.header_len;
        run.last = node;
        run.count += 1;
        run.total_len += payload_len;
        if let Some(flags) = segment.tcp_flags()
            && let Some(octet) = run.header.get_mut(segment.transport_at + 13)
        {
            *octet |= flags & (FIN | PSH);
        }
        if payload_len < run.gso_size || run.count == MAX_COUNT || segment.ends_run() {
            self.close(slot);
        }
        true
    }

    fn find(&self, hash: u32, key: &FlowKey) -> Option<usize> {
        let open = self.open.get(..self.open_len)?;
        open.iter().position(|open| {
            open.hash == hash && self.runs.get(open.run).is_some_and(|run| run.key.as_ref() == Some(key))
        })
    }

    fn open(&mut self, open: Open) {
        if self.open_len == MAX_OPEN {
            self.close(0);
        }
        if let Some(slot) = self.open.get_mut(self.open_len) {
            *slot = open;
            self.open_len += 1;
        }
    }

    fn close(&mut self, slot: usize) {
        if slot < self.open_len {
            self.open.copy_within(slot + 1..self.open_len, slot);
            self.open_len -= 1;
        }
    }

    fn close_addresses(&mut self, key: &FlowKey) {
        for slot in (0..self.open_len).rev() {
            let run = self.open.get(slot).and_then(|open| self.runs.get(open.run));
            let open_key = run.and_then(|run| run.key);
            if open_key.is_some_and(|open| {
                (open.source, open.destination, open.protocol) == (key.source, key.destination, key.protocol)
            }) {
                self.close(slot);
            }
        }
    }
}

impl<'a> Item<'a> {
    /// Which octets of which packets follow, in order.
    pub fn parts(&self) -> impl Iterator<Item = Part> + use<'a> {
        let nodes = self.nodes;
        let mut next = self.first;
        std::iter::from_fn(move || {
            let node = nodes.get(next as usize)?;
            next = node.next;
            Some(Part {
                index: node.index,
                range: node.start..node.end,
            })
        })
    }
}

/// A run that may grow.
#[derive(Clone, Copy, Default, Debug)]
struct Open {
    hash: u32,
    run: usize,
}

/// A packet's place in a run: the runs are lists through one vector.
#[derive(Clone, Copy, Debug)]
struct Node {
    index: u32,
    start: usize,
    end: usize,
    next: u32,
}

/// Packets that are written together.
#[derive(Clone, Debug)]
struct Run {
    /// None if nothing can join.
    key: Option<FlowKey>,
    /// The first packet.
    segment: Option<Segment>,
    /// Its headers.
    header: [u8; MAX_HEADER_LEN],
    header_len: usize,
    total_len: usize,
    /// Payload octets of the first packet.
    gso_size: usize,
    count: usize,
    first: u32,
    last: u32,
}

impl Run {
    /// The rules of the kernel's `inet_gro_receive`, `ipv6_gro_receive`, `tcp_gro_receive`, `udp_gro_receive`.
    fn accepts(&self, segment: &Segment, packet: &[u8]) -> bool {
        let Some(first) = &self.segment else { return false };
        let payload_len = packet.len() - segment.header_len;
        let (Some(ours), Some(theirs)) = (self.header.get(..self.header_len), packet.get(..segment.header_len)) else {
            return false;
        };
        let same = |range: Range<usize>| ours.get(range.clone()) == theirs.get(range);
        let at = segment.transport_at;
        let same_ip = if segment.ipv6 {
            // Version, traffic class, flow label; hop limit.
            same(0..4) && same(7..8)
        } else {
            // Version, header length, TOS; DF and TTL. RFC 6864 §4.1: the ID of an atomic datagram means nothing;
            // any other must be the one that segmentation would give it.
            let dont_fragment = theirs.get(6).is_some_and(|octet| octet & 0x40 != 0);
            same(0..2) && same(6..9) && (dont_fragment || segment.id == first.id.wrapping_add(self.count as u16))
        };
        let same_transport = match (first.transport, segment.transport) {
            (Transport::Udp, Transport::Udp) => true,
            (
                Transport::Tcp {
                    seq: first_seq,
                    flags: first_flags,
                },
                Transport::Tcp { seq, flags },
            ) => {
                let payload_before = self.total_len - self.header_len;
                // Acknowledgment, data offset and reserved bits, window, urgent pointer, options (timestamps among them).
                seq == first_seq.wrapping_add(payload_before as u32)
                    && same(at + 8..at + 13)
                    && same(at + 14..at + 16)
                    && same(at + 18..segment.header_len)
                    // CWR may stand in the first only: there segmentation leaves it.
                    && flags & CWR == 0
                    && (flags ^ first_flags) & !(FIN | PSH | CWR) == 0
            }
            _ => false,
        };
        segment.header_len == self.header_len
            && same_ip
            && same_transport
            && payload_len <= self.gso_size
            && self.total_len + payload_len <= MAX_TOTAL_LEN
    }

    fn vnet(&self) -> VnetHeader {
        let Some(segment) = &self.segment else {
            return VnetHeader::default();
        };
        let (gso_type, csum_offset) = match segment.transport {
            Transport::Udp => (vnet::GSO_UDP_L4, 6),
            Transport::Tcp { flags, .. } => {
                let version = if segment.ipv6 { vnet::GSO_TCPV6 } else { vnet::GSO_TCPV4 };
                (
                    if flags & CWR != 0 {
                        version | vnet::GSO_ECN
                    } else {
                        version
                    },
                    16,
                )
            }
        };
        VnetHeader {
            flags: vnet::NEEDS_CSUM,
            gso_type,
            hdr_len: self.header_len as u16,
            gso_size: self.gso_size as u16,
            csum_start: segment.transport_at as u16,
            csum_offset,
        }
    }

    /// Lengths and checksums of the whole. The transport checksum is partial: the pseudo header's sum.
    fn complete_header(&mut self) -> Option<()> {
        let (segment, key) = (self.segment?, self.key?);
        let (ip, transport) = self
            .header
            .get_mut(..self.header_len)?
            .split_at_mut_checked(segment.transport_at)?;
        let transport_len = (self.total_len - segment.transport_at) as u16;
        if segment.ipv6 {
            put(ip, 4, (self.total_len - 40) as u16)?;
        } else {
            put(ip, 2, self.total_len as u16)?;
            put(ip, 10, 0)?;
            put(ip, 10, Sum::default().octets(ip).checksum())?;
        }
        let partial = Sum::pseudo_header(key.source, key.destination, key.protocol, transport_len.into()).folded();
        match segment.transport {
            Transport::Udp => {
                put(transport, 4, transport_len)?;
                put(transport, 6, partial)
            }
            Transport::Tcp { .. } => put(transport, 16, partial),
        }
    }
}

/// A packet that might join or be joined.
#[derive(Clone, Copy, Debug)]
struct Segment {
    ipv6: bool,
    /// Octets of the IP header.
    transport_at: usize,
    /// Octets of both headers.
    header_len: usize,
    /// IPv4 ID.
    id: u16,
    transport: Transport,
}

#[derive(Clone, Copy, Debug)]
enum Transport {
    Tcp { seq: u32, flags: u8 },
    Udp,
}

impl Segment {
    /// `None`: the packet goes alone and ends its flow's run. That is one with IP options or extension headers,
    /// without payload, with SYN, RST or URG, or with inconsistent lengths.
    fn read(flow: &Flow, packet: &[u8]) -> Option<Self> {
        let ipv6 = flow.is_ipv6();
        let transport_at = if ipv6 { 40 } else { 20 };
        if flow.header_len != transport_at || packet.len() != flow.total_len || packet.len() > MAX_TOTAL_LEN {
            return None;
        }
        let transport = packet.get(transport_at..)?;
        let (transport_header_len, transport) = if flow.key.protocol == protocol::TCP {
            let fixed: &[u8; 20] = transport.first_chunk()?;
            let len = usize::from(fixed[12] >> 4) * 4;
            let flags = fixed[13];
            if len < 20 || flags & ACK == 0 || flags & !(ACK | PSH | FIN | ECE | CWR) != 0 {
                return None;
            }
            (
                len,
                Transport::Tcp {
                    seq: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
                    flags,
                },
            )
        } else {
            // Without a checksum (RFC 768) there is none to verify, and segmentation would make one.
            if usize::from(get(transport, 4)?) != transport.len() || get(transport, 6)? == 0 {
                return None;
            }
            (8, Transport::Udp)
        };
        let header_len = transport_at + transport_header_len;
        (header_len < packet.len()).then_some(Self {
            ipv6,
            transport_at,
            header_len,
            id: if ipv6 { 0 } else { get(packet, 4)? },
            transport,
        })
    }

    fn tcp_flags(&self) -> Option<u8> {
        match self.transport {
            Transport::Tcp { flags, .. } => Some(flags),
            Transport::Udp => None,
        }
    }

    /// Nothing joins after PSH or FIN.
    fn ends_run(&self) -> bool {
        self.tcp_flags().is_some_and(|flags| flags & (PSH | FIN) != 0)
    }

    fn may_start(&self) -> bool {
        !self.ends_run()
    }

    /// The header checksum (IPv4) and the transport's.
    fn checksum_valid(&self, key: &FlowKey, packet: &[u8]) -> bool {
        let Some((ip, transport)) = packet.split_at_checked(self.transport_at) else {
            return false;
        };
        let pseudo = Sum::pseudo_header(key.source, key.destination, key.protocol, transport.len() as u32);
        (self.ipv6 || Sum::default().octets(ip).checksum() == 0) && pseudo.octets(transport).checksum() == 0
    }
}
