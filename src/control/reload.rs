//! A new configuration: what it takes, as a plan that can be read before, and carrying it out.
//!
//! An interface belongs to the connection and outlives its SAs; so it is made anew only if its name or kind changed.
//! Everything else about it changes in place.

use super::daemon::Daemon;
use super::journal::Level;
use super::{RunError, status};
use crate::config::{self, ConfigError, Configuration, GatewaySettings, Tunnel};
use crate::data::{InterfaceOptions, TRANSPORT_MTU};
use landbridge_proto::ike::Command;
use landbridge_proto::policy::change::{Changes, ChildChange};
use landbridge_proto::policy::sad::ConnectionName;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a reload would do.
pub(super) struct Plan {
    /// Settings of the gateway that hold from now on.
    gateway: bool,
    /// Another certificate for TLS.
    certificate: bool,
    steps: BTreeMap<ConnectionName, Step>,
}

/// What it would do with one connection.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    Added,
    Removed,
    /// Its SAs are deleted, and it begins anew, because of these.
    Restarted {
        why: Vec<String>,
        /// The interface is made anew too.
        interface: bool,
    },
    /// These change, and its SAs stay.
    Changed(Vec<String>),
    Unchanged,
}

impl Plan {
    /// From one configuration to the next.
    ///
    /// # Errors
    /// What can't be done without a restart of the daemon.
    fn between(old: &Configuration, new: &Configuration) -> Result<Self, String> {
        let settings = fixed(&old.gateway, &new.gateway);
        if !settings.is_empty() {
            return Err(format!(
                "{} of [gateway] changed: that takes a restart of the daemon; nothing changed",
                settings.join(", ")
            ));
        }
        let mut steps = BTreeMap::new();
        for name in old.tunnels.keys().filter(|name| !new.tunnels.contains_key(*name)) {
            steps.insert(Arc::clone(name), Step::Removed);
        }
        for (name, tunnel) in &new.tunnels {
            steps.insert(Arc::clone(name), step(old, new, name, tunnel));
        }
        Ok(Self {
            gateway: old.ike.gateway != new.ike.gateway,
            certificate: old.tls != new.tls,
            steps,
        })
    }

    fn count(&self, pick: impl Fn(&Step) -> bool) -> usize {
        self.steps.values().filter(|step| pick(step)).count()
    }
}

fn step(old: &Configuration, new: &Configuration, name: &ConnectionName, tunnel: &Tunnel) -> Step {
    let connections = [old, new].map(|configuration| configuration.ike.connections.get(name));
    let (Some(before), [Some(from), Some(to)]) = (old.tunnels.get(name), connections) else {
        return Step::Added;
    };
    let changes = Changes::between(from, to);
    let (mut keys, in_place) = tunnel_changes(before, tunnel);
    // An interface has its queues from the beginning.
    if from.pairs() != to.pairs() {
        keys.push("pairs");
    }
    let mut why: Vec<String> = changes.restart.iter().map(ToString::to_string).collect();
    let moved = !before
        .remote_hosts
        .iter()
        .all(|host| tunnel.remote_hosts.contains(host));
    if moved && !why.iter().any(|key| key == "remote_addrs") {
        why.push("remote_addrs".to_owned());
    }
    let interface = !keys.is_empty();
    why.extend(keys.into_iter().map(str::to_owned));
    if !why.is_empty() {
        return Step::Restarted { why, interface };
    }
    let mut list: Vec<String> = changes.in_place.iter().map(|key| from_when(key)).collect();
    let told = |key: &&str| !changes.in_place.contains(key);
    list.extend(in_place.into_iter().filter(told).map(str::to_owned));
    list.extend(
        changes
            .children
            .iter()
            .map(|(child, change)| format!("child {child}: {}", of_child(change))),
    );
    if list.is_empty() {
        Step::Unchanged
    } else {
        Step::Changed(list)
    }
}

/// Settings of the daemon that it can't change while it runs.
fn fixed(old: &GatewaySettings, new: &GatewaySettings) -> Vec<&'static str> {
    let mut list = Vec::new();
    for (differs, key) in [
        (old.control_socket != new.control_socket, "control_socket"),
        (old.workers != new.workers, "workers"),
        (old.port != new.port, "port"),
        (old.nat_port != new.nat_port, "nat_port"),
        (old.tcp_listen != new.tcp_listen, "tcp_listen"),
        (old.tls_listen != new.tls_listen, "tls_listen"),
        (old.log_level != new.log_level, "log_level"),
        (old.metrics_listen != new.metrics_listen, "metrics_listen"),
        (old.state_dir != new.state_dir, "state_dir"),
    ] {
        if differs {
            list.push(key);
        }
    }
    if list.is_empty() && old != new {
        list.push("a setting");
    }
    list
}

