use super::*;
use rustls::pki_types::pem::PemObject as _;
use std::net::IpAddr;

fn data(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/tests/data");
    std::fs::read_to_string(path.join(name)).unwrap()
}

fn certificates(names: &[&str]) -> Vec<Vec<u8>> {
    let of = |name: &&str| {
        rustls::pki_types::CertificateDer::from_pem_slice(data(name).as_bytes())
            .unwrap()
            .to_vec()
    };
    names.iter().map(of).collect()
}

fn key(name: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(data(name).as_bytes()).unwrap()
}

pub(crate) fn server() -> ServerTls {
    ServerTls::new(
        certificates(&["pki/gw-p256.crt", "pki/inter.crt"]),
        key("keys/p256.pem"),
    )
    .unwrap()
}

fn client(name: Option<&str>, anchors: &[&str], pinned: &[&str]) -> ClientTls {
    ClientTls::new(name, certificates(anchors), certificates(pinned)).unwrap()
}

fn remote() -> IpAddr {
    "198.51.100.2".parse().unwrap()
}

/// What one end has to send, in pieces of this many octets, goes to the other; what was in it.
fn carry(from: &mut Session, to: &mut Session, piece: usize) -> Result<Vec<u8>, String> {
    let mut sealed = Vec::new();
    while from.wants_write() {
        from.write_to(&mut sealed).unwrap();
    }
    let mut plain = Vec::new();
    let mut room = vec![0; piece + (64 << 10)];
    for piece in sealed.chunks(piece) {
        let opened = to.open(piece, &mut room)?;
        plain.extend_from_slice(&room[..opened.len]);
    }
    Ok(plain)
}

/// Until both are done; whose error it was.
fn shake(client: &mut Session, server: &mut Session, piece: usize) -> Result<(), (&'static str, String)> {
    for _ in 0..10 {
        carry(client, server, piece).map_err(|why| ("server", why))?;
        carry(server, client, piece).map_err(|why| ("client", why))?;
        if !client.is_handshaking() && !server.is_handshaking() && !client.wants_write() {
            return Ok(());
        }
    }
    panic!("no end of it")
}

pub(crate) fn pair() -> (Session, Session) {
    let (mut client, mut server) = (
        client(None, &[], &[]).connect(remote()).unwrap(),
        server().accept().unwrap(),
    );
    shake(&mut client, &mut server, 16 << 10).unwrap();
    (client, server)
}

#[test]
fn octets_come_through_however_they_are_cut() {
    for piece in [1, 5, 100, 4096, 70_000, 1 << 20] {
        let mut ends = [
            client(Some("gw.example"), &["pki/root.crt"], &[])
                .connect(remote())
                .unwrap(),
            server().accept().unwrap(),
        ];
        let [client, server] = &mut ends;
        shake(client, server, piece).unwrap();
        assert!(client.describe().starts_with("TLS13_"), "{}", client.describe());
        let text: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        client.seal(&text).unwrap();
        assert_eq!(carry(client, server, piece).unwrap(), text);
        server.seal(&text[..1]).unwrap();
        server.seal(&text[1..]).unwrap();
        assert_eq!(carry(server, client, piece).unwrap(), text);
    }
}

