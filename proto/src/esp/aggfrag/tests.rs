//! Encoder and decoder against each other, and each against the RFC's pictures.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

use super::*;
use crate::time::Instant;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_millis(10);

/// An IPv4 or IPv6 packet of `len` octets, full of `n`.
fn packet(n: u64, len: usize, ipv6: bool) -> Vec<u8> {
    let mut packet = vec![n as u8; len];
    for (octet, at) in packet.iter_mut().zip(0_u64..) {
        *octet = (n.wrapping_mul(31) + at) as u8;
    }
    if ipv6 {
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
    } else {
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    }
    packet
}

fn queue(encoder: &mut Encoder, packet: &[u8]) {
    encoder.room(packet.len()).unwrap().copy_from_slice(packet);
}

/// The packets that come out of some payloads; what stands between is the decoder's.
fn decode(decoder: &mut Decoder, sequence: u64, payload: &[u8]) -> Vec<Vec<u8>> {
    let (mut built, mut found) = (Vec::new(), Vec::new());
    let outer = Outer {
        sequence,
        tos: 0,
        payload,
    };
    decoder.take(Instant::ZERO, outer, &mut built, &mut found);
    octets(&found, payload, &built)
}

fn octets(found: &[Found], payload: &[u8], built: &[u8]) -> Vec<Vec<u8>> {
    let octets = |found: &Found| match &found.place {
        Place::Payload(range) => payload[range.clone()].to_vec(),
        Place::Built(range) => built[range.clone()].to_vec(),
    };
    found.iter().map(octets).collect()
}

/// RFC 9347 appendix A, figure 11: 1400 octets of data blocks a payload. "The BlockOffset values in the 4 AGGFRAG payload
/// headers for this packet flow would thus be: 0, 100, 2000, and 600, respectively."
#[test]
fn the_example_of_the_rfc() {
    let lengths = [750, 750, 60, 240, 3000].into_iter().zip(1..);
    let packets: Vec<Vec<u8>> = lengths.map(|(len, n)| packet(n, len, n % 2 == 0)).collect();
    let mut encoder = Encoder::new(true, 1 << 20);
    packets.iter().for_each(|packet| queue(&mut encoder, packet));
    let mut decoder = Decoder::new(3, PATIENCE);
    let (mut offsets, mut out) = (Vec::new(), Vec::new());
    for sequence in 1..=4 {
        let mut payload = vec![9; 1404];
        encoder.fill(None, &mut payload).unwrap();
        offsets.push(Header::read(&payload).unwrap().0.block_offset);
        out.extend(decode(&mut decoder, sequence, &payload));
    }
    assert_eq!(offsets, [0, 100, 2000, 600]);
    assert_eq!(out, packets);
    assert!(encoder.is_empty());
    assert_eq!(decoder.drops(), Drops::default());
}

