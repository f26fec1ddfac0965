//! Group F: key derivation, and the protection of IKE messages.

use crate::ike_pump::{side_a, side_b};
use crate::peer::messages::*;
use crate::peer::{Tester, seal};
use crate::table::Level::{Must, Practice};
use crate::table::{Row, here, out, row, there};
use landbridge_proto::crypto::{IKE_PROVIDER, PrfAlgorithm};
use landbridge_proto::policy::proposal::IkeProposal;
use landbridge_proto::wire::*;

const VECTORS: &str = "proto/tests/vectors.rs";
const ENDPOINT: &str = "proto/tests/endpoint.rs";

pub fn rows() -> Vec<Row> {
    let derived = "SKEYSEED = prf(Ni | Nr, g^ir) {SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+ (SKEYSEED, \
                   Ni | Nr | SPIi | SPIr)";
    vec![
        row(
            ("F1", "RFC 7296 §2.14", Must),
            "SKEYSEED and the seven keys",
            derived,
            there(VECTORS, "nist_ikev2_kdf"),
            there(VECTORS, "recorded_sessions_are_understood_octet_for_octet"),
        ),
        row(
            ("F2", "RFC 7296 §2.13", Must),
            "prf+ counts from 0x01 and ends after 255 blocks",
            "The prf+ function is not defined beyond 255 times the size of the prf function output.",
            there(VECTORS, "nist_ikev2_kdf"),
            there(VECTORS, "prf_plus_ends_after_255_blocks"),
        ),
        row(
            ("F3", "RFC 7296 §2.14", Must),
            "SK_d, SK_pi, SK_pr are as long as the PRF's key; an AEAD has no SK_a, and a salt in SK_e",
            "The lengths of SK_d, SK_pi, and SK_pr MUST be the preferred key length of the PRF agreed upon.",
            there(VECTORS, "recorded_sessions_are_understood_octet_for_octet"),
            there(VECTORS, "rfc_7634_esp_packet_and_ike_message"),
        ),
        row(
            ("F4", "RFC 7296 §2.14", Must),
            "PRFs with keys of fixed length take 64 bits of each nonce",
            "If the negotiated PRF is AES-XCBC-PRF-128 [AESXCBCPRF128] or AES-CMAC-PRF-128 [AESCMACPRF128], only the first \
             64 bits of Ni and the first 64 bits of Nr are used in calculating SKEYSEED, but all the bits are used for input \
             to the prf+ function.",
            out(
                "neither PRF is spoken here: RFC 8247 §2.2 has AES-XCBC for small devices, and every gateway has HMAC-SHA2",
            ),
            there("proto/tests/matrix", "every_transform_as_a_proposal"),
        ),
        row(
            ("F5", "RFC 7296 §3.4", Must),
            "a MODP value is as long as the prime, with zeroes in front; of an ECP point x counts",
            "The length of the Diffie-Hellman public value for MODP groups MUST be equal to the length of the prime modulus \
             over which the exponentiation was performed, prepending zero bits to the value if necessary.",
            there("proto/tests/key_exchange.rs", "rfc_5903_ecp_groups"),
            there("proto/tests/key_exchange.rs", "modp_groups_keep_leading_zeros"),
        ),
        row(
            ("F6", "RFC 7296 §2.17", Must),
            "KEYMAT of a Child SA: initiator's direction first, encryption before integrity",
            "o All keys for SAs carrying data from the initiator to the responder are taken before SAs going from the \
             responder to the initiator.",
            there(VECTORS, "nist_ikev2_kdf"),
            here!(both_directions_of_a_child_have_the_keys_of_their_own),
        ),
        row(
            ("F7", "RFC 7296 §2.18", Must),
            "a rekey's SKEYSEED comes of the old SK_d by the old PRF",
            "SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr)",
            there(VECTORS, "nist_ikev2_kdf"),
            here!(a_rekey_to_another_prf),
        ),
        row(
            ("F8", "RFC 7296 §3.14", Must),
            "a new IV each time; any IV and any padding that aligns is taken",
            "the recipient MUST accept any length that results in proper alignment.",
            here!(any_padding_is_taken),
            here!(our_ivs_never_come_twice),
        ),
        row(
            ("F9", "RFC 7296 §3.14", Must),
            "the ICV covers the whole message from the IKE header on",
            "o Integrity Checksum Data is the cryptographic checksum of the entire message starting with the Fixed IKE header \
             through the Pad Length.",
            there(VECTORS, "rfc_7634_esp_packet_and_ike_message"),
            there(ENDPOINT, "forged_messages_change_nothing"),
        ),
        row(
            ("F10", "RFC 7296 §3.14", Practice),
            "what can't be opened is dropped without a word",
            "practice: a bad ICV, a short IV, an odd length, a Pad Length beyond the text",
            there(ENDPOINT, "forged_messages_change_nothing"),
            here!(encrypted_payloads_that_are_none),
        ),
    ]
}

