//! Stateless cookies (RFC 7296 §2.6), and what a puzzle has to be remembered by (RFC 8019 §7.1.1.3):
//! `Cookie = version | PRF | difficulty | time | HMAC-SHA-256(secret, Ni | IPi | port | SPIi | PRF | difficulty | time)`;
//! the secret is rotated and the previous one still taken for a while. Without a puzzle PRF, difficulty and time are zero, so
//! that the same request gets the same cookie.

use crate::crypto::{PrfAlgorithm, prf};
use crate::time::Instant;
use crate::wire::{IkeSpi, PrfId, PuzzleNotify};
use rand_core::CryptoRng;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use subtle::ConstantTimeEq;

/// How long a secret is the current one.
const ROTATION: Duration = Duration::from_secs(120);

/// A puzzle has to be solved within so many seconds.
pub const TIME_TO_SOLVE: u32 = 60;

/// Octets that say what was asked for.
const TERMS: usize = 7;

/// Octets of the HMAC.
const MAC: usize = 32;

/// What a cookie is bound to.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// Where it is.
    pub from: SocketAddr,
    /// Its SPI.
    pub spi_i: IkeSpi,
    /// Its nonce.
    pub nonce: &'a [u8],
}

/// The responder's cookie secrets, and the cookies whose puzzle was solved.
#[derive(Clone)]
pub struct CookieJar {
    current: ([u8; 32], u8),
    previous: Option<([u8; 32], u8)>,
    rotated: Instant,
    /// With the time in which each was made. One is put in for each half-open SA that a solution has bought, and taken out after
    /// [`TIME_TO_SOLVE`]: the limits on those bound it.
    used: BTreeSet<Solved>,
}

/// A cookie whose puzzle is solved: good for one IKE SA.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Solved {
    made: u32,
    mac: [u8; MAC],
}

/// A cookie of ours that came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Returned {
    /// The puzzle that it was given with.
    pub puzzle: Option<PuzzleNotify>,
    solved: Solved,
}

impl Returned {
    /// What [`CookieJar::use_up`] takes when the puzzle was solved.
    #[must_use]
    pub const fn solved(self) -> Solved {
        self.solved
    }
}

impl CookieJar {
    /// With a first secret.
    #[must_use]
    pub fn new(now: Instant, rng: &mut dyn CryptoRng) -> Self {
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        Self {
            current: (secret, 0),
            previous: None,
            rotated: now,
            used: BTreeSet::new(),
        }
    }

    /// The cookie for an IKE_SA_INIT request, and for the puzzle if it comes with one; rotates the secret when it is due.
    pub fn make(
        &mut self,
        now: Instant,
        asker: Asker<'_>,
        puzzle: Option<PuzzleNotify>,
        rng: &mut dyn CryptoRng,
    ) -> Vec<u8> {
        if now.saturating_since(self.rotated) >= ROTATION {
            let mut secret = [0; 32];
            rng.fill_bytes(&mut secret);
            // After a long quiet the old secret is no longer that of a moment ago.
            self.previous = (now.saturating_since(self.rotated) < ROTATION * 2).then_some(self.current);
            self.current = (secret, self.current.1.wrapping_add(1));
            self.rotated = now;
        }
        let terms = terms(puzzle, now);
        let mac = compute(&self.current, asker, terms);
        [&[self.current.1], terms.as_slice(), &mac].concat()
    }

    /// Whether `cookie` is one we made for the same request, by the current or the previous secret, and not long ago; and what it
    /// was given with. One whose puzzle bought an IKE SA is none any more. RFC 8019 §7.1.1.3: "implementations MUST ensure that an
    /// attacker gains no or insignificant benefit from reusing puzzle solutions in several requests."
    #[must_use]
    pub fn check(&self, now: Instant, asker: Asker<'_>, cookie: &[u8]) -> Option<Returned> {
        let (_, rest) = cookie.split_first()?;
        let (terms, mac) = rest.split_first_chunk::<TERMS>()?;
        let mac = <[u8; MAC]>::try_from(mac).ok()?;
        let age = now.saturating_since(self.rotated);
        let current = Some(&self.current).filter(|_| age < ROTATION * 2);
        let previous = self.previous.as_ref().filter(|_| age < ROTATION);
        let mut secrets = current.into_iter().chain(previous);
        // The version is not looked at: which secret it was is seen by the MAC.
        secrets.find(|secret| compute(secret, asker, *terms).ct_eq(&mac).into())?;
        let [high, low, difficulty, made @ ..] = *terms;
        let made = u32::from_be_bytes(made);
        let prf = PrfId(u16::from_be_bytes([high, low]));
        let puzzle = (prf.0 != 0).then_some(PuzzleNotify { prf, difficulty });
        let solved = Solved { made, mac };
        let late = puzzle.is_some() && seconds(now).saturating_sub(made) > TIME_TO_SOLVE;
        (!late && !self.used.contains(&solved)).then_some(Returned { puzzle, solved })
    }

    /// The solution of this one's puzzle has bought an IKE SA: it buys no other.
    pub fn use_up(&mut self, now: Instant, solved: Solved) {
        let first = Solved {
            made: seconds(now).saturating_sub(TIME_TO_SOLVE),
            mac: [0; MAC],
        };
        self.used = self.used.split_off(&first);
        self.used.insert(solved);
    }

