//! TLS around TCP (RFC 9329 Appendix A): where nothing passes but TCP to port 443, with certificates that are looked at and that
//! change, and what strangers can do at the port.

use super::support::gateway::Gateway;
use super::support::transfer::{TWENTY_MB, both_ways, inside, one_way, ping};
use super::support::{World, privileged, run, wait_until};
use super::tcp::{
    block_udp, ends, framed, goes_back, is_closed, is_reset_under_load, rekeys, reset_tcp, sa, stream, too_many,
    travels, up_blocked,
};
use super::{Options, Pair, initiator, responder};
use landbridge::tls::ClientTls;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

const CLIENT: Options = Options {
    nat: false,
    mtu: 1500,
    ike: "aes256gcm16-prfsha384-x25519",
    esp: "aes256gcm16",
    gateway: "workers = 2",
    child: "",
    connection: "tcp = \"fallback\"\ntcp_port = 443\ntcp_tls = true\ntcp_tls_name = \"gw.example\"\n\
                 tcp_tls_cacert_file = \"ca.crt\"\ndpd_delay = \"2s\"",
};
const SERVER: Options = Options {
    gateway: "workers = 2\ntls_listen = [\":443\"]\ntls_cert_file = \"gw.crt\"\ntls_private_key_file = \"gw.key\"",
    connection: "dpd_delay = \"2s\"",
    ..CLIENT
};
const SOON: Duration = Duration::from_secs(2);

fn data(names: &[&str]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/tests/data");
    names
        .iter()
        .map(|name| fs::read_to_string(folder.join(name)).unwrap())
        .collect()
}

/// What gateway B shows.
fn certify(gateway: &Gateway, certificate: &str, key: &str) {
    gateway.secret("gw.crt", &data(&[certificate, "pki/inter.crt"]));
    gateway.secret("gw.key", &data(&[key]));
}

fn start(world: &mut World, ns: &str, configuration: &str) -> Gateway {
    let mut gateway = Gateway::prepare(world, ns);
    gateway.secret("ca.crt", &data(&["pki/root.crt"]));
    certify(&gateway, "pki/gw-p256.crt", "keys/p256.pem");
    gateway.configure(configuration);
    gateway.launch(world);
    gateway
}

/// As `tests/netns/tcp.rs` has it without TLS: UDP first, then TCP; traffic, rekeys, a connection that is reset; then back to UDP.
#[test]
fn udp_is_blocked_and_opened_again() {
    if !privileged("UDP blocked, TLS") {
        return;
    }
    let mut world = World::two_sites(false, 1500);
    block_udp(&world);
    let b = start(&mut world, "gb", &responder(&SERVER));
    let file = world.dir().join("tls.pcap");
    let words = [
        "-i",
        "wan0",
        "--immediate-mode",
        "-U",
        "-w",
        file.to_str().unwrap(),
        "tcp port 443",
    ];
    let dump = world.spawn("gb", "tcpdump.log", "tcpdump", &words);
    wait_until("tcpdump listens", Duration::from_secs(10), || {
        fs::read_to_string(world.dir().join("tcpdump.log")).is_ok_and(|log| log.contains("listening"))
    });
    let a = start(&mut world, "ga", &initiator(&CLIENT));
    a.wait_up(&world, "site");
    b.wait_up(&world, "site");
    assert!(ping(&world, "ha", "10.2.0.2"));
    std::thread::sleep(Duration::from_millis(500));
    world.end(dump, libc::SIGINT);
    // On the wire it is TLS 1.3, and what is within can't be seen.
    let capture = fs::read(&file).unwrap();
    assert!(capture.len() > 1000);
    assert!(!capture.windows(6).any(|octets| octets == b"IKETCP"));
    let fields = ["-T", "fields", "-e", "tls.handshake.extensions.supported_version"];
    let output = run(std::process::Command::new("tshark")
        .args(["-n", "-r", file.to_str().unwrap(), "-Y", "tls.handshake.type == 2"])
        .args(fields));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0x0304");

    let pair = Pair { world, a, b };
    assert!(travels(&pair, "tcp"));
    assert_eq!(
        [&pair.a, &pair.b].map(|gateway| sa(&pair, gateway)["tls"] == true),
        [true; 2]
    );
    let said = pair.a.client(&pair.world, &["status"]);
    assert!(
        said.contains("over TCP with TLS (the peer does not answer over UDP)"),
        "{said}"
    );
    assert!(
        pair.a
            .log(&pair.world)
            .contains("opening a TCP connection with TLS to 198.51.100.2:443")
    );
    both_ways(&pair.world);
    rekeys(&pair);
    is_reset_under_load(&pair);
    assert_eq!(sa(&pair, &pair.a)["tls"], true);
    goes_back(&pair);
    assert_eq!(sa(&pair, &pair.a)["tls"], false);
    // Appendix B.2: close_notify, then the TCP connection.
    assert!(
        pair.b
            .log(&pair.world)
            .contains("the other end closed it (close_notify)")
    );
}

