//! ECP groups (RFC 5903): x | y on the wire, x alone is the shared secret (§9).

use crate::crypto::{Group, KeyExchange, KeyExchangeError, KeyExchangeInitiator, Secret};
use rand_core::CryptoRng;

/// SEC 1 tag of an uncompressed point; the wire does without (RFC 5903 §7).
const UNCOMPRESSED: u8 = 4;

macro_rules! ecp_group {
    ($group:ident, $curve:ident, $field:literal) => {
        pub struct $group;

        impl KeyExchange for $group {
            fn group(&self) -> Group {
                Group::$group
            }

            fn public_len(&self) -> usize {
                2 * $field
            }

            fn initiate(&self, rng: &mut dyn CryptoRng) -> Box<dyn KeyExchangeInitiator> {
                struct Initiator {
                    private: $curve::SecretKey,
                    public: Vec<u8>,
                }

                impl KeyExchangeInitiator for Initiator {
                    fn public(&self) -> &[u8] {
                        &self.public
                    }

                    fn finish(&self, peer_public: &[u8]) -> Result<Secret, KeyExchangeError> {
                        let have = peer_public.len();
                        if have != 2 * $field {
                            return Err(KeyExchangeError::Length {
                                want: 2 * $field,
                                have,
                            });
                        }
                        let mut point = vec![UNCOMPRESSED];
                        point.extend_from_slice(peer_public);
                        // RFC 6989 §2.3: "A receiving peer MUST check that its peer's public value is valid": the decoding
                        // does, which takes neither the point at infinity nor coordinates out of range.
                        let peer =
                            $curve::PublicKey::from_sec1_bytes(&point).map_err(|_| KeyExchangeError::InvalidPublic)?;
                        Ok(Secret::new(
                            self.private.diffie_hellman(&peer).raw_secret_bytes().to_vec(),
                        ))
                    }
                }

                use $curve::elliptic_curve::Generate;
                use $curve::elliptic_curve::sec1::ToSec1Point;
                let private = $curve::SecretKey::generate_from_rng(rng);
                let public = private.public_key().to_sec1_point(false).as_bytes()[1..].to_vec();
                Box::new(Initiator { private, public })
            }

            fn respond(
                &self,
                peer_public: &[u8],
                rng: &mut dyn CryptoRng,
            ) -> Result<(Vec<u8>, Secret), KeyExchangeError> {
                let own = self.initiate(rng);
                let secret = own.finish(peer_public)?;
                Ok((own.public().to_vec(), secret))
            }
        }
    };
}

ecp_group!(Ecp256, p256, 32);
ecp_group!(Ecp384, p384, 48);
ecp_group!(Ecp521, p521, 66);
