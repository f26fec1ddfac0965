//! `landbridge pubkey`: the public half of a key, for the peer's `public_key_files`.

use super::Exit;
use super::output::{complain, print};
use landbridge_proto::crypto::SigningKey;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Larger files are no keys.
const LARGEST: u64 = 64 * 1024;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// File with the private key; stdin if it is left out or "-"
    file: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Exit {
    let file = args.file.as_deref().filter(|file| *file != Path::new("-"));
    let name = file.map_or("stdin".to_owned(), |file| file.display().to_string());
    let pem = match read(file) {
        Ok(pem) => pem,
        Err(error) => {
            complain(format!("{name}: {error}"));
            return if error.kind() == io::ErrorKind::PermissionDenied {
                Exit::NotPermitted
            } else {
                Exit::Failed
            };
        }
    };
    match SigningKey::from_pem(&pem).and_then(|key| key.verifying_key().to_pem()) {
        Ok(public) => {
            print(&public);
            Exit::Ok
        }
        Err(error) => {
            complain(format!("{name}: {error}"));
            Exit::Failed
        }
    }
}

fn read(file: Option<&Path>) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(4096));
    match file {
        Some(file) => std::fs::File::open(file)?.take(LARGEST).read_to_string(&mut text)?,
        None => io::stdin().take(LARGEST).read_to_string(&mut text)?,
    };
    Ok(text)
}
