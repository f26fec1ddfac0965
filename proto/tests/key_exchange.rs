//! Key exchange methods: vectors of the RFCs, and the public values that must not be taken (RFC 6989, RFC 8031).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

use landbridge_proto::crypto::{Group, IKE_PROVIDER, KeyExchangeError};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde_json::Value;
use std::convert::Infallible;

fn load(name: &str) -> Value {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn octets(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let octet = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(octet).collect()
}

fn hex(value: &Value) -> Vec<u8> {
    octets(value.as_str().unwrap())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

/// "Randomness" that says what the vector wants.
struct Fixed(Vec<u8>);

impl rand_core::TryRng for Fixed {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!()
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!()
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        out.copy_from_slice(&self.0);
        Ok(())
    }
}
impl rand_core::TryCryptoRng for Fixed {}

/// Both sides of an exchange with known private values: public values and secret as the vector has them.
fn check(group: Group, private: [Vec<u8>; 2], public: [Vec<u8>; 2], shared: &[u8]) {
    let method = (IKE_PROVIDER.key_exchange)(group).unwrap();
    let [i, r] = private;
    let initiator = method.initiate(&mut Fixed(i));
    assert_eq!(initiator.public(), public[0], "{group}");
    let (answer, secret) = method.respond(&public[0], &mut Fixed(r)).unwrap();
    assert_eq!((&answer, secret.expose()), (&public[1], shared), "{group}");
    assert_eq!(initiator.finish(&public[1]).unwrap().expose(), shared, "{group}");
}

/// RFC 5903 §8, and §9: the shared secret is x alone.
#[test]
fn rfc_5903_ecp_groups() {
    let mut checked = 0;
    for v in list(&load("rfc/rfc5903-ecp.json")["vectors"]) {
        let group = match v["group"].as_u64() {
            Some(19) => Group::Ecp256,
            Some(20) => Group::Ecp384,
            Some(21) => Group::Ecp521,
            other => panic!("{other:?}"),
        };
        let point = |x: &str, y: &str| [hex(&v[x]), hex(&v[y])].concat();
        // The library draws its scalars the little end first.
        let scalar = |name: &str| hex(&v[name]).into_iter().rev().collect();
        check(
            group,
            [scalar("i"), scalar("r")],
            [point("gix", "giy"), point("grx", "gry")],
            &hex(&v["shared_secret"]),
        );
        checked += 1;
    }
    assert_eq!(checked, 3);
}

#[test]
fn rfc_8031_curve25519() {
    let v = load("rfc/rfc8031-x25519.json");
    let [i, public_i, r, public_r, shared] =
        ["random_i", "pub_i", "random_r", "pub_r", "shared_secret"].map(|name| hex(&v[name]));
    check(Group::Curve25519, [i, r], [public_i, public_r], &shared);
}

fn modp(number: &Value) -> Group {
    match number.as_u64() {
        Some(2) => Group::Modp1024,
        Some(5) => Group::Modp1536,
        Some(14) => Group::Modp2048,
        Some(15) => Group::Modp3072,
        Some(16) => Group::Modp4096,
        Some(17) => Group::Modp6144,
        Some(18) => Group::Modp8192,
        Some(24) => Group::Modp2048s256,
        other => panic!("{other:?}"),
    }
}

/// RFC 7296 §2.14: "g^ir is represented as a string of octets in big endian order padded with zeros if necessary to make
/// it the length of the modulus": the secret of every vector but the RFC's own begins with a zero octet.
#[test]
fn modp_groups_keep_leading_zeros() {
    let vectors = load("rfc/modp.json");
    for v in list(&vectors["vectors"]) {
        let [a, b, public_a, public_b, shared] =
            ["a", "b", "public_a", "public_b", "shared_secret"].map(|name| hex(&v[name]));
        assert_eq!(shared.len(), hex(&v["p"]).len());
        assert!(shared[0] == 0 || v["source"].is_string());
        check(modp(&v["group"]), [a, b], [public_a, public_b], &shared);
    }
    assert_eq!(list(&vectors["vectors"]).len(), 9);
}

/// RFC 6989 §2, RFC 8031 §5: what must not be taken as a public value.
#[test]
fn bad_public_values_are_refused() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    // A KEM's two values are of two kinds: ML-KEM's are tested beside it (`crypto::kex::mlkem`).
    for group in Group::ALL.iter().filter(|group| !group.is_post_quantum()) {
        let method = (IKE_PROVIDER.key_exchange)(*group).unwrap();
        let initiator = method.initiate(&mut rng);
        let good = method.initiate(&mut rng).public().to_vec();
        let len = good.len();
        assert_eq!((len, method.group()), (method.public_len(), *group));
        assert!(method.respond(&good, &mut rng).is_ok());
        for wrong in [0, 1, len - 1, len + 1, 2 * len] {
            let error = method.respond(&vec![1; wrong], &mut rng).unwrap_err();
            assert_eq!(error, KeyExchangeError::Length { want: len, have: wrong });
            assert_eq!(initiator.finish(&vec![1; wrong]).unwrap_err(), error);
        }
        let mut bad = vec![vec![0; len]];
        match group {
            Group::Curve25519 => bad.extend(low_order_points()),
            Group::Ecp256 | Group::Ecp384 | Group::Ecp521 => {
                bad.push(vec![0xff; len]);
                // y of another point: not on the curve.
                let mut off = good.clone();
                off[len - 1] ^= 1;
                bad.push(off);
            }
            _ => bad.extend(outside_the_range(*group)),
        }
        for value in bad {
            let error = method.respond(&value, &mut rng).unwrap_err();
            assert_eq!(error, KeyExchangeError::InvalidPublic, "{group}: {value:02x?}");
            assert_eq!(initiator.finish(&value).unwrap_err(), error, "{group}: {value:02x?}");
        }
    }
}

