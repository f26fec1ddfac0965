//! Other people's gateways, by the scripts under `netns-scripts/peers`: strongSwan with its userspace ESP
//! (kernel-libipsec) as processes in a namespace, or strongSwan and Libreswan in a guest with a Linux kernel and its ESP.

use super::{World, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Whose gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Software {
    /// strongSwan, as Debian 12 has it.
    StrongSwan,
    /// strongSwan 6 of a later Debian: it has ML-KEM and several key exchanges. Only in a namespace.
    StrongSwan6,
    /// Libreswan; only in a guest, because it has no ESP of its own.
    Libreswan,
}

impl Software {
    /// The name of its packages, for `netns-scripts/peers/fetch`.
    fn root(self) -> &'static str {
        match self {
            Self::StrongSwan => "strongswan",
            Self::StrongSwan6 => "strongswan6",
            Self::Libreswan => "libreswan",
        }
    }

    /// The name of its script.
    fn script(self) -> &'static str {
        match self {
            Self::StrongSwan | Self::StrongSwan6 => "strongswan",
            Self::Libreswan => "libreswan",
        }
    }
}

/// A running gateway that is not ours.
pub struct Peer {
    software: Software,
    guest: bool,
    state: String,
}

/// strongSwan in a namespace.
pub type StrongSwan = Peer;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("netns-scripts/peers")
        .join(name)
}

/// Whether what `netns-scripts/peers/fetch` unpacks is there.
fn fetched(test: &str, names: &[&str]) -> bool {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("netns-scripts/.cache");
    let missing: Vec<_> = names
        .iter()
        .filter(|name| !cache.join(format!("root-{name}/.complete")).exists())
        .copied()
        .collect();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(" ");
    assert!(
        std::env::var_os("LANDBRIDGE_TEST_STRICT").is_none(),
        "{test}: netns-scripts/peers/fetch {missing} has not run"
    );
    eprintln!("skipped: {test}: run netns-scripts/peers/fetch {missing} first");
    false
}

/// Whether strongSwan can be started in a namespace.
pub fn available(test: &str) -> bool {
    fetched(test, &["strongswan"])
}

/// Whether strongSwan 6 can. Its packages are another Debian's than this machine's may be: `LANDBRIDGE_TEST_WITHOUT` names it
/// where they can't be had.
pub fn newer_available(test: &str) -> bool {
    let without = std::env::var("LANDBRIDGE_TEST_WITHOUT").is_ok_and(|names| names.contains("strongswan6"));
    if without {
        eprintln!("skipped: {test}: without strongSwan 6");
    }
    !without && fetched(test, &["strongswan6"])
}

/// Whether a guest with this software can be started.
pub fn guest_available(test: &str, software: Software) -> bool {
    fetched(test, &["uml", software.root()])
}

impl Peer {
    /// strongSwan: a process tree in the namespace, nothing started in it yet.
    pub fn host(world: &mut World, ns: &str) -> Self {
        Self::host_of(world, ns, Software::StrongSwan)
    }

    /// The same with a certain strongSwan.
    pub fn host_of(world: &mut World, ns: &str, software: Software) -> Self {
        let state = world.dir().join(format!("strongswan-{ns}"));
        let state = state.to_str().unwrap().to_owned();
        run(Command::new(script("ns-host")).args([
            "start",
            "--netns",
            &world.ns(ns),
            "--root",
            software.root(),
            "--state",
            &state,
        ]));
        world.at_end(&[script("ns-host").to_str().unwrap(), "stop", &state]);
        Self {
            software,
            guest: false,
            state,
        }
    }

    /// A guest in the place of `gb` of [`World::two_sites`]: the namespace becomes two bridges, `wan0` and `lan0` lead to
    /// the guest's interfaces (`vec0` and `vec1` there), which have the addresses.
    pub fn guest(world: &mut World, software: Software) -> Self {
        let state = world.dir().join(format!("guest-{}", software.root()));
        let state = state.to_str().unwrap().to_owned();
        for (device, bridge) in [("wan0", "br-wan"), ("lan0", "br-lan")] {
            world.ip("gb", &["addr", "flush", "dev", device]);
            world.ip("gb", &["link", "add", bridge, "type", "bridge"]);
            world.must(
                "gb",
                &["sysctl", "-qw", &format!("net.ipv6.conf.{bridge}.disable_ipv6=1")],
            );
            world.must(
                "gb",
                &["sysctl", "-qw", &format!("net.ipv6.conf.{device}.disable_ipv6=1")],
            );
            world.ip("gb", &["link", "set", device, "master", bridge]);
            world.ip("gb", &["link", "set", bridge, "up"]);
        }
        // The guest takes no segmentation offload, and its tap throws larger frames away.
        world.ip("hb", &["link", "set", "eth0", "gso_max_segs", "1"]);
        world.at_end(&[script("uml-host").to_str().unwrap(), "stop", &state]);
        #[rustfmt::skip]
        run(Command::new(script("uml-host")).args([
            "start", "--netns", &world.ns("gb"), "--root", software.root(), "--state", &state,
            "--tap", "tap-wan", "--bridge", "br-wan", "--ip", "198.51.100.2/24", "--ip", "2001:db8:2::2/64",
            "--route", "default,198.51.100.1", "--route", "default,2001:db8:2::1",
            "--lan-tap", "tap-lan", "--lan-bridge", "br-lan", "--lan-ip", "10.2.0.1/24", "--lan-ip", "fd02::1/64",
        ]));
        Self {
            software,
            guest: true,
            state,
        }
    }

