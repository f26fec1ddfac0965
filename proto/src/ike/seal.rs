//! Protection of IKE messages: the SK payload (RFC 7296 §3.14; AEAD: RFC 5282) and SKF (RFC 7383 §2.5).

use super::keys::IkeKeys;
use crate::crypto::{PacketCipher, Provider};
use crate::wire::{ExchangeType, Header, Outer, OuterBody, PayloadType, encode_header};
use rand_core::CryptoRng;
use std::sync::Arc;

/// Octets of a generic payload header.
const GENERIC: usize = 4;
/// Fragment Number and Total Fragments (RFC 7383 §2.5).
const FRAGMENT: usize = 4;
/// Smaller pieces would only multiply datagrams.
const SMALLEST_FRAGMENT: usize = 64;

/// Padding that brings text and Pad Length to a multiple of the block.
const fn padding(len: usize, block: usize) -> usize {
    (block - (len + 1) % block) % block
}

/// Octets of the payload that stands in the clear before what is sealed, if there is one.
const fn outside(front: &[u8]) -> usize {
    if front.is_empty() { 0 } else { GENERIC + front.len() }
}

/// Seals what we send, opens what the peer sends.
#[derive(Clone)]
pub struct MessageProtection {
    seal: Arc<dyn PacketCipher>,
    open: Arc<dyn PacketCipher>,
    /// AEAD IVs: a counter from a random start, never repeated under one key.
    iv_counter: u64,
    /// See [`Self::show`].
    solution: Option<Vec<u8>>,
}

/// An opened message or fragment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenedBody {
    /// First payload inside.
    pub first: PayloadType,
    /// The payload chain (or a part of it), padding cut.
    pub payloads: Vec<u8>,
}

/// Why a protected body can't be opened: it is dropped and counted, nothing else changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// Too short, or not a multiple of the block.
    #[error("malformed encrypted payload")]
    Malformed,
    /// ICV.
    #[error("integrity check failed")]
    Integrity,
    /// The outer body is in the clear.
    #[error("message is not protected")]
    Unprotected,
}

impl MessageProtection {
    /// For one side of an IKE SA; `we_are_initiator` says whose keys seal.
    #[must_use]
    pub fn new(provider: &Provider, keys: &IkeKeys, we_are_initiator: bool, rng: &mut dyn CryptoRng) -> Option<Self> {
        let i = (provider.cipher)(keys.suite.cipher, &keys.cipher_i)?;
        let r = (provider.cipher)(keys.suite.cipher, &keys.cipher_r)?;
        let (seal, open) = if we_are_initiator { (i, r) } else { (r, i) };
        Some(Self {
            seal: Arc::from(seal),
            open: Arc::from(open),
            iv_counter: rng.next_u64(),
            solution: None,
        })
    }

    /// From now on an IKE_AUTH request has this in front of what is sealed: "HDR, PS, SK {...}" (RFC 8019 §7.2.2).
    pub fn show(&mut self, solution: Option<Vec<u8>>) {
        self.solution = solution;
    }

    fn in_front(&self, header: &Header) -> Vec<u8> {
        let asks = header.exchange == ExchangeType::IKE_AUTH && !header.flags.response;
        self.solution.clone().filter(|_| asks).unwrap_or_default()
    }

    /// One message as datagrams: one with SK, or several with SKF if `max_datagram` (octets of IKE message that fit in
    /// one datagram; `None`: never fragment) is exceeded. Minimal padding.
    pub fn seal(
        &mut self,
        header: &Header,
        first: PayloadType,
        payloads: &[u8],
        max_datagram: Option<usize>,
        rng: &mut dyn CryptoRng,
    ) -> Vec<Vec<u8>> {
        let front = self.in_front(header);
        let outside = outside(&front);
        let whole = Header::LEN + outside + GENERIC + self.overhead(payloads.len()) + payloads.len();
        let room = match max_datagram {
            Some(max) if whole > max => self.fragment_room(max),
            _ => return vec![self.seal_one(header, &front, first, payloads, None, rng)],
        };
        // §2.5.3: "all unprotected payloads MUST be placed in the first fragment", which holds less of the others then.
        let (head, rest) = payloads.split_at(room.saturating_sub(outside).max(1).min(payloads.len()));
        // RFC 7383 §2.5: at most 65535 fragments; the message cap keeps it far below.
        let total = u16::try_from(1 + rest.len().div_ceil(room)).unwrap_or(u16::MAX);
        let fragments = std::iter::once(head).chain(rest.chunks(room)).zip(1..);
        fragments
            .map(|(part, number)| {
                // §2.5: the first fragment says which payload comes first; beyond it "this field MUST be set to zero".
                let (front, first) = if number == 1 {
                    (front.as_slice(), first)
                } else {
                    (&[][..], PayloadType::NONE)
                };
                self.seal_one(header, front, first, part, Some((number, total)), rng)
            })
            .collect()
    }

