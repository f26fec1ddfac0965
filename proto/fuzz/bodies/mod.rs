//! What is done with the octets that a fuzzer makes up: one function a target. The targets of cargo-fuzz call them, and so
//! does `proto/tests/fuzzing.rs`, with octets mutated from the seeds that stand beside each, so that they run with every
//! `cargo test`.

mod outer_payloads;

use crate::ike_pump::{side_a, side_b};
use crate::peer::messages::*;
use crate::peer::{Tester, seal};
pub use outer_payloads::{aggfrag, congestion};

use landbridge_proto::crypto::{CipherSuite, ESP_PROVIDER, Encryption, Integrity, PacketCipher, Secret};
use landbridge_proto::esp::stream::{Deframer, LONGEST, PREFIX, length_field};
use landbridge_proto::esp::{InboundSa, NextHeader};
use landbridge_proto::ip::coalesce::{CoalesceOptions, Coalescer};
use landbridge_proto::ip::segment::Segmenter;
use landbridge_proto::ip::vnet::VnetHeader;
use landbridge_proto::ip::{flow, icmp, mss};
use landbridge_proto::policy::connection::{Connection, Gateway};
use landbridge_proto::policy::proposal::{EspProposal, IkeProposal};
use landbridge_proto::policy::sad::SaParameters;
use landbridge_proto::policy::selector;
use landbridge_proto::wire::*;
use std::cell::RefCell;

/// A target: its name, what it does, and where mutation begins.
pub struct Target {
    pub name: &'static str,
    pub body: fn(&[u8]),
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "message",
        body: message,
        seeds: datagrams,
    },
    Target {
        name: "payloads",
        body: payloads,
        seeds: chains,
    },
    Target {
        name: "proposals",
        body: proposals,
        seeds: sa_payloads,
    },
    Target {
        name: "selectors",
        body: selectors,
        seeds: ts_payloads,
    },
    Target {
        name: "endpoint",
        body: endpoint,
        seeds: datagrams,
    },
    Target {
        name: "sealed_request",
        body: sealed_request,
        seeds: sealed_chains,
    },
    Target {
        name: "sealed_response",
        body: sealed_response,
        seeds: sealed_chains,
    },
    Target {
        name: "fragments",
        body: fragments,
        seeds: fragment_plans,
    },
    Target {
        name: "esp_input",
        body: esp_input,
        seeds: esp_packets,
    },
    Target {
        name: "stream",
        body: stream,
        seeds: streams,
    },
    Target {
        name: "inner_packet",
        body: inner_packet,
        seeds: inner_packets,
    },
    Target {
        name: "aggfrag",
        body: aggfrag,
        seeds: outer_payloads::seeds,
    },
    Target {
        name: "congestion",
        body: congestion,
        seeds: outer_payloads::reports,
    },
];

/// Any datagram at the outer structure.
pub fn message(octets: &[u8]) {
    let Ok(outer) = decode_outer(octets) else { return };
    if let OuterBody::Plain { first, payloads } = outer.body {
        let _ = decode_payloads(first, payloads);
    }
}

/// Any octets as a payload chain (the first says which payload comes first): what is understood means the same when written
/// again, and sorts without a panic.
pub fn payloads(octets: &[u8]) {
    let Some((first, chain)) = octets.split_first() else {
        return;
    };
    let Ok(payloads) = decode_payloads(PayloadType(*first), chain) else {
        return;
    };
    assert!(payloads.len() <= limits::PAYLOADS);
    let (again, written) = encode_payloads(&payloads);
    assert_eq!(
        decode_payloads(again, &written).expect("what we write we read"),
        payloads
    );
    for exchange in [34, 35, 36, 37, 38] {
        if let Ok(request) = decode_request(ExchangeType(exchange), payloads.clone()) {
            let again =
                decode_request(ExchangeType(exchange), encode_request(&request)).expect("what we write we read");
            assert_eq!(again, request);
        }
        let _ = decode_response(ExchangeType(exchange), payloads.clone());
    }
    let header = Tester::new(side_b()).sa.header(ExchangeType(37), false, 1);
    assert!(summarize(&header, &payloads).len() < 10_000);
}

