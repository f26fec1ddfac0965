//! `landbridge keygen`: a key pair for `auth = "pubkey"`, or with `--psk` a pre-shared key.

use super::Exit;
use super::output::{complain, print};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use landbridge_proto::crypto::SigningKey;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Make a pre-shared key in place of a key pair
    #[arg(long)]
    psk: bool,
    /// File for the private or pre-shared key: made with mode 600, never overwritten
    #[arg(required_unless_present = "psk")]
    file: Option<PathBuf>,
}

/// Before the 32 octets of an Ed25519 private key in PKCS#8 (RFC 8410 §7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

pub(super) fn run(args: &Args) -> Exit {
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
    let pem = private_key()?;
    let public = SigningKey::from_pem(&pem)
        .and_then(|key| key.verifying_key().to_pem())
        .map_err(io::Error::other)?;
    if let Some(file) = &args.file {
        write_new(file, &pem)?;
    }
    Ok(Zeroizing::new(public))
}

/// An Ed25519 private key in PKCS#8 PEM.
fn private_key() -> io::Result<Zeroizing<String>> {
    let mut der = Zeroizing::new([0; 48]);
    der[..16].copy_from_slice(&PKCS8_PREFIX);
    getrandom::fill(&mut der[16..]).map_err(io::Error::other)?;
    let body = Zeroizing::new(STANDARD.encode(der.as_ref()));
    Ok(Zeroizing::new(format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        body.as_str()
    )))
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
        let (a, b) = (private_key().unwrap(), private_key().unwrap());
        assert_ne!(a, b);
        assert!(SigningKey::from_pem(&a).is_ok());
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
