//! Redirecting an initiator to another gateway (RFC 5685), as far as one IKE SA is concerned: who may be sent away, and what an
//! initiator makes of being sent.
//!
//! A gateway sends away in IKE_SA_INIT whoever comes (§3), in IKE_AUTH whom it knows by then (§6), and by order whoever is up (§5).
//! A client says first that it can be sent. It looks for another address and for nothing else: "Receiving a redirect
//! notification MUST NOT result in the modification of any PAD or SPD entries" (§3): the gateway there has to prove the identity
//! that the connection names, with the credential that it names.

use super::event::Event;
use super::exchange::Next;
use super::jobs::Job;
use super::respond::Reply;
use super::sa::{IkeSa, Stage};
use super::shared::{Effect, Shared};
use crate::policy::connection::Connection;
use crate::policy::sad::{ChildName, ConnectionName, Path};
use crate::wire::message::{IkeAuthReply, IkeAuthResponse, Response};
use crate::wire::{Authentication, Certificate, GatewayIdentity, IkeSpi, Notify, Redirect, RedirectSupport};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A peer that was sent away in IKE_AUTH, and does not delete the IKE SA by itself (§6: "it SHOULD"): there is nothing in it.
const UNUSED: Duration = Duration::from_secs(10);

/// What an IKE SA knows of redirection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Redirection {
    /// As initiator: the gateway that sent us here.
    pub from: Option<IpAddr>,
    /// As initiator: it is made beside an SA of ours, and takes its place though the gateway may have another identity.
    pub beside: bool,
    /// As initiator: that we don't go where an unauthenticated answer sends us was told already.
    pub stays: bool,
    /// As responder: what the peer said of it.
    pub peer: Option<RedirectSupport>,
    /// As responder: the peer was sent away when it had proven who it is.
    pub away: bool,
}

/// A peer sends us to another gateway.
#[derive(Clone, Debug)]
pub struct Sent {
    pub connection: ConnectionName,
    /// Who sends us.
    pub path: Path,
    /// Where to.
    pub to: GatewayIdentity,
    /// The child that IKE_AUTH asks for, and the others that are to be up.
    pub wanted: Option<ChildName>,
    pub others: Vec<ChildName>,
    /// There is an SA, which lives until the new one is complete.
    pub beside: bool,
    /// The attempt that was answered so in IKE_SA_INIT, by nobody knows whom: it ends if we go.
    pub attempt: Option<IkeSpi>,
}

impl RedirectSupport {
    /// Whether a peer that said this can be sent there from where it came to. §4: "The VPN gateway ... MAY redirect the client to
    /// its own unicast address": but not once more when it is there; and not back to who sent it (§7).
    #[must_use]
    pub fn may_be_sent(self, to: &GatewayIdentity, here: IpAddr) -> bool {
        let GatewayIdentity::Address(to) = to else {
            return true;
        };
        *to != here && self != Self::From(*to)
    }
}

impl Connection {
    /// What a client says of redirection in its first message. §3: "In the IKE_SA_INIT exchange with the new VPN gateway, the
    /// client MUST include the REDIRECTED_FROM payload", and "does not have to include the REDIRECT_SUPPORTED payload again".
    #[must_use]
    pub fn announces_redirect(&self, from: Option<IpAddr>) -> Option<RedirectSupport> {
        let support = from.map_or(RedirectSupport::Announced, RedirectSupport::From);
        self.follow_redirects.then_some(support)
    }
}

impl IkeSa {
    // As client.

    /// The gateway sends us away before there is an SA: what it was to have goes to the next.
    fn send_on(&self, shared: &mut Shared, to: GatewayIdentity, attempt: Option<IkeSpi>) {
        let Some(connection) = self.name() else { return };
        let sent = Sent {
            connection,
            path: self.path,
            to,
            wanted: self.wanted.clone(),
            others: self.jobs.children(),
            beside: self.reauthenticates,
            attempt,
        };
        shared.effects.push(Effect::Sent(Box::new(sent)));
    }

    /// In IKE_SA_INIT, by somebody who has seen the request. The attempt goes on unless we go.
    pub fn sent_in_init(&self, shared: &mut Shared, to: GatewayIdentity) {
        self.send_on(shared, to, Some(self.own_spi()));
    }

    /// We go where that answer sends us.
    pub fn leave_for(&mut self, shared: &mut Shared, to: &GatewayIdentity) {
        self.reauthenticates = false;
        let reason = format!("the peer {} sends us to {to}", self.path.remote);
        self.close(shared, &reason);
    }

