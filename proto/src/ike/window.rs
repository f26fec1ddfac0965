//! Message IDs and windows of size 1 (RFC 7296 §2.2, §2.3): the request in flight with its sealed datagrams
//! (retransmitted bit for bit, §2.1), and the last request answered with its sealed answer.

use crate::policy::sad::Path;
use crate::time::Instant;
use rand_core::CryptoRng;
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
#[derive(Debug)]
pub struct Outgoing {
    next_id: u32,
    in_flight: Option<InFlight>,
}

/// The one request in flight.
#[derive(Debug)]
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
        let _ = (self.next_id, &self.in_flight);
        todo!()
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
        let _ = (now, path, datagrams, schedule, rng);
        todo!()
    }

    /// The request in flight.
    #[must_use]
    pub fn in_flight(&self) -> Option<&InFlight> {
        self.in_flight.as_ref()
    }

    /// An authenticated response came: true if it answers the request in flight, which then is no more.
    pub fn answered(&mut self, message_id: u32) -> bool {
        let _ = message_id;
        todo!()
    }

    /// At a timeout: exponential backoff with jitter (§2.1, §2.4).
    pub fn due(&mut self, now: Instant, schedule: &Schedule, rng: &mut dyn CryptoRng) -> Due {
        let _ = (now, schedule, rng);
        todo!()
    }
}

/// The peer's requests.
#[derive(Debug, Default)]
pub struct Incoming {
    expected: u32,
    last: Option<Answered>,
}

/// The last request answered.
#[derive(Debug)]
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
        Self { expected, last: None }
    }

    /// Classifies a request datagram; `fragment` is its fragment number if it is an SKF: only number 1 may cause a
    /// repeated answer (RFC 7383 §2.6.1).
    #[must_use]
    pub fn classify(&self, message_id: u32, datagram: &[u8], fragment: Option<u16>) -> Arrival {
        let _ = (message_id, datagram, fragment, self.expected, &self.last);
        todo!()
    }

    /// The expected request was authenticated and answered with these datagrams. `request_digest` is
    /// [`Self::digest`] of its datagram (of fragment 1's, if fragmented).
    pub fn answered(&mut self, request_digest: [u8; 32], datagrams: Vec<Vec<u8>>) {
        let _ = (request_digest, datagrams);
        todo!()
    }

    /// The ID expected next.
    #[must_use]
    pub fn expected(&self) -> u32 {
        self.expected
    }

    /// Digest of a request datagram.
    #[must_use]
    pub fn digest(datagram: &[u8]) -> [u8; 32] {
        let _ = datagram;
        todo!()
    }
}
impl Answered {
    #[allow(dead_code, reason = "used by the window's code")]
    fn same(&self, message_id: u32, digest: &[u8; 32]) -> Option<&[Vec<u8>]> {
        (self.message_id == message_id && &self.digest == digest).then_some(&self.datagrams)
    }
}
