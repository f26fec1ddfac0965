//! The sender's half (RFC 5348 §4): how fast the path takes what we send.

use super::{FLOOR, equation, stamp};
use crate::esp::aggfrag::{Congestion, DELAY_MOST, Pace};
use crate::time::Instant;
use std::time::Duration;

/// No RTT is longer, whatever the peer's clock says: what passes between TVal and TEcho less Echo Delay.
const LONGEST_RTT: Duration = Duration::from_secs(10);
/// Between two packets while there is no RTT. RFC 9347 §2.4.2: "Prior to establishing an RTT, the information SHOULD be sent
/// constantly from the sender and the receiver so that an RTT estimate can be established." RFC 5348 §4.2 has a packet a second;
/// these are as many in half a second as TCP sends at once (RFC 6928).
const FIRST_INTERVAL: u64 = 50_000_000;
/// RFC 5348 §4.2: "the nofeedback timer is set to expire after two seconds".
const FIRST_NO_FEEDBACK: Duration = Duration::from_secs(2);
/// RFC 5348 §4.3: "t_mbi: the maximum backoff interval of 64 seconds."
const BACKOFF_MOST: Duration = Duration::from_secs(64);

/// Between which rates the control is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Of an outer packet: the segment size s.
    octets: u64,
    /// Nanoseconds between two packets.
    fastest: u64,
    slowest: u64,
}

impl Bounds {
    /// At least and at most so many bits a second of packets of `octets`; at least a packet in 64 seconds in any case.
    #[must_use]
    pub fn new(least: u64, most: u64, octets: usize) -> Self {
        let nanos = |rate| Pace::interval(rate, octets).min(BACKOFF_MOST).as_nanos() as u64;
        let fastest = nanos(most);
        Self {
            octets: octets as u64,
            fastest,
            slowest: nanos(least).max(fastest),
        }
    }

    fn clamp(&self, nanos: u64) -> u64 {
        nanos.clamp(self.fastest, self.slowest)
    }

    /// RFC 5348 §4.2: "initial_rate = W_init/R; W_init = min(4*MSS, max(2*MSS, 4380))."
    fn initial(&self, rtt: Duration) -> u64 {
        let window = (4 * self.octets).min((2 * self.octets).max(4380)).max(1);
        let nanos = rtt.as_nanos() * u128::from(self.octets) / u128::from(window);
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

/// What is known of the way there.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    /// None where the rate is not the path's to decide.
    bounds: Option<Bounds>,
    /// X, as nanoseconds between two packets.
    apart: u64,
    /// R of the path alone, without what the rates make of it.
    path: Option<Duration>,
    /// R.
    rtt: Option<Duration>,
    /// The square roots of RTTs: of the latest sample, and R_sqmean.
    roots: Option<(u64, u64)>,
    /// LossEventRate, as heard last.
    inverse: u32,
    /// TEcho, likewise.
    echoed: u32,
    /// The nofeedback timer runs since then.
    heard: Option<Instant>,
    /// When it was first seen to be over.
    silent: Option<Instant>,
    /// tld, and when the rate was calculated last.
    changed: Instant,
}

impl Default for Sender {
    fn default() -> Self {
        Self {
            bounds: None,
            apart: FIRST_INTERVAL,
            path: None,
            rtt: None,
            roots: None,
            inverse: 0,
            echoed: 0,
            heard: None,
            silent: None,
            changed: Instant::ZERO,
        }
    }
}

impl Sender {
    pub(super) fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = Some(bounds);
        self.apart = bounds.clamp(self.apart);
    }

    fn clamp(&self, nanos: u64) -> u64 {
        self.bounds.map_or(nanos, |bounds| bounds.clamp(nanos))
    }

    pub(super) const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    pub(super) const fn inverse(&self) -> u32 {
        self.inverse
    }

