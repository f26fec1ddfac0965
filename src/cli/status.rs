//! `landbridge status`: what is up, what is not, and why.

use super::output::{clean, complain, duration, json, octets, print};
use super::socket::{connect, failed, unexpected};
use super::{Exit, Global};
use crate::control::protocol::{
    ChildSaStatus, ConnectionStatus, FailureStatus, IkeSaStatus, IptfsPath, Request, Response, Status,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// For programs
    #[arg(long)]
    json: bool,
    /// Only these connections
    connections: Vec<String>,
}

pub(super) fn run(global: &Global, args: &Args) -> Exit {
    let mut client = match connect(global) {
        Ok(client) => client,
        Err(exit) => return exit,
    };
    let mut status = match client.request(&Request::Status) {
        Ok(Response::Status { status }) => *status,
        Ok(Response::Error { message }) => {
            complain(clean(&message));
            return Exit::Failed;
        }
        Ok(_) => return unexpected(),
        Err(error) => return failed(&error),
    };
    if !args.connections.is_empty() {
        if let Some(unknown) = args
            .connections
            .iter()
            .find(|name| status.connections.iter().all(|c| c.name != **name))
        {
            complain(format!("no connection named {unknown:?}"));
            return Exit::Failed;
        }
        status.connections.retain(|c| args.connections.contains(&c.name));
    }
    if args.json {
        json(&status);
    } else {
        print(&clean(&table(&status).unwrap_or_default()));
    }
    Exit::Ok
}

/// The status for people.
fn table(status: &Status) -> Result<String, std::fmt::Error> {
    let mut text = format!(
        "landbridge {}, running for {}",
        status.version,
        seconds(status.uptime_seconds)
    );
    if status.half_open > 0 {
        write!(text, ", {} half-open", status.half_open)?;
    }
    text.push_str("\n\n");
    let mut rows = vec![["CONNECTION", "STATE", "PEER", "INTERFACE", "IN", "OUT"].map(str::to_owned)];
    for connection in &status.connections {
        let ike = connection
            .ike_sas
            .iter()
            .find(|ike| ike.peer.is_some())
            .or(connection.ike_sas.first());
        let peer = ike.map_or("-".to_owned(), |ike| match &ike.peer {
            Some(peer) => format!("{peer} ({})", ike.remote),
            None => ike.remote.clone(),
        });
        rows.push([
            connection.name.clone(),
            connection.state.to_string(),
            peer,
            connection.interface.clone(),
            octets(connection.bytes_in),
            octets(connection.bytes_out),
        ]);
    }
    let lines = columns(&rows);
    let mut lines = lines.iter();
    text.extend(lines.next().map(String::as_str));
    for (connection, line) in status.connections.iter().zip(lines) {
        text.push_str(line);
        write_details(&mut text, connection)?;
    }
    for warning in status
        .certificates
        .iter()
        .filter_map(|certificate| certificate.warning.as_ref())
    {
        writeln!(text, "warning: {warning}")?;
    }
    write_drops(&mut text, "dropped without a connection", &status.drops)?;
    Ok(text)
}

fn write_details(text: &mut String, connection: &ConnectionStatus) -> std::fmt::Result {
    for ike in &connection.ike_sas {
        write_ike(text, ike)?;
        for child in &ike.children {
            write_child(text, child)?;
        }
    }
    write_drops(text, "  dropped:", &connection.drops)?;
    if let Some(failure) = &connection.last_failure {
        write_failure(text, failure)?;
    }
    if let Some(wait) = connection.next_attempt_seconds {
        writeln!(text, "  next attempt in {}", seconds(wait))?;
    }
    Ok(())
}

/// By what: `x25519+mlkem768`, `PPK`, `x25519+mlkem768, PPK`, or `inherited`.
fn post_quantum(key_exchange: Option<&str>, ppk: bool) -> String {
    match (key_exchange, ppk) {
        (Some(words), true) => format!("{words}, PPK"),
        (Some(words), false) => words.to_owned(),
        (None, true) => "PPK".to_owned(),
        (None, false) => "inherited".to_owned(),
    }
}

