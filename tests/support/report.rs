//! What the interop tests did, a JSON object a line; `netns-scripts/interop-table` makes `docs/interop.md` of it.

use serde_json::json;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A line of the table.
#[derive(Clone, Default, Debug)]
pub struct Row {
    /// What was tried.
    pub what: String,
    /// Whose gateway, and its version.
    pub peer: String,
    /// Landbridge's role at first: `initiator` or `responder`.
    pub role: &'static str,
    /// How the ends prove who they are.
    pub auth: String,
    /// The IKE SA's suite.
    pub ike: String,
    /// The Child SA's suite.
    pub esp: String,
    /// `UDP` or `raw`.
    pub encapsulation: String,
    /// Where a NAT stood.
    pub nat: &'static str,
    /// What was rekeyed, by whom.
    pub rekeys: String,
    /// What data moved.
    pub data: String,
}

/// Where the lines go: `LANDBRIDGE_INTEROP_RESULTS`, or a file under `target`.
fn file() -> PathBuf {
    std::env::var_os("LANDBRIDGE_INTEROP_RESULTS").map_or_else(
        || Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop.jsonl"),
        PathBuf::from,
    )
}

/// Adds a line.
pub fn record(row: &Row, passed: bool) {
    let line = json!({
        "what": row.what,
        "peer": row.peer,
        "role": row.role,
        "auth": row.auth,
        "ike": row.ike,
        "esp": row.esp,
        "encapsulation": row.encapsulation,
        "nat": row.nat,
        "rekeys": row.rekeys,
        "data": row.data,
        "result": if passed { "ok" } else { "FAILED" },
    });
    let path = file();
    let _ = fs::create_dir_all(path.parent().unwrap());
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}
