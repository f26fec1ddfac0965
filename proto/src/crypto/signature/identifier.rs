//! AlgorithmIdentifiers of signatures (RFC 7427 §3 and appendix A; RFC 4055; RFC 5758; RFC 8420 appendix A).
//!
//! They are compared octet for octet with what could have been written, not parsed: a lax parser of these is what let
//! forged RSA signatures in elsewhere (CVE-2018-16151), and there are only so many ways to write them in DER.

use super::{Hash, Scheme};

const NULL: [u8; 2] = [0x05, 0x00];
const ED25519: [u8; 3] = [0x2b, 0x65, 0x70];
/// Without the last octet, which names the hash.
const ECDSA_WITH: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
const PKCS1: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
const SHA2: [u8; 8] = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
const HASHES: [Hash; 3] = [Hash::Sha256, Hash::Sha384, Hash::Sha512];

/// One value in DER; nothing here is as long as 128 octets.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let value = parts.concat();
    debug_assert!(value.len() < 128);
    [&[tag, value.len() as u8], value.as_slice()].concat()
}

fn oid(arc: &[u8], last: u8) -> Vec<u8> {
    tlv(0x06, &[arc, &[last]])
}

fn hash_identifier(hash: Hash, null: bool) -> Vec<u8> {
    let last = match hash {
        Hash::Sha256 => 1,
        Hash::Sha384 => 2,
        Hash::Sha512 => 3,
    };
    tlv(0x30, &[&oid(&SHA2, last), if null { &NULL } else { &[] }])
}

/// `nulls`: whether the two hash identifiers have NULL parameters (RFC 4055 §2.1: both forms MUST be taken).
fn pss(hash: Hash, nulls: [bool; 2], trailer: bool) -> Vec<u8> {
    let mgf = tlv(0x30, &[&oid(&PKCS1, 8), &hash_identifier(hash, nulls[1])]);
    let parameters = tlv(
        0x30,
        &[
            &tlv(0xa0, &[&hash_identifier(hash, nulls[0])]),
            &tlv(0xa1, &[&mgf]),
            &tlv(0xa2, &[&tlv(0x02, &[&[hash.octets() as u8]])]),
            &if trailer {
                tlv(0xa3, &[&tlv(0x02, &[&[1]])])
            } else {
                Vec::new()
            },
        ],
    );
    tlv(0x30, &[&oid(&PKCS1, 10), &parameters])
}

fn pkcs1(hash: Hash, null: bool) -> Vec<u8> {
    let last = match hash {
        Hash::Sha256 => 11,
        Hash::Sha384 => 12,
        Hash::Sha512 => 13,
    };
    tlv(0x30, &[&oid(&PKCS1, last), if null { &NULL } else { &[] }])
}

fn ecdsa(hash: Hash) -> Vec<u8> {
    let last = match hash {
        Hash::Sha256 => 2,
        Hash::Sha384 => 3,
        Hash::Sha512 => 4,
    };
    tlv(0x30, &[&oid(&ECDSA_WITH, last)])
}

impl Scheme {
    /// The AlgorithmIdentifier in DER, as it stands in AUTH (RFC 7427 §3).
    #[must_use]
    pub fn identifier(self) -> Vec<u8> {
        match self {
            Self::Ed25519 => tlv(0x30, &[&tlv(0x06, &[&ED25519])]),
            Self::Ecdsa(hash) => ecdsa(hash),
            Self::RsaPss(hash) => pss(hash, [true, true], false),
            Self::RsaPkcs1(hash) => pkcs1(hash, true),
        }
    }

    /// The scheme an AlgorithmIdentifier names; `None` for all that is not taken: SHA-1, PSS with default parameters
    /// (which mean SHA-1; RFC 8247 §3.2), with two different hashes, or with another salt length than the hash's.
    #[must_use]
    pub fn from_identifier(der: &[u8]) -> Option<Self> {
        if der == Self::Ed25519.identifier() {
            return Some(Self::Ed25519);
        }
        let both = [true, false];
        HASHES.into_iter().find_map(|hash| {
            if der == ecdsa(hash) {
                Some(Self::Ecdsa(hash))
            } else if both.iter().any(|null| der == pkcs1(hash, *null)) {
                Some(Self::RsaPkcs1(hash))
            } else if (both.iter().flat_map(|a| both.iter().map(move |b| [*a, *b])))
                .any(|nulls| both.iter().any(|trailer| der == pss(hash, nulls, *trailer)))
            {
                Some(Self::RsaPss(hash))
            } else {
                None
            }
        })
    }
}