/// What takes another interface, and what does not.
fn tunnel_changes(old: &Tunnel, new: &Tunnel) -> (Vec<&'static str>, Vec<&'static str>) {
    let mut anew = Vec::new();
    let mut in_place = Vec::new();
    for (differs, key) in [
        (old.interface != new.interface, "interface"),
        (old.transport != new.transport, "mode"),
    ] {
        if differs {
            anew.push(key);
        }
    }
    for (differs, key) in [
        (old.addresses != new.addresses, "addresses"),
        (
            (old.mtu, old.mtu_most, old.outer_mtu_most) != (new.mtu, new.mtu_most, new.outer_mtu_most),
            "mtu",
        ),
        (old.clamp_mss != new.clamp_mss, "clamp_mss"),
        (old.dont_fragment != new.dont_fragment, "df"),
        (old.dscp != new.dscp, "dscp"),
        (old.routes != new.routes || old.source != new.source, "routes"),
        (old.metric != new.metric, "metric"),
        (old.fail_closed != new.fail_closed, "fail_closed"),
        (old.policy_routing != new.policy_routing, "policy_routing"),
        (old.remote_hosts != new.remote_hosts, "remote_addrs"),
        (old.tcp_tls != new.tcp_tls, "tcp_tls (for the next TCP connection)"),
        (old.start != new.start, "start_action"),
        (old.retry != new.retry, "retry"),
        (old.profile != new.profile, "profile"),
    ] {
        if differs {
            in_place.push(key);
        }
    }
    if anew.is_empty() && in_place.is_empty() && old != new {
        anew.push("other settings");
    }
    (anew, in_place)
}

fn from_when(key: &str) -> String {
    let when = match key {
        "keys" => "from the next authentication on",
        "rekey_time" | "reauth_time" | "fragmentation" | "resumption" | "redirect_to" => "from the next IKE SA on",
        "remote_addrs" | "tcp" | "tcp_port" | "follow_redirects" => "from the next attempt on",
        _ => "from now on",
    };
    format!("{key} ({when})")
}

fn of_child(change: &ChildChange) -> String {
    match change {
        ChildChange::Added => "added".to_owned(),
        ChildChange::Removed => "removed".to_owned(),
        ChildChange::Restarted(keys) => format!("begins anew ({})", keys.join(", ")),
        ChildChange::Rekeyed(keys) => format!("rekeyed ({})", keys.join(", ")),
        ChildChange::InPlace(keys) => format!("{} (from the next rekey on)", keys.join(", ")),
    }
}

/// One line a connection that does not stay as it is, and a sum.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changed = self.count(|step| matches!(step, Step::Changed(_)));
        write!(
            f,
            "{} added, {} removed, {} restarted, {changed} changed in place, {} unchanged",
            self.count(|step| *step == Step::Added),
            self.count(|step| *step == Step::Removed),
            self.count(|step| matches!(step, Step::Restarted { .. })),
            self.count(|step| *step == Step::Unchanged),
        )?;
        if self.gateway {
            f.write_str("\n  [gateway]: settings of the key exchange change (from now on)")?;
        }
        if self.certificate {
            f.write_str("\n  [gateway]: the certificate of TLS changes (for the next TCP connection)")?;
        }
        for (name, step) in &self.steps {
            match step {
                Step::Added => write!(f, "\n+ {name}: added")?,
                Step::Removed => write!(f, "\n- {name}: removed")?,
                Step::Restarted { why, .. } => write!(f, "\n! {name}: restarted, for {}", why.join(", "))?,
                Step::Changed(list) => write!(f, "\n~ {name}: changed in place: {}", list.join("; "))?,
                Step::Unchanged => {}
            }
        }
        Ok(())
    }
}

impl Daemon {
    /// What [`Self::reload`] would do.
    pub(super) fn dry_run(&self) -> Result<String, String> {
        let (new, plan) = self.plan()?;
        let known = &self.configuration.warnings;
        let warnings = new.warnings.iter().filter(|text| !known.contains(text));
        let warnings: String = warnings.map(|text| format!("\nwarning: {text}")).collect();
        Ok(format!("a reload would do this: {plan}{warnings}"))
    }

