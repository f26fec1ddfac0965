//! Vectors of the RFCs, NIST, DPDK and recorded sessions of another implementation (see `data/*/README.md`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

use landbridge_proto::crypto::{
    CipherSuite, ESP_PROVIDER, Encryption, Group, IKE_PROVIDER, Integrity, PrfAlgorithm, Provider, Secret,
};
use landbridge_proto::esp::{InboundSa, NextHeader, OutboundSa};
use landbridge_proto::ike::keys::{Binding, IkeKeys, Secrets};
use landbridge_proto::ike::seal::{MessageProtection, OpenError};
use landbridge_proto::policy::proposal::{EspSuite, IkeSuite};
use landbridge_proto::policy::sad::SaParameters;
use landbridge_proto::wire::{self, ExchangeType, IkeSpi, OuterBody};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde_json::Value;

fn load(name: &str) -> Value {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

#[test]
fn rfc_4868_prf() {
    let names = [
        (PrfAlgorithm::HmacSha256, "PRF-HMAC-SHA-256"),
        (PrfAlgorithm::HmacSha384, "PRF-HMAC-SHA-384"),
        (PrfAlgorithm::HmacSha512, "PRF-HMAC-SHA-512"),
    ];
    let mut checked = 0;
    for case in list(&load("rfc/rfc4868-hmac-sha2.json")["cases"]) {
        for (algorithm, name) in names {
            if case[name].is_string() {
                let prf = (IKE_PROVIDER.prf)(algorithm).unwrap();
                assert_eq!(
                    prf.prf(&hex(&case["Key"]), &[&hex(&case["Data"])]).expose(),
                    hex(&case[name]),
                    "{}",
                    case["name"]
                );
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 30);
}

#[test]
fn nist_ikev2_kdf() {
    let mut checked = 0;
    for v in list(&load("nist-ikev2-kdf/ikev2-kdf.json")["vectors"]) {
        let algorithm = match v["h"].as_str().unwrap() {
            "SHA-1" => PrfAlgorithm::HmacSha1,
            "SHA-256" => PrfAlgorithm::HmacSha256,
            "SHA-384" => PrfAlgorithm::HmacSha384,
            "SHA-512" => PrfAlgorithm::HmacSha512,
            other => panic!("{other}"),
        };
        let prf = (IKE_PROVIDER.prf)(algorithm).unwrap();
        let (ni, nr) = (hex(&v["Ni"]), hex(&v["Nr"]));
        let (shared, new) = (Secret::new(hex(&v["g^ir"])), Secret::new(hex(&v["g^ir (new)"])));
        let spi = |name: &str| IkeSpi(hex(&v[name]).try_into().unwrap());
        let binding = Binding {
            ni: &ni,
            nr: &nr,
            spi_i: spi("SPIi"),
            spi_r: spi("SPIr"),
        };
        // The order of keys in DKM is SK_d, SK_ai, SK_ar, SK_ei, SK_er, SK_pi, SK_pr; an AEAD has no SK_a.
        let cipher = CipherSuite {
            encryption: Encryption::AesGcm16_128,
            integrity: None,
        };
        let suite = IkeSuite {
            additional: Default::default(),
            cipher,
            prf: algorithm,
            group: Group::Curve25519,
        };
        let keys = IkeKeys::derive(&IKE_PROVIDER, suite, &shared, &binding).unwrap();
        let ours = [&keys.d, &keys.cipher_i, &keys.cipher_r, &keys.pi, &keys.pr]
            .map(Secret::expose)
            .concat();
        let dkm = hex(&v["DKM"]);
        let common = ours.len().min(dkm.len());
        assert_eq!(ours[..common], dkm[..common]);
        // Child SAs with and without a key exchange of their own.
        let esp = EspSuite {
            additional: Default::default(),
            cipher,
            group: None,
            esn: false,
        };
        for (secret, name) in [(None, "DKM(Child SA)"), (Some(&new), "DKM(Child SA D-H)")] {
            let child = keys
                .child(&IKE_PROVIDER, &esp, &Secrets::of(secret.cloned()), &ni, &nr)
                .unwrap();
            let ours = [
                child.initiator_to_responder.expose(),
                child.responder_to_initiator.expose(),
            ]
            .concat();
            assert_eq!(ours, hex(&v[name])[..ours.len()]);
        }
        let rekeyed = prf.prf(keys.d.expose(), &[new.expose(), &ni, &nr]);
        assert_eq!(rekeyed.expose(), hex(&v["SKEYSEED(Rekey)"]));
        let seed = [&ni[..], &nr, &binding.spi_i.0, &binding.spi_r.0];
        let expected = prf
            .prf_plus(rekeyed.expose(), &seed, 3 * prf.output_len() + 40)
            .unwrap();
        assert_eq!(
            keys.rekey(&IKE_PROVIDER, suite, &Secrets::of(Some(new)), &binding)
                .unwrap()
                .d
                .expose(),
            &expected.expose()[..prf.output_len()]
        );
        checked += 1;
    }
    assert_eq!(checked, 66);
}

/// RFC 2202 §3: what HMAC-SHA1 gives, as a PRF and cut to 96 bits.
#[test]
fn rfc_2202_hmac_sha1() {
    let cases: [(&[u8], &[u8], &str); 3] = [
        (&[0x0b; 20], b"Hi There", "b617318655057264e28bc0b6fb378c8ef146be00"),
        (
            b"Jefe",
            b"what do ya want for nothing?",
            "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79",
        ),
        (
            &[0xaa; 80],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "aa4ae5e15272d00e95705637ce8a3b55ed402112",
        ),
    ];
    let prf = (IKE_PROVIDER.prf)(PrfAlgorithm::HmacSha1).unwrap();
    for (key, data, expected) in cases {
        let expected = hex(&Value::from(expected));
        assert_eq!(prf.prf(key, &[data]).expose(), expected);
        // RFC 2404: the first 96 bits, and a key of 160.
        if key.len() == 20 {
            let suite = CipherSuite {
                encryption: Encryption::Null,
                integrity: Some(Integrity::HmacSha1_96),
            };
            let cipher = (ESP_PROVIDER.cipher)(suite, &Secret::new(key.to_vec())).unwrap();
            let mut icv = [0; 12];
            cipher.seal(data, None, &[], &mut [], &mut icv);
            assert_eq!(icv, expected[..12]);
        }
    }
}

/// NIST SP 800-38A F.2.3: AES-192 in CBC.
#[test]
fn nist_sp_800_38a_aes_192_cbc() {
    let octets = |text: &str| hex(&Value::from(text));
    let suite = CipherSuite {
        encryption: Encryption::AesCbc192,
        integrity: Some(Integrity::HmacSha256_128),
    };
    let key = [octets("8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b"), vec![9; 32]].concat();
    let plain = octets(concat!(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
    ));
    let sealed = octets(concat!(
        "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a",
        "571b242012fb7ae07fa9baac3df102e008b0e27988598881d920a9e64f5615cd",
    ));
    let iv = octets("000102030405060708090a0b0c0d0e0f");
    for provider in [&IKE_PROVIDER, &ESP_PROVIDER] {
        let cipher = (provider.cipher)(suite, &Secret::new(key.clone())).unwrap();
        let (mut text, mut icv) = (plain.clone(), [0; 16]);
        cipher.seal(&[1; 8], None, &iv, &mut text, &mut icv);
        assert_eq!(text, sealed);
        cipher.open(&[1; 8], None, &iv, &mut text, &icv).unwrap();
        assert_eq!(text, plain);
    }
}

/// RFC 2410, 4868: ESP packets of another implementation with NULL and HMAC-SHA2-256.
#[test]
fn recorded_packets_without_encryption_open() {
    let packets = load("strongswan-sessions/esp-null-sha256.json");
    for packet in list(&packets["packets"]) {
        let suite = CipherSuite {
            encryption: Encryption::Null,
            integrity: Some(Integrity::HmacSha256_128),
        };
        let mut octets = hex(&packet["packet"]);
        let parameters = SaParameters {
            spi: u32::from_be_bytes(octets[..4].try_into().unwrap()),
            suite,
            key: Secret::new(hex(&packet["integ"])),
            esn: false,
        };
        let mut sa = InboundSa::new(&ESP_PROVIDER, &parameters, 64).unwrap();
        let mut changed = octets.clone();
        changed[12] ^= 1;
        assert!(sa.open(&mut changed).is_err(), "a changed octet in the clear");
        let opened = sa.open(&mut octets).unwrap();
        assert_eq!(octets[opened.payload], hex(&packet["inner"]));
    }
    assert_eq!(list(&packets["packets"]).len(), 8);
}

/// RFC 4303 §5: "although integrity and encryption may each be "NULL" under the circumstances noted above, they MUST NOT
/// both be "NULL"". RFC 7296 §5: ENCR_NULL is not for IKE.
#[test]
fn null_goes_with_integrity_and_never_into_ike() {
    let alone = CipherSuite {
        encryption: Encryption::Null,
        integrity: None,
    };
    for provider in [&IKE_PROVIDER, &ESP_PROVIDER] {
        assert!((provider.sizes)(alone).is_none());
        assert!((provider.cipher)(alone, &Secret::new(vec![])).is_none());
    }
    for integrity in Integrity::ALL {
        let suite = CipherSuite {
            encryption: Encryption::Null,
            integrity: Some(*integrity),
        };
        assert!((IKE_PROVIDER.sizes)(suite).is_none());
        assert!((ESP_PROVIDER.sizes)(suite).is_some());
    }
}

/// RFC 7296 §2.13: "not to exceed 255 times the size of the prf function output".
#[test]
fn prf_plus_ends_after_255_blocks() {
    let prf = (IKE_PROVIDER.prf)(PrfAlgorithm::HmacSha256).unwrap();
    assert!(prf.prf_plus(b"k", &[b"s"], 255 * 32).is_some());
    assert!(prf.prf_plus(b"k", &[b"s"], 255 * 32 + 1).is_none());
}

#[test]
fn rfc_7634_esp_packet_and_ike_message() {
    let v = &load("rfc/rfc7634-chacha20poly1305.json")["esp"];
    let suite = CipherSuite {
        encryption: Encryption::ChaCha20Poly1305,
        integrity: None,
    };
    let parameters = SaParameters {
        spi: 0x0102_0304,
        suite,
        key: Secret::new(hex(&v["keymat"])),
        esn: false,
    };
    let mut packet = hex(&v["full_ip_packet"])[20..].to_vec();
    for provider in [&ESP_PROVIDER, &IKE_PROVIDER] {
        let mut sa = InboundSa::new(provider, &parameters, 64).unwrap();
        let mut copy = packet.clone();
        let opened = sa.open(&mut copy).unwrap();
        assert_eq!(copy[opened.payload], hex(&v["inner_packet"]));
        assert_eq!((opened.sequence, opened.next_header), (5, NextHeader::Ipv4));
    }
    packet[20] ^= 1;
    assert!(
        InboundSa::new(&ESP_PROVIDER, &parameters, 64)
            .unwrap()
            .open(&mut packet)
            .is_err()
    );
    // Appendix B: an INFORMATIONAL of the responder's.
    let v = &load("rfc/rfc7634-chacha20poly1305.json")["ike"];
    let key = Secret::new([hex(&v["key"]), hex(&v["salt"])].concat());
    let cipher = (IKE_PROVIDER.cipher)(suite, &key).unwrap();
    let (mut text, aad) = (hex(&v["ciphertext"]), hex(&v["aad"]));
    cipher
        .open(&aad, None, &hex(&v["iv"]), &mut text, &hex(&v["tag"]))
        .unwrap();
    assert_eq!(text, hex(&v["plaintext"]));
}

#[test]
fn dpdk_tunnel_packets() {
    let mut checked = 0;
    for v in list(&load("dpdk-esp/dpdk-esp-tunnel-packets.json")["vectors"]) {
        let algorithms: Vec<&str> = list(&v["algos"]).iter().map(|a| a.as_str().unwrap()).collect();
        let (encryption, integrity) = match (algorithms.as_slice(), hex(&v["key"]).len()) {
            (["AES_GCM"], 16) => (Encryption::AesGcm16_128, None),
            (["AES_GCM"], 24) => (Encryption::AesGcm16_192, None),
            (["AES_GCM"], 32) => (Encryption::AesGcm16_256, None),
            (["AES_CBC", "SHA256_HMAC"], 16) => (Encryption::AesCbc128, Some(Integrity::HmacSha256_128)),
            (["AES_CBC", "SHA384_HMAC"], 16) => (Encryption::AesCbc128, Some(Integrity::HmacSha384_192)),
            (["AES_CBC", "SHA512_HMAC"], 16) => (Encryption::AesCbc128, Some(Integrity::HmacSha512_256)),
            _ => continue,
        };
        let output = hex(&v["output"]);
        let outer = if output[0] >> 4 == 4 { 20 } else { 40 };
        let mut packet = output[outer..].to_vec();
        let spi = u32::from_be_bytes(packet[..4].try_into().unwrap());
        let key = Secret::new([hex(&v["key"]), hex(&v["salt"]), hex(&v["auth_key"])].concat());
        let parameters = SaParameters {
            spi,
            suite: CipherSuite { encryption, integrity },
            key,
            esn: false,
        };
        let opened = InboundSa::new(&ESP_PROVIDER, &parameters, 64)
            .unwrap()
            .open(&mut packet)
            .unwrap();
        assert_eq!(packet[opened.payload], hex(&v["input"]), "{}", v["name"]);
        checked += 1;
    }
    assert_eq!(checked, 9);
}

#[test]
fn every_suite_opens_what_it_sealed_and_nothing_else() {
    use Encryption as E;
    let suites = E::ALL.iter().flat_map(|encryption| {
        let macs = Integrity::ALL.iter().map(|mac| Some(*mac));
        let macs: Vec<_> = if encryption.is_aead() {
            vec![None]
        } else {
            macs.collect()
        };
        macs.into_iter().map(|integrity| (*encryption, integrity))
    });
    for (encryption, integrity) in suites {
        let suite = CipherSuite { encryption, integrity };
        let len = (ESP_PROVIDER.sizes)(suite).unwrap().key_material();
        for esn in [false, true] {
            let parameters = SaParameters {
                spi: 0x1000,
                suite,
                key: Secret::new(vec![7; len]),
                esn,
            };
            let mut out = OutboundSa::new(&ESP_PROVIDER, &parameters, [1; 32]).unwrap();
            let mut sa = InboundSa::new(&ESP_PROVIDER, &parameters, 64).unwrap();
            for payload in [0_usize, 1, 20, 63, 64, 1400] {
                let sequence = out.reserve(1).unwrap();
                let mut packet = vec![0; out.sealed_len(payload)];
                let at = out.headroom();
                packet[at..at + payload].fill(0x45);
                out.seal(sequence, 4, payload, &mut packet);
                assert_eq!(packet[4..8], (sequence as u32).to_be_bytes());
                // RFC 4303 §3.4.4: any change is found, and the window does not move.
                for place in [0, 4, 8, packet.len() / 2, packet.len() - 1] {
                    let mut changed = packet.clone();
                    changed[place] ^= 0x80;
                    if place >= 4 || !encryption.is_aead() {
                        assert!(sa.open(&mut changed).is_err(), "{suite} octet {place}");
                    }
                }
                assert!(sa.open(&mut packet[..7].to_vec()).is_err());
                let mut copy = packet.clone();
                let opened = sa.open(&mut copy).unwrap();
                assert_eq!(copy[opened.payload], vec![0x45; payload], "{suite}");
                assert!(sa.open(&mut packet).is_err(), "{suite}: a replay was taken");
            }
        }
        assert_eq!(
            (IKE_PROVIDER.cipher)(suite, &Secret::new(vec![7; len])).is_some(),
            encryption != E::Null
        );
        assert!(
            (ESP_PROVIDER.cipher)(suite, &Secret::new(vec![7; len + 1])).is_none(),
            "{suite}: a key of the wrong length"
        );
    }
}

/// RFC 4303 §3.3.3: the sequence number never cycles.
#[test]
fn sequence_numbers_end() {
    let suite = CipherSuite {
        encryption: Encryption::AesGcm16_128,
        integrity: None,
    };
    let parameters = |esn| SaParameters {
        spi: 0x1000,
        suite,
        key: Secret::new(vec![7; 20]),
        esn,
    };
    let mut sa = OutboundSa::new(&ESP_PROVIDER, &parameters(false), [0; 32]).unwrap();
    assert_eq!(sa.reserve(u32::MAX).unwrap(), 1, "the first packet has number 1");
    assert!(sa.reserve(1).is_err());
    let mut sa = OutboundSa::new(&ESP_PROVIDER, &parameters(true), [0; 32]).unwrap();
    sa.reserve(u32::MAX).unwrap();
    assert_eq!(sa.reserve(1).unwrap(), 1 << 32);
}

#[test]
fn recorded_sessions_are_understood_octet_for_octet() {
    for name in ["s1", "s2"] {
        let expected = load(&format!("strongswan-sessions/{name}/expected.json"));
        let secrets = load(&format!("strongswan-sessions/{name}/secrets.json"));
        let sas: Vec<(&Value, IkeKeys)> = keys_of(&expected, &secrets);
        let mut opened = 0;
        for message in list(&expected["messages"]) {
            let datagram = hex(&message["message"]);
            let outer = wire::decode_outer(&datagram).unwrap();
            let header = outer.header;
            let (first, chain) = match &outer.body {
                OuterBody::Plain { first, payloads } => (*first, payloads.to_vec()),
                _ => {
                    let (_, keys) = sas.iter().find(|(sa, _)| hex(&sa["spi_i"]) == header.spi_i.0).unwrap();
                    let from_initiator = header.flags.initiator;
                    let mut rng = ChaCha20Rng::seed_from_u64(0);
                    let protection = MessageProtection::new(&IKE_PROVIDER, keys, !from_initiator, &mut rng).unwrap();
                    let body = protection.open(&outer).unwrap();
                    assert_eq!(body.payloads, hex(&message["plaintext"])[..body.payloads.len()]);
                    // RFC 7296 §3.14: any change to any octet is found.
                    for place in (0..datagram.len()).filter(|place| !(16..28).contains(place)) {
                        let mut changed = datagram.clone();
                        changed[place] ^= 1;
                        if let Ok(outer) = wire::decode_outer(&changed) {
                            assert!(
                                matches!(
                                    protection.open(&outer),
                                    Err(OpenError::Integrity | OpenError::Malformed | OpenError::Unprotected)
                                ),
                                "octet {place}"
                            );
                        }
                    }
                    opened += 1;
                    (body.first, body.payloads)
                }
            };
            let payloads = wire::decode_payloads(first, &chain).unwrap();
            assert_eq!(
                wire::encode_payloads(&payloads),
                (first, chain.clone()),
                "{name} {}",
                wire::summarize(&header, &payloads)
            );
            if header.flags.response {
                wire::decode_response(header.exchange, payloads).unwrap();
            } else {
                let request = wire::decode_request(header.exchange, payloads).unwrap();
                if header.exchange == ExchangeType::IKE_SA_INIT {
                    let again = wire::encode_request(&request);
                    assert_eq!(wire::decode_request(header.exchange, again).unwrap(), request);
                }
            }
            // RFC 7296 §2.21: cut anywhere, it is an error and nothing worse.
            for len in 0..datagram.len() {
                assert!(wire::decode_outer(&datagram[..len]).is_err());
            }
            for len in 0..chain.len() {
                assert!(wire::decode_payloads(first, &chain[..len]).is_err());
            }
        }
        assert!(opened >= 16, "{name}: {opened} protected messages");
        packets_open(&expected);
    }
}

/// Every ESP packet of the session opens with the Child SA's recorded keys.
fn packets_open(expected: &Value) {
    for packet in list(&expected["esp"]) {
        let spi = packet["spi"].as_str().unwrap();
        let child = list(&expected["child_sas"])
            .iter()
            .find_map(|child| {
                let to_responder = child["spi_responder_inbound"] == spi;
                let to_initiator = child["spi_initiator_inbound"] == spi;
                (to_responder || to_initiator).then_some((child, if to_responder { "encr_i" } else { "encr_r" }))
            })
            .unwrap();
        let key = hex(&child.0[child.1]);
        let encryption = match child.0["suite"]["encr"].as_u64() {
            Some(20) => Encryption::AesGcm16_256,
            Some(28) => Encryption::ChaCha20Poly1305,
            other => panic!("{other:?}"),
        };
        let suite = CipherSuite {
            encryption,
            integrity: None,
        };
        let parameters = SaParameters {
            spi: u32::from_str_radix(spi, 16).unwrap(),
            suite,
            key: Secret::new(key),
            esn: false,
        };
        let mut octets = hex(&packet["packet"]);
        let opened = InboundSa::new(&ESP_PROVIDER, &parameters, 64)
            .unwrap()
            .open(&mut octets)
            .unwrap();
        assert_eq!(octets[opened.payload], hex(&packet["inner"]));
    }
}

/// The keys of each IKE SA of a session, derived by us and compared with what was recorded.
fn keys_of<'a>(expected: &'a Value, secrets: &Value) -> Vec<(&'a Value, IkeKeys)> {
    let provider: &Provider = &IKE_PROVIDER;
    let sas = list(&expected["ike_sas"]);
    let mut out: Vec<(&Value, IkeKeys)> = Vec::new();
    for sa in sas {
        let (encryption, prf, group) = match sa["suite"]["encr"].as_u64() {
            Some(20) => (Encryption::AesGcm16_256, PrfAlgorithm::HmacSha384, Group::Ecp384),
            Some(28) => (
                Encryption::ChaCha20Poly1305,
                PrfAlgorithm::HmacSha256,
                Group::Curve25519,
            ),
            other => panic!("{other:?}"),
        };
        let suite = IkeSuite {
            additional: Default::default(),
            cipher: CipherSuite {
                encryption,
                integrity: None,
            },
            prf,
            group,
        };
        let (ni, nr) = (hex(&sa["ni"]), hex(&sa["nr"]));
        let spi = |name: &str| IkeSpi(hex(&sa[name]).try_into().unwrap());
        let binding = Binding {
            ni: &ni,
            nr: &nr,
            spi_i: spi("spi_i"),
            spi_r: spi("spi_r"),
        };
        // Which g^ir belongs to it is not said: the one that gives the recorded SK_d.
        let derived = list(&secrets["dh"]).iter().find_map(|dh| {
            let shared = Secret::new(hex(dh));
            let keys = match out.last() {
                None => IkeKeys::derive(provider, suite, &shared, &binding),
                Some((_, old)) => old.rekey(provider, suite, &Secrets::of(Some(shared.clone())), &binding),
            };
            keys.filter(|keys| keys.d.expose() == hex(&sa["sk_d"]))
        });
        let keys = derived.expect("no g^ir gives the recorded SK_d");
        for (ours, name) in [
            (&keys.cipher_i, "sk_ei"),
            (&keys.cipher_r, "sk_er"),
            (&keys.pi, "sk_pi"),
            (&keys.pr, "sk_pr"),
        ] {
            assert_eq!(ours.expose(), hex(&sa[name]), "{name}");
        }
        out.push((sa, keys));
    }
    out
}