/// Any octets as the body of an SA payload: what is chosen of it was offered.
pub fn proposals(octets: &[u8]) {
    let Some(Payload::Sa(offer)) = single(PayloadType::SA, octets) else {
        return;
    };
    let ike = [
        IkeProposal::parse("aes256gcm16-chacha20poly1305-prfsha256-prfsha384-x25519-ecp256").expect("a proposal"),
        IkeProposal::parse("aes256-aes128-sha256-sha512-modp2048").expect("a proposal"),
    ];
    for spi in [0, 8] {
        match IkeProposal::choose(&ike, &offer, spi, None) {
            Ok(chosen) => {
                let offered = offer
                    .proposals
                    .iter()
                    .find(|p| p.number == chosen.answer.number)
                    .expect("offered");
                assert!(
                    chosen
                        .answer
                        .transforms
                        .iter()
                        .all(|one| offered.transforms.contains(one))
                );
                assert!(chosen.answer.transforms.len() <= 4 + 7);
            }
            Err(error) => assert!(error.to_string().len() < 100_000),
        }
        if let Ok(chosen) = IkeProposal::verify_answer(&ike, &offer, spi) {
            assert!(ike.iter().any(|own| own.allows(chosen.suite)));
        }
    }
    let esp = [
        EspProposal::parse("aes256gcm16-x25519-esn-noesn").expect("a proposal"),
        EspProposal::parse("aes128-sha256").expect("a proposal"),
    ];
    for groups in [true, false] {
        let _ = EspProposal::choose(&esp, &offer, groups, None);
        let _ = EspProposal::verify_answer(&esp, &offer, groups);
    }
}

/// Any octets as the body of a TS payload: narrowing gives a subset of both sides.
pub fn selectors(octets: &[u8]) {
    let Some(Payload::TsI(offer)) = single(PayloadType::TSI, octets) else {
        return;
    };
    let policy: Vec<TrafficSelector> = ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "10.9.0.0/16[tcp/443]"]
        .iter()
        .map(|text| selector::parse(text).expect("a selector"))
        .collect();
    let common = selector::narrow(&offer, &policy);
    assert!(selector::is_subset(&common, &policy), "{offer:?}: {common:?}");
    assert!(selector::is_subset(&common, &offer), "{offer:?}: {common:?}");
    for one in offer.iter().chain(&common) {
        assert!(selector::to_prefixes(one).len() <= 256);
        assert!(one.to_string().len() < 10_000);
    }
    let _ = selector::SelectorSet::new(&offer);
}

/// The one payload of a chain made of a body.
fn single(payload_type: PayloadType, body: &[u8]) -> Option<Payload> {
    let length = u16::try_from(4 + body.len()).ok()?;
    let chain = [&[0, 0][..], &length.to_be_bytes(), body].concat();
    decode_payloads(payload_type, &chain).ok()?.pop()
}

/// Any datagrams at an endpoint that has an SA up and one half open, and that serves anybody.
pub fn endpoint(octets: &[u8]) {
    thread_local! { static READY: RefCell<Option<(landbridge_proto::ike::Endpoint, Tester)>> = const { RefCell::new(None) } }
    READY.with_borrow_mut(|ready| {
        let (fresh, t) = ready.get_or_insert_with(|| {
            // It sends elsewhere who says that he follows (RFC 5685).
            let gateway = Gateway {
                redirect_to: GatewayIdentity::parse("192.0.2.9"),
                ..Gateway::default()
            };
            let mut t = Tester::with(side_b(), gateway);
            t.begin();
            // Both have given the other a token (RFC 6290).
            t.dut.set_token_secret(Secret::new(vec![1; 32]));
            t.request(
                ExchangeType::INFORMATIONAL,
                &[notify_with(NotifyType::QUICK_CRASH_DETECTION, &[0x5a; 16])],
            );
            (t.dut.clone(), t)
        });
        t.dut = fresh.clone();
        t.sad = crate::ike_pump::Sad::default();
        let now = t.at();
        // What belongs to its SAs is named by their SPIs, which no fuzzer would find.
        for part in octets.chunks(1500) {
            let mut datagram = part.to_vec();
            if datagram.len() > 16 && datagram[0] & 1 == 1 {
                datagram[..8].copy_from_slice(&t.sa.spi_i.0);
                datagram[8..16].copy_from_slice(&t.sa.spi_r.0);
            }
            t.dut.handle_datagram(now, t.path, &datagram);
            let mut out = Vec::new();
            while t.dut.poll_event().is_some() {}
            while t.dut.poll_transmit(&mut out).is_some() {}
        }
        assert!(
            t.dut.status().iter().any(|sa| sa.stage == "established"),
            "unauthenticated octets ended the SA"
        );
        assert!(t.dut.status().len() <= octets.len() / 28 + 1);
    });
}

