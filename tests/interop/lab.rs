//! One running peer, and one case after the other against it: each starts Landbridge and the peer's daemon anew, makes
//! its steps, moves data after each, and becomes a line of the table of results.

use super::support::gateway::Gateway;
use super::support::peer::{Peer, Relay, Software, available, guest_available, newer_available};
use super::support::report::{Row, record};
use super::support::transfer::{inside, one_way};
use super::support::{self, World, wait_until};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What happens after the tunnel came up for the first time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    WeRekeyChild,
    TheyRekeyChild,
    WeRekeyIke,
    TheyRekeyIke,
    /// We take everything down, and up again.
    WeDelete,
    /// They do.
    TheyDelete,
    /// Their daemon is killed and started again; who was the initiator begins anew.
    TheyRestart,
}

/// The steps that show that an algorithm works wherever keys are made.
pub const REKEYS: &[Step] = &[
    Step::TheyRekeyChild,
    Step::WeRekeyIke,
    Step::WeRekeyChild,
    Step::TheyRekeyIke,
];

/// One case.
#[derive(Clone)]
pub struct Case {
    /// What is special about it.
    pub what: &'static str,
    pub ike: &'static str,
    pub esp: &'static str,
    /// Landbridge begins.
    pub initiate: bool,
    /// IPv6 between the gateways.
    pub outer6: bool,
    /// IPv6 between the hosts.
    pub inner6: bool,
    pub steps: &'static [Step],
    /// Octets each way after each step.
    pub data: usize,
    /// Further lines of our connection, and of its child.
    pub more: &'static str,
    pub child_more: &'static str,
    /// Further settings of the peer's.
    pub peer_more: &'static [&'static str],
    /// ESP as an IP protocol of its own, not in UDP.
    pub raw: bool,
    /// Certificates in place of a shared key: the kind of our and the peer's key, as `netns-scripts/peers/certs` calls it.
    pub certificates: Option<&'static str>,
    /// Transport mode between the gateways' own addresses.
    pub transport: bool,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            what: "",
            ike: "aes256-sha256-x25519",
            esp: "aes256gcm16",
            initiate: true,
            outer6: false,
            inner6: false,
            steps: &[],
            data: 1_000_000,
            more: "",
            child_more: "",
            peer_more: &[],
            raw: false,
            certificates: None,
            transport: false,
        }
    }
}

/// A peer and its network.
pub struct Lab {
    pub world: World,
    pub theirs: Peer,
    pub ours: Option<Gateway>,
    title: String,
    running: bool,
    failed: Vec<String>,
}

impl Lab {
    /// strongSwan in a namespace.
    pub fn namespace(test: &str) -> Option<Self> {
        if !support::privileged(test) || !available(test) {
            return None;
        }
        let mut world = World::two_sites(false, 1500);
        world.add_ipv6();
        let theirs = Peer::host(&mut world, "gb");
        Some(Self::around(world, theirs))
    }

    /// strongSwan 6 in a namespace.
    pub fn newer(test: &str) -> Option<Self> {
        if !support::privileged(test) || !newer_available(test) {
            return None;
        }
        let mut world = World::two_sites(false, 1500);
        let theirs = Peer::host_of(&mut world, "gb", Software::StrongSwan6);
        Some(Self::around(world, theirs))
    }

    /// A guest.
    pub fn guest(test: &str, software: Software) -> Option<Self> {
        if !support::privileged(test) || !guest_available(test, software) {
            return None;
        }
        let mut world = World::two_sites(false, 1500);
        world.add_ipv6();
        let theirs = Peer::guest(&mut world, software);
        Some(Self::around(world, theirs))
    }

    fn around(world: World, theirs: Peer) -> Self {
        let title = theirs.title();
        Self {
            world,
            theirs,
            ours: None,
            title,
            running: false,
            failed: vec![],
        }
    }

