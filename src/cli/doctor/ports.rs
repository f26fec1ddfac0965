//! Who holds the UDP ports, and those where TCP is listened for.

use super::Finding;
use std::collections::BTreeMap;
use std::fs;

/// Each port: free, ours, or held by another.
pub(super) fn udp(ports: &[u16]) -> Vec<Finding> {
    examine("UDP", ["/proc/net/udp", "/proc/net/udp6"], None, ports)
}

/// The same of TCP, by listeners.
pub(super) fn tcp(ports: &[u16]) -> Vec<Finding> {
    examine("TCP", ["/proc/net/tcp", "/proc/net/tcp6"], Some(LISTEN), ports)
}

/// The state of a listener in these tables: the kernel's TCP_LISTEN.
const LISTEN: &str = "0A";

fn examine(protocol: &str, tables: [&str; 2], state: Option<&str>, ports: &[u16]) -> Vec<Finding> {
    let tables = tables.map(|path| fs::read_to_string(path).unwrap_or_default());
    let mut bound: Vec<(u16, u64)> = tables.iter().flat_map(|table| sockets(table, state)).collect();
    bound.retain(|(port, _)| ports.contains(port));
    let holders = if bound.is_empty() { BTreeMap::new() } else { holders() };
    let judge = |port: &u16| judge(protocol, *port, &bound, &holders);
    ports.iter().map(judge).collect()
}

/// A process.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Holder {
    pid: u32,
    name: String,
}

fn judge(protocol: &str, port: u16, bound: &[(u16, u64)], holders: &BTreeMap<u64, Holder>) -> Finding {
    let subject = format!("{protocol} {port}");
    let inodes: Vec<u64> = bound
        .iter()
        .filter(|(p, _)| *p == port)
        .map(|(_, inode)| *inode)
        .collect();
    if inodes.is_empty() {
        return Finding::ok(&subject, "is free");
    }
    match inodes.iter().find_map(|inode| holders.get(inode)) {
        Some(holder) if holder.name == "landbridge" => Finding::ok(
            &subject,
            format!("is held by landbridge itself (process {})", holder.pid),
        ),
        Some(Holder { pid, name }) => Finding::fail(
            &subject,
            format!("is held by {name} (process {pid})"),
            format!("stop {name}: only one of you can have it"),
        ),
        None => Finding::fail(
            &subject,
            "is held by a process that can't be seen from here",
            format!("look as root: ss -tulnp 'sport = :{port}'"),
        ),
    }
}

/// Port and inode of each socket (in this state, if one is given) in `/proc/net/udp` or `tcp`: `sl local_address rem_address st ... uid timeout inode ...`.
fn sockets(table: &str, state: Option<&str>) -> Vec<(u16, u64)> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if state.is_some_and(|state| fields.get(3) != Some(&state)) {
            return None;
        }
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        Some((u16::from_str_radix(port, 16).ok()?, fields.get(9)?.parse().ok()?))
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// Which process has which socket open, as far as we may see.
fn holders() -> BTreeMap<u64, Holder> {
    let mut found = BTreeMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        for fd in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(fd.path()) else { continue };
            let Some(inode) = target.to_str().and_then(socket_inode) else {
                continue;
            };
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.entry(inode).or_insert(Holder {
                pid,
                name: name.trim().to_owned(),
            });
        }
    }
    found
}

fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    const TABLE: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  503: 0100007F:01F4 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 0
";

    #[test]
    fn the_holder_is_named() {
        let bound = sockets(TABLE, None);
        assert_eq!(bound, [(500, 4711)]);
        let holder = |name: &str| {
            [(
                4711,
                Holder {
                    pid: 9,
                    name: name.to_owned(),
                },
            )]
            .into()
        };
        let by_charon = judge("UDP", 500, &bound, &holder("charon"));
        assert!(by_charon.verdict == Verdict::Fail && by_charon.detail.contains("charon (process 9)"));
        assert_eq!(judge("UDP", 500, &bound, &holder("landbridge")).verdict, Verdict::Ok);
        assert_eq!(judge("UDP", 500, &bound, &BTreeMap::new()).verdict, Verdict::Fail);
        assert_eq!(judge("UDP", 4500, &bound, &BTreeMap::new()).verdict, Verdict::Ok);
    }

    #[test]
    fn a_real_socket_is_found() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp_port = listener.local_addr().unwrap().port();
        for finding in [&udp(&[port])[0], &tcp(&[tcp_port])[0]] {
            assert!(
                finding.detail.contains(&format!("process {}", std::process::id())),
                "{finding:?}"
            );
        }
    }
}
