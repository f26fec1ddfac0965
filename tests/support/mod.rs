//! Networks of namespaces for tests, and what runs in them. Everything a [`World`] started ends with it, by process id.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

pub mod capture;
pub mod gateway;
pub mod openmetrics;
pub mod packet_socket;
pub mod peer;
pub mod report;
pub mod static_keys;
pub mod stream;
pub mod strongswan;
pub mod transfer;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// True if this process may make network namespaces and TUN interfaces. Where it may not, the test says so and passes
/// as skipped; under `netns-scripts/test.sh` (LANDBRIDGE_TEST_STRICT) it fails.
pub fn privileged(test: &str) -> bool {
    // SAFETY: no arguments, can't fail.
    let root = unsafe { libc::geteuid() } == 0;
    if root && Path::new("/dev/net/tun").exists() {
        return true;
    }
    assert!(
        std::env::var_os("LANDBRIDGE_TEST_STRICT").is_none(),
        "{test}: needs root and /dev/net/tun"
    );
    eprintln!("skipped: {test}: needs root and /dev/net/tun");
    false
}

/// A set of namespaces with a name of its own, and a directory for files.
pub struct World {
    run: String,
    dir: PathBuf,
    namespaces: Vec<String>,
    children: Vec<Child>,
    on_drop: Vec<Vec<String>>,
}

