//! IKE_SA_INIT as initiator (RFC 7296 §1.2, §2.6, §2.7).

use super::intermediate::IntermediateExchange;
use super::{Exchange, Next, Request};
use crate::crypto::{Group, PrfAlgorithm};
use crate::ike::auth::{HASHES, PeerMethods, authorities};
use crate::ike::error::IkeError;
use crate::ike::kex::KeyExchanges;
use crate::ike::keys::{Binding, IkeKeys};
use crate::ike::nat;
use crate::ike::puzzle::Puzzle;
use crate::ike::reason::Reason;
use crate::ike::sa::IkeSa;
use crate::ike::shared::Shared;
use crate::ike::solving::MOST;
use crate::policy::connection::Connection;
use crate::policy::proposal::IkeProposal;
use crate::wire::message::{self, Capabilities, IkeSaInitReply, IkeSaInitRequest, IkeSaInitResponse};
use crate::wire::{Header, IkeSpi, KeMethod, KeyExchange, Nonce, PuzzleNotify, Redirect};
use std::sync::Arc;

/// Repetitions with a cookie or another group before the peer is taken for broken (RFC 7296 §2.6.1: both orders converge
/// within three).
const MOST_REPETITIONS: u32 = 6;

/// Zero bits of a puzzle whose difficulty is left to us (RFC 8019 §7.1.1.1: "as much power to solve a puzzle as it can afford").
const OWN_CHOICE: u8 = 18;

/// What IKE_SA_INIT needs.
#[derive(Clone)]
pub struct InitExchange {
    connection: Arc<Connection>,
    kex: KeyExchanges,
    nonce: Nonce,
    cookie: Option<Vec<u8>>,
    /// The puzzle that came with it, and the solution, if there is one.
    puzzle: Option<PuzzleNotify>,
    solution: Option<Vec<u8>>,
    /// A cookie whose puzzle is being solved.
    waiting: Option<(Vec<u8>, PuzzleNotify)>,
    /// Puzzles that were looked at.
    puzzles: u32,
    /// That one is too hard was told already.
    told_of_puzzle: bool,
    repetitions: u32,
    /// An unauthenticated refusal was told already.
    told: bool,
}

/// What both sides announce.
pub fn capabilities(connection: &Connection) -> Capabilities {
    // RFC 7427 §4: announced if a signature may be accepted, or is made.
    let signs = connection.remote.credential.signs() || connection.local.credential.signs();
    Capabilities {
        fragmentation: connection.fragmentation,
        signature_hashes: signs.then(|| HASHES.to_vec()),
        // RFC 9370 §2.2.1: with additional key exchanges in the offer "it MUST also negotiate the use of the
        // IKE_INTERMEDIATE exchange".
        intermediate: connection
            .ike_proposals
            .iter()
            .any(|proposal| !proposal.additional.is_empty()),
        // In a request it means nothing, but makes room for it in the answer.
        childless: true,
        // RFC 8784 §3: "(whether or not the use of the PPK is mandatory)".
        ppk: connection.ppk.to_send().is_some(),
        // That is the initiator's, and it depends on where it comes from.
        redirect: None,
    }
}

impl InitExchange {
    /// The first request of a new SA.
    pub fn begin(sa: &IkeSa, shared: &mut Shared, connection: &Arc<Connection>) -> Option<(Exchange, Request)> {
        let group = *connection.ike_proposals.first()?.groups.first()?;
        let kex = KeyExchanges::start(shared.provider, group, &mut shared.rng)?;
        let nonce = shared.nonce();
        let connection = Arc::clone(connection);
        let exchange = Self {
            connection,
            kex,
            nonce,
            cookie: None,
            puzzle: None,
            solution: None,
            waiting: None,
            puzzles: 0,
            told_of_puzzle: false,
            repetitions: 0,
            told: false,
        };
        let request = exchange.request(sa);
        Some((Exchange::Init(Box::new(exchange)), request))
    }

    /// Whether the peer has not answered at all.
    pub const fn has_heard_nothing(&self) -> bool {
        !self.told && self.repetitions == 0 && self.waiting.is_none()
    }

