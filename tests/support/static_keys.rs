//! Two data paths with static keys, each in a network namespace of its own, without any key exchange.

use super::packet_socket::{Kernel, pretend};
use super::transfer::{inside, one_way};
use super::{World, privileged};
use landbridge::data::{Audit, ControlSockets, DataOptions, DataPlane, InterfaceOptions, Sinks};
use landbridge_proto::crypto::{CipherSuite, Encryption, Secret};
use landbridge_proto::ip::tunnel::{DontFragment, OuterDscp};
use landbridge_proto::policy::aggfrag::Aggfrag;
use landbridge_proto::policy::sad::{
    ChildSaEntry, ChildSaId, ConnectionName, Encapsulation, Mode, Path, SaParameters, SadReport, SadUpdate,
    TrafficLimits,
};
use landbridge_proto::policy::selector::{from_prefix, parse};
use landbridge_proto::wire::TrafficSelector;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

pub const NAT_PORT: u16 = 4500;
pub const GCM: CipherSuite = CipherSuite {
    encryption: Encryption::AesGcm16_256,
    integrity: None,
};

/// One data path, driven from a thread in its namespace.
pub struct Side {
    pub orders: Sender<Order>,
    pub reports: Arc<Mutex<Vec<SadReport>>>,
    pub strays: Arc<Mutex<Vec<Vec<u8>>>>,
    pub audits: Arc<Mutex<Vec<Audit>>>,
    pub thread: Option<std::thread::JoinHandle<()>>,
}

pub type Order = Box<dyn FnOnce(&mut DataPlane, &ControlSockets) + Send>;

impl Side {
    pub fn start(world: &World, ns: &str, options: DataOptions) -> Self {
        Self::start_on(world, ns, options, Kernel::ThisOne)
    }

    /// On what looks like another kernel.
    pub fn start_on(world: &World, ns: &str, options: DataOptions, kernel: Kernel) -> Self {
        let (orders, inbox): (_, Receiver<Order>) = channel();
        let (reports, strays) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let (report_list, stray_list) = (Arc::clone(&reports), Arc::clone(&strays));
        let audits = Arc::new(Mutex::new(Vec::new()));
        let audit_list = Arc::clone(&audits);
        let thread = inside(world, ns, move || {
            pretend(kernel);
            let sinks = Sinks {
                reports: Arc::new(move |report| {
                    report_list.lock().unwrap().push(report);
                    true
                }),
                strays: Arc::new(move |_, message| stray_list.lock().unwrap().push(message)),
                audit: Arc::new(move |audit| audit_list.lock().unwrap().push(audit)),
                streams: Arc::new(|_| {}),
            };
            let (mut data, sockets) = DataPlane::start(&options, sinks).unwrap();
            for order in inbox {
                order(&mut data, &sockets);
            }
            data.stop();
        });
        Self {
            orders,
            reports,
            strays,
            audits,
            thread: Some(thread),
        }
    }

    pub fn with<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut DataPlane, &ControlSockets) -> T + Send + 'static,
    ) -> T {
        let (sender, answer) = channel();
        let order: Order = Box::new(move |data, sockets| drop(sender.send(what(data, sockets))));
        self.orders.send(order).unwrap();
        answer.recv().unwrap()
    }

    pub fn apply(&self, update: SadUpdate) {
        self.with(move |data, _| data.apply(&update));
    }

    pub fn dropped(&self, cause: &str) -> u64 {
        let stats = self.with(|data, _| data.stats(&name()));
        find(&stats.total.drops, cause)
    }

    pub fn stray(&self, cause: &str) -> u64 {
        find(&self.with(|data, _| data.stray_drops()), cause)
    }

    pub fn told(&self, report: SadReport) -> bool {
        self.reports.lock().unwrap().contains(&report)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let (orders, _) = channel();
        self.orders = orders;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("a side panicked");
        }
    }
}

