//! Known answers for ML-KEM and for the keys of several key exchanges (see `data/wycheproof-mlkem` and `data/ratchet`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

use landbridge_proto::crypto::{CipherSuite, Encryption, Group, IKE_PROVIDER, PrfAlgorithm, Secret};
use landbridge_proto::ike::keys::{Binding, IkeKeys, Secrets};
use landbridge_proto::policy::proposal::{EspSuite, IkeSuite};
use landbridge_proto::wire::IkeSpi;
use rand_core::{Infallible, TryCryptoRng, TryRng};
use serde_json::Value;

fn load(name: &str) -> Value {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    let pairs = (0..text.len()).step_by(2).map(|at| &text[at..at + 2]);
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

/// Gives out what the vector has for randomness, once.
struct Fixed(Vec<u8>);

impl TryRng for Fixed {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("octets are asked for")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("octets are asked for")
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        out.copy_from_slice(&self.0.drain(..out.len()).collect::<Vec<u8>>());
        Ok(())
    }
}

impl TryCryptoRng for Fixed {}

fn group(case: &Value) -> Group {
    match case["set"].as_u64().unwrap() {
        512 => Group::MlKem512,
        768 => Group::MlKem768,
        1024 => Group::MlKem1024,
        other => panic!("{other}"),
    }
}

#[test]
fn mlkem_as_initiator() {
    let all = load("wycheproof-mlkem/mlkem.json");
    for case in list(&all["decaps"]) {
        let method = (IKE_PROVIDER.key_exchange)(group(case)).unwrap();
        let ours = method.initiate(&mut Fixed(hex(&case["seed"])));
        assert_eq!(ours.public(), hex(&case["ek"]), "{}", case["id"]);
        assert_eq!(ours.finish(&hex(&case["c"])).unwrap().expose(), hex(&case["K"]));
    }
    assert_eq!(list(&all["decaps"]).len(), 12);
}

#[test]
fn mlkem_as_responder() {
    let all = load("wycheproof-mlkem/mlkem.json");
    let mut refused = 0;
    for case in list(&all["encaps"]) {
        let method = (IKE_PROVIDER.key_exchange)(group(case)).unwrap();
        let answer = method.respond(&hex(&case["ek"]), &mut Fixed(hex(&case["m"])));
        if case["valid"].as_bool().unwrap() {
            let (ciphertext, secret) = answer.unwrap();
            assert_eq!(ciphertext, hex(&case["c"]));
            assert_eq!(secret.expose(), hex(&case["K"]));
        } else {
            assert!(answer.is_err(), "{} {}", case["set"], case["id"]);
            refused += 1;
        }
    }
    assert!(refused >= 24, "{refused}");
}

fn octets_of(keys: &IkeKeys) -> [&[u8]; 5] {
    [&keys.d, &keys.cipher_i, &keys.cipher_r, &keys.pi, &keys.pr].map(Secret::expose)
}

fn want(keys: &Value) -> [Vec<u8>; 5] {
    ["d", "ei", "er", "pi", "pr"].map(|name| hex(&keys[name]))
}

/// RFC 9370 §2.2.2 and §2.2.4.
#[test]
fn keys_of_several_key_exchanges() {
    let cases = load("ratchet/ratchet.json");
    for case in list(&cases) {
        let prf = match case["prf"].as_str().unwrap() {
            "prfsha256" => PrfAlgorithm::HmacSha256,
            "prfsha384" => PrfAlgorithm::HmacSha384,
            "prfsha512" => PrfAlgorithm::HmacSha512,
            other => panic!("{other}"),
        };
        let cipher = CipherSuite {
            encryption: Encryption::AesGcm16_256,
            integrity: None,
        };
        let suite = IkeSuite {
            cipher,
            prf,
            group: Group::Curve25519,
            additional: Default::default(),
        };
        let (ni, nr) = (hex(&case["ni"]), hex(&case["nr"]));
        let spi = |value: &Value| IkeSpi(hex(value).try_into().unwrap());
        let binding = Binding {
            ni: &ni,
            nr: &nr,
            spi_i: spi(&case["spi_i"]),
            spi_r: spi(&case["spi_r"]),
        };
        let first = Secret::new(hex(&case["first"]));
        let further: Vec<Secret> = list(&case["further"]).iter().map(|s| Secret::new(hex(s))).collect();
        let mut keys = IkeKeys::derive(&IKE_PROVIDER, suite, &first, &binding).unwrap();
        let steps = list(&case["intermediate"]);
        assert_eq!(octets_of(&keys)[..], want(&steps[0])[..]);
        for (secret, step) in further.iter().zip(&steps[1..]) {
            let secrets = Secrets::of(Some(secret.clone()));
            keys = keys.rekey(&IKE_PROVIDER, suite, &secrets, &binding).unwrap();
            assert_eq!(octets_of(&keys)[..], want(step)[..]);
        }
        let rekey = &case["rekey"];
        let secrets = Secrets {
            first: Some(first),
            further,
        };
        let (ni, nr) = (hex(&rekey["ni"]), hex(&rekey["nr"]));
        let binding = Binding {
            ni: &ni,
            nr: &nr,
            spi_i: spi(&rekey["spi_i"]),
            spi_r: spi(&rekey["spi_r"]),
        };
        let new = keys.rekey(&IKE_PROVIDER, suite, &secrets, &binding).unwrap();
        assert_eq!(octets_of(&new)[..], want(&rekey["keys"])[..]);
        let esp = EspSuite {
            cipher,
            group: Some(Group::Curve25519),
            additional: Default::default(),
            esn: true,
        };
        let child = keys.child(&IKE_PROVIDER, &esp, &secrets, &ni, &nr).unwrap();
        let both = [&child.initiator_to_responder, &child.responder_to_initiator].map(Secret::expose);
        assert_eq!(both.concat(), hex(&rekey["keymat"]));
    }
    assert_eq!(list(&cases).len(), 12);
}
