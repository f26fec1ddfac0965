//! Redirection (RFC 5685) among all IKE SAs: strangers that are sent away, orders to send peers away, and going where we are sent.

use super::*;
use crate::ike::reason::Reason;
use crate::ike::redirect::Sent;
use crate::ike::stream::tcp_path;
use crate::policy::connection::TcpUse;
use crate::wire::{GatewayIdentity, Redirect, RedirectSupport};
use std::collections::VecDeque;

/// §7: "The default value for the MAX_REDIRECTS configuration variable is 5."
const MAX_REDIRECTS: usize = 5;
/// "The default value for the REDIRECT_LOOP_DETECT_PERIOD configuration variable is 300 seconds."
const REDIRECT_LOOP_DETECT_PERIOD: Duration = Duration::from_secs(300);
/// An SA that stands for so long ends the setup that led to it.
const STANDS: Duration = Duration::from_secs(60);

/// What is remembered of a connection that we were sent elsewhere with.
#[derive(Clone, Default)]
pub(super) struct Redirects {
    /// When at the word of nobody knows whom, and when of who has proven who it is: the last [`MAX_REDIRECTS`] at most.
    unproven: VecDeque<Instant>,
    proven: VecDeque<Instant>,
    /// The daemon looks for a way there.
    pending: Option<Box<Sent>>,
    /// What the gateway of an SA that is up said last while something else was under way: it is followed then.
    next: Option<Box<Sent>>,
}

impl Redirects {
    const fn times(&mut self, sent: &Sent) -> &mut VecDeque<Instant> {
        match sent.attempt {
            Some(_) => &mut self.unproven,
            None => &mut self.proven,
        }
    }
}

impl Endpoint {
    // As gateway.

    /// A stranger that can be sent elsewhere is, if the gateway is to: before any Diffie-Hellman work, and nothing is kept of it.
    /// §3: "If the IKE_SA_INIT request did not indicate support for the redirect mechanism, the responder MUST NOT send the
    /// REDIRECT payload to the VPN client." False: it goes on as if there were nothing.
    pub(super) fn redirect_init(
        &mut self,
        path: Path,
        header: &Header,
        request: &IkeSaInitRequest,
        request_len: usize,
    ) -> bool {
        let Some(to) = self.sends_everybody(path, request.capabilities.redirect) else {
            return false;
        };
        // "the nonce data from the Ni payload in the IKE_SA_INIT request".
        let nonce = request.nonce.0.clone();
        let redirect = Redirect { to, nonce };
        // To an address that has proven nothing no more goes than came from it.
        if Header::LEN + 8 + redirect.notify().data.len() > request_len {
            return false;
        }
        self.shared.counters.redirects_sent += 1;
        self.reply_init(path, header, &Response::IkeSaInit(IkeSaInitReply::Redirect(redirect)));
        true
    }

    fn sends_everybody(&self, path: Path, peer: Option<RedirectSupport>) -> Option<GatewayIdentity> {
        let to = self.shared.config.gateway.redirect_to.as_ref()?;
        peer?.may_be_sent(to, path.local.ip()).then(|| to.clone())
    }

    /// Whether who presents a ticket is to go elsewhere: it has to begin anew for that.
    pub(super) fn sends_away(&self, path: Path, peer: Option<RedirectSupport>, connection: &Connection) -> bool {
        let own = |to: &GatewayIdentity| peer.is_some_and(|peer| peer.may_be_sent(to, path.local.ip()));
        self.sends_everybody(path, peer).is_some() || connection.redirect_to.as_ref().is_some_and(own)
    }

    /// By order: peers of a connection that are up go elsewhere, as far as they can be sent. We don't begin it again by ourselves.
    pub(super) fn redirect(&mut self, name: &ConnectionName, to: Option<GatewayIdentity>) -> Result<(), CommandError> {
        let connection = self.known(name, None)?;
        let gateway = &self.shared.config.gateway;
        let to = to
            .or_else(|| connection.redirect_to.clone())
            .or_else(|| gateway.redirect_to.clone())
            .ok_or_else(|| CommandError::NowhereToGo(Arc::clone(name)))?;
        let established = self.established(Some(name));
        if established.is_empty() {
            return Err(CommandError::NotEstablished(Arc::clone(name)));
        }
        let fits = |spi: &IkeSpi| self.sas.get(spi).is_some_and(|sa| sa.can_be_sent(&to));
        let fitting: Vec<IkeSpi> = established.into_iter().filter(fits).collect();
        if fitting.is_empty() {
            return Err(CommandError::CannotBeSent(Arc::clone(name)));
        }
        if let Some(standing) = self.standing.get_mut(name) {
            standing.wanted = false;
        }
        for spi in fitting {
            self.with_sa(spi, |sa, shared| {
                sa.jobs.drop_if(|job| matches!(job, Job::Redirect(_)));
                sa.jobs.add(shared.now.instant, Job::Redirect(to.clone()));
                sa.work(shared);
            });
        }
        Ok(())
    }

