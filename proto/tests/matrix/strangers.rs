//! What the unproven may cost: octets out for octets in, memory, and work.

use crate::ike_pump::side_b;
use crate::peer::Tester;
use crate::peer::messages::*;
use landbridge_proto::policy::connection::Gateway;
use landbridge_proto::policy::sad::Path;
use landbridge_proto::wire::{ExchangeType, IkeSpi, Nonce, NotifyType, Payload, encode_plain};
use rand_core::Rng;
use std::time::Duration;

/// Before an address is proven, no more goes out to it than came from it, but for the 16 octets by which our nonce is longer
/// than the shortest.
#[test]
fn octets_out_are_no_more_than_octets_in() {
    // The smallest message that is taken: one proposal, one key, the shortest nonce, no announcement.
    let mut t = Tester::new(side_b());
    let mut payloads = t.init_payloads();
    payloads[2] = Payload::Nonce(Nonce(vec![3; 16]));
    let smallest = t.init_datagram(&payloads);
    let sent = t.ask(&smallest);
    assert_eq!(t.status().len(), 1);
    let grown = sent[0].octets.len() as isize - smallest.len() as isize;
    assert!(
        grown <= 16,
        "{grown} octets more than were received: {:?}",
        t.open(&sent).payloads
    );
    // Repeated, it draws the same again, and no more.
    assert_eq!(t.ask(&smallest)[0].octets, sent[0].octets);
    // An honest one's.
    let mut t = Tester::new(side_b());
    let mut payloads = t.init_payloads();
    payloads.push(notify_with(NotifyType::NAT_DETECTION_SOURCE_IP, &[1; 20]));
    payloads.push(notify_with(NotifyType::NAT_DETECTION_DESTINATION_IP, &[2; 20]));
    payloads.push(notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED));
    let honest = t.init_datagram(&payloads);
    assert!(t.ask(&honest)[0].octets.len() <= honest.len());
    // Refused, asked for a cookie, asked for another group.
    for (threshold, word) in [(0, 31), (100, 14), (100, 9)] {
        let gateway = Gateway {
            cookie_threshold: threshold,
            ..Gateway::default()
        };
        let mut t = Tester::with(side_b(), gateway);
        let mut payloads = t.init_payloads();
        payloads[2] = Payload::Nonce(Nonce(vec![3; 16]));
        let mut transforms = ike_transforms();
        transforms[2].id = word;
        payloads[0] = sa(vec![proposal(
            1,
            landbridge_proto::wire::ProtocolId::IKE,
            &[],
            transforms,
        )]);
        let datagram = t.init_datagram(&payloads);
        let sent = t.ask(&datagram);
        assert!(sent.len() == 1 && sent[0].octets.len() <= datagram.len());
        assert!(t.status().is_empty());
    }
}

