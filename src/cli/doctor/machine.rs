//! The TUN device, privileges and the kernel's settings.

use super::Finding;
use crate::config::Configuration;
use landbridge_proto::wire::TrafficSelector;
use std::fs;
use std::io;
use std::path::Path;

/// Numbers of linux/capability.h.
const CAP_NET_BIND_SERVICE: u32 = 10;
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

/// `/dev/net/tun` is there and can be opened. Opening it alone makes no interface.
pub(super) fn tun(path: &Path) -> Finding {
    let subject = path.display().to_string();
    match fs::OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Finding::ok(&subject, "can be opened"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::fail(
            &subject,
            "is not there",
            "modprobe tun; in a container, hand the device in (docker run --device /dev/net/tun)",
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Finding::fail(
            &subject,
            error.to_string(),
            "be root, or let the service have it (DeviceAllow=/dev/net/tun rw; docker run --device /dev/net/tun)",
        ),
        Err(error) => Finding::fail(&subject, error.to_string(), "modprobe tun"),
    }
}

/// What this process may do, which is what the daemon could when started like it.
pub(super) fn capabilities(lowest_port: u16, raw: bool) -> Vec<Finding> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let unprivileged = read_number("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or(1024);
    judge_capabilities(&status, u64::from(lowest_port) < unprivileged, raw)
}

fn judge_capabilities(status: &str, low_port: bool, raw: bool) -> Vec<Finding> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let mut findings = Vec::new();
    for (number, name, what, needed) in [
        (CAP_NET_ADMIN, "CAP_NET_ADMIN", "to make interfaces and routes", true),
        (
            CAP_NET_BIND_SERVICE,
            "CAP_NET_BIND_SERVICE",
            "to bind UDP 500",
            low_port,
        ),
        (
            CAP_NET_RAW,
            "CAP_NET_RAW",
            "for ESP without UDP (encap = \"auto\")",
            raw,
        ),
    ] {
        let have = effective >> number & 1 == 1;
        findings.push(match (have, needed) {
            (true, _) => Finding::ok(name, "is there"),
            (false, false) => Finding::ok(name, "is not there, and not needed"),
            (false, true) => Finding::fail(
                name,
                format!("is missing: it takes it {what}"),
                format!(
                    "be root, or run the service with AmbientCapabilities={name} (docker run --cap-add {})",
                    &name[4..]
                ),
            ),
        });
    }
    findings
}

/// Whether the kernel passes packets on between the networks, for the families that the selectors have.
pub(super) fn forwarding(configuration: Option<&Configuration>) -> Vec<Finding> {
    let selectors = configuration.into_iter().flat_map(|c| c.ike.connections.values());
    let selectors = selectors
        .flat_map(|c| c.children.values())
        .flat_map(|child| &child.remote_ts);
    let ipv6 = selectors
        .into_iter()
        .any(|ts| matches!(ts, TrafficSelector::Range { start, .. } if start.is_ipv6()));
    let mut findings = vec![forwarding_of("net.ipv4.ip_forward")];
    if ipv6 {
        findings.push(forwarding_of("net.ipv6.conf.all.forwarding"));
    }
    findings
}

fn forwarding_of(setting: &str) -> Finding {
    match read_number(&format!("/proc/sys/{}", setting.replace('.', "/"))) {
        Some(0) => Finding::warn(
            setting,
            "is 0: only this machine itself can use the tunnels, not the networks behind it",
            format!("sysctl -w {setting}=1, and for good in /etc/sysctl.d/"),
        ),
        Some(value) => Finding::ok(setting, format!("is {value}")),
        None => Finding::warn(setting, "can't be read", "look with sysctl"),
    }
}

/// Strict reverse path filtering drops what comes out of a tunnel unless the route back is the same.
pub(super) fn reverse_path(configuration: Option<&Configuration>) -> Finding {
    let read = |name: &str| read_number(&format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).unwrap_or(0);
    let around = configuration.is_some_and(|c| c.tunnels.values().any(|tunnel| tunnel.policy_routing));
    let interfaces = fs::read_dir("/proc/sys/net/ipv4/conf").into_iter().flatten().flatten();
    let strict = interfaces
        .filter_map(|entry| entry.file_name().into_string().ok())
        .find(|name| !matches!(name.as_str(), "all" | "default" | "lo") && read("all").max(read(name)) == 1);
    judge_reverse_path(read("all"), read("default"), strict.filter(|_| around).as_deref())
}

/// `strict`: an interface that the encrypted packets of a tunnel to the peer's own address may come in by.
fn judge_reverse_path(all: u64, default: u64, strict: Option<&str>) -> Finding {
    const SUBJECT: &str = "net.ipv4.conf.*.rp_filter";
    // The larger of "all" and the interface's own counts; a new interface takes "default" (ip-sysctl).
    match all.max(default) {
        _ if strict.is_some() => Finding::fail(
            SUBJECT,
            format!(
                "strict on {}: the encrypted packets of a peer whose own address lies behind its tunnel are dropped, because \
                 the way back leads into the tunnel",
                strict.unwrap_or_default()
            ),
            "sysctl -w net.ipv4.conf.all.rp_filter=2 (loose), and for good in /etc/sysctl.d/",
        ),
        0 => Finding::ok(SUBJECT, "off"),
        1 => Finding::warn(
            SUBJECT,
            "strict: packets from a tunnel are dropped without a word unless the way back leads into the same tunnel",
            "sysctl -w net.ipv4.conf.all.rp_filter=2 (loose), if you have more than one way to a network",
        ),
        _ => Finding::ok(SUBJECT, "loose"),
    }
}

fn read_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_missing_device_is_named() {
        let finding = tun(Path::new("/nonexistent/tun"));
        assert!(finding.verdict == Verdict::Fail && finding.remedy.unwrap().contains("modprobe tun"));
    }

    #[test]
    fn capabilities_are_read_from_the_mask() {
        let verdicts = |mask: &str, low, raw| {
            let findings = judge_capabilities(&format!("Name:\tx\nCapEff:\t{mask}\n"), low, raw);
            findings.iter().map(|f| f.verdict).collect::<Vec<_>>()
        };
        let (ok, fail) = (Verdict::Ok, Verdict::Fail);
        assert_eq!(verdicts("000001ffffffffff", true, true), [ok, ok, ok]);
        assert_eq!(verdicts("0000000000001400", true, false), [ok, ok, ok]);
        assert_eq!(verdicts("0000000000001000", true, false), [ok, fail, ok]);
        assert_eq!(verdicts("0000000000001000", false, false), [ok, ok, ok]);
        assert_eq!(verdicts("0000000000001400", true, true), [ok, ok, fail]);
        assert_eq!(verdicts("0000000000000000", true, true), [fail, fail, fail]);
    }

    #[test]
    fn the_stricter_reverse_path_filter_counts() {
        assert_eq!(judge_reverse_path(0, 0, None).verdict, Verdict::Ok);
        assert_eq!(judge_reverse_path(0, 1, None).verdict, Verdict::Warn);
        assert_eq!(judge_reverse_path(2, 1, None).verdict, Verdict::Ok);
        assert_eq!(judge_reverse_path(0, 0, Some("eth0")).verdict, Verdict::Fail);
    }
}
