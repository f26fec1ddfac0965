//! An IKE SA whose ends move (RFC 4555): what is known of both ends' addresses, when the SA goes another way, and what the
//! peer's notifies mean (`peer`; `notifies` has their contents). The requests are in `exchange::mobike`.
//!
//! Which of our addresses reaches which of the peer's, the routing table knows, so the daemon does: the SA asks by
//! [`Event::NeedPaths`] and is told by [`super::Endpoint::handle_paths`].

mod notifies;
mod peer;

pub use notifies::{additional, announced, digests, further_addresses, met_a_nat, no_nats_allowed};

use self::notifies::is_inside;
use super::event::Event;
use super::jobs::Job;
use super::sa::IkeSa;
use super::shared::Shared;
use crate::policy::connection::Connection;
use crate::policy::sad::{Path, SadUpdate};
use crate::wire::Notify;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Addresses of either end that are kept, announced or tried.
pub const MOST_ADDRESSES: usize = 8;

/// Times that a request is sent on one way before others are asked for.
const SENT_BEFORE_ASKING: u32 = 3;

/// What an IKE SA knows of where its ends are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mobike {
    /// Both ends have announced it (RFC 4555 §3.2).
    pub enabled: bool,
    /// We began the first IKE SA of the row: then it is for us to choose the addresses (§3.5). A rekey does not change it.
    pub decides: bool,
    /// The peer's other addresses (§3.4).
    pub peer_addresses: Vec<IpAddr>,
    /// Addresses of the peer that it was seen to receive by (§3.7).
    pub verified: Vec<IpAddr>,
    /// What has to be told or asked.
    pub pending: Pending,
    /// Where the SA was before it moved; back there if the peer does not want the new way.
    pub previous: Option<Path>,
    /// Other ways that the request in flight is sent by as well (§3.10).
    pub probing: Vec<Path>,
    /// The request that other ways were asked for.
    asked_for: Option<u32>,
    /// How the peer last saw us: the digest of our address behind the NAT (§3.8).
    pub seen_as: Option<Vec<[u8; 20]>>,
    /// NATs met where none is allowed, in a row (§3.9).
    pub unexpected_nats: u32,
}

/// What is to be sent when the window is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pending {
    /// UPDATE_SA_ADDRESSES (§3.5).
    pub update: bool,
    /// Our list of further addresses has changed (§3.6).
    pub announce: bool,
    /// Whether the peer receives at its new address (§3.7).
    pub check: bool,
}

impl Pending {
    /// Whether there is anything.
    #[must_use]
    pub const fn any(self) -> bool {
        self.update || self.announce || self.check
    }
}

impl Mobike {
    /// Both ends are known to speak it, or not.
    pub fn agree(&mut self, enabled: bool, decides: bool, notifies: &[Notify], remote: IpAddr) {
        self.enabled = enabled;
        self.decides = decides;
        self.peer_addresses = announced(notifies).filter(|_| enabled).unwrap_or_default();
        self.verified = vec![remote];
    }

    /// What the successor of a rekeyed IKE SA takes over.
    #[must_use]
    pub fn inherit(&self) -> Self {
        Self {
            // §3.8: the digests are about the old SPIs.
            seen_as: None,
            asked_for: None,
            probing: Vec::new(),
            ..self.clone()
        }
    }

    /// The peer was seen to receive at this address.
    pub fn verify(&mut self, remote: IpAddr) {
        if !self.verified.contains(&remote) {
            self.verified.truncate(MOST_ADDRESSES - 1);
            self.verified.insert(0, remote);
        }
    }
}

impl IkeSa {
    /// What IKE_AUTH says besides MOBIKE_SUPPORTED (§3.4, §3.9).
    pub fn mobike_offer(&mut self, shared: &Shared, connection: &Connection) -> Vec<Notify> {
        if !connection.speaks_mobike() {
            return Vec::new();
        }
        self.announced = further_addresses(connection, &shared.addresses, self.path.local.ip());
        let mut notifies = additional(&self.announced);
        if self.initiator && !self.nat.detection {
            notifies.push(no_nats_allowed(self.path.local, self.path.remote));
        }
        notifies
    }