    /// Starts the daemon with `KEY=VALUE` settings (see `netns-scripts/peers/peers/common.sh`).
    pub fn start(&self, settings: &[&str]) {
        let mut words = vec!["start"];
        if !self.guest {
            words.push("KERNEL=libipsec");
        }
        words.extend(settings);
        self.peer(&words);
    }

    /// Puts a file where the scripts inside see it as `/um/NAME`.
    pub fn put(&self, name: &str, text: &str) {
        let path = Path::new(&self.state).join("share").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        // A peer that never answers fails the test; it does not stop all of them.
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", "60"])
            .arg(script(if self.guest { "uml-host" } else { "ns-host" }))
            .args(["exec", &self.state])
            .args(words);
        command
    }

    /// Runs a verb of the peer script; it must succeed.
    pub fn peer(&self, words: &[&str]) -> String {
        let script = format!("/um-src/peers/{}", self.software.script());
        let output = run(&mut self.command(&[&[script.as_str()], words].concat()));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a verb of the peer script, whatever comes of it.
    pub fn try_peer(&self, words: &[&str]) -> Output {
        let script = format!("/um-src/peers/{}", self.software.script());
        self.command(&[&[script.as_str()], words].concat()).output().unwrap()
    }

    /// Runs any command inside.
    pub fn sh(&self, command: &str) -> String {
        let output = run(&mut self.command(&["sh", "-c", command]));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Ends its daemon without a word to us.
    pub fn kill(&self) {
        self.sh("pid=$(cat /run/um-peer.pid); kill -9 $pid; rm -f /run/um-peer.pid
            for i in $(seq 100); do grep -q '^State:[^Z]*$' /proc/$pid/status 2>/dev/null || break; sleep 0.05; done");
        if self.guest {
            self.sh("ip xfrm state flush; ip xfrm policy flush");
        }
    }

    /// Ends its daemon, with Deletes for what is up.
    pub fn stop(&self) {
        self.peer(&["stop"]);
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.peer(&["log"])
    }

    /// Its SAs.
    pub fn status(&self) -> String {
        self.peer(&["status"])
    }

    /// Its software.
    pub fn software(&self) -> Software {
        self.software
    }

    /// Whether it is a guest with a kernel of its own, whose ESP it uses.
    pub fn is_guest(&self) -> bool {
        self.guest
    }

    /// What it is, with its version, for the table of results.
    pub fn title(&self) -> String {
        let last = |text: String| text.split_whitespace().last().unwrap_or("?").to_owned();
        let software = match self.software {
            Software::StrongSwan | Software::StrongSwan6 => format!(
                "strongSwan {}",
                last(self.sh("/usr/lib/ipsec/charon --version 2>&1 | head -n1"))
            ),
            Software::Libreswan => format!("Libreswan {}", last(self.sh("ipsec --version 2>&1 | head -n1"))),
        };
        if self.guest {
            format!("{software}, Linux {}", self.sh("uname -r").trim())
        } else {
            format!("{software}, kernel-libipsec")
        }
    }
}

/// A relay with faults in the place of the bridge between `net` and a guest.
pub struct Relay {
    ns: String,
    state: PathBuf,
    stopped: bool,
}

impl Relay {
    /// Starts it.
    pub fn start(world: &World, settings: &[&str]) -> Self {
        let relay = Self {
            ns: world.ns("gb"),
            state: world.dir().join("relay"),
            stopped: false,
        };
        for device in ["wan0", "tap-wan"] {
            world.ip("gb", &["link", "set", device, "nomaster"]);
        }
        run(Command::new(script("impair"))
            .args([
                "start", "--netns", &relay.ns, "--a", "wan0", "--b", "tap-wan", "--state",
            ])
            .arg(&relay.state)
            .args(settings));
        relay
    }

    /// Stops it; the bridge is back. Its counters, by direction: `ab` is towards the guest.
    pub fn stop(mut self) -> serde_json::Value {
        serde_json::from_str(&self.end()).unwrap()
    }

    fn end(&mut self) -> String {
        self.stopped = true;
        let output = Command::new(script("impair"))
            .arg("stop")
            .arg(&self.state)
            .output()
            .unwrap();
        for device in ["wan0", "tap-wan"] {
            let mut ip = Command::new("ip");
            let _ = ip
                .args(["-n", &self.ns, "link", "set", device, "master", "br-wan"])
                .output();
        }
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if !self.stopped {
            self.end();
        }
    }
}
