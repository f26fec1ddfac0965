//! A capture at `gb` of what goes between the gateways of [`World::two_sites`], and what `tshark` makes of it.

use super::{World, run, wait_until};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Where it is, in the world's folder.
pub const FILE: &str = "capture.pcap";

/// Starts it; returns what [`stop`] takes.
pub fn start(world: &mut World) -> usize {
    // Packets are captured as they go over a real wire: no super-packets of several segments.
    for (ns, device) in [("ga", "wan0"), ("net", "eth0"), ("net", "eth1"), ("gb", "wan0")] {
        world.ip(ns, &["link", "set", device, "gso_max_segs", "1"]);
    }
    let file = world.dir().join(FILE);
    let args = [
        "-i",
        "any",
        "--immediate-mode",
        "-U",
        "-w",
        file.to_str().unwrap(),
        "udp port 500 or udp port 4500 or esp",
    ];
    let dump = world.spawn("gb", "tcpdump.log", "tcpdump", &args);
    wait_until("tcpdump listens", Duration::from_secs(10), || {
        fs::read_to_string(world.dir().join("tcpdump.log")).is_ok_and(|log| log.contains("listening"))
    });
    dump
}

/// Ends it when it is whole: when it grows no more.
pub fn stop(world: &mut World, dump: usize) {
    let (file, mut len) = (world.dir().join(FILE), 0);
    wait_until("the capture is written", Duration::from_secs(20), || {
        std::thread::sleep(Duration::from_millis(300));
        let before = std::mem::replace(&mut len, fs::metadata(&file).unwrap().len());
        len > 5000 && len == before
    });
    world.end(dump, libc::SIGINT);
}

/// What `tshark` shows of a capture's packets that a filter takes, with the tables in a folder.
pub fn tshark(capture: &Path, tables: &Path, filter: &str, words: &[&str]) -> String {
    let output = run(Command::new("tshark")
        .env("WIRESHARK_CONFIG_DIR", tables)
        .args(["-n", "-r", capture.to_str().unwrap(), "-Y", filter])
        .args(["-o", "esp.enable_encryption_decode:TRUE"])
        .args(words));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// How many packets a filter takes.
pub fn count(capture: &Path, tables: &Path, filter: &str) -> usize {
    let frames = tshark(capture, tables, filter, &["-T", "fields", "-e", "frame.number"]);
    frames.lines().count()
}
