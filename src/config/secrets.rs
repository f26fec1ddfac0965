//! Secrets come from files only: `psk_file`, `private_key_file`. Nothing of their contents is ever repeated in a message.
//!
//! A path is relative to the configuration file; `credential:NAME` is a file that systemd hands over (`LoadCredential=`).

use super::document::Value;
use super::pem;
use crate::signer::{self, Signer, TokenSigner, TokenUri};
use crate::tls::PrivateKeyDer;
use base64::Engine;
use landbridge_proto::crypto::{Secret, SigningKey, VerifyingKey};
use landbridge_proto::pki::Certificate;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Largest file taken for a key.
const LARGEST: u64 = 64 * 1024;
/// Largest file taken for certificates or revocation lists.
const LARGEST_PUBLIC: u64 = 16 << 20;
/// Shorter pre-shared keys can be guessed by whoever plays the responder (RFC 7296 §2.15: "deriving the shared secret
/// from a password is not secure").
const SHORT_PSK: usize = 16;

/// The pre-shared key in a file: text without its line end, `0x` and hex, or `0s` and base64.
pub(super) fn psk(value: &Value<'_, '_>, directory: &Path) -> Option<Secret> {
    let (path, octets) = private(value, directory)?;
    match decode_psk(&octets) {
        Ok(secret) => {
            if secret.expose().len() < SHORT_PSK {
                value.warn(format!(
                    "the pre-shared key in {} is short; make a strong one with: landbridge keygen --psk FILE",
                    path.display()
                ));
            }
            Some(secret)
        }
        Err(problem) => {
            let remedy = "make one with: landbridge keygen --psk FILE".to_owned();
            value.error(format!("{}: {problem}", path.display()), Some(remedy));
            None
        }
    }
}

/// A post-quantum preshared key, written like a pre-shared key.
pub(super) fn ppk(value: &Value<'_, '_>, directory: &Path) -> Option<Secret> {
    let (path, octets) = private(value, directory)?;
    match decode_psk(&octets) {
        Ok(secret) => Some(secret),
        Err(problem) => {
            value.error(format!("{}: {problem}", path.display()), None);
            None
        }
    }
}

/// A private key, and what signs with it if that is not the protocol itself.
pub(super) struct PrivateKey {
    pub key: SigningKey,
    pub signer: Option<Arc<dyn Signer>>,
}

/// The private key in a PEM file: PKCS#8, or as older tools write it, SEC 1 or PKCS#1.
pub(super) fn private_key(value: &Value<'_, '_>, directory: &Path) -> Option<PrivateKey> {
    let (path, octets) = private(value, directory)?;
    match std::str::from_utf8(&octets)
        .map_err(|_| NO_KEY)
        .and_then(|text| decode_private_key(text, &path))
    {
        Ok(key) => Some(key),
        Err(problem) => {
            let remedy = "make one with: landbridge keygen FILE (or: openssl genpkey -algorithm ed25519)".to_owned();
            value.error(format!("{} {problem}", path.display()), Some(remedy));
            None
        }
    }
}

/// The public key of what a PEM text holds first: a private key, a public key or a certificate. `name` is what it is called.
///
/// # Errors
/// What is wrong, in words.
pub fn public_key_of(text: &str, name: &str) -> Result<VerifyingKey, String> {
    let blocks = pem::read(text);
    match blocks.first().map(|block| (block.label.as_str(), &block.der)) {
        Some(("PUBLIC KEY", der)) => VerifyingKey::from_spki_der(der).map_err(|error| error.to_string()),
        Some(("CERTIFICATE", der)) => Certificate::from_der(der)
            .map(|certificate| certificate.key().clone())
            .map_err(|error| error.to_string()),
        _ => decode_private_key(text, Path::new(name))
            .map(|private| private.key.verifying_key())
            .map_err(|problem| format!("it {problem}")),
    }
}

const NO_KEY: &str = "is no Ed25519, ECDSA (P-256, P-384, P-521) or RSA private key in PEM";

