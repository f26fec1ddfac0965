//! What must hold after every step.

use landbridge_proto::wire::{OuterBody, decode_outer};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Remembers every IV that left under every key, for IKE and for ESP.
#[derive(Default)]
pub struct NonceLedger {
    ike: BTreeMap<[u8; 25], u64>,
    esp: BTreeMap<Vec<u8>, u64>,
}

impl NonceLedger {
    /// An IKE datagram left. RFC 5282 §3.1: the (key, IV) pair is never used twice; a retransmission is the same octets
    /// again (RFC 7296 §2.1), so the same IV under the same SPIs and direction must be the same datagram.
    pub fn ike_left(&mut self, datagram: &[u8]) {
        let Ok(outer) = decode_outer(datagram) else {
            panic!("we sent what we can't parse ourselves")
        };
        let protected = match outer.body {
            OuterBody::Plain { .. } => return,
            OuterBody::Sk { protected, .. } | OuterBody::Skf { protected, .. } => protected,
        };
        let mut key = [0; 25];
        key[..8].copy_from_slice(&outer.header.spi_i.0);
        key[8..16].copy_from_slice(&outer.header.spi_r.0);
        key[16] = u8::from(outer.header.flags.initiator);
        key[17..].copy_from_slice(&protected[..8]);
        let mut hasher = DefaultHasher::new();
        datagram.hash(&mut hasher);
        let digest = hasher.finish();
        let before = *self.ike.entry(key).or_insert(digest);
        assert_eq!(before, digest, "an IV was used for two different messages");
    }

    /// An ESP packet is sealed: RFC 4303 §3.3.3: the sequence number never repeats under a key; it only grows.
    pub fn esp_sealed(&mut self, key: &[u8], sequence: u64) {
        let before = self.esp.insert(key.to_vec(), sequence);
        assert!(
            before.is_none_or(|before| before < sequence),
            "a sequence number was used twice under a key"
        );
    }
}
