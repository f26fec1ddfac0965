//! Group N: ESP. The tests stand where the data path is: in the protocol crate, over loopback, in namespaces.

use crate::ike_pump::{side_a, side_b};
use crate::peer::Tester;
use crate::peer::messages::notify;
use crate::table::Level::{Must, Should};
use crate::table::{Row, here, out, row, there};
use landbridge_proto::crypto::{CipherSuite, ESP_PROVIDER, Encryption, Integrity, Secret};
use landbridge_proto::esp::{InboundError, InboundSa, NextHeader, Opened};
use landbridge_proto::policy::connection::Connection;
use landbridge_proto::policy::sad::SaParameters;
use landbridge_proto::wire::{ExchangeType, NotifyType};
use std::sync::Arc;

const LOOPBACK: &str = "tests/data_loopback";
const TUNNEL: &str = "tests/netns/tunnel.rs";
const HOSTILE: &str = "tests/netns/hostile.rs";
const VECTORS: &str = "proto/tests/vectors.rs";
const REPLAY: &str = "proto/src/esp/replay.rs";

pub fn rows() -> Vec<Row> {
    let mut rows = packets();
    rows.extend(numbers_and_ciphers());
    rows.extend(tunnels());
    rows
}

fn packets() -> Vec<Row> {
    vec![
        row(
            ("N1", "RFC 4303 §2.1", Must),
            "IP protocol 50; SPIs at random, not 0, not reserved",
            "The SPI value of zero (0) is reserved for local, implementation-specific use and MUST NOT be sent on the wire.",
            there("proto/src/policy/spi.rs", "spis_are_unique_and_above_255"),
            there("proto/tests/matrix", "reserved_spis"),
        ),
        row(
            ("N2", "RFC 4303 §2.2", Must),
            "the first packet has number 1, each next one more",
            "For a unicast SA or a single-sender multicast SA, the sender MUST increment this field for every transmitted \
             packet.",
            there(VECTORS, "dpdk_tunnel_packets"),
            there(VECTORS, "sequence_numbers_end"),
        ),
        row(
            ("N3", "RFC 4303 §3.3.3", Must),
            "numbers don't come round: rekeyed before, stopped at the end",
            "In other words, the sender MUST NOT send a packet on an SA if doing so would cause the sequence number to cycle.",
            there(
                "src/data/report.rs",
                "without_esn_a_rekey_comes_before_the_numbers_run_out",
            ),
            there("proto/tests/esp.rs", "sending_stops_before_the_numbers_are_used_up"),
        ),
        row(
            ("N4", "RFC 4303 §2.4", Must),
            "padding aligns, and counts 1, 2, 3",
            "Inclusion of the Padding field in an ESP packet is optional, subject to the requirements noted above, but all \
             implementations MUST support generation and consumption of padding.",
            here!(padding_of_all_lengths),
            here!(padding_of_other_content_is_refused),
        ),
        row(
            ("N5", "RFC 4303 §3.4.4", Must),
            "what is too short, or has more padding than text, is dropped and counted",
            "In either case, if the integrity check fails, the receiver MUST discard the received IP datagram as invalid; this \
             is an auditable event.",
            there("proto/tests/esp.rs", "every_length_is_taken_or_refused"),
            here!(what_is_too_short_or_all_padding),
        ),
        row(
            ("N6", "RFC 4301 §5.2", Must),
            "Next Header of a tunnel is IPv4's or IPv6's, as the packet is",
            "If an IPsec system receives an inbound packet on an SA and the packet's header fields are not consistent with the \
             selectors for the SA, it MUST discard the packet.",
            there(LOOPBACK, "next_headers_dummies_and_tfc_padding"),
            there(
                LOOPBACK,
                "spoofed_sources_and_destinations_outside_the_selectors_are_dropped_and_counted",
            ),
        ),
        row(
            ("N7", "RFC 4303 §2.6", Must),
            "dummy packets are discarded without an error",
            "A transmitter MUST be capable of generating dummy packets marked with this value in the next protocol field, and \
             a receiver MUST be prepared to discard such packets, without indicating an error.",
            here!(dummies_are_authentic_and_counted),
            there(LOOPBACK, "next_headers_dummies_and_tfc_padding"),
        ),
        row(
            ("N8", "RFC 4303 §2.7", Should),
            "padding behind the inner packet is tolerated",
            "An IPsec implementation SHOULD be capable of padding traffic by adding bytes after the end of the Payload Data, \
             prior to the beginning of the Padding field.",
            there(LOOPBACK, "next_headers_dummies_and_tfc_padding"),
            here!(padding_only_for_who_takes_it),
        ),
        row(
            ("N9", "RFC 4303 §3.4.4.1", Must),
            "a failed ICV: discarded and counted; window and liveness don't move",
            "In either case, if the integrity check fails, the receiver MUST discard the received IP datagram as invalid; this \
             is an auditable event.",
            there("proto/tests/esp.rs", "a_flipped_bit_anywhere_changes_nothing"),
            there(
                LOOPBACK,
                "recorded_corrupted_and_unknown_datagrams_are_dropped_and_counted",
            ),
        ),
    ]
}

