//! Congestion control (RFC 9347 §2.4.2, §3, appendix B): what both halves of a pair know about the path, the loss event rate
//! of what we receive, and the rate that the path takes of what we send (TFRC, RFC 5348).

use super::Congestion;
use crate::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// A pair's. The inbound half brings what it hears; the outbound half asks what to say, and how fast to send.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// What was heard last from the peer to be echoed, and when first.
    echo: Option<(u32, Instant)>,
    losses: Losses,
    rate: Rate,
    /// Between two packets of ours.
    own_delay: Duration,
}

/// RTT to go by before the peer has one.
const USUAL_RTT: Duration = Duration::from_millis(100);
/// No RTT is believed that is longer.
const LONGEST_RTT: Duration = Duration::from_secs(10);
/// Packets a second before there is an RTT: RFC 9347 §2.4.2: "Prior to establishing an RTT, the information SHOULD be sent
/// constantly".
const FIRST_RATE: f64 = 20.0;
/// TFRC goes down to one packet in 64 seconds. Here the information itself travels in these packets, "at least once per RTT"
/// (RFC 9347 §2.4.2), and what is learnt from so few would never lead up again.
const LEAST_RATE: f64 = 10.0;

impl Control {
    /// The peer's congestion information.
    pub fn hear(&mut self, now: Instant, heard: &Congestion) {
        // RFC 9347 §3: "Subsequent receipt of the same TVal MUST NOT update the recorded time."
        if self.echo.is_none_or(|(tval, _)| tval != heard.tval) {
            self.echo = Some((heard.tval, now));
        }
        if heard.rtt != 0 {
            self.losses.rtt = micros(heard.rtt);
        }
        self.rate.feedback(now, heard, self.own_delay);
    }

    /// Outer packets that arrived in their turn, and such that did not.
    pub fn count(&mut self, now: Instant, arrived: u64, lost: u64) {
        self.losses.count(now, arrived, lost);
    }

    /// What to tell the peer now. `own_delay` is between two packets of ours.
    #[must_use]
    pub fn tell(&mut self, now: Instant, own_delay: Duration) -> Congestion {
        self.own_delay = own_delay;
        let (techo, came) = self.echo.unwrap_or((0, now));
        Congestion {
            probing: false,
            // ECN is not in use here: RFC 9347 §8: "For this reason, ECN use SHOULD NOT be enabled by default."
            experienced: false,
            loss_event_rate: self.losses.inverse(),
            rtt: self.rate.rtt.map_or(0, in_micros),
            echo_delay: in_micros(now.saturating_since(came)),
            transmit_delay: in_micros(own_delay),
            tval: stamp(now),
            techo,
        }
    }

    /// Between two packets at the rate that the path takes now; `least` is as fast as may be.
    pub fn interval(&mut self, now: Instant, least: Duration) -> Duration {
        self.rate.most = 1.0 / least.max(Duration::from_nanos(1)).as_secs_f64();
        self.rate.no_feedback(now);
        self.rate.packets = self.rate.packets.clamp(LEAST_RATE.min(self.rate.most), self.rate.most);
        Duration::from_secs_f64(1.0 / self.rate.packets)
    }

    /// How often the peer has to be told at least: RFC 9347 §2.4.2: "the congestion information MUST be sent, from the
    /// receiver and from the sender, at least once per RTT."
    #[must_use]
    pub fn telling(&self) -> Duration {
        let own = self.rate.rtt.unwrap_or(USUAL_RTT);
        own.min(self.losses.rtt).max(Duration::from_millis(1))
    }

    /// A rekey: the path is the same.
    pub fn inherit(&mut self, old: &Self) {
        *self = old.clone();
    }
}

fn micros(value: u32) -> Duration {
    Duration::from_micros(value.into())
}

fn in_micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// A TVal: microseconds, which come round in 71 minutes. Zero stands for none.
fn stamp(now: Instant) -> u32 {
    ((now.as_nanos() / 1000) as u32).max(1)
}

/// Loss intervals of what we receive: RFC 5348 §5. Packets that are lost within one RTT of the first are one loss event.
#[derive(Clone, Debug)]
struct Losses {
    rtt: Duration,
    /// Packets since the latest loss event began.
    current: u64,
    event: Option<Instant>,
    /// Between loss events, the latest first.
    intervals: VecDeque<u64>,
}

/// Packets of the first loss interval, at least.
const FIRST_INTERVAL: u64 = 16;

/// The weights of the latest eight intervals (RFC 5348 §5.4).
const WEIGHTS: [f64; 8] = [1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2];

impl Default for Losses {
    fn default() -> Self {
        Self {
            rtt: USUAL_RTT,
            current: 0,
            event: None,
            intervals: VecDeque::new(),
        }
    }
}

impl Losses {
    fn count(&mut self, now: Instant, arrived: u64, lost: u64) {
        self.current = self.current.saturating_add(arrived);
        if lost == 0 {
            return;
        }
        if self.event.is_none_or(|event| now.saturating_since(event) > self.rtt) {
            // What was sent before there was an RTT says nothing about the path: the first interval is not that short.
            let least = if self.intervals.is_empty() { FIRST_INTERVAL } else { 1 };
            self.intervals.push_front(self.current.max(least));
            self.intervals.truncate(WEIGHTS.len());
            self.event = Some(now);
            self.current = 0;
        }
        self.current = self.current.saturating_add(lost);
    }