/// `openssl s_client` at gateway B's port: what it says of the connection.
fn s_client(world: &World, words: &[&str]) -> String {
    let mut command = world.command("net", "openssl");
    command.args(["s_client", "-connect", "198.51.100.2:443", "-servername", "gw.example"]);
    command.args(words).stdin(std::process::Stdio::null());
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A certificate that is not the one expected, in words, and the tunnel when it is; another certificate at the other end without a
/// cut; and another implementation of TLS.
#[test]
fn certificates_are_looked_at_and_changed() {
    if !privileged("TLS certificates") {
        return;
    }
    let mut world = World::two_sites(false, 1500);
    block_udp(&world);
    let b = start(&mut world, "gb", &responder(&SERVER));
    let always = |text: &str| {
        initiator(&CLIENT)
            .replace("tcp = \"fallback\"", "tcp = \"always\"")
            .replace("\"gw.example\"", text)
    };
    let a = start(&mut world, "ga", &always("\"else.example\""));
    wait_until("it is refused", Duration::from_secs(20), || {
        let log = a.log(&world);
        log.contains("the certificate of the other end is refused: certificate not valid for name \"else.example\"")
    });
    wait_until("the other end is told", Duration::from_secs(20), || {
        b.log(&world).contains("is refused: TLS: the other end refuses (")
    });
    assert!(!a.is_up(&world, "site"));
    assert!(b.status(&world)["drops"]["tls_failed"].as_u64().unwrap() > 0);
    a.configure(&always("\"gw.example\""));
    let said = a.client(&world, &["reload"]);
    assert!(said.contains("tcp_tls (for the next TCP connection)"), "{said}");
    a.client(&world, &["up", "site"]);
    a.wait_up(&world, "site");
    let pair = Pair { world, a, b };
    let (world, b) = (&pair.world, &pair.b);

    let ca = pair.a.folder().join("ca.crt");
    let check = [
        "-CAfile",
        ca.to_str().unwrap(),
        "-verify_hostname",
        "gw.example",
        "-verify_return_error",
    ];
    let said = s_client(world, &check);
    assert!(
        said.contains("TLSv1.3") && said.contains("Verify return code: 0 (ok)"),
        "{said}"
    );
    assert!(said.contains("No client certificate CA names sent"), "{said}");
    let said = s_client(world, &["-tls1_2"]);
    assert!(said.contains("alert") && !said.contains("Cipher is ECDHE"), "{said}");

    let (spi, remote) = (sa(&pair, b)["spi_i"].clone(), sa(&pair, b)["remote"].clone());
    assert!(s_client(world, &[]).contains("sigalg: ecdsa-with-SHA") || s_client(world, &["-brief"]).contains("SHA256"));
    std::thread::scope(|scope| {
        let load = scope.spawn(|| one_way(world, "ha", "hb", "10.2.0.2", 2 * TWENTY_MB));
        certify(b, "pki/gw-p384.crt", "keys/p384.pem");
        let said = b.client(world, &["reload"]);
        assert!(said.contains("the certificate of TLS changes"), "{said}");
        load.join().unwrap();
    });
    assert!(s_client(world, &["-brief"]).contains("SHA384"));
    assert_eq!(
        (&sa(&pair, b)["spi_i"], &sa(&pair, b)["remote"]),
        (&spi, &remote),
        "nothing was cut"
    );
    // A key that is another's changes nothing.
    b.secret("gw.key", &data(&["keys/p256.pem"]));
    let output = b.try_client(world, &["reload"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("the key is not that of the certificate"),
        "{said}"
    );
    assert!(s_client(world, &["-brief"]).contains("SHA384"));
    // Longer than `dpd_delay`: a packet has to meet it.
    reset_tcp(world, Duration::from_millis(2500));
    wait_until("another connection", Duration::from_secs(20), || {
        sa(&pair, b)["remote"] != remote && ping(world, "ha", "10.2.0.2")
    });
    assert_eq!(sa(&pair, b)["spi_i"], spi, "the same SA");
    both_ways(world);

    // One that nobody has issued, as the guide makes it, at both ends.
    let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=vpn.example \
                 -addext subjectAltName=DNS:vpn.example -keyout gw.key -out gw.crt";
    run(std::process::Command::new("openssl")
        .args(words.split(' '))
        .current_dir(b.folder()));
    b.client(world, &["reload"]);
    let refused = pair.a.log(world).matches("is not issued under").count();
    let remote = sa(&pair, b)["remote"].clone();
    reset_tcp(world, Duration::from_millis(2500));
    wait_until("it is refused", Duration::from_secs(20), || {
        pair.a.log(world).matches("is not issued under").count() > refused
    });
    pair.a
        .secret("peer.crt", &fs::read_to_string(b.folder().join("gw.crt")).unwrap());
    pair.a.configure(
        &always("\"gw.example\"").replace("tcp_tls_cacert_file = \"ca.crt\"", "tcp_tls_cert_file = \"peer.crt\""),
    );
    pair.a.client(world, &["reload"]);
    wait_until("another connection", Duration::from_secs(30), || {
        sa(&pair, b)["remote"] != remote && ping(world, "ha", "10.2.0.2")
    });
    assert_eq!(sa(&pair, b)["spi_i"], spi, "the same SA");
}

/// What comes within TLS is treated as it is without.
fn is_closed_within(world: &World, octets: Vec<u8>, patience: Duration) -> bool {
    inside(world, "net", move || {
        let to: SocketAddr = "198.51.100.2:443".parse().unwrap();
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).expect("it listens");
        let tls = ClientTls::new(None, vec![], vec![]).unwrap();
        let mut session = tls.connect(to.ip()).unwrap();
        let (mut buffer, mut room) = (vec![0; 20_000], vec![0; 60_000]);
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let send = |session: &mut landbridge::tls::Session, stream: &mut TcpStream| {
            while session.wants_write() {
                if session.write_to(stream).is_err() {
                    return;
                }
            }
        };
        while session.is_handshaking() {
            send(&mut session, &mut stream);
            let came = stream.read(&mut buffer).unwrap();
            session.open(&buffer[..came], &mut room).unwrap();
        }
        session.seal(&octets).unwrap();
        send(&mut session, &mut stream);
        ends(&mut stream, patience)
    })
    .join()
    .unwrap()
}

#[test]
fn strangers_at_the_port() {
    let Some(pair) = up_blocked("strangers at the TLS port", [&CLIENT, &SERVER], start) else {
        return;
    };
    let world = &pair.world;
    for octets in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"IKETCP\0\x06\0\0\0\0".to_vec(),
        vec![0x16, 3, 1, 0xff, 0xff, 1],
        vec![0x16, 3, 1, 0, 4, 1, 0, 0, 0],
        [&[0x16, 3, 1, 0, 4, 1, 0, 0, 0][..], &[7; 100]].concat(),
        [0x16, 3, 1, 0, 1, 1].repeat(1000),
        vec![0; 100_000],
    ] {
        let text = format!("{:02x?}", &octets[..octets.len().min(12)]);
        assert!(is_closed(world, 443, octets, SOON), "{text}");
    }
    // Within TLS: what is no IKETCP stream, or a broken one.
    for octets in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        stream(&[0, 1, 7]),
        stream(&framed(&[0x77; 100]).repeat(5000)),
        stream(&framed(&[&[0; 4][..], &[9; 60]].concat()).repeat(1000)),
        stream(&[&[0xff, 0xff][..], &[0; 30_000]].concat()),
    ] {
        let text = format!("{:02x?}", &octets[..octets.len().min(12)]);
        assert!(is_closed_within(world, octets, SOON), "{text}");
    }
    assert!(
        !is_closed_within(world, stream(&[0, 3, 0xff, 0, 2]), SOON),
        "a keepalive does no harm"
    );
    assert!(
        is_closed_within(world, Vec::new(), Duration::from_secs(15)),
        "who says nothing"
    );
    assert!(
        is_closed(world, 443, vec![0x16, 3], Duration::from_secs(15)),
        "who says nothing"
    );

    // Random octets, also behind a header that may be TLS's, and connections that are left in the middle.
    inside(world, "net", || {
        let to: SocketAddr = "198.51.100.2:443".parse().unwrap();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let tls = ClientTls::new(Some("gw.example"), vec![], vec![]).unwrap();
        for round in 0..400 {
            let mut octets: Vec<u8> = (0..random() % 1500).map(|_| random() as u8).collect();
            match round % 3 {
                0 => {
                    let length = u16::try_from(octets.len()).unwrap().to_be_bytes();
                    octets.splice(0..0, [20 + (random() % 4) as u8, 3, 3, length[0], length[1]]);
                }
                1 => {
                    octets.clear();
                    tls.connect(to.ip()).unwrap().write_to(&mut octets).unwrap();
                    for _ in 0..random() % 4 {
                        let at = (random() as usize) % octets.len();
                        octets[at] = random() as u8;
                    }
                }
                _ => {}
            }
            let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_secs(5)) else {
                continue;
            };
            drop(stream.write_all(&octets));
            stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
            drop(stream.read(&mut [0; 100]));
        }
    })
    .join()
    .unwrap();
    // In the handshake or after it.
    too_many(&pair, 443);
    let drops = &pair.b.status(world)["drops"];
    assert!(drops["tls_failed"].as_u64().unwrap() >= 100, "{drops}");
    assert!(
        pair.b.log(world).contains("INFO the TCP connection from "),
        "it is told in words"
    );
    assert_eq!(sa(&pair, &pair.b)["tls"], true);
}

