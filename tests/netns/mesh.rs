//! Four machines of one network, each encrypting what it sends to the others' own addresses (`configs/vm-to-vm.toml`), and
//! a sniffer on the switch between them.

use super::support::gateway::{Gateway, LANDBRIDGE};
use super::support::transfer::{one_way, ping};
use super::support::{World, privileged, run, wait_until};
use std::fs;
use std::process::Command;
use std::time::Duration;

const TEMPLATE: &str = include_str!("../../configs/vm-to-vm.toml");
const MACHINES: [u8; 4] = [4, 5, 6, 7];
/// What the pings carry: it must not be seen on the wire.
const MARKER: &str = "4c616e646272696467652d706c61696e";
/// Octets of each transfer, of which there are two for each pair.
const SOME: usize = 2_000_000;

fn name(machine: u8) -> String {
    format!("vm{machine}")
}

fn address(machine: u8) -> String {
    format!("10.0.0.{machine}")
}

/// The template is vm4's; a machine's own comes of swapping the two.
fn configuration(machine: u8, mode: &str) -> String {
    let swap = |text: &str, a: &str, b: &str| text.replace(a, "\u{1}").replace(b, a).replace('\u{1}', b);
    let text = swap(TEMPLATE, &name(4), &name(machine));
    let mut text = swap(&text, &address(4), &address(machine));
    if mode == "tunnel" {
        for peer in MACHINES.iter().filter(|peer| **peer != machine) {
            let child = format!("[connections.{}.children.host]\nmode = \"transport\"\n", name(*peer));
            let selectors = format!(
                "[connections.{}.children.host]\nlocal_ts = [\"{}/32\"]\nremote_ts = [\"{}/32\"]\n",
                name(*peer),
                address(machine),
                address(*peer)
            );
            assert!(text.contains(&child), "the template has changed");
            text = text.replace(&child, &selectors);
        }
    }
    text
}

struct Mesh {
    world: World,
    gateways: Vec<Gateway>,
    sniffer: usize,
}

impl Mesh {
    /// The machines, their keys and files; no gateway runs yet.
    fn prepare(mode: &str) -> Self {
        let mut world = World::new();
        world.add("switch");
        world.ip("switch", &["link", "add", "br0", "type", "bridge"]);
        world.ip("switch", &["link", "set", "br0", "up"]);
        let keys = world.dir().join("keys");
        fs::create_dir_all(&keys).unwrap();
        for machine in MACHINES {
            let ns = name(machine);
            let port = format!("port{machine}");
            world.add(&ns);
            let (switch_ns, vm_ns) = (world.ns("switch"), world.ns(&ns));
            run(Command::new("ip").args([
                "link", "add", &port, "netns", &switch_ns, "type", "veth", "peer", "name", "eth0", "netns", &vm_ns,
            ]));
            world.ip("switch", &["link", "set", &port, "master", "br0", "up"]);
            world.ip(
                &ns,
                &["addr", "add", &format!("{}/24", address(machine)), "dev", "eth0"],
            );
            world.ip(&ns, &["link", "set", "eth0", "up"]);
            let key = keys.join(format!("{ns}.key"));
            let public = run(Command::new(LANDBRIDGE).arg("keygen").arg(&key)).stdout;
            fs::write(keys.join(format!("{ns}.pub")), public).unwrap();
        }
        let mut gateways = Vec::new();
        for machine in MACHINES {
            let gateway = Gateway::prepare(&world, &name(machine));
            let own = format!("{}.key", name(machine));
            gateway.secret(&own, &fs::read_to_string(keys.join(&own)).unwrap());
            for peer in MACHINES {
                let public = format!("{}.pub", name(peer));
                fs::copy(keys.join(&public), gateway.folder().join(&public)).unwrap();
            }
            gateway.configure(&configuration(machine, mode));
            gateways.push(gateway);
        }
        let capture = world.dir().join("wire.pcap");
        let args = [
            "-i",
            "br0",
            "-n",
            "-U",
            "--immediate-mode",
            "-w",
            capture.to_str().unwrap(),
        ];
        let sniffer = world.spawn("switch", "tcpdump.log", "tcpdump", &args);
        wait_until("tcpdump listens", Duration::from_secs(10), || {
            fs::read_to_string(world.dir().join("tcpdump.log")).is_ok_and(|log| log.contains("listening"))
        });
        Self {
            world,
            gateways,
            sniffer,
        }
    }

    fn launch(&mut self, machine: u8) {
        let gateway = self.gateways.get_mut(usize::from(machine - 4)).unwrap();
        gateway.launch(&mut self.world);
    }

    fn wait_up(&self) {
        for (machine, gateway) in MACHINES.iter().zip(&self.gateways) {
            for peer in MACHINES.iter().filter(|peer| *peer != machine) {
                gateway.wait_up(&self.world, &name(*peer));
            }
        }
    }

    /// Everybody with everybody.
    fn transfers(&self) {
        for from in MACHINES {
            for to in MACHINES.into_iter().filter(|to| *to != from) {
                one_way(&self.world, &name(from), &name(to), &address(to), SOME);
            }
        }
    }

