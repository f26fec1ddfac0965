//! `--insecure-export-keys FILE`: the keys of every SA, for decrypting captures (docs/guide/decrypting.md).
//!
//! FILE has a JSON object a line; beside it stand the two tables that Wireshark reads, in its words.

use landbridge_proto::crypto::{CipherSuite, Encryption, Integrity, Secret};
use landbridge_proto::ike::export::{ChildSaKeys, ExportedKeys, IkeSaKeys};
use landbridge_proto::policy::sad::SaParameters;
use serde::Serialize;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The three files.
pub struct KeyExport {
    path: PathBuf,
    json: File,
    ike: File,
    esp: File,
}

impl KeyExport {
    /// Creates FILE, FILE.ikev2_decryption_table and FILE.esp_sa, for the owner only. None may exist.
    ///
    /// # Errors
    /// What the system says, with the file's name.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            json: create(path)?,
            ike: create(&beside(path, ".ikev2_decryption_table"))?,
            esp: create(&beside(path, ".esp_sa"))?,
        })
    }

    /// Where they go.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the keys of an SA; says whose, for the log.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&mut self, unix: u64, keys: &ExportedKeys) -> io::Result<String> {
        match keys {
            ExportedKeys::Ike(keys) => {
                line(&mut self.json, &json(&IkeLine::new(unix, keys))?)?;
                if let Some(text) = ikev2_decryption_table(keys) {
                    line(&mut self.ike, &text)?;
                }
                Ok(format!("IKE SA {}-{}", keys.spi_i, keys.spi_r))
            }
            ExportedKeys::Child(keys) => {
                line(&mut self.json, &json(&ChildLine::new(unix, keys))?)?;
                let entry = &keys.entry;
                for (parameters, key) in [(&entry.inbound, &keys.inbound), (&entry.outbound, &keys.outbound)] {
                    if let Some(text) = esp_sa(entry.path.is_ipv6(), parameters, key) {
                        line(&mut self.esp, &text)?;
                    }
                }
                let (inbound, outbound) = (entry.inbound.spi, entry.outbound.spi);
                Ok(format!(
                    "Child SA {} (SPIs in {inbound:#010x} out {outbound:#010x})",
                    entry.child
                ))
            }
        }
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    PathBuf::from(name)
}

fn create(path: &Path) -> io::Result<File> {
    // create_new: neither an existing file with other permissions nor a link is written to.
    let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path);
    file.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn line(file: &mut File, text: &Zeroizing<String>) -> io::Result<()> {
    let mut whole = Zeroizing::new(String::with_capacity(text.len() + 1));
    whole.push_str(text);
    whole.push('\n');
    file.write_all(whole.as_bytes())
}

fn json<T: Serialize>(value: &T) -> io::Result<Zeroizing<String>> {
    Ok(Zeroizing::new(serde_json::to_string(value)?))
}

fn hex(octets: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(2 * octets.len()));
    for octet in octets {
        // Writing to a String does not fail.
        let _ = write!(text, "{octet:02x}");
    }
    text
}

/// Octets as hexadecimal digits.
struct Hex<'a>(&'a [u8]);

impl Serialize for Hex<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(self.0))
    }
}

fn further(secrets: &[Secret]) -> Vec<Hex<'_>> {
    secrets.iter().map(|secret| Hex(secret.expose())).collect()
}

#[derive(Serialize)]
struct IkeLine<'a> {
    kind: &'static str,
    time: u64,
    connection: Option<&'a str>,
    local: String,
    remote: String,
    initiator: bool,
    spi_i: Hex<'a>,
    spi_r: Hex<'a>,
    suite: String,
    ni: Hex<'a>,
    nr: Hex<'a>,
    g_ir: Hex<'a>,
    sk_n: Vec<Hex<'a>>,
    sk_d: Hex<'a>,
    sk_ai: Hex<'a>,
    sk_ar: Hex<'a>,
    sk_ei: Hex<'a>,
    sk_er: Hex<'a>,
    sk_pi: Hex<'a>,
    sk_pr: Hex<'a>,
}