    /// §2.6: repeated with a cookie or another group, "all other payloads unchanged".
    fn request(&self, sa: &IkeSa) -> Request {
        let connection = &self.connection;
        let pretend = connection.force_udp_encapsulation;
        let source = nat::own(pretend, sa.spi_i, IkeSpi::ZERO, sa.path.local);
        let mut capabilities = capabilities(connection);
        capabilities.redirect = connection.announces_redirect(sa.redirection.from);
        Request(message::Request::IkeSaInit(Box::new(IkeSaInitRequest {
            cookie: self.cookie.clone(),
            solution: self.solution.clone(),
            sa: IkeProposal::to_wire(&connection.ike_proposals, &[]),
            ke: KeyExchange {
                method: self.kex.group().method(),
                data: self.kex.public().to_vec(),
            },
            nonce: self.nonce.clone(),
            nat_source: vec![source],
            nat_destination: vec![nat::digest(sa.spi_i, IkeSpi::ZERO, sa.path.remote)],
            capabilities,
            vendor_ids: vec![],
            other: vec![],
        })))
    }

    /// An answer, unauthenticated. What only says no is noted, and the wait goes on.
    pub fn on_reply(
        mut self: Box<Self>,
        sa: &mut IkeSa,
        shared: &mut Shared,
        header: &Header,
        datagram: &[u8],
        reply: IkeSaInitReply,
    ) -> Next {
        match reply {
            IkeSaInitReply::Accepted(response) => self.accepted(sa, shared, header, datagram, *response),
            // Whoever asked for the puzzle, its solution is sent; what else there is to say comes after that.
            IkeSaInitReply::Cookie { .. } | IkeSaInitReply::InvalidKe(_) if self.waiting.is_some() => {
                Next::KeepWaiting(Exchange::Init(self))
            }
            IkeSaInitReply::Cookie { cookie, puzzle }
                if self.cookie.as_ref() != Some(&cookie) || puzzle.is_some() && self.puzzle != puzzle =>
            {
                if let Some(asked) = puzzle
                    && let Some(puzzle) = self.accepts(sa, shared, cookie.clone(), asked)
                {
                    self.waiting = Some((cookie, asked));
                    sa.begin_solving(shared, puzzle, None);
                    return Next::KeepWaiting(Exchange::Init(self));
                }
                self.show(sa, shared, (cookie, puzzle), None)
            }
            IkeSaInitReply::InvalidKe(method) => {
                // Checklist D8: a group we did not propose, or the one we used, can't be meant.
                let group = Group::from_method(method).filter(|group| {
                    *group != self.kex.group() && self.connection.ike_proposals.iter().any(|p| p.groups.contains(group))
                });
                let kex = group.and_then(|group| KeyExchanges::start(shared.provider, group, &mut shared.rng));
                let Some(kex) = kex else {
                    return self.refused(
                        sa,
                        shared,
                        Reason::NoProposalChosen,
                        &format!("the peer wants key exchange {method}"),
                    );
                };
                self.kex = kex;
                self.repeat(sa, shared)
            }
            IkeSaInitReply::Cookie { .. } => Next::KeepWaiting(Exchange::Init(self)),
            IkeSaInitReply::Redirect(redirect) => self.redirected(sa, shared, redirect),
            IkeSaInitReply::Refused(notify) => {
                let text = format!("the peer answers {}", notify.notify_type);
                self.refused(sa, shared, notify.notify_type.into(), &text)
            }
        }
    }

    /// The puzzle, if it is to be solved. RFC 8019 §7.1.2: "The Initiator MAY ignore the PUZZLE notification if it is not willing to
    /// spend resources to solve the puzzle of the requested difficulty, even if it supports puzzles."
    fn accepts(&mut self, sa: &IkeSa, shared: &mut Shared, string: Vec<u8>, asked: PuzzleNotify) -> Option<Puzzle> {
        let most = shared.config.gateway.puzzle_difficulty_accepted;
        if most == 0 {
            return None;
        }
        self.puzzles += 1;
        let offered = |prf: &PrfAlgorithm| {
            let mut proposals = self.connection.ike_proposals.iter();
            proposals.any(|proposal| proposal.prf.contains(prf))
        };
        // §4.4: "one of those proposed by the Initiator in the SA payload".
        let prf = PrfAlgorithm::from_id(asked.prf).filter(offered);
        if let Some(prf) = prf.filter(|_| asked.difficulty <= most && self.puzzles <= MOST) {
            return Some(Puzzle {
                prf,
                // §8.1: "the Initiator is free to select an appropriate difficulty level on its own".
                difficulty: if asked.difficulty == 0 {
                    OWN_CHOICE.min(most)
                } else {
                    asked.difficulty
                },
                string,
            });
        }
        shared.counters.puzzles_left += 1;
        // §9: "log or display a failure message to the administrator or user".
        if asked.difficulty > most && !std::mem::replace(&mut self.told_of_puzzle, true) {
            let bits = asked.difficulty;
            let verdict = format!("the peer asks to solve a puzzle of {bits} bits, which is left");
            let hint = format!("up to {most} are accepted (puzzle_difficulty_accepted); is the peer under attack?");
            sa.tell_failure(shared, Reason::Refused, verdict, vec![], vec![], Some(hint));
        }
        None
    }