pub fn find(drops: &[(&'static str, u64)], cause: &str) -> u64 {
    drops
        .iter()
        .find(|(name, _)| *name == cause)
        .map_or(0, |(_, count)| *count)
}

pub fn name() -> ConnectionName {
    "site".into()
}

/// A tunnel to be: the same on both sides, mirrored.
#[derive(Clone, Copy)]
pub struct Tunnel {
    pub suite: CipherSuite,
    pub esn: bool,
    pub ipv6_outside: bool,
    pub limits: TrafficLimits,
    /// The owner bits of both inbound SPIs.
    pub owner: u32,
    /// B's side is for this UDP port alone.
    pub b_port: Option<u16>,
    /// Whether side A, and side B, send without UDP.
    pub raw: (bool, bool),
    /// What side A believes to be its side of the selectors, as a prefix length of 10.1.0.0.
    pub a_prefix: u8,
    /// Padding behind inner packets.
    pub tfc_padding: Option<u16>,
    pub aggfrag: Option<Aggfrag>,
    /// All addresses of both families on both sides.
    pub everything: bool,
    /// Which of the child's pairs it is.
    pub resource: u16,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            suite: GCM,
            esn: true,
            ipv6_outside: false,
            limits: TrafficLimits::default(),
            owner: 0,
            b_port: None,
            raw: (false, false),
            a_prefix: 24,
            tfc_padding: None,
            aggfrag: None,
            everything: false,
            resource: 0,
        }
    }
}

impl Tunnel {
    /// The entry of side A (`a`) or B. Ids count from 0; slots and keys follow from them.
    pub fn entry(&self, a: bool, id: u64) -> Arc<ChildSaEntry> {
        let sizes = (landbridge_proto::crypto::ESP_PROVIDER.sizes)(self.suite).unwrap();
        let parameters = |to_a: bool| SaParameters {
            spi: 0x5540_0000 + (self.owner << 16) + id as u32 * 2 + u32::from(to_a),
            suite: self.suite,
            key: Secret::new(vec![id as u8 ^ if to_a { 0x5a } else { 0xc3 }; sizes.key_material()]),
            esn: self.esn,
        };
        let (outer_a, outer_b): (IpAddr, IpAddr) = if self.ipv6_outside {
            ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap())
        } else {
            ([192, 0, 2, 1].into(), [192, 0, 2, 2].into())
        };
        let (outer_a, outer_b) = (SocketAddr::new(outer_a, NAT_PORT), SocketAddr::new(outer_b, NAT_PORT));
        let ts = |of_a: bool| {
            if self.everything {
                return ["0.0.0.0/0", "::/0"].map(|all| parse(all).unwrap()).to_vec();
            }
            let (v4, v6, bits) = if of_a {
                ([10, 1, 0, 0], "fd01::", if a { self.a_prefix } else { 24 })
            } else {
                ([10, 2, 0, 0], "fd02::", 24)
            };
            let mut list = vec![from_prefix(v4.into(), bits), from_prefix(v6.parse().unwrap(), 64)];
            for selector in &mut list {
                if let (
                    TrafficSelector::Range {
                        protocol,
                        start_port,
                        end_port,
                        ..
                    },
                    Some(port),
                    false,
                ) = (selector, self.b_port, of_a)
                {
                    (*protocol, *start_port, *end_port) = (17, port, port);
                }
            }
            list
        };
        Arc::new(ChildSaEntry {
            id: ChildSaId(id),
            connection: name(),
            child: "net".into(),
            resource: self.resource,
            inbound: parameters(a),
            outbound: parameters(!a),
            local_ts: ts(a),
            remote_ts: ts(!a),
            path: Path::udp(if a { outer_a } else { outer_b }, if a { outer_b } else { outer_a }),
            encapsulation: if if a { self.raw.0 } else { self.raw.1 } {
                Encapsulation::Raw
            } else {
                Encapsulation::Udp
            },
            mode: Mode::Tunnel,
            replay_window: 4096,
            tfc_padding: self.tfc_padding,
            aggfrag: self.aggfrag,
            limits: self.limits,
            iv_seed: Secret::new(vec![7; 32]),
        })
    }
}

/// Two gateways on one cable, which talk to each other through the tunnel.
pub struct Pair {
    pub a: Side,
    pub b: Side,
    pub world: World,
}

impl Pair {
    pub fn up(test: &str, options: DataOptions, tunnel: Tunnel) -> Option<Self> {
        let pair = Self::bare(test, options)?;
        pair.install(tunnel, 0);
        pair.activate(0, None);
        Some(pair)
    }

    /// Without an SA.
    pub fn bare(test: &str, options: DataOptions) -> Option<Self> {
        Self::with_queues(test, options, 1)
    }

