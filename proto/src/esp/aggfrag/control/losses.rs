//! The receiver's half (RFC 5348 §5, §6.3.1): loss events among the packets of the peer, and their rate.

use super::{FLOOR, equation};
use crate::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// RFC 5348 §5.1: "The loss of a packet is detected by the arrival of at least NDUPACK packets with a higher sequence number than
/// the lost packet, for NDUPACK set to 3."
const NDUPACK: u64 = 3;
/// Gaps that may wait for what is in them. One that is lost for certain leaves after NDUPACK arrivals; more come only with a
/// window for reordering that is larger.
const GAPS: usize = 64;
/// Loss intervals that count, and what they count (RFC 5348 §5.4: "1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2"), in fifths.
const WEIGHTS: [u64; 8] = [5, 5, 5, 5, 4, 3, 2, 1];
/// RTT to go by before the sender has one.
const USUAL_RTT: Duration = Duration::from_millis(100);

/// What has come of one SA, and the history of losses, which outlives it.
#[derive(Clone, Debug)]
pub(super) struct Losses {
    /// The sender's, not below [`FLOOR`].
    rtt: Duration,
    /// How many later packets make an absent one a lost one.
    tolerance: u64,
    /// The highest sequence number that has come, and when.
    highest: u64,
    came: Instant,
    /// What is absent, in order.
    gaps: VecDeque<Gap>,
    /// I_0: packets since the latest loss event began, that included; before the first event, all.
    current: u64,
    /// When that event began.
    event: Option<Instant>,
    /// I_1 and so on: between loss events, the latest first.
    intervals: VecDeque<u64>,
    arrivals: Arrivals,
}

/// Absent sequence numbers.
#[derive(Clone, Copy, Debug)]
struct Gap {
    first: u64,
    last: u64,
    /// S_before and T_before, S_after and T_after.
    before: (u64, Instant),
    after: (u64, Instant),
    /// Later packets that have come.
    above: u64,
}

/// X_recv: packets that came in this RTT and in the one before. Over both, since what a busy receiver finds in its buffer at
/// once did not come at once.
#[derive(Clone, Copy, Debug, Default)]
struct Arrivals {
    since: Option<Instant>,
    packets: u64,
    before: Option<(u64, u64)>,
    /// At the fastest so far: nanoseconds between two.
    fastest: Option<u64>,
}

impl Losses {
    /// Waits for packets that are overtaken by fewer than `reordering` (and not less than NDUPACK) others.
    pub(super) fn new(reordering: u64) -> Self {
        Self {
            rtt: USUAL_RTT,
            tolerance: reordering.max(NDUPACK),
            highest: 0,
            came: Instant::ZERO,
            gaps: VecDeque::new(),
            current: 0,
            event: None,
            intervals: VecDeque::new(),
            arrivals: Arrivals::default(),
        }
    }

    /// The sender says its RTT.
    pub(super) fn set_rtt(&mut self, rtt: Duration) {
        self.rtt = rtt.max(FLOOR);
    }

    pub(super) const fn rtt(&self) -> Duration {
        self.rtt
    }

    /// A packet has come, for the first time. False if a later one came before.
    pub(super) fn arrived(&mut self, now: Instant, sequence: u64) -> bool {
        if self.highest == 0 {
            // RFC 5348 §6.3: "The receiver is initialized by the first data packet that arrives at the receiver." What a peer sent before
            // the SA was there is not lost to congestion.
            (self.highest, self.came) = (sequence.saturating_sub(1), now);
        }
        let newest = sequence > self.highest;
        if newest {
            self.arrivals.add(now, self.rtt);
            if sequence - self.highest > 1 {
                self.gaps.push_back(Gap {
                    first: self.highest + 1,
                    last: sequence - 1,
                    before: (self.highest, self.came),
                    after: (sequence, now),
                    above: 0,
                });
            }
            self.current = self.current.saturating_add(sequence - self.highest);
            (self.highest, self.came) = (sequence, now);
        } else {
            self.fill(sequence);
        }
        for gap in self.gaps.iter_mut().take_while(|gap| gap.last < sequence) {
            gap.above += 1;
        }
        while self.gaps.front().is_some_and(|gap| gap.above >= self.tolerance) || self.gaps.len() > GAPS {
            if let Some(gap) = self.gaps.pop_front() {
                self.lost(&gap);
            }
        }
        newest
    }