impl<'a> IkeLine<'a> {
    fn new(time: u64, keys: &'a IkeSaKeys) -> Self {
        Self {
            kind: "ike",
            time,
            connection: keys.connection.as_deref(),
            local: keys.path.local.to_string(),
            remote: keys.path.remote.to_string(),
            initiator: keys.initiator,
            spi_i: Hex(&keys.spi_i.0),
            spi_r: Hex(&keys.spi_r.0),
            suite: keys.suite.to_string(),
            ni: Hex(&keys.ni),
            nr: Hex(&keys.nr),
            g_ir: Hex(keys.shared.expose()),
            sk_n: further(&keys.further),
            sk_d: Hex(keys.d.expose()),
            sk_ai: Hex(keys.cipher_i.1.expose()),
            sk_ar: Hex(keys.cipher_r.1.expose()),
            sk_ei: Hex(keys.cipher_i.0.expose()),
            sk_er: Hex(keys.cipher_r.0.expose()),
            sk_pi: Hex(keys.pi.expose()),
            sk_pr: Hex(keys.pr.expose()),
        }
    }
}

#[derive(Serialize)]
struct ChildLine<'a> {
    kind: &'static str,
    time: u64,
    connection: &'a str,
    child: &'a str,
    local: String,
    remote: String,
    suite: String,
    mode: String,
    local_ts: Vec<String>,
    remote_ts: Vec<String>,
    ni: Hex<'a>,
    nr: Hex<'a>,
    g_ir: Option<Hex<'a>>,
    sk_n: Vec<Hex<'a>>,
    inbound: Direction<'a>,
    outbound: Direction<'a>,
}

#[derive(Serialize)]
struct Direction<'a> {
    spi: String,
    encryption_key: Hex<'a>,
    integrity_key: Hex<'a>,
}

impl<'a> ChildLine<'a> {
    fn new(time: u64, keys: &'a ChildSaKeys) -> Self {
        let entry = &keys.entry;
        let direction = |parameters: &SaParameters, key: &'a (Secret, Secret)| Direction {
            spi: format!("{:08x}", parameters.spi),
            encryption_key: Hex(key.0.expose()),
            integrity_key: Hex(key.1.expose()),
        };
        Self {
            kind: "child",
            time,
            connection: &entry.connection,
            child: &entry.child,
            local: entry.path.local.to_string(),
            remote: entry.path.remote.to_string(),
            suite: keys.suite.to_string(),
            mode: entry.mode.to_string(),
            local_ts: entry.local_ts.iter().map(ToString::to_string).collect(),
            remote_ts: entry.remote_ts.iter().map(ToString::to_string).collect(),
            ni: Hex(&keys.ni),
            nr: Hex(&keys.nr),
            g_ir: keys.shared.as_ref().map(|secret| Hex(secret.expose())),
            sk_n: further(&keys.further),
            inbound: direction(&entry.inbound, &keys.inbound),
            outbound: direction(&entry.outbound, &keys.outbound),
        }
    }
}

