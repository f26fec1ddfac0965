//! Message IDs and windows of size 1 (RFC 7296 §2.2, §2.3): the request in flight with its sealed datagrams
//! (retransmitted bit for bit, §2.1), and the last request answered with its sealed answer.

use crate::policy::sad::Path;
use crate::time::Instant;
use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Retransmission schedule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Schedule {
    /// First interval.
    pub timeout: Duration,
    /// Growth in percent.
    pub base_percent: u32,
    /// Retransmissions before giving up.
    pub tries: u32,
}

/// Our requests.
#[derive(Clone, Debug)]
pub struct Outgoing {
    next_id: u32,
    in_flight: Option<InFlight>,
}

/// The one request in flight.
#[derive(Clone, Debug)]
pub struct InFlight {
    /// Its ID.
    pub message_id: u32,
    /// What is resent, bit for bit.
    pub datagrams: Vec<Vec<u8>>,
    /// Where it goes.
    pub path: Path,
    /// Times sent.
    pub sent: u32,
    /// When it was first sent.
    pub first_sent: Instant,
    /// When to send it again, or give up.
    pub due: Instant,
}

/// What to do at a retransmission time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Due {
    /// Not yet.
    Wait,
    /// Send these again on this path.
    Retransmit(Path, Vec<Vec<u8>>),
    /// The tries are used up: the peer is dead.
    GiveUp,
}

impl Outgoing {
    /// Message IDs from `first` (0 for a new SA, 1 after IKE_SA_INIT, ...).
    #[must_use]
    pub fn new(first: u32) -> Self {
        Self {
            next_id: first,
            in_flight: None,
        }
    }

    /// The ID the next request will have; `None` while one is in flight or the IDs are used up (§2.2).
    #[must_use]
    pub fn next_id(&self) -> Option<u32> {
        // RFC 7296 §2.2: Message IDs never wrap; the IKE SA has to be replaced before.
        (self.in_flight.is_none() && self.next_id < u32::MAX).then_some(self.next_id)
    }

    /// The request with `next_id()` leaves now.
    pub fn sent(
        &mut self,
        now: Instant,
        path: Path,
        datagrams: Vec<Vec<u8>>,
        schedule: &Schedule,
        rng: &mut dyn CryptoRng,
    ) {
        let due = now + jittered(schedule.timeout, rng);
        let message_id = self.next_id;
        self.in_flight = Some(InFlight {
            message_id,
            datagrams,
            path,
            sent: 1,
            first_sent: now,
            due,
        });
    }

    /// The request in flight.
    #[must_use]
    pub const fn in_flight(&self) -> Option<&InFlight> {
        self.in_flight.as_ref()
    }

    /// The request in flight goes another way when it is sent again.
    pub fn redirect(&mut self, path: Path) {
        if let Some(request) = &mut self.in_flight {
            request.path = path;
        }
    }

    /// The request in flight is sent again at once, and its tries begin anew: it goes another way now.
    pub fn hasten(&mut self, now: Instant) {
        if let Some(request) = &mut self.in_flight {
            request.due = now;
            request.sent = 1;
        }
    }

    /// The request in flight is sent again at once, unless that was to be done no more.
    pub fn hurry(&mut self, now: Instant, schedule: &Schedule) {
        if let Some(request) = self.in_flight.as_mut().filter(|request| request.sent <= schedule.tries) {
            request.due = request.due.min(now);
        }
    }

    /// The request in flight is sent in other datagrams from now on, and its tries begin anew.
    pub fn replace(&mut self, now: Instant, datagrams: Vec<Vec<u8>>, schedule: &Schedule) {
        if let Some(request) = &mut self.in_flight {
            request.datagrams = datagrams;
            request.sent = 1;
            request.due = now + schedule.timeout;
        }
    }