    /// What was overtaken has come, and is not lost if that is not yet settled.
    fn fill(&mut self, sequence: u64) {
        let Some(at) = self.gaps.iter().position(|gap| sequence <= gap.last) else {
            return;
        };
        let Some(gap) = self.gaps.get_mut(at).filter(|gap| gap.first <= sequence) else {
            return;
        };
        let above = Gap {
            first: sequence + 1,
            ..*gap
        };
        gap.last = sequence - 1;
        if gap.last < gap.first {
            self.gaps.remove(at);
            if above.first <= above.last {
                self.gaps.insert(at, above);
            }
        } else if above.first <= above.last {
            self.gaps.insert(at + 1, above);
        }
    }

    /// A gap stays. RFC 5348 §5.2: "If T_old + R >= T_new, then S_new is part of the existing loss event. Otherwise, S_new is the
    /// first packet in a new loss event." One that is long in time is several events.
    fn lost(&mut self, gap: &Gap) {
        let mut next = gap.first;
        while let Some(begins) = self.first_beyond(gap, next) {
            self.begin(begins, gap.time(begins));
            // Events that the history is too short for.
            let oldest = gap.time(gap.last) - self.rtt * (WEIGHTS.len() as u32 + 2);
            self.event = self.event.map(|event| event.max(oldest));
            next = begins + 1;
        }
    }

    /// The first number in the gap, from `next` on, that is more than an RTT behind the beginning of the latest event.
    fn first_beyond(&self, gap: &Gap, next: u64) -> Option<u64> {
        let begins = match self.event {
            None => next,
            Some(event) => {
                let end = event + self.rtt;
                if gap.time(next) > end {
                    next
                } else {
                    let (packets, span) = gap.slope();
                    let behind = u128::from(end.saturating_since(gap.before.1).as_nanos() as u64) + 1;
                    let packets = (behind * packets).div_ceil(span.max(1));
                    let packets = u64::try_from(packets).ok()?;
                    gap.before.0.checked_add(packets).filter(|_| span != 0)?
                }
            }
        };
        (begins <= gap.last).then_some(begins)
    }

    /// A loss event begins with this packet.
    fn begin(&mut self, sequence: u64, time: Instant) {
        // RFC 5348 §5.3: "if that loss event started with packet sequence number S_A, and S_C is the highest received sequence number so
        // far, then the size of I_0 is S_C - S_A + 1"; what was before it is I_1.
        let current = self.highest.saturating_sub(sequence).saturating_add(1);
        let closed = self.current.saturating_sub(current);
        let interval = if self.event.is_none() {
            self.first_interval()
        } else {
            closed.max(1)
        };
        self.intervals.push_front(interval);
        self.intervals.truncate(WEIGHTS.len());
        (self.current, self.event) = (current, Some(time));
    }

    /// RFC 5348 §6.3.1: "the TFRC receiver calculates the loss interval that would be required to produce the data rate X_target, and
    /// uses this synthetic loss interval to seed the loss history mechanism." X_target is "the maximum value of X_recv so far", which
    /// is one packet an RTT at least (§6.2).
    fn first_interval(&self) -> u64 {
        let rtt = self.rtt.as_nanos() as u64;
        let apart = self.arrivals.fastest.map_or(rtt, |fastest| fastest.min(rtt));
        equation::inverse(rtt, apart).into()
    }

