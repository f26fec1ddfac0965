//! Whether there is room for who wants to begin: limits, cookies (RFC 7296 §2.6), and puzzles (RFC 8019) when half-open SAs go on
//! growing in spite of cookies.
//!
//! RFC 8019 §6: "As soon as any kind of attack is detected, ... it is best to begin by requiring stateless cookies from all
//! Initiators", and "When cookies are activated for all requests and the attacker is still managing to consume too many resources,
//! the Responder MAY start to use puzzles for these requests".

use super::*;
use crate::ike::cookie::{Asker, Returned, Solved};
use crate::ike::puzzle::Puzzle;
use crate::wire::message::ResumeReply;
use crate::wire::{Nonce, PrfId, PuzzleNotify, SecurityAssociation};
use rand_core::Rng;
use std::net::Ipv6Addr;

/// One more in so many half-open SAs is kept for peers with a ticket.
const RESERVE: usize = 4;

/// Zero bits of the easiest puzzle, unless not even that many are allowed: some hundredths of a second.
const EASIEST: u8 = 15;

/// What is certain, in the numbers in which chances are told.
const CERTAIN: usize = 1000;

/// What a first message shows.
pub(super) struct Shown<'a> {
    pub nonce: &'a Nonce,
    pub cookie: Option<&'a [u8]>,
    pub solution: Option<&'a [u8]>,
}

/// For whom room is looked for.
#[derive(Clone, Copy)]
pub(super) enum Room<'a> {
    /// Whom one of these connections may be with, and what it offers.
    ForAll(&'a [Arc<Connection>], &'a SecurityAssociation),
    /// A peer with a ticket of ours (RFC 5723). RFC 8019 §4.5 demands a cookie of it and no puzzle; there is no PRF for one
    /// either, as IKE_SESSION_RESUME has no SA payload.
    ForTickets,
}

/// There is room.
#[must_use]
#[derive(Default)]
pub(super) struct Admission {
    /// Because this puzzle was solved.
    solved: Option<Solved>,
}

/// What is demanded before anything is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Demand {
    Nothing,
    Cookie,
    Puzzle(Pressure),
}

/// How near to a limit it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Pressure {
    /// Zero bits that are asked for.
    difficulty: u8,
    /// Of [`CERTAIN`]: the chance of a request with a right cookie and no solution.
    chance: usize,
}

impl Pressure {
    /// With so many half-open SAs, between a threshold and a limit. The difficulty grows step by step (§7.1.1.1: "the level SHOULD
    /// be determined by analyzing the volume of the attack"), the chance falls to nothing at half of the way: the other half is
    /// for who solves.
    fn of(load: usize, threshold: usize, limit: usize, hardest: u8) -> Option<Self> {
        let above = load.checked_sub(threshold)?;
        let room = limit.saturating_sub(threshold).max(1);
        let easiest = EASIEST.min(hardest);
        let steps = usize::from(hardest - easiest) + 1;
        let harder = u8::try_from(above.saturating_mul(steps) / room).unwrap_or(u8::MAX);
        let half = room.div_ceil(2);
        Some(Self {
            difficulty: easiest.saturating_add(harder).min(hardest),
            chance: half.saturating_sub(above).saturating_mul(CERTAIN) / half,
        })
    }

    /// Of two limits.
    fn and(self, other: Self) -> Self {
        Self {
            difficulty: self.difficulty.max(other.difficulty),
            chance: self.chance * other.chance / CERTAIN,
        }
    }
}

