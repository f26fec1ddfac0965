//! `landbridge bench`: what this machine can do, and what holds it back. Nothing leaves it: TUNs and tunnels stand in
//! network namespaces of this process.

mod crypto;
mod network;
mod scale;
mod tun;
mod tunnel;

use super::output::{complain, json, print};
use super::{Exit, Global};
use serde::Serialize;
use std::fmt::Write as _;
use std::io;
use std::time::Duration;

#[derive(clap::Args, Debug)]
#[command(
    after_help = "crypto needs no privileges; the others take root, or a system that lets users make namespaces. The figures are of \
                  this moment: run it on an idle machine, and more than once."
)]
pub(super) struct Args {
    /// What to measure: the ciphers of ESP, a TUN, a tunnel from one end to the other on this machine, or one among many
    /// that are rekeyed
    #[arg(value_enum)]
    what: What,
    /// Seconds for each figure
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// ESP suite of the tunnel, in the words of esp_proposals
    #[arg(long, value_name = "SUITE", default_value = "aes256gcm16")]
    suite: String,
    /// Worker threads of each end of the tunnel [default: as many as processors, at most 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: Option<u8>,
    /// Child SA pairs of the tunnel, each with a queue of the interface (RFC 9611)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pairs: u8,
    /// TCP streams through the tunnel: one goes by one pair
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    streams: u8,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Crypto,
    Tun,
    Tunnel,
    Scale,
}

/// What came of it.
#[derive(Serialize)]
struct Report {
    what: &'static str,
    rows: Vec<Row>,
    /// In words: what is slowest here, and what to do.
    bottleneck: String,
}

/// One figure.
#[derive(Serialize)]
struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    /// Gbit/s that it comes to, where that says something.
    gbit: Option<f64>,
}

impl Row {
    fn new(name: impl Into<String>, value: f64, unit: &'static str, gbit: Option<f64>) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            gbit,
        }
    }
}

pub(super) fn run(_: &Global, args: &Args) -> Exit {
    let span = Duration::from_secs(args.seconds);
    let report = match args.what {
        What::Crypto => Ok(crypto::run(span)),
        What::Tun => tun::run(span),
        What::Tunnel | What::Scale => match crypto::suite(&args.suite) {
            Ok(suite) if args.what == What::Scale => scale::run(span, suite, args.workers.map(usize::from)),
            Ok(suite) => {
                let load = tunnel::Load {
                    pairs: args.pairs.into(),
                    streams: args.streams.into(),
                };
                tunnel::run(span, &args.suite, suite, args.workers.map(usize::from), load)
            }
            Err(error) => {
                complain(format!("--suite: {error}"));
                return Exit::Usage;
            }
        },
    };
    match report {
        Ok(report) if args.json => json(&report),
        Ok(report) => print(&text(&report)),
        Err(error) => {
            complain(&error);
            if error.kind() == io::ErrorKind::PermissionDenied {
                complain("it makes network namespaces and TUN interfaces of its own: run it as root");
                return Exit::NotPermitted;
            }
            return Exit::Failed;
        }
    }
    Exit::Ok
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let width = report.rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for Row {
        name,
        value,
        unit,
        gbit,
    } in &report.rows
    {
        let digits = if *value < 10.0 { 2 } else { 0 };
        let gbit = gbit.map_or(String::new(), |gbit| format!("  {gbit:>6.2} Gbit/s"));
        _ = writeln!(text, "{name:<width$}  {value:>9.digits$} {unit:<12}{gbit}");
    }
    _ = writeln!(text, "\n{}", report.bottleneck);
    text
}