    /// The peer's congestion information came, in a packet that is newer than all others. RFC 5348 §4.3.
    pub(super) fn feedback(&mut self, now: Instant, heard: &Congestion, own_delay: Duration) {
        // What echoes nothing new says that nothing new has arrived: "Not receiving this information over multiple consecutive
        // RTT intervals should be considered a congestion event" (RFC 9347 §2.4.2) is about news. Zero is what we never say.
        if heard.techo == 0 || heard.techo == self.echoed {
            return;
        }
        let passed = Duration::from_micros(stamp(now).wrapping_sub(heard.techo).into());
        // RFC 9347 §3: "The first is the actual delay found by subtracting the TEcho value from its current clock and then
        // subtracting the Echo Delay as well." A delay that did not fit its field says nothing, but that a peer may take so long.
        let delay = match heard.echo_delay {
            DELAY_MOST.. => None,
            micros => Some(Duration::from_micros(micros.into())),
        };
        let sample = passed.saturating_sub(delay.unwrap_or(BACKOFF_MOST));
        if sample > LONGEST_RTT {
            return;
        }
        (self.echoed, self.heard, self.silent) = (heard.techo, Some(now), None);
        let first = self.rtt.is_none();
        // What is reported is about packets that left after the last change; a queue that they fill makes this wait longer.
        let since = now.saturating_since(self.changed);
        let due = self.rtt.is_none_or(|rtt| since >= rtt && since >= passed);
        if delay.is_some() {
            self.sample(sample, due);
        }
        // "The second RTT estimate is found by adding the received Transmit Delay header value to the sender's own transmission
        // delay [...]. The larger of these 2 RTT estimates SHOULD be used as the RTT value."
        let delays = own_delay.saturating_add(Duration::from_micros(heard.transmit_delay.into()));
        let rtt = delays.max(self.path.unwrap_or_default()).clamp(FLOOR, LONGEST_RTT);
        self.rtt = Some(rtt);
        let lost = heard.loss_event_rate;
        // "A feedback packet SHOULD also be sent whenever a new loss event is detected without waiting for the end of an RTT"
        // (RFC 5348 §6): it is then listened to, too.
        let worse = lost != 0 && (self.inverse == 0 || lost < self.inverse);
        self.inverse = lost;
        let Some(bounds) = self.bounds.filter(|_| due || worse) else {
            return;
        };
        let initial = bounds.initial(rtt);
        // recv_limit: RFC 9347 appendix B: "For IP-TFS, one MAY set this value [X_recv] according to the sender's current tunnel send
        // rate (X)", and recv_limit is twice that.
        let twice = self.apart / 2;
        let next = match lost {
            0 if first => initial,
            // "X = max(min(2*X, recv_limit), initial_rate)"
            0 => twice.min(initial),
            // "X = max(min(X_Bps, recv_limit), s/t_mbi)"
            _ => equation::interval(rtt.as_nanos() as u64, lost).max(if first { initial } else { twice }),
        };
        if due {
            (self.apart, self.changed) = (next, now);
        } else {
            self.apart = self.apart.max(next);
        }
        self.apart = bounds.clamp(self.apart);
    }

    /// RFC 5348 §4.3, §4.5: "A value of 0.9 as the default" for both averages, which take one sample an RTT.
    fn sample(&mut self, sample: Duration, due: bool) {
        let root = (sample.max(FLOOR).as_nanos() << 16).isqrt() as u64;
        let (path, mean) = match (self.path, self.roots) {
            (Some(path), Some((_, mean))) if due => ((path * 9 + sample) / 10, (mean * 9 + root) / 10),
            (Some(path), Some((_, mean))) => (path, mean),
            _ => (sample, root),
        };
        (self.path, self.roots) = (Some(path), Some((root, mean)));
    }