    /// An authenticated response came: true if it answers the request in flight, which then is no more.
    pub fn answered(&mut self, message_id: u32) -> bool {
        let answers = self
            .in_flight
            .as_ref()
            .is_some_and(|request| request.message_id == message_id);
        if answers {
            self.in_flight = None;
            self.next_id += 1;
        }
        answers
    }

    /// At a timeout: exponential backoff with jitter (§2.1, §2.4).
    pub fn due(&mut self, now: Instant, schedule: &Schedule, rng: &mut dyn CryptoRng) -> Due {
        let Some(request) = self.in_flight.as_mut().filter(|request| request.due <= now) else {
            return Due::Wait;
        };
        if request.sent > schedule.tries {
            return Due::GiveUp;
        }
        // §2.4: "retransmission times MUST increase exponentially".
        let mut wait = schedule.timeout;
        for _ in 0..request.sent {
            wait = wait * schedule.base_percent / 100;
        }
        request.sent += 1;
        request.due = now + jittered(wait, rng);
        Due::Retransmit(request.path, request.datagrams.clone())
    }
}

/// The peer's requests.
#[derive(Clone, Debug, Default)]
pub struct Incoming {
    expected: u32,
    /// The last ID there is was used.
    used_up: bool,
    last: Option<Answered>,
}

/// The last request answered.
#[derive(Clone, Debug)]
struct Answered {
    message_id: u32,
    /// SHA-256 of the request's datagram (of fragment 1 if it was fragmented: RFC 7383 §2.6.1).
    digest: [u8; 32],
    datagrams: Vec<Vec<u8>>,
}

/// What a request is, told before it is decrypted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// The one expected: decrypt it.
    New,
    /// The last one again: send these datagrams again (along the path it came by), do nothing else (§2.1).
    Repeated(Vec<Vec<u8>>),
    /// Outside the window, or the last ID with other octets: drop (§2.3).
    OutOfWindow,
}

impl Incoming {
    /// Requests from ID `expected`.
    #[must_use]
    pub fn new(expected: u32) -> Self {
        Self {
            expected,
            used_up: false,
            last: None,
        }
    }

    /// Classifies a request datagram; `fragment` is its fragment number if it is an SKF: only number 1 may cause a
    /// repeated answer (RFC 7383 §2.6.1).
    #[must_use]
    pub fn classify(&self, message_id: u32, datagram: &[u8], fragment: Option<u16>) -> Arrival {
        if message_id == self.expected && !self.used_up {
            return Arrival::New;
        }
        let Some(last) = self.last.as_ref().filter(|_| fragment.is_none_or(|number| number == 1)) else {
            return Arrival::OutOfWindow;
        };
        match last.same(message_id, &Self::digest(datagram)) {
            Some(datagrams) => Arrival::Repeated(datagrams.to_vec()),
            None => Arrival::OutOfWindow,
        }
    }

    /// The expected request was authenticated and answered with these datagrams. `request_digest` is
    /// [`Self::digest`] of its datagram (of fragment 1's, if fragmented).
    pub fn answered(&mut self, request_digest: [u8; 32], datagrams: Vec<Vec<u8>>) {
        self.last = Some(Answered {
            message_id: self.expected,
            digest: request_digest,
            datagrams,
        });
        // §2.2: IDs don't wrap: after the last one nothing more is taken.
        match self.expected.checked_add(1) {
            Some(next) => self.expected = next,
            None => self.used_up = true,
        }
    }

    /// The answer to the last request, if that had this ID.
    #[must_use]
    pub fn last_answer(&self, message_id: u32) -> Option<&[Vec<u8>]> {
        let last = self.last.as_ref().filter(|last| last.message_id == message_id)?;
        Some(&last.datagrams)
    }

    /// The ID expected next.
    #[must_use]
    pub fn expected(&self) -> u32 {
        self.expected
    }

