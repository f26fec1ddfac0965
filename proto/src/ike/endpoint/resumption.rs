//! Session resumption (RFC 5723) among all IKE SAs: tickets that come back to us, and those that we keep for later.

use super::admission::{Room, Shown};
use super::*;
use crate::ike::auth_lifetime::Reauthentication;
use crate::ike::exchange::announced;
use crate::ike::resume::{Kept, Resumption};
use crate::ike::ticket::{Issued, TicketState};
use crate::wire::message::{ResumeReply, ResumeRequest, ResumeResponse};

impl Endpoint {
    /// A ticket is presented (§4.3.2). Whatever is wrong with it, the peer is told to begin anew, and nothing is kept.
    pub(super) fn begin_resuming(&mut self, path: Path, header: &Header, request: &ResumeRequest) -> Option<IkeSa> {
        let (issued, state) = match self.shared.resumption.open(self.shared.now, &request.ticket) {
            Ok(opened) => opened,
            Err(why) => return self.refuse_ticket(path, header, why),
        };
        // RFC 8019 §4.5: "When the Responder is under attack, it SHOULD prefer previously authenticated peers who present a
        // Session Resumption ticket": there is room for them when there is none for others.
        let shown = Shown {
            nonce: &request.nonce,
            cookie: request.cookie.as_deref(),
            solution: None,
        };
        let admission = self.admit(path, header, &shown, Room::ForTickets)?;
        self.use_up(admission);
        // §9.3: what is done before is to "be lightweight"; this may be a chain of certificates.
        match self.usable_ticket(path, issued, state) {
            Ok((connection, _)) if self.sends_away(path, request.capabilities.redirect, &connection) => {
                self.refuse_ticket(path, header, "its peer is to go elsewhere")
            }
            Ok((connection, state)) => self.answer_ticket(path, header, request, connection, state),
            Err(why) => self.refuse_ticket(path, header, why),
        }
    }

    /// It is no failure: the peer begins anew at once.
    fn refuse_ticket(&mut self, path: Path, header: &Header, why: &str) -> Option<IkeSa> {
        self.shared.counters.tickets_refused += 1;
        self.shared.log_line(path, format!("the ticket is refused: {why}"));
        self.refuse_init(path, header, Notify::new(NotifyType::TICKET_NACK, Vec::new()));
        None
    }

    /// The connection that a ticket is of, and what it says, if it may be used from there now.
    fn usable_ticket(
        &self,
        path: Path,
        issued: Issued,
        state: TicketState,
    ) -> Result<(Arc<Connection>, Resumption), &'static str> {
        let shared = &self.shared;
        let candidates = pad::candidates(&shared.config, &path);
        let connection = candidates
            .into_iter()
            .find(|candidate| candidate.name == state.connection);
        let connection = connection.ok_or("its connection is not configured, or not for this address")?;
        let state = Resumption {
            own: state.own.clone(),
            peer: state.peer.clone(),
            proof: state.proof.clone(),
            post_quantum: state.post_quantum,
            ppk: state.ppk,
            exchanged: state.exchanged,
            reauth: Reauthentication {
                end: state.reauth_end,
                ..Reauthentication::default()
            },
            ticket: Some((issued, state)),
        };
        IkeSa::may_resume(shared, &connection, &state)?;
        Ok((connection, state))
    }

    /// Figure 5. The keys are derived when the second message comes.
    fn answer_ticket(
        &mut self,
        path: Path,
        header: &Header,
        request: &ResumeRequest,
        connection: Arc<Connection>,
        state: Resumption,
    ) -> Option<IkeSa> {
        let shared = &mut self.shared;
        let (_, ticket) = state.ticket.as_ref()?;
        let (spi_r, nonce) = (shared.ike_spi(), shared.nonce());
        let half = HalfOpen {
            candidates: vec![Arc::clone(&connection)],
            shared: ticket.d.clone(),
            expires: shared.now.instant + shared.config.gateway.half_open_timeout,
            // What the suite names took place when the SA before was made.
            additional_done: usize::MAX,
            next_keys: None,
        };
        let suite = ticket.suite;
        let mut sa = IkeSa::new(
            shared,
            header.spi_i,
            spi_r,
            false,
            Stage::HalfOpen(Box::new(half)),
            path,
        );
        sa.suite = Some(suite);
        sa.resumes = Some(Box::new(state));
        sa.incoming = Incoming::new(1);
        let mut capabilities = announced(&connection);
        capabilities.fragmentation &= request.capabilities.fragmentation;
        sa.peer_fragments = capabilities.fragmentation;
        // §5: "Peer supports redirects" is "From new exchange".
        sa.redirection.peer = request.capabilities.redirect;
        let (source, destination) = (&request.nat_source, &request.nat_destination);
        sa.nat = nat::detect(header.spi_i, IkeSpi::ZERO, path.remote, path.local, source, destination);
        sa.nat.pretending = connection.force_udp_encapsulation && sa.nat.detection;
        let own = nat::own(connection.force_udp_encapsulation, header.spi_i, spi_r, path.local);
        let there = nat::digest(header.spi_i, spi_r, path.remote);
        let of = |digest| if sa.nat.detection { vec![digest] } else { vec![] };
        let response = Response::IkeSessionResume(ResumeReply::Accepted(Box::new(ResumeResponse {
            nonce: nonce.clone(),
            nat_source: of(own),
            nat_destination: of(there),
            capabilities,
            other: vec![],
        })));
        let flags = Flags {
            initiator: false,
            response: true,
        };
        let answer = Header {
            spi_r,
            flags,
            ..*header
        };
        let payloads = wire::encode_response(&response);
        shared.log_message(None, false, path, &answer, &payloads);
        sa.init = InitMessages {
            request: Vec::new(),
            response: encode_plain(&answer, &payloads),
            nonce_i: request.nonce.0.clone(),
            nonce_r: nonce.0,
        };
        Some(sa)
    }

    /// A ticket for an attempt towards `target`. It leaves the store: §4.3.1: "a client MUST NOT reuse a ticket".
    pub(super) fn kept_ticket(&mut self, connection: &Connection, target: &Target) -> Option<Box<Kept>> {
        let now = self.shared.now;
        self.kept.retain(|_, kept| !kept.is_over(now));
        let usable = self
            .kept
            .get(&connection.name)
            .is_some_and(|kept| kept.is_usable(now, connection, target));
        if usable {
            self.kept.remove(&connection.name)
        } else {
            None
        }
    }

    /// §4.3.4: "the old SA SHOULD be silently deleted without sending a DELETE informational exchange."
    pub(super) fn replace_resumed(&mut self, new: IkeSpi, old: IkeSpi) {
        let same = |a: &IkeSa, b: &IkeSa| neighbours::same_peer(a, b) && a.own_spi() != b.own_spi();
        let is_old = self
            .sas
            .get(&new)
            .zip(self.sas.get(&old))
            .is_some_and(|(new, old)| same(new, old) && !old.ours);
        if is_old {
            self.with_sa(old, |sa, shared| sa.close(shared, "the peer resumed it as a new one"));
        }
    }
}