/// Reads a private key in PEM; `path` names one that signs outside the protocol.
fn decode_private_key(text: &str, path: &Path) -> Result<PrivateKey, &'static str> {
    if text.contains("ENCRYPTED") {
        return Err(
            "is encrypted: nobody is there to type its passphrase; keep it unencrypted with mode 600, as a \
                    systemd credential, or in a PKCS#11 token",
        );
    }
    if let Ok(key) = SigningKey::from_pem(text) {
        return Ok(PrivateKey { key, signer: None });
    }
    let block = pem::read(text)
        .into_iter()
        .find(|block| block.label.ends_with("PRIVATE KEY"))
        .ok_or(NO_KEY)?;
    let (public, rsa) = match block.label.as_str() {
        "RSA PRIVATE KEY" => signer::read_rsa(&block.der, true),
        _ => signer::read_rsa(&block.der, false),
    }
    .ok_or("is no key that is taken: Ed25519, ECDSA on P-256, P-384 or P-521, or RSA with 2048 to 4096 bits and an exponent of at least 65537")?;
    Ok(PrivateKey {
        key: SigningKey::kept_elsewhere(public, Arc::from(path.display().to_string())),
        signer: Some(Arc::new(rsa)),
    })
}

/// The private key of TLS in a PEM file, as it is: TLS says whether it can be used.
pub(super) fn tls_key(value: &Value<'_, '_>, directory: &Path) -> Option<PrivateKeyDer<'static>> {
    let (path, octets) = private(value, directory)?;
    let text = std::str::from_utf8(&octets).unwrap_or_default();
    let found = pem::read(text).into_iter().find_map(|block| {
        let der = block.der.to_vec();
        match block.label.as_str() {
            "PRIVATE KEY" => Some(PrivateKeyDer::Pkcs8(der.into())),
            "RSA PRIVATE KEY" => Some(PrivateKeyDer::Pkcs1(der.into())),
            "EC PRIVATE KEY" => Some(PrivateKeyDer::Sec1(der.into())),
            _ => None,
        }
    });
    if found.is_none() {
        let remedy = "keep it unencrypted with mode 600, or as a systemd credential".to_owned();
        value.error(
            format!("{} holds no private key in PEM that is not encrypted", path.display()),
            Some(remedy),
        );
    }
    found
}

/// The public key in a PEM file. Anybody may read it, but only we may write it.
pub(super) fn public_key(value: &Value<'_, '_>, text: &str, directory: &Path) -> Option<VerifyingKey> {
    let (path, octets) = public(value, text, directory)?;
    let key = std::str::from_utf8(&octets)
        .ok()
        .and_then(|text| VerifyingKey::from_pem(text).ok());
    if key.is_none() {
        value.error(
            format!("{} is no Ed25519, ECDSA or RSA public key in PEM", path.display()),
            Some("the peer gets it with: landbridge pubkey KEYFILE (or: openssl pkey -pubout)".to_owned()),
        );
    }
    key
}

/// A public key in the configuration itself: PEM, or the base64 of its SubjectPublicKeyInfo with or without `0s`.
pub(super) fn inline_public_key(value: &Value<'_, '_>, text: &str) -> Option<VerifyingKey> {
    let text = text.trim();
    let body = text.strip_prefix("0s").unwrap_or(text);
    let pem = if body.starts_with("-----BEGIN") {
        body.to_owned()
    } else {
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    };
    let key = VerifyingKey::from_pem(&pem).ok();
    if key.is_none() {
        value.error(
            "no Ed25519, ECDSA or RSA public key",
            Some("write what stands between BEGIN and END in the output of: landbridge pubkey KEYFILE".to_owned()),
        );
    }
    key
}

