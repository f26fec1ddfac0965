//! IKEv2 (RFC 7296) and ESP (RFC 4303) as values.
//!
//! This crate has no clock, no socket, no thread and no source of randomness of its own: time comes in as
//! [`time::Now`], randomness as a seed, datagrams as byte slices; what is to be sent, installed or told to the
//! operator is polled out. Any run can be replayed from its inputs.
//!
//! | module | subject | imports |
//! |---|---|---|
//! | [`wire`] | octets <-> payloads and typed messages | nothing of ours |
//! | [`crypto`] | algorithms behind a [`crypto::Provider`] | nothing of ours |
//! | [`ip`] | inner packets as pure byte functions | nothing of ours |
//! | [`pki`] | X.509: certificates, names, chains | wire, crypto |
//! | [`policy`] | RFC 4301's databases as values: selectors, proposals, SPD, PAD, SAD entries | wire, crypto, pki |
//! | [`esp`] | RFC 4303: seal, open, replay window | crypto, ip, policy |
//! | [`ike`] | RFC 7296: the endpoint and its exchanges | wire, crypto, pki, policy |
#![forbid(unsafe_code)]

pub mod crypto;
pub mod esp;
pub mod ike;
pub mod ip;
pub mod pki;
pub mod policy;
pub mod time;
pub mod wire;
