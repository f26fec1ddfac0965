//! News in words: one line for the log, the verdict first.

use landbridge_proto::ike::{ChildUp, Failure, IkeUp};
use landbridge_proto::policy::sad::{Encapsulation, Path};
use landbridge_proto::wire::TrafficSelector;

/// `IKE SA 0123...-4567... is up with office.example.com (203.0.113.7:4500) in 12ms, ...`.
#[must_use]
pub fn ike_up(up: &IkeUp) -> String {
    let how = match (up.rekeyed_from, up.initiator) {
        (Some(old), _) => format!("replaces {old}"),
        (None, true) if up.resumed => "we resumed it".to_owned(),
        (None, false) if up.resumed => "the peer resumed it".to_owned(),
        (None, true) => "we began it".to_owned(),
        (None, false) => "the peer began it".to_owned(),
    };
    let nat = match (up.nat.local, up.nat.remote && !up.nat.pretended) {
        (false, false) => "no NAT seen",
        (true, false) => "we are behind a NAT",
        (false, true) => "the peer is behind a NAT",
        (true, true) => "both are behind a NAT",
    };
    let esp = match up.encapsulation {
        Encapsulation::Udp => "ESP in UDP".to_owned(),
        Encapsulation::Raw => "ESP without UDP".to_owned(),
        Encapsulation::Tcp => format!("IKE and ESP over TCP ({})", up.why_tcp.unwrap_or_default()),
    };
    let ppk = if up.ppk { "with a PPK, " } else { "" };
    let quantum = match (up.post_quantum, up.suite.is_post_quantum()) {
        (true, true) => format!("post-quantum: {}, {ppk}", up.suite.key_exchange()),
        (true, false) if up.ppk => format!("post-quantum: {ppk}"),
        (true, false) => "post-quantum: inherited, ".to_owned(),
        (false, _) => String::new(),
    };
    format!(
        "IKE SA {}-{} is up with {} ({}) in {} ms: {}, {quantum}{nat}, {esp}, {how}",
        up.spi_i,
        up.spi_r,
        up.peer,
        up.path.remote,
        up.setup_time.as_millis(),
        up.suite,
    )
}

/// `moved from 192.0.2.1:4500 - 198.51.100.2:4500 to ...: our address 192.0.2.1 is gone`.
#[must_use]
pub fn moved(from: &Path, to: &Path, reason: &str) -> String {
    let over = |path: &Path| if path.is_tcp() { " over TCP" } else { "" };
    format!(
        "moved from {} - {}{} to {} - {}{}: {reason}",
        from.local,
        from.remote,
        over(from),
        to.local,
        to.remote,
        over(to)
    )
}

/// `Child SA net is up: 10.1.0.0/16 === 10.2.0.0/16, tunnel mode, aes256gcm16, SPIs in 0x... out 0x...`.
#[must_use]
pub fn child_up(up: &ChildUp) -> String {
    let how = if up.rekeyed_from.is_some() {
        "is rekeyed"
    } else {
        "is up"
    };
    let which = up
        .pair
        .map_or(String::new(), |(pair, pairs)| format!(" (pair {pair} of {pairs})"));
    format!(
        "Child SA {}{which} {how}: {} === {}, {} mode{}, {}, SPIs in {:#010x} out {:#010x}",
        up.child,
        selectors(&up.local_ts),
        selectors(&up.remote_ts),
        up.mode,
        up.iptfs
            .map_or(String::new(), |mode| format!(" with IP-TFS ({})", mode.name())),
        up.suite,
        up.spis.0,
        up.spis.1,
    )
}

/// The verdict, then what was offered, what was wanted and what to do.
#[must_use]
pub fn failure(failure: &Failure) -> String {
    let mut text = format!("{} ({})", failure.verdict, failure.path.remote);
    for (label, list) in [("offered", &failure.offered), ("wanted", &failure.wanted)] {
        if !list.is_empty() {
            text.push_str(&format!("; {label}: {}", list.join(", ")));
        }
    }
    if let Some(hint) = &failure.hint {
        text.push_str(&format!("; hint: {hint}"));
    }
    text
}

/// A list of selectors for people.
#[must_use]
pub fn selectors(list: &[TrafficSelector]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
