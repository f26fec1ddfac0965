//! A cipher that does nothing, with the lengths of AES-GCM: what is left is everything but the cipher. For benchmarks only; no
//! program that is installed contains it.

use landbridge_proto::crypto::{CipherSizes, CipherSuite, Encryption, IntegrityError, PacketCipher, Provider, Secret};

/// The suite whose lengths it has: all of its packets are as long as AES-256-GCM's.
pub const SUITE: CipherSuite = CipherSuite {
    encryption: Encryption::AesGcm16_256,
    integrity: None,
};

/// Whatever the suite is called, nothing is sealed.
pub static PROVIDER: Provider = Provider {
    name: "none",
    cipher: |_, key: &Secret| {
        (key.expose().len() == SIZES.key + SIZES.salt).then(|| Box::new(Null) as Box<dyn PacketCipher>)
    },
    sizes: |_| Some(SIZES),
    prf: |_| None,
    key_exchange: |_| None,
};

const SIZES: CipherSizes = CipherSizes {
    key: 32,
    salt: 4,
    integrity_key: 0,
    iv: 8,
    icv: 16,
    block: 1,
};

struct Null;

impl PacketCipher for Null {
    fn sizes(&self) -> CipherSizes {
        SIZES
    }

    fn seal(&self, _: &[u8], _: Option<u32>, _: &[u8], _: &mut [u8], icv: &mut [u8]) {
        icv.fill(0);
    }

    fn open(&self, _: &[u8], _: Option<u32>, _: &[u8], _: &mut [u8], icv: &[u8]) -> Result<(), IntegrityError> {
        if icv.iter().all(|octet| *octet == 0) {
            Ok(())
        } else {
            Err(IntegrityError)
        }
    }
}
