//! Which routes there should be, and what it takes to get there: one place for start, reload, failover and stop.
//!
//! A tunnel's routes stay while it is down (what enters it then is dropped: fail closed), with one exception: where another
//! connection, which is up, has a route to the same network, that one carries the traffic until the tunnel is back. With
//! two routes to one network the lower `metric` wins, so the second connection is the spare of the first.

use super::links::Links;
use crate::config::{Prefix, Tunnel};
use landbridge_proto::policy::sad::ConnectionName;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

/// A route of ours.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Route {
    /// Where to.
    pub prefix: Prefix,
    /// In the table of policy routing.
    pub policy: bool,
    /// Which way.
    pub way: Way,
}

/// Where a route leads.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    /// Nowhere: behind all tunnels.
    Unreachable,
    /// Into a tunnel.
    Tunnel {
        /// Its interface.
        interface: String,
        /// The lower, the better.
        metric: u32,
        /// What the machine itself sends comes from here.
        source: Option<IpAddr>,
    },
}

/// The routes we made.
#[derive(Default)]
pub struct Routes {
    made: BTreeSet<Route>,
    rules: BTreeSet<bool>,
    /// Some network can be reached by more than one connection.
    shared: bool,
}

impl Routes {
    /// Whether it matters which connection is up.
    #[must_use]
    pub const fn depend_on_state(&self) -> bool {
        self.shared
    }

    /// Makes what is missing first, then removes what is too much.
    ///
    /// # Errors
    /// As the system says of what could not be made; the rest is made nevertheless.
    pub async fn become_(
        &mut self,
        links: &Links,
        tunnels: &BTreeMap<ConnectionName, Tunnel>,
        is_up: impl Fn(&ConnectionName) -> bool,
    ) -> io::Result<()> {
        let (wanted, shared) = wanted(tunnels, is_up);
        self.shared = shared;
        let mut result = Ok(());
        // `Unreachable` comes first within a prefix (the order of `Way`): nothing leaks in between.
        for route in wanted.difference(&self.made.clone()) {
            match links.add_route(route).await {
                Ok(()) => _ = self.made.insert(route.clone()),
                Err(error) => result = Err(error),
            }
        }
        let families: BTreeSet<bool> = wanted
            .iter()
            .filter(|route| route.policy)
            .map(|route| route.prefix.address.is_ipv6())
            .collect();
        // After the routes: while the table has none, what a rule leads there would fall through to the main table.
        for ipv6 in families.difference(&self.rules.clone()) {
            match links.add_rule(*ipv6).await {
                Ok(()) => _ = self.rules.insert(*ipv6),
                Err(error) => result = Err(error),
            }
        }
        let gone: Vec<Route> = self.made.difference(&wanted).cloned().collect();
        // Tunnels' routes before the unreachable ones behind them.
        for route in gone.iter().rev() {
            links.remove_route(route).await;
            self.made.remove(route);
        }
        for ipv6 in self.rules.difference(&families.clone()).copied().collect::<Vec<_>>() {
            links.remove_rule(ipv6).await;
            self.rules.remove(&ipv6);
        }
        result
    }

    /// An interface is gone, and its routes with it.
    pub fn forget_interface(&mut self, name: &str) {
        let through = |route: &Route| matches!(&route.way, Way::Tunnel { interface, .. } if interface == name);
        self.made.retain(|route| !through(route));
    }
}

/// The routes there should be, and whether any of them depends on what is up.
fn wanted(
    tunnels: &BTreeMap<ConnectionName, Tunnel>,
    is_up: impl Fn(&ConnectionName) -> bool,
) -> (BTreeSet<Route>, bool) {
    let mut by_prefix: BTreeMap<(bool, Prefix), Vec<&ConnectionName>> = BTreeMap::new();
    for (name, tunnel) in tunnels {
        for route in &tunnel.routes {
            let names = by_prefix.entry((tunnel.policy_routing, route.network())).or_default();
            names.push(name);
        }
    }
    let (mut routes, mut shared) = (BTreeSet::new(), false);
    for (name, tunnel) in tunnels {
        let up = is_up(name);
        for prefix in &tunnel.routes {
            let others = others(&by_prefix, name, tunnel.policy_routing, *prefix);
            shared |= !others.is_empty();
            let instead = others.iter().find(|(_, other)| !up && is_up(other));
            let route = |way| Route {
                prefix: *prefix,
                policy: tunnel.policy_routing,
                way,
            };
            // One to the same network is behind both; one to a wider network would be shadowed.
            if tunnel.fail_closed && instead.is_none_or(|(wider, _)| wider.length == prefix.length) {
                routes.insert(route(Way::Unreachable));
            }
            if instead.is_none() {
                routes.insert(route(Way::Tunnel {
                    interface: tunnel.interface.clone(),
                    metric: tunnel.metric,
                    source: tunnel.source,
                }));
            }
        }
    }
    (routes, shared)
}