    /// "the inverse of the current loss event rate"; zero is no loss. RFC 5348 §5.4: "We only include the current loss interval if
    /// it is sufficiently large to increase the average loss interval."
    pub(super) fn inverse(&self) -> u32 {
        if self.intervals.is_empty() {
            return 0;
        }
        let sum = |intervals: &mut dyn Iterator<Item = u64>| -> u128 {
            let weighted = intervals
                .take(self.intervals.len())
                .zip(WEIGHTS)
                .map(|(interval, weight)| u128::from(interval) * u128::from(weight));
            weighted.sum()
        };
        let weights: u64 = WEIGHTS.iter().take(self.intervals.len()).sum();
        let closed = sum(&mut self.intervals.iter().copied());
        let with_current = sum(&mut std::iter::once(self.current).chain(self.intervals.iter().copied()));
        let weights = u128::from(weights.max(1));
        let mean = (closed.max(with_current) + weights / 2) / weights;
        u32::try_from(mean).unwrap_or(u32::MAX).max(1)
    }

    /// Another SA takes over on the same path; its sequence numbers are its own.
    pub(super) fn inherit(&mut self, old: &Self) {
        self.rtt = old.rtt;
        self.current = self.current.saturating_add(old.current);
        (self.event, self.arrivals) = (old.event, old.arrivals);
        self.intervals.clone_from(&old.intervals);
    }
}

impl Gap {
    /// Packets, and nanoseconds, from the one before to the one after.
    fn slope(&self) -> (u128, u128) {
        let packets = self.after.0.saturating_sub(self.before.0).max(1);
        (packets.into(), self.after.1.saturating_since(self.before.1).as_nanos())
    }

    /// RFC 5348 §5.2: "T_loss = T_before + ( (T_after - T_before) * (S_loss - S_before)/(S_after - S_before) )".
    fn time(&self, sequence: u64) -> Instant {
        let (packets, span) = self.slope();
        let behind = span * u128::from(sequence.saturating_sub(self.before.0)) / packets;
        self.before.1 + Duration::from_nanos(u64::try_from(behind).unwrap_or(u64::MAX))
    }
}

impl Arrivals {
    fn add(&mut self, now: Instant, rtt: Duration) {
        let since = *self.since.get_or_insert(now);
        let time = now.saturating_since(since);
        if time >= rtt {
            let this = (self.packets, time.as_nanos() as u64);
            if let Some(before) = self.before {
                let apart = before.1.saturating_add(this.1) / (before.0 + this.0).max(1);
                self.fastest = Some(self.fastest.map_or(apart, |fastest| fastest.min(apart)));
            }
            (self.since, self.packets, self.before) = (Some(now), 0, Some(this));
        }
        self.packets += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn start() -> Instant {
        Instant::from_nanos(77_000_000_000)
    }

    /// Arrivals and the loss event rates that another program found in them: see `tests/data/tfrc`.
    #[test]
    fn known_answers() {
        let rows = include_str!("../../../../tests/data/tfrc/losses.tsv").lines();
        let mut count = 0;
        for row in rows.filter(|row| !row.starts_with('#')) {
            let [rtt, reordering, arrivals, rates] = row.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{row}")
            };
            let mut losses = Losses::new(reordering.parse().unwrap());
            losses.set_rtt(Duration::from_micros(rtt.parse().unwrap()));
            for (arrival, rate) in arrivals.split(' ').zip(rates.split(' ')) {
                let (sequence, at) = arrival.split_once('@').unwrap();
                let at = Instant::from_nanos(at.parse::<u64>().unwrap() * 1000);
                losses.arrived(at, sequence.parse().unwrap());
                assert_eq!(
                    losses.inverse(),
                    rate.parse::<u32>().unwrap(),
                    "after {arrival} of {rtt}"
                );
                count += 1;
            }
        }
        assert!(count > 1000);
    }

    /// Packets 1 ms apart, from a number on; those in `without` don't come.
    fn pass(losses: &mut Losses, numbers: std::ops::Range<u64>, without: &[u64]) {
        for number in numbers.filter(|number| !without.contains(number)) {
            losses.arrived(start() + MS * number as u32, number);
        }
    }

