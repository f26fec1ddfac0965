//! How large the fragments of an IKE SA are (RFC 7383 §2.5): what is configured, less on a narrow way.

use super::*;

/// However small a peer's fragments are, ours don't become smaller than this on its account.
const SMALLEST_ANSWER: usize = 320;

/// Times that a large request is sent before its fragments are made smaller.
const SENT_BEFORE_SMALLER: u32 = 3;

/// What is tried after the configured size, octets of IP datagram. RFC 7383 §2.5.1 names both: what IPv6 guarantees, and what
/// every host takes by IPv4.
const STEPS: [usize; 2] = [1280, 576];

/// What is known about the way.
#[derive(Clone, Default)]
pub(super) struct Sizes {
    /// The size that was come down to, on this path.
    probed: Option<(Path, usize)>,
    /// The first fragment of the peer's request that is being answered: octets of IP datagram, and Total Fragments.
    asked_in: Option<(usize, u16)>,
    /// The exchange of the last one answered, and its Total Fragments (0: it came whole).
    answered: Option<(ExchangeType, u16)>,
    /// The request in flight before it was sealed, if it could be cut smaller.
    unsealed: Option<(Header, Vec<Payload>)>,
    /// Of the keys before those of now: the request that brought these may be repeated.
    before: Option<MessageProtection>,
}

impl Sizes {
    /// A request of the peer came, whole or in fragments.
    pub fn asked(&mut self, first_fragment: Option<(usize, u16)>) {
        self.asked_in = first_fragment;
    }

    /// It is answered.
    pub fn answered(&mut self, exchange: ExchangeType) {
        self.answered = Some((exchange, self.asked_in.map_or(0, |(_, total)| total)));
    }

    /// Other keys are taken; these were in use.
    pub fn keep(&mut self, protection: Option<MessageProtection>) {
        self.before = protection;
    }

    /// The request in flight is answered, or given up.
    pub fn done(&mut self) {
        self.unsealed = None;
    }
}

/// IP header, UDP header and non-ESP marker come on top of an IKE message (RFC 7383 §2.5.1).
pub(super) const fn around_ike(path: Path) -> usize {
    let ip = if path.is_ipv6() { 40 } else { 20 };
    ip + 8 + 4
}

impl IkeSa {
    /// Octets of IKE message in a datagram; `None`: it is not cut. RFC 9329 §7.5: "an implementation SHOULD NOT send fragments when
    /// going over a TCP connection".
    pub(super) fn most(&self, response: bool) -> Option<usize> {
        self.most_by_udp(response).filter(|_| !self.path.is_tcp())
    }

    fn most_by_udp(&self, response: bool) -> Option<usize> {
        let mut connection = self.connection.as_ref();
        if connection.is_none()
            && let Stage::HalfOpen(half) = &self.stage
        {
            connection = half.candidates.first();
        }
        let configured = connection.filter(|connection| self.peer_fragments && connection.fragmentation)?;
        let probed = self.sizes.probed.filter(|(path, _)| *path == self.path);
        let mut size = probed.map_or(configured.fragment_size, |(_, size)| size);
        // §2.5.2: "It is the initiator of the exchange who performs PMTU discovery": the answer goes by the same way.
        if let Some((asked_in, _)) = self.sizes.asked_in.filter(|_| response) {
            size = size.min(asked_in.max(SMALLEST_ANSWER));
        }
        Some(size.saturating_sub(around_ike(self.path)))
    }

    /// Keeps what a request is made of, if it may have to be cut smaller.
    pub(super) fn keep_unsealed(&mut self, header: &Header, payloads: Vec<Payload>, datagrams: &[Vec<u8>]) {
        let smallest = STEPS[STEPS.len() - 1] - around_ike(self.path);
        let large = datagrams.iter().any(|datagram| datagram.len() > smallest);
        // Also over TCP: it may have to go on by UDP.
        self.sizes.unsealed = (large && self.most_by_udp(false).is_some()).then_some((*header, payloads));
    }

    /// A large request has been sent a few times without an answer: perhaps its datagrams are too large for the way. RFC 7383
    /// §2.5.2: "it MUST start from larger values and refragment the original message, using the next smaller value of the
    /// threshold if it did not receive a response in a reasonable time after several retransmissions".
    pub(super) fn refragment(&mut self, shared: &mut Shared) -> Option<Vec<Vec<u8>>> {
        let request = self.outgoing.in_flight()?;
        let (sent, total, path) = (request.sent, request.datagrams.len(), request.path);
        if sent < SENT_BEFORE_SMALLER {
            return None;
        }
        let (header, payloads) = self.sizes.unsealed.as_ref()?;
        let (first, chain) = encode_payloads(payloads);
        let around = around_ike(path);
        let size = self.most(false)? + around;
        // §2.5.1: nothing smaller than 1280 is needed by IPv6.
        let least = if path.is_ipv6() { 1280 } else { 576 };
        for smaller in STEPS.into_iter().filter(|step| *step < size && *step >= least) {
            let protection = self.protection.as_mut()?;
            let datagrams = protection.seal(header, first, &chain, Some(smaller - around), &mut shared.rng);
            // §2.5.2: "the sender MUST ensure that the value in the Total Fragments field is really increased".
            if datagrams.len() > total {
                self.sizes.probed = Some((path, smaller));
                // "When starting a new probe, the node MUST reset its retransmission timers".
                let schedule = super::timers::schedule(shared);
                self.outgoing.replace(shared.now.instant, datagrams.clone(), &schedule);
                return Some(datagrams);
            }
        }
        None
    }

    /// The last request again, cut into more fragments: the answer did not arrive. RFC 7383 §2.6.1: "that event MUST only
    /// trigger a retransmission of the response message (fragmented or not) if the Fragment Number field in the received
    /// fragment is set to 1".
    pub(super) fn repeat_refragmented(&self, shared: &mut Shared, path: Path, outer: &Outer<'_>) {
        let OuterBody::Skf { fragment: 1, total, .. } = outer.body else {
            return;
        };
        // §2.5.2: "the value in the Total Fragments field increases with each new probe".
        let again = self
            .sizes
            .answered
            .is_some_and(|(exchange, before)| exchange == outer.header.exchange && total > before.max(1));
        let Some(datagrams) = self.incoming.last_answer(outer.header.message_id).filter(|_| again) else {
            return;
        };
        // Its octets are not known: only its ICV shows that it is the peer's.
        let mut keys = self.protection.iter().chain(&self.sizes.before);
        if keys.any(|protection| protection.open(outer).is_ok()) {
            shared.counters.retransmitted += 1;
            shared.count(self.name(), |tally| tally.retransmissions += 1);
            shared.transmit(path, datagrams);
        }
    }
}
