//! `landbridge version`: which version this is, and which library does which algorithm.

use super::Exit;
use super::output::print;
use landbridge_proto::crypto::{
    CipherSuite, ESP_PROVIDER, Encryption, Group, IKE_PROVIDER, Integrity, PrfAlgorithm, Provider,
};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// List the algorithms and the library behind each
    #[arg(long)]
    crypto: bool,
}

pub(super) fn run(args: &Args) -> Exit {
    let mut text = format!("landbridge {}\n", env!("CARGO_PKG_VERSION"));
    if args.crypto {
        text.push_str(&table());
    }
    print(&text);
    Exit::Ok
}

fn table() -> String {
    let mut rows = vec![["ALGORITHM", "KIND", "IKE", "ESP"].map(str::to_owned)];
    for encryption in Encryption::ALL.iter().copied() {
        let integrity = (!encryption.is_aead()).then_some(Integrity::HmacSha256_128);
        row(
            &mut rows,
            encryption,
            "encryption",
            |p| (p.sizes)(CipherSuite { encryption, integrity }).is_some(),
            encryption.is_aead() && encryption != Encryption::AesGcm16_192,
        );
    }
    for integrity in Integrity::ALL.iter().copied() {
        let suite = CipherSuite {
            encryption: Encryption::AesCbc256,
            integrity: Some(integrity),
        };
        row(&mut rows, integrity, "integrity", |p| (p.sizes)(suite).is_some(), false);
    }
    for prf in PrfAlgorithm::ALL.iter().copied() {
        row(&mut rows, prf, "prf", |p| (p.prf)(prf).is_some(), false);
    }
    for group in Group::ALL.iter().copied() {
        row(
            &mut rows,
            group,
            "key exchange",
            |p| (p.key_exchange)(group).is_some(),
            false,
        );
    }
    rows.push(["ed25519", "signature", "ed25519-dalek", "-"].map(str::to_owned));
    rows.iter()
        .map(|[name, kind, ike, esp]| format!("{name:<18} {kind:<13} {ike:<14} {esp}\n"))
        .collect()
}

/// A line; ESP's own provider does the AEADs but AES-192, and leaves the rest to IKE's (see `ESP_PROVIDER`).
fn row(
    rows: &mut Vec<[String; 4]>,
    name: impl std::fmt::Display,
    kind: &str,
    has: impl Fn(&Provider) -> bool,
    aead: bool,
) {
    let esp_library = if aead { ESP_PROVIDER.name } else { IKE_PROVIDER.name };
    let cell = |provider: &Provider, library: &str| {
        if has(provider) {
            library.to_owned()
        } else {
            "-".to_owned()
        }
    };
    let (ike, esp) = (cell(&IKE_PROVIDER, IKE_PROVIDER.name), cell(&ESP_PROVIDER, esp_library));
    rows.push([name.to_string(), kind.to_owned(), ike, esp]);
}
