//! SPIs of ESP that somebody does not know: INVALID_SPI in the clear (RFC 7296 §1.5), with tokens (RFC 6290 §8.2) and without.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;
#[path = "peer/mod.rs"]
mod peer;

use ike_pump::{side_a, side_b};
use landbridge_proto::crypto::Secret;
use landbridge_proto::policy::connection::StartAction;
use landbridge_proto::policy::sad::SadReport;
use landbridge_proto::wire::*;
use peer::Tester;
use peer::messages::*;
use std::collections::BTreeSet;
use std::sync::Arc;

const TOKEN: NotifyType = NotifyType::QUICK_CRASH_DETECTION;

fn secret(n: u8) -> Secret {
    Secret::new(vec![n; 32])
}

fn maker() -> Tester {
    let mut t = Tester::new(side_b());
    t.dut.set_token_secret(secret(1));
    t
}

/// T begins, and gives the DUT a token.
fn begin_with(t: &mut Tester, token: &[u8]) {
    let payloads = t.init_payloads();
    t.init(&payloads);
    let mut payloads = t.auth_payloads();
    payloads.push(notify_with(TOKEN, token));
    t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
}

fn with_token(token: &[u8]) -> Tester {
    let mut t = Tester::new(side_b());
    begin_with(&mut t, token);
    assert!(t.is_up());
    t
}

/// INVALID_SPI with these notifies.
fn unknown_spi(t: &Tester, mut more: Vec<Payload>) -> Vec<u8> {
    let header = Header {
        spi_i: IkeSpi::ZERO,
        spi_r: IkeSpi::ZERO,
        ..t.sa.header(ExchangeType::INFORMATIONAL, false, 0)
    };
    more.insert(0, notify_with(NotifyType::INVALID_SPI, &t.esp.to_be_bytes()));
    encode_plain(&header, &more)
}

/// Peers choose their SPIs each for itself: the token is looked for at all that have the same, and the one that it came from is
/// asked.
#[test]
fn several_peers_may_have_the_same_spi() {
    for (from, token) in (0..2).flat_map(|from| [None, Some(1), Some(2), Some(9)].map(|token| (from, token))) {
        let mut t = with_token(&[1; 16]);
        let first = (t.sa.spi_i, t.path);
        t.sa = peer::Sa::new(IkeSpi([5; 8]), IkeSpi::ZERO, true);
        t.path.remote = t.address("192.0.2.77:500");
        t.esp -= 1;
        begin_with(&mut t, &[2; 16]);
        let both = [first, (t.sa.spi_i, t.path)];
        let is_up = |t: &Tester, spi: IkeSpi| t.status().iter().any(|sa| sa.spi_i == spi && sa.stage == "established");
        assert!(both.iter().all(|(spi, _)| is_up(&t, *spi)));
        let spis: BTreeSet<u32> = t.sad.pairs.values().map(|pair| pair.outbound.spi).collect();
        assert_eq!((t.pairs(), spis), (2, [t.esp].into()));
        t.out.clear();
        let more = token.map(|token| notify_with(TOKEN, &[token; 16]));
        let datagram = unknown_spi(&t, more.into_iter().collect());
        t.send_from(both[from].1, &datagram);
        for (n, (spi, path)) in (1..).zip(both) {
            assert_eq!(is_up(&t, spi), token != Some(n), "{from} {token:?}");
            let asked = t.out.iter().any(|sent| sent.header().spi_i == spi && sent.path == path);
            let is_asked = matches!(token, None | Some(9)) && both[from].0 == spi;
            assert_eq!(asked, is_asked, "{from} {token:?}");
        }
    }
}

