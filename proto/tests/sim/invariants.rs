//! What must hold after every step.

use landbridge_proto::wire::{OuterBody, decode_outer};
use std::collections::BTreeMap;

/// Remembers every IV that left under every key, for IKE and for ESP.
#[derive(Default)]
pub struct NonceLedger {
    ike: BTreeMap<Vec<u8>, Vec<u8>>,
    esp: BTreeMap<(Vec<u8>, u64), ()>,
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
        let mut key = outer.header.spi_i.0.to_vec();
        key.extend_from_slice(&outer.header.spi_r.0);
        key.push(u8::from(outer.header.flags.initiator));
        key.extend_from_slice(&protected[..8]);
        let before = self.ike.entry(key).or_insert_with(|| datagram.to_vec());
        assert_eq!(before, datagram, "an IV was used for two different messages");
    }

    /// An ESP packet is sealed: RFC 4303 §3.3.3: the sequence number never repeats under a key.
    pub fn esp_sealed(&mut self, key: &[u8], sequence: u64) {
        assert!(
            self.esp.insert((key.to_vec(), sequence), ()).is_none(),
            "a sequence number was used twice under a key"
        );
    }
}