fn write_ike(text: &mut String, ike: &IkeSaStatus) -> std::fmt::Result {
    write!(text, "  IKE SA {}-{} {}", ike.spi_i, ike.spi_r, ike.stage)?;
    if let Some(age) = ike.age_seconds {
        write!(text, " for {}", seconds(age))?;
    }
    if let Some(suite) = &ike.suite {
        write!(text, ", {suite}")?;
    }
    if ike.post_quantum {
        // An SA that was rekeyed without has it from the one before.
        let how = ike.key_exchange.as_deref().filter(|words| words.contains("mlkem"));
        write!(text, ", post-quantum: {}", post_quantum(how, ike.ppk))?;
    }
    if ike.resumed {
        text.push_str(", resumed");
    }
    if let Some(rekey) = ike.rekey_in_seconds {
        write!(text, ", rekey in {}", seconds(rekey))?;
    }
    let nat = match (ike.nat_local, ike.nat_remote) {
        (false, false) => "",
        (true, false) => ", we are behind a NAT",
        (false, true) => ", the peer is behind a NAT",
        (true, true) => ", both are behind a NAT",
    };
    text.push_str(nat);
    if let Some(why) = &ike.why_tcp {
        write!(text, ", over TCP{} ({why})", if ike.tls { " with TLS" } else { "" })?;
    }
    if let Some(from) = &ike.redirected_from {
        write!(text, ", sent there by {from}")?;
    }
    if let Some(exchange) = &ike.in_flight {
        write!(text, ", waiting for the answer to {exchange}")?;
    }
    text.push('\n');
    Ok(())
}

fn write_child(text: &mut String, child: &ChildSaStatus) -> std::fmt::Result {
    write!(text, "    {}", child.name)?;
    if let (Some(pair), Some(pairs)) = (child.pair, child.pairs) {
        write!(text, ", pair {pair} of {pairs}")?;
    }
    write!(text, ": {} === {}", child.local_ts.join(" "), child.remote_ts.join(" "))?;
    write!(text, ", {}", child.suite)?;
    if child.mode == "transport" {
        text.push_str(", transport mode");
    }
    if let Some(iptfs) = &child.iptfs {
        write!(
            text,
            ", IP-TFS ({iptfs}{})",
            child.iptfs_path.as_ref().map_or(String::new(), path)
        )?;
    }
    write!(text, ", for {}", seconds(child.age_seconds))?;
    if let Some(rekey) = child.rekey_in_seconds {
        write!(text, ", rekey in {}", seconds(rekey))?;
    }
    writeln!(text)?;
    for (way, spi, bytes, packets) in [
        ("in ", &child.spi_in, child.bytes_in, child.packets_in),
        ("out", &child.spi_out, child.bytes_out, child.packets_out),
    ] {
        writeln!(text, "      {way} {spi}  {}, {packets} packets", octets(bytes))?;
    }
    write_drops(text, "      dropped:", &child.drops)
}

/// What congestion control knows.
fn path(path: &IptfsPath) -> String {
    let rate = path
        .rate
        .map_or(String::new(), |rate| format!(", {:.1} Mbit/s", rate as f64 / 1e6));
    let rtt = path
        .rtt_seconds
        .map_or(String::new(), |rtt| format!(", RTT {:.0} ms", rtt * 1e3));
    format!(
        "{rate}{rtt}, loss events out {:.2}% in {:.2}%",
        path.loss_events_out * 1e2,
        path.loss_events_in * 1e2
    )
}

fn write_failure(text: &mut String, failure: &FailureStatus) -> std::fmt::Result {
    writeln!(
        text,
        "  failed {} ago with {}: {}",
        seconds(failure.age_seconds),
        failure.remote,
        failure.verdict
    )?;
    for (label, list) in [("offered", &failure.offered), ("wanted ", &failure.wanted)] {
        if !list.is_empty() {
            writeln!(text, "    {label}  {}", list.join(", "))?;
        }
    }
    if let Some(hint) = &failure.hint {
        writeln!(text, "    hint     {hint}")?;
    }
    Ok(())
}