/// §8.2: with the SPI of ESP in place of those of the IKE SA.
#[test]
fn a_token_may_come_with_an_spi_of_esp() {
    for right in [true, false] {
        let mut t = with_token(&[7; 16]);
        let datagram = unknown_spi(&t, vec![notify_with(TOKEN, &[if right { 7 } else { 8 }; 16])]);
        let mut path = t.path;
        path.remote = t.address("203.0.113.99:7777");
        t.send_from(path, &datagram);
        assert_eq!(t.is_up(), !right);
        assert!(t.out.is_empty());
    }
}

/// ESP from where no SA is, and whom it is told: RFC 7296 §1.5's message, to those who may be peers, not many a second.
#[test]
fn strangers_hear_of_their_spis_of_esp() {
    let mut b = side_b();
    b.remote_addrs = vec![[203, 0, 113, 99].into()];
    let mut t = Tester::new(b);
    t.dut.set_token_secret(secret(1));
    let local = t.path.local.ip();
    let mut told = |from: &str, spi: u32| {
        let remote = t.address(from);
        t.report(SadReport::UnknownSpi { spi, local, remote });
        t.out.drain(..).collect::<Vec<_>>()
    };
    // By UDP, to where it came from; without, to the port for both.
    for (from, to) in [
        ("203.0.113.99:7777", "203.0.113.99:7777"),
        ("203.0.113.99:0", "203.0.113.99:4500"),
    ] {
        let sent = told(from, 5000);
        assert_eq!(
            (sent[0].path.local.port(), sent[0].path.remote.to_string()),
            (4500, to.to_owned())
        );
        let header = sent[0].header();
        assert_eq!(
            (header.spi_i, header.spi_r, header.message_id),
            (IkeSpi::ZERO, IkeSpi::ZERO, 0)
        );
        assert!(header.flags.initiator && !header.flags.response);
        let OuterBody::Plain { first, payloads } = decode_outer(&sent[0].octets).unwrap().body else {
            panic!("in the clear")
        };
        let spi = notify_with(NotifyType::INVALID_SPI, &5000_u32.to_be_bytes());
        assert_eq!(decode_payloads(first, payloads).unwrap(), [spi]);
    }
    assert!(told("203.0.113.98:4500", 5000).is_empty(), "nobody that we know");
    let count: usize = (0..5000).map(|spi| told("203.0.113.99:4500", spi).len()).sum();
    assert!((900..=1000).contains(&count), "{count}");
}

/// Who is being spoken with already is not told: that leads further by itself.
#[test]
fn who_is_at_it_hears_nothing_of_esp() {
    let mut a = side_a();
    Arc::make_mut(a.children.get_mut("net").unwrap()).start_action = StartAction::Start;
    let mut t = Tester::new(a);
    t.dut.set_token_secret(secret(1));
    t.provoke();
    let (local, remote) = (t.path.local.ip(), t.path.remote);
    t.report(SadReport::UnknownSpi {
        spi: 5000,
        local,
        remote,
    });
    assert!(t.out.is_empty());
}

/// What somebody began from there, who has proven nothing, silences nobody; nor does another peer behind the same NAT. The peer
/// itself is told within its SA.
#[test]
fn others_with_the_same_address_silence_nobody() {
    for (up, from, told) in [
        (false, 4500, true),
        (true, 7777, true),
        (true, 4500, false),
        (true, 0, false),
    ] {
        let mut t = maker();
        t.path.remote = t.address("203.0.113.99:4500");
        let payloads = t.init_payloads();
        t.init(&payloads);
        if up {
            let payloads = t.auth_payloads();
            t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        }
        assert_eq!(t.stage(), Some(if up { "established" } else { "half-open" }));
        t.out.clear();
        let remote = t.address(&format!("203.0.113.99:{from}"));
        let local = t.path.local.ip();
        t.report(SadReport::UnknownSpi {
            spi: 5000,
            local,
            remote,
        });
        let plain = |sent: &peer::Sent| sent.header().spi_i == IkeSpi::ZERO;
        assert_eq!(t.out.iter().map(plain).collect::<Vec<_>>(), [told], "{up} {from}");
    }
}
