//! What strangers may cost: first messages, and the few answers to what belongs to no SA.

use super::admission::{Room, Shown};
use super::*;
use crate::ike::qcd::{Complaint, SHORTEST_REQUEST};
use crate::ike::reason::Reason;
use crate::wire::message::ResumeReply;

/// Octets of an unprotected hint: header, generic header, Notify without data. What is shorter than its answer gets none,
/// so nobody is made to send more than it received.
const HINT: usize = Header::LEN + 8;

impl Endpoint {
    /// RFC 7296 §2.5: "If an endpoint receives a message with a higher major version number, it MUST drop the message and
    /// SHOULD send an unauthenticated Notify message of type INVALID_MAJOR_VERSION". Not to a response (§2.21.4).
    pub(super) fn answer_other_version(&mut self, path: Path, datagram: &[u8]) {
        let Some((head, _)) = datagram.split_first_chunk::<{ Header::LEN }>() else {
            return;
        };
        let [spi_i @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = *head;
        let [_, _, _, _, _, _, _, _, spi_r @ .., _, _, _, _, _, _, _, _, _, _, _, _] = *head;
        let flags = head[19];
        // "a higher major version number": IKEv1 is not answered.
        if head[17] >> 4 < 2 {
            return;
        }
        let short = datagram.len() < HINT;
        if flags & 0x20 != 0 || short || self.shutting_down || !self.stray_answers.spend(self.shared.now.instant) {
            return;
        }
        let answer = Header {
            spi_i: IkeSpi(spi_i),
            spi_r: IkeSpi(spi_r),
            exchange: ExchangeType(head[18]),
            flags: Flags {
                initiator: flags & 0x08 == 0,
                response: true,
            },
            message_id: u32::from_be_bytes([head[20], head[21], head[22], head[23]]),
        };
        let notify = Notify::new(NotifyType::INVALID_MAJOR_VERSION, Vec::new());
        let datagram = encode_plain(&answer, &[Payload::Notify(notify)]);
        self.shared.transmit(path, &[datagram]);
    }

    /// RFC 7296 §1.5: "MAY" tell a stranger that its SPI is not ours; it is a hint, never answered, and rate limited.
    pub(super) fn answer_unknown_spi(&mut self, path: Path, header: &Header, datagram: &[u8]) {
        if header.flags.response || datagram.len() < HINT || self.shutting_down {
            return;
        }
        let token = self.token_of_the_lost(header, datagram);
        // RFC 6290 §8.1: "If excessive amounts of IKE requests protected with unknown IKE SPIs arrive at a token maker, the IKE
        // module SHOULD revert to the behavior described in Section 2.21 of [RFC5996]".
        if token.is_none() && !self.stray_answers.spend(self.shared.now.instant) {
            return;
        }
        let flags = Flags {
            initiator: !header.flags.initiator,
            response: true,
        };
        let answer = Header { flags, ..*header };
        let mut payloads = vec![Payload::Notify(Notify::new(NotifyType::INVALID_IKE_SPI, Vec::new()))];
        payloads.extend(token.map(Payload::Notify));
        let datagram = encode_plain(&answer, &payloads);
        self.shared.transmit(path, &[datagram]);
    }

    /// Our token for an IKE SA that a protected request is about, and that we don't have (RFC 6290 §4.5). §9.2: "A token maker
    /// MUST NOT send a valid QCD token in an unprotected message for an existing IKE SA": it is not among ours, whatever the
    /// other SPI; in a cluster that shares the secret others may have it, and there this has to be off.
    fn token_of_the_lost(&mut self, header: &Header, datagram: &[u8]) -> Option<Notify> {
        let pair = [header.spi_i, header.spi_r];
        // Whatever the I flag says, which anybody may have turned.
        let free = |spi: &IkeSpi| *spi != IkeSpi::ZERO && !self.sas.contains_key(spi);
        if !pair.iter().all(free) || datagram.len() < SHORTEST_REQUEST {
            return None;
        }
        // The sender set I if it is the original initiator: then it was we who answered.
        let we_began = !header.flags.initiator;
        let token = self.shared.token_notify(we_began, header.spi_i, header.spi_r)?;
        self.spend_token().then_some(token)
    }

    fn spend_token(&mut self) -> bool {
        let now = self.shared.now.instant;
        let soon = now.saturating_since(self.began) < CRASH_IS_OVER;
        self.tokens.most = if soon { TOKENS } else { TOKENS_LATER };
        self.tokens.spend(now)
    }

    /// ESP with an SPI that is not ours came from where no IKE SA is: perhaps from a peer of a life before. RFC 7296 §1.5: "If no
    /// suitable IKE SA exists, the node MAY send an informational message without cryptographic protection to the source IP
    /// address, using the source UDP port as the destination port if the packet was UDP". The peer asks then, and gets our
    /// token; so it is of use only where there is one.
    pub(super) fn complain(&mut self, spi: u32, local: IpAddr, remote: SocketAddr) {
        let port = self.shared.config.gateway.nat_port;
        let remote_port = if remote.port() == 0 { port } else { remote.port() };
        let path = Path::udp(SocketAddr::new(local, port), SocketAddr::new(remote.ip(), remote_port));
        // What we have begun with it already will tell it more. What somebody began from there proves nothing, and an IKE SA with
        // another port is with another behind the same NAT.
        let begun = |sa: &IkeSa| matches!(sa.stage, Stage::Initiating) && sa.path.remote.ip() == remote.ip();
        let tokens = self.shared.token_secret.is_some() && self.shared.detects_crashes();
        if !tokens || self.shutting_down || self.sas.values().any(begun) {
            return;
        }
        if pad::candidates(&self.shared.config, &path).is_empty() || !self.spend_token() {
            return;
        }
        // "using zero values or random values are both acceptable ... The Initiator flag is set to 1, the Response flag is set
        // to 0".
        let header = Header {
            spi_i: IkeSpi::ZERO,
            spi_r: IkeSpi::ZERO,
            exchange: ExchangeType::INFORMATIONAL,
            flags: BEGINNING,
            message_id: 0,
        };
        let payloads = [Payload::Notify(Notify::new(
            NotifyType::INVALID_SPI,
            spi.to_be_bytes().to_vec(),
        ))];
        self.shared.log_message(None, false, path, &header, &payloads);
        self.shared.transmit(path, &[encode_plain(&header, &payloads)]);
    }

    /// A peer without state says that it does not know an SPI of ESP: a hint (RFC 7296 §1.5). Finding out whose SPI it is
    /// costs a walk through all SAs, so few a second are looked at. Several peers may have chosen the same.
    pub(super) fn hear_complaint(&mut self, path: Path, body: &OuterBody<'_>) {
        if !self.complaints.spend(self.shared.now.instant) {
            return;
        }
        let complaint = Complaint::read(body).unwrap_or_default();
        let Some(spi) = complaint.spi else { return };
        let is_meant = |sa: &&IkeSa| sa.child_by_peer_spi(spi).is_some();
        let from_there = |sa: &IkeSa| sa.path.remote.ip() == path.remote.ip();
        let meant = self.sas.values().filter(is_meant);
        let mut meant: Vec<(bool, IkeSpi)> = meant.map(|sa| (!from_there(sa), sa.own_spi())).collect();
        // First who probably said it.
        meant.sort_unstable();
        let mut verified = false;
        for (_, own) in &meant {
            // RFC 6290 §8.2: "A token taker SHOULD verify the QCD token that arrives with an INVALID_SPI notification the same as
            // if it arrived with the IKE SPIs of the parent IKE SA", from "any IP address and port combination" (§3).
            self.with_sa(*own, |sa, shared| {
                verified = verified || sa.hear_tokens(shared, &complaint.tokens);
            });
        }
        for (elsewhere, own) in meant {
            if !verified && !elsewhere {
                self.with_sa(own, IkeSa::hint);
            }
        }
    }

    /// A stranger wants to begin (RFC 7296 §1.2), or to go on with what it had (RFC 5723). Nothing is kept until cookies, limits
    /// and proposals, or the ticket, have been passed.
    pub(super) fn handle_init_request(&mut self, path: Path, datagram: &[u8], header: &Header, payloads: Vec<Payload>) {
        let digest = Incoming::digest(datagram);
        if let Some(sa) = self.init_seen.get(&digest).and_then(|spi| self.sas.get(spi)) {
            // §2.1: recognised by the whole message, not by SPI alone; answered as before.
            self.shared.counters.retransmitted += 1;
            // Not to another address: a copy with a forged source would make us talk to whom it names.
            // A TCP connection's is not forged; RFC 9329 §6.2: if another "is established while the exchange Initiator is waiting for
            // a response, the Initiator MUST retransmit its request over this connection".
            let again = sa.path.is_tcp() && path.is_tcp() && sa.path.remote.ip() == path.remote.ip();
            if matches!(sa.stage, Stage::HalfOpen(_)) && (sa.path == path || again) {
                let response = sa.init.response.clone();
                self.shared.transmit(path, &[response]);
            }
            return;
        }
        // Our own request come back (checklist L7): its SPI is one that we chose.
        let reflected = self.sas.contains_key(&header.spi_i);
        let proper =
            !reflected && header.spi_i != IkeSpi::ZERO && header.spi_r == IkeSpi::ZERO && header.message_id == 0;
        if !proper || !header.flags.initiator || self.shutting_down {
            self.shared.counters.unexpected += 1;
            return;
        }
        self.shared.log_message(None, true, path, header, &payloads);
        let request = match wire::decode_request(header.exchange, payloads) {
            Ok(Request::IkeSaInit(request)) => *request,
            Ok(Request::IkeSessionResume(request)) => {
                if let Some(sa) = self.begin_resuming(path, header, &request) {
                    self.keep_half_open(sa, path, digest, datagram);
                }
                return;
            }
            _ => {
                self.shared.counters.malformed += 1;
                return;
            }
        };
        let candidates = pad::candidates(&self.shared.config, &path);
        if candidates.is_empty() {
            self.shared.counters.no_matching_connection += 1;
            let verdict = format!(
                "no connection is configured for {} at {}",
                path.remote.ip(),
                path.local.ip()
            );
            let hint = Some("add a connection whose remote_addrs and local_addrs fit, or stop the peer".to_owned());
            self.shared
                .failed_by_stranger(stranger(path, Reason::NoProposalChosen, verdict, vec![], vec![], hint));
            return self.refuse_init(path, header, Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new()));
        }
        if self.redirect_init(path, header, &request, datagram.len()) {
            return;
        }
        let shown = Shown {
            nonce: &request.nonce,
            cookie: request.cookie.as_deref(),
            solution: request.solution.as_deref(),
        };
        let Some(admission) = self.admit(path, header, &shown, Room::ForAll(&candidates, &request.sa)) else {
            return;
        };
        let begun = self.begin_responding(path, header, &request, &candidates, datagram.len());
        // Whatever came of it, except where another group is asked for: the work was done, and RFC 8019 §7.1.1.3: "an attacker
        // gains no or insignificant benefit from reusing puzzle solutions in several requests."
        if !matches!(begun, Err(IkeError::InvalidKe(_))) {
            self.use_up(admission);
        }
        match begun {
            Ok(sa) => self.keep_half_open(sa, path, digest, datagram),
            Err(IkeError::KeyExchange(_)) => self.shared.counters.malformed += 1,
            Err(error) => {
                if !matches!(error, IkeError::InvalidKe(_)) {
                    let (offered, wanted, hint) = error.explain();
                    self.shared.failed_by_stranger(stranger(
                        path,
                        (&error).into(),
                        error.to_string(),
                        offered,
                        wanted,
                        hint,
                    ));
                }
                self.refuse_init(path, header, error.notify());
            }
        }
    }