#[test]
fn headers_are_read_as_they_are_written() {
    let congestion = Congestion {
        probing: true,
        experienced: false,
        loss_event_rate: 0x0102_0304,
        rtt: 0x2f_0001,
        echo_delay: 0x11_0002,
        transmit_delay: 0x1f_0003,
        tval: 0xdead_beef,
        techo: 0xfeed_face,
    };
    let mut octets = [0xff; 30];
    for (header, first) in [
        (
            Header {
                block_offset: 0x1234,
                congestion: None,
            },
            [0, 0, 0x12, 0x34],
        ),
        (
            Header {
                block_offset: 7,
                congestion: Some(congestion),
            },
            [1, 2, 0, 7],
        ),
    ] {
        let left = header.write(&mut octets).unwrap().len();
        assert_eq!(left, 30 - header.octets());
        assert_eq!(octets[..4], first);
        let (read, data) = Header::read(&octets).unwrap();
        assert_eq!((read, data.len()), (header, left));
        for len in 0..header.octets() {
            assert_eq!(Header::read(&octets[..len]), Err(WrongHeader));
            assert!(header.write(&mut [0; 30][..len]).is_none());
        }
    }
    // Octet by octet: LossEventRate, 22 bits of RTT, 21 of Echo Delay, 21 of Transmit Delay, TVal, TEcho.
    let fields = [
        [0x01, 0x02, 0x03, 0x04],
        [0xbc, 0x00, 0x06, 0x20],
        [0x00, 0x5f, 0x00, 0x03],
        [0xde, 0xad, 0xbe, 0xef],
        [0xfe, 0xed, 0xfa, 0xce],
        [0xff; 4],
    ];
    assert_eq!(octets[4..28], *fields.as_flattened());
    // E is the last bit; the reserved ones are ignored.
    octets[1] = 0xfd;
    let read = Header::read(&octets).unwrap().0.congestion.unwrap();
    assert!(read.experienced && !read.probing);
    // RFC 9347 §6.1.2: "If the RTT is equal to or larger than 0x3FFFFF, the value MUST be set to 0x3FFFFF", and the delays to
    // 0x1FFFFF.
    let long = Congestion {
        rtt: u32::MAX,
        echo_delay: u32::MAX,
        transmit_delay: u32::MAX,
        ..Congestion::default()
    };
    Header {
        block_offset: 0,
        congestion: Some(long),
    }
    .write(&mut octets)
    .unwrap();
    let read = Header::read(&octets).unwrap().0.congestion.unwrap();
    assert_eq!(
        (read.rtt, read.echo_delay, read.transmit_delay),
        (0x3f_ffff, 0x1f_ffff, 0x1f_ffff)
    );
    octets[0] = 2;
    assert_eq!(Header::read(&octets), Err(WrongHeader));
}

/// "inner packets MUST be sent using a single Data Block" to a peer that said D.
#[test]
fn nothing_is_fragmented_for_a_peer_that_takes_no_fragments() {
    let mut encoder = Encoder::new(false, 1 << 20);
    for (n, len) in [300, 900, 100, 1200, 64, 2000, 70].into_iter().enumerate() {
        queue(&mut encoder, &packet(n as u64, len, false));
    }
    let (mut out, mut filled) = (Vec::new(), Vec::new());
    for sequence in 1.. {
        let next = encoder.next_len(1000);
        let mut payload = vec![9; 1004];
        let now = encoder.fill(None, &mut payload).unwrap();
        assert_eq!(Header::read(&payload).unwrap().0.block_offset, 0);
        assert!(now.too_long > 0 || next as u64 == now.octets);
        filled.push((now.packets, now.octets, now.too_long));
        // Each payload stands alone.
        let mut decoder = Decoder::new(0, PATIENCE);
        out.extend(decode(&mut decoder, sequence, &payload).iter().map(Vec::len));
        if encoder.is_empty() {
            break;
        }
    }
    assert_eq!(out, [300, 900, 100, 64, 70]);
    assert_eq!(filled, [(1, 300, 0), (2, 1000, 0), (1, 64, 1), (1, 70, 1)]);
}

/// A packet is not begun with fewer octets than say its length, and the queue has an end.
#[test]
fn short_beginnings_and_a_full_queue() {
    let mut encoder = Encoder::new(true, 300);
    queue(&mut encoder, &packet(1, 95, false));
    queue(&mut encoder, &packet(2, 200, true));
    assert!(encoder.room(6).is_none() && encoder.room(0).is_none());
    let mut payload = [9; 104];
    let filled = encoder.fill(None, &mut payload).unwrap();
    assert_eq!((filled.octets, filled.packets, encoder.has_begun()), (95, 1, false));
    assert_eq!(payload[99..], [0; 5]);
    encoder.fill(None, &mut payload).unwrap();
    assert!(encoder.has_begun());
    encoder.fill(None, &mut payload).unwrap();
    assert_eq!(Header::read(&payload).unwrap().0.block_offset, 100);
    assert!(encoder.is_empty() && !encoder.has_begun());
    // All-pad.
    assert_eq!(encoder.fill(None, &mut payload), Some(Filled::default()));
    assert_eq!(payload, [0; 104]);
    assert_eq!(encoder.fill(None, &mut payload[..3]), None);
}