/// The other end does without TLS, or with it where none is expected: words in the log, and it is tried again.
#[test]
fn one_end_without_tls() {
    if !privileged("one end without TLS") {
        return;
    }
    let mut world = World::two_sites(false, 1500);
    let plain = SERVER
        .gateway
        .replace("tls_listen", "tcp_listen")
        .replace("tls_", "# tls_");
    let b = start(&mut world, "gb", &responder(&SERVER).replace(SERVER.gateway, &plain));
    let always = initiator(&CLIENT).replace("tcp = \"fallback\"", "tcp = \"always\"");
    let a = start(&mut world, "ga", &always);
    wait_until("it is told", Duration::from_secs(20), || {
        a.log(&world).contains("does it speak TLS on this port?")
    });
    assert!(!a.is_up(&world, "site"));
    a.configure(&always.replace("tcp_tls = true", "tcp_tls = false"));
    a.client(&world, &["reload"]);
    a.wait_up(&world, "site");
    assert!(ping(&world, "ha", "10.2.0.2"));
    drop(b);
}

/// A port with and one without beside each other carry the same. How fast is printed (`--nocapture`), for a first look.
#[test]
fn with_tls_and_without() {
    if !privileged("with TLS and without") {
        return;
    }
    let mut rates = Vec::new();
    for tls in [false, true] {
        let mut world = World::two_sites(false, 1500);
        let both = format!("{}\ntcp_listen = [\":4500\"]", SERVER.gateway);
        let b = start(&mut world, "gb", &responder(&SERVER).replace(SERVER.gateway, &both));
        let mut text = initiator(&CLIENT).replace("tcp = \"fallback\"", "tcp = \"always\"");
        if !tls {
            text = text
                .replace("tcp_port = 443", "tcp_port = 4500")
                .replace("tcp_tls = true", "tcp_tls = false");
        }
        let a = start(&mut world, "ga", &text);
        a.wait_up(&world, "site");
        b.wait_up(&world, "site");
        assert_eq!(a.connection(&world, "site")["ike_sas"][0]["tls"], tls);
        for (from, to, address) in [("ha", "hb", "10.2.0.2"), ("hb", "ha", "10.1.0.2")] {
            let began = Instant::now();
            one_way(&world, from, to, address, TWENTY_MB);
            rates.push(8.0 * TWENTY_MB as f64 / began.elapsed().as_secs_f64() / 1e9);
        }
    }
    println!(
        "Gbit/s, one stream, each way: plain {:.2?}, TLS {:.2?}",
        &rates[..2],
        &rates[2..]
    );
}