    /// A ping with the marker; whether it was answered.
    fn marked_ping(&self, from: u8, to: u8, size: &str) -> bool {
        let mut ping = self.world.command(&name(from), "ping");
        ping.args([
            "-q",
            "-c",
            "2",
            "-i",
            "0.1",
            "-W",
            "1",
            "-p",
            MARKER,
            "-s",
            size,
            &address(to),
        ]);
        ping.output().is_ok_and(|output| output.status.success())
    }

    /// Ends the sniffer and looks at all it saw.
    fn check_wire(&mut self) {
        self.world.end(self.sniffer, libc::SIGINT);
        let capture = fs::read(self.world.dir().join("wire.pcap")).unwrap();
        let marker: Vec<u8> = (0..MARKER.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&MARKER[at..at + 2], 16).unwrap())
            .collect();
        assert!(
            !capture.windows(marker.len()).any(|window| window == marker),
            "a ping's octets in the clear"
        );
        let mut esp = 0;
        for frame in frames(&capture) {
            match (frame[12], frame[13]) {
                (0x08, 0x00) => {}
                // ARP, and the neighbours' own ICMPv6.
                _ => continue,
            }
            let ip = &frame[14..];
            let addresses = (&ip[12..16], &ip[16..20]);
            let body = &ip[usize::from(ip[0] & 0x0f) * 4..];
            // IGMP and the like: the machines' own business with their neighbours.
            if ip[16] >= 224 {
                continue;
            }
            // A machine whose gateway does not run says so to the others' IKE: "port unreachable", and what it is about.
            if ip[9] == 1 && body[..2] == [3, 3] && body[17] == 17 && [500, 4500].contains(&port_at(body, 8 + 22)) {
                continue;
            }
            assert_eq!(ip[9], 17, "IP protocol between {addresses:?}");
            if u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff != 0 {
                continue;
            }
            let port = port_at(body, 2);
            assert!(port == 500 || port == 4500, "UDP port {port} between {addresses:?}");
            esp += u32::from(port == 4500 && body[8..12] != [0; 4]);
        }
        assert!(esp > 100, "{esp} ESP packets prove nothing");
    }
}

fn port_at(octets: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([octets[at], octets[at + 1]])
}

fn frames(capture: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = &capture[24..];
    std::iter::from_fn(move || {
        let length = u32::from_le_bytes(rest.get(8..12)?.try_into().unwrap()) as usize;
        let frame = rest.get(16..16 + length)?;
        rest = &rest[16 + length..];
        Some(frame)
    })
}

fn mesh(mode: &str) {
    if !privileged(&format!("a mesh of four machines, {mode} mode")) {
        return;
    }
    let mut mesh = Mesh::prepare(mode);
    // Nobody answers yet: what vm4 sends has nowhere to go.
    mesh.launch(4);
    assert!(!mesh.marked_ping(4, 5, "56"), "answered without a tunnel");
    for machine in [5, 6, 7] {
        mesh.launch(machine);
    }
    mesh.wait_up();
    // Both may have begun at once: then there are two IKE SAs for a moment, one of them without children.
    let seen = mesh.gateways[0].connection(&mesh.world, "vm5")["ike_sas"].to_string();
    assert!(seen.contains(&format!("\"mode\":\"{mode}\"")), "{seen}");
    assert!(mesh.marked_ping(4, 5, "56"));
    // More than an Ethernet frame holds: it is fragmented inside (tunnel) or outside (transport).
    assert!(mesh.marked_ping(6, 7, "8000"));
    mesh.transfers();

    // Killed: what it left behind keeps everything in.
    mesh.gateways[0].end(&mut mesh.world, libc::SIGKILL);
    assert!(!mesh.marked_ping(4, 5, "56"), "answered past the tunnel");
    assert!(!mesh.marked_ping(5, 4, "56"), "answered past the tunnel");
    mesh.launch(4);
    mesh.wait_up();
    wait_until("vm5 reaches vm4 again", Duration::from_secs(20), || {
        ping(&mesh.world, &name(5), &address(4))
    });
    one_way(&mesh.world, "vm4", "vm5", &address(5), SOME);
    one_way(&mesh.world, "vm5", "vm4", &address(4), SOME);
    mesh.check_wire();

    // A clean stop leaves nothing behind.
    mesh.gateways[0].end(&mut mesh.world, libc::SIGTERM);
    let rules = mesh.world.must("vm4", &["ip", "rule"]);
    assert!(!rules.contains("19522"), "a rule is left: {rules}");
    let routes = mesh.world.must("vm4", &["ip", "route", "show", "table", "all"]);
    assert!(!routes.contains("19522"), "a route is left: {routes}");
}

#[test]
fn machines_of_one_network_in_transport_mode() {
    mesh("transport");
}

#[test]
fn machines_of_one_network_in_tunnel_mode() {
    mesh("tunnel");
}