fn numbers_and_ciphers() -> Vec<Row> {
    vec![
        row(
            ("N10", "RFC 4303 §3.4.3", Must),
            "a replay window of 32 or more, moved by authentic packets only",
            "A minimum window size of 32 packets MUST be supported when 32-bit sequence numbers are employed; a window size of \
             64 is preferred and SHOULD be employed as the default.",
            there(REPLAY, "edges"),
            there(HOSTILE, "captured_packets_sent_again_are_dropped"),
        ),
        row(
            ("N11", "RFC 4303 §2.2.1", Must),
            "64-bit numbers: the upper half is inferred, and under the ICV",
            "Use of an ESN MUST be negotiated by an SA management protocol.",
            there("proto/tests/esp.rs", "extended_sequence_numbers_cross_two_to_the_32"),
            there(REPLAY, "the_high_half_is_inferred"),
        ),
        row(
            ("N12", "RFC 7296 §2.7", Must),
            "64-bit numbers only if negotiated; of both, one is chosen",
            "The accepted cryptographic suite MUST contain exactly one transform of each type included in the proposal.",
            there(
                "proto/src/policy/proposal/tests.rs",
                "esp_needs_esn_and_agreement_about_pfs",
            ),
            there("proto/tests/esp.rs", "without_esn_numbers_have_32_bits"),
        ),
        row(
            ("N13", "RFC 4106 §3.1", Must),
            "AES-GCM: salt and IV, the header as AAD, an ICV of 16 octets; no IV twice",
            "For a given key, the IV MUST NOT repeat.",
            there(VECTORS, "dpdk_tunnel_packets"),
            there(VECTORS, "every_suite_opens_what_it_sealed_and_nothing_else"),
        ),
        row(
            ("N14", "RFC 7634 §2", Must),
            "ChaCha20-Poly1305 likewise",
            "o A 32-bit Salt is prepended to the 64-bit IV to form the 96-bit nonce.",
            there(VECTORS, "rfc_7634_esp_packet_and_ike_message"),
            there(VECTORS, "every_suite_opens_what_it_sealed_and_nothing_else"),
        ),
        row(
            ("N15", "RFC 3602 §3", Must),
            "AES-CBC with HMAC: the ICV from the SPI on, an unpredictable IV",
            "The IV MUST be chosen at random, and MUST be unpredictable.",
            there(VECTORS, "dpdk_tunnel_packets"),
            there(VECTORS, "every_suite_opens_what_it_sealed_and_nothing_else"),
        ),
        row(
            ("N16", "RFC 4303 §3.2", Must),
            "NULL encryption with integrity; never both NULL",
            "Note that although both confidentiality and integrity are optional, at least one of these services MUST be \
             selected, hence both algorithms MUST NOT be simultaneously NULL.",
            there(VECTORS, "recorded_packets_without_encryption_open"),
            there(VECTORS, "null_goes_with_integrity_and_never_into_ike"),
        ),
        row(
            ("N17", "RFC 4303 §3.4.1", Must),
            "outer fragments are reassembled before ESP",
            "If a packet offered to ESP for processing appears to be an IP fragment, i.e., the OFFSET field is non-zero or the \
             MORE FRAGMENTS flag is set, the receiver MUST discard the packet; this is an auditable event.",
            there(LOOPBACK, "a_small_device_mtu_fragments"),
            out("the kernel's sockets never hand over a fragment"),
        ),
    ]
}