/// An exchange type, the first payload's type, and a chain, under the right keys: the first two octets, and the rest.
pub fn sealed_request(octets: &[u8]) {
    let [exchange, first, chain @ ..] = octets else { return };
    let exchange = ExchangeType(34 + exchange % 4);
    let mut t = if exchange == ExchangeType::IKE_AUTH {
        let mut t = Tester::new(side_b());
        let payloads = t.init_payloads();
        t.init(&payloads);
        t
    } else {
        Tester::up(side_b())
    };
    let header = t.sa.header(exchange, false, t.sa.next);
    let datagram = t
        .seal_chain(&header, PayloadType(*first), &chain[..chain.len().min(60_000)])
        .remove(0);
    let sent = t.ask(&datagram);
    assert!(sent.len() <= 2, "an answer, and a request at most");
    assert!(
        exchange != ExchangeType::IKE_AUTH || !t.is_up() || holds_the_proof(&t, true, chain),
        "nobody authenticates by chance"
    );
    assert_eq!(t.dut.spis_in_use(), t.pairs(), "SPIs and pairs");
    if t.is_up() {
        t.sa.next += u32::from(sent.iter().any(|sent| sent.header().flags.response));
        t.assert_alive();
    }
}

/// The tester is the same in every run, so a seed may hold its right proof.
fn holds_the_proof(t: &Tester, initiator: bool, chain: &[u8]) -> bool {
    let named = id(initiator, if initiator { "a.example" } else { "b.example" });
    let Payload::Auth(auth) = t.auth(crate::peer::PSK, &named) else {
        return false;
    };
    chain.windows(auth.data.len()).any(|window| window == auth.data)
}

/// The same as an answer to IKE_AUTH, to a rekey of a Child SA, or to a Delete.
pub fn sealed_response(octets: &[u8]) {
    let [which, first, chain @ ..] = octets else { return };
    let (mut t, asked) = Tester::until_auth(Connection {
        follow_redirects: true,
        ..side_a()
    });
    let header = if which % 2 == 0 {
        asked.header
    } else {
        let payloads = t.auth_answer();
        t.respond(&asked.header, &payloads);
        t.command(landbridge_proto::ike::Command::RekeyChild {
            connection: crate::ike_pump::SITE.into(),
            child: None,
        });
        t.next_request().expect("a request").header
    };
    let header = t.sa.header(header.exchange, true, header.message_id);
    let datagram = t
        .seal_chain(&header, PayloadType(*first), &chain[..chain.len().min(60_000)])
        .remove(0);
    t.ask(&datagram);
    assert!(
        which % 2 == 1 || !t.is_up() || holds_the_proof(&t, false, chain),
        "nobody authenticates by chance"
    );
    // What was reserved belongs to a pair, to one that is to be deleted, or to nobody.
    assert!(t.dut.spis_in_use() <= t.pairs() + 1);
}

/// A plan of fragments, four octets each: number, total, and where in a message each begins and ends.
pub fn fragments(octets: &[u8]) {
    let mut t = Tester::new(side_b());
    let mut payloads = t.init_payloads();
    payloads.push(notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED));
    t.init(&payloads);
    let payloads = t.auth_payloads();
    t.request(ExchangeType::IKE_AUTH, &payloads).expect("an answer");
    let (first, chain) = encode_payloads(&[Payload::VendorId(vec![7; 200]), delete_children(&[1, 2, 3])]);
    let header = t.sa.header(ExchangeType::INFORMATIONAL, false, t.sa.next);
    let mut answers = 0;
    for plan in octets.chunks_exact(4).take(400) {
        let [number, total, from, len] = [plan[0], plan[1], plan[2], plan[3]].map(usize::from);
        let part = &chain[from.min(chain.len())..(from + len).min(chain.len())];
        let odd = |value: usize| u16::try_from(if value > 250 { value * 257 } else { value }).expect("it fits");
        let datagram = seal::fragment(&t.sa, &header, first, part, (odd(number), odd(total)));
        answers += t.ask(&datagram).len();
        // Now and then time passes.
        if number == 249 {
            t.pass(std::time::Duration::from_secs(10));
        }
    }
    assert!(answers <= octets.len() / 4);
    assert_eq!(t.dut.spis_in_use(), t.pairs());
}