    /// The puzzle is solved, or left.
    pub fn on_solution(mut self: Box<Self>, sa: &mut IkeSa, shared: &mut Shared, solution: Option<Vec<u8>>) -> Next {
        match self.waiting.take() {
            Some((cookie, asked)) => self.show(sa, shared, (cookie, Some(asked)), solution),
            None => Next::KeepWaiting(Exchange::Init(self)),
        }
    }

    /// §2.6: "the initiator MUST then retry the IKE_SA_INIT request, and include the COOKIE notification containing the received
    /// data as the first payload"; RFC 8019 §7.1.2: it "returns back to the Responder the puzzle solution in a new payload called a
    /// Puzzle Solution (PS) payload".
    fn show(
        mut self: Box<Self>,
        sa: &mut IkeSa,
        shared: &mut Shared,
        (cookie, puzzle): (Vec<u8>, Option<PuzzleNotify>),
        solution: Option<Vec<u8>>,
    ) -> Next {
        self.cookie = Some(cookie);
        (self.puzzle, self.solution) = (puzzle, solution);
        self.repeat(sa, shared)
    }

    /// RFC 5685 §3: "When the client receives the IKE_SA_INIT response, it MUST verify that the nonce data matches the value sent
    /// in the IKE_SA_INIT request. If the values do not match, the client MUST silently discard the response (and keep waiting
    /// for another response)." So it was said by somebody who has seen the request; no more is known of who it was.
    fn redirected(self: Box<Self>, sa: &IkeSa, shared: &mut Shared, redirect: Redirect) -> Next {
        if !self.connection.follow_redirects || redirect.nonce != self.nonce.0 {
            shared.counters.unexpected += 1;
            return Next::KeepWaiting(Exchange::Init(self));
        }
        sa.sent_in_init(shared, redirect.to);
        Next::KeepWaiting(Exchange::Init(self))
    }

    /// All IKE_SA_INIT requests of an SA have message ID 0 (§2.2).
    fn repeat(mut self: Box<Self>, sa: &mut IkeSa, shared: &mut Shared) -> Next {
        self.repetitions += 1;
        if self.repetitions > MOST_REPETITIONS {
            return self.refused(
                sa,
                shared,
                Reason::Refused,
                "the peer asks again and again for a cookie or another group",
            );
        }
        sa.outgoing = crate::ike::window::Outgoing::new(0);
        let request = self.request(sa);
        let _ = shared;
        Next::Send(Exchange::Init(self), request)
    }

    /// §2.21.1: "Because all error notifications are completely unauthenticated, the recipient should continue trying for
    /// some time before giving up."
    fn refused(mut self: Box<Self>, sa: &IkeSa, shared: &mut Shared, reason: Reason, what: &str) -> Next {
        // RFC 9329 §6.4: "in the case of TCP encapsulation, an Initiator SHOULD NOT wait for additional messages in case it receives an
        // error notification from the Responder in the IKE_SA_INIT exchange."
        let over = sa.path.is_tcp();
        if !std::mem::replace(&mut self.told, true) {
            let wanted = self.connection.ike_proposals.iter().map(ToString::to_string).collect();
            let unauthenticated = "unauthenticated, so we go on waiting for another answer";
            let verdict = match over {
                true => format!("{what} to IKE_SA_INIT"),
                false => format!("{what} to IKE_SA_INIT ({unauthenticated})"),
            };
            let hint = "compare the IKE proposals of both ends, and whether the peer has a connection for our address";
            sa.tell_failure(shared, reason, verdict, vec![], wanted, Some(hint.to_owned()));
        }
        if over {
            return Next::Close(what.to_owned());
        }
        Next::KeepWaiting(Exchange::Init(self))
    }

