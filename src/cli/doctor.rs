//! `landbridge doctor`: what would keep the gateway from working, and what to do about it.

mod machine;
mod ports;

use super::output::{json, print};
use super::{Exit, Global};
use crate::config::{self, Configuration};
use serde::Serialize;
use std::path::Path;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// For programs
    #[arg(long)]
    json: bool,
}

/// How it stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// It may do harm.
    Warn,
    /// It won't work.
    Fail,
}

/// One line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Finding {
    verdict: Verdict,
    subject: String,
    detail: String,
    remedy: Option<String>,
}

impl Finding {
    fn ok(subject: &str, detail: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Ok,
            subject: subject.to_owned(),
            detail: detail.into(),
            remedy: None,
        }
    }

    fn warn(subject: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (subject, detail) = (subject.to_owned(), detail.into());
        Self {
            verdict: Verdict::Warn,
            subject,
            detail,
            remedy: Some(remedy.into()),
        }
    }

    fn fail(subject: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Fail,
            ..Self::warn(subject, detail, remedy)
        }
    }
}

pub(super) fn run(global: &Global, args: &Args) -> Exit {
    let findings = examine(&global.config);
    if args.json {
        json(&findings);
    } else {
        print(&findings.iter().map(line).collect::<String>());
    }
    let worst = findings.iter().map(|finding| finding.verdict).max();
    if worst == Some(Verdict::Fail) {
        Exit::Failed
    } else {
        Exit::Ok
    }
}

fn examine(path: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let configuration = configuration(path, &mut findings);
    let (port, nat_port) = configuration
        .as_ref()
        .map_or((500, 4500), |c| (c.gateway.port, c.gateway.nat_port));
    findings.push(machine::tun(Path::new("/dev/net/tun")));
    let raw = configuration.as_ref().is_some_and(|c| {
        let mut connections = c.ike.connections.values();
        connections.any(|connection| !connection.force_udp_encapsulation)
    });
    findings.extend(machine::capabilities(port.min(nat_port), raw));
    findings.extend(ports::udp(&[port, nat_port]));
    let listens = configuration
        .iter()
        .flat_map(|c| c.gateway.tcp_listen.iter().chain(&c.gateway.tls_listen));
    let mut listens: Vec<u16> = listens.map(std::net::SocketAddr::port).collect();
    listens.sort_unstable();
    listens.dedup();
    findings.extend(ports::tcp(&listens));
    findings.extend(machine::forwarding(configuration.as_ref()));
    findings.push(machine::reverse_path(configuration.as_ref()));
    findings
}

fn configuration(path: &Path, findings: &mut Vec<Finding>) -> Option<Configuration> {
    const SUBJECT: &str = "configuration";
    match config::load(path) {
        Ok(configuration) => {
            let detail = format!("{}: {} connection(s)", path.display(), configuration.tunnels.len());
            findings.push(Finding::ok(SUBJECT, detail));
            let warnings = configuration.warnings.iter();
            findings.extend(warnings.map(|w| Finding::warn(SUBJECT, w, "see landbridge check")));
            Some(configuration)
        }
        Err(errors) => {
            let first = errors
                .first()
                .map(|error| error.to_string().replace('\n', ";"))
                .unwrap_or_default();
            let detail = format!("{first} ({} error(s))", errors.len());
            findings.push(Finding::fail(
                SUBJECT,
                detail,
                format!("landbridge check --config {}", path.display()),
            ));
            None
        }
    }
}

fn line(finding: &Finding) -> String {
    let word = match finding.verdict {
        Verdict::Ok => "ok  ",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
    };
    let remedy = finding
        .remedy
        .as_ref()
        .map(|remedy| format!("\n      -> {remedy}"))
        .unwrap_or_default();
    format!("{word}  {}: {}{remedy}\n", finding.subject, finding.detail)
}