impl Endpoint {
    /// Limits, and under load cookies and puzzles. Nothing is kept of who is not admitted.
    pub(super) fn admit(
        &mut self,
        path: Path,
        header: &Header,
        shown: &Shown<'_>,
        room: Room<'_>,
    ) -> Option<Admission> {
        let gateway = &self.shared.config.gateway;
        let limit = gateway.half_open_limit;
        let most = match room {
            Room::ForAll(..) => limit,
            Room::ForTickets => limit.saturating_add(limit / RESERVE),
        };
        let total: usize = self.half_open.values().sum();
        let from_there = self
            .half_open
            .get(&neighbourhood(path.remote.ip()))
            .copied()
            .unwrap_or(0);
        if total >= most || from_there >= gateway.half_open_limit_per_address {
            self.shared.counters.over_limit += 1;
            return None;
        }
        let pressure = match (demand(gateway, total, from_there), room) {
            (Demand::Nothing, _) => return Some(Admission::default()),
            (Demand::Puzzle(pressure), Room::ForAll(..)) => Some(pressure),
            // RFC 9329 §6.3: "The exchange Responder SHOULD NOT send an IKEv2 Cookie request without an accompanied Puzzle": the
            // address is verified.
            _ if path.is_tcp() => return Some(Admission::default()),
            _ => None,
        };
        let mut from = path.remote;
        if path.is_tcp() {
            // RFC 9329 §6.3: "the Responder MUST NOT include the Initiator's TCP port into the Cookie calculation".
            from.set_port(0);
        }
        let asker = Asker {
            from,
            spi_i: header.spi_i,
            nonce: &shown.nonce.0,
        };
        let now = self.shared.now.instant;
        let returned = shown
            .cookie
            .and_then(|cookie| Some((cookie, self.cookies.check(now, asker, cookie)?)));
        let Some(pressure) = pressure else {
            if returned.is_none() {
                // §2.6: a wrong cookie is treated as none: a new one is sent, and no state is kept.
                self.ask(path, header, asker, None);
            }
            return returned.map(|_| Admission::default());
        };
        let puzzle = |(cookie, returned): (&[u8], Returned)| {
            let PuzzleNotify { prf, difficulty } = returned.puzzle?;
            let prf = PrfAlgorithm::from_id(prf)?;
            let string = cookie.to_vec();
            let puzzle = Puzzle {
                prf,
                difficulty,
                string,
            };
            Some((puzzle, returned.solved()))
        };
        let given = returned.and_then(puzzle);
        // RFC 8019 §7.1.4: where no puzzle was given, "this payload MUST be ignored if the message contains a PS payload for any
        // reason".
        if let (Some((puzzle, solved)), Some(solution)) = (&given, shown.solution) {
            if puzzle.verify(solution).is_ok() {
                self.shared.counters.puzzles_solved += 1;
                // §7.1.5: "The Responder SHOULD accept an incoming request if its priority is high".
                return Some(Admission { solved: Some(*solved) });
            }
            self.shared.counters.puzzles_wrong += 1;
        }
        // §7.1: "The requests that don't contain the COOKIE notification MUST NOT participate in this lottery."
        if returned.is_some() && self.draw(pressure.chance) {
            return Some(Admission::default());
        }
        if given.is_some() {
            // It has been asked, and does not: what it repeats draws again. By TCP nothing is repeated, so it is asked again.
            self.shared.counters.puzzles_unsolved += 1;
            if !path.is_tcp() {
                return None;
            }
        }
        let Room::ForAll(candidates, offer) = room else {
            return None;
        };
        let ours = candidates.iter().flat_map(|candidate| &candidate.ike_proposals);
        match IkeProposal::common_prf(ours, offer).and_then(PrfAlgorithm::id) {
            Some(prf) => self.ask(path, header, asker, Some((prf, pressure.difficulty))),
            // §7.1.1.2: "If there are no mutually supported PRFs, then IKE SA negotiation will fail anyway and there is no reason to
            // return a puzzle. In this case, the Responder returns a NO_PROPOSAL_CHOSEN notification."
            None => self.refuse_init(path, header, Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new())),
        }
        None
    }

    /// What was admitted is kept: what it has paid with is spent.
    pub(super) fn use_up(&mut self, admission: Admission) {
        if let Some(solved) = admission.solved {
            self.cookies.use_up(self.shared.now.instant, solved);
        }
    }

    /// Sends a cookie, and perhaps a puzzle. §7.1.1: "the PUZZLE notification MUST always be accompanied with the COOKIE
    /// notification".
    fn ask(&mut self, path: Path, header: &Header, asker: Asker<'_>, puzzle: Option<(PrfId, u8)>) {
        let puzzle = puzzle.map(|(prf, difficulty)| PuzzleNotify { prf, difficulty });
        let Shared { now, rng, counters, .. } = &mut self.shared;
        counters.cookies_sent += 1;
        counters.puzzles_sent += u64::from(puzzle.is_some());
        let cookie = self.cookies.make(now.instant, asker, puzzle, rng);
        let reply = match header.exchange {
            ExchangeType::IKE_SESSION_RESUME => Response::IkeSessionResume(ResumeReply::Cookie(cookie)),
            _ => Response::IkeSaInit(IkeSaInitReply::Cookie { cookie, puzzle }),
        };
        self.reply_init(path, header, &reply);
    }

    /// §7.1: "The decision whether to process any particular request must be probabilistic, with the probability depending on the
    /// Responder's load".
    fn draw(&mut self, chance: usize) -> bool {
        let number = usize::try_from(self.shared.rng.next_u32()).unwrap_or(usize::MAX);
        number % CERTAIN < chance
    }
}