fn tunnels() -> Vec<Row> {
    vec![
        row(
            ("N18", "RFC 4301 §8.1", Must),
            "the outer DF bit: set, cleared or copied",
            "This means that it MUST be possible to configure the implementation's treatment of the DF bit (set, clear, copy \
             from inner header) for each SA.",
            there(LOOPBACK, "the_df_bit_is_cleared_set_or_copied"),
            there("tests/config_cases.rs", "every_case_is_judged_as_written_beside_it"),
        ),
        row(
            ("N19", "RFC 4303 §3.3.4", Must),
            "who sends too large packets is told the tunnel's MTU",
            "In any case, an ESP implementation MUST support generation of ICMP PMTU messages (or equivalent internal \
             signaling for native host implementations) to minimize the likelihood of fragmentation.",
            there(LOOPBACK, "senders_of_too_large_packets_are_told"),
            there(
                "tests/netns/ipv6.rs",
                "a_path_that_is_narrow_in_the_middle_carries_everything",
            ),
        ),
        row(
            ("N20", "RFC 4301 §6.1.1", Must),
            "the outer path's ICMP is not believed blindly",
            "To accommodate both ends of this spectrum, a compliant IPsec implementation MUST permit a local administrator to \
             configure an IPsec implementation to accept or reject unauthenticated ICMP traffic.",
            there(TUNNEL, "a_small_path_mtu_loses_nothing"),
            out("outer path MTU is the kernel's affair: its own checks and ageing (net.ipv4.route.mtu_expires) hold"),
        ),
        row(
            ("N21", "RFC 4301 §5.1.2", Must),
            "DSCP goes from the inner header to the outer",
            "If the packet will immediately enter a domain for which the DSCP value in the outer header is not appropriate, \
             that value MUST be mapped to an appropriate value for the domain",
            there("proto/src/ip/tunnel.rs", "dscp_and_ecn_go_out_as_they_are"),
            there(LOOPBACK, "a_dscp_is_copied_or_mapped"),
        ),
        row(
            ("N22", "RFC 6040 §4.2", Must),
            "ECN: copied in; going out the worse mark counts, and Not-ECT under CE is dropped",
            "* If the inner ECN field is Not-ECT and the outer ECN field is CE, the decapsulator MUST drop the packet.",
            there("proto/src/ip/tunnel.rs", "dscp_and_ecn_go_out_as_they_are"),
            there("proto/src/ip/tunnel.rs", "the_sixteen_combinations"),
        ),
        row(
            ("N23", "RFC 4301 §5.1.2.1", Must),
            "TTL: the inner one goes down by one hop a router, the outer one is our own",
            "(2) The TTL in the inner header is decremented by the encapsulator prior to forwarding and by the decapsulator if it \
             forwards the packet.",
            there("tests/netns/ipv6.rs", "a_tunnel_is_two_routers_to_ttl_and_hop_limit"),
            out("a packet whose hops are used up never reaches the tunnel: the kernel drops it when it forwards"),
        ),
        row(
            ("N24", "RFC 4301 §5.2", Must),
            "what matches no policy is discarded; nothing leaves in the clear while the SA is down",
            "If no policy is found in the SPD that matches a packet (for either inbound or outbound traffic), the packet MUST \
             be discarded.",
            there("tests/netns/lifecycle.rs", "down_stays_down_and_fails_closed"),
            there(TUNNEL, "nothing_but_ike_and_esp_is_on_the_wire"),
        ),
    ]
}

const SUITES: [(Encryption, Option<Integrity>, usize); 2] = [
    (Encryption::AesGcm16_256, None, 36),
    (Encryption::AesCbc128, Some(Integrity::HmacSha256_128), 48),
];

fn parameters((encryption, integrity, len): (Encryption, Option<Integrity>, usize)) -> SaParameters {
    SaParameters {
        spi: 0x1000,
        suite: CipherSuite { encryption, integrity },
        key: Secret::new(vec![7; len]),
        esn: false,
    }
}

/// An ESP packet by hand: any text (padding, Pad Length and Next Header included), with a right ICV.
fn sealed(parameters: &SaParameters, sequence: u32, mut text: Vec<u8>) -> Vec<u8> {
    let cipher = (ESP_PROVIDER.cipher)(parameters.suite, &parameters.key).unwrap();
    let sizes = cipher.sizes();
    let header = [parameters.spi.to_be_bytes(), sequence.to_be_bytes()].concat();
    let (mut iv, mut icv) = (vec![3; sizes.iv], vec![0; sizes.icv]);
    iv[..4].copy_from_slice(&sequence.to_be_bytes());
    cipher.seal(&header, None, &iv, &mut text, &mut icv);
    [header, iv, text, icv].concat()
}

fn open(sa: &mut InboundSa, packet: &[u8]) -> Result<(Opened, Vec<u8>), InboundError> {
    let mut packet = packet.to_vec();
    let opened = sa.open(&mut packet)?;
    let payload = packet[opened.payload.clone()].to_vec();
    Ok((opened, payload))
}

