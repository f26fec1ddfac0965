//! Keys in a PKCS#11 token (SoftHSM): every kind of key signs, and what is wrong is said.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

use landbridge::signer::{Signer, TokenSigner, TokenUri};
use landbridge_proto::crypto::{Hash, KeyKind, Scheme, schemes};
use std::path::{Path, PathBuf};
use std::process::Command;
use zeroize::Zeroizing;

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "1234";

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Runs a test again as a process of its own, with a token of its own: the library reads its environment once a process.
/// True in that process.
fn within(test: &str, token: &Path) -> bool {
    if std::env::var_os("LANDBRIDGE_TOKEN_TEST").is_some() {
        return true;
    }
    if !Path::new(MODULE).exists() {
        assert!(
            std::env::var_os("LANDBRIDGE_TEST_STRICT").is_none(),
            "{test}: needs the packages softhsm2 and opensc"
        );
        eprintln!("skipped: {test}: needs the packages softhsm2 and opensc");
        return false;
    }
    std::fs::create_dir_all(token.join("tokens")).unwrap();
    let conf = token.join("softhsm2.conf");
    std::fs::write(
        &conf,
        format!("directories.tokendir = {}\n", token.join("tokens").display()),
    )
    .unwrap();
    run(Command::new("softhsm2-util")
        .args([
            "--init-token",
            "--free",
            "--label",
            "vpn",
            "--pin",
            PIN,
            "--so-pin",
            "5678",
        ])
        .env("SOFTHSM2_CONF", &conf));
    for (id, kind) in [
        ("01", "rsa:2048"),
        ("02", "EC:prime256v1"),
        ("03", "EC:secp384r1"),
        ("04", "EC:secp521r1"),
        ("05", "EC:edwards25519"),
    ] {
        run(Command::new("pkcs11-tool")
            .args([
                "--module",
                MODULE,
                "--token-label",
                "vpn",
                "--login",
                "--pin",
                PIN,
                "--keypairgen",
                "--key-type",
                kind,
            ])
            .args(["--id", id, "--label", &format!("key{id}")])
            .env("SOFTHSM2_CONF", &conf));
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("SOFTHSM2_CONF", &conf)
        .env("LANDBRIDGE_TOKEN_TEST", "1")
        .output()
        .unwrap();
    std::fs::remove_dir_all(token).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    );
    false
}

fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("landbridge-{name}-{}", std::process::id()))
}

fn uri(key: &str) -> TokenUri {
    TokenUri::parse(&format!("pkcs11:token=vpn;{key}?module-path={MODULE}")).unwrap()
}

fn pin() -> Option<Zeroizing<String>> {
    Some(Zeroizing::new(PIN.to_owned()))
}

#[test]
fn a_token_signs_with_every_kind_of_key() {
    if !within("a_token_signs_with_every_kind_of_key", &folder("token")) {
        return;
    }
    for (id, kind) in [
        ("01", KeyKind::Rsa(2048)),
        ("02", KeyKind::P256),
        ("03", KeyKind::P384),
        ("04", KeyKind::P521),
        ("05", KeyKind::Ed25519),
    ] {
        let (public, signer) = TokenSigner::open(uri(&format!("object=key{id};id=%{id}")), pin()).unwrap();
        assert_eq!(public.kind(), kind);
        for scheme in schemes(kind) {
            let signature = signer
                .sign(scheme, b"octets")
                .unwrap_or_else(|error| panic!("{scheme}: {error}"));
            assert_eq!(public.verify(scheme, b"octets", &signature), Ok(()), "{scheme}");
        }
        let other = if kind == KeyKind::Ed25519 {
            Scheme::Ecdsa(Hash::Sha256)
        } else {
            Scheme::Ed25519
        };
        assert!(signer.sign(other, b"").is_err());
        // It goes on after a failure.
        let scheme = schemes(kind)[0];
        assert_eq!(
            public.verify(scheme, b"more", &signer.sign(scheme, b"more").unwrap()),
            Ok(())
        );
    }
    for (key, pin, told) in [
        ("object=missing", pin(), "no such private key"),
        ("object=key01", Some(Zeroizing::new("4321".to_owned())), "logging in"),
    ] {
        // A login holds for the whole process, so a wrong PIN shows only where nobody is logged in.
        match TokenSigner::open(uri(key), pin) {
            Err(error) => assert!(error.contains(told), "{key}: {error}"),
            Ok(_) => assert_eq!(told, "logging in"),
        }
    }
    let other = TokenUri::parse(&format!("pkcs11:token=other;object=key01?module-path={MODULE}")).unwrap();
    assert!(TokenSigner::open(other, pin()).unwrap_err().contains("no such token"));
}