impl World {
    /// An empty world.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let run = format!("lbt{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&run);
        fs::create_dir_all(&dir).unwrap();
        Self {
            run,
            dir,
            namespaces: Vec::new(),
            children: Vec::new(),
            on_drop: Vec::new(),
        }
    }

    /// host A - gateway A - (router) - gateway B - host B, with a NAT in front of A if asked for. The names are `ha`,
    /// `ga`, `net`, `gb`, `hb`; the addresses 10.1.0.2/.1, 192.0.2.1 (or 192.168.50.2 behind 192.0.2.1), 198.51.100.2,
    /// 10.2.0.1/.2.
    pub fn two_sites(nat: bool, mtu: u32) -> Self {
        let mut world = Self::new();
        for name in ["ha", "ga", "net", "gb", "hb"] {
            world.add(name);
        }
        world.join("ha", "eth0", "10.1.0.2/24", "ga", "lan0", "10.1.0.1/24");
        world.join("gb", "lan0", "10.2.0.1/24", "hb", "eth0", "10.2.0.2/24");
        world.join("net", "eth1", "198.51.100.1/24", "gb", "wan0", "198.51.100.2/24");
        if nat {
            world.add("nat");
            world.join("ga", "wan0", "192.168.50.2/24", "nat", "lan0", "192.168.50.1/24");
            world.join("nat", "wan0", "192.0.2.1/24", "net", "eth0", "192.0.2.254/24");
            world.ip("nat", &["route", "add", "default", "via", "192.0.2.254"]);
            world.ip("ga", &["route", "add", "default", "via", "192.168.50.1"]);
            world.must("nat", &["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
            world.must("nat", &["nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority srcnat; }; add rule ip nat post oifname wan0 masquerade random"]);
        } else {
            world.join("ga", "wan0", "192.0.2.1/24", "net", "eth0", "192.0.2.254/24");
            world.ip("ga", &["route", "add", "default", "via", "192.0.2.254"]);
        }
        world.ip("gb", &["route", "add", "default", "via", "198.51.100.1"]);
        world.ip("ha", &["route", "add", "default", "via", "10.1.0.1"]);
        world.ip("hb", &["route", "add", "default", "via", "10.2.0.1"]);
        for name in ["ga", "net", "gb"] {
            world.must(name, &["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        }
        if mtu != 1500 {
            for (ns, device) in [("net", "eth0"), ("net", "eth1"), ("ga", "wan0"), ("gb", "wan0")] {
                world.ip(ns, &["link", "set", device, "mtu", &mtu.to_string()]);
            }
        }
        world
    }

    /// Puts a NAT in front of `gb` of [`Self::two_sites`], which becomes 192.168.60.2 behind 198.51.100.2.
    pub fn nat_before_gb(&mut self) {
        self.ip("gb", &["link", "del", "wan0"]);
        self.add("natb");
        self.join("net", "eth1", "198.51.100.1/24", "natb", "wan0", "198.51.100.2/24");
        self.join("natb", "lan0", "192.168.60.1/24", "gb", "wan0", "192.168.60.2/24");
        self.ip("natb", &["route", "add", "default", "via", "198.51.100.1"]);
        self.ip("gb", &["route", "add", "default", "via", "192.168.60.1"]);
        self.must("natb", &["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        self.must("natb", &["nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority srcnat; }; add rule ip nat post oifname wan0 masquerade random"]);
    }

    /// A NAT (`nat` or `natb`) passes IKE from outside on to a gateway behind it.
    pub fn forward_ike(&self, nat: &str, gateway: &str) {
        self.must(nat, &["nft", &format!("add chain ip nat pre {{ type nat hook prerouting priority dstnat; }}; add rule ip nat pre iifname wan0 udp dport {{ 500, 4500 }} dnat to {gateway}")]);
    }

    /// IPv6 beside the IPv4 of [`Self::two_sites`] (without a NAT): fd01::2/::1, 2001:db8:1::1, 2001:db8:2::2, fd02::1/::2.
    pub fn add_ipv6(&self) {
        for (ns, device, address) in [
            ("ha", "eth0", "fd01::2/64"),
            ("ga", "lan0", "fd01::1/64"),
            ("ga", "wan0", "2001:db8:1::1/64"),
            ("net", "eth0", "2001:db8:1::254/64"),
            ("net", "eth1", "2001:db8:2::1/64"),
            ("gb", "wan0", "2001:db8:2::2/64"),
            ("gb", "lan0", "fd02::1/64"),
            ("hb", "eth0", "fd02::2/64"),
        ] {
            self.ip(ns, &["addr", "add", address, "dev", device, "nodad"]);
        }
        for (ns, gateway) in [
            ("ha", "fd01::1"),
            ("ga", "2001:db8:1::254"),
            ("gb", "2001:db8:2::1"),
            ("hb", "fd02::1"),
        ] {
            self.ip(ns, &["-6", "route", "add", "default", "via", gateway]);
        }
        for ns in ["ga", "net", "gb"] {
            self.must(ns, &["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"]);
        }
    }

    /// The directory for this world's files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A namespace's full name.
    pub fn ns(&self, name: &str) -> String {
        format!("{}-{name}", self.run)
    }

    /// Adds a namespace.
    pub fn add(&mut self, name: &str) {
        let full = self.ns(name);
        run(Command::new("ip").args(["netns", "add", &full]));
        self.namespaces.push(full);
        self.ip(name, &["link", "set", "lo", "up"]);
    }

    /// A cable between two namespaces.
    pub fn join(&mut self, a: &str, device_a: &str, address_a: &str, b: &str, device_b: &str, address_b: &str) {
        let (ns_a, ns_b) = (self.ns(a), self.ns(b));
        run(Command::new("ip").args([
            "link", "add", device_a, "netns", &ns_a, "type", "veth", "peer", "name", device_b, "netns", &ns_b,
        ]));
        for (ns, device, address) in [(a, device_a, address_a), (b, device_b, address_b)] {
            self.ip(ns, &["addr", "add", address, "dev", device]);
            self.ip(ns, &["link", "set", device, "up"]);
        }
    }

    /// `ip` in a namespace.
    pub fn ip(&self, ns: &str, args: &[&str]) {
        run(Command::new("ip").arg("-n").arg(self.ns(ns)).args(args));
    }

    /// A command in a namespace, not yet started.
    pub fn command(&self, ns: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.ns(ns)])
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command in a namespace; it must succeed.
    pub fn must(&self, ns: &str, words: &[&str]) -> String {
        let output = run(self.command(ns, words[0]).args(&words[1..]));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a program in a namespace, its output in a file of this world; it ends with the world. Returns its index.
    pub fn spawn(&mut self, ns: &str, log: &str, program: impl AsRef<OsStr>, args: &[&str]) -> usize {
        let file = File::create(self.dir.join(log)).unwrap();
        let child = self
            .command(ns, program)
            .args(args)
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        self.children.push(child);
        self.children.len() - 1
    }

    /// The process id of a program started here (`ip netns exec` becomes the program).
    pub fn pid(&self, index: usize) -> u32 {
        self.children[index].id()
    }

    /// Sends a signal to a program started here, and waits for its end.
    pub fn end(&mut self, index: usize, signal: i32) -> Option<i32> {
        let child = &mut self.children[index];
        if child.try_wait().unwrap().is_none() {
            // SAFETY: a child of ours that has not been waited for, so the id is its own.
            unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        }
        for _ in 0..200 {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        child.kill().unwrap();
        child.wait().unwrap().code()
    }

    /// What is to be run when the world ends (before its processes are ended).
    pub fn at_end(&mut self, words: &[&str]) {
        self.on_drop.push(words.iter().map(ToString::to_string).collect());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.extension().is_some_and(|e| e == "log") {
                    let text = fs::read_to_string(&path).unwrap_or_default();
                    let tail: Vec<&str> = text.lines().rev().take(60).collect();
                    eprintln!("--- {}", path.display());
                    tail.iter().rev().for_each(|line| eprintln!("{line}"));
                }
            }
        }
        for words in std::mem::take(&mut self.on_drop) {
            let _ = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).output();
        }
        for index in 0..self.children.len() {
            self.end(index, libc::SIGTERM);
        }
        for name in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Waits until something holds.
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(25));
    }
}
