//! IKE and ESP over TCP (RFC 9329): where UDP is blocked, when it is blocked later, when connections break, and what strangers can
//! do at the port.

use super::support::gateway::Gateway;
use super::support::transfer::{TWENTY_MB, both_ways, inside, one_way, ping};
use super::support::{World, wait_until};
use super::{Options, Pair, initiator, responder, support};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const FALLBACK: Options = Options {
    nat: false,
    mtu: 1500,
    ike: "aes256gcm16-prfsha384-x25519",
    esp: "aes256gcm16",
    gateway: "workers = 2\ntcp_listen = [\":4500\"]",
    child: "",
    connection: "tcp = \"fallback\"\ndpd_delay = \"2s\"",
};

/// The router lets no UDP through.
pub(super) fn block_udp(world: &World) {
    world.must("net", &["nft", "add table ip block; add chain ip block forth { type filter hook forward priority 0; }; add rule ip block forth meta l4proto udp drop"]);
}

pub(super) fn open_udp(world: &World) {
    world.must("net", &["nft", "delete table ip block"]);
}

/// Every TCP connection between the gateways is reset, and none can be opened for a moment.
pub(super) fn reset_tcp(world: &World, time: Duration) {
    world.must("net", &["nft", "add table ip cutoff; add chain ip cutoff forth { type filter hook forward priority 0; }; add rule ip cutoff forth tcp dport { 443, 4500 } reject with tcp reset; add rule ip cutoff forth tcp sport { 443, 4500 } reject with tcp reset"]);
    std::thread::sleep(time);
    world.must("net", &["nft", "delete table ip cutoff"]);
}

pub(super) fn sa(pair: &Pair, gateway: &Gateway) -> Value {
    gateway.connection(&pair.world, "site")["ike_sas"][0].clone()
}

pub(super) fn travels(pair: &Pair, how: &str) -> bool {
    [&pair.a, &pair.b]
        .iter()
        .all(|gateway| sa(pair, gateway)["encapsulation"] == how)
}

pub(super) fn metric(pair: &Pair, gateway: &Gateway, name: &str) -> String {
    let text = gateway.client(&pair.world, &["metrics"]);
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next())
        .unwrap_or_default()
        .to_owned()
}

/// Up where UDP is blocked; `None` (said) where it can't run.
pub(super) fn up_blocked(
    test: &str,
    [a, b]: [&Options; 2],
    start: impl Fn(&mut World, &str, &str) -> Gateway,
) -> Option<Pair> {
    if !support::privileged(test) {
        return None;
    }
    let mut world = World::two_sites(a.nat, a.mtu);
    block_udp(&world);
    let b = start(&mut world, "gb", &responder(b));
    let a = start(&mut world, "ga", &initiator(a));
    a.wait_up(&world, "site");
    b.wait_up(&world, "site");
    Some(Pair { world, a, b })
}

/// Rekeys of both kinds by both ends.
pub(super) fn rekeys(pair: &Pair) {
    for gateway in [&pair.a, &pair.b] {
        let before = sa(pair, gateway)["children"][0]["spi_in"].clone();
        gateway.client(&pair.world, &["rekey", "site"]);
        wait_until("rekeyed", Duration::from_secs(10), || {
            sa(pair, gateway)["children"][0]["spi_in"] != before
        });
        both_ways(&pair.world);
        let before = sa(pair, gateway)["spi_i"].clone();
        gateway.client(&pair.world, &["rekey", "site", "--ike"]);
        wait_until("the IKE SA is rekeyed", Duration::from_secs(10), || {
            sa(pair, gateway)["spi_i"] != before
        });
    }
    assert!(travels(pair, "tcp"));
}

/// The connection is reset in the middle of a transfer, and opened again.
pub(super) fn is_reset_under_load(pair: &Pair) {
    std::thread::scope(|scope| {
        let load = scope.spawn(|| one_way(&pair.world, "ha", "hb", "10.2.0.2", 4 * TWENTY_MB));
        std::thread::sleep(Duration::from_millis(150));
        reset_tcp(&pair.world, Duration::from_millis(700));
        load.join().unwrap();
    });
    assert!(pair.a.log(&pair.world).contains("the TCP connection is opened again"));
    assert!(travels(pair, "tcp"));
    both_ways(&pair.world);
}

