//! What a packet costs, piece by piece: `cargo bench -p landbridge-proto --bench packets`; an argument picks rows by name. Times
//! are medians on one core; compare only what was measured in one run of an idle machine.
//!
//! `packets count outbound|inbound N` carries N packets and prints nothing: `netns-scripts/instructions` runs it under callgrind,
//! with a cipher that does nothing, so that what is counted does not depend on the processor's features.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a benchmark"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "it measures time; the protocol does not read the clock"
)]

mod null_cipher;

use landbridge_proto::crypto::{CipherSuite, ESP_PROVIDER, Encryption, Integrity, Provider, Secret};
use landbridge_proto::esp::replay::ReplayWindow;
use landbridge_proto::esp::{InboundSa, OutboundSa};
use landbridge_proto::ip::checksum::Sum;
use landbridge_proto::ip::coalesce::{CoalesceOptions, Coalescer};
use landbridge_proto::ip::flow::{self, Ports};
use landbridge_proto::ip::segment::Segmenter;
use landbridge_proto::ip::tunnel::{Ecn, decapsulate_ecn};
use landbridge_proto::ip::vnet::{self, VnetHeader};
use landbridge_proto::policy::sad::SaParameters;
use landbridge_proto::policy::selector::{PortMatch, SelectorSet, from_prefix, parse};
use landbridge_proto::policy::spi::slot_of;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// A row's time, in batches of about this long.
const ROW: Duration = Duration::from_millis(600);
const BATCH: Duration = Duration::from_millis(5);
/// Packets that are joined in a batch.
const TOGETHER: usize = 32;
/// Octets of the packet that is counted.
const LENGTH: usize = 1400;

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    if let [count, direction, packets] = words.as_slice()
        && count == "count"
    {
        let packets: usize = packets.parse().unwrap();
        match direction.as_str() {
            "outbound" => Out::new(&null_cipher::PROVIDER).carry(packets),
            "inbound" => In::new(&null_cipher::PROVIDER).carry(packets),
            other => panic!("{other}: outbound or inbound"),
        }
        return;
    }
    let rows = Rows(words);
    ciphers(&rows);
    window(&rows);
    inner(&rows);
    lookups(&rows);
    rows.time("outbound, 1400 octets, without cipher", TOGETHER, {
        let mut out = Out::new(&null_cipher::PROVIDER);
        move || out.carry(TOGETHER)
    });
    rows.time("inbound, 1400 octets, without cipher", TOGETHER, {
        let mut into = In::new(&null_cipher::PROVIDER);
        move || into.carry(TOGETHER)
    });
}

/// Rows that are wanted; all without an argument.
struct Rows(Vec<String>);

impl Rows {
    /// Times `work`, which does `each` things a call: nanoseconds for one, the median of the batches.
    fn time(&self, row: &str, each: usize, mut work: impl FnMut()) {
        if !self.0.is_empty() && !self.0.iter().any(|word| row.contains(word.as_str())) {
            return;
        }
        let mut calls = 1_u32;
        let mut timed = |calls: u32| {
            let begin = Instant::now();
            (0..calls).for_each(|_| work());
            begin.elapsed()
        };
        while timed(calls) < BATCH {
            calls *= 2;
        }
        let (end, mut batches) = (Instant::now() + ROW, Vec::new());
        while Instant::now() < end || batches.len() < 11 {
            batches.push(timed(calls));
        }
        batches.sort_unstable();
        let one = batches[batches.len() / 2].as_secs_f64() * 1e9 / f64::from(calls) / each as f64;
        println!("{row:<56} {one:>10.1} ns");
    }
}

fn parameters(provider: &Provider, suite: CipherSuite, spi: u32) -> SaParameters {
    let sizes = (provider.sizes)(suite).unwrap();
    SaParameters {
        spi,
        suite,
        key: Secret::new(vec![0x5a; sizes.key_material()]),
        esn: false,
    }
}

fn suite(encryption: Encryption, integrity: Option<Integrity>) -> CipherSuite {
    CipherSuite { encryption, integrity }
}

