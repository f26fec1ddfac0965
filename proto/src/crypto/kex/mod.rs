//! Key exchange methods (RFC 7296 §3.4): Curve25519, ECP, MODP, ML-KEM. Each checks the peer's public value.

mod ecp;
mod mlkem;
mod modp;
mod modp_numbers;
mod x25519;

use super::{Group, KeyExchange};

/// The method of a group.
#[must_use]
pub fn get(group: Group) -> &'static dyn KeyExchange {
    match group {
        Group::Curve25519 => &x25519::Curve25519,
        Group::Ecp256 => &ecp::Ecp256,
        Group::Ecp384 => &ecp::Ecp384,
        Group::Ecp521 => &ecp::Ecp521,
        Group::Modp2048 => &modp::MODP_2048,
        Group::Modp3072 => &modp::MODP_3072,
        Group::Modp4096 => &modp::MODP_4096,
        Group::Modp6144 => &modp::MODP_6144,
        Group::Modp8192 => &modp::MODP_8192,
        Group::Modp1024 => &modp::MODP_1024,
        Group::Modp1536 => &modp::MODP_1536,
        Group::Modp2048s256 => &modp::MODP_2048_256,
        Group::MlKem512 => &mlkem::MlKem512,
        Group::MlKem768 => &mlkem::MlKem768,
        Group::MlKem1024 => &mlkem::MlKem1024,
    }
}