/// UDP is open again: the same SA goes back to it, and nothing of TCP stays.
pub(super) fn goes_back(pair: &Pair) {
    let before = sa(pair, &pair.a)["spi_i"].clone();
    open_udp(&pair.world);
    wait_until("it goes back to UDP", Duration::from_secs(150), || travels(pair, "udp"));
    assert_eq!(sa(pair, &pair.a)["spi_i"], before, "the same SA");
    both_ways(&pair.world);
    wait_until("the TCP connection is closed", Duration::from_secs(20), || {
        [&pair.a, &pair.b]
            .iter()
            .all(|gateway| metric(pair, gateway, "landbridge_tcp_connections") == "0")
    });
}

/// §5.1: UDP first, then TCP. Traffic, rekeys of both kinds by both ends, a connection that is reset in the middle; and when UDP is
/// open again, the same SA goes back to it.
#[test]
fn udp_is_blocked_and_opened_again() {
    let Some(pair) = up_blocked("UDP blocked", [&FALLBACK; 2], Gateway::start) else {
        return;
    };
    assert!(travels(&pair, "tcp"));
    assert_eq!(sa(&pair, &pair.a)["why_tcp"], "the peer does not answer over UDP");
    assert!(pair.a.log(&pair.world).contains("TCP is tried"));
    assert!(
        pair.a
            .client(&pair.world, &["status"])
            .contains("over TCP (the peer does not answer over UDP)")
    );
    assert_eq!(metric(&pair, &pair.a, "landbridge_connection_ike_sas_over_tcp"), "1");
    both_ways(&pair.world);
    rekeys(&pair);
    is_reset_under_load(&pair);
    goes_back(&pair);
}

/// §7.1: UDP is blocked while the tunnel is up: the same SA goes to TCP.
#[test]
fn udp_is_blocked_later() {
    let Some(pair) = Pair::up("UDP blocked later", FALLBACK) else {
        return;
    };
    assert!(travels(&pair, "udp"));
    let before = sa(&pair, &pair.a)["spi_i"].clone();
    block_udp(&pair.world);
    wait_until("it goes to TCP", Duration::from_secs(40), || travels(&pair, "tcp"));
    assert_eq!(sa(&pair, &pair.a)["spi_i"], before, "the same SA");
    both_ways(&pair.world);
    assert!(
        pair.a
            .log(&pair.world)
            .contains("over TCP: the peer does not answer over UDP")
    );
}

/// Behind a NAT that gives each connection another port, with a small MTU, and without MOBIKE.
#[test]
fn always_tcp_behind_a_nat() {
    let options = Options {
        nat: true,
        mtu: 1300,
        connection: "tcp = \"always\"\nmobike = false",
        ..FALLBACK
    };
    let Some(pair) = Pair::up("always over TCP", options) else {
        return;
    };
    assert!(travels(&pair, "tcp"));
    both_ways(&pair.world);
    let before = sa(&pair, &pair.b)["remote"].clone();
    let spi = sa(&pair, &pair.b)["spi_i"].clone();
    reset_tcp(&pair.world, Duration::from_millis(300));
    wait_until("another connection", Duration::from_secs(20), || {
        sa(&pair, &pair.b)["remote"] != before && ping(&pair.world, "ha", "10.2.0.2")
    });
    assert_eq!(sa(&pair, &pair.b)["spi_i"], spi, "the same SA");
    both_ways(&pair.world);
}

/// Sends octets to a port of gateway B's and returns whether the connection was closed within `patience`.
pub(super) fn is_closed(world: &World, port: u16, octets: Vec<u8>, patience: Duration) -> bool {
    inside(world, "net", move || {
        let to = SocketAddr::from(([198, 51, 100, 2], port));
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).expect("it listens");
        // It may be closed before all is written.
        drop(stream.write_all(&octets));
        ends(&mut stream, patience)
    })
    .join()
    .unwrap()
}

/// Whether the other end closes it within `patience`, whatever it says before.
pub(super) fn ends(stream: &mut TcpStream, patience: Duration) -> bool {
    stream.set_read_timeout(Some(patience)).unwrap();
    let end = Instant::now() + patience;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) if Instant::now() < end => {}
            Ok(_) => return false,
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// A message in a stream, and a stream.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len() + 2).unwrap().to_be_bytes()[..], message].concat()
}