#[test]
fn both_directions_of_a_child_have_the_keys_of_their_own() {
    for initiator in [true, false] {
        let t = if initiator {
            Tester::up(side_b())
        } else {
            Tester::up_as_responder(side_a())
        };
        let entry = t.sad.pairs.values().next().unwrap();
        let suite = landbridge_proto::policy::proposal::EspSuite {
            additional: Default::default(),
            cipher: entry.inbound.suite,
            group: None,
            esn: false,
        };
        // By T's own account: KEYMAT = prf+(SK_d, Ni | Nr), the initiator's direction first.
        let prf = (IKE_PROVIDER.prf)(PrfAlgorithm::HmacSha256).unwrap();
        let keys = t.sa.keys.as_ref().unwrap();
        let keymat = prf.prf_plus(keys.d.expose(), &[&t.sa.ni, &t.sa.nr], 72).unwrap();
        let (first, second) = keymat.expose().split_at(36);
        let (inbound, outbound) = if initiator { (first, second) } else { (second, first) };
        assert_eq!(entry.inbound.key.expose(), inbound, "{suite:?}");
        assert_eq!(entry.outbound.key.expose(), outbound);
    }
}

/// From PRF-HMAC-SHA2-256 to PRF-HMAC-SHA2-512: SKEYSEED is made with the old one, all else with the new.
#[test]
fn a_rekey_to_another_prf() {
    let mut b = side_b();
    b.ike_proposals
        .push(IkeProposal::parse("aes256gcm16-prfsha512-x25519").unwrap());
    let mut t = Tester::up(b);
    let old = t.sa.keys.as_ref().unwrap().d.clone();
    let method = (IKE_PROVIDER.key_exchange)(t.sa.suite.group).unwrap();
    let ours = method.initiate(&mut t.rng);
    let mut transforms = ike_transforms();
    transforms[1].id = PrfId::HMAC_SHA2_512.0;
    let payloads = vec![
        sa(vec![proposal(1, ProtocolId::IKE, &[7; 8], transforms)]),
        t.nonce(32),
        ke(KeMethod::CURVE25519, ours.public()),
    ];
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
    let (_, data) = ke_of(&answer.payloads).unwrap();
    let secret = ours.finish(&data).unwrap();
    let (ni, nr) = (nonce_of(&payloads), nonce_of(&answer.payloads));
    let [sha256, sha512] =
        [PrfAlgorithm::HmacSha256, PrfAlgorithm::HmacSha512].map(|prf| (IKE_PROVIDER.prf)(prf).unwrap());
    let seed = sha256.prf(old.expose(), &[secret.expose(), &ni, &nr]);
    let spi_r = spi_of(&answer.payloads);
    let stream = sha512
        .prf_plus(seed.expose(), &[&ni, &nr, &[7; 8], &spi_r], 3 * 64 + 2 * 36)
        .unwrap();
    // SK_d, SK_ei, SK_er, SK_pi, SK_pr.
    let stream = stream.expose();
    let mut new = crate::peer::Sa::new(IkeSpi([7; 8]), IkeSpi(spi_r.try_into().unwrap()), true);
    new.next = 0;
    new.suite.prf = PrfAlgorithm::HmacSha512;
    let secret = |from: usize, len: usize| landbridge_proto::crypto::Secret::new(stream[from..from + len].to_vec());
    let keys = landbridge_proto::ike::keys::IkeKeys {
        suite: new.suite,
        d: secret(0, 64),
        cipher_i: secret(64, 36),
        cipher_r: secret(100, 36),
        pi: secret(136, 64),
        pr: secret(200, 64),
        origin: None,
    };
    new.set_keys(keys, &mut t.rng);
    t.sa = new;
    t.assert_alive();
}