    /// Digest of a request datagram.
    #[must_use]
    pub fn digest(datagram: &[u8]) -> [u8; 32] {
        Sha256::digest(datagram).into()
    }
}
impl Answered {
    fn same(&self, message_id: u32, digest: &[u8; 32]) -> Option<&[Vec<u8>]> {
        (self.message_id == message_id && &self.digest == digest).then_some(&self.datagrams)
    }
}

/// Up to a tenth more or less, so that many peers don't send in step.
fn jittered(wait: Duration, rng: &mut dyn CryptoRng) -> Duration {
    wait * (900 + rng.next_u32() % 201) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    const SCHEDULE: Schedule = Schedule {
        timeout: Duration::from_secs(2),
        base_percent: 180,
        tries: 3,
    };

    fn path() -> Path {
        Path::udp("192.0.2.1:500".parse().unwrap(), "192.0.2.2:500".parse().unwrap())
    }

    #[test]
    fn retransmissions_are_identical_grow_and_end() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut window = Outgoing::new(0);
        let mut now = Instant::ZERO;
        window.sent(now, path(), vec![vec![1, 2, 3]], &SCHEDULE, &mut rng);
        assert_eq!(window.next_id(), None, "RFC 7296 §2.3: a window of one");
        let mut intervals = Vec::new();
        loop {
            let due = window.in_flight().unwrap().due;
            intervals.push(due.saturating_since(now));
            now = due;
            match window.due(now, &SCHEDULE, &mut rng) {
                Due::Retransmit(to, datagrams) => assert_eq!((to, datagrams), (path(), vec![vec![1, 2, 3]])),
                Due::GiveUp => break,
                Due::Wait => panic!("it was due"),
            }
        }
        assert_eq!(intervals.len(), 4);
        assert!(
            intervals.windows(2).all(|pair| pair[1] > pair[0] * 13 / 10),
            "{intervals:?}"
        );
        assert!(!window.answered(1) && window.answered(0) && !window.answered(0));
        assert_eq!(window.next_id(), Some(1));
    }

    #[test]
    fn message_ids_do_not_wrap() {
        let mut window = Outgoing::new(u32::MAX - 1);
        window.sent(
            Instant::ZERO,
            path(),
            vec![],
            &SCHEDULE,
            &mut ChaCha8Rng::seed_from_u64(1),
        );
        assert!(window.answered(u32::MAX - 1));
        assert_eq!(window.next_id(), None);
    }

    #[test]
    fn the_last_request_there_can_be_is_taken_once() {
        let mut window = Incoming::new(u32::MAX);
        assert_eq!(window.classify(u32::MAX, b"a", None), Arrival::New);
        window.answered(Incoming::digest(b"a"), vec![b"answer".to_vec()]);
        assert_eq!(
            window.classify(u32::MAX, b"a", None),
            Arrival::Repeated(vec![b"answer".to_vec()])
        );
        for id in [u32::MAX, 0, 1] {
            assert_eq!(window.classify(id, b"b", None), Arrival::OutOfWindow);
        }
    }

    #[test]
    fn a_repeated_request_is_told_by_its_octets() {
        let mut window = Incoming::new(5);
        assert_eq!(window.classify(5, b"a", None), Arrival::New);
        window.answered(Incoming::digest(b"a"), vec![b"answer".to_vec()]);
        assert_eq!(
            window.classify(5, b"a", None),
            Arrival::Repeated(vec![b"answer".to_vec()])
        );
        assert_eq!(
            window.classify(5, b"a", Some(1)),
            Arrival::Repeated(vec![b"answer".to_vec()])
        );
        // RFC 7383 §2.6.1: only fragment number 1 triggers it.
        assert_eq!(window.classify(5, b"a", Some(2)), Arrival::OutOfWindow);
        for id in [0, 4, 7, u32::MAX] {
            assert_eq!(window.classify(id, b"a", None), Arrival::OutOfWindow);
        }
        assert_eq!(window.classify(5, b"b", None), Arrival::OutOfWindow);
    }
}