/// A line of Wireshark's `ikev2_decryption_table`; `None` for what it has no name for.
fn ikev2_decryption_table(keys: &IkeSaKeys) -> Option<Zeroizing<String>> {
    let CipherSuite { encryption, integrity } = keys.suite.cipher;
    let encryption = match encryption {
        Encryption::AesGcm16_128 => "AES-GCM-128 with 16 octet ICV [RFC5282]",
        Encryption::AesGcm16_192 => "AES-GCM-192 with 16 octet ICV [RFC5282]",
        Encryption::AesGcm16_256 => "AES-GCM-256 with 16 octet ICV [RFC5282]",
        Encryption::AesCbc128 => "AES-CBC-128 [RFC3602]",
        Encryption::AesCbc192 => "AES-CBC-192 [RFC3602]",
        Encryption::AesCbc256 => "AES-CBC-256 [RFC3602]",
        Encryption::ChaCha20Poly1305 | Encryption::Null => return None,
    };
    let integrity = match integrity {
        None => "NONE [RFC4306]",
        Some(Integrity::HmacSha1_96) => "HMAC_SHA1_96 [RFC2404]",
        Some(Integrity::HmacSha256_128) => "HMAC_SHA2_256_128 [RFC4868]",
        Some(Integrity::HmacSha384_192) => "HMAC_SHA2_384_192 [RFC4868]",
        Some(Integrity::HmacSha512_256) => "HMAC_SHA2_512_256 [RFC4868]",
    };
    let secrets = [&keys.cipher_i.0, &keys.cipher_r.0, &keys.cipher_i.1, &keys.cipher_r.1];
    let [ei, er, ai, ar] = secrets.map(|secret| hex(secret.expose()));
    let (spi_i, spi_r) = (hex(&keys.spi_i.0), hex(&keys.spi_r.0));
    let (spi_i, spi_r, ei, er, ai, ar) = (&*spi_i, &*spi_r, &*ei, &*er, &*ai, &*ar);
    Some(Zeroizing::new(format!(
        "{spi_i},{spi_r},{ei},{er},\"{encryption}\",{ai},{ar},\"{integrity}\""
    )))
}

/// A line of Wireshark's `esp_sa`. Addresses are left open: a NAT changes them, and the SPI is enough.
fn esp_sa(ipv6: bool, parameters: &SaParameters, (key, integrity_key): &(Secret, Secret)) -> Option<Zeroizing<String>> {
    let CipherSuite { encryption, integrity } = parameters.suite;
    let encryption = match encryption {
        Encryption::AesGcm16_128 | Encryption::AesGcm16_192 | Encryption::AesGcm16_256 => {
            "AES-GCM with 16 octet ICV [RFC4106]"
        }
        Encryption::AesCbc128 | Encryption::AesCbc192 | Encryption::AesCbc256 => "AES-CBC [RFC3602]",
        Encryption::Null => "NULL",
        Encryption::ChaCha20Poly1305 => return None,
    };
    let integrity = match integrity {
        None => "NULL",
        Some(Integrity::HmacSha1_96) => "HMAC-SHA-1-96 [RFC2404]",
        Some(Integrity::HmacSha256_128) => "HMAC-SHA-256-128 [RFC4868]",
        Some(Integrity::HmacSha384_192) => "HMAC-SHA-384-192 [RFC4868]",
        Some(Integrity::HmacSha512_256) => "HMAC-SHA-512-256 [RFC4868]",
    };
    let protocol = if ipv6 { "IPv6" } else { "IPv4" };
    let (key, integrity_key) = (hex(key.expose()), hex(integrity_key.expose()));
    let (spi, key, integrity_key) = (parameters.spi, &*key, &*integrity_key);
    let prefixed = |key: &str| {
        if key.is_empty() {
            String::new()
        } else {
            format!("0x{key}")
        }
    };
    let (key, integrity_key) = (Zeroizing::new(prefixed(key)), Zeroizing::new(prefixed(integrity_key)));
    Some(Zeroizing::new(format!(
        "\"{protocol}\",\"*\",\"*\",\"{spi:#010x}\",\"{encryption}\",\"{}\",\"{integrity}\",\"{}\"",
        &*key, &*integrity_key
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_files_are_new_and_the_owners() {
        let directory = std::env::temp_dir().join(format!("lb-keys-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("keys");
        let export = KeyExport::create(&path).unwrap();
        for ending in ["", ".ikev2_decryption_table", ".esp_sa"] {
            let mode = std::fs::metadata(beside(&path, ending)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        drop(export);
        let again = KeyExport::create(&path).err().unwrap();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert!(again.to_string().contains("keys"));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
