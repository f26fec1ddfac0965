//! The way of every message in and out of an IKE SA.

use super::fragments::around_ike;
use super::*;
use crate::ike::qcd::Complaint;

/// Hints that anybody can forge are followed at most this often.
const HINT_PAUSE: Duration = Duration::from_secs(60);

impl IkeSa {
    /// A protected message with our SPI in it. Until the ICV verifies nothing but counters moves.
    pub fn handle_message(&mut self, shared: &mut Shared, path: Path, datagram: &[u8], outer: &Outer<'_>) {
        let header = outer.header;
        // The I flag is the original initiator's; with ours in it, it is our own message come back (checklist L7).
        if header.flags.initiator == self.initiator || header.spi_i != self.spi_i || header.spi_r != self.spi_r {
            shared.counters.unexpected += 1;
            return;
        }
        let complaint = Complaint::read(&outer.body).filter(|complaint| {
            let lost = header.flags.response && complaint.lost;
            lost || !complaint.tokens.is_empty()
        });
        if let Some(complaint) = complaint {
            shared.counters.unexpected += 1;
            if !self.hear_tokens(shared, &complaint.tokens) && header.flags.response && complaint.lost {
                self.hint(shared);
            }
        } else if header.flags.response {
            self.handle_response(shared, path, datagram, outer)
        } else {
            self.handle_request(shared, path, datagram, outer)
        }
    }

    /// Somebody says, unprotected, that the peer does not know an SA. RFC 7296 §2.4: "an endpoint MUST NOT conclude that the
    /// other endpoint has failed based on any routing information (e.g., ICMP messages) or IKE messages that arrive without
    /// cryptographic protection". It is a reason to ask, seldom.
    pub fn hint(&mut self, shared: &mut Shared) {
        let now = shared.now.instant;
        if self.is_established() && self.may_follow_hint(now) {
            self.jobs.add(now, Job::Liveness);
            // What is asked already may have been asked too early for the peer.
            self.outgoing.hurry(now, &super::timers::schedule(shared));
        }
        self.work(shared);
    }

    /// ESP with an SPI that is not ours came from the peer: it is told, within the IKE SA (§1.5), as seldom.
    pub fn tell_unknown_spi(&mut self, shared: &mut Shared, spi: u32) {
        let now = shared.now.instant;
        if self.is_established() && self.may_follow_hint(now) {
            self.unknown_spi = Some(spi);
            self.jobs.add(now, Job::Liveness);
        }
        self.work(shared);
    }

    fn may_follow_hint(&mut self, now: Instant) -> bool {
        let seldom = self.hinted.is_none_or(|last| now.saturating_since(last) >= HINT_PAUSE);
        if seldom {
            self.hinted = Some(now);
        }
        seldom
    }

    pub(super) fn handle_request(&mut self, shared: &mut Shared, path: Path, datagram: &[u8], outer: &Outer<'_>) {
        let fragment = fragment_number(outer);
        match self.incoming.classify(outer.header.message_id, datagram, fragment) {
            Arrival::New => {}
            Arrival::Repeated(datagrams) => {
                // RFC 7296 §2.1, §2.11: the stored response, back along the path of the request.
                shared.counters.retransmitted += 1;
                shared.count(self.name(), |tally| tally.retransmissions += 1);
                shared.transmit(path, &datagrams);
                return;
            }
            Arrival::OutOfWindow => {
                self.repeat_refragmented(shared, path, outer);
                shared.counters.replayed += 1;
                return;
            }
        }
        if matches!(self.stage, Stage::Closed { .. } | Stage::Initiating) {
            shared.counters.unexpected += 1;
            return;
        }
        // RFC 7296 §1: "all IKE_SA_INIT exchanges MUST complete before any other exchange type, then all IKE_AUTH exchanges
        // MUST complete": before there is nothing but IKE_AUTH (and what RFC 9370 §2.2.2 puts before it), and afterwards
        // neither, well-formed or not.
        let in_order = match outer.header.exchange {
            ExchangeType::IKE_INTERMEDIATE => self.awaits_intermediate(),
            ExchangeType::IKE_AUTH => matches!(self.stage, Stage::HalfOpen(_)) && !self.awaits_intermediate(),
            _ => !matches!(self.stage, Stage::HalfOpen(_)),
        };
        if !in_order {
            shared.counters.unexpected += 1;
            return;
        }
        if self.signing.is_some() {
            // The request is being answered: a repeated one changes nothing.
            shared.counters.replayed += 1;
            return;
        }
        self.derive_late(shared);
        let Some(OpenedMessage { body, digest, head }) = self.open(shared, path, datagram, outer, false) else {
            return;
        };
        self.heard(shared, path);
        self.confirm(shared, None);
        let header = outer.header;
        self.add_int_auth(&header, head, &body.payloads, shared);
        let reply = match wire::decode_payloads(body.first, &body.payloads) {
            Ok(payloads) => {
                shared.log_message(self.name(), true, path, &header, &payloads);
                match wire::decode_request(header.exchange, payloads) {
                    Ok(request) => self.respond(shared, path, request),
                    Err(wire::DecodeError::UnknownExchange(_)) => {
                        // Checklist L5: not known, so not answered; the SA lives on.
                        shared.counters.unexpected += 1;
                        return;
                    }
                    Err(error) => Reply::refuse(header.exchange, &IkeError::Malformed(error)),
                }
            }
            Err(error) => {
                shared.counters.malformed += 1;
                Reply::refuse(header.exchange, &IkeError::Malformed(error))
            }
        };
        let request = Held { header, digest, path };
        match reply {
            Some(reply) => self.answer(shared, &request, reply),
            None if self.hold(request) => {}
            None => shared.counters.unexpected += 1,
        }
    }

