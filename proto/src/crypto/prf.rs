//! PRF-HMAC-SHA2, PRF-HMAC-SHA1 and prf+ (RFC 7296 §2.13, RFC 4868 §2.1.2).

use super::{Prf, PrfAlgorithm, Secret};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};
use std::marker::PhantomData;

struct HmacPrf<D> {
    algorithm: PrfAlgorithm,
    len: usize,
    digest: PhantomData<fn() -> D>,
}

static SHA256: HmacPrf<Hmac<Sha256>> = HmacPrf {
    algorithm: PrfAlgorithm::HmacSha256,
    len: 32,
    digest: PhantomData,
};
static SHA384: HmacPrf<Hmac<Sha384>> = HmacPrf {
    algorithm: PrfAlgorithm::HmacSha384,
    len: 48,
    digest: PhantomData,
};
static SHA512: HmacPrf<Hmac<Sha512>> = HmacPrf {
    algorithm: PrfAlgorithm::HmacSha512,
    len: 64,
    digest: PhantomData,
};

static SHA1: HmacPrf<Hmac<Sha1>> = HmacPrf {
    algorithm: PrfAlgorithm::HmacSha1,
    len: 20,
    digest: PhantomData,
};

/// The PRF of an algorithm.
#[must_use]
pub fn get(algorithm: PrfAlgorithm) -> &'static dyn Prf {
    match algorithm {
        PrfAlgorithm::HmacSha256 => &SHA256,
        PrfAlgorithm::HmacSha384 => &SHA384,
        PrfAlgorithm::HmacSha512 => &SHA512,
        PrfAlgorithm::HmacSha1 => &SHA1,
    }
}

impl<M: Mac + KeyInit> Prf for HmacPrf<M> {
    fn algorithm(&self) -> PrfAlgorithm {
        self.algorithm
    }

    fn output_len(&self) -> usize {
        self.len
    }

    fn prf(&self, key: &[u8], data: &[&[u8]]) -> Secret {
        // HMAC takes keys of any length (RFC 2104 §2), so this does not fail; an empty output would match nothing.
        let Ok(mut mac) = <M as KeyInit>::new_from_slice(key) else {
            return Secret::new(Vec::new());
        };
        for part in data {
            mac.update(part);
        }
        Secret::new(mac.finalize().into_bytes().to_vec())
    }

    fn prf_plus(&self, key: &[u8], seed: &[&[u8]], len: usize) -> Option<Secret> {
        // RFC 7296 §2.13: T1 = prf(K, S | 0x01), Tn = prf(K, Tn-1 | S | n); "The prf+ function is not defined beyond 255
        // times the size of the prf function output."
        if len > 255 * self.len {
            return None;
        }
        let mut out = zeroize::Zeroizing::new(Vec::with_capacity(len + self.len));
        let mut previous = Secret::new(Vec::new());
        for counter in 1..=u8::MAX {
            if out.len() >= len {
                break;
            }
            let mut data = vec![previous.expose()];
            data.extend_from_slice(seed);
            let counter = [counter];
            data.push(&counter);
            let block = self.prf(key, &data);
            out.extend_from_slice(block.expose());
            previous = block;
        }
        Some(Secret::new(out[..len].to_vec()))
    }
}