/// The other connections that have a route to a network or to one around it; the narrowest first.
fn others<'c>(
    by_prefix: &BTreeMap<(bool, Prefix), Vec<&'c ConnectionName>>,
    name: &ConnectionName,
    policy: bool,
    prefix: Prefix,
) -> Vec<(Prefix, &'c ConnectionName)> {
    let mut found = Vec::new();
    for length in (0..=prefix.length).rev() {
        let around = Prefix { length, ..prefix }.network();
        let names = by_prefix.get(&(policy, around)).into_iter().flatten();
        found.extend(names.filter(|other| **other != name).map(|other| (around, *other)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use std::path::Path;

    fn tunnels(list: &[(&str, &str, u32)]) -> BTreeMap<ConnectionName, Tunnel> {
        let mut text = "[gateway]\nid = \"a\"\n".to_owned();
        for (number, (name, route, metric)) in list.iter().enumerate() {
            let key = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
            text += &format!(
                "[connections.{name}]\nremote_addrs = [\"203.0.113.{}\"]\nroutes = [\"{route}\"]\nmetric = {metric}\n\
                 [connections.{name}.local]\nprivate_key_file = \"own.key\"\n[connections.{name}.remote]\nid = \"{name}\"\n\
                 public_keys = [\"{key}\"]\n[connections.{name}.children.net]\nlocal_ts = [\"10.1.0.0/16\"]\nremote_ts = [\"0.0.0.0/0\"]\n",
                number + 1
            );
        }
        // Tests run beside each other.
        let thread = std::thread::current().id();
        let folder = std::env::temp_dir().join(format!("landbridge-routes-{}-{thread:?}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        std::fs::write(folder.join("own.key"), key).unwrap();
        std::fs::set_permissions(
            folder.join("own.key"),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )
        .unwrap();
        let parsed = parse(Path::new(&folder.join("landbridge.toml")), &text);
        std::fs::remove_dir_all(&folder).unwrap();
        parsed.unwrap_or_else(|errors| panic!("{errors:?}")).tunnels
    }

    fn words(list: &[(&str, &str, u32)], up: &[&str]) -> Vec<String> {
        let (routes, _) = wanted(&tunnels(list), |name| up.contains(&&**name));
        let word = |route: &Route| match &route.way {
            Way::Unreachable => format!("{} unreachable", route.prefix),
            Way::Tunnel { interface, metric, .. } => format!("{} {interface} {metric}", route.prefix),
        };
        routes.iter().map(word).collect()
    }

    #[test]
    fn alone_a_tunnel_keeps_its_routes_whether_up_or_down() {
        let alone = [("a", "10.2.0.0/16", 100)];
        for up in [&["a"][..], &[]] {
            assert_eq!(words(&alone, up), ["10.2.0.0/16 unreachable", "10.2.0.0/16 lb-a 100"]);
        }
        let apart = [("a", "10.2.0.0/16", 100), ("b", "10.3.0.0/16", 100)];
        assert!(!wanted(&tunnels(&apart), |_| false).1);
    }

    #[test]
    fn the_spare_carries_while_the_first_is_down() {
        let pair = [("a", "10.2.0.0/16", 100), ("b", "10.2.0.0/16", 200)];
        let (closed, a, b) = (
            "10.2.0.0/16 unreachable",
            "10.2.0.0/16 lb-a 100",
            "10.2.0.0/16 lb-b 200",
        );
        assert!(wanted(&tunnels(&pair), |_| false).1);
        assert_eq!(words(&pair, &["a", "b"]), [closed, a, b]);
        assert_eq!(words(&pair, &["b"]), [closed, b]);
        assert_eq!(words(&pair, &["a"]), [closed, a]);
        // Both are down: into the tunnels, where it is dropped, and where it may bring one up.
        assert_eq!(words(&pair, &[]), [closed, a, b]);
    }

    #[test]
    fn a_wider_route_carries_too_and_is_not_shadowed() {
        let pair = [("a", "10.2.0.0/16", 100), ("b", "10.0.0.0/8", 100)];
        let wide = ["10.0.0.0/8 unreachable", "10.0.0.0/8 lb-b 100"];
        assert_eq!(words(&pair, &["b"]), wide);
        assert_eq!(words(&pair, &["a", "b"]).len(), 4);
        // The narrow one does not carry all of the wide one.
        assert_eq!(words(&pair, &["a"]).len(), 4);
    }
}