/// RFC 9347 §2.2.3: no packet is begun by one SA and ended by another.
#[test]
fn what_is_begun_stays_with_its_sa() {
    let [mut old, mut new] = [(); 2].map(|()| Encoder::new(true, 1000));
    for n in 0..3 {
        queue(&mut old, &packet(n, 300, false));
    }
    let mut payload = [0; 104];
    old.fill(None, &mut payload).unwrap();
    assert_eq!(old.hand_over(&mut new), 0);
    assert_eq!((old.queued(), new.queued()), (200, 600));
    assert_eq!(old.hand_over(&mut new), 0);
    let mut decoder = Decoder::new(3, PATIENCE);
    assert!(decode(&mut decoder, 1, &payload).is_empty());
    let mut rest = [0; 204];
    old.fill(None, &mut rest).unwrap();
    assert_eq!(decode(&mut decoder, 2, &rest), [packet(0, 300, false)]);
    assert!(old.is_empty());
    let mut whole = [0; 604];
    new.fill(None, &mut whole).unwrap();
    assert_eq!(
        decode(&mut Decoder::new(3, PATIENCE), 1, &whole),
        [packet(1, 300, false), packet(2, 300, false)]
    );
    for n in 0..5 {
        queue(&mut old, &packet(n, 200, false));
    }
    queue(&mut new, &packet(9, 500, false));
    assert_eq!(old.hand_over(&mut new), 3, "what has no room is counted");
    assert!(old.is_empty() && old.queued() == 0);
}

/// Octets of senders that don't keep to the rules, and what is dropped for them.
#[test]
fn wrong_payloads_cost_only_what_is_wrong() {
    let whole = packet(1, 40, false);
    let long = packet(2, 100, true);
    let plain = |offset: u16, parts: &[&[u8]]| [&[0, 0][..], &offset.to_be_bytes(), &parts.concat()].concat();
    let cut = plain(0, &[&whole, &long[..50]]);
    for (second, expected, drops) in [
        // The rest, and one more.
        (
            plain(50, &[&long[50..], &whole]),
            vec![long.clone(), whole.clone()],
            (0, 0),
        ),
        // All-pad and empty payloads in between change nothing, but the rest is still missing.
        (plain(0, &[&[0; 20]]), vec![], (0, 0)),
        (plain(0, &[]), vec![], (0, 0)),
        // BlockOffset does not agree with the length: the packet is dropped, the next is found.
        (plain(49, &[&long[51..], &whole]), vec![whole.clone()], (0, 1)),
        (plain(51, &[&long[50..], &[7], &whole]), vec![whole.clone()], (0, 1)),
        (plain(0, &[&whole]), vec![whole.clone()], (0, 1)),
        (plain(60_000, &[&long[50..]]), vec![], (0, 1)),
        // No data block has this type; what came before it is good.
        (
            plain(50, &[&long[50..], &whole, &[0x50, 1, 2, 3]]),
            vec![long.clone(), whole.clone()],
            (1, 0),
        ),
        // Lengths shorter than the header.
        (
            plain(50, &[&long[50..], &[0x45, 0, 0, 19, 0]]),
            vec![long.clone()],
            (1, 0),
        ),
        (
            plain(50, &[&long[50..], &[0x44, 0, 0, 40, 0]]),
            vec![long.clone()],
            (1, 0),
        ),
        // A sub-type there is not.
        ([&[2, 0, 0, 50][..], &long[50..]].concat(), vec![], (1, 1)),
        (vec![0, 0, 0], vec![], (1, 1)),
    ] {
        let mut decoder = Decoder::new(3, PATIENCE);
        assert_eq!(decode(&mut decoder, 1, &cut), std::slice::from_ref(&whole));
        assert_eq!(decode(&mut decoder, 2, &second), expected, "{second:?}");
        let seen = decoder.drops();
        assert_eq!((seen.malformed, seen.incomplete), drops, "{second:?}");
    }
    // A packet of which not even the length has come, and that ends there.
    let mut decoder = Decoder::new(3, PATIENCE);
    assert!(decode(&mut decoder, 1, &plain(0, &[&[0x45, 0]])).is_empty());
    assert!(decode(&mut decoder, 2, &plain(1, &[&[0, 0, 0]])).is_empty());
    assert_eq!(decoder.drops().incomplete, 1);
    // The same, going on octet by octet.
    let mut decoder = Decoder::new(3, PATIENCE);
    assert!(decode(&mut decoder, 1, &plain(0, &[&whole[..1]])).is_empty());
    for at in 1..39 {
        let offset = (whole.len() - at) as u16;
        assert!(decode(&mut decoder, at as u64 + 1, &plain(offset, &[&whole[at..=at]])).is_empty());
    }
    assert_eq!(decode(&mut decoder, 40, &plain(1, &[&whole[39..]])), [whole]);
    assert_eq!(decoder.drops(), Drops::default());
}

