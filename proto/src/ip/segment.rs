//! Splits what a TUN with TSO and USO hands out into the packets that travel: each segment is written once, straight
//! to where it will be sealed, its checksum computed while it is copied.
//!
//! The headers of a super-packet are those of its first segment, with the lengths of the whole. What changes from one
//! segment to the next is as in the kernel's software segmentation: the IPv4 ID counts up, the TCP sequence number
//! moves on, CWR stays with the first segment (RFC 3168 §6.1.2: it is said once), FIN and PSH with the last.

use super::checksum::Sum;
use super::flow::{self, Flow, Malformed, protocol};
use super::octets::{get, put};
use super::transport;
use super::vnet::{self, VnetHeader};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// The packet cannot be segmented; it is dropped and counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SegmentError {
    /// The packet's own headers are wrong.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A gso_type that was not asked for, or that contradicts the packet.
    #[error("gso_type {0:#04x} does not fit the packet")]
    Type(u8),
    /// gso_size is 0.
    #[error("gso_size is 0")]
    Size,
    /// The headers end beyond the packet, or the checksum place is not where the transport has it.
    #[error("virtio-net header points out of the packet's headers")]
    Header,
    /// A fragment, or a SYN or RST, as a super-packet.
    #[error("packet cannot be a super-packet")]
    NotSegmentable,
}

/// A plan: one packet read from the TUN, to be sent as [`Self::count`] packets.
#[derive(Clone, Debug)]
pub struct Segmenter<'a> {
    packet: &'a [u8],
    flow: Flow,
    work: Work,
}

/// What is to be done with the packet.
#[derive(Clone, Debug)]
enum Work {
    /// It goes as it is.
    Copy,
    /// Its checksum is to be completed.
    Complete { start: usize, offset: usize },
    /// It is a super-packet.
    Split(Split),
}

/// What the segments of a super-packet have in common.
#[derive(Clone, Debug)]
struct Split {
    tcp: bool,
    /// IP and transport header.
    header_len: usize,
    gso_size: usize,
    count: usize,
    /// IPv4 header without total length, ID and checksum.
    ip_sum: Sum,
    /// Pseudo header and transport header without lengths, checksum, sequence number and flags.
    transport_sum: Sum,
}

impl<'a> Segmenter<'a> {
    /// Checks a packet against the header it came with. `packet` is without that header; what exceeds the IP total
    /// length is ignored.
    ///
    /// # Errors
    /// [`SegmentError`].
    pub fn new(vnet: &VnetHeader, packet: &'a [u8]) -> Result<Self, SegmentError> {
        let flow = flow::parse(packet)?;
        let packet = packet.get(..flow.total_len).ok_or(Malformed::Truncated)?;
        let work = if vnet.is_gso() {
            Work::Split(Split::new(vnet, &flow, packet)?)
        } else if vnet.needs_checksum() {
            let (start, offset) = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
            if start < flow.header_len || start + offset + 2 > packet.len() {
                return Err(SegmentError::Header);
            }
            Work::Complete { start, offset }
        } else {
            Work::Copy
        };
        Ok(Self { packet, flow, work })
    }

    /// The packet's flow: one look-up for all segments.
    #[must_use]
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Packets that will come of it, at least 1.
    #[must_use]
    pub fn count(&self) -> usize {
        match &self.work {
            Work::Split(split) => split.count,
            _ => 1,
        }
    }

    /// Octets of segment `index` as an IP packet; 0 if there is no such segment.
    #[must_use]
    pub fn segment_len(&self, index: usize) -> usize {
        match &self.work {
            _ if index >= self.count() => 0,
            Work::Split(split) => {
                let payload_len = self.packet.len() - split.header_len;
                split.header_len + (payload_len - index * split.gso_size).min(split.gso_size)
            }
            _ => self.packet.len(),
        }
    }

    /// Octets of the longest segment, which is the first: larger than the inner MTU means an ICMP error instead of
    /// sending ([`super::icmp`]). For a quotation in it, write segment 0 to a buffer: it has its checksums.
    #[must_use]
    pub fn max_segment_len(&self) -> usize {
        self.segment_len(0)
    }

