//! The command line: one file a command. The client and the daemon are one binary.

mod bench;
mod check;
mod doctor;
mod down;
mod keygen;
mod log;
mod logging;
mod metrics;
mod output;
mod pubkey;
mod redirect;
mod rekey;
mod reload;
mod run;
mod socket;
mod status;
mod stop;
mod up;
mod version;

use crate::config;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// How a command ends; the numbers are those of sysexits.h where it has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Done.
    Ok,
    /// Failed at run time.
    Failed,
    /// Wrong usage or configuration (EX_USAGE).
    Usage,
    /// A privilege is missing (EX_NOPERM).
    NotPermitted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::Usage => 64,
            Exit::NotPermitted => 77,
        }
        .into()
    }
}

/// A userspace IPsec gateway: IKEv2 and ESP over a TUN interface.
#[derive(Parser, Debug)]
#[command(
    name = "landbridge",
    version,
    after_help = "Exit codes: 0 done, 1 failed at run time, 64 wrong usage or configuration, 77 not permitted."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What all commands take.
#[derive(clap::Args, Debug)]
struct Global {
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Control socket [default: control_socket of the configuration, or /run/landbridge/control.sock]
    #[arg(long, global = true, value_name = "FILE")]
    socket: Option<PathBuf>,
    /// Log each IKE message; twice: everything (LANDBRIDGE_LOG takes finer filters)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

impl Global {
    /// Where the daemon listens.
    fn socket(&self) -> PathBuf {
        self.socket
            .clone()
            .unwrap_or_else(|| config::control_socket(&self.config))
    }
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the gateway in the foreground
    Run(run::Args),
    /// Check the configuration and show what would run
    Check(check::Args),
    /// Show connections, SAs, traffic and the last failures
    Status(status::Args),
    /// Print the metrics, as they are served to Prometheus
    Metrics,
    /// Bring a connection up
    Up(socket::Which),
    /// Take a connection down; it stays down until "up"
    Down(socket::Which),
    /// Rekey the Child SAs of a connection, or its IKE SA
    Rekey(rekey::Arguments),
    /// Send the peers of a connection to another gateway: for maintenance
    Redirect(redirect::Arguments),
    /// Read the configuration again; what did not change keeps its SAs
    Reload(reload::Args),
    /// Delete all SAs and end the daemon
    Stop,
    /// Show what happened
    Log(log::Args),
    /// Make a key pair, or a pre-shared key
    Keygen(keygen::Args),
    /// Print the public half of a key, for the peer
    Pubkey(pubkey::Args),
    /// Look for what would keep the gateway from working
    Doctor(doctor::Args),
    /// Measure what this machine can do: ciphers, TUN, a tunnel; the network is left alone
    Bench(bench::Args),
    /// Print the version
    Version(version::Args),
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            // Nobody is left to tell when the terminal is gone.
            drop(error.print());
            return exit.into();
        }
    };
    let global = &cli.global;
    match cli.command {
        Command::Run(args) => run::run(global, &args),
        Command::Check(args) => check::run(global, &args),
        Command::Status(args) => status::run(global, &args),
        Command::Metrics => metrics::run(global),
        Command::Up(which) => up::run(global, which),
        Command::Down(which) => down::run(global, which),
        Command::Rekey(which) => rekey::run(global, which),
        Command::Redirect(args) => redirect::run(global, args),
        Command::Reload(args) => reload::run(global, &args),
        Command::Stop => stop::run(global),
        Command::Log(args) => log::run(global, &args),
        Command::Keygen(args) => keygen::run(&args),
        Command::Pubkey(args) => pubkey::run(&args),
        Command::Doctor(args) => doctor::run(global, &args),
        Command::Bench(args) => bench::run(global, &args),
        Command::Version(args) => version::run(&args),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