#[test]
fn the_certificate_is_looked_at_if_there_is_something_to_hold_it_against() {
    let ca: &[&str] = &["pki/root.crt"];
    let shown: &[&str] = &["pki/gw-p256.crt"];
    let other: &[&str] = &["pki/gw-p384.crt"];
    for (name, anchors, pinned, refused) in [
        (None, &[][..], &[][..], None),
        (Some("else.example"), &[], &[], None),
        (Some("gw.example"), ca, &[], None),
        (Some("192.0.2.1"), ca, &[], None),
        // By its address, which is not in the certificate.
        (None, ca, &[], Some("certificate not valid for name \"198.51.100.2\"")),
        (
            Some("else.example"),
            ca,
            &[],
            Some("certificate not valid for name \"else.example\""),
        ),
        (
            Some("gw.example"),
            &["pki/root-p256.crt"],
            &[],
            Some("is not issued under tcp_tls_cacert_files"),
        ),
        (Some("gw.example"), &["pki/inter.crt"], &[], None),
        // A pinned one has no name to be compared.
        (Some("else.example"), &[], shown, None),
        (Some("else.example"), ca, shown, None),
        (
            Some("gw.example"),
            &[],
            other,
            Some("is not issued under tcp_tls_cacert_files"),
        ),
    ] {
        let tls = client(name, anchors, pinned);
        assert_eq!(tls.is_checked(), !anchors.is_empty() || !pinned.is_empty());
        let (mut client, mut server) = (tls.connect(remote()).unwrap(), super::tests::server().accept().unwrap());
        let outcome = shake(&mut client, &mut server, 16 << 10);
        match (refused, outcome) {
            (None, Ok(())) => {}
            (Some(words), Err(("client", why))) => {
                assert!(why.contains(words), "{why}");
                // The other end learns of it.
                let why = carry(&mut client, &mut server, 16 << 10).unwrap_err();
                assert!(why.starts_with("TLS: the other end refuses"), "{why}");
            }
            (_, outcome) => panic!("{name:?} {anchors:?} {pinned:?}: {outcome:?}"),
        }
    }
}

/// Whoever shows a certificate has to have its key, where certificates are looked at.
#[test]
fn a_copied_certificate_is_not_enough() {
    assert!(
        ServerTls::new(certificates(&["pki/gw-p256.crt"]), key("keys/p384.pem"))
            .unwrap_err()
            .contains("the key is not that of the certificate")
    );
    for (certificate, key) in [
        ("pki/gw-p384.crt", "keys/p384.pem"),
        ("pki/gw-rsa2048.crt", "keys/rsa2048.pem"),
        ("pki/gw-rsa2048.crt", "keys/rsa2048-pkcs1.pem"),
        ("pki/gw-p256.crt", "keys/p256-sec1.pem"),
        ("pki/gw-ed25519.crt", "keys/ed25519.pem"),
    ] {
        let server = ServerTls::new(certificates(&[certificate, "pki/inter.crt"]), super::tests::key(key)).unwrap();
        let tls = client(Some("gw.example"), &["pki/root.crt"], &[]);
        shake(
            &mut tls.connect(remote()).unwrap(),
            &mut server.accept().unwrap(),
            16 << 10,
        )
        .unwrap_or_else(|error| panic!("{certificate}: {error:?}"));
    }
    for (certificate, key) in [
        ("pki/gw-p521.crt", "keys/p521.pem"),
        ("pki/weak-rsa1024.crt", "keys/rsa1024.pem"),
    ] {
        let why = ServerTls::new(certificates(&[certificate]), super::tests::key(key)).unwrap_err();
        assert!(why.contains("ECDSA on P-256"), "{why}");
    }
}

/// RFC 9329 Appendix B.3: "The client SHOULD attempt TLS session resumption".
#[test]
fn the_second_connection_is_resumed() {
    let (tls, server) = (client(Some("gw.example"), &["pki/root.crt"], &[]), server());
    let mut kinds = Vec::new();
    for _ in 0..3 {
        let (mut client, mut server) = (tls.connect(remote()).unwrap(), server.accept().unwrap());
        shake(&mut client, &mut server, 16 << 10).unwrap();
        // The tickets.
        carry(&mut server, &mut client, 16 << 10).unwrap();
        kinds.push((client.is_resumed(), server.is_resumed()));
    }
    assert_eq!(kinds, [(false, false), (true, true), (true, true)]);
}

#[test]
fn keys_change_in_the_midst_of_it() {
    let (mut client, mut server) = pair();
    carry(&mut server, &mut client, 16 << 10).unwrap();
    for round in 0..20_u8 {
        client.change_keys();
        client.seal(&[round; 1000]).unwrap();
        assert_eq!(carry(&mut client, &mut server, 100).unwrap(), [round; 1000]);
        if round % 3 == 0 {
            server.change_keys();
        }
        // With it goes the answer to the other's wish.
        server.seal(&[!round; 40_000]).unwrap();
        assert_eq!(carry(&mut server, &mut client, 100).unwrap(), [!round; 40_000]);
    }
}