fn write_drops(text: &mut String, label: &str, drops: &BTreeMap<String, u64>) -> std::fmt::Result {
    let list: Vec<String> = drops
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(cause, n)| format!("{cause} {n}"))
        .collect();
    if list.is_empty() {
        Ok(())
    } else {
        writeln!(text, "{label} {}", list.join(", "))
    }
}

/// Lines of equal columns.
fn columns<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        })
        .collect()
}

fn seconds(seconds: u64) -> String {
    duration(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::ConnectionState;

    #[test]
    fn the_table_tells_what_an_operator_asks() {
        let child = ChildSaStatus {
            name: "net".into(),
            spi_in: "0xc0000001".into(),
            spi_out: "0xc0000002".into(),
            suite: "aes256gcm16-x25519".into(),
            mode: "tunnel".into(),
            iptfs: Some("congestion".into()),
            iptfs_path: Some(IptfsPath {
                rate: Some(18_230_000),
                rtt_seconds: Some(0.0213),
                loss_events_out: 1.0 / 300.0,
                loss_events_in: 0.0,
            }),
            local_ts: vec!["10.1.0.0/24".into()],
            remote_ts: vec!["10.2.0.0/24".into()],
            age_seconds: 180,
            rekey_in_seconds: Some(3000),
            bytes_in: 1_200_000,
            packets_in: 812,
            ..ChildSaStatus::default()
        };
        let ike = IkeSaStatus {
            stage: "established".into(),
            spi_i: "0011223344556677".into(),
            spi_r: "8899aabbccddeeff".into(),
            remote: "203.0.113.7:4500".into(),
            peer: Some("cloud.example.com".into()),
            suite: Some("aes256gcm16-prfsha384-x25519".into()),
            nat_local: true,
            age_seconds: Some(180),
            children: vec![child],
            ..IkeSaStatus::default()
        };
        let up = ConnectionStatus {
            name: "cloud".into(),
            state: ConnectionState::Up,
            interface: "lb-cloud".into(),
            ike_sas: vec![ike],
            bytes_in: 1_200_000,
            drops: [("replayed".to_owned(), 3), ("integrity".to_owned(), 0)].into(),
            ..ConnectionStatus::default()
        };
        let failing = ConnectionStatus {
            name: "branch".into(),
            state: ConnectionState::Connecting,
            interface: "lb-branch".into(),
            last_failure: Some(FailureStatus {
                verdict: "no common proposal".into(),
                remote: "192.0.2.9:500".into(),
                offered: vec!["aes128-sha256-modp2048".into()],
                wanted: vec!["aes256gcm16-prfsha384-ecp384".into()],
                hint: Some("add the peer's proposal".into()),
                age_seconds: 20,
            }),
            next_attempt_seconds: Some(12),
            ..ConnectionStatus::default()
        };
        let status = Status {
            version: "0.1.0".into(),
            uptime_seconds: 200,
            connections: vec![failing, up],
            drops: [("unknown_spi".to_owned(), 7)].into(),
            ..Status::default()
        };
        let expected = "\
landbridge 0.1.0, running for 3m 20s

CONNECTION  STATE       PEER                                  INTERFACE  IN      OUT
branch      connecting  -                                     lb-branch  0 B     0 B
  failed 20s ago with 192.0.2.9:500: no common proposal
    offered  aes128-sha256-modp2048
    wanted   aes256gcm16-prfsha384-ecp384
    hint     add the peer's proposal
  next attempt in 12s
cloud       up          cloud.example.com (203.0.113.7:4500)  lb-cloud   1.2 MB  0 B
  IKE SA 0011223344556677-8899aabbccddeeff established for 3m, aes256gcm16-prfsha384-x25519, we are behind a NAT
    net: 10.1.0.0/24 === 10.2.0.0/24, aes256gcm16-x25519, IP-TFS (congestion, 18.2 Mbit/s, RTT 21 ms, loss events out 0.33% in 0.00%), for 3m, rekey in 50m
      in  0xc0000001  1.2 MB, 812 packets
      out 0xc0000002  0 B, 0 packets
  dropped: replayed 3
dropped without a connection unknown_spi 7
";
        assert_eq!(table(&status).unwrap(), expected);
    }
}
