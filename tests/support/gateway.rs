//! A Landbridge gateway in a namespace.

use super::{World, run, wait_until};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// The daemon under test.
pub const LANDBRIDGE: &str = env!("CARGO_BIN_EXE_landbridge");
/// The pre-shared key of all tests.
pub const PSK: &str = "interop-test-only";

/// A running gateway.
pub struct Gateway {
    ns: String,
    folder: PathBuf,
    process: Option<usize>,
}

impl Gateway {
    /// Writes the configuration (and `peer.psk`) and starts the daemon; waits until it serves.
    pub fn start(world: &mut World, ns: &str, configuration: &str) -> Self {
        let folder = world.dir().join(format!("landbridge-{ns}"));
        fs::create_dir_all(&folder).unwrap();
        let mut gateway = Self {
            ns: ns.to_owned(),
            folder,
            process: None,
        };
        gateway.secret("peer.psk", PSK);
        gateway.configure(configuration);
        gateway.launch(world);
        gateway
    }

    /// A directory for a gateway that is not started yet (to put keys in).
    pub fn prepare(world: &World, ns: &str) -> Self {
        let folder = world.dir().join(format!("landbridge-{ns}"));
        fs::create_dir_all(&folder).unwrap();
        let gateway = Self {
            ns: ns.to_owned(),
            folder,
            process: None,
        };
        gateway.secret("peer.psk", PSK);
        gateway
    }

    /// Starts the daemon with the configuration written before.
    pub fn launch(&mut self, world: &mut World) {
        self.launch_with(world, &[], &[]);
    }

    /// The same with variables (`NAME=VALUE`) in its environment and more options.
    pub fn launch_with(&mut self, world: &mut World, environment: &[&str], options: &[&str]) {
        let config = self.folder.join("landbridge.toml");
        let log = format!("landbridge-{}.log", self.ns);
        let socket = self.socket();
        let run = [
            LANDBRIDGE,
            "run",
            "--config",
            config.to_str().unwrap(),
            "--socket",
            &socket,
            "-v",
        ];
        // `env` becomes the daemon.
        let state = format!("STATE_DIRECTORY={}", self.folder.join("state").display());
        let args: Vec<&str> = std::iter::once(&state.as_str())
            .chain(environment)
            .chain(&run)
            .chain(options)
            .copied()
            .collect();
        self.process = Some(world.spawn(&self.ns.clone(), &log, "env", &args));
        wait_until("the gateway serves", Duration::from_secs(10), || {
            self.try_client(world, &["status", "--json"]).status.success()
        });
    }

    /// Replaces the configuration file.
    pub fn configure(&self, text: &str) {
        fs::write(self.folder.join("landbridge.toml"), text).unwrap();
    }

    /// Writes a file that only root may read.
    pub fn secret(&self, name: &str, text: &str) {
        let path = self.folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// The folder of its files.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    fn socket(&self) -> String {
        self.folder.join("control.sock").to_str().unwrap().to_owned()
    }

    /// A client command, whatever comes of it.
    pub fn try_client(&self, world: &World, words: &[&str]) -> Output {
        world
            .command(&self.ns, LANDBRIDGE)
            .args(["--socket", &self.socket()])
            .args(words)
            .output()
            .unwrap()
    }

    /// A client command that must succeed.
    pub fn client(&self, world: &World, words: &[&str]) -> String {
        let output = run(world
            .command(&self.ns, LANDBRIDGE)
            .args(["--socket", &self.socket()])
            .args(words));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a client command, to be waited for.
    pub fn spawn_client(&self, world: &World, words: &[&str]) -> Child {
        let mut command = world.command(&self.ns, LANDBRIDGE);
        command.args(["--socket", &self.socket()]).args(words);
        command.stdout(Stdio::null()).spawn().unwrap()
    }

    /// `status --json`.
    pub fn status(&self, world: &World) -> Value {
        serde_json::from_str(&self.client(world, &["status", "--json"])).unwrap()
    }

    /// One connection of it.
    pub fn connection(&self, world: &World, name: &str) -> Value {
        let status = self.status(world);
        let list = status["connections"].as_array().unwrap();
        list.iter()
            .find(|c| c["name"] == name)
            .unwrap_or_else(|| panic!("no connection {name} in {status}"))
            .clone()
    }

    /// Whether a connection is up.
    pub fn is_up(&self, world: &World, name: &str) -> bool {
        self.connection(world, name)["state"] == "up"
    }

    /// Waits until it is.
    pub fn wait_up(&self, world: &World, name: &str) {
        wait_until(&format!("{name} is up"), Duration::from_secs(20), || {
            self.is_up(world, name)
        });
    }

    /// Waits until it is not.
    pub fn wait_down(&self, world: &World, name: &str) {
        wait_until(&format!("{name} is down"), Duration::from_secs(20), || {
            !self.is_up(world, name)
        });
    }

    /// What it logged.
    pub fn log(&self, world: &World) -> String {
        fs::read_to_string(world.dir().join(format!("landbridge-{}.log", self.ns))).unwrap_or_default()
    }

    /// Ends it with a signal; returns its exit code.
    pub fn end(&mut self, world: &mut World, signal: i32) -> Option<i32> {
        self.process.take().and_then(|index| world.end(index, signal))
    }

    /// Its process id.
    pub fn pid(&self, world: &World) -> u32 {
        world.pid(self.process.unwrap())
    }
}

/// Runs the binary outside of any namespace.
pub fn landbridge(words: &[&str]) -> Output {
    Command::new(LANDBRIDGE).args(words).output().unwrap()
}
