//! An IKE SA whose ends move (RFC 4555): what is known of both ends' addresses, when the SA goes another way, and what the
//! peer's notifies mean. The requests are in `exchange::mobike`.
//!
//! Which of our addresses reaches which of the peer's, the routing table knows, so the daemon does: the SA asks by
//! [`Event::NeedPaths`] and is told by [`super::Endpoint::handle_paths`].

use super::event::Event;
use super::jobs::Job;
use super::nat;
use super::sa::IkeSa;
use super::shared::Shared;
use crate::policy::connection::Connection;
use crate::policy::sad::{Path, SadUpdate};
use crate::policy::selector::{self, PortMatch, SelectorSet};
use crate::wire::message::Informational;
use crate::wire::{Notify, NotifyType};
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

/// N(NO_NATS_ALLOWED) for a message on a path (§4.2.6): addresses, then ports, of source and destination.
#[must_use]
pub fn no_nats_allowed(source: SocketAddr, destination: SocketAddr) -> Notify {
    let mut data = Vec::with_capacity(36);
    for address in [source.ip(), destination.ip()] {
        match address {
            IpAddr::V4(v4) => data.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => data.extend_from_slice(&v6.octets()),
        }
    }
    for port in [source.port(), destination.port()] {
        data.extend_from_slice(&port.to_be_bytes());
    }
    Notify::new(NotifyType::NO_NATS_ALLOWED, data)
}

/// Whether a message that came by `path` says NO_NATS_ALLOWED, and met one (§3.9: "The exchange responder MUST verify that
/// the contents of the NO_NATS_ALLOWED notification match the addresses in the IP header").
#[must_use]
pub fn met_a_nat(path: Path, notifies: &[Notify]) -> bool {
    let expected = no_nats_allowed(path.remote, path.local);
    notifies
        .iter()
        .any(|notify| notify.notify_type == NotifyType::NO_NATS_ALLOWED && notify.data != expected.data)
}

/// The addresses that a message announces (§3.6: "The new list of addresses replaces the old information"); `None` if it
/// says nothing about them. What is no address to send to is left out, and so is what is over the cap.
#[must_use]
pub fn announced(notifies: &[Notify]) -> Option<Vec<IpAddr>> {
    let mut any = false;
    let mut list = Vec::new();
    for notify in notifies {
        let address = match (notify.notify_type, notify.data.len()) {
            (NotifyType::NO_ADDITIONAL_ADDRESSES, _) => {
                any = true;
                continue;
            }
            (NotifyType::ADDITIONAL_IP4_ADDRESS, 4) => {
                <[u8; 4]>::try_from(notify.data.as_slice()).ok().map(IpAddr::from)
            }
            (NotifyType::ADDITIONAL_IP6_ADDRESS, 16) => {
                <[u8; 16]>::try_from(notify.data.as_slice()).ok().map(IpAddr::from)
            }
            _ => continue,
        };
        any = true;
        let address = address.filter(|address| is_an_end(*address) && !list.contains(address));
        list.extend(address.filter(|_| list.len() < MOST_ADDRESSES));
    }
    any.then_some(list)
}

/// ADDITIONAL_IP4_ADDRESS and ADDITIONAL_IP6_ADDRESS (§4.2.2).
#[must_use]
pub fn additional(addresses: &[IpAddr]) -> Vec<Notify> {
    let notify = |address: &IpAddr| match address {
        IpAddr::V4(v4) => Notify::new(NotifyType::ADDITIONAL_IP4_ADDRESS, v4.octets().to_vec()),
        IpAddr::V6(v6) => Notify::new(NotifyType::ADDITIONAL_IP6_ADDRESS, v6.octets().to_vec()),
    };
    addresses.iter().map(notify).collect()
}

/// Whether a gateway can be at this address.
fn is_an_end(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !broadcast
}

/// Whether packets to this address would go into one of the connection's own tunnels, `local` or remote side.
fn is_inside(connection: &Connection, address: IpAddr, local: bool) -> bool {
    connection.children.values().any(|child| {
        let list = if local { &child.local_ts } else { &child.remote_ts };
        let whole = |selector: &&crate::wire::TrafficSelector| {
            // 0.0.0.0/0 says nothing about where the gateways are: routes are given apart from it.
            selector::to_prefixes(selector)
                .first()
                .is_some_and(|(_, length)| *length > 0)
        };
        let list: Vec<_> = list.iter().filter(whole).cloned().collect();
        SelectorSet::new(&list).contains(address, 0, PortMatch::Opaque)
    })
}

