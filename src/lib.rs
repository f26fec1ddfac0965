//! The Landbridge daemon: configuration, control thread, data path and command line around `landbridge-proto`.
//!
//! | module | subject |
//! |---|---|
//! | [`cli`] | one file a command |
//! | [`config`] | TOML -> typed configuration -> proto types |
//! | [`control`] | one thread: owns the IKE endpoint, its sockets, routes, the control socket |
//! | [`data`] | plain worker threads: packets between TUN and ESP |
//! | [`signer`] | private keys that sign outside the protocol |
//! | [`tls`] | TLS around TCP, as octets in and octets out |
//! | [`sys`] | the kernel: TUN, UDP offloads, steering, capabilities. The only `unsafe` |
#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod control;
pub mod data;
pub mod signer;
#[allow(unsafe_code, reason = "system calls; each block with its SAFETY comment")]
pub mod sys;
pub mod tls;
