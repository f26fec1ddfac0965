//! MODP groups (RFC 3526): finite-field Diffie-Hellman with generator 2, in constant time.

use crate::crypto::{Group, KeyExchange, KeyExchangeError, KeyExchangeInitiator, Secret};
use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{ConstOne, Encoding, Odd, U512, U2048, U3072, U4096, Uint};
use rand_core::CryptoRng;
use std::sync::OnceLock;
use zeroize::Zeroize;

/// Octets of the private exponent: 512 bits. RFC 3526 §8 wants at least twice the group's strength (its larger estimate
/// for the 4096-bit group is 2 * 240); longer ones would only cost time.
const EXPONENT: usize = 64;

/// A safe-prime group.
pub struct Modp<const LIMBS: usize> {
    group: Group,
    prime: &'static str,
    params: OnceLock<FixedMontyParams<LIMBS>>,
}

struct Initiator<const LIMBS: usize> {
    group: &'static Modp<LIMBS>,
    exponent: U512,
    public: Vec<u8>,
}

impl<const LIMBS: usize> Drop for Initiator<LIMBS> {
    fn drop(&mut self) {
        self.exponent.zeroize();
    }
}

impl<const LIMBS: usize> Modp<LIMBS> {
    const fn new(group: Group, prime: &'static str) -> Self {
        Self {
            group,
            prime,
            params: OnceLock::new(),
        }
    }

    /// Montgomery parameters, computed at first use.
    fn params(&self) -> &FixedMontyParams<LIMBS> {
        self.params.get_or_init(|| {
            let prime = Uint::<LIMBS>::from_be_hex(self.prime);
            // The prime ends in one bits; an even modulus could only come from a typing error above, which the tests find.
            FixedMontyParams::new(Odd::new(prime).unwrap_or(Odd::<Uint<LIMBS>>::ONE))
        })
    }

    const fn octets() -> usize {
        Uint::<LIMBS>::BYTES
    }

    /// base ^ exponent mod p as fixed-length octets: leading zeros stay (RFC 7296 §2.14).
    fn power(&self, base: &Uint<LIMBS>, exponent: &U512) -> Vec<u8>
    where
        Uint<LIMBS>: Encoding,
    {
        let power = FixedMontyForm::new(base, self.params()).pow(exponent).retrieve();
        power.to_be_bytes().as_ref().to_vec()
    }
}

impl<const LIMBS: usize> KeyExchange for Modp<LIMBS>
where
    Uint<LIMBS>: Encoding,
    Self: Known<LIMBS>,
{
    fn group(&self) -> Group {
        self.group
    }

    fn public_len(&self) -> usize {
        Self::octets()
    }

    fn initiate(&self, rng: &mut dyn CryptoRng) -> Box<dyn KeyExchangeInitiator> {
        let mut octets = [0; EXPONENT];
        rng.fill_bytes(&mut octets);
        let exponent = U512::from_be_slice(&octets);
        octets.zeroize();
        let group = Self::of();
        let public = group.power(&Uint::from(2_u8), &exponent);
        Box::new(Initiator {
            group,
            exponent,
            public,
        })
    }

    fn respond(&self, peer_public: &[u8], rng: &mut dyn CryptoRng) -> Result<(Vec<u8>, Secret), KeyExchangeError> {
        let own = self.initiate(rng);
        let secret = own.finish(peer_public)?;
        Ok((own.public().to_vec(), secret))
    }
}

impl<const LIMBS: usize> KeyExchangeInitiator for Initiator<LIMBS>
where
    Uint<LIMBS>: Encoding,
{
    fn public(&self) -> &[u8] {
        &self.public
    }

    fn finish(&self, peer_public: &[u8]) -> Result<Secret, KeyExchangeError> {
        let want = Modp::<LIMBS>::octets();
        if peer_public.len() != want {
            return Err(KeyExchangeError::Length {
                want,
                have: peer_public.len(),
            });
        }
        let peer = Uint::<LIMBS>::from_be_slice(peer_public);
        let prime = self.group.params().modulus().get();
        // RFC 6989 §2.1: "check ... that the peer's public value r is in the legal range (1 < r < p-1)".
        if peer <= Uint::ONE || peer >= prime.wrapping_sub(&Uint::ONE) {
            return Err(KeyExchangeError::InvalidPublic);
        }
        Ok(Secret::new(self.group.power(&peer, &self.exponent)))
    }
}