fn ciphers(rows: &Rows) {
    for (name, suite) in [
        ("aes128gcm16", suite(Encryption::AesGcm16_128, None)),
        ("aes256gcm16", suite(Encryption::AesGcm16_256, None)),
        ("chacha20poly1305", suite(Encryption::ChaCha20Poly1305, None)),
        (
            "aes256-sha256",
            suite(Encryption::AesCbc256, Some(Integrity::HmacSha256_128)),
        ),
    ] {
        for len in [64, LENGTH] {
            let parameters = parameters(&ESP_PROVIDER, suite, 0x5540_0000);
            let mut sa = OutboundSa::new(&ESP_PROVIDER, &parameters, [9; 32]).unwrap();
            let mut packet = vec![0; sa.sealed_len(len)];
            rows.time(&format!("seal, {name}, {len} octets"), 1, || {
                let sequence = sa.reserve(1).unwrap();
                sa.seal(sequence, 4, len, black_box(&mut packet));
            });
            // Opening is in place: what is opened has to be copied to its place each time.
            let mut sa = OutboundSa::new(&ESP_PROVIDER, &parameters, [9; 32]).unwrap();
            let many: Vec<Vec<u8>> = (1..=1024)
                .map(|sequence| {
                    let mut packet = vec![0; sa.sealed_len(len)];
                    sa.seal(sequence, 4, len, &mut packet);
                    packet
                })
                .collect();
            let mut place = packet.clone();
            rows.time(
                &format!("open, {name}, {len} octets (with a new window for 1,024)"),
                many.len(),
                || {
                    let mut sa = InboundSa::new(&ESP_PROVIDER, &parameters, 4096).unwrap();
                    for packet in &many {
                        place.copy_from_slice(packet);
                        sa.open(black_box(&mut place)).unwrap();
                    }
                },
            );
        }
    }
}

fn window(rows: &Rows) {
    let (mut window, mut next) = (ReplayWindow::new(4096), 0);
    rows.time("replay window of 4096, in order", 1, || {
        next += 1;
        window.check(black_box(next)).unwrap();
        window.mark(next);
    });
    let (mut window, mut block) = (ReplayWindow::new(4096), 0);
    rows.time("replay window of 4096, 64 in reverse order", 64, || {
        for back in (1..=64).rev() {
            window.check(black_box(block + back)).unwrap();
            window.mark(block + back);
        }
        block += 64;
    });
    let mut window = ReplayWindow::new(4096);
    window.mark(1 << 20);
    rows.time("replay window, a replay is refused", 1, || {
        assert!(window.check(black_box(1 << 20)).is_err());
    });
}

const HOST_A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const HOST_B: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);

/// A TCP packet with `payload` octets; its checksum is the pseudo header's sum if `partial`.
fn tcp(id: u16, sequence: u32, payload: usize, partial: bool) -> Vec<u8> {
    let total = 40 + payload;
    let mut packet = vec![0x45, 0];
    packet.extend((total as u16).to_be_bytes());
    packet.extend(id.to_be_bytes());
    packet.extend([0x40, 0, 64, 6, 0, 0]);
    packet.extend(HOST_A.octets());
    packet.extend(HOST_B.octets());
    let sum = Sum::default().octets(&packet).checksum();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([0x9c, 0x40, 0x01, 0xbb]);
    packet.extend(sequence.to_be_bytes());
    packet.extend([0, 0, 0, 1, 0x50, 0x10, 1, 0xf5, 0, 0, 0, 0]);
    packet.extend((0..payload).map(|at| (at * 7) as u8));
    let pseudo = Sum::pseudo_header(HOST_A.into(), HOST_B.into(), 6, (total - 20) as u32);
    let field = if partial {
        pseudo.folded()
    } else {
        pseudo.octets(&packet[20..]).checksum()
    };
    packet[36..38].copy_from_slice(&field.to_be_bytes());
    packet
}

fn vnet(gso_size: u16) -> VnetHeader {
    VnetHeader {
        flags: vnet::NEEDS_CSUM,
        gso_type: if gso_size == 0 { vnet::GSO_NONE } else { vnet::GSO_TCPV4 },
        hdr_len: 40,
        gso_size,
        csum_start: 20,
        csum_offset: 16,
    }
}

