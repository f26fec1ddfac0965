//! A TUN by itself: what one thread reads from it and writes to it, in super-packets and packet by packet.

use super::network::Network;
use super::{Report, Row};
use crate::sys::namespace::unshare_network;
use crate::sys::transmit::{Outgoing, TransmitBatch};
use crate::sys::tun::{Pieces, Tun, TunOptions};
use landbridge_proto::ip::checksum::Sum;
use landbridge_proto::ip::vnet::{self, VnetHeader};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

const OWN: [u8; 4] = [10, 99, 0, 1];
const PEER: [u8; 4] = [10, 99, 0, 2];
const MTU: u16 = 1428;
/// Payload of a packet of 1400 octets, and packets of a super-packet.
const PAYLOAD: usize = 1372;
const TOGETHER: usize = 46;

pub(super) fn run(span: Duration) -> io::Result<Report> {
    unshare_network()?;
    let network = Network::open()?;
    let (with, without) = (device(&network, "bench0", true)?, device(&network, "bench1", false)?);
    let mut rows = Vec::new();
    let mut add = |name: &str, each: Option<f64>| {
        if let Some(each) = each {
            let gbit = (PAYLOAD + 28) as f64 * 8.0 / each;
            rows.push(Row::new(name, each, "ns a packet", Some(gbit)));
        }
        each
    };
    let read_super = add(
        "read, super-packets (the sender's system call included)",
        read(&with, TOGETHER, span)?,
    );
    let read_single = add(
        "read, packet by packet (the sender's system call included)",
        read(&without, 1, span)?,
    );
    let write_super = add("write, super-packets", write(&with, TOGETHER, span)?);
    let write_single = add("write, packet by packet", write(&without, 1, span)?);
    let times = |single: Option<f64>, many: Option<f64>| Some(single? / many?);
    let bottleneck = match (times(read_single, read_super), times(write_single, write_super)) {
        (Some(read), Some(write)) => format!(
            "Packet by packet the kernel's own path is the wall: super-packets are read {read:.1} times and written {write:.1} times as \
             fast. They are in use here; a tunnel whose traffic is small packets goes by the other rows."
        ),
        _ => "This kernel hands out no UDP super-packets (USO: Linux 6.2): each UDP packet takes a system call; TCP's come from \
              Linux 2.6.27 on. A newer kernel is the remedy."
            .to_owned(),
    };
    Ok(Report {
        what: "tun",
        rows,
        bottleneck,
    })
}

fn device(network: &Network, name: &str, offload: bool) -> io::Result<Tun> {
    let tun = Tun::create(name, TunOptions { offload })?;
    // Each has a network of its own: the first part of the name's number.
    let third = u8::from(!offload);
    network.configure(name, MTU, [OWN[0], OWN[1], third, OWN[3]], 24)?;
    Ok(tun)
}

/// The kernel sends, we read. `None` without super-packets.
fn read(tun: &Tun, together: usize, span: Duration) -> io::Result<Option<f64>> {
    if together > 1 && !tun.uso() {
        return Ok(None);
    }
    let third = u8::from(together == 1);
    let socket = UdpSocket::bind((std::net::Ipv4Addr::from([OWN[0], OWN[1], third, OWN[3]]), 0))?;
    let octets = vec![0xa5; together * PAYLOAD];
    let message = Outgoing {
        start: 0,
        len: octets.len(),
        segment: PAYLOAD,
        local: std::net::Ipv4Addr::UNSPECIFIED.into(),
        remote: SocketAddr::from(([PEER[0], PEER[1], third, PEER[3]], 9)),
        tos: 0,
        dont_fragment: false,
    };
    let (mut batch, mut buffer) = (TransmitBatch::new(1), vec![0; VnetHeader::LEN + 65_536]);
    let (begin, mut packets) = (Instant::now(), 0_u64);
    while begin.elapsed() < span {
        batch.send(&socket, &octets, &[message])?;
        loop {
            match tun.read(&mut buffer) {
                // What the kernel says of its own is short.
                Ok(len) if len > octets.len() => packets += together as u64,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok((packets > 0).then(|| begin.elapsed().as_secs_f64() * 1e9 / packets as f64))
}

/// We write packets to an address that nobody has: the kernel takes them, and drops them once it has looked for a route.
fn write(tun: &Tun, together: usize, span: Duration) -> io::Result<Option<f64>> {
    if together > 1 && !tun.uso() {
        return Ok(None);
    }
    let packet = datagram(u8::from(together == 1), together);
    let header = VnetHeader {
        flags: vnet::NEEDS_CSUM,
        gso_type: vnet::GSO_UDP_L4,
        hdr_len: 28,
        gso_size: PAYLOAD as u16,
        csum_start: 20,
        csum_offset: 6,
    };
    let header = if tun.vnet() {
        header.to_octets().to_vec()
    } else {
        Vec::new()
    };
    let mut pieces = Pieces::default();
    let (begin, mut packets) = (Instant::now(), 0_u64);
    while begin.elapsed() < span {
        tun.write(
            &mut pieces,
            [&header[..], &packet[..]].into_iter().filter(|part| !part.is_empty()),
        )?;
        packets += together as u64;
    }
    Ok((packets > 0).then(|| begin.elapsed().as_secs_f64() * 1e9 / packets as f64))
}

/// A UDP packet from the other end, or a super-packet; the checksum is the pseudo header's sum.
fn datagram(third: u8, together: usize) -> Vec<u8> {
    let payload = together * PAYLOAD;
    let source = [PEER[0], PEER[1], third, PEER[3]];
    let destination = [PEER[0], PEER[1], 200, 1];
    let mut packet = vec![0x45, 0];
    packet.extend(((28 + payload) as u16).to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(source);
    packet.extend(destination);
    let sum = Sum::default().octets(&packet).checksum();
    if let Some(field) = packet.get_mut(10..12) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    packet.extend([0, 9, 0, 9]);
    packet.extend(((8 + payload) as u16).to_be_bytes());
    let pseudo = Sum::pseudo_header(source.into(), destination.into(), 17, (8 + payload) as u32);
    packet.extend(pseudo.folded().to_be_bytes());
    packet.resize(28 + payload, 0xa5);
    packet
}
