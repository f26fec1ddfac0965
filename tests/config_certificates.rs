//! `auth = "cert"` in the configuration: which files fit together, and what is said about those that don't.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

use landbridge::config::{self, Configuration};
use landbridge_proto::policy::connection::{LocalCredential, RemoteCredential};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A folder with these files of the protocol's tests: certificates by their names, keys by theirs.
fn folder(test: &str, files: &[(&str, &[&str])]) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("landbridge-{test}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/tests/data");
    for (name, parts) in files {
        let text: String = parts
            .iter()
            .map(|part| fs::read_to_string(data.join(part)).unwrap())
            .collect();
        fs::write(folder.join(name), text).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    folder
}

fn load(folder: &Path, local: &str, remote: &str) -> Result<Configuration, String> {
    let text = format!(
        r#"
[connections.cloud]
local_addrs = ["192.0.2.1"]
remote_addrs = ["203.0.113.7"]
[connections.cloud.local]
{local}
[connections.cloud.remote]
{remote}
[connections.cloud.children.net]
local_ts = ["10.1.0.0/16"]
remote_ts = ["10.2.0.0/16"]
"#
    );
    fs::write(folder.join("landbridge.toml"), text).unwrap();
    let loaded = config::load(&folder.join("landbridge.toml"));
    loaded.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

const FILES: &[(&str, &[&str])] = &[
    ("gw.pem", &["pki/gw-p256.crt", "pki/inter.crt"]),
    ("rsa.pem", &["pki/gw-rsa2048.crt", "pki/inter.crt"]),
    ("backwards.pem", &["pki/inter.crt", "pki/gw-p256.crt"]),
    ("no-sign.pem", &["pki/bad-ku.crt"]),
    ("gw.key", &["keys/p256.pem"]),
    ("other.key", &["keys/p384.pem"]),
    ("rsa.key", &["keys/rsa2048-pkcs1.pem"]),
    ("ca.pem", &["pki/root.crt", "pki/root-rsa.crt"]),
    ("weak.pem", &["pki/root-e3.crt"]),
    ("lists.pem", &["pki/root.crl", "pki/inter.crl"]),
    ("old.pem", &["pki/inter-old.crl"]),
];
const LOCAL: &str = "auth = \"cert\"\nid = \"gw.example\"\ncert_file = \"gw.pem\"\nprivate_key_file = \"gw.key\"";
const REMOTE: &str = "auth = \"cert\"\nid = \"peer.example\"\ncacert_files = [\"ca.pem\"]";

#[test]
fn what_fits_together_is_taken() {
    let folder = folder("certs-good", FILES);
    let configuration = load(&folder, LOCAL, REMOTE).unwrap();
    assert_eq!(configuration.warnings, Vec::<String>::new());
    let connection = &configuration.ike.connections["cloud"];
    let LocalCredential::Certificates(own) = &connection.local.credential else {
        panic!()
    };
    assert_eq!((own.len(), own[0].chain.len()), (1, 2));
    let RemoteCredential::Certificates(trust) = &connection.remote.credential else {
        panic!()
    };
    assert_eq!((trust.anchors.len(), trust.pinned.len(), trust.crls.len()), (2, 0, 0));
    assert_eq!(configuration.expiries.len(), 4);
    // Old and new, in whatever order their keys come; an RSA key signs outside the protocol.
    let two = "auth = \"cert\"\nid = \"gw.example\"\ncert_files = [\"rsa.pem\", \"gw.pem\"]\nprivate_key_files = [\"gw.key\", \"rsa.key\"]";
    let configuration = load(&folder, two, REMOTE).unwrap();
    let LocalCredential::Certificates(own) = &configuration.ike.connections["cloud"].local.credential else {
        panic!()
    };
    assert_eq!(own.len(), 2);
    let name = own[0].key.elsewhere().unwrap();
    assert!(configuration.signers.contains_key(name) && own[1].key.elsewhere().is_none());
    // Without auth the files say it; without id our address, which the certificate holds.
    let local = "cert_file = \"gw.pem\"\nprivate_key_file = \"gw.key\"";
    let configuration = load(&folder, local, "id = \"peer.example\"\ncacert_file = \"ca.pem\"").unwrap();
    assert_eq!(configuration.ike.connections["cloud"].local.id.to_string(), "192.0.2.1");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn without_an_id_that_it_holds_the_subject_stands() {
    let folder = folder(
        "certs-dn",
        &[
            ("gw.pem", &["pki/peer.crt"]),
            ("gw.key", &["keys/p256.pem"]),
            ("ca.pem", &["pki/root.crt"]),
        ],
    );
    let local = "auth = \"cert\"\ncert_file = \"gw.pem\"\nprivate_key_file = \"gw.key\"";
    let configuration = load(&folder, local, REMOTE).unwrap();
    let id = configuration.ike.connections["cloud"].local.id.to_string();
    assert_eq!(id, "O=Landbridge tests, CN=peer");
    // One that it does not hold is the operator's business, but worth a word.
    let configuration = load(&folder, &format!("{local}\nid = \"gw.example\""), REMOTE).unwrap();
    assert!(
        configuration.warnings[0].contains("does not hold gw.example"),
        "{:?}",
        configuration.warnings
    );
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_does_not_fit_is_said() {
    let folder = folder("certs-bad", FILES);
    let local = |from: &str, to: &str| load(&folder, &LOCAL.replace(from, to), REMOTE);
    let remote = |more: &str| load(&folder, LOCAL, &format!("{REMOTE}\n{more}"));
    let refused = |loaded: Result<Configuration, String>, told: &str| {
        let errors = loaded.expect_err(told);
        assert!(errors.contains(told), "{told}: {errors}");
    };
    refused(
        local("gw.key", "other.key"),
        "no private key here belongs to the certificate C=CH, O=Landbridge tests, CN=gw",
    );
    refused(local("gw.pem", "backwards.pem"), "does not allow it to sign");
    refused(local("gw.pem", "no-sign.pem"), "digitalSignature is missing");
    refused(local("gw.pem", "gw.key"), "holds no certificate");
    refused(local("gw.pem", "missing.pem"), "missing.pem: No such file");
    refused(local("private_key_file = \"gw.key\"", ""), "has no private_key_file");
    refused(local("cert_file = \"gw.pem\"", ""), "has no cert_file");
    refused(local("auth = \"cert\"", "auth = \"pubkey\""), "there is a certificate");
    refused(
        local("auth = \"cert\"", "rsa_padding = \"oaep\""),
        "write \"pss\" or \"pkcs1\"",
    );
    refused(
        load(&folder, LOCAL, "auth = \"cert\"\nid = \"peer.example\""),
        "has no cacert_files",
    );
    refused(
        load(&folder, LOCAL, &REMOTE.replace("ca.pem", "gw.pem")),
        "is not the certificate of a CA",
    );
    refused(load(&folder, LOCAL, &REMOTE.replace("ca.pem", "weak.pem")), "not safe");
    refused(remote("crl_files = [\"ca.pem\"]"), "holds no revocation list");
    refused(remote("revocation = \"lax\""), "write \"strict\" or \"relaxed\"");
    refused(
        local("private_key_file = \"gw.key\"", "private_key = \"pkcs11:object=a\""),
        "module-path",
    );
    let configuration =
        remote("crl_files = [\"lists.pem\", \"old.pem\"]\nrevocation = \"relaxed\"\nignore_eku = true").unwrap();
    assert!(
        configuration.warnings[0].contains("the revocation list of O=Landbridge tests, CN=inter (old.pem) has expired")
    );
    let anybody = load(&folder, LOCAL, "auth = \"cert\"\ncacert_files = [\"ca.pem\"]").unwrap();
    assert!(anybody.warnings[0].contains("has no id"), "{:?}", anybody.warnings);
    fs::set_permissions(folder.join("ca.pem"), fs::Permissions::from_mode(0o666)).unwrap();
    refused(load(&folder, LOCAL, REMOTE), "may be written by others");
    fs::remove_dir_all(folder).unwrap();
}