/// The PIN of a token: the text in a file, without its line end.
pub(super) fn pin(value: &Value<'_, '_>, directory: &Path) -> Option<Zeroizing<String>> {
    let (path, octets) = private(value, directory)?;
    let text = std::str::from_utf8(&octets)
        .ok()
        .map(|text| text.trim_end_matches(['\n', '\r']));
    match text.filter(|text| !text.is_empty()) {
        Some(text) => Some(Zeroizing::new(text.to_owned())),
        None => {
            value.error(format!("{} holds no PIN", path.display()), None);
            None
        }
    }
}

/// A private key in a token, named by its URI.
pub(super) fn token_key(value: &Value<'_, '_>, pin: Option<&Zeroizing<String>>) -> Option<PrivateKey> {
    let opened = TokenUri::parse(value.string()?).and_then(|uri| {
        let name = Arc::from(uri.text());
        let (public, signer) = TokenSigner::open(uri, pin.cloned())?;
        Ok(PrivateKey {
            key: SigningKey::kept_elsewhere(public, name),
            signer: Some(Arc::new(signer)),
        })
    });
    match opened {
        Ok(key) => Some(key),
        Err(problem) => {
            value.error(problem, None);
            None
        }
    }
}

/// Reads a file that anybody may read, but only we may write.
pub(super) fn public(value: &Value<'_, '_>, text: &str, directory: &Path) -> Option<(PathBuf, Zeroizing<Vec<u8>>)> {
    let (path, octets, metadata) = read(value, text, directory, LARGEST_PUBLIC)?;
    if metadata.mode() & 0o022 != 0 && !is_credential(text) {
        value.error(
            format!(
                "{} may be written by others: they could put their own key in",
                path.display()
            ),
            Some(format!("chmod go-w {}", path.display())),
        );
        return None;
    }
    Some((path, octets))
}

/// Reads a file that only we may read.
fn private(value: &Value<'_, '_>, directory: &Path) -> Option<(PathBuf, Zeroizing<Vec<u8>>)> {
    let text = value.string()?;
    let (path, octets, metadata) = read(value, text, directory, LARGEST)?;
    // systemd guards its credentials by the directory, and shows an ACL for the service's user as group bits.
    if is_credential(text) {
        return Some((path, octets));
    }
    let shown = path.display();
    if metadata.mode() & 0o077 != 0 {
        value.error(
            format!("{shown} may be read by others (mode {:03o})", metadata.mode() & 0o777),
            Some(format!("chmod 600 {shown}")),
        );
        return None;
    }
    if metadata.uid() != 0 && Some(metadata.uid()) != own_uid() {
        value.error(
            format!("{shown} belongs to another user ({})", metadata.uid()),
            Some(format!("chown root {shown} && chmod 600 {shown}")),
        );
        return None;
    }
    Some((path, octets))
}

fn read(
    value: &Value<'_, '_>,
    text: &str,
    directory: &Path,
    largest: u64,
) -> Option<(PathBuf, Zeroizing<Vec<u8>>, std::fs::Metadata)> {
    let path = match locate(
        text,
        directory,
        std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
    ) {
        Ok(path) => path,
        Err(problem) => {
            value.error(problem, None);
            return None;
        }
    };
    match read_capped(&path, largest) {
        Ok((octets, metadata)) => Some((path, octets, metadata)),
        Err(error) => {
            value.error(format!("can't read {}: {error}", path.display()), None);
            None
        }
    }
}

fn locate(text: &str, directory: &Path, credentials: Option<PathBuf>) -> Result<PathBuf, String> {
    let Some(name) = text.strip_prefix("credential:") else {
        return if text.is_empty() {
            Err("the file name is empty".to_owned())
        } else {
            Ok(directory.join(text))
        };
    };
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(format!("{name:?} is not the name of a credential"));
    }
    credentials.map(|folder| folder.join(name)).ok_or_else(|| {
        format!(
            "{text:?} needs $CREDENTIALS_DIRECTORY, which systemd sets for a service with LoadCredential={name}:FILE"
        )
    })
}

fn is_credential(text: &str) -> bool {
    text.starts_with("credential:")
}