/// Octets as a TCP stream (RFC 9329), cut into pieces as the first octet says: the same messages come out, or the same error, as
/// of the whole; none is empty, and what is left over is no whole message.
pub fn stream(octets: &[u8]) {
    let [choice, stream @ ..] = octets else { return };
    let begin = if choice & 1 == 0 {
        Deframer::responder()
    } else {
        Deframer::originator()
    };
    let run = |piece: usize| {
        let (mut deframer, mut held, mut found) = (begin, Vec::new(), Vec::new());
        for octets in stream.chunks(piece) {
            held.extend_from_slice(octets);
            let mut at = 0;
            loop {
                match deframer.next(&held, &mut at) {
                    Ok(Some(range)) => {
                        assert!(range.end == at && !range.is_empty() && range.len() <= LONGEST);
                        found.push(held[range].to_vec());
                    }
                    Ok(None) => break,
                    Err(error) => return (found, Err(error)),
                }
            }
            held.drain(..at);
        }
        (found, Ok(held))
    };
    let whole = run(stream.len().max(1));
    assert_eq!(run(usize::from(choice >> 1) + 1), whole);
}

fn streams() -> Vec<Vec<u8>> {
    let frame = |message: &[u8]| [&length_field(message.len()).expect("short")[..], message].concat();
    let ike = frame(&[&[0; 4][..], &datagrams()[0]].concat());
    let esp = frame(&[7; 60]);
    vec![
        [&[0][..], &PREFIX, &ike, &esp, &frame(&[0xff])].concat(),
        [&[9][..], &esp, &ike, &[0, 2], &esp].concat(),
        [&[2][..], &PREFIX, &ike, &[0, 1]].concat(),
        [&[0x30][..], &PREFIX, &[0xff, 0xff, 1, 2, 3]].concat(),
    ]
}

/// Octets as an ESP packet, as they are and under a right ICV, for an AEAD and for CBC: opened or refused, never more than
/// came in, and the window moves for what is authentic only.
pub fn esp_input(octets: &[u8]) {
    let [choice, rest @ ..] = octets else { return };
    let (suite, len) = if choice & 1 == 0 {
        (
            CipherSuite {
                encryption: Encryption::AesGcm16_256,
                integrity: None,
            },
            36,
        )
    } else {
        let integrity = Some(Integrity::HmacSha256_128);
        (
            CipherSuite {
                encryption: Encryption::AesCbc128,
                integrity,
            },
            48,
        )
    };
    let parameters = SaParameters {
        spi: 0x1000,
        suite,
        key: Secret::new(vec![7; len]),
        esn: choice & 2 == 2,
    };
    let mut sa = InboundSa::new(&ESP_PROVIDER, &parameters, 64).expect("an SA");
    let mut packet = rest.to_vec();
    if sa.open(&mut packet).is_ok() {
        panic!("an ICV by chance");
    }
    assert_eq!(sa.highest(), 0);
    // The same octets as plain text, Pad Length and Next Header included, with a right ICV.
    let cipher: Box<dyn PacketCipher> = (ESP_PROVIDER.cipher)(suite, &parameters.key).expect("a cipher");
    let sizes = cipher.sizes();
    let text_len = rest.len().min(9000) / sizes.block.max(4) * sizes.block.max(4);
    let mut text = rest[..text_len].to_vec();
    let header = [&0x1000_u32.to_be_bytes()[..], &5_u32.to_be_bytes()].concat();
    let (iv, mut icv) = (vec![3; sizes.iv], vec![0; sizes.icv]);
    cipher.seal(&header, parameters.esn.then_some(0), &iv, &mut text, &mut icv);
    let mut packet = [header, iv, text, icv].concat();
    let whole = packet.len();
    if let Ok(opened) = sa.open(&mut packet) {
        assert!(opened.payload.end <= whole && opened.payload.start <= opened.payload.end);
        assert_eq!((opened.sequence, sa.highest()), (5, 5));
        let _ = matches!(opened.next_header, NextHeader::Dummy);
    }
}