#[test]
fn any_padding_is_taken() {
    let mut t = Tester::up(side_b());
    for len in 0..=255 {
        let padding: Vec<u8> = (0..len).map(|at: u8| at.wrapping_mul(37) ^ 0x5a).collect();
        let header = t.sa.header(ExchangeType::INFORMATIONAL, false, t.sa.next);
        // The IV, too, is any: here always the same.
        let datagram = seal::by_hand(&t.sa, &header, PayloadType::NONE, &[], &padding, |_| {});
        assert_eq!(t.ask(&datagram).len(), 1, "{len}");
        t.sa.next += 1;
    }
    t.assert_alive();
}

#[test]
fn our_ivs_never_come_twice() {
    for proposal in ["aes256gcm16-prfsha256-x25519", "aes256-sha256-x25519"] {
        let mut b = side_b();
        b.ike_proposals = vec![IkeProposal::parse(proposal).unwrap()];
        let mut t = Tester::new(b);
        if proposal.starts_with("aes256-") {
            t.sa.suite.cipher = landbridge_proto::crypto::CipherSuite {
                encryption: landbridge_proto::crypto::Encryption::AesCbc256,
                integrity: Some(landbridge_proto::crypto::Integrity::HmacSha256_128),
            };
        }
        t.begin();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let header = t.sa.header(ExchangeType::INFORMATIONAL, false, t.sa.next);
            let datagram = t.seal(&header, &[]).remove(0);
            let sent = t.ask(&datagram).remove(0);
            t.sa.next += 1;
            assert!(seen.insert(sent.octets[32..40].to_vec()), "an IV twice");
        }
    }
}

#[test]
fn encrypted_payloads_that_are_none() {
    let mut t = Tester::up(side_b());
    let header = t.sa.header(ExchangeType::INFORMATIONAL, false, t.sa.next);
    // Bodies of any length of junk.
    for len in 0..200 {
        let body = [
            &[0, 0][..],
            &u16::try_from(4 + len).unwrap().to_be_bytes(),
            &vec![0x5a; len],
        ]
        .concat();
        let datagram = [&encode_header(&header, PayloadType::SK, 28 + body.len())[..], &body].concat();
        assert!(t.ask(&datagram).is_empty(), "{len}");
    }
    // A right ICV over a Pad Length beyond the text: dropped too, nothing is guessed.
    let keys = t.sa.keys.as_ref().unwrap();
    let cipher = (IKE_PROVIDER.cipher)(t.sa.suite.cipher, &keys.cipher_i).unwrap();
    for (text, pad) in [(vec![], 1), (vec![], 255), (vec![1, 2, 3], 4), (vec![0; 100], 101)] {
        let mut text: Vec<u8> = [text, vec![pad]].concat();
        let body = 4 + 8 + text.len() + 16;
        let mut head = encode_header(&header, PayloadType::SK, 28 + body).to_vec();
        head.extend_from_slice(&[0, 0]);
        head.extend_from_slice(&u16::try_from(body).unwrap().to_be_bytes());
        let mut icv = [0; 16];
        cipher.seal(&head, None, &[7; 8], &mut text, &mut icv);
        let datagram = [&head[..], &[7; 8], &text, &icv].concat();
        assert!(t.ask(&datagram).is_empty());
    }
    t.assert_alive();
    assert!(t.is_up());
}
