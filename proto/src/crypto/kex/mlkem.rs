//! ML-KEM (FIPS 203) as a key exchange method (draft-ietf-ipsecme-ikev2-mlkem): KEi is an encapsulation key, KEr a
//! ciphertext, and the shared secret is ML-KEM's own.

use crate::crypto::{Group, KeyExchange, KeyExchangeError, KeyExchangeInitiator, Secret};
use ml_kem::kem::{Decapsulate, KeyExport};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

macro_rules! ml_kem_group {
    ($group:ident, $module:ident, $encapsulation_key:literal, $ciphertext:literal) => {
        pub struct $group;

        impl KeyExchange for $group {
            fn group(&self) -> Group {
                Group::$group
            }

            fn public_len(&self) -> usize {
                $encapsulation_key
            }

            fn initiate(&self, rng: &mut dyn CryptoRng) -> Box<dyn KeyExchangeInitiator> {
                // A fresh key pair for each exchange: d and z of FIPS 203 §7.1 come from the seed.
                let mut seed = Zeroizing::new(ml_kem::Seed::default());
                rng.fill_bytes(seed.as_mut_slice());
                let private = ml_kem::$module::DecapsulationKey::from_seed(*seed);
                let public = private.encapsulation_key().to_bytes().to_vec();
                Box::new(Initiator { private, public })
            }

            fn respond(
                &self,
                peer_public: &[u8],
                rng: &mut dyn CryptoRng,
            ) -> Result<(Vec<u8>, Secret), KeyExchangeError> {
                let key = peer_public.try_into().map_err(|_| KeyExchangeError::Length {
                    want: $encapsulation_key,
                    have: peer_public.len(),
                })?;
                // FIPS 203 §7.2, "Modulus check": done by the decoding.
                let peer = ml_kem::$module::EncapsulationKey::new(key).map_err(|_| KeyExchangeError::InvalidPublic)?;
                let mut message = Zeroizing::new(ml_kem::B32::default());
                rng.fill_bytes(message.as_mut_slice());
                let (ciphertext, shared) = peer.encapsulate_deterministic(&message);
                Ok((ciphertext.to_vec(), Secret::new(shared.to_vec())))
            }
        }

        const _: () = {
            impl KeyExchangeInitiator for Initiator<ml_kem::$module::DecapsulationKey> {
                fn public(&self) -> &[u8] {
                    &self.public
                }

                /// A ciphertext of the right length is never refused: what was not made for this key gives a secret that
                /// nobody else has (FIPS 203 §6.3, implicit rejection), and the next message does not verify.
                fn finish(&self, ciphertext: &[u8]) -> Result<Secret, KeyExchangeError> {
                    let have = ciphertext.len();
                    let ciphertext: &ml_kem::$module::Ciphertext =
                        ciphertext.try_into().map_err(|_| KeyExchangeError::Length {
                            want: $ciphertext,
                            have,
                        })?;
                    Ok(Secret::new(self.private.decapsulate(ciphertext).to_vec()))
                }
            }
        };
    };
}

struct Initiator<K> {
    private: K,
    public: Vec<u8>,
}

ml_kem_group!(MlKem512, ml_kem_512, 800, 768);
ml_kem_group!(MlKem768, ml_kem_768, 1184, 1088);
ml_kem_group!(MlKem1024, ml_kem_1024, 1568, 1568);

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    const ALL: [(&dyn KeyExchange, usize, usize); 3] =
        [(&MlKem512, 800, 768), (&MlKem768, 1184, 1088), (&MlKem1024, 1568, 1568)];

    /// draft-ietf-ipsecme-ikev2-mlkem: the sizes of the KE payloads' data.
    #[test]
    fn both_have_the_same_secret() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        for (method, key_len, ciphertext_len) in ALL {
            let (one, other) = (method.initiate(&mut rng), method.initiate(&mut rng));
            assert_ne!(one.public(), other.public(), "a fresh key pair for each exchange");
            assert_eq!((one.public().len(), method.public_len()), (key_len, key_len));
            let (ciphertext, secret) = method.respond(one.public(), &mut rng).unwrap();
            assert_eq!((ciphertext.len(), secret.expose().len()), (ciphertext_len, 32));
            assert!(one.finish(&ciphertext).unwrap() == secret);
            assert!(other.finish(&ciphertext).unwrap() != secret, "implicit rejection");
        }
    }

    #[test]
    fn what_fips_203_forbids_is_refused() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        for (method, key_len, ciphertext_len) in ALL {
            let own = method.initiate(&mut rng);
            for len in [0, 31, 32, key_len - 1, key_len + 1] {
                let refused = method.respond(&vec![0; len], &mut rng).unwrap_err();
                assert_eq!(
                    refused,
                    KeyExchangeError::Length {
                        want: key_len,
                        have: len
                    }
                );
            }
            for len in [0, ciphertext_len - 1, ciphertext_len + 1] {
                let refused = own.finish(&vec![0; len]).unwrap_err();
                assert_eq!(
                    refused,
                    KeyExchangeError::Length {
                        want: ciphertext_len,
                        have: len
                    }
                );
            }
            // §7.2: each coefficient must be below q = 3329: 0xfff is not. One anywhere is enough.
            for at in [0, 1, key_len / 2, key_len - 32 - 3] {
                let mut key = own.public().to_vec();
                let at = at / 3 * 3;
                key[at] = 0xff;
                key[at + 1] |= 0x0f;
                assert_eq!(
                    method.respond(&key, &mut rng).unwrap_err(),
                    KeyExchangeError::InvalidPublic,
                    "{at}"
                );
            }
        }
    }
}