/// The points of small order: 1, -1, those of order 8, and p and its neighbours, which are 0, 1 and -1 spelled otherwise.
fn low_order_points() -> Vec<Vec<u8>> {
    let texts = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];
    texts.map(octets).to_vec()
}

/// 1, p - 1, p, p + 1 and all ones. Every prime here ends in 64 one bits but group 24's, which ends in ...97.
fn outside_the_range(group: Group) -> Vec<Vec<u8>> {
    let vectors = load("rfc/modp.json");
    let vector = list(&vectors["vectors"]).iter().find(|v| modp(&v["group"]) == group);
    let prime = hex(&vector.unwrap()["p"]);
    let len = prime.len();
    let number = |low: u8| [vec![0; len - 1], vec![low]].concat();
    let (mut below, mut above) = (prime.clone(), prime.clone());
    below[len - 1] -= 1;
    for octet in above.iter_mut().rev() {
        *octet = octet.wrapping_add(1);
        if *octet != 0 {
            break;
        }
    }
    vec![number(1), vec![0xff; len], below, prime, above]
}

/// RFC 6989 §2.2: "It MUST check both that the peer's public value is in range (1 < r < p-1) and that r^q = 1 mod p".
#[test]
fn a_value_outside_the_subgroup_of_group_24_is_refused() {
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let small = load("rfc/modp.json")["small_subgroup"].clone();
    let method = (IKE_PROVIDER.key_exchange)(modp(&small["group"])).unwrap();
    let two = [vec![0; method.public_len() - 1], vec![2]].concat();
    for value in [hex(&small["element"]), two] {
        assert_eq!(
            method.respond(&value, &mut rng).unwrap_err(),
            KeyExchangeError::InvalidPublic
        );
    }
}

#[test]
fn every_group_agrees_with_itself() {
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    for group in Group::ALL {
        let method = (IKE_PROVIDER.key_exchange)(*group).unwrap();
        let initiator = method.initiate(&mut rng);
        let (public, secret) = method.respond(initiator.public(), &mut rng).unwrap();
        assert_eq!(initiator.finish(&public).unwrap(), secret, "{group}");
        // Fresh private values each time (RFC 6989 §2.2's other option).
        assert_ne!(method.initiate(&mut rng).public(), initiator.public());
    }
}
