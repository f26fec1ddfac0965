//! Quick crash detection (RFC 6290). Each end gives the other a token within the IKE SA. An end that has lost its state makes the
//! same token again, out of a secret that outlives it and the SPIs of the message it does not understand, and sends it in the
//! clear: the other end then knows at once that the IKE SA is gone, where it would else have asked until it tires.
//!
//! What makes that safe: a token tells of nothing but an IKE SA that its maker does not have, 128 bits are not guessed, and
//! who shows the right one has had it from the maker.

use super::budget::Budget;
use super::sa::{IkeSa, Stage};
use super::shared::Shared;
use crate::crypto::{PrfAlgorithm, Secret, prf};
use crate::ike::event::Failure;
use crate::ike::reason::Reason;
use crate::time::Instant;
use crate::wire::{self, IkeSpi, Notify, NotifyType, OuterBody, Payload, ProtocolId};
use std::time::Duration;
use subtle::{Choice, ConstantTimeEq};

/// Octets of a token of ours: §5 wants "at least 16 octets". Not more, so that what is said in the clear is hardly longer
/// than what drew it.
const LEN: usize = 16;

/// Octets of a peer's: "no more than 128 octets long".
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=128;

/// Tokens of a peer that are kept. §5: "the token taker MAY store several earlier tokens associated with the IKE SA".
const KEPT: usize = 4;

/// Tokens of one message that are looked at. §4.5: "the token taker MUST support at least four QCD_TOKEN notifications in a
/// single packet."
const LOOKED_AT: usize = 4;

/// Messages a second whose tokens are verified for an IKE SA. §8.1: "a token taker SHOULD limit the rate of QCD_TOKENs verified
/// from a particular source": who does not know its SPIs does not get this far.
const VERIFIED: u32 = 20;

/// An IKE SA that lived shorter than this is not begun anew at once: a peer that crashes whenever it is up is not to keep us
/// busy.
const LIVED: Duration = Duration::from_secs(10);

/// Octets of the shortest protected request there is: header, generic header, IV, Pad Length, ICV (RFC 5282). What is shorter
/// draws no token.
pub const SHORTEST_REQUEST: usize = 28 + 4 + 8 + 1 + 16;

/// The peer's tokens for an IKE SA.
#[derive(Clone)]
pub struct PeerTokens {
    /// The newest last.
    known: Vec<Secret>,
    verified: Budget,
}

impl Default for PeerTokens {
    fn default() -> Self {
        Self {
            known: Vec::new(),
            verified: Budget::new(VERIFIED),
        }
    }
}

impl PeerTokens {
    /// §3: "A supporting implementation receiving such a token MUST store it (or a digest thereof) along with the IKE SA."
    pub fn learn(&mut self, notifies: &[Notify]) {
        for token in tokens(notifies).filter(|token| LENGTHS.contains(&token.len())) {
            self.keep(token);
        }
    }

    /// The one of an IKE_AUTH, once that has proven whose it is.
    pub fn keep_one(&mut self, token: Option<&[u8]>) {
        token
            .filter(|token| LENGTHS.contains(&token.len()))
            .into_iter()
            .for_each(|token| self.keep(token));
    }

    fn keep(&mut self, token: &[u8]) {
        let token = Secret::new(token.to_vec());
        self.known.retain(|known| *known != token);
        self.known.push(token);
        let surplus = self.known.len().saturating_sub(KEPT);
        self.known.drain(..surplus);
    }

    /// Whether there is one: a crash of the peer will be noticed.
    pub const fn any(&self) -> bool {
        !self.known.is_empty()
    }

    /// §4.5: "The token is considered verified if any of the QCD_TOKEN notifications matches." All are compared, whichever
    /// matches: the time tells nothing.
    fn match_any(&self, shown: &[Vec<u8>]) -> bool {
        let mut right = Choice::from(0);
        for token in shown.iter().take(LOOKED_AT) {
            for known in &self.known {
                right |= known.expose().ct_eq(token);
            }
        }
        right.into()
    }
}

fn tokens(notifies: &[Notify]) -> impl Iterator<Item = &[u8]> {
    let token = |notify: &&Notify| notify.notify_type == NotifyType::QUICK_CRASH_DETECTION;
    notifies.iter().filter(token).map(|notify| notify.data.as_slice())
}

/// What an unprotected message says about an SA.
#[derive(Default)]
pub struct Complaint {
    /// INVALID_IKE_SPI.
    pub lost: bool,
    /// INVALID_SPI: an SPI of ESP that its sender does not know.
    pub spi: Option<u32>,
    /// Tokens.
    pub tokens: Vec<Vec<u8>>,
}

impl Complaint {
    /// Reads it; `None` if the message is protected.
    pub fn read(body: &OuterBody<'_>) -> Option<Self> {
        let OuterBody::Plain { first, payloads } = *body else {
            return None;
        };
        let mut complaint = Self::default();
        for payload in wire::decode_payloads(first, payloads).unwrap_or_default() {
            let Payload::Notify(notify) = payload else { continue };
            match notify.notify_type {
                NotifyType::INVALID_IKE_SPI => complaint.lost = true,
                NotifyType::INVALID_SPI => {
                    let spi = <[u8; 4]>::try_from(notify.data.as_slice()).map(u32::from_be_bytes);
                    complaint.spi = complaint.spi.or(spi.ok());
                }
                NotifyType::QUICK_CRASH_DETECTION => complaint.tokens.push(notify.data),
                _ => {}
            }
        }
        Some(complaint)
    }
}