    // As client.

    /// The peer sends us elsewhere: if we go, the daemon finds the way, and the answer is [`Command::Follow`].
    pub(super) fn sent(&mut self, sent: Sent) {
        if self.shutting_down {
            return;
        }
        let name = Arc::clone(&sent.connection);
        // One place at a time; but a gateway that has proven who it is says it once, and deletes who has not gone in time (§5).
        if self.goes_elsewhere(&name, sent.attempt) {
            if sent.beside && sent.attempt.is_none() {
                self.redirects.entry(name).or_default().next = Some(Box::new(sent));
            } else {
                self.shared.counters.unexpected += 1;
            }
            return;
        }
        let refused = match sent.to {
            GatewayIdentity::Address(address) => self.refuses(&sent, address).map(|why| (why.to_owned(), None)),
            GatewayIdentity::Name(_) => None,
        };
        if let Some((why, hint)) = refused.or_else(|| self.too_often(&sent)) {
            return self.stay_with(&sent, &why, hint);
        }
        self.shared.event(Event::Redirected {
            connection: Arc::clone(&name),
            from: sent.path.remote,
            to: sent.to.clone(),
        });
        let (attempt, to) = (sent.attempt, sent.to.clone());
        self.redirects.entry(name).or_default().pending = Some(Box::new(sent));
        if let Some(attempt) = attempt {
            self.with_sa(attempt, |sa, shared| sa.leave_for(shared, &to));
        }
    }

    /// We don't go. Whoever has seen the request can have sent an answer to IKE_SA_INIT: as with errors, we go on waiting for
    /// another, and tell it once. RFC 9329 §6.4: over TCP "an Initiator SHOULD NOT wait for additional messages".
    fn stay_with(&mut self, sent: &Sent, why: &str, hint: Option<&str>) {
        let Some(attempt) = sent.attempt else {
            self.tell_not_followed(sent, None, why, hint);
            if sent.beside {
                self.not_reauthenticated(&sent.connection);
            }
            return;
        };
        let told = |sa: &mut IkeSa| std::mem::replace(&mut sa.redirection.stays, true);
        if self.sas.get_mut(&attempt).is_none_or(told) {
            self.shared.counters.unexpected += 1;
            return;
        }
        self.tell_not_followed(sent, None, why, hint);
        if sent.path.is_tcp() {
            self.with_sa(attempt, |sa, shared| {
                sa.close(shared, "the peer sends us where we don't go")
            });
        }
    }

    /// "the client SHOULD be configured to not accept more than a certain number of redirects (MAX_REDIRECTS) within a short time
    /// period (REDIRECT_LOOP_DETECT_PERIOD) for a particular IKEv2 SA setup." What somebody on the way can forge does not count
    /// against what the gateway has proven to say; nor what was before an SA that has stood since: that setup is over.
    fn too_often(&mut self, sent: &Sent) -> Option<(String, Option<&'static str>)> {
        let now = self.shared.now.instant;
        let stands = |sa: &&IkeSa| sa.ours && sa.is_established() && sa.name().as_ref() == Some(&sent.connection);
        let since = self.sas.values().filter(stands).filter_map(|sa| sa.established);
        let since = since.filter(|since| now.saturating_since(*since) >= STANDS).max();
        let times = self.redirects.get_mut(&sent.connection)?.times(sent);
        times.retain(|at| {
            now.saturating_since(*at) < REDIRECT_LOOP_DETECT_PERIOD && since.is_none_or(|since| *at >= since)
        });
        (times.len() >= MAX_REDIRECTS).then(|| {
            let why = format!("that is more than {MAX_REDIRECTS} times in five minutes");
            let hint = "gateways may be sending their peers to each other: see redirect_to there";
            (why, Some(hint))
        })
    }

    /// Whether we are about to go elsewhere with a connection.
    pub(super) fn is_sent(&self, name: &ConnectionName) -> bool {
        self.redirects.get(name).is_some_and(|known| known.pending.is_some())
    }

    /// Whether we are, or an SA is being made beside one that is up, other than by this attempt.
    pub(super) fn goes_elsewhere(&self, name: &ConnectionName, attempt: Option<IkeSpi>) -> bool {
        let beside = |sa: &IkeSa| sa.reauthenticates && sa.counts() && sa.name().as_ref() == Some(name);
        let another = |sa: &IkeSa| beside(sa) && Some(sa.own_spi()) != attempt;
        self.is_sent(name) || self.sas.values().any(another)
    }