    /// Sends the answer to a request of the peer.
    pub fn answer(&mut self, shared: &mut Shared, request: &Held, reply: Reply) {
        self.children.iter_mut().for_each(|child| child.contest = None);
        let Held { header, digest, path } = *request;
        let payloads = wire::encode_response(&reply.response);
        let flags = Flags {
            initiator: self.initiator,
            response: true,
        };
        let answer = Header {
            flags,
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            ..header
        };
        shared.log_message(self.name(), false, path, &answer, &payloads);
        let datagrams = self.seal(shared, &answer, &payloads);
        self.take_next_keys(shared);
        self.incoming.answered(digest, datagrams.clone());
        self.sizes.answered(header.exchange);
        shared.transmit(path, &datagrams);
        self.last_sent = shared.now.instant;
        if let Some(reason) = reply.close {
            self.close(shared, &reason);
        }
        self.work(shared);
    }

    pub(super) fn handle_response(&mut self, shared: &mut Shared, path: Path, datagram: &[u8], outer: &Outer<'_>) {
        let header = outer.header;
        let expected = self
            .outgoing
            .in_flight()
            .is_some_and(|request| request.message_id == header.message_id);
        if !expected
            || self
                .exchange
                .as_ref()
                .is_none_or(|exchange| exchange.exchange_type() != header.exchange)
        {
            // RFC 7296 §2.3: not asked for, or answered before.
            shared.counters.unexpected += 1;
            return;
        }
        let Some(OpenedMessage { body, head, .. }) = self.open(shared, path, datagram, outer, true) else {
            return;
        };
        self.heard(shared, path);
        self.answered_by(shared, path);
        self.add_int_auth(&header, head, &body.payloads, shared);
        self.outgoing.answered(header.message_id);
        self.sizes.done();
        let Some(exchange) = self.exchange.take() else { return };
        let decoded = wire::decode_payloads(body.first, &body.payloads);
        if let Ok(payloads) = &decoded {
            shared.log_message(self.name(), true, path, &header, payloads);
        }
        let response = decoded.and_then(|payloads| wire::decode_response(header.exchange, payloads));
        if let Ok(Response::Informational(reply)) = &response {
            self.peer_tokens.learn(&reply.notifies);
        }
        let next = match response {
            Ok(response) => exchange.on_response(self, shared, response),
            Err(error) => {
                // §2.21.3, §2.21.4: an error in a response is never answered; the SA is not what we think it is.
                shared.counters.malformed += 1;
                exchange.abandon(self, shared);
                Next::Close(format!("the peer's response is malformed: {error}"))
            }
        };
        self.follow(shared, next);
        self.work(shared);
    }

