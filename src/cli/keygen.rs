//! `landbridge keygen`: a key pair for `auth = "pubkey"`, or with `--psk` a pre-shared key.

use super::Exit;
use super::output::{complain, print};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use landbridge_proto::crypto::{KeyKind, SigningKey};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Make a pre-shared key in place of a key pair
    #[arg(long, conflicts_with = "kind")]
    psk: bool,
    /// Kind of key pair
    #[arg(long = "type", value_name = "TYPE", value_enum, default_value_t = Kind::Ed25519)]
    kind: Kind,
    /// File for the private or pre-shared key: made with mode 600, never overwritten
    #[arg(required_unless_present = "psk")]
    file: Option<PathBuf>,
}

/// What can be asked for.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Ed25519,
    P256,
    P384,
    P521,
    /// Is refused, with what makes one: nothing in the tree finds primes (docs/decisions/0009-authentication.md).
    #[value(hide = true)]
    Rsa,
}

/// What makes the key that is not made here.
const RSA: &str = "no RSA keys are made here; this makes one that the gateway reads: (umask 077; openssl genpkey -algorithm rsa \
                   -pkeyopt rsa_keygen_bits:3072 -out FILE); or take an Ed25519 or ECDSA key, which is faster";

pub(super) fn run(args: &Args) -> Exit {
    if args.kind == Kind::Rsa && !args.psk {
        complain(RSA);
        return Exit::Usage;
    }
    match make(args) {
        Ok(text) => {
            print(&text);
            Exit::Ok
        }
        Err(error) => {
            complain(&error);
            if error.kind() == io::ErrorKind::PermissionDenied {
                Exit::NotPermitted
            } else {
                Exit::Failed
            }
        }
    }
}

/// Makes the key; returns what to print.
fn make(args: &Args) -> io::Result<Zeroizing<String>> {
    if args.psk {
        let psk = psk()?;
        return match &args.file {
            None => Ok(psk),
            Some(file) => {
                write_new(file, &psk)?;
                Ok(Zeroizing::new(format!(
                    "wrote {}; the peer needs the same key\n",
                    file.display()
                )))
            }
        };
    }
    let pem = private_key(args.kind)?;
    let public = SigningKey::from_pem(&pem)
        .and_then(|key| key.verifying_key().to_pem())
        .map_err(io::Error::other)?;
    if let Some(file) = &args.file {
        write_new(file, &pem)?;
    }
    Ok(Zeroizing::new(public))
}

/// A private key in PKCS#8 PEM.
fn private_key(kind: Kind) -> io::Result<Zeroizing<String>> {
    let (kind, octets) = match kind {
        Kind::Ed25519 => (KeyKind::Ed25519, 32),
        Kind::P256 => (KeyKind::P256, 32),
        Kind::P384 => (KeyKind::P384, 48),
        Kind::P521 => (KeyKind::P521, 66),
        Kind::Rsa => return Err(io::Error::other(RSA)),
    };
    let mut secret = Zeroizing::new(vec![0; octets]);
    loop {
        getrandom::fill(&mut secret).map_err(io::Error::other)?;
        if kind == KeyKind::P521 {
            // 521 bits in 66 octets.
            secret[0] &= 1;
        }
        // A number beyond the curve's order is thrown away: all keys stay equally likely.
        if let Some(key) = SigningKey::from_secret(kind, &secret) {
            return key.to_pem().map_err(io::Error::other);
        }
    }
}

/// 44 characters of base64, some 260 bits. Those with `+` or `/`, or that begin with `0`, are thrown away: AWS takes
/// neither, and a leading `0x` or `0s` would mean another key here.
fn psk() -> io::Result<Zeroizing<String>> {
    let mut octets = Zeroizing::new([0; 33]);
    loop {
        getrandom::fill(octets.as_mut()).map_err(io::Error::other)?;
        let mut text = Zeroizing::new(STANDARD_NO_PAD.encode(octets.as_ref()));
        if !text.starts_with('0') && !text.contains(['+', '/']) {
            text.push('\n');
            return Ok(text);
        }
    }
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let named = |error: io::Error| {
        let problem = match error.kind() {
            io::ErrorKind::AlreadyExists => "it is there already, and keys are never overwritten".to_owned(),
            _ => error.to_string(),
        };
        io::Error::new(error.kind(), format!("{}: {problem}", path.display()))
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(named)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_fresh_and_well_formed() {
        for kind in [Kind::Ed25519, Kind::P256, Kind::P384, Kind::P521] {
            let (a, b) = (private_key(kind).unwrap(), private_key(kind).unwrap());
            assert_ne!(a, b);
            assert!(SigningKey::from_pem(&a).is_ok(), "{kind:?}");
        }
        for _ in 0..200 {
            let psk = psk().unwrap();
            assert_eq!(psk.len(), 45);
            assert!(
                psk.trim_end().bytes().all(|b| b.is_ascii_alphanumeric()) && !psk.starts_with('0'),
                "{}",
                psk.as_str()
            );
        }
    }
}