    /// "the inverse of the current loss event rate"; zero is no loss. The interval that has not ended counts only where it
    /// makes the rate smaller (RFC 5348 §5.4).
    fn inverse(&self) -> u32 {
        if self.intervals.is_empty() {
            return 0;
        }
        let mean = |intervals: &mut dyn Iterator<Item = u64>| {
            let (mut sum, mut weights) = (0.0, 0.0);
            for (interval, weight) in intervals.zip(WEIGHTS) {
                sum += interval as f64 * weight;
                weights += weight;
            }
            sum / weights
        };
        let ended = mean(&mut self.intervals.iter().copied());
        let with_current = mean(&mut std::iter::once(self.current).chain(self.intervals.iter().copied()));
        ended.max(with_current).round().clamp(1.0, f64::from(u32::MAX)) as u32
    }
}

/// The sender's half of TFRC: RFC 5348 §4.
#[derive(Clone, Debug)]
struct Rate {
    /// A second.
    packets: f64,
    most: f64,
    rtt: Option<Duration>,
    /// When the peer was heard last, and when the rate was looked at.
    heard: Option<Instant>,
    changed: Instant,
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            packets: FIRST_RATE,
            most: FIRST_RATE,
            rtt: None,
            heard: None,
            changed: Instant::ZERO,
        }
    }
}

impl Rate {
    fn feedback(&mut self, now: Instant, heard: &Congestion, own_delay: Duration) {
        if heard.techo == 0 {
            return;
        }
        // RFC 9347 §3: "it calculates 2 RTT estimates. The first is the actual delay found by subtracting the TEcho value from
        // its current clock and then subtracting the Echo Delay as well. The second RTT estimate is found by adding the
        // received Transmit Delay header value to the sender's own transmission delay".
        let passed = micros(stamp(now).wrapping_sub(heard.techo));
        let echo_delay = micros(heard.echo_delay);
        // Two clocks looked at in turn may differ by a little.
        if echo_delay > passed + Duration::from_millis(1) {
            return;
        }
        let actual = passed.saturating_sub(echo_delay);
        // "The larger of these 2 RTT estimates SHOULD be used as the RTT value."
        let sample = actual.max(micros(heard.transmit_delay) + own_delay);
        if sample > LONGEST_RTT {
            return;
        }
        self.heard = Some(now);
        let sample = sample.max(Duration::from_micros(1));
        // RFC 5348 §4.3: nine tenths of what it was. It follows faster when the rates fall out of it.
        let rtt = match self.rtt {
            Some(rtt) if sample * 2 > rtt => (rtt * 9 + sample) / 10,
            _ => sample,
        };
        self.rtt = Some(rtt);
        // Once an RTT is as often as the peer can know of it.
        if now.saturating_since(self.changed) < rtt {
            return;
        }
        self.changed = now;
        let twice = self.packets * 2.0;
        self.packets = match heard.loss_event_rate {
            // Slow start.
            0 => twice,
            // Not less than half: the second RTT estimate grows when the rate falls, and would pull it down all the way.
            inverse => equation(rtt, 1.0 / f64::from(inverse)).clamp(self.packets / 2.0, twice),
        }
        .clamp(LEAST_RATE.min(self.most), self.most);
    }

    /// RFC 9347 §2.4.2: "it is equal to 4 RTT intervals. When a "no feedback timeout" has occurred, the sending rate is halved".
    fn no_feedback(&mut self, now: Instant) {
        let wait = self.rtt.unwrap_or(USUAL_RTT) * 4;
        // Before two packets have gone there can be no answer.
        let wait = wait.max(Duration::from_secs_f64(2.0 / self.packets));
        if now.saturating_since(*self.heard.get_or_insert(now)) > wait {
            self.heard = Some(now);
            self.packets = (self.packets / 2.0).max(LEAST_RATE.min(self.most));
        }
    }
}

