//! What time brings an IKE SA: retransmissions, lifetimes, liveness, keepalives.

use super::*;
use crate::ike::reason::Reason;

impl IkeSa {
    /// All that time brings: retransmissions, lifetimes, liveness, keepalives.
    pub fn handle_timeout(&mut self, shared: &mut Shared) {
        let now = shared.now.instant;
        self.requests.parts.expire(now);
        self.responses.parts.expire(now);
        match &self.stage {
            // It is not the peer that did not go on.
            Stage::HalfOpen(half) if half.expires <= now && self.signing.is_some() => {
                self.give_up_signing(shared);
                return;
            }
            Stage::HalfOpen(half) if half.expires <= now => {
                self.close(shared, "the peer did not go on");
                self.stage = Stage::Closed { until: now };
                return;
            }
            Stage::Closed { .. } => return,
            _ => {}
        }
        if self.signing.as_ref().is_some_and(|signing| signing.deadline <= now) {
            self.give_up_signing(shared);
            return;
        }
        if let Some(solving) = &self.solving {
            if solving.deadline <= now {
                self.give_up_solving(shared);
            }
            return;
        }
        self.series_timeout(shared);
        self.resume_timeout(shared);
        let schedule = schedule(shared);
        if self.is_unheard(now) && self.fall_back(shared) {
            return;
        }
        match self.outgoing.due(now, &schedule, &mut shared.rng) {
            Due::Wait => {}
            Due::Retransmit(path, datagrams) => {
                if let Some(path) = self.way_to_repeat(shared, path) {
                    let smaller = if path.is_tcp() { None } else { self.refragment(shared) };
                    let datagrams = smaller.unwrap_or(datagrams);
                    shared.counters.retransmitted += 1;
                    shared.count(self.name(), |tally| tally.retransmissions += 1);
                    shared.transmit(path, &datagrams);
                    self.last_sent = now;
                    self.sent_again(shared, &datagrams);
                }
            }
            Due::GiveUp if self.fall_back(shared) => return,
            Due::GiveUp => {
                let what = self.exchange.as_ref().map_or("request", Exchange::what);
                let reason = format!("the peer {} does not answer ({what})", self.path.remote);
                if let Some(exchange) = self.exchange.take() {
                    exchange.abandon(self, shared);
                }
                if self.is_established() {
                    shared.count(self.name(), |tally| tally.dead_peers += 1);
                    self.keep_ticket(shared);
                }
                if matches!(self.stage, Stage::Initiating) {
                    let hint = if self.path.is_tcp() {
                        "it has accepted the TCP connection: does it speak IKE over TCP (RFC 9329)?"
                    } else {
                        "is the peer running, and do UDP 500 and 4500 get through to it?"
                    };
                    let hint = hint.to_owned();
                    self.tell_failure(shared, Reason::NoAnswer, reason.clone(), vec![], vec![], Some(hint));
                }
                self.close(shared, &reason);
                return;
            }
        }
        if self.is_established() {
            self.children_timeout(shared);
            self.lifetime_timeout(shared);
            if self.liveness_due().is_some_and(|at| at <= now) {
                self.jobs.add(now, Job::Liveness);
            }
            if self.probe_due().is_some_and(|at| at <= now) {
                self.jobs.add(now, Job::TryUdp);
            }
            if self.keepalive_due(shared).is_some_and(|at| at <= now) {
                shared.keepalive(self.path);
                self.last_sent = now;
            }
        }
        self.work(shared);
    }

    /// When [`Self::handle_timeout`] is due, and why.
    pub fn next_timeout(&self, shared: &Shared) -> Option<(Instant, TimerKind)> {
        let mut timers = Vec::with_capacity(8);
        match &self.stage {
            Stage::Closed { until } => return Some((*until, TimerKind::ExpireIke)),
            Stage::HalfOpen(half) => timers.push((half.expires, TimerKind::HalfOpenExpiry)),
            Stage::Established => {
                timers.extend(self.children_next());
                timers.extend(self.rekey_at.map(|at| (at, TimerKind::RekeyIke)));
                timers.extend(self.reauth.due().map(|at| (at, TimerKind::Reauthenticate)));
                timers.extend(self.expire_at.map(|at| (at, TimerKind::ExpireIke)));
                if self.is_idle() {
                    timers.extend(self.liveness_due().map(|at| (at, TimerKind::Liveness)));
                    timers.extend(self.probe_due().map(|at| (at, TimerKind::TryUdp)));
                }
                timers.extend(self.keepalive_due(shared).map(|at| (at, TimerKind::NatKeepalive)));
            }
            Stage::Initiating | Stage::Rekeyed | Stage::Closing => {}
        }
        timers.extend(
            self.signing
                .as_ref()
                .map(|signing| (signing.deadline, TimerKind::Signature)),
        );
        match (&self.solving, self.outgoing.in_flight()) {
            (Some(solving), _) => timers.push((solving.deadline, TimerKind::Puzzle)),
            (None, Some(request)) => timers.push((request.due, TimerKind::Retransmit)),
            (None, None) if self.is_idle() => {
                let next = self.jobs.next(|job| followup::may_begin(&self.series, job));
                timers.extend(next.map(|at| (at, TimerKind::Retry)));
            }
            (None, None) => {}
        }
        timers.extend(self.series_expires().map(|at| (at, TimerKind::SeriesExpiry)));
        for collected in [&self.requests, &self.responses] {
            timers.extend(collected.parts.expires_at().map(|at| (at, TimerKind::ReassemblyExpiry)));
        }
        timers.into_iter().min()
    }

    /// RFC 7296 §2.4: after a silence, ask; traffic is proof of life.
    pub(super) fn liveness_due(&self) -> Option<Instant> {
        let delay = self.connection.as_ref()?.dpd_delay?;
        Some(self.last_heard + delay)
    }

    /// RFC 3948 §4: the side behind the NAT keeps the mapping, when nothing else does.
    pub(super) fn keepalive_due(&self, shared: &Shared) -> Option<Instant> {
        // RFC 9329 §6.6: "IPsec ESP NAT-keepalive packets [RFC3948] SHOULD NOT be sent when using TCP encapsulation."
        (self.nat.local && !self.path.is_tcp()).then(|| self.last_sent + shared.config.gateway.nat_keepalive)
    }
}

pub(super) fn schedule(shared: &Shared) -> Schedule {
    let gateway = &shared.config.gateway;
    Schedule {
        timeout: gateway.retransmit_timeout,
        base_percent: gateway.retransmit_base_percent,
        tries: gateway.retransmit_tries,
    }
}