    /// How many solutions are remembered.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.len()
    }
}

fn seconds(now: Instant) -> u32 {
    u32::try_from(now.saturating_since(Instant::ZERO).as_secs()).unwrap_or(u32::MAX)
}

fn terms(puzzle: Option<PuzzleNotify>, now: Instant) -> [u8; TERMS] {
    let Some(PuzzleNotify { prf, difficulty }) = puzzle else {
        return [0; TERMS];
    };
    let ([high, low], [a, b, c, d]) = (prf.0.to_be_bytes(), seconds(now).to_be_bytes());
    [high, low, difficulty, a, b, c, d]
}

fn compute((secret, _): &([u8; 32], u8), asker: Asker<'_>, terms: [u8; TERMS]) -> [u8; MAC] {
    let Asker { from, spi_i, nonce } = asker;
    let mut data = nonce.to_vec();
    match from.ip() {
        IpAddr::V4(v4) => data.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => data.extend_from_slice(&v6.octets()),
    }
    data.extend_from_slice(&from.port().to_be_bytes());
    data.extend_from_slice(&spi_i.0);
    data.extend_from_slice(&terms);
    let digest = prf::get(PrfAlgorithm::HmacSha256).prf(secret, &[&data]);
    digest.expose().try_into().unwrap_or([0; MAC])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    const NONCE: [u8; 32] = [7; 32];

    fn asker(from: &str) -> Asker<'static> {
        Asker {
            from: from.parse().unwrap(),
            spi_i: IkeSpi([1; 8]),
            nonce: &NONCE,
        }
    }

    #[test]
    fn a_cookie_is_bound_to_its_request_and_ages() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut jar = CookieJar::new(Instant::ZERO, &mut rng);
        let (asks, other) = (asker("192.0.2.1:500"), asker("192.0.2.2:500"));
        for puzzle in [None, Some(EIGHTEEN)] {
            let cookie = jar.make(Instant::ZERO, asks, puzzle, &mut rng);
            assert!(
                (1..=64).contains(&cookie.len()),
                "RFC 7296 §2.6: between 1 and 64 octets"
            );
            let returned = jar.check(Instant::ZERO, asks, &cookie).unwrap();
            assert_eq!(returned.puzzle, puzzle);
            let no_other = |asker| assert_eq!(jar.check(Instant::ZERO, asker, &cookie), None);
            no_other(other);
            no_other(asker("192.0.2.1:501"));
            let spi_i = IkeSpi([2; 8]);
            no_other(Asker { spi_i, ..asks });
            let nonce = &[8; 32];
            no_other(Asker { nonce, ..asks });
            assert_eq!(jar.check(Instant::ZERO, asks, &cookie[1..]), None);
            // RFC 8019 §7.1.1.3: "the Responder MUST make it integrity protected".
            for at in 1..cookie.len() {
                let mut forged = cookie.clone();
                forged[at] ^= 1;
                assert_eq!(jar.check(Instant::ZERO, asks, &forged), None, "{at}");
            }
        }
        let cookie = jar.make(Instant::ZERO, asks, None, &mut rng);
        jar.make(Instant::ZERO + ROTATION, other, None, &mut rng);
        assert!(
            jar.check(Instant::ZERO + ROTATION, asks, &cookie).is_some(),
            "the previous secret is still taken"
        );
        assert!(
            jar.check(Instant::ZERO + ROTATION * 2, asks, &cookie).is_none(),
            "not if nobody asked for a cookie meanwhile either"
        );
        jar.make(Instant::ZERO + ROTATION * 2, other, None, &mut rng);
        assert!(jar.check(Instant::ZERO + ROTATION * 2, asks, &cookie).is_none());
    }

    const EIGHTEEN: PuzzleNotify = PuzzleNotify {
        prf: PrfId::HMAC_SHA2_256,
        difficulty: 18,
    };

    #[test]
    fn a_solution_buys_once_and_not_late() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let begin = Instant::ZERO + Duration::from_secs(1000);
        let after = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut jar = CookieJar::new(begin, &mut rng);
        let asks = asker("192.0.2.1:500");
        let cookie = jar.make(begin, asks, Some(EIGHTEEN), &mut rng);
        let returned = jar.check(after(60), asks, &cookie).unwrap();
        assert_eq!(jar.check(after(61), asks, &cookie), None, "too late");
        jar.use_up(after(60), returned.solved());
        assert_eq!(jar.check(after(60), asks, &cookie), None, "used");
        // A second later it is another cookie.
        let next = jar.make(after(61), asks, Some(EIGHTEEN), &mut rng);
        assert_ne!(next, cookie);
        assert!(jar.check(after(61), asks, &next).is_some());
        // What can't be used any more is not remembered.
        jar.use_up(after(61), jar.check(after(61), asks, &next).unwrap().solved());
        assert_eq!(jar.used(), 1);
        // Without a puzzle it may come again.
        let plain = jar.make(after(61), asks, None, &mut rng);
        assert_eq!(jar.make(after(62), asks, None, &mut rng), plain);
    }
}