/// RFC 9347 appendix B: X = 1 / (R * (sqrt(2*p/3) + 12*sqrt(3*p/8)*p*(1+32*p^2))), packets a second.
fn equation(rtt: Duration, p: f64) -> f64 {
    let root = (2.0 * p / 3.0).sqrt() + 12.0 * (3.0 * p / 8.0).sqrt() * p * (1.0 + 32.0 * p * p);
    1.0 / (rtt.as_secs_f64() * root)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// RFC 9347 §3: the time a TVal is echoed with is that of its first arrival; the larger estimate is the RTT.
    #[test]
    fn round_trips() {
        let start = Instant::from_nanos(77_000_000_000);
        let (mut a, mut b) = (Control::default(), Control::default());
        let said = a.tell(start, MS);
        assert_eq!((said.rtt, said.techo, said.loss_event_rate), (0, 0, 0));
        b.hear(start + MS * 20, &said);
        b.hear(start + MS * 25, &said);
        let answer = b.tell(start + MS * 30, MS);
        assert_eq!(
            (answer.techo, answer.echo_delay, answer.transmit_delay),
            (said.tval, 10_000, 1000)
        );
        a.hear(start + MS * 50, &answer);
        assert_eq!(a.rate.rtt, Some(MS * 40));
        assert_eq!(a.tell(start + MS * 50, MS).rtt, 40_000);
        // Slow tunnels: the sum of both delays.
        let _ = a.tell(start + MS * 50, MS * 400);
        a.hear(start + MS * 51, &answer);
        assert!(a.rate.rtt.unwrap() > MS * 70);
        // What is echoed from the future, or after minutes, is no sample.
        let before = a.rate.rtt;
        a.hear(start + MS * 5, &answer);
        a.hear(start + MS * 60_000, &answer);
        assert_eq!(a.rate.rtt, before);
    }

    /// RFC 5348 §5: losses within an RTT are one event; the rate is the inverse of the mean interval between events.
    #[test]
    fn loss_events() {
        let start = Instant::from_nanos(1);
        let mut losses = Losses {
            rtt: MS * 50,
            ..Losses::default()
        };
        losses.count(start, 1000, 0);
        assert_eq!(losses.inverse(), 0);
        losses.count(start + MS, 0, 1);
        assert_eq!(losses.inverse(), 1000);
        for at in 2..50 {
            losses.count(start + MS * at, 1, 1);
        }
        assert_eq!(losses.intervals, [1000], "one event");
        // A loss in every hundred packets and each 100 ms.
        for at in 1..=20 {
            losses.count(start + MS * 100 * at, 99, 1);
        }
        assert!((98..=102).contains(&losses.inverse()), "{}", losses.inverse());
        losses.count(start + MS * 5000, 10_000, 0);
        assert!(losses.inverse() > 1000, "it gets better when nothing is lost");
        losses.count(start + MS * 9000, 0, u64::MAX);
        losses.count(start + MS * 9500, u64::MAX, u64::MAX);
        assert!(losses.inverse() > 0);
    }

    /// A sender and a receiver over a path that takes so many packets a second, 20 ms each way, drops what exceeds it, and is
    /// cut at the end.
    #[test]
    fn the_rate_finds_what_the_path_takes() {
        for path in [200.0, 3000.0] {
            let start = Instant::from_nanos(5_000_000_000);
            let (mut a, mut b) = (Control::default(), Control::default());
            let least = Duration::from_micros(10);
            let mut on_the_way: VecDeque<(Instant, Congestion)> = VecDeque::new();
            let mut back: VecDeque<(Instant, Congestion)> = VecDeque::new();
            let (mut next, mut room, mut sent_late, mut most) = (start, 10.0_f64, 0, 0.0_f64);
            let mut lost = 0;
            for tick in 0..60_000_u32 {
                let now = start + MS * tick / 2;
                room = (room + path / 2000.0).min(10.0);
                while next <= now {
                    let interval = a.interval(now, least);
                    next = next + interval;
                    if room >= 1.0 {
                        room -= 1.0;
                        on_the_way.push_back((now + MS * 20, a.tell(now, interval)));
                    } else {
                        lost += 1;
                    }
                    sent_late += u32::from(tick >= 40_000);
                }
                while on_the_way.front().is_some_and(|(at, _)| *at <= now) {
                    let (_, heard) = on_the_way.pop_front().unwrap();
                    b.count(now, 1, std::mem::take(&mut lost));
                    b.hear(now, &heard);
                }
                if tick % 10 == 0 {
                    back.push_back((now + MS * 20, b.tell(now, MS * 5)));
                }
                while back.front().is_some_and(|(at, _)| *at <= now) {
                    let (_, heard) = back.pop_front().unwrap();
                    a.hear(now, &heard);
                }
                most = most.max(a.rate.packets);
            }
            // The last ten seconds.
            let rate = f64::from(sent_late) / 10.0;
            assert!(
                (0.3..1.3).contains(&(rate / path)),
                "{rate} a second on a path of {path}"
            );
            assert!(most > path, "slow start went on to the first loss: {most}");
            // The path is cut.
            let now = start + MS * 30_000;
            for second in 0..30 {
                a.interval(now + MS * 1000 * second, least);
            }
            assert_eq!(a.rate.packets, LEAST_RATE, "halved again and again");
        }
    }

    #[test]
    fn a_limit_is_a_limit_and_a_rekey_goes_on() {
        let start = Instant::from_nanos(1_000_000);
        let (mut a, mut b) = (Control::default(), Control::default());
        for tick in 0..1000 {
            let now = start + MS * 10 * tick;
            a.interval(now, MS * 10);
            b.hear(now, &a.tell(now, MS));
            a.hear(now, &b.tell(now, MS));
        }
        let now = start + MS * 10_000;
        assert_eq!(a.interval(now, MS * 10), MS * 10);
        let mut new = Control::default();
        new.inherit(&a);
        assert_eq!((new.rate.rtt, new.interval(now, MS * 20)), (a.rate.rtt, MS * 20));
        assert!(Control::default().interval(now, Duration::from_secs(100)) >= Duration::from_secs(64));
    }
}