    /// Our addresses or routes may have changed.
    pub fn network_changed(&mut self, shared: &mut Shared) {
        let Some(connection) = self.connection.clone().filter(|_| self.is_established()) else {
            return;
        };
        // Where the way itself is gone, the list is told on the new one.
        if self.mobike.enabled && !self.lost_its_address(shared) {
            let further = further_addresses(&connection, &shared.addresses, self.path.local.ip());
            if further != self.announced {
                self.mobike.pending.announce = true;
                self.jobs.add(shared.now.instant, Job::UpdateAddresses);
            }
        }
        // §3.5: the initiator chooses; the other end moves only if "the source address that the responder is currently
        // using becomes unavailable".
        if self.mobike.enabled && self.mobike.decides || self.lost_its_address(shared) {
            self.ask_for_paths(shared, &connection);
        }
    }

    fn lost_its_address(&self, shared: &Shared) -> bool {
        !shared.addresses.is_empty() && !shared.addresses.contains(&self.path.local.ip())
    }

    fn ask_for_paths(&self, shared: &mut Shared, connection: &Arc<Connection>) {
        let (mut local_port, mut port) = (self.path.local.port(), self.path.remote.port());
        if self.path.is_tcp() {
            // The ways by UDP.
            (local_port, port) = (shared.config.gateway.nat_port, shared.config.gateway.nat_port);
        }
        let mut remotes = vec![SocketAddr::new(self.path.remote.ip(), port)];
        if self.mobike.enabled {
            for address in connection.remote_addrs.iter().chain(&self.mobike.peer_addresses) {
                let known = remotes.iter().any(|remote| remote.ip() == *address);
                if !known && remotes.len() < MOST_ADDRESSES && !is_inside(connection, *address, false) {
                    remotes.push(SocketAddr::new(*address, port));
                }
            }
        }
        shared.event(Event::NeedPaths {
            spi: self.own_spi(),
            connection: Arc::clone(&connection.name),
            local_port,
            remotes,
        });
    }

    /// The ways there are, best first.
    pub fn handle_paths(&mut self, shared: &mut Shared, mut paths: Vec<Path>) {
        paths.truncate(MOST_ADDRESSES);
        if !self.is_established() || paths.is_empty() {
            return;
        }
        let gone = self.lost_its_address(shared);
        if self.path.is_tcp() {
            return self.paths_beside_stream(shared, &paths, gone);
        }
        if !self.mobike.enabled {
            if gone {
                self.move_without_mobike(shared, &paths);
            }
            return;
        }
        if self.is_silent() && self.mobike.decides && !gone {
            // §3.10: the request in flight tells which way works.
            paths.retain(|path| *path != self.path);
            if !paths.is_empty() {
                self.mobike.probing = paths;
                self.outgoing.hasten(shared.now.instant);
            }
            return;
        }
        let same_remote = paths.iter().find(|path| path.remote == self.path.remote);
        let best = *same_remote.unwrap_or(&paths[0]);
        if best == self.path || !(self.mobike.decides || gone) {
            return;
        }
        let why = if gone {
            format!("our address {} is gone", self.path.local.ip())
        } else if same_remote.is_none() {
            format!("{} can't be reached any more", self.path.remote.ip())
        } else {
            "another way to the peer is better".to_owned()
        };
        self.go(shared, best, &why);
    }

    /// Our address is gone, and the peer does not know this protocol.
    fn move_without_mobike(&mut self, shared: &mut Shared, paths: &[Path]) {
        let path = paths.iter().find(|path| path.remote == self.path.remote);
        match path {
            // RFC 7296 §2.23: behind a NAT the peer follows "the IP address and port from the last valid authenticated
            // packet": that of a liveness check, if nothing else.
            Some(path) if self.nat.local || self.nat.pretending => {
                let why = format!("our address {} is gone", self.path.local.ip());
                self.set_path(shared, *path, true, &why);
                self.outgoing.hasten(shared.now.instant);
                self.jobs.add(shared.now.instant, Job::Liveness);
            }
            Some(_) if self.initiator => {
                let reason = format!(
                    "our address {} is gone, and the peer does not speak MOBIKE: begun anew",
                    self.path.local.ip()
                );
                self.close(shared, &reason);
            }
            _ => {}
        }
    }