    /// Reads the configuration again. A broken file changes nothing; what did not change keeps its SAs.
    pub(super) async fn reload(&mut self) -> Result<String, String> {
        self.notify(&[sd_notify::NotifyState::Reloading]);
        let result = self.reload_from_file().await;
        self.notify(&[sd_notify::NotifyState::Ready]);
        if let Ok(text) = &result {
            self.log(Level::Info, None, text);
        }
        result
    }

    fn plan(&self) -> Result<(Configuration, Plan), String> {
        let new = config::load(&self.configuration.path).map_err(|errors| refused(&errors))?;
        let plan = Plan::between(&self.configuration, &new)?;
        let raw = |name: &ConnectionName| {
            let connection = new.ike.connections.get(name);
            connection.is_some_and(|connection| !connection.force_udp_encapsulation)
        };
        if let Some(name) = new.tunnels.keys().find(|name| !self.data.has_raw() && raw(name)) {
            return Err(format!(
                "connection {name}: encap = \"auto\" takes CAP_NET_RAW, and a restart of the daemon; nothing changed"
            ));
        }
        Ok((new, plan))
    }

    async fn reload_from_file(&mut self) -> Result<String, String> {
        let (new, plan) = self.plan()?;
        self.desk.reload(new.signers.clone());
        let old = std::mem::replace(&mut self.configuration, new);
        let failed = self.carry_out(&plan, &old, None).await;
        if failed.is_empty() {
            return Ok(format!("reloaded: {plan}"));
        }
        let failed = failed.join("\n");
        Err(format!("reloaded, but not all of it could be done:\n{failed}\n{plan}"))
    }

    /// Connections begin anew, each with another interface, for this reason; those of `up` are brought up. Returns what could not be done.
    pub(super) async fn begin_anew(
        &mut self,
        names: &[ConnectionName],
        why: &str,
        up: &BTreeSet<ConnectionName>,
    ) -> Vec<String> {
        let restarted = |name: &ConnectionName| {
            let why = vec![why.to_owned()];
            (Arc::clone(name), Step::Restarted { why, interface: true })
        };
        let plan = Plan {
            gateway: false,
            certificate: false,
            steps: names.iter().map(restarted).collect(),
        };
        let same = self.configuration.clone();
        self.carry_out(&plan, &same, Some(up)).await
    }

    /// Does what a plan says, from the old configuration to the present one; returns what could not be done. What begins anew is brought up
    /// if it is among `up`, or if it is configured so.
    async fn carry_out(
        &mut self,
        plan: &Plan,
        old: &Configuration,
        up: Option<&BTreeSet<ConnectionName>>,
    ) -> Vec<String> {
        let ends = |step: &Step| matches!(step, Step::Removed | Step::Restarted { .. });
        for (name, step) in plan.steps.iter().filter(|(_, step)| ends(step)) {
            self.attempts.cancel(name);
            // What the key exchange would not have to restart for: another interface, another name of the peer.
            if *step != Step::Removed {
                let (connection, child) = (Arc::clone(name), None);
                if let Err(error) = self
                    .endpoint
                    .handle_command(self.clock.now(), Command::Down { connection, child })
                {
                    tracing::debug!(%error, "nothing to take down");
                }
            }
        }
        self.endpoint
            .reconfigure(self.clock.now(), Arc::clone(&self.configuration.ike));
        // The peers hear of what ends while the interfaces are still there.
        self.drain().await;
        for (name, step) in &plan.steps {
            if let (Step::Removed | Step::Restarted { interface: true, .. }, Some(tunnel)) =
                (step, old.tunnels.get(name))
            {
                self.data.remove_interface(name);
                self.routes.forget_interface(&tunnel.interface);
            }
            if *step == Step::Removed {
                self.known.remove(name);
            }
        }
        let mut failed = Vec::new();
        for (name, step) in &plan.steps {
            let Some(tunnel) = self.configuration.tunnels.get(name).cloned() else {
                continue;
            };
            match step {
                Step::Added | Step::Restarted { interface: true, .. } => {
                    if let Err(error) = self.add_tunnel(name, &tunnel).await {
                        failed.push(format!("{name}: {error}"));
                    }
                }
                Step::Changed(_) | Step::Restarted { .. } => {
                    if let Some(before) = old.tunnels.get(name) {
                        self.change_tunnel(name, before, &tunnel).await;
                    }
                }
                Step::Removed | Step::Unchanged => {}
            }
        }
        if let Err(error) = self.sync_routes().await {
            failed.push(format!("routes: {error}"));
        }
        for (name, step) in &plan.steps {
            let Some(tunnel) = self.configuration.tunnels.get(name).cloned() else {
                continue;
            };
            let begins = match step {
                Step::Added | Step::Restarted { .. } => up.map_or(tunnel.start, |up| up.contains(name)),
                Step::Changed(_) => old.tunnels.get(name).is_some_and(|before| {
                    // One that waits for its next attempt may have somewhere else to go now.
                    let waits = self.attempts.due_in(name).is_some();
                    tunnel.start && (!before.start || (waits && before.remote_hosts != tunnel.remote_hosts))
                }),
                Step::Removed | Step::Unchanged => false,
            };
            // Without an interface it could carry nothing.
            if begins && !self.data.lacks_interface(name) {
                self.attempts
                    .connect(name, &tunnel, &self.configuration, Duration::ZERO);
            }
        }
        for warning in self.configuration.warnings.clone() {
            if !old.warnings.contains(&warning) {
                self.log(Level::Warn, None, &warning);
            }
        }
        failed
    }