/// The one static of each size.
pub trait Known<const LIMBS: usize> {
    /// It.
    fn of() -> &'static Modp<LIMBS>;
}

macro_rules! modp_group {
    ($name:ident, $uint:ident, $group:ident, $prime:expr) => {
        /// See [`Modp`].
        pub static $name: Modp<{ $uint::LIMBS }> = Modp::new(Group::$group, $prime);

        impl Known<{ $uint::LIMBS }> for Modp<{ $uint::LIMBS }> {
            fn of() -> &'static Self {
                &$name
            }
        }
    };
}

modp_group!(
    MODP_2048,
    U2048,
    Modp2048,
    concat!(
        "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404dd",
        "ef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed",
        "ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f",
        "83655d23dca3ad961c62f356208552bb9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3b",
        "e39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa0510",
        "15728e5a8aacaa68ffffffffffffffff",
    )
);

modp_group!(
    MODP_3072,
    U3072,
    Modp3072,
    concat!(
        "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404dd",
        "ef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed",
        "ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f",
        "83655d23dca3ad961c62f356208552bb9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3b",
        "e39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa0510",
        "15728e5a8aaac42dad33170d04507a33a85521abdf1cba64ecfb850458dbef0a8aea71575d060c7db3970f85a6e1e4c7",
        "abf5ae8cdb0933d71e8c94e04a25619dcee3d2261ad2ee6bf12ffa06d98a0864d87602733ec86a64521f2b18177b200c",
        "bbe117577a615d6c770988c0bad946e208e24fa074e5ab3143db5bfce0fd108e4b82d120a93ad2caffffffffffffffff",
    )
);

modp_group!(
    MODP_4096,
    U4096,
    Modp4096,
    concat!(
        "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404dd",
        "ef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed",
        "ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f",
        "83655d23dca3ad961c62f356208552bb9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3b",
        "e39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa0510",
        "15728e5a8aaac42dad33170d04507a33a85521abdf1cba64ecfb850458dbef0a8aea71575d060c7db3970f85a6e1e4c7",
        "abf5ae8cdb0933d71e8c94e04a25619dcee3d2261ad2ee6bf12ffa06d98a0864d87602733ec86a64521f2b18177b200c",
        "bbe117577a615d6c770988c0bad946e208e24fa074e5ab3143db5bfce0fd108e4b82d120a92108011a723c12a787e6d7",
        "88719a10bdba5b2699c327186af4e23c1a946834b6150bda2583e9ca2ad44ce8dbbbc2db04de8ef92e8efc141fbecaa6",
        "287c59474e6bc05d99b2964fa090c3a2233ba186515be7ed1f612970cee2d7afb81bdd762170481cd0069127d5b05aa9",
        "93b4ea988d8fddc186ffb7dc90a6c08f4df435c934063199ffffffffffffffff",
    )
);

#[cfg(test)]
mod tests {
    use super::*;

    /// The primes are safe and 2 generates the subgroup of prime order: RFC 3526 §1.
    #[test]
    fn two_generates_the_subgroup() {
        fn check<const LIMBS: usize>(group: &Modp<LIMBS>)
        where
            Uint<LIMBS>: Encoding,
        {
            let prime = group.params().modulus().get();
            let half = prime.wrapping_sub(&Uint::ONE).shr_vartime(1);
            let power = FixedMontyForm::new(&Uint::from(2_u8), group.params())
                .pow(&half)
                .retrieve();
            assert_eq!(power, Uint::ONE);
        }
        check(&MODP_2048);
        check(&MODP_3072);
        check(&MODP_4096);
    }
}
