//! The built binary, as an operator or a script meets it.
#![allow(
    clippy::unwrap_used,
    clippy::let_underscore_must_use,
    reason = "a test may panic; leftovers may be absent"
)]

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const LANDBRIDGE: &str = env!("CARGO_BIN_EXE_landbridge");

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn landbridge(words: &[&str]) -> Output {
    Command::new(LANDBRIDGE)
        .args(words)
        .env_remove("LANDBRIDGE_LOG")
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A copy of an example with a fresh key beside it, in a folder for one test.
fn example(test: &str, name: &str) -> PathBuf {
    let folder = folder(test);
    let file = folder.join("landbridge.toml");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name);
    fs::copy(example, &file).unwrap();
    let key = folder.join("office-cloud.psk");
    assert_eq!(code(&landbridge(&["keygen", "--psk", key.to_str().unwrap()])), 0);
    file
}

#[test]
fn wrong_usage_is_64_and_help_is_0() {
    for words in [&["fly"][..], &[], &["run", "--nonsense"], &["keygen"], &["up"]] {
        let output = landbridge(words);
        assert_eq!(code(&output), 64, "{words:?}");
        assert!(err(&output).contains("Usage"), "{words:?}: {}", err(&output));
    }
    for words in [&["--help"][..], &["run", "--help"], &["--version"], &["version"]] {
        let output = landbridge(words);
        assert_eq!((code(&output), err(&output).as_str()), (0, ""), "{words:?}");
    }
    assert!(out(&landbridge(&["version"])).starts_with(concat!("landbridge ", env!("CARGO_PKG_VERSION"), "\n")));
}

#[test]
fn version_tells_which_library_does_what() {
    let text = out(&landbridge(&["version", "--crypto"]));
    let line = |word: &str| {
        text.lines()
            .find(|line| line.split_whitespace().next() == Some(word))
            .unwrap()
            .to_owned()
    };
    let gcm = line("aes256gcm16");
    assert!(gcm.contains("RustCrypto") && gcm.contains("ring"), "{text}");
    assert!(
        line("x25519").contains("RustCrypto") && line("ed25519").contains("ed25519-dalek"),
        "{text}"
    );
    // RFC 7296 §5: "... or ENCR_NULL as the IKE encryption algorithm" is no protection at all.
    assert_eq!(line("null").split_whitespace().nth(2), Some("-"));
}