#[test]
fn the_end_is_told_and_nothing_comes_after_it() {
    let (mut client, mut server) = pair();
    client.seal(b"last words").unwrap();
    client.close();
    let mut sealed = Vec::new();
    while client.wants_write() {
        client.write_to(&mut sealed).unwrap();
    }
    sealed.extend_from_slice(&[23, 3, 3, 0, 40]);
    sealed.extend_from_slice(&[7; 40]);
    let mut plain = [0; 100];
    let opened = server.open(&sealed, &mut plain).unwrap();
    assert_eq!(opened, Opened { len: 10, closed: true });
    assert_eq!(&plain[..10], b"last words");
    assert_eq!(server.open(&sealed, &mut plain), Ok(Opened { len: 0, closed: false }));
}

#[test]
fn what_is_changed_on_the_way_is_refused() {
    for at in [0, 3, 5, 20, 60] {
        let (mut client, mut server) = pair();
        client.seal(&[1; 100]).unwrap();
        let mut sealed = Vec::new();
        client.write_to(&mut sealed).unwrap();
        sealed[at] ^= 0x40;
        // A longer length waits for what does not come.
        let outcome = server.open(&sealed, &mut [0; 1000]);
        assert!(
            outcome.is_err() || outcome == Ok(Opened { len: 0, closed: false }),
            "{at}: {outcome:?}"
        );
        assert!(outcome.is_err() || at == 3, "{at}");
    }
}

/// A ClientHello of TLS 1.2: no supported_versions.
#[test]
fn tls_1_2_is_refused_in_words() {
    let mut hello = vec![3, 3];
    hello.extend([9; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    hello.extend([0, 14, 0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0]);
    let length = u8::try_from(hello.len()).unwrap();
    let record = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat();
    let mut server = server().accept().unwrap();
    let why = server.open(&record, &mut []).unwrap_err();
    assert!(why.contains("TLS 1.3 is needed"), "{why}");
    let mut alert = Vec::new();
    server.write_to(&mut alert).unwrap();
    // handshake_failure (40); others say protocol_version (70).
    assert_eq!(alert, [21, 3, 3, 0, 2, 2, 40]);
    for (alert, words) in [
        (40, "TLS: the other end refuses (HandshakeFailure)"),
        (70, "TLS: the other end can't do TLS 1.3"),
    ] {
        let mut client = client(None, &[], &[]).connect(remote()).unwrap();
        let why = client.open(&[21, 3, 3, 0, 2, 2, alert], &mut []).unwrap_err();
        assert_eq!(why, words);
    }
}

/// Whatever comes, nothing panics, nothing is held without bound and nothing comes out.
#[test]
fn random_octets() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (client, server) = (client(None, &[], &[]), server());
    for round in 0..3000 {
        let mut ends = [client.connect(remote()).unwrap(), server.accept().unwrap()];
        let (who, other) = ((round % 2) as usize, (1 - round % 2) as usize);
        // What the other end would have sent, with some octets changed; or none of it.
        let mut octets = Vec::new();
        if round % 3 > 0 {
            let mut hello = Vec::new();
            ends[0].write_to(&mut hello).unwrap();
            if other == 1 {
                ends[1].open(&hello, &mut []).unwrap();
                while ends[1].wants_write() {
                    ends[1].write_to(&mut octets).unwrap();
                }
            } else {
                octets = hello;
            }
            for _ in 0..1 + random() % 8 {
                let at = (random() as usize) % octets.len();
                octets[at] = random() as u8;
            }
        } else {
            octets = (0..random() % 2000).map(|_| random() as u8).collect();
            if let ([kind, ..], true) = (&mut octets[..], round % 6 == 0) {
                *kind = 20 + (random() % 4) as u8;
            }
        }
        let mut room = vec![0; 20_000];
        for piece in octets.chunks(1 + (random() % 3000) as usize) {
            match ends[who].open(piece, &mut room) {
                Ok(opened) => assert_eq!(opened.len, 0),
                Err(_) => break,
            }
        }
        assert!(ends[who].is_handshaking() || who == 0);
    }
}