/// Any octets as an inner packet: flow, MSS, segmentation, joining, ICMP errors.
pub fn inner_packet(octets: &[u8]) {
    let Some((header, packet)) = octets.split_first_chunk::<{ VnetHeader::LEN }>() else {
        return;
    };
    let (vnet, mut packet) = (VnetHeader::from_octets(header), packet.to_vec());
    let Ok(flow) = flow::parse(&packet) else { return };
    mss::clamp(&mut packet, &flow, 1400, vnet.needs_checksum());
    let mut out = vec![0; 70_000];
    if let Ok(segmenter) = Segmenter::new(&vnet, &packet) {
        for index in 0..segmenter.count() {
            assert_eq!(
                segmenter.write_segment(index, &mut out),
                Some(segmenter.segment_len(index))
            );
        }
    }
    icmp::build(
        icmp::IcmpError::TooBig { mtu: 1400 },
        &flow,
        &packet,
        flow.key.destination,
        &mut out,
    );
    let mut coalescer = Coalescer::new(CoalesceOptions { tcp: true, udp: true }, 4);
    for index in 0..3 {
        coalescer.push(index, &flow, &packet);
    }
    let parts: usize = coalescer.plan().map(|item| item.parts().count()).sum();
    assert_eq!(parts, 3);
}

// Where mutation begins.

fn datagrams() -> Vec<Vec<u8>> {
    let mut t = Tester::new(side_b());
    let mut payloads = t.init_payloads();
    let plain = t.init_datagram(&payloads);
    payloads.insert(0, notify_with(NotifyType::COOKIE, &[7; 32]));
    payloads.insert(1, Payload::PuzzleSolution(vec![7; 16]));
    payloads.push(notify_with(NotifyType::NAT_DETECTION_SOURCE_IP, &[1; 20]));
    payloads.push(notify_with(NotifyType::SIGNATURE_HASH_ALGORITHMS, &[0, 5]));
    payloads.push(unknown(99, false));
    let full = t.init_datagram(&payloads);
    let resume = Header {
        spi_r: IkeSpi::ZERO,
        ..t.sa.header(ExchangeType::IKE_SESSION_RESUME, false, 0)
    };
    let ticket = notify_with(NotifyType::TICKET_OPAQUE, &[1; 200]);
    let resume = encode_plain(&resume, &[nonce(&[7; 32]), ticket]);
    t.begin();
    let header = t.sa.header(ExchangeType::INFORMATIONAL, false, t.sa.next);
    let sealed = t.seal(&header, &[delete_ike()]).remove(0);
    let fragment = seal::fragment(&t.sa, &header, PayloadType::NONE, &[], (1, 1));
    // One whose first octet is odd stands for the SA that is up.
    let mut known = sealed.clone();
    known[0] |= 1;
    // In the clear, with tokens that are wrong.
    let cry = |about: Payload| {
        let token = |octet: u8| notify_with(NotifyType::QUICK_CRASH_DETECTION, &[octet; 16]);
        let mut datagram = encode_plain(&header, &[about, token(1), token(2)]);
        datagram[0] |= 1;
        datagram
    };
    let lost = cry(notify(NotifyType::INVALID_IKE_SPI));
    let unknown_spi = cry(notify_with(NotifyType::INVALID_SPI, &t.esp.to_be_bytes()));
    vec![plain, full, resume, sealed, fragment, known, lost, unknown_spi]
}

