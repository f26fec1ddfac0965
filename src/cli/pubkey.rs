//! `landbridge pubkey`: the public half of a key, for the peer's `public_key_files`.

use super::Exit;
use super::output::{complain, print};
use crate::config;
use crate::signer::{TokenSigner, TokenUri};
use landbridge_proto::crypto::VerifyingKey;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Larger files are no keys.
const LARGEST: u64 = 64 * 1024;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// File with the private key or a certificate, or the URI of a key in a token (pkcs11:...); stdin if it is left out or
    /// "-"
    file: Option<PathBuf>,
    /// File with the token's PIN
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Exit {
    let file = args.file.as_deref().filter(|file| *file != Path::new("-"));
    let name = file.map_or("stdin".to_owned(), |file| file.display().to_string());
    let public = match file.and_then(Path::to_str).filter(|file| file.starts_with("pkcs11:")) {
        Some(uri) => token(uri, args.pin_file.as_deref()),
        None => read(file).and_then(|text| config::public_key(&text, &name).map_err(io::Error::other)),
    };
    match public.and_then(|key| key.to_pem().map_err(io::Error::other)) {
        Ok(public) => {
            print(&public);
            Exit::Ok
        }
        Err(error) => {
            complain(format!("{name}: {error}"));
            if error.kind() == io::ErrorKind::PermissionDenied {
                Exit::NotPermitted
            } else {
                Exit::Failed
            }
        }
    }
}

/// The public half of a key in a token.
fn token(uri: &str, pin_file: Option<&Path>) -> io::Result<VerifyingKey> {
    let pin = match pin_file {
        Some(file) => Some(Zeroizing::new(
            read(Some(file))?.trim_end_matches(['\r', '\n']).to_owned(),
        )),
        None => None,
    };
    let opened = TokenUri::parse(uri).and_then(|uri| TokenSigner::open(uri, pin));
    opened.map(|(public, _)| public).map_err(io::Error::other)
}

fn read(file: Option<&Path>) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(4096));
    match file {
        Some(file) => std::fs::File::open(file)?.take(LARGEST).read_to_string(&mut text)?,
        None => io::stdin().take(LARGEST).read_to_string(&mut text)?,
    };
    Ok(text)
}
