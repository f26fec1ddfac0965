//! Two data paths with static keys, each in a network namespace of its own, without any key exchange.
//!
//! Needs root and `/dev/net/tun`; where they are missing, each test says so and passes.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in what its functions share"
)]

#[path = "../support/mod.rs"]
mod support;

mod aggfrag;
mod carrying;
mod hostile;
mod inner;
mod life;
mod outer;
mod placing;

/// Octets that keep a tunnel busy for a moment.
const SOME: usize = 5_000_000;