/// RFC 9347 §2.2.3: what the window has passed by is dropped; what is waited for in vain is given up after a time.
#[test]
fn the_window_and_the_timer() {
    let one = |n: u64| {
        let mut encoder = Encoder::new(true, 1000);
        queue(&mut encoder, &packet(n, 60, false));
        let mut payload = vec![0; 64];
        encoder.fill(None, &mut payload).unwrap();
        payload
    };
    let numbers = |packets: Vec<Vec<u8>>| -> Vec<u64> {
        let number = |octets: &Vec<u8>| (0..20).find(|n| packet(*n, 60, false) == *octets).unwrap();
        packets.iter().map(number).collect()
    };
    let mut decoder = Decoder::new(3, PATIENCE);
    let give = |decoder: &mut Decoder, n: u64| numbers(decode(decoder, n, &one(n)));
    assert_eq!(give(&mut decoder, 1), [1]);
    for n in [3, 4, 5, 4] {
        assert!(give(&mut decoder, n).is_empty());
    }
    assert_eq!(give(&mut decoder, 6), [3, 4, 5, 6], "2 is given up");
    assert!(give(&mut decoder, 2).is_empty());
    assert_eq!(decoder.drops().late, 1);
    assert!(give(&mut decoder, 8).is_empty());
    assert_eq!(give(&mut decoder, 7), [7, 8]);
    assert_eq!(decoder.deadline(), None);
    assert!(give(&mut decoder, 10).is_empty());
    assert!(give(&mut decoder, 12).is_empty());
    let end = Instant::ZERO + PATIENCE;
    assert_eq!(decoder.deadline(), Some(end));
    let (mut built, mut found) = (Vec::new(), Vec::new());
    decoder.timeout(end - Duration::from_nanos(1), &mut built, &mut found);
    assert!(found.is_empty());
    decoder.timeout(end, &mut built, &mut found);
    assert_eq!(numbers(octets(&found, &[], &built)), [10, 12]);
    assert_eq!(decoder.deadline(), None);
    // Far ahead, and without a window.
    decoder.drops();
    assert_eq!(give(&mut decoder, 13), [13]);
    assert!(give(&mut decoder, 19).is_empty());
    let drops = decoder.drops();
    assert_eq!((drops.lost, drops.late), (2, 0), "14 and 15 are lost, 16 may come");
    let mut none = Decoder::new(0, PATIENCE);
    assert_eq!(give(&mut none, 2), [2]);
    assert_eq!(give(&mut none, 9), [9]);
    assert!(give(&mut none, 8).is_empty());
    assert_eq!(none.drops().late, 1);
}