    /// RFC 5348 §4.4: "Cut the allowed sending rate in half", and "Restart the nofeedback timer to expire after max(4*R, 2*s/X)
    /// seconds." From there it doubles each RTT as far as the equation allows.
    ///
    /// RFC 9347 §2.4.2: "Not receiving this information" is a congestion event. Who was held up himself, as a process is for a
    /// while, has it in the buffers of his sockets when he looks at the timer: so that is over when it still is after [`FLOOR`],
    /// in which they are read.
    fn no_feedback(&mut self, now: Instant) {
        let wait = match self.rtt {
            Some(rtt) => (rtt * 4).max(Duration::from_nanos(self.apart.saturating_mul(2))),
            None => FIRST_NO_FEEDBACK,
        };
        if now.saturating_since(*self.heard.get_or_insert(now)) <= wait {
            return;
        }
        if now.saturating_since(*self.silent.get_or_insert(now)) >= FLOOR {
            (self.heard, self.silent, self.changed) = (Some(now), None, now);
            self.apart = self.clamp(self.apart.saturating_mul(2));
        }
    }

    /// Between two packets now.
    pub(super) fn interval(&mut self, now: Instant) -> Duration {
        self.no_feedback(now);
        self.apart()
    }

    /// RFC 5348 §4.5: "X_inst = X * R_sqmean / sqrt(R_sample)": slower while queues grow.
    pub(super) fn apart(&self) -> Duration {
        let (root, mean) = self.roots.unwrap_or((1, 1));
        let nanos = u128::from(self.apart) * u128::from(root) / u128::from(mean.max(1));
        Duration::from_nanos(self.clamp(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// Bits a second.
    pub(super) fn rate(&self) -> Option<u64> {
        let bits = u128::from(self.bounds?.octets) * 8_000_000_000;
        u64::try_from(bits / self.apart().as_nanos().max(1)).ok()
    }

    /// Another path: the rate begins as on any, within its bounds.
    pub(super) fn moved(&mut self) {
        let bounds = self.bounds.take();
        *self = Self::default();
        if let Some(bounds) = bounds {
            self.set_bounds(bounds);
        }
    }

    /// Another SA takes over on the same path: the nofeedback timer begins anew, since the peer may change later than we do.
    pub(super) fn inherit(&mut self, old: &Self) {
        *self = Self {
            heard: None,
            silent: None,
            // Its own, or none: it may be sent in another way.
            bounds: self.bounds,
            ..old.clone()
        };
        self.apart = self.clamp(self.apart);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const START: Instant = Instant::from_nanos(5_000_000_000);

    fn sender() -> Sender {
        let mut sender = Sender::default();
        sender.set_bounds(Bounds::new(64_000, 100_000_000, 1500));
        sender
    }

    /// What the peer says at `now`, when it got what we said `ago`.
    fn heard(now: Instant, ago: Duration, loss_event_rate: u32) -> Congestion {
        Congestion {
            loss_event_rate,
            techo: stamp(now - ago),
            ..Congestion::default()
        }
    }

    /// A round trip of 20 ms each time, and what is reported; the intervals in microseconds.
    fn rounds(sender: &mut Sender, from: u32, reports: &[u32]) -> Vec<u128> {
        let rounds = reports.iter().zip(from..).map(|(report, round)| {
            let now = START + MS * 20 * round;
            sender.feedback(now, &heard(now, MS * 20, *report), MS);
            sender.interval(now).as_micros()
        });
        rounds.collect()
    }

    #[test]
    fn it_doubles_each_round_trip_until_something_is_lost() {
        let mut sender = sender();
        assert_eq!(sender.interval(START).as_millis(), 50);
        // W_init is 4380 octets, 2.92 packets, in 20 ms.
        assert_eq!(rounds(&mut sender, 1, &[0, 0, 0, 0]), [6849, 3424, 1712, 856]);
        // X = 1 / (0.02 * (sqrt(2p/3) + ...)) for p = 1/400 is 1198 packets a second; then for p = 1/100 at once, and only twice as fast
        // at a time when it gets better.
        assert_eq!(
            rounds(&mut sender, 5, &[400, 100, 100_000, 100_000]),
            [834, 1780, 890, 445]
        );
    }

    #[test]
    fn what_comes_within_a_round_trip_only_slows() {
        let mut sender = sender();
        rounds(&mut sender, 1, &[0, 0, 0, 0, 400]);
        let between = |sender: &mut Sender, after: u32, report| {
            let now = START + MS * 100 + MS * after;
            sender.feedback(now, &heard(now, MS * 20, report), MS);
            sender.interval(now).as_micros()
        };
        assert_eq!(between(&mut sender, 1, 500), 834);
        assert_eq!(between(&mut sender, 2, 100), 1780);
        assert_eq!(between(&mut sender, 3, 100), 1780);
        assert_eq!(between(&mut sender, 4, 0), 1780);
    }

    #[test]
    fn another_path_is_another_rate() {
        let mut sender = sender();
        rounds(&mut sender, 1, &[0, 0, 0, 0]);
        assert_eq!(sender.interval(START + MS * 80).as_micros(), 856);
        sender.moved();
        assert_eq!(sender.interval(START + MS * 81).as_millis(), 50);
        assert_eq!((sender.rtt(), sender.rate()), (None, Some(240_000)));
    }

    #[test]
    fn an_heir_keeps_what_the_path_is_like_and_its_own_bounds() {
        let mut old = sender();
        rounds(&mut old, 1, &[0, 0, 0]);
        let mut alike = Sender::default();
        alike.set_bounds(Bounds::new(64_000, 2_000_000, 1500));
        alike.inherit(&old);
        assert_eq!((alike.rtt(), alike.apart().as_millis()), (old.rtt(), 6), "2 Mbit/s");
        let mut other = Sender::default();
        other.inherit(&old);
        assert_eq!((other.rtt(), other.rate()), (old.rtt(), None));
    }

    /// RFC 9347 §2.4.2: "it is equal to 4 RTT intervals. When a "no feedback timeout" has occurred, the sending rate is halved".
    #[test]
    fn silence_halves_the_rate() {
        let mut sender = sender();
        let before = *rounds(&mut sender, 1, &[0, 0, 0, 400]).last().unwrap();
        let at = |ms: u32| START + MS * 80 + MS * ms;
        assert_eq!(sender.interval(at(80)).as_micros(), before);
        // The same again is no news.
        for ms in 1..90 {
            sender.feedback(at(ms), &heard(START + MS * 80, MS * 20, 400), MS);
        }
        // 4 RTTs, and what there may be in the buffers.
        for (ms, times) in [(81, 1), (90, 1), (91, 2), (171, 2), (172, 2), (181, 2), (182, 4)] {
            assert_eq!(sender.interval(at(ms)).as_micros(), before * times, "{ms}");
        }
        for second in 1..400 {
            sender.interval(at(second * 1000));
        }
        assert_eq!(
            sender.interval(at(400_000)),
            Pace::interval(64_000, 1500),
            "not below the least rate"
        );
        // Before there is any answer: after two seconds.
        let mut sender = self::sender();
        sender.interval(START);
        assert_eq!(sender.interval(START + MS * 2000).as_millis(), 50);
        assert_eq!(sender.interval(START + MS * 2001).as_millis(), 50);
        assert_eq!(sender.interval(START + MS * 2011).as_millis(), 100);
    }

    /// A worker that was held up looks at the timer before it reads what has come meanwhile.
    #[test]
    fn our_own_lateness_is_no_silence() {
        let mut sender = sender();
        let before = *rounds(&mut sender, 1, &[0, 0, 0, 0, 400]).last().unwrap();
        let at = |ms: u32| START + MS * 100 + MS * ms;
        for round in 1..10 {
            let late = at(round * 1000);
            assert_eq!(sender.interval(late).as_micros(), before);
            sender.feedback(late, &heard(late, MS * 20, 400), MS);
            assert_eq!(sender.interval(late + MS * 50).as_micros(), before);
        }
    }

    /// What the peer keeps the echo for is not the path's: RFC 9347 §3.
    #[test]
    fn a_late_echo_is_an_echo() {
        for (echo_delay, passed, rtt) in [
            (2_000_000, 11_000, Some(MS * 9000)),
            (2_000_000, 12_001, None),
            (0, 10_001, None),
            // It did not fit; the peer may send once in 64 seconds.
            (DELAY_MOST, 60_000, Some(MS * 64)),
            (DELAY_MOST, 75_000, None),
        ] {
            let mut sender = sender();
            let now = START + MS * 200_000;
            let late = Congestion {
                echo_delay,
                transmit_delay: if rtt == Some(MS * 64) { 63_000 } else { 0 },
                ..heard(now, MS * passed, 500)
            };
            sender.feedback(now, &late, MS);
            assert_eq!(
                (sender.rtt(), sender.inverse()),
                (rtt, rtt.map_or(0, |_| 500)),
                "{passed}"
            );
        }
    }

    #[test]
    fn a_path_of_microseconds_counts_as_ten_milliseconds() {
        let mut sender = sender();
        for round in 1..1000 {
            let now = START + Duration::from_micros(100) * round;
            sender.feedback(now, &heard(now, Duration::from_micros(100), 0), Duration::ZERO);
        }
        assert_eq!(sender.rtt(), Some(FLOOR));
        // 2.92 packets in 10 ms, and that doubled nine times.
        assert_eq!(
            sender.interval(START + MS * 100).as_micros(),
            120,
            "the fastest there may be"
        );
        let now = START + MS * 200;
        sender.feedback(now, &heard(now, Duration::from_micros(50), 185), Duration::ZERO);
        assert_eq!(
            sender.interval(now).as_nanos(),
            equation::interval(10_000_000, 185).into()
        );
    }

    #[test]
    fn growing_queues_slow_it() {
        let mut sender = sender();
        rounds(&mut sender, 1, &[0, 0, 0, 0, 400, 400, 400]);
        let before = sender.interval(START + MS * 140).as_nanos() as f64;
        let now = START + MS * 145;
        sender.feedback(now, &heard(now, MS * 40, 400), MS);
        let after = sender.interval(now).as_nanos() as f64;
        // By the square root of two.
        assert!((after / before - 1.414).abs() < 0.01, "{}", after / before);
    }

    #[test]
    fn slow_tunnels_count_their_own_delays() {
        let mut sender = sender();
        let now = START + MS * 500;
        let slow = Congestion {
            transmit_delay: 80_000,
            ..heard(now, MS * 20, 0)
        };
        sender.feedback(now, &slow, MS * 100);
        assert_eq!(sender.rtt(), Some(MS * 180));
    }

    #[test]
    fn what_can_be_no_answer_is_none() {
        let mut sender = sender();
        // From the future, from minutes ago, none.
        for techo in [stamp(START) + 5, stamp(START).wrapping_sub(60_000_000), 0] {
            let strange = Congestion {
                techo,
                ..heard(START, MS, 1)
            };
            sender.feedback(START, &strange, MS);
            assert_eq!((sender.rtt(), sender.apart), (None, FIRST_INTERVAL));
        }
        // An Echo Delay longer than all that has passed; one that did not fit.
        for (echo_delay, rtt) in [(900_000, FLOOR), (DELAY_MOST, MS * 33)] {
            let mut sender = self::sender();
            let strange = Congestion {
                echo_delay,
                transmit_delay: if echo_delay == DELAY_MOST { 32_000 } else { 0 },
                ..heard(START, MS * 20, 0)
            };
            sender.feedback(START, &strange, MS);
            assert_eq!(sender.rtt(), Some(rtt));
        }
    }
}