    /// Opens an SK or SKF body of a message the peer sent.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, outer: &Outer<'_>) -> Result<OpenedBody, OpenError> {
        let (first, associated, protected) = match outer.body {
            OuterBody::Plain { .. } => return Err(OpenError::Unprotected),
            OuterBody::Sk {
                first,
                associated,
                protected,
            }
            | OuterBody::Skf {
                first,
                associated,
                protected,
                ..
            } => (first, associated, protected),
        };
        let sizes = self.open.sizes();
        let text_len = protected
            .len()
            .checked_sub(sizes.iv + sizes.icv)
            .ok_or(OpenError::Malformed)?;
        if text_len == 0 || text_len % sizes.block != 0 {
            return Err(OpenError::Malformed);
        }
        let (iv, rest) = protected.split_at(sizes.iv);
        let (text, icv) = rest.split_at(text_len);
        let mut text = text.to_vec();
        self.open
            .open(associated, None, iv, &mut text, icv)
            .map_err(|_| OpenError::Integrity)?;
        // RFC 7296 §3.14: any padding is accepted; Pad Length is the last octet.
        let pad = usize::from(text.pop().unwrap_or(0));
        let len = text.len().checked_sub(pad).ok_or(OpenError::Malformed)?;
        text.truncate(len);
        Ok(OpenedBody { first, payloads: text })
    }

    fn seal_one(
        &mut self,
        header: &Header,
        front: &[u8],
        first: PayloadType,
        payloads: &[u8],
        fragment: Option<(u16, u16)>,
        rng: &mut dyn CryptoRng,
    ) -> Vec<u8> {
        let sizes = self.seal.sizes();
        let pad = padding(payloads.len(), sizes.block);
        let numbers = if fragment.is_some() { FRAGMENT } else { 0 };
        let body = numbers + sizes.iv + payloads.len() + pad + 1 + sizes.icv;
        let payload_type = if fragment.is_some() {
            PayloadType::SKF
        } else {
            PayloadType::SK
        };
        let length = Header::LEN + outside(front) + GENERIC + body;
        let mut out = Vec::with_capacity(length);
        if front.is_empty() {
            out.extend_from_slice(&encode_header(header, payload_type, length));
        } else {
            out.extend_from_slice(&encode_header(header, PayloadType::PUZZLE_SOLUTION, length));
            out.extend_from_slice(&[payload_type.0, 0]);
            out.extend_from_slice(&u16::try_from(outside(front)).unwrap_or(u16::MAX).to_be_bytes());
            out.extend_from_slice(front);
        }
        out.extend_from_slice(&[first.0, 0]);
        out.extend_from_slice(&u16::try_from(GENERIC + body).unwrap_or(u16::MAX).to_be_bytes());
        if let Some((number, total)) = fragment {
            out.extend_from_slice(&number.to_be_bytes());
            out.extend_from_slice(&total.to_be_bytes());
        }
        let associated = out.len();
        out.resize(associated + sizes.iv, 0);
        if sizes.iv == 8 {
            // RFC 5282 §3.1: unique for a key; a counter is.
            out[associated..].copy_from_slice(&self.iv_counter.to_be_bytes());
            self.iv_counter = self.iv_counter.wrapping_add(1);
        } else {
            // RFC 7296 §3.14: for CBC "the IV ... MUST be ... unpredictable".
            rng.fill_bytes(&mut out[associated..]);
        }
        out.extend_from_slice(payloads);
        out.resize(out.len() + pad, 0);
        out.push(pad as u8);
        let text_end = out.len();
        out.resize(text_end + sizes.icv, 0);
        let (front, icv) = out.split_at_mut(text_end);
        let (head, text) = front.split_at_mut(associated + sizes.iv);
        let (associated, iv) = head.split_at_mut(associated);
        self.seal.seal(associated, None, iv, text, icv);
        out
    }

    /// IV, padding, Pad Length and ICV around `len` octets.
    fn overhead(&self, len: usize) -> usize {
        let sizes = self.seal.sizes();
        sizes.iv + padding(len, sizes.block) + 1 + sizes.icv
    }

    /// Octets of payload that fit into one fragment's datagram; at least a few, whatever was configured.
    fn fragment_room(&self, max_datagram: usize) -> usize {
        let sizes = self.seal.sizes();
        let around = Header::LEN + GENERIC + FRAGMENT + sizes.iv + sizes.icv;
        let text = max_datagram.saturating_sub(around) / sizes.block * sizes.block;
        text.saturating_sub(1).max(SMALLEST_FRAGMENT)
    }
}