fn inner(rows: &Rows) {
    const MSS: usize = 1398;
    let (header, packet) = (vnet(MSS as u16), tcp(1, 1, 46 * MSS, true));
    let mut out = vec![0; MSS + 40];
    rows.time("segment, one of 46 of a super-packet", 46, || {
        let segmenter = Segmenter::new(&header, black_box(&packet)).unwrap();
        for index in 0..segmenter.count() {
            segmenter.write_segment(index, &mut out).unwrap();
        }
    });
    let packets: Vec<Vec<u8>> = (0..46)
        .map(|n: u16| tcp(n, u32::from(n) * MSS as u32, MSS, false))
        .collect();
    let mut coalescer = Coalescer::new(CoalesceOptions { tcp: true, udp: true }, 512);
    rows.time("coalesce, one of 46 to a super-packet", 46, || {
        for (index, packet) in packets.iter().enumerate() {
            let flow = flow::parse(black_box(packet)).unwrap();
            coalescer.push(index as u32, &flow, packet);
        }
        assert_eq!(coalescer.len(), 1);
        coalescer.plan().for_each(|item| {
            black_box(item.parts().count());
        });
        coalescer.clear();
    });
    let (octets, mut copy) = (vec![0xa5; 1448], vec![0; 1448]);
    rows.time("checksum, 1448 octets", 1, || {
        black_box(Sum::default().octets(black_box(&octets)));
    });
    rows.time("checksum with the copy, 1448 octets", 1, || {
        black_box(Sum::default().copy(black_box(&octets), black_box(&mut copy)));
    });
}

fn lookups(rows: &Rows) {
    for count in [10_u32, 1_000, 10_000] {
        let address = |index: u32| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + index * 16));
        let mut list: Vec<_> = (0..count).map(|index| from_prefix(address(index), 30)).collect();
        let set = SelectorSet::new(&list);
        let mut at = 0;
        let mut next = move || {
            at = (at + 7919) % count;
            address(at)
        };
        rows.time(&format!("selector lookup, {count}"), 1, || {
            assert!(set.contains(next(), 6, PortMatch::Number(443)));
        });
        // One that covers them all, for another port: whoever is not found at once looks further.
        list.push(parse("10.0.0.0/8[tcp/22]").unwrap());
        let set = SelectorSet::new(&list);
        rows.time(
            &format!("selector lookup, {count} and a wide one: not found"),
            1,
            || {
                let IpAddr::V4(address) = next() else { return };
                let between = Ipv4Addr::from(address.to_bits() + 8).into();
                assert!(!set.contains(between, 6, PortMatch::Number(443)));
            },
        );
    }
    for count in [1_u32, 10_000] {
        // As the worker has them: by the slot of the SPI, each with its window, somewhere in memory.
        let mut slots: Vec<Option<Box<(u32, InboundSa)>>> = Vec::new();
        for slot in 0..count {
            let spi = 0x5540_0000 + slot;
            let parameters = parameters(&null_cipher::PROVIDER, null_cipher::SUITE, spi);
            let sa = InboundSa::new(&null_cipher::PROVIDER, &parameters, 4096).unwrap();
            slots.push(Some(Box::new((spi, sa))));
        }
        let (mut at, mut sequence, mut packet) = (0, 0_u32, sealed(&tcp(1, 1, 24, false)));
        rows.time(
            &format!("SA lookup and open without cipher, {count}, 64 octets"),
            1,
            || {
                at = (at + 7919) % count;
                if at == 0 || count == 1 {
                    sequence += 1;
                }
                let spi = 0x5540_0000 + at;
                packet[..4].copy_from_slice(&spi.to_be_bytes());
                packet[4..8].copy_from_slice(&(sequence + 1).to_be_bytes());
                let spi = u32::from_be_bytes([packet[0], packet[1], packet[2], packet[3]]);
                let found = slots.get_mut(slot_of(spi)).and_then(Option::as_mut);
                let (_, sa) = &mut **found.filter(|found| found.0 == spi).unwrap();
                sa.open(&mut packet).unwrap();
            },
        );
    }
}

/// An inner packet in ESP, sequence number 1, nothing sealed.
fn sealed(inner: &[u8]) -> Vec<u8> {
    let parameters = parameters(&null_cipher::PROVIDER, null_cipher::SUITE, 0x5540_0000);
    let mut sa = OutboundSa::new(&null_cipher::PROVIDER, &parameters, [9; 32]).unwrap();
    let (mut packet, at) = (vec![0; sa.sealed_len(inner.len())], sa.headroom());
    packet[at..at + inner.len()].copy_from_slice(inner);
    sa.seal(1, 4, inner.len(), &mut packet);
    packet
}