#[test]
fn padding_of_all_lengths() {
    for suite in SUITES {
        let parameters = parameters(suite);
        let mut sa = InboundSa::new(&ESP_PROVIDER, &parameters, 64).unwrap();
        let mut sequence = 0;
        for pad in 0..=255_usize {
            // A payload that makes it align, on four octets and on the cipher's block.
            let len = (0..16).find(|len| (len + pad + 2) % 16 == 0).unwrap();
            let payload = vec![0xee; len];
            let padding: Vec<u8> = (1..=255).take(pad).collect();
            let text = [&payload[..], &padding, &[pad as u8, 4]].concat();
            sequence += 1;
            let (opened, inner) = open(&mut sa, &sealed(&parameters, sequence, text)).unwrap();
            assert_eq!((inner, opened.next_header), (payload, NextHeader::Ipv4), "{pad}");
        }
    }
}

#[test]
fn padding_of_other_content_is_refused() {
    for suite in SUITES {
        let parameters = parameters(suite);
        let mut sa = InboundSa::new(&ESP_PROVIDER, &parameters, 64).unwrap();
        for (sequence, padding) in [[0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 7], [2, 3, 4, 5, 6, 7], [0xff; 6]]
            .iter()
            .enumerate()
        {
            let text = [&[0xee; 8][..], padding, &[6, 4]].concat();
            let packet = sealed(&parameters, 1 + sequence as u32, text);
            assert_eq!(open(&mut sa, &packet).unwrap_err(), InboundError::Padding);
        }
    }
}

#[test]
fn what_is_too_short_or_all_padding() {
    for suite in SUITES {
        let parameters = parameters(suite);
        let mut sa = InboundSa::new(&ESP_PROVIDER, &parameters, 64).unwrap();
        let whole = sealed(&parameters, 1, [&[0xee; 30][..], &[0, 4]].concat());
        for len in 0..whole.len() {
            assert!(open(&mut sa, &whole[..len]).is_err(), "{len}");
            assert_eq!(sa.highest(), 0, "the window stays where it is");
        }
        // More padding than there is text: authentic, and refused all the same.
        for (sequence, (len, pad)) in [(14, 15), (14, 255), (30, 31)].into_iter().enumerate() {
            let text = [&vec![1; len][..], &[pad, 4]].concat();
            let packet = sealed(&parameters, 2 + sequence as u32, text);
            assert_eq!(open(&mut sa, &packet).unwrap_err(), InboundError::Padding);
        }
        open(&mut sa, &whole).unwrap();
    }
}

/// Next Header 59: opened, known for what it is, and once only.
#[test]
fn dummies_are_authentic_and_counted() {
    for suite in SUITES {
        let parameters = parameters(suite);
        let mut sa = InboundSa::new(&ESP_PROVIDER, &parameters, 64).unwrap();
        let packet = sealed(&parameters, 9, [&[0x5a; 30][..], &[0, 59]].concat());
        let (opened, _) = open(&mut sa, &packet).unwrap();
        assert_eq!(
            (opened.next_header, opened.sequence, sa.highest()),
            (NextHeader::Dummy, 9, 9)
        );
        assert_eq!(open(&mut sa, &packet).unwrap_err(), InboundError::Replayed);
    }
}

/// RFC 7296 §1.3.1: "The ESP_TFC_PADDING_NOT_SUPPORTED notification asserts that the sending endpoint will not accept packets
/// that contain Traffic Flow Confidentiality (TFC) padding over the Child SA being negotiated." We take it, and send it if the
/// operator wants it and the peer takes it.
#[test]
fn padding_only_for_who_takes_it() {
    let padded = |mut connection: Connection| {
        let net = Arc::make_mut(connection.children.get_mut("net").unwrap());
        net.tfc_padding = Some(1000);
        connection
    };
    let refusal = || notify(NotifyType::ESP_TFC_PADDING_NOT_SUPPORTED);
    for refused in [false, true] {
        let expected = (!refused).then_some(1000);
        // It answers.
        let mut t = Tester::new(padded(side_b()));
        let payloads = t.init_payloads();
        t.init(&payloads);
        let mut payloads = t.auth_payloads();
        payloads.splice(2..2, refused.then(refusal));
        let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert!(!answer.has(NotifyType::ESP_TFC_PADDING_NOT_SUPPORTED));
        assert_eq!(t.sad.pairs.values().next().unwrap().tfc_padding, expected);
        // It asks.
        let (mut t, asked) = Tester::until_auth(padded(side_a()));
        assert!(!asked.has(NotifyType::ESP_TFC_PADDING_NOT_SUPPORTED));
        let mut payloads = t.auth_answer();
        payloads.splice(2..2, refused.then(refusal));
        t.respond(&asked.header, &payloads);
        assert_eq!(t.sad.pairs.values().next().unwrap().tfc_padding, expected);
    }
    // Nobody asked for it.
    let t = Tester::up(side_b());
    assert_eq!(t.sad.pairs.values().next().unwrap().tfc_padding, None);
}
