//! strongSwan with its userspace ESP (kernel-libipsec) in a namespace, by the scripts under `netns-scripts/peers`.

use super::{World, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A running strongSwan.
pub struct StrongSwan {
    state: String,
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("netns-scripts/peers")
        .join(name)
}

/// Whether its packages have been fetched (`netns-scripts/peers/fetch strongswan`).
pub fn available(test: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("netns-scripts/.cache/root-strongswan/.complete");
    if root.exists() {
        return true;
    }
    assert!(
        std::env::var_os("LANDBRIDGE_TEST_STRICT").is_none(),
        "{test}: netns-scripts/peers/fetch strongswan has not run"
    );
    eprintln!("skipped: {test}: run netns-scripts/peers/fetch strongswan first");
    false
}

impl StrongSwan {
    /// A process tree in the namespace, nothing started in it yet.
    pub fn host(world: &mut World, ns: &str) -> Self {
        let state = world.dir().join(format!("strongswan-{ns}"));
        let state = state.to_str().unwrap().to_owned();
        run(Command::new(script("ns-host")).args([
            "start",
            "--netns",
            &world.ns(ns),
            "--root",
            "strongswan",
            "--state",
            &state,
        ]));
        world.at_end(&[script("ns-host").to_str().unwrap(), "stop", &state]);
        Self { state }
    }

    /// Starts charon with `KEY=VALUE` settings (see `netns-scripts/peers/peers/common.sh`).
    pub fn start(&self, settings: &[&str]) {
        let mut words = vec!["start", "KERNEL=libipsec"];
        words.extend(settings);
        self.peer(&words);
    }

    /// Puts a file where the scripts inside see it as `/um/NAME`.
    pub fn put(&self, name: &str, text: &str) {
        let path = Path::new(&self.state).join("share").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Runs a verb of the peer script; it must succeed.
    pub fn peer(&self, words: &[&str]) -> String {
        let output = run(Command::new(script("ns-host"))
            .args(["exec", &self.state, "/um-src/peers/strongswan"])
            .args(words));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs any command inside.
    pub fn sh(&self, command: &str) -> String {
        let output = run(Command::new(script("ns-host")).args(["exec", &self.state, "sh", "-c", command]));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Ends charon without a word to the peer.
    pub fn kill(&self) {
        self.sh("kill -9 $(cat /run/um-peer.pid); rm -f /run/um-peer.pid");
    }

    /// charon's log so far.
    pub fn log(&self) -> String {
        self.peer(&["log"])
    }

    /// `swanctl --list-sas`.
    pub fn status(&self) -> String {
        self.peer(&["status"])
    }
}
