//! MODP groups (RFC 3526, RFC 7296 Appendix B.2, RFC 5114): finite-field Diffie-Hellman in constant time.

use super::modp_numbers as numbers;
use crate::crypto::{Group, KeyExchange, KeyExchangeError, KeyExchangeInitiator, Secret};
use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{ConstOne, Encoding, Odd, U256, U640, U1024, U1536, U2048, U3072, U4096, U6144, U8192, Uint};
use rand_core::CryptoRng;
use std::sync::OnceLock;
use zeroize::Zeroize;

/// Octets of the private exponent. RFC 3526 §8 wants at least twice the group's strength; its larger estimate makes that
/// 480 bits for the 4096-bit group and 620 for the 8192-bit one. Longer ones would only cost time.
const EXPONENT: usize = 64;
const LONG_EXPONENT: usize = 80;

/// A group.
pub struct Modp<const LIMBS: usize> {
    group: Group,
    prime: &'static str,
    generator: Generator,
    exponent: usize,
    /// The one static of this group: what an initiator keeps.
    me: fn() -> &'static Self,
    params: OnceLock<FixedMontyParams<LIMBS>>,
}

/// What generates the group.
enum Generator {
    /// 2, of a safe prime.
    Two,
    /// A number that generates a subgroup of prime order, both hexadecimal.
    Subgroup {
        generator: &'static str,
        order: &'static str,
    },
}

struct Initiator<const LIMBS: usize> {
    group: &'static Modp<LIMBS>,
    exponent: U640,
    public: Vec<u8>,
}

impl<const LIMBS: usize> Drop for Initiator<LIMBS> {
    fn drop(&mut self) {
        self.exponent.zeroize();
    }
}

impl<const LIMBS: usize> Modp<LIMBS> {
    /// Montgomery parameters, computed at first use.
    fn params(&self) -> &FixedMontyParams<LIMBS> {
        self.params.get_or_init(|| {
            let prime = Uint::<LIMBS>::from_be_hex(self.prime);
            // Every prime is odd; an even modulus could only come from a typing error in its digits, which the tests find.
            FixedMontyParams::new(Odd::new(prime).unwrap_or(Odd::<Uint<LIMBS>>::ONE))
        })
    }

    const fn octets() -> usize {
        Uint::<LIMBS>::BYTES
    }

    fn generator(&self) -> Uint<LIMBS> {
        match self.generator {
            Generator::Two => Uint::from(2_u8),
            Generator::Subgroup { generator, .. } => Uint::from_be_hex(generator),
        }
    }

    /// base ^ exponent mod p as fixed-length octets: leading zeros stay (RFC 7296 §2.14).
    fn power(&self, base: &Uint<LIMBS>, exponent: &U640) -> Vec<u8>
    where
        Uint<LIMBS>: Encoding,
    {
        let bits = 8 * self.exponent as u32;
        let power = FixedMontyForm::new(base, self.params()).pow_bounded_exp(exponent, bits);
        power.retrieve().to_be_bytes().as_ref().to_vec()
    }

    /// Whether a peer's public value may be used.
    fn admits(&self, peer: &Uint<LIMBS>) -> bool {
        let prime = self.params().modulus().get();
        // RFC 6989 §2.1: "Each recipient MUST verify that the peer's public value r is in the legal range (1 < r < p-1)."
        if *peer <= Uint::ONE || *peer >= prime.wrapping_sub(&Uint::ONE) {
            return false;
        }
        match self.generator {
            Generator::Two => true,
            // RFC 6989 §2.2: "It MUST check both that the peer's public value is in range (1 < r < p-1) and that
            // r^q = 1 mod p". (The other option there is fresh private values, which are made too.) The peer's value is
            // no secret, so neither is the time this takes.
            Generator::Subgroup { order, .. } => {
                let power = FixedMontyForm::new(peer, self.params()).pow_vartime(&U256::from_be_hex(order));
                power.retrieve() == Uint::ONE
            }
        }
    }
}

impl<const LIMBS: usize> KeyExchange for Modp<LIMBS>
where
    Uint<LIMBS>: Encoding,
{
    fn group(&self) -> Group {
        self.group
    }

    fn public_len(&self) -> usize {
        Self::octets()
    }

    fn initiate(&self, rng: &mut dyn CryptoRng) -> Box<dyn KeyExchangeInitiator> {
        let mut octets = [0; LONG_EXPONENT];
        rng.fill_bytes(&mut octets[LONG_EXPONENT - self.exponent..]);
        let exponent = U640::from_be_slice(&octets);
        octets.zeroize();
        let public = self.power(&self.generator(), &exponent);
        Box::new(Initiator {
            group: (self.me)(),
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
        if !self.group.admits(&peer) {
            return Err(KeyExchangeError::InvalidPublic);
        }
        Ok(Secret::new(self.group.power(&peer, &self.exponent)))
    }
}

macro_rules! modp_group {
    ($name:ident, $uint:ident, $group:ident, $prime:ident, $exponent:ident, $generator:expr) => {
        /// See [`Modp`].
        pub static $name: Modp<{ $uint::LIMBS }> = Modp {
            group: Group::$group,
            prime: numbers::$prime,
            generator: $generator,
            exponent: $exponent,
            me: || &$name,
            params: OnceLock::new(),
        };
    };
}

modp_group!(MODP_1024, U1024, Modp1024, P_1024, EXPONENT, Generator::Two);
modp_group!(MODP_1536, U1536, Modp1536, P_1536, EXPONENT, Generator::Two);
modp_group!(MODP_2048, U2048, Modp2048, P_2048, EXPONENT, Generator::Two);
modp_group!(MODP_3072, U3072, Modp3072, P_3072, EXPONENT, Generator::Two);
modp_group!(MODP_4096, U4096, Modp4096, P_4096, EXPONENT, Generator::Two);
modp_group!(MODP_6144, U6144, Modp6144, P_6144, LONG_EXPONENT, Generator::Two);
modp_group!(MODP_8192, U8192, Modp8192, P_8192, LONG_EXPONENT, Generator::Two);
modp_group!(
    MODP_2048_256,
    U2048,
    Modp2048s256,
    P_2048_256,
    EXPONENT,
    Generator::Subgroup {
        generator: numbers::G_2048_256,
        order: numbers::Q_2048_256,
    }
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
        check(&MODP_1024);
        check(&MODP_1536);
        check(&MODP_2048);
        check(&MODP_3072);
        check(&MODP_4096);
        check(&MODP_6144);
        check(&MODP_8192);
    }
}