impl Shared {
    /// Our token for an IKE SA, by §5.1's method: `HASH(QCD_SECRET | SPI-I | SPI-R)`. Which end we are goes in too: so the two
    /// ends have different tokens, also if one secret came to both by a copy of a disk.
    pub fn token(&self, initiator: bool, spi_i: IkeSpi, spi_r: IkeSpi) -> Option<Vec<u8>> {
        let secret = self.token_secret.as_ref().filter(|_| self.detects_crashes())?;
        let end = if initiator { b'i' } else { b'r' };
        let digest = prf::get(PrfAlgorithm::HmacSha256).prf(secret.expose(), &[&[end], &spi_i.0, &spi_r.0]);
        digest.expose().get(..LEN).map(<[u8]>::to_vec)
    }

    /// The same as a payload.
    pub fn token_notify(&self, initiator: bool, spi_i: IkeSpi, spi_r: IkeSpi) -> Option<Notify> {
        self.token(initiator, spi_i, spi_r).map(as_notify)
    }

    /// §8.1: implementations "MUST allow the user to control whether the extension is enabled or disabled".
    pub fn detects_crashes(&self) -> bool {
        self.config.gateway.quick_crash_detection
    }
}

/// §4.1: "Protocol ID (1 octet) MUST be 1, as this message is related to an IKE SA."
pub fn as_notify(token: Vec<u8>) -> Notify {
    Notify {
        protocol: ProtocolId::IKE,
        ..Notify::new(NotifyType::QUICK_CRASH_DETECTION, token)
    }
}

impl IkeSa {
    /// Our token for it, to be sent within it.
    pub fn own_token(&self, shared: &Shared) -> Option<Vec<u8>> {
        shared.token(self.initiator, self.spi_i, self.spi_r)
    }

    /// Somebody shows tokens in the clear. §4.5: "If the QCD_TOKEN verifies OK, the receiver MUST silently discard the IKE SA and
    /// all associated child SAs. If the QCD_TOKEN cannot be validated, a response MUST NOT be sent". Whether it did.
    pub fn hear_tokens(&mut self, shared: &mut Shared, shown: &[Vec<u8>]) -> bool {
        let now = shared.now.instant;
        let is_up = matches!(self.stage, Stage::Established | Stage::Rekeyed | Stage::Closing);
        if shown.is_empty() || !self.peer_tokens.any() || !is_up || !shared.detects_crashes() {
            return false;
        }
        if !self.peer_tokens.verified.spend(now) || !self.peer_tokens.match_any(shown) {
            shared.counters.tokens_refused += 1;
            // §3: "If the verification fails ..., it SHOULD log the event." Not under the connection's name: anybody can do that.
            shared.failed_by_stranger(Failure {
                connection: None,
                path: self.path,
                reason: Reason::AuthenticationFailed,
                verdict: format!(
                    "somebody says with a wrong token that the peer {} has lost IKE SA {}-{}",
                    self.path.remote, self.spi_i, self.spi_r
                ),
                offered: vec![],
                wanted: vec![],
                hint: None,
            });
            return false;
        }
        // One that was on its way out already is no other crash.
        if self.is_established() {
            shared.count(self.name(), |tally| tally.crashed_peers += 1);
        }
        // §3: "A supporting token taker MAY immediately create new SAs using an Initial exchange".
        let lived = |since: Instant| now.saturating_since(since) >= LIVED;
        self.begin_at_once = self.established.is_some_and(lived);
        // It may have lost no more than the IKE SA, in an outage: then a ticket is still good, and else it costs a round trip.
        if self.is_established() {
            self.keep_ticket(shared);
        }
        self.close(shared, "the peer has lost its state (QUICK_CRASH_DETECTION)");
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(n: u8) -> Notify {
        as_notify(vec![n; 16])
    }

    #[test]
    fn the_last_four_tokens_of_a_proper_length_are_known() {
        let mut known = PeerTokens::default();
        for length in [0, 1, 15, 129, 1000] {
            known.learn(&[as_notify(vec![7; length])]);
        }
        assert!(!known.any() && !known.match_any(&[vec![], vec![7; 15]]));
        for n in 0..6 {
            known.learn(&[token(n)]);
        }
        for n in 0..6 {
            assert_eq!(known.match_any(&[vec![n; 16]]), n >= 2, "{n}");
        }
        // Among others, up to four; a part of one is none.
        assert!(known.match_any(&[vec![9; 16], vec![8; 16], vec![9; 128], vec![5; 16]]));
        assert!(!known.match_any(&[vec![5; 15], vec![5; 17]]));
        // One that is told again stays the newest.
        known.learn(&[token(2)]);
        known.learn(&[token(10), token(11), token(12)]);
        assert!(known.match_any(&[vec![2; 16]]) && !known.match_any(&[vec![5; 16]]));
    }

    #[test]
    fn few_a_second_are_verified() {
        let mut known = PeerTokens::default();
        let now = Instant::from_nanos(5_000_000_000);
        let count = (0..100).filter(|_| known.verified.spend(now)).count();
        assert_eq!(count, VERIFIED as usize);
        assert!(known.verified.spend(now + Duration::from_secs(1)));
    }
}