    /// An answer to a first message goes out, and what it takes to go on is kept.
    fn keep_half_open(&mut self, mut sa: IkeSa, path: Path, digest: [u8; 32], datagram: &[u8]) {
        sa.init.request = datagram.to_vec();
        let spi = sa.spi_r;
        self.init_seen.insert(digest, spi);
        let there = admission::neighbourhood(path.remote.ip());
        *self.half_open.entry(there).or_default() += 1;
        (sa.counted, sa.answers) = (Some(there), Some(digest));
        let response = sa.init.response.clone();
        self.sas.insert(spi, sa);
        self.shared.transmit(path, &[response]);
        self.reindex(spi);
    }

    pub(super) fn begin_responding(
        &mut self,
        path: Path,
        header: &Header,
        request: &IkeSaInitRequest,
        candidates: &[Arc<Connection>],
        request_len: usize,
    ) -> Result<IkeSa, IkeError> {
        let shared = &mut self.shared;
        let ours: Vec<IkeProposal> = candidates
            .iter()
            .flat_map(|c| c.ike_proposals.iter().cloned())
            .collect();
        let chosen = {
            let choose = if request.capabilities.intermediate {
                IkeProposal::choose
            } else {
                IkeProposal::choose_without_additional
            };
            choose(&ours, &request.sa, 0, Group::from_method(request.ke.method))?
        };
        let group = chosen.suite.group;
        if request.ke.method != group.method() {
            return Err(IkeError::InvalidKe(group));
        }
        let method = (shared.provider.key_exchange)(group).ok_or(IkeError::Internal("the group is not available"))?;
        let (public, secret) = method.respond(&request.ke.data, &mut shared.rng)?;
        let spi_r = shared.ike_spi();
        let nonce = shared.nonce();
        let expires = shared.now.instant + shared.config.gateway.half_open_timeout;
        let half = HalfOpen {
            candidates: candidates.to_vec(),
            shared: secret,
            expires,
            additional_done: 0,
            next_keys: None,
        };
        let stage = Stage::HalfOpen(Box::new(half));
        let mut sa = IkeSa::new(shared, header.spi_i, spi_r, false, stage, path);
        sa.suite = Some(chosen.suite);
        sa.incoming = Incoming::new(1);
        sa.peer_fragments = request.capabilities.fragmentation;
        sa.redirection.peer = request.capabilities.redirect;
        sa.peer_hashes.clone_from(&request.capabilities.signature_hashes);
        let (source, destination) = (&request.nat_source, &request.nat_destination);
        sa.nat = nat::detect(header.spi_i, IkeSpi::ZERO, path.remote, path.local, source, destination);
        // Which of them it will be is not known yet. Pretending for all does no harm: the others use UDP then as well.
        let pretend = candidates.iter().any(|connection| connection.force_udp_encapsulation);
        sa.nat.pretending = pretend && sa.nat.detection;
        let own = nat::own(pretend, header.spi_i, spi_r, path.local);
        let nat_source = if sa.nat.detection { vec![own] } else { vec![] };
        let there = nat::digest(header.spi_i, spi_r, path.remote);
        let nat_destination = if sa.nat.detection { vec![there] } else { vec![] };
        let mut capabilities = capabilities(&candidates[0]);
        // RFC 7383 §2.3: it needs both; to a peer that can't, it would only make the answer longer.
        capabilities.fragmentation &= request.capabilities.fragmentation;
        // The connection is known by identity only later: what any of the candidates may need is announced.
        capabilities.signature_hashes = candidates
            .iter()
            .find_map(|c| crate::ike::exchange::capabilities(c).signature_hashes);
        // RFC 9370 §2.2.1: "confirming that IKE_INTERMEDIATE exchange is supported and will be used".
        capabilities.intermediate = !chosen.suite.additional.is_empty();
        // RFC 8784 §3: "does not have any PPK configured": whoever of the candidates it is, it says in IKE_AUTH.
        capabilities.ppk = request.capabilities.ppk && candidates.iter().any(|c| !c.ppk.keys.is_empty());
        sa.ppk.negotiated = capabilities.ppk;
        // RFC 9593 §3.1: "a SUPPORTED_AUTH_METHODS notification containing no data" says that the list comes in IKE_INTERMEDIATE.
        let methods = if chosen.suite.additional.is_empty() {
            crate::ike::auth::announce(candidates.iter().map(Arc::as_ref))
        } else {
            Some(Notify::new(NotifyType::SUPPORTED_AUTH_METHODS, Vec::new()))
        };
        let response = IkeSaInitReply::Accepted(Box::new(IkeSaInitResponse {
            sa: wire::SecurityAssociation {
                proposals: vec![chosen.answer],
            },
            ke: KeyExchange {
                method: group.method(),
                data: public,
            },
            nonce: nonce.clone(),
            nat_source,
            nat_destination,
            certreqs: crate::ike::auth::request(candidates.iter().map(Arc::as_ref)),
            // All that it would save is done already.
            puzzle: None,
            capabilities,
            vendor_ids: vec![],
            other: methods.into_iter().collect(),
        }));
        let flags = Flags {
            initiator: false,
            response: true,
        };
        let answer = Header {
            spi_r,
            flags,
            ..*header
        };
        let mut payloads = wire::encode_response(&Response::IkeSaInit(response));
        let mut octets = encode_plain(&answer, &payloads);
        // RFC 6023 §3: "A supporting responder MUST include the Notify payload". But to an address that has proven nothing no more
        // goes than came from it: this can be left out, and whoever wants it says so, or has said more anyway. What RFC 9593 has is
        // optional, and left out before.
        for spare in [
            NotifyType::SUPPORTED_AUTH_METHODS,
            NotifyType::CHILDLESS_IKEV2_SUPPORTED,
        ] {
            if octets.len() > request_len {
                let spared = |payload: &Payload| matches!(payload, Payload::Notify(n) if n.notify_type == spare);
                payloads.retain(|payload| !spared(payload));
                octets = encode_plain(&answer, &payloads);
            }
        }
        shared.log_message(None, false, path, &answer, &payloads);
        sa.init = InitMessages {
            request: Vec::new(),
            response: octets,
            nonce_i: request.nonce.0.clone(),
            nonce_r: nonce.0,
        };
        Ok(sa)
    }