/// The payloads of all exchanges.
fn bodies() -> Vec<Vec<Payload>> {
    let mut t = Tester::new(side_b());
    let init = t.init_payloads();
    t.init(&init);
    let mut auth = t.auth_payloads();
    auth.push(notify(NotifyType::INITIAL_CONTACT));
    auth.push(Payload::Cert(Certificate {
        encoding: CertEncoding::X509_SIGNATURE,
        data: vec![0x30, 0x82, 1, 0, 2, 1, 1],
    }));
    auth.push(Payload::CertReq(CertificateRequest {
        encoding: CertEncoding::X509_SIGNATURE,
        authorities: vec![7; 40],
    }));
    auth.push(Payload::Cp(Configuration {
        cfg_type: CfgType::REQUEST,
        attributes: vec![(1, vec![]), (3, vec![8, 8, 8, 8])],
    }));
    let mut child = t.child_offer(true);
    child.extend([
        nonce(&[7; 32]),
        ke(KeMethod::CURVE25519, &[9; 32]),
        notify(NotifyType::USE_TRANSPORT_MODE),
    ]);
    let mut rekey = vec![notify_esp(NotifyType::REKEY_SA, t.esp)];
    rekey.extend(child.clone());
    let ike = vec![
        with_spi(ike_offer(t.sa.suite), &[6; 8]),
        nonce(&[7; 32]),
        ke(KeMethod::CURVE25519, &[9; 32]),
    ];
    let informational = vec![
        delete_children(&[t.esp, 1]),
        notify_with(NotifyType::COOKIE2, &[7; 16]),
        delete_ike(),
    ];
    let resume = vec![
        nonce(&[7; 32]),
        notify_with(NotifyType::TICKET_OPAQUE, &[1; 200]),
        notify_with(NotifyType::TICKET_LT_OPAQUE, &[2; 20]),
        notify(NotifyType::TICKET_REQUEST),
    ];
    let redirect = vec![
        notify_with(NotifyType::REDIRECT, b"\x03\x0agw.example"),
        notify_with(
            NotifyType::REDIRECT,
            &[1, 4, 192, 0, 2, 9, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7],
        ),
        notify_with(
            NotifyType::REDIRECTED_FROM,
            &[2, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        ),
        notify(NotifyType::REDIRECT_SUPPORTED),
    ];
    vec![init, auth, child, rekey, ike, informational, resume, redirect]
}

fn chains() -> Vec<Vec<u8>> {
    let chain = |payloads: &Vec<Payload>| {
        let (first, chain) = encode_payloads(payloads);
        [&[first.0][..], &chain].concat()
    };
    bodies().iter().map(chain).collect()
}

fn sealed_chains() -> Vec<Vec<u8>> {
    let exchanges = [0, 1, 2, 2, 2, 3, 3, 3];
    chains()
        .into_iter()
        .zip(exchanges)
        .map(|(chain, exchange)| [&[exchange][..], &chain].concat())
        .collect()
}

fn sa_payloads() -> Vec<Vec<u8>> {
    let body = |payload: Payload| encode_payloads(&[payload]).1[4..].to_vec();
    vec![
        body(ike_offer(crate::peer::SUITE)),
        body(with_spi(ike_offer(crate::peer::SUITE), &[6; 8])),
        body(esp_offer(0x1000, Some(KeMethod::CURVE25519))),
        body(Payload::Sa(IkeProposal::to_wire(&IkeProposal::defaults(), &[]))),
        body(Payload::Sa(EspProposal::to_wire(
            &EspProposal::defaults(),
            0x1000,
            true,
        ))),
    ]
}

fn ts_payloads() -> Vec<Vec<u8>> {
    let body = |payload: Payload| encode_payloads(&[payload]).1[4..].to_vec();
    vec![
        body(tsi(&["10.1.0.0/16"])),
        body(tsi(&["0.0.0.0/0", "::/0", "10.9.0.0/16[tcp/443]"])),
        body(Payload::TsI(vec![TrafficSelector::Unknown {
            ts_type: 10,
            protocol: 0,
            body: vec![1; 12],
        }])),
    ]
}

fn fragment_plans() -> Vec<Vec<u8>> {
    vec![
        vec![1, 2, 0, 100, 2, 2, 100, 200],
        vec![
            1, 3, 0, 80, 2, 3, 80, 80, 249, 249, 0, 0, 3, 3, 160, 200, 1, 4, 0, 60, 255, 255, 0, 9, 0, 0, 0, 1,
        ],
    ]
}

fn esp_packets() -> Vec<Vec<u8>> {
    let mut inner = vec![
        0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1, 0, 9, 0, 9, 0, 8, 0, 0,
    ];
    inner.extend([1, 2, 2, 4]);
    let dummy = [vec![9; 30], vec![0, 59]].concat();
    [0, 1, 2, 3]
        .iter()
        .flat_map(|choice| [[&[*choice][..], &inner].concat(), [&[*choice][..], &dummy].concat()])
        .collect()
}

fn inner_packets() -> Vec<Vec<u8>> {
    let vnet = [0; VnetHeader::LEN];
    let udp = vec![
        0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1, 0, 9, 0, 9, 0, 8, 0, 0,
    ];
    let mut tcp = vec![0x45, 0, 0, 44, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1];
    tcp.extend([
        0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5, 180,
    ]);
    let mut v6 = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
    v6.extend([0x20; 16]);
    v6.extend([0x21; 16]);
    v6.extend([0, 9, 0, 9, 0, 8, 0, 0]);
    [udp, tcp, v6]
        .iter()
        .map(|packet| [&vnet[..], packet].concat())
        .collect()
}
