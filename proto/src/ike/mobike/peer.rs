//! What the peer's notifies mean: where it is, and who is behind a NAT.

use super::MOST_ADDRESSES;
use super::notifies::{announced, digests, is_an_end, is_inside, met_a_nat};
use crate::ike::jobs::Job;
use crate::ike::nat;
use crate::ike::sa::IkeSa;
use crate::ike::shared::Shared;
use crate::policy::connection::TcpUse;
use crate::policy::sad::Path;
use crate::wire::message::Informational;
use crate::wire::{Notify, NotifyType};
use std::net::IpAddr;

impl IkeSa {
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
        // RFC 9329 §7.1: "a TCP handshake proves the routability of the TCP Originator's address; thus, the Return Routability Check
        // SHOULD NOT be performed."
        if path.is_tcp() {
            self.mobike.verify(path.remote.ip());
        }
        let known = self.mobike.verified.contains(&path.remote.ip());
        // "Updates the IP addresses in the IKE_SA with the values from the IP header."
        self.set_path(shared, path, false, "the peer has moved");
        self.detect_nat(shared, path, &request.notifies);
        self.mobike.pending.check = !known;
        if known {
            self.move_children(shared, false);
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
        let carried = !path.is_tcp() || connection.tcp_use() != TcpUse::Never;
        let looped = is_inside(connection, remote, false) && !is_inside(connection, self.path.remote.ip(), false);
        ours && carried && is_an_end(remote) && path.remote.port() != 0 && remote != local && !looped
    }

    /// NAT detection for a message that leaves by `path` (RFC 7296 §2.23, RFC 4555 §3.5).
    pub fn nat_detection(&self, path: Path) -> [Notify; 2] {
        let source = nat::own(self.nat.pretending, self.spi_i, self.spi_r, path.local);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::IKE_PROVIDER;
    use crate::ike::mobike::no_nats_allowed;
    use crate::ike::sa::Stage;
    use crate::policy::connection::Config;
    use crate::time::{Instant, Now};
    use crate::wire::IkeSpi;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;
    use std::net::SocketAddr;
    use std::sync::Arc;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn path(local: &str, remote: &str) -> Path {
        Path::udp(at(local), at(remote))
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
}