    /// The plain answer to our IKE_SA_INIT, or IKE_SESSION_RESUME: unauthenticated until AUTH covers it.
    pub fn handle_init_response(
        &mut self,
        shared: &mut Shared,
        path: Path,
        datagram: &[u8],
        header: &Header,
        payloads: Vec<Payload>,
    ) {
        let awaited = self
            .outgoing
            .in_flight()
            .is_some_and(|request| request.message_id == header.message_id);
        let early = |exchange: &Exchange| matches!(exchange, Exchange::Init(_) | Exchange::Resume(_));
        let fits = |e: &mut Exchange| awaited && early(e) && e.exchange_type() == header.exchange;
        let Some(exchange) = self.exchange.take_if(fits) else {
            shared.counters.unexpected += 1;
            return;
        };
        shared.log_message(self.name(), true, path, header, &payloads);
        let next = match (exchange, wire::decode_response(header.exchange, payloads)) {
            (Exchange::Init(exchange), Ok(Response::IkeSaInit(reply))) => {
                exchange.on_reply(self, shared, header, datagram, reply)
            }
            (Exchange::Resume(exchange), Ok(Response::IkeSessionResume(reply))) => {
                exchange.on_reply(self, shared, header, datagram, reply)
            }
            (exchange, _) => {
                shared.counters.malformed += 1;
                Next::KeepWaiting(exchange)
            }
        };
        self.follow(shared, next);
        self.work(shared);
    }

    /// Sends a request; its exchange waits for the answer.
    pub fn send(&mut self, shared: &mut Shared, exchange: Exchange, request: Request) {
        let Some(message_id) = self.outgoing.next_id() else {
            // RFC 7296 §2.2: the Message IDs are used up; the IKE SA can't be used any more.
            exchange.abandon(self, shared);
            self.close(shared, "all message IDs are used");
            return;
        };
        let flags = Flags {
            initiator: self.initiator,
            response: false,
        };
        let exchange_type = exchange.exchange_type();
        let header = Header {
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            exchange: exchange_type,
            flags,
            message_id,
        };
        let payloads = wire::encode_request(&request.0);
        let path = self.stream.take_probe().unwrap_or(self.path);
        shared.log_message(self.name(), false, path, &header, &payloads);
        let plain = matches!(
            exchange_type,
            ExchangeType::IKE_SA_INIT | ExchangeType::IKE_SESSION_RESUME
        );
        let datagrams = if plain {
            let datagram = encode_plain(&header, &payloads);
            self.init.request.clone_from(&datagram);
            vec![datagram]
        } else {
            let datagrams = self.seal(shared, &header, &payloads);
            self.keep_unsealed(&header, payloads, &datagrams);
            datagrams
        };
        shared.transmit(path, &datagrams);
        let schedule = super::timers::schedule(shared);
        self.outgoing
            .sent(shared.now.instant, path, datagrams, &schedule, &mut shared.rng);
        self.last_sent = shared.now.instant;
        self.exchange = Some(exchange);
    }

    /// Answers a request of the peer, by stage.
    pub(super) fn respond(&mut self, shared: &mut Shared, path: Path, request: WireRequest) -> Option<Reply> {
        match (&self.stage, request) {
            (Stage::HalfOpen(_), WireRequest::IkeIntermediate(request)) => self.respond_intermediate(shared, request),
            (Stage::HalfOpen(_), WireRequest::IkeAuth(request)) => self.respond_auth(shared, path, *request),
            (Stage::Established | Stage::Rekeyed | Stage::Closing, WireRequest::CreateChildSa(request)) => {
                self.respond_create_child(shared, *request)
            }
            (Stage::Established | Stage::Rekeyed | Stage::Closing, WireRequest::IkeFollowupKe(request)) => {
                self.respond_followup(shared, &request)
            }
            (Stage::Established | Stage::Rekeyed | Stage::Closing, WireRequest::Informational(request)) => {
                Some(self.respond_informational(shared, path, &request))
            }
            _ => None,
        }
    }

    pub(super) fn heard(&mut self, shared: &mut Shared, path: Path) {
        self.last_heard = shared.now.instant;
        // One that has something to say is not dropped with the rest.
        if self.unknown_spi.is_none() {
            self.jobs.drop_if(|job| *job == Job::Liveness);
        }
        // RFC 4555 §3.8: "The host not behind a NAT MUST NOT use these dynamic updates for IKEv2 packets".
        if path.is_tcp() {
            self.follow_stream(shared, path);
        } else if !self.mobike.enabled {
            self.follow_peer(shared, path.remote);
        }
    }

    /// A responder derives its keys when the second message comes, not for everybody who sends a first.
    pub(super) fn derive_late(&mut self, shared: &mut Shared) {
        let (Stage::HalfOpen(half), None, Some(suite)) = (&self.stage, &self.keys, self.suite) else {
            return;
        };
        let binding = crate::ike::keys::Binding {
            ni: &self.init.nonce_i,
            nr: &self.init.nonce_r,
            spi_i: self.spi_i,
            spi_r: self.spi_r,
        };
        let derive = if self.resumes.is_some() {
            IkeKeys::resume
        } else {
            IkeKeys::derive
        };
        let keys = derive(shared.provider, suite, &half.shared, &binding);
        self.set_keys(shared, keys);
    }