    /// Makes the steps of a case, and what `then` does with the tunnel that is up; a failure is noted, and the next case
    /// can come.
    pub fn case(&mut self, case: &Case, then: impl FnOnce(&Self)) {
        let began = Instant::now();
        let made = catch_unwind(AssertUnwindSafe(|| {
            self.start(case);
            self.up(case);
            self.move_data(case);
            for step in case.steps {
                self.step(case, *step);
                self.move_data(case);
            }
            then(self);
        }));
        let role = if case.initiate { "initiator" } else { "responder" };
        let name = format!("{}: {} {} {role}", case.what, case.ike, case.esp);
        let took = began.elapsed().as_secs_f32();
        eprintln!("{} {name} ({took:.1} s)", if made.is_ok() { "ok" } else { "FAILED" });
        if made.is_err() {
            self.tell();
            self.failed.push(name);
        }
        if let Some(mut ours) = self.ours.take() {
            ours.end(&mut self.world, libc::SIGTERM);
        }
        record(&self.row(case), made.is_ok());
    }

    /// A case with all rekeys for each of these IKE and ESP proposals.
    pub fn each(
        &mut self,
        what: &'static str,
        proposals: &[(&'static str, &'static str)],
        initiate: bool,
        then: impl Fn(&Self, &Case),
    ) {
        for (ike, esp) in proposals {
            let case = Case {
                what,
                ike,
                esp,
                initiate,
                steps: REKEYS,
                ..Case::default()
            };
            self.case(&case, |lab| then(lab, &case));
        }
    }

    /// All cases must have passed.
    pub fn finish(self) {
        let failed = self.failed.clone();
        drop(self);
        assert!(failed.is_empty(), "failed:\n{}", failed.join("\n"));
    }

    /// The tunnel of this moment.
    pub fn ours(&self) -> &Gateway {
        self.ours.as_ref().expect("it was started")
    }

    fn row(&self, case: &Case) -> Row {
        let rekeys: Vec<&str> = case
            .steps
            .iter()
            .map(|step| match step {
                Step::WeRekeyChild => "Child by us",
                Step::TheyRekeyChild => "Child by peer",
                Step::WeRekeyIke => "IKE by us",
                Step::TheyRekeyIke => "IKE by peer",
                Step::WeDelete => "deleted by us",
                Step::TheyDelete => "deleted by peer",
                Step::TheyRestart => "peer restarted",
            })
            .collect();
        Row {
            what: case.what.to_owned(),
            peer: self.title.clone(),
            role: if case.initiate { "initiator" } else { "responder" },
            auth: case
                .certificates
                .map_or("PSK".to_owned(), |kind| format!("{kind} certificates")),
            ike: case.ike.to_owned(),
            esp: case.esp.to_owned(),
            encapsulation: format!(
                "{}, IPv{} {} IPv{}",
                if case.raw { "raw" } else { "UDP" },
                if case.inner6 { 6 } else { 4 },
                if case.transport { "transport mode in" } else { "in" },
                if case.outer6 { 6 } else { 4 },
            ),
            nat: "none",
            rekeys: rekeys.join(", "),
            #[expect(clippy::cast_precision_loss, reason = "megabytes, for people")]
            data: format!("{} MB each way", (case.data * (case.steps.len() + 1)) as f64 / 1e6),
        }
    }

    /// The last lines of both logs.
    fn tell(&self) {
        let tail = |text: &str| {
            text.lines()
                .rev()
                .take(40)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect::<Vec<_>>()
                .join("\n")
        };
        if let Some(ours) = &self.ours {
            eprintln!("--- Landbridge\n{}", tail(&ours.log(&self.world)));
        }
        let theirs = catch_unwind(AssertUnwindSafe(|| tail(&self.theirs.log())));
        eprintln!("--- {}\n{}", self.title, theirs.unwrap_or_default());
    }

    fn settings(case: &Case) -> Vec<String> {
        let (local, remote) = if case.outer6 {
            ("2001:db8:2::2", "2001:db8:1::1")
        } else {
            ("198.51.100.2", "192.0.2.1")
        };
        let (local_ts, remote_ts) = if case.transport {
            ("198.51.100.2/32", "192.0.2.1/32")
        } else if case.inner6 {
            ("fd02::/64", "fd01::/64")
        } else {
            ("10.2.0.0/24", "10.1.0.0/24")
        };
        let mut settings = vec![
            format!("LOCAL={local}"),
            format!("REMOTE={remote}"),
            format!("LOCAL_TS={local_ts}"),
            format!("REMOTE_TS={remote_ts}"),
            "LOCAL_ID=peer.example".to_owned(),
            "REMOTE_ID=gw.example".to_owned(),
            "PSK=interop-test-only".to_owned(),
            format!("IKE={}", case.ike),
            format!("ESP={}", case.esp),
        ];
        if case.certificates.is_some() {
            settings.push("AUTH=cert".to_owned());
        }
        if case.transport {
            settings.push("MODE=transport".to_owned());
        }
        settings.extend(case.peer_more.iter().map(ToString::to_string));
        settings
    }