    /// Writes segment `index`, a whole IP packet with all checksums, to the beginning of `out`. Returns its length;
    /// `None` if there is no such segment or no room.
    pub fn write_segment(&self, index: usize, out: &mut [u8]) -> Option<usize> {
        let len = self.segment_len(index);
        let out = out.get_mut(..len).filter(|out| !out.is_empty())?;
        let (ip, rest) = out.split_at_mut_checked(self.flow.header_len)?;
        self.write(index, ip, rest)?;
        Some(len)
    }

    /// Writes what follows the IP header of segment `index` (for transport mode, where that header does not travel inside).
    /// Returns its length; `None` if there is no such segment or no room, or if the packet has more than the plain IP
    /// header: options and extension headers, as a fragment has.
    pub fn write_transport(&self, index: usize, out: &mut [u8]) -> Option<usize> {
        let header_len = transport::header_len(self.flow.key.source);
        if self.flow.fragment || self.flow.header_len != header_len {
            return None;
        }
        let len = self.segment_len(index).checked_sub(header_len)?;
        let mut ip = [0; transport::LONGEST];
        self.write(index, ip.get_mut(..header_len)?, out.get_mut(..len)?)?;
        Some(len)
    }

    /// `ip` and `rest` have the lengths of the segment's two parts.
    fn write(&self, index: usize, ip: &mut [u8], rest: &mut [u8]) -> Option<()> {
        let (header, packet) = self.packet.split_at_checked(ip.len())?;
        ip.copy_from_slice(header);
        match &self.work {
            Work::Copy => rest.copy_from_slice(packet),
            Work::Complete { start, offset } => write_completed(packet, start.checked_sub(ip.len())?, *offset, rest)?,
            Work::Split(split) => self.write_split(split, index, ip, rest)?,
        }
        Some(())
    }

    fn write_split(&self, split: &Split, index: usize, ip: &mut [u8], rest: &mut [u8]) -> Option<()> {
        let (header, payload) = self.packet.split_at_checked(split.header_len)?;
        let payload = payload.get(index * split.gso_size..)?;
        let total_len = ip.len() + rest.len();
        let header = header.get(ip.len()..)?;
        let (transport, out_payload) = rest.split_at_mut_checked(header.len())?;
        transport.copy_from_slice(header);
        let payload_sum = split.transport_sum.copy(payload, out_payload);
        let transport_len = (total_len - ip.len()) as u16;
        if self.flow.is_ipv6() {
            put(ip, 4, (total_len - 40) as u16)?;
        } else {
            let id = get(ip, 4)?.wrapping_add(index as u16);
            put(ip, 2, total_len as u16)?;
            put(ip, 4, id)?;
            put(ip, 10, split.ip_sum.word(total_len as u16).word(id).checksum())?;
        }
        let sum = payload_sum.word(transport_len);
        if split.tcp {
            let flags = self.flags(split, index, transport)?;
            let seq = transport.get_mut(4..)?.first_chunk_mut::<4>()?;
            *seq = u32::from_be_bytes(*seq)
                .wrapping_add((index * split.gso_size) as u32)
                .to_be_bytes();
            let sum = sum.octets(seq).word(flags);
            put(transport, 12, flags)?;
            put(transport, 16, sum.checksum())
        } else {
            put(transport, 4, transport_len)?;
            // The length counts twice: in the pseudo header and in the UDP header.
            put(transport, 6, sum.word(transport_len).checksum_udp())
        }
    }

    /// The word of data offset and flags.
    fn flags(&self, split: &Split, index: usize, tcp: &[u8]) -> Option<u16> {
        let mut off = 0;
        if index != 0 {
            off |= CWR;
        }
        if index + 1 != split.count {
            off |= FIN | PSH;
        }
        Some(get(tcp, 12)? & !u16::from(off))
    }
}