/// Junk of all kinds, 100,000 datagrams of it: nothing is kept but counters, and the SA that is up is not touched.
#[test]
fn junk_costs_nothing_that_stays() {
    let mut t = Tester::up(side_b());
    let up = t.state();
    let payloads = t.init_payloads();
    let mut kept = [t.init_datagram(&payloads), vec![]];
    let header = t.sa.header(ExchangeType::INFORMATIONAL, false, t.sa.next);
    kept[1] = t.seal(&header, &[delete_ike()]).remove(0);
    t.out.clear();
    let (mut octets_in, mut octets_out) = (0, 0);
    let now = t.at();
    for round in 0..100_000_u32 {
        let mut datagram = kept[(round % 2) as usize].clone();
        match round % 5 {
            // Of any length and content.
            0 => {
                datagram = vec![0; (t.rng.next_u32() % 400) as usize];
                t.rng.fill_bytes(&mut datagram);
            }
            // Cut, with a length that agrees.
            1 => {
                let len = 28 + (t.rng.next_u32() as usize) % (datagram.len() - 28);
                datagram.truncate(len);
                datagram[24..28].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
            }
            // A few octets changed behind the SPIs; never the right ICV.
            _ => {
                for _ in 0..1 + round % 3 {
                    let at = 16 + (t.rng.next_u32() as usize) % (datagram.len() - 16);
                    datagram[at] ^= 1 + (t.rng.next_u32() % 255) as u8;
                }
            }
        }
        if kept.contains(&datagram) {
            continue; // Changed back.
        }
        let address = 0x0a00_0000 + round;
        let path = Path::udp(t.path.local, (std::net::Ipv4Addr::from(address), 500).into());
        octets_in += datagram.len();
        t.dut.handle_datagram(now, path, &datagram);
        while t.dut.poll_event().is_some() {}
        let mut out = Vec::new();
        while let Some(transmit) = t.dut.poll_transmit(&mut out) {
            octets_out += transmit.len;
        }
    }
    assert!(octets_out <= octets_in, "{octets_out} octets out for {octets_in} in");
    // Half-open SAs that mutated first messages made are bounded, and are forgotten.
    let limit = Gateway::default().half_open_limit;
    assert!(t.status().len() <= limit + 1, "{}", t.status().len());
    let counters = t.counters();
    assert!(
        counters.malformed > 1000 && counters.integrity_failed > 1000 && counters.unknown_spi > 100,
        "{counters:?}"
    );
    t.pass(Duration::from_secs(60));
    t.out.clear();
    assert_eq!(t.state().0, up.0);
    t.assert_alive();
}

/// First messages from everywhere, faster than they can be answered: cookies, then limits, and one peer gets through.
#[test]
fn a_flood_of_first_messages_leaves_room_for_the_honest() {
    let mut t = Tester::new(side_b());
    let payloads = t.init_payloads();
    let now = t.at();
    for number in 1..=20_000_u32 {
        t.sa.spi_i = IkeSpi(u64::from(number).to_be_bytes());
        let datagram = t.init_datagram(&payloads);
        let path = Path::udp(
            t.path.local,
            (std::net::Ipv4Addr::from(0x0a00_0000 + number), 500).into(),
        );
        t.dut.handle_datagram(now, path, &datagram);
    }
    t.drain();
    t.out.clear();
    let threshold = Gateway::default().cookie_threshold;
    assert_eq!(t.status().len(), threshold, "after that, no state without a cookie");
    assert_eq!(t.counters().cookies_sent, 20_000 - threshold as u64);
    // The honest one shows its cookie and is served.
    t.sa.spi_i = IkeSpi([0xee; 8]);
    let answer = t.init(&payloads);
    let cookie = answer.notify(NotifyType::COOKIE).expect("a cookie").data.clone();
    let mut again = vec![notify_with(NotifyType::COOKIE, &cookie)];
    again.extend(payloads);
    t.init(&again);
    let payloads = t.auth_payloads();
    t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(t.is_up() && t.pairs() == 1);
}

/// No response draws an answer, whatever it says, from wherever it comes.
#[test]
fn responses_are_never_answered() {
    let mut t = Tester::up(side_b());
    // RFC 7296 §1.5: a hint, which is followed once a minute by a question of our own.
    let header = t.sa.header(ExchangeType::INFORMATIONAL, true, 0);
    t.send(&encode_plain(&header, &[notify(NotifyType::INVALID_IKE_SPI)]));
    let asked = t.next_request().unwrap();
    t.respond(&asked.header, &[]);
    for exchange in 0..=255 {
        for unknown in [false, true] {
            let mut header = t.sa.header(ExchangeType(exchange), true, 0);
            if unknown {
                header.spi_r = IkeSpi([7; 8]);
            }
            let plain = encode_plain(&header, &[notify(NotifyType::INVALID_IKE_SPI)]);
            let sealed = t.seal(&header, &[notify(NotifyType::INVALID_SYNTAX)]).remove(0);
            for datagram in [plain, sealed] {
                assert!(t.ask(&datagram).is_empty(), "{exchange}");
            }
        }
    }
    t.assert_alive();
}