/// Any packets through outer payloads of any sizes, lost and reordered within the window: what comes out went in, in order,
/// and what lost none of its octets comes out.
#[test]
fn any_packets_through_any_loss_and_reordering() {
    for seed in 0..400_u64 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut below = |most: usize| rng.next_u32() as usize % most.max(1);
        let fragments = below(4) != 0;
        let window = below(8);
        let loss = [0, 0, 5, 30][below(4)];
        let mut encoder = Encoder::new(fragments, 1 << 20);
        let (mut packets, mut outers) = (Vec::new(), Vec::new());
        // Of each packet the outer payloads from the first that has an octet of it to the last.
        let mut spans: Vec<(u64, u64)> = Vec::new();
        let mut done = 0;
        for n in 0..60 + below(60) {
            let ipv6 = below(2) == 0;
            let least = if ipv6 { 40 } else { 20 };
            let most = if fragments {
                [60, 300, 1500, 9000][below(4)]
            } else {
                120
            };
            let octets = packet(n as u64, least + below(most), ipv6);
            queue(&mut encoder, &octets);
            packets.push(octets);
            if below(3) == 0 || n % 64 == 63 {
                for _ in 0..below(5) {
                    let mut payload = vec![0x55; 4 + if fragments { 1 + below(900) } else { 160 + below(500) }];
                    let sequence = outers.len() as u64 + 1;
                    let begun = encoder.has_begun();
                    let filled = encoder.fill(None, &mut payload).unwrap();
                    assert_eq!(filled.too_long, 0);
                    for number in done..done + filled.packets as usize + usize::from(encoder.has_begun()) {
                        if number == done && begun {
                            spans[number].1 = sequence;
                        } else {
                            spans.push((sequence, sequence));
                        }
                    }
                    done += filled.packets as usize;
                    outers.push(payload);
                }
            }
        }
        let mut order: Vec<(usize, u64)> = (1..=outers.len() as u64)
            .filter_map(|sequence| {
                let turn = sequence as usize + below(window + 1);
                (below(100) >= loss).then_some((turn, sequence))
            })
            .collect();
        order.sort_unstable();
        let mut decoder = Decoder::new(window, PATIENCE);
        let mut out = Vec::new();
        let mut now = Instant::ZERO;
        for (_, sequence) in &order {
            let payload = &outers[*sequence as usize - 1];
            let (mut built, mut found) = (Vec::new(), Vec::new());
            let outer = Outer {
                sequence: *sequence,
                tos: 0,
                payload,
            };
            decoder.take(now, outer, &mut built, &mut found);
            out.extend(octets(&found, payload, &built));
        }
        now = now + PATIENCE;
        let (mut built, mut found) = (Vec::new(), Vec::new());
        decoder.timeout(now, &mut built, &mut found);
        out.extend(octets(&found, &[], &built));
        let drops = decoder.drops();
        assert_eq!((drops.late, drops.malformed), (0, 0), "seed {seed}");
        let mut rest = packets.iter();
        for packet in &out {
            assert!(
                rest.any(|sent| sent == packet),
                "seed {seed}: not sent, or out of order"
            );
        }
        let arrived = |sequence: u64| order.iter().any(|(_, other)| *other == sequence);
        let whole = spans
            .iter()
            .take(done)
            .filter(|(first, last)| (*first..=*last).all(arrived));
        assert_eq!(out.len(), whole.count(), "seed {seed}: one is missing");
    }
}

#[test]
fn a_rate_is_kept_over_time_and_no_burst_follows_a_pause() {
    let interval = Pace::interval(10_000_000, 1250);
    assert_eq!(interval, Duration::from_millis(1));
    let mut pace = Pace::new(Instant::ZERO, interval, Duration::from_millis(20));
    let mut sent = 0;
    for wake in 0..1000_u64 {
        // A clock that wakes every 1.7 ms.
        let now = Instant::from_nanos(wake * 1_700_000);
        while pace.due(now) {
            sent += 1;
        }
    }
    assert_eq!(sent, 1 + 999 * 17 / 10);
    let late = pace.next() + Duration::from_secs(5);
    let burst = std::iter::repeat_with(|| pace.due(late)).take_while(|due| *due).count();
    assert_eq!(burst, 1);
    pace.set_interval(Duration::from_millis(2));
    assert!(pace.due(late + Duration::from_millis(1)));
    assert_eq!(pace.next(), late + Duration::from_millis(3));
}