    /// What its interface is made with.
    fn interface_options(&self, name: &ConnectionName, tunnel: &Tunnel) -> InterfaceOptions {
        let path = self.known.get(name).and_then(|known| known.path);
        let path = path.as_ref().map(|(path, encapsulation)| (path, *encapsulation));
        let mtu = tunnel
            .mtu
            .unwrap_or_else(|| status::inner_mtu(&self.configuration, name, path));
        InterfaceOptions {
            queues: self
                .configuration
                .ike
                .connections
                .get(name)
                .map_or(1, |connection| connection.pairs()),
            name: tunnel.interface.clone(),
            mtu,
            clamp_mss: tunnel.clamp_mss,
            transport: tunnel.transport,
            dont_fragment: tunnel.dont_fragment,
            dscp: tunnel.dscp.clone(),
        }
    }

    /// A connection's interface with its addresses; its routes come by [`Self::sync_routes`].
    pub(super) async fn add_tunnel(&mut self, name: &ConnectionName, tunnel: &Tunnel) -> Result<(), RunError> {
        let connection = self.configuration.ike.connections.get(name);
        if !self.data.has_raw() && connection.is_some_and(|connection| !connection.force_udp_encapsulation) {
            let text = format!("connection {name}: encap = \"auto\" takes CAP_NET_RAW, and a restart");
            let cause = std::io::Error::new(std::io::ErrorKind::PermissionDenied, text);
            return Err(RunError::Start {
                what: "ESP without UDP",
                cause,
            });
        }
        let options = self.interface_options(name, tunnel);
        self.data
            .add_interface(name, &options)
            .map_err(RunError::start("a TUN interface"))?;
        self.known.entry(Arc::clone(name)).or_default().mtu = options.mtu;
        let mtu = if tunnel.transport { TRANSPORT_MTU } else { options.mtu };
        self.links
            .configure(&tunnel.interface, mtu, &tunnel.addresses)
            .await
            .map_err(RunError::start("an interface"))
    }

    /// Changes what can be changed while packets go through.
    async fn change_tunnel(&mut self, name: &ConnectionName, old: &Tunnel, new: &Tunnel) {
        let options = self.interface_options(name, new);
        self.data.change_interface(name, &options);
        let known = self.known.entry(Arc::clone(name)).or_default();
        let mtu = if new.transport { TRANSPORT_MTU } else { options.mtu };
        let same = known.mtu == options.mtu && old.addresses == new.addresses;
        known.mtu = options.mtu;
        if same {
            return;
        }
        if let Err(error) = self.links.configure(&new.interface, mtu, &new.addresses).await {
            self.log(Level::Warn, Some(name), &error.to_string());
        }
        for address in old.addresses.iter().filter(|address| !new.addresses.contains(address)) {
            self.links.remove_address(&new.interface, *address).await;
        }
    }
}

