//! Holds the import rules of CONTRIBUTING.md: imports run one way.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    let mut todo = vec![top];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push((path.clone(), fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(!found.is_empty(), "no sources under {folder}");
    found.sort();
    found
}

/// Code lines, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or(""))
        .filter(|line| !line.trim().is_empty())
}

fn forbid(folder: &str, words: &[&str]) {
    let mut wrong = Vec::new();
    for (path, text) in sources(folder) {
        for word in words {
            if let Some(line) = code(&text).find(|line| line.contains(word)) {
                wrong.push(format!("{}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{folder} must not name {words:?}:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn wire_crypto_and_ip_import_nothing_of_ours() {
    forbid(
        "proto/src/wire",
        &[
            "crate::crypto",
            "crate::policy",
            "crate::esp",
            "crate::ip",
            "crate::ike",
        ],
    );
    forbid(
        "proto/src/crypto",
        &["crate::wire", "crate::policy", "crate::esp", "crate::ip", "crate::ike"],
    );
    forbid(
        "proto/src/ip",
        &[
            "crate::wire",
            "crate::crypto",
            "crate::policy",
            "crate::esp",
            "crate::ike",
        ],
    );
}

#[test]
fn policy_esp_and_ike_stay_apart() {
    forbid("proto/src/policy", &["crate::esp", "crate::ip", "crate::ike"]);
    forbid(
        "proto/src/pki",
        &["crate::policy", "crate::esp", "crate::ip", "crate::ike"],
    );
    forbid("proto/src/esp", &["crate::ike"]);
    forbid("proto/src/ike", &["crate::esp", "crate::ip::"]);
}

#[test]
fn the_protocol_has_no_clock_no_thread_no_io() {
    forbid(
        "proto/src",
        &[
            "std::thread",
            "Instant::now()",
            "SystemTime",
            "std::net::UdpSocket",
            "std::fs",
            "tokio",
            "libc::",
        ],
    );
}

#[test]
fn the_data_path_knows_no_control() {
    forbid(
        "src/data",
        &[
            "tokio",
            "crate::control",
            "crate::config",
            "crate::cli",
            "landbridge_proto::ike",
            "proto::ike",
        ],
    );
    forbid(
        "src/sys",
        &[
            "tokio",
            "crate::control",
            "crate::config",
            "crate::cli",
            "crate::data",
            "landbridge_proto::ike",
        ],
    );
    forbid(
        "src/tls",
        &["tokio", "crate::", "landbridge_proto", "std::net::Tcp", "std::thread"],
    );
}

#[test]
fn nothing_sees_the_command_line() {
    for folder in [
        "src/config",
        "src/control",
        "src/data",
        "src/signer",
        "src/sys",
        "src/tls",
    ] {
        forbid(folder, &["crate::cli"]);
    }
}

#[test]
fn unsafe_stands_under_sys_only() {
    for folder in [
        "proto/src",
        "src/cli",
        "src/config",
        "src/control",
        "src/data",
        "src/signer",
        "src/tls",
    ] {
        forbid(folder, &["unsafe {", "unsafe fn", "unsafe impl"]);
    }
}

#[test]
fn no_file_reaches_a_thousand_lines_and_main_is_small() {
    for folder in ["src", "proto/src"] {
        for (path, text) in sources(folder) {
            assert!(text.lines().count() < 1000, "{} is too long", path.display());
        }
    }
    let main = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/main.rs")).unwrap();
    assert!(main.lines().count() <= 60, "main.rs holds more than the start");
}