    /// Without an SA, and with several queues on each side.
    pub fn with_queues(test: &str, options: DataOptions, queues: u16) -> Option<Self> {
        if !privileged(test) {
            return None;
        }
        let mut world = World::new();
        world.add("a");
        world.add("b");
        world.join("a", "wan0", "192.0.2.1/24", "b", "wan0", "192.0.2.2/24");
        let options = DataOptions {
            nat_port: NAT_PORT,
            ..options
        };
        let a = Side::start(&world, "a", options.clone());
        let b = Side::start(&world, "b", options);
        for (ns, side, outer, own, own6, peer, peer6) in [
            (
                "a",
                &a,
                "fd00::1/64",
                "10.1.0.1/24",
                "fd01::1/64",
                "10.2.0.0/24",
                "fd02::/64",
            ),
            (
                "b",
                &b,
                "fd00::2/64",
                "10.2.0.1/24",
                "fd02::1/64",
                "10.1.0.0/24",
                "fd01::/64",
            ),
        ] {
            // What the kernel itself sends by a new interface is nobody's traffic.
            world.must(ns, &["sysctl", "-qw", "net.ipv6.conf.default.router_solicitations=0"]);
            world.ip(ns, &["addr", "add", outer, "dev", "wan0", "nodad"]);
            let options = InterfaceOptions {
                queues,
                ..interface_options(DontFragment::Clear)
            };
            side.with(move |data, _| data.add_interface(&name(), &options)).unwrap();
            world.ip(ns, &["addr", "add", own, "dev", "tun0"]);
            world.ip(ns, &["addr", "add", own6, "dev", "tun0", "nodad"]);
            world.ip(ns, &["link", "set", "tun0", "mtu", "1400", "up"]);
            world.ip(ns, &["route", "add", peer, "dev", "tun0"]);
            world.ip(ns, &["-6", "route", "add", peer6, "dev", "tun0"]);
        }
        Some(Self { a, b, world })
    }

    pub fn install(&self, tunnel: Tunnel, id: u64) {
        self.a.apply(SadUpdate::InstallInbound(tunnel.entry(true, id)));
        self.b.apply(SadUpdate::InstallInbound(tunnel.entry(false, id)));
    }

    pub fn activate(&self, id: u64, replaces: Option<u64>) {
        for side in [&self.a, &self.b] {
            side.apply(SadUpdate::ActivateOutbound {
                id: ChildSaId(id),
                replaces: replaces.map(ChildSaId),
            });
        }
    }

    /// A's interface is removed, which returns when it is gone, and made anew; then a new pair is sent by.
    pub fn renew_interface(&self, id: u64) {
        self.a.with(|data, _| data.remove_interface(&name()));
        let mut show = self.world.command("a", "ip");
        assert!(!show.args(["link", "show", "tun0"]).output().unwrap().status.success());
        add_interface(&self.a, DontFragment::Clear);
        self.world.ip("a", &["addr", "add", "10.1.0.1/24", "dev", "tun0"]);
        self.world.ip("a", &["link", "set", "tun0", "mtu", "1400", "up"]);
        self.world.ip("a", &["route", "add", "10.2.0.0/24", "dev", "tun0"]);
        self.install(Tunnel::default(), id);
        self.activate(id, None);
    }

    pub fn ping(&self, address: &str) -> bool {
        let mut command = self.world.command("a", "ping");
        command.args(["-c", "2", "-i", "0.05", "-W", "2", address]);
        command.output().unwrap().status.success()
    }

    /// Data both ways, over IPv4 and IPv6, compared by hash; nothing is dropped on the way.
    pub fn carries(&self, len: usize) {
        for address in ["10.2.0.1", "fd02::1"] {
            assert!(self.ping(address), "ping {address}");
            one_way(&self.world, "a", "b", address, len);
        }
        for address in ["10.1.0.1", "fd01::1"] {
            one_way(&self.world, "b", "a", address, len);
        }
        for side in [&self.a, &self.b] {
            let stats = side.with(|data, _| data.stats(&name()));
            let harmful = |(cause, _): &&(&str, u64)| !matches!(*cause, "selector_out" | "no_sa");
            assert_eq!(stats.total.drops.iter().find(harmful), None, "dropped on the way");
            assert!(stats.total.inbound.bytes > len as u64 && stats.total.outbound.bytes > len as u64);
        }
    }
}

/// Of both interfaces, with what a test changes.
pub fn interface_options(dont_fragment: DontFragment) -> InterfaceOptions {
    InterfaceOptions {
        queues: 1,
        name: "tun0".into(),
        mtu: 1400,
        clamp_mss: true,
        transport: false,
        dont_fragment,
        dscp: OuterDscp::default(),
    }
}

pub fn add_interface(side: &Side, dont_fragment: DontFragment) {
    let options = interface_options(dont_fragment);
    side.with(move |data, _| data.add_interface(&name(), &options)).unwrap();
}