fn refused(errors: &[ConfigError]) -> String {
    let list: Vec<String> = errors.iter().map(ToString::to_string).collect();
    format!(
        "the configuration is not reloaded, nothing changed:\n{}",
        list.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const BASE: &str = r#"
[gateway]
id = "office.example.com"
[connections.NAME]
remote_addrs = ["203.0.113.7"]
[connections.NAME.local]
psk_file = "NAME.psk"
[connections.NAME.remote]
auth = "psk"
id = "NAME.example.com"
[connections.NAME.children.net]
local_ts = ["10.1.0.0/16"]
remote_ts = ["10.2.0.0/16"]
start_action = "start"
"#;

    fn configuration(test: &str, text: &str) -> Configuration {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("landbridge-reload-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["a", "b", "c"] {
            let file = folder.join(format!("{name}.psk"));
            std::fs::write(&file, format!("a pre-shared key for {name}, long enough")).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let parsed = config::parse(Path::new(&folder.join("landbridge.toml")), text);
        std::fs::remove_dir_all(&folder).unwrap();
        parsed.unwrap_or_else(|errors| panic!("{errors:?}"))
    }

    fn plan(test: &str, old: &str, new: &str) -> String {
        let (old, new) = (configuration(test, old), configuration(test, new));
        match Plan::between(&old, &new) {
            Ok(plan) => plan.to_string(),
            Err(text) => text,
        }
    }

    #[test]
    fn a_plan_says_what_becomes_of_each() {
        let a = BASE.replace("NAME", "a");
        let same = plan("same", &a, &a);
        assert_eq!(same, "0 added, 0 removed, 0 restarted, 0 changed in place, 1 unchanged");
        let other = BASE.replace("NAME", "b").replace("10.2.", "10.3.");
        let both = a.clone() + other.split_once("\"office.example.com\"\n").unwrap().1;
        assert!(plan("added", &a, &both).ends_with("\n+ b: added"));
        assert!(plan("removed", &both, &a).ends_with("1 unchanged\n- b: removed"));
    }

    #[test]
    fn a_change_takes_as_little_as_possible() {
        let a = BASE.replace("NAME", "a");
        for (from, to, expected) in [
            (
                "psk_file = \"a.psk\"",
                "psk_file = \"c.psk\"",
                "~ a: changed in place: keys (from the next authentication on)",
            ),
            (
                "[connections.a]\n",
                "[connections.a]\ndpd_delay = \"9s\"\n",
                "~ a: changed in place: dpd_delay (from now on)",
            ),
            (
                "[connections.a]\n",
                "[connections.a]\nmtu = 1400\nmetric = 9\n",
                "~ a: changed in place: mtu; metric",
            ),
            (
                "[connections.a]\n",
                "[connections.a]\nroutes = [\"10.2.3.0/24\"]\n",
                "~ a: changed in place: routes",
            ),
            (
                "[\"203.0.113.7\"]",
                "[\"203.0.113.7\", \"203.0.113.8\"]",
                "~ a: changed in place: remote_addrs (from the next attempt on)",
            ),
            (
                "[\"203.0.113.7\"]",
                "[\"203.0.113.8\"]",
                "! a: restarted, for remote_addrs",
            ),
            (
                "[connections.a]\n",
                "[connections.a]\ninterface = \"x\"\n",
                "! a: restarted, for interface",
            ),
            ("start_action", "pairs = 4\nstart_action", "! a: restarted, for pairs"),
            (
                "id = \"a.example.com\"",
                "id = \"z.example.com\"",
                "! a: restarted, for remote.id",
            ),
            (
                "start_action",
                "rekey_time = \"9m\"\nstart_action",
                "~ a: changed in place: child net: rekey_time, life_time, rand_time (from the next rekey on)",
            ),
            (
                "start_action",
                "esp_proposals = [\"aes256gcm16-ecp384\"]\nstart_action",
                "~ a: changed in place: child net: rekeyed (esp_proposals)",
            ),
            (
                "[\"10.1.0.0/16\"]",
                "[\"10.7.0.0/16\"]",
                "~ a: changed in place: child net: begins anew (local_ts)",
            ),
            (
                "[connections.a]\n",
                "[connections.a]\ntcp = \"fallback\"\ntcp_tls = true\n",
                "~ a: changed in place: tcp (from the next attempt on); tcp_tls (for the next TCP connection)",
            ),
            (
                "[gateway]\n",
                "[gateway]\nretransmit_tries = 3\n",
                "  [gateway]: settings of the key exchange change (from now on)",
            ),
        ] {
            let said = plan("change", &a, &a.replace(from, to));
            let line = said.split_once('\n').unwrap_or_default().1;
            assert_eq!(line, expected);
        }
        let workers = plan("workers", &a, &a.replace("[gateway]\n", "[gateway]\nport = 501\n"));
        assert_eq!(
            workers,
            "port of [gateway] changed: that takes a restart of the daemon; nothing changed"
        );
    }
}
