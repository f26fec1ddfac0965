//! Packets from their fields, every checksum from scratch, word by word. Shares nothing with what is tested.

use landbridge_proto::ip::vnet::{self, VnetHeader};
use proptest::prelude::*;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const URG: u8 = 0x20;
pub const ECE: u8 = 0x40;
pub const CWR: u8 = 0x80;

#[derive(Clone, Debug)]
pub struct Packet {
    pub ipv6: bool,
    pub tcp: bool,
    pub tos: u8,
    pub ttl: u8,
    /// IPv4 only.
    pub id: u16,
    pub dont_fragment: bool,
    /// IPv4 options; for IPv6, octets of one Destination Options header (8 each).
    pub options: Vec<u8>,
    pub flow_label: u16,
    pub host: u8,
    pub ports: [u16; 2],
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub urgent: u16,
    pub tcp_options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Packet {
    pub fn tcp(ipv6: bool, payload: usize) -> Self {
        Self {
            ipv6,
            tcp: true,
            tos: 0,
            ttl: 63,
            id: 0xfffe,
            dont_fragment: true,
            options: vec![],
            flow_label: 0x1234,
            host: 1,
            ports: [40000, 443],
            seq: 0xffff_f000,
            ack: 0x0102_0304,
            flags: ACK,
            window: 501,
            urgent: 0,
            tcp_options: vec![1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 7],
            payload: (0..payload).map(|at| (at * 7 + at / 251) as u8).collect(),
        }
    }

    pub fn udp(ipv6: bool, payload: usize) -> Self {
        Self {
            tcp: false,
            tcp_options: vec![],
            ..Self::tcp(ipv6, payload)
        }
    }

    pub fn protocol(&self) -> u8 {
        if self.tcp { 6 } else { 17 }
    }

    pub fn addresses(&self) -> Vec<u8> {
        let host = self.host;
        if self.ipv6 {
            let mut octets = vec![0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host];
            octets.extend([0x20, 0x01, 0x0d, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
            octets
        } else {
            vec![192, 0, 2, host, 198, 51, 100, 2]
        }
    }

    pub fn ip_header_len(&self) -> usize {
        match (self.ipv6, self.options.is_empty()) {
            (false, _) => 20 + self.options.len(),
            (true, true) => 40,
            (true, false) => 48,
        }
    }

    pub fn header_len(&self) -> usize {
        self.ip_header_len() + if self.tcp { 20 + self.tcp_options.len() } else { 8 }
    }

    /// The IP packet; its transport checksum is complete, or `partial` (the pseudo header's sum).
    pub fn octets(&self, partial: bool) -> Vec<u8> {
        let mut transport: Vec<u8> = self.ports.iter().flat_map(|port| port.to_be_bytes()).collect();
        let check_at = if self.tcp {
            transport.extend(self.seq.to_be_bytes());
            transport.extend(self.ack.to_be_bytes());
            transport.extend([((20 + self.tcp_options.len()) / 4 * 16) as u8, self.flags]);
            transport.extend(self.window.to_be_bytes());
            transport.extend([0, 0]);
            transport.extend(self.urgent.to_be_bytes());
            transport.extend(&self.tcp_options);
            16
        } else {
            transport.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            transport.extend([0, 0]);
            6
        };
        transport.extend(&self.payload);
        let mut pseudo = self.addresses();
        pseudo.extend((transport.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, self.protocol()]);
        let field = if partial {
            !checksum(&pseudo)
        } else {
            pseudo.extend(&transport);
            match checksum(&pseudo) {
                0 if !self.tcp => 0xffff,
                sum => sum,
            }
        };
        transport[check_at..check_at + 2].copy_from_slice(&field.to_be_bytes());
        let mut packet = self.ip_header(transport.len());
        packet.extend(transport);
        packet
    }

    fn ip_header(&self, transport_len: usize) -> Vec<u8> {
        let total_len = self.ip_header_len() + transport_len;
        if self.ipv6 {
            let extension = self.ip_header_len() - 40;
            let mut header = vec![0x60 | self.tos >> 4, self.tos << 4];
            header.extend(self.flow_label.to_be_bytes());
            header.extend(((total_len - 40) as u16).to_be_bytes());
            header.extend([if extension > 0 { 60 } else { self.protocol() }, self.ttl]);
            header.extend(self.addresses());
            if extension > 0 {
                header.extend([self.protocol(), 0, 1, 4, 0, 0, 0, 0]);
            }
            return header;
        }
        let mut header = vec![0x40 | ((20 + self.options.len()) / 4) as u8, self.tos];
        header.extend((total_len as u16).to_be_bytes());
        header.extend(self.id.to_be_bytes());
        header.extend([
            if self.dont_fragment { 0x40 } else { 0 },
            0,
            self.ttl,
            self.protocol(),
            0,
            0,
        ]);
        header.extend(self.addresses());
        header.extend(&self.options);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    /// The vnet header that the kernel would put before this super-packet.
    pub fn vnet(&self, gso_size: u16) -> VnetHeader {
        let gso_type = match (self.tcp, self.ipv6) {
            (true, false) => vnet::GSO_TCPV4,
            (true, true) => vnet::GSO_TCPV6,
            (false, _) => vnet::GSO_UDP_L4,
        };
        let ecn = if self.tcp && self.flags & CWR != 0 {
            vnet::GSO_ECN
        } else {
            0
        };
        VnetHeader {
            flags: vnet::NEEDS_CSUM,
            gso_type: gso_type | ecn,
            hdr_len: self.header_len() as u16,
            gso_size,
            csum_start: self.ip_header_len() as u16,
            csum_offset: if self.tcp { 16 } else { 6 },
        }
    }

    /// What a sender without offload would have sent.
    pub fn split(&self, gso_size: usize) -> Vec<Vec<u8>> {
        let mut chunks: Vec<&[u8]> = self.payload.chunks(gso_size).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        let last = chunks.len() - 1;
        let mut sent = 0;
        let mut packets = vec![];
        for (index, chunk) in chunks.into_iter().enumerate() {
            let mut packet = self.clone();
            packet.payload = chunk.to_vec();
            packet.seq = self.seq.wrapping_add(sent);
            packet.id = self.id.wrapping_add(index as u16);
            if index > 0 {
                packet.flags &= !CWR;
            }
            if index < last {
                packet.flags &= !(FIN | PSH);
            }
            sent += chunk.len() as u32;
            packets.push(packet.octets(false));
        }
        packets
    }
}

/// RFC 1071, one word after the other.
pub fn checksum(octets: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in octets.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Any packet, with a payload of up to `max_payload` octets.
pub fn any_packet(max_payload: usize, flags: impl Strategy<Value = u8>) -> impl Strategy<Value = Packet> {
    let ip = (
        any::<bool>(),
        any::<bool>(),
        any::<u8>(),
        any::<u8>(),
        any::<u16>(),
        any::<bool>(),
        0usize..4,
    );
    let tcp = (
        any::<u32>(),
        any::<u32>(),
        flags,
        any::<u16>(),
        any::<u16>(),
        0usize..=10,
    );
    (ip, any::<[u16; 2]>(), tcp, 0..=max_payload, any::<u8>()).prop_map(
        |(
            (ipv6, tcp, tos, ttl, id, dont_fragment, options),
            ports,
            (seq, ack, flags, window, urgent, words),
            payload,
            salt,
        )| {
            let mut packet = if tcp {
                Packet::tcp(ipv6, payload)
            } else {
                Packet::udp(ipv6, payload)
            };
            packet
                .payload
                .iter_mut()
                .for_each(|octet| *octet = octet.wrapping_mul(salt | 1).wrapping_add(salt));
            Packet {
                tos,
                ttl,
                id,
                dont_fragment,
                options: vec![1; options * 4],
                ports,
                seq,
                ack,
                flags,
                window,
                urgent,
                tcp_options: if tcp { vec![1; words * 4] } else { vec![] },
                ..packet
            }
        },
    )
}
