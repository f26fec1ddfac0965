//! Outer payloads of IP-TFS (RFC 9347).

use landbridge_proto::esp::aggfrag::{
    Bounds, Congestion, Control, Decoder, Encoder, FLOOR, Found, Header, Outer, Pace, Place,
};
use landbridge_proto::time::Instant;
use std::time::Duration;

/// Any octets as outer payloads of an AGGFRAG SA (RFC 9347), in any order: each begins with its sequence number and its
/// length. What is found lies where it should, and is as long as it says.
pub fn aggfrag(octets: &[u8]) {
    let [window, rest @ ..] = octets else { return };
    let mut rest = rest;
    let mut decoder = Decoder::new(usize::from(*window), Duration::from_millis(1));
    let (mut built, mut found) = (Vec::new(), Vec::new());
    let whole = |packet: &[u8]| match packet.first().map(|octet| octet >> 4) {
        Some(4) => usize::from(u16::from_be_bytes([packet[2], packet[3]])) == packet.len(),
        Some(6) => usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40 == packet.len(),
        _ => false,
    };
    for now in 0_u64.. {
        let [sequence, high, low, payload @ ..] = rest else {
            break;
        };
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(payload.len());
        let (payload, after) = payload.split_at(len);
        rest = after;
        let outer = Outer {
            sequence: u64::from(*sequence),
            tos: *low,
            payload,
        };
        found.clear();
        let before = built.len();
        decoder.take(Instant::from_nanos(now * 300_000), outer, &mut built, &mut found);
        for packet in &found {
            assert!(match &packet.place {
                Place::Payload(range) => whole(&payload[range.clone()]),
                Place::Built(range) => range.start >= before && whole(&built[range.clone()]),
            });
        }
    }
    found.clear();
    decoder.timeout(Instant::FAR_FUTURE, &mut built, &mut found);
    let whole = |packet: &Found| matches!(&packet.place, Place::Built(range) if whole(&built[range.clone()]));
    assert!(found.iter().all(whole));
    assert_eq!(decoder.deadline(), None);
}

/// A step: what time has passed (in units of 64 us), the sequence number, and what a peer says.
const STEP: usize = 2 + 8 + Header::CONGESTION;

/// Any congestion information, with any sequence numbers, at any times: the rate stays between its bounds, and what is told
/// within what its fields hold.
pub fn congestion(octets: &[u8]) {
    let [reordering, octets, rest @ ..] = octets else {
        return;
    };
    let size = usize::from(*octets) * 64 + 64;
    let (least, most) = (64_000, 1_000_000_000);
    let mut control = Control::new(u64::from(*reordering));
    let mut old = control.clone();
    control.set_bounds(Bounds::new(least, most, size));
    let mut now = Instant::from_nanos(1);
    for step in rest.chunks_exact(STEP) {
        let (time, step) = step.split_first_chunk().expect("two octets");
        let (sequence, said) = step.split_first_chunk().expect("eight octets");
        now = now + Duration::from_micros(u64::from(u16::from_be_bytes(*time)) * 64);
        let heard = Header::read(said).ok().and_then(|(header, _)| header.congestion);
        control.arrived(now, u64::from_be_bytes(*sequence), heard.as_ref());
        let interval = control.interval(now);
        assert!(interval >= Pace::interval(most, size) && interval <= Pace::interval(least, size));
        let told = control.tell(now, interval);
        assert!(told.rtt == 0 || (Duration::from_micros(told.rtt.into()) >= FLOOR && told.rtt <= 10_000_000));
        assert!(control.telling() >= FLOOR / 2 && control.telling() <= Duration::from_millis(2100));
        let report = control.report();
        assert!(report.received == told.loss_event_rate && report.rate.is_some());
        old.inherit(&control);
    }
    assert!(old.report().rtt == control.report().rtt || rest.len() >= STEP);
}

/// A stream with losses and answers.
pub fn reports() -> Vec<Vec<u8>> {
    let mut octets = vec![3, 22];
    for number in 1..200_u64 {
        let at = number * 156 * 64;
        let said = Congestion {
            loss_event_rate: if number > 50 { 100 } else { 0 },
            rtt: if number > 5 { 20_000 } else { 0 },
            echo_delay: 500,
            transmit_delay: 1000,
            tval: at as u32,
            techo: (at as u32).saturating_sub(20_000),
            ..Congestion::default()
        };
        let header = Header {
            block_offset: 0,
            congestion: Some(said),
        };
        let mut said = [0; Header::CONGESTION];
        header.write(&mut said).expect("room");
        let sequence = number + number / 20;
        octets.extend_from_slice(&156_u16.to_be_bytes());
        octets.extend_from_slice(&sequence.to_be_bytes());
        octets.extend_from_slice(&said);
    }
    vec![octets]
}

pub fn seeds() -> Vec<Vec<u8>> {
    let v4 = |len: u16| {
        let mut packet = vec![7; usize::from(len)];
        packet[..4].copy_from_slice(&[0x45, 0, (len >> 8) as u8, len as u8]);
        packet
    };
    let mut v6 = vec![0x60; 90];
    v6[4..6].copy_from_slice(&[0, 50]);
    let mut encoder = Encoder::new(true, 1 << 16);
    for packet in [v4(40), v6, v4(300), v4(20)] {
        encoder.room(packet.len()).expect("room").copy_from_slice(&packet);
    }
    let outer = |sequence: u8, payload: &[u8]| [&[sequence, 0, payload.len() as u8], payload].concat();
    let mut outers = Vec::new();
    for sequence in 1..7 {
        let mut payload = [0; 124];
        encoder.fill(None, &mut payload).expect("a payload");
        let (header, data) = Header::read(&payload).expect("a header");
        // A peer may always send congestion information.
        let congestion = (sequence % 2 == 0).then(Congestion::default);
        let header = Header { congestion, ..header };
        let mut whole = vec![0; header.octets() + data.len()];
        header.write(&mut whole).expect("room").copy_from_slice(data);
        outers.push(outer(sequence, &whole));
    }
    let in_order = [&[3], &outers.concat()[..]].concat();
    outers.swap(1, 3);
    outers.remove(4);
    vec![in_order, [&[4], &outers.concat()[..]].concat()]
}