    fn accepted(
        mut self: Box<Self>,
        sa: &mut IkeSa,
        shared: &mut Shared,
        header: &Header,
        datagram: &[u8],
        response: IkeSaInitResponse,
    ) -> Next {
        if header.spi_r == IkeSpi::ZERO {
            return Next::KeepWaiting(Exchange::Init(self));
        }
        // §3.3.6: the answer must be a subset of the offer. It is not authenticated yet: another may follow.
        let chosen = match IkeProposal::verify_answer(&self.connection.ike_proposals, &response.sa, 0) {
            Ok(chosen) => chosen,
            Err(error) => {
                let error = IkeError::NoProposal(error);
                if !std::mem::replace(&mut self.told, true) {
                    sa.tell_error(shared, "the peer chose what was not offered", &error);
                }
                if sa.path.is_tcp() {
                    return Next::Close("the peer chose what was not offered".to_owned());
                }
                return Next::KeepWaiting(Exchange::Init(self));
            }
        };
        if !chosen.suite.additional.is_empty() && !response.capabilities.intermediate {
            return self.refused(
                sa,
                shared,
                Reason::Refused,
                "the peer wants additional key exchanges without IKE_INTERMEDIATE",
            );
        }
        let group = self.kex.group();
        if chosen.suite.group != group || response.ke.method != group.method() || response.ke.method == KeMethod::NONE {
            return self.refused(
                sa,
                shared,
                Reason::InvalidSyntax,
                "the peer answers with a key exchange of another group",
            );
        }
        let secret = match self.kex.finish(&response.ke.data) {
            Ok(secret) => secret,
            Err(error) => {
                return self.refused(
                    sa,
                    shared,
                    Reason::InvalidSyntax,
                    &format!("the peer's public value is wrong: {error}"),
                );
            }
        };
        sa.stop_solving(shared);
        // RFC 8019 §7.2.2: "If the IKE_SA_INIT regular response message ... contains the PUZZLE notification and the Initiator supports
        // puzzles, it MUST solve the puzzle." §7.2.1: not "unless a puzzle has been previously presented and solved".
        if let Some(asked) = response.puzzle.filter(|_| self.solution.is_some()) {
            // §7.2.3: "S is a concatenation of Nr and SPIr."
            let string = [response.nonce.0.as_slice(), &header.spi_r.0].concat();
            self.puzzles = 0;
            sa.auth_puzzle = self.accepts(sa, shared, string, asked);
        }
        sa.spi_r = header.spi_r;
        sa.suite = Some(chosen.suite);
        sa.init.response = datagram.to_vec();
        sa.init.nonce_i.clone_from(&self.nonce.0);
        sa.init.nonce_r.clone_from(&response.nonce.0);
        sa.peer_fragments = response.capabilities.fragmentation;
        sa.peer_hashes.clone_from(&response.capabilities.signature_hashes);
        sa.peer_childless = response.capabilities.childless;
        sa.ppk.negotiated = response.capabilities.ppk && self.connection.ppk.to_send().is_some();
        sa.peer_authorities = authorities(&response.certreqs);
        sa.peer_methods = PeerMethods::read(&response.other);
        sa.nat = nat::detect(
            sa.spi_i,
            sa.spi_r,
            sa.path.remote,
            sa.path.local,
            &response.nat_source,
            &response.nat_destination,
        );
        sa.nat.pretending = self.connection.force_udp_encapsulation;
        let binding = Binding {
            ni: &self.nonce.0,
            nr: &response.nonce.0,
            spi_i: sa.spi_i,
            spi_r: sa.spi_r,
        };
        let keys = IkeKeys::derive(shared.provider, chosen.suite, &secret, &binding);
        if !sa.set_keys(shared, keys) {
            return Next::Close("an algorithm is not available".to_owned());
        }
        // §2.23: behind a NAT it must "tunnel all future IKE and ESP packets associated with this IKE SA over UDP port 4500",
        // and without one it "can use port 4500 for both IKE and ESP": so it always does.
        let nat_port = shared.config.gateway.nat_port;
        if sa.nat.detection && !sa.path.is_tcp() {
            sa.path.local.set_port(nat_port);
            sa.path.remote.set_port(nat_port);
        }
        // IKE_SA_INIT is answered; the next request has ID 1.
        sa.outgoing.answered(0);
        IntermediateExchange::begin(sa, shared, self.connection, 0)
    }
}