    /// In IKE_AUTH, when both have proven who they are. §6: "When the client receives the IKE_AUTH response with the REDIRECT
    /// payload, it SHOULD delete the IKEv2 security association with the gateway by sending an INFORMATIONAL message with a
    /// DELETE payload."
    pub fn sent_in_auth(&mut self, shared: &mut Shared, to: GatewayIdentity) -> Next {
        self.send_on(shared, to, None);
        self.reauthenticates = false;
        self.jobs.add(shared.now.instant, Job::DeleteIke);
        self.stage = Stage::Closing;
        Next::Done
    }

    /// In an INFORMATIONAL request, of an SA that is up (§5). §10: "only the original responder can redirect the original
    /// initiator".
    pub fn hear_redirect(&mut self, shared: &mut Shared, notifies: &[Notify]) {
        let follows = |connection: &Arc<Connection>| connection.follow_redirects;
        let connection = self.connection.clone().filter(follows);
        let (Some(connection), Some(to)) = (connection, Redirect::among(notifies)) else {
            return;
        };
        if !self.ours || !self.is_established() {
            shared.counters.unexpected += 1;
            return;
        }
        let (wanted, others) = self.children_along();
        let sent = Sent {
            connection: Arc::clone(&connection.name),
            path: self.path,
            to,
            wanted,
            others,
            beside: true,
            attempt: None,
        };
        shared.effects.push(Effect::Sent(Box::new(sent)));
    }

    /// The children that an SA elsewhere is to have instead of this one: the one that IKE_AUTH asks for, and the others.
    pub fn children_along(&self) -> (Option<ChildName>, Vec<ChildName>) {
        let current = self.children.iter().filter(|pair| pair.is_current());
        let mut others: Vec<ChildName> = current.map(|pair| Arc::clone(&pair.config.name)).collect();
        others.extend(self.jobs.children());
        others.sort();
        others.dedup();
        (others.pop(), others)
    }

    // As gateway.

    /// Whether the peer may be sent there while it is up: not to where it is.
    pub fn can_be_sent(&self, to: &GatewayIdentity) -> bool {
        let here = GatewayIdentity::Address(self.path.local.ip());
        self.is_established() && !self.ours && self.redirection.peer.is_some() && *to != here
    }

    /// Where the connection's peers are to go, if this one can be sent there.
    pub fn elsewhere(&self, connection: &Connection) -> Option<GatewayIdentity> {
        let peer = self.redirection.peer?;
        let to = connection.redirect_to.as_ref()?;
        peer.may_be_sent(to, self.path.local.ip()).then(|| to.clone())
    }

    /// The answer to IKE_AUTH that sends the peer away: §6: the gateway "prevents the creation of a CHILD SA and sends the
    /// REDIRECT payload in the IKE_AUTH response", when it has verified the client's AUTH, and with its own.
    pub fn send_away(
        &mut self,
        shared: &mut Shared,
        connection: &Connection,
        certs: Vec<Certificate>,
        auth: Authentication,
        to: GatewayIdentity,
    ) -> Reply {
        self.tell_sent_away(shared, connection, &to);
        self.redirection.away = true;
        // "the IKEv2 security association is valid": as long as it takes to delete it.
        self.stage = Stage::Closing;
        self.jobs.add(shared.now.instant + UNUSED, Job::DeleteIke);
        let nonce = Vec::new();
        let response = IkeAuthResponse {
            id_r: connection.local.id.clone(),
            certs,
            auth,
            child: None,
            configuration: None,
            initial_contact: false,
            mobike: false,
            ppk: self.ppk.used && self.resumes.is_none(),
            ticket: None,
            qcd_token: None,
            other: vec![Redirect { to, nonce }.notify()],
        };
        Reply {
            response: Response::IkeAuth(IkeAuthReply::Accepted(Box::new(response))),
            close: None,
        }
    }

    /// The peer is told to go.
    pub fn tell_sent_away(&self, shared: &mut Shared, connection: &Connection, to: &GatewayIdentity) {
        let name = Arc::clone(&connection.name);
        shared.count(Some(Arc::clone(&name)), |tally| tally.redirects_sent += 1);
        shared.event(Event::SentAway {
            connection: name,
            remote: self.path.remote,
            to: to.clone(),
        });
    }
}