    fn start_theirs(&mut self, case: &Case) {
        if self.running {
            self.theirs.stop();
        }
        let settings = Self::settings(case);
        self.theirs
            .start(&settings.iter().map(String::as_str).collect::<Vec<_>>());
        self.running = true;
    }

    fn start(&mut self, case: &Case) {
        let mut ours = Gateway::prepare(&self.world, "ga");
        if let Some(kind) = case.certificates {
            self.certify(&ours, kind);
        }
        self.start_theirs(case);
        ours.configure(&configuration(case));
        ours.launch(&mut self.world);
        self.ours = Some(ours);
    }

    /// A root, an intermediate CA, and a certificate for each end.
    fn certify(&self, ours: &Gateway, kind: &str) {
        let made = self.world.dir().join(format!("certs-{kind}"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("netns-scripts/peers/certs");
        support::run(Command::new(script).arg(&made).arg(kind));
        let text = |name: &str| std::fs::read_to_string(made.join(name)).unwrap();
        for file in ["gw.example.key", "gw.example-chain.crt", "ca.crt"] {
            ours.secret(file, &text(file));
        }
        for file in ["peer.example.key", "peer.example.crt", "inter.crt", "ca.crt"] {
            self.theirs.put(&format!("certs/{file}"), &text(file));
        }
    }

    fn up(&self, case: &Case) {
        if case.initiate {
            self.ours().client(&self.world, &["up", "peer"]);
        } else {
            self.theirs.peer(&["initiate"]);
        }
        self.ours().wait_up(&self.world, "peer");
        let connection = self.connection();
        let ike = &connection["ike_sas"][0];
        let suites = [ike["suite"].to_string(), ike["children"][0]["suite"].to_string()];
        for (words, suite) in [case.ike, case.esp].iter().zip(&suites) {
            let encryption = words.split('-').next().unwrap();
            assert!(suite.contains(encryption), "{words}: {suite}");
        }
    }

    /// What the guest's kernel counted as wrong with packets of IPsec: `/proc/net/xfrm_stat` without zeros.
    pub fn kernel_errors(&self) -> String {
        self.theirs.sh("awk '$2 > 0' /proc/net/xfrm_stat").trim().to_owned()
    }

    /// What our data path dropped of the tunnel's packets, by cause, without zeros.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let connection = self.connection();
        let drops = connection["drops"].as_object().expect("drops are an object");
        let some = drops
            .iter()
            .map(|(cause, count)| (cause.clone(), count.as_u64().unwrap()));
        some.filter(|(_, count)| *count > 0).collect()
    }

    /// Counters and rules in `net`.
    pub fn nft(&self, rules: &str, counters: &[&str]) {
        let (table, rest) = rules.split_once(';').expect("a table first");
        self.world.must("net", &["nft", table]);
        for counter in counters {
            self.world.must("net", &["nft", &format!("add counter ip t {counter}")]);
        }
        self.world.must("net", &["nft", rest]);
    }

    /// Packets counted in `net`.
    pub fn counter(&self, name: &str) -> u64 {
        let text = self.world.must("net", &["nft", &format!("list counter ip t {name}")]);
        let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
        words.nth(1).expect("a number").parse().expect("a number")
    }

    /// The guest's link becomes a bad one (see `netns-scripts/peers/impair`), until the relay is stopped.
    pub fn impair(&self, settings: &[&str]) -> Relay {
        Relay::start(&self.world, settings)
    }

    /// Data both ways, compared by hash.
    pub fn move_data(&self, case: &Case) {
        if case.transport {
            return self.move_between_gateways(case.data);
        }
        let (a, b) = if case.inner6 {
            ("fd01::2", "fd02::2")
        } else {
            ("10.1.0.2", "10.2.0.2")
        };
        one_way(&self.world, "ha", "hb", b, case.data);
        one_way(&self.world, "hb", "ha", a, case.data);
    }

    /// The same between the gateways' own addresses: the peer sends, and gets back what arrived.
    fn move_between_gateways(&self, octets: usize) {
        let (port_sender, port) = std::sync::mpsc::channel();
        let echo = inside(&self.world, "ga", move || {
            let listener = TcpListener::bind("192.0.2.1:0").unwrap();
            port_sender.send(listener.local_addr().unwrap().port()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut data = Vec::new();
            stream.read_to_end(&mut data).expect("the transfer stalled");
            stream.write_all(&data).expect("the transfer stalled");
            Sha256::digest(&data)
                .iter()
                .map(|octet| format!("{octet:02x}"))
                .collect::<String>()
        });
        let port = port.recv().expect("the receiver could not listen");
        let said = self.theirs.sh(&format!(
            r#"python3 -c '
import hashlib, random, socket
data = random.randbytes({octets})
s = socket.create_connection(("192.0.2.1", {port}), 10)
s.settimeout(20)
s.sendall(data)
s.shutdown(socket.SHUT_WR)
back = b""
while True:
    part = s.recv(1 << 16)
    if not part: break
    back += part
print(hashlib.sha256(data).hexdigest(), hashlib.sha256(back).hexdigest())'"#
        ));
        let there = echo.join().expect("the receiver failed");
        assert_eq!(
            said.trim(),
            format!("{there} {there}"),
            "what arrived is not what was sent"
        );
    }

    /// Our connection in status.
    pub fn connection(&self) -> serde_json::Value {
        self.ours().connection(&self.world, "peer")
    }

    /// Our SPIs of all Child SAs.
    pub fn child_spis(&self) -> Vec<String> {
        let connection = self.connection();
        let ikes = connection["ike_sas"].as_array().cloned().unwrap_or_default();
        let children = ikes
            .iter()
            .flat_map(|ike| ike["children"].as_array().cloned().unwrap_or_default());
        children.map(|child| child["spi_in"].to_string()).collect()
    }

    /// What the Child SAs go by, whichever IKE SA has them.
    fn child_suites(&self) -> String {
        let connection = self.connection();
        let ikes = connection["ike_sas"].as_array().cloned().unwrap_or_default();
        let children = ikes
            .iter()
            .flat_map(|ike| ike["children"].as_array().cloned().unwrap_or_default());
        children.map(|child| child["suite"].to_string()).collect()
    }

    /// SPIs of the IKE SAs in use. (One that was rekeyed waits for the answer to its Delete, which may be lost for good:
    /// the peer has forgotten the SA.)
    fn ike_spis(&self) -> Vec<String> {
        let connection = self.connection();
        let ikes = connection["ike_sas"].as_array().cloned().unwrap_or_default();
        ikes.iter()
            .filter(|ike| ike["stage"] == "established")
            .map(|ike| format!("{}{}", ike["spi_i"], ike["spi_r"]))
            .collect()
    }

    /// Makes one step and waits until it is over.
    pub fn step(&mut self, case: &Case, step: Step) {
        let limit = Duration::from_secs(20);
        if matches!(step, Step::TheyRekeyChild | Step::TheyRekeyIke) {
            self.let_us_end();
        }
        let (children, ikes) = (self.child_spis(), self.ike_spis());
        match step {
            Step::WeRekeyChild => drop(self.ours().client(&self.world, &["rekey", "peer"])),
            Step::WeRekeyIke => drop(self.ours().client(&self.world, &["rekey", "peer", "--ike"])),
            Step::TheyRekeyChild => drop(self.theirs.peer(&["rekey"])),
            Step::TheyRekeyIke => drop(self.theirs.peer(&["rekey-ike"])),
            Step::WeDelete => {
                self.ours().client(&self.world, &["down", "peer"]);
                self.ours().wait_down(&self.world, "peer");
                wait_until("the peer knows that we deleted", limit, || !self.peer_is_up());
                self.ours().client(&self.world, &["up", "peer"]);
                self.ours().wait_up(&self.world, "peer");
            }
            Step::TheyDelete => {
                self.theirs.peer(&["terminate"]);
                let gone = || !self.child_spis().iter().any(|spi| children.contains(spi));
                wait_until("we know that they deleted", limit, gone);
                // Who was asked to hold it up, tries again by itself.
                if !case.initiate {
                    self.theirs.peer(&["initiate"]);
                }
                self.ours().wait_up(&self.world, "peer");
            }
            Step::TheyRestart => {
                self.theirs.kill();
                self.running = false;
                self.start_theirs(case);
                if case.initiate {
                    self.ours().client(&self.world, &["down", "peer"]);
                    self.ours().client(&self.world, &["up", "peer"]);
                } else {
                    self.theirs.peer(&["initiate"]);
                }
                // RFC 7296 §2.4: INITIAL_CONTACT tells us that the old one is gone.
                wait_until("a new SA is there, alone", limit, || {
                    let now = self.ike_spis();
                    now.len() == 1 && now != ikes
                });
                self.ours().wait_up(&self.world, "peer");
            }
        }
        match step {
            Step::WeRekeyChild | Step::TheyRekeyChild => {
                wait_until("the Child SA is another, and the only one", limit, || {
                    let now = self.child_spis();
                    now.len() == 1 && now != children
                });
                let suite = self.child_suites();
                for group in case.esp.split('-').filter(|word| is_group(word)) {
                    assert!(suite.contains(group), "no PFS with {group}: {suite}");
                }
            }
            Step::WeRekeyIke | Step::TheyRekeyIke => {
                wait_until("the IKE SA is another, and the only one", limit, || {
                    let now = self.ike_spis();
                    now.len() == 1 && now != ikes
                });
                assert_eq!(
                    self.child_spis(),
                    children,
                    "RFC 7296 §2.8: the Child SAs are inherited"
                );
            }
            _ => {}
        }
    }

    /// Waits until what we asked the peer is answered. An order for the peer that met something of ours which is not over, such as a
    /// Delete whose answer was lost, would be put off (RFC 7296 §2.25.2), and Libreswan 4.10 then can't be ordered again: the SA is no
    /// viable parent any more for it. What the peer has forgotten is never answered: for that nothing waits longer.
    fn let_us_end(&self) {
        let open = || {
            let log = self.ours().log(&self.world);
            let count = |way: &str, kind: &str| {
                let is_one = |line: &&str| line.contains(way) && line.contains(kind);
                log.lines().filter(is_one).count()
            };
            count(" -> ", " request ") > count(" <- ", " response ")
        };
        let end = Instant::now() + Duration::from_secs(10);
        while open() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    fn peer_is_up(&self) -> bool {
        let status = self.theirs.status();
        status.contains("INSTALLED") || status.contains("ESTABLISHED")
    }
}

fn is_group(word: &str) -> bool {
    ["x25519", "ecp", "modp"].iter().any(|family| word.starts_with(family))
}

/// Our configuration for a case.
fn configuration(case: &Case) -> String {
    let (local, remote) = if case.outer6 {
        ("2001:db8:1::1", "2001:db8:2::2")
    } else {
        ("192.0.2.1", "198.51.100.2")
    };
    let (local_ts, remote_ts) = if case.inner6 {
        ("fd01::/64", "fd02::/64")
    } else {
        ("10.1.0.0/24", "10.2.0.0/24")
    };
    let (our_key, their_key) = if case.certificates.is_some() {
        (
            "auth = \"cert\"\ncert_file = \"gw.example-chain.crt\"\nprivate_key_file = \"gw.example.key\"",
            "auth = \"cert\"\ncacert_files = [\"ca.crt\"]",
        )
    } else {
        ("auth = \"psk\"\npsk_file = \"peer.psk\"", "auth = \"psk\"")
    };
    let selectors = if case.transport {
        "mode = \"transport\"".to_owned()
    } else {
        format!("local_ts = [\"{local_ts}\"]\nremote_ts = [\"{remote_ts}\"]")
    };
    format!(
        r#"
[gateway]
id = "gw.example"
log_level = "landbridge=debug,info"

[connections.peer]
local_addrs = ["{local}"]
remote_addrs = ["{remote}"]
proposals = ["{ike}"]
interface = "lb-peer"
encap = "{encap}"
{more}
[connections.peer.local]
id = "gw.example"
{our_key}
[connections.peer.remote]
id = "peer.example"
{their_key}
[connections.peer.children.net]
{selectors}
esp_proposals = ["{esp}"]
start_action = "none"
{child_more}
"#,
        ike = case.ike,
        esp = case.esp,
        encap = if case.raw { "auto" } else { "udp" },
        more = case.more,
        child_more = case.child_more,
    )
}