/// `start` and `offset` point into `packet`.
fn write_completed(packet: &[u8], start: usize, offset: usize, out: &mut [u8]) -> Option<()> {
    let (head, covered) = packet.split_at_checked(start)?;
    let (out_head, out_covered) = out.split_at_mut_checked(start)?;
    out_head.copy_from_slice(head);
    // Never stored as 0: see `checksum::complete`.
    let checksum = Sum::default().copy(covered, out_covered).checksum_udp();
    put(out_covered, offset, checksum)
}

impl Split {
    fn new(vnet: &VnetHeader, flow: &Flow, packet: &[u8]) -> Result<Self, SegmentError> {
        let expected = match vnet.gso_type & !vnet::GSO_ECN {
            vnet::GSO_TCPV4 => (false, protocol::TCP),
            vnet::GSO_TCPV6 => (true, protocol::TCP),
            vnet::GSO_UDP_L4 => (flow.is_ipv6(), protocol::UDP),
            _ => return Err(SegmentError::Type(vnet.gso_type)),
        };
        if (flow.is_ipv6(), flow.key.protocol) != expected {
            return Err(SegmentError::Type(vnet.gso_type));
        }
        if vnet.gso_size == 0 {
            return Err(SegmentError::Size);
        }
        if flow.fragment {
            return Err(SegmentError::NotSegmentable);
        }
        let tcp = flow.key.protocol == protocol::TCP;
        let transport = packet.get(flow.header_len..).ok_or(SegmentError::Header)?;
        let transport_header = transport_header(tcp, transport)?;
        if tcp && transport_header.get(13).is_some_and(|flags| flags & (SYN | RST) != 0) {
            return Err(SegmentError::NotSegmentable);
        }
        let header_len = flow.header_len + transport_header.len();
        let gso_size = usize::from(vnet.gso_size);
        Ok(Self {
            tcp,
            header_len,
            gso_size,
            count: (packet.len() - header_len).div_ceil(gso_size).max(1),
            ip_sum: if flow.is_ipv6() {
                Sum::default()
            } else {
                sum_without(packet, flow.header_len, &[2, 4, 10])
            },
            transport_sum: pseudo_header(vnet, flow, tcp, transport)?.plus(sum_without(
                transport_header,
                transport_header.len(),
                if tcp { &[4, 6, 12, 16] } else { &[4, 6] },
            )),
        })
    }
}

fn transport_header(tcp: bool, transport: &[u8]) -> Result<&[u8], SegmentError> {
    let len = match transport.get(12) {
        _ if !tcp => 8,
        Some(offset) if offset >> 4 >= 5 => usize::from(offset >> 4) * 4,
        _ => return Err(SegmentError::Header),
    };
    transport.get(..len).ok_or(SegmentError::Header)
}

/// The pseudo header's sum without the length.
///
/// It is taken from the checksum field, where the kernel left it with the length of the whole: so it is right even
/// where the header's destination is not the final one (IPv6 Routing header, IPv4 source route).
fn pseudo_header(vnet: &VnetHeader, flow: &Flow, tcp: bool, transport: &[u8]) -> Result<Sum, SegmentError> {
    if !vnet.needs_checksum() {
        return Ok(Sum::pseudo_header(
            flow.key.source,
            flow.key.destination,
            flow.key.protocol,
            0,
        ));
    }
    let offset: u16 = if tcp { 16 } else { 6 };
    if usize::from(vnet.csum_start) != flow.header_len || vnet.csum_offset != offset {
        return Err(SegmentError::Header);
    }
    let field = get(transport, usize::from(offset)).ok_or(SegmentError::Header)?;
    Ok(Sum::default().word(field).word(!(transport.len() as u16)))
}

/// The sum of the first `len` octets without the words at these offsets.
fn sum_without(octets: &[u8], len: usize, words: &[usize]) -> Sum {
    let octets = octets.get(..len).unwrap_or_default();
    // Taking away is adding the complement (RFC 1624 §3).
    words.iter().fold(Sum::default().octets(octets), |sum, at| {
        sum.word(!get(octets, *at).unwrap_or(0))
    })
}