fn selectors() -> (SelectorSet, SelectorSet) {
    let of = |text: &str| SelectorSet::new(&[parse(text).unwrap()]);
    (of("10.1.0.0/16"), of("10.2.0.0/16"))
}

fn port_matches(ports: Ports) -> (PortMatch, PortMatch) {
    match ports {
        Ports::Pair { source, destination } => (PortMatch::Number(source), PortMatch::Number(destination)),
        Ports::Message(message) => (PortMatch::Number(message), PortMatch::Number(message)),
        Ports::None | Ports::Opaque => (PortMatch::Opaque, PortMatch::Opaque),
    }
}

/// What a worker does with a packet from the TUN, but for its system calls.
struct Out {
    sa: OutboundSa,
    selectors: (SelectorSet, SelectorSet),
    packet: Vec<u8>,
    batch: Vec<u8>,
}

impl Out {
    fn new(provider: &Provider) -> Self {
        let parameters = parameters(provider, null_cipher::SUITE, 0x5540_0000);
        Self {
            sa: OutboundSa::new(provider, &parameters, [9; 32]).unwrap(),
            selectors: selectors(),
            packet: tcp(1, 1, LENGTH - 40, true),
            batch: vec![0; 2048],
        }
    }

    fn carry(&mut self, packets: usize) {
        let header = vnet(0);
        for _ in 0..packets {
            let segmenter = Segmenter::new(&header, black_box(&self.packet)).unwrap();
            let key = segmenter.flow().key;
            let (source, destination) = port_matches(key.ports);
            assert!(self.selectors.0.contains(key.source, key.protocol, source));
            assert!(self.selectors.1.contains(key.destination, key.protocol, destination));
            // The counter would run out in a long benchmark.
            let sequence = self.sa.reserve(segmenter.count() as u32).unwrap_or(1);
            let len = segmenter.segment_len(0);
            let place = &mut self.batch[..self.sa.sealed_len(len)];
            segmenter.write_segment(0, &mut place[self.sa.headroom()..]).unwrap();
            self.sa.seal(sequence, 4, len, place);
            black_box(place);
        }
    }
}

/// What a worker does with ESP packets of one flow, but for its system calls.
struct In {
    sa: InboundSa,
    sequence: u32,
    selectors: (SelectorSet, SelectorSet),
    packets: Vec<Vec<u8>>,
    coalescer: Coalescer,
}

impl In {
    fn new(provider: &Provider) -> Self {
        let parameters = parameters(provider, null_cipher::SUITE, 0x5540_0000);
        let payload = LENGTH - 40;
        let packet = |n: usize| sealed(&tcp(n as u16, (n * payload) as u32, payload, false));
        Self {
            sa: InboundSa::new(provider, &parameters, 4096).unwrap(),
            sequence: 0,
            selectors: selectors(),
            packets: (0..TOGETHER).map(packet).collect(),
            coalescer: Coalescer::new(CoalesceOptions { tcp: true, udp: true }, 512),
        }
    }

    fn carry(&mut self, packets: usize) {
        let mut left = packets;
        while left > 0 {
            let now = left.min(self.packets.len());
            for (index, packet) in self.packets[..now].iter_mut().enumerate() {
                self.sequence += 1;
                packet[4..8].copy_from_slice(&self.sequence.to_be_bytes());
                let opened = self.sa.open(black_box(packet)).unwrap();
                let inner = &mut packet[opened.payload];
                let mut flow = flow::parse(inner).unwrap();
                let (source, destination) = port_matches(flow.key.ports);
                assert!(self.selectors.0.contains(flow.key.source, flow.key.protocol, source));
                assert!(
                    self.selectors
                        .1
                        .contains(flow.key.destination, flow.key.protocol, destination)
                );
                decapsulate_ecn(Ecn::from_tos(0), &mut flow, inner).unwrap();
                self.coalescer.push(index as u32, &flow, inner);
            }
            let items = self.coalescer.plan().inspect(|item| {
                black_box(item.parts().count());
            });
            assert_eq!(items.count(), 1, "they are one super-packet");
            self.coalescer.clear();
            left -= now;
        }
    }
}