    #[test]
    fn what_is_overtaken_is_not_lost() {
        let mut losses = Losses::new(0);
        for number in [1, 2, 4, 5, 3, 6, 9, 10, 7, 8, 11, 13, 12] {
            assert_eq!(losses.arrived(start(), number), number == losses.highest);
        }
        assert!(losses.gaps.is_empty());
        assert_eq!(losses.inverse(), 0);
        // Three later ones, and it is; four or more when they say so.
        for (reordering, later) in [(0, 3), (3, 3), (5, 5)] {
            let mut losses = Losses::new(reordering);
            losses.arrived(start(), 1);
            for number in 3..3 + later {
                assert_eq!(losses.inverse(), 0, "{reordering}: {number} is too early");
                losses.arrived(start(), number);
            }
            assert_ne!(losses.inverse(), 0, "{reordering}");
            let before = losses.intervals.clone();
            losses.arrived(start(), 2);
            assert_eq!(losses.intervals, before, "that it comes then changes nothing");
        }
    }

    #[test]
    fn losses_within_an_rtt_are_one_event() {
        let mut losses = Losses::new(3);
        losses.set_rtt(MS * 50);
        pass(&mut losses, 1..1000, &[]);
        // 50 ms are not beyond the RTT, 51 are.
        pass(&mut losses, 1000..1200, &[1000, 1003, 1020, 1050]);
        assert_eq!(losses.intervals.len(), 1);
        pass(&mut losses, 1200..1400, &[1300, 1351]);
        assert_eq!(losses.intervals.len(), 3);
        assert_eq!(losses.intervals.iter().take(2).collect::<Vec<_>>(), [&51, &300]);
        assert_eq!(losses.current, 1399 - 1351 + 1);
    }

    /// A thousand packets a second before the first loss, at an RTT of 50 ms: the rate that follows is that.
    #[test]
    fn the_first_interval_is_that_of_the_rate_that_was() {
        let mut losses = Losses::new(3);
        losses.set_rtt(MS * 50);
        pass(&mut losses, 1..2010, &[2005]);
        let apart = equation::interval(50_000_000, losses.inverse());
        assert!((900_000..=1_000_000).contains(&apart), "{apart}");
        // Not the number of packets until then.
        assert_eq!(losses.inverse(), 1685);
        // What did not come before the first that did is no loss; and a packet an RTT is the least.
        let mut losses = Losses::new(3);
        pass(&mut losses, 5..10, &[]);
        assert_eq!(losses.inverse(), 0);
        pass(&mut losses, 10..14, &[10]);
        assert!(equation::interval(100_000_000, losses.inverse()) <= 100_000_000);
        assert!(equation::interval(100_000_000, losses.inverse() - 1) > 100_000_000);
    }

    /// An outage is as many events as it has RTTs, as far as the history reaches, and costs no more than that to count.
    #[test]
    fn long_gaps() {
        let mut losses = Losses::new(3);
        losses.set_rtt(MS * 10);
        pass(&mut losses, 1..100, &[]);
        losses.arrived(start() + MS * 100_000, 100_000);
        for more in 1..3 {
            losses.arrived(start() + MS * 100_000, 100_000 + more);
        }
        assert!(
            losses.intervals.iter().all(|interval| *interval == 11),
            "{:?}",
            losses.intervals
        );
        assert_eq!(losses.inverse(), 11);
        losses.arrived(start() + MS * 100_001, u64::MAX);
        for number in [5, 6, 7, u64::MAX - 1] {
            losses.arrived(start(), number);
        }
        assert!(losses.inverse() >= 1);
    }

    #[test]
    fn what_does_not_end_is_bounded() {
        let mut losses = Losses::new(256);
        for number in 0..10_000 {
            losses.arrived(start() + MS * number as u32, number * 2);
            assert!(losses.gaps.len() <= GAPS);
        }
        // Each number is the only one of its gap that comes.
        let mut losses = Losses::new(256);
        losses.arrived(start(), 1_000_000);
        for number in 0..10_000 {
            losses.arrived(start(), 999_998 - number * 2);
            assert!(losses.gaps.len() <= GAPS);
        }
    }
}