    /// Takes keys over and makes the message protection of them; false if an algorithm is missing.
    pub fn set_keys(&mut self, shared: &mut Shared, mut keys: Option<IkeKeys>) -> bool {
        if let Some(keys) = &mut keys
            && let Some(origin) = keys.origin.take()
        {
            crate::ike::export::ike(shared, self, keys, &origin);
        }
        let provider = shared.provider;
        self.sizes.keep(self.protection.take());
        self.protection = keys
            .as_ref()
            .and_then(|keys| MessageProtection::new(provider, keys, self.initiator, &mut shared.rng));
        self.keys = keys;
        self.protection.is_some()
    }

    /// Verifies and decrypts; collects fragments. `None` until there is a whole, authentic message.
    pub(super) fn open(
        &mut self,
        shared: &mut Shared,
        path: Path,
        datagram: &[u8],
        outer: &Outer<'_>,
        response: bool,
    ) -> Option<OpenedMessage> {
        let protection = self.protection.as_ref()?;
        let body = match protection.open(outer) {
            Ok(body) => body,
            Err(OpenError::Unprotected) => {
                shared.counters.unexpected += 1;
                return None;
            }
            Err(OpenError::Malformed) => {
                shared.counters.malformed += 1;
                return None;
            }
            Err(OpenError::Integrity) => {
                shared.counters.integrity_failed += 1;
                return None;
            }
        };
        let digest = Incoming::digest(datagram);
        let (fragment, total, associated) = match outer.body {
            OuterBody::Plain { .. } => return None,
            OuterBody::Sk { associated, .. } => {
                if !response {
                    self.sizes.asked(None);
                }
                let head = Some(int_auth::head_of_sk(associated));
                return Some(OpenedMessage { body, digest, head });
            }
            OuterBody::Skf {
                fragment,
                total,
                associated,
                ..
            } => (fragment, total, associated),
        };
        // RFC 7383 §2.3: only if both have announced it.
        if !self.peer_fragments {
            shared.counters.fragments_dropped += 1;
            return None;
        }
        if !response && fragment == 1 {
            self.sizes.asked(Some((datagram.len() + around_ike(path), total)));
        }
        let collected = if response {
            &mut self.responses
        } else {
            &mut self.requests
        };
        let outcome = collected
            .parts
            .add(shared.now.instant, outer.header.message_id, fragment, total, body);
        if fragment == 1 && outcome != FragmentOutcome::Dropped {
            collected.first = Some(digest);
            collected.head = int_auth::head_of_fragment(associated);
        }
        match outcome {
            FragmentOutcome::Complete(body) => Some(OpenedMessage {
                body,
                digest: collected.first.take().unwrap_or(digest),
                head: collected.head.take(),
            }),
            FragmentOutcome::Pending => None,
            FragmentOutcome::Dropped => {
                shared.counters.fragments_dropped += 1;
                None
            }
        }
    }

    pub(super) fn seal(&mut self, shared: &mut Shared, header: &Header, payloads: &[Payload]) -> Vec<Vec<u8>> {
        let (first, chain) = encode_payloads(payloads);
        self.add_int_auth(header, Some(int_auth::head_of_own(header, first)), &chain, shared);
        let most = self.most(header.flags.response);
        match &mut self.protection {
            Some(protection) => protection.seal(header, first, &chain, most, &mut shared.rng),
            None => Vec::new(),
        }
    }
}

impl IkeSa {
    /// AUTH will cover this message, if it is one of IKE_INTERMEDIATE (RFC 9242 §3.3.2): under the sender's SK_p of now.
    fn add_int_auth(&mut self, header: &Header, head: Option<Vec<u8>>, payloads: &[u8], shared: &Shared) {
        let early = matches!(self.stage, Stage::Initiating | Stage::HalfOpen(_));
        if header.exchange != ExchangeType::IKE_INTERMEDIATE || !early {
            return;
        }
        let (Some(keys), Some(head)) = (&self.keys, head) else {
            return;
        };
        let Some(prf) = (shared.provider.prf)(keys.suite.prf) else {
            return;
        };
        let sk_p = if header.flags.initiator { &keys.pi } else { &keys.pr };
        self.int_auth.add(prf, sk_p, header.flags.initiator, head, payloads);
    }
}

fn fragment_number(outer: &Outer<'_>) -> Option<u16> {
    match outer.body {
        OuterBody::Skf { fragment, .. } => Some(fragment),
        _ => None,
    }
}