    /// Where to is not wanted any more: there is something newer.
    pub(super) fn stay(&mut self, name: &ConnectionName) {
        if let Some(known) = self.redirects.get_mut(name) {
            (known.pending, known.next) = (None, None);
        }
    }

    /// What was made beside an SA is complete, or has come to nothing: now we go where we were sent meanwhile, unless we are there.
    pub(super) fn sent_meanwhile(&mut self, name: &ConnectionName) {
        let next = self.redirects.get_mut(name).and_then(|known| known.next.take());
        if let Some((sent, sa)) = next.zip(self.newest_of_ours(name))
            && sent.to != GatewayIdentity::Address(sa.path.remote.ip())
        {
            self.sent(*sent);
        }
    }

    fn newest_of_ours(&self, name: &ConnectionName) -> Option<&IkeSa> {
        let established = self.established(Some(name)).into_iter();
        let ours = established.filter_map(|spi| self.sas.get(&spi)).filter(|sa| sa.ours);
        ours.max_by_key(|sa| sa.number)
    }

    /// An address where no other gateway can be.
    fn refuses(&self, sent: &Sent, address: IpAddr) -> Option<&'static str> {
        // ::ffff:192.0.2.1 leads to the same place.
        let address = address.to_canonical();
        let nowhere = match address {
            IpAddr::V4(v4) => v4.is_broadcast(),
            IpAddr::V6(_) => false,
        };
        if nowhere || address.is_unspecified() || address.is_multicast() {
            return Some("that is no gateway's address");
        }
        if address.is_loopback() || self.shared.addresses.contains(&address) {
            return Some("that is this gateway itself");
        }
        (address == sent.path.remote.ip()).then_some("that is where it is itself")
    }

    /// There is a way to the gateway that we were sent to, or none.
    pub(super) fn follow(&mut self, name: &ConnectionName, target: Option<Target>) -> Result<(), CommandError> {
        let connection = self.known(name, None)?;
        let pending = self.redirects.get_mut(name).and_then(|known| known.pending.take());
        // Something else was wanted since.
        let Some(mut sent) = pending.map(|sent| *sent) else {
            return Ok(());
        };
        let refused = target.and_then(|target| self.refuses(&sent, target.remote.ip()));
        if let Some(why) = refused {
            let at = target.map(|target| target.remote);
            self.tell_not_followed(&sent, at, why, None);
        }
        // Whether it is wanted may have changed since, too.
        let goes = refused.is_none() && connection.follow_redirects;
        let Some(target) = target.filter(|_| goes) else {
            // Back to what is configured; where an SA is up, it stays as long as the gateway lets it.
            if sent.beside {
                self.not_reauthenticated(name);
            }
            self.went_down(Some(Arc::clone(name)), true, false);
            return Ok(());
        };
        let redirects = self.redirects.entry(Arc::clone(name)).or_default();
        redirects.times(&sent).push_back(self.shared.now.instant);
        let followed = |tally: &mut Tally| tally.redirects_followed += 1;
        self.shared.count(Some(Arc::clone(name)), followed);
        let path = match connection.tcp_use() {
            TcpUse::Always => tcp_path(&connection, target.local.ip(), target.remote.ip()),
            TcpUse::Never | TcpUse::Accept | TcpUse::Fallback => Path::udp(target.local, target.remote),
        };
        let spi = self.shared.ike_spi();
        let mut sa = IkeSa::new(&self.shared, spi, IkeSpi::ZERO, true, Stage::Initiating, path);
        // RFC 5685 §3: "it MUST use the same Peer Authorization Database (PAD) and Security Policy Database (SPD) entries as it
        // would have used with the original gateway."
        sa.connection = Some(connection);
        sa.redirection.from = Some(sent.path.remote.ip());
        (sa.reauthenticates, sa.redirection.beside) = (sent.beside, sent.beside);
        // Of an SA that is up, the children by now.
        let along = self.newest_of_ours(name).filter(|_| sent.beside);
        if let Some(along) = along.map(IkeSa::children_along) {
            (sent.wanted, sent.others) = along;
        }
        sa.wanted = sent.wanted;
        let now = self.shared.now.instant;
        sent.others
            .into_iter()
            .for_each(|child| sa.jobs.add(now, Job::CreateChild(child)));
        self.begin(sa, None);
        Ok(())
    }

    fn tell_not_followed(&mut self, sent: &Sent, at: Option<SocketAddr>, why: &str, hint: Option<&str>) {
        let at = at.map(|at| format!(" ({})", at.ip())).unwrap_or_default();
        self.shared.failed(Failure {
            connection: Some(Arc::clone(&sent.connection)),
            path: sent.path,
            reason: Reason::Refused,
            verdict: format!("the peer sends us to {}{at}, and we don't go: {why}", sent.to),
            offered: vec![],
            wanted: vec![],
            hint: hint.map(str::to_owned),
        });
    }
}
