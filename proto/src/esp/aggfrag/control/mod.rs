//! Congestion control (RFC 9347 §2.4.2, §3, appendix B): TFRC (RFC 5348), whose receiver's half measures how many loss events there
//! are among the packets that come, and whose sender's half finds the rate that the path takes of those that go.
//!
//! A pair of SAs has one [`Control`]: what comes on one SA is about what goes on the other. It is asked with the time of each
//! packet and has no timer of its own: packets go all the time.

mod equation;
mod losses;
mod sender;

pub use sender::Bounds;

use super::Congestion;
use crate::time::Instant;
use losses::Losses;
use sender::Sender;
use std::time::Duration;

/// The least RTT that the equation and the loss events go by; it is also the longest burst (RFC 5348 §4.6: "less than or equal to one
/// round-trip time's worth of packets").
///
/// Over a cable the RTT is some 0.1 ms. 20 Mbit/s in packets of 1500 octets are 1667 a second, a sixth of a packet an RTT, for
/// which the equation wants one packet in three lost; and as LossEventRate is a whole number of packets, there is nothing between
/// 3 (17 Mbit/s) and 4 (38 Mbit/s). With 10 ms they are 17 packets an RTT, and one loss event in 202 packets. 10 ms are also what a
/// loaded machine is late by, which is not the path's fault. A longer RTT errs on the safe side: the rate is its inverse.
pub const FLOOR: Duration = Duration::from_millis(10);

/// How often a peer is told that has no RTT yet, if it does not hear from us anyway.
const SOON: Duration = Duration::from_millis(25);

/// A pair's. The inbound half brings what it hears; the outbound half asks what to say, and how fast to send.
#[derive(Clone, Debug)]
pub struct Control {
    losses: Losses,
    sender: Sender,
    /// What was heard last from the peer to be echoed, and when first.
    echo: Option<(u32, Instant)>,
    /// The peer knows an RTT.
    known: bool,
    /// Something came since we said something.
    news: bool,
    /// We have said something, or inherited.
    begun: bool,
    /// Between two packets of ours.
    own_delay: Duration,
}

/// What is known of a path, for those who look on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PathReport {
    /// Bits a second of outer packets that the path takes of what we send, if that decides how much it is.
    pub rate: Option<u64>,
    /// Round trip time; none yet.
    pub rtt: Option<Duration>,
    /// Packets to a loss event among those we send, as the peer says; zero is no loss.
    pub sent: u32,
    /// Among those we receive.
    pub received: u32,
}

impl Control {
    /// Waits for up to `reordering` packets that are overtaken.
    #[must_use]
    pub fn new(reordering: u64) -> Self {
        Self {
            losses: Losses::new(reordering),
            sender: Sender::default(),
            echo: None,
            known: false,
            news: false,
            begun: false,
            own_delay: Duration::ZERO,
        }
    }

    /// The path decides how fast we send, between these.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.sender.set_bounds(bounds);
    }

    /// An outer packet came: authentic, for the first time, and perhaps with congestion information.
    pub fn arrived(&mut self, now: Instant, sequence: u64, heard: Option<&Congestion>) {
        self.news = true;
        if let Some(heard) = heard
            && heard.rtt != 0
        {
            self.known = true;
            self.losses.set_rtt(micros(heard.rtt));
        }
        // What was overtaken says nothing new.
        if !self.losses.arrived(now, sequence) {
            return;
        }
        let Some(heard) = heard else { return };
        // RFC 9347 §3: "Subsequent receipt of the same TVal MUST NOT update the recorded time."
        if self.echo.is_none_or(|(tval, _)| tval != heard.tval) {
            self.echo = Some((heard.tval, now));
        }
        self.sender.feedback(now, heard, self.own_delay);
    }

    /// What to tell the peer now. `own_delay` is between two packets of ours.
    #[must_use]
    pub fn tell(&mut self, now: Instant, own_delay: Duration) -> Congestion {
        (self.own_delay, self.news, self.begun) = (own_delay, false, true);
        let (techo, came) = self.echo.unwrap_or((0, now));
        Congestion {
            probing: false,
            // ECN is not in use here: RFC 9347 §8: "For this reason, ECN use SHOULD NOT be enabled by default."
            experienced: false,
            loss_event_rate: self.losses.inverse(),
            rtt: self.sender.rtt().map_or(0, in_micros),
            echo_delay: in_micros(now.saturating_since(came)),
            transmit_delay: in_micros(own_delay),
            tval: stamp(now),
            techo,
        }
    }

    /// Between two packets at the rate that the path takes now.
    pub fn interval(&mut self, now: Instant) -> Duration {
        self.sender.interval(now)
    }

    /// How often the peer has to be told at least. RFC 9347 §2.4.2: "the congestion information MUST be sent, from the receiver and
    /// from the sender, at least once per RTT"; here it is twice.
    #[must_use]
    pub fn telling(&self) -> Duration {
        if self.known { self.losses.rtt() / 2 } else { SOON }
    }

    /// Whether there is something to tell. RFC 5348 §6.2: "If no data packets have been received since the last feedback was sent, then
    /// no feedback packet is sent".
    #[must_use]
    pub const fn has_news(&self) -> bool {
        self.news
    }

    /// A rekey: the path is the same, and what was learnt of it goes on. Only once, and not after it has begun by itself.
    pub fn inherit(&mut self, old: &Self) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        self.losses.inherit(&old.losses);
        self.sender.inherit(&old.sender);
        self.echo = self.echo.or(old.echo);
        self.known |= old.known;
        self.own_delay = old.own_delay;
    }

    /// The way there is another: how fast it is, is to be learnt anew.
    pub fn moved(&mut self) {
        self.sender.moved();
    }

    /// What is known now.
    #[must_use]
    pub fn report(&self) -> PathReport {
        PathReport {
            rate: self.sender.rate(),
            rtt: self.sender.rtt(),
            sent: self.sender.inverse(),
            received: self.losses.inverse(),
        }
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

#[cfg(test)]
mod tests;