    /// A request has been sent several times without an answer.
    pub(super) const fn is_silent(&self) -> bool {
        match self.outgoing.in_flight() {
            Some(request) => request.sent >= SENT_BEFORE_ASKING,
            None => false,
        }
    }

    /// Goes another way and tells the peer (§3.5, §3.6).
    pub fn go(&mut self, shared: &mut Shared, path: Path, why: &str) {
        let now = shared.now.instant;
        self.mobike.previous = Some(self.path);
        self.mobike.unexpected_nats = 0;
        // "Updates the IPsec SAs associated with this IKE_SA with the new addresses (unless the initiator's policy requires
        // a return routability check before updating the IPsec SAs, and the check has not been done for this responder
        // address yet)".
        let known = self.mobike.verified.contains(&path.remote.ip()) || !self.mobike.decides;
        self.set_path(shared, path, known, why);
        // "continues retransmitting them using the addresses in the IKE_SA (the new addresses)"
        self.outgoing.hasten(now);
        if self.mobike.decides {
            self.mobike.pending.update = true;
        }
        if let Some(connection) = &self.connection {
            let further = further_addresses(connection, &shared.addresses, path.local.ip());
            self.mobike.pending.announce = !self.mobike.decides || further != self.announced;
        }
        self.jobs.add(now, Job::UpdateAddresses);
    }

    /// The IKE SA's addresses, and with `children` those of its Child SAs.
    pub fn set_path(&mut self, shared: &mut Shared, path: Path, children: bool, why: &str) {
        let from = self.path;
        // The connection that the Child SAs were sent by is another now, though its name be the same.
        let again = self.stream.lost;
        self.path = path;
        self.mobike.probing.clear();
        self.mobike.asked_for = None;
        // What is in flight goes there too when it is sent again.
        self.outgoing.redirect(path);
        self.took_path();
        if from != path {
            self.tell_moved(shared, from, why);
        }
        if children {
            self.move_children(shared, again);
        }
    }

    fn tell_moved(&self, shared: &mut Shared, from: Path, why: &str) {
        if let Some(connection) = self.name() {
            shared.event(Event::Moved {
                connection,
                from,
                to: self.path,
                encapsulation: self.encapsulation(),
                reason: why.to_owned(),
            });
        }
    }

    /// The Child SAs follow the IKE SA; those that are there already as well, if they are to be told `again`.
    pub fn move_children(&mut self, shared: &mut Shared, again: bool) {
        let (path, encapsulation) = (self.path, self.encapsulation());
        let way = (path, encapsulation);
        for child in self.children.iter_mut().filter(|child| again || child.way != way) {
            child.way = way;
            let id = child.id();
            shared.sad(SadUpdate::Move {
                id,
                path,
                encapsulation,
            });
        }
    }

    /// A request was sent again: after a few times, other ways are asked for; those that are known are tried.
    pub fn sent_again(&mut self, shared: &mut Shared, datagrams: &[Vec<u8>]) {
        if !self.mobike.enabled || !self.mobike.decides || self.path.is_tcp() {
            return;
        }
        let asked = self.outgoing.in_flight().map(|request| request.message_id);
        if self.is_silent() && self.mobike.asked_for != asked {
            self.mobike.asked_for = asked;
            if let Some(connection) = self.connection.clone() {
                self.ask_for_paths(shared, &connection);
            }
        }
        for path in self.mobike.probing.clone() {
            shared.transmit(path, datagrams);
        }
    }

    /// An authentic answer came: by one of the ways that were tried?
    pub fn answered_by(&mut self, shared: &mut Shared, path: Path) {
        self.probe_answered(shared, path);
        self.mobike.asked_for = None;
        let tried = std::mem::take(&mut self.mobike.probing);
        if path != self.path && tried.contains(&path) {
            self.go(shared, path, "the peer answers by this way only");
        }
    }
}