pub(super) fn stream(frames: &[u8]) -> Vec<u8> {
    [b"IKETCP", frames].concat()
}

/// More connections to a port of gateway B's than one address may have at once: some are refused, and the tunnel's own stands.
pub(super) fn too_many(pair: &Pair, port: u16) {
    let refused = inside(&pair.world, "net", move || {
        let to = SocketAddr::from(([198, 51, 100, 2], port));
        let mut all: Vec<TcpStream> = (0..40)
            .map(|_| TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap())
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        let closed = |stream: &mut TcpStream| {
            stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            matches!(stream.read(&mut [0; 16]), Ok(0))
        };
        all.iter_mut().filter_map(|stream| closed(stream).then_some(())).count()
    });
    let refused = refused.join().unwrap();
    assert!((20..40).contains(&refused), "{refused}");
    assert!(pair.b.status(&pair.world)["drops"]["tcp_refused"].as_u64().unwrap() >= 20);
    assert!(travels(pair, "tcp"));
    both_ways(&pair.world);
    let site = pair.b.connection(&pair.world, "site");
    assert_eq!(site["ike_sas"].as_array().unwrap().len(), 1);
    let log = pair.a.log(&pair.world);
    assert!(!log.contains("opened again"), "the tunnel's connection stood");
}

/// What is no IKETCP stream, or a broken one, is closed; what says nothing for long too; and the tunnel does not notice.
#[test]
fn strangers_at_the_port() {
    let Some(pair) = up_blocked("strangers at the TCP port", [&FALLBACK; 2], Gateway::start) else {
        return;
    };
    let soon = Duration::from_secs(2);
    let esp = framed(&[0x77; 100]);
    let closed_soon = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0x16, 3, 1, 2, 0, 1],
        b"IKETCQ".to_vec(),
        // §3: "The value in the Length field MUST NOT be 0 or 1."
        stream(&[0, 0]),
        stream(&[0, 1, 7, 7]),
        stream(&[&[0, 3, 0xff][..], &[0, 2], &[0, 1]].concat()),
        // Too many packets of SAs that nobody has. What is read at once before the connection comes to the worker whose SPI it
        // would be does not count: more than that.
        stream(&esp.repeat(5000)),
        // Too much IKE that means nothing.
        stream(&framed(&[&[0; 4][..], &[9; 60]].concat()).repeat(1000)),
        // A message that nobody sends who is not authenticated.
        stream(&[&[0xff, 0xff][..], &[0; 30_000]].concat()),
    ];
    for octets in closed_soon {
        let text = format!("{:02x?}", &octets[..octets.len().min(12)]);
        assert!(is_closed(&pair.world, 4500, octets, soon), "{text}");
    }
    // A few packets of unknown SAs do no harm, nor do keepalives and empty messages.
    let harmless = stream(&[esp.repeat(5), vec![0, 3, 0xff], vec![0, 2]].concat());
    assert!(!is_closed(&pair.world, 4500, harmless, soon));
    assert!(
        is_closed(&pair.world, 4500, b"IKET".to_vec(), Duration::from_secs(15)),
        "who says nothing"
    );
    too_many(&pair, 4500);
}

/// Over IPv6, begun by TCP at once.
#[test]
fn over_ipv6() {
    if !support::privileged("TCP over IPv6") {
        return;
    }
    let mut world = World::two_sites(false, 1500);
    world.add_ipv6();
    let options = Options {
        connection: "tcp = \"always\"",
        ..FALLBACK
    };
    let a = initiator(&options)
        .replace("192.0.2.1", "2001:db8:1::1")
        .replace("198.51.100.2", "2001:db8:2::2");
    let b = responder(&options).replace("198.51.100.2", "2001:db8:2::2");
    let b = Gateway::start(&mut world, "gb", &b);
    let a = Gateway::start(&mut world, "ga", &a);
    a.wait_up(&world, "site");
    b.wait_up(&world, "site");
    let pair = Pair { world, a, b };
    assert!(travels(&pair, "tcp"));
    both_ways(&pair.world);
}