/// Our addresses that the peer may be told of besides the one in use: those configured as ours, or else those that are not
/// in a network behind us.
#[must_use]
pub fn further_addresses(connection: &Connection, ours: &[IpAddr], in_use: IpAddr) -> Vec<IpAddr> {
    let fits = |address: &&IpAddr| {
        **address != in_use
            && if connection.local_addrs.is_empty() {
                !is_inside(connection, **address, true)
            } else {
                connection.local_addrs.contains(address)
            }
    };
    ours.iter().filter(fits).take(MOST_ADDRESSES).copied().collect()
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
        let mut remotes = vec![self.path.remote];
        if self.mobike.enabled {
            let port = self.path.remote.port();
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
            local_port: self.path.local.port(),
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
    const fn is_silent(&self) -> bool {
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
        self.path = path;
        self.mobike.probing.clear();
        self.mobike.asked_for = None;
        // What is in flight goes there too when it is sent again.
        self.outgoing.redirect(path);
        if from != path {
            self.tell_moved(shared, from, why);
        }
        if children {
            self.move_children(shared);
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

    /// The Child SAs follow the IKE SA.
    pub fn move_children(&mut self, shared: &mut Shared) {
        let (path, encapsulation) = (self.path, self.encapsulation());
        let way = (path, encapsulation);
        for child in self.children.iter_mut().filter(|child| child.way != way) {
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
        if !self.mobike.enabled || !self.mobike.decides {
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
        self.mobike.asked_for = None;
        let tried = std::mem::take(&mut self.mobike.probing);
        if path != self.path && tried.contains(&path) {
            self.go(shared, path, "the peer answers by this way only");
        }
    }

    /// What a request's notifies mean for the addresses, and what the answer says about it. `path` is how it came.
    pub fn respond_mobike(&mut self, shared: &mut Shared, path: Path, request: &Informational) -> Vec<Notify> {
        // §3.3: without the agreement these are unknown status notifies, which are ignored (RFC 7296 §3.10.1).
        if !self.mobike.enabled {
            return Vec::new();
        }
        let mut answer = Vec::new();
        let has = |wanted| request.notifies.iter().any(|notify| notify.notify_type == wanted);
        let list = announced(&request.notifies);
        let update = has(NotifyType::UPDATE_SA_ADDRESSES) && !self.mobike.decides;
        if (update || list.is_some()) && met_a_nat(path, &request.notifies) {
            // §3.9: "If they do not match, a response containing an UNEXPECTED_NAT_DETECTED notification is sent."
            answer.push(Notify::new(NotifyType::UNEXPECTED_NAT_DETECTED, Vec::new()));
        } else {
            if let Some(list) = list {
                self.take_addresses(shared, path, list);
            }
            if update {
                answer.extend(self.take_update(shared, path, request));
            }
        }
        // §3.8: "if the request includes them, the responder MUST also include them in the response".
        let detects = has(NotifyType::NAT_DETECTION_SOURCE_IP) && has(NotifyType::NAT_DETECTION_DESTINATION_IP);
        if detects && self.nat.detection {
            answer.extend(self.nat_detection(path));
        }
        // §3.7: "the recipient of an INFORMATIONAL request MUST copy the notification as-is to the response".
        let cookies = request.notifies.iter();
        answer.extend(
            cookies
                .filter(|notify| notify.notify_type == NotifyType::COOKIE2)
                .take(1)
                .cloned(),
        );
        answer
    }

    /// §3.6: "Updates the set of peer addresses based on the IP header and the ... notifications."
    fn take_addresses(&mut self, shared: &mut Shared, path: Path, mut list: Vec<IpAddr>) {
        list.retain(|address| *address != path.remote.ip());
        list.truncate(MOST_ADDRESSES - 1);
        list.insert(0, path.remote.ip());
        self.mobike.peer_addresses = list;
        // §3.5: "This is particularly important if the announced set of addresses no longer contains the currently used
        // address."
        let lost = !self.mobike.peer_addresses.contains(&self.path.remote.ip());
        if !self.mobike.decides || !lost {
            return;
        }
        if path.local.ip() == self.path.local.ip() && self.is_acceptable(path) {
            self.go(shared, path, "the peer's address is gone");
        } else if let Some(connection) = self.connection.clone() {
            self.ask_for_paths(shared, &connection);
        }
    }

    /// §3.5, "When processing an INFORMATIONAL request containing the UPDATE_SA_ADDRESSES notification, the responder".
    fn take_update(&mut self, shared: &mut Shared, path: Path, request: &Informational) -> Option<Notify> {
        if !self.is_acceptable(path) {
            return Some(Notify::new(NotifyType::UNACCEPTABLE_ADDRESSES, Vec::new()));
        }
        let known = self.mobike.verified.contains(&path.remote.ip());
        // "Updates the IP addresses in the IKE_SA with the values from the IP header."
        self.set_path(shared, path, false, "the peer has moved");
        self.detect_nat(shared, path, &request.notifies);
        self.mobike.pending.check = !known;
        if known {
            self.move_children(shared);
        } else {
            // "initiates a return routability check for the new initiator address ... and waits until the check is
            // completed".
            self.jobs.add(shared.now.instant, Job::UpdateAddresses);
        }
        None
    }

    /// Local policy about where a peer may be: who it is, it has proven; but not where its packets, or ours, would end up
    /// in the tunnel itself.
    fn is_acceptable(&self, path: Path) -> bool {
        let Some(connection) = &self.connection else {
            return false;
        };
        let (local, remote) = (path.local.ip(), path.remote.ip());
        let ours = connection.local_addrs.is_empty() || connection.local_addrs.contains(&local);
        let looped = is_inside(connection, remote, false) && !is_inside(connection, self.path.remote.ip(), false);
        ours && is_an_end(remote) && path.remote.port() != 0 && remote != local && !looped
    }

    /// NAT detection for a message that leaves by `path` (RFC 7296 §2.23, RFC 4555 §3.5).
    pub fn nat_detection(&self, path: Path) -> [Notify; 2] {
        let source = if self.nat.pretending {
            nat::pretended(self.spi_i, self.spi_r)
        } else {
            nat::digest(self.spi_i, self.spi_r, path.local)
        };
        let destination = nat::digest(self.spi_i, self.spi_r, path.remote);
        [
            Notify::new(NotifyType::NAT_DETECTION_SOURCE_IP, source.to_vec()),
            Notify::new(NotifyType::NAT_DETECTION_DESTINATION_IP, destination.to_vec()),
        ]
    }

    /// Who is behind a NAT now, by the digests in a message that came by `path`.
    pub fn detect_nat(&mut self, shared: &mut Shared, path: Path, notifies: &[Notify]) {
        let [source, destination] = [
            NotifyType::NAT_DETECTION_SOURCE_IP,
            NotifyType::NAT_DETECTION_DESTINATION_IP,
        ]
        .map(|wanted| digests(notifies, wanted));
        if !self.nat.detection || source.is_empty() || destination.is_empty() {
            return;
        }
        let (pretending, before) = (self.nat.pretending, self.encapsulation());
        self.nat = nat::detect(self.spi_i, self.spi_r, path.remote, path.local, &source, &destination);
        self.nat.pretending = pretending;
        self.mobike.seen_as = Some(destination);
        if self.encapsulation() != before {
            let way = if self.nat.local || self.nat.remote {
                "a NAT"
            } else {
                "no NAT"
            };
            self.tell_moved(shared, self.path, &format!("there is {way} on the way"));
        }
    }
}

/// The digests in NAT detection notifies of a type.
#[must_use]
pub fn digests(notifies: &[Notify], wanted: NotifyType) -> Vec<[u8; 20]> {
    let of_type = notifies.iter().filter(|notify| notify.notify_type == wanted);
    of_type
        .filter_map(|notify| <[u8; 20]>::try_from(notify.data.as_slice()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::IKE_PROVIDER;
    use crate::ike::sa::Stage;
    use crate::policy::connection::Config;
    use crate::time::{Instant, Now};
    use crate::wire::IkeSpi;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn path(local: &str, remote: &str) -> Path {
        Path {
            local: at(local),
            remote: at(remote),
        }
    }

    fn notify(notify_type: NotifyType) -> Notify {
        Notify::new(notify_type, Vec::new())
    }

    fn shared() -> Shared {
        let now = Now {
            instant: Instant::ZERO,
            unix: 0,
        };
        let rng = ChaCha20Rng::from_seed([1; 32]);
        Shared::new(now, &IKE_PROVIDER, rng, Arc::new(Config::default()))
    }

    fn sa(shared: &Shared, enabled: bool, decides: bool) -> IkeSa {
        let here = path("198.51.100.2:4500", "192.0.2.1:4500");
        let mut sa = IkeSa::new(
            shared,
            IkeSpi([1; 8]),
            IkeSpi([2; 8]),
            decides,
            Stage::Established,
            here,
        );
        sa.mobike.agree(enabled, decides, &[], here.remote.ip());
        sa
    }

    fn ask(sa: &mut IkeSa, shared: &mut Shared, from: Path, notifies: Vec<Notify>) -> Vec<NotifyType> {
        let request = Informational {
            notifies,
            ..Informational::default()
        };
        let answer = sa.respond_mobike(shared, from, &request);
        answer.into_iter().map(|notify| notify.notify_type).collect()
    }

    /// Checklist K12. RFC 4555 §3.2: "Implementations that wish to use MOBIKE for a particular IKE_SA MUST include a
    /// MOBIKE_SUPPORTED notification in the IKE_AUTH exchange"; RFC 7296 §3.10.1: "Notify payloads with status types that
    /// are not recognized MUST be ignored". And of two that speak it only the initiator updates.
    #[test]
    fn an_update_that_nobody_agreed_upon_is_ignored() {
        let mut shared = shared();
        let from = path("198.51.100.2:4500", "203.0.113.9:4500");
        for (enabled, decides) in [(false, false), (false, true), (true, true)] {
            let mut sa = sa(&shared, enabled, decides);
            let before = (sa.path, sa.mobike.clone());
            let answer = ask(
                &mut sa,
                &mut shared,
                from,
                vec![notify(NotifyType::UPDATE_SA_ADDRESSES)],
            );
            assert_eq!(answer, []);
            assert_eq!((sa.path, sa.mobike.clone()), before);
        }
        // COOKIE2 belongs to it as well.
        let cookie = Notify::new(NotifyType::COOKIE2, vec![7; 8]);
        assert_eq!(
            ask(&mut sa(&shared, false, false), &mut shared, from, vec![cookie.clone()]),
            []
        );
        assert_eq!(
            ask(&mut sa(&shared, true, true), &mut shared, from, vec![cookie]),
            [NotifyType::COOKIE2]
        );
        assert!(shared.events.is_empty());
    }

    /// §3.9: "The exchange responder MUST verify that the contents of the NO_NATS_ALLOWED notification match the addresses
    /// in the IP header."
    #[test]
    fn a_nat_where_none_is_allowed() {
        let mut shared = shared();
        let mut sa = sa(&shared, true, true);
        let list = Notify::new(NotifyType::ADDITIONAL_IP4_ADDRESS, vec![203, 0, 113, 1]);
        let sent = path("192.0.2.1:4500", "198.51.100.2:4500");
        let seen = path("198.51.100.2:4500", "192.0.2.1:4500");
        let no_nats = no_nats_allowed(sent.local, sent.remote);
        assert_eq!(
            no_nats.data,
            [192, 0, 2, 1, 198, 51, 100, 2, 0x11, 0x94, 0x11, 0x94],
            "§4.2.6"
        );
        for wrong in ["192.0.2.2:4500", "192.0.2.1:4501"] {
            let by = path("198.51.100.2:4500", wrong);
            let answer = ask(&mut sa, &mut shared, by, vec![list.clone(), no_nats.clone()]);
            assert_eq!(answer, [NotifyType::UNEXPECTED_NAT_DETECTED]);
            assert!(sa.mobike.peer_addresses.is_empty());
        }
        assert_eq!(ask(&mut sa, &mut shared, seen, vec![list, no_nats]), []);
        assert_eq!(sa.mobike.peer_addresses.len(), 2);
        let v6 = no_nats_allowed(at("[2001:db8::1]:4500"), at("[2001:db8::2]:4500"));
        assert_eq!(v6.data.len(), 36);
    }

    /// What a peer may announce has an end, and is nothing but addresses.
    #[test]
    fn announced_addresses() {
        let four = |octets: &[u8]| Notify::new(NotifyType::ADDITIONAL_IP4_ADDRESS, octets.to_vec());
        assert_eq!(announced(&[notify(NotifyType::COOKIE2)]), None);
        assert_eq!(announced(&[notify(NotifyType::NO_ADDITIONAL_ADDRESSES)]), Some(vec![]));
        let odd: [&[u8]; 5] = [&[], &[1, 2, 3], &[0, 0, 0, 0], &[224, 0, 0, 1], &[255; 4]];
        for octets in odd {
            assert!(announced(&[four(octets)]).unwrap_or_default().is_empty(), "{octets:?}");
        }
        let many: Vec<Notify> = (0..30).map(|n| four(&[192, 0, 2, n])).collect();
        assert_eq!(announced(&many).unwrap().len(), MOST_ADDRESSES);
        assert_eq!(
            announced(&[four(&[192, 0, 2, 1]), four(&[192, 0, 2, 1])])
                .unwrap()
                .len(),
            1
        );
        assert_eq!(
            announced(&additional(&["2001:db8::1".parse().unwrap()])).unwrap().len(),
            1
        );
    }
}