    /// At most one small, stateless answer (checklist D13).
    pub(super) fn refuse_init(&mut self, path: Path, header: &Header, notify: Notify) {
        if self.init_refusals.spend(self.shared.now.instant) {
            let reply = match header.exchange {
                ExchangeType::IKE_SESSION_RESUME => Response::IkeSessionResume(ResumeReply::Refused(notify)),
                _ => Response::IkeSaInit(IkeSaInitReply::Refused(notify)),
            };
            self.reply_init(path, header, &reply);
        }
    }

    /// An answer that leaves nothing behind.
    pub(super) fn reply_init(&mut self, path: Path, header: &Header, reply: &Response) {
        let flags = Flags {
            initiator: false,
            response: true,
        };
        let answer = Header {
            spi_r: IkeSpi::ZERO,
            flags,
            ..*header
        };
        let payloads = wire::encode_response(reply);
        self.shared.log_message(None, false, path, &answer, &payloads);
        self.shared.transmit(path, &[encode_plain(&answer, &payloads)]);
    }

    pub(super) fn half_open_less(&mut self, remote: IpAddr) {
        if let Some(count) = self.half_open.get_mut(&remote) {
            *count -= 1;
            if *count == 0 {
                self.half_open.remove(&remote);
            }
        }
    }
}

fn stranger(
    path: Path,
    reason: Reason,
    verdict: String,
    offered: Vec<String>,
    wanted: Vec<String>,
    hint: Option<String>,
) -> Failure {
    Failure {
        connection: None,
        path,
        reason,
        verdict,
        offered,
        wanted,
        hint,
    }
}