#[test]
fn bench_tells_what_the_ciphers_cost() {
    let output = landbridge(&["bench", "crypto", "--seconds", "1", "--json"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    let report: Value = serde_json::from_str(&out(&output)).unwrap();
    let rows = report["rows"].as_array().unwrap();
    for name in ["aes256gcm16, 1400 octets, seal", "chacha20poly1305, 64 octets, open"] {
        let row = rows.iter().find(|row| row["name"] == name).unwrap();
        assert!(
            row["value"].as_f64().unwrap() > 1.0 && row["unit"] == "ns a packet",
            "{row}"
        );
    }
    for words in [
        &["bench"][..],
        &["bench", "tunnel", "--suite", "rot13"],
        &["bench", "crypto", "--seconds", "0"],
    ] {
        assert_eq!(code(&landbridge(words)), 64, "{words:?}");
    }
}

#[test]
fn check_shows_what_would_run() {
    let file = example("check shows", "office.toml");
    let output = landbridge(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!((code(&output), err(&output).as_str()), (0, ""));
    let text = out(&output);
    for part in [
        "is valid: 1 connection\n",
        "cloud: 192.168.50.2 -> 203.0.113.7",
        "office.example.com (pre-shared key)",
        "cloud.example.com (pre-shared key)",
        "aes256gcm16-prfsha384-x25519",
        "lb-cloud",
        "10.2.0.0/24 (metric 100, unreachable while down)",
        "10.1.0.0/24 === 10.2.0.0/24",
        "rekey 1h, life 1h 6m, replay window 4096, start action start",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let report: Value = serde_json::from_str(&out(&landbridge(&[
        "--config",
        file.to_str().unwrap(),
        "check",
        "--json",
    ])))
    .unwrap();
    assert_eq!(report["valid"], true);
    let cloud = &report["connections"][0];
    assert_eq!(
        (&cloud["name"], &cloud["interface"]),
        (&"cloud".into(), &"lb-cloud".into())
    );
    assert_eq!(cloud["children"][0]["rekey_seconds"], 3600);
}

#[test]
fn check_and_run_report_all_errors_and_end_with_64() {
    let file = example("all errors", "cloud.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        text.replace("remote_addrs", "remote_adrs")
            .replace("203.0.113.7", "203.0.113.700"),
    )
    .unwrap();
    let key = file.with_file_name("office-cloud.psk");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    for command in ["check", "run"] {
        let output = landbridge(&[command, "--config", file.to_str().unwrap()]);
        assert_eq!(code(&output), 64);
        let text = err(&output);
        for part in [
            "203.0.113.700",
            "did you mean \"remote_addrs\"?",
            "chmod 600",
            "landbridge.toml:7:16: ",
            "3 errors",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }
    let output = landbridge(&["check", "--json", "--config", file.to_str().unwrap()]);
    assert_eq!(code(&output), 64);
    let report: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(
        (&report["valid"], report["errors"].as_array().unwrap().len()),
        (&false.into(), 3)
    );
    assert_eq!(report["errors"][0]["line"], 7);
    let missing = landbridge(&["check", "--config", "/nonexistent/landbridge.toml"]);
    assert_eq!(code(&missing), 64);
    assert!(
        err(&missing).contains("/nonexistent/landbridge.toml: can't read it"),
        "{}",
        err(&missing)
    );
}

#[test]
fn keygen_writes_a_private_file_once() {
    let folder = folder("keygen");
    let key = folder.join("own.key");
    let path = key.to_str().unwrap();
    let made = landbridge(&["keygen", path]);
    assert_eq!(code(&made), 0, "{}", err(&made));
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let private = fs::read_to_string(&key).unwrap();
    assert!(private.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    let public = out(&made);
    assert!(public.starts_with("-----BEGIN PUBLIC KEY-----\n") && public.ends_with("-----END PUBLIC KEY-----\n"));
    assert!(!public.contains(private.lines().nth(1).unwrap()));
    // A key is never overwritten.
    let again = landbridge(&["keygen", path]);
    assert_eq!(code(&again), 1);
    assert!(err(&again).contains("never overwritten"), "{}", err(&again));
    assert_eq!(fs::read_to_string(&key).unwrap(), private);
    // The public half comes from the file or from stdin.
    assert_eq!(out(&landbridge(&["pubkey", path])), public);
    let mut child = Command::new(LANDBRIDGE)
        .arg("pubkey")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(private.as_bytes()).unwrap();
    assert_eq!(out(&child.wait_with_output().unwrap()), public);
    let wrong = landbridge(&["pubkey", "/dev/null"]);
    assert_eq!((code(&wrong), out(&wrong).as_str()), (1, ""));
}

#[test]
fn keygen_names_what_makes_an_rsa_key() {
    let folder = folder("keygen-rsa");
    let key = folder.join("own.key");
    let refused = landbridge(&["keygen", "--type", "rsa", key.to_str().unwrap()]);
    assert_eq!(code(&refused), 64);
    assert!(
        err(&refused).contains("openssl genpkey -algorithm rsa"),
        "{}",
        err(&refused)
    );
    assert!(!key.exists());
}

#[test]
fn keygen_makes_pre_shared_keys() {
    let folder = folder("keygen-psk");
    let key = folder.join("a.psk");
    let made = landbridge(&["keygen", "--psk", key.to_str().unwrap()]);
    assert_eq!(code(&made), 0);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let psk = fs::read_to_string(&key).unwrap();
    assert!(
        psk.trim_end().len() >= 43 && !out(&made).contains(psk.trim_end()),
        "the key was printed"
    );
    assert_eq!(code(&landbridge(&["keygen", "--psk", key.to_str().unwrap()])), 1);
    assert_ne!(
        out(&landbridge(&["keygen", "--psk"])),
        out(&landbridge(&["keygen", "--psk"]))
    );
}

#[test]
fn openssl_reads_our_keys_and_we_read_its() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("skipped: no openssl");
        return;
    }
    let folder = folder("openssl");
    let (ours, theirs) = (folder.join("ours.key"), folder.join("theirs.key"));
    let public = out(&landbridge(&["keygen", ours.to_str().unwrap()]));
    let openssl = |words: &[&str]| out(&Command::new("openssl").args(words).output().unwrap());
    assert_eq!(openssl(&["pkey", "-in", ours.to_str().unwrap(), "-pubout"]), public);
    fs::write(&theirs, openssl(&["genpkey", "-algorithm", "ed25519"])).unwrap();
    let read = out(&landbridge(&["pubkey", theirs.to_str().unwrap()]));
    assert_eq!(openssl(&["pkey", "-in", theirs.to_str().unwrap(), "-pubout"]), read);
}

#[test]
fn clients_say_clearly_that_nobody_is_there() {
    for words in [
        &["status"][..],
        &["up", "a"],
        &["down", "a", "net"],
        &["rekey", "a"],
        &["rekey", "a", "--ike"],
        &["reload"],
        &["log"],
        &["stop"],
    ] {
        let output = landbridge(&[&["--socket", "/nonexistent/control.sock"], words].concat());
        assert_eq!(code(&output), 1, "{words:?}");
        assert!(err(&output).contains("not running") && err(&output).contains("/nonexistent/control.sock"));
    }
}

/// Answers one client with fixed lines; returns what it asked.
fn daemon(socket: &Path, answers: &'static str) -> std::thread::JoinHandle<String> {
    let _ = fs::remove_file(socket);
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = String::new();
        BufReader::new(stream.try_clone().unwrap())
            .read_line(&mut asked)
            .unwrap();
        stream.write_all(answers.as_bytes()).unwrap();
        asked.trim_end().to_owned()
    })
}

#[test]
fn clients_speak_the_protocol() {
    let folder = folder("clients");
    let socket = folder.join("s");
    let path = socket.to_str().unwrap();
    let ask = |words: &[&str], answers: &'static str| {
        let daemon = daemon(&socket, answers);
        let output = landbridge(&[&["--socket", path], words].concat());
        (daemon.join().unwrap(), code(&output), out(&output), err(&output))
    };
    let done = "{\"result\":\"done\",\"message\":\"connecting a\"}\n";
    let (asked, code, text, _) = ask(&["up", "a", "net"], done);
    assert_eq!(
        (asked.as_str(), code),
        (r#"{"command":"up","connection":"a","child":"net"}"#, 0)
    );
    assert_eq!(text, "connecting a\n");

    let refused = "{\"result\":\"error\",\"message\":\"landbridge.toml:3: no\\u001b[2J\"}\n";
    let (asked, code, _, text) = ask(&["reload"], refused);
    assert_eq!((asked.as_str(), code), (r#"{"command":"reload"}"#, 1));
    assert!(
        text.contains("landbridge.toml:3: no") && !text.contains('\u{1b}'),
        "{text:?}"
    );

    let status = r#"{"result":"status","status":{"version":"0.1.0","connections":[{"name":"a","state":"up","interface":"lb-a"}]}}"#;
    let (_, code, text, _) = ask(&["status"], status);
    assert!(code == 0 && text.contains("a           up     -     lb-a"), "{text}");
    let (_, _, text, _) = ask(&["status", "--json"], status);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["connections"][0]["state"], "up");
    assert_eq!(json["connections"][0]["last_failure"], Value::Null);
    let (_, code, _, text) = ask(&["status", "b"], status);
    assert!(code == 1 && text.contains("no connection named \"b\""), "{text}");

    let lines = "{\"result\":\"line\",\"line\":\"one\"}\n{\"result\":\"line\",\"line\":\"two\"}\n{\"result\":\"done\",\"message\":\"\"}\n";
    let (asked, code, text, _) = ask(&["log"], lines);
    assert_eq!(
        (asked.as_str(), code, text.as_str()),
        (r#"{"command":"log","follow":false}"#, 0, "one\ntwo\n")
    );
    let (asked, code, _, _) = ask(&["log", "--follow"], lines);
    assert_eq!((asked.as_str(), code), (r#"{"command":"log","follow":true}"#, 0));

    for nonsense in ["", "nonsense\n", "{\"result\":\"line\",\"line\":\"x\"}\n"] {
        let (_, code, _, text) = ask(&["status"], nonsense);
        assert!(code == 1 && text.contains("the daemon"), "{nonsense:?}: {text}");
    }
}

#[test]
fn the_socket_of_the_configuration_is_used() {
    let folder = folder("socket");
    let (socket, file) = (folder.join("s"), folder.join("landbridge.toml"));
    fs::write(
        &file,
        format!("[gateway]\ncontrol_socket = {:?}\n", socket.to_str().unwrap()),
    )
    .unwrap();
    let daemon = daemon(&socket, "{\"result\":\"done\",\"message\":\"stopping\"}\n");
    let output = landbridge(&["stop", "--config", file.to_str().unwrap()]);
    assert_eq!(
        (daemon.join().unwrap().as_str(), code(&output)),
        (r#"{"command":"stop"}"#, 0)
    );
}

#[test]
fn doctor_judges_line_by_line() {
    let file = example("doctor judges", "office.toml");
    let output = landbridge(&["doctor", "--json", "--config", file.to_str().unwrap()]);
    let findings: Value = serde_json::from_str(&out(&output)).unwrap();
    let list = findings.as_array().unwrap();
    let subjects: Vec<&str> = list.iter().map(|f| f["subject"].as_str().unwrap()).collect();
    for subject in [
        "configuration",
        "/dev/net/tun",
        "CAP_NET_ADMIN",
        "CAP_NET_BIND_SERVICE",
        "UDP 500",
        "UDP 4500",
        "net.ipv4.ip_forward",
    ] {
        assert!(subjects.contains(&subject), "{subject} is not in {subjects:?}");
    }
    assert_eq!(list[0]["verdict"], "ok");
    // What is not well says what to do; and the exit code follows the worst.
    assert!(list.iter().all(|f| f["verdict"] == "ok" || f["remedy"].is_string()));
    let failed = list.iter().any(|f| f["verdict"] == "fail");
    assert_eq!(code(&output), i32::from(failed));
    let output = landbridge(&["doctor", "--config", "/nonexistent/landbridge.toml"]);
    assert_eq!(code(&output), 1);
    assert!(
        out(&output).contains("FAIL  configuration: /nonexistent/landbridge.toml"),
        "{}",
        out(&output)
    );
}