fn read_capped(path: &Path, largest: u64) -> std::io::Result<(Zeroizing<Vec<u8>>, std::fs::Metadata)> {
    // Asked before opening: opening a FIFO would wait for its other end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.len() > largest {
        return Err(std::io::Error::other("it is larger than any key"));
    }
    // One allocation of the right size, so that no copy is left behind by growing.
    let length = metadata.len().saturating_add(1).min(largest);
    let mut octets = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(usize::MAX)));
    file.take(largest).read_to_end(&mut octets)?;
    Ok((octets, metadata))
}

// RFC 7296 §2.15: "MUST accept ASCII strings of at least 64 octets and MUST NOT add a null terminator before using them
// as shared secrets. It MUST also accept a hex encoding of the shared secret."
fn decode_psk(octets: &[u8]) -> Result<Secret, &'static str> {
    let text = octets.strip_suffix(b"\n").unwrap_or(octets);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let secret = if let Some(hex) = text.strip_prefix(b"0x") {
        Secret::new(decode_hex(hex).ok_or("what follows 0x is not hexadecimal")?)
    } else if let Some(base64) = text.strip_prefix(b"0s") {
        let decoded = base64::engine::general_purpose::STANDARD.decode(base64);
        Secret::new(decoded.map_err(|_| "what follows 0s is not base64")?)
    } else if text.contains(&0) {
        return Err("there is a NUL octet in the key");
    } else if text.contains(&b'\n') {
        return Err("there is more than one line; a key is one line");
    } else {
        Secret::new(text.to_vec())
    };
    if secret.expose().is_empty() {
        Err("the key is empty")
    } else {
        Ok(secret)
    }
}

fn decode_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |octet: &u8| char::from(*octet).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, []) = text.as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect()
}

/// Our effective user, as the kernel tells it.
fn own_uid() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn psk(text: &[u8]) -> Result<Vec<u8>, &'static str> {
        decode_psk(text).map(|s| s.expose().to_vec())
    }

    #[test]
    fn a_psk_is_text_hex_or_base64() {
        // RFC 7296 §2.15: "MUST accept ASCII strings of at least 64 octets and MUST NOT add a null terminator"
        let long = [b'k'; 200];
        assert_eq!(psk(&long).unwrap(), long);
        assert_eq!(psk(b"secret\n").unwrap(), b"secret");
        assert_eq!(psk(b"secret\r\n").unwrap(), b"secret");
        assert_eq!(psk(b" spaces belong to it \n").unwrap(), b" spaces belong to it ");
        assert_eq!(
            psk(b"trailing newline only once\n\n").unwrap_err(),
            "there is more than one line; a key is one line"
        );
        // "It MUST also accept a hex encoding of the shared secret."
        assert_eq!(psk(b"0x00fFa0\n").unwrap(), [0, 0xff, 0xa0]);
        assert_eq!(psk(b"0sAP+g").unwrap(), [0, 0xff, 0xa0]);
        for bad in [&b""[..], b"\n", b"0x", b"0x0", b"0xzz", b"0s?", b"nul\0inside"] {
            assert!(psk(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn credentials_stay_in_their_directory() {
        let at = |text: &str| {
            locate(
                text,
                Path::new("/etc/landbridge"),
                Some("/run/credentials/landbridge".into()),
            )
        };
        assert_eq!(at("cloud.psk").unwrap(), Path::new("/etc/landbridge/cloud.psk"));
        assert_eq!(at("/srv/cloud.psk").unwrap(), Path::new("/srv/cloud.psk"));
        assert_eq!(
            at("credential:cloud.psk").unwrap(),
            Path::new("/run/credentials/landbridge/cloud.psk")
        );
        assert!(at("credential:../shadow").is_err() && at("credential:..").is_err() && at("credential:").is_err());
        assert!(
            locate("credential:x", Path::new("/"), None)
                .unwrap_err()
                .contains("LoadCredential=x:FILE")
        );
    }

    #[test]
    fn our_user_is_known() {
        assert_eq!(own_uid(), Some(std::fs::metadata("/proc/self").unwrap().uid()));
    }
}
