//! IntAuth: what of the IKE_INTERMEDIATE exchanges AUTH covers (RFC 9242 §3.3.2).

use crate::crypto::{Prf, Secret};
use crate::wire::{Header, PayloadType};

/// Where the IKE header has Next Payload and Length (RFC 7296 §3.1).
const NEXT_PAYLOAD: usize = 16;
const LENGTH: std::ops::Range<usize> = 24..28;
/// Octets of a generic payload header.
const GENERIC: usize = 4;
/// Fragment Number and Total Fragments, which follow that of an Encrypted Fragment payload (RFC 7383 §2.5).
const FRAGMENT: usize = 4;

/// `IntAuth_iN | IntAuth_rN | IKE_AUTH_MID`, as far as it is known.
#[derive(Clone, Default)]
pub struct IntAuth {
    initiator: Option<Secret>,
    responder: Option<Secret>,
    /// Message ID of the first IKE_AUTH request.
    auth_id: u32,
}

impl IntAuth {
    /// One more IKE_INTERMEDIATE message: `IntAuth_xN = prf(SK_pxN, IntAuth_x(N-1) | IntAuth_xNA [| IntAuth_xNP])`.
    ///
    /// `sk_p` is the sender's, of the keys that protect the message; `head` is [`head_of_sk`] or [`head_of_fragment`];
    /// `payloads` are "the inner payloads of the Encrypted payload in plaintext form".
    pub fn add(&mut self, prf: &dyn Prf, sk_p: &Secret, from_initiator: bool, mut head: Vec<u8>, payloads: &[u8]) {
        // "the Length field in the IKE Header ... is set to the sum of the lengths of IntAuth_[i/r]*A and
        // IntAuth_[i/r]*P, and the Payload Length field in the Encrypted payload header ... is set to the length of
        // IntAuth_[i/r]*P plus the size of the Encrypted payload header (four octets)."
        let whole = u32::try_from(head.len() + payloads.len()).unwrap_or(u32::MAX);
        if let Some(length) = head.get_mut(LENGTH) {
            length.copy_from_slice(&whole.to_be_bytes());
        }
        let inner = u16::try_from(payloads.len() + GENERIC).unwrap_or(u16::MAX);
        if let Some(length) = head.last_chunk_mut::<2>() {
            *length = inner.to_be_bytes();
        }
        let chain = if from_initiator {
            &mut self.initiator
        } else {
            &mut self.responder
        };
        let before = chain.as_ref().map_or(&[][..], Secret::expose);
        *chain = Some(prf.prf(sk_p.expose(), &[before, &head, payloads]));
    }

    /// "a value of the Message ID field from the IKE Header of the first round of the IKE_AUTH exchange".
    pub fn set_auth_id(&mut self, message_id: u32) {
        self.auth_id = message_id;
    }

    /// What is appended to the octets that AUTH signs: nothing if there were no such exchanges.
    #[must_use]
    pub fn octets(&self) -> Vec<u8> {
        match (&self.initiator, &self.responder) {
            (Some(initiator), Some(responder)) => {
                [initiator.expose(), responder.expose(), &self.auth_id.to_be_bytes()].concat()
            }
            _ => Vec::new(),
        }
    }
}

/// IntAuth_*A of a message of our own, its lengths still to be set: the IKE header and the Encrypted payload's generic one.
#[must_use]
pub fn head_of_own(header: &Header, first: PayloadType) -> Vec<u8> {
    let mut head = crate::wire::encode_header(header, PayloadType::SK, 0).to_vec();
    head.extend_from_slice(&[first.0, 0, 0, 0]);
    head
}

/// The same of a message received whole: its associated data, RESERVED octets as they came.
#[must_use]
pub fn head_of_sk(associated: &[u8]) -> Vec<u8> {
    associated.to_vec()
}

/// The same of a message of which this is the first fragment: "it MUST be reconstructed before calculating the prf as if it
/// were received unfragmented". `None` if something stands before the Encrypted Fragment payload.
#[must_use]
pub fn head_of_fragment(associated: &[u8]) -> Option<Vec<u8>> {
    let mut head = associated.get(..associated.len().checked_sub(FRAGMENT)?)?.to_vec();
    if head.len() != Header::LEN + GENERIC {
        return None;
    }
    *head.get_mut(NEXT_PAYLOAD)? = PayloadType::SK.0;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{IKE_PROVIDER, PrfAlgorithm};
    use crate::wire::{ExchangeType, Flags, IkeSpi};

    fn header() -> Header {
        Header {
            spi_i: IkeSpi([1; 8]),
            spi_r: IkeSpi([2; 8]),
            exchange: ExchangeType::IKE_INTERMEDIATE,
            flags: Flags {
                initiator: true,
                response: false,
            },
            message_id: 1,
        }
    }

    /// "The prf calculations MUST be applied to whole messages only, before possible IKE fragmentation."
    #[test]
    fn the_same_however_it_came() {
        let own = head_of_own(&header(), PayloadType::KE);
        let mut sk = own.clone();
        sk[26..28].copy_from_slice(&[7, 7]);
        let mut skf = own.clone();
        skf[NEXT_PAYLOAD] = PayloadType::SKF.0;
        skf.extend_from_slice(&[0, 1, 0, 2]);
        let prf = (IKE_PROVIDER.prf)(PrfAlgorithm::HmacSha256).unwrap();
        let key = Secret::new(vec![9; 32]);
        let all = [own, head_of_sk(&sk), head_of_fragment(&skf).unwrap()].map(|head| {
            let mut chain = IntAuth::default();
            chain.add(prf, &key, true, head.clone(), b"payloads");
            assert_eq!(chain.octets(), b"", "one side alone is nothing");
            chain.add(prf, &key, false, head, b"other");
            chain.set_auth_id(2);
            chain.octets()
        });
        assert_eq!(all[0].len(), 32 + 32 + 4);
        assert!(all[0] == all[1] && all[1] == all[2]);
    }
}
