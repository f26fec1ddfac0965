//! What comes from strangers: junk, spoofed and replayed datagrams, wrong credentials. No state changes, all is counted,
//! and the others go on being served.

use super::support::gateway::Gateway;
use super::support::transfer::{both_ways, inside, ping};
use super::support::{self, World, wait_until};
use super::{Options, Pair};
use std::net::UdpSocket;
use std::time::Duration;

fn total(drops: &serde_json::Value, cause: &str) -> u64 {
    drops[cause].as_u64().unwrap_or(0)
}

#[test]
fn junk_is_counted_and_changes_nothing() {
    let Some(pair) = Pair::up("junk", Options::default()) else {
        return;
    };
    let before = pair.b.connection(&pair.world, "site")["ike_sas"].clone();
    let spi_in = before[0]["children"][0]["spi_in"]
        .as_str()
        .unwrap()
        .trim_start_matches("0x")
        .to_owned();
    let spi = u32::from_str_radix(&spi_in, 16).unwrap();
    let ike = |key: &str| u64::from_str_radix(before[0][key].as_str().unwrap(), 16).unwrap();
    let (spi_i, spi_r) = (ike("spi_i"), ike("spi_r"));
    inside(&pair.world, "net", move || {
        let socket = UdpSocket::bind("198.51.100.1:0").unwrap();
        let mut state = 1_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for round in 0..2000_u32 {
            let length = (random() % 1400) as usize;
            let mut datagram: Vec<u8> = (0..length).map(|_| random() as u8).collect();
            match round % 5 {
                0 => {}
                // ESP on a live SPI that does not verify.
                1 => datagram
                    .splice(..datagram.len().min(4), spi.to_be_bytes())
                    .for_each(drop),
                // Behind a non-ESP marker: an IKE header of the live SA, junk inside.
                2 | 3 => {
                    let mut message = vec![0; 4];
                    message.extend_from_slice(&spi_i.to_be_bytes());
                    message.extend_from_slice(&spi_r.to_be_bytes());
                    message.extend_from_slice(&[46, 0x20, 37, if round % 2 == 0 { 0x08 } else { 0x28 }]);
                    message.extend_from_slice(&(round % 7).to_be_bytes());
                    message.extend_from_slice(&(28 + 4 + datagram.len() as u32).to_be_bytes());
                    message.extend_from_slice(&[0, 0]);
                    message.extend_from_slice(&(4 + datagram.len() as u16).to_be_bytes());
                    message.extend_from_slice(&datagram);
                    datagram = message;
                }
                // A keepalive, or too short for anything.
                _ => datagram.truncate((round % 8) as usize),
            }
            let port = if round % 5 == 0 && round % 2 == 0 { 500 } else { 4500 };
            let _ = socket.send_to(&datagram, ("198.51.100.2", port));
            if round % 100 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    })
    .join()
    .unwrap();
    assert!(ping(&pair.world, "ha", "10.2.0.2"));
    let status = pair.b.status(&pair.world);
    let after = pair.b.connection(&pair.world, "site");
    assert_eq!(after["ike_sas"].as_array().unwrap().len(), 1);
    assert_eq!(after["ike_sas"][0]["spi_i"], before[0]["spi_i"]);
    assert_eq!(
        after["ike_sas"][0]["remote"], before[0]["remote"],
        "an unauthenticated datagram moved the peer"
    );
    assert!(total(&after["drops"], "integrity") > 100, "{}", after["drops"]);
    assert!(
        status["drops"]
            .as_object()
            .unwrap()
            .values()
            .any(|v| v.as_u64().unwrap() > 100),
        "{}",
        status["drops"]
    );
    both_ways(&pair.world);
}

#[test]
fn captured_packets_sent_again_are_dropped() {
    let Some(mut pair) = Pair::up("replay", Options::default()) else {
        return;
    };
    let file = pair.world.dir().join("replay.pcap");
    let args = [
        "-i",
        "eth1",
        "-n",
        "-U",
        "-w",
        file.to_str().unwrap(),
        "--immediate-mode",
        "udp",
        "dst",
        "port",
        "4500",
    ];
    let dump = pair.world.spawn("net", "tcpdump.log", "tcpdump", &args);
    wait_until("tcpdump listens", Duration::from_secs(5), || {
        std::fs::read_to_string(pair.world.dir().join("tcpdump.log")).is_ok_and(|t| t.contains("listening"))
    });
    for _ in 0..20 {
        assert!(ping(&pair.world, "ha", "10.2.0.2"));
    }
    std::thread::sleep(Duration::from_millis(300));
    pair.world.end(dump, libc::SIGINT);
    // Ethernet, IPv4 without options, UDP: the payload begins at 42. Sent from another address, as an attacker would.
    let capture = std::fs::read(&file).unwrap();
    let (mut at, mut payloads) = (24, Vec::new());
    while at + 16 <= capture.len() {
        let length = u32::from_le_bytes(capture[at + 8..at + 12].try_into().unwrap()) as usize;
        let frame = &capture[at + 16..at + 16 + length];
        // ESP: what begins with zero is IKE.
        if frame.len() > 46 && frame[30..34] == [198, 51, 100, 2] && frame[42..46] != [0; 4] {
            payloads.push(frame[42..].to_vec());
        }
        at += 16 + length;
    }
    assert!(
        payloads.len() >= 15,
        "captured {} of {} octets: {:02x?}",
        payloads.len(),
        capture.len(),
        &capture[..capture.len().min(120)]
    );
    let sent = payloads.len() as u64;
    let before = pair.b.connection(&pair.world, "site")["ike_sas"][0]["remote"].clone();
    inside(&pair.world, "net", move || {
        let socket = UdpSocket::bind("198.51.100.1:0").unwrap();
        payloads
            .iter()
            .for_each(|p| drop(socket.send_to(p, "198.51.100.2:4500")));
    })
    .join()
    .unwrap();
    wait_until("the replays are counted", Duration::from_secs(5), || {
        total(&pair.b.connection(&pair.world, "site")["drops"], "replayed") >= sent
    });
    assert_eq!(
        pair.b.connection(&pair.world, "site")["ike_sas"][0]["remote"],
        before,
        "a replay moved the peer"
    );
    assert!(ping(&pair.world, "ha", "10.2.0.2"));
}

#[test]
fn inner_packets_outside_the_selectors_are_dropped_and_counted() {
    let Some(pair) = Pair::up("selectors", Options::default()) else {
        return;
    };
    // A host with another source address: the route leads into the tunnel, the selectors don't.
    pair.world.ip("ha", &["addr", "add", "10.9.9.9/32", "dev", "lo"]);
    pair.world.ip("ga", &["route", "add", "10.9.9.9/32", "via", "10.1.0.2"]);
    let _ = pair
        .world
        .command("ha", "ping")
        .args(["-q", "-c", "3", "-i", "0.2", "-W", "1", "-I", "10.9.9.9", "10.2.0.2"])
        .output();
    let drops = pair.a.connection(&pair.world, "site")["drops"].clone();
    assert!(total(&drops, "selector_out") >= 3, "{drops}");
    assert!(ping(&pair.world, "ha", "10.2.0.2"));
}

#[test]
fn wrong_credentials_get_no_sa_and_others_are_served() {
    type Change = fn(String) -> String;
    let wrong: [(&str, Change, &str); 4] = [
        ("wrong PSK", |t| t, "key"),
        (
            "unknown peer",
            |t| t.replace("id = \"a.example\"", "id = \"stranger.example\""),
            "stranger.example",
        ),
        (
            "no common proposal",
            |t| t.replace("aes256gcm16-prfsha384-x25519", "chacha20poly1305-prfsha512-ecp256"),
            "chacha20poly1305",
        ),
        // Another peer, known, with the right key: its connection has other networks.
        (
            "no common selectors",
            |t| t.replace("id = \"a.example\"", "id = \"c.example\""),
            "10.3.0.0/24",
        ),
    ];
    for (name, change, told) in wrong {
        let Some(mut pair) = Pair::up(name, Options::default()) else {
            return;
        };
        let other = super::responder(&Options::default());
        let other = &other[other.find("[connections.site]").unwrap()..];
        let other = other
            .replace("site", "other")
            .replace("a.example", "c.example")
            .replace("10.1.0.0/24", "10.3.0.0/24");
        pair.b.configure(&(super::responder(&Options::default()) + &other));
        pair.b.client(&pair.world, &["reload"]);
        // A third gateway, a stranger on the network between.
        let stranger = Gateway::prepare(&pair.world, "net");
        if name == "wrong PSK" {
            stranger.secret("peer.psk", "not-the-same-at-all");
        }
        stranger.configure(&change(
            super::initiator(&Options::default()).replace("192.0.2.1", "198.51.100.1"),
        ));
        let mut stranger = stranger;
        stranger.launch(&mut pair.world);
        wait_until(
            &format!("{name}: the responder says {told}"),
            Duration::from_secs(20),
            || pair.b.log(&pair.world).contains(told),
        );
        assert!(!stranger.is_up(&pair.world, "site"), "{name}: it got a tunnel");
        assert!(ping(&pair.world, "ha", "10.2.0.2"), "{name}: the others suffered");
        assert_eq!(pair.b.connection(&pair.world, "site")["state"], "up", "{name}");
        assert!(
            !pair.b.log(&pair.world).contains(support::gateway::PSK),
            "{name}: a key stands in the log"
        );
    }
}

#[test]
fn the_control_socket_is_not_for_everybody() {
    use std::os::unix::fs::PermissionsExt;
    if !support::privileged("control socket") {
        return;
    }
    let mut world = World::two_sites(false, 1500);
    let gateway = Gateway::start(&mut world, "gb", &super::responder(&Options::default()));
    let mode = std::fs::metadata(gateway.folder().join("control.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660, "{mode:o}");
    let socket = gateway.folder().join("control.sock");
    let refused = world
        .command("gb", "setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c"])
        .arg(format!(
            "exec {} --socket {} status",
            support::gateway::LANDBRIDGE,
            socket.display()
        ))
        .output()
        .unwrap();
    assert!(!refused.status.success());
}