/// What counts as one address. RFC 8019 §4.2: "For IPv6, ISPs assign between a /48 and a /64, so it does not make sense for rate
/// limiting to work on single IPv6 IPs. Instead, rate limits should be done based on either the /48 or /64".
pub(super) fn neighbourhood(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// What is demanded of everybody, and of who comes from an address that many come from. §4.4: "The Responder is not too loaded, but
/// the rate-limiting method described in Section 4.2 prevents half-open SAs from being created with this particular peer address or
/// prefix without first solving a puzzle."
fn demand(gateway: &Gateway, total: usize, from_there: usize) -> Demand {
    if total < gateway.cookie_threshold {
        return Demand::Nothing;
    }
    let hardest = gateway.puzzle_difficulty;
    if hardest == 0 {
        return Demand::Cookie;
    }
    let threshold = gateway.puzzle_threshold.max(gateway.cookie_threshold);
    let in_all = Pressure::of(total, threshold, gateway.half_open_limit, hardest);
    let limit = gateway.half_open_limit_per_address;
    let there = Pressure::of(from_there, limit.div_ceil(2), limit, hardest);
    match (in_all, there) {
        (Some(in_all), Some(there)) => Demand::Puzzle(in_all.and(there)),
        (Some(pressure), None) | (None, Some(pressure)) => Demand::Puzzle(pressure),
        (None, None) => Demand::Cookie,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_stages() {
        let gateway = Gateway::default();
        let of = |total, there| demand(&gateway, total, there);
        let puzzle = |difficulty, chance| Demand::Puzzle(Pressure { difficulty, chance });
        assert_eq!(of(31, 31), Demand::Nothing, "no puzzles before cookies");
        assert_eq!(of(32, 0), Demand::Cookie);
        assert_eq!(of(255, 31), Demand::Cookie);
        // All together: harder in four steps, and less and less without.
        assert_eq!(of(256, 0), puzzle(15, 1000));
        assert_eq!(of(448, 0), puzzle(16, 500));
        assert_eq!(of(640, 0), puzzle(17, 0));
        assert_eq!(of(1023, 0), puzzle(18, 0));
        // From one address.
        assert_eq!(of(32, 32), puzzle(15, 1000));
        assert_eq!(of(40, 40), puzzle(16, 500));
        assert_eq!(of(63, 63), puzzle(18, 0));
        assert_eq!(of(448, 40), puzzle(16, 250));
    }

    #[test]
    fn as_configured() {
        let of = |change: fn(&mut Gateway), total| {
            let mut gateway = Gateway::default();
            change(&mut gateway);
            demand(&gateway, total, 63)
        };
        assert_eq!(of(|g| g.puzzle_difficulty = 0, 1000), Demand::Cookie);
        assert_eq!(of(|g| g.cookie_threshold = 2000, 1000), Demand::Nothing);
        let difficulty = |demand| match demand {
            Demand::Puzzle(pressure) => pressure.difficulty,
            other => panic!("{other:?}"),
        };
        assert_eq!(difficulty(of(|g| g.puzzle_difficulty = 10, 300)), 10);
        assert_eq!(difficulty(of(|g| g.puzzle_difficulty = 24, 1023)), 24);
        let late: fn(&mut Gateway) = |g| (g.cookie_threshold, g.half_open_limit_per_address) = (900, 1000);
        assert_eq!(difficulty(of(late, 901)), 15, "above the later of the two thresholds");
        // A limit that leaves no room between.
        let narrow: fn(&mut Gateway) = |g| (g.half_open_limit, g.puzzle_threshold) = (300, 300);
        assert_eq!(difficulty(of(narrow, 299)), 18, "by the address");
    }
}
